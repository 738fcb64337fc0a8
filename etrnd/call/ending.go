package call

import (
	"errors"

	"github.com/etrnd/etrnd/internal/api"
)

// Why a line and its calls end before their time. They are causes of contexts.
var (
	errLinkDown = errors.New("the link went down")
	errHungUp   = errors.New("the line was hung up by an operator")
	errShutdown = errors.New("etrnd was stopped")
)

// standing is all that the end of a line depends on.
type standing struct {
	command bool // the link has a command to hang up
	ordered bool // an operator has said so
	latest  bool // no other line of the link has come up since
	state   api.LinkState
	active  int   // calls under way
	why     error // why the line ended before its time; nil: it did not
	untried bool  // it was not dialled, since that would have been of no use
}

// step is what becomes of a line.
type step int

const (
	goOn   step = iota // calls are under way
	leave              // nothing is to be done: it is down, or is another's
	forgo              // it may be up, and is not used any more until somebody says that it is
	hangUp             // run the command
)

// next says what becomes of a line that has nothing to do.
func (s standing) next() step {
	switch {
	case s.active > 0:
		return goOn
	case s.ordered && s.command:
		return hangUp
	case s.ordered:
		return forgo
	case !s.latest || s.state != api.LinkUp:
		return leave
	case !s.command:
		return forgo
	case s.notOurs():
		return leave
	}
	return hangUp
}

// undialled says what becomes of a line that did not come up.
func (s standing) undialled() step {
	if s.command && (s.ordered || !s.untried) && (s.ordered || !errors.Is(s.why, errShutdown)) {
		// It may be coming up still, and nobody would use it.
		return hangUp
	}
	return forgo
}

// keeps tells whether a call that has ended is filed after the line was hung
// up, so that whoever watches sees it go down. That is the last one.
func (s standing) keeps() bool {
	return s.active == 0 && s.command && !s.notOurs()
}

// notOurs tells whether a line has ended in a way that leaves nothing for a
// call to hang up.
func (s standing) notOurs() bool {
	return errors.Is(s.why, errLinkDown) || errors.Is(s.why, errHungUp) || errors.Is(s.why, errShutdown)
}

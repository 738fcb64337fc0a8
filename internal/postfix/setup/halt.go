package setup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Halt is the error of an Apply that did not come to its end. It tells how
// everything stands.
type Halt struct {
	Err error // why
	// State says in sentences which files are in which state, and what Postfix
	// goes by.
	State []string
	Do    string // what to type
	// Again is set where nothing is wrong with the set-up itself: what has
	// failed can be mended without a change of the configuration.
	Again bool
}

func (h *Halt) Error() string {
	return fmt.Sprintf("%v; %s", h.Err, strings.Join(h.State, "; "))
}

func (h *Halt) Unwrap() error { return h.Err }

// command is what does again what the plan was to do.
func (pl *Plan) command() string {
	what := " --apply"
	if pl.undo {
		what = " --undo"
	}
	switch {
	case len(pl.req.LetGo) > 0:
		what += " --let-go " + strings.Join(pl.req.LetGo, " --let-go ")
	case pl.req.Held != "" && pl.req.Held != HeldKeep:
		what += " --held " + string(pl.req.Held)
	}
	return "etrnctl setup postfix" + what
}

// again is what to do when the reason is gone.
func (pl *Plan) doAgain(err error) string {
	switch {
	case errors.Is(err, errOvertaken), errors.Is(err, errUnderWay):
		return "look at a new plan: etrnctl setup postfix"
	case errors.Is(err, context.Canceled):
		return "to go on: " + pl.command()
	case errors.Is(err, fs.ErrPermission):
		return "as root, or with that mended: " + pl.command()
	}
	return "when that is mended: " + pl.command()
}

const nothingChanged = "nothing has been changed"

// unchanged is a Halt before the first change.
func (pl *Plan) unchanged(err error) error {
	// What a command of Postfix refuses, such as a main.cf that it cannot read, it
	// will refuse again.
	var refused *exec.ExitError
	again := !errors.As(err, &refused) || Exhausted(err)
	return &Halt{Err: fmt.Errorf("set up Postfix: %w", err), State: []string{nothingChanged}, Do: pl.doAgain(err), Again: again}
}

// errUnderWay says that somebody else is at it.
var errUnderWay = errors.New("is under way")

// Exhausted reports whether an error comes from a machine that is out of room or
// out of order, and so is no fault of a configuration.
func Exhausted(err error) bool {
	return slices.ContainsFunc([]error{
		syscall.ENOSPC, syscall.EDQUOT, syscall.EROFS, syscall.EIO, syscall.ENOMEM, syscall.EMFILE, syscall.ENFILE, syscall.EAGAIN,
		context.DeadlineExceeded,
	}, func(e error) bool { return errors.Is(err, e) })
}

// takeBack puts the old files back, and has Postfix go by them: with what is to
// come still deferred first, and then without.
func (w *work) takeBack(why error, told int) error {
	h := &Halt{Err: fmt.Errorf("set up Postfix: %w", why), Again: true, Do: w.pl.doAgain(why)}
	var not *notPassed
	if errors.As(why, &not) {
		h.Err, h.Again, h.Do = fmt.Errorf("the new set-up does not pass: %w", not.error), Exhausted(not), "mend what Postfix says, then: "+w.pl.command()
	}
	if len(w.done) == 0 {
		return w.pl.unchanged(why)
	}
	// Who has interrupted this wants an end of it, but not in the middle.
	ctx, cancel := context.WithTimeout(context.Background(), backIn)
	defer cancel()
	err := error(nil)
	if told > 0 && len(w.done) > told {
		if err = w.putBack(told); err == nil {
			err = w.pl.reload(ctx)
		}
	}
	var untold error
	seen := false
	if err == nil {
		seen = told > 0 || w.tell && len(w.done) > len(w.begun)
		if err = w.putBack(0); err == nil && seen {
			untold = w.pl.reload(ctx)
		}
	}
	switch left := w.standing(); {
	case len(left) > 0:
		h.State = append(h.State, fmt.Sprintf("not all of the old files could be put back (%v): these are new, %s", err, some(left, 20)))
		// Every state on the way is one that Postfix can be in.
		switch {
		case !w.pl.running:
		case told > 0:
			h.State = append(h.State, "Postfix has been told of some of them; what is held stays held")
		default:
			h.State = append(h.State, "Postfix has been told of none of them, but its programs read them when they start; what is held stays held")
		}
		h.Do = "when that is mended: " + w.pl.command()
		if !w.pl.undo {
			h.Do += ", or --undo"
		}
	case err != nil && len(w.done) > 0:
		h.State = append(h.State, fmt.Sprintf("the old files are back, but for the record of the set-up (%v)", err))
	case err != nil || untold != nil:
		h.State = append(h.State, fmt.Sprintf("the old files are back, and Postfix could not be told (%v)", errors.Join(err, untold)))
		h.Do = "run: postfix reload; then " + w.pl.command()
	case seen && w.pl.running:
		h.State = append(h.State, "the old files are back, and Postfix goes by them")
	default:
		h.State = append(h.State, "the old files are back")
	}
	return h
}

// backIn bounds putting everything back.
const backIn = 3 * time.Minute

// halfDone is a Halt behind the point of no return.
func (w *work) halfDone(why error) error {
	open := map[string]bool{}
	var names []string
	for _, p := range slices.Concat(w.late, w.narrow, w.last, w.gone, w.ended) {
		if !slices.ContainsFunc(w.done, func(d piece) bool { return d.path == p.path && d.file == p.file }) && !open[p.path] {
			open[p.path] = true
			names = append(names, p.path)
		}
	}
	h := &Halt{Err: fmt.Errorf("set up Postfix: %w", why), Again: true, Do: w.pl.doAgain(why)}
	if errors.Is(why, errOvertaken) {
		h.Do = w.pl.command()
	}
	h.State = []string{"Postfix goes by the new files already, and what is held stays held"}
	if len(names) > 0 {
		h.State = append(h.State, "not done yet: "+strings.Join(names, ", "))
	}
	return h
}

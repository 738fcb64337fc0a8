package setup

import (
	"slices"

	"github.com/etrnd/etrnd/internal/postfix/conffile"
)

// Mail is held as long as qmgr(8) defers every transport that some process of
// trivial-rewrite(8) may route it to. qmgr(8) reads defer_transports when it
// starts, which is at a reload. A process of trivial-rewrite(8) may start at any
// moment, and then goes by the files as they are; and one that runs notices a
// changed table when it looks. So a transport of ours is deferred, and known to
// the queue manager, before a table can name it, and stays so until no process
// can have that from a table any more. What lies between the files as they are
// and as they are to be is computed here.

// heldList is the setting that makes Postfix hold.
const heldList = "defer_transports"

// stand is what the two files are at one time, with what of it is ours.
type stand struct {
	main, master conffile.File
	contents
}

func standOf(main, master conffile.File, c contents) stand {
	c.After = textsOf(sum(main.Text), sum(master.Text))
	return stand{main, master, c}
}

func (s stand) deferred() []string { return (&record{contents: s.contents}).list(heldList).Elements }

// course is the way from the files as they are to what they are to be.
type course struct {
	now stand
	// wide is now, with the services of what is to come, and with its transports
	// deferred.
	wide stand
	// both is final, with the transports that are to go still there and deferred.
	both  stand
	final stand
}

// courseTo plans the way. def is what defer_transports is where main.cf does not
// say.
func courseTo(now, final stand, def string) course {
	c := course{now: now, wide: now, both: final, final: final}
	c.wide.hold(final.deferred(), def)
	c.wide.serve(final.Entries, func(conffile.Service) bool { return true })
	c.both.hold(now.deferred(), def)
	c.both.serve(now.Entries, func(s conffile.Service) bool { return slices.Contains(now.deferred(), s.Name) })
	c.wide = standOf(c.wide.main, c.wide.master, c.wide.contents)
	c.both = standOf(c.both.main, c.both.master, c.both.contents)
	return c
}

// hold defers transports of ours.
func (s *stand) hold(names []string, def string) {
	added := listRecord{Name: heldList}
	for _, name := range names {
		if conffile.Index(s.main.List(heldList), name) >= 0 {
			continue
		}
		if !s.main.Has(heldList) {
			added.Default = &def
			s.main.Set(heldList, def)
		}
		s.main.Add(heldList, name, false)
		added.Elements = append(added.Elements, name)
	}
	if len(added.Elements) > 0 {
		s.Lists = joinLists(s.Lists, []listRecord{added})
	}
}

// serve has entries of ours in master.cf that are not there.
func (s *stand) serve(entries []string, which func(conffile.Service) bool) {
	for _, text := range entries {
		e, _ := conffile.ParseService(text)
		if _, there := s.master.Service(e.Name, e.Type); !there && which(e) {
			s.master.Append(text)
			s.Entries = append(slices.Clone(s.Entries), text)
		}
	}
}

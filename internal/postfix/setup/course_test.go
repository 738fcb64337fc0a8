package setup

import (
	"strings"
	"testing"

	"github.com/etrnd/etrnd/internal/postfix/conffile"
)

// What lies between: whatever the old files or the new ones route to is deferred,
// and has its service.
func TestCourse(t *testing.T) {
	text := func(name string) string { return heldService{name: name, program: "smtp"}.entry() }
	at := func(own string, deferred ...string) stand {
		s := stand{main: conffile.File{Text: "a = b\n"}, master: conffile.File{Text: "smtp unix - - n - - smtp\n"}}
		if own != "" {
			s.main.Set(heldList, own)
		}
		s.hold(deferred, "")
		for _, name := range deferred {
			s.serve([]string{text(name)}, func(conffile.Service) bool { return true })
		}
		return standOf(s.main, s.master, s.contents)
	}
	for name, c := range map[string]struct {
		now, final      stand
		wide, both, own string // own is the postmaster's
	}{
		"first":   {at(""), at("", "transient"), "transient", "transient", ""},
		"more":    {at("", "transient"), at("", "transient", "transient-turn"), "transient transient-turn", "transient transient-turn", ""},
		"less":    {at("", "transient", "transient-turn"), at("", "transient"), "transient transient-turn", "transient transient-turn", ""},
		"renamed": {at("", "transient"), at("", "held"), "transient held", "held transient", ""},
		"undone":  {at("", "transient"), at(""), "transient", "transient", ""},
		"beside":  {at("uucp", "transient"), at("uucp"), "uucp transient", "uucp transient", "uucp"},
		"same":    {at("uucp", "transient"), at("uucp", "transient"), "uucp transient", "uucp transient", "uucp"},
	} {
		t.Run(name, func(t *testing.T) {
			got := courseTo(c.now, c.final, "")
			for what, s := range map[string]struct {
				stand
				want string
			}{"wide": {got.wide, c.wide}, "both": {got.both, c.both}} {
				if d := strings.Join(s.main.List(heldList), " "); d != s.want {
					t.Errorf("%s defers %q, want %q", what, d, s.want)
				}
				for _, name := range s.deferred() {
					if _, ok := s.master.Service(name, "unix"); !ok {
						t.Errorf("%s has no service %s", what, name)
					}
				}
				// And from there it is found back, byte for byte.
				r := &record{Before: textsOf("a = b\n", "smtp unix - - n - - smtp\n"), contents: got.final.contents, Stages: []contents{got.now.contents, got.wide.contents, got.both.contents}}
				r.settle(s.main, s.master)
				if strings.HasPrefix(s.want, "uucp") {
					r.Before["main.cf"] += heldList + " = uucp\n"
				}
				if main, master, said := r.undone(s.main, s.master); main != r.Before["main.cf"] || master != r.Before["master.cf"] || len(said) > 0 {
					t.Errorf("%s, undone: %q %q %q", what, main, master, said)
				}
				// Or element by element, if somebody has edited the files.
				r = &record{Before: textsOf("", ""), contents: got.final.contents, Stages: []contents{got.now.contents, got.wide.contents, got.both.contents}}
				main, master := conffile.File{Text: s.main.Text + "c = d\n"}, conffile.File{Text: s.master.Text + "x unix - - n - - smtp\n"}
				r.settle(main, master)
				was := conffile.File{}
				was.Text, _, _ = r.undone(main, master)
				if own := strings.Join(was.List(heldList), " "); own != c.own {
					t.Errorf("%s, edited and undone: %q", what, own)
				}
			}
		})
	}
}

package etrnd

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/etrnd/etrnd/internal/api"
	"github.com/etrnd/etrnd/internal/queue"
	"github.com/etrnd/etrnd/internal/report"
)

// Whoever misspells a name is told so, also where a queue of "*" takes any name
// for a domain.
func TestReleaseOfWhatIsNot(t *testing.T) {
	s := newSite(t)
	const everything = "[[queue]]\nname = \"rest\"\ndomains = [\"*\"]\ndeliver = \"smtp:[127.0.0.1]:9\"\n"
	s.write(siteConfig + everything)
	s.load()
	b := backend{s.Daemon}
	s.report(report.Event{Kind: report.Message, Time: time.Now(), QueueID: "A", Recipients: []string{"u@far.example"}, Size: 100})
	for _, c := range []struct {
		name     string
		exit     int
		messages int
		note     string
	}{
		{"TYPO", api.ExitUsage, 0, ""}, // no domain has one label
		{"#TYPO", api.ExitUsage, 0, ""},
		{"a b", api.ExitUsage, 0, ""},
		{"acme.exampel", 0, 0, `no queue goes by the name "acme.exampel", and nothing is held for such a domain; queues: acme, rest`},
		{"@acme.exampel", 0, 0, `no queue goes by the name "@acme.exampel", and nothing is held for such a domain; queues: acme, rest`},
		// These are there, and nothing is in them.
		{"acme.example", 0, 0, ""},
		{"@acme.example", 0, 0, ""},
		{"acme", 0, 0, ""},
		{"far.example", 0, 1, ""},
		{"rest", 0, 0, ""}, // it goes when a listing has shown it
	} {
		got, err := b.Release(t.Context(), c.name)
		var refused *api.Error
		switch {
		case c.exit != 0:
			if !errors.As(err, &refused) || refused.Exit != c.exit || !strings.Contains(refused.Hint, "acme, rest") {
				t.Errorf("%q: %v, %+v", c.name, got, err)
			}
		case err != nil || len(got) == 0 || got[len(got)-1].Messages != c.messages || got[len(got)-1].Note != c.note:
			t.Errorf("%q: %+v, %v", c.name, got, err)
		}
	}
}

// What is delivered over the connection of a site goes when there is one, and a
// release without it would be a failure for each message.
func TestReleaseWithoutSite(t *testing.T) {
	s := newSite(t)
	s.write(siteConfig + "[[queue]]\nname = \"berg\"\ndomains = [\"berg.example\"]\ndeliver = \"turn\"\nusers = [\"berg\"]\n")
	s.load()
	b := backend{s.Daemon}
	s.report(report.Event{Kind: report.Message, Time: time.Now(), QueueID: "A", Recipients: []string{"u@berg.example"}, Size: 100})
	for _, name := range []string{"berg", "#berg", "berg.example"} {
		got, err := b.Release(t.Context(), name)
		if refused, ok := errors.AsType[*api.Error](err); !ok || refused.Exit != api.ExitTempFail || !strings.Contains(err.Error(), `the site of queue "berg" is not connected`) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	if st, _ := s.hold.State("berg"); st.UnderWay > 0 {
		t.Errorf("under way: %d", st.UnderWay)
	}
	defer s.hold.Pin(queue.Selection{Queue: "berg"})() // as a turned connection does
	if _, err := b.Release(t.Context(), "berg"); err != nil {
		t.Error(err)
	}
}

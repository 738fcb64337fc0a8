package deliver

import (
	"slices"
	"testing"

	"github.com/etrnd/etrnd/internal/queue"
)

// Who may not have a queue any more gets no more of it, over a connection that he
// had turned before either. What he has in full counts.
func TestForbidden(t *testing.T) {
	b := newBench(t, Options{})
	b.hold.add("acme", 2)
	held, let := make(chan struct{}), make(chan struct{})
	s := &site{offers: []string{"PIPELINING", "CHUNKING"}, reply: func(_ *site, c string) string {
		if c == "END" {
			close(held)
			<-let
		}
		return ""
	}}
	far, near := tcp(t)
	end := b.turn(t.Context(), near, "acme")
	go s.serve(far)
	first := make(chan []int, 1)
	l := letter{from: "s@x.example", to: []string{"a@acme.example"}, body: lines("x", 100)}
	go func() { first <- b.deliver("acme", l) }()
	<-held
	r := b.raw(t, "acme")
	r.keywords()
	q, _ := b.hold.set.ByName("acme")
	q.Users = []string{"both"}
	set, err := queue.NewSet([]queue.Queue{q})
	if err != nil {
		t.Fatal(err)
	}
	b.hold.mu.Lock()
	b.hold.set = set
	b.hold.mu.Unlock()
	// Nobody has told of it yet.
	if codes := r.send("<s@x.example>", []string{"<b@acme.example>"}, "Subject: x\r\n\r\n"); !slices.Equal(codes, []int{450}) {
		t.Errorf("after the change the MTA was told %v", codes)
	}
	r.ask("QUIT")
	b.hold.add("acme", 0)
	until(t, "the turn to be ending", func() bool {
		turned := b.agent.holder("acme")
		turned.mu.Lock()
		defer turned.mu.Unlock()
		return turned.closing
	})
	close(let)
	if codes := <-first; codes[0] != 250 {
		t.Errorf("what was on the line: %v", codes)
	}
	if err := <-end; err != nil {
		t.Error(err)
	}
	if said := s.said(); said[len(said)-1] != "QUIT" {
		t.Errorf("the last command was %q", said[len(said)-1])
	}
}

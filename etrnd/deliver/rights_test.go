package deliver

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/etrnd/etrnd/internal/queue"
)

// setOf makes a set of turn queues, "name user pattern ...".
func setOf(t *testing.T, queues ...string) *queue.Set {
	t.Helper()
	var list []queue.Queue
	for _, text := range queues {
		words := strings.Fields(text)
		q := queue.Queue{Name: words[0], Users: []string{words[1]}, Deliver: queue.Deliver{Turn: true}}
		for _, d := range words[2:] {
			p, err := queue.ParsePattern(d)
			if err != nil {
				t.Fatal(err)
			}
			q.Domains = append(q.Domains, p)
		}
		list = append(list, q)
	}
	set, err := queue.NewSet(list)
	if err != nil {
		t.Fatal(err)
	}
	return set.With(queue.Env{Delimiters: "+"})
}

func (k *counter) use(set *queue.Set) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.set = set
}

// The MTA's tables lead here what is another's by the configuration in force. It
// stays with the MTA, and all that is the site's comes through, in each spelling.
func TestAnothersMail(t *testing.T) {
	b := newBench(t, Options{})
	const mine = "acme acme acme.example .acme.example moved.example dropped.example bücher.example"
	b.hold.use(setOf(t, mine, "beta beta beta.example", "gamma acme gamma.example"))
	b.hold.add("acme", 1)
	s := &site{offers: []string{"PIPELINING", "CHUNKING"}}
	far, near := tcp(t)
	end := b.turn(t.Context(), near, "acme")
	go s.serve(far)
	to := []string{
		"a@acme.example", "A@ACME.EXAMPLE", "a@sub.acme.example", "a@xn--bcher-kva.example", `"q @ u"@acme.example`, "a+b@acme.example",
		"a@moved.example", "b@acme.example", "b+x@acme.example", "a@dropped.example", "a@beta.example", "a@nobody.example", "postmaster",
		"a@gamma.example", // another queue of his, by this one's socket
	}
	paths := make([]string, len(to))
	for i, a := range to {
		paths[i] = "<" + a + ">"
	}
	codes := func() (list []int) {
		r := b.raw(t, "acme")
		r.keywords()
		defer r.ask("QUIT")
		return r.send("<s@x.example>", paths, "Subject: x\r\n\r\n")
	}
	if got, want := codes(), []int{250, 250, 250, 250, 250, 250, 250, 250, 250, 250, 450, 450, 450, 250}; !slices.Equal(got, want) {
		t.Errorf("before the change: %v\nwant               %v", got, want)
	}
	b.hold.use(setOf(t, "acme acme acme.example .acme.example bücher.example", "beta beta beta.example moved.example b@acme.example", "gamma acme other.example"))
	if got, want := codes(), []int{250, 250, 250, 250, 250, 250, 450, 450, 450, 450, 450, 450, 450, 450}; !slices.Equal(got, want) {
		t.Errorf("after it: %v\nwant      %v", got, want)
	}
	// Names that were swapped: the socket is of the one, the mail of the other.
	b.hold.use(setOf(t, "acme acme beta.example", "beta beta acme.example .acme.example bücher.example", "gamma acme gamma.example"))
	if got := codes(); got[0] != 450 || got[10] != 250 {
		t.Errorf("names that were swapped: %v", got)
	}
	b.hold.add("acme", -1)
	if err := <-end; err != nil {
		t.Error(err)
	}
	for _, g := range s.got()[1:] {
		if slices.Contains(g.rcpts, "<a@moved.example>") || slices.Contains(g.rcpts, "<b@acme.example>") || slices.Contains(g.rcpts, "<a@dropped.example>") {
			t.Errorf("arrived: %v", g.rcpts)
		}
	}
}

// What was let in and waits for the line is looked at again when its turn comes: in
// no part of it is it sent to whom it is not for any more, whatever was asked of the
// site before.
func TestAnothersWhileItWaits(t *testing.T) {
	for name, size := range map[string]int{"short": 100, "long": 3 * small} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, Options{})
			b.hold.use(setOf(t, "acme acme acme.example moved.example", "beta beta beta.example"))
			b.hold.add("acme", 3)
			held, let := make(chan struct{}), make(chan struct{})
			first := true
			s := &site{offers: []string{"CHUNKING"}, reply: func(_ *site, c string) string {
				if c == "END" && first {
					first = false
					close(held)
					<-let
				}
				return ""
			}}
			far, near := tcp(t)
			end := b.turn(t.Context(), near, "acme")
			go s.serve(far)
			before, both, other := make(chan []int, 1), make(chan []int, 1), make(chan []int, 1)
			go func() {
				before <- b.deliver("acme", letter{from: "s@x.example", to: []string{"a@acme.example"}, body: lines("x", 100)})
			}()
			<-held // without PIPELINING nothing else is sent meanwhile
			go func() {
				both <- b.deliver("acme", letter{from: "s@x.example", to: []string{"a@moved.example", "b@acme.example"}, body: lines("x", size)})
			}()
			go func() {
				other <- b.deliver("acme", letter{from: "s@x.example", to: []string{"b@moved.example"}, body: lines("x", size)})
			}()
			until(t, "both to wait", func() bool {
				turned := b.agent.holder("acme")
				turned.mu.Lock()
				defer turned.mu.Unlock()
				return len(turned.waiting) == 2
			})
			b.hold.use(setOf(t, "acme acme acme.example", "beta beta beta.example moved.example"))
			close(let)
			if codes := <-before; codes[0] != 250 {
				t.Errorf("what was on the line: %v", codes)
			}
			if codes := <-both; !slices.Equal(codes, []int{450, 250}) {
				t.Errorf("for both: %v", codes)
			}
			if codes := <-other; !slices.Equal(codes, []int{450}) {
				t.Errorf("for the other one: %v", codes)
			}
			b.hold.add("acme", -3)
			if err := <-end; err != nil {
				t.Error(err)
			}
			for _, g := range s.got() {
				if slices.ContainsFunc(g.rcpts, func(r string) bool { return strings.Contains(r, "moved") }) {
					t.Errorf("arrived: %v", g.rcpts)
				}
			}
		})
	}
}

// A long message of which the site has been asked whether it may come is asked for
// anew without those who are another's by then.
func TestAnothersAfterTheQuestion(t *testing.T) {
	b := newBench(t, Options{})
	b.hold.use(setOf(t, "acme acme acme.example moved.example", "beta beta beta.example"))
	b.hold.add("acme", 1)
	asked, let := make(chan struct{}), make(chan struct{})
	first := true
	s := &site{offers: []string{"PIPELINING", "CHUNKING"}, reply: func(_ *site, c string) string {
		if strings.HasPrefix(c, "RCPT") && strings.Contains(c, "b@acme") && first {
			first = false
			close(asked)
			<-let
		}
		return ""
	}}
	far, near := tcp(t)
	end := b.turn(t.Context(), near, "acme")
	go s.serve(far)
	codes := make(chan []int, 1)
	go func() {
		codes <- b.deliver("acme", letter{from: "s@x.example", to: []string{"a@moved.example", "b@acme.example"}, body: lines("x", 3*small)})
	}()
	<-asked
	b.hold.use(setOf(t, "acme acme acme.example", "beta beta beta.example moved.example"))
	close(let)
	if got := <-codes; !slices.Equal(got, []int{450, 250}) {
		t.Errorf("answered %v", got)
	}
	b.hold.add("acme", -1)
	select {
	case err := <-end:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(time.Minute):
		t.Fatal("the turn does not end")
	}
	if got := s.got(); len(got) != 1 || !slices.Equal(got[0].rcpts, []string{"<b@acme.example>"}) {
		t.Errorf("arrived: %d, %v", len(got), got)
	}
}

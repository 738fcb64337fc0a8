package deliver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-smtp"

	"github.com/etrnd/etrnd/etrnd/hold"
	"github.com/etrnd/etrnd/internal/etrn"
	"github.com/etrnd/etrnd/internal/hang"
	"github.com/etrnd/etrnd/internal/queue"
)

// counter stands where hold.Manager is: it counts what the test has announced
// and what was delivered. What crosses to Postfix is tested with Postfix, in
// internal/scenario.
type counter struct {
	set *queue.Set

	mu      sync.Mutex
	waiting map[string]int
	pinned  map[string]int
	listed  time.Time
	changed chan struct{}
	down    error // why the MTA cannot list its queue
	blind   bool  // what waits is not known
}

func newCounter(t testing.TB) *counter {
	t.Helper()
	q := func(name string, turn bool, domains ...string) queue.Queue {
		q := queue.Queue{Name: name, Users: []string{name, "both"}, Deliver: queue.Deliver{Turn: turn}}
		for _, d := range domains {
			p, err := queue.ParsePattern(d)
			if err != nil {
				t.Fatal(err)
			}
			q.Domains = append(q.Domains, p)
		}
		return q
	}
	set, err := queue.NewSet([]queue.Queue{q("acme", true, "acme.example", ".acme.example"), q("beta", true, "beta.example"), q("push", false, "push.example")})
	if err != nil {
		t.Fatal(err)
	}
	return &counter{set: set, waiting: map[string]int{}, pinned: map[string]int{}, changed: make(chan struct{}), listed: time.Now()}
}

func (k *counter) add(name string, n int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.waiting[name] += n
	close(k.changed)
	k.changed = make(chan struct{})
}

func (k *counter) Queues() *queue.Set {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.set
}

func (k *counter) State(name string) (hold.State, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return hold.State{Queue: name, Messages: k.waiting[name], UnderWay: k.waiting[name], Known: true}, true
}

func (k *counter) Count(_ context.Context, sels ...queue.Selection) (n int, ok bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, name := range queuesOf(sels) {
		n += k.waiting[name]
	}
	return n, !k.blind
}

func (k *counter) Pin(sels ...queue.Selection) func() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, s := range sels {
		k.pinned[s.Queue]++
	}
	return func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		for _, s := range sels {
			k.pinned[s.Queue]--
		}
	}
}

func (k *counter) Changed() <-chan struct{} {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.changed
}

func (k *counter) Listed() (time.Time, time.Duration, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.listed, 0, k.down
}

func (k *counter) Relist() {
	k.mu.Lock()
	k.listed = time.Now()
	k.mu.Unlock()
	k.add("", 0)
}

// bench is an agent with a site of its own.
type bench struct {
	t     testing.TB
	agent *Agent
	hold  *counter
	dir   string
}

func newBench(t testing.TB, o Options) *bench {
	t.Helper()
	b := &bench{t: t, hold: newCounter(t), dir: t.TempDir()}
	o.Hostname, o.Hold, o.Socket = "hub.example.net", b.hold, b.socket
	if testing.Verbose() {
		o.Logger = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	b.agent = New(o)
	return b
}

// socket is where mail of a queue is taken.
func (b *bench) socket(queue string) string { return filepath.Join(b.dir, queue+".sock") }

// turn turns a connection for a user. The channel has the end of it.
func (b *bench) turn(ctx context.Context, conn net.Conn, user string, domains ...string) <-chan error {
	b.t.Helper()
	a, turned := b.agent.Turn(ctx, etrn.Identity{User: user, Session: "s"}, domains)
	if a.Code != 250 {
		b.t.Fatalf("ATRN %v of %s: %d %s", domains, user, a.Code, a.Text)
	}
	end := make(chan error, 1)
	go func() {
		defer conn.Close()
		end <- turned(ctx, conn)
	}()
	until(b.t, "the turn", func() bool { return b.agent.holder("acme") != nil || b.agent.holder("beta") != nil })
	return end
}

// letter is a message as the MTA delivers it.
type letter struct {
	from  string
	to    []string
	body  string
	mail  *smtp.MailOptions
	rcpt  *smtp.RcptOptions
	codes []int // wanted for each recipient
}

// deliver is what lmtp(8) does with one message. It returns the code for each
// recipient: 0 when the connection ended before.
func (b *bench) deliver(queue string, l letter) []int {
	codes, err := deliverTo(b.socket(queue), l)
	if err != nil {
		b.t.Logf("deliver to %v: %v", l.to, err)
	}
	return codes
}

func deliverTo(socket string, l letter) ([]int, error) {
	codes := make([]int, len(l.to))
	var conn net.Conn
	var err error
	for range 500 { // it comes a moment after the turn
		if conn, err = net.Dial("unix", socket); err == nil {
			break
		}
		time.Sleep(2 * time.Millisecond)
	}
	if err != nil {
		return codes, err
	}
	c := smtp.NewClientLMTP(conn)
	defer c.Close()
	if err := c.Mail(l.from, l.mail); err != nil {
		for i := range codes {
			codes[i] = codeOf(err)
		}
		return codes, nil
	}
	var accepted []int
	for i, to := range l.to {
		if err := c.Rcpt(to, l.rcpt); err != nil {
			codes[i] = codeOf(err)
			continue
		}
		accepted = append(accepted, i)
	}
	if len(accepted) == 0 {
		return codes, nil
	}
	w, err := c.Data()
	if err != nil {
		return codes, err
	}
	if _, err := w.Write([]byte(l.body)); err != nil {
		return codes, err
	}
	answers, err := w.CloseWithLMTPResponse()
	var lerr smtp.LMTPDataError
	for _, i := range accepted {
		if _, ok := answers[l.to[i]]; ok {
			codes[i] = 250
		} else if errors.As(err, &lerr) {
			if e := lerr[l.to[i]]; e != nil {
				codes[i] = e.Code
			}
		}
	}
	return codes, nil
}

func codeOf(err error) int {
	var e *smtp.SMTPError
	if errors.As(err, &e) {
		return e.Code
	}
	return 0
}

// lines is a body of about n bytes with lines that begin with dots.
func lines(name string, n int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "Subject: %s\r\n\r\n", name)
	for i := 0; b.Len() < n; i++ {
		fmt.Fprintf(&b, "%sline %d of %s\r\n", strings.Repeat(".", i%3), i, name)
	}
	return b.String()
}

// What a site lists decides how it is spoken to, and nothing else: the mail
// that arrives and what the MTA is told are the same.
func TestFallbacks(t *testing.T) {
	for name, offers := range map[string][]string{
		"everything":         {"PIPELINING", "CHUNKING", "SIZE 1000000", "8BITMIME", "DSN", "SMTPUTF8"},
		"no chunking":        {"PIPELINING", "SIZE"},
		"no pipelining":      {"CHUNKING"},
		"neither":            {"8BITMIME"},
		"no extension":       {},
		"lower case, spaces": {"pipelining ", "chunking"},
		"HELO":               nil,
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, Options{})
			s := &site{offers: offers, reply: func(s *site, command string) string {
				s.mu.Lock()
				defer s.mu.Unlock()
				switch {
				case strings.HasPrefix(command, "MAIL FROM:<blocked@"):
					return "550 5.7.1 not from you"
				case command == "END" && len(s.mails) == 3:
					s.mails = append(s.mails, mail{from: "<full>"})
					return "452 4.3.1 disk full"
				}
				return ""
			}}
			letters := []letter{
				{from: "s@x.example", to: []string{"one@acme.example"}, body: lines("one", 2000), codes: []int{250}},
				// One of three is refused for good, one for now.
				{from: "s@x.example", to: []string{"two@acme.example", "refused@acme.example", "later@acme.example"}, body: lines("two", 300), codes: []int{250, 550, 450}},
				// All are: the transaction that stays open must not swallow the next.
				{from: "s@x.example", to: []string{"refused@acme.example"}, body: lines("refused", 500), codes: []int{550}},
				{from: "", to: []string{"null@acme.example"}, body: lines("null", 100), codes: []int{250}},
				{from: "blocked@x.example", to: []string{"four@acme.example", "five@acme.example"}, body: lines("blocked", 100), codes: []int{550, 550}},
				{from: "s@x.example", to: []string{"full@acme.example"}, body: lines("full", 100), codes: []int{452}},
				// Longer than what is kept in memory.
				{from: "s@x.example", to: []string{"long@acme.example", "later@acme.example"}, body: lines("long", 3*small+7), codes: []int{250, 450}},
				{from: "s@x.example", to: []string{"refused@acme.example"}, body: lines("refused long", 2*small), codes: []int{550}},
				{from: `"a b\"c"@x.example`, to: []string{"last@acme.example"}, body: lines("last", small), codes: []int{250}},
				// A multiple of a chunk.
				{from: "s@x.example", to: []string{"even@acme.example"}, body: lines("", 2*small-2)[:2*small-2] + "\r\n", codes: []int{250}},
			}
			b.hold.add("acme", len(letters))
			far, near := tcp(t)
			end := b.turn(t.Context(), near, "acme")
			served := make(chan error, 1)
			go func() { served <- s.serve(far) }()
			for i, l := range letters {
				// One after the other, so that the site's tricks hit the right one.
				if codes := b.deliver("acme", l); !slices.Equal(codes, l.codes) {
					t.Errorf("letter %d to %v: codes %v, want %v", i, l.to, codes, l.codes)
				}
				b.hold.add("acme", -1)
			}
			if err := <-end; err != nil {
				t.Error(err)
			}
			if err := <-served; err != nil {
				t.Error(err)
			}
			var want []mail
			for _, l := range letters {
				m := mail{from: "<" + l.from + ">", body: l.body}
				for i, to := range l.to {
					if l.codes[i] == 250 {
						m.rcpts = append(m.rcpts, "<"+to+">")
					}
				}
				if l.codes[0] == 452 {
					m = mail{from: "<full>"}
				}
				if m.rcpts != nil || m.from == "<full>" {
					want = append(want, m)
				}
			}
			got := s.got()
			for i := range max(len(got), len(want)) {
				if i >= len(got) || i >= len(want) {
					t.Fatalf("%d mails arrived, want %d; commands %q", len(got), len(want), s.said())
				}
				from, _, _ := strings.Cut(got[i].from, "> ")
				from = strings.TrimSuffix(from, ">") + ">"
				if from != want[i].from || !slices.Equal(got[i].rcpts, want[i].rcpts) || got[i].body != want[i].body {
					t.Errorf("mail %d: from %s to %v, %d bytes; want from %s to %v, %d bytes", i, got[i].from, got[i].rcpts, len(got[i].body), want[i].from, want[i].rcpts, len(want[i].body))
				}
			}
			if !slices.Contains(offers, "PIPELINING") && s.ahead > 0 && name != "lower case, spaces" {
				t.Errorf("something was sent without waiting %d times", s.ahead)
			}
			if n := b.hold.pinned["acme"]; n != 0 {
				t.Errorf("%d pins are left", n)
			}
			if files, _ := filepath.Glob(b.dir + "/*"); len(files) != 0 {
				t.Errorf("left behind: %v", files)
			}
		})
	}
}

// Many deliveries at once: all on the line together, each with its own
// envelope, though some are refused in between.
func TestManyAtOnce(t *testing.T) {
	for name, offers := range map[string][]string{"chunks": {"PIPELINING", "CHUNKING"}, "data": {"PIPELINING"}} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, Options{})
			s := &site{offers: offers}
			const n = 200
			b.hold.add("acme", n)
			far, near := tcp(t)
			end := b.turn(t.Context(), near, "acme")
			var wg sync.WaitGroup
			for i := range n {
				wg.Go(func() {
					l := letter{from: fmt.Sprintf("s%d@x.example", i), to: []string{fmt.Sprintf("r%d@acme.example", i)}, body: lines(fmt.Sprint(i), 100+i*400)}
					want := 250
					if i%7 == 3 {
						l.to, want = []string{fmt.Sprintf("refused%d@acme.example", i)}, 550
					}
					if codes := b.deliver("acme", l); codes[0] != want {
						t.Errorf("%d: %v, want %d", i, codes, want)
					}
					b.hold.add("acme", -1)
				})
			}
			go s.serve(far)
			wg.Wait()
			if err := <-end; err != nil {
				t.Error(err)
			}
			got := s.got()
			if want := n - len(refusedOf(n)); len(got) != want {
				t.Errorf("%d mails arrived, want %d", len(got), want)
			}
			for _, m := range got {
				id := strings.TrimSuffix(strings.TrimPrefix(m.from, "<s"), "@x.example>")
				id, _, _ = strings.Cut(id, "@")
				if len(m.rcpts) != 1 || m.rcpts[0] != "<r"+id+"@acme.example>" || !strings.HasPrefix(m.body, "Subject: "+id+"\r\n") {
					t.Errorf("from %s to %v with %.20q", m.from, m.rcpts, m.body)
				}
			}
		})
	}
}

func refusedOf(n int) (list []int) {
	for i := range n {
		if i%7 == 3 {
			list = append(list, i)
		}
	}
	return list
}

// What waits goes by priority, then the smaller first.
func TestOrder(t *testing.T) {
	b := newBench(t, Options{})
	letters := []letter{
		{to: []string{"big@acme.example"}, body: lines("big", 30000)},
		{to: []string{"long@acme.example"}, body: lines("long", 2*small)},
		{to: []string{"low@acme.example"}, body: "Priority: non-urgent\r\n" + lines("low", 100)},
		{to: []string{"mid@acme.example"}, body: lines("mid", 5000)},
		{to: []string{"urgent@acme.example"}, body: "X-Priority: 1 (Highest)\r\n" + lines("urgent", 40000)},
		{to: []string{"tiny@acme.example"}, body: lines("tiny", 100)},
		{to: []string{"flash@acme.example"}, body: "MT-Priority: 9\r\n" + lines("flash", 10000)},
	}
	gate := make(chan struct{})
	s := &site{offers: []string{"CHUNKING"}, reply: func(_ *site, command string) string {
		// Without PIPELINING nothing moves while a reply is withheld.
		if strings.HasPrefix(command, "MAIL FROM:<first@") {
			<-gate
		}
		return ""
	}}
	b.hold.add("acme", len(letters)+1)
	far, near := tcp(t)
	end := b.turn(t.Context(), near, "acme")
	go s.serve(far)
	var wg sync.WaitGroup
	send := func(l letter) {
		wg.Go(func() {
			if codes := b.deliver("acme", l); codes[0] != 250 {
				t.Errorf("%v: %v", l.to, codes)
			}
			b.hold.add("acme", -1)
		})
	}
	send(letter{from: "first@x.example", to: []string{"first@acme.example"}, body: lines("first", 100)})
	until(t, "the first one to be on its way", func() bool { return len(s.said()) == 2 })
	for _, l := range letters {
		send(l)
	}
	turned := b.agent.holder("acme")
	until(t, "the others to be there", func() bool {
		turned.mu.Lock()
		defer turned.mu.Unlock()
		return len(turned.waiting) == len(letters)
	})
	close(gate)
	wg.Wait()
	if err := <-end; err != nil {
		t.Error(err)
	}
	var got []string
	for _, m := range s.got() {
		got = append(got, strings.Trim(strings.TrimSuffix(m.rcpts[0], "@acme.example>"), "<"))
	}
	if want := []string{"first", "flash", "urgent", "tiny", "mid", "big", "long", "low"}; !slices.Equal(got, want) {
		t.Errorf("came as %v, want %v", got, want)
	}
}

// Whatever a site does, the turn comes to an end, and the MTA keeps what the
// site has not taken.
func TestBadSites(t *testing.T) {
	all := []string{"PIPELINING", "CHUNKING"}
	reply := func(command, with string) func(*site, string) string {
		return func(_ *site, c string) string {
			if strings.HasPrefix(c, command) {
				return with
			}
			return ""
		}
	}
	stuck := func(command string) func(*site, string) string {
		return func(s *site, c string) string {
			if strings.HasPrefix(c, command) {
				s.conn.Read(make([]byte, 1<<20)) // until the other side gives up
				time.Sleep(time.Second)
				return "hang up"
			}
			return ""
		}
	}
	for name, c := range map[string]struct {
		site *site
		says string // in the reason; empty: a good end
		code int    // what the MTA is told; 0: the connection is closed without
	}{
		"greets with 554":        {&site{greet: "554 not now"}, "554", 0},
		"greets with garbage":    {&site{greet: "\x00\xff\x01 hello"}, "not an SMTP reply", 0},
		"does not greet":         {&site{greet: "220-wait"}, "quiet", 0},
		"closes at EHLO":         {&site{offers: all, reply: reply("EHLO", "hang up")}, "closed", 0},
		"refuses EHLO and HELO":  {&site{reply: reply("HELO", "550 no")}, "550", 0},
		"says 421 to MAIL":       {&site{offers: all, reply: reply("MAIL", "421 overloaded")}, "421", 451},
		"closes at MAIL":         {&site{offers: all, reply: reply("MAIL", "hang up")}, "closed", 451},
		"closes at the end":      {&site{offers: all, reply: reply("BDAT", "hang up")}, "closed", 451},
		"two replies to one":     {&site{offers: all, reply: reply("RCPT", "250 ok\r\n250 ok")}, "replies and commands do not match", 451},
		"garbage for a reply":    {&site{offers: all, reply: reply("RCPT", "yes, thank you")}, "not an SMTP reply", 451},
		"long line":              {&site{offers: all, reply: reply("RCPT", "550 "+strings.Repeat("x", 9000))}, "", 550},
		"endless line":           {&site{offers: all, reply: reply("RCPT", "250 "+strings.Repeat("x", 200_000))}, "without an end", 451},
		"endless reply":          {&site{offers: all, reply: reply("RCPT", strings.Repeat("250-x\r\n", 200)+"250 x")}, "more than", 451},
		"two codes in one reply": {&site{offers: all, reply: reply("RCPT", "250-x\r\n550 x")}, "began with", 451},
		"354 for the end":        {&site{offers: all, reply: reply("END", "354 more")}, "", 451},
		"hangs at MAIL":          {&site{offers: all, reply: stuck("MAIL")}, "quiet", 451},
		"hangs at the end":       {&site{offers: all, reply: stuck("BDAT")}, "quiet", 451},
		"503 to RCPT":            {&site{offers: all, reply: reply("RCPT", "503 what?")}, "", 451},
		"502 to BDAT":            {&site{offers: all, reply: reply("BDAT", "502 what?")}, "", 451},
		"250 to DATA":            {&site{offers: all[:1], reply: reply("DATA", "250 ok")}, "", 451},
		"closes at DATA":         {&site{offers: all[:1], reply: reply("DATA", "hang up")}, "closed", 451},
		"354 with nobody to get it": {&site{offers: all[:1], reply: func(_ *site, c string) string {
			switch {
			case strings.HasPrefix(c, "RCPT"):
				return "550 5.1.1 no"
			case c == "DATA":
				return "354 go ahead"
			case c == ".":
				return "554 no recipients"
			}
			return ""
		}}, "", 550},
		"enhanced code of another class": {&site{offers: all, reply: reply("RCPT", "550 2.0.0 odd")}, "", 550},
		"late refusal":                   {&site{offers: all, reply: reply("END", "550 5.6.0 a virus")}, "", 550},
	} {
		t.Run(name, func(t *testing.T) {
			// Short only where it is to pass.
			o := Options{ReplyTimeout: hang.Limit, GreetTimeout: hang.Limit}
			switch {
			case strings.HasPrefix(name, "hangs"):
				o.ReplyTimeout = 300 * time.Millisecond
			case name == "does not greet":
				o.GreetTimeout = 300 * time.Millisecond
			}
			b := newBench(t, o)
			b.hold.add("acme", 1)
			far, near := tcp(t)
			end := b.turn(t.Context(), near, "acme")
			served := make(chan struct{})
			go func() { c.site.serve(far); close(served) }()
			codes := b.deliver("acme", letter{from: "s@x.example", to: []string{"a@acme.example"}, body: lines("x", 1000)})
			b.hold.add("acme", -1)
			if codes[0] != c.code {
				t.Errorf("the MTA was told %v, want %d", codes, c.code)
			}
			err := <-end
			switch {
			case c.says == "" && err != nil, c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)):
				t.Errorf("ended with %v, want %q", err, c.says)
			}
			far.Close()
			<-served
			if files, _ := filepath.Glob(b.dir + "/*"); len(files) != 0 {
				t.Errorf("left behind: %v", files)
			}
		})
	}
}

// Who may turn what, and what is said otherwise.
func TestTurn(t *testing.T) {
	b := newBench(t, Options{})
	b.hold.add("acme", 1)
	for _, c := range []struct {
		user    string
		domains []string
		code    int
	}{
		{"acme", nil, 250},
		{"acme", []string{"acme.example"}, 250},
		{"acme", []string{"ACME.example", "sub.acme.example"}, 250},
		{"acme", []string{"acme.example", "beta.example"}, 450}, // one that is another's refuses all
		{"acme", []string{"beta.example"}, 450},
		{"acme", []string{"unknown.example"}, 450},
		{"acme", []string{"push.example"}, 450}, // not delivered this way
		{"beta", nil, 453},
		{"beta", []string{"beta.example"}, 453},
		{"both", nil, 250}, // two queues, one of them empty
		{"push", nil, 450},
		{"nobody", nil, 450},
		{"", nil, 450}, // the listener does not let that happen
	} {
		a, turned := b.agent.Turn(t.Context(), etrn.Identity{User: c.user}, c.domains)
		if a.Code != c.code || (turned != nil) != (c.code == 250) {
			t.Errorf("ATRN %v of %q: %+v, want %d", c.domains, c.user, a, c.code)
		}
	}
}

// Only mail for what was asked for goes out.
func TestOnlyWhatWasAskedFor(t *testing.T) {
	b := newBench(t, Options{})
	b.hold.add("acme", 1)
	s := &site{offers: []string{"PIPELINING", "CHUNKING"}}
	far, near := tcp(t)
	end := b.turn(t.Context(), near, "acme", "acme.example")
	go s.serve(far)
	codes := b.deliver("acme", letter{from: "s@x.example", to: []string{"a@sub.acme.example", "a@acme.example"}, body: lines("x", 100)})
	if !slices.Equal(codes, []int{450, 250}) {
		t.Errorf("codes %v", codes)
	}
	b.hold.add("acme", -1)
	if err := <-end; err != nil {
		t.Error(err)
	}
	if got := s.got(); len(got) != 1 || !slices.Equal(got[0].rcpts, []string{"<a@acme.example>"}) {
		t.Errorf("arrived: %+v", got)
	}
}

// One connection for two queues has a socket for each.
func TestTwoQueues(t *testing.T) {
	b := newBench(t, Options{})
	b.hold.add("acme", 1)
	b.hold.add("beta", 1)
	s := &site{offers: []string{"PIPELINING", "CHUNKING"}}
	far, near := tcp(t)
	end := b.turn(t.Context(), near, "both")
	go s.serve(far)
	for _, q := range []string{"acme", "beta"} {
		if codes := b.deliver(q, letter{from: "s@x.example", to: []string{"a@" + q + ".example"}, body: lines("x", 100)}); codes[0] != 250 {
			t.Errorf("%s: %v", q, codes)
		}
		b.hold.add(q, -1)
	}
	if err := <-end; err != nil {
		t.Error(err)
	}
	if got := s.got(); len(got) != 2 {
		t.Errorf("arrived: %+v", got)
	}
}

// A site that does not read is not waited for longer than WriteTimeout.
func TestStopsReading(t *testing.T) {
	b := newBench(t, Options{WriteTimeout: 300 * time.Millisecond})
	b.hold.add("acme", 1)
	far, near := tcp(t)
	end := b.turn(t.Context(), near, "acme")
	s := &site{offers: []string{"PIPELINING", "CHUNKING"}, reply: func(_ *site, c string) string {
		if c == "BDAT 65536" {
			<-t.Context().Done()
		}
		return ""
	}}
	go s.serve(far)
	if codes := b.deliver("acme", letter{from: "s@x.example", to: []string{"a@acme.example"}, body: lines("x", 4<<20)}); codes[0] != 451 && codes[0] != 0 {
		// 0: a client that is still writing when its connection is closed does
		// not hear the answer. It keeps the mail all the same.
		t.Errorf("codes %v", codes)
	}
	if err := <-end; !errors.Is(err, errQuiet) {
		t.Errorf("ended with %v", err)
	}
}

// A second connection of a site is refused while the first one lives, and takes
// its place when it does not.
func TestTakeover(t *testing.T) {
	b := newBench(t, Options{Dead: hang.Limit})
	b.hold.add("acme", 1)
	far, near := tcp(t)
	held := make(chan struct{})
	first := &site{offers: []string{"PIPELINING", "CHUNKING"}, reply: func(_ *site, c string) string {
		if strings.HasPrefix(c, "MAIL") {
			close(held)
			<-t.Context().Done()
		}
		return ""
	}}
	end := b.turn(t.Context(), near, "acme")
	go first.serve(far)
	told := make(chan []int, 1)
	l := letter{from: "s@x.example", to: []string{"a@acme.example"}, body: lines("x", 100)}
	go func() { told <- b.deliver("acme", l) }()
	<-held
	if a, _ := b.agent.Turn(t.Context(), etrn.Identity{User: "acme"}, nil); a.Code != 450 {
		t.Errorf("while the first one lives: %+v", a)
	}
	b.agent.o.Dead = 50 * time.Millisecond
	until(t, "the first one to look dead", func() bool { return !b.agent.holder("acme").alive(b.agent.o.Dead) })
	far2, near2 := tcp(t)
	second := &site{offers: []string{"PIPELINING", "CHUNKING"}}
	go second.serve(far2)
	end2 := b.turn(t.Context(), near2, "acme")
	if codes := <-told; codes[0] != 451 {
		t.Errorf("the MTA was told %v of what the first one had", codes)
	}
	if err := <-end; !errors.Is(err, errReplaced) {
		t.Errorf("the first one ended with %v", err)
	}
	if codes := b.deliver("acme", l); codes[0] != 250 {
		t.Errorf("over the second one: %v", codes)
	}
	b.hold.add("acme", -1)
	if err := <-end2; err != nil {
		t.Error(err)
	}
	if n := len(second.got()); n != 1 {
		t.Errorf("%d arrived over the second one", n)
	}
}

// When the daemon ends, what is on the line is waited for, the rest is kept,
// and the site hears QUIT.
func TestShutdown(t *testing.T) {
	b := newBench(t, Options{})
	b.hold.add("acme", 2)
	far, near := tcp(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	held, let := make(chan struct{}), make(chan struct{})
	s := &site{offers: []string{"CHUNKING"}, reply: func(_ *site, c string) string {
		if c == "END" {
			close(held)
			<-let
		}
		return ""
	}}
	end := b.turn(ctx, near, "acme")
	go s.serve(far)
	first, second := make(chan []int, 1), make(chan []int, 1)
	l := letter{from: "s@x.example", to: []string{"a@acme.example"}, body: lines("x", 100)}
	go func() { first <- b.deliver("acme", l) }()
	<-held
	go func() { second <- b.deliver("acme", l) }()
	turned := b.agent.holder("acme")
	until(t, "the second one to be there", func() bool {
		turned.mu.Lock()
		defer turned.mu.Unlock()
		return len(turned.waiting) == 1
	})
	cancel()
	if codes := <-second; codes[0] != 451 {
		t.Errorf("what was not sent: %v", codes)
	}
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

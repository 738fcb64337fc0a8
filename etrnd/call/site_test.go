package call

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/etrnd/etrnd/etrnd/hold"
	"github.com/etrnd/etrnd/etrnd/receive"
	"github.com/etrnd/etrnd/internal/api"
	"github.com/etrnd/etrnd/internal/config"
	"github.com/etrnd/etrnd/internal/queue"
	"github.com/etrnd/etrnd/internal/report"
	"github.com/etrnd/etrnd/internal/socket"
)

// site is a Caller on a virtual clock, with everything around it made up.
type site struct {
	*Caller
	t     *testing.T
	hold  *fakeHold
	modem *fakeModem
	net   *fakeNet
	stop  func() // of Run, which it waits for
}

// options change what a site is made of before it begins.
type options func(*site, *Options)

// inBubble runs a test with a site on a virtual clock. The site is stopped at
// the end, so that nothing goes on unseen.
func inBubble(t *testing.T, cfg *config.Config, test func(s *site), change ...options) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := &site{t: t, hold: newFakeHold(), modem: &fakeModem{}, net: &fakeNet{hosts: map[string]func(net.Conn){}}}
		s.modem.dial = func(context.Context) error { s.modem.set("ppp0"); return nil }
		s.modem.hangUp = func() error { s.modem.set(""); return nil }
		s.net.host("127.0.0.1:25", greet)
		door := func(context.Context, string, string, []string) (receive.Refusal, bool, error) {
			return receive.Refusal{}, false, nil
		}
		o := Options{Door: door, Config: cfg, Hold: s.hold, Inbound: NewInbound(), Logger: slog.New(slog.DiscardHandler), Modem: s.modem, Network: s.net}
		for _, f := range change {
			f(s, &o)
		}
		s.Caller = New(o)
		s.hold.asked, s.modem.asked, s.net.asked = s.unlocked, s.unlocked, s.unlocked
		s.inbound.Handle(report.Event{Kind: report.Ready, Reporter: "m"})
		ctx, cancel := context.WithCancel(t.Context())
		over := make(chan error)
		go func() { over <- s.Run(ctx) }()
		s.stop = sync.OnceFunc(func() {
			cancel()
			if err := <-over; err != nil {
				t.Errorf("Run: %v", err)
			}
		})
		defer func() {
			s.stop()
			synctest.Wait()
			s.hold.sending.Wait()
		}()
		<-s.Ready()
		test(s)
	})
}

// greet is a local mail server that is ready.
func greet(c net.Conn) { fmt.Fprint(c, "220 site.example\r\n") }

// unlocked fails the test if a lock of the package is held by whoever calls it.
// Others may hold one, but not for long.
func (s *site) unlocked() {
	free := func(name string, mu *sync.Mutex) {
		for range 20_000_000 {
			if mu.TryLock() {
				mu.Unlock()
				return
			}
			runtime.Gosched()
		}
		panic(name + " is held while somebody is asked")
	}
	free("Caller.mu", &s.mu)
	s.mu.Lock()
	links := slices.Collect(maps.Values(s.links))
	s.mu.Unlock()
	for _, ln := range links {
		free("link.mu", &ln.mu)
	}
	free("ledger.mu", &s.ledger.mu)
	s.ledger.mu.Lock()
	calls := slices.Collect(maps.Values(s.ledger.calls))
	s.ledger.mu.Unlock()
	for _, cl := range calls {
		free("call.mu", &cl.mu)
	}
}

// oneLink is a configuration with a link that is dialled and hung up, and
// remotes of it.
func oneLink(remotes ...config.Remote) *config.Config {
	cfg := &config.Config{
		Hostname: "site.example",
		Links: []config.Link{{
			Name: "isp", Interfaces: []string{"ppp*"}, Dial: []string{"pon"}, HangUp: []string{"poff"},
			DialTimeout: 2 * time.Minute, HangUpTimeout: 30 * sec,
		}},
		Remotes: remotes,
	}
	cfg.MTA.SMTP = "127.0.0.1:25"
	return cfg
}

// remote is one with the settings that a configuration has by default.
func remote(name string, change func(*config.Remote)) config.Remote {
	r := config.Remote{
		Name: name, Link: "isp", Host: "192.0.2.1", Port: 366, Protocol: config.ProtocolETRN, RouterType: config.PullPush,
		Request: []string{"#site"}, PushQueues: []string{name}, TLS: "off",
		ConnectTimeout: 30 * sec, RequestTimeout: 30 * sec, Wait: 2 * time.Minute, Idle: 5 * sec, Limit: time.Hour,
	}
	if change != nil {
		change(&r)
	}
	return r
}

// hubSays answers each ETRN with the next of replies, the last one again and
// again.
func (s *site) hubSays(replies ...string) {
	next := oneByOne(replies)
	s.net.host("192.0.2.1:366", func(c net.Conn) { smtp(c, "250 hub.example", next) })
}

// oneByOne answers with the next of replies, the last one again and again.
func oneByOne(replies []string) func(string) string {
	var mu sync.Mutex
	n := 0
	return func(string) string {
		mu.Lock()
		defer mu.Unlock()
		n++
		return replies[min(n, len(replies))-1]
	}
}

// hubGreeting is that of a hub of ours, whose 251 is certain.
const hubGreeting = "220 hub.example ESMTP on-demand mail relay, send EHLO\r\n"

// smtp plays a server: ehlo is its answer to EHLO, and answer that to what it
// has no answer for itself.
func smtp(c net.Conn, ehlo string, answer func(line string) string) {
	in := bufio.NewReader(c)
	fmt.Fprint(c, hubGreeting)
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return
		}
		switch line = strings.TrimSpace(line); {
		case strings.HasPrefix(line, "EHLO"):
			fmt.Fprint(c, ehlo+"\r\n")
		case line == "QUIT":
			fmt.Fprint(c, "221 bye\r\n")
			return
		default:
			fmt.Fprint(c, answer(line)+"\r\n")
		}
	}
}

var hubAddr = netip.MustParseAddr("192.0.2.1")

// session opens an SMTP session of the hub, as the milter tells of it.
func (s *site) session(name string) { s.tell(name, report.Open, "") }

// mail is a message of the hub that has come in, in a session of its own.
func (s *site) mail(id string) {
	s.session(id)
	s.tell(id, report.Mail, "")
	s.tell(id, report.Message, id)
	s.tell(id, report.Close, "")
}

func (s *site) tell(session string, kind report.Kind, id string) {
	s.inbound.Handle(report.Event{Kind: kind, Reporter: "m", Session: session, Client: hubAddr, QueueID: id, Size: 1000})
}

// up fires the hook of an interface that has come up.
func (s *site) up() []api.CallRef {
	s.t.Helper()
	s.modem.set("ppp0")
	refs, err := s.LinkUp(api.LinkEvent{Interface: "ppp0"})
	if err != nil {
		s.t.Fatal(err)
	}
	return refs
}

// down fires the hook of an interface that has gone.
func (s *site) down() {
	s.t.Helper()
	s.modem.set("")
	if err := s.LinkDown(api.LinkEvent{Interface: "ppp0"}); err != nil {
		s.t.Fatal(err)
	}
}

// call calls a remote.
func (s *site) call(name string) api.CallRef {
	s.t.Helper()
	ref, err := s.Call(name)
	if err != nil {
		s.t.Fatal(err)
	}
	return ref
}

// results waits until n calls have ended, and returns them in the order in
// which they did.
func (s *site) results(n int) []api.CallResult {
	s.t.Helper()
	deadline := time.After(24 * time.Hour)
	for {
		changed, list := s.ledger.changes(), s.History(historyLength)
		if len(list) >= n {
			slices.Reverse(list)
			return list
		}
		select {
		case <-changed:
		case <-deadline:
			s.t.Fatalf("%d calls have ended, want %d; under way: %+v", len(list), n, s.Calls())
		}
	}
}

// result waits for the first call to end and checks it.
func (s *site) result(exit int, says string) api.CallResult {
	s.t.Helper()
	r := s.results(1)[0]
	s.check(r, exit, says)
	return r
}

func (s *site) check(r api.CallResult, exit int, says string) {
	s.t.Helper()
	if r.Exit != exit || !strings.Contains(r.Error, says) || (r.Error == "") != (exit == 0) {
		s.t.Errorf("call %s: exit %d, %q (%s); want %d, %q", r.Call, r.Exit, r.Error, r.Hint, exit, says)
	}
}

// state checks how the only link is, once everybody waits.
func (s *site) state(want api.LinkState) {
	s.t.Helper()
	synctest.Wait()
	if l := s.Links()[0]; l.State != want {
		s.t.Errorf("the link is %s, want %s", l.State, want)
	}
}

// took checks a duration: at least, and not more than a tenth of a second
// longer, which is what looking now and then costs.
func (s *site) took(what string, got, want time.Duration) {
	s.t.Helper()
	if got < want || got > want+100*ms {
		s.t.Errorf("%s: %v, want %v", what, got, want)
	}
}

// fakeModem is a modem whose commands are functions.
type fakeModem struct {
	asked   func()
	mu      sync.Mutex
	dial    func(context.Context) error
	hangUp  func() error
	iface   string      // that is up; empty: none
	dials   []time.Time // when the commands were run
	hangUps []time.Time
}

func (m *fakeModem) set(iface string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.iface = iface
}

func (m *fakeModem) Dial(ctx context.Context, l *config.Link) error {
	m.asked()
	if len(l.Dial) == 0 {
		panic("dialled without a command")
	}
	m.mu.Lock()
	m.dials = append(m.dials, time.Now())
	dial := m.dial
	m.mu.Unlock()
	return dial(ctx)
}

func (m *fakeModem) HangUp(l *config.Link) error {
	m.asked()
	if len(l.HangUp) == 0 {
		panic("hung up without a command")
	}
	m.mu.Lock()
	m.hangUps = append(m.hangUps, time.Now())
	hangUp := m.hangUp
	m.mu.Unlock()
	return hangUp()
}

func (m *fakeModem) Interfaces(l *config.Link) []Interface {
	m.asked()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.iface == "" || !l.Match(m.iface) {
		return []Interface{{Name: "ppp9"}, {Name: "ppp8", Up: true}}
	}
	return []Interface{{Name: m.iface, Up: true, Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.2")}}}
}

// ran is how often the commands were run.
func (m *fakeModem) ran() (dials, hangUps int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.dials), len(m.hangUps)
}

// commands checks how often the commands were run.
func (s *site) commands(dials, hangUps int) {
	s.t.Helper()
	if d, h := s.modem.ran(); d != dials || h != hangUps {
		s.t.Errorf("dialled %d times, hung up %d times; want %d, %d", d, h, dials, hangUps)
	}
}

// hungUpAt is when the command was first run.
func (s *site) hungUpAt() time.Time {
	s.t.Helper()
	s.modem.mu.Lock()
	defer s.modem.mu.Unlock()
	if len(s.modem.hangUps) == 0 {
		s.t.Fatal("the line was not hung up")
	}
	return s.modem.hangUps[0]
}

// fakeNet connects to functions.
type fakeNet struct {
	asked func()
	mu    sync.Mutex
	hosts map[string]func(net.Conn)           // by address; none: nobody is there
	heard func() ([]socket.Connection, error) // what the kernel says; nil: the line lives
	gone  bool                                // nothing is answered any more
}

// Connections are those of the machine.
func (n *fakeNet) Connections() ([]socket.Connection, error) {
	n.asked()
	n.mu.Lock()
	heard := n.heard
	n.mu.Unlock()
	if heard == nil {
		return []socket.Connection{{Local: netip.MustParseAddrPort("192.0.2.2:25"), Peer: netip.AddrPortFrom(hubAddr, 40000), Established: true}}, nil
	}
	return heard()
}

// listen has a function say what the kernel says.
func (n *fakeNet) listen(heard func() ([]socket.Connection, error)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.heard = heard
}

// vanish has nobody answer who connects to another host.
func (n *fakeNet) vanish(gone bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.gone = gone
}

// host has a function talk to those who connect to an address.
func (n *fakeNet) host(addr string, talk func(net.Conn)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.hosts[addr] = talk
}

func (n *fakeNet) DialContext(ctx context.Context, _, addr string) (net.Conn, error) {
	n.asked()
	n.mu.Lock()
	talk, gone := n.hosts[addr], n.gone
	n.mu.Unlock()
	if gone && addr != "127.0.0.1:25" {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(127 * sec): // as long as Linux tries it
			return nil, errors.New("connection timed out")
		}
	}
	if talk == nil {
		return nil, errors.New("connection refused")
	}
	here, there := net.Pipe()
	go func() {
		defer there.Close()
		talk(there)
	}()
	at, err := netip.ParseAddrPort(addr)
	if err != nil {
		at = netip.AddrPortFrom(hubAddr, 366) // of a name
	}
	return addrConn{here, net.TCPAddrFromAddrPort(at)}, nil
}

func (n *fakeNet) LookupNetIP(context.Context, string, string) ([]netip.Addr, error) {
	return nil, errors.New("no such host")
}

type addrConn struct {
	net.Conn
	remote net.Addr
}

func (c addrConn) RemoteAddr() net.Addr { return c.remote }

// fakeHold holds mail, and sends it when a queue is pinned.
type fakeHold struct {
	asked   func()
	mu      sync.Mutex
	changed chan struct{}
	states  map[string]hold.State
	pins    map[string]int
	limits  map[string][]int // that hold now
	listed  func() (time.Time, error)
	each    time.Duration // that one message takes to send; 0: they are never tried
	size    int64         // of one message; 0: 1000
	reason  string        // why each of them fails; empty: it does not
	looked  func()        // is called at each State; nil: nothing is
	sending sync.WaitGroup
}

func newFakeHold() *fakeHold {
	return &fakeHold{changed: make(chan struct{}), states: map[string]hold.State{}, pins: map[string]int{}, limits: map[string][]int{}, each: 10 * ms, listed: func() (time.Time, error) { return time.Now(), nil }}
}

func (h *fakeHold) change(q string, f func(s *hold.State)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.states[q]
	f(&s)
	h.states[q] = s
	close(h.changed)
	h.changed = make(chan struct{})
}

// add holds n more messages, which go out if the queue is open.
func (h *fakeHold) add(q string, n int) {
	h.change(q, func(s *hold.State) {
		s.Messages += n
		s.Bytes += int64(n) * 1000
	})
	if h.pinned(q) > 0 {
		h.release(q)
	}
}

func (h *fakeHold) pinned(q string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.pins[q]
}

// release tries what is held, one message after the other.
func (h *fakeHold) release(q string) {
	if h.each == 0 {
		return
	}
	n := 0
	h.change(q, func(s *hold.State) {
		n = s.Messages - s.UnderWay - s.OnHold
		s.UnderWay += n
		s.Failed, s.Reason = 0, ""
	})
	h.sending.Go(func() {
		for range n {
			time.Sleep(h.each)
			h.change(q, func(s *hold.State) {
				s.UnderWay--
				if h.reason != "" {
					s.Failed++
					s.Reason = h.reason
					return
				}
				s.Messages--
				s.Bytes -= 1000
				s.Left.Messages++
				s.Left.Bytes += max(h.size, 1000)
			})
		}
	})
}

func (h *fakeHold) Changed() <-chan struct{} {
	h.asked()
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.changed
}

func (h *fakeHold) Watch() func() {
	h.asked()
	return h.asked
}

func (h *fakeHold) Pin(sels ...queue.Selection) func() {
	h.asked()
	for _, sel := range sels {
		h.mu.Lock()
		h.pins[sel.Queue]++
		h.mu.Unlock()
		h.change(sel.Queue, func(s *hold.State) { s.Open = true })
		h.release(sel.Queue)
	}
	return func() {
		h.asked()
		for _, sel := range sels {
			h.mu.Lock()
			h.pins[sel.Queue]--
			h.mu.Unlock()
		}
	}
}

func (h *fakeHold) Limit(q string, n int) func() {
	h.asked()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.limits[q] = append(h.limits[q], n)
	return func() {
		h.asked()
		h.mu.Lock()
		defer h.mu.Unlock()
		i := slices.Index(h.limits[q], n)
		h.limits[q] = slices.Delete(h.limits[q], i, i+1)
	}
}

func (h *fakeHold) Follow(queues ...string) (func() []hold.State, func()) {
	h.asked()
	return func() (list []hold.State) {
		h.asked()
		if h.looked != nil {
			h.looked()
		}
		h.mu.Lock()
		defer h.mu.Unlock()
		for _, q := range queues {
			s := h.states[q]
			s.Queue = q
			list = append(list, s)
		}
		return list
	}, h.asked
}

func (h *fakeHold) state(q string) hold.State {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.states[q]
}

func (h *fakeHold) Listed() (time.Time, time.Duration, error) {
	h.asked()
	at, err := h.listed()
	return at, 0, err
}

// fakeReceiver is the end of a turned connection, led by a function.
type fakeReceiver struct {
	receive.Options
	serve func(ctx context.Context, r *fakeReceiver, conn net.Conn) error

	mu   sync.Mutex
	c    receive.Counts
	took map[string]bool
}

func (r *fakeReceiver) Serve(ctx context.Context, conn net.Conn) error {
	defer conn.Close()
	return r.serve(ctx, r, conn)
}

func (r *fakeReceiver) Counts() receive.Counts {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.c
}

func (r *fakeReceiver) Took(id string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.took[id]
}

// take counts a message that has come in.
func (r *fakeReceiver) take(id string) {
	r.mu.Lock()
	r.c.Messages++
	r.c.Bytes += 1000
	r.c.Active, r.c.Last = time.Now(), id
	r.took[id] = true
	r.mu.Unlock()
	r.Changed()
}

// turning has the turned connections of a site led by a function.
func turning(serve func(ctx context.Context, s *site, r *fakeReceiver, conn net.Conn) error) options {
	return func(s *site, o *Options) {
		o.Receive = func(ro receive.Options) Receiver {
			r := &fakeReceiver{Options: ro, took: map[string]bool{}, c: receive.Counts{Active: time.Now()}}
			r.serve = func(ctx context.Context, r *fakeReceiver, conn net.Conn) error { return serve(ctx, s, r, conn) }
			return r
		}
	}
}

// twoAddrs resolves every name to 192.0.2.3 and 2001:db8::3.
type twoAddrs struct{ Network }

func (twoAddrs) LookupNetIP(context.Context, string, string) ([]netip.Addr, error) {
	return []netip.Addr{netip.MustParseAddr("192.0.2.3"), netip.MustParseAddr("2001:db8::3")}, nil
}

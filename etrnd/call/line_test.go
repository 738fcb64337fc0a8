package call

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/etrnd/etrnd/internal/api"
	"github.com/etrnd/etrnd/internal/config"
)

// quiet is a remote whose calls last until wait: it accepts and sends nothing.
func (s *site) quiet() { s.hubSays("250 OK, queuing started") }

// Hooks fire twice for one connection, for IPv4 and IPv6: one call.
func TestTwoHooks(t *testing.T) {
	inBubble(t, oneLink(remote("hub", nil)), func(s *site) {
		s.quiet()
		first, second := s.up(), s.up()
		if len(first) != 1 || !slices.Equal(first, second) {
			t.Errorf("calls %v, then %v", first, second)
		}
		s.state(api.LinkUp)
		if third := s.up(); !slices.Equal(first, third) {
			t.Errorf("calls %v, then %v", first, third)
		}
		s.result(0, "")
		s.commands(0, 1)
		if n := len(s.History(10)); n != 1 {
			t.Errorf("%d calls", n)
		}
		if l := s.Links()[0]; l.State != api.LinkDown || l.Interface != "" {
			t.Errorf("the link: %+v", l)
		}
	})
}

// An interface of the link that is not in use neither starts nor ends anything,
// and one of no link is no error.
func TestOtherInterfaces(t *testing.T) {
	inBubble(t, oneLink(remote("hub", nil)), func(s *site) {
		s.quiet()
		s.down() // nobody has heard of it before
		s.up()
		for _, iface := range []string{"ppp1", "eth7"} {
			refs, err := s.LinkUp(api.LinkEvent{Interface: iface})
			if err != nil || (len(refs) > 0) != (iface == "ppp1") {
				t.Errorf("%s came up: %v, %v", iface, refs, err)
			}
			if err := s.LinkDown(api.LinkEvent{Interface: iface}); err != nil {
				t.Errorf("%s went down: %v", iface, err)
			}
		}
		s.state(api.LinkUp)
		if l := s.Links()[0]; l.Interface != "ppp0" || l.Since == nil || !slices.Equal(l.Remotes, []string{"hub"}) {
			t.Errorf("the link: %+v", l)
		}
		s.down()
		s.result(75, "the link went down")
		s.state(api.LinkDown)
		down := s.Links()[0]
		if down.Interface != "" {
			t.Errorf("the link: %+v", down)
		}
		s.commands(0, 0) // it is down already
		time.Sleep(sec)
		s.down() // the hook fires twice
		if l := s.Links()[0]; !l.Since.Equal(*down.Since) {
			t.Errorf("down since %v, before it was %v", l.Since, down.Since)
		}
	})
}

// The link was named first, and the interface is learnt from the next hook.
func TestInterfaceIsLearnt(t *testing.T) {
	inBubble(t, oneLink(remote("hub", nil)), func(s *site) {
		s.quiet()
		if _, err := s.LinkUp(api.LinkEvent{Link: "isp"}); err != nil {
			t.Fatal(err)
		}
		s.up()
		if l := s.Links()[0]; l.Interface != "ppp0" {
			t.Errorf("the link: %+v", l)
		}
		if err := s.LinkDown(api.LinkEvent{Interface: "ppp1"}); err != nil {
			t.Fatal(err)
		}
		s.state(api.LinkUp)
	})
}

// With its name, a link is meant whatever the interface.
func TestLinkByName(t *testing.T) {
	inBubble(t, oneLink(remote("hub", nil)), func(s *site) {
		s.quiet()
		if refs, err := s.LinkUp(api.LinkEvent{Link: "isp", Interface: "tun3"}); err != nil || len(refs) != 1 {
			t.Fatal(refs, err)
		}
		if l := s.Links()[0]; l.Interface != "tun3" {
			t.Errorf("the link: %+v", l)
		}
		if err := s.LinkDown(api.LinkEvent{Link: "isp", Interface: "ppp7"}); err != nil {
			t.Fatal(err)
		}
		s.result(75, "the link went down")
		for what, err := range map[string]error{
			"up":      second(s.LinkUp(api.LinkEvent{Link: "nonsense"})),
			"down":    s.LinkDown(api.LinkEvent{Link: "nonsense"}),
			"hang up": s.HangUp(s.t.Context(), "nonsense"),
			"call":    second(s.Call("nonsense")),
		} {
			if e, ok := errors.AsType[*api.Error](err); !ok || e.Exit != api.ExitUsage || !strings.Contains(e.Hint, "of the configuration: ") {
				t.Errorf("%s: %v", what, err)
			}
		}
	})
}

func second[T any](_ T, err error) error { return err }

// The line goes down and comes up again while the first call is still ending:
// the second one begins when the first has ended, and the queue is not shut
// under it.
func TestFlapWhileACallEnds(t *testing.T) {
	var firstEnds, secondBegins time.Time
	n := 0
	inBubble(t, oneLink(atrnRemote(func(r *config.Remote) { r.RouterType = config.PullPush })), func(s *site) {
		s.provider("250 OK")
		s.up()
		time.Sleep(sec)
		s.down()
		refs := s.up()
		s.state(api.LinkUp)
		if len(refs) != 1 || len(s.Calls()) != 2 {
			t.Errorf("calls made %v, under way %+v", refs, s.Calls())
		}
		results := s.results(2)
		s.check(results[0], 75, "the link went down")
		s.check(results[1], 0, "")
		if secondBegins.Before(firstEnds) {
			t.Errorf("the second call began %v before the first had ended", firstEnds.Sub(secondBegins))
		}
		if s.hold.pinned("hub") != 0 {
			t.Error("the queue is still open")
		}
		s.commands(0, 1)
	}, turning(func(ctx context.Context, s *site, _ *fakeReceiver, _ net.Conn) error {
		if n++; n == 1 {
			<-ctx.Done()
			time.Sleep(10 * sec)
			firstEnds = time.Now()
			return ctx.Err()
		}
		secondBegins = time.Now()
		return nil
	}))
}

// A hook that told of the end was lost: if no call is under way, the next hook
// makes calls even though the link is believed to be up.
func TestLostDownHook(t *testing.T) {
	cfg := oneLink(remote("hub", nil))
	cfg.Links[0].HangUp = nil // it stays up
	inBubble(t, cfg, func(s *site) {
		s.hubSays("251 OK, no messages waiting")
		s.up()
		s.result(0, "")
		s.state(api.LinkUp)
		s.modem.set("ppp1")
		if refs, err := s.LinkUp(api.LinkEvent{Interface: "ppp1"}); err != nil || len(refs) != 1 {
			t.Errorf("calls %v, %v", refs, err)
		}
		s.results(2)
		if l := s.Links()[0]; l.Interface != "ppp1" {
			t.Errorf("the interface in use: %+v", l)
		}
		// A queue of a line that stays up is open until it goes down: what
		// arrives goes at once.
		s.hold.add("hub", 1)
		time.Sleep(sec)
		if st := s.hold.state("hub"); st.Messages != 0 || s.hold.pinned("hub") == 0 {
			t.Errorf("held: %+v", st)
		}
		s.call("hub")
		s.results(3)
		if err := s.LinkDown(api.LinkEvent{Link: "isp"}); err != nil {
			t.Fatal(err)
		}
		s.state(api.LinkDown)
		if n := s.hold.pinned("hub"); n != 0 {
			t.Errorf("the queue is still open, %d times", n)
		}
	})
}

// A line that dials is up when its hook says so, when its interface has an
// address, or, without interfaces, when the command has ended. It is then used
// for all remotes of the link.
func TestDial(t *testing.T) {
	for _, c := range []struct {
		name   string
		ifaces []string
		dial   func(s *site) error
		took   time.Duration
	}{
		{"the hook", []string{"ppp*"}, func(s *site) error {
			time.Sleep(20 * sec)
			if _, err := s.LinkUp(api.LinkEvent{Link: "isp"}); err != nil {
				t.Error(err)
			}
			return nil
		}, 20 * sec},
		{"the interface, while the command still runs", []string{"ppp*"}, func(s *site) error {
			time.Sleep(20 * sec)
			s.modem.set("ppp0")
			time.Sleep(20 * sec)
			return nil
		}, 20*sec + dialLook},
		{"the interface, long after the command has ended", []string{"ppp*"}, func(s *site) error {
			time.AfterFunc(20*sec, func() { s.modem.set("ppp0") })
			return nil
		}, 20*sec + dialLook},
		{"the end of the command, if there are no interfaces", nil, func(s *site) error {
			time.Sleep(20 * sec)
			return nil
		}, 20 * sec},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := oneLink(remote("hub", nil), remote("other", nil))
			cfg.Links[0].Interfaces = c.ifaces
			inBubble(t, cfg, func(s *site) {
				s.hubSays("251 OK, no messages waiting")
				s.modem.dial = func(context.Context) error { return c.dial(s) }
				s.modem.hangUp = func() error {
					if l := s.Links()[0]; strings.HasPrefix(c.name, "the interface") && l.Interface != "ppp0" {
						t.Errorf("the link, before it is hung up: %+v", l)
					}
					s.modem.set("")
					return nil
				}
				start := time.Now()
				ref := s.call("hub")
				if again := s.call("hub"); again != ref {
					t.Errorf("called twice: %v, %v", ref, again)
				}
				s.state(api.LinkDialling)
				if ev := s.Calls()[0]; ev.Phase != api.PhaseDialling || ev.Waiting != "link isp to come up" || ev.Line != 0 {
					t.Errorf("while it dials: %+v", ev)
				}
				results := s.results(2)
				for _, r := range results {
					s.check(r, 0, "")
				}
				if results[0].Remote == results[1].Remote {
					t.Errorf("results: %+v", results)
				}
				if took := results[0].Start.Sub(start); took < c.took-dialLook || took > c.took+100*ms {
					t.Errorf("the call began %v after dialling, want %v", took, c.took)
				}
				s.commands(1, 1)
			})
		})
	}
}

// A line that does not come up ends its calls, and is hung up: it may come up
// late, and nobody would use it.
func TestDialFails(t *testing.T) {
	for _, c := range []struct {
		name    string
		dial    func(ctx context.Context) error
		hangUp  bool
		took    time.Duration
		says    string
		hangUps int
	}{
		{"the command fails", func(context.Context) error { time.Sleep(sec); return errors.New("no carrier") }, true, sec, "no carrier", 1},
		{"it ends well, and no interface comes up", func(context.Context) error { return nil }, true, 2 * time.Minute, "link isp did not come up within 2m0s", 1},
		{"it does not end", func(ctx context.Context) error { <-ctx.Done(); return errors.New("killed") }, true, 2 * time.Minute, "link isp did not come up within 2m0s", 1},
		{"nothing hangs up", func(context.Context) error { return errors.New("no carrier") }, false, 0, "no carrier", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := oneLink(remote("hub", nil), remote("other", nil))
			if !c.hangUp {
				cfg.Links[0].HangUp = nil
			}
			inBubble(t, cfg, func(s *site) {
				s.modem.dial = c.dial
				start := time.Now()
				s.call("hub")
				r := s.result(75, c.says)
				s.took("the end", r.End.Sub(start), c.took)
				if r.Line != 0 || !strings.Contains(r.Hint, "look at the dial command") {
					t.Errorf("result: %+v", r)
				}
				s.state(api.LinkDown)
				s.commands(1, c.hangUps)
				// And again: nothing is left of the first time.
				s.call("hub")
				s.check(s.results(2)[1], 75, c.says)
				// An operator who knows better hangs up all the same.
				if err := s.HangUp(s.t.Context(), "isp"); (err == nil) != c.hangUp {
					t.Errorf("hang up: %v", err)
				}
				s.commands(2, 3*c.hangUps)
			})
		})
	}
}

// A line did not come up, and is being hung up; it is said to be down, and
// somebody calls anew: that line is another one.
func TestNewLineWhileTheOldOneIsGivenUp(t *testing.T) {
	inBubble(t, oneLink(remote("hub", nil)), func(s *site) {
		s.hubSays("251 OK, no messages waiting")
		n := 0
		s.modem.dial = func(context.Context) error {
			if n++; n == 1 {
				return errors.New("no carrier")
			}
			time.Sleep(10 * sec)
			s.modem.set("ppp0")
			return nil
		}
		s.modem.hangUp = func() error { time.Sleep(5 * sec); s.modem.set(""); return nil }
		s.call("hub")
		time.Sleep(sec)
		if err := s.LinkDown(api.LinkEvent{Link: "isp"}); err != nil {
			t.Fatal(err)
		}
		s.call("hub")
		time.Sleep(6 * sec)
		s.state(api.LinkDialling)
		s.check(s.results(1)[0], 75, "no carrier")
		s.check(s.results(2)[1], 0, "")
	})
}

// What is found out about a line that dials is of no use once it has been
// ordered to hang up.
func TestCameUpTooLate(t *testing.T) {
	inBubble(t, oneLink(remote("hub", nil), remote("other", nil)), func(s *site) {
		s.modem.dial = func(ctx context.Context) error { <-ctx.Done(); time.Sleep(sec); return ctx.Err() }
		s.call("hub")
		s.state(api.LinkDialling)
		l := s.links["isp"].line
		order := make(chan error, 1)
		go func() { order <- s.HangUp(s.t.Context(), "isp") }()
		s.state(api.LinkHangingUp)
		l.cameUp("ppp0")
		s.state(api.LinkHangingUp)
		if err := <-order; err != nil {
			t.Error(err)
		}
		s.result(75, "hung up by an operator")
		if n := len(s.History(9)); n != 1 {
			t.Errorf("%d calls", n)
		}
	})
}

// The modem fails, and fails to hang up: the call says why it came to nothing,
// and an operator that the line may be up.
func TestDialAndHangUpFail(t *testing.T) {
	inBubble(t, oneLink(remote("hub", nil)), func(s *site) {
		s.modem.dial = func(context.Context) error { s.modem.set("ppp0"); return errors.New("no carrier") }
		s.modem.hangUp = func() error { return errors.New("the modem is jammed") }
		s.call("hub")
		s.result(75, "no carrier")
		s.commands(1, 3)
		s.state(api.LinkDown)

		s.modem.set("")
		s.modem.dial = func(ctx context.Context) error { <-ctx.Done(); s.modem.set("ppp0"); return ctx.Err() }
		s.call("hub")
		time.Sleep(sec)
		err := s.HangUp(s.t.Context(), "isp")
		if e, ok := errors.AsType[*api.Error](err); !ok || e.Exit != api.ExitTempFail || e.Message != "the modem is jammed" {
			t.Errorf("hang up: %v", err)
		}
		s.commands(2, 6)
	})
}

// The link goes down in the moment in which a line would begin to dial: the
// command is not run.
func TestDownBeforeDialling(t *testing.T) {
	inBubble(t, oneLink(remote("hub", nil)), func(s *site) {
		s.hubSays("251 OK, no messages waiting")
		s.modem.hangUp = func() error { s.down(); time.Sleep(5 * sec); return nil }
		s.up()
		time.Sleep(sec)
		s.call("hub") // waits for the command to hang up
		if err := s.LinkDown(api.LinkEvent{Link: "isp"}); err != nil {
			t.Fatal(err)
		}
		s.check(s.results(2)[1], 75, "the link went down")
		s.commands(0, 2)
	})
}

// The hook says that the link is up in the moment in which an operator hangs
// up: it is not used.
func TestHookAndHangUp(t *testing.T) {
	inBubble(t, oneLink(remote("hub", nil)), func(s *site) {
		s.modem.dial = func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
		s.call("hub")
		time.Sleep(sec)
		s.up()
		if err := s.HangUp(s.t.Context(), "isp"); err != nil {
			t.Error(err)
		}
		s.result(75, "the line was hung up by an operator")
		s.state(api.LinkDown)
		s.commands(1, 1)
	})
}

// Whoever calls while the line goes down by itself gets the call that is on it.
func TestCallWhileHangingUp(t *testing.T) {
	inBubble(t, oneLink(remote("hub", nil)), func(s *site) {
		s.hubSays("251 OK, no messages waiting")
		s.modem.hangUp = func() error { time.Sleep(5 * sec); s.modem.set(""); return nil }
		refs := s.up()
		time.Sleep(sec)
		s.state(api.LinkHangingUp)
		if ref := s.call("hub"); ref != refs[0] {
			t.Errorf("call %v, want %v", ref, refs[0])
		}
		s.result(0, "")
	})
}

// Whoever joins a line that dials is told with the others that it did not come
// up, also when that is only found out meanwhile.
func TestJoinALineThatDoesNotComeUp(t *testing.T) {
	inBubble(t, oneLink(remote("hub", nil), remote("other", nil), remote("third", nil)), func(s *site) {
		s.modem.dial = func(context.Context) error { time.Sleep(sec); return errors.New("no carrier") }
		s.modem.hangUp = func() error { time.Sleep(sec); return nil }
		s.call("hub")
		s.call("other")
		time.Sleep(1500 * ms) // it is being hung up
		s.call("third")
		for _, r := range s.results(3) {
			s.check(r, 75, "no carrier")
		}
		if n := len(s.History(9)); n != 3 {
			t.Errorf("%d calls", n)
		}
	})
}

// An operator hangs up while the line dials: the command to dial is ended, that
// to hang up run once when it has, and the operator told when that is done.
func TestHangUpWhileDialling(t *testing.T) {
	inBubble(t, oneLink(remote("hub", nil)), func(s *site) {
		var ended time.Time
		s.modem.dial = func(ctx context.Context) error {
			<-ctx.Done()
			time.Sleep(sec)
			ended = time.Now()
			return ctx.Err()
		}
		s.modem.hangUp = func() error { time.Sleep(3 * sec); return nil }
		s.call("hub")
		time.Sleep(10 * sec)
		start := time.Now()
		if err := s.HangUp(s.t.Context(), "isp"); err != nil {
			t.Error(err)
		}
		s.took("hanging up", time.Since(start), 4*sec)
		if s.hungUpAt().Before(ended) {
			t.Error("the command to dial still ran")
		}
		s.result(75, "the line was hung up by an operator")
		s.state(api.LinkDown)
		s.commands(1, 1)
	})
}

// An operator hangs up a line with calls; nobody may call meanwhile.
func TestHangUp(t *testing.T) {
	inBubble(t, oneLink(remote("hub", nil), remote("other", nil)), func(s *site) {
		s.quiet()
		s.modem.hangUp = func() error { time.Sleep(3 * sec); s.modem.set(""); return nil }
		s.up()
		time.Sleep(sec)
		done := make(chan error, 1)
		go func() { done <- s.HangUp(s.t.Context(), "isp") }()
		time.Sleep(sec)
		s.state(api.LinkHangingUp)
		_, err := s.Call("hub")
		if e, ok := errors.AsType[*api.Error](err); !ok || e.Exit != api.ExitTempFail || !strings.Contains(e.Message, "just being hung up") {
			t.Errorf("a call while the line is hung up: %v", err)
		}
		if refs, err := s.LinkUp(api.LinkEvent{Interface: "ppp0"}); err != nil || len(refs) != 0 {
			t.Errorf("a late hook: %v, %v", refs, err)
		}
		for _, r := range s.results(2) {
			s.check(r, 75, "hung up by an operator")
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
		s.state(api.LinkDown)
		s.commands(0, 1)
		// The next one dials again.
		s.call("hub")
		s.results(4)
		s.commands(1, 2)
	})
}

// The hook of the hang-up comes while its command still runs: whoever calls
// then dials when the command has ended, and not into it.
func TestCallDuringHangUp(t *testing.T) {
	inBubble(t, oneLink(remote("hub", nil)), func(s *site) {
		s.hubSays("251 OK, no messages waiting")
		var ended time.Time
		s.modem.hangUp = func() error {
			s.down()
			time.Sleep(5 * sec)
			if ended.IsZero() {
				ended = time.Now()
			}
			return nil
		}
		s.up()
		time.Sleep(sec)
		order := make(chan error, 1)
		go func() { order <- s.HangUp(s.t.Context(), "isp") }() // it waits for the one that runs
		s.state(api.LinkHangingUp)
		s.down()
		s.call("hub")
		s.results(2)
		if err := <-order; err != nil {
			t.Error(err)
		}
		if dialled := s.modem.dials[0]; dialled.Before(ended) {
			t.Errorf("dialled %v before the command to hang up had ended", ended.Sub(dialled))
		}
		s.commands(1, 2)
	})
}

// The hook says that the line is down before the command to hang up has ended:
// that is since when it is down.
func TestHookOfTheHangUp(t *testing.T) {
	inBubble(t, oneLink(remote("hub", nil)), func(s *site) {
		s.hubSays("251 OK, no messages waiting")
		s.modem.hangUp = func() error { s.down(); time.Sleep(5 * sec); return nil }
		s.up()
		s.result(0, "")
		if l := s.Links()[0]; l.State != api.LinkDown || !l.Since.Equal(s.hungUpAt()) {
			t.Errorf("hung up at %v, the link: %+v", s.hungUpAt(), l)
		}
	})
}

// An operator hangs up a line whose call takes its time to end; before it has,
// the line is down, and somebody calls anew: that line is another one.
func TestNewLineWhileTheOldOneIsHungUp(t *testing.T) {
	n := 0
	inBubble(t, oneLink(atrnRemote(nil)), func(s *site) {
		s.provider("250 OK")
		s.up()
		time.Sleep(sec)
		s.modem.hangUp = func() error { time.Sleep(5 * sec); return nil }
		order := make(chan error, 1)
		go func() { order <- s.HangUp(s.t.Context(), "isp") }()
		s.state(api.LinkHangingUp)
		s.down()
		s.call("hub")
		s.state(api.LinkDialling)
		time.Sleep(12 * sec) // the call has ended, and the old line is being hung up
		s.commands(0, 1)
		s.state(api.LinkDialling)
		if err := <-order; err != nil {
			t.Error(err)
		}
		s.check(s.results(2)[1], 0, "")
		s.commands(1, 2)
	}, turning(func(ctx context.Context, _ *site, _ *fakeReceiver, _ net.Conn) error {
		if n++; n == 1 {
			<-ctx.Done()
			time.Sleep(10 * sec)
			return ctx.Err()
		}
		time.Sleep(sec)
		return nil
	}))
}

// The hook has said that the line is down, which is no reason not to hang up
// when an operator says so: he may know better.
func TestHangUpALineThatIsDown(t *testing.T) {
	inBubble(t, oneLink(remote("hub", nil)), func(s *site) {
		s.quiet()
		s.up()
		time.Sleep(sec)
		s.down()
		s.result(75, "the link went down")
		if err := s.HangUp(s.t.Context(), "isp"); err != nil {
			t.Error(err)
		}
		s.commands(0, 1)
		s.state(api.LinkDown)
	})
}

// Links without interfaces: that a line is down cannot be seen, so a command
// that fails is tried again, and one that succeeds is believed at once.
func TestHangUpUnseen(t *testing.T) {
	cfg := oneLink(remote("hub", nil))
	cfg.Links[0].Interfaces = nil
	inBubble(t, cfg, func(s *site) {
		s.hubSays("251 OK, no messages waiting")
		s.modem.hangUp = func() error { return errors.New("the modem is jammed") }
		s.call("hub")
		s.result(75, "the modem is jammed")
		s.commands(1, 3)
	})
	always := oneLink(remote("hub", nil))
	always.Links[0].Interfaces, always.Links[0].Dial = nil, nil
	inBubble(t, always, func(s *site) {
		s.hubSays("251 OK, no messages waiting")
		s.call("hub")
		r := s.result(0, "")
		s.took("hanging up", r.End.Sub(s.hungUpAt()), 0)
	})
}

// A line that nobody knows of is hung up when an operator says so.
func TestHangUpUnusedLink(t *testing.T) {
	inBubble(t, oneLink(remote("hub", nil)), func(s *site) {
		if l := s.Links()[0]; l.Since != nil {
			t.Errorf("the link: %+v", l)
		}
		for n := 1; n <= 2; n++ {
			if err := s.HangUp(s.t.Context(), "isp"); err != nil {
				t.Error(err)
			}
			s.state(api.LinkDown)
			s.commands(0, n)
		}
		s.modem.set("ppp0")
		s.modem.hangUp = func() error { return errors.New("no modem") }
		err := s.HangUp(s.t.Context(), "isp")
		if e, ok := errors.AsType[*api.Error](err); !ok || e.Exit != api.ExitTempFail || e.Message != "no modem" {
			t.Errorf("a command that fails: %v", err)
		}
		s.commands(0, 5)
	})
}

// Without a command the calls end, and the operator is told that this was all.
func TestHangUpWithoutACommand(t *testing.T) {
	cfg := oneLink(remote("hub", nil))
	cfg.Links[0].HangUp = nil
	inBubble(t, cfg, func(s *site) {
		refuses := func() {
			t.Helper()
			err := s.HangUp(s.t.Context(), "isp")
			if e, ok := errors.AsType[*api.Error](err); !ok || e.Exit != api.ExitConfig || !strings.Contains(e.Message, "have ended, but it has no command to hang up") {
				t.Errorf("hang up: %v", err)
			}
			s.state(api.LinkDown)
		}
		refuses()
		s.quiet()
		s.up()
		time.Sleep(sec)
		refuses()
		s.result(75, "hung up by an operator")
		s.commands(0, 0)
	})
}

// Nobody waits any more: what has been begun is finished all the same.
func TestHangUpIsFinished(t *testing.T) {
	inBubble(t, oneLink(remote("hub", nil)), func(s *site) {
		s.quiet()
		s.modem.hangUp = func() error { time.Sleep(10 * sec); s.modem.set(""); return nil }
		s.up()
		ctx, cancel := context.WithTimeout(s.t.Context(), sec)
		defer cancel()
		if err := s.HangUp(ctx, "isp"); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		s.state(api.LinkHangingUp)
		time.Sleep(10 * sec)
		s.state(api.LinkDown)
		s.commands(0, 1)
	})
}

// A line that stays up is hung up again, at growing intervals; if it stays up
// for good, the call says so.
func TestHangUpRetries(t *testing.T) {
	inBubble(t, oneLink(remote("hub", nil)), func(s *site) {
		s.hubSays("251 OK, no messages waiting")
		s.modem.hangUp = func() error { return errors.New("the modem is jammed") }
		s.up()
		r := s.result(75, "the modem is jammed")
		if !strings.Contains(r.Hint, "hang up by hand") {
			t.Errorf("hint: %q", r.Hint)
		}
		s.commands(0, 3)
		at := s.modem.hangUps
		s.took("the second try", at[1].Sub(at[0]), 2*sec)
		s.took("the third try", at[2].Sub(at[1]), 4*sec)
		s.state(api.LinkDown)

		// The third time it works.
		n := 0
		s.modem.hangUp = func() error {
			if n++; n < 3 {
				return errors.New("the modem is jammed")
			}
			s.modem.set("")
			return nil
		}
		s.up()
		s.check(s.results(2)[1], 0, "")
		s.commands(0, 6)

		// It goes down by itself before the second try.
		s.modem.hangUp = func() error {
			time.AfterFunc(sec, func() { s.modem.set("") })
			return errors.New("the modem is jammed")
		}
		s.up()
		s.check(s.results(3)[2], 0, "")
		s.commands(0, 7)

		// The hub refuses, and then the modem too: both are told.
		s.hubSays("459 Node not allowed")
		s.modem.hangUp = func() error { return errors.New("the modem is jammed") }
		s.up()
		s.check(s.results(4)[3], 75, "459 Node not allowed; the modem is jammed")
	})
}

// There is no second try when the line has come up for somebody else, nor when
// etrnd is to end.
func TestHangUpRetriesEnd(t *testing.T) {
	t.Run("another line", func(t *testing.T) {
		inBubble(t, oneLink(remote("hub", nil)), func(s *site) {
			s.hubSays("251 OK, no messages waiting", "250 OK")
			s.modem.hangUp = func() error { return errors.New("the modem is jammed") }
			s.up()
			time.Sleep(sec)
			s.down()
			s.up()
			s.result(75, "the modem is jammed")
			s.state(api.LinkUp)
			s.commands(0, 1)
		})
	})
	t.Run("the end of etrnd", func(t *testing.T) {
		inBubble(t, oneLink(remote("hub", nil)), func(s *site) {
			s.hubSays("251 OK, no messages waiting")
			s.modem.hangUp = func() error { return errors.New("the modem is jammed") }
			s.up()
			time.Sleep(sec)
			start := time.Now()
			s.stop()
			s.took("stopping", time.Since(start), 0)
			s.result(75, "the modem is jammed")
			s.commands(0, 1)
		})
	})
}

// The command returns while the line still goes down: a call that comes then
// must not take it for one that is up.
func TestHangUpWaitsForTheInterface(t *testing.T) {
	inBubble(t, oneLink(remote("hub", nil)), func(s *site) {
		s.hubSays("251 OK, no messages waiting")
		s.modem.hangUp = func() error {
			time.AfterFunc(sec, func() { s.modem.set("") })
			return nil
		}
		s.up()
		r := s.result(0, "")
		s.took("the end", r.End.Sub(s.hungUpAt()), sec)
		s.call("hub")
		s.results(2)
		s.commands(1, 2)

		// One that never goes down is waited for two seconds.
		s.modem.hangUp = func() error { return nil }
		s.up()
		r = s.results(3)[2]
		s.took("the end", r.End.Sub(s.modem.hangUps[2]), goneTries*goneLook)
	})
}

// A call has ended, and its mail is still on its way out: the line waits for
// it, and a call that comes meanwhile joins.
func TestDrain(t *testing.T) {
	out := func(r *config.Remote) { r.RouterType = config.PushOnly }
	t.Run("waits", func(t *testing.T) {
		inBubble(t, oneLink(remote("hub", out), remote("other", nil)), func(s *site) {
			s.quiet() // for other, which keeps the line for two minutes
			s.hold.each = 20 * sec
			start := time.Now()
			s.up()
			time.AfterFunc(2*time.Minute-sec, func() { s.hold.add("hub", 1) }) // the call of hub has ended long ago
			s.results(2)
			s.took("the line was held", s.hungUpAt().Sub(start), 2*time.Minute-sec+20*sec)
			if st := s.hold.state("hub"); st.Messages != 0 {
				t.Errorf("held: %+v", st)
			}
		})
	})
	t.Run("not for ever", func(t *testing.T) {
		inBubble(t, oneLink(remote("hub", out), remote("other", nil)), func(s *site) {
			s.quiet()
			s.hold.each = time.Hour
			start := time.Now()
			s.up()
			time.AfterFunc(2*time.Minute-sec, func() { s.hold.add("hub", 1) })
			s.results(2)
			s.took("the line was held", s.hungUpAt().Sub(start), 2*time.Minute+drainMax)
		})
	})
	t.Run("a call joins", func(t *testing.T) {
		inBubble(t, oneLink(remote("hub", out), remote("other", nil), remote("third", out)), func(s *site) {
			s.quiet()
			s.hold.each = 20 * sec
			start := time.Now()
			s.up()
			time.AfterFunc(2*time.Minute-sec, func() { s.hold.add("hub", 1) })
			time.Sleep(2*time.Minute + 5*sec) // all have ended, and the message is on its way
			s.state(api.LinkUp)
			if n := len(s.History(9)); n != 2 {
				t.Errorf("%d calls filed while the line is up, want 2: the last one waits for its end", n)
			}
			s.hold.add("third", 3)
			s.call("third")
			s.check(s.results(4)[3], 0, "")
			s.took("the line was held", s.hungUpAt().Sub(start), 2*time.Minute+5*sec+3*20*sec)
			s.commands(0, 1)
		})
	})
	t.Run("the link goes down", func(t *testing.T) {
		inBubble(t, oneLink(remote("hub", out), remote("other", nil)), func(s *site) {
			s.quiet()
			s.hold.each = 20 * sec
			s.up()
			time.AfterFunc(2*time.Minute-sec, func() { s.hold.add("hub", 1) })
			time.Sleep(2*time.Minute + sec)
			s.state(api.LinkUp)
			s.down()
			s.results(2)
			s.commands(0, 0)
			if n := s.hold.pinned("hub"); n != 0 {
				t.Errorf("the queue is still open, %d times", n)
			}
		})
	})
}

// The limit of a link ends its calls; the line is hung up, or not used until
// somebody says that it is up.
func TestLinkLimit(t *testing.T) {
	for _, hangs := range []bool{true, false} {
		cfg := oneLink(remote("hub", nil))
		cfg.Links[0].Limit = time.Minute
		if !hangs {
			cfg.Links[0].HangUp = nil
		}
		inBubble(t, cfg, func(s *site) {
			s.quiet()
			start := time.Now()
			s.up()
			r := s.result(75, "the limit of 1m0s of link isp was reached")
			s.took("the call", r.End.Sub(start), time.Minute)
			s.state(api.LinkDown)
			s.commands(0, len(cfg.Links[0].HangUp))
			// Now it has a command, if it had none.
			s.SetConfig(oneLink(remote("hub", nil)))
			if err := s.HangUp(s.t.Context(), "isp"); err != nil {
				t.Error(err)
			}
			s.commands(0, len(cfg.Links[0].HangUp)+1)
			if refs := s.up(); len(refs) != 1 {
				t.Errorf("calls after the limit: %v", refs)
			}
		})
	}
}

// A reload takes the link away while its line is up: somebody has to hear that
// it goes down, and then it is gone.
func TestReloadRemovesTheLink(t *testing.T) {
	inBubble(t, oneLink(remote("hub", nil)), func(s *site) {
		s.quiet()
		s.up()
		s.SetConfig(&config.Config{})
		if n := len(s.Links()); n != 0 {
			t.Errorf("%d links", n)
		}
		if _, err := s.Call("hub"); err == nil {
			t.Error("a remote that is gone can be called")
		}
		s.down()
		s.result(75, "the link went down")
		s.SetConfig(&config.Config{})
		if err := s.LinkDown(api.LinkEvent{Link: "isp"}); err == nil {
			t.Error("the link is still known")
		}
		if refs, err := s.LinkUp(api.LinkEvent{Interface: "ppp0"}); refs != nil || err != nil {
			t.Errorf("its interface is still known: %v, %v", refs, err)
		}
	})
	// It is found by its old interfaces, though nobody has said which is in use.
	inBubble(t, oneLink(remote("hub", nil)), func(s *site) {
		s.quiet()
		if _, err := s.LinkUp(api.LinkEvent{Link: "isp"}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(sec)
		s.SetConfig(&config.Config{})
		if err := s.LinkDown(api.LinkEvent{Interface: "eth0"}); err != nil || len(s.Calls()) != 1 {
			t.Errorf("another interface went down: %v, calls %+v", err, s.Calls())
		}
		s.down()
		s.result(75, "the link went down")
	})
	// By its old settings it is hung up.
	inBubble(t, oneLink(remote("hub", nil)), func(s *site) {
		s.quiet()
		s.up()
		s.SetConfig(&config.Config{})
		if err := s.HangUp(s.t.Context(), "isp"); err != nil {
			t.Error(err)
		}
		s.commands(0, 1)
	})
}

// A reload gives a link a command to hang up: it is the one that an operator
// uses, also on a line that came up without it.
func TestReloadAddsACommand(t *testing.T) {
	without := oneLink(remote("hub", nil))
	without.Links[0].HangUp = nil
	inBubble(t, without, func(s *site) {
		s.quiet()
		s.up()
		s.SetConfig(oneLink(remote("hub", nil)))
		if err := s.HangUp(s.t.Context(), "isp"); err != nil {
			t.Error(err)
		}
		s.commands(0, 1)
		s.state(api.LinkDown)
	})
}

// etrnd starts while a line is up: it takes it over.
func TestStartWithTheLineUp(t *testing.T) {
	inBubble(t, oneLink(remote("hub", nil)), func(s *site) {
		s.hubSays("251 OK, no messages waiting")
		s.result(0, "")
		s.commands(0, 1)
	}, func(s *site, _ *Options) {
		s.modem.set("ppp0")
		s.hubSays("251 OK, no messages waiting")
	})
}

// etrnd ends in mid-call: the call says so, the line stays as it is, and nothing
// is begun any more.
func TestStop(t *testing.T) {
	inBubble(t, oneLink(remote("hub", nil)), func(s *site) {
		s.quiet()
		s.up()
		time.Sleep(sec)
		s.stop()
		s.result(75, "etrnd was stopped")
		s.state(api.LinkUp) // as far as anybody knows
		s.commands(0, 0)
		for what, err := range map[string]error{
			"up":      second(s.LinkUp(api.LinkEvent{Link: "isp"})),
			"call":    second(s.Call("hub")),
			"hang up": s.HangUp(context.Background(), "isp"),
		} {
			if !errors.Is(err, errShutdown) {
				t.Errorf("%s after the end: %v", what, err)
			}
		}
		s.commands(0, 0)
	})
}

// etrnd ends while it dials, and while an operator's order is carried out.
func TestStopInBetween(t *testing.T) {
	t.Run("dialling", func(t *testing.T) {
		inBubble(t, oneLink(remote("hub", nil)), func(s *site) {
			s.modem.dial = func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
			s.call("hub")
			time.Sleep(sec)
			s.stop()
			s.result(75, "etrnd was stopped")
			s.commands(1, 0)
		})
	})
	t.Run("hanging up", func(t *testing.T) {
		inBubble(t, oneLink(remote("hub", nil)), func(s *site) {
			s.quiet()
			s.modem.hangUp = func() error { time.Sleep(10 * sec); s.modem.set(""); return nil }
			s.up()
			time.Sleep(sec)
			go s.HangUp(context.Background(), "isp")
			time.Sleep(sec)
			start := time.Now()
			s.stop()
			s.took("stopping", time.Since(start), 9*sec)
			s.commands(0, 1)
		})
	})
}

// A link without interfaces and without a command to dial is always up; one
// that is down and has no command cannot be called.
func TestCallWithoutDialling(t *testing.T) {
	cfg := oneLink(remote("hub", nil))
	cfg.Links[0].Dial, cfg.Links[0].HangUp = nil, nil
	inBubble(t, cfg, func(s *site) {
		s.hubSays("251 OK, no messages waiting")
		_, err := s.Call("hub")
		if e, ok := errors.AsType[*api.Error](err); !ok || e.Exit != api.ExitTempFail || !strings.Contains(e.Message, "no interface like ppp* is up") {
			t.Errorf("a call over a link that is down: %v", err)
		}
		s.modem.set("ppp0")
		s.call("hub")
		s.result(0, "")
		if l := s.Links()[0]; l.Interface != "ppp0" || l.State != api.LinkUp {
			t.Errorf("the link: %+v", l)
		}
	})
	always := oneLink(remote("hub", nil))
	always.Links[0].Interfaces, always.Links[0].Dial, always.Links[0].HangUp = nil, nil, nil
	inBubble(t, always, func(s *site) {
		s.hubSays("251 OK, no messages waiting")
		s.state(api.LinkDown) // nobody has said anything, and there is nothing to see
		s.call("hub")
		s.result(0, "")
	})
}

// A link without remotes has nothing to call for, and is not hung up.
func TestLinkWithoutRemotes(t *testing.T) {
	inBubble(t, oneLink(), func(s *site) {
		if refs := s.up(); len(refs) != 0 {
			t.Errorf("calls %v", refs)
		}
		synctest.Wait()
		s.commands(0, 0)
		if l := s.Links()[0]; l.State != api.LinkDown || len(l.Remotes) != 0 {
			t.Errorf("the link: %+v", l)
		}
	})
}

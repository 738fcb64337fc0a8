package call

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/etrnd/etrnd/internal/api"
	"github.com/etrnd/etrnd/internal/config"
)

// Hooks, calls, orders, reloads and mail in any order and at any moment: each
// call that somebody was told of ends up in the history once, no command runs
// into another, nothing is left open, and the end is the end.
func TestAnyOrder(t *testing.T) {
	for seed := range uint64(60) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			cfg := oneLink(remote("hub", nil), remote("other", func(r *config.Remote) { r.RouterType = config.PushOnly }))
			cfg.Links[0].Limit = 20 * time.Minute
			if seed%4 == 3 {
				cfg.Links[0].HangUp = nil
			}
			inBubble(t, cfg, func(s *site) { anyOrder(s, cfg, rand.New(rand.NewPCG(seed, 1))) })
		})
	}
}

func anyOrder(s *site, cfg *config.Config, r *rand.Rand) {
	pick := func(d time.Duration) time.Duration { return time.Duration(r.Int64N(int64(d))) }
	chance := func(n int) bool { return r.IntN(n) == 0 }
	s.hubSays("250 OK", "251 OK", "253 OK, 2 pending messages", "459 no", "458 busy", "250 OK")

	var hangingUp, dialling atomic.Int32
	dialTime, hangUpTime := pick(3*time.Minute), pick(40*sec)
	comesUp, fails := !chance(4), chance(4)
	s.modem.dial = func(ctx context.Context) error {
		if ctx.Err() != nil {
			return ctx.Err() // as exec.Cmd: it is not begun
		}
		if hangingUp.Load() > 0 {
			s.t.Error("dialled into a command to hang up")
		}
		dialling.Add(1)
		defer dialling.Add(-1)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(dialTime):
		}
		if comesUp {
			s.modem.set("ppp0")
			return nil
		}
		return errors.New("no carrier")
	}
	s.modem.hangUp = func() error {
		if hangingUp.Add(1) > 1 {
			s.t.Error("hung up while it is hung up")
		}
		defer hangingUp.Add(-1)
		time.Sleep(hangUpTime)
		if fails {
			return errors.New("the modem is jammed")
		}
		s.modem.set("")
		s.LinkDown(api.LinkEvent{Interface: "ppp0"})
		return nil
	}

	known := map[string]bool{}
	told := func(refs []api.CallRef, err error) {
		for _, ref := range refs {
			known[ref.Call] = true
		}
		if err != nil {
			if _, ok := errors.AsType[*api.Error](err); !ok {
				s.t.Error(err)
			}
		}
	}
	orders := 0
	answered := make(chan struct{}, 100)
	n := 0
	for range 30 {
		switch r.IntN(9) {
		case 0, 1:
			s.modem.set("ppp0")
			told(s.LinkUp(api.LinkEvent{Interface: "ppp0"}))
		case 2:
			s.modem.set("")
			told(nil, s.LinkDown(api.LinkEvent{Interface: "ppp0"}))
		case 3, 4:
			ref, err := s.Call(cfg.Remotes[r.IntN(len(cfg.Remotes))].Name)
			if err == nil {
				told([]api.CallRef{ref}, nil)
			} else {
				told(nil, err)
			}
		case 5:
			orders++
			go func() {
				told := s.HangUp(context.Background(), "isp")
				if _, ok := errors.AsType[*api.Error](told); told != nil && !ok {
					s.t.Error(told)
				}
				answered <- struct{}{}
			}()
		case 6:
			n++
			s.mail(fmt.Sprintf("M%d", n))
		case 7:
			s.hold.add([]string{"hub", "other"}[r.IntN(2)], 1+r.IntN(3))
		case 8:
			s.SetConfig(cfg)
		}
		if !chance(3) {
			time.Sleep(pick(time.Minute))
		}
	}
	for range orders {
		<-answered
	}
	// Nothing more happens: all comes to its end by itself.
	time.Sleep(time.Hour)
	synctest.Wait()
	if calls := s.Calls(); len(calls) > 0 {
		s.t.Errorf("after an hour there are calls under way: %+v", calls)
	}
	if len(cfg.Links[0].HangUp) > 0 || s.Links()[0].State == api.LinkDown {
		s.state(api.LinkDown)
		for _, q := range []string{"hub", "other"} {
			if n := s.hold.pinned(q); n != 0 {
				s.t.Errorf("queue %s is still open, %d times", q, n)
			}
		}
	}
	if dialling.Load() > 0 || hangingUp.Load() > 0 {
		s.t.Error("a command still runs")
	}
	filed := map[string]int{}
	for _, r := range s.History(historyLength) {
		filed[r.Call]++
	}
	for id := range known {
		if filed[id] != 1 {
			s.t.Errorf("call %s is in the history %d times", id, filed[id])
		}
	}
}

package deliver

import (
	"errors"
	"log/slog"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/etrnd/etrnd/internal/etrn"
	"github.com/etrnd/etrnd/internal/queue"
)

// A site that hangs is given up when its reply is overdue, also when the turn
// had no reply to wait for when it last looked.
func TestQuiet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		defer theirs.Close()
		a := New(Options{Hostname: "hub.example.net", Hold: newCounter(t), ReplyTimeout: 10 * time.Second})
		turn := newTurn(a, ours, etrn.Identity{User: "acme"}, []queue.Selection{{Queue: "acme"}}, slog.New(slog.DiscardHandler))
		turn.inFlight = 1 // a message has come and nothing of it has been sent
		ended := make(chan error, 1)
		go func() { ended <- turn.wait(t.Context()) }()
		synctest.Wait()
		began := time.Now()
		if err := turn.command("MAIL FROM:<s@x.example>\r\n", expected{kind: isMail}); err != nil {
			t.Fatal(err)
		}
		if err := <-ended; !errors.Is(err, errQuiet) {
			t.Errorf("ended with %v", err)
		}
		if took := time.Since(began); took != 10*time.Second {
			t.Errorf("given up after %v", took)
		}
	})
}

// A turn for which the MTA brings nothing, though mail waits, does not end as if
// there were no more.
func TestMTABringsNothing(t *testing.T) {
	for name, c := range map[string]struct {
		down error
		took time.Duration
	}{
		"it is down":               {errors.New("mail system is down"), listWait},
		"it is up, and sits there": {nil, 2 * time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ours, theirs := net.Pipe()
				defer theirs.Close()
				k := newCounter(t)
				k.waiting["acme"], k.down = 1, c.down
				turn := newTurn(New(Options{Hostname: "hub.example.net", Hold: k}), ours, etrn.Identity{User: "acme"}, []queue.Selection{{Queue: "acme"}}, slog.New(slog.DiscardHandler))
				began := time.Now()
				err := turn.wait(t.Context())
				if took := time.Since(began); !errors.Is(err, errNoMTA) || took < c.took || took > c.took+time.Second {
					t.Errorf("ended with %v after %v, want %v", err, took, c.took)
				}
			})
		})
	}
}

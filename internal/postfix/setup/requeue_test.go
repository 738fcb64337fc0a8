//go:build !quick

package setup

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/etrnd/etrnd/internal/mta"
	"github.com/etrnd/etrnd/internal/postfix"
	"github.com/etrnd/etrnd/internal/postfix/postfixtest"
	"github.com/etrnd/etrnd/internal/testbed"
)

// What docs say of mail that was accepted before the clock was set: on hold it
// does not expire however old it is, and put back into the queue with
// "postsuper -r" it has all of its time anew. (Here it is made old by waiting,
// with a short lifetime.)
func TestRequeueGivesTimeAnew(t *testing.T) {
	const lifetime = 4 * time.Second
	o := testbed.PostfixOptions{Main: map[string]string{"maximal_queue_lifetime": "4s", "bounce_queue_lifetime": "4s", "queue_run_delay": "1s", "minimal_backoff_time": "1s", "maximal_backoff_time": "1s"}}
	postfixtest.Inside(t, o, func(t *testing.T, ctx context.Context) {
		pf := postfix.New(postfix.Options{})
		if d, err := pf.Lifetime(ctx); err != nil || d != lifetime {
			t.Errorf("the lifetime is %v (%v)", d, err)
		}
		apply(t, ctx, pf, threeQueues)
		id := postfixtest.Send(t, "a@acme.example")
		postfixtest.Settled(t, ctx, pf, "accepted", func(q postfixtest.Queue) bool { return q[id].Queue == "deferred" })
		if err := pf.PutOnHold(ctx, []string{id}); err != nil {
			t.Fatal(err)
		}
		old := time.Now()
		postfixtest.Settled(t, ctx, pf, "older than it may be", func(q postfixtest.Queue) bool {
			if q[id].Queue != "hold" {
				t.Fatalf("not on hold: %+v", q)
			}
			return time.Since(old) > lifetime+time.Second
		})
		run(t, ctx, "postsuper", "-r", id)
		run(t, ctx, "postkick", "public", "pickup", "W") // which looks once a minute by itself
		q := postfixtest.Settled(t, ctx, pf, "held again", func(q postfixtest.Queue) bool {
			return slices.ContainsFunc(slices.Collect(values(q)), func(m mta.Message) bool { return postfixtest.Held(m, 1) })
		})
		for id, m := range q {
			if m.Sender != postfixtest.Sender {
				t.Errorf("%s is a bounce: %+v", id, m)
			}
		}
	})
}

func values(q postfixtest.Queue) func(func(mta.Message) bool) {
	return func(yield func(mta.Message) bool) {
		for _, m := range q {
			if !yield(m) {
				return
			}
		}
	}
}

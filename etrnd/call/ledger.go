package call

import (
	"context"
	"crypto/rand"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/etrnd/etrnd/internal/api"
)

// historyLength is how many calls that have ended are kept.
const historyLength = 100

// ledger has the calls that are under way and those that have ended, and tells
// those who watch. Its mu is taken after every other but a call's own.
type ledger struct {
	log *slog.Logger

	mu      sync.Mutex
	calls   map[string]*call // under way, by id
	history []api.CallResult
	broke   map[string]time.Time // when a turned connection last ended without QUIT, by remote
	last    time.Time            // the second that the last call is named after
	mark    string               // of this run of etrnd, in the names of calls
	changed chan struct{}        // closed and replaced when a call or a link changes
}

func newLedger(log *slog.Logger) *ledger {
	return &ledger{log: log, mark: strings.ToLower(rand.Text()[:2]), calls: map[string]*call{}, broke: map[string]time.Time{}, changed: make(chan struct{})}
}

// newID names a call: short, sorted by age, and not used again after a restart,
// so that one name in the log is one call. The time alone would not do: the clock
// of a small machine may begin anew with each start.
func (d *ledger) newID() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := time.Now().UTC().Truncate(time.Second)
	if !now.After(d.last) {
		now = d.last.Add(time.Second)
	}
	d.last = now
	return now.Format("20060102-150405") + d.mark
}

// open enters a call.
func (d *ledger) open(cl *call) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.calls[cl.ref.Call] = cl
	d.notifyLocked()
}

// file enters how a call has ended.
func (d *ledger) file(r api.CallResult) {
	log := d.log.With("call", r.Call, "remote", r.Remote, "link", r.Link, "exit", r.Exit,
		"in", r.In.Messages, "out", r.Out.Messages, "duplicates", r.Duplicates, "line", time.Duration(r.Line).Round(100*time.Millisecond))
	if r.Error != "" {
		log.Warn("call ended", "error", r.Error)
	} else {
		log.Info("call ended")
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.calls, r.Call)
	d.history = append(d.history, r)
	if len(d.history) > historyLength {
		d.history = d.history[len(d.history)-historyLength:]
	}
	d.notifyLocked()
}

// turnBroke notes that a turned connection has ended without QUIT.
func (d *ledger) turnBroke(remote string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.broke[remote] = time.Now()
}

// lastTurnBroke is when that was last so; zero: never.
func (d *ledger) lastTurnBroke(remote string) time.Time {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.broke[remote]
}

// notify tells those who watch that something has changed.
func (d *ledger) notify() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.notifyLocked()
}

func (d *ledger) notifyLocked() {
	close(d.changed)
	d.changed = make(chan struct{})
}

func (d *ledger) changes() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.changed
}

// underWay is the latest event of each call that is under way.
func (d *ledger) underWay() []api.CallEvent {
	d.mu.Lock()
	defer d.mu.Unlock()
	events := []api.CallEvent{}
	for _, cl := range d.calls {
		events = append(events, cl.event())
	}
	slices.SortFunc(events, func(a, b api.CallEvent) int { return strings.Compare(a.Call, b.Call) })
	return events
}

// ended is up to n calls that have ended, the latest first.
func (d *ledger) ended(n int) []api.CallResult {
	d.mu.Lock()
	defer d.mu.Unlock()
	results := []api.CallResult{}
	for _, r := range slices.Backward(d.history) {
		if len(results) == n {
			break
		}
		results = append(results, r)
	}
	return results
}

// latest is how a call stands, be it under way or in the history.
func (d *ledger) latest(id string) (api.CallEvent, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if cl := d.calls[id]; cl != nil {
		return cl.event(), true
	}
	for _, r := range slices.Backward(d.history) {
		if r.Call == id {
			return api.CallEvent{CallRef: r.CallRef, Time: r.End, Phase: api.PhaseDone, Line: r.Line, In: r.In, Out: r.Out, Result: &r}, true
		}
	}
	return api.CallEvent{}, false
}

// watchInterval is the least time between two events of a call to one
// watcher, the last one excepted.
const watchInterval = 100 * time.Millisecond

// watch reports on calls until each has ended or ctx does.
func (d *ledger) watch(ctx context.Context, ids []string) (<-chan api.CallEvent, error) {
	for _, id := range ids {
		if _, ok := d.latest(id); !ok {
			return nil, api.Errorf(api.ExitUsage, "\"etrnctl history\" lists those that are known", "there is no call %q", id)
		}
	}
	events := make(chan api.CallEvent)
	w := watcher{ledger: d, open: slices.Clone(ids), sent: map[string]api.CallEvent{}, events: events}
	// The goroutine ends with ctx, which is the request's, or with the calls,
	// which Run waits for.
	go func() {
		defer close(events)
		for {
			changed := d.changes()
			if !w.tell(ctx) || len(w.open) == 0 {
				return
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
			select {
			case <-time.After(watchInterval):
			case <-ctx.Done():
				return
			}
		}
	}()
	return events, nil
}

// watcher is somebody who watches calls.
type watcher struct {
	ledger *ledger
	open   []string // ids of those whose end has not been told
	sent   map[string]api.CallEvent
	events chan<- api.CallEvent
}

// tell sends what is new. It returns false when ctx has ended.
func (w *watcher) tell(ctx context.Context) bool {
	for _, id := range slices.Clone(w.open) {
		ev, ok := w.ledger.latest(id)
		if !ok || ev.Result != nil {
			w.open = slices.DeleteFunc(w.open, func(o string) bool { return o == id })
		}
		if last, again := w.sent[id]; !ok || again && same(last, ev) {
			continue
		}
		select {
		case w.events <- ev:
			w.sent[id] = ev
		case <-ctx.Done():
			return false
		}
	}
	return true
}

// same tells whether an event says nothing that the last one did not.
func same(a, b api.CallEvent) bool {
	return a.Phase == b.Phase && a.Waiting == b.Waiting && a.In == b.In && a.Out == b.Out && b.Result == nil
}

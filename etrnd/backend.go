package etrnd

import (
	"context"
	"iter"
	"os"
	"time"

	"github.com/etrnd/etrnd/etrnd/control"
	"github.com/etrnd/etrnd/internal/api"
	"github.com/etrnd/etrnd/internal/queue"
)

// backend is the daemon as the control socket sees it.
type backend struct{ d *Daemon }

var _ control.Backend = backend{}

// at is a time for JSON, where none is null.
func at(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// listed is when the MTA's queue was last read, and why it cannot be now: then it is
// unknown since when how the queues are. That the MTA has stopped shows before the
// next listing.
func (d *Daemon) listed(ctx context.Context) (listed, unknown time.Time, err error) {
	listed, _, err = d.hold.Listed()
	if err == nil {
		err = d.mta.Up(ctx)
	}
	switch {
	case listed.IsZero():
		d.mu.Lock()
		defer d.mu.Unlock()
		unknown = d.started
	case err != nil:
		unknown = listed
	}
	return listed, unknown, err
}

func (b backend) Status(ctx context.Context) api.Status {
	d := b.d
	cfg := d.config()
	d.mu.Lock()
	s := api.Status{
		Version: d.o.Version, PID: os.Getpid(), Hostname: cfg.Hostname,
		Started: d.started, Uptime: api.Seconds(time.Since(d.started)),
		Config:   api.ConfigStatus{File: d.o.ConfigFile, Loaded: d.loaded, Rejected: at(d.rejected), Problems: d.problems, Restart: d.restart},
		Listen:   d.listeners,
		Warnings: []string{},
	}
	d.mu.Unlock()
	s.Config.Changed = d.fileChanged(cfg)
	for _, w := range cfg.Warnings {
		s.Warnings = append(s.Warnings, w.String())
	}
	s.MTA.Type = cfg.MTA.Type
	listed, unknown, err := d.listed(ctx)
	s.MTA.Reconciled, s.Queues.UnknownSince = at(listed), at(unknown)
	if err != nil {
		s.MTA.Error = err.Error()
	}
	connected, since, sessions := d.inbound.Connected()
	s.Milter = api.MilterStatus{Connected: connected, Since: at(since), Sessions: sessions, Differs: d.milterDiffers(cfg)}
	for _, st := range d.hold.States() {
		s.Queues.Queues++
		s.Queues.Messages += st.Messages
		s.Queues.Bytes += st.Bytes
		s.Queues.UnderWay += st.UnderWay
		s.Queues.Waiting += st.UnderWay - st.InHand
		s.Queues.OnHold += st.OnHold
		if !st.Oldest.IsZero() && (s.Queues.Oldest == nil || st.Oldest.Before(*s.Queues.Oldest)) {
			s.Queues.Oldest = at(st.Oldest)
		}
	}
	s.Nobody = d.nobody(ctx, nobodyShown)
	s.Links = d.caller.Links()
	s.Calls = d.caller.Calls()
	if w := d.setup.warning(ctx, cfg); w != "" {
		s.Warnings = append(s.Warnings, w)
	}
	return s
}

func (b backend) Queues(ctx context.Context) (iter.Seq[*api.Queue], error) {
	_, unknown, _ := b.d.listed(ctx)
	return func(yield func(*api.Queue) bool) {
		// All in the same place, see control.Backend.
		var one struct {
			q                                api.Queue
			oldest, until, released, unknown time.Time
		}
		at := func(place *time.Time, t time.Time) *time.Time {
			if *place = t; t.IsZero() {
				return nil
			}
			return place
		}
		domains := []string{}
		for q, st := range b.d.hold.States() {
			domains = domains[:0]
			for _, p := range q.Domains {
				domains = append(domains, p.String())
			}
			one.q = api.Queue{
				Name: st.Queue, Messages: st.Messages, Bytes: st.Bytes, Oldest: at(&one.oldest, st.Oldest),
				Open: st.Open, OpenUntil: at(&one.until, st.Until), UnderWay: st.UnderWay, Waiting: st.UnderWay - st.InHand, Failed: st.Failed, OnHold: st.OnHold, Released: at(&one.released, st.Released),
				Domains: domains, Deliver: q.Deliver.String(), Remote: q.Remote, UnknownSince: at(&one.unknown, unknown),
			}
			if !yield(&one.q) {
				return
			}
		}
	}, nil
}

func (b backend) Nobody(ctx context.Context) (api.Nobody, error) {
	return b.d.nobody(ctx, nobodyListed), nil
}

func patterns(list []queue.Pattern) []string {
	s := []string{}
	for _, p := range list {
		s = append(s, p.String())
	}
	return s
}

func (b backend) LinkUp(_ context.Context, ev api.LinkEvent) ([]api.CallRef, error) {
	return b.d.caller.LinkUp(ev)
}

func (b backend) LinkDown(_ context.Context, ev api.LinkEvent) error {
	return b.d.caller.LinkDown(ev)
}

func (b backend) Call(_ context.Context, remote string) (api.CallRef, error) {
	return b.d.caller.Call(remote)
}

func (b backend) HangUp(ctx context.Context, link string) error {
	return b.d.caller.HangUp(ctx, link)
}

func (b backend) Watch(ctx context.Context, calls []string) (<-chan api.CallEvent, error) {
	return b.d.caller.Watch(ctx, calls)
}

func (b backend) History(_ context.Context, n int) ([]api.CallResult, error) {
	return b.d.caller.History(n), nil
}

func (b backend) Reload(ctx context.Context) ([]string, error) {
	warnings, err := b.d.Reload(ctx)
	if err != nil {
		return nil, &api.Error{
			Message: "the new configuration is bad; the old one stays in force",
			Hint:    "etrnctl check, as root, says how to mend it; then reload again", Details: problems(err), Exit: api.ExitConfig,
		}
	}
	return warnings, nil
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/etrnd/etrnd/internal/programs"
	"github.com/etrnd/etrnd/internal/testbed"
)

const (
	hubName  = "hub.example.net"
	siteName = "mail.acme.example"
	domain   = "acme.example"
	mailbox  = "crew@" + domain

	hubAddr, siteAddr = "192.0.2.1", "192.0.2.2"
)

// bench is what all runs share.
type bench struct {
	congestion string
	capture    string
	programs   *programs.Set
	runs       int
	hub        []string // settings of main.cf beside etrnd
	log        io.Writer
}

// build builds the programs, as users get them: without the race detector.
func (b *bench) build(ctx context.Context) (err error) {
	b.programs, err = programs.Build(ctx, false)
	return err
}

func (b *bench) close() { _ = b.programs.Close() }

// world is a hub and a site with a line between them, for one run.
type world struct {
	bench     *bench
	hub, site *testbed.Host
	line      *testbed.Link
}

// start makes the hosts. The line is down.
func (b *bench) start(ctx context.Context, bed *testbed.Bed, shape testbed.Shape, seed uint64) (w *world, err error) {
	w = &world{bench: b}
	if w.hub, err = bed.Host(ctx, "hub", testbed.HostOptions{Hostname: hubName}); err != nil {
		return nil, err
	}
	if w.site, err = bed.Host(ctx, "site", testbed.HostOptions{Hostname: siteName}); err != nil {
		return nil, err
	}
	w.line, err = bed.Link(ctx, testbed.LinkOptions{
		A: testbed.End{Host: w.site, Address: siteAddr}, B: testbed.End{Host: w.hub, Address: hubAddr},
		Shape: shape, Seed: seed,
	})
	return w, err
}

// up brings the line up, with the congestion control that was asked for. It is
// set by route: a network namespace inherits the machine's, and may not choose
// one that the machine does not let everybody choose.
func (w *world) up(ctx context.Context) error {
	if err := w.line.Up(ctx); err != nil {
		return err
	}
	for _, e := range []struct {
		h         *testbed.Host
		near, far string
	}{{w.hub, hubAddr, siteAddr}, {w.site, siteAddr, hubAddr}} {
		if _, err := e.h.Run(ctx, "ip", "route", "replace", e.far, "dev", "ppp0", "src", e.near, "congctl", w.bench.congestion); err != nil {
			return err
		}
	}
	return nil
}

// install puts the programs into a host, with a configuration.
func (w *world) install(ctx context.Context, h *testbed.Host, config string) error {
	if err := w.bench.programs.Install(h); err != nil {
		return err
	}
	return h.WriteFile("/etc/etrnd/etrnd.toml", []byte(config), 0o644)
}

// Result of one run.
type Result struct {
	Link         string    `json:"link"`
	Rate         int64     `json:"link_bits_per_second"`
	RTT          float64   `json:"link_round_trip_seconds"`
	Loss         float64   `json:"link_loss"`
	Load         string    `json:"load"`
	Messages     int       `json:"messages"`
	Contender    string    `json:"contender"`
	Settings     string    `json:"settings,omitempty"`
	Error        string    `json:"error,omitempty"`
	Runs         []float64 `json:"request_to_last_of_all_runs"`
	Duplicates   int       `json:"duplicates"`
	Payload      int64     `json:"payload_bytes"`         // messages as the hub sent them
	ToLast       float64   `json:"request_to_last"`       // seconds, from ETRN or ATRN to the last message in the mailbox
	ToFirst      float64   `json:"request_to_first"`      // seconds, to the first
	ToLastSmall  float64   `json:"request_to_last_small"` // seconds, to the last of the small ones
	FromConnect  float64   `json:"connect_to_last"`       // seconds, from the first packet of the call
	BytesToSite  int64     `json:"bytes_to_site"`         // on the line, IP headers included
	BytesToHub   int64     `json:"bytes_to_hub"`
	PktsToSite   int64     `json:"packets_to_site"`
	PktsToHub    int64     `json:"packets_to_hub"`
	Lost         int64     `json:"packets_lost"`
	Overflow     int64     `json:"packets_overflowed"`
	Share        float64   `json:"payload_share"`        // of what the line could have carried from the request to the last message
	SteadyShare  float64   `json:"payload_share_steady"` // the same from the first message to the last, without the first
	LineAfter    float64   `json:"line_after_last"`      // seconds
	EndKnown     bool      `json:"end_known"`            // whether the contender hangs up by itself
	BaseRatio    float64   `json:"-"`
	linkKey, key string
}

// measure makes one run. A failure is part of the result, for the other runs
// still say something.
func (b *bench) measure(ctx context.Context, c testCase, seed uint64) (r Result) {
	r = Result{
		Link: c.link.name, Rate: c.link.shape.Rate, RTT: c.link.shape.RTT.Seconds(), Loss: c.link.shape.Loss,
		Load: c.load.String(), Messages: c.load.small + c.load.large, Contender: c.how.name(),
		linkKey: c.link.key + c.load.key, key: c.how.key(),
	}
	if s, ok := c.how.(stock); ok {
		r.Settings = s.tuning.String()
	}
	if err := b.play(ctx, c, seed, &r); err != nil {
		r.Error = err.Error()
	}
	return r
}

func (b *bench) play(ctx context.Context, c testCase, seed uint64, r *Result) (err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute+c.link.limit)
	defer cancel()
	bed, err := testbed.New(ctx, testbed.Options{})
	if err != nil {
		return err
	}
	defer func() {
		if err != nil && b.capture != "" {
			bed.Dump(b.log)
		}
		err = errors.Join(err, bed.Close())
	}()
	w, err := b.start(ctx, bed, c.link.shape, seed)
	if err != nil {
		return err
	}
	if err := c.how.prepare(ctx, w); err != nil {
		return err
	}
	ids, err := w.hub.SendMany(ctx, "", messages(c.load))
	if err != nil {
		return err
	}
	if err := c.how.held(ctx, w, len(ids)); err != nil {
		return err
	}
	if err := w.up(ctx); err != nil {
		return err
	}
	if b.capture != "" {
		stop, err := w.record(ctx, filepath.Join(b.capture, r.linkKey+"-"+r.key+".pcap"))
		if err != nil {
			return err
		}
		defer stop()
	}

	quiet := w.watch(ctx)
	before := [2]testbed.Counters{w.line.Counters(testbed.AtoB), w.line.Counters(testbed.BtoA)}
	asked, end, err := c.how.request(ctx, w)
	if err != nil {
		return err
	}
	if r.Duplicates, err = w.site.WaitDelivered(ctx, ids); err != nil {
		return fmt.Errorf("%w (%v)", err, w.backlog(ctx))
	}
	list, err := w.site.Delivered()
	if err != nil {
		return err
	}
	last := list[len(list)-1].Time
	var over time.Time
	if end != nil {
		if over, err = end(ctx); err != nil {
			return err
		}
		r.EndKnown = true
	}
	// What is still on its way belongs to the session: the last
	// acknowledgements, and connections that are kept for reuse.
	lastPacket, err := quiet(3*time.Second + 2*c.link.shape.RTT)
	if err != nil {
		return err
	}
	if end == nil {
		over = lastPacket
	}

	toHub, toSite := w.line.Counters(testbed.AtoB), w.line.Counters(testbed.BtoA)
	r.BytesToHub, r.PktsToHub = toHub.Bytes-before[0].Bytes, toHub.Packets-before[0].Packets
	r.BytesToSite, r.PktsToSite = toSite.Bytes-before[1].Bytes, toSite.Packets-before[1].Packets
	r.Lost, r.Overflow = toHub.Lost+toSite.Lost, toHub.Overflow+toSite.Overflow
	r.ToFirst, r.ToLast = list[0].Time.Sub(asked.request).Seconds(), last.Sub(asked.request).Seconds()
	r.FromConnect = last.Sub(asked.connect).Seconds()
	r.LineAfter = max(0, over.Sub(last).Seconds())
	var first int64
	for i, d := range list {
		n, err := sent(w.site, d)
		if err != nil {
			return err
		}
		r.Payload += n
		if i == 0 {
			first = n
		}
		if n < largeSize/2 {
			r.ToLastSmall = d.Time.Sub(asked.request).Seconds()
		}
	}
	r.Share = float64(r.Payload) * 8 / (float64(r.Rate) * r.ToLast)
	if s := r.ToLast - r.ToFirst; s > 0 {
		r.SteadyShare = float64(r.Payload-first) * 8 / (float64(r.Rate) * s)
	}
	return nil
}

// messages makes the load, the large ones spread evenly among the small.
func messages(l load) []testbed.Message {
	var list []testbed.Message
	for i := range l.small {
		if l.large > 0 && i%(l.small/l.large) == 0 && i/(l.small/l.large) < l.large {
			list = append(list, testbed.Message{To: []string{mailbox}, Size: largeSize - headerSize})
		}
		list = append(list, testbed.Message{To: []string{mailbox}, Size: smallSize - headerSize})
	}
	return list
}

// headerSize is about what the test bed puts above a body.
const headerSize = 230

// sent is the size of a message as the hub sent it: without what the site has
// put above, and with the line ends that it has on the line. The tag of our
// own milter is not counted as payload.
func sent(h *testbed.Host, d testbed.Delivered) (int64, error) {
	data, err := h.ReadFile(d.Path)
	if err != nil {
		return 0, err
	}
	text := string(data)
	// The site's own Received field is the first, the hub's the second.
	const field = "\nReceived: "
	i := strings.Index(text, field)
	if i < 0 {
		return 0, fmt.Errorf("%s: no Received field", d.Path)
	}
	j := strings.Index(text[i+1:], field)
	if j < 0 {
		return 0, fmt.Errorf("%s: one Received field, not two", d.Path)
	}
	text = text[i+1+j+1:]
	n := int64(len(text) + strings.Count(text, "\n"))
	if k := strings.Index(text, "\nX-ETRN-Queue:"); k >= 0 {
		n -= int64(strings.Index(text[k+1:], "\n") + 2)
	}
	return n, nil
}

// watch notes when packets cross the line. The function that it returns waits
// until none has crossed for some time, and says when the last one did.
func (w *world) watch(ctx context.Context) (quiet func(time.Duration) (time.Time, error)) {
	ctx, cancel := context.WithCancel(ctx)
	type state struct {
		packets int64
		at      time.Time
	}
	ask, tell := make(chan struct{}), make(chan state)
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		s := state{at: time.Now()}
		for {
			select {
			case <-tick.C:
				n := w.line.Counters(testbed.AtoB).Packets + w.line.Counters(testbed.BtoA).Packets
				if n != s.packets {
					s = state{n, time.Now()}
				}
			case <-ask:
				tell <- s
			case <-ctx.Done():
				return
			}
		}
	}()
	return func(d time.Duration) (time.Time, error) {
		defer func() { cancel(); <-done }()
		var last time.Time
		err := testbed.Until(ctx, "the line to be quiet", func() (bool, error) {
			select {
			case ask <- struct{}{}:
				last = (<-tell).at
			case <-ctx.Done():
				return false, context.Cause(ctx)
			}
			return time.Since(last) >= d, nil
		})
		return last, err
	}
}

// backlog is what is left in the two queues, for the report of a failure.
func (w *world) backlog(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	var s strings.Builder
	for _, h := range []*testbed.Host{w.hub, w.site} {
		q, err := h.Queue(ctx)
		reasons := map[string]int{}
		for _, m := range q {
			for _, rcpt := range m.Recipients {
				reasons[m.Queue+": "+rcpt.Reason]++
			}
		}
		fmt.Fprintf(&s, "%s has %d queued %v %v; ", h.Name, len(q), reasons, err)
	}
	return s.String()
}

// record writes a packet capture of the site's end of the line.
func (w *world) record(ctx context.Context, file string) (stop func(), err error) {
	p, err := w.site.Start(ctx, testbed.StartOptions{Args: []string{"tcpdump", "-U", "-s", "160", "-i", "ppp0", "-w", "/tmp/line.pcap"}})
	if err != nil {
		return nil, err
	}
	err = testbed.Until(ctx, "tcpdump to listen", func() (bool, error) {
		log, err := w.site.ReadFile(p.Log())
		return strings.Contains(string(log), "listening on"), err
	})
	return func() {
		_, _ = p.Stop(context.WithoutCancel(ctx))
		data, err := w.site.ReadFile("/tmp/line.pcap")
		if err == nil {
			err = os.WriteFile(file, data, 0o644)
		}
		if err != nil {
			fmt.Fprintln(w.bench.log, "bench: capture:", err)
		}
		for _, h := range []*testbed.Host{w.hub, w.site} {
			if data, err := h.ReadFile("/var/log/mail.log"); err == nil {
				_ = os.WriteFile(strings.TrimSuffix(file, ".pcap")+"-"+h.Name+".log", data, 0o644)
			}
			if data, err := h.ReadFile("/var/log/etrnd.log"); err == nil {
				_ = os.WriteFile(strings.TrimSuffix(file, ".pcap")+"-"+h.Name+"-etrnd.log", data, 0o644)
			}
		}
	}, err
}

package main

import (
	"bufio"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/etrnd/etrnd/internal/testbed"
)

// tuning is a set of settings of stock Postfix.
type tuning struct {
	name      string
	hub, site map[string]string
	processes int // of the delivery transport; 0: default_process_limit
}

func (t tuning) String() string {
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(t.hub)) {
		parts = append(parts, k+"="+t.hub[k])
	}
	if t.processes != 0 {
		parts = append(parts, fmt.Sprintf("maxproc=%d", t.processes))
	}
	for _, k := range slices.Sorted(maps.Keys(t.site)) {
		parts = append(parts, "site:"+k+"="+t.site[k])
	}
	return strings.Join(parts, " ")
}

var defaults = tuning{name: "default"}

// connections is a tuning for n connections at once, kept for reuse or not.
// The site has to let one client have them.
func connections(n int, cache bool, more ...string) tuning {
	t := tuning{
		name: fmt.Sprintf("c%d", n), processes: n,
		hub: map[string]string{
			"etrn-only_destination_concurrency_limit":             fmt.Sprint(n),
			"etrn-only_initial_destination_concurrency":           fmt.Sprint(n),
			"etrn-only_destination_concurrency_positive_feedback": "1",
		},
		site: map[string]string{
			"smtpd_client_connection_count_limit": "0",
			"default_process_limit":               fmt.Sprint(max(100, n+20)),
		},
	}
	if cache {
		// For all mail to the site, and for longer than a round trip takes.
		t.name += "-cache"
		t.hub["smtp_connection_cache_destinations"] = domain + ", [" + siteName + "], " + siteName
		t.hub["smtp_connection_cache_time_limit"] = "10s"
		t.hub["connection_cache_ttl_limit"] = "10s"
	}
	for i := 0; i+1 < len(more); i += 2 {
		t.hub[more[i]] = more[i+1]
		t.name += "-" + more[i+1]
	}
	return t
}

// tunings are those that -search tries.
var tunings = func() []tuning {
	list := []tuning{defaults, connections(100, false)}
	for _, n := range []int{5, 10, 20, 30, 40, 50, 100, 200, 300, 400, 600} {
		list = append(list, connections(n, true))
	}
	return list
}()

// best are the tunings that won on each link and load, as -search found them.
// Postfix as it comes runs 100 processes of a kind at most; where more of them
// are faster, both figures are of interest.
var best = map[string][]tuning{
	"a/small": {connections(40, true)},
	"a/mix":   {connections(50, true)},
	"b/small": {connections(100, true), connections(400, true)},
	"b/mix":   {connections(100, true)},
	"c/small": {connections(50, true)},
	"c/mix":   {connections(50, true)},
}

// stock is Postfix alone at both ends, set up as its ETRN_README says.
type stock struct{ tuning tuning }

func (s stock) key() string { return s.tuning.name }

func (s stock) name() string {
	if s.tuning.name == defaults.name {
		return "Postfix ETRN, defaults"
	}
	return "Postfix ETRN, tuned " + s.tuning.name
}

func (s stock) prepare(ctx context.Context, w *world) error {
	main := map[string]string{
		"relay_domains":    domain,
		"transport_maps":   "inline:{" + domain + "=etrn-only:[" + siteName + "]}",
		"defer_transports": "etrn-only",
	}
	maps.Copy(main, s.tuning.hub)
	maxproc := "-"
	if s.tuning.processes > 0 {
		maxproc = fmt.Sprint(s.tuning.processes)
	}
	errs := make(chan error, 2)
	go func() {
		_, err := w.hub.Postfix(ctx, testbed.PostfixOptions{
			Main:   main,
			Master: []string{"etrn-only unix - - y - " + maxproc + " smtp"},
		})
		errs <- err
	}()
	go func() {
		_, err := w.site.Postfix(ctx, testbed.PostfixOptions{Main: s.tuning.site, Final: []string{domain}})
		errs <- err
	}()
	err := <-errs
	if other := <-errs; err == nil {
		err = other
	}
	return err
}

func (s stock) held(ctx context.Context, w *world, n int) error {
	return testbed.Until(ctx, fmt.Sprintf("the hub to hold %d messages", n), func() (bool, error) {
		q, err := w.hub.Queue(ctx)
		deferred := 0
		for _, m := range q {
			if m.Queue == "deferred" {
				deferred++
			}
		}
		return deferred == n, err
	})
}

// request asks as any site with a script does: EHLO, ETRN, QUIT.
func (s stock) request(ctx context.Context, w *world) (m moments, end func(context.Context) (time.Time, error), err error) {
	m.connect = time.Now()
	c, err := w.site.Dial(ctx, "tcp", hubAddr+":25")
	if err != nil {
		return m, nil, err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	in := bufio.NewReader(c)
	if err := expect(in, "220"); err != nil {
		return m, nil, err
	}
	for _, command := range []string{"EHLO " + siteName, "ETRN " + domain} {
		m.request = time.Now()
		if _, err := fmt.Fprintf(c, "%s\r\n", command); err != nil {
			return m, nil, err
		}
		if err := expect(in, "250"); err != nil {
			return m, nil, fmt.Errorf("%s: %w", command, err)
		}
	}
	_, err = fmt.Fprint(c, "QUIT\r\n")
	return m, nil, err
}

// expect reads one reply.
func expect(in *bufio.Reader, code string) error {
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return err
		}
		if !strings.HasPrefix(line, code) || len(line) < 4 {
			return fmt.Errorf("the reply is %q, not %s", line, code)
		}
		if line[3] != '-' {
			return nil
		}
	}
}

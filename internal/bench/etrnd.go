package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/etrnd/etrnd/etrnd/control"
	"github.com/etrnd/etrnd/internal/api"
	"github.com/etrnd/etrnd/internal/scenario"
	"github.com/etrnd/etrnd/internal/testbed"
)

// etrnd is our own software on both hosts, with its defaults: the site calls by ATRN.
type etrnd struct{}

func (etrnd) key() string  { return "atrn" }
func (etrnd) name() string { return "etrnd ATRN" }

// No TLS, as with stock Postfix here: it would add its own bytes to both.
const (
	hubConfig = `hostname = "` + hubName + `"
[odmr]
listen = ["0.0.0.0:366"]
users = "/etc/etrnd/users"
[[queue]]
name = "acme"
domains = ["` + domain + `"]
deliver = "turn"
users = ["acme"]
`
	siteConfig = `hostname = "` + siteName + `"
[[link]]
name = "isp"
interfaces = ["ppp0"]
[[remote]]
name = "hub"
link = "isp"
host = "` + hubName + `:366"
protocol = "atrn"
router-type = "pull-only"
request = ["` + domain + `"]
tls = "off"
user = "acme"
password-file = "/etc/etrnd/password"
`
	password = "a pass phrase for the bench"
)

func (etrnd) prepare(ctx context.Context, w *world) error {
	var errs [2]error
	var wg sync.WaitGroup
	wg.Go(func() {
		errs[0] = w.startEtrnd(ctx, w.hub, testbed.PostfixOptions{}, hubConfig, func() error {
			add := w.hub.Command(ctx, "etrnctl", "user", "add", "acme")
			add.Stdin = strings.NewReader(password + "\n")
			_, err := add.Text()
			if err != nil {
				return err
			}
			_, err = w.hub.Run(ctx, "chown", "etrnd", "/etc/etrnd/users")
			return err
		})
	})
	wg.Go(func() {
		errs[1] = w.startEtrnd(ctx, w.site, testbed.PostfixOptions{Final: []string{domain}}, siteConfig, func() error {
			if err := w.site.WriteFile("/etc/etrnd/password", []byte(password+"\n"), 0o600); err != nil {
				return err
			}
			_, err := w.site.Run(ctx, "chown", "etrnd", "/etc/etrnd/password")
			return err
		})
	})
	wg.Wait()
	return errors.Join(errs[:]...)
}

// startEtrnd starts Postfix and both daemons on a host, set up by etrnctl.
func (w *world) startEtrnd(ctx context.Context, h *testbed.Host, o testbed.PostfixOptions, config string, secrets func() error) error {
	if _, err := h.Postfix(ctx, o); err != nil {
		return err
	}
	if err := w.install(ctx, h, config); err != nil {
		return err
	}
	if err := secrets(); err != nil {
		return err
	}
	if _, err := h.Run(ctx, "etrnctl", "setup", "postfix", "--apply"); err != nil {
		return err
	}
	if h == w.hub && len(w.bench.hub) > 0 {
		if _, err := h.Run(ctx, append([]string{"postconf", "-e"}, w.bench.hub...)...); err != nil {
			return err
		}
		// Not at once: Postfix takes a file that has just changed for one
		// that is being written.
		if _, err := h.Run(ctx, "sh", "-c", "touch -d '1 minute ago' /etc/postfix/main.cf && postfix reload"); err != nil {
			return err
		}
	}
	d := scenario.Daemons{Host: h}
	if err := d.StartMilter(ctx); err != nil {
		return err
	}
	return d.StartEtrnd(ctx)
}

func (etrnd) held(ctx context.Context, w *world, n int) error {
	if err := (stock{}).held(ctx, w, n); err != nil {
		return err
	}
	return (&scenario.Daemons{Host: w.hub}).WaitQueue(ctx, "acme", n)
}

// request tells the site's etrnd that its line is up, as a hook does, and
// watches the call that comes of it.
func (etrnd) request(ctx context.Context, w *world) (m moments, end func(context.Context) (time.Time, error), err error) {
	c := control.NewClient(control.ClientOptions{Socket: w.site.Path(control.DefaultSocket)})
	calls, err := c.LinkUp(ctx, api.LinkEvent{Link: "isp", Interface: "ppp0"})
	if err != nil {
		return m, nil, err
	}
	if len(calls) != 1 {
		return m, nil, fmt.Errorf("the site makes %d calls, not one", len(calls))
	}
	asked := make(chan struct{})
	var (
		once    sync.Once
		result  *api.CallResult
		watched error
		done    = make(chan struct{})
		phases  []string
	)
	go func() {
		defer close(done)
		defer c.Close()
		watched = c.Watch(ctx, []string{calls[0].Call}, func(ev api.CallEvent) error {
			if p := string(ev.Phase); len(phases) == 0 || phases[len(phases)-1] != p {
				phases = append(phases, p)
			}
			switch {
			case ev.Phase == api.PhaseConnecting && m.connect.IsZero():
				m.connect = ev.Time
			case slices.Contains([]api.Phase{api.PhaseRequest, api.PhaseReceiving}, ev.Phase) && m.request.IsZero():
				m.request = ev.Time
				once.Do(func() { close(asked) })
			}
			if ev.Result != nil {
				result = ev.Result
			}
			return nil
		})
	}()
	select {
	case <-asked:
	case <-done:
	case <-ctx.Done():
	}
	if m.request.IsZero() {
		<-done
		return m, nil, fmt.Errorf("the call never asked: phases %v, result %+v: %w", phases, result, watched)
	}
	return m, func(ctx context.Context) (time.Time, error) {
		select {
		case <-done:
		case <-ctx.Done():
			return time.Time{}, ctx.Err()
		}
		switch {
		case watched != nil:
			return time.Time{}, watched
		case result == nil:
			return time.Time{}, errors.New("the call has no result")
		case result.Exit != 0:
			return time.Time{}, fmt.Errorf("the call failed: %s", result.Error)
		}
		return result.End, nil
	}, nil
}

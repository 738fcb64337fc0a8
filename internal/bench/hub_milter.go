package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"time"

	gomilter "github.com/d--j/go-milter"

	"github.com/etrnd/etrnd/internal/scenario"
	"github.com/etrnd/etrnd/internal/testbed"
)

const (
	milterMessages = 1500
	milterRounds   = 4
	// milterSessions at one time, each with one message after the other.
	milterSessions = 10
)

const milterConfig = `hostname = "` + hubName + `"
[odmr]
listen = ["127.0.0.1:366"]
[[queue]]
name = "acme"
domains = ["` + domain + `"]
deliver = "smtp:[` + siteName + `]"
clients = ["192.0.2.2"]
`

// hubMilter measures what a milter costs: messages a second through Postfix with
// none, with one that does nothing at all, and with ours.
func hubMilter(ctx context.Context, b *bench) (rows []hubRow, err error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Minute)
	defer cancel()
	// In the process limits of a Postfix as it comes, and with nothing beside.
	h, mta, end, err := b.hubBed(ctx, testbed.PostfixOptions{Main: map[string]string{
		"smtpd_client_connection_count_limit": "0",
		"relay_domains":                       domain + ", elsewhere.example",
		"transport_maps":                      "inline:{ elsewhere.example=discard: }",
		"queue_run_delay":                     "1h",
	}}, milterConfig)
	if err != nil {
		return nil, err
	}
	defer func() { end(&err) }()
	if _, err := h.Run(ctx, "etrnctl", "setup", "postfix", "--apply"); err != nil {
		return nil, err
	}
	d := &scenario.Daemons{Host: h}
	if err := d.StartMilter(ctx); err != nil {
		return nil, err
	}
	if err := d.StartEtrnd(ctx); err != nil {
		return nil, err
	}
	stop, err := least(h)
	if err != nil {
		return nil, err
	}
	defer stop()

	contenders := []struct{ what, milters string }{
		{"no milter", ""},
		{"a milter that does nothing", "unix:least.sock"},
		{"ours", "unix:etrnd/milter.sock"},
	}
	for _, mail := range []struct{ what, to string }{{"not held", "crew@elsewhere.example"}, {"held", mailbox}} {
		rates := make([][]float64, len(contenders))
		for range milterRounds {
			for i, c := range contenders {
				if err := mta.Set(ctx, map[string]string{"smtpd_milters": c.milters}); err != nil {
					return rows, err
				}
				if err := mta.Reload(ctx); err != nil {
					return rows, err
				}
				// The first messages start the processes.
				if _, err := source(ctx, h, mail.to, 2*milterSessions); err != nil {
					return rows, err
				}
				took, err := source(ctx, h, mail.to, milterMessages)
				if err != nil {
					return rows, err
				}
				rates[i] = append(rates[i], milterMessages/took.Seconds())
				if _, err := h.Run(ctx, "sh", "-c", "postsuper -d ALL 2>/dev/null"); err != nil {
					return rows, err
				}
			}
		}
		for i, c := range contenders {
			slices.Sort(rates[i])
			what := fmt.Sprintf("mail that is %s, %s", mail.what, c.what)
			rows = append(rows,
				hubRow{What: what + ", middle", Value: median(rates[i]), Unit: "messages/s"},
				hubRow{What: what + ", best", Value: rates[i][len(rates[i])-1], Unit: "messages/s"})
			fmt.Fprintf(b.log, "bench: hub, milter: %s: %.0f of %.0f\n", what, median(rates[i]), rates[i])
		}
	}
	return rows, nil
}

// median is the middle of what is sorted: between the two middle ones of an even
// number.
func median[N time.Duration | float64](sorted []N) N {
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

// source hands in messages.
func source(ctx context.Context, h *testbed.Host, to string, n int) (time.Duration, error) {
	began := time.Now()
	_, err := h.Run(ctx, "smtp-source", "-s", fmt.Sprint(milterSessions), "-m", fmt.Sprint(n), "-l", "2000", "-f", "sender@elsewhere.example", "-t", to, "127.0.0.1:25")
	return time.Since(began), err
}

// least serves the least that a milter can be: it asks for nothing.
func least(h *testbed.Host) (stop func(), err error) {
	ln, err := h.Listen("unix", "/var/spool/postfix/least.sock")
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(h.Path("/var/spool/postfix/least.sock"), 0o666); err != nil {
		return nil, err
	}
	s := gomilter.NewServer(
		gomilter.WithMilter(func() gomilter.Milter { return &gomilter.NoOpMilter{} }),
		gomilter.WithProtocols(gomilter.OptNoConnect|gomilter.OptNoHelo|gomilter.OptNoMailFrom|gomilter.OptNoRcptTo|gomilter.OptNoData|
			gomilter.OptNoHeaders|gomilter.OptNoEOH|gomilter.OptNoBody|gomilter.OptNoUnknown),
	)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(ln)
	}()
	return func() { _ = s.Close(); <-done }, nil
}

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/etrnd/etrnd/internal/api"
	"github.com/etrnd/etrnd/internal/scenario"
	"github.com/etrnd/etrnd/internal/testbed"
)

// keptMessages go each way in one call, of keptSize bytes.
const (
	keptMessages = 5
	keptSize     = 3000
)

// keptLines are lines on which few messages go at a time.
var keptLines = []link{
	{"", "2,400 bit/s, 1.8 s", testbed.Shape{RTT: 1800 * time.Millisecond, Rate: 2400}, 20 * time.Minute},
	{"", "256 kbit/s, 600 ms", testbed.Shape{RTT: 600 * time.Millisecond, Rate: 256e3}, 5 * time.Minute},
	{"", "1 Mbit/s, 150 ms", testbed.Shape{RTT: 150 * time.Millisecond, Rate: 1e6}, 5 * time.Minute},
}

// hubKept measures what it is worth that connections with TLS are kept for the next
// message: a call by ETRN, with mail both ways from Postfix to Postfix. Both are
// measured side by side, on lines of their own; of several runs the one in the middle
// counts.
func hubKept(ctx context.Context, b *bench) (rows []hubRow, err error) {
	for _, l := range keptLines {
		var calls [2]keptCall
		var runs [2][]keptCall
		for range b.runs {
			var errs [2]error
			var wg sync.WaitGroup
			for i := range calls {
				wg.Go(func() { calls[i], errs[i] = b.keptCall(ctx, l, i == 1) })
			}
			wg.Wait()
			if err := errors.Join(errs[:]...); err != nil {
				return rows, fmt.Errorf("%s: %w", l.name, err)
			}
			fmt.Fprintf(b.log, "bench: kept: %s: %.1f s and %d bytes, kept %.1f s and %d bytes\n", l.name, calls[0].line.Seconds(), calls[0].bytes, calls[1].line.Seconds(), calls[1].bytes)
			for i, c := range calls {
				runs[i] = append(runs[i], c)
			}
		}
		for i, list := range runs {
			slices.SortFunc(list, func(x, y keptCall) int { return cmp.Compare(x.line, y.line) })
			calls[i] = list[len(list)/2]
		}
		what := fmt.Sprintf("%s; %d messages each way over TLS, ", l.name, keptMessages)
		for i, how := range []string{"one for each", "connections kept"} {
			rows = append(rows,
				hubRow{What: what + how, Value: calls[i].line.Seconds(), Unit: "s"},
				hubRow{What: what + how, Value: float64(calls[i].bytes), Unit: "bytes"})
		}
		rows = append(rows, hubRow{What: what + "times faster", Value: calls[0].line.Seconds() / calls[1].line.Seconds()})
	}
	return rows, nil
}

// keptCall is what a call took of its line.
type keptCall struct {
	line  time.Duration
	bytes int64 // both ways
}

func (b *bench) keptCall(ctx context.Context, l link, kept bool) (k keptCall, err error) {
	ctx, cancel := context.WithTimeout(ctx, l.limit)
	defer cancel()
	bed, err := testbed.New(ctx, testbed.Options{})
	if err != nil {
		return k, err
	}
	defer func() {
		if err != nil {
			bed.Dump(b.log)
		}
		err = errors.Join(err, bed.Close())
	}()
	o := scenario.Options{Programs: b.programs, Shape: l.shape}
	if !kept {
		no := map[string]string{"smtp_tls_connection_reuse": "no"} // which the set-up obeys
		o.HubMain, o.SiteMain = no, no
	}
	w, err := scenario.New(ctx, bed, o)
	if err != nil {
		return k, err
	}
	for _, h := range []*testbed.Host{w.HubHost, w.SiteHost} {
		req := "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=" + h.Hostname + " -days 30 -keyout /etc/postfix/own.key -out /etc/postfix/own.pem"
		if _, err := h.Run(ctx, strings.Fields(req)...); err != nil {
			return k, err
		}
		if _, err := h.Run(ctx, "postconf", "-e", "smtpd_tls_key_file=/etc/postfix/own.key", "smtpd_tls_cert_file=/etc/postfix/own.pem", "smtpd_tls_security_level=may", "smtp_tls_security_level=may"); err != nil {
			return k, err
		}
		if _, err := h.Run(ctx, "postfix", "reload"); err != nil {
			return k, err
		}
	}
	in, err := w.Online.SendMany(ctx, "hub.example.net:25", scenario.Messages(keptMessages, keptSize, "a@acme.example"))
	if err != nil {
		return k, err
	}
	out, err := w.Office.SendMany(ctx, "203.0.113.1:25", scenario.Messages(keptMessages, keptSize, "c@online.example"))
	if err != nil {
		return k, err
	}
	if err := errors.Join(w.Hub.WaitQueue(ctx, "acme", keptMessages), w.Site.WaitQueue(ctx, "hub", keptMessages)); err != nil {
		return k, err
	}
	if _, err := w.Site.Ctl(ctx, "call", "hub", "--wait"); err != nil {
		return k, err
	}
	var results []api.CallResult
	if err := w.Site.CtlJSON(ctx, &results, "history"); err != nil {
		return k, err
	}
	if len(results) != 1 || results[0].In.Messages != keptMessages || results[0].Out.Messages != keptMessages {
		return k, fmt.Errorf("not the call that was to be measured: %+v", results)
	}
	if _, err := w.SiteHost.WaitDelivered(ctx, in); err != nil {
		return k, err
	}
	if _, err := w.Online.WaitDelivered(ctx, out); err != nil {
		return k, err
	}
	k.line = time.Duration(results[0].Line)
	k.bytes = w.Line.Counters(testbed.AtoB).Bytes + w.Line.Counters(testbed.BtoA).Bytes
	return k, nil
}

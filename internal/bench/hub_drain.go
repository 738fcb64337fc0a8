package main

import (
	"context"
	"fmt"
	"time"

	"github.com/etrnd/etrnd/etrnd/control"
	"github.com/etrnd/etrnd/internal/scenario"
	"github.com/etrnd/etrnd/internal/testbed"
)

// drainMessages wait for a site that takes mail as fast as it comes.
const drainMessages = 5000

// hubDrain measures how long all the mail of a queue takes to a quick site:
// when there is no other mail, so that Postfix is asked once for all of it; when
// there is some, so that it is asked for each message; and by Postfix alone.
func hubDrain(ctx context.Context, b *bench) (rows []hubRow, err error) {
	for _, c := range []struct {
		what     string
		others   bool
		postfixs bool
	}{
		{"Postfix alone (postqueue -s)", false, true},
		{"etrnd, no other mail", false, false},
		{"etrnd, among other mail", true, false},
	} {
		took, err := drain(ctx, b, c.others, c.postfixs)
		if err != nil {
			return rows, fmt.Errorf("%s: %w", c.what, err)
		}
		rows = append(rows, hubRow{What: fmt.Sprintf("%d messages to a quick site, %s", drainMessages, c.what), Value: took.Seconds(), Unit: "s"})
		fmt.Fprintf(b.log, "bench: hub, drain: %s: %.1f s\n", c.what, took.Seconds())
	}
	return rows, nil
}

func drain(ctx context.Context, b *bench, others, alone bool) (took time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	config := "hostname = \"" + hubName + "\"\n[[queue]]\nname = \"c00000\"\ndomains = [\"c00000.example\"]\ndeliver = \"smtp:[127.0.0.1]:2525\"\n"
	h, _, end, err := b.hubBed(ctx, testbed.PostfixOptions{Main: hubMain, Master: hubMaster, Files: hubFiles}, config)
	if err != nil {
		return 0, err
	}
	defer func() { end(&err) }()
	sink, err := h.Start(ctx, testbed.StartOptions{Args: []string{"smtp-sink", "-u", "nobody", "-c", "127.0.0.1:2525", "1000"}})
	if err != nil {
		return 0, err
	}
	defer func() { _ = sink.Kill() }()
	if err := fill(ctx, h, drainMessages, 1); err != nil {
		return 0, err
	}
	if others {
		if _, err := h.SendMany(ctx, "", []testbed.Message{{To: []string{"crew@c00001.example"}, Size: 500}}); err != nil {
			return 0, err
		}
	}
	left := 0
	if others {
		left = 1
	}
	if alone {
		began := time.Now()
		if _, err := h.Run(ctx, "postqueue", "-s", "c00000.example"); err != nil {
			return 0, err
		}
		err = h.WaitQueue(ctx, left)
		return time.Since(began), err
	}
	d := &scenario.Daemons{Host: h}
	if err := d.StartEtrnd(ctx); err != nil {
		return 0, err
	}
	if err := d.WaitQueue(ctx, "c00000", drainMessages); err != nil {
		return 0, err
	}
	client := control.NewClient(control.ClientOptions{Socket: h.Path(control.DefaultSocket)})
	defer client.Close()
	began := time.Now()
	if _, err := client.Release(ctx, "c00000"); err != nil {
		return 0, err
	}
	err = h.WaitQueue(ctx, left)
	return time.Since(began), err
}

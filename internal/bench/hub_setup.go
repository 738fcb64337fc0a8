package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/etrnd/etrnd/internal/testbed"
)

// hubSetup measures how long a Postfix takes to be set up for many queues, each
// with three names and a file of its own, and then for one customer more.
func hubSetup(ctx context.Context, b *bench) (rows []hubRow, err error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	h, _, end, err := b.hubBed(ctx, testbed.PostfixOptions{}, "hostname = \""+hubName+"\"\ninclude = \"queues.d\"\n")
	if err != nil {
		return nil, err
	}
	defer func() { end(&err) }()
	const dir = "/etc/etrnd/queues.d"
	if err := os.MkdirAll(h.Path(dir), 0o755); err != nil {
		return nil, err
	}
	customer := func(i int) error {
		name := hubName5(i)
		text := fmt.Sprintf("[[queue]]\nname = %q\ndomains = [\"%s.example\", \".%s.example\", \"%s.example.net\"]\ndeliver = \"smtp:[mail.%s.example]\"\nclients = [\"192.0.2.%d\"]\n", name, name, name, name, name, i%256)
		return os.WriteFile(filepath.Join(h.Path(dir), name+".toml"), []byte(text), 0o644)
	}
	for i := range hubQueues {
		if err := customer(i); err != nil {
			return nil, err
		}
	}
	timed := func(what, aim string, args ...string) (string, error) {
		began := time.Now()
		out, err := h.Run(ctx, append([]string{"etrnctl"}, args...)...)
		took := time.Since(began).Seconds()
		rows = append(rows, hubRow{What: what, Value: took, Unit: "s", Aim: aim})
		fmt.Fprintf(b.log, "bench: hub, setup: %s: %.4g s\n", what, took)
		return out, err
	}
	all := fmt.Sprintf("%d queues with %d names", hubQueues, 3*hubQueues)
	if _, err := timed("etrnctl setup postfix --apply, "+all, "aim: 10", "setup", "postfix", "--apply"); err != nil {
		return rows, err
	}
	main, err := h.ReadFile("/etc/postfix/main.cf")
	if err != nil {
		return rows, err
	}
	if out, err := timed("etrnctl setup postfix, nothing to do", "", "setup", "postfix"); err != nil || !strings.Contains(out, "nothing to do") {
		return rows, fmt.Errorf("set up, and still there is something to do: %w\n%.2000s", err, out)
	}
	reloads := func() (int, error) {
		log, err := h.ReadFile("/var/log/mail.log")
		return strings.Count(string(log), "reload -- version"), err
	}
	before, err := reloads()
	if err != nil {
		return rows, err
	}
	if err := customer(hubQueues); err != nil {
		return rows, err
	}
	// Most of it is the wait for Postfix's resolver, which looks every ten seconds.
	if _, err := timed("etrnctl setup postfix --apply, one customer more", "aim: 10", "setup", "postfix", "--apply"); err != nil {
		return rows, err
	}
	after, err := reloads()
	if err != nil {
		return rows, err
	}
	rows = append(rows, hubRow{What: "reloads of Postfix for that customer", Value: float64(after - before), Aim: "aim: 0"})
	if _, err := timed("etrnctl check", "", "check"); err != nil {
		return rows, err
	}
	now, err := h.ReadFile("/etc/postfix/main.cf")
	if err != nil {
		return rows, err
	}
	if string(now) != string(main) {
		return rows, fmt.Errorf("main.cf has grown with the customer:\n%.2000s", now)
	}
	rows = append(rows, hubRow{What: "main.cf", Value: float64(len(now)), Unit: "bytes"})
	return rows, nil
}

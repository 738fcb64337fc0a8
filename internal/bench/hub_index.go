package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/etrnd/etrnd/etrnd/control"
	"github.com/etrnd/etrnd/internal/scenario"
	"github.com/etrnd/etrnd/internal/testbed"
)

// A provider: so many queues, so much mail.
const (
	hubQueues   = 10_000
	hubMessages = 100_000
	hubAsked    = 2_000 // queues that are asked for
	hubStill    = time.Minute
	hubShown    = 21  // times that each command is given
	hubApart    = 500 // queues that are asked for with a pause
	hubPause    = 50 * time.Millisecond
)

// A Postfix that holds mail for all of them, without any set-up that grows with
// their number.
var (
	hubMain = map[string]string{
		"relay_domains":            "regexp:/etc/postfix/customers",
		"transport_maps":           "regexp:/etc/postfix/customers",
		"defer_transports":         "transient",
		"fast_flush_domains":       "regexp:/etc/postfix/customers",
		"mynetworks":               "127.0.0.0/8",
		"queue_run_delay":          "1h", // messages are put in place by hand
		"smtpd_junk_command_limit": "1000",
	}
	hubMaster = []string{"transient unix - - n - - smtp"}
	hubFiles  = map[string]string{"/etc/postfix/customers": "/c[0-9]{5}\\.example$/ transient:[127.0.0.1]:2525\n"}
)

func hubName5(i int) string { return fmt.Sprintf("c%05d", i) }

// hubIndex measures what a hub with much mail costs: until its index is whole, in
// memory, when it is asked and while nothing happens.
func hubIndex(ctx context.Context, b *bench) (rows []hubRow, err error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Minute)
	defer cancel()
	const config = "hostname = \"" + hubName + "\"\ninclude = \"queues.d\"\n[odmr]\nlisten = [\"127.0.0.1:366\"]\nmax-connections-per-client = 100\n"
	// The set-up is another measurement: here it is by patterns.
	h, _, end, err := b.hubBed(ctx, testbed.PostfixOptions{Main: hubMain, Master: hubMaster, Files: hubFiles}, config)
	if err != nil {
		return nil, err
	}
	defer func() { end(&err) }()
	row := func(what string, value float64, unit, aim string) {
		rows = append(rows, hubRow{What: what, Value: value, Unit: unit, Aim: aim})
		fmt.Fprintf(b.log, "bench: hub, index: %s: %.4g %s\n", what, value, unit)
	}

	if err := os.MkdirAll(h.Path("/etc/etrnd/queues.d"), 0o755); err != nil {
		return nil, err
	}
	for i := range hubQueues {
		name := hubName5(i)
		text := fmt.Sprintf("[[queue]]\nname=%q\ndomains=[\"%s.example\"]\ndeliver=\"turn\"\nclients=[\"127.0.0.1\"]\n", name, name)
		if err := os.WriteFile(h.Path("/etc/etrnd/queues.d/"+name+".toml"), []byte(text), 0o644); err != nil {
			return nil, err
		}
	}
	d := &scenario.Daemons{Host: h}
	client := control.NewClient(control.ClientOptions{Socket: h.Path(control.DefaultSocket)})
	defer client.Close()
	start := func(want int) (took time.Duration, err error) {
		began := time.Now()
		if err := d.StartEtrnd(ctx); err != nil {
			return 0, err
		}
		err = testbed.Until(ctx, "the index to be whole", func() (bool, error) {
			time.Sleep(500 * time.Millisecond) // the question takes some of the processor's time
			// Not by a status, for which it is found out how Postfix is set up.
			list, err := client.Queues(ctx)
			n := 0
			for _, q := range list {
				n += q.Messages
			}
			return n == want, err
		})
		return time.Since(began), err
	}

	// A reload lists once more, over an index that is full, and what goes on in
	// the queue meanwhile may make it list again.
	again := func() error {
		if _, err := client.Reload(ctx); err != nil {
			return err
		}
		select {
		case <-time.After(20 * time.Second):
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}

	// With the same configuration and nothing held.
	if _, err := start(0); err != nil {
		return nil, err
	}
	// It is asked for, too: who it is must not cost anything in a status.
	if err := d.StartMilter(ctx); err != nil {
		return nil, err
	}
	if err := again(); err != nil {
		return nil, err
	}
	base, basePeak, err := memoryOf(d.Etrnd.PID())
	if err != nil {
		return nil, err
	}
	if _, err := d.Etrnd.Stop(ctx); err != nil {
		return nil, err
	}

	if err := fill(ctx, h, hubMessages, hubQueues); err != nil {
		return nil, err
	}
	listing := time.Now()
	if _, err := h.Run(ctx, "sh", "-c", "postqueue -j | wc -l"); err != nil {
		return nil, err
	}
	row("postqueue -j alone", time.Since(listing).Seconds(), "s", "")
	took, err := start(hubMessages)
	if err != nil {
		return nil, err
	}
	row(fmt.Sprintf("start with %d queues and %d messages, until the index is whole", hubQueues, hubMessages), took.Seconds(), "s", "aim: 15")
	if used, err := processorOf(d.Etrnd.PID()); err == nil {
		row("the processor's time in that, postqueue's included", used.Seconds(), "s", "")
	}
	if err := again(); err != nil {
		return rows, err
	}
	now, peak, err := memoryOf(d.Etrnd.PID())
	if err != nil {
		return nil, err
	}
	row("memory for each held message, resident after the start", float64(now-base)/hubMessages, "bytes", "aim: 300")
	row("memory for each held message, the most that it ever was", float64(peak-basePeak)/hubMessages, "bytes", "aim: 300")
	row("memory without any message", float64(base)/1e6, "MB", "")

	for _, q := range []struct {
		what string
		do   func() error
	}{
		{"queues", func() error { _, err := client.Queues(ctx); return err }},
		{"etrnctl queues", func() error { _, err := h.Run(ctx, "etrnctl", "queues"); return err }},
		{"status", func() error { _, err := client.Status(ctx); return err }},
		{"etrnctl status", func() error { _, err := h.Run(ctx, "etrnctl", "status"); return err }},
	} {
		var took []time.Duration
		before, err := processorOf(d.Etrnd.PID())
		if err != nil {
			return rows, err
		}
		for range hubShown {
			began := time.Now()
			if err := q.do(); err != nil {
				return rows, err
			}
			took = append(took, time.Since(began))
		}
		after, err := processorOf(d.Etrnd.PID())
		if err != nil {
			return rows, err
		}
		slices.Sort(took)
		row(q.what+", half of all within", median(took).Seconds(), "s", "aim: 0.1")
		row(q.what+", the daemon's processor", (after-before).Seconds()/hubShown, "s", "")
	}

	used, err := processorOf(d.Etrnd.PID())
	if err != nil {
		return rows, err
	}
	select {
	case <-time.After(hubStill):
	case <-ctx.Done():
		return rows, ctx.Err()
	}
	after, err := processorOf(d.Etrnd.PID())
	if err != nil {
		return rows, err
	}
	row("processor while nothing moves, with the commands that it runs", 100*(after-used).Seconds()/hubStill.Seconds(), "%", "aim: none to be seen")

	// Nobody takes the mail: what is asked for is tried, and comes back.
	names := rand.New(rand.NewPCG(1, 2)).Perm(hubQueues)
	for _, a := range []struct {
		what, addr, name, want, aim string
		names                       []int
		pause                       time.Duration
	}{
		{"etrnd, 20 in a second", "127.0.0.1:366", "#%s", "253 10 ", "aim: 2", names[:hubApart], hubPause},
		{"etrnd, one after the other", "127.0.0.1:366", "#%s", "253 10 ", "aim: 2", names[hubApart:][:hubAsked], 0},
		{"Postfix's own, 20 in a second", "127.0.0.1:25", "%s.example", "250 ", "", names[:hubApart], hubPause},
		{"Postfix's own, one after the other", "127.0.0.1:25", "%s.example", "250 ", "", names[hubApart:][:hubAsked], 0},
	} {
		took, nothing, err := askMany(ctx, h, a.addr, a.name, a.want, a.names, a.pause)
		if err != nil {
			return rows, fmt.Errorf("%s: %w", a.what, err)
		}
		row("ETRN, "+a.what+", half of all within", 1000*median(took).Seconds(), "ms", "")
		row("ETRN, "+a.what+", 99 of 100 within", 1000*took[len(took)*99/100].Seconds(), "ms", a.aim)
		row("NOOP before each of them, 99 of 100 within", 1000*nothing[len(nothing)*99/100].Seconds(), "ms", "")
	}
	return rows, nil
}

// askMany asks for queues one after the other, with a pause in between, in sessions
// of a hundred. Before each it says NOOP, which takes what the machine takes with
// all that goes on at the time.
func askMany(ctx context.Context, h *testbed.Host, addr, form, want string, names []int, pause time.Duration) (took, nothing []time.Duration, err error) {
	for chunk := range slices.Chunk(names, 100) {
		err := func() error {
			c, err := h.Dial(ctx, "tcp", addr)
			if err != nil {
				return err
			}
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(time.Minute))
			in := bufio.NewReader(c)
			if err := expect(in, "220"); err != nil {
				return err
			}
			if err := say(c, in, "EHLO "+siteName, "250"); err != nil {
				return err
			}
			for _, n := range chunk {
				began := time.Now()
				if err := say(c, in, "NOOP", "250"); err != nil {
					return err
				}
				nothing = append(nothing, time.Since(began))
				began = time.Now()
				if err := say(c, in, "ETRN "+fmt.Sprintf(form, hubName5(n)), want); err != nil {
					return err
				}
				took = append(took, time.Since(began))
				if pause > 0 {
					time.Sleep(pause)
				}
			}
			return nil
		}()
		if err != nil {
			return nil, nil, err
		}
	}
	slices.Sort(took)
	slices.Sort(nothing)
	return took, nothing, nil
}

func say(c net.Conn, in *bufio.Reader, command, want string) error {
	if _, err := fmt.Fprintf(c, "%s\r\n", command); err != nil {
		return err
	}
	if err := expect(in, want[:3]); err != nil {
		return fmt.Errorf("%s: %w", command, err)
	}
	return nil
}

// fill puts n held messages into a host's queue, spread evenly over queues.
// Postfix takes some hundred a second; so it is given one, and the others are
// made after it, as files of its queue: the same message, for another domain.
func fill(ctx context.Context, h *testbed.Host, n, queues int) error {
	const first = "c00000.example"
	if _, err := h.SendMany(ctx, "", []testbed.Message{{To: []string{"crew@" + first}, Size: 500}}); err != nil {
		return err
	}
	var id string
	if err := testbed.Until(ctx, "the first message to be held", func() (bool, error) {
		q, err := h.Queue(ctx)
		if err != nil || len(q) != 1 || q[0].Queue != "deferred" {
			return false, err
		}
		id = q[0].ID
		return true, nil
	}); err != nil {
		return err
	}
	dir := h.Path("/var/spool/postfix")
	var files [2]string
	for i, name := range []string{"deferred", "defer"} {
		data, err := os.ReadFile(filepath.Join(dir, name, id[:1], id))
		if err != nil {
			return err
		}
		files[i] = string(data)
	}
	owner, err := os.Stat(filepath.Join(dir, "deferred"))
	if err != nil {
		return err
	}
	sys, ok := owner.Sys().(*syscall.Stat_t)
	if !ok {
		return errors.New("no owner of the queue")
	}
	uid := int(sys.Uid)
	// Not to be tried by itself before all is over.
	later := time.Now().Add(24 * time.Hour)
	noted := map[string]*strings.Builder{first: {}} // for the flush service
	fmt.Fprintln(noted[first], id)
	made := map[string]bool{}
	for i := 1; i < n; i++ {
		name := fmt.Sprintf("%X%08X", i%16, i)
		domain := hubName5(i%queues) + ".example"
		if noted[domain] == nil {
			noted[domain] = &strings.Builder{}
		}
		fmt.Fprintln(noted[domain], name)
		for j, kind := range []string{"deferred", "defer"} {
			sub := filepath.Join(dir, kind, name[:1])
			if !made[sub] {
				made[sub] = true
				if err := os.MkdirAll(sub, 0o700); err != nil {
					return err
				}
				if err := os.Chown(sub, uid, 0); err != nil {
					return err
				}
			}
			path := filepath.Join(sub, name)
			mode := os.FileMode(0o700) // Postfix's sign that it is complete
			if kind == "defer" {
				mode = 0o600
			}
			if err := os.WriteFile(path, []byte(strings.ReplaceAll(files[j], first, domain)), mode); err != nil {
				return err
			}
			if err := os.Chown(path, uid, 0); err != nil {
				return err
			}
			if kind == "deferred" {
				if err := os.Chtimes(path, later, later); err != nil {
					return err
				}
			}
		}
	}
	for domain, ids := range noted {
		path := filepath.Join(dir, "flush", strings.ReplaceAll(domain, ".", "_"))
		if err := os.WriteFile(path, []byte(ids.String()), 0o600); err != nil {
			return err
		}
		if err := os.Chown(path, uid, 0); err != nil {
			return err
		}
	}
	return nil
}

// memoryOf is what a process has in memory, and the most that it ever had, in
// bytes.
func memoryOf(pid int) (now, peak int64, err error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, 0, err
	}
	field := func(name string) int64 {
		_, rest, _ := strings.Cut(string(data), "\n"+name+":")
		words := strings.Fields(rest)
		if len(words) == 0 {
			return 0
		}
		n, _ := strconv.ParseInt(words[0], 10, 64)
		return n << 10
	}
	return field("VmRSS"), field("VmHWM"), nil
}

// processorOf is the time that a process and those that it has started have used.
func processorOf(pid int) (time.Duration, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(data), ") ")
	words := strings.Fields(rest)
	var ticks int64
	for _, i := range []int{11, 12, 13, 14} {
		n, err := strconv.ParseInt(words[i], 10, 64)
		if err != nil {
			return 0, err
		}
		ticks += n
	}
	return time.Duration(ticks) * time.Second / 100, nil
}

//go:build !quick

package testbed

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/textproto"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestMain lets the test binary be a program that uses a test bed and is then
// killed; see TestNothingLeftBehindAfterKill.
func TestMain(m *testing.M) {
	if os.Getenv("TESTBED_VICTIM") != "" {
		if err := victim(); err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
		select {}
	}
	os.Exit(m.Run())
}

func host(t *testing.T, bed *Bed, name, hostname string) *Host {
	t.Helper()
	h, err := bed.Host(t.Context(), name, HostOptions{Hostname: hostname})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func run(t *testing.T, h *Host, args ...string) string {
	t.Helper()
	out, err := h.Run(t.Context(), args...)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

func write(t *testing.T, h *Host, path, data string, mode os.FileMode) {
	t.Helper()
	if err := h.WriteFile(path, []byte(data), mode); err != nil {
		t.Fatal(err)
	}
}

// pair is a hub that relays acme.example to a site at the other end of a link
// that is up.
func pair(t *testing.T, shape Shape) (hub, site *Host, link *Link) {
	t.Helper()
	bed := Start(t)
	hub = host(t, bed, "hub", "hub.example.net")
	site = host(t, bed, "site", "mail.acme.example")
	if _, err := hub.Postfix(t.Context(), PostfixOptions{Main: map[string]string{
		"relay_domains":  "acme.example",
		"transport_maps": "inline:{acme.example=smtp:[mail.acme.example]}",
	}}); err != nil {
		t.Fatal(err)
	}
	if _, err := site.Postfix(t.Context(), PostfixOptions{Final: []string{"acme.example"}}); err != nil {
		t.Fatal(err)
	}
	return hub, site, up(t, bed, site, hub, shape)
}

func up(t *testing.T, bed *Bed, a, b *Host, shape Shape) *Link {
	t.Helper()
	link, err := bed.Link(t.Context(), LinkOptions{
		A: End{Host: a, Address: "192.0.2.2"}, B: End{Host: b, Address: "192.0.2.1"},
		Shape: shape, Seed: 1, IPParam: "isp",
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := link.Up(t.Context()); err != nil {
		t.Fatal(err)
	}
	return link
}

func TestMailCrossesTheLink(t *testing.T) {
	hub, site, link := pair(t, Shape{RTT: 10 * time.Millisecond, Rate: 10e6})
	var messages []Message
	for range 20 {
		messages = append(messages, Message{To: []string{"a@acme.example", "b@acme.example"}, Header: []string{"X-Priority: 1"}})
	}
	ids, err := hub.SendMany(t.Context(), "", messages)
	if err != nil || len(ids) != 20 {
		t.Fatalf("%d sent: %v", len(ids), err)
	}
	duplicates, err := site.WaitDelivered(t.Context(), ids)
	if err != nil || duplicates != 0 {
		t.Fatalf("%d duplicates: %v", duplicates, err)
	}
	if err := hub.WaitQueue(t.Context(), 0); err != nil {
		t.Error(err)
	}
	if err := site.WaitQueue(t.Context(), 0); err != nil {
		t.Error(err)
	}
	list, err := site.Delivered()
	if err != nil || len(list) != 40 {
		t.Fatalf("%d deliveries, want one for each of 2 recipients of 20 messages: %v", len(list), err)
	}
	if r := list[0].Recipient; r != "a@acme.example" && r != "b@acme.example" {
		t.Errorf("recipient %q", r)
	}
	if p := list[0].Header.Get("X-Priority"); p != "1" {
		t.Errorf("X-Priority is %q", p)
	}
	if c := link.Counters(BtoA); c.Bytes < 20*500 || c.Packets < 20 {
		t.Errorf("counters %+v after 20 messages", c)
	}
	// The same message again is a duplicate.
	if _, err := hub.Send(t.Context(), "", Message{ID: ids[0], To: []string{"a@acme.example"}}); err != nil {
		t.Fatal(err)
	}
	if err := Until(t.Context(), "a duplicate", func() (bool, error) {
		n, err := site.WaitDelivered(t.Context(), ids)
		return n == 1, err
	}); err != nil {
		t.Error(err)
	}
}

func TestRefusalHasItsCode(t *testing.T) {
	hub, _, _ := pair(t, Shape{})
	_, err := hub.Send(t.Context(), "192.0.2.1:25", Message{To: []string{"a@elsewhere.example"}, From: "x@y.example"})
	// From its own address, which is not in mynetworks, the hub relays nothing.
	var reply *textproto.Error
	if !errors.As(err, &reply) || reply.Code != 454 {
		t.Fatalf("got %v, want 454 relay access denied", err)
	}
}

// A message is cut in two, and waits; after the repair it arrives.
func TestCutInMidMessage(t *testing.T) {
	hub, site, link := pair(t, Shape{RTT: 10 * time.Millisecond, Rate: 20e6})
	cut := link.CutAfter(BtoA, 500_000)
	id, err := hub.Send(t.Context(), "", Message{To: []string{"a@acme.example"}, Size: 2_000_000})
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-cut:
	case <-time.After(longest):
		t.Fatal("the link was not cut")
	}
	at := link.Counters(BtoA)
	if at.Bytes < 500_000 || at.Bytes > 502_000 {
		t.Errorf("cut after %d bytes, want 500,000 and no more than the packet in which that is", at.Bytes)
	}
	// The sender tries again and again, and every packet is dropped.
	if err := Until(t.Context(), "a retransmission", func() (bool, error) {
		return link.Counters(BtoA).Cut > at.Cut, nil
	}); err != nil {
		t.Error(err)
	}
	if now := link.Counters(BtoA); now.Bytes != at.Bytes {
		t.Errorf("%d bytes crossed a cut link", now.Bytes-at.Bytes)
	}
	if list, err := site.Delivered(); err != nil || len(list) != 0 {
		t.Fatalf("%d delivered over a cut link: %v", len(list), err)
	}
	link.Restore()
	if _, err := site.WaitDelivered(t.Context(), []string{id}); err != nil {
		t.Error(err)
	}
	if err := link.WaitBytes(t.Context(), BtoA, 2_000_000); err != nil {
		t.Error(err)
	}
}

// echo answers UDP packets on the host until the test ends.
func echo(t *testing.T, h *Host, addr string) {
	t.Helper()
	c, err := h.ListenPacket("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 2000)
		for {
			n, from, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = c.WriteTo(buf[:n], from)
		}
	}()
	t.Cleanup(func() { c.Close(); <-done })
}

func TestLinkRoundTrip(t *testing.T) {
	bed := Start(t)
	a, b := host(t, bed, "a", ""), host(t, bed, "b", "")
	const rtt = 80 * time.Millisecond
	up(t, bed, a, b, Shape{RTT: rtt})
	echo(t, b, "192.0.2.1:7")
	c, err := a.Dial(t.Context(), "udp", "b.example:7") // by the name in /etc/hosts
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	// The machine may be busy and late, now and then, but never early.
	best := time.Hour
	for i := 0; i < 10 || i < 1000 && best > rtt*3/2; i++ {
		start := time.Now()
		_ = c.SetDeadline(start.Add(longest))
		if _, err := c.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(make([]byte, 10)); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took < rtt {
			t.Fatalf("round trip in %v, less than %v", took, rtt)
		} else {
			best = min(best, took)
		}
	}
	if best > rtt*3/2 {
		t.Errorf("the best round trip took %v, want little more than %v", best, rtt)
	}
}

func TestLinkRateEachWay(t *testing.T) {
	bed := Start(t)
	a, b := host(t, bed, "a", ""), host(t, bed, "b", "")
	link := up(t, bed, a, b, Shape{Rate: 4e6, RateBack: 2e6, RTT: 10 * time.Millisecond})
	for _, c := range []struct {
		from, to *Host
		addr     string
		d        Direction
		rate     float64
	}{{a, b, "192.0.2.1:9", AtoB, 4e6}, {b, a, "192.0.2.2:9", BtoA, 2e6}} {
		l, err := c.to.Listen("tcp", c.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		out, err := c.from.Dial(t.Context(), "tcp", c.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer out.Close()
		in, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer in.Close()
		const size = 250_000
		best := 0.0
		// Never faster; slower only when a busy machine makes it so, which is
		// not always.
		for try := 0; try < 20 && best < c.rate*0.4; try++ {
			start, before := time.Now(), link.Counters(c.d)
			_ = in.SetDeadline(start.Add(longest))
			_ = out.SetDeadline(start.Add(longest))
			go func() { // ends by the deadline at the latest
				_, _ = out.Write(make([]byte, size))
			}()
			if _, err := io.ReadFull(in, make([]byte, size)); err != nil {
				t.Fatal(err)
			}
			took := time.Since(start).Seconds()
			rate := float64(link.Counters(c.d).Bytes-before.Bytes) * 8 / took
			if rate > c.rate*1.01 {
				t.Errorf("%v: %.2f Mbit/s, want %.2f", c.d, rate/1e6, c.rate/1e6)
			}
			best = max(best, rate)
		}
		if best < c.rate*0.4 {
			t.Errorf("%v: %.2f Mbit/s at best, want %.2f", c.d, best/1e6, c.rate/1e6)
		}
	}
}

func TestLinkLossIsCounted(t *testing.T) {
	bed := Start(t)
	a, b := host(t, bed, "a", ""), host(t, bed, "b", "")
	link := up(t, bed, a, b, Shape{Loss: 0.2})
	in, err := b.ListenPacket("udp", "192.0.2.1:9")
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := a.Dial(t.Context(), "udp", "192.0.2.1:9")
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	before := link.Counters(AtoB)
	const n = 500
	for i := range int64(n) {
		if _, err := out.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		// In step, so that no queue of the kernel's overflows.
		if err := Until(t.Context(), "a packet to be counted", func() (bool, error) {
			c := link.Counters(AtoB)
			return c.Packets+c.Lost-before.Packets-before.Lost > i, nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	// Six standard deviations of a binomial distribution: 54. The kernel's
	// own packets (IPv6 router solicitations) are few.
	lost := link.Counters(AtoB).Lost - before.Lost
	if lost < n/5-54 || lost > n/5+54 {
		t.Errorf("%d of %d lost, want about %d", lost, n, n/5)
	}
}

func TestWire(t *testing.T) {
	bed := Start(t)
	a, b := host(t, bed, "a", ""), host(t, bed, "b", "")
	ctx := t.Context()
	if err := bed.Wire(ctx, End{Host: a, Address: "10.0.0.1/24"}, End{Host: b, Interface: "lan0", Address: "10.0.0.2/24", Routes: []string{"0.0.0.0/0"}}); err != nil {
		t.Fatal(err)
	}
	if err := bed.Wire(ctx, End{Host: a, Interface: "eth1", Address: "2001:db8::1/64"}, End{Host: b, Interface: "eth1", Address: "2001:db8::2/64"}); err != nil {
		t.Fatal(err)
	}
	for _, addr := range []string{"10.0.0.1:99", "[2001:db8::1]:99"} {
		l, err := a.Listen("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		c, err := b.Dial(ctx, "tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
	}
	if out := run(t, b, "ip", "route", "show", "default"); out != "default via 10.0.0.1 dev lan0" {
		t.Errorf("default route: %q", out)
	}
	if err := bed.Wire(ctx, End{Host: a, Address: "10.0.0.300"}, End{Host: b, Address: "10.0.0.2"}); err == nil || !strings.Contains(err.Error(), "10.0.0.300") {
		t.Errorf("a bad address: %v", err)
	}
}

// A link that goes down takes interface, address and routes with it, and comes
// back with another address.
func TestLinkDownAndRenumber(t *testing.T) {
	bed := Start(t)
	a, b := host(t, bed, "a", ""), host(t, bed, "b", "")
	link, err := bed.Link(t.Context(), LinkOptions{
		A: End{Host: a, Address: "192.0.2.2", Routes: []string{"0.0.0.0/0"}},
		B: End{Host: b, Interface: "sat0", Address: "192.0.2.1"},
	})
	if err != nil {
		t.Fatal(err)
	}
	if out := run(t, a, "ip", "-br", "link"); strings.Contains(out, "ppp0") {
		t.Errorf("interface before the link is up:\n%s", out)
	}
	for _, addr := range []string{"192.0.2.2", "192.0.2.77"} {
		if err := link.Renumber(addr, ""); err != nil {
			t.Fatal(err)
		}
		if err := link.Up(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := link.Renumber(addr, ""); err == nil {
			t.Error("renumbered while up")
		}
		out := run(t, a, "ip", "-br", "addr", "show", "ppp0")
		if !strings.Contains(out, addr+" peer 192.0.2.1/32") {
			t.Errorf("address: %q, want %s", out, addr)
		}
		if out := run(t, a, "ip", "route", "show", "default"); !strings.HasPrefix(out, "default dev ppp0") {
			t.Errorf("default route: %q", out)
		}
		if out := run(t, b, "getent", "hosts", "a.example"); !strings.HasPrefix(out, addr) {
			t.Errorf("b resolves a as %q", out)
		}
		if err := link.Down(t.Context()); err != nil {
			t.Fatal(err)
		}
		if out := run(t, a, "ip", "-br", "addr"); strings.Contains(out, "ppp0") {
			t.Errorf("after the link went down:\n%s", out)
		}
	}
}

func TestHooksRunAsByPPPD(t *testing.T) {
	bed := Start(t)
	a, b := host(t, bed, "a", ""), host(t, bed, "b", "")
	link, err := bed.Link(t.Context(), LinkOptions{
		A: End{Host: a, Address: "192.0.2.2"}, B: End{Host: b, Address: "192.0.2.1"}, IPParam: "isp",
	})
	if err != nil {
		t.Fatal(err)
	}
	hook := "#!/bin/sh\n{ echo \"${0##*/}\" \"$@\"; ip -br link show ppp0 >/dev/null 2>&1 && echo there || echo gone; env | sort; readlink /proc/$$/fd/1; } >>/tmp/log\n"
	write(t, a, "/etc/ppp/ip-up.d/50second", hook, 0o755)
	write(t, a, "/etc/ppp/ip-up.d/10first", hook, 0o755)
	write(t, a, "/etc/ppp/ip-up.d/20not-executable", hook, 0o644)
	write(t, a, "/etc/ppp/ip-up.d/30backup.bak", hook, 0o755) // not a run-parts name
	write(t, a, "/etc/ppp/ip-down.d/down", hook, 0o755)
	read := func() string {
		t.Helper()
		data, err := a.ReadFile("/tmp/log")
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}

	if err := link.Connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	got := read()
	first, second, ok := strings.Cut(got, "50second ")
	if !ok || !strings.HasPrefix(first, "10first ppp0 /dev/ttyS0 115200 192.0.2.2 192.0.2.1 isp\nthere\n") || !strings.HasPrefix(second, "ppp0 /dev/ttyS0 115200 192.0.2.2 192.0.2.1 isp\nthere\n") {
		t.Errorf("ip-up hooks ran as:\n%s", got)
	}
	if strings.Contains(got, "20not") || strings.Contains(got, "30backup") {
		t.Errorf("run-parts ran too much:\n%s", got)
	}
	for _, want := range []string{"PPP_IFACE=ppp0", "PPP_LOCAL=192.0.2.2", "PPP_REMOTE=192.0.2.1", "PPP_IPPARAM=isp", "PPP_TTYNAME=ttyS0", "IPLOCAL=192.0.2.2", "IFNAME=ppp0"} {
		if !strings.Contains(first, "\n"+want+"\n") {
			t.Errorf("%s is missing in:\n%s", want, first)
		}
	}
	for _, not := range []string{"HOME=", "TESTBED", "CONNECT_TIME="} {
		if strings.Contains(got, not) {
			t.Errorf("%s is in the environment of ip-up:\n%s", not, got)
		}
	}

	if err := os.Remove(a.Path("/tmp/log")); err != nil {
		t.Fatal(err)
	}
	if err := link.Disconnect(t.Context()); err != nil {
		t.Fatal(err)
	}
	got = read()
	if !strings.HasPrefix(got, "down ppp0 /dev/ttyS0 115200 192.0.2.2 192.0.2.1 isp\ngone\n") || !strings.Contains(got, "\nCONNECT_TIME=") {
		t.Errorf("ip-down hook ran as:\n%s", got)
	}

	write(t, a, "/etc/ppp/ip-up.d/60bad", "#!/bin/sh\nexit 3\n", 0o755)
	if err := link.Connect(t.Context()); err == nil {
		t.Error("a failing hook goes unnoticed")
	}
}

func TestProvidedCommand(t *testing.T) {
	bed := Start(t)
	h := host(t, bed, "a", "")
	if err := h.Provide("pon", func(_ context.Context, args []string) (string, error) {
		if len(args) == 0 {
			return "", errors.New("which provider?")
		}
		return fmt.Sprintf("%q\n", args), nil
	}); err != nil {
		t.Fatal(err)
	}
	// By any user, with any argument.
	out, err := h.Command(t.Context(), "pon", "isp", "a b", "", "two\nlines").As("etrnd").Text()
	if want := `["isp" "a b" "" "two\nlines"]` + "\n"; err != nil || out != want {
		t.Errorf("got %q, %v; want %q", out, err, want)
	}
	c := h.Command(t.Context(), "pon")
	out, err = c.Text()
	if err == nil || c.ProcessState.ExitCode() != 1 || out != "which provider?\n" {
		t.Errorf("a failure: exit code %d, %q", c.ProcessState.ExitCode(), out)
	}
}

func TestHostIsAMachineOfItsOwn(t *testing.T) {
	bed := Start(t)
	h := host(t, bed, "hub", "hub.example.net")
	if out := run(t, h, "hostname"); out != "hub.example.net" {
		t.Errorf("host name %q", out)
	}
	if out := run(t, h, "getent", "hosts", "hub.example.net"); !strings.HasPrefix(out, "127.0.1.1") {
		t.Errorf("own name resolves to %q", out)
	}
	// The machine's files cannot be changed, ...
	if out, err := h.Run(t.Context(), "touch", "/usr/testbed-was-here"); err == nil {
		os.Remove("/usr/testbed-was-here")
		t.Errorf("/usr can be written to: %s", out)
	}
	// ... the host's own can, and are not the machine's.
	for _, path := range []string{"/etc/x", "/var/lib/x", "/run/x", "/tmp/x", "/usr/local/bin/x", "/dev/shm/x"} {
		run(t, h, "touch", path)
		if _, err := os.Stat(h.Path(path)); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(path); err == nil {
			t.Errorf("%s is on the machine", path)
		}
	}
	// Its processes are its own.
	if out := run(t, h, "bash", "-c", "echo /proc/[0-9]*"); !strings.HasPrefix(out, "/proc/1 ") || len(strings.Fields(out)) != 2 {
		t.Errorf("processes: %s", out)
	}
	// No DNS: fails, and without waiting for an answer, which is for five
	// seconds each time. The best of three, since the machine may be busy.
	best := time.Hour
	for range 3 {
		start := time.Now()
		if out, err := h.Run(t.Context(), "getent", "hosts", "www.example.com"); err == nil {
			t.Errorf("a name that is not in /etc/hosts: %q", out)
		}
		best = min(best, time.Since(start))
	}
	if best > 4*time.Second {
		t.Errorf("a name that is not in /etc/hosts is looked for for %v", best)
	}
	// A user of the host with the groups that were asked for, and no others.
	out, err := h.Command(t.Context(), "id", "-nG").As("etrnd", "postdrop").Text()
	if err != nil || strings.TrimSpace(out) != "etrnd postdrop" {
		t.Errorf("groups %q, %v", out, err)
	}
	if _, err := h.Command(t.Context(), "id").As("nobody-such").Output(); err == nil {
		t.Error("ran as a user that does not exist")
	}
	if _, err := h.Run(t.Context(), "no-such-program"); err == nil || !strings.Contains(err.Error(), "no-such-program") {
		t.Errorf("a missing program: %v", err)
	}
	if _, err := bed.Host(t.Context(), "hub", HostOptions{}); err == nil {
		t.Error("two hosts of one name")
	}
	// Unix sockets, from both sides.
	l, err := h.Listen("unix", "/run/etrnd/control.sock")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := h.Dial(t.Context(), "unix", "/run/etrnd/control.sock")
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}

// What is started or opened in a host is so by threads that end there. The main
// thread of this process cannot end: it must not be one of them.
func TestMainThreadStays(t *testing.T) {
	h := host(t, Start(t), "a", "")
	own, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			for range 50 {
				if err := h.enter(unix.CLONE_NEWNET, func() error { return nil }); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if now, err := os.Readlink("/proc/self/ns/net"); err != nil || now != own {
		t.Errorf("the main thread is in %s, and was in %s: %v", now, own, err)
	}
}

// alive tells whether a process of the machine is there and no zombie.
func alive(pid int) bool {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, rest, _ := strings.Cut(string(data), ") ")
	return err == nil && !strings.HasPrefix(rest, "Z")
}

func TestProcess(t *testing.T) {
	bed := Start(t)
	h := host(t, bed, "a", "")
	start := func(script string) *Process {
		t.Helper()
		p, err := h.Start(t.Context(), StartOptions{Args: []string{"bash", "-c", script}, User: "etrnd", Log: "daemon"})
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	said := func(p *Process, what string) {
		t.Helper()
		if err := Until(t.Context(), what, func() (bool, error) {
			data, err := h.ReadFile(p.Log())
			return strings.Contains(string(data), what), err
		}); err != nil {
			t.Fatal(err)
		}
	}
	// The signal reaches the program: it can catch SIGTERM and choose its code.
	p := start("trap 'echo bye; kill $!; exit 7' TERM; sleep 1000 & echo ready; wait")
	said(p, "ready")
	if code, err := p.Stop(t.Context()); err != nil || code != 7 {
		t.Errorf("exit code %d, %v; want 7", code, err)
	}
	said(p, "bye")
	// SIGKILL reaches it too, and it is gone when Kill returns.
	p = start("trap '' TERM; echo again; exec sleep 1000")
	said(p, "again")
	if err := p.Kill(); err != nil {
		t.Error(err)
	}
	if alive(p.PID()) {
		t.Error("alive after Kill")
	}
	select {
	case <-p.Exited():
	default:
		t.Error("not seen to exit after Kill")
	}
	// Orphans are reaped by the host's first process, which sits in a read.
	run(t, h, "bash", "-c", "(sleep 0.01 & ) ; :")
	if err := Until(t.Context(), "the orphan to be reaped", func() (bool, error) {
		entries, err := filepath.Glob(h.Path("/proc/[0-9]*"))
		return len(entries) == 1, err
	}); err != nil {
		t.Error(err)
	}
	// A command ends with its context.
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := h.Run(ctx, "sleep", "1000"); err == nil {
		t.Error("a command outlived its context")
	}
}

func TestPostfixStopsKillsAndStarts(t *testing.T) {
	bed := Start(t)
	h := host(t, bed, "hub", "hub.example.net")
	p, err := h.Postfix(t.Context(), PostfixOptions{
		Main: map[string]string{
			"relay_domains":    "acme.example",
			"transport_maps":   "hash:/etc/postfix/transport",
			"defer_transports": "transient",
		},
		Master: []string{
			"transient unix - - n - - smtp\n  -o smtp_connect_timeout=5",
			"submission inet n - y - - smtpd\n  -o syslog_name=postfix/submission",
		},
		Files: map[string]string{"/etc/postfix/transport": "acme.example transient:[192.0.2.9]\n"},
	})
	// The map is not compiled yet; Postfix starts all the same.
	if err != nil {
		t.Fatal(err)
	}
	run(t, h, "postmap", "/etc/postfix/transport")
	if out := run(t, h, "postconf", "-M", "smtp/inet"); strings.Fields(out)[4] != "y" {
		t.Errorf("smtpd is not in a chroot, as Debian has it: %s", out)
	}
	if out := run(t, h, "postconf", "-P", "submission/inet/syslog_name"); !strings.Contains(out, "postfix/submission") {
		t.Errorf("master.cf: %s", out)
	}
	for range 3 {
		if _, err := h.Send(t.Context(), "", Message{To: []string{"a@acme.example"}}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := h.Send(t.Context(), "127.0.0.1:587", Message{To: []string{"b@acme.example"}}); err != nil {
		t.Fatal(err)
	}
	held := func() {
		t.Helper()
		if err := Until(t.Context(), "4 deferred", func() (bool, error) {
			list, err := h.Queue(t.Context())
			n := 0
			for _, q := range list {
				if q.Queue == "deferred" && q.Sender == "sender@hub.example.net" && len(q.Recipients) == 1 && strings.Contains(q.Recipients[0].Reason, "deferred transport") {
					n++
				}
			}
			return n == 4, err
		}); err != nil {
			t.Fatal(err)
		}
	}
	held()
	if err := p.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	if c, err := h.Dial(t.Context(), "tcp", "127.0.0.1:25"); err == nil {
		c.Close()
		t.Error("a killed Postfix still answers")
	}
	if err := p.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	held()
	if err := p.Set(t.Context(), map[string]string{"smtpd_banner": "$myhostname ESMTP changed"}); err != nil {
		t.Fatal(err)
	}
	if err := p.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := Until(t.Context(), "the new banner", func() (bool, error) {
		c, err := h.Dial(t.Context(), "tcp", "127.0.0.1:25")
		if err != nil {
			return false, err
		}
		defer c.Close()
		line, _ := bufio.NewReader(c).ReadString('\n')
		return strings.Contains(line, "ESMTP changed"), nil
	}); err != nil {
		t.Error(err)
	}
	// An unprivileged user can list and flush.
	if out, err := h.Command(t.Context(), "postqueue", "-p").As("etrnd").Text(); err != nil || !strings.Contains(out, "in 4 Requests") {
		t.Errorf("postqueue as etrnd: %v\n%s", err, out)
	}
	if err := p.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	// The start itself found nothing to complain about.
	log, err := h.ReadFile("/var/log/mail.log")
	if err != nil || strings.Contains(string(log), "fatal:") || strings.Contains(string(log), "not owned by") {
		t.Errorf("mail log: %v\n%s", err, log)
	}
}

func TestVarOnDisk(t *testing.T) {
	dir := t.TempDir()
	bed, err := New(t.Context(), Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	h := host(t, bed, "a", "")
	write(t, h, "/var/lib/x", "x", 0o600)
	if _, err := os.Stat(filepath.Join(dir, "a/lib/x")); err != nil {
		t.Error(err)
	}
	if err := bed.Close(); err != nil {
		t.Error(err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

// crowd is a bed with everything in it, and what identifies its traces.
func crowd(ctx context.Context, bed *Bed) (traces []string, err error) {
	a, err := bed.Host(ctx, "a", HostOptions{})
	if err != nil {
		return nil, err
	}
	b, err := bed.Host(ctx, "b", HostOptions{})
	if err != nil {
		return nil, err
	}
	if _, err := a.Postfix(ctx, PostfixOptions{}); err != nil {
		return nil, err
	}
	if _, err := a.Start(ctx, StartOptions{Args: []string{"sleep", "1000"}}); err != nil {
		return nil, err
	}
	if err := a.Provide("pon", func(context.Context, []string) (string, error) { return "", nil }); err != nil {
		return nil, err
	}
	if err := bed.Wire(ctx, End{Host: a, Address: "10.0.0.1/24"}, End{Host: b, Address: "10.0.0.2/24"}); err != nil {
		return nil, err
	}
	l, err := bed.Link(ctx, LinkOptions{A: End{Host: a, Address: "192.0.2.2"}, B: End{Host: b, Address: "192.0.2.1"}})
	if err != nil {
		return nil, err
	}
	if err := l.Up(ctx); err != nil {
		return nil, err
	}
	for _, h := range []*Host{a, b} {
		for _, kind := range []string{"net", "mnt", "pid", "uts", "ipc"} {
			ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", h.init.Process.Pid, kind))
			if err != nil {
				return nil, err
			}
			traces = append(traces, ns)
		}
	}
	return traces, nil
}

// holders are the threads of the machine in any of these namespaces that were
// started before a time since boot. The kernel gives the numbers of namespaces
// that are gone to new ones, such as those of another test's hosts; whoever is
// in one of these was started later. A zombie is none: whether the first process
// of the machine, or of a container, reaps orphans is its own affair.
func holders(traces []string, before time.Duration) ([]string, error) {
	want := map[string]bool{}
	for _, ns := range traces {
		want[ns] = true
	}
	links, err := filepath.Glob("/proc/[0-9]*/task/[0-9]*/ns/*")
	var found []string
	for _, l := range links {
		if ns, err := os.Readlink(l); err == nil && want[ns] {
			if state, start := thread(filepath.Dir(filepath.Dir(l))); start < before && state != "Z" {
				found = append(found, l+" "+state+" "+ns)
			}
		}
	}
	return found, err
}

// thread is the state of a thread and when it began, since boot, for which proc(5)
// has ticks of 10 ms.
func thread(dir string) (state string, began time.Duration) {
	stat, _ := os.ReadFile(dir + "/stat")
	// The name, in parentheses, may hold anything.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 20 {
		return "Z", 0 // gone by now
	}
	ticks, _ := strconv.ParseInt(fields[19], 10, 64)
	return fields[0], time.Duration(ticks) * 10 * time.Millisecond
}

// sinceBoot is the time by which thread goes.
func sinceBoot(t *testing.T) time.Duration {
	t.Helper()
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		t.Fatal(err)
	}
	return time.Duration(ts.Nano())
}

// clean waits until nothing is left of these namespaces, which were ended then,
// and checks that the machine's own mounts and interfaces were left alone.
func clean(t *testing.T, traces []string, ended time.Duration, mounts, interfaces string) {
	t.Helper()
	if err := Until(t.Context(), "every process to go", func() (bool, error) {
		found, err := holders(traces, ended)
		return len(found) == 0, err
	}); err != nil {
		found, _ := holders(traces, ended)
		t.Errorf("%v: %s", err, strings.Join(found, "\n"))
	}
	if now := machineMounts(t); now != mounts {
		t.Errorf("mounts of the machine were\n%s\nand are\n%s", mounts, now)
	}
	if now := machineInterfaces(t); now != interfaces {
		t.Errorf("interfaces of the machine were %s and are %s", interfaces, now)
	}
}

// machineMounts are the mounts that a bed might have made.
func machineMounts(t *testing.T) string {
	t.Helper()
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for line := range strings.Lines(string(data)) {
		if strings.Contains(line, "testbed") {
			out = append(out, line)
		}
	}
	return strings.Join(out, "")
}

// machineInterfaces are those with names that a bed uses.
func machineInterfaces(t *testing.T) string {
	t.Helper()
	list, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, i := range list {
		if strings.HasPrefix(i.Name, "eth") || strings.HasPrefix(i.Name, "ppp") || strings.HasPrefix(i.Name, "veth") {
			out = append(out, i.Name)
		}
	}
	return strings.Join(out, " ")
}

func TestNothingLeftBehindAfterClose(t *testing.T) {
	mounts, interfaces := machineMounts(t), machineInterfaces(t)
	bed, err := New(t.Context(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	traces, err := crowd(t.Context(), bed)
	if err != nil {
		bed.Close()
		t.Fatal(err)
	}
	ended := sinceBoot(t)
	if found, err := holders(traces, ended); err != nil || len(found) < 2*5 {
		t.Errorf("the check itself sees only %v, %v", found, err)
	}
	if err := bed.Close(); err != nil {
		t.Error(err)
	}
	clean(t, traces, ended, mounts, interfaces)
	if _, err := bed.Host(t.Context(), "c", HostOptions{}); err == nil {
		t.Error("a closed bed makes hosts")
	}
}

// victim is the program that TestNothingLeftBehindAfterKill kills.
func victim() error {
	bed, err := New(context.Background(), Options{})
	if err != nil {
		return err
	}
	traces, err := crowd(context.Background(), bed)
	if err != nil {
		return err
	}
	fmt.Println(strings.Join(traces, " "))
	return nil
}

func TestNothingLeftBehindAfterKill(t *testing.T) {
	mounts, interfaces := machineMounts(t), machineInterfaces(t)
	dir := t.TempDir()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), "TESTBED_VICTIM=1", "TMPDIR="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	ended := sinceBoot(t)
	_ = cmd.Process.Signal(syscall.SIGKILL)
	_ = cmd.Wait()
	traces := strings.Fields(line)
	if err != nil || len(traces) != 10 {
		t.Fatalf("the program said %q, %v", line, err)
	}
	clean(t, traces, ended, mounts, interfaces)
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

func TestUntilSaysWhatItWaitedFor(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	err := Until(ctx, "the moon", func() (bool, error) { return false, nil })
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "the moon") {
		t.Errorf("got %v", err)
	}
	broken := errors.New("broken")
	if err := Until(t.Context(), "x", func() (bool, error) { return false, broken }); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
}

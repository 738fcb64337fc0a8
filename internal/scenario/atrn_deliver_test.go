//go:build !quick

package scenario

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/etrnd/etrnd/internal/hang"
	"github.com/etrnd/etrnd/internal/testbed"
	"github.com/etrnd/etrnd/internal/users"
)

// taped is a connection that remembers what was read from it.
type taped struct {
	net.Conn
	mu   sync.Mutex
	tape bytes.Buffer
}

func (c *taped) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tape.Write(b[:n])
	return n, err
}

// turned is atrn that has to succeed.
func turned(ctx context.Context, t *testing.T, from *testbed.Host, user string) net.Conn {
	t.Helper()
	conn, answer := atrn(ctx, t, from, user, "")
	if !strings.HasPrefix(answer, "250 ") {
		t.Fatalf("ATRN of %s: %s", user, answer)
	}
	return conn
}

// hand sends one message by raw commands; a line "." ends it. Every reply has
// to be a success.
func hand(ctx context.Context, t *testing.T, from *testbed.Host, lines ...string) {
	t.Helper()
	out := ""
	for i, line := range lines {
		if line == "DATA" {
			body := strings.Join(lines[i+1:], "\r\n")
			out = dialogue(ctx, t, from, hubName+":25", append(append([]string{"EHLO x.example"}, lines[:i+1]...), body)...)
			break
		}
	}
	for reply := range strings.SplitSeq(strings.TrimSpace(out), "\r\n") {
		if reply[0] != '2' && reply[0] != '3' {
			t.Fatalf("%q was answered %q", lines, out)
		}
	}
}

// The null sender, DSN parameters, 8-bit text and international addresses go
// through as they are.
func TestATRNEnvelopes(t *testing.T) {
	t.Parallel()
	ctx, w := worldATRN(t, Options{})
	head := func(id string) []string {
		return []string{"DATA", "Message-ID: <" + id + ">", "Subject: x", "MIME-Version: 1.0", "Content-Type: text/plain; charset=utf-8", "Content-Transfer-Encoding: 8bit", ""}
	}
	hand(ctx, t, w.Online, append(append([]string{"MAIL FROM:<>", "RCPT TO:<null@acme.example>"}, head("null@x")...), "plain", ".")...)
	hand(ctx, t, w.Online, append(append([]string{"MAIL FROM:<s@online.example> RET=HDRS ENVID=env+2B1", "RCPT TO:<dsn@acme.example> NOTIFY=FAILURE,DELAY ORCPT=rfc822;other@acme.example"}, head("dsn@x")...), "plain", "..dots", ".")...)
	hand(ctx, t, w.Online, append(append([]string{"MAIL FROM:<s@online.example> BODY=8BITMIME", "RCPT TO:<eight@acme.example>"}, head("eight@x")...), "na\u00efve", ".")...)
	hand(ctx, t, w.Online, append(append([]string{"MAIL FROM:<s@online.example> SMTPUTF8 BODY=8BITMIME", "RCPT TO:<pel\u00e9@acme.example>"}, head("utf8@x")...), "x", ".")...)
	hand(ctx, t, w.Online, append(append([]string{`MAIL FROM:<"a b"@online.example>`, `RCPT TO:<"q u"@acme.example>`}, head("quoted@x")...), "x", ".")...)
	must(t, w.Hub.WaitQueue(ctx, "acme", 5))
	conn := &taped{Conn: turned(ctx, t, w.SiteHost, "acme")}
	pass(ctx, conn, w.SiteHost, "127.0.0.1:25")
	if n := delivered(ctx, t, w.SiteHost, []string{"null@x", "dsn@x", "eight@x", "utf8@x", "quoted@x"}); n != 0 {
		t.Errorf("%d duplicates", n)
	}
	all := conn.tape.String()
	for _, want := range []string{
		"MAIL FROM:<>\r\nRCPT TO:<null@acme.example>\r\n",
		"MAIL FROM:<s@online.example> RET=HDRS ENVID=env+2B1\r\nRCPT TO:<dsn@acme.example> NOTIFY=FAILURE,DELAY ORCPT=rfc822;other@acme.example\r\n",
		"MAIL FROM:<s@online.example> BODY=8BITMIME\r\nRCPT TO:<eight@acme.example>\r\n",
		"RCPT TO:<pel\u00e9@acme.example>\r\n",
		" SMTPUTF8",
		"MAIL FROM:<\"a b\"@online.example>\r\nRCPT TO:<\"q u\"@acme.example>\r\n",
		"na\u00efve\r\n",
		"\r\n.dots\r\n", // in a chunk there is nothing to be doubled
	} {
		if !strings.Contains(all, want) {
			t.Errorf("%q is not in what the hub sent:\n%s", want, all)
		}
	}
	must(t, w.Hub.WaitQueue(ctx, "acme", 0))
}

// The site answers 4xx for one recipient of several and 5xx for another: the
// others have the mail, one is kept, and one goes back to the sender.
func TestATRNRecipients(t *testing.T) {
	t.Parallel()
	ctx, w := worldATRN(t, Options{})
	must(t, w.SiteMTA.Set(ctx, map[string]string{"smtpd_recipient_restrictions": "check_recipient_access inline:{ {later@acme.example=450 4.2.0 come again}, {never@acme.example=550 5.1.1 nobody} }, permit_mynetworks, reject"}))
	must(t, w.SiteMTA.Reload(ctx))
	ids := send(ctx, t, w.Online, hubName+":25", []testbed.Message{{From: "author@online.example", To: []string{"a@acme.example", "later@acme.example", "never@acme.example", "b@acme.example"}}})
	must(t, w.Hub.WaitQueue(ctx, "acme", 1))
	used := pull(ctx, t, w, "")
	t.Logf("the line was used for %v", used)
	delivered(ctx, t, w.SiteHost, ids)
	var to []string
	all, err := w.SiteHost.Delivered()
	must(t, err)
	for _, d := range all {
		to = append(to, d.Recipient)
	}
	if len(to) != 2 {
		t.Errorf("delivered to %v", to)
	}
	must(t, testbed.Until(ctx, "the bounce", func() (bool, error) {
		back, err := w.Online.Delivered()
		return len(back) == 1 && back[0].Recipient == "author@online.example", err
	}))
	must(t, w.HubHost.WaitQueue(ctx, 1)) // the bounce is on its way out, too
	q, err := w.HubHost.Queue(ctx)
	must(t, err)
	if len(q) != 1 || len(q[0].Recipients) != 1 || q[0].Recipients[0].Address != "later@acme.example" || !strings.Contains(q[0].Recipients[0].Reason, "come again") {
		t.Errorf("the hub has kept %+v", q)
	}
	// Later has come.
	must(t, w.SiteMTA.Set(ctx, map[string]string{"smtpd_recipient_restrictions": "permit_mynetworks, reject"}))
	must(t, w.SiteMTA.Reload(ctx))
	pull(ctx, t, w, "")
	must(t, w.SiteHost.WaitQueue(ctx, 0))
	must(t, testbed.Until(ctx, "the third copy", func() (bool, error) {
		all, err := w.SiteHost.Delivered()
		return len(all) == 3, err
	}))
}

// A site that has stopped reading does not hold up another one. Its own second
// connection is refused as long as the first one answers, and takes its place
// when that one is gone.
func TestATRNSlowSite(t *testing.T) {
	t.Parallel()
	ctx, w := worldATRN(t, Options{})
	big := send(ctx, t, w.Online, hubName+":25", Messages(40, 300<<10, "a@acme.example"))
	must(t, w.Hub.WaitQueue(ctx, "acme", 40))
	small := send(ctx, t, w.Online, hubName+":25", Messages(60, 2000, "g@gamma.example"))
	must(t, w.Hub.WaitQueue(ctx, "gamma", 60))

	// acme greets, accepts everybody, and then does not read any more.
	slow := turned(ctx, t, w.SiteHost, "acme")
	in := bufio.NewReader(slow)
	fmt.Fprint(slow, "220 slow\r\n")
	for done := false; !done; {
		line, err := in.ReadString('\n')
		must(t, err)
		switch verb, _, _ := strings.Cut(strings.TrimSpace(line), " "); verb {
		case "EHLO":
			fmt.Fprint(slow, "250-slow\r\n250-PIPELINING\r\n250 CHUNKING\r\n")
		case "BDAT":
			done = true
		default:
			fmt.Fprint(slow, "250 ok\r\n")
		}
	}

	stuck := time.Now()

	sink := func(conn net.Conn) (n int) {
		in := bufio.NewReader(conn)
		fmt.Fprint(conn, "220 gamma\r\n")
		for {
			line, err := in.ReadString('\n')
			if err != nil {
				return n
			}
			switch verb, arg, _ := strings.Cut(strings.TrimSpace(line), " "); verb {
			case "EHLO":
				fmt.Fprint(conn, "250-gamma\r\n250-PIPELINING\r\n250 CHUNKING\r\n")
			case "BDAT":
				size, _ := strconv.Atoi(strings.TrimSuffix(arg, " LAST"))
				if _, err := in.Discard(size); err != nil {
					return n
				}
				n++
				fmt.Fprint(conn, "250 ok\r\n")
			case "QUIT":
				fmt.Fprint(conn, "221 bye\r\n")
				return n
			default:
				fmt.Fprint(conn, "250 ok\r\n")
			}
		}
	}
	gamma := turned(ctx, t, w.SiteHost, "gamma")
	must(t, gamma.SetDeadline(hang.Deadline()))
	if n := sink(gamma); n != len(small) {
		t.Errorf("gamma got %d of %d", n, len(small))
	}
	// acme is stuck still, so nothing of this can have waited for it.
	if q, err := w.Hub.Queue(ctx, "acme"); err != nil || q.UnderWay == 0 {
		t.Errorf("while acme should be stuck: %+v, %v", q, err)
	}
	// Its kernel acknowledges that there is no room: that is a sign of life. It
	// is asked less and less often, though, and a machine that took half a minute
	// to get here may find that it has not said so for ten seconds.
	second, answer := atrn(ctx, t, w.SiteHost, "acme", "")
	switch {
	case strings.HasPrefix(answer, "450 "):
	case strings.HasPrefix(answer, "250 ") && time.Since(stuck) > 15*time.Second:
		pass(ctx, second, w.SiteHost, "127.0.0.1:25")
	default:
		t.Errorf("second connection: %s", answer)
	}
	slow.Close()
	var used time.Duration
	must(t, testbed.Until(ctx, "the first connection to be given up", func() (bool, error) {
		conn, answer := atrn(ctx, t, w.SiteHost, "acme", "")
		if !strings.HasPrefix(answer, "250 ") {
			conn.Close()
			return strings.HasPrefix(answer, "453 "), nil // all of it came over the second one
		}
		start := time.Now()
		pass(ctx, conn, w.SiteHost, "127.0.0.1:25")
		used = time.Since(start)
		return true, nil
	}))
	// What was answered 4xx on the way is tried again by the turn.
	for range 5 {
		if q, err := w.Hub.Queue(ctx, "acme"); err == nil && q.Messages == 0 {
			break
		}
		if conn, answer := atrn(ctx, t, w.SiteHost, "acme", ""); strings.HasPrefix(answer, "250 ") {
			pass(ctx, conn, w.SiteHost, "127.0.0.1:25")
		}
	}
	if n := delivered(ctx, t, w.SiteHost, big); n != 0 {
		t.Errorf("%d duplicates of what no site had taken", n)
	}
	t.Logf("then the line was used for %v", used)
}

// The link goes silent, and the site calls again over another one: the first
// connection is dropped after ten seconds without a sign of life, and nothing
// is lost.
func TestATRNTakeover(t *testing.T) {
	t.Parallel()
	ctx, w := worldATRN(t, Options{Shape: testbed.Shape{RTT: 50 * time.Millisecond, Rate: 1e6}})
	ids := send(ctx, t, w.Online, hubName+":25", Messages(100, 5000, "a@acme.example"))
	must(t, w.Hub.WaitQueue(ctx, "acme", 100))
	first := turned(ctx, t, w.SiteHost, "acme")
	gone := make(chan struct{})
	cut := w.Line.CutAfter(testbed.BtoA, 100<<10)
	go func() { pass(ctx, first, w.SiteHost, "127.0.0.1:25"); close(gone) }()
	<-cut
	// Over another network: the host that is always online lends its line.
	start, refused := time.Now(), 0
	must(t, testbed.Until(ctx, "the first connection to be given up", func() (bool, error) {
		conn, answer := atrnAt(ctx, t, w.Online, "198.51.100.1:366", "acme", "")
		if !strings.HasPrefix(answer, "250 ") {
			if !strings.HasPrefix(answer, "450 ") {
				t.Errorf("while the first one lives: %s", answer)
			}
			refused++
			conn.Close()
			return false, nil
		}
		took := time.Since(start)
		t.Logf("taken over after %v and %d refusals", took.Round(time.Second), refused)
		if refused == 0 && took < 5*time.Second { // a busy machine may ask for the first time when it is dead already
			t.Error("the first connection was taken for dead while it lived")
		}
		pass(ctx, conn, w.SiteHost, "127.0.0.1:25")
		return true, nil
	}))
	// Not because somebody waited for a reply in vain, which is for minutes.
	log, err := w.HubHost.ReadFile("/var/log/etrnd.log")
	must(t, err)
	if !strings.Contains(string(log), "no sign of life") {
		t.Errorf("the first connection ended for another reason: %s", log)
	}
	first.Close()
	<-gone
	duplicates := delivered(ctx, t, w.SiteHost, ids)
	t.Logf("%d duplicates", duplicates)
	must(t, w.Hub.WaitQueue(ctx, "acme", 0))
}

// kill -9 of etrnd while mail goes over a turned connection: Postfix keeps what
// the site had not acknowledged, and the next call fetches it.
func TestATRNKill(t *testing.T) {
	t.Parallel()
	ctx, w := worldATRN(t, Options{Shape: testbed.Shape{RTT: 100 * time.Millisecond, Rate: 2e6}})
	ids := send(ctx, t, w.Online, hubName+":25", Messages(200, 5000, "a@acme.example"))
	must(t, w.Hub.WaitQueue(ctx, "acme", 200))
	for i := range 2 {
		conn := turned(ctx, t, w.SiteHost, "acme")
		before := w.Line.Counters(testbed.BtoA).Bytes
		done := make(chan struct{})
		go func() { pass(ctx, conn, w.SiteHost, "127.0.0.1:25"); close(done) }()
		must(t, w.Line.WaitBytes(ctx, testbed.BtoA, before+int64(200<<10)))
		must(t, w.Hub.Etrnd.Kill())
		<-done
		// Mail that comes in meanwhile is held like any other.
		ids = append(ids, send(ctx, t, w.Online, hubName+":25", Messages(3, 0, "late@acme.example"))...)
		must(t, w.Hub.StartEtrnd(ctx))
		must(t, testbed.Until(ctx, fmt.Sprintf("the MTA to have given up, round %d", i), func() (bool, error) {
			q, err := w.HubHost.Queue(ctx)
			for _, m := range q {
				if m.Queue == "active" || m.Queue == "incoming" {
					return false, err
				}
			}
			return true, err
		}))
	}
	pull(ctx, t, w, "")
	duplicates := delivered(ctx, t, w.SiteHost, ids)
	t.Logf("%d duplicates after two kills", duplicates)
	must(t, w.HubHost.WaitQueue(ctx, 0))
	must(t, w.Hub.WaitQueue(ctx, "acme", 0))
}

// The line is cut after the site has taken a message and before the hub has
// heard of it. The hub cannot know, sends it again, and the site has it twice:
// as many duplicates as there were messages without an answer, and no more.
func TestATRNLostReplies(t *testing.T) {
	t.Parallel()
	ctx, w := worldATRN(t, Options{})
	const n = 30
	ids := send(ctx, t, w.Online, hubName+":25", Messages(n, 2000, "a@acme.example"))
	must(t, w.Hub.WaitQueue(ctx, "acme", n))
	conn := turned(ctx, t, w.SiteHost, "acme")
	local, err := w.SiteHost.Dial(ctx, "tcp", "127.0.0.1:25")
	must(t, err)
	must(t, local.SetDeadline(hang.Deadline()))
	go func() {
		_, _ = io.Copy(local, conn)
		_ = local.(*net.TCPConn).CloseWrite()
	}()
	// All replies pass but those that take a message; after ten of those all
	// is cut, as a dead line would.
	in := bufio.NewReader(local)
	kept := 0
	for kept < 10 {
		line, err := in.ReadString('\n')
		must(t, err)
		if strings.Contains(line, "queued as") {
			kept++
			continue
		}
		if kept == 0 {
			fmt.Fprint(conn, line)
		}
	}
	conn.Close()
	taken := kept
	for { // what Postfix has taken before it comes to the end
		line, err := in.ReadString('\n')
		if err == io.EOF {
			break
		}
		must(t, err)
		if strings.Contains(line, "queued as") {
			taken++
		}
	}
	local.Close()
	must(t, testbed.Until(ctx, "the hub to keep all", func() (bool, error) {
		q, err := w.HubHost.Queue(ctx)
		for _, m := range q {
			if m.Queue != "deferred" {
				return false, err
			}
		}
		return len(q) == n, err
	}))
	pull(ctx, t, w, "")
	delivered(ctx, t, w.SiteHost, ids)
	must(t, w.HubHost.WaitQueue(ctx, 0))
	must(t, w.SiteHost.WaitQueue(ctx, 0))
	duplicates := delivered(ctx, t, w.SiteHost, ids)
	t.Logf("%d messages had been taken without the hub knowing, %d duplicates", taken, duplicates)
	if duplicates != taken {
		t.Errorf("%d duplicates, want %d", duplicates, taken)
	}
}

// The site's Postfix is not there: the turned connection ends at once, and all
// of the mail is kept for the next time.
func TestATRNSiteStopped(t *testing.T) {
	t.Parallel()
	ctx, w := worldATRN(t, Options{})
	ids := send(ctx, t, w.Online, hubName+":25", Messages(5, 0, "a@acme.example"))
	must(t, w.Hub.WaitQueue(ctx, "acme", 5))
	must(t, w.SiteMTA.Stop(ctx))
	conn := turned(ctx, t, w.SiteHost, "acme")
	if err := pass(ctx, conn, w.SiteHost, "127.0.0.1:25"); err == nil {
		t.Error("something answers at the site")
	}
	conn.Close()
	must(t, w.Hub.WaitQueue(ctx, "acme", 5))
	must(t, w.SiteMTA.Start(ctx))
	// The sockets of the first turn are gone, and Postfix does not shun the site.
	must(t, testbed.Until(ctx, "the hub to notice", func() (bool, error) {
		_, err := w.HubHost.ReadFile("/var/spool/postfix/etrnd/turn-acme.sock")
		return os.IsNotExist(err) || err != nil && strings.Contains(err.Error(), "no such file"), nil
	}))
	pull(ctx, t, w, "")
	delivered(ctx, t, w.SiteHost, ids)
}

// resident is the memory of a process in kB, now and at its peak.
func resident(t *testing.T, p *testbed.Process) (now, peak int) {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.PID()))
	must(t, err)
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		switch {
		case len(f) > 1 && f[0] == "VmRSS:":
			now, _ = strconv.Atoi(f[1])
		case len(f) > 1 && f[0] == "VmHWM:":
			peak, _ = strconv.Atoi(f[1])
		}
	}
	return now, peak
}

// Of a message of 20 MB the daemon never has more than a little in memory.
func TestATRNLargeMessage(t *testing.T) {
	t.Parallel()
	ctx, w := worldATRN(t, Options{})
	ids := send(ctx, t, w.Online, hubName+":25", Messages(1, 20<<20, "a@acme.example"))
	must(t, w.Hub.WaitQueue(ctx, "acme", 1))
	_, before := resident(t, w.Hub.Etrnd)
	pull(ctx, t, w, "")
	_, after := resident(t, w.Hub.Etrnd)
	delivered(ctx, t, w.SiteHost, ids)
	t.Logf("peak memory of etrnd (with the race detector): %d kB before, %d kB after", before, after)
	if after-before > 15<<10 {
		t.Errorf("the message took %d kB of memory", after-before)
	}
}

// 500 sites are turned at once and say nothing.
func TestATRNManyIdle(t *testing.T) {
	t.Parallel()
	const n = 500
	var config strings.Builder
	config.WriteString("hostname = \"hub.example.net\"\n\n[odmr]\nlisten = [\"0.0.0.0:366\"]\nusers = \"/etc/etrnd/users\"\ncram-md5 = true\nmax-connections-per-client = 600\n")
	var f users.File
	s, err := users.NewSecret(password, users.SecretOptions{CramMD5: true, Iterations: 4096})
	must(t, err)
	for i := range n {
		fmt.Fprintf(&config, "\n[[queue]]\nname = \"q%d\"\ndomains = [\"d%d.example\"]\ndeliver = \"turn\"\nusers = [\"u%d\"]\n", i, i, i)
		must(t, f.Add(fmt.Sprintf("u%d", i), s))
	}
	must(t, f.Add("acme", s))
	ctx, w := worldATRN(t, Options{Shape: testbed.Shape{RTT: time.Millisecond, Rate: 100e6}, HubConfig: config.String(), HubFiles: map[string]string{"/etc/etrnd/users": string(f.Bytes())}})
	var list []testbed.Message
	for i := range n {
		list = append(list, testbed.Message{To: []string{fmt.Sprintf("a@d%d.example", i)}})
	}
	send(ctx, t, w.Online, hubName+":25", list)
	must(t, w.Hub.WaitQueue(ctx, fmt.Sprintf("q%d", n-1), 1))
	// With Postfix at rest what is measured is the daemon alone.
	_, err = w.HubHost.Run(ctx, "pkill", "-STOP", "-x", "qmgr")
	must(t, err)
	before, _ := resident(t, w.Hub.Etrnd)
	for i := range n {
		turned(ctx, t, w.SiteHost, fmt.Sprintf("u%d", i))
	}
	after, _ := resident(t, w.Hub.Etrnd)
	t.Logf("500 turned connections: %d kB each (with the race detector)", (after-before)/n)
	// It still answers.
	if _, answer := atrn(ctx, t, w.SiteHost, fmt.Sprintf("u%d", n-1), ""); !strings.HasPrefix(answer, "450 ") {
		t.Errorf("one that is turned already: %s", answer)
	}
}

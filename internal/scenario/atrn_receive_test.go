//go:build !quick

package scenario

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/etrnd/etrnd/internal/api"
	"github.com/etrnd/etrnd/internal/hang"
	"github.com/etrnd/etrnd/internal/testbed"
)

// siteTrusting is a site whose link is always up, so that a test can call as
// often as it likes. The provider evil may be silent for longer than this
// machine can be busy; with hasty a test waits for the end of the site's
// patience.
const siteTrusting = `hostname = "mail.acme.example"

[[link]]
name = "lan"

[[remote]]
name = "evil"
link = "lan"
host = "192.0.2.1:2601"
protocol = "atrn"
router-type = "pull-only"
request = ["acme.example"]
request-timeout = "30m"
wait = "30m"

[[remote]]
name = "hasty"
link = "lan"
host = "192.0.2.1:2601"
protocol = "atrn"
router-type = "pull-only"
request = ["acme.example"]
request-timeout = "4s"
wait = "4s"
`

// evil is a world with a provider that a test plays by hand.
type evil struct {
	*World
	turned chan *peer
	turns  atomic.Int32 // how often it still says 250 to ATRN; then it has no mail
	calls  int
}

// peer is the provider's side of a turned connection.
type peer struct {
	t    *testing.T
	conn net.Conn
	in   *bufio.Reader
}

// worldEvil is the site with a Postfix that gives loopback every right there
// is, and a provider that wants them.
func worldEvil(t *testing.T) (context.Context, *evil) {
	t.Helper()
	ctx, w := worldTurn(t, Options{SiteConfig: siteTrusting})
	must(t, w.SiteMTA.Set(ctx, map[string]string{
		"smtpd_authorized_xclient_hosts": "127.0.0.0/8", "smtpd_authorized_xforward_hosts": "127.0.0.0/8",
		"authorized_verp_clients": "127.0.0.0/8",
		"smtpd_timeout":           "1h", // whoever is silent for too long is so for etrnd
	}))
	must(t, w.SiteMTA.Reload(ctx))
	must(t, w.Line.Up(ctx))
	e := &evil{World: w, turned: make(chan *peer, 1)}
	provider(t, w, 2601, func(c net.Conn, in *bufio.Reader) {
		atrn := "453 You have no mail"
		if e.turns.Add(-1) >= 0 {
			atrn = "250 OK"
		}
		answers("250-ATRN\r\n", atrn, "", func(c net.Conn, in *bufio.Reader) {
			p := &peer{t: t, conn: c, in: in}
			e.turned <- p
			<-t.Context().Done()
		})(c, in)
	})
	return ctx, e
}

// call makes the site call, and returns the provider's side once the site has
// greeted.
func (e *evil) call(ctx context.Context, t *testing.T) *peer {
	t.Helper()
	return e.callTo(ctx, t, "evil")
}

// callTo is call by way of one of the two remotes.
func (e *evil) callTo(ctx context.Context, t *testing.T, remote string) *peer {
	t.Helper()
	e.turns.Store(1)
	_, err := e.Site.Ctl(ctx, "call", remote)
	must(t, err)
	e.calls++
	return e.next(t)
}

// next is the provider's side of the next turned connection, once the site has
// greeted.
func (e *evil) next(t *testing.T) *peer {
	t.Helper()
	select {
	case p := <-e.turned:
		p.t = t
		t.Cleanup(func() { p.conn.Close() })
		p.expect("220")
		return p
	case <-hang.After():
		t.Fatal("no turned connection")
		return nil
	}
}

// end waits for the end of the call.
func (e *evil) end(ctx context.Context, t *testing.T) api.CallResult {
	t.Helper()
	return waitCalls(ctx, t, e.World, e.calls)[0]
}

// reply reads one reply.
func (p *peer) reply() (string, error) {
	p.conn.SetReadDeadline(hang.Deadline())
	var all strings.Builder
	for {
		line, err := p.in.ReadString('\n')
		all.WriteString(line)
		if err != nil {
			return all.String(), err
		}
		if len(line) > 3 && line[3] == ' ' {
			return all.String(), nil
		}
	}
}

func (p *peer) send(text string) {
	p.t.Helper()
	p.conn.SetWriteDeadline(hang.Deadline())
	if _, err := p.conn.Write([]byte(text)); err != nil {
		p.t.Fatalf("send %.60q: %v", text, err)
	}
}

// expect reads one reply for each code.
func (p *peer) expect(codes ...string) {
	p.t.Helper()
	for i, code := range codes {
		got, err := p.reply()
		if err != nil || !strings.HasPrefix(got, code) {
			p.t.Fatalf("reply %d: %q, %v; want %s", i+1, got, err, code)
		}
	}
}

// ask sends one command and expects one reply.
func (p *peer) ask(line, code string) string {
	p.t.Helper()
	p.send(line + "\r\n")
	got, err := p.reply()
	if err != nil || !strings.HasPrefix(got, code) {
		p.t.Errorf("%.100q: %q, %v; want %s", line, got, err, code)
	}
	return got
}

// nothingForeign checks that the site has taken no mail for others.
func (e *evil) nothingForeign(ctx context.Context, t *testing.T) {
	t.Helper()
	queue, err := e.SiteHost.Queue(ctx)
	must(t, err)
	for _, q := range queue {
		for _, r := range q.Recipients {
			if !strings.HasSuffix(strings.ToLower(r.Address), "@acme.example") {
				t.Errorf("the site has mail of the provider for %s", r.Address)
			}
		}
	}
	log, err := e.SiteHost.ReadFile("/var/log/mail.log")
	must(t, err)
	for line := range strings.Lines(string(log)) {
		if strings.Contains(line, "to=<") && !strings.Contains(strings.ToLower(line), "@acme.example>") {
			t.Errorf("the site delivers elsewhere: %s", line)
		}
	}
}

// Loopback may relay, verify and impersonate at this Postfix; the provider,
// whose mail comes in over loopback, may do nothing of it.
func TestATRNNoRelay(t *testing.T) {
	t.Parallel()
	ctx, e := worldEvil(t)
	// Without etrnd between, all of it works.
	if direct := dialogue(ctx, t, e.SiteHost, "127.0.0.1:25", "EHLO x.example", "VRFY c@online.example", "MAIL FROM:<x@online.example> XVERP", "RCPT TO:<c%online.example@acme.example>", "RCPT TO:<c@online.example>", "RSET"); !strings.Contains(direct, "XCLIENT") || !strings.Contains(direct, "XVERP") || strings.Count(direct, "\n250 2.1.5") < 1 || !strings.Contains(direct, "252") {
		t.Fatalf("this Postfix gives loopback no rights, so the test would prove nothing:\n%s", direct)
	}
	p := e.call(ctx, t)
	p.ask("MAIL FROM:<x@online.example>", "503")
	offered := p.ask("EHLO hub.example.net", "250")
	for _, keyword := range []string{"XCLIENT", "XFORWARD", "XVERP", "VRFY", "ETRN", "AUTH", "STARTTLS"} {
		if strings.Contains(offered, keyword) {
			t.Errorf("%s is offered:\n%s", keyword, offered)
		}
	}
	for _, keyword := range []string{"PIPELINING", "CHUNKING", "SIZE", "8BITMIME", "DSN"} {
		if !strings.Contains(offered, keyword) {
			t.Errorf("%s is not offered:\n%s", keyword, offered)
		}
	}
	for _, line := range []string{
		"AUTH PLAIN AGEAYg==", "STARTTLS", "XCLIENT ADDR=127.0.0.1 NAME=localhost", "XFORWARD ADDR=127.0.0.1",
		"VRFY c@online.example", "EXPN staff", "ETRN online.example", "ATRN acme.example", "TURN", "HELP", "SEND FROM:<x@online.example>", "xyzzy", "",
	} {
		p.ask(line, "502")
	}
	for _, c := range []struct{ line, code string }{
		{"MAIL FROM:<x@online.example> XVERP", "250"}, // without it,
		{"MAIL FROM:<x@online.example> AUTH=<>", "250"},
		{"MAIL FROM:<x@online.example> SIZE=1 SIZE=2", "250"},
		{"MAIL FROM:<x>", "250"},
		{"MAIL FROM:<@acme.example:x@online.example>", "250"},
		{"MAIL FROM:<x@online.example", "451"},
		{"MAIL FROM:<x@online.example>> SIZE=1", "451"},
		{"MAIL FROM: x@online.example", "451"},
		{"RCPT TO:<a@acme.example>", "503"},
		{"DATA", "503"},
		{"BDAT 26 LAST\r\nRCPT TO:<a@acme.example>\r\n", "503"}, // and the chunk is no command
		{"NOOP\x00", "500"},
	} {
		if strings.HasPrefix(c.line, "BDAT") {
			p.send(c.line)
			p.expect(c.code)
			continue
		}
		p.ask(c.line, c.code)
		if c.code == "250" {
			p.ask("RSET", "250")
		}
	}
	// Two lines, and each is looked at by itself.
	p.ask("NOOP\nMAIL FROM:<x@online.example>", "500")
	p.expect("250")
	p.ask("RCPT TO:<a@acme.example>\nRCPT TO:<c@online.example>", "451")
	p.expect("450")
	p.ask("RSET", "250")
	p.ask("MAIL FROM:<x@online.example>", "250")
	for _, c := range []struct{ to, code string }{
		{"<c@online.example>", "450"},
		{"<@acme.example:c@online.example>", "450"},
		{"<@acme.example,@hub.example.net:a@acme.example>", "250"}, // the route is nothing,
		{"<c%online.example@acme.example>", "450"},
		{"<online.example!c@acme.example>", "450"},
		{"<c%online.example%acme.example@acme.example>", "450"},
		{"<c%40online.example@acme.example> ORCPT=x", "450"},
		{`<"c@online.example"@acme.example>`, "450"},
		{`<"c%online.example"@acme.example>`, "450"},
		{`<"c\@online.example"@acme.example>`, "450"},
		{`<"c"@online.example>`, "450"},
		{`<"a>@acme.example" <c"@online.example>`, "451"},
		{"<c@online.example@acme.example>", "450"},
		{`<"c"@online.example@acme.example>`, "450"},
		{"<a@acme.example@online.example>", "450"},
		{"<a@acme.example,c@online.example>", "450"},
		{"<a@acme.example>,<c@online.example>", "451"},
		{"<a@acme.example> <c@online.example>", "250"}, // a parameter that nobody knows,
		{"<c@online.example", "451"},
		{"c@online.example", "451"},
		{"<<c@online.example>@acme.example>", "451"},
		{"<(a@acme.example)c@online.example>", "450"},
		{"<c(@acme.example>", "450"},
		{"<c online@acme.example>", "450"},
		{"<c;online@acme.example>", "450"},
		{"<:c@acme.example>", "450"},
		{"<postmaster>", "450"},
		{"<>", "450"},
		{"<@acme.example>", "450"},
		{"<a@>", "450"},
		{"<a@acme.example.>", "450"},
		{"<a@.acme.example>", "450"},
		// Not asked for, though the site's own or below what was.
		{"<a@mail.acme.example>", "450"},
		{"<a@localhost>", "450"},
		{"<a@sub.acme.example>", "450"},
		{"<a@acme.example.online.example>", "450"},
		{"<a@[127.0.0.1]>", "450"},
		{"<a@[203.0.113.2]>", "450"},
		{"<a@acme.example> XFORWARD=1", "250"},
		{"<a@acme.example> NOTIFY=", "250"},
		{"<a@acme.example>\rRCPT TO:<c@online.example>", "451"},
		{"<a\x00@acme.example>", "451"},
		{"<a\xff@acme.example>", "451"},
		{"<a@acme.example>" + strings.Repeat(" ", 2100) + "\x00RCPT TO:<c@online.example>", "451"},
		// Spellings of a domain that Postfix would take for somebody else's.
		{"<a@\uff41cme.example>", "250"},
		{"<a@acme\u3002example>", "250"},
		{"<a@ac\u00adme.example>", "250"},
		// These are fine.
		{"<a@acme.example> NOTIFY=NEVER ORCPT=rfc822;c@online.example", "250"},
		{"<A+tag/x=y@ACME.example>", "250"},
		{`<"john doe"@acme.example>`, "250"},
	} {
		p.ask("RCPT TO:"+c.to, c.code)
	}
	p.ask("DATA", "354")
	p.send("Message-ID: <fine@hub.example.net>\r\n\r\nRCPT TO:<c@online.example>\r\n.\r\n")
	p.expect("250")
	p.ask("QUIT", "221")
	r := e.end(ctx, t)
	// What was refused here stays with the provider, and the call says so.
	if r.Exit != 69 || r.In.Messages != 1 || r.Refused == nil {
		t.Errorf("result of the call: %+v", r)
	}
	delivered(ctx, t, e.SiteHost, []string{"fine@hub.example.net"})
	e.nothingForeign(ctx, t)
}

// message is the text of one with an id, without its end.
func message(id, body string) string { return "Message-ID: <" + id + ">\r\n\r\n" + body }

// The receiver and Postfix agree about where a message ends, and so no second one
// can be hidden in it: neither with the line ends that Postfix takes for one and
// the RFC does not, nor in chunks.
func TestATRNSmuggling(t *testing.T) {
	t.Parallel()
	ctx, e := worldEvil(t)
	hidden := func(id string) string {
		return "RSET\r\nMAIL FROM:<x@online.example>\r\nRCPT TO:<a@acme.example>\r\nRCPT TO:<c@online.example>\r\nDATA\r\n" + message(id, "hidden\r\n")
	}
	// This Postfix sees an end at LF . CRLF when it comes over loopback.
	conn, err := e.SiteHost.Dial(ctx, "tcp", "127.0.0.1:25")
	must(t, err)
	defer conn.Close()
	direct := &peer{t: t, conn: conn, in: bufio.NewReader(conn)}
	direct.expect("220")
	direct.ask("EHLO hub.example.net", "250")
	direct.ask("MAIL FROM:<x@online.example>", "250")
	direct.ask("RCPT TO:<a@acme.example>", "250")
	direct.ask("DATA", "354")
	direct.send(message("direct-1", "x\n.\r\n") + "NOOP\r\n")
	direct.expect("250", "250")
	direct.ask("QUIT", "221")
	ids := []string{"direct-1"}

	p := e.call(ctx, t)
	p.ask("EHLO hub.example.net", "250")
	sent := 0
	// Each is followed by text that must not be taken for commands, and by the
	// end of the message.
	for i, end := range []string{
		"\n.\n", "\n.\r\n", "\r\n.\n", "\r.\r", "\r.\r\n", "\r\n.\r", "\n.\r", "\r\n.\r\r\n", "\r\n.\r\r\r\n", "\n.\r\r\n",
		"\r\n..\r\n", "\r\n. \r\n", "\r\n\x00.\r\n", "\r\n.\x00\r\n", "\r\n.\x0b\r\n", "\r\n.\x85\r\n", "\n\n.\n\n", "\r\n.\n.\n", "\r\n\r.\r\n", "\n\r.\n",
	} {
		id := fmt.Sprintf("smuggle-%d", i)
		p.ask("MAIL FROM:<x@online.example>", "250")
		p.ask("RCPT TO:<a@acme.example>", "250")
		p.ask("DATA", "354")
		p.send(message(id, "first"+end+hidden("hidden-in-"+id)+".\r\n"))
		p.expect("250")
		p.ask("NOOP", "250")
		ids = append(ids, id)
		sent++
	}
	// The same in every division into packets.
	for i := 1; i < 12; i++ {
		id := fmt.Sprintf("packets-%d", i)
		p.ask("MAIL FROM:<x@online.example>", "250")
		p.ask("RCPT TO:<a@acme.example>", "250")
		p.ask("DATA", "354")
		text := message(id, "first\n.\r\nx\r\n.\r\r\ny\r\n..\r\n.\r\n")
		for ; len(text) > i; text = text[i:] {
			p.send(text[:i])
		}
		p.send(text)
		p.expect("250")
		p.ask("NOOP", "250")
		ids = append(ids, id)
		sent++
	}
	// A message with nothing in it, and one that is a single dot.
	for _, body := range []string{".\r\n", "..\r\n.\r\n"} {
		p.send("MAIL FROM:<>\r\nRCPT TO:<empty@acme.example>\r\nDATA\r\n")
		p.expect("250", "250", "354")
		p.send(body)
		p.expect("250")
		sent++
	}

	// Commands in a chunk are text, and the chunks of a message that is refused
	// are no commands either.
	for i, trick := range []string{"\r\n.\r\n", "\n.\n", "\r\nQUIT\r\n"} {
		id := fmt.Sprintf("chunk-%d", i)
		text := message(id, "first"+trick+hidden("hidden-in-"+id)+".\r\n")
		p.send(fmt.Sprintf("MAIL FROM:<x@online.example> BODY=8BITMIME\r\nRCPT TO:<a@acme.example>\r\nBDAT 10\r\n%sBDAT %d\r\n%sBDAT 0 LAST\r\nNOOP\r\n", text[:10], len(text)-10, text[10:]))
		p.expect("250", "250", "250", "250", "250", "250")
		ids = append(ids, id)
		sent++
		p.send(fmt.Sprintf("MAIL FROM:<x@online.example>\r\nRCPT TO:<c@online.example>\r\nBDAT %d\r\n%sBDAT %d LAST\r\n%sNOOP\r\n", len(text), text, len(text), text))
		p.expect("250", "450", "5", "5", "250")
	}
	p.send("MAIL FROM:<x@online.example>\r\nRCPT TO:<c@online.example>\r\nDATA\r\nNOOP\r\n")
	p.expect("250", "450", "554", "250")
	p.send("RSET\r\nQUIT\r\n")
	p.expect("250", "221")
	r := e.end(ctx, t)
	if r.Exit != 69 || r.In.Messages != sent { // some was not for this site
		t.Errorf("%d messages were sent, result of the call: %+v", sent, r)
	}
	delivered(ctx, t, e.SiteHost, ids)
	must(t, testbed.Until(ctx, "all to be delivered", func() (bool, error) {
		all, err := e.SiteHost.Delivered()
		return len(all) >= sent+1, err
	}))
	all, err := e.SiteHost.Delivered()
	must(t, err)
	if len(all) != sent+1 {
		t.Errorf("%d messages were delivered, want %d", len(all), sent+1)
	}
	for _, d := range all {
		if strings.HasPrefix(d.MessageID, "hidden") {
			t.Errorf("the message %s was smuggled in", d.MessageID)
		}
		if !strings.HasPrefix(d.MessageID, "chunk") && !strings.HasPrefix(d.MessageID, "direct") {
			// What MTAs behind this one see is beyond doubt too.
			text, err := e.SiteHost.ReadFile(d.Path)
			must(t, err)
			if strings.Contains(string(text), "\r") {
				t.Errorf("the text of %s holds a CR", d.MessageID)
			}
		}
	}
	e.nothingForeign(ctx, t)
}

// A chunk whose length cannot be told ends the connection: whatever follows
// could be anything. What was taken before stays taken.
func TestATRNBadChunks(t *testing.T) {
	t.Parallel()
	ctx, e := worldEvil(t)
	for _, arg := range []string{
		"", "-1 LAST", "18446744073709551626 LAST", "99999999999",
	} {
		t.Run(arg, func(t *testing.T) {
			p := e.call(ctx, t)
			p.ask("EHLO hub.example.net", "250")
			p.send("MAIL FROM:<x@online.example>\r\nRCPT TO:<a@acme.example>\r\nBDAT " + arg + "\r\nRSET\r\nMAIL FROM:<x@online.example>\r\nRCPT TO:<a@acme.example>\r\nDATA\r\n")
			p.expect("250", "250")
			p.expect("501", "421")
			if rest, err := p.reply(); err == nil || rest != "" {
				t.Errorf("the dialogue goes on: %q", rest)
			}
			p.conn.Close()
			if r := e.end(ctx, t); r.Exit != api.ExitTempFail || r.In.Messages != 0 {
				t.Errorf("result of the call: %+v", r)
			}
		})
	}
	must(t, e.SiteHost.WaitQueue(ctx, 0))
	e.nothingForeign(ctx, t)
}

// Replies come in the order of the commands, our own and the MTA's mixed, over
// many messages that are sent without waiting.
func TestATRNPipelined(t *testing.T) {
	t.Parallel()
	ctx, e := worldEvil(t)
	p := e.call(ctx, t)
	p.ask("EHLO hub.example.net", "250")
	const n = 300
	var codes, ids []string
	var text strings.Builder
	for i := range n {
		id := fmt.Sprintf("pipelined-%d", i)
		body := message(id, "x\r\n")
		fmt.Fprintf(&text, "MAIL FROM:<x%d@online.example>\r\nRCPT TO:<c@online.example>\r\nRCPT TO:<a@acme.example>\r\nVRFY a\r\n", i)
		codes = append(codes, "250", "450", "250", "502")
		switch i % 4 {
		case 0, 1:
			fmt.Fprintf(&text, "BDAT %d LAST\r\n%s", len(body), body)
			codes = append(codes, "250")
			ids = append(ids, id)
		case 2:
			fmt.Fprintf(&text, "BDAT 4\r\n%sRSET\r\nNOOP\r\n", body[:4])
			codes = append(codes, "250", "250", "250")
		case 3:
			// Said in vain: EHLO ends a transaction.
			text.WriteString("EHLO hub.example.net\r\n")
			codes = append(codes, "250-")
		}
		if i%50 == 49 {
			// Only a hundred refusals are taken in one session.
			text.WriteString("QUIT\r\n")
			codes = append(codes, "221")
			go p.conn.Write([]byte(text.String()))
			p.expect(codes...)
			e.end(ctx, t)
			text.Reset()
			codes = nil
			if i < n-1 {
				p = e.call(ctx, t)
				p.ask("EHLO hub.example.net", "250")
			}
		}
	}
	if duplicates := delivered(ctx, t, e.SiteHost, ids); duplicates != 0 {
		t.Errorf("%d duplicates", duplicates)
	}
	total := 0
	for _, r := range waitCalls(ctx, t, e.World, e.calls) {
		total += r.In.Messages
		if r.Exit != 69 { // some was not for this site
			t.Errorf("result of a call: %+v", r)
		}
	}
	if total != len(ids) {
		t.Errorf("%d messages counted, want %d", total, len(ids))
	}
	must(t, e.SiteHost.WaitQueue(ctx, 0))
	e.nothingForeign(ctx, t)
}

// The local MTA is stopped in the middle of a session: the provider gets a 4xx
// for all that was not taken, the call says why, and nothing half is delivered.
// Stopped from the beginning, nothing is asked for at all.
func TestATRNPostfixStops(t *testing.T) {
	t.Parallel()
	ctx, e := worldEvil(t)
	p := e.call(ctx, t)
	p.ask("EHLO hub.example.net", "250")
	p.ask("MAIL FROM:<x@online.example>", "250")
	p.ask("RCPT TO:<a@acme.example>", "250")
	body := message("half", strings.Repeat("x\r\n", 1000))
	p.send(fmt.Sprintf("BDAT %d LAST\r\n%s", len(body), body[:500]))
	must(t, e.SiteMTA.Kill(ctx))
	p.send(body[500:])
	p.expect("421")
	p.conn.Close()
	r := e.end(ctx, t)
	if r.Exit != api.ExitTempFail || !strings.Contains(r.Error, "local mail server") || r.In.Messages != 0 {
		t.Errorf("result of the call: %+v", r)
	}
	must(t, e.SiteMTA.Start(ctx))
	// As before, but between two messages.
	p = e.call(ctx, t)
	p.ask("EHLO hub.example.net", "250")
	p.send("MAIL FROM:<x@online.example>\r\nRCPT TO:<a@acme.example>\r\nDATA\r\n")
	p.expect("250", "250", "354")
	p.send(message("whole", "x\r\n.\r\n"))
	p.expect("250")
	must(t, e.SiteMTA.Stop(ctx))
	p.ask("MAIL FROM:<x@online.example>", "421")
	p.conn.Close()
	if r = e.end(ctx, t); r.Exit != api.ExitTempFail || !strings.Contains(r.Error, "local mail server") || r.In.Messages != 1 {
		t.Errorf("result of the call: %+v", r)
	}
	must(t, e.SiteMTA.Start(ctx))
	delivered(ctx, t, e.SiteHost, []string{"whole"})
	all, err := e.SiteHost.Delivered()
	must(t, err)
	if len(all) != 1 {
		t.Errorf("%d messages were delivered, want 1", len(all))
	}
}

// The provider cuts the connection in mid-message, says nothing in mid-message,
// and does not read its replies: each time the call ends by itself, and nothing
// half is delivered.
func TestATRNProviderFails(t *testing.T) {
	t.Parallel()
	ctx, e := worldEvil(t)
	begin := func(t *testing.T, remote, how string) *peer {
		p := e.callTo(ctx, t, remote)
		p.ask("EHLO hub.example.net", "250")
		p.send("MAIL FROM:<x@online.example>\r\nRCPT TO:<a@acme.example>\r\n")
		p.expect("250", "250")
		if how == "DATA" {
			p.ask("DATA", "354")
			p.send(message("half", "and then"))
		} else {
			p.send("BDAT 1000 LAST\r\n" + message("half", "and then"))
		}
		return p
	}
	for _, how := range []string{"DATA", "BDAT"} {
		t.Run("cut in "+how, func(t *testing.T) {
			begin(t, "evil", how).conn.Close()
			if r := e.end(ctx, t); r.Exit != api.ExitTempFail || !strings.Contains(r.Error, "without QUIT") || r.In.Messages != 0 {
				t.Errorf("result of the call: %+v", r)
			}
		})
		t.Run("silent in "+how, func(t *testing.T) {
			p := begin(t, "hasty", how)
			// Postfix would wait for an hour, so this is ours.
			p.expect("421")
			r := e.end(ctx, t)
			if r.Exit != api.ExitTempFail || !strings.Contains(r.Error, "quiet") || r.In.Messages != 0 {
				t.Errorf("result of the call: %+v", r)
			}
			p.conn.Close()
		})
	}
	t.Run("does not read", func(t *testing.T) {
		p := e.callTo(ctx, t, "hasty")
		// Else it takes megabytes until nothing more goes.
		must(t, p.conn.(*net.TCPConn).SetReadBuffer(4096))
		p.conn.SetWriteDeadline(hang.Deadline())
		line := []byte(strings.Repeat("NOOP\r\n", 1000))
		for {
			if _, err := p.conn.Write(line); err != nil {
				break
			}
		}
		if r := e.end(ctx, t); r.Exit != api.ExitTempFail || !strings.Contains(r.Error, "does not read") {
			t.Errorf("result of the call: %+v", r)
		}
	})
	must(t, e.SiteHost.WaitQueue(ctx, 0))
	all, err := e.SiteHost.Delivered()
	must(t, err)
	if len(all) != 0 {
		t.Errorf("%d messages were delivered, want none: %+v", len(all), all)
	}
}

// The line is cut in the middle of a 2 MB message, twice, and comes back at
// once, when the hub may still take the old connection for a living one: all of
// it arrives, and what comes a second time is counted.
func TestCallATRNCut(t *testing.T) {
	t.Parallel()
	ctx, w := worldTurn(t, Options{Shape: testbed.Shape{RTT: 50 * time.Millisecond, Rate: 8e6}})
	ids := send(ctx, t, w.Online, hubName+":25", Messages(1, 2<<20, "big@acme.example"))
	ids = append(ids, send(ctx, t, w.Online, hubName+":25", Messages(10, 1000, "a@acme.example"))...)
	must(t, w.Hub.WaitQueue(ctx, "acme", 11))
	for i := range 2 {
		cut := w.Line.CutAfter(testbed.BtoA, 1<<20)
		must(t, w.Line.Connect(ctx))
		select {
		case <-cut:
		case <-hang.After():
			t.Fatal("the line was not cut")
		}
		must(t, w.Line.Disconnect(ctx))
		r := waitCalls(ctx, t, w, i+1)[0]
		if r.Exit != api.ExitTempFail || !strings.Contains(r.Error, "link went down") {
			t.Errorf("call %d: %+v", i+1, r)
		}
		w.Line.Restore()
	}
	must(t, w.Line.Connect(ctx))
	const calls = 3
	if r := waitCalls(ctx, t, w, calls)[0]; r.Exit != 0 {
		t.Errorf("call %d: %+v", calls, r)
	}
	delivered(ctx, t, w.SiteHost, ids)
	results := waitCalls(ctx, t, w, calls)
	must(t, w.Hub.WaitQueue(ctx, "acme", 0))
	duplicates := delivered(ctx, t, w.SiteHost, ids)
	counted, in := 0, 0
	for _, r := range results {
		counted += r.Duplicates
		in += r.In.Messages
	}
	t.Logf("%d calls, %d messages counted, %d duplicates delivered, %d counted", calls, in, duplicates, counted)
	if counted != duplicates {
		t.Errorf("%d duplicates were delivered, but the calls counted %d", duplicates, counted)
	}
	if in > len(ids)+duplicates {
		t.Errorf("%d messages counted, of %d and %d duplicates", in, len(ids), duplicates)
	}
}

// The provider sends a message again whose 250 it has not seen: it is delivered
// twice, and the call says so.
func TestATRNDuplicate(t *testing.T) {
	t.Parallel()
	ctx, e := worldEvil(t)
	body := message("twice", "x\r\n")
	for i := range 2 {
		p := e.call(ctx, t)
		p.ask("EHLO hub.example.net", "250")
		p.send(fmt.Sprintf("MAIL FROM:<x@online.example>\r\nRCPT TO:<a@acme.example>\r\nBDAT %d LAST\r\n%s", len(body), body))
		p.expect("250", "250", "250")
		p.ask("QUIT", "221")
		if r := e.end(ctx, t); r.Exit != 0 || r.In.Messages != 1 || r.Duplicates != i {
			t.Errorf("call %d: %+v", i+1, r)
		}
	}
}

// A provider that sends one message over each turned connection, as Exim does over
// TLS, is asked until it has no more.
func TestOneMessageATurn(t *testing.T) {
	t.Parallel()
	ctx, e := worldEvil(t)
	p := e.call(ctx, t)
	const n = 3
	e.turns.Store(n - 1)
	for i := range n {
		if i > 0 {
			p = e.next(t)
		}
		body := message(fmt.Sprintf("turn%d", i), "x\r\n")
		p.ask("EHLO hub.example.net", "250")
		p.send(fmt.Sprintf("MAIL FROM:<x@online.example>\r\nRCPT TO:<a@acme.example>\r\nBDAT %d LAST\r\n%s", len(body), body))
		p.expect("250", "250", "250")
		p.ask("QUIT", "221")
	}
	if r := e.end(ctx, t); r.Exit != 0 || r.In.Messages != n || r.In.Expected != n || r.Duplicates != 0 {
		t.Errorf("result of the call: %+v", r)
	}
	delivered(ctx, t, e.SiteHost, []string{"turn0", "turn1", "turn2"})
}

// TLS that was started before the turn stays on, and auto takes ATRN where the
// hub offers it.
func TestCallATRNOverTLS(t *testing.T) {
	t.Parallel()
	cert, key := certificate(t, hubName)
	text, err := usersFile()
	must(t, err)
	hub := strings.Replace(hubATRN, "[odmr]\n", "[odmr]\ntls-cert = \"/etc/etrnd/hub.pem\"\ntls-key = \"/etc/etrnd/hub.key\"\n", 1)
	hub = strings.Replace(hub, "cram-md5 = true\n", "", 1)
	ctx, w := world(t, Options{
		HubConfig: hub, HubFiles: map[string]string{"/etc/etrnd/hub.pem": cert, "/etc/etrnd/hub.key": key, "/etc/etrnd/users": text},
		SiteConfig: siteATRN(`protocol = "auto"`, withUser, `tls = "require"`, `tls-ca = "/etc/etrnd/ca.pem"`),
		SiteFiles:  map[string]string{"/etc/etrnd/ca.pem": cert, "/etc/etrnd/password": password + "\n"},
	})
	ids := send(ctx, t, w.Online, hubName+":25", append(Messages(20, 1000, "a@acme.example"), Messages(1, 1<<20, "b@acme.example")...))
	must(t, w.Hub.WaitQueue(ctx, "acme", 21))
	_, err = w.Site.Ctl(ctx, "call", "hub", "--wait")
	must(t, err)
	if duplicates := delivered(ctx, t, w.SiteHost, ids); duplicates != 0 {
		t.Errorf("%d duplicates", duplicates)
	}
	if r := waitCalls(ctx, t, w, 1)[0]; r.Exit != 0 || r.In.Messages != 21 || len(r.Replies) != 1 || r.Replies[0].Code != 250 {
		t.Errorf("result of the call: %+v", r)
	}
}

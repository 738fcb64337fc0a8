//go:build !quick

package mta

import (
	"context"
	"errors"
	"flag"
	"io"
	"net"
	"net/smtp"
	"net/textproto"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	gomilter "github.com/d--j/go-milter"
	gosmtp "github.com/emersion/go-smtp"

	"github.com/etrnd/etrnd/internal/testbed"
)

var update = flag.Bool("update", false, "write the golden files")

// insideEnv names the test whose body this process runs inside a host.
const insideEnv = "MTA_TEST_INSIDE"

// inside runs body in a host of a test bed with a Postfix of its own: this
// test binary is started there once more, for this test alone, so that what
// is tested sees /etc/postfix and talks to Postfix as on a real machine.
func inside(t *testing.T, opts testbed.PostfixOptions, body func(t *testing.T, ctx context.Context)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	if os.Getenv(insideEnv) == t.Name() {
		body(t, ctx)
		return
	}
	t.Parallel()
	bed := testbed.Start(t)
	h, err := bed.Host(ctx, "hub", testbed.HostOptions{Hostname: "hub.example.net"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.Postfix(ctx, opts); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	const there = "/usr/local/bin/mta.test"
	if err := h.Install(self, there, 0o755); err != nil {
		t.Fatal(err)
	}
	diff, err := os.ReadFile(golden)
	if err == nil {
		err = h.WriteFile("/tmp/"+golden, diff, 0o644)
	}
	if err != nil && !*update {
		t.Fatal(err)
	}
	args := []string{there, "-test.run=^" + t.Name() + "$", "-test.v", "-test.timeout=80s"}
	if *update {
		args = append(args, "-update")
	}
	cmd := h.Command(ctx, args...)
	cmd.Env = append(cmd.Env, insideEnv+"="+t.Name())
	cmd.Dir = "/tmp"
	if *update {
		if err := h.WriteFile("/tmp/testdata/.keep", nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Fatalf("inside the host: %v\n%s", err, out)
	}
	if *update {
		if diff, err := h.ReadFile("/tmp/" + golden); err == nil {
			if err := os.WriteFile(golden, diff, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
}

const golden = "testdata/setup.diff"

func postfix(t *testing.T) *Postfix {
	t.Helper()
	return NewPostfix(Options{})
}

func apply(t *testing.T, ctx context.Context, p *Postfix, w Wanted) *Plan {
	t.Helper()
	pl, err := p.Plan(ctx, w)
	if err != nil {
		t.Fatal(err)
	}
	if err := pl.Apply(ctx); err != nil {
		t.Fatal(err)
	}
	age(t, mainCF)
	age(t, masterCF)
	again, err := p.Plan(ctx, w)
	if err != nil {
		t.Fatal(err)
	}
	if !again.Empty() || again.Diff() != "" {
		t.Fatalf("applied, and still there is something to do:\n%s", again.Diff())
	}
	return pl
}

func undo(t *testing.T, ctx context.Context, p *Postfix) *Plan {
	t.Helper()
	pl, err := p.Undo(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := pl.Apply(ctx); err != nil {
		t.Fatal(err)
	}
	age(t, mainCF)
	age(t, masterCF)
	return pl
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// edit changes a file of the host as a postmaster would.
func edit(t *testing.T, path, old, replacement string) {
	t.Helper()
	text := read(t, path)
	if !strings.Contains(text, old) {
		t.Fatalf("%s has no %q:\n%s", path, old, text)
	}
	if err := os.WriteFile(path, []byte(strings.Replace(text, old, replacement, 1)), 0o644); err != nil {
		t.Fatal(err)
	}
	age(t, path)
}

// age makes a file look old. Postfix waits for a second or two before it
// trusts a new one.
func age(t *testing.T, path string) {
	t.Helper()
	then := time.Now().Add(-time.Hour)
	if err := os.Chtimes(path, then, then); err != nil {
		t.Fatal(err)
	}
}

func setting(t *testing.T, ctx context.Context, p *Postfix, name string) string {
	t.Helper()
	v, err := p.settings(ctx, "", name)
	if err != nil {
		t.Fatal(err)
	}
	return v[name]
}

const (
	mainCF   = "/etc/postfix/main.cf"
	masterCF = "/etc/postfix/master.cf"
)

// handmade is a main.cf as people write them: values over several lines,
// comments within, references, no two lists in the same style.
const handmade = `# The mail host of example.net.
compatibility_level = 3.6
myhostname = hub.example.net
mydestination = $myhostname, localhost
mynetworks = 127.0.0.0/8
smtpd_relay_restrictions = permit_mynetworks defer_unauth_destination
recipient_delimiter = +-
alias_maps =
alias_database =
inet_protocols = ipv4
maillog_file = /var/log/mail.log
smtp_host_lookup = native
smtp_dns_support_level = disabled

# Sites that we relay for.
relay_domains =
    partner.example,
# the second one is new
    other.example

transport_maps = texthash:/etc/postfix/routes
smtpd_milters =
	inet:127.0.0.1:8891
	# signs last
	{ inet:127.0.0.1:8892, default_action=tempfail }
non_smtpd_milters = $smtpd_milters
milter_default_action = tempfail
smtpd_etrn_restrictions = permit_mynetworks, reject
`

var wanted = Wanted{
	Routes: []Route{
		{Pattern: "acme.example", Deliver: "smtp:[mail.acme.example]", Relay: true},
		{Pattern: ".acme.example", Deliver: "smtp:[mail.acme.example]", Relay: true},
		{Pattern: "chief@beta.example", Deliver: "lmtp:inet:127.0.0.1:2424", Relay: true},
		{Pattern: "partner.example", Deliver: "smtp:[198.51.100.7]:2525", Relay: true},
	},
	QueueNames:  []string{"acme", "Beta"},
	Policy:      "unix:/var/spool/postfix/etrnd/policy.sock",
	Milter:      "unix:/var/spool/postfix/etrnd/milter.sock",
	ClientCerts: true,
}

// plant puts the handmade main.cf in place and returns it with master.cf.
func plant(t *testing.T) (mainText, masterText string) {
	t.Helper()
	for path, text := range map[string]string{mainCF: handmade, "/etc/postfix/routes": "partner.example smtp:[192.0.2.77]\n"} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		age(t, path)
	}
	return handmade, read(t, masterCF)
}

func TestSetupAndUndo(t *testing.T) {
	inside(t, testbed.PostfixOptions{}, func(t *testing.T, ctx context.Context) {
		mainText, masterText := plant(t)
		if err := os.Chmod(mainCF, 0o640); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(mainCF, 0, 4); err != nil {
			t.Fatal(err)
		}
		p := postfix(t)
		pl, err := p.Plan(ctx, wanted)
		if err != nil {
			t.Fatal(err)
		}
		got := pl.Diff() + "\n" + strings.Join(pl.Warnings, "\n") + "\n"
		if *update {
			if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		} else if want := read(t, golden); got != want {
			t.Errorf("the plan is\n%s\nwant\n%s", got, want)
		}
		if read(t, mainCF) != mainText {
			t.Fatal("a plan changed main.cf")
		}
		if ok, files, err := p.InSync(ctx, wanted); err != nil || ok || len(files) != 3 {
			t.Errorf("in sync before it is applied: %v %v %v", ok, files, err)
		}
		if err := pl.Apply(ctx); err != nil {
			t.Fatal(err)
		}
		if fi, err := os.Stat(mainCF); err != nil || fi.Mode().Perm() != 0o640 {
			t.Errorf("main.cf has lost its mode: %v %v", fi.Mode(), err)
		}
		if ok, files, err := p.InSync(ctx, wanted); err != nil || !ok {
			t.Errorf("not in sync after it is applied: %v %v", files, err)
		}
		applied := read(t, mainCF)
		apply(t, ctx, p, wanted)
		if read(t, mainCF) != applied {
			t.Error("applied twice, main.cf changed twice")
		}
		if got := setting(t, ctx, p, "non_smtpd_milters"); strings.Count(got, "etrnd/milter.sock") != 1 {
			t.Errorf("the milter must be asked once: %s", got)
		}
		undo(t, ctx, p)
		if got := read(t, mainCF); got != mainText {
			t.Errorf("main.cf after the undo:\n%s", unified(mainCF, &mainText, &got))
		}
		if got := read(t, masterCF); got != masterText {
			t.Errorf("master.cf after the undo:\n%s", unified(masterCF, &masterText, &got))
		}
		if _, err := os.Stat("/etc/postfix/etrnd"); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the undo has left its directory: %v", err)
		}
		if pl := undo(t, ctx, p); !pl.Empty() {
			t.Error("nothing is left to undo, and still there is a plan")
		}
	})
}

// What somebody has edited after the set-up is kept by the next set-up and by
// the undo, which then takes out our elements alone.
func TestSetupKeepsEdits(t *testing.T) {
	inside(t, testbed.PostfixOptions{}, func(t *testing.T, ctx context.Context) {
		mainText, masterText := plant(t)
		p := postfix(t)
		apply(t, ctx, p, wanted)
		edits := [][3]string{
			{mainCF, "# Sites that we relay for.", "# Sites that we relay for, and more."},
			{mainCF, "    other.example", "    other.example, third.example"},
			{mainCF, "maillog_file", "message_size_limit = 1000000\nmaillog_file"},
			{masterCF, "\nretry ", "\n# mine\nretry "},
		}
		for _, e := range edits {
			edit(t, e[0], e[1], e[2])
			mainText = map[bool]string{true: strings.Replace(mainText, e[1], e[2], 1), false: mainText}[e[0] == mainCF]
			masterText = map[bool]string{true: strings.Replace(masterText, e[1], e[2], 1), false: masterText}[e[0] == masterCF]
		}
		if ok, files, err := p.InSync(ctx, wanted); err != nil || !ok {
			t.Errorf("edits elsewhere are no reason to set up again: %v %v", files, err)
		}
		undo(t, ctx, p)
		if got := read(t, mainCF); got != mainText {
			t.Errorf("main.cf after the undo:\n%s", unified(mainCF, &mainText, &got))
		}
		if got := read(t, masterCF); got != masterText {
			t.Errorf("master.cf after the undo:\n%s", unified(masterCF, &masterText, &got))
		}
	})
}

// A setting that we have made and somebody has since given another value is
// his, and an element that was there before us stays when we go.
func TestUndoLeavesWhatIsNotOurs(t *testing.T) {
	inside(t, testbed.PostfixOptions{Main: map[string]string{"defer_transports": "slow", "relayhost": "[192.0.2.1]"}}, func(t *testing.T, ctx context.Context) {
		p := postfix(t)
		w := Wanted{Routes: []Route{{Pattern: "*", Deliver: "smtp:[192.0.2.25]"}}}
		apply(t, ctx, p, w)
		if got := setting(t, ctx, p, "defer_transports"); got != "slow, transient" {
			t.Errorf("defer_transports = %s", got)
		}
		if got := setting(t, ctx, p, "default_transport"); got != "transient:[192.0.2.25]" {
			t.Errorf("default_transport = %s", got)
		}
		edit(t, mainCF, "default_transport = transient:[192.0.2.25]", "default_transport = smtp:[192.0.2.26]")
		edit(t, mainCF, "slow, transient", "transient")
		pl := undo(t, ctx, p)
		if got := setting(t, ctx, p, "default_transport"); got != "smtp:[192.0.2.26]" {
			t.Errorf("default_transport = %s", got)
		}
		if !slices.ContainsFunc(pl.Warnings, func(s string) bool { return strings.Contains(s, "default_transport") }) {
			t.Errorf("the undo says nothing of default_transport: %q", pl.Warnings)
		}
		if got := setting(t, ctx, p, "defer_transports"); got != "" {
			t.Errorf("defer_transports = %s", got)
		}
		if got := setting(t, ctx, p, "fast_flush_domains"); got != "" {
			t.Errorf("fast_flush_domains = %s", got)
		}
	})
}

// A changed configuration moves the difference: what is dropped goes, what is
// new comes, the rest stays where it is.
func TestSetupDelta(t *testing.T) {
	inside(t, testbed.PostfixOptions{}, func(t *testing.T, ctx context.Context) {
		mainText, _ := plant(t)
		p := postfix(t)
		apply(t, ctx, p, wanted)
		w := wanted
		w.Routes = append(slices.Clone(w.Routes[:2]), Route{Pattern: "gamma.example", Deliver: "smtp:[192.0.2.9]", Relay: true})
		w.QueueNames = []string{"gamma"}
		w.ClientCerts = false
		pl := apply(t, ctx, p, w)
		diff := pl.Diff()
		for _, gone := range []string{"-transient-lmtp unix", "-smtpd_tls_ask_ccert", "-chief@beta.example"} {
			if !strings.Contains(diff, "\n"+gone) {
				t.Errorf("%q is not in the difference:\n%s", gone, diff)
			}
		}
		if got := setting(t, ctx, p, "defer_transports"); got != "transient" {
			t.Errorf("defer_transports = %s", got)
		}
		if got := setting(t, ctx, p, "fast_flush_domains"); !strings.HasSuffix(got, ", gamma") || strings.Contains(got, "beta") {
			t.Errorf("fast_flush_domains = %s", got)
		}
		// A set-up that ended between the files and the reload is finished by
		// the next one, although no file is left to change.
		edit(t, "/etc/postfix/etrnd/state.json", `"version": 1,`, `"version": 1, "pending": true,`)
		if ok, files, err := p.InSync(ctx, w); err != nil || ok || len(files) != 0 {
			t.Errorf("in sync, though Postfix may not know: %v, %v", files, err)
		}
		apply(t, ctx, p, w)

		undo(t, ctx, p)
		if got := read(t, mainCF); got != mainText {
			t.Errorf("main.cf after the undo:\n%s", unified(mainCF, &mainText, &got))
		}
	})
}

func TestSetupRefuses(t *testing.T) {
	inside(t, testbed.PostfixOptions{Master: []string{"transient unix - n n - - pipe\n  flags=R user=nobody argv=/bin/true"}}, func(t *testing.T, ctx context.Context) {
		cases := map[string]struct {
			o     Options
			route Route
			want  string
		}{
			"transport taken": {Options{}, Route{Pattern: "a.example", Deliver: "smtp:[192.0.2.1]"}, `runs "pipe"`},
			"turn":            {Options{Transport: "t"}, Route{Pattern: "a.example", Deliver: "turn"}, "no way to deliver"}, // without a socket
			"relative":        {Options{Transport: "t"}, Route{Pattern: "a.example", Deliver: "turn:turn-a.sock"}, "no way to deliver"},
			"local":           {Options{Transport: "t"}, Route{Pattern: "a.example", Deliver: "local:"}, "no way to deliver"},
			// A line break would be a line of its own in the table.
			"line break": {Options{Transport: "t"}, Route{Pattern: "a.example\nb.example", Deliver: "smtp:[192.0.2.1]"}, "cannot be a key"},
			"hop":        {Options{Transport: "t"}, Route{Pattern: "a.example", Deliver: "smtp:[192.0.2.1]\n* smtp:x"}, "no way to deliver"},
		}
		for name, c := range cases {
			if _, err := NewPostfix(c.o).Plan(ctx, Wanted{Routes: []Route{c.route}}); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: got %v, want an error with %q", name, err, c.want)
			}
		}
		// Another name for the transport is the way out.
		p := NewPostfix(Options{Transport: "held"})
		apply(t, ctx, p, Wanted{Routes: []Route{{Pattern: "a.example", Deliver: "smtp:[192.0.2.1]"}}})

		// Somebody was quicker: nothing is written.
		pl, err := p.Plan(ctx, Wanted{Routes: []Route{{Pattern: "b.example", Deliver: "smtp:[192.0.2.1]"}}})
		if err != nil {
			t.Fatal(err)
		}
		edit(t, mainCF, "biff = no", "biff = yes")
		before := read(t, "/etc/postfix/etrnd/transport")
		edit(t, "/etc/postfix/etrnd/transport", "a.example", "A.example")
		if err := pl.Apply(ctx); err == nil || !strings.Contains(err.Error(), "has changed since") {
			t.Errorf("applied over an edit: %v", err)
		}
		edit(t, "/etc/postfix/etrnd/transport", "A.example", "a.example")

		// Postfix does not take it: all files are as they were.
		edit(t, mainCF, "inet_protocols = ipv4", "inet_protocols = pigeon")
		now := read(t, mainCF)
		if pl, err = p.Plan(ctx, Wanted{Routes: []Route{{Pattern: "b.example", Deliver: "smtp:[192.0.2.1]", Relay: true}}}); err != nil {
			t.Fatal(err)
		}
		if err := pl.Apply(ctx); err == nil || !strings.Contains(err.Error(), "old files are back") {
			t.Errorf("applied what does not pass: %v", err)
		}
		if read(t, mainCF) != now || read(t, "/etc/postfix/etrnd/transport") != before {
			t.Error("the old files are not back")
		}
	})
}

func TestIsLocal(t *testing.T) {
	opts := testbed.PostfixOptions{
		Main: map[string]string{
			"mydestination":           "$myhostname, !no.example, /etc/postfix/finals, texthash:/etc/postfix/table",
			"virtual_alias_maps":      "texthash:/etc/postfix/virtual",
			"virtual_mailbox_domains": "box.example",
			"relay_domains":           "relay.example",
			"inet_interfaces":         "127.0.0.1, 192.0.2.5",
			"recipient_delimiter":     "+-",
		},
		Files: map[string]string{
			"/etc/postfix/finals":  "# names\nfile.example, no.example\n",
			"/etc/postfix/table":   "table.example x\n",
			"/etc/postfix/virtual": "virtual.example x\nx@virtual.example y\n",
		},
	}
	opts.Main["inet_interfaces"] = "127.0.0.1"
	opts.Main["proxy_interfaces"] = "192.0.2.5"
	inside(t, opts, func(t *testing.T, ctx context.Context) {
		p := postfix(t)
		for domain, want := range map[string]bool{
			"": true, "hub.example.net": true, "HUB.example.net.": true, "file.example": true, "table.example": true,
			"box.example": true, "virtual.example": true, "[127.0.0.1]": true, "[192.0.2.5]": true,
			// The first entry that matches decides.
			"no.example": false,
			// A relay domain's mail goes on, subdomains of a name are others.
			"relay.example": false, "sub.file.example": false, "[192.0.2.6]": false, "far.example": false, "-q": false, "[": false,
		} {
			if got, err := p.IsLocal(ctx, domain); err != nil || got != want {
				t.Errorf("IsLocal(%q) = %v, %v, want %v", domain, got, err, want)
			}
		}
		if d, err := p.RecipientDelimiter(ctx); err != nil || d != "+-" {
			t.Errorf("delimiter %q, %v", d, err)
		}
		edit(t, "/etc/postfix/main.cf", "virtual_mailbox_domains = box.example", "virtual_mailbox_domains = far.example")
		p.Refresh()
		if got, err := p.IsLocal(ctx, "far.example"); err != nil || !got {
			t.Errorf("after a refresh: %v, %v", got, err)
		}
	})
}

// sink is a remote that takes all mail, and tells what it got.
type sink struct {
	mu  sync.Mutex
	got []string // recipients, in the order of arrival
}

func (s *sink) NewSession(*gosmtp.Conn) (gosmtp.Session, error) { return &sinkSession{s: s}, nil }

func (s *sink) recipients() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(slices.Values(s.got))
}

type sinkSession struct {
	s    *sink
	rcpt []string
}

func (ss *sinkSession) Mail(string, *gosmtp.MailOptions) error { ss.rcpt = nil; return nil }
func (ss *sinkSession) Rcpt(to string, _ *gosmtp.RcptOptions) error {
	ss.rcpt = append(ss.rcpt, to)
	return nil
}
func (ss *sinkSession) Data(r io.Reader) error {
	if _, err := io.Copy(io.Discard, r); err != nil {
		return err
	}
	ss.s.mu.Lock()
	defer ss.s.mu.Unlock()
	ss.s.got = append(ss.s.got, ss.rcpt...)
	return nil
}
func (ss *sinkSession) Reset()        {}
func (ss *sinkSession) Logout() error { return nil }

func listen(t *testing.T, addr string) *sink {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	s := &sink{}
	srv := gosmtp.NewServer(s)
	srv.Domain = "sink.example"
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(l) }() // ends with the server
	t.Cleanup(func() { _ = srv.Close(); <-done })
	return s
}

var queuedAs = regexp.MustCompile(`queued as ([0-9A-Za-z]+)`)

// send hands Postfix one message and returns its queue id.
func send(t *testing.T, to ...string) string {
	t.Helper()
	c, err := smtp.Dial("127.0.0.1:25")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	steps := []error{c.Hello("client.example"), c.Mail("sender@client.example")}
	for _, r := range to {
		steps = append(steps, c.Rcpt(r))
	}
	if err := errors.Join(steps...); err != nil {
		t.Fatal(err)
	}
	id, err := c.Text.Cmd("DATA")
	if err != nil {
		t.Fatal(err)
	}
	c.Text.StartResponse(id)
	_, _, err = c.Text.ReadResponse(354)
	c.Text.EndResponse(id)
	if err != nil {
		t.Fatal(err)
	}
	w := c.Text.DotWriter()
	if _, err := io.WriteString(w, "Subject: test\r\n\r\ntext\r\n"); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	_, text, err := c.Text.ReadResponse(250)
	var te *textproto.Error
	if errors.As(err, &te) {
		t.Fatalf("refused: %v", te)
	}
	m := queuedAs.FindStringSubmatch(text)
	if m == nil {
		t.Fatalf("no queue id in %q (%v)", text, err)
	}
	return m[1]
}

// settled waits until the queue is as ok wants it, and returns it.
func settled(t *testing.T, ctx context.Context, p *Postfix, what string, ok func(map[string]Message) bool) map[string]Message {
	t.Helper()
	var last map[string]Message
	err := testbed.Until(ctx, what, func() (bool, error) {
		list, err := p.List(ctx)
		if err != nil {
			return false, err
		}
		last = map[string]Message{}
		for _, m := range list {
			last[m.ID] = m
		}
		return ok(last), nil
	})
	if err != nil {
		t.Fatalf("%v; the queue is %+v", err, last)
	}
	return last
}

// reasons are those of all recipients of a message, held alike or not.
func reasons(m Message) (held, failed int) {
	for _, r := range m.Recipients {
		switch r.Reason {
		case "":
		case ReasonHeld:
			held++
		default:
			failed++
		}
	}
	return held, failed
}

func heldWanted() Wanted {
	return Wanted{Routes: []Route{
		{Pattern: "acme.example", Deliver: "smtp:[127.0.0.1]:2501", Relay: true},
		{Pattern: "beta.example", Deliver: "smtp:[127.0.0.1]:2502", Relay: true},
	}}
}

// The facts that Release and its callers stand on.
func TestRelease(t *testing.T) {
	inside(t, testbed.PostfixOptions{Main: map[string]string{"minimal_backoff_time": "1s", "queue_run_delay": "1s"}}, func(t *testing.T, ctx context.Context) {
		p := postfix(t)
		apply(t, ctx, p, heldWanted())
		acme := send(t, "a@acme.example")
		beta := send(t, "b@beta.example")
		both := send(t, "c@acme.example", "d@beta.example")
		allHeld := func(q map[string]Message) bool {
			n := 0
			for _, m := range q {
				h, _ := reasons(m)
				n += h
			}
			return n == 4
		}
		q := settled(t, ctx, p, "all mail held", allHeld)
		if m := q[both]; m.Sender != "sender@client.example" || len(m.Recipients) != 2 || m.Queue != "deferred" || m.Size <= 0 || time.Since(m.Arrived) > time.Minute {
			t.Errorf("listed as %+v", m)
		}

		// What is gone or never was is no error, what is malformed is, and
		// does not stop the rest.
		if err := p.Release(ctx, nil, []string{"0123456789A", "zzzz"}); err != nil {
			t.Errorf("unknown ids: %v", err)
		}
		err := p.Release(ctx, []string{"far.example", "-f"}, []string{"../../x"})
		if !errors.Is(err, ErrNotFlushable) || !strings.Contains(err.Error(), `"far.example"`) || !strings.Contains(err.Error(), `"../../x"`) || !strings.Contains(err.Error(), `"-f"`) {
			t.Errorf("a domain that is not listed: %v", err)
		}

		// Released while nobody listens: tried at once, deferred again, and
		// then held through queue runs as before.
		if err := p.Release(ctx, nil, []string{acme}); err != nil {
			t.Fatal(err)
		}
		settled(t, ctx, p, "a failed attempt", func(q map[string]Message) bool { _, failed := reasons(q[acme]); return failed == 1 })
		settled(t, ctx, p, "held again by a queue run", allHeld)

		// An id releases that message and no other; the domain's mail stays.
		a := listen(t, "127.0.0.1:2501")
		if err := p.Release(ctx, nil, []string{acme}); err != nil {
			t.Fatal(err)
		}
		settled(t, ctx, p, "one message delivered", func(q map[string]Message) bool { return len(q) == 2 })
		if got := a.recipients(); !slices.Equal(got, []string{"a@acme.example"}) {
			t.Errorf("delivered %q", got)
		}

		// The trap: a message for two queues is one file, and both are tried.
		if err := p.Release(ctx, []string{"acme.example"}, nil); err != nil {
			t.Fatal(err)
		}
		q = settled(t, ctx, p, "the part of acme delivered", func(q map[string]Message) bool { return len(q[both].Recipients) == 1 })
		if h, _ := reasons(q[beta]); h != 1 {
			t.Errorf("releasing acme moved the mail of beta: %+v", q[beta])
		}

		// A message on hold (postsuper -h) is the postmaster's, not ours.
		if _, err := p.output(ctx, nil, "postsuper", "-h", beta); err != nil {
			t.Fatal(err)
		}
		b := listen(t, "127.0.0.1:2502")
		if err := p.Release(ctx, []string{"beta.example"}, []string{beta}); err != nil {
			t.Fatal(err)
		}
		q = settled(t, ctx, p, "the rest delivered", func(q map[string]Message) bool { return len(q) == 1 })
		if q[beta].Queue != "hold" {
			t.Errorf("on hold, and now %+v", q[beta])
		}
		if got := b.recipients(); !slices.Equal(got, []string{"d@beta.example"}) {
			t.Errorf("delivered %q", got)
		}
	})
}

// Postfix notes deferred mail for a domain only from the moment that the
// domain is in fast_flush_domains: what is older is released by id alone.
func TestReleaseOlderThanSetup(t *testing.T) {
	inside(t, testbed.PostfixOptions{Main: map[string]string{"relay_domains": "acme.example", "fast_flush_domains": "", "minimal_backoff_time": "1s", "queue_run_delay": "1000s"},
		Files: map[string]string{"/etc/postfix/dead": "acme.example smtp:[127.0.0.1]:2501\n"}}, func(t *testing.T, ctx context.Context) {
		p := postfix(t)
		edit(t, mainCF, "relay_domains", "transport_maps = texthash:/etc/postfix/dead\nrelay_domains")
		if err := p.postfixCommand(ctx, "reload"); err != nil {
			t.Fatal(err)
		}
		old := send(t, "a@acme.example")
		settled(t, ctx, p, "an ordinary failure", func(q map[string]Message) bool { _, failed := reasons(q[old]); return failed == 1 })
		edit(t, mainCF, "fast_flush_domains =", "fast_flush_domains = static:all")
		apply(t, ctx, p, heldWanted())
		young := send(t, "b@acme.example")
		settled(t, ctx, p, "held", func(q map[string]Message) bool { h, _ := reasons(q[young]); return h == 1 })
		s := listen(t, "127.0.0.1:2501")
		if err := p.Release(ctx, []string{"acme.example"}, nil); err != nil {
			t.Fatal(err)
		}
		settled(t, ctx, p, "the younger one delivered", func(q map[string]Message) bool { _, ok := q[young]; return !ok })
		if err := p.Release(ctx, nil, []string{old}); err != nil {
			t.Fatal(err)
		}
		settled(t, ctx, p, "the older one delivered", func(q map[string]Message) bool { return len(q) == 0 })
		if got := s.recipients(); !slices.Equal(got, []string{"a@acme.example", "b@acme.example"}) {
			t.Errorf("delivered %q", got)
		}
	})
}

func TestPostfixStopped(t *testing.T) {
	inside(t, testbed.PostfixOptions{}, func(t *testing.T, ctx context.Context) {
		p := postfix(t)
		apply(t, ctx, p, heldWanted())
		id := send(t, "a@acme.example")
		settled(t, ctx, p, "held", func(q map[string]Message) bool { h, _ := reasons(q[id]); return h == 1 })
		if err := p.postfixCommand(ctx, "stop"); err != nil {
			t.Fatal(err)
		}
		// Root reads the queue files; a release has nobody to go to, and is
		// given up after the first of many.
		if q, err := p.List(ctx); err != nil || len(q) != 1 || q[0].ID != id {
			t.Errorf("listing: %+v, %v", q, err)
		}
		ids := slices.Repeat([]string{id}, 5000)
		if err := p.Release(ctx, []string{"acme.example"}, ids); !errors.Is(err, ErrDown) || strings.Count(err.Error(), "\n") > 0 {
			t.Errorf("release: %v", err)
		}
		if running, err := p.Running(ctx); err != nil || running {
			t.Errorf("running: %v, %v", running, err)
		}
		// A set-up needs no running Postfix, and does not start it.
		w := heldWanted()
		w.Routes = w.Routes[:1]
		apply(t, ctx, p, w)
		if running, err := p.Running(ctx); err != nil || running {
			t.Errorf("running after a set-up: %v, %v", running, err)
		}
	})
}

func TestReleaseIsCancelled(t *testing.T) {
	dir := t.TempDir()
	// Stands in for a postqueue that hangs, which the real one does only when
	// a daemon of Postfix hangs.
	if err := os.WriteFile(filepath.Join(dir, "postqueue"), []byte("#!/bin/sh\nexec sleep 60\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	p := NewPostfix(Options{CommandDir: dir, CommandTimeout: 50 * time.Millisecond, Parallel: 2})
	start := time.Now()
	err := p.Release(t.Context(), []string{"a.example"}, nil)
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("release: %v", err)
	}
	if _, err := p.List(t.Context()); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("list: %v", err)
	}
	if d := time.Since(start); d > 10*time.Second {
		t.Errorf("took %v", d)
	}
}

// ordinaryEnv makes TestOrdinaryUser, run once more inside a host, the
// process of an ordinary user; its value says what that user may do.
const ordinaryEnv = "MTA_TEST_USER"

// The daemon is no root and has no new privileges, so that postqueue's
// set-group-id has no effect: the group postdrop is what it needs.
func TestOrdinaryUser(t *testing.T) {
	switch os.Getenv(ordinaryEnv) {
	case "allowed":
		p, ctx := postfix(t), t.Context()
		if q, err := p.List(ctx); err != nil || len(q) != 1 {
			t.Errorf("list: %+v, %v", q, err)
		}
		if err := p.Release(ctx, []string{"acme.example"}, []string{"0123456789A"}); err != nil {
			t.Errorf("release: %v", err)
		}
		if ok, files, err := p.InSync(ctx, heldWanted()); err != nil || !ok {
			t.Errorf("in sync: %v, %v", files, err)
		}
		for _, f := range p.Check(ctx, heldWanted()) {
			// Debian's own hooks are on the machine, and are looked at by a test
			// of their own.
			if !f.OK && !strings.Contains(f.What, "network interface comes up") {
				t.Errorf("check: %+v", f)
			}
		}
		return
	case "refused":
		p, ctx := postfix(t), t.Context()
		if _, err := p.List(ctx); !errors.Is(err, ErrPermission) {
			t.Errorf("list: %v", err)
		}
		if err := p.Release(ctx, []string{"acme.example"}, nil); !errors.Is(err, ErrPermission) || errors.Is(err, ErrDown) {
			t.Errorf("release: %v", err)
		}
		if !slices.ContainsFunc(p.Check(ctx, heldWanted()), func(f Finding) bool { return !f.OK && strings.Contains(f.Hint, "postdrop") }) {
			t.Error("check has no hint at the group")
		}
		return
	case "down":
		if _, err := postfix(t).List(t.Context()); !errors.Is(err, ErrDown) {
			t.Errorf("list: %v", err)
		}
		return
	}
	inside(t, testbed.PostfixOptions{}, func(t *testing.T, ctx context.Context) {
		p := postfix(t)
		apply(t, ctx, p, heldWanted())
		id := send(t, "a@acme.example")
		settled(t, ctx, p, "held", func(q map[string]Message) bool { h, _ := reasons(q[id]); return h == 1 })
		self, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		as := func(what, groups string) {
			cmd := exec.CommandContext(ctx, "setpriv", "--no-new-privs", "--reuid=nobody", "--regid=nogroup", groups, self, "-test.run=^TestOrdinaryUser$", "-test.v")
			cmd.Env = append(os.Environ(), ordinaryEnv+"="+what)
			if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS") {
				t.Errorf("%s: %v\n%s", what, err, out)
			}
		}
		as("refused", "--clear-groups")
		as("allowed", "--groups=postdrop")
		if err := p.postfixCommand(ctx, "stop"); err != nil {
			t.Fatal(err)
		}
		as("down", "--groups=postdrop")
	})
}

// Check names what is wrong before anything is set up.
func TestCheck(t *testing.T) {
	inside(t, testbed.PostfixOptions{}, func(t *testing.T, ctx context.Context) {
		p := postfix(t)
		w := heldWanted()
		w.Milter, w.Policy = "unix:/var/spool/postfix/etrnd/milter.sock", "unix:/run/locked/policy.sock"
		if err := errors.Join(os.RemoveAll("/var/spool/postfix/etrnd"), os.MkdirAll("/run/locked", 0o700)); err != nil {
			t.Fatal(err)
		}
		var all strings.Builder
		for _, f := range p.Check(ctx, w) {
			if !f.OK {
				all.WriteString(f.What + "\n")
			}
		}
		for _, want := range []string{"not set up", "/var/spool/postfix/etrnd: no such file", "keeps the user postfix out", "is chrooted"} {
			if !strings.Contains(all.String(), want) {
				t.Errorf("nothing of %q in\n%s", want, all.String())
			}
		}
	})
}

// The flush service keeps an id in a domain's list until the domain is asked
// for. A message whose recipients in the domain were served by id is therefore
// moved once more by the domain: to release exactly, name ids.
func TestDomainRemembersServedMessages(t *testing.T) {
	inside(t, testbed.PostfixOptions{}, func(t *testing.T, ctx context.Context) {
		p := postfix(t)
		apply(t, ctx, p, heldWanted())
		both := send(t, "a@acme.example", "b@beta.example")
		settled(t, ctx, p, "held", func(q map[string]Message) bool { h, _ := reasons(q[both]); return h == 2 })
		a := listen(t, "127.0.0.1:2501")
		if err := p.Release(ctx, nil, []string{both}); err != nil {
			t.Fatal(err)
		}
		settled(t, ctx, p, "acme served, beta failed", func(q map[string]Message) bool {
			_, failed := reasons(q[both])
			return len(q[both].Recipients) == 1 && failed == 1 && q[both].Queue == "deferred"
		})
		listen(t, "127.0.0.1:2502")
		if err := p.Release(ctx, []string{"acme.example"}, nil); err != nil {
			t.Fatal(err)
		}
		settled(t, ctx, p, "beta's part tried by a release of acme", func(q map[string]Message) bool { return len(q) == 0 })
		if got := a.recipients(); len(got) != 1 {
			t.Errorf("acme got %q", got)
		}
	})
}

// markMany is the part of the milter that splitting needs: it marks what has
// more than one recipient, and takes marks off.
type markMany struct {
	gomilter.NoOpMilter
	recipients, marks int
}

func (m *markMany) MailFrom(string, string, gomilter.Modifier) (*gomilter.Response, error) {
	m.recipients, m.marks = 0, 0
	return gomilter.RespContinue, nil
}

func (m *markMany) RcptTo(string, string, gomilter.Modifier) (*gomilter.Response, error) {
	m.recipients++
	return gomilter.RespContinue, nil
}

func (m *markMany) Header(name, _ string, _ gomilter.Modifier) (*gomilter.Response, error) {
	if strings.EqualFold(name, SplitHeader) {
		m.marks++
	}
	return gomilter.RespContinue, nil
}

func (m *markMany) EndOfMessage(mod gomilter.Modifier) (*gomilter.Response, error) {
	var errs []error
	for i := m.marks; i > 0; i-- {
		errs = append(errs, mod.ChangeHeader(i, SplitHeader, ""))
	}
	if m.recipients > 1 {
		errs = append(errs, mod.AddHeader(SplitHeader, "yes"))
	}
	return gomilter.RespAccept, errors.Join(errs...)
}

// A message for two queues becomes one file each, and a release of one leaves
// the other where it is; while the port of the split does not answer, or the
// milter is away, nothing is lost and nobody is told.
func TestSplit(t *testing.T) {
	inside(t, testbed.PostfixOptions{Main: map[string]string{"minimal_backoff_time": "1s", "queue_run_delay": "1s"}}, func(t *testing.T, ctx context.Context) {
		mainText, masterText := read(t, mainCF), read(t, masterCF)
		const where = "/var/spool/postfix/etrnd/milter.sock"
		if err := os.MkdirAll(filepath.Dir(where), 0o755); err != nil {
			t.Fatal(err)
		}
		l, err := net.Listen("unix", where)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(where, 0o666); err != nil {
			t.Fatal(err)
		}
		srv := gomilter.NewServer(gomilter.WithMilter(func() gomilter.Milter { return &markMany{} }), gomilter.WithAction(gomilter.OptAddHeader|gomilter.OptChangeHeader))
		done := make(chan struct{})
		go func() { defer close(done); _ = srv.Serve(l) }() // ends with the server
		var once sync.Once
		away := func() { once.Do(func() { _ = srv.Close(); <-done }) }
		defer away()

		p := postfix(t)
		w := heldWanted()
		w.Milter, w.Split = "unix:"+where, "127.0.0.1:10366"
		apply(t, ctx, p, w)

		both := send(t, "a@acme.example", "b@beta.example")
		apart := func(q map[string]Message) bool {
			if _, there := q[both]; there || len(q) != 2 {
				return false
			}
			for _, m := range q {
				if h, _ := reasons(m); h != 1 || len(m.Recipients) != 1 || m.Sender != "sender@client.example" {
					return false
				}
			}
			return true
		}
		q := settled(t, ctx, p, "two files, both held", apart)
		for id := range q {
			text, err := p.output(ctx, nil, "postcat", "-qbh", id)
			if err != nil || strings.Contains(text, SplitHeader) || strings.Count(text, "Received:") != 2 {
				t.Errorf("the copy is %q (%v)", text, err)
			}
		}
		a := listen(t, "127.0.0.1:2501")
		if err := p.Release(ctx, []string{"acme.example"}, nil); err != nil {
			t.Fatal(err)
		}
		q = settled(t, ctx, p, "acme served", func(q map[string]Message) bool { return len(q) == 1 })
		for _, m := range q {
			if h, _ := reasons(m); h != 1 || m.Recipients[0].Address != "b@beta.example" {
				t.Errorf("beta's is %+v", m)
			}
			if err := p.Release(ctx, nil, []string{m.ID}); err != nil {
				t.Fatal(err)
			}
		}
		b := listen(t, "127.0.0.1:2502")
		if err := p.Release(ctx, []string{"beta.example"}, nil); err != nil {
			t.Fatal(err)
		}
		settled(t, ctx, p, "beta served", func(q map[string]Message) bool { return len(q) == 0 })
		if !slices.Equal(a.recipients(), []string{"a@acme.example"}) || !slices.Equal(b.recipients(), []string{"b@beta.example"}) {
			t.Errorf("acme got %q, beta %q", a.recipients(), b.recipients())
		}

		// The port is away: the message waits in one piece, and is taken apart
		// when the port is back.
		edit(t, masterCF, "127.0.0.1:10366 inet", "#127.0.0.1:10366 inet")
		edit(t, masterCF, "#127.0.0.1:10366", "127.0.0.1:10399")
		if err := p.postfixCommand(ctx, "reload"); err != nil {
			t.Fatal(err)
		}
		if err := testbed.Until(ctx, "the port to close", func() (bool, error) {
			c, err := net.Dial("tcp", "127.0.0.1:10366")
			if err == nil {
				_ = c.Close()
			}
			return err != nil, nil
		}); err != nil {
			t.Fatal(err)
		}
		both = send(t, "c@acme.example", "d@beta.example")
		settled(t, ctx, p, "waiting", func(q map[string]Message) bool { _, failed := reasons(q[both]); return len(q) == 1 && failed == 2 })
		edit(t, masterCF, "127.0.0.1:10399", "127.0.0.1:10366")
		if err := p.postfixCommand(ctx, "reload"); err != nil {
			t.Fatal(err)
		}
		settled(t, ctx, p, "apart once the port is back", apart)

		// The milter is away: accepted at once, in one piece, and held.
		away()
		whole := send(t, "e@acme.example", "f@beta.example")
		settled(t, ctx, p, "held in one piece", func(q map[string]Message) bool { h, _ := reasons(q[whole]); return h == 2 })

		undo(t, ctx, p)
		if got := read(t, mainCF); got != mainText {
			t.Errorf("main.cf after the undo:\n%s", unified(mainCF, &mainText, &got))
		}
		if got := read(t, masterCF); got != masterText {
			t.Errorf("master.cf after the undo:\n%s", unified(masterCF, &masterText, &got))
		}
	})
}

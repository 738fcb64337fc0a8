package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"iter"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/etrnd/etrnd/etrnd/control"
	"github.com/etrnd/etrnd/internal/api"
	"github.com/etrnd/etrnd/internal/programs"
)

var update = flag.Bool("update", false, "write the golden files anew")

// binary is etrnctl as it is built for users.
var binary string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		built, err := programs.Build(context.Background(), false)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer built.Close()
		binary = built.Path("etrnctl")
		return m.Run()
	}())
}

// noon is when the tests take place.
var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func ago(d time.Duration) *time.Time { t := noon.Add(-d); return &t }

// daemon is what stands behind the control socket in tests.
type daemon struct {
	status   api.Status
	queues   []api.Queue
	nobody   api.Nobody
	history  []api.CallResult
	released []api.Released
	calls    []api.CallRef
	warnings []string
	err      error

	// events is what Watch tells; more are sent as the test goes on if it is
	// not closed.
	events chan api.CallEvent
	left   chan struct{} // closed when a watcher has gone; may be nil

	mu    sync.Mutex
	asked []string
}

func (d *daemon) ask(words ...string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.asked = append(d.asked, strings.Join(words, " "))
}

func (d *daemon) Status(context.Context) api.Status { return d.status }
func (d *daemon) Queues(context.Context) (iter.Seq[*api.Queue], error) {
	return func(yield func(*api.Queue) bool) {
		for i := range d.queues {
			if !yield(&d.queues[i]) {
				return
			}
		}
	}, d.err
}
func (d *daemon) Nobody(context.Context) (api.Nobody, error)  { return d.nobody, d.err }
func (d *daemon) Reload(context.Context) ([]string, error)    { return d.warnings, d.err }
func (d *daemon) HangUp(_ context.Context, link string) error { d.ask("hang-up", link); return d.err }
func (d *daemon) LinkDown(_ context.Context, ev api.LinkEvent) error {
	d.ask("link down", ev.Link, ev.Interface)
	return d.err
}
func (d *daemon) LinkUp(_ context.Context, ev api.LinkEvent) ([]api.CallRef, error) {
	d.ask("link up", ev.Link, ev.Interface)
	return d.calls, d.err
}
func (d *daemon) Release(_ context.Context, name string) ([]api.Released, error) {
	d.ask("release", name)
	return d.released, d.err
}
func (d *daemon) Call(_ context.Context, remote string) (api.CallRef, error) {
	d.ask("call", remote)
	if d.err != nil {
		return api.CallRef{}, d.err
	}
	return d.calls[0], nil
}
func (d *daemon) History(_ context.Context, n int) ([]api.CallResult, error) {
	return d.history[:min(n, len(d.history))], d.err
}
func (d *daemon) Watch(ctx context.Context, _ []string) (<-chan api.CallEvent, error) {
	c := make(chan api.CallEvent)
	go func() {
		defer close(c)
		for {
			select {
			case ev, ok := <-d.events:
				if !ok {
					return
				}
				select {
				case c <- ev:
				case <-ctx.Done():
					return
				}
			case <-ctx.Done():
				if d.left != nil {
					close(d.left)
				}
				return
			}
		}
	}()
	return c, nil
}

// start puts a daemon behind a socket.
func (d *daemon) start(t *testing.T) (socket string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "etrnctl")
	if err != nil {
		t.Fatal(err)
	}
	socket = filepath.Join(dir, "s")
	ln, err := net.Listen("unix", socket)
	if err == nil {
		err = errors.Join(os.Chmod(dir, 0o755), os.Chmod(socket, 0o666))
	}
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	s := control.NewServer(control.Options{Backend: d, Group: "games", Logger: slog.New(slog.DiscardHandler)})
	go func() { done <- s.Serve(ctx, ln) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		os.RemoveAll(dir)
	})
	return socket
}

// etrnctl runs a command line in this process.
func etrnctl(t *testing.T, stdin string, args ...string) (stdout, stderr string, exit int) {
	t.Helper()
	var out, errs bytes.Buffer
	a := &app{in: strings.NewReader(stdin), out: &out, err: &errs, now: func() time.Time { return noon }, zone: time.UTC, version: "1.2.3"}
	exit = a.run(t.Context(), args)
	return out.String(), errs.String(), exit
}

// golden compares with a file of testdata.
func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("got\n%s\nwant (%s)\n%s", got, file, want)
	}
}

// narrow holds output to 80 columns, sentences about a file apart: those may
// be long, and are wanted in one piece.
func narrow(t *testing.T, out string) {
	t.Helper()
	for line := range strings.Lines(out) {
		if n := len([]rune(strings.TrimSuffix(line, "\n"))); n > 80 && !strings.Contains(line, ".toml:") {
			t.Errorf("a line of %d columns: %s", n, line)
		}
	}
}

var (
	hub = api.CallRef{Call: "c17", Remote: "hub", Link: "isp"}
	sat = api.CallRef{Call: "c18", Remote: "sat", Link: "isp"}

	good = api.CallResult{
		CallRef: hub, RouterType: "pull-push", Start: noon.Add(-72 * time.Second), End: noon, Line: api.Seconds(72 * time.Second),
		In: api.Progress{Messages: 14, Bytes: 32345, Expected: 14}, Out: api.Progress{Messages: 3, Bytes: 2100345, Expected: 3}, Duplicates: 1, Unsent: &api.Unsent{Messages: 1, Reason: "SASL authentication failed: 535 5.7.8 Error"}, OnHold: 2, Refused: &api.Refused{Messages: 2, Recipients: 1, Reply: "452 4.3.1 Insufficient system storage"},
		Replies: []api.Reply{
			{Name: "site.example", Code: 251, Text: "OK, no messages waiting for node site.example", Count: 0},
			{Name: "#site", Code: 253, Text: "OK, 14 pending messages for node #site started", Count: 14},
		},
	}
	refused = api.CallResult{
		CallRef: sat, RouterType: "pull-only", Start: noon.Add(-2 * time.Hour), End: noon.Add(-2*time.Hour + 5*time.Second), Line: api.Seconds(5 * time.Second),
		In: api.Progress{Expected: -1}, Out: api.Progress{Expected: -1},
		Replies: []api.Reply{{Name: "@com", Code: 459, Text: "not\r\x1b[31mallowed", Count: -1}},
		Error:   "the remote refused every request", Hint: "ask its postmaster for the names you may request", Exit: api.ExitUnavailable,
	}
)

func full() *daemon {
	until := noon.Add(250 * time.Second)
	return &daemon{
		status: api.Status{
			Version: "1.2.3", PID: 812, Hostname: "hub.example.net", Started: *ago(76 * time.Hour), Uptime: api.Seconds(76 * time.Hour),
			Config: api.ConfigStatus{
				File: "/etc/etrnd/etrnd.toml", Loaded: *ago(50 * time.Hour), Rejected: ago(90 * time.Second),
				Problems: []string{`/etc/etrnd/etrnd.toml:12: queue "acme": domains: "acme..example" is no domain`},
			},
			MTA:    api.MTAStatus{Type: "postfix", Reconciled: ago(12 * time.Second)},
			Milter: api.MilterStatus{Connected: true, Since: ago(75 * time.Hour), Sessions: 1},
			Listen: []api.Listener{{Name: "control", Address: "unix:/run/etrnd/control.sock"}, {Name: "policy", Address: "unix:/var/spool/postfix/etrnd/policy.sock"}, {Name: "odmr", Address: "[::]:366"}},
			Queues: api.QueueTotals{Queues: 3, Messages: 216, Bytes: 1234567, Oldest: ago(200 * time.Minute)},
			Links: []api.Link{
				{Name: "isp", State: api.LinkUp, Since: ago(72 * time.Second), Interface: "ppp0", Remotes: []string{"hub", "sat"}},
				{Name: "harbour", State: api.LinkDown},
			},
			Calls: []api.CallEvent{
				{CallRef: hub, Phase: api.PhaseReceiving, Waiting: "7 of 14 messages", Line: api.Seconds(71 * time.Second), In: api.Progress{Messages: 7, Bytes: 16000, Expected: 14}, Out: api.Progress{Messages: 3, Bytes: 2100345, Expected: 3}},
				{CallRef: sat, Phase: api.PhaseConnecting, In: api.Progress{Expected: -1}, Out: api.Progress{Expected: -1}},
			},
			Warnings: []string{"Postfix is not set up for this configuration: etrnctl setup postfix"},
		},
		queues: []api.Queue{
			{Name: "acme", Messages: 214, Bytes: 1222567, Oldest: ago(200 * time.Minute), Domains: []string{"acme.example", ".acme.example"}, Deliver: "smtp:[mail.acme.example]", Failed: 1, OnHold: 2},
			{Name: "beta", Messages: 2, Bytes: 12000, Oldest: ago(40 * time.Second), Open: true, OpenUntil: &until, UnderWay: 2, Domains: []string{"beta.example", "postmaster@beta.test", "one.beta.test", "two.beta.test", "three.beta.test"}},
			{Name: "hub", Open: true, Domains: []string{"*"}, Remote: "hub"},
		},
		history:  []api.CallResult{good, refused},
		released: []api.Released{{Queue: "acme", Messages: 214, Bytes: 1222567, OnHold: 2}, {Queue: "beta"}},
		calls:    []api.CallRef{hub},
		warnings: []string{`/etc/etrnd/etrnd.toml:9: odmr: users: "/etc/etrnd/users" can be read by everyone`},
	}
}

// stopped is a daemon whose MTA has stopped.
func stopped() *daemon {
	d := full()
	d.status.MTA.Error, d.status.MTA.Reconciled = "the mail system is down", ago(200*time.Second)
	d.status.Queues.UnknownSince = ago(200 * time.Second)
	d.status.Calls, d.status.Links, d.status.Warnings, d.status.Config.Rejected = nil, nil, nil, nil
	for i := range d.queues {
		d.queues[i].UnknownSince = ago(200 * time.Second)
	}
	return d
}

// gone is a daemon whose configuration has lost domains that mail is held for.
func gone() *daemon {
	d := full()
	d.status.Calls, d.status.Links, d.status.Config.Rejected = nil, nil, nil
	d.nobody = api.Nobody{Messages: 15, Bytes: 14000, Oldest: ago(26 * time.Hour), OnHold: 1, Expires: ago(-94 * time.Hour), More: 3}
	for i := range 12 {
		d.nobody.Domains = append(d.nobody.Domains, api.NobodyDomain{Domain: fmt.Sprintf("gone-%d.example", i), Messages: 1, Bytes: 1000, Oldest: ago(time.Hour), Expires: ago(-119 * time.Hour)})
	}
	d.nobody.Domains[0] = api.NobodyDomain{Domain: "acme.example", Messages: 4, Bytes: 3000, Oldest: ago(26 * time.Hour), Expires: ago(-94 * time.Hour)}
	d.status.Nobody = d.nobody
	d.status.Nobody.Domains, d.status.Nobody.More = d.nobody.Domains[:2:2], 13
	return d
}

// What people see, and what scripts see.
func TestOutput(t *testing.T) {
	for _, c := range []struct {
		golden string
		d      *daemon
		args   string
	}{
		{"status", full(), "status"},
		// A daemon that has just started, on a machine where nothing else does.
		{"status-bare", &daemon{status: api.Status{Version: "1.2.3", PID: 1, Hostname: "site.example", Config: api.ConfigStatus{File: "/etc/etrnd/etrnd.toml", Loaded: noon}, MTA: api.MTAStatus{Type: "postfix", Error: "the mail system is down"}}}, "status"},
		{"status-json", full(), "status --json"},
		{"queues", full(), "queues"},
		{"queues-json", full(), "queues --json"},
		{"queues-stopped", stopped(), "queues"},
		{"queues-stopped-json", stopped(), "queues --json"},
		{"status-stopped", stopped(), "status"},
		{"queues-none", &daemon{}, "queues"},
		{"queues-none-json", &daemon{}, "queues --json"},
		// What is held for nobody is beside the queues, never among them.
		{"nobody", gone(), "queues --nobody"},
		{"nobody-json", gone(), "queues --nobody --json"},
		{"nobody-none", full(), "queues --nobody"},
		{"nobody-none-json", full(), "queues --nobody --json"},
		{"nobody-queues", gone(), "queues"},
		{"queues-json", gone(), "queues --json"},
		{"nobody-status", gone(), "status"},
		{"nobody-status-json", gone(), "status --json"},
		{"history", full(), "history"},
		{"history-json", full(), "history --json -n 1"},
		{"history-none", &daemon{}, "history"},
		{"release", full(), "release @acme.example"},
		{"release-json", full(), "release acme --json"},
		{"link-up", full(), "link up isp"},
		{"link-up-json", full(), "link up isp --json"},
		// An interface of no link starts nothing, which is no error.
		{"link-up-none", &daemon{}, "link up --interface eth7"},
		{"link-up-none-json", &daemon{}, "link up --interface eth7 --json"},
		{"link-up-none-wait-json", &daemon{}, "link up --interface eth7 --json --wait"},
		{"link-down", &daemon{}, "link down isp"},
		{"call", full(), "call hub"},
		{"hang-up", full(), "hang-up isp"},
		{"reload", full(), "reload"},
		{"reload-json", full(), "reload --json"},
		{"version", &daemon{}, "version"},
		{"version-json", &daemon{}, "version --json"},
	} {
		t.Run(c.golden, func(t *testing.T) {
			socket := c.d.start(t)
			out, errs, exit := etrnctl(t, "", append(strings.Fields(c.args), "--socket", socket)...)
			if exit != 0 || errs != "" {
				t.Errorf("exit %d, stderr %q", exit, errs)
			}
			golden(t, c.golden, out)
			if strings.Contains(c.args, "--json") {
				if !json.Valid([]byte(out)) {
					t.Error("no JSON")
				}
			} else {
				narrow(t, out)
			}
		})
	}
}

// What scripts rely on, apart from any golden file.
func TestQueuesContract(t *testing.T) {
	out, _, exit := etrnctl(t, "", "queues", "--json", "--socket", full().start(t))
	var qs []map[string]any
	if err := json.Unmarshal([]byte(out), &qs); err != nil || exit != 0 || len(qs) != 3 {
		t.Fatalf("%v, exit %d: %s", err, exit, out)
	}
	if q := qs[0]; q["name"] != "acme" || q["messages"] != 214.0 || q["bytes"] != 1222567.0 || q["oldest"] != "2026-03-01T08:40:00Z" {
		t.Errorf("got %v", q)
	}
	if oldest, ok := qs[2]["oldest"]; !ok || oldest != nil {
		t.Errorf("the oldest of an empty queue is %v, want null", oldest)
	}
}

// What the daemon is asked.
func TestAsked(t *testing.T) {
	for _, c := range []struct{ args, want string }{
		{"release #acme", "release #acme"},
		{"link up isp", "link up isp "},
		{"link up --interface ppp0", "link up  ppp0"},
		{"link up isp --interface ppp0", "link up isp ppp0"},
		{"link down --interface ppp0", "link down  ppp0"},
		{"link down isp", "link down isp "},
		{"call hub", "call hub"},
		{"hang-up isp", "hang-up isp"},
	} {
		d := full()
		_, errs, exit := etrnctl(t, "", append(strings.Fields(c.args), "--socket", d.start(t))...)
		if exit != 0 || len(d.asked) != 1 || d.asked[0] != c.want {
			t.Errorf("%s: asked %q, want %q (exit %d, %s)", c.args, d.asked, c.want, exit, errs)
		}
	}
}

// An error of the daemon arrives whole, on standard error, with its code.
func TestDaemonErrors(t *testing.T) {
	for _, c := range []struct {
		golden, args string
		err          *api.Error
	}{
		{"error-queue", "release nobody", api.Errorf(api.ExitUsage, "queues of the configuration: acme, beta", `there is no queue "nobody"`)},
		{"error-reload", "reload", &api.Error{Exit: api.ExitConfig, Message: "the configuration was not taken; the one of before stays in force:", Details: []string{`etrnd.toml:12: queue "acme": "acme..example" is no domain`, `etrnd.toml:14: unknown key "clientz"; did you mean "clients"?`}}},
		{"error-escape", "call hub", api.Errorf(api.ExitUnavailable, "", "the remote said \"554 \x1b]0;owned\x07\r\n250 ok\" \xff")},
		{"error-hangup", "hang-up isp", api.Errorf(api.ExitTempFail, "", "hang-up: poff: exit status 1")},
		{"error-linkup", "link up isp", api.Errorf(api.ExitTempFail, "", "stopping")},
		{"error-linkdown", "link down isp", api.Errorf(api.ExitUsage, "", `there is no link "isp"`)},
		{"error-queues", "queues", api.Errorf(api.ExitTempFail, "start Postfix", "the mail system is down")},
		{"error-history", "history", api.Errorf(api.ExitTempFail, "", "gone")},
	} {
		t.Run(c.golden, func(t *testing.T) {
			d := full()
			d.err = c.err
			out, errs, exit := etrnctl(t, "", append(strings.Fields(c.args), "--socket", d.start(t))...)
			if exit != c.err.Exit || out != "" {
				t.Errorf("exit %d, want %d; stdout %q", exit, c.err.Exit, out)
			}
			golden(t, c.golden, errs)
		})
	}
}

// Where the socket is taken from.
func TestSocket(t *testing.T) {
	socket := full().start(t)
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	named := file("good.toml", "hostname = \"hub.example.net\"\n[control]\nlisten = \"unix:"+socket+"\"\n")
	bad := file("bad.toml", "hostnam = 7\n")
	for _, c := range []struct {
		name, args string
		exit       int
		says       string
	}{
		{"from the configuration", "queues --config " + named, 0, ""},
		{"given, with the configuration bad", "queues --config " + bad + " --socket " + socket, 0, ""},
		{"given as in the configuration", "queues --socket unix:" + socket, 0, ""},
		// The default socket is tried, and the bad file is named.
		{"configuration bad", "queues --config " + bad, 75, "bad.toml could not be used to find the socket: see etrnctl check"},
		{"configuration missing", "queues --config " + dir + "/none", 78, "none: no such file"},
		{"no daemon", "queues --socket " + dir + "/none", 75, "there is no socket " + dir + "/none\n  hint: is etrnd running? systemctl status etrnd\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, errs, exit := etrnctl(t, "", strings.Fields(c.args)...)
			if exit != c.exit || !strings.Contains(errs, c.says) {
				t.Errorf("exit %d, want %d; stderr %q, want %q", exit, c.exit, errs, c.says)
			}
		})
	}
}

// A mistake on the command line is 64, with a sentence and what to do.
func TestUsage(t *testing.T) {
	for _, args := range []string{
		"", "frobnicate", "status now", "queues --all", "release", "release a b", "link", "link sideways", "link up", "link up a b", "link down",
		"call", "call a b", "hang-up", "hang-up a b", "history -n x", "history -n 0", "history -n 10001", "probe", "probe a b", "probe host:0", "probe host:smtp", "probe a:b:c",
		"check x", "reload x", "setup", "setup sendmail", "setup postfix x", "setup postfix --apply --undo", "user", "user add", "user frob", "user add a b --file x", "version x",
		"status --socket",
	} {
		out, errs, exit := etrnctl(t, "", strings.Fields(args)...)
		if exit != 64 || out != "" || !strings.HasPrefix(errs, "etrnctl: ") || !strings.Contains(errs, "\n  hint: ") || strings.Contains(errs, "strconv") {
			t.Errorf("etrnctl %s: exit %d, stdout %q, stderr %q", args, exit, out, errs)
		}
	}
}

// Names are completed from the daemon and the configuration.
func TestCompletion(t *testing.T) {
	socket := full().start(t)
	cfg := filepath.Join(t.TempDir(), "etrnd.toml")
	if err := os.WriteFile(cfg, []byte(`
hostname = "site.example"
[control]
listen = "unix:`+socket+`"
[[link]]
name = "isp"
interfaces = ["ppp0"]
[[remote]]
name = "hub"
link = "isp"
host = "hub.example.net"
push = ["*"]
`), 0o644); err != nil {
		t.Fatal(err)
	}
	for args, want := range map[string]string{
		"release":   "acme\nbeta\nhub\n",
		"link up":   "isp\n",
		"link down": "isp\n",
		"hang-up":   "isp\n",
		"call":      "hub\n",
		"call hub":  "",
	} {
		out, _, exit := etrnctl(t, "", append(append([]string{"--config", cfg, "__complete"}, strings.Fields(args)...), "")...)
		if got, _, _ := strings.Cut(out, ":4\n"); exit != 0 || got != want {
			t.Errorf("%s: got %q (exit %d), want %q", args, out, exit, want)
		}
	}
	if out, _, exit := etrnctl(t, "", "completion", "bash"); exit != 0 || !strings.Contains(out, "__complete") {
		t.Errorf("completion bash: exit %d", exit)
	}
}

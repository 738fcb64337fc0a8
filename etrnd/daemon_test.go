package etrnd

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/etrnd/etrnd/internal/config"
	"github.com/etrnd/etrnd/internal/hang"
	"github.com/etrnd/etrnd/internal/listen"
)

// site is a daemon with a configuration of its own, for a Postfix that is not
// there: everything but the queue listing works.
type site struct {
	*Daemon
	t    *testing.T
	dir  string
	file string
	port string
	log  *bytes.Buffer

	quiet bool // nothing is logged
}

const siteConfig = `hostname = "hub.example.net"
[mta]
config-dir = "DIR/postfix"
[milter]
report = "unix:DIR/report.sock"
[policy]
listen = "unix:DIR/policy.sock"
[control]
listen = "unix:DIR/control.sock"
group = "root"
[odmr]
listen = ["127.0.0.1:PORT"]
[[queue]]
name = "acme"
domains = ["acme.example"]
deliver = "smtp:[127.0.0.1]:9"
clients = ["192.0.2.0/24"]
`

func newSite(t *testing.T) *site {
	s := &site{t: t, dir: t.TempDir(), log: &bytes.Buffer{}}
	s.file = filepath.Join(s.dir, "etrnd.toml")
	// Two of them, for a configuration that names another.
	for _, name := range []string{"postfix", "other"} {
		if err := os.Mkdir(filepath.Join(s.dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, s.port, _ = net.SplitHostPort(free.Addr().String())
	free.Close()
	s.write(siteConfig)
	s.load()
	return s
}

// load makes the daemon of the configuration as it is written.
func (s *site) load() {
	s.t.Helper()
	cfg, err := config.Load(s.file)
	if err != nil {
		s.t.Fatal(err)
	}
	s.Daemon, err = New(Options{ConfigFile: s.file, Config: cfg, Version: "test", Level: new(slog.LevelVar),
		Logger: s.logger()})
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) write(text string) {
	s.t.Helper()
	if err := os.WriteFile(s.file, []byte(strings.NewReplacer("DIR", s.dir, "PORT", s.port).Replace(text)), 0o644); err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) logger() *slog.Logger {
	if s.quiet {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(&locked{w: s.log}, nil))
}

// locked is a writer for several goroutines.
type locked struct {
	mu sync.Mutex
	w  *bytes.Buffer
}

func (l *locked) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(b)
}

// Reloads and questions may come at any moment of the daemon's life; the race
// detector looks on.
func TestReloadWhileRunning(t *testing.T) {
	t.Run("reload", func(t *testing.T) { whileRunning(t, func(d *Daemon) { d.Reload(t.Context()) }) })
	t.Run("status", func(t *testing.T) { whileRunning(t, func(d *Daemon) { backend{d}.Status(t.Context()) }) })
}

// whileRunning does something again and again from before the start of a daemon to
// its end. What would bring the two into an order, in which nothing races, is kept
// away from them: a log that locks, timers, and anything else that is done in
// between, or that the race detector has to remember.
func whileRunning(t *testing.T, f func(*Daemon)) {
	s := newSite(t)
	s.quiet = true
	s.load()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ran := make(chan error, 1)
	isReady := make(chan struct{})
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var done atomic.Int64
	wg.Go(func() {
		for {
			f(s.Daemon)
			done.Add(1)
			select {
			case <-stop:
				return
			default:
				runtime.Gosched()
			}
		}
	})
	go func() { ran <- s.Run(ctx, func() { close(isReady) }) }()
	select {
	case <-isReady:
	case err := <-ran:
		t.Fatalf("Run: %v", err)
	case <-time.After(time.Minute):
		t.Fatal("not ready within a minute")
	}
	for n := done.Load(); done.Load() < n+3; {
		runtime.Gosched()
	}
	if n := len(backend{s.Daemon}.Status(ctx).Listen); n != 4 {
		t.Errorf("%d listeners in the status, want 4", n)
	}
	close(stop)
	wg.Wait()
	cancel()
	if err := <-ran; err != nil {
		t.Errorf("Run: %v", err)
	}
}

// What cannot listen starts no work, and leaves no socket behind.
func TestCannotListen(t *testing.T) {
	s := newSite(t)
	ln, err := listen.Listen(t.Context(), "unix:"+s.dir+"/policy.sock", listen.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if err := s.Run(t.Context(), func() { t.Error("it is ready") }); err == nil || !strings.Contains(err.Error(), "policy: listen on") {
		t.Errorf("Run: %v", err)
	}
	if _, err := os.Stat(s.dir + "/control.sock"); err == nil {
		t.Error("the control socket is left")
	}
}

// Every change is either in force after a reload, or said to need a restart.
func TestNeedRestart(t *testing.T) {
	parse := func(text string) *config.Config {
		t.Helper()
		cfg, err := config.Parse("etrnd.toml", []byte(strings.NewReplacer("DIR", "/run", "PORT", "366").Replace(text)), config.WithoutFiles())
		if err != nil {
			t.Fatal(err)
		}
		return cfg
	}
	for _, tt := range []struct {
		name     string
		old, new string
		restart  []string
	}{
		{"nothing", "", "", nil},
		{"a queue", "192.0.2.0/24", "198.51.100.0/24", nil},
		{"the level", `hostname = `, "log-level = \"debug\"\nhostname = ", nil},
		{"the group of the control socket", `group = "root"`, `group = "daemon"`, nil},
		{"how the MTA is reached", "[mta]\n", "[mta]\nsmtp = \"127.0.0.1:2525\"\n", nil},
		{"the form of the log", `hostname = `, "log-format = \"json\"\nhostname = ", []string{"log-format"}},
		// The sockets of turned queues are in its directory where the policy
		// service has none.
		{"the milter's socket", "[milter]\n", "[milter]\nlisten = \"unix:DIR/m.sock\"\n", []string{"milter: listen"}},
		{"where reports come", "DIR/report.sock", "DIR/r.sock", []string{"milter: report"}},
		{"the MTA", "DIR/postfix", "DIR/other", []string{"mta: config-dir"}},
		{"the listener", "127.0.0.1:PORT", "127.0.0.2:PORT", []string{"odmr: listen"}},
		{"limits of the listener", "[odmr]\n", "[odmr]\nmax-connections = 9\ncommand-timeout = \"1m\"\n", []string{"odmr: max-connections", "odmr: command-timeout"}},
		{"the name in the greeting", "hub.example.net", "mx.example.net", []string{"hostname"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if !strings.Contains(siteConfig, tt.old) {
				t.Fatalf("no %q in the configuration", tt.old)
			}
			running, cfg := parse(siteConfig), parse(strings.Replace(siteConfig, tt.old, tt.new, 1))
			if got := needRestart(running, cfg); !slices.Equal(got, tt.restart) {
				t.Errorf("needs a restart: %q, want %q", got, tt.restart)
			}
		})
	}
}

// It is said at every reload for as long as it is so.
func TestReloadTellsOfRestart(t *testing.T) {
	s := newSite(t)
	const restart = "milter: listen has changed: that takes a restart of etrnd"
	for _, step := range []struct {
		old, new string
		want     bool
	}{
		{"[milter]\n", "[milter]\nlisten = \"unix:DIR/m.sock\"\n", true},
		{"[milter]\n", "# Still\n[milter]\nlisten = \"unix:DIR/m.sock\"\n", true},
		{"", "", false},
	} {
		s.write(strings.Replace(siteConfig, step.old, step.new, 1))
		warnings, err := s.Reload(t.Context())
		if err != nil || slices.Contains(warnings, restart) != step.want {
			t.Errorf("warnings %q, %v; said of a restart should be: %v", warnings, err, step.want)
		}
	}
}

// Without a listener the name is used by calls alone, which ask for it anew.
func TestHostnameOfCalls(t *testing.T) {
	a, b := &config.Config{Hostname: "a.example"}, &config.Config{Hostname: "b.example"}
	if got := needRestart(a, b); len(got) > 0 {
		t.Errorf("needs a restart: %q", got)
	}
}

// A bad configuration changes nothing, and the status says so.
func TestBadReload(t *testing.T) {
	s := newSite(t)
	s.write(siteConfig + "colour = \"red\"\n")
	if _, err := s.Reload(t.Context()); err == nil {
		t.Fatal("a bad configuration was taken")
	}
	st := backend{s.Daemon}.Status(t.Context())
	if st.Config.Rejected == nil || len(st.Config.Problems) != 1 || !strings.Contains(st.Config.Problems[0], "colour") {
		t.Errorf("status: %+v", st.Config)
	}
	if _, ok := s.hold.Queues().ByName("acme"); !ok {
		t.Error("the queue is gone")
	}
	s.write(siteConfig)
	if _, err := s.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if st := (backend{s.Daemon}).Status(t.Context()); st.Config.Rejected != nil || st.Config.Problems != nil {
		t.Errorf("status after a good one: %+v", st.Config)
	}
}

// A configuration of which one part is bad changes nothing, and so leaves the
// certificate as it was.
func TestReloadIsWhole(t *testing.T) {
	s := newSite(t)
	cert, key, usersFile := filepath.Join(s.dir, "hub.pem"), filepath.Join(s.dir, "hub.key"), filepath.Join(s.dir, "users")
	renew := func() {
		t.Helper()
		if out, err := exec.CommandContext(hang.Context(t), "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
			"-nodes", "-days", "30", "-subj", "/CN=hub.example.net", "-addext", "subjectAltName=DNS:hub.example.net", "-keyout", key, "-out", cert).CombinedOutput(); err != nil {
			t.Fatalf("openssl: %v\n%s", err, out)
		}
	}
	users := func(text string) {
		t.Helper()
		if err := os.WriteFile(usersFile, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	renew()
	users("")
	s.write(strings.Replace(siteConfig, "[odmr]\n", "[odmr]\ntls-cert = \"DIR/hub.pem\"\ntls-key = \"DIR/hub.key\"\nusers = \"DIR/users\"\n", 1))
	s.load()
	old := s.cert.Current()
	renew()
	users("this is no line of a users file\n")
	if _, err := s.Reload(t.Context()); err == nil {
		t.Fatal("a bad users file was taken")
	}
	if s.cert.Current() != old {
		t.Error("the new certificate is in use, and the reload was refused")
	}
	users("")
	if _, err := s.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s.cert.Current() == old {
		t.Error("the old certificate is still in use")
	}
}

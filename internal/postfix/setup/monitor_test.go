//go:build !quick

package setup

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/etrnd/etrnd/internal/config"
	"github.com/etrnd/etrnd/internal/postfix"
	"github.com/etrnd/etrnd/internal/postfix/postfixtest"
	"github.com/etrnd/etrnd/internal/testbed"
)

// tick is more than the time for which the kernel gives inodes the same time
// of change: the clock that is set leaves out what the Monitor does about that.
const tick = 50 * time.Millisecond

// The answer is remembered until anything changes that it has come from.
func TestMonitor(t *testing.T) {
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(path(name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	const late = "found in the answer alone"
	write("main.cf", "a")
	write("table", "a")
	write(late, "a")
	asked := 0
	var fail error
	from := []string{path("main.cf"), path("table"), path("missing"), path(late)}
	m := newMonitor(func(context.Context, *config.Config) (answer, error) {
		asked++
		return answer{asked%2 == 0, []string{"x"}, from}, fail
	})
	cfg := &config.Config{}
	ask := func() (again bool) {
		t.Helper()
		n := asked
		ok, files, err := m.InSync(t.Context(), cfg)
		if !errors.Is(err, fail) || err == nil && (ok != (asked%2 == 0) || !slices.Equal(files, []string{"x"})) {
			t.Errorf("answer %d is %v %q %v", asked, ok, files, err)
		}
		return asked > n
	}
	if first, second := ask(), ask(); !first || !second {
		t.Error("believed files that have changed just now")
	}
	// Nobody can set the time of an inode's change, so the clock is set.
	m.now = func() time.Time { return time.Now().Add(time.Hour) }
	if first, second := ask(), ask(); !first || second {
		t.Errorf("asked: %v, and again, though nothing has changed: %v", first, second)
	}
	mtime := time.Now().Add(-time.Hour)
	chtimes := func() {
		if err := os.Chtimes(path("main.cf"), mtime, mtime); err != nil {
			t.Fatal(err)
		}
	}
	changes := []struct {
		what string
		do   func()
	}{
		{"an edit", func() { write("main.cf", "b and more") }},
		{"a time", chtimes},
		// As an edit that is quick and careful to hide it.
		{"an edit of the same size that has the same time", func() { write("main.cf", "c and more"); chtimes() }},
		{"another file in its place", func() {
			write("new", "a")
			if err := os.Rename(path("new"), path("table")); err != nil {
				t.Fatal(err)
			}
		}},
		{"a file that appears", func() { write("missing", "") }},
		{"a file that goes", func() {
			if err := os.Remove(path("missing")); err != nil {
				t.Fatal(err)
			}
		}},
		{"a reload", func() { cfg = &config.Config{} }},
	}
	for _, c := range changes {
		if ask() {
			t.Errorf("before %s: asked again, though nothing has changed", c.what)
		}
		time.Sleep(tick)
		if c.do(); !ask() {
			t.Errorf("%s is not seen", c.what)
		}
	}

	// An error is not remembered, and neither is what was there before it.
	time.Sleep(tick)
	fail = errors.New("Postfix is being upgraded")
	write("table", "b")
	if first, second := ask(), ask(); !first || !second {
		t.Error("an error was remembered")
	}
	fail = nil
	if !ask() {
		t.Error("an error was forgotten too late")
	}

	// A question that nobody waits for any more does not wait for its turn.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	m.turn <- struct{}{}
	if _, _, err := m.InSync(ctx, cfg); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// counted puts programs that count in front of Postfix's commands.
func counted(t *testing.T) (dir string, count func() []string) {
	t.Helper()
	dir = t.TempDir()
	log := filepath.Join(dir, "log")
	for _, name := range []string{"postconf", "postmap", "postqueue", "postfix"} {
		real, err := exec.LookPath(name)
		if err != nil {
			t.Fatal(err)
		}
		script := "#!/bin/sh\necho " + name + " \"$@\" >>" + log + "\nexec " + real + " \"$@\"\n"
		if err := os.WriteFile(filepath.Join(dir, name), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir, func() []string {
		t.Helper()
		text, err := os.ReadFile(log)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		if err := os.RemoveAll(log); err != nil {
			t.Fatal(err)
		}
		return slices.Collect(strings.Lines(string(text)))
	}
}

// Monitoring asks for the status all day: while nothing changes, that runs no
// command of Postfix and makes no directory.
func TestMonitorRunsNothing(t *testing.T) {
	postfixtest.Inside(t, testbed.PostfixOptions{}, func(t *testing.T, ctx context.Context) {
		plant(t)
		postfixtest.Write(t, "/etc/postfix/finals", "local.example\n")
		postfixtest.Edit(t, mainCF, "mydestination = $myhostname", "mydestination = /etc/postfix/finals, $myhostname")
		const file = "/etc/etrnd/etrnd.toml"
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		postfixtest.Write(t, file, `hostname = "hub.example.net"
[[queue]]
name = "acme"
domains = ["acme.example", ".acme.example"]
deliver = "smtp:[mail.acme.example]"
clients = ["192.0.2.0/24"]
`)
		cfg, err := config.Load(file)
		if err != nil {
			t.Fatal(err)
		}
		apply(t, ctx, postfix.New(postfix.Options{}), RequirementsOf(cfg))

		programs, count := counted(t)
		temp := t.TempDir()
		t.Setenv("TMPDIR", temp)
		m := NewMonitor(func(*config.Config) *postfix.Instance {
			return postfix.New(postfix.Options{ConfigDir: "/etc/postfix", CommandDir: programs})
		})
		want := true
		ask := func() (ran []string) {
			t.Helper()
			ok, files, err := m.InSync(ctx, cfg)
			if err != nil || ok != want {
				t.Fatalf("in sync: %v, %v, %v", ok, files, err)
			}
			return count()
		}
		ran := ask()
		t.Logf("to look anew takes %d commands:\n%s", len(ran), strings.Join(ran, ""))
		if n := len(ran); n == 0 || n > 13 {
			t.Errorf("to look anew took %d commands", n)
		}
		idle := func() {
			t.Helper()
			if err := testbed.Until(ctx, "the answer to be remembered", func() (bool, error) { return len(ask()) == 0, nil }); err != nil {
				t.Fatal(err)
			}
			was := postfix.LookAt([]string{temp})
			for range 100 {
				if ran := ask(); len(ran) > 0 {
					t.Fatalf("nothing has changed, and these were run: %q", ran)
				}
			}
			if now := postfix.LookAt([]string{temp}); now[temp] != was[temp] {
				t.Error("nothing has changed, and a directory was made")
			}
		}
		idle()

		// Each of these is seen at once.
		want = false
		postfixtest.Edit(t, mainCF, "etrnd/relay", "etrnd/relax")
		ask()
		want = true
		postfixtest.Edit(t, mainCF, "etrnd/relax", "etrnd/relay")
		ask()
		idle()
		want = false // the index, which Postfix reads, is not that of the text
		const index = "/etc/postfix/etrnd/relay.db"
		if err := os.Rename(index, index+".away"); err != nil {
			t.Fatal(err)
		}
		ask()
		if err := os.Link("/etc/postfix/etrnd/flush.db", index); err != nil {
			t.Fatal(err)
		}
		ask()
		if err := os.Rename(index+".away", index); err != nil {
			t.Fatal(err)
		}
		want = true
		ask()
		want = false // a domain of its own is not relayed
		postfixtest.Write(t, "/etc/postfix/finals", "acme.example\n")
		ask()
		postfixtest.Write(t, "/etc/postfix/finals", "local.example\n")
		want = true
		ask()
		want = false
		postfixtest.Edit(t, file, "acme.example\", ", "acme.example\", \"new.example\", ")
		if cfg, err = config.Load(file); err != nil {
			t.Fatal(err)
		}
		ask()
	})
}

// What a status costs while nothing changes.
func BenchmarkMonitor(b *testing.B) {
	from := append(paths("/etc/postfix"), "/bin/sh") // those that are not there are looked for all the same
	m := newMonitor(func(context.Context, *config.Config) (answer, error) { return answer{true, nil, from}, nil })
	cfg := &config.Config{}
	for b.Loop() {
		if ok, _, err := m.InSync(b.Context(), cfg); err != nil || !ok {
			b.Fatal(ok, err)
		}
	}
}

// A check lists the mail queue once, whatever it wants to know of it.
func TestCheckListsOnce(t *testing.T) {
	postfixtest.Inside(t, loops, func(t *testing.T, ctx context.Context) {
		apply(t, ctx, postfix.New(postfix.Options{}), threeQueues)
		id := postfixtest.Send(t, "x@acme.example")
		programs, count := counted(t)
		// For the user of etrnd too.
		if err := errors.Join(os.Chmod(filepath.Dir(programs), 0o755), os.WriteFile(filepath.Join(programs, "log"), nil, 0o666), os.Chmod(filepath.Join(programs, "log"), 0o666)); err != nil {
			t.Fatal(err)
		}
		said, list := Check(ctx, postfix.New(postfix.Options{CommandDir: programs}), without(threeQueues, "acme.example", "beta.example"))
		if len(list) != 1 || list[0].ID != id {
			t.Errorf("the queue has %+v", list)
		}
		n := 0
		for _, line := range count() {
			if strings.HasPrefix(line, "postqueue") {
				n++
			}
		}
		if n != 1 {
			t.Errorf("the queue has been listed %d times", n)
		}
		named := 0
		for _, f := range said {
			if text := f.What + " " + f.Hint; strings.Contains(text, "held that no queue is for") {
				named++
				if strings.Count(text, "etrnctl(8)") != 1 {
					t.Errorf("it refers to the manual more than once: %s", text)
				}
			}
		}
		if named != 1 {
			t.Errorf("that mail is held for nobody is said %d times: %+v", named, said)
		}
	})
}

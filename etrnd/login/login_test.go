package login

import (
	"bufio"
	"encoding/base64"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/etrnd/etrnd/internal/hang"
	"github.com/etrnd/etrnd/internal/users"
)

const password = "correct horse battery"

func store(t testing.TB) *users.Store {
	t.Helper()
	var f users.File
	for _, name := range []string{"acme", "nobody"} {
		s, err := users.NewSecret(password, users.SecretOptions{CramMD5: true, Iterations: 4096})
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Add(name, s); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(t.TempDir(), "users")
	if err := os.WriteFile(path, f.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	st, err := users.Open(path, users.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return st
}

func server(t testing.TB) *Server {
	return &Server{
		Hostname: "hub.example.net", Users: store(t), CramMD5: true, Delay: -1, Logger: slog.New(slog.DiscardHandler),
		May: func(user string) bool { return user == "acme" },
	}
}

// mta speaks as an smtpd does.
type mta struct {
	t    testing.TB
	conn net.Conn
	in   *bufio.Reader
	done chan error
}

func connect(t testing.TB, s *Server) *mta {
	t.Helper()
	a, b := net.Pipe()
	a.SetDeadline(hang.Deadline())
	m := &mta{t: t, conn: a, in: bufio.NewReader(a), done: make(chan error, 1)}
	go func() {
		defer b.Close()
		m.done <- s.serve(t.Context(), b)
	}()
	t.Cleanup(func() { a.Close() })
	var mechanisms []string
	for {
		line := m.read()
		if name, ok := strings.CutPrefix(line, "MECH\t"); ok {
			mechanisms = append(mechanisms, name)
		}
		if line == "DONE" {
			break
		}
	}
	if len(mechanisms) < 3 || mechanisms[1] != "PLAIN\tplaintext" {
		t.Fatalf("offers %q", mechanisms)
	}
	m.say("VERSION\t1\t1\nCPID\t4711\n")
	return m
}

func (m *mta) say(text string) {
	m.t.Helper()
	if _, err := io.WriteString(m.conn, text); err != nil {
		m.t.Fatal(err)
	}
}

func (m *mta) read() string {
	m.t.Helper()
	line, err := m.in.ReadString('\n')
	if err != nil {
		m.t.Fatal(err)
	}
	return strings.TrimSuffix(line, "\n")
}

// login plays a client behind the MTA and returns the last answer.
func (m *mta) login(id int, mechanism, user, pass, params string) string {
	m.t.Helper()
	c, err := users.NewClient(mechanism, user, pass)
	if err != nil {
		m.t.Fatal(err)
	}
	_, first, err := c.Start()
	if err != nil {
		m.t.Fatal(err)
	}
	text := fmt.Sprintf("AUTH\t%d\t%s\tservice=smtp\tnologin\tlip=192.0.2.1\trip=192.0.2.7%s", id, mechanism, params)
	if first != nil {
		text += "\tresp=" + base64.StdEncoding.EncodeToString(first)
	}
	m.say(text + "\n")
	for {
		answer := m.read()
		challenge, ok := strings.CutPrefix(answer, fmt.Sprintf("CONT\t%d\t", id))
		if !ok {
			return answer
		}
		b, err := base64.StdEncoding.DecodeString(challenge)
		if err != nil {
			m.t.Fatal(err)
		}
		next, err := c.Next(b)
		if err != nil {
			m.t.Fatal(err)
		}
		m.say(fmt.Sprintf("CONT\t%d\t%s\n", id, base64.StdEncoding.EncodeToString(next)))
	}
}

func TestLogin(t *testing.T) {
	m := connect(t, server(t))
	const tls = "\tsecured"
	for i, c := range []struct {
		mechanism, user, pass, params string
		ok                            bool
	}{
		{users.ScramSHA256, "acme", password, tls, true},
		{users.Plain, "acme", password, tls, true},
		{users.Login, "acme", password, tls, true},
		{users.CramMD5, "acme", password, tls, true},
		// What does not show the password may go without TLS, if the MTA lets it.
		{users.ScramSHA256, "acme", password, "", true},
		{users.Plain, "acme", password, "", false},
		{users.Login, "acme", password, "", false},
		// A user of the file who is in no queue may do nothing here.
		{users.ScramSHA256, "nobody", password, tls, false},
		{users.Plain, "nobody", password, tls, false},
		{users.Plain, "acme", "wrong", tls, false},
		{users.CramMD5, "acme", "wrong", tls, false},
		{users.ScramSHA256, "acme", "wrong", tls, false},
		{users.Plain, "stranger", password, tls, false},
		{users.ScramSHA256, "stranger", password, tls, false},
	} {
		want := fmt.Sprintf("FAIL\t%d", i+1)
		if c.ok {
			want = fmt.Sprintf("OK\t%d\tuser=acme", i+1)
		}
		if got := m.login(i+1, c.mechanism, c.user, c.pass, c.params); got != want {
			t.Errorf("%s as %s%s: %q, want %q", c.mechanism, c.user, c.params, got, want)
		}
	}
}

// An smtpd leaves a login that its client has broken off, and begins the next.
func TestLeftLogins(t *testing.T) {
	m := connect(t, server(t))
	for id := 1; id <= 3*maxOpen; id++ {
		m.say(fmt.Sprintf("AUTH\t%d\tLOGIN\tsecured\n", id))
		if got := m.read(); !strings.HasPrefix(got, fmt.Sprintf("CONT\t%d\t", id)) {
			t.Fatalf("got %q", got)
		}
	}
	m.say("CONT\t1\tYWNtZQ==\n") // forgotten meanwhile
	if got := m.read(); got != "FAIL\t1" {
		t.Errorf("got %q", got)
	}
	if got := m.login(99, users.Plain, "acme", password, "\tsecured"); got != "OK\t99\tuser=acme" {
		t.Errorf("got %q", got)
	}
}

// What the MTA never says ends the connection, or fails; it never logs in.
func TestGarbage(t *testing.T) {
	plain := base64.StdEncoding.EncodeToString([]byte("\x00acme\x00" + password))
	for name, in := range map[string]string{
		"no number":      "AUTH\n",
		"number 0":       "AUTH\t0\tPLAIN\n",
		"large number":   "AUTH\t99999999999\tPLAIN\n",
		"number twice":   "AUTH\t1\tLOGIN\tsecured\nAUTH\t1\tLOGIN\tsecured\n",
		"endless line":   "AUTH\t1\tPLAIN\tresp=" + strings.Repeat("A", maxLine) + "\n",
		"other version":  "VERSION\t2\t0\n",
		"no mechanism":   "AUTH\t1\n",
		"no base64":      "AUTH\t1\tPLAIN\tsecured\tresp=***\n",
		"secured behind": "AUTH\t1\tPLAIN\tresp=" + plain + "\tsecured\n",
		"unknown":        "AUTH\t1\tEXTERNAL\tsecured\tresp==\n",
		"cont first":     "CONT\t1\t" + plain + "\n",
	} {
		t.Run(name, func(t *testing.T) {
			m := connect(t, server(t))
			go io.WriteString(m.conn, in+"\nVERSION\t9\n") // which ends the connection
			got, _ := io.ReadAll(m.in)
			if strings.Contains(string(got), "OK\t") {
				t.Errorf("logged in: %q", got)
			}
		})
	}
}

// The password is in no log, whatever happens to the line that has it.
func TestNoPasswordInLog(t *testing.T) {
	var log strings.Builder
	s := server(t)
	s.Logger = slog.New(slog.NewTextHandler(&log, nil))
	m := connect(t, s)
	m.login(1, users.Plain, "acme", password, "\tsecured")
	m.login(2, users.Plain, "nobody", password, "\tsecured")
	m.say("AUTH\t3\t" + password + "\tsecured\tresp=" + password + "\n")
	m.read()
	m.say(password + "\nAUTH\t4\tLOGIN\tsecured\n")
	m.read()
	m.say("CONT\t4\t" + password + "\n")
	m.read()
	m.conn.Close()
	<-m.done
	if strings.Contains(log.String(), "battery") {
		t.Errorf("the log has it:\n%s", log.String())
	}
	if !strings.Contains(log.String(), "user=acme") || !strings.Contains(log.String(), "no queue lets the user") {
		t.Errorf("the log does not say what happened:\n%s", log.String())
	}
}

// FuzzServer: whatever comes over the socket, nobody is logged in without the
// password, the server does not fall, and what it says has one line for an
// answer.
func FuzzServer(f *testing.F) {
	for _, seed := range []string{
		"VERSION\t1\t1\nCPID\t1\nAUTH\t1\tPLAIN\tsecured\tresp=AGFjbWUAeA==\n",
		"VERSION\t1\t1\nAUTH\t1\tLOGIN\tsecured\nCONT\t1\tYWNtZQ==\nCONT\t1\teA==\n",
		"VERSION\t1\t1\nAUTH\t1\tSCRAM-SHA-256\tsecured\tresp=biwsbj1hY21lLHI9YWJj\nCONT\t1\tYz1iaXdzLHI9YWJj\nCANCEL\t1\n",
		"AUTH\t1\tCRAM-MD5\nCONT\t1\tYWNtZSBmZg==\n", "\n\t\n", "VERSION\t1\nAUTH\t4294967295\t\n",
	} {
		f.Add(seed)
	}
	s := server(f)
	f.Fuzz(func(t *testing.T, in string) {
		a, b := net.Pipe()
		a.SetDeadline(hang.Deadline())
		done := make(chan error, 1)
		go func() {
			defer b.Close()
			done <- s.serve(t.Context(), b)
		}()
		go func() {
			io.WriteString(a, in)
			// What is left unanswered cannot be waited for: the end is said by a
			// line that ends the connection.
			io.WriteString(a, "\nVERSION\t9\n")
		}()
		out, _ := io.ReadAll(a)
		a.Close()
		<-done
		for line := range strings.Lines(string(out)) {
			if strings.HasPrefix(line, "OK\t") {
				t.Fatalf("logged in: %q after %q", line, in)
			}
		}
	})
}

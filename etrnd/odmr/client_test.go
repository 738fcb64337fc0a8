package odmr

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/etrnd/etrnd/internal/users"
)

var fourNames = []string{"acme.example", "@acme.example", "#acme", "beta.example"}

// script plays the server's side of a transcript on loopback; behind "-- next"
// comes another connection. The returned function waits for its end.
func script(t testing.TB, text string) (addr string, wait func()) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		defer l.Close()
		for part := range strings.SplitSeq(text, "-- next\n") {
			conn, err := l.Accept()
			if err == nil {
				err = newPeer(conn, "S:").play(part)
				conn.Close()
			}
			if err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	return l.Addr().String(), func() {
		t.Helper()
		l.(*net.TCPListener).SetDeadline(time.Now())
		if err := <-done; err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("script: %v", err)
		}
	}
}

func TestClientTranscripts(t *testing.T) {
	type result struct {
		codes     []int
		counts    []int
		kind      error // nil: success
		code      int
		temporary bool
	}
	results := map[string]result{
		"ok":               {codes: []int{253, 251, 458, 459}, counts: []int{14, 0, -1, -1}},
		"one-by-one":       {codes: []int{250, 501, 554, 252}, counts: []int{-1, -1, -1, -1}},
		"unlisted":         {codes: []int{250, 250, 500, 250}, counts: []int{-1, -1, -1, -1}},
		"exim":             {codes: []int{250, 501, 250, 458}, counts: []int{-1, -1, -1, -1}},
		"ours-by-name":     {codes: []int{250, 250, 250, 458}, counts: []int{-1, -1, -1, -1}},
		"unknown-server":   {codes: []int{250, 501, 250, 458}, counts: []int{-1, -1, -1, -1}},
		"no-etrn":          {codes: []int{502}, counts: []int{-1}, kind: ErrNoETRN, code: 502},
		"helo":             {codes: []int{500}, counts: []int{-1}, kind: ErrNoETRN, code: 500},
		"greeting-554":     {kind: ErrRefused, code: 554},
		"greeting-421":     {kind: ErrRefused, code: 421, temporary: true},
		"close-at-once":    {kind: ErrClosed, temporary: true},
		"close-midway":     {codes: []int{250}, counts: []int{-1}, kind: ErrClosed, temporary: true},
		"421-midway":       {codes: []int{250, 421}, counts: []int{-1, -1}, kind: ErrRefused, code: 421, temporary: true},
		"auth-required":    {codes: []int{530}, counts: []int{-1}, kind: ErrRefused, code: 530},
		"not-smtp":         {kind: ErrProtocol},
		"bad-continuation": {kind: ErrProtocol},
	}
	files, err := filepath.Glob("testdata/client/*.txt")
	if err != nil || len(files) != len(results) {
		t.Fatalf("%d transcripts for %d results, %v", len(files), len(results), err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".txt")
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			want, ok := results[name]
			if !ok {
				t.Fatal("no result is given for this transcript")
			}
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			addr, wait := script(t, string(text))
			var replies []Reply
			c, err := Dial(t.Context(), addr, ClientOptions{Hostname: "site.acme.example"})
			if err == nil {
				replies, err = c.Request(t.Context(), fourNames)
				if strings.Contains(string(text), "C: QUIT") {
					if err := c.Quit(); err != nil {
						t.Errorf("QUIT: %v", err)
					}
				} else {
					c.Close()
				}
			}
			wait()
			var codes, counts []int
			for i, r := range replies {
				codes, counts = append(codes, r.Code), append(counts, r.Count)
				if r.Name != fourNames[i] {
					t.Errorf("reply %d is for %q", i, r.Name)
				}
			}
			if !slices.Equal(codes, want.codes) || !slices.Equal(counts, want.counts) {
				t.Errorf("codes %v, counts %v; want %v, %v", codes, counts, want.codes, want.counts)
			}
			if want.kind == nil {
				if err != nil {
					t.Errorf("error %v", err)
				}
				return
			}
			var e *Error
			if !errors.As(err, &e) || !errors.Is(err, want.kind) {
				t.Fatalf("error %v, want %v", err, want.kind)
			}
			if e.Code != want.code || e.Temporary() != want.temporary {
				t.Errorf("code %d, temporary %v: %v", e.Code, e.Temporary(), err)
			}
		})
	}
}

func TestTLSModes(t *testing.T) {
	hub := func(t *testing.T, c tls.Certificate) string {
		certificate, err := LoadCertificate(writePair(t, t.TempDir(), c))
		if err != nil {
			t.Fatal(err)
		}
		return serve(t, ServerOptions{Certificate: certificate, Users: userStore(t)}).addr
	}
	ca := pki().ca
	valid := hub(t, pki().hub)
	expired := hub(t, identity(t, hostname, &ca, time.Now().Add(-time.Minute)))
	other := hub(t, identity(t, "other.example.net", &ca, time.Now().Add(time.Hour)))
	unsigned := hub(t, identity(t, hostname, nil, time.Now().Add(time.Hour)))
	plain := serve(t, ServerOptions{Users: userStore(t)}).addr

	scram := []string{users.ScramSHA256}
	password := []string{users.Plain, users.Login}
	for _, test := range []struct {
		name       string
		addr       string
		mode       TLSMode
		mechanisms []string
		kind       error
		tls        bool
		message    string
	}{
		{"auto, valid", valid, TLSAuto, password, nil, true, ""},
		{"auto is the default", valid, "", password, nil, true, ""},
		{"auto, expired, SCRAM shows nothing", expired, TLSAuto, scram, nil, true, ""},
		{"auto, expired, PLAIN would show the password", expired, TLSAuto, password, ErrAuth, true, "expired"},
		{"auto, unsigned, PLAIN would show the password", unsigned, TLSAuto, password, ErrAuth, true, "unknown authority"},
		{"auto, not offered, SCRAM", plain, TLSAuto, scram, nil, false, ""},
		{"auto, not offered, PLAIN", plain, TLSAuto, password, ErrAuth, false, "allowed are PLAIN, LOGIN"},
		{"require, valid", valid, TLSRequire, password, nil, true, ""},
		{"require, expired", expired, TLSRequire, scram, ErrTLS, false, "expired"},
		{"require, another's name", other, TLSRequire, scram, ErrTLS, false, "other.example.net"},
		{"require, unsigned", unsigned, TLSRequire, scram, ErrTLS, false, "unknown authority"},
		{"require, not offered", plain, TLSRequire, scram, ErrTLS, false, "does not offer STARTTLS"},
		{"insecure, unsigned", unsigned, TLSInsecure, password, nil, true, ""},
		{"insecure, not offered", plain, TLSInsecure, password, ErrTLS, false, "does not offer STARTTLS"},
		{"off, offered", valid, TLSOff, scram, nil, false, ""},
		{"off, PLAIN", valid, TLSOff, password, ErrAuth, false, "allowed are PLAIN, LOGIN"},
		{"no such mode", valid, "yes", scram, ErrTLS, false, "expected auto, require, insecure or off"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, err := Dial(t.Context(), test.addr, ClientOptions{
				TLS:    test.mode,
				Config: &tls.Config{RootCAs: pki().roots, ServerName: hostname},
				Auth:   &Auth{User: "acme", Password: "secret", Mechanisms: test.mechanisms},
			})
			if test.kind != nil {
				if !errors.Is(err, test.kind) || !strings.Contains(err.Error(), test.message) {
					t.Fatalf("got %v, want %v with %q", err, test.kind, test.message)
				}
				if err.(*Error).Temporary() {
					t.Errorf("temporary: %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if state, _ := c.TLS(); (state != nil) != test.tls {
				t.Errorf("TLS %v", state != nil)
			}
			replies, err := c.Request(t.Context(), []string{"whoami.example"})
			want := `Node whoami.example not allowed: user "acme", certificates 0`
			if err != nil || replies[0].Text != want {
				t.Errorf("%+v, %v; want %q", replies, err, want)
			}
		})
	}
}

func TestClientAuthentication(t *testing.T) {
	server := serve(t, ServerOptions{Users: userStore(t), CramMD5: true, Certificate: certificate(t)})
	for _, test := range []struct {
		name       string
		password   string
		mechanisms []string
		kind       error
		code       int
		used       string
	}{
		{"best by default", "secret", nil, nil, 0, users.ScramSHA256},
		{"PLAIN before CRAM-MD5", "secret", []string{"cram-md5", "plain", "login"}, nil, 0, users.Plain},
		{"CRAM-MD5 before LOGIN", "secret", []string{"CRAM-MD5", "LOGIN"}, nil, 0, users.CramMD5},
		{"LOGIN", "secret", []string{"LOGIN"}, nil, 0, users.Login},
		{"wrong password", "sacred", nil, ErrAuth, 535, ""},
		{"nothing in common", "secret", []string{"GSSAPI"}, ErrAuth, 0, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			var l log
			c, err := Dial(t.Context(), server.addr, ClientOptions{
				TLS: TLSInsecure, Logger: l.logger(),
				Auth: &Auth{User: "acme", Password: test.password, Mechanisms: test.mechanisms},
			})
			if !errors.Is(err, test.kind) || (err == nil) != (test.kind == nil) {
				t.Fatalf("got %v, want %v", err, test.kind)
			}
			if strings.Contains(l.String(), test.password) || strings.Contains(l.String(), base64.StdEncoding.EncodeToString([]byte("\x00acme\x00"+test.password))) {
				t.Errorf("the log shows the password:\n%s", &l)
			}
			if err != nil {
				if e := err.(*Error); e.Code != test.code || e.Temporary() {
					t.Errorf("code %d, temporary %v", e.Code, e.Temporary())
				}
				return
			}
			if c.Close(); !strings.Contains(l.String(), "mechanism="+test.used) {
				t.Errorf("log:\n%s", &l)
			}
		})
	}
}

// What servers do wrong, or somebody in their place.
func TestClientAgainstOddServers(t *testing.T) {
	const ehlo = "S: 220 hub.example.net\nC: EHLO localhost\n"
	for _, test := range []struct {
		name, script string
		o            ClientOptions
		kind         error
		temporary    bool
		message      string
	}{
		{"replies pipelined ahead of TLS", ehlo + "S: 250-hub\nS: 250 STARTTLS\nC: STARTTLS\nR: \"220 go\\r\\n250 AUTH PLAIN\\r\\n\"\n",
			ClientOptions{TLS: TLSRequire}, ErrTLS, false, "ahead of TLS"},
		{"STARTTLS listed and refused, auto goes on", ehlo + "S: 250-hub\nS: 250 STARTTLS\nC: STARTTLS\nS: 454 not now\n",
			ClientOptions{}, nil, false, ""},
		{"STARTTLS listed and refused, require does not", ehlo + "S: 250-hub\nS: 250 STARTTLS\nC: STARTTLS\nS: 454 not now\n",
			ClientOptions{TLS: TLSRequire}, ErrTLS, true, "not now"},
		{"no TLS behind STARTTLS", ehlo + "S: 250-hub\nS: 250 STARTTLS\nC: STARTTLS\nR: \"220 go\\r\\n\"\nR*10: \"not TLS\"\n",
			ClientOptions{}, ErrTLS, false, "TLS"},
		{"success without a proof", ehlo + "S: 250-hub\nS: 250 AUTH SCRAM-SHA-256\n-- any\nS: 235 welcome\n",
			ClientOptions{Auth: &Auth{User: "acme", Password: "secret"}}, ErrAuth, false, "has not proved"},
		{"AUTH that does not end", ehlo + "S: 250-hub\nS: 250 AUTH CRAM-MD5\nC: AUTH CRAM-MD5\nS: 334 PDFAeD4=\n-- any\nS: 334 PDFAeD4=\nC: *\nS: 501 cancelled\nC: QUIT\n",
			ClientOptions{Auth: &Auth{User: "acme", Password: "secret", Mechanisms: []string{"CRAM-MD5"}}}, ErrAuth, false, "unexpected server challenge"},
		{"a challenge that is not base64", ehlo + "S: 250-hub\nS: 250 AUTH CRAM-MD5\nC: AUTH CRAM-MD5\nS: 334 ???\nC: *\nS: 501 cancelled\n",
			ClientOptions{Auth: &Auth{User: "acme", Password: "secret", Mechanisms: []string{"CRAM-MD5"}}}, ErrAuth, false, "base64"},
		{"a listed mechanism is refused, the next is tried", ehlo + "S: 250-hub\nS: 250 AUTH=CRAM-MD5 SCRAM-SHA-256\n-- any\nS: 504 no\nC: AUTH CRAM-MD5\nS: 454 busy\nC: QUIT\n",
			ClientOptions{Auth: &Auth{User: "acme", Password: "secret", Mechanisms: []string{"CRAM-MD5", "SCRAM-SHA-256"}}}, ErrAuth, true, "AUTH CRAM-MD5"},
		{"no AUTH", ehlo + "S: 250 hub\n",
			ClientOptions{Auth: &Auth{User: "acme", Password: "secret"}}, ErrAuth, false, "offers no AUTH"},
		{"EHLO and HELO refused", ehlo + "S: 550 go away\nC: HELO localhost\nS: 550 go away\n",
			ClientOptions{}, ErrRefused, false, "go away"},
		{"EHLO refused for now", ehlo + "S: 450 later\n", ClientOptions{}, ErrRefused, true, "later"},
		{"a line without an end", "R*200000: \"2\"\n", ClientOptions{}, ErrProtocol, false, "without an end"},
		{"a reply without an end", "R*200: \"220-x\\r\\n\"\n", ClientOptions{}, ErrProtocol, false, "more than 100 lines"},
		{"a long line is cut", "R: \"220 \"\nR*9000: \"x\"\nR: \"\\r\\n\"\nC: EHLO localhost\nS: 250 hub\n", ClientOptions{}, nil, false, ""},
		{"control characters are not passed on", "R: \"554 \\x1b[31mred\\r\\n\"\n", ClientOptions{}, ErrRefused, false, "?[31mred"},
	} {
		t.Run(test.name, func(t *testing.T) {
			addr, _ := script(t, test.script)
			c, err := Dial(t.Context(), addr, test.o)
			if test.kind == nil {
				if err != nil {
					t.Fatal(err)
				}
				c.Close()
				return
			}
			var e *Error
			if !errors.As(err, &e) || e.Kind != test.kind || e.Temporary() != test.temporary || !strings.Contains(err.Error(), test.message) {
				t.Errorf("got %v; want %v, temporary %v, %q", err, test.kind, test.temporary, test.message)
			}
		})
	}
}

// hang answers the first n lines with the given replies and then says nothing.
func stall(replies ...string) func(context.Context, string, string) (net.Conn, error) {
	return func(context.Context, string, string) (net.Conn, error) {
		ours, theirs := net.Pipe()
		go func() {
			defer theirs.Close()
			in := bufio.NewReader(theirs)
			for i, reply := range replies {
				if i > 0 {
					if _, err := in.ReadString('\n'); err != nil {
						return
					}
				}
				if _, err := io.WriteString(theirs, reply+"\r\n"); err != nil {
					return
				}
			}
			io.Copy(io.Discard, in)
		}()
		return ours, nil
	}
}

// A remote that hangs, at each step, with the fake clock.
func TestClientTimeouts(t *testing.T) {
	for _, test := range []struct {
		name    string
		replies []string
		ctx     time.Duration // 0: no limit
		cancel  bool
		kind    error
		after   time.Duration
		codes   int
	}{
		{"before the greeting", nil, 0, false, ErrTimeout, 2 * time.Minute, 0},
		{"after EHLO", []string{"220 hub"}, 0, false, ErrTimeout, 2 * time.Minute, 0},
		{"after ETRN", []string{"220 hub", "250 hub"}, 0, false, ErrTimeout, 2 * time.Minute, 0},
		{"after the second ETRN", []string{"220 hub", "250 hub", "250 OK"}, 0, false, ErrTimeout, 2 * time.Minute, 1},
		{"the caller has less time", []string{"220 hub", "250 hub"}, 30 * time.Second, false, ErrTimeout, 30 * time.Second, 0},
		{"the caller gives up", []string{"220 hub", "250 hub"}, 10 * time.Second, true, context.Canceled, 10 * time.Second, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				if test.cancel {
					time.AfterFunc(test.ctx, cancel)
				} else if test.ctx > 0 {
					ctx, cancel = context.WithTimeout(t.Context(), test.ctx)
				}
				defer cancel()
				began := time.Now()
				c, err := Dial(ctx, "hub.example.net:366", ClientOptions{DialContext: stall(test.replies...)})
				var replies []Reply
				if err == nil {
					defer c.Close()
					replies, err = c.Request(ctx, fourNames)
				}
				if d := time.Since(began); d != test.after {
					t.Errorf("took %v, want %v", d, test.after)
				}
				var e *Error
				if !errors.As(err, &e) || !errors.Is(err, test.kind) || !e.Temporary() || len(replies) != test.codes {
					t.Errorf("got %v with %d replies", err, len(replies))
				}
			})
		})
	}
	t.Run("a line of long round trips", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			began := time.Now()
			dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
				conn, err := stall("220 hub")(ctx, network, addr)
				return far{conn}, err
			}
			_, err := Dial(t.Context(), "hub.example.net:366", ClientOptions{DialContext: dial})
			if d := time.Since(began); !errors.Is(err, ErrTimeout) || d != 2*time.Minute+40*time.Second {
				t.Errorf("%v after %v", err, d)
			}
		})
	})
	t.Run("QUIT waits a moment only", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c, err := Dial(t.Context(), "hub.example.net:366", ClientOptions{DialContext: stall("220 hub", "250 hub")})
			if err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			if err := c.Quit(); err != nil || time.Since(began) != time.Second {
				t.Errorf("%v after %v", err, time.Since(began))
			}
		})
	})
	t.Run("nobody there", func(t *testing.T) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		l.Close()
		_, err = Dial(t.Context(), l.Addr().String(), ClientOptions{})
		if !errors.Is(err, ErrConnect) || !err.(*Error).Temporary() {
			t.Errorf("got %v", err)
		}
	})
}

// Round trips cost 600 ms each over a satellite: all names go out in one.
func TestRequestRoundTrips(t *testing.T) {
	names := make([]string, 3*maxBatch)
	for i := range names {
		names[i] = fmt.Sprintf("host%d.acme.example", i)
	}
	server := serve(t, ServerOptions{})
	var conn *counting
	c, err := Dial(t.Context(), server.addr, ClientOptions{
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			inner, err := (&net.Dialer{}).DialContext(ctx, network, addr)
			conn = &counting{Conn: inner}
			return conn, err
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	before := conn.writes
	replies, err := c.Request(t.Context(), names)
	if err != nil || len(replies) != len(names) {
		t.Fatalf("%d replies, %v", len(replies), err)
	}
	if n := conn.writes - before; n != 3 {
		t.Errorf("%d names took %d writes, want 3", len(names), n)
	}
	if err := c.Quit(); err != nil {
		t.Error(err)
	}
}

// Whoever is not known to take several ETRN at a time gets one after the other,
// whatever he offers.
func TestRequestOfOthers(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	ahead := make(chan int, 1)
	go func() {
		defer close(ahead)
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		in, n := bufio.NewReader(conn), 0
		io.WriteString(conn, "220 mail.acme.example ESMTP Sendmail\r\n")
		for {
			line, err := in.ReadString('\n')
			if err != nil {
				return
			}
			n = max(n, in.Buffered())
			switch {
			case strings.HasPrefix(line, "EHLO"):
				io.WriteString(conn, "250-mail.acme.example\r\n250-PIPELINING\r\n250 ETRN\r\n")
			case strings.HasPrefix(line, "QUIT"):
				io.WriteString(conn, "221 bye\r\n")
				ahead <- n
				return
			default:
				io.WriteString(conn, "250 OK\r\n")
			}
		}
	}()
	c, err := Dial(t.Context(), ln.Addr().String(), ClientOptions{})
	if err != nil {
		t.Fatal(err)
	}
	replies, err := c.Request(t.Context(), []string{"a.example", "b.example", "c.example", "d.example"})
	if err != nil || len(replies) != 4 {
		t.Errorf("%v, %v", replies, err)
	}
	if err := c.Quit(); err != nil {
		t.Error(err)
	}
	if n := <-ahead; n != 0 {
		t.Errorf("%d bytes came ahead of a reply", n)
	}
}

// counting counts the writes of a connection.
type counting struct {
	net.Conn
	writes int
}

func (c *counting) Write(b []byte) (int, error) { c.writes++; return c.Conn.Write(b) }

func TestRequestRefusesNamesThatAreNone(t *testing.T) {
	server := serve(t, ServerOptions{})
	c, err := Dial(t.Context(), server.addr, ClientOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, name := range []string{"", "a b", "a\r\nQUIT", "\x00", strings.Repeat("a", 256), "ä.example"} {
		if replies, err := c.Request(t.Context(), []string{"acme.example", name}); err == nil || len(replies) != 0 {
			t.Errorf("%q: %v, %v", name, replies, err)
		}
	}
}

func TestCountOf(t *testing.T) {
	for _, test := range []struct {
		code int
		text string
		want int
	}{
		{253, "OK, node 42.example: 2 messages", 2},
		{253, "node 42: queued", -1},
		{253, "OK, node 42.example started", -1},
		{253, "42.example: started", -1},
		{253, "OK, 42.example", -1},
		{253, "42 messages.", 42},
		{253, "OK, 3 pending messages for node 42.example started", 3},
		{253, "OK, 3 pending messages for #7 messages started", 3},
		{253, "OK, queuing for node 12 messages", 12}, // asked for "@12" or the like: see below
		{253, "OK, messages for 7 days", -1},
		{253, "OK, 14 pending messages for node acme.example started", 14},
		{253, "2.0.0 OK, 14 pending messages", 14},
		{253, "14", 14},
		{253, "OK (14) messages", 14},
		{253, "node mx2.acme.example: 3 messages", 3},
		{253, "OK", -1},
		{253, "2.0.0", -1},
		{253, "OK, -4 messages", -1},
		{253, "99999999999999999999 messages", -1},
		{251, "OK, no messages, 3 tries", 0},
		{250, "OK, 14 pending", -1},
		{459, "14", -1},
	} {
		if got := countOf(test.code, test.text, "acme.example"); got != test.want {
			t.Errorf("%d %q: %d, want %d", test.code, test.text, got, test.want)
		}
	}
}

func TestProbe(t *testing.T) {
	t.Run("our own server", func(t *testing.T) {
		server := serve(t, ServerOptions{Certificate: certificate(t), Users: userStore(t), Turner: turner{}})
		offer, err := Probe(t.Context(), server.addr, ClientOptions{Config: &tls.Config{RootCAs: pki().roots, ServerName: hostname}})
		if err != nil {
			t.Fatal(err)
		}
		leaf := pki().hub.Leaf
		want := &Offer{
			Address: server.addr, Remote: server.addr, Greeting: "hub.example.net ESMTP on-demand mail relay, send EHLO",
			Hostname: hostname, ESMTP: true, ETRN: true, ATRN: true, STARTTLS: true, Pipelining: true,
			Auth: []string{users.ScramSHA256}, AuthTLS: []string{users.ScramSHA256, users.Plain, users.Login},
			Keywords: []string{"PIPELINING", "ETRN", "ATRN", Ahead, "AUTH SCRAM-SHA-256 PLAIN LOGIN", "HELP"},
			TLS: &OfferTLS{Version: "TLS 1.3", Cipher: offer.TLS.Cipher, Verified: true, Certificate: &OfferCertificate{
				Subject: "CN=" + hostname, Issuer: "CN=authority.example", Names: []string{hostname},
				NotBefore: leaf.NotBefore, NotAfter: leaf.NotAfter, Fingerprint: fingerprint(leaf), PublicKey: keyFingerprint(leaf)}},
		}
		if !reflect.DeepEqual(offer, want) {
			a, _ := json.MarshalIndent(offer, "", " ")
			b, _ := json.MarshalIndent(want, "", " ")
			t.Errorf("got %s\nwant %s", a, b)
		}
		// Without the authority the certificate is shown all the same, and why.
		offer, err = Probe(t.Context(), server.addr, ClientOptions{})
		if err != nil || offer.TLS.Verified || offer.TLS.Certificate == nil || offer.TLS.Problem == "" {
			t.Errorf("%+v, %v", offer.TLS, err)
		}
	})
	const rest = "C: QUIT\nS: 221 bye\n"
	for _, test := range []struct {
		name, script string
		check        func(*Offer) bool
		kind         error
	}{
		{"everything", "S: 220 x\nC: EHLO localhost\nS: 250-mx.example.net hello\nS: 250-SIZE 10240000\nS: 250-chunking\nS: 250-8BITMIME\nS: 250-SMTPUTF8\nS: 250-DSN\nS: 250-MT-PRIORITY MIXER\nS: 250-AUTH PLAIN LOGIN\nS: 250 AUTH=PLAIN LOGIN\n" + rest,
			func(f *Offer) bool {
				return f.Hostname == "mx.example.net" && f.SizeListed && f.Size == 10240000 && f.Chunking && f.EightBit && f.SMTPUTF8 && f.DSN && f.MTPriority && !f.ETRN && !f.STARTTLS && f.TLS == nil && slices.Equal(f.Auth, []string{"PLAIN", "LOGIN"})
			}, nil},
		{"no limit of size", "S: 220 x\nC: EHLO localhost\nS: 250-x\nS: 250 SIZE\n" + rest,
			func(f *Offer) bool { return f.SizeListed && f.Size == 0 }, nil},
		{"HELO only", "S: 220 x\nC: EHLO localhost\nS: 502 what\nC: HELO localhost\nS: 250 old.example.net\n" + rest,
			func(f *Offer) bool { return !f.ESMTP && f.Hostname == "old.example.net" && len(f.Keywords) == 0 }, nil},
		{"STARTTLS refused", "S: 220 x\nC: EHLO localhost\nS: 250-x\nS: 250 STARTTLS\nC: STARTTLS\nS: 454 not now\n" + rest,
			func(f *Offer) bool { return f.STARTTLS && strings.Contains(f.TLS.Problem, "454 not now") }, nil},
		{"STARTTLS broken", "S: 220 x\nC: EHLO localhost\nS: 250-x\nS: 250 STARTTLS\nC: STARTTLS\nS: 220 go\nS: garbage\n",
			func(f *Offer) bool { return f.STARTTLS && f.TLS.Problem != "" && f.TLS.Certificate == nil }, nil},
		{"gone midway", "S: 220 hello there\n-- close\n",
			func(f *Offer) bool { return f.Greeting == "hello there" }, ErrClosed},
	} {
		t.Run(test.name, func(t *testing.T) {
			addr, _ := script(t, test.script)
			offer, err := Probe(t.Context(), addr, ClientOptions{})
			if !errors.Is(err, test.kind) || (err == nil) != (test.kind == nil) || offer == nil || !test.check(offer) {
				t.Errorf("%+v, %v", offer, err)
			}
		})
	}
}

// A name is no number, whatever somebody has called it.
func TestCountOfNames(t *testing.T) {
	for name, texts := range map[string][]string{
		"42.example":  {"OK, node 42.example: messages started", "42.example", "OK, 42.example messages started", "OK for 42.EXAMPLE messages"},
		"#7 messages": {"OK, queue 7 messages started"},
		"#1000":       {"OK, queue 1000 messages started", "OK, #1000 messages"},
		"@2024.test":  {"OK, @2024.test messages", "2024.test messages"},
	} {
		for _, text := range texts {
			if got := countOf(253, text, name); got != -1 {
				t.Errorf("%s: %q: %d messages", name, text, got)
			}
		}
		if got := countOf(253, "OK, 5 pending messages for node "+name+" started", name); got != 5 {
			t.Errorf("%s: %d, want 5", name, got)
		}
	}
}

// Whatever the text of a reply is, it has a count or none.
func FuzzCountOf(f *testing.F) {
	for _, seed := range []string{"OK, 14 pending messages for node acme.example started", "2.0.0 OK, 14", "99999999999999999999 messages", "(3)", "2.0.0", "-4"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if n := countOf(253, text, "acme.example"); n < -1 || n >= 0 && !strings.ContainsAny(text, "0123456789") {
			t.Fatalf("%d messages in %q", n, text)
		}
	})
}

// A server may say anything at any step.
func FuzzClientDialogue(f *testing.F) {
	f.Add([]byte("220 x\r\n250-x\r\n250-PIPELINING\r\n250 ETRN\r\n250 OK\r\n253 OK, 3 x\r\n459 no\r\n251 x\r\n221 bye\r\n"))
	f.Add([]byte("220 x\r\n250-x\r\n250 AUTH SCRAM-SHA-256\r\n334 cj14LHM9eCxpPTQwOTY=\r\n235 x\r\n"))
	f.Add([]byte("220 x\r\n500 x\r\n250 x\r\n"))
	f.Add([]byte("220 x\r\n250-x\r\n250 STARTTLS\r\n220 go\r\n\x16\x03\x01"))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, auth := range []*Auth{nil, {User: "acme", Password: "secret", Mechanisms: []string{users.ScramSHA256, users.CramMD5}}} {
			ours, theirs := net.Pipe()
			go io.Copy(io.Discard, theirs)
			go func() { theirs.Write(data); theirs.Close() }()
			c, err := NewClient(t.Context(), ours, ClientOptions{Auth: auth, ReplyTimeout: patience})
			if err == nil {
				_, err = c.Request(t.Context(), fourNames)
				c.Quit()
			}
			var e *Error
			if err != nil && (!errors.As(err, &e) || len(err.Error()) > 2000) {
				t.Fatalf("%T %v", err, err)
			}
		}
	})
}

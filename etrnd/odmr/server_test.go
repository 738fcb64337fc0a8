package odmr

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/etrnd/etrnd/internal/esmtp"
	"github.com/etrnd/etrnd/internal/etrn"
	"github.com/etrnd/etrnd/internal/socket"
)

func TestServerTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/server/*.txt")
	if err != nil || len(files) < 10 {
		t.Fatalf("transcripts: %v, %v", files, err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			t.Parallel()
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			server := serve(t, fromTranscript(t, string(text)))
			// The same session twice: one leaves nothing behind for the next.
			for range 2 {
				if err := newPeer(connect(t, server.addr), "C:").play(string(text)); err != nil {
					t.Fatal(err)
				}
			}
			server.stop()
			if log := server.log.String(); strings.Contains(log, "AGFjbWUAc2VjcmV0") || strings.Contains(log, "not base64!") {
				t.Errorf("the log shows what may be a password:\n%s", log)
			}
		})
	}
}

func TestNewServer(t *testing.T) {
	for _, o := range []ServerOptions{
		{Asker: asker{}},
		{Asker: asker{}, Hostname: "hub example.net"},
		{Asker: asker{}, Hostname: "hub\r\n250 x"},
		{Hostname: hostname},
	} {
		if _, err := NewServer(o); err == nil {
			t.Errorf("taken: %+v", o)
		}
	}
}

// Fingerprints are the ones that openssl shows, and need no authority.
func TestClientCertificate(t *testing.T) {
	var got etrn.Identity
	server := serve(t, ServerOptions{
		Certificate: certificate(t),
		Asker: askFunc(func(_ context.Context, who etrn.Identity, _ string) etrn.Answer {
			got = who
			return etrn.Answer{Code: 250}
		}),
	})
	mine := identity(t, "site.acme.example", nil, time.Now().Add(-time.Hour)) // expired: it is pinned, not trusted
	c, err := Dial(t.Context(), server.addr, ClientOptions{
		TLS:    TLSRequire,
		Config: &tls.Config{RootCAs: pki().roots, ServerName: hostname, Certificates: []tls.Certificate{mine}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if replies, err := c.Request(t.Context(), []string{"acme.example"}); err != nil || replies[0].Code != 250 {
		t.Fatalf("%v, %v", replies, err)
	}
	if err := c.Quit(); err != nil {
		t.Error(err)
	}
	server.stop()
	want := etrn.Identity{Addr: netip.MustParseAddr("127.0.0.1"), Session: got.Session,
		Certificates: []string{fingerprint(mine.Leaf), keyFingerprint(mine.Leaf)}}
	if fmt.Sprint(got) != fmt.Sprint(want) || got.Session == "" || len(got.Certificates[0]) != 64 {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// Who authenticated before TLS has to do it again: it may have been somebody in
// the middle (RFC 3207, section 4.2).
func TestTLSForgetsTheUser(t *testing.T) {
	server := serve(t, ServerOptions{Certificate: certificate(t), Users: userStore(t)})
	c, err := Dial(t.Context(), server.addr, ClientOptions{TLS: TLSOff, Auth: &Auth{User: "acme", Password: "secret"}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.o.TLS = TLSInsecure
	for _, want := range []string{`user "acme"`, `user ""`} {
		replies, err := c.Request(t.Context(), []string{"whoami.example"})
		if err != nil || !strings.Contains(replies[0].Text, want) {
			t.Fatalf("%+v, %v; want %s", replies, err, want)
		}
		if c.tls == nil {
			if err := c.secure(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// Clients send passwords where they should not; the log is no place for them.
func TestLogHidesSecrets(t *testing.T) {
	for _, test := range []struct{ name, sent string }{
		{"behind a refused mechanism", "AUTH LOGIN\r\nSWORDFISH\r\n"},
		{"behind an unknown mechanism", "auth XYZ\r\nSWORDFISH\r\n"},
		{"behind a refused mechanism, with a control character", "AUTH LOGIN\r\nSWORDFISH\x01\r\n"},
		{"in the command", "AUTH PLAIN SWORDFISH\r\n"},
		{"in a command that is too long", "AUTH PLAIN SWORDFISH" + strings.Repeat("x", 2000) + "\r\n"},
		{"ahead of TLS", "STARTTLS\r\nEHLO s\r\nAUTH PLAIN SWORDFISH\r\n"},
		{"in a command without an end", "AUTH PLAIN SWORDFISH" + strings.Repeat("x", 100_000)},
		{"in a command with LF alone", "Auth plain SWORDFISH\n"},
		{"in an answer that is too long", "AUTH SCRAM-SHA-256\r\nSWORDFISH" + strings.Repeat("x", 2000) + "\r\n"},
		{"in an answer that is not base64", "AUTH SCRAM-SHA-256\r\nSWORD-FISH SWORDFISH\r\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			server := serve(t, ServerOptions{Users: userStore(t), Certificate: certificate(t)})
			conn := connect(t, server.addr)
			io.WriteString(conn, "EHLO s\r\n"+test.sent+"QUIT\r\n")
			if all, err := io.ReadAll(conn); err != nil || !strings.Contains(string(all), "\r\n221 ") && !strings.Contains(string(all), "\r\n421 ") {
				t.Errorf("%q, %v", all, err)
			}
			server.stop()
			if text := server.log.String(); strings.Contains(text, "SWORDFISH") || !strings.Contains(text, "refused") {
				t.Errorf("log:\n%s", text)
			}
		})
	}
}

type askFunc func(context.Context, etrn.Identity, string) etrn.Answer

func (f askFunc) Ask(ctx context.Context, who etrn.Identity, name string) etrn.Answer {
	return f(ctx, who, name)
}

func TestCertificateReload(t *testing.T) {
	dir := t.TempDir()
	c, err := LoadCertificate(writePair(t, dir, pki().hub))
	if err != nil {
		t.Fatal(err)
	}
	server := serve(t, ServerOptions{Certificate: c})
	shown := func() string {
		offer, err := Probe(t.Context(), server.addr, ClientOptions{})
		if err != nil || offer.TLS == nil || offer.TLS.Certificate == nil {
			t.Fatalf("%+v, %v", offer, err)
		}
		return offer.TLS.Certificate.Fingerprint
	}
	if got := shown(); got != fingerprint(pki().hub.Leaf) {
		t.Errorf("shown %s", got)
	}
	if err := os.WriteFile(filepath.Join(dir, "hub.pem"), []byte("broken"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := c.Reload(); err == nil {
		t.Error("a broken file was taken")
	}
	if got := shown(); got != fingerprint(pki().hub.Leaf) {
		t.Errorf("after a failed reload: %s", got)
	}
	fresh := identity(t, hostname, nil, time.Now().Add(time.Hour))
	writePair(t, dir, fresh)
	if err := c.Reload(); err != nil {
		t.Fatal(err)
	}
	if got := shown(); got != fingerprint(fresh.Leaf) {
		t.Errorf("after a reload: %s", got)
	}
	if _, err := LoadCertificate(filepath.Join(dir, "none"), filepath.Join(dir, "hub.key")); err == nil || !strings.Contains(err.Error(), "none") {
		t.Errorf("missing file: %v", err)
	}
}

func TestConnectionLimits(t *testing.T) {
	greeting := func(conn net.Conn) string {
		line, err := bufio.NewReader(conn).ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		return line
	}
	t.Run("per client", func(t *testing.T) {
		server := serve(t, ServerOptions{MaxConnectionsPerClient: 2})
		a, b := connect(t, server.addr), connect(t, server.addr)
		greeting(a)
		greeting(b)
		if got := greeting(connect(t, server.addr)); !strings.HasPrefix(got, "421 hub.example.net too many connections from your address") {
			t.Errorf("third: %q", got)
		}
		// Another address of this machine is another client.
		other, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}).Dial("tcp", server.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer other.Close()
		if got := greeting(other); !strings.HasPrefix(got, "220 ") {
			t.Errorf("another client: %q", got)
		}
		// A place that was given back can be taken again.
		a.Close()
		deadline := time.Now().Add(patience)
		for {
			conn := connect(t, server.addr)
			if strings.HasPrefix(greeting(conn), "220 ") {
				break
			}
			if time.Now().After(deadline) {
				t.Fatal("no place was given back")
			}
			runtime.Gosched()
		}
	})
	t.Run("total", func(t *testing.T) {
		server := serve(t, ServerOptions{MaxConnections: 1})
		greeting(connect(t, server.addr))
		if got := greeting(connect(t, server.addr)); got != "421 hub.example.net too many connections, try again later\r\n" {
			t.Errorf("second: %q", got)
		}
	})
}

// One bad client never disturbs the others.
func TestBadClientsAlongsideGoodOnes(t *testing.T) {
	server := serve(t, ServerOptions{Certificate: certificate(t), Users: userStore(t), MaxConnectionsPerClient: 100, DrainTimeout: 50 * time.Millisecond})
	for _, first := range []string{"", "E", "EHLO s\r\nSTARTTLS\r\n", strings.Repeat("x", 9999), "\x00", "EHLO s\r\nAUTH SCRAM-SHA-256\r\n", "EHLO s\r\nETRN slow.example\r\n"} {
		// All of these stay open, and say no more.
		if _, err := connect(t, server.addr).Write([]byte(first)); err != nil {
			t.Fatal(err)
		}
	}
	// One that sends and does not read: its replies fill the buffers.
	deaf := connect(t, server.addr)
	deaf.SetDeadline(time.Now().Add(time.Second))
	go io.Copy(deaf, strings.NewReader("EHLO s\r\n"+strings.Repeat("HELP\r\n", 100_000)))

	for range 3 {
		c, err := Dial(t.Context(), server.addr, ClientOptions{TLS: TLSInsecure, Auth: &Auth{User: "acme", Password: "secret"}})
		if err != nil {
			t.Fatal(err)
		}
		replies, err := c.Request(t.Context(), []string{"acme.example", "@many.example"})
		if err != nil || len(replies) != 2 || replies[1].Count != 14 {
			t.Fatalf("%v, %v", replies, err)
		}
		c.Quit()
	}
}

func TestTooManyCommands(t *testing.T) {
	server := serve(t, ServerOptions{})
	conn := connect(t, server.addr)
	go io.Copy(conn, strings.NewReader(strings.Repeat("NOOP\r\n", maxCommands+500)))
	all, err := io.ReadAll(conn)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(all)), "\r\n")
	if want := maxCommands + 2; len(lines) != want || !strings.HasPrefix(lines[want-1], "421 ") {
		t.Errorf("%d lines, the last is %q; want %d and a 421", len(lines), lines[len(lines)-1], want)
	}
}

// pipes is a listener without a network, for the fake clock of synctest.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newPipes() *pipes { return &pipes{conns: make(chan net.Conn), done: make(chan struct{})} }

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}
func (p *pipes) Close() error   { p.once.Do(func() { close(p.done) }); return nil }
func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipes", Net: "unix"} }
func (p *pipes) dial() net.Conn {
	ours, theirs := net.Pipe()
	p.conns <- theirs
	return ours
}

// far is a connection over a line with round trips of two seconds.
type far struct{ net.Conn }

func (far) SocketInfo() socket.Info { return socket.Info{RTT: 2 * time.Second} }

// inBubble runs a server on the fake clock. Times in these tests are exact.
func inBubble(t *testing.T, o ServerOptions, test func(t *testing.T, p *pipes, server *running)) {
	synctest.Test(t, func(t *testing.T) {
		p := newPipes()
		server := serveOn(t, o, p)
		test(t, p, server)
		server.stop()
	})
}

// untilClosed reads everything that comes, and tells when it ended.
func untilClosed(t *testing.T, conn net.Conn) (text string, after time.Duration) {
	t.Helper()
	began := time.Now()
	all, err := io.ReadAll(conn)
	if err != nil {
		t.Fatal(err)
	}
	return string(all), time.Since(began)
}

func TestDeadlines(t *testing.T) {
	// send writes while the server's replies are read elsewhere; errors are
	// those of a connection that the server has closed.
	send := func(conn net.Conn, text string) { io.WriteString(conn, text) }

	t.Run("idle after the greeting", func(t *testing.T) {
		inBubble(t, ServerOptions{}, func(t *testing.T, p *pipes, _ *running) {
			text, after := untilClosed(t, p.dial())
			if after != 5*time.Minute || !strings.HasSuffix(text, "421 hub.example.net closes: you took too long\r\n") {
				t.Errorf("after %v: %q", after, text)
			}
		})
	})
	t.Run("one byte a second does not move the deadline", func(t *testing.T) {
		inBubble(t, ServerOptions{}, func(t *testing.T, p *pipes, _ *running) {
			conn := p.dial()
			go func() {
				for range 600 {
					send(conn, "x")
					time.Sleep(time.Second)
				}
			}()
			text, after := untilClosed(t, conn)
			if after != 5*time.Minute || !strings.Contains(text, "\r\n421 ") {
				t.Errorf("after %v: %q", after, text)
			}
			time.Sleep(10 * time.Minute) // for the sender
		})
	})
	t.Run("a busy session ends too", func(t *testing.T) {
		inBubble(t, ServerOptions{}, func(t *testing.T, p *pipes, _ *running) {
			conn := p.dial()
			go func() {
				for range 60 {
					send(conn, "NOOP\r\n")
					time.Sleep(time.Minute)
				}
			}()
			text, after := untilClosed(t, conn)
			if after != 30*time.Minute || !strings.Contains(text, "\r\n421 ") {
				t.Errorf("after %v: %q", after, text)
			}
			time.Sleep(time.Hour)
		})
	})
	t.Run("a client that does not read", func(t *testing.T) {
		inBubble(t, ServerOptions{}, func(t *testing.T, p *pipes, server *running) {
			began := time.Now()
			conn := p.dial()
			synctest.Wait()
			time.Sleep(31 * time.Second) // nobody takes the greeting
			if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
				t.Errorf("after %v: %v", time.Since(began), err)
			}
		})
	})
	t.Run("silence in AUTH", func(t *testing.T) {
		inBubble(t, ServerOptions{Users: userStore(t)}, func(t *testing.T, p *pipes, _ *running) {
			conn := p.dial()
			go send(conn, "EHLO s\r\nAUTH SCRAM-SHA-256\r\n")
			text, after := untilClosed(t, conn)
			if after != 5*time.Minute || !strings.HasSuffix(text, "\r\n334 \r\n421 hub.example.net closes: you took too long\r\n") {
				t.Errorf("after %v: %q", after, text)
			}
		})
	})
	t.Run("silence in the handshake, over a line of long round trips", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			srv, err := NewServer(ServerOptions{Hostname: hostname, Asker: asker{}, Certificate: certificate(t)})
			if err != nil {
				t.Fatal(err)
			}
			conn, theirs := net.Pipe()
			go newDialogue(srv, far{theirs}, netip.Addr{}, nil).run(t.Context())
			go send(conn, "EHLO s\r\nSTARTTLS\r\n")
			if text, after := untilClosed(t, conn); after != 70*time.Second || !strings.HasSuffix(text, "220 go ahead with TLS\r\n") {
				t.Errorf("after %v: %q", after, text)
			}
		})
	})
	t.Run("silence in the handshake", func(t *testing.T) {
		inBubble(t, ServerOptions{Certificate: certificate(t)}, func(t *testing.T, p *pipes, _ *running) {
			conn := p.dial()
			go send(conn, "EHLO s\r\nSTARTTLS\r\n")
			text, after := untilClosed(t, conn)
			if after != 30*time.Second || !strings.HasSuffix(text, "220 go ahead with TLS\r\n") {
				t.Errorf("after %v: %q", after, text)
			}
		})
	})
	t.Run("a slow answer", func(t *testing.T) {
		inBubble(t, ServerOptions{}, func(t *testing.T, p *pipes, _ *running) {
			conn := p.dial()
			go send(conn, "EHLO s\r\nETRN slow.example\r\nQUIT\r\n")
			text, after := untilClosed(t, conn)
			if after != 30*time.Second || !strings.Contains(text, "\r\n451 Unable to process node slow.example now: context deadline exceeded\r\n221 ") {
				t.Errorf("after %v: %q", after, text)
			}
		})
	})
	t.Run("failed authentication is slow", func(t *testing.T) {
		inBubble(t, ServerOptions{Users: userStore(t), CramMD5: true, AuthDelay: 2 * time.Second}, func(t *testing.T, p *pipes, _ *running) {
			conn := p.dial()
			go send(conn, "EHLO s\r\n"+strings.Repeat("AUTH CRAM-MD5\r\nYWNtZSAwMA==\r\n", 3))
			text, after := untilClosed(t, conn)
			if after != 6*time.Second || strings.Count(text, "\r\n535 ") != 3 || !strings.Contains(text, "\r\n421 ") {
				t.Errorf("after %v: %q", after, text)
			}
		})
	})
}

func TestShutdown(t *testing.T) {
	t.Run("idle sessions hear 421", func(t *testing.T) {
		inBubble(t, ServerOptions{}, func(t *testing.T, p *pipes, server *running) {
			conn := p.dial()
			go io.WriteString(conn, "NOOP\r\n")
			got := make(chan string)
			go func() {
				all, _ := io.ReadAll(conn)
				got <- string(all)
			}()
			synctest.Wait()
			began := time.Now()
			server.stop()
			if d := time.Since(began); d != 0 {
				t.Errorf("an idle session held up the end for %v", d)
			}
			if text := <-got; !strings.HasSuffix(text, "250 OK\r\n421 hub.example.net closes for now, try again later\r\n") {
				t.Errorf("got %q", text)
			}
		})
	})
	t.Run("busy sessions finish their command", func(t *testing.T) {
		var release chan struct{} // made inside of the bubble, which counts who waits
		inBubble(t, ServerOptions{Asker: askFunc(func(context.Context, etrn.Identity, string) etrn.Answer {
			<-release
			return etrn.Answer{Code: 250}
		})}, func(t *testing.T, p *pipes, server *running) {
			release = make(chan struct{})
			conn := p.dial()
			go io.WriteString(conn, "HELO s\r\nETRN acme.example\r\nETRN beta.example\r\n")
			got := make(chan string)
			go func() {
				all, _ := io.ReadAll(conn)
				got <- string(all)
			}()
			synctest.Wait() // the first ETRN is being answered
			go server.stop()
			synctest.Wait()
			close(release)
			want := "250 hub.example.net\r\n250 OK, queuing for node acme.example started\r\n421 hub.example.net closes for now, try again later\r\n"
			if text := <-got; !strings.HasSuffix(text, want) {
				t.Errorf("got %q", text)
			}
		})
	})
	t.Run("those that do not finish are cut off", func(t *testing.T) {
		inBubble(t, ServerOptions{AskTimeout: time.Hour}, func(t *testing.T, p *pipes, server *running) {
			conn := p.dial()
			go io.WriteString(conn, "HELO s\r\nETRN slow.example\r\n")
			go io.Copy(io.Discard, conn)
			synctest.Wait()
			began := time.Now()
			server.stop()
			if d := time.Since(began); d != 10*time.Second {
				t.Errorf("took %v", d)
			}
		})
	})
}

// scarce fails to accept a few times, as a process does that has run out of
// descriptors.
type scarce struct {
	net.Listener
	fail int
}

func (s *scarce) Accept() (net.Conn, error) {
	if s.fail > 0 {
		s.fail--
		return nil, &net.OpError{Op: "accept", Net: "tcp", Err: os.NewSyscallError("accept4", syscall.EMFILE)}
	}
	return s.Listener.Accept()
}

func TestAcceptFailures(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := serveOn(t, ServerOptions{}, &scarce{l, 3})
	if _, err := bufio.NewReader(connect(t, server.addr)).ReadString('\n'); err != nil {
		t.Error(err)
	}
	// A listener that somebody else closes is an end.
	l2, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s, err := NewServer(ServerOptions{Hostname: hostname, Asker: asker{}})
	if err != nil {
		t.Fatal(err)
	}
	l2.Close()
	if err := s.Serve(t.Context(), l2); !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v", err)
	}
}

// 500 sites that stay connected must not cost much.
func TestIdleSessionsAreSmall(t *testing.T) {
	const n = 500
	server := serve(t, ServerOptions{MaxConnectionsPerClient: n})
	memory := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapInuse + m.StackInuse
	}
	before := memory()
	for range n {
		conn := connect(t, server.addr)
		io.WriteString(conn, "EHLO s\r\n")
		var b [512]byte
		for text := ""; !strings.Contains(text, "250 HELP"); {
			k, err := conn.Read(b[:])
			if err != nil {
				t.Fatal(err)
			}
			text += string(b[:k])
		}
	}
	each := int64(memory()-before) / n
	t.Logf("%d bytes for an idle session, both ends", each)
	if each > 40<<10 {
		t.Errorf("an idle session costs %d bytes", each)
	}
}

// fuzzSession feeds bytes to a server that prefix has brought into a state, and
// checks that everything it says is a reply.
func fuzzSession(t *testing.T, server *running, dial func() (net.Conn, error), data []byte) {
	conn, err := dial()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	var wg sync.WaitGroup
	wg.Go(func() {
		conn.Write(data)
		if half, ok := conn.(interface{ CloseWrite() error }); ok {
			half.CloseWrite()
		}
	})
	defer wg.Wait()
	in := &esmtp.ReplyReader{Reader: bufio.NewReader(conn)}
	for {
		rep, err := in.ReadReply()
		if errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) {
			return
		}
		if err != nil {
			t.Fatalf("%v\n%s", err, server.log)
		}
		if rep.Code == 235 {
			t.Fatalf("authenticated\n%s", server.log)
		}
		if rep.Code == 220 && strings.Contains(rep.Text(), "TLS") {
			return // what follows is no text
		}
		if strings.Contains(rep.Text(), "internal error") {
			t.Fatalf("panic\n%s", server.log)
		}
	}
}

func fuzzSeeds(f *testing.F) {
	for _, seed := range []string{
		"EHLO s\r\nETRN acme.example\r\nQUIT\r\n", "ETRN @\r\n", "ETRN #\x7f\r\n", "AUTH PLAIN =\r\n",
		"AUTH SCRAM-SHA-256 biwsbj1hY21lLHI9YWJj\r\nYz1iaXdzLHI9YWJjLHA9QUFBQQ==\r\n", "AUTH LOGIN\r\nAA==\r\nAA==\r\n",
		"AUTH CRAM-MD5\r\nYWNtZSAwMA==\r\n", "*\r\n", "\n\n\n", "\x16\x03\x01", "STARTTLS\r\n", "STARTTLS\r\nNOOP\r\n",
		strings.Repeat("x", 3000), "ATRN a.b,c.d\r\n", "HELP\r\nNOOP\r\nRSET\r\nVRFY\r\nTURN\r\n", "GET / HTTP/1.0\r\n\r\n",
	} {
		f.Add([]byte(seed))
	}
}

func FuzzServer(f *testing.F) {
	states := map[string]string{
		"before EHLO": "",
		"after EHLO":  "EHLO s\r\n",
		"in AUTH":     "EHLO s\r\nAUTH SCRAM-SHA-256\r\n",
		"in CRAM":     "EHLO s\r\nAUTH CRAM-MD5\r\n",
	}
	fuzzSeeds(f)
	server := serve(f, ServerOptions{Certificate: certificate(f), Users: userStore(f), CramMD5: true, Turner: turner{}, MaxConnectionsPerClient: 1000})
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, prefix := range states {
			fuzzSession(t, server, func() (net.Conn, error) {
				conn, err := net.Dial("tcp", server.addr)
				if err == nil {
					conn.Write([]byte(prefix))
				}
				return conn, err
			}, data)
		}
	})
}

// After STARTTLS, before and after AUTH.
func FuzzServerTLS(f *testing.F) {
	fuzzSeeds(f)
	server := serve(f, ServerOptions{Certificate: certificate(f), Users: userStore(f), CramMD5: true, MaxConnectionsPerClient: 1000})
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, auth := range []*Auth{nil, {User: "acme", Password: "secret"}} {
			fuzzSession(t, server, func() (net.Conn, error) {
				c, err := Dial(context.Background(), server.addr, ClientOptions{TLS: TLSInsecure, Auth: auth})
				if err != nil {
					return nil, err
				}
				return c.conn, nil
			}, data)
		}
	})
}

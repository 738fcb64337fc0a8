package odmr

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/etrnd/etrnd/internal/etrn"
	"github.com/etrnd/etrnd/internal/hang"
	"github.com/etrnd/etrnd/internal/users"
)

const hostname = "hub.example.net"

// askers of the tests answer by the name that is asked for.
type asker struct{}

func (asker) Ask(ctx context.Context, who etrn.Identity, name string) etrn.Answer {
	switch strings.ToLower(name) {
	case "acme.example":
		return etrn.Answer{Code: 250}
	case "some.example":
		return etrn.Answer{Code: 252}
	case "@many.example":
		return etrn.Answer{Code: 253, Count: 14}
	case "#zero":
		return etrn.Answer{Code: 253}
	case "busy.example":
		return etrn.Answer{Code: 458, Text: "the same release is under way"}
	case "other.example":
		return etrn.Answer{Code: 459, Text: "not from your network"}
	case "@com":
		return etrn.Answer{Code: 459}
	case "away.example":
		return etrn.Answer{Code: 451, Text: "line one\r\nline two\x00\xff"}
	case "odd.example":
		return etrn.Answer{Code: 550}
	case "whoami.example":
		return etrn.Answer{Code: 459, Text: fmt.Sprintf("user %q, certificates %d", who.User, len(who.Certificates))}
	case "panic.example":
		panic("a bug")
	case "slow.example":
		<-ctx.Done()
		return etrn.Answer{Code: 451, Text: ctx.Err().Error()}
	}
	return etrn.Answer{Code: 251}
}

// turner greets as a provider does.
type turner struct{}

func (turner) Turn(_ context.Context, who etrn.Identity, domains []string) (etrn.Answer, func(context.Context, net.Conn) error) {
	if who.User == "" || len(domains) != 1 {
		return etrn.Answer{Code: 451, Text: "not expected"}, nil
	}
	if domains[0] == "empty.example" {
		return etrn.Answer{Code: 453, Text: "You have no mail"}, nil
	}
	return etrn.Answer{Code: 250}, func(_ context.Context, conn net.Conn) error {
		line, err := bufio.NewReader(conn).ReadString('\n')
		if err != nil || line != "220 site.acme.example\r\n" {
			return fmt.Errorf("%q, %w", line, err)
		}
		_, err = conn.Write([]byte("EHLO " + hostname + "\r\n"))
		return err
	}
}

// identity makes a certificate for name, signed by issuer or by itself.
func identity(t testing.TB, name string, issuer *tls.Certificate, notAfter time.Time) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	serial, _ := rand.Int(rand.Reader, big.NewInt(1<<62))
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: name},
		DNSNames:              []string{name},
		NotBefore:             time.Now().Add(-2 * time.Hour),
		NotAfter:              notAfter,
		IsCA:                  issuer == nil,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	parent, signer := template, any(key)
	if issuer != nil {
		parent, signer = issuer.Leaf, issuer.PrivateKey
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

// writePair writes a certificate and its key the way an administrator has them.
func writePair(t testing.TB, dir string, c tls.Certificate) (certFile, keyFile string) {
	t.Helper()
	key, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	certFile, keyFile = filepath.Join(dir, "hub.pem"), filepath.Join(dir, "hub.key")
	for name, block := range map[string]*pem.Block{
		certFile: {Type: "CERTIFICATE", Bytes: c.Certificate[0]},
		keyFile:  {Type: "PRIVATE KEY", Bytes: key},
	} {
		if err := os.WriteFile(name, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return certFile, keyFile
}

// pki is made once: an authority, and the hub's certificate by it.
var pki = sync.OnceValue(func() (p struct {
	ca, hub tls.Certificate
	roots   *x509.CertPool
}) {
	t := &failing{}
	p.ca = identity(t, "authority.example", nil, time.Now().Add(time.Hour))
	p.hub = identity(t, hostname, &p.ca, time.Now().Add(time.Hour))
	p.roots = x509.NewCertPool()
	p.roots.AddCert(p.ca.Leaf)
	return p
})

// failing is for what is made outside of a test.
type failing struct{ testing.TB }

func (*failing) Helper()           {}
func (*failing) Fatal(args ...any) { panic(fmt.Sprint(args...)) }

func certificate(t testing.TB) *Certificate {
	t.Helper()
	c, err := LoadCertificate(writePair(t, t.TempDir(), pki().hub))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// userStore has acme with the password "secret".
func userStore(t testing.TB) *users.Store {
	s, _ := userFile(t)
	return s
}

// userFile is userStore with its file.
func userFile(t testing.TB) (*users.Store, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "users")
	secret, err := users.NewSecret("secret", users.SecretOptions{Iterations: 4096, CramMD5: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := users.Edit(path, func(f *users.File) error { return f.Add("acme", secret) }); err != nil {
		t.Fatal(err)
	}
	s, err := users.Open(path, users.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return s, path
}

// log collects what a server says, for tests that read it and for failures.
type log struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *log) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// running is a server on loopback.
type running struct {
	addr string
	log  *log
	stop func() // ends Serve and waits for it
}

func serve(t testing.TB, o ServerOptions) *running {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return serveOn(t, o, l)
}

func serveOn(t testing.TB, o ServerOptions, l net.Listener) *running {
	t.Helper()
	r := &running{addr: l.Addr().String(), log: &log{}}
	if o.Hostname == "" {
		o.Hostname = hostname
	}
	if o.Asker == nil {
		o.Asker = asker{}
	}
	if o.AuthDelay == 0 {
		o.AuthDelay = -1
	}
	o.Logger = r.log.logger()
	s, err := NewServer(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
		if n := s.limits.Open(); n != 0 {
			t.Errorf("%d connections are still counted", n)
		}
	})
	t.Cleanup(func() {
		r.stop()
		if t.Failed() {
			t.Logf("log of the server:\n%s", r.log)
		}
	})
	return r
}

// fromTranscript makes the server that the "+" line of a transcript asks for.
func fromTranscript(t testing.TB, text string) ServerOptions {
	var o ServerOptions
	for line := range strings.Lines(text) {
		words, ok := strings.CutPrefix(line, "+ ")
		if !ok {
			continue
		}
		for word := range strings.FieldsSeq(words) {
			switch word {
			case "tls":
				o.Certificate = certificate(t)
			case "users":
				o.Users = userStore(t)
			case "cram":
				o.CramMD5 = true
			case "turn":
				o.Turner = turner{}
			default:
				t.Fatalf("unknown word %q", word)
			}
		}
	}
	return o
}

// patience is the deadline of everything in a test that should not take long.
const patience = hang.Limit

// peer plays one side of a transcript: "C:" and "S:" are lines of the two sides,
// "R:" raw bytes of ours as a Go string ("R*n:" n times), "-- tls" the handshake,
// "-- any" takes any line of the other, "-- close" closes, "-- closed" expects the other to.
type peer struct {
	me   string // "C:" or "S:"
	conn net.Conn
	in   *bufio.Reader
}

func newPeer(conn net.Conn, me string) *peer {
	conn.SetDeadline(time.Now().Add(patience))
	return &peer{me: me, conn: conn, in: bufio.NewReader(conn)}
}

func (p *peer) play(script string) error {
	n := 0
	for line := range strings.Lines(script) {
		n++
		if err := p.step(strings.TrimSuffix(line, "\n")); err != nil {
			return fmt.Errorf("line %d: %s: %w", n, line, err)
		}
	}
	return nil
}

func (p *peer) step(line string) error {
	if len(line) == 0 || line[0] == '#' || line[0] == '+' {
		return nil
	}
	if rest, ok := strings.CutPrefix(line, "R"); ok {
		count, text, _ := strings.Cut(rest, ": ")
		raw, err := strconv.Unquote(text)
		if err != nil {
			return err
		}
		if count, ok := strings.CutPrefix(count, "*"); ok {
			times, err := strconv.Atoi(count)
			if err != nil {
				return err
			}
			raw = strings.Repeat(raw, times)
		}
		_, err = p.conn.Write([]byte(raw))
		return err
	}
	switch line {
	case "-- tls":
		conn := tls.Client(p.conn, &tls.Config{InsecureSkipVerify: true})
		if err := conn.Handshake(); err != nil {
			return err
		}
		p.conn, p.in = conn, bufio.NewReader(conn)
		return nil
	case "-- any":
		_, err := p.in.ReadString('\n')
		return err
	case "-- close":
		return p.conn.Close()
	case "-- closed":
		if rest, err := p.in.ReadString('\n'); err == nil || rest != "" || errors.Is(err, os.ErrDeadlineExceeded) {
			return fmt.Errorf("not closed: %q, %v", rest, err)
		}
		return nil
	}
	who, text := line[:2], strings.TrimPrefix(line[2:], " ")
	if who == p.me {
		_, err := p.conn.Write([]byte(text + "\r\n"))
		return err
	}
	got, err := p.in.ReadString('\n')
	if err != nil {
		return fmt.Errorf("got %q, %w", got, err)
	}
	if got != text+"\r\n" {
		return fmt.Errorf("got %q", got)
	}
	return nil
}

func connect(t testing.TB, addr string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(patience))
	return conn
}

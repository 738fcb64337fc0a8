package receive

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/emersion/go-smtp"

	"github.com/etrnd/etrnd/etrnd/odmr"
	"github.com/etrnd/etrnd/internal/hang"
)

// The greeting tells what the MTA offers, no more than the reply to EHLO does,
// and what comes in one burst with EHLO is taken as if it had come later.
func TestAhead(t *testing.T) {
	got := make(chan string, 1)
	mta := smtp.NewServer(aheadBackend{got})
	mta.Domain = "mta.invalid"
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go mta.Serve(l)
	t.Cleanup(func() { mta.Close() })

	hub, site := net.Pipe()
	hub.SetDeadline(hang.Deadline())
	srv := New(Options{Ahead: true, Hostname: "mail.acme.example", Domains: []string{"acme.example"}, Dial: Dialer(l.Addr().String())})
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(t.Context(), site) }()
	in := bufio.NewReader(hub)

	greeting := aheadReply(t, in)
	if greeting[0] != "220-mail.acme.example ESMTP" || greeting[1] != "220-"+odmr.Ahead {
		t.Fatalf("greeting: %q", greeting)
	}
	const text = "Subject: test\r\n\r\nbody\r\n"
	burst := fmt.Sprintf("EHLO hub.example.net\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<crew@acme.example>\r\nBDAT %d LAST\r\n%sQUIT\r\n", len(text), text)
	go io.WriteString(hub, burst)
	offered := aheadReply(t, in)
	// Apart from the first lines and the code it is what EHLO is answered.
	for i, line := range greeting[2:] {
		if line[4:] != offered[i+1][4:] {
			t.Errorf("the greeting offers %q, and EHLO %q", greeting[2:], offered[1:])
			break
		}
	}
	if len(greeting) != len(offered)+1 || !strings.Contains(strings.Join(greeting, " "), "CHUNKING") {
		t.Errorf("the greeting offers %q, and EHLO %q", greeting[2:], offered[1:])
	}
	for _, want := range []string{"250", "250", "250", "221"} {
		if r := aheadReply(t, in); !strings.HasPrefix(r[0], want) {
			t.Fatalf("reply %q, want %s", r, want)
		}
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if body := <-got; body != text {
		t.Errorf("the MTA got %q", body)
	}
}

// Before EHLO has come there is no mail, however eager the provider is.
func TestAheadNeedsEHLO(t *testing.T) {
	mta := smtp.NewServer(aheadBackend{make(chan string, 1)})
	mta.Domain = "mta.invalid"
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go mta.Serve(l)
	t.Cleanup(func() { mta.Close() })
	hub, site := net.Pipe()
	hub.SetDeadline(hang.Deadline())
	srv := New(Options{Ahead: true, Hostname: "mail.acme.example", Domains: []string{"acme.example"}, Dial: Dialer(l.Addr().String())})
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(t.Context(), site) }()
	in := bufio.NewReader(hub)
	aheadReply(t, in)
	go io.WriteString(hub, "MAIL FROM:<a@b.example>\r\nQUIT\r\n")
	for _, want := range []string{"503", "221"} {
		if r := aheadReply(t, in); !strings.HasPrefix(r[0], want) {
			t.Errorf("reply %q, want %s", r, want)
		}
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// aheadReply reads a reply of any number of lines.
func aheadReply(t *testing.T, in *bufio.Reader) (lines []string) {
	t.Helper()
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			t.Fatalf("after %q: %v", lines, err)
		}
		line = strings.TrimRight(line, "\r\n")
		lines = append(lines, line)
		if len(line) < 4 || line[3] == ' ' {
			return lines
		}
	}
}

// aheadBackend is an MTA that shows what it gets.
type aheadBackend struct{ got chan string }

func (b aheadBackend) NewSession(*smtp.Conn) (smtp.Session, error) { return b, nil }
func (aheadBackend) Mail(string, *smtp.MailOptions) error          { return nil }
func (aheadBackend) Rcpt(string, *smtp.RcptOptions) error          { return nil }
func (aheadBackend) Reset()                                        {}
func (aheadBackend) Logout() error                                 { return nil }

func (b aheadBackend) Data(r io.Reader) error {
	text, err := io.ReadAll(r)
	b.got <- string(text)
	return err
}

package deliver

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"

	"github.com/etrnd/etrnd/internal/etrn"
	"github.com/etrnd/etrnd/internal/hang"
)

// A site that says so in its greeting gets EHLO and mail in one burst; of any
// other the reply to EHLO is waited for, whatever else its greeting says.
func TestAhead(t *testing.T) {
	const full = "220-mail.acme.example ESMTP\r\n220-X-ETRN-AHEAD\r\n220-PIPELINING\r\n220-SIZE 1000\r\n220 CHUNKING\r\n"
	for _, tt := range []struct {
		name, greeting string
		ahead          bool
	}{
		{"ours", full, true},
		{"one line", "220 mail.acme.example ESMTP\r\n", false},
		{"the word in the first line", "220 X-ETRN-AHEAD PIPELINING CHUNKING\r\n", false},
		{"a notice of several lines", "220-mail.acme.example\r\n220-PIPELINING and CHUNKING forbidden here\r\n220 X-ETRN-AHEAD\r\n", false},
		// Without both of them there is nothing that could be sent at once.
		{"no CHUNKING", "220-mail.acme.example\r\n220-X-ETRN-AHEAD\r\n220 PIPELINING\r\n", false},
		{"no PIPELINING", "220-mail.acme.example\r\n220-X-ETRN-AHEAD\r\n220 CHUNKING\r\n", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			turn, site := aheadPair(t)
			greeted := make(chan error, 1)
			go func() { greeted <- turn.greet(t.Context()) }()
			if _, err := io.WriteString(site, tt.greeting); err != nil {
				t.Fatal(err)
			}
			in := bufio.NewReader(site)
			if !tt.ahead {
				line, err := in.ReadString('\n')
				if err != nil || line != "EHLO hub.example.net\r\n" {
					t.Fatalf("the site got %q, %v", line, err)
				}
				fmt.Fprint(site, "250-mail.acme.example\r\n250 SIZE 7\r\n")
			}
			if err := <-greeted; err != nil {
				t.Fatal(err)
			}
			if o := turn.offers; o.pipelining != tt.ahead || o.chunking != tt.ahead || !o.size {
				// The offers of whichever was to be believed.
				t.Errorf("offers: %+v", o)
			}
			if got := turn.out.Buffered() > 0; got != tt.ahead {
				t.Errorf("EHLO waits for the first mail: %v, want %v", got, tt.ahead)
			}
			if len(turn.expect) > 0 != tt.ahead {
				t.Errorf("replies to come: %v", turn.expect)
			}
		})
	}
}

// The reply to an EHLO that was sent ahead is the first to be matched, and the
// end of the connection if it is a refusal.
func TestAheadReply(t *testing.T) {
	for _, tt := range []struct {
		reply string
		want  string // of the error, when read ends
	}{
		{"250-mail.acme.example\r\n250-PIPELINING\r\n250 CHUNKING\r\n", errClosed.Error()},
		{"550 go away\r\n", "550 go away"},
		{"421 not now\r\n", "421 not now"},
	} {
		turn, site := aheadPair(t)
		greeted := make(chan error, 1)
		go func() { greeted <- turn.greet(t.Context()) }()
		fmt.Fprint(site, "220-mail.acme.example ESMTP\r\n220-X-ETRN-AHEAD\r\n220-PIPELINING\r\n220 CHUNKING\r\n")
		if err := <-greeted; err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- turn.read() }()
		fmt.Fprint(site, tt.reply)
		site.Close()
		err := <-ended
		if turn.err != nil {
			err = errors.Join(err, turn.err)
		}
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("reply %q: %v, want %q", tt.reply, err, tt.want)
		}
		if len(turn.expect) > 0 && tt.want == errClosed.Error() {
			t.Errorf("reply %q: still to come: %v", tt.reply, turn.expect)
		}
	}
}

// aheadPair is a turned connection and the site's end of it.
func aheadPair(t *testing.T) (*turn, net.Conn) {
	t.Helper()
	hub, site := net.Pipe()
	t.Cleanup(func() { hub.Close(); site.Close() })
	site.SetDeadline(hang.Deadline())
	c := New(Options{Hostname: "hub.example.net"})
	return newTurn(c, hub, etrn.Identity{User: "acme"}, nil, slog.New(slog.DiscardHandler)), site
}

package odmr

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/etrnd/etrnd/internal/hang"
)

// TestTurn has a case for each answer to ATRN.
func TestTurn(t *testing.T) {
	const ehlo = "S: 220 hub.example.net\nC: EHLO site.acme.example\nS: 250-hub.example.net\nS: 250 ATRN\n"
	both := []string{"acme.example", "beta.example"}
	tests := []struct {
		name, talk string
		domains    []string
		code       int // of the reply; 0: none
		kind       error
		temporary  bool
	}{
		{"turned", "C: ATRN acme.example,beta.example\nS: 250 OK now reversing the connection\n", both, 250, nil, false},
		{"all there is", "C: ATRN\nS: 250-OK\nS: 250 go\n", nil, 250, nil, false},
		{"no mail", "C: ATRN acme.example,beta.example\nS: 453 You have no mail\nC: QUIT\nS: 221 bye\n", both, 453, nil, false},
		{"forbidden", "C: ATRN acme.example,beta.example\nS: 450 ATRN request refused\nC: QUIT\nS: 221 bye\n", both, 450, ErrRefused, true},
		{"not now", "C: ATRN acme.example,beta.example\nS: 451 Unable to process\nC: QUIT\nS: 221 bye\n", both, 451, ErrRefused, true},
		{"no such command", "C: ATRN acme.example,beta.example\nS: 502 Command not implemented\nC: QUIT\nS: 221 bye\n", both, 502, ErrNoATRN, false},
		{"unheard of", "C: ATRN acme.example,beta.example\nS: 500 what?\nC: QUIT\nS: 221 bye\n", both, 500, ErrNoATRN, false},
		{"who are you", "C: ATRN acme.example,beta.example\nS: 530 Authentication required\nC: QUIT\nS: 221 bye\n", both, 530, ErrRefused, false},
		{"busy", "C: ATRN acme.example,beta.example\nS: 421 too busy\n", both, 421, ErrRefused, true},
		{"neither yes nor no", "C: ATRN acme.example,beta.example\nS: 354 go ahead\n", both, 354, ErrProtocol, false},
		{"gone", "C: ATRN acme.example,beta.example\n", both, 0, ErrClosed, true},
		// Bytes ahead of our greeting are nobody's.
		{"ahead", "C: ATRN acme.example,beta.example\nR: \"250 OK\\r\\nEHLO hub.example.net\\r\\n\"\n", both, 250, ErrProtocol, false},
		{"no domain", "C: QUIT\nS: 221 bye\n", []string{"@acme.example"}, 0, ErrProtocol, false},
		{"a queue", "C: QUIT\nS: 221 bye\n", []string{"#acme"}, 0, ErrProtocol, false},
		{"a command", "C: QUIT\nS: 221 bye\n", []string{"acme.example\r\nQUIT"}, 0, ErrProtocol, false},
		{"two in one", "C: QUIT\nS: 221 bye\n", []string{"acme.example,beta.example"}, 0, ErrProtocol, false},
		{"too many", "C: QUIT\nS: 221 bye\n", strings.Fields(strings.Repeat("acme.example ", 40)), 0, ErrProtocol, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			addr, wait := script(t, ehlo+tt.talk)
			c, err := Dial(t.Context(), addr, ClientOptions{Hostname: "site.acme.example"})
			if err != nil {
				t.Fatal(err)
			}
			if !c.Offers("atrn") || c.Offers("ETRN") {
				t.Error("what is offered was not understood")
			}
			conn, r, err := c.Turn(t.Context(), tt.domains)
			if (conn != nil) != (tt.code == 250 && tt.kind == nil) {
				t.Errorf("connection %v with code %d", conn, r.Code)
			}
			if r.Code != tt.code || r.Name != strings.Join(tt.domains, ",") {
				t.Errorf("reply %+v, want code %d", r, tt.code)
			}
			if tt.kind == nil {
				if err != nil {
					t.Error(err)
				}
			} else {
				var e *Error
				if !errors.As(err, &e) || !errors.Is(err, tt.kind) || e.Temporary() != tt.temporary || e.Op != "ATRN" {
					t.Errorf("error %v, want %v (temporary %v)", err, tt.kind, tt.temporary)
				}
			}
			if strings.Contains(tt.talk, "C: QUIT") {
				c.Quit()
			} else {
				// These do nothing to a connection that was given away.
				c.Quit()
				c.Close()
			}
			if conn != nil {
				conn.Close()
			}
			wait()
		})
	}
}

// The connection that Turn gives away is the one under TLS, it has no deadline
// left, and the end of the context that asked is not its end.
func TestTurnKeepsTLS(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	heard := make(chan string, 1)
	go func() {
		conn, err := l.Accept()
		if err != nil {
			heard <- err.Error()
			return
		}
		defer conn.Close()
		conn.SetDeadline(hang.Deadline())
		p := newPeer(conn, "S:")
		if err := p.play("S: 220 hub\nC: EHLO site.acme.example\nS: 250-hub\nS: 250 STARTTLS\nC: STARTTLS\nS: 220 go\n"); err != nil {
			heard <- err.Error()
			return
		}
		secure := tls.Server(conn, &tls.Config{Certificates: []tls.Certificate{pki().hub}})
		p = newPeer(secure, "S:")
		if err := p.play("C: EHLO site.acme.example\nS: 250 ATRN\nC: ATRN acme.example\nS: 250 OK\nC: 220 site.acme.example\n"); err != nil {
			heard <- err.Error()
			return
		}
		fmt.Fprint(secure, "QUIT\r\n")
		heard <- "all"
	}()
	ctx, cancel := context.WithCancel(t.Context())
	c, err := Dial(ctx, l.Addr().String(), ClientOptions{Hostname: "site.acme.example", TLS: TLSRequire, Config: &tls.Config{RootCAs: pki().roots, ServerName: hostname}, ReplyTimeout: hang.Limit})
	if err != nil {
		t.Fatal(err)
	}
	conn, _, err := c.Turn(ctx, []string{"acme.example"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	cancel()
	if _, ok := conn.(*tls.Conn); !ok {
		t.Errorf("the connection is a %T", conn)
	}
	if _, err := fmt.Fprint(conn, "220 site.acme.example\r\n"); err != nil {
		t.Errorf("greeting: %v", err)
	}
	got, err := io.ReadAll(io.LimitReader(conn, 6))
	if err != nil || string(got) != "QUIT\r\n" {
		t.Errorf("%q, %v", got, err)
	}
	if said := <-heard; said != "all" {
		t.Error(said)
	}
}

// A context that ends while the answer is waited for ends the waiting.
func TestTurnCancelled(t *testing.T) {
	addr, _ := script(t, "S: 220 hub\nC: EHLO site.acme.example\nS: 250 ATRN\nC: ATRN acme.example\nC: never\n")
	c, err := Dial(t.Context(), addr, ClientOptions{Hostname: "site.acme.example"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, _, err := c.Turn(ctx, []string{"acme.example"}); !errors.Is(err, ErrTimeout) {
		t.Errorf("error %v, want %v", err, ErrTimeout)
	}
	c.Close()
}

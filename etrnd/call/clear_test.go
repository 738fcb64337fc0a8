package call

import (
	"errors"
	"net"
	"strings"
	"testing"

	"github.com/etrnd/etrnd/etrnd/odmr"
	"github.com/etrnd/etrnd/internal/api"
	"github.com/etrnd/etrnd/internal/config"
)

// 530 to ETRN is a question of who asks, not of the time or the host.
func TestLoginIsAskedFor(t *testing.T) {
	for _, c := range []struct{ user, text, want string }{
		{"", "authentication required", "set user and password-file"},
		{"", "Must issue a STARTTLS command first", "wants TLS"},
		{"acme", "authentication required", "more than the login"},
	} {
		r := config.Remote{Name: "hub", Host: "hub.example.net", User: c.user}
		q := question{err: &odmr.Error{Kind: odmr.ErrRefused, Op: "ETRN acme.example", Code: 530, Text: c.text}}
		if end := q.failed(&r); !strings.Contains(end.hint, c.want) || end.exit != 69 {
			t.Errorf("%+v: %+v", c, end)
		}
	}
}

// A login that was not tried is not one of a wrong password.
func TestNoFitLogin(t *testing.T) {
	r := config.Remote{Name: "hub", Host: "hub.example.net", User: "acme"}
	for _, c := range []struct {
		op, want string
		code     int
	}{{"AUTH", "fit for this connection", 0}, {"AUTH PLAIN", "check user", 535}} {
		q := question{err: &odmr.Error{Kind: odmr.ErrAuth, Op: c.op, Code: c.code, Err: errors.New("x")}}
		if end := q.failed(&r); !strings.Contains(end.hint, c.want) {
			t.Errorf("%+v: %+v", c, end)
		}
	}
}

// That nothing was encrypted is in the result, beside whatever else is.
func TestClearHint(t *testing.T) {
	cl := &call{}
	if got := cl.hint("x"); got != "x" {
		t.Errorf("%q", got)
	}
	cl.shown.clear = "no TLS"
	if got := cl.hint(""); got != "no TLS" {
		t.Errorf("%q", got)
	}
	if got := cl.hint("x"); got != "x; no TLS" {
		t.Errorf("%q", got)
	}
	if got := tlsHint(errors.New("x")); !strings.Contains(got, "tls-ca") {
		t.Errorf("%q", got)
	}
}

// A call that goes on without TLS, which the remote offers, says so where people
// look: while it asks, and in its result.
func TestCallInTheClear(t *testing.T) {
	inBubble(t, oneLink(remote("hub", func(r *config.Remote) { r.TLS = "auto" })), func(s *site) {
		var asking []api.CallEvent
		s.net.host("192.0.2.1:366", func(c net.Conn) {
			smtp(c, "250-hub.example\r\n250 STARTTLS", func(line string) string {
				if line == "STARTTLS" {
					return "454 TLS not available"
				}
				asking = s.Calls()
				return "251 OK, no messages waiting"
			})
		})
		s.up()
		r := s.result(0, "")
		if !strings.Contains(r.Hint, "192.0.2.1 was spoken to without TLS, which failed") {
			t.Errorf("the hint is %q", r.Hint)
		}
		if len(asking) != 1 || !strings.Contains(asking[0].Waiting, "not encrypted") {
			t.Errorf("while it asks: %+v", asking)
		}
	})
}

//go:build !quick

package setup

import (
	"net"
	"net/textproto"
	"regexp"
	"testing"
)

// strangersRcpt is the reply to RCPT from outside of mynetworks.
func strangersRcpt(t *testing.T, address string) (code int) {
	t.Helper()
	conn, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 3)}}).DialContext(t.Context(), "tcp", "127.0.0.1:25")
	if err != nil {
		t.Fatal(err)
	}
	c := textproto.NewConn(conn)
	defer c.Close()
	for _, line := range []string{"", "EHLO client.example", "MAIL FROM:<s@client.example>", "RCPT TO:<" + address + ">"} {
		if line != "" {
			if err := c.PrintfLine("%s", line); err != nil {
				t.Fatal(err)
			}
		}
		if code, _, err = c.ReadResponse(0); err != nil {
			t.Fatal(err)
		}
	}
	return code
}

// openSession has a session up to DATA; the function that it returns ends the
// message and returns its queue id.
func openSession(t *testing.T, address string) (end func() (id string)) {
	t.Helper()
	c, err := textproto.Dial("tcp", "127.0.0.1:25")
	if err != nil {
		t.Fatal(err)
	}
	say := func(want int, format string, args ...any) string {
		t.Helper()
		if format != "" {
			if err := c.PrintfLine(format, args...); err != nil {
				t.Fatal(err)
			}
		}
		_, text, err := c.ReadResponse(want)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	say(220, "")
	say(250, "EHLO client.example")
	say(250, "MAIL FROM:<s@client.example>")
	say(250, "RCPT TO:<%s>", address)
	say(354, "DATA")
	return func() string {
		defer c.Close()
		m := regexp.MustCompile(`queued as ([0-9A-Za-z]+)`).FindStringSubmatch(say(250, "Subject: x\r\n\r\nlate\r\n."))
		if m == nil {
			t.Fatal("no queue id")
		}
		return m[1]
	}
}

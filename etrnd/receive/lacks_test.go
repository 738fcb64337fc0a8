package receive

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/etrnd/etrnd/internal/socket"
)

// A chunk is read and refused where the MTA has no CHUNKING: it would see commands
// in it.
func TestNoChunking(t *testing.T) {
	for _, hello := range []string{"EHLO hub.example.net\r\n", "HELO hub.example.net\r\n"} {
		m := newMTA(t)
		m.bare = true
		h := begin(t, t.Context(), Options{Dial: m.dial})
		h.expect("220")
		h.send(hello)
		h.expect("250")
		h.send("MAIL FROM:<a@x.example> SIZE=5 BODY=8BITMIME RET=FULL\r\nRCPT TO:<b@acme.example> NOTIFY=NEVER\r\nBDAT 6 LAST\r\nVRFY \nDATA\r\n")
		h.expect("250", "250", "502", "354")
		h.send("x\r\n.\r\nBDAT 6 LAST\r\nVRFY \nQUIT\r\n")
		h.expect("250", "503", "221")
		h.end(nil)
		if all := strings.Join(m.commands, "\n"); strings.Contains(all, "VRFY") || strings.Contains(all, "BDAT") || strings.Contains(all, "=") {
			t.Errorf("the MTA got %q", m.commands)
		}
		if len(m.messages) != 1 {
			t.Errorf("the MTA has taken %q", m.messages)
		}
	}
}

// A line that cannot be passed on keeps the mail with the provider, and what comes
// behind it goes on.
func TestUnreadableLines(t *testing.T) {
	m := newMTA(t)
	h := begin(t, t.Context(), Options{Dial: m.dial})
	h.expect("220")
	h.send(hello)
	h.expect("250")
	h.send("MAIL FROM:<a@x.example>\r\nRCPT TO:<\"a\tb\"@acme.example>\r\nRCPT TO:<" + strings.Repeat("x", maxLine) + "@acme.example>\r\nRCPT TO:<\xff@acme.example>\r\nRCPT TO:<b@acme.example>\nRCPT TO:b@acme.example\r\nRCPT TO:<a@\uff41cme.example>\r\nBDAT 3 LAST\r\nx\r\n")
	h.expect("250", "451", "451", "451", "451", "451", "250", "250")
	h.send("MAIL FROM:<\"a\x01\"@x.example>\r\nMAIL FROM:<a b@x.example>\r\nNO\tOP\r\nQUIT\r\n")
	h.expect("451", "451", "500", "221")
	h.end(nil)
	for _, c := range m.commands {
		if strings.HasPrefix(c, "RCPT") && c != "RCPT TO:<a@acme.example>" {
			t.Errorf("the MTA got %q", c)
		}
	}
}

// An MTA that says a word too much is not believed about that message.
func TestMTASurplus(t *testing.T) {
	m := newMTA(t)
	m.rcpt = func(line string) string {
		if strings.Contains(line, "twice") {
			return "250 2.1.5 Ok\r\n250 2.1.5 Ok"
		}
		return "250 2.1.5 Ok"
	}
	m.end = func() string { return "550 5.7.1 a virus" }
	h := begin(t, t.Context(), Options{Dial: m.dial})
	h.expect("220")
	h.send(hello)
	h.expect("250")
	h.send("MAIL FROM:<a@x.example>\r\nRCPT TO:<twice@acme.example>\r\nDATA\r\n")
	h.expect("250", "250", "451")
	h.send("RSET\r\nMAIL FROM:<a@x.example>\r\nRCPT TO:<twice@acme.example>\r\nBDAT 3 LAST\r\nx\r\n")
	h.expect("250", "250", "250", "451")
	h.send("RSET\r\nMAIL FROM:<a@x.example>\r\nRCPT TO:<once@acme.example>\r\nBDAT 3 LAST\r\nx\r\nQUIT\r\n")
	h.expect("250", "250", "250", "550", "221")
	h.end(nil)
	if c := h.srv.Counts(); c.Messages != 0 {
		t.Errorf("counts: %+v", c)
	}
}

// Nobody fills the log by what is refused, here or by the MTA.
func TestLogIsBounded(t *testing.T) {
	var log bytes.Buffer
	m := newMTA(t)
	m.rcpt = func(string) string { return "550 5.1.1 " + strings.Repeat("no ", 300) }
	h := begin(t, t.Context(), Options{Dial: m.dial, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	h.expect("220")
	h.send(hello)
	h.expect("250")
	for range 40 {
		h.send("MAIL FROM:<a@x.example>\r\n")
		h.expect("250")
		for range 25 {
			h.send("RCPT TO:<a@acme.example>\r\nRCPT TO:<a@" + strings.Repeat("other", 10) + ".example>\r\nMAIL FROM:<a b>\r\n")
			h.expect("550", "450", "451")
		}
		h.send("RSET\r\n")
		h.expect("250")
	}
	h.send("QUIT\r\n")
	h.expect("221")
	h.end(nil)
	if n := bytes.Count(log.Bytes(), []byte("\n")); n > 2*maxWarned+50 || n < maxWarned {
		t.Errorf("%d lines in the log", n)
	}
}

// The MTA can tell what comes this way from what comes from the machine, whatever
// name its address is given.
func TestDialer(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	for _, host := range []string{"127.0.0.1", "localhost"} {
		conn, err := Dialer(net.JoinHostPort(host, port))(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if got := conn.LocalAddr().(*net.TCPAddr).AddrPort().Addr().Unmap(); got != Source {
			t.Errorf("to %s from %v", host, got)
		}
		conn.Close()
	}
}

// far is a connection over a line with round trips of two seconds.
type far struct{ net.Conn }

func (far) SocketInfo() socket.Info { return socket.Info{RTT: 2 * time.Second} }

// A provider may be silent for as long as it is asked to be quick, and longer on a
// line of long round trips.
func TestSilence(t *testing.T) {
	for name, c := range map[string]struct {
		line func(net.Conn) net.Conn
		want time.Duration
	}{
		"near": {func(c net.Conn) net.Conn { return c }, time.Minute},
		"far":  {func(c net.Conn) net.Conn { return far{c} }, time.Minute + 40*time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dial := func(context.Context) (net.Conn, error) {
					ours, mta := net.Pipe()
					go func() {
						defer mta.Close()
						io.WriteString(mta, "220 mta.example ESMTP\r\n")
						io.Copy(io.Discard, mta)
					}()
					return ours, nil
				}
				provider, conn := net.Pipe()
				go io.Copy(io.Discard, provider)
				defer provider.Close()
				began := time.Now()
				err := New(Options{Dial: dial, Silence: time.Minute}).Serve(t.Context(), c.line(conn))
				// The greeting waits a moment for others to travel with.
				if d := time.Since(began).Truncate(time.Second); !errors.Is(err, ErrSilent) || d != c.want || !strings.HasSuffix(err.Error(), c.want.String()) {
					t.Errorf("%v after %v, want it after %v", err, d, c.want)
				}
			})
		})
	}
}

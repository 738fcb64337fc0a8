package deliver

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/etrnd/etrnd/internal/hang"
)

// site is the customer's SMTP server, small enough to be told to misbehave. It
// keeps to the letter where servers are known to be strict: a transaction whose
// recipients were all refused stays open, and a MAIL in it is refused.
type site struct {
	offers []string // in the reply to EHLO; nil: EHLO is refused
	greet  string   // default "220 site"
	// reply, if set, may answer a command in place of the site; "" leaves it
	// to the site. For the end of a message the command is "END".
	reply func(s *site, command string) string

	mu       sync.Mutex
	commands []string
	mails    []mail
	ahead    int // times that something was sent without waiting for a reply
	conn     net.Conn
	more     string // goes out behind the next reply
}

// extra has something said behind the reply to come.
func (s *site) extra(yes bool, text string) {
	if yes {
		s.more = text
	}
}

type mail struct {
	from  string
	rcpts []string
	body  string
}

func (s *site) got() []mail {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]mail(nil), s.mails...)
}

func (s *site) said() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.commands...)
}

// serve answers on a turned connection until it ends.
func (s *site) serve(conn net.Conn) error {
	defer conn.Close()
	s.mu.Lock()
	s.conn = conn
	s.mu.Unlock()
	in := bufio.NewReaderSize(conn, 256<<10)
	say := func(format string, args ...any) {
		text := fmt.Sprintf(format+"\r\n", args...)
		if s.more != "" && text[3] == ' ' {
			text, s.more = text+s.more+"\r\n", ""
		}
		io.WriteString(conn, text)
	}
	if s.greet == "" {
		s.greet = "220 site"
	}
	say("%s", s.greet)
	var open bool
	var m mail
	end := func() {
		switch {
		case len(m.rcpts) == 0:
			say("554 no valid recipients")
			return // open stays as it is
		}
		if r := s.answer("END"); r != "" {
			say("%s", r)
		} else {
			s.mu.Lock()
			s.mails = append(s.mails, m)
			s.mu.Unlock()
			say("250 2.0.0 queued")
		}
		open, m = false, mail{}
	}
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return err
		}
		line = strings.TrimSuffix(line, "\r\n")
		verb, arg, _ := strings.Cut(line, " ")
		var chunk []byte
		last := false
		if verb == "BDAT" {
			var n int
			var word string
			fmt.Sscanf(arg, "%d %s", &n, &word)
			last = word == "LAST"
			chunk = make([]byte, n)
			if _, err := io.ReadFull(in, chunk); err != nil {
				return err
			}
		}
		s.mu.Lock()
		s.commands = append(s.commands, line)
		if in.Buffered() > 0 {
			s.ahead++
		}
		s.mu.Unlock()
		if r := s.answer(line); r != "" {
			if r == "hang up" {
				return nil
			}
			say("%s", r)
			continue
		}
		switch verb {
		case "EHLO":
			if s.offers == nil {
				say("502 what?")
				break
			}
			lines := append([]string{"site"}, s.offers...)
			for i, l := range lines {
				sep := "-"
				if i == len(lines)-1 {
					sep = " "
				}
				say("250%s%s", sep, l)
			}
		case "HELO", "NOOP":
			say("250 site")
		case "RSET":
			open, m = false, mail{}
			say("250 reset")
		case "MAIL":
			if open {
				say("503 nested MAIL command")
				break
			}
			open, m = true, mail{from: strings.TrimPrefix(arg, "FROM:")}
			say("250 2.1.0 ok")
		case "RCPT":
			if !open {
				say("503 need MAIL command")
				break
			}
			if strings.Contains(arg, "refused") {
				say("550 5.1.1 no such user")
				break
			}
			if strings.Contains(arg, "later") {
				say("450-4.2.0 greylisted")
				say("450 4.2.0 come again")
				break
			}
			m.rcpts = append(m.rcpts, strings.TrimPrefix(arg, "TO:"))
			say("250 2.1.5 ok")
		case "DATA":
			if !open || len(m.rcpts) == 0 {
				say("554 no valid recipients")
				break
			}
			say("354 go ahead")
			var body bytes.Buffer
			for {
				line, err := in.ReadString('\n')
				if err != nil {
					return err
				}
				if line == ".\r\n" {
					break
				}
				body.WriteString(strings.TrimPrefix(line, "."))
			}
			m.body = body.String()
			end()
		case "BDAT":
			switch {
			case !open:
				say("503 need MAIL command")
			case len(m.rcpts) == 0:
				say("554 no valid recipients")
			default:
				m.body += string(chunk)
				if last {
					end()
				} else {
					say("250 2.0.0 %d bytes", len(chunk))
				}
			}
		case "QUIT":
			say("221 bye")
			return nil
		default:
			say("502 what?")
		}
	}
}

func (s *site) answer(command string) string {
	if s.reply == nil {
		return ""
	}
	return s.reply(s, command)
}

// tcp is a pair of connected TCP sockets.
func tcp(t testing.TB) (a, b net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if a, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if b, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

// until waits for a condition.
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := hang.Deadline(); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

//go:build !quick

package setup

import (
	"context"
	"fmt"
	"net/textproto"
	"strings"
	"testing"

	"github.com/etrnd/etrnd/internal/postfix"
	"github.com/etrnd/etrnd/internal/postfix/postfixtest"
	"github.com/etrnd/etrnd/internal/queue"
	"github.com/etrnd/etrnd/internal/testbed"
)

// Postfix converts no domain from one form to the other: mail is held whichever
// way its domain is written, and our queues say the same of it.
func TestBothFormsOfADomain(t *testing.T) {
	postfixtest.Inside(t, testbed.PostfixOptions{Main: map[string]string{"mynetworks": "192.0.2.0/24"}}, func(t *testing.T, ctx context.Context) {
		mainText, masterText := postfixtest.Read(t, mainCF), postfixtest.Read(t, masterCF)
		pf := postfix.New(postfix.Options{})
		var req Requirements
		q := queue.Queue{Name: "books"}
		for _, name := range []string{"bücher.example", ".bücher.example", "chef@лавка.example", "straße.example"} {
			p, err := queue.ParsePattern(name)
			if err != nil {
				t.Fatal(err)
			}
			q.Domains = append(q.Domains, p)
			req.Routes = append(req.Routes, Route{Pattern: p.String(), Deliver: "smtp:[müller.example]", Relay: true})
		}
		set, err := queue.NewSet([]queue.Queue{q})
		if err != nil {
			t.Fatal(err)
		}
		// Of an address alone the domain is the postmaster's to relay.
		postfixtest.Write(t, mainCF, mainText+"relay_domains = xn--80aa4av.example, лавка.example\n")
		apply(t, ctx, pf, req)
		for _, c := range []struct {
			recipient string
			held      bool
		}{
			{"x@xn--bcher-kva.example", true},
			{"x@XN--BCHER-KVA.example", true},
			{"x@bücher.example", true},
			{"x@BÜCHER.Example", true},
			{"x@bu\u0308cher.example", true}, // decomposed
			{"x@BU\u0308CHER.example", true},
			{"x@filiale.bücher.example", true},
			{"x@filiale.xn--bcher-kva.example", true},
			{"x@xn--strae-oqa.example", true},
			// Folded, it is a domain of its own: nobody's mail is taken for another.
			{"x@strasse.example", false},
		} {
			err := tryUTF8(c.recipient)
			if c.held != (err == nil) {
				t.Errorf("%s: %v", c.recipient, err)
			}
			if name, ok := set.Match(c.recipient); ok != c.held || ok && name != "books" {
				t.Errorf("%s: for us in %q, %v", c.recipient, name, ok)
			}
		}
		postfixtest.Settled(t, ctx, pf, "all of it to be held", func(queue postfixtest.Queue) bool {
			for _, m := range queue {
				if !postfixtest.Held(m, 1) {
					return false
				}
			}
			return len(queue) == 9
		})
		// The next hop is a name in the DNS.
		if text := postfixtest.Read(t, "/etc/postfix/etrnd/transport"); !strings.Contains(text, "transient:[xn--mller-kva.example]\n") || strings.Contains(text, "[müller") {
			t.Errorf("the routes: %s", text)
		}
		undo(t, ctx, pf)
		sameFiles(t, mainText+"relay_domains = xn--80aa4av.example, лавка.example\n", masterText)
	})
}

// tryUTF8 sends a message by SMTPUTF8 (RFC 6531).
func tryUTF8(to string) error {
	c, err := dialUTF8()
	if err != nil {
		return err
	}
	defer c.Close()
	for _, step := range []struct {
		line string
		code int
	}{
		{"EHLO client.example", 250}, {"MAIL FROM:<" + postfixtest.Sender + "> SMTPUTF8", 250}, {"RCPT TO:<" + to + ">", 250},
		{"DATA", 354}, {"Subject: test\r\n\r\ntext\r\n.", 250},
	} {
		id, err := c.Cmd("%s", step.line)
		if err != nil {
			return err
		}
		c.StartResponse(id)
		_, _, err = c.ReadResponse(step.code)
		c.EndResponse(id)
		if err != nil {
			return fmt.Errorf("%.20s: %w", step.line, err)
		}
	}
	return nil
}

func dialUTF8() (*textproto.Conn, error) {
	c, err := textproto.Dial("tcp", "127.0.0.1:25")
	if err != nil {
		return nil, err
	}
	_, _, err = c.ReadResponse(220)
	return c, err
}

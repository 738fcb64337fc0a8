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
		run(t, ctx, "postsuper", "-d", "ALL")
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

// A dropped domain is one, however it is written in the mail that is held for it
// and on the command line.
func TestDroppedInTwoSpellings(t *testing.T) {
	opts := testbed.PostfixOptions{Main: loops.Main, Files: map[string]string{"/etc/hosts": "127.0.0.1 localhost xn--bcher-kva.example\n"}}
	postfixtest.Inside(t, opts, func(t *testing.T, ctx context.Context) {
		const name = "xn--bcher-kva.example"
		pf := postfix.New(postfix.Options{})
		req := Requirements{Routes: []Route{{Pattern: name, Deliver: "smtp:[192.0.2.25]", Relay: true}}}
		for _, as := range []string{"bücher.example", "BÜCHER.Example", name, "bu\u0308cher.example"} {
			apply(t, ctx, pf, req)
			var ids []string
			ids = append(ids, postfixtest.Send(t, "a@"+name))
			if err := tryUTF8("b@bücher.example"); err != nil {
				t.Fatal(err)
			}
			postfixtest.Settled(t, ctx, pf, "held", func(q postfixtest.Queue) bool {
				ids = ids[:0]
				for id, m := range q {
					if !postfixtest.Held(m, 1) {
						return false
					}
					ids = append(ids, id)
				}
				return len(ids) == 2
			})
			said, _ := Check(ctx, pf, Requirements{})
			var held []string
			for _, f := range said {
				if strings.Contains(f.What, "held") || strings.Contains(f.What, "no queue is for") {
					held = append(held, f.What)
				}
			}
			if text := strings.Join(held, "\n"); len(held) != 2 || !strings.Contains(text, "2 messages: "+name+" (2 messages)") || !strings.Contains(text, "any more: "+name+". ") {
				t.Errorf("before the set-up it is said that\n%s", text)
			}
			pl := apply(t, ctx, pf, Requirements{})
			if got := keptPatterns(pl); len(got) != 1 || got[0] != name || pl.Kept[0].Messages != 2 {
				t.Errorf("kept are %+v", pl.Kept)
			}
			unmoved(t, ctx, pf, "dropped", ids...)
			// Nothing of it is said to go, and the daemon agrees.
			for _, unseen := range []bool{false, true} {
				pl, err := NewPlan(ctx, pf, Requirements{Unseen: unseen})
				if err != nil || !pl.Empty() || strings.Contains(strings.Join(pl.Warnings, "\n"), "nothing is held any more") {
					t.Errorf("applied, there is still something to do: %v, %q, %q", err, pl.Files(), pl.Warnings)
				}
			}
			pl, err := NewPlan(ctx, pf, Requirements{LetGo: []string{as}})
			if err == nil {
				err = pl.Apply(ctx)
			}
			if err != nil {
				t.Fatalf("let go as %s: %v", as, err)
			}
			if len(pl.Kept) != 0 || len(pl.Let) != 1 || pl.Let[0].Messages != 2 {
				t.Errorf("let go as %s: kept %+v, let go %+v", as, pl.Kept, pl.Let)
			}
			postfixtest.Settled(t, ctx, pf, "what was let go to be gone", func(q postfixtest.Queue) bool {
				for _, id := range ids {
					if _, there := q[id]; there {
						return false
					}
				}
				return true
			})
			run(t, ctx, "postsuper", "-d", "ALL")
		}
	})
}

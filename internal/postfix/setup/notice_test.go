//go:build !quick

package setup

import (
	"context"
	"errors"
	"fmt"
	"net/smtp"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/etrnd/etrnd/internal/postfix"
	"github.com/etrnd/etrnd/internal/postfix/postfixtest"
	"github.com/etrnd/etrnd/internal/testbed"
)

// ask has an SMTP dialogue with the host's Postfix up to a recipient, or up to
// ETRN, and returns the refusal.
func ask(recipient, etrn string) (err error) {
	c, err := smtp.Dial("127.0.0.1:25")
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.Hello("client.example"); err != nil {
		return err
	}
	if etrn != "" {
		id, err := c.Text.Cmd("ETRN %s", etrn)
		if err != nil {
			return err
		}
		c.Text.StartResponse(id)
		defer c.Text.EndResponse(id)
		_, _, err = c.Text.ReadResponse(250)
		return err
	}
	return errors.Join(c.Mail("sender@client.example"), c.Rcpt(recipient))
}

// A customer who comes is known to Postfix when the set-up ends, to all of its
// programs, without a reload and with main.cf as it was; not one of his
// messages that is taken meanwhile goes another way. When he goes, nothing
// more is taken for him.
func TestOneCustomer(t *testing.T) {
	const log = "/var/log/mail.log"
	postfixtest.Inside(t, testbed.PostfixOptions{Main: map[string]string{"mynetworks": "192.0.2.0/24", "smtpd_delay_reject": "yes"}}, func(t *testing.T, ctx context.Context) {
		pf := postfix.New(postfix.Options{})
		req := Requirements{Routes: slices.Clone(twoQueues.Routes)}
		apply(t, ctx, pf, req)
		// All that reads a table has been started with the old ones.
		postfixtest.Send(t, "x@acme.example")
		postfixtest.Settled(t, ctx, pf, "a held message", func(q postfixtest.Queue) bool {
			for _, m := range q {
				return len(q) == 1 && postfixtest.Held(m, 1)
			}
			return false
		})
		if err := ask("", "acme.example"); err != nil {
			t.Fatal(err)
		}
		if err := ask("x@new.example", ""); err == nil || !strings.Contains(err.Error(), "Relay access denied") {
			t.Fatalf("a stranger's mail for a stranger: %v", err)
		}
		mainText := postfixtest.Read(t, mainCF)
		reloads := strings.Count(postfixtest.Read(t, log), "reload -- version")

		// Somebody writes to him all the time.
		stop := make(chan struct{})
		var sending sync.WaitGroup
		var mu sync.Mutex
		taken := 0
		for range 3 {
			sending.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					if id, err := trySend("x@new.example"); err == nil && id != "" {
						mu.Lock()
						taken++
						mu.Unlock()
					}
				}
			})
		}
		more := req
		more.Routes = append(slices.Clone(req.Routes), Route{Pattern: "new.example", Deliver: "smtp:[127.0.0.1]:2502", Relay: true})
		// Whoever routes by the table of before must be gone when the first
		// program can take his mail.
		sending.Go(func() {
			const relay, dir = "/etc/postfix/etrnd/relay.db", "/etc/postfix/etrnd"
			was := inode(relay)
			for inode(relay) == was {
				select {
				case <-stop:
					t.Error("the table of what is taken has not changed")
					return
				default:
				}
			}
			if n, err := staleReaders("/proc", dir, routeTable); n != 0 || err != nil {
				t.Errorf("%d processes route by the old table (%v)", n, err)
			}
		})
		apply(t, ctx, pf, more)
		if err := testbed.Until(ctx, "his mail to be taken", func() (bool, error) {
			mu.Lock()
			defer mu.Unlock()
			return taken > 20, nil
		}); err != nil {
			t.Error(err)
		}
		close(stop)
		sending.Wait()
		if now := strings.Count(postfixtest.Read(t, log), "reload -- version"); now != reloads {
			t.Errorf("Postfix has been reloaded %d times", now-reloads)
		}
		if postfixtest.Read(t, mainCF) != mainText {
			t.Error("main.cf has changed")
		}
		queue := postfixtest.Settled(t, ctx, pf, "his mail to be held", func(q postfixtest.Queue) bool {
			held := 0
			for _, m := range q {
				if postfixtest.Held(m, 1) && m.Recipients[0].Address == "x@new.example" {
					held++
				}
			}
			return held == taken
		})
		if len(queue) != taken+1 {
			t.Errorf("%d messages are in the queue, and %d were taken", len(queue)-1, taken)
		}
		if text := postfixtest.Read(t, log); strings.Contains(text, "status=bounced") {
			t.Errorf("something has bounced:\n%s", text)
		}
		// flush(8) knows him too.
		if err := ask("", "new.example"); err != nil {
			t.Errorf("he asks for his mail: %v", err)
		}
		if err := pf.Release(ctx, []string{"new.example"}, nil); err != nil {
			t.Error(err)
		}

		// He goes: when the set-up ends, nothing more is taken for him.
		run(t, ctx, "postsuper", "-d", "ALL")
		apply(t, ctx, pf, req)
		if err := ask("x@new.example", ""); err == nil || !strings.Contains(err.Error(), "Relay access denied") {
			t.Errorf("he has gone, and his mail is taken: %v", err)
		}
		if n, err := staleReaders("/proc", "/etc/postfix/etrnd", ""); n != 0 || err != nil {
			t.Errorf("%d processes go by old tables (%v)", n, err)
		}
		for _, name := range []string{routeTable, flushTable, relayTable} {
			fi, err := os.Stat("/etc/postfix/etrnd/" + name + ".db")
			if err != nil || fi.Mode().Perm() != 0o644 {
				t.Errorf("the index of %s: %v, %v", name, fi, err)
			}
		}
	})
}

// trySend is postfixtest.Send for mail that may be refused.
func trySend(to string) (id string, err error) {
	c, err := smtp.Dial("127.0.0.1:25")
	if err != nil {
		return "", err
	}
	defer c.Close()
	if err := errors.Join(c.Hello("client.example"), c.Mail(postfixtest.Sender), c.Rcpt(to)); err != nil {
		return "", err
	}
	w, err := c.Data()
	if err != nil {
		return "", err
	}
	_, err = fmt.Fprint(w, "Subject: test\r\n\r\ntext\r\n")
	err = errors.Join(err, w.Close())
	_ = c.Quit() // whatever becomes of that, it has been taken
	return "taken", err
}

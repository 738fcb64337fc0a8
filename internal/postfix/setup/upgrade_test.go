//go:build !quick

package setup

import (
	"context"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/etrnd/etrnd/internal/postfix"
	"github.com/etrnd/etrnd/internal/postfix/conffile"
	"github.com/etrnd/etrnd/internal/postfix/postfixtest"
	"github.com/etrnd/etrnd/internal/testbed"
)

// formerly makes the files what a set-up made of them that kept domains in the
// lists of main.cf and routes in a text without an index.
func formerly(t *testing.T, mainText, masterText string) {
	t.Helper()
	r := &record{Version: recordVersion, Before: map[string]string{"main.cf": mainText, "master.cf": masterText}}
	main, master := conffile.File{Text: mainText}, conffile.File{Text: masterText}
	for _, e := range []struct {
		list, element string
		front         bool
	}{
		{"defer_transports", "transient", false}, {"transport_maps", "texthash:$config_directory/etrnd/transport", true},
		{"relay_domains", "acme.example", false}, {"relay_domains", "beta.example", false},
		{"fast_flush_domains", "acme.example", false}, {"fast_flush_domains", "beta.example", false}, {"fast_flush_domains", "acme", false},
	} {
		main.Add(e.list, e.element, e.front)
		i := slices.IndexFunc(r.Lists, func(l listRecord) bool { return l.Name == e.list })
		if i < 0 {
			i = len(r.Lists)
			r.Lists = append(r.Lists, listRecord{Name: e.list})
			if was := (&conffile.File{Text: mainText}); !was.Has(e.list) {
				none := ""
				r.Lists[i].Default = &none
			}
		}
		r.Lists[i].Elements = append(r.Lists[i].Elements, e.element)
	}
	service := heldService{name: "transient", program: "smtp"}.entry()
	master.Append(service)
	r.Entries = []string{service}
	r.After = map[string]string{"main.cf": sum(main.Text), "master.cf": sum(master.Text)}
	if err := os.MkdirAll("/etc/postfix/etrnd", 0o755); err != nil {
		t.Fatal(err)
	}
	postfixtest.Write(t, "/etc/postfix/etrnd/transport", "# of old\nacme.example                    transient:[127.0.0.1]:2501\nbeta.example                    transient:[127.0.0.1]:2502\n")
	postfixtest.Write(t, "/etc/postfix/etrnd/state.json", r.encode())
	postfixtest.Write(t, mainCF, main.Text)
	postfixtest.Write(t, masterCF, master.Text)
}

// What an older set-up has put into main.cf moves into tables while mail comes
// in: nothing of it is refused, and nothing goes another way. What the
// postmaster has written stays, and an undo gives him back what he had before
// the first set-up.
func TestUpgrade(t *testing.T) {
	postfixtest.Inside(t, testbed.PostfixOptions{}, func(t *testing.T, ctx context.Context) {
		plant(t)
		// Without its milters, which nobody runs here.
		before, after, _ := strings.Cut(strings.Replace(handmade, "mynetworks = 127.0.0.0/8", "mynetworks = 192.0.2.0/24", 1), "smtpd_milters =\n")
		_, after, _ = strings.Cut(after, "non_smtpd_milters = $smtpd_milters\n")
		// What is being delivered at a reload is left to the next run of the queue.
		mainText := before + after + "queue_run_delay = 1s\n"
		formerly(t, mainText, handmadeMaster)
		run(t, ctx, "postfix", "reload")
		pf := postfix.New(postfix.Options{})

		stop := make(chan struct{})
		var sending sync.WaitGroup
		var mu sync.Mutex
		taken, refused := 0, []error(nil)
		for range 2 {
			sending.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					_, err := trySend("x@acme.example")
					mu.Lock()
					switch {
					case err == nil:
						taken++
					case !strings.Contains(err.Error(), "connection refused") && !strings.Contains(err.Error(), "EOF") && !strings.Contains(err.Error(), "reset by peer"):
						refused = append(refused, err)
					}
					mu.Unlock()
				}
			})
		}
		more := func() {
			t.Helper()
			mu.Lock()
			was := taken
			mu.Unlock()
			if err := testbed.Until(ctx, "mail to be taken", func() (bool, error) {
				mu.Lock()
				defer mu.Unlock()
				return taken > was+5, nil
			}); err != nil {
				t.Error(err)
			}
		}
		more()
		req := Requirements{Routes: twoQueues.Routes, QueueNames: []string{"acme"}}
		apply(t, ctx, pf, req)
		more()
		close(stop)
		sending.Wait()
		for _, err := range refused[:min(len(refused), 3)] {
			t.Errorf("refused: %v", err)
		}
		postfixtest.Settled(t, ctx, pf, "all mail to be held", func(q postfixtest.Queue) bool {
			for _, m := range q {
				if !postfixtest.Held(m, 1) {
					return false
				}
			}
			return len(q) == taken
		})
		if text := postfixtest.Read(t, "/var/log/mail.log"); strings.Contains(text, "status=bounced") {
			t.Errorf("something has bounced:\n%s", text)
		}
		now := postfixtest.Read(t, mainCF)
		if strings.Contains(now, "acme.example") || strings.Contains(now, "texthash:$config_directory") || !strings.Contains(now, "partner.example,\n# the second one is new\n    other.example") {
			t.Errorf("main.cf is now\n%s", now)
		}
		run(t, ctx, "postsuper", "-d", "ALL")
		undo(t, ctx, pf)
		sameFiles(t, mainText, handmadeMaster)
		if left, err := os.ReadDir("/etc/postfix/etrnd"); err == nil {
			t.Errorf("left behind: %v", left)
		}
	})
}

// A set-up that is cut off between an index and its text, or before it has told
// Postfix, is finished by the next one, and can be undone.
func TestCutOff(t *testing.T) {
	postfixtest.Inside(t, testbed.PostfixOptions{}, func(t *testing.T, ctx context.Context) {
		mainText, masterText := postfixtest.Read(t, mainCF), postfixtest.Read(t, masterCF)
		pf := postfix.New(postfix.Options{})
		req := Requirements{Routes: slices.Clone(twoQueues.Routes)}
		apply(t, ctx, pf, req)
		more := req
		more.Routes = append(slices.Clone(req.Routes), Route{Pattern: "new.example", Deliver: "smtp:[127.0.0.1]:2502", Relay: true})
		const path = "/etc/postfix/etrnd/relay"
		was := postfixtest.Read(t, path)
		for _, crash := range []func(){
			func() { // the index is new, the text is old
				if err := os.Rename(path+".db", path+".was"); err != nil {
					t.Fatal(err)
				}
				postfixtest.Write(t, path, was+"new.example held\n")
				run(t, ctx, "postmap", "hash:"+path)
				postfixtest.Write(t, path, was)
				if err := os.Remove(path + ".was"); err != nil {
					t.Fatal(err)
				}
			},
			func() { // the text is new, the index is lost
				if err := os.Remove(path + ".db"); err != nil {
					t.Fatal(err)
				}
			},
			func() { // a directory for work is left
				if err := os.MkdirAll("/etc/postfix/etrnd/.new-123/x", 0o700); err != nil {
					t.Fatal(err)
				}
				postfixtest.Edit(t, "/etc/postfix/etrnd/state.json", `"version": 1,`, `"version": 1, "pending": true,`)
			},
		} {
			for _, want := range []Requirements{req, more} {
				crash()
				if ok, _ := inSync(t, ctx, pf, want); ok {
					t.Error("nothing is seen of it")
				}
				apply(t, ctx, pf, want)
				out := run(t, ctx, "postmap", "-s", "hash:"+path)
				if has := strings.Contains(out, "new.example"); has != (len(want.Routes) == len(more.Routes)) {
					t.Errorf("the index has %q", out)
				}
				was = postfixtest.Read(t, path)
				apply(t, ctx, pf, req)
				was = postfixtest.Read(t, path)
			}
		}
		if left, err := os.ReadDir("/etc/postfix/etrnd/.new-123"); err == nil {
			t.Errorf("left behind: %v", left)
		}
		undo(t, ctx, pf)
		sameFiles(t, mainText, masterText)
	})
}

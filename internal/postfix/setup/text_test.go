//go:build !quick

package setup

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/etrnd/etrnd/internal/postfix"
	"github.com/etrnd/etrnd/internal/postfix/postfixtest"
	"github.com/etrnd/etrnd/internal/testbed"
)

// A Postfix without a type of table that has an index takes texts, and is told
// of each change. When it has such a type one day, the tables move.
func TestTablesWithoutIndex(t *testing.T) {
	postfixtest.Inside(t, testbed.PostfixOptions{Main: map[string]string{"mynetworks": "192.0.2.0/24"}}, func(t *testing.T, ctx context.Context) {
		mainText, masterText := postfixtest.Read(t, mainCF), postfixtest.Read(t, masterCF)
		dir := t.TempDir()
		for _, name := range []string{"postmap", "postfix", "postqueue", "postsuper"} {
			if err := os.Symlink("/usr/sbin/"+name, filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		}
		script := "#!/bin/sh\ncase \" $* \" in *\" -m \"*) echo cidr; echo regexp; echo static; echo texthash; exit;; esac\nexec /usr/sbin/postconf \"$@\"\n"
		if err := os.WriteFile(filepath.Join(dir, "postconf"), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
		pf := postfix.New(postfix.Options{ConfigDir: "/etc/postfix", CommandDir: dir})
		req := Requirements{Routes: slices.Clone(twoQueues.Routes)}
		apply(t, ctx, pf, req)
		if got := setting(t, ctx, pf, "relay_domains"); !strings.Contains(got, "texthash:/etc/postfix/etrnd/relay") {
			t.Errorf("relay_domains = %s", got)
		}
		if err := ask("x@new.example", ""); err == nil {
			t.Error("a stranger's mail for a stranger is taken")
		}
		more := req
		more.Routes = append(slices.Clone(req.Routes), Route{Pattern: "new.example", Deliver: "smtp:[127.0.0.1]:2502", Relay: true})
		apply(t, ctx, pf, more)
		if err := testbed.Until(ctx, "mail for the new one to be taken", func() (bool, error) { return ask("x@new.example", "") == nil, nil }); err != nil {
			t.Error(err)
		}
		if err := ask("", "new.example"); err != nil {
			t.Error(err)
		}
		apply(t, ctx, postfix.New(postfix.Options{}), more)
		if got := setting(t, ctx, pf, "transport_maps"); got != "hash:/etc/postfix/etrnd/transport" {
			t.Errorf("transport_maps = %s", got)
		}
		if err := testbed.Until(ctx, "mail to be taken by way of the index", func() (bool, error) { return ask("x@new.example", "") == nil, nil }); err != nil {
			t.Error(err)
		}
		undo(t, ctx, pf)
		sameFiles(t, mainText, masterText)
	})
}

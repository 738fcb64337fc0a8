//go:build !quick

package scenario

import (
	"context"
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/etrnd/etrnd/etrnd/receive"
	"github.com/etrnd/etrnd/internal/testbed"
)

// filtered is pass by way of a site's etrnd.
func filtered(ctx context.Context, conn net.Conn, to *testbed.Host) error {
	s := receive.New(receive.Options{Hostname: "mail.acme.example", Domains: []string{"acme.example"}, Dial: func(ctx context.Context) (net.Conn, error) { return to.Dial(ctx, "tcp", "127.0.0.1:25") }})
	return s.Serve(ctx, conn)
}

// What a site's mail server lacks, and what a sender has written in an odd way,
// costs no mail: Postfix on the hub converts, and the rest crosses as it is.
func TestATRNLacks(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ discard string }{
		"everything":                {""},
		"no 8BITMIME":               {"8bitmime, smtputf8, dsn, etrn"},
		"SMTPUTF8, and no 8BITMIME": {"8bitmime, dsn, etrn"},
		"no extension":              {"8bitmime, dsn, etrn, pipelining, chunking, size, smtputf8, enhancedstatuscodes"},
	} {
		for _, gate := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, gate %v", name, gate), func(t *testing.T) {
				t.Parallel()
				ctx, w := worldATRN(t, Options{})
				must(t, w.HubMTA.Set(ctx, map[string]string{"cleanup_replace_stray_cr_lf": "no", "smtpd_forbid_bare_newline": "no"}))
				must(t, w.HubMTA.Reload(ctx))
				must(t, w.SiteMTA.Set(ctx, map[string]string{"smtpd_discard_ehlo_keywords": c.discard, "recipient_delimiter": "+"}))
				must(t, w.SiteMTA.Reload(ctx))
				body := func(id string) []string {
					return []string{"DATA", "Message-ID: <" + id + ">", "Subject: x", "MIME-Version: 1.0", "Content-Type: text/plain; charset=utf-8", "Content-Transfer-Encoding: 8bit", ""}
				}
				var ids []string
				give := func(id, mail, rcpt, text string) {
					ids = append(ids, id)
					hand(ctx, t, w.Online, append(append([]string{"MAIL FROM:" + mail, "RCPT TO:" + rcpt}, body(id)...), text, ".")...)
				}
				give("eight@x", "<s@online.example> BODY=8BITMIME", "<a@acme.example>", "na\u00efve")
				give("eight-unsaid@x", "<s@online.example>", "<a@acme.example>", "na\u00efve")
				give("envid@x", "<s@online.example> ENVID=<abc>", "<a@acme.example>", "x")
				give("quoted@x", "<s@online.example>", `<"john doe"@acme.example> NOTIFY=FAILURE ORCPT=rfc822;+22john+20doe+22@old.example`, "x")
				give("x400@x", "<s@online.example>", "<a@acme.example> ORCPT=x400;/S+3Ddoe/C+3Dde/", "x")
				give("tab@x", "<s@online.example>", "<a@acme.example> ORCPT=rfc822;a+09b@acme.example", "x")
				for _, n := range []int{1, 997, 2046, 2047, 2048, 4095} {
					give(fmt.Sprintf("cr-%d@x", n), "<s@online.example>", "<a@acme.example>", strings.Repeat("y", n)+"\r")
				}
				must(t, w.Hub.WaitQueue(ctx, "acme", len(ids)))
				conn := turned(ctx, t, w.SiteHost, "acme")
				if gate {
					if err := filtered(ctx, conn, w.SiteHost); err != nil {
						t.Error(err)
					}
				} else {
					pass(ctx, conn, w.SiteHost, "127.0.0.1:25")
				}
				if n := delivered(ctx, t, w.SiteHost, ids); n != 0 {
					t.Errorf("%d duplicates", n)
				}
				// What is not ASCII was converted for a site that does not say that it takes
				// it. (Postfix takes SMTPUTF8 for that, as RFC 6531 has it.)
				all, err := w.SiteHost.Delivered()
				must(t, err)
				for _, m := range all {
					text, err := w.SiteHost.ReadFile(m.Path)
					must(t, err)
					clean := !strings.ContainsFunc(string(text), func(r rune) bool { return r >= 0x80 })
					if strings.HasPrefix(m.MessageID, "eight") && clean != strings.Contains(c.discard, "smtputf8") {
						t.Errorf("%s arrived as %q", m.MessageID, text)
					}
				}
				must(t, w.HubHost.WaitQueue(ctx, 0)) // nothing is kept, and nothing on its way back
				if back, err := w.Online.Delivered(); err != nil || len(back) != 0 {
					t.Errorf("back at the sender: %+v, %v", back, err)
				}
			})
		}
	}
}

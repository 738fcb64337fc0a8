package setup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/etrnd/etrnd/internal/account"
	"github.com/etrnd/etrnd/internal/mta"
	"github.com/etrnd/etrnd/internal/postfix"
)

// Finding is the outcome of one check.
type Finding struct {
	OK   bool
	What string // what was looked at, and what is wrong with it
	Hint string // how to mend it; empty if OK
}

// findings are collected one by one.
type findings []Finding

func (l *findings) good(what string)      { *l = append(*l, Finding{OK: true, What: what}) }
func (l *findings) bad(what, hint string) { *l = append(*l, Finding{What: what, Hint: hint}) }

// Check looks at everything that holding and releasing depend on: the commands,
// the queue, the set-up, the sockets. As root it tries what the daemons and
// Postfix do as their users, with the rights that they have and root's left out;
// any other user sees what he can. It changes nothing. The mail queue, which may be
// large, is listed once, and what it has returned: nil if that could not be done.
func Check(ctx context.Context, pf *postfix.Instance, req Requirements) ([]Finding, []mta.Message) {
	var found findings
	v, err := pf.Settings(ctx, "mail_version", "mail_owner", "setgid_group")
	if err != nil {
		found.bad(err.Error(), "install Postfix, or set config-dir in [mta] to where its main.cf is")
		return found, nil
	}
	if what := "Postfix " + v["mail_version"]; sinceRelease(v["mail_version"], 3, 4) {
		found.good(what)
	} else {
		found.bad(what, "Postfix 3.4 or later is needed")
	}
	list, ok := found.queue(ctx, pf, v["setgid_group"])
	if ok {
		req.listed = func() []mta.Message { return slices.Clone(list) }
	}
	found.files(ctx, pf, req)
	found.hooks("/")
	found.sockets(ctx, req, v["mail_owner"])
	return found, list
}

// queue looks whether the mail queue can be listed. For root postqueue reads it
// itself when Postfix is down; for etrnd it does not.
func (l *findings) queue(ctx context.Context, pf *postfix.Instance, group string) (list []mta.Message, ok bool) {
	if os.Geteuid() == 0 {
		if etrnd, err := account.Daemon(); err == nil {
			pf = pf.As(etrnd.Credential())
		}
	}
	list, err := mta.All(ctx, pf)
	if err == nil {
		l.good(fmt.Sprintf("the mail queue can be listed (%s)", nOf(len(list), "message")))
		return list, true
	}
	hint := "see what \"postqueue -j\" says as this user"
	switch {
	case errors.Is(err, mta.ErrPermission):
		hint = "run the daemon with the supplementary group " + group
	case errors.Is(err, mta.ErrDown):
		hint = "run: systemctl start postfix"
	}
	l.bad(err.Error(), hint)
	return nil, false
}

// files looks whether Postfix is set up.
func (l *findings) files(ctx context.Context, pf *postfix.Instance, req Requirements) {
	pl, err := NewPlan(ctx, pf, req)
	if err != nil {
		l.bad(fmt.Sprintf("the set-up of Postfix: %v", err), "mend this, then run \"etrnctl setup postfix\"")
		return
	}
	if pl.Empty() {
		l.good("Postfix is set up for this configuration")
	} else {
		what := "Postfix is not set up for this configuration"
		if files := pl.Files(); len(files) > 0 {
			what += " (" + strings.Join(files, ", ") + ")"
		}
		l.bad(what, "run \"etrnctl setup postfix\"")
	}
	for _, text := range pl.Warnings {
		hint := "see etrnctl(8), setup postfix"
		if strings.Contains(text, "etrnctl(8)") {
			hint = ""
		}
		l.bad(text, hint)
	}
}

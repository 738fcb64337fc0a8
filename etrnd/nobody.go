package etrnd

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/etrnd/etrnd/etrnd/hold"
	"github.com/etrnd/etrnd/internal/api"
	"github.com/etrnd/etrnd/internal/config"
	"github.com/etrnd/etrnd/internal/postfix/setup"
	"github.com/etrnd/etrnd/internal/queue"
)

const (
	// nobodyShown are the domains in a status, and in the answer to a reload.
	nobodyShown = 10
	// nobodyListed are those that etrnctl queues --nobody can show.
	nobodyListed = 10000
	// sortedWait is how long a reload waits to see what its queues leave.
	sortedWait = 10 * time.Second
)

// nobody is what is held for domains in no queue.
func (d *Daemon) nobody(ctx context.Context, max int) api.Nobody {
	n := d.hold.Nobody(max)
	list := api.Nobody{Messages: n.Messages, Bytes: n.Bytes, Oldest: at(n.Oldest), OnHold: n.OnHold, Domains: []api.NobodyDomain{}, More: n.More}
	if n.Messages == 0 {
		return list
	}
	lifetime, err := d.mta.Lifetime(ctx)
	if err != nil {
		d.log.Warn("cannot ask the MTA how long it keeps mail", "error", err)
	}
	expires := func(oldest time.Time) *time.Time {
		if lifetime <= 0 {
			return nil
		}
		return at(oldest.Add(lifetime))
	}
	list.Expires = expires(n.Oldest)
	for _, dom := range n.Domains {
		list.Domains = append(list.Domains, api.NobodyDomain{Domain: dom.Domain, Messages: dom.Messages, Bytes: dom.Bytes, Oldest: at(dom.Oldest), Expires: expires(dom.Oldest)})
	}
	return list
}

// heldForNobody says it in a sentence; empty if there is none.
func heldForNobody(n api.Nobody) string {
	if n.Messages == 0 {
		return ""
	}
	var domains []string
	for _, d := range n.Domains {
		domains = append(domains, fmt.Sprintf("%s (%d)", d.Domain, d.Messages))
	}
	if n.More > 0 {
		domains = append(domains, fmt.Sprintf("%d other domains", n.More))
	}
	text := fmt.Sprintf("mail is held for nobody, %d messages for domains in no queue: %s. It stays held", n.Messages, strings.Join(domains, ", "))
	if n.Expires != nil {
		text += fmt.Sprintf(", and the MTA returns the oldest to its sender at %s", n.Expires.UTC().Format("2006-01-02 15:04 MST"))
	}
	return text + "; put the domain into a queue, or see HELD FOR NOBODY in etrnctl(8)"
}

// leftByReload tells what the queues in force have left without one: patterns
// that are gone, and mail. It waits until that is known, but not for long.
func (d *Daemon) leftByReload(ctx context.Context, cfg *config.Config, gone []queue.Pattern) (said []string) {
	ctx, cancel := context.WithTimeout(ctx, sortedWait)
	defer cancel()
	if len(gone) > 0 {
		f, current := d.setup.found(ctx, cfg)
		said = append(said, fmt.Sprintf("no queue is for %s any more; %s takes no new mail for it unless its other settings say so", some(gone), since(f, current)))
	}
	if !d.hold.Sorted(ctx) {
		return append(said, "the MTA's queue could not be listed in time, so it is not known whether mail is held for a domain that is in no queue any more: see etrnctl queues")
	}
	if text := heldForNobody(d.nobody(ctx, nobodyShown)); text != "" {
		said = append(said, text)
	}
	return said
}

// nobodys finds a name that was asked for, in any spelling, among the domains for
// which mail is held for nobody.
func nobodys(name string, n hold.Nobody) (domain string, ok bool) {
	domain, err := queue.Domain(strings.TrimPrefix(name, "@"))
	return domain, err == nil && slices.ContainsFunc(n.Domains, func(d hold.NobodyDomain) bool { return d.Domain == domain })
}

// since says from when on the MTA goes by the queues of a configuration, by what
// is known of how it is set up.
func since(f *setUpFound, current bool) string {
	switch {
	case f == nil || f.err != nil || !current:
		return "once the MTA is set up for this configuration, which etrnctl check tells, it"
	case f.ok:
		return "the MTA, which is set up for that already,"
	}
	return "from \"etrnctl setup postfix --apply\" on, the MTA"
}

func some(list []queue.Pattern) string {
	names := patterns(list)
	if len(names) <= nobodyShown {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:nobodyShown], ", "), len(names)-nobodyShown)
}

// routed tells for which domains the MTA holds mail on our account, as it is
// set up now. When that cannot be read, for every one for which it does: better
// too much is seen than too little.
func routed(router *setup.Router, log *slog.Logger) func(domain string) (ours, surely bool) {
	ctx, cancel := context.WithTimeout(context.Background(), localTimeout)
	defer cancel()
	is, err := router.Routed(ctx)
	if err != nil {
		log.Warn("cannot read how the MTA is set up, so all that it defers and that is in no queue counts as held for nobody", "error", err)
		return func(string) (bool, bool) { return true, false }
	}
	return is
}

package call

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/etrnd/etrnd/internal/api"
	"github.com/etrnd/etrnd/internal/esmtp"
)

// shutTime bounds the question whether the local MTA takes mail for the names that
// are to be asked for.
const shutTime = 5 * time.Second

// shut takes out of names those of which the local MTA would refuse the mail that
// the remote brings. Where it refuses for good, asking would have that mail returned
// to its senders. Whose mail comes by "@domain" and "#queue" nobody here knows; but
// one by which a domain comes that is asked for by its own name, too, brings the mail
// of that.
func (cl *call) shut(ctx context.Context, names []string) (open, shut []string) {
	ctx, cancel := context.WithTimeout(ctx, shutTime)
	defer cancel()
	from := cl.senders.networks()
	refused := map[string]bool{}
	for _, name := range names {
		refused[name] = cl.refused(ctx, name, from)
	}
	for _, name := range names {
		brings := strings.HasPrefix(name, "@") && slices.ContainsFunc(names, func(n string) bool { return refused[n] && asksFor(name, n) })
		if refused[name] || brings {
			shut = append(shut, name)
		} else {
			open = append(open, name)
		}
	}
	return open, shut
}

func (cl *call) refused(ctx context.Context, name string, from []netip.Prefix) bool {
	if strings.HasPrefix(name, "@") || strings.HasPrefix(name, "#") {
		return false
	}
	// In whichever form the remote has it: both are of the same domain.
	return !slices.ContainsFunc(esmtp.Spellings(name), func(domain string) bool {
		refuses, err := cl.caller.refuses(ctx, domain, from)
		if err != nil {
			cl.log.Warn("cannot ask the MTA whether it takes mail for a name that is to be asked for", "name", name, "error", err)
		}
		return err != nil || !refuses
	})
}

// shutError is why nothing is asked for: the local MTA takes mail for none of the
// names.
type shutError struct{ error }

func shutOf(names []string) shutError {
	// A name for a domain and those below it is among them for the sake of another.
	names = slices.DeleteFunc(slices.Clone(names), func(n string) bool { return strings.HasPrefix(n, "@") })
	return shutError{fmt.Errorf("the local mail server refuses mail for %s: %s neither its own nor among those that it relays for", strings.Join(names, ", "), isAre(names))}
}

func isAre(names []string) string {
	if len(names) == 1 {
		return "the domain is"
	}
	return "the domains are"
}

const shutHint = "list it with those that the mail server takes mail for (mydestination, virtual domains, relay_domains), or take it out of request; etrnctl check finds it, too"

// unasked is the conclusion when some names were not asked for.
func (q *question) unasked() conclusion {
	if len(q.shut) == 0 {
		return conclusion{}
	}
	return conclusion{api.ExitUnavailable, shutOf(q.shut).Error(), shutHint + "; it was not asked for"}
}

package setup

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/etrnd/etrnd/internal/mta"
	"github.com/etrnd/etrnd/internal/postfix"
)

// Held says what becomes of mail whose queue goes.
type Held string

// What becomes of it.
const (
	// HeldKeep keeps it held, for nobody. It is the default.
	HeldKeep Held = "keep"
	// HeldOnHold puts the messages on hold (postsuper -h) and takes the routes
	// out.
	HeldOnHold Held = "on-hold"
	// HeldDeliver lets it go to where Postfix's other settings send it.
	HeldDeliver Held = "deliver"
)

// nobody is the Deliver of a route that leads nowhere.
const nobody = "nobody"

// nobodyService is what its transport is called, after that of held mail.
const nobodyService = "-nobody"

// leavings are what a set-up leaves without a queue.
type leavings struct {
	kept []Kept
	// gone are keys of the table in force that are to go and that Postfix still
	// takes mail for; "*" stands for default_transport.
	gone []string
	// unneeded are the keys of routes to nobody that have served.
	unneeded []string
	let      []Kept // what is let go
	routes   []Route
	lifetime time.Duration // 0: not known
}

// retain finds out what has to stay routed beside the queues of req: what
// Postfix has in its queue for patterns that go, and in passing the patterns
// themselves.
func retain(ctx context.Context, pf *postfix.Instance, req Requirements, env *environment) (*leavings, error) {
	l := &leavings{}
	old := env.routing()
	if len(old.keys) == 0 && !old.rest {
		return l, unknown(req.LetGo, nil)
	}
	scratch := newDerivation(req, env)
	if _, err := scratch.resolveRoutes(); err != nil {
		return l, nil // derive says so
	}
	next := &routing{keys: map[string]string{}, rest: scratch.fallback != "", delimiters: old.delimiters, parents: old.parents}
	for _, r := range scratch.routes {
		next.keys[folded(r.pattern)] = r.hop
	}
	// Each once, whatever its spellings are.
	nowhere := map[string]bool{}
	for _, key := range old.loses(next) {
		name := oneName(key)
		was, known := nowhere[name]
		nowhere[name] = leadsNowhere(old.keys[key]) && (was || !known)
	}
	lost := slices.Sorted(maps.Keys(nowhere))
	if len(lost) == 0 {
		return l, unknown(req.LetGo, nil)
	}
	for _, key := range lost {
		if !nowhere[key] {
			l.gone = append(l.gone, key)
		}
	}
	if req.Unseen {
		for _, key := range lost {
			if nowhere[key] {
				l.routes = append(l.routes, Route{Pattern: key, Deliver: nobody})
			}
		}
		return l, nil
	}
	kept, err := inQueue(ctx, pf, req, old, next, env)
	if err != nil {
		return nil, err
	}
	l.lifetime, _ = pf.Lifetime(ctx) // only shown
	l.part(kept, lost, nowhere, req)
	if req.passing {
		return l, nil
	}
	return l, unknown(req.LetGo, l.let)
}

// inQueue is what Postfix has for what goes.
func inQueue(ctx context.Context, pf *postfix.Instance, req Requirements, old, next *routing, env *environment) ([]Kept, error) {
	var list []mta.Message
	var err error
	if req.listed != nil {
		list = req.listed()
	} else {
		list, err = mta.All(ctx, pf)
	}
	if err == nil {
		err = pf.ReadMaildrop(ctx, list)
	}
	if err != nil {
		return nil, fmt.Errorf("domains go, and what Postfix holds for them is not known: %w", err)
	}
	if old.rest || next.rest {
		local, err := localsOf(ctx, env, list)
		if err != nil {
			return nil, err
		}
		old.local = func(domain string) bool { return local[domain] }
		next.local = old.local
	}
	kept, odd := keep(list, old, next)
	if len(odd) > 0 {
		return nil, fmt.Errorf("no route can be made for %d recipients that mail is held for, such as %q: put that mail on hold or delete it (postsuper -h, -d), then try again", len(odd), odd[0])
	}
	return kept, nil
}

// localsOf are the domains of recipients that Postfix delivers itself.
func localsOf(ctx context.Context, env *environment, list []mta.Message) (map[string]bool, error) {
	domains := map[string]bool{}
	for _, m := range list {
		for _, r := range m.Recipients {
			if i := strings.LastIndexByte(r.Address, '@'); i >= 0 {
				domains[folded(r.Address[i+1:])] = true
			}
		}
	}
	return env.locals(ctx, slices.Sorted(maps.Keys(domains)))
}

// part sorts what is kept from what is let go, and makes the routes. Of what is
// lost nowhere tells whether its route leads there.
func (l *leavings) part(kept []Kept, lost []string, nowhere map[string]bool, req Requirements) {
	stay := map[string]bool{}
	for _, k := range kept {
		if req.lets(k.Pattern) {
			l.let = append(l.let, k)
			continue
		}
		if req.Held == HeldOnHold && k.OnHold == k.Messages {
			continue // it is there, and there it stays
		}
		l.kept = append(l.kept, k)
		if req.Held == HeldOnHold && !req.passing && !req.placed {
			continue // it is put there before the route goes
		}
		stay[k.Pattern] = true
	}
	if req.passing {
		for _, key := range lost {
			stay[key] = stay[key] || key != "*"
		}
	}
	for _, key := range lost {
		if nowhere[key] && !stay[key] && !req.lets(key) {
			if req.lingering {
				stay[key] = true
				continue
			}
			l.unneeded = append(l.unneeded, key)
		}
	}
	delete(stay, "*")
	for _, key := range slices.Sorted(maps.Keys(stay)) {
		if stay[key] {
			l.routes = append(l.routes, Route{Pattern: key, Deliver: nobody})
		}
	}
}

// lets reports whether an operator has said that mail with this key may go.
func (req *Requirements) lets(key string) bool {
	return !req.passing && (req.Held == HeldDeliver || slices.ContainsFunc(req.LetGo, func(name string) bool { return means(name, key) }))
}

// means reports whether a name that is let go means a key: the key itself, or
// the domain of an address, in any spelling.
func means(name, key string) bool {
	name, key = oneName(folded(name)), oneName(key)
	return strings.EqualFold(name, key) || strings.EqualFold(name, key[strings.LastIndexByte(key, '@')+1:])
}

// unknown reports what is to be let go and is not held for nobody.
func unknown(names []string, let []Kept) error {
	for _, name := range names {
		if !slices.ContainsFunc(let, func(k Kept) bool { return means(name, k.Pattern) }) {
			return fmt.Errorf("%w for %q", ErrNotKept, name)
		}
	}
	return nil
}

// ErrNotKept says that there is nothing to let go.
var ErrNotKept = errors.New("no mail is held for nobody")

func leadsNowhere(hop string) bool {
	service, next, _ := strings.Cut(hop, ":")
	return strings.HasSuffix(service, nobodyService) && next == "unix:"+postfix.NobodySocket
}

// routing is what is routed to transports of ours by the files as they are.
func (env *environment) routing() *routing {
	r := &routing{keys: map[string]string{}, delimiters: env.settings["recipient_delimiter"], local: func(string) bool { return false }}
	r.parents = slices.Contains(env.list("parent_domain_matches_subdomains"), "transport_maps")
	keys, rest := env.routes()
	r.rest = rest
	if slices.ContainsFunc(env.list("transport_maps"), func(element string) bool { return ourTable(env.dir, element) }) {
		r.keys = keys // they are in force
	}
	return r
}

// transport is that of held mail as the files have it, or empty.
func (env *environment) transport() string {
	names := env.old.list("defer_transports").Elements
	if len(names) == 0 {
		return ""
	}
	name, _, _ := strings.Cut(names[0], toService) // what is pushed with a login
	for _, suffix := range []string{"-lmtp", "-turn", nobodyService} {
		name = strings.TrimSuffix(name, suffix)
	}
	return name
}

// warn tells what the set-up leaves without a queue.
func (l *leavings) warn(w *warnings, req Requirements) {
	if len(l.gone) > 0 && !req.Unseen {
		w.warn("no queue is for these any more: %s. With this set-up in place new mail for them is no longer taken, unless Postfix's other settings say so", some(l.gone, 10))
	}
	if n := sumOf(l.kept); n > 0 {
		text := ""
		if oldest := oldestOf(l.kept); l.lifetime > 0 && !oldest.IsZero() && req.Held != HeldOnHold {
			text = fmt.Sprintf("; Postfix returns the oldest to its sender at %s (maximal_queue_lifetime)", oldest.Add(l.lifetime).UTC().Format("2006-01-02 15:04 MST"))
		}
		stays := "It stays held, for nobody, as does what Postfix may still take for it, until you say where it goes"
		if req.Held == HeldOnHold {
			stays = "It is put on hold (postsuper -h), with all other recipients of these messages"
		}
		w.warn("mail is held that no queue is for, %s: %s. %s (see HELD FOR NOBODY in etrnctl(8))%s", nOf(n, "message"), named(l.kept, 10), stays, text)
	}
	if len(l.let) > 0 {
		w.warn("let go, to where Postfix's other settings send it, is mail for %s", named(l.let, 10))
	}
	if len(l.unneeded) > 0 {
		w.warn("nothing is held any more for %s: the route that kept it goes with the next --apply or --undo", some(l.unneeded, 10))
	}
}

func oldestOf(kept []Kept) (t time.Time) {
	for _, k := range kept {
		if t.IsZero() || k.Oldest.Before(t) {
			t = k.Oldest
		}
	}
	return t
}

func some(names []string, max int) string {
	if len(names) <= max {
		return strings.Join(names, ", ")
	}
	return strings.Join(names[:max], ", ") + fmt.Sprintf(" and %d more", len(names)-max)
}

func nOf(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// idsOf are the messages of kept mail, each once.
func idsOf(kept []Kept) []string {
	ids := map[string]bool{}
	for _, k := range kept {
		for _, id := range k.ids {
			ids[id] = true
		}
	}
	return slices.Sorted(maps.Keys(ids))
}

// Left says in a line for each domain what is held for nobody; empty: nothing.
func (pl *Plan) Left() string {
	const most = 20
	var lines []string
	for i, k := range pl.Kept {
		if i == most {
			lines = append(lines, fmt.Sprintf("  and %s", nOf(len(pl.Kept)-i, "other domain")))
			break
		}
		lines = append(lines, fmt.Sprintf("  %-31s %s", k.Pattern, nOf(k.Messages, "message")))
	}
	return strings.Join(lines, "\n")
}

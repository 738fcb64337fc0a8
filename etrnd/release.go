package etrnd

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/etrnd/etrnd/etrnd/hold"
	"github.com/etrnd/etrnd/internal/api"
	"github.com/etrnd/etrnd/internal/etrn"
	"github.com/etrnd/etrnd/internal/foreign"
	"github.com/etrnd/etrnd/internal/queue"
)

// lookBefore bounds the wait for a listing before a release says that there is
// nothing.
const lookBefore = 5 * time.Second

// maxNamed is how many queues a hint names.
const maxNamed = 20

// Release lets go what an operator names: a queue, or what a site may ask for.
func (b backend) Release(ctx context.Context, name string) ([]api.Released, error) {
	set := b.d.hold.Queues()
	sels := set.Resolve("#" + name)
	byName := sels != nil
	if !byName {
		sels = set.Resolve(name)
	}
	unknown := api.Errorf(api.ExitUsage, "queues of the configuration: "+named(set), "no queue goes by the name %s", foreign.Quote(name))
	if sels == nil {
		if domain, ok := nobodys(name, b.d.hold.Nobody(nobodyListed)); ok {
			return nil, api.Errorf(api.ExitUsage, "put the domain into a queue, or let its mail go: etrnctl setup postfix --let-go "+domain+" --apply", "mail for %s is held for nobody: no queue has the domain", foreign.Quote(domain))
		}
		return nil, unknown
	}
	if err := b.d.hold.Up(ctx); err != nil {
		return nil, api.Errorf(api.ExitTempFail, "start Postfix, then release again", "nothing released: %v", err)
	}
	if err := b.away(sels); err != nil {
		return nil, err
	}
	list, some := b.release(sels)
	if some {
		return list, nil
	}
	look, cancel := context.WithTimeout(ctx, lookBefore)
	defer cancel()
	b.d.hold.Look(look)
	if list, some = b.release(sels); some || byName || strings.HasPrefix(name, "#") || !onlyByAny(set, sels) {
		return list, nil
	}
	// A queue of "*" takes any name for a domain, a misspelt one too.
	if etrn.CheckNode(strings.TrimPrefix(name, "@")) != nil {
		return nil, unknown
	}
	for i := range list {
		if list[i].OnHold > 0 {
			continue
		}
		list[i].Note = fmt.Sprintf("no queue goes by the name %s, and nothing is held for such a domain; queues: %s", foreign.Quote(name), named(set))
	}
	return list, nil
}

// away is why nothing goes at all: the queues are delivered over connections that
// their sites open, and no site is connected. Mail that was tried all the same
// would only fail.
func (b backend) away(sels []queue.Selection) error {
	var name string
	for _, sel := range sels {
		q, ok := b.d.hold.Queues().ByName(sel.Queue)
		st, _ := b.d.hold.State(sel.Queue)
		if !ok || !q.Deliver.Turn || st.Pinned {
			return nil
		}
		name = q.Name
	}
	return api.Errorf(api.ExitTempFail, "it goes when the site connects and sends ATRN; there is nothing to do here", "nothing released: the site of queue %s is not connected", foreign.Quote(name))
}

// release reports also whether there is anything to go, or under way.
func (b backend) release(sels []queue.Selection) (list []api.Released, some bool) {
	for _, sel := range sels {
		st := b.d.hold.Release(sel)
		list = append(list, released(sel.Queue, st))
		some = some || st.Messages+st.UnderWay > 0
	}
	return list, some
}

func released(name string, st hold.Started) api.Released {
	r := api.Released{Queue: name, Messages: st.Messages, Bytes: st.Bytes, OnHold: st.OnHold}
	switch {
	case st.Messages > 0:
	case st.UnderWay > 0:
		r.Note = fmt.Sprintf("%d under way already", st.UnderWay)
	case st.OnHold > 0:
		r.Note = fmt.Sprintf("%d on hold: an administrator has put them there (postsuper -h), and postsuper -H takes them off", st.OnHold)
	}
	return r
}

// onlyByAny reports whether nothing but "*" makes the selections what a name
// stands for.
func onlyByAny(set *queue.Set, sels []queue.Selection) bool {
	for _, sel := range sels {
		q, ok := set.ByName(sel.Queue)
		if !ok {
			continue
		}
		for _, p := range q.Domains {
			if !p.Any() && p.Touches(sel.Domain, sel.Below) {
				return false
			}
		}
	}
	return true
}

// named are the queues of the configuration, the first of many.
func named(set *queue.Set) string {
	var names []string
	for _, q := range set.Queues() {
		if len(names) == maxNamed {
			names = append(names, fmt.Sprintf("and %d more", len(set.Queues())-maxNamed))
			break
		}
		names = append(names, q.Name)
	}
	if names == nil {
		return "none"
	}
	return strings.Join(names, ", ")
}

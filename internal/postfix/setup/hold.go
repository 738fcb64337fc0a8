package setup

import (
	"fmt"
	"slices"
	"strings"

	"github.com/etrnd/etrnd/internal/esmtp"
	"github.com/etrnd/etrnd/internal/foreign"
	"github.com/etrnd/etrnd/internal/postfix"
)

// routeTable is the name of the transport table.
const routeTable = "transport"

const routeTableHead = "# Mail that is held until it is asked for. Written by \"etrnctl setup postfix\"\n" +
	"# from the queues of the configuration: what is changed here is lost with the\n" +
	"# next set-up.\n"

// route is a line of the transport table.
type route struct{ pattern, hop string }

// hold routes the mail of queues to transports of our own and defers those.
func (d *derivation) hold() error {
	services, err := d.resolveRoutes()
	if err != nil {
		return err
	}
	if len(services) > 0 {
		d.unhurried("retry")
	}
	for _, s := range services {
		d.need(heldList, s.name)
		d.entries = append(d.entries, s.entry(append(d.path(s), d.addReuse(s)...)...))
		d.setAll(s.settings())
		d.unhurried(s.name)
	}
	if len(d.routes) > 0 {
		lines := make([]line, 0, len(d.routes))
		for _, r := range d.routes {
			lines = append(lines, line{r.pattern, r.hop})
		}
		// Our table is the first: for the same key it wins.
		d.needFirst("transport_maps", d.keyed(routeTable, routeTableHead, lines))
	}
	if d.fallback != "" {
		// A "*" in a transport table would also take the mail that is to be
		// delivered here; default_transport is for the rest only, and its next
		// hop goes before relayhost.
		d.values["default_transport"] = d.fallback
	}
	return nil
}

// resolveRoutes fills in the lines of the table and the next hop for "*", and
// returns the services that they use.
func (d *derivation) resolveRoutes() (services []heldService, err error) {
	seen := map[string]string{}
	for i, r := range slices.Concat(d.req.Routes, d.req.Retained) {
		retained := i >= len(d.req.Routes)
		hop, service, err := d.resolve(r.Deliver)
		if err != nil {
			return nil, fmt.Errorf("%q: %w", r.Pattern, err)
		}
		if !slices.Contains(services, service) {
			services = append(services, service)
		}
		key := strings.ToLower(r.Pattern)
		if key == "*" {
			if d.fallback != "" && d.fallback != hop {
				return nil, fmt.Errorf("\"*\" has two next hops, %q and %q", d.fallback, hop)
			}
			d.fallback = hop
			continue
		}
		if !postfix.TableKey(key) || strings.ContainsAny(key, "#,$") || strings.Trim(key, ".@") == "" {
			return nil, fmt.Errorf("%s cannot be a key of a transport table", foreign.Quote(r.Pattern))
		}
		for _, key := range spelled(key) {
			switch other, ok := seen[key]; {
			case !ok:
				seen[key] = hop
				d.routes = append(d.routes, route{key, hop})
			case other != hop && !retained:
				return nil, fmt.Errorf("%q has two next hops, %q and %q", r.Pattern, other, hop)
			}
		}
	}
	return services, nil
}

// resolve turns "smtp:[host]" into the same for the held transport, and
// "turn:/path" into LMTP to that socket, which is there while the queue has a
// turned connection: without it Postfix keeps the mail.
func (d *derivation) resolve(deliver string) (hop string, s heldService, err error) {
	program, host, ok := strings.Cut(deliver, ":")
	s = heldService{name: d.req.Transport, program: program}
	switch {
	case deliver == nobody:
		s.name, s.program, s.nobody = s.name+nobodyService, "lmtp", true
		return s.name + ":unix:" + postfix.NobodySocket, s, nil
	case program == "turn" && strings.HasPrefix(host, "/") && postfix.TableKey(host):
		s.name, s.program, s.turned = s.name+"-turn", "lmtp", true
		return s.name + ":" + d.socket("turned mail", "unix:"+host), s, nil
	case !ok || host == "" || program != "smtp" && program != "lmtp" || strings.ContainsFunc(host, func(r rune) bool { return r <= ' ' || r == 0x7f }) || strings.ContainsAny(host, "$,"):
		return "", s, fmt.Errorf("cannot deliver to %q: write for example \"smtp:[mail.acme.example]\" or \"lmtp:unix:/path\"", deliver)
	case d.logins[deliver].name != "":
		s = d.logins[deliver]
	case program == "lmtp":
		s.name += "-lmtp"
	default:
		s.options = d.keepRefused()
	}
	return s.name + ":" + asciiHop(host), s, nil
}

// asciiHop is a next hop with the names in it as they stand in the DNS.
func asciiHop(hop string) string {
	var b strings.Builder
	for hop != "" {
		i := strings.IndexAny(hop, "[]:,/")
		if i < 0 {
			i = len(hop)
		}
		b.WriteString(esmtp.ASCII(hop[:i]))
		b.WriteString(hop[i:min(i+1, len(hop))])
		hop = hop[min(i+1, len(hop)):]
	}
	return b.String()
}

// heldService is a transport of held mail, an entry of master.cf.
type heldService struct {
	name, program string
	turned        bool   // delivers to sockets of ours, see turnDeliveries
	nobody        bool   // delivers nothing, see retain
	options       string // further ones of master.cf, one a line
}

// What Postfix has to be told of mail that goes over a connection that the
// site opened (RFC 2645). A delivery waits for the site's own reply, so the
// pipe is kept full by many of them at once; qmgr(8) counts them for each
// destination, and each queue is one, by its socket.
const (
	// turnDeliveries to one queue at a time, at most. Each is a process of
	// 1.2 MB and keeps one message on the line: 300 of 2 kB for each 600 ms
	// make 8 Mbit/s. Postfix begins with turnInitial, and takes one more with
	// each success: as TCP does, but from a larger window. The processes are
	// made while the site is still being greeted.
	turnDeliveries = "300"
	turnInitial    = "150"
	// turnRecipients of one transaction: what RFC 5321, section 4.5.3.1.8,
	// makes every server accept.
	turnRecipients = "100"
	// turnPatience is how long a delivery waits while others use the line:
	// less than the five hours after which a watchdog of Postfix ends it.
	turnPatience = "4h"
)

// heldProcesses deliver held mail at one time, for all queues together. By
// default there are 100 (default_process_limit), and 20 for one destination: five
// sites that keep every connection waiting would have all of them, for ten
// minutes a message. Each takes 1.7 MB while it is there.
const heldProcesses = "1000"

// entry is the text of the service in master.cf. It has no chroot: Debian's
// own delivery agents differ in that by release, and a name server's files
// need not be in the jail. The log shows which transport spoke.
func (s heldService) entry(path ...string) string {
	processes, options := heldProcesses, []string{"syslog_name=postfix/$service_name"}
	if s.options != "" {
		options = append(options, strings.Split(s.options, "\n")...)
	}
	if s.nobody {
		processes = "2"
	}
	if s.turned {
		// No limit for all queues together: with one, a slow site would hold
		// up the others. Each connection is for one message: handing it on
		// through scache(8) costs more than opening the next.
		processes = "0"
		options = append(options, "lmtp_connection_cache_on_demand=no",
			"lmtp_data_xfer_timeout="+turnPatience, "lmtp_data_done_timeout="+turnPatience)
	}
	return entry(fmt.Sprintf("%-9s unix  -       -       n       -       %-7s %s", s.name, processes, s.program), append(options, path...)...)
}

// settings of main.cf that qmgr(8) has for the service.
func (s heldService) settings() map[string]string {
	if !s.turned {
		return nil
	}
	return map[string]string{
		s.name + "_initial_destination_concurrency": turnInitial,
		s.name + "_destination_concurrency_limit":   turnDeliveries,
		s.name + "_destination_recipient_limit":     turnRecipients,
		// A site that was away a moment ago is not shunned when it is back:
		// whether it is there is known from its socket, at no cost.
		s.name + "_destination_concurrency_failed_cohort_limit": "0",
		s.name + "_destination_concurrency_negative_feedback":   "0",
	}
}

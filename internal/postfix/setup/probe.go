package setup

// Postfix can ask whether an address takes mail before it accepts any for it or
// from it (reject_unverified_recipient, reject_unverified_sender): it sends
// there a message that is never delivered. One to a held address would be held,
// and the answer be 450 for as long as it is. So probes, and nothing but them,
// are routed to a transport of their own, which finds every address in order:
// what a site refuses is known once the site is there.

// probeEntry is that transport. For a probe pipe(8) says that it would run the
// command. Any other message, sent there by somebody's mistake, it would run it
// for: then it is told to try again later, so nothing is lost. discard(8) would
// find every address in order, too, and lose such a message.
func probeEntry(name string) string {
	return entry(name+" unix  -    n       n       -       -       pipe", "syslog_name=postfix/$service_name") +
		"        flags= user=nobody argv=/bin/sh -c {exit 75}\n"
}

// answerProbes routes probes. hold has been before it.
func (d *derivation) answerProbes() {
	if len(d.routes) == 0 && d.fallback == "" {
		return
	}
	name := d.req.Transport + "-probe"
	hop := name + ":held"
	d.entries = append(d.entries, probeEntry(name))
	d.unhurried(name)
	for _, e := range d.elements {
		if e.list == "transport_maps" {
			// What has a line in our table has one here, whatever its next hop.
			// The first that has the key counts, and $transport_maps, the
			// default, is there with the held routes.
			d.needFirst("address_verify_transport_maps", "pipemap:{"+e.text+", static:"+hop+"}")
		}
	}
	// The postmaster's own word on probes goes before ours.
	const fallback = "address_verify_default_transport"
	if _, ours := d.env.old.value(fallback); d.fallback != "" && (ours || !d.env.main.Has(fallback)) {
		d.values[fallback] = hop
	}
}

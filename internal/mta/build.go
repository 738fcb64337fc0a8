package mta

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// builder turns a Wanted into the texts of the files.
type builder struct {
	p        *Postfix
	conf     *conf
	old, st  *state
	warnings []string

	main, master confFile
	tables       map[string]*string // by name below setupDir

	queueDir string
	dflt     map[string]string // what Postfix was built with, unexpanded
}

func (b *builder) warn(format string, args ...any) {
	b.warnings = append(b.warnings, fmt.Sprintf(format, args...))
}

// want is one element that a list has to have.
type want struct {
	name, element string
	front         bool
}

// The lists that the set-up adds to, in the order in which they are built:
// one that refers to another by default comes after it.
var listNames = []string{
	"defer_transports", "transport_maps", "relay_domains", "fast_flush_domains",
	"smtpd_etrn_restrictions", "smtpd_milters", "non_smtpd_milters",
	"milter_connect_macros", "milter_mail_macros", "milter_end_of_data_macros",
	"milter_header_checks",
}

func (b *builder) build(ctx context.Context, w Wanted) error {
	names := append([]string{"config_directory"}, listNames...)
	args, err := b.p.configArgs(ctx)
	if err != nil {
		return err
	}
	out, err := b.p.output(ctx, nil, "postconf", append(append(args, "-d"), names...)...)
	if err != nil {
		return fmt.Errorf("read Postfix's defaults: %w", err)
	}
	b.dflt = parseSettings(out)
	live, err := b.p.settings(ctx, "", "queue_directory", "parent_domain_matches_subdomains", "relay_recipient_maps",
		"sender_dependent_default_transport_maps", "relay_clientcerts", "smtpd_tls_fingerprint_digest", "milter_default_action", "compatibility_level")
	if err != nil {
		return err
	}
	b.queueDir = live["queue_directory"]

	var wants []want
	values := map[string]string{}
	var entries []string

	// Holding.
	routes, fallback, services, err := b.routes(w)
	if err != nil {
		return err
	}
	if len(w.Routes) > 0 {
		for _, s := range services {
			wants = append(wants, want{name: "defer_transports", element: s.name})
			entries = append(entries, s.entry())
			maps.Copy(values, s.values())
		}
	}
	if len(routes) > 0 {
		table := tableText(routes)
		b.tables[tableName] = &table
		// texthash needs no index file that could be older than its source,
		// and no database library that the next release may drop. It is read
		// when the resolver starts, and a reload restarts that. Our table is
		// the first: for the same key it wins.
		wants = append(wants, want{name: "transport_maps", element: tableElement, front: true})
	}
	if fallback != "" {
		// A "*" in a transport table would also take the mail that is to be
		// delivered here; default_transport is for the rest only, and its next
		// hop goes before relayhost.
		values["default_transport"] = fallback
	}

	// Accepting and releasing.
	parents := words(live["parent_domain_matches_subdomains"])
	if slices.Contains(parents, "transport_maps") && slices.ContainsFunc(routes, func(r [2]string) bool { return r[0][0] == '.' }) {
		b.warn("parent_domain_matches_subdomains lists transport_maps, so Postfix does not look up patterns with a leading dot: take it out of that setting")
	}
	wants = append(wants, b.domains(ctx, w, parents)...)
	for _, q := range w.QueueNames {
		wants = append(wants, want{name: "fast_flush_domains", element: strings.ToLower(q)})
	}
	if v := live["relay_recipient_maps"]; v != "" && slices.ContainsFunc(w.Routes, func(r Route) bool { return r.Relay }) {
		b.warn("relay_recipient_maps is %q: recipients of held domains that it does not list are refused", v)
	}

	// Asking.
	if w.Policy != "" {
		// In front: Postfix lets any client in by default, and a permit that
		// comes before would let it in here.
		wants = append(wants, want{name: "smtpd_etrn_restrictions", element: "check_policy_service " + b.socket("the policy service", w.Policy), front: true})
		if others := slices.DeleteFunc(b.main.list("smtpd_etrn_restrictions"), func(s string) bool {
			return s == "check_policy_service" || strings.HasPrefix(s, "unix:") || strings.HasPrefix(s, "inet:")
		}); len(others) > 0 {
			b.warn("smtpd_etrn_restrictions has restrictions of its own (%s): the policy service comes first and decides every request, so they are not asked any more", strings.Join(others, " "))
		}
	}
	if w.Milter != "" {
		address := b.socket("the milter", w.Milter)
		// Settings of this one milter: milter_default_action is for all of
		// them, and another one may have to stop the mail when it is down. A
		// milter that hangs costs seconds, not minutes.
		element := milterElement(address)
		for _, name := range []string{"smtpd_milters", "non_smtpd_milters"} {
			wants = append(wants, want{name: name, element: element})
		}
		for _, m := range [][2]string{
			{"milter_connect_macros", "{client_addr} {client_port} {daemon_addr} {daemon_port}"},
			{"milter_mail_macros", "{auth_authen} {mail_addr}"},
			{"milter_end_of_data_macros", "i"},
		} {
			for _, macro := range words(m[1]) {
				wants = append(wants, want{name: m[0], element: macro})
			}
		}
		for _, s := range b.master.services() {
			for _, a := range s.args {
				if v, ok := strings.CutPrefix(a, "smtpd_milters="); ok && s.command == "smtpd" && !strings.Contains(v, "$smtpd_milters") {
					b.warn("the entry %s/%s of master.cf sets smtpd_milters itself: the milter does not see its mail", s.name, s.kind)
				}
			}
		}
	}
	if w.Split != "" {
		if w.Milter == "" {
			return fmt.Errorf("messages for several queues cannot be split without the milter: set listen in [milter]")
		}
		more, err := b.split(w, values)
		if err != nil {
			return err
		}
		entries = append(entries, more...)
		wants = append(wants, want{name: "milter_header_checks", element: splitElement, front: true})
	} else if b.old.hasSplit() {
		b.warn("%s", splitEnds)
	}
	if w.ClientCerts {
		values["smtpd_tls_ask_ccert"] = "yes"
		if digest := live["smtpd_tls_fingerprint_digest"]; digest != "sha256" {
			if _, ours := b.valueOf("smtpd_tls_fingerprint_digest"); !ours && (live["relay_clientcerts"] != "" || b.has("smtpd_tls_fingerprint_digest")) {
				b.warn("smtpd_tls_fingerprint_digest is %q, and the fingerprints in the configuration are of sha256: change it together with your own tables of fingerprints", digest)
			} else {
				values["smtpd_tls_fingerprint_digest"] = "sha256"
			}
		} else if _, ours := b.valueOf("smtpd_tls_fingerprint_digest"); ours {
			values["smtpd_tls_fingerprint_digest"] = "sha256"
		}
	}

	if err := b.edit(ctx, wants, values, entries); err != nil {
		return err
	}
	if err := b.conflicts(ctx, routes, fallback, live); err != nil {
		return err
	}
	return b.verify(ctx, wants, values)
}

// tableElement is how transport_maps names the table; with the variable it
// holds for a copy of the directory too.
const tableElement = "texthash:$config_directory/" + setupDir + "/" + tableName

func (b *builder) has(name string) bool { _, _, ok := b.main.param(name); return ok }

func (b *builder) valueOf(name string) (stateValue, bool) {
	for _, v := range b.old.Values {
		if v.Name == name {
			return v, true
		}
	}
	return stateValue{}, false
}

// heldService is a transport of held mail, an entry of master.cf.
type heldService struct {
	name, program string
	turn          bool // delivers to sockets of ours, see turnDeliveries
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

// entry is the text of the service in master.cf. It has no chroot: Debian's
// own delivery agents differ in that by release, and a name server's files
// need not be in the jail. The log shows which transport spoke.
func (s heldService) entry() string {
	processes, options := "-", []string{"syslog_name=postfix/$service_name"}
	if s.turn {
		// No limit for all queues together: with one, a slow site would hold
		// up the others. Each connection is for one message: handing it on
		// through scache(8) costs more than opening the next.
		processes = "0"
		options = append(options, "lmtp_connection_cache_on_demand=no",
			"lmtp_data_xfer_timeout="+turnPatience, "lmtp_data_done_timeout="+turnPatience)
	}
	text := fmt.Sprintf("%-9s unix  -       -       n       -       %-7s %s\n", s.name, processes, s.program)
	for _, o := range options {
		text += "        -o " + o + "\n"
	}
	return text
}

// values are the settings of main.cf that qmgr(8) has for the service.
func (s heldService) values() map[string]string {
	if !s.turn {
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

// routes returns the lines of the transport table, the default transport for
// "*", and the services of master.cf that they use.
func (b *builder) routes(w Wanted) (table [][2]string, fallback string, services []heldService, err error) {
	seen := map[string]string{}
	for _, r := range w.Routes {
		hop, service, err := b.nextHop(r.Deliver)
		if err != nil {
			return nil, "", nil, fmt.Errorf("%q: %w", r.Pattern, err)
		}
		if !slices.Contains(services, service) {
			services = append(services, service)
		}
		key := strings.ToLower(r.Pattern)
		if key == "*" {
			if fallback != "" && fallback != hop {
				return nil, "", nil, fmt.Errorf("\"*\" has two next hops, %q and %q", fallback, hop)
			}
			fallback = hop
			continue
		}
		if !plain(key) || strings.ContainsAny(key, "#,$") || strings.Trim(key, ".@") == "" {
			return nil, "", nil, fmt.Errorf("%.100q cannot be a key of a transport table", r.Pattern)
		}
		if other, ok := seen[key]; ok {
			if other != hop {
				return nil, "", nil, fmt.Errorf("%q has two next hops, %q and %q", r.Pattern, other, hop)
			}
			continue
		}
		seen[key] = hop
		table = append(table, [2]string{key, hop})
	}
	return table, fallback, services, nil
}

// nextHop turns "smtp:[host]" into the same for the held transport, and
// "turn:/path" into LMTP to that socket, which is there while the queue has a
// turned connection: without it Postfix keeps the mail.
func (b *builder) nextHop(deliver string) (hop string, s heldService, err error) {
	program, host, ok := strings.Cut(deliver, ":")
	s = heldService{name: b.p.o.Transport, program: program}
	switch {
	case program == "turn" && strings.HasPrefix(host, "/") && plain(host):
		s.name, s.program, s.turn = s.name+"-turn", "lmtp", true
		return s.name + ":" + b.socket("turned mail", "unix:"+host), s, nil
	case !ok || host == "" || program != "smtp" && program != "lmtp" || strings.ContainsFunc(host, func(r rune) bool { return r <= ' ' || r == 0x7f }) || strings.ContainsAny(host, "$,"):
		return "", s, fmt.Errorf("%q is no way to deliver: write for example \"smtp:[mail.acme.example]\" or \"lmtp:unix:/path\"", deliver)
	case program == "lmtp":
		s.name += "-lmtp"
	}
	return s.name + ":" + host, s, nil
}

func tableText(routes [][2]string) string {
	var t strings.Builder
	t.WriteString("# Mail that is held until it is asked for. Written by \"etrnctl setup postfix\"\n" +
		"# from the queues of the configuration: what is changed here is lost with the\n" +
		"# next set-up. Postfix reads this file when it is reloaded.\n")
	for _, r := range routes {
		fmt.Fprintf(&t, "%-31s %s\n", r[0], r[1])
	}
	return t.String()
}

// domains are the entries of relay_domains and fast_flush_domains.
func (b *builder) domains(ctx context.Context, w Wanted, parents []string) []want {
	var relay, flush []want
	for _, r := range w.Routes {
		pattern := strings.ToLower(r.Pattern)
		if pattern == "*" {
			flush = append(flush, want{name: "fast_flush_domains", element: "static:all"})
			continue
		}
		at := strings.LastIndexByte(pattern, '@')
		domain := strings.TrimPrefix(pattern[at+1:], ".")
		below := at < 0 && pattern != domain
		// Postfix matches subdomains either by the bare name or by the name
		// with a dot, never by both.
		element := func(list string) string {
			if below && !slices.Contains(parents, list) {
				return "." + domain
			}
			return domain
		}
		flush = append(flush, want{name: "fast_flush_domains", element: element("fast_flush_domains")})
		if below && !slices.Contains(parents, "fast_flush_domains") {
			// The name without a dot can be asked for, too.
			flush = append(flush, want{name: "fast_flush_domains", element: domain})
		}
		final, err := b.p.IsLocal(ctx, domain)
		if err != nil {
			b.warn("cannot find out whether %s is final here: %v", domain, err)
		}
		switch {
		case final && at < 0 && !below:
			b.warn("mail for %s is delivered here (mydestination or a virtual domain): as a held domain it goes to %s instead", domain, r.Deliver)
		case !r.Relay || final:
		case at >= 0:
			b.warn("mail for %s is accepted from others only if %s is in relay_domains or is delivered here: that would be for all of the domain, so it is left to you", pattern, domain)
		default:
			relay = append(relay, want{name: "relay_domains", element: element("relay_domains")})
			if below && slices.Contains(parents, "relay_domains") && !slices.ContainsFunc(w.Routes, func(o Route) bool { return strings.EqualFold(o.Pattern, domain) }) {
				b.warn("relay_domains cannot name what is below %s without %s itself (parent_domain_matches_subdomains): mail for %s is accepted too, and not held", domain, domain, domain)
			}
		}
	}
	return append(relay, flush...)
}

// socket is the address as Postfix writes it. Below the queue directory it
// becomes relative to that: Postfix's daemons stand there, in a chroot or not.
func (b *builder) socket(whose, listen string) string {
	path, ok := strings.CutPrefix(listen, "unix:")
	if !ok {
		return "inet:" + strings.TrimPrefix(listen, "inet:")
	}
	path = filepath.Clean(path)
	if rel, err := filepath.Rel(b.queueDir, path); err == nil && filepath.IsAbs(path) && rel != ".." && !strings.HasPrefix(rel, "../") {
		return "unix:" + rel
	}
	for _, s := range b.master.services() {
		if s.command == "smtpd" && s.chroot == "y" {
			b.warn("the socket of %s, %s, is not below %s, and %s/%s of master.cf is chrooted there and cannot reach it: move the socket to %s", whose, path, b.queueDir, s.name, s.kind, filepath.Join(b.queueDir, "etrnd"))
			break
		}
	}
	return "unix:" + path
}

// edit brings the lists, the values and the entries to what is wanted: takes
// out what was put in before and is wanted no more, and puts in what is
// missing. What the user has put there himself is neither ours nor touched.
func (b *builder) edit(ctx context.Context, wants []want, values map[string]string, entries []string) error {
	for _, name := range listNames {
		var mine []want
		for _, w := range wants {
			if w.name == name && !slices.ContainsFunc(mine, func(m want) bool { return fold(m.element) == fold(w.element) }) {
				mine = append(mine, w)
			}
		}
		old := stateList{Name: name}
		if l := b.old.list(name); l != nil {
			old = *l
		}
		now := stateList{Name: name, Default: old.Default}
		for _, e := range old.Elements {
			if !slices.ContainsFunc(mine, func(w want) bool { return fold(w.element) == fold(e) }) {
				b.main.remove(name, e)
			}
		}
		if len(mine) == 0 {
			b.main.unsetDefault(old)
			continue
		}
		effective, err := b.effective(ctx, name)
		if err != nil {
			return err
		}
		for _, w := range mine {
			ours := slices.ContainsFunc(old.Elements, func(e string) bool { return fold(e) == fold(w.element) })
			if i, _ := b.main.find(b.mainTokens(name), w.element); i >= 0 {
				if ours {
					now.Elements = append(now.Elements, w.element)
				}
				continue
			}
			if b.covered(name, w.element, effective) {
				continue
			}
			if !b.has(name) {
				d := b.dflt[name]
				if strings.HasPrefix(d, "${{") && len(effective) == 0 {
					d = "" // a default by compatibility level, which is nothing here
				}
				now.Default = &d
				b.main.set(name, d)
			}
			b.main.add(name, w.element, w.front)
			now.Elements = append(now.Elements, w.element)
		}
		if len(now.Elements) > 0 {
			b.st.Lists = append(b.st.Lists, now)
		} else {
			b.main.unsetDefault(old)
		}
	}

	for _, v := range b.old.Values {
		if _, still := values[v.Name]; !still {
			b.warnings = append(b.warnings, b.main.giveBack(v)...)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		value := values[name]
		now, set := b.main.value(name)
		old, ours := b.valueOf(name)
		switch {
		case set && fold(now) == fold(value):
			if ours {
				old.Value = value
				b.st.Values = append(b.st.Values, old)
			}
			continue
		case ours && set && fold(now) == fold(old.Value):
			old.Value = value
			b.st.Values = append(b.st.Values, old)
		default:
			sv := stateValue{Name: name, Value: value}
			if set {
				sv.Old = &now
				b.warn("%s is %q and becomes %q", name, now, value)
			}
			b.st.Values = append(b.st.Values, sv)
		}
		b.main.set(name, value)
	}
	return b.editMaster(entries)
}

func (b *builder) editMaster(entries []string) error {
	for _, e := range b.old.Entries {
		if !slices.Contains(entries, e) {
			b.warnings = append(b.warnings, b.master.removeEntry(e)...)
		}
	}
	for _, e := range entries {
		text := confFile{e}
		ours := text.services()[0]
		have, ok := b.master.service(ours.name, ours.kind)
		switch {
		case !ok:
			b.master.append(e)
			b.st.Entries = append(b.st.Entries, e)
		case have.command != ours.command && !(have.command == "relay" && ours.command == "smtp"):
			return fmt.Errorf("master.cf has an entry %s/%s that runs %q: choose another name for the held transport ([mta] transport)", have.name, have.kind, have.command)
		case slices.Contains(b.old.Entries, e):
			b.st.Entries = append(b.st.Entries, e)
		}
	}
	return nil
}

func (b *builder) mainTokens(name string) []span {
	_, v, ok := b.main.param(name)
	if !ok {
		return nil
	}
	return b.main.tokens(v)
}

// effective is the value of a list with what it refers to filled in, as the
// text stands now.
func (b *builder) effective(ctx context.Context, name string) ([]string, error) {
	dir, err := scratch(b.main.text, b.master.text)
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	v, err := b.p.settings(ctx, dir, name)
	if err != nil {
		return nil, err
	}
	return words(v[name]), nil
}

// covered reports whether a list has an element in other words: by way of a
// setting that it refers to, or spelled differently.
func (b *builder) covered(name, element string, effective []string) bool {
	text := confFile{strings.Join(effective, " ")}
	if i, _ := text.find(text.tokens(span{0, len(text.text)}), element); i >= 0 {
		return true
	}
	switch name {
	case "fast_flush_domains", "relay_domains":
		return slices.Contains(effective, "static:all")
	case "smtpd_milters", "non_smtpd_milters":
		for _, e := range effective {
			if b.milterAddress(e) != b.milterAddress(element) {
				continue
			}
			if !strings.Contains(e, "default_action=accept") {
				b.warn("%s already has the milter as %q: unless its default_action is accept, mail waits while the milter is away", name, e)
			}
			return true
		}
	case "milter_connect_macros", "milter_mail_macros", "milter_end_of_data_macros":
		// "{i}" and "i" are the same.
		bare := strings.Trim(element, "{}")
		return slices.ContainsFunc(effective, func(e string) bool { return strings.Trim(e, "{}") == bare })
	}
	return false
}

// milterAddress is the address in an element of smtpd_milters.
func (b *builder) milterAddress(element string) string {
	element = strings.TrimSpace(strings.Trim(element, "{} "))
	address, _, _ := strings.Cut(element, ",")
	address = strings.TrimSpace(address)
	if path, ok := strings.CutPrefix(address, "unix:"); ok && !filepath.IsAbs(path) {
		return "unix:" + filepath.Join(b.queueDir, path)
	}
	return address
}

// conflicts looks for settings of the user that take held mail elsewhere.
func (b *builder) conflicts(ctx context.Context, routes [][2]string, fallback string, live map[string]string) error {
	dir, err := scratch(b.main.text, b.master.text)
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	v, err := b.p.settings(ctx, dir, "relay_domains")
	if err != nil {
		return err
	}
	user, err := b.p.settings(ctx, "", "transport_maps")
	if err != nil {
		return err
	}
	ourTable := "texthash:" + filepath.Join(b.conf.dir, setupDir, tableName)
	for _, m := range words(user["transport_maps"]) {
		if m == ourTable || !strings.Contains(m, ":") {
			continue
		}
		var keys strings.Builder
		for _, r := range routes {
			keys.WriteString(r[0] + "\n")
		}
		if fallback != "" {
			keys.WriteString("*\n")
		}
		args, err := b.p.configArgs(ctx)
		if err != nil {
			return err
		}
		out, err := b.p.output(ctx, strings.NewReader(keys.String()), "postmap", append(args, "-q", "-", m)...)
		if err != nil && !saidNothing(err) {
			b.warn("cannot look into %s for entries that clash: %v", m, err)
			continue
		}
		for line := range strings.Lines(out) {
			key, value, _ := strings.Cut(strings.TrimSpace(line), "\t")
			if key == "*" {
				b.warn("%s sends \"*\" to %q: that goes before default_transport, so the mail of the queue of \"*\" is not held; take that entry out", m, value)
				continue
			}
			for _, r := range routes {
				if r[0] == key && r[1] != value {
					b.warn("%s sends %s to %q: the held route goes before it", m, key, value)
				}
			}
		}
	}
	if fallback == "" {
		return nil
	}
	if s := live["sender_dependent_default_transport_maps"]; s != "" {
		b.warn("sender_dependent_default_transport_maps is %q: for the senders in it mail of the queue of \"*\" is not held", s)
	}
	var apart []string
	for _, d := range words(v["relay_domains"]) {
		if !slices.ContainsFunc(routes, func(r [2]string) bool { return strings.TrimPrefix(r[0], ".") == strings.TrimPrefix(d, ".") }) {
			apart = append(apart, d)
		}
	}
	if len(apart) > 0 {
		b.warn("mail for relay_domains (%s) goes by relay_transport and is not held by the queue of \"*\": name these domains in the queue if they are to be held", strings.Join(apart, ", "))
	}
	return nil
}

// verify reads the new files with Postfix's own eyes before anybody else does.
func (b *builder) verify(ctx context.Context, wants []want, values map[string]string) error {
	dir, err := scratch(b.main.text, b.master.text)
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	names := slices.Clone(listNames)
	for name := range values {
		names = append(names, name)
	}
	slices.Sort(names)
	got, err := b.p.settings(ctx, dir, names...)
	if err != nil {
		return fmt.Errorf("the new main.cf cannot be read: %w", err)
	}
	quiet := *b // covered warns, and has done so already
	for _, w := range wants {
		element := strings.ReplaceAll(w.element, "$config_directory", dir)
		if !quiet.covered(w.name, element, words(got[w.name])) {
			return fmt.Errorf("%s would be %q, which lacks %q: this is a defect of the set-up, nothing has been changed", w.name, got[w.name], w.element)
		}
	}
	for name, value := range values {
		if fold(got[name]) != fold(value) {
			return fmt.Errorf("%s would be %q, not %q: this is a defect of the set-up, nothing has been changed", name, got[name], value)
		}
	}
	args := []string{"-c", dir, "-M"}
	for _, e := range b.st.Entries {
		text := confFile{e}
		s := text.services()[0]
		args = append(args, s.name+"/"+s.kind)
	}
	if len(args) > 3 {
		if _, err := b.p.output(ctx, nil, "postconf", args...); err != nil {
			return fmt.Errorf("the new master.cf cannot be read: %w", err)
		}
	}
	return nil
}

package setup

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"

	"github.com/etrnd/etrnd/internal/mta"
	"github.com/etrnd/etrnd/internal/postfix/conffile"
)

// A message for two held queues is one file in Postfix, and a release of one
// queue tries both: the override of defer_transports is for the whole
// message. With Requirements.Split such a message becomes one file per recipient as
// it arrives, by Postfix alone.
//
// The milter adds mta.SplitHeader to a message whose recipients are in more than
// one queue. milter_header_checks, which sees only what milters add and so
// cannot be deceived by a sender, answers with FILTER: the message leaves by a
// transport of one recipient a time to a port of the loopback, where a second
// smtpd takes the copies in. A recipient is done with only when its copy has
// been taken, so nothing is lost; while the port does not answer, the message
// waits as any other does. The milter sees every copy again, tags it with its
// one queue and takes the mark off. A copy has one recipient, so it is never
// marked, and header checks are off for it, so a mark would do nothing: there
// is no loop.
//
// The price is a second Received line, and a file for each recipient: the
// milter must leave alone what has very many, or is very large.
//
// While the milter is away nothing is marked, and such a message is released
// as a whole.
//
// The milter sees recipients as they come in, before Postfix writes others in
// their places: a list of virtual_alias_maps may be of two queues. It could read
// the aliases, but it is trusted with nothing. So smtpd itself asks them, as
// access tables: a recipient that has an entry there, whatever it is, has the
// message FILTERed the same way. That comes after the rewriting, so it is what
// the aliases say that is taken apart, and the copies are not rewritten again.
// No milter measures those: only lists that are short (maxAliasMembers) are taken
// apart. What local(8) expands, and what is written on this host with aliases in
// it, stays whole.

// splitTable is the name of the table of milter_header_checks.
const splitTable = "split"

const splitTableHead = "# Written by \"etrnctl setup postfix\": messages for more than one held queue are\n" +
	"# taken apart. Only headers that a milter adds are looked up here.\n"

// aliasTable and catchAllTable are the names of the tables through which smtpd
// asks the postmaster's.
const (
	aliasTable    = "aliases"
	catchAllTable = "catch-all"
)

// rewriting are the settings that put other recipients in the place of those
// that come in, or beside them.
var rewriting = []string{"virtual_alias_maps", "recipient_bcc_maps", "canonical_maps", "recipient_canonical_maps"}

// maxAliasMembers of an entry: what has more is not taken apart.
const maxAliasMembers = 50

const catchAllTableText = "# Written by \"etrnctl setup postfix\": \"@domain\" for an address, as tables of\n" +
	"# aliases have it.\n" +
	"/^.*(@[^@]+)$/ $1\n"

func aliasTableText(filter string) string {
	return "# Written by \"etrnctl setup postfix\": what tables of aliases say of a recipient;\n" +
		"# a message to it is taken apart, unless it is a long list.\n" +
		fmt.Sprintf("/(,[^,]+){%d}/ DUNNO\n", maxAliasMembers) +
		"/./ " + filter + "\n"
}

// splitAliases has smtpd tell what the milter cannot see.
func (d *derivation) splitAliases(filter string) {
	const list = "smtpd_recipient_restrictions"
	asked := false
	for _, setting := range rewriting {
		if !strings.Contains(d.env.settings[setting], ":") {
			continue
		}
		asked = true
		ours := d.table("regexp", aliasTable, aliasTableText(filter))
		catchAll := d.table("regexp", catchAllTable, catchAllTableText)
		// By the name of the setting, and nothing if it is empty: a table that
		// the postmaster takes away must not be one that smtpd cannot open.
		d.needFirst(list, fmt.Sprintf("${%[1]s?{check_recipient_access pipemap:{unionmap:{$%[1]s}, %[2]s} check_recipient_access pipemap:{%[3]s, unionmap:{$%[1]s}, %[2]s}}}", setting, ours, catchAll))
	}
	if !asked {
		return
	}
	for _, s := range d.env.master.Services() {
		if v, ok := ownOption(s, list); ok && s.Command == "smtpd" && outward(s) && !strings.Contains(v, "/"+ownDir+"/"+aliasTable) {
			d.warn("the entry %s/%s of master.cf sets %s itself, so messages for several queues that it takes for an alias are not taken apart: leave it out there, or begin it as the one of main.cf begins", s.Name, s.Type, list)
		}
	}
	if v := d.env.settings["always_bcc"]; v != "" {
		for _, r := range d.routes {
			if domain, _, address := domainOf(r.pattern); !address && strings.HasSuffix(strings.ToLower(v), "@"+domain) {
				d.warn("always_bcc is %q, which is held: every message for a queue is for a second one then, and is not taken apart; let it be an address that is not held", v)
			}
		}
	}
}

// splitEnds is what to know when the split is taken out: the way out of a
// marked message is written in its queue file, and only a new one is without.
const splitEnds = "messages that wait to be taken apart at this moment (\"mailq\": mail transport unavailable) stay in the queue until \"postsuper -r ID\""

// split makes Postfix take marked messages apart.
func (d *derivation) split() error {
	if d.req.Split == "" {
		if d.env.old.hasSplit() {
			d.warn("%s", splitEnds)
		}
		return nil
	}
	if d.req.Milter == "" {
		return errors.New("messages for several queues cannot be split without the milter: set listen in [milter]")
	}
	at, err := netip.ParseAddrPort(d.req.Split)
	if err != nil || !at.Addr().IsLoopback() || at.Port() == 0 {
		return fmt.Errorf("cannot split messages on %q: expected an address of the loopback and a port, such as \"127.0.0.1:10366\"", d.req.Split)
	}
	if err := d.splitPortIsFree(); err != nil {
		return err
	}
	name := d.req.Transport + "-split"
	hop := fmt.Sprintf("[%s]:%d", at.Addr(), at.Port())
	if at.Addr().Is6() {
		hop = fmt.Sprintf("[ipv6:%s]:%d", at.Addr(), at.Port())
	}
	filter := "FILTER " + name + ":" + hop
	d.needFirst("milter_header_checks", d.table("regexp", splitTable, splitTableHead+"/^"+mta.SplitHeader+":/ "+filter+"\n"))
	d.splitAliases(filter)
	d.values[name+"_destination_recipient_limit"] = "1"
	d.entries = append(d.entries, splitEntries(name, d.req.Split, d.socket("the milter", d.req.Milter))...)

	for _, s := range d.env.master.Services() {
		for _, a := range s.Args {
			if strings.HasPrefix(a, "content_filter=") && a != "content_filter=" && s.Command == "smtpd" {
				d.warn("the entry %s/%s of master.cf sets content_filter itself: messages that are split do not pass that filter", s.Name, s.Type)
			}
		}
	}
	return nil
}

// splitEntries are the way out, the way in, and the cleanup(8) behind that.
func splitEntries(name, port, milter string) []string {
	return []string{
		// The copies are to be what the message was: nothing is rewritten,
		// wrapped or bound to an outward address on these few centimetres.
		entry(name+" unix -     -       n       -       -       smtp",
			"syslog_name=postfix/$service_name", "smtp_send_xforward_command=yes",
			"smtp_tls_security_level=none", "smtp_tls_policy_maps=", "smtp_sasl_auth_enable=no",
			"smtp_bind_address=", "smtp_bind_address6=", "smtp_fallback_relay=", "smtp_generic_maps=", "smtp_delivery_status_filter=",
			"smtp_header_checks=", "smtp_mime_header_checks=", "smtp_nested_header_checks=", "smtp_body_checks=",
			"smtp_line_length_limit=0"),
		// What has been accepted once is not judged again: a refusal here
		// would be a bounce.
		entry(port+" inet n  -       n       -       -       smtpd",
			"syslog_name=postfix/"+name, "cleanup_service_name="+name+"-cleanup",
			"{ smtpd_milters = "+milterElement(milter)+" }",
			"receive_override_options=no_address_mappings,no_unknown_recipient_checks,no_header_body_checks",
			"mynetworks=127.0.0.0/8,[::1]/128", "smtpd_authorized_xforward_hosts=127.0.0.0/8,[::1]/128",
			"smtpd_client_restrictions=permit_mynetworks,reject", "smtpd_relay_restrictions=permit_mynetworks,reject",
			"smtpd_helo_restrictions=", "smtpd_sender_restrictions=", "smtpd_recipient_restrictions=",
			"smtpd_data_restrictions=", "smtpd_end_of_data_restrictions=", "smtpd_etrn_restrictions=reject",
			"smtpd_proxy_filter=", "smtpd_reject_unlisted_sender=no", "smtpd_reject_unlisted_recipient=no",
			"smtpd_tls_security_level=none", "smtpd_sasl_auth_enable=no", "local_header_rewrite_clients=", "message_size_limit=0"),
		// The size is checked here, too, and a copy is longer by a line.
		entry(name+"-cleanup unix n - n - 0 cleanup", "message_size_limit=0", "hopcount_limit=100"),
	}
}

// splitPortIsFree looks whether the port is anybody's but ours. Postfix's master ends,
// and all mail with it, when it cannot bind a port of master.cf; and an entry
// of the user's there would take the copies in past the milter.
func (d *derivation) splitPortIsFree() error {
	address := d.req.Split
	if _, ok := d.env.master.Service(address, "inet"); ok {
		ours := func(entry string) bool {
			s, _ := conffile.ParseService(entry)
			return s.Name == address && s.Type == "inet"
		}
		if slices.ContainsFunc(d.env.old.Entries, ours) {
			return nil
		}
		return fmt.Errorf("master.cf has an entry %s/inet of its own: choose another port for split in [mta]", address)
	}
	if errors.Is(bindFault(address), syscall.EADDRINUSE) {
		return fmt.Errorf("%s is in use, and Postfix would end when it cannot have it: choose another port for split in [mta]", address)
	}
	return nil
}

// bindFault is why Postfix could not have an address and port, if this user can
// find that out: EADDRINUSE or EADDRNOTAVAIL.
func bindFault(address string) error {
	l, err := net.Listen("tcp", address)
	if err == nil {
		_ = l.Close()
		return nil
	}
	for _, fault := range []error{syscall.EADDRINUSE, syscall.EADDRNOTAVAIL} {
		if errors.Is(err, fault) {
			return fault
		}
	}
	return nil
}

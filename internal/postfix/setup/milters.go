package setup

import (
	"slices"
	"strings"

	"github.com/etrnd/etrnd/internal/postfix/conffile"
)

// milters looks for what keeps our milter from seeing mail, or has a say after
// it: what it has not seen is held all the same, but without a tag, and counted
// only with the next listing; what is refused behind it was reported as held.
// After are the lists of milters as they will be.
func (l *conflictFinder) milters(after map[string]string) {
	if l.req.Milter == "" {
		return
	}
	queueDir := l.env.settings["queue_directory"]
	ours := ""
	for _, e := range l.want.elements {
		if e.list == milterLists[0] {
			ours = milterAddress(e.text, queueDir)
		}
	}
	is := func(element string) bool { return milterAddress(element, queueDir) == ours }
	for _, list := range milterLists {
		words := conffile.Words(after[list])
		if at := slices.IndexFunc(words, is); at >= 0 && at+1 < len(words) {
			l.warn("%s has %s behind etrnd's milter: what that refuses or drops was counted as held; write %s last in %s", list, strings.Join(words[at+1:], " "), words[at], list)
		}
	}
	if v := l.env.settings["smtpd_milter_maps"]; v != "" {
		l.warn("smtpd_milter_maps is %q: mail of the clients that it lists does not pass etrnd's milter, so it is held without a tag and counted late; name %s there, too, as the last one", v, ours)
	}
	const override, without = "receive_override_options", "no_milters"
	if slices.Contains(l.env.list(override), without) {
		l.warn("%s has %s for all mail: the milter sees none of it, so it is held without a tag and counted late; set it in master.cf, for the port that takes mail back from a filter", override, without)
	}
	back := false // some port of the loopback asks our milter
	for _, s := range l.env.master.Services() {
		if s.Command != "smtpd" && s.Command != "pickup" {
			continue
		}
		list := milterLists[0]
		if s.Command == "pickup" {
			list = milterLists[1]
		}
		// Its own list cannot refer to the one of main.cf: Postfix takes that for a
		// list in itself.
		v, own := ownOption(s, list)
		words := conffile.Words(v)
		at := slices.IndexFunc(words, is)
		options, _ := ownOption(s, override)
		bare := slices.Contains(conffile.Words(options), without)
		switch {
		case !outward(s):
			back = back || !bare && (!own || at >= 0) && s.Name != l.req.Split
		case bare:
			l.warn("the entry %s/%s of master.cf has %s in %s: the milter does not see its mail, which is held without a tag and counted late; take that out", s.Name, s.Type, without, override)
		case own && at < 0:
			l.warn("the entry %s/%s of master.cf sets %s itself: the milter does not see its mail, which is held without a tag and counted late; name %s there, too, as the last one", s.Name, s.Type, list, ours)
		case own && at+1 < len(words):
			l.warn("the entry %s/%s of master.cf has %s behind etrnd's milter: what that refuses or drops was counted as held; write %s last there", s.Name, s.Type, strings.Join(words[at+1:], " "), words[at])
		}
	}
	for _, s := range l.env.master.Services() {
		if s.Command != "smtpd" || !outward(s) || back {
			continue
		}
		proxy, own := ownOption(s, "smtpd_proxy_filter")
		if !own {
			proxy = l.env.settings["smtpd_proxy_filter"]
		}
		if proxy != "" {
			l.warn("%s/%s of master.cf hands its mail to %s before it is queued (smtpd_proxy_filter), and the milter sees no message there: let the entry that takes the mail back from the filter ask it (neither smtpd_milters nor %s in %s there)", s.Name, s.Type, proxy, without, override)
			break
		}
	}
}

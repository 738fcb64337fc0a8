package setup

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/etrnd/etrnd/internal/postfix"
)

// hooks are where programs are run when a network interface comes up, as
// patterns below the root, and what runs them: where none of that is installed
// the hooks only lie there.
var hooks = []struct{ dir, callers string }{
	{"etc/ppp/ip-up.d", "usr/sbin/pppd"},
	{"etc/ppp/ipv6-up.d", "usr/sbin/pppd"},
	{"etc/network/if-up.d", "usr/sbin/ifup sbin/ifup"},
	{"etc/NetworkManager/dispatcher.d", "usr/sbin/NetworkManager"},
	{"usr/lib/NetworkManager/dispatcher.d", "usr/sbin/NetworkManager"},
	{"etc/networkd-dispatcher/*.d", "usr/bin/networkd-dispatcher"},
	{"usr/lib/networkd-dispatcher/*.d", "usr/bin/networkd-dispatcher"},
	{"etc/dhcp/dhclient-exit-hooks.d", "usr/sbin/dhclient sbin/dhclient"},
	{"etc/resolvconf/update-libc.d", "usr/sbin/resolvconf sbin/resolvconf"},
}

// queueRun is a command that makes Postfix try everything.
var queueRun = regexp.MustCompile(`(?m)^[^#\n]*(\bsendmail\s+(-\S+\s+)*-q(\s|$)|\bpostqueue\s+-f\b|\bpostfix\s+flush\b)`)

// flushHooks finds the hooks below root that make Postfix try everything when
// an interface comes up, such as those that Debian's postfix package brings:
// a flush overrides defer_transports, and so releases every queue.
func flushHooks(root string) []string {
	var found []string
	for _, h := range hooks {
		if !anyOf(root, h.callers) {
			continue
		}
		paths, _ := filepath.Glob(filepath.Join(root, h.dir, "*")) // the patterns are well-formed
		for _, path := range paths {
			fi, err := os.Stat(path)
			if err != nil || !fi.Mode().IsRegular() || fi.Mode().Perm()&0o111 == 0 {
				continue
			}
			text, err := postfix.ReadFile(path, maxConf)
			if err == nil && queueRun.MatchString(text) && !overridden(root, path) {
				found = append(found, path)
			}
		}
	}
	return found
}

// anyOf reports whether one of these programs is there.
func anyOf(root, programs string) bool {
	for name := range strings.FieldsSeq(programs) {
		if _, err := os.Stat(filepath.Join(root, name)); err == nil {
			return true
		}
	}
	return false
}

// hooks says which hooks flush, and how to keep them from it for good.
func (l *findings) hooks(root string) {
	found := flushHooks(root)
	if len(found) == 0 {
		return
	}
	l.bad("whenever a network interface comes up, all that is held is tried: "+strings.Join(found, ", "), keepHooks(root, found))
}

// keepHooks is the command that switches hooks off. Debian's package manager
// brings an edited file back, but keeps a mode that it has been told of.
func keepHooks(root string, paths []string) string {
	if !anyOf(root, "usr/bin/dpkg-statoverride") {
		return "run: chmod -x " + strings.Join(paths, " ")
	}
	if len(paths) == 1 {
		return "run: dpkg-statoverride --update --add root root 0644 " + paths[0]
	}
	return fmt.Sprintf("run: for f in %s; do dpkg-statoverride --update --add root root 0644 $f; done", strings.Join(paths, " "))
}

// overridden reports whether networkd-dispatcher runs a script of the same
// name in /etc instead.
func overridden(root, path string) bool {
	rel, err := filepath.Rel(filepath.Join(root, "usr/lib/networkd-dispatcher"), path)
	if err != nil || filepath.IsAbs(rel) || len(rel) > 1 && rel[:2] == ".." {
		return false
	}
	_, err = os.Lstat(filepath.Join(root, "etc/networkd-dispatcher", rel))
	return err == nil
}

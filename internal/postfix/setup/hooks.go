package setup

import (
	"os"
	"path/filepath"
	"regexp"

	"github.com/etrnd/etrnd/internal/postfix"
)

// hookDirs are where programs are run when a network interface comes up, as
// patterns below the root.
var hookDirs = []string{
	"etc/ppp/ip-up.d", "etc/ppp/ipv6-up.d", "etc/network/if-up.d", "etc/NetworkManager/dispatcher.d",
	"usr/lib/NetworkManager/dispatcher.d", "etc/networkd-dispatcher/*.d", "usr/lib/networkd-dispatcher/*.d",
	"etc/dhcp/dhclient-exit-hooks.d", "etc/resolvconf/update-libc.d",
}

// queueRun is a command that makes Postfix try everything.
var queueRun = regexp.MustCompile(`(?m)^[^#\n]*(\bsendmail\s+(-\S+\s+)*-q(\s|$)|\bpostqueue\s+-f\b|\bpostfix\s+flush\b)`)

// flushHooks finds the hooks below root that make Postfix try everything when
// an interface comes up, such as those that Debian's postfix package brings:
// a flush overrides defer_transports, and so releases every queue.
func flushHooks(root string) []string {
	var found []string
	for _, dir := range hookDirs {
		paths, _ := filepath.Glob(filepath.Join(root, dir, "*")) // the patterns are well-formed
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

package main

import (
	"fmt"
	"slices"

	"github.com/etrnd/etrnd/internal/account"
	"github.com/etrnd/etrnd/internal/config"
)

// maxExposed bounds the files that are said to be open to others: what is wrong
// with one included file is often wrong with all.
const maxExposed = 20

// findExposed looks who can change the configuration, or what it takes on trust.
// What etrnd alone reads may belong to its user, as etrnd.toml(5) says of secrets;
// by the configuration itself root sets up Postfix.
func (d *daemonUser) findExposed(file string, included []string, cfg *config.Config) (found []finding) {
	var daemons []account.User
	if d.err == nil {
		daemons = append(daemons, d.etrnd)
	}
	said := map[string]bool{}
	look := func(key, path string, owners ...account.User) {
		if path == "" || len(found) == maxExposed {
			return
		}
		for _, e := range account.Exposures(path, owners...) {
			if said[e.Path] || len(found) == maxExposed {
				continue
			}
			said[e.Path] = true
			text := "it " + e.Why
			if e.Dir {
				text = fmt.Sprintf("the directory %s %s, so that another file can be put in its place", e.Path, e.Why)
			} else if e.Path != path {
				text = fmt.Sprintf("what it is a link to, %s, %s", e.Path, e.Why)
			}
			found = append(found, finding{Level: "warning", File: path, Key: key, Text: text, Hint: "run: " + e.Mend})
		}
	}
	for _, path := range slices.Concat([]string{file}, included) {
		look("", path)
	}
	if cfg == nil {
		return found
	}
	for _, s := range []struct{ key, path string }{
		{"odmr: users", cfg.ODMR.Users}, {"odmr: tls-key", cfg.ODMR.TLSKey}, {"odmr: tls-cert", cfg.ODMR.TLSCert},
	} {
		look(s.key, s.path, daemons...)
	}
	for _, r := range cfg.Remotes {
		for _, s := range []struct{ key, path string }{
			{"password-file", r.PasswordFile}, {"tls-key", r.TLSKey}, {"tls-cert", r.TLSCert}, {"tls-ca", r.TLSCA},
		} {
			look("remote "+r.Name+": "+s.key, s.path, daemons...)
		}
	}
	return found
}

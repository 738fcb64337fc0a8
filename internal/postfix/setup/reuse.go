package setup

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// On a thin line the way to a message costs more than the message: TCP, greeting,
// EHLO, STARTTLS, the handshake and EHLO again are six round trips and some five
// kilobytes, twenty seconds at 2,400 bit/s. So held transports keep a connection
// for the next message.
//
// By itself Postfix does so only while qmgr(8) has more mail for the same
// destination, and on a thin line one message goes at a time: smtp(8) is told to
// keep each connection. And a connection with TLS can be kept only by tlsproxy(8),
// since smtp(8) ends with its message (Postfix's TLS_README). That has the
// certificates and authorities of its own settings and not of those of a transport,
// so each transport has one, with the same.
//
// A connection that is alive costs a round trip, for RSET. One that has died meanwhile
// costs the time that is waited for its reply (deadAfter), and then another one is
// made: nothing has been said of the message yet.

const (
	// keptFor is how long a connection is kept without a message. From one message
	// to the next pass a listing of the queue and a flush, some seconds where the
	// queue is very large. What is kept for longer is more often dead: a line that
	// went may be back, with another address.
	keptFor = 10 * time.Second
	// reusedFor is how long a connection is used at all. Postfix's five minutes
	// are for destinations with several hosts of which one is slow; at 2,400 bit/s
	// they are ten messages.
	reusedFor = time.Hour
	// reusedTimes is how many messages follow the first. There are servers that
	// defer what is more on one connection, and this is less than for any of them.
	reusedTimes = "100"
	// deadAfter is how long the reply to RSET may take. By itself Postfix gives up
	// after 20 seconds, and at 2,400 bit/s RSET takes 15 behind a message of 3 kB on
	// another connection.
	deadAfter = time.Minute
)

// cacheService keeps the connections, after the transport of held mail. It is one of
// our own since scache(8) bounds the time for all that it keeps, to two seconds.
const cacheService = "-scache"

// proxyService keeps their TLS, after the transport of held mail.
const proxyService = "-tlsproxy"

// reuseSettings are those of the postmaster on which reuse depends.
var reuseSettings = []string{"mail_version", "daemon_directory", "smtp_connection_cache_on_demand", "smtp_tls_connection_reuse"}

// reuse are the options by which a held transport uses its connections again, and
// the services that it takes. A postmaster who has set that connections are not to
// be kept, or not with TLS, is obeyed.
func (d *derivation) reuse(s heldService) (options, entries []string) {
	// LMTP is for stores of this host, or of one beside it.
	if s.program != "smtp" || d.forbids("smtp_connection_cache_on_demand") {
		return nil, nil
	}
	cache := d.req.Transport + cacheService
	options = []string{
		"smtp_connection_cache_destinations=static:all", "smtp_connection_cache_time_limit=" + seconds(keptFor),
		"smtp_connection_reuse_time_limit=" + seconds(reusedFor), "smtp_connection_reuse_count_limit=" + reusedTimes, "smtp_rset_timeout=" + seconds(deadAfter),
		"connection_cache_service_name=" + cache,
	}
	entries = []string{entry(cache+" unix  -       -       n       -       1       scache",
		"syslog_name=postfix/$service_name", "connection_cache_ttl_limit="+seconds(keptFor))}
	// Before 3.5.4 tlsproxy(8) ended in the middle as a client where smtpd offers
	// no TLS, and failed with authorities of a policy.
	if d.forbids("smtp_tls_connection_reuse") || !sinceRelease(d.env.settings["mail_version"], 3, 5, 4) || !d.hasProgram("tlsproxy") {
		return options, entries
	}
	proxy := d.req.Transport + proxyService
	if remote, ok := strings.CutPrefix(s.name, d.req.Transport+toService); ok {
		proxy += "-" + remote
	}
	options = append(options, "smtp_tls_connection_reuse=yes", "tlsproxy_service_name="+proxy)
	// Without a limit of processes, as tlsproxy(8) demands.
	return options, append(entries, entry(proxy+" unix  -       -       n       -       0       tlsproxy",
		slices.Concat([]string{"syslog_name=postfix/$service_name"}, noServer, d.sameTLS(s))...))
}

// noServer are options by which tlsproxy(8), which can be a server for postscreen(8)
// as well, has no key of smtpd's, and does not warn that it has none.
var noServer = []string{
	"tlsproxy_tls_security_level=may", "tlsproxy_tls_cert_file=none", "tlsproxy_tls_chain_files=", "tlsproxy_tls_dcert_file=", "tlsproxy_tls_eccert_file=",
	"tlsproxy_tls_ask_ccert=no", "tlsproxy_tls_req_ccert=no",
}

// seconds is a time as Postfix writes it.
func seconds(d time.Duration) string { return strconv.Itoa(int(d/time.Second)) + "s" }

// forbids reports whether the postmaster has written "no".
func (d *derivation) forbids(setting string) bool {
	return d.env.main.Has(setting) && d.env.settings[setting] == "no"
}

// hasProgram reports whether Postfix has a daemon. For one that is not installed the
// master takes connections all the same, and who connects waits.
func (d *derivation) hasProgram(name string) bool {
	dir := d.env.settings["daemon_directory"]
	_, err := os.Stat(filepath.Join(dir, name))
	return dir == "" || !errors.Is(err, fs.ErrNotExist)
}

// sameTLS are the options by which tlsproxy(8) has the settings of TLS of a
// transport: what the transport has as options, and what it has from main.cf, where
// main.cf has something else for tlsproxy(8) in general.
func (d *derivation) sameTLS(s heldService) (options []string) {
	for o := range strings.SplitSeq(s.options, "\n") {
		if name := strings.TrimPrefix(o, "{ "); strings.HasPrefix(name, "smtp_tls_") || strings.HasPrefix(name, "tls_") {
			options = append(options, o)
		}
	}
	for _, name := range []string{
		"security_level", "policy_maps", "CAfile", "CApath", "cert_file", "key_file", "chain_files", "dcert_file", "dkey_file", "eccert_file", "eckey_file",
		"fingerprint_digest", "loglevel", "scert_verifydepth", "per_site",
	} {
		// Under their older names the first two make that tlsproxy(8) is none for
		// clients (3.7 to 3.10), but for the newer ones.
		old := map[string]string{"security_level": "level", "policy_maps": "policy"}[name]
		switch {
		case d.env.main.Has("tlsproxy_client_" + name), old != "" && d.env.main.Has("tlsproxy_client_"+old):
			options = append(options, "tlsproxy_client_"+name+"=$smtp_tls_"+name)
			if old != "" {
				options = append(options, "tlsproxy_client_"+old+"=$smtp_tls_"+name)
			}
		}
	}
	for _, name := range []string{"use_tls", "enforce_tls"} {
		if d.env.main.Has("tlsproxy_client_" + name) {
			options = append(options, "tlsproxy_client_"+name+"=$smtp_"+name)
		}
	}
	return options
}

// sinceRelease reports whether a release of Postfix is this one or a later one. What
// cannot be read is not held against anyone.
func sinceRelease(version string, release ...int) bool {
	for _, want := range release {
		var part string
		part, version, _ = strings.Cut(version, ".")
		part, _, _ = strings.Cut(part, "-") // of snapshots
		if n, err := strconv.Atoi(part); err != nil || n != want {
			return err != nil || n > want
		}
	}
	return true
}

// addReuse adds what a held transport takes to use its connections again, and
// returns the options of its entry.
func (d *derivation) addReuse(s heldService) []string {
	options, entries := d.reuse(s)
	for _, e := range entries {
		if !slices.Contains(d.entries, e) {
			d.entries = append(d.entries, e)
		}
	}
	return options
}

package config

import (
	"fmt"
	"strings"
	"time"
)

// Key describes one key of the file. The table of all keys is the single
// source of what is known, of types, bounds and defaults; the manual page is
// held against it by a test.
type Key struct {
	Table   string // "" at the top, "mta", "queue" ...
	Name    string
	Type    Type
	Default string // as TOML; empty: none
	Doc     string // one line, for people

	// Required says that the key must be there whenever its table is.
	Required bool

	// min and max bound durations and numbers. What lies outside is taken
	// for a slip of the unit: nobody waits a year for a reply.
	min, max int64
	// values are the words that are allowed, where there are only a few.
	values []string
	// defaultDoc stands for the default where TOML cannot say it.
	defaultDoc string
}

// Type is the type of a key's value, in words.
type Type string

// The types of values.
const (
	String   Type = "string"
	Strings  Type = "list of strings"
	Boolean  Type = "boolean"
	Number   Type = "number"
	Duration Type = "duration"
)

// spec is the type, the bounds and the default of the key as the manual page
// gives them.
func (k Key) spec() string {
	parts := []string{string(k.Type)}
	switch {
	case k.Type == Duration:
		parts = append(parts, short(k.min)+" to "+short(k.max))
	case k.Type == Number:
		parts = append(parts, fmt.Sprintf("%d to %d", k.min, k.max))
	}
	switch {
	case k.Required:
		parts = append(parts, "required")
	case k.Default != "":
		parts = append(parts, "default "+k.Default)
	case k.defaultDoc != "":
		parts = append(parts, "default: "+k.defaultDoc)
	}
	return strings.Join(parts, ", ")
}

// repeated reports whether a table is written [[name]], once for each thing.
func repeated(table string) bool {
	return table == "queue" || table == "link" || table == "remote"
}

const (
	ms   = int64(time.Millisecond)
	sec  = int64(time.Second)
	hour = int64(time.Hour)
	day  = 24 * hour
)

// Keys returns the table of all keys, in the order in which they are
// documented.
func Keys() []Key {
	return []Key{
		{Table: "", Name: "hostname", Type: String, defaultDoc: "the host name of the machine", Doc: "name used in greetings and EHLO"},
		{Table: "", Name: "log-level", Type: String, Default: `"info"`, values: []string{"debug", "info", "warning", "error"}, Doc: "least severity that is logged"},
		{Table: "", Name: "log-format", Type: String, Default: `"text"`, values: []string{"text", "json"}, Doc: "form of log lines"},

		{Table: "mta", Name: "type", Type: String, Default: `"postfix"`, values: []string{"postfix"}, Doc: "which mail server this is"},
		{Table: "mta", Name: "config-dir", Type: String, Default: `"/etc/postfix"`, Doc: "directory of its configuration"},
		{Table: "mta", Name: "smtp", Type: String, Default: `"127.0.0.1:25"`, Doc: "its local SMTP listener, which must answer before a call asks for mail"},
		{Table: "mta", Name: "transport", Type: String, Default: `"transient"`, Doc: "name of the transport that is held back"},
		{Table: "mta", Name: "reconcile", Type: Duration, Default: `"1m"`, min: sec, max: day, Doc: "how often the index is compared with the mail server's own listing"},
		{Table: "mta", Name: "split", Type: String, Default: `""`, Doc: "loopback address and port on which messages for several queues are taken apart; empty leaves them whole"},

		{Table: "milter", Name: "listen", Type: String, Default: `"unix:/var/spool/postfix/etrnd/milter.sock"`, Doc: "where Postfix reaches etrn-milter"},
		{Table: "milter", Name: "header", Type: String, Default: `"X-ETRN-Queue"`, Doc: "header field that tags held mail"},
		{Table: "milter", Name: "report", Type: String, Default: `"unix:/run/etrnd/report.sock"`, Doc: "socket of etrnd on which the milter reports"},

		{Table: "policy", Name: "listen", Type: String, Default: `"unix:/var/spool/postfix/etrnd/policy.sock"`, Doc: "where Postfix asks who may use ETRN; empty turns it off"},

		{Table: "odmr", Name: "listen", Type: Strings, Default: `["[::]:366"]`, Doc: "addresses of the ETRN listener"},
		{Table: "odmr", Name: "tls-cert", Type: String, Doc: "file with the certificate chain, PEM; offers STARTTLS"},
		{Table: "odmr", Name: "tls-key", Type: String, Doc: "file with the certificate's key, PEM"},
		{Table: "odmr", Name: "users", Type: String, Doc: "file with users and hashed secrets; offers AUTH"},
		{Table: "odmr", Name: "cram-md5", Type: Boolean, Default: `false`, Doc: "offer CRAM-MD5 to users who have a secret for it"},
		{Table: "odmr", Name: "max-connections", Type: Number, Default: `1000`, min: 1, max: 100000, Doc: "connections at one time"},
		{Table: "odmr", Name: "max-connections-per-client", Type: Number, Default: `20`, min: 1, max: 100000, Doc: "connections from one address at one time"},
		{Table: "odmr", Name: "command-timeout", Type: Duration, Default: `"5m"`, min: sec, max: hour, Doc: "longest wait for the next command"},
		{Table: "odmr", Name: "session-timeout", Type: Duration, Default: `"30m"`, min: sec, max: day, Doc: "longest session"},

		{Table: "control", Name: "listen", Type: String, Default: `"unix:/run/etrnd/control.sock"`, Doc: "socket of etrnctl"},
		{Table: "control", Name: "group", Type: String, Default: `"etrnd"`, Doc: "group whose members may use it, besides root"},

		{Table: "queue", Name: "name", Type: String, Required: true, Doc: "name of the queue; asked for as #name"},
		{Table: "queue", Name: "domains", Type: Strings, Required: true, Doc: "whose mail is held: domain, .domain, user@domain or *"},
		{Table: "queue", Name: "deliver", Type: String, Required: true, Doc: "next hop: smtp:[host], smtp:[host]:port, lmtp:... or turn"},
		{Table: "queue", Name: "clients", Type: Strings, Doc: "addresses and networks that may ask"},
		{Table: "queue", Name: "users", Type: Strings, Doc: "authenticated users who may ask"},
		{Table: "queue", Name: "certificates", Type: Strings, Doc: "SHA-256 fingerprints of TLS client certificates, or their keys, that may ask"},
		{Table: "queue", Name: "window", Type: Duration, Default: `"5m"`, min: 0, max: day, Doc: "how long after a request new mail goes out at once"},
		{Table: "queue", Name: "min-interval", Type: Duration, Default: `"5s"`, min: 0, max: day, Doc: "the same request sooner than this is answered 458"},

		{Table: "link", Name: "name", Type: String, Required: true, Doc: "name of the link"},
		{Table: "link", Name: "interfaces", Type: Strings, Doc: "network interfaces; * and ? stand for characters"},
		{Table: "link", Name: "dial", Type: Strings, Doc: "command that brings the link up: program and arguments"},
		{Table: "link", Name: "hang-up", Type: Strings, Doc: "command that takes it down: program and arguments"},
		{Table: "link", Name: "dial-timeout", Type: Duration, Default: `"2m"`, min: sec, max: hour, Doc: "longest time from dialling until the link is up"},
		{Table: "link", Name: "hang-up-timeout", Type: Duration, Default: `"30s"`, min: sec, max: hour, Doc: "longest run of the hang-up command"},
		{Table: "link", Name: "limit", Type: Duration, Default: `"0s"`, min: 0, max: 31 * day, Doc: "longest time that calls may use the line; 0s means no limit"},

		{Table: "remote", Name: "name", Type: String, Required: true, Doc: "name of the remote"},
		{Table: "remote", Name: "link", Type: String, Required: true, Doc: "name of the link it is called over"},
		{Table: "remote", Name: "host", Type: String, Required: true, Doc: "host name or address, with :port unless it is 25, or 366 with atrn and auto"},
		{Table: "remote", Name: "protocol", Type: String, Default: `"etrn"`, values: []string{"etrn", "atrn", "auto"}, Doc: "how mail is asked for"},
		{Table: "remote", Name: "router-type", Type: String, Default: `"push-only"`, values: []string{"push-only", "pull-only", "pull-push", "push-wait"}, Doc: "which way mail moves in a call"},
		{Table: "remote", Name: "request", Type: Strings, Doc: "what is asked for: domain, @domain, #queue; domains alone with atrn and auto"},
		{Table: "remote", Name: "connect-timeout", Type: Duration, Default: `"30s"`, min: 100 * ms, max: hour, Doc: "longest wait for a connection"},
		{Table: "remote", Name: "request-timeout", Type: Duration, Default: `"30s"`, min: 100 * ms, max: hour, Doc: "longest dialogue with the server, once connected"},
		{Table: "remote", Name: "wait", Type: Duration, Default: `"2m"`, min: 0, max: day, Doc: "how long the line stays open for mail to begin to arrive, or to go on in ATRN"},
		{Table: "remote", Name: "idle", Type: Duration, Default: `"5s"`, min: 100 * ms, max: hour, Doc: "how long inbound must be quiet when the server gave no count"},
		{Table: "remote", Name: "limit", Type: Duration, Default: `"1h"`, min: sec, max: 7 * day, Doc: "longest call"},
		{Table: "remote", Name: "push", Type: Strings, Doc: "what is held for it: domain, .domain, user@domain, *, or #queue"},
		{Table: "remote", Name: "deliver", Type: String, defaultDoc: `"smtp:[HOST]", with the name or address in host`, Doc: "next hop of what is pushed"},
		{Table: "remote", Name: "senders", Type: Strings, defaultDoc: "the addresses of host", Doc: "addresses and networks its mail comes from"},
		{Table: "remote", Name: "tls", Type: String, Default: `"auto"`, values: []string{"auto", "require", "insecure", "off"}, Doc: "what a call demands of TLS"},
		{Table: "remote", Name: "tls-ca", Type: String, defaultDoc: "the certificates of the system", Doc: "file with the authorities that may vouch for the server, PEM"},
		{Table: "remote", Name: "tls-name", Type: String, defaultDoc: "the name in host", Doc: "name that the server's certificate must bear"},
		{Table: "remote", Name: "tls-cert", Type: String, Doc: "file with a certificate of our own for the server, PEM"},
		{Table: "remote", Name: "tls-key", Type: String, Doc: "file with its key, PEM"},
		{Table: "remote", Name: "user", Type: String, Doc: "user name for AUTH"},
		{Table: "remote", Name: "password-file", Type: String, Doc: "file whose first line is the password"},
	}
}

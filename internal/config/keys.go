package config

import (
	"slices"
	"time"

	"github.com/BurntSushi/toml"
)

// key is one key of the file.
type key struct {
	table string // "" at the top, "mta", "queue" ...
	name  string
	kind  kind
	def   string // the default, as TOML; empty: none

	// required is what to write for a key that must be there whenever its
	// table is. Empty: it may be left out.
	required string

	// min and max bound durations and numbers. What lies outside is taken
	// for a slip of the unit: nobody waits a year for a reply.
	min, max int64
	// values are the words that are allowed, where there are only a few.
	values []string
	// defWords stands for the default where TOML cannot say it.
	defWords string
}

// kind is the type of a key's value, in the words of messages and the manual.
type kind string

const (
	str      kind = "string"
	list     kind = "list of strings"
	boolean  kind = "boolean"
	number   kind = "number"
	duration kind = "duration"
)

const (
	ms   = int64(time.Millisecond)
	sec  = int64(time.Second)
	hour = int64(time.Hour)
	day  = 24 * hour
)

// keys are all keys there are, in the order of the manual page: the one source
// of what is known, of types, bounds and defaults. What a key is for stands in
// the manual alone, which a test holds against this.
var keys = []key{
	{table: "", name: "hostname", kind: str, defWords: "the host name of the machine"},
	{table: "", name: "log-level", kind: str, def: `"info"`, values: []string{"debug", "info", "warning", "error"}},
	{table: "", name: "log-format", kind: str, def: `"text"`, values: []string{"text", "json"}},
	{table: "", name: "include", kind: str, defWords: "no other file"},

	{table: "mta", name: "type", kind: str, def: `"postfix"`, values: []string{"postfix"}},
	{table: "mta", name: "config-dir", kind: str, def: `"/etc/postfix"`},
	{table: "mta", name: "smtp", kind: str, def: `"127.0.0.1:25"`},
	{table: "mta", name: "transport", kind: str, def: `"transient"`},
	{table: "mta", name: "reconcile", kind: duration, def: `"1m"`, min: sec, max: day},
	{table: "mta", name: "split", kind: str, def: `""`},
	{table: "mta", name: "submission", kind: str, def: `"587"`},

	{table: "milter", name: "listen", kind: str, def: `"unix:/var/spool/postfix/etrnd/milter.sock"`},
	{table: "milter", name: "header", kind: str, def: `"X-ETRN-Queue"`},
	{table: "milter", name: "report", kind: str, def: `"unix:/run/etrnd/report.sock"`},

	{table: "policy", name: "listen", kind: str, def: `"unix:/var/spool/postfix/etrnd/policy.sock"`},

	{table: "odmr", name: "listen", kind: list, def: `["[::]:366"]`},
	{table: "odmr", name: "tls-cert", kind: str},
	{table: "odmr", name: "tls-key", kind: str},
	{table: "odmr", name: "users", kind: str},
	{table: "odmr", name: "cram-md5", kind: boolean, def: `false`},
	{table: "odmr", name: "max-connections", kind: number, def: `1000`, min: 1, max: 100000},
	{table: "odmr", name: "max-connections-per-client", kind: number, def: `20`, min: 1, max: 100000},
	{table: "odmr", name: "command-timeout", kind: duration, def: `"5m"`, min: sec, max: hour},
	{table: "odmr", name: "session-timeout", kind: duration, def: `"30m"`, min: sec, max: day},

	{table: "control", name: "listen", kind: str, def: `"unix:/run/etrnd/control.sock"`},
	{table: "control", name: "group", kind: str, def: `"etrnd"`},

	{table: "queue", name: "name", kind: str, required: `name = "acme"`},
	{table: "queue", name: "domains", kind: list, required: `domains = ["acme.example"]`},
	{table: "queue", name: "deliver", kind: str, required: `deliver = "smtp:[mail.acme.example]"`},
	{table: "queue", name: "clients", kind: list},
	{table: "queue", name: "users", kind: list},
	{table: "queue", name: "certificates", kind: list},
	{table: "queue", name: "relay", kind: boolean, defWords: "true for all but large networks"},
	{table: "queue", name: "window", kind: duration, def: `"5m"`, min: 0, max: day},
	{table: "queue", name: "min-interval", kind: duration, def: `"5s"`, min: 0, max: day},

	{table: "link", name: "name", kind: str, required: `name = "isp"`},
	{table: "link", name: "interfaces", kind: list},
	{table: "link", name: "dial", kind: list},
	{table: "link", name: "hang-up", kind: list},
	{table: "link", name: "dial-timeout", kind: duration, def: `"2m"`, min: sec, max: hour},
	{table: "link", name: "hang-up-timeout", kind: duration, def: `"30s"`, min: sec, max: hour},
	{table: "link", name: "limit", kind: duration, def: `"0s"`, min: 0, max: 31 * day},

	{table: "remote", name: "name", kind: str, required: `name = "hub"`},
	{table: "remote", name: "link", kind: str, required: `link = "isp", the name of a [[link]]`},
	{table: "remote", name: "host", kind: str, required: `host = "hub.example.net"`},
	{table: "remote", name: "protocol", kind: str, def: `"etrn"`, values: []string{"etrn", "atrn", "auto"}},
	{table: "remote", name: "router-type", kind: str, def: `"push-only"`, values: []string{"push-only", "pull-only", "pull-push", "push-wait"}},
	{table: "remote", name: "request", kind: list},
	{table: "remote", name: "connect-timeout", kind: duration, def: `"30s"`, min: 100 * ms, max: hour},
	{table: "remote", name: "request-timeout", kind: duration, def: `"30s"`, min: 100 * ms, max: hour},
	{table: "remote", name: "wait", kind: duration, def: `"2m"`, min: 0, max: day},
	{table: "remote", name: "idle", kind: duration, def: `"5s"`, min: 100 * ms, max: hour},
	{table: "remote", name: "limit", kind: duration, def: `"1h"`, min: sec, max: 7 * day},
	{table: "remote", name: "push", kind: list},
	{table: "remote", name: "deliver", kind: str, defWords: `"smtp:[HOST]", with the name or address in host`},
	{table: "remote", name: "push-login", kind: boolean, defWords: "true where deliver leads to host"},
	{table: "remote", name: "senders", kind: list, defWords: "the addresses of host"},
	{table: "remote", name: "tls", kind: str, def: `"auto"`, values: []string{"auto", "require", "insecure", "off"}},
	{table: "remote", name: "tls-ca", kind: str, defWords: "the certificates of the system"},
	{table: "remote", name: "tls-name", kind: str, defWords: "the name in host"},
	{table: "remote", name: "tls-cert", kind: str},
	{table: "remote", name: "tls-key", kind: str},
	{table: "remote", name: "user", kind: str},
	{table: "remote", name: "password-file", kind: str},
	{table: "remote", name: "cram-md5", kind: boolean, defWords: "true with protocol atrn and auto"},
}

// tables are the tables there are by their names, the top of the file being "",
// and the names in order.
var tables, tableNames = byTable(keys)

// tableKeys are the keys of a table, and what it holds when they are left out.
type tableKeys struct {
	keys     []*key // in order
	byName   map[string]*key
	defaults map[string]any // as the TOML library returns them
}

func byTable(keys []key) (map[string]*tableKeys, []string) {
	tables, names := map[string]*tableKeys{}, []string(nil)
	for i := range keys {
		k := &keys[i]
		t := tables[k.table]
		if t == nil {
			t = &tableKeys{byName: map[string]*key{}, defaults: map[string]any{}}
			tables[k.table] = t
			if k.table != "" {
				names = append(names, k.table)
			}
		}
		t.keys = append(t.keys, k)
		t.byName[k.name] = k
		if k.def == "" {
			continue
		}
		// A default goes through the same checks as what a file says.
		if _, err := toml.Decode(k.name+" = "+k.def, &t.defaults); err != nil {
			panic("config: the default of " + k.name + " is no TOML: " + err.Error())
		}
	}
	return tables, names
}

// isTable reports whether a key at the top of the file is the name of a table.
func isTable(name string) bool { return slices.Contains(tableNames, name) }

// repeated reports whether a table is written [[name]], once for each thing.
func repeated(table string) bool {
	return table == "queue" || table == "link" || table == "remote"
}

// header is how a table is written.
func header(table string) string {
	if repeated(table) {
		return "[[" + table + "]]"
	}
	return "[" + table + "]"
}

// home is where the keys of a table stand.
func home(table string) string {
	if table == "" {
		return "at the top of the file, before the first table"
	}
	return "in " + header(table)
}

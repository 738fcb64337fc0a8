// Package config reads etrnd.toml, the configuration file of both daemons and of
// etrnctl, and what it includes, into a validated Config.
//
// Reading is strict: an unknown key, a wrong type, a name that clashes or a
// value that cannot work is an error, and all of them are reported at once
// with the line they are on. What may be meant but is likely to surprise is a
// warning. The package opens the files that the configuration names to see
// whether they can be used, but keeps none of their contents; it does not
// talk to the MTA, resolve names or bind sockets.
package config

import (
	"log/slog"
	"net"
	"net/netip"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/etrnd/etrnd/internal/queue"
)

// DefaultPath is where the daemons and etrnctl look for the configuration.
const DefaultPath = "/etc/etrnd/etrnd.toml"

// Config is a configuration in which every value has been checked and every
// default filled in. It is shared between goroutines and must not be changed.
type Config struct {
	File     string // as given to Load or Parse
	Hostname string

	LogLevel  slog.Level
	LogFormat string // "text" or "json"

	// Include is the directory or pattern of the files that belong to the
	// configuration beside File, from the root; empty: none.
	Include string

	MTA     MTA
	Milter  Milter
	Policy  Policy
	ODMR    ODMR
	Control Control

	// Queues are the [[queue]] tables in the order of the files, followed by
	// the queue of every remote that pushes patterns of its own.
	Queues  []queue.Queue
	Links   []Link
	Remotes []Remote

	// Warnings are what the file says that works and is likely to surprise.
	Warnings []Problem

	set      *queue.Set
	included []string
}

// MTA says where the mail server is.
type MTA struct {
	Type      string // "postfix"
	ConfigDir string
	SMTP      string // host:port of the local SMTP listener, for which a call waits
	Transport string // name of the held transport
	Reconcile time.Duration
	// Split is the address and port of the loopback on which messages for
	// several queues are taken apart; empty: they stay one.
	Split string
	// Submission is the port, or the address and port, on which the MTA takes
	// mail from sites that log in with the users of ODMR; empty: none.
	Submission string
}

// Milter is the part of etrn-milter.
type Milter struct {
	Listen string // "unix:/path" or "host:port"
	Header string
	Report string // "unix:/path" of etrnd's socket for reports
}

// Policy is the service that Postfix asks before it accepts an ETRN.
type Policy struct {
	Listen string // "unix:/path" or "host:port"; empty: off
}

// ODMR is the listener of our own for ETRN.
type ODMR struct {
	Listen   []string // host:port each; empty: off
	TLSCert  string   // absolute paths; empty: none
	TLSKey   string
	Users    string
	CRAMMD5  bool `key:"cram-md5"`
	MaxConns int  `key:"max-connections"`
	// MaxConnsPerClient counts connections from one address.
	MaxConnsPerClient int `key:"max-connections-per-client"`
	CommandTimeout    time.Duration
	SessionTimeout    time.Duration
}

// Control is the socket of etrnctl.
type Control struct {
	Listen string // "unix:/path"
	Group  string
}

// Link is a transient connection of this host.
type Link struct {
	Name       string
	Interfaces []string // patterns of path.Match
	// Dial and HangUp are argument lists, never passed to a shell. Their
	// first element is an absolute path. Empty: no command.
	Dial          []string
	HangUp        []string
	DialTimeout   time.Duration
	HangUpTimeout time.Duration
	// Limit is the longest time that calls may use the line for each time
	// it is up. Zero: no limit.
	Limit time.Duration
}

// Match reports whether a network interface belongs to the link.
func (l *Link) Match(iface string) bool {
	for _, p := range l.Interfaces {
		if ok, err := path.Match(p, iface); ok && err == nil {
			return true
		}
	}
	return false
}

// Protocol is how a remote is asked for mail.
type Protocol string

// The protocols of a remote.
const (
	ProtocolETRN Protocol = "etrn" // RFC 1985: it connects to us
	ProtocolATRN Protocol = "atrn" // RFC 2645: over the connection that we opened
	ProtocolAuto Protocol = "auto" // ATRN where it is offered and there is a user, else ETRN
)

// Turns reports whether mail may come over a turned connection.
func (p Protocol) Turns() bool { return p == ProtocolATRN || p == ProtocolAuto }

// RouterType is which way mail moves in a call.
type RouterType string

// The router types of a remote.
const (
	PushOnly RouterType = "push-only"
	PullOnly RouterType = "pull-only"
	PullPush RouterType = "pull-push"
	PushWait RouterType = "push-wait" // what is held goes out when the other side asks
)

// Pulls reports whether a call requests mail.
func (t RouterType) Pulls() bool { return t == PullOnly || t == PullPush }

// Pushes reports whether a call releases mail for the remote on its own.
func (t RouterType) Pushes() bool { return t == PushOnly || t == PullPush }

// TLSMode is what a call demands of TLS.
type TLSMode string

// The TLS modes of a remote.
const (
	TLSAuto     TLSMode = "auto"     // use it when offered; credentials only over a verified certificate
	TLSRequire  TLSMode = "require"  // a verified certificate or no call
	TLSInsecure TLSMode = "insecure" // TLS without verification
	TLSOff      TLSMode = "off"
)

// PushLogin is where the credentials of a remote are used for what is pushed.
type PushLogin uint8

const (
	PushLoginHost   PushLogin = iota // where the next hop is the remote's host
	PushLoginAlways                  // with any next hop
	PushLoginNever
)

// Remote is a server called through a link.
type Remote struct {
	Name string
	Link string // name of a Link

	Host       string // name or address, without port and brackets
	Port       uint16
	Protocol   Protocol
	RouterType RouterType
	Request    []string // "acme.example", "@acme.example", "#acme": normalised, as sent; domains alone if Protocol.Turns

	ConnectTimeout time.Duration
	RequestTimeout time.Duration // the whole dialogue with the server
	Wait           time.Duration // how long the line stays open for mail to begin to arrive, or to go on when turned
	Idle           time.Duration // how long inbound must be quiet when the count is unknown
	Limit          time.Duration // the whole call

	// PushQueues names the queues that a call releases, or that the other
	// side may ask for with PushWait.
	PushQueues []string

	// PushLogin says where User and TLSCert prove who we are when mail is pushed.
	PushLogin PushLogin

	// Senders are where the remote's mail comes from. Empty: from the
	// addresses of Host, as they resolve at the time of the call.
	Senders []netip.Prefix

	TLS     TLSMode
	TLSCA   string // absolute paths; empty: none
	TLSName string // name that the certificate must bear
	TLSCert string
	TLSKey  string

	User         string
	PasswordFile string // absolute path; the password is its first line
	CRAMMD5      bool   // as well, where the remote offers nothing better
}

// Addr is the remote's address to dial.
func (r *Remote) Addr() string {
	return net.JoinHostPort(r.Host, strconv.Itoa(int(r.Port)))
}

// Included are the files that have been read beside File, and their directory if
// Include is one. Both daemons have to be able to open each.
func (c *Config) Included() []string { return c.included }

// Set returns the queues as a set to match recipients and requests with.
func (c *Config) Set() *queue.Set { return c.set }

// Link finds a link by its name, which minds no case.
func (c *Config) Link(name string) (*Link, bool) {
	for i := range c.Links {
		if sameName(c.Links[i].Name, name) {
			return &c.Links[i], true
		}
	}
	return nil, false
}

// LinkOf finds the link of a network interface. The first one in the file
// wins.
func (c *Config) LinkOf(iface string) (*Link, bool) {
	for i := range c.Links {
		if c.Links[i].Match(iface) {
			return &c.Links[i], true
		}
	}
	return nil, false
}

// Remote finds a remote by its name, which minds no case.
func (c *Config) Remote(name string) (*Remote, bool) {
	for i := range c.Remotes {
		if sameName(c.Remotes[i].Name, name) {
			return &c.Remotes[i], true
		}
	}
	return nil, false
}

// RemotesOf returns the remotes called over a link, in the order of the file.
func (c *Config) RemotesOf(link string) []*Remote {
	var rs []*Remote
	for i := range c.Remotes {
		if sameName(c.Remotes[i].Link, link) {
			rs = append(rs, &c.Remotes[i])
		}
	}
	return rs
}

func sameName(a, b string) bool { return strings.EqualFold(a, b) }

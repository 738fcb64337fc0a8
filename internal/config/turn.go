package config

import (
	"path/filepath"
	"strings"
)

// defaultSocketDir is the directory that the package makes below Postfix's
// queue directory, where Postfix's daemons reach it from their chroot.
const defaultSocketDir = "/var/spool/postfix/etrnd"

// TurnSocket is the path of the socket on which mail of a queue is taken while
// the site has turned its connection (RFC 2645). It is beside the socket of the
// policy service, in the directory in which etrnd alone may make files; or, where
// that service has no such socket, in the one that the package makes. It is never
// beside the milter's because that is there: whoever can write there could put a
// socket of his own in its place, and would be given the mail.
//
// The MTA's set-up routes the queue to it and etrnd listens on it, so both
// have it from here.
func (c *Config) TurnSocket(queue string) string {
	return filepath.Join(c.socketDir(), "turn-"+queue+".sock")
}

// LoginSocket is the path of the socket on which the MTA asks etrnd for logins,
// or empty when there is nothing to ask: no users, or no port to log in on.
func (c *Config) LoginSocket() string {
	if c.ODMR.Users == "" || c.MTA.Submission == "" || c.Policy.Listen == "" {
		return ""
	}
	return filepath.Join(c.socketDir(), "login.sock")
}

func (c *Config) socketDir() string {
	dir := defaultSocketDir
	if path, ok := strings.CutPrefix(c.Policy.Listen, "unix:"); ok {
		dir = filepath.Dir(path)
	}
	return dir
}

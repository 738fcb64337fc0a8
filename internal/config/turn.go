package config

import (
	"path/filepath"
	"strings"
)

// defaultSocketDir is the directory that the package makes below Postfix's
// queue directory, where Postfix's daemons reach it from their chroot.
const defaultSocketDir = "/var/spool/postfix/etrnd"

// TurnSocket is the path of the socket on which mail of a queue is taken while
// the site has turned its connection (RFC 2645). It is in the directory where
// the MTA and the daemons already meet: that of the policy service's socket,
// or else of the milter's.
//
// The MTA's set-up routes the queue to it and etrnd listens on it, so both
// have it from here.
func (c *Config) TurnSocket(queue string) string {
	dir := defaultSocketDir
	for _, listen := range []string{c.Policy.Listen, c.Milter.Listen} {
		if path, ok := strings.CutPrefix(listen, "unix:"); ok {
			dir = filepath.Dir(path)
			break
		}
	}
	return filepath.Join(dir, "turn-"+queue+".sock")
}

package odmr

import (
	"errors"
	"fmt"
	"strings"
)

const maxQueueName = 64

// checkName checks the parameter of ETRN: a domain name, "@" and a domain name,
// or "#" and a queue name (RFC 1985, section 5.2). The error is for the peer.
func checkName(name string) error {
	switch {
	case strings.HasPrefix(name, "#"):
		return checkQueueName(name[1:])
	case strings.HasPrefix(name, "@"):
		// A single label is a name here: "@com" is valid, and for the Asker to refuse.
		return checkDomain(name[1:], 1)
	case strings.HasPrefix(name, "["):
		return errors.New("a domain name is wanted, not an address")
	}
	return checkDomain(name, 2)
}

func checkQueueName(name string) error {
	if name == "" {
		return errors.New("no queue name behind #")
	}
	if len(name) > maxQueueName {
		return fmt.Errorf("queue name longer than %d characters", maxQueueName)
	}
	for _, c := range []byte(name) {
		if c <= ' ' || c > '~' {
			return errors.New("queue name with a space or a character that is not ASCII")
		}
	}
	return nil
}

// checkDomain takes host names and, since they exist, underscores.
func checkDomain(name string, labels int) error {
	if name == "" {
		return errors.New("no domain name")
	}
	if len(name) > 253 {
		return errors.New("domain name longer than 253 characters")
	}
	n, numeric := 0, false
	for label := range strings.SplitSeq(name, ".") {
		n++
		numeric = true
		switch {
		case label == "":
			return errors.New("domain name with an empty label")
		case len(label) > 63:
			return errors.New("domain name with a label longer than 63 characters")
		case label[0] == '-' || label[len(label)-1] == '-':
			return errors.New("domain name with a label that begins or ends with a hyphen")
		}
		for _, c := range []byte(label) {
			switch {
			case c >= '0' && c <= '9':
			case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c == '-', c == '_':
				numeric = false
			default:
				return errors.New("domain name with a character other than letters, digits, hyphen and underscore")
			}
		}
	}
	if numeric {
		return errors.New("a domain name is wanted, not an address")
	}
	if n < labels {
		return fmt.Errorf("domain name with fewer than %d labels", labels)
	}
	return nil
}

package etrn

import (
	"errors"
	"fmt"
	"strings"

	"github.com/etrnd/etrnd/internal/esmtp"
)

// MaxQueueName is the longest name of a queue, in bytes, here and in the
// configuration. RFC 1985 sets no limit; a name has to fit a command line of 512
// bytes, a header line and a table.
const MaxQueueName = 63

// ASCII is a name, or a domain of ATRN, as it is answered and logged: a domain with
// U-labels, of which RFC 1985 knows nothing, with A-labels.
func ASCII(name string) string {
	if rest, below := strings.CutPrefix(name, "@"); below {
		return "@" + esmtp.ASCII(rest)
	}
	return esmtp.ASCII(name)
}

// CheckName checks the parameter of ETRN: a domain name, "@" and a domain name,
// or "#" and a queue name (RFC 1985, section 5.2). The error is for the peer.
func CheckName(name string) error {
	switch {
	case strings.HasPrefix(name, "#"):
		return checkQueueName(name[1:])
	case strings.HasPrefix(name, "@"):
		// A single label is a name here: "@com" is valid, and to be refused by
		// whoever decides.
		return checkDomain(name[1:])
	}
	return CheckNode(name)
}

// CheckNode checks a domain of ATRN (RFC 2645, section 5.2.1), which is what ETRN
// calls a node: a fully qualified name. The error is for the peer.
func CheckNode(name string) error {
	if err := checkDomain(name); err != nil {
		return err
	}
	if !strings.Contains(name, ".") {
		return errors.New("expected a full domain name, got one label")
	}
	return nil
}

func checkDomain(name string) error {
	switch err := esmtp.CheckDomain(name); {
	case errors.Is(err, esmtp.ErrAddress), strings.HasPrefix(name, "["):
		return errors.New("expected a domain name, got an address")
	case name == "":
		return errors.New("expected a domain name, got nothing")
	case err != nil:
		return fmt.Errorf("not a domain name: %w", err)
	}
	return nil
}

// checkQueueName takes more than a queue may be called: RFC 1985, section 5.3,
// leaves the names to the server. One that no queue can have is as unknown as one
// that no queue has, except for its length.
func checkQueueName(name string) error {
	switch {
	case name == "":
		return errors.New("expected a queue name after #, got nothing")
	case len(name) > MaxQueueName:
		return fmt.Errorf("expected a queue name of at most %d characters, got %d", MaxQueueName, len(name))
	}
	for _, c := range []byte(name) {
		if c <= ' ' || c > '~' {
			return errors.New("a queue name is printable ASCII without spaces")
		}
	}
	return nil
}

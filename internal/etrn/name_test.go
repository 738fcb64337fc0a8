package etrn

import (
	"strings"
	"testing"
)

func TestCheckName(t *testing.T) {
	for _, c := range []struct {
		name string
		node bool // CheckNode takes it
		want string
	}{
		{"acme.example", true, ""},
		{"ACME.Example", true, ""},
		{"xn--bcher-kva.example", true, ""},
		{"_x-1.acme.example", true, ""},
		{"@acme.example", false, ""},
		{"@com", false, ""}, // for whoever decides
		{"#acme", false, ""},
		{"##", false, ""}, // no queue is called that, which is not a matter of syntax
		{"#" + strings.Repeat("q", 63), false, ""},
		// No queue can have a longer name.
		{"#" + strings.Repeat("q", 64), false, "expected a queue name of at most 63 characters, got 64"},
		{"#", false, "expected a queue name after #, got nothing"},
		{"#a\x7f", false, "a queue name is printable ASCII without spaces"},
		{"#a b", false, "a queue name is printable ASCII without spaces"},
		{"", false, "expected a domain name, got nothing"},
		{"@", false, "expected a domain name, got nothing"},
		{"localhost", false, "expected a full domain name, got one label"},
		{"192.0.2.1", false, "expected a domain name, got an address"},
		{"[192.0.2.1]", false, "expected a domain name, got an address"},
		{"@[192.0.2.1]", false, "expected a domain name, got an address"},
		{"@192.0.2.1", false, "expected a domain name, got an address"},
		{"2001:db8::1", false, "not a domain name: ':' may not be in it"},
		{"acme..example", false, "not a domain name: empty label"},
		{"acme.example.", false, "not a domain name: empty label"},
		{"acme.example,beta.example", false, "not a domain name: ',' may not be in it"},
		{"@@acme.example", false, "not a domain name: '@' may not be in it"},
		{"-acme.example", false, `not a domain name: a label begins or ends with "-"`},
	} {
		said := ""
		if err := CheckName(c.name); err != nil {
			said = err.Error()
		}
		if said != c.want {
			t.Errorf("%q: %q, want %q", c.name, said, c.want)
		}
		if err := CheckNode(c.name); (err == nil) != c.node {
			t.Errorf("%q for ATRN: %v", c.name, err)
		}
	}
}

package etrnd

import (
	"errors"
	"strings"
	"testing"

	"github.com/etrnd/etrnd/etrnd/hold"
)

// What a reload says of new mail for a domain that has gone is true whether the MTA
// has been set up before the reload, or is to be set up after it.
func TestSince(t *testing.T) {
	for name, c := range map[string]struct {
		found   *setUpFound
		current bool
		want    string
	}{
		"set up before":     {&setUpFound{ok: true}, true, "which is set up for that already"},
		"set up later":      {&setUpFound{}, true, "from \"etrnctl setup postfix --apply\" on"},
		"not known":         {nil, false, "once the MTA is set up"},
		"known of before":   {&setUpFound{ok: true}, false, "once the MTA is set up"},
		"cannot be found":   {&setUpFound{err: errors.New("x")}, true, "once the MTA is set up"},
		"was not, who says": {&setUpFound{}, false, "once the MTA is set up"},
	} {
		if got := since(c.found, c.current); !strings.Contains(got, c.want) {
			t.Errorf("%s: %q", name, got)
		}
	}
}

// A domain that is held for nobody is known by each of its spellings.
func TestNobodysDomain(t *testing.T) {
	n := hold.Nobody{Domains: []hold.NobodyDomain{{Domain: "acme.example"}, {Domain: "xn--bcher-kva.example"}}}
	for name, want := range map[string]string{
		"acme.example": "acme.example", "@ACME.Example": "acme.example", "acme.example.": "acme.example",
		"bücher.example": "xn--bcher-kva.example", "@BÜCHER.example": "xn--bcher-kva.example", "XN--BCHER-KVA.example": "xn--bcher-kva.example",
		"bu\u0308cher.example": "xn--bcher-kva.example",
	} {
		if got, ok := nobodys(name, n); !ok || got != want {
			t.Errorf("%s: %q, %v", name, got, ok)
		}
	}
	for _, name := range []string{"beta.example", "", "@", "sub.acme.example", "a b"} {
		if got, ok := nobodys(name, n); ok {
			t.Errorf("%q: %q", name, got)
		}
	}
}

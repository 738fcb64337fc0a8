package packaging

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// What comes after what at boot: mail that etrnd has Postfix send, and
// certificates that it judges, want a clock that has been set; and Postfix is to
// find the milter.
func TestUnitOrder(t *testing.T) {
	for unit, want := range map[string][2]string{
		"systemd/etrnd.service":       {"After", "time-set.target postfix.service network.target"},
		"systemd/etrn-milter.service": {"Before", "postfix.service postfix@-.service"},
	} {
		text, err := os.ReadFile(unit)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for line := range strings.Lines(string(text)) {
			if names, ok := strings.CutPrefix(strings.TrimSpace(line), want[0]+"="); ok {
				got = append(got, strings.Fields(names)...)
			}
		}
		for name := range strings.FieldsSeq(want[1]) {
			if !slices.Contains(got, name) {
				t.Errorf("%s: %s is %q, and lacks %s", unit, want[0], got, name)
			}
		}
	}
}

package postfix

import (
	"testing"
	"time"
)

func TestIsSession(t *testing.T) {
	const tail = " 77 77 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 5000 99 98"
	for stat, want := range map[string]bool{
		"123 (smtpd) S 77" + tail: true,
		"123 (smtp) S 77" + tail:  false,
		"123 (smtpd) S 78" + tail: false,
		"123 (smtpd) S 77":        false,
		"":                        false,
	} {
		if got := isSession(stat, "77", 5000); got != want {
			t.Errorf("%q: %v", stat, got)
		}
	}
	if isSession("123 (smtpd) S 77"+tail, "77", 4999) {
		t.Error("one that began later is an old one")
	}
	if m := MomentNow(); m <= 0 || Moment(time.Since(time.Unix(0, 0)).Seconds()*100) < m {
		t.Errorf("now is %d", m)
	}
}

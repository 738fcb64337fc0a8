package postfix

import (
	"os"
	"testing"
	"time"
)

func TestChildOf(t *testing.T) {
	const tail = " 77 77 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 5000 99 98"
	for stat, want := range map[string]bool{
		"123 (smtpd) S 77" + tail:           true,
		"123 (trivial-rewrite) S 77" + tail: true,
		"123 (a) S 77 (smtpd) S 78" + tail:  false, // a name can be anything
		"123 (smtp) S 77" + tail:            false,
		"123 (smtpd) Z 77" + tail:           false, // it has ended
		"123 (smtpd) S 78" + tail:           false,
		"123 (smtpd) S 77":                  false,
		"":                                  false,
	} {
		got, ok := childOf(stat, "77", []string{"smtpd", "trivial-rewrite"})
		if ok != want || ok && got != (Process{PID: 123, Began: 5000}) {
			t.Errorf("%q: %v, %v", stat, got, ok)
		}
	}
	list, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		t.Fatal(err)
	}
	self, _, _, ok := parseStat(string(list))
	if !ok || self.PID != os.Getpid() || !self.Alive() || (Process{PID: self.PID, Began: self.Began - 1}).Alive() || (Process{PID: 1 << 30}).Alive() {
		t.Errorf("this process is %+v, %v", self, ok)
	}
	if m := MomentNow(); m <= 0 || Moment(time.Since(time.Unix(0, 0)).Seconds()*100) < m {
		t.Errorf("now is %d", m)
	}
}

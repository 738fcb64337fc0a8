package main

import (
	"strings"
	"testing"
	"time"

	"github.com/etrnd/etrnd/internal/mta"
)

// Mail that was accepted in 1970, or is from the future, tells of a clock that
// was wrong; mail that is old, or on hold, does not.
func TestClockOfMail(t *testing.T) {
	const day = 24 * time.Hour
	m := func(id, queue string, at time.Time) mta.Message {
		return mta.Message{ID: id, Queue: queue, Arrived: at}
	}
	fine := []mta.Message{m("A", "deferred", noon.Add(-5*day)), m("B", "hold", time.Unix(60, 0)), m("C", "maildrop", time.Time{}), m("D", "deferred", noon.Add(time.Minute))}
	if found := clockOfMail(fine, 5*day, noon); len(found) != 0 {
		t.Errorf("found %+v", found)
	}
	found := clockOfMail(append(fine, m("E", "deferred", time.Unix(180, 0)), m("F", "deferred", noon.Add(-7*day)), m("G", "active", noon.Add(day))), 5*day, noon)
	if len(found) != 2 {
		t.Fatalf("found %+v", found)
	}
	for i, want := range []string{"2 messages are older than Postfix keeps mail (maximal_queue_lifetime, 120h0m0s), such as E of 1970-01-01 00:03 UTC", "1 message is from the future, such as G of 2026-03-02 12:00 UTC"} {
		if !strings.HasPrefix(found[i].Text, want) {
			t.Errorf("%q, want %q", found[i].Text, want)
		}
	}
}

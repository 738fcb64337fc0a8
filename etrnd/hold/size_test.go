package hold

import (
	"fmt"
	"testing"
	"time"

	"github.com/etrnd/etrnd/internal/etrn"
)

// What a question costs does not depend on how much is held for others: with a
// hundred times as much of it, a question that looked at all would take about a
// hundred times as long. The quickest of many tries is compared, for the machine
// has other things to do.
func TestQuestionsDoNotGrow(t *testing.T) {
	const few, many, queues = 1000, 100000, 100
	for name, question := range map[string]func(*Manager, int){
		"ETRN": func(m *Manager, i int) {
			who := etrn.Identity{User: "u", Session: fmt.Sprint(i)}
			if a := m.Ask(t.Context(), who, "#customer00000"); a.Code != 253 && a.Code != 458 {
				t.Fatalf("%+v", a)
			}
		},
		"the policy service": func(m *Manager, i int) {
			if a := m.AskStripped(etrn.Identity{User: "u", Session: fmt.Sprint(i)}, "customer00000"); a.Code != 253 && a.Code != 458 {
				t.Fatalf("%+v", a)
			}
		},
		"the state of all": func(m *Manager, _ int) {
			n := 0
			for range m.States() {
				n++
			}
			if n != queues {
				t.Fatalf("%d queues", n)
			}
		},
		"held for nobody": func(m *Manager, _ int) { m.Nobody(10) },
	} {
		t.Run(name, func(t *testing.T) {
			quickest := func(n int) time.Duration {
				m, _ := full(t, n, queues)
				best := time.Hour
				for i := range 200 {
					began := time.Now()
					question(m, i)
					best = min(best, time.Since(began))
				}
				return best
			}
			if a, b := quickest(few), quickest(many); b > 20*max(a, 10*time.Microsecond) {
				t.Errorf("%v with %d messages, %v with %d", a, few, b, many)
			}
		})
	}
}

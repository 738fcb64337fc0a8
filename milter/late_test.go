package milter

import (
	"testing"

	gomilter "github.com/d--j/go-milter"

	"github.com/etrnd/etrnd/internal/queue"
	"github.com/etrnd/etrnd/internal/report"
)

// Where nobody waits to hear of sessions the MTA need not wait for an answer to
// each client, sender and recipient either, nor tell of those that it refuses.
func TestLate(t *testing.T) {
	set, err := queue.NewSet(nil)
	if err != nil {
		t.Fatal(err)
	}
	const answers = gomilter.OptNoConnReply | gomilter.OptNoMailReply | gomilter.OptNoRcptReply | gomilter.OptRcptRej
	for late, want := range map[bool]gomilter.OptProtocol{false: gomilter.OptRcptRej, true: answers &^ gomilter.OptRcptRej} {
		m, err := New(Options{Settings: Settings{Header: "X-ETRN-Queue", Queues: set, Late: late}, Report: func(report.Event) {}})
		if err != nil {
			t.Fatal(err)
		}
		_, _, options, _, err := m.negotiate(6, 6, ^gomilter.OptAction(0), 0, ^gomilter.OptProtocol(0), 0, 0)
		if err != nil || options&answers != want {
			t.Errorf("late %t: options %#x, %v", late, options, err)
		}
	}
}

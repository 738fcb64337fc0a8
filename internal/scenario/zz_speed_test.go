package scenario

import (
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/etrnd/etrnd/internal/testbed"
)

func TestZZSpeed(t *testing.T) {
	v := os.Getenv("SPEED")
	if v == "" {
		t.SkipNow()
	}
	shapes := map[string]testbed.Shape{
		"a": {RTT: 600 * time.Millisecond, Rate: 128e3},
		"b": {RTT: 600 * time.Millisecond, Rate: 10e6},
		"c": {RTT: 80 * time.Millisecond, Rate: 2e6, Loss: 0.01},
	}
	n := 200
	if v == "b" {
		n = 1000
	}
	if s := os.Getenv("N"); s != "" {
		n, _ = strconv.Atoi(s)
	}
	size := 2000
	if s := os.Getenv("SIZE"); s != "" {
		size, _ = strconv.Atoi(s)
	}
	old := programs
	programs, _ = Build(t.Context(), false)
	defer programs.Close()
	ctx, w := worldATRN(t, Options{Shape: shapes[v]})
	programs = old
	ids := send(ctx, t, w.Online, hubName+":25", Messages(n, size, "a@acme.example"))
	must(t, w.Hub.WaitQueue(ctx, "acme", n))
	b0, a0 := w.Line.Counters(testbed.BtoA), w.Line.Counters(testbed.AtoB)
	start := time.Now()
	used := pull(ctx, t, w, "")
	dup := delivered(ctx, t, w.SiteHost, ids)
	b1, a1 := w.Line.Counters(testbed.BtoA), w.Line.Counters(testbed.AtoB)
	all, _ := w.SiteHost.Delivered()
	first, last := all[0].Time.Sub(start), all[len(all)-1].Time.Sub(start)
	t.Logf("%s: used %.2f s, first %.2f, last %.2f, dup %d; to site %.0f B/msg in %.2f packets, back %.0f B in %.2f; %d lost %d overflow; link share of all bytes until last %.1f%%", v, used.Seconds(), first.Seconds(), last.Seconds(), dup,
		float64(b1.Bytes-b0.Bytes)/float64(n), float64(b1.Packets-b0.Packets)/float64(n),
		float64(a1.Bytes-a0.Bytes)/float64(n), float64(a1.Packets-a0.Packets)/float64(n), b1.Lost-b0.Lost, b1.Overflow-b0.Overflow,
		100*float64(b1.Bytes-b0.Bytes)*8/float64(shapes[v].Rate)/last.Seconds())
	log, _ := w.HubHost.ReadFile("/var/log/etrnd.log")
	t.Logf("%s", log[max(0, len(log)-1500):])
}

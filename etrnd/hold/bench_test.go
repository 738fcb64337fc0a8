package hold

import (
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/etrnd/etrnd/internal/etrn"
	"github.com/etrnd/etrnd/internal/mta"
	"github.com/etrnd/etrnd/internal/queue"
)

// provider is the queues of n customers, with two domains each.
func provider(t testing.TB, n int) *queue.Set {
	queues := make([]queue.Queue, n)
	for i := range queues {
		q := queue.Queue{Name: fmt.Sprintf("customer%05d", i), Window: time.Minute, Users: []string{"u"}}
		for _, d := range []string{fmt.Sprintf("customer%05d.example", i), fmt.Sprintf(".customer%05d.example", i)} {
			p, err := queue.ParsePattern(d)
			if err != nil {
				t.Fatal(err)
			}
			q.Domains = append(q.Domains, p)
		}
		queues[i] = q
	}
	set, err := queue.NewSet(queues)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// spread is n messages over the queues, with strings of their own, as a listing
// has them. The first queue has one message, whatever n is.
func spread(n, queues int) []mta.Message {
	list := make([]mta.Message, n)
	for i := range list {
		c := 0
		if i > 0 {
			c = 1 + i%(queues-1)
		}
		list[i] = mta.Message{
			ID: fmt.Sprintf("4c%011dz", i), Queue: strings.Clone("deferred"), Arrived: time.Unix(1e9+int64(i)/10, 0), Size: 4000 + int64(i%1000),
			Recipients: []mta.Recipient{{Address: fmt.Sprintf("somebody%d@customer%05d.example", i, c), Reason: strings.Clone(mta.ReasonHeld)}},
		}
	}
	return list
}

// full is a Manager that has seen a listing of n messages.
func full(b testing.TB, n, queues int) (*Manager, []mta.Message) {
	m := New(Options{Queues: provider(b, queues), Reconcile: time.Minute, Logger: slog.New(slog.DiscardHandler)})
	list := spread(n, queues)
	start := time.Now()
	m.compareAll(m.Queues(), list, start)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.listed, m.total, m.listEnded, m.listAt = start, n, time.Now(), start.Add(time.Hour)
	return m, list
}

var heldSizes = []int{1000, 10000, 100000}

// BenchmarkState asks for a queue of one message.
func BenchmarkState(b *testing.B) {
	for _, n := range heldSizes {
		b.Run(fmt.Sprintf("held=%d", n), func(b *testing.B) {
			m, _ := full(b, n, 100)
			for b.Loop() {
				if s, ok := m.State("customer00000"); !ok || s.Messages != 1 {
					b.Fatal(s)
				}
			}
		})
	}
}

// BenchmarkStates asks for all queues.
func BenchmarkStates(b *testing.B) {
	for _, queues := range []int{100, 10000} {
		b.Run(fmt.Sprintf("queues=%d", queues), func(b *testing.B) {
			m, _ := full(b, 100000, queues)
			b.ReportAllocs()
			for b.Loop() {
				n := 0
				for range m.States() {
					n++
				}
				if n != queues {
					b.Fatal(n)
				}
			}
		})
	}
}

// BenchmarkAsk asks for a queue of one message by ETRN: by name, and for a
// domain in which nothing is held.
func BenchmarkAsk(b *testing.B) {
	for _, name := range []string{"#customer00000", "none.customer00001.example"} {
		for _, n := range heldSizes {
			b.Run(fmt.Sprintf("%s/held=%d", strings.Trim(name, "#"), n), func(b *testing.B) {
				m, _ := full(b, n, 100)
				for b.Loop() {
					if a := m.Ask(b.Context(), etrn.Identity{User: "u"}, name); a.Code == 459 {
						b.Fatal(a)
					}
				}
			})
		}
	}
}

// BenchmarkAskAtAProviders has 10,000 customers with 100,000 messages ask one
// after the other, each for all that is his, while listings are compared.
func BenchmarkAskAtAProviders(b *testing.B) {
	for _, form := range []string{"#customer%05d", "customer%05d.example", "@customer%05d.example"} {
		b.Run(strings.ReplaceAll(form, "%05d", ""), func(b *testing.B) { askAtAProviders(b, form) })
	}
}

func askAtAProviders(b *testing.B, form string) {
	const queues = 10000
	m, list := full(b, 100000, queues)
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			case <-time.After(200 * time.Millisecond): // less than a listing takes Postfix
				m.compareAll(m.Queues(), list, time.Now())
			}
		}
	}()
	var took []time.Duration
	for i := 0; b.Loop(); i++ {
		start := time.Now()
		a := m.Ask(b.Context(), etrn.Identity{User: "u"}, fmt.Sprintf(form, i%queues))
		took = append(took, time.Since(start))
		if a.Code == 459 {
			b.Fatal(a)
		}
	}
	close(stop)
	<-stopped
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)*99/100].Nanoseconds()), "p99-ns")
	b.ReportMetric(float64(took[len(took)-1].Nanoseconds()), "max-ns")
}

// BenchmarkRelease lets all of a queue go, and takes it back.
func BenchmarkRelease(b *testing.B) {
	for _, n := range heldSizes {
		b.Run(fmt.Sprintf("queue=10/held=%d", n), func(b *testing.B) {
			m, _ := full(b, n, 1+n/10)
			for b.Loop() {
				m.Pin(queue.Selection{Queue: "customer00001"})()
			}
		})
	}
}

// BenchmarkList compares 100,000 messages: with an index that knows them, and
// with one that is empty, as at the start.
func BenchmarkList(b *testing.B) {
	const n, queues = 100000, 10000
	b.Run("unchanged", func(b *testing.B) {
		m, list := full(b, n, queues)
		b.ReportAllocs()
		for b.Loop() {
			if m.compareAll(m.Queues(), list, time.Now()) {
				b.Fatal("something has moved")
			}
		}
	})
	b.Run("empty", func(b *testing.B) {
		set, list := provider(b, queues), spread(n, queues)
		b.ReportAllocs()
		for b.Loop() {
			m := New(Options{Queues: set, Reconcile: time.Minute})
			m.compareAll(set, list, time.Now())
		}
	})
}

// BenchmarkReload swaps 10,000 queues for as many.
func BenchmarkReload(b *testing.B) {
	m, _ := full(b, 100000, 10000)
	other := provider(b, 10000)
	for b.Loop() {
		m.SetQueues(other)
	}
}

// BenchmarkMemory is what the index takes for each message that is held.
func BenchmarkMemory(b *testing.B) {
	for _, queues := range []int{2, 100, 10000} {
		b.Run(fmt.Sprintf("queues=%d", queues), func(b *testing.B) {
			for b.Loop() {
				b.ReportMetric(perMessage(b, queues), "B/message")
			}
		})
	}
}

// TestMemory holds the index of a provider to what is promised for it: 300 bytes for
// each message, with what is to be collected and not given back yet, which is a fifth.
func TestMemory(t *testing.T) {
	if n := perMessage(t, 10000); n > 250 {
		t.Errorf("%.0f bytes for each message", n)
	}
}

// perMessage is what 100,000 messages take, in bytes for each.
func perMessage(t testing.TB, queues int) float64 {
	const n = 100000
	set := provider(t, queues)
	inUse := func() int64 {
		runtime.GC()
		runtime.GC()
		var s runtime.MemStats
		runtime.ReadMemStats(&s)
		return int64(s.HeapAlloc)
	}
	before := inUse()
	m := New(Options{Queues: set, Reconcile: time.Minute})
	m.compareAll(set, spread(n, queues), time.Now())
	after := inUse()
	if s, ok := m.State("customer00000"); !ok || s.Messages != 1 {
		t.Errorf("%+v", s)
	}
	return float64(after-before) / n
}

// BenchmarkAskForMuch asks for a queue that has all the mail but one message, and
// meanwhile for that one, which must not wait for the other.
func BenchmarkAskForMuch(b *testing.B) {
	for _, n := range heldSizes {
		b.Run(fmt.Sprintf("held=%d", n), func(b *testing.B) {
			var others []time.Duration
			for b.Loop() {
				b.StopTimer()
				m, _ := full(b, n, 2)
				stop, stopped := make(chan struct{}), make(chan struct{})
				go func() {
					defer close(stopped)
					for {
						select {
						case <-stop:
							return
						default:
							start := time.Now()
							m.State("customer00000")
							others = append(others, time.Since(start))
							time.Sleep(100 * time.Microsecond)
						}
					}
				}()
				b.StartTimer()
				if a := m.Ask(b.Context(), etrn.Identity{User: "u"}, "#customer00001"); a.Code != 253 || a.Count != n-1 {
					b.Fatal(a)
				}
				b.StopTimer()
				close(stop)
				<-stopped
				b.StartTimer()
			}
			slices.Sort(others)
			b.ReportMetric(float64(others[len(others)*99/100].Nanoseconds()), "others-p99-ns")
			b.ReportMetric(float64(others[len(others)-1].Nanoseconds()), "others-max-ns")
		})
	}
}

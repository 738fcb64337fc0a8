package main

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/etrnd/etrnd/internal/api"
)

// BenchmarkQueues shows 10,000 queues.
func BenchmarkQueues(b *testing.B) {
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		b.Fatal(err)
	}
	defer null.Close()
	now := time.Now()
	var qs []api.Queue
	for i := range 10000 {
		name := fmt.Sprintf("customer%05d", i)
		qs = append(qs, api.Queue{Name: name, Messages: 10, Bytes: 10000, Oldest: &now, Domains: []string{name + ".example", "." + name + ".example"}, Deliver: "turn", Released: &now})
	}
	a := &app{out: null, now: time.Now, zone: time.UTC}
	for b.Loop() {
		if err := a.renderQueues(qs); err != nil {
			b.Fatal(err)
		}
	}
}

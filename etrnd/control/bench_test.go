package control

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/etrnd/etrnd/internal/api"
)

// BenchmarkQueues asks for 10,000 queues: what the daemon says, and what a client
// makes of it.
func BenchmarkQueues(b *testing.B) {
	now := time.Now()
	list := []api.Queue{}
	for i := range 10000 {
		name := fmt.Sprintf("customer%05d", i)
		list = append(list, api.Queue{Name: name, Messages: 10, Bytes: 10000, Oldest: &now, Domains: []string{name + ".example", "." + name + ".example"}, Deliver: "turn", Released: &now})
	}
	socket, _ := serve(b, Options{Backend: &backend{queues: func(context.Context) ([]api.Queue, error) { return list, nil }}})
	c := NewClient(ClientOptions{Socket: socket})
	defer c.Close()
	b.ReportAllocs()
	for b.Loop() {
		if got, err := c.Queues(b.Context()); err != nil || len(got) != len(list) {
			b.Fatal(len(got), err)
		}
	}
}

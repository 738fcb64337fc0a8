package milter

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/etrnd/etrnd/internal/report"
)

// Serve closes its listener also when it is to end before it has begun: a file
// descriptor that stays open is a socket on which nobody answers.
func TestServeClosesItsListener(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for range 50 { // how far the start gets is a race
		ln, err := net.Listen("unix", filepath.Join(t.TempDir(), "m"))
		if err != nil {
			t.Fatal(err)
		}
		m, err := New(Options{Settings: Settings{Header: "X-ETRN-Queue", Queues: acme(t)}, Report: func(report.Event) {}})
		if err != nil {
			t.Fatal(err)
		}
		if err := m.Serve(ctx, ln); err != nil {
			t.Fatal(err)
		}
		if err := ln.Close(); !errors.Is(err, net.ErrClosed) {
			t.Fatalf("Close after Serve: %v, want it to be closed already", err)
		}
		if c, err := net.Dial("unix", ln.Addr().String()); !errors.Is(err, syscall.ENOENT) {
			t.Fatalf("Dial after Serve: %v, %v", c, err)
		}
	}
}

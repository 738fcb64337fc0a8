package listen

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"runtime/debug"
	"sync"
	"time"
)

// Handler serves one connection, which is closed when it returns. stop ends
// when no more work is to be begun on the connection, and ctx when the time to
// finish is over too; the connection is closed then.
type Handler func(ctx, stop context.Context, conn net.Conn)

// ServeOptions of Serve. The zero value has no limits, and ends connections at
// once.
type ServeOptions struct {
	Limits *Limits
	// Drain is how long connections may go on after the end.
	Drain  time.Duration
	Logger *slog.Logger
}

// Serve has every connection of ln served, in a goroutine of its own, until ctx
// ends, which is no error, or ln fails. It then closes ln, tells the handlers to
// stop, and returns when the last one has. A panic ends its own connection
// alone.
func Serve(ctx context.Context, ln net.Listener, o ServeOptions, handle Handler) error {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	ln = Resilient(ln, o.Logger)
	if o.Limits != nil {
		ln = o.Limits.Listener(ln)
	}
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	// The listener is closed on this context, not on its parent: whoever finds
	// it closed must find the same context ended.
	stop, end := context.WithCancel(ctx)
	defer end()
	defer context.AfterFunc(stop, func() { ln.Close() })()

	var wg sync.WaitGroup
	err := accept(stop, ln, func(conn net.Conn) {
		wg.Go(func() {
			defer conn.Close()
			defer context.AfterFunc(work, func() { conn.Close() })()
			defer func() {
				if p := recover(); p != nil {
					o.Logger.Error("panic while serving a connection", "listener", ln.Addr().String(),
						"client", conn.RemoteAddr().String(), "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
				}
			}()
			handle(work, stop, conn)
		})
	})
	ln.Close()
	end()
	gone := make(chan struct{})
	go func() { wg.Wait(); close(gone) }()
	timer := time.NewTimer(o.Drain)
	defer timer.Stop()
	select {
	case <-gone:
	case <-timer.C:
		cancel()
		<-gone
	}
	return err
}

// accept hands out connections until stop ends, which is no error, or the
// listener fails.
func accept(stop context.Context, ln net.Listener, begin func(net.Conn)) error {
	for {
		conn, err := ln.Accept()
		switch {
		case stop.Err() != nil:
			if err == nil {
				conn.Close()
			}
			return nil
		case err != nil:
			return fmt.Errorf("listener %s: %w", ln.Addr(), err)
		}
		begin(conn)
	}
}

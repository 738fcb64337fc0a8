package listen

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// pipes is a listener whose connections are pipes of the test.
type pipes struct {
	conns  chan net.Conn
	failed chan error
	closed chan struct{}
}

func newPipes() *pipes {
	return &pipes{conns: make(chan net.Conn), failed: make(chan error), closed: make(chan struct{})}
}

func (p *pipes) dial() net.Conn {
	a, b := net.Pipe()
	p.conns <- b
	return a
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case err := <-p.failed:
		return nil, err
	case <-p.closed:
		return nil, net.ErrClosed
	}
}
func (p *pipes) Close() error   { close(p.closed); return nil }
func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipes", Net: "unix"} }

// The end comes in two steps: handlers are told to stop, and only those that
// have not after the time to drain lose their connection.
func TestServeDrains(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ln := newPipes()
		ctx, cancel := context.WithCancel(t.Context())
		served := make(chan error, 1)
		var ended []string
		done := make(chan string, 2)
		go func() {
			served <- Serve(ctx, ln, ServeOptions{Drain: 10 * time.Second}, func(ctx, stop context.Context, c net.Conn) {
				kind := make([]byte, 1)
				io.ReadFull(c, kind)
				switch string(kind) {
				case "o": // an orderly one, which has something to finish
					<-stop.Done()
					time.Sleep(time.Second)
					if ctx.Err() != nil {
						t.Error("the context has ended before the time to drain is over")
					}
				case "s": // a stubborn one
					if _, err := c.Read(kind); !errors.Is(err, io.ErrClosedPipe) || ctx.Err() == nil {
						t.Errorf("the stubborn one reads: %v, its context: %v", err, ctx.Err())
					}
				}
				done <- string(kind)
			})
		}()
		orderly, stubborn := ln.dial(), ln.dial()
		io.WriteString(orderly, "o")
		io.WriteString(stubborn, "s")
		synctest.Wait()
		cancel()
		began := time.Now()
		for range 2 {
			ended = append(ended, <-done)
		}
		if took := time.Since(began); strings.Join(ended, "") != "os" || took != 10*time.Second {
			t.Errorf("%v ended within %v, want the stubborn one last, after 10 s", ended, took)
		}
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
		// Serve closes what it has served.
		if _, err := orderly.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("the orderly one's connection: %v", err)
		}
	})
}

// Nobody is waited for who has no connection.
func TestServeEndsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		began := time.Now()
		if err := Serve(ctx, newPipes(), ServeOptions{Drain: time.Hour}, nil); err != nil || time.Since(began) != 0 {
			t.Errorf("Serve: %v after %v", err, time.Since(began))
		}
	})
}

// A listener that fails ends the connections too, and the failure is told.
func TestServeListenerFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ln := newPipes()
		stopped := false
		served := make(chan error, 1)
		go func() {
			served <- Serve(t.Context(), ln, ServeOptions{}, func(_, stop context.Context, c net.Conn) {
				<-stop.Done()
				stopped = true
			})
		}()
		defer ln.dial().Close()
		synctest.Wait()
		ln.failed <- errors.New("broken")
		if err := <-served; err == nil || err.Error() != "listener pipes: broken" || !stopped {
			t.Errorf("Serve: %v; the handler was stopped: %v", err, stopped)
		}
	})
}

// A panic is the end of one connection.
func TestServePanic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		ln := newPipes()
		ctx, cancel := context.WithCancel(t.Context())
		served := make(chan error, 1)
		go func() {
			served <- Serve(ctx, ln, ServeOptions{Logger: slog.New(slog.NewTextHandler(&log, nil))}, func(_, _ context.Context, c net.Conn) {
				io.Copy(c, io.LimitReader(c, 1))
				panic("boom")
			})
		}()
		for range 2 {
			c := ln.dial()
			io.WriteString(c, "x")
			if b, err := io.ReadAll(c); err != nil || string(b) != "x" {
				t.Errorf("read %q, %v", b, err)
			}
		}
		cancel()
		if err := <-served; err != nil || strings.Count(log.String(), "panic=boom") != 2 || !strings.Contains(log.String(), "serve_test.go") {
			t.Errorf("Serve: %v; log:\n%s", err, &log)
		}
	})
}

package odmr

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/etrnd/etrnd/internal/etrn"
	"github.com/etrnd/etrnd/internal/hang"
)

// Strangers share the lines that the log has of them, however many sessions they
// have; of whoever may ask for something it has all, meanwhile too.
func TestStrangersInTheLog(t *testing.T) {
	var mu sync.Mutex
	var out bytes.Buffer
	server, err := NewServer(ServerOptions{Hostname: "hub.example.net", Asker: mayAsk{}, Logger: slog.New(slog.NewTextHandler(locked{&mu, &out}, nil))})
	if err != nil {
		t.Fatal(err)
	}
	say := func(lines string) {
		ours, theirs := net.Pipe()
		defer ours.Close()
		ours.SetDeadline(hang.Deadline())
		over := make(chan struct{})
		go func() {
			defer close(over)
			newDialogue(server, theirs, netip.Addr{}, nil).run(t.Context())
		}()
		go io.WriteString(ours, lines)
		io.Copy(io.Discard, ours)
		<-over
	}
	for range 300 {
		say("EHLO x.example\r\nQUIT\r\n")
	}
	for range 3 {
		say("EHLO x.example\r\nETRN mine.example\r\nQUIT\r\n")
	}
	mu.Lock()
	defer mu.Unlock()
	if n := strings.Count(out.String(), "\n"); n > 160 {
		t.Errorf("%d lines", n)
	}
	if a, b := strings.Count(out.String(), "name=mine.example"), strings.Count(out.String(), "commands=3"); a != 3 || b != 3 {
		t.Errorf("of those who may ask: %d requests and %d ends in the log", a, b)
	}
}

type mayAsk struct{}

func (mayAsk) Ask(_ context.Context, _ etrn.Identity, name string) etrn.Answer {
	if name == "mine.example" {
		return etrn.Answer{Code: 251}
	}
	return etrn.Answer{Code: 459}
}

type locked struct {
	mu *sync.Mutex
	w  io.Writer
}

func (l locked) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(b)
}

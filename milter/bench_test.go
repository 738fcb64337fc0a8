package milter

import (
	"context"
	"log/slog"
	"net"
	"path/filepath"
	"testing"

	gomilter "github.com/d--j/go-milter"

	"github.com/etrnd/etrnd/internal/queue"
	"github.com/etrnd/etrnd/internal/report"
)

// BenchmarkMessage is one session with one message, as an MTA has it, for mail
// that is held and for mail that is not.
func BenchmarkMessage(b *testing.B) {
	p, err := queue.ParsePattern("acme.example")
	if err != nil {
		b.Fatal(err)
	}
	set, err := queue.NewSet([]queue.Queue{{Name: "acme", Domains: []queue.Pattern{p}}})
	if err != nil {
		b.Fatal(err)
	}
	for what, to := range map[string]string{"held": "a@acme.example", "other": "a@elsewhere.example"} {
		for when, late := range map[string]bool{"late": true, "at once": false} {
			b.Run(what+"/"+when, func(b *testing.B) {
				path := filepath.Join(b.TempDir(), "milter.sock")
				ln, err := net.Listen("unix", path)
				if err != nil {
					b.Fatal(err)
				}
				m, err := New(Options{
					Settings: Settings{Header: "X-ETRN-Queue", Queues: set, Transport: "transient", Late: late, Mark: "X-ETRN-Split"},
					Report:   func(report.Event) {}, Logger: slog.New(slog.DiscardHandler),
				})
				if err != nil {
					b.Fatal(err)
				}
				ctx, stop := context.WithCancel(b.Context())
				done := make(chan error, 1)
				go func() { done <- m.Serve(ctx, ln) }()
				defer func() { stop(); <-done }()
				client := gomilter.NewClient("unix", path)
				for b.Loop() {
					if err := oneMessage(client, to); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

func oneMessage(client *gomilter.Client, to string) error {
	s, err := client.Session(gomilter.NewMacroBag())
	if err != nil {
		return err
	}
	defer s.Close()
	if _, err := s.Conn("mail.example.org", gomilter.FamilyInet, 25, "192.0.2.7"); err != nil {
		return err
	}
	if _, err := s.Helo("mail.example.org"); err != nil {
		return err
	}
	if _, err := s.Mail("sender@example.org", "SIZE=2000"); err != nil {
		return err
	}
	if _, err := s.Rcpt(to, ""); err != nil {
		return err
	}
	if _, err := s.DataStart(); err != nil {
		return err
	}
	for _, name := range []string{"Received", "From", "To", "Subject", "Date", "Message-ID", "MIME-Version", "Content-Type"} {
		if _, err := s.HeaderField(name, "something that is as long as a header mostly is", nil); err != nil {
			return err
		}
	}
	if _, err := s.HeaderEnd(); err != nil {
		return err
	}
	if _, err := s.BodyChunk([]byte("text")); err != nil {
		return err
	}
	if _, _, err := s.End(); err != nil {
		return err
	}
	return nil
}

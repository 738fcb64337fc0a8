package main

import (
	"log/slog"
	"testing"

	"github.com/etrnd/etrnd/internal/config"
	"github.com/etrnd/etrnd/internal/daemon"
)

// Where Postfix cannot be asked, mail that only "*" matches counts as held:
// uncounted, it would stay behind when the site hangs up.
func TestLocalUnknown(t *testing.T) {
	cfg, err := config.Parse("etrnd.toml", []byte(`hostname = "hub.example.net"
[mta]
config-dir = "/nonexistent"
[[queue]]
name = "out"
domains = ["*"]
deliver = "smtp:[127.0.0.1]:9"
clients = ["192.0.2.0/24"]
`), config.WithoutFiles())
	if err != nil {
		t.Fatal(err)
	}
	d := &milterd{e: daemon.Env{Config: cfg}, log: slog.New(slog.NewTextHandler(t.Output(), nil))}
	if d.settings(t.Context(), cfg).Local("far.example") {
		t.Error("a domain of which nothing is known is taken to be local")
	}
}

//go:build !quick

package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/etrnd/etrnd/internal/account"
	"github.com/etrnd/etrnd/internal/config"
)

// What is included is tried as the users of the daemons, too: root reads it all.
func TestIncludedForDaemons(t *testing.T) {
	nobody, err := account.Lookup("nobody")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	main, queues := filepath.Join(dir, "etrnd.toml"), filepath.Join(dir, "queues.d")
	closed := filepath.Join(queues, "acme.toml")
	const queue = "[[queue]]\nname = \"acme\"\ndomains = [\"acme.example\"]\ndeliver = \"smtp:[127.0.0.1]\"\nusers = [\"acme\"]\n"
	if err := errors.Join(os.Chmod(filepath.Dir(dir), 0o755), os.Chmod(dir, 0o755), os.Mkdir(queues, 0o755), os.WriteFile(closed, []byte(queue), 0o600),
		os.WriteFile(main, []byte("hostname = \"hub.example.net\"\ninclude = \"queues.d\"\n"), 0o644)); err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Load(main, config.WithoutFiles())
	if err != nil {
		t.Fatal(err)
	}
	of := func() string {
		var names []string
		for _, d := range denies(nobody, append([]string{main}, cfg.Included()...)) {
			names = append(names, filepath.Base(d.Path))
		}
		return strings.Join(names, " ")
	}
	if got := of(); got != "acme.toml" {
		t.Errorf("a file for root alone: %q", got)
	}
	if err := os.Chmod(queues, 0o700); err != nil {
		t.Fatal(err)
	}
	if got := of(); got != "queues.d acme.toml" {
		t.Errorf("a directory for root alone: %q", got)
	}
}

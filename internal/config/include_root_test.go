//go:build !quick

package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A file that somebody else could change is no part of the configuration; one
// of the owner of the main file is.
func TestIncludeOwner(t *testing.T) {
	dir := written(t, map[string]string{
		"etrnd.toml": "hostname = \"hub.example.net\"\ninclude = \"queues.d\"\n", "queues.d/a.toml": oneQueue("acme"),
	})
	main, included := filepath.Join(dir, "etrnd.toml"), filepath.Join(dir, "queues.d/a.toml")
	if err := os.Chown(included, 12345, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(main, WithoutFiles()); err == nil || !strings.Contains(err.Error(), "a.toml: belongs to the user with the id 12345") || !strings.Contains(err.Error(), "chown root ") {
		t.Errorf("got %v", err)
	}
	if err := os.Chown(main, 12345, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(main, WithoutFiles()); err != nil {
		t.Error(err)
	}
	if err := os.Chown(filepath.Join(dir, "queues.d"), 23456, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(main, WithoutFiles()); err == nil || !strings.Contains(err.Error(), "include: ") {
		t.Errorf("somebody else's directory: %v", err)
	}
}

package etrnd

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/etrnd/etrnd/internal/config"
)

// What has been written and is not in force is seen, in the main file and in all
// that it includes; what says the same in other words is no change.
func TestFileChanged(t *testing.T) {
	const customer = "[[queue]]\nname = \"beta\"\ndomains = [\"beta.example\"]\ndeliver = \"smtp:[127.0.0.1]:9\"\nclients = [\"198.51.100.0/24\"]\n"
	for name, include := range map[string]string{"a directory": "queues.d", "a pattern": "queues.d/*.toml"} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			dir := filepath.Join(s.dir, "queues.d")
			put := func(name, text string) {
				t.Helper()
				if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			is := func(what string, want bool) {
				t.Helper()
				for range 2 { // what is remembered says the same
					if got := s.fileChanged(s.config()); got != want {
						t.Errorf("%s: changed %v, want %v", what, got, want)
					}
				}
			}
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			put("beta.toml", customer)
			main := "include = \"" + include + "\"\n" + siteConfig
			s.write(main)
			is("written, not reloaded", true)
			if _, err := s.Reload(t.Context()); err != nil {
				t.Fatal(err)
			}
			is("reloaded", false)
			put("beta.toml", customer+"# the same\n")
			is("a comment", false)
			put("beta.toml", customer+"min-interval = \"1m\"\n")
			is("a key of a customer", true)
			put("beta.toml", customer)
			is("as it was", false)
			put("gamma.toml", "[[queue]]\nname = \"gamma\"\ndomains = [\"gamma.example\"]\ndeliver = \"smtp:[127.0.0.1]:9\"\nclients = [\"203.0.113.0/24\"]\n")
			is("a customer more", true)
			if err := os.Remove(filepath.Join(dir, "gamma.toml")); err != nil {
				t.Fatal(err)
			}
			is("gone again", false)
			if err := os.Remove(filepath.Join(dir, "beta.toml")); err != nil {
				t.Fatal(err)
			}
			is("a customer less", true)
		})
	}
}

// BenchmarkFileChanged is what a status costs with a file for each of 10,000
// customers, while none of them changes.
func BenchmarkFileChanged(b *testing.B) {
	dir := b.TempDir()
	main := filepath.Join(dir, "etrnd.toml")
	if err := os.Mkdir(filepath.Join(dir, "queues.d"), 0o755); err != nil {
		b.Fatal(err)
	}
	if err := os.WriteFile(main, []byte("hostname = \"hub.example.net\"\ninclude = \"queues.d\"\n[odmr]\nlisten = [\"127.0.0.1:366\"]\n"), 0o644); err != nil {
		b.Fatal(err)
	}
	for i := range 10000 {
		text := fmt.Sprintf("[[queue]]\nname = \"c%05d\"\ndomains = [\"c%05d.example\"]\ndeliver = \"turn\"\nclients = [\"192.0.2.1\"]\n", i, i)
		if err := os.WriteFile(filepath.Join(dir, "queues.d", fmt.Sprintf("c%05d.toml", i)), []byte(text), 0o644); err != nil {
			b.Fatal(err)
		}
	}
	cfg, err := config.Load(main, config.WithoutFiles())
	if err != nil {
		b.Fatal(err)
	}
	d := &Daemon{o: Options{ConfigFile: main}}
	b.ReportAllocs()
	for b.Loop() {
		if d.fileChanged(cfg) {
			b.Fatal("nothing has changed")
		}
	}
}

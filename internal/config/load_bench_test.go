package config

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// manyQueues are the tables of n queues, three names each.
func manyQueues(n int) []string {
	var list []string
	for i := range n {
		list = append(list, fmt.Sprintf("[[queue]]\nname = \"customer-%05d\"\ndomains = [\"customer-%05d.example\", \".customer-%05d.example\", \"chief@customer-%05d.example.net\"]\ndeliver = \"smtp:[mail.customer-%05d.example]\"\nclients = [\"192.0.2.0/24\"]\n", i, i, i, i, i))
	}
	return list
}

func BenchmarkLoadOneFile(b *testing.B) {
	text := []byte("hostname = \"hub.example.net\"\n" + strings.Join(manyQueues(10000), ""))
	b.Logf("%d bytes", len(text))
	for b.Loop() {
		if _, err := Parse("etrnd.toml", text, WithoutFiles()); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkControlListen finds the socket in one file of 10,000 queues.
func BenchmarkControlListen(b *testing.B) {
	var text strings.Builder
	text.WriteString("hostname = \"hub.example.net\"\n[control]\nlisten = \"unix:/run/x.sock\"\n")
	for i := range 10000 {
		fmt.Fprintf(&text, "[[queue]]\nname = \"c%05d\"\ndomains = [\"c%05d.example\"]\ndeliver = \"turn\"\nclients = [\"192.0.2.1\"]\n", i, i)
	}
	file := filepath.Join(b.TempDir(), "etrnd.toml")
	if err := os.WriteFile(file, []byte(text.String()), 0o600); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if listen, err := ControlListen(file); err != nil || listen != "unix:/run/x.sock" {
			b.Fatal(listen, err)
		}
	}
}

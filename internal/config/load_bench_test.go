package config

import (
	"fmt"
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

package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What stands below a queue is passed over only where it can be nothing else.
func TestControlListenBesideQueues(t *testing.T) {
	const own = "[control]\nlisten = \"unix:/run/own.sock\"\n"
	const queue = "[[queue]]\nname = \"a\"\ndomains = [\"a.example\"]\n"
	const none = ""
	cases := map[string]struct{ text, want string }{
		"before":             {own + queue, "unix:/run/own.sock"},
		"after":              {queue + queue + own, "unix:/run/own.sock"},
		"between":            {queue + own + queue, "unix:/run/own.sock"},
		"with spaces":        {"  [[queue]] # one\r\nname = \"a\"\r\n\t[control] # two\r\nlisten = \"unix:/run/own.sock\"\r\n", "unix:/run/own.sock"},
		"no control":         {queue, "unix:/run/etrnd/control.sock"},
		"lines of an array":  {"[[queue]]\ndomains = [\n\"a.example\",\n[\"b\"], \"[control]\" ]\n" + own, "unix:/run/own.sock"},
		"array of lists":     {own + "[[queue]]\ndomains = [\n[\"a.example\"],\n[\"b.example\"]\n]\n", "unix:/run/own.sock"},
		"in a text":          {own + "x = '''\n[[queue]]\n'''\n", none},
		"a queue in a text":  {"hostname = '''\n[[queue]]\n[control]\nlisten = \"unix:/run/wrong.sock\"'''\n" + own, "unix:/run/own.sock"},
		"misspelled":         {queue + "[contrl]\nlisten = \"unix:/run/own.sock\"\n", none},
		"a queue being made": {own + "[[queue]]\nname = \n", "unix:/run/own.sock"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "etrnd.toml")
			if err := os.WriteFile(file, []byte(c.text), 0o600); err != nil {
				t.Fatal(err)
			}
			got, err := ControlListen(file)
			if got != c.want || (err == nil) != (c.want != none) {
				t.Errorf("%q, %v; want %q", got, err, c.want)
			}
		})
	}
}

// The lines in an error are those of the file.
func TestControlListenSaysWhere(t *testing.T) {
	file := filepath.Join(t.TempDir(), "etrnd.toml")
	if err := os.WriteFile(file, []byte("[[queue]]\nname = \"a\"\n[contrl]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ControlListen(file); err == nil || !strings.Contains(err.Error(), ":3:") {
		t.Error(err)
	}
}

// FuzzControlListen: of a file that is TOML as a whole, the short way finds the
// same socket.
func FuzzControlListen(f *testing.F) {
	f.Add("[[queue]]\nname = \"a\"\ndomains = [\n[\"x\"]\n]\n[control]\nlisten = \"unix:/x\"\n")
	f.Add("[control]\nlisten = \"unix:/x\"\n[[queue]]\n[queue.control]\nlisten=\"unix:/y\"\n")
	f.Add("a = [\n[[queue]]\n]\n[control]\nlisten = \"unix:/x\"\n")
	f.Fuzz(func(t *testing.T, text string) {
		want, err := controlListen("x", []byte(text))
		if err != nil {
			return
		}
		short, ok := withoutQueues([]byte(text))
		if !ok {
			return
		}
		if got, err := controlListen("x", short); err == nil && got != want {
			t.Fatalf("%q, not %q, in %q", got, want, text)
		}
	})
}

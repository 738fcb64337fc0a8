package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// oneQueue is a file with one queue.
func oneQueue(name string) string {
	return fmt.Sprintf("[[queue]]\nname = %q\ndomains = [\"%s.example\"]\ndeliver = \"smtp:[127.0.0.1]\"\nusers = [\"u\"]\n", name, name)
}

// written makes files, and returns the directory of the main one. A name that
// ends in "/" is a directory.
func written(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		err := os.MkdirAll(filepath.Dir(path), 0o755)
		if strings.HasSuffix(name, "/") {
			err = errors.Join(err, os.MkdirAll(path, 0o755))
		} else {
			err = errors.Join(err, os.WriteFile(path, []byte(text), 0o644))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestInclude(t *testing.T) {
	const head = "hostname = \"hub.example.net\"\ninclude = \"queues.d\"\n"
	files := func(more ...string) map[string]string {
		m := map[string]string{"etrnd.toml": head + oneQueue("first"), "queues.d/": ""}
		for i := 0; i < len(more); i += 2 {
			m[more[i]] = more[i+1]
		}
		return m
	}
	cases := map[string]struct {
		files map[string]string
		do    func(dir string) error // to the files
		want  string                 // the queues in order, or a part of the error
		warn  string                 // a part of the warnings
	}{
		"none yet":  {files(), nil, "first", ""},
		"in order":  {files("queues.d/b.toml", oneQueue("beta"), "queues.d/a.toml", oneQueue("acme"), "queues.d/sub/x.toml", "bad"), nil, "first acme beta", ""},
		"leftovers": {files("queues.d/b.toml~", "x", "queues.d/b.toml.bak", "x", "queues.d/.b.toml.swp", "x", "queues.d/#b.toml#", "x", "queues.d/b.toml.dpkg-old", "x", "queues.d/b.toml.rpmsave", "x", "queues.d/.hidden.toml", "x"), nil, "first", ""},
		"another":   {files("queues.d/b.conf", oneQueue("beta")), nil, "first", "queues.d/b.conf: is not read"},
		"pattern": {files("etrnd.toml", "hostname = \"hub.example.net\"\ninclude = \"queues.d/*.conf\"\n", "queues.d/b.conf", oneQueue("beta"), "queues.d/.c.conf", "x",
			"queues.d/c.toml", oneQueue("gamma")), nil, "beta", ""},
		"pattern, none":  {files("etrnd.toml", "hostname = \"hub.example.net\"\ninclude = \"queues.d/*.conf\"\n"+oneQueue("first")), nil, "first", "no file matches"},
		"pattern of all": {files("etrnd.toml", "hostname = \"hub.example.net\"\ninclude = \"*.d/*\"\n", "queues.d/b", oneQueue("beta"), "queues.d/b~", "x", "queues.d/b.dpkg-dist", "x", "queues.d/sub/c", "x"), nil, "beta", ""},
		"one file":       {files("etrnd.toml", "hostname = \"hub.example.net\"\ninclude = \"queues.d/b\"\n", "queues.d/b", oneQueue("beta")), nil, "beta", ""},
		"bad pattern":    {files("etrnd.toml", "hostname = \"hub.example.net\"\ninclude = \"queues.d/[\"\n"), nil, "etrnd.toml:2: include: ", ""},
		"empty":          {files("etrnd.toml", "hostname = \"hub.example.net\"\ninclude = \"\"\n"), nil, "include: is empty", ""},
		"no directory":   {files("etrnd.toml", "hostname = \"hub.example.net\"\ninclude = \"custmers\"\n"), nil, "make the directory", ""},
		"link": {files("queues.d/b.txt", oneQueue("beta")), func(dir string) error {
			return os.Symlink("b.txt", filepath.Join(dir, "queues.d/b.toml"))
		}, "first beta", "b.txt: is not read"},
		"dangling": {files(), func(dir string) error {
			return os.Symlink("b.txt", filepath.Join(dir, "queues.d/b.toml"))
		}, "queues.d/b.toml: no such file", ""},
		"open to all": {files("queues.d/b.toml", oneQueue("beta")), func(dir string) error {
			return os.Chmod(filepath.Join(dir, "queues.d/b.toml"), 0o666)
		}, "queues.d/b.toml: can be written by everyone on this machine; run chmod o-w", ""},
		"directory open to all": {files("queues.d/b.toml", oneQueue("beta")), func(dir string) error {
			return os.Chmod(filepath.Join(dir, "queues.d"), 0o777)
		}, "can be written by everyone", ""},
		"too long": {files("queues.d/b.toml", strings.Repeat("#", maxFile+1)), nil, "queues.d/b.toml: ", ""},
		"a pipe": {files(), func(dir string) error {
			return syscall.Mkfifo(filepath.Join(dir, "queues.d/b.toml"), 0o644)
		}, "is not a regular file", ""},
		"twice":        {files("queues.d/a.toml", oneQueue("acme"), "queues.d/b.toml", "\n"+oneQueue("acme")), nil, "b.toml:3: queue \"acme\": name: \"acme\" is already the name of the queue on line 2 of ", ""},
		"domain twice": {files("queues.d/a.toml", strings.Replace(oneQueue("acme"), "acme.example", "first.example", 1)), nil, "a.toml:3: queue \"acme\": domains: \"first.example\" is already held by queue \"first\", on line 5 of ", ""},
		"a remote's": {files("queues.d/a.toml", "[[link]]\nname = \"isp\"\ninterfaces = [\"ppp0\"]\n", "queues.d/b.toml",
			"[[remote]]\nname = \"hub\"\nlink = \"isp\"\nhost = \"192.0.2.1\"\npush = [\"#first\"]\n"), nil, "first", ""},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			dir := written(t, c.files)
			if c.do != nil {
				if err := c.do(dir); err != nil {
					t.Fatal(err)
				}
			}
			cfg, err := Load(filepath.Join(dir, "etrnd.toml"), WithoutFiles())
			var got []string
			if err != nil {
				if !strings.Contains(strings.ReplaceAll(err.Error(), dir+"/", ""), c.want) {
					t.Fatalf("got\n%v\nwant %q", err, c.want)
				}
				return
			}
			for _, q := range cfg.Queues {
				got = append(got, q.Name)
			}
			if s := strings.Join(got, " "); s != c.want {
				t.Errorf("the queues are %q, want %q", s, c.want)
			}
			var warnings strings.Builder
			for _, w := range cfg.Warnings {
				warnings.WriteString(strings.ReplaceAll(w.String(), dir+"/", "") + "\n")
			}
			if c.warn == "" && warnings.Len() > 0 || !strings.Contains(warnings.String(), c.warn) {
				t.Errorf("warnings: %q, want %q", warnings.String(), c.warn)
			}
		})
	}
}

// A socket is found without reading what is included, and in spite of what is
// wrong elsewhere.
// Where everybody can put a file, nothing is included from, whichever way the key
// names it: with the sticky bit nobody can take away what is another's, but anybody
// could add a file, and end every reload by it.
func TestIncludeDirectory(t *testing.T) {
	const head = "hostname = \"hub.example.net\"\ninclude = "
	for name, c := range map[string]struct {
		include string
		mode    os.FileMode
		dir     string // that gets the mode
		ok      bool
	}{
		"directory":               {"queues.d", 0o755, "queues.d", true},
		"directory, group":        {"queues.d", 0o775, "queues.d", true},
		"directory, all":          {"queues.d", 0o777, "queues.d", false},
		"directory, sticky":       {"queues.d", os.ModeSticky | 0o777, "queues.d", false},
		"pattern":                 {"queues.d/*.toml", 0o755, "queues.d", true},
		"pattern, all":            {"queues.d/*.toml", 0o777, "queues.d", false},
		"pattern, sticky":         {"queues.d/*.toml", os.ModeSticky | 0o777, "queues.d", false},
		"pattern without a match": {"queues.d/*.none", 0o757, "queues.d", false},
		"pattern of directories":  {"*.d/*.toml", 0o777, "queues.d", false},
		"file":                    {"queues.d/a.toml", 0o755, "queues.d", true},
		"file, all":               {"queues.d/a.toml", 0o777, "queues.d", false},
		"links":                   {"links.d", 0o755, "queues.d", true},
		"links, all":              {"links.d", 0o777, "queues.d", false},
		"links, on the way":       {"links.d", os.ModeSticky | 0o777, "way.d", false},
		"a link, sticky":          {"links.d/a.toml", os.ModeSticky | 0o777, "queues.d", false},
	} {
		t.Run(name, func(t *testing.T) {
			dir := written(t, map[string]string{"etrnd.toml": head + strconv.Quote(c.include) + "\n", "queues.d/a.toml": oneQueue("acme"), "way.d/README": "", "links.d/README": ""})
			if err := errors.Join(
				os.Symlink("../queues.d/a.toml", filepath.Join(dir, "way.d/a.toml")),
				os.Symlink(filepath.Join(dir, "way.d/a.toml"), filepath.Join(dir, "links.d/a.toml")),
				os.Chmod(filepath.Join(dir, c.dir), c.mode),
			); err != nil {
				t.Fatal(err)
			}
			if c.include == "*.d/*.toml" {
				os.RemoveAll(filepath.Join(dir, "way.d")) // else there are three of one queue
				os.RemoveAll(filepath.Join(dir, "links.d"))
			}
			cfg, err := Load(filepath.Join(dir, "etrnd.toml"), WithoutFiles())
			want := fmt.Sprintf("include: the directory %q can be written by everyone", filepath.Join(dir, c.dir))
			switch {
			case c.ok && (err != nil || len(cfg.Queues) != 1):
				t.Errorf("%v", err)
			case !c.ok && (err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "run chmod o-w "+filepath.Join(dir, c.dir)) || strings.Count(err.Error(), "\n") > 1):
				t.Errorf("got %v, want %s", err, want)
			}
		})
	}
}

// What counts is the file that was opened, not what had its name before.
func TestIncludeSwapped(t *testing.T) {
	dir := written(t, map[string]string{"good": "good", "evil": "evil"})
	if err := os.Chmod(filepath.Join(dir, "evil"), 0o666); err != nil {
		t.Fatal(err)
	}
	r := newReader(filepath.Join(dir, "good"))
	swapped := func(string) (*os.File, error) { return os.Open(filepath.Join(dir, "evil")) }
	if data, err := readFileBy(swapped, filepath.Join(dir, "good"), maxFile, r.trusted); err == nil {
		t.Errorf("read %q", data)
	}
	if data, err := readFileBy(os.Open, filepath.Join(dir, "good"), maxFile, r.trusted); err != nil || string(data) != "good" {
		t.Errorf("read %q, %v", data, err)
	}
	if data, err := readFileBy(func(string) (*os.File, error) { return os.Open(dir) }, filepath.Join(dir, "good"), maxFile); err == nil {
		t.Errorf("read %q of a directory", data)
	}
}

func TestControlListen(t *testing.T) {
	dir := written(t, map[string]string{
		"etrnd.toml":      "hostname = \"hub.example.net\"\ninclude = \"queues.d\"\nlog-level = 3\n[control]\nlisten = \"unix:/run/x.sock\"\n",
		"queues.d/a.toml": "not TOML",
	})
	if got, err := ControlListen(filepath.Join(dir, "etrnd.toml")); got != "unix:/run/x.sock" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := ControlListen(filepath.Join(dir, "none.toml")); err == nil {
		t.Error("no file, and no error")
	}
}

func BenchmarkLoadManyFiles(b *testing.B) {
	dir := b.TempDir()
	for i, text := range manyQueues(10000) {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%05d.toml", i)), []byte(text), 0o644); err != nil {
			b.Fatal(err)
		}
	}
	text := []byte(fmt.Sprintf("hostname = \"hub.example.net\"\ninclude = %q\n", dir))
	for b.Loop() {
		cfg, err := Parse("etrnd.toml", text, WithoutFiles())
		if err != nil || len(cfg.Queues) != 10000 {
			b.Fatal(err)
		}
	}
}

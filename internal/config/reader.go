package config

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/BurntSushi/toml"

	"github.com/etrnd/etrnd/internal/foreign"
	"github.com/etrnd/etrnd/internal/queue"
)

// reader turns a file, with those that it includes, into a Config and collects what is wrong with it.
type reader struct {
	file    string
	dir     string // of file: where relative file names start
	noFiles bool
	owner   *int64                              // of file, when it has been looked at
	open    func(path string) (*os.File, error) // of files that are referred to

	hostname    func() (string, error)
	groupExists func(name string) bool
	now         func() time.Time

	errs, warnings []Problem

	// What is taken, for what comes later in the file. Names are in lower case.
	listeners []listener
	queues    map[string]taken // the [[queue]] tables
	links     map[string]taken
	remotes   map[string]taken
	patterns  map[string]owner
	pushed    map[string]bool // queues that a remote pushes
	called    map[string]bool // links that a remote is called over
}

// taken is the name of a queue, link or remote.
type taken struct {
	name  string
	index int // among those of its kind, in the Config
	position
}

// owner is the queue that a pattern belongs to.
type owner struct {
	label  string // `queue "acme"`, `remote "hub"`
	remote bool
	position
}

func newReader(name string) *reader {
	r := &reader{
		file:     name,
		dir:      filepath.Dir(name),
		open:     os.Open,
		hostname: os.Hostname,
		groupExists: func(name string) bool {
			_, err := user.LookupGroup(name)
			var unknown user.UnknownGroupError
			return !errors.As(err, &unknown)
		},
		now:      time.Now,
		queues:   map[string]taken{},
		links:    map[string]taken{},
		remotes:  map[string]taken{},
		patterns: map[string]owner{},
		pushed:   map[string]bool{},
		called:   map[string]bool{},
	}
	if abs, err := filepath.Abs(r.dir); err == nil {
		r.dir = abs
	}
	return r
}

// read goes through the whole file, whatever it finds on the way. The Config
// is of use only when no errors were collected.
func (r *reader) read(data []byte) *Config {
	root := r.parse(r.file, data)
	if root == nil {
		return nil
	}
	root.checkKeys()
	c := &Config{File: r.file}
	tops := append([]*table{root}, r.included(root, c, len(data))...)

	r.general(root, c)
	r.mta(root.one("mta"), c)
	r.milter(root.one("milter"), c)
	r.policy(root.one("policy"), c)
	if root.has("odmr") {
		r.odmr(root.one("odmr"), c)
	}
	r.control(root.one("control"), c)

	// Links before the remotes that are called over them, queues before the
	// remotes that push them.
	var queues, links, remotes []*table
	for _, top := range tops {
		queues = append(queues, top.many("queue")...)
		links = append(links, top.many("link")...)
		remotes = append(remotes, top.many("remote")...)
	}
	for _, t := range queues {
		r.queue(t, c)
	}
	for _, t := range links {
		r.link(t, c)
	}
	for _, t := range remotes {
		r.remote(t, c)
	}
	r.relayNot(c)
	r.unused(c, queues, links)

	if len(r.errs) > 0 {
		return nil
	}
	set, err := queue.NewSet(c.Queues)
	if err != nil {
		r.errs = append(r.errs, Problem{File: r.file, Msg: err.Error()})
	}
	c.set = set
	return c
}

// parse makes a file its top table, or objects to it as a whole.
func (r *reader) parse(file string, data []byte) *table {
	object := func(line int, hint, msg string) *table {
		r.errs = append(r.errs, Problem{File: file, Line: line, Msg: msg, Hint: hint})
		return nil
	}
	if len(data) > maxFile {
		return object(0, "", fmt.Sprintf("is longer than %d bytes", maxFile))
	}
	at, deep := locate(data)
	if deep > 0 {
		return object(deep, "see etrnd.toml(5) for the keys there are", "keys or values are nested too deeply")
	}
	vals, err := decode(data)
	if err == nil {
		return &table{r: r, file: file, vals: vals, at: at}
	}
	// The grammar is broken from here on: whatever else could be said would be
	// guesswork.
	line, msg, hint := 0, err.Error(), ""
	var pe toml.ParseError
	if errors.As(err, &pe) {
		line, msg = faultAt(string(data), pe), ends.Replace(pe.Message)
		if strings.Contains(msg, "already been defined") {
			hint = "write each key and each [table] once; only [[queue]], [[link]] and [[remote]] may be repeated"
		}
	}
	return object(line, hint, "not valid TOML: "+strings.TrimSuffix(clip(msg), "."))
}

// ends are what the TOML library shows of what nobody can see.
var ends = strings.NewReplacer(`'\n'`, "the end of the line", `'\x00'`, "the end of the file")

// faultAt is the line that has to be mended. The library counts a newline that it
// did not expect to the next line or to the one before, by the kind of error; only
// its offsets are right. And where a comma or bracket is missing, or the end of a
// string of many lines, it points to what comes after.
func faultAt(text string, pe toml.ParseError) int {
	text = strings.TrimPrefix(text, "\ufeff")
	at := min(max(pe.Position.Start, 0), len(text))
	lines := strings.Split(text[:at], "\n")
	n := len(lines)
	for _, quotes := range []string{`"""`, "'''"} {
		if strings.HasPrefix(pe.Message, "unexpected EOF") && strings.Contains(pe.Message, quotes) {
			return 1 + strings.Count(text[:max(strings.LastIndex(text, quotes), 0)], "\n")
		}
	}
	if strings.HasPrefix(pe.Message, "expected a comma") {
		for n > 1 {
			if before := strings.TrimSpace(lines[n-1]); before != "" && before[0] != '#' {
				break
			}
			n--
		}
	}
	return n
}

// decode parses TOML into a map. A bug of the library on odd input is a
// problem of the file like any other: a reload must not end the daemon.
func decode(data []byte) (vals map[string]any, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the TOML library gave up on it: %s", foreign.Quote(fmt.Sprint(p)))
		}
	}()
	_, err = toml.Decode(string(data), &vals)
	return vals, err
}

// one returns a table that is written once. When it is absent, or is no
// table, what it returns holds the defaults.
func (t *table) one(name string) *table {
	one := &table{r: t.r, file: t.file, name: name, label: name, vals: map[string]any{}, at: t.at.kid(name)}
	switch v := t.vals[name].(type) {
	case nil:
	case map[string]any:
		one.vals = v
		one.checkKeys()
	default:
		t.fail(name, "write ["+name+"], and the keys below it", "expected a table, got %s", describe(v))
	}
	return one
}

// many returns the tables of a kind that is repeated.
func (t *table) many(name string) []*table {
	var maps []map[string]any
	hint := "write [[" + name + "]], with double brackets, once for each " + name
	switch v := t.vals[name].(type) {
	case nil:
	case []map[string]any:
		maps = v
	case []any:
		for i, e := range v {
			m, ok := e.(map[string]any)
			if !ok {
				t.fail(name, hint, "expected tables, but element %d is %s", i+1, describe(e))
				return nil
			}
			maps = append(maps, m)
		}
	case map[string]any:
		t.fail(name, hint, "is written as a single table")
	default:
		t.fail(name, hint, "expected tables, got %s", describe(v))
	}
	many := make([]*table, 0, len(maps))
	for i, m := range maps {
		kid := &table{r: t.r, file: t.file, name: name, label: name + " " + strconv.Itoa(i+1), vals: m, at: t.at.kid(name).item(i)}
		if s, ok := m["name"].(string); ok && s != "" {
			kid.label = name + " " + foreign.Quote(s)
		}
		kid.checkKeys()
		many = append(many, kid)
	}
	return many
}

// takeName checks the name of a queue, link or remote against those of its
// kind, of which there are index already.
func (t *table) takeName(names map[string]taken, index int) string {
	s, ok := t.text("name")
	if !ok {
		return ""
	}
	if queue.ParseName(s) != nil {
		hint := fmt.Sprintf(`use letters, digits, ".", "_" and "-", at most %d of them, and begin with a letter or digit`, queue.MaxName)
		t.fail("name", hint, "%s is not a valid name for a %s", foreign.Quote(s), t.name)
		return ""
	}
	if o, ok := names[strings.ToLower(s)]; ok {
		hint := "choose another name"
		if o.name != s {
			hint += ": upper and lower case are the same"
		}
		t.fail("name", hint, "%s is already the name of the %s %s", foreign.Quote(s), t.name, o.from(t.file))
		return s
	}
	names[strings.ToLower(s)] = taken{s, index, t.pos("name")}
	return s
}

// unused warns of what nobody can use.
func (r *reader) unused(c *Config, queues, links []*table) {
	for i, t := range queues {
		if !t.has("clients") && !t.has("users") && !t.has("certificates") && !r.pushed[strings.ToLower(c.Queues[i].Name)] {
			t.warn("", "write clients, users or certificates", "nobody may ask for this queue: its mail waits for etrnctl release")
		}
	}
	for i, t := range links {
		if name := c.Links[i].Name; name != "" && !r.called[strings.ToLower(name)] {
			t.warn("", "write a [[remote]] with link = "+foreign.Quote(name), "no remote is called over this link")
		}
	}
}

// Package docs holds what the documentation says against what the code does.
package docs

import (
	"fmt"
	"go/ast"
	"go/constant"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// A row of a table, a list item or a paragraph of limits.md ends with a comment
// that names, for each number in it and in their order, where the number comes
// from:
//
//	milter.maxForged              a constant or variable of a package, by its directory
//	milter.Options.IdleTimeout    what an option is when nobody sets it
//	key remote.wait               the default of a configuration key, by etrnd.toml(5)
//	text packaging/systemd/etrnd.service LimitNOFILE=16384
//	                              words of a file, or of a file of a directory
//	-                             no business of ours: Postfix's, measured, an example
//
// Separated by "; ". Numbers in code, reply codes, exit codes and RFCs need none.
var (
	marks = regexp.MustCompile(`<!-- (.*?) -->`)

	notNumbers = regexp.MustCompile("`[^`]*`|\\]\\([^)]*\\)|RFC [0-9]+|IPv[46]|exit code [0-9]+|SHA-[0-9]+|[0-9]\\.[0-9]\\.[0-9]|[A-Za-z-]+[0-9]+[A-Za-z]*|\\([0-9]\\)|port 366")
	// Outside the column of numbers: 250 to 253, and what begins with 4 or 5.
	replies = regexp.MustCompile(`\b(25[0-3]|[45][0-5][0-9])\b|: 69$`)
	number  = regexp.MustCompile(`([0-9][0-9,]*(?:\.[0-9]+)?)(?: ?(kB|MB|GB|ms|s|min|h)\b)?`)

	// Constants named so are limits: they are in limits.md, or below.
	limitName = regexp.MustCompile(`^[mM]ax[A-Z]|[a-z](Max|Tries)$`)
)

// unlisted are limits that are not in limits.md.
var unlisted = []string{
	// They bound what our own programs say to each other, or what Postfix does.
	"internal/listen.maxLinks",
	"internal/daemon.maxRepeats",
	"internal/daemon.maxSilence",
	"etrnd.maxNamed",
	"internal/postfix.maxID",
	"internal/postfix.maxListDepth",
	"cmd/etrnctl.maxDenied",
	"cmd/etrnctl.maxExposed",
	"internal/account.maxLinks",
	"internal/postfix.maxComm",
	"internal/postfix.maxListFile",
	"internal/postfix.maxLocal",
	"internal/postfix/setup.maxRecord",
	"internal/postfix/setup.maxRemoteKeys",
	"cmd/etrnctl.maxPassword",
	"etrnd/receive.maxShut",
	"internal/socket.maxRTT",
	"etrnd/control.maxHeader",
	"etrnd/control.maxHistory",
	"etrnd/control.maxLine",
	"etrnd/control.maxName",
	"etrnd/control.maxReply",
	"etrnd/control.maxWatched",
	"etrnd/receive.maxAnswers",
	"etrnd/receive.maxErrors",
	"etrnd/receive.maxReplyLine",
	"internal/report.MaxAddress",
	"internal/report.MaxLine",
	"internal/report.MaxReply",
	"internal/report.maxBatch",
	"internal/report.maxName",
	"internal/users.maxProblems",
	"internal/users.maxSalt",
	// Beyond them something is merely forgotten, or done in parts.
	"etrnd/call.againMax",
	"etrnd/call.maxSessions",
	"etrnd/call.seenMax",
	"etrnd/deliver.maxAccepted",
	"etrnd/hold.maxRequesters",
	"etrnd/hold.maxRequests",
	"etrnd/receive.maxTook",
	// How much of a foreign text is shown, or read before a connection is closed.
	"etrnd/call.maxOutput",
	"etrnd/odmr.maxDiscarded",
	"etrnd/odmr.maxReason",
	"etrnd/odmr.maxShown",
	"etrnd/control.maxShown",
	"etrnd/login.maxShown", "etrnd/policy.maxShown",
	"internal/config.maxShown",
	"etrnd/receive.maxShown",
	"internal/foreign.maxQuoted",
	// How long a wait is that nobody notices.
	"etrnd/call.goneTries",
	"etrnd/call.maxLook",
	"etrnd/receive.maxGone",
	"etrnd/receive.maxIdle",
	"internal/listen.maxBackoff",
	"internal/report.maxRetry",
	// The same number for another end, or what a message about a file says.
	"internal/etrn.MaxQueueName",
	"internal/esmtp.maxDSNText",
	"internal/esmtp.maxDomain",
	"internal/esmtp.maxLabel",
	"internal/esmtp.maxPart",
	"etrnd/deliver.maxReplyLine",
	"etrnd/deliver.maxMTALine",
	"etrnd/odmr.maxCommand",
	"etrnd/odmr.maxRounds",
	"internal/config.maxHeader",
	"internal/config.maxIfName",
	"internal/listen.MaxUnixPath",
}

// tools are the directories that no operator runs.
var tools = []string{
	"internal/bench", "internal/demo", "internal/hang", "internal/interop", "internal/postfix/postfixtest", "internal/programs",
	"internal/scenario", "internal/testbed",
}

var units = map[string]float64{
	"": 1, "kB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30,
	"ms": float64(time.Millisecond), "s": float64(time.Second), "min": float64(time.Minute), "h": float64(time.Hour),
}

// block is a part of the page that bears one comment.
type block struct {
	line    int
	text    string
	numbers []string
	sources []string
}

// blocks takes the page apart.
func blocks(page string) []block {
	var all []block
	var cur *block
	row := false
	for i, line := range strings.Split(page, "\n") {
		isRow := strings.HasPrefix(line, "|")
		if line == "" || strings.HasPrefix(line, "#") || strings.HasPrefix(line, "|--") {
			cur = nil
			continue
		}
		if cur == nil || isRow || row || strings.HasPrefix(line, "- ") {
			all = append(all, block{line: i + 1})
			cur = &all[len(all)-1]
		}
		row = isRow
		cur.text += line + "\n"
	}
	for i := range all {
		b := &all[i]
		for _, m := range marks.FindAllStringSubmatch(b.text, -1) {
			b.sources = append(b.sources, strings.Split(m[1], "; ")...)
		}
		cells := []string{marks.ReplaceAllString(b.text, "")}
		if strings.HasPrefix(b.text, "|") {
			cells = strings.Split(strings.Trim(cells[0], "|\n "), " | ")
		}
		for j, cell := range cells {
			cell = notNumbers.ReplaceAllString(strings.TrimSpace(cell), "")
			if len(cells) == 1 || j != 1 {
				cell = replies.ReplaceAllString(cell, "")
			}
			for _, n := range number.FindAllString(cell, -1) {
				b.numbers = append(b.numbers, strings.TrimRight(n, ","))
			}
		}
	}
	return all
}

// value is a number of the page as the code has it: durations in nanoseconds,
// sizes in bytes, of which a kB has 1,024.
func value(n string) float64 {
	m := number.FindStringSubmatch(n)
	v, err := strconv.ParseFloat(strings.ReplaceAll(strings.TrimRight(m[1], ","), ",", ""), 64)
	if err != nil {
		panic(err)
	}
	return v * units[m[2]]
}

func TestLimits(t *testing.T) {
	page, err := os.ReadFile("limits.md")
	if err != nil {
		t.Fatal(err)
	}
	said := map[string]bool{}
	numbers := 0
	for _, b := range blocks(string(page)) {
		if len(b.numbers) != len(b.sources) {
			t.Errorf("limits.md:%d: the numbers %q and %d sources for them: %q", b.line, b.numbers, len(b.sources), b.sources)
			continue
		}
		for i, source := range b.sources {
			said[source] = true
			numbers++
			if source == "-" {
				continue
			}
			got, err := lookUp(source, b.numbers[i])
			if err != nil {
				t.Errorf("limits.md:%d: %s: %v", b.line, source, err)
			} else if want := value(b.numbers[i]); got != want {
				t.Errorf("limits.md:%d: %s is %.15g, and the page says %s (%.15g)", b.line, source, got, b.numbers[i], want)
			}
		}
	}
	// The test would be green as well if it found nothing.
	if numbers < 90 {
		t.Errorf("only %d numbers found", numbers)
	}

	known := map[string]bool{}
	for _, dir := range directories(t) {
		if slices.Contains(tools, dir) {
			continue
		}
		p, err := load(dir)
		if err != nil {
			t.Fatal(err)
		}
		for name := range p.values {
			full := dir + "." + name
			known[full] = true
			if limitName.MatchString(name) && !said[full] && !slices.Contains(unlisted, full) {
				t.Errorf("%q is neither in limits.md nor among the unlisted", full)
			}
		}
	}
	for _, full := range unlisted {
		if !known[full] || said[full] {
			t.Errorf("%q is among the unlisted; it exists: %v; in limits.md: %v", full, known[full], said[full])
		}
	}
}

// directories of the module that hold Go files.
func directories(t *testing.T) []string {
	t.Helper()
	var dirs []string
	err := filepath.WalkDir("..", func(name string, d os.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(name, ".go") && !strings.HasSuffix(name, "_test.go") {
			dirs = append(dirs, strings.TrimPrefix(filepath.ToSlash(filepath.Dir(name)), "../"))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(dirs)
	return slices.Compact(dirs)
}

// lookUp finds what a source says. n is the number beside it.
func lookUp(source, n string) (float64, error) {
	kind, rest, _ := strings.Cut(source, " ")
	switch kind {
	case "key":
		return keyDefault(rest)
	case "text":
		file, words, _ := strings.Cut(rest, " ")
		return inText(file, words, n)
	}
	dir, name, ok := strings.Cut(source[strings.LastIndexByte(source, '/')+1:], ".")
	if !ok || strings.Contains(source, " ") {
		return 0, fmt.Errorf("is no source")
	}
	dir = path.Join(path.Dir(source), dir)
	p, err := load(dir)
	if err != nil {
		return 0, err
	}
	v, ok := p.values[name]
	if !ok {
		return 0, fmt.Errorf("there is no such constant, nor an option with a default")
	}
	return v, nil
}

// inText looks for words with the number in them, or for words without any,
// whose meaning the page then takes on trust.
func inText(file, words, n string) (float64, error) {
	names := []string{filepath.Join("..", file)}
	if st, err := os.Stat(names[0]); err != nil {
		return 0, err
	} else if st.IsDir() {
		names, _ = filepath.Glob(filepath.Join(names[0], "*.go"))
	}
	whole := regexp.MustCompile(regexp.QuoteMeta(words) + `([^0-9]|$)`)
	for _, name := range names {
		data, err := os.ReadFile(name)
		if err != nil {
			return 0, err
		}
		if strings.HasSuffix(name, "_test.go") || !whole.Match(data) {
			continue
		}
		if found := number.FindString(words); found != "" {
			return value(found), nil
		}
		return value(n), nil
	}
	return 0, fmt.Errorf("not found there")
}

// keyDefault reads etrnd.toml(5), which a test of its own holds against the code.
func keyDefault(key string) (float64, error) {
	page, err := os.ReadFile("../packaging/man/etrnd.toml.5")
	if err != nil {
		return 0, err
	}
	table, name, _ := strings.Cut(key, ".")
	heading := regexp.MustCompile(`(?m)^\.Ss \[+` + table + `\]+\\&$`).FindIndex(page)
	if heading == nil {
		return 0, fmt.Errorf("etrnd.toml(5) has no table %s", table)
	}
	section, _, _ := strings.Cut(string(page[heading[1]:]), "\n.Ss ")
	m := regexp.MustCompile(`\n\.It Cm ` + name + ` Pq .*default (\S+)\n`).FindStringSubmatch(section)
	if m == nil {
		return 0, fmt.Errorf("no such key with a default in etrnd.toml(5)")
	}
	s := strings.ReplaceAll(m[1], `\(dq`, "")
	if d, err := time.ParseDuration(s); err == nil {
		return float64(d), nil
	}
	return strconv.ParseFloat(s, 64)
}

// pkg is what the numbers of a package are: its constants, its variables that
// begin as one, and the defaults of its options, as "Options.IdleTimeout".
type pkg struct {
	types  *types.Package
	values map[string]float64
}

var (
	mu     sync.Mutex
	loaded = map[string]*pkg{}
	std    = importer.ForCompiler(token.NewFileSet(), "source", nil)
)

const module = "github.com/etrnd/etrnd"

// imports gives the checker the packages whose constants limits are made of.
// From all others it needs nothing but that they exist.
type imports struct{}

func (imports) Import(name string) (*types.Package, error) {
	if name == "time" {
		return std.Import(name)
	}
	if dir, ok := strings.CutPrefix(name, module+"/"); ok {
		p, err := load(dir)
		if err != nil {
			return nil, err
		}
		return p.types, nil
	}
	p := types.NewPackage(name, path.Base(name))
	p.MarkComplete()
	return p, nil
}

func load(dir string) (*pkg, error) {
	mu.Lock()
	p := loaded[dir]
	mu.Unlock()
	if p != nil {
		return p, nil
	}
	fset := token.NewFileSet()
	names, err := filepath.Glob(filepath.Join("..", dir, "*.go"))
	if err != nil {
		return nil, err
	}
	var files []*ast.File
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(fset, name, nil, 0)
		if err != nil {
			return nil, err
		}
		files = append(files, f)
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("no Go package in %s", dir)
	}
	info := &types.Info{Types: map[ast.Expr]types.TypeAndValue{}, Defs: map[*ast.Ident]types.Object{}}
	// What the checker misses for want of the real imports is not our concern:
	// the values that are wanted then are not found.
	conf := types.Config{Importer: imports{}, Error: func(error) {}, FakeImportC: true}
	tp, _ := conf.Check(module+"/"+dir, fset, files, info)
	p = &pkg{types: tp, values: map[string]float64{}}
	for _, f := range files {
		p.read(f, info)
	}
	mu.Lock()
	loaded[dir] = p
	mu.Unlock()
	return p, nil
}

func (p *pkg) read(f *ast.File, info *types.Info) {
	set := func(name string, v constant.Value) {
		switch {
		case v == nil:
		case v.Kind() == constant.String: // Postfix's settings are words
			if n, err := strconv.ParseFloat(constant.StringVal(v), 64); err == nil {
				p.values[name] = n
			}
		case v.Kind() == constant.Int, v.Kind() == constant.Float:
			p.values[name], _ = constant.Float64Val(constant.ToFloat(v))
		}
	}
	for _, name := range p.types.Scope().Names() {
		if c, ok := p.types.Scope().Lookup(name).(*types.Const); ok {
			set(name, c.Val())
		}
	}
	for _, d := range f.Decls {
		if g, ok := d.(*ast.GenDecl); ok && g.Tok == token.VAR {
			for _, s := range g.Specs {
				if v, ok := s.(*ast.ValueSpec); ok && len(v.Names) == len(v.Values) {
					for i, n := range v.Names {
						set(n.Name, info.Types[v.Values[i]].Value)
					}
				}
			}
		}
	}
	// field is the option that an expression such as o.IdleTimeout stands for.
	field := func(e ast.Expr) string {
		sel, ok := e.(*ast.SelectorExpr)
		if !ok {
			return ""
		}
		tv := info.Types[sel.X].Type
		if ptr, ok := tv.(*types.Pointer); ok {
			tv = ptr.Elem()
		}
		named, ok := tv.(*types.Named)
		if !ok || named.Obj().Pkg() != p.types || !strings.HasSuffix(named.Obj().Name(), "Options") && !strings.HasSuffix(named.Obj().Name(), "Agent") {
			return ""
		}
		return named.Obj().Name() + "." + sel.Sel.Name
	}
	ast.Inspect(f, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.AssignStmt: // o.IdleTimeout = 24 * time.Hour
			if len(n.Lhs) == 1 && len(n.Rhs) == 1 {
				if name := field(n.Lhs[0]); name != "" {
					set(name, info.Types[n.Rhs[0]].Value)
				}
			}
		case *ast.CallExpr: // or(&o.IdleTimeout, 2*time.Minute)
			if len(n.Args) == 2 {
				if u, ok := n.Args[0].(*ast.UnaryExpr); ok && u.Op == token.AND {
					if name := field(u.X); name != "" {
						set(name, info.Types[n.Args[1]].Value)
					}
				}
			}
		}
		return true
	})
}

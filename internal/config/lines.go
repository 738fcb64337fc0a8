package config

import (
	"strconv"
	"strings"
)

// place is where a table, key or array element stands. The TOML library
// reports positions only for what it itself objects to, and its record of
// keys does not tell the second [[queue]] from the first; so the lines of a
// file that it has accepted are found here.
type place struct {
	line  int
	kids  map[string]*place // of a table
	items []*place          // of an array, and of [[tables]]
}

// kid goes to a key below a table, or to nil.
func (p *place) kid(name string) *place {
	if p == nil {
		return nil
	}
	return p.kids[name]
}

// item goes to an element of an array, or to nil.
func (p *place) item(i int) *place {
	if p == nil || i >= len(p.items) {
		return nil
	}
	return p.items[i]
}

func (p *place) add(name string, line int) *place {
	k := p.kids[name]
	if k == nil {
		k = &place{line: line}
		if p.kids == nil {
			p.kids = map[string]*place{}
		}
		p.kids[name] = k
	}
	return k
}

// last is the table that a header or key below an array of tables speaks of.
func (p *place) last() *place {
	if n := len(p.items); n > 0 {
		return p.items[n-1]
	}
	return p
}

// locate finds the places in a file that is valid TOML. In one that is not,
// it gives up where it cannot go on: a place that is missing costs a line
// number and nothing else. deep is the line on which something is nested more
// deeply than any configuration, or 0: the TOML library takes time and memory
// by the square of the parts of a key, so it must not see such a file.
func locate(data []byte) (root *place, deep int) {
	root = &place{}
	s := &scanner{src: strings.TrimPrefix(string(data), "\ufeff"), line: 1}
	s.file(root)
	return root, s.deep
}

func (s *scanner) file(root *place) {
	table := root
	for {
		s.blank()
		switch {
		case s.done():
			return
		case s.eat("[["):
			line := s.line
			at := s.path(root, line)
			if !s.eat("]]") {
				return
			}
			at.items = append(at.items, &place{line: line})
			table = at.last()
		case s.eat("["):
			line := s.line
			at := s.path(root, line)
			if !s.eat("]") {
				return
			}
			at.line = line // it may have been implied by [a.b] before
			table = at.last()
		default:
			if !s.pair(table, 0) {
				return
			}
		}
	}
}

type scanner struct {
	src  string
	pos  int
	line int
	deep int
}

func (s *scanner) done() bool { return s.pos >= len(s.src) }

func (s *scanner) peek() byte {
	if s.done() {
		return 0
	}
	return s.src[s.pos]
}

func (s *scanner) eat(tok string) bool {
	if !strings.HasPrefix(s.src[s.pos:], tok) {
		return false
	}
	s.skip(len(tok))
	return true
}

// skip moves on and counts lines.
func (s *scanner) skip(n int) {
	n = min(n, len(s.src)-s.pos)
	s.line += strings.Count(s.src[s.pos:s.pos+n], "\n")
	s.pos += n
}

// blank skips white space, newlines and comments.
func (s *scanner) blank() {
	for !s.done() {
		switch s.peek() {
		case ' ', '\t', '\r', '\n':
			s.skip(1)
		case '#':
			s.until("\n")
		default:
			return
		}
	}
}

func (s *scanner) space() {
	for s.peek() == ' ' || s.peek() == '\t' {
		s.pos++
	}
}

// until skips up to and including the next end.
func (s *scanner) until(end string) {
	i := strings.Index(s.src[s.pos:], end)
	if i < 0 {
		s.pos = len(s.src)
		return
	}
	s.skip(i + len(end))
}

// path follows a dotted key down from a table, making what is missing.
func (s *scanner) path(at *place, line int) *place {
	for parts := 1; ; parts++ {
		s.space()
		at = at.last().add(s.key(), line)
		s.space()
		if !s.eat(".") {
			return at
		}
		if parts == maxNesting {
			s.tooDeep()
			return at
		}
	}
}

// tooDeep ends the scan.
func (s *scanner) tooDeep() {
	s.deep, s.pos = s.line, len(s.src)
}

// key reads one part of a key.
func (s *scanner) key() string {
	start := s.pos
	switch s.peek() {
	case '"', '\'':
		s.text()
		quoted := s.src[start:s.pos]
		if quoted[0] == '"' {
			// Go's escapes are not quite TOML's. No key of ours needs any.
			if name, err := strconv.Unquote(quoted); err == nil {
				return name
			}
		}
		return strings.Trim(quoted, quoted[:1])
	}
	for !s.done() && !strings.ContainsRune(" \t\r\n.=[]{},#\"'", rune(s.peek())) {
		s.pos++
	}
	return s.src[start:s.pos]
}

// maxNesting bounds the parts of a key and what stands in what. Two is the
// most that a configuration of ours needs.
const maxNesting = 32

// pair reads key = value.
func (s *scanner) pair(table *place, depth int) bool {
	start := s.pos
	at := s.path(table, s.line)
	if !s.eat("=") {
		return false
	}
	s.space()
	return s.value(at, depth+1) && s.pos > start
}

// value reads a value into its place.
func (s *scanner) value(at *place, depth int) bool {
	if depth > maxNesting {
		s.tooDeep()
		return false
	}
	switch s.peek() {
	case '"', '\'':
		s.text()
		return true
	case '[':
		s.skip(1)
		for {
			s.blank()
			if s.eat("]") {
				return true
			}
			el := &place{line: s.line}
			at.items = append(at.items, el)
			if !s.value(el, depth+1) {
				return false
			}
			s.blank()
			if !s.eat(",") {
				return s.eat("]")
			}
		}
	case '{':
		s.skip(1)
		for {
			s.blank()
			if s.eat("}") {
				return true
			}
			if !s.pair(at, depth+1) {
				return false
			}
			s.blank()
			if !s.eat(",") {
				return s.eat("}")
			}
		}
	}
	start := s.pos
	for !s.done() && !strings.ContainsRune("\r\n,]}#", rune(s.peek())) {
		s.pos++
	}
	return s.pos > start
}

// text skips a string of any of the four kinds.
func (s *scanner) text() {
	quote := s.src[s.pos : s.pos+1]
	long := strings.Repeat(quote, 3)
	if s.eat(long) {
		for !s.done() && !s.eat(long) {
			if quote == `"` && s.peek() == '\\' {
				s.skip(1)
			}
			s.skip(1)
		}
		// Up to two quotes may stand right before the closing three.
		for n := 0; n < 2 && s.eat(quote); n++ {
		}
		return
	}
	s.skip(1)
	for !s.done() && s.peek() != '\n' && !s.eat(quote) {
		if quote == `"` && s.peek() == '\\' {
			s.skip(1)
		}
		s.skip(1)
	}
}

package conffile

import "strings"

// param finds a setting of main.cf: its logical line, and its value from
// behind the "=" to the end of that line. Of several the last one counts, as
// it does for Postfix.
func (f *File) param(name string) (line, value span, ok bool) {
	for _, l := range f.logicalLines() {
		key, _, found := strings.Cut(f.Text[l.start:l.end], "=")
		if found && strings.TrimSpace(key) == name {
			line, value, ok = l, span{l.start + len(key) + 1, l.end}, true
		}
	}
	return line, value, ok
}

// Has reports whether main.cf has a setting, if only as an empty one.
func (f *File) Has(name string) bool { _, _, ok := f.param(name); return ok }

// List returns the words of a setting.
func (f *File) List(name string) []string {
	_, v, ok := f.param(name)
	if !ok {
		return nil
	}
	var l []string
	for _, t := range f.tokens(v) {
		l = append(l, Fold(f.Text[t.start:t.end]))
	}
	return l
}

// Value returns a setting with its lines joined.
func (f *File) Value(name string) (string, bool) {
	_, v, ok := f.param(name)
	if !ok {
		return "", false
	}
	var parts []string
	for i, l := range strings.Split(f.Text[v.start:v.end], "\n") {
		if l = strings.TrimSpace(l); l != "" && (i == 0 || l[0] != '#') {
			parts = append(parts, l)
		}
	}
	return strings.Join(parts, " "), true
}

// Set gives a setting one value, in its place or at the end of the file.
func (f *File) Set(name, value string) {
	line, _, ok := f.param(name)
	text := name + " = " + value + "\n"
	if value == "" {
		text = name + " =\n"
	}
	if ok {
		f.Text = f.Text[:line.start] + text + f.Text[line.end:]
		return
	}
	f.Append(text)
}

// Append puts a line at the end of the file.
func (f *File) Append(text string) {
	if f.Text != "" && !strings.HasSuffix(f.Text, "\n") {
		f.Text += "\n"
	}
	f.Text += text
}

// Unset takes a setting out of the file.
func (f *File) Unset(name string) {
	if line, _, ok := f.param(name); ok {
		f.Text = f.Text[:line.start] + f.Text[line.end:]
	}
}

// Add puts an element into a list that the file has, in front or at the end,
// laid out as its neighbours are.
func (f *File) Add(name, element string, front bool) {
	_, v, ok := f.param(name)
	if !ok {
		f.Set(name, element)
		return
	}
	tokens := f.tokens(v)
	if len(tokens) == 0 {
		f.Set(name, element)
		return
	}
	sep := ", "
	commas := false
	for i := 1; i < len(tokens) && !commas; i++ {
		commas = strings.Contains(f.Text[tokens[i-1].end:tokens[i].start], ",")
	}
	if len(tokens) > 1 && !commas {
		sep = " "
	}
	edge := tokens[len(tokens)-1]
	if front {
		edge = tokens[0]
	}
	// A neighbour that stands on a continuation line of its own is given
	// another such line.
	start := strings.LastIndexByte(f.Text[:edge.start], '\n') + 1
	if indent := f.Text[start:edge.start]; start > v.start && strings.Trim(indent, " \t") == "" {
		sep = strings.TrimSuffix(sep, " ") + "\n" + indent
	}
	if front {
		f.Text = f.Text[:edge.start] + element + sep + f.Text[edge.start:]
		return
	}
	f.Text = f.Text[:edge.end] + sep + element + f.Text[edge.end:]
}

// AddBefore puts an element into a list that the file has, before its word at i
// (as List counts), laid out as that word is.
func (f *File) AddBefore(name, element string, i int) {
	_, v, ok := f.param(name)
	tokens := f.tokens(v)
	switch {
	case !ok || i >= len(tokens):
		f.Add(name, element, false)
		return
	case i <= 0:
		f.Add(name, element, true)
		return
	}
	at := tokens[i-1].end
	gap := f.Text[at:tokens[i].start]
	if strings.Contains(gap, "#") {
		gap = ", "
	}
	f.Text = f.Text[:at] + gap + element + f.Text[at:]
}

// Remove takes an element out of a list and reports whether it was there. It
// is the inverse of Add.
func (f *File) Remove(name, element string) bool {
	_, v, ok := f.param(name)
	if !ok {
		return false
	}
	tokens := f.tokens(v)
	i := Index(f.List(name), element)
	if i < 0 {
		return false
	}
	n := len(Words(element))
	cut := span{tokens[i].start, tokens[i+n-1].end}
	switch last := i+n == len(tokens); {
	case i > 0 && !f.comment(tokens[i-1].end, cut.start):
		cut.start = tokens[i-1].end
	case !last && !f.comment(cut.end, tokens[i+n].start):
		cut.end = tokens[i+n].start
	}
	f.Text = f.Text[:cut.start] + f.Text[cut.end:]
	return true
}

// RemoveAll is Remove for many elements at once: of each the first is taken.
func (f *File) RemoveAll(name string, elements []string) {
	wanted := map[string]int{}
	for _, e := range elements {
		if w := Words(e); len(w) == 1 {
			wanted[w[0]]++
		} else {
			f.Remove(name, e)
		}
	}
	_, v, ok := f.param(name)
	if !ok || len(wanted) == 0 {
		return
	}
	tokens := f.tokens(v)
	var out strings.Builder
	at, kept := v.start, 0
	gap := "" // what stands before the next token
	for i, t := range tokens {
		gap += f.Text[at:t.start]
		at = t.end
		word := Fold(f.Text[t.start:t.end])
		if wanted[word] == 0 {
			out.WriteString(gap)
			out.WriteString(f.Text[t.start:t.end])
			gap = ""
			kept++
			continue
		}
		wanted[word]--
		switch last := i == len(tokens)-1; {
		case kept > 0 && !strings.Contains(gap, "#"):
			gap = ""
		case !last && !f.comment(at, tokens[i+1].start):
			at = tokens[i+1].start
		}
	}
	f.Text = f.Text[:v.start] + out.String() + gap + f.Text[at:]
}

// comment reports whether a comment stands in text[from:to], between tokens.
func (f *File) comment(from, to int) bool { return strings.Contains(f.Text[from:to], "#") }

package conffile

import (
	"slices"
	"strings"
)

// A Service is an entry of master.cf.
type Service struct {
	Name    string // first column
	Type    string // inet, unix, pass ...
	Chroot  string // y, n or -
	Command string
	Args    []string

	line span
}

// Services are the entries of master.cf.
func (f *File) Services() []Service {
	// A comma separates nothing here. What takes its place has its length, so
	// the positions hold for the text itself.
	masked := File{strings.ReplaceAll(f.Text, ",", "\x01")}
	var list []Service
	for _, l := range f.logicalLines() {
		var w []string
		for _, t := range masked.tokens(l) {
			w = append(w, f.Text[t.start:t.end])
		}
		if len(w) < 8 {
			continue
		}
		list = append(list, Service{line: l, Name: w[0], Type: w[1], Chroot: w[4], Command: w[7], Args: w[8:]})
	}
	return list
}

// Service finds an entry of master.cf.
func (f *File) Service(name, typ string) (Service, bool) {
	list := f.Services()
	i := slices.IndexFunc(list, func(s Service) bool { return s.Name == name && s.Type == typ })
	if i < 0 {
		return Service{}, false
	}
	return list[i], true
}

// ParseService reads the text of one entry.
func ParseService(entry string) (Service, bool) {
	f := File{entry}
	list := f.Services()
	if len(list) != 1 {
		return Service{}, false
	}
	return list[0], true
}

// RemoveService takes an entry out if its text is this one, white space aside.
// It reports whether there is an entry of that name and type, and whether it
// has been taken out.
func (f *File) RemoveService(entry string) (found, removed bool) {
	ours, ok := ParseService(entry)
	if !ok {
		return false, false
	}
	s, ok := f.Service(ours.Name, ours.Type)
	if !ok {
		return false, false
	}
	if Fold(f.Text[s.line.start:s.line.end]) != Fold(entry) {
		return true, false
	}
	f.Text = f.Text[:s.line.start] + f.Text[s.line.end:]
	return true, true
}

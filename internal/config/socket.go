package config

import "bytes"

// ControlListen is where the daemon that uses the configuration file at path
// listens for etrnctl. It looks at nothing else, so that a command need not read
// what is written of ten thousand customers.
func ControlListen(path string) (string, error) {
	data, err := readMain(path)
	if err != nil {
		return "", err
	}
	if short, ok := withoutQueues(data); ok {
		if listen, err := controlListen(path, short); err == nil {
			return listen, nil
		}
	}
	return controlListen(path, data) // whatever is wrong has its line in this
}

func controlListen(path string, data []byte) (string, error) {
	r := newReader(path)
	r.noFiles = true
	c := &Config{File: path}
	if root := r.parse(path, data); root != nil {
		root.checkKeys() // one may have been meant to be [control]
		r.control(root.one("control"), c)
	}
	if len(r.errs) > 0 {
		return "", &Error{Problems: inOrder(path, r.errs)}
	}
	return c.Control.Listen, nil
}

// withoutQueues leaves out what stands below each [[queue]], up to the next line
// that begins with a bracket. It is not ok where that may be something else than a
// heading: in a file that has strings of several lines. An array of several lines
// may begin a line with a bracket, too; what is left of it is no TOML then.
func withoutQueues(data []byte) (rest []byte, ok bool) {
	if bytes.Contains(data, []byte(`"""`)) || bytes.Contains(data, []byte("'''")) {
		return nil, false
	}
	skip := false
	for line := range bytes.Lines(data) {
		text := bytes.TrimLeft(line, " \t")
		if bytes.HasPrefix(text, []byte("[")) {
			skip = bytes.HasPrefix(text, []byte("[[queue]]"))
		}
		if !skip {
			rest = append(rest, line...)
		}
	}
	return rest, true
}

package deliver

import (
	"bytes"
	"io"
)

// dots writes a message as it stands behind DATA: dots at the beginnings of lines
// are doubled (RFC 5321, section 4.5.2), and CR and LF come as pairs only (section
// 2.3.8). Servers differ in what they take for the end of a line, and so of a
// message: a sender who gets CR or LF alone through to one of them can have it find
// a second message in his first, with an envelope that nobody has checked. CR alone
// becomes a space, and LF alone a pair, which is what Postfix since 3.9 makes of
// them by default. By BDAT (RFC 3030), where the length tells the end, they cross
// as they are.
type dots struct {
	w   io.Writer
	bol bool // at the beginning of a line
	cr  bool // behind a CR, which is not written yet
}

func (d *dots) Write(b []byte) (int, error) {
	out := make([]byte, 0, len(b)+len(b)/16+8)
	for i := 0; i < len(b); {
		c := b[i]
		i++
		if d.cr && c != '\n' {
			out, d.bol = append(out, ' '), false
		}
		d.cr = c == '\r'
		switch {
		case c == '\r':
			continue
		case c == '\n':
			out, d.bol = append(out, '\r', '\n'), true
			continue
		case d.bol && c == '.':
			out = append(out, '.')
		}
		// The rest of the line needs no look at each byte.
		n := bytes.IndexAny(b[i:], "\r\n")
		if n < 0 {
			n = len(b) - i
		}
		out, d.bol = append(out, b[i-1:i+n]...), false
		i += n
	}
	if _, err := d.w.Write(out); err != nil {
		return 0, err
	}
	return len(b), nil
}

// end brings the message to the end of a line.
func (d *dots) end() error {
	var last []byte
	if d.cr {
		last, d.cr, d.bol = append(last, ' '), false, false
	}
	if !d.bol {
		last, d.bol = append(last, '\r', '\n'), true
	}
	_, err := d.w.Write(last)
	return err
}

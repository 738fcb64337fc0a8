package deliver

import "io"

// dots doubles the dots at the beginnings of lines (RFC 5321, section 4.5.2).
type dots struct {
	w   io.Writer
	bol bool // at the beginning of a line
	cr  bool // behind a CR
}

func (d *dots) Write(b []byte) (int, error) {
	from := 0
	for i, c := range b {
		if d.bol && c == '.' {
			if _, err := d.w.Write(b[from:i]); err != nil {
				return from, err
			}
			if _, err := d.w.Write([]byte{'.'}); err != nil {
				return i, err
			}
			from = i
		}
		d.bol = c == '\n' && d.cr
		d.cr = c == '\r'
	}
	if _, err := d.w.Write(b[from:]); err != nil {
		return from, err
	}
	return len(b), nil
}

// end brings the message to the end of a line.
func (d *dots) end() error {
	if d.bol {
		return nil
	}
	_, err := d.w.Write([]byte("\r\n"))
	return err
}

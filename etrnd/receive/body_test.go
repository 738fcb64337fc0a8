package receive

import (
	"bufio"
	"bytes"
	"testing"
)

// FuzzBody: whatever comes, a careless MTA sees the end where the server does.
func FuzzBody(f *testing.F) {
	for _, s := range []string{"", ".", ".\r\n", "x\r\n.\r\ny", "x\n.\ny\r\n.\r\n", "\r\n.\r\r\n.\r\n", "a\r.\r\n..\r\n.\r\n", ".\n.\r\n", "\r\r\n\n\r.\r\n", "..\r\n.\r.\r\n.\r\n"} {
		f.Add([]byte(s), uint8(3))
	}
	f.Fuzz(func(t *testing.T, data []byte, step uint8) {
		var out bytes.Buffer
		w := bufio.NewWriter(&out)
		var b body
		rest, n, end := data, 0, false
		for len(rest) > 0 && !end {
			p := rest[:min(len(rest), int(step)+1)]
			var k int
			k, end = b.write(w, p)
			if !end && k != len(p) {
				t.Fatalf("%d of %d bytes were taken", k, len(p))
			}
			n += k
			rest = rest[k:]
		}
		w.Flush()
		got := out.Bytes()
		if end && !bytes.HasSuffix(data[:n], []byte(".\r\n")) {
			t.Fatalf("an end was seen behind %q", data[:n])
		}
		text := bytes.ReplaceAll(got, []byte("\r\n"), nil)
		if bytes.ContainsAny(text, "\r\n") {
			t.Fatalf("%q holds CR or LF alone", got)
		}
		// The first line that is a dot is the last.
		lines := bytes.SplitAfter(got, []byte("\r\n"))
		for i, line := range lines {
			if string(line) == ".\r\n" && !(end && i == len(lines)-2 && len(lines[i+1]) == 0) {
				t.Fatalf("%q ends a message before its end (from %q)", got, data)
			}
		}
		if end && (len(lines) < 2 || string(lines[len(lines)-2]) != ".\r\n") {
			t.Fatalf("%q has no end (from %q)", got, data)
		}
		// What is sound is left as it is.
		if end && !bytes.Contains(got, []byte(" ")) && bytes.Equal(bytes.ReplaceAll(data[:n], []byte("\r\n"), nil), text) && !bytes.Equal(got, data[:n]) {
			t.Fatalf("%q became %q", data[:n], got)
		}
	})
}

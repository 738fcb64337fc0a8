package main

import (
	"strings"
	"testing"
)

// What becomes of held mail is not guessed at, and a slip undoes nothing.
func TestSetupUsage(t *testing.T) {
	for _, c := range []struct {
		args, says string
		exit       int
	}{
		{"setup postfix --held away", `--held is "away"`, 64},
		{"setup postfix --undo --apply", "do not go together", 64},
		{"setup postfix --undo --config /nonexistent/etrnd.toml", "/nonexistent/etrnd.toml", 78},
		{"setup postfix --let-go", "flag needs an argument", 64},
	} {
		out, errs, exit := etrnctl(t, "", strings.Fields(c.args)...)
		if exit != c.exit || !strings.Contains(errs, c.says) || out != "" {
			t.Errorf("%s: exit %d, %q, %q", c.args, exit, out, errs)
		}
	}
}

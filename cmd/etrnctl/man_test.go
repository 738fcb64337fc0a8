package main

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// The manual page has every command and every flag, and none that is gone.
func TestManPage(t *testing.T) {
	b, err := os.ReadFile("../../packaging/man/etrnctl.8")
	if err != nil {
		t.Fatal(err)
	}
	page := string(b)
	flag := func(text, name string) bool {
		return regexp.MustCompile(`(?m)^\.It Fl .*-` + regexp.QuoteMeta(name) + `( |$)`).MatchString(text)
	}
	// The part of each command goes on to the next one.
	parts := map[string]string{}
	var found []string
	name := ""
	for line := range strings.Lines(page) {
		if rest, ok := strings.CutPrefix(line, ".It Ic "); ok {
			words, _, _ := strings.Cut(regexp.MustCompile(` (Op|Oo|Ar|Fl) `).ReplaceAllString(rest, "\x00"), "\x00")
			name = strings.TrimSpace(words)
			found = append(found, name)
		}
		if strings.HasPrefix(line, ".Sh ") || strings.HasPrefix(line, ".Ss ") {
			name = ""
		}
		parts[name] += line
	}

	root := (&app{}).root()
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd("status")
	var walk func(c *cobra.Command)
	var want []string
	walk = func(c *cobra.Command) {
		if c.HasAvailableSubCommands() && c.Name() != "completion" {
			for _, sub := range c.Commands() {
				walk(sub)
			}
			return
		}
		path := strings.TrimPrefix(c.CommandPath(), "etrnctl ")
		want = append(want, path)
		if c.Name() == "completion" {
			return
		}
		for _, m := range regexp.MustCompile(`(?m)^ +(?:-\w, )?--([\w-]+)`).FindAllStringSubmatch(c.LocalNonPersistentFlags().FlagUsages(), -1) {
			// user password refers to user add for what they share.
			if f := m[1]; f != "help" && !flag(parts[path], f) && !(strings.HasPrefix(path, "user ") && strings.Contains(parts[path], "Fl -"+f)) {
				t.Errorf("%s: --%s is not in the manual page", path, f)
			}
		}
	}
	walk(root)
	for _, f := range []string{"config", "socket", "json", "help"} {
		if !flag(parts[""], f) {
			t.Errorf("--%s is not in the manual page", f)
		}
	}
	if !flag(parts["user add"], "file") {
		t.Error("user --file is not in the manual page")
	}
	slices.Sort(want)
	slices.Sort(found)
	if !slices.Equal(found, want) {
		t.Errorf("the manual page has the commands\n%q, but there are\n%q", found, want)
	}
}

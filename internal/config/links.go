package config

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/etrnd/etrnd/internal/foreign"
)

func (r *reader) link(t *table, c *Config) {
	l := Link{
		Name:          t.takeName(r.links, len(c.Links)),
		Dial:          r.command(t, "dial"),
		HangUp:        r.command(t, "hang-up"),
		DialTimeout:   t.duration("dial-timeout"),
		HangUpTimeout: t.duration("hang-up-timeout"),
		Limit:         t.duration("limit"),
	}
	for _, it := range t.strs("interfaces") {
		_, err := path.Match(it.s, "")
		switch {
		case err != nil:
			t.failAt(it.line, "interfaces", `write a name such as "ppp0", or a pattern such as "wwan*"`, "%s is not a valid pattern", foreign.Quote(it.s))
		case strings.ContainsAny(it.s, " /"):
			t.failAt(it.line, "interfaces", `write a name such as "ppp0", or a pattern such as "wwan*"`, "%s is not a valid name of an interface", foreign.Quote(it.s))
		case !strings.ContainsAny(it.s, `*?[\`) && len(it.s) > maxIfName:
			t.failAt(it.line, "interfaces", "", "%s is too long: the name of an interface has at most %d bytes", foreign.Quote(it.s), maxIfName)
		default:
			if other := r.shared(c, it.s); other != "" {
				t.failAt(it.line, "interfaces", "an interface can belong to only one link", "%s belongs to link %s as well", foreign.Quote(it.s), foreign.Quote(other))
			}
			l.Interfaces = append(l.Interfaces, it.s)
		}
	}
	t.notEmpty("interfaces", `write interfaces = ["ppp0"], or leave the key out`)
	if len(l.HangUp) > 0 && !t.has("interfaces") {
		t.warn("hang-up", `write interfaces = ["ppp0"]`, "without interfaces only etrnctl link up %s and etrnctl link down %s tell whether the link is up", l.Name, l.Name)
	}
	if len(l.Dial) > 0 && !t.has("hang-up") {
		t.warn("dial", `write hang-up = ["systemctl", "stop", "etrnd-line@isp"] or the like`, "without hang-up, a line that was dialled stays up until somebody else takes it down")
	}
	c.Links = append(c.Links, l)
}

// maxIfName is IFNAMSIZ of Linux without the final NUL.
const maxIfName = 15

// shared finds another link that a name or pattern of interfaces would match
// too, as far as that can be told: two patterns may overlap unseen.
func (r *reader) shared(c *Config, pattern string) string {
	for i := range c.Links {
		l := &c.Links[i]
		if l.Match(pattern) {
			return l.Name
		}
		for _, p := range l.Interfaces {
			if ok, err := path.Match(pattern, p); ok && err == nil {
				return l.Name
			}
		}
	}
	return ""
}

// safePath is where commands are looked for. The PATH of whoever starts the
// daemon has no say in what it runs.
var safePath = [...]string{"/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"}

// command checks dial or hang-up and returns it with the absolute path of its
// program.
func (r *reader) command(t *table, key string) []string {
	items := t.strs(key)
	l, _ := t.vals[key].([]any)
	if len(items) != len(l) {
		return nil // already objected to
	}
	if t.has(key) && len(items) == 0 {
		if l != nil {
			t.fail(key, `leave the key out to run no command, or write a program and its arguments: ["systemctl", "start", "etrnd-line@isp"]`, "is empty")
		}
		return nil
	}
	if len(items) == 0 {
		return nil
	}
	argv := make([]string, 0, len(items))
	for _, it := range items {
		argv = append(argv, it.s)
	}
	prog, line := items[0].s, items[0].line
	if len(argv) == 1 && strings.Contains(prog, " ") {
		t.failAt(line, key, "write "+tomlList(strings.Fields(prog)), "%s is a single word, and there is no shell to split it", foreign.Quote(prog))
		return nil
	}
	if filepath.IsAbs(prog) {
		if r.noFiles {
			return argv
		}
		if err := executable(prog); err != nil {
			t.failAt(line, key, "", "%s", reason(err))
			return nil
		}
		return argv
	}
	if strings.Contains(prog, "/") {
		t.failAt(line, key, "write it from the root", "expected a program or an absolute path, got %s", foreign.Quote(prog))
		return nil
	}
	for _, dir := range safePath {
		if full := filepath.Join(dir, prog); executable(full) == nil {
			argv[0] = full
			return argv
		}
	}
	if !r.noFiles {
		t.failAt(line, key, "install it, or write its absolute path", "there is no program %s in %s", foreign.Quote(prog), strings.Join(safePath[:], ":"))
		return nil
	}
	return argv
}

func executable(path string) error {
	st, err := os.Stat(path)
	switch {
	case err != nil:
		return err
	case !st.Mode().IsRegular():
		return fmt.Errorf("%s is not a regular file", foreign.Quote(path))
	case st.Mode().Perm()&0o111 == 0:
		return fmt.Errorf("%s is not executable", foreign.Quote(path))
	}
	return nil
}

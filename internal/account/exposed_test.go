package account

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Whoever can change a file, or put another one in its place, is found, and the
// commands that are named mend it.
func TestExposures(t *testing.T) {
	const stranger = 65534
	daemon := User{Name: "etrnd", UID: 4242}
	for name, c := range map[string]struct {
		spoil func(dir, file string) error
		users []User
		want  string // of what is found: names and whys
	}{
		"as it should be":          {func(_, _ string) error { return nil }, nil, ""},
		"of the daemon":            {func(_, f string) error { return os.Chown(f, daemon.UID, 0) }, []User{daemon}, ""},
		"of a daemon, for root":    {func(_, f string) error { return os.Chown(f, daemon.UID, 0) }, nil, "file belongs to the user 4242"},
		"of somebody":              {func(_, f string) error { return os.Chown(f, stranger, 0) }, []User{daemon}, "file belongs to the user nobody"},
		"of the group":             {func(_, f string) error { return errors.Join(os.Chown(f, 0, stranger), os.Chmod(f, 0o664)) }, nil, "file can be written to by the group nogroup (mode 0664)"},
		"of root's group":          {func(_, f string) error { return os.Chmod(f, 0o664) }, nil, ""},
		"of everybody":             {func(_, f string) error { return os.Chmod(f, 0o646) }, nil, "file can be written to by everybody (mode 0646)"},
		"all of it":                {func(_, f string) error { return errors.Join(os.Chown(f, stranger, stranger), os.Chmod(f, 0o666)) }, nil, "file belongs to the user nobody and can be written to by everybody (mode 0666)"},
		"the directory":            {func(d, _ string) error { return os.Chmod(d, 0o777) }, nil, "a b/ can be written to by everybody (mode 0777)"},
		"the directory's owner":    {func(d, _ string) error { return os.Chown(d, stranger, 0) }, nil, "a b/ belongs to the user nobody"},
		"the directory of a group": {func(d, _ string) error { return errors.Join(os.Chown(d, 0, stranger), os.Chmod(d, 0o775)) }, nil, "a b/ can be written to by the group nogroup (mode 0775)"},
		"a sticky directory":       {func(d, _ string) error { return os.Chmod(d, os.ModeSticky|0o777) }, nil, ""},
		"above it":                 {func(d, _ string) error { return os.Chown(filepath.Dir(d), stranger, 0) }, nil, "top/ belongs to the user nobody"},
		"where a link leads": {func(d, f string) error {
			other := filepath.Join(filepath.Dir(d), "other")
			return errors.Join(os.Mkdir(other, 0o755), os.Rename(f, filepath.Join(other, "real")), os.Symlink("../other/real", f), os.Chown(other, stranger, 0))
		}, nil, "other/ belongs to the user nobody"},
		"where a link lies": {func(d, f string) error {
			real := filepath.Join(filepath.Dir(d), "real")
			return errors.Join(os.Rename(f, real), os.Symlink(real, f), os.Chmod(d, 0o757))
		}, nil, "a b/ can be written to by everybody (mode 0757)"},
		"links without end": {func(_, f string) error { return errors.Join(os.Remove(f), os.Symlink(f, f)) }, nil, ""},
		"nothing there":     {func(_, f string) error { return os.Remove(f) }, nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			top := filepath.Join(t.TempDir(), "top")
			dir := filepath.Join(top, "a b")
			file := filepath.Join(dir, "file")
			if err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(file, nil, 0o644), c.spoil(dir, file)); err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, e := range Exposures(file, c.users...) {
				name := filepath.Base(e.Path)
				if e.Dir {
					name += "/"
				}
				got = append(got, name+" "+e.Why)
				if out, err := exec.CommandContext(t.Context(), "sh", "-c", e.Mend).CombinedOutput(); err != nil {
					t.Errorf("%s: %v %s", e.Mend, err, out)
				}
			}
			if all := strings.Join(got, "; "); all != c.want {
				t.Errorf("found %q, want %q", all, c.want)
			}
			if left := Exposures(file, c.users...); len(left) > 0 {
				t.Errorf("the commands do not mend it: %+v", left)
			}
		})
	}
}

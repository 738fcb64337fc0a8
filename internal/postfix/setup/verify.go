package setup

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/etrnd/etrnd/internal/postfix"
	"github.com/etrnd/etrnd/internal/postfix/conffile"
)

// verify reads the new files with Postfix's own eyes before anybody else does.
// It returns the settings that the set-up touches as they would be.
func verify(ctx context.Context, pf *postfix.Instance, env *environment, want *desired, to *edited) (got map[string]string, err error) {
	names := append(slices.Clone(lists), slices.Sorted(maps.Keys(want.values))...)
	err = try(pf, to.main, to.master, func(trial *postfix.Instance, dir string) error {
		if got, err = trial.Settings(ctx, names...); err != nil {
			return fmt.Errorf("the new main.cf cannot be read: %w", err)
		}
		for _, w := range want.elements {
			if strings.HasPrefix(w.text, "${") {
				continue // what it is depends on another setting
			}
			text := strings.ReplaceAll(w.text, "$config_directory", dir)
			if _, ok := covered(w.list, text, conffile.Words(got[w.list]), env.settings["queue_directory"]); !ok {
				return fmt.Errorf("%s would be %q, which lacks %q: this is a defect of the set-up, nothing has been changed", w.list, got[w.list], w.text)
			}
		}
		for name, value := range want.values {
			if !same(got[name], value) {
				return fmt.Errorf("%s would be %q, not %q: this is a defect of the set-up, nothing has been changed", name, got[name], value)
			}
		}
		var services []string
		for _, e := range to.record.Entries {
			s, _ := conffile.ParseService(e)
			services = append(services, s.Name+"/"+s.Type)
		}
		if len(services) > 0 {
			if err := trial.ReadServices(ctx, services...); err != nil {
				return fmt.Errorf("the new master.cf cannot be read: %w", err)
			}
		}
		return nil
	})
	return got, err
}

// try puts the two files where Postfix's commands can read them.
func try(pf *postfix.Instance, main, master conffile.File, ask func(trial *postfix.Instance, dir string) error) (err error) {
	dir, err := os.MkdirTemp("", "etrnd-postfix-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	for name, text := range map[string]string{"main.cf": main.Text, "master.cf": master.Text} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			return err
		}
		if err := os.Chtimes(path, aged(), aged()); err != nil {
			return err
		}
	}
	return ask(pf.At(dir), dir)
}

// aged is a time of change for main.cf. Every program of Postfix that finds it
// changed within the last seconds waits up to 1.5 s, for fear of reading it
// while it is being written; ours appears complete.
func aged() time.Time { return time.Now().Add(-15 * time.Second) }

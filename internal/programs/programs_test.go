package programs

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// Many at once get programs of their own, which run, and the race detector is
// in the daemons of those who asked for it.
func TestBuild(t *testing.T) {
	t.Parallel()
	sets := make([]*Set, 4)
	var wg sync.WaitGroup
	for i := range sets {
		wg.Go(func() {
			var err error
			if sets[i], err = Build(t.Context(), i%2 == 1); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	for i, s := range sets {
		for _, name := range []string{"etrnd", "etrn-milter", "etrnctl"} {
			arg := "-version"
			if name == "etrnctl" {
				arg = "version"
			}
			out, err := exec.CommandContext(t.Context(), s.Path(name), arg).CombinedOutput()
			if err != nil || !strings.Contains(string(out), Version) {
				t.Errorf("%s: %v: %s", name, err, out)
			}
			info, err := exec.CommandContext(t.Context(), "go", "version", "-m", s.Path(name)).Output()
			if err != nil {
				t.Fatal(err)
			}
			if race := strings.Contains(string(info), "-race=true"); race != (i%2 == 1 && name != "etrnctl") {
				t.Errorf("set %d: %s has the race detector: %v", i, name, race)
			}
		}
	}
	if err := sets[0].Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Dir(sets[0].Path("etrnd"))); !os.IsNotExist(err) {
		t.Errorf("after Close: %v", err)
	}
	if _, err := os.Stat(sets[1].Path("etrnd")); err != nil {
		t.Errorf("the copy of another: %v", err)
	}
	for _, s := range sets[1:] {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

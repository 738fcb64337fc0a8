//go:build !quick

package packaging

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// What is installed has all that its documentation links to.
func TestInstalledLinks(t *testing.T) {
	dir := t.TempDir()
	if out, err := exec.Command("make", "-C", "..", "install", "DESTDIR="+dir, "PREFIX=/usr").CombinedOutput(); err != nil {
		t.Fatalf("make install: %v\n%s", err, out)
	}
	link := regexp.MustCompile(`\]\(([^)#:]+)(#[^)]*)?\)`)
	pages := 0
	for _, base := range []string{"usr/share/doc/etrnd", "usr/share/etrnd/contrib"} {
		err := filepath.WalkDir(filepath.Join(dir, base), func(path string, d os.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, ".md") {
				return err
			}
			pages++
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			for _, m := range link.FindAllStringSubmatch(string(text), -1) {
				if _, err := os.Stat(filepath.Join(filepath.Dir(path), m[1])); err != nil {
					t.Errorf("%s links to %s, which is not installed", strings.TrimPrefix(path, dir), m[1])
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if pages < 8 {
		t.Errorf("%d pages are installed", pages)
	}
}

// Command etrn-milter tags the mail that Postfix holds for etrnd, and reports
// to it what passes. See etrn-milter(8).
package main

import (
	"os"

	"github.com/etrnd/etrnd/internal/config"
	"github.com/etrnd/etrnd/internal/daemon"
)

var version = "unknown" // set by the linker

func main() {
	os.Exit(daemon.Program{Name: "etrn-milter", Version: version, Load: load, Quiet: true, Start: service}.Main(os.Args[1:], os.Stdout, os.Stderr))
}

// load leaves out the checks of files: this program opens none of them, and
// must not be able to.
func load(file string) (*config.Config, error) {
	return config.Load(file, config.WithoutFiles())
}

func service(e daemon.Env) (daemon.Service, error) {
	d := newMilterd(e)
	return daemon.Service{Run: d.run, Reload: d.reload}, nil
}

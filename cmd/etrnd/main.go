// Command etrnd holds mail for places that are not always connected, lets it
// go when they ask, and makes the calls of such a place.
package main

import (
	"context"
	"os"
	"runtime/debug"

	"github.com/etrnd/etrnd/etrnd"
	"github.com/etrnd/etrnd/internal/config"
	"github.com/etrnd/etrnd/internal/daemon"
)

var version = "unknown" // set by the linker

// spare is how much memory may be garbage before it is collected, in percent of
// what is in use. Most of that is the index of what is held, which stays, so that
// Go's own 100 would double what a hub with much mail takes.
const spare = 20

func main() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(spare)
	}
	os.Exit(daemon.Program{Name: "etrnd", Version: version, Load: load, Start: service}.Main(os.Args[1:], os.Stdout, os.Stderr))
}

func load(file string) (*config.Config, error) { return config.Load(file) }

func service(e daemon.Env) (daemon.Service, error) {
	d, err := etrnd.New(etrnd.Options{
		ConfigFile: e.File, Config: e.Config, Version: e.Version, Logger: e.Log, Level: e.Level, Sockets: e.Sockets,
	})
	if err != nil {
		return daemon.Service{}, err
	}
	return daemon.Service{
		Run:    d.Run,
		Reload: func(ctx context.Context) { _, _ = d.Reload(ctx) }, // it logs what came of it
	}, nil
}

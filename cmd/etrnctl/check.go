package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"github.com/etrnd/etrnd/internal/api"
	"github.com/etrnd/etrnd/internal/config"
)

// finding is one thing that check found.
type finding struct {
	Level string `json:"level"` // error, warning or ok
	File  string `json:"file,omitempty"`
	Line  int    `json:"line,omitempty"`
	Key   string `json:"key,omitempty"`
	Text  string `json:"text"`
	Hint  string `json:"hint,omitempty"`
}

func (a *app) checkCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "check",
		Short: "Check the configuration, and whether the MTA is set up for it",
		Long: "check reads the configuration, reports everything that is wrong with it, and asks\n" +
			"the MTA whether it is set up for it. The daemon need not run, and is not\n" +
			"disturbed. The exit code is 78 when there is an error; warnings do not count.",
		Args: none,
		RunE: a.does(func(ctx context.Context, _ []string) error {
			found := []finding{}
			cfg, err := config.Load(a.configFile)
			var bad *config.Error
			switch {
			case errors.As(err, &bad):
				found = add(found, "error", bad.Problems)
			case err != nil:
				found = append(found, finding{Level: "error", File: a.configFile, Text: err.Error()})
			default:
				found = add(found, "warning", cfg.Warnings)
				found = append(found, checkMTA(ctx, cfg)...)
				found = append(found, a.checkClock(ctx, cfg)...)
			}
			return a.renderCheck(cfg, found)
		}),
	}
}

func add(found []finding, level string, ps []config.Problem) []finding {
	for _, p := range ps {
		found = append(found, finding{level, p.File, p.Line, p.Key, p.Msg, p.Hint})
	}
	return found
}

// renderCheck prints what was found, in the form that editors jump to.
func (a *app) renderCheck(cfg *config.Config, found []finding) error {
	errs := 0
	for _, f := range found {
		if f.Level == "error" {
			errs++
		}
	}
	if a.json {
		if err := a.printJSON(found); err != nil {
			return err
		}
	} else {
		p := a.print()
		for _, f := range found {
			where := f.File
			if where == "" {
				where = "mta"
			}
			text := config.Problem{File: where, Line: f.Line, Key: f.Key, Msg: f.Text, Hint: f.Hint}.String()
			if f.Level != "error" {
				text = f.Level + ": " + text
			}
			p.f("%s\n", text)
		}
		if errs == 0 {
			p.f("%s is good: %s, %s, %s\n", a.configFile, count(len(cfg.Queues), "queue"), count(len(cfg.Links), "link"), count(len(cfg.Remotes), "remote"))
		}
		if p.err != nil {
			return p.err
		}
	}
	if errs > 0 {
		return api.Errorf(api.ExitConfig, "", "%s found", count(errs, "error"))
	}
	return nil
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/etrnd/etrnd/internal/api"
	"github.com/etrnd/etrnd/internal/config"
	"github.com/etrnd/etrnd/internal/esmtp"
	"github.com/etrnd/etrnd/internal/mta"
	"github.com/etrnd/etrnd/internal/postfix"
	"github.com/etrnd/etrnd/internal/postfix/setup"
)

func (a *app) setupCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "setup",
		Short: "Set up the MTA for the configuration",
		Args:  knownMTA,
		RunE:  needs("an MTA"),
	}
	cmd.AddCommand(a.setupPostfixCommand())
	return cmd
}

func (a *app) setupPostfixCommand() *cobra.Command {
	var apply, undo bool
	var held string
	var letGo []string
	cmd := &cobra.Command{
		Use:   "postfix",
		Short: "Show what Postfix needs for the configuration, and apply or undo it",
		Long: "setup postfix shows, as a diff, what has to change in main.cf, master.cf and the\n" +
			"lookup tables so that Postfix holds and releases what the configuration says.\n" +
			"Nothing is changed without --apply or --undo. Run again after a change of the\n" +
			"configuration, it shows what is new; if nothing is, it changes nothing.\n\n" +
			"Mail that is held for a domain which is in no queue any more stays held, for\n" +
			"nobody, through --apply and --undo. --let-go and --held say that it may go.",
		Args: none,
		RunE: a.does(func(ctx context.Context, _ []string) error {
			if apply && undo {
				return api.Errorf(api.ExitUsage, "--apply sets Postfix up, --undo takes that back", "--apply and --undo do not go together")
			}
			switch setup.Held(held) {
			case setup.HeldKeep, setup.HeldOnHold, setup.HeldDeliver:
			default:
				return api.Errorf(api.ExitUsage, "write keep, on-hold or deliver", "--held is %q", held)
			}
			cfg, err := a.load(config.WithoutFiles())
			switch {
			case err == nil:
			case undo && a.configFile == config.DefaultPath:
				// The set-up can be taken out without it, as when the package is
				// removed. (Another path may be a slip, and mean another Postfix.)
				a.warn("%v; undoing the set-up of the machine's own Postfix", err)
				cfg = &config.Config{}
			default:
				return err
			}
			// An interrupt must not leave half a set-up; Apply puts the files
			// back when its context ends.
			ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
			defer stop()
			req := setup.RequirementsOf(cfg)
			req.Held, req.LetGo = setup.Held(held), letGo
			w := a.working()
			w.say("looking at Postfix")
			newPlan := setup.NewPlan
			if undo {
				newPlan = setup.NewUndo
			}
			plan, err := newPlan(ctx, instance(cfg), req)
			if err == nil {
				plan.Warnings = append(plan.Warnings, plan.Returned(ctx)...)
			}
			w.end()
			if err != nil {
				return mtaError(err)
			}
			return a.carryOut(ctx, plan, apply || undo, undo)
		}),
	}
	cmd.Flags().BoolVar(&apply, "apply", false, "make the changes, after showing them")
	cmd.Flags().BoolVar(&undo, "undo", false, "take the set-up out again, after showing what changes")
	cmd.Flags().StringArrayVar(&letGo, "let-go", nil, "let mail that is held for nobody go, for a `DOMAIN`, by Postfix's other settings")
	cmd.Flags().StringVar(&held, "held", string(setup.HeldKeep), "`WHAT` becomes of mail that is held for nobody: keep, on-hold or deliver")
	return cmd
}

// carryOut shows a plan, and makes its changes if act is set.
func (a *app) carryOut(ctx context.Context, plan *setup.Plan, act, undo bool) error {
	act = act && !plan.Empty()
	if !a.json {
		p := a.print()
		for _, w := range plan.Warnings {
			p.f("warning: %s\n", w)
		}
		if p.err == nil {
			// As it is, tabs included: it may be fed to patch(1).
			_, p.err = io.WriteString(a.out, plan.Diff())
		}
		if p.err != nil {
			return p.err // nobody has seen what would be done
		}
	}
	if act {
		w := a.working()
		plan.Tell = w.say
		err := plan.Apply(ctx)
		w.end()
		if err != nil {
			return mtaError(err)
		}
	}
	if a.json {
		return a.printJSON(struct {
			Files    []string `json:"files"` // that have, or would have, changed
			Applied  bool     `json:"applied"`
			Warnings []string `json:"warnings"`
			Diff     string   `json:"diff"`
			// Mail that is held and that no queue is for.
			Nobody []setup.Kept `json:"held_for_nobody"`
			Note   string       `json:"note,omitempty"`
		}{list(plan.Files()), act, list(plan.Warnings), plan.Diff(), list(plan.Kept), plan.Note})
	}
	p := a.print()
	if plan.Note != "" {
		p.f("note: %s\n", plan.Note)
	}
	switch left := plan.Left(); {
	case undo && left != "":
		p.f("Postfix is as it was before the set-up, except for what keeps mail held for nobody:\n")
		for line := range strings.Lines(left) {
			p.f("%s\n", strings.TrimSuffix(line, "\n"))
		}
		p.f("Do it again when none is left, or let it go: etrnctl setup postfix --undo --held on-hold\n(or deliver); see HELD FOR NOBODY in etrnctl(8).\n")
	case act && undo:
		p.f("Postfix is as it was before the set-up\n")
	case act && !plan.Running():
		p.f("Postfix is set up for %s; it does not run, and goes by that when it is started\n", a.configFile)
	case act && !plan.Reloaded():
		p.f("Postfix is set up for %s; it notices the new tables within ten seconds, without a reload\n", a.configFile)
	case act:
		p.f("Postfix is set up for %s\n", a.configFile)
	case undo:
		p.f("Postfix has no set-up of etrnd; nothing to undo\n")
	case plan.Empty():
		p.f("Postfix is set up for %s; nothing to do\n", a.configFile)
	default:
		p.f("nothing has been changed; to make the changes: etrnctl setup postfix --apply\n")
	}
	return p.err
}

// instance is the Postfix of a configuration.
func instance(cfg *config.Config) *postfix.Instance {
	return postfix.New(postfix.Options{ConfigDir: cfg.MTA.ConfigDir})
}

func mtaError(err error) error {
	var halt *setup.Halt
	switch {
	case errors.Is(err, setup.ErrNotKept):
		return api.Errorf(api.ExitUsage, "etrnctl queues --nobody lists what is", "%v", err)
	case errors.As(err, &halt):
		e := &api.Error{Exit: api.ExitConfig, Message: halt.Err.Error(), Details: halt.State, Hint: halt.Do}
		switch {
		case errors.Is(err, context.Canceled):
			e.Exit, e.Message = api.ExitTempFail, "interrupted"
		case os.Geteuid() != 0 && errors.Is(err, fs.ErrPermission):
			e.Exit, e.Hint = api.ExitNoPerm, "try it as root"
		case halt.Again:
			e.Exit = api.ExitTempFail
		}
		return e
	case setup.Exhausted(err):
		return api.Errorf(api.ExitTempFail, "nothing has been changed; when that is mended, do it again", "%v", err)
	case errors.Is(err, context.Canceled):
		return api.Errorf(api.ExitTempFail, "see with etrnctl setup postfix how Postfix stands", "interrupted: %v", err)
	case errors.Is(err, fs.ErrPermission), errors.Is(err, mta.ErrPermission):
		return api.Errorf(api.ExitNoPerm, "try it as root", "%v", err)
	case errors.Is(err, mta.ErrDown):
		return api.Errorf(api.ExitTempFail, "systemctl start postfix", "%v", err)
	case errors.Is(err, fs.ErrNotExist):
		return api.Errorf(api.ExitConfig, "install Postfix, or set config-dir in [mta] to where its main.cf is", "%v", err)
	}
	return api.Errorf(api.ExitConfig, "", "%v", err)
}

// checkMTA is the part of check that concerns the MTA. What it finds are
// warnings: the configuration may be right and Postfix still to be set up,
// and an ordinary user cannot see everything. It returns what the mail queue has.
func checkMTA(ctx context.Context, cfg *config.Config) (found []finding, list []mta.Message) {
	said, list := setup.Check(ctx, instance(cfg), setup.RequirementsOf(cfg))
	for _, f := range said {
		level := "warning"
		if f.OK {
			level = "ok"
		}
		found = append(found, finding{Level: level, Text: f.What, Hint: f.Hint})
	}
	return found, list
}

// checkRequests looks whether the MTA takes mail for what remotes are asked for. Of
// "@domain" and "#queue" only the remote knows what comes.
func checkRequests(ctx context.Context, file string, cfg *config.Config) []finding {
	var found []finding
	pf := instance(cfg)
	for _, r := range cfg.Remotes {
		if !r.RouterType.Pulls() {
			continue
		}
		for _, name := range r.Request {
			if strings.HasPrefix(name, "@") || strings.HasPrefix(name, "#") {
				continue
			}
			f := finding{Level: "warning", File: file, Key: "remote " + r.Name + ": request"}
			takes, err := takes(ctx, pf, name)
			switch {
			case err != nil:
				f.Text = fmt.Sprintf("cannot tell whether Postfix takes mail for %s: %v", name, err)
			case takes:
				continue
			default:
				f.Text = fmt.Sprintf("Postfix does not take mail for %s: it is none of its own domains (mydestination, virtual_alias_domains, virtual_mailbox_domains) nor in relay_domains", name)
				f.Hint = "list it in one of them, or take it out of request: a call does not ask for what would be refused"
			}
			found = append(found, f)
		}
	}
	return found
}

// takes tells whether Postfix takes mail for a domain in one of its spellings.
func takes(ctx context.Context, pf *postfix.Instance, domain string) (bool, error) {
	for _, d := range esmtp.Spellings(domain) {
		if ok, err := pf.Takes(ctx, d); ok || err != nil {
			return ok, err
		}
	}
	return false, nil
}

// knownMTA refuses an MTA that is not supported, and says which is.
func knownMTA(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	var names []string
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			names = append(names, c.Name())
		}
	}
	list := strings.Join(names, ", ")
	return api.Errorf(api.ExitUsage, "supported is: "+list+"; another mail server can still be the remote at the other end of a line",
		"%q is no mail server that etrnd can hold mail in", args[0])
}

// none is cobra.NoArgs with a sentence that fits.
func none(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		if len(cmd.Commands()) > 0 {
			return api.Errorf(api.ExitUsage, "see "+cmd.CommandPath()+" --help", "%s has no command %q", cmd.CommandPath(), args[0])
		}
		return api.Errorf(api.ExitUsage, "usage: "+cmd.UseLine(), "%s takes no argument, but got %q", cmd.CommandPath(), args[0])
	}
	return nil
}

package postfix

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/etrnd/etrnd/internal/mta"
)

// NobodySocket is the next hop of mail that is held for nobody: a socket that
// is never there, below a directory that the distribution promises not to make.
// LMTP to it can neither deliver nor return anything.
const NobodySocket = "/nonexistent/held-for-nobody"

// forNobody tells of a reason whether an attempt, made by "postqueue -f" say,
// went there: it has changed nothing, and the mail waits as before.
func forNobody(reason string) bool { return strings.Contains(reason, "["+NobodySocket+"]") }

// PutOnHold puts messages on hold (postsuper -h), where they are not tried and
// do not expire until somebody takes them off. It needs root.
func (p *Instance) PutOnHold(ctx context.Context, ids []string) error {
	for _, id := range ids {
		if err := checkID(id); err != nil {
			return err
		}
	}
	if len(ids) == 0 {
		return nil
	}
	args, err := p.configArgs(ctx)
	if err != nil {
		return err
	}
	if err := p.run(ctx, nil, strings.NewReader(strings.Join(ids, "\n")+"\n"), "postsuper", append(args, "-h", "-")...); err != nil {
		return fmt.Errorf("put mail on hold: %w", err)
	}
	return nil
}

// maxMaildrop bounds the messages whose files are looked into one by one.
const maxMaildrop = 1000

// ReadMaildrop fills in the recipients of messages in maildrop, which Postfix
// has not read yet and lists without. It needs root. A message that has gone on
// meanwhile stays without.
func (p *Instance) ReadMaildrop(ctx context.Context, list []mta.Message) error {
	args, err := p.configArgs(ctx)
	if err != nil {
		return err
	}
	n := 0
	for i := range list {
		m := &list[i]
		if m.Queue != "maildrop" || len(m.Recipients) > 0 || checkID(m.ID) != nil {
			continue
		}
		if n++; n > maxMaildrop {
			return fmt.Errorf("more than %d messages in maildrop: start Postfix, and it will read them", maxMaildrop)
		}
		out, err := p.output(ctx, nil, "postcat", append(args, "-e", "-q", m.ID)...)
		if ctx.Err() != nil {
			return err
		}
		if err != nil {
			continue
		}
		for line := range strings.Lines(out) {
			if kind, value, ok := strings.Cut(strings.TrimRight(line, "\r\n"), ": "); ok && kind == "recipient" {
				m.Recipients = append(m.Recipients, mta.Recipient{Address: value})
			}
		}
	}
	return nil
}

// Session is a process of smtpd(8).
type Session struct {
	pid   int
	start string
}

// Sessions are the processes of smtpd(8) as they are: each goes on by the
// settings that it began with until its client has gone. It finds none where
// /proc is not to be read.
func (p *Instance) Sessions(ctx context.Context) ([]Session, error) {
	v, err := p.Settings(ctx, "queue_directory")
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(filepath.Join(filepath.Clean(v["queue_directory"]), "pid", "master.pid"))
	if err != nil {
		return nil, nil // it does not run
	}
	master := strings.TrimSpace(string(text))
	names, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	var list []Session
	for _, dir := range names {
		if s, ok := session(dir, master); ok {
			list = append(list, s)
		}
	}
	return list, nil
}

// session reads /proc/PID/stat: "PID (NAME) STATE PARENT ..." with the time at
// which it was started in the 22nd place.
func session(dir, master string) (Session, bool) {
	text, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return Session{}, false
	}
	head, rest, ok := strings.Cut(string(text), ") ")
	f := strings.Fields(rest)
	if !ok || !strings.HasSuffix(head, "(smtpd") || len(f) < 20 || f[1] != master {
		return Session{}, false
	}
	pid, err := strconv.Atoi(filepath.Base(dir))
	return Session{pid, f[19]}, err == nil
}

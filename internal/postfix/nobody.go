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

// Moment is a time since the boot of the machine, in hundredths of a second: the
// time of day may be set meanwhile.
type Moment int64

// MomentNow is the present one. It is 0 where /proc is not to be read.
func MomentNow() Moment {
	text, err := os.ReadFile("/proc/uptime")
	if err != nil {
		return 0
	}
	seconds, _, _ := strings.Cut(string(text), " ")
	whole, part, _ := strings.Cut(seconds, ".")
	n, err := strconv.ParseInt(whole+(part + "00")[:2], 10, 64)
	if err != nil {
		return 0
	}
	return Moment(n)
}

// SessionsSince counts the processes of smtpd(8) that began no later than at a
// moment: each goes by the settings and tables of its beginning until its client
// has gone. It finds none where /proc is not to be read.
func (p *Instance) SessionsSince(ctx context.Context, at Moment) (n int, err error) {
	v, err := p.Settings(ctx, "queue_directory")
	if err != nil {
		return 0, err
	}
	text, err := os.ReadFile(filepath.Join(filepath.Clean(v["queue_directory"]), "pid", "master.pid"))
	if err != nil {
		return 0, nil // it does not run
	}
	master := strings.TrimSpace(string(text))
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return 0, err
	}
	for _, dir := range dirs {
		if stat, err := os.ReadFile(filepath.Join(dir, "stat")); err == nil && isSession(string(stat), master, at) {
			n++
		}
	}
	return n, nil
}

// isSession reads /proc/PID/stat: "PID (NAME) STATE PARENT ...", with the time
// at which the process began in the 22nd place, in hundredths of a second too
// (proc(5); the kernel has no other unit towards programs).
func isSession(stat, master string, at Moment) bool {
	head, rest, ok := strings.Cut(stat, ") ")
	f := strings.Fields(rest)
	if !ok || !strings.HasSuffix(head, "(smtpd") || len(f) < 20 || f[1] != master {
		return false
	}
	began, err := strconv.ParseInt(f[19], 10, 64)
	return err == nil && Moment(began) <= at
}

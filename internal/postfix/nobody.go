package postfix

import (
	"context"
	"fmt"
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

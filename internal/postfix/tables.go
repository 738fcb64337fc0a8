package postfix

import (
	"context"
	"fmt"
	"strings"
)

// maxTable bounds what is read of a table with all of its keys.
const maxTable = 64 << 20

// TableTypes are the types of lookup tables that this Postfix can read.
func (p *Instance) TableTypes(ctx context.Context) ([]string, error) {
	args, err := p.configArgs(ctx)
	if err != nil {
		return nil, err
	}
	out, err := p.output(ctx, nil, "postconf", append(args, "-m")...)
	if err != nil {
		return nil, fmt.Errorf("ask for Postfix's types of tables: %w", err)
	}
	return strings.Fields(out), nil
}

// MakeIndex makes the index of a table ("hash:/path") from the text at its
// path, beside it and in place: whoever reads the index at that moment sees it
// grow.
func (p *Instance) MakeIndex(ctx context.Context, table string) error {
	args, err := p.configArgs(ctx)
	if err != nil {
		return err
	}
	if err := p.run(ctx, nil, nil, "postmap", append(args, table)...); err != nil {
		return fmt.Errorf("make the index of %s: %w", table, err)
	}
	return nil
}

// Dump returns all that a table with an index has. Not every type of table can
// tell.
func (p *Instance) Dump(ctx context.Context, table string) (map[string]string, error) {
	args, err := p.configArgs(ctx)
	if err != nil {
		return nil, err
	}
	out, err := p.outputUpTo(ctx, maxTable, nil, "postmap", append(args, "-s", table)...)
	if err != nil && !saidNothing(err) {
		return nil, fmt.Errorf("read %s: %w", table, err)
	}
	return keysAndValues(out), nil
}

// keysAndValues reads what postmap prints.
func keysAndValues(out string) map[string]string {
	found := map[string]string{}
	for line := range strings.Lines(out) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), "\t"); ok {
			found[key] = value
		}
	}
	return found
}

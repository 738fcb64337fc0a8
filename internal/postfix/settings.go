package postfix

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// Settings returns the effective values of settings, with what they refer to
// filled in.
func (p *Instance) Settings(ctx context.Context, names ...string) (map[string]string, error) {
	return p.postconf(ctx, "read Postfix's settings", "-x", names...)
}

// Defaults returns what settings are when main.cf says nothing of them, as
// Postfix was built: what they refer to is not filled in.
func (p *Instance) Defaults(ctx context.Context, names ...string) (map[string]string, error) {
	return p.postconf(ctx, "read Postfix's defaults", "-d", names...)
}

func (p *Instance) postconf(ctx context.Context, doing, flag string, names ...string) (map[string]string, error) {
	args, err := p.configArgs(ctx)
	if err != nil {
		return nil, err
	}
	out, err := p.output(ctx, nil, "postconf", append(append(args, flag), names...)...)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", doing, err)
	}
	m := make(map[string]string)
	for line := range strings.Lines(out) { // "name = value"
		if name, value, ok := strings.Cut(line, "="); ok {
			m[strings.TrimSpace(name)] = strings.TrimSpace(value)
		}
	}
	return m, nil
}

// ReadServices makes Postfix read entries of master.cf, each named as
// "service/type". It fails when one is missing or cannot be read.
func (p *Instance) ReadServices(ctx context.Context, names ...string) error {
	args, err := p.configArgs(ctx)
	if err != nil {
		return err
	}
	_, err = p.output(ctx, nil, "postconf", append(append(args, "-M"), names...)...)
	return err
}

// Lookup asks a table, written as in main.cf ("hash:/etc/postfix/x"), for many
// keys at once. What the table does not have is not in the answer.
func (p *Instance) Lookup(ctx context.Context, table string, keys []string) (map[string]string, error) {
	args, err := p.configArgs(ctx)
	if err != nil {
		return nil, err
	}
	out, err := p.outputUpTo(ctx, maxTable, strings.NewReader(strings.Join(keys, "\n")+"\n"), "postmap", append(args, "-q", "-", table)...)
	if err != nil && !saidNothing(err) {
		return nil, err
	}
	return keysAndValues(out), nil
}

// TableKey reports whether a name can be a key of a table, on a command line
// too: every domain and address that can be routed by a table is one.
func TableKey(key string) bool {
	return key != "" && key[0] != '-' && len(key) <= 512 && !strings.ContainsFunc(key, func(r rune) bool { return r <= ' ' || r == 0x7f })
}

// CheckConfig runs "postfix check".
func (p *Instance) CheckConfig(ctx context.Context) error { return p.postfix(ctx, "check") }

// Reload makes the mail system read its configuration again. It has to run.
func (p *Instance) Reload(ctx context.Context) error { return p.postfix(ctx, "reload") }

// Running reports whether the mail system is up. It needs root.
func (p *Instance) Running(ctx context.Context) (bool, error) {
	err := p.postfix(ctx, "status")
	if err == nil {
		return true, nil
	}
	if cerr := ctx.Err(); cerr != nil {
		return false, fmt.Errorf("postfix status: %w", cerr)
	}
	p.o.Logger.DebugContext(ctx, "postfix is not running", "error", err)
	return false, nil
}

// postfix runs postfix(1), which tells what it has to say on standard error
// and on standard output.
func (p *Instance) postfix(ctx context.Context, what string) error {
	args, err := p.configArgs(ctx)
	if err != nil {
		return err
	}
	if err := p.run(ctx, nil, nil, "postfix", append(args, what)...); err != nil {
		return fmt.Errorf("postfix %s: %w", what, err)
	}
	return nil
}

// ReadFile reads a file of Postfix's configuration of at most limit bytes.
func ReadFile(path string, limit int64) (string, error) {
	file, err := os.Open(filepath.Clean(path))
	if err != nil {
		return "", err
	}
	defer file.Close()
	b, err := io.ReadAll(io.LimitReader(file, limit+1))
	if err != nil {
		return "", fmt.Errorf("read %s: %w", path, err)
	}
	if int64(len(b)) > limit {
		return "", fmt.Errorf("%s is longer than %d bytes", path, limit)
	}
	return string(b), nil
}

package testbed

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
)

// maxProvidedArgs bounds what a provided command reads from its caller.
const maxProvidedArgs = 64

// Provide puts a command into the host's /usr/local/bin that is a function of
// this process: pon and poff, for instance, which bring a Link up and down.
// Any user of the host may run it. What do returns goes to standard output; an
// error goes there too, with exit status 1. The function's context ends with
// the host.
func (h *Host) Provide(name string, do func(ctx context.Context, args []string) (string, error)) error {
	// TCP on the host's loopback, because bash speaks it without another
	// program's help.
	l, err := h.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	script := `#!/bin/bash
exec 3<>/dev/tcp/127.0.0.1/` + strconv.Itoa(l.Addr().(*net.TCPAddr).Port) + ` || exit 71
{ printf '%d\0' "$#"; [ "$#" = 0 ] || printf '%s\0' "$@"; } >&3
read -r status <&3 || exit 71
cat <&3
exit "$status"
`
	if err := h.WriteFile("/usr/local/bin/"+name, []byte(script), 0o755); err != nil {
		l.Close()
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.down {
		cancel()
		l.Close()
		return fmt.Errorf("host %s is down", h.Name)
	}
	h.closers = append(h.closers, func() { cancel(); l.Close() })
	h.procs.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			h.procs.Go(func() { provided(ctx, c, do) })
		}
	})
	return nil
}

func provided(ctx context.Context, c net.Conn, do func(context.Context, []string) (string, error)) {
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	r := bufio.NewReader(io.LimitReader(c, 1<<20))
	word := func() (string, error) {
		s, err := r.ReadString(0)
		return strings.TrimSuffix(s, "\x00"), err
	}
	first, err := word()
	if err != nil {
		return
	}
	n, err := strconv.Atoi(first)
	if err != nil || n > maxProvidedArgs {
		return
	}
	args := make([]string, n)
	for i := range args {
		if args[i], err = word(); err != nil {
			return
		}
	}
	out, err := do(ctx, args)
	if err != nil {
		fmt.Fprintf(c, "1\n%s%v\n", out, err)
		return
	}
	fmt.Fprintf(c, "0\n%s", out)
}

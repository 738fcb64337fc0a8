package control

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/user"
	"slices"
	"strconv"

	"github.com/etrnd/etrnd/internal/api"
	"github.com/etrnd/etrnd/internal/listen"
)

// mayAct decides. The group is looked up at every request: it may be made,
// or the configuration reloaded, while the daemon runs, and requests are few.
// It returns what to tell the caller when the answer is no.
func mayAct(p caller, group string) *api.Error {
	if p.err != nil {
		return api.Errorf(api.ExitNoPerm, "", "etrnd cannot tell who is asking: %v", p.err)
	}
	if p.UID == 0 || p.UID == os.Geteuid() {
		return nil
	}
	who := userName(p.UID)
	if group == "" {
		return api.Errorf(api.ExitNoPerm, `ask as root, or name a group under group in the [control] table of the configuration`,
			"%s may not control etrnd: only root may", who)
	}
	g, err := user.LookupGroup(group)
	if err != nil {
		return api.Errorf(api.ExitNoPerm, "ask as root, or make the group: groupadd --system "+group,
			"%s may not control etrnd: only root and the group %q may, and this machine has no such group", who, group)
	}
	if gid, err := strconv.Atoi(g.Gid); err == nil && slices.Contains(p.Groups, gid) {
		return nil
	}
	return api.Errorf(api.ExitNoPerm, fmt.Sprintf("ask as root, or join the group (adduser USER %s) and log in again", group),
		"%s may not control etrnd: only root and the group %q may", who, group)
}

func userName(uid int) string {
	if u, err := user.LookupId(strconv.Itoa(uid)); err == nil {
		return fmt.Sprintf("user %q", u.Username)
	}
	return fmt.Sprintf("user %d", uid)
}

// caller is who sent a request, or why that is not known.
type caller struct {
	listen.Peer
	err error
}

type callerKey struct{}

// withCaller notes in a connection's context who is at the other end.
func withCaller(ctx context.Context, c net.Conn) context.Context {
	p, err := listen.PeerOf(c)
	return context.WithValue(ctx, callerKey{}, caller{p, err})
}

func callerFrom(ctx context.Context) caller {
	c, ok := ctx.Value(callerKey{}).(caller)
	if !ok {
		return caller{listen.Peer{UID: -1}, errors.New("no connection")}
	}
	return c
}

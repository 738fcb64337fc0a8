// Package control is how people and scripts speak to a running etrnd: HTTP
// with JSON on a unix socket, the server in the daemon and the client that
// etrnctl uses.
//
// Who may speak is decided by the kernel's word on the peer (SO_PEERCRED), not
// by a secret: root, the daemon's own user, and the members of one group.
//
// The package holds no state of the daemon and takes no decision of its own.
// What is asked is answered by a Backend. It does not listen on TCP, and the
// paths and field names are a private matter of etrnd and etrnctl of one
// release; what scripts may rely on is the output of etrnctl --json.
package control

import (
	"context"
	"iter"

	"github.com/etrnd/etrnd/internal/api"
)

// Backend is the daemon as seen from the control socket. All methods may be
// called at the same time, and each must return soon after its context ends,
// which is when the client goes away: what a method starts, such as a call,
// must not hang on it.
//
// An error that is, or wraps, an *api.Error reaches the user with its hint and
// exit code; any other becomes "try again" (75).
type Backend interface {
	// Status tells how the daemon is. It never fails: what cannot be found
	// out is said in the field concerned.
	Status(ctx context.Context) api.Status

	// Queues yields every queue in the order of the configuration. What it
	// yields may change with the next one: of ten thousand, nothing is kept.
	Queues(ctx context.Context) (iter.Seq[*api.Queue], error)

	// Nobody tells what is held for domains that are in no queue.
	Nobody(ctx context.Context) (api.Nobody, error)

	// Release makes the MTA try now what is held under a name: a queue's
	// name, "#name", one of its domains, or "@domain". There is one result
	// for each queue that has a part in it. A name that nothing is held
	// under is an *Error with ExitUsage; a queue with no mail is no error.
	Release(ctx context.Context, name string) ([]api.Released, error)

	// LinkUp notes that a link is up and starts its calls. It does not wait
	// for them. An interface of no link is no error and starts nothing, and
	// so is a link that was up already: the calls under way are returned.
	LinkUp(ctx context.Context, ev api.LinkEvent) ([]api.CallRef, error)

	// LinkDown notes that a link is down and ends its calls. It does not
	// wait for them. An interface of no link is no error.
	LinkDown(ctx context.Context, ev api.LinkEvent) error

	// Call calls one remote, and dials first when the link is down and has a
	// command for it. It returns as soon as the call exists; dialling is
	// part of the call. If the remote is being called, that is the call.
	Call(ctx context.Context, remote string) (api.CallRef, error)

	// HangUp ends the calls of a link and hangs it up. It returns when the
	// command has run.
	HangUp(ctx context.Context, link string) error

	// Watch reports on calls until each has ended or ctx does, then closes
	// the channel. The first event of each call comes at once and tells how
	// it stands; of a call that has ended already it is the last one, so a
	// caller that is late misses nothing as long as the call is in the
	// history. Of a slow reader the backend may spare events, but not the
	// last of a call. An unknown call is an *Error with ExitUsage.
	Watch(ctx context.Context, calls []string) (<-chan api.CallEvent, error)

	// History returns up to n calls that have ended, the latest first.
	History(ctx context.Context, n int) ([]api.CallResult, error)

	// Reload reads the configuration again and returns its warnings. A bad
	// one changes nothing; the error is then an *Error with ExitConfig and
	// one of its Details for each problem.
	Reload(ctx context.Context) (warnings []string, err error)
}

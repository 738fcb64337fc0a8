package odmr

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"time"

	"github.com/etrnd/etrnd/internal/users"
)

// ServerOptions of a Server. Hostname and Asker are needed, the rest has
// defaults, which zero values stand for.
type ServerOptions struct {
	Hostname    string // in the greeting and in the EHLO reply
	Asker       Asker
	Turner      Turner       // nil: ATRN is not implemented
	Users       *users.Store // nil: no AUTH
	CramMD5     bool         // offer CRAM-MD5, which needs secrets that are as good as passwords
	Certificate *Certificate // nil: no STARTTLS, and so neither PLAIN nor LOGIN
	Logger      *slog.Logger // default: discard

	MaxConnections          int // default 1000
	MaxConnectionsPerClient int // default 20; a client is an IPv4 address or an IPv6 /64

	CommandTimeout time.Duration // from one command to the end of the next, default 5 min
	SessionTimeout time.Duration // whole session, default 30 min; a turned one has its own
	WriteTimeout   time.Duration // default 30 s
	AskTimeout     time.Duration // for the Asker, default 30 s
	AuthDelay      time.Duration // before a failed AUTH is answered, default 2 s; negative: none
	DrainTimeout   time.Duration // for sessions that are busy when Serve ends, default 10 s
}

// Server is the listener of the hub.
type Server struct{}

// NewServer checks the options.
func NewServer(o ServerOptions) (*Server, error) { return nil, errors.ErrUnsupported }

// Serve answers on l until ctx ends, then closes l, says 421 to sessions that
// are idle, lets those that are busy finish within DrainTimeout, and returns nil
// when the last one is gone. It may be called for several listeners at once; the
// limits hold for all of them together.
func (s *Server) Serve(ctx context.Context, l net.Listener) error { return errors.ErrUnsupported }

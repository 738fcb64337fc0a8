package report

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/etrnd/etrnd/internal/foreign"
	"github.com/etrnd/etrnd/internal/listen"
)

// readTimeout is how long a stream may be silent; a Reporter gives a sign of
// life every pingEvery.
const readTimeout = 3 * pingEvery

// maxReporters bounds the streams. There is one for each milter process.
const maxReporters = 16

// ServerOptions of NewServer. Handle is required.
type ServerOptions struct {
	// Handle takes every event, one at a time, in the order of its stream.
	// While it runs nothing is read, and a slow one makes reporters drop
	// events: it should hand over and return. The first event of a stream is
	// a hello, the last one a gone.
	Handle func(Event)
	// UIDs are the users whose streams are accepted, besides root and the
	// user of this process.
	UIDs   []int
	Logger *slog.Logger
}

// Server takes the events of any number of reporters.
type Server struct {
	o      ServerOptions
	log    *slog.Logger
	seldom *slog.Logger  // for those who may not report
	n      atomic.Uint64 // reporters so far

	handling sync.Mutex // one event at a time
}

// NewServer makes a Server.
func NewServer(o ServerOptions) *Server {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &Server{o: o, log: o.Logger, seldom: foreign.Seldom(o.Logger)}
}

// Serve accepts streams on a unix socket until the context ends or the
// listener fails, and returns after the last stream has ended. It closes the
// listener.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	o := listen.ServeOptions{Limits: &listen.Limits{Max: maxReporters, Logger: s.log}, Logger: s.log}
	return listen.Serve(ctx, ln, o, func(ctx, _ context.Context, conn net.Conn) { s.serve(ctx, conn) })
}

func (s *Server) serve(ctx context.Context, conn net.Conn) {
	peer, err := listen.PeerOf(conn)
	if err != nil {
		s.seldom.Warn("reporter refused: cannot tell who it is", "error", err)
		return
	}
	if peer.UID != 0 && peer.UID != os.Geteuid() && !slices.Contains(s.o.UIDs, peer.UID) {
		s.seldom.Warn("reporter refused: its user may not report", "uid", peer.UID, "pid", peer.PID)
		return
	}
	name := "m" + strconv.FormatUint(s.n.Add(1), 10)
	log := s.log.With("reporter", name, "pid", peer.PID)
	log.Info("reporter connected", "uid", peer.UID)
	begun, err := s.read(ctx, conn, name)
	if begun {
		s.handle(Event{Kind: Gone, Time: time.Now(), Reporter: name})
	}
	switch {
	case ctx.Err() != nil:
	case errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET):
		log.Info("reporter gone")
	default:
		log.Error("reporter cut off", "error", err)
	}
}

// read hands on events until the stream ends. It reports whether a hello was
// among them.
func (s *Server) read(ctx context.Context, conn net.Conn, name string) (begun bool, err error) {
	br := bufio.NewReaderSize(conn, MaxLine)
	for ctx.Err() == nil {
		conn.SetReadDeadline(time.Now().Add(readTimeout))
		e, err := readEvent(br)
		if err != nil {
			return begun, err
		}
		switch e.Kind {
		case Hello:
			if e.Version != Version {
				return begun, fmt.Errorf("protocol version %d; this daemon speaks %d: etrn-milter and etrnd must be of one release", e.Version, Version)
			}
			begun = true
		case ping:
			continue
		case Ready, Lost, Open, Mail, Message, Refused, Abort, Close:
			if !begun {
				return false, fmt.Errorf("the stream begins with %q, not with hello", e.Kind)
			}
		default:
			continue // of a newer milter
		}
		e.Reporter = name
		s.handle(e)
	}
	return begun, ctx.Err()
}

func (s *Server) handle(e Event) {
	s.handling.Lock()
	defer s.handling.Unlock()
	s.o.Handle(e)
}

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
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// readTimeout is how long a stream may be silent; a Reporter gives a sign of
// life every pingEvery.
const readTimeout = 3 * pingEvery

// maxReporters bounds the streams. There is one for each milter process.
const maxReporters = 64

// ServerOptions of NewServer. Handle is required.
type ServerOptions struct {
	// Handle takes every event, one at a time, in the order of its stream.
	// While it runs nothing is read, and a slow one makes reporters drop
	// events: it should hand over and return. The first event of a stream is
	// a hello, the last one a gone.
	Handle func(Event)
	// UIDs are the users whose streams are accepted, besides root and the
	// user of this process.
	UIDs   []uint32
	Logger *slog.Logger
}

// Server takes the events of any number of reporters.
type Server struct {
	o   ServerOptions
	log *slog.Logger

	handling sync.Mutex // one event at a time

	mu    sync.Mutex
	conns map[net.Conn]struct{}
	n     uint64
}

// NewServer makes a Server.
func NewServer(o ServerOptions) *Server {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &Server{o: o, log: o.Logger, conns: map[net.Conn]struct{}{}}
}

// Serve accepts streams on a unix socket until the context ends or the
// listener fails, and returns after the last stream has ended. It closes the
// listener.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	// Deferred after wg.Wait, and so run before it: also when the listener
	// failed by itself, the streams end.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// On this context, not on its parent: whoever finds the listener closed
	// must find the same context ended.
	stop := context.AfterFunc(ctx, func() { ln.Close() })
	defer stop()
	defer ln.Close()
	for {
		conn, err := ln.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("accept reports: %w", err)
		}
		wg.Go(func() { s.serve(ctx, conn) })
	}
}

func (s *Server) serve(ctx context.Context, conn net.Conn) {
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()

	cred, err := peer(conn)
	if err != nil {
		s.log.Error("reporter refused: cannot tell who it is", "err", err)
		return
	}
	if cred.Uid != 0 && int(cred.Uid) != os.Getuid() && !slices.Contains(s.o.UIDs, cred.Uid) {
		s.log.Warn("reporter refused: its user may not report", "uid", cred.Uid, "pid", cred.Pid)
		return
	}
	name, ok := s.add(conn)
	if !ok {
		s.log.Warn("reporter refused: too many", "pid", cred.Pid, "limit", maxReporters)
		return
	}
	defer s.remove(conn)
	log := s.log.With("reporter", name, "pid", cred.Pid)
	log.Info("reporter connected", "uid", cred.Uid)
	begun, err := s.read(ctx, conn, name)
	if begun {
		s.handle(Event{Kind: Gone, Time: time.Now(), Reporter: name})
	}
	switch {
	case ctx.Err() != nil:
	case errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET):
		log.Info("reporter gone")
	default:
		log.Error("reporter cut off", "err", err)
	}
}

// read hands on events until the stream ends. It reports whether a hello was
// among them.
func (s *Server) read(ctx context.Context, conn net.Conn, name string) (begun bool, err error) {
	br := bufio.NewReaderSize(conn, MaxLine)
	for ctx.Err() == nil {
		conn.SetReadDeadline(time.Now().Add(readTimeout))
		line, err := br.ReadSlice('\n')
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			return begun, fmt.Errorf("a line longer than %d bytes: %.60q…", MaxLine, line)
		case errors.Is(err, io.EOF) && len(line) > 0:
			return begun, fmt.Errorf("the stream ends in the middle of a line: %w", err)
		case err != nil:
			return begun, err
		}
		line = line[:len(line)-1]
		e, err := parse(line)
		if err != nil {
			return begun, fmt.Errorf("bad line %.200q: %w", line, err)
		}
		switch e.Kind {
		case Hello:
			if e.Version != Version {
				return begun, fmt.Errorf("protocol version %d; this daemon speaks %d: etrn-milter and etrnd must be of one release", e.Version, Version)
			}
			begun = true
		case ping:
			continue
		case Ready, Lost, Open, Mail, Message, Abort, Close:
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

func (s *Server) add(conn net.Conn) (name string, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.conns) >= maxReporters {
		return "", false
	}
	s.conns[conn] = struct{}{}
	s.n++
	return "m" + strconv.FormatUint(s.n, 10), true
}

func (s *Server) remove(conn net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, conn)
}

func peer(conn net.Conn) (*unix.Ucred, error) {
	sc, ok := conn.(syscall.Conn)
	if !ok {
		return nil, fmt.Errorf("%T has no descriptor", conn)
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return nil, err
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return nil, err
	}
	return cred, credErr
}

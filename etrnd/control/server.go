package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/etrnd/etrnd/internal/api"
	"github.com/etrnd/etrnd/internal/foreign"
	"github.com/etrnd/etrnd/internal/listen"
)

const (
	maxHeader   = 16 << 10
	maxBody     = 16 << 10
	maxName     = 512 // bytes of a name in a request
	maxShown    = 80  // bytes of a request in the log
	maxWatched  = 256 // calls in one Watch
	maxHistory  = 10000
	maxPerUser  = 32 // connections
	idleTimeout = 30 * time.Second
)

// Options is what a Server needs.
type Options struct {
	Backend Backend
	Logger  *slog.Logger
	Group   string // whose members may act beside root and the daemon's own user; may be empty

	// ReadTimeout bounds how long a client may take over its request, and
	// WriteTimeout over taking a reply or one event. 0: 5 and 10 seconds.
	ReadTimeout  time.Duration
	WriteTimeout time.Duration
	// DrainTimeout is how long requests may go on after Serve's context has
	// ended, before theirs does too. 0: 5 seconds.
	DrainTimeout time.Duration
}

// Server answers requests on the control socket.
type Server struct {
	o      Options
	log    *slog.Logger
	seldom *slog.Logger // for those who may not act: anybody may connect
	group  atomic.Pointer[string]
}

// NewServer makes a Server.
func NewServer(o Options) *Server {
	if o.ReadTimeout == 0 {
		o.ReadTimeout = 5 * time.Second
	}
	if o.WriteTimeout == 0 {
		o.WriteTimeout = 10 * time.Second
	}
	if o.DrainTimeout == 0 {
		o.DrainTimeout = 5 * time.Second
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Server{o: o, log: o.Logger, seldom: foreign.Seldom(o.Logger)}
	s.SetGroup(o.Group)
	return s
}

// SetGroup changes the group from the next request on.
func (s *Server) SetGroup(name string) { s.group.Store(&name) }

// Serve answers on ln until ctx ends, then closes ln, ends the streams, lets
// the other requests finish for a moment and returns nil. It returns an error
// when ln fails. ln is that of a unix socket: on any other, every request is
// refused, because nobody can be told from anybody.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	base, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()

	var silent sync.Map // net.Conn, of which no byte has come yet
	srv := &http.Server{
		Handler:           s.handler(ctx.Done()),
		ReadHeaderTimeout: s.o.ReadTimeout,
		ReadTimeout:       s.o.ReadTimeout,
		// No WriteTimeout: a stream lasts as long as a call. Each write has
		// a deadline of its own instead.
		IdleTimeout:    idleTimeout,
		MaxHeaderBytes: maxHeader,
		ErrorLog:       slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
		BaseContext:    func(net.Listener) context.Context { return base },
		ConnContext:    withCaller,
		ConnState: func(c net.Conn, st http.ConnState) {
			if st == http.StateNew {
				silent.Store(c, nil)
			} else {
				silent.Delete(c)
			}
		},
	}
	// Each user for himself: one who may do nothing cannot keep out those who
	// may.
	limits := &listen.Limits{PerClient: maxPerUser, Logger: s.log}
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(limits.Listener(ln)) }()
	select {
	case err := <-failed:
		cancel()
		srv.Close()
		return fmt.Errorf("control socket %s: %w", ln.Addr(), err)
	case <-ctx.Done():
	}
	// A client that has connected and says nothing would otherwise hold up
	// the end, for Shutdown gives it five seconds.
	silent.Range(func(c, _ any) bool { c.(net.Conn).Close(); return true })
	drain, stop := context.WithTimeout(base, s.o.DrainTimeout)
	defer stop()
	if srv.Shutdown(drain) != nil {
		// Backend calls get the word first, so that they can still answer.
		cancel()
		last, stop := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer stop()
		if srv.Shutdown(last) != nil {
			srv.Close()
		}
	}
	<-failed // http.ErrServerClosed
	return nil
}

// The requests that have a body.
type (
	releaseRequest struct {
		Name string `json:"name"`
	}
	callRequest struct {
		Remote string `json:"remote"`
	}
	hangUpRequest struct {
		Link string `json:"link"`
	}
	// nothing is the body of requests and replies that say nothing.
	nothing struct{}
	// reloaded is the reply to a reload.
	reloaded struct {
		Warnings []string `json:"warnings"`
	}
	// watchLine is one line of a stream: an event, or why there will be no
	// more.
	watchLine struct {
		Event *api.CallEvent `json:"event,omitempty"`
		Error *api.Error     `json:"error,omitempty"`
	}
)

// handler routes. closing is closed when the server is about to stop.
func (s *Server) handler(closing <-chan struct{}) http.Handler {
	b := s.o.Backend
	mux := http.NewServeMux()
	mux.Handle("GET /v1/status", get(s, func(r *http.Request) (api.Status, error) {
		return b.Status(r.Context()), nil
	}))
	mux.HandleFunc("GET /v1/queues", func(w http.ResponseWriter, r *http.Request) {
		s.begin(w)
		all, err := b.Queues(r.Context())
		if err != nil {
			s.answer(w, nil, err)
			return
		}
		writeList(s, w, all)
	})
	mux.Handle("GET /v1/nobody", get(s, func(r *http.Request) (api.Nobody, error) {
		return b.Nobody(r.Context())
	}))
	mux.Handle("GET /v1/history", get(s, func(r *http.Request) ([]api.CallResult, error) {
		n, err := strconv.Atoi(r.URL.Query().Get("n"))
		if err != nil || n < 1 || n > maxHistory {
			return nil, api.Errorf(api.ExitUsage, "", "n is %s, but must be a number from 1 to %d", foreign.Quote(r.URL.Query().Get("n")), maxHistory)
		}
		return b.History(r.Context(), n)
	}))
	mux.Handle("POST /v1/release", post(s, func(ctx context.Context, q releaseRequest) ([]api.Released, error) {
		if err := checkName("queue", q.Name); err != nil {
			return nil, err
		}
		return b.Release(ctx, q.Name)
	}))
	mux.Handle("POST /v1/link-up", post(s, func(ctx context.Context, ev api.LinkEvent) ([]api.CallRef, error) {
		if err := checkLink(ev); err != nil {
			return nil, err
		}
		return b.LinkUp(ctx, ev)
	}))
	mux.Handle("POST /v1/link-down", post(s, func(ctx context.Context, ev api.LinkEvent) (nothing, error) {
		if err := checkLink(ev); err != nil {
			return nothing{}, err
		}
		return nothing{}, b.LinkDown(ctx, ev)
	}))
	mux.Handle("POST /v1/call", post(s, func(ctx context.Context, q callRequest) (api.CallRef, error) {
		if err := checkName("remote", q.Remote); err != nil {
			return api.CallRef{}, err
		}
		return b.Call(ctx, q.Remote)
	}))
	mux.Handle("POST /v1/hang-up", post(s, func(ctx context.Context, q hangUpRequest) (nothing, error) {
		if err := checkName("link", q.Link); err != nil {
			return nothing{}, err
		}
		return nothing{}, b.HangUp(ctx, q.Link)
	}))
	mux.Handle("POST /v1/reload", post(s, func(ctx context.Context, _ nothing) (reloaded, error) {
		w, err := b.Reload(ctx)
		return reloaded{Warnings: w}, err
	}))
	mux.Handle("GET /v1/watch", s.watch(closing))
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		s.fail(w, http.StatusNotFound, api.Errorf(api.ExitUsage,
			"etrnctl and etrnd are of different releases: restart etrnd",
			"etrnd does not know the request %s %s", foreign.Quote(r.Method), foreign.Quote(r.URL.Path)))
	})
	return s.guard(mux)
}

// guard stands before every request: it refuses those who may not act,
// catches panics, and logs.
func (s *Server) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		start := time.Now()
		p := callerFrom(r.Context())
		w := &statusWriter{ResponseWriter: rw, status: http.StatusOK}
		refused := mayAct(p, *s.group.Load())
		log := s.log
		if refused != nil {
			log = s.seldom
		}
		log = log.With("method", foreign.Clip(r.Method, maxShown), "path", foreign.Clip(r.URL.Path, maxShown), "uid", p.UID, "pid", p.PID)
		defer func() {
			v := recover()
			switch {
			case v == nil:
			case v == http.ErrAbortHandler:
				panic(v)
			default:
				log.Error("control request panicked", "panic", fmt.Sprint(v), "stack", string(debug.Stack()))
				if w.wrote {
					panic(http.ErrAbortHandler) // too late to say so otherwise
				}
				s.fail(w, http.StatusInternalServerError, api.Errorf(api.ExitTempFail,
					"this is a fault of etrnd; its log has the details", "etrnd failed at this request"))
			}
			level := slog.LevelInfo
			if r.Method == http.MethodGet {
				level = slog.LevelDebug // they change nothing, and monitoring asks all day
			}
			if w.err != nil {
				log = log.With("error", w.err.Message)
				if level = slog.LevelInfo; w.err.Exit == api.ExitNoPerm {
					level = slog.LevelWarn
				}
			}
			log.Log(r.Context(), level, "control request", "status", w.status, "took", time.Since(start))
		}()
		if refused != nil {
			s.fail(w, http.StatusForbidden, refused)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// statusWriter remembers for the log what was answered.
type statusWriter struct {
	http.ResponseWriter
	status int
	wrote  bool
	err    *api.Error
}

func (w *statusWriter) WriteHeader(code int) {
	w.status, w.wrote = code, true
	w.ResponseWriter.WriteHeader(code)
}

func (w *statusWriter) Write(b []byte) (int, error) {
	w.wrote = true
	return w.ResponseWriter.Write(b)
}

// Unwrap is for http.ResponseController.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// get answers a request that has no body.
func get[Out any](s *Server, f func(*http.Request) (Out, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.begin(w)
		out, err := f(r)
		s.answer(w, out, err)
	})
}

// post answers a request with a body.
func post[In, Out any](s *Server, f func(context.Context, In) (Out, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var in In
		if err := decode(http.MaxBytesReader(w, r.Body, maxBody), &in); err != nil {
			s.answer(w, nil, api.Errorf(api.ExitUsage, "", "the request cannot be read: %v", err))
			return
		}
		s.begin(w)
		out, err := f(r.Context(), in)
		s.answer(w, out, err)
	})
}

// decode reads one JSON value and nothing else.
func decode(r io.Reader, v any) error {
	d := json.NewDecoder(r)
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		if err == nil {
			err = errors.New("more than one value")
		}
		return err
	}
	return nil
}

// begin is called when a request has been read in full. The deadline for
// reading it would otherwise end the request's context when it strikes while
// the backend is at work.
func (s *Server) begin(w http.ResponseWriter) {
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
}

func (s *Server) answer(w http.ResponseWriter, out any, err error) {
	if err != nil {
		e := asError(err)
		s.fail(w, httpStatus(e.Exit), e)
		return
	}
	s.write(w, http.StatusOK, out)
}

func (s *Server) fail(w http.ResponseWriter, status int, e *api.Error) {
	if sw, ok := w.(*statusWriter); ok {
		sw.err = e
	}
	s.write(w, status, e)
}

func (s *Server) write(w http.ResponseWriter, status int, v any) {
	b, err := json.Marshal(v)
	if err != nil { // a type of ours that cannot be marshalled
		panic(err)
	}
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(s.o.WriteTimeout))
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(b, '\n')) // a client that is gone is no concern of ours
}

// listChunk is what of a list is written at a time, in bytes.
const listChunk = 32 << 10

// writeList answers with a JSON array whose elements it takes one by one, so that
// the room that it needs does not grow with them.
func writeList[T any](s *Server, rw http.ResponseWriter, all iter.Seq[*T]) {
	rc := http.NewResponseController(rw)
	var b bytes.Buffer
	write := func() bool {
		_ = rc.SetWriteDeadline(time.Now().Add(s.o.WriteTimeout))
		_, err := b.WriteTo(rw)
		return err == nil // else the client is gone, which is no concern of ours
	}
	rw.Header().Set("Content-Type", "application/json")
	e := json.NewEncoder(&b)
	next := byte('[')
	for v := range all {
		b.WriteByte(next)
		next = ','
		if err := e.Encode(v); err != nil { // a type of ours that cannot be marshalled
			panic(err)
		}
		if b.Len() >= listChunk && !write() {
			return
		}
	}
	if next == '[' {
		b.WriteByte(next)
	}
	b.WriteString("]\n")
	write()
}

// watch streams events, one JSON object a line.
func (s *Server) watch(closing <-chan struct{}) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.begin(w)
		calls := r.URL.Query()["call"]
		if len(calls) == 0 || len(calls) > maxWatched {
			s.answer(w, nil, api.Errorf(api.ExitUsage, "", "%d calls to watch, but from 1 to %d can be", len(calls), maxWatched))
			return
		}
		for _, c := range calls {
			if err := checkName("call", c); err != nil {
				s.answer(w, nil, err)
				return
			}
		}
		ctx, cancel := context.WithCancel(r.Context())
		defer cancel()
		events, err := s.o.Backend.Watch(ctx, calls)
		if err != nil {
			s.answer(w, nil, err)
			return
		}
		rc := http.NewResponseController(w)
		w.Header().Set("Content-Type", "application/x-ndjson")
		w.WriteHeader(http.StatusOK)
		send := func(l watchLine) bool {
			b, err := json.Marshal(l)
			if err != nil {
				panic(err)
			}
			_ = rc.SetWriteDeadline(time.Now().Add(s.o.WriteTimeout))
			if _, err := w.Write(append(b, '\n')); err != nil {
				return false
			}
			return rc.Flush() == nil
		}
		for {
			select {
			case ev, ok := <-events:
				if !ok || !send(watchLine{Event: &ev}) {
					return
				}
			case <-closing:
				send(watchLine{Error: api.Errorf(api.ExitTempFail, "what has not crossed the line stays held", "etrnd is stopping")})
				return
			case <-ctx.Done():
				return
			}
		}
	})
}

// asError is err as the user will see it.
func asError(err error) *api.Error {
	var e *api.Error
	if errors.As(err, &e) {
		// The text of what wraps it is the better one.
		c := *e
		if c.Message = err.Error(); c.Exit == api.ExitOK {
			c.Exit = api.ExitTempFail
		}
		return &c
	}
	return &api.Error{Message: err.Error(), Exit: api.ExitTempFail}
}

// httpStatus is for whoever asks with something else than etrnctl, which goes
// by the exit code alone.
func httpStatus(exit int) int {
	switch exit {
	case api.ExitUsage:
		return http.StatusBadRequest
	case api.ExitUnavailable:
		return http.StatusBadGateway
	case api.ExitNoPerm:
		return http.StatusForbidden
	case api.ExitConfig:
		return http.StatusUnprocessableEntity
	}
	return http.StatusServiceUnavailable
}

func checkName(what, name string) error {
	switch {
	case name == "":
		return api.Errorf(api.ExitUsage, "", "no %s is named", what)
	case len(name) > maxName:
		return api.Errorf(api.ExitUsage, "", "the name of the %s is %d bytes long, but at most %d can be", what, len(name), maxName)
	}
	return nil
}

func checkLink(ev api.LinkEvent) error {
	if ev.Link == "" && ev.Interface == "" {
		return api.Errorf(api.ExitUsage, "", "neither a link nor an interface is named")
	}
	if len(ev.Link) > maxName || len(ev.Interface) > maxName {
		return api.Errorf(api.ExitUsage, "", "the name of the link or interface is longer than %d bytes", maxName)
	}
	return nil
}

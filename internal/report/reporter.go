package report

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"
)

// Times of a Reporter. The socket is local: a daemon that takes longer than
// writeTimeout to read is stuck, and one that is being restarted should not
// wait for its reports.
const (
	firstRetry   = 50 * time.Millisecond
	maxRetry     = time.Second
	dialTimeout  = 2 * time.Second
	writeTimeout = 10 * time.Second
	pingEvery    = 20 * time.Second
	lastWords    = time.Second // what may be spent on sending when Run ends
)

// ReporterOptions of NewReporter. Dial is required.
type ReporterOptions struct {
	// Dial connects to the daemon.
	Dial func(context.Context) (net.Conn, error)
	// MaxEvents and MaxBytes bound what waits for the daemon: 4096 events
	// and 4 MiB unless set.
	MaxEvents, MaxBytes int
	// MaxSessions bounds the sessions that are followed: 20000 unless set.
	MaxSessions int
	// Config is a digest of what the milter runs by at the time; nil is none.
	Config func() string
	Logger *slog.Logger
}

// Reporter sends events to the daemon. Report never waits for it: what does
// not fit is dropped, and the daemon is told so.
type Reporter struct {
	o    ReporterOptions
	log  *slog.Logger
	wake chan struct{} // holds a token while there may be something to write

	mu       sync.Mutex
	sessions map[string]Event // the open of each session, brought up to date
	waiting  []waiting
	bytes    int
	lost     int
	// picture is set while the daemon's view of the sessions is void: until
	// a hello and a new picture have gone out only messages are kept, since
	// the picture has all the rest in it.
	picture bool
}

type waiting struct {
	line    []byte
	message bool
}

// NewReporter makes a Reporter; Run sends what it is given.
func NewReporter(o ReporterOptions) *Reporter {
	if o.MaxEvents <= 0 {
		o.MaxEvents = 4096
	}
	if o.MaxBytes <= 0 {
		o.MaxBytes = 4 << 20
	}
	if o.MaxSessions <= 0 {
		o.MaxSessions = 20000
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &Reporter{o: o, log: o.Logger, wake: make(chan struct{}, 1), sessions: map[string]Event{}, picture: true}
}

// Report takes an event of kind open, mail, message, refused, abort or close. It
// does not block. The event's slices must not be changed afterwards.
func (r *Reporter) Report(e Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.follow(e)
	if r.picture && e.Kind != Message {
		return
	}
	line := e.format()
	r.waiting = append(r.waiting, waiting{line, e.Kind == Message})
	r.bytes += len(line)
	if len(r.waiting) > r.o.MaxEvents || r.bytes > r.o.MaxBytes {
		r.overflow()
	}
	r.signal()
}

// Renew says hello again, with a picture of the sessions: what the milter runs by
// has changed.
func (r *Reporter) Renew() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.voidPicture()
	r.signal()
}

func (r *Reporter) signal() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// follow keeps the table of sessions that a picture is made from.
func (r *Reporter) follow(e Event) {
	switch e.Kind {
	case Open:
		if len(r.sessions) < r.o.MaxSessions {
			r.sessions[e.Session] = e
		}
	case Mail, Message, Abort:
		if s, ok := r.sessions[e.Session]; ok {
			s.Transaction = e.Kind == Mail
			r.sessions[e.Session] = s
		}
	case Close:
		delete(r.sessions, e.Session)
	}
}

// overflow makes room. A new picture stands in for all events of sessions; of
// the messages the newest stay, since their queue windows are the likeliest
// to be open.
func (r *Reporter) overflow() {
	if !r.picture {
		r.voidPicture()
	}
	// A quarter at once, so that a full buffer is not moved for every event.
	for n := 0; len(r.waiting) > r.o.MaxEvents*3/4 || r.bytes > r.o.MaxBytes*3/4; n++ {
		if len(r.waiting) == 0 {
			break
		}
		if r.lost == 0 {
			r.log.Warn("reports dropped: the daemon does not take them")
		}
		r.bytes -= len(r.waiting[0].line)
		r.waiting[0] = waiting{}
		r.waiting = r.waiting[1:]
		r.lost++
	}
	r.waiting = append([]waiting(nil), r.waiting...)
}

// voidPicture leaves only messages waiting.
func (r *Reporter) voidPicture() {
	r.picture = true
	kept := r.waiting[:0]
	r.bytes = 0
	for _, w := range r.waiting {
		if w.message {
			kept = append(kept, w)
			r.bytes += len(w.line)
		}
	}
	clear(r.waiting[len(kept):])
	r.waiting = kept
}

// Run connects, reconnects and sends until the context ends, which is the
// only error it returns. It then still spends up to a second on what waits.
func (r *Reporter) Run(ctx context.Context) error {
	retry := firstRetry
	away := false
	for ctx.Err() == nil {
		conn, err := r.dial(ctx)
		if err == nil {
			r.log.Info("reporting to the daemon", "socket", conn.RemoteAddr().String())
			away = false
			began := time.Now()
			err = r.stream(ctx, conn)
			if ctx.Err() != nil {
				break
			}
			r.log.Warn("lost the daemon; mail goes on", "error", err)
			away = true
			// A daemon that takes the connection only to close it, as one does
			// that refuses us, must not be asked twenty times a second.
			if time.Since(began) > maxRetry {
				retry = firstRetry
			}
		} else if !away && ctx.Err() == nil {
			r.log.Warn("cannot reach the daemon; mail goes on", "error", err)
			away = true
		}
		t := time.NewTimer(retry)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
		}
		retry = min(2*retry, maxRetry)
	}
	return ctx.Err()
}

func (r *Reporter) dial(ctx context.Context) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	return r.o.Dial(ctx)
}

var errHungUp = errors.New("the daemon closed the connection")

// stream sends over one connection until it breaks.
func (r *Reporter) stream(ctx context.Context, conn net.Conn) error {
	ctx, cancel := context.WithCancelCause(ctx)
	var wg sync.WaitGroup
	// The daemon says nothing; reading is how its end is noticed.
	wg.Go(func() {
		var b [1]byte
		for {
			if _, err := conn.Read(b[:]); err != nil {
				cancel(errHungUp)
				return
			}
		}
	})
	defer func() {
		cancel(nil)
		conn.Close()
		wg.Wait()
	}()
	stop := context.AfterFunc(ctx, func() { conn.SetWriteDeadline(time.Now().Add(lastWords)) })
	defer stop()

	r.mu.Lock()
	r.voidPicture()
	r.mu.Unlock()
	tick := time.NewTicker(pingEvery)
	defer tick.Stop()
	for {
		for {
			batch, messages := r.next()
			if len(batch) == 0 {
				break
			}
			if err := r.write(ctx, conn, batch); err != nil {
				// How much of it arrived is unknown. The hello that follows
				// makes the daemon compare with the MTA; count what may be gone.
				r.mu.Lock()
				r.lost += messages
				r.mu.Unlock()
				return err
			}
		}
		select {
		case <-ctx.Done():
			if context.Cause(ctx) != errHungUp {
				r.flush(conn)
			}
			return context.Cause(ctx)
		case <-r.wake:
		case now := <-tick.C:
			if err := r.write(ctx, conn, Event{Kind: ping, Time: now}.format()); err != nil {
				return err
			}
		}
	}
}

// flush sends what is left when the process ends.
func (r *Reporter) flush(conn net.Conn) {
	conn.SetWriteDeadline(time.Now().Add(lastWords))
	for {
		batch, _ := r.next()
		if len(batch) == 0 {
			return
		}
		if _, err := conn.Write(batch); err != nil {
			r.log.Warn("last reports not sent", "error", err)
			return
		}
	}
}

func (r *Reporter) write(ctx context.Context, conn net.Conn, b []byte) error {
	conn.SetWriteDeadline(time.Now().Add(writeTimeout))
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if _, err := conn.Write(b); err != nil {
		return fmt.Errorf("write to the daemon: %w", err)
	}
	return nil
}

// maxBatch bounds one write, so that writeTimeout means the same whatever
// waits.
const maxBatch = 256 << 10

// next takes what is to be written next, and says how many messages are in
// it.
func (r *Reporter) next() (batch []byte, messages int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.picture {
		return r.takePicture()
	}
	n := 0
	for n < len(r.waiting) && (n == 0 || len(batch)+len(r.waiting[n].line) <= maxBatch) {
		w := r.waiting[n]
		batch = append(batch, w.line...)
		if w.message {
			messages++
		}
		r.waiting[n] = waiting{}
		n++
	}
	r.bytes -= len(batch)
	r.waiting = r.waiting[n:]
	if len(r.waiting) == 0 {
		r.waiting = nil
	}
	return batch, messages
}

// takePicture is written in one go: the sessions must be those of one moment.
func (r *Reporter) takePicture() (batch []byte, messages int) {
	now := time.Now()
	hello := Event{Kind: Hello, Time: now, Version: Version}
	if r.o.Config != nil {
		hello.Config = r.o.Config()
	}
	batch = hello.format()
	if r.lost > 0 {
		batch = append(batch, Event{Kind: Lost, Time: now, Count: r.lost}.format()...)
	}
	for _, w := range r.waiting {
		batch = append(batch, w.line...)
		messages++
	}
	messages += r.lost
	for _, e := range r.sessions {
		batch = append(batch, e.format()...)
	}
	batch = append(batch, Event{Kind: Ready, Time: now}.format()...)
	r.waiting, r.bytes, r.lost, r.picture = nil, 0, 0, false
	return batch, messages
}

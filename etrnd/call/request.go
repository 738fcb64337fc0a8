package call

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/etrnd/etrnd/etrnd/odmr"
	"github.com/etrnd/etrnd/etrnd/receive"
	"github.com/etrnd/etrnd/internal/api"
	"github.com/etrnd/etrnd/internal/config"
	"github.com/etrnd/etrnd/internal/socket"
	"github.com/etrnd/etrnd/internal/users"
)

const (
	// mtaPause is the pause before the local MTA is tried again.
	mtaPause = 250 * time.Millisecond
	// mtaGrace is how long a local MTA may take to begin to listen while the line
	// is up.
	mtaGrace = 5 * time.Second
	// mtaListen is how long one may take to take a connection.
	mtaListen = time.Second
	// mtaGreeting is how long one that takes the connection may be silent.
	mtaGreeting = 15 * time.Second
	// doorWait is how long the local MTA may take to say what it will take, when
	// the remote is ready to be asked.
	doorWait = 2 * time.Second
	// dialogueTrips is how many round trips a dialogue may take, beside its
	// time-outs: connection, greeting, TLS, login and request are a dozen, and
	// what is lost on the way is sent again after several.
	dialogueTrips = 60
	// dialPause is the pause before the remote is tried again; it doubles.
	dialPause = time.Second
	// lookupTime bounds the search for the remote's other addresses.
	lookupTime = 30 * time.Second
)

// pull waits for the local MTA and asks the remote for its mail.
func (cl *call) pull(ctx context.Context) {
	if !cl.remote.RouterType.Pulls() {
		return
	}
	defer cl.line.pins.asks()()
	if err := cl.prepare(ctx, api.PhaseMTA); err != nil {
		cl.questions = append(cl.questions, question{err: listenerError{err}, cut: ctx.Err() != nil})
		return
	}
	if cl.remote.Protocol == config.ProtocolETRN {
		// What can be known now need not wait for the remote's address.
		if open, shut := cl.shut(ctx, cl.remote.Request); len(open) == 0 {
			cl.questions = append(cl.questions, question{err: shutOf(shut), shut: shut})
			return
		}
	}
	cl.doorstep = nil // what was said before there was a line may be another thing now
	cl.knock(ctx)
	cl.ask(ctx, cl.remote.Request)
}

// prepare waits until the local SMTP listener answers, so that the mail does not
// arrive before the door is open, and asks it whether it will take the mail. That
// is done before the line is dialled, where it is.
func (cl *call) prepare(ctx context.Context, phase api.Phase) error {
	if cl.doorstep != nil {
		return nil
	}
	addr := cl.caller.config().MTA.SMTP
	show := func() { cl.step(phase, "the local SMTP listener "+addr+" to answer") }
	if phase == api.PhaseMTA { // before a line is dialled it is not worth a word, unless it takes longer
		show()
	}
	ctx, cancel := context.WithTimeout(ctx, min(cl.remote.RequestTimeout, mtaGreeting))
	defer cancel()
	return cl.waitForMTA(ctx, addr, show)
}

// doorstep is what the local MTA says of mail that has not come yet.
type doorstep struct {
	asked chan struct{} // closed when it has said it
	why   receive.Refusal
	all   bool // that holds for all domains
	err   error
}

// knock asks the local MTA. What it says to this host's own gate concerns mail
// that comes through it; of a remote that connects to port 25 only that it takes
// nothing at all.
func (cl *call) knock(ctx context.Context) {
	r, d := &cl.remote, &doorstep{asked: make(chan struct{})}
	var domains []string
	if r.Protocol.Turns() {
		domains = r.Request
	}
	cl.doorstep = d
	ctx, cancel := context.WithTimeout(ctx, r.RequestTimeout)
	ring := func() {
		defer cancel()
		defer close(d.asked)
		d.why, d.all, d.err = cl.caller.door(ctx, cl.caller.config().MTA.SMTP, r.Host, domains)
		if !r.Protocol.Turns() {
			d.why, d.all = receive.Refusal{}, false
		}
	}
	cl.serving.Go(ring)
}

// full is why nothing is to be asked for, by whatever command.
func (d *doorstep) full() error {
	if d.err == nil {
		return nil
	}
	return fullError{fmt.Errorf("the local mail server takes no mail now: %w", d.err)}
}

// shut is why nothing is to be asked for by ATRN.
func (d *doorstep) shut(r *config.Remote) error {
	if !d.all {
		return nil
	}
	return doorError{fmt.Errorf("the local mail server refuses the mail of %s: %q", r.Name, d.why.Reply)}
}

// atTheDoor is what the local MTA has said. One that takes long, since it waits
// for a name service, is not waited for: the line is up.
func (cl *call) atTheDoor(ctx context.Context) *doorstep {
	select {
	case <-cl.doorstep.asked:
		cl.door = cl.doorstep.why
		return cl.doorstep
	case <-ctx.Done():
	case <-time.After(doorWait):
	}
	return &doorstep{}
}

// waitForMTA waits until the local SMTP listener answers. One that is not there
// may be about to start, as it is after the machine has; for longer than a moment
// no line is kept for that.
func (cl *call) waitForMTA(ctx context.Context, addr string, again func()) error {
	began := time.Now()
	for {
		err := cl.greets(ctx, addr)
		if err == nil {
			return nil
		}
		if time.Since(began)+mtaPause > mtaGrace || ctx.Err() != nil {
			return fmt.Errorf("the local SMTP listener %s does not answer: %w", addr, err)
		}
		again()
		select {
		case <-ctx.Done():
		case <-time.After(mtaPause):
		}
	}
}

// greets reports whether an SMTP server says 220 at addr. Whoever takes the
// connection is alive, and may be slow.
func (cl *call) greets(ctx context.Context, addr string) error {
	conn, err := cl.caller.network.DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		conn.SetDeadline(deadline)
	}
	var buf [512]byte
	n, err := conn.Read(buf[:])
	if err != nil {
		return err
	}
	if !strings.HasPrefix(string(buf[:n]), "220") {
		return fmt.Errorf("it said %.60q", buf[:n])
	}
	conn.Write([]byte("QUIT\r\n"))
	return nil
}

// ask has the dialogue with the remote.
func (cl *call) ask(ctx context.Context, names []string) {
	began, seen := time.Now(), cl.tally.Counts().Seen
	q, ok := cl.goOnAsking(ctx, names)
	if !ok {
		q = cl.timely(ctx, names)
	}
	q.cut = ctx.Err() != nil
	q.seen = seen
	if cl.client == nil && !q.atrn {
		q.took = time.Since(began)
	}
	cl.questions = append(cl.questions, q)
}

// askAgain asks once more: for what was put off, or for all.
func (cl *call) askAgain(ctx context.Context) {
	o := observed{questions: cl.questions}
	names := o.answers().busy
	if len(names) == 0 {
		names = cl.remote.Request
	}
	// Mail may have stayed away since the local MTA is just being restarted, or has
	// become full meanwhile.
	if !cl.line.mtaListens(ctx) {
		return
	}
	cl.knock(ctx)
	if err := cl.atTheDoor(ctx).full(); err != nil {
		cl.questions = append(cl.questions, question{err: err, seen: cl.tally.Counts().Seen, cut: ctx.Err() != nil})
		return
	}
	cl.ask(ctx, names)
}

// measure notes what the last connection to the remote has shown of the line.
func (cl *call) measure() {
	if m := cl.lastMeter(); m != nil {
		cl.line.pins.measured(m.Pace())
		pace := cl.line.pins.shown()
		cl.log.Info("pace of the line", "rtt", pace.RTT.Round(time.Millisecond), "bytes_per_second", pace.Rate, "messages_at_a_time", pace.Connections())
	}
}

func (cl *call) lastMeter() *socket.Meter {
	cl.mu.Lock()
	defer cl.mu.Unlock()
	return cl.meter
}

// dialogueTime is how long a dialogue may take on a line of this pace.
func dialogueTime(r *config.Remote, pace socket.Pace) time.Duration {
	return r.ConnectTimeout + r.RequestTimeout + pace.Trips(dialogueTrips)
}

// bounded bounds a dialogue. A line with long round trips, as its connection
// shows them, gets more time.
func (cl *call) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	began := time.Now()
	cl.serving.Go(func() {
		for {
			var pace socket.Pace
			if m := cl.lastMeter(); m != nil {
				pace = m.Pace()
			}
			left := dialogueTime(&cl.remote, pace) - time.Since(began)
			if left <= 0 {
				cancel(odmr.ErrTimeout)
				return
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(left):
			}
		}
	})
	return ctx, func() { cancel(nil) }
}

// goOnAsking asks over the connection of the last question: a new one with its TLS
// would cost a thin line half a minute. ok is false when the remote has closed it
// meanwhile, or does not want it to be used again.
func (cl *call) goOnAsking(ctx context.Context, names []string) (q question, ok bool) {
	client := cl.client
	if client == nil {
		return question{}, false
	}
	cl.client = nil
	bound, cancel := cl.bounded(ctx)
	defer cancel()
	cl.step(api.PhaseRequest, "the answer of "+cl.remote.Host+cl.clear(client))
	q = cl.request(bound, client, names)
	if q.err != nil && ctx.Err() == nil {
		client.Close()
		cl.log.Debug("the remote is asked over a new connection", "error", q.err)
		return question{}, false
	}
	cl.client = client
	return q, true
}

// request puts a question by ETRN.
func (cl *call) request(ctx context.Context, client *odmr.Client, names []string) question {
	names, shut := cl.shut(ctx, names)
	if len(names) == 0 {
		return question{err: shutOf(shut), shut: shut}
	}
	q, began := question{before: cl.tally.Counts().sure(), loose: !client.Ours(), shut: shut}, time.Now()
	q.replies, q.err = client.Request(ctx, names)
	q.took = time.Since(began)
	for _, reply := range q.replies {
		cl.log.Info("reply to ETRN", "name", reply.Name, "code", reply.Code, "text", reply.Text)
	}
	return q
}

// leave ends the connection that was kept for further questions. The line is about
// to be hung up, and nothing depends on the answer.
func (cl *call) leave() {
	if cl.client != nil {
		cl.client.Leave()
		cl.client = nil
	}
}

func (cl *call) dialogue(ctx context.Context, names []string) question {
	r := &cl.remote
	options, err := cl.options()
	if err != nil {
		return question{err: settingsError{err}}
	}
	bound, cancel := cl.bounded(ctx)
	defer cancel()
	client, err := cl.connect(bound, options)
	if err != nil {
		return question{err: err}
	}
	defer func() {
		cl.measure()
		if cl.client != client {
			// What is next need not wait for a good-bye.
			cl.serving.Go(func() { client.Quit() })
		}
	}()
	cl.serving.Go(func() { cl.senders.resolve(ctx, cl.caller.network, r.Host) })
	door := cl.atTheDoor(ctx)
	if err := door.full(); err != nil {
		return question{err: err}
	}
	cl.step(api.PhaseRequest, "the answer of "+r.Host+cl.clear(client))
	if r.Protocol.Turns() {
		// The answer to ATRN has a time of its own.
		if q, ok := cl.turn(ctx, client, door); ok {
			return q
		}
		bound, cancel = cl.bounded(ctx)
		defer cancel()
	}
	q := cl.request(bound, client, names)
	if q.err == nil {
		cl.client = client
	}
	return q
}

// told is the replies that belong into the account of the call: those to a
// question that was only put again do not.
func (q *question) told(first bool) (list []api.Reply) {
	if !first {
		return nil
	}
	for _, r := range q.replies {
		list = append(list, api.Reply{Name: r.Name, Code: r.Code, Text: r.Text, Count: r.Count})
	}
	return list
}

// connect connects to the remote. A connection that is refused is tried again
// for a moment: a route or a name server may need that after the link has come
// up.
func (cl *call) connect(ctx context.Context, o odmr.ClientOptions) (*odmr.Client, error) {
	addr, until := cl.remote.Addr(), time.Now().Add(cl.remote.ConnectTimeout)
	cl.step(api.PhaseConnecting, addr+" to answer")
	for delay := dialPause; ; delay *= 2 {
		client, err := odmr.Dial(ctx, addr, o)
		if err == nil || !errors.Is(err, odmr.ErrConnect) || time.Now().Add(delay).After(until) {
			return client, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(delay):
		}
	}
}

// options are how the remote wants to be spoken to.
func (cl *call) options() (odmr.ClientOptions, error) {
	r := &cl.remote
	o := odmr.ClientOptions{
		Hostname: cl.caller.config().Hostname, TLS: odmr.TLSMode(r.TLS), Logger: cl.log,
		ConnectTimeout: r.ConnectTimeout, ReplyTimeout: r.RequestTimeout,
		Phase: func(p odmr.Phase) {
			switch p {
			case odmr.PhaseTLS:
				cl.step(api.PhaseTLS, "TLS with "+r.Host)
			case odmr.PhaseAuth:
				cl.step(api.PhaseAuth, r.Host+" to accept user "+r.User)
			}
		},
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := cl.caller.network.DialContext(ctx, network, addr)
			if err == nil {
				cl.line.pulse.connected(conn)
				cl.senders.connected(conn, cl.caller.modem.Interfaces(&cl.line.cfg))
				m := socket.NewMeter(conn)
				cl.mu.Lock()
				cl.meter = m
				cl.mu.Unlock()
				return m, nil
			}
			return nil, err
		},
	}
	var err error
	if o.Config, err = r.TLSConfig(); err != nil {
		return o, err
	}
	o.Config.Time = cl.caller.now
	if r.User == "" {
		return o, nil
	}
	secret, err := config.ReadReferred(r.PasswordFile)
	if err != nil {
		return o, fmt.Errorf("remote %s: password-file: %w; etrnctl check, as root, says how to mend it", r.Name, err)
	}
	line, _, _ := strings.Cut(string(secret), "\n")
	o.Auth = &odmr.Auth{User: r.User, Password: strings.TrimSuffix(line, "\r")}
	if r.CRAMMD5 {
		o.Auth.Mechanisms = []string{users.ScramSHA256, users.Plain, users.Login, users.CramMD5}
	}
	return o, nil
}

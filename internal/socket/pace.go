package socket

import (
	"net"
	"sync"
	"time"
)

// Pace is how fast a line is, as far as it has shown. Zero is what is not known.
type Pace struct {
	RTT  time.Duration // round trip, where nothing waits on the way
	Rate int           // bytes a second that the line has carried at the least
}

const (
	// trips is how many round trips at the pace of the line a wait has beside
	// the time that the work itself may take. A TLS handshake takes three of
	// the line's own, but what shares the line with it and a segment that has to
	// be sent again (RFC 6298: after three round trips, then twice that) come on
	// top.
	trips = 20
	// maxRTT bounds what is believed of a round trip: a peer that delays its
	// acknowledgements could else make us wait for ever.
	maxRTT = 10 * time.Second
)

// Grace is how long to wait on this line for what takes up to d on one whose
// round trip is nothing.
func (p Pace) Grace(d time.Duration) time.Duration { return d + p.Trips(trips) }

// Trips is how long n round trips take.
func (p Pace) Trips(n int) time.Duration { return time.Duration(n) * min(max(p.RTT, 0), maxRTT) }

// Grace is how long to wait on a connection for what takes up to d on one whose
// round trip is nothing. What waits on the way counts.
func Grace(conn net.Conn, d time.Duration) time.Duration {
	info, _ := InfoOf(conn)
	return Pace{RTT: max(info.RTT, info.MinRTT)}.Grace(d)
}

const (
	// perConnection is the rate that one SMTP connection needs to get through
	// its dialogue and a TLS handshake, ten kilobytes, in ten seconds.
	perConnection = 1000
	// manyConnections are more than an MTA opens to one destination.
	manyConnections = 20
	// thinRTT is a round trip that no line has that could carry many
	// connections; it counts only while the rate is not known.
	thinRTT = time.Second
)

// Connections is how many SMTP connections the line can carry at a time, so that
// each gets through its dialogue before anybody gives it up; 0: as many as
// anybody wants, or that is not known.
func (p Pace) Connections() int {
	switch n := p.Rate / perConnection; {
	case p.Rate == 0 && p.RTT >= thinRTT:
		return 1
	case p.Rate == 0 || n >= manyConnections:
		return 0
	default:
		return max(n, 1)
	}
}

// Meter is a connection that takes the pace of its line in passing. On a line
// where many connections share the way it tells what is left for this one.
type Meter struct {
	net.Conn

	mu   sync.Mutex
	out  time.Time // when the present exchange began: something was written
	sent int       // of the present exchange, written
	head int       // of the present exchange, what was read first
	got  int       // of the present exchange, read in all
	in   time.Time // when head was read
	rate int
}

// NewMeter makes a Meter.
func NewMeter(conn net.Conn) *Meter { return &Meter{Conn: conn} }

// NetConn is the connection below.
func (m *Meter) NetConn() net.Conn { return m.Conn }

// CloseWrite is that of the connection below, if it has one.
func (m *Meter) CloseWrite() error {
	if half, ok := m.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return net.ErrClosed
}

// Write begins an exchange.
func (m *Meter) Write(b []byte) (int, error) {
	m.mu.Lock()
	if m.got > 0 || m.out.IsZero() {
		m.out, m.sent, m.head, m.got = time.Now(), 0, 0, 0
	}
	m.sent += len(b)
	m.mu.Unlock()
	return m.Conn.Write(b)
}

// Read sees an answer.
func (m *Meter) Read(b []byte) (int, error) {
	n, err := m.Conn.Read(b)
	if n <= 0 {
		return n, err
	}
	now := time.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.out.IsZero() { // a greeting: how long that took says nothing of the line
		return n, err
	}
	m.got += n
	if m.head == 0 {
		m.head, m.in = n, now
		if n >= minReply {
			info, _ := InfoOf(m.Conn)
			m.sampleLocked(m.sent+n, now.Sub(m.out)-info.MinRTT)
		}
	} else if train := m.got - m.head; train >= minTrain {
		m.sampleLocked(train, now.Sub(m.in))
	}
	return n, err
}

const (
	// minReply is a reply that takes notably longer than the empty segments of
	// which the kernel knows the round trip.
	minReply = 64
	// minTrain is how much has to follow the first segment, in one flight, to
	// tell the rate from the distance between segments.
	minTrain = 1000
)

// sampleLocked notes that n bytes came in d at the latest: the peer may have
// thought meanwhile, so the fastest is the nearest to the truth.
func (m *Meter) sampleLocked(n int, d time.Duration) {
	const fast = 1 << 30
	rate := fast
	if d > 0 {
		rate = int(min(float64(n)/d.Seconds(), fast))
	}
	m.rate = max(m.rate, rate)
}

// Pace is what has been seen so far.
func (m *Meter) Pace() Pace {
	info, _ := InfoOf(m.Conn)
	m.mu.Lock()
	defer m.mu.Unlock()
	rtt := info.MinRTT
	if rtt <= 0 {
		rtt = info.RTT
	}
	return Pace{RTT: rtt, Rate: m.rate}
}

package testbed

import (
	"math/rand/v2"
	"time"
)

// Shape is what a link is like. It is the same in both directions, except for
// the rate where RateBack is set.
type Shape struct {
	RTT  time.Duration // propagation there and back, without the time on the wire
	Rate int64         // bit/s from A to B, counted on IP packets; 0: no limit

	// RateBack is the rate from B to A; 0: the same as Rate.
	RateBack int64

	Loss float64 // probability, 0 to 1, that a packet is lost on the way

	// Buffer is how many bytes wait in front of the wire, in each direction,
	// before further packets are dropped. By default twice the product of rate
	// and RTT, and at least 64 kB.
	Buffer int
}

// minBuffer is the least default of Shape.Buffer.
const minBuffer = 64 << 10

// maxFlight bounds the memory of a lane, whatever its shape.
const maxFlight = 64 << 20

// lane is one direction of a link: a first-in first-out queue, a wire that
// takes one packet at a time, and a distance. It is told the time and owns no
// goroutine, so it can be tested without one.
type lane struct {
	rate   int64
	delay  time.Duration
	loss   float64
	buffer int
	rng    *rand.Rand

	queue       []packet  // the first of them is on the wire
	queued      int       // bytes in queue
	headDone    time.Time // when the first will have left
	flight      []packet  // on their way, in order of arrival
	flying      int       // bytes in flight
	lost        int64     // packets, by chance
	overflow    int64     // packets, by a full buffer
	lastArrival time.Time
}

type packet struct {
	data   []byte
	arrive time.Time
}

func (l *lane) shape(now time.Time, s Shape, back bool) {
	l.advance(now)
	rate := s.Rate
	if back && s.RateBack != 0 {
		rate = s.RateBack
	}
	// The packet on the wire finishes at the new rate.
	if len(l.queue) > 0 {
		left := l.headDone.Sub(now)
		switch {
		case rate == 0:
			left = 0
		case l.rate != 0:
			left = time.Duration(float64(left) * float64(l.rate) / float64(rate))
		}
		l.headDone = now.Add(left)
	}
	l.rate, l.delay, l.loss, l.buffer = rate, s.RTT/2, s.Loss, s.Buffer
	if l.buffer == 0 {
		l.buffer = max(minBuffer, int(2*float64(rate)/8*s.RTT.Seconds()))
	}
}

// onWire is how long a packet of this size occupies the wire.
func (l *lane) onWire(size int) time.Duration {
	if l.rate == 0 {
		return 0
	}
	return time.Duration(float64(size) * 8 / float64(l.rate) * float64(time.Second))
}

// offer takes a packet at its entry, or drops it.
func (l *lane) offer(now time.Time, data []byte) {
	l.advance(now)
	if (l.rate != 0 && l.queued+len(data) > l.buffer) || l.queued+l.flying+len(data) > maxFlight {
		l.overflow++
		return
	}
	if len(l.queue) == 0 {
		l.headDone = now.Add(l.onWire(len(data)))
	}
	l.queue = append(l.queue, packet{data: data})
	l.queued += len(data)
	l.advance(now)
}

// advance moves what has left the wire by now into flight.
func (l *lane) advance(now time.Time) {
	for len(l.queue) > 0 && !l.headDone.After(now) {
		p := l.queue[0]
		l.queue[0] = packet{}
		l.queue = l.queue[1:]
		l.queued -= len(p.data)
		if l.loss > 0 && l.rng.Float64() < l.loss {
			l.lost++
		} else {
			p.arrive = l.headDone.Add(l.delay)
			if p.arrive.Before(l.lastArrival) {
				p.arrive = l.lastArrival // a shorter delay does not overtake
			}
			l.lastArrival = p.arrive
			l.flight = append(l.flight, p)
			l.flying += len(p.data)
		}
		if len(l.queue) > 0 {
			l.headDone = l.headDone.Add(l.onWire(len(l.queue[0].data)))
		}
	}
}

// due takes out the next packet that has arrived by now, or nil.
func (l *lane) due(now time.Time) []byte {
	l.advance(now)
	if len(l.flight) == 0 || l.flight[0].arrive.After(now) {
		return nil
	}
	data := l.flight[0].data
	l.flight[0] = packet{}
	l.flight = l.flight[1:]
	l.flying -= len(data)
	return data
}

// next says when something happens again; false: not before an offer.
func (l *lane) next() (time.Time, bool) {
	switch {
	case len(l.flight) > 0 && (len(l.queue) == 0 || l.flight[0].arrive.Before(l.headDone)):
		return l.flight[0].arrive, true
	case len(l.queue) > 0:
		return l.headDone, true
	}
	return time.Time{}, false
}

// purge drops everything and returns how many packets that were.
func (l *lane) purge() int64 {
	n := int64(len(l.queue) + len(l.flight))
	l.queue, l.flight, l.queued, l.flying = nil, nil, 0, 0
	return n
}

package deliver

import (
	"net"
	"time"

	"github.com/etrnd/etrnd/internal/socket"
)

// unsent is how much may wait in the kernel for its first transmission. More
// would not make the line any faster, and what is in there can be overtaken by
// nothing: neither by mail of a higher priority nor by the end of the turn.
const unsent = 32 << 10

// prepare sets a turned connection up for mail.
func prepare(conn net.Conn) {
	socket.Watch(conn, socket.Turned)
	socket.LimitUnsent(conn, unsent)
}

// Bounds of how long a segment that is not full may wait for more.
const (
	leastCork = 2 * time.Millisecond
	mostCork  = 500 * time.Millisecond
)

// corkTime is how long what is written may wait for more to fill its packets,
// without the line running dry: half of the time for which what was sent before
// waits on the way, as the round trips tell.
func corkTime(conn net.Conn) time.Duration {
	d := time.Duration(0)
	if line, ok := socket.InfoOf(conn); ok && line.Unacked > 0 && line.RTT > line.MinRTT {
		d = (line.RTT - line.MinRTT) / 2
	}
	return min(max(d, leastCork), mostCork)
}

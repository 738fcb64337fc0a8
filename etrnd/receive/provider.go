package receive

import (
	"errors"
	"net"
	"os"
	"sync"
	"time"
)

// providerConn is the turned connection with the deadlines that belong to it. The
// provider may be silent while it waits for an answer: the time begins when the
// last one has gone.
type providerConn struct {
	conn    net.Conn
	silence time.Duration

	mu      sync.Mutex
	due     int       // answers that the provider waits for
	text    bool      // it is in the middle of a message, whatever answers are due
	life    time.Time // when it, or we, last had something to say
	stopped bool
}

// owe notes that an answer is due, or with -1 that one has gone.
func (p *providerConn) owe(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.due += n
	p.life = time.Now()
}

// inText notes that the provider is sending a message, or has sent it.
func (p *providerConn) inText(yes bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.text = yes
	p.life = time.Now()
}

// stop ends reading.
func (p *providerConn) stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stopped = true
	p.conn.SetReadDeadline(time.Unix(1, 0))
}

func (p *providerConn) over() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stopped
}

func (p *providerConn) arm() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	wait := p.silence
	if p.due == 0 || p.text {
		wait = time.Until(p.life.Add(p.silence))
	}
	if p.stopped {
		return errDead
	}
	if wait <= 0 {
		return ErrSilent
	}
	return p.conn.SetReadDeadline(time.Now().Add(wait))
}

func (p *providerConn) Read(b []byte) (int, error) {
	for {
		if err := p.arm(); err != nil {
			return 0, err
		}
		n, err := p.conn.Read(b)
		if n > 0 {
			p.owe(0)
			return n, nil
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return 0, err
		}
	}
}

// Write bounds what one write takes: a provider that does not read its replies
// ends there.
func (p *providerConn) Write(b []byte) (int, error) {
	p.conn.SetWriteDeadline(time.Now().Add(p.silence))
	n, err := p.conn.Write(b)
	if n > 0 {
		p.owe(0)
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = ErrSilent
	}
	return n, err
}

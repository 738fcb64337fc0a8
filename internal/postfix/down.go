package postfix

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/etrnd/etrnd/internal/mta"
)

// showqTimeout bounds the question whether Postfix is back, which the kernel
// answers.
const showqTimeout = time.Second

// stillDown reports that Postfix was down at the last command and is down now.
// postqueue would find that out as well, but puts a line with "fatal" into the
// mail log each time, every few seconds for as long as it lasts. Whatever else
// the socket says, the command is run and tells.
func (p *Instance) stillDown(ctx context.Context) error {
	p.mu.Lock()
	socket := p.downAt
	p.mu.Unlock()
	if socket == "" {
		return nil
	}
	d := net.Dialer{Timeout: showqTimeout}
	conn, err := d.DialContext(ctx, "unix", socket)
	if err == nil {
		conn.Close()
	}
	if errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ENOENT) {
		return fmt.Errorf("%w: nobody answers on %s", mta.ErrDown, socket)
	}
	p.setDown("")
	return nil
}

// wentDown notes that a command found Postfix down, and where it will answer once
// it is back.
func (p *Instance) wentDown(ctx context.Context) {
	v, err := p.Settings(ctx, "queue_directory", "showq_service_name")
	if err != nil || v["queue_directory"] == "" || v["showq_service_name"] == "" {
		return
	}
	p.setDown(filepath.Join(v["queue_directory"], "public", v["showq_service_name"]))
}

func (p *Instance) setDown(socket string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.downAt = socket
}

// root reports whether commands run as root, for whom postqueue lists a queue
// that nobody serves.
func (p *Instance) root() bool {
	if c := p.o.Credential; c != nil {
		return c.Uid == 0
	}
	return os.Geteuid() == 0
}

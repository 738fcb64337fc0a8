package odmr

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/etrnd/etrnd/internal/etrn"
	"github.com/etrnd/etrnd/internal/foreign"
)

// turnWait is how long the reply to ATRN is waited for at least (RFC 2645):
// the provider may have to look for the mail first.
const turnWait = 10 * time.Minute

// maxCommand is the longest command line (RFC 5321, section 4.5.3.1.4), without
// CRLF.
const maxCommand = 510

// Turn sends ATRN for the domains, or for all of the user's if there are none
// (RFC 2645). After 250 the connection, with its TLS if there is any, belongs to
// the caller, who has to greet: the client is no longer of use, and Quit and
// Close do nothing. In all other cases conn is nil.
//
// 453 (no mail) is a Reply and no error. 500 and 502 are ErrNoATRN; the dialogue
// can then go on with Request. Any other refusal is ErrRefused, with its code.
func (c *Client) Turn(ctx context.Context, domains []string) (conn net.Conn, r Reply, err error) {
	r.Name, r.Count = strings.Join(domains, ","), -1
	for _, domain := range domains {
		if err := etrn.CheckNode(domain); err != nil {
			return nil, r, &Error{Kind: ErrProtocol, Op: "ATRN", Err: fmt.Errorf("cannot ask for %s: %w", foreign.Quote(domain), err)}
		}
	}
	line := strings.TrimSpace("ATRN " + r.Name)
	if len(line) > maxCommand {
		return nil, r, &Error{Kind: ErrProtocol, Op: "ATRN", Err: fmt.Errorf("%d domains do not fit into one command: %d bytes, allowed are %d", len(domains), len(line), maxCommand)}
	}
	c.o.Phase(PhaseRequest)
	if err := c.send(ctx, "ATRN", line); err != nil {
		return nil, r, err
	}
	wait := c.o.ReplyTimeout
	c.o.ReplyTimeout = max(wait, turnWait)
	rep, err := c.read(ctx, "ATRN")
	c.o.ReplyTimeout = wait
	if err != nil {
		return nil, r, err
	}
	r.Code, r.Text = rep.Code, rep.Text()
	switch rep.Code {
	case 250:
	case 453:
		r.Count = 0
		return nil, r, nil
	case 500, 502:
		return nil, r, &Error{Kind: ErrNoATRN, Op: "ATRN", Code: rep.Code, Text: rep.Text()}
	default:
		return nil, r, c.refused("ATRN", rep)
	}
	if c.in.Buffered() > 0 {
		// The remote is the client now and has to wait for our greeting. What
		// was sent before may be anybody's.
		c.Close()
		return nil, r, &Error{Kind: ErrProtocol, Op: "ATRN", Err: errors.New("the remote sent something ahead of our greeting")}
	}
	// From here on ctx has no hold on the connection.
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, r, c.failed(ctx, "ATRN", err)
	}
	c.turned = true
	c.raw.SetDeadline(time.Time{})
	return c.conn, r, nil
}

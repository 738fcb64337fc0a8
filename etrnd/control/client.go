package control

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/etrnd/etrnd/internal/api"
	"github.com/etrnd/etrnd/internal/foreign"
)

// DefaultSocket is where etrnd listens when the configuration says nothing.
const DefaultSocket = "/run/etrnd/control.sock"

const (
	maxReply = 64 << 20 // thousands of queues with hundreds of domains each
	maxLine  = 1 << 20  // of a stream
)

// ClientOptions is what a Client needs.
type ClientOptions struct {
	// Socket is a path, or the same with "unix:" before it. Empty:
	// DefaultSocket.
	Socket string
	// Timeout bounds every request but HangUp and Watch. 0: one minute.
	Timeout time.Duration
}

// Client asks a daemon. Each of its errors is an *Error, or the error of the
// context.
type Client struct {
	socket  string
	timeout time.Duration
	http    *http.Client
}

// NewClient makes a Client. Nothing is connected before the first request.
func NewClient(o ClientOptions) *Client {
	c := &Client{socket: strings.TrimPrefix(o.Socket, "unix:"), timeout: o.Timeout}
	if c.socket == "" {
		c.socket = DefaultSocket
	}
	if c.timeout == 0 {
		c.timeout = time.Minute
	}
	c.http = &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			d := net.Dialer{Timeout: 5 * time.Second}
			return d.DialContext(ctx, "unix", c.socket)
		},
		DisableCompression: true,
		MaxIdleConns:       1,
	}}
	return c
}

// Close drops idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Socket is the path that the client connects to.
func (c *Client) Socket() string { return c.socket }

// Status: see Backend.
func (c *Client) Status(ctx context.Context) (api.Status, error) {
	return ask[api.Status](ctx, c, c.timeout, "GET", "/v1/status", nil)
}

// Queues: see Backend.
func (c *Client) Queues(ctx context.Context) ([]api.Queue, error) {
	return ask[[]api.Queue](ctx, c, c.timeout, "GET", "/v1/queues", nil)
}

// Nobody: see Backend.
func (c *Client) Nobody(ctx context.Context) (api.Nobody, error) {
	return ask[api.Nobody](ctx, c, c.timeout, "GET", "/v1/nobody", nil)
}

// Release: see Backend.
func (c *Client) Release(ctx context.Context, name string) ([]api.Released, error) {
	return ask[[]api.Released](ctx, c, c.timeout, "POST", "/v1/release", releaseRequest{Name: name})
}

// LinkUp: see Backend.
func (c *Client) LinkUp(ctx context.Context, ev api.LinkEvent) ([]api.CallRef, error) {
	return ask[[]api.CallRef](ctx, c, c.timeout, "POST", "/v1/link-up", ev)
}

// LinkDown: see Backend.
func (c *Client) LinkDown(ctx context.Context, ev api.LinkEvent) error {
	_, err := ask[nothing](ctx, c, c.timeout, "POST", "/v1/link-down", ev)
	return err
}

// Call: see Backend.
func (c *Client) Call(ctx context.Context, remote string) (api.CallRef, error) {
	return ask[api.CallRef](ctx, c, c.timeout, "POST", "/v1/call", callRequest{Remote: remote})
}

// HangUp: see Backend. It waits for up to ten minutes, for the command has a
// timeout in the configuration that is not known here.
func (c *Client) HangUp(ctx context.Context, link string) error {
	_, err := ask[nothing](ctx, c, max(c.timeout, 10*time.Minute), "POST", "/v1/hang-up", hangUpRequest{Link: link})
	return err
}

// History: see Backend.
func (c *Client) History(ctx context.Context, n int) ([]api.CallResult, error) {
	return ask[[]api.CallResult](ctx, c, c.timeout, "GET", "/v1/history?n="+strconv.Itoa(n), nil)
}

// Reload: see Backend.
func (c *Client) Reload(ctx context.Context) (warnings []string, err error) {
	r, err := ask[reloaded](ctx, c, c.timeout, "POST", "/v1/reload", nothing{})
	return r.Warnings, err
}

// Watch calls f with each event until every call has ended. It returns an
// *Error when the daemon goes away before that, ctx.Err() when ctx ends, and
// f's error if that is not nil.
func (c *Client) Watch(ctx context.Context, calls []string, f func(api.CallEvent) error) error {
	rsp, err := c.do(ctx, "GET", "/v1/watch?"+url.Values{"call": calls}.Encode(), nil)
	if err != nil {
		return err
	}
	defer rsp.Body.Close()
	left := map[string]bool{}
	for _, id := range calls {
		left[id] = true
	}
	in := bufio.NewScanner(rsp.Body)
	in.Buffer(nil, maxLine)
	for len(left) > 0 && in.Scan() {
		var l watchLine
		if err := json.Unmarshal(in.Bytes(), &l); err != nil {
			return c.garbled(err)
		}
		switch {
		case l.Error != nil:
			return l.Error
		case l.Event == nil:
			continue // of a later release
		}
		if err := f(*l.Event); err != nil {
			return err
		}
		if l.Event.Result != nil {
			delete(left, l.Event.Call)
		}
	}
	switch {
	case len(left) == 0:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(in.Err(), bufio.ErrTooLong):
		return c.garbled(in.Err())
	}
	return api.Errorf(api.ExitTempFail, "is etrnd running? systemctl status etrnd",
		"etrnd on %s went away before the call had ended; what has not crossed the line stays held", c.socket)
}

// ask makes a request and reads the reply.
func ask[Out any](ctx context.Context, c *Client, timeout time.Duration, method, path string, in any) (out Out, err error) {
	limited, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	rsp, err := c.do(limited, method, path, in)
	if err == nil {
		defer rsp.Body.Close()
		err = c.read(limited, rsp.Body, &out)
	}
	if err != nil && ctx.Err() == nil && limited.Err() != nil {
		err = api.Errorf(api.ExitTempFail, "etrnd is there but busy; its log says with what: journalctl -u etrnd",
			"etrnd on %s has not answered within %s", c.socket, timeout)
	}
	return out, err
}

// do returns a response with a status of success, or an error.
func (c *Client) do(ctx context.Context, method, path string, in any) (*http.Response, error) {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(b)
	}
	// The host is of no account on a unix socket, but HTTP/1.1 wants one.
	req, err := http.NewRequestWithContext(ctx, method, "http://etrnd"+path, body)
	if err != nil {
		return nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	rsp, err := c.http.Do(req)
	if err != nil {
		return nil, c.unreachable(ctx, err)
	}
	if rsp.StatusCode == http.StatusOK {
		return rsp, nil
	}
	defer rsp.Body.Close()
	e := new(api.Error)
	if err := c.read(ctx, rsp.Body, e); err != nil || e.Message == "" {
		return nil, api.Errorf(api.ExitTempFail, "is something else than etrnd listening there?",
			"the answer from %s is no answer of etrnd: HTTP status %s", c.socket, foreign.Quote(rsp.Status))
	}
	if e.Exit == api.ExitOK {
		e.Exit = api.ExitTempFail
	}
	return nil, e
}

func (c *Client) read(ctx context.Context, r io.Reader, v any) error {
	b, err := io.ReadAll(io.LimitReader(r, maxReply+1))
	if err != nil {
		return c.unreachable(ctx, err)
	}
	if len(b) > maxReply {
		return c.garbled(fmt.Errorf("longer than %d bytes", maxReply))
	}
	if err := json.Unmarshal(b, v); err != nil {
		return c.garbled(err)
	}
	return nil
}

func (c *Client) garbled(err error) error {
	return api.Errorf(api.ExitTempFail, "are etrnctl and etrnd of the same release?",
		"the answer of etrnd on %s cannot be read: %v", c.socket, err)
}

// unreachable tells apart why there is no answer.
func (c *Client) unreachable(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	// What net/http wraps around it says nothing to the user.
	var ue *url.Error
	if errors.As(err, &ue) {
		err = ue.Err
	}
	const running = "is etrnd running? systemctl status etrnd"
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return api.Errorf(api.ExitTempFail, running, "etrnd cannot be asked: there is no socket %s", c.socket)
	case errors.Is(err, syscall.ECONNREFUSED):
		return api.Errorf(api.ExitTempFail, running, "etrnd cannot be asked: nobody listens on %s", c.socket)
	case errors.Is(err, fs.ErrPermission):
		return api.Errorf(api.ExitNoPerm, "ask as root, or as a member of the group that is set under group in the [control] table (etrnd as shipped)",
			"you may not open the socket %s of etrnd", c.socket)
	case errors.Is(err, syscall.EINVAL):
		return api.Errorf(api.ExitUsage, "a socket's path has at most 107 bytes", "%q cannot be the path of a socket", c.socket)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return api.Errorf(api.ExitTempFail, running, "etrnd on %s closed the connection without an answer", c.socket)
	}
	return api.Errorf(api.ExitTempFail, running, "etrnd on %s cannot be asked: %v", c.socket, err)
}

package odmr

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/etrnd/etrnd/internal/esmtp"
	"github.com/etrnd/etrnd/internal/foreign"
	"github.com/etrnd/etrnd/internal/users"
)

// Auth is how a client authenticates.
type Auth struct {
	User     string
	Password string
	// Mechanisms that may be used. Default: SCRAM-SHA-256, PLAIN and LOGIN.
	// PLAIN and LOGIN are used under trusted TLS only; CRAM-MD5 has to be named.
	Mechanisms []string
}

// authenticate uses the best mechanism that both sides have and that does not
// show the password to strangers.
func (c *Client) authenticate(ctx context.Context) error {
	auth := c.o.Auth
	if auth == nil {
		return nil
	}
	c.o.Phase(PhaseAuth)
	mechanisms, err := c.mechanisms()
	if err != nil {
		return &Error{Kind: ErrAuth, Op: "AUTH", Err: err}
	}
	for i, mechanism := range mechanisms {
		rep, err := c.exchange(ctx, mechanism, auth)
		if err != nil {
			return err
		}
		switch {
		case rep.Code == 235:
			c.log.Debug("authenticated", "mechanism", mechanism, "user", auth.User)
			return nil
		case rep.Code == 504 && i < len(mechanisms)-1:
			c.log.Warn("remote lists a mechanism and refuses it", "mechanism", mechanism, "text", rep.Text())
		case rep.Code == 421:
			return c.refused("AUTH", rep)
		default:
			return &Error{Kind: ErrAuth, Op: "AUTH " + mechanism, Code: rep.Code, Text: rep.Text()}
		}
	}
	panic("unreachable: mechanisms is not empty")
}

// mechanisms that can be used, best first; the error says why there is none.
func (c *Client) mechanisms() ([]string, error) {
	offered := c.offers.Auth()
	if len(offered) == 0 {
		hint := ""
		if c.tls == nil && c.offers.Has("STARTTLS") {
			hint = " without TLS"
		}
		return nil, fmt.Errorf("the remote offers no AUTH%s", hint)
	}
	allowed := c.o.Auth.Mechanisms
	if allowed == nil {
		allowed = []string{users.ScramSHA256, users.Plain, users.Login}
	}
	// PLAIN under trusted TLS comes before CRAM-MD5, because it lets the hub
	// keep secrets that are of no use to a thief.
	var fit, held []string
	for _, mechanism := range []string{users.ScramSHA256, users.Plain, users.CramMD5, users.Login} {
		if !slices.Contains(offered, mechanism) || !slices.ContainsFunc(allowed, func(s string) bool { return strings.EqualFold(s, mechanism) }) {
			continue
		}
		if mechanism == users.Plain || mechanism == users.Login {
			if c.tls == nil || c.distrust != nil && c.o.TLS != TLSInsecure {
				held = append(held, mechanism)
				continue
			}
		}
		fit = append(fit, mechanism)
	}
	switch {
	case len(fit) > 0:
		return fit, nil
	case len(held) > 0 && c.tls == nil:
		why := ""
		if c.o.failed != nil {
			why = "; TLS does not come about: " + explain(c.o.failed)
		}
		return nil, fmt.Errorf("of what we may use the remote offers only %s, and without TLS that would show the password%s", strings.Join(held, ", "), why)
	case len(held) > 0:
		return nil, fmt.Errorf("of what we may use the remote offers only %s, which shows it the password, but its certificate is not verified: %w", strings.Join(held, ", "), c.distrust)
	}
	return nil, fmt.Errorf("the remote offers %s, allowed are %s", strings.Join(offered, ", "), strings.Join(allowed, ", "))
}

// exchange runs one mechanism to its last reply.
func (c *Client) exchange(ctx context.Context, mechanism string, auth *Auth) (esmtp.Reply, error) {
	op := "AUTH " + mechanism
	client, err := users.NewClient(mechanism, auth.User, auth.Password)
	if err != nil {
		return esmtp.Reply{}, &Error{Kind: ErrAuth, Op: op, Err: err}
	}
	_, initial, err := client.Start()
	if err != nil {
		return esmtp.Reply{}, &Error{Kind: ErrAuth, Op: op, Err: err}
	}
	line := op
	switch {
	case initial == nil:
	case len(initial) == 0:
		line += " ="
	default:
		line += " " + base64.StdEncoding.EncodeToString(initial)
	}
	for range maxRounds {
		rep, err := c.command(ctx, op, line)
		if err != nil {
			return esmtp.Reply{}, err
		}
		if rep.Code == 235 && !client.Complete() {
			// Whoever says so may not be the hub, and the session is not to be trusted.
			c.Close()
			return esmtp.Reply{}, &Error{Kind: ErrAuth, Op: op, Err: errors.New("the remote reports success but has not proved that it knows the user")}
		}
		if rep.Code != 334 {
			return rep, nil
		}
		challenge, err := base64.StdEncoding.DecodeString(strings.TrimSpace(rep.Lines[0]))
		var response []byte
		if err == nil {
			response, err = client.Next(challenge)
		}
		if err != nil {
			if _, err := c.command(ctx, op, "*"); err != nil {
				return esmtp.Reply{}, err
			}
			return esmtp.Reply{}, &Error{Kind: ErrAuth, Op: op, Err: errors.New(foreign.Escape(err.Error(), 200))}
		}
		line = base64.StdEncoding.EncodeToString(response)
	}
	c.Close()
	return esmtp.Reply{}, &Error{Kind: ErrAuth, Op: op, Err: fmt.Errorf("the remote sent more than %d challenges", maxRounds)}
}

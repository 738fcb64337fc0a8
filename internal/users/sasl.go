package users

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/xdg-go/scram"

	"github.com/etrnd/etrnd/internal/foreign"
)

// Exchange is the server's side of one authentication. It is a sasl.Server.
type Exchange struct {
	server  sasl.Server
	claimed string
	secret  *Secret // of claimed, once it was asked for
	done    bool
}

// Server begins an exchange. ctx bounds the time spent waiting for a processor;
// host is the server's name, part of the CRAM-MD5 challenge.
func (s *Store) Server(ctx context.Context, mechanism, host string) (*Exchange, error) {
	e := &Exchange{}
	switch mechanism {
	case Plain:
		e.server = sasl.NewPlainServer(func(identity, name, password string) error {
			e.claimed = name
			if err := checkIdentity(identity, name); err != nil {
				return err
			}
			return e.check(ctx, s, name, password)
		})
	case Login:
		e.server = &loginServer{check: func(name, password string) error {
			e.claimed = name
			return e.check(ctx, s, name, password)
		}}
	case CramMD5:
		e.server = &cramServer{store: s, exchange: e, host: host}
	case ScramSHA256:
		sv := &scramServer{exchange: e}
		server, err := scram.SHA256.NewServer(func(name string) (scram.StoredCredentials, error) {
			e.claimed = name
			var secret *Secret
			secret, sv.known = s.lookup(name)
			e.secret = secret
			return scram.StoredCredentials{
				KeyFactors: scram.KeyFactors{Salt: string(secret.salt), Iters: secret.iterations},
				StoredKey:  secret.storedKey[:],
				ServerKey:  secret.serverKey[:],
			}, nil
		})
		if err != nil {
			return nil, fmt.Errorf("begin %s: %w", mechanism, err)
		}
		sv.conversation = server.NewConversation()
		e.server = sv
	default:
		return nil, fmt.Errorf("%w: %s", ErrMechanism, foreign.Quote(mechanism))
	}
	return e, nil
}

func (e *Exchange) check(ctx context.Context, s *Store, name, password string) (err error) {
	e.secret, err = s.check(ctx, name, password)
	return err
}

// Grant is what the authentication rests on, for Store.Stands; zero before Next said
// done.
func (e *Exchange) Grant() Grant {
	if !e.done {
		return Grant{}
	}
	return Grant{e.claimed, e.secret}
}

// Next takes the client's message (nil when there was no initial response) and
// returns the next challenge. See sasl.Server. An error is one of ErrDenied,
// ErrMalformed and ErrBusy.
func (e *Exchange) Next(response []byte) (challenge []byte, done bool, err error) {
	if e.done {
		return nil, false, fmt.Errorf("%w: the exchange is over", ErrMalformed)
	}
	challenge, done, err = e.server.Next(response)
	if err != nil {
		e.server = overServer{}
		if !errors.Is(err, ErrDenied) && !errors.Is(err, ErrBusy) && !errors.Is(err, ErrMalformed) {
			// The library's errors may quote the peer.
			err = fmt.Errorf("%w: %q", ErrMalformed, foreign.Clip(err.Error(), 200))
		}
		return nil, false, err
	}
	e.done = done
	return challenge, done, nil
}

// User is the name that was authenticated; empty before Next said done, and
// after a failure.
func (e *Exchange) User() string {
	if !e.done {
		return ""
	}
	return e.claimed
}

// Claimed is the name the peer gave, unchecked: quote it before it is logged.
func (e *Exchange) Claimed() string { return e.claimed }

var _ sasl.Server = (*Exchange)(nil)

// checkIdentity: nobody acts for another here (RFC 4616, section 2, lets a
// server decide).
func checkIdentity(identity, name string) error {
	if identity != "" && identity != name {
		return fmt.Errorf("%w: wants to act as %s", ErrDenied, foreign.Quote(identity))
	}
	return nil
}

// overServer stands for an exchange that has failed.
type overServer struct{}

func (overServer) Next([]byte) ([]byte, bool, error) {
	return nil, false, fmt.Errorf("%w: the exchange has failed", ErrMalformed)
}

// loginServer is LOGIN, which has no specification beyond an expired draft
// (draft-murchison-sasl-login). An initial response is taken as the name, as
// most clients that send one mean it.
type loginServer struct {
	check func(name, password string) error
	asked bool
	name  *string
}

func (l *loginServer) Next(response []byte) ([]byte, bool, error) {
	switch {
	case l.name != nil:
		return nil, true, l.check(*l.name, string(response))
	case response == nil && !l.asked:
		l.asked = true
		return []byte("Username:"), false, nil
	default:
		name := string(response)
		l.name = &name
		return []byte("Password:"), false, nil
	}
}

// cramServer is CRAM-MD5 (RFC 2195).
type cramServer struct {
	store     *Store
	exchange  *Exchange
	host      string
	challenge []byte
}

func (c *cramServer) Next(response []byte) ([]byte, bool, error) {
	if c.challenge == nil {
		if response != nil {
			return nil, false, fmt.Errorf("%w: CRAM-MD5 has no initial response", ErrMalformed)
		}
		c.challenge = fmt.Appendf(nil, "<%s.%d@%s>", rand.Text(), time.Now().Unix(), c.host)
		return c.challenge, false, nil
	}
	// The name may have spaces, the digest not.
	i := bytes.LastIndexByte(response, ' ')
	if i < 0 {
		return nil, false, fmt.Errorf("%w: no space between name and digest", ErrMalformed)
	}
	name := string(response[:i])
	c.exchange.claimed = name
	secret, known := c.store.lookup(name)
	c.exchange.secret = secret
	state := secret.cram
	if state == nil {
		state = &cramState{}
	}
	want := hex.AppendEncode(nil, state.digest(c.challenge))
	fits := hmac.Equal(want, response[i+1:])
	switch {
	case !known:
		return nil, false, fmt.Errorf("%w: unknown user", ErrDenied)
	case secret.cram == nil:
		return nil, false, fmt.Errorf("%w: the user has no secret for %s", ErrDenied, CramMD5)
	case !fits:
		return nil, false, fmt.Errorf("%w: wrong password", ErrDenied)
	}
	return nil, true, nil
}

// scramServer turns the conversation of RFC 5802 into challenges. The server's
// last message has to go out as a challenge that the client answers with an
// empty line, as a success reply of SMTP carries no data (RFC 4954, section 4).
type scramServer struct {
	conversation *scram.ServerConversation
	exchange     *Exchange
	known        bool
	step         int
}

func (s *scramServer) Next(response []byte) ([]byte, bool, error) {
	if response == nil && s.step == 0 {
		return []byte{}, false, nil
	}
	s.step++
	switch s.step {
	case 1:
		out, err := s.conversation.Step(string(response))
		if err != nil {
			return nil, false, fmt.Errorf("%w: first message: %q", ErrMalformed, foreign.Clip(err.Error(), 200))
		}
		if err := checkIdentity(s.conversation.AuthzID(), s.conversation.Username()); err != nil {
			return nil, false, err
		}
		return []byte(out), false, nil
	case 2:
		out, err := s.conversation.Step(string(response))
		switch {
		// Before anything else, so that a message that is none is answered alike for
		// users who exist and those who do not.
		case err != nil && out != scram.ErrInvalidProof:
			return nil, false, fmt.Errorf("%w: last message: %q", ErrMalformed, foreign.Clip(err.Error(), 200))
		case !s.known:
			return nil, false, fmt.Errorf("%w: unknown user", ErrDenied)
		case err != nil:
			return nil, false, fmt.Errorf("%w: wrong password", ErrDenied)
		case !s.conversation.Valid():
			return nil, false, fmt.Errorf("%w: no valid proof", ErrDenied)
		}
		return []byte(out), false, nil
	default:
		if len(response) != 0 {
			return nil, false, fmt.Errorf("%w: more than an empty line at the end", ErrMalformed)
		}
		return nil, true, nil
	}
}

// Client is the client's side of one authentication. It is a sasl.Client.
type Client struct {
	sasl.Client
	complete func() bool
}

// Complete tells whether the server may say success now. With SCRAM-SHA-256 it
// may only after it has proved that it knows the user; a success before that is
// an impostor's (RFC 5802, section 5).
func (c *Client) Complete() bool { return c.complete() }

// NewClient is the client's side of a mechanism.
func NewClient(mechanism, user, password string) (*Client, error) {
	switch mechanism {
	case Plain:
		return &Client{sasl.NewPlainClient("", user, password), always}, nil
	case Login:
		c := &loginClient{answers: []string{user, password}}
		return &Client{c, func() bool { return len(c.answers) == 0 }}, nil
	case CramMD5:
		c := &cramClient{user: user, state: newCramState(password)}
		return &Client{c, func() bool { return c.answered }}, nil
	case ScramSHA256:
		client, err := scram.SHA256.NewClient(user, password, "")
		if err != nil {
			return nil, fmt.Errorf("%s: %w", mechanism, err)
		}
		conversation := client.NewConversation()
		return &Client{&scramClient{conversation}, conversation.Valid}, nil
	}
	return nil, fmt.Errorf("%w: %s", ErrMechanism, foreign.Quote(mechanism))
}

func always() bool { return true }

// loginClient sends name and password in that order, whatever the prompts say:
// servers differ in them, and only the order is agreed upon.
type loginClient struct{ answers []string }

func (l *loginClient) Start() (string, []byte, error) { return Login, nil, nil }

func (l *loginClient) Next([]byte) ([]byte, error) {
	if len(l.answers) == 0 {
		return nil, sasl.ErrUnexpectedServerChallenge
	}
	answer := l.answers[0]
	l.answers = l.answers[1:]
	return []byte(answer), nil
}

type cramClient struct {
	user     string
	state    *cramState
	answered bool
}

func (c *cramClient) Start() (string, []byte, error) { return CramMD5, nil, nil }

func (c *cramClient) Next(challenge []byte) ([]byte, error) {
	if c.answered {
		return nil, sasl.ErrUnexpectedServerChallenge
	}
	c.answered = true
	return fmt.Appendf(nil, "%s %x", c.user, c.state.digest(challenge)), nil
}

type scramClient struct{ conversation *scram.ClientConversation }

func (s *scramClient) Start() (string, []byte, error) {
	first, err := s.conversation.Step("")
	return ScramSHA256, []byte(first), err
}

func (s *scramClient) Next(challenge []byte) ([]byte, error) {
	// The library has a lower bound for the iterations. Without an upper one a
	// server could keep the site's processor busy for hours.
	for field := range strings.SplitSeq(string(challenge), ",") {
		if count, ok := strings.CutPrefix(field, "i="); ok {
			if n, err := strconv.Atoi(count); err != nil || n > maxIterations {
				return nil, fmt.Errorf("the server wants %s iterations; at most %d are allowed", foreign.Quote(count), maxIterations)
			}
		}
	}
	out, err := s.conversation.Step(string(challenge))
	return []byte(out), err
}

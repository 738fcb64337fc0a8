package odmr

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/etrnd/etrnd/internal/esmtp"
	"github.com/etrnd/etrnd/internal/foreign"
	"github.com/etrnd/etrnd/internal/users"
)

// auth is RFC 4954.
func (d *dialogue) auth(ctx context.Context, arg string) error {
	name, initial, hasInitial := strings.Cut(arg, " ")
	name = strings.ToUpper(name)
	d.secret = true
	switch known := []string{users.ScramSHA256, users.Plain, users.Login, users.CramMD5}; {
	case d.srv.o.Users == nil:
		return d.refuse(502, "AUTH", "AUTH is not set up here")
	case !d.hello:
		return d.refuse(503, "AUTH", "send EHLO first")
	case d.who.User != "":
		return d.refuse(503, "AUTH", "you are already authenticated")
	case name == "":
		return d.refuse(501, "AUTH", "AUTH needs a mechanism")
	case !slices.Contains(d.mechanisms(), name):
		if slices.Contains(known[1:3], name) {
			return d.refuse(538, "AUTH "+name, name+" needs TLS; send STARTTLS first")
		}
		return d.refuse(504, "AUTH "+name, "unknown mechanism; EHLO lists the known ones")
	}
	var response []byte
	if hasInitial {
		var err error
		if response, err = decodeAuth(initial); err != nil {
			return d.refuse(501, "AUTH "+name, err.Error())
		}
	}
	exchange, err := d.srv.o.Users.Server(ctx, name, d.srv.o.Hostname)
	if err != nil {
		return d.authFailed(name, "", err)
	}
	for range maxRounds {
		challenge, done, err := exchange.Next(response)
		if err != nil {
			return d.authFailed(name, exchange.Claimed(), err)
		}
		if done {
			d.who.User, d.grant = exchange.User(), exchange.Grant()
			d.known.Store(true)
			d.log = d.log.With("user", d.who.User)
			d.log.Info("authenticated", "mechanism", name, "tls", d.secure)
			d.reply(235, "authenticated")
			return nil
		}
		d.reply(334, "%s", base64.StdEncoding.EncodeToString(challenge))
		line, err := d.line()
		var bad esmtp.LineError
		switch {
		case errors.As(err, &bad):
			return d.refuseLine([]byte("AUTH"), bad) // the line may hold a password
		case err != nil:
			return err
		case string(line) == "*":
			return d.refuse(501, "AUTH "+name, "authentication cancelled")
		}
		if len(line) == 0 {
			response = []byte{}
		} else if response, err = decodeBase64(string(line)); err != nil {
			return d.refuse(501, "AUTH "+name, err.Error())
		}
	}
	return d.authFailed(name, exchange.Claimed(), fmt.Errorf("%w: too many messages", users.ErrMalformed))
}

// decodeAuth decodes an initial response; "=" is an empty one (RFC 4954, section 4).
func decodeAuth(text string) ([]byte, error) {
	if text == "=" {
		return []byte{}, nil
	}
	return decodeBase64(text)
}

func decodeBase64(text string) ([]byte, error) {
	b, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil {
		return nil, errors.New("expected base64")
	}
	return b, nil
}

// authFailed answers a failed AUTH. The log has the reason, the peer has not.
func (d *dialogue) authFailed(mechanism, claimed string, cause error) error {
	d.log.Warn("authentication failed", "mechanism", mechanism, "claimed", foreign.Clip(claimed, maxShown), "error", cause)
	if errors.Is(cause, users.ErrBusy) || errors.Is(cause, context.Canceled) {
		d.reply(454, "too busy to check passwords, try again later")
		return nil
	}
	d.failures++
	if delay := d.srv.o.AuthDelay; delay > 0 {
		timer := time.NewTimer(delay)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-d.stop:
		}
	}
	if errors.Is(cause, users.ErrMalformed) || errors.Is(cause, users.ErrMechanism) {
		d.reply(501, "not a message of %s", mechanism)
	} else {
		d.reply(535, "wrong user or password")
	}
	if d.failures >= maxAuthFailures {
		return closing("too many failed authentications")
	}
	return nil
}

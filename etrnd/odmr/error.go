package odmr

import (
	"errors"
	"fmt"
)

// Kinds of failure, to be told apart with errors.Is. Every error of the client
// is an *Error and of one of these kinds, or context.Canceled.
var (
	ErrConnect  = errors.New("no connection")                   // nobody answers at the address
	ErrTimeout  = errors.New("timed out")                       // no answer in time
	ErrClosed   = errors.New("connection closed by the remote") // in the middle of the dialogue
	ErrRefused  = errors.New("refused by the remote")           // a reply code that says no to the session
	ErrTLS      = errors.New("no trusted TLS")                  // mode asks for more than there is
	ErrAuth     = errors.New("authentication failed")
	ErrNoETRN   = errors.New("the remote does not offer ETRN")
	ErrNoATRN   = errors.New("the remote does not offer ATRN")
	ErrProtocol = errors.New("the remote does not speak SMTP") // replies that cannot be read
)

// Error is a failure of the dialogue.
type Error struct {
	Kind error  // one of the kinds above
	Op   string // what was being done: "connect", "greeting", "EHLO", "STARTTLS", "AUTH", "ETRN", "ATRN"
	Code int    // the reply code, 0 when there was none
	Text string // the reply text, cut and made printable
	Err  error  // the cause, may be nil
}

// Error says what was being done, what went wrong, and what the remote said.
func (e *Error) Error() string {
	text := e.Op + ": " + e.Kind.Error()
	if e.Err != nil {
		text += ": " + e.Err.Error()
	}
	if e.Code != 0 {
		text += fmt.Sprintf(": it said %d %q", e.Code, e.Text)
	}
	return text
}

// Unwrap makes errors.Is see the kind and the cause.
func (e *Error) Unwrap() []error {
	if e.Err == nil {
		return []error{e.Kind}
	}
	return []error{e.Kind, e.Err}
}

// Temporary tells whether it is worth trying again without a change on either
// side (exit code 75 rather than 69).
func (e *Error) Temporary() bool {
	if e.Code != 0 {
		return e.Code/100 == 4
	}
	if clockIsWrong(e.Err) {
		return true // it will be set
	}
	switch e.Kind {
	case ErrTLS, ErrAuth, ErrNoETRN, ErrNoATRN, ErrProtocol:
		return false
	}
	return true
}

// Package api is the words in which etrnd and those who use it speak of
// queues, links and calls: how each stands, what became of it, and the exit
// code that a script sees. The daemon fills them in, package control carries
// them over its socket as JSON, and etrnctl prints them.
//
// It is data only. It decides nothing, and how the words travel is not its
// business.
package api

import (
	"encoding/json"
	"fmt"
	"math"
	"time"
)

// Exit codes of etrnctl, after sysexits(3).
const (
	ExitOK          = 0
	ExitUsage       = 64 // the command line is wrong, or names what does not exist
	ExitUnavailable = 69 // refused by the remote
	ExitTempFail    = 75 // try again
	ExitNoPerm      = 77 // not allowed to ask
	ExitConfig      = 78 // the configuration is bad, or lacks what is needed
)

// Error is an error as it reaches the user of etrnctl.
type Error struct {
	Message string   `json:"error"`
	Hint    string   `json:"hint,omitempty"`    // how to mend it
	Details []string `json:"details,omitempty"` // such as the problems of a configuration, one each
	Exit    int      `json:"exit"`              // one of the codes above, never 0
}

// Errorf makes an Error with a hint, which may be empty.
func Errorf(exit int, hint, format string, args ...any) *Error {
	return &Error{Exit: exit, Hint: hint, Message: fmt.Sprintf(format, args...)}
}

// Error is the message alone, without details and hint.
func (e *Error) Error() string { return e.Message }

// Status is how the daemon is.
type Status struct {
	Version  string       `json:"version"`
	PID      int          `json:"pid"`
	Hostname string       `json:"hostname"`
	Started  time.Time    `json:"started"`
	Uptime   Seconds      `json:"uptime_seconds"`
	Config   ConfigStatus `json:"config"`
	MTA      MTAStatus    `json:"mta"`
	Milter   MilterStatus `json:"milter"`
	Listen   []Listener   `json:"listeners"`
	Queues   QueueTotals  `json:"queues"`
	Nobody   Nobody       `json:"held_for_nobody"` // with the first domains
	Links    []Link       `json:"links"`
	Calls    []CallEvent  `json:"calls"` // under way, each with its latest event
	Warnings []string     `json:"warnings"`
}

// ConfigStatus is which configuration is in force.
type ConfigStatus struct {
	File   string    `json:"file"`
	Loaded time.Time `json:"loaded"`
	// Rejected is when a reload was last refused since then, and Problems
	// why.
	Rejected *time.Time `json:"rejected,omitempty"`
	Problems []string   `json:"problems,omitempty"`
	// Changed says that the file says something else by now, or cannot be read
	// any more.
	Changed bool `json:"changed,omitempty"`
	// Restart names the keys of it that were loaded and are not in force before a
	// restart.
	Restart []string `json:"restart,omitempty"`
}

// MTAStatus is whether the MTA can be asked.
type MTAStatus struct {
	Type  string `json:"type"`
	Error string `json:"error,omitempty"` // of the last attempt; empty: it answered
	// Reconciled is when the index of held mail was last compared with the
	// MTA's listing.
	Reconciled *time.Time `json:"reconciled"`
}

// MilterStatus is whether etrn-milter reports to the daemon.
type MilterStatus struct {
	Connected bool       `json:"connected"`
	Since     *time.Time `json:"since"`    // of the present connection, or of its loss; null: never seen
	Sessions  int        `json:"sessions"` // SMTP sessions open now, as the milter sees them
	// Differs says that it runs by another configuration than etrnd.
	Differs bool `json:"differs,omitempty"`
}

// Listener is a socket on which the daemon takes requests.
type Listener struct {
	Name    string `json:"name"` // policy, odmr, report, control
	Address string `json:"address"`
}

// QueueTotals sums up the queues. A message held in two is counted in each.
type QueueTotals struct {
	Queues   int        `json:"queues"`
	Messages int        `json:"messages"`
	Bytes    int64      `json:"bytes"`
	Oldest   *time.Time `json:"oldest"`
	UnderWay int        `json:"under_way"` // released, and neither gone nor back
	Waiting  int        `json:"waiting"`   // of these, those that wait for their turn
	OnHold   int        `json:"on_hold"`   // put on hold by an administrator
	// UnknownSince is since when it is not known how the queues are; see Queue.
	UnknownSince *time.Time `json:"unknown_since"`
}

// Queue is what is held under one name.
type Queue struct {
	Name     string     `json:"name"`
	Messages int        `json:"messages"`
	Bytes    int64      `json:"bytes"`
	Oldest   *time.Time `json:"oldest"` // null: empty
	// Open is whether new mail goes out at once, because it was asked for
	// lately or a link is up.
	Open      bool       `json:"open"`
	OpenUntil *time.Time `json:"open_until"`       // null: shut, or as long as a link is up
	UnderWay  int        `json:"under_way"`        // messages released, and neither gone nor back
	Waiting   int        `json:"waiting"`          // of these, those that wait for their turn
	Failed    int        `json:"failed"`           // messages tried and put back
	OnHold    int        `json:"on_hold"`          // messages put on hold by an administrator, which nothing releases
	Released  *time.Time `json:"released"`         // the last release
	Domains   []string   `json:"domains"`          // as in the configuration
	Deliver   string     `json:"deliver"`          // where to
	Remote    string     `json:"remote,omitempty"` // of the remote whose push it is
	// UnknownSince is when the MTA's queue could last be read, or when the daemon
	// started if it never could, as long as it cannot: the numbers are of then. Null:
	// they hold now.
	UnknownSince *time.Time `json:"unknown_since"`
}

// Released is what a release set going.
type Released struct {
	Queue    string `json:"queue"`
	Messages int    `json:"messages"`
	Bytes    int64  `json:"bytes"`
	// OnHold is how many messages stay because an administrator has put them on
	// hold.
	OnHold int `json:"on_hold"`
	// Note says what was not found, when nothing was released.
	Note string `json:"note,omitempty"`
}

// LinkEvent says that a link went up or down, by its name or by the name of
// a network interface. With both, the interface is only noted.
type LinkEvent struct {
	Link      string `json:"link,omitempty"`
	Interface string `json:"interface,omitempty"`
}

// Link is the state of a link.
type Link struct {
	Name      string     `json:"name"`
	State     LinkState  `json:"state"`
	Since     *time.Time `json:"since"`               // of this state; null: since the daemon started
	Interface string     `json:"interface,omitempty"` // that it came up with, if known
	Remotes   []string   `json:"remotes"`
}

// LinkState is the state of a link.
type LinkState string

// The states of a link.
const (
	LinkDown      LinkState = "down"
	LinkDialling  LinkState = "dialling"
	LinkUp        LinkState = "up"
	LinkHangingUp LinkState = "hanging-up"
)

// CallRef names a call.
type CallRef struct {
	Call   string `json:"call"` // an id, unique as long as the history goes back
	Remote string `json:"remote"`
	Link   string `json:"link"`
}

// CallEvent is how a call stands.
type CallEvent struct {
	CallRef
	Time  time.Time `json:"time"`
	Phase Phase     `json:"phase"`
	// Waiting is what is being waited for, as the end of the sentence
	// "waiting for ...": "the local SMTP listener 127.0.0.1:25 to answer",
	// "7 of 14 messages". Empty: nothing.
	Waiting string   `json:"waiting,omitempty"`
	Line    Seconds  `json:"line_seconds"` // line time used so far
	In      Progress `json:"in"`
	Out     Progress `json:"out"`
	Refused *Refused `json:"refused,omitempty"` // nil: nothing
	// Result is set in the last event of a call, and only there.
	Result *CallResult `json:"result,omitempty"`
}

// Phase is what a call is doing. Pushing and receiving overlap; the phase is
// then the one that is waited for.
type Phase string

// The phases of a call, in the order in which they come.
const (
	PhaseDialling   Phase = "dialling"
	PhaseMTA        Phase = "waiting-for-mta" // until the local SMTP listener answers
	PhaseConnecting Phase = "connecting"
	PhaseTLS        Phase = "starttls"
	PhaseAuth       Phase = "auth"
	PhaseRequest    Phase = "request"
	PhasePushing    Phase = "pushing"
	PhaseReceiving  Phase = "receiving"
	PhaseHangingUp  Phase = "hanging-up"
	PhaseDone       Phase = "done"
)

// Progress counts what has crossed the line one way.
type Progress struct {
	Messages int   `json:"messages"`
	Bytes    int64 `json:"bytes"`
	Expected int   `json:"expected"` // messages in all; -1: unknown
}

// CallResult is a call that has ended.
type CallResult struct {
	CallRef
	RouterType string    `json:"router_type"`
	Start      time.Time `json:"start"`
	End        time.Time `json:"end"`
	Line       Seconds   `json:"line_seconds"` // how long the line was used
	In         Progress  `json:"in"`
	Out        Progress  `json:"out"`
	// Duplicates are messages that had come before, in this call or an earlier one:
	// with the same Message-ID, for the same recipients. Most often the line was cut
	// when the remote had sent one and had not heard that it was taken; it may also
	// have been sent twice by its sender. They are counted in In too.
	Duplicates int `json:"duplicates"`
	// Unsent is what was tried and could not be sent; nil: nothing.
	Unsent *Unsent `json:"unsent,omitempty"`
	// OnHold is how many messages that would have gone out stay because an
	// administrator has put them on hold.
	OnHold  int      `json:"on_hold"`
	Refused *Refused `json:"refused,omitempty"` // nil: nothing
	// Unasked are names of request that were not asked for, since the local mail
	// server would refuse their mail.
	Unasked []string `json:"unasked,omitempty"`
	Replies []Reply  `json:"replies"`
	Error   string   `json:"error,omitempty"` // empty: all went well
	Hint    string   `json:"hint,omitempty"`
	Exit    int      `json:"exit"` // 0, 69, 75 or 78
}

// Unsent is what has not gone out although it was tried. It stays held.
type Unsent struct {
	Messages int    `json:"messages"`
	Reason   string `json:"reason"` // as the local mail server gives it, of the last one
}

// Refused is what the local mail server has refused of what came. A message that
// the remote has tried twice counts twice.
type Refused struct {
	Messages   int `json:"messages"`   // with all of their recipients
	Recipients int `json:"recipients"` // of others
	// Reply is its reply, the first of those that matter most: with the code where
	// it came over a turned connection (ATRN), without it where the milter has seen
	// it (ETRN).
	Reply string `json:"reply"`
	// Domains that the mail was for, at most five; none where that is not known
	// (ATRN).
	Domains []string `json:"domains,omitempty"`
}

// Reply is a remote's answer to the request for one name.
type Reply struct {
	Name  string `json:"name"`
	Code  int    `json:"code"`
	Text  string `json:"text"`
	Count int    `json:"count"` // messages announced; -1: unknown
}

// Seconds is a duration that stands in JSON as a number of seconds, with a
// resolution of a millisecond.
type Seconds time.Duration

// MarshalJSON writes seconds.
func (s Seconds) MarshalJSON() ([]byte, error) {
	return json.Marshal(float64(time.Duration(s).Milliseconds()) / 1000)
}

// UnmarshalJSON reads seconds.
func (s *Seconds) UnmarshalJSON(b []byte) error {
	var f float64
	if err := json.Unmarshal(b, &f); err != nil {
		return err
	}
	// Beyond this, float64 to int64 is undefined.
	if math.Abs(f) > math.MaxInt64/float64(time.Second)/2 {
		return fmt.Errorf("%g seconds is too long a time", f)
	}
	*s = Seconds(math.Round(f*1000)) * Seconds(time.Millisecond)
	return nil
}

package call

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/etrnd/etrnd/etrnd/odmr"
	"github.com/etrnd/etrnd/etrnd/receive"
	"github.com/etrnd/etrnd/internal/api"
	"github.com/etrnd/etrnd/internal/config"
)

// question is a dialogue with the remote, and what came of it.
type question struct {
	atrn    bool // it was put by ATRN
	before  int  // messages that had come when it was put
	seen    int  // messages and parts of messages, likewise
	loose   bool // the remote is none of ours, and may say that it has nothing while it sends
	took    time.Duration
	replies []odmr.Reply
	shut    []string // names that it was not put for, as the local MTA would refuse their mail
	err     error
	cut     bool // the call came to its end meanwhile, which explains err
}

// Why a remote is not asked, beside what odmr tells.
type (
	settingsError struct{ error } // a file that the configuration names cannot be used
	listenerError struct{ error } // the local MTA would not take what comes
	fullError     struct{ error } // it takes nothing for now
	doorError     struct{ error } // nor would it ever, as it is set up
)

// answers is what the answers to all questions say together. A name whose
// number was told keeps it until another is told; one that was put off (458) and
// taken later is taken.
type answers struct {
	made    bool     // mail may come
	counted bool     // all of it was counted
	total   int      // messages in all, if it was; else those that were
	pending string   // a reply that says that there is mail, and not how much; empty: none does
	busy    []string // names that were always put off, and for which nothing was done
	why     string   // the last reply that put one off
}

// nothing tells whether the remote has said that it has nothing.
func (a answers) nothing() bool { return a.made && a.counted && a.total == 0 }

// answers sums up the questions.
func (o *observed) answers() (a answers) {
	type latest struct {
		asked int // the question
		odmr.Reply
	}
	byName := map[string]latest{}
	var order []string
	for i := range o.questions {
		if q := &o.questions[i]; q.atrn && q.err != nil {
			continue // whatever it said, nothing was turned
		}
		for _, r := range o.questions[i].replies {
			last, before := byName[r.Name]
			if o.questions[i].atrn && r.Code == 453 {
				r.Code, r.Count = 251, 0 // the same, for all names
			}
			switch {
			case !before:
				order = append(order, r.Name)
			case o.questions[i].atrn, r.Code != 458 && !r.OK():
				continue // what is refused now was not when it was first asked for
			case r.Count < 0 && last.Count >= 0, r.Code == 250 && last.OK(), r.Code == 458:
				continue // it says less than the one before
			}
			byName[r.Name] = latest{i, r}
		}
	}
	a.counted = true
	busy, announced := []string{}, map[int]int{}
	for _, name := range order {
		r := byName[name]
		switch {
		case r.Code == 458:
			a.made = true
			busy = append(busy, name)
			a.why = r.Text
		case !r.OK():
			continue
		case r.Count < 0:
			a.made, a.counted = true, false
			if r.Code != 250 {
				a.pending = fmt.Sprintf("%d %s", r.Code, r.Text)
			}
		default:
			a.made = true
			announced[r.asked] += r.Count
		}
	}
	started := 0
	for i := range o.questions {
		if n, ok := announced[i]; ok {
			a.total = max(a.total, o.questions[i].before) + n
			started += n
		}
	}
	// A name that is put off is most often another name of what has just been
	// released and counted. Only where nothing was counted does it say something
	// of its own.
	if len(busy) > 0 && started == 0 {
		a.counted, a.busy = false, busy
	}
	a.counted = a.counted && a.made
	return a
}

// least is how many messages there are at least, by what the remote has said.
func (a answers) least() int {
	if a.pending != "" {
		return max(a.total, 1)
	}
	return a.total
}

// putOff tells whether the remote did nothing about the question.
func (q *question) putOff() bool {
	return len(q.replies) > 0 && !slices.ContainsFunc(q.replies, func(r odmr.Reply) bool { return r.Code != 458 })
}

// refusedAgain tells whether a remote that has sent its mail over one turned
// connection just wants to be asked less often (450, RFC 2645, section 5.2.1).
func (q *question) refusedAgain() bool {
	e, ok := errors.AsType[*odmr.Error](q.err)
	return ok && q.atrn && e.Code == 450
}

// doorWasClosed tells whether the call ended because the local MTA did not
// answer.
func (cl *call) doorWasClosed() bool {
	if cl.stopped || len(cl.questions) == 0 {
		return cl.stopped
	}
	last := &cl.questions[len(cl.questions)-1]
	_, closed := last.err.(listenerError)
	return closed && !last.cut
}

// accepted tells what the answers promise: that mail may come, whether all of
// it was counted (251, 253), and if so how many messages.
func (q *question) accepted() (made, counted bool, announced int) {
	if q.atrn {
		if q.err != nil || len(q.replies) == 0 {
			return false, false, 0
		}
		// 453: there is nothing. After 250 the remote says QUIT when it has
		// no more, without a count.
		return true, q.replies[0].Code == 453, 0
	}
	counted = true
	busy := false
	for _, r := range q.replies {
		switch r.Code {
		case 250, 252:
			made, counted = true, false
		case 251:
			made = true
		case 253:
			made = true
			if r.Count < 0 {
				counted = false
			} else {
				announced += r.Count
			}
		case 458:
			// The release is under way: mail may come, how much is not said.
			made, busy = true, true
		}
	}
	// A name that is under way is most often another name of what has just
	// been released and counted. Only where nothing was counted does it say
	// that mail of an unknown number is coming.
	if busy && announced == 0 {
		counted = false
	}
	return made, counted && made, announced
}

// refused is the conclusion when names were refused.
func (q *question) refused(r *config.Remote) conclusion {
	n, why, hint := 0, "", ""
	for _, reply := range q.replies {
		switch reply.Code {
		case 250, 251, 252, 253, 458:
		default:
			n++
			hint = "the other side has to list this host (its network, its user or its certificate) for the queue"
			if reply.Code == 501 || reply.Code == 553 { // RFC 1985, section 5.1: it is no name
				hint = "it takes no such name: some servers take domains only, others only #queue"
			}
			why = fmt.Sprintf("%s: %d %s", reply.Name, reply.Code, reply.Text)
		}
	}
	switch n {
	case 0:
		return conclusion{}
	case len(q.replies):
		return conclusion{api.ExitUnavailable, fmt.Sprintf("%s refused every name: %s", r.Name, why), hint}
	}
	return conclusion{api.ExitUnavailable, fmt.Sprintf("%s refused %d of %d names: %s", r.Name, n, len(q.replies), why), "take the name out of request, or have the other side allow it"}
}

// failed is the conclusion when a dialogue did not come to its end.
func (q *question) failed(r *config.Remote) conclusion {
	switch q.err.(type) {
	case settingsError:
		return conclusion{api.ExitConfig, q.err.Error(), ""}
	case listenerError:
		return conclusion{api.ExitTempFail, q.err.Error(), "is the local mail server running? nothing was requested, since its mail would have found the door closed; " + r.Name + " is called again when it answers, if the line is still up then"}
	case fullError:
		return conclusion{api.ExitTempFail, q.err.Error(), "has its disk room? its log tells why; nothing more was requested, and the next call asks again"}
	case doorError:
		return conclusion{api.ExitUnavailable, q.err.Error(), receive.GateHint + "; nothing was requested"}
	case shutError:
		return conclusion{api.ExitUnavailable, q.err.Error(), shutHint + "; nothing was requested"}
	}
	exit, hint, code, login := api.ExitUnavailable, "", 0, false
	if e, ok := errors.AsType[*odmr.Error](q.err); ok {
		if e.Temporary() {
			exit = api.ExitTempFail
		}
		if e.Op == "ATRN" {
			code = e.Code
		}
		// RFC 4954, section 6: who asks has to log in, or by something stronger.
		login = (e.Code == 530 || e.Code == 538) && !strings.HasPrefix(e.Op, "AUTH")
	}
	if hint, wrong := clockHint(q.err); wrong {
		return conclusion{api.ExitTempFail, "request to " + r.Name + ": " + q.err.Error(), hint}
	}
	switch is := func(kind error) bool { return errors.Is(q.err, kind) }; {
	case is(odmr.ErrNoATRN):
		hint = fmt.Sprintf("write protocol = \"etrn\" or \"auto\" if %s is to connect to this host instead, or ask its postmaster which port takes ATRN (etrnctl probe shows what it offers)", r.Host)
	case code == 450:
		// "Try again" would be of no use: nothing changes until somebody
		// changes it.
		exit, hint = api.ExitUnavailable, fmt.Sprintf("%s sends nothing when a single domain of request is not user %q's there (take it out, or have the other side add it), nor while another connection of that user is open", r.Host, r.User)
	case code == 451:
		hint = r.Host + " cannot tell now what it has; the next call asks again"
	case code == 530:
		hint = "set user and password-file: ATRN is for users who have authenticated"
	case login && r.User == "" && strings.Contains(strings.ToUpper(q.err.Error()), "STARTTLS"):
		hint = r.Host + ` wants TLS before it is asked: does it offer STARTTLS (etrnctl probe), and is tls "off" here?`
	case login && r.User == "":
		hint = "set user and password-file: " + r.Host + " is asked by users who have authenticated"
	case login:
		hint = fmt.Sprintf("%s wants more than the login of user %q as it was: TLS (tls), or another mechanism (etrnctl probe shows what it offers)", r.Host, r.User)
	case is(odmr.ErrNoETRN):
		hint = fmt.Sprintf("%s cannot be asked for mail on port %d: ask its postmaster which port takes ETRN (etrnctl probe shows what it offers)", r.Host, r.Port)
	case is(odmr.ErrConnect):
		exit, hint = api.ExitTempFail, "is the link up, are the remote's name and port right, and does every firewall on the way let it through? etrnctl probe "+r.Name
	case is(odmr.ErrTimeout):
		exit, hint = api.ExitTempFail, fmt.Sprintf("%s has gone quiet; request-timeout is %v", r.Host, r.RequestTimeout)
	case is(odmr.ErrClosed):
		exit, hint = api.ExitTempFail, r.Host+" may be overloaded or may not know this address: its log tells why"
	case is(odmr.ErrTLS):
		hint = tlsHint(q.err)
	case is(odmr.ErrAuth) && unfit(q.err):
		hint = "no login that both sides know is fit for this connection: a certificate that is trusted (tls-ca, tls-name) makes PLAIN fit, and SCRAM-SHA-256 always is; etrnctl probe shows what it offers"
		if !r.CRAMMD5 {
			hint += "; cram-md5 = true allows CRAM-MD5, too"
		}
	case is(odmr.ErrAuth):
		hint = "check user and password-file"
	case is(odmr.ErrRefused):
		hint = r.Host + " does not want to speak to this host now: its log tells why"
	}
	return conclusion{exit, "request to " + r.Name + ": " + q.err.Error(), hint}
}

package call

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/etrnd/etrnd/etrnd/hold"
	"github.com/etrnd/etrnd/etrnd/odmr"
	"github.com/etrnd/etrnd/etrnd/receive"
	"github.com/etrnd/etrnd/internal/api"
	"github.com/etrnd/etrnd/internal/config"
	"github.com/etrnd/etrnd/internal/socket"
)

const (
	ms  = time.Millisecond
	sec = time.Second
)

// hub is a remote with round settings.
func hub(t config.RouterType) *config.Remote {
	return &config.Remote{
		Name: "hub", Host: "hub.example.net", Port: 366, User: "acme", RouterType: t,
		Request: []string{"#acme"}, PushQueues: []string{"out"},
		Wait: 60 * sec, Idle: 5 * sec, RequestTimeout: 30 * sec,
	}
}

// etrn is a dialogue with these replies: "253:3" is 253 with a count of 3.
func etrn(replies ...string) question {
	var q question
	for i, text := range replies {
		r := odmr.Reply{Name: fmt.Sprintf("n%d", i+1), Text: "said", Count: -1}
		fmt.Sscanf(text, "%d:%d", &r.Code, &r.Count)
		q.replies = append(q.replies, r)
	}
	return q
}

func atrn(replies ...string) question {
	q := etrn(replies...)
	q.atrn = true
	return q
}

func (q question) with(err error) question {
	q.err = err
	return q
}

func (q question) whenCame(n int) question {
	q.before, q.seen = n, n
	return q
}

// whenSeen is a question put when n messages had come, in all parts.
func (q question) whenSeen(n, all int) question {
	q.before, q.seen = n, all
	return q
}

func (q question) whichTook(d time.Duration) question {
	q.took = d
	return q
}

func (q question) whenCut() question {
	q.cut = true
	return q
}

// ends is what a row expects of a conclusion: the code, all of the error, and a
// piece of the hint.
type ends struct {
	exit      int
	err, hint string
}

func (want ends) check(t *testing.T, got conclusion) {
	t.Helper()
	if got.exit != want.exit || got.err != want.err || !strings.Contains(got.hint, want.hint) || want.hint == "" && got.hint != "" {
		t.Errorf("conclusion %+v\nwant       %+v", got, want)
	}
}

// What the answers promise: that mail may come, whether all of it is counted,
// and how much.
func TestAccepted(t *testing.T) {
	broken := errors.New("broken")
	for _, c := range []struct {
		name          string
		q             question
		made, counted bool
		announced     int
	}{
		{"nothing was answered", etrn(), false, false, 0},
		{"250: queueing started, no count", etrn("250"), true, false, 0},
		{"252: pending, no count", etrn("252"), true, false, 0},
		{"251: nothing waits", etrn("251:0"), true, true, 0},
		{"253 with a count", etrn("253:7"), true, true, 7},
		{"253 of nothing", etrn("253:0"), true, true, 0},
		{"253 whose count could not be read", etrn("253"), true, false, 0},
		{"counts of several names add up", etrn("253:7", "251:0", "253:2"), true, true, 9},
		{"one without a count spoils it", etrn("253:7", "250"), true, false, 7},
		{"and so it does in the other order", etrn("252", "253:7"), true, false, 7},
		{"a count that cannot be read spoils the others", etrn("253:7", "253"), true, false, 7},
		{"refused: nothing will come", etrn("459"), false, false, 0},
		{"one of two refused: the other counts", etrn("459", "253:7"), true, true, 7},
		{"458: the release is under way, and nobody says how much", etrn("458"), true, false, 0},
		{"458 beside a count is another name of the same queue", etrn("253:7", "458"), true, true, 7},
		{"in the other order too", etrn("458", "253:7"), true, true, 7},
		{"458 beside 251: something is under way that was not counted", etrn("251:0", "458"), true, false, 0},
		{"458 beside a refusal", etrn("458", "459"), true, false, 0},
		{"cut off after the first answer: that one holds", etrn("253:7").with(broken), true, true, 7},
		{"453 is no answer to ETRN (RFC 1985)", etrn("453"), false, false, 0},
		{"ATRN 250: mail comes until QUIT", atrn("250"), true, false, 0},
		{"ATRN 453: there is none", atrn("453:0"), true, true, 0},
		{"ATRN refused", atrn("450").with(broken), false, false, 0},
		{"ATRN 250, and then it misbehaves", atrn("250").with(broken), false, false, 0},
		{"ATRN without an answer", atrn().with(broken), false, false, 0},
		{"ATRN without an answer or a reason", atrn(), false, false, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			made, counted, announced := c.q.accepted()
			if made != c.made || counted != c.counted || announced != c.announced {
				t.Errorf("made %t, counted %t, announced %d; want %t, %t, %d", made, counted, announced, c.made, c.counted, c.announced)
			}
		})
	}
}

// How many messages are expected in all.
func TestExpected(t *testing.T) {
	for _, c := range []struct {
		name string
		o    observed
		want int
	}{
		{"not asked", observed{}, -1},
		{"no count", observed{questions: []question{etrn("250")}}, -1},
		{"a count", observed{questions: []question{etrn("253:3")}}, 3},
		{"nothing waits", observed{questions: []question{etrn("251:0")}}, 0},
		{"two had come before it was asked", observed{questions: []question{etrn("253:3").whenCame(2)}}, 5},
		{"asked again, the answer is newer", observed{questions: []question{etrn("253:3"), etrn("253:1").whenCame(2)}}, 3},
		{"asked again, and it has found more", observed{questions: []question{etrn("253:3"), etrn("253:4").whenCame(2)}}, 6},
		{"asked again, without a count: the first holds", observed{questions: []question{etrn("253:3"), etrn("458")}}, 3},
		{"asked again, and refused: the first holds", observed{questions: []question{etrn("253:3"), etrn("459")}}, 3},
		{"turned, and under way", observed{questions: []question{atrn("250")}, in: Counts{Messages: 4}, turned: &turnedSeen{}}, -1},
		{"turned, and the remote has said QUIT: that was all", observed{questions: []question{atrn("250")}, in: Counts{Messages: 4}, turned: &turnedSeen{over: true}}, 4},
		{"turned, and broken: nobody knows", observed{questions: []question{atrn("250")}, in: Counts{Messages: 4}, turned: &turnedSeen{over: true, err: receive.ErrClosed}}, -1},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := c.o.expected(); got != c.want {
				t.Errorf("expected %d, want %d", got, c.want)
			}
		})
	}
}

// What the dialogue with the remote alone says about the end of the call.
func TestRequest(t *testing.T) {
	fail := func(kind error, op string, code int) error {
		return &odmr.Error{Kind: kind, Op: op, Code: code, Text: "said"}
	}
	for _, c := range []struct {
		name string
		qs   []question
		want ends
	}{
		{"not asked", nil, ends{}},
		{"accepted", []question{etrn("250", "251:0", "252", "253:1", "458")}, ends{}},
		{"the only name refused", []question{etrn("459")}, ends{69, "hub refused every name: n1: 459 said", "has to list this host"}},
		{"all names refused: the last one is quoted", []question{etrn("459", "550")}, ends{69, "hub refused every name: n2: 550 said", "has to list this host"}},
		{"a name that is none", []question{etrn("501")}, ends{69, "hub refused every name: n1: 501 said", "it takes no such name"}},
		{"some names refused", []question{etrn("459", "250")}, ends{69, "hub refused 1 of 2 names: n1: 459 said", "take the name out"}},
		{"a name that is under way is not the refused one", []question{etrn("459", "458")}, ends{69, "hub refused 1 of 2 names: n1: 459 said", "take the name out"}},
		{"asked again and refused then: it was answered before", []question{etrn("253:3"), etrn("459")}, ends{}},
		{"the first question tells before the second", []question{etrn("459", "253:1"), etrn().with(fail(odmr.ErrConnect, "connect", 0))}, ends{69, "hub refused 1 of 2 names: n1: 459 said", "take the name out"}},
		{"asked again, and nobody is there", []question{etrn("253:3"), etrn().with(fail(odmr.ErrConnect, "connect", 0))}, ends{75, "request to hub: connect: no connection", "is the link up"}},
		{"asked again twice, and the last time in vain", []question{etrn("253:3"), etrn("253:1"), etrn().with(fail(odmr.ErrClosed, "greeting", 0))}, ends{75, "request to hub: greeting: connection closed by the remote", "overloaded"}},
		{"the end of the call explains it", []question{etrn().with(fail(odmr.ErrClosed, "EHLO", 0)).whenCut()}, ends{}},
		{"cut off behind a refusal: neither is told", []question{etrn("459").with(fail(odmr.ErrClosed, "ETRN", 0)).whenCut()}, ends{}},
		{"broken behind a refusal: what broke is told", []question{etrn("459").with(fail(odmr.ErrClosed, "ETRN n2", 0))}, ends{75, "request to hub: ETRN n2: connection closed by the remote", "overloaded"}},

		{"a file of the configuration", []question{etrn().with(settingsError{errors.New("tls-ca: no such file")})}, ends{78, "tls-ca: no such file", ""}},
		{"the local mail server", []question{etrn().with(listenerError{errors.New("127.0.0.1:25 does not answer")})}, ends{75, "127.0.0.1:25 does not answer", "is the local mail server running?"}},
		{"the local mail server, at the end of the call", []question{etrn().with(listenerError{errors.New("x")}).whenCut()}, ends{}},

		{"nobody answers", []question{etrn().with(fail(odmr.ErrConnect, "connect", 0))}, ends{75, "request to hub: connect: no connection", "etrnctl probe hub"}},
		{"it goes quiet", []question{etrn().with(fail(odmr.ErrTimeout, "greeting", 0))}, ends{75, "request to hub: greeting: timed out", "has gone quiet; request-timeout is 30s"}},
		{"it closes", []question{etrn().with(fail(odmr.ErrClosed, "EHLO", 0))}, ends{75, "request to hub: EHLO: connection closed by the remote", "overloaded"}},
		{"no ETRN there", []question{etrn().with(fail(odmr.ErrNoETRN, "ETRN n1", 502))}, ends{69, `request to hub: ETRN n1: the remote does not offer ETRN: it said 502 "said"`, "on port 366"}},
		{"no TLS that can be trusted", []question{etrn().with(fail(odmr.ErrTLS, "STARTTLS", 0))}, ends{69, "request to hub: STARTTLS: no trusted TLS", "tls-ca"}},
		{"TLS not now", []question{etrn().with(fail(odmr.ErrTLS, "STARTTLS", 454))}, ends{75, `request to hub: STARTTLS: no trusted TLS: it said 454 "said"`, "tls-ca"}},
		{"a wrong password", []question{etrn().with(fail(odmr.ErrAuth, "AUTH PLAIN", 535))}, ends{69, `request to hub: AUTH PLAIN: authentication failed: it said 535 "said"`, "check user and password-file"}},
		{"refused for now", []question{etrn().with(fail(odmr.ErrRefused, "greeting", 421))}, ends{75, `request to hub: greeting: refused by the remote: it said 421 "said"`, "does not want to speak"}},
		{"refused for good", []question{etrn().with(fail(odmr.ErrRefused, "greeting", 554))}, ends{69, `request to hub: greeting: refused by the remote: it said 554 "said"`, "does not want to speak"}},
		{"no SMTP", []question{etrn().with(fail(odmr.ErrProtocol, "greeting", 0))}, ends{69, "request to hub: greeting: the remote does not speak SMTP", ""}},
		{"an error of another kind", []question{etrn().with(errors.New("strange"))}, ends{69, "request to hub: strange", ""}},

		{"no ATRN there", []question{atrn("502").with(fail(odmr.ErrNoATRN, "ATRN", 502))}, ends{69, `request to hub: ATRN: the remote does not offer ATRN: it said 502 "said"`, `protocol = "etrn"`}},
		{"450: nothing changes until somebody changes it", []question{atrn("450").with(fail(odmr.ErrRefused, "ATRN", 450))}, ends{69, `request to hub: ATRN: refused by the remote: it said 450 "said"`, `not user "acme"'s there`}},
		{"451: it cannot tell now", []question{atrn("451").with(fail(odmr.ErrRefused, "ATRN", 451))}, ends{75, `request to hub: ATRN: refused by the remote: it said 451 "said"`, "the next call asks again"}},
		{"530: who are you?", []question{atrn("530").with(fail(odmr.ErrRefused, "ATRN", 530))}, ends{69, `request to hub: ATRN: refused by the remote: it said 530 "said"`, "set user and password-file"}},
		{"530 to ETRN", []question{etrn().with(fail(odmr.ErrRefused, "ETRN n1", 530))}, ends{69, `request to hub: ETRN n1: refused by the remote: it said 530 "said"`, `more than the login of user "acme"`}},
		{"the TLS of it is broken", []question{etrn().with(&odmr.Error{Kind: odmr.ErrTLS, Op: "TLS handshake", Err: errors.New("remote error: tls: handshake failure")})}, ends{69, "request to hub: TLS handshake: no trusted TLS: remote error: tls: handshake failure", "no cipher, no key exchange"}},
		{"450 to something else than ATRN", []question{etrn().with(fail(odmr.ErrRefused, "EHLO", 450))}, ends{75, `request to hub: EHLO: refused by the remote: it said 450 "said"`, "does not want to speak"}},
		{"ATRN accepted", []question{atrn("250")}, ends{}},
		{"ATRN: nothing there is no refusal", []question{atrn("453:0")}, ends{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := observed{remote: hub(config.PullOnly), questions: c.qs}
			c.want.check(t, o.request())
		})
	}
}

// in is inbound as the milter sees it.
func in(messages, open, busy int) Counts {
	return Counts{Connected: true, Messages: messages, Seen: messages, Open: open, Busy: busy, Any: messages+open > 0}
}

func unseen(c Counts) Counts {
	c.Connected = false
	return c
}

func wide(c Counts) Counts {
	c.Wide = true
	return c
}

func coming(c Counts, n int64) Counts {
	c.Coming = n
	return c
}

func parts(c Counts, n int) Counts {
	c.Parts = n
	c.Seen += n
	return c
}

func blind(c Counts) Counts {
	c.Blind = true
	return c
}

// want is what a row expects of a verdict on one direction.
type want struct {
	over    bool
	ask     bool
	waiting string
	look    time.Duration
	ends
}

func (w want) check(t *testing.T, got verdict) {
	t.Helper()
	if got.over != w.over || got.ask != w.ask || got.waiting != w.waiting || got.look != w.look {
		t.Errorf("verdict %+v\nwant    %+v", got, w)
	}
	w.ends.check(t, got.conclusion)
}

// Whether mail is still coming, when the remote connects to this host.
func TestInbound(t *testing.T) {
	one, two, unknown := []question{etrn("253:1")}, []question{etrn("253:2")}, []question{etrn("250")}
	busy := []question{etrn("458")}
	wait := ends{75, "1 of 2 messages have come, and no more within wait = 1m0s", "can hub.example.net reach this host's port 25? its log"}
	some := []question{etrn("252")}
	none := ends{75, "hub has said that it has mail, and not how much (252 said), and none has come within wait = 1m0s", "can hub.example.net reach this host's port 25? its log"}
	blindly := ends{75, "nobody could see whether mail came: etrn-milter did not report, so the line was kept for wait = 1m0s", "start etrn-milter"}
	for _, c := range []struct {
		name  string
		qs    []question
		in    Counts
		quiet time.Duration
		want  want
	}{
		{"not asked", nil, in(0, 0, 0), 0, want{over: true}},
		{"asked in vain", []question{etrn("459")}, in(0, 0, 0), 0, want{over: true}},
		{"asked in vain, and something comes all the same", []question{etrn("459")}, in(0, 1, 1), 0, want{over: true}},
		{"ATRN, and it misbehaves after 250", []question{atrn("250").with(odmr.ErrProtocol)}, in(0, 0, 0), 0, want{over: true}},
		{"ATRN refused", []question{atrn("450").with(odmr.ErrRefused)}, in(0, 0, 0), 0, want{over: true}},
		{"ATRN: there is none", []question{atrn("453:0")}, in(0, 0, 0), 0, want{over: true}},
		{"asked again in vain: what was accepted first holds", []question{etrn("253:2"), etrn().with(odmr.ErrConnect)}, in(1, 0, 1), 0, want{waiting: "1 message coming in; 1 of 2 messages have come"}},

		// 251.
		{"nothing waits there", []question{etrn("251:0")}, in(0, 0, 0), 0, want{over: true}},
		{"nothing waits there, and a session is open", []question{etrn("251:0")}, in(0, 1, 0), 0, want{over: true}},
		{"nothing waits there, and a message is coming in", []question{etrn("251:0")}, in(0, 1, 1), 0, want{waiting: "1 message coming in; 0 of 0 messages have come"}},
		{"nothing waits there: no milter is needed to see that", []question{etrn("251:0")}, unseen(in(0, 0, 0)), 0, want{over: true}},

		// No milter: only time can tell.
		{"unseen", one, unseen(in(0, 0, 0)), 0, want{waiting: "mail to come in, unseen: etrn-milter does not report", look: 60 * sec}},
		{"unseen, nearly for too long", one, unseen(in(0, 0, 0)), 60*sec - 1, want{waiting: "mail to come in, unseen: etrn-milter does not report", look: 1}},
		{"unseen for too long", one, unseen(in(0, 0, 0)), 60 * sec, want{over: true, ends: blindly}},
		{"all has come, but then the milter went: something may follow", one, unseen(in(1, 0, 0)), 10 * sec, want{waiting: "mail to come in, unseen: etrn-milter does not report", look: 50 * sec}},
		{"busy when the milter went", one, unseen(in(0, 1, 1)), 0, want{waiting: "mail to come in, unseen: etrn-milter does not report", look: 60 * sec}},

		// Never in the middle of a message, however long it takes.
		{"a message is coming in", two, in(1, 1, 1), 0, want{waiting: "1 message coming in; 1 of 2 messages have come"}},
		{"a long message", two, in(1, 1, 1), time.Hour, want{waiting: "1 message coming in; 1 of 2 messages have come"}},
		{"more than announced", one, in(2, 1, 2), time.Hour, want{waiting: "2 messages coming in; 2 of 1 message has come"}},
		{"a message whose size was told", two, coming(in(1, 1, 1), 299600), 0, want{waiting: "1 message of 300 kB coming in; 1 of 2 messages have come"}},
		{"a long message, nothing announced", unknown, in(0, 1, 1), time.Hour, want{waiting: "1 message coming in; 0 messages have come"}},

		// All has come.
		{"the last one has just come", one, in(1, 0, 0), 0, want{waiting: "the last message to settle", look: settle}},
		{"it has nearly settled", one, in(1, 0, 0), settle - 1, want{waiting: "the last message to settle", look: 1}},
		{"it has settled", one, in(1, 0, 0), settle, want{over: true}},
		{"more than announced, settled: is that all?", one, in(2, 0, 0), settle, want{ask: true, waiting: "the remote to say that this was all"}},
		{"more than announced, and that was all", []question{etrn("253:1"), etrn("251:0").whenCame(2)}, in(2, 0, 0), settle, want{over: true}},
		{"251, and something came after that", []question{etrn("251:0")}, in(1, 0, 0), settle, want{ask: true, waiting: "the remote to say that this was all"}},
		{"251 twice, and nothing came after that", []question{etrn("251:0"), etrn("251:0").whenCame(1)}, in(1, 0, 0), settle, want{over: true}},
		{"settled, but a session is open: it may be a part of a message", one, in(1, 1, 0), settle, want{waiting: "the last message to settle", look: settleOpen - settle}},
		{"settled with an open session", one, in(1, 1, 0), settleOpen, want{over: true}},

		// Fewer than announced, and nothing is coming.
		{"nothing yet: the remote may need a while to connect", two, in(0, 0, 0), 4 * sec, want{waiting: "mail to come in; 0 of 2 messages have come", look: sec}},
		{"nothing yet: it may have tried in vain", two, in(0, 0, 0), 5 * sec, want{ask: true, waiting: "the remote to say what it still has"}},
		{"nothing for wait", two, in(0, 0, 0), 60 * sec, want{over: true, ends: ends{75, "0 of 2 messages have come, and no more within wait = 1m0s", "can hub.example.net reach this host's port 25? its log"}}},
		{"sessions, and no message in them", two, Counts{Connected: true, Any: true}, 60 * sec, want{over: true, ends: ends{75, "0 of 2 messages have come, and no more within wait = 1m0s", "hub.example.net connects, but no message was taken from it"}}},
		{"some, a moment ago", two, in(1, 0, 0), 1 * sec, want{waiting: "mail to come in; 1 of 2 messages have come", look: 4 * sec}},
		{"some, nearly idle", two, in(1, 0, 0), 5*sec - 1, want{waiting: "mail to come in; 1 of 2 messages have come", look: 1}},
		{"some, and idle: ask", two, in(1, 0, 0), 5 * sec, want{ask: true, waiting: "the remote to say what it still has"}},
		{"idle, with an open session: twice the time", two, in(1, 1, 0), 5 * sec, want{waiting: "mail to come in; 1 of 2 messages have come", look: 5 * sec}},
		{"idle for twice the time", two, in(1, 1, 0), 10 * sec, want{ask: true, waiting: "the remote to say what it still has"}},
		{"a session was seen that brought nothing: ask", two, Counts{Connected: true, Any: true}, 5 * sec, want{ask: true, waiting: "the remote to say what it still has"}},
		{"idle, but sessions may go on unseen", two, blind(in(1, 0, 0)), 5 * sec, want{waiting: "mail to come in; 1 of 2 messages have come", look: 55 * sec}},
		{"asked again since, in vain: twice the time", []question{etrn("253:3"), etrn("253:2").whenCame(1), etrn("253:2").whenCame(1)}, in(1, 0, 0), 9 * sec, want{waiting: "mail to come in; 1 of 3 messages have come", look: sec}},
		{"after twice the time: once more", []question{etrn("253:3"), etrn("253:2").whenCame(1), etrn("253:2").whenCame(1)}, in(1, 0, 0), 10 * sec, want{ask: true, waiting: "the remote to say what it still has"}},
		{"asked often, but something has come each time", []question{etrn("253:9"), etrn("253:8").whenCame(1), etrn("253:7").whenCame(2)}, in(3, 0, 0), 5 * sec, want{ask: true, waiting: "the remote to say what it still has"}},
		{"just before the end of wait", []question{etrn("253:3"), etrn("253:2").whenCame(1).whichTook(2 * sec)}, in(1, 0, 0), 60*sec - 100*ms, want{waiting: "mail to come in; 1 of 3 messages have come", look: 100 * ms}},
		{"the end of wait", []question{etrn("253:2"), etrn("458"), etrn("458"), etrn("458")}, in(1, 0, 0), 60 * sec, want{over: true, ends: wait}},
		{"the end of wait, and nothing was ever seen", two, in(0, 0, 0), 61 * sec, want{over: true, ends: ends{75, "0 of 2 messages have come, and no more within wait = 1m0s", "can hub.example.net reach this host's port 25? its log"}}},

		// No count.
		{"nothing yet", unknown, in(0, 0, 0), 4 * sec, want{waiting: "mail to begin to come in", look: 1 * sec}},
		{"nothing yet: it may have tried in vain (no count)", unknown, in(0, 0, 0), 5 * sec, want{ask: true, waiting: "the remote to say what it still has"}},
		{"nothing came: nobody said that there was something", unknown, in(0, 0, 0), 60 * sec, want{over: true}},

		// It has said that there is something, and not how much.
		{"252, and nothing yet", some, in(0, 0, 0), 4 * sec, want{waiting: "mail to come in; 0 messages have come", look: 1 * sec}},
		{"252, and nothing came", some, in(0, 0, 0), 60 * sec, want{over: true, ends: none}},
		{"253 that cannot be read, and nothing came", []question{etrn("253")}, in(0, 0, 0), 60 * sec, want{over: true, ends: ends{75, "hub has said that it has mail, and not how much (253 said), and none has come within wait = 1m0s", "can hub.example.net reach this host's port 25? its log"}}},
		{"252, and sessions without a message", some, Counts{Connected: true, Any: true}, 60 * sec, want{over: true, ends: ends{75, none.err, "hub.example.net connects, but no message was taken from it"}}},
		{"252, and sessions without a message: ask", some, Counts{Connected: true, Any: true}, 5 * sec, want{ask: true, waiting: "the remote to say what it still has"}},
		{"252 for one of two names, and nothing came", []question{etrn("252", "250")}, in(0, 0, 0), 60 * sec, want{over: true, ends: none}},
		{"252, and then 250, which says less", []question{etrn("252"), etrn("250")}, in(0, 0, 0), 60 * sec, want{over: true, ends: none}},
		{"252, and then 251: it has gone", []question{etrn("252"), etrn("251:0")}, in(0, 0, 0), 5 * sec, want{over: true}},
		{"252, and something came", some, in(1, 0, 0), 5 * sec, want{over: true}},
		{"a number beside 252, and fewer came", []question{etrn("253:3", "252")}, in(2, 0, 0), 5 * sec, want{ask: true, waiting: "the remote to say what it still has"}},
		{"a number beside 252, and fewer came, and no more", []question{etrn("253:3", "252")}, in(2, 0, 0), 60 * sec, want{over: true, ends: ends{75, "2 messages have come of at least 3, and no more within wait = 1m0s", "can hub.example.net reach this host's port 25? its log"}}},
		{"a number beside 252, and as many came", []question{etrn("253:3", "252")}, in(3, 0, 0), 5 * sec, want{over: true}},
		{"something, a moment ago", unknown, in(1, 0, 0), 2 * sec, want{waiting: "more mail to come in; 1 message has come", look: 3 * sec}},
		{"idle: that was it", unknown, in(2, 0, 0), 5 * sec, want{over: true}},
		{"idle, with an open session", unknown, in(2, 1, 0), 5 * sec, want{waiting: "more mail to come in; 2 messages have come", look: 5 * sec}},
		{"idle for twice the time: that was it", unknown, in(2, 1, 0), 10 * sec, want{over: true}},
		{"idle, but sessions may go on unseen", unknown, blind(in(2, 0, 0)), 10 * sec, want{waiting: "more mail to come in; 2 messages have come", look: 50 * sec}},
		{"and not for ever", unknown, blind(in(2, 0, 0)), 60 * sec, want{over: true}},

		// Put off (458).
		{"put off: a moment", busy, in(0, 0, 0), sec, want{waiting: "hub to take a request for n1 (458)", look: sec}},
		{"put off: ask again", busy, in(0, 0, 0), 2 * sec, want{ask: true, waiting: "hub to take a request for n1 (458)"}},
		{"put off twice: twice the time", []question{etrn("458"), etrn("458")}, in(0, 0, 0), 3 * sec, want{waiting: "hub to take a request for n1 (458)", look: sec}},
		{"put off for ever", []question{etrn("458"), etrn("458")}, in(0, 0, 0), 60 * sec, want{over: true, ends: ends{75, "hub took no request for n1 within wait = 1m0s: 458 said", "the next call asks again"}}},
		{"put off, and no more", []question{etrn("458"), etrn("251:0")}, in(0, 0, 0), 0, want{over: true}},
		{"put off, and then a count", []question{etrn("458"), etrn("253:1")}, in(1, 0, 0), settle, want{over: true}},
		{"one of two put off, the other has nothing", []question{etrn("251:0", "458")}, in(0, 0, 0), 2 * sec, want{ask: true, waiting: "hub to take a request for n2 (458)"}},
		{"one of two put off: the other was counted, it is one queue", []question{etrn("253:1", "458")}, in(1, 0, 0), settle, want{over: true}},
		{"put off, and mail comes", busy, in(1, 1, 1), sec, want{waiting: "1 message coming in; 1 message has come"}},

		// The local MTA had no room when the remote was to be asked again.
		{"no room", []question{etrn("253:2"), etrn().with(fullError{errors.New("452")})}, in(1, 0, 0), 0, want{over: true}},
		{"no room, but the last one is still coming", []question{etrn("253:2"), etrn().with(fullError{errors.New("452")})}, in(1, 1, 1), 0, want{waiting: "1 message coming in; 1 of 2 messages have come"}},

		// Parts of a message to many.
		{"one of one, but for many: is that all?", one, wide(in(1, 0, 0)), settle, want{ask: true, waiting: "the remote to say that this was all"}},
		{"a second part", one, parts(in(1, 0, 0), 1), settle, want{ask: true, waiting: "the remote to say that this was all"}},
		{"asked, and it is under way", []question{etrn("253:1"), etrn("458").whenSeen(1, 2)}, parts(in(1, 0, 0), 1), sec, want{waiting: "the remote to say that this was all", look: sec}},
		{"asked, and there is more", []question{etrn("253:1"), etrn("253:1").whenSeen(1, 2)}, parts(in(1, 0, 0), 1), 5 * sec, want{ask: true, waiting: "the remote to say what it still has"}},
		{"asked, and that was all", []question{etrn("253:1"), etrn("251:0").whenSeen(1, 2)}, parts(in(1, 0, 0), 1), settle, want{over: true}},
		{"that was all, and then came another part", []question{etrn("253:1"), etrn("251:0").whenSeen(1, 2)}, parts(in(1, 0, 0), 2), settle, want{ask: true, waiting: "the remote to say that this was all"}},
		{"asked, and it does not count any more", []question{etrn("253:1"), etrn("250").whenSeen(1, 2)}, parts(in(1, 0, 0), 1), sec, want{waiting: "more mail to come in; 1 of 1 message has come", look: 4 * sec}},
		{"it does not count any more, and that was it", []question{etrn("253:1"), etrn("250").whenSeen(1, 2)}, parts(in(1, 0, 0), 1), 5 * sec, want{over: true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := observed{remote: hub(config.PullOnly), questions: c.qs, in: c.in, quiet: c.quiet, stale: c.quiet, vain: c.quiet}
			c.want.check(t, o.inbound())
		})
	}
}

// Sessions that may go on unseen get the longer of the two times.
func TestPatience(t *testing.T) {
	o := observed{remote: hub(config.PullOnly), in: blind(in(1, 1, 0))}
	o.remote.Wait = sec
	if got := o.patience(); got != 10*sec {
		t.Errorf("patience %v, want 10s: twice idle is longer than wait", got)
	}
}

// A line of long round trips has more time for whatever takes some: the dialogue,
// the first sign of mail, the part that follows, and the next request.
func TestLongRoundTrips(t *testing.T) {
	thin := socket.Pace{RTT: 2 * sec}
	if got, want := dialogueTime(hub(config.PullOnly), thin), 30*sec+dialogueTrips*2*sec; got != want {
		t.Errorf("a dialogue may take %v, want %v", got, want)
	}
	for _, c := range []struct {
		name  string
		q     question
		in    Counts
		quiet time.Duration
		want  want
	}{
		{"nothing yet", etrn("253:1"), in(0, 0, 0), 24 * sec, want{waiting: "mail to come in; 0 of 1 message has come", look: sec}},
		{"nothing for long", etrn("253:1"), in(0, 0, 0), 25 * sec, want{ask: true, waiting: "the remote to say what it still has"}},
		{"it has nearly settled", etrn("253:1"), in(1, 0, 0), settle + 7*sec, want{waiting: "the last message to settle", look: sec}},
		{"it has settled", etrn("253:1"), in(1, 0, 0), settle + 8*sec, want{over: true}},
		{"put off", etrn("458"), in(0, 0, 0), 5 * sec, want{waiting: "hub to take a request for n1 (458)", look: sec}},
		{"put off for a while", etrn("458"), in(0, 0, 0), 6 * sec, want{ask: true, waiting: "hub to take a request for n1 (458)"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := observed{remote: hub(config.PullOnly), questions: []question{c.q}, in: c.in, quiet: c.quiet, stale: c.quiet, vain: c.quiet, pace: thin}
			c.want.check(t, o.inbound())
		})
	}
}

// Whether mail is still coming over a turned connection. No milter and no clock
// decides: the remote says QUIT.
func TestTurned(t *testing.T) {
	for _, c := range []struct {
		name string
		in   Counts
		t    turnedSeen
		want want
	}{
		{"it has begun", in(0, 1, 0), turnedSeen{}, want{waiting: "hub.example.net to send its mail or to say that it has no more; 0 messages have come"}},
		{"one has come", in(1, 1, 0), turnedSeen{}, want{waiting: "hub.example.net to send its mail or to say that it has no more; 1 message has come"}},
		{"one is coming in", in(2, 1, 1), turnedSeen{}, want{waiting: "1 message coming in; 2 messages have come"}},
		{"QUIT", in(2, 0, 0), turnedSeen{over: true}, want{over: true}},
		{"QUIT, and the milter has not told of the last one: it may be a duplicate", in(2, 0, 0), turnedSeen{over: true, untold: true, since: 100 * ms}, want{waiting: "etrn-milter to tell of the last message", look: 400 * ms}},
		{"the milter never tells", in(2, 0, 0), turnedSeen{over: true, untold: true, since: settle}, want{over: true}},
		{"QUIT a moment ago, and all is told", in(2, 0, 0), turnedSeen{over: true, since: 0}, want{over: true}},
		{"broken, whatever the milter tells", in(1, 0, 0), turnedSeen{over: true, untold: true, err: receive.ErrClosed}, want{over: true, ends: ends{75, "the mail of hub: the remote ended the connection without QUIT; 1 message has come", "what has not come stays held there"}}},
		{"quiet", in(0, 0, 0), turnedSeen{over: true, err: receive.ErrSilent}, want{over: true, ends: ends{75, "the mail of hub: the remote has gone quiet; 0 messages have come", "what has not come stays held there"}}},
		{"the local mail server failed", in(0, 0, 0), turnedSeen{over: true, err: fmt.Errorf("%w: refused", receive.ErrMTA)}, want{over: true, ends: ends{75, "the mail of hub: the local mail server failed: refused; 0 messages have come", "is the local mail server running? what"}}},
		{"the local mail server takes nothing", in(0, 0, 0), turnedSeen{over: true, err: fmt.Errorf("%w: 452 no room", receive.ErrDoor)}, want{over: true, ends: ends{75, "the mail of hub: the local mail server takes nothing: 452 no room; 0 messages have come", "the log of the local mail server tells why; what"}}},
		{"it may have more", in(1, 0, 0), turnedSeen{over: true, more: true}, want{ask: true, waiting: "the remote to say what it still has"}},
		{"it may have more, but has broken off", in(1, 0, 0), turnedSeen{over: true, more: true, err: receive.ErrClosed}, want{over: true, ends: ends{75, "the mail of hub: the remote ended the connection without QUIT; 1 message has come", "what has not come stays held there"}}},
		{"garbage", in(0, 0, 0), turnedSeen{over: true, err: receive.ErrAbuse}, want{over: true, ends: ends{75, "the mail of hub: the remote does not behave like a mail server; 0 messages have come", "postmaster of hub.example.net"}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			// Hours of quiet end no turned connection: package receive bounds them.
			o := observed{remote: hub(config.PullOnly), questions: []question{atrn("250")}, in: c.in, turned: &c.t, quiet: time.Hour}
			c.want.check(t, o.inbound())
		})
	}
}

// Whether mail is still going.
func TestOutbound(t *testing.T) {
	const out = "the mail server to list its queue"
	listed := func(p pushSeen) pushSeen {
		p.listed = true
		return p
	}
	for _, c := range []struct {
		name   string
		router config.RouterType
		o      observed
		want   want
	}{
		{"nothing goes in a pull-only call", config.PullOnly, observed{push: listed(pushSeen{held: 3})}, want{over: true}},
		{"the queue is not listed yet", config.PushOnly, observed{}, want{waiting: out, look: 100 * ms}},
		{"it is old news that nothing is held", config.PushOnly, observed{push: pushSeen{held: 0}}, want{waiting: out, look: 100 * ms}},
		{"Postfix cannot list it", config.PushOnly, observed{push: listed(pushSeen{err: "no"}), unlisted: 10 * sec}, want{waiting: out, look: sec}},
		{"Postfix cannot list it for too long", config.PushOnly, observed{push: pushSeen{err: "no"}, unlisted: 10*sec + 1}, want{over: true, ends: ends{75, "the mail server's queue cannot be listed: no", "is the mail server running?"}}},
		{"Postfix cannot list it, and was not there to take mail", config.PullPush, observed{push: pushSeen{err: "no"}, questions: []question{etrn().with(listenerError{errors.New("x")})}}, want{over: true, ends: ends{75, "the mail server's queue cannot be listed: no", "is the mail server running?"}}},
		{"nothing is held", config.PushOnly, observed{push: listed(pushSeen{})}, want{over: true}},
		{"nothing is held any more", config.PullPush, observed{push: listed(pushSeen{open: true}), sent: 5}, want{over: true}},
		{"nothing is held for one who would ask", config.PushWait, observed{push: listed(pushSeen{})}, want{over: true}},

		{"on its way", config.PushOnly, observed{push: listed(pushSeen{held: 2, underWay: 1, open: true})}, want{waiting: "2 messages to go out"}},
		{"on its way for an hour", config.PushOnly, observed{push: listed(pushSeen{held: 1, underWay: 1}), still: time.Hour}, want{waiting: "1 message to go out"}},
		{"one failed, the other is on its way", config.PushOnly, observed{push: listed(pushSeen{held: 2, underWay: 1, failed: 1, reason: "lost"})}, want{waiting: "2 messages to go out"}},
		{"one failed and is tried again", config.PushOnly, observed{push: listed(pushSeen{held: 1, failed: 1, retry: 1, reason: "lost"}), still: time.Hour}, want{waiting: "1 message to go out"}},
		{"one failed", config.PushOnly, observed{push: listed(pushSeen{held: 1, failed: 1, reason: "lost"})}, want{over: true, ends: ends{75, "1 message could not be sent: lost", "go with the next call"}}},
		{"one failed, as the mail server keeps it for nobody", config.PushOnly, observed{push: listed(pushSeen{held: 1, failed: 1, reason: hold.ReasonNobody})}, want{over: true, ends: ends{75, "1 message could not be sent: held for nobody: the mail server is not set up for its queue any more", "is etrnd to be reloaded"}}},
		{"two failed of three held", config.PullPush, observed{push: listed(pushSeen{held: 3, failed: 2, reason: "lost"})}, want{over: true, ends: ends{75, "2 messages could not be sent: lost", "go with the next call"}}},
		{"held, and about to be released", config.PushOnly, observed{push: listed(pushSeen{held: 1}), still: 30 * sec}, want{waiting: "1 message to go out"}},
		{"held, and nobody does anything", config.PushOnly, observed{push: listed(pushSeen{held: 1}), still: 30*sec + 1}, want{over: true, ends: ends{75, "1 message held, not sent, and the mail server does not say why", "look at mailq"}}},

		// The configuration was changed meanwhile.
		{"some are not for the remote any more", config.PushOnly, observed{push: listed(pushSeen{away: 3}), sent: 2}, want{over: true, ends: ends{75, "3 messages not sent: no longer for hub since the configuration was changed during the call", "stays held"}}},
		{"some are not, others are on their way", config.PushOnly, observed{push: listed(pushSeen{away: 3, held: 1, underWay: 1})}, want{waiting: "1 message to go out"}},
		{"some are not, others have failed", config.PushOnly, observed{push: listed(pushSeen{away: 3, held: 1, failed: 1, reason: "lost"})}, want{over: true, ends: ends{75, "1 message could not be sent: lost", "go with the next call"}}},
		{"some are not, of what is not pushed", config.PullOnly, observed{push: listed(pushSeen{away: 3})}, want{over: true}},
		{"the queue had gone before the call began", config.PushOnly, observed{push: listed(pushSeen{}), gone: []string{"out"}}, want{over: true, ends: ends{75, "nothing sent of queue out: the configuration was changed before the link was up, and has it no longer", "stays held"}}},

		// Push-wait: the other side asks for it.
		{"not asked for", config.PushWait, observed{push: listed(pushSeen{held: 2}), waited: 20 * sec}, want{waiting: "hub to ask for 2 messages", look: 40 * sec}},
		{"not asked for in time", config.PushWait, observed{push: listed(pushSeen{held: 2}), waited: 60 * sec}, want{over: true, ends: ends{75, "hub did not ask for the 2 messages held for it within wait = 1m0s", "push-only sends it at once"}}},
		{"not asked for, and failed in an earlier call", config.PushWait, observed{push: listed(pushSeen{held: 2, failed: 2, reason: "lost"}), waited: 20 * sec}, want{waiting: "hub to ask for 2 messages", look: 40 * sec}},
		{"asked for, and about to go", config.PushWait, observed{push: listed(pushSeen{held: 2, open: true}), waited: time.Hour}, want{over: true}},
		{"asked for, and on its way", config.PushWait, observed{push: listed(pushSeen{held: 2, underWay: 2}), waited: time.Hour}, want{waiting: "2 messages to go out"}},
		{"a part was asked for and has gone", config.PushWait, observed{push: listed(pushSeen{held: 2}), sent: 1, waited: 1}, want{over: true}},
		{"asked for, and failed", config.PushWait, observed{push: listed(pushSeen{held: 2, open: true, failed: 1, reason: "lost"})}, want{over: true, ends: ends{75, "1 message could not be sent: lost", "go with the next call"}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.o.remote = hub(c.router)
			c.want.check(t, c.o.outbound())
		})
	}
	t.Run("no queue is pushed", func(t *testing.T) {
		o := observed{remote: hub(config.PushOnly)}
		o.remote.PushQueues = nil
		want{over: true}.check(t, o.outbound())
	})
}

// How many messages are to go in all.
func TestToSend(t *testing.T) {
	for _, c := range []struct {
		name   string
		router config.RouterType
		push   pushSeen
		n      int
		known  bool
	}{
		{"some have gone, some are held", config.PushOnly, pushSeen{listed: true, held: 3}, 5, true},
		{"some are not for the remote any more", config.PushOnly, pushSeen{listed: true, held: 3, away: 4}, 9, true},
		{"not listed yet", config.PushOnly, pushSeen{held: 3}, 5, false},
		{"cannot be listed", config.PushOnly, pushSeen{listed: true, held: 3, err: "no"}, 5, false},
		{"nothing goes in this call", config.PullOnly, pushSeen{listed: true, held: 3}, 5, false},
	} {
		o := observed{remote: hub(c.router), push: c.push, sent: 2}
		if n, known := o.toSend(); n != c.n || known != c.known {
			t.Errorf("%s: %d, %t, want %d, %t", c.name, n, known, c.n, c.known)
		}
	}
}

// The whole call: when it is over, and which of several reasons stands.
func TestVerdict(t *testing.T) {
	var (
		nothing  = []question{etrn("251:0")}
		some     = []question{etrn("253:1")}
		refused  = []question{etrn("459")}
		partly   = []question{etrn("459", "253:1")}
		gone     = pushSeen{listed: true}
		going    = pushSeen{listed: true, held: 1, underWay: 1}
		failed   = pushSeen{listed: true, held: 1, failed: 1, reason: "lost"}
		refusal  = ends{69, "hub refused every name: n1: 459 said", "has to list"}
		stays    = "stays held and goes with the next call"
		receives = api.PhaseReceiving
	)
	for _, c := range []struct {
		name  string
		o     observed
		phase api.Phase
		want  want
	}{
		{"all has come and gone", observed{questions: nothing, push: gone}, "", want{over: true}},
		{"something may come", observed{questions: some, in: in(0, 1, 1), push: gone}, receives, want{waiting: "1 message coming in; 0 of 1 message has come", look: sec}},
		{"something goes", observed{questions: nothing, push: going}, api.PhasePushing, want{waiting: "1 message to go out", look: sec}},
		{"both: the phase is the one that comes first", observed{questions: some, in: in(0, 1, 1), push: going}, receives, want{waiting: "1 message coming in; 0 of 1 message has come", look: sec}},
		{"time alone may end inbound soon", observed{questions: some, in: in(1, 0, 0), quiet: 400 * ms, stale: 400 * ms, push: gone}, receives, want{waiting: "the last message to settle", look: 100 * ms}},
		{"a list is due soon, while mail comes in", observed{questions: some, in: in(0, 1, 1)}, receives, want{waiting: "1 message coming in; 0 of 1 message has come", look: 100 * ms}},
		{"the sooner of the two", observed{questions: some, in: in(1, 0, 0), quiet: 450 * ms, stale: 450 * ms}, receives, want{waiting: "the last message to settle", look: 50 * ms}},
		{"however soon", observed{questions: some, in: in(1, 0, 0), quiet: settle - 1, stale: settle - 1, push: gone}, receives, want{waiting: "the last message to settle", look: 1}},
		{"never later than a second", observed{questions: some, push: gone}, receives, want{waiting: "mail to come in; 0 of 1 message has come", look: sec}},
		{"ask again, while mail goes out", observed{questions: []question{etrn("253:2")}, in: in(1, 0, 0), quiet: 5 * sec, push: going}, receives, want{ask: true, waiting: "the remote to say what it still has", look: sec}},

		// Which reason stands.
		{"refused, and nothing to send", observed{questions: refused, push: gone}, "", want{over: true, ends: refusal}},
		{"refused: what is held goes all the same", observed{questions: refused, push: going}, api.PhasePushing, want{waiting: "1 message to go out", look: sec}},
		{"refused and unsent: the first is told", observed{questions: refused, push: failed}, "", want{over: true, ends: refusal}},
		{"one of two names refused: the other's mail is waited for", observed{questions: partly, in: in(0, 1, 1), push: gone}, receives, want{waiting: "1 message coming in; 0 of 1 message has come", look: sec}},
		{"one of two names refused, and nothing came: the first is told", observed{questions: partly, quiet: 60 * sec, stale: 60 * sec, vain: 60 * sec, in: in(0, 0, 0), push: gone}, "", want{over: true, ends: ends{69, "hub refused 1 of 2 names: n1: 459 said", "take the name out"}}},
		{"nothing came and unsent: the first is told", observed{questions: some, quiet: 60 * sec, stale: 60 * sec, vain: 60 * sec, in: in(0, 0, 0), push: failed}, "", want{over: true, ends: ends{75, "0 of 1 message has come, and no more within wait = 1m0s", "can hub.example.net reach this host's port 25? its log"}}},
		{"all came, unsent", observed{questions: nothing, push: failed}, "", want{over: true, ends: ends{75, "1 message could not be sent: lost", "next call"}}},
		{"nothing came for wait, but mail still goes out", observed{questions: some, quiet: 60 * sec, stale: 60 * sec, vain: 60 * sec, in: in(0, 0, 0), push: going}, api.PhasePushing, want{waiting: "1 message to go out", look: sec}},

		// The local MTA is not there any more.
		{"it may be being restarted", observed{questions: some, push: going, stopped: mtaGrace - 1}, receives, want{waiting: "mail to come in; 0 of 1 message has come", look: sec}},
		{"it has stopped", observed{questions: some, push: going, stopped: mtaGrace}, "", want{over: true, ends: ends{75, "the local mail server does not answer any more; 0 of 1 message has come", "called again when it answers"}}},
		{"refused before that: the first is told", observed{questions: refused, push: going, stopped: mtaGrace}, "", want{over: true, ends: refusal}},

		// Ended from outside.
		{"the link went down", observed{ended: errLinkDown, questions: some, in: in(0, 1, 1), push: going}, "", want{over: true, ends: ends{75, "the link went down", stays}}},
		{"the link went down, though all was done", observed{ended: errLinkDown, questions: nothing, push: gone}, "", want{over: true, ends: ends{75, "the link went down", stays}}},
		{"hung up by hand before anything was asked", observed{ended: errHungUp}, "", want{over: true, ends: ends{75, "the line was hung up by an operator", stays}}},
		{"it was asked in the moment when the link went down", observed{ended: errLinkDown, questions: []question{etrn().with(odmr.ErrClosed).whenCut()}}, "", want{over: true, ends: ends{75, "the link went down", stays}}},
		{"refused before that: the first is told", observed{ended: errLinkDown, questions: refused, push: going}, "", want{over: true, ends: refusal}},
		{"what failed to go before that is not told: it was not over", observed{ended: errShutdown, questions: nothing, push: failed}, "", want{over: true, ends: ends{75, "etrnd was stopped", stays}}},
		{"the line did not come up", observed{ended: dialError{errors.New("no carrier")}}, "", want{over: true, ends: ends{75, "no carrier", "look at the dial command"}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.o.remote = hub(config.PullPush)
			if reflect.DeepEqual(c.o.in, Counts{}) {
				c.o.in = in(0, 0, 0)
			}
			got := c.o.verdict()
			if got.phase != c.phase {
				t.Errorf("phase %q, want %q", got.phase, c.phase)
			}
			c.want.check(t, got)
		})
	}
}

// A line that stays up is told whatever else went wrong.
func TestNotHungUp(t *testing.T) {
	jammed := errors.New("the modem is jammed")
	for _, c := range []struct {
		name string
		c    conclusion
		want ends
	}{
		{"all went well", conclusion{}, ends{75, "the modem is jammed", "hang up by hand"}},
		{"it was refused", conclusion{69, "refused", "ask them"}, ends{75, "refused; the modem is jammed", "hang up by hand"}},
	} {
		t.Run(c.name, func(t *testing.T) { c.want.check(t, c.c.notHungUp(jammed)) })
	}
}

// What becomes of a line whose calls have ended.
func TestLineNext(t *testing.T) {
	limit := errors.New("the limit was reached")
	up := standing{command: true, latest: true, state: api.LinkUp}
	for _, c := range []struct {
		name   string
		s      standing
		change func(*standing)
		want   step
	}{
		{"all is done", up, nil, hangUp},
		{"one has joined in the drain", up, func(s *standing) { s.active = 1 }, goOn},
		{"one has joined, and an operator says to hang up: it ends first", up, func(s *standing) { s.active, s.ordered = 1, true }, goOn},
		{"the limit of the link", up, func(s *standing) { s.why = limit }, hangUp},
		{"the link went down", up, func(s *standing) { s.why, s.state = errLinkDown, api.LinkDown }, leave},
		{"it went down, and is believed to be up", up, func(s *standing) { s.why = errLinkDown }, leave},
		{"it went down and came up again: that is another line's", up, func(s *standing) { s.latest = false }, leave},
		{"somebody has hung it up", up, func(s *standing) { s.state = api.LinkHangingUp }, leave},
		{"etrnd stops: mail may be moving", up, func(s *standing) { s.why = errShutdown }, leave},
		{"no command, and it went down", up, func(s *standing) { s.command, s.why, s.state = false, errLinkDown, api.LinkDown }, leave},
		{"no command, and the limit of the link: it is not used any more", up, func(s *standing) { s.command, s.why = false, limit }, forgo},
		{"no command, and etrnd stops", up, func(s *standing) { s.command, s.why = false, errShutdown }, forgo},
		{"no command, and another line has come up", up, func(s *standing) { s.command, s.latest = false, false }, leave},
		{"an operator says so", up, func(s *standing) { s.ordered, s.state, s.why = true, api.LinkHangingUp, errHungUp }, hangUp},
		{"an operator says so, and its hook has fired already", up, func(s *standing) { s.ordered, s.state, s.why = true, api.LinkDown, errHungUp }, hangUp},
		{"an operator says so, of a line that is down: it may not be", up, func(s *standing) { s.ordered, s.state, s.why = true, api.LinkHangingUp, errLinkDown }, hangUp},
		{"an operator says so, and there is no command", up, func(s *standing) { s.ordered, s.command, s.state, s.why = true, false, api.LinkHangingUp, errHungUp }, forgo},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.change != nil {
				c.change(&c.s)
			}
			if got := c.s.next(); got != c.want {
				t.Errorf("%+v: %d, want %d", c.s, got, c.want)
			}
		})
	}
}

// What becomes of a line that did not come up.
func TestUndialled(t *testing.T) {
	for _, c := range []struct {
		name string
		s    standing
		want step
	}{
		{"it may come up late", standing{command: true, why: errors.New("no carrier")}, hangUp},
		{"its hook says that it is down, and it may come up again", standing{command: true, why: errLinkDown}, hangUp},
		{"an operator says so", standing{command: true, ordered: true, why: errHungUp}, hangUp},
		{"etrnd stops", standing{command: true, why: errShutdown}, forgo},
		{"etrnd stops, and an operator had said so", standing{command: true, ordered: true, why: errShutdown}, hangUp},
		{"no command", standing{why: errors.New("no carrier")}, forgo},
		{"it was not dialled: nothing comes up", standing{command: true, untried: true, why: errors.New("no mail server")}, forgo},
		{"no command, and an operator says so", standing{ordered: true, why: errHungUp}, forgo},
	} {
		if got := c.s.undialled(); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
}

// Which calls are filed only when the line is down, so that whoever watches
// sees it.
func TestKeeps(t *testing.T) {
	for _, c := range []struct {
		name string
		s    standing
		want bool
	}{
		{"the last one", standing{command: true}, true},
		{"the last one, at the limit of the link", standing{command: true, why: errors.New("limit")}, true},
		{"another runs", standing{command: true, active: 1}, false},
		{"nothing hangs up", standing{}, false},
		{"the link is down", standing{command: true, why: errLinkDown}, false},
		{"an operator hangs up, and watches himself", standing{command: true, why: errHungUp}, false},
		{"etrnd stops", standing{command: true, why: errShutdown}, false},
	} {
		if got := c.s.keeps(); got != c.want {
			t.Errorf("%s: %t", c.name, got)
		}
	}
}

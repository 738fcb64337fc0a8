package receive

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"

	"github.com/etrnd/etrnd/internal/esmtp"
)

func reply(text string) esmtp.Reply {
	return esmtp.Reply{Code: int(text[0]-'0')*100 + int(text[1]-'0')*10 + int(text[2]-'0'), Lines: []string{text[4:]}}
}

// Whom a refusal concerns. What is the recipient's or the message's must remain
// final, or its sender waits for days to hear of it.
func TestClassify(t *testing.T) {
	for text, want := range map[string]Class{
		// The recipient, the sender, the message.
		"550 5.1.1 <b@acme.example>: Recipient address rejected: User unknown in local recipient table":                   Permanent,
		"550 5.1.1 <relay access denied@acme.example>: Recipient address rejected: User unknown in virtual mailbox table": Permanent,
		"550 5.1.10 <b@acme.example>: Recipient address rejected: Domain acme.example does not accept mail (nullMX)":      Permanent,
		"554 5.7.1 <s@x.example>: Sender address rejected: Access denied":                                                 Permanent,
		"554 5.7.1 <b@acme.example>: Recipient address rejected: Access denied":                                           Permanent,
		"550 5.1.8 <s@x.example>: Sender address rejected: Domain not found":                                              Permanent,
		"552 5.3.4 Message size exceeds fixed limit":                                                                      Permanent,
		"550 5.7.1 Spam detected":                                            Permanent,
		"554 5.7.1 virus Eicar found":                                        Permanent,
		"550 Unrouteable address":                                            Permanent,
		"553 5.1.3 User address required":                                    Permanent,
		"450 4.2.0 <b@acme.example>: Recipient address rejected: Greylisted": Temporary,
		"450 4.1.1 <b@acme.example>: Recipient address rejected: unverified address: Address verification in progress": Temporary,
		"452 4.3.1 Insufficient system storage":                                                                              Temporary,
		"451 4.3.5 Server configuration error":                                                                               Temporary,
		"450 4.1.8 <s@x.example>: Sender address rejected: Domain not found":                                                 Temporary,
		"550 5.7.1 Client host is what this message is about":                                                                Gate, // the price: it comes again
		"554 5.7.1 <unknown[127.0.3.66]>: Client host rejected: Access denied":                                               Gate,
		"550 5.7.25 Client host rejected: cannot find your hostname, [127.0.3.66]":                                           Gate,
		"450 4.7.25 Client host rejected: cannot find your reverse hostname, [127.0.3.66]":                                   Gate,
		"554 5.7.1 Service unavailable; Client host [127.0.3.66] blocked using zen.example":                                  Gate,
		"504 5.5.2 <hub>: Helo command rejected: need fully-qualified hostname":                                              Gate,
		"554 5.7.1 <b@acme.example>: Relay access denied":                                                                    Gate,
		"454 4.7.1 <b@acme.example>: Relay access denied":                                                                    Gate,
		"550 5.7.1 <b@acme.example>... Relaying denied. IP name lookup failed [127.0.3.66]":                                  Gate,
		"550 relay not permitted":                                                                                            Gate,
		"530 5.7.0 Must issue a STARTTLS command first":                                                                      Gate,
		"530 5.7.0 Authentication required":                                                                                  Gate,
		"553 5.7.1 <s@x.example>: Sender address rejected: not logged in":                                                    Gate,
		"550 5.7.23 <b@acme.example>: Recipient address rejected: Message rejected due to: SPF fail - not authorized":        Gate,
		"550 5.7.1 <b@acme.example>: Recipient address rejected: SPF: 127.0.3.66 is not allowed to send mail from x.example": Gate,
		"550 5.7.1 Access denied":                                                                                            Gate,
		"550 Fix reverse DNS for 127.0.3.66":                                                                                 Gate,
		"521 5.3.2 this host does not accept mail":                                                                           Gate,
		"538 5.7.11 Encryption required":                                                                                     Gate,
		"550 5.7.1 You are not allowed to send mail":                                                                         Gate,
	} {
		if got := classify(reply(text)); got != want {
			t.Errorf("%s: class %d, want %d", text, got, want)
		}
	}
}

// What the MTA refuses, why, and what the provider hears: a refusal of the gate
// is not for the senders to hear, that of a recipient is.
func TestRefusals(t *testing.T) {
	const burst = "MAIL FROM:<s@x.example>\r\nRCPT TO:<b@acme.example>\r\nRCPT TO:<c@acme.example>\r\nBDAT 3 LAST\r\nx\r\n"
	for _, c := range []struct {
		name              string
		mail, rcpt, end   string
		heard             []string
		refused, rejected int
		why               Refusal
	}{
		{"all is well", "", "", "", []string{"250", "250", "250", "250"}, 0, 0, Refusal{}},
		{"no room: what follows is no reason", "452 4.3.1 Insufficient system storage", "", "", []string{"452", "452", "452", "452"}, 1, 0, Refusal{Temporary, "452 4.3.1 Insufficient system storage"}},
		{"a client without a name", "550 5.7.25 Client host rejected: cannot find your hostname, [127.0.3.66]", "", "", []string{"451", "451", "451", "451"}, 1, 0, Refusal{Gate, "550 5.7.25 Client host rejected: cannot find your hostname, [127.0.3.66]"}},
		{"the same, said later", "", "554 5.7.1 <unknown[127.0.3.66]>: Client host rejected: Access denied", "", []string{"250", "451", "451", "554"}, 0, 2, Refusal{Gate, "554 5.7.1 <unknown[127.0.3.66]>: Client host rejected: Access denied"}},
		{"unknown users", "", "550 5.1.1 <x>: User unknown", "", []string{"250", "550", "550", "554"}, 0, 2, Refusal{Permanent, "550 5.1.1 <x>: User unknown"}},
		{"a virus", "", "", "554 5.7.1 a virus", []string{"250", "250", "250", "554"}, 1, 0, Refusal{Permanent, "554 5.7.1 a virus"}},
		{"not now", "", "", "451 4.7.1 later", []string{"250", "250", "250", "451"}, 1, 0, Refusal{Temporary, "451 4.7.1 later"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			m := newMTA(t)
			if c.mail != "" {
				m.mail = func() string { return c.mail }
			}
			if c.rcpt != "" {
				m.rcpt = func(string) string { return c.rcpt }
			}
			if c.end != "" {
				m.end = func() string { return c.end }
			}
			h := begin(t, t.Context(), Options{Dial: m.dial})
			h.expect("220")
			h.send(hello)
			h.expect("250")
			h.send(burst)
			h.expect(c.heard...)
			h.send("QUIT\r\n")
			h.expect("221")
			h.end(nil)
			got := h.srv.Counts()
			if got.Refused != c.refused || got.Rejected != c.rejected || got.Why != c.why || got.Busy != 0 || got.Coming != 0 {
				t.Errorf("counts %+v\nwant %d messages and %d recipients refused, %+v", got, c.refused, c.rejected, c.why)
			}
		})
	}
}

// A greeting that the MTA refuses for good is one of the gate: a provider that
// heard of it would return its mail. One who does not know EHLO hears so.
func TestGreetingRefused(t *testing.T) {
	for reply, want := range map[string]struct {
		heard string
		why   Refusal
	}{
		"550 5.7.1 go away":                {"450", Refusal{Gate, "550 5.7.1 go away"}},
		"554 5.7.1 Helo command rejected":  {"450", Refusal{Gate, "554 5.7.1 Helo command rejected"}},
		"450 4.7.1 Host not found for now": {"450", Refusal{Temporary, "450 4.7.1 Host not found for now"}},
		"502 5.5.2 Command not recognized": {"502", Refusal{}},
	} {
		m := newMTA(t)
		m.ehlo = reply
		h := begin(t, t.Context(), Options{Dial: m.dial})
		h.expect("220")
		h.send(hello)
		h.expect(want.heard)
		h.send("QUIT\r\n")
		h.expect("221")
		h.end(nil)
		if got := h.srv.Counts().Why; got != want.why {
			t.Errorf("%q is counted as %+v, want %+v", reply, got, want.why)
		}
	}
}

// A line is not used to bring what is refused whatever it is.
func TestInVain(t *testing.T) {
	const message = "MAIL FROM:<s@x.example>\r\nRCPT TO:<b@acme.example>\r\nBDAT 3 LAST\r\nx\r\n"
	for _, c := range []struct {
		name  string
		reply string // to each RCPT
		ends  bool
	}{
		{"no room", "452 4.3.1 Insufficient system storage", true},
		{"a client that is not liked", "554 5.7.1 Client host rejected: Access denied", true},
		{"a full mailbox", "452 4.2.2 Mailbox full", false},
		{"too many recipients", "452 4.5.3 Too many recipients", false},
		{"one domain that is not its own", "554 5.7.1 Relay access denied", false},
		{"unknown users", "550 5.1.1 User unknown", false},
		{"greylisting", "450 4.2.0 Greylisted", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			m := newMTA(t)
			m.rcpt = says(c.reply)
			h := begin(t, t.Context(), Options{Dial: m.dial})
			h.expect("220")
			h.send(hello)
			h.expect("250")
			for range MaxInVain {
				h.send(message)
				h.expect("250")
				h.reply()
				h.expect("554")
			}
			if c.ends {
				h.expect("421")
				h.end(ErrDoor)
				return
			}
			h.send("QUIT\r\n")
			h.expect("221")
			h.end(nil)
		})
	}
}

// Whether the door is open, before there is any mail.
func TestDoor(t *testing.T) {
	const shut = "554 5.7.1 <unknown[127.0.3.66]>: Client host rejected: Access denied"
	for _, c := range []struct {
		name       string
		mail, rcpt func(string) string
		why        string
		all        bool
		down       string
	}{
		{"open", nil, nil, "", false, ""},
		{"postmaster is unknown", nil, says("550 5.1.1 User unknown"), "", false, ""},
		{"greylisting", nil, says("450 4.2.0 Greylisted"), "", false, ""},
		{"addresses are verified", nil, says("450 4.1.1 unverified address"), "", false, ""},
		{"mail without a sender is not liked", says("550 5.7.1 no null senders"), nil, "", false, ""},
		{"shut", nil, says(shut), shut, true, ""},
		{"shut at MAIL", says("530 5.7.0 Must issue a STARTTLS command first"), nil, "530 5.7.0 Must issue a STARTTLS command first", true, ""},
		{"the name of the greeting is not found now", nil, says("450 4.7.1 <hub.example>: Helo command rejected: Host not found"), "", false, ""},
		{"the name of the greeting is refused", nil, says("504 5.5.2 <hub>: Helo command rejected: need fully-qualified hostname"), "504 5.5.2 <hub>: Helo command rejected: need fully-qualified hostname", true, ""},
		{"shut for one domain of two", nil, func(line string) string {
			if strings.Contains(line, "@b.example") {
				return "554 5.7.1 Relay access denied"
			}
			return "250 2.1.5 Ok"
		}, "554 5.7.1 Relay access denied", false, ""},
		{"no room", says("452 4.3.1 Insufficient system storage"), nil, "", false, "Insufficient system storage"},
		{"tables cannot be read", nil, says("451 4.3.0 Temporary lookup failure"), "", false, "Temporary lookup failure"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			m := newMTA(t)
			m.rcpt = c.rcpt
			if c.mail != nil {
				m.mail = func() string { return c.mail("") }
			}
			why, all, err := Door(t.Context(), m.dial, "hub.example", []string{"a.example", "b.example"})
			if why.Reply != c.why || (why.Class == Gate) != (c.why != "") || all != c.all {
				t.Errorf("refused %+v, for all %t; want %q, %t", why, all, c.why, c.all)
			}
			if (err != nil) != (c.down != "") || err != nil && (!errors.Is(err, ErrMTA) || !strings.Contains(err.Error(), c.down)) {
				t.Errorf("error %v, want %q", err, c.down)
			}
		})
	}
	t.Run("an address greets in brackets", func(t *testing.T) {
		m := newMTA(t)
		if _, _, err := Door(t.Context(), m.dial, "192.0.2.1", []string{"a.example"}); err != nil {
			t.Error(err)
		}
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.commands[0] != "EHLO [192.0.2.1]" {
			t.Errorf("it greets with %q", m.commands[0])
		}
	})
	// It waits for a name service that is behind the line.
	t.Run("no answer in time", func(t *testing.T) {
		m := newMTA(t)
		ctx, cancel := context.WithCancel(t.Context())
		m.rcpt = func(string) string {
			cancel()
			<-ctx.Done()
			return "250 2.1.5 Ok"
		}
		if why, all, err := Door(ctx, m.dial, "hub.example", []string{"a.example"}); why.Class != Nothing || all || err != nil {
			t.Errorf("%+v, %t, %v", why, all, err)
		}
	})
	t.Run("nobody there", func(t *testing.T) {
		_, _, err := Door(t.Context(), func(context.Context) (net.Conn, error) { return nil, errors.New("connection refused") }, "hub.example", nil)
		if !errors.Is(err, ErrMTA) {
			t.Error(err)
		}
	})
}

func says(text string) func(string) string { return func(string) string { return text } }

// A refusal of ours says whether nobody here has asked for the mail, or whether it is
// how it is written.
func TestOwnRefusals(t *testing.T) {
	srv := New(Options{Domains: []string{"acme.example"}})
	for path, want := range map[string]Class{
		"a@other.example":            Own,
		"a@[192.0.2.1]":              Own,
		`"a@x.example"@acme.example`: Form,
		"a%x.example@acme.example":   Form,
		"a@acme.example.":            Form,
		"postmaster":                 Form,
		"a>@acme.example":            Form,
	} {
		if _, _, no := srv.recipient("TO:<"+path+">", everything, true); no.why().Class != want {
			t.Errorf("RCPT TO:<%s>: %q is of class %v, want %v", path, no, no.why().Class, want)
		}
	}
	for _, from := range []string{`<"a<b"@x.example>`, "<a b@x.example>", "<a@x.example> BODY=BINARYMIME"} {
		if _, _, no := mail("FROM:"+from, nil); no.why().Class != Form {
			t.Errorf("MAIL FROM:%s: %q", from, no)
		}
	}
}

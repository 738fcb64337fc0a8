package receive

import "testing"

// A reply with two codes is none: nobody knows which of them was meant, and the
// provider must not take one for a success.
func TestMixedCodes(t *testing.T) {
	m := newMTA(t)
	m.rcpt = func(string) string { return "550-5.1.1 no such user\r\n250 2.1.5 Ok" }
	h := begin(t, t.Context(), Options{Dial: m.dial})
	h.expect("220")
	h.send(hello + "MAIL FROM:<a@x.example>\r\nRCPT TO:<b@acme.example>\r\nBDAT 3 LAST\r\nx\r\n")
	h.expect("250", "250", "421 4.3.2")
	h.end(ErrMTA)
	if c := h.srv.Counts(); c.Messages != 0 {
		t.Errorf("counts: %+v", c)
	}
}

// What is told to the provider is what the MTA said, all of its lines and its
// letters.
func TestRepliesArePassedOn(t *testing.T) {
	m := newMTA(t)
	m.rcpt = func(string) string { return "450-4.2.0 b\u00fccher@acme.example\r\n450 4.2.0 later" }
	h := begin(t, t.Context(), Options{Dial: m.dial})
	h.expect("220")
	h.send(hello + "MAIL FROM:<a@x.example>\r\nRCPT TO:<b@acme.example>\r\n")
	h.expect("250", "250")
	if got, want := h.reply(), "450-4.2.0 b\u00fccher@acme.example\r\n450 4.2.0 later\r\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	h.send("QUIT\r\n")
	h.expect("221")
	h.end(nil)
}

// A provider that believes in TLS from the first byte is not waited for.
func TestTLSHello(t *testing.T) {
	m := newMTA(t)
	h := begin(t, t.Context(), Options{Dial: m.dial})
	h.expect("220")
	h.send("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
	h.expect("421 4.7.0")
	h.end(ErrAbuse)
}

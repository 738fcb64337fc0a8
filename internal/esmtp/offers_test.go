package esmtp

import (
	"reflect"
	"testing"
)

func TestOffers(t *testing.T) {
	for _, c := range []struct {
		lines []string
		want  Offers
		size  int64
		auth  []string
	}{
		{nil, Offers{}, 0, nil},
		{[]string{"PIPELINING", "SIZE 10240000", "AUTH PLAIN LOGIN"}, Offers{"PIPELINING": "", "SIZE": "10240000", "AUTH": "PLAIN LOGIN"}, 10240000, []string{"PLAIN", "LOGIN"}},
		// Keywords know no case (RFC 5321, section 4.1.1.1), nor do mechanisms.
		{[]string{"pipelining ", "auth scram-sha-256"}, Offers{"PIPELINING": "", "AUTH": "scram-sha-256"}, 0, []string{"SCRAM-SHA-256"}},
		// Both forms of AUTH, for old clients.
		{[]string{"AUTH PLAIN LOGIN", "AUTH=PLAIN CRAM-MD5"}, Offers{"AUTH": "PLAIN LOGIN PLAIN CRAM-MD5"}, 0, []string{"PLAIN", "LOGIN", "CRAM-MD5"}},
		{[]string{"AUTH", "AUTH PLAIN"}, Offers{"AUTH": "PLAIN"}, 0, []string{"PLAIN"}},
		// No limit told (RFC 1870, section 4).
		{[]string{"SIZE"}, Offers{"SIZE": ""}, 0, nil},
		{[]string{"SIZE 0"}, Offers{"SIZE": "0"}, 0, nil},
		// No number, or none that is a size.
		{[]string{"SIZE many"}, Offers{"SIZE": "many"}, 0, nil},
		{[]string{"SIZE -1"}, Offers{"SIZE": "-1"}, 0, nil},
		{[]string{"SIZE 99999999999999999999"}, Offers{"SIZE": "99999999999999999999"}, 0, nil},
		// The first one counts.
		{[]string{"SIZE 5", "SIZE 7"}, Offers{"SIZE": "5 7"}, 5, nil},
		{[]string{"MT-PRIORITY   MIXER", ""}, Offers{"MT-PRIORITY": "MIXER", "": ""}, 0, nil},
	} {
		o := ParseOffers(c.lines)
		if !reflect.DeepEqual(o, c.want) || o.Size() != c.size || !reflect.DeepEqual(o.Auth(), c.auth) {
			t.Errorf("%q: %q, size %d, auth %q", c.lines, o, o.Size(), o.Auth())
		}
	}
	o := ParseOffers([]string{"8bitmime"})
	if !o.Has("8BITMIME") || !o.Has("8bitmime") || o.Has("SIZE") || Offers(nil).Has("SIZE") {
		t.Errorf("Has does not know what %q has", o)
	}
}

func TestCutStatus(t *testing.T) {
	for text, want := range map[string]struct {
		status Status
		rest   string
	}{
		"2.0.0 Ok: queued as X": {Status{2, 0, 0}, "Ok: queued as X"},
		"5.1.1":                 {Status{5, 1, 1}, ""},
		"4.7.100 ":              {Status{4, 7, 100}, ""},
		"":                      {Status{}, ""},
		"ok":                    {Status{}, "ok"},
		"OK, 14 messages":       {Status{}, "OK, 14 messages"},
		// RFC 3463, section 2: three numbers of at most three digits, the first
		// 2, 4 or 5.
		"3.0.0 odd":    {Status{}, "3.0.0 odd"},
		"25.0.0 odd":   {Status{}, "25.0.0 odd"},
		"5.9999.1 odd": {Status{}, "5.9999.1 odd"},
		"5..1 odd":     {Status{}, "5..1 odd"},
		"5.1 odd":      {Status{}, "5.1 odd"},
		"5.1.1.1 odd":  {Status{}, "5.1.1.1 odd"},
		"5.1.1, odd":   {Status{}, "5.1.1, odd"},
		"5.1.-1 odd":   {Status{}, "5.1.-1 odd"},
		"5.1.+1 odd":   {Status{}, "5.1.+1 odd"},
		" 5.1.1 odd":   {Status{}, " 5.1.1 odd"},
	} {
		if status, rest := CutStatus(text); status != want.status || rest != want.rest {
			t.Errorf("%q: %v, %q", text, status, rest)
		}
	}
}

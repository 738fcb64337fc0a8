package config

import (
	"strings"
	"testing"
)

// A name is the same in both of its forms, and what is dialled, greeted with or
// compared with a certificate is in ASCII.
func TestDomainsBeyondASCII(t *testing.T) {
	const text = `hostname = "hub.bücher.example"
[[queue]]
name = "a"
domains = ["bücher.example"]
deliver = "smtp:[127.0.0.1]"
[[link]]
name = "isp"
interfaces = ["ppp0"]
[[remote]]
name = "hub"
link = "isp"
host = "hub.Bücher.example:366"
tls-name = "hub.bücher.example"
router-type = "pull-push"
request = ["@bücher.example"]
push = ["*"]
`
	c, err := Parse("etrnd.toml", []byte(text), WithoutFiles())
	if err != nil {
		t.Fatal(err)
	}
	r := c.Remotes[0]
	const want = "hub.xn--bcher-kva.example"
	if c.Hostname != want || r.Host != want || r.TLSName != want || r.Request[0] != "@xn--bcher-kva.example" || c.Queues[1].Deliver.NextHop != "["+want+"]" {
		t.Errorf("hostname %q, host %q, tls-name %q, request %q, deliver %q", c.Hostname, r.Host, r.TLSName, r.Request, c.Queues[1].Deliver)
	}
	for _, again := range []string{"xn--bcher-kva.example", "BÜCHER.example", "bu\u0308cher.example"} {
		_, err := Parse("etrnd.toml", []byte(text+"[[queue]]\nname = \"b\"\ndomains = [\""+again+"\"]\ndeliver = \"smtp:[127.0.0.1]\"\n"), WithoutFiles())
		if err == nil || !strings.Contains(err.Error(), "is already held by queue \"a\"") {
			t.Errorf("%q in a second queue: %v", again, err)
		}
	}
}

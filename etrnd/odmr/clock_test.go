package odmr

import (
	"crypto/tls"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/etrnd/etrnd/internal/users"
)

// A clock that is not set is no fault of the remote's: the same call works once
// it is. A certificate that has expired stays a refusal.
func TestClockThatIsNotSet(t *testing.T) {
	addr := serve(t, ServerOptions{Certificate: certificate(t), Users: userStore(t)}).addr
	for name, c := range map[string]struct {
		now        time.Time
		mode       TLSMode
		mechanisms []string
		kind       error
		temporary  bool
		message    string
	}{
		"1970":                        {time.Unix(180, 0), TLSRequire, nil, ErrTLS, true, "the clock of this machine says 1970-01-01 00:03 UTC"},
		"1970, the password":          {time.Unix(180, 0), TLSAuto, []string{users.Plain}, ErrAuth, true, "the clock of this machine says 1970-01-01 00:03 UTC"},
		"1970, it is shown to nobody": {time.Unix(180, 0), TLSAuto, []string{users.ScramSHA256}, nil, false, ""},
		"too late":                    {time.Now().AddDate(90, 0, 0), TLSRequire, nil, ErrTLS, false, "expired"},
	} {
		t.Run(name, func(t *testing.T) {
			client, err := Dial(t.Context(), addr, ClientOptions{
				TLS: c.mode, Auth: &Auth{User: "acme", Password: "secret", Mechanisms: c.mechanisms},
				Config: &tls.Config{RootCAs: pki().roots, ServerName: hostname, Time: func() time.Time { return c.now }},
			})
			if c.kind == nil {
				if err != nil {
					t.Fatal(err)
				}
				client.Quit()
				return
			}
			var e *Error
			if !errors.As(err, &e) || !errors.Is(err, c.kind) || e.Temporary() != c.temporary || !strings.Contains(err.Error(), c.message) {
				t.Errorf("got %v", err)
			}
		})
	}
}

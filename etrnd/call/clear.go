package call

import (
	"errors"
	"strings"

	"github.com/etrnd/etrnd/etrnd/odmr"
)

// clear notes that the dialogue is not encrypted though the remote offers TLS, and
// returns what the progress says of it.
func (cl *call) clear(client *odmr.Client) string {
	why := client.InTheClear()
	if why == nil {
		return ""
	}
	what, hint := odmr.TLSProblem(why)
	if what == "" {
		what = why.Error()
	}
	cl.show(func(s *shown) {
		s.clear = cl.remote.Host + " was spoken to without TLS, which failed: " + what
		if hint != "" {
			s.clear += " (" + hint + ")"
		}
		s.clear += `; with tls = "require" there would be no call`
	})
	return ", which is not encrypted"
}

// hint adds to the hint of a call's end what there is to say about TLS.
func (cl *call) hint(of string) string {
	return strings.Trim(of+"; "+cl.shown.clear, "; ")
}

// tlsHint says what is wrong with the TLS of a remote.
func tlsHint(err error) string {
	what, hint := odmr.TLSProblem(err)
	if what == "" {
		return "check tls-ca and tls-name; etrnctl probe shows the certificate"
	}
	return what + ": " + hint
}

// unfit reports whether a login was not tried, as no mechanism was fit for it.
func unfit(err error) bool {
	e, ok := errors.AsType[*odmr.Error](err)
	return ok && e.Op == "AUTH" && e.Code == 0
}

package call

import (
	"fmt"
)

// came says what has come so far.
func (o *observed) came() string {
	n, expected := o.in.Messages, o.expected()
	var text string
	switch {
	case o.turned == nil && expected >= 0:
		text = fmt.Sprintf("%d of %s have come", n, nMessages(expected))
		if expected == 1 {
			text = fmt.Sprintf("%d of 1 message has come", n)
		}
	case n == 1:
		text = "1 message has come"
	default:
		text = nMessages(n) + " have come"
	}
	if o.in.Refused > 0 {
		text += fmt.Sprintf(", %d refused here", o.in.Refused)
	}
	if o.in.Rejected > 0 {
		text += fmt.Sprintf(", %s refused here", nOf(o.in.Rejected, "recipient"))
	}
	return text
}

// comingIn says what is coming in at the moment.
func (o *observed) comingIn() string {
	size := ""
	switch n := o.in.Coming; {
	case o.turned != nil || n == 0: // it is counted as it comes, or nobody has told
	case n < 1000:
		size = fmt.Sprintf(" of %d bytes", n)
	default:
		size = fmt.Sprintf(" of %d kB", (n+500)/1000)
	}
	return fmt.Sprintf("%s%s coming in; %s", nMessages(o.in.Busy), size, o.came())
}

// nMessages counts messages in words.
func nMessages(n int) string { return nOf(n, "message") }

func nOf(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

package setup

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/etrnd/etrnd/internal/postfix/conffile"
)

// readmeName is a file for those who find what an undo had to leave, with etrnd
// gone.
const readmeName = "README"

const readmeHead = `Mail that Postfix holds for nobody

etrnd was taken out of this Postfix while mail was held for its queues. So that
Postfix does not return that mail to its senders, it keeps a route that leads
nowhere: for the domains in the file "transport" beside this one. Postfix returns
it after maximal_queue_lifetime all the same; "postqueue -p" shows what there is.

With etrnd installed again, a queue with the domain takes it up again;
"etrnctl setup postfix --undo" takes all of this out when nothing is held any
more, and its option --held says where the mail goes otherwise.

By hand, once that mail has gone, or when it may go to where Postfix's other
settings send it (a host that is the mail exchanger of the domain and knows no
other way returns it):

`

// readme tells how to take out by hand what an undo leaves in these files.
func readme(dir string, to *edited) string {
	main, _, _ := to.record.undone(to.main, to.master)
	was := conffile.File{Text: main}
	var b strings.Builder
	b.WriteString(readmeHead)
	for _, l := range to.record.Lists {
		if value, set := was.Value(l.Name); set {
			fmt.Fprintf(&b, "  postconf -e '%s = %s'\n", l.Name, strings.ReplaceAll(conffile.Fold(value), "'", `'\''`))
		} else {
			fmt.Fprintf(&b, "  postconf -X %s\n", l.Name)
		}
	}
	for _, e := range to.record.Entries {
		s, _ := conffile.ParseService(e)
		fmt.Fprintf(&b, "  postconf -MX %s/%s\n", s.Name, s.Type)
	}
	fmt.Fprintf(&b, "  rm -r %s\n  postfix reload\n", filepath.Join(dir, ownDir))
	return b.String()
}

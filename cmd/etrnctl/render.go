package main

import (
	"bytes"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/etrnd/etrnd/internal/api"
	"github.com/etrnd/etrnd/internal/foreign"
)

// printer writes for people. Strings are cleaned on their way: much of what
// is shown was said by a remote, and would otherwise reach the terminal.
type printer struct {
	w   io.Writer
	err error // the first one; everything after it is dropped
}

func (p *printer) f(format string, args ...any) {
	if p.err != nil {
		return
	}
	for i, a := range args {
		if s, ok := a.(string); ok {
			args[i] = clean(s)
		}
	}
	_, p.err = fmt.Fprintf(p.w, format, args...)
}

// clean shows what cannot be printed as an escape, line ends included.
func clean(s string) string { return foreign.Escape(s, len(s)) }

// table is rows of cells; the first one is the heading.
type table struct {
	rows  [][]string
	right map[int]bool   // columns of numbers
	notes map[int]string // a line of its own below a row
}

func (t *table) row(cells ...string) {
	t.rows = append(t.rows, make([]string, 0, len(cells)+1))
	for _, c := range cells {
		t.cell(len(t.rows)-1, c)
	}
}

// cell puts one more into a row that is there.
func (t *table) cell(row int, c string) { t.rows[row] = append(t.rows[row], clean(c)) }

// widths of the columns.
func (t *table) widths() []int {
	var widths []int
	for _, r := range t.rows {
		for i, c := range r {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(c))
		}
	}
	return widths
}

// print writes all of it at once: there may be ten thousand rows.
func (t *table) print(p *printer) {
	widths := t.widths()
	var all bytes.Buffer
	for n, r := range t.rows {
		pad := 0 // spaces before what comes next
		for i, c := range r {
			if i > 0 {
				pad += 2
			}
			room := widths[i] - utf8.RuneCountInString(c)
			if t.right[i] {
				pad, room = pad+room, 0
			}
			if c != "" { // no spaces at the end of a line
				fmt.Fprintf(&all, "%*s%s", pad, "", c)
				pad = 0
			}
			pad += room
		}
		all.WriteByte('\n')
		if note, ok := t.notes[n]; ok {
			fmt.Fprintf(&all, "    %s\n", clean(note))
		}
	}
	if p.err == nil {
		_, p.err = p.w.Write(all.Bytes())
	}
}

// fit is as many items as there is room for, at least one, and how many are
// missing.
func fit(items []string, room int) string {
	s := ""
	for i, it := range items {
		next := it
		if i > 0 {
			next = s + " " + it
		}
		more := ""
		if left := len(items) - i - 1; left > 0 {
			more = fmt.Sprintf(" +%d", left)
		}
		if i > 0 && utf8.RuneCountInString(next+more) > room {
			return s + fmt.Sprintf(" +%d", len(items)-i)
		}
		s = next
	}
	return s
}

// size is bytes in decimal units, as disks and tariffs count them.
func size(n int64) string {
	if n < 1000 {
		return fmt.Sprintf("%d B", n)
	}
	f := float64(n)
	for _, unit := range []string{"kB", "MB", "GB", "TB", "PB"} {
		f /= 1000
		switch {
		case f < 9.95:
			return fmt.Sprintf("%.1f %s", f, unit)
		case f < 999.5:
			return fmt.Sprintf("%.0f %s", f, unit)
		}
	}
	return fmt.Sprintf("%.0f EB", f/1000)
}

// span is a time that has passed, in its two largest units.
func span(d time.Duration) string {
	d = max(d, 0).Round(time.Second)
	days, hours, minutes, seconds := int(d.Hours())/24, int(d.Hours())%24, int(d.Minutes())%60, int(d.Seconds())%60
	switch {
	case days > 0:
		return fmt.Sprintf("%d d %d h", days, hours)
	case hours > 0:
		return fmt.Sprintf("%d h %d min", hours, minutes)
	case minutes > 0:
		return fmt.Sprintf("%d min %d s", minutes, seconds)
	}
	return fmt.Sprintf("%d s", seconds)
}

// clock is line time, to be compared with a bill: m:ss or h:mm:ss.
func clock(d time.Duration) string {
	s := int(max(d, 0).Seconds())
	if s < 3600 {
		return fmt.Sprintf("%d:%02d", s/60, s%60)
	}
	return fmt.Sprintf("%d:%02d:%02d", s/3600, s/60%60, s%60)
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// since is how long ago t was, or a dash.
func (a *app) since(t *time.Time) string {
	if t == nil {
		return "-"
	}
	return span(a.now().Sub(*t))
}

func (a *app) date(t time.Time) string { return t.In(a.zone).Format("2006-01-02 15:04:05") }

func (a *app) renderStatus(s api.Status) error {
	p := a.print()
	field := func(name, format string, args ...any) {
		p.f("%-14s"+format+"\n", append([]any{name}, args...)...)
	}
	p.f("etrnd %s on %s, process %d, running for %s\n", s.Version, s.Hostname, s.PID, span(time.Duration(s.Uptime)))
	field("configuration", "%s, loaded %s", s.Config.File, a.date(s.Config.Loaded))
	if s.Config.Rejected != nil {
		field("", "a reload was refused %s ago:", a.since(s.Config.Rejected))
		for _, m := range s.Config.Problems {
			field("", "  %s", m)
		}
	}
	switch {
	case s.Config.Changed && s.Config.Rejected != nil:
		field("", "once that is mended: etrnctl reload")
	case s.Config.Changed:
		field("", "the file has changed since: etrnctl reload")
	}
	if len(s.Config.Restart) > 0 {
		field("", "%s", restartText(s.Config.Restart))
	}
	switch {
	case s.MTA.Error != "":
		field("MTA", "%s does not answer: %s", s.MTA.Type, s.MTA.Error)
	case s.MTA.Reconciled == nil:
		field("MTA", "%s, its queue not yet read", s.MTA.Type)
	default:
		field("MTA", "%s, its queue read %s ago", s.MTA.Type, a.since(s.MTA.Reconciled))
	}
	switch m := s.Milter; {
	case m.Connected:
		field("milter", "reports for %s, %s open", a.since(m.Since), count(m.Sessions, "session"))
	case m.Since == nil:
		field("milter", "has not reported yet: is etrn-milter running?")
	default:
		field("milter", "gone for %s: is etrn-milter running?", a.since(m.Since))
	}
	if s.Milter.Differs {
		field("", "it runs by another configuration: systemctl reload-or-restart etrn-milter")
	}
	for i, l := range s.Listen {
		name := ""
		if i == 0 {
			name = "listening"
		}
		field(name, "%-8s%s", l.Name, l.Address)
	}
	switch q := s.Queues; {
	case q.Queues == 0:
		field("queues", "none")
	case q.Messages == 0:
		field("queues", "%d, all empty", q.Queues)
	default:
		field("queues", "%d with %s (%s), the oldest for %s", q.Queues, count(q.Messages, "message"), size(q.Bytes), a.since(q.Oldest))
	}
	if n := s.Queues.OnHold; n > 0 {
		field("", "%s of these on hold (postsuper -h)", count(n, "message"))
	}
	if s.Queues.Queues > 0 && s.Queues.UnknownSince != nil {
		field("", "that was so %s ago; it has not been read since", a.since(s.Queues.UnknownSince))
	}
	if n := s.Nobody; n.Messages > 0 {
		field("", "and %s (%s) held for nobody: etrnctl queues", count(n.Messages, "message"), size(n.Bytes))
	}
	if len(s.Links) > 0 {
		t := table{}
		t.row("LINK", "STATE", "FOR", "INTERFACE", "REMOTES")
		for _, l := range s.Links {
			t.row(l.Name, string(l.State), a.since(l.Since), dash(l.Interface), dash(strings.Join(l.Remotes, " ")))
		}
		p.f("\n")
		t.print(p)
	}
	if len(s.Calls) > 0 {
		t := table{right: map[int]bool{3: true}}
		t.row("CALL", "REMOTE", "LINK", "LINE", "IN", "OUT", "DOING")
		for _, ev := range s.Calls {
			t.row(ev.Call, ev.Remote, ev.Link, clock(time.Duration(ev.Line)), amount(ev.In), amount(ev.Out), string(ev.Phase))
		}
		p.f("\n")
		t.print(p)
		for _, ev := range s.Calls {
			if ev.Waiting != "" {
				p.f("%s is waiting for %s\n", ev.Call, ev.Waiting)
			}
		}
	}
	if len(s.Warnings) > 0 {
		p.f("\n")
	}
	for _, w := range s.Warnings {
		p.f("warning: %s\n", w)
	}
	return p.err
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func (a *app) renderQueues(qs []api.Queue) error {
	p := a.print()
	if len(qs) == 0 {
		p.f("the configuration has no queues\n")
		return p.err
	}
	t := table{right: map[int]bool{1: true, 2: true}}
	t.row("QUEUE", "MESSAGES", "SIZE", "OLDEST", "STATE")
	for _, q := range qs {
		t.row(q.Name, strconv.Itoa(q.Messages), sizeOf(q.Messages, q.Bytes), a.since(q.Oldest), a.queueState(q))
	}
	room, _ := a.size()
	for _, w := range t.widths() {
		room -= w + 2
	}
	t.cell(0, "FOR")
	for i, q := range qs {
		t.cell(i+1, fit(q.Domains, room))
	}
	t.print(p)
	if since := qs[0].UnknownSince; since != nil { // of one the same as of all
		p.f("That was so at %s, %s ago. The mail server's queue has\nnot been read since: etrnctl status says why.\n", a.date(*since), a.since(since))
	}
	return p.err
}

// queueState is what a queue does with its mail.
func (a *app) queueState(q api.Queue) string {
	var s []string
	switch {
	case q.Open && q.OpenUntil != nil:
		s = append(s, "open "+span(q.OpenUntil.Sub(a.now())))
	case q.Open:
		s = append(s, "open")
	default:
		s = append(s, "held")
	}
	if q.UnderWay > 0 {
		s = append(s, fmt.Sprintf("%d going", q.UnderWay-q.Waiting))
	}
	if q.Waiting > 0 {
		s = append(s, fmt.Sprintf("%d next", q.Waiting))
	}
	if q.Failed > 0 {
		s = append(s, fmt.Sprintf("%d failed", q.Failed))
	}
	if q.OnHold > 0 {
		s = append(s, fmt.Sprintf("%d on hold", q.OnHold))
	}
	return strings.Join(s, ", ")
}

func (a *app) renderHistory(rs []api.CallResult) error {
	p := a.print()
	if len(rs) == 0 {
		p.f("no calls have ended since etrnd started\n")
		return p.err
	}
	t := table{right: map[int]bool{2: true, 3: true, 4: true, 5: true, 6: true}}
	t.row("ENDED", "REMOTE", "LINE", "IN", "", "OUT", "", "RESULT")
	t.notes = map[int]string{}
	for i, r := range rs {
		t.row(r.End.In(a.zone).Format("2006-01-02 15:04"), r.Remote, clock(time.Duration(r.Line)),
			strconv.Itoa(r.In.Messages), sizeOf(r.In.Messages, r.In.Bytes), strconv.Itoa(r.Out.Messages), sizeOf(r.Out.Messages, r.Out.Bytes), result(r.Exit))
		if r.Error != "" {
			t.notes[i+1] = r.Error
		}
	}
	t.print(p)
	return p.err
}

// result is an exit code in words.
func result(exit int) string {
	switch exit {
	case api.ExitOK:
		return "ok"
	case api.ExitUnavailable:
		return "refused (69)"
	case api.ExitTempFail:
		return "failed (75)"
	case api.ExitConfig:
		return "configuration (78)"
	}
	return fmt.Sprintf("failed (%d)", exit)
}

// endedBadly is said of every call that has an error to tell, whatever was done.
const endedBadly = "ended with an error"

// renderResult says at the end of a call what came, what went, and for how
// long the line was used. The error itself is for whoever ends the program.
func (a *app) renderResult(p *printer, r api.CallResult) {
	how := "done"
	if r.Exit != api.ExitOK {
		how = endedBadly
	}
	p.f("%s: %s, the line was used for %s\n", r.Remote, how, clock(time.Duration(r.Line)))
	p.f("  came  %s%s%s\n", count(r.In.Messages, "message"), inBrackets(r.In.Bytes), ofExpected(r.In))
	p.f("  went  %s%s%s\n", count(r.Out.Messages, "message"), inBrackets(r.Out.Bytes), ofExpected(r.Out))
	if no := r.Refused; no != nil {
		var what []string
		if no.Messages > 0 {
			what = append(what, count(no.Messages, "message"))
		}
		if no.Recipients > 0 {
			what = append(what, count(no.Recipients, "recipient"))
		}
		text := strings.Join(what, ", ")
		if len(no.Domains) > 0 {
			text += " for " + strings.Join(no.Domains, ", ")
		}
		p.f("  refused here  %s: %s\n", text, no.Reply)
	}
	if no := r.Unsent; no != nil && !strings.Contains(r.Error, no.Reason) {
		p.f("  not sent  %s: %s\n", count(no.Messages, "message"), no.Reason)
	}
	if r.OnHold > 0 {
		p.f("  stays %s, on hold (postsuper -h)\n", count(r.OnHold, "message"))
	}
	switch n := r.Duplicates; {
	case n == 1:
		p.f("  twice 1 message: it had come before\n")
	case n > 1:
		p.f("  twice %d messages: they had come before\n", n)
	}
	for _, name := range r.Unasked {
		p.f("  not asked for %s: the local mail server refuses its mail\n", name)
	}
	for _, y := range r.Replies {
		p.f("  asked %s: %d %s\n", y.Name, y.Code, y.Text)
	}
}

// sizeOf is the size of messages, "-" as long as nobody has told it.
func sizeOf(messages int, bytes int64) string {
	if messages > 0 && bytes == 0 {
		return "-"
	}
	return size(bytes)
}

// inBrackets is a size behind a number of messages, if there is one.
func inBrackets(bytes int64) string {
	if bytes == 0 {
		return ""
	}
	return " (" + size(bytes) + ")"
}

func ofExpected(p api.Progress) string {
	if p.Expected > p.Messages {
		return fmt.Sprintf(" of %d", p.Expected)
	}
	return ""
}

package milter

import (
	"strconv"
	"strings"

	"github.com/etrnd/etrnd/internal/report"
)

// rank orders the places that a sender can state a priority in, from what
// binds least to what binds most. The registered headers go before those that
// mail programs made up.
type rank int

const (
	rankNone       rank = iota
	rankMSMail          // X-MSMail-Priority
	rankX               // X-Priority: 1 (highest) to 5 (lowest)
	rankPriority        // Priority (RFC 4021, from X.400)
	rankImportance      // Importance (RFC 4021)
	rankMT              // MT-Priority as a header (RFC 6758)
	rankParameter       // MT-PRIORITY of MAIL FROM (RFC 6710)
)

// priority is the one stated in the place that binds most.
type priority struct {
	rank  rank
	value report.Priority
}

func (p *priority) state(r rank, v report.Priority) {
	if v != report.PriorityUnstated && r > p.rank {
		p.rank, p.value = r, v
	}
}

// header takes note of a header, whichever it is.
func (p *priority) header(name, value string) {
	// Every header of every message comes here.
	if len(name) > len("X-MSMail-Priority") {
		return
	}
	switch strings.ToLower(name) {
	case "x-msmail-priority":
		p.state(rankMSMail, priorityWord(value))
	case "x-priority":
		p.state(rankX, xPriority(value))
	case "priority":
		p.state(rankPriority, priorityWord(value))
	case "importance":
		p.state(rankImportance, priorityWord(value))
	case "mt-priority":
		p.state(rankMT, mtPriority(value))
	}
}

// firstWord is the value without comments that follow it: "1 (Highest)".
func firstWord(s string) string {
	f := strings.FieldsFunc(s, func(r rune) bool { return r == ' ' || r == '\t' || r == '\r' || r == '\n' || r == '(' || r == ';' })
	if len(f) == 0 {
		return ""
	}
	return strings.ToLower(f[0])
}

func priorityWord(s string) report.Priority {
	switch firstWord(s) {
	case "high", "urgent", "highest":
		return report.PriorityHigh
	case "normal", "medium":
		return report.PriorityNormal
	case "low", "non-urgent", "lowest":
		return report.PriorityLow
	}
	return report.PriorityUnstated
}

func xPriority(s string) report.Priority {
	n, err := strconv.Atoi(firstWord(s))
	switch {
	case err != nil || n < 1 || n > 5:
		return report.PriorityUnstated
	case n < 3:
		return report.PriorityHigh
	case n > 3:
		return report.PriorityLow
	}
	return report.PriorityNormal
}

// mtPriority reads -9 to 9; RFC 6710 (section 5) has 0 as the default.
func mtPriority(s string) report.Priority {
	n, err := strconv.Atoi(firstWord(s))
	switch {
	case err != nil || n < -9 || n > 9:
		return report.PriorityUnstated
	case n > 0:
		return report.PriorityHigh
	case n < 0:
		return report.PriorityLow
	}
	return report.PriorityNormal
}

package milter

import (
	"github.com/etrnd/etrnd/internal/priority"
	"github.com/etrnd/etrnd/internal/report"
)

// class is a stated priority as it is reported.
func class(p priority.Stated) report.Priority {
	switch {
	case !p.OK():
		return report.PriorityUnstated
	case p.Value() > 0:
		return report.PriorityHigh
	case p.Value() < 0:
		return report.PriorityLow
	}
	return report.PriorityNormal
}

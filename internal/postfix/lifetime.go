package postfix

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/etrnd/etrnd/internal/foreign"
)

// Lifetime is how long Postfix keeps a message that it cannot deliver, held or
// not, before it returns it to its sender: maximal_queue_lifetime. Mail on hold
// does not expire.
func (p *Instance) Lifetime(ctx context.Context) (time.Duration, error) {
	const name = "maximal_queue_lifetime"
	v, err := p.Settings(ctx, name)
	if err != nil {
		return 0, err
	}
	d, err := parseTime(v[name], 24*time.Hour)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", name, err)
	}
	return d, nil
}

// parseTime reads a time as postconf(5) has it: a number and s, m, h, d or w.
func parseTime(s string, unit time.Duration) (time.Duration, error) {
	number := strings.TrimRight(s, "smhdwSMHDW")
	switch strings.ToLower(s[len(number):]) {
	case "":
	case "s":
		unit = time.Second
	case "m":
		unit = time.Minute
	case "h":
		unit = time.Hour
	case "d":
		unit = 24 * time.Hour
	case "w":
		unit = 7 * 24 * time.Hour
	default:
		return 0, fmt.Errorf("%s is no time of Postfix's", foreign.Quote(s))
	}
	n, err := strconv.ParseInt(number, 10, 32)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("%s is no time of Postfix's", foreign.Quote(s))
	}
	return time.Duration(n) * unit, nil
}

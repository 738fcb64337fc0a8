package main

import (
	"context"
	"fmt"
	"time"

	sysclock "github.com/etrnd/etrnd/internal/clock"
	"github.com/etrnd/etrnd/internal/config"
	"github.com/etrnd/etrnd/internal/mta"
)

// checkClock looks whether the clock can be right, and whether it was when mail
// was accepted: by its time Postfix returns what it has had for too long.
func (a *app) checkClock(ctx context.Context, cfg *config.Config, list []mta.Message) (found []finding) {
	now := a.now()
	if what := sysclock.Behind(now, append(sysclock.Own(), a.configFile)...); what != "" {
		found = append(found, finding{Level: "warning", Text: what + ": mail that is accepted now is returned as too old once the clock is set", Hint: "set the clock before Postfix starts; see \"A clock that is not set\" in howto.md"})
	}
	if len(list) == 0 {
		return found
	}
	lifetime, err := instance(cfg).Lifetime(ctx)
	if err != nil || lifetime <= 0 {
		return found
	}
	return append(found, clockOfMail(list, lifetime, now)...)
}

// clockLeeway is how far the time of a message may be off for no reason to
// worry: Postfix returns a message when it next tries it, which takes a while.
const clockLeeway = 6 * time.Hour

// clockOfMail finds mail that bears a time which cannot be.
func clockOfMail(list []mta.Message, lifetime time.Duration, now time.Time) (found []finding) {
	var old, future int
	var oldest, latest mta.Message
	for _, m := range list {
		switch {
		case m.Arrived.IsZero() || m.Queue == "hold":
		case m.Arrived.After(now.Add(time.Hour)):
			if future++; m.Arrived.After(latest.Arrived) {
				latest = m
			}
		case now.Sub(m.Arrived) > lifetime+clockLeeway:
			if old++; oldest.ID == "" || m.Arrived.Before(oldest.Arrived) {
				oldest = m
			}
		}
	}
	const format = "2006-01-02 15:04 MST"
	if old > 0 {
		found = append(found, finding{
			Level: "warning",
			Text: fmt.Sprintf("%s older than Postfix keeps mail (maximal_queue_lifetime, %v), such as %s of %s: accepted before the clock was set? Postfix returns it when it tries it next",
				count(old, "message")+isOrAre(old), lifetime, oldest.ID, oldest.Arrived.UTC().Format(format)),
			Hint: "give it its time anew: postsuper -r ID",
		})
	}
	if future > 0 {
		found = append(found, finding{
			Level: "warning",
			Text: fmt.Sprintf("%s from the future, such as %s of %s: the clock is wrong, or was when it was accepted",
				count(future, "message")+isOrAre(future), latest.ID, latest.Arrived.UTC().Format(format)),
			Hint: "see whether the clock is right: timedatectl",
		})
	}
	return found
}

func isOrAre(n int) string {
	if n == 1 {
		return " is"
	}
	return " are"
}

package queue

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// What the MTA does not tell, or not in time, is held mail: never the other way
// round.
func TestLocalFrom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		local := LocalFrom(func(ctx context.Context, domain string) (bool, error) {
			switch domain {
			case "broken.example":
				return true, errors.New("postconf: no such file")
			case "slow.example":
				<-ctx.Done()
				return false, ctx.Err()
			}
			return domain == "here.example", nil
		}, 2*time.Second, slog.New(slog.NewTextHandler(&log, nil)))
		for domain, want := range map[string]bool{"here.example": true, "far.example": false, "broken.example": false, "slow.example": false} {
			if got := local(domain); got != want {
				t.Errorf("%s is local: %v, want %v", domain, got, want)
			}
		}
		// One line a minute, whatever fails.
		for range 1000 {
			local("broken.example")
		}
		if n := strings.Count(log.String(), "\n"); n != 1 {
			t.Errorf("%d lines", n)
		}
		time.Sleep(failureEvery)
		local("broken.example")
		for _, want := range []string{"domain=broken.example", "before=1001"} {
			if !strings.Contains(log.String(), want) {
				t.Errorf("not in the log: %s\n%s", want, &log)
			}
		}
	})
}

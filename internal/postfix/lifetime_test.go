package postfix

import (
	"testing"
	"time"
)

func TestParseTime(t *testing.T) {
	const day = 24 * time.Hour
	for in, want := range map[string]time.Duration{
		"5d": 5 * day, "3": 3 * day, "0": 0, "12h": 12 * time.Hour, "300s": 5 * time.Minute, "10M": 10 * time.Minute, "2w": 14 * day,
		"": -1, "d": -1, "5dd": -1, "-1d": -1, "5 d": -1, "99999999999d": -1, "x": -1,
	} {
		got, err := parseTime(in, day)
		if (err != nil) != (want < 0) || err == nil && got != want {
			t.Errorf("%q is %v (%v), want %v", in, got, err, want)
		}
	}
}

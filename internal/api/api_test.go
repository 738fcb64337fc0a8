package api

import (
	"encoding/json"
	"testing"
	"time"
)

func TestSecondsJSON(t *testing.T) {
	for _, c := range []struct {
		json string
		want time.Duration
		ok   bool
	}{
		{"0", 0, true},
		{"1.5", 1500 * time.Millisecond, true},
		{"0.0004", 0, true},              // below the resolution
		{"-1", -time.Second, true},       // a clock was set back
		{"86400", 24 * time.Hour, true},  //
		{"1e300", 0, false},              // would overflow
		{`"1s"`, 0, false},               // not a number
		{"1e9", 1e9 * time.Second, true}, // thirty years
	} {
		var s Seconds
		err := json.Unmarshal([]byte(c.json), &s)
		if (err == nil) != c.ok || time.Duration(s) != c.want {
			t.Errorf("%s: got %v (%v), want %v, ok %t", c.json, time.Duration(s), err, c.want, c.ok)
		}
	}
}

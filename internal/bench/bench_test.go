package main

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"unicode/utf8"
)

// Which runs -only selects: words of one kind widen, of different kinds narrow.
func TestWanted(t *testing.T) {
	for _, tt := range []struct {
		only, link, load, how string
		want                  bool
	}{
		{"", "a", "small", "atrn", true},               // all
		{"a", "a", "mix", "default", true},             // one kind
		{"a", "b", "mix", "default", false},            //
		{"a,b", "b", "mix", "default", true},           // two of a kind
		{"a,atrn", "a", "small", "atrn", true},         // two kinds
		{"a,atrn", "a", "small", "default", false},     //
		{"a,atrn", "b", "small", "atrn", false},        //
		{"small,tuned,c", "c", "small", "tuned", true}, // all kinds
		{"small,tuned,c", "c", "mix", "tuned", false},  //
	} {
		if got := wanted(tt.only, tt.link, tt.load, tt.how); got != tt.want {
			t.Errorf("-only %q, run %s %s %s: %v, want %v", tt.only, tt.link, tt.load, tt.how, got, tt.want)
		}
	}
}

// The middle of four is between the two in the middle.
func TestMedian(t *testing.T) {
	for _, tt := range []struct {
		of   []float64
		want float64
	}{{[]float64{1, 2, 4, 8}, 3}, {[]float64{1, 2, 4}, 2}, {[]float64{5}, 5}} {
		if got := median(tt.of); got != tt.want {
			t.Errorf("%v: %v", tt.of, got)
		}
	}
}

// Every load has as many messages as it says, and every link and load a
// tuning.
func TestLoads(t *testing.T) {
	for _, l := range links {
		if len(loads[l.key]) == 0 {
			t.Errorf("link %s has no load", l.key)
		}
		for _, ld := range loads[l.key] {
			small, large := 0, 0
			for _, m := range messages(ld) {
				if m.Size < 10*smallSize {
					small++
				} else {
					large++
				}
			}
			if small != ld.small || large != ld.large {
				t.Errorf("%v: %d small and %d large messages", ld, small, large)
			}
			if len(best[l.key+"/"+ld.key]) == 0 {
				t.Errorf("%s/%s has no tuning", l.key, ld.key)
			}
		}
	}
}

// The table fits a terminal, with the largest numbers that a run can have.
func TestTable(t *testing.T) {
	r := Result{
		Link: links[2].name, Load: loads["c"][1].String(), Messages: 1, linkKey: "cmix",
		ToLast: 1234.5, ToLastSmall: 1234.5, BytesToSite: 2_000_000, BytesToHub: 2_000_000,
		Share: 1, SteadyShare: 1, LineAfter: 123.4,
	}
	var list []Result
	for _, c := range []contender{stock{defaults}, stock{connections(400, true)}, etrnd{}} {
		r.Contender, r.key = c.name(), c.key()
		list = append(list, r)
	}
	var out bytes.Buffer
	table(&out, Report{Congestion: "cubic", Kernel: "6.1.0-41-amd64", Postfix: "3.7.11", Processors: 128, Results: list})
	for line := range strings.Lines(out.String()) {
		if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > 100 {
			t.Errorf("%d columns: %q", n, line)
		}
	}
	for _, want := range []string{"(c) " + links[2].name, "c400", "etrnd ATRN", "1234.5"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the table does not have %q:\n%s", want, out.String())
		}
	}
}

// A word that is nothing is told, not ignored.
func TestUsage(t *testing.T) {
	for _, args := range [][]string{{"-no-such-flag"}, {"word"}, {"-only", "nothing"}} {
		var out, errs bytes.Buffer
		if code := run(context.Background(), args, &out, &errs); code != 64 || errs.Len() == 0 {
			t.Errorf("bench %q: exit %d, %q", args, code, errs.String())
		}
	}
}

package main

import (
	"fmt"
	"io"
)

// table prints the results for people, 96 columns wide.
func table(w io.Writer, results []Result, congestion string) {
	fmt.Fprintf(w, "Thin links: mail that a site asks for. TCP congestion control: %s. /var in memory.\n", congestion)
	base := map[string]float64{}
	for _, r := range results {
		if r.key == "default" && r.Error == "" {
			base[r.linkKey] = r.ToLast
		}
	}
	head := ""
	for _, r := range results {
		if r.linkKey != head {
			head = r.linkKey
			fmt.Fprintf(w, "\n(%c) %s; %s\n", r.linkKey[0], r.Link, r.Load)
			fmt.Fprintf(w, "%-32s %7s %6s %7s %7s %6s %6s %6s %6s\n", "", "seconds", "times", "B/msg", "B/msg", "share", "share", "small", "line")
			fmt.Fprintf(w, "%-32s %7s %6s %7s %7s %6s %6s %6s %6s\n", "", "to last", "faster", "to site", "to hub", "all", "steady", "to", "after")
		}
		if r.Error != "" {
			fmt.Fprintf(w, "%-32s failed: %s\n", r.Contender, r.Error)
			continue
		}
		ratio := ""
		if b := base[r.linkKey]; b > 0 {
			ratio = fmt.Sprintf("%.1f", b/r.ToLast)
		}
		n := int64(r.Messages)
		after := fmt.Sprintf("%.1f", r.LineAfter)
		if !r.EndKnown {
			after += "*"
		}
		fmt.Fprintf(w, "%-32s %7.1f %6s %7d %7d %5.0f%% %5.0f%% %6.1f %6s\n", r.Contender, r.ToLast, ratio,
			r.BytesToSite/n, r.BytesToHub/n, 100*r.Share, 100*r.SteadyShare, r.ToLastSmall, after)
	}
}

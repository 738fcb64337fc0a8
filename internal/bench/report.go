package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os/exec"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// Report is what -json prints.
type Report struct {
	Kernel     string   `json:"kernel"`
	Postfix    string   `json:"postfix"`
	Processors int      `json:"processors"`
	Congestion string   `json:"congestion_control"`
	Results    []Result `json:"results"`
	Hub        []hubRow `json:"hub,omitempty"`
}

// report puts the results into the context that they need to be compared.
func report(ctx context.Context, congestion string, results []Result) Report {
	r := Report{Processors: runtime.NumCPU(), Congestion: congestion, Results: results}
	var name unix.Utsname
	if unix.Uname(&name) == nil {
		r.Kernel = string(bytes.TrimRight(name.Release[:], "\x00"))
	}
	if out, err := exec.CommandContext(ctx, "postconf", "-dh", "mail_version").Output(); err == nil {
		r.Postfix = strings.TrimSpace(string(out))
	}
	return r
}

// table prints a report for people.
func table(w io.Writer, r Report) {
	fmt.Fprintf(w, "Mail over thin links: Postfix %s, Linux %s, %d processors, TCP %s\n", r.Postfix, r.Kernel, r.Processors, r.Congestion)
	base := map[string]float64{}
	for _, r := range r.Results {
		if r.key == defaults.name && r.Error == "" {
			base[r.linkKey] = r.ToLast
		}
	}
	head := ""
	for _, r := range r.Results {
		if r.linkKey != head {
			head = r.linkKey
			fmt.Fprintf(w, "\n(%c) %s; %s\n", r.linkKey[0], r.Link, r.Load)
			const line = "%-30s %7s %6s %7s %7s %6s %6s %7s %6s\n"
			fmt.Fprintf(w, line, "", "seconds", "times", "bytes", "bytes", "load", "load", "small", "line")
			fmt.Fprintf(w, line, "", "to last", "faster", "to site", "to hub", "all", "steady", "to last", "after")
		}
		if r.Error != "" {
			fmt.Fprintf(w, "%-30s failed: %s\n", r.Contender, r.Error)
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
		fmt.Fprintf(w, "%-30s %7.1f %6s %7d %7d %5.0f%% %5.0f%% %7.1f %6s\n", r.Contender, r.ToLast, ratio,
			r.BytesToSite/n, r.BytesToHub/n, 100*r.Share, 100*r.SteadyShare, r.ToLastSmall, after)
	}
	fmt.Fprint(w, `
Seconds from the request (ETRN, ATRN) to the last message in the mailbox; bytes on
the line for each message, with all headers; load: payload as a share of what the
line can carry, from the request on and from the first message on; small: seconds
to the last message of 2 kB; line: seconds of line after the last message.
* Nobody at the site knows that it was the last: until the line fell silent.
`)
}

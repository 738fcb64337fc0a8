// Command bench measures mail that a site asks for over emulated thin links:
// etrnd over ATRN (RFC 2645) beside stock Postfix, which answers ETRN
// (RFC 1985) itself and delivers with its own SMTP client, once with its
// defaults and once tuned for the link.
//
// Every run has hosts, files and a Postfix of its own (internal/testbed), the
// programs are the real ones, and mail is counted where it ends, in the site's
// mailbox. /var is in memory on all of them alike: this is about links, not
// about disks. TLS is only in what it is worth to keep connections. It does not
// measure a machine: what the figures stand for is the ratio between two rows of
// one table.
//
// It needs root and what internal/testbed needs. docs/benchmarks.md says how to
// read what it prints.
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/etrnd/etrnd/internal/testbed"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// link is a line to measure on.
type link struct {
	key   string
	name  string
	shape testbed.Shape
	limit time.Duration // of one run, from the request to its end
}

var links = []link{
	{"a", "600 ms, 128 kbit/s", testbed.Shape{RTT: 600 * time.Millisecond, Rate: 128e3}, 4 * time.Minute},
	{"b", "600 ms, 10 Mbit/s", testbed.Shape{RTT: 600 * time.Millisecond, Rate: 10e6}, 4 * time.Minute},
	{"c", "80 ms, 2 Mbit/s, 1 % loss", testbed.Shape{RTT: 80 * time.Millisecond, Rate: 2e6, Loss: 0.01}, 3 * time.Minute},
}

// load is the mail that waits at the hub.
type load struct {
	key          string
	small, large int
}

// Sizes of the messages as they are handed to the hub, header included.
const (
	smallSize = 2000
	largeSize = 200_000
)

func (l load) String() string {
	if l.large == 0 {
		return fmt.Sprintf("%d messages of 2 kB", l.small)
	}
	return fmt.Sprintf("%d messages of 2 kB and %d of 200 kB", l.small, l.large)
}

// loads by link: enough that the start of a connection does not decide alone,
// and little enough that all of it ends while somebody waits.
var loads = map[string][]load{
	"a": {{"small", 200, 0}, {"mix", 50, 2}},
	"b": {{"small", 1000, 0}, {"mix", 200, 20}},
	"c": {{"small", 200, 0}, {"mix", 100, 5}},
}

// contender is a way to get the mail to the site.
type contender interface {
	// key is what -only takes, and name what the table says.
	key() string
	name() string
	// prepare starts the mail servers of both hosts; the line is down.
	prepare(ctx context.Context, w *world) error
	// held waits until the hub has n messages for the site.
	held(ctx context.Context, w *world, n int) error
	// request asks for the mail over the line, which is up, and returns when
	// it has been asked for. end waits until the contender itself takes the
	// session for over; nil: it never knows.
	request(ctx context.Context, w *world) (asked moments, end func(ctx context.Context) (time.Time, error), err error)
}

// moments of a request.
type moments struct {
	connect time.Time // the first packet
	request time.Time // the ETRN or ATRN command
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	asJSON := flags.Bool("json", false, "print the results as JSON")
	only := flags.String("only", "", "run only what matches one of these `WORDS`, such as \"a,small,atrn\": links a b c, loads small mix, contenders atrn default tuned")
	search := flags.Bool("search", false, "try every tuning of stock Postfix instead of the best one for each link")
	congestion := flags.String("congestion", "cubic", "TCP congestion control of both hosts; Linux comes with cubic")
	capture := flags.String("capture", "", "directory for a packet capture of each run (needs tcpdump)")
	runs := flags.Int("runs", 1, "make `N` runs of each case and take the one in the middle")
	hub := flags.String("hub", "", "`SETTINGS` of main.cf for the hub beside etrnd, such as \"a=1 b=2\", to try out what etrnctl should set")
	hubOnly := flags.String("hub-parts", "", "of the hub at a provider's size, measure only these `WORDS`, or \"none\": setup index drain milter kept")
	noLinks := flags.Bool("no-links", false, "measure no links")
	if err := flags.Parse(args); err != nil {
		return 64
	}
	if flags.NArg() > 0 {
		fmt.Fprintf(stderr, "bench: unexpected argument %q\n", flags.Arg(0))
		return 64
	}
	b := &bench{congestion: *congestion, capture: *capture, hub: strings.Fields(*hub), runs: max(1, *runs), log: stderr}
	var cases []testCase
	for _, l := range links {
		for _, ld := range loads[l.key] {
			list := []contender{stock{defaults}}
			for _, t := range best[l.key+"/"+ld.key] {
				list = append(list, stock{t})
			}
			list = append(list, etrnd{})
			if *search {
				list = list[:0]
				for _, t := range tunings {
					list = append(list, stock{t})
				}
			}
			for _, c := range list {
				key := c.key()
				if !*search && key != defaults.name && key != (etrnd{}).key() {
					key = "tuned"
				}
				if wanted(*only, l.key, ld.key, key) {
					cases = append(cases, testCase{l, ld, c})
				}
			}
		}
	}
	if *noLinks {
		cases = nil
	} else if len(cases) == 0 {
		fmt.Fprintf(stderr, "bench: -only %q: no run is like that\n", *only)
		return 64
	}
	hubWanted := wantedHub(*hubOnly)
	if *only != "" && *hubOnly == "" {
		hubWanted = func(string) bool { return false }
	}
	if slices.ContainsFunc(hubParts, func(p hubPart) bool { return hubWanted(p.key) }) || slices.ContainsFunc(cases, func(c testCase) bool { return c.how.key() == etrnd{}.key() }) {
		if err := b.build(ctx); err != nil {
			fmt.Fprintln(stderr, "bench:", err)
			return 1
		}
		defer b.close()
	}
	rows, failed := b.measureHub(ctx, hubWanted)
	results := b.all(ctx, cases)
	for _, r := range results {
		failed = failed || r.Error != ""
	}
	if *asJSON {
		enc := json.NewEncoder(stdout)
		enc.SetIndent("", "  ")
		r := report(ctx, *congestion, results)
		r.Hub = rows
		if err := enc.Encode(r); err != nil {
			fmt.Fprintln(stderr, "bench:", err)
			return 1
		}
	} else {
		if len(results) > 0 {
			table(stdout, report(ctx, *congestion, results))
		}
		hubTable(stdout, rows)
	}
	if failed {
		return 1
	}
	return 0
}

// wanted: of each kind of word that is given, one must fit.
func wanted(only string, link, load, contender string) bool {
	if only == "" {
		return true
	}
	words := strings.Split(only, ",")
	for _, kind := range []struct {
		all []string
		is  string
	}{
		{[]string{"a", "b", "c"}, link},
		{[]string{"small", "mix"}, load},
		{nil, contender},
	} {
		given := slices.DeleteFunc(slices.Clone(words), func(w string) bool {
			if kind.all != nil {
				return !slices.Contains(kind.all, w)
			}
			return slices.Contains([]string{"a", "b", "c", "small", "mix"}, w)
		})
		if len(given) > 0 && !slices.Contains(given, kind.is) {
			return false
		}
	}
	return true
}

// testCase is one run.
type testCase struct {
	link link
	load load
	how  contender
}

// middle makes all runs of a case and returns the one in the middle, or the
// first that failed: what fails at times must not hide behind a median.
func (b *bench) middle(ctx context.Context, c testCase) Result {
	var list []Result
	for i := range b.runs {
		r := b.measure(ctx, c, uint64(i))
		if r.Error != "" {
			return r
		}
		list = append(list, r)
	}
	slices.SortFunc(list, func(x, y Result) int { return cmp.Compare(x.ToLast, y.ToLast) })
	r := list[len(list)/2]
	for _, other := range list {
		r.Runs = append(r.Runs, other.ToLast)
	}
	return r
}

// all runs the cases. Those on the thinnest link need next to no processor and
// are slow, so they run side by side; all others run alone.
func (b *bench) all(ctx context.Context, cases []testCase) []Result {
	results := make([]Result, len(cases))
	one := func(i int) {
		c := cases[i]
		fmt.Fprintf(b.log, "bench: %s; %v; %s ...\n", c.link.name, c.load, c.how.name())
		results[i] = b.middle(ctx, c)
		if results[i].Error != "" {
			fmt.Fprintf(b.log, "bench: %s; %v; %s: %s\n", c.link.name, c.load, c.how.name(), results[i].Error)
		} else {
			fmt.Fprintf(b.log, "bench: %s; %v; %s: %.1f s\n", c.link.name, c.load, c.how.name(), results[i].ToLast)
		}
	}
	thin := make(chan struct{}, 6)
	var wg sync.WaitGroup
	for i, c := range cases {
		if c.link.shape.Rate <= 256e3 {
			wg.Go(func() {
				thin <- struct{}{}
				defer func() { <-thin }()
				one(i)
			})
		}
	}
	wg.Wait()
	for i, c := range cases {
		if c.link.shape.Rate > 256e3 {
			one(i)
		}
	}
	return results
}

package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/etrnd/etrnd/internal/testbed"
)

// hubPart is what is measured beside the contenders: a hub at a provider's size,
// without a line, and what single parts of etrnd are worth.
type hubPart struct {
	key string
	run func(ctx context.Context, b *bench) ([]hubRow, error)
}

// hubParts are those that -hub-parts takes.
var hubParts = []hubPart{
	{"setup", hubSetup},
	{"index", hubIndex},
	{"drain", hubDrain},
	{"milter", hubMilter},
	{"kept", hubKept},
}

// hubRow is one figure.
type hubRow struct {
	Part  string  `json:"part"`
	What  string  `json:"what"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
	Aim   string  `json:"aim,omitempty"`
}

// measureHub runs the parts of the hub that are wanted. What fails is a row, too.
func (b *bench) measureHub(ctx context.Context, wanted func(key string) bool) (rows []hubRow, failed bool) {
	for _, p := range hubParts {
		if !wanted(p.key) {
			continue
		}
		fmt.Fprintf(b.log, "bench: hub, %s ...\n", p.key)
		list, err := p.run(ctx, b)
		for i := range list {
			list[i].Part = p.key
		}
		rows = append(rows, list...)
		if err != nil {
			fmt.Fprintf(b.log, "bench: hub, %s: %v\n", p.key, err)
			failed = true
		}
	}
	return rows, failed
}

// hubBed is a hub to be measured: a host with a Postfix and our programs. end takes
// it away, and shows what was logged if a measurement has failed.
func (b *bench) hubBed(ctx context.Context, o testbed.PostfixOptions, config string) (h *testbed.Host, mta *testbed.Postfix, end func(err *error), err error) {
	bed, err := testbed.New(ctx, testbed.Options{})
	if err != nil {
		return nil, nil, nil, err
	}
	end = func(err *error) {
		if *err != nil {
			bed.Dump(b.log)
		}
		if e := bed.Close(); *err == nil {
			*err = e
		}
	}
	if h, err = bed.Host(ctx, "hub", testbed.HostOptions{Hostname: hubName}); err == nil {
		mta, err = h.Postfix(ctx, o)
	}
	if err == nil {
		err = (&world{bench: b, hub: h}).install(ctx, h, config)
	}
	if err != nil {
		end(&err)
		return nil, nil, nil, err
	}
	return h, mta, end, nil
}

// hubTable prints the figures for people.
func hubTable(w io.Writer, rows []hubRow) {
	part := ""
	for _, r := range rows {
		if r.Part != part {
			part = r.Part
			fmt.Fprintf(w, "\nA hub: %s\n", part)
		}
		aim := ""
		if r.Aim != "" {
			aim = "  (" + r.Aim + ")"
		}
		fmt.Fprintf(w, "%-66s %10.4g %s%s\n", r.What, r.Value, r.Unit, aim)
	}
}

// wantedHub is what -hub-parts says: nothing is all, "none" is none.
func wantedHub(list string) func(string) bool {
	words := strings.Split(list, ",")
	return func(key string) bool { return list == "" || slices.Contains(words, key) }
}

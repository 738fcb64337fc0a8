package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
)

// hubPart is what is measured of a hub at a provider's size, without a line.
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

package main

import (
	"context"
	"errors"
	"time"
)

// courier is etrnd on both hosts: the site calls by ATRN.
type courier struct{}

func (courier) key() string  { return "atrn" }
func (courier) name() string { return "etrnd, ATRN" }

func (courier) prepare(ctx context.Context, w *world) error {
	return errors.New("not there yet")
}

func (courier) held(ctx context.Context, w *world, n int) error { return nil }

func (courier) request(ctx context.Context, w *world) (m moments, end func(context.Context) (time.Time, error), err error) {
	return m, nil, nil
}

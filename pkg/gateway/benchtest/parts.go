package main

import (
	"context"
	"fmt"
	"io"
)

// part is measured by itself: its processes run while no others do.
type part struct {
	name    string
	measure func(ctx context.Context, t *site, o settings, progress io.Writer) ([]string, error)
}

// parts in their order.
var parts = []part{
	{"saturation", requestTable((*cast).saturated)},
	{"rate", requestTable((*cast).scheduled)},
	{"large", requestTable((*cast).largeAnswers)},
	{"stream", requestTable(
		func(c *cast) *table { return c.eventStreams("Server-sent events, as fast as they pass", stream) },
		func(c *cast) *table {
			return c.eventStreams(fmt.Sprintf("Server-sent events, one each %v on each connection", tick), ticks)
		},
	)},
	{"keys", func(ctx context.Context, t *site, o settings, progress io.Writer) ([]string, error) {
		if o.only != "" {
			return nil, nil
		}
		return tables(ctx, o, progress)(t.keyGrowth(ctx, progress))
	}},
	{"routes", func(ctx context.Context, t *site, o settings, progress io.Writer) ([]string, error) {
		if o.only != "" {
			return nil, nil
		}
		return tables(ctx, o, progress)(t.routeGrowth(ctx))
	}},
	{"memory", factTable((*site).memoryTable)},
	{"start", factTable((*site).startup)},
}

// partNames are what -parts knows.
func partNames() (names []string) {
	for _, p := range parts {
		names = append(names, p.name)
	}
	return names
}

// requestTable measures tables of the cast.
func requestTable(make ...func(*cast) *table) func(context.Context, *site, settings, io.Writer) ([]string, error) {
	return func(ctx context.Context, t *site, o settings, progress io.Writer) (texts []string, err error) {
		c, err := newCast(ctx, t, o)
		if err != nil {
			return nil, err
		}
		for _, m := range make {
			one := m(c)
			one.reduce(o.only)
			if len(one.rows) == 0 {
				continue
			}
			list, err := tables(ctx, o, progress)(one, nil)
			if err != nil {
				return nil, err
			}
			texts = append(texts, list...)
		}
		return texts, nil
	}
}

// reduce leaves the one row of that name, if one is named.
func (t *table) reduce(only string) {
	if only == "" {
		return
	}
	var left []*row
	for _, r := range t.rows {
		if r.name == only {
			left = append(left, r)
			r.beside, t.profile = nil, r
		}
	}
	t.rows = left
}

// tables runs a table that could be made.
func tables(ctx context.Context, o settings, progress io.Writer) func(*table, error) ([]string, error) {
	return func(t *table, err error) ([]string, error) {
		if err != nil {
			return nil, err
		}
		_, _ = fmt.Fprintln(progress, t.title)
		if err := t.run(ctx, o, progress); err != nil {
			return nil, err
		}
		return []string{t.text()}, nil
	}
}

// factTable measures figures that are no costs of a request.
func factTable(measure func(*site, context.Context, settings) (*facts, error)) func(context.Context, *site, settings, io.Writer) ([]string, error) {
	return func(ctx context.Context, t *site, o settings, _ io.Writer) ([]string, error) {
		if o.only != "" {
			return nil, nil
		}
		f, err := measure(t, ctx, o)
		if err != nil {
			return nil, err
		}
		return []string{f.text()}, nil
	}
}

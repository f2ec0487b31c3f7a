package main

import (
	"context"
	"fmt"
	"io"
	"time"
)

// Sizes of what grows.
const (
	fewKeys, manyKeys     = 1_000, 1_000_000
	fewRoutes, manyRoutes = 10, 10_000

	// cachedKeys is keys.cache_entries, and fittingKeys of them fit in: not as many,
	// because what is kept is chosen by use.
	cachedKeys  = 20_000
	fittingKeys = 15_000
)

// keyGrowth compares a table of few keys with one of many.
func (t *site) keyGrowth(ctx context.Context, progress io.Writer) (*table, error) {
	set := []string{fmt.Sprintf("keys.cache_entries=%d", cachedKeys)}
	open := func(n int64) (string, *process, error) {
		database, err := t.databases.make(ctx)
		if err != nil {
			return "", nil, err
		}
		p, err := t.gateway(ctx, gateway{database: database, set: set})
		if err != nil {
			return "", nil, err
		}
		began := time.Now()
		if err := t.fillKeys(ctx, database, n); err != nil {
			return "", nil, err
		}
		_, _ = fmt.Fprintf(progress, "%d keys are in the table after %v\n", n, time.Since(began).Round(100*time.Millisecond))
		return database, p, nil
	}
	_, few, err := open(fewKeys)
	if err != nil {
		return nil, err
	}
	database, many, err := open(manyKeys)
	if err != nil {
		return nil, err
	}
	// What more keys than fit leave in the cache must not be in the way of the others.
	spilling, err := t.gateway(ctx, gateway{database: database, set: set})
	if err != nil {
		return nil, err
	}
	base := keyRow("10³ keys, all of them in use", few, fewKeys)
	fitting := keyRow(fmt.Sprintf("10⁶ keys, %d of them in use, which fit in the cache", fittingKeys), many, fittingKeys).besides(base)
	if err := warm(ctx, fitting, fittingKeys); err != nil {
		return nil, err
	}
	return &table{title: fmt.Sprintf("Number of keys, a cache of %d", cachedKeys), per: "request", rows: []*row{
		base,
		keyRow("10⁶ keys, 10³ of them in use", many, fewKeys).besides(base),
		fitting,
		keyRow("10⁶ keys, all of them in turn: most are asked of the database", spilling, manyKeys).besides(base),
	}}, nil
}

// keyRow asks with the first n keys in turn.
func keyRow(name string, p *process, n int64) *row {
	beginning := fmt.Appendf(nil, "GET %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: bench\r\nAccept: */*\r\nX-API-Key: ", pathKey+item, p.addr)
	return &row{name: name, process: p, request: func(to []byte, i int64) []byte {
		return append(appendKey(append(to, beginning...), i%n), "\r\n\r\n"...)
	}}
}

// warm has the first n requests of a row answered, twice.
func warm(ctx context.Context, r *row, n int64) error {
	return r.underLoad(ctx, warmConnections, func(ctx context.Context, l *load) error {
		for l.done.Load() < 2*n {
			if err := pause(ctx, 10*time.Millisecond); err != nil {
				return err
			}
		}
		return nil
	})
}

// routeGrowth compares a document with few routes with one of many.
func (t *site) routeGrowth(ctx context.Context) (*table, error) {
	open := func(n int) (*process, error) {
		return t.gateway(ctx, gateway{document: routesDocument(t.service(), n)})
	}
	few, err := open(fewRoutes)
	if err != nil {
		return nil, err
	}
	many, err := open(manyRoutes)
	if err != nil {
		return nil, err
	}
	base := routeRow("10 routes, all of them in use", few, fewRoutes)
	whole := routeRow("10⁴ routes, all of them in turn", many, manyRoutes).besides(base)
	if err := warm(ctx, whole, manyRoutes); err != nil {
		return nil, err
	}
	return &table{title: "Number of routes", per: "request", rows: []*row{
		base, routeRow("10⁴ routes, 10 of them in use", many, fewRoutes).besides(base), whole,
	}}, nil
}

// routeRow asks the first n routes in turn.
func routeRow(name string, p *process, n int64) *row {
	credential := "X-API-Key: " + p.key + "\r\n"
	return &row{name: name, process: p, request: func(to []byte, i int64) []byte {
		return getText(to, p.addr, fmt.Sprintf("/r%d/%s", i%n, item), credential)
	}}
}

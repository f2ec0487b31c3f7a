package main

import (
	"context"
	"slices"
)

// paths below the routes of the document.
const (
	pathKey    = "/bench/"
	pathToken  = "/token/"
	pathAll    = "/limited/"
	pathCached = "/cached/"
)

// Names of the rows.
const (
	nameBackend    = "backend alone"
	nameBare       = "Gin + ReverseProxy, no policy"
	nameRivalKey   = "Gin + ReverseProxy, key"
	nameRivalToken = "Gin + ReverseProxy, JWT"
	nameRivalAll   = "Gin + ReverseProxy, everything"
	nameKey        = "keywarden, key"
	nameToken      = "keywarden, JWT"
	nameAll        = "keywarden, everything"
	nameCached     = "keywarden, key, answered from the cache"
	netHTTPSuffix  = ", without its front"
)

// cast are the processes of the tables of requests.
type cast struct {
	site                                 *site
	bare, rivalKey, rivalToken, rivalAll *process
	// ways are the gateways as they are and, if wanted, without the own front: plain has
	// neither log nor traces, all has both.
	ways []way
}

// way is a way of the gateway; suffix is what the names of its rows end with.
type way struct {
	suffix     string
	plain, all *process
}

// waysOf are the ways of the gateway that are wanted.
func waysOf(o settings) []bool {
	if o.netHTTP {
		return []bool{false, true}
	}
	return []bool{false}
}

func suffixOf(netHTTP bool) string {
	if netHTTP {
		return netHTTPSuffix
	}
	return ""
}

// newCast starts them.
func newCast(ctx context.Context, t *site, o settings) (*cast, error) {
	c := &cast{site: t}
	for _, one := range []struct {
		into *(*process)
		has  policy
	}{{&c.bare, policyNone}, {&c.rivalKey, policyKey}, {&c.rivalToken, policyToken}, {&c.rivalAll, policyAll}} {
		var err error
		if *one.into, err = t.rival(one.has); err != nil {
			return nil, err
		}
	}
	for _, without := range waysOf(o) {
		plain, err := t.gateway(ctx, gateway{netHTTP: without})
		if err != nil {
			return nil, err
		}
		all, err := t.gateway(ctx, gateway{netHTTP: without, log: true, traces: true})
		if err != nil {
			return nil, err
		}
		c.ways = append(c.ways, way{suffixOf(without), plain, all})
	}
	return c, nil
}

// besides makes r be compared with other.
func (r *row) besides(other *row) *row {
	r.beside = other
	return r
}

// policies are the rows of each policy with its counterpart, for one kind of answer.
func (c *cast) policies(what string) []*row {
	key := get(nameRivalKey, c.rivalKey, pathKey+what, false)
	token := get(nameRivalToken, c.rivalToken, pathToken+what, true)
	rows := []*row{key}
	for _, f := range c.ways {
		rows = append(rows, get(nameKey+f.suffix, f.plain, pathKey+what, false).besides(key))
	}
	rows = append(rows, token)
	for _, f := range c.ways {
		rows = append(rows, get(nameToken+f.suffix, f.plain, pathToken+what, true).besides(token))
	}
	return append(rows, c.everything(what)...)
}

// everything are the rows with all policies.
func (c *cast) everything(what string) []*row {
	all := get(nameRivalAll, c.rivalAll, pathAll+what, false)
	rows := []*row{all}
	for _, f := range c.ways {
		rows = append(rows, get(nameAll+f.suffix, f.all, pathAll+what, false).besides(all))
	}
	return rows
}

// floor are the rows that have no policy.
func (c *cast) floor(what string) []*row {
	bare := get(nameBare, c.bare, pathKey+what, false)
	return []*row{get(nameBackend, c.site.backend, pathKey+what, false).besides(bare), bare}
}

// saturated is the table at saturation with answers of 1 KB.
func (c *cast) saturated() *table {
	rows := append(c.floor(item), c.policies(item)...)
	key := rows[slices.IndexFunc(rows, func(r *row) bool { return r.name == nameRivalKey })]
	for _, f := range c.ways {
		rows = append(rows, get(nameCached+f.suffix, f.plain, pathCached+item, false).besides(key))
	}
	return &table{title: "Saturated, answers of 1 KB", per: "request", rows: rows, alloc: true}
}

// fixedRate is the rate of the open loop, in requests a second.
const fixedRate = 4000

// scheduled is the table at a fixed rate.
func (c *cast) scheduled() *table {
	rows := append(c.floor(item), c.policies(item)...)
	for _, r := range rows {
		r.rate = fixedRate
	}
	return &table{title: "4,000 requests per second, open loop, answers of 1 KB", per: "request", rows: rows}
}

// largeAnswers is the table with answers of 100 KB.
func (c *cast) largeAnswers() *table {
	return &table{title: "Saturated, answers of 100 KB", per: "request", rows: append(c.floor(large), c.everything(large)...)}
}

// eventStreams is a table of server-sent events.
func (c *cast) eventStreams(title, what string) *table {
	rows := append(c.floor(what), c.everything(what)...)
	for _, r := range rows {
		r.events = true
	}
	return &table{title: title, per: "event", rows: rows}
}

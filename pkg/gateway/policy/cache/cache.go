// Package cache gives answers of services to later requests, as a shared cache does
// (RFC 9111), behind authentication and limits. It owns what goes into a key, who
// waits for whom when many ask for the same, what is fetched in the background, and
// what the client is told (Age, Cache-Status of RFC 9211).
//
// It does not know the rules of freshness and storage, nor where answers are:
// package httpcache does.
package cache

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/keywarden/keywarden/pkg/gateway/policy"
	"github.com/keywarden/keywarden/pkg/header"
	"github.com/keywarden/keywarden/pkg/httpcache"
	"github.com/keywarden/keywarden/pkg/problem"
)

// Name is the name of the policy in the document.
const Name = "cache"

// ErrNotCached is the answer to a request that wants what is stored or nothing.
var ErrNotCached = problem.Define(problem.GatewayTimeout, "gateway.not_cached",
	"The request asks for a stored answer (only-if-cached), and there is none that may be used.")

// Outcome is what became of a request, for metrics.
type Outcome string

// The outcomes.
const (
	Hit         Outcome = "hit"
	Stale       Outcome = "stale"       // a stale answer was given
	Revalidated Outcome = "revalidated" // the service confirmed what is stored
	Collapsed   Outcome = "collapsed"   // another request fetched the answer
	Miss        Outcome = "miss"
	Bypass      Outcome = "bypass" // the request is none for caches
)

// Outcomes are all of them.
func Outcomes() []Outcome { return []Outcome{Hit, Stale, Revalidated, Collapsed, Miss, Bypass} }

// Options are what all routes share. Store, Now and MaxBackground are required.
type Options struct {
	Store httpcache.Store
	Now   func() time.Time

	// Remote says that the store is across a network: clients do not wait until an
	// answer is stored.
	Remote bool

	// MaxBackground bounds what goes on without a client: answers that are fetched
	// again, and, if the store is remote, stored.
	MaxBackground int

	// Observe gives what is told of each request of a route what became of it; nil for
	// nobody. It is asked once for each route of a document.
	Observe func(route string) func(Outcome)

	// Panicked is told of faults while an answer is fetched in the background, where no
	// request has them; nil for nobody.
	Panicked func(route string, fault any, stack []byte)
}

// Cache is what outlives documents: the store, and what goes on in the background.
// It is safe for concurrent use.
type Cache struct {
	Options
	ctx    context.Context // of the background
	cancel context.CancelFunc
	room   chan struct{} // one token for each goroutine
	tasks  sync.WaitGroup

	mu      sync.Mutex
	closed  bool
	flights map[[32]byte]*flight
	alone   uncached
}

// Open makes a cache. Close ends it.
func Open(o Options) (*Cache, error) {
	if o.Store == nil || o.Now == nil || o.MaxBackground < 1 {
		return nil, errors.New("cache: a store, a clock and room for the background are required")
	}
	if o.Observe == nil {
		o.Observe = func(string) func(Outcome) { return func(Outcome) {} }
	}
	if o.Panicked == nil {
		o.Panicked = func(string, any, []byte) {}
	}
	c := &Cache{Options: o, room: make(chan struct{}, o.MaxBackground), flights: map[[32]byte]*flight{}}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	return c, nil
}

// Close ends what goes on in the background and waits for it. Requests pass
// afterwards as before, and nothing is fetched without them.
func (c *Cache) Close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.cancel()
	c.tasks.Wait()
}

// start runs task in the background, if there is room for it.
func (c *Cache) start(task func(ctx context.Context)) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false
	}
	select {
	case c.room <- struct{}{}:
	default:
		return false
	}
	c.tasks.Go(func() {
		defer func() { <-c.room }()
		task(c.ctx)
	})
	return true
}

// Config is what a route says.
type Config struct {
	Route   string // its name
	Service string // what its answers are made by; answers of another one are not given

	Public        bool // one copy for all callers, of answers that are explicitly for others
	DefaultTTL    time.Duration
	MaxObject     int64    // of a body, in bytes
	VaryByHeaders []string // fields of the request that every answer goes by

	StaleWhileRevalidate, StaleIfError time.Duration // where answers do not say
}

// step is the compiled form. It is immutable.
type step struct {
	Config
	cache *Cache
	rules httpcache.Rules
	begin []byte // of every key

	became func(Outcome) // tells of a request
}

// New makes the step of a route.
func New(c Config, shared *Cache) (policy.Step, error) {
	switch {
	case shared == nil:
		return policy.Step{}, errors.New("no cache is given")
	case c.Route == "":
		return policy.Step{}, errors.New("the route has no name")
	case c.MaxObject <= 0:
		return policy.Step{}, errors.New("no size of answers is given")
	case c.DefaultTTL < 0 || c.StaleWhileRevalidate < 0 || c.StaleIfError < 0:
		return policy.Step{}, errors.New("a time is negative")
	}
	c.VaryByHeaders = slices.Clone(c.VaryByHeaders)
	for i, name := range c.VaryByHeaders {
		if !header.IsName(name) {
			return policy.Step{}, errors.New("the name of a field is none")
		}
		c.VaryByHeaders[i] = http.CanonicalHeaderKey(name)
	}
	slices.Sort(c.VaryByHeaders)
	s := &step{Config: c, cache: shared, became: shared.Observe(c.Route), rules: httpcache.Rules{
		DefaultTTL: c.DefaultTTL, StaleWhileRevalidate: c.StaleWhileRevalidate, StaleIfError: c.StaleIfError,
	}}
	s.begin = s.keyBegin()
	return policy.Step{Apply: func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.serve(next, w, r) })
	}}, nil
}

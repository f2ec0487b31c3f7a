package chain

import (
	"context"
	"fmt"
	"time"

	"github.com/keywarden/keywarden/pkg/gateway/policy"
	"github.com/keywarden/keywarden/pkg/gateway/policy/concurrency"
	policylimit "github.com/keywarden/keywarden/pkg/gateway/policy/ratelimit"
	"github.com/keywarden/keywarden/pkg/ratelimit"
	"github.com/keywarden/keywarden/pkg/spec/policies"
)

// limitSubjects is how many subjects one limit remembers: about 60 MB when all are
// there, and nothing before.
const limitSubjects = 1_000_000

// counter keeps a rate limit.
type counter = policylimit.Counter

// Counters makes the counters of rate limits.
type Counters interface {
	// Counter makes that of a limit. name is the same on every replica and for every
	// document as long as the limit is, and no other limit's.
	Counter(name string, l ratelimit.Limit) (policylimit.Counter, error)
}

// InMemory makes counters in the memory of one replica.
type InMemory struct {
	Subjects int // that one limit remembers
}

// Counter implements [Counters].
func (m InMemory) Counter(_ string, l ratelimit.Limit) (policylimit.Counter, error) {
	made, err := ratelimit.NewLimiter(l, m.Subjects)
	return inMemory{made}, err
}

type inMemory struct {
	*ratelimit.Limiter
}

// TakeAt implements policylimit.Counter.
func (c inMemory) TakeAt(_ context.Context, subject string, cost int64, now time.Time) (ratelimit.Decision, bool) {
	return c.Take(subject, now, cost), false
}

// limitIdentity is what a counter lives on by, from one document to the next: the
// route, empty where routes share it, the limit's name, and how it counts.
type limitIdentity struct {
	route, name string
	limit       ratelimit.Limit
}

// key is the identity in a store that replicas share. Names of routes and limits
// hold no slash.
func (id limitIdentity) key() string {
	l := id.limit
	return fmt.Sprintf("%s/%s/%d-%d-%s-%d", id.route, id.name, l.Algorithm, l.Quota, l.Window, l.Burst)
}

// rateLimit makes the step of the limits of a route.
func (d *Document) rateLimit(route string, l *policies.RateLimits) (policy.Step, error) {
	limits := make([]policylimit.Limit, len(l.Limits))
	for i := range l.Limits {
		of := &l.Limits[i]
		counts := route
		if of.Shared {
			counts = "" // no route has this name
		}
		counter, err := d.counter(limitIdentity{counts, of.Name, of.Arithmetic()})
		if err != nil {
			return policy.Step{}, err
		}
		subject, err := subjectOf(&of.Subject, route)
		if err != nil {
			return policy.Step{}, err
		}
		cost, err := costOf(&of.Cost)
		if err != nil {
			return policy.Step{}, err
		}
		limits[i] = policylimit.Limit{Name: of.Name, Counter: counter, Subject: subject, Cost: cost}
	}
	return policylimit.New(limits, d.now)
}

// placesIdentity is what the places of a concurrency limit live on by.
type placesIdentity struct {
	route, name string
	limit       int64
}

// concurrency makes the step of the limits of requests at once of a route.
func (d *Document) concurrency(route string, c *policies.Concurrency) (policy.Step, error) {
	limits := make([]concurrency.Limit, len(c.Limits))
	for i := range c.Limits {
		of := &c.Limits[i]
		id := placesIdentity{route, of.Name, int64(of.Limit)}
		places := d.before.places[id]
		var err error
		if places == nil {
			if places, err = ratelimit.NewInFlight(id.limit); err != nil {
				return policy.Step{}, err
			}
		}
		d.kept.places[id] = places
		subject, err := subjectOf(&of.Subject, route)
		if err != nil {
			return policy.Step{}, err
		}
		limits[i] = concurrency.Limit{Name: of.Name, Places: places, Subject: subject}
	}
	return concurrency.New(limits, d.now)
}

// counter is that of another route, of the document before, or a new one.
func (d *Document) counter(id limitIdentity) (counter, error) {
	kept := d.kept.counters[id]
	if kept == nil {
		kept = d.before.counters[id]
	}
	if kept == nil {
		var err error
		if kept, err = d.Counters.Counter(id.key(), id.limit); err != nil {
			return nil, err
		}
	}
	d.kept.counters[id] = kept
	return kept, nil
}

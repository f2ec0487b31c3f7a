package shared

import (
	"time"

	"github.com/keywarden/keywarden/pkg/gateway/chain"
	policylimit "github.com/keywarden/keywarden/pkg/gateway/policy/ratelimit"
	"github.com/keywarden/keywarden/pkg/ratelimit"
)

// counterSubjects is how many subjects one limit remembers in a replica.
const counterSubjects = 1_000_000

// counters chooses where the counters of rate limits are.
func (s *State) counters() (chain.Counters, error) {
	c := s.options.Config.Counters
	var store ratelimit.Store
	switch {
	case c.Store == "redis" || c.Store == "auto" && s.redis != nil:
		store = s.redis
	case c.Store == "postgres" || c.Store == "auto" && !s.options.Private:
		store = s.options.Store.RateLimits()
	default:
		return chain.InMemory{Subjects: counterSubjects, Now: time.Now}, nil
	}
	s.guard = ratelimit.NewGuard(ratelimit.GuardOptions{
		Store: store, Timeout: c.Timeout, Now: time.Now,
		Failed: func(err error) {
			s.metrics.failures.Add(1)
			s.failed("the counters of the rate limits do not answer: each replica keeps its share of the limits")(err)
		},
	})
	return sharedCounters{s}, nil
}

// sharedCounters makes counters over a store that replicas share.
type sharedCounters struct{ *State }

// Counter implements chain.Counters.
func (c sharedCounters) Counter(name string, l ratelimit.Limit) (policylimit.Counter, error) {
	o := ratelimit.SharedOptions{
		Name: name, Limit: l, Guard: c.guard, Subjects: counterSubjects, Replicas: c.options.Replicas, Now: time.Now,
	}
	if c.options.Config.Counters.Strict {
		return ratelimit.NewStrict(o)
	}
	return ratelimit.NewLeased(o)
}

// failed logs that a store does not answer.
func (s *State) failed(message string) func(error) {
	return func(err error) { s.options.Logger.Warn(message, "error", err) }
}

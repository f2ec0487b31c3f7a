package shared

import (
	"context"
	"log/slog"
	"time"

	"go.opentelemetry.io/otel/metric"

	"github.com/keywarden/keywarden/pkg/config"
	"github.com/keywarden/keywarden/pkg/gateway/chain"
	policylimit "github.com/keywarden/keywarden/pkg/gateway/policy/ratelimit"
	"github.com/keywarden/keywarden/pkg/ratelimit"
	"github.com/keywarden/keywarden/pkg/store/redis"
	"github.com/keywarden/keywarden/pkg/throttle"
)

// CounterOptions is what counters are made of. All fields are required.
type CounterOptions struct {
	Config   *config.Config
	Private  bool            // the database is this replica's own
	Store    ratelimit.Store // in the database
	Replicas func() int      // that live now, this one included
	Meter    metric.Meter
	Logger   *slog.Logger
}

// Counters makes the counters of rate limits, in the store that the configuration
// chooses: those of the gateway's routes, and those that throttle guesses. It is
// safe for concurrent use.
type Counters struct {
	options  CounterOptions
	redis    *redis.Store     // nil without
	guard    *ratelimit.Guard // nil where counters are in memory
	failures metric.Int64Counter
	decided  decisions
}

// counterSubjects is how many subjects one limit remembers in a replica.
const counterSubjects = 1_000_000

// redisPrefix begins every key in Redis.
const redisPrefix = "kw:"

// OpenCounters chooses where the counters are; nothing is asked for yet. The caller
// closes them.
func OpenCounters(o CounterOptions) (c *Counters, err error) {
	c = &Counters{options: o}
	c.failures, err = o.Meter.Int64Counter("keywarden.counters.failures", metric.WithUnit("{failure}"),
		metric.WithDescription("Times that the store of the rate limits' counters did not answer."))
	if err != nil {
		return nil, err
	}
	c.failures.Add(context.Background(), 0) // so that the series is there before the first failure, and its rate after that
	if err := c.observe(); err != nil {
		return nil, err
	}
	if r := o.Config.Redis; !r.URL.Empty() {
		redis.LogTo(o.Logger, time.Now) // of the whole process: this is where a program gets its one connection
		if c.redis, err = redis.Open(redis.Options{URL: r.URL, Cluster: r.Cluster, Prefix: redisPrefix, Timeout: r.Timeout}); err != nil {
			return nil, err
		}
	}
	if store := c.store(); store != nil {
		c.guard = ratelimit.NewGuard(ratelimit.GuardOptions{Store: store, Timeout: o.Config.Counters.Timeout, Now: time.Now, Failed: c.failed})
	}
	return c, nil
}

// store is that of the counters; nil for memory.
func (c *Counters) store() ratelimit.Store {
	switch where := c.options.Config.Counters.Store; {
	case where == "redis" || where == "auto" && c.redis != nil:
		return c.redis
	case where == "postgres" || where == "auto" && !c.options.Private:
		return c.options.Store
	}
	return nil
}

func (c *Counters) failed(err error) {
	c.failures.Add(context.Background(), 1)
	c.options.Logger.Warn("the counters of the rate limits do not answer: each replica keeps its share of the limits", "error", err)
}

// shared are the options of a counter that replicas share.
func (c *Counters) shared(name string, l ratelimit.Limit) ratelimit.SharedOptions {
	return ratelimit.SharedOptions{
		Name: name, Limit: l, Guard: c.guard, Subjects: counterSubjects, Replicas: c.options.Replicas, Now: time.Now,
	}
}

// Counter implements [chain.Counters].
func (c *Counters) Counter(name string, l ratelimit.Limit) (policylimit.Counter, error) {
	counter, err := c.counter(name, l)
	if err != nil {
		return nil, err
	}
	return &counted{Counter: counter, decided: &c.decided}, nil
}

// counter is one whose decisions are not counted.
func (c *Counters) counter(name string, l ratelimit.Limit) (policylimit.Counter, error) {
	if c.guard == nil {
		return chain.InMemory{Subjects: counterSubjects}.Counter(name, l)
	}
	return c.sharedCounter(name, l)
}

// sharedCounter is one that replicas share, for what the one or the other counts.
func (c *Counters) sharedCounter(name string, l ratelimit.Limit) (interface {
	policylimit.Counter
	throttle.Counter
}, error) {
	if c.options.Config.Counters.Strict {
		return ratelimit.NewStrict(c.shared(name, l))
	}
	return ratelimit.NewLeased(c.shared(name, l))
}

// Limiter makes what throttles guesses: burst attempts at once, and one more per
// refill, over all replicas.
func (c *Counters) Limiter(name string, burst int, refill time.Duration) (*throttle.Limiter, error) {
	if c.guard == nil {
		return throttle.New(burst, refill, time.Now)
	}
	bucket, err := throttle.Bucket(burst, refill)
	if err != nil {
		return nil, err
	}
	counter, err := c.sharedCounter("platform/"+name, bucket)
	if err != nil {
		return nil, err
	}
	return throttle.NewShared(counter), nil
}

// Close ends the connections. It may be called on nil.
func (c *Counters) Close() error {
	if c == nil {
		return nil
	}
	if c.guard != nil {
		c.guard.Close()
	}
	if c.redis != nil {
		return c.redis.Close()
	}
	return nil
}

package shared

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	policylimit "github.com/keywarden/keywarden/pkg/gateway/policy/ratelimit"
	"github.com/keywarden/keywarden/pkg/ratelimit"
)

// decisions are those of the limits of routes and plans, by whether the request was
// allowed and whether this replica decided by its share alone. They are plain counters
// that are looked at when somebody asks: every limited request adds to one.
type decisions [2][2]paddedCount

// paddedCount has a cache line of its own.
type paddedCount struct {
	atomic.Int64
	_ [56]byte
}

func (d *decisions) add(allowed, alone bool) { d[index(allowed)][index(alone)].Add(1) }

func index(b bool) int {
	if b {
		return 1
	}
	return 0
}

// counted counts what a counter decides.
type counted struct {
	policylimit.Counter
	decided *decisions
}

// TakeAt implements [policylimit.Counter].
func (c *counted) TakeAt(ctx context.Context, subject string, cost int64, now time.Time) (d ratelimit.Decision, alone bool) {
	d, alone = c.Counter.TakeAt(ctx, subject, cost, now)
	c.decided.add(d.Allowed, alone)
	return d, alone
}

// observe registers what is known of the counters and of Redis.
func (c *Counters) observe() error {
	meter := c.options.Meter
	decided, err1 := meter.Int64ObservableCounter("keywarden.rate_limit.decisions", metric.WithUnit("{decision}"),
		metric.WithDescription("Decisions of the limits of routes and plans, by outcome, and by whether the shared counters were asked or this replica kept its share."))
	available, err2 := meter.Int64ObservableGauge("keywarden.counters.available",
		metric.WithDescription("Whether the store of the rate limits' counters answers: 1, or 0 while each replica keeps its share. There is none where counters are in memory."))
	connections, err3 := meter.Int64ObservableGauge("keywarden.redis.connections", metric.WithUnit("{connection}"),
		metric.WithDescription("Open connections to Redis, by whether they are in use."))
	acquired, err4 := meter.Int64ObservableCounter("keywarden.redis.acquires", metric.WithUnit("{acquire}"),
		metric.WithDescription("Times that a connection to Redis was needed, by whether one was open, had to be opened, or could not be had in time."))
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		return err
	}
	_, err := meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		for i, outcome := range []string{"refused", "allowed"} {
			for j, scope := range []string{"shared", "replica"} {
				o.ObserveInt64(decided, c.decided[i][j].Load(), metric.WithAttributes(
					attribute.String("keywarden.outcome", outcome), attribute.String("keywarden.scope", scope)))
			}
		}
		if c.guard != nil {
			o.ObserveInt64(available, int64(index(!c.guard.Broken())))
		}
		if c.redis == nil {
			return nil
		}
		s := c.redis.Stats()
		state := func(of string) metric.MeasurementOption {
			return metric.WithAttributes(attribute.String("keywarden.state", of))
		}
		o.ObserveInt64(connections, int64(s.Idle), state("idle"))
		o.ObserveInt64(connections, int64(s.Connections-min(s.Idle, s.Connections)), state("used"))
		outcome := func(of string) metric.MeasurementOption {
			return metric.WithAttributes(attribute.String("keywarden.outcome", of))
		}
		o.ObserveInt64(acquired, int64(s.Hits), outcome("open"))
		o.ObserveInt64(acquired, int64(s.Misses), outcome("opened"))
		o.ObserveInt64(acquired, int64(s.Timeouts), outcome("timeout"))
		return nil
	}, decided, available, connections, acquired)
	return err
}

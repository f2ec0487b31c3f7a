package alert

import (
	"context"
	"fmt"
	"time"

	"github.com/keywarden/keywarden/pkg/usage"
)

// Figures answer what rules ask. Implementations are safe for concurrent use.
type Figures interface {
	// Measure returns the figure that a rule asks for at a time. A figure that there
	// is none of is a Reading that is not Known and says why; an error means that it
	// could not be asked for.
	Measure(ctx context.Context, r Spec, at time.Time) (Reading, error)
}

// UsageReader adds usage up; the database is one.
type UsageReader interface {
	ReadUsage(ctx context.Context, q usage.Query) (usage.Report, error)
}

// Refusals counts requests that were refused from a time until another one, both on
// bounds of minutes; the database is one.
type Refusals interface {
	RefusedRequests(ctx context.Context, from, to time.Time, filter map[usage.Dimension]string) (int64, error)
}

// Gauge answers signals that are not about usage. It is told the rule for its window
// and its threshold.
type Gauge func(ctx context.Context, r Spec, at time.Time) (Reading, error)

// Sources are [Figures] from usage and from a gauge for each other signal. A signal
// without a source has no figure.
type Sources struct {
	Usage    UsageReader
	Refusals Refusals // optional
	Gauges   map[Signal]Gauge
}

// flushed is how long after the end of a minute its usage is in the database: replicas
// write what they counted every second, by default.
const flushed = 5 * time.Second

// Measure implements [Figures].
func (f Sources) Measure(ctx context.Context, r Spec, at time.Time) (Reading, error) {
	if r.Signal.Counts() {
		return f.traffic(ctx, r, at)
	}
	gauge := f.Gauges[r.Signal]
	if gauge == nil {
		return unknown("this signal is not measured here"), nil
	}
	return gauge(ctx, r, at)
}

// traffic is a figure of whole minutes, of which the last is over for long enough.
func (f Sources) traffic(ctx context.Context, r Spec, at time.Time) (Reading, error) {
	to := at.UTC().Add(-flushed).Truncate(time.Minute)
	from := to.Add(-r.Window)
	if r.Signal == RefusalRate || r.Signal == RefusalRise {
		return f.refused(ctx, r, from, to, at)
	}
	now, err := f.total(ctx, r, from, to)
	if err != nil {
		return Reading{}, err
	}
	if r.Signal == TrafficDrop {
		return f.drop(ctx, r, from, to, at, now.Requests)
	}
	if now.Requests < r.MinRequests || now.Requests == 0 {
		return tooFew(now.Requests, r.MinRequests), nil
	}
	m := Reading{Known: true, Volume: now.Requests}
	switch r.Signal {
	case ClientErrorRate:
		m.Value = percent(float64(now.ClientErrors), float64(now.Requests))
	case ServerErrorRate:
		m.Value = percent(float64(now.ServerErrors), float64(now.Requests))
	case Latency:
		m.Value = float64(percentile(now, r.Percentile).Microseconds()) / 1000
	default: // is no figure of usage alone
	}
	return m, nil
}

func percentile(t usage.Totals, p int) time.Duration {
	switch p {
	case 50:
		return t.P50
	case 99:
		return t.P99
	}
	return t.P95
}

func percent(part, whole float64) float64 { return 100 * part / whole }

func tooFew(n, least int64) Reading {
	m := unknown(fmt.Sprintf("%d requests, fewer than %d", n, max(least, 1)))
	m.Volume = n
	return m
}

// drop compares with the earlier window: that must have had enough requests, the
// present one need not have any.
func (f Sources) drop(ctx context.Context, r Spec, from, to, at time.Time, requests int64) (Reading, error) {
	b := baseOf(r, from, to, at)
	t, err := f.total(ctx, r, b.from, b.to)
	if err != nil {
		return Reading{}, err
	}
	before := float64(t.Requests) * b.share
	if before < float64(max(r.MinRequests, 1)) {
		m := tooFew(int64(before), r.MinRequests)
		m.Why += " in the window to compare with"
		return m, nil
	}
	return Reading{Known: true, Volume: requests, Value: max(0, percent(before-float64(requests), before))}, nil
}

// refused is the share of refused requests, or how many times as many they are as
// before. With fewer refused requests than the minimum nothing is unusual.
func (f Sources) refused(ctx context.Context, r Spec, from, to, at time.Time) (Reading, error) {
	if f.Refusals == nil {
		return unknown("refusals are not counted here"), nil
	}
	now, err := f.Refusals.RefusedRequests(ctx, from, to, filterOf(r))
	if err != nil {
		return Reading{}, err
	}
	if r.Signal == RefusalRate {
		t, err := f.total(ctx, r, from, to)
		if err != nil {
			return Reading{}, err
		}
		if t.Requests < r.MinRequests || t.Requests == 0 {
			return tooFew(t.Requests, r.MinRequests), nil
		}
		return Reading{Known: true, Volume: t.Requests, Value: percent(float64(min(now, t.Requests)), float64(t.Requests))}, nil
	}
	if now < r.MinRequests {
		return Reading{Known: true, Volume: now}, nil
	}
	b := baseOf(r, from, to, at)
	then, err := f.Refusals.RefusedRequests(ctx, b.from, b.to, filterOf(r))
	if err != nil {
		return Reading{}, err
	}
	// With less than one before, one is what it is compared with.
	return Reading{Known: true, Volume: now, Value: float64(now) / max(1, float64(then)*b.share)}, nil
}

// base is an earlier window, and what part of its requests counts.
type base struct {
	from, to time.Time
	share    float64
}

// baseOf is the window to compare with. Of what is older than usage is kept by the
// minute, the whole hours around it stand for it, in proportion.
func baseOf(r Spec, from, to, at time.Time) base {
	b := base{from: from.Add(-r.CompareTo), to: to.Add(-r.CompareTo), share: 1}
	const margin = time.Hour // minutes are put together hour by hour
	if b.from.After(at.Add(margin - usage.MinutesKept)) {
		return b
	}
	b.from, b.to = b.from.Truncate(time.Hour), b.to.Add(time.Hour-1).Truncate(time.Hour)
	b.share = float64(r.Window) / float64(b.to.Sub(b.from))
	return b
}

func filterOf(r Spec) map[usage.Dimension]string {
	filter := make(map[usage.Dimension]string, len(r.Filter))
	for name, value := range r.Filter {
		filter[usage.Dimension(name)] = value
	}
	return filter
}

func (f Sources) total(ctx context.Context, r Spec, from, to time.Time) (usage.Totals, error) {
	report, err := f.Usage.ReadUsage(ctx, usage.Query{From: from, To: to, Filter: filterOf(r), Top: 1})
	return report.Total, err
}

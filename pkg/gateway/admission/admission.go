// Package admission bounds how many requests the data plane works on at once. One
// more is refused at once and cheaply, before it is authenticated or routed: a
// process that takes on more than it can hold ends by the kernel's hand, and then
// everybody's requests are lost.
//
// It does not tell requests apart, does not queue, and does not protect a single
// service: that is the bulkhead of package resilience. The platform's own API and
// its probes do not pass it, so that they answer when the data plane is full.
package admission

import (
	"context"
	"fmt"
	"net/http"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/metric"

	"github.com/keywarden/keywarden/pkg/problem"
	"github.com/keywarden/keywarden/pkg/reqctx"
)

// ErrFull is the refusal. It says when to come again: at once would be too early
// for everybody.
var ErrFull = problem.Define(problem.Unavailable, "gateway.saturated",
	"The gateway has as many requests in flight as it may have.")

// retryAfter is the shortest time that the header can say.
const retryAfter = time.Second

// Gate counts the requests in flight. It is safe for concurrent use.
type Gate struct {
	limit    int64
	refusal  *problem.Error
	inFlight atomic.Int64
	refused  atomic.Int64
}

// New makes a gate for at most limit requests at once, upgraded connections and
// event streams included; 0 is no bound. It registers its metrics with meter.
func New(limit int, meter metric.Meter) (*Gate, error) {
	if limit < 0 {
		return nil, fmt.Errorf("admission: the limit is %d, must not be negative", limit)
	}
	g := &Gate{limit: int64(limit), refusal: ErrFull.WithRetryAfter(retryAfter)}
	inFlight, err := meter.Int64ObservableGauge("keywarden.gateway.in_flight",
		metric.WithDescription("Requests that the data plane works on at the moment."))
	if err != nil {
		return nil, fmt.Errorf("making the metric keywarden.gateway.in_flight: %w", err)
	}
	refused, err := meter.Int64ObservableCounter("keywarden.gateway.saturated",
		metric.WithDescription("Requests that were refused because too many were in flight."))
	if err != nil {
		return nil, fmt.Errorf("making the metric keywarden.gateway.saturated: %w", err)
	}
	_, err = meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		o.ObserveInt64(inFlight, g.inFlight.Load())
		o.ObserveInt64(refused, g.refused.Load())
		return nil
	}, inFlight, refused)
	if err != nil {
		return nil, fmt.Errorf("registering the metrics of admission: %w", err)
	}
	return g, nil
}

// InFlight is the number of requests that were admitted and have not ended.
func (g *Gate) InFlight() int64 { return g.inFlight.Load() }

// Middleware passes a request on to next, or refuses it with [ErrFull].
func (g *Gate) Middleware(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// Counted first: two requests must not both see the last place.
		n := g.inFlight.Add(1)
		defer g.inFlight.Add(-1)
		if g.limit > 0 && n > g.limit {
			g.refused.Add(1)
			info := reqctx.From(r.Context())
			info.Code = ErrFull.Code
			g.refusal.Write(w, info.ID)
			return
		}
		next.ServeHTTP(w, r)
	})
}

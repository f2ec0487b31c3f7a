package alerting

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/keywarden/keywarden/pkg/alert"
)

// countInterval is how often the rules are counted: a scrape asks no database.
const countInterval = 15 * time.Second

// countTimeout bounds one counting.
const countTimeout = 5 * time.Second

// measures are the metrics of alerts.
type measures struct {
	rules    [2]atomic.Int64 // those that are enabled: quiet ones, firing ones
	counted  atomic.Bool     // the rules, at least once
	attempts metric.Int64Counter
}

func newMeasures(meter metric.Meter) (*measures, error) {
	m := &measures{}
	var err1 error
	m.attempts, err1 = meter.Int64Counter("keywarden.alert.deliveries", metric.WithUnit("{attempt}"),
		metric.WithDescription("Attempts of this replica to tell of an alert, by kind of channel and by what became of them."))
	rules, err2 := meter.Int64ObservableGauge("keywarden.alert.rules", metric.WithUnit("{rule}"),
		metric.WithDescription("Rules of alerts that are enabled, in the whole installation, by whether they fire."))
	if err := errors.Join(err1, err2); err != nil {
		return nil, fmt.Errorf("making the metrics of alerts: %w", err)
	}
	_, err := meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		if m.counted.Load() {
			o.ObserveInt64(rules, m.rules[0].Load(), metric.WithAttributes(attribute.String("keywarden.state", "quiet")))
			o.ObserveInt64(rules, m.rules[1].Load(), metric.WithAttributes(attribute.String("keywarden.state", "firing")))
		}
		return nil
	}, rules)
	return m, err
}

// attempted counts an attempt to deliver.
func (m *measures) attempted(kind alert.Kind, state alert.DeliveryState) {
	outcome := map[alert.DeliveryState]string{
		alert.DeliveryDelivered: "delivered", alert.DeliveryPending: "again", alert.DeliveryDead: "given_up",
	}[state]
	m.attempts.Add(context.Background(), 1, metric.WithAttributes(
		attribute.String("keywarden.channel", string(kind)), attribute.String("keywarden.outcome", outcome)))
}

// countRules counts the rules now and then until ctx ends. While they cannot be
// counted, what was known stands.
func (a *Alerting) countRules(ctx context.Context) error {
	tick := time.NewTicker(countInterval)
	defer tick.Stop()
	for {
		a.count(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (a *Alerting) count(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, countTimeout)
	defer cancel()
	rules, err := a.Service.Rules(ctx, alert.RuleFilter{Limit: alert.MaxRules})
	if err != nil {
		return // that the database is away is told elsewhere
	}
	var quiet, firing int64
	for _, r := range rules {
		switch {
		case !r.Enabled:
		case r.Status.State == alert.Firing:
			firing++
		default:
			quiet++
		}
	}
	a.measures.rules[0].Store(quiet)
	a.measures.rules[1].Store(firing)
	a.measures.counted.Store(true)
}

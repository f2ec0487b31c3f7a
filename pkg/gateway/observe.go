package gateway

import (
	"fmt"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/keywarden/keywarden/pkg/openapi/contract"
	"github.com/keywarden/keywarden/pkg/reqctx"
)

// Attributes of what policies decide.
const (
	attrRoute  = attribute.Key("keywarden.route")
	attrPolicy = attribute.Key("keywarden.policy")
)

// observer counts and logs what policies decide. It is safe for concurrent use.
type observer struct {
	logger   *slog.Logger
	refused  metric.Int64Counter
	shadowed metric.Int64Counter
	drifted  metric.Int64Counter

	told atomic.Int64 // when drift was logged last, in Unix nanoseconds
}

func newObserver(logger *slog.Logger, meter metric.Meter) (*observer, error) {
	refused, err := meter.Int64Counter("keywarden.policy.refusals",
		metric.WithDescription("Requests that a policy of a route has refused."))
	if err != nil {
		return nil, fmt.Errorf("making the metric keywarden.policy.refusals: %w", err)
	}
	shadowed, err := meter.Int64Counter("keywarden.policy.shadow_refusals",
		metric.WithDescription("Requests that a policy in shadow mode would have refused or changed."))
	if err != nil {
		return nil, fmt.Errorf("making the metric keywarden.policy.shadow_refusals: %w", err)
	}
	drifted, err := meter.Int64Counter("keywarden.contract.drift",
		metric.WithDescription("Answers of services that are not as the description of their API says."))
	if err != nil {
		return nil, fmt.Errorf("making the metric keywarden.contract.drift: %w", err)
	}
	return &observer{logger: logger, refused: refused, shadowed: shadowed, drifted: drifted}, nil
}

func attributes(route, policy string) metric.MeasurementOption {
	return metric.WithAttributeSet(attribute.NewSet(attrRoute.String(route), attrPolicy.String(policy)))
}

// Shadowed implements policy.Observer.
func (o *observer) Shadowed(r *http.Request, policy string, err error) {
	ctx := r.Context()
	info := reqctx.From(ctx)
	o.shadowed.Add(ctx, 1, attributes(info.Route, policy))
	fields := []any{"route", info.Route, "policy", policy, "request_id", info.ID}
	if err != nil {
		fields = append(fields, "error", err)
	}
	o.logger.InfoContext(ctx, "a policy in shadow mode would have acted", fields...)
}

// ConditionFailed implements policy.Observer.
func (o *observer) ConditionFailed(r *http.Request, policy string, err error) {
	info := reqctx.From(r.Context())
	o.logger.WarnContext(r.Context(), "the condition of a policy could not be worked out",
		"route", info.Route, "policy", policy, "request_id", info.ID, "error", err)
}

// driftLogged is how often drift is logged at most: a service that has drifted does so
// in every answer.
const driftLogged = 10 * time.Second

// Drifted counts an answer that is not as described, and logs a sample of them.
func (o *observer) Drifted(r *http.Request, status int, failures []contract.Failure) {
	ctx := r.Context()
	info := reqctx.From(ctx)
	o.drifted.Add(ctx, 1, metric.WithAttributes(attrRoute.String(info.Route)))
	now, told := time.Now().UnixNano(), o.told.Load()
	if told != 0 && now-told < int64(driftLogged) || !o.told.CompareAndSwap(told, now) {
		return
	}
	o.logger.WarnContext(ctx, "an answer is not as the description of the API says", "route", info.Route, "status", status,
		"field", failures[0].Path(), "detail", failures[0].Message, "failures", len(failures), "request_id", info.ID)
}

// refusedBy counts a refusal, when it is one of a policy.
func (o *observer) refusedBy(r *http.Request, info *reqctx.Info) {
	if info.Policy != "" {
		o.refused.Add(r.Context(), 1, attributes(info.Route, info.Policy))
	}
}

// Package proxy forwards a request to its service and the response back. It owns
// the outbound request (path, identity and forwarding fields, what is stripped),
// streaming in both directions, protocol upgrades, the bound on an exchange, and
// the answers for everything that can go wrong on the way.
//
// It does not choose the route, does not authenticate, and keeps no connections:
// those are the upstream package's. Bodies are streamed at the pace of the slower
// side and never buffered as a whole.
package proxy

import (
	"errors"
	"log/slog"
	"net/http/httputil"
	"net/url"
	"strings"

	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/keywarden/keywarden/pkg/gateway/upstream"
)

// Options is what all services of a process share. All fields but Issuer are
// required; what is not wanted is a no-op implementation.
type Options struct {
	Logger     *slog.Logger
	Meter      metric.Meter
	Tracer     trace.Tracer
	Propagator propagation.TextMapPropagator

	// Issuer is the "iss" of this platform's access tokens. One that a client sends
	// to a route that does not ask for it is not forwarded.
	Issuer string
}

// Proxy makes services. It is safe for concurrent use.
type Proxy struct {
	logger     *slog.Logger
	tracer     trace.Tracer
	propagator propagation.TextMapPropagator
	issuer     string
	duration   metric.Float64Histogram
	buffers    *bufferPool
}

// New makes a proxy.
func New(o Options) (*Proxy, error) {
	if o.Logger == nil || o.Meter == nil || o.Tracer == nil || o.Propagator == nil {
		return nil, errors.New("proxy: logger, meter, tracer and propagator are required")
	}
	duration, err := newDuration(o.Meter)
	if err != nil {
		return nil, err
	}
	return &Proxy{
		logger:     o.Logger,
		tracer:     o.Tracer,
		propagator: o.Propagator,
		issuer:     o.Issuer,
		duration:   duration,
		buffers:    newBufferPool(),
	}, nil
}

// Service forwards to one backend. It is immutable.
type Service struct {
	proxy   *Proxy
	target  *url.URL
	base    string // escaped path of target, without a slash at its end
	pool    *upstream.Pool
	metrics *serviceMetrics
	reverse *httputil.ReverseProxy
}

// Service makes the forwarder to a backend: target's scheme and host through
// pool, with target's path, which is canonical, before every request's.
func (p *Proxy) Service(name string, target *url.URL, pool *upstream.Pool) *Service {
	s := &Service{
		proxy:   p,
		target:  target,
		base:    strings.TrimSuffix(target.EscapedPath(), "/"),
		pool:    pool,
		metrics: newServiceMetrics(p.duration, name, target),
	}
	logger := p.logger.Handler().WithAttrs([]slog.Attr{slog.String("service", name)})
	s.reverse = &httputil.ReverseProxy{
		Rewrite:        s.rewrite,
		Transport:      pool,
		ModifyResponse: s.modifyResponse,
		ErrorHandler:   s.handleError,
		BufferPool:     p.buffers,
		// What it logs has no request beside it; the access log has the reason.
		ErrorLog: slog.NewLogLogger(logger, slog.LevelDebug),
	}
	return s
}

// Package proxy forwards a request to its service and the response back. It owns
// the outbound request (path, identity and forwarding fields, what is stripped),
// streaming in both directions, protocol upgrades, the bound on an exchange, and
// the answers for everything that can go wrong on the way.
//
// It does not choose the route, does not authenticate, and does not choose the
// target or keep connections: packages forward and upstream do. Bodies are streamed at the pace of the slower
// side and never buffered as a whole.
package proxy

import (
	"errors"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"strings"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/keywarden/keywarden/pkg/gateway/credential"
	"github.com/keywarden/keywarden/pkg/gateway/forward"
	"github.com/keywarden/keywarden/pkg/gateway/proxy/bodycopy"
	"github.com/keywarden/keywarden/pkg/gateway/proxy/duration"
	"github.com/keywarden/keywarden/pkg/header"
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

	// Ordinary sends every request by [net/http]'s own transport, so that both ways can
	// be compared.
	Ordinary bool
}

// Proxy makes services. It is safe for concurrent use.
type Proxy struct {
	logger      *slog.Logger
	tracer      trace.Tracer
	propagator  propagation.TextMapPropagator
	issuer      string
	duration    metric.Float64Histogram
	bodies      *bodycopy.Copier
	fields      header.Pool
	traceFields []string // of propagator, in canonical form
	loop        []string // the name of the process in [headerLoop], alone; never changed
	ordinary    bool
}

// New makes a proxy.
func New(o Options) (*Proxy, error) {
	if o.Logger == nil || o.Meter == nil || o.Tracer == nil || o.Propagator == nil {
		return nil, errors.New("proxy: logger, meter, tracer and propagator are required")
	}
	took, err := duration.New(o.Meter)
	if err != nil {
		return nil, err
	}
	traced := o.Propagator.Fields()
	for i, name := range traced {
		traced[i] = http.CanonicalHeaderKey(name)
	}
	return &Proxy{
		traceFields: traced,
		logger:      o.Logger,
		tracer:      o.Tracer,
		propagator:  o.Propagator,
		issuer:      o.Issuer,
		duration:    took,
		bodies:      bodycopy.New(),
		loop:        []string{newLoopName()},
		ordinary:    o.Ordinary,
	}, nil
}

// Service forwards to one backend. It is immutable but for the backend, which can
// be exchanged for one with other targets.
type Service struct {
	proxy   *Proxy
	base    string // escaped path before that of every request, without a slash at its end
	backend atomic.Pointer[forward.Service]
	hash    func(*http.Request) uint64 // nil when the backend needs none
	metrics []*duration.Target         // by the index of the target; one alone is that of all
	timeout time.Duration
	idle    time.Duration
	common  []attribute.KeyValue // of spans
	reverse *httputil.ReverseProxy

	credential *credential.Credential // nil: none is presented
}

// ServiceConfig is what a service is made of. Hash may be nil.
type ServiceConfig struct {
	Name    string
	Base    string // escaped canonical path that is put before every request's
	Backend *forward.Service
	Hash    func(*http.Request) uint64 // of a request, for consistent hashing

	// Credential is presented to the backend; nil for none.
	Credential *credential.Credential

	// Changing says that targets come and go. They are measured together then: each
	// would leave its metrics behind.
	Changing bool

	// Timeout bounds the exchange where the route does not; IdleTimeout bounds the
	// pauses of a body in either direction, except of streams. 0 means no bound.
	Timeout, IdleTimeout time.Duration
}

// Service makes the forwarder to a backend.
func (p *Proxy) Service(c ServiceConfig) *Service {
	s := &Service{
		proxy:   p,
		base:    strings.TrimSuffix(c.Base, "/"),
		hash:    c.Hash,
		timeout: c.Timeout,
		idle:    c.IdleTimeout,
		common:  []attribute.KeyValue{duration.Service.String(c.Name)},

		credential: c.Credential,
	}
	s.backend.Store(c.Backend)
	if c.Changing {
		s.metrics = []*duration.Target{duration.Of(p.duration, c.Name, nil)}
	} else {
		for _, t := range c.Backend.Targets() {
			s.metrics = append(s.metrics, duration.Of(p.duration, c.Name, t.URL))
		}
	}
	logger := p.logger.Handler().WithAttrs([]slog.Attr{slog.String("service", c.Name)})
	s.reverse = &httputil.ReverseProxy{
		Rewrite:        s.rewrite,
		Transport:      transport{s},
		ModifyResponse: func(res *http.Response) error { return exchangeFrom(res.Request.Context()).accept(res) },
		ErrorHandler: func(w http.ResponseWriter, out *http.Request, err error) {
			exchangeFrom(out.Context()).fail(w, out, err)
		},
		BufferPool: p.bodies,
		// What it logs has no request beside it; the access log has the reason.
		ErrorLog: slog.NewLogLogger(logger, slog.LevelDebug),
	}
	return s
}

// Use forwards to backend from now on; what has begun ends where it began. The
// service was made as one that changes, or backend has the targets it was made of.
func (s *Service) Use(backend *forward.Service) { s.backend.Store(backend) }

// transport hands the outbound request to the backend, together with what the
// exchange knows.
type transport struct{ service *Service }

// RoundTrip implements [http.RoundTripper].
func (t transport) RoundTrip(out *http.Request) (*http.Response, error) {
	return exchangeFrom(out.Context()).send(out)
}

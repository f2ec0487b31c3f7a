// Package gateway is the data plane: it compiles a gateway document into an
// immutable snapshot, serves requests by the current one, and reports what it
// serves. Documents are applied as a whole or not at all; a request is served by
// one snapshot from its begin to its end, whatever is applied meanwhile.
//
// It does not read documents (package feed does), does not verify credentials
// (package access does), and keeps no connections (package upstream does). It
// expects requests in the form of package canonical.
package gateway

import (
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/metric"
	metricnoop "go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	tracenoop "go.opentelemetry.io/otel/trace/noop"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/canonical"
	"github.com/keywarden/keywarden/pkg/decision"
	"github.com/keywarden/keywarden/pkg/gateway/chain"
	"github.com/keywarden/keywarden/pkg/gateway/credential"
	"github.com/keywarden/keywarden/pkg/gateway/discovery"
	"github.com/keywarden/keywarden/pkg/gateway/files"
	"github.com/keywarden/keywarden/pkg/gateway/mirror"
	"github.com/keywarden/keywarden/pkg/gateway/policy"
	"github.com/keywarden/keywarden/pkg/gateway/policy/auth"
	"github.com/keywarden/keywarden/pkg/gateway/policy/cache"
	"github.com/keywarden/keywarden/pkg/gateway/policy/cors"
	"github.com/keywarden/keywarden/pkg/gateway/policy/plan"
	"github.com/keywarden/keywarden/pkg/gateway/proxy"
	"github.com/keywarden/keywarden/pkg/gateway/upstream"
	"github.com/keywarden/keywarden/pkg/problem"
	"github.com/keywarden/keywarden/pkg/quota"
	"github.com/keywarden/keywarden/pkg/reqctx"
	"github.com/keywarden/keywarden/pkg/spec"
	"github.com/keywarden/keywarden/pkg/template"
)

// What a request without a route is told.
var (
	ErrNoRoute = problem.Define(problem.NotFound, "gateway.no_route",
		"No route matches this host and path.")
	ErrMethod = problem.Define(problem.MethodNotAllowed, "gateway.method_not_allowed",
		"The route of this path does not accept this method.")
)

// Options is what a gateway is made of. Authenticator and Logger are required.
type Options struct {
	Authenticator auth.Authenticator
	Logger        *slog.Logger

	// Counters makes the counters of rate limits; absent, each replica counts alone.
	Counters chain.Counters

	// Quotas hold what quotas have leased, and Cache keeps answers; absent, a route
	// that needs them is not served.
	Quotas *quota.Meters
	Cache  *cache.Cache

	// Secrets are those that templates for services may name; absent, a route that
	// names one is not served.
	Secrets template.Secrets

	// Plans hold the keys of apps to the products that the app is subscribed to; absent,
	// no route accepts them.
	Plans *plan.Plans

	// ScopeUsed hears of each scope that a route demands and that let a caller in, on the
	// caller's way: it must not block. Absent, nobody does.
	ScopeUsed func(p *access.Principal, scope string)

	// Signer signs what services are told of callers, and TokenRoots are whom token
	// endpoints are trusted by; absent, nothing is signed, and the system's are.
	Signer     credential.Signer
	TokenRoots *x509.CertPool

	// BodyLimit bounds request bodies on routes that set no limit of their own, in
	// bytes; 0 means no bound.
	BodyLimit int64

	// Issuer is the "iss" of this platform's access tokens, which no service gets to
	// see; empty, they are not recognised on routes that do not authenticate.
	Issuer string

	// Zone is where this process is: targets in it are used first. Empty is nowhere.
	Zone string

	// Ordinary asks every service by net/http's own transport, so that both ways to a
	// service can be compared.
	Ordinary bool

	// Files are those of the machine that documents may name; the zero value is none.
	Files files.Allowed

	// Decisions makes the ids under which refusals are explained; without it they have
	// none.
	Decisions *decision.Sealer

	// Meter, Tracer and Propagator are OpenTelemetry's; absent, nothing is measured,
	// traced or propagated.
	Meter      metric.Meter
	Tracer     trace.Tracer
	Propagator propagation.TextMapPropagator
}

// Gateway serves the current snapshot. Before the first document it answers 404.
type Gateway struct {
	chains   *chain.Builder
	logger   *slog.Logger
	zone     string
	files    files.Allowed
	proxy    *proxy.Proxy
	copies   *mirror.Copies
	copied   metric.Int64Counter
	lookups  *lookups
	observer *observer

	credentials *credential.Credentials

	decisions *decision.Sealer                               // nil: refusals have no id
	decideOn  func(r *http.Request, p *problem.Error) string // decide, made once

	live atomic.Pointer[snapshot]

	applying sync.Mutex // guards what follows
	pools    upstream.Pools
	rechecks *time.Timer // of files; nil while there are none to look at
	failure  failure
}

// failure is the last document that could not be used, until one could.
type failure struct {
	err error
	at  time.Time
}

// New makes a gateway without routes.
func New(o Options) (*Gateway, error) {
	if o.Authenticator == nil || o.Logger == nil {
		return nil, errors.New("gateway: authenticator and logger are required")
	}
	if o.Meter == nil {
		o.Meter = metricnoop.Meter{}
	}
	if o.Tracer == nil {
		o.Tracer = tracenoop.Tracer{}
	}
	if o.Propagator == nil {
		o.Propagator = propagation.NewCompositeTextMapPropagator()
	}
	p, err := proxy.New(proxy.Options{
		Logger: o.Logger, Meter: o.Meter, Tracer: o.Tracer, Propagator: o.Propagator, Issuer: o.Issuer, Ordinary: o.Ordinary,
	})
	if err != nil {
		return nil, fmt.Errorf("gateway: %w", err)
	}
	observer, err := newObserver(o.Logger, o.Meter)
	if err != nil {
		return nil, fmt.Errorf("gateway: %w", err)
	}
	chains, err := chain.NewBuilder(chain.Options{Authenticator: o.Authenticator, BodyLimit: o.BodyLimit, Counters: o.Counters, Quotas: o.Quotas, Cache: o.Cache, Secrets: o.Secrets, Plans: o.Plans, ScopeUsed: o.ScopeUsed, Drift: observer.Drifted})
	if err != nil {
		return nil, fmt.Errorf("gateway: %w", err)
	}
	g := &Gateway{observer: observer, chains: chains, logger: o.Logger, zone: o.Zone, proxy: p}
	g.decisions, g.decideOn, g.files = o.Decisions, g.decide, o.Files
	g.copies = mirror.NewCopies(mirror.MaxCopies, o.Logger)
	if g.copied, err = newCopied(o.Meter); err != nil {
		return nil, fmt.Errorf("gateway: %w", err)
	}
	if g.lookups, err = newLookups(o.Meter); err != nil {
		return nil, fmt.Errorf("gateway: %w", err)
	}
	fetched, err := newFetched(o.Meter)
	if err != nil {
		return nil, fmt.Errorf("gateway: %w", err)
	}
	g.credentials, err = credential.NewCredentials(credential.Options{
		Secrets: o.Secrets, Signer: o.Signer, RootCAs: o.TokenRoots, Logger: o.Logger, Now: time.Now, Fetched: fetched,
	})
	if err != nil {
		return nil, fmt.Errorf("gateway: %w", err)
	}
	g.live.Store(emptySnapshot())
	return g, nil
}

// errNotCanonical is a wiring mistake. Without canonical hosts, a request could
// miss the routes of its host and find one for every host, which may be open.
var errNotCanonical = errors.New("gateway: the request did not pass canonical.Middleware")

// ServeHTTP routes a request that has passed canonical.Middleware.
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	info := reqctx.From(r.Context())
	if info.Host == "" && r.Host != "" {
		policy.Refuse(w, r, "", errNotCanonical)
		return
	}
	info.Decide = g.decideOn
	found, refusal := g.live.Load().find(r, info)
	if refusal != nil {
		refuse(w, r, info, refusal)
		return
	}
	info.Route, info.Service = found.name, found.service
	found.handler.ServeHTTP(w, r)
}

// refuse answers a request without a route. What has an encoded slash is refused as
// package canonical refuses all others of its kind.
func refuse(w http.ResponseWriter, r *http.Request, info *reqctx.Info, refusal *problem.Error) {
	if refusal != info.EncodedSlash {
		policy.Refuse(w, r, "", refusal)
		return
	}
	info.Code, info.Err = refusal.Code, refusal
	refusal.Write(w, info.ID)
}

// errDoubleEncoding keeps a path that reads as one with an encoded slash from
// routes that take these: both would be the same to policies, and not to services.
var errDoubleEncoding = canonical.ErrPath.WithDetail("The path of the request is not acceptable: it holds an encoded slash that is encoded itself.")

// find returns the route of a request, or why there is none.
//
// A path with an encoded slash needs a route that takes them. The service may take
// it for a slash nevertheless, so that another route may not be the one of the path
// that it would then see: it could ask for what this one does not.
func (s *snapshot) find(r *http.Request, info *reqctx.Info) (*route, *problem.Error) {
	found, refusal := s.lookup(r, info, r.URL.Path)
	if info.EncodedSlash == nil {
		if refusal == nil && found.slashes && canonical.CountSlashes(r.URL.Path) > 0 {
			return nil, errDoubleEncoding
		}
		return found, refusal
	}
	if refusal != nil || !found.slashes {
		return nil, info.EncodedSlash
	}
	if other, none := s.lookup(r, info, canonical.DecodeSlashes(r.URL.Path)); other != found && none != ErrNoRoute {
		return nil, info.EncodedSlash
	}
	return found, nil
}

// lookup returns the route of a request that has this path.
func (s *snapshot) lookup(r *http.Request, info *reqctx.Info, path string) (*route, *problem.Error) {
	// A browser asks with OPTIONS whether it may use another method: the route of
	// that method answers.
	if cors.IsPreflight(r) {
		found := s.index.Lookup(info.Host, path, cors.RequestedMethod(r), r)
		if found.Found && found.Value.preflight != nil {
			return found.Value.preflight, nil
		}
	}
	found := s.index.Lookup(info.Host, path, r.Method, r)
	switch {
	case found.Found:
		return found.Value, nil
	case found.Allow != "":
		return nil, ErrMethod.WithAllow(found.Allow)
	default:
		return nil, ErrNoRoute
	}
}

// Apply compiles doc and serves it from now on. On error nothing changes, except
// that the error is remembered; of a document with the digest of the current one,
// only the files that it names are read again. Requests that have begun end as they began.
func (g *Gateway) Apply(doc spec.Document) error {
	ended, err := g.applyNow(doc)
	await(ended)
	return err
}

func (g *Gateway) applyNow(doc spec.Document) ([]*discovery.Follower, error) {
	g.applying.Lock()
	defer g.applying.Unlock()
	ended, err := g.apply(doc)
	g.failure = failure{}
	if err != nil {
		g.failure = failure{err: err, at: time.Now()}
	}
	return ended, err
}

// apply returns the sources that were stopped.
func (g *Gateway) apply(doc spec.Document) ([]*discovery.Follower, error) {
	digest, err := doc.Digest()
	if err != nil {
		return nil, err
	}
	before := g.live.Load()
	if digest == before.digest && len(before.unusable) == 0 {
		g.renewFiles(before)
		return nil, nil
	}
	if err := doc.Validate(); err != nil {
		return nil, err
	}
	if err := g.files.Check(&doc); err != nil {
		return nil, err
	}
	next, err := g.compile(doc)
	if err != nil {
		g.pools.Keep(before.pools()) // some may have been made in vain
		return nil, fmt.Errorf("compiling the gateway document: %w", err)
	}
	next.digest, next.applied = digest, time.Now()
	g.live.Store(next)
	ended := g.handOver(before, next)
	g.logger.Info("gateway document applied", "digest", digest.String(), "routes", next.routes, "services", next.services)
	return ended, nil
}

// Refused remembers why a document that is newer than the current one could not
// even be applied, until one is.
func (g *Gateway) Refused(err error) {
	g.applying.Lock()
	defer g.applying.Unlock()
	g.failure = failure{err: err, at: time.Now()}
}

// State is what a gateway serves.
type State struct {
	Digest    string    // of the document, in hexadecimal; empty before the first
	AppliedAt time.Time // zero before the first document
	Routes    int
	Services  int
	Backends  []BackendState // by name

	// Unusable are the routes of which a part could not be made, by name: they refuse
	// every request, and the others are served.
	Unusable map[string]error

	// LastError is why a newer document is not served; nil when there is none.
	LastError error
	FailedAt  time.Time
}

// State reports.
func (g *Gateway) State() State {
	g.applying.Lock()
	defer g.applying.Unlock()
	s := g.live.Load()
	return State{
		Digest:    s.digest.String(),
		AppliedAt: s.applied,
		Routes:    s.routes,
		Services:  s.services,
		Backends:  s.states(time.Now()),
		Unusable:  s.unusable,
		LastError: g.failure.err,
		FailedAt:  g.failure.at,
	}
}

// Close removes all routes and closes the connections to services, each when the
// request on it has ended. It comes after the listeners were closed.
func (g *Gateway) Close() {
	g.applying.Lock()
	before := g.live.Swap(emptySnapshot())
	g.copies.Close()
	g.credentials.Close()
	ended := g.handOver(before, emptySnapshot())
	g.applying.Unlock()
	await(ended)
}

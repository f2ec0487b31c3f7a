package gateway

import (
	"encoding/json"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/gateway/balance"
	"github.com/keywarden/keywarden/pkg/gateway/credential"
	"github.com/keywarden/keywarden/pkg/gateway/discovery"
	"github.com/keywarden/keywarden/pkg/gateway/forward"
	"github.com/keywarden/keywarden/pkg/gateway/health"
	"github.com/keywarden/keywarden/pkg/gateway/proxy"
	"github.com/keywarden/keywarden/pkg/gateway/resilience"
	"github.com/keywarden/keywarden/pkg/gateway/upstream"
	"github.com/keywarden/keywarden/pkg/problem"
	"github.com/keywarden/keywarden/pkg/reqctx"
	"github.com/keywarden/keywarden/pkg/spec/services"
)

// What a request gets that could not be given to any target.
var (
	ErrTargetsUnknown = problem.Define(problem.Unavailable, "gateway.targets_unknown",
		"The targets of the service behind this route are still being looked up.").WithRetryAfter(time.Second)
	ErrNoTargets = problem.Define(problem.Unavailable, "gateway.no_targets",
		"The service behind this route has no target at the moment.").WithRetryAfter(5 * time.Second)
	ErrUnusable = problem.Define(problem.Unavailable, "gateway.service_unusable",
		"The service behind this route cannot be used: a file that it needs is missing or bad.").WithRetryAfter(recheckFailed)
)

// backend is a service that runs: what the document says of it, and what is known
// of it. As long as documents say the same, it is one and the same from snapshot
// to snapshot; when they change it, the parts that they leave alone live on.
type backend struct {
	name     string
	spec     *services.Service
	config   string // the service in the document, as JSON
	parts    parts
	proxy    *proxy.Service
	breaker  *resilience.Breaker
	bulkhead *resilience.Bulkhead
	budget   *resilience.Budget
	watcher  *health.Watcher // nil without passive checks

	credential *credential.Credential // nil: none is presented

	active *services.ActiveHealth

	// What follows changes while the backend serves; Gateway.applying guards it.
	addresses []services.Address
	known     bool // addresses are; they are not before a source has answered
	set       *targetSet
	err       error               // why set is not what the document asks for; nil when it is
	checker   *health.Checker     // nil until started, and without active checks
	follower  *discovery.Follower // nil until started, and where targets are not looked up
}

// parts are the pieces of a service's configuration that have state, as JSON.
type parts struct{ breaker, bulkhead, retry, active, discovery, credential string }

// encoded is the JSON of a piece; the types of a document always have one.
func encoded(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(text)
}

// backend compiles a service. before is what runs under its name, or nil. A file
// that cannot be used is not an error: the service is left out until it can be.
func (g *Gateway) backend(s *services.Service, before *backend) (*backend, error) {
	config := encoded(s)
	if before != nil && before.config == config {
		return before, nil
	}
	if before == nil {
		before = &backend{set: &targetSet{}}
	}
	b := &backend{name: s.Name, spec: s, config: config, active: activeOf(s), set: &targetSet{}, parts: parts{
		encoded(s.Breaker), encoded(s.Bulkhead), encoded(s.Retry), encoded(activeOf(s)), encoded(s.Discovery),
		encoded(s.Credential),
	}}
	addresses, base, err := s.Addresses()
	if err != nil {
		return nil, err
	}
	b.addresses, b.known = addresses, s.Discovery == nil
	b.takeOver(before)
	b.protect(s, before)
	if err := g.present(b, before); err != nil {
		return nil, err
	}
	b.watcher = g.watcher(s)
	set, err := g.assemble(s, b.addresses, before.set.states)
	if err == nil {
		b.set = set
	}
	g.note(b, err)
	b.follow()
	b.proxy = g.proxy.Service(proxy.ServiceConfig{
		Name: s.Name, Base: base.EscapedPath(), Hash: hashOf(s.Balance.Hash), Backend: b.forwarder(),
		Changing: s.Discovery != nil || err != nil, Timeout: time.Duration(s.Timeout), IdleTimeout: time.Duration(s.IdleTimeout),
		Credential: b.credential,
	})
	return b, nil
}

// takeOver keeps what was looked up for the backend before, where this one looks
// for the same; and the source, where it does so in the same way.
func (b *backend) takeOver(before *backend) {
	if b.spec.Discovery == nil || before.follower == nil || subject(b.spec.Discovery) != subject(before.spec.Discovery) {
		return
	}
	b.addresses, b.known = before.addresses, before.known
	if b.parts.discovery == before.parts.discovery {
		b.follower = before.follower
	}
}

func tlsOf(s *services.Service) upstream.TLS {
	var t upstream.TLS
	if s.TLS != nil {
		t = upstream.TLS{CAFile: s.TLS.CAFile, CertFile: s.TLS.CertFile, KeyFile: s.TLS.KeyFile, ServerName: s.TLS.ServerName}
	}
	if t.ServerName == "" && s.Discovery != nil && s.Discovery.Scheme() == "https" {
		t.ServerName = serverName(s.Discovery)
	}
	return t
}

func identity(s *services.Service, target *url.URL, files upstream.TLS) upstream.Identity {
	protocol := upstream.Auto
	switch s.Protocol {
	case services.ProtocolHTTP1:
		protocol = upstream.HTTP1
	case services.ProtocolH2C:
		protocol = upstream.H2C
	}
	return upstream.Identity{
		Scheme: target.Scheme, Host: target.Host,
		ConnectTimeout: time.Duration(s.ConnectTimeout), ResponseTimeout: time.Duration(s.ResponseTimeout),
		Protocol: protocol, TLS: files,
	}
}

// present makes the credential that is presented, or takes over the one there was
// with what it holds.
func (g *Gateway) present(b, before *backend) (err error) {
	if b.spec.Credential == nil {
		return nil
	}
	b.credential = before.credential
	if b.credential == nil || before.parts.credential != b.parts.credential {
		b.credential, err = g.credentials.New(b.name, b.spec.Credential)
	}
	return err
}

// protect makes what stands in the way of trouble, or takes over what there was.
func (b *backend) protect(s *services.Service, before *backend) {
	if c := s.Breaker; c != nil {
		b.breaker = before.breaker
		if b.breaker == nil || before.parts.breaker != b.parts.breaker {
			b.breaker = resilience.NewBreaker(resilience.BreakerConfig{
				ErrorRate: c.ErrorRate, MinRequests: uint(c.MinRequests), Window: time.Duration(c.Window),
				OpenFor: time.Duration(c.OpenFor), Probes: uint(c.Probes),
			})
		}
	}
	if c := s.Bulkhead; c != nil {
		b.bulkhead = before.bulkhead
		if b.bulkhead == nil || before.parts.bulkhead != b.parts.bulkhead {
			b.bulkhead = resilience.NewBulkhead(resilience.BulkheadConfig{
				MaxInFlight: c.MaxInFlight, MaxQueue: c.MaxQueue, QueueFor: time.Duration(c.QueueFor),
			})
		}
	}
	if c := s.Retry; c != nil {
		b.budget = before.budget
		if b.budget == nil || before.parts.retry != b.parts.retry {
			b.budget = resilience.NewBudget(c.Budget)
		}
	}
	b.active = activeOf(s)
}

func activeOf(s *services.Service) *services.ActiveHealth {
	if s.Health == nil {
		return nil
	}
	return s.Health.Active
}

// connectAttempts is how often a service with several targets is tried when
// nothing is configured: only where no connection could be made.
const connectAttempts = 3

func (b *backend) retry() forward.Retry {
	c := b.spec.Retry
	if c == nil {
		return forward.Retry{Attempts: max(1, min(connectAttempts, len(b.set.targets))), On: forward.OnConnect}
	}
	r := forward.Retry{
		Attempts: c.Attempts, Backoff: time.Duration(c.Backoff), MaxBackoff: time.Duration(c.MaxBackoff), Budget: b.budget,
	}
	reasons := map[string]forward.Reason{
		services.RetryConnect: forward.OnConnect, services.RetryReset: forward.OnReset, services.RetryTimeout: forward.OnTimeout,
		services.Retry502: forward.On502, services.Retry503: forward.On503, services.Retry504: forward.On504,
	}
	for _, reason := range c.On {
		r.On |= reasons[reason]
	}
	return r
}

// watcher makes the passive checks: those that are configured, or, for a service
// with several targets that says nothing of health, the default ones.
func (g *Gateway) watcher(s *services.Service) *health.Watcher {
	var c *services.PassiveHealth
	if s.Health != nil {
		c = s.Health.Passive
	} else if len(s.Targets) > 1 || s.Discovery != nil {
		c = services.DefaultPassiveHealth()
	}
	if c == nil {
		return nil
	}
	return health.NewWatcher(health.Passive{
		Failures: c.Failures, ErrorRate: c.ErrorRate, MinRequests: c.MinRequests,
		Window: time.Duration(c.Window), EjectFor: time.Duration(c.EjectFor),
	}, nil, g.logger.With("service", s.Name))
}

// hashOf returns what consistent hashing goes by; nil when nothing does.
func hashOf(h *services.Hash) func(*http.Request) uint64 {
	if h == nil {
		return nil
	}
	switch h.By {
	case services.HashHeader:
		name := http.CanonicalHeaderKey(h.Name)
		return func(r *http.Request) uint64 { return balance.Hash(r.Header.Get(name)) }
	case services.HashCookie:
		return func(r *http.Request) uint64 {
			if c, err := r.Cookie(h.Name); err == nil {
				return balance.Hash(c.Value)
			}
			return hashClient(r)
		}
	case services.HashUser:
		return func(r *http.Request) uint64 {
			if p := access.PrincipalFrom(r.Context()); p != nil {
				return balance.Hash(p.UserID)
			}
			return hashClient(r)
		}
	default:
		return hashClient
	}
}

func hashClient(r *http.Request) uint64 {
	return balance.Hash(reqctx.From(r.Context()).Client.String())
}

// BackendState is what is known of a service.
type BackendState struct {
	Name    string
	Breaker string // closed, open or half_open; empty without a breaker

	// Error is why the service is not as the document says: it is left out, or goes
	// on as it was. It is nil when all is well.
	Error error

	// Source is what is known of where the targets are looked up; nil when they are
	// in the document.
	Source *discovery.State

	Targets []TargetState
}

// TargetState is what is known of one address of a service.
type TargetState struct {
	URL       string
	Available bool
	Down      bool // by active checks
	Ejected   bool // by passive ones
	InFlight  int64
	Latency   time.Duration // average until the header of an answer
}

func (s *snapshot) states(now time.Time) []BackendState {
	list := make([]BackendState, 0, len(s.backends))
	for _, name := range slices.Sorted(maps.Keys(s.backends)) {
		b := s.backends[name]
		state := BackendState{Name: name, Error: b.err}
		if b.follower != nil {
			source := b.follower.State()
			state.Source = &source
		}
		if b.breaker != nil {
			state.Breaker = b.breaker.State()
		}
		for _, t := range b.set.targets {
			state.Targets = append(state.Targets, TargetState{
				URL: t.Name(), Available: t.Available(now), Down: t.Down(), Ejected: t.Ejected(now),
				InFlight: t.InFlight(), Latency: t.Latency(),
			})
		}
		list = append(list, state)
	}
	return list
}

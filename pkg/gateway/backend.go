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
	"github.com/keywarden/keywarden/pkg/gateway/forward"
	"github.com/keywarden/keywarden/pkg/gateway/health"
	"github.com/keywarden/keywarden/pkg/gateway/proxy"
	"github.com/keywarden/keywarden/pkg/gateway/resilience"
	"github.com/keywarden/keywarden/pkg/gateway/upstream"
	"github.com/keywarden/keywarden/pkg/reqctx"
	"github.com/keywarden/keywarden/pkg/spec"
)

// backend is a service that runs: what the document says of it, and what is known
// of it. As long as documents say the same, it is one and the same from snapshot
// to snapshot; when they change it, the parts that they leave alone live on.
type backend struct {
	name     string
	config   string // the service in the document, as JSON
	parts    parts
	proxy    *proxy.Service
	targets  []*forward.Target
	pools    []upstream.Identity
	states   map[string]*balance.State // by address
	breaker  *resilience.Breaker
	bulkhead *resilience.Bulkhead
	budget   *resilience.Budget
	active   *spec.ActiveHealth
	checker  *health.Checker // nil until started, and without active checks
}

// parts are the pieces of a service's configuration that have state, as JSON.
type parts struct{ breaker, bulkhead, retry, active string }

// encoded is the JSON of a piece; the types of a document always have one.
func encoded(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(text)
}

// backend compiles a service. before is what runs under its name, or nil.
func (g *Gateway) backend(s *spec.Service, before *backend) (*backend, error) {
	files, err := tlsOf(s).Read()
	if err != nil {
		return nil, err
	}
	config := encoded([]any{s, files.Content})
	if before != nil && before.config == config {
		return before, nil
	}
	if before == nil {
		before = &backend{}
	}
	b := &backend{
		name: s.Name, config: config, states: map[string]*balance.State{},
		parts: parts{encoded(s.Breaker), encoded(s.Bulkhead), encoded(s.Retry), encoded(activeOf(s))},
	}
	addresses, base, err := s.Addresses()
	if err != nil {
		return nil, err
	}
	for i, a := range addresses {
		id := identity(s, a.URL, files)
		pool, err := g.pools.Get(id)
		if err != nil {
			return nil, err
		}
		state := before.states[a.Target.URL]
		if state == nil {
			state = balance.NewState(a.Target.URL)
		}
		b.states[a.Target.URL] = state
		b.pools = append(b.pools, id)
		b.targets = append(b.targets, &forward.Target{
			Target: balance.Target{State: state, Weight: a.Weight, Priority: a.Priority, Zone: a.Zone},
			URL:    a.URL, Pool: pool, Index: i,
		})
	}
	balancer, err := balance.New(balance.Options{
		Policy: balance.Policy(s.Balance.Policy), SlowStart: time.Duration(s.Balance.SlowStart), Zone: g.zone,
	}, balanced(b.targets))
	if err != nil {
		return nil, err
	}
	b.protect(s, before)
	b.proxy = g.proxy.Service(proxy.ServiceConfig{
		Name: s.Name, Base: base.EscapedPath(), Hash: hashOf(s.Balance.Hash),
		Backend: forward.New(forward.Config{
			Targets: b.targets, Balancer: balancer, Watcher: g.watcher(s, b.targets),
			Breaker: b.breaker, Bulkhead: b.bulkhead, Retry: b.retry(s), Now: time.Now,
		}),
	})
	return b, nil
}

func tlsOf(s *spec.Service) upstream.TLS {
	if s.TLS == nil {
		return upstream.TLS{}
	}
	return upstream.TLS{CAFile: s.TLS.CAFile, CertFile: s.TLS.CertFile, KeyFile: s.TLS.KeyFile, ServerName: s.TLS.ServerName}
}

func identity(s *spec.Service, target *url.URL, files upstream.TLS) upstream.Identity {
	protocol := upstream.Auto
	switch s.Protocol {
	case spec.ProtocolHTTP1:
		protocol = upstream.HTTP1
	case spec.ProtocolH2C:
		protocol = upstream.H2C
	}
	return upstream.Identity{
		Scheme: target.Scheme, Host: target.Host,
		ConnectTimeout: time.Duration(s.ConnectTimeout), ResponseTimeout: time.Duration(s.ResponseTimeout),
		Protocol: protocol, TLS: files,
	}
}

func balanced(targets []*forward.Target) []balance.Target {
	list := make([]balance.Target, len(targets))
	for i, t := range targets {
		list[i] = t.Target
	}
	return list
}

// protect makes what stands in the way of trouble, or takes over what there was.
func (b *backend) protect(s *spec.Service, before *backend) {
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

func activeOf(s *spec.Service) *spec.ActiveHealth {
	if s.Health == nil {
		return nil
	}
	return s.Health.Active
}

// connectAttempts is how often a service with several targets is tried when
// nothing is configured: only where no connection could be made.
const connectAttempts = 3

func (b *backend) retry(s *spec.Service) forward.Retry {
	c := s.Retry
	if c == nil {
		return forward.Retry{Attempts: min(connectAttempts, len(b.targets)), On: forward.OnConnect}
	}
	r := forward.Retry{
		Attempts: c.Attempts, Backoff: time.Duration(c.Backoff), MaxBackoff: time.Duration(c.MaxBackoff), Budget: b.budget,
	}
	reasons := map[string]forward.Reason{
		spec.RetryConnect: forward.OnConnect, spec.RetryReset: forward.OnReset, spec.RetryTimeout: forward.OnTimeout,
		spec.Retry502: forward.On502, spec.Retry503: forward.On503, spec.Retry504: forward.On504,
	}
	for _, reason := range c.On {
		r.On |= reasons[reason]
	}
	return r
}

// watcher makes the passive checks: those that are configured, or, for a service
// with several targets that says nothing of health, the default ones.
func (g *Gateway) watcher(s *spec.Service, targets []*forward.Target) *health.Watcher {
	var c *spec.PassiveHealth
	if s.Health != nil {
		c = s.Health.Passive
	} else if len(targets) > 1 {
		c = spec.DefaultPassiveHealth()
	}
	if c == nil {
		return nil
	}
	states := make([]*balance.State, len(targets))
	for i, t := range targets {
		states[i] = t.State
	}
	return health.NewWatcher(health.Passive{
		Failures: c.Failures, ErrorRate: c.ErrorRate, MinRequests: c.MinRequests,
		Window: time.Duration(c.Window), EjectFor: time.Duration(c.EjectFor),
	}, states, g.logger.With("service", s.Name))
}

// hashOf returns what consistent hashing goes by; nil when nothing does.
func hashOf(h *spec.Hash) func(*http.Request) uint64 {
	if h == nil {
		return nil
	}
	switch h.By {
	case spec.HashHeader:
		name := http.CanonicalHeaderKey(h.Name)
		return func(r *http.Request) uint64 { return balance.Hash(r.Header.Get(name)) }
	case spec.HashCookie:
		return func(r *http.Request) uint64 {
			if c, err := r.Cookie(h.Name); err == nil {
				return balance.Hash(c.Value)
			}
			return hashClient(r)
		}
	case spec.HashUser:
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

// start begins the active checks of a backend that has some.
func (g *Gateway) start(b *backend) {
	if b.active == nil || b.checker != nil {
		return
	}
	c := b.active
	status := []health.StatusRange{{From: 200, To: 299}}
	if c.Status != nil {
		status = nil
		for _, r := range c.Status {
			status = append(status, health.StatusRange(r))
		}
	}
	var checked []health.Checked
	for _, t := range b.targets {
		checked = append(checked, health.Checked{State: t.State, URL: t.URL, Prober: t.Pool})
	}
	b.checker = health.Start(health.Active{
		Kind: health.Kind(c.Type), Path: c.Path, Interval: time.Duration(c.Interval), Timeout: time.Duration(c.Timeout),
		HealthyAfter: c.HealthyAfter, UnhealthyAfter: c.UnhealthyAfter, Status: status,
	}, checked, g.logger.With("service", b.name), time.Now)
}

// handOver ends what only before used and starts what is new in next.
func (g *Gateway) handOver(before, next *snapshot) {
	for name, b := range before.backends {
		if next.backends[name] == b || b.checker == nil {
			continue
		}
		b.checker.Stop()
		// Nobody asks these targets any more: a verdict of before must not stick.
		if after := next.backends[name]; after == nil || after.active == nil {
			for _, t := range b.targets {
				t.SetDown(false, time.Now())
			}
		}
	}
	for _, b := range next.backends {
		g.start(b)
	}
	g.pools.Keep(next.pools())
}

// pools are those of all backends of the snapshot.
func (s *snapshot) pools() map[upstream.Identity]bool {
	used := map[upstream.Identity]bool{}
	for _, b := range s.backends {
		for _, id := range b.pools {
			used[id] = true
		}
	}
	return used
}

// BackendState is what is known of a service.
type BackendState struct {
	Name    string
	Breaker string // closed, open or half_open; empty without a breaker
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
		state := BackendState{Name: name}
		if b.breaker != nil {
			state.Breaker = b.breaker.State()
		}
		for _, t := range b.targets {
			state.Targets = append(state.Targets, TargetState{
				URL: t.Name(), Available: t.Available(now), Down: t.Down(), Ejected: t.Ejected(now),
				InFlight: t.InFlight(), Latency: t.Latency(),
			})
		}
		list = append(list, state)
	}
	return list
}

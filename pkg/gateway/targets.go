package gateway

import (
	"net/url"
	"slices"
	"time"

	"github.com/keywarden/keywarden/pkg/gateway/balance"
	"github.com/keywarden/keywarden/pkg/gateway/discovery"
	"github.com/keywarden/keywarden/pkg/gateway/forward"
	"github.com/keywarden/keywarden/pkg/gateway/health"
	"github.com/keywarden/keywarden/pkg/gateway/upstream"
	"github.com/keywarden/keywarden/pkg/spec/services"
)

// targetSet is the targets of a backend at one time. It is immutable; the zero
// value has none.
type targetSet struct {
	files    upstream.TLS
	targets  []*forward.Target
	pools    []upstream.Identity
	states   map[string]*balance.State // by address
	balancer *balance.Balancer         // nil without targets
}

// assemble makes the targets of a service at these addresses, with its files as
// they are now. Addresses that are among states keep theirs.
func (g *Gateway) assemble(s *services.Service, addresses []services.Address, states map[string]*balance.State) (*targetSet, error) {
	files, err := tlsOf(s).Read()
	if err != nil {
		return nil, err
	}
	set := &targetSet{files: files, states: make(map[string]*balance.State, len(addresses))}
	list := make([]balance.Target, 0, len(addresses))
	for i, a := range addresses {
		id := identity(s, a.URL, files)
		pool, err := g.pools.Get(id)
		if err != nil {
			return nil, err
		}
		state := states[a.Target.URL]
		if state == nil {
			state = balance.NewState(a.Target.URL)
		}
		set.states[a.Target.URL] = state
		set.pools = append(set.pools, id)
		t := &forward.Target{
			Target: balance.Target{State: state, Weight: a.Weight, Priority: a.Priority, Zone: a.Zone},
			URL:    a.URL, Pool: pool, Index: i,
		}
		set.targets, list = append(set.targets, t), append(list, t.Target)
	}
	if len(list) == 0 {
		return set, nil
	}
	set.balancer, err = balance.New(balance.Options{
		Policy: balance.Policy(s.Balance.Policy), SlowStart: time.Duration(s.Balance.SlowStart), Zone: g.zone,
	}, list)
	return set, err
}

// same reports whether both sets are made of the same.
func (set *targetSet) same(as *targetSet) bool {
	return set.files == as.files && slices.EqualFunc(set.targets, as.targets, func(a, b *forward.Target) bool {
		return a.Target == b.Target && a.Pool == b.Pool
	})
}

// forwarder sends requests to the set of now.
func (b *backend) forwarder() *forward.Service {
	return forward.New(forward.Config{
		Targets: b.set.targets, Balancer: b.set.balancer, Refusal: b.refusal(), Watcher: b.watcher,
		Breaker: b.breaker, Bulkhead: b.bulkhead, Retry: b.retry(), Now: time.Now,
	})
}

// refusal is what requests get while there are no targets.
func (b *backend) refusal() error {
	switch {
	case b.err != nil:
		return ErrUnusable.With(b.err)
	case !b.known:
		return ErrTargetsUnknown
	default:
		return ErrNoTargets
	}
}

// follow makes those who look at the targets look at the set of now.
func (b *backend) follow() {
	if b.watcher != nil {
		states := make([]*balance.State, len(b.set.targets))
		for i, t := range b.set.targets {
			states[i] = t.State
		}
		b.watcher.Follow(states)
	}
	if b.checker != nil {
		b.checker.Follow(b.checked())
	}
}

func (b *backend) checked() []health.Checked {
	list := make([]health.Checked, len(b.set.targets))
	for i, t := range b.set.targets {
		list[i] = health.Checked{State: t.State, URL: t.URL, Prober: t.Pool}
	}
	return list
}

// renew brings the targets of a backend that serves up to its addresses and
// files. Where a file cannot be used, they stay what they were. The caller keeps
// the pools of the snapshot afterwards.
func (g *Gateway) renew(b *backend) {
	set, err := g.assemble(b.spec, b.addresses, b.set.states)
	g.note(b, err)
	if err == nil {
		if len(set.targets) > 0 && set.same(b.set) {
			return
		}
		b.set = set
		b.follow()
	}
	b.proxy.Use(b.forwarder())
}

// note keeps what is wrong with a backend; it is logged when it begins and when it
// ends.
func (g *Gateway) note(b *backend, err error) {
	switch {
	case err != nil && b.err == nil:
		g.logger.Warn("a service is not as the gateway document says", "service", b.name, "error", err)
	case err == nil && b.err != nil:
		g.logger.Info("a service is as the gateway document says again", "service", b.name)
	}
	b.err = err
}

// Times after which files are looked at again.
const (
	recheckFailed = 10 * time.Second // when one of them could not be used
	recheckFiles  = 30 * time.Second // for those that somebody renews
)

// recheck looks at the files of all services.
func (g *Gateway) recheck() {
	g.applying.Lock()
	defer g.applying.Unlock()
	g.renewFiles(g.live.Load())
}

// renewFiles takes over files that have changed, and those that could not be used
// before, and sees to it that this happens again. The caller holds the lock.
func (g *Gateway) renewFiles(s *snapshot) {
	after := time.Duration(0)
	for _, b := range s.backends {
		if t := b.spec.TLS; b.err != nil || t != nil && t.CAFile+t.CertFile+t.KeyFile != "" {
			g.renew(b)
			after = recheckFiles
		}
	}
	for _, b := range s.backends {
		if b.err != nil {
			after = recheckFailed
		}
	}
	g.pools.Keep(s.pools())
	if g.rechecks != nil {
		g.rechecks.Stop()
	}
	if after > 0 {
		g.rechecks = time.AfterFunc(after, g.recheck)
	}
}

// start begins what works on a backend beside its requests.
func (g *Gateway) start(b *backend) {
	if b.follower == nil && b.spec.Discovery != nil {
		b.follower = g.discover(b)
	}
	if c := b.active; c != nil && b.checker == nil {
		status := []health.StatusRange{{From: 200, To: 299}}
		if c.Status != nil {
			status = nil
			for _, r := range c.Status {
				status = append(status, health.StatusRange(r))
			}
		}
		b.checker = health.Start(health.Active{
			Kind: health.Kind(c.Type), Path: c.Path, Service: c.Service,
			Interval: time.Duration(c.Interval), Timeout: time.Duration(c.Timeout),
			HealthyAfter: c.HealthyAfter, UnhealthyAfter: c.UnhealthyAfter, Status: status,
		}, b.checked(), g.logger.With("service", b.name), time.Now)
	}
}

// handOver ends what only before used and starts what is new in next. The sources
// that it returns are stopped; the caller waits for them without the lock, which
// they may be waiting for.
func (g *Gateway) handOver(before, next *snapshot) []*discovery.Follower {
	var ended []*discovery.Follower
	for name, b := range before.backends {
		after := next.backends[name]
		if after == b {
			continue
		}
		if b.follower != nil && (after == nil || after.follower != b.follower) {
			b.follower.Stop()
			ended = append(ended, b.follower)
		}
		if b.checker == nil {
			continue
		}
		b.checker.Stop()
		// Nobody asks these targets any more: a verdict of before must not stick.
		if after == nil || after.active == nil {
			for _, t := range b.set.targets {
				t.SetDown(false, time.Now())
			}
		}
	}
	for _, b := range next.backends {
		g.start(b)
	}
	g.renewFiles(next)
	return ended
}

// await waits for sources that were stopped.
func await(ended []*discovery.Follower) {
	for _, f := range ended {
		f.Wait()
	}
}

// rediscover takes over what the source of a service has found.
func (g *Gateway) rediscover(service string) {
	g.applying.Lock()
	defer g.applying.Unlock()
	s := g.live.Load()
	b := s.backends[service]
	if b == nil || b.follower == nil {
		return // it went in the meantime
	}
	found, known := b.follower.Found()
	if !known {
		return // it is another source by now
	}
	b.addresses, b.known = located(found, b.spec.Discovery.Scheme()), true
	g.renew(b)
	g.pools.Keep(s.pools())
	g.logger.Info("the targets of a service have changed", "service", service, "targets", len(found))
}

// located is what was found, as targets of the document are.
func located(found []discovery.Found, scheme string) []services.Address {
	list := make([]services.Address, len(found))
	for i, f := range found {
		u := &url.URL{Scheme: scheme, Host: f.Host}
		list[i] = services.Address{URL: u, Target: services.Target{URL: u.String(), Weight: f.Weight, Priority: f.Priority, Zone: f.Zone}}
	}
	return list
}

// pools are those of all backends of the snapshot.
func (s *snapshot) pools() map[upstream.Identity]bool {
	used := map[upstream.Identity]bool{}
	for _, b := range s.backends {
		for _, id := range b.set.pools {
			used[id] = true
		}
	}
	return used
}

// Package balance chooses the target of a service for a request. It owns the
// policies of choosing, the tiers of failover, slow start, and what is remembered
// of a target between requests; it does not find out by itself whether a target
// is well (package health does), and it sends nothing.
package balance

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Policy names a way to choose.
type Policy string

// The policies.
const (
	RoundRobin         Policy = "round_robin"
	WeightedRoundRobin Policy = "weighted_round_robin"
	Random             Policy = "random"
	LeastConnections   Policy = "least_connections"
	PowerOfTwo         Policy = "power_of_two"
	ConsistentHash     Policy = "consistent_hash"
)

// Policies lists all of them.
func Policies() []Policy {
	return []Policy{RoundRobin, WeightedRoundRobin, Random, LeastConnections, PowerOfTwo, ConsistentHash}
}

// State is what is remembered of one address of a service. It outlives the
// snapshot of a document: the same address keeps its state over a reload. It is
// safe for concurrent use.
type State struct {
	name     string
	seed     uint64 // of consistent hashing; follows from the name alone
	inFlight atomic.Int64
	latency  atomic.Uint64 // exponentially weighted seconds, as bits of a float64
	down     atomic.Bool   // by active health checks
	ejected  atomic.Int64  // by passive health: unix nanoseconds until then
	since    atomic.Int64  // unix nanoseconds since when it takes requests, for slow start
}

// NewState makes the state of the address name. It begins as well, and warm.
func NewState(name string) *State {
	return &State{name: name, seed: fnv64(name)}
}

// Name is the address.
func (s *State) Name() string { return s.name }

// InFlight is the number of exchanges that have begun and not ended.
func (s *State) InFlight() int64 { return s.inFlight.Load() }

// Begin counts an exchange that starts.
func (s *State) Begin() { s.inFlight.Add(1) }

// End counts an exchange that has ended.
func (s *State) End() { s.inFlight.Add(-1) }

// latencyWeight is the share of a new sample in the average.
const latencyWeight = 0.2

// Observe takes the time until the header of an answer into the average.
func (s *State) Observe(d time.Duration) {
	for {
		old := s.latency.Load()
		next := d.Seconds()
		if old != 0 {
			next = (1-latencyWeight)*math.Float64frombits(old) + latencyWeight*next
		}
		if s.latency.CompareAndSwap(old, math.Float64bits(next)) {
			return
		}
	}
}

// Latency is the average of what was observed; 0 before the first time.
func (s *State) Latency() time.Duration {
	return time.Duration(math.Float64frombits(s.latency.Load()) * float64(time.Second))
}

// SetDown says what active health checks found. A target that comes back starts
// slowly where the service says so.
func (s *State) SetDown(down bool, now time.Time) {
	if s.down.Swap(down) && !down {
		s.since.Store(now.UnixNano())
	}
}

// Down reports what active health checks found.
func (s *State) Down() bool { return s.down.Load() }

// Eject keeps the target out until then.
func (s *State) Eject(until time.Time) {
	s.ejected.Store(until.UnixNano())
	s.since.Store(until.UnixNano())
}

// EjectedUntil is the end of the last ejection; long ago when there was none.
func (s *State) EjectedUntil() time.Time { return time.Unix(0, s.ejected.Load()) }

// Ejected reports whether the target is kept out at now.
func (s *State) Ejected(now time.Time) bool { return now.UnixNano() < s.ejected.Load() }

// Available reports whether the target takes requests at now.
func (s *State) Available(now time.Time) bool { return !s.Down() && !s.Ejected(now) }

// Target is one address of a service in one document.
type Target struct {
	*State
	Weight   int    // relative share, at least 1
	Priority int    // tier: 0 is used while it has an available target, then 1, and so on
	Zone     string // preferred when it is the zone of this process
}

// Options say how a service chooses.
type Options struct {
	Policy    Policy        // RoundRobin when empty
	SlowStart time.Duration // how long a target that came back takes less than its share; 0 for none
	Zone      string        // the zone of this process; empty for none
}

// Balancer chooses among the targets of one service. It is safe for concurrent
// use and immutable but for its counters.
type Balancer struct {
	policy    Policy
	slowStart time.Duration
	tiers     [][]Target
	count     int
	next      atomic.Uint64 // of round robin

	mu      sync.Mutex
	credits map[*State]float64 // of weighted round robin
}

// New makes the balancer of a service that has at least one target. Targets in
// the own zone form a tier of their own, before the others of their priority.
func New(o Options, targets []Target) (*Balancer, error) {
	if len(targets) == 0 {
		return nil, errors.New("balance: there are no targets")
	}
	if o.Policy == "" {
		o.Policy = RoundRobin
	}
	b := &Balancer{policy: o.Policy, slowStart: o.SlowStart, count: len(targets), credits: map[*State]float64{}}
	type tier struct {
		priority int
		remote   bool
	}
	byTier := map[tier][]Target{}
	var order []tier
	for _, t := range targets {
		if t.Weight < 1 {
			return nil, fmt.Errorf("balance: the weight of %s is %d, must be at least 1", t.name, t.Weight)
		}
		key := tier{t.Priority, o.Zone != "" && t.Zone != o.Zone}
		if byTier[key] == nil {
			order = append(order, key)
		}
		byTier[key] = append(byTier[key], t)
	}
	slices.SortFunc(order, func(a, b tier) int {
		if a.priority != b.priority {
			return cmp.Compare(a.priority, b.priority)
		}
		return cmp.Compare(boolInt(a.remote), boolInt(b.remote))
	})
	for _, key := range order {
		b.tiers = append(b.tiers, byTier[key])
	}
	return b, nil
}

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

// Size is the number of targets.
func (b *Balancer) Size() int { return b.count }

// Targets calls yield for each target.
func (b *Balancer) Targets(yield func(Target) bool) {
	for _, tier := range b.tiers {
		for _, t := range tier {
			if !yield(t) {
				return
			}
		}
	}
}

// Pick chooses a target: of the first tier that has an available one that is not
// excluded. When there is none in any tier, it chooses among those that are not
// available: they may be better than their checks say, and refusing would be
// certain. Hash decides under ConsistentHash. It does not allocate.
func (b *Balancer) Pick(now time.Time, hash uint64, excluded func(*State) bool) (Target, bool) {
	for _, tier := range b.tiers {
		if t, ok := b.pickFrom(tier, now, hash, excluded, true); ok {
			return t, true
		}
	}
	for _, tier := range b.tiers {
		if t, ok := b.pickFrom(tier, now, hash, excluded, false); ok {
			return t, true
		}
	}
	return Target{}, false
}

// candidates is one tier as a choice sees it.
type candidates struct {
	list     []Target
	now      time.Time
	excluded func(*State) bool
	strict   bool // only available ones
}

func (c candidates) has(i int) bool {
	s := c.list[i].State
	if c.strict && !s.Available(c.now) {
		return false
	}
	return c.excluded == nil || !c.excluded(s)
}

func (b *Balancer) pickFrom(list []Target, now time.Time, hash uint64, excluded func(*State) bool, strict bool) (Target, bool) {
	c := candidates{list, now, excluded, strict}
	i := -1
	switch b.policy {
	case WeightedRoundRobin:
		i = b.weightedRoundRobin(c)
	case Random:
		i = b.random(c)
	case LeastConnections:
		i = b.leastConnections(c)
	case PowerOfTwo:
		i = b.powerOfTwo(c)
	case ConsistentHash:
		i = b.consistentHash(c, hash)
	case RoundRobin:
		i = b.roundRobin(c)
	}
	if i < 0 {
		return Target{}, false
	}
	return list[i], true
}

// slowFloor is the share with which a target that came back begins.
const slowFloor = 0.1

// weight is the share of target i at this moment.
func (b *Balancer) weight(c candidates, i int) float64 {
	t := c.list[i]
	w := float64(t.Weight)
	if b.slowStart <= 0 {
		return w
	}
	age := c.now.UnixNano() - t.since.Load()
	if age >= int64(b.slowStart) {
		return w
	}
	return w * max(slowFloor, float64(age)/float64(b.slowStart))
}

// roundRobin takes each in turn. While one starts slowly it takes some of its
// turns only, by chance.
func (b *Balancer) roundRobin(c candidates) int {
	start := b.next.Add(1) - 1
	n := uint64(len(c.list))
	fallback := -1
	for k := range n {
		i := int((start + k) % n)
		if !c.has(i) {
			continue
		}
		if b.slowStart > 0 {
			if share := b.weight(c, i) / float64(c.list[i].Weight); share < 1 && rand.Float64() >= share { //nolint:gosec // no secret
				fallback = i
				continue
			}
		}
		return i
	}
	return fallback
}

// weightedRoundRobin is smooth: each round every target earns its weight, the
// richest is chosen and pays the sum, so that a heavy target's turns are spread.
func (b *Balancer) weightedRoundRobin(c candidates) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	best, sum := -1, 0.0
	for i := range c.list {
		if !c.has(i) {
			continue
		}
		w := b.weight(c, i)
		sum += w
		credit := b.credits[c.list[i].State] + w
		b.credits[c.list[i].State] = credit
		if best < 0 || credit > b.credits[c.list[best].State] {
			best = i
		}
	}
	if best >= 0 {
		b.credits[c.list[best].State] -= sum
	}
	return best
}

// random chooses by weight.
func (b *Balancer) random(c candidates) int { return b.randomBut(c, -1) }

// randomBut is random without the target not.
func (b *Balancer) randomBut(c candidates, not int) int {
	chosen, sum := -1, 0.0
	for i := range c.list {
		if i == not || !c.has(i) {
			continue
		}
		// Each candidate replaces the one before with the share it has of the sum so
		// far: one pass, no list of candidates.
		w := b.weight(c, i)
		sum += w
		if rand.Float64()*sum < w { //nolint:gosec // no secret
			chosen = i
		}
	}
	return chosen
}

// leastConnections takes the target with the fewest exchanges for its weight; it
// begins to look at another place each time, so that equal ones take turns.
func (b *Balancer) leastConnections(c candidates) int {
	start, n := b.next.Add(1)-1, uint64(len(c.list))
	best, load := -1, 0.0
	for k := range n {
		i := int((start + k) % n)
		if !c.has(i) {
			continue
		}
		if l := float64(c.list[i].InFlight()+1) / b.weight(c, i); best < 0 || l < load {
			best, load = i, l
		}
	}
	return best
}

// powerOfTwo takes the better of two that are chosen by chance: the one where a
// request would be done sooner, by its exchanges in flight and its latency.
func (b *Balancer) powerOfTwo(c candidates) int {
	one := b.randomBut(c, -1)
	if one < 0 {
		return -1
	}
	other := b.randomBut(c, one)
	if other < 0 || c.cost(one) <= c.cost(other) {
		return one
	}
	return other
}

// unknownLatency stands for a target that was not tried yet: low enough to be
// tried soon.
const unknownLatency = 1e-3

func (c candidates) cost(i int) float64 {
	t := c.list[i]
	latency := math.Float64frombits(t.latency.Load())
	if latency == 0 {
		latency = unknownLatency
	}
	return float64(t.InFlight()+1) * latency / float64(t.Weight)
}

// overload is how far above the average a target may be loaded before
// consistent hashing passes it over (consistent hashing with bounded loads).
const overload = 1.25

// consistentHash takes the target with the highest score for the hash
// (rendezvous hashing, weighted): a target that comes or goes moves only its own
// share. One that is overloaded passes its excess on.
func (b *Balancer) consistentHash(c candidates, hash uint64) int {
	var inFlight int64
	var weights float64
	for i := range c.list {
		if c.has(i) {
			inFlight += c.list[i].InFlight()
			weights += float64(c.list[i].Weight)
		}
	}
	best, bestScore, bestOver, bestOverScore := -1, 0.0, -1, 0.0
	for i := range c.list {
		if !c.has(i) {
			continue
		}
		t := c.list[i]
		score := Score(hash, t.seed, float64(t.Weight))
		if float64(t.InFlight()) <= math.Ceil(overload*float64(inFlight+1)*float64(t.Weight)/weights) {
			if best < 0 || score > bestScore {
				best, bestScore = i, score
			}
		} else if bestOver < 0 || score > bestOverScore {
			bestOver, bestOverScore = i, score
		}
	}
	if best < 0 {
		return bestOver
	}
	return best
}

// Score is the score of a candidate, known by its seed, for a hash in weighted
// rendezvous hashing: -weight / ln(u), where u is uniform in (0, 1) and follows
// from both. The candidate with the highest score is chosen.
func Score(hash, seed uint64, weight float64) float64 {
	u := (float64(Mix(hash^seed)>>11) + 0.5) / (1 << 53)
	return -weight / math.Log(u)
}

// Mix is the finaliser of SplitMix64: it spreads what is not spread evenly.
func Mix(x uint64) uint64 {
	x ^= x >> 30
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 27
	x *= 0x94d049bb133111eb
	return x ^ x>>31
}

// Hash is the hash of a request's key for consistent hashing.
func Hash(key string) uint64 { return Mix(fnv64(key)) }

// Seed is what stands for a name in [Score].
func Seed(name string) uint64 { return fnv64(name) }

// fnv64 is FNV-1a.
func fnv64(s string) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * 1099511628211
	}
	return h
}

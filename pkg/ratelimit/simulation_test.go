package ratelimit_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/keywarden/keywarden/pkg/ratelimit"
)

// simulationSeed is the variable that repeats a simulation.
const simulationSeed = "SIMULATION_SEED"

const (
	simulatedEvents   = 1_000_000
	simulatedReplicas = 5
	simulatedSubjects = 4
	simulatedCost     = 4 // at most
)

// sharedCounter is what replicas count with.
type sharedCounter interface {
	Take(ctx context.Context, subject string, cost int64) (ratelimit.Decision, bool)
	Refund(subject string, cost int64)
}

// TestSimulation lets replicas that share a store live through requests, refunds,
// resets, deaths and births, clocks that step and a store that is away, loses its
// answers or is slow to come back, and holds every decision to the invariants.
func TestSimulation(t *testing.T) {
	seed := rand.Uint64()
	if text := os.Getenv(simulationSeed); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	limits := []ratelimit.Limit{
		{Quota: 400, Window: time.Minute, Burst: 400},
		{Quota: 400, Window: time.Minute, Burst: 20},
		{Quota: 30, Window: time.Minute, Burst: 4},
		{Quota: 600, Window: time.Minute, Burst: 1},
		{Quota: 6, Window: time.Second, Burst: 30},
		{Quota: 400, Window: time.Minute, Algorithm: ratelimit.SlidingWindow},
	}
	for i, l := range limits {
		for kind, strict := range []bool{false, true} {
			s := newSimulation(t, l, strict, seed+uint64(2*i+kind))
			for range simulatedEvents / (2 * len(limits)) {
				s.event()
				if t.Failed() {
					t.Fatalf("limit %+v, strict %t; repeat it with %s=%d", l, strict, simulationSeed, seed)
				}
			}
			if s.accepted == 0 || s.refused == 0 || s.alone == 0 || s.resets == 0 || s.deaths == 0 {
				t.Errorf("seed %d: a simulation in which hardly anything happened: %+v", seed, s.happened)
			}
			s.close()
		}
	}
}

type simulation struct {
	*testing.T
	random *rand.Rand
	limit  ratelimit.Limit
	strict bool

	store    *simulatedStore
	replicas [simulatedReplicas]*simulatedReplica
	live     int
	subjects [simulatedSubjects]simulatedSubject
	happened
}

type happened struct{ accepted, refused, alone, resets, deaths, lost int }

// simulatedStore is a store with a clock of its own.
type simulatedStore struct {
	*ratelimit.Limiter
	now        time.Time
	down, lost bool  // lost: it does what it is asked to, and the answer does not arrive
	granted    int64 // since this was set to 0
	s          *simulation
}

func (s *simulatedStore) Reserve(_ context.Context, key string, _ ratelimit.Limit, least, want int64) (ratelimit.Grant, error) {
	if s.down {
		return ratelimit.Grant{}, errors.New("down")
	}
	if key == "probe" {
		return ratelimit.Grant{Units: 1, Decision: ratelimit.Decision{Allowed: true}}, nil
	}
	g := s.Limiter.Reserve(key, s.now, least, want)
	if g.Units < 0 || g.Decision.Allowed && g.Units < least || !g.Decision.Allowed && g.Units != 0 {
		s.s.Errorf("asked for %d to %d units, the store grants %+v", least, want, g)
	}
	if want > s.s.block() {
		s.s.Errorf("a replica asks for %d units at once", want)
	}
	if s.lost {
		s.s.lost++
		return ratelimit.Grant{}, errors.New("no answer")
	}
	s.granted += g.Units
	return g, nil
}

// block is the most that a replica holds for a subject.
func (s *simulation) block() int64 { return max(simulatedCost, s.limit.Quota/40) }

type simulatedReplica struct {
	counter sharedCounter
	guard   *ratelimit.Guard
	now     time.Time
	alone   [simulatedSubjects]bucket // what it may give out by its share
	back    [simulatedSubjects]back   // what was given back to it, if it is strict
	held    [simulatedSubjects]int64  // what it has been granted and has not given out
}

// back are units of the store that one replica alone may spend, within a window.
type back struct {
	units int64
	ends  time.Time
}

// simulatedSubject knows what all replicas together may give out.
type simulatedSubject struct {
	key     string
	allowed bucket
}

// bucket is a bound of the form: at most so much in any span, and so much more for
// each nanosecond of it.
type bucket struct{ level, most, rate float64 }

func (b *bucket) pass(d time.Duration) { b.level = min(b.most, b.level+b.rate*float64(d)) }

func newSimulation(t *testing.T, l ratelimit.Limit, strict bool, seed uint64) *simulation {
	s := &simulation{T: t, random: rand.New(rand.NewPCG(seed, seed)), limit: l, strict: strict}
	limiter, err := ratelimit.NewLimiter(l, 10_000)
	if err != nil {
		t.Fatal(err)
	}
	s.store = &simulatedStore{Limiter: limiter, now: epoch, s: s}
	at := float64(l.Burst)
	if l.Burst == 1 {
		at = 2 * simulatedCost // what is weighed passes as one, and so does the next after it
	}
	if l.Algorithm == ratelimit.SlidingWindow {
		at = 2 * float64(l.Quota) // at the border of two windows
	}
	if !strict {
		at += simulatedReplicas * float64(s.block())
	}
	for i := range s.subjects {
		b := bucket{level: at, most: at, rate: float64(l.Quota) / float64(l.Window)}
		s.subjects[i] = simulatedSubject{key: "subject " + strconv.Itoa(i), allowed: b}
	}
	for i := range s.replicas {
		s.bear(i)
	}
	return s
}

// bear starts a replica, whose clock is off.
func (s *simulation) bear(i int) {
	r := &simulatedReplica{now: s.store.now.Add(time.Duration(s.random.Int64N(int64(time.Hour))))}
	now := func() time.Time { return r.now }
	r.guard = ratelimit.NewGuard(ratelimit.GuardOptions{Store: s.store, Timeout: time.Minute, Failed: func(error) {}, Now: now})
	o := ratelimit.SharedOptions{
		Name: "simulated", Limit: s.limit, Guard: r.guard, Subjects: 10_000, Replicas: func() int { return s.live }, Now: now,
	}
	var err error
	if s.strict {
		r.counter, err = ratelimit.NewStrict(o)
	} else {
		r.counter, err = ratelimit.NewLeased(o)
	}
	if err != nil {
		s.Fatal(err)
	}
	for j := range r.alone {
		r.alone[j] = s.shareBucket()
	}
	s.replicas[i] = r
	s.live++
}

// shareBucket counts in units of the whole limit: what one of n replicas gives out
// takes n.
func (s *simulation) shareBucket() bucket {
	most := float64(max(s.limit.Burst, 2*simulatedReplicas*simulatedCost))
	if s.limit.Algorithm == ratelimit.SlidingWindow {
		most = 2 * float64(s.limit.Quota) * simulatedReplicas // shares may have been larger a moment ago
	}
	return bucket{level: most, most: most, rate: float64(s.limit.Quota) / float64(s.limit.Window)}
}

func (s *simulation) kill(i int) {
	s.replicas[i].guard.Close()
	s.replicas[i] = nil
	s.live--
	s.deaths++
}

func (s *simulation) close() {
	for i, r := range s.replicas {
		if r != nil {
			s.kill(i)
		}
	}
}

func (s *simulation) event() {
	switch n := s.random.IntN(10_000); {
	case n < 9_000:
		s.request()
	case n < 9_860:
		s.pass(time.Duration(s.random.Int64N(int64(s.limit.Window) / 800)))
	case n < 9_864:
		s.pass(time.Duration(s.random.Int64N(int64(s.limit.Window))))
	case n < 9_865:
		s.quiet()
	case n < 9_890:
		s.reset(&s.subjects[s.random.IntN(simulatedSubjects)])
	case n < 9_920:
		s.store.down = s.random.IntN(10) == 0
	case n < 9_930:
		s.store.lost = s.random.IntN(5) == 0
	case n < 9_960:
		if i := s.random.IntN(simulatedReplicas); s.replicas[i] == nil {
			s.bear(i)
		} else if s.live > 1 {
			s.kill(i)
		}
	case n < 9_980:
		s.step(time.Duration(s.random.Int64N(int64(4*time.Hour))) - 2*time.Hour)
	default:
		if r := s.replicas[s.random.IntN(simulatedReplicas)]; r != nil {
			s.stepReplica(r, time.Duration(s.random.Int64N(int64(4*time.Hour)))-2*time.Hour)
		}
	}
}

// pass lets time pass everywhere.
func (s *simulation) pass(d time.Duration) {
	s.store.now = s.store.now.Add(d)
	for i := range s.subjects {
		s.subjects[i].allowed.pass(d)
	}
	for _, r := range s.replicas {
		if r != nil {
			r.now = r.now.Add(d)
			for j := range r.alone {
				r.alone[j].pass(d)
			}
		}
	}
}

// step sets the clock of the store. What it skips counts as passed, what it goes
// through again gives nothing.
func (s *simulation) step(d time.Duration) {
	s.store.now = s.store.now.Add(d)
	for i := range s.subjects {
		s.subjects[i].allowed.pass(max(0, d))
	}
}

func (s *simulation) stepReplica(r *simulatedReplica, d time.Duration) {
	r.now = r.now.Add(d)
	for j := range r.alone {
		r.alone[j].pass(max(0, d))
		if d < 0 { // what is used then is all that this replica may, rounded down to its units
			r.alone[j].level = max(r.alone[j].level, simulatedReplicas-1)
		}
	}
}

// reset gives a subject back what the store counts.
func (s *simulation) reset(subject *simulatedSubject) {
	s.store.Forget("simulated:" + subject.key)
	subject.allowed.level = subject.allowed.most
	s.resets++
}

func (s *simulation) request() {
	r := s.replicas[s.random.IntN(simulatedReplicas)]
	if r == nil {
		return
	}
	j := s.random.IntN(simulatedSubjects)
	subject, cost := &s.subjects[j], s.random.Int64N(simulatedCost)+1
	before := s.store.look(subject.key)
	s.store.granted = 0
	d, alone := r.counter.Take(s.Context(), subject.key, cost)
	r.guard.Settle()
	if d.Remaining < 0 || d.ResetAfter < 0 || d.RetryAfter < 0 || d.Allowed && d.RetryAfter != 0 || !d.Allowed && cost == 1 && d.RetryAfter == 0 {
		s.Errorf("the decision %+v makes no sense", d)
	}
	r.held[j] += s.store.granted
	switch {
	case !d.Allowed:
		s.refused++
		if after := s.store.look(subject.key); !s.store.lost && after.Remaining != before.Remaining {
			s.Errorf("a refusal took something: %+v before, %+v after", before, after)
		}
		return
	case alone:
		s.alone++
		s.spend(&r.alone[j], float64(cost)*float64(s.live), "a replica alone, of its share")
	default:
		s.accepted++
		b := &r.back[j]
		if !r.now.Before(b.ends) {
			*b = back{}
		}
		own := min(b.units, cost)
		b.units -= own
		s.spend(&subject.allowed, float64(cost-own), "the replicas together")
		if r.held[j] -= cost; r.held[j] < 0 {
			s.Errorf("a replica gave out %d units that it did not have", -r.held[j])
		}
		if !s.strict {
			r.held[j] = min(r.held[j], s.block())
		}
	}
	if s.random.IntN(10) > 0 {
		return
	}
	switch {
	case r.guard.Broken():
		r.alone[j].level += float64(cost) * float64(s.live)
	case s.strict:
		b := &r.back[j]
		b.units += cost
		r.held[j] += cost
		if ends := r.now.Add(s.limit.Window); b.ends.Before(ends) {
			b.ends = ends
		}
	default:
		subject.allowed.level += float64(cost)
		r.held[j] += cost
	}
	r.counter.Refund(subject.key, cost)
}

// spend fails when more was given out than may be; one unit is for fractions.
func (s *simulation) spend(b *bucket, units float64, who string) {
	if b.level -= units; b.level < -1 {
		s.Errorf("%s gave out %.3f units too many", who, -b.level)
	}
}

// look is what there is for a subject.
func (s *simulatedStore) look(subject string) ratelimit.Decision {
	return s.Limiter.Reserve("simulated:"+subject, s.now, 0, 0).Decision
}

// quiet lets so much time pass that everybody has something again, whatever clocks
// and replicas have done before.
func (s *simulation) quiet() {
	s.store.down, s.store.lost = false, false
	for i := range s.subjects { // that a clock was set back is noticed when a subject comes
		s.store.look(s.subjects[i].key)
	}
	s.pass(4*max(s.limit.Window, s.limit.Window*time.Duration(s.limit.Most())/time.Duration(s.limit.Quota)) + time.Minute)
	for _, r := range s.replicas {
		if r == nil {
			continue
		}
		for j := range s.subjects {
			subject := &s.subjects[j]
			if r.guard.Broken() {
				if d, alone := r.counter.Take(s.Context(), subject.key, 1); !alone || d.Allowed {
					s.spend(&r.alone[j], float64(s.live), "a replica alone, of its share")
				}
				r.guard.Settle()
			}
			d, alone := r.counter.Take(s.Context(), subject.key, 1)
			r.held[j] = s.block()
			if alone {
				s.Error("the store is back, and is not asked")
				return
			}
			if d.Allowed {
				s.spend(&subject.allowed, 1, "the replicas together")
			} else if int64(s.live) <= s.limit.Most() {
				s.Errorf("nobody asked for anything for long, and %+v is the answer", d)
			}
		}
	}
}

package quota_test

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/keywarden/keywarden/pkg/changes"
	"github.com/keywarden/keywarden/pkg/quota"
	"github.com/keywarden/keywarden/pkg/quota/quotatest"
)

// seed repeats a simulation: go test -run Simulation -quota.seed N.
var seed = flag.Uint64("quota.seed", 0, "of the simulation; 0 for a random one")

func nothing(changes.Event) {}

var ctx = context.Background()

// simulation is four replicas with a ledger, to which everything happens that can.
type simulation struct {
	fail     func(format string, args ...any)
	rand     *rand.Rand
	now      time.Time // of the ledger
	ledger   *quotatest.Memory
	service  *quota.Service
	replicas [4]*replica
	quotas   []quota.Quota

	given  map[book]int64  // given out and not given back
	booked map[book]int64  // as the ledger last had it
	most   map[book]int64  // the capacity at its highest
	events map[string]int  // by account, period and level
	passed map[string]bool // accounts that were ever asked for
	ids    []string        // of them
	seen   int             // events of the ledger
}

// book is an account in one of its epochs.
type book struct {
	id    string
	epoch int64
}

type replica struct {
	meters *quota.Meters
	skew   time.Duration
	open   []outstanding
	deaf   []string // accounts of which it has not heard yet that they changed
}

type outstanding struct {
	r     *quota.Reservation
	id    string
	epoch int64
	cost  int64
}

func newSimulation(seed uint64, fail func(format string, args ...any)) *simulation {
	s := &simulation{
		fail: fail, rand: rand.New(rand.NewPCG(seed, seed)), now: time.Date(2026, 3, 28, 20, 0, 0, 0, time.UTC),
		given: map[book]int64{}, booked: map[book]int64{}, most: map[book]int64{}, events: map[string]int{}, passed: map[string]bool{},
	}
	s.ledger = quotatest.NewMemory(func() time.Time { return s.now })
	s.service = quota.NewService(s.ledger, nothing)
	for _, p := range []quota.Period{{Unit: quota.Minute}, {Unit: quota.Hour, Rolling: true}, {Unit: quota.Day}, {Unit: quota.Month}} {
		for _, open := range []bool{false, true} {
			limit := 1 + s.rand.Int64N(500)
			s.quotas = append(s.quotas, quota.Quota{Name: fmt.Sprint(p, limit, open), Limit: limit, Period: p, Open: open})
		}
	}
	for i := range s.replicas {
		s.replicas[i] = s.replica()
	}
	return s
}

// replica starts one. Every fourth has hardly any memory; whom that forgets is not
// in the seed.
func (s *simulation) replica() *replica {
	r := &replica{}
	var err error
	subjects := 10_000
	if s.rand.IntN(4) == 0 {
		subjects = 64
	}
	r.meters, err = quota.NewMeters(quota.Options{
		Ledger: s.ledger, Subjects: subjects, Timeout: time.Second, Replicas: func() int { return len(s.replicas) },
		Logger: slog.New(slog.DiscardHandler), Now: func() time.Time { return s.now.Add(r.skew) },
	})
	if err != nil {
		s.fail("%v", err)
	}
	return r
}

// step lets one thing happen.
func (s *simulation) step() {
	i := s.rand.IntN(len(s.replicas))
	r := s.replicas[i]
	switch n := s.rand.IntN(1000); {
	case n < 550:
		s.request(r)
	case n < 850:
		s.settle(r)
	case n < 940:
		s.now = s.now.Add(time.Duration(s.rand.Int64N(int64(3 * time.Second))))
	case n < 950:
		s.now = s.now.Add(time.Duration(s.rand.Int64N(int64(2 * time.Hour))))
	case n < 965:
		r.meters.Tidy(ctx)
	case n < 975:
		s.change()
	case n < 985:
		s.hear(r)
	case n < 988: // killed, and replaced
		s.replicas[i] = s.replica()
	case n < 990: // ended, and replaced; what was on its way is settled afterwards
		r.meters.Close(ctx)
		for len(r.open) > 0 {
			s.settle(r)
		}
		s.replicas[i] = s.replica()
	case n < 993: // the clock of a replica steps
		r.skew = time.Duration(s.rand.Int64N(int64(4*time.Hour))) - 2*time.Hour
	case n < 996:
		s.ledger.Down = !s.ledger.Down
	case n < 998:
		s.ledger.Mute = !s.ledger.Mute
	default:
		s.ledger.Down, s.ledger.Mute = false, false
	}
}

func (s *simulation) request(r *replica) {
	q := s.quotas[s.rand.IntN(len(s.quotas))]
	m, err := r.meters.Meter(q, "route", "key") // as after each reload
	if err != nil {
		s.fail("%v", err)
	}
	subject := fmt.Sprint("key ", s.rand.IntN(12)) // whatever secret it has by now
	id := quota.Identity{Quota: q.Name, Scope: "route", Period: q.Period.String(), Kind: "key", Subject: subject}.ID()
	cost := 1 + s.rand.Int64N(5)
	reservation, d, err := m.Reserve(ctx, subject, cost)
	if !s.passed[id] {
		s.passed[id], s.ids = true, append(s.ids, id)
	}
	switch {
	case err != nil && q.Open:
		s.fail("refused for the ledger's sake: %v", err)
	case err == nil && d.Allowed:
		if !d.Unmetered && reservation.Epoch() == 0 {
			s.fail("%s: units of no period were given out", id)
		}
		if !d.Unmetered {
			s.given[book{id, reservation.Epoch()}] += cost
		}
		o := outstanding{r: &reservation, id: id, epoch: reservation.Epoch(), cost: cost}
		if d.Unmetered {
			o.cost = 0
		}
		r.open = append(r.open, o)
	}
	s.look(id)
	s.hold(book{id, reservation.Epoch()})
}

// settle ends a request: some cost less, some more, some did not reach the service.
func (s *simulation) settle(r *replica) {
	if len(r.open) == 0 {
		return
	}
	i := s.rand.IntN(len(r.open))
	o := r.open[i]
	r.open[i] = r.open[len(r.open)-1]
	r.open = r.open[:len(r.open)-1]
	actual := s.rand.Int64N(8)
	if o.cost > 0 {
		s.given[book{o.id, o.epoch}] -= max(0, o.cost-actual)
	}
	if actual == 0 {
		o.r.Cancel(ctx)
	} else {
		o.r.Settle(ctx, actual)
	}
	s.look(o.id)
	s.hold(book{o.id, o.epoch})
}

// change is what an operator does; replicas hear of it later, in any order.
func (s *simulation) change() {
	if len(s.ids) == 0 {
		return
	}
	id := s.ids[s.rand.IntN(len(s.ids))]
	s.look(id)
	if s.rand.IntN(2) == 0 {
		_, _ = s.service.Reset(ctx, id)
	} else {
		_, _ = s.service.TopUp(ctx, id, 1+s.rand.Int64N(20))
	}
	s.look(id)
	for _, r := range s.replicas {
		r.deaf = append(r.deaf, id)
	}
}

func (s *simulation) hear(r *replica) {
	for _, id := range r.deaf {
		r.meters.Changed(id)
	}
	r.deaf = nil
}

// look reads the account after whatever has happened to it.
func (s *simulation) look(id string) {
	a, err := s.ledger.QuotaAccount(ctx, id)
	if err != nil {
		return // was never used
	}
	b := book{id, a.Epoch}
	s.booked[b], s.most[b] = a.Used, max(s.most[b], a.Limit+a.TopUp)
	if a.Used < 0 || a.Used > a.Limit+a.TopUp {
		s.fail("%s: used %d of %d", id, a.Used, a.Limit+a.TopUp)
	}
}

// hold says what must hold: what is given out of an account in an epoch was booked
// in it, and never more than there was.
func (s *simulation) hold(b book) {
	if b.epoch == 0 {
		return
	}
	if s.given[b] > s.most[b] {
		s.fail("%v: %d units were given out, of at most %d", b, s.given[b], s.most[b])
	}
	if s.given[b] > s.booked[b] {
		s.fail("%v: %d units were given out, and %d booked", b, s.given[b], s.booked[b])
	}
}

// once says that no event was told twice.
func (s *simulation) once() {
	list, _ := s.ledger.ListQuotaEvents(ctx, 0, 0)
	for _, e := range list[s.seen:] {
		key := fmt.Sprint(e.ID, e.Begins, e.Level)
		if s.events[key]++; s.events[key] > 1 {
			s.fail("the event %+v was told twice", e)
		}
	}
	s.seen = len(list)
}

// TestSimulationKeepsTheLedger lets a million things happen. Among them every
// batch of returned units that belongs to another account is only looked at when
// that account is next used, which is why booked is compared and not computed.
func TestSimulationKeepsTheLedger(t *testing.T) {
	steps := 1_000_000
	if testing.Short() {
		steps = 50_000
	}
	from := *seed
	if from == 0 {
		from = rand.Uint64()
	}
	at := 0
	s := newSimulation(from, func(format string, args ...any) {
		t.Helper()
		t.Fatalf("-quota.seed %d, step %d: %s", from, at, fmt.Sprintf(format, args...))
	})
	for at = range steps {
		s.step()
	}
	s.once()
	if s.seen == 0 || len(s.given) < steps/1000 {
		t.Fatalf("seed %d: nothing has happened: %d events, %d epochs", from, s.seen, len(s.given))
	}
	t.Logf("seed %d: %d accounts in %d epochs, %d events", from, len(s.passed), len(s.given), s.seen)
}

// The same with seeds that rapid makes small.
func TestPropertyOfTheLedger(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := newSimulation(rapid.Uint64().Draw(t, "seed"), t.Fatalf)
		for range rapid.IntRange(1, 2000).Draw(t, "steps") {
			s.step()
		}
		s.once()
	})
}

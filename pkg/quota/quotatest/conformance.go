package quotatest

import (
	"context"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keywarden/keywarden/pkg/changes"
	"github.com/keywarden/keywarden/pkg/quota"
)

// Ledger is what conformance is about: both sides of an account.
type Ledger interface {
	quota.Ledger
	quota.Store
}

// Conformance runs the promises against a ledger.
func Conformance(t *testing.T, l Ledger) {
	t.Helper()
	c := &conformance{Ledger: l, period: quota.Period{Unit: quota.Month}, run: strconv.FormatUint(rand.Uint64(), 36)}
	t.Run("it grants what there is, and the least or nothing", c.grants)
	t.Run("units come back once, and only in their epoch", c.comesBack)
	t.Run("a top-up adds, a reset empties", c.changes)
	t.Run("a lowered limit refuses and takes nothing away", c.lowered)
	t.Run("a rolling period begins with the first use", c.rolling)
	t.Run("each event is told once", c.events)
	t.Run("concurrent replicas get exactly the limit", c.exact)
	t.Run("an unknown account is not found", c.unknown)
}

type conformance struct {
	Ledger
	period quota.Period
	run    string
}

func (c *conformance) ask(subject string, limit, least, want int64) quota.Ask {
	i := quota.Identity{Quota: "q-" + c.run, Scope: "route", Period: c.period.String(), Kind: "key", Subject: subject}
	return quota.Ask{ID: i.ID(), Identity: i, Limit: limit, Period: c.period, Least: least, Want: want}
}

func (c *conformance) reserve(t *testing.T, a quota.Ask) quota.Grant {
	t.Helper()
	g, err := c.Reserve(t.Context(), a)
	if err != nil {
		t.Fatal(err)
	}
	if g.Used < g.Units || !g.Now.Before(g.Ends) || g.Epoch == 0 {
		t.Fatalf("the grant %+v makes no sense", g)
	}
	return g
}

func (c *conformance) account(t *testing.T, a quota.Ask) quota.Account {
	t.Helper()
	got, err := c.QuotaAccount(t.Context(), a.ID)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func (c *conformance) grants(t *testing.T) {
	for i, step := range []struct{ least, want, units, used int64 }{
		{1, 1, 1, 1}, {1, 60, 60, 61}, {5, 5, 5, 66}, {101, 200, 0, 66}, {35, 40, 0, 66}, {1, 1000, 34, 100}, {1, 1, 0, 100},
	} {
		if g := c.reserve(t, c.ask("grants", 100, step.least, step.want)); g.Units != step.units || g.Used != step.used || g.Capacity != 100 {
			t.Errorf("step %d: granted %d, used %d of %d; want %d, %d", i, g.Units, g.Used, g.Capacity, step.units, step.used)
		}
	}
	if g := c.reserve(t, c.ask("costly", 10, 11, 11)); g.Units != 0 || g.Used != 0 || g.Capacity != 10 {
		t.Errorf("more than the limit: %+v", g)
	}
	a := c.account(t, c.ask("grants", 100, 1, 1))
	if span := c.period.At(time.Now().UTC()); !a.Begins.Equal(span.Begins) || !a.Ends.Equal(span.Ends) {
		t.Errorf("the period is %v, want %v", a.Span, span)
	}
	if a.Remaining() != 0 || a.Subject != "grants" || a.Period != "month UTC" {
		t.Errorf("the account is %+v", a)
	}
}

func (c *conformance) comesBack(t *testing.T) {
	ask := c.ask("back", 100, 1, 40)
	g := c.reserve(t, ask)
	for i, step := range []struct {
		unused []quota.Unused
		used   int64
	}{
		{[]quota.Unused{{ID: ask.ID, Epoch: g.Epoch, Units: 10}, {ID: ask.ID, Epoch: g.Epoch, Units: 5}}, 25},
		{[]quota.Unused{{ID: ask.ID, Epoch: g.Epoch - 1, Units: 10}, {ID: c.ask("nobody", 1, 1, 1).ID, Epoch: 1, Units: 3}}, 25},
		{[]quota.Unused{{ID: ask.ID, Epoch: g.Epoch, Units: 26}}, 25}, // used is never below 0
		{[]quota.Unused{{ID: ask.ID, Epoch: g.Epoch, Units: 25}}, 0},
	} {
		if err := c.Return(t.Context(), step.unused); err != nil {
			t.Fatal(err)
		}
		if a := c.account(t, ask); a.Used != step.used {
			t.Errorf("step %d: used %d, want %d", i, a.Used, step.used)
		}
	}
}

func (c *conformance) changes(t *testing.T) {
	ask := c.ask("changes", 10, 10, 10)
	service := quota.NewService(c, func(changes.Event) {})
	before := c.reserve(t, ask)
	a, err := service.TopUp(t.Context(), ask.ID, 5)
	if err != nil || a.Remaining() != 5 || a.Epoch != before.Epoch {
		t.Fatalf("topped up: %+v, %v", a, err)
	}
	ask.Least, ask.Want = 1, 100
	if g := c.reserve(t, ask); g.Units != 5 || g.Capacity != 15 {
		t.Errorf("after the top-up: %+v", g)
	}
	if a, err = service.Reset(t.Context(), ask.ID); err != nil || a.Used != 0 || a.Remaining() != 15 || a.Epoch == before.Epoch {
		t.Fatalf("reset: %+v, %v", a, err)
	}
	if err := c.Return(t.Context(), []quota.Unused{{ID: ask.ID, Epoch: before.Epoch, Units: 1}}); err != nil {
		t.Fatal(err)
	}
	if g := c.reserve(t, ask); g.Units != 15 || g.Epoch != a.Epoch {
		t.Errorf("after the reset: %+v", g)
	}
	for _, units := range []int64{0, -1, quota.MaxLimit + 1, quota.MaxLimit} {
		if _, err := service.TopUp(t.Context(), ask.ID, units); err == nil {
			t.Errorf("a top-up by %d was accepted", units)
		}
	}
}

func (c *conformance) lowered(t *testing.T) {
	c.reserve(t, c.ask("lowered", 100, 60, 60))
	if g := c.reserve(t, c.ask("lowered", 50, 1, 1)); g.Units != 0 || g.Used != 60 || g.Capacity != 50 {
		t.Errorf("granted %+v", g)
	}
	if a := c.account(t, c.ask("lowered", 50, 1, 1)); a.Limit != 50 || a.Used != 60 || a.Remaining() != 0 || a.Capacity != 60 {
		t.Errorf("the account is %+v", a)
	}
	if g := c.reserve(t, c.ask("lowered", 100, 1, 50)); g.Units != 40 {
		t.Errorf("granted %d, want 40", g.Units)
	}
}

func (c *conformance) rolling(t *testing.T) {
	rolling := *c
	rolling.period = quota.Period{Unit: quota.Hour, Rolling: true}
	ask := rolling.ask("rolling", 10, 1, 1)
	first := rolling.reserve(t, ask)
	second := rolling.reserve(t, ask)
	if left := first.Ends.Sub(first.Now); left > time.Hour || left < 59*time.Minute {
		t.Errorf("the period lasts for %s", left)
	}
	if !second.Ends.Equal(first.Ends) || second.Used != 2 {
		t.Errorf("%+v is followed by %+v", first, second)
	}
}

func (c *conformance) events(t *testing.T) {
	var told []int
	service := quota.NewService(c, func(changes.Event) {})
	ask := c.ask("events", 10, 1, 1)
	for range 12 {
		for _, e := range c.reserve(t, ask).Crossed {
			told = append(told, e.Level)
		}
	}
	if _, err := service.Reset(t.Context(), ask.ID); err != nil {
		t.Fatal(err)
	}
	for range 12 {
		for _, e := range c.reserve(t, ask).Crossed {
			told = append(told, e.Level)
		}
	}
	if len(told) != 2 || told[0] != 80 || told[1] != 100 {
		t.Errorf("told %v, want 80 and 100", told)
	}
	if crossed := c.reserve(t, c.ask("at once", 10, 10, 10)).Crossed; len(crossed) != 2 {
		t.Errorf("all at once: %+v", crossed)
	}
	list, err := c.ListQuotaEvents(t.Context(), 0, 200)
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, e := range list {
		if e.ID == ask.ID {
			found++
		}
	}
	if found != 2 {
		t.Errorf("%d events are kept, want 2", found)
	}
}

func (c *conformance) exact(t *testing.T) {
	const limit = 500
	var granted, events atomic.Int64
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			for range 100 {
				g, err := c.Reserve(context.Background(), c.ask("exact", limit, 1, 3))
				if err != nil {
					t.Error(err)
					return
				}
				granted.Add(g.Units)
				events.Add(int64(len(g.Crossed)))
			}
		})
	}
	group.Wait()
	if granted.Load() != limit || events.Load() != 2 {
		t.Errorf("granted %d of %d, and told %d events of 2", granted.Load(), limit, events.Load())
	}
}

func (c *conformance) unknown(t *testing.T) {
	service := quota.NewService(c, func(changes.Event) {})
	for _, id := range []string{c.ask("unknown", 1, 1, 1).ID} {
		if _, err := service.Get(t.Context(), id); err != quota.ErrNotFound { //nolint:errorlint // nothing is wrapped
			t.Errorf("got: %v", err)
		}
		if _, err := service.Reset(t.Context(), id); err == nil {
			t.Error("an unknown account was reset")
		}
	}
}

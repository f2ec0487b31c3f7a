package postgres

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/apikey"
	"github.com/keywarden/keywarden/pkg/audit"
	"github.com/keywarden/keywarden/pkg/catalog"
	"github.com/keywarden/keywarden/pkg/changes"
	"github.com/keywarden/keywarden/pkg/quota"
	"github.com/keywarden/keywarden/pkg/quota/quotatest"
)

func TestQuotaLedgerKeepsItsPromises(t *testing.T) { quotatest.Conformance(t, newWorld(t).Store) }

// meters is what one replica has leased; every replica has its own connections.
func (w *world) meters(store *Store) *quota.Meters {
	w.t.Helper()
	ms, err := quota.NewMeters(quota.Options{
		Ledger: store, Subjects: 10_000, Timeout: patience, Replicas: func() int { return 4 },
		Logger: slog.New(slog.DiscardHandler), Now: time.Now,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return ms
}

func meterOf(t testing.TB, ms *quota.Meters, limit int64, p quota.Period) *quota.Meter {
	t.Helper()
	m, err := ms.Meter(quota.Quota{Name: "monthly", Limit: limit, Period: p}, "orders", "key")
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// month has no end during a test: a period of the calendar may.
var month = quota.Period{Unit: quota.Month, Rolling: true}

func accountID(p quota.Period, subject string) string {
	return quota.Identity{Quota: "monthly", Scope: "orders", Period: p.String(), Kind: "key", Subject: subject}.ID()
}

// A hundred thousand requests reach four replicas at once, of which one is killed
// half way with all that it has leased, and another takes its place.
func TestQuotaIsNeverOverdrawn(t *testing.T) {
	const (
		requests = 100_000
		workers  = 32 // eight at each replica
		limit    = 20_000
	)
	w := newWorld(t)
	w.exec(`ALTER DATABASE ` + w.databaseName() + ` SET synchronous_commit = off`) // the test kills no server
	stores := [4]*Store{}
	var replicas [4]atomic.Pointer[quota.Meter]
	var all []*quota.Meters
	for i := range replicas {
		stores[i] = openStore(t, w.url)
		ms := w.meters(stores[i])
		all = append(all, ms)
		replicas[i].Store(meterOf(t, ms, limit, month))
	}
	var accepted, asked, lost atomic.Int64
	var kill sync.Once
	var group sync.WaitGroup
	for n := range workers {
		group.Go(func() {
			for i := range requests / workers {
				m := replicas[n%len(replicas)].Load()
				r, d, err := m.Reserve(t.Context(), "key", 1)
				if err != nil {
					t.Error(err)
					return
				}
				if d.Allowed {
					accepted.Add(1)
				}
				if n%len(replicas) == 0 && i%16 == 0 && accepted.Load() > limit/4 && m.Stats().Leased > 0 {
					kill.Do(func() {
						replaced := w.meters(openStore(t, w.url))
						old := replicas[0].Swap(meterOf(t, replaced, limit, month))
						lost.Add(old.Stats().Leased)
						all[0] = replaced // nobody closes the one that was killed
					})
				}
				r.Settle(t.Context(), 1)
				asked.Add(1)
			}
		})
	}
	group.Wait()
	held := int64(0)
	for _, ms := range all {
		held += ms.Stats().Leased
		ms.Close(t.Context())
	}
	block := int64(limit / 40)
	used := w.number(`SELECT used FROM quota_accounts`)
	t.Logf("%d requests, %d accepted of %d; held by the replica that was killed: %d of at most %d, by the others in the end: %d",
		asked.Load(), accepted.Load(), limit, lost.Load(), block, held)
	if asked.Load() != requests {
		t.Errorf("only %d requests were made", asked.Load())
	}
	if got := accepted.Load(); got > limit || got < limit-block-held {
		t.Errorf("%d requests of %d were accepted; the killed replica lost at most %d, the others hold %d", got, limit, block, held)
	}
	if used < accepted.Load() || used > limit {
		t.Errorf("%d units are booked, %d were given out", used, accepted.Load())
	}
	if n := w.number(`SELECT count(*) FROM quota_events`); n != 2 {
		t.Errorf("%d events, want 80 %% and 100 %%, once each", n)
	}
}

func (w *world) databaseName() (name string) {
	w.must(w.pool.QueryRow(w.t.Context(), `SELECT quote_ident(current_database())`).Scan(&name))
	return name
}

func TestQuotaSettlesWhileItIsResetAndToppedUp(t *testing.T) {
	w := newWorld(t)
	const limit, operations = 1000, 20
	service := quota.NewService(w.Store, func(changes.Event) {})
	id := accountID(month, "key")
	var replicas []*quota.Meters
	for range 3 {
		replicas = append(replicas, w.meters(w.Store))
	}
	if _, _, err := meterOf(t, replicas[0], limit, month).Reserve(t.Context(), "key", 1); err != nil {
		t.Fatal(err)
	}
	var accepted atomic.Int64
	var calls []func() error
	for _, ms := range replicas {
		m := meterOf(t, ms, limit, month)
		for i := range 8 {
			calls = append(calls, func() error {
				for n := range 500 {
					r, d, err := m.Reserve(context.Background(), "key", 2)
					if err != nil {
						return err
					}
					if !d.Allowed {
						continue
					}
					accepted.Add(2)
					r.Settle(context.Background(), int64((n+i)%4))
				}
				return nil
			})
		}
	}
	resets := int64(0)
	calls = append(calls, func() error {
		for i := range operations {
			if i%2 == 0 {
				resets++
				if _, err := service.Reset(context.Background(), id); err != nil {
					return err
				}
			} else if _, err := service.TopUp(context.Background(), id, 10); err != nil {
				return err
			}
			for _, ms := range replicas {
				ms.Changed(id)
			}
		}
		return nil
	})
	for _, err := range together(calls...) {
		w.must(err)
	}
	for _, ms := range replicas {
		ms.Close(t.Context())
	}
	a, err := w.QuotaAccount(t.Context(), id)
	w.must(err)
	if a.Used < 0 || a.Used > a.Capacity || a.TopUp != 10*operations/2 || a.Remaining() < 0 {
		t.Errorf("the account is %+v", a)
	}
	if n := w.number(`SELECT count(*) FROM quota_events WHERE account = $1`, id); n > 2 {
		t.Errorf("%d events in one period", n)
	}
	if n := w.number(`SELECT count(*) FROM audit_log WHERE target_id = $1 AND action IN ('quota.reset', 'quota.topped_up')`, id); n != operations {
		t.Errorf("%d audit entries for %d changes", n, operations)
	}
	if n := w.number(`SELECT count(*) FROM change_log WHERE kind = 'quota' AND subject = $1`, id); n != operations {
		t.Errorf("%d events for %d changes", n, operations)
	}
}

func TestQuotaChangesAreAudited(t *testing.T) {
	w := newWorld(t)
	admin := w.user(access.RoleAdmin)
	if _, _, err := meterOf(t, w.meters(w.Store), 10, month).Reserve(t.Context(), "key", 4); err != nil {
		t.Fatal(err)
	}
	ctx := access.WithPrincipal(t.Context(), &access.Principal{Kind: access.KindUser, UserID: admin.ID})
	service := quota.NewService(w.Store, func(changes.Event) {})
	id := accountID(month, "key")
	if _, err := service.TopUp(ctx, id, 7); err != nil {
		t.Fatal(err)
	}
	if _, err := service.Reset(ctx, id); err != nil {
		t.Fatal(err)
	}
	list, err := w.ListAudit(t.Context(), audit.Filter{TargetID: id, Limit: 10})
	w.must(err)
	if len(list) != 2 {
		t.Fatalf("%d entries", len(list))
	}
	for i, want := range []audit.Entry{
		{Action: audit.QuotaReset, Detail: map[string]string{"quota": "monthly", "route": "orders", "by": "key", "used_before": "4"}},
		{Action: audit.QuotaToppedUp, Detail: map[string]string{"quota": "monthly", "route": "orders", "by": "key", "used_before": "4", "units": "7"}},
	} {
		if got := list[i]; got.Action != want.Action || got.ActorID != admin.ID || got.TargetKind != "quota" || cmp.Diff(want.Detail, got.Detail) != "" {
			t.Errorf("entry %d: %+v", i, got.Entry)
		}
	}
}

func TestQuotaPeriodEndsOnTheClockOfTheDatabase(t *testing.T) {
	w := newWorld(t)
	ms := w.meters(w.Store)
	m := meterOf(t, ms, 10, month)
	for range 3 {
		if _, _, err := m.Reserve(t.Context(), "key", 4); err != nil {
			t.Fatal(err)
		}
	}
	id := accountID(month, "key")
	before, err := w.QuotaAccount(t.Context(), id)
	w.must(err)
	if _, err := w.ChangeQuotaAccount(t.Context(), id, func(a quota.Account, _ time.Time) (quota.Account, changes.Change, error) {
		a.TopUp, a.Capacity = 5, a.Limit+5
		return a, noted("test.topup", id), nil
	}); err != nil {
		t.Fatal(err)
	}
	w.exec(`UPDATE quota_accounts SET begins = begins - interval '40 days', ends = now() - interval '1 second'`)
	g, err := w.Reserve(t.Context(), quota.Ask{
		ID: id, Identity: before.Identity, Limit: 10, Period: month, Least: 1, Want: 100,
	})
	w.must(err)
	after, err := w.QuotaAccount(t.Context(), id)
	w.must(err)
	if g.Units != 10 || after.TopUp != 0 || after.Epoch == before.Epoch || len(g.Crossed) != 2 || !after.Begins.After(before.Begins.Add(-time.Second)) {
		t.Errorf("the next period: %+v, %+v", g, after)
	}
	w.must(w.Return(t.Context(), []quota.Unused{{ID: id, Epoch: before.Epoch, Units: 2}}))
	if n := w.number(`SELECT used FROM quota_accounts`); n != 10 {
		t.Errorf("units of the period before came back: used %d", n)
	}
}

func TestQuotaGoesByTheClockOfTheDatabase(t *testing.T) {
	w := newWorld(t)
	w.clockAhead.Store(int64(400 * 24 * time.Hour)) // what this replica believes at first
	minute := quota.Period{Unit: quota.Minute}
	for _, p := range []quota.Period{minute, month} {
		i := quota.Identity{Quota: "q", Period: p.String(), Kind: "key", Subject: "key"}
		g, err := w.Reserve(t.Context(), quota.Ask{ID: i.ID(), Identity: i, Limit: 10, Period: p, Least: 1, Want: 1})
		w.must(err)
		if off := time.Until(g.Now).Abs(); off > patience || !g.Now.Before(g.Ends) || g.Ends.Sub(g.Now) > 32*24*time.Hour {
			t.Errorf("%s: now %v, ends %v", p, g.Now, g.Ends)
		}
		w.clockAhead.Store(-int64(400 * 24 * time.Hour))
	}
}

func TestQuotaIsKeptOverTheRotationOfAKey(t *testing.T) {
	w := newWorld(t)
	k, _ := w.key(w.user(access.RoleUser))
	m := meterOf(t, w.meters(w.Store), 10, month)
	passed := func(n int) (count int) {
		for range n {
			r, d, err := m.Reserve(t.Context(), k.ID, 1)
			w.must(err)
			if d.Allowed {
				count++
			}
			r.Settle(t.Context(), 1)
		}
		return count
	}
	first := passed(7)
	at := now()
	rotated, _, err := w.RotateKey(t.Context(), k.ID, newSecret(at), "next", at, at, apikey.Idempotent{}, noted("test.rotated", k.PublicID))
	w.must(err)
	k = rotated
	if second := passed(10); first != 7 || second != 3 {
		t.Errorf("%d requests before the rotation and %d after it, of 10", first, second)
	}
}

func TestQuotaAccountsAreListedByPageFilterAndOwner(t *testing.T) {
	w := newWorld(t)
	u, other := w.user(access.RoleUser), w.user(access.RoleUser)
	k1, _ := w.key(u)
	k2, _ := w.key(u)
	k3, _ := w.key(other)
	ms := w.meters(w.Store)
	use := func(name, kind, subject string) {
		m, err := ms.Meter(quota.Quota{Name: name, Limit: 100, Period: month}, "", kind)
		w.must(err)
		_, _, err = m.Reserve(t.Context(), subject, 1)
		w.must(err)
	}
	for _, k := range []string{k1.ID, k2.ID, k3.ID} {
		use("a", "key", k)
	}
	use("a", "user", u.ID)
	use("b", "user", u.ID)
	use("b", "user", other.ID)
	use("b", "header", u.ID) // says that it is somebody
	products := w.catalog()
	w.sold(products, "people", "people")
	sub, err := products.Subscribe(t.Context(), u.ID, w.app(products, u).ID, "people", "free")
	w.must(err)
	use(catalog.QuotaName, catalog.QuotaKind, sub.ID)
	for _, c := range []struct {
		filter quota.Filter
		want   int
	}{
		{quota.Filter{}, 8}, {quota.Filter{Quota: "a"}, 4}, {quota.Filter{Subject: u.ID}, 3}, {quota.Filter{Kind: "key", Subject: k3.ID}, 1},
		{quota.Filter{Owner: u.ID}, 5}, {quota.Filter{Owner: u.ID, OwnerKey: k1.ID}, 3}, {quota.Filter{Owner: other.ID}, 2}, {quota.Filter{Kind: catalog.QuotaKind}, 1},
		{quota.Filter{Owner: "nobody"}, 0}, {quota.Filter{Subject: "a\x00b"}, 0}, {quota.Filter{Quota: "'; DROP TABLE users; --"}, 0},
	} {
		seen := map[string]bool{}
		for c.filter.Limit = 2; ; {
			page, err := w.ListQuotaAccounts(t.Context(), c.filter)
			w.must(err)
			for _, a := range page {
				if seen[a.ID] || a.ID <= c.filter.After {
					t.Fatalf("%+v: %s is listed twice or out of order", c.filter, a.ID)
				}
				seen[a.ID] = true
				c.filter.After = a.ID
			}
			if len(page) < 2 {
				break
			}
		}
		if len(seen) != c.want {
			t.Errorf("%+v: %d accounts, want %d", c.filter, len(seen), c.want)
		}
	}
}

func TestQuotaTablesRefuseWhatMustNotBe(t *testing.T) {
	w := newWorld(t)
	if _, _, err := meterOf(t, w.meters(w.Store), 10, month).Reserve(t.Context(), "key", 1); err != nil {
		t.Fatal(err)
	}
	for _, sql := range []string{
		`UPDATE quota_accounts SET used = -1`, `UPDATE quota_accounts SET used = 11`, `UPDATE quota_accounts SET topup = -1`,
		`UPDATE quota_accounts SET capacity = 9`, `UPDATE quota_accounts SET ends = begins`, `UPDATE quota_accounts SET allowed = 0, capacity = 10`,
	} {
		if _, err := w.pool.Exec(t.Context(), sql); err == nil || !strings.Contains(err.Error(), "23514") {
			t.Errorf("%s: %v", sql, err)
		}
	}
}

func TestSweepForgetsQuotasLongAfterTheirEnd(t *testing.T) {
	w := newWorld(t)
	m := meterOf(t, w.meters(w.Store), 10, month)
	for _, subject := range []string{"old", "ended", "current"} {
		if _, _, err := m.Reserve(t.Context(), subject, 9); err != nil {
			t.Fatal(err)
		}
	}
	w.exec(`UPDATE quota_accounts SET begins = begins - interval '60 days', ends = now() - interval '8 days' WHERE subject = 'old'`)
	w.exec(`UPDATE quota_accounts SET begins = begins - interval '60 days', ends = now() - interval '1 day' WHERE subject = 'ended'`)
	w.exec(`UPDATE quota_events SET at = now() - interval '91 days' WHERE subject = 'old'`)
	w.must(w.Sweep(t.Context(), now()))
	if n := w.number(`SELECT count(*) FROM quota_accounts`); n != 2 {
		t.Errorf("%d accounts are left, want 2", n)
	}
	if n := w.number(`SELECT count(*) FROM quota_events`); n != 2 {
		t.Errorf("%d events are left, want 2", n)
	}
}

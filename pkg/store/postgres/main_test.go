package postgres

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"go.uber.org/goleak"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/account"
	"github.com/keywarden/keywarden/pkg/apikey"
	"github.com/keywarden/keywarden/pkg/audit"
	"github.com/keywarden/keywarden/pkg/changes"
	"github.com/keywarden/keywarden/pkg/pglocal/pgtest"
	"github.com/keywarden/keywarden/pkg/seal"
	"github.com/keywarden/keywarden/pkg/session"
)

func TestMain(m *testing.M) {
	// Any zone but UTC: what is read must not depend on the machine's.
	time.Local = time.FixedZone("far away", -7*60*60)
	if os.Getenv(migratingChild) != "" {
		os.Exit(m.Run())
	}
	goleak.VerifyTestMain(m, pgtest.IgnoreServer())
}

// patience bounds waits on a loaded machine; no test expects to wait for so long.
const patience = time.Minute

// world is a database with a store, and helpers to fill it.
type world struct {
	*Store
	t     testing.TB
	url   string
	ring  *seal.Keyring
	chain audit.Chain
}

func newWorld(t testing.TB) *world {
	t.Helper()
	return worldAt(t, pgtest.New(t), newRing(t))
}

func worldAt(t testing.TB, url string, ring *seal.Keyring) *world {
	t.Helper()
	s := openStore(t, url)
	chain, err := s.LoadChain(t.Context(), ring)
	if err != nil {
		t.Fatal(err)
	}
	return &world{Store: s, t: t, url: url, ring: ring, chain: chain}
}

func openStore(t testing.TB, url string) *Store {
	t.Helper()
	s, err := Open(t.Context(), Options{
		URL: seal.NewSecret(url), MaxConnections: 24, ConnectTimeout: patience, QueryTimeout: patience,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func newRing(t testing.TB) *seal.Keyring {
	t.Helper()
	ring, err := seal.ParseKeyring(seal.NewMasterKey())
	if err != nil {
		t.Fatal(err)
	}
	return ring
}

// now is a time as the services hand it to the store.
func now() time.Time { return time.Now().UTC().Truncate(time.Microsecond) }

func newID() string { return uuid.Must(uuid.NewV7()).String() }

// noted is a change of the given name, with an event about subject.
func noted(action, subject string) changes.Change {
	return changes.Change{
		Audit: audit.New(context.Background(), audit.Action(action), "thing", subject),
		Event: changes.Event{Kind: changes.UserChanged, Subject: subject},
	}
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// exec runs a statement as somebody who has the database's password.
func (w *world) exec(sql string, args ...any) int64 {
	w.t.Helper()
	tag, err := w.pool.Exec(w.t.Context(), sql, args...)
	if err != nil {
		w.t.Fatalf("%s: %v", sql, err)
	}
	return tag.RowsAffected()
}

// number is the one number that a query finds.
func (w *world) number(sql string, args ...any) (n int64) {
	w.t.Helper()
	if err := w.pool.QueryRow(w.t.Context(), sql, args...).Scan(&n); err != nil {
		w.t.Fatalf("%s: %v", sql, err)
	}
	return n
}

var tables = []string{
	"users", "sessions", "refresh_tokens", "api_keys", "api_key_secrets", "idempotency", "signing_keys",
	"sealed_secrets", "audit_log", "ledger", "change_log", "replicas", "gateway_revisions", "gateway_current",
	"acme_items", "acme_leases", "rate_limits", "quota_accounts", "quota_events",
	"usage_minutes", "secrets", "products", "plans", "apps", "subscriptions",
	"analytics_hours", "analytics_days", "analytics_months", "analytics_state", "analytics_pending",
	"alert_rules", "alert_channels", "alert_rule_channels", "alerts", "alert_silences", "alert_deliveries",
}

// contents is a digest of each table.
func (w *world) contents() map[string]string {
	w.t.Helper()
	all := map[string]string{}
	for _, table := range tables {
		var digest string
		sql := fmt.Sprintf(`SELECT coalesce(md5(string_agg(r::text, E'\n' ORDER BY r::text)), '') FROM %s r`, table)
		w.must(w.pool.QueryRow(w.t.Context(), sql).Scan(&digest))
		all[table] = digest
	}
	return all
}

func newUser(role access.Role) account.User {
	id, at := newID(), now()
	return account.User{ID: id, Email: id + "@example.com", Name: "Somebody", Role: role, CreatedAt: at, UpdatedAt: at}
}

func (w *world) user(role access.Role) account.User {
	w.t.Helper()
	u := newUser(role)
	w.must(w.InsertUser(w.t.Context(), u, "hash of "+u.Email, noted("test.user", u.ID)))
	return u
}

func newSession(u account.User) (session.Session, [sha256.Size]byte) {
	at := now()
	s := session.Session{
		ID: newID(), UserID: u.ID, CreatedAt: at, UsedAt: at, IdleUntil: at.Add(time.Hour), ExpiresAt: at.Add(24 * time.Hour),
		Client: "203.0.113.7", UserAgent: "curl/8",
	}
	return s, sha256.Sum256([]byte("first of " + s.ID))
}

func (w *world) session(u account.User) (session.Session, [sha256.Size]byte) {
	w.t.Helper()
	s, refresh := newSession(u)
	w.must(w.InsertSession(w.t.Context(), s, u.UpdatedAt, refresh, noted("test.session", s.ID)))
	return s, refresh
}

func newKey(u account.User) (apikey.Key, apikey.Secret) {
	id, at := newID(), now()
	k := apikey.Key{
		ID: id, PublicID: id[len(id)-12:], UserID: u.ID, Name: "ci", Env: apikey.Live, Prefix: "kw_live_" + id[:4], LastFour: "last",
		Scopes: []string{"keys:read"}, CreatedAt: at, UpdatedAt: at,
	}
	return k, newSecret(at)
}

func newSecret(at time.Time) apikey.Secret {
	id := newID()
	return apikey.Secret{ID: id, Bcrypt: "bcrypt of " + id, Verifier: []byte("verifier of " + id), PepperID: "pepper", CreatedAt: at}
}

// noLimit is more keys than any test makes.
const noLimit = 1 << 30

func (w *world) key(u account.User) (apikey.Key, apikey.Secret) {
	w.t.Helper()
	k, s := newKey(u)
	_, err := w.InsertKey(w.t.Context(), k, s, noLimit, apikey.Idempotent{}, noted("test.key", k.PublicID))
	w.must(err)
	return k, s
}

// together starts all calls at the same moment and returns their errors.
func together(calls ...func() error) []error {
	errs := make([]error, len(calls))
	start := make(chan struct{})
	var group sync.WaitGroup
	for i, call := range calls {
		group.Go(func() {
			<-start
			errs[i] = call()
		})
	}
	close(start)
	group.Wait()
	return errs
}

// times is n calls of the same function.
func times(n int, call func(i int) error) []func() error {
	calls := make([]func() error, n)
	for i := range calls {
		calls[i] = func() error { return call(i) }
	}
	return calls
}

// count is how many errors are target; a nil target counts successes.
func count(errs []error, target error) (n int) {
	for _, err := range errs {
		if errors.Is(err, target) {
			n++
		}
	}
	return n
}

// eventually polls until done says so.
func eventually(t testing.TB, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("in vain: ", what)
		}
	}
}

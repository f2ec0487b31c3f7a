package rollup

import (
	"log/slog"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/goleak"

	"github.com/keywarden/keywarden/pkg/pglocal/pgtest"
	"github.com/keywarden/keywarden/pkg/seal"
	"github.com/keywarden/keywarden/pkg/store/postgres"
	"github.com/keywarden/keywarden/pkg/usage"
)

func TestMain(m *testing.M) {
	// Any zone but UTC: what is read must not depend on the machine's.
	time.Local = time.FixedZone("far away", -7*60*60)
	goleak.VerifyTestMain(m, pgtest.IgnoreServer())
}

// patience bounds what is waited for on a loaded machine; no test expects to wait for so long.
const patience = time.Minute

// world is a database with its sums, and helpers to fill it.
type world struct {
	*Store
	t    testing.TB
	url  string
	pool *pgxpool.Pool // of somebody who has the database's password, and all the time
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, url: pgtest.New(t)}
	w.Store = w.open(patience)
	config, err := pgxpool.ParseConfig(w.url)
	w.must(err)
	config.ConnConfig.RuntimeParams["timezone"] = "UTC"
	w.pool, err = pgxpool.NewWithConfig(t.Context(), config)
	w.must(err)
	t.Cleanup(w.pool.Close)
	return w
}

// open opens a store whose statements may take so long.
func (w *world) open(timeout time.Duration) *Store {
	w.t.Helper()
	db, err := postgres.Open(w.t.Context(), postgres.Options{
		URL: seal.NewSecret(w.url), MaxConnections: 24, ConnectTimeout: patience, QueryTimeout: timeout,
	})
	w.must(err)
	w.t.Cleanup(db.Close)
	return New(db)
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) exec(sql string, args ...any) {
	w.t.Helper()
	if _, err := w.pool.Exec(w.t.Context(), sql, args...); err != nil {
		w.t.Fatalf("%s: %v", sql, err)
	}
}

// number is the one number that a query finds.
func (w *world) number(sql string, args ...any) (n int64) {
	w.t.Helper()
	if err := w.pool.QueryRow(w.t.Context(), sql, args...).Scan(&n); err != nil {
		w.t.Fatalf("%s: %v", sql, err)
	}
	return n
}

// meter is one of a replica of its own, whose clock is at.
func (w *world) meter(at *time.Time) *usage.Meter {
	return usage.NewMeter(usage.Options{
		Store: w.db, Replica: uuid.NewString(), Now: func() time.Time { return *at }, Logger: slog.New(slog.DiscardHandler),
	})
}

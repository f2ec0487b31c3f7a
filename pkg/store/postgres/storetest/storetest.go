// Package storetest is a private database for the tests of rooms that keep something
// of their own below package postgres. It owns the database, a store of it, and ways to
// look and write past that store; it knows nothing of what such a room keeps. Only tests
// import it.
package storetest

import (
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/goleak"

	"github.com/keywarden/keywarden/pkg/pglocal/pgtest"
	"github.com/keywarden/keywarden/pkg/seal"
	"github.com/keywarden/keywarden/pkg/store/postgres"
)

// Patience bounds what is waited for on a loaded machine; no test expects to wait for so long.
const Patience = time.Minute

// Main runs the tests of a package, as its TestMain.
func Main(m *testing.M) {
	// Any zone but UTC: what is read must not depend on the machine's.
	time.Local = time.FixedZone("far away", -7*60*60)
	goleak.VerifyTestMain(m, pgtest.IgnoreServer())
}

// World is a database of the test's own.
type World struct {
	T    testing.TB
	Pool *pgxpool.Pool // of somebody who has the database's password, and all the time; in UTC
	url  string
}

// New makes a database with the current schema, which goes with the test.
func New(t testing.TB) *World {
	t.Helper()
	w := &World{T: t, url: pgtest.New(t)}
	config, err := pgxpool.ParseConfig(w.url)
	w.Must(err)
	config.ConnConfig.RuntimeParams["timezone"] = "UTC"
	w.Pool, err = pgxpool.NewWithConfig(t.Context(), config)
	w.Must(err)
	t.Cleanup(w.Pool.Close)
	return w
}

// Open opens a store of the database, as each replica does, whose statements may take
// so long.
func (w *World) Open(timeout time.Duration) *postgres.Store {
	w.T.Helper()
	db, err := postgres.Open(w.T.Context(), postgres.Options{
		URL: seal.NewSecret(w.url), MaxConnections: 24, ConnectTimeout: Patience, QueryTimeout: timeout,
	})
	w.Must(err)
	w.T.Cleanup(db.Close)
	return db
}

// Must ends the test with an error that may not be.
func (w *World) Must(err error) {
	w.T.Helper()
	if err != nil {
		w.T.Fatal(err)
	}
}

// Exec runs a statement past the store.
func (w *World) Exec(sql string, args ...any) {
	w.T.Helper()
	if _, err := w.Pool.Exec(w.T.Context(), sql, args...); err != nil {
		w.T.Fatalf("%s: %v", sql, err)
	}
}

// Number is the one number that a query finds.
func (w *World) Number(sql string, args ...any) (n int64) {
	w.T.Helper()
	if err := w.Pool.QueryRow(w.T.Context(), sql, args...).Scan(&n); err != nil {
		w.T.Fatalf("%s: %v", sql, err)
	}
	return n
}

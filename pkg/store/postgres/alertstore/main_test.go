package alertstore

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/goleak"

	"github.com/keywarden/keywarden/pkg/audit"
	"github.com/keywarden/keywarden/pkg/changes"
	"github.com/keywarden/keywarden/pkg/pglocal/pgtest"
	"github.com/keywarden/keywarden/pkg/seal"
	"github.com/keywarden/keywarden/pkg/store/postgres"
)

func TestMain(m *testing.M) {
	// Any zone but UTC: what is read must not depend on the machine's.
	time.Local = time.FixedZone("far away", -7*60*60)
	goleak.VerifyTestMain(m, pgtest.IgnoreServer())
}

// patience bounds what is waited for on a loaded machine; no test expects to wait for so long.
const patience = time.Minute

// world is a database with its alerts, and helpers to fill it.
type world struct {
	*Store
	t    testing.TB
	url  string
	ring *seal.Keyring
	pool *pgxpool.Pool // of somebody who has the database's password
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, url: pgtest.New(t)}
	var err error
	w.ring, err = seal.ParseKeyring(seal.NewMasterKey())
	w.must(err)
	w.Store = w.open()
	_, err = w.db.LoadChain(t.Context(), w.ring)
	w.must(err)
	w.pool, err = pgxpool.New(t.Context(), w.url)
	w.must(err)
	t.Cleanup(w.pool.Close)
	return w
}

// open opens another store of the same database, as another replica does.
func (w *world) open() *Store {
	w.t.Helper()
	db, err := postgres.Open(w.t.Context(), postgres.Options{
		URL: seal.NewSecret(w.url), MaxConnections: 24, ConnectTimeout: patience, QueryTimeout: patience,
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

// exec runs a statement as somebody who has the database's password.
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

func newID() string { return uuid.Must(uuid.NewV7()).String() }

// noted is a change of the given name.
func noted(action, subject string) changes.Change {
	return changes.Change{Audit: audit.New(context.Background(), audit.Action(action), "thing", subject)}
}

// together starts n calls at the same moment and returns their errors.
func together(n int, call func(i int) error) []error {
	errs := make([]error, n)
	start := make(chan struct{})
	var group sync.WaitGroup
	for i := range n {
		group.Go(func() {
			<-start
			errs[i] = call(i)
		})
	}
	close(start)
	group.Wait()
	return errs
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

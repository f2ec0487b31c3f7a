package alertstore

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/keywarden/keywarden/pkg/audit"
	"github.com/keywarden/keywarden/pkg/changes"
	"github.com/keywarden/keywarden/pkg/seal"
	"github.com/keywarden/keywarden/pkg/store/postgres/storetest"
)

func TestMain(m *testing.M) { storetest.Main(m) }

// world is a database with its alerts, and helpers to fill it.
type world struct {
	*Store
	*storetest.World
	ring *seal.Keyring
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{World: storetest.New(t)}
	var err error
	w.ring, err = seal.ParseKeyring(seal.NewMasterKey())
	w.Must(err)
	w.Store = w.open()
	_, err = w.db.LoadChain(t.Context(), w.ring)
	w.Must(err)
	return w
}

// open opens another store of the same database, as another replica does.
func (w *world) open() *Store { return New(w.Open(storetest.Patience)) }

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
	for deadline := time.Now().Add(storetest.Patience); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("in vain: ", what)
		}
	}
}

package rollup

import (
	"log/slog"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/keywarden/keywarden/pkg/store/postgres/storetest"
	"github.com/keywarden/keywarden/pkg/usage"
)

func TestMain(m *testing.M) { storetest.Main(m) }

// world is a database with its sums, and helpers to fill it.
type world struct {
	*Store
	*storetest.World
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{World: storetest.New(t)}
	w.Store = w.open(storetest.Patience)
	return w
}

// open opens a store whose statements may take so long.
func (w *world) open(timeout time.Duration) *Store { return New(w.Open(timeout)) }

// meter is one of a replica of its own, whose clock is at.
func (w *world) meter(at *time.Time) *usage.Meter {
	return usage.NewMeter(usage.Options{
		Store: w.db, Replica: uuid.NewString(), Now: func() time.Time { return *at }, Logger: slog.New(slog.DiscardHandler),
	})
}

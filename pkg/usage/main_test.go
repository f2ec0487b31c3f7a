package usage

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// errAway is a store that does not answer.
var errAway = errors.New("away")

// clock is a clock that is set.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func newClock() *clock { return &clock{at: time.Date(2030, 1, 31, 12, 0, 30, 0, time.UTC)} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

// cellID is what the store knows a cell by.
type cellID struct {
	replica string
	number  int64
	minute  time.Time
}

// memory is a store that does what [Store] promises.
type memory struct {
	mu      sync.Mutex
	cells   map[cellID]Cell
	by      map[cellID]int64 // number of the flush that wrote it
	flushes []Flush
	away    error // before anything is written
	lost    error // the answer, after everything was
}

func newMemory() *memory { return &memory{cells: map[cellID]Cell{}, by: map[cellID]int64{}} }

// WriteUsage implements Store.
func (m *memory) WriteUsage(_ context.Context, f Flush) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.away != nil {
		return m.away
	}
	m.flushes = append(m.flushes, f)
	for _, c := range f.Cells {
		id := cellID{f.Replica, c.Number, c.Minute}
		if m.by[id] < f.Number {
			m.by[id], m.cells[id] = f.Number, c
		}
	}
	return m.lost
}

func (m *memory) set(away, lost error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.away, m.lost = away, lost
}

// count is how many flushes have come.
func (m *memory) count() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.flushes)
}

// requests adds up the cells that want says yes to; nil is all of them.
func (m *memory) requests(want func(Cell) bool) (n int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, c := range m.cells {
		if want == nil || want(c) {
			n += c.Requests
		}
	}
	return n
}

package httpcache

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/maypok86/otter/v2"
)

// Memory is a store in the memory of one process, bounded in bytes and in entries.
// The answers that are asked for most stay (W-TinyLFU, by otter, whose table is
// sharded).
type Memory struct {
	entries  *otter.Cache[[32]byte, *entry]
	weigher  func(o *Object) uint32
	largest  uint32
	forgets  [1 << 16]atomic.Uint32 // by resource
	last     atomic.Uint64          // number of the newest purge
	purgesMu sync.RWMutex
	purges   Purges
}

// entry is an object in memory.
type entry struct {
	object  *Object
	weight  uint32
	keep    time.Duration
	purges  atomic.Uint64 // it has survived them up to this number
	forgets uint32
}

// entryOverhead is about what an entry costs beside its object, in bytes.
const entryOverhead = 512

// MemoryOptions bound the memory.
type MemoryOptions struct {
	Bytes   int64 // of all objects together, at least 1 MiB
	Entries int   // at least 1; one object is never more than an eighth of Bytes
}

const leastMemory = 1 << 20

var _ Store = (*Memory)(nil)

// NewMemory makes a store. Close ends it.
func NewMemory(o MemoryOptions) (*Memory, error) {
	switch {
	case o.Bytes < leastMemory:
		return nil, fmt.Errorf("httpcache: a memory of %d bytes is too small, at least %d", o.Bytes, leastMemory)
	case o.Entries < 1:
		return nil, errors.New("httpcache: there must be room for at least one entry")
	}
	least := max(entryOverhead, o.Bytes/int64(o.Entries))
	m := &Memory{largest: uint32(min(max(o.Bytes/8, least), math.MaxUint32))}
	m.weigher = func(o *Object) uint32 {
		return uint32(min(max(int64(o.Size()+entryOverhead), least), math.MaxUint32))
	}
	var err error
	m.entries, err = otter.New(&otter.Options[[32]byte, *entry]{
		MaximumWeight: uint64(o.Bytes),
		Weigher:       func(_ [32]byte, e *entry) uint32 { return e.weight },
		ExpiryCalculator: otter.ExpiryWritingFunc(func(e otter.Entry[[32]byte, *entry]) time.Duration {
			return e.Value.keep
		}),
	})
	if err != nil {
		return nil, fmt.Errorf("httpcache: making the memory: %w", err)
	}
	return m, nil
}

// Close ends the store's goroutines. Nothing may be kept after it.
func (m *Memory) Close() { m.entries.StopAllGoroutines() }

// Get implements [Store].
func (m *Memory) Get(_ context.Context, key Key) (*Object, Mark) {
	// The mark is from before the look: what is forgotten meanwhile counts.
	mark := Mark{Purges: m.last.Load(), Resource: uint64(m.forgets[key.Resource].Load()), Known: true}
	e, ok := m.entries.GetIfPresent(key.Entry)
	if !ok {
		return nil, mark
	}
	if e.forgets != m.forgets[key.Resource].Load() || !m.survives(e) {
		m.drop(key, e)
		return nil, mark
	}
	return e.object, mark
}

// survives brings e up to date with the purges.
func (m *Memory) survives(e *entry) bool {
	since := e.purges.Load()
	if since == m.last.Load() {
		return true
	}
	m.purgesMu.RLock()
	defer m.purgesMu.RUnlock()
	if !m.purges.Stands(e.object, since) {
		return false
	}
	e.purges.CompareAndSwap(since, m.purges.Last())
	return true
}

// drop removes e, and nothing that has taken its place.
func (m *Memory) drop(key Key, e *entry) {
	m.entries.ComputeIfPresent(key.Entry, func(current *entry) (*entry, otter.ComputeOp) {
		if current != e {
			return current, otter.CancelOp
		}
		return nil, otter.InvalidateOp
	})
}

// Put implements [Store].
func (m *Memory) Put(_ context.Context, key Key, o *Object, keep time.Duration, since Mark) {
	weight := m.weigher(o)
	if keep <= 0 || weight > m.largest || !since.Known {
		return
	}
	e := &entry{object: o, weight: weight, keep: keep, forgets: uint32(since.Resource)}
	e.purges.Store(since.Purges)
	if e.forgets != m.forgets[key.Resource].Load() || !m.survives(e) {
		return
	}
	m.entries.Set(key.Entry, e)
}

// Delete implements [Store].
func (m *Memory) Delete(_ context.Context, key Key) { m.entries.Invalidate(key.Entry) }

// Forget implements [Store]. It costs the same however much is forgotten.
func (m *Memory) Forget(_ context.Context, resource uint16) { m.forgets[resource].Add(1) }

// Purge implements [Store]. It costs the same however much is purged; the memory is
// given back as entries are looked at, expire, or make room.
func (m *Memory) Purge(_ context.Context, p Purge) error {
	if err := p.Validate(); err != nil {
		return err
	}
	m.purgesMu.Lock()
	defer m.purgesMu.Unlock()
	m.purges.Add(p)
	m.last.Store(m.purges.Last())
	return nil
}

// Len is about how many entries there are, and Bytes how large they are together.
func (m *Memory) Len() int { return m.entries.EstimatedSize() }

// Bytes is about how much memory the entries take.
func (m *Memory) Bytes() uint64 { return m.entries.WeightedSize() }

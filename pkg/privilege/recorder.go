package privilege

import (
	"context"
	"errors"
	"hash/maphash"
	"log/slog"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keywarden/keywarden/pkg/access"
)

const (
	flushInterval = 10 * time.Second // between writes
	flushTimeout  = 5 * time.Second
	idle          = 10 // minutes that a written use is remembered, so that the next one allocates nothing
	shards        = 64
)

// Options configure a [Recorder]. All fields are required.
type Options struct {
	Store   Store
	Entries int // different uses that are remembered; beyond them uses are dropped and counted
	Now     func() time.Time
	Logger  *slog.Logger
}

// Recorder remembers which scopes keys use until that is written. A use that is
// dropped, for want of room, is only late as long as the key goes on using the scope:
// room is made by every flush. It is safe for concurrent use; a nil one remembers
// nothing.
type Recorder struct {
	Options
	seed    maphash.Seed
	shards  [shards]shard
	entries atomic.Int64
	dropped atomic.Int64
	flush   sync.Mutex // held while writing, so that an entry has one writer
}

// shard is a part of the entries: keys that are used at the same time seldom wait for
// each other.
type shard struct {
	mu   sync.RWMutex
	used map[pair]*entry
	_    [64]byte // on a cache line of its own
}

// pair is what uses are told apart by.
type pair struct{ key, scope string }

// entry is the last use of a pair. It is removed under the lock of its shard alone,
// and its minute is raised under the lock for readers, so that no use goes to an entry
// that is gone.
type entry struct {
	minute  atomic.Int64 // of the last use, since the epoch
	written int64        // the minute that the store has; belongs to who flushes
}

// NewRecorder makes a recorder; what it remembers is written by [Recorder.Run].
func NewRecorder(o Options) (*Recorder, error) {
	if o.Store == nil || o.Now == nil || o.Logger == nil || o.Entries < 1 {
		return nil, errors.New("a recorder needs a store, a clock, a logger and room for one entry")
	}
	r := &Recorder{Options: o, seed: maphash.MakeSeed()}
	for i := range r.shards {
		r.shards[i].used = map[pair]*entry{}
	}
	return r, nil
}

// Used remembers that a call by p has needed the scope, and that p holds it. Callers
// without a key are none of its business. It neither blocks nor, for a use that is
// remembered, allocates.
func (r *Recorder) Used(p *access.Principal, scope string) {
	if r == nil || p == nil || p.Kind != access.KindKey {
		return
	}
	minute := r.Now().Unix() / 60
	s := &r.shards[maphash.String(r.seed, p.KeyID)%shards]
	if !s.raise(pair{p.KeyID, scope}, minute) {
		r.add(s, pair{p.KeyID, scope}, minute)
	}
}

// raise notes the minute of a use that is remembered, false when it is not.
func (s *shard) raise(p pair, minute int64) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	e := s.used[p]
	if e == nil {
		return false
	}
	for last := e.minute.Load(); last < minute; last = e.minute.Load() {
		if e.minute.CompareAndSwap(last, minute) {
			break
		}
	}
	return true
}

// add begins to remember a use.
func (r *Recorder) add(s *shard, p pair, minute int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.used[p]; e != nil { // somebody was faster
		e.minute.Store(max(e.minute.Load(), minute))
		return
	}
	if r.entries.Add(1) > int64(r.Entries) {
		r.entries.Add(-1)
		r.dropped.Add(1)
		return
	}
	e := &entry{}
	e.minute.Store(minute)
	s.used[p] = e
}

// Dropped is how many uses found no room.
func (r *Recorder) Dropped() int64 { return r.dropped.Load() }

// Run writes last uses until ctx ends, and once more then.
func (r *Recorder) Run(ctx context.Context) error {
	tick := time.NewTicker(flushInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			r.Flush(context.WithoutCancel(ctx))
			return nil
		case <-tick.C:
			r.Flush(ctx)
		}
	}
}

// Flush writes the last uses that are not written yet, and forgets those that were
// for long. When that fails they are remembered on.
func (r *Recorder) Flush(ctx context.Context) {
	r.flush.Lock()
	defer r.flush.Unlock()
	uses, entries := r.unwritten()
	if len(uses) > 0 {
		ctx, cancel := context.WithTimeout(ctx, flushTimeout)
		defer cancel()
		if err := r.Store.TouchKeyScopes(ctx, uses); err != nil {
			r.Logger.DebugContext(ctx, "last uses of scopes are written later", "error", err)
			return
		}
		for i, e := range entries {
			e.written = uses[i].Minute.Unix() / 60 // and not its minute, which may be a later one by now
		}
	}
	r.forget()
}

// unwritten are the uses that the store does not have, with their entries.
func (r *Recorder) unwritten() (uses []Use, entries []*entry) {
	for i := range r.shards {
		s := &r.shards[i]
		s.mu.RLock()
		for p, e := range s.used {
			if minute := e.minute.Load(); minute > e.written {
				uses = append(uses, Use{KeyID: p.key, Scope: p.scope, Minute: time.Unix(minute*60, 0).UTC()})
				entries = append(entries, e)
			}
		}
		s.mu.RUnlock()
	}
	return uses, entries
}

// forget makes room: of what is written everything goes when there is little left, and
// else what was not used for a while.
func (r *Recorder) forget() {
	before := r.Now().Unix()/60 - idle
	if r.entries.Load() > int64(r.Entries)/10*9 {
		before = math.MaxInt64
	}
	for i := range r.shards {
		s := &r.shards[i]
		s.mu.Lock()
		for p, e := range s.used {
			if minute := e.minute.Load(); minute <= e.written && minute < before {
				delete(s.used, p)
				r.entries.Add(-1)
			}
		}
		s.mu.Unlock()
	}
}

package cache

import (
	"context"
	"encoding/binary"
	"sync/atomic"
	"time"

	"github.com/keywarden/keywarden/pkg/httpcache"
)

// flight is an answer that is being fetched, and that others wait for.
type flight struct {
	cache *Cache
	key   [32]byte
	head  chan struct{} // closed when the answer is known to be for others, too
	done  chan struct{} // closed at the end
	began bool          // head is closed; the leader's

	// Set before done is closed.
	object  *httpcache.Object // nil: there is none for others
	variant [32]byte          // key of the variant that object is
	failed  bool              // the leader got no answer: another one may try
}

// takeoff joins the flight of a key, or begins it as its leader.
func (c *Cache) takeoff(key [32]byte) (f *flight, leads bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if f := c.flights[key]; f != nil {
		return f, false
	}
	f = &flight{cache: c, key: key, head: make(chan struct{}), done: make(chan struct{})}
	c.flights[key] = f
	return f, true
}

// promise says that the answer is one for others, once it is whole.
func (f *flight) promise() {
	if f != nil && !f.began {
		f.began = true
		close(f.head)
	}
}

// land ends the flight; only the first call counts. It is for the leader alone.
func (f *flight) land(o *httpcache.Object, variant [32]byte, failed bool) {
	if f == nil {
		return
	}
	c := f.cache
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.flights[f.key] != f {
		return
	}
	delete(c.flights, f.key)
	f.object, f.variant, f.failed = o, variant, failed
	close(f.done)
}

// bodyWait is how long followers wait for the body of an answer whose leader may
// have a slow client.
const bodyWait = 2 * time.Second

// await waits for the flight's end; false when the caller should go on its own.
func (f *flight) await(ctx context.Context) bool {
	select {
	case <-f.done:
		return true
	case <-ctx.Done():
		return false
	case <-f.head:
	}
	timer := time.NewTimer(bodyWait)
	defer timer.Stop()
	select {
	case <-f.done:
		return true
	case <-ctx.Done():
	case <-timer.C:
	}
	return false
}

// uncached remembers for a moment which keys had answers that are for nobody else:
// who asks for those does not wait for another. It forgets when keys collide.
type uncached [4096]struct{ key, until atomic.Uint64 }

// uncachedFor is how long it is remembered.
const uncachedFor = 10 * time.Second

func (u *uncached) add(key [32]byte, now time.Time) {
	n := binary.LittleEndian.Uint64(key[:])
	slot := &u[n%uint64(len(u))]
	slot.key.Store(n)
	slot.until.Store(uint64(now.Add(uncachedFor).UnixNano()))
}

func (u *uncached) has(key [32]byte, now time.Time) bool {
	n := binary.LittleEndian.Uint64(key[:])
	slot := &u[n%uint64(len(u))]
	return slot.key.Load() == n && slot.until.Load() > uint64(now.UnixNano())
}

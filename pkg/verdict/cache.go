// Package verdict caches what was found out about a credential, so that a warm
// check touches no network, and never serves a finding that an invalidation has
// overtaken. It is bounded; the hottest entries stay (W-TinyLFU, by otter).
package verdict

import (
	"context"
	"fmt"
	"hash/maphash"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/maypok86/otter/v2"
	"golang.org/x/sync/singleflight"
)

// stripes is the number of generation counters; a power of two.
const stripes = 256

// Cache maps identifiers to findings. It is safe for concurrent use.
//
// The danger of such a cache is a load that reads the database before a
// revocation commits and stores its finding after the revocation was applied.
// Every invalidation therefore raises a generation; a load keeps its finding
// only when the generation is still the one it began with.
type Cache[V comparable] struct {
	entries *otter.Cache[string, V]
	flights singleflight.Group
	timeout time.Duration
	seed    maphash.Seed
	all     atomic.Uint64          // generation of everything
	some    [stripes]atomic.Uint64 // generations by hash of the identifier
}

// New makes a cache of at most size entries, at least one. timeout bounds one load; loads are
// shared by all who ask for the same identifier, so they do not end with the
// request that began them.
func New[V comparable](size int, timeout time.Duration) (*Cache[V], error) {
	if size < 1 { // otter takes 0 for unbounded
		return nil, fmt.Errorf("a cache of %d entries is not possible", size)
	}
	entries, err := otter.New(&otter.Options[string, V]{MaximumSize: size})
	if err != nil {
		return nil, fmt.Errorf("make a cache of %d entries: %w", size, err)
	}
	return &Cache[V]{entries: entries, timeout: timeout, seed: maphash.MakeSeed()}, nil
}

// Get returns the cached finding. It does not allocate.
func (c *Cache[V]) Get(id string) (V, bool) { return c.entries.GetIfPresent(id) }

// Load returns what load finds and caches it, unless the identifier was
// invalidated meanwhile. Errors are not cached. Callers that ask while a load
// runs share it; callers that ask after an invalidation never share an older one.
func (c *Cache[V]) Load(ctx context.Context, id string, load func(context.Context) (V, error)) (V, error) {
	began := c.generation(id)
	flight := c.flights.DoChan(id+"#"+strconv.FormatUint(began, 36), func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.timeout)
		defer cancel()
		v, err := load(ctx)
		if err == nil {
			c.put(id, v, began)
		}
		return v, err
	})
	select {
	case <-ctx.Done():
		var none V
		return none, ctx.Err()
	case r := <-flight:
		v, _ := r.Val.(V)
		return v, r.Err
	}
}

// put looks at the generation and stores under the lock of the entry. An
// invalidation raises the generation before it takes that lock: either the look
// comes after, and nothing is stored, or the invalidation removes what was. At
// no moment after it can anybody get an older finding.
func (c *Cache[V]) put(id string, v V, began uint64) {
	id = strings.Clone(id) // it may be a part of a whole request, which is not to be kept
	c.entries.Compute(id, func(old V, _ bool) (V, otter.ComputeOp) {
		if c.generation(id) != began {
			return old, otter.CancelOp
		}
		return v, otter.WriteOp
	})
}

// Keep stores what was found outside of Load, unless id was invalidated
// meanwhile: began is the Generation from before v was looked for.
func (c *Cache[V]) Keep(id string, v V, began uint64) { c.put(id, v, began) }

// Generation is to be read before looking for what Keep stores.
func (c *Cache[V]) Generation(id string) uint64 { return c.generation(id) }

// Replace stores v in place of old and reports whether it did: what an
// invalidation removed, or a newer finding replaced, does not come back.
func (c *Cache[V]) Replace(id string, old, v V) (replaced bool) {
	c.entries.ComputeIfPresent(id, func(current V) (V, otter.ComputeOp) {
		replaced = current == old
		if !replaced {
			return current, otter.CancelOp
		}
		return v, otter.WriteOp
	})
	return replaced
}

// generation only grows, and grows with every invalidation that concerns id.
func (c *Cache[V]) generation(id string) uint64 {
	return c.all.Load() + c.stripe(id).Load()
}

func (c *Cache[V]) stripe(id string) *atomic.Uint64 {
	return &c.some[maphash.String(c.seed, id)&(stripes-1)]
}

// Invalidate forgets id and whatever is being loaded for it.
func (c *Cache[V]) Invalidate(id string) {
	c.stripe(id).Add(1)
	c.entries.Invalidate(id)
}

// InvalidateIf forgets every entry for which match is true. It looks at all of
// them, so it is for rare events.
func (c *Cache[V]) InvalidateIf(match func(V) bool) {
	c.all.Add(1)
	for id, v := range c.entries.All() {
		if match(v) {
			c.entries.Invalidate(id)
		}
	}
}

// Clear forgets everything.
func (c *Cache[V]) Clear() {
	c.all.Add(1)
	c.entries.InvalidateAll()
}

// Len is about how many entries there are.
func (c *Cache[V]) Len() int { return c.entries.EstimatedSize() }

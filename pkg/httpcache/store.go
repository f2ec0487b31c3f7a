package httpcache

import (
	"context"
	"time"
)

// Key names what is kept.
type Key struct {
	// Entry is a digest of everything that tells two answers apart.
	Entry [32]byte

	// Resource is the same for all answers of a host and path, whoever the caller and
	// whatever the query. Resources can share one: then they are forgotten together.
	Resource uint16
}

// ResourceOf is the number of the resource at a canonical host and path, the same
// on every replica (FNV-1a).
func ResourceOf(host, path string) uint16 {
	h := uint32(2166136261)
	for i := range len(host) {
		h = (h ^ uint32(host[i])) * 16777619
	}
	h *= 16777619 // a zero byte
	for i := range len(path) {
		h = (h ^ uint32(path[i])) * 16777619
	}
	return uint16(h ^ h>>16)
}

// Mark is a moment in the life of a store, before an answer was asked for. What is
// forgotten after it concerns the answer, too.
type Mark struct {
	Epoch    string // of the store's memory; another one has forgotten everything
	Purges   uint64 // number of the last purge
	Resource uint64 // times that the resource was forgotten
	Known    bool   // false: the store does not answer, and keeps nothing
}

// Store keeps answers for a while. It may lose them at any time, but never gives
// one that was purged or forgotten. Implementations are safe for concurrent use and
// pass httpcachetest.Conformance.
type Store interface {
	// Get returns what is kept, nil for nothing, and the mark for what is asked for
	// next. It fails by returning nothing.
	Get(ctx context.Context, key Key) (*Object, Mark)

	// Put keeps o, unless it was purged or forgotten since the mark, for at most the
	// given time. o must not be changed any more. It fails by keeping nothing.
	Put(ctx context.Context, key Key, o *Object, keep time.Duration, since Mark)

	// Delete forgets one answer.
	Delete(ctx context.Context, key Key)

	// Forget forgets all answers of a resource.
	Forget(ctx context.Context, resource uint16)

	// Purge forgets what p matches. When it fails, nothing is given by this store
	// until the purge could be made up for.
	Purge(ctx context.Context, p Purge) error
}

package http1

import "sync"

// Sizes of what requests are written into, in bytes.
const (
	bufferSize = 2 << 10  // at first
	maxKept    = 40 << 10 // with which one is kept
)

// buffers are for requests on their way out. It is safe for concurrent use.
type buffers struct {
	pool  sync.Pool
	watch func(lent int) // told of each that is lent, 1, or given back, -1; in tests only
}

type buffer struct{ bytes []byte }

func (b *buffers) get() *buffer {
	if b.watch != nil {
		b.watch(1)
	}
	if space, ok := b.pool.Get().(*buffer); ok {
		return space
	}
	return &buffer{bytes: make([]byte, 0, bufferSize)}
}

func (b *buffers) put(space *buffer) {
	if b.watch != nil {
		b.watch(-1)
	}
	if cap(space.bytes) <= maxKept {
		b.pool.Put(space)
	}
}

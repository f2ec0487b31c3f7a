package proxy

import "sync"

// bufferSize is what one read from a service takes at most, in bytes.
const bufferSize = 32 << 10

// bufferPool implements [httputil.BufferPool]. It holds pointers to arrays,
// because a slice would be allocated anew on its way into the pool.
type bufferPool struct{ pool sync.Pool }

func newBufferPool() *bufferPool {
	return &bufferPool{pool: sync.Pool{New: func() any { return new([bufferSize]byte) }}}
}

func (b *bufferPool) Get() []byte { return b.pool.Get().(*[bufferSize]byte)[:] }

func (b *bufferPool) Put(buffer []byte) { b.pool.Put((*[bufferSize]byte)(buffer)) }

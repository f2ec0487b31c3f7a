package proxy

import (
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"
)

// watchedBody is the body of a request that remembers how reading it failed. The
// transport reads it on a goroutine of its own and hides its errors among those
// of the connection.
type watchedBody struct {
	io.ReadCloser
	failed  atomic.Pointer[error]
	ended   atomic.Bool // it was read to its end
	reading atomic.Bool // the client is being waited for
	cut     atomic.Bool // nothing more is to be read: the exchange has ended

	idle  time.Duration
	pause *time.Timer // nil without a bound on pauses
	free  atomic.Bool // the bound no longer counts

	mu   sync.Mutex // guards over
	over bool       // the request's goroutine has left: its connection may be another's
}

// leave says that nothing may be done to the connection any more.
func (b *watchedBody) leave() {
	if b.ReadCloser != nil {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.over = true
	}
}

// errCut is what reading a body gives when the exchange has ended.
var errCut = errors.New("the exchange has ended")

// Read implements [io.Reader].
func (b *watchedBody) Read(p []byte) (int, error) {
	b.reading.Store(true) // before the look at cut: whoever sets that looks at reading then
	if b.cut.Load() {
		b.reading.Store(false)
		return 0, errCut
	}
	if b.pause != nil && !b.free.Load() {
		b.pause.Reset(b.idle)
	}
	n, err := b.ReadCloser.Read(p)
	b.reading.Store(false)
	if b.pause != nil {
		b.pause.Reset(b.idle) // until the service has taken it
		if err != nil || b.free.Load() {
			b.pause.Stop()
		}
	}
	switch {
	case err == nil:
	case errors.Is(err, io.EOF):
		b.ended.Store(true)
	case !b.cut.Load(): // else it was made to fail
		b.failed.CompareAndSwap(nil, &err)
	}
	return n, err
}

// Close implements [io.Closer]: nobody asks for more.
func (b *watchedBody) Close() error {
	if b.pause != nil {
		b.pause.Stop()
	}
	return b.ReadCloser.Close()
}

// Spoiled reports whether the client has broken the body off, or sent what is none.
// It implements [forward.Body].
func (b *watchedBody) Spoiled() bool { return b.failed.Load() != nil }

// lost reports whether the end of the body will not be found on the connection.
func (b *watchedBody) lost() bool {
	return b.ReadCloser != nil && !b.ended.Load() && (b.Spoiled() || b.cut.Load())
}

// failure is the first error of reading, nil when there was none.
func (b *watchedBody) failure() error {
	if err := b.failed.Load(); err != nil {
		return *err
	}
	return nil
}

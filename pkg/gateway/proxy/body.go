package proxy

import (
	"errors"
	"io"
	"sync/atomic"
)

// watchedBody is the body of a request that remembers how reading it failed. The
// transport reads it on a goroutine of its own and hides its errors among those
// of the connection.
type watchedBody struct {
	io.ReadCloser
	failed atomic.Pointer[error]
	ended  atomic.Bool // it was read to its end
}

// Read implements [io.Reader].
func (b *watchedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	switch {
	case err == nil:
	case errors.Is(err, io.EOF):
		b.ended.Store(true)
	default:
		b.failed.CompareAndSwap(nil, &err)
	}
	return n, err
}

// failure is the first error of reading, nil when there was none.
func (b *watchedBody) failure() error {
	if err := b.failed.Load(); err != nil {
		return *err
	}
	return nil
}

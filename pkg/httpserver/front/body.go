package front

import (
	"io"
	"net/http"
	"sync"
)

// body is the body of a request. All of it is in memory, in bytes that are its alone:
// somebody may read on after the handler has returned, as a transport does.
type body struct {
	mu     sync.Mutex
	rest   []byte
	closed bool
}

var _ io.ReadCloser = (*body)(nil)

// Read implements [io.Reader].
func (b *body) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.closed:
		return 0, http.ErrBodyReadAfterClose
	case len(b.rest) == 0:
		return 0, io.EOF
	}
	n := copy(p, b.rest)
	b.rest = b.rest[n:]
	return n, nil
}

// Close implements [io.Closer].
func (b *body) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	return nil
}

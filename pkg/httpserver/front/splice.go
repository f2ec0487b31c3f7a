package front

import (
	"net/http"

	"github.com/keywarden/keywarden/pkg/splice"
)

var _ splice.Sink = (*response)(nil)

// CanDrain implements [splice.Sink]: there is no TLS, and the body is neither held back
// nor framed.
func (w *response) CanDrain() bool {
	return w.conn.tls == nil && w.conn.raw != nil && w.conn.failed == nil && !w.over.Load() &&
		w.complete && w.mode == sized && w.buffers.held == 0
}

// DrainPipe implements [splice.Sink].
func (w *response) DrainPipe(p *splice.Pipe) (int, error) {
	if w.length-w.written < int64(p.Held()) {
		return 0, http.ErrContentLength
	}
	if err := w.flush(); err != nil {
		return 0, err
	}
	n, err := p.Drain(w.conn.raw)
	w.written += int64(n)
	return n, w.conn.fail(err)
}

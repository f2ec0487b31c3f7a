package httpedge

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"sync/atomic"
)

// response wraps a connection's ResponseWriter to learn what was answered. It
// passes on everything that net/http's own writers can do, except
// http.CloseNotifier: httputil.ReverseProxy would start a goroutine per request
// for it, and a request's context says the same.
type response struct {
	http.ResponseWriter
	status   int      // the final status; 0 until the header was sent
	bytes    int64    // of body sent
	head     bool     // a HEAD request: net/http takes the body and drops it
	hijacked net.Conn // the connection, once a handler took it over
	body     countedBody
}

// countedBody is the body of a request that says how much of it was read. It is part
// of the response so that it costs no allocation of its own.
type countedBody struct {
	io.ReadCloser
	read atomic.Int64 // bytes; a transport may read on when the handler has returned
}

// Read implements io.Reader.
func (b *countedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.read.Add(int64(n))
	return n, err
}

var (
	_ http.Flusher    = (*response)(nil)
	_ http.Hijacker   = (*response)(nil)
	_ io.ReaderFrom   = (*response)(nil)
	_ io.StringWriter = (*response)(nil)
)

// wrapResponse returns w itself when an outer middleware wrapped it already.
func wrapResponse(w http.ResponseWriter, r *http.Request) *response {
	if res, ok := w.(*response); ok {
		return res
	}
	return &response{ResponseWriter: w, head: r.Method == http.MethodHead}
}

// countBody has the body of r counted, if it has one.
func (w *response) countBody(r *http.Request) {
	if r.Body == nil || r.Body == http.NoBody || w.body.ReadCloser != nil {
		return
	}
	w.body.ReadCloser, r.Body = r.Body, &w.body
}

// Unwrap serves http.ResponseController.
func (w *response) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// WriteHeader implements http.ResponseWriter. An informational status is passed
// on and forgotten, but for 101, which ends HTTP on the connection.
func (w *response) WriteHeader(status int) {
	if w.status == 0 && (status >= 200 || status == http.StatusSwitchingProtocols) {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write implements io.Writer.
func (w *response) Write(p []byte) (int, error) {
	w.implicitHeader()
	n, err := w.ResponseWriter.Write(p)
	w.count(int64(n))
	return n, err
}

// WriteString implements io.StringWriter.
func (w *response) WriteString(s string) (int, error) {
	w.implicitHeader()
	n, err := io.WriteString(w.ResponseWriter, s)
	w.count(int64(n))
	return n, err
}

// ReadFrom implements io.ReaderFrom, so that the kernel can copy from a file or
// a connection where net/http lets it.
func (w *response) ReadFrom(src io.Reader) (int64, error) {
	w.implicitHeader()
	n, err := io.Copy(w.ResponseWriter, src)
	w.count(n)
	return n, err
}

// Flush implements http.Flusher.
func (w *response) Flush() { _ = w.FlushError() }

// FlushError is what http.ResponseController calls.
func (w *response) FlushError() error {
	w.implicitHeader()
	return http.NewResponseController(w.ResponseWriter).Flush()
}

// Hijack implements http.Hijacker; where the connection cannot be taken over,
// as in HTTP/2, the error is http.ErrNotSupported.
func (w *response) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err == nil {
		w.hijacked = conn
	}
	return conn, rw, err
}

// implicitHeader notes the 200 that net/http sends before a body.
func (w *response) implicitHeader() {
	if w.status == 0 {
		w.status = http.StatusOK
	}
}

func (w *response) count(n int64) {
	if !w.head {
		w.bytes += n
	}
}

// begun reports whether the answer can no longer be replaced by another.
func (w *response) begun() bool { return w.status != 0 || w.hijacked != nil }

// final is the status that the client got; 0 when the handler was aborted
// before there was one. A handler that took the connection over answers 101 by
// itself, and one that returned without a word answers 200.
func (w *response) final(returned bool) int {
	switch {
	case w.status != 0:
		return w.status
	case w.hijacked != nil:
		return http.StatusSwitchingProtocols
	case returned:
		return http.StatusOK
	}
	return 0
}

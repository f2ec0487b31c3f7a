// Package respwriter lets a policy see the header of an answer before it goes out,
// and stand in for its body. Everything that net/http's writers can do passes:
// interim answers, flushing, full duplex, deadlines, taking over the connection,
// and copying from files, each where the writer below can.
//
// It decides nothing about answers.
package respwriter

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
)

// Hook is told of an answer.
type Hook interface {
	// Header is called once per answer, before its header goes out, and may change
	// it; r is the request as the policy got it. It is not called for interim
	// answers (1xx but 101), nor when a handler takes over the connection without an
	// answer, as the proxy does for WebSockets.
	//
	// Where it returns a Body, what is written goes there; mostly it returns nil.
	Header(w *Writer, r *http.Request, status int) Body
}

// Body stands in for the body of an answer, for example to compress it: it writes
// to [Writer.Sink].
type Body interface {
	io.Writer

	// Flush brings what was written so far to the sink; the sink itself is flushed
	// after it.
	Flush() error

	// Close ends the body. It is called once, when the handler has returned.
	Close() error
}

// Writer is an [http.ResponseWriter] with a hook. It belongs to one request.
type Writer struct {
	http.ResponseWriter
	request *http.Request
	hook    Hook
	body    Body
	called  bool // the hook was, or never will be

	replaced bool // the hook has answered, and what the handler says is dropped
}

var (
	_ http.Flusher    = (*Writer)(nil)
	_ http.Hijacker   = (*Writer)(nil)
	_ io.ReaderFrom   = (*Writer)(nil)
	_ io.StringWriter = (*Writer)(nil)
)

// Serve has next answer r through a writer with the hook. When next panics, as it
// does to break an answer off, the body is not ended: half of it must not look
// whole.
func Serve(next http.Handler, w http.ResponseWriter, r *http.Request, hook Hook) {
	rw := &Writer{ResponseWriter: w, request: r, hook: hook}
	next.ServeHTTP(rw, r)
	rw.finish()
}

// finish does what is left when the handler has returned: without a word of its
// own, the answer is an empty 200.
func (w *Writer) finish() {
	w.before(http.StatusOK)
	if w.body != nil {
		_ = w.body.Close() // the client is gone, and nobody is left to be told
		w.body = nil
	}
}

// before calls the hook, unless it was called.
func (w *Writer) before(status int) {
	if !w.called {
		w.called = true
		w.body = w.hook.Header(w, w.request, status)
	}
}

// Replace answers in place of the handler, of which nothing goes out any more. Only
// a hook calls it, in [Hook.Header]; what it leaves of the header goes out.
func (w *Writer) Replace(status int, body []byte) {
	w.replaced = true
	w.ResponseWriter.WriteHeader(status)
	_, _ = w.ResponseWriter.Write(body) // the client is gone, and nobody is left to be told
	// What the handler does from now on, such as breaking off, is not for the client.
	_ = http.NewResponseController(w.ResponseWriter).Flush()
}

// Sink is where a [Body] writes to.
func (w *Writer) Sink() io.Writer { return w.ResponseWriter }

// Unwrap serves [http.ResponseController].
func (w *Writer) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// WriteHeader implements [http.ResponseWriter].
func (w *Writer) WriteHeader(status int) {
	if status >= 200 || status == http.StatusSwitchingProtocols {
		w.before(status)
	}
	if !w.replaced {
		w.ResponseWriter.WriteHeader(status)
	}
}

// Write implements [io.Writer].
func (w *Writer) Write(p []byte) (int, error) {
	w.before(http.StatusOK)
	switch {
	case w.replaced:
		return len(p), nil
	case w.body != nil:
		return w.body.Write(p)
	}
	return w.ResponseWriter.Write(p)
}

// WriteString implements [io.StringWriter].
func (w *Writer) WriteString(s string) (int, error) {
	w.before(http.StatusOK)
	switch {
	case w.replaced:
		return len(s), nil
	case w.body != nil:
		return io.WriteString(w.body, s)
	}
	return io.WriteString(w.ResponseWriter, s)
}

// ReadFrom implements [io.ReaderFrom], so that the kernel can copy from a file or
// a connection where net/http lets it.
func (w *Writer) ReadFrom(src io.Reader) (int64, error) {
	w.before(http.StatusOK)
	switch {
	case w.replaced:
		return io.Copy(io.Discard, src)
	case w.body != nil:
		return io.Copy(w.body, src)
	}
	return io.Copy(w.ResponseWriter, src)
}

// Flush implements [http.Flusher].
func (w *Writer) Flush() { _ = w.FlushError() }

// FlushError is what [http.ResponseController] calls.
func (w *Writer) FlushError() error {
	w.before(http.StatusOK)
	var err error
	if w.body != nil {
		err = w.body.Flush()
	}
	return errors.Join(err, http.NewResponseController(w.ResponseWriter).Flush())
}

// Hijack implements [http.Hijacker]. The answer is then the handler's own affair.
func (w *Writer) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err == nil {
		w.called = true
	}
	return conn, rw, err
}

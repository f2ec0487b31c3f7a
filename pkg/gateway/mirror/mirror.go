// Package mirror copies requests to another service, whose answers nobody sees. It
// owns which requests are copied, the copy of a body that streams by, the bound on
// copies under way, and the goroutines that send them.
//
// A copy never costs the client anything but the processor's time: what would need
// waiting is not copied, and counted. How a request is made fit for a service is
// for package proxy.
package mirror

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/reqctx"
	"github.com/keywarden/keywarden/pkg/seal"
)

// Outcome is what became of a request that was chosen to be copied.
type Outcome uint8

// The outcomes.
const (
	Answered   Outcome = iota // the service answered, whatever it said
	Failed                    // it did not
	Dropped                   // too many copies were under way
	TooLarge                  // the body is over the limit
	Incomplete                // the body was not read to its end, so that there is no copy of it
)

// Outcomes names all of them, for metrics.
func Outcomes() [5]string {
	return [...]string{Answered: "answered", Failed: "failed", Dropped: "dropped", TooLarge: "too_large", Incomplete: "incomplete"}
}

// Config is what a mirror is made of. All fields but Random are required.
type Config struct {
	Copies  *Copies
	Next    http.Handler  // what the request is for
	Shadow  http.Handler  // what gets the copy; it runs on a goroutine of its own
	Percent float64       // share of the requests, up to 100
	MaxBody int64         // of a request that is copied, in bytes
	Timeout time.Duration // of the exchange with the shadow
	Count   func(Outcome) // is called once for each request that was chosen

	// Random returns a number from 0 to below 1; that of math/rand/v2 when it is nil.
	Random func() float64
}

// Mirror is a handler that copies requests on their way to the next. It is safe
// for concurrent use.
type Mirror struct {
	Config
	share float64
	room  room
}

// New makes a mirror.
func New(c Config) (*Mirror, error) {
	if c.Copies == nil || c.Next == nil || c.Shadow == nil || c.Count == nil || c.Percent <= 0 || c.MaxBody < 0 || c.Timeout <= 0 {
		return nil, errors.New("mirror: something is missing, or a bound is not above 0")
	}
	if c.Random == nil {
		c.Random = rand.Float64
	}
	return &Mirror{Config: c, share: c.Percent / 100, room: newRoom(maxCopiesOfMirror)}, nil
}

// headerMirrored marks a copy. Clients that send it save their requests from being
// copied, and nothing else: it is never forwarded.
const headerMirrored = "X-Mirrored"

// ServeHTTP implements [http.Handler].
func (m *Mirror) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	// A copy is not copied: a mirror that leads back here would never end.
	if m.Random() >= m.share || r.Header[headerMirrored] != nil || r.Header["Upgrade"] != nil {
		m.Next.ServeHTTP(w, r)
		return
	}
	body := r.Body != nil && r.Body != http.NoBody && r.ContentLength != 0
	if body && r.ContentLength > m.MaxBody {
		m.Count(TooLarge)
		m.Next.ServeHTTP(w, r)
		return
	}
	c, ok := m.begin(r)
	if !ok {
		m.Count(Dropped)
		m.Next.ServeHTTP(w, r)
		return
	}
	if !body {
		c.send()
		m.Next.ServeHTTP(w, r)
		return
	}
	defer c.giveUp(Incomplete)
	watched := *r
	watched.Body = &tee{ReadCloser: r.Body, copy: c}
	m.Next.ServeHTTP(w, &watched)
}

// begin takes a place for a copy and keeps of the request what the copy needs: the
// request belongs to its own goroutine.
func (m *Mirror) begin(r *http.Request) (*copied, bool) {
	if !m.room.enter() {
		return nil, false
	}
	if !m.Copies.room.enter() {
		m.room.leave()
		return nil, false
	}
	ctx := m.Copies.ctx
	if p := access.PrincipalFrom(r.Context()); p != nil {
		ctx = access.WithPrincipal(ctx, p)
	}
	if span := trace.SpanContextFromContext(r.Context()); span.IsValid() {
		ctx = trace.ContextWithSpanContext(ctx, span)
	}
	info := *reqctx.From(r.Context())
	info.Timeout, info.Decide, info.Err, info.Code, info.Policy = 0, nil, nil, "", ""
	info.Authorization, info.Fields = seal.Secret{}, nil
	target := *r.URL
	request := &http.Request{
		Method: r.Method, URL: &target, Host: r.Host, Header: r.Header.Clone(),
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, RequestURI: r.RequestURI, RemoteAddr: r.RemoteAddr,
		Body: http.NoBody,
	}
	delete(request.Header, "Expect") // the body is there already
	c := &copied{mirror: m, info: &info, expected: r.ContentLength}
	c.request = request.WithContext(reqctx.With(ctx, &info))
	return c, true
}

// exchange sends a copy and reads the answer, up to a bound.
func (m *Mirror) exchange(c *copied) (outcome Outcome) {
	ctx, cancel := context.WithTimeout(c.request.Context(), m.Timeout)
	defer cancel()
	outcome = Failed
	defer func() {
		// Nobody waits for this goroutine, and nothing of it may reach clients: not even
		// a fault.
		if fault := recover(); fault != nil && fault != http.ErrAbortHandler { //nolint:errorlint // it is what was panicked with
			m.Copies.logger.ErrorContext(ctx, "sending a mirrored request panicked", "route", c.info.Route, "panic", fault)
		}
	}()
	m.Shadow.ServeHTTP(&discard{header: http.Header{}, left: maxAnswer}, c.request.WithContext(ctx))
	if c.info.Code == "" {
		outcome = Answered
	}
	return outcome
}

// maxAnswer bounds what is read of an answer, in bytes. A connection whose answer
// is longer is closed.
const maxAnswer = 1 << 20

var errEnough = errors.New("the answer to a mirrored request is longer than what is read of it")

// discard is the writer of an answer that nobody sees.
type discard struct {
	header http.Header
	left   int
}

// Header implements [http.ResponseWriter].
func (d *discard) Header() http.Header { return d.header }

// WriteHeader implements [http.ResponseWriter].
func (d *discard) WriteHeader(int) {}

// Write implements [io.Writer].
func (d *discard) Write(p []byte) (int, error) {
	if d.left -= len(p); d.left < 0 {
		return 0, errEnough
	}
	return len(p), nil
}

// tee is the body of a request that is copied while it is read.
type tee struct {
	io.ReadCloser
	copy *copied
}

// Read implements [io.Reader].
func (t *tee) Read(p []byte) (int, error) {
	n, err := t.ReadCloser.Read(p)
	t.copy.take(p[:n], err)
	return n, err
}

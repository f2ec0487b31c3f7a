package cache

import (
	"bufio"
	"context"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/keywarden/keywarden/pkg/httpcache"
)

// answer stands between the service and the client. The service's fields are kept
// apart from those that outer handlers have set, so that only the former are
// stored; what passes is copied while it passes. It belongs to one request.
type answer struct {
	step      *step
	question  *question
	w         http.ResponseWriter
	request   *http.Request // as it was forwarded
	requested time.Time
	key       httpcache.Key     // of what is stored, or missing
	since     httpcache.Mark    // from before the service was asked
	silent    bool              // nobody counts what becomes of it
	flight    *flight           // that this request leads; nil for none
	old       *httpcache.Object // that is validated, or given when the service fails; nil for none
	validates bool              // a 304 is for the cache
	stores    bool              // the answer may be stored
	reason    string            // why the request was forwarded
	onStatus  func(status int)  // told before the header goes out; nil for nobody
	header    http.Header       // as the service sets it
	began     bool              // the final status is known
	status    int               // it
	held      bool              // the answer is not for the client
	taken     bool              // the connection was taken over
	broken    bool              // the client did not get everything
	object    *httpcache.Object // what is being copied; nil for nothing
	body      []byte
	exchange  httpcache.Exchange // as it was when the header came
}

var (
	_ http.Flusher    = (*answer)(nil)
	_ http.Hijacker   = (*answer)(nil)
	_ io.ReaderFrom   = (*answer)(nil)
	_ io.StringWriter = (*answer)(nil)
)

// Header implements [http.ResponseWriter].
func (a *answer) Header() http.Header { return a.header }

// Unwrap serves [http.ResponseController].
func (a *answer) Unwrap() http.ResponseWriter { return a.w }

// WriteHeader implements [http.ResponseWriter].
func (a *answer) WriteHeader(status int) {
	switch {
	case a.began:
		return
	case status < 200 && status != http.StatusSwitchingProtocols:
		a.interim(status)
		return
	}
	a.began, a.status = true, status
	now := a.step.cache.Now()
	a.exchange = httpcache.Exchange{
		Method: a.request.Method, Request: a.request.Header, Status: status, Header: a.header, Requested: a.requested, Received: now,
	}
	if a.onStatus != nil {
		a.onStatus(status)
	}
	if a.validates && status == http.StatusNotModified || a.excused(status, now) {
		a.exchange.Header = maps.Clone(a.header)
		a.held = true
		return
	}
	a.keep(now)
	told := "keywarden; fwd=" + a.reason
	if a.object != nil {
		told += "; stored"
	}
	outer := a.w.Header()
	addHeader(outer, a.header)
	outer["Cache-Status"] = append(slices.Clip(outer["Cache-Status"]), told)
	a.w.WriteHeader(status)
}

// excused reports whether a failure of the service is answered with what is stored
// (RFC 5861 section 4).
func (a *answer) excused(status int, now time.Time) bool {
	switch status {
	case http.StatusInternalServerError, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return a.old != nil && a.old.AllowedOnError(now)
	}
	return false
}

// keep begins to copy the answer if it may be stored, and tells the followers.
func (a *answer) keep(now time.Time) {
	s := a.step
	if a.stores && a.question.info.Code == "" && a.question.info.Stream.IsZero() {
		a.object = httpcache.New(a.exchange, a.question.rules)
	}
	if o := a.object; o != nil && (!s.seen(o.Vary) || tooLong(o.Header, s.MaxObject)) {
		a.object = nil
	}
	if a.object == nil && a.replaces() {
		s.cache.Store.Delete(context.WithoutCancel(a.request.Context()), a.key)
	}
	switch {
	case a.object == nil:
		a.leave(now)
	case a.object.TTL(now) <= 0 || a.object.NoCache:
		a.leave(now) // each has to ask for itself
	default:
		a.flight.promise()
	}
	if a.object != nil {
		a.object.Route, a.object.Host, a.object.Path = s.Route, a.question.info.Host, a.request.URL.Path
		if n, err := strconv.Atoi(first(a.header["Content-Length"])); err == nil && n > 0 {
			a.body = make([]byte, 0, min(n, firstSpace)) // at most MaxObject
		}
	}
}

// replaces reports whether the service has another answer now than what is stored,
// and not only none for the moment.
func (a *answer) replaces() bool {
	switch {
	case !a.stores || a.old == nil || a.question.info.Code != "" || a.request.Context().Err() != nil:
		return false
	case a.status == http.StatusRequestTimeout, a.status == http.StatusTooManyRequests:
		return false
	default:
		return a.status < http.StatusInternalServerError
	}
}

// leave sends the followers on their own way.
func (a *answer) leave(now time.Time) {
	if a.flight != nil {
		a.step.cache.alone.add(a.flight.key, now)
		a.flight.land(nil, [32]byte{}, false)
	}
}

// firstSpace bounds the room for a body before anything of it has come, in bytes.
const firstSpace = 256 << 10

func (a *answer) observe(o Outcome) {
	if !a.silent {
		a.step.became(o)
	}
}

func first(values []string) string {
	if len(values) == 0 {
		return ""
	}
	return values[0]
}

func tooLong(h http.Header, most int64) bool {
	n, err := strconv.ParseInt(first(h["Content-Length"]), 10, 64)
	return err == nil && n > most
}

// interim passes an answer before the answer on (1xx).
func (a *answer) interim(status int) {
	outer := a.w.Header()
	before := maps.Clone(outer)
	addHeader(outer, a.header)
	a.w.WriteHeader(status)
	clear(outer)
	maps.Copy(outer, before)
}

// copied keeps p, until the answer is too large.
func (a *answer) copied(p []byte) {
	if a.object == nil {
		return
	}
	if int64(len(a.body)+len(p)) > a.step.MaxObject {
		a.object, a.body = nil, nil
		a.leave(a.step.cache.Now())
		return
	}
	a.body = append(a.body, p...)
}

// Write implements [io.Writer].
func (a *answer) Write(p []byte) (int, error) {
	a.WriteHeader(http.StatusOK)
	if a.held {
		return len(p), nil
	}
	a.copied(p)
	n, err := a.w.Write(p)
	a.broken = a.broken || err != nil || n != len(p)
	return n, err
}

// WriteString implements [io.StringWriter].
func (a *answer) WriteString(s string) (int, error) { return a.Write([]byte(s)) }

// ReadFrom implements [io.ReaderFrom], so that what is not copied can be copied by
// the kernel.
func (a *answer) ReadFrom(src io.Reader) (int64, error) {
	a.WriteHeader(http.StatusOK)
	if a.held || a.object != nil {
		return io.Copy(struct{ io.Writer }{a}, src)
	}
	return io.Copy(a.w, src)
}

// Flush implements [http.Flusher].
func (a *answer) Flush() { _ = a.FlushError() }

// FlushError is what [http.ResponseController] calls.
func (a *answer) FlushError() error {
	a.WriteHeader(http.StatusOK)
	if a.held {
		return nil
	}
	return http.NewResponseController(a.w).Flush()
}

// Hijack implements [http.Hijacker]. The answer is then the handler's own affair.
func (a *answer) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(a.w).Hijack()
	if err == nil {
		a.began, a.taken = true, true
	}
	return conn, rw, err
}

// finish does what is left when the service's answer is whole.
func (a *answer) finish() {
	if a.taken {
		return
	}
	a.WriteHeader(http.StatusOK)
	if a.held {
		return
	}
	a.trailers()
	if a.object == nil {
		return
	}
	whole := a.object.Complete(a.body)
	info := a.question.info
	if whole == nil || a.broken || info.Err != nil || info.Code != "" || a.request.Context().Err() != nil {
		return
	}
	a.step.put(a.question, a.request.Header, whole, a.since, a.flight)
}

// trailers passes on what the service has set after the body.
func (a *answer) trailers() {
	outer := a.w.Header()
	for _, line := range a.header["Trailer"] {
		for name := range strings.SplitSeq(line, ",") {
			name = http.CanonicalHeaderKey(strings.TrimSpace(name))
			if values := a.header[name]; values != nil {
				outer[name] = values
			}
		}
	}
	for name, values := range a.header {
		if strings.HasPrefix(name, http.TrailerPrefix) {
			outer[name] = values
		}
	}
}

// addHeader adds the fields of an answer to those that outer handlers have set.
// Surrogate keys are between service and cache.
func addHeader(outer, h http.Header) {
	for name, values := range h {
		if name == "Surrogate-Key" || name == "Cache-Tag" {
			continue
		}
		before := outer[name]
		switch {
		case before == nil:
			outer[name] = values[:len(values):len(values)]
		case !once(name):
			outer[name] = append(slices.Clip(before), values...)
		}
	}
}

// once are fields that may be there only once, and that the gateway has the say in.
func once(name string) bool {
	switch name {
	case "Deprecation", "Sunset", "Ratelimit", "Ratelimit-Policy", "X-Ratelimit-Limit", "X-Ratelimit-Remaining", "X-Ratelimit-Reset",
		"X-Ratelimit-Scope", "X-Request-Id":
		return true
	}
	return false
}

// nobody is the client of an answer that is fetched in the background.
type nobody struct{ header http.Header }

func (n nobody) Header() http.Header         { return n.header }
func (n nobody) Write(p []byte) (int, error) { return len(p), nil }
func (n nobody) WriteHeader(int)             {}

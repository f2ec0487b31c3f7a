// Package compress compresses answers on their way to clients that can read them
// so (gzip, RFC 1952; content negotiation of RFC 9110 section 12.5.3). It leaves
// alone what is compressed, what must not be changed, and what is a part of
// something; and it never holds back what was flushed.
package compress

import (
	"compress/gzip"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/keywarden/keywarden/pkg/gateway/policy"
	"github.com/keywarden/keywarden/pkg/gateway/respwriter"
	"github.com/keywarden/keywarden/pkg/header"
)

// Config says what is compressed.
type Config struct {
	Types   []string // media types such as application/json or text/*, in lower case
	MinSize int64    // least size of an answer whose size is known, in bytes
}

// compression is what a route compresses. It is immutable.
type compression struct {
	Config
	writers *Writers
}

// New makes the step. writers are those of the gateway, which all routes share.
func New(c Config, writers *Writers) (policy.Step, error) {
	if len(c.Types) == 0 {
		return policy.Step{}, errors.New("no media type is named")
	}
	if writers == nil {
		return policy.Step{}, errors.New("no compressors are given")
	}
	c.Types = slices.Clone(c.Types)
	k := &compression{Config: c, writers: writers}
	return policy.Step{Apply: func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			// A part is asked for of the answer as the service has it.
			x := &answer{compression: k, wanted: r.Header["Range"] == nil && Accepts(r.Header["Accept-Encoding"])}
			defer x.release() // also where the answer is broken off
			respwriter.Serve(next, w, r, x)
		})
	}}, nil
}

// answer compresses one answer, or not. It is the hook of the answer and its body.
type answer struct {
	*compression
	wanted bool         // the client can read it compressed
	gzip   *gzip.Writer // nil: not compressed, or not any more
}

// Write implements [io.Writer].
func (x *answer) Write(p []byte) (int, error) {
	if x.gzip == nil {
		return 0, http.ErrBodyNotAllowed
	}
	return x.gzip.Write(p)
}

// Flush implements [respwriter.Body].
func (x *answer) Flush() error {
	if x.gzip == nil {
		return nil
	}
	return x.gzip.Flush()
}

// Close implements [respwriter.Body].
func (x *answer) Close() error {
	if x.gzip == nil {
		return nil
	}
	return x.gzip.Close()
}

// release gives the compressor back. It does not end the answer: one that was
// broken off must not look whole.
func (x *answer) release() {
	if x.gzip != nil {
		x.writers.put(x.gzip)
		x.gzip = nil
	}
}

// Header implements [respwriter.Hook].
func (x *answer) Header(w *respwriter.Writer, r *http.Request, status int) respwriter.Body {
	h := w.Header()
	switch {
	case status == http.StatusNotModified: // has no type; the answer that it stands for may vary
		respwriter.Vary(h, "Accept-Encoding")
		return nil
	case !x.worthwhile(h, status):
		return nil
	}
	respwriter.Vary(h, "Accept-Encoding") // another client would get another answer
	if !x.wanted {
		return nil
	}
	var body respwriter.Body = nothing{}
	if r.Method != http.MethodHead { // whose header is that of GET (RFC 9110 section 9.3.2)
		if x.gzip = x.writers.take(w.Sink()); x.gzip == nil {
			return nil
		}
		body = x
	}
	h.Set("Content-Encoding", "gzip")
	h.Del("Content-Length")
	h.Del("Accept-Ranges") // parts would be of the answer as it was
	if tag := h.Get("Etag"); tag != "" && !strings.HasPrefix(tag, "W/") {
		h.Set("Etag", "W/"+tag) // the bytes are not the same (RFC 9110 section 8.8.1)
	}
	return body
}

// nothing is the body of an answer to HEAD, whose length must not be taken for that
// of the answer to GET.
type nothing struct{}

func (nothing) Write(p []byte) (int, error) { return len(p), nil }
func (nothing) Flush() error                { return nil }
func (nothing) Close() error                { return nil }

// worthwhile reports whether an answer can be compressed and is worth it.
func (x *answer) worthwhile(h http.Header, status int) bool {
	switch {
	case status < 200, status == http.StatusNoContent, status == http.StatusResetContent, status == http.StatusPartialContent:
		return false
	case has(h, "Content-Encoding"), has(h, "Content-Range"):
		return false
	case has(h, "Content-Digest"), has(h, "Repr-Digest"), has(h, "Digest"), has(h, "Content-Md5"): // of the bytes as they are
		return false
	case noTransform(h["Cache-Control"]):
		return false
	}
	if length := h["Content-Length"]; len(length) > 0 {
		if n, err := strconv.ParseInt(length[0], 10, 64); err != nil || n < x.MinSize {
			return false
		}
	}
	kind := h["Content-Type"]
	if len(kind) != 1 {
		return false
	}
	name, ok := header.MediaType(kind[0])
	switch {
	case !ok, name == "text/event-stream": // events are small, and each is waited for
		return false
	case strings.HasPrefix(name, "application/grpc"): // compresses its messages itself
		return false
	}
	return header.InMediaRanges(x.Types, name)
}

func has(h http.Header, name string) bool { return len(h[name]) > 0 }

// noTransform reports whether intermediaries must not change the content (RFC 9111
// section 5.2.2.6). It errs on the side of the service.
func noTransform(values []string) bool {
	for _, v := range values {
		if strings.Contains(strings.ToLower(v), "no-transform") {
			return true
		}
	}
	return false
}

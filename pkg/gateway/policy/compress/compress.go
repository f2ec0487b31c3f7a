// Package compress compresses answers on their way to clients that can read them
// so (gzip, RFC 1952; content negotiation of RFC 9110 section 12.5.3).
package compress

import (
	"compress/gzip"
	"errors"
	"io"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/keywarden/keywarden/pkg/gateway/policy"
	"github.com/keywarden/keywarden/pkg/gateway/respwriter"
)

// Config says what is compressed.
type Config struct {
	Types   []string // media types such as application/json or text/*, in lower case
	MinSize int64    // least size of an answer whose size is known, in bytes
}

// level is cheap: most of the gain is in the first levels.
const level = 4

// hook compresses answers. It is safe for concurrent use.
type hook struct {
	Config
	writers sync.Pool
}

// New makes the step.
func New(c Config) (policy.Step, error) {
	if len(c.Types) == 0 {
		return policy.Step{}, errors.New("no media type is named")
	}
	c.Types = slices.Clone(c.Types)
	k := &hook{Config: c}
	k.writers.New = func() any {
		w, _ := gzip.NewWriterLevel(io.Discard, level) // the level is a good one
		return w
	}
	return policy.Step{Apply: func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			respwriter.Serve(next, w, r, k)
		})
	}}, nil
}

// Header implements respwriter.Hook.
func (k *hook) Header(w *respwriter.Writer, r *http.Request, status int) respwriter.Body {
	h := w.Header()
	if !k.worthwhile(h, status) {
		return nil
	}
	// Another client would get another answer.
	h.Add("Vary", "Accept-Encoding")
	if r.Method == http.MethodHead || !Accepts(r.Header["Accept-Encoding"]) {
		return nil
	}
	h.Set("Content-Encoding", "gzip")
	h.Del("Content-Length")
	h.Del("Accept-Ranges") // ranges would be of the answer as it was
	if tag := h.Get("Etag"); tag != "" && !strings.HasPrefix(tag, "W/") {
		h.Set("Etag", "W/"+tag) // the bytes are not the same (RFC 9110 section 8.8.1)
	}
	writer := k.writers.Get().(*gzip.Writer)
	writer.Reset(w.Sink())
	return &body{Writer: writer, pool: &k.writers}
}

// worthwhile reports whether an answer can be compressed and is worth it.
func (k *hook) worthwhile(h http.Header, status int) bool {
	switch {
	case status < 200, status == http.StatusNoContent, status == http.StatusNotModified, status == http.StatusPartialContent:
		return false
	case h.Get("Content-Encoding") != "", h.Get("Content-Range") != "":
		return false
	case strings.Contains(strings.ToLower(strings.Join(h["Cache-Control"], ",")), "no-transform"):
		return false
	}
	if length := h.Get("Content-Length"); length != "" {
		if n, err := strconv.ParseInt(length, 10, 64); err != nil || n < k.MinSize {
			return false
		}
	}
	kind, _, err := mime.ParseMediaType(h.Get("Content-Type"))
	if err != nil || kind == "text/event-stream" { // events are small, and each is waited for
		return false
	}
	family, _, _ := strings.Cut(kind, "/")
	return slices.ContainsFunc(k.Types, func(t string) bool { return t == kind || t == family+"/*" })
}

// body compresses what is written to it.
type body struct {
	*gzip.Writer
	pool *sync.Pool
}

// Close implements respwriter.Body.
func (b *body) Close() error {
	err := b.Writer.Close()
	b.Reset(io.Discard) // holds on to nobody's answer
	b.pool.Put(b.Writer)
	return err
}

// Accepts reports whether Accept-Encoding asks for gzip, at least as much as for
// nothing at all. Without the field a client may get anything, but hardly expects
// it.
func Accepts(values []string) bool {
	gzipped, any, identity := -1.0, -1.0, -1.0
	for _, line := range values {
		for element := range strings.SplitSeq(line, ",") {
			name, parameters, _ := strings.Cut(element, ";")
			q, ok := quality(parameters)
			if !ok {
				return false
			}
			switch strings.ToLower(strings.TrimSpace(name)) {
			case "gzip", "x-gzip":
				gzipped = max(gzipped, q)
			case "*":
				any = q
			case "identity":
				identity = q
			}
		}
	}
	if gzipped < 0 {
		gzipped = any
	}
	return gzipped > 0 && gzipped >= identity
}

// quality reads the weight of an element (RFC 9110 section 12.4.2).
func quality(parameters string) (float64, bool) {
	parameters = strings.TrimSpace(parameters)
	if parameters == "" {
		return 1, true
	}
	name, value, ok := strings.Cut(parameters, "=")
	if !ok || !strings.EqualFold(strings.TrimSpace(name), "q") {
		return 0, false
	}
	value = strings.TrimSpace(value)
	if value == "" || len(value) > 5 || value[0] != '0' && value[0] != '1' {
		return 0, false
	}
	q, err := strconv.ParseFloat(value, 64)
	return q, err == nil && q >= 0 && q <= 1
}

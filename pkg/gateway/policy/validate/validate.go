// Package validate holds requests against the description of an API, and watches
// whether the answers of the service keep it. A request that is not as described is
// refused before the service sees it; an answer is never changed, and what is wrong
// with it is counted and logged: the contract has drifted.
//
// What a description means is the business of package contract.
package validate

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"

	"github.com/keywarden/keywarden/pkg/gateway/policy"
	"github.com/keywarden/keywarden/pkg/openapi/contract"
	"github.com/keywarden/keywarden/pkg/problem"
	"github.com/keywarden/keywarden/pkg/reqctx"
)

// Name is the name of the policy in the document.
const Name = "validate"

// Refusals. That of a body which is too large is the one of max_body.
var (
	ErrInvalid   = problem.ErrInvalid.WithDetail("The request is not as the description of the API says.")
	ErrMediaType = problem.Define(problem.UnsupportedMedia, "gateway.body_not_described",
		"The description of the API has no body of this media type for this operation.")
	ErrEncoded = problem.Define(problem.UnsupportedMedia, "gateway.body_encoded",
		"The body of this operation is checked, and must be sent without a content coding.")
	errTooLarge = problem.ErrBodyTooLarge.WithDetail("The body of the request is larger than what is checked for this operation.")
	errReading  = problem.Define(problem.Invalid, "request.body_unreadable", "The body of the request could not be read.")
)

// Drift is told of an answer that is not as described. It is called on the goroutine
// of the request, after the answer, and must not block.
type Drift func(r *http.Request, status int, failures []contract.Failure)

// Config is how one route is held to its description.
type Config struct {
	Operation *contract.Operation

	// MaxBody bounds the bodies that are read to be checked, in bytes. A larger
	// request is refused; a larger answer is not checked.
	MaxBody int64

	// Drift is told of answers; without it they are not looked at.
	Drift Drift
}

// New makes the step.
func New(c Config) (policy.Step, error) {
	switch {
	case c.Operation == nil:
		return policy.Step{}, errors.New("no operation is named")
	case c.MaxBody < 1:
		return policy.Step{}, errors.New("max_body must be at least 1 byte")
	}
	return policy.Step{
		Check: c.check,
		Apply: func(next http.Handler) http.Handler {
			answered := c.answers(next)
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				r, err := c.body(w, r)
				if err != nil {
					policy.Refuse(w, r, Name, err)
					return
				}
				answered.ServeHTTP(w, r)
			})
		},
		Watch: func(next http.Handler, report policy.Report) http.Handler {
			answered := c.answers(next)
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				watched, body := c.watch(r)
				answered.ServeHTTP(w, watched)
				if body != nil {
					if err := body.verdict(c, r); err != nil {
						report(r, err)
					}
				}
			})
		},
	}, nil
}

// check is all that can be known before the body is read.
func (c Config) check(r *http.Request) error {
	failures := c.Operation.CheckParameters(r)
	if r.ContentLength == 0 && c.Operation.Required() {
		failures = append(failures, contract.Failure{In: "body", Message: "is required"})
	}
	if len(failures) > 0 {
		return refusal(failures)
	}
	if r.ContentLength == 0 {
		return nil
	}
	switch c.Operation.Body(contentType(r)) {
	case contract.Unwanted:
		if r.ContentLength > 0 { // of -1 it is known only when it is read
			return refusal([]contract.Failure{{In: "body", Message: "is not described"}})
		}
	case contract.Unknown:
		list := strings.Join(c.Operation.Accepts(), ", ")
		return ErrMediaType.WithAccept(list)
	case contract.Read:
		switch {
		case r.ContentLength > c.MaxBody:
			return errTooLarge
		case encoded(r.Header):
			return ErrEncoded
		}
	case contract.Unread:
	}
	return nil
}

// contentType is the only one; several mean one thing here and another at the
// service, and are none.
func contentType(r *http.Request) string {
	if values := r.Header["Content-Type"]; len(values) == 1 {
		return values[0]
	}
	return ""
}

// encoded reports whether a body has a content coding. Several fields are one list
// (RFC 9110 section 5.3): the first alone does not say it.
func encoded(h http.Header) bool {
	return slices.ContainsFunc(h["Content-Encoding"], func(coding string) bool {
		return coding != "" && !strings.EqualFold(coding, "identity")
	})
}

// body reads the body where it is checked, and returns the request with the same
// body for who comes next.
func (c Config) body(w http.ResponseWriter, r *http.Request) (*http.Request, error) {
	if r.ContentLength == 0 {
		return r, nil
	}
	how := c.Operation.Body(contentType(r))
	if how == contract.Unread {
		return r, nil
	}
	limit := c.MaxBody
	if how == contract.Unwanted {
		limit = 0
	}
	data, err := read(w, r, limit)
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large) && how == contract.Unwanted:
		return r, refusal([]contract.Failure{{In: "body", Message: "is not described"}})
	case errors.As(err, &large):
		return r, errTooLarge
	case err != nil:
		return r, errReading.With(err)
	}
	if how == contract.Read {
		if failures := c.Operation.CheckBody(contentType(r), data); len(failures) > 0 {
			return r, refusal(failures)
		}
	}
	same := *r
	same.Body = &kept{Reader: bytes.NewReader(data), Closer: r.Body}
	return &same, nil
}

// kept is a body that was read, with what closes the one it was read from.
type kept struct {
	io.Reader
	io.Closer
}

// read reads a body up to a limit. Memory grows with what arrives, not with what is
// announced.
func read(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, error) {
	var b bytes.Buffer
	const most = 64 << 10
	if n := r.ContentLength; n > 0 {
		b.Grow(int(min(n, most)))
	}
	if _, err := b.ReadFrom(http.MaxBytesReader(w, r.Body, limit)); err != nil {
		return nil, fmt.Errorf("reading the body: %w", err)
	}
	return b.Bytes(), nil
}

// refusal is the problem for what is wrong.
func refusal(failures []contract.Failure) error {
	fields := make([]problem.Field, len(failures))
	for i, f := range failures {
		fields[i] = problem.Field{Field: f.Path(), Detail: f.Message}
	}
	return ErrInvalid.WithFields(fields)
}

// watch returns a request whose body is copied, up to the bound, as the service reads
// it. The body is nil where it is not checked.
func (c Config) watch(r *http.Request) (*http.Request, *copied) {
	if r.ContentLength == 0 || r.Body == nil || c.Operation.Body(contentType(r)) != contract.Read {
		return r, nil
	}
	watched := *r
	body := &copied{ReadCloser: r.Body, most: c.MaxBody}
	watched.Body = body
	return &watched, body
}

// copied keeps what is read of a body, up to a bound.
type copied struct {
	io.ReadCloser
	data  []byte
	most  int64
	ended bool
	over  bool
}

// Read implements [io.Reader].
func (b *copied) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.ended = b.ended || errors.Is(err, io.EOF)
	switch {
	case b.over:
	case int64(len(b.data)+n) > b.most:
		b.over, b.data = true, nil
	default:
		b.data = append(b.data, p[:n]...)
	}
	return n, err
}

// verdict is what would have been said of the body; nothing when the service has not
// read all of it.
func (b *copied) verdict(c Config, r *http.Request) error {
	switch {
	case b.over:
		return errTooLarge
	case !b.ended && int64(len(b.data)) != r.ContentLength:
		return nil
	}
	if failures := c.Operation.CheckBody(contentType(r), b.data); len(failures) > 0 {
		return refusal(failures)
	}
	return nil
}

// answers watches what the service answers.
func (c Config) answers(next http.Handler) http.Handler {
	if c.Drift == nil {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a := &answer{ResponseWriter: w, config: &c}
		next.ServeHTTP(a, r)
		a.tell(r)
	})
}

// answer copies an answer as far as it is checked. It changes nothing.
type answer struct {
	http.ResponseWriter
	config *Config
	status int
	header http.Header
	keep   bool
	over   bool
	data   []byte
}

// Unwrap is for [http.ResponseController].
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

// WriteHeader implements [http.ResponseWriter].
func (a *answer) WriteHeader(status int) {
	if a.status == 0 && (status >= http.StatusOK || status == http.StatusSwitchingProtocols) {
		a.status, a.header = status, a.Header().Clone()
		a.keep = !encoded(a.header) && a.config.Operation.ReadsAnswer(status, a.header.Get("Content-Type"))
	}
	a.ResponseWriter.WriteHeader(status)
}

// Write implements [io.Writer].
func (a *answer) Write(p []byte) (int, error) {
	if a.status == 0 {
		a.WriteHeader(http.StatusOK)
	}
	n, err := a.ResponseWriter.Write(p)
	switch {
	case !a.keep || a.over:
	case int64(len(a.data)+n) > a.config.MaxBody || err != nil:
		a.over, a.data = true, nil
	default:
		a.data = append(a.data, p[:n]...)
	}
	return n, err
}

// Flush implements [http.Flusher].
func (a *answer) Flush() {
	if a.status == 0 {
		a.WriteHeader(http.StatusOK)
	}
	_ = http.NewResponseController(a.ResponseWriter).Flush()
}

// tell checks the answer after it was sent. One that the gateway itself has made, or
// that was not sent to its end, is not the service's.
func (a *answer) tell(r *http.Request) {
	if a.status < http.StatusOK || a.status == http.StatusNotModified || reqctx.From(r.Context()).Code != "" || r.Context().Err() != nil {
		return
	}
	data := a.data
	if !a.keep || a.over || r.Method == http.MethodHead {
		data = nil
	} else if data == nil {
		data = []byte{}
	}
	if failures := a.config.Operation.CheckAnswer(a.status, a.header, data); len(failures) > 0 {
		a.config.Drift(r, a.status, failures)
	}
}

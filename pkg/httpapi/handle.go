// Package httpapi is the glue between Gin and the domains: handlers that return
// errors, strict binding of input, pages, and the guard that authenticates and
// authorises. Each resource has a small package below this one, with the types
// of its requests and answers; the domains know nothing of them.
package httpapi

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/keywarden/keywarden/pkg/problem"
	"github.com/keywarden/keywarden/pkg/reqctx"
)

// Handle adapts a handler that returns an error; the error becomes the answer.
func Handle(h func(*gin.Context) error) gin.HandlerFunc {
	return func(c *gin.Context) {
		if err := h(c); err != nil {
			Fail(c, err)
		}
	}
}

// Fail answers with err as a problem document and ends the chain. What caused it
// goes to the access log.
func Fail(c *gin.Context, err error) {
	c.Abort()
	info := reqctx.From(c.Request.Context())
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		err = problem.ErrBodyTooLarge.WithDetail("The body is larger than %d bytes.", tooLarge.Limit).With(err)
	}
	p := problem.From(err)
	if p.Kind == problem.Internal && c.Request.Context().Err() != nil {
		p = interrupted(err)
	}
	info.Code, info.Err = p.Code, err
	if c.Writer.Written() {
		return // too late for an answer; the log has it
	}
	p.Write(c.Writer, info.ID)
}

// interrupted tells apart why a call was given up.
func interrupted(err error) *problem.Error {
	if errors.Is(err, context.DeadlineExceeded) {
		return errOverdue.With(err)
	}
	if errors.Is(err, context.Canceled) {
		return errCancelled.With(err)
	}
	return problem.From(err)
}

// Error answers of the engine itself.
var (
	errNothing = problem.Define(problem.NotFound, "request.nothing_here", "There is nothing at this path of this listener.")
	errMethod  = problem.Define(problem.MethodNotAllowed, "request.method_not_allowed", "This path does not know the method.")
	errOverdue = problem.Define(problem.Unavailable, "request.overdue",
		"The call took too long and was given up. Try again shortly.").WithRetryAfter(2 * time.Second)
	// errCancelled is for the log and the metrics: its caller has left.
	errCancelled = problem.Define(problem.Timeout, "request.cancelled", "The caller closed the connection before the answer.")
)

// NewEngine makes a Gin engine that leaves everything to us: no recovery, no
// logging, no guessing of paths or client addresses. bodyLimit bounds the body
// of every call to the platform's own API, in bytes. elsewhere serves what is
// not one of its paths.
func NewEngine(bodyLimit int64, elsewhere gin.HandlerFunc) *gin.Engine {
	gin.SetMode(gin.ReleaseMode)
	e := gin.New()
	e.RedirectTrailingSlash = false
	e.RedirectFixedPath = false
	e.RemoveExtraSlash = false
	e.HandleMethodNotAllowed = true
	e.ForwardedByClientIP = false
	_ = e.SetTrustedProxies(nil) // cannot fail for none
	e.NoRoute(elsewhere)
	e.NoMethod(func(c *gin.Context) {
		Fail(c, errMethod.WithAllow(c.Writer.Header().Get("Allow")))
	})
	e.Use(func(c *gin.Context) {
		if c.FullPath() == "" {
			return // NoRoute and NoMethod say themselves what they are
		}
		reqctx.From(c.Request.Context()).Route = c.FullPath()
		secureHeaders(c.Writer.Header())
		c.Set(wholeBody, c.Request.Body)
		c.Request.Body = http.MaxBytesReader(c.Writer, c.Request.Body, bodyLimit)
		if c.Request.ContentLength != 0 {
			// Reading a body does not look at the context. A recorder has no deadlines, and
			// nobody who stalls.
			_ = http.NewResponseController(c.Writer).SetReadDeadline(time.Now().Add(callTimeout))
		}
		ctx, cancel := context.WithTimeout(c.Request.Context(), callTimeout)
		defer cancel()
		c.Request = c.Request.WithContext(ctx)
		c.Next()
	})
	return e
}

// Nothing answers that there is nothing at the path.
func Nothing(c *gin.Context) { Fail(c, errNothing) }

// Except keeps the paths at and below root from h: there is nothing there.
func Except(root string, h gin.HandlerFunc) gin.HandlerFunc {
	return func(c *gin.Context) {
		if path := c.Request.URL.Path; path == root || strings.HasPrefix(path, root+"/") {
			Nothing(c)
			return
		}
		h(c)
	}
}

// wholeBody is where the body of a request is kept as it came.
const wholeBody = "keywarden.whole_body"

// BodyLimit gives the calls of a route, once they have passed the guard before
// it, another limit than the engine's, in bytes.
func BodyLimit(limit int64) gin.HandlerFunc {
	return func(c *gin.Context) {
		if body, ok := c.MustGet(wholeBody).(io.ReadCloser); ok {
			c.Request.Body = http.MaxBytesReader(c.Writer, body, limit)
		}
	}
}

// callTimeout bounds a call to the platform's own API. The database bounds each
// statement itself, but one that is frozen or cut off does not.
const callTimeout = 30 * time.Second

// secureHeaders are for answers that are data, not pages.
func secureHeaders(h http.Header) {
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
}

// Serve runs h on the writer below Gin's own, which would keep 1xx answers to
// itself, and keeps Gin from answering as well.
func Serve(h http.Handler) gin.HandlerFunc {
	return func(c *gin.Context) {
		shield, ok := c.Writer.(interface{ Unwrap() http.ResponseWriter }).Unwrap().(*Shield)
		if !ok {
			h.ServeHTTP(c.Writer, c.Request)
			return
		}
		shield.closed = true
		c.Writer.WriteHeaderNow() // Gin believes that it has answered
		shield.closed = false
		h.ServeHTTP(shield.ResponseWriter, c.Request)
	}
}

// Shield stands between Gin and the real writer, so that [Serve] can let Gin
// believe that an answer was begun. It must be the writer the engine is given.
type Shield struct {
	http.ResponseWriter
	closed bool
}

// Shielded gives e a Shield for each request.
func Shielded(e http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		e.ServeHTTP(&Shield{ResponseWriter: w}, r)
	})
}

// WriteHeader implements http.ResponseWriter.
func (s *Shield) WriteHeader(status int) {
	if !s.closed {
		s.ResponseWriter.WriteHeader(status)
	}
}

// Unwrap lets http.ResponseController reach the real writer.
func (s *Shield) Unwrap() http.ResponseWriter { return s.ResponseWriter }

// Flush implements http.Flusher, which Gin expects its writer to be.
func (s *Shield) Flush() { _ = http.NewResponseController(s.ResponseWriter).Flush() }

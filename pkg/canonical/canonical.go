// Package canonical brings the target of a request into one form, once, before
// anything decides on it: routing, authentication, limits, cache keys and the
// upstream all see the same host and the same path. What has more than one
// plausible reading is refused, because the next server may choose another one.
//
// It owns the rules of the form and the middleware that applies them. It does
// not route, and it knows neither the platform's paths nor the gateway's.
package canonical

import (
	"errors"
	"net/http"
	"net/url"
	"strings"

	"github.com/keywarden/keywarden/pkg/problem"
	"github.com/keywarden/keywarden/pkg/reqctx"
)

// MaxTarget bounds the request target, path and query together, in bytes.
const MaxTarget = 16 << 10

// MaxFields bounds the number of header field lines of a request. The size of
// the header is the listener's limit; many small fields cost more than their
// bytes.
const MaxFields = 200

// Errors of the middleware. ErrPath and ErrHost are also those of [Path] and
// [Host], with the reason as their detail.
var (
	ErrPath = problem.Define(problem.Invalid, "request.path_invalid",
		"The path of the request is not acceptable.")
	ErrHost = problem.Define(problem.Invalid, "request.host_invalid",
		"The host of the request is not acceptable.")
	ErrTarget = problem.Define(problem.Invalid, "request.target_invalid",
		"The request target is not acceptable: it must be a path, or an http or https URL without user information and fragment.")
	ErrTargetTooLong = problem.Define(problem.URITooLong, "request.target_too_long",
		"The request target is longer than 16 KiB.")
	ErrTooManyFields = problem.Define(problem.HeadersTooLarge, "request.too_many_fields",
		"The request has more than 200 header fields.")
	ErrMethod = problem.Define(problem.NotImplemented, "request.method_refused",
		"This request method is not supported.")
)

// Middleware refuses requests that have no canonical form and gives next all
// others in that form: reqctx.Info.Host is set, r.Host is lower case without a
// trailing dot, r.URL.Path is the decoded path, and r.URL.RawPath its canonical
// escaping, or empty when that is the default one. The query is left as it is.
//
// It belongs outside of every handler that looks at host or path, and inside the
// one that makes the [reqctx.Info].
func Middleware(next http.Handler) http.Handler { return MiddlewareWithSlashes(next, nil) }

// MiddlewareWithSlashes is [Middleware], but what only has encoded slashes against
// it comes to slashed, which is not next, so that no handler gets such a request
// that does not ask for it. reqctx.Info.EncodedSlash is the refusal then, which
// slashed has to answer with, unless it knows that the request's route takes them.
//
// Such a path has the form of [PathWithSlashes]; its escaped form is [Escaped], and
// not (*url.URL).EscapedPath, which would encode the percent signs again.
func MiddlewareWithSlashes(next, slashed http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		info := reqctx.From(r.Context())
		host, canonical, slash, err := RequestWithSlashes(r)
		if err == nil && slash != nil && slashed == nil {
			err = slash
		}
		if err != nil {
			p := problem.From(err)
			info.Code, info.Err = p.Code, err
			p.Write(w, info.ID)
			return
		}
		info.Host = host
		if slash == nil {
			next.ServeHTTP(w, canonical)
			return
		}
		info.EncodedSlash = slash
		slashed.ServeHTTP(w, canonical)
	})
}

// Escaped is the escaped form of the path of a canonical request.
func Escaped(u *url.URL) string {
	if u.RawPath != "" {
		return u.RawPath
	}
	return u.EscapedPath()
}

// Request returns the canonical host and r in canonical form, which is r itself
// when nothing has to change. The error is a problem.
func Request(r *http.Request) (string, *http.Request, error) {
	host, canonical, slash, err := RequestWithSlashes(r)
	if err == nil && slash != nil {
		err = slash
	}
	if err != nil {
		return "", nil, err
	}
	return host, canonical, nil
}

// RequestWithSlashes is [Request], but what only has encoded slashes against it has
// the form of [PathWithSlashes], and the refusal comes apart from other errors.
func RequestWithSlashes(r *http.Request) (host string, canonical *http.Request, slash *problem.Error, err error) {
	if err := checkShape(r); err != nil {
		return "", nil, nil, err
	}
	host, authority, err := requestHost(r)
	if err != nil {
		return "", nil, nil, err
	}
	path, rawPath, slash, err := requestPath(r.URL)
	if err != nil {
		return "", nil, nil, err
	}
	if r.Host == authority && r.URL.Host == "" && r.URL.Path == path && r.URL.RawPath == rawPath {
		return host, r, slash, nil
	}
	u := *r.URL
	u.Scheme, u.Host, u.Path, u.RawPath = "", "", path, rawPath
	out := *r
	out.URL, out.Host = &u, authority
	return host, &out, slash, nil
}

// checkShape refuses what needs no look at host and path.
func checkShape(r *http.Request) error {
	switch r.Method {
	case http.MethodConnect, http.MethodTrace, "TRACK":
		return ErrMethod
	}
	if len(r.RequestURI) > MaxTarget {
		return ErrTargetTooLong
	}
	fields := 0
	for _, values := range r.Header {
		fields += len(values)
	}
	if fields > MaxFields {
		return ErrTooManyFields
	}
	return checkTarget(r.URL)
}

// checkTarget refuses targets of other forms than origin-form and absolute-form
// (RFC 9112 section 3.2), and queries that would end early on the way upstream:
// net/url leaves a number sign in the query, and HTTP/2 lets a space through.
func checkTarget(u *url.URL) error {
	switch {
	case u.Opaque != "" || u.User != nil || u.Fragment != "":
		return ErrTarget
	case u.Scheme != "" && u.Scheme != "http" && u.Scheme != "https":
		return ErrTarget
	case (u.Scheme == "") != (u.Host == ""):
		return ErrTarget
	case strings.ContainsAny(u.RawQuery, "# "):
		return ErrTarget
	default:
		return nil
	}
}

// requestHost returns the canonical host of r without and with its port. Only an
// HTTP/1.0 request may have none (RFC 9112 section 3.2).
func requestHost(r *http.Request) (host, authority string, err error) {
	if r.Host == "" && !r.ProtoAtLeast(1, 1) {
		return "", "", nil
	}
	host, port, err := Host(r.Host)
	if err != nil {
		return "", "", err
	}
	switch {
	case port == "":
		return host, host, nil
	case strings.HasPrefix(r.Host, host) && len(r.Host) == len(host)+1+len(port):
		return host, r.Host, nil
	default:
		return host, host + ":" + port, nil
	}
}

// requestPath returns what r.URL.Path and r.URL.RawPath have to be, and the refusal
// of a path that only has encoded slashes against it.
func requestPath(u *url.URL) (path, rawPath string, slash *problem.Error, err error) {
	received := u.RawPath
	switch {
	case received != "":
	case u.Path == "" && u.Scheme != "": // "GET http://host HTTP/1.1"
		return "/", "", nil, nil
	default:
		received = u.EscapedPath()
	}
	path, escaped, err := Path(received)
	if errors.Is(err, reasonSlash) {
		refusal := err
		if path, escaped, err = PathWithSlashes(received); err != nil {
			return "", "", nil, refusal // the same for all of them
		}
		return path, escaped, problem.From(refusal), nil
	}
	if err != nil {
		return "", "", nil, err
	}
	if (&url.URL{Path: path}).EscapedPath() == escaped {
		return path, "", nil, nil
	}
	return path, escaped, nil, nil
}

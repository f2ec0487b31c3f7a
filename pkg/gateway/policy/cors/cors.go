// Package cors lets pages of other origins use a route, by the CORS protocol of
// the Fetch standard. It is no access control: browsers keep to it, and nobody
// else has to.
package cors

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/keywarden/keywarden/pkg/gateway/policy"
	"github.com/keywarden/keywarden/pkg/gateway/respwriter"
	"github.com/keywarden/keywarden/pkg/problem"
)

// What a page is told that may not use the route.
var (
	ErrOrigin = problem.Define(problem.Forbidden, "gateway.origin_not_allowed",
		"Pages of this origin may not use this route.")
	ErrUse = problem.Define(problem.Forbidden, "gateway.cross_origin_not_allowed",
		"Pages of other origins may not use this method or these header fields here.")
)

// Config is what a route allows.
type Config struct {
	Origins     []string // exact, with the host *.example.com, or "*"; in lower case
	Methods     []string // beside GET, HEAD and POST
	Headers     []string // in canonical form; "*" for all
	Expose      []string // fields of the answer that scripts may read; "*" for all
	Credentials bool
	MaxAge      time.Duration
}

// fields of the protocol, all of which belong to the gateway where it speaks it.
const (
	allowOrigin      = "Access-Control-Allow-Origin"
	allowCredentials = "Access-Control-Allow-Credentials"
	allowMethods     = "Access-Control-Allow-Methods"
	allowHeaders     = "Access-Control-Allow-Headers"
	exposeHeaders    = "Access-Control-Expose-Headers"
	maxAge           = "Access-Control-Max-Age"
	requestMethod    = "Access-Control-Request-Method"
	requestHeaders   = "Access-Control-Request-Headers"
)

// door is the compiled form. It is immutable.
type door struct {
	Config
	any      bool
	exact    map[string]bool
	suffixes []suffix
	methods  string
	expose   string
	age      string
}

// suffix is an origin with a wildcard: the scheme before it, and what must follow.
type suffix struct{ scheme, host string }

// New makes the step: it answers preflight requests, and lets the page that asked
// read all other answers, refusals included.
func New(c Config) (policy.Step, error) {
	d, err := compile(c)
	if err != nil {
		return policy.Step{}, err
	}
	return policy.Step{
		Apply: func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { d.serve(w, r, next) })
		},
		Watch: func(next http.Handler, report policy.Report) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if origin := r.Header.Get("Origin"); origin != "" && !d.allows(origin) {
					report(r, ErrOrigin)
				}
				next.ServeHTTP(w, r)
			})
		},
		Preview: func(r *http.Request) error {
			if IsPreflight(r) {
				return d.preflight(r)
			}
			return nil
		},
	}, nil
}

func compile(c Config) (*door, error) {
	if len(c.Origins) == 0 {
		return nil, errors.New("no origin is allowed")
	}
	d := &door{Config: c, exact: map[string]bool{}}
	for _, origin := range c.Origins {
		scheme, host, ok := strings.Cut(origin, "://")
		switch rest, wild := strings.CutPrefix(host, "*."); {
		case origin == "*":
			d.any = true
		case !ok || host == "" || strings.ContainsAny(rest, "*/"):
			return nil, fmt.Errorf("%q is no origin", origin)
		case wild:
			d.suffixes = append(d.suffixes, suffix{scheme + "://", "." + rest})
		default:
			d.exact[origin] = true
		}
	}
	if d.any && c.Credentials {
		return nil, errors.New("credentials cannot be allowed to every origin")
	}
	// Those of CORS-safelisted methods need no word, but a list without them looks
	// as if they were forbidden.
	methods := []string{http.MethodGet, http.MethodHead, http.MethodPost}
	for _, m := range c.Methods {
		if !slices.Contains(methods, m) {
			methods = append(methods, m)
		}
	}
	d.Methods, d.methods = methods, strings.Join(methods, ", ")
	d.expose = strings.Join(c.Expose, ", ")
	d.age = strconv.Itoa(int(c.MaxAge / time.Second))
	return d, nil
}

// IsPreflight reports whether r asks what a page may do (Fetch, CORS-preflight
// fetch).
func IsPreflight(r *http.Request) bool {
	return r.Method == http.MethodOptions && r.Header.Get("Origin") != "" && r.Header.Get(requestMethod) != ""
}

// allows reports whether pages of the origin may use the route. Origins are
// compared as a whole: scheme, host and port. "null" is that of every sandbox and
// is allowed to nobody but everybody.
func (d *door) allows(origin string) bool {
	if d.any {
		return true
	}
	origin = lower(origin)
	if d.exact[origin] {
		return true
	}
	for _, s := range d.suffixes {
		host, ok := strings.CutPrefix(origin, s.scheme)
		if label, under := strings.CutSuffix(host, s.host); ok && under && isName(label) {
			return true
		}
	}
	return false
}

// isName accepts what can stand before a domain: labels, and nothing that would
// make it another origin.
func isName(s string) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '-', c == '_', c == '.' && i > 0:
		default:
			return false
		}
	}
	return s != "" && s[len(s)-1] != '.'
}

func lower(s string) string {
	for i := range len(s) {
		if 'A' <= s[i] && s[i] <= 'Z' {
			return strings.ToLower(s)
		}
	}
	return s
}

func (d *door) serve(w http.ResponseWriter, r *http.Request, next http.Handler) {
	origins := r.Header["Origin"]
	if len(origins) == 0 {
		d.vary(w.Header())
		respwriter.Serve(next, w, r, stranger{d})
		return
	}
	allowed := len(origins) == 1 && d.allows(origins[0])
	if IsPreflight(r) {
		d.answer(w, r, allowed)
		return
	}
	if !allowed {
		d.vary(w.Header())
		respwriter.Serve(next, w, r, stranger{d})
		return
	}
	respwriter.Serve(next, w, r, friend{d, origins[0]})
}

// answer answers a preflight request.
func (d *door) answer(w http.ResponseWriter, r *http.Request, allowed bool) {
	h := w.Header()
	h.Add("Vary", "Origin, "+requestMethod+", "+requestHeaders)
	if !allowed {
		policy.Refuse(w, r, "cors", ErrOrigin)
		return
	}
	d.admit(h, r.Header.Get("Origin"))
	if err := d.preflight(r); err != nil {
		policy.Refuse(w, r, "cors", err)
		return
	}
	h.Set(allowMethods, d.methods)
	if asked := r.Header.Get(requestHeaders); asked != "" {
		h.Set(allowHeaders, asked) // each of them was checked; "*" would mean nothing with credentials
	}
	if d.MaxAge > 0 {
		h.Set(maxAge, d.age)
	}
	h.Set("Content-Length", "0")
	w.WriteHeader(http.StatusNoContent)
}

// preflight checks what a page wants to do.
func (d *door) preflight(r *http.Request) error {
	if !d.allows(r.Header.Get("Origin")) {
		return ErrOrigin
	}
	if method := r.Header.Get(requestMethod); !slices.Contains(d.Methods, method) {
		return ErrUse.WithDetail("Pages of other origins may use %s here.", d.methods)
	}
	if slices.Contains(d.Headers, "*") {
		return nil
	}
	for _, line := range r.Header[requestHeaders] {
		for name := range strings.SplitSeq(line, ",") {
			if name = strings.TrimSpace(name); name != "" && !slices.Contains(d.Headers, http.CanonicalHeaderKey(name)) && !safelisted(name) {
				return ErrUse.WithDetail("Pages of other origins may not send all of these header fields here.")
			}
		}
	}
	return nil
}

// safelisted reports whether a field needs no permission, or none of its own
// (Fetch, CORS-safelisted request-header).
func safelisted(name string) bool {
	switch http.CanonicalHeaderKey(name) {
	case "Accept", "Accept-Language", "Content-Language", "Range":
		return true
	}
	return false
}

// admit says who may read the answer.
func (d *door) admit(h http.Header, origin string) {
	if d.any {
		h.Set(allowOrigin, "*")
		return
	}
	h.Set(allowOrigin, origin)
	if d.Credentials {
		h.Set(allowCredentials, "true")
	}
}

// vary tells caches that the answer depends on the origin.
func (d *door) vary(h http.Header) {
	if !d.any {
		h.Add("Vary", "Origin")
	}
}

// withdraw removes what the service says: there is one who decides.
func withdraw(h http.Header) {
	for _, name := range [...]string{allowOrigin, allowCredentials, allowMethods, allowHeaders, exposeHeaders, maxAge} {
		delete(h, name)
	}
}

// friend lets an allowed page read the answer.
type friend struct {
	*door
	origin string
}

// Header implements respwriter.Hook.
func (f friend) Header(w *respwriter.Writer, _ *http.Request, _ int) respwriter.Body {
	h := w.Header()
	withdraw(h)
	f.vary(h)
	f.admit(h, f.origin)
	if f.expose != "" {
		h.Set(exposeHeaders, f.expose)
	}
	return nil
}

// stranger lets nobody read the answer.
type stranger struct{ *door }

// Header implements respwriter.Hook.
func (stranger) Header(w *respwriter.Writer, _ *http.Request, _ int) respwriter.Body {
	withdraw(w.Header())
	return nil
}

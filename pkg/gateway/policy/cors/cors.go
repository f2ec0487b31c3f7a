// Package cors lets pages of other origins use a route, by the CORS protocol of
// the Fetch standard. It answers preflight requests, and says on every other
// answer, refusals included, whether the page that asked may read it.
//
// It is no access control: browsers keep to it, and nobody else has to. A request
// of a page that may not read the answer is served all the same, as it would be
// for a program; only its preflight request is refused. Nor does the protocol
// cover WebSockets.
package cors

import (
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/keywarden/keywarden/pkg/gateway/policy"
	"github.com/keywarden/keywarden/pkg/gateway/respwriter"
	"github.com/keywarden/keywarden/pkg/header"
	"github.com/keywarden/keywarden/pkg/problem"
)

// Name is the name of the policy.
const Name = "cors"

// What a page is told that may not use the route.
var (
	ErrOrigin = problem.Define(problem.Forbidden, "gateway.origin_not_allowed",
		"Pages of this origin may not use this route.")
	ErrUse = problem.Define(problem.Forbidden, "gateway.cross_origin_not_allowed",
		"Pages of other origins may not use this method or these header fields here.")
)

// Config is what a route allows.
type Config struct {
	Origins     []string      // as browsers send them, with the host *.example.com, or "*"
	Methods     []string      // beside GET, HEAD and POST
	Headers     []string      // beside those that always may be sent; "*" for all
	Expose      []string      // fields of the answer that scripts may read; "*" for all
	Credentials bool          // cookies and client certificates; not with the origin "*"
	MaxAge      time.Duration // how long a browser may remember a preflight
}

// The fields of the protocol.
const (
	allowOrigin      = "Access-Control-Allow-Origin"
	allowCredentials = "Access-Control-Allow-Credentials"
	allowMethods     = "Access-Control-Allow-Methods"
	allowHeaders     = "Access-Control-Allow-Headers"
	allowPrivate     = "Access-Control-Allow-Private-Network"
	exposeHeaders    = "Access-Control-Expose-Headers"
	maxAge           = "Access-Control-Max-Age"
	requestMethod    = "Access-Control-Request-Method"
	requestHeaders   = "Access-Control-Request-Headers"
)

// door is what a route allows, ready to be asked. It is immutable.
type door struct {
	origins     *origins
	credentials bool
	methods     []string
	headers     map[string]bool // in canonical form
	anyHeader   bool

	// Values of the fields of answers. Slices are shared by all answers.
	methodList string
	maxAge     string
	yes        []string
	expose     []string // nil: none
}

// New makes the step.
func New(c Config) (policy.Step, error) {
	d, err := newDoor(c)
	if err != nil {
		return policy.Step{}, err
	}
	return policy.Step{
		Apply: func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { d.serve(w, r, next) })
		},
		Watch: func(next http.Handler, report policy.Report) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if err := d.check(r); err != nil {
					report(r, err)
				}
				next.ServeHTTP(w, r)
			})
		},
		Preview: func(r *http.Request) error {
			if IsPreflight(r) {
				return d.check(r)
			}
			return nil // whoever may not read the answer gets it
		},
	}, nil
}

func newDoor(c Config) (*door, error) {
	allowed, err := newOrigins(c.Origins)
	if err != nil {
		return nil, err
	}
	if allowed.all && c.Credentials {
		return nil, errors.New("credentials cannot be allowed to every origin")
	}
	d := &door{
		origins:     allowed,
		credentials: c.Credentials,
		headers:     map[string]bool{"Accept": true, "Accept-Language": true, "Content-Language": true, "Range": true},
		anyHeader:   slices.Contains(c.Headers, "*"),
		maxAge:      strconv.FormatInt(int64(c.MaxAge/time.Second), 10),
		yes:         []string{"true"},
	}
	if len(c.Expose) > 0 {
		d.expose = []string{strings.Join(c.Expose, ", ")}
	}
	for _, name := range c.Headers {
		d.headers[http.CanonicalHeaderKey(name)] = true
	}
	// CORS-safelisted methods need no word, but a list without them reads as if they
	// were forbidden.
	d.methods = []string{http.MethodGet, http.MethodHead, http.MethodPost}
	for _, m := range c.Methods {
		if !slices.Contains(d.methods, m) {
			d.methods = append(d.methods, m)
		}
	}
	d.methodList = strings.Join(d.methods, ", ")
	return d, nil
}

// IsPreflight reports whether r asks what a page may do (Fetch standard,
// CORS-preflight request).
func IsPreflight(r *http.Request) bool {
	return r.Method == http.MethodOptions && len(r.Header["Origin"]) > 0 && RequestedMethod(r) != ""
}

// RequestedMethod is the method that a preflight request asks for.
func RequestedMethod(r *http.Request) string { return r.Header.Get(requestMethod) }

// friendly reports whether r comes from a page that may use the route. More than
// one Origin is none: nobody knows which one a browser has checked.
func (d *door) friendly(r *http.Request) bool {
	sent := r.Header["Origin"]
	return d.origins.all || len(sent) == 1 && d.origins.allow(sent[0])
}

// check says what a browser would stop: a page that may not use the route, or not
// as its preflight request says.
func (d *door) check(r *http.Request) error {
	if len(r.Header["Origin"]) == 0 {
		return nil
	}
	if !d.friendly(r) {
		return ErrOrigin
	}
	if !IsPreflight(r) {
		return nil
	}
	if !slices.Contains(d.methods, RequestedMethod(r)) {
		return ErrUse.WithDetail("Pages of other origins may use %s here.", d.methodList)
	}
	for _, name := range requestedHeaders(r) {
		if !header.IsName(name) || !d.anyHeader && !d.headers[http.CanonicalHeaderKey(name)] {
			return ErrUse.WithDetail("Pages of other origins may not send all of these header fields here.")
		}
	}
	return nil
}

// requestedHeaders are the names of the fields that a page wants to send.
func requestedHeaders(r *http.Request) []string {
	var names []string
	for _, line := range r.Header[requestHeaders] {
		for name := range strings.SplitSeq(line, ",") {
			if name = strings.Trim(name, " \t"); name != "" {
				names = append(names, name)
			}
		}
	}
	return names
}

func (d *door) serve(w http.ResponseWriter, r *http.Request, next http.Handler) {
	switch {
	case IsPreflight(r):
		d.answer(w, r)
	case d.origins.all:
		respwriter.Serve(next, w, r, everybody{d})
	case d.friendly(r):
		respwriter.Serve(next, w, r, &friend{d, r.Header["Origin"]})
	default:
		respwriter.Serve(next, w, r, stranger{})
	}
}

// answer answers a preflight request.
func (d *door) answer(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	for _, name := range [...]string{"Origin", requestMethod, requestHeaders} {
		respwriter.Vary(h, name)
	}
	if err := d.check(r); err != nil {
		policy.Refuse(w, r, Name, err)
		return
	}
	d.admit(h, r.Header["Origin"])
	h.Set(allowMethods, d.methodList)
	if names := requestedHeaders(r); len(names) > 0 {
		// Those that were asked for, since "*" is a name like others where there are
		// credentials, and never stands for Authorization.
		h.Set(allowHeaders, strings.Join(names, ", "))
	}
	h.Set(maxAge, d.maxAge)
	w.WriteHeader(http.StatusNoContent)
}

// admit says who may read the answer. The slice is that of the request.
func (d *door) admit(h http.Header, origin []string) {
	if d.origins.all {
		h.Set(allowOrigin, "*")
		return
	}
	h[allowOrigin] = origin
	if d.credentials {
		h[allowCredentials] = d.yes
	}
}

// reveal lets the page of the origin read an answer.
func (d *door) reveal(h http.Header, origin []string) {
	conceal(h)
	d.admit(h, origin)
	if d.expose != nil {
		h[exposeHeaders] = d.expose
	}
}

// conceal removes what the service says: there is one who decides.
func conceal(h http.Header) {
	for _, name := range [...]string{
		allowOrigin, allowCredentials, allowMethods, allowHeaders, allowPrivate, exposeHeaders, maxAge,
	} {
		delete(h, name)
	}
}

// everybody lets all pages read the answer. It says so to those too that are not
// asked by a page: a browser may have kept their answer when a page asks.
type everybody struct{ *door }

// Header implements [respwriter.Hook].
func (e everybody) Header(w *respwriter.Writer, _ *http.Request, _ int) respwriter.Body {
	e.reveal(w.Header(), nil)
	return nil
}

// friend lets the page of one origin read the answer. The origin is kept, since
// the steps that follow may change the request.
type friend struct {
	*door
	origin []string
}

// Header implements [respwriter.Hook].
func (f *friend) Header(w *respwriter.Writer, _ *http.Request, _ int) respwriter.Body {
	f.reveal(w.Header(), f.origin)
	respwriter.Vary(w.Header(), "Origin")
	return nil
}

// stranger lets no page read the answer.
type stranger struct{}

// Header implements [respwriter.Hook].
func (stranger) Header(w *respwriter.Writer, _ *http.Request, _ int) respwriter.Body {
	conceal(w.Header())
	respwriter.Vary(w.Header(), "Origin")
	return nil
}

// Package headers changes header fields: of requests before they go to a service,
// and of the answers of a service. Fields that belong to the connection, to the
// gateway or to a credential cannot be changed.
package headers

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/keywarden/keywarden/pkg/gateway/policy"
	"github.com/keywarden/keywarden/pkg/gateway/respwriter"
	"github.com/keywarden/keywarden/pkg/header"
	"github.com/keywarden/keywarden/pkg/problem"
	"github.com/keywarden/keywarden/pkg/reqctx"
	"github.com/keywarden/keywarden/pkg/template"
)

// Config is what changes. Values are templates; one that is empty for a request is
// not sent.
type Config struct {
	Set    map[string]string // in place of all values that are there
	Add    map[string]string // beside them
	Remove []string

	// Secrets are those that values of requests may name; nil: none.
	Secrets template.Secrets
}

// ErrSecret is the refusal when a secret that a field is made of cannot be had, or
// cannot be sent. The request does not go to the service without it.
var ErrSecret = problem.Define(problem.Unavailable, "gateway.secret_unavailable",
	"A credential that the service has to be called with cannot be had right now.")

// Request makes the step for the fields of requests. What it sets is what the
// service gets, whatever the client sends: under another spelling of the name, or
// as a field that is to be dropped on the way (Connection).
func Request(c Config) (policy.Step, error) {
	e, err := newEdits(c, header.CheckRequest, template.ParseOutgoing)
	if err != nil {
		return policy.Step{}, err
	}
	if len(e.sealed) > 0 && c.Secrets == nil {
		return policy.Step{}, fmt.Errorf("the field %q names a secret, and there are none", e.sealed[0].name)
	}
	return policy.Step{Apply: func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			changed := *r
			changed.Header = maps.Clone(r.Header)
			if changed.Header == nil {
				changed.Header = http.Header{}
			}
			dropConnection(changed.Header)
			e.dropSpellings(changed.Header)
			e.apply(changed.Header, r)
			if err := e.applySealed(changed.Header, r, c.Secrets); err != nil {
				policy.Refuse(w, r, "request_headers", ErrSecret.With(err).WithRetryAfter(time.Second))
				return
			}
			next.ServeHTTP(w, &changed)
		})
	}}, nil
}

// Response makes the step for the fields of answers: those of the service, or of
// the route itself. What the gateway answers in place of a service is left alone,
// so that no failure is cached like an answer.
func Response(c Config) (policy.Step, error) {
	e, err := newEdits(c, header.CheckResponse, parseShown)
	if err != nil {
		return policy.Step{}, err
	}
	return policy.Step{Apply: func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { respwriter.Serve(next, w, r, e) })
	}}, nil
}

// edits are the changes, ready to be made. They are immutable.
type edits struct {
	remove []string // in canonical form, as all names
	set    []edit
	add    []edit
	sealed []sealedEdit
}

// sealedEdit is an edit whose value holds a secret.
type sealedEdit struct {
	name  string
	add   bool
	value *template.Outgoing
}

type edit struct {
	name   string
	value  *template.Template
	always []string // the value when it is the same for every request; shared
}

// parse reads the value of a field.
type parse func(text string, more ...template.Function) (*template.Outgoing, error)

// parseShown is for values that clients see: they cannot name a secret.
func parseShown(text string, more ...template.Function) (*template.Outgoing, error) {
	if _, err := template.Parse(text, more...); err != nil {
		return nil, err
	}
	return template.ParseOutgoing(text, more...)
}

func newEdits(c Config, check func(name string) error, parse parse) (*edits, error) {
	e := &edits{}
	for _, name := range c.Remove {
		if err := check(name); err != nil {
			return nil, fmt.Errorf("the field %q %w", name, err)
		}
		e.remove = append(e.remove, http.CanonicalHeaderKey(name))
	}
	var err error
	if e.set, err = e.list(c.Set, false, check, parse); err != nil {
		return nil, err
	}
	e.add, err = e.list(c.Add, true, check, parse)
	return e, err
}

// list compiles the values, in the order of their names, and keeps those that hold
// secrets apart.
func (e *edits) list(fields map[string]string, add bool, check func(name string) error, parse parse) ([]edit, error) {
	var list []edit
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		if err := check(name); err != nil {
			return nil, fmt.Errorf("the field %q %w", name, err)
		}
		outgoing, err := parse(fields[name])
		if err != nil {
			return nil, fmt.Errorf("the field %q: %w", name, err)
		}
		canonical := http.CanonicalHeaderKey(name)
		value, plain := outgoing.Plain()
		if !plain {
			e.sealed = append(e.sealed, sealedEdit{name: canonical, add: add, value: outgoing})
			continue
		}
		change := edit{name: canonical, value: value}
		if text, ok := value.Literal(); ok && text != "" {
			change.always = []string{text}
		}
		list = append(list, change)
	}
	return list, nil
}

// values returns what the field becomes for r, nil for nothing. The slice may be
// shared and must not be changed.
func (e *edit) values(r *http.Request) []string {
	if e.always != nil {
		return e.always
	}
	if text := e.value.Render(r); text != "" {
		return []string{text}
	}
	return nil
}

// apply changes h, with the values that r gives.
func (e *edits) apply(h http.Header, r *http.Request) {
	for _, name := range e.remove {
		delete(h, name)
	}
	for i := range e.set {
		if values := e.set[i].values(r); values != nil {
			h[e.set[i].name] = values
		} else {
			delete(h, e.set[i].name)
		}
	}
	for i := range e.add {
		if values := e.add[i].values(r); values != nil {
			name := e.add[i].name
			h[name] = append(slices.Clip(h[name]), values...) // others may hold what is there
		}
	}
}

// applySealed sets what may be shown of values that hold secrets, and leaves the
// values to be put in their place when the request goes to the service: whatever
// looks at the request until then, such as a cache, a mirror or the fields of the
// answer, does not see them.
func (e *edits) applySealed(h http.Header, r *http.Request, from template.Secrets) error {
	for _, s := range e.sealed {
		text, shown, err := s.value.Render(r, from)
		if err != nil {
			return fmt.Errorf("the field %s: %w", s.name, err)
		}
		if s.add {
			h[s.name] = append(slices.Clip(h[s.name]), shown)
		} else {
			h[s.name] = []string{shown}
		}
		info := reqctx.From(r.Context())
		info.Sealed = append(info.Sealed, reqctx.SealedField{Name: s.name, Shown: shown, Value: text})
	}
	return nil
}

// dropSpellings removes the fields that a server which turns names into variables
// would take for one that is set or removed.
func (e *edits) dropSpellings(h http.Header) {
	for name := range h {
		if !header.Plain(name) && e.owns(name) {
			delete(h, name)
		}
	}
}

func (e *edits) owns(name string) bool {
	same := func(other string) bool { return header.Same(name, other) }
	return slices.ContainsFunc(e.remove, same) || slices.ContainsFunc(e.set, func(s edit) bool { return same(s.name) }) ||
		slices.ContainsFunc(e.sealed, func(s sealedEdit) bool { return !s.add && same(s.name) })
}

// dropConnection removes the fields that the client has declared to be for the
// connection only. The proxy would do so too, but later, and take with them what
// is set here.
func dropConnection(h http.Header) {
	lines, there := h["Connection"]
	if !there {
		return
	}
	upgrade := false
	for _, line := range lines {
		for name := range strings.SplitSeq(line, ",") {
			name = http.CanonicalHeaderKey(strings.Trim(name, " \t"))
			if name == "Upgrade" {
				upgrade = true
				continue
			}
			delete(h, name)
		}
	}
	delete(h, "Connection")
	if upgrade {
		h["Connection"] = []string{"Upgrade"}
	}
}

// Header implements [respwriter.Hook].
func (e *edits) Header(w *respwriter.Writer, r *http.Request, _ int) respwriter.Body {
	if reqctx.From(r.Context()).Code == "" {
		e.apply(w.Header(), r)
	}
	return nil
}

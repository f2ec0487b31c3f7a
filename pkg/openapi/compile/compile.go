// Package compile makes of the description of an API what the gateway document has
// to say of it: one route for each operation, and the services behind them. It owns
// how names, paths, security and extensions are translated, and how the routes of
// an API are put in the place of those of its last import.
//
// Only what is described is open: a path or method without an operation gets no
// route. What cannot be translated is refused or noted, never left out in silence;
// where a choice has to be made, it is the one that lets fewer callers through.
package compile

import (
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/keywarden/keywarden/pkg/canonical"
	"github.com/keywarden/keywarden/pkg/openapi"
	"github.com/keywarden/keywarden/pkg/openapi/contract"
	"github.com/keywarden/keywarden/pkg/spec"
	"github.com/keywarden/keywarden/pkg/spec/check"
	"github.com/keywarden/keywarden/pkg/spec/policies"
	"github.com/keywarden/keywarden/pkg/spec/quantity"
	"github.com/keywarden/keywarden/pkg/strictyaml"
)

// BasePath says whether the service sees the base path of the description.
type BasePath string

// What becomes of the base path.
const (
	// BaseAuto keeps it, unless the service was named by a URL that has a path of its
	// own, which takes its place.
	BaseAuto  BasePath = "auto"
	BaseKeep  BasePath = "keep"
	BaseStrip BasePath = "strip"
)

// Options are what the description does not say.
type Options struct {
	// API is the name of the API: the names of its routes begin with it and a dot.
	API string

	// Service is the URL of the service, or the name of one that the gateway document
	// has. Empty means what the description says.
	Service string

	Hosts []string // of the gateway; empty means every host
	Base  BasePath // empty means BaseAuto

	// Source is the name of the file, for messages.
	Source string

	// Validate, the text of the description, puts it into the fragment and holds every
	// operation to it; without it nothing is validated.
	Validate []byte
}

// Fragment is the part of a gateway document that is about one API.
type Fragment struct {
	API      string
	APIs     []spec.API
	Services []Service
	Routes   []spec.Route

	// Needs are the services that the gateway document has to have.
	Needs []string

	// Notes are what was lost, or taken otherwise than it is meant.
	Notes []openapi.Violation
}

// Service is a service of the fragment. All but its address is left to the defaults.
type Service struct {
	Name string `json:"name"`
	URL  string `json:"url"`
}

// apiName bounds names of APIs. They have no dot, so that the routes of one are
// never taken for those of another.
var apiName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,23}$`)

// ErrName is the error for a name that an API cannot have.
const ErrName = check.ErrText("the name of an API must consist of at most 24 letters, digits, hyphens and underscores, and begin with a letter or digit")

// compiler translates one description.
type compiler struct {
	doc     *openapi.Document
	options Options
	wrong   strictyaml.Collector
	notes   []openapi.Violation
	noted   map[string]bool // what is said once
	byURL   map[string]string
	out     Fragment

	contract *contract.API // nil until it is needed
}

// Compile translates a description. The error is a *[openapi.Violations] with all
// that cannot be translated, at its place in the description, or [ErrName].
func Compile(doc *openapi.Document, o Options) (*Fragment, error) {
	if !apiName.MatchString(o.API) {
		return nil, ErrName
	}
	c := &compiler{doc: doc, options: o, noted: map[string]bool{}, byURL: map[string]string{}}
	c.out.API = o.API
	if len(o.Validate) > 0 {
		c.out.APIs = []spec.API{{Name: o.API, OpenAPI: string(o.Validate)}}
	}
	if o.Service == "" && doc.Service == nil && doc.Backend == nil && doc.Server.Origin == "" && len(doc.Operations) > 0 && c.unserved() {
		c.fail(doc.Server.Place, "names no server with a host: say --service (service= in a call of the admin API), or x-keywarden-service at the top of the document")
	}
	type placed struct {
		order string
		place openapi.Place
		route spec.Route
	}
	var list []placed
	operations := doc.Operations // the rest of it is let go on the way
	for i := range operations {
		op := &operations[i]
		t := c.target(op)
		list = append(list, placed{orderOf(t.base, op.Path) + op.Method, op.Place, c.route(op, t)})
	}
	slices.SortStableFunc(list, func(a, b placed) int { return strings.Compare(a.order, b.order) })
	places := make([]openapi.Place, len(list))
	for i, p := range list {
		c.out.Routes, places[i] = append(c.out.Routes, p.route), p.place
	}
	if err := c.wrong.Report(o.Source); err != nil {
		return nil, err
	}
	c.contract, c.doc = nil, c.doc.WithoutRoot() // by now only in the way
	c.check(places)
	if err := c.wrong.Report(o.Source); err != nil {
		return nil, err
	}
	c.out.Notes = append(slices.Clone(c.doc.Notes), c.notes...)
	return &c.out, nil
}

// unserved reports whether there is an operation for which nothing names a service.
func (c *compiler) unserved() bool {
	return slices.ContainsFunc(c.doc.Operations, func(op openapi.Operation) bool {
		return op.Service == nil && op.Backend == nil && (op.Server == nil || op.Server.Origin == "")
	})
}

// orderOf puts concrete paths before general ones: regular expressions are tried in
// the order of the routes.
func orderOf(base string, path openapi.Template) string {
	var b strings.Builder
	for segment := range strings.SplitSeq(base, "/") {
		b.WriteString("0" + segment + "\x00")
	}
	return b.String() + strings.TrimPrefix(path.Order(), "0\x00")
}

func (c *compiler) fail(p openapi.Place, format string, args ...any) {
	c.wrong.Add(openapi.Violation{Place: p, Detail: fmt.Sprintf(format, args...)})
}

func (c *compiler) note(p openapi.Place, format string, args ...any) {
	c.notes = append(c.notes, openapi.Violation{Place: p, Detail: fmt.Sprintf(format, args...)})
}

// once notes what holds for the whole document.
func (c *compiler) once(key string, p openapi.Place, format string, args ...any) {
	if !c.noted[key] {
		c.noted[key] = true
		c.note(p, format, args...)
	}
}

// route translates one operation.
func (c *compiler) route(op *openapi.Operation, t target) spec.Route {
	r := spec.Route{Name: c.name(op), Service: t.service}
	r.Match.Hosts, r.Match.Methods = c.options.Hosts, []string{op.Method}
	if exact := op.Path.Exact(); exact != "" {
		r.Match.Path.Exact = t.base + exact
		if t.strip {
			r.StripPrefix = t.base
		}
	} else {
		base, rest := regexp.QuoteMeta(decoded(t.base))+"/", op.Path.Regex()
		r.Match.Path.Regex = base + rest
		if t.strip && t.base != "" {
			r.Match.Path.Regex = base + "(" + rest + ")"
			r.Rewrite = &spec.Rewrite{Path: "/$1"}
		}
	}
	if t.constant != "" {
		if len(op.Path.Parameters()) > 0 {
			c.fail(op.Backend.Place, "sends parameters of the path as a query, which the gateway does not; say path_translation: APPEND_PATH_TO_ADDRESS")
		}
		r.StripPrefix, r.Rewrite = "", &spec.Rewrite{Regex: ".*", Path: strings.ReplaceAll(t.constant, "$", "$$")}
	}
	r.Auth = c.auth(op)
	c.policies(op, &r.Policies)
	if len(c.out.APIs) > 0 {
		c.validated(op, &r)
	}
	if b := c.backend(op); b != nil && b.Deadline > 0 && r.Timeout == nil {
		r.Timeout = &policies.Timeout{Gate: policies.Gate{Mode: policies.Enforce}, After: quantity.Duration(b.Deadline * float64(time.Second))}
	}
	return r
}

// maxValidated bounds the bodies that are checked.
const maxValidated = 1 << 20

// validated holds the route to its operation, whose schemas have to compile.
func (c *compiler) validated(op *openapi.Operation, r *spec.Route) {
	id := op.ID
	if id == "" {
		id = op.Method + " " + op.Path.String()
	}
	r.Operation = &spec.Operation{API: c.options.API, ID: id}
	r.Validation = &policies.Validation{Gate: policies.Gate{Mode: policies.Enforce}, MaxBody: maxValidated, Answers: true}
	if c.contract == nil {
		var err error
		if c.contract, err = contract.New(c.doc); err != nil {
			c.fail(openapi.Place{}, "cannot be validated: %s", err)
			return
		}
		c.doc = c.doc.WithoutRoot()
	}
	if _, err := c.contract.Operation(id); err != nil {
		c.fail(op.Place, "cannot be validated: %s", err)
	}
}

func decoded(base string) string {
	if base == "" {
		return ""
	}
	d, _, err := canonical.Path(base)
	if err != nil {
		return base // it was read in its canonical form
	}
	return d
}

// target is where requests of an operation go.
type target struct {
	service  string
	base     string // of the paths at the gateway
	strip    bool
	constant string // path of every request
}

// backend is the x-google-backend that counts for an operation, if one does.
func (c *compiler) backend(op *openapi.Operation) *openapi.Backend {
	switch {
	case op.Service != nil:
		return nil
	case op.Backend != nil:
		return op.Backend
	case c.options.Service != "" || c.doc.Service != nil:
		return nil
	}
	return c.doc.Backend
}

// target finds the service of an operation: what the operation says, what the
// caller of the import says, what the document says, its servers.
func (c *compiler) target(op *openapi.Operation) target {
	server := c.doc.Server
	if op.Server != nil {
		server = *op.Server
	}
	t := target{base: server.Base}
	text, place, own := c.options.Service, openapi.Place{}, false
	switch b := c.backend(op); {
	case op.Service != nil:
		text, place, own = op.Service.Text(), op.Service.Place, true
	case b != nil:
		return c.google(t, b, b == op.Backend)
	case text != "":
	case c.doc.Service != nil:
		text, place = c.doc.Service.Text(), c.doc.Service.Place
	default:
		if server.Origin == "" { // of the operation alone
			server.Origin = c.doc.Server.Origin
		}
		t.service = c.serviceAt(server.Origin, server.Origin != c.doc.Server.Origin)
		t.strip = c.options.Base == BaseStrip
		return t
	}
	if !strings.Contains(text, "://") {
		t.service, t.strip = text, c.options.Base == BaseStrip
		if !slices.Contains(c.out.Needs, text) {
			c.out.Needs = append(c.out.Needs, text)
		}
		if !check.IsName(text) {
			c.fail(place, "is neither a URL nor the name of a service: %s", check.Quote(text))
		}
		return t
	}
	u, ok := address(text)
	if !ok {
		// It is not repeated: a password may be in it.
		c.fail(place, "the service must be an http or https URL with a host, without user name, password and query")
		return t
	}
	t.service = c.serviceAt(u.String(), own)
	t.strip = c.options.Base == BaseStrip || c.options.Base != BaseKeep && u.Path != ""
	return t
}

// google is the target that x-google-backend names.
func (c *compiler) google(t target, b *openapi.Backend, own bool) target {
	u, ok := address(b.Address)
	if !ok {
		c.fail(b.Place, "address must be an http or https URL with a host, without query")
		return t
	}
	if b.Constant {
		t.constant = u.EscapedPath()
		if t.constant == "" {
			t.constant = "/"
		}
		u.Path, u.RawPath = "", ""
	}
	t.service = c.serviceAt(u.String(), own)
	return t
}

// address reads the URL of a service, without a slash at its end.
func address(text string) (*url.URL, bool) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, false
	}
	u.Path, u.RawPath = strings.TrimSuffix(u.Path, "/"), strings.TrimSuffix(u.RawPath, "/")
	return u, true
}

// serviceAt is the name of the service at a URL. That of the whole API has its
// name; those of single operations have the host in theirs, too.
func (c *compiler) serviceAt(address string, own bool) string {
	if name := c.byURL[address]; name != "" {
		return name
	}
	name := c.options.API
	if own {
		host, _, _ := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(address, "https://"), "http://"), "/")
		name = fit(c.options.API+"."+slug(host), address)
	}
	c.byURL[address] = name
	c.out.Services = append(c.out.Services, Service{Name: name, URL: address})
	return name
}

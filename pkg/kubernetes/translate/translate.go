// Package translate makes a gateway document of the objects of Kubernetes that
// describe routes: Ingress (networking.k8s.io/v1), and Gateway and HTTPRoute
// (gateway.networking.k8s.io/v1) with what they refer to. It also makes the statuses
// that tell the owners of these objects what became of them.
//
// It is pure: objects in, document and statuses out, the same for the same objects. It
// does no I/O, asks no clock and knows neither the API server nor the gateway.
//
// An object that cannot be translated as a whole is left out as a whole, and its status
// or [Refusal] says why; nothing of it takes down another. Whatever comes out is
// what package spec has read and validated, route by route.
package translate

import (
	"cmp"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/keywarden/keywarden/pkg/canonical"
	"github.com/keywarden/keywarden/pkg/kubernetes/object"
	"github.com/keywarden/keywarden/pkg/kubernetes/precedence"
	"github.com/keywarden/keywarden/pkg/spec"
	"github.com/keywarden/keywarden/pkg/spec/services"
)

// Controller is the name by which IngressClasses and GatewayClasses choose this
// gateway, unless the configuration has another.
const Controller = "keywarden.io/gateway-controller"

// Options are what a translation depends on beside the objects.
type Options struct {
	Controller string   // the name that classes choose this gateway by
	Addresses  []string // under which the gateway is reached: IP addresses or names
	TLS        bool     // the gateway's own listener speaks TLS

	// Reserved are the host names of the platform itself, in lower case. No object gets
	// requests for them: what a stranger serves there would have the platform's origin.
	Reserved []string

	// APIURL, TokenFile and CAFile are those of the API server, for the discovery of
	// targets; empty for the way that a pod has.
	APIURL, TokenFile, CAFile string
}

// Objects are all objects of the cluster that count, in any order.
type Objects struct {
	IngressClasses  []*object.IngressClass
	Ingresses       []*object.Ingress
	GatewayClasses  []*object.GatewayClass
	Gateways        []*object.Gateway
	HTTPRoutes      []*object.HTTPRoute
	ReferenceGrants []*object.ReferenceGrant
	Services        []*object.Service
	Namespaces      []*object.Namespace
}

// Result is what a translation makes.
type Result struct {
	Document spec.Document
	Statuses []Status  // of all objects that are ours, by kind, namespace and name
	Refused  []Refusal // in the same order
}

// Kinds of objects that have a status, or can be refused.
const (
	KindIngress      = "Ingress"
	KindGatewayClass = "GatewayClass"
	KindGateway      = "Gateway"
	KindHTTPRoute    = "HTTPRoute"
)

// Status is what an object's status should be.
type Status struct {
	Kind string
	Meta *object.Meta // of the object as it was translated
	// Value is the whole value of the object's field status, or as much of it as is
	// ours.
	Value any
	// Changed says that the object has another status at the moment.
	Changed bool
}

// Refusal tells why an object is not, or not wholly, served.
type Refusal struct {
	Kind    string
	Meta    *object.Meta
	Reason  string // one word, as in conditions
	Message string
}

// Translator translates again and again. It remembers what it has validated, so that
// a change costs what has changed; it has no other memory. It is for one goroutine.
type Translator struct {
	before, now map[[sha256.Size]byte]parsed
}

// parsed is what package spec makes of a route with its services.
type parsed struct {
	route    spec.Route
	services []services.Service
	err      error
}

// New makes a translator.
func New() *Translator { return &Translator{} }

// Translate makes the document. now is for conditions that change.
func (t *Translator) Translate(all Objects, o Options, now time.Time) Result {
	t.before, t.now = t.now, map[[sha256.Size]byte]parsed{}
	defer func() { t.before = nil }()
	j := &job{Options: o, translator: t, now: now.UTC().Truncate(time.Second), services: map[string]*object.Service{}, namespaces: map[string]*object.Namespace{}, grants: map[string][]*object.ReferenceGrant{}}
	for _, s := range all.Services {
		j.services[s.Metadata.Key()] = s
	}
	for _, n := range all.Namespaces {
		j.namespaces[n.Metadata.Name] = n
	}
	for _, g := range all.ReferenceGrants {
		j.grants[g.Metadata.Namespace] = append(j.grants[g.Metadata.Namespace], g)
	}
	j.ingresses(all)
	j.gateways(all)
	return j.result()
}

// job is one translation.
type job struct {
	Options
	translator *Translator
	now        time.Time

	services   map[string]*object.Service
	namespaces map[string]*object.Namespace
	grants     map[string][]*object.ReferenceGrant // by the namespace that grants

	claims   []claim
	statuses []Status
	refused  []Refusal
}

// owner is the object that a route comes from.
type owner struct {
	kind string
	meta *object.Meta
}

// older orders owners: who was there first comes first, and of the same age the one
// with the smaller name.
func (o owner) older(p owner) int {
	return cmp.Or(o.meta.CreationTimestamp.Compare(p.meta.CreationTimestamp),
		strings.Compare(o.meta.Namespace, p.meta.Namespace), strings.Compare(o.meta.Name, p.meta.Name), strings.Compare(o.kind, p.kind))
}

// claim is a route that wants its requests.
type claim struct {
	owner       owner
	rule, match int // where in the object
	hosts       []string
	parsed      parsed
}

// fields is an object of the document, as it is written.
type fields = map[string]any

// draft is a route before it is read by package spec.
type draft struct {
	rule, match int
	hosts       []string // "" is every host
	route       fields   // without name and hosts
	backends    []backend
}

// validate reads the drafts of an object. The error is for a person, of the first that
// is not valid.
func (j *job) validate(of owner, drafts []draft) ([]claim, error) {
	if err := bounded(drafts); err != nil {
		return nil, err
	}
	list := make([]claim, 0, len(drafts))
	for _, d := range drafts {
		d.route["name"] = "x"
		p := j.translator.parse(d)
		if p.err != nil {
			return nil, fmt.Errorf("rule %d: %w", d.rule, p.err)
		}
		hosts := slices.Clone(p.route.Match.Hosts) // in their normal form
		if at := slices.IndexFunc(hosts, func(h string) bool { return slices.Contains(j.Reserved, h) }); at >= 0 {
			return nil, fmt.Errorf("rule %d: the host %s is the platform's own (server.hosts)", d.rule, hosts[at])
		}
		if slices.Contains(d.hosts, "") {
			hosts = append(hosts, "")
		}
		for _, path := range []*string{&p.route.Match.Path.Exact, &p.route.Match.Path.Prefix} {
			*path = oneSpelling(*path)
		}
		list = append(list, claim{owner: of, rule: d.rule, match: d.match, hosts: hosts, parsed: p})
	}
	return list, nil
}

// oneSpelling is a path in the form that all of its spellings have in common, such as
// /a+b of /a%2Bb: the gateway compares decoded paths, and takes no document in which two
// routes are at the same one.
func oneSpelling(escaped string) string {
	decoded, _, err := canonical.Path(escaped)
	if escaped == "" || err != nil {
		return escaped
	}
	return (&url.URL{Path: decoded}).EscapedPath()
}

// parse reads a draft, unless that was done before.
func (t *Translator) parse(d draft) parsed {
	doc := fields{"version": spec.Version, "routes": []fields{d.route}}
	list := []fields{}
	for _, b := range d.backends {
		if !slices.ContainsFunc(list, func(s fields) bool { return s["name"] == b.name }) {
			list = append(list, b.service)
		}
	}
	doc["services"] = list
	// Hosts are part of what is validated, and "" is not one.
	match, _ := d.route["match"].(fields)
	if named := slices.DeleteFunc(slices.Clone(d.hosts), func(h string) bool { return h == "" }); len(named) > 0 {
		match["hosts"] = named
	}
	text, err := json.Marshal(doc)
	if err != nil {
		return parsed{err: err}
	}
	key := sha256.Sum256(text)
	if p, ok := t.now[key]; ok {
		return p
	}
	p, ok := t.before[key]
	if !ok {
		p = parseDocument(text)
	}
	t.now[key] = p
	return p
}

func parseDocument(text []byte) parsed {
	doc, err := spec.Parse("", text)
	var wrong *spec.Violations
	switch {
	case errors.As(err, &wrong) && len(wrong.List) > 0:
		v := wrong.List[0]
		return parsed{err: fmt.Errorf("%s: %s", strings.TrimPrefix(v.Path, "routes[0]."), v.Detail)}
	case err != nil:
		return parsed{err: err}
	}
	return parsed{route: doc.Routes[0], services: doc.Services}
}

// refusalsOfOne is how many refusals back the same is looked for.
const refusalsOfOne = 16

// refuse notes that an object, or a part of it, is not served.
func (j *job) refuse(kind string, meta *object.Meta, reason, message string) {
	said := func(r Refusal) bool { return r.Kind == kind && r.Meta == meta && r.Message == message }
	if n := len(j.refused); !slices.ContainsFunc(j.refused[max(0, n-refusalsOfOne):], said) {
		j.refused = append(j.refused, Refusal{kind, meta, reason, message})
	}
}

// routes are what the claims come to, the oldest objects first.
func (j *job) routes() []spec.Route {
	slices.SortStableFunc(j.claims, func(a, b claim) int {
		return cmp.Or(a.owner.older(b.owner), cmp.Compare(a.rule, b.rule), cmp.Compare(a.match, b.match))
	})
	list := make([]precedence.Claim, len(j.claims))
	for i, c := range j.claims {
		list[i] = precedence.Claim{
			Name:  []string{strings.ToLower(c.owner.kind), c.owner.meta.Namespace, c.owner.meta.Name, strconv.Itoa(c.rule), strconv.Itoa(c.match)},
			Route: c.parsed.route, Hosts: c.hosts,
		}
	}
	return append(precedence.Resolve(list), j.reserved()...)
}

// reserved is the route that keeps the reserved hosts from objects that are at every
// host, or at a wildcard; none where there are no such objects.
func (j *job) reserved() []spec.Route {
	var hosts []string
	for _, h := range j.Reserved {
		covers := func(of string) bool { return of == "" || precedence.Covers(of, h) }
		if slices.ContainsFunc(j.claims, func(c claim) bool { return slices.ContainsFunc(c.hosts, covers) }) {
			hosts = append(hosts, h)
		}
	}
	if len(hosts) == 0 {
		return nil
	}
	p := j.translator.parse(draft{hosts: hosts, route: fields{
		"name": "kubernetes.reserved", "match": fields{"path": fields{"prefix": "/"}}, "auth": fields{"mode": "none"},
		"respond": fields{"status": 404, "body": "There is nothing here.\n"},
	}})
	if p.err != nil { // the configuration has checked the hosts
		return nil
	}
	return []spec.Route{p.route}
}

// result puts the document together.
func (j *job) result() Result {
	doc := spec.Document{Version: spec.Version, Services: []services.Service{}, Routes: j.routes()}
	used := map[string]bool{}
	for i := range doc.Routes {
		r := &doc.Routes[i]
		used[r.Service] = true
		if r.Mirror != nil {
			used[r.Mirror.Service] = true
		}
		if r.Split != nil {
			for _, s := range r.Split.Services {
				used[s.Service] = true
			}
		}
	}
	for _, c := range j.claims {
		for _, s := range c.parsed.services {
			if used[s.Name] {
				used[s.Name] = false // once
				doc.Services = append(doc.Services, s)
			}
		}
	}
	slices.SortFunc(doc.Services, func(a, b services.Service) int { return strings.Compare(a.Name, b.Name) })
	byObject := func(kind1, kind2 string, m1, m2 *object.Meta) int {
		return cmp.Or(strings.Compare(kind1, kind2), strings.Compare(m1.Namespace, m2.Namespace), strings.Compare(m1.Name, m2.Name))
	}
	slices.SortStableFunc(j.statuses, func(a, b Status) int { return byObject(a.Kind, b.Kind, a.Meta, b.Meta) })
	slices.SortStableFunc(j.refused, func(a, b Refusal) int { return byObject(a.Kind, b.Kind, a.Meta, b.Meta) })
	return Result{Document: doc, Statuses: j.statuses, Refused: j.refused}
}

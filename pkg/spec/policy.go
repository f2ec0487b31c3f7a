package spec

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/keywarden/keywarden/pkg/nearest"
	"github.com/keywarden/keywarden/pkg/strictyaml"
)

// Mode says how seriously a policy is meant.
type Mode string

// The modes of a policy.
const (
	Enforce Mode = "enforce"
	Shadow  Mode = "shadow" // what it would have done is counted and logged, and not done
	Off     Mode = "off"    // as if it were not there; takes back what is inherited
)

// Gate is what all policies have in common.
type Gate struct {
	Mode Mode `json:"mode"`

	// When is an expression (CEL) over request and principal. Where it is false the
	// policy does not count for the request. A policy that decides before the caller
	// is known cannot ask for the principal.
	When string `json:"when,omitempty"`
}

func (g *Gate) normaliseGate() {
	if g.Mode == "" {
		g.Mode = Enforce
	}
}

func (g *Gate) gate() Gate { return *g }

// Policies are what stands between a request and its service, in the order in
// which they are asked. One that is nil says nothing: what is inherited counts.
type Policies struct {
	SecurityHeaders *SecurityHeaders `json:"security_headers,omitempty"`
	AllowIPs        *Networks        `json:"allow_ips,omitempty"`
	DenyIPs         *Networks        `json:"deny_ips,omitempty"`
	CORS            *CORS            `json:"cors,omitempty"`
	AllowMethods    *Methods         `json:"allow_methods,omitempty"`
	MediaTypes      *MediaTypes      `json:"media_types,omitempty"`
	MaxBody         *MaxBody         `json:"max_body,omitempty"`
	Auth            *Auth            `json:"auth,omitempty"`
	LogFields       *LogFields       `json:"log_fields,omitempty"`
	Concurrency     *Concurrency     `json:"concurrency,omitempty"`
	RateLimit       *RateLimits      `json:"rate_limit,omitempty"`
	Fault           *Fault           `json:"fault,omitempty"`
	RequestHeaders  *RequestHeaders  `json:"request_headers,omitempty"`
	ResponseHeaders *ResponseHeaders `json:"response_headers,omitempty"`
	Compress        *Compress        `json:"compress,omitempty"`
	BasicAuth       *BasicAuth       `json:"basic_auth,omitempty"`
	Timeout         *Timeout         `json:"timeout,omitempty"`
}

// PolicySet is policies that routes use by name.
type PolicySet struct {
	Name string `json:"name"`
	Policies
}

// policy is one of the policies.
type policy interface {
	gate() Gate
	validate(path string, v *validator)
}

// NamedPolicy is a policy that is there, with its name in the document.
type NamedPolicy struct {
	Name string
	Gate Gate
	// Known reports whether the caller is known where the policy decides.
	Known bool
	value policy
}

// List returns the policies that are there, in the order in which they are asked.
func (p *Policies) List() []NamedPolicy {
	var list []NamedPolicy
	known := false
	of := reflect.ValueOf(p).Elem()
	for i := range of.NumField() {
		value, _ := of.Field(i).Interface().(policy)
		name := strictyaml.FieldName(of.Type().Field(i))
		if !of.Field(i).IsNil() {
			list = append(list, NamedPolicy{Name: name, Gate: value.gate(), Known: known, value: value})
		}
		known = known || name == "auth"
	}
	return list
}

// over returns p with what it does not say taken from base.
func (p Policies) over(base *Policies) Policies {
	to, from := reflect.ValueOf(&p).Elem(), reflect.ValueOf(base).Elem()
	for i := range to.NumField() {
		if to.Field(i).IsNil() {
			to.Field(i).Set(from.Field(i))
		}
	}
	return p
}

// Effective returns the policies that count for a route of the document: its own,
// those of the sets that it uses, and the defaults, without what is off. A route
// for which nobody says otherwise has to be authenticated for.
func (d *Document) Effective(r *Route) Policies {
	p := r.Policies
	for _, name := range slices.Backward(r.Use) {
		if i := slices.IndexFunc(d.PolicySets, func(s PolicySet) bool { return s.Name == name }); i >= 0 {
			p = p.over(&d.PolicySets[i].Policies)
		}
	}
	if d.Defaults != nil {
		p = p.over(d.Defaults)
	}
	if p.Auth == nil {
		p.Auth = &Auth{Mode: AuthRequired}
		p.Auth.normalise()
	}
	of := reflect.ValueOf(&p).Elem()
	for i := range of.NumField() {
		if value, _ := of.Field(i).Interface().(policy); !of.Field(i).IsNil() && value.gate().Mode == Off && of.Type().Field(i).Name != "Auth" {
			of.Field(i).SetZero()
		}
	}
	return p
}

func (p *Policies) normalise() {
	of := reflect.ValueOf(p).Elem()
	for i := range of.NumField() {
		if of.Field(i).IsNil() {
			continue
		}
		value := of.Field(i).Interface()
		if value, ok := value.(interface{ normaliseGate() }); ok {
			value.normaliseGate()
		}
		if value, ok := value.(interface{ normalise() }); ok {
			value.normalise()
		}
	}
}

func (p *Policies) validate(path string, v *validator) {
	for _, policy := range p.List() {
		at := path + "." + policy.Name
		if policy.Name != "auth" && !v.oneOf(at+".mode", string(policy.Gate.Mode), string(Enforce), string(Shadow), string(Off)) {
			continue
		}
		if policy.Gate.When != "" {
			v.condition(at+".when", policy.Gate.When, policy.Known)
		}
		if policy.Gate.Mode != Off || policy.Name == "auth" {
			policy.value.validate(at, v)
		}
	}
}

func (s *PolicySet) validate(path string, v *validator) {
	v.name(path, s.Name)
	s.Policies.validate(path, v)
}

// maxUse bounds the policy sets of a route.
const maxUse = 16

// use checks the names of policy sets.
func (v *validator) use(path string, names []string) {
	v.distinct(path, names, maxUse, "", func(name string) bool { return true })
	for i, name := range names {
		if name != "" && !slices.Contains(v.sets, name) {
			v.fail(index(path, i), "no policy set is named %s%s", quote(name), nearest.Question(name, v.sets))
		}
	}
}

// distinct checks a list of words: not empty when it is there, none twice, each
// of the form that is described.
func (v *validator) distinct(path string, list []string, most int, form string, good func(string) bool) {
	if list != nil && len(list) == 0 {
		v.fail(path, "must name at least one; or remove it")
	}
	if len(list) > most {
		v.fail(path, "must not name more than %d", most)
		return
	}
	for i, word := range list {
		switch {
		case !good(word):
			v.fail(index(path, i), "must be %s", form)
		case slices.Contains(list[:i], word):
			v.fail(index(path, i), "is named twice")
		}
	}
}

// words joins names for a message: a, b or c.
func words[T ~string](list []T) string {
	texts := make([]string, len(list))
	for i, w := range list {
		texts[i] = string(w)
	}
	if len(texts) < 2 {
		return strings.Join(texts, "")
	}
	return fmt.Sprintf("%s or %s", strings.Join(texts[:len(texts)-1], ", "), texts[len(texts)-1])
}

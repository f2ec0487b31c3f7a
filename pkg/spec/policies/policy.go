// Package policies is what the gateway document says of policies: what stands
// between a request and its service. It owns their types with defaults and rules,
// how one inherits from another, and the order in which they are asked. How they
// work is the business of the packages below gateway/policy.
package policies

import (
	"fmt"
	"reflect"
	"strings"

	"github.com/keywarden/keywarden/pkg/spec/check"
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
	FaultRules      *FaultRules      `json:"fault_rules,omitempty"`
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
	Quota           *Quotas          `json:"quota,omitempty"`
	Fault           *Fault           `json:"fault,omitempty"`
	RequestHeaders  *RequestHeaders  `json:"request_headers,omitempty"`
	ResponseHeaders *ResponseHeaders `json:"response_headers,omitempty"`
	Compress        *Compress        `json:"compress,omitempty"`
	Validation      *Validation      `json:"validate,omitempty"`
	Mock            *Mock            `json:"mock,omitempty"`
	Cache           *Cache           `json:"cache,omitempty"`
	BasicAuth       *BasicAuth       `json:"basic_auth,omitempty"`
	Timeout         *Timeout         `json:"timeout,omitempty"`
}

// policy is one of the policies.
type policy interface {
	gate() Gate
	Validate(path string, v *check.Checker)
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

// Names are the names of all policies, in the order in which they are asked.
func Names() []string {
	var names []string
	for f := range reflect.TypeFor[Policies]().Fields() {
		names = append(names, strictyaml.FieldName(f))
	}
	return names
}

// Over returns p with what it does not say taken from base.
func (p Policies) Over(base *Policies) Policies {
	to, from := reflect.ValueOf(&p).Elem(), reflect.ValueOf(base).Elem()
	for i := range to.NumField() {
		if to.Field(i).IsNil() {
			to.Field(i).Set(from.Field(i))
		}
	}
	return p
}

// Whole returns the policies as they count, when nobody else has a say: without
// what is off, and with authentication, which has to be switched off by name.
func (p Policies) Whole() Policies {
	if p.Auth == nil {
		p.Auth = &Auth{Mode: AuthRequired}
		p.Auth.Normalise()
	}
	of := reflect.ValueOf(&p).Elem()
	for i := range of.NumField() {
		if value, _ := of.Field(i).Interface().(policy); !of.Field(i).IsNil() && value.gate().Mode == Off && of.Type().Field(i).Name != "Auth" {
			of.Field(i).SetZero()
		}
	}
	return p
}

func (p *Policies) Normalise() {
	of := reflect.ValueOf(p).Elem()
	for i := range of.NumField() {
		if of.Field(i).IsNil() {
			continue
		}
		value := of.Field(i).Interface()
		if value, ok := value.(interface{ normaliseGate() }); ok {
			value.normaliseGate()
		}
		if value, ok := value.(interface{ Normalise() }); ok {
			value.Normalise()
		}
	}
}

func (p *Policies) Validate(path string, v *check.Checker) {
	for _, policy := range p.List() {
		at := path + "." + policy.Name
		if policy.Name != "auth" && !v.OneOf(at+".mode", string(policy.Gate.Mode), string(Enforce), string(Shadow), string(Off)) {
			continue
		}
		if policy.Gate.When != "" {
			v.Condition(at+".when", policy.Gate.When, policy.Known)
		}
		if policy.Gate.Mode != Off || policy.Name == "auth" {
			policy.value.Validate(at, v)
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

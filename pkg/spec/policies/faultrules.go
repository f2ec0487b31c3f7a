package policies

import (
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/keywarden/keywarden/pkg/header"
	"github.com/keywarden/keywarden/pkg/nearest"
	"github.com/keywarden/keywarden/pkg/spec/check"
	"github.com/keywarden/keywarden/pkg/spec/quantity"
	"github.com/keywarden/keywarden/pkg/template"
)

// FaultRules answer with words of one's own where something is refused or fails. The
// first rule that fits an error makes its answer; one that fits none is told as
// always (RFC 9457).
type FaultRules struct {
	Gate
	Rules []FaultRule `json:"rules,omitempty"`
}

// FaultRule is what becomes of some errors.
type FaultRule struct {
	If FaultMatch `json:"if"`

	// Status is that of the answer; without it, the error's.
	Status int `json:"status,omitempty"`

	// Headers are fields in addition to those that are there.
	Headers map[string]string `json:"headers,omitempty"`

	// Body is a text with values: request_id, code, status, title and route, such as
	// {{ request_id }}. They are escaped as ContentType asks for it.
	Body        string `json:"body"`
	ContentType string `json:"content_type"`
}

// FaultMatch says which errors are meant. All that is given has to fit.
type FaultMatch struct {
	// Codes are those of problems, such as gateway.rate_limited, or auth.* for all that
	// begin so.
	Codes []string `json:"codes,omitempty"`

	// Policies are the names of those that refuse.
	Policies []string `json:"policies,omitempty"`

	// Statuses are those of the answer, from 400 on.
	Statuses []quantity.StatusRange `json:"statuses,omitempty"`

	// From is who answers: the gateway, the service (or the route in its place), or
	// any of them.
	From string `json:"from" enum:"gateway,service,any"`
}

// Who answers with an error.
const (
	FaultFromGateway = "gateway"
	FaultFromService = "service"
	FaultFromAny     = "any"
)

// Bounds of fault rules.
const (
	maxFaultRules = 32
	maxFaultList  = 64
)

// Short says that a list is short for the rules.
func (*FaultRules) Short() string { return "rules" }

// SetDefaults fills in what a document need not say.
func (r *FaultRule) SetDefaults() { r.ContentType = "application/json" }

// SetDefaults fills in what a document need not say.
func (m *FaultMatch) SetDefaults() { m.From = FaultFromGateway }

// Normalise fills in what a rule without a condition does not say.
func (r *FaultRules) Normalise() {
	for i := range r.Rules {
		if r.Rules[i].If.From == "" {
			r.Rules[i].If.From = FaultFromGateway
		}
	}
}

func (r *FaultRules) Validate(path string, v *check.Checker) {
	if len(r.Rules) == 0 {
		v.Required(path + ".rules")
	}
	if len(r.Rules) > maxFaultRules {
		v.Fail(path+".rules", "must not be more than %d", maxFaultRules)
		return
	}
	for i := range r.Rules {
		r.Rules[i].validate(check.Index(path+".rules", i), v)
	}
}

func (r *FaultRule) validate(path string, v *check.Checker) {
	r.If.validate(path+".if", v)
	switch {
	case r.Status == 0:
	case r.Status < 200 || r.Status > 599:
		v.Fail(path+".status", "must be from 200 to 599")
	case r.Status == 204 || r.Status == 205 || r.Status == 304:
		v.Fail(path+".status", "an answer of this status has no body")
	}
	r.validateHeaders(path+".headers", v)
	if kind, ok := header.MediaType(r.ContentType); !ok || kind == "" || !header.IsValue(r.ContentType) {
		v.Fail(path+".content_type", "must be a media type, such as application/json")
		return
	}
	if _, err := template.ParseAnswer(r.ContentType, r.Body); err != nil {
		v.Fail(path+".body", "%s", err.Error())
	}
}

func (r *FaultRule) validateHeaders(path string, v *check.Checker) {
	if len(r.Headers) > check.MaxFields {
		v.Fail(path, "must not name more than %d fields", check.MaxFields)
		return
	}
	seen := map[string]bool{}
	for _, name := range slices.Sorted(maps.Keys(r.Headers)) {
		at, canonical := path+"."+name, http.CanonicalHeaderKey(name)
		switch {
		case header.CheckResponse(name) != nil:
			v.Fail(at, "%s", header.CheckResponse(name).Error())
			continue
		case FaultKeeps(canonical):
			v.Fail(at, "is what the error says of itself, and is kept")
			continue
		case canonical == "Content-Type":
			v.Fail(at, "is content_type")
			continue
		case seen[canonical]:
			v.Fail(at, "%s is named twice", canonical)
		}
		seen[canonical] = true
		v.FieldValue(at, r.Headers[name])
	}
}

// FaultKeeps reports whether a field, in canonical form, says what clients have to
// know of an error whatever its body is: no rule changes it.
func FaultKeeps(name string) bool {
	switch name {
	case "Retry-After", "Www-Authenticate", "Allow", "Ratelimit", "Ratelimit-Policy", "X-Request-Id":
		return true
	}
	return strings.HasPrefix(name, "X-Ratelimit-")
}

func (m *FaultMatch) validate(path string, v *check.Checker) {
	v.OneOf(path+".from", m.From, FaultFromGateway, FaultFromService, FaultFromAny)
	if m.From == FaultFromService && (m.Codes != nil || m.Policies != nil) {
		v.Fail(path+".from", "an answer of the service has neither code nor policy")
	}
	v.Distinct(path+".codes", m.Codes, maxFaultList, "the code of a problem, such as gateway.rate_limited, or auth.*", isFaultCode)
	v.Distinct(path+".policies", m.Policies, maxFaultList, "the name of a policy", func(string) bool { return true })
	names := Names()
	for i, name := range m.Policies {
		if !slices.Contains(names, name) {
			v.Fail(check.Index(path+".policies", i), "there is no such policy%s", nearest.Question(name, names))
		}
	}
	if m.Statuses != nil && len(m.Statuses) == 0 || len(m.Statuses) > maxFaultList {
		v.Fail(path+".statuses", "must name from 1 to %d; or remove it", maxFaultList)
		return
	}
	for i, s := range m.Statuses {
		if s.From < 400 || s.To > 599 {
			v.Fail(check.Index(path+".statuses", i), "must be within 400-599")
		}
	}
}

// isFaultCode reports whether s is area.reason or area.*.
func isFaultCode(s string) bool {
	area, reason, ok := strings.Cut(s, ".")
	word := func(s string) bool {
		return s != "" && strings.IndexFunc(s, func(c rune) bool { return (c < 'a' || c > 'z') && c != '_' && (c < '0' || c > '9') }) < 0
	}
	return len(s) <= check.MaxName && (s == "internal" || ok && word(area) && (reason == "*" || word(reason)))
}

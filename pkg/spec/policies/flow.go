package policies

import (
	"github.com/keywarden/keywarden/pkg/spec/check"
)

// Flow is the policies of a part of a route's requests. Of the flows of a route, the
// first whose condition holds is taken; what it says counts in place of what the route
// says of the same policy. The order in which policies are asked stays as it is.
type Flow struct {
	Name string `json:"name"`

	// When is an expression (CEL) over request and principal; without it, the flow is
	// that of all requests which no flow before it has taken. It is worked out once for
	// a request, before the first policy that a flow of the route has.
	When string `json:"when,omitempty"`

	Policies
}

// maxFlows bounds the flows of a route: conditions are worked out one by one.
const maxFlows = 32

// FlowHas reports whether flows can have a policy of this name: those that are asked
// once the caller is known. Who may call does not depend on the flow, and a cache is
// that of the whole route.
func FlowHas(name string) bool {
	switch name {
	case "log_fields", "concurrency", "rate_limit", "quota", "fault", "request_headers", "response_headers",
		"compress", "basic_auth", "timeout":
		return true
	}
	return false
}

// ValidateFlows checks the flows of a route.
func ValidateFlows(path string, flows []Flow, v *check.Checker) {
	if flows != nil && len(flows) == 0 {
		v.Fail(path, "must have at least one; or remove it")
	}
	if len(flows) > maxFlows {
		v.Fail(path, "must not be more than %d", maxFlows)
		return
	}
	names := make(check.Firsts, len(flows))
	for i := range flows {
		f, at := &flows[i], check.Index(path, i)
		v.Name(at, f.Name)
		names.Unique(v, at+".name", f.Name)
		switch {
		case f.When != "":
			v.Condition(at+".when", f.When, true)
		case i < len(flows)-1:
			v.Fail(at+".when", "is required: without a condition, only the last flow can be")
		}
		for _, p := range f.List() {
			if !FlowHas(p.Name) {
				v.Fail(at+"."+p.Name, "cannot be in a flow: it belongs to the route")
			}
		}
		f.Validate(at, v)
	}
}

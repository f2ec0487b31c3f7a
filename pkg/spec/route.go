package spec

import (
	"strings"

	"github.com/keywarden/keywarden/pkg/spec/check"
	"github.com/keywarden/keywarden/pkg/spec/policies"
)

// Route says which requests go to which service, and what they need for it.
type Route struct {
	Name  string `json:"name"`
	Match Match  `json:"match"`

	// Priority puts the route before all with a smaller one, however specific.
	Priority int `json:"priority,omitempty"`

	// One of these says what becomes of the request, or split, or versions.
	Service  string    `json:"service,omitempty"`
	Redirect *Redirect `json:"redirect,omitempty"`
	Respond  *Respond  `json:"respond,omitempty"`

	// StripPrefix is removed from the path before the request is forwarded. It is
	// the whole path of the match or a part of it that ends where a segment ends.
	StripPrefix string `json:"strip_prefix,omitempty"`

	// AllowEncodedSlashes takes paths with %2F, which are refused otherwise, and lets
	// the service see it as it was sent. It is a part of its segment for everything that
	// goes by the path. When the path with slashes in its place has another route, the
	// request is still refused.
	AllowEncodedSlashes bool `json:"allow_encoded_slashes,omitempty"`

	Traffic

	// Operation is what the policies validate and mock go by.
	Operation *Operation `json:"operation,omitempty"`

	// Use names policy sets, of which a later one wins over an earlier. What the
	// route itself says wins over them, and they win over the defaults.
	Use []string `json:"use,omitempty"`

	policies.Policies

	// Flows are policies for a part of the requests.
	Flows []policies.Flow `json:"flows,omitempty"`
}

func (r *Route) normalise() {
	for i := range r.Flows {
		r.Flows[i].Normalise()
	}
	r.Match.normalise()
	r.Normalise()
	r.Traffic.normalise()
	r.StripPrefix = check.NormalPrefix(r.StripPrefix)
}

func (r *Route) validate(path string, v *validator) {
	v.Name(path, r.Name)
	r.Match.validate(path+".match", v)
	v.Between(path+".priority", r.Priority, -maxRoutePriority, maxRoutePriority)
	r.validateEnd(path, v)
	r.validateStrip(path+".strip_prefix", v)
	r.validateTraffic(path, v)
	if r.AllowEncodedSlashes && r.Versions != nil && r.Versions.From.Path {
		// The service could read another version than the one that was chosen.
		v.Fail(path+".allow_encoded_slashes", "cannot be given together with versions that the path names")
	}
	r.Validate(path, &v.Checker)
	v.use(path+".use", r.Use)
	policies.ValidateFlows(path+".flows", r.Flows, &v.Checker)
}

// maxRoutePriority bounds priorities: each that is in use costs a search.
const maxRoutePriority = 1000

func (r *Route) validateStrip(path string, v *validator) {
	if r.StripPrefix == "" || !v.Path(path, r.StripPrefix, true) {
		return
	}
	if r.Match.Path.Regex != "" {
		v.Fail(path, "cannot be given together with a regular expression")
		return
	}
	if r.StripPrefix == "/" {
		v.Fail(path, "must name at least one segment")
		return
	}
	of := r.Match.Path.Exact + r.Match.Path.Prefix
	if of != r.StripPrefix && !strings.HasPrefix(of, r.StripPrefix+"/") {
		v.Fail(path, "must be the beginning of the path that the route matches, %s, and end where a segment ends", check.Quote(of))
	}
}

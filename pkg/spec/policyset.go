package spec

import (
	"slices"

	"github.com/keywarden/keywarden/pkg/nearest"
	"github.com/keywarden/keywarden/pkg/spec/check"
	"github.com/keywarden/keywarden/pkg/spec/policies"
)

// PolicySet is policies that routes use by name.
type PolicySet struct {
	Name string `json:"name"`
	policies.Policies
}

// Effective returns the policies that count for a route of the document: its own,
// those of the sets that it uses, and the defaults, without what is off. A route
// for which nobody says otherwise has to be authenticated for.
func (d *Document) Effective(r *Route) policies.Policies {
	p := r.Policies
	for _, name := range slices.Backward(r.Use) {
		if i := slices.IndexFunc(d.PolicySets, func(s PolicySet) bool { return s.Name == name }); i >= 0 {
			p = p.Over(&d.PolicySets[i].Policies)
		}
	}
	if d.Defaults != nil {
		p = p.Over(d.Defaults)
	}
	return p.Whole()
}

func (s *PolicySet) validate(path string, v *validator) {
	v.Name(path, s.Name)
	s.Validate(path, &v.Checker)
}

// maxUse bounds the policy sets of a route.
const maxUse = 16

// use checks the names of policy sets.
func (v *validator) use(path string, names []string) {
	v.Distinct(path, names, maxUse, "", func(name string) bool { return true })
	for i, name := range names {
		if name != "" && !slices.Contains(v.sets, name) {
			v.Fail(check.Index(path, i), "no policy set is named %s%s", check.Quote(name), nearest.Question(name, v.sets))
		}
	}
}

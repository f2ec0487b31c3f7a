package spec

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/keywarden/keywarden/pkg/canonical"
	"github.com/keywarden/keywarden/pkg/nearest"
	"github.com/keywarden/keywarden/pkg/strictyaml"
)

// maxName bounds the names of services and routes, which become labels of
// metrics, in bytes.
const maxName = 63

// maxTimeout bounds every timeout of the document.
const maxTimeout = Duration(24 * time.Hour)

// Validate returns nil when d keeps every rule, otherwise a *[Violations] with all
// that is wrong. Positions are known only to [Parse].
func (d Document) Validate() error {
	found := d.violations()
	return found.Report("")
}

func (d Document) violations() strictyaml.Collector {
	v := &validator{services: make(map[string]bool, len(d.Services)), expressions: map[string]compiled{}}
	if d.Version != Version {
		v.fail("version", "must be %d", Version)
	}
	if d.Defaults != nil {
		d.Defaults.validate("defaults", v)
	}
	sets := make(firsts, len(d.PolicySets))
	for i := range d.PolicySets {
		path := index("policy_sets", i)
		d.PolicySets[i].validate(path, v)
		sets.unique(v, path+".name", d.PolicySets[i].Name)
		v.sets = append(v.sets, d.PolicySets[i].Name)
	}
	for i := range d.Services {
		name := d.Services[i].Name
		if !v.services[name] {
			v.services[name] = true
			v.serviceNames = append(v.serviceNames, name)
		}
	}
	names := make(firsts, len(d.Services))
	for i := range d.Services {
		path := index("services", i)
		d.Services[i].validate(path, v)
		names.unique(v, path+".name", d.Services[i].Name)
	}
	names = make(firsts, len(d.Routes))
	for i := range d.Routes {
		path := index("routes", i)
		d.Routes[i].validate(path, v)
		names.unique(v, path+".name", d.Routes[i].Name)
	}
	v.conflicts(d.Routes)
	return v.Collector
}

// validator collects violations.
type validator struct {
	strictyaml.Collector
	services     map[string]bool
	serviceNames []string // in document order, for suggestions
	sets         []string // names of policy sets
	expressions  map[string]compiled
}

func (v *validator) fail(path, format string, args ...any) {
	v.Add(Violation{Place: Place{Path: path}, Detail: fmt.Sprintf(format, args...)})
}

func (v *validator) conflict(path, detail, with string) {
	v.Add(Violation{Place: Place{Path: path}, Detail: detail, Related: Place{Path: with}})
}

func (v *validator) required(path string) { v.fail(path, "is required") }

// name checks the name of an object whose path is given.
func (v *validator) name(object, name string) {
	switch {
	case name == "":
		v.required(object + ".name")
	case !isName(name):
		v.fail(object+".name", "must consist of at most %d letters, digits, dots, hyphens and underscores, and begin with a letter or digit", maxName)
	}
}

func isName(s string) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case i > 0 && (c == '.' || c == '-' || c == '_'):
		default:
			return false
		}
	}
	return s != "" && len(s) <= maxName
}

func (v *validator) timeout(path string, d Duration) {
	if d <= 0 || d > maxTimeout {
		v.fail(path, "must be above 0 and at most %s", time.Duration(maxTimeout))
	}
}

// optionalTimeout is timeout, where 0 is for none.
func (v *validator) optionalTimeout(path string, d Duration) {
	if d != 0 {
		v.timeout(path, d)
	}
}

// path checks an escaped path, as a prefix without its last slash, and reports
// whether it is good.
func (v *validator) path(at, value string, prefix bool) bool {
	_, escaped, err := canonicalPath(value)
	switch {
	case err != nil:
		v.fail(at, "%s", err.Error())
	case prefix && normalPrefix(value) != value, escaped != value:
		v.fail(at, "is not in its normal form, %s", normalPrefix(value))
	default:
		return true
	}
	return false
}

// canonicalPath is [canonical.Path] with an error that speaks of the document.
func canonicalPath(value string) (decoded, escaped string, err error) {
	decoded, escaped, err = canonical.Path(value)
	var reason canonical.Reason
	if errors.As(err, &reason) {
		return "", "", errText("is not an acceptable path: " + string(reason))
	}
	return decoded, escaped, err
}

func (v *validator) serviceName(path, name string) {
	switch {
	case name == "":
		v.required(path)
	case v.services[name]:
	case v.Full():
		v.fail(path, "no service has this name")
	default:
		v.fail(path, "no service is named %s%s", quote(name), nearest.Question(name, v.serviceNames))
	}
}

// firsts remembers by which object something was taken first.
type firsts map[string]string

// unique refuses a name that another object has.
func (f firsts) unique(v *validator, path, name string) {
	if name == "" {
		return
	}
	if first, taken := f[name]; taken {
		v.conflict(path, "the name is taken", first)
		return
	}
	f[name] = path
}

// conflicts refuses routes of which two would match the same request equally
// well: same host, path, method, conditions and priority.
func (v *validator) conflicts(routes []Route) {
	type claim struct {
		host, method, conditions string
		path                     PathMatch
		priority                 int
	}
	claims := make(map[claim]string, len(routes))
	for i := range routes {
		path, m := index("routes", i)+".match", &routes[i].Match
	route:
		for _, host := range orAny(m.Hosts) {
			for _, method := range orAny(m.Methods) {
				c := claim{host, method, m.conditions(), m.Path, routes[i].Priority}
				if first, taken := claims[c]; taken {
					if first != path {
						v.conflict(path, "matches the same requests as another route", first)
					}
					break route
				}
				claims[c] = path
			}
		}
	}
}

// conditions is the same for the same demands in any order.
func (m *Match) conditions() string {
	var list []string
	for _, c := range m.Headers {
		list = append(list, fmt.Sprintf("header %q", c))
	}
	for _, c := range m.Query {
		list = append(list, fmt.Sprintf("query %q", c))
	}
	slices.Sort(list)
	return strings.Join(list, " ")
}

// orAny stands for "every one" with an empty string.
func orAny(list []string) []string {
	if len(list) == 0 {
		return []string{""}
	}
	return list
}

func index(path string, i int) string { return strictyaml.Index(path, i) }

func quote(value string) string { return strictyaml.Quote(value) }

// errText is an error whose text is a detail.
type errText string

func (e errText) Error() string { return string(e) }

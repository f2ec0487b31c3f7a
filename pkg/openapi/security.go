package openapi

import (
	"slices"
	"strings"

	"github.com/keywarden/keywarden/pkg/strictyaml"
)

// schemes reads the ways to authenticate.
func (r *reader) schemes(list at, dialect Dialect) map[string]Scheme {
	types := []string{"apiKey", "http", "oauth2", "openIdConnect"}
	switch dialect {
	case Dialect20:
		types = []string{"apiKey", "basic", "oauth2"}
	case Dialect31:
		types = append(types, "mutualTLS")
	case Dialect30:
	}
	schemes := map[string]Scheme{}
	for _, e := range r.entries(list) {
		if strings.HasPrefix(e.name, "x-") {
			continue
		}
		of := r.follow(e.value)
		if !of.there() {
			continue
		}
		s := Scheme{Place: e.at().place(), Name: e.name, Type: r.text(of.field("type"))}
		switch {
		case !slices.Contains(types, s.Type):
			r.fail(e.at(), "type is %s, must be one of %s%s", strictyaml.Quote(s.Type), strings.Join(types, ", "), question(s.Type, types))
			continue
		case s.Type == "apiKey":
			s.In, s.Key = r.text(of.field("in")), r.text(of.field("name"))
			if !slices.Contains([]string{"header", "query", "cookie"}, s.In) || s.Key == "" {
				r.fail(e.at(), "in must be header, query or cookie, and name say what the key is called there")
			}
		case s.Type == "http":
			s.HTTP = strings.ToLower(r.text(of.field("scheme")))
		}
		for _, name := range []string{"x-google-issuer", "x-google-jwks_uri", "x-google-audiences", "x-google-jwt-locations"} {
			if x := of.field(name); x.there() {
				r.note(x, "is not used: tokens are those that this platform issues")
			}
		}
		schemes[e.name] = s
	}
	return schemes
}

// security reads alternatives; nil where there is nothing. A scheme that does not
// exist is wrong: without it nobody knows what was meant to guard the operation.
func (r *reader) security(list at, schemes map[string]Scheme) *Security {
	if !list.there() {
		return nil
	}
	items := r.items(list)
	s := &Security{Place: list.place(), Any: make([]Requirement, 0, len(items))}
	if len(items) > maxAlternates {
		r.fail(list, "must not name more than %d alternatives", maxAlternates)
		return s
	}
	for _, item := range items {
		requirement := Requirement{Place: item.place()}
		needs := r.entries(item)
		if len(needs) > maxAlternates {
			r.fail(item, "must not name more than %d schemes", maxAlternates)
			continue
		}
		for _, e := range needs {
			need := Need{Place: e.at().place(), Scheme: e.name}
			if _, known := schemes[e.name]; !known {
				var names []string
				for name := range schemes {
					names = append(names, name)
				}
				slices.Sort(names)
				r.fail(e.at(), "no security scheme is named %s%s", strictyaml.Quote(e.name), question(e.name, names))
			}
			for _, scope := range r.items(e.value) {
				need.Scopes = append(need.Scopes, r.text(scope))
			}
			requirement.All = append(requirement.All, need)
		}
		s.Any = append(s.Any, requirement)
	}
	return s
}

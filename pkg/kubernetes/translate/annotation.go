package translate

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/keywarden/keywarden/pkg/kubernetes/object"
	"github.com/keywarden/keywarden/pkg/kubernetes/precedence"
	"github.com/keywarden/keywarden/pkg/nearest"
)

// AnnotationPrefix begins the annotations that are policies. One that is not known is
// refused with its object: a misspelt demand must not be no demand.
const AnnotationPrefix = "keywarden.io/"

// setting turns the value of an annotation into a policy of a route.
type setting func(value string, at place) (policy string, config any, err error)

// place is what a setting depends on.
type place struct {
	anonymous bool   // callers need no credential
	object    string // a name for the object
}

// settings are the annotations, without their prefix. Values are checked by package
// spec, where they are not taken apart here.
func settings() map[string]setting {
	plain := func(policy string) setting {
		return func(value string, _ place) (string, any, error) { return policy, value, nil }
	}
	return map[string]setting{
		"timeout":  plain("timeout"),
		"max-body": plain("max_body"),
		"cache": func(value string, _ place) (string, any, error) {
			return "cache", fields{"default_ttl": value}, nil
		},
		"allow-ips": func(value string, _ place) (string, any, error) { return "allow_ips", list(value), nil },
		"rate-limit": func(value string, at place) (string, any, error) {
			return "rate_limit", []fields{{"name": at.object, "by": at.subject(), "rate": value, "shared": true}}, nil
		},
		"quota": func(value string, at place) (string, any, error) {
			units, period, _ := strings.Cut(value, "/")
			n, err := strconv.ParseInt(units, 10, 64)
			if err != nil || period == "" {
				return "", nil, fmt.Errorf("must be units and period, such as 10000/day")
			}
			return "quota", []fields{{"name": at.object, "by": at.subject(), "limit": n, "period": period, "shared": true}}, nil
		},
	}
}

// subject is whom limits count for: the user behind a credential, or, where there need
// not be one, the address.
func (p place) subject() string {
	if p.anonymous {
		return "address"
	}
	return "user"
}

// list takes a list apart.
func list(value string) []string {
	return strings.FieldsFunc(value, func(r rune) bool { return r == ',' || r == ' ' || r == '\n' })
}

// policiesOf are the policies that the annotations of an object ask for, as fields of a
// route. Without any, routes ask for a credential, as all do.
func policiesOf(kind string, meta *object.Meta) (fields, error) {
	annotations := meta.Annotations
	auth, at := fields{}, place{object: precedence.Name(strings.ToLower(kind), meta.Namespace, meta.Name)}
	known, out := settings(), fields{}
	for _, full := range slices.Sorted(maps.Keys(annotations)) {
		name, ours := strings.CutPrefix(full, AnnotationPrefix)
		if !ours {
			continue
		}
		value := strings.TrimSpace(annotations[full])
		switch name {
		case "auth":
			auth["mode"] = value
			at.anonymous = value == "none" || value == "off" || value == "optional" || value == "shadow"
		case "auth-methods":
			auth["methods"] = list(value)
		case "scopes", "roles":
			auth[name] = list(value)
		default:
			if known[name] == nil {
				names := append(slices.Sorted(maps.Keys(known)), "auth", "auth-methods", "roles", "scopes")
				return nil, fmt.Errorf("the annotation %s is not known%s", full, nearest.Question(name, names))
			}
		}
	}
	if len(auth) > 0 {
		out["auth"] = auth
	}
	for name, set := range known {
		value, given := annotations[AnnotationPrefix+name]
		if !given {
			continue
		}
		policy, config, err := set(strings.TrimSpace(value), at)
		if err != nil {
			return nil, fmt.Errorf("the annotation %s%s %w", AnnotationPrefix, name, err)
		}
		out[policy] = config
	}
	return out, nil
}

package imports

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/keywarden/keywarden/pkg/openapi"
	"github.com/keywarden/keywarden/pkg/openapi/compile"
	"github.com/keywarden/keywarden/pkg/spec"
	"github.com/keywarden/keywarden/pkg/spec/policies"
)

// compare says what clients would notice, by as much as is known of the API before.
func (d *Description) compare(before, after spec.Document) (Basis, []openapi.Change) {
	i := slices.IndexFunc(before.APIs, func(a spec.API) bool { return a.Name == d.API && a.OpenAPI != "" })
	if i >= 0 {
		if old, err := openapi.Parse("", []byte(before.APIs[i].OpenAPI)); err == nil {
			return ByDescription, append(openapi.Compare(old, d.doc), hosts(before, after, d.API)...)
		}
	}
	if !slices.ContainsFunc(before.Routes, func(r spec.Route) bool { return compile.Owns(d.API, r.Name) }) {
		return ByNothing, openapi.Compare(&openapi.Document{}, d.doc)
	}
	return ByRoutes, routes(before, after, d.API)
}

// opening is what a route opens to clients.
type opening struct {
	title string // method and path
	auth  policies.Auth
}

// opened are the routes of the API by what they match: their names tell clients
// nothing.
func opened(doc spec.Document, api string) map[string]opening {
	all := map[string]opening{}
	for i := range doc.Routes {
		r := &doc.Routes[i]
		if !compile.Owns(api, r.Name) {
			continue
		}
		auth := *doc.Effective(r).Auth
		methods := r.Match.Methods
		if len(methods) == 0 {
			methods = []string{"*"}
		}
		for _, method := range methods {
			for _, host := range hostsOf(r) {
				title := method + " " + host + pathOf(r.Match.Path)
				all[fmt.Sprint(title, r.Match.Headers, r.Match.Query)] = opening{title, auth}
			}
		}
	}
	return all
}

// hostsOf are the hosts that a route is at; an empty one stands for every host.
func hostsOf(r *spec.Route) []string {
	if len(r.Match.Hosts) == 0 {
		return []string{""}
	}
	return r.Match.Hosts
}

// hosts tells where the API is not to be found any more, which descriptions do not
// say.
func hosts(before, after spec.Document, api string) []openapi.Change {
	all := func(doc spec.Document) (list []string) {
		for i := range doc.Routes {
			if r := &doc.Routes[i]; compile.Owns(api, r.Name) {
				list = append(list, hostsOf(r)...)
			}
		}
		slices.Sort(list)
		return slices.Compact(list)
	}
	now := all(after)
	if slices.Contains(now, "") {
		return nil
	}
	var list []openapi.Change
	for _, host := range all(before) {
		if !slices.Contains(now, host) {
			list = append(list, openapi.Change{Kind: openapi.Removed, Operation: "* " + cmp.Or(host, "*"), Detail: "the API is not at this host any more", Breaking: true})
		}
	}
	return list
}

// pathOf is what a route matches, for a person.
func pathOf(p spec.PathMatch) string {
	switch {
	case p.Regex != "":
		return p.Regex
	case p.Exact != "":
		return p.Exact
	}
	return strings.TrimSuffix(p.Prefix, "/") + "/*"
}

// routes compares by the routes alone: which there are, and who may pass.
func routes(before, after spec.Document, api string) []openapi.Change {
	old, now := opened(before, api), opened(after, api)
	var list []openapi.Change
	for key, was := range old {
		is, kept := now[key]
		if !kept {
			list = append(list, openapi.Change{Kind: openapi.Removed, Operation: was.title, Breaking: true})
			continue
		}
		switch {
		case !admits(is.auth, was.auth):
			list = append(list, openapi.Change{Kind: openapi.Changed, Operation: is.title, Detail: "security is stricter", Breaking: true})
		case !admits(was.auth, is.auth):
			list = append(list, openapi.Change{Kind: openapi.Changed, Operation: is.title, Detail: "security is looser"})
		}
	}
	for key, is := range now {
		if _, known := old[key]; !known {
			list = append(list, openapi.Change{Kind: openapi.Added, Operation: is.title})
		}
	}
	slices.SortFunc(list, func(x, y openapi.Change) int {
		methodX, pathX, _ := strings.Cut(x.Operation, " ")
		methodY, pathY, _ := strings.Cut(y.Operation, " ")
		return cmp.Or(strings.Compare(pathX, pathY), strings.Compare(methodX, methodY), strings.Compare(x.Detail, y.Detail))
	})
	return list
}

// admits reports whether everybody whom was lets pass is also let pass by a. What
// counts under a condition is taken to count always, for a, and never, for was.
func admits(a, was policies.Auth) bool {
	switch {
	case everybody(a.Mode):
		return true
	case everybody(was.Mode), was.When != "" && was.When != a.When:
		return false
	case a.Mode == policies.AuthRequired && was.Mode != policies.AuthRequired:
		return false
	}
	all := func(in, of []string) bool {
		return !slices.ContainsFunc(of, func(s string) bool { return !slices.Contains(in, s) })
	}
	if slices.ContainsFunc(was.Methods, func(m policies.AuthMethod) bool { return !slices.Contains(a.Methods, m) }) {
		return false
	}
	if len(a.Roles) > 0 && (len(was.Roles) == 0 || !all(a.Roles, was.Roles)) {
		return false
	}
	return all(was.Scopes, a.Scopes)
}

// everybody reports whether a mode refuses nobody.
func everybody(m policies.AuthMode) bool {
	return m == policies.AuthNone || m == policies.AuthShadow
}

package match_test

import (
	"cmp"
	"fmt"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/keywarden/keywarden/pkg/gateway/match"
)

func request(target string, headers ...string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, target, nil)
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Add(headers[i], headers[i+1])
	}
	return r
}

func TestConditionsPriorityWildcardsAndPatterns(t *testing.T) {
	v2 := []match.Condition{{Source: match.Header, Name: "X-Version", Value: "2"}}
	x := build(t,
		match.Rule[string]{Path: "/api", Value: "api"},
		match.Rule[string]{Path: "/api", Conditions: v2, Value: "api v2"},
		match.Rule[string]{Path: "/api", Conditions: append([]match.Condition{{Source: match.Query, Name: "beta", Present: true}}, v2...), Value: "api v2 beta"},
		match.Rule[string]{Path: "/api/only", Conditions: v2, Value: "only v2"},
		match.Rule[string]{Path: "/api/only", Conditions: v2, Methods: []string{"PUT"}, Value: "only v2 put"},
		match.Rule[string]{Path: "/api/put", Conditions: v2, Methods: []string{"PUT"}, Value: "put"},
		match.Rule[string]{Pattern: regexp.MustCompile(`^(?:/api/v[0-9]+/users)$`), Value: "pattern"},
		match.Rule[string]{Path: "/api/v1", Value: "prefix v1"},
		match.Rule[string]{Path: "/api/v1/users", Exact: true, Methods: []string{"DELETE"}, Value: "exact delete"},
		match.Rule[string]{Hosts: []string{"*.example.com"}, Path: "/", Value: "wild"},
		match.Rule[string]{Hosts: []string{"*.eu.example.com"}, Path: "/", Value: "wild eu"},
		match.Rule[string]{Hosts: []string{"www.example.com"}, Path: "/x", Value: "named"},
		match.Rule[string]{Path: "/maintenance", Priority: 10, Value: "maintenance"},
		match.Rule[string]{Path: "/", Priority: 20, Conditions: []match.Condition{{Source: match.Header, Name: "X-Debug", Pattern: regexp.MustCompile(`^(?:on|yes)$`)}}, Value: "debug"},
	)
	for _, c := range []struct {
		host, method, want string
		r                  *http.Request
	}{
		{"x", "GET", "api", request("/api/1")},
		{"x", "GET", "api v2", request("/api/1", "X-Version", "2")},
		{"x", "GET", "api v2", request("/api/1", "X-Version", "1", "X-Version", "2")},
		{"x", "GET", "api v2 beta", request("/api/1?beta", "X-Version", "2")},
		{"x", "GET", "api", request("/api/1?beta=1")},
		{"x", "GET", "api", request("/api/only")},
		{"x", "GET", "only v2", request("/api/only", "X-Version", "2")},
		{"x", "PUT", "only v2 put", request("/api/only", "X-Version", "2")},
		{"x", "GET", "405 PUT", request("/api/put", "X-Version", "2")},
		{"x", "GET", "api", request("/api/put")},
		{"x", "GET", "pattern", request("/api/v7/users")},
		{"x", "GET", "405 DELETE", request("/api/v1/users")},
		{"x", "GET", "prefix v1", request("/api/v1/users/7")},
		{"x", "GET", "api", request("/api/vx/users")},
		{"a.example.com", "GET", "wild", request("/api")},
		{"a.b.example.com", "GET", "wild", request("/")},
		{"a.eu.example.com", "GET", "wild eu", request("/")},
		{"example.com", "GET", "404", request("/")},
		{"www.example.com", "GET", "named", request("/x")},
		{"www.example.com", "GET", "wild", request("/y")},
		{"a.example.com", "GET", "maintenance", request("/maintenance")},
		{"x", "GET", "debug", request("/api/1", "X-Debug", "on")},
		{"x", "GET", "api", request("/api/1", "X-Debug", "one")},
	} {
		if got := describe(x.Lookup(c.host, c.r.URL.Path, c.method, c.r)); got != c.want {
			t.Errorf("%s %s%s %v: got %s, want %s", c.method, c.host, c.r.URL, c.r.Header, got, c.want)
		}
	}
}

func TestNewRefusesTheSameConditionsTwice(t *testing.T) {
	a := match.Condition{Source: match.Header, Name: "A", Value: "1"}
	b := match.Condition{Source: match.Query, Name: "b", Present: true}
	_, err := match.New([]match.Rule[string]{
		{Path: "/x", Conditions: []match.Condition{a, b}}, {Path: "/x", Conditions: []match.Condition{b, a}},
	})
	if err == nil {
		t.Error("accepted")
	}
	_, err = match.New([]match.Rule[string]{{Path: "/x", Conditions: []match.Condition{a}}, {Path: "/x", Conditions: []match.Condition{b}}, {Path: "/x", Priority: 1}})
	if err != nil {
		t.Errorf("different conditions or priorities: %v", err)
	}
}

// TestLookupAgreesWithTheDefinition compares the index with what the package
// comment says, as a search over all rules.
func TestLookupAgreesWithTheDefinition(t *testing.T) {
	segment := rapid.SampledFrom([]string{"a", "b"})
	path := rapid.Custom(func(t *rapid.T) string {
		return "/" + strings.Join(rapid.SliceOfN(segment, 0, 3).Draw(t, "segments"), "/")
	})
	host := rapid.SampledFrom([]string{"", "h.test", "*.test", "*.x.test"})
	method := rapid.SampledFrom([]string{"", "GET", "PUT"})
	condition := rapid.SampledFrom([]match.Condition{
		{Source: match.Header, Name: "A", Value: "1"}, {Source: match.Header, Name: "B", Present: true}, {Source: match.Query, Name: "q", Value: "1"},
	})
	rapid.Check(t, func(t *rapid.T) {
		var rules []match.Rule[string]
		for i := range rapid.IntRange(0, 14).Draw(t, "rules") {
			r := match.Rule[string]{Path: path.Draw(t, "path"), Priority: rapid.IntRange(0, 1).Draw(t, "priority"), Value: fmt.Sprint("rule ", i)}
			switch rapid.IntRange(0, 3).Draw(t, "kind") {
			case 0:
				r.Exact = true
			case 1:
				r.Pattern = regexp.MustCompile("^(?:" + r.Path + ")$")
			}
			if h := host.Draw(t, "host"); h != "" {
				r.Hosts = []string{h}
			}
			if m := method.Draw(t, "method"); m != "" {
				r.Methods = []string{m}
			}
			r.Conditions = rapid.SliceOfNDistinct(condition, 0, 2, func(c match.Condition) string { return c.Name }).Draw(t, "conditions")
			if _, err := match.New(append(slices.Clone(rules), r)); err == nil {
				rules = append(rules, r)
			}
		}
		x, err := match.New(rules)
		if err != nil {
			t.Fatal(err)
		}
		for range 10 {
			h := rapid.SampledFrom([]string{"h.test", "a.x.test", "other"}).Draw(t, "of host")
			target := path.Draw(t, "of path") + rapid.SampledFrom([]string{"", "?q=1"}).Draw(t, "query")
			var headers []string
			for _, name := range []string{"A", "B"} {
				if rapid.Bool().Draw(t, name) {
					headers = append(headers, name, "1")
				}
			}
			r, m := request(target, headers...), rapid.SampledFrom([]string{"GET", "PUT", "POST"}).Draw(t, "of method")
			got, want := x.Lookup(h, r.URL.Path, m, r), define(rules, h, m, r)
			if got.Found != want.Found || got.Value != want.Value || (got.Allow != "") != (want.Allow != "") {
				t.Fatalf("%s %s%s %v: got %+v, want %+v\nrules %+v", m, h, target, headers, got, want, rules)
			}
		}
	})
}

// firstLike is the place of the first rule for the same path, host and priority
// that has the same conditions.
func firstLike(rules []match.Rule[string], rule match.Rule[string]) int {
	names := func(r match.Rule[string]) []string {
		var list []string
		for _, c := range r.Conditions {
			list = append(list, c.Name)
		}
		slices.Sort(list)
		return list
	}
	return slices.IndexFunc(rules, func(o match.Rule[string]) bool {
		return o.Priority == rule.Priority && o.Path == rule.Path && o.Exact == rule.Exact && (o.Pattern == nil) == (rule.Pattern == nil) &&
			slices.Equal(o.Hosts, rule.Hosts) && slices.Equal(names(o), names(rule))
	})
}

// define is the slow and obvious matcher.
func define(rules []match.Rule[string], host, method string, r *http.Request) match.Result[string] {
	type ranked struct {
		match.Rule[string]
		rank [5]int // priority, host, path, number of conditions, place of the first with the same
	}
	var candidates []ranked
	for i, rule := range rules {
		rank := [5]int{rule.Priority, 0, 0, len(rule.Conditions), -firstLike(rules, rule)}
		if len(rule.Hosts) > 0 {
			suffix, wild := strings.CutPrefix(rule.Hosts[0], "*")
			if wild && !strings.HasSuffix(host, suffix) || !wild && host != rule.Hosts[0] {
				continue
			}
			rank[1] = len(suffix)
			if !wild {
				rank[1] = 1000
			}
		}
		switch {
		case rule.Pattern != nil:
			// The first of several patterns decides.
			first := slices.IndexFunc(rules, func(o match.Rule[string]) bool {
				return o.Pattern != nil && o.Pattern.String() == rule.Pattern.String() && o.Priority == rule.Priority && slices.Equal(o.Hosts, rule.Hosts)
			})
			if !rule.Pattern.MatchString(r.URL.Path) {
				continue
			}
			rank[2] = 1_000_000 - first
		case rule.Exact:
			if rule.Path != r.URL.Path {
				continue
			}
			rank[2] = 2_000_000
		default:
			if rule.Path != "/" && rule.Path != r.URL.Path && !strings.HasPrefix(r.URL.Path, rule.Path+"/") {
				continue
			}
			rank[2] = len(strings.Trim(rule.Path, "/"))
		}
		holds := true
		for _, c := range rule.Conditions {
			values := r.Header[c.Name]
			if c.Source == match.Query {
				values = r.URL.Query()[c.Name]
			}
			holds = holds && (c.Present && len(values) > 0 || !c.Present && slices.Contains(values, c.Value))
		}
		if holds {
			candidates = append(candidates, ranked{rules[i], rank})
		}
	}
	slices.SortStableFunc(candidates, func(a, b ranked) int {
		return cmp.Or(slices.Compare(b.rank[:], a.rank[:]), cmp.Compare(len(b.Methods), len(a.Methods)))
	})
	allow := false
	for len(candidates) > 0 {
		top := candidates[0].rank
		for _, c := range candidates {
			if c.rank[0] == top[0] && c.rank[1] == top[1] && c.rank[2] == top[2] && (len(c.Methods) == 0 || c.Methods[0] == method) {
				return match.Result[string]{Value: c.Value, Found: true}
			}
		}
		allow = true
		candidates = slices.DeleteFunc(candidates, func(c ranked) bool { return c.rank[0] == top[0] })
	}
	if allow {
		return match.Result[string]{Allow: "some"}
	}
	return match.Result[string]{}
}

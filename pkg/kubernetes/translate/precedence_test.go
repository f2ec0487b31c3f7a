package translate_test

import (
	"cmp"
	"fmt"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/keywarden/keywarden/pkg/gateway/match"
	"github.com/keywarden/keywarden/pkg/kubernetes/object"
	"github.com/keywarden/keywarden/pkg/kubernetes/translate"
	"github.com/keywarden/keywarden/pkg/spec"
)

// asked is a request.
type asked struct {
	host, path, method string
	headers, query     map[string]string
}

// candidate is one match of one route, at one of its hosts.
type candidate struct {
	route, host        string
	rule, match        int
	created            time.Time
	exact              bool
	path, method       string
	headers, query     []object.ValueMatch
	hostLevel, hostLen int
}

// expected is the route that the Gateway API gives a request to, by the words of its
// specification; empty when there is none.
func expected(all []candidate, r asked) string {
	var fit []candidate
	for _, c := range all {
		suffix, wild := strings.CutPrefix(c.host, "*")
		switch {
		case c.host == "":
		case wild && strings.HasSuffix(r.host, suffix) && len(r.host) > len(suffix):
			c.hostLevel, c.hostLen = 1, len(c.host)
		case c.host == r.host:
			c.hostLevel, c.hostLen = 2, len(c.host)
		default:
			continue
		}
		inside := c.path == "/" || r.path == c.path || strings.HasPrefix(r.path, c.path+"/")
		if c.exact && r.path != c.path || !c.exact && !inside || c.method != "" && c.method != r.method {
			continue
		}
		if holds(c.headers, r.headers) && holds(c.query, r.query) {
			fit = append(fit, c)
		}
	}
	if len(fit) == 0 {
		return ""
	}
	first := slices.MinFunc(fit, func(a, b candidate) int {
		return cmp.Or(
			cmp.Compare(b.hostLevel, a.hostLevel), cmp.Compare(b.hostLen, a.hostLen),
			cmp.Compare(number(b.exact), number(a.exact)), cmp.Compare(len(b.path), len(a.path)),
			cmp.Compare(number(b.method != ""), number(a.method != "")),
			cmp.Compare(len(b.headers), len(a.headers)), cmp.Compare(len(b.query), len(a.query)),
			a.created.Compare(b.created), strings.Compare(a.route, b.route), cmp.Compare(a.rule, b.rule), cmp.Compare(a.match, b.match),
		)
	})
	return fmt.Sprintf("httproute.shop.%s.%d.%d", first.route, first.rule, first.match)
}

func number(b bool) int {
	if b {
		return 1
	}
	return 0
}

func holds(list []object.ValueMatch, values map[string]string) bool {
	for _, m := range list {
		if values[m.Name] != m.Value {
			return false
		}
	}
	return true
}

// fataler is what index needs of a test.
type fataler interface {
	Fatalf(format string, args ...any)
}

// index is the document as the gateway looks it up.
func index(t fataler, doc spec.Document) *match.Index[string] {
	var rules []match.Rule[string]
	for _, r := range doc.Routes {
		rule := match.Rule[string]{
			Hosts: r.Match.Hosts, Path: r.Match.Path.Exact + r.Match.Path.Prefix, Exact: r.Match.Path.Exact != "",
			Methods: r.Match.Methods, Value: r.Name,
		}
		for _, m := range r.Match.Headers {
			rule.Conditions = append(rule.Conditions, match.Condition{Source: match.Header, Name: m.Name, Value: m.Value})
		}
		for _, m := range r.Match.Query {
			rule.Conditions = append(rule.Conditions, match.Condition{Source: match.Query, Name: m.Name, Value: m.Value})
		}
		rules = append(rules, rule)
	}
	x, err := match.New(rules)
	if err != nil {
		t.Fatalf("the document has no index: %v", err)
	}
	return x
}

// TestPrecedenceIsThatOfTheGatewayAPI compares what the gateway chooses with the rules
// of the specification, for routes of all kinds but regular expressions.
func TestPrecedenceIsThatOfTheGatewayAPI(t *testing.T) {
	translator := translate.New()
	hosts := []string{"", "*.example.com", "a.example.com"}
	paths := []string{"/", "/a", "/a/b"}
	methods := []string{"", "GET", "POST"}
	values := func(t *rapid.T, label string, names ...string) (list []object.ValueMatch) {
		for _, n := range names {
			if v := rapid.SampledFrom([]string{"", "", "1", "2"}).Draw(t, label+n); v != "" {
				list = append(list, object.ValueMatch{Name: n, Value: v})
			}
		}
		return list
	}
	rapid.Check(t, func(t *rapid.T) {
		all := read(t, []byte(fixture))
		var candidates []candidate
		for i := range rapid.IntRange(1, 4).Draw(t, "routes") {
			r := &object.HTTPRoute{}
			r.Metadata.Name, r.Metadata.Namespace = fmt.Sprintf("r%d", i), "shop"
			r.Metadata.CreationTimestamp = now.Add(time.Duration(rapid.IntRange(0, 2).Draw(t, "age")) * time.Hour)
			host := rapid.SampledFrom(hosts).Draw(t, "host")
			if host != "" {
				r.Spec.Hostnames = []string{host}
			}
			r.Spec.ParentRefs = []object.ParentRef{{Name: "main"}}
			for k := range rapid.IntRange(1, 3).Draw(t, "rules") {
				kind, port := rapid.SampledFrom([]string{"Exact", "PathPrefix"}).Draw(t, "kind"), 80
				path, method := rapid.SampledFrom(paths).Draw(t, "path"), rapid.SampledFrom(methods).Draw(t, "method")
				m := object.HTTPRouteMatch{Headers: values(t, "header", "X", "Y"), QueryParams: values(t, "query", "q")}
				m.Path = &struct {
					Type  *string `json:"type,omitempty"`
					Value *string `json:"value,omitempty"`
				}{&kind, &path}
				if method != "" {
					m.Method = &method
				}
				rule := object.HTTPRouteRule{Matches: []object.HTTPRouteMatch{m}}
				rule.BackendRefs = []object.BackendRef{{Reference: object.Reference{Name: "web", Port: &port}}}
				r.Spec.Rules = append(r.Spec.Rules, rule)
				candidates = append(candidates, candidate{
					route: r.Metadata.Name, host: host, rule: k, created: r.Metadata.CreationTimestamp,
					exact: kind == "Exact", path: path, method: method, headers: m.Headers, query: m.QueryParams,
				})
			}
			all.HTTPRoutes = append(all.HTTPRoutes, r)
		}
		doc := translator.Translate(all, options(), now).Document
		if err := doc.Validate(); err != nil {
			t.Fatalf("the document is not valid: %v", err)
		}
		x := index(t, doc)
		for range 20 {
			r := asked{
				host: rapid.SampledFrom([]string{"a.example.com", "b.example.com", "example.org"}).Draw(t, "asked host"),
				path: rapid.SampledFrom([]string{"/", "/a", "/a/b", "/a/b/c", "/ab"}).Draw(t, "asked path"), method: rapid.SampledFrom([]string{"GET", "POST", "PUT"}).Draw(t, "asked method"),
				headers: map[string]string{}, query: map[string]string{},
			}
			request := httptest.NewRequest(r.method, "http://"+r.host+r.path, nil)
			query := request.URL.Query()
			for name, v := range map[string]string{
				"X": rapid.SampledFrom([]string{"", "1", "2"}).Draw(t, "X"), "Y": rapid.SampledFrom([]string{"", "1", "2"}).Draw(t, "Y"),
			} {
				if v != "" {
					r.headers[name] = v
					request.Header.Set(name, v)
				}
			}
			if v := rapid.SampledFrom([]string{"", "1", "2"}).Draw(t, "q"); v != "" {
				r.query["q"] = v
				query.Set("q", v)
			}
			request.URL.RawQuery = query.Encode()
			got := x.Lookup(r.host, r.path, r.method, request).Value
			want := expected(candidates, r)
			if got != want && (want == "" || !strings.HasPrefix(got, want)) {
				t.Fatalf("%+v: got %q, want %q of\n%s", r, got, want, asYAML(t, doc.Routes))
			}
		}
	})
}

// fixture is a Gateway with a service.
const fixture = `
kind: GatewayClass
metadata: {name: keywarden}
spec: {controllerName: keywarden.io/gateway-controller}
---
kind: Gateway
metadata: {name: main, namespace: shop}
spec: {gatewayClassName: keywarden, listeners: [{name: http, port: 80, protocol: HTTP}]}
---
kind: Service
metadata: {name: web, namespace: shop}
spec: {ports: [{name: http, port: 80}]}
`

package translate_test

import (
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/keywarden/keywarden/pkg/canonical"
	"github.com/keywarden/keywarden/pkg/kubernetes/translate"
	"github.com/keywarden/keywarden/pkg/spec"
)

// classes choose the gateway; the gateway takes routes of all namespaces.
const classes = `
kind: IngressClass
metadata: {name: keywarden}
spec: {controller: keywarden.io/gateway-controller}
---
kind: GatewayClass
metadata: {name: keywarden}
spec: {controllerName: keywarden.io/gateway-controller}
---
kind: Gateway
metadata: {name: main, namespace: shop}
spec: {gatewayClassName: keywarden, listeners: [{name: http, port: 80, protocol: HTTP, allowedRoutes: {namespaces: {from: All}}}]}
---
kind: Service
metadata: {name: web, namespace: shop}
spec: {ports: [{name: http, port: 80}]}
---
kind: Service
metadata: {name: web, namespace: evil}
spec: {ports: [{name: http, port: 80}]}
---
kind: Ingress
metadata: {name: good, namespace: shop, creationTimestamp: 2026-01-01T00:00:00Z}
spec:
  ingressClassName: keywarden
  rules: [{host: shop.example.com, http: {paths: [{path: /orders, pathType: Prefix, backend: {service: {name: web, port: {name: http}}}}]}}]
---
`

// ingressOf is an Ingress of a stranger.
func ingressOf(annotations, host, path string) string {
	return fmt.Sprintf(`kind: Ingress
metadata: {name: x, namespace: evil, annotations: {%s}}
spec:
  ingressClassName: keywarden
  rules: [{host: %q, http: {paths: [{path: %q, pathType: Prefix, backend: {service: {name: web, port: {name: http}}}}]}}]
`, annotations, host, path)
}

// httpRouteOf is an HTTPRoute of a stranger; rule is the inside of its rule.
func httpRouteOf(rule string) string {
	return `kind: HTTPRoute
metadata: {name: x, namespace: evil}
spec:
  parentRefs: [{name: main, namespace: shop}]
  hostnames: [evil.example.com]
  rules: [{` + rule + `}]
`
}

const toWeb = "backendRefs: [{name: web, port: 80}]"

// An object that asks for what it must not have is refused as a whole, with a reason, and
// those of others are served as before.
func TestHostileObjectsAreRefusedAlone(t *testing.T) {
	header := func(name, value string) string {
		return httpRouteOf(fmt.Sprintf("filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: %q, value: %q}]}}], %s", name, value, toWeb))
	}
	var paths strings.Builder
	for i := range 5000 {
		fmt.Fprintf(&paths, "{path: /p%d, pathType: Prefix, backend: {service: {name: web, port: {name: http}}}},", i)
	}
	var regexes strings.Builder
	for i := range 16 {
		fmt.Fprintf(&regexes, "{name: x%d, type: RegularExpression, value: \"%s\"},", i, strings.Repeat("(.{1000}){1}", 60))
	}
	for what, objects := range map[string]string{
		"an empty list of scopes":          ingressOf(`keywarden.io/scopes: ""`, "evil.example.com", "/"),
		"a list of scopes of commas":       ingressOf(`keywarden.io/scopes: " , ,"`, "evil.example.com", "/"),
		"an empty list of roles":           ingressOf(`keywarden.io/roles: ""`, "evil.example.com", "/"),
		"an empty list of methods":         ingressOf(`keywarden.io/auth-methods: ","`, "evil.example.com", "/"),
		"an empty list of networks":        ingressOf(`keywarden.io/allow-ips: ","`, "evil.example.com", "/"),
		"an empty mode":                    ingressOf(`keywarden.io/auth: ""`, "evil.example.com", "/"),
		"an empty timeout":                 ingressOf(`keywarden.io/timeout: ""`, "evil.example.com", "/"),
		"an empty size":                    ingressOf(`keywarden.io/max-body: ""`, "evil.example.com", "/"),
		"an empty rate":                    ingressOf(`keywarden.io/rate-limit: ""`, "evil.example.com", "/"),
		"a policy that is off":             ingressOf(`keywarden.io/max-body: "off"`, "evil.example.com", "/"),
		"an empty name":                    ingressOf(`keywarden.io/: "x"`, "evil.example.com", "/"),
		"a host with a line break":         ingressOf("", "evil.example.com\r\nX: y", "/"),
		"a host with a slash":              ingressOf("", "evil.example.com/orders", "/"),
		"a wildcard within":                ingressOf("", "a.*.example.com", "/"),
		"a path with dots":                 ingressOf("", "evil.example.com", "/a/../orders"),
		"a path with encoded dots":         ingressOf("", "evil.example.com", "/a/%2e%2e/orders"),
		"a path with a line break":         ingressOf("", "evil.example.com", "/a\r\nb"),
		"a path without a slash":           ingressOf("", "evil.example.com", "a"),
		"a line break in a header":         header("X-Tenant", "a\r\nX-Consumer: admin"),
		"a zero byte in a header":          header("X-Tenant", "a\x00"),
		"a field of the gateway":           header("X-Consumer", "admin"),
		"a field of the gateway otherwise": header("x_consumer", "admin"),
		"the address of the client":        header("X-Forwarded-For", "10.0.0.1"),
		"the host":                         header("Host", "shop.example.com"),
		"a template":                       header("X-Tenant", `{{ secret "backend" }}`),
		"a name with a line break":         header("X-A\r\nX-B", "c"),
		"a host of the service":            httpRouteOf(`filters: [{type: URLRewrite, urlRewrite: {hostname: "a\r\nX: y"}}], ` + toWeb),
		"a redirect with a line break":     httpRouteOf(`filters: [{type: RequestRedirect, requestRedirect: {hostname: "a\r\nX: y"}}]`),
		"a redirect to a script":           httpRouteOf(`filters: [{type: RequestRedirect, requestRedirect: {scheme: javascript, hostname: "a"}}]`),
		"a redirect with a user":           httpRouteOf(`filters: [{type: RequestRedirect, requestRedirect: {hostname: "shop.example.com@evil.example.com"}}]`),
		"a path of a service with dots":    httpRouteOf(`matches: [{path: {value: /a}}], filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /../b}}}], ` + toWeb),
		"the method CONNECT":               httpRouteOf("matches: [{method: CONNECT}], " + toWeb),
		"very many paths":                  "kind: Ingress\nmetadata: {name: x, namespace: evil}\nspec: {ingressClassName: keywarden, rules: [{http: {paths: [" + paths.String() + "]}}]}",
		"expressions that grow":            httpRouteOf("matches: [{headers: [" + regexes.String() + "]}], " + toWeb),
		"an expression that grows":         httpRouteOf(`matches: [{path: {type: RegularExpression, value: "/((a{100}){100}){100}"}}], ` + toWeb),
	} {
		t.Run(what, func(t *testing.T) {
			want := translate.New().Translate(read(t, []byte(classes)), options(), now)
			r := translate.New().Translate(read(t, []byte(classes+objects)), options(), now)
			if len(r.Document.Routes) != len(want.Document.Routes) || len(want.Document.Routes) == 0 {
				t.Errorf("it is served: %.200s", asYAML(t, r.Document.Routes))
			}
			told := slices.ContainsFunc(r.Refused, func(f translate.Refusal) bool { return f.Meta.Namespace == "evil" && f.Message != "" })
			if !told {
				t.Errorf("its owner is not told: %s", statusText(t, r))
			}
			if err := r.Document.Validate(); err != nil {
				t.Errorf("the document is not valid: %v", err)
			}
		})
	}
}

// The services of a namespace are those of others by a grant alone, in backends and in
// mirrors.
func TestServicesOfOthersNeedAGrant(t *testing.T) {
	for what, rule := range map[string]string{
		"a backend":          "backendRefs: [{name: web, namespace: shop, port: 80}]",
		"one of two":         "backendRefs: [{name: web, port: 80}, {name: web, namespace: shop, port: 80}]",
		"a mirror":           "filters: [{type: RequestMirror, requestMirror: {backendRef: {name: web, namespace: shop, port: 80}}}], " + toWeb,
		"a path in the name": `backendRefs: [{name: "../shop/web", port: 80}]`,
		"a slash in it":      `backendRefs: [{name: "shop/web", namespace: "", port: 80}]`,
	} {
		t.Run(what, func(t *testing.T) {
			r := translate.New().Translate(read(t, []byte(classes+httpRouteOf(rule))), options(), now)
			for _, route := range r.Document.Routes {
				text, err := json.Marshal(route)
				if err != nil {
					t.Fatal(err)
				}
				if strings.HasPrefix(route.Name, "httproute.evil") && strings.Contains(string(text), "shop.web") {
					t.Errorf("it leads there: %s", text)
				}
			}
		})
	}
}

// FuzzObjects: whatever an object has in it, the translation ends without a panic, and
// what comes out is a valid document in which the routes of others are as they were.
func FuzzObjects(f *testing.F) {
	f.Add([]byte(`{"metadata":{"name":"x","namespace":"evil","annotations":{"keywarden.io/auth":"none"}},"spec":{"ingressClassName":"keywarden","rules":[{"host":"a.example.com","http":{"paths":[{"path":"/a","pathType":"Prefix","backend":{"service":{"name":"web","port":{"number":80}}}}]}}]}}`))
	f.Add([]byte(`{"metadata":{"name":"x","namespace":"evil"},"spec":{"parentRefs":[{"name":"main","namespace":"shop"}],"hostnames":["*.example.com"],"rules":[{"matches":[{"method":"GET","path":{"type":"PathPrefix","value":"/a"},"headers":[{"name":"x","value":"1"}]},{"queryParams":[{"name":"q","type":"RegularExpression","value":"a+"}]}],"filters":[{"type":"URLRewrite","urlRewrite":{"hostname":"b","path":{"type":"ReplacePrefixMatch","replacePrefixMatch":"/b"}}},{"type":"RequestMirror","requestMirror":{"backendRef":{"name":"web","port":80},"fraction":{"numerator":1}}}],"timeouts":{"request":"5s"},"backendRefs":[{"name":"web","port":80,"weight":3},{"name":"gone","port":80,"weight":1000000}]}]}}`))
	f.Add([]byte(`{"metadata":{"name":"x","namespace":"evil"},"spec":{"parentRefs":[{"name":"main","namespace":"shop"}],"rules":[{"filters":[{"type":"RequestRedirect","requestRedirect":{"scheme":"https","hostname":"a","port":8443,"statusCode":301,"path":{"type":"ReplaceFullPath","replaceFullPath":"/x"}}}]}]}}`))
	f.Fuzz(func(t *testing.T, object []byte) {
		all := read(t, []byte(classes))
		before := translate.New().Translate(all, options(), now).Document
		if decode(object, &all.Ingresses) != nil || decode(object, &all.HTTPRoutes) != nil || decode(object, &all.Services) != nil || decode(object, &all.ReferenceGrants) != nil {
			return
		}
		r := translate.New().Translate(all, options(), now)
		if err := r.Document.Validate(); err != nil {
			t.Errorf("the document is not valid: %v", err)
		}
		if in := all.Ingresses[len(all.Ingresses)-1]; in.Metadata.Namespace != "evil" {
			return // it may be the owner's own
		}
		for _, want := range before.Routes {
			if !slices.ContainsFunc(r.Document.Routes, func(got spec.Route) bool { return string(asYAML(t, got)) == string(asYAML(t, want)) }) {
				t.Errorf("the route %s of another is gone or changed: %s", want.Name, asYAML(t, r.Document.Routes))
			}
		}
	})
}

// What is served at the platform's own hosts has its origin: no object gets there, neither
// by name nor by a wildcard, and what is at every host stays there for others.
func TestHostsOfThePlatformAreNobodyElses(t *testing.T) {
	o := options()
	o.Reserved = []string{"console.example.com"}
	for what, host := range map[string]string{"by its name": "console.example.com", "in capitals": "CONSOLE.example.com", "a wildcard": "*.example.com", "every host": ""} {
		t.Run(what, func(t *testing.T) {
			doc := translate.New().Translate(read(t, []byte(classes+ingressOf("", host, "/"))), o, now).Document
			if err := doc.Validate(); err != nil {
				t.Fatal(err)
			}
			x := index(t, doc)
			lookup := func(host string) string {
				return x.Lookup(host, "/anything", "GET", httptest.NewRequest("GET", "/anything", nil)).Value
			}
			if got := lookup("console.example.com"); strings.HasPrefix(got, "ingress.evil") {
				t.Errorf("%s has the platform's requests", got)
			}
			if got, want := lookup("other.example.com"), strings.HasPrefix(host, "*") || host == ""; (got == "ingress.evil.x.0.0") != want {
				t.Errorf("another host has %q", got)
			}
		})
	}
}

// A document that the gateway cannot make an index of would be refused as a whole, and
// keep the changes of everybody out: spellings of one path are one path.
func TestSpellingsOfOnePathAreOnePlace(t *testing.T) {
	var text strings.Builder
	text.WriteString(classes)
	paths := []string{
		"/a", "/%61", "/a/", "/a%20b", "/a b", "/ä", "/%C3%A4", "/%c3%a4", "/a;b", "/a%3Bb", "/a%3bb", "/a+b", "/a%2Bb", "/A", "/a:b", "/a%3Ab",
		"/a%7Eb", "/a~b", "/a%25b", "/a%2525b", "/a,b", "/a%2Cb", "/a=b", "/a%3Db", "/a@b", "/a%40b", "/a&b", "/a$b", "/a!b", "/a'b", "/(a)", "/*", "/a%2Fb", "/[a]",
	}
	for i, p := range paths {
		for _, kind := range []string{"Exact", "Prefix"} {
			fmt.Fprintf(&text, `---
kind: Ingress
metadata: {name: i%d-%s, namespace: evil}
spec: {ingressClassName: keywarden, rules: [{host: evil.example.com, http: {paths: [{path: %q, pathType: %s, backend: {service: {name: web, port: {name: http}}}}]}}]}
`, i, strings.ToLower(kind), p, kind)
		}
	}
	doc := translate.New().Translate(read(t, []byte(text.String())), options(), now).Document
	if err := doc.Validate(); err != nil {
		t.Fatal(err)
	}
	for i := range doc.Routes { // as the gateway does
		p := &doc.Routes[i].Match.Path
		for _, escaped := range []*string{&p.Exact, &p.Prefix} {
			if *escaped == "" {
				continue
			}
			decoded, _, err := canonical.Path(*escaped)
			if err != nil {
				t.Fatal(err)
			}
			*escaped = decoded
		}
	}
	index(t, doc)
	if len(doc.Routes) < len(paths) {
		t.Errorf("%d routes of %d paths", len(doc.Routes), len(paths))
	}
}

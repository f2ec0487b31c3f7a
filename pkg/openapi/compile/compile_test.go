package compile_test

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/keywarden/keywarden/pkg/openapi"
	"github.com/keywarden/keywarden/pkg/openapi/compile"
	"github.com/keywarden/keywarden/pkg/spec"
)

var update = flag.Bool("update", false, "write the golden files")

func parse(t testing.TB, text string) *openapi.Document {
	t.Helper()
	doc, err := openapi.Parse("", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

func compiled(t testing.TB, text string, o compile.Options) *compile.Fragment {
	t.Helper()
	f, err := compile.Compile(parse(t, text), o)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func yamlOf(t testing.TB, f *compile.Fragment) string {
	t.Helper()
	text, err := f.YAML()
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestDocumentsBecomeTheseRoutes compares with golden files, and takes them through
// the gate of the gateway: the text means what the fragment does.
func TestDocumentsBecomeTheseRoutes(t *testing.T) {
	files, err := filepath.Glob("../testdata/*.*")
	if err != nil || len(files) < 3 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), filepath.Ext(file))
		t.Run(name, func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			f := compiled(t, string(text), compile.Options{API: "api"})
			got := yamlOf(t, f)
			for _, n := range f.Notes {
				got += "# " + n.String() + "\n"
			}
			golden := filepath.Join("testdata", name+".golden.yaml")
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Error(diff)
			}
			doc, err := spec.Parse("", []byte(got))
			if err != nil {
				t.Fatal(err)
			}
			if err := doc.Validate(); err != nil {
				t.Error(err)
			}
			if diff := cmp.Diff(f.Routes, doc.Routes); diff != "" {
				t.Error(diff)
			}
		})
	}
}

const (
	head    = "openapi: 3.1.0\ninfo: {title: a, version: b}\nservers: [{url: 'https://a.example.com/v1'}]\n"
	schemes = "\ncomponents: {securitySchemes: {key: {type: apiKey, in: header, name: X-API-Key}, token: {type: http, scheme: bearer}, login: {type: oauth2, flows: {}}, pass: {type: http, scheme: basic}, cert: {type: mutualTLS}}}"
)

func TestCompileRefuses(t *testing.T) {
	get := func(body string) string { return head + "paths: {/a: {get: {" + body + "}}}" + schemes }
	for _, c := range []struct{ name, text, want string }{
		{"basic authentication", get("security: [{pass: []}]"), `4:32: paths./a.get.security[0].pass: GET /a: needs "pass" (http basic), for which the gateway has no authenticator; it has apiKey, http bearer, oauth2, openIdConnect and mutualTLS`},
		{"basic authentication beside a key", get("security: [{key: []}, {pass: []}]"), `4:43: paths./a.get.security[1].pass: GET /a: needs "pass" (http basic), for which the gateway has no authenticator; it has apiKey, http bearer, oauth2, openIdConnect and mutualTLS`},
		{"two credentials", get("security: [{key: [], cert: []}]"), "4:31: paths./a.get.security[0]: GET /a: needs key and certificate together, and a request can have one credential; name them as alternatives, or one alone"},
		{"for the whole document", "security: [{pass: []}]\n" + get(""), `1:13: security[0].pass: GET /a: needs "pass" (http basic), for which the gateway has no authenticator; it has apiKey, http bearer, oauth2, openIdConnect and mutualTLS`},
		{"a scope that nobody can hold", get("security: [{login: ['https://a/Read']}]"), `4:32: paths./a.get.security[0].login: GET /a: needs the scope "https://a/Read", which no key or token can hold: scopes consist of lower-case letters, digits, dots, hyphens and underscores, in parts with colons between them`},
		{"no server", strings.Replace(get(""), "https://a.example.com", "", 1), "3:17: servers[0].url: names no server with a host: say --service (service= in a call of the admin API), or x-keywarden-service at the top of the document"},
		{"a service that is neither", get("x-keywarden-service: 'a b'"), `4:41: paths./a.get.x-keywarden-service: is neither a URL nor the name of a service: "a b"`},
		{"a service with a query", get("x-keywarden-service: 'http://a/?b'"), `4:41: paths./a.get.x-keywarden-service: the service must be an http or https URL with a host, without user name, password and query`},
		{"an extension of the wrong kind", get("x-keywarden-timeout: soon"), "4:41: paths./a.get.x-keywarden-timeout.after: must be a time with its unit, such as 500ms, 30s or 2m"},
		{"an unknown field of an extension", get("x-keywarden-cache: {default_tll: 1s}"), "4:39: paths./a.get.x-keywarden-cache.default_tll: unknown field, did you mean default_ttl?"},
		{"an extension that is not valid", get("x-keywarden-rate-limit: [{name: a, by: key, rate: 0/1m}]"), "4:44: paths./a.get.x-keywarden-rate-limit.limits[0].rate: must be a rate such as 100/1m (units and window), or smoothed as 30pm, 10ps or 1000ph"},
		{"a rate by nobody", get("x-keywarden-rate-limit: [{name: a, by: kye, rate: 1/1m}]"), "4:44: paths./a.get.x-keywarden-rate-limit.limits[0].by: must be one of address, user, key, route, service, header, expression, did you mean key?"},
		{"a negative cost", get("x-keywarden-cost: -1"), "4:38: paths./a.get.x-keywarden-cost: must be from 1 to 1000000"},
		{"parameters of a constant address", strings.ReplaceAll(get("x-google-backend: {address: 'https://f/'}"), "/a:", "'/{a}':"), "4:42: paths./{a}.get.x-google-backend: sends parameters of the path as a query, which the gateway does not; say path_translation: APPEND_PATH_TO_ADDRESS"},
		{"an address without host", get("x-google-backend: {address: /a}"), "4:38: paths./a.get.x-google-backend: address must be an http or https URL with a host, without query"},
		{"a path that is too long", strings.ReplaceAll(get(""), "/a:", "'/{a}/"+strings.Repeat("b", 1000)+"':"), "becomes a route that is refused: match.path.regex: must be at most 1000 bytes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, err := compile.Compile(parse(t, c.text), compile.Options{API: "api"})
			if err == nil {
				t.Fatalf("accepted:\n%s", yamlOf(t, f))
			}
			var list *openapi.Violations
			if !errors.As(err, &list) || len(list.List) != 1 || list.List[0].Line == 0 {
				t.Errorf("not one mistake with a place: %v", err)
			}
			if !strings.HasSuffix(err.Error(), c.want) {
				t.Error(cmp.Diff(c.want, err.Error()))
			}
		})
	}
	for _, name := range []string{"", "a.b", "-a", "a b", strings.Repeat("a", 25)} {
		if _, err := compile.Compile(parse(t, get("")), compile.Options{API: name}); !errors.Is(err, compile.ErrName) {
			t.Errorf("the name %q: %v", name, err)
		}
	}
}

func TestSecurityBecomesAuthentication(t *testing.T) {
	for _, c := range []struct{ name, security, want string }{
		{"nothing said", "", ""}, // the gateway's default, which is closed
		{"open", "security: []", "auth: {mode: none}"},
		{"open by an empty alternative", "security: [{}]", "auth: {mode: none}"},
		{"a key", "security: [{key: []}]", "auth: {mode: required, methods: [key]}"},
		{"a token", "security: [{token: []}]", "auth: {mode: required, methods: [jwt]}"},
		{"either", "security: [{token: []}, {key: []}]", "auth: {mode: required, methods: [jwt, key]}"},
		{"either or nothing", "security: [{key: []}, {}]", "auth: {mode: optional, methods: [key]}"},
		{"scopes", "security: [{login: ['a:b', c]}]", "auth: {mode: required, methods: [jwt], scopes: ['a:b', c]}"},
		{"scopes of two schemes of one kind", "security: [{login: [a], token: [b]}]", "auth: {mode: required, methods: [jwt], scopes: [a, b]}"},
		{"scopes of one alternative are asked of all", "security: [{login: [a]}, {key: []}]", "auth: {mode: required, methods: [jwt, key], scopes: [a]}"},
		{"a certificate", "security: [{cert: []}]", "auth: {mode: required, methods: [certificate]}"},
		{"the document's, for all that say nothing", "}}}\nsecurity: [{key: []}]\nx-a: {a: {a: {", "auth: {mode: required, methods: [key]}"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := yamlOf(t, compiled(t, head+"paths: {/a: {get: {"+c.security+"}}}"+schemes, compile.Options{API: "api"}))
			_, auth, _ := strings.Cut(got, "service: api\n")
			if auth = strings.TrimSpace(auth); auth != c.want {
				t.Errorf("got %q, want %q", auth, c.want)
			}
		})
	}
}

// TestBasePathIsKeptOrStripped looks at the paths on both sides of the gateway.
func TestBasePathIsKeptOrStripped(t *testing.T) {
	text := head + "paths: {/a: {get: {}}, '/b/{c}': {get: {}}}"
	for _, c := range []struct {
		o                          compile.Options
		url, strip, regex, rewrite string
	}{
		{compile.Options{}, "https://a.example.com", "", "/v1/b/[^/]+", ""},
		{compile.Options{Base: compile.BaseStrip}, "https://a.example.com", "/v1", "/v1/(b/[^/]+)", "/$1"},
		{compile.Options{Service: "http://x:8081/"}, "http://x:8081", "", "/v1/b/[^/]+", ""},
		{compile.Options{Service: "http://x/base"}, "http://x/base", "/v1", "/v1/(b/[^/]+)", "/$1"},
		{compile.Options{Service: "http://x/base", Base: compile.BaseKeep}, "http://x/base", "", "/v1/b/[^/]+", ""},
		{compile.Options{Service: "named"}, "", "", "/v1/b/[^/]+", ""},
		{compile.Options{Service: "named", Base: compile.BaseStrip}, "", "/v1", "/v1/(b/[^/]+)", "/$1"},
	} {
		c.o.API = "api"
		f := compiled(t, text, c.o)
		a, b, rewrite := f.Routes[0], f.Routes[1], ""
		if b.Rewrite != nil {
			rewrite = b.Rewrite.Path
		}
		if a.Match.Path.Exact != "/v1/a" || a.StripPrefix != c.strip || b.Match.Path.Regex != c.regex || rewrite != c.rewrite {
			t.Errorf("%+v: exact %s, strip %q, regex %s, rewrite %q", c.o, a.Match.Path.Exact, a.StripPrefix, b.Match.Path.Regex, rewrite)
		}
		if c.url == "" {
			if !slices.Equal(f.Needs, []string{"named"}) || len(f.Services) != 0 {
				t.Errorf("%+v: needs %v, services %v", c.o, f.Needs, f.Services)
			}
		} else if len(f.Services) != 1 || f.Services[0].URL != c.url {
			t.Errorf("%+v: services %v", c.o, f.Services)
		}
	}
}

func TestGoogleBackendsAreUnderstood(t *testing.T) {
	f := compiled(t, head+`x-google-backend: {address: https://all.example.net/base, deadline: 7}
paths:
  /a: {get: {operationId: a}}
  /b: {get: {operationId: b, x-google-backend: {address: "https://fn.example.net/do$it", deadline: 0.5}}}
  /c: {get: {operationId: c, x-keywarden-service: own, x-keywarden-timeout: 9s}}
`, compile.Options{API: "api"})
	want := `version: 1
services:
- {name: api, url: 'https://all.example.net/base'}
- {name: api.fn.example.net-HASH, url: 'https://fn.example.net'}
routes:
- name: api.a
  match: {path: {exact: /v1/a}, methods: [GET]}
  service: api
  timeout: {mode: enforce, after: 7s}
- name: api.b
  match: {path: {exact: /v1/b}, methods: [GET]}
  service: api.fn.example.net-HASH
  rewrite: {regex: .*, path: /do$$it}
  timeout: {mode: enforce, after: 500ms}
- name: api.c
  match: {path: {exact: /v1/c}, methods: [GET]}
  service: own
  timeout: {mode: enforce, after: 9s}
`
	got := regexp.MustCompile(`net-[0-9a-f]{6}`).ReplaceAllString(yamlOf(t, f), "net-HASH")
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestNamesStayTheSameWhenOtherThingsChange(t *testing.T) {
	names := func(text string) map[string]string {
		m := map[string]string{}
		for _, r := range compiled(t, text, compile.Options{API: "api"}).Routes {
			m[r.Match.Methods[0]+" "+r.Match.Path.Exact+r.Match.Path.Regex] = r.Name
		}
		return m
	}
	before := names(head + "paths: {/a: {get: {operationId: get a}, post: {}}, '/b/{c}': {get: {operationId: " + strings.Repeat("x", 100) + "}, put: {}}}")
	after := names(head + "paths: {/0: {get: {operationId: get-a}}, '/b/{renamed}': {put: {}, get: {operationId: " + strings.Repeat("x", 100) + "}, delete: {operationId: " + strings.Repeat("x", 101) + "}}, /a: {post: {summary: a}, get: {operationId: get a}}}")
	for operation, name := range before {
		if other := after[operation]; other != name && operation != "PUT /v1/b/[^/]+" {
			t.Errorf("%s was %s, is %s", operation, name, other)
		}
	}
	if len(after) != 6 {
		t.Errorf("%d names: %v", len(after), after)
	}
}

// TestTemplatesMatchWhatTheyMean compares the expression of a random template with
// its definition: a parameter is one or more characters of a segment.
func TestTemplatesMatchWhatTheyMean(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var template, good, slash, less strings.Builder
		parameters := 0
		for range rapid.IntRange(1, 4).Draw(t, "segments") {
			for _, b := range []*strings.Builder{&template, &good, &slash, &less} {
				b.WriteByte('/')
			}
			literal := rapid.SampledFrom([]string{"a", "a.b", "(x)", "+", "$", "[c]", "é", "a|b", `^`}).Draw(t, "literal")
			if rapid.Bool().Draw(t, "is a parameter") {
				parameters++
				value := rapid.StringMatching(`[a-z0-9.%+-]{1,5}x`).Draw(t, "value")
				template.WriteString("{" + strings.Repeat("p", parameters) + "}")
				good.WriteString(value)
				slash.WriteString(value + "/" + value)
				continue
			}
			template.WriteString(literal)
			good.WriteString(literal)
			slash.WriteString(literal)
			less.WriteString(literal)
		}
		tmpl, err := openapi.ParseTemplate(template.String())
		if err != nil {
			t.Fatal(err)
		}
		x := regexp.MustCompile("^(?:/" + tmpl.Regex() + ")$")
		if !x.MatchString(good.String()) {
			t.Fatalf("%s as %s does not match %s", template.String(), x, good.String())
		}
		if parameters > 0 && (x.MatchString(slash.String()) || x.MatchString(less.String())) {
			t.Fatalf("%s as %s matches %s or %s", template.String(), x, slash.String(), less.String())
		}
		if x.MatchString(good.String()+"/") || x.MatchString("/x"+good.String()) {
			t.Fatalf("%s as %s matches more than whole paths", template.String(), x)
		}
	})
}

const gatewayDocument = `# The gateway of the shop.
version: 1
services:
  - {name: shop, url: "http://127.0.0.1:1"} # by hand
routes:
  - name: first
    match: {path: {exact: /first}}
    respond: {body: one}
  - {name: api.old, match: {path: {exact: /old}}, service: shop}
  - name: last # stays
    match: {path: {prefix: /last}}
    service: shop
  - {name: apis.other, match: {path: {exact: /other}}, service: shop}
  - {name: api.older, match: {path: {exact: /older}}, service: shop}
`

func TestMergeReplacesTheRoutesOfTheAPIAndNothingElse(t *testing.T) {
	f := compiled(t, head+"paths: {/a: {get: {operationId: a, security: []}}, /b: {get: {operationId: b, security: []}}}", compile.Options{API: "api"})
	text, doc, err := f.Merge([]byte(gatewayDocument))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, r := range doc.Routes {
		names = append(names, r.Name)
	}
	if diff := cmp.Diff([]string{"first", "api.a", "api.b", "last", "apis.other"}, names); diff != "" {
		t.Error(diff)
	}
	if len(doc.Services) != 2 || doc.Services[0].URL != "http://127.0.0.1:1" || doc.Services[1].Name != "api" {
		t.Errorf("services %+v", doc.Services)
	}
	for _, comment := range []string{"# The gateway of the shop.", "# by hand", "# stays"} {
		if !strings.Contains(string(text), comment) {
			t.Errorf("%q is lost:\n%s", comment, text)
		}
	}
	again, _, err := f.Merge(text)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(text), string(again)); diff != "" {
		t.Errorf("a second import changes something: %s", diff)
	}
}

func TestMergeRefusesWhatWouldTakeSomethingOver(t *testing.T) {
	for _, c := range []struct{ name, api, path, want string }{
		{"a service", "shop", "/a", `the service "shop" of the gateway document, with the url "http://127.0.0.1:1" and not "https://a.example.com", is another service`},
		{"a path", "api", "/last", ""}, // prefix and exact path are different
		{"an exact path", "new", "/first", "the same requests"},
	} {
		f := compiled(t, strings.Replace(head, "/v1", "", 1)+"paths: {"+c.path+": {get: {security: []}}}", compile.Options{API: c.api})
		_, _, err := f.Merge([]byte(strings.Replace(gatewayDocument, "{exact: /first}", "{exact: /first}, methods: [GET]", 1)))
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}

func TestMergeFillsAnEmptyDocument(t *testing.T) {
	f := compiled(t, head+"paths: {/a: {get: {security: []}}}", compile.Options{API: "api"})
	for _, text := range []string{"version: 1\nservices: []\nroutes: []\n", "{version: 1, services: [], routes: []}", `{"version":1,"services":[],"routes":[]}`, "version: 1\n"} {
		if _, doc, err := f.Merge([]byte(text)); err != nil || len(doc.Routes) != 1 || len(doc.Services) != 1 {
			t.Errorf("%s: %v %+v", text, err, doc)
		}
	}
}

func TestValidationHoldsEveryRouteToItsOperation(t *testing.T) {
	text, err := os.ReadFile("../testdata/animals30.yaml")
	if err != nil {
		t.Fatal(err)
	}
	o := compile.Options{API: "animals", Service: "http://127.0.0.1:8081", Validate: text}
	f := compiled(t, string(text), o)
	doc, err := spec.Parse("", []byte(yamlOf(t, f)))
	if err != nil {
		t.Fatal(err)
	}
	if len(doc.APIs) != 1 || doc.APIs[0].OpenAPI != string(text) {
		t.Errorf("the description is not what it was: %q", doc.APIs)
	}
	for _, r := range doc.Routes {
		if r.Operation == nil || r.Operation.API != "animals" || r.Validation == nil || !r.Validation.Answers {
			t.Errorf("%s is not held to its operation", r.Name)
		}
	}
	merged, again, err := f.Merge([]byte("version: 1\nservices: []\nroutes: []\napis: [{name: other, openapi_file: /x}]\n"))
	if err != nil || len(again.APIs) != 2 {
		t.Fatalf("%v %v", again.APIs, err)
	}
	o.Validate = nil
	if _, again, err = compiled(t, string(text), o).Merge(merged); err != nil || len(again.APIs) != 1 || again.APIs[0].Name != "other" {
		t.Errorf("an import without --validate leaves %v, %v", again.APIs, err)
	}
	bad := strings.Replace(string(text), "type: string", "type: nothing", 1)
	if doc, err := openapi.Parse("", []byte(bad)); err == nil {
		if _, err := compile.Compile(doc, compile.Options{API: "animals", Service: "http://127.0.0.1:8081", Validate: []byte(bad)}); err == nil {
			t.Error("a schema that does not compile is accepted")
		}
	}
}

package imports_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keywarden/keywarden/pkg/openapi"
	"github.com/keywarden/keywarden/pkg/openapi/compile"
	"github.com/keywarden/keywarden/pkg/openapi/imports"
	"github.com/keywarden/keywarden/pkg/spec"
)

const before = `
version: 1
services: [{name: pets, url: "http://127.0.0.1:1"}, {name: other, url: "http://127.0.0.1:2"}]
routes:
  - {name: first, match: {path: {exact: /first}}, service: other}
  - {name: api.old, match: {path: {exact: /old}}, service: pets}
  - {name: between, match: {path: {exact: /between}}, service: other}
  - {name: api.older, match: {path: {exact: /older}}, service: pets}
  - {name: apis.other, match: {path: {exact: /apis}}, service: other}
`

func parse(t testing.TB, text string) spec.Document {
	t.Helper()
	doc, err := spec.Parse("", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

func digest(t testing.TB, doc spec.Document) spec.Digest {
	t.Helper()
	d, err := doc.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func read(t testing.TB, text string, o imports.Options) *imports.Description {
	t.Helper()
	d, err := imports.Read([]byte(text), o)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func into(t testing.TB, d *imports.Description, doc spec.Document) *imports.Plan {
	t.Helper()
	p, err := d.Into(doc)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// The admin API and the command line make the same of a document.
func TestImportsMeanWhatTheirMergeIntoAFileDoes(t *testing.T) {
	files, err := filepath.Glob("../testdata/*.*")
	if err != nil || len(files) < 3 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, hold := range []bool{false, true} {
			for _, o := range []compile.Options{{API: "api"}, {API: "api", Service: "pets"}, {API: "new", Service: "http://127.0.0.1:9/x"}} {
				d := read(t, string(text), imports.Options{Options: o, Hold: hold})
				_, merged, err := d.Merge([]byte(before))
				if err != nil {
					t.Fatal(file, err)
				}
				p := into(t, d, parse(t, before))
				if digest(t, p.Document) != digest(t, merged) {
					t.Errorf("%s, %+v: the documents are different:\n%s", file, o, cmp.Diff(merged.Routes, p.Document.Routes))
				}
				if len(p.Added) != len(d.Routes) || (len(p.Removed) > 0) != (o.API == "api") || len(p.Changed) > 0 {
					t.Errorf("%s, %+v: %v are added, %v removed, %v changed", file, o, p.Added, p.Removed, p.Changed)
				}
				// The same again changes nothing, and taken out again nothing is left.
				again := into(t, d, p.Document)
				if digest(t, again.Document) != digest(t, p.Document) || len(again.Added)+len(again.Removed)+len(again.Changed)+len(again.Services)+len(again.Operations) > 0 {
					t.Errorf("%s, %+v: again, %+v", file, o, again.Operations)
				}
				left, found, err := imports.Remove(p.Document, o.API)
				if err != nil || !found || len(left.APIs) > 0 || slices.ContainsFunc(left.Routes, func(r spec.Route) bool { return compile.Owns(o.API, r.Name) }) {
					t.Errorf("%s: %v is left, %v", file, left.Routes, err)
				}
			}
		}
	}
}

func TestServicesAreNeverChanged(t *testing.T) {
	d := read(t, "openapi: 3.0.3\ninfo: {title: a, version: b}\npaths: {/a: {get: {responses: {}}}}\n",
		imports.Options{Options: compile.Options{API: "other", Service: "http://127.0.0.1:3"}})
	if _, err := d.Into(parse(t, before)); !errors.Is(err, compile.ErrService) {
		t.Errorf("got %v", err)
	}
	empty := into(t, d, spec.Document{Version: spec.Version}).Document
	if len(empty.Services) != 1 || empty.Services[0].ConnectTimeout == 0 {
		t.Errorf("into the empty document: %+v", empty.Services)
	}
}

// What is held of a description can be read back, whatever its lines are.
func TestDescriptionsInOneLineAreHeld(t *testing.T) {
	text := `{"openapi":"3.1.0","info":{"title":"a","version":"b","description":"` + strings.Repeat("x ", 40<<10) + `"},"paths":{"/a":{"get":{"responses":{}}}}}`
	d := read(t, strings.ReplaceAll(text, "x ", "x"), imports.Options{Options: compile.Options{API: "a", Service: "http://127.0.0.1:1"}, Hold: true})
	p := into(t, d, spec.Document{Version: spec.Version})
	if len(p.Document.APIs) != 1 || len(p.Document.APIs[0].OpenAPI) < 40<<10 {
		t.Errorf("%+v", p.Document.APIs)
	}
	list := imports.List(&p.Document)
	if len(list) != 1 || list[0].Title != "a" || list[0].Dialect != openapi.Dialect31 || len(list[0].Routes) != 1 || !slices.Equal(list[0].Services, []string{"a"}) {
		t.Errorf("%+v", list)
	}
}

// Nor does it matter to a document in a file, as long as the texts have spaces.
func TestDescriptionsWithLongTextsAreHeldInFiles(t *testing.T) {
	text := `{"openapi":"3.1.0","info":{"title":"a","version":"b","description":"` + strings.Repeat("two words, ", 10_000) + `"},"paths":{"/a":{"get":{"responses":{}}}}}`
	d := read(t, text, imports.Options{Options: compile.Options{API: "a", Service: "http://127.0.0.1:1"}, Hold: true})
	merged, doc, err := d.Merge([]byte(before))
	if err != nil || len(doc.APIs) != 1 || doc.APIs[0].OpenAPI != string(imports.Readable([]byte(text))) {
		t.Fatalf("%v, %.100s", err, merged)
	}
}

// A description whose lines are short stays as it was written.
func TestReadableDescriptionsAreLeftAsTheyAre(t *testing.T) {
	for _, text := range []string{"{\n  \"a\":   1\n}", "a: b\n", "a: " + strings.Repeat("b", 2000)} {
		if got := string(imports.Readable([]byte(text))); got != text {
			t.Errorf("%q became %q", text, got)
		}
	}
	if got := string(imports.Readable([]byte(`{"a":"` + strings.Repeat("b", 2000) + `","c":1}`))); strings.Count(got, "\n") != 3 {
		t.Errorf("got %q", got)
	}
}

// What is too large to be held is refused before work is put into it.
func TestDescriptionsThatCannotBeHeldAreRefused(t *testing.T) {
	text := "openapi: 3.1.0\ninfo: {title: a, version: b}\npaths: {/a: {get: {responses: {}}}}\n" + strings.Repeat("# comment\n", 900_000)
	o := imports.Options{Options: compile.Options{API: "a", Service: "http://127.0.0.1:1"}}
	read(t, text, o)
	o.Hold = true
	var invalid *openapi.Violations
	if _, err := imports.Read([]byte(text), o); !errors.As(err, &invalid) || !strings.Contains(err.Error(), "larger than the 8 MiB") {
		t.Errorf("got %v", err)
	}
}

// Without a description, who may pass is known by the routes.
func TestRoutesTellWhatBreaks(t *testing.T) {
	route := func(auth string) string {
		return "version: 1\nservices: [{name: s, url: \"http://127.0.0.1:1\"}]\nroutes: [{name: a.a, match: {path: {exact: /a}, methods: [GET]}, service: s, auth: " + auth + "}]\n"
	}
	description := func(security string) string {
		return "openapi: 3.1.0\ninfo: {title: a, version: b}\nservers: [{url: http://127.0.0.1:1}]\npaths: {/a: {get: {operationId: a, responses: {}, security: " + security + `}}}
components:
  securitySchemes:
    key: {type: apiKey, in: header, name: X-API-Key}
    jwt: {type: http, scheme: bearer}
`
	}
	for _, c := range []struct{ auth, security, want string }{
		{"{mode: none}", "[]", ""},
		{"{mode: shadow}", "[]", ""},
		{"{mode: none}", "[{key: []}]", "stricter"},
		{"{mode: shadow}", "[{key: []}]", "stricter"},
		{"{mode: none}", "[{}, {key: []}]", "stricter"}, // a bad key is refused now
		{"{mode: optional, methods: [key]}", "[{key: []}]", "stricter"},
		{"{mode: required, methods: [key]}", "[{}, {key: []}]", "looser"},
		{"{methods: [key]}", "[]", "looser"},
		{"{methods: [key]}", "[{key: []}]", ""},
		{"{methods: [key]}", "[{key: []}, {jwt: []}]", "looser"},
		{"{methods: [key, jwt]}", "[{key: []}]", "stricter"},
		{"{methods: [jwt]}", "[{key: []}]", "stricter"},
		{"{methods: [key], scopes: ['a:b']}", "[{key: []}]", "looser"},
		{"{methods: [key]}", "[{key: ['a:b']}]", "stricter"},
		{"{methods: [key], scopes: ['a:b']}", "[{key: ['a:b']}]", ""},
		{"{methods: [key], roles: [admin]}", "[{key: []}]", "looser"},
		{"{methods: [key], when: 'request.method == \"GET\"'}", "[{key: []}]", "stricter"},
	} {
		d := read(t, description(c.security), imports.Options{Options: compile.Options{API: "a", Service: "s"}})
		p := into(t, d, parse(t, route(c.auth)))
		got := ""
		for _, o := range p.Operations {
			got += strings.TrimPrefix(o.Detail, "security is ")
			if o.Operation != "GET /a" || o.Kind != openapi.Changed || o.Breaking != (c.want == "stricter") {
				t.Errorf("%+v", o)
			}
		}
		if got != c.want || p.Basis != imports.ByRoutes {
			t.Errorf("%s and then %s is %q, want %q", c.auth, c.security, got, c.want)
		}
	}
}

// An API that moves to other hosts breaks clients, whatever its description says.
func TestHostsThatGoBreakClients(t *testing.T) {
	text := "openapi: 3.1.0\ninfo: {title: a, version: b}\npaths: {/a: {get: {responses: {}}}}\n"
	at := func(hosts ...string) *imports.Description {
		return read(t, text, imports.Options{Options: compile.Options{API: "a", Service: "http://127.0.0.1:1", Hosts: hosts}, Hold: true})
	}
	empty := spec.Document{Version: spec.Version}
	for _, c := range []struct {
		from, to *imports.Description
		want     []string
	}{
		{at(), at("a.example"), []string{"* *"}},
		{at("a.example"), at(), nil},
		{at("a.example"), at("a.example", "b.example"), nil},
		{at("a.example", "b.example"), at("b.example"), []string{"* a.example"}},
	} {
		p := into(t, c.to, into(t, c.from, empty).Document)
		var got []string
		for _, o := range p.Operations {
			got = append(got, o.Operation)
		}
		if !slices.Equal(got, c.want) || openapi.Breaking(p.Operations) != (c.want != nil) || p.Basis != imports.ByDescription {
			t.Errorf("got %v, want %v", got, c.want)
		}
	}
}

func TestListKnowsAPIsByRoutesAndDescriptions(t *testing.T) {
	doc := parse(t, `
version: 1
apis:
  - {name: described, openapi: "{openapi: 3.0.3, info: {title: D, version: '1'}, paths: {}}"}
  - {name: v2.pets, openapi_file: pets.yaml}
services: [{name: x, url: "http://127.0.0.1:1"}, {name: y, url: "http://127.0.0.1:2"}]
routes:
  - {name: plain, match: {path: {exact: /plain}}, service: x}
  - {name: pets.a, match: {path: {exact: /a}}, service: x}
  - {name: pets.b, match: {path: {exact: /b}}, split: {services: [{service: y, weight: 1}, {service: x, weight: 1}]}}
  - {name: v2.pets.a, match: {path: {exact: /v2/a}}, service: y}
`)
	var got []string
	for _, a := range imports.List(&doc) {
		got = append(got, strings.Join([]string{a.Name, a.Title, a.File, strings.Join(a.Services, "+")}, "/"))
	}
	if diff := cmp.Diff([]string{"described/D//", "pets///x+y", "v2///y", "v2.pets//pets.yaml/y"}, got); diff != "" {
		t.Errorf("APIs (-want +got):\n%s", diff)
	}
	if _, found, err := imports.Remove(doc, "plain"); found || err != nil {
		t.Error("a route without an API was taken for one", err)
	}
}

package spec_test

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keywarden/keywarden/pkg/spec"
	"github.com/keywarden/keywarden/pkg/spec/policies"
	"github.com/keywarden/keywarden/pkg/spec/quantity"
	"github.com/keywarden/keywarden/pkg/spec/services"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// TestParseGolden reads every testdata/*.yaml: beside it stands what comes of it,
// the errors (*.txt) or the document with its defaults (*.json). The files bomb,
// deep and aliases are of SBX-10.
func TestParseGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal("no test data", err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".yaml")
		t.Run(name, func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			doc, err := spec.Parse(name+".yaml", data)
			if err != nil {
				golden(t, "testdata/"+name+".txt", err.Error()+"\n")
				return
			}
			text, err := json.MarshalIndent(doc, "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			golden(t, "testdata/"+name+".json", string(text)+"\n")
		})
	}
}

func golden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Error(diff)
	}
}

// TestShippedDocumentIsValid reads the document that comes with the program.
func TestShippedDocumentIsValid(t *testing.T) {
	data, err := os.ReadFile("../../configs/gateway.yaml")
	if err != nil {
		t.Fatal(err)
	}
	doc, err := spec.Parse("gateway.yaml", data)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range doc.Routes {
		if p := doc.Effective(&r); p.Auth.Mode != policies.AuthRequired {
			t.Errorf("route %s is open", r.Name)
		}
	}
	if len(doc.Services) != 2 || len(doc.Routes) != 3 {
		t.Errorf("%d services and %d routes, want 2 and 3", len(doc.Services), len(doc.Routes))
	}
}

// TestParseOfCanonicalFormChangesNothing holds the JSON form to be a document
// itself, with the same digest.
func TestParseOfCanonicalFormChangesNothing(t *testing.T) {
	for _, name := range []string{"minimal", "complete", "json", "empty_lists", "traffic"} {
		doc := parseFile(t, "testdata/"+name+".yaml")
		text, err := json.Marshal(doc)
		if err != nil {
			t.Fatal(err)
		}
		again, err := spec.Parse("", text)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if diff := cmp.Diff(doc, again, cmp.Comparer(func(a, b quantity.Network) bool { return a == b })); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		if digest(t, doc) != digest(t, again) {
			t.Errorf("%s: the digest changed", name)
		}
	}
}

func TestDigestIgnoresLayoutAndSpelledOutDefaults(t *testing.T) {
	brief := parse(t, `
version: 1
services: [{name: a, url: "http://a"}]
routes: [{name: r, service: a, max_body: 1MiB}]`)
	long := parse(t, `
# The same at length.
routes:
  - service: "a"
    name: r
    match: {path: {prefix: /}}
    max_body: {mode: enforce, limit: 1024KiB}
services:
  - {url: http://A/, name: a, connect_timeout: 2000ms, response_timeout: 0.5m}
version: 1`)
	if digest(t, brief) != digest(t, long) {
		t.Errorf("the digests of equal documents differ:\n%+v\n%+v", brief, long)
	}
	other := parse(t, `
version: 1
services: [{name: a, url: "http://a"}]
routes: [{name: r, service: a, max_body: 2MiB}]`)
	if digest(t, brief) == digest(t, other) {
		t.Error("the digests of different documents are equal")
	}
}

func TestParseBoundsTheReport(t *testing.T) {
	var b strings.Builder
	b.WriteString("version: 1\nroutes:\n")
	for i := range 1000 {
		fmt.Fprintf(&b, "  - {name: r%d, service: nowhere, match: {path: {prefix: /r%d}}}\n", i, i)
	}
	_, err := spec.Parse("", []byte(b.String()))
	var vs *spec.Violations
	if !errors.As(err, &vs) {
		t.Fatalf("got %v, want violations", err)
	}
	if len(vs.List) != 100 || vs.More != 900 {
		t.Errorf("%d violations and %d more, want 100 and 900", len(vs.List), vs.More)
	}
}

func TestParseRefusesHugeDocuments(t *testing.T) {
	for name, c := range map[string]struct{ data, want string }{
		"bytes":    {"# " + strings.Repeat("x", spec.MaxBytes), "the document is larger than 8 MiB"},
		"lines":    {strings.Repeat("#\n", 300_000), "the document has too many items"},
		"items":    {"[" + strings.Repeat("1,\n", 150_000), "the document has too many items"},
		"brackets": {strings.Repeat("[", 300_000), "the document has too many items"},
		"dashes":   {strings.Repeat("- - - - - - - -\n", 40_000), "the document has too many items"},
		"line":     {"version: 1\nroutes: [" + strings.Repeat("1,", 40_000), "2:1: the line is longer than 64 KiB; break it"},
	} {
		if _, err := spec.Parse("", []byte(c.data)); err == nil || err.Error() != c.want {
			t.Errorf("%s: got %v, want %s", name, err, c.want)
		}
	}
}

func TestValidateRefusesDocumentsThatWereNotParsed(t *testing.T) {
	valid := parse(t, `
version: 1
services: [{name: a, url: "http://a"}]
routes: [{name: r, service: a}]`)
	if err := valid.Validate(); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*spec.Document){
		"no defaults":  func(d *spec.Document) { d.Services = []services.Service{{Name: "a", URL: "http://a"}} },
		"service URL":  func(d *spec.Document) { d.Services[0].URL = "http://A" },
		"host":         func(d *spec.Document) { d.Routes[0].Match.Hosts = []string{"A.test"} },
		"path":         func(d *spec.Document) { d.Routes[0].Match.Path.Prefix = "/%61" },
		"prefix":       func(d *spec.Document) { d.Routes[0].Match.Path.Prefix = "/a/" },
		"no path":      func(d *spec.Document) { d.Routes[0].Match.Path.Prefix = "" },
		"auth":         func(d *spec.Document) { d.Routes[0].Auth = &policies.Auth{} },
		"auth methods": func(d *spec.Document) { d.Routes[0].Auth = &policies.Auth{Mode: policies.AuthRequired} },
		"network": func(d *spec.Document) {
			d.Routes[0].AllowIPs = &policies.Networks{Gate: enforced(), Networks: []quantity.Network{{}}}
		},
		"size":            func(d *spec.Document) { d.Routes[0].MaxBody = &policies.MaxBody{Gate: enforced(), Limit: -1} },
		"version":         func(d *spec.Document) { d.Version = 0 },
		"unknown service": func(d *spec.Document) { d.Routes[0].Service = "b" },
	} {
		doc := parse(t, `
version: 1
services: [{name: a, url: "http://a"}]
routes: [{name: r, service: a}]`)
		change(&doc)
		if err := doc.Validate(); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func enforced() policies.Gate { return policies.Gate{Mode: policies.Enforce} }

func parse(t testing.TB, text string) spec.Document {
	t.Helper()
	doc, err := spec.Parse("", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

func parseFile(t testing.TB, file string) spec.Document {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return parse(t, string(data))
}

func digest(t testing.TB, doc spec.Document) spec.Digest {
	t.Helper()
	d, err := doc.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// FuzzParse holds every input to an error with a readable report or a document
// that is valid and whose canonical form reads back as itself.
func FuzzParse(f *testing.F) {
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		doc, err := spec.Parse("fuzz", data)
		if err != nil {
			var vs *spec.Violations
			if !errors.As(err, &vs) || len(vs.List) == 0 {
				t.Fatalf("the error %v is no report", err)
			}
			for _, line := range vs.Lines() {
				if strings.ContainsAny(line, "\n\r\x00") {
					t.Fatalf("the report holds a control character: %q", line)
				}
			}
			return
		}
		if err := doc.Validate(); err != nil {
			t.Fatalf("Parse returned a document that is not valid: %v", err)
		}
		text, err := json.Marshal(doc)
		if err != nil {
			t.Fatal(err)
		}
		again, err := spec.Parse("", text)
		if err != nil {
			t.Fatalf("the canonical form %s is refused: %v", text, err)
		}
		if digest(t, doc) != digest(t, again) {
			t.Fatalf("the canonical form %s has another digest", text)
		}
	})
}

func BenchmarkParse(b *testing.B) {
	var doc strings.Builder
	doc.WriteString("version: 1\nservices:\n  - {name: a, url: \"http://a\"}\nroutes:\n")
	for i := range 10_000 {
		fmt.Fprintf(&doc, "  - name: r%d\n    match:\n      path: {prefix: /api/r%d}\n      methods: [GET, POST]\n    service: a\n    strip_prefix: /api\n", i, i)
	}
	data := []byte(doc.String())
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := spec.Parse("", data); err != nil {
			b.Fatal(err)
		}
	}
}

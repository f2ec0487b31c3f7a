package imports_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/keywarden/keywarden/pkg/openapi/compile"
	"github.com/keywarden/keywarden/pkg/openapi/imports"
	"github.com/keywarden/keywarden/pkg/spec"
)

// suiteGroup is a schema of the JSON-Schema-Test-Suite with its instances.
type suiteGroup struct {
	Description string          `json:"description"`
	Schema      json.RawMessage `json:"schema"`
	Tests       []struct {
		Description string          `json:"description"`
		Data        json.RawMessage `json:"data"`
		Valid       bool            `json:"valid"`
	} `json:"tests"`

	file string
	path string // of its operation
}

// suiteModule carries the required part of the suite for draft 2020-12, but for the files
// that are about vocabularies and about what is an annotation there, content and format.
func suiteModule() *collection {
	return &collection{module: "github.com/google/jsonschema-go@v0.4.3", sum: "h1:/DBOLZTfDow7pe2GmaJNhltueGTtDKICi8V8p+DQPd0="}
}

// suite is that part of the suite, or what the folder of KEYWARDEN_JSON_SCHEMA_SUITE
// holds: tests/draft2020-12 in a checkout.
func suite(t *testing.T) []*suiteGroup {
	t.Helper()
	dir := os.Getenv("KEYWARDEN_JSON_SCHEMA_SUITE")
	if dir == "" {
		dir = filepath.Join(suiteModule().download(t), "jsonschema", "testdata", "draft2020-12")
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no suite in %s: %v", dir, err)
	}
	var list []*suiteGroup
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var groups []*suiteGroup
		if err := json.Unmarshal(text, &groups); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		for _, g := range groups {
			g.file, g.path = strings.TrimSuffix(filepath.Base(file), ".json"), fmt.Sprintf("/schema/%d", len(list))
			list = append(list, g)
		}
	}
	return list
}

// elsewhere are the schemas of the suite that need a document of a server, and the
// operations of which must not compile: nothing is ever fetched. They are named by
// file and description; all others have to hold.
func elsewhere() []string {
	return []string{
		"dynamicRef: strict-tree schema, guards against misspelled properties",
		"dynamicRef: tests for implementation dynamic anchor and reference link",
		"dynamicRef: $ref and $dynamicAnchor are independent of order - $defs first",
		"dynamicRef: $ref and $dynamicAnchor are independent of order - $ref first",
		"dynamicRef: $ref to $dynamicRef finds detached $dynamicAnchor",
		"refRemote: remote ref",
		"refRemote: fragment within remote ref",
		"refRemote: anchor within remote ref",
		"refRemote: ref within remote ref",
		"refRemote: base URI change",
		"refRemote: base URI change - change folder",
		"refRemote: base URI change - change folder in subschema",
		"refRemote: root ref in remote ref",
		"refRemote: remote ref with ref to defs",
		"refRemote: Location-independent identifier in remote ref",
		"refRemote: retrieved nested refs resolve relative to their URI not $id",
		"refRemote: remote HTTP ref with different $id",
		"refRemote: remote HTTP ref with different URN $id",
		"refRemote: remote HTTP ref with nested absolute ref",
		"refRemote: $ref to $ref finds detached $anchor",
		"vocabulary: schema that uses custom metaschema with with no validation vocabulary",
		"vocabulary: ignore unrecognized optional vocabulary",
	}
}

// described is the description of an API with an operation for each schema.
func described(t *testing.T, groups []*suiteGroup) []byte {
	t.Helper()
	paths := map[string]any{}
	for _, g := range groups {
		paths[g.path] = map[string]any{"post": map[string]any{
			"responses":   map[string]any{"200": map[string]any{"description": "it is valid"}},
			"requestBody": map[string]any{"content": map[string]any{"application/json": map[string]any{"schema": g.Schema}}},
		}}
	}
	text, err := json.Marshal(map[string]any{
		"openapi": "3.1.0", "info": map[string]any{"title": "suite", "version": "1"}, "security": []any{}, "paths": paths,
	})
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// embed makes a schema that is a document of its own one of a description. Where it
// refers to itself, it gets an $id, from which its references count; where it says no
// more than that it is of draft 2020-12, it need not.
func (g *suiteGroup) embed(t *testing.T) {
	t.Helper()
	var schema map[string]any
	if json.Unmarshal(g.Schema, &schema) != nil {
		return // true or false
	}
	if schema["$schema"] == "https://json-schema.org/draft/2020-12/schema" {
		delete(schema, "$schema")
	}
	rest, err := json.Marshal(schema)
	if err != nil {
		t.Fatal(err)
	}
	if schema["$id"] == nil && strings.Contains(string(rest), `"$`) {
		schema["$id"] = "https://suite.example" + g.path
	}
	if g.Schema, err = json.Marshal(schema); err != nil {
		t.Fatal(err)
	}
}

// ids are the values of $id anywhere in a value.
func ids(v any, list []string) []string {
	switch v := v.(type) {
	case map[string]any:
		for name, child := range v {
			if id, ok := child.(string); ok && name == "$id" {
				list = append(list, id)
			}
			list = ids(child, list)
		}
	case []any:
		for _, child := range v {
			list = ids(child, list)
		}
	}
	return list
}

// apart puts the schemas into as few descriptions as can be: one without any $id, and
// others in which no $id stands twice.
func apart(t *testing.T, groups []*suiteGroup) [][]*suiteGroup {
	t.Helper()
	sets, taken := [][]*suiteGroup{nil}, []map[string]bool{nil}
	for _, g := range groups {
		var schema any
		if err := json.Unmarshal(g.Schema, &schema); err != nil {
			t.Fatal(err)
		}
		own := ids(schema, nil)
		i := 0
		if len(own) > 0 || strings.Contains(string(g.Schema), `"$`) {
			i = 1
			for i < len(sets) && slices.ContainsFunc(own, func(id string) bool { return taken[i][id] }) {
				i++
			}
		}
		if i == len(sets) {
			sets, taken = append(sets, nil), append(taken, map[string]bool{})
		}
		sets[i] = append(sets[i], g)
		for _, id := range own {
			taken[i][id] = true
		}
	}
	return sets
}

// TestSchemaSuiteThroughValidatedRoutes holds routes of a gateway against the required
// part of the JSON-Schema-Test-Suite for draft 2020-12: each schema is that of the body
// of an operation, and each instance a body that is sent.
func TestSchemaSuiteThroughValidatedRoutes(t *testing.T) {
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		_, _ = w.Write(body)
	}))
	t.Cleanup(backend.Close)
	read := func(groups []*suiteGroup, name string) (*imports.Description, error) {
		return imports.Read(described(t, groups), imports.Options{Options: compile.Options{API: name, Service: backend.URL}, Hold: true})
	}
	var here []*suiteGroup
	var refused []string
	groups := suite(t)
	for _, g := range groups {
		g.embed(t)
		if strings.Contains(string(g.Schema), "localhost:1234") {
			if _, err := read([]*suiteGroup{g}, "remote"); err != nil {
				if !strings.Contains(err.Error(), "none is ever fetched") {
					t.Errorf("%s: %v", g.Description, err)
				}
				refused = append(refused, g.file+": "+g.Description)
				continue
			}
		}
		here = append(here, g)
	}
	want := slices.DeleteFunc(elsewhere(), func(name string) bool {
		file, _, _ := strings.Cut(name, ":")
		return !slices.ContainsFunc(groups, func(g *suiteGroup) bool { return g.file == file })
	})
	if !slices.Equal(refused, want) {
		t.Errorf("refused are\n%s", strings.Join(refused, "\n"))
	}
	doc := spec.Document{Version: spec.Version}
	for i, groups := range apart(t, here) {
		d, err := read(groups, fmt.Sprintf("suite%d", i))
		if err != nil {
			t.Fatal(err)
		}
		d.Services[0].Name = "suite0" // one for all
		for j := range d.Routes {
			d.Routes[j].Service = "suite0"
		}
		doc = into(t, d, doc).Document
	}
	gate := newDoor(t, doc)
	cases := 0
	for _, g := range here {
		for _, c := range g.Tests {
			cases++
			resp, answer, _ := gate.call("POST", g.path, "application/json", string(c.Data))
			valid := resp.StatusCode == http.StatusOK
			if valid != c.Valid || valid && answer != string(c.Data) || !valid && (resp.StatusCode != http.StatusBadRequest || !strings.Contains(answer, `"request.invalid"`)) {
				t.Errorf("%s: %s: %s: %d, valid is %v: %s", g.file, g.Description, c.Description, resp.StatusCode, c.Valid, answer)
			}
		}
	}
	t.Logf("%d instances of %d schemas hold in %d descriptions, %d schemas need documents from elsewhere and are refused", cases, len(here), len(doc.APIs), len(refused))
	if cases < 1000 {
		t.Errorf("only %d instances", cases)
	}
}

package contract

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/keywarden/keywarden/pkg/openapi"
	"github.com/keywarden/keywarden/pkg/openapi/jsonvalue"
)

// exceptions are the cases of the suite that do not hold, by file and case, with the
// reason. Nothing that would need a document from elsewhere can.
func exceptions() map[string]string {
	return map[string]string{}
}

// TestSchemaSuite holds the schemas of 3.1 against the required part of the
// JSON-Schema-Test-Suite for draft 2020-12. A schema goes through everything that one
// of a description goes through, except that the references in it are not looked at
// by openapi.Parse, which knows no $id.
func TestSchemaSuite(t *testing.T) {
	packed, err := os.Open("testdata/json-schema-2020-12.json.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer packed.Close()
	unpacked, err := gzip.NewReader(packed)
	if err != nil {
		t.Fatal(err)
	}
	var files map[string][]struct {
		Description string          `json:"description"`
		Schema      json.RawMessage `json:"schema"`
		Tests       []struct {
			Description string          `json:"description"`
			Data        json.RawMessage `json:"data"`
			Valid       bool            `json:"valid"`
		} `json:"tests"`
	}
	if err := json.NewDecoder(unpacked).Decode(&files); err != nil {
		t.Fatal(err)
	}
	cases, elsewhere, used := 0, 0, map[string]bool{}
	for file, groups := range files {
		for _, group := range groups {
			name := strings.TrimSuffix(file, ".json") + ": " + group.Description
			schema, err := suiteSchema(t, group.Schema)
			if err != nil {
				if remote(group.Schema) {
					elsewhere += len(group.Tests)
					continue
				}
				t.Errorf("%s: %v", name, err)
				continue
			}
			for _, c := range group.Tests {
				cases++
				full := name + ": " + c.Description
				v, at, why := jsonvalue.Parse(c.Data)
				if why != "" {
					t.Fatalf("%s: %s %s", full, at, why)
				}
				f := &failures{}
				f.check(schema, "", v)
				if valid := len(f.list) == 0; valid != c.Valid && exceptions()[full] == "" {
					t.Errorf("%s: valid is %v", full, valid)
				} else if valid != c.Valid {
					used[full] = true
				}
			}
		}
	}
	for name := range exceptions() {
		if !used[name] {
			t.Errorf("the exception %q is none", name)
		}
	}
	t.Logf("%d cases hold, %d need documents from elsewhere and are refused", cases, elsewhere)
	if cases < 1200 || elsewhere > 60 {
		t.Errorf("only %d cases, %d refused", cases, elsewhere)
	}
}

// remote reports whether a schema of the suite needs a document of its server.
func remote(schema []byte) bool { return bytes.Contains(schema, []byte("http://localhost:1234/")) }

// suiteSchema compiles a schema as the only document of a compiler like those of a
// description.
func suiteSchema(t *testing.T, text []byte) (*jsonschema.Schema, error) {
	t.Helper()
	doc, err := openapi.Parse("", []byte(`{"openapi":"3.1.0","info":{"title":"t","version":"1"},"paths":{}}`))
	if err != nil {
		t.Fatal(err)
	}
	api, err := New(doc)
	if err != nil {
		t.Fatal(err)
	}
	v, _, why := jsonvalue.Parse(text)
	if why != "" {
		t.Fatal(why)
	}
	tr := &translation{tree: &tree{root: map[string]any{}}, without: "readOnly"}
	tr.schema(v)
	const own = "keywarden:///suite.json"
	if err := api.requests.compiler.AddResource(own, v); err != nil {
		return nil, err
	}
	return api.requests.compiler.Compile(own)
}

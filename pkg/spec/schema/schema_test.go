package schema_test

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v4"

	"github.com/keywarden/keywarden/pkg/spec/schema"
)

// update writes the published schema instead of comparing with it.
var update = flag.Bool("update", false, "write docs/gateway.schema.json")

const (
	root      = "../../.."
	published = root + "/docs/gateway.schema.json"
)

func TestThePublishedSchemaIsThatOfTheTypes(t *testing.T) {
	got, err := schema.Write(os.DirFS(root))
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(published, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(published)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("docs/gateway.schema.json is not current: run make generate")
	}
}

func compiled(t *testing.T) *jsonschema.Schema {
	t.Helper()
	s, err := jsonschema.NewCompiler().Compile(published)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func validate(t *testing.T, s *jsonschema.Schema, text []byte) error {
	t.Helper()
	var doc any
	if err := yaml.Unmarshal(text, &doc); err != nil {
		t.Fatal(err)
	}
	return s.Validate(doc)
}

// What the loader accepts, an editor must not underline.
func TestGoodDocumentsKeepTheSchema(t *testing.T) {
	s := compiled(t)
	good, err := filepath.Glob("../testdata/*.json") // each stands beside the document that it is made from
	if err != nil || len(good) == 0 {
		t.Fatalf("no good documents: %v", err)
	}
	files := []string{root + "/configs/gateway.yaml"}
	for _, name := range good {
		files = append(files, strings.TrimSuffix(name, ".json")+".yaml", name)
	}
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := validate(t, s, text); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestMistakesOfShapeBreakTheSchema(t *testing.T) {
	s := compiled(t)
	for name, text := range map[string]string{
		"no version":        `services: []`,
		"another version":   `version: 2`,
		"unknown field":     `{version: 1, servics: []}`,
		"unknown in depth":  `{version: 1, routes: [{name: r, match: {pth: {exact: /}}}]}`,
		"wrong type":        `{version: 1, routes: [{name: 5}]}`,
		"unknown mode":      `{version: 1, routes: [{name: r, cors: {mode: shadwo}}]}`,
		"time without unit": `{version: 1, routes: [{name: r, timeout: "5"}]}`,
	} {
		if validate(t, s, []byte(text)) == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

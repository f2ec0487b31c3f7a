package translate_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v4"

	"github.com/keywarden/keywarden/pkg/kubernetes/translate"
)

var update = flag.Bool("update", false, "write the golden files anew")

var now = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

// failer is what tests and properties have in common.
type failer interface {
	Helper()
	Fatal(args ...any)
}

// read decodes the objects of a YAML file.
func read(t failer, text []byte) (all translate.Objects) {
	t.Helper()
	dec := yaml.NewDecoder(bytes.NewReader(text))
	for {
		var doc map[string]any
		if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		if doc == nil {
			continue
		}
		if err := add(&all, doc); err != nil {
			t.Fatal(err)
		}
	}
}

func add(all *translate.Objects, doc map[string]any) error {
	text, err := json.Marshal(doc)
	if err != nil {
		return err
	}
	switch kind := doc["kind"]; kind {
	case "IngressClass":
		return decode(text, &all.IngressClasses)
	case "Ingress":
		return decode(text, &all.Ingresses)
	case "GatewayClass":
		return decode(text, &all.GatewayClasses)
	case "Gateway":
		return decode(text, &all.Gateways)
	case "HTTPRoute":
		return decode(text, &all.HTTPRoutes)
	case "ReferenceGrant":
		return decode(text, &all.ReferenceGrants)
	case "Service":
		return decode(text, &all.Services)
	case "Namespace":
		return decode(text, &all.Namespaces)
	default:
		return fmt.Errorf("kind %v", kind)
	}
}

func decode[T any](text []byte, into *[]*T) error {
	one := new(T)
	*into = append(*into, one)
	return json.Unmarshal(text, one)
}

// options of all tests.
func options() translate.Options {
	return translate.Options{Controller: translate.Controller, Addresses: []string{"192.0.2.7", "gw.example.com"}}
}

// asYAML is a value as people read it.
func asYAML(t failer, v any) []byte {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	var plain any
	if err := json.Unmarshal(text, &plain); err != nil {
		t.Fatal(err)
	}
	out, err := yaml.Marshal(plain)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// statusText shows statuses and refusals.
func statusText(t failer, r translate.Result) []byte {
	t.Helper()
	var b bytes.Buffer
	for _, s := range r.Statuses {
		fmt.Fprintf(&b, "%s %s changed=%v\n", s.Kind, s.Meta.Key(), s.Changed)
		for line := range strings.Lines(string(asYAML(t, s.Value))) {
			b.WriteString("    " + line)
		}
	}
	for _, f := range r.Refused {
		fmt.Fprintf(&b, "refused: %s %s: %s: %s\n", f.Kind, f.Meta.Key(), f.Reason, f.Message)
	}
	return b.Bytes()
}

func golden(t *testing.T, path string, got []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, got, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s (-want +got):\n%s\nrun the test with -update when this is meant", path, diff)
	}
}

// TestGolden holds for each file of objects the document and the statuses that are
// made of it.
func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	tried := 0
	for _, path := range files {
		if strings.HasSuffix(path, ".golden.yaml") {
			continue
		}
		tried++
		name := strings.TrimSuffix(path, ".yaml")
		t.Run(filepath.Base(name), func(t *testing.T) {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			o := options()
			o.TLS = bytes.Contains(text, []byte("# with TLS"))
			r := translate.New().Translate(read(t, text), o, now)
			if err := r.Document.Validate(); err != nil {
				t.Errorf("the document is not valid: %v", err)
			}
			golden(t, name+".golden.yaml", asYAML(t, r.Document))
			golden(t, name+".status.golden", statusText(t, r))
		})
	}
	if tried == 0 {
		t.Error("there are no files")
	}
}

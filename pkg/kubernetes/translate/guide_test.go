package translate_test

import (
	"bytes"
	"os"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"

	"github.com/keywarden/keywarden/pkg/kubernetes/translate"
)

// TestObjectsOfTheGuideAreServed is for those who copy them.
func TestObjectsOfTheGuideAreServed(t *testing.T) {
	text, err := os.ReadFile("../../../docs/guides/kubernetes-routes.md")
	if err != nil {
		t.Fatal(err)
	}
	var all translate.Objects
	for _, block := range regexp.MustCompile("(?ms)^```yaml\n(.*?)^```").FindAllSubmatch(text, -1) {
		for one := range bytes.SplitSeq(block[1], []byte("\n---\n")) {
			var doc map[string]any
			if err := yaml.Unmarshal(one, &doc); err != nil {
				t.Fatal(err)
			}
			if version, _ := doc["apiVersion"].(string); strings.HasPrefix(version, "rbac.") {
				continue
			}
			if err := add(&all, doc); err != nil {
				t.Fatal(err)
			}
		}
	}
	r := translate.New().Translate(all, options(), now)
	if len(r.Refused) > 0 || len(r.Document.Routes) != 2 || len(r.Statuses) != 4 {
		t.Errorf("%d routes and %d statuses, refused: %+v", len(r.Document.Routes), len(r.Statuses), r.Refused)
	}
}

// FuzzTranslate: whatever the objects, the document is valid, and the translation does
// the same again.
func FuzzTranslate(f *testing.F) {
	files := []string{"ingress", "ingress-refused", "gateway", "httproute-filters", "httproute-refused", "httproute-refs", "httproute-precedence"}
	for _, name := range files {
		text, err := os.ReadFile("testdata/" + name + ".yaml")
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		var all translate.Objects
		dec := yaml.NewDecoder(bytes.NewReader(text))
		for range 50 {
			var doc map[string]any
			if dec.Decode(&doc) != nil {
				break
			}
			_ = add(&all, doc)
		}
		r := translate.New().Translate(all, options(), now)
		if err := r.Document.Validate(); err != nil {
			t.Errorf("the document is not valid: %v", err)
		}
		again := translate.New().Translate(all, options(), now)
		if string(asYAML(t, r.Document)) != string(asYAML(t, again.Document)) || string(statusText(t, r)) != string(statusText(t, again)) {
			t.Error("another translation of the same objects")
		}
	})
}

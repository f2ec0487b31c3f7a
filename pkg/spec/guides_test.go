package spec_test

import (
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keywarden/keywarden/pkg/spec"
	"github.com/keywarden/keywarden/pkg/spec/policies"
	"github.com/keywarden/keywarden/pkg/strictyaml"
)

const guides = "../../docs/guides"

// Fenced YAML, and YAML that an example writes to a file.
var (
	fencedYAML = regexp.MustCompile("(?ms)^```yaml\n(.*?)^```")
	hereYAML   = regexp.MustCompile(`(?ms)^cat > \S+\.yaml <<'?(\w+)'?\n(.*?)^(\w+)$`)
)

// example is a piece of YAML of a guide.
type example struct{ name, text string }

func examplesOf(t *testing.T, file string) []example {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	text := string(raw)
	var list []example
	add := func(from, to int) {
		line := 1 + strings.Count(text[:from], "\n")
		list = append(list, example{filepath.Base(file) + ":" + strconv.Itoa(line), text[from:to]})
	}
	for _, at := range fencedYAML.FindAllStringSubmatchIndex(text, -1) {
		add(at[2], at[3])
	}
	for _, at := range hereYAML.FindAllStringSubmatchIndex(text, -1) {
		if text[at[2]:at[3]] != text[at[6]:at[7]] {
			t.Fatalf("%s: a text that is written to a file does not end where it should", file)
		}
		add(at[4], at[5])
	}
	return list
}

// TestDocumentsInTheGuidesAreAccepted is for those who copy them.
func TestDocumentsInTheGuidesAreAccepted(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(guides, "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	documents := 0
	for _, file := range files {
		for _, e := range examplesOf(t, file) {
			// A comment may stand before the version.
			if !regexp.MustCompile(`(?m)\A(#.*\n|\s*\n)*version: 1$`).MatchString(e.text) {
				continue
			}
			documents++
			if _, err := spec.Parse(e.name, []byte(e.text)); err != nil {
				t.Errorf("the document of %s is refused: %v", e.name, err)
			}
		}
	}
	if documents < 8 {
		t.Errorf("found %d documents: the guides have more, or they are written otherwise", documents)
	}
}

// TestPoliciesInTheGuidesAreAccepted takes the pieces of the guides of policies as
// part of a route, which their indentation says they are.
func TestPoliciesInTheGuidesAreAccepted(t *testing.T) {
	for _, file := range []string{"policies.md", "expressions.md"} {
		pieces := 0
		for _, e := range examplesOf(t, filepath.Join(guides, file)) {
			if !strings.HasPrefix(e.text, "    ") {
				continue
			}
			pieces++
			document := "version: 1\nservices: [{name: a, url: \"http://127.0.0.1:1\"}]\nroutes:\n  - name: r\n    service: a\n" + e.text
			if _, err := spec.Parse(e.name, []byte(document)); err != nil {
				t.Errorf("the policies of %s are refused: %v", e.name, err)
			}
		}
		if pieces < 3 {
			t.Errorf("%s: found %d pieces", file, pieces)
		}
	}
}

// TestTheGuideHasEveryPolicyInItsOrder reads the table of the guide.
func TestTheGuideHasEveryPolicyInItsOrder(t *testing.T) {
	raw, err := os.ReadFile(filepath.Join(guides, "policies.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(raw), "## All of them, in their order")
	table, _, _ = strings.Cut(table, "\n## ")
	var got []string
	for _, row := range regexp.MustCompile(`(?m)^\| ([^|]*) \|`).FindAllStringSubmatch(table, -1) {
		for _, name := range regexp.MustCompile("`([a-z_]+)`").FindAllStringSubmatch(row[1], -1) {
			got = append(got, name[1])
		}
	}
	var want []string
	for f := range reflect.TypeFor[policies.Policies]().Fields() {
		want = append(want, strictyaml.FieldName(f))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the table of policies (-order of the chain +guide):\n%s", diff)
	}
}

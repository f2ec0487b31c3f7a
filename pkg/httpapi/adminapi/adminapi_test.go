package adminapi

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/keywarden/keywarden/pkg/spec"
)

// The examples of RFC 7396, appendix A, of which target and patch are objects.
func TestMergePatchIsTheOneOfTheRFC(t *testing.T) {
	for _, c := range []struct{ target, patch, want string }{
		{`{"a":"b"}`, `{"a":"c"}`, `{"a":"c"}`},
		{`{"a":"b"}`, `{"b":"c"}`, `{"a":"b","b":"c"}`},
		{`{"a":"b"}`, `{"a":null}`, `{}`},
		{`{"a":"b","b":"c"}`, `{"a":null}`, `{"b":"c"}`},
		{`{"a":["b"]}`, `{"a":"c"}`, `{"a":"c"}`},
		{`{"a":"c"}`, `{"a":["b"]}`, `{"a":["b"]}`},
		{`{"a":{"b":"c"}}`, `{"a":{"b":"d","c":null}}`, `{"a":{"b":"d"}}`},
		{`{"a":[{"b":"c"}]}`, `{"a":[1]}`, `{"a":[1]}`},
		{`{"e":null}`, `{"a":1}`, `{"a":1,"e":null}`},
		{`{}`, `{"a":{"bb":{"ccc":null}}}`, `{"a":{"bb":{}}}`},
		{`{"a":12345678901234567890}`, `{"b":1.50}`, `{"a":12345678901234567890,"b":1.50}`},
	} {
		target, err1 := decode([]byte(c.target))
		patch, err2 := decode([]byte(c.patch))
		if err1 != nil || err2 != nil {
			t.Fatal(err1, err2)
		}
		got, err := json.Marshal(merge(target, patch))
		if err != nil || string(got) != c.want {
			t.Errorf("%s with %s is %s, want %s (%v)", c.target, c.patch, got, c.want, err)
		}
	}
}

// A document in YAML is the document.
func TestYAMLIsReadBackAsTheSameDocument(t *testing.T) {
	files, err := filepath.Glob("../../spec/testdata/*.json")
	if err != nil || len(files) < 3 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		sameInYAML(t, text)
	}
	rapid.Check(t, func(t *rapid.T) {
		hard := rapid.OneOf(rapid.String(), rapid.SampledFrom([]string{
			"null", "~", "true", "yes", "0x1", "1e3", "1_000", "2026-01-01", ".inf", "- a", "a: b", "#", "&a", "*a", "!!int", "|", ">-", "'", `"`, "%", "@", "`",
			" a", "a ", "a\n", "\na", "a\n\nb", "\t", "\r\n", "\u0085", "\u2028", "\ufeff", "😀", strings.Repeat("long words ", 200), "---", "...", "<<", "=",
		}))
		document := map[string]any{"version": 1, "routes": []any{map[string]any{
			"name": "r", "respond": map[string]any{"body": "x" + hard.Draw(t, "body")},
			"match": map[string]any{"headers": []any{map[string]any{"name": "X-A", "value": hard.Filter(func(s string) bool { return s != "" }).Draw(t, "value")}}},
		}}}
		text, err := json.MarshalIndent(document, "", " ")
		if err != nil {
			t.Fatal(err)
		}
		doc, err := spec.Parse("", text)
		if err != nil {
			return // such a text is in no document
		}
		canonical, err := json.Marshal(doc)
		if err != nil {
			t.Fatal(err)
		}
		sameInYAML(t, canonical)
	})
}

func sameInYAML(t rapid.TB, text []byte) {
	t.Helper()
	want, err := spec.Parse("", text)
	if err != nil {
		t.Fatal(err)
	}
	yaml, err := toYAML(text)
	if err != nil {
		t.Fatal(err)
	}
	got, err := spec.Parse("", yaml)
	if err != nil {
		t.Fatalf("%v in:\n%q", err, yaml)
	}
	first, err1 := want.Digest()
	second, err2 := got.Digest()
	if err1 != nil || err2 != nil || first != second {
		t.Fatalf("the document became another one (%v, %v):\n%s\n%s", err1, err2, text, yaml)
	}
	if strings.HasPrefix(string(yaml), "{") {
		t.Errorf("that is JSON:\n%s", yaml)
	}
}

// JSON may be written in one line, and with escapes that YAML does not know.
func TestJSONIsReadAsJSON(t *testing.T) {
	body := func(text string) string {
		return `{"version":1,"routes":[{"name":"r","respond":{"body":"` + text + `"}}]}`
	}
	for text, want := range map[string]string{
		`\ud83d\ude00`: "😀", `a\/b`: "a/b", `\u003c\t\"`: "<\t\"", `\\ud83d\\ude00`: `\ud83d\ude00`, `\\\ud83d\ude00`: `\😀`, strings.Repeat("x", 60_000): strings.Repeat("x", 60_000),
	} {
		doc, err := parse(typeJSON, []byte(body(text)))
		if err != nil {
			t.Errorf("%.40s: %v", text, err)
			continue
		}
		if got := doc.Routes[0].Respond.Body; got != want {
			t.Errorf("%.40s was read as %.40q", text, got)
		}
	}
	long := `{"version":1,"services":[`
	for i := range 3000 {
		long += `{"name":"s` + strings.Repeat("0", i%3) + string(rune('a'+i%26)) + strings.Repeat("x", i/26%50) + `","url":"http://a"},`
	}
	if _, err := parse(typeJSON, []byte(long[:len(long)-1]+"]}")); err != nil && strings.Contains(err.Error(), "64 KiB") {
		t.Errorf("one long line is refused for its length: %v", err)
	}
}

func TestMistakesOfJSONHaveAPlace(t *testing.T) {
	for text, want := range map[string]spec.Place{
		"{\n  \"version\": 1,\n  oops\n}": {Line: 3, Column: 3}, "": {Line: 1, Column: 1}, "{": {Line: 1, Column: 1},
		"{}\n{}": {Line: 2, Column: 1}, "{\"a\":\n1,}": {Line: 2, Column: 3},
	} {
		got := syntaxError([]byte(text))
		if got == nil {
			t.Errorf("%q has no mistake", text)
			continue
		}
		if diff := cmp.Diff(want, got.Place); diff != "" {
			t.Errorf("%q (-want +got):\n%s", text, diff)
		}
	}
	if got := syntaxError([]byte(" {\"a\": [1e5]} \n")); got != nil {
		t.Errorf("a good text has the mistake %v", got)
	}
}

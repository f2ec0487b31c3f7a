package strictyaml_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keywarden/keywarden/pkg/strictyaml"
)

type common struct {
	Mode string `json:"mode"`
}

type limit struct {
	common
	Bytes int `json:"bytes"`
}

// Short implements the shorthand.
func (*limit) Short() string { return "bytes" }

type document struct {
	Name   string            `json:"name"`
	Limits []limit           `json:"limits"`
	Labels map[string]string `json:"labels"`
	Ratio  float64           `json:"ratio"`
	On     *bool             `json:"on"`
}

func TestDecode(t *testing.T) {
	on := true
	for _, c := range []struct {
		name, text string
		want       document
		wrong      string // lines of the report; empty: none
	}{
		{"everything", "name: a\nlimits: [5, {mode: x, bytes: 6}]\nlabels: {b: c}\nratio: 0.5\non: true",
			document{Name: "a", Limits: []limit{{Bytes: 5}, {common{"x"}, 6}}, Labels: map[string]string{"b": "c"}, Ratio: 0.5, On: &on}, ""},
		{"all mistakes at once", "nam: a\nratio: many\nlimits: {}", document{},
			"1:1: nam: unknown field, did you mean name?\n2:8: ratio: must be a number\n3:9: limits: must be a list"},
		{"a name twice", "labels: {a: b, a: c}", document{Labels: map[string]string{"a": "b"}}, "1:16: labels.a: is given twice"},
		{"a number where a text belongs", "labels: {a: 5}", document{Labels: map[string]string{"a": ""}}, "1:13: labels.a: must be a text; put it in quotes"},
		{"the shorthand of the wrong kind", "limits: [many]", document{Limits: []limit{{}}}, "1:10: limits[0].bytes: must be a whole number"},
		{"an unknown field beside an embedded one", "limits: [{mod: x}]", document{Limits: []limit{{}}}, "1:11: limits[0].mod: unknown field, did you mean mode?"},
		{"no YAML", "a: [", document{}, "2:1: is not valid YAML: did not find expected node content"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got document
			decoded := strictyaml.Decode([]byte(c.text), &got)
			if diff := cmp.Diff(c.want, got, cmp.AllowUnexported(limit{})); diff != "" {
				t.Error(diff)
			}
			wrong := ""
			if err := decoded.Report(""); err != nil {
				wrong = err.Error()
			}
			if diff := cmp.Diff(c.wrong, wrong); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestWhatTheOwnerFindsStandsWhereTheValueDoes(t *testing.T) {
	var doc document
	decoded := strictyaml.Decode([]byte("name: a\nratio: many\nlimits:\n  - 5\n"), &doc)
	var found strictyaml.Collector
	found.Add(strictyaml.Violation{Place: strictyaml.Place{Path: "limits[0].bytes"}, Detail: "is too small"})
	found.Add(strictyaml.Violation{Place: strictyaml.Place{Path: "ratio"}, Detail: "is required"}) // only because it could not be read
	decoded.Merge(&found)
	want := "f.yaml:2:8: ratio: must be a number\nf.yaml:4:5: limits[0].bytes: is too small"
	if err := decoded.Report("f.yaml"); err == nil || err.Error() != want {
		t.Errorf("got %v", err)
	}
}

// Programs write JSON as one line, with texts of any length in it.
func TestLongLinesAreReadWhereTheyAreJSON(t *testing.T) {
	long := strings.Repeat("a, [b]: ", 100_000)
	for text, wrong := range map[string]string{
		`{"name":"` + long + `","limits":[5]}`:                                                       "",
		`{"name":"` + long + `","limits":[5],"nam":1}`:                                               "unknown field, did you mean name?",
		`{"name":"` + long + `","limits":[5],"name":"b"}`:                                            "name: is given twice",
		`{"name":"` + long + `","limits":[true]}`:                                                    "limits[0].bytes: must be a whole number",
		`{name: "` + long[:80_000] + `"}`:                                                            "1:1: the line is longer than 64 KiB; break it",
		"{\"name\":\"\xff" + long[:80_000] + `"}`:                                                    "1:1: the line is longer than 64 KiB; break it",
		"{\n\"name\":\"" + long + "\",\n  \"ratio\":\n    null}":                                     "4:5: ratio: has no value",
		`{"name":"` + long + `","limits":[` + strings.Repeat("1,", 500_000) + `1]}`:                  "the document has too many items",
		`{"name":"` + long + `","limits":` + strings.Repeat("[", 50) + strings.Repeat("]", 50) + "}": "is nested too deeply",
	} {
		var got document
		err := strictyaml.Decode([]byte(text), &got).Report("")
		switch {
		case wrong == "" && (err != nil || got.Name != long || got.Limits[0].Bytes != 5):
			t.Errorf("%.40s: %v", text, err)
		case wrong != "" && (err == nil || !strings.Contains(err.Error(), wrong)):
			t.Errorf("%.40s…: %v, want %s", text, err, wrong)
		}
	}
}

// The scanner of YAML would hold all of it at once.
func TestLargeTextsInBracesMustBeJSON(t *testing.T) {
	rows := strings.Repeat("  {\"a\": \"b\"},\n", 80_000)
	for text, wrong := range map[string]string{
		"[\n" + rows + "  5]":      "",
		"[\n" + rows + "  5,\n]":   "80003:1: begins as JSON and is none: invalid character ']' looking for beginning of value",
		" \n{a: [\n" + rows + "]}": "2:2: begins as JSON and is none: invalid character 'a' looking for beginning of object key string",
		"[{a: b},]":                "",
		"a: [\n" + rows + "]":      "",
	} {
		_, violation := strictyaml.Load([]byte(text), strictyaml.Bounds{Bytes: 8 << 20, Line: 64 << 10, Items: 1_000_000, Depth: 16})
		got := ""
		if violation != nil {
			got = violation.String()
		}
		if got != wrong {
			t.Errorf("%.12q…: %q, want %q", text, got, wrong)
		}
	}
}

// FuzzDecode holds every text to a report of whole lines, or to none.
func FuzzDecode(f *testing.F) {
	for _, text := range []string{"name: a", "limits: [5, {bytes: 6}]", "labels: {a: b}", "a: &x 1\nb: *x", "? [a]\n: b", "!!str a", "\x00", "- -", "a: |\n b"} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var doc document
		err := strictyaml.Decode(data, &doc).Report("fuzz")
		var vs *strictyaml.Violations
		if err == nil {
			return
		}
		if !errors.As(err, &vs) || len(vs.List) == 0 || len(vs.List) > 100 {
			t.Fatalf("%v is no report", err)
		}
		for _, line := range vs.Lines() {
			if strings.ContainsAny(line, "\n\r\x00") {
				t.Fatalf("the report holds a control character: %q", line)
			}
		}
	})
}

package attacktest

import (
	"slices"
	"strings"
	"testing"
)

const caseFile = "../testdata/attack/cases.jsonl"

func TestLoadReadsEveryCaseOfTheFile(t *testing.T) {
	cases := Load(t, caseFile)
	count := map[Kind]int{}
	for _, c := range cases {
		count[c.Kind]++
		if c.Area == "" || c.Title == "" || c.Expected == "" {
			t.Errorf("%s lacks an area, a title or an expected outcome", c.ID)
		}
		if c.Runnable() != (len(c.raw)+len(c.http) > 0) {
			t.Errorf("%s: runnable %t, with %d raw and %d http steps", c.ID, c.Runnable(), len(c.raw), len(c.http))
		}
	}
	for _, kind := range []Kind{KindRaw, KindHTTP, KindH2, KindFlow, KindRace} {
		if count[kind] == 0 {
			t.Errorf("no case of kind %s was read", kind)
		}
	}
	if got := len(InAreas(cases, controlArea)); got < 10 {
		t.Errorf("%d cases of area %s, want at least 10", got, controlArea)
	}
}

func TestInAreasKeepsFileOrder(t *testing.T) {
	cases := []Case{{ID: "B-1", Area: "B"}, {ID: "A-1", Area: "A"}, {ID: "C-1", Area: "C"}, {ID: "B-2", Area: "B"}}
	var got []string
	for _, c := range InAreas(cases, "A", "B") {
		got = append(got, c.ID)
	}
	if want := []string{"B-1", "A-1", "B-2"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// TestParseCasesRefusesWhatItDoesNotKnow shows that a mistake in the file is an
// error and not a case that quietly checks less.
func TestParseCasesRefusesWhatItDoesNotKnow(t *testing.T) {
	line := func(kind, step string) string {
		return `{"id":"X-1","area":"X","title":"t","kind":"` + kind + `","steps":[` + step + `]}`
	}
	for name, text := range map[string]string{
		"unknown expectation":           line("raw", `{"raw":"x","expect":{"status_is":[200]}}`),
		"unknown expectation in any_of": line("raw", `{"raw":"x","expect":{"any_of":[{"status_in":[1]},{"statuses":[2]}]}}`),
		"null expectation":              line("raw", `{"raw":"x","expect":{"status_in":null}}`),
		"wrong type":                    line("raw", `{"raw":"x","expect":{"upstream_max":"1"}}`),
		"bad pattern":                   line("raw", `{"raw":"x","expect":{"upstream_target_match":"("}}`),
		"expect is a list":              line("raw", `{"raw":"x","expect":[]}`),
		"unknown raw member":            line("raw", `{"raw":"x","tls":true,"expect":{}}`),
		"unknown escape":                line("raw", `{"raw":"\\q","expect":{}}`),
		"bad pace":                      line("raw", `{"raw":"x","pace":[0,1],"expect":{}}`),
		"short pace":                    line("raw", `{"raw":"x","pace":[1],"expect":{}}`),
		"unknown http member":           line("http", `{"method":"GET","path":"/","query":"a","expect":{}}`),
		"http without path":             line("http", `{"method":"GET","expect":{}}`),
		"unknown http expectation":      line("http", `{"method":"GET","path":"/","expect":{"json":1}}`),
		"unknown h2 member":             line("h2", `{"headers":[],"raw":"x"}`),
		"unknown h2 expectation":        line("h2", `{"headers":[],"expect":{"rst":true}}`),
		"unknown kind":                  line("smoke", `{"raw":"x"}`),
		"flow with steps":               line("flow", `{"raw":"x"}`),
		"raw without steps":             line("raw", ""),
		"unknown case member":           `{"id":"X-1","kind":"flow","steps":[],"skip":true}`,
		"no id":                         `{"kind":"flow","steps":[]}`,
		"id taken":                      `{"id":"X-1","kind":"flow"}` + "\n" + `{"id":"X-1","kind":"flow"}`,
		"two values on a line":          `{"id":"X-1","kind":"flow"} {}`,
		"not JSON":                      `id: X-1`,
	} {
		if cases, err := parseCases(strings.NewReader(text)); err == nil {
			t.Errorf("%s: got %d cases, want an error", name, len(cases))
		}
	}
}

func TestParseCasesNamesLineAndCase(t *testing.T) {
	text := `{"id":"X-1","kind":"flow"}` + "\n\n" + `{"id":"X-2","kind":"raw","steps":[{"raw":"x","expect":{"bogus":1}}]}`
	_, err := parseCases(strings.NewReader(text))
	for _, want := range []string{"line 3", "X-2", "step 0", "bogus"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v does not say %q", err, want)
		}
	}
}

func FuzzParseCases(f *testing.F) {
	f.Add(`{"id":"X-1","area":"X","kind":"raw","steps":[{"raw":"\\r\\n","want":2,"pace":[1,0.5],"expect":{"any_of":[{"closed":true}]}}]}`)
	f.Add(`{"id":"X-1","kind":"http","steps":[{"method":"GET","path":"/","body":{"a":1},"capture":{"A":"b.0"}}]}`)
	f.Fuzz(func(t *testing.T, text string) {
		cases, err := parseCases(strings.NewReader(text))
		for _, c := range cases {
			if c.Runnable() && len(c.raw)+len(c.http) == 0 {
				t.Fatalf("%q can be run and does nothing (error %v)", c.ID, err)
			}
		}
	})
}

package mediatypes_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/keywarden/keywarden/pkg/gateway/policy"
	"github.com/keywarden/keywarden/pkg/gateway/policy/mediatypes"
	"github.com/keywarden/keywarden/pkg/problem"
)

func TestOnlyNamedMediaTypesPass(t *testing.T) {
	step, err := mediatypes.New([]string{"application/json", "image/*"})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		types  []string
		length int64
		passes bool
	}{
		{"named", []string{"application/json"}, 5, true},
		{"with parameters", []string{"Application/JSON; charset=utf-8"}, 5, true},
		{"of a named family", []string{"image/png"}, -1, true},
		{"other", []string{"text/xml"}, 5, false},
		{"other of unknown length", []string{"text/xml"}, -1, false},
		{"longer name", []string{"application/json-patch+json"}, 5, false},
		{"longer family", []string{"imagex/png"}, 5, false},
		{"none", nil, 5, false},
		{"two", []string{"application/json", "text/xml"}, 5, false},
		{"a list", []string{"application/json, text/xml"}, 5, false},
		{"a family alone", []string{"image"}, 5, false},
		{"empty", []string{""}, 5, false},
		{"malformed", []string{"application/json; x"}, 5, false},
		{"no body", nil, 0, true},
		{"no body, other type", []string{"text/xml"}, 0, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := httptest.NewRequest("POST", "/", http.NoBody)
			r.ContentLength, r.Header["Content-Type"] = c.length, c.types
			err := step.Check(r)
			if (err == nil) != c.passes || err != nil && problem.From(err).Status() != http.StatusUnsupportedMediaType {
				t.Errorf("got %v", err)
			}
			if err != nil && problem.From(err).Accept != "application/json, image/*" {
				t.Errorf("offered is %q", problem.From(err).Accept)
			}
		})
	}
	if _, err := mediatypes.New(nil); err == nil {
		t.Error("a route for no media type is accepted")
	}
}

// TestOverTheWire holds what counts as a body to be what net/http makes of
// requests.
func TestOverTheWire(t *testing.T) {
	step, err := mediatypes.New([]string{"application/json"})
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(policy.Chain(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}), nil, policy.Rule{Step: step}))
	defer s.Close()
	for _, c := range []struct {
		name, method, kind string
		body               io.Reader
		status             int
	}{
		{"no body", "GET", "", nil, 200},
		{"empty body", "POST", "", http.NoBody, 200},
		{"chunked without a type", "POST", "", io.MultiReader(strings.NewReader("{}")), 415},
		{"chunked", "POST", "application/json", io.MultiReader(strings.NewReader("{}")), 200},
		{"GET with a body", "GET", "text/plain", strings.NewReader("a"), 415},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, err := http.NewRequestWithContext(t.Context(), c.method, s.URL, c.body)
			if err != nil {
				t.Fatal(err)
			}
			if c.kind != "" {
				r.Header.Set("Content-Type", c.kind)
			}
			resp, err := s.Client().Do(r)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode != c.status || (c.status == 415) != (resp.Header.Get("Accept") == "application/json") {
				t.Errorf("%d, Accept %q", resp.StatusCode, resp.Header.Get("Accept"))
			}
		})
	}
}

func BenchmarkCheck(b *testing.B) {
	step, err := mediatypes.New([]string{"text/plain", "image/*", "application/json"})
	if err != nil {
		b.Fatal(err)
	}
	for name, value := range map[string]string{"plain": "application/json", "parameters": "application/json; charset=utf-8"} {
		b.Run(name, func(b *testing.B) {
			r := httptest.NewRequest("POST", "/", strings.NewReader("{}"))
			r.Header.Set("Content-Type", value)
			b.ReportAllocs()
			for b.Loop() {
				if err := step.Check(r); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

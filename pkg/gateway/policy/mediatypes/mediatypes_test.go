package mediatypes_test

import (
	"net/http"
	"net/http/httptest"
	"testing"

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
		})
	}
	if _, err := mediatypes.New(nil); err == nil {
		t.Error("a route for no media type is accepted")
	}
}

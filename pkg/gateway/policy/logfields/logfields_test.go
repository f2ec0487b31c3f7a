package logfields_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/keywarden/keywarden/pkg/gateway/policy/logfields"
	"github.com/keywarden/keywarden/pkg/reqctx"
)

// note returns what a request with the header leaves for the log, beside before.
func note(t *testing.T, fields map[string]string, h http.Header, before ...reqctx.Field) []reqctx.Field {
	t.Helper()
	step, err := logfields.New(fields)
	if err != nil {
		t.Fatal(err)
	}
	info := &reqctx.Info{ID: "id-1", Fields: before}
	r := httptest.NewRequest("GET", "/", nil)
	r.Header = h
	called := false
	step.Apply(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { called = true })).
		ServeHTTP(httptest.NewRecorder(), r.WithContext(reqctx.With(r.Context(), info)))
	if !called {
		t.Error("the request did not go on")
	}
	return info.Fields
}

func TestFieldsAreNotedInTheOrderOfTheirNames(t *testing.T) {
	got := note(t, map[string]string{
		"tenant": `{{ request.header "X-Tenant" }}`, "stage": "test", "missing": `{{ request.header "X-Missing" }}`, "id": "<{{ request.id }}>",
	}, http.Header{"X-Tenant": {"acme\r\nforged"}})
	want := []reqctx.Field{{Name: "id", Value: "<id-1>"}, {Name: "stage", Value: "test"}, {Name: "tenant", Value: "acmeforged"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestFieldsAreBounded(t *testing.T) {
	got := note(t, map[string]string{"a": `{{ request.header "X-A" }}`}, http.Header{"X-A": {"x" + strings.Repeat("é", 5000)}})
	if len(got) != 1 || len(got[0].Value) > reqctx.MaxFieldValue || len(got[0].Value) < reqctx.MaxFieldValue-4 || !utf8.ValidString(got[0].Value) {
		t.Errorf("got %q", got)
	}
	fields, before := map[string]string{}, []reqctx.Field{{Name: "before", Value: "1"}}
	for i := range reqctx.MaxFields {
		fields[fmt.Sprintf("f%d", i)] = "1"
	}
	if got := note(t, fields, nil, before...); len(got) != reqctx.MaxFields {
		t.Errorf("%d fields", len(got))
	}
	fields["more"] = "1"
	if _, err := logfields.New(fields); err == nil {
		t.Error("too many fields were accepted")
	}
}

func TestNamesOfTheLogAreRefused(t *testing.T) {
	for _, name := range []string{"status", "path", "msg", "time", "request_id", "trace_id", "Tenant", "a b", "", "0a", "a-b", strings.Repeat("a", 41)} {
		if _, err := logfields.New(map[string]string{name: "a"}); err == nil {
			t.Errorf("%q was accepted", name)
		}
	}
	if _, err := logfields.New(map[string]string{"tenant": "{{ nothing }}"}); err == nil {
		t.Error("a wrong template was accepted")
	}
}

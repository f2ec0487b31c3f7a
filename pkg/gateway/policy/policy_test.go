package policy_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/keywarden/keywarden/pkg/gateway/policy"
	"github.com/keywarden/keywarden/pkg/problem"
	"github.com/keywarden/keywarden/pkg/reqctx"
)

func TestChainRunsTheFirstStepFirst(t *testing.T) {
	var order string
	step := func(name string) policy.Middleware {
		return func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				order += name
				next.ServeHTTP(w, r)
			})
		}
	}
	last := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { order += "c" })
	policy.Chain(last, step("a"), step("b")).ServeHTTP(nil, nil)
	if order != "abc" {
		t.Errorf("got %s, want abc", order)
	}
}

func TestRefuseAnswersAndRecords(t *testing.T) {
	cause := errors.New("cause")
	refusal := problem.Define(problem.Forbidden, "test.refused", "No.")
	info := &reqctx.Info{ID: "id-1"}
	r := httptest.NewRequest("GET", "/", nil)
	r = r.WithContext(reqctx.With(r.Context(), info))
	w := httptest.NewRecorder()

	policy.Refuse(w, r, refusal.With(cause))

	var doc problem.Document
	if err := json.Unmarshal(w.Body.Bytes(), &doc); err != nil {
		t.Fatal(err)
	}
	if w.Code != http.StatusForbidden || doc.Code != "test.refused" || doc.RequestID != "id-1" {
		t.Errorf("answered %d %+v", w.Code, doc)
	}
	if info.Code != "test.refused" || !errors.Is(info.Err, cause) {
		t.Errorf("recorded %q, %v", info.Code, info.Err)
	}
}

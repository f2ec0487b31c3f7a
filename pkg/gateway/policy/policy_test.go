package policy_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keywarden/keywarden/pkg/gateway/policy"
	"github.com/keywarden/keywarden/pkg/problem"
	"github.com/keywarden/keywarden/pkg/reqctx"
)

var errNo = problem.Define(problem.Forbidden, "test.refused", "No.")

// trail notes in which order things happen.
type trail []string

func (t *trail) note(what string) { *t = append(*t, what) }

// step refuses with err, or notes that it was applied.
func (t *trail) step(name string, err error) policy.Step {
	return policy.Step{
		Check: func(*http.Request) error { t.note("check " + name); return err },
		Apply: func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				t.note("apply " + name)
				next.ServeHTTP(w, r)
			})
		},
	}
}

// Shadowed implements policy.Observer.
func (t *trail) Shadowed(_ *http.Request, name string, err error) {
	if err != nil {
		name += " refuses"
	}
	t.note("shadow " + name)
}

// ConditionFailed implements policy.Observer.
func (t *trail) ConditionFailed(_ *http.Request, name string, _ error) {
	t.note("condition of " + name)
}

func (t *trail) last() http.Handler {
	return http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.note("last") })
}

func always(counts bool, err error) policy.Condition {
	return func(*http.Request) (bool, error) { return counts, err }
}

func TestChain(t *testing.T) {
	for _, c := range []struct {
		name  string
		rules func(t *trail) []policy.Rule
		want  string
		code  int
	}{
		{"the first rule is asked first", func(t *trail) []policy.Rule {
			return []policy.Rule{{Name: "a", Step: t.step("a", nil)}, {Name: "b", Step: t.step("b", nil)}}
		}, "check a, apply a, check b, apply b, last", 200},
		{"a refusal ends the chain before it is applied", func(t *trail) []policy.Rule {
			return []policy.Rule{{Name: "a", Step: t.step("a", errNo)}, {Name: "b", Step: t.step("b", nil)}}
		}, "check a", 403},
		{"in shadow a refusal is reported and the request passes", func(t *trail) []policy.Rule {
			return []policy.Rule{{Name: "a", Step: t.step("a", errNo), Mode: policy.Shadow}}
		}, "check a, shadow a refuses, last", 200},
		{"in shadow nothing is applied", func(t *trail) []policy.Rule {
			return []policy.Rule{{Name: "a", Step: t.step("a", nil), Mode: policy.Shadow}}
		}, "check a, last", 200},
		{"in shadow a policy that only changes is reported", func(t *trail) []policy.Rule {
			s := t.step("a", nil)
			s.Check = nil
			return []policy.Rule{{Name: "a", Step: s, Mode: policy.Shadow}}
		}, "shadow a, last", 200},
		{"a condition that does not hold leaves the policy out", func(t *trail) []policy.Rule {
			return []policy.Rule{{Name: "a", Step: t.step("a", errNo), When: always(false, nil)}}
		}, "last", 200},
		{"a condition that holds asks it", func(t *trail) []policy.Rule {
			return []policy.Rule{{Name: "a", Step: t.step("a", errNo), When: always(true, nil)}}
		}, "check a", 403},
		{"a condition that fails lets nobody pass", func(t *trail) []policy.Rule {
			return []policy.Rule{{Name: "a", Step: t.step("a", nil), When: always(false, errors.New("broken"))}}
		}, "condition of a", 500},
		{"but in shadow everybody", func(t *trail) []policy.Rule {
			return []policy.Rule{{Name: "a", Step: t.step("a", nil), Mode: policy.Shadow, When: always(false, errors.New("broken"))}}
		}, "condition of a, last", 200},
	} {
		t.Run(c.name, func(t *testing.T) {
			seen := &trail{}
			w := httptest.NewRecorder()
			policy.Chain(seen.last(), seen, c.rules(seen)...).ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
			if diff := cmp.Diff(c.want, strings.Join(*seen, ", ")); diff != "" || w.Code != c.code {
				t.Errorf("status %d, want %d; %s", w.Code, c.code, diff)
			}
		})
	}
}

func TestRefuseAnswersRecordsAndDecides(t *testing.T) {
	cause := errors.New("cause")
	info := &reqctx.Info{ID: "id-1"}
	info.Decide = func(_ *http.Request, p *problem.Error) string { return "decision of " + info.Policy + " " + p.Code }
	r := httptest.NewRequest("GET", "/", nil)
	r = r.WithContext(reqctx.With(r.Context(), info))
	w := httptest.NewRecorder()

	policy.Refuse(w, r, "cors", errNo.With(cause))

	var doc problem.Document
	if err := json.Unmarshal(w.Body.Bytes(), &doc); err != nil {
		t.Fatal(err)
	}
	if w.Code != http.StatusForbidden || doc.Code != "test.refused" || doc.RequestID != "id-1" || doc.DecisionID != "decision of cors test.refused" {
		t.Errorf("answered %d %+v", w.Code, doc)
	}
	if info.Code != "test.refused" || info.Policy != "cors" || !errors.Is(info.Err, cause) {
		t.Errorf("recorded %q by %q, %v", info.Code, info.Policy, info.Err)
	}
}

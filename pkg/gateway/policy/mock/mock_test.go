package mock_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/keywarden/keywarden/pkg/gateway/policy"
	"github.com/keywarden/keywarden/pkg/gateway/policy/mock"
	"github.com/keywarden/keywarden/pkg/openapi/contract"
)

const description = `
openapi: 3.0.0
info: {title: t, version: "1"}
paths:
  /a:
    get:
      operationId: get
      responses:
        "200": {description: x, content: {application/json: {examples: {one: {value: {n: 1}}, two: {value: {n: 2}}}}}}
        "404": {description: x, content: {text/plain: {example: gone}}}
        "204": {description: x}
    put: {operationId: put, responses: {"500": {description: x}}}
`

func handler(t *testing.T, id string) http.Handler {
	t.Helper()
	api, err := contract.Load("", []byte(description))
	if err != nil {
		t.Fatal(err)
	}
	op, err := api.Operation(id)
	if err != nil {
		t.Fatal(err)
	}
	step, err := mock.New(op)
	if err != nil {
		t.Fatal(err)
	}
	service := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("the service was asked") })
	return policy.Chain(service, nil, policy.Rule{Step: step, Name: mock.Name})
}

func TestPreferChoosesTheAnswer(t *testing.T) {
	h := handler(t, "get")
	for _, c := range []struct {
		name    string
		prefer  []string
		status  int
		body    string
		applied string
	}{
		{"nothing", nil, 200, `{"n":1}`, ""},
		{"others", []string{"respond-async, wait=10"}, 200, `{"n":1}`, ""},
		{"example", []string{"example=two"}, 200, `{"n":2}`, "example=two"},
		{"code", []string{`Code="404"`}, 404, "gone", "code=404"},
		{"both", []string{"code=200", "example=two; x=y"}, 200, `{"n":2}`, "code=200, example=two"},
		{"the first counts", []string{"code=404, code=200"}, 404, "gone", "code=404"},
		{"no body", []string{"code=204"}, 204, "", "code=204"},
		{"not described", []string{"code=500"}, 400, "gateway.mock_not_described", ""},
		{"no such example", []string{"example=three"}, 400, "gateway.mock_not_described", ""},
		{"no code", []string{"code=abc"}, 400, "gateway.mock_not_described", ""},
		{"negative", []string{"code=-1"}, 400, "gateway.mock_not_described", ""},
		{"no name", []string{`example="a b"`}, 400, "gateway.mock_not_described", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := httptest.NewRequest("GET", "/a", nil)
			r.Header["Prefer"] = c.prefer
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			if w.Code != c.status || !strings.Contains(w.Body.String(), c.body) || w.Header().Get("Preference-Applied") != c.applied {
				t.Errorf("%d %q, applied %q", w.Code, w.Body, w.Header().Get("Preference-Applied"))
			}
		})
	}
}

func TestNothingToAnswerIsSaid(t *testing.T) {
	w := httptest.NewRecorder()
	handler(t, "put").ServeHTTP(w, httptest.NewRequest("PUT", "/a", nil))
	if w.Code != http.StatusNotImplemented {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if _, err := mock.New(nil); err == nil {
		t.Error("a mock of nothing is made")
	}
}

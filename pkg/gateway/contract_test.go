package gateway_test

import (
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"
)

// TestTheGuideOfValidation does what docs/guides/validation.md shows.
func TestTheGuideOfValidation(t *testing.T) {
	guide, err := os.ReadFile("../../docs/guides/validation.md")
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`(?s)<<'END'\n(.*?)\nEND\n`).FindSubmatch(guide)
	if found == nil {
		t.Fatal("the guide has no document")
	}
	w := newWatched(t, 0)
	w.apply("%s", strings.Replace(string(found[1]), "http://127.0.0.1:8081", w.service, 1))
	for _, c := range []struct {
		path, body, prefer string
		status             int
		says               string
	}{
		{"/pets/7", `{"name":"Tom"}`, "", 200, `{"name":"Tom"}`},
		{"/pets/0", `{"name":7}`, "", 400, `"/path/id"`},
		{"/pets/7", `{"name":7}`, "", 400, `"field":"/body/name"`},
		{"/pets/7", `{"name":"Tom"}`, "code=404", 404, "no such pet"},
		{"/pets/7", `{"name":"Tom"}`, "example=dog", 200, "Rex"},
	} {
		header := http.Header{"Content-Type": {"application/json"}}
		if c.prefer != "" {
			header.Set("Prefer", c.prefer)
		}
		resp, body := w.call("PUT", "x", c.path, header, strings.NewReader(c.body))
		if resp.StatusCode != c.status || !strings.Contains(body, c.says) {
			t.Errorf("%s %s %s: %d %s", c.path, c.body, c.prefer, resp.StatusCode, body)
		}
	}
	if w.got() != nil {
		t.Error("the service was asked")
	}
}

// TestContractDriftIsCountedAndLogged holds an answer that is not as described to
// pass as it is.
func TestContractDriftIsCountedAndLogged(t *testing.T) {
	w := newWatched(t, 0)
	w.apply(`
version: 1
apis: [{name: d, openapi: '{"openapi":"3.1.0","info":{"title":"d","version":"1"},"paths":{"/x":{"get":{"operationId":"get","responses":{"201":{"description":"x"}}}}}}'}]
services: [{name: a, url: "%s"}]
routes: [{name: r, service: a, auth: {mode: none}, operation: {api: d, id: get}, validate: {answers: true}}]`, w.service)
	for range 2 {
		if resp, body := w.call("GET", "x", "/", nil, nil); resp.StatusCode != 200 || body != "a text of the service" {
			t.Errorf("%d %s", resp.StatusCode, body)
		}
	}
	if n := w.counted("keywarden.contract.drift")["r "]; n != 2 {
		t.Errorf("%d answers are counted", n)
	}
	if lines := w.lines("an answer is not as the description of the API says"); len(lines) != 1 || lines[0]["field"] != "/status" {
		t.Errorf("logged is %v", lines)
	}
}

// TestARouteWithoutItsDescriptionServesNobody holds that the rest of a document is
// served.
func TestARouteWithoutItsDescriptionServesNobody(t *testing.T) {
	w := newWatched(t, 0)
	w.apply(`
version: 1
apis: [{name: d, openapi_file: %q}]
services: [{name: a, url: "%s"}]
routes:
  - {name: r, match: {path: {prefix: /r}}, service: a, auth: {mode: none}, operation: {api: d, id: get}, validate: {}}
  - {name: s, match: {path: {prefix: /s}}, service: a, auth: {mode: none}}`, t.TempDir()+"/none", w.service)
	for path, want := range map[string]int{"/r": 503, "/s": 200} {
		if resp, _ := w.call("GET", "x", path, nil, nil); resp.StatusCode != want {
			t.Errorf("%s: %d", path, resp.StatusCode)
		}
	}
}

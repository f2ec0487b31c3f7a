package attacktest

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestCaptureFollowsThePath(t *testing.T) {
	const doc = `{"token":"t","n":12345678901234567890,"ok":true,"items":[{"id":"a"},{"id":"b"}],"none":null}`
	for path, want := range map[string]string{"token": "t", "n": "12345678901234567890", "ok": "true", "items.1.id": "b"} {
		if got, err := capture(doc, path); err != nil || got != want {
			t.Errorf("capture %s = %q, %v, want %q", path, got, err, want)
		}
	}
	for _, path := range []string{"", "absent", "none", "items", "items.2.id", "items.-1.id", "items.x", "token.x"} {
		if got, err := capture(doc, path); err == nil {
			t.Errorf("capture %q = %q, want an error", path, got)
		}
	}
	if _, err := capture("<html>", "token"); err == nil {
		t.Error("captured from something that is not JSON")
	}
}

// TestAPIBodyIsNeverReinterpreted covers what a decode and encode would lose.
func TestAPIBodyIsNeverReinterpreted(t *testing.T) {
	vars := variables{"RAND": "abc", "ODD": `"`}
	for in, want := range map[string]string{
		``:     "",
		`null`: "",
		`{"b":9223372036854775808,"a":1e+30,"b":2}`:  `{"b":9223372036854775808,"a":1e+30,"b":2}`,
		`{"email":"e{{RAND}}@t.test","x":"{{ODD}}"}`: `{"email":"eabc@t.test","x":"\""}`,
		`{"name":"a\u0000b\ud83d"}`:                  `{"name":"a\u0000b\ud83d"}`,
		`"{{REPEAT:[:3}}"`:                           `[[[`,
		`"{{REPEAT:{\"a\"::2}}"`:                     `{"a":{"a":`,
		`{"name":"{{REPEAT:x:3}}"}`:                  `{"name":"xxx"}`,
		`"plain {{ODD}}"`:                            `plain "`,
		`[1]`:                                        `[1]`,
	} {
		got, err := apiBody(json.RawMessage(in), vars)
		if err != nil || got != want {
			t.Errorf("apiBody(%s) = %q, %v, want %q", in, got, err, want)
		}
	}
}

func TestCallAPISendsTheCallAsWritten(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("Location", "/elsewhere")
		w.WriteHeader(http.StatusFound)
		_, _ = fmt.Fprintf(w, "%s %s %q %q %s", r.Method, r.RequestURI, r.Header.Get("Content-Type"), r.Header.Get("Authorization"), body)
	}))
	defer srv.Close()
	step := httpStep{
		Method: "POST", Path: "/api-keys?sort=id;drop%20table&x=(1)&id={{ID}}",
		Headers: map[string]string{"Authorization": "Bearer {{TOK}}"},
		Body:    json.RawMessage(`{"a":"{{ID}}"}`),
	}
	for base, prefix := range map[string]string{srv.URL: "", srv.URL + "/": "", srv.URL + "/v1": "/v1"} {
		resp, err := callAPI(t.Context(), base, step, variables{"TOK": "tok", "ID": "7"})
		if err != nil {
			t.Fatal(err)
		}
		want := `POST ` + prefix + `/api-keys?sort=id;drop%20table&x=(1)&id=7 "application/json" "Bearer tok" {"a":"7"}`
		if resp.Status != http.StatusFound || resp.Body != want {
			t.Errorf("got %d %s, want 302 %s", resp.Status, resp.Body, want)
		}
		if got := values(resp.Header, "location", strings.ToLower); len(got) != 1 {
			t.Errorf("response header %v lacks Location", resp.Header)
		}
	}
}

func TestCallAPIRefusesUndefinedVariables(t *testing.T) {
	for _, step := range []httpStep{
		{Method: "GET", Path: "/{{NO}}"},
		{Method: "GET", Path: "/", Headers: map[string]string{"A": "{{NO}}"}},
		{Method: "GET", Path: "/", Body: json.RawMessage(`{"a":"{{NO}}"}`)},
	} {
		if _, err := callAPI(t.Context(), "http://127.0.0.1:1", step, variables{}); err == nil || !strings.Contains(err.Error(), "NO") {
			t.Errorf("%+v: got %v, want an error that names the variable", step, err)
		}
	}
}

package app_test

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"testing"

	"github.com/keywarden/keywarden/pkg/app/apptest"
	"github.com/keywarden/keywarden/pkg/gateway/attacktest"
)

// describedBodies is a gateway document of which every feature that reads bodies is
// in force: validation of JSON and of forms, of answers, a cache, and fields that are
// made of the request.
const describedBodies = `
version: 1
apis:
  - name: things
    openapi: |
      openapi: 3.1.0
      info: {title: Things, version: "1"}
      security: []
      paths:
        /json:
          post:
            operationId: json
            requestBody: {required: true, content: {application/json: {schema: {type: object}}}}
            responses: {"200": {description: ok, content: {application/json: {schema: {type: object}}}}}
        /form:
          post:
            operationId: form
            requestBody:
              required: true
              content: {application/x-www-form-urlencoded: {schema: {type: object, properties: {number: {type: integer}}}}}
            responses: {"200": {description: ok}}
services: [{name: echo, url: "http://HERE"}]
defaults: {auth: {mode: none}}
routes:
  - name: json
    match: {path: {exact: /json}}
    service: echo
    operation: {api: things, id: json}
    validate: {answers: true, max_body: 4MiB}
    request_headers: {set: {X-Path: '{{ request.path }}'}}
  - {name: form, match: {path: {exact: /form}}, service: echo, operation: {api: things, id: form}, validate: {}}
  - {name: cached, match: {path: {exact: /cached}}, service: echo, cache: {}}
  - {name: through, match: {path: {exact: /through}}, service: echo}
`

// startReading starts a program with the document in front of a recording backend.
func startReading(t *testing.T) (*apptest.Program, *attacktest.Upstream) {
	t.Helper()
	up := attacktest.Start(t, "127.0.0.1:0")
	return apptest.Start(t, apptest.Options{Set: roomy(), Gateway: strings.ReplaceAll(describedBodies, "HERE", up.Addr())}), up
}

// coded is n bytes of JSON in a content coding.
func coded(t *testing.T, coding string, n int) string {
	t.Helper()
	var b bytes.Buffer
	var w io.WriteCloser
	switch coding {
	case "gzip":
		w = gzip.NewWriter(&b)
	case "deflate":
		w = zlib.NewWriter(&b)
	default:
		raw, err := flate.NewWriter(&b, flate.BestCompression)
		if err != nil {
			t.Fatal(err)
		}
		w = raw
	}
	part := []byte(strings.Repeat(" ", 1<<20))
	_, _ = io.WriteString(w, "{")
	for range n >> 20 {
		_, _ = w.Write(part)
	}
	_, _ = io.WriteString(w, "}")
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// SBX-08: nothing decompresses what strangers send: a small body that would become a
// large one is refused where it would have to be read, and passed on as it is where it
// would not. Two codings, of which the first is none, are no way around that.
func TestCompressedBodiesAreNotUnpacked(t *testing.T) {
	p, up := startReading(t)
	p.Call(t, "GET", "/healthz", nil)
	bombs := map[string]string{}
	for _, coding := range []string{"gzip", "deflate", "br"} {
		bombs[coding] = coded(t, coding, 64<<20)
		if len(bombs[coding]) > 1<<20-1 {
			t.Fatalf("%s: %d bytes", coding, len(bombs[coding]))
		}
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for coding, bomb := range bombs {
		for path, media := range map[string]string{"/json": "application/json", "/form": "application/x-www-form-urlencoded"} {
			for _, lines := range [][]string{
				{"Content-Encoding", coding}, {"Content-Encoding", "identity", "Content-Encoding", coding}, {"Content-Encoding", coding, "Content-Encoding", "identity"},
				{"Content-Encoding", "", "Content-Encoding", coding}, {"Content-Encoding", "identity, " + coding}, {"Content-Encoding", strings.ToUpper(coding)},
			} {
				mark := up.Mark()
				wantProblem(t, p.Call(t, "POST", path, bomb, append(lines, "Content-Type", media)...), http.StatusUnsupportedMediaType, "gateway.body_encoded")
				if up.Settle(t.Context()); len(up.Since(mark)) > 0 {
					t.Errorf("%s %v: it reached the service", path, lines)
				}
			}
		}
		// The platform's own API knows no codings: to it that is no JSON.
		for _, path := range []string{"/auth/login", "/auth/register", "/keys/report"} {
			a := p.Call(t, "POST", path, bomb, "Content-Encoding", coding)
			if a.Status != http.StatusBadRequest && a.Status != http.StatusUnsupportedMediaType && a.Status != http.StatusRequestEntityTooLarge {
				t.Errorf("%s with %s: status %d", path, coding, a.Status)
			}
		}
		p.Want(t, http.StatusOK, "POST", "/through", bomb, "Content-Encoding", coding)
	}
	// What a service answers stays packed, too, where it is watched and where it is kept.
	head := "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Encoding: gzip\r\nCache-Control: max-age=60\r\n"
	small := coded(t, "gzip", 8<<20)
	raw := base64.RawURLEncoding.EncodeToString([]byte(fmt.Sprintf("%sContent-Length: %d\r\n\r\n%s", head, len(small), small)))
	for range 3 {
		p.Want(t, http.StatusOK, "POST", "/json?raw="+raw, "{}", "Accept-Encoding", "identity")
		p.Want(t, http.StatusOK, "GET", "/cached?raw="+raw, nil, "Accept-Encoding", "identity")
	}
	runtime.ReadMemStats(&after)
	if taken := after.TotalAlloc - before.TotalAlloc; taken > 200<<20 { // of gigabytes that are in the bombs
		t.Errorf("%d MiB were allocated", taken>>20)
	}
}

// SBX-11: JSON that readers do not agree on, or that costs more to read than to send,
// is refused where bodies are checked; what passes reaches the service byte by byte.
func TestServiceSeesTheJSONThatWasChecked(t *testing.T) {
	p, up := startReading(t)
	for name, body := range map[string]string{
		"deep arrays": strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000), "deep objects": strings.Repeat(`{"a":`, 50_000) + "1" + strings.Repeat("}", 50_000),
		"unclosed": strings.Repeat(`{"a":[`, 50_000), "many members": manyMembers(110_000), "many values": `{"a":[` + strings.Repeat("1,", 200_000) + "1]}",
		"twice": `{"a":1,"a":2}`, "twice in another spelling": `{"a":1,"\u0061":2}`, "twice below": `{"x":[{"role":"user","role":"admin"}]}`,
		"a huge exponent": `{"a":1e1000000}`, "a tiny one": `{"a":1e-1000000}`, "a long number": `{"a":` + strings.Repeat("9", 10_000) + "}",
		"NaN": `{"a":NaN}`, "infinity": `{"a":-Infinity}`, "hexadecimal": `{"a":0x10}`, "a zero in front": `{"a":01}`, "a plus": `{"a":+1}`,
		"no UTF-8": "{\"a\":\"\xff\"}", "a NUL": "{\"a\":1}\x00", "something after it": `{"a":1} {"a":2}`, "a comma at the end": `{"a":1,}`,
		"a comment": `{"a":1 /* 2 */}`, "a mark of the byte order": "\ufeff{}", "UTF-16": "{\x00}\x00", "single quotes": `{'a':1}`, "a control character": "{\"a\":\"\n\"}",
		"nothing": " ", "another type": `[]`,
	} {
		mark := up.Mark()
		a := p.Call(t, "POST", "/json", body)
		if up.Settle(t.Context()); a.Status != http.StatusBadRequest || len(up.Since(mark)) > 0 {
			t.Errorf("%s: status %d, %d requests reached the service: %.300s", name, a.Status, len(up.Since(mark)), a.Body)
		}
		if len(a.Body) > 4<<10 {
			t.Errorf("%s: the refusal has %d bytes", name, len(a.Body))
		}
	}
	for name, body := range map[string]string{
		"surrogates alone": `{"a":"\ud800","b":"\udc00\ud800"}`, "a pair": `{"a":"\ud83d\ude00"}`, "large numbers": `{"a":12345678901234567890123,"b":1.0,"c":1e2,"d":-0}`,
		"spaces": " \t\r\n{ \"a\" : [ ] }\n", "an empty name": `{"":1}`, "names of methods": `{"__proto__":{"admin":true},"constructor":1}`, "an escaped solidus": `{"a":"\/"}`,
		"a NUL that is written": `{"a\u0000b":1}`,
	} {
		mark := up.Mark()
		a := p.Call(t, "POST", "/json", body)
		up.Settle(t.Context())
		seen := up.Since(mark)
		if a.Status == http.StatusBadRequest && len(seen) == 0 {
			continue // refused is as good
		}
		if a.Status != http.StatusOK || len(seen) != 1 || seen[0].Body != body {
			t.Errorf("%s: status %d, the service got %v, want %q", name, a.Status, seen, body)
		}
	}
}

// manyMembers is an object with n members.
func manyMembers(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `,"%d":1`, i)
	}
	return "{" + b.String()[1:] + "}"
}

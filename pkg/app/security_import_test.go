package app_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/keywarden/keywarden/pkg/app/apptest"
)

// openByDefault is a gateway document in which everything is open that does not say
// otherwise.
const openByDefault = `
version: 1
defaults: {auth: {mode: none}}
`

// described is a description with one operation, below a path of its own.
func described(version, head, security string, n int) string {
	opening := map[string]string{"2.0": `swagger: "2.0"`, "3.0": "openapi: 3.0.3", "3.1": "openapi: 3.1.0"}[version]
	responses := `responses: {"200": {description: ok}}`
	return fmt.Sprintf("%s\ninfo: {title: t, version: '1'}\n%spaths:\n  /guarded%d:\n    get: {operationId: get, %s%s}\n", opening, head, n, security, responses)
}

// SBX-12, R84: a requirement of security in a description for which there is no
// authenticator never opens the operation, also where the gateway document opens
// everything that is silent: the description is refused, or callers without a
// credential are.
func TestRequirementsWithoutAnAuthenticatorNeverOpenARoute(t *testing.T) {
	const (
		key30 = "components: {securitySchemes: {key: {type: apiKey, in: header, name: X-API-Key}}}\n"
		key20 = "securityDefinitions: {key: {type: apiKey, in: header, name: X-API-Key}}\n"
	)
	scheme := func(s string) string { return "components: {securitySchemes: {s: " + s + "}}\n" }
	const refused, guarded, open = "refused", "guarded", "open"
	p := startAdministered(t, nil)
	p.Want(t, http.StatusOK, "PUT", configPath, openByDefault, p.yaml(p.operator, "If-None-Match", "*")...)
	for i, c := range []struct{ version, head, security, want string }{
		// What there is an authenticator for, and what is open on purpose.
		{"3.0", key30, "security: [{key: []}], ", guarded},
		{"2.0", key20, "security: [{key: []}], ", guarded},
		{"3.1", key30 + "security: [{key: []}]\n", "", guarded},
		{"3.0", key30 + "security: [{key: []}]\n", "security: [], ", open},
		{"3.0", key30 + "security: [{key: []}]\n", "security: [{}], ", open},
		{"3.0", scheme("{type: apiKey, in: query, name: k}"), "security: [{s: []}], ", guarded},
		{"3.0", scheme("{type: apiKey, in: cookie, name: k}"), "security: [{s: []}], ", guarded},
		{"3.0", scheme("{type: http, scheme: bearer}"), "security: [{s: []}], ", guarded},
		{"3.0", scheme("{type: http, scheme: BeArEr}"), "security: [{s: []}], ", guarded},
		{"3.0", scheme("{type: openIdConnect, openIdConnectUrl: 'https://127.0.0.1:1/'}"), `security: [{s: ["a:b"]}], `, guarded},
		{"3.0", scheme("{type: oauth2, flows: {}}"), `security: [{s: ["orders:read"]}], `, guarded},
		// What there is none for.
		{"3.0", "", "security: [{nobody: []}], ", refused},
		{"2.0", "", "security: [{nobody: []}], ", refused},
		{"3.1", "security: [{nobody: []}]\n", "", refused},
		{"3.0", scheme("{type: http, scheme: basic}"), "security: [{s: []}], ", refused},
		{"3.0", scheme("{type: http, scheme: digest}"), "security: [{s: []}], ", refused},
		{"3.0", scheme("{type: http, scheme: ''}"), "security: [{s: []}], ", refused},
		{"3.0", scheme("{type: http}"), "security: [{s: []}], ", refused},
		{"2.0", "securityDefinitions: {s: {type: basic}}\n", "security: [{s: []}], ", refused},
		{"3.0", scheme("{type: http, scheme: basic}") + "security: [{s: []}]\n", "", refused},
		{"3.0", scheme("{type: http, scheme: basic}"), "security: [{s: []}, {}], ", refused},
		{"3.0", scheme("{type: http, scheme: basic}"), "security: [{}, {s: []}], ", refused},
		{"3.0", key30[:len(key30)-3] + ", s: {type: http, scheme: basic}}}\n", "security: [{key: [], s: []}], ", refused},
		{"3.0", scheme("{type: none}"), "security: [{s: []}], ", refused},
		{"3.0", scheme("{}"), "security: [{s: []}], ", refused},
		{"3.0", scheme("null"), "security: [{s: []}], ", refused},
		{"3.0", scheme("{type: mutualTLS}"), "security: [{s: []}], ", refused}, // is of 3.1
		{"3.1", scheme("{type: mutualTLS}"), "security: [{s: []}], ", guarded}, // nobody has one here
		{"3.0", scheme("{$ref: '#/components/securitySchemes/none'}"), "security: [{s: []}], ", refused},
		{"3.0", scheme("{$ref: 'https://127.0.0.1:1/scheme.yaml'}"), "security: [{s: []}], ", refused},
		{"3.0", scheme("{$ref: '#/components/securitySchemes/s'}"), "security: [{s: []}], ", refused},
		{"3.0", "components: {securitySchemes: {x-s: {type: apiKey, in: header, name: k}}}\n", "security: [{x-s: []}], ", refused},
		{"3.0", key20, "security: [{key: []}], ", refused}, // of another version
		{"2.0", key30, "security: [{key: []}], ", refused},
		// What is written wrongly, and may have meant anything.
		{"3.0", key30, "security: [null], ", refused},
		{"3.0", key30, "security: [[]], ", refused},
		{"3.0", key30, "security: [key], ", refused},
		{"3.0", key30, "security: ['']  , ", refused},
		{"3.0", key30, "security: {key: []}, ", refused},
		{"3.0", key30, "security: {}, ", refused},
		{"3.0", key30, "security: key, ", refused},
		{"3.0", key30, "security: null, ", refused},
		{"3.0", key30 + "security:\n", "", refused},
		{"3.0", key30 + "security: [null]\n", "", refused},
		{"3.0", key30, "security: [{key: [1]}], ", guarded},
		{"3.0", key30, "security: [{key: x}], ", refused},
		{"3.0", key30, "security: [{key: []}], security: [], ", refused},
		{"3.0", key30, `security: [{key: ["no scope"]}], `, refused},
	} {
		name := fmt.Sprint(i, " ", c.version, " ", strings.TrimSpace(c.head), " ", c.security)
		for _, validate := range []string{"false", "true"} {
			at := fmt.Sprintf("%s?name=a%d&validate=%s&apply=true&service=http://127.0.0.1:1", apisPath, i, validate)
			a := p.Call(t, "POST", at, described(c.version, c.head, c.security, i), p.yaml(p.operator, "If-Match", p.tag(t))...)
			path := fmt.Sprint("/guarded", i)
			status := func(headers ...string) int { return p.Call(t, "GET", path, nil, headers...).Status }
			switch {
			case c.want == refused && a.Status != http.StatusUnprocessableEntity:
				t.Errorf("%s: status %d: %s", name, a.Status, a.Body)
			case c.want != refused && a.Status != http.StatusOK:
				t.Errorf("%s: status %d: %s", name, a.Status, a.Body)
			}
			if a.Status == http.StatusOK {
				apptest.Eventually(t, "the route of "+name, func() bool { return status() != http.StatusNotFound })
			}
			want := map[string]int{refused: http.StatusNotFound, guarded: http.StatusUnauthorized, open: http.StatusBadGateway}[c.want]
			for _, headers := range [][]string{nil, {"Authorization", "Basic dXNlcjpwYXNz"}, {"X-API-Key", unknownKey()}} {
				if got := status(headers...); got != want && (want != http.StatusBadGateway || headers == nil) {
					t.Errorf("%s with %v: status %d, want %d", name, headers, got, want)
				}
			}
		}
	}
}

package app_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/keywarden/keywarden/pkg/app/apptest"
)

// forbidden is a listener of this machine that nothing may connect to.
type forbidden struct {
	net.Listener
	connections atomic.Int32
}

func newForbidden(t *testing.T) *forbidden {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &forbidden{Listener: l}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			f.connections.Add(1)
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-done })
	return f
}

func (f *forbidden) addr() string { return f.Addr().String() }

// port is that of the listener, as text.
func (f *forbidden) port(t *testing.T) string {
	t.Helper()
	_, port, err := net.SplitHostPort(f.addr())
	if err != nil {
		t.Fatal(err)
	}
	return port
}

func (f *forbidden) wantNone(t *testing.T) {
	t.Helper()
	if n := f.connections.Load(); n != 0 {
		t.Errorf("%d connections were made to where none may lead", n)
	}
}

const channelsPath = "/admin/v1/alert-channels"

// SSRF-01, SSRF-03, SSRF-06, R77: a webhook leads to the public internet, whatever
// spelling its address has; the gateway's own network, its metadata service, itself
// and other schemes are refused, and the refusal tells nothing of what is there.
func TestWebhooksDoNotLeadInside(t *testing.T) {
	inside := newForbidden(t)
	p := start(t, apptest.Options{Set: roomy()})
	admin := p.Admin(t).Auth()
	for _, kind := range []object{{"kind": "slack"}, {"kind": "webhook", "secret": "whsec_" + strings.Repeat("a2V5", 8)}} {
		refused := map[string]bool{}
		make := func(url string) apptest.Answer {
			return p.Call(t, "POST", channelsPath, object{"name": "inside", "kind": kind["kind"], "secret": kind["secret"], "url": url}, admin...)
		}
		for _, host := range []string{
			"127.0.0.1", "127.1", "127.0.1", "0", "0.0.0.0", "0x7f000001", "0x7f.0.0.1", "2130706433", "017700000001", "0177.0.0.1", "127.0.0.1.",
			"127.000.000.001", "[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::127.0.0.1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]",
			"[fe80::1%25lo]", "[fd00::1]", "10.0.0.1", "172.16.0.1", "192.168.0.1", "100.64.0.1", "169.254.169.254", "[fd00:ec2::254]",
			"0xa9fea9fe", "2852039166", "169.254.169.254.", "168.63.129.16", "100.100.100.200", "192.0.0.192", "255.255.255.255", "224.0.0.1",
		} {
			for _, url := range []string{"http://" + host + ":" + inside.port(t) + "/", "https://" + host + "/", "http://" + host + ":80/latest/meta-data"} {
				a := make(url)
				if a.Status != http.StatusBadRequest {
					t.Errorf("%s: status %d: %s", url, a.Status, a.Body)
				}
				refused[anonymous(a)] = true
			}
		}
		if len(refused) != 1 {
			t.Errorf("addresses are refused in different ways: %v", refused)
		}
		for _, url := range []string{
			"file:///etc/passwd", "gopher://127.0.0.1:25/x", "unix:/run/x.sock", "unix:///run/x.sock", "data:text/plain,x", "ftp://example.com/", "jar:http://example.com!/x",
			"dict://example.com/", "ldap://example.com/", "javascript:alert(1)", "//example.com/", "example.com", "http:example.com", "http:///x", "", "http://", "HTTP://u:p@example.com/",
			"http://example.com\\@127.0.0.1/", "http://example.com#@127.0.0.1/", "http://example.com /", "http://exa\nmple.com/", "http://127.0.0.1:80@example.com/",
			"http://example.com:99999/", "http://example.com:-1/", "http+unix://%2Frun%2Fx.sock/",
		} {
			if a := make(url); a.Status != http.StatusBadRequest || strings.Contains(string(a.Body), "u:p") {
				t.Errorf("%q: status %d: %s", url, a.Status, a.Body)
			}
		}
		// A name is looked up when it is used, and what it leads to is checked then.
		for i, host := range []string{"localhost", "LOCALHOST", "localhost."} {
			named := object{"name": fmt.Sprint(kind["kind"], i), "kind": kind["kind"], "secret": kind["secret"], "url": "http://" + host + ":" + inside.port(t) + "/"}
			a := p.Call(t, "POST", channelsPath, named, admin...)
			if a.Status != http.StatusCreated {
				continue // refused before: better still
			}
			a = p.Want(t, http.StatusBadGateway, "POST", channelsPath+"/"+a.Text(t, "id")+"/test", nil, admin...)
			for _, word := range []string{"127.0.0.1", "::1", "localhost", "refused", "dial"} {
				if strings.Contains(string(a.Body), word) {
					t.Errorf("%s: the answer speaks of %q: %s", host, word, a.Body)
				}
			}
		}
	}
	inside.wantNone(t)
}

// SSRF-05, R77: nobody who is called leads the platform elsewhere by a redirect: not
// the receiver of a webhook, and not a token endpoint, which would get the client's
// secret sent on.
func TestRedirectsOfOthersAreNotFollowed(t *testing.T) {
	inside := newForbidden(t)
	var status atomic.Int32
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Location", "http://"+inside.addr()+"/")
		w.WriteHeader(int(status.Load()))
	}))
	t.Cleanup(receiver.Close)
	p := start(t, apptest.Options{Set: alertsSet(), Gateway: tokenDocument(receiver.URL)})
	admin := p.Admin(t).Auth()
	p.Want(t, http.StatusOK, "PUT", "/admin/v1/secrets/client", object{"value": "a-client-secret"}, admin...)
	id := p.Want(t, http.StatusCreated, "POST", channelsPath, object{"name": "hook", "kind": "slack", "url": receiver.URL}, admin...).Text(t, "id")
	for _, code := range []int{301, 302, 303, 307, 308} {
		status.Store(int32(code))
		a := p.Want(t, http.StatusBadGateway, "POST", channelsPath+"/"+id+"/test", nil, admin...)
		if !strings.Contains(string(a.Body), fmt.Sprint(code)) || strings.Contains(string(a.Body), inside.addr()) {
			t.Errorf("%s", a.Body)
		}
	}
	if a := p.Want(t, http.StatusServiceUnavailable, "GET", "/behind", nil); a.JSON(t)["code"] != "gateway.credential_unavailable" {
		t.Errorf("%s", a.Body)
	}
	inside.wantNone(t)
}

// tokenDocument is a gateway document with a service whose credential comes from the
// token endpoint.
func tokenDocument(endpoint string) string {
	return `
version: 1
services:
  - name: behind
    url: "http://127.0.0.1:1"
    credential: {kind: oauth2, token_url: "` + endpoint + `/token", client_id: gateway, client_secret: '{{ secret "client" }}'}
routes: [{name: behind, match: {path: {exact: /behind}}, service: behind, auth: {mode: none}}]
`
}

// SSRF-11, R77: of what others answer, a bounded part is read, and nothing of it is
// decompressed.
func TestAnswersOfOthersAreBounded(t *testing.T) {
	const enough = 64 << 20 // far more than anything may read, and than the kernel may hold
	var written atomic.Int64
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Content-Encoding", "gzip")
		part := []byte(strings.Repeat("{", 64<<10))
		for written.Load() < enough {
			n, err := w.Write(part)
			written.Add(int64(n))
			if err != nil {
				return
			}
		}
	}))
	t.Cleanup(receiver.Close)
	p := start(t, apptest.Options{Set: alertsSet(), Gateway: tokenDocument(receiver.URL)})
	admin := p.Admin(t).Auth()
	p.Want(t, http.StatusOK, "PUT", "/admin/v1/secrets/client", object{"value": "a-client-secret"}, admin...)
	id := p.Want(t, http.StatusCreated, "POST", channelsPath, object{"name": "hook", "kind": "slack", "url": receiver.URL}, admin...).Text(t, "id")
	p.Want(t, http.StatusOK, "POST", channelsPath+"/"+id+"/test", nil, admin...) // the status counts
	p.Want(t, http.StatusServiceUnavailable, "GET", "/behind", nil)
	if n := written.Load(); n == 0 || n >= enough {
		t.Errorf("%d bytes were taken", n)
	}
}

// SSRF-08, R78: whatever a description refers to is in the description. Nothing of
// another address or of a file is read, when it is imported, when it is checked on the
// command line, and when requests are held against it.
func TestDescriptionsReferToNothingElse(t *testing.T) {
	inside := newForbidden(t)
	at := "http://" + inside.addr()
	secret := filepath.Join(t.TempDir(), "secret.yaml")
	if err := os.WriteFile(secret, []byte("type: string\nconst: canary-of-a-file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	const head = "openapi: 3.1.0\ninfo: {title: t, version: '1'}\nsecurity: []\n"
	operation := func(of string) string { return head + "paths:\n  /a:\n    post: {operationId: a, " + of + "}\n" }
	const ok = `responses: {"200": {description: ok}}`
	body := func(schema string) string {
		return operation("requestBody: {content: {application/json: {schema: " + schema + "}}}, " + ok)
	}
	p := startAdministered(t, nil)
	p.Want(t, http.StatusOK, "PUT", configPath, "version: 1\n", p.yaml(p.operator, "If-None-Match", "*")...)
	importURL := apisPath + "?name=a&validate=true&apply=true&service=http://127.0.0.1:1"
	post := func(text string) apptest.Answer {
		return p.Call(t, "POST", importURL, text, p.yaml(p.operator, "If-Match", p.tag(t))...)
	}

	for _, ref := range []string{
		at + "/x.yaml", at + "/x.yaml#/a", "//" + inside.addr() + "/x", "file:///etc/passwd", "file://" + secret, secret, "../../etc/passwd",
		"../../../../../../../../etc/passwd", "./x.yaml", "x.yaml", "x.yaml#/components/schemas/A", "gopher://" + inside.addr() + "/x", "ftp://" + inside.addr() + "/x",
		"data:application/json,{}", "urn:x:y", "?x", "\\\\host\\share", " " + at, "#/components/../../x", "#/none",
	} {
		quoted := "{$ref: '" + ref + "'}"
		for place, text := range map[string]string{
			"path item":   head + "paths:\n  /a: " + quoted + "\n",
			"parameter":   operation("parameters: [" + quoted + "], " + ok),
			"body":        operation("requestBody: " + quoted + ", " + ok),
			"schema":      body(quoted),
			"items":       body("{type: array, items: " + quoted + "}"),
			"allOf":       body("{allOf: [{type: object}, " + quoted + "]}"),
			"response":    operation("responses: {'200': " + quoted + "}"),
			"header":      operation("responses: {'200': {description: d, headers: {X: " + quoted + "}}}"),
			"with a base": body("{$id: '" + at + "/base/', properties: {a: " + quoted + "}}"),
			"dynamic":     body("{properties: {a: {$dynamicRef: '" + ref + "'}}}"),
		} {
			a := post(text)
			if a.Status != http.StatusUnprocessableEntity || a.JSON(t)["code"] != "apis.invalid" {
				t.Errorf("%s: %s: status %d: %s", place, ref, a.Status, a.Body)
			}
			if strings.Contains(string(a.Body), "canary-of-a-file") || strings.Contains(string(a.Body), "root:") {
				t.Errorf("%s: %s: %s", place, ref, a.Body)
			}
		}
	}
	// Addresses that are there to be read by people and other programs stay unread.
	harmless := strings.ReplaceAll(`openapi: 3.1.0
info: {title: t, version: '1', termsOfService: 'AT/terms', license: {name: l, url: 'AT/license'}, contact: {url: 'AT/contact'}}
jsonSchemaDialect: https://json-schema.org/draft/2020-12/schema
externalDocs: {url: 'AT/docs'}
servers: [{url: 'AT/server'}]
security: []
paths:
  /a:
    post:
      operationId: a
      externalDocs: {url: 'AT/docs'}
      requestBody:
        content:
          application/json:
            schema: {type: object, properties: {a: {type: string, externalDocs: {url: 'AT/docs'}}}}
            examples: {one: {externalValue: 'AT/example.json'}}
      responses:
        "200": {description: ok, content: {application/json: {examples: {one: {externalValue: 'AT/example.json'}}}}}
`, "AT", at)
	a := post(harmless)
	if a.Status != http.StatusOK {
		t.Fatalf("%d %s", a.Status, a.Body)
	}
	apptest.Eventually(t, "the API is served", func() bool {
		return p.Call(t, "POST", "/server/a", object{"a": "x"}).Status == http.StatusBadGateway
	})
	p.Want(t, http.StatusBadRequest, "POST", "/server/a", object{"a": 1})

	file := filepath.Join(t.TempDir(), "api.yaml")
	for _, ref := range []string{at + "/x.yaml", "file://" + secret, secret, filepath.Base(secret)} {
		if err := os.WriteFile(file, []byte(body("{$ref: '"+ref+"'}")), 0o600); err != nil {
			t.Fatal(err)
		}
		code, stdout, stderr := runCommand(t, nil, "openapi", "check", file)
		if code == 0 || strings.Contains(stdout+stderr, "canary") || !strings.Contains(stdout+stderr, "$ref") {
			t.Errorf("%s: exit code %d: %s%s", ref, code, stdout, stderr)
		}
	}
	inside.wantNone(t)
}

// SSRF-10: a service that leads back to the gateway, by mistake or because whoever
// runs it wants that, is not asked for ever: after a few passes the request ends. Its
// own listener is nothing that a webhook can be sent to.
func TestGatewayDoesNotCallItselfForEver(t *testing.T) {
	addr := freeAddress(t)
	p := apptest.Start(t, apptest.Options{
		Set: with(roomy(), "server.addr", addr),
		Gateway: fmt.Sprintf(`
version: 1
services: [{name: self, url: "http://%s"}]
routes:
  - {name: loop, match: {path: {prefix: /loop}}, service: self, auth: {mode: none}}
  - {name: mirror, match: {path: {prefix: /mirror}}, service: self, strip_prefix: /mirror, auth: {mode: none}}
`, addr),
	})
	admin := p.Admin(t).Auth()
	for _, headers := range [][]string{nil, {"Connection", "CDN-Loop"}, {"CDN-Loop", "a, b; c=d"}} {
		before := len(p.Log.Lines(t))
		wantProblem(t, p.Call(t, "GET", "/loop/x", nil, headers...), http.StatusLoopDetected, "gateway.loop")
		requests := 0
		for _, line := range p.Log.Lines(t)[before:] {
			if line["msg"] == "request" {
				requests++
			}
		}
		if requests > 4 {
			t.Errorf("%v: one request became %d", headers, requests)
		}
	}
	p.Want(t, http.StatusOK, "GET", "/mirror/healthz", nil) // to call itself once is no loop
	for _, path := range []string{"/", "/metrics", "/admin/v1/config/reload"} {
		p.Want(t, http.StatusBadRequest, "POST", channelsPath, object{"name": "self", "kind": "slack", "url": "http://" + addr + path}, admin...)
	}
}

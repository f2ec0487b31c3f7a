package app_test

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keywarden/keywarden/pkg/app/apptest"
	"github.com/keywarden/keywarden/pkg/gateway/attacktest"
)

// ---- who speaks to the backend

// wantFromGateway is what the backend must be told about a call of user u with
// key k to path, whose prefix strip was removed.
func wantFromGateway(u *apptest.User, k apptest.Key, strip string) map[string]string {
	want := map[string]string{
		"X-Consumer": u.ID, "X-Consumer-Kind": "key", "X-Consumer-Role": "user", "X-Consumer-Scopes": "profile:read",
		"X-Consumer-Key": k.ID, "X-Forwarded-For": "127.0.0.1", "X-Forwarded-Proto": "http", "X-Forwarded-Host": "client.test",
	}
	if strip != "" {
		want["X-Forwarded-Prefix"] = strip
	}
	return want
}

// checkFromGateway fails unless the backend was told each of want once, and the
// request id of the answer.
func checkFromGateway(t *testing.T, a wireAnswer, got attacktest.Request, want map[string]string) {
	t.Helper()
	for name, value := range want {
		if v := fieldValues(got, name); !slices.Equal(v, []string{value}) {
			t.Errorf("the backend got %s: %q, want %q alone", name, v, value)
		}
	}
	if v := fieldValues(got, "X-Request-Id"); len(v) != 1 || v[0] != a.Header.Get("X-Request-Id") || v[0] == "" {
		t.Errorf("the backend got X-Request-Id %q, the client %q", v, a.Header.Get("X-Request-Id"))
	}
}

// A field that the client names in Connection is hop-by-hop and is removed; what
// the gateway sets comes after that.
func TestConnectionHeaderRemovesNothingOfTheGateway(t *testing.T) {
	p, up := startBehind(t, apptest.Options{})
	u := p.User(t)
	k := p.Key(t, u, object{"scopes": []string{"profile:read"}})
	want := wantFromGateway(u, k, "/svc")
	var names []string
	for name := range want {
		names = append(names, name)
	}
	names = append(names, "X-Request-Id", "X-Api-Key", "Host", "Content-Length", "Forwarded")
	slices.Sort(names)
	all := strings.Join(names, ", ")
	options := []string{
		"Connection: close, " + all, "Connection: " + all + ", close", "connection: CLOSE ,\t" + strings.ToLower(all) + " ,",
		"CONNECTION: " + strings.ToUpper(all), "Connection: close, " + strings.ReplaceAll(all, "-", "_"), "Connection: close, *",
	}
	for _, name := range names {
		options = append(options, "Connection: "+name, "Connection: close\r\nConnection: "+strings.ToLower(name)+"\r\nConnection: "+name)
	}
	for _, line := range options {
		a, seen := askBehind(t, p, up, rawRequest("POST /svc/private/x HTTP/1.1", line, "X-API-Key: "+k.Secret, "Content-Length: 3")+"abc")
		if a.Status != http.StatusOK || len(seen) != 1 {
			t.Errorf("%q: status %d, %d requests reached the backend", line, a.Status, len(seen))
			continue
		}
		checkFromGateway(t, a, seen[0], want)
		if seen[0].Body != "abc" || len(seen[0].Anomalies) > 0 {
			t.Errorf("%q: the backend got body %q with %v", line, seen[0].Body, seen[0].Anomalies)
		}
		if t.Failed() {
			t.Fatalf("with %q", line)
		}
	}
}

// reservedNames are the fields that only the gateway may send.
func reservedNames() []string {
	return []string{
		"X-Consumer", "X-Consumer-Kind", "X-Consumer-Role", "X-Consumer-Scopes", "X-Consumer-Key", "X-Consumer-Username",
		"X-Consumer-Anything-Else", "X-Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-Port",
		"X-Forwarded-Prefix", "X-Forwarded-Server", "X-Forwarded-Scheme", "Forwarded", "X-Real-Ip", "X-Request-Id",
		"X-Original-Url", "X-Rewrite-Url", "X-Http-Method-Override", "Traceparent", "Tracestate", "Baggage",
	}
}

// spellings are the ways to write a field that a backend may take for name.
func spellings(name string) []string {
	list := []string{
		name, strings.ToLower(name), strings.ToUpper(name), strings.ReplaceAll(name, "-", "_"),
		strings.Replace(name, "-", "_", 1), strings.ToLower(strings.ReplaceAll(name, "-", "_")), strings.ReplaceAll(name, "-", "."),
		strings.ReplaceAll(name, "-", "~"), "_" + name, name + "_",
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// No spelling of the gateway's own fields reaches a backend from a client,
// whether the route asks for a credential or not, alone or twice.
func TestClientCannotSpeakForTheGateway(t *testing.T) {
	p, up := startBehind(t, apptest.Options{})
	u := p.User(t)
	k := p.Key(t, u, object{"scopes": []string{"profile:read"}})
	routes := []struct {
		path, host, strip string
		keyed             bool
	}{
		{path: "/open/x"},
		{path: "/svc/x", strip: "/svc"},
		{path: "/ro/x"},
		{path: "/keyed/x", keyed: true},
		{path: "/svc/private/x", strip: "/svc", keyed: true},
		{path: "/open/x", host: "private.test", keyed: true},
	}
	for _, route := range routes {
		for _, name := range reservedNames() {
			var lines []string
			for _, spelling := range spellings(name) {
				lines = append(lines, spelling+": forged-1", spelling+":\tforged-2 ")
			}
			if route.keyed {
				lines = append(lines, "X-API-Key: "+k.Secret)
			}
			text := rawRequest("GET "+route.path+" HTTP/1.1", lines...)
			want := wantFromGateway(u, k, route.strip)
			if route.host != "" {
				text = strings.Replace(text, "Host: client.test", "Host: "+route.host, 1)
				want["X-Forwarded-Host"] = route.host
			}
			a, seen := askBehind(t, p, up, text)
			if a.Status != http.StatusOK || len(seen) != 1 {
				t.Fatalf("%s%s with %s: status %d, %d requests", route.host, route.path, name, a.Status, len(seen))
			}
			if strings.Contains(everything(seen[0]), "forged") {
				t.Errorf("%s%s: a spelling of %s reached the backend:\n%s", route.host, route.path, name, everything(seen[0]))
			}
			if !route.keyed {
				for name := range want {
					if strings.HasPrefix(name, "X-Consumer") {
						if v := fieldValues(seen[0], name); v != nil {
							t.Errorf("%s: the backend got %s: %q of nobody", route.path, name, v)
						}
						delete(want, name)
					}
				}
			}
			checkFromGateway(t, a, seen[0], want)
		}
	}
}

// A trusted proxy is believed about the client, and about nothing else.
func TestTrustedProxySpeaksForTheClientOnly(t *testing.T) {
	p, up := startBehind(t, apptest.Options{Set: map[string]string{"server.trusted_proxies": "127.0.0.0/8"}})
	k := p.Key(t, p.User(t), nil)
	got := forwarded(t, p, up, rawRequest("GET /keyed/x HTTP/1.1", "X-API-Key: "+k.Secret, "X-Forwarded-For: 198.51.100.9, 192.0.2.7",
		"X-Forwarded-Proto: https", "X-Forwarded-Host: evil.test", "X-Forwarded-Prefix: //evil.test", "Forwarded: for=1.2.3.4",
		"X-Real-IP: 1.2.3.4", "X-Consumer: admin", "X-Consumer-Role: admin", "X-Request-Id: from-the-proxy"))
	for name, want := range map[string][]string{
		"X-Forwarded-For": {"192.0.2.7"}, "X-Forwarded-Proto": {"https"}, "X-Forwarded-Host": {"client.test"},
		"X-Forwarded-Prefix": nil, "Forwarded": nil, "X-Real-Ip": nil, "X-Consumer-Role": {"user"}, "X-Request-Id": {"from-the-proxy"},
	} {
		if v := fieldValues(got, name); !slices.Equal(v, want) {
			t.Errorf("the backend got %s: %q, want %q", name, v, want)
		}
	}
}

// ---- the credential stays

func TestCredentialNeverReachesTheBackend(t *testing.T) {
	p, up := startBehind(t, apptest.Options{})
	u := p.User(t)
	key, token := p.Key(t, u, nil).Secret, u.Token
	basic := base64.StdEncoding.EncodeToString([]byte("user:password"))
	spelled := []struct {
		name, field, secret string
		accepted            bool // on a route that asks for this kind of credential
	}{
		{"key", "X-API-Key: " + key, key, true},
		{"key, lower case", "x-api-key: " + key, key, true},
		{"key, odd case", "X-aPi-KEY:" + key, key, true},
		{"key, padded", "X-API-Key: \t " + key + " \t", key, true},
		{"key, underscores", "X_API_KEY: " + key, key, false},
		{"key, one underscore", "X-API_Key: " + key, key, false},
		{"key, dots", "X.API.Key: " + key, key, false},
		{"key as bearer", "Authorization: Bearer " + key, key, true},
		{"key as bearer, odd case", "aUTHORIZATION: bEARER " + key, key, true},
		{"key as bearer, spaces", "Authorization: Bearer   " + key + "  ", key, true},
		{"key without scheme", "Authorization: " + key, key, false},
		{"key with another scheme", "Authorization: ApiKey " + key, key, false},
		{"key as a parameter", `Authorization: Key id="` + key + `", realm="x"`, key, false},
		{"key in a list", "Authorization: Bearer " + key + ", Bearer other", key, false},
		{"key for a proxy", "Proxy-Authorization: Bearer " + key, key, false},
		{"token", "Authorization: Bearer " + token, token, true},
		{"token, odd case", "authorization: BEARER  " + token, token, true},
		{"token without scheme", "Authorization: " + token, token, false},
		{"token in a list", "Authorization: Bearer " + token + ", Basic " + basic, token, false},
		{"token in the key's field", "X-API-Key: " + token, token, false},
	}
	routes := []struct {
		path string
		open bool
		kind string // of the credential that is accepted
	}{
		{"/open/x", true, ""},
		{"/svc/x", true, ""},
		{"/ro/x", true, ""},
		{"/keyed/x", false, key},
		{"/svc/private/x", false, key},
		{"/jwt/x", false, token},
	}
	for _, route := range routes {
		for _, c := range spelled {
			a, seen := askBehind(t, p, up, rawRequest("GET "+route.path+" HTTP/1.1", c.field))
			passes := route.open || c.accepted && c.secret == route.kind
			if (a.Status == http.StatusOK) != passes || (len(seen) == 1) != passes || !passes && a.Status != http.StatusUnauthorized {
				t.Errorf("%s, %s: status %d, %d requests reached the backend; passes should be %t", route.path, c.name, a.Status, len(seen), passes)
			}
			for _, r := range seen {
				if strings.Contains(everything(r), c.secret[len(c.secret)/2:]) {
					t.Errorf("%s, %s: the credential reached the backend", route.path, c.name)
				}
			}
		}
		if !route.open {
			continue
		}
		// What a client and an open backend have between them is theirs.
		got := forwarded(t, p, up, rawRequest("GET "+route.path+" HTTP/1.1", "Authorization: Basic "+basic))
		if v := fieldValues(got, "Authorization"); !slices.Equal(v, []string{"Basic " + basic}) {
			t.Errorf("%s: the backend's own credential arrived as %q", route.path, v)
		}
	}
}

func TestTwoCredentialsAreRefused(t *testing.T) {
	p, up := startBehind(t, apptest.Options{})
	u := p.User(t)
	key := p.Key(t, u, nil).Secret
	for _, lines := range [][]string{
		{"X-API-Key: " + key, "X-API-Key: " + key},
		{"X-API-Key: " + key, "x-api-key: other"},
		{"X-API-Key: " + key, "Authorization: Bearer " + key},
		{"X-API-Key: " + key, "Authorization: Bearer " + u.Token},
		{"Authorization: Bearer " + u.Token, "Authorization: Bearer " + u.Token},
		{"X-API-Key:", "Authorization: Bearer " + key},
	} {
		for _, path := range []string{"/keyed/x", "/jwt/x", "/api/test"} {
			a, seen := askBehind(t, p, up, rawRequest("GET "+path+" HTTP/1.1", lines...))
			if a.Status != http.StatusBadRequest || len(seen) != 0 {
				t.Errorf("%s with %.40q: status %d, %d requests reached the backend", path, lines, a.Status, len(seen))
			}
		}
	}
}

// A key counts in the two header fields only: elsewhere it ends up in logs and
// histories.
func TestKeyElsewhereThanInTheHeaderIsNotAccepted(t *testing.T) {
	p, up := startBehind(t, apptest.Options{})
	u := p.User(t)
	key := p.Key(t, u, nil).Secret
	var texts []string
	for _, name := range []string{"api_key", "apikey", "key", "access_token", "token", "X-API-Key", "x-api-key", "Authorization"} {
		for _, secret := range []string{key, u.Token, "Bearer%20" + key} {
			texts = append(texts,
				rawRequest("GET /keyed/x?"+name+"="+secret+" HTTP/1.1"),
				rawRequest("GET /jwt/x?"+name+"="+secret+" HTTP/1.1"),
				rawRequest("GET /api/test?"+name+"="+secret+" HTTP/1.1"),
				rawRequest("GET /keyed/x HTTP/1.1", "Cookie: "+name+"="+secret))
		}
		form := name + "=" + key
		texts = append(texts, rawRequest("POST /keyed/x HTTP/1.1", "Content-Type: application/x-www-form-urlencoded",
			fmt.Sprintf("Content-Length: %d", len(form)))+form)
	}
	texts = append(texts,
		rawRequest("GET /keyed/"+key+" HTTP/1.1"),
		rawRequest("GET http://"+key+"@client.test/keyed/x HTTP/1.1"),
		rawRequest("GET /keyed/x HTTP/1.1", "Sec-WebSocket-Protocol: bearer, "+key),
		rawRequest("POST /keyed/x HTTP/1.1", "Transfer-Encoding: chunked", "Trailer: X-API-Key")+"0\r\nX-API-Key: "+key+"\r\n\r\n",
	)
	for _, text := range texts {
		a, seen := askBehind(t, p, up, text)
		if a.Status != http.StatusUnauthorized && a.Status != http.StatusBadRequest || len(seen) != 0 {
			t.Errorf("%.60q: status %d, %d requests reached the backend", text, a.Status, len(seen))
		}
	}
}

// ---- methods and targets

func TestOddMethods(t *testing.T) {
	p, up := startBehind(t, apptest.Options{})
	k := p.Key(t, p.User(t), nil)
	long := strings.Repeat("M", 5000)
	for _, c := range []struct {
		requestLine string
		status      []int
		forwarded   bool
	}{
		{"TRACE /open/x HTTP/1.1", []int{501}, false},
		{"TRACE /keyed/x HTTP/1.1", []int{501}, false},
		{"TRACE /api/test HTTP/1.1", []int{501}, false},
		{"TRACK /open/x HTTP/1.1", []int{501}, false},
		{"CONNECT client.test:443 HTTP/1.1", []int{501}, false},
		{"CONNECT /open/x HTTP/1.1", []int{501}, false},
		{"CONNECT http://client.test/open/x HTTP/1.1", []int{400, 501}, false},
		{"PROPFIND /open/x HTTP/1.1", []int{200}, true},
		{"PROPFIND /keyed/x HTTP/1.1", []int{401}, false},
		{"get /ro/x HTTP/1.1", []int{401}, false}, // another method than GET, which is open
		{"Get /ro/x HTTP/1.1", []int{401}, false},
		{"HEAD /ro/x HTTP/1.1", []int{200}, true},
		{"OPTIONS /ro/x HTTP/1.1", []int{401}, false},
		{"OPTIONS * HTTP/1.1", []int{400, 404}, false},
		{"GET * HTTP/1.1", []int{400}, false},
		{"PRI * HTTP/1.1", []int{400, 404, 505}, false},
		{"G(T /open/x HTTP/1.1", []int{400}, false},
		{"GET\t/open/x HTTP/1.1", []int{400}, false},
		{long + " /keyed/x HTTP/1.1", []int{400, 401, 501}, false},
		{"FOO /api/test HTTP/1.1", []int{405}, false},
		{"DELETE /auth/login HTTP/1.1", []int{405}, false},
		{"TRACE /users HTTP/1.1", []int{501}, false},
	} {
		a, seen := askBehind(t, p, up, rawRequest(c.requestLine))
		if !slices.Contains(c.status, a.Status) || (len(seen) == 1) != c.forwarded {
			t.Errorf("%.40q: status %d, want %v; %d requests reached the backend", c.requestLine, a.Status, c.status, len(seen))
		}
		if a.Status == 405 && a.Header.Get("Allow") == "" {
			t.Errorf("%q: 405 without Allow", c.requestLine)
		}
	}
	// The refusal does not depend on the credential.
	for _, method := range []string{"TRACE", "TRACK", "CONNECT"} {
		a, seen := askBehind(t, p, up, rawRequest(method+" /keyed/x HTTP/1.1", "X-API-Key: "+k.Secret))
		if a.Status != http.StatusNotImplemented || len(seen) != 0 || strings.Contains(a.Body, k.Secret) {
			t.Errorf("%s with a key: status %d, %d requests reached the backend", method, a.Status, len(seen))
		}
	}
}

// The authority of an absolute target decides, whatever Host says (RFC 9112
// section 3.2.2).
func TestAbsoluteTarget(t *testing.T) {
	p, up := startBehind(t, apptest.Options{})
	key := p.Key(t, p.User(t), nil).Secret
	for _, c := range []struct {
		target, host string
		key          bool
		status       int
		arrives      string // target that the backend gets; empty for none
	}{
		{"http://client.test/open/x?a=1", "client.test", false, 200, "/open/x?a=1"},
		{"http://client.test/open/x", "private.test", false, 200, "/open/x"},
		{"http://private.test/open/x", "client.test", false, 401, ""},
		{"http://PRIVATE.test.:80/open/x", "client.test", false, 401, ""},
		{"https://private.test/open/x", "client.test", false, 401, ""},
		{"HTTP://private.test/open/x", "client.test", false, 401, ""},
		{"http://private.test/open/x", "client.test", true, 200, "/open/x"},
		{"http://client.test/keyed/x", "client.test", false, 401, ""},
		{"http://client.test/open/../keyed/x", "client.test", false, 400, ""},
		{"http://client.test/open/..%2fkeyed/x", "client.test", false, 400, ""},
		{"http://client.test//open/x", "client.test", false, 400, ""},
		{"http://user@client.test/open/x", "client.test", false, 400, ""},
		{"http://client.test@private.test/open/x", "client.test", false, 400, ""},
		{"http:///open/x", "client.test", false, 400, ""},
		{"http:/open/x", "client.test", false, 400, ""},
		{"ftp://client.test/open/x", "client.test", false, 400, ""},
		{"//private.test/open/x", "client.test", false, 400, ""},
		{"http://client.test/open/x#/keyed", "client.test", false, 400, ""},
		{"open/x", "client.test", false, 400, ""},
	} {
		text := "GET " + c.target + " HTTP/1.1\r\nHost: " + c.host + "\r\nConnection: close\r\n"
		if c.key {
			text += "X-API-Key: " + key + "\r\n"
		}
		a, seen := askBehind(t, p, up, text+"\r\n")
		var arrived string
		if len(seen) == 1 {
			arrived = seen[0].Target
		}
		if a.Status != c.status || arrived != c.arrives || len(seen) > 1 {
			t.Errorf("%s with Host %s: status %d, the backend got %q; want %d, %q", c.target, c.host, a.Status, arrived, c.status, c.arrives)
		}
	}
}

// The platform's own paths cannot be reached, nor avoided, by another spelling:
// the one canonical form is routed, or the request is refused.
func TestSpellingsOfPlatformPaths(t *testing.T) {
	p, up := startBehind(t, apptest.Options{})
	u := p.User(t)
	for _, path := range []string{
		"//users", "/users/", "/./users", "/users/.", "/x/../users", "/users//me", "/users;/me", "/users/me;x=1", "/users%2fme", "/USERS",
		"/users/%2e%2e/users", "/users/..%2f", "/users%00", "/users/me%00", "/users/me%20", "/users/me/", "/users\\me", "/users%5cme",
		"/%75sers", "/u%73ers/me", "/users?/open/", "/users/%6de",
	} {
		a, seen := askBehind(t, p, up, rawRequest("GET "+path+" HTTP/1.1"))
		if a.Status != 400 && a.Status != 401 && a.Status != 404 || len(seen) != 0 {
			t.Errorf("%s without a credential: status %d, %d requests reached the backend", path, a.Status, len(seen))
		}
		a, seen = askBehind(t, p, up, rawRequest("GET "+path+" HTTP/1.1", "Authorization: Bearer "+u.Token))
		mine := a.Status == 200 && strings.Contains(a.Body, u.ID) && (path == "/u%73ers/me" || path == "/users/%6de")
		if !mine && a.Status != 400 && a.Status != 403 && a.Status != 404 || len(seen) != 0 {
			t.Errorf("%s as a user: status %d, %d requests reached the backend: %.200s", path, a.Status, len(seen), a.Body)
		}
	}
}

// ---- limits

func TestLargeHeadersAreRefused(t *testing.T) {
	p, up := startBehind(t, apptest.Options{})
	const limit = 64 << 10
	value := strings.Repeat("a", 1000)
	for _, c := range []struct {
		name   string
		lines  []string
		target string
		status int
	}{
		{"one field below the limit", []string{"X-Big: " + strings.Repeat("a", limit-8<<10)}, "/open/x", 200},
		{"one field over the limit", []string{"X-Big: " + strings.Repeat("a", limit+1)}, "/open/x", 431},
		{"many fields over the limit", slices.Repeat([]string{"X-A: " + value}, limit/1000+1), "/open/x", 431},
		{"a megabyte", []string{"X-Big: " + strings.Repeat("a", 1<<20)}, "/open/x", 431},
		{"too many small fields", slices.Repeat([]string{"A: b"}, 250), "/open/x", 431},
		{"a field name over the limit", []string{strings.Repeat("N", limit+1) + ": 1"}, "/open/x", 431},
		{"a target over its limit", nil, "/open/x?" + strings.Repeat("q", 16<<10), 414},
		{"a target over every limit", nil, "/open/x?" + strings.Repeat("q", limit+1), 431},
		{"the platform's own path", []string{"X-Big: " + strings.Repeat("a", limit+1)}, "/healthz", 431},
	} {
		a, seen := askBehind(t, p, up, rawRequest("GET "+c.target+" HTTP/1.1", c.lines...))
		if a.Status != c.status || (len(seen) == 1) != (c.status == 200) {
			t.Errorf("%s: status %d, want %d; %d requests reached the backend", c.name, a.Status, c.status, len(seen))
		}
	}
	// The connection of a refused request is not used for another one.
	answers := speak(t, p.Addr, "GET /open/x HTTP/1.1\r\nHost: a\r\nX-Big: "+strings.Repeat("a", limit+1)+"\r\n\r\n"+rawRequest("GET /open/after HTTP/1.1"))
	if len(answers) != 1 || answers[0].Status != 431 {
		t.Errorf("after a header that is too large: %d answers", len(answers))
	}
}

func TestLargeBodiesAreRefused(t *testing.T) {
	p, up := startBehind(t, apptest.Options{})
	chunk := func(n int) string { return fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", n, strings.Repeat("a", n)) }
	login := `{"email":"` + strings.Repeat("a", 1<<20) + `"}`
	for _, c := range []struct {
		name, text string
		status     int
	}{
		{"route, declared", rawRequest("POST /small/x HTTP/1.1", "Content-Length: 1025") + strings.Repeat("a", 1025), 413},
		{"route, declared and not sent", rawRequest("POST /small/x HTTP/1.1", "Content-Length: 99999999999"), 413},
		{"route, chunked", rawRequest("POST /small/x HTTP/1.1", "Transfer-Encoding: chunked") + chunk(1025), 413},
		{"route, chunked, a megabyte", rawRequest("POST /small/x HTTP/1.1", "Transfer-Encoding: chunked") + chunk(1<<20), 413},
		{"platform, declared", rawRequest("POST /auth/login HTTP/1.1", "Content-Type: application/json", fmt.Sprintf("Content-Length: %d", len(login))) + login, 413},
		{"platform, chunked", rawRequest("POST /auth/login HTTP/1.1", "Content-Type: application/json", "Transfer-Encoding: chunked") + chunk(1<<20+1), 413},
	} {
		a, seen := askBehind(t, p, up, c.text)
		if a.Status != c.status || len(seen) != 0 || a.Header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s: status %d, want %d; %d whole requests reached the backend: %s", c.name, a.Status, c.status, len(seen), a.Body)
		}
	}
	got := forwarded(t, p, up, rawRequest("POST /small/x HTTP/1.1", "Transfer-Encoding: chunked")+chunk(1024))
	if got.BodyLen != 1024 {
		t.Errorf("a body of exactly the limit arrived with %d bytes", got.BodyLen)
	}
}

// A header that never ends is cut off at the time-out, however it trickles in.
func TestSlowHeaderIsCutOff(t *testing.T) {
	p, up := startBehind(t, apptest.Options{Set: map[string]string{"server.read_header_timeout": "300ms"}})
	for _, begin := range []string{"G", "GET /open/x HTTP/1.1\r\nHost: client.test\r\nX-A: "} {
		conn := dialRaw(t, p.Addr)
		if _, err := io.WriteString(conn, begin); err != nil {
			t.Fatal(err)
		}
		closed := make(chan struct{})
		go func() {
			defer close(closed)
			_, _ = io.Copy(io.Discard, conn)
		}()
		tick := time.NewTicker(20 * time.Millisecond)
		for open := true; open; {
			select {
			case <-closed:
				open = false
			case <-tick.C:
				_, _ = io.WriteString(conn, "a")
			}
		}
		tick.Stop()
	}
	if got := up.Since(0); len(got) != 0 {
		t.Errorf("%d requests reached the backend", len(got))
	}
}

// ---- many requests on one connection, old clients

func TestPipelinedRequestsAreKeptApart(t *testing.T) {
	p, up := startBehind(t, apptest.Options{})
	key := p.Key(t, p.User(t), nil).Secret
	mark := up.Mark()
	answers := speak(t, p.Addr, ""+
		"GET /open/1 HTTP/1.1\r\nHost: client.test\r\n\r\n"+
		"GET /keyed/2 HTTP/1.1\r\nHost: client.test\r\n\r\n"+
		"POST /keyed/3 HTTP/1.1\r\nHost: client.test\r\nContent-Length: 5\r\n\r\nhello"+ // refused with its body unread
		"GET /keyed/4 HTTP/1.1\r\nHost: client.test\r\nX-API-Key: "+key+"\r\n\r\n"+
		"GET /keyed/5 HTTP/1.1\r\nHost: client.test\r\n\r\n"+ // the key of the one before is not his
		"POST /open/6 HTTP/1.1\r\nHost: client.test\r\nContent-Length: 3\r\n\r\nabc"+
		rawRequest("GET /open/7 HTTP/1.1"))
	up.Settle(t.Context())
	var status []int
	for _, a := range answers {
		status = append(status, a.Status)
	}
	var targets []string
	for _, r := range up.Since(mark) {
		targets = append(targets, r.Target)
		if r.Target != "/keyed/4" && fieldValues(r, "X-Consumer") != nil {
			t.Errorf("%s carries the identity of another request", r.Target)
		}
	}
	if want := []int{200, 401, 401, 200, 401, 200, 200}; !slices.Equal(status, want) {
		t.Errorf("answers %v, want %v", status, want)
	}
	if want := []string{"/open/1", "/keyed/4", "/open/6", "/open/7"}; !slices.Equal(targets, want) {
		t.Errorf("the backend got %v, want %v", targets, want)
	}
}

// What follows a request whose end is disputed is never a request.
func TestNothingIsSmuggledBehindADisputedEnd(t *testing.T) {
	p, up := startBehind(t, apptest.Options{})
	const smuggled = "GET /open/smuggled HTTP/1.1\r\nHost: client.test\r\n\r\n"
	for _, head := range []string{
		"Content-Length: 6\r\nTransfer-Encoding: chunked", "Transfer-Encoding: chunked\r\nContent-Length: 6", "Content-Length: 0\r\nContent-Length: 5",
		"Content-Length: 0, 5", "Content-Length: +0", "Content-Length: 0x0", "Transfer-Encoding: identity", "Transfer-Encoding: gzip, chunked",
		"Transfer-Encoding: chunked, identity", "Transfer-Encoding:\x0bchunked", "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
		"Transfer-Encoding : chunked", " Transfer-Encoding: chunked", "Content-Length : 0",
	} {
		for _, path := range []string{"/open/x", "/keyed/x", "/healthz", "/auth/login"} {
			mark := up.Mark()
			speak(t, p.Addr, "POST "+path+" HTTP/1.1\r\nHost: client.test\r\n"+head+"\r\n\r\n0\r\n\r\n"+smuggled+"Connection: close\r\n\r\n"+
				rawRequest("GET /open/last HTTP/1.1"))
			up.Settle(t.Context())
			for _, r := range up.Since(mark) {
				if r.Target == "/open/smuggled" || len(r.Anomalies) > 0 {
					t.Errorf("%s with %q: the backend got %s %s with %v", path, head, r.Method, r.Target, r.Anomalies)
				}
			}
		}
	}
}

func TestHTTP10(t *testing.T) {
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "part one, ")
		_ = http.NewResponseController(w).Flush() // makes the answer chunked
		_, _ = io.WriteString(w, "part two")
	}))
	defer backend.Close()
	p := apptest.Start(t, apptest.Options{Gateway: fixtureDocument(t, strings.TrimPrefix(backend.URL, "http://"))})
	key := p.Key(t, p.User(t), nil).Secret
	for _, c := range []struct {
		text   string
		status int
		body   string
	}{
		{"GET /open/x HTTP/1.0\r\n\r\n", 200, "part one, part two"},
		{"GET /open/x HTTP/1.0\r\nHost: client.test\r\n\r\n", 200, "part one, part two"},
		{"GET /open/x HTTP/1.0\r\nHost: private.test\r\n\r\n", 401, ""},
		{"GET /keyed/x HTTP/1.0\r\n\r\n", 401, ""},
		{"GET /keyed/x HTTP/1.0\r\nX-API-Key: " + key + "\r\n\r\n", 200, "part one, part two"},
		{"GET /healthz HTTP/1.0\r\n\r\n", 200, `{"status":"ok"}`},
		{"GET /open/x\r\n\r\n", 400, ""},
		{"GET /open/x HTTP/0.9\r\n\r\n", 400, ""},
		{"GET /open/x HTTP/2.0\r\nHost: a\r\n\r\n", 505, ""},
		{"GET /open/x HTTP/1.1\r\n\r\n", 400, ""}, // no Host
	} {
		a := ask(t, p.Addr, c.text)
		if a.Status != c.status && (c.status != 400 || a.Status != 505) || c.body != "" && (a.Body != c.body || a.Broken) {
			t.Errorf("%q: status %d, body %q", c.text, a.Status, a.Body)
		}
		if a.Status == 200 && (a.Header.Get("Transfer-Encoding") != "" || strings.Contains(a.Body, "\r\n")) {
			t.Errorf("%q: an old client got a chunked answer", c.text)
		}
	}
}

// ---- upgrades

const handshake = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="

func upgrade(path string, lines ...string) string {
	return "GET " + path + " HTTP/1.1\r\nHost: client.test\r\n" + strings.Join(append(lines, handshake), "\r\n") + "\r\n\r\n"
}

func TestUpgradeWithoutAuthenticationReachesNobody(t *testing.T) {
	p, up := startBehind(t, apptest.Options{})
	u := p.User(t)
	k := p.Key(t, u, nil)
	p.Want(t, http.StatusNoContent, "DELETE", "/api-keys/"+k.ID, nil, u.Auth()...)
	for _, path := range []string{"/ws/x", "/keyed/x", "/svc/private/x", "/jwt/x"} {
		for _, line := range []string{
			"X-A: 1", "X-API-Key: " + k.Secret, "X-API-Key: " + unknownKey(), "X_API_Key: " + p.Key(t, u, nil).Secret, "Authorization: Bearer x.y.z",
			"Sec-WebSocket-Protocol: " + p.Key(t, u, nil).Secret,
		} {
			mark := up.Mark()
			// What comes behind a refused handshake is requests again, not a stream.
			answers := speak(t, p.Addr, upgrade(path, line)+rawRequest("GET /keyed/behind HTTP/1.1"))
			up.Settle(t.Context())
			if len(answers) == 0 || answers[0].Status != http.StatusUnauthorized || len(up.Since(mark)) != 0 {
				t.Errorf("%s with %.40q: %d answers, %d requests reached the backend", path, line, len(answers), len(up.Since(mark)))
			}
			for _, a := range answers {
				if a.Status != http.StatusUnauthorized {
					t.Errorf("%s with %.40q: an answer has status %d", path, line, a.Status)
				}
			}
		}
	}
}

// Requests inside of another protocol would pass the routes by.
func TestNoOtherProtocolThanWebSocket(t *testing.T) {
	p, up := startBehind(t, apptest.Options{})
	key := p.Key(t, p.User(t), nil).Secret
	for _, protocol := range []string{"h2c", "h2", "TLS/1.2", "HTTP/2.0", "h2c, websocket", "spdy/3"} {
		got := forwarded(t, p, up, "GET /keyed/x HTTP/1.1\r\nHost: client.test\r\nX-API-Key: "+key+"\r\nUpgrade: "+protocol+
			"\r\nConnection: Upgrade, HTTP2-Settings, close\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n")
		for _, name := range []string{"Upgrade", "Http2-Settings", "Connection"} {
			if v := fieldValues(got, name); v != nil {
				t.Errorf("Upgrade: %s: the backend got %s: %q", protocol, name, v)
			}
		}
	}
	// The preface of HTTP/2 is no request of HTTP/1.
	for _, a := range speak(t, p.Addr, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00") {
		if a.Status < 400 {
			t.Errorf("the preface of HTTP/2 got status %d", a.Status)
		}
	}
}

// switching is a backend that accepts every handshake and echoes what follows,
// in capitals. It sends the request of each handshake to seen.
func switching(t *testing.T, seen chan<- *http.Request) *httptest.Server {
	t.Helper()
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer func() { _ = conn.Close() }()
		seen <- r
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n")
		lines := bufio.NewScanner(rw)
		for lines.Scan() {
			_, _ = io.WriteString(conn, strings.ToUpper(lines.Text())+"\n")
		}
		seen <- nil // the client's end has arrived
	}))
	t.Cleanup(backend.Close)
	return backend
}

func TestWebSocketPassesWithAKey(t *testing.T) {
	seen := make(chan *http.Request, 8)
	backend := switching(t, seen)
	p := apptest.Start(t, apptest.Options{Gateway: fixtureDocument(t, strings.TrimPrefix(backend.URL, "http://"))})
	u := p.User(t)
	k := p.Key(t, u, nil)
	for _, credential := range []string{"X-API-Key: " + k.Secret, "Authorization: Bearer " + k.Secret} {
		conn := dialRaw(t, p.Addr)
		if _, err := io.WriteString(conn, upgrade("/ws/room", credential, "X-Consumer: admin")); err != nil {
			t.Fatal(err)
		}
		br := bufio.NewReader(conn)
		a, err := readAnswer(br, "GET")
		if err != nil || a.Status != http.StatusSwitchingProtocols || a.Header.Get("Sec-Websocket-Accept") == "" {
			t.Fatalf("the handshake got %+v, %v", a, err)
		}
		got := <-seen
		if got.URL.Path != "/ws/room" || !slices.Equal(got.Header.Values("X-Consumer"), []string{u.ID}) {
			t.Errorf("the backend got %s of %q", got.URL.Path, got.Header.Values("X-Consumer"))
		}
		if strings.Contains(fmt.Sprint(got.Header), k.Secret[12:]) {
			t.Error("the key reached the backend")
		}
		for _, line := range []string{"hello", strings.Repeat("x", 60_000), "bye"} {
			if _, err := io.WriteString(conn, line+"\n"); err != nil {
				t.Fatal(err)
			}
			if echo, err := br.ReadString('\n'); err != nil || echo != strings.ToUpper(line)+"\n" {
				t.Fatalf("the echo of %.20q is %.20q, %v", line, echo, err)
			}
		}
		_ = conn.Close()
		if end := <-seen; end != nil {
			t.Error("the backend did not see the client's end")
		}
	}
}

// An answer other than 101 is an answer: what the client sends after it is
// requests, each of which passes the lock.
func TestRefusedHandshakeOpensNoTunnel(t *testing.T) {
	p, up := startBehind(t, apptest.Options{})
	key := p.Key(t, p.User(t), nil).Secret
	for _, query := range []string{"?status=200", "?status=403", "?status=426", "?status=500"} {
		mark := up.Mark()
		answers := speak(t, p.Addr, upgrade("/ws/x"+query, "X-API-Key: "+key)+
			"GET /keyed/behind HTTP/1.1\r\nHost: client.test\r\n\r\n"+rawRequest("GET /open/behind HTTP/1.1"))
		up.Settle(t.Context())
		if len(answers) == 0 || fmt.Sprintf("?status=%d", answers[0].Status) != query {
			t.Errorf("%s: answers %+v", query, answers)
		}
		for _, r := range up.Since(mark) {
			if r.Target == "/keyed/behind" || strings.Contains(r.Body, "/keyed/behind") {
				t.Errorf("%s: the backend got %s %q", query, r.Target, r.Body)
			}
		}
	}
	// A backend that switches without having been asked to is broken.
	unasked := base64.RawURLEncoding.EncodeToString([]byte("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"))
	if a := ask(t, p.Addr, rawRequest("GET /open/x?raw="+unasked+" HTTP/1.1")); a.Status != http.StatusBadGateway {
		t.Errorf("a switch that nobody asked for: status %d", a.Status)
	}
}

// ---- interim, truncated and streamed answers

func TestInterimAnswersPass(t *testing.T) {
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Link", "</a.css>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		w.Header().Set("Link", "</b.css>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		w.Header().Del("Link")
		_, _ = io.WriteString(w, "done")
	}))
	defer backend.Close()
	p := apptest.Start(t, apptest.Options{Gateway: fixtureDocument(t, strings.TrimPrefix(backend.URL, "http://"))})
	key := p.Key(t, p.User(t), nil).Secret
	for _, text := range []string{rawRequest("GET /open/x HTTP/1.1"), rawRequest("GET /keyed/x HTTP/1.1", "X-API-Key: "+key)} {
		answers := speak(t, p.Addr, text)
		var hints []string
		for _, a := range answers {
			if a.Status == http.StatusEarlyHints {
				hints = append(hints, a.Header.Get("Link"))
			}
		}
		last := answers[len(answers)-1]
		if !slices.Equal(hints, []string{"</a.css>; rel=preload", "</b.css>; rel=preload"}) || last.Status != 200 || last.Body != "done" {
			t.Errorf("hints %q, then %d %q", hints, last.Status, last.Body)
		}
		if last.Header.Get("Link") != "" || last.Header.Get("X-Request-Id") == "" {
			t.Errorf("the final answer has the header %v", last.Header)
		}
	}
}

// Half an answer must not be sold as a whole one.
func TestTruncatedAnswersStayTruncated(t *testing.T) {
	p, up := startBehind(t, apptest.Options{})
	raw := func(answer string) string {
		return "?raw=" + base64.RawURLEncoding.EncodeToString([]byte(answer)) + "&close=1"
	}
	long := strings.Repeat("x", 100_000)
	for name, answer := range map[string]string{
		"length":          "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc",
		"long length":     "HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n" + long[:4000],
		"chunks":          "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
		"within a chunk":  "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n5\r\nab",
		"bad chunk":       "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nzz\r\n",
		"event stream":    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
		"compressed":      "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 10\r\n\r\nabc",
		"without trailer": "HTTP/1.1 200 OK\r\nTrailer: X-T\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n",
	} {
		answers := speak(t, p.Addr, rawRequest("GET /open/x"+raw(answer)+" HTTP/1.1"))
		if len(answers) > 1 || len(answers) == 1 && answers[0].Status == 200 && !answers[0].Broken {
			t.Errorf("%s: the client got %+v as if it were complete", name, answers)
		}
	}
	// Neither is the next one spoiled.
	forwarded(t, p, up, rawRequest("GET /open/after HTTP/1.1"))
	whole := ask(t, p.Addr, rawRequest("GET /open/x"+raw("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc")+" HTTP/1.1"))
	if whole.Status != 200 || whole.Body != "abc" || whole.Broken {
		t.Errorf("a whole answer arrived as %+v", whole)
	}
}

func TestEventsArriveWhileTheBackendHoldsTheStream(t *testing.T) {
	release := make(chan struct{})
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, "data: first\n\n")
		_ = http.NewResponseController(w).Flush()
		select {
		case <-release:
			_, _ = io.WriteString(w, "data: last\n\n")
		case <-r.Context().Done():
		}
	}))
	defer backend.Close()
	p := apptest.Start(t, apptest.Options{Gateway: fixtureDocument(t, strings.TrimPrefix(backend.URL, "http://"))})
	key := p.Key(t, p.User(t), nil).Secret
	req, err := http.NewRequestWithContext(t.Context(), "GET", p.URL+"/keyed/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-API-Key", key)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	br := bufio.NewReader(resp.Body)
	if line, err := br.ReadString('\n'); err != nil || line != "data: first\n" {
		t.Fatalf("the first event is %q, %v", line, err)
	}
	close(release)
	rest, err := io.ReadAll(br)
	if err != nil || string(rest) != "\ndata: last\n\n" {
		t.Errorf("the rest is %q, %v", rest, err)
	}
}

// pattern is n reproducible bytes that do not compress.
func pattern(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}

// Bodies are passed on as they come, in both directions: each side gets the first
// part while the other still holds the rest back, and nothing is lost of either,
// although the backend answers before it has read everything.
func TestLargeBodiesAreStreamedBothWays(t *testing.T) {
	const large = 10 << 20
	t.Run("of a known length", func(t *testing.T) { streamBothWays(t, large, large) })
	t.Run("in chunks", func(t *testing.T) { streamBothWays(t, large, -1) })
	// So little that net/http would rather read it away than close the connection.
	t.Run("with little left", func(t *testing.T) { streamBothWays(t, firstPart+100_000, firstPart+100_000) })
}

// firstPart is what each side sends before it waits for the other.
const firstPart = 1 << 20

// streamBothWays sends and receives a body of size bytes, announced by length or,
// for -1, in chunks.
func streamBothWays(t *testing.T, size int, length int64) {
	t.Helper()
	body := pattern(size)
	uploaded, downloaded := make(chan struct{}), make(chan struct{})
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex()
		hash := sha256.New()
		if _, err := io.CopyN(hash, r.Body, firstPart); err != nil {
			return
		}
		if _, err := w.Write(body[:firstPart]); err != nil {
			return
		}
		_ = http.NewResponseController(w).Flush()
		close(uploaded) // the client still holds its rest
		select {
		case <-downloaded: // the client has its first part
		case <-r.Context().Done():
			return
		}
		if _, err := io.Copy(hash, r.Body); err != nil {
			return
		}
		_, _ = w.Write(body[firstPart:])
		_, _ = io.WriteString(w, hex.EncodeToString(hash.Sum(nil)))
	}))
	defer backend.Close()
	p := apptest.Start(t, apptest.Options{Gateway: fixtureDocument(t, strings.TrimPrefix(backend.URL, "http://"))})
	key := p.Key(t, p.User(t), nil).Secret

	reader, writer := io.Pipe()
	var sending sync.WaitGroup
	sending.Go(func() {
		_, _ = writer.Write(body[:firstPart])
		<-uploaded
		_, _ = writer.Write(body[firstPart:])
		_ = writer.Close()
	})
	defer sending.Wait()
	defer func() { _ = reader.Close() }()
	req, err := http.NewRequestWithContext(t.Context(), "POST", p.URL+"/keyed/stream", reader)
	if err != nil {
		t.Fatal(err)
	}
	req.ContentLength = length
	req.Header.Set("X-API-Key", key)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	got := make([]byte, firstPart)
	if _, err := io.ReadFull(resp.Body, got); err != nil || !bytes.Equal(got, body[:firstPart]) {
		t.Fatalf("the first part of the answer is not what the backend sent: %v", err)
	}
	close(downloaded)
	rest, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	want := sha256.Sum256(body)
	if string(rest) != string(body[firstPart:])+hex.EncodeToString(want[:]) {
		t.Errorf("%d bytes of the answer came after the first part and end with %.64q, want %x", len(rest), rest[max(0, len(rest)-64):], want)
	}
}

// ---- Expect: 100-continue (DOS-15)

func TestExpectContinue(t *testing.T) {
	p, up := startBehind(t, apptest.Options{})
	key := p.Key(t, p.User(t), nil).Secret
	expecting := func(path string, length int, lines ...string) string {
		return rawRequest("POST "+path+" HTTP/1.1", append(lines, "Expect: 100-continue", fmt.Sprintf("Content-Length: %d", length))...)
	}

	t.Run("is asked to go on when the request is wanted", func(t *testing.T) {
		for _, head := range []string{expecting("/open/x", 5), expecting("/keyed/x", 5, "X-API-Key: "+key)} {
			conn := dialRaw(t, p.Addr)
			if _, err := io.WriteString(conn, head); err != nil {
				t.Fatal(err)
			}
			br := bufio.NewReader(conn)
			if a, err := readAnswer(br, "POST"); err != nil || a.Status != http.StatusContinue {
				t.Fatalf("the first answer is %+v, %v, want 100", a, err)
			}
			if _, err := io.WriteString(conn, "hello"); err != nil {
				t.Fatal(err)
			}
			if a, err := readAnswer(br, "POST"); err != nil || a.Status != 200 || !strings.Contains(a.Body, `"body_len": 5`) {
				t.Fatalf("the final answer is %+v, %v", a, err)
			}
		}
	})
	t.Run("is refused without asking for the body", func(t *testing.T) {
		for text, want := range map[string]int{
			expecting("/keyed/x", 5): 401, expecting("/small/x", 4096): 413, expecting("/nowhere", 5): 404, expecting("/users/me", 5): 405,
		} {
			mark := up.Mark()
			answers := speak(t, p.Addr, text)
			up.Settle(t.Context())
			if len(answers) != 1 || answers[0].Status != want || len(up.Since(mark)) != 0 {
				t.Errorf("%.40q: %+v, %d requests reached the backend", text, answers, len(up.Since(mark)))
			}
		}
	})
	t.Run("is no promise of anything else", func(t *testing.T) {
		a := ask(t, p.Addr, rawRequest("POST /open/x HTTP/1.1", "Expect: 200-maybe", "Content-Length: 0"))
		if a.Status != http.StatusExpectationFailed {
			t.Errorf("an unknown expectation: status %d", a.Status)
		}
	})
	t.Run("leaves the backend's connections usable when the backend answers at once", func(t *testing.T) {
		backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == "GET" {
				_, _ = io.WriteString(w, "fine")
				return
			}
			w.WriteHeader(http.StatusConflict) // without reading the body: no 100 is sent
		}))
		defer backend.Close()
		p := apptest.Start(t, apptest.Options{Gateway: fixtureDocument(t, strings.TrimPrefix(backend.URL, "http://"))})
		for range 30 {
			if a := ask(t, p.Addr, expecting("/open/x", 100)); a.Status != http.StatusConflict {
				t.Fatalf("status %d", a.Status)
			}
			if a := ask(t, p.Addr, rawRequest("GET /open/x HTTP/1.1")); a.Status != 200 || a.Body != "fine" {
				t.Fatalf("the next request got %d %q", a.Status, a.Body)
			}
		}
	})
}

// A backend's answer passes as it is, but for what is between the gateway and its
// client: the request id, the connection, and where else the gateway may be.
func TestBackendCannotSpeakForTheGateway(t *testing.T) {
	p, up := startBehind(t, apptest.Options{})
	header := strings.Join([]string{
		"X-Request-Id:%20forged", "x-request-id:%20forged", "Connection:%20X-Request-Id,%20Content-Type", "Alt-Svc:%20h3=forged", "Keep-Alive:%20timeout=5",
		"Proxy-Connection:%20close", "Upgrade:%20h2c", "WWW-Authenticate:%20Basic%20realm%3Dtheirs", "X-Theirs:%201", "Cache-Control:%20max-age%3D5",
	}, "&hdr=")
	a, seen := askBehind(t, p, up, rawRequest("GET /open/x?status=401&hdr="+header+" HTTP/1.1"))
	if a.Status != http.StatusUnauthorized || len(seen) != 1 {
		t.Fatalf("status %d: %s", a.Status, a.Body)
	}
	id := fieldValues(seen[0], "X-Request-Id")
	for name, want := range map[string][]string{
		"X-Request-Id": id, "Alt-Svc": nil, "Keep-Alive": nil, "Proxy-Connection": nil, "Upgrade": nil,
		"Www-Authenticate": {"Basic realm=theirs"}, "X-Theirs": {"1"}, "Cache-Control": {"max-age=5"},
	} {
		if got := a.Header.Values(name); !slices.Equal(got, want) {
			t.Errorf("the client got %s: %q, want %q", name, got, want)
		}
	}
}

// ---- the two planes

// With server.hosts set, the platform exists on those hosts only, however the
// host is written; every other host is the gateway's.
func TestPlatformPathsBelongToTheirHosts(t *testing.T) {
	p, up := startBehind(t, apptest.Options{Set: map[string]string{"server.hosts": "admin.test"}})
	platform := []string{
		"/healthz", "/readyz", "/metrics", "/swagger/index.html", "/.well-known/jwks.json", "/users", "/auth/login", "/audit",
	}
	for _, path := range platform {
		for _, host := range []string{"client.test", "127.0.0.1", "admin.test.evil.test", "xadmin.test", "admin"} {
			text := strings.Replace(rawRequest("GET "+path+" HTTP/1.1", "X-Forwarded-Host: admin.test"), "client.test", host, 1)
			if a := ask(t, p.Addr, text); a.Status != http.StatusNotFound || !strings.Contains(a.Body, "gateway.no_route") {
				t.Errorf("%s on %s: status %d: %.100s", path, host, a.Status, a.Body)
			}
		}
		for _, host := range []string{"admin.test", "ADMIN.test", "admin.test.", "admin.test:8080"} {
			text := strings.Replace(rawRequest("GET "+path+" HTTP/1.1"), "client.test", host, 1)
			if a := ask(t, p.Addr, text); a.Status == http.StatusNotFound {
				t.Errorf("%s on %s: status 404", path, host)
			}
		}
	}
	// A path of the gateway on a host of the platform is still the gateway's.
	text := strings.Replace(rawRequest("GET /open/x HTTP/1.1"), "client.test", "admin.test", 1)
	if a, seen := askBehind(t, p, up, text); a.Status != 200 || len(seen) != 1 {
		t.Errorf("/open/x on the platform's host: status %d", a.Status)
	}
}

// A path of the platform is never forwarded, even if a route claims it.
func TestRoutesCannotTakeThePlatformsPaths(t *testing.T) {
	up := attacktest.Start(t, "127.0.0.1:0")
	p := apptest.Start(t, apptest.Options{Gateway: `
version: 1
services: [{name: echo, url: "http://` + up.Addr() + `"}]
routes:
  - {name: all, match: {path: {prefix: /}}, service: echo, auth: {mode: none}}
`})
	for _, c := range [][2]string{
		{"GET", "/users/me"}, {"POST", "/auth/login"}, {"GET", "/api/test"}, {"GET", "/healthz"}, {"GET", "/api-keys"},
		{"GET", "/audit"}, {"DELETE", "/auth/login"}, {"POST", "/healthz"},
	} {
		_, seen := askBehind(t, p, up, rawRequest(c[0]+" "+c[1]+" HTTP/1.1", "Content-Length: 0"))
		if len(seen) != 0 {
			t.Errorf("%s %s was forwarded: %s", c[0], c[1], seen[0].Target)
		}
	}
	forwarded(t, p, up, rawRequest("GET /elsewhere HTTP/1.1"))
}

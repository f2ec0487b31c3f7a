package app_test

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/go-cmp/cmp"

	"github.com/keywarden/keywarden/pkg/app/apptest"
	"github.com/keywarden/keywarden/pkg/pglocal/pgtest"
)

func TestProbesOfAHealthyProgram(t *testing.T) {
	p := start(t, apptest.Options{})
	for _, path := range []string{"/health", "/healthz"} {
		if diff := cmp.Diff(object{"status": "ok"}, p.Want(t, http.StatusOK, "GET", path, nil).JSON(t)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", path, diff)
		}
	}
	ready := object{"status": "ready", "missing": []any{}, "checks": object{"database": "ok", "revocations": "ok"}}
	for _, query := range []string{"", "?plane=data", "?plane=control"} {
		if diff := cmp.Diff(ready, p.Want(t, http.StatusOK, "GET", "/readyz"+query, nil).JSON(t)); diff != "" {
			t.Errorf("/readyz%s (-want +got):\n%s", query, diff)
		}
	}
}

// Without its database the program stays alive, says what is missing, serves
// whom it knows, and answers everything else with 503 and Retry-After, never
// with a false 401. It comes back by itself.
func TestWithoutTheDatabase(t *testing.T) {
	server := pgtest.NewServer(t)
	p := start(t, apptest.Options{DatabaseURL: server.URL(), Set: roomy()})
	admin, unseen := p.Admin(t), p.User(t)
	key, target, unseenKey := p.Key(t, admin, nil), p.Key(t, admin, nil), p.Key(t, admin, nil)
	settle(t, p, admin)
	known := [][]string{admin.Auth(), key.Auth()}
	for _, auth := range known {
		p.Want(t, http.StatusOK, "GET", "/api/test", nil, auth...)
	}

	server.Stop()
	for _, path := range []string{"/health", "/healthz", "/.well-known/jwks.json", "/metrics"} {
		p.Want(t, http.StatusOK, "GET", path, nil)
	}
	degraded := object{"status": "degraded", "missing": []any{"database"}, "checks": object{"database": "missing", "revocations": "ok"}}
	if diff := cmp.Diff(degraded, p.Want(t, http.StatusOK, "GET", "/readyz", nil).JSON(t)); diff != "" {
		t.Errorf("/readyz (-want +got):\n%s", diff)
	}
	degraded["status"] = "not_ready"
	if diff := cmp.Diff(degraded, p.Want(t, http.StatusServiceUnavailable, "GET", "/readyz?plane=control", nil).JSON(t)); diff != "" {
		t.Errorf("/readyz?plane=control (-want +got):\n%s", diff)
	}
	for _, auth := range known {
		p.Want(t, http.StatusOK, "GET", "/api/test", nil, auth...)
	}
	for _, auth := range [][]string{unseen.Auth(), unseenKey.Auth(), {"X-API-Key", inventedKey(7)}} {
		wantProblem(t, p.Call(t, "GET", "/api/test", nil, auth...), http.StatusServiceUnavailable, "auth.unavailable")
	}

	bodies := map[string]any{
		"POST /auth/register":        object{"email": apptest.NewEmail(), "password": apptest.Password},
		"POST /auth/login":           object{"email": admin.Email, "password": admin.Password},
		"POST /auth/refresh":         object{"refresh_token": admin.Refresh},
		"POST /auth/password":        object{"current_password": admin.Password, "new_password": anotherPassword},
		"PATCH /users/me":            object{"name": "Ada"},
		"PATCH /users/{id}":          object{"role": "user"},
		"POST /api-keys":             object{"name": "b"},
		"PATCH /api-keys/{id}":       object{"name": "b"},
		"POST /api-keys/{id}/rotate": object{"grace_seconds": 0},
		"POST /keys/report":          object{"key": unseenKey.Secret},
		"POST /catalog/apps":         object{"name": "a"},
		"PATCH /catalog/apps/{app}":  object{"name": "b"},

		"POST /catalog/apps/{app}/subscriptions": object{"product": "p", "plan": "q"},
	}
	for _, c := range documentedAPI(t).calls() {
		name := c.method + " " + c.path
		if _, documented := c.Responses["503"]; !documented || slices.Contains([]string{"GET /api/test", "GET /readyz", "GET /.well-known/jwks.json"}, name) {
			continue // what these answer is in memory, or has a test of its own
		}
		if strings.HasPrefix(c.path, "/admin/v1/") {
			a := p.Call(t, c.method, c.at("1"), nil, unseen.Auth()...)
			wantProblem(t, a, http.StatusServiceUnavailable, "auth.unavailable")
			continue
		}
		auth, id := admin.Auth(), target.ID
		if strings.HasPrefix(c.path, "/users/") {
			id = unseen.ID
		}
		if c.path == "/api-keys/self" {
			auth = key.Auth()
		}
		if c.Security == nil {
			auth = nil
		}
		code := "store.unavailable"
		if name == "POST /keys/report" { // the key cannot be checked
			code = "auth.unavailable"
		}
		wantProblem(t, p.Call(t, c.method, c.at(id), bodies[name], auth...), http.StatusServiceUnavailable, code)
	}

	server.Start()
	apptest.Eventually(t, "the program is ready again", func() bool {
		return p.Call(t, "GET", "/readyz?plane=control", nil).Status == http.StatusOK
	})
	for _, auth := range [][]string{admin.Auth(), key.Auth(), unseen.Auth(), unseenKey.Auth(), target.Auth()} {
		p.Want(t, http.StatusOK, "GET", "/api/test", nil, auth...)
	}
	// Nothing of what was refused has happened, and it can be done now.
	p.SignIn(t, admin)
	p.Want(t, http.StatusOK, "GET", "/users", nil, admin.Auth()...)
}

var routeLabel = regexp.MustCompile(`^http_server_request_duration_seconds_count\{[^}]*http_route="([^"]*)"`)

func TestMetricsNameRoutesAndNeverWhatIsInThem(t *testing.T) {
	backend := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	t.Cleanup(backend.Close)
	p := start(t, apptest.Options{Gateway: fmt.Sprintf(`
version: 1
services: [{name: backend, url: %q}]
routes: [{name: things, match: {path: {prefix: /things}}, service: backend}]
`, backend.URL)})
	admin := p.Admin(t)
	key := p.Key(t, admin, nil)
	const marker = "markerthatisnolabel"
	for _, path := range []string{
		"/users/" + admin.ID, "/users/" + marker, "/users?q=" + marker, "/api-keys/" + key.ID, "/" + marker,
		"/api/test?" + marker + "=1", "/things/" + marker, "/things/" + admin.ID, "/swagger/" + marker, "/readyz?" + marker,
	} {
		p.Call(t, "GET", path, nil, admin.Auth()...)
	}
	p.Call(t, strings.ToUpper(marker), "/api/test", nil, admin.Auth()...)
	p.Call(t, "GET", "/api/test", nil, append(key.Auth(), "User-Agent", marker, "Host", marker+".example.com")...)

	a := p.Want(t, http.StatusOK, "GET", "/metrics", nil)
	if got := a.Header.Get("Content-Type"); !strings.HasPrefix(got, "text/plain; version=0.0.4") {
		t.Errorf("Content-Type %q", got)
	}
	routes := map[string]bool{}
	for line := range strings.Lines(string(a.Body)) {
		if m := routeLabel.FindStringSubmatch(line); m != nil {
			routes[m[1]] = true
		}
		for _, id := range []string{admin.ID, key.ID, key.Secret[:20], admin.Email, marker, strings.ToUpper(marker)} {
			if strings.Contains(line, id) {
				t.Errorf("a metric holds %q: %s", id, line)
			}
		}
	}
	want := []string{
		"/api-keys", "/api-keys/:id", "/api/test", "/auth/login", "/readyz", "/swagger/*any", "/users", "/users/:id", "things",
	}
	if diff := cmp.Diff(want, slices.Sorted(maps.Keys(routes))); diff != "" {
		t.Errorf("http_route (-want +got):\n%s", diff)
	}
	for _, name := range []string{"keywarden_keys_cached", "keywarden_changes_lag_seconds", "keywarden_db_connections", "go_goroutines", "process_cpu_seconds_total", "target_info"} {
		if !strings.Contains(string(a.Body), "\n"+name) {
			t.Errorf("no metric %s", name)
		}
	}
}

func TestMetricsCanHaveTheirOwnListener(t *testing.T) {
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := free.Addr().String()
	_ = free.Close()
	p := start(t, apptest.Options{Set: map[string]string{"server.metrics_addr": addr}})
	for _, path := range []string{"/metrics", "/debug/pprof/", "/debug/vars"} {
		wantProblem(t, p.Call(t, "GET", path, nil), http.StatusNotFound, "gateway.no_route")
	}
	own := apptest.Program{URL: "http://" + addr}
	for path, text := range map[string]string{
		"/metrics": "http_server_request_duration_seconds", "/debug/pprof/": "goroutine", "/debug/pprof/goroutine?debug=1": "goroutine profile",
	} {
		if a := own.Want(t, http.StatusOK, "GET", path, nil); !strings.Contains(string(a.Body), text) {
			t.Errorf("%s: %.200s", path, a.Body)
		}
	}
	for _, path := range []string{"/api/test", "/users", "/auth/login", "/swagger/index.html"} {
		if a := own.Call(t, "GET", path, nil); a.Status != http.StatusNotFound {
			t.Errorf("%s is served on the listener for metrics: %d", path, a.Status)
		}
	}
}

func TestMetricsCanBeSwitchedOff(t *testing.T) {
	p := start(t, apptest.Options{Set: map[string]string{"telemetry.metrics": "false"}})
	wantProblem(t, p.Call(t, "GET", "/metrics", nil), http.StatusNotFound, "gateway.no_route")
}

var (
	htmlReference = regexp.MustCompile(`(?:src|href)="([^"]*)"`)
	cssReference  = regexp.MustCompile(`url\(\s*["']?([^"')]+)|@import`)
)

func TestSwaggerUIWorksOffline(t *testing.T) {
	p := start(t, apptest.Options{})
	if a := p.Want(t, http.StatusFound, "GET", "/swagger/", nil); a.Header.Get("Location") != "/swagger/index.html" {
		t.Errorf("/swagger/ leads to %q", a.Header.Get("Location"))
	}
	// The files do not depend on what was asked for first.
	for _, path := range []string{"/swagger/x/swagger-ui.css", "/swagger/index.html/doc.json", "/swagger/none?a=swagger-ui.css", "/swagger/swagger-ui.js.map"} {
		wantProblem(t, p.Call(t, "GET", path, nil), http.StatusNotFound, "swagger.no_file")
	}
	p.Want(t, http.StatusOK, "GET", "/swagger/index.html?x=/a/doc.json", nil)

	page := p.Want(t, http.StatusOK, "GET", "/swagger/index.html", nil)
	if got := page.Header.Get("Content-Type"); got != "text/html; charset=utf-8" {
		t.Errorf("Content-Type %q", got)
	}
	policy := page.Header.Get("Content-Security-Policy")
	if !strings.Contains(policy, "default-src 'self'") || strings.Contains(policy, "http") || strings.Contains(policy, "*") {
		t.Errorf("Content-Security-Policy %q lets the page load from elsewhere", policy)
	}
	references := htmlReference.FindAllStringSubmatch(string(page.Body), -1)
	if len(references) < 6 {
		t.Errorf("%d references in %s", len(references), page.Body)
	}
	for _, r := range references {
		if strings.Contains(r[1], "//") {
			t.Errorf("the page refers to %s", r[1])
			continue
		}
		file := p.Want(t, http.StatusOK, "GET", "/swagger/"+strings.TrimPrefix(r[1], "./"), nil)
		if len(file.Body) == 0 {
			t.Errorf("%s is empty", r[1])
		}
		if !strings.HasSuffix(r[1], ".css") {
			continue
		}
		for _, used := range cssReference.FindAllStringSubmatch(string(file.Body), -1) {
			if !strings.HasPrefix(used[1], "data:") {
				t.Errorf("%s refers to %q", r[1], used[0])
			}
		}
	}
	script := string(p.Want(t, http.StatusOK, "GET", "/swagger/swagger-initializer.js", nil).Body)
	if !strings.Contains(script, `url: "doc.json"`) || !strings.Contains(script, "validatorUrl: null") || strings.Contains(script, "https://") {
		t.Errorf("the script refers to elsewhere: %s", script)
	}
}

func TestSwaggerDocumentIsTheOneOfTheRepository(t *testing.T) {
	p := start(t, apptest.Options{})
	a := p.Want(t, http.StatusOK, "GET", "/swagger/doc.json", nil)
	var served apiDocument
	if err := json.Unmarshal(a.Body, &served); err != nil {
		t.Fatal(err)
	}
	want := documentedAPI(t)
	if diff := cmp.Diff(want, served); diff != "" {
		t.Errorf("doc.json (-docs/swagger.json +served):\n%s", diff)
	}
	// Calls go to where the page came from, and Authorize takes both credentials.
	if served.Host != "" || served.BasePath != "/" {
		t.Errorf("host %q, base path %q", served.Host, served.BasePath)
	}
	type header = struct{ Type, Name, In string }
	if diff := cmp.Diff(map[string]header{
		"BearerAuth": {"apiKey", "Authorization", "header"}, "ApiKeyAuth": {"apiKey", "X-API-Key", "header"},
	}, served.SecurityDefinitions); diff != "" {
		t.Errorf("security definitions (-want +got):\n%s", diff)
	}
}

func TestPublishedKeysVerifyTokens(t *testing.T) {
	p := start(t, apptest.Options{})
	u := p.User(t)
	a := p.Want(t, http.StatusOK, "GET", "/.well-known/jwks.json", nil)
	if got := a.Header.Get("Cache-Control"); got != "public, max-age=300" {
		t.Errorf("Cache-Control: %q", got)
	}
	public := map[string]ed25519.PublicKey{}
	for _, entry := range a.JSON(t)["keys"].([]any) {
		wantMembers(t, entry, "kty", "crv", "x", "kid", "use", "alg") // above all, no "d"
		k := entry.(object)
		if k["kty"] != "OKP" || k["crv"] != "Ed25519" || k["use"] != "sig" || k["alg"] != "EdDSA" {
			t.Errorf("key %v", k)
		}
		x, err := base64.RawURLEncoding.DecodeString(k["x"].(string))
		if err != nil || len(x) != ed25519.PublicKeySize {
			t.Fatalf("x of %d bytes: %v", len(x), err)
		}
		public[k["kid"].(string)] = x
	}

	claims := jwt.MapClaims{}
	token, err := jwt.ParseWithClaims(u.Token, claims, func(t *jwt.Token) (any, error) {
		key, ok := public[t.Header["kid"].(string)]
		if !ok {
			return nil, fmt.Errorf("unknown key %v", t.Header["kid"])
		}
		return key, nil
	}, jwt.WithValidMethods([]string{"EdDSA"}), jwt.WithIssuer("keywarden"), jwt.WithAudience("keywarden"),
		jwt.WithExpirationRequired(), jwt.WithIssuedAt())
	if err != nil {
		t.Fatalf("the token does not verify: %v", err)
	}
	wantMembers(t, token.Header, "alg", "typ", "kid")
	if token.Header["typ"] != "at+jwt" {
		t.Errorf("typ %v", token.Header["typ"])
	}
	wantMembers(t, object(claims), "iss", "sub", "aud", "exp", "nbf", "iat", "jti", "sid", "role", "scope")
	if claims["sub"] != u.ID || claims["role"] != "user" || claims["exp"].(float64)-claims["iat"].(float64) != 900 {
		t.Errorf("claims: %v", claims)
	}
	session := items(t, p.Want(t, http.StatusOK, "GET", "/auth/sessions", nil, u.Auth()...))[0]
	if claims["sid"] != session["id"] {
		t.Errorf("sid %v, want %v", claims["sid"], session["id"])
	}
}

// Hosts that are not the platform's belong to the gateway, with the same paths.
func TestPlatformKeepsToItsHosts(t *testing.T) {
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprintf(w, "backend %s", r.URL.Path)
	}))
	t.Cleanup(backend.Close)
	p := apptest.Start(t, apptest.Options{
		Gateway: fmt.Sprintf(`
version: 1
services: [{name: backend, url: %q}]
routes: [{name: all, match: {path: {prefix: /}, hosts: [api.example.com]}, service: backend, auth: {mode: none}}]
`, backend.URL),
		Set: map[string]string{"server.hosts": "admin.example.com,127.0.0.1"},
	})
	for _, host := range []string{"admin.example.com", "ADMIN.example.com.", "admin.example.com:8443", p.Addr} {
		p.Want(t, http.StatusUnauthorized, "GET", "/users/me", nil, "Host", host)
		p.Want(t, http.StatusOK, "GET", "/healthz", nil, "Host", host)
	}
	for _, path := range []string{"/users/me", "/healthz", "/metrics", "/swagger/index.html", "/auth/login"} {
		a := p.Call(t, "GET", path, nil, "Host", "api.example.com")
		if string(a.Body) != "backend "+path {
			t.Errorf("%s of the gateway's host: %d %.100s", path, a.Status, a.Body)
		}
		for _, host := range []string{"example.com", "admin.example.com.evil.example", "xadmin.example.com"} {
			wantProblem(t, p.Call(t, "GET", path, nil, "Host", host), http.StatusNotFound, "gateway.no_route")
		}
	}
}

func TestUnknownMethodsAndPaths(t *testing.T) {
	p := start(t, apptest.Options{})
	u := p.User(t)
	d := documentedAPI(t)
	all := []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "BREW"}
	for path, operations := range d.Paths {
		var known []string
		for method := range operations {
			known = append(known, strings.ToUpper(method))
		}
		switch path { // which also match {id}
		case "/api-keys/self":
			known = append(known, "DELETE", "PATCH")
		case "/users/me":
			known = append(known, "DELETE")
		}
		slices.Sort(known)
		target := pathParameter.ReplaceAllString(path, unknownID)
		for _, method := range all {
			if slices.Contains(known, method) {
				continue
			}
			a := p.Call(t, method, target, nil, u.Auth()...)
			allow := strings.Split(a.Header.Get("Allow"), ", ")
			slices.Sort(allow)
			if a.Status != http.StatusMethodNotAllowed || !slices.Equal(allow, known) {
				t.Errorf("%s %s: status %d, Allow %q, want %q", method, path, a.Status, allow, known)
			}
		}
	}
	for _, path := range []string{"/", "/users/", "/api-keys/x/y", "/auth", "/USERS/me", "/users/me/x", "/none", "/healthz/"} {
		wantProblem(t, p.Call(t, "GET", path, nil, u.Auth()...), http.StatusNotFound, "gateway.no_route")
	}
	for _, path := range []string{"/users/%2e%2e/audit", "/a//b", "/users/..%2faudit", "/users/%00", "/%zz"} {
		a := sendRaw(t, p, "GET "+path+" HTTP/1.1\r\nHost: "+p.Addr+"\r\n\r\n")
		if a.Status != http.StatusBadRequest {
			t.Errorf("%s: status %d", path, a.Status)
		}
	}
	for _, method := range []string{"TRACE", "TRACK"} {
		wantProblem(t, p.Call(t, method, "/healthz", nil), http.StatusNotImplemented, "request.method_refused")
	}
}

// sendRaw sends the bytes as they are and reads one answer.
func sendRaw(t *testing.T, p *apptest.Program, request string) apptest.Answer {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", p.Addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	deadline, _ := ctx.Deadline()
	_ = conn.SetDeadline(deadline)
	if _, err := conn.Write([]byte(request)); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	var body strings.Builder
	if _, err := bufio.NewReader(resp.Body).WriteTo(&body); err != nil {
		t.Fatal(err)
	}
	return apptest.Answer{Status: resp.StatusCode, Header: resp.Header, Body: []byte(body.String())}
}

package app_test

import (
	"encoding/base64"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/keywarden/keywarden/pkg/app/apptest"
	"github.com/keywarden/keywarden/pkg/gateway/attacktest"
	"github.com/keywarden/keywarden/pkg/seal"
)

// LEAK-05: nothing that shows a configuration, or complains about one, shows a
// secret of it.
func TestConfigurationIsShownWithoutSecrets(t *testing.T) {
	master, retired := seal.NewMasterKey().Reveal(), seal.NewMasterKey().Reveal()
	env := map[string]string{
		"DATABASE_URL":         "postgres://kw:canary-database@db.example.com:5432/kw",
		"REDIS_URL":            "redis://kw:canary-redis@redis.example.com:6379/0",
		"KEYWARDEN_MASTER_KEY": master, "KEYWARDEN_SECURITY_MASTER_KEYS_RETIRED": retired,
	}
	secrets := []string{"canary", master, retired}
	clean := func(t *testing.T, texts ...string) {
		t.Helper()
		for _, text := range texts {
			for _, secret := range secrets {
				if strings.Contains(text, secret) {
					t.Errorf("a secret is shown: %.2000s", text)
				}
			}
		}
	}
	for _, args := range [][]string{
		{"config", "print"}, {"config", "print", "--output", "json"}, {"config", "print", "--defaults"}, {"config", "check"}, {"config", "env"},
	} {
		code, stdout, stderr := runCommand(t, env, args...)
		if code != 0 || stdout == "" {
			t.Errorf("%v: exit code %d: %s", args, code, stderr)
		}
		clean(t, stdout, stderr)
	}
	_, stdout, _ := runCommand(t, env, "config", "print")
	if !strings.Contains(stdout, "url:") || !strings.Contains(stdout, "master_key:") {
		t.Errorf("the secrets' options are not shown at all:\n%s", stdout)
	}
	for name, bad := range map[string]string{
		"DATABASE_URL": "postgres://kw:canary@host:not-a-port/kw", "REDIS_URL": "redis://kw:canary@host:not-a-port", "KEYWARDEN_MASTER_KEY": "canary",
		"KEYWARDEN_SECURITY_MASTER_KEYS_RETIRED": "canary", "KEYWARDEN_DATABASE_URL": "mysql://kw:canary@host/kw",
	} {
		wrong := maps.Clone(env)
		wrong[name] = bad
		for _, args := range [][]string{{"config", "check"}, {"config", "print"}, {"serve"}} {
			code, stdout, stderr := runCommand(t, wrong, args...)
			if code == 0 {
				t.Errorf("%v with a bad %s: exit code 0", args, name)
			}
			clean(t, stdout, stderr)
		}
	}
}

// LEAK-06: a sealed value is bound to its place: put into another row, it opens
// for nobody.
func TestSealedValuesCannotBeMoved(t *testing.T) {
	p := apptest.Start(t, apptest.Options{Set: roomy()})
	db := apptest.Connect(t, p.DatabaseURL)
	body := object{"name": "k"}
	with := func(u *apptest.User, word string) []string { return u.With("Idempotency-Key", word) }
	a, b := p.User(t), p.User(t)
	secretA := p.Want(t, http.StatusCreated, "POST", "/api-keys", body, with(a, "one")...).Text(t, "key")
	secretB := p.Want(t, http.StatusCreated, "POST", "/api-keys", body, with(b, "one")...).Text(t, "key")
	p.Want(t, http.StatusCreated, "POST", "/api-keys", body, with(a, "two")...)
	replay := func(u *apptest.User, word string) apptest.Answer {
		return p.Call(t, "POST", "/api-keys", body, with(u, word)...)
	}
	if got := replay(a, "one"); got.Status != http.StatusCreated || got.Text(t, "key") != secretA {
		t.Fatalf("an untouched answer: status %d", got.Status)
	}
	swap := func(left, right string) {
		t.Helper()
		tag, err := db.Exec(t.Context(), `
			UPDATE idempotency i SET answer = j.answer FROM idempotency j
			WHERE (i.user_id::text || i.token, j.user_id::text || j.token) IN (($1, $2), ($2, $1))`, left, right)
		if err != nil || tag.RowsAffected() != 2 {
			t.Fatalf("%d rows, %v", tag.RowsAffected(), err)
		}
	}
	refused := func(u *apptest.User, word string) {
		t.Helper()
		got := replay(u, word)
		if got.Status != http.StatusInternalServerError || strings.Contains(string(got.Body), "kw_") {
			t.Errorf("a moved answer: status %d: %s", got.Status, got.Body)
		}
	}
	swap(a.ID+"one", b.ID+"one")
	refused(a, "one")
	refused(b, "one")
	swap(a.ID+"one", b.ID+"one") // back
	if got := replay(b, "one"); got.Status != http.StatusCreated || got.Text(t, "key") != secretB {
		t.Errorf("an answer that was put back: status %d", got.Status)
	}
	swap(a.ID+"one", a.ID+"two") // of the same user
	refused(a, "one")
	if _, err := db.Exec(t.Context(), `UPDATE idempotency SET answer = set_byte(answer, length(answer) - 1, get_byte(answer, length(answer) - 1) # 1)`); err != nil {
		t.Fatal(err)
	}
	refused(b, "one")

	// The platform's own keys: a program does not start with a moved one.
	for name, sql := range map[string]string{
		"signing key":    `UPDATE signing_keys SET sealed = (SELECT sealed FROM sealed_secrets LIMIT 1)`,
		"key of a chain": `UPDATE sealed_secrets SET sealed = (SELECT sealed FROM signing_keys LIMIT 1)`,
	} {
		t.Run(name, func(t *testing.T) {
			p := apptest.Start(t, apptest.Options{})
			if err := p.Stop(); err != nil {
				t.Fatal(err)
			}
			if _, err := apptest.Connect(t, p.DatabaseURL).Exec(t.Context(), sql); err != nil {
				t.Fatal(err)
			}
			code, _, stderr := runCommand(t, map[string]string{
				"DATABASE_URL": p.DatabaseURL, "KEYWARDEN_MASTER_KEY": p.MasterKey.Reveal(), "KEYWARDEN_SERVER_ADDR": "127.0.0.1:0",
			}, "serve")
			if code != 1 || !strings.Contains(stderr, "does not open") {
				t.Errorf("exit code %d: %s", code, stderr)
			}
		})
	}
}

// freeAddress is an address of this machine on which nobody listens at the moment.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

// LEAK-08: what operators look at is not where everybody looks.
func TestOperatorsPathsAreNotOnTheMainListener(t *testing.T) {
	operators := []string{
		"/debug/pprof/", "/debug/pprof/heap", "/debug/pprof/cmdline", "/debug/pprof/profile?seconds=1", "/debug/pprof", "/debug/vars", "/debug/requests", "/debug/",
		"/metrics/", "//metrics", "/%6detrics", "/Metrics", "/admin/v1/state", "/.env", "/config", "/server-status",
	}
	hidden := func(t *testing.T, p *apptest.Program, path string) {
		t.Helper()
		for _, method := range []string{"GET", "POST", "HEAD"} {
			a := ask(t, p.Addr, rawRequest(method+" "+path+" HTTP/1.1", "Content-Length: 0"))
			if a.Status != http.StatusNotFound && a.Status != http.StatusBadRequest && a.Status != http.StatusMethodNotAllowed || strings.Contains(a.Body, "goroutine") {
				t.Errorf("%s %s: status %d: %.100s", method, path, a.Status, a.Body)
			}
		}
	}
	t.Run("with a listener for them", func(t *testing.T) {
		addr := freeAddress(t)
		p := apptest.Start(t, apptest.Options{Set: map[string]string{"server.metrics_addr": addr}})
		for _, path := range append(operators, "/metrics") {
			hidden(t, p, path)
		}
		for path, status := range map[string]int{
			"/metrics": 200, "/debug/pprof/": 200, "/debug/pprof/cmdline": 200, "/users": 404, "/auth/login": 404, "/healthz": 200, "/admin/v1/state": 401, "/": 404, "/debug/vars": 404,
		} {
			if a := ask(t, addr, rawRequest("GET "+path+" HTTP/1.1")); a.Status != status {
				t.Errorf("%s on the operators' listener: status %d, want %d", path, a.Status, status)
			}
		}
	})
	t.Run("without", func(t *testing.T) {
		p := apptest.Start(t, apptest.Options{})
		for _, path := range operators {
			if path != "/%6detrics" && path != "/admin/v1/state" { // the canonical path of one is /metrics; the other asks who one is
				hidden(t, p, path)
			}
		}
		if a := ask(t, p.Addr, rawRequest("GET /metrics HTTP/1.1")); a.Status != http.StatusOK {
			t.Errorf("/metrics: status %d", a.Status)
		}
	})
	t.Run("switched off", func(t *testing.T) {
		hidden(t, apptest.Start(t, apptest.Options{Set: map[string]string{"telemetry.metrics": "false"}}), "/metrics")
	})
}

// LEAK-10: a client's trace context neither chooses our trace ids nor what is
// recorded, and none of it travels to a backend; whatever is wrong with it, the
// request is served.
func TestTraceContextOfAStrangerIsNotHonoured(t *testing.T) {
	const traceID = "0af7651916cd43dd8448eb211c80319c"
	const spoofed = "00-" + traceID + "-b7ad6b7169203331-01"
	long := strings.Repeat("a", 20_000)
	strange := [][]string{
		{"traceparent: " + spoofed},
		{"Traceparent: " + spoofed, "Tracestate: vendor=1"},
		{"traceparent: " + spoofed, "traceparent: " + spoofed},
		{"traceparent: " + strings.ToUpper(spoofed)},
		{"traceparent: 00-00000000000000000000000000000000-0000000000000000-01"},
		{"traceparent: ff-" + traceID + "-b7ad6b7169203331-01"},
		{"traceparent: " + spoofed + "-more"},
		{"traceparent: " + long}, {"traceparent: \xff\xfe\x80"}, {"traceparent: ' OR 1=1"}, {"traceparent:"},
		{"traceparent: " + spoofed, "tracestate: " + long},
		{"traceparent: " + spoofed, "tracestate: " + strings.Repeat("a=b,", 3000)},
		{"baggage: user=admin", "traceparent: " + spoofed},
		{"baggage: " + strings.Repeat("k=v,", 5000)}, {"baggage: " + long}, {"baggage: a=b", "Baggage: c=d"},
		{"b3: " + traceID + "-b7ad6b7169203331-1", "traceparent: " + spoofed},
	}
	collector := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer collector.Close()
	exporting := map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": collector.URL}
	none := map[string]string{"telemetry.trace_sample_ratio": "0"}

	for name, o := range map[string]apptest.Options{
		"not traced": {}, "traced": {Env: exporting, Set: none},
	} {
		t.Run(name, func(t *testing.T) {
			p, up := startBehind(t, o)
			for _, lines := range strange {
				got := forwarded(t, p, up, rawRequest("GET /open/x HTTP/1.1", lines...))
				if strings.Contains(everything(got), traceID) && !strings.HasPrefix(lines[0], "b3") || fieldValues(got, "Baggage") != nil || fieldValues(got, "Tracestate") != nil {
					t.Errorf("%.60q reached the backend:\n%.600s", lines, everything(got))
				}
				parents := fieldValues(got, "Traceparent")
				if name == "not traced" && parents != nil || name == "traced" && (len(parents) != 1 || !strings.HasSuffix(parents[0], "-00")) {
					t.Errorf("%.60q: the backend got traceparent %q", lines, parents)
				}
				if a := ask(t, p.Addr, rawRequest("GET /healthz HTTP/1.1", lines...)); a.Status != http.StatusOK {
					t.Errorf("%.60q on the platform: status %d", lines, a.Status)
				}
			}
		})
	}
	t.Run("unless it is trusted", func(t *testing.T) {
		p, up := startBehind(t, apptest.Options{Env: exporting, Set: map[string]string{
			"telemetry.trace_sample_ratio": "0", "telemetry.trust_incoming_trace": "true",
		}})
		got := forwarded(t, p, up, rawRequest("GET /open/x HTTP/1.1", "traceparent: "+spoofed, "baggage: a=b"))
		if parents := fieldValues(got, "Traceparent"); len(parents) != 1 || !strings.Contains(parents[0], traceID) || !strings.HasSuffix(parents[0], "-01") {
			t.Errorf("the backend got traceparent %q", parents)
		}
		if v := fieldValues(got, "Baggage"); v != nil {
			t.Errorf("the backend got baggage %q", v)
		}
	})
}

// LEAK-11: no answer says what the platform is made of or which version it is.
func TestNoAnswerHasABanner(t *testing.T) {
	p, up := startBehind(t, apptest.Options{})
	key := p.Key(t, p.User(t), nil).Secret
	reset := base64.RawURLEncoding.EncodeToString([]byte("nonsense\r\n\r\n"))
	for text, status := range map[string]int{
		rawRequest("GET /healthz HTTP/1.1"):                                                            200,
		rawRequest("GET /swagger/index.html HTTP/1.1"):                                                 200,
		rawRequest("GET /metrics HTTP/1.1"):                                                            200,
		rawRequest("GET /open/x HTTP/1.1"):                                                             200,
		rawRequest("GET /keyed/x HTTP/1.1", "X-API-Key: "+key):                                         200,
		rawRequest("GET /keyed/x HTTP/1.1"):                                                            401,
		rawRequest("GET /users HTTP/1.1", "X-API-Key: "+key):                                           403,
		rawRequest("GET /nowhere HTTP/1.1"):                                                            404,
		rawRequest("DELETE /healthz HTTP/1.1"):                                                         405,
		rawRequest("GET /open/..%2f HTTP/1.1"):                                                         400,
		rawRequest("TRACE /open/x HTTP/1.1"):                                                           501,
		rawRequest("GET /ipallow/x HTTP/1.1"):                                                          403,
		rawRequest("POST /small/x HTTP/1.1", "Content-Length: 4096"):                                   413,
		rawRequest("GET /open/x HTTP/1.1", "X-Big: "+strings.Repeat("a", 100_000)):                     431,
		rawRequest("GET /open/x?raw=" + reset + "&close=1 HTTP/1.1"):                                   502,
		rawRequest("GET /open/x?reset=1 HTTP/1.1"):                                                     502,
		rawRequest("POST /auth/login HTTP/1.1", "Content-Length: 1", "Content-Type: text/plain") + "x": 415,
		"GET /open/x HTTP/1.1\r\n\r\n":                                                                 400,
		"nonsense\r\n\r\n":                                                                             400,
	} {
		a := ask(t, p.Addr, text)
		if a.Status != status {
			t.Errorf("%.60q: status %d, want %d", text, a.Status, status)
		}
		for _, name := range []string{"Server", "X-Powered-By", "Via", "X-Aspnet-Version", "X-Runtime", "X-Keywarden-Version"} {
			if v := a.Header.Values(name); v != nil {
				t.Errorf("%.60q: %s: %q", text, name, v)
			}
		}
		if a.Status < 400 {
			continue
		}
		for _, word := range []string{"goroutine", ".go:", "panic", "golang", "net/http", "pgx", "postgres", "gin", up.Addr(), "127.0.0.1:"} {
			if strings.Contains(a.Body, word) {
				t.Errorf("%.60q: the answer speaks of %q: %s", text, word, a.Body)
			}
		}
	}
}

// A backend's fault stays inside: its address, its words and our reasons are for
// the log.
func TestFailuresOfABackendSayNothingOfIt(t *testing.T) {
	up := attacktest.Start(t, "127.0.0.1:0")
	gone := freeAddress(t)
	p := apptest.Start(t, apptest.Options{Gateway: strings.NewReplacer("HERE", up.Addr(), "GONE", gone).Replace(`
version: 1
services:
  - {name: here, url: "http://HERE"}
  - {name: gone, url: "http://GONE"}
  - {name: tls, url: "https://HERE"}
  - {name: slow, url: "http://HERE", response_timeout: 200ms}
routes:
  - {name: here, match: {path: {prefix: /here}}, service: here, auth: {mode: none}}
  - {name: gone, match: {path: {prefix: /gone}}, service: gone, auth: {mode: none}}
  - {name: tls, match: {path: {prefix: /tls}}, service: tls, auth: {mode: none}}
  - {name: slow, match: {path: {prefix: /slow}}, service: slow, auth: {mode: none}}
`)})
	malformed := base64.RawURLEncoding.EncodeToString([]byte("HTTP/1.1 200 OK\r\nCanary-Header canary\r\n\r\ncanary"))
	for target, want := range map[string][]int{
		"/gone/x": {502}, "/tls/x": {502, 504}, "/slow/x?delay=20": {504}, "/here/x?reset=1": {502}, "/here/x?raw=" + malformed + "&close=1": {502},
	} {
		a := ask(t, p.Addr, rawRequest("GET "+target+" HTTP/1.1"))
		if !slices.Contains(want, a.Status) || a.Header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s: status %d, want %v: %s", target, a.Status, want, a.Body)
		}
		for _, word := range []string{up.Addr(), gone, "127.0.0.1", "canary", "Canary", "dial", "tls:", "EOF", "refused", "malformed"} {
			if strings.Contains(a.Body+fmt.Sprint(a.Header), word) {
				t.Errorf("%s: the answer speaks of %q: %s", target, word, a.Body)
			}
		}
	}
}

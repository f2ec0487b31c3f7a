package expression_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/expression"
	"github.com/keywarden/keywarden/pkg/reqctx"
)

// start is when the request of the tests was read, a Saturday.
var start = time.Date(2026, 11, 21, 9, 30, 0, 0, time.UTC)

// request is what most tests ask about. p may be nil.
func request(p *access.Principal) *http.Request {
	r := httptest.NewRequest("POST", "/api/orders/7?tenant=acme&tenant=other&empty=&q=a%20b&access_token=SECRET", strings.NewReader("12345"))
	r.Header = http.Header{
		"X-Tenant": {"acme", "other"}, "X-Version": {"2"}, "Accept": {"application/json"},
		"Authorization": {"Bearer SECRET"}, "Cookie": {"session=SECRET"}, "X-Api-Key": {"SECRET"},
		"X-Auth-Token": {"SECRET"}, "X-Consumer-Role": {"admin"}, "X_tenant": {"SECRET"},
	}
	ctx := reqctx.With(r.Context(), &reqctx.Info{
		ID: "id-1", Client: netip.MustParseAddr("10.1.2.3"), Start: start, Scheme: "https", Host: "api.example.com", Route: "orders",
	})
	if p != nil {
		ctx = access.WithPrincipal(ctx, p)
	}
	return r.WithContext(ctx)
}

func caller() *access.Principal {
	return &access.Principal{
		Kind: access.KindKey, UserID: "user-1", Role: access.RoleUser, KeyID: "key-1", KeyName: "ci",
		Scopes: []string{"orders:read", "orders:write"},
	}
}

func compile(t testing.TB, text string, want expression.Type) *expression.Expression {
	t.Helper()
	e, err := expression.Compile(text, want)
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return e
}

func TestConditionsSeeTheRequestAndItsPrincipal(t *testing.T) {
	for text, want := range map[string]bool{
		`true`:                                     true,
		`request.method == "POST"`:                 true,
		`request.method in ["GET", "HEAD"]`:        false,
		`request.host == "api.example.com"`:        true,
		`request.path.startsWith("/api/")`:         true,
		`request.scheme == "https"`:                true,
		`request.id == "id-1"`:                     true,
		`request.route == "orders"`:                true,
		`request.client == "10.1.2.3"`:             true,
		`request.size == 5 && request.size < 10`:   true,
		`inNetwork(request.client, "10.0.0.0/8")`:  true,
		`inNetwork(request.client, "10.2.0.0/16")`: false,
		`inNetwork(request.client, "fd00::/8")`:    false,

		`request.headers["x-tenant"] == "acme"`:            true,
		`request.headers["X-Tenant"] == "acme"`:            true,
		`request.headers.accept == "application/json"`:     true,
		`request.headers["x-missing"] == ""`:               true,
		`request.headers[request.query["h"]] == ""`:        true,
		`"x-tenant" in request.headers`:                    true,
		`"x-missing" in request.headers`:                   false,
		`request.headers.exists(n, n == "x-version")`:      true,
		`request.headers.exists(n, n.startsWith("x-con"))`: false,
		`request.headers.size() == 3`:                      true,
		`int(request.headers["x-version"]) >= 2`:           true,

		`request.query["tenant"] == "acme"`: true,
		`request.query.q == "a b"`:          true,
		`request.query["missing"] == ""`:    true,
		`"empty" in request.query`:          true,
		`"missing" in request.query`:        false,
		`request.query.size() == 3`:         true,

		`principal.authenticated`:                                 true,
		`principal.kind == "key"`:                                 true,
		`principal.user_id == "user-1"`:                           true,
		`principal.role == "user"`:                                true,
		`"orders:read" in principal.scopes`:                       true,
		`"users:read" in principal.scopes`:                        false,
		`principal.scopes.all(s, s.startsWith("orders:"))`:        true,
		`principal.key_id == "key-1" && principal.key_name=="ci"`: true,

		`now < timestamp("2027-01-01T00:00:00Z")`:                      true,
		`now.getHours("Europe/Berlin") == 10`:                          true,
		`now.getDayOfWeek() == 6`:                                      true,
		`request.path.matches("^/api/orders/[0-9]+$")`:                 true,
		`request.headers == request.headers`:                           true,
		`request.headers == {"x-version": "2"}`:                        false,
		`request.method == "GET" ? false : request.size > 0`:           true,
		`request.method == "GET" || principal.role == "admin"`:         false,
		"request.method == \"POST\" &&\n  request.scheme == \"https\"": true,
	} {
		got, err := compile(t, text, expression.Bool).Bool(request(caller()))
		if err != nil || got != want {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
}

func TestAnonymousCallersHaveAnEmptyPrincipal(t *testing.T) {
	for text, want := range map[string]bool{
		`principal.authenticated`:                                      false,
		`principal.user_id == "" && principal.role == ""`:              true,
		`principal.kind + principal.key_id + principal.key_name == ""`: true,
		`principal.scopes.size() == 0`:                                 true,
		`"a" in principal.scopes`:                                      false,
	} {
		if got, err := compile(t, text, expression.Bool).Bool(request(nil)); err != nil || got != want {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
}

func TestTextsAndNumbersAreResultsToo(t *testing.T) {
	if got, err := compile(t, `principal.user_id + "/" + request.headers["x-tenant"]`, expression.String).String(request(caller())); err != nil || got != "user-1/acme" {
		t.Errorf("%q, %v", got, err)
	}
	if got, err := compile(t, `request.size > 4 ? 10 : 1`, expression.Int).Int(request(caller())); err != nil || got != 10 {
		t.Errorf("%d, %v", got, err)
	}
	if _, err := compile(t, `"a"`, expression.String).Bool(request(nil)); err == nil {
		t.Error("a text was taken for a condition")
	}
}

func TestWrongExpressionsAreRefusedWithTheirPlace(t *testing.T) {
	for text, want := range map[string]string{
		``:                            `column 1: mismatched input the end`,
		`request.method ==`:           `column 18: mismatched input the end`,
		`request.metod == "GET"`:      `column 8: request has no field metod, did you mean method?`,
		`principal.scope`:             `column 10: principal has no field scope, did you mean scopes?`,
		`true && requst.method == ""`: `column 9: there is no requst, did you mean request?`,
		`request == "a"`:              `column 1: request is no value; name one of its fields: method, host, path, scheme, id, client, headers, query, size, route`,
		`request.method == 1`:         `column 16: found no matching overload for '==' applied to '(string, int)'`,
		`request.size`:                `column 1: is of type int, must be of type bool`,
		`request.headers["x"].y`:      `column 21: type 'string' does not support field selection`,
		`nothing`:                     `column 1: undeclared reference to 'nothing'`,
		`foo(1)`:                      `column 4: undeclared reference to 'foo'`,
		`dyn(true)`:                   `column 1: is of type dyn, must be of type bool`,
		"true &&\n  request.metod":    `line 2, column 10: request has no field metod, did you mean method?`,
		`"é" == request.metod`:        `column 15: request has no field metod, did you mean method?`,

		`request.headers["authorization"] == ""`:                     `column 17: authorization may hold a credential, which expressions never see; the caller is in principal`,
		`request.headers.cookie == ""`:                               `column 16: cookie may hold a credential, which expressions never see; the caller is in principal`,
		`"X-Api-Key" in request.headers`:                             `column 1: X-Api-Key may hold a credential, which expressions never see; the caller is in principal`,
		`request.query["access_token"] == ""`:                        `column 15: access_token may hold a credential, which expressions never see; the caller is in principal`,
		`request.headers["X-Consumer-Role"] == "a"`:                  `column 17: X-Consumer-Role is set by the gateway alone, and what a client sends as such is dropped; the caller is in principal and request`,
		`request.headers["a b"] == ""`:                               `column 17: this cannot be the name of a header field`,
		`has(request.headers.x)`:                                     `column 4: there is no has(): a name that is missing gives an empty text; ask with "name" in request.headers`,
		`request.path.matches(request.headers["x"])`:                 `column 37: the pattern of matches must be a literal text`,
		`request.path.matches("(")`:                                  "column 22: the pattern of matches is no regular expression (RE2): error parsing regexp: missing closing ): `(`",
		`inNetwork(request.client, request.host)`:                    `column 34: the network of inNetwork must be a literal text`,
		`inNetwork(request.client, "10.0.0.1/8")`:                    `column 27: the network of inNetwork must be one such as 10.0.0.0/8`,
		`inNetwork(request.client, 8)`:                               `column 27: the network of inNetwork must be a literal text`,
		`now.getHours("Nowhere") == 1`:                               `column 14: the time zone must be a name such as Europe/Berlin or an offset such as +01:00`,
		`now.getHours(request.host) == 1`:                            `column 21: the time zone must be a literal text`,
		`[1].exists(request, request == 1)`:                          `column 11: request cannot be the name of a variable`,
		strings.Repeat("(", 100) + "true" + strings.Repeat(")", 100): `column 1: expression recursion limit exceeded: 50`,
		strings.Repeat("a", expression.MaxText+1):                    `column 1: is longer than 2000 bytes`,
		"\xff": `column 1: is not valid UTF-8`,
	} {
		_, err := expression.Compile(text, expression.Bool)
		var e *expression.Error
		if !errors.As(err, &e) {
			t.Errorf("%.50q: %v", text, err)
			continue
		}
		if diff := cmp.Diff(want, e.Error()); diff != "" {
			t.Errorf("%.50q: %s", text, diff)
		}
		if strings.Contains(e.Reason, "\n") {
			t.Errorf("%.50q: more than one line: %q", text, e.Reason)
		}
	}
}

func TestOffsetsAreInBytes(t *testing.T) {
	text := "\"é\" == \"\" &&\n request.metod == \"\""
	var e *expression.Error
	if _, err := expression.Compile(text, expression.Bool); !errors.As(err, &e) || text[e.Offset:e.Offset+6] != ".metod" {
		t.Errorf("offset %+v", e)
	}
}

// TestNoCredentialIsEverSeen asks for everything there is, by names that are not
// known before the request comes.
func TestNoCredentialIsEverSeen(t *testing.T) {
	r := request(caller())
	r.URL.RawQuery += "&n=authorization&m=Cookie&k=x-api-key&t=access_token"
	for _, text := range []string{
		`request.headers.exists(n, request.headers[n].contains("SECRET"))`,
		`request.query.exists(n, request.query[n].contains("SECRET"))`,
		`request.headers[request.query["n"]] + request.headers[request.query["m"]] + request.headers[request.query["k"]] != ""`,
		`request.query[request.query["t"]] != ""`,
		`request.query["n"] in request.headers || request.query["t"] in request.query`,
		`request.headers["x-" + "auth-token"] != "" || request.headers["x-" + "consumer-role"] != ""`,
	} {
		if got, err := compile(t, text, expression.Bool).Bool(r); err != nil || got {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
}

func TestFailuresAtRunTimeAreErrors(t *testing.T) {
	for _, text := range []string{
		`1 / (request.size - 5) == 1`,
		`int(request.headers["x-tenant"]) == 1`,
		`principal.scopes[5] == ""`,
		`inNetwork(request.headers["x-tenant"], "10.0.0.0/8")`,
		`!inNetwork(request.headers["x-tenant"], "10.0.0.0/8")`,
		`timestamp(request.host) < now`,
	} {
		if got, err := compile(t, text, expression.Bool).Bool(request(caller())); err == nil || got {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
}

func TestCostIsBounded(t *testing.T) {
	r := request(caller())
	r.Header.Set("X-Long", strings.Repeat("a", 60<<10))
	p := caller()
	p.Scopes = nil
	for range 150 {
		p.Scopes = append(p.Scopes, "orders:read")
	}
	r = r.WithContext(access.WithPrincipal(r.Context(), p))
	for _, text := range []string{
		`principal.scopes.all(a, principal.scopes.all(b, principal.scopes.all(c, a == b && b == c)))`,
		`principal.scopes.all(a, request.headers["x-long"] + a != request.headers["x-long"])`,
	} {
		got, err := compile(t, text, expression.Bool).Bool(r)
		if err == nil || got || !strings.Contains(err.Error(), "cost limit exceeded") {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
	// What a client sends cannot make a simple expression too costly.
	if got, err := compile(t, `request.headers["x-long"].contains("aab")`, expression.Bool).Bool(r); err != nil || got {
		t.Errorf("%v, %v", got, err)
	}
}

func TestUsesPrincipal(t *testing.T) {
	for text, want := range map[string]bool{
		`request.method == "GET"`:                           false,
		`principal.authenticated`:                           true,
		`request.path == "/" || "a" in principal.scopes`:    true,
		`request.headers.exists(n, n == principal.user_id)`: true,
		`request.headers["principal"] == "principal.role"`:  false,
	} {
		if got := compile(t, text, expression.Bool).UsesPrincipal(); got != want {
			t.Errorf("%s: %v", text, got)
		}
	}
}

func TestExpressionsMayBeSharedByRequests(t *testing.T) {
	e := compile(t, `request.headers["x-tenant"] == "acme" && principal.user_id == "user-1" && request.headers.exists(n, n == "accept")`, expression.Bool)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			p := caller()
			if i%2 == 1 {
				p.UserID = "other"
			}
			for range 200 {
				if got, err := e.Bool(request(p)); err != nil || got != (i%2 == 0) {
					t.Errorf("%v, %v", got, err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func FuzzCompile(f *testing.F) {
	for _, text := range []string{
		`request.method == "GET" && principal.role == "admin"`, `request.headers["x-tenant"].matches("^a+$")`,
		`principal.scopes.exists(s, s.startsWith("a"))`, `request.headers.map(n, n + request.query[n]).size() > 3`,
		`inNetwork(request.client, "10.0.0.0/8")`, `now.getHours("UTC") < 3`, `[1,2,3].filter(x, x > 1) == [2, 3]`, `{"a": 1}.a == 1`,
		`request.headers == {}`, `type(request.headers) == map`, `string(request.headers) == ""`, `dyn(request.query) == request.headers`,
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		e, err := expression.Compile(text, expression.Bool)
		var wrong *expression.Error
		if err != nil {
			if !errors.As(err, &wrong) || wrong.Reason == "" || wrong.Line < 1 || wrong.Column < 1 || wrong.Offset > len(text) {
				t.Fatalf("%q: %#v", text, err)
			}
			return
		}
		if got, err := e.Bool(request(caller())); err != nil && (got || strings.Contains(err.Error(), "internal error")) {
			t.Fatalf("%q: %v", text, err)
		}
	})
}

func BenchmarkEvaluate(b *testing.B) {
	for name, text := range map[string]string{
		"three clauses": `request.method == "POST" && request.headers["x-tenant"] == "acme" && "orders:read" in principal.scopes`,
		"network":       `inNetwork(request.client, "10.0.0.0/8")`,
		"pattern":       `request.path.matches("^/api/orders/[0-9]+$")`,
		"macro":         `principal.scopes.exists(s, s.startsWith("orders:w"))`,
	} {
		b.Run(name, func(b *testing.B) {
			e := compile(b, text, expression.Bool)
			r := request(caller())
			b.ReportAllocs()
			for b.Loop() {
				if ok, err := e.Bool(r); err != nil || !ok {
					b.Fatal(ok, err)
				}
			}
		})
	}
}

func BenchmarkCompile(b *testing.B) {
	for b.Loop() {
		if _, err := expression.Compile(`request.method == "POST" && request.headers["x-tenant"] == "acme"`, expression.Bool); err != nil {
			b.Fatal(err)
		}
	}
}

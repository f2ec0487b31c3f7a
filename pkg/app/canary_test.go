package app_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"

	"github.com/keywarden/keywarden/pkg/account"
	"github.com/keywarden/keywarden/pkg/app/apptest"
)

// marker begins every canary that a client makes up, and nothing else.
const marker = "canarybird"

var markedText = regexp.MustCompile(marker + `[a-z2-7]*`)

// canaries are marked secrets: none of them may be found anywhere but in the
// answer that was made to give it.
type canaries struct {
	planted map[string]string // what for, by the secret
	issued  map[string]string // secrets that the program made, by the part of them that is secret
}

// plant makes up a secret that occurs nowhere else. It is in lower case, so that
// it is found also where addresses are.
func (c *canaries) plant(what string) string {
	secret := marker + strings.ToLower(rand.Text())[:22] // 32 characters, as the secret of a key
	c.planted[secret] = what
	return secret
}

// keepKey remembers the part of an API key that is secret: how it begins is not.
func (c *canaries) keepKey(what, key string) string {
	const public = len("kw_live_") + 12
	c.issued[key[public:public+32]] = what
	return key
}

// keepToken remembers the part of an access token that nobody can make.
func (c *canaries) keepToken(what, token string) string {
	c.issued[token[strings.LastIndexByte(token, '.')+1:]] = what
	return token
}

// keepRefresh remembers the random part of a refresh token.
func (c *canaries) keepRefresh(what, token string) string {
	c.issued[strings.TrimPrefix(token, "kwr_")] = what
	return token
}

// spellingsIn are the ways in which a text may stand in another one: as it is, in
// hexadecimal, and in base64 at each of the three places of a byte.
func spellingsIn(secret string) [][]byte {
	all := [][]byte{[]byte(secret), []byte(hex.EncodeToString([]byte(secret)))}
	for shift := range 3 {
		encoded := base64.RawStdEncoding.EncodeToString([]byte(strings.Repeat(" ", shift) + secret))
		// What depends on the neighbours is left out.
		all = append(all, []byte(encoded[(shift*8+5)/6:len(encoded)-1]))
	}
	return all
}

// wantNone fails for each canary in text, with what stands around it.
func (c *canaries) wantNone(t *testing.T, where string, text []byte) {
	t.Helper()
	lower := bytes.ToLower(text) // of the same length: other letters do not matter here
	report := func(what string, in []byte, at int) {
		t.Errorf("%s: %s is in it: …%s…", where, what, in[max(0, at-150):min(len(in), at+60)])
	}
	seen := map[string]bool{} // one report for each kind
	for _, at := range markedText.FindAllIndex(lower, -1) {
		what := c.planted[string(lower[at[0]:at[1]])]
		if !seen[what] {
			seen[what] = true
			report(what, lower, at[0])
		}
	}
	for _, spelling := range spellingsIn(marker)[1:] {
		if at := bytes.Index(text, spelling); at >= 0 {
			report("something encoded", text, at)
		}
	}
	for secret, what := range c.issued {
		if at := bytes.Index(lower, bytes.ToLower([]byte(secret))); at >= 0 {
			report(what, lower, at)
		}
		for _, spelling := range spellingsIn(secret)[1:] {
			if at := bytes.Index(text, spelling); at >= 0 {
				report(what+", encoded", text, at)
			}
		}
	}
}

// databaseText is every row of every table, as text.
func databaseText(t *testing.T, url string) []byte {
	t.Helper()
	ctx := context.WithoutCancel(t.Context())
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(ctx) }()
	rows, err := conn.Query(ctx, `SELECT quote_ident(tablename) FROM pg_tables WHERE schemaname = 'public'`)
	if err != nil {
		t.Fatal(err)
	}
	tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil || len(tables) < 10 {
		t.Fatalf("tables %v: %v", tables, err)
	}
	var all bytes.Buffer
	for _, table := range tables {
		var text string
		if err := conn.QueryRow(ctx, `SELECT coalesce(string_agg(t::text, E'\n'), '') FROM `+table+` t`).Scan(&text); err != nil {
			t.Fatalf("%s: %v", table, err)
		}
		fmt.Fprintf(&all, "%s\n%s\n", table, text)
	}
	return all.Bytes()
}

// badBackends are backends that go wrong, and the document that leads to them.
// Each repeats what it was sent, as broken programs do.
func badBackends(t *testing.T) (document string) {
	t.Helper()
	// garbage answers with the beginning of the request, which is no HTTP answer.
	garbage := rawBackend(t, func(conn net.Conn, request string) {
		_, _ = fmt.Fprintf(conn, "%s\r\n\r\n", strings.ReplaceAll(request, "\r\n", " "))
	})
	// headers answers with a header that is none.
	headers := rawBackend(t, func(conn net.Conn, request string) {
		_, _ = fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nBroken header %s\r\n\r\n", strings.ReplaceAll(request, "\r\n", " "))
	})
	reset := rawBackend(t, func(net.Conn, string) {})
	slow := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // only then the end of the connection is noticed
		<-r.Context().Done()
	}))
	good := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	t.Cleanup(func() { slow.Close(); good.Close() })
	return fmt.Sprintf(`
version: 1
defaults:
  request_headers: {set: {X-Service-Credential: 'Basic {{ secret "service" }}'}}
services:
  - {name: refusing, url: "http://%s"}
  - {name: garbage, url: "http://%s"}
  - {name: headers, url: "http://%s"}
  - {name: reset, url: "http://%s"}
  - {name: slow, url: %q, response_timeout: 100ms}
  - {name: good, url: %q}
routes:
  - {name: refusing, match: {path: {prefix: /bad/refusing}}, service: refusing, auth: {mode: none}}
  - {name: garbage, match: {path: {prefix: /bad/garbage}}, service: garbage, auth: {mode: none}}
  - {name: headers, match: {path: {prefix: /bad/headers}}, service: headers, auth: {mode: none}}
  - {name: reset, match: {path: {prefix: /bad/reset}}, service: reset, auth: {mode: none}}
  - {name: slow, match: {path: {prefix: /bad/slow}}, service: slow, auth: {mode: none}}
  - {name: good, match: {path: {prefix: /good}}, service: good}
  - {name: open, match: {path: {prefix: /open}}, service: good, auth: {mode: none}}
  - {name: tokens, match: {path: {prefix: /tokens}}, service: good, auth: {mode: required, methods: [jwt]}}
  - {name: small, match: {path: {prefix: /small}}, service: good, auth: {mode: none}, max_body: 10B}
  - {name: elsewhere, match: {path: {prefix: /elsewhere}}, service: good, auth: {mode: none}, allow_ips: [192.0.2.0/24]}
  - {name: reading, match: {path: {prefix: /reading}, methods: [GET]}, service: good, auth: {mode: none}}
`, listenerThatRefuses(t), garbage, headers, reset, slow.URL, good.URL)
}

// rawBackend reads the header of a request on each connection, lets answer do
// what it wants with it, and closes the connection.
func rawBackend(t *testing.T, answer func(conn net.Conn, request string)) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	t.Cleanup(func() { _ = l.Close(); wg.Wait() })
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer func() { _ = conn.Close() }()
				_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
				var request strings.Builder
				lines := bufio.NewScanner(conn)
				for lines.Scan() && lines.Text() != "" {
					request.WriteString(lines.Text() + "\r\n")
				}
				answer(conn, request.String())
			})
		}
	})
	return l.Addr().String()
}

// panickingAccounts is a store of accounts with a fault.
type panickingAccounts struct{ account.Store }

func (panickingAccounts) User(context.Context, string) (account.User, error) {
	panic("a fault of ours")
}

func (panickingAccounts) UserByEmail(context.Context, string) (account.User, string, error) {
	var none *account.User
	return *none, "", nil
}

// aviary is a program with canaries in it.
type aviary struct {
	*apptest.Program
	canaries
	mu      sync.Mutex
	answers bytes.Buffer // what was answered, but for the answers that are to give secrets
	count   map[int]int  // by status
}

// giving are the answers that show a secret this once.
var giving = []string{"POST /auth/login 200", "POST /auth/refresh 200", "POST /api-keys 201", "POST /api-keys/{id}/rotate 200"}

// listen collects what is answered.
func (v *aviary) listen(t *testing.T) {
	d := documentedAPI(t)
	v.count = map[int]int{}
	v.OnAnswer = func(method, target string, a apptest.Answer) {
		v.mu.Lock()
		defer v.mu.Unlock()
		v.count[a.Status]++
		if !slices.Contains(giving, answerName(method, d.template(target), a.Status)) {
			fmt.Fprintf(&v.answers, "%s answered %d %v %s\n", method, a.Status, a.Header, a.Body)
		}
	}
}

// laden is headers with a canary wherever a client may have a secret.
func (v *aviary) laden(more ...string) []string {
	return append([]string{
		"Cookie", "session=" + v.plant("cookie"), "Referer", "https://example.com/?token=" + v.plant("referer"),
		"Proxy-Authorization", "Basic " + v.plant("proxy credential"), "X-Auth-Token", v.plant("foreign token"),
	}, more...)
}

// query is a query string with secrets.
func (v *aviary) query() string {
	return "?api_key=" + v.plant("api_key in the query") + "&access_token=" + v.plant("access_token in the query")
}

// LEAK-01: no secret is found anywhere but in the answer that gives it, whatever
// happens to the request that carries it.
func TestSecretsAreFoundNowhere(t *testing.T) {
	collector := startCollector(t)
	o := traced(collector.URL, badBackends(t))
	o.Set["throttle.account_failures"], o.Set["throttle.account_refill"] = "3", "24h"
	v := &aviary{Program: apptest.Start(t, o), canaries: canaries{planted: map[string]string{}, issued: map[string]string{}}}
	v.listen(t)
	control := "visible" + strings.ToLower(rand.Text()) // shows that the search finds what is there

	admin, user, key := v.life(t, control)
	v.refusals(t, admin, user, key)
	v.misplaced(t, admin, user, key)
	v.backends(t, user, key)
	v.faults(t, admin, user, key)

	for _, status := range []int{400, 401, 403, 404, 405, 409, 413, 415, 422, 429, 500, 502, 504} {
		if v.count[status] == 0 {
			t.Errorf("no answer %d", status)
		}
	}
	metrics := v.Want(t, http.StatusOK, "GET", "/metrics", nil).Body
	database := databaseText(t, v.DatabaseURL)
	auditRows := fmt.Append(nil, auditTrail(t, v.Program, admin, ""))
	if err := v.Stop(); err != nil { // sends the last traces
		t.Fatal(err)
	}
	for _, line := range v.Log.Lines(t) {
		if line["msg"] == "http server" {
			t.Errorf("a connection went wrong: %v", line)
		}
	}
	places := map[string][]byte{
		"the log": []byte(v.Log.String()), "the metrics": metrics, "the database": database, "the audit trail": auditRows,
		"the traces": collector.raw, "the answers": v.answers.Bytes(),
	}
	shown := map[string]string{ // something of each place that is there by design
		"the log": control, "the metrics": `http_route="/users/:id"`, "the database": control, "the audit trail": user.ID,
		"the traces": control, "the answers": control,
	}
	for place, text := range places {
		if !bytes.Contains(text, []byte(shown[place])) {
			t.Errorf("%s: what should be in it is not: %q", place, shown[place])
		}
		v.wantNone(t, place, text)
	}
	if len(v.planted) < 1000 || len(v.issued) < 15 {
		t.Errorf("only %d canaries and %d issued secrets", len(v.planted), len(v.issued))
	}
}

// life is what goes well: every call that a secret is needed for or given by.
func (v *aviary) life(t *testing.T, control string) (admin, user *apptest.User, key apptest.Key) {
	signIn := func(u *apptest.User) {
		a := v.Want(t, http.StatusOK, "POST", "/auth/login", object{"email": u.Email, "password": u.Password}, v.laden("User-Agent", control)...)
		u.Token = v.keepToken("access token", a.Text(t, "access_token"))
		u.Refresh = v.keepRefresh("refresh token", a.Text(t, "refresh_token"))
	}
	admin = v.Admin(t)
	v.keepToken("admin's token", admin.Token)
	v.keepRefresh("admin's refresh token", admin.Refresh)
	for _, what := range []string{"secret for a service", "another value of it"} {
		v.Want(t, http.StatusOK, "PUT", "/admin/v1/secrets/service", object{"value": v.plant(what)}, admin.With(v.laden()...)...)
	}
	v.Want(t, http.StatusBadRequest, "PUT", "/admin/v1/secrets/service", object{"value": v.plant("secret in nowhere"), "environment": "no where"}, admin.Auth()...)
	v.Want(t, http.StatusOK, "GET", "/admin/v1/secrets", nil, admin.Auth()...)
	user = &apptest.User{Email: apptest.NewEmail(), Password: v.plant("password")}
	a := v.Want(t, http.StatusCreated, "POST", "/auth/register", object{"email": user.Email, "password": user.Password, "name": control}, v.laden()...)
	user.ID = a.Text(t, "id")
	signIn(user)
	next := v.plant("new password")
	v.Want(t, http.StatusNoContent, "POST", "/auth/password", object{"current_password": user.Password, "new_password": next}, user.With(v.laden()...)...)
	user.Password = next
	signIn(user)
	a = v.Want(t, http.StatusOK, "POST", "/auth/refresh", object{"refresh_token": user.Refresh}, v.laden()...)
	spent := user.Refresh
	user.Token = v.keepToken("refreshed token", a.Text(t, "access_token"))
	v.keepRefresh("next refresh token", a.Text(t, "refresh_token"))

	for range 2 { // the second is the kept answer
		a = v.Want(t, http.StatusCreated, "POST", "/api-keys", object{"name": control, "scopes": []string{"keys:write", "profile:read"}}, user.With("Idempotency-Key", "once")...)
		key = apptest.Key{ID: a.Text(t, "id"), Secret: v.keepKey("key", a.Text(t, "key"))}
	}
	v.Want(t, http.StatusUnprocessableEntity, "POST", "/api-keys", object{"name": "other"}, user.With("Idempotency-Key", "once")...)
	for range 2 {
		a = v.Want(t, http.StatusOK, "POST", "/api-keys/"+key.ID+"/rotate", object{"grace_seconds": 3600}, user.With(v.laden("Idempotency-Key", "turn")...)...)
		key.Secret = v.keepKey("rotated key", a.Text(t, "key"))
	}
	for _, path := range []string{"/users/me", "/api-keys/self", "/api/test" + v.query(), "/good/things" + v.query(), "/" + control} {
		v.Call(t, "GET", path, nil, append(key.Auth(), v.laden()...)...)
		v.Call(t, "GET", path, nil, "Authorization", "Bearer "+key.Secret)
	}
	for _, path := range []string{"/users/me", "/api-keys", "/auth/sessions", "/api-keys/" + key.ID} {
		v.Want(t, http.StatusOK, "GET", path, nil, user.With(v.laden()...)...)
	}
	v.Platform.KeyCheck.FlushUsage(t.Context())

	// Sessions that end by reuse, by their owner and by logout.
	v.Want(t, http.StatusUnauthorized, "POST", "/auth/refresh", object{"refresh_token": spent})
	for _, end := range []func(u *apptest.User) (method, path string){
		func(u *apptest.User) (string, string) { return "DELETE", "/auth/sessions/" + sessionOf(t, u.Token) },
		func(*apptest.User) (string, string) { return "POST", "/auth/logout" },
	} {
		gone := *user
		signIn(&gone)
		method, path := end(&gone)
		v.Want(t, http.StatusNoContent, method, path, nil, gone.Auth()...)
		v.Want(t, http.StatusUnauthorized, "GET", "/users/me", nil, gone.Auth()...)
	}
	revoked := v.Key(t, user2(t, v, signIn), nil)
	v.keepKey("revoked key", revoked.Secret)
	v.Want(t, http.StatusNoContent, "DELETE", "/api-keys/"+revoked.ID, nil, admin.Auth()...)
	v.Want(t, http.StatusUnauthorized, "GET", "/api/test", nil, revoked.Auth()...)
	signIn(user)
	return admin, user, key
}

// user2 is one more user, whose password is a canary.
func user2(t *testing.T, v *aviary, signIn func(*apptest.User)) *apptest.User {
	u := &apptest.User{Email: apptest.NewEmail(), Password: v.plant("second password")}
	u.ID = v.Want(t, http.StatusCreated, "POST", "/auth/register", object{"email": u.Email, "password": u.Password}).Text(t, "id")
	signIn(u)
	return u
}

// refusals sends every documented call with every kind of bad credential, and
// with bodies that are refused.
func (v *aviary) refusals(t *testing.T, admin, user *apptest.User, key apptest.Key) {
	for _, c := range documentedAPI(t).calls() {
		target := c.at(unknownID)
		head := fmt.Sprintf("kw_live_%012d%s", len(v.planted), v.plant("wrong key"))
		bad := head + keyCheck(head)
		for _, auth := range [][]string{
			nil,
			{"Authorization", "Bearer " + v.plant("no token")},
			{"Authorization", "Basic " + v.plant("basic credential")},
			{"Authorization", v.plant("no scheme")},
			{"Authorization", "Bearer " + user.Token[:len(user.Token)-40] + v.plant("signature")},
			{"X-API-Key", v.plant("no key")},
			{"X-API-Key", bad},
			{"X-API-Key", key.Secret[:len(key.Secret)-1]},
			{"X-API-Key", key.Secret, "Authorization", "Bearer " + user.Token},
			{"X-API-Key", key.Secret, "X-API-Key", v.plant("second key")},
			user.Auth(), key.Auth(), admin.Auth(),
		} {
			if c.path == "/auth/logout" && len(auth) == 2 && auth[0] == "Authorization" && (auth[1] == user.Auth()[1] || auth[1] == admin.Auth()[1]) {
				continue // both are still needed
			}
			v.Call(t, c.method, target+v.query(), nil, v.laden(auth...)...)
		}
		if !c.hasBody() {
			continue
		}
		for _, body := range []string{
			`{"password":"` + v.plant("cut off"),
			`{"password":"` + v.plant("unquoted") + `",}`,
			`{"password":` + v.plant("no string") + `}`,
			`{"password":["` + v.plant("array") + `"],"email":{"a":"` + v.plant("object") + `"},"refresh_token":{"b":"` + v.plant("nested") + `"}}`,
			`{"password":"` + v.plant("twice") + `","password":"` + v.plant("twice") + `"}`,
			`{"unknown":"` + v.plant("unknown field") + `"}`,
			`"` + v.plant("text") + `"`, v.plant("no JSON"), `{} ` + v.plant("after the end"),
			"{\"password\":\"" + v.plant("invalid UTF-8") + "\xff\"}",
			`{"name":5,"email":"` + v.plant("beside a wrong type") + `","grace_seconds":"` + v.plant("number") + `","role":"` + v.plant("role") +
				`","disabled":"` + v.plant("boolean") + `","expires_in":"` + v.plant("seconds") + `"}`,
			`{"a":"` + v.plant("too large") + strings.Repeat(" ", 1<<20) + `"}`,
		} {
			v.Call(t, c.method, target, body, admin.With(v.laden()...)...)
			v.Call(t, c.method, target, body, admin.With("Content-Type", "text/plain")...)
		}
	}
}

// misplaced puts secrets where they do not belong, as people do.
func (v *aviary) misplaced(t *testing.T, admin, user *apptest.User, key apptest.Key) {
	// Into the wrong field.
	for _, body := range []object{
		{"email": v.plant("password as the address"), "password": v.plant("password")},
		{"email": user.Email, "password": v.plant("wrong password")},
		{"email": key.Secret, "password": key.Secret},
	} {
		v.Call(t, "POST", "/auth/login", body, v.laden()...)
		v.Call(t, "POST", "/auth/register", body, v.laden()...)
	}
	v.Call(t, "POST", "/auth/login", object{"email": v.plant("password as the address") + "@example.com", "password": v.plant("password")})
	for _, token := range []string{v.plant("no refresh token"), "kwr_" + v.plant("wrong refresh token") + "aaaaaaaaaaa", user.Token, key.Secret} {
		v.Call(t, "POST", "/auth/refresh", object{"refresh_token": token})
	}
	v.Want(t, http.StatusBadRequest, "POST", "/auth/password", object{"current_password": v.plant("wrong current password"), "new_password": v.plant("new password")}, user.Auth()...)
	v.Want(t, http.StatusBadRequest, "POST", "/auth/password", object{"current_password": user.Password, "new_password": v.plant("a")[:11]}, user.Auth()...)
	for _, wrong := range []object{
		{"name": "a", "env": v.plant("env")},
		{"name": "a", "scopes": []string{v.plant("scope"), key.Secret}},
		{"name": "a", "allowed_ips": []string{v.plant("address"), "10.0.0.0/" + v.plant("bits")}},
		{"name": "a", "expires_at": v.plant("time")},
		{"name": strings.Repeat(v.plant("long name"), 10)},
	} {
		v.Call(t, "POST", "/api-keys", wrong, user.Auth()...)
		v.Call(t, "POST", "/api-keys", wrong, key.Auth()...)
		v.Call(t, "PATCH", "/api-keys/"+key.ID, wrong, key.Auth()...)
	}
	v.Call(t, "POST", "/api-keys", object{"name": "a"}, user.With("Idempotency-Key", strings.Repeat(v.plant("idempotency key"), 20))...)
	v.Call(t, "PATCH", "/users/"+user.ID, object{"role": v.plant("role")}, admin.Auth()...)

	// Into the query.
	for path, names := range map[string][]string{
		"/users": {"q", "role", "limit", "cursor", "sort"}, "/api-keys": {"user_id", "revoked", "limit", "cursor"},
		"/audit": {"action", "actor_id", "target_id", "limit", "cursor"}, "/readyz": {"plane"}, "/api-keys/" + unknownID: {"wait"},
		"/swagger/index.html": {"x"}, "/none": {"x"},
	} {
		for _, name := range names {
			for _, method := range []string{"GET", "DELETE"} {
				v.Call(t, method, path+"?"+name+"="+v.plant("query"), nil, admin.Auth()...)
				v.Call(t, method, path+"?"+name+"="+v.plant("query")+"%zz;%", nil, admin.Auth()...)
			}
		}
	}

	// Into the path: what the platform has issued is not written down there
	// either. (What nobody can tell from a name is.)
	for name, secret := range map[string]string{"key": key.Secret, "token": user.Token, "refresh token": user.Refresh} {
		for _, path := range []string{
			"/users/%s", "/api-keys/%s", "/auth/sessions/%s", "/api-keys/%s/rotate", "/%s", "/users/%s/x", "/good/%s", "/open/%s/x",
			"/bad/refusing/%s", "/swagger/%s", "/auth/login/%s", "/api-keys/key=%s", "/none/%s%%0d", "/none/%s/../x",
		} {
			for _, method := range []string{"GET", "DELETE", "PUT"} {
				v.Call(t, method, fmt.Sprintf(path, secret), nil, admin.Auth()...)
				v.Call(t, method, fmt.Sprintf(path, secret), nil)
			}
		}
		v.Call(t, "GET", "/none", nil, "Host", secret+".example.com")
		v.Call(t, "GET", "/none/"+name, nil, "Traceparent", "00-"+secret+"-b7ad6b7169203331-01", "X-Request-Id", secret)
	}

	// Too often.
	victim := apptest.NewEmail()
	for range 5 {
		v.Call(t, "POST", "/auth/login", object{"email": victim, "password": v.plant("guess")}, v.laden()...)
	}
	v.Call(t, "POST", "/auth/register", object{"email": user.Email, "password": v.plant("password of a taken address")})
}

// backends sends secrets through the gateway, to backends that fail and past
// every step that refuses.
func (v *aviary) backends(t *testing.T, user *apptest.User, key apptest.Key) {
	for _, path := range []string{
		"/bad/refusing", "/bad/garbage", "/bad/headers", "/bad/reset", "/bad/slow", "/good", "/open", "/tokens", "/small", "/elsewhere", "/reading",
	} {
		for _, auth := range [][]string{
			nil, user.Auth(), key.Auth(), {"Authorization", "Bearer " + v.plant("no token")}, {"X-API-Key", v.plant("no key")},
			{"Authorization", "Bearer " + key.Secret, "X-API-Key", key.Secret},
		} {
			v.Call(t, "POST", path+"/x"+v.query(), `{"password":"`+v.plant("forwarded body")+`"}`, v.laden(auth...)...)
		}
		v.Call(t, "GET", path+v.query(), nil, v.laden("Upgrade", "websocket", "Connection", "Upgrade", "Sec-WebSocket-Key", v.plant("websocket"))...)
	}
}

// faults are those of the platform: a panic, and a database that refuses a
// statement.
func (v *aviary) faults(t *testing.T, admin, user *apptest.User, key apptest.Key) {
	provoke := func() {
		t.Helper()
		for _, c := range []struct {
			method, path string
			body         any
			auth         []string
		}{
			{"GET", "/users/" + user.ID + v.query(), nil, admin.Auth()},
			{"GET", "/users/me" + v.query(), nil, key.Auth()},
			{"POST", "/auth/login" + v.query(), object{"email": user.Email, "password": v.plant("password at a fault")}, nil},
			{"POST", "/auth/login" + v.query(), object{"email": v.plant("address at a fault"), "password": v.plant("password at a fault")}, nil},
		} {
			v.Want(t, http.StatusInternalServerError, c.method, c.path, c.body, v.laden(c.auth...)...)
		}
	}
	store := v.Platform.Accounts.Store
	v.Platform.Accounts.Store = panickingAccounts{store}
	provoke()
	v.Platform.Accounts.Store = store

	ctx := t.Context()
	conn, err := pgx.Connect(ctx, v.DatabaseURL)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	rename := func(from, to string) {
		t.Helper()
		if _, err := conn.Exec(ctx, "ALTER TABLE users RENAME COLUMN "+from+" TO "+to); err != nil {
			t.Fatal(err)
		}
	}
	rename("email", "address")
	provoke()
	v.Call(t, "POST", "/auth/register", object{"email": apptest.NewEmail(), "password": v.plant("password at a fault")}, v.laden()...)
	rename("address", "email")
	v.Want(t, http.StatusOK, "GET", "/users/me", nil, user.Auth()...)
}

// LEAK-03: whatever a client writes into what is logged, each event stays one
// line, and that line one JSON object that says what happened.
func TestLogLinesCannotBeForged(t *testing.T) {
	p := apptest.Start(t, apptest.Options{Set: roomy()})
	u := p.User(t)
	const forged = `{"time":"2026-01-01T00:00:00Z","level":"ERROR","msg":"forged","forged":true}`
	poisons := []string{
		"\r\n" + forged + "\r\n", "\n" + forged, "\r" + forged, `","forged":"yes`, `\","forged":"yes`, `"}` + "\n" + forged,
		"\x1b[2J\x1b[31mforged", "\u009b31mforged", "\x7f\x08\x08forged", "\xff\xfe\xc0\xaf", "\u2028" + forged, "\u202eforged", "\x00forged", strings.Repeat("a", 10_000),
	}
	percent := func(s string) string {
		var b strings.Builder
		for i := range len(s) {
			fmt.Fprintf(&b, "%%%02X", s[i])
		}
		return b.String()
	}
	before := len(p.Log.Lines(t))
	sent := 0
	for _, poison := range poisons {
		for _, path := range []string{"/none/", "/users/", "/api-keys/", "/swagger/"} {
			sendRaw(t, p, "GET "+path+percent(poison)+" HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "+u.Token+"\r\n\r\n")
			sent++
		}
		raw := strings.NewReplacer("\r", "", "\n", "", " ", "", "\x00", "", "\x7f", "", "\x08", "", "\x1b", "").Replace(poison)
		sendRaw(t, p, "GET /none/"+raw+" HTTP/1.1\r\nHost: x\r\nUser-Agent: "+raw+"\r\nX-Request-Id: "+raw+"\r\nTraceparent: "+raw+"\r\n\r\n")
		sent++
		for _, call := range []struct {
			path string
			body object
			auth []string
		}{
			{"/auth/login", object{"email": poison, "password": poison}, nil},
			{"/auth/register", object{"email": poison + "@example.com", "password": apptest.Password, "name": poison}, nil},
			{"/api-keys", object{"name": poison, "env": poison, "expires_at": poison}, u.Auth()},
			{"/auth/refresh", object{"refresh_token": poison, poison: poison}, nil},
		} {
			p.Call(t, "POST", call.path, call.body, call.auth...)
			sent++
		}
	}
	for _, method := range []string{"GET{", `X"Y`, "A\x1bB"} { // the first is a token, the others are refused before they are read
		sendRaw(t, p, method+" /none HTTP/1.1\r\nHost: x\r\n\r\n")
	}

	text := p.Log.String()
	if !utf8.ValidString(text) {
		t.Error("the log is not valid UTF-8")
	}
	if at := strings.IndexFunc(text, func(r rune) bool { return r < ' ' && r != '\n' || r >= 0x7f && r < 0xa0 }); at >= 0 {
		t.Errorf("the log holds a control character: %q", text[max(0, at-100):at+10])
	}
	requests := 0
	lines := p.Log.Lines(t)[before:] // each one is a JSON object
	for _, line := range lines {
		if _, is := line["forged"]; is || line["msg"] == "forged" || line["level"] == "ERROR" {
			t.Errorf("a forged line, or a fault: %v", line)
		}
		if line["msg"] != "request" {
			continue
		}
		requests++
		if !slices.Contains([]any{float64(400), float64(401), float64(403), float64(404), float64(414)}, line["status"]) {
			t.Errorf("status %v: %v", line["status"], line)
		}
		for _, name := range []string{"time", "level", "method", "path", "status", "request_id", "client"} {
			if line[name] == nil {
				t.Errorf("no %s: %v", name, slices.Sorted(maps.Keys(line)))
			}
		}
	}
	if requests < sent || requests > sent+3 {
		t.Errorf("%d requests were sent and %d logged", sent, requests)
	}
}

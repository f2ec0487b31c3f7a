package app_test

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/app/apptest"
	"github.com/keywarden/keywarden/pkg/pglocal/pgtest"
	"github.com/keywarden/keywarden/pkg/seal"
)

// receivers are whoever gets notifications; what they get is for people to read.
type receivers struct {
	mu     sync.Mutex
	got    bytes.Buffer
	hooks  *httptest.Server
	repeat bool // receivers answer with what they were sent, and fail
	mail   net.Listener
	users  map[string]string // of the mail server, with their passwords
}

// newReceivers starts a receiver of webhooks and a mail server.
func newReceivers(t *testing.T) *receivers {
	t.Helper()
	r := &receivers{users: map[string]string{}}
	r.hooks = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, _ := io.ReadAll(req.Body)
		r.keep(body)
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.repeat {
			w.Header().Set("X-Path", req.URL.Path)
			w.WriteHeader(http.StatusInternalServerError)
			_, _ = fmt.Fprint(w, req.URL, req.Header, string(body))
		}
	}))
	var err error
	if r.mail, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	server := smtp.NewServer(r)
	server.AllowInsecureAuth = true
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(r.mail) }()
	t.Cleanup(func() { r.hooks.Close(); _ = server.Close(); <-done })
	return r
}

func (r *receivers) keep(text []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.got.Write(append(text, '\n'))
}

func (r *receivers) text() []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return bytes.Clone(r.got.Bytes())
}

// NewSession implements [smtp.Backend].
func (r *receivers) NewSession(*smtp.Conn) (smtp.Session, error) { return mailSession{r}, nil }

type mailSession struct{ *receivers }

func (mailSession) AuthMechanisms() []string { return []string{sasl.Plain} }

func (s mailSession) Auth(string) (sasl.Server, error) {
	return sasl.NewPlainServer(func(_, user, password string) error {
		if s.users[user] != password {
			return smtp.ErrAuthFailed
		}
		return nil
	}), nil
}

func (mailSession) Mail(string, *smtp.MailOptions) error { return nil }
func (mailSession) Rcpt(string, *smtp.RcptOptions) error { return nil }
func (mailSession) Reset()                               {}
func (mailSession) Logout() error                        { return nil }

func (s mailSession) Data(r io.Reader) error {
	text, err := io.ReadAll(r)
	s.keep(text)
	return err
}

// operated is a program with a secret in each place where operators put one.
type operated struct {
	aviary
	administered
	*receivers
	token *httptest.Server // token endpoint that goes wrong in every way
	asked sync.Map         // credentials that reached a service, by kind
}

// credentialKinds are services with each kind of credential. GOOD answers, and what
// BAD leads to does not.
const credentialKinds = `
version: 1
defaults: {auth: {mode: none}}
services:
  - {name: header, url: GOOD, credential: {kind: header, name: X-Backend-Key, value: '{{ secret "header" }}'}}
  - {name: query, url: GOOD, credential: {kind: query, name: api_key, value: '{{ secret "query" }}'}}
  - {name: basic, url: GOOD, credential: {kind: basic, username: gateway, password: '{{ secret "basic" }}'}}
  - {name: oauth2, url: GOOD, credential: {kind: oauth2, token_url: TOKEN/good, client_id: gateway, client_secret: '{{ secret "client" }}'}}
  - {name: refused, url: GOOD, credential: {kind: oauth2, token_url: TOKEN/refused, client_id: gateway, client_secret: '{{ secret "client" }}'}}
  - {name: posted, url: GOOD, credential: {kind: oauth2, token_url: TOKEN/rubbish, client_auth: post, client_id: gateway, client_secret: '{{ secret "client" }}'}}
  - {name: moved, url: GOOD, credential: {kind: oauth2, token_url: TOKEN/moved, client_auth: post, client_id: gateway, client_secret: '{{ secret "client" }}'}}
  - {name: split, url: GOOD, credential: {kind: oauth2, token_url: TOKEN/split, client_id: gateway, client_secret: '{{ secret "client" }}'}}
  - {name: silent, url: GOOD, credential: {kind: oauth2, token_url: 'http://REFUSING/token?client=x', client_id: gateway, client_secret: '{{ secret "client" }}'}}
  - {name: unsendable, url: GOOD, credential: {kind: header, value: 'Bearer {{ secret "unsendable" }}'}}
  - {name: bad-query, url: BAD, credential: {kind: query, name: api_key, value: '{{ secret "query" }}'}}
  - {name: bad-header, url: BAD, credential: {kind: header, value: '{{ secret "header" }}'}}
  - {name: off-query, url: 'http://REFUSING', credential: {kind: query, name: api_key, value: '{{ secret "query" }}'}}
  - {name: off-basic, url: 'http://REFUSING', credential: {kind: basic, username: '{{ secret "header" }}', password: '{{ secret "basic" }}'}}
routes:
ROUTES  - {name: guarded, match: {path: {prefix: /guarded}}, auth: {mode: required, scopes: ["config:write"]}, service: header}
  - {name: open, match: {path: {prefix: /open}}, respond: {status: 204}}
`

func startOperated(t *testing.T, collector string) *operated {
	t.Helper()
	o := &operated{receivers: newReceivers(t)}
	o.aviary = aviary{canaries: canaries{planted: map[string]string{}, issued: map[string]string{}}}
	smtpPassword := o.plant("password of the mail server")
	o.users["gateway"] = smtpPassword
	_, port, err := net.SplitHostPort(o.mail.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	database, err := url.Parse(pgtest.New(t))
	if err != nil {
		t.Fatal(err)
	}
	if _, has := database.User.Password(); !has {
		database.User = url.UserPassword(database.User.Username(), o.plant("password of the database"))
	}
	options := traced(collector, "")
	maps.Copy(options.Set, revised(t, map[string]string{
		"usage.flush_interval": "100ms", "alerts.allow_networks": "127.0.0.0/8", "alerts.interval": "1s", "alerts.smtp.host": "127.0.0.1",
		"alerts.smtp.port": port, "alerts.smtp.security": "none", "alerts.smtp.username": "gateway", "alerts.smtp.password": smtpPassword,
		"alerts.smtp.from": "keywarden@example.com",
	}))
	options.DatabaseURL, options.MasterKey = database.String(), seal.NewMasterKey()
	o.issued[strings.TrimRight(options.MasterKey.Reveal(), "=")] = "master key"
	program := apptest.Start(t, options)
	o.aviary.Program, o.administered = program, administered{Program: program}
	o.listen(t)
	o.admin = program.Admin(t)
	o.keepToken("admin's token", o.admin.Token)
	o.keepRefresh("admin's refresh token", o.admin.Refresh)
	o.operator, o.viewer, o.user = o.as(t, access.RoleOperator), o.as(t, access.RoleViewer), program.User(t)
	for _, u := range []*apptest.User{o.operator, o.viewer, o.user} {
		o.keepToken("access token", u.Token)
		o.keepRefresh("refresh token", u.Refresh)
	}
	return o
}

// Program of both.
func (o *operated) program() *apptest.Program { return o.aviary.Program }

// services puts secrets and the document that names them, and calls every service.
func (o *operated) services(t *testing.T) {
	p := o.program()
	for _, name := range []string{"header", "query", "basic", "client"} {
		p.Want(t, http.StatusOK, "PUT", "/admin/v1/secrets/"+name, object{"value": o.plant("secret " + name)}, o.admin.Auth()...)
	}
	p.Want(t, http.StatusOK, "PUT", "/admin/v1/secrets/unsendable", object{"value": o.plant("secret with a line break") + "\r\nX-A: b"}, o.admin.Auth()...)
	good := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		o.asked.Store(strings.TrimPrefix(r.URL.Path, "/"), fmt.Sprint(r.URL, r.Header))
	}))
	// bad answers with the request, which is no HTTP.
	bad := rawBackend(t, func(conn net.Conn, request string) {
		_, _ = fmt.Fprintf(conn, "%s\r\n\r\n", strings.ReplaceAll(request, "\r\n", " "))
	})
	backendToken := o.plant("token of a service")
	o.token = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = r.ParseForm()
		what := r.Header.Get("Authorization") + r.PostForm.Encode()
		switch r.URL.Path {
		case "/good":
			_, _ = fmt.Fprintf(w, `{"access_token":%q,"token_type":"Bearer","expires_in":3600}`, backendToken)
		case "/refused":
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = fmt.Fprintf(w, `{"error":%q,"error_description":%q,"error_uri":"http://x/%s"}`, what, what, url.QueryEscape(what))
		case "/rubbish":
			_, _ = fmt.Fprint(w, what)
		case "/moved":
			w.Header().Set("Location", "http://127.0.0.1:1/?"+what)
			w.WriteHeader(http.StatusTemporaryRedirect)
		case "/split":
			_, _ = fmt.Fprintf(w, `{"access_token":"%s\r\nx: y","token_type":"Bearer","expires_in":%q}`, backendToken, what)
		}
	}))
	t.Cleanup(func() { good.Close(); o.token.Close() })
	var routes strings.Builder
	kinds := []string{
		"header", "query", "basic", "oauth2", "refused", "posted", "moved", "split", "silent", "unsendable", "bad-query", "bad-header", "off-query", "off-basic",
	}
	for _, name := range kinds {
		_, _ = fmt.Fprintf(&routes, "  - {name: %[1]s, match: {path: {prefix: /%[1]s}}, service: %[1]s}\n", name)
	}
	document := strings.NewReplacer("GOOD", good.URL, "BAD", "http://"+bad, "TOKEN", o.token.URL, "REFUSING", listenerThatRefuses(t), "ROUTES", routes.String()).
		Replace(credentialKinds)
	p.Want(t, http.StatusOK, "PUT", configPath, document, o.yaml(o.operator, "If-None-Match", "*")...)
	for _, name := range kinds {
		var a apptest.Answer
		apptest.Eventually(t, "the route "+name, func() bool {
			a = p.Call(t, "GET", "/"+name+o.query(), nil, o.laden()...)
			return a.Status != http.StatusNotFound
		})
		wantOK := slices.Contains([]string{"header", "query", "basic", "oauth2"}, name)
		if wantOK != (a.Status == http.StatusOK) {
			t.Errorf("%s: status %d: %s", name, a.Status, a.Body)
		}
	}
	for name, secret := range map[string]string{"header": "secret header", "query": "secret query", "oauth2": "token of a service"} {
		seen, _ := o.asked.Load(name)
		text, _ := seen.(string)
		if !slices.ContainsFunc(slices.Collect(maps.Keys(o.planted)), func(s string) bool { return o.planted[s] == secret && strings.Contains(text, s) }) {
			t.Errorf("the service %s has not got its credential: %s", name, text)
		}
	}
}

// developers make keys and use them, the old and the new secret, also where nothing is.
func (o *operated) developers(t *testing.T) (key apptest.Key) {
	p := o.program()
	key = p.Key(t, o.user, object{"name": "the key of everybody", "expires_in": 3600, "scopes": []string{"keys:read", "usage:read", "profile:read"}})
	o.keepKey("key", key.Secret)
	if _, err := apptest.Connect(t, p.DatabaseURL).Exec(t.Context(), `UPDATE api_keys SET created_at = now() - interval '1 year' WHERE id = $1`, key.ID); err != nil {
		t.Fatal(err) // else it would not be known to be near its end
	}
	old := key.Secret
	key.Secret = o.keepKey("rotated key", p.Want(t, http.StatusOK, "POST", "/api-keys/"+key.ID+"/rotate", object{"grace_seconds": 600}, o.user.Auth()...).Text(t, "key"))
	bait := p.Want(t, http.StatusCreated, "POST", "/api-keys", object{"name": "bait", "canary": true}, o.admin.Auth()...)
	baitKey := o.keepKey("canary key", bait.Text(t, "key"))
	leaked := p.Key(t, o.user, nil)
	o.keepKey("leaked key", leaked.Secret)
	for _, secret := range []string{key.Secret, old, baitKey, o.user.Token} {
		for _, path := range []string{"/guarded/x", "/guarded/" + secret, "/open/x", "/none/" + secret, "/open/" + secret, "/open?key=" + secret, "/open/x?" + secret} {
			for _, method := range []string{"GET", "POST"} {
				p.Call(t, method, path, nil, o.laden("Authorization", "Bearer "+secret, "User-Agent", secret, "X-Request-Id", secret)...)
				p.Call(t, method, path, nil, o.laden("X-API-Key", secret, "Origin", "https://"+secret, "Accept-Language", secret)...)
			}
		}
	}
	p.Want(t, http.StatusAccepted, "POST", "/keys/report", object{"key": leaked.Secret, "note": "found in a gist"})
	p.Call(t, "POST", "/keys/report", object{"key": o.plant("no key at all"), "note": "x"})
	p.Call(t, "POST", "/keys/report", object{"key": leaked.Secret, "note": strings.Repeat(o.plant("long note"), 20)})
	p.Call(t, "GET", "/guarded/x", nil, leaked.Auth()...)
	refused := p.Want(t, http.StatusForbidden, "GET", "/guarded/x"+o.query(), nil, o.laden(key.Auth()...)...)
	p.Want(t, http.StatusOK, "GET", "/decisions/"+refused.Text(t, "decision_id"), nil, o.user.Auth()...)
	p.Want(t, http.StatusOK, "POST", "/admin/v1/explain", object{
		"method": "GET", "url": "/guarded/x" + o.query(), "headers": map[string][]string{
			"Authorization": {"Bearer " + o.plant("explained token")}, "X-Api-Key": {key.Secret}, "Cookie": {o.plant("explained cookie")},
		},
	}, o.operator.Auth()...)
	return key
}

// alerts sends notifications of each kind by every channel, to receivers that take them
// and to those that do not.
func (o *operated) alerts(t *testing.T) {
	p := o.program()
	signing := "whsec_" + base64.StdEncoding.EncodeToString([]byte(o.plant("signing secret")))
	var ids []string
	for _, body := range []object{
		{"name": "hook", "kind": "webhook", "url": o.hooks.URL + "/" + o.plant("URL of a webhook"), "secret": signing},
		{"name": "chat", "kind": "slack", "url": o.hooks.URL + "/services/" + o.plant("URL of a chat")},
		{"name": "mail", "kind": "email", "recipients": []string{"ops@example.com"}},
		{"name": "nobody", "kind": "slack", "url": "http://" + listenerThatRefuses(t) + "/" + o.plant("URL of nobody") + "?token=" + o.plant("query of nobody")},
	} {
		ids = append(ids, p.Want(t, http.StatusCreated, "POST", channelsPath, body, o.admin.Auth()...).Text(t, "id"))
	}
	for _, repeat := range []bool{false, true} {
		o.mu().Lock()
		o.repeat = repeat
		o.mu().Unlock()
		for i, id := range ids {
			want := http.StatusOK
			if i == 3 || repeat && i < 2 {
				want = http.StatusBadGateway
			}
			p.Want(t, want, "POST", channelsPath+"/"+id+"/test", nil, o.admin.Auth()...)
		}
	}
	p.Want(t, http.StatusOK, "PUT", channelsPath+"/"+ids[0], object{
		"name": "hook", "url": o.hooks.URL + "/" + o.plant("new URL of a webhook"), "secret": "whsec_" + base64.StdEncoding.EncodeToString([]byte(o.plant("new signing secret"))),
	}, o.admin.Auth()...)
	for _, bad := range []object{
		{"name": "x", "kind": "webhook", "url": "http://u:" + o.plant("password in a URL") + "@example.com/", "secret": signing},
		{"name": "x", "kind": "webhook", "url": "gopher://example.com/" + o.plant("bad URL"), "secret": signing},
		{"name": "x", "kind": "webhook", "url": "http://10.0.0.1/" + o.plant("inner URL"), "secret": signing},
		{"name": "x", "kind": "webhook", "url": "http://example.com/%zz" + o.plant("broken URL"), "secret": signing},
		{"name": "x", "kind": "webhook", "url": o.hooks.URL, "secret": o.plant("bad signing secret")},
		{"name": "x", "kind": "webhook", "url": o.hooks.URL, "secret": "whsec_" + o.plant("no base64") + "!"},
		{"name": "x", "kind": "slack", "url": o.hooks.URL, "secret": o.plant("secret that is not wanted")},
		{"name": "x", "kind": "email", "recipients": []string{"a@example.com"}, "url": "http://example.com/" + o.plant("URL of mail")},
		{"name": "x", "kind": "email", "recipients": []string{o.plant("no address")}},
		{"name": "x", "kind": o.plant("kind"), "url": "x"},
	} {
		p.Want(t, http.StatusBadRequest, "POST", channelsPath, bad, o.admin.Auth()...)
	}
	o.mu().Lock()
	o.repeat = false
	before := o.got.Len()
	o.mu().Unlock()
	for i, rule := range []object{
		{"signal": "key_expiry", "threshold": 7}, {"signal": "canary_used", "threshold": 1, "window": "1h"},
		{"signal": "refusal_rate", "threshold": 1, "window": "1h", "min_requests": 1},
	} {
		rule["name"], rule["channels"], rule["summary"] = fmt.Sprint("rule ", i), ids, "look at the keys"
		p.Want(t, http.StatusCreated, "POST", "/admin/v1/alert-rules", rule, o.admin.Auth()...)
	}
	apptest.Eventually(t, "the rules have fired by every channel", func() bool {
		text := string(o.text()[before:])
		for i := range 2 {
			if strings.Count(text, fmt.Sprint("rule ", i)) < 3 {
				return false
			}
		}
		return true
	})
}

func (o *operated) mu() *sync.Mutex { return &o.receivers.mu }

// imports gives the program descriptions and documents that it refuses, and that hold
// what their authors should have kept to themselves.
func (o *operated) imports(t *testing.T) {
	p := o.program()
	made := 0
	secret := func() string {
		made++
		return o.plant(fmt.Sprint("secret in the description ", made))
	}
	broken := func(of string) string { // refused for what stands after it, if for nothing else
		return "openapi: 3.0.3\ninfo: {title: t, version: '1'}\nsecurity: []\npaths:\n  /a:\n    get: {operationId: a, " + of +
			"responses: {'200': {description: ok}}}\n    put: {security: [{basic: []}], responses: {}}\n" +
			"components: {securitySchemes: {basic: {type: http, scheme: basic}}}\n"
	}
	for i, text := range []string{
		broken("security: [{nobody: []}], description: '" + secret() + "', "),
		broken("parameters: [{name: k, in: nowhere, example: " + secret() + "}], "),
		broken("parameters: [{name: k, in: query, schema: {type: integer, default: " + secret() + "}}], "),
		broken("requestBody: {content: {application/json: {example: {password: " + secret() + "}, schema: {type: object, minProperties: x}}}}, "),
		broken("x-keywarden-timeout: " + secret() + ", "), broken("x-keywarden-quota: {password: " + secret() + "}, "), broken("x-keywarden-cache: [" + secret() + "], "),
		broken("x-google-backend: {address: 'https://u:" + secret() + "@example.com'}, "),
		broken("servers: [{url: 'https://u:" + secret() + "@example.com'}], security: [{nobody: []}], "),
		broken("x-keywarden-service: 'http://u:" + secret() + "@example.com/', "), broken("description: *" + secret() + ", "),
		broken("security: [{s: []}], x-y: {"), broken("description: \"" + secret() + "\n, "),
		broken("description: 'x' " + secret() + ", "), broken("description: a, description: " + secret() + ", "), broken("description: !!int " + secret() + ", "),
		"openapi: 3.0.3\npassword: " + secret() + "\n bad indentation", `{"openapi":"3.0.3","password":"` + secret() + `",}`, `{"openapi":"3.0.3","password":"` + secret() + "\n\"}",
		"openapi: 3.0.3\ncomponents: {securitySchemes: {s: {type: oauth2, flows: {clientCredentials: {tokenUrl: 'https://u:" + secret() + "@x'}}}}}\npaths: {/a: 1}",
	} {
		for _, validate := range []string{"true", "false"} {
			a := p.Call(t, "POST", apisPath+"?name=a&apply=true&service=http://127.0.0.1:1&validate="+validate, text, o.yaml(o.operator, "If-Match", o.tag(t))...)
			if a.Status != http.StatusUnprocessableEntity {
				t.Errorf("description %d: status %d: %.300s", i, a.Status, a.Body)
			}
		}
	}
	for _, query := range []string{
		"?name=" + o.plant("name"), "?name=a&" + o.plant("parameter") + "=1",
		"?name=a&service=http://u:" + o.plant("password in a service") + "@127.0.0.1:1",
		"?name=a&message=" + strings.Repeat(o.plant("message"), 30), "?name=a&service=http://127.0.0.1:1&hosts=" + o.plant("host") + "%0A",
	} {
		if a := p.Call(t, "POST", apisPath+query, peopleDescription, o.yaml(o.operator)...); a.Status < 400 {
			t.Errorf("%s: status %d: %.300s", query, a.Status, a.Body)
		}
	}
	document := func(service string) string {
		return "version: 1\nservices:\n  - {name: a, url: 'http://127.0.0.1:1', " + service + "}\nroutes: [{name: a, match: {path: {prefix: /a}}, service: a}]\n"
	}
	for i, text := range []string{
		document("credential: {kind: header, value: " + o.plant("credential in a document") + "}"),
		document("credential: {kind: header, value: 'Bearer " + o.plant("credential in a document") + "'}"),
		document("credential: {kind: header, value: '" + o.plant("credential beside a secret") + " {{ secret }}'}"),
		document("credential: {kind: header, value: '" + o.plant("credential beside a request") + " {{ request.path }}'}"),
		document("credential: {kind: basic, username: u, password: " + o.plant("password in a document") + "}"),
		document("credential: {kind: query, name: k, value: " + o.plant("parameter in a document") + "}"),
		document("credential: {kind: oauth2, token_url: 'https://u:" + o.plant("password in a token URL") + "@x/', client_id: a, client_secret: '{{ secret \"client\" }}'}"),
		document("credential: {kind: oauth2, token_url: 'https://x/', client_id: a, client_secret: " + o.plant("client secret in a document") + "}"),
		document("credential: {kind: header, vlaue: " + o.plant("misspelt credential") + "}"),
		document("credential: " + o.plant("credential that is no object")), document("credential: [" + o.plant("credential in a list") + "]"),
		document("url: 'http://u:" + o.plant("password in a backend") + "@x/'"),
		strings.Replace(document("weight: 1"), "http://127.0.0.1:1", "http://u:"+o.plant("password in a backend")+"@127.0.0.1:1", 1),
	} {
		a := p.Call(t, "PUT", configPath, text, o.yaml(o.operator, "If-Match", o.tag(t))...)
		if a.Status != http.StatusUnprocessableEntity {
			t.Errorf("document %d: status %d: %.300s", i, a.Status, a.Body)
		}
		var parsed struct{ Services []map[string]any }
		if json.Unmarshal(a.Body, &parsed) != nil {
			t.Errorf("document %d: %s", i, a.Body)
		}
	}
	p.Want(t, http.StatusOK, "POST", apisPath+"?name=people&apply=true&validate=true&service=http://127.0.0.1:1", peopleDescription, o.yaml(o.operator, "If-Match", o.tag(t))...)
}

// reads is every documented call that shows something, as everybody who may look, with
// everything that can be asked for.
func (o *operated) reads(t *testing.T, key apptest.Key) {
	p := o.program()
	known := map[string]string{
		"/api-keys/": key.ID, "/users/": o.user.ID, "/admin/v1/routes/": "query", "/admin/v1/services/": "oauth2", "/admin/v1/apis/": "people", "/admin/v1/config/revisions/": "1",
	}
	for _, list := range []string{"alert-channels", "alert-rules", "alerts", "alert-deliveries"} {
		for _, item := range items(t, p.Want(t, http.StatusOK, "GET", "/admin/v1/"+list, nil, o.admin.Auth()...)) {
			if id, ok := item["id"].(string); ok {
				known["/admin/v1/"+list+"/"] = id
			}
		}
	}
	seen := 0
	for _, c := range documentedAPI(t).calls() {
		if c.method != http.MethodGet {
			continue
		}
		id := unknownID
		if at := strings.IndexByte(c.path, '{'); at > 0 && known[c.path[:at]] != "" {
			id = known[c.path[:at]]
		}
		for _, auth := range [][]string{nil, o.admin.Auth(), o.operator.Auth(), o.viewer.Auth(), o.user.Auth(), key.Auth()} {
			if a := p.Call(t, c.method, c.at(id), nil, o.laden(auth...)...); a.Status == http.StatusOK {
				seen++
			}
		}
	}
	if seen < 120 {
		t.Errorf("only %d answers show something", seen)
	}
	for _, query := range []string{
		"/usage?by=route,key,app,status&step=minute", "/admin/v1/usage?by=route,user,key,app&step=minute&top=10", "/admin/v1/posture?limit=1000", "/audit?limit=200",
	} {
		p.Want(t, http.StatusOK, "GET", query, nil, o.admin.Auth()...)
	}
	for _, path := range []string{"/analytics?by=route,key,refusal", "/admin/v1/analytics?by=route,user,key", "/admin/v1/analytics?by=client,route", "/admin/v1/analytics/refusals?by=refusal,route,client"} {
		for _, format := range []string{"json", "csv"} {
			a := p.Call(t, "GET", path+"&top=100&step=hour&format="+format, nil, o.admin.Auth()...)
			if a.Status != http.StatusOK || format == "csv" && !strings.HasPrefix(a.Header.Get("Content-Type"), "text/csv") {
				t.Errorf("%s as %s: status %d: %.200s", path, format, a.Status, a.Body)
			}
		}
	}
}

// LEAK-01, R59, R94: what operators give the platform to keep, and what it is given by
// token endpoints, is found nowhere but at the service that it is for: not in figures
// and their exports, lists, reports, notifications, the audit trail and the database.
func TestSecretsOfOperatorsAreFoundNowhere(t *testing.T) {
	collector := startCollector(t)
	o := startOperated(t, collector.URL)
	control := "visible" + strings.ToLower(rand.Text())
	p := o.program()
	p.Want(t, http.StatusOK, "PATCH", "/users/me", object{"name": control}, o.user.Auth()...)
	o.services(t)
	key := o.developers(t)
	o.alerts(t)
	o.imports(t)
	o.reads(t, key)
	p.Call(t, "GET", "/"+control, nil)
	apptest.Eventually(t, "the figures are counted", func() bool {
		return strings.Contains(string(p.Want(t, http.StatusOK, "GET", "/admin/v1/analytics?by=route&route=header", nil, o.admin.Auth()...).Body), `"header"`)
	})
	metrics := p.Want(t, http.StatusOK, "GET", "/metrics", nil).Body
	database := databaseText(t, p.DatabaseURL)
	trail := fmt.Append(nil, auditTrail(t, p, o.admin, ""))
	if err := p.Stop(); err != nil {
		t.Fatal(err)
	}
	p.Log.Lines(t)
	for place, v := range map[string]struct {
		text  []byte
		shown string // by design
	}{
		"the log": {[]byte(p.Log.String()), control}, "the metrics": {metrics, `route="header"`}, "the database": {database, control},
		"the audit trail": {trail, "alert_channel.created"}, "the traces": {collector.raw, control}, "the answers": {o.answers.Bytes(), control},
		"the notifications": {o.text(), "rule 0"},
	} {
		if !bytes.Contains(v.text, []byte(v.shown)) {
			t.Errorf("%s: what should be in it is not: %q", place, v.shown)
		}
		o.wantNone(t, place, v.text)
	}
	if len(o.planted) < 500 || len(o.issued) < 12 {
		t.Errorf("only %d canaries and %d issued secrets", len(o.planted), len(o.issued))
	}
}

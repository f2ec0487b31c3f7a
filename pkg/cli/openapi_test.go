package cli_test

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/canonical"
	"github.com/keywarden/keywarden/pkg/gateway"
	"github.com/keywarden/keywarden/pkg/reqctx"
	"github.com/keywarden/keywarden/pkg/spec"
)

// guideDescription is the OpenAPI document of the guide.
func guideDescription(t *testing.T) string {
	t.Helper()
	guide, err := os.ReadFile("../../docs/guides/openapi.md")
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`(?ms)^cat > people\.openapi\.yaml <<'END'\n(.*?)^END$`).FindSubmatch(guide)
	if found == nil {
		t.Fatal("the guide has no description any more")
	}
	return string(found[1])
}

// scopedKeys knows keys by the scopes in their names.
type scopedKeys struct{}

func (scopedKeys) VerifyKeyAt(_ context.Context, key string, _ netip.Addr, _ time.Time) (*access.Principal, error) {
	scope, ok := strings.CutPrefix(key, "kw_")
	if !ok {
		return nil, access.ErrKey
	}
	return &access.Principal{Kind: access.KindKey, UserID: "u", KeyID: "k", Role: access.RoleUser, Scopes: []string{scope}}, nil
}

func (scopedKeys) VerifyToken(context.Context, string) (*access.Principal, error) {
	return nil, access.ErrToken
}

// served is a gateway with the document, behind a server.
func served(t *testing.T, document string) *httptest.Server {
	t.Helper()
	doc, err := spec.Parse("", []byte(document))
	if err != nil {
		t.Fatal(err)
	}
	g, err := gateway.New(gateway.Options{Authenticator: access.NewAuthenticator(scopedKeys{}, scopedKeys{}, "kw", "api"), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Apply(doc); err != nil {
		t.Fatal(err)
	}
	h := canonical.MiddlewareWithSlashes(g, g)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		info := &reqctx.Info{ID: "r", Client: netip.MustParseAddr("127.0.0.1"), Scheme: "http"}
		h.ServeHTTP(w, r.WithContext(reqctx.With(r.Context(), info)))
	}))
	t.Cleanup(func() {
		server.Close()
		g.Close()
	})
	return server
}

// TestImportedAPIIsServedAndNothingElse takes the example of the guide from the
// description to answers.
func TestImportedAPIIsServedAndNothingElse(t *testing.T) {
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Path", r.Method+" "+r.URL.EscapedPath())
	}))
	t.Cleanup(backend.Close)
	file := writeFile(t, filepath.Join(t.TempDir(), "people.yaml"), guideDescription(t))
	var l commandLine
	l.run(t, "openapi", "check", file, "--service", backend.URL).want(0, "4 routes, 0 notes")
	out := l.run(t, "openapi", "import", file, "--name", "people", "--service", backend.URL, "--base-path", "strip").want(0)
	server := served(t, out.stdout)
	for _, c := range []struct {
		method, path, key string
		status            int
		seen              string // by the service
	}{
		{"GET", "/people/users", "kw_any", 200, "GET /users"},
		{"GET", "/people/users/7%2C8", "kw_any", 200, "GET /users/7%2C8"},
		{"GET", "/people/healthz", "", 200, "GET /healthz"},
		{"POST", "/people/users", "kw_people:write", 200, "POST /users"},
		{"POST", "/people/users", "kw_people:read", 403, ""},
		{"GET", "/people/users", "", 401, ""},
		{"GET", "/people/users", "other", 401, ""},
		{"GET", "/people/users/7", "", 401, ""},
		{"DELETE", "/people/users", "kw_any", 405, ""},
		{"HEAD", "/people/users", "kw_any", 405, ""},
		{"DELETE", "/people/users/7", "kw_any", 405, ""},
		{"GET", "/people/secrets", "kw_any", 404, ""},
		{"GET", "/people/users/", "kw_any", 404, ""},
		{"GET", "/people/users/7/8", "kw_any", 404, ""},
		{"GET", "/people/users/7%2F8", "kw_any", 400, ""},
		{"GET", "/people/users/..", "kw_any", 400, ""},
		{"GET", "/users", "kw_any", 404, ""},
		{"GET", "/people", "kw_any", 404, ""},
		{"GET", "/people/usersx", "kw_any", 404, ""},
		{"GET", "/x/people/users/7", "kw_any", 404, ""},
	} {
		r, err := http.NewRequestWithContext(t.Context(), c.method, server.URL+c.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if c.key != "" {
			r.Header.Set("X-Api-Key", c.key)
		}
		resp, err := server.Client().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != c.status || resp.Header.Get("X-Path") != c.seen {
			t.Errorf("%s %s with %q: %d, the service saw %q; want %d and %q", c.method, c.path, c.key, resp.StatusCode, resp.Header.Get("X-Path"), c.status, c.seen)
		}
	}
}

func TestImportIntoADocumentSaysWhatChanges(t *testing.T) {
	dir := t.TempDir()
	api := writeFile(t, filepath.Join(dir, "people.openapi.yaml"), guideDescription(t))
	into := writeFile(t, filepath.Join(dir, "gateway.yaml"), exampleDocument)
	var l commandLine
	args := []string{"openapi", "import", api, "--name", "people", "--service", "a", "--into", into}
	out := l.run(t, args...).want(0, "+ route people.listUsers", "name: people.getUser")
	if strings.Contains(out.stdout, "+ route") {
		t.Errorf("the differences are on standard output, too:\n%s", out.stdout)
	}
	if text, err := os.ReadFile(into); err != nil || string(text) != exampleDocument {
		t.Fatalf("the file was changed without --write: %v\n%s", err, text)
	}
	l.run(t, append(args, "--write")...).want(0, "4 routes of people")
	l.run(t, "config", "check", into).want(0)
	l.run(t, append(args, "--write")...).want(0, "There is no difference.")
	l.run(t, append(args, "-o", "json")...).want(0, `"name": "people.health"`)
	l.run(t, "openapi", "import", api, "--name", "people", "--service", "ax", "--into", into).want(2, into, `no service is named "ax"`)
	l.run(t, "openapi", "import", api, "--name", "a", "--service", "http://127.0.0.1:2", "--into", into).want(2, `the service "a" of the gateway document`)
	commandLine{stdin: guideDescription(t)}.run(t, "openapi", "import", "-", "--name", "people", "--service", "a").want(0, "the routes need the service a")
}

func TestOpenAPICommandsSayWhatIsWrong(t *testing.T) {
	dir := t.TempDir()
	api := writeFile(t, filepath.Join(dir, "api.yaml"), guideDescription(t))
	wrong := writeFile(t, filepath.Join(dir, "wrong.yaml"), strings.Replace(guideDescription(t), "scheme: bearer", "scheme: basic", 1))
	lossy := writeFile(t, filepath.Join(dir, "lossy.yaml"), strings.Replace(guideDescription(t), "name: X-API-Key", "name: token", 1))
	older := writeFile(t, filepath.Join(dir, "older.yaml"), strings.Replace(guideDescription(t), "/healthz:", "/health:", 1))
	var l commandLine
	l.run(t, "openapi", "check", wrong, "--service", "a").want(2, wrong+":12:19: ", "POST /users", "basic")
	l.run(t, "openapi", "check", lossy, "--service", "a").want(1, lossy+":24:5: components.securitySchemes.key: clients send API keys in the header X-API-Key", "4 routes, 1 notes")
	if out := l.run(t, "openapi", "check", lossy, "--service", "a", "-o", "json").want(1).json(); len(out["notes"].([]any)) != 1 {
		t.Errorf("as JSON: %v", out)
	}
	l.run(t, "openapi", "check", api).want(2, "say --service")
	l.run(t, "openapi", "diff", api, api).want(0, "There is no difference.")
	l.run(t, "openapi", "diff", older, api).want(1, "- GET /people/health (breaking)\n", "+ GET /people/healthz\n")
	if out := l.run(t, "openapi", "diff", older, api, "--breaking", "-o", "json").want(1).json(); out["breaking"] != true || len(out["changes"].([]any)) != 1 {
		t.Errorf("as JSON: %v", out)
	}
	l.run(t, "openapi", "diff", api, lossy, "--breaking").want(1, "security is stricter")
	for _, c := range []struct{ args, want string }{
		{"import " + api, "--name is missing"},
		{"import " + api + " --name a.b", "the name of an API must consist of"},
		{"import " + api + " --name a --base-path no", "must be auto, keep or strip"},
		{"import " + api + " --name a -o text", "must be yaml or json"},
		{"import " + api + " --name a --write", "--write belongs to --into"},
		{"import - --name a --into -", "standard input"},
		{"import " + api + " --name a --into - --write", "standard input"},
		{"import", "FILE is missing"},
		{"import " + filepath.Join(dir, "none"), "--name is missing"},
		{"check " + filepath.Join(dir, "none"), "no such file"},
		{"diff - -", "standard input"},
	} {
		l.run(t, append([]string{"openapi"}, strings.Fields(c.args)...)...).want(2, c.want)
	}
}

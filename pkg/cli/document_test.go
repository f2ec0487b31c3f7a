package cli_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/app/apptest"
	"github.com/keywarden/keywarden/pkg/cli"
	"github.com/keywarden/keywarden/pkg/pglocal/pgtest"
	"github.com/keywarden/keywarden/pkg/seal"
)

// commandLine runs commands in this process, with an environment of its own.
type commandLine struct {
	env   map[string]string
	stdin string
}

func (l commandLine) run(t *testing.T, args ...string) result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	var environ []string
	for name, value := range l.env {
		environ = append(environ, name+"="+value)
	}
	code := cli.Main(t.Context(), cli.System{
		Args: args, Environ: environ, Stdin: strings.NewReader(l.stdin), Stdout: &stdout, Stderr: &stderr,
		Lookup: func(name string) (string, bool) { v, ok := l.env[name]; return v, ok },
	})
	return result{tb: t, code: code, stdout: stdout.String(), stderr: stderr.String()}
}

const exampleDocument = `version: 1
services:
  - {name: a, url: "http://127.0.0.1:1"}
routes:
  - name: hello
    match: {path: {exact: /hello}}
    respond: {body: one}
    auth: {mode: none}
  - {name: a, match: {path: {prefix: /a}}, service: a, auth: {scopes: ["orders:read"]}, allow_ips: [127.0.0.0/8]}
`

func TestDocumentsAreComparedWithoutAServer(t *testing.T) {
	dir := t.TempDir()
	one := writeFile(t, filepath.Join(dir, "one.yaml"), exampleDocument)
	two := writeFile(t, filepath.Join(dir, "two.yaml"), strings.NewReplacer("body: one", "body: \"two\\u0007\"", "  - {name: a, match", "  - {name: b, match").Replace(exampleDocument))
	var l commandLine
	l.run(t, "config", "diff", one, "--against", one).want(0, "no difference")
	l.run(t, "config", "diff", two, "--against", one).want(1,
		"~ route hello\n    respond.body  \"one\" -> \"two\\u0007\"\n", "+ route b\n", "- route a\n")
	if out := l.run(t, "config", "diff", two, "--against", one).stdout; strings.Contains(out, "\x1b") {
		t.Errorf("colours, but no terminal: %q", out)
	}
	out := l.run(t, "config", "diff", two, "--against", one, "-o", "json").want(1).json()
	if out["changed"] != true || len(out["diff"].([]any)) != 3 {
		t.Errorf("as JSON: %v", out)
	}
	commandLine{stdin: exampleDocument}.run(t, "config", "diff", "-", "--against", one).want(0)

	broken := writeFile(t, filepath.Join(dir, "broken.yaml"), strings.Replace(exampleDocument, "service: a,", "servce: a,", 1))
	for _, args := range [][]string{
		{"config", "check", broken}, {"config", "diff", broken, "--against", one}, {"config", "diff", one, "--against", broken},
		{"config", "apply", broken}, {"config", "explain", "GET", "/", "--file", broken},
	} {
		l.run(t, args...).want(2, broken+":9:", "servce", "service")
	}
	l.run(t, "config", "check", one).want(0, "valid")
	commandLine{stdin: "version: 2\n"}.run(t, "config", "check", "-").want(2, "standard input:1:10: version")
}

func TestMistakesOfDocumentCommandsSayWhatToDo(t *testing.T) {
	dir := t.TempDir()
	file := writeFile(t, filepath.Join(dir, "gateway.yaml"), exampleDocument)
	key := map[string]string{"KEYWARDEN_API_KEY": "kw_live_x"}
	for _, c := range []struct {
		env  map[string]string
		args []string
		code int
		want string
	}{
		{nil, []string{"config", "apply", file}, 2, "set KEYWARDEN_API_KEY"},
		{map[string]string{"KEYWARDEN_API_KEY": "a", "KEYWARDEN_TOKEN": "b"}, []string{"config", "export"}, 2, "unset one"},
		{map[string]string{"KEYWARDEN_API_KEY": "a b"}, []string{"config", "export"}, 2, "characters"},
		{key, []string{"config", "apply"}, 2, "FILE is missing"},
		{key, []string{"config", "apply", file, file}, 2, "unexpected argument"},
		{key, []string{"config", "apply", filepath.Join(dir, "none.yaml")}, 2, "none.yaml"},
		{key, []string{"config", "explain", "GET"}, 2, "URL is missing"},
		{key, []string{"config", "explain", "GET", "/", "--as", "root"}, 2, "anonymous, user:ROLE or key:SCOPE"},
		{key, []string{"config", "explain", "GET", "/", "-H", "x"}, 2, "Name: value"},
		{key, []string{"config", "explain", "GET", "nowhere", "--file", file}, 2, "url must be a path"},
		{key, []string{"config", "explain", "GET", "/", "--as", "user:root", "--file", file}, 2, "principal.role"},
		{key, []string{"config", "rollback", "last"}, 2, "keywarden config revisions"},
		{key, []string{"config", "revisions", "--limit", "0"}, 2, "--limit"},
		{key, []string{"config", "export", "--output", "xml"}, 2, "yaml or json"},
		{key, []string{"config", "export", "--server", "gateway.example.com"}, 2, "must be a URL"},
		{key, []string{"config", "export", "--server", "https://me:secret@gateway.example.com"}, 2, "must be a URL"},
		{key, []string{"config", "export", "--server", "http://127.0.0.1:1"}, 3, "--server or KEYWARDEN_SERVER"},
		{nil, []string{"config", "export", "--token-file", filepath.Join(dir, "none")}, 2, "--token-file"},
	} {
		r := commandLine{env: c.env}.run(t, c.args...).want(c.code, c.want)
		if r.stdout != "" || strings.Contains(r.stderr, "secret") || strings.Contains(r.stderr, "kw_live_x") {
			t.Errorf("%q: standard output %q, standard error %q", c.args, r.stdout, r.stderr)
		}
	}
	// The variables are no options of the program, and no mistake.
	commandLine{env: map[string]string{"KEYWARDEN_API_KEY": "a", "KEYWARDEN_TOKEN": "b", "KEYWARDEN_SERVER": "c"}}.run(t, "config", "print").want(0)
}

// A server that is something else gets the credential, and nobody that it names.
func TestCredentialStaysWithTheServerThatWasNamed(t *testing.T) {
	var elsewhere []string
	other := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		elsewhere = append(elsewhere, r.Header.Get("Authorization"))
	}))
	t.Cleanup(other.Close)
	for name, h := range map[string]http.HandlerFunc{
		"a redirect": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, other.URL, http.StatusTemporaryRedirect)
		},
		"a page":   func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprint(w, "<html>\x1b[2J") },
		"an error": func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no\x1b[2J", http.StatusTeapot) },
		"a broken answer": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "9")
			_, _ = w.Write([]byte("{"))
		},
	} {
		server := httptest.NewServer(h)
		l := commandLine{env: map[string]string{"KEYWARDEN_TOKEN": "a-token", "KEYWARDEN_SERVER": server.URL, "HTTP_PROXY": other.URL}}
		r := l.run(t, "config", "revisions").want(3)
		if strings.Contains(r.stdout+r.stderr, "\x1b") || strings.Contains(r.stderr, "a-token") {
			t.Errorf("%s: %q", name, r.stderr)
		}
		server.Close()
	}
	if len(elsewhere) > 0 {
		t.Errorf("somebody else got %q", elsewhere)
	}
}

// administered is a program whose document is in its database, and the command
// lines of an operator and a viewer.
func administered(t *testing.T) (p *apptest.Program, operator, viewer commandLine) {
	t.Helper()
	p = apptest.Start(t, apptest.Options{Set: map[string]string{"gateway.source": "database", "data.dir": t.TempDir()}})
	admin := p.Admin(t)
	as := func(role access.Role, scopes ...string) map[string]string {
		u := p.User(t)
		p.Want(t, http.StatusOK, "PATCH", "/users/"+u.ID, map[string]any{"role": role}, admin.Auth()...)
		return map[string]string{"KEYWARDEN_SERVER": p.URL, "KEYWARDEN_API_KEY": p.Key(t, u, map[string]any{"scopes": scopes}).Secret}
	}
	return p, commandLine{env: as(access.RoleOperator, "config:read", "config:write")}, commandLine{env: as(access.RoleViewer, "config:read")}
}

func TestDocumentIsAppliedComparedAndRolledBack(t *testing.T) {
	p, operator, viewer := administered(t)
	dir := t.TempDir()
	file := writeFile(t, filepath.Join(dir, "gateway.yaml"), exampleDocument)
	changed := writeFile(t, filepath.Join(dir, "changed.yaml"), strings.Replace(exampleDocument, "body: one", "body: two", 1))

	viewer.run(t, "config", "export").want(1, "no gateway document yet")
	viewer.run(t, "config", "diff", file).want(1, "+ route hello")
	operator.run(t, "config", "apply", file, "--dry-run").want(0, "+ route hello", "dry run")
	viewer.run(t, "config", "apply", file).want(3, "config:write")
	operator.run(t, "config", "apply", file, "--message", "the first").want(0, "+ route hello", "Applied as revision 1")
	operator.run(t, "config", "apply", file).want(0, "Nothing changes")
	viewer.run(t, "config", "diff", file).want(0, "no difference")
	viewer.run(t, "config", "diff", changed).want(1, `respond.body  "one" -> "two"`)

	digest := viewer.run(t, "config", "revisions", "-o", "json")
	var list []map[string]any
	if err := json.Unmarshal([]byte(digest.stdout), &list); err != nil || len(list) != 1 || list[0]["message"] != "the first" {
		t.Fatalf("revisions %s: %v", digest.stdout, err)
	}
	reviewed, _ := list[0]["digest"].(string)
	out := operator.run(t, "config", "apply", changed, "--if-match", reviewed, "-o", "json").want(0).json()
	if out["revision"] != 2.0 || out["base"] != reviewed {
		t.Errorf("applied: %v", out)
	}
	operator.run(t, "config", "apply", changed, "--if-match", reviewed).want(1, "Somebody else changed it", "keywarden config diff")
	apptest.Eventually(t, "the change is served", func() bool { return string(p.Call(t, "GET", "/hello", nil).Body) == "two" })

	for _, form := range []string{"yaml", "json"} {
		exported := writeFile(t, filepath.Join(dir, "exported."+form), viewer.run(t, "config", "export", "--output", form).want(0).stdout)
		viewer.run(t, "config", "diff", exported).want(0)
		operator.run(t, "config", "apply", exported).want(0, "Nothing changes")
	}
	viewer.run(t, "config", "revisions").want(0, "REVISION", "2 ", "the first")
	operator.run(t, "config", "rollback", "1", "--dry-run").want(0, `"two" -> "one"`, "dry run")
	operator.run(t, "config", "rollback", "1", "-m", "back").want(0, `"two" -> "one"`, "Applied as revision 3")
	operator.run(t, "config", "rollback", "9").want(1, "keywarden config revisions")
	viewer.run(t, "config", "rollback", "1").want(3, "config:write")

	// A credential in a file; one that is no good; a user without the scope.
	token := writeFile(t, filepath.Join(dir, "token"), operator.env["KEYWARDEN_API_KEY"]+"\n")
	commandLine{}.run(t, "config", "export", "--server", p.URL, "--token-file", token).want(0, "version: 1")
	commandLine{env: map[string]string{"KEYWARDEN_TOKEN": "x"}}.run(t, "config", "export", "--server", p.URL).want(3, "KEYWARDEN_API_KEY")
	commandLine{env: map[string]string{"KEYWARDEN_TOKEN": p.User(t).Token}}.run(t, "config", "export", "--server", p.URL).want(3, "config:read")
}

func TestExplainIsTheSameWithAndWithoutAServer(t *testing.T) {
	p, operator, viewer := administered(t)
	file := writeFile(t, filepath.Join(t.TempDir(), "gateway.yaml"), exampleDocument)
	operator.run(t, "config", "apply", file).want(0)
	apptest.Eventually(t, "the document is served", func() bool { return p.Call(t, "GET", "/hello", nil).Status == http.StatusOK })
	for _, c := range []struct {
		args []string
		code int
		want []string
	}{
		{[]string{"GET", "/hello"}, 0, []string{"route    hello", "verdict  passes"}},
		{[]string{"get", "/a/b", "--as", "key:orders:read", "--client", "127.0.0.1"}, 0, []string{"route    a", "service  a", "allow_ips", "enforce", "passes"}},
		{[]string{"GET", "/a/b", "--as", "key:", "--client", "127.0.0.1"}, 1, []string{"refused: 403 access.scope_missing", "orders:read"}},
		{[]string{"GET", "/a/b", "--client", "127.0.0.1"}, 1, []string{"401 auth.missing"}},
		{[]string{"GET", "/a/b", "--as", "user:admin", "--client", "192.0.2.1"}, 1, []string{"gateway.address_not_allowed"}},
		{[]string{"GET", "https://www.example.com/none", "-H", "X-A: b"}, 1, []string{"gateway.no_route"}},
	} {
		online := viewer.run(t, append([]string{"config", "explain"}, c.args...)...).want(c.code, c.want...)
		offline := commandLine{}.run(t, append([]string{"config", "explain", "--file", file}, c.args...)...).want(c.code, c.want...)
		if online.stdout != offline.stdout {
			t.Errorf("%q: with a server\n%s\nwithout\n%s", c.args, online.stdout, offline.stdout)
		}
	}
	out := viewer.run(t, "config", "explain", "GET", "/hello", "-o", "json").want(0).json()
	if out["allowed"] != true || out["route"] != "hello" {
		t.Errorf("as JSON: %v", out)
	}
}

func TestAccountsOfOperatorsAreMade(t *testing.T) {
	master := seal.NewMasterKey().Reveal()
	l := commandLine{env: map[string]string{"DATABASE_URL": pgtest.New(t), "KEYWARDEN_MASTER_KEY": master}}
	for _, role := range []string{"operator", "viewer", "admin"} {
		out := l.run(t, "admin", "create", "--email", role+"@example.com", "--role", role, "-o", "json").want(0).json()
		if out["role"] != role || out["password"] == "" {
			t.Errorf("made %v", out)
		}
	}
	l.run(t, "admin", "create", "--email", "u@example.com", "--role", "user").want(2, "admin, operator or viewer")
}

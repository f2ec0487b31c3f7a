package operate

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/keywarden/keywarden/pkg/cli/shell"
)

// runPrivileges runs the command against a server that answers out below /gateway, and
// returns what it writes and what the server was asked.
func runPrivileges(t *testing.T, out string, args ...string) (text, asked string, err error) {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = r.Method + " " + r.URL.String()
		_, _ = w.Write([]byte(out))
	}))
	defer srv.Close()
	var stdout bytes.Buffer
	c := &command{&shell.Shell{Sys: shell.System{
		Stdin: strings.NewReader(""), Stdout: &stdout, Stderr: &stdout,
		Lookup: func(name string) (string, bool) {
			if name == shell.APIKeyVar {
				return "kw_test", true
			}
			return "", false
		},
	}}}
	root := &cobra.Command{Use: "keywarden", SilenceErrors: true, SilenceUsage: true}
	root.AddCommand(c.privileges())
	shell.Strict(root)
	root.SetArgs(append([]string{"privileges", "--server", srv.URL + "/gateway"}, args...))
	err = root.ExecuteContext(context.Background())
	return stdout.String(), asked, err
}

const (
	someKey          = "01890a5d-ac96-774b-bcce-b302099a8057"
	privilegesAnswer = `{"key_id":"` + someKey + `","recorded_since":"2029-10-01T09:30:12Z","scopes":[
		{"scope":"orders:read","last_used_at":"2030-01-01T12:04:00Z","verdict":"used"},{"scope":"orders:write","last_used_at":null,"verdict":"unused"}],
		"ineffective_scopes":["audit:read"],"suggested_scopes":["orders:read"],"narrower":true,
		"routes":[{"route":"orders\u001b[2J","requests_30d":12,"requests_90d":340},{"route":"","requests_30d":0,"requests_90d":1}],"more_routes":true}`
)

func TestPrivilegesAreShownWithWhatWouldDo(t *testing.T) {
	text, asked, err := runPrivileges(t, privilegesAnswer, someKey)
	if err != nil || asked != "GET /gateway/api-keys/"+someKey+"/privileges" {
		t.Fatalf("asked %s: %v", asked, err)
	}
	for _, want := range []string{
		"SCOPE         VERDICT      USED", "orders:read   used         2030-01-01T12:04:00Z", "orders:write  unused       never",
		"audit:read    ineffective  the owner does not hold it", "ROUTE       30-DAYS  90-DAYS", "orders\uFFFD[2J  12       340",
		"(no route)  0        1", "There are more routes.", "recorded since 2029-10-01T09:30:12Z",
		"PATCH /api-keys/" + someKey + ` with {"scopes": ["orders:read"]}.`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
}

func TestPrivilegesCanBeChecked(t *testing.T) {
	narrow := strings.Replace(privilegesAnswer, `"narrower":true`, `"narrower":false`, 1)
	if text, _, err := runPrivileges(t, narrow, someKey, "--check"); err != nil || !strings.Contains(text, "nothing that it could do without") {
		t.Errorf("%v: %s", err, text)
	}
	text, _, err := runPrivileges(t, privilegesAnswer, someKey, "--check", "-o", "json")
	if err == nil || !strings.Contains(text, `"suggested_scopes":["orders:read"]`) {
		t.Errorf("a key that could do with less passes the check: %s", text)
	}
	none := strings.Replace(privilegesAnswer, `"suggested_scopes":["orders:read"]`, `"suggested_scopes":[]`, 1)
	if text, _, err = runPrivileges(t, none, someKey); err != nil || !strings.Contains(text, `{"scopes": []}`) {
		t.Errorf("%v: %s", err, text)
	}
}

func TestPrivilegesSayWhyThereAreNoRoutes(t *testing.T) {
	for why, want := range map[string]string{"scope_missing": "usage:read", "too_much": "keywarden analytics --only key_id=" + someKey} {
		answer := strings.Replace(privilegesAnswer, `"more_routes":true`, `"more_routes":false,"routes_omitted":"`+why+`"`, 1)
		if text, _, err := runPrivileges(t, answer, someKey); err != nil || !strings.Contains(text, want) || strings.Contains(text, "ROUTE ") {
			t.Errorf("%s: %v\n%s", why, err, text)
		}
	}
}

// The argument of a hasty operator may be the key itself: it is neither sent nor repeated.
func TestPrivilegesTakeNothingButAnID(t *testing.T) {
	for _, args := range [][]string{{}, {"kw_live_secretsecret"}, {"../users"}, {someKey, someKey}} {
		_, asked, err := runPrivileges(t, privilegesAnswer, args...)
		if err == nil || asked != "" || strings.Contains(err.Error(), "secretsecret") {
			t.Errorf("%v: asked %q, %v", args, asked, err)
		}
	}
}

package operate

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/keywarden/keywarden/pkg/cli/shell"
)

// alertsCommand runs a command line against a server that answers what it is told, and
// returns what was asked and what was printed.
func alertsCommand(t *testing.T, answer, stdin string, args ...string) (asked, printed string, err error) {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		asked += strings.TrimSpace(fmt.Sprint(r.Method, " ", r.URL.Path, " ", r.URL.RawQuery, " ", string(body))) + "\n"
		if answer == "" {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		_, _ = io.WriteString(w, answer)
	}))
	defer server.Close()
	var out bytes.Buffer
	c := &command{&shell.Shell{Sys: shell.System{
		Lookup: func(name string) (string, bool) {
			v, ok := map[string]string{shell.ServerVar: server.URL, shell.TokenVar: "token"}[name]
			return v, ok
		},
		Stdin: strings.NewReader(stdin), Stdout: &out, Stderr: io.Discard,
	}}}
	root := &cobra.Command{Use: "keywarden", SilenceUsage: true, SilenceErrors: true}
	root.AddCommand(c.alerts())
	shell.Strict(root)
	root.SetArgs(append([]string{"alerts"}, args...))
	root.SetOut(&out)
	err = root.ExecuteContext(t.Context())
	return asked, out.String(), err
}

func TestAlertCommandsAskAndPrint(t *testing.T) {
	const list = `{"items": [{"id": "one", "name": "errors", "rule": "errors", "signal": "latency", "state": "firing", "kind": "slack", "host": "hooks.example.com",
		"value": 12.5, "unit": "ms", "threshold": 5, "enabled": true, "status": {"state": "no_data", "reason": "3 requests, fewer than 20"}, "channel": "ops", "error": "no"}]}`
	const one = `{"id": "one", "name": "errors", "kind": "slack", "delivery_id": "d1", "state": "pending"}`
	for _, c := range []struct {
		args, stdin, answer string
		asked, printed      string
	}{
		{"list", "", list, "GET /admin/v1/alerts limit=200&state=firing", "12.5 ms"},
		{"list --all", "", list, "GET /admin/v1/alerts limit=200", "errors"},
		{"rules list", "", list, "GET /admin/v1/alert-rules limit=200", "3 requests, fewer than 20"},
		{"rules set", `{"name": "errors"}`, one, `POST /admin/v1/alert-rules  {"name":"errors"}`, "one"},
		{"rules set x/y", `{}`, one, `PUT /admin/v1/alert-rules/x/y  {}`, "one"},
		{"rules delete x", "", "", "DELETE /admin/v1/alert-rules/x", ""},
		{"channels list", "", list, "GET /admin/v1/alert-channels limit=200", "hooks.example.com"},
		{"channels set", `{"url": "https://x"}`, one, `POST /admin/v1/alert-channels  {"url":"https://x"}`, "slack"},
		{"channels set x", `{}`, one, `PUT /admin/v1/alert-channels/x  {}`, "slack"},
		{"channels test x", "", one, "POST /admin/v1/alert-channels/x/test", "d1"},
		{"channels delete x", "", "", "DELETE /admin/v1/alert-channels/x", ""},
		{"silences list", "", list, "GET /admin/v1/alert-silences limit=200", "(all)"},
		{"silences add --for 1h --comment why --rule r", "", one, `POST /admin/v1/alert-silences  {"rule_id":"r","ends":"`, "one"},
		{"silences end x", "", "", "DELETE /admin/v1/alert-silences/x", ""},
		{"deliveries list --state dead", "", list, "GET /admin/v1/alert-deliveries limit=200&state=dead", "ops"},
		{"deliveries retry x", "", one, "POST /admin/v1/alert-deliveries/x/retry", "pending"},
	} {
		asked, printed, err := alertsCommand(t, c.answer, c.stdin, strings.Fields(c.args)...)
		if err != nil || !strings.HasPrefix(asked, c.asked) || !strings.Contains(printed, c.printed) {
			t.Errorf("%s: %v\nasked %s\nprinted %s", c.args, err, asked, printed)
		}
	}
}

func TestAlertCommandsThatAskNothing(t *testing.T) {
	for _, args := range []string{
		"rules delete", "rules delete x y", "rules set x y", "channels test", "silences add", "silences add --for -1h", "deliveries retry", "channels set", "list x",
	} {
		if asked, _, err := alertsCommand(t, `{}`, "", strings.Fields(args)...); err == nil || asked != "" || shell.ExitOf(err) != 2 {
			t.Errorf("%s: %v, asked %q", args, err, asked)
		}
	}
}

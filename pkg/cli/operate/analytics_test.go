package operate

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/keywarden/keywarden/pkg/cli/shell"
)

// runAnalytics runs the command against a server that answers out, and returns what it
// writes and what the server was asked.
func runAnalytics(t *testing.T, out string, args ...string) (text, asked string, err error) {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = r.URL.String()
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
	root.AddCommand(c.analytics())
	shell.Strict(root)
	root.SetArgs(append([]string{"analytics", "--server", srv.URL}, args...))
	err = root.ExecuteContext(context.Background())
	return stdout.String(), asked, err
}

const analyticsAnswer = `{"from":"2030-01-01T00:00:00Z","to":"2030-01-02T00:00:00Z","step":"day",
	"total":{"requests":7,"refused":3,"client_errors":1,"p50_ms":1.5},
	"items":[{"client":"192.0.2.0/24","refusal":"","requests":4,"refused":4,"series":[{"at":"2030-01-01T00:00:00Z","requests":4}]},
	{"client":"x\u001b[2J","refusal":"auth.missing","requests":3}],"more":true}`

func TestAnalyticsAreShownAsATable(t *testing.T) {
	text, asked, err := runAnalytics(t, analyticsAnswer, "--refusals", "--by", "refusal,client", "--top", "2", "--step", "day", "--sort", "errors",
		"--from", "2030-01-01T01:00:00+01:00", "--only", "key_id=", "--only", "api=shop")
	if err != nil {
		t.Fatal(err)
	}
	if want := "/admin/v1/analytics/refusals?api=shop&by=refusal%2Cclient&from=2030-01-01T00%3A00%3A00Z&key_id=&sort=errors&step=day&top=2"; asked != want {
		t.Errorf("asked for %s", asked)
	}
	for _, want := range []string{
		"REFUSAL       CLIENT        TIME                  REQUESTS  REFUSED  4XX", "-             192.0.2.0/24  2030-01-01T00:00:00Z  4 ",
		"auth.missing  x\uFFFD[2J", "TOTAL ", "See --top",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
}

func TestAnalyticsAreWrittenAsTheServerWritesThem(t *testing.T) {
	text, asked, err := runAnalytics(t, "requests\r\n7\r\n", "--from", "90d", "-o", "csv")
	if err != nil || text != "requests\r\n7\r\n" || !strings.HasPrefix(asked, "/admin/v1/analytics?format=csv&from=") {
		t.Errorf("%q from %s: %v", text, asked, err)
	}
	if text, _, err = runAnalytics(t, analyticsAnswer, "-o", "json"); err != nil || !strings.Contains(text, `"requests":7`) {
		t.Errorf("%s: %v", text, err)
	}
}

func TestMistakesOfTheAnalyticsCommandSayWhatToDo(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"--from", "yesterday"}, "--from: must be a time"}, {[]string{"--only", "host=x"}, "--only"}, {[]string{"--only", "route"}, "--only"},
		{[]string{"--only", "route=a", "--only", "route=b"}, "each once"}, {[]string{"-o", "xml"}, "text, json or csv"}, {[]string{"now"}, "unexpected argument"},
	} {
		if _, asked, err := runAnalytics(t, "{}", c.args...); err == nil || !strings.Contains(err.Error(), c.want) || asked != "" {
			t.Errorf("%v: %v, asked %q", c.args, err, asked)
		}
	}
	if _, err := (figuresQuery{from: "1h"}).values(time.Now(), analyticsFilters()); err != nil {
		t.Error(err)
	}
}

package cli_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keywarden/keywarden/pkg/httpapi/usageapi"
)

// usageServer answers with out and notes what it is asked.
func usageServer(t *testing.T, out usageapi.Usage) (commandLine, *url.Values) {
	t.Helper()
	var asked url.Values
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet || r.URL.Path != "/admin/v1/usage" || r.Header.Get("Authorization") != "Bearer kw_live_x" {
			t.Errorf("%s %s", r.Method, r.URL)
		}
		asked = r.URL.Query()
		_ = json.NewEncoder(w).Encode(out)
	}))
	t.Cleanup(srv.Close)
	return commandLine{env: map[string]string{"KEYWARDEN_API_KEY": "kw_live_x", "KEYWARDEN_SERVER": srv.URL}}, &asked
}

func TestUsageIsShownAsATable(t *testing.T) {
	at := time.Date(2030, 1, 31, 12, 0, 0, 0, time.UTC)
	text := func(s string) *string { return &s }
	totals := usageapi.Totals{Requests: 7, ClientErrors: 1, ServerErrors: 2, RequestBytes: 10, ResponseBytes: 20, P50: 1.5, P95: 20, P99: 123456.5}
	out := usageapi.Usage{From: at, To: at.Add(time.Hour), Total: totals, More: true, Items: []usageapi.Group{
		{Route: text("orders"), UserID: text(""), Totals: totals}, {Route: text("x\x1b[2J"), UserID: text("u-1"), Totals: totals},
	}}
	l, asked := usageServer(t, out)
	l.run(t, "usage", "--by", "route,user", "--top", "2", "--from", "2030-01-31T13:00:00+01:00", "--only", "key_id=", "--only", "status=4xx").want(0,
		"from 2030-01-31T12:00:00Z to 2030-01-31T13:00:00Z",
		"ROUTE   USER  REQUESTS  4XX  5XX  BYTES IN  BYTES OUT  P50 MS  P95 MS  P99 MS\n",
		"orders  -     7         1    2    10        20         1.5     20      123456\n", "x\uFFFD[2J   u-1 ", "TOTAL         7 ", "See --top")
	want := url.Values{"by": {"route,user"}, "top": {"2"}, "from": {"2030-01-31T12:00:00Z"}, "key_id": {""}, "status": {"4xx"}}
	if diff := cmp.Diff(want, *asked); diff != "" {
		t.Error(diff)
	}
	if got := l.run(t, "usage", "-o", "json").want(0).json()["total"].(map[string]any)["requests"]; got != 7.0 {
		t.Errorf("as JSON: %v", got)
	}

	out.Items, out.More, out.Step, out.Series = nil, false, "hour", []usageapi.Point{{At: at, Totals: totals}}
	l, asked = usageServer(t, out)
	l.run(t, "usage", "--by", "", "--step", "hour", "--from", "2h").want(0, "TIME ", "2030-01-31T12:00:00Z  7", "all                   7")
	if asked.Has("by") || asked.Get("step") != "hour" {
		t.Errorf("asked for %v", *asked)
	}
	if from, err := time.Parse(time.RFC3339, asked.Get("from")); err != nil || time.Since(from) < 2*time.Hour || time.Since(from) > 3*time.Hour {
		t.Errorf("from %v", asked.Get("from"))
	}
}

func TestMistakesOfTheUsageCommandSayWhatToDo(t *testing.T) {
	l := commandLine{env: map[string]string{"KEYWARDEN_API_KEY": "kw_live_x", "KEYWARDEN_SERVER": "http://127.0.0.1:1"}}
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"--from", "yesterday"}, 2, "--from: must be a time"}, {[]string{"--to", "-2h"}, 2, "--to: must be a time"},
		{[]string{"--from", "xd"}, 2, "such as"}, {[]string{"--from", "99999d"}, 2, "such as"},
		{[]string{"--only", "host=x"}, 2, "--only"}, {[]string{"--only", "route"}, 2, "--only"},
		{[]string{"--only", "route=a", "--only", "route=b"}, 2, "each once"}, {[]string{"--only", "top=5"}, 2, "--only"},
		{[]string{"--top", "x"}, 2, "--top"}, {[]string{"now"}, 2, "unexpected argument"}, {[]string{"--from", "7d"}, 3, "--server or KEYWARDEN_SERVER"},
	} {
		l.run(t, append([]string{"usage"}, c.args...)...).want(c.code, c.want)
	}
}

package operate

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"

	"github.com/keywarden/keywarden/pkg/cli/shell"
	"github.com/keywarden/keywarden/pkg/problem"
)

// server notes what it is asked, and answers with what is there for the call.
type server struct {
	asked   []string
	base    []string // If-Match and If-None-Match of each call
	answers map[string]string
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	call := strings.TrimSpace(r.Method + " " + r.URL.String() + " " + string(body))
	s.asked = append(s.asked, call)
	s.base = append(s.base, r.Header.Get("If-Match")+r.Header.Get("If-None-Match"))
	answer, ok := s.answers[r.Method+" "+r.URL.Path]
	if !ok {
		problem.Define(problem.NotFound, "test.nothing", "Nothing.").Write(w, "id")
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = io.WriteString(w, answer)
}

// run runs the command line against the server.
func (s *server) run(t *testing.T, args ...string) (out string, err error) {
	t.Helper()
	srv := httptest.NewServer(s)
	defer srv.Close()
	var stdout, stderr bytes.Buffer
	sh := &shell.Shell{Sys: shell.System{
		Stdin: strings.NewReader(""), Stdout: &stdout, Stderr: &stderr,
		Lookup: func(name string) (string, bool) {
			if name == shell.APIKeyVar {
				return "kw_test", true
			}
			return "", false
		},
	}}
	root := &cobra.Command{Use: "keywarden", SilenceErrors: true, SilenceUsage: true}
	c := &command{sh}
	root.AddCommand(c.catalog()...)
	shell.Strict(root)
	root.SetArgs(append(args, "--server", srv.URL))
	err = root.ExecuteContext(context.Background())
	return stdout.String(), err
}

const (
	productAnswer      = `{"id":"1","name":"people","title":"People\u001b[2J","description":"","visible":true,"apps_only":true,"routes":["birds.list","people"],"plans":[{"name":"free","price":"","approval":"automatic","rate":{"requests":100,"window":"1m0s","burst":100},"quota":{"units":5,"period":"day","time_zone":"UTC","rolling":true},"created_at":"2026-05-04T10:00:00Z","updated_at":"2026-05-04T10:00:00Z"}],"created_at":"2026-05-04T10:00:00Z","updated_at":"2026-05-04T10:00:00Z"}`
	planAnswer         = `{"name":"gold","price":"10 EUR","approval":"operator","created_at":"2026-05-04T10:00:00Z","updated_at":"2026-05-04T10:00:00Z"}`
	appAnswer          = `{"id":"a-1","user_id":"u-1","name":"book","description":"","suspended_at":"2026-05-04T10:00:00Z","created_at":"2026-05-04T10:00:00Z","updated_at":"2026-05-04T10:00:00Z"}`
	subscriptionAnswer = `{"id":"s-1","app":"a-1","user_id":"u-1","product":"people","plan":"","state":"revoked","created_at":"2026-05-04T10:00:00Z","updated_at":"2026-05-04T10:00:00Z"}`
)

func TestCatalogCommandsAskTheAdminAPI(t *testing.T) {
	s := &server{answers: map[string]string{}}
	answers := map[string]string{
		"GET /admin/v1/products/people": productAnswer, "PUT /admin/v1/products/people": productAnswer, "DELETE /admin/v1/products/people": "",
		"PUT /admin/v1/products/people/plans/gold": planAnswer, "DELETE /admin/v1/products/people/plans/gold": "",
		"GET /admin/v1/products": `{"items":[` + productAnswer + `]}`, "GET /admin/v1/apps": `{"items":[` + appAnswer + `]}`, "GET /admin/v1/apps/a-1": appAnswer,
		"POST /admin/v1/apps/a-1/suspend": appAnswer, "POST /admin/v1/apps/a-1/resume": appAnswer,
		"GET /admin/v1/subscriptions": `{"items":[` + subscriptionAnswer + `]}`, "POST /admin/v1/subscriptions": subscriptionAnswer,
		"POST /admin/v1/subscriptions/s-1/approve": subscriptionAnswer, "POST /admin/v1/subscriptions/s-1/revoke": subscriptionAnswer,
	}
	s.answers = answers
	for _, c := range []struct{ args, asked, shows string }{
		{"products list", "GET /admin/v1/products?limit=200", "people"},
		{"products show people", "GET /admin/v1/products/people", "100/1m0s, burst 100"},
		{"products show people", "GET /admin/v1/products/people", "rolling 5/day UTC"},
		{"products put people --visible --apps-only --route people,birds.list --route x --title P", `PUT /admin/v1/products/people {"title":"P","description":"","visible":true,"apps_only":true,"routes":["people","birds.list","x"]}`, "apps"},
		{"products delete people", "DELETE /admin/v1/products/people?force=false", ""},
		{"products delete people --force", "DELETE /admin/v1/products/people?force=true", ""},
		{"plans list people", "GET /admin/v1/products/people", "free"},
		{"plans put people gold --rate 100/1m --burst 5 --quota 10/week --time-zone Europe/Berlin --rolling --approval operator --price 10", `PUT /admin/v1/products/people/plans/gold {"price":"10","approval":"operator","rate":{"requests":100,"window":"1m0s","burst":5},"quota":{"units":10,"period":"week","time_zone":"Europe/Berlin","rolling":true}}`, "gold"},
		{"plans put people gold --rate 30pm", `PUT /admin/v1/products/people/plans/gold {"price":"","approval":"automatic","rate":{"requests":30,"window":"1m0s","burst":1},"quota":null}`, "unlimited"},
		{"plans delete people gold --force", "DELETE /admin/v1/products/people/plans/gold?force=true", ""},
		{"apps list --user u-1", "GET /admin/v1/apps?limit=200&user_id=u-1", "book"},
		{"apps show a-1", "GET /admin/v1/apps/a-1", "2026-05-04T10:00:00Z"},
		{"apps suspend a-1", "POST /admin/v1/apps/a-1/suspend", "book"},
		{"apps resume a-1", "POST /admin/v1/apps/a-1/resume", "book"},
		{"subscriptions list --state pending --product people --app a-1", "GET /admin/v1/subscriptions?app=a-1&limit=200&product=people&state=pending", "revoked"},
		{"subscriptions add a-1 people gold", `POST /admin/v1/subscriptions {"app":"a-1","product":"people","plan":"gold"}`, "s-1"},
		{"subscriptions approve s-1", "POST /admin/v1/subscriptions/s-1/approve", "s-1"},
		{"subscriptions revoke s-1", "POST /admin/v1/subscriptions/s-1/revoke", "s-1"},
	} {
		s.asked = nil
		out, err := s.run(t, strings.Fields(c.args)...)
		if diff := cmp.Diff([]string{c.asked}, s.asked); err != nil || diff != "" {
			t.Errorf("%s: %v\n%s", c.args, err, diff)
		}
		if !strings.Contains(out, c.shows) || strings.Contains(out, "\x1b") || c.shows == "" && out != "" {
			t.Errorf("%s shows\n%q", c.args, out)
		}
	}
}

func TestCatalogCommandsWriteJSON(t *testing.T) {
	s := &server{answers: map[string]string{
		"GET /admin/v1/subscriptions": `{"items":[` + subscriptionAnswer + `]}`, "GET /admin/v1/apps": `{"items":[]}`, "GET /admin/v1/products/people": productAnswer,
	}}
	for args, want := range map[string]string{
		"subscriptions list": "[" + subscriptionAnswer + "]", "apps list": "[]", "products show people": productAnswer,
	} {
		out, err := s.run(t, append(strings.Fields(args), "-o", "json")...)
		var got, wanted any
		if err != nil || json.Unmarshal([]byte(out), &got) != nil || json.Unmarshal([]byte(want), &wanted) != nil {
			t.Fatalf("%s: %q, %v", args, out, err)
		}
		if diff := cmp.Diff(wanted, got); diff != "" {
			t.Errorf("%s: %s", args, diff)
		}
	}
}

func TestCatalogChangesSayWhatTheyAreBasedOn(t *testing.T) {
	s := &server{answers: map[string]string{"PUT /admin/v1/products/people": productAnswer, "PUT /admin/v1/products/people/plans/gold": planAnswer}}
	for args, want := range map[string]string{
		"products put people --route x":                                             "",
		"products put people --route x --if-new":                                    "*",
		"products put people --route x --if-match 2026-05-04T10:00:00Z":             `"2026-05-04T10:00:00Z"`,
		"products put people --route x --if-match 2026-05-04T12:00:00.000100+02:00": `"2026-05-04T10:00:00.0001Z"`,
		"plans put people gold --if-match 2026-05-04T10:00:00.123456Z":              `"2026-05-04T10:00:00.123456Z"`,
		"plans put people gold --if-new":                                            "*",
		"plans put people gold":                                                     "",
	} {
		s.base = nil
		out, err := s.run(t, strings.Fields(args)...)
		if diff := cmp.Diff([]string{want}, s.base); err != nil || diff != "" || !strings.Contains(out, "2026-05-04T10:00:00Z") {
			t.Errorf("%s: %v\n%s%s", args, err, diff, out)
		}
	}
}

func TestCatalogCommandsWarnOfNamesThatOpenNothing(t *testing.T) {
	warned := strings.Replace(productAnswer, `"plans":`, `"warnings":[{"field":"routes[1]","detail":"no such\u001b[2J route"}],"plans":`, 1)
	s := &server{answers: map[string]string{"GET /admin/v1/products": `{"items":[` + warned + `]}`, "GET /admin/v1/products/people": warned}}
	for _, args := range []string{"products list", "products show people"} {
		out, err := s.run(t, strings.Fields(args)...)
		if err != nil || !strings.Contains(out, "Warning: people: people: no such\uFFFD[2J route") {
			t.Errorf("%s: %v\n%s", args, err, out)
		}
	}
}

func TestCatalogMistakesAreNotSent(t *testing.T) {
	s := &server{}
	for _, args := range []string{
		"products show", "products show a b", "products put people", "products put", "plans list", "plans put people", "plans put people gold --rate 100",
		"plans put people gold --rate 0/1m", "plans put people gold --burst 5", "plans put people gold --rate 30pm --burst 5", "plans put people gold --quota 100",
		"plans put people gold --quota x/day", "plans put people gold --rolling", "plans put people gold --time-zone UTC", "apps suspend", "subscriptions add a people",
		"subscriptions approve", "apps list -o yaml",
		"products put people --route x --if-match yesterday", "plans put people gold --if-new --if-match 2030-01-01T12:00:00Z",
	} {
		if _, err := s.run(t, strings.Fields(args)...); err == nil || shell.ExitOf(err) != shell.ExitUsage {
			t.Errorf("%s: %v", args, err)
		}
	}
	if len(s.asked) > 0 {
		t.Errorf("asked %q", s.asked)
	}
	if _, err := s.run(t, "products", "show", "none"); err == nil {
		t.Error("what does not exist is no error")
	}
}

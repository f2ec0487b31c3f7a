package alertsapi

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/alert"
	"github.com/keywarden/keywarden/pkg/audit"
	"github.com/keywarden/keywarden/pkg/httpapi"
	"github.com/keywarden/keywarden/pkg/throttle"
)

var at = time.Date(2026, 5, 4, 10, 0, 0, 0, time.UTC)

// service notes what it is asked. Nothing with the id unknown exists.
type service struct{ asked []string }

func (s *service) note(format string, args ...any) {
	s.asked = append(s.asked, fmt.Sprintf(format, args...))
}

func rule(id string) alert.Rule {
	return alert.Rule{
		ID: id, Version: 2, CreatedAt: at, UpdatedAt: at,
		Spec: alert.Spec{
			Name: "errors", Enabled: true, Signal: alert.ServerErrorRate, Window: 5 * time.Minute, Threshold: 5, ResolveThreshold: 2,
			For: 90 * time.Second, ResolveAfter: 2 * time.Hour, MinRequests: 20, Severity: alert.Warning,
		},
		Status: alert.Status{State: alert.Firing, Since: at, EvaluatedAt: at, AlertID: "a", Reading: alert.Reading{Known: true, Value: 9, Volume: 100}},
	}
}

func channel(id string) alert.Channel {
	return alert.Channel{ID: id, Version: 1, Name: "ops", Kind: alert.Webhook, Enabled: true, Host: "hooks.example.com", KeyID: "k", Sealed: []byte("canary"), CreatedAt: at, UpdatedAt: at}
}

func alertOf(id string) alert.Alert {
	return alert.Alert{ID: id, RuleID: "r", Rule: "errors", Signal: alert.ServerErrorRate, Severity: alert.Warning, State: alert.Firing, Value: 9, Unit: "%", Threshold: 5, FiredAt: at}
}

func delivery(id string) alert.Delivery {
	return alert.Delivery{ID: id, AlertID: "a", ChannelID: "c", Channel: "ops", Event: alert.EventFiring, State: alert.DeliveryDead, Attempts: 14, Error: "no", NextAt: at, CreatedAt: at, FinishedAt: at}
}

// three are as many as there are, or as are asked for.
func three[T any](limit int, one func(string) T) (list []T) {
	for i := range min(3, limit) {
		list = append(list, one(fmt.Sprint("id ", i)))
	}
	return list
}

func (s *service) Rules(_ context.Context, f alert.RuleFilter) ([]alert.Rule, error) {
	s.note("rules %+v", f)
	return three(f.Limit, rule), nil
}

func (s *service) Rule(_ context.Context, id string) (alert.Rule, error) {
	s.note("rule %s", id)
	return rule(id), s.missing(id, alert.ErrRuleNotFound)
}

func (s *service) missing(id string, err error) error {
	if id == "unknown" {
		return err
	}
	return nil
}

func (s *service) CreateRule(_ context.Context, spec alert.Spec) (alert.Rule, error) {
	s.note("create %s window %v for %v at %v and %v, enabled %v", spec.Name, spec.Window, spec.For, spec.Threshold, spec.ResolveThreshold, spec.Enabled)
	return rule("new"), nil
}

func (s *service) UpdateRule(_ context.Context, id string, spec alert.Spec) (alert.Rule, error) {
	s.note("update %s", id)
	return rule(id), s.missing(id, alert.ErrRuleNotFound)
}

func (s *service) DeleteRule(_ context.Context, id string) error {
	s.note("delete rule %s", id)
	return s.missing(id, alert.ErrRuleNotFound)
}

func (s *service) Channels(_ context.Context, f alert.RuleFilter) ([]alert.Channel, error) {
	s.note("channels %+v", f)
	return three(f.Limit, channel), nil
}

func (s *service) Channel(_ context.Context, id string) (alert.Channel, error) {
	return channel(id), s.missing(id, alert.ErrChannelNotFound)
}

func (s *service) CreateChannel(_ context.Context, spec alert.ChannelSpec) (alert.Channel, error) {
	s.note("create %s to %s with %s", spec.Kind, spec.URL.Reveal(), spec.Secret.Reveal())
	return channel("new"), nil
}

func (s *service) UpdateChannel(_ context.Context, id string, spec alert.ChannelSpec) (alert.Channel, error) {
	s.note("update %s, URL given %v, enabled %v", id, !spec.URL.Empty(), spec.Enabled)
	return channel(id), s.missing(id, alert.ErrChannelNotFound)
}

func (s *service) DeleteChannel(_ context.Context, id string) error {
	s.note("delete channel %s", id)
	if id == "used" {
		return alert.ErrInUse
	}
	return s.missing(id, alert.ErrChannelNotFound)
}

func (s *service) TestChannel(_ context.Context, id string) (string, error) {
	s.note("test %s", id)
	if id == "broken" {
		return "", alert.ErrTestFailed
	}
	return "delivery", s.missing(id, alert.ErrChannelNotFound)
}

func (s *service) Alerts(_ context.Context, f alert.AlertFilter) ([]alert.Alert, error) {
	s.note("alerts %+v", f)
	return three(f.Limit, alertOf), nil
}

func (s *service) Alert(_ context.Context, id string) (alert.Alert, error) {
	s.note("alert %s", id)
	return alertOf(id), s.missing(id, alert.ErrAlertNotFound)
}

func (s *service) Silences(_ context.Context, f alert.SilenceFilter) ([]alert.Silence, error) {
	s.note("silences %+v", f)
	return three(f.Limit, func(id string) alert.Silence { return alert.Silence{ID: id} }), nil
}

func (s *service) Silence(_ context.Context, in alert.Silence) (alert.Silence, error) {
	s.note("silence %s until %s", in.RuleID, in.Ends.Format(time.RFC3339))
	in.ID = "new"
	return in, nil
}

func (s *service) EndSilence(_ context.Context, id string) error {
	s.note("end %s", id)
	return s.missing(id, alert.ErrSilenceNotFound)
}

func (s *service) Deliveries(_ context.Context, f alert.DeliveryFilter) ([]alert.Delivery, error) {
	s.note("deliveries %+v", f)
	return three(f.Limit, delivery), nil
}

func (s *service) RetryDelivery(_ context.Context, id string) (alert.Delivery, error) {
	s.note("retry %s", id)
	return delivery(id), s.missing(id, alert.ErrDeliveryNotFound)
}

// callers are known by their bearer.
type callers map[string]*access.Principal

// Authenticate implements httpapi.Authenticator.
func (c callers) Authenticate(r *http.Request, _ access.Methods) (*access.Principal, error) {
	if p := c[r.Header.Get("Authorization")]; p != nil {
		return p, nil
	}
	return nil, access.ErrMissing
}

func newAPI(t *testing.T, s *service) http.Handler {
	t.Helper()
	roles, err := access.NewRoles(nil)
	if err != nil {
		t.Fatal(err)
	}
	denials, err := throttle.New(1, time.Hour, func() time.Time { return at })
	if err != nil {
		t.Fatal(err)
	}
	person := func(role access.Role) *access.Principal {
		return &access.Principal{Kind: access.KindUser, UserID: "u", Role: role, Scopes: roles.Scopes(role)}
	}
	guard := &httpapi.Guard{
		Auth: callers{
			"user": person(access.RoleUser), "viewer": person(access.RoleViewer), "operator": person(access.RoleOperator), "admin": person(access.RoleAdmin),
			"config key": {Kind: access.KindKey, UserID: "u", KeyID: "k", Scopes: []string{access.ScopeConfigRead, access.ScopeConfigWrite}},
		},
		Record: func(context.Context, audit.Entry) error { return nil }, Denials: denials, Logger: slog.New(slog.DiscardHandler),
	}
	engine := httpapi.NewEngine(1<<20, httpapi.Nothing)
	(&Handler{Alerts: s, Guard: guard, Cursors: httpapi.NewCursors([]byte("key"))}).Mount(engine)
	return engine
}

func call(t *testing.T, h http.Handler, caller, method, target, body string) (int, string) {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), method, target, strings.NewReader(body))
	if caller != "" {
		r.Header.Set("Authorization", caller)
	}
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Code, w.Body.String()
}

// calls are all operations, with a body that is right.
var calls = []struct{ method, path, body string }{
	{"GET", "/alert-rules", ""}, {"POST", "/alert-rules", `{}`}, {"GET", "/alert-rules/x", ""}, {"PUT", "/alert-rules/x", `{}`}, {"DELETE", "/alert-rules/x", ""},
	{"GET", "/alert-channels", ""}, {"POST", "/alert-channels", `{}`}, {"GET", "/alert-channels/x", ""}, {"PUT", "/alert-channels/x", `{}`},
	{"DELETE", "/alert-channels/x", ""}, {"POST", "/alert-channels/x/test", ""}, {"GET", "/alerts", ""}, {"GET", "/alerts/x", ""},
	{"GET", "/alert-silences", ""}, {"POST", "/alert-silences", `{"ends": "2030-01-31T12:00:00Z"}`}, {"DELETE", "/alert-silences/x", ""},
	{"GET", "/alert-deliveries", ""}, {"POST", "/alert-deliveries/x/retry", ""},
}

func TestWhoMayDoWhat(t *testing.T) {
	for _, c := range calls {
		for caller, allowed := range map[string]bool{
			"": false, "user": false, "config key": false, "viewer": c.method == http.MethodGet, "operator": true, "admin": true,
		} {
			s := &service{}
			status, body := call(t, newAPI(t, s), caller, c.method, "/admin/v1"+c.path, c.body)
			switch {
			case allowed && status >= 400:
				t.Errorf("%s %s by %q: %d %s", c.method, c.path, caller, status, body)
			case !allowed && (len(s.asked) > 0 || caller == "" && status != 401 || caller != "" && status != 403):
				t.Errorf("%s %s by %q: %d, %v", c.method, c.path, caller, status, s.asked)
			}
			if strings.Contains(body, "canary") {
				t.Errorf("%s %s shows what is sealed: %s", c.method, c.path, body)
			}
		}
	}
}

func TestWhatIsAsked(t *testing.T) {
	const id = "0198c1f4-5b2e-7c3a-8f11-2d6f0f6a7b90"
	for _, c := range []struct {
		method, path, body string
		status             int
		asked              string
	}{
		{"POST", "/alert-rules", `{"name":"e","signal":"latency","threshold":5,"for":"90s","window":"10m"}`, 201, "create e window 10m0s for 1m30s at 5 and 5, enabled true"},
		{"POST", "/alert-rules", `{"name":"e","signal":"latency","threshold":5,"resolve_threshold":3,"enabled":false}`, 201, "create e window 0s for 0s at 5 and 3, enabled false"},
		{"POST", "/alert-rules", `{"window":"5 minutes","for":"x"}`, 400, ""},
		{"POST", "/alert-rules", `{"treshold":5}`, 400, ""},
		{"POST", "/alert-rules", "", 415, ""},
		{"PUT", "/alert-rules/unknown", `{}`, 404, "update unknown"},
		{"PUT", "/alert-rules/x", `[]`, 400, ""},
		{"GET", "/alert-rules/unknown", "", 404, "rule unknown"},
		{"DELETE", "/alert-rules/x", "", 204, "delete rule x"},
		{"DELETE", "/alert-rules/unknown", "", 404, "delete rule unknown"},
		{"GET", "/alert-rules?limit=x", "", 400, ""},
		{"POST", "/alert-channels", `{"name":"o","kind":"webhook","url":"https://x/","secret":"s"}`, 201, "create webhook to https://x/ with s"},
		{"POST", "/alert-channels", `{"url":["canary"]}`, 400, ""},
		{"PUT", "/alert-channels/x", `{"name":"o"}`, 200, "update x, URL given false, enabled true"},
		{"PUT", "/alert-channels/unknown", `{}`, 404, "update unknown, URL given false, enabled true"},
		{"GET", "/alert-channels/unknown", "", 404, ""},
		{"DELETE", "/alert-channels/used", "", 409, "delete channel used"},
		{"POST", "/alert-channels/x/test", "", 200, "test x"},
		{"POST", "/alert-channels/broken/test", "", 502, "test broken"},
		{"POST", "/alert-channels/unknown/test", "", 404, "test unknown"},
		{"GET", "/alerts?state=firing&limit=2&rule_id=" + id, "", 200, "alerts {State:firing RuleID:" + id + " Before: Limit:3}"},
		{"GET", "/alerts?state=pending", "", 400, ""},
		{"GET", "/alerts/unknown", "", 404, "alert unknown"},
		{"GET", "/alert-silences?ended=true", "", 200, "silences {Ended:true Before: Limit:51}"},
		{"GET", "/alert-silences?ended=yes", "", 400, ""},
		{"POST", "/alert-silences", `{"rule_id":"r","ends":"2030-01-31T12:00:00Z"}`, 201, "silence r until 2030-01-31T12:00:00Z"},
		{"POST", "/alert-silences", `{"ends":"tomorrow"}`, 400, ""},
		{"POST", "/alert-silences", `{"begins":"now","ends":"2030-01-31T12:00:00Z"}`, 400, ""},
		{"DELETE", "/alert-silences/unknown", "", 404, "end unknown"},
		{"GET", "/alert-deliveries?state=dead&channel_id=c&alert_id=a", "", 200, "deliveries {State:dead AlertID:a ChannelID:c Before: Limit:51}"},
		{"GET", "/alert-deliveries?state=lost", "", 400, ""},
		{"POST", "/alert-deliveries/unknown/retry", "", 404, "retry unknown"},
	} {
		s := &service{}
		status, body := call(t, newAPI(t, s), "admin", c.method, "/admin/v1"+c.path, c.body)
		if got := strings.Join(s.asked, "; "); status != c.status || got != c.asked || strings.Contains(body, "canary") {
			t.Errorf("%s %s: %d, want %d; asked %q, want %q: %s", c.method, c.path, status, c.status, got, c.asked, body)
		}
	}
}

func TestWhatIsShown(t *testing.T) {
	api := newAPI(t, &service{})
	nine := 9.0
	var got Rule
	_, body := call(t, api, "viewer", "GET", "/admin/v1/alert-rules/r", "")
	if err := json.Unmarshal([]byte(body), &got); err != nil {
		t.Fatal(err)
	}
	want := Rule{
		ID: "r", Version: 2, Name: "errors", Enabled: true, Signal: "server_error_rate", Window: "5m", Threshold: 5, ResolveThreshold: 2, Unit: "%",
		For: "1m30s", ResolveAfter: "2h", MinRequests: 20, Severity: "warning", Channels: []string{}, CreatedAt: at, UpdatedAt: at,
		Status: Status{State: "firing", Since: &at, EvaluatedAt: &at, Value: &nine, Volume: 100, AlertID: "a"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	_, body = call(t, api, "viewer", "GET", "/admin/v1/alerts/a", "")
	if strings.Contains(body, "resolved_at") {
		t.Errorf("what fires is over: %s", body)
	}
	_, body = call(t, api, "viewer", "GET", "/admin/v1/alert-deliveries", "")
	if strings.Contains(body, "next_at") || !strings.Contains(body, `"error":"no"`) {
		t.Errorf("a dead delivery is %s", body)
	}
}

func TestPagesFollowOneAnother(t *testing.T) {
	s := &service{}
	api := newAPI(t, s)
	for path, next := range map[string]string{
		"/alert-rules": "After:id 1", "/alert-channels": "After:id 1", "/alerts": "Before:id 1", "/alert-silences": "Before:id 1", "/alert-deliveries": "Before:id 1",
	} {
		var page struct {
			Items []json.RawMessage `json:"items"`
			Next  string            `json:"next_cursor"`
		}
		_, body := call(t, api, "viewer", "GET", "/admin/v1"+path+"?limit=2", "")
		if err := json.Unmarshal([]byte(body), &page); err != nil || len(page.Items) != 2 || page.Next == "" {
			t.Fatalf("%s: %s, %v", path, body, err)
		}
		call(t, api, "viewer", "GET", "/admin/v1"+path+"?limit=2&cursor="+page.Next, "")
		if last := s.asked[len(s.asked)-1]; !strings.Contains(last, next) {
			t.Errorf("%s: the next page asks %s", path, last)
		}
	}
}

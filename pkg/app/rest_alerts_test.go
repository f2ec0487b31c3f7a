package app_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keywarden/keywarden/pkg/alert/channel"
	"github.com/keywarden/keywarden/pkg/app/apptest"
	"github.com/keywarden/keywarden/pkg/seal"
)

// hook is a receiver of webhooks that believes what is signed.
type hook struct {
	*httptest.Server
	secret string
	mu     sync.Mutex
	status int
	events []string
	wrong  []error
}

func newHook(t *testing.T) *hook {
	t.Helper()
	h := &hook{secret: "whsec_" + strings.Repeat("a2V5", 8), status: http.StatusNoContent}
	h.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		h.mu.Lock()
		defer h.mu.Unlock()
		if err := channel.Verify(seal.NewSecret(h.secret), r.Header, body, time.Now()); err != nil {
			h.wrong = append(h.wrong, err)
		}
		var n struct {
			Type string `json:"type"`
		}
		if err := json.Unmarshal(body, &n); err != nil {
			h.wrong = append(h.wrong, err)
		}
		h.events = append(h.events, n.Type)
		w.WriteHeader(h.status)
	}))
	t.Cleanup(h.Close)
	return h
}

// TestAlertsAreMadeTestedSilencedAndSeen needs a program whose guard allows 127.0.0.0/8.
func TestAlertsAreMadeTestedSilencedAndSeen(t *testing.T) {
	p := start(t, apptest.Options{Set: alertsSet()})
	admin, user := p.Admin(t), p.User(t)
	h := newHook(t)
	const root = "/admin/v1/"
	text := func(a map[string]any, name string) string { s, _ := a[name].(string); return s }

	made := p.Want(t, http.StatusCreated, "POST", root+"alert-channels",
		object{"name": "hook", "kind": "webhook", "url": h.URL + "/canary-path", "secret": h.secret}, admin.Auth()...)
	ch := text(made.JSON(t), "id")
	channelPath := root + "alert-channels/" + ch
	p.Want(t, http.StatusOK, "POST", channelPath+"/test", nil, admin.Auth()...)
	h.mu.Lock()
	if len(h.events) != 1 || h.events[0] != "alert.test" || len(h.wrong) > 0 {
		t.Errorf("%v, %v", h.events, h.wrong)
	}
	h.status = http.StatusTeapot
	h.mu.Unlock()
	failed := p.Want(t, http.StatusBadGateway, "POST", channelPath+"/test", nil, admin.Auth()...)
	if failed.JSON(t)["code"] != "alert.test_failed" || !strings.Contains(string(failed.Body), "418") {
		t.Errorf("%s", failed.Body)
	}

	rule := object{"name": "keys", "signal": "key_expiry", "threshold": 7, "channels": []string{ch}}
	r := text(p.Want(t, http.StatusCreated, "POST", root+"alert-rules", rule, admin.Auth()...).JSON(t), "id")
	rulePath := root + "alert-rules/" + r
	p.Want(t, http.StatusOK, "GET", rulePath, nil, admin.Auth()...)
	p.Want(t, http.StatusOK, "PUT", rulePath, rule, admin.Auth()...)
	p.Want(t, http.StatusConflict, "POST", root+"alert-rules", rule, admin.Auth()...)
	p.Want(t, http.StatusConflict, "DELETE", channelPath, nil, admin.Auth()...)
	silence := object{"rule_id": r, "ends": time.Now().Add(time.Hour).UTC().Format(time.RFC3339)}
	s := text(p.Want(t, http.StatusCreated, "POST", root+"alert-silences", silence, admin.Auth()...).JSON(t), "id")

	const none = "01890a5d-ac96-8748-8cce-b302099a8057"
	type operation struct {
		method, path string
		body         any
	}
	operations := []operation{
		{"GET", "alert-rules", nil}, {"POST", "alert-rules", rule}, {"GET", "alert-rules/" + none, nil}, {"PUT", "alert-rules/" + none, rule},
		{"DELETE", "alert-rules/" + none, nil}, {"GET", "alert-channels", nil}, {"POST", "alert-channels", object{"name": "x", "kind": "slack", "url": h.URL}},
		{"GET", "alert-channels/" + none, nil}, {"PUT", "alert-channels/" + none, object{"name": "x"}}, {"DELETE", "alert-channels/" + none, nil},
		{"POST", "alert-channels/" + none + "/test", nil}, {"GET", "alerts", nil}, {"GET", "alerts/" + none, nil}, {"GET", "alert-silences", nil},
		{"POST", "alert-silences", object{"rule_id": none, "ends": silence["ends"]}}, {"DELETE", "alert-silences/" + none, nil},
		{"GET", "alert-deliveries", nil}, {"POST", "alert-deliveries/" + none + "/retry", nil},
	}
	for _, o := range operations {
		p.Want(t, http.StatusUnauthorized, o.method, root+o.path, o.body)
		p.Want(t, http.StatusForbidden, o.method, root+o.path, o.body, user.Auth()...)
		if strings.Contains(o.path, none) || o.path == "alert-silences" && o.method == "POST" {
			p.Want(t, http.StatusNotFound, o.method, root+o.path, o.body, admin.Auth()...)
		}
		if o.method == "GET" && !strings.Contains(o.path, none) {
			a := p.Want(t, http.StatusOK, o.method, root+o.path, nil, admin.Auth()...)
			if strings.Contains(string(a.Body), "canary") || strings.Contains(string(a.Body), h.secret) {
				t.Errorf("%s shows a secret: %s", o.path, a.Body)
			}
			p.Want(t, http.StatusBadRequest, o.method, root+o.path+"?limit=x", nil, admin.Auth()...)
		}
		if o.body != nil {
			p.Want(t, http.StatusUnsupportedMediaType, o.method, root+o.path, o.body, admin.With("Content-Type", "text/plain")...)
			p.Want(t, http.StatusBadRequest, o.method, root+o.path, object{"nonsense": 1}, admin.Auth()...)
		}
	}
	for _, url := range []string{"http://169.254.169.254/", "http://10.0.0.1/", "file:///etc/passwd", "http://0x0a000001/", "http://[::1]/"} {
		p.Want(t, http.StatusBadRequest, "POST", root+"alert-channels", object{"name": "inside", "kind": "slack", "url": url}, admin.Auth()...)
	}

	p.Want(t, http.StatusNoContent, "DELETE", root+"alert-silences/"+s, nil, admin.Auth()...)
	p.Want(t, http.StatusNoContent, "DELETE", rulePath, nil, admin.Auth()...)
	p.Want(t, http.StatusOK, "PUT", channelPath, object{"name": "hook again"}, admin.Auth()...)
	p.Want(t, http.StatusNoContent, "DELETE", channelPath, nil, admin.Auth()...)
	audit := string(p.Want(t, http.StatusOK, "GET", "/audit?limit=200", nil, admin.Auth()...).Body)
	for _, action := range []string{
		"alert_channel.created", "alert_channel.updated", "alert_channel.tested", "alert_channel.deleted", "alert_rule.created", "alert_rule.updated",
		"alert_rule.deleted", "alert_silence.created", "alert_silence.ended",
	} {
		if !strings.Contains(audit, action) {
			t.Errorf("the audit log lacks %s", action)
		}
	}
	if strings.Contains(audit+p.Log.String(), "canary") {
		t.Error("the URL is in the audit log or in the log")
	}
}

// alertsSet is the configuration of a program that may send to this machine.
func alertsSet() map[string]string {
	set := roomy()
	set["alerts.allow_networks"] = "127.0.0.0/8"
	return set
}

// What is full or taken is said, and what was given up can be sent again.
func TestAlertsSayWhatIsTaken(t *testing.T) {
	p := start(t, apptest.Options{Set: alertsSet()})
	admin, h := p.Admin(t).Auth(), newHook(t)
	const root = "/admin/v1/"
	channel := func(name string) string {
		return p.Want(t, http.StatusCreated, "POST", root+"alert-channels",
			object{"name": name, "kind": "webhook", "url": h.URL, "secret": h.secret}, admin...).Text(t, "id")
	}
	one, two := channel("one"), channel("two")
	p.Want(t, http.StatusConflict, "POST", root+"alert-channels", object{"name": "mail", "kind": "email", "recipients": []string{"a@example.com"}}, admin...)
	p.Want(t, http.StatusOK, "GET", root+"alert-channels/"+one, nil, admin...)
	p.Want(t, http.StatusConflict, "PUT", root+"alert-channels/"+two, object{"name": "one"}, admin...)
	rule := func(name string) object {
		return object{"name": name, "signal": "key_expiry", "threshold": 7, "channels": []string{one}}
	}
	p.Want(t, http.StatusCreated, "POST", root+"alert-rules", rule("a"), admin...)
	b := p.Want(t, http.StatusCreated, "POST", root+"alert-rules", rule("b"), admin...).Text(t, "id")
	p.Want(t, http.StatusConflict, "PUT", root+"alert-rules/"+b, rule("a"), admin...)

	const alert, delivery = "01890a5d-ac96-8748-8cce-b302099a8001", "01890a5d-ac96-8748-8cce-b302099a8002"
	db := apptest.Connect(t, p.DatabaseURL)
	for _, statement := range []string{
		`INSERT INTO alerts (id, rule_id, state, alert, fired_at, resolved_at) VALUES ('` + alert + `', '` + b + `', 'resolved', '{}', now(), now())`,
		`INSERT INTO alert_deliveries (id, alert_id, channel_id, event, notification, state, finished_at)
			VALUES ('` + delivery + `', '` + alert + `', '` + one + `', 'alert.resolved', '{}', 'dead', now())`,
		`INSERT INTO alert_silences (id, begins, ends, comment, created_by, created_at)
			SELECT gen_random_uuid(), now(), now() + interval '1 hour', '', '', now() FROM generate_series(1, 500)`,
	} {
		if _, err := db.Exec(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	p.Want(t, http.StatusOK, "GET", root+"alerts/"+alert, nil, admin...)
	p.Want(t, http.StatusOK, "POST", root+"alert-deliveries/"+delivery+"/retry", nil, admin...)
	ends := time.Now().Add(time.Hour).UTC().Format(time.RFC3339)
	p.Want(t, http.StatusConflict, "POST", root+"alert-silences", object{"ends": ends}, admin...)
}

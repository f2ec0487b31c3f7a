package keysapi

import (
	"context"
	"encoding/json"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/apikey"
	"github.com/keywarden/keywarden/pkg/httpapi"
	"github.com/keywarden/keywarden/pkg/keyguard"
	"github.com/keywarden/keywarden/pkg/seal"
)

// reported takes reports.
type reported struct {
	keys []string
	err  error
}

func (r *reported) Report(_ context.Context, key seal.Secret, _ string, _ netip.Addr) error {
	r.keys = append(r.keys, key.Reveal())
	return r.err
}

func (r *reported) Release(context.Context, string) (apikey.Key, error) { return apikey.Key{}, r.err }

func TestReportNeedsTheKeyAndNothingElse(t *testing.T) {
	rules, err := keyguard.NewRules("kw")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		body   string
		err    error
		status int
		asked  int
	}{
		{`{"key":"kw_live_secret"}`, nil, 202, 1},
		{`{"key":"kw_live_secret","note":"gist"}`, nil, 202, 1},
		{`{"key":"kw_live_secret"}`, access.ErrThrottled, 429, 1},
		{`{"key":"kw_live_secret"}`, access.ErrUndecided, 503, 1},
		{`{"key":""}`, nil, 400, 0},
		{`{}`, nil, 400, 0},
		{`{"key":["kw_live_secret"]}`, nil, 400, 0},
		{`{"key":"kw_live_secret","user":"x"}`, nil, 400, 0},
	} {
		r := &reported{err: c.err}
		engine := httpapi.NewEngine(1<<20, httpapi.Nothing)
		(&Safety{Reports: r, Rules: rules, Guard: &httpapi.Guard{}}).Mount(engine)
		request := httptest.NewRequest("POST", "/keys/report", strings.NewReader(c.body))
		request.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		engine.ServeHTTP(w, request)
		if w.Code != c.status || len(r.keys) != c.asked || strings.Contains(w.Body.String(), "secret") {
			t.Errorf("%s: status %d, asked %d times: %s", c.body, w.Code, len(r.keys), w.Body)
		}
	}
}

func TestRulesAreServedToEverybody(t *testing.T) {
	rules, err := keyguard.NewRules("kw")
	if err != nil {
		t.Fatal(err)
	}
	engine := httpapi.NewEngine(1<<20, httpapi.Nothing)
	(&Safety{Reports: &reported{}, Rules: rules, Guard: &httpapi.Guard{}}).Mount(engine)
	for path, want := range map[string][]byte{
		"key-format.json": rules.Format, "github.json": rules.GitHub, "gitleaks.toml": rules.Gitleaks, "trufflehog.yaml": rules.TruffleHog,
	} {
		w := httptest.NewRecorder()
		engine.ServeHTTP(w, httptest.NewRequest("GET", "/.well-known/keywarden-"+path, nil))
		if w.Code != 200 || w.Body.String() != string(want) || strings.HasSuffix(path, "json") && !json.Valid(w.Body.Bytes()) {
			t.Errorf("%s: status %d: %s", path, w.Code, w.Body)
		}
	}
}

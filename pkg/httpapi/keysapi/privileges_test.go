package keysapi

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/apikey"
	"github.com/keywarden/keywarden/pkg/audit"
	"github.com/keywarden/keywarden/pkg/httpapi"
	"github.com/keywarden/keywarden/pkg/privilege"
	"github.com/keywarden/keywarden/pkg/throttle"
	"github.com/keywarden/keywarden/pkg/usage"
)

var noon = time.Date(2030, 1, 1, 12, 0, 30, 0, time.UTC)

// reviewed is one key "k" of the user "u", with what is known of it, and one caller.
type reviewed struct {
	caller   access.Principal
	granted  []string
	known    privilege.Recorded
	err      error // of what is recorded
	usageErr error
	queries  []usage.Query
	used     map[string]bool // scopes that the call has needed
}

func (r *reviewed) Authenticate(*http.Request, access.Methods) (*access.Principal, error) {
	return &r.caller, nil
}

func (r *reviewed) Get(_ context.Context, owner, id string) (apikey.Key, error) {
	if id != "k" || owner != "" && owner != "u" {
		return apikey.Key{}, apikey.ErrNotFound
	}
	return apikey.Key{ID: "k", UserID: "u", Scopes: r.granted}, nil
}

func (r *reviewed) KeyScopes(context.Context, string) (privilege.Recorded, error) {
	return r.known, r.err
}

func (r *reviewed) ReadUsage(_ context.Context, q usage.Query) (usage.Report, error) {
	r.queries = append(r.queries, q)
	group := func(route string, n int64) usage.Group {
		return usage.Group{Values: map[usage.Dimension]string{usage.ByRoute: route}, Totals: usage.Totals{Requests: n}}
	}
	if noon.Sub(q.From) < 31*24*time.Hour {
		return usage.Report{Groups: []usage.Group{group("orders", 2)}}, r.usageErr
	}
	return usage.Report{Groups: []usage.Group{group("people", 9), group("orders", 3)}}, r.usageErr
}

func (r *reviewed) ask(t *testing.T, id string) (int, KeyPrivileges) {
	t.Helper()
	slices.Sort(r.caller.Scopes)
	roles, err := access.NewRoles([]string{"orders:read", "orders:write"})
	if err != nil {
		t.Fatal(err)
	}
	denials, err := throttle.New(10, time.Hour, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	r.used = map[string]bool{}
	engine := httpapi.NewEngine(1<<20, httpapi.Nothing)
	(&Privileges{Keys: r, Scopes: r, Usage: r, Roles: roles, Now: func() time.Time { return noon }, Guard: &httpapi.Guard{
		Auth: r, Record: func(context.Context, audit.Entry) error { return nil }, Denials: denials, Logger: slog.New(slog.DiscardHandler),
		Used: func(_ *access.Principal, scope string) { r.used[scope] = true },
	}}).Mount(engine)
	w := httptest.NewRecorder()
	engine.ServeHTTP(w, httptest.NewRequest("GET", "/api-keys/"+id+"/privileges", nil))
	var out KeyPrivileges
	dec := json.NewDecoder(strings.NewReader(w.Body.String()))
	if w.Code == http.StatusOK {
		dec.DisallowUnknownFields()
	}
	if err := dec.Decode(&out); err != nil {
		t.Fatalf("%v: %s", err, w.Body)
	}
	return w.Code, out
}

func TestPrivilegesTellWhatAKeyCouldDoWithout(t *testing.T) {
	day := 24 * time.Hour
	minute := noon.Add(-day).Truncate(time.Minute)
	r := &reviewed{
		caller:  access.Principal{Kind: access.KindUser, UserID: "u", Scopes: []string{access.ScopeKeysRead, access.ScopeUsageRead}},
		granted: []string{"orders:write", "orders:read", "audit:read"},
		known:   privilege.Recorded{Since: noon.Add(-60 * day), OwnerRole: access.RoleUser, LastUsed: map[string]time.Time{"orders:read": minute}},
	}
	status, out := r.ask(t, "k")
	want := KeyPrivileges{
		KeyID: "k", RecordedSince: noon.Add(-60 * day),
		Scopes:            []ScopeUse{{"orders:read", &minute, "used"}, {"orders:write", nil, "unused"}},
		IneffectiveScopes: []string{"audit:read"}, SuggestedScopes: []string{"orders:read"}, Narrower: true,
		Routes: []RouteUse{{"people", 0, 9}, {"orders", 2, 3}},
	}
	if diff := cmp.Diff(want, out); status != http.StatusOK || diff != "" {
		t.Errorf("status %d:\n%s", status, diff)
	}
	for _, q := range r.queries {
		if q.Filter[usage.ByKey] != "k" || !q.From.Equal(q.From.Truncate(time.Hour)) || !q.To.After(noon) {
			t.Errorf("asked for %+v", q)
		}
	}
}

func TestRoutesAreShownToWhoMaySeeUsage(t *testing.T) {
	read, admin := access.ScopeKeysRead, access.ScopeKeysAdmin
	for _, c := range []struct {
		name   string
		caller access.Principal
		id     string
		err    error
		status int
		routes string   // why there are none, empty when there are
		needed []string // scopes
	}{
		{"owner", access.Principal{Kind: access.KindUser, UserID: "u", Scopes: []string{read, access.ScopeUsageRead}}, "k", nil, 200, "", []string{read, access.ScopeUsageRead}},
		{"the key itself", access.Principal{Kind: access.KindKey, UserID: "u", KeyID: "k", Scopes: []string{read}}, "k", nil, 200, "", []string{read}},
		{"another key of the owner", access.Principal{Kind: access.KindKey, UserID: "u", KeyID: "l", Scopes: []string{read}}, "k", nil, 200, "scope_missing", []string{read}},
		{"admin", access.Principal{Kind: access.KindUser, UserID: "a", Scopes: []string{"*"}}, "k", nil, 200, "", []string{access.ScopeConfigRead, admin, read}},
		{"a key for admin work", access.Principal{Kind: access.KindKey, UserID: "a", KeyID: "l", Scopes: []string{read, admin}}, "k", nil, 200, "scope_missing", []string{admin, read}},
		{"too much to add up", access.Principal{Kind: access.KindUser, UserID: "u", Scopes: []string{read, access.ScopeUsageRead}}, "k", usage.ErrTooMuch, 200, "too_much", []string{read, access.ScopeUsageRead}},
		{"another user", access.Principal{Kind: access.KindUser, UserID: "v", Scopes: []string{read, access.ScopeUsageRead}}, "k", nil, 404, "", []string{read}},
		{"unknown key", access.Principal{Kind: access.KindUser, UserID: "a", Scopes: []string{"*"}}, "l", nil, 404, "", []string{read}},
		{"without keys:read", access.Principal{Kind: access.KindKey, UserID: "u", KeyID: "k"}, "k", nil, 403, "", nil},
		{"broken", access.Principal{Kind: access.KindUser, UserID: "u", Scopes: []string{read, access.ScopeUsageRead}}, "k", errors.New("broken"), 500, "", []string{read, access.ScopeUsageRead}},
	} {
		r := &reviewed{caller: c.caller, usageErr: c.err, known: privilege.Recorded{OwnerRole: access.RoleUser}}
		status, out := r.ask(t, c.id)
		if status != c.status || out.RoutesOmitted != c.routes || (out.Routes == nil) != (c.routes != "" || status != 200) {
			t.Errorf("%s: status %d, routes %v omitted for %q", c.name, status, out.Routes, out.RoutesOmitted)
		}
		if diff := cmp.Diff(c.needed, slices.Sorted(maps.Keys(r.used))); diff != "" {
			t.Errorf("%s: scopes that were needed:\n%s", c.name, diff)
		}
		if status != 200 && len(out.Scopes) > 0 {
			t.Errorf("%s: status %d with scopes %v", c.name, status, out.Scopes)
		}
	}
}

package quotaapi

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

	"github.com/gin-gonic/gin"
	"github.com/google/go-cmp/cmp"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/audit"
	"github.com/keywarden/keywarden/pkg/httpapi"
	"github.com/keywarden/keywarden/pkg/quota"
	"github.com/keywarden/keywarden/pkg/throttle"
)

var at = time.Date(2026, 5, 4, 10, 0, 0, 0, time.UTC)

// ledger notes what it is asked.
type ledger struct{ asked []string }

func (l *ledger) note(format string, args ...any) {
	l.asked = append(l.asked, fmt.Sprintf(format, args...))
}

func account(id string) quota.Account {
	return quota.Account{
		ID: id, Identity: quota.Identity{Quota: "monthly", Scope: "orders", Period: "month UTC", Kind: "key", Subject: "k"},
		Span: quota.Span{Begins: at, Ends: at.Add(time.Hour)}, Limit: 10, TopUp: 5, Used: 12, Capacity: 15,
	}
}

func (l *ledger) List(_ context.Context, f quota.Filter) ([]quota.Account, error) {
	l.note("list %+v", f)
	var list []quota.Account
	for i := range min(3, f.Limit) {
		list = append(list, account(fmt.Sprint("id ", i)))
	}
	return list, nil
}

func (l *ledger) Get(_ context.Context, id string) (quota.Account, error) {
	l.note("get %s", id)
	if id == "unknown" {
		return quota.Account{}, quota.ErrNotFound
	}
	return account(id), nil
}

func (l *ledger) TopUp(_ context.Context, id string, units int64) (quota.Account, error) {
	l.note("top up %s by %d", id, units)
	return account(id), nil
}

func (l *ledger) Reset(_ context.Context, id string) (quota.Account, error) {
	l.note("reset %s", id)
	return account(id), nil
}

func (l *ledger) Events(_ context.Context, before int64, limit int) ([]quota.Event, error) {
	l.note("events before %d, at most %d", before, limit)
	var list []quota.Event
	for i := range min(3, limit) {
		list = append(list, quota.Event{Number: int64(30 - i), At: at, Level: 80, Used: 8, Capacity: 10})
	}
	return list, nil
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

func newAPI(t *testing.T, l *ledger) http.Handler {
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
			"user": person(access.RoleUser), "viewer": person(access.RoleViewer), "operator": person(access.RoleOperator),
			"admin": person(access.RoleAdmin),
			"key":   {Kind: access.KindKey, UserID: "u", KeyID: "k"}, "reading key": {Kind: access.KindKey, UserID: "u", KeyID: "k", Scopes: []string{access.ScopeUsageRead}},
		},
		Record: func(context.Context, audit.Entry) error { return nil }, Denials: denials, Logger: slog.New(slog.DiscardHandler),
	}
	cursors := httpapi.NewCursors([]byte("key"))
	engine := httpapi.NewEngine(1<<20, httpapi.Nothing)
	for _, h := range []interface{ Mount(r gin.IRouter) }{
		&Handler{Accounts: l, Guard: guard, Cursors: cursors}, &Admin{Accounts: l, Guard: guard, Cursors: cursors},
	} {
		h.Mount(engine)
	}
	return engine
}

func call(t *testing.T, h http.Handler, caller, method, target, body string) (int, []byte) {
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
	return w.Code, w.Body.Bytes()
}

func TestWhoMaySeeAndChangeWhat(t *testing.T) {
	for _, c := range []struct {
		caller, method, target, body string
		status                       int
		asked                        string
	}{
		{"", "GET", "/quotas", "", 401, ""},
		{"user", "GET", "/quotas", "", 200, "list {Quota: Kind: Subject: Owner:u OwnerKey: After: Limit:51}"},
		{"admin", "GET", "/quotas", "", 200, "list {Quota: Kind: Subject: Owner:u OwnerKey: After: Limit:51}"},
		{"key", "GET", "/quotas", "", 200, "list {Quota: Kind: Subject: Owner:u OwnerKey:k After: Limit:51}"},
		{"reading key", "GET", "/quotas", "", 200, "list {Quota: Kind: Subject: Owner:u OwnerKey: After: Limit:51}"},
		{"user", "GET", "/quotas?subject=somebody", "", 400, ""},
		{"", "GET", "/admin/v1/quotas", "", 401, ""},
		{"user", "GET", "/admin/v1/quotas", "", 403, ""},
		{"reading key", "GET", "/admin/v1/quotas/a", "", 403, ""},
		{"viewer", "GET", "/admin/v1/quotas?quota=q&by=key&subject=s&limit=7", "", 200, "list {Quota:q Kind:key Subject:s Owner: OwnerKey: After: Limit:8}"},
		{"viewer", "GET", "/admin/v1/quotas?by=subscription&limit=7", "", 200, "list {Quota: Kind:subscription Subject: Owner: OwnerKey: After: Limit:8}"},
		{"viewer", "GET", "/admin/v1/quotas?by=subscriptions", "", 400, ""},
		{"viewer", "GET", "/admin/v1/quotas?subject=" + strings.Repeat("x", 129), "", 400, ""},
		{"viewer", "GET", "/admin/v1/quotas?cursor=x", "", 400, ""},
		{"viewer", "GET", "/admin/v1/quotas/a", "", 200, "get a"},
		{"viewer", "GET", "/admin/v1/quotas/unknown", "", 404, "get unknown"},
		{"viewer", "POST", "/admin/v1/quotas/a/reset", "", 403, ""},
		{"viewer", "POST", "/admin/v1/quotas/a/top-up", `{"units":1}`, 403, ""},
		{"user", "POST", "/admin/v1/quotas/a/reset", "", 403, ""},
		{"operator", "POST", "/admin/v1/quotas/a/reset", "", 200, "reset a"},
		{"operator", "POST", "/admin/v1/quotas/a/top-up", `{"units":7}`, 200, "top up a by 7"},
		{"operator", "POST", "/admin/v1/quotas/a/top-up", `{"unit":7}`, 400, ""},
		{"operator", "POST", "/admin/v1/quotas/a/top-up", `{"units":1.5}`, 400, ""},
		{"operator", "POST", "/admin/v1/quotas/a/top-up", `{"units":99999999999999999999}`, 400, ""},
		{"operator", "POST", "/admin/v1/quotas/a/top-up", "", 415, ""},
		{"user", "GET", "/admin/v1/quota-events", "", 403, ""},
		{"viewer", "GET", "/admin/v1/quota-events", "", 200, "events before 0, at most 51"},
	} {
		l := &ledger{}
		status, body := call(t, newAPI(t, l), c.caller, c.method, c.target, c.body)
		if got := strings.Join(l.asked, "; "); status != c.status || got != c.asked {
			t.Errorf("%s %s by %q: status %d, want %d; asked %q, want %q: %s", c.method, c.target, c.caller, status, c.status, got, c.asked, body)
		}
	}
}

func TestAccountsAreShown(t *testing.T) {
	_, body := call(t, newAPI(t, &ledger{}), "viewer", "GET", "/admin/v1/quotas/a", "")
	var got Account
	if err := json.Unmarshal(body, &got); err != nil {
		t.Fatal(err)
	}
	want := Account{
		ID: "a", Quota: "monthly", Route: "orders", By: "key", Subject: "k", Period: "month UTC", Begins: at, Ends: at.Add(time.Hour),
		Limit: 10, TopUp: 5, Used: 12, Remaining: 3,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestPagesFollowOneAnother(t *testing.T) {
	l := &ledger{}
	api := newAPI(t, l)
	for _, c := range []struct{ caller, target, asked string }{
		{"viewer", "/admin/v1/quotas?limit=2", "After:id 1 Limit:3"}, {"user", "/quotas?limit=2", "After:id 1 Limit:3"},
		{"viewer", "/admin/v1/quota-events?limit=2", "before 29, at most 3"},
	} {
		_, body := call(t, api, c.caller, "GET", c.target, "")
		var page struct {
			Items []json.RawMessage `json:"items"`
			Next  string            `json:"next_cursor"`
		}
		if err := json.Unmarshal(body, &page); err != nil || len(page.Items) != 2 || page.Next == "" {
			t.Fatalf("%s: %s, %v", c.target, body, err)
		}
		status, _ := call(t, api, c.caller, "GET", c.target+"&cursor="+page.Next, "")
		if got := l.asked[len(l.asked)-1]; status != 200 || !strings.Contains(got, c.asked) {
			t.Errorf("%s: status %d, asked %s", c.target, status, got)
		}
	}
}

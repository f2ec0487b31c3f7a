package posture

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keywarden/keywarden/pkg/spec"
)

var now = time.Date(2026, 5, 4, 10, 0, 0, 0, time.UTC)

func ago(d time.Duration) *time.Time { t := now.Add(-d); return &t }

func ids(found []Finding) []string {
	list := []string{}
	for _, f := range found {
		list = append(list, string(f.Severity)+" "+f.ID)
	}
	return list
}

func TestDocumentIsSearchedForOpenRoutesAndPlaintext(t *testing.T) {
	doc, err := spec.Parse("test.yaml", []byte(`
version: 1
policy_sets:
  - {name: anyone, auth: {mode: none}}
services:
  - {name: near, url: "http://127.0.0.1:8081"}
  - {name: local, url: "http://localhost:8081"}
  - {name: sealed, url: "https://orders.example.com"}
  - {name: plain, url: "http://10.1.2.3"}
  - {name: several, targets: [{url: "http://[::1]:1"}, {url: "http://a.example.com"}]}
routes:
  - {name: closed, match: {path: {prefix: /a}}, service: near}
  - {name: reads, match: {path: {prefix: /b}, methods: [GET]}, service: near, use: [anyone]}
  - {name: writes, match: {path: {prefix: /c}}, service: near, auth: {mode: none}}
  - {name: optional, match: {path: {prefix: /d}, methods: [POST]}, service: near, auth: {mode: optional}}
  - {name: shadow, match: {path: {prefix: /e}, methods: [GET]}, service: near, auth: {mode: shadow}}
  - {name: narrow, match: {path: {prefix: /f}}, service: near, use: [anyone], allow_methods: {methods: [GET]}}
`))
	if err != nil {
		t.Fatal(err)
	}
	got := ids(Find(Facts{Document: &doc, Listeners: Listeners{Addr: "127.0.0.1:80"}}, now))
	want := []string{
		"high route.open-writes:optional", "high route.open-writes:writes",
		"medium route.open:narrow", "medium route.open:reads", "medium route.open:shadow",
		"medium service.plaintext:plain", "medium service.plaintext:several",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestRoutesAtPathsOfThePlatformAreFound(t *testing.T) {
	doc, err := spec.Parse("test.yaml", []byte(`
version: 1
services:
  - {name: near, url: "http://127.0.0.1:8081"}
routes:
  - {name: below, match: {path: {prefix: /users/photos}}, service: near}
  - {name: exact, match: {path: {exact: /users}}, service: near}
  - {name: longer, match: {path: {prefix: /users-of-mine}}, service: near}
  - {name: rest, match: {path: {prefix: /}}, service: near}
`))
	if err != nil {
		t.Fatal(err)
	}
	here := Listeners{Addr: "127.0.0.1:80"}
	if diff := cmp.Diff([]string{"low route.hidden:below", "low route.hidden:exact"}, ids(Find(Facts{Document: &doc, Platform: []string{"auth", "users"}, Listeners: here}, now))); diff != "" {
		t.Error(diff)
	}
	if found := Find(Facts{Document: &doc, Listeners: here}, now); len(found) != 0 {
		t.Errorf("with hosts of its own the platform hides nothing: %v", found)
	}
}

func TestKeysAreSearched(t *testing.T) {
	soon := now.Add(time.Hour)
	for _, c := range []struct {
		name string
		key  Key
		want []string
	}{
		{"good", Key{CreatedAt: *ago(time.Hour), ExpiresAt: &soon}, []string{}},
		{"without end", Key{CreatedAt: *ago(time.Hour)}, []string{"low key.no-expiry:k"}},
		{"unused", Key{CreatedAt: *ago(Idle), ExpiresAt: &soon}, []string{"medium key.unused:k"}},
		{"used", Key{CreatedAt: *ago(2 * Idle), LastUsedAt: ago(Idle - 1), ExpiresAt: &soon}, []string{}},
		{"used long ago", Key{CreatedAt: *ago(2 * Idle), LastUsedAt: ago(Idle), ExpiresAt: &soon}, []string{"medium key.unused:k"}},
		{"wildcard", Key{CreatedAt: now, ExpiresAt: &soon, Scopes: []string{"*"}}, []string{"critical key.wildcard:k"}},
		{"quarantined", Key{CreatedAt: now, ExpiresAt: &soon, QuarantinedAt: ago(1)}, []string{"high key.quarantined:k"}},
		{"canary", Key{CreatedAt: *ago(2 * Idle), Canary: true}, []string{}},
		{"expired", Key{CreatedAt: *ago(2 * Idle), ExpiresAt: ago(0)}, []string{}},
	} {
		c.key.ID = "k"
		got := ids(Find(Facts{Keys: []Key{c.key}, Listeners: Listeners{Addr: "127.0.0.1:80"}}, now))
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s: %s", c.name, diff)
		}
	}
}

func TestListenersAndAdminsAreSearched(t *testing.T) {
	for _, c := range []struct {
		l    Listeners
		want []string
	}{
		{Listeners{Addr: "127.0.0.1:80"}, []string{}},
		{Listeners{Addr: ":80", Operators: "[::1]:9"}, []string{"high listener.plaintext:main"}},
		{Listeners{Addr: ":443", TLS: true}, []string{"low listener.admin-shared:main"}},
		{Listeners{Addr: ":443", TLS: true, Operators: "localhost:9"}, []string{}},
		{Listeners{Addr: ":443", TLS: true, Operators: ":9"}, []string{"high listener.operators-public:operators"}},
	} {
		if diff := cmp.Diff(c.want, ids(Find(Facts{Listeners: c.l}, now))); diff != "" {
			t.Errorf("%+v: %s", c.l, diff)
		}
	}
	got := ids(Find(Facts{Admins: []Admin{{ID: "u"}}, Listeners: Listeners{Addr: "127.0.0.1:80"}}, now))
	if diff := cmp.Diff([]string{"medium admin.idle:u"}, got); diff != "" {
		t.Error(diff)
	}
}

func TestReportIsBoundedAndCountsEverything(t *testing.T) {
	f := Facts{Keys: []Key{{ID: "a", CreatedAt: now}, {ID: "b", CreatedAt: now}, {ID: "c", CreatedAt: now}}, Listeners: Listeners{Addr: ":80", Operators: ":9"}}
	r := Make(f, Query{Limit: 1, Suppress: []string{"key.no-expiry:b", "unknown"}}, now)
	if len(r.Findings) != 1 || !r.Truncated || r.Suppressed != 1 || r.Counts[Low] != 2 || r.Counts[High] != 2 || r.Counts[Critical] != 0 {
		t.Errorf("%+v", r)
	}
	r = Make(f, Query{Limit: 10, Severity: High}, now)
	if len(r.Findings) != 2 || r.Truncated || r.Counts[Low] != 3 {
		t.Errorf("%+v", r)
	}
}

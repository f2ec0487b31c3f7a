package app_test

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/keywarden/keywarden/pkg/app/apptest"
	"github.com/keywarden/keywarden/pkg/seal"
)

// R92: what operators have stored, secrets of services and the addresses of alert
// channels, is sealed for its own row: in the place of another one it opens for nobody,
// and neither does an older value in the place of a newer one.
func TestStoredSecretsCannotBeMoved(t *testing.T) {
	var seen []string
	backend := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		seen = append(seen, r.Header.Get("X-Warehouse-Token"))
	}))
	t.Cleanup(backend.Close)
	options := apptest.Options{Gateway: secretDocument(backend.URL), Set: alertsSet()}
	p := apptest.Start(t, options)
	options.DatabaseURL, options.MasterKey = p.DatabaseURL, p.MasterKey
	admin, first, second := p.Admin(t).Auth(), newHook(t), newHook(t)
	put := func(name, environment, value string) {
		t.Helper()
		p.Want(t, http.StatusOK, "PUT", "/admin/v1/secrets/"+name, object{"value": value, "environment": environment}, admin...)
	}
	put("warehouse", "default", "the-old-value")
	put("other", "default", "the-value-of-another")
	put("warehouse", "elsewhere", "the-value-elsewhere")
	var channels []string
	for name, h := range map[string]*hook{"one": first, "two": second} {
		a := p.Want(t, http.StatusCreated, "POST", channelsPath, object{"name": name, "kind": "webhook", "url": h.URL, "secret": h.secret}, admin...)
		channels = append(channels, a.Text(t, "id"))
	}
	db := apptest.Connect(t, p.DatabaseURL)
	one := func(sql string, arguments ...any) {
		t.Helper()
		if tag, err := db.Exec(t.Context(), sql, arguments...); err != nil || tag.RowsAffected() == 0 {
			t.Fatalf("%s: %d rows, %v", sql, tag.RowsAffected(), err)
		}
	}
	const of = `SELECT sealed FROM secrets WHERE environment = $1 AND name = $2`
	sealed := func(environment, name string) (v []byte) {
		t.Helper()
		if err := db.QueryRow(t.Context(), of, environment, name).Scan(&v); err != nil {
			t.Fatal(err)
		}
		return v
	}
	old := sealed("default", "warehouse")
	put("warehouse", "default", "the-new-value")
	right := sealed("default", "warehouse")

	// asked is what the service has got from a replica that has just begun.
	asked := func() string {
		t.Helper()
		fresh := apptest.Start(t, options)
		seen = nil
		status := fresh.Call(t, "GET", "/stock", nil).Status
		if status == http.StatusServiceUnavailable && seen == nil {
			return "nothing"
		}
		if status != http.StatusOK || len(seen) != 1 {
			t.Fatalf("status %d, the service has seen %q", status, seen)
		}
		return seen[0]
	}
	flipped := bytes.Clone(right)
	flipped[len(flipped)-1] ^= 1
	for what, value := range map[string][]byte{
		"another secret's": sealed("default", "other"), "another environment's": sealed("elsewhere", "warehouse"), "the one before": old,
		"one with a bit changed": flipped, "nothing": {}, "plain text": []byte("the-new-value"),
	} {
		one(`UPDATE secrets SET sealed = $1 WHERE environment = 'default' AND name = 'warehouse'`, value)
		if got := asked(); got != "nothing" {
			t.Errorf("with the value of %s the service gets %q", what, got)
		}
	}
	one(`UPDATE secrets SET sealed = $1 WHERE environment = 'default' AND name = 'warehouse'`, right)
	if got := asked(); got != "Bearer the-new-value" {
		t.Errorf("with what belongs there the service gets %q", got)
	}

	one(`UPDATE alert_channels c SET sealed = d.sealed FROM alert_channels d WHERE d.id <> c.id`)
	for _, id := range channels {
		a := p.Call(t, "POST", channelsPath+"/"+id+"/test", nil, admin...)
		if a.Status/100 != 5 || strings.Contains(string(a.Body), "127.0.0.1") {
			t.Errorf("a moved channel: status %d: %s", a.Status, a.Body)
		}
	}
	if n := len(first.events) + len(second.events); n > 0 {
		t.Errorf("%d notifications were sent to another channel's address", n)
	}
}

// R92, LEAK-06: after a master key was replaced, everything is sealed under the new one
// once the program has begun, and the old one is needed no longer; without either,
// nothing opens.
func TestReplacedMasterKeyIsNotNeededForLong(t *testing.T) {
	backend := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	t.Cleanup(backend.Close)
	options := apptest.Options{Gateway: secretDocument(backend.URL), Set: alertsSet()}
	p := apptest.Start(t, options)
	admin, h := p.Admin(t), newHook(t)
	p.Want(t, http.StatusOK, "PUT", "/admin/v1/secrets/warehouse", object{"value": "value"}, admin.Auth()...)
	id := p.Want(t, http.StatusCreated, "POST", channelsPath, object{"name": "hook", "kind": "webhook", "url": h.URL, "secret": h.secret}, admin.Auth()...).Text(t, "id")
	works := func(p *apptest.Program) {
		t.Helper()
		p.SignIn(t, admin)
		p.Want(t, http.StatusOK, "GET", "/stock", nil)
		p.Want(t, http.StatusOK, "POST", channelsPath+"/"+id+"/test", nil, admin.Auth()...)
	}
	works(p)
	before := p.MasterKey
	if err := p.Stop(); err != nil {
		t.Fatal(err)
	}
	db := apptest.Connect(t, p.DatabaseURL)
	options.DatabaseURL, options.MasterKey = p.DatabaseURL, seal.NewMasterKey()
	options.Set["security.master_keys_retired"] = before.Reveal()
	next := apptest.Start(t, options)
	works(next)
	apptest.Eventually(t, "nothing is under the old key any more", func() bool {
		var old int
		err := db.QueryRow(context.WithoutCancel(t.Context()),
			`SELECT count(*) FROM (SELECT key_id FROM secrets UNION ALL SELECT key_id FROM alert_channels) x WHERE key_id <> $1`, next.Platform.Ring.ID()).Scan(&old)
		if err != nil {
			t.Fatal(err)
		}
		return old == 0
	})
	if err := next.Stop(); err != nil {
		t.Fatal(err)
	}
	delete(options.Set, "security.master_keys_retired")
	works(apptest.Start(t, options))
}

package access_test

import (
	"errors"
	"net/http"
	"slices"
	"testing"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/problem"
)

func TestGrantOpensByTheMostSpecificName(t *testing.T) {
	g := access.NewGrant(false, []access.Entitlement{
		{Subscription: "all", ProductID: "1", Routes: []string{"people", "shared"}},
		{Subscription: "admin", ProductID: "2", Routes: []string{"people.admin", "people.get", "shared"}},
		{Subscription: "nothing", ProductID: "3"},
	})
	for route, want := range map[string]string{
		"people": "all", "people.list": "all", "people.get": "admin", "people.get.x": "admin", "people.admin": "admin",
		"people.admin.list": "admin", "people.administer": "all", "shared": "all", "peoples": "", "peo": "", ".people": "", "people..": "all",
		"": "", ".": "", "xpeople.get": "",
	} {
		got := ""
		if e := g.For(route); e != nil {
			got = e.Subscription
		}
		if got != want {
			t.Errorf("%q is opened by %q, want %q", route, got, want)
		}
	}
	for id, want := range map[string]bool{"1": true, "2": true, "3": true, "4": false, "": false} {
		if g.Holds(id) != want {
			t.Errorf("holds %q: %v", id, !want)
		}
	}
	if n := testing.AllocsPerRun(100, func() { g.For("people.admin.list.all") }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestGrantOfNobodyOpensNothing(t *testing.T) {
	var none *access.Grant
	suspended := access.NewGrant(true, []access.Entitlement{{ProductID: "1", Routes: []string{"people"}}})
	for _, g := range []*access.Grant{none, suspended, access.NewGrant(false, nil)} {
		if g.For("people") != nil {
			t.Errorf("%+v opens something", g)
		}
	}
	if none.Suspended() || none.Holds("1") || !suspended.Suspended() || !suspended.Holds("1") {
		t.Error("a change of the product must be noticed also by a suspended app")
	}
}

func TestNamesOfARoute(t *testing.T) {
	for route, want := range map[string][]string{
		"people.admin.list": {"people.admin.list", "people.admin", "people"}, "people": {"people"}, "": {""}, ".x": {".x"}, "a..b": {"a..b", "a.", "a"},
	} {
		if got := slices.Collect(access.Names(route)); !slices.Equal(got, want) {
			t.Errorf("%q: %q", route, got)
		}
	}
}

func TestKeyOfAnAppIsAcceptedOnlyWhereItsGrantIsLookedAt(t *testing.T) {
	v := &verifier{answer: &access.Principal{Kind: access.KindKey, UserID: "u", KeyID: "k", App: "a", Scopes: []string{access.ScopeKeysWrite}}}
	for _, header := range []http.Header{{"X-Api-Key": {"kw_x"}}, {"Authorization": {"Bearer kw_x"}}} {
		for _, accept := range []access.Methods{access.AnyMethod, access.MethodKey, access.MethodKey | access.MethodCertificate} {
			p, err := newAuthenticator(v).Authenticate(request(t, header), accept)
			if p != nil || !errors.Is(err, access.ErrAppKey) || problem.From(err).Status() != http.StatusForbidden {
				t.Errorf("accepting %b: %v, %v", accept, p, err)
			}
		}
		if p, err := newAuthenticator(v).Authenticate(request(t, header), access.MethodKey|access.MethodAppKey); p != v.answer || err != nil {
			t.Errorf("got %v, %v", p, err)
		}
		if _, err := newAuthenticator(v).Authenticate(request(t, header), access.MethodAppKey|access.MethodToken); !errors.Is(err, access.ErrMethod) {
			t.Errorf("where keys are not accepted: %v", err)
		}
	}
}

func TestCatalogIsForOperators(t *testing.T) {
	roles, err := access.NewRoles(nil)
	if err != nil {
		t.Fatal(err)
	}
	for role, want := range map[access.Role][4]bool{
		access.RoleUser: {true, true, false, false}, access.RoleViewer: {true, true, true, false},
		access.RoleOperator: {true, true, true, true}, access.RoleAdmin: {true, true, true, true},
	} {
		for i, scope := range []string{access.ScopeAppsRead, access.ScopeAppsWrite, access.ScopeCatalogRead, access.ScopeCatalogWrite} {
			if roles.Holds(role, scope) != want[i] {
				t.Errorf("%s holds %s: %v", role, scope, !want[i])
			}
		}
	}
	if _, err := access.NewRoles([]string{access.ScopeCatalogWrite}); err == nil {
		t.Error("every user may be given catalog:write")
	}
}

package app_test

import (
	"net/http"
	"regexp"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keywarden/keywarden/pkg/app"
	"github.com/keywarden/keywarden/pkg/app/apptest"
	"github.com/keywarden/keywarden/pkg/config"
	"github.com/keywarden/keywarden/pkg/pglocal/pgtest"
	"github.com/keywarden/keywarden/pkg/seal"
)

// routeParameter is a parameter in a path of Gin.
var routeParameter = regexp.MustCompile(`:(\w+)`)

// docs/swagger.json describes what is served, and everything that is served but
// the page that shows it.
func TestEveryRouteIsDocumentedAndEveryDocumentedOneServed(t *testing.T) {
	cfg, err := config.Load(config.Source{Serving: true, Flags: map[string]string{
		"server.addr": "127.0.0.1:0", "database.url": pgtest.New(t), "security.master_key": seal.NewMasterKey().Reveal(),
	}})
	if err != nil {
		t.Fatal(err)
	}
	cfg.Accounts.BcryptCost = 4
	routes, err := app.Routes(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	var served, documented []string
	for _, r := range routes {
		if r.Path != "/swagger/*any" {
			served = append(served, r.Method+" "+routeParameter.ReplaceAllString(r.Path, "{$1}"))
		}
	}
	for _, c := range documentedAPI(t).calls() {
		documented = append(documented, c.method+" "+c.path)
	}
	slices.Sort(served)
	slices.Sort(documented)
	if diff := cmp.Diff(documented, served); diff != "" {
		t.Errorf("routes (-documented +served):\n%s", diff)
	}
}

// What the document says to need a credential refuses without one, whatever else
// is wrong with the call; the rest does not ask for one.
func TestDocumentedSecurityIsTheOneInForce(t *testing.T) {
	p := start(t, apptest.Options{Set: roomy()})
	secured := 0
	for _, c := range documentedAPI(t).calls() {
		t.Run(c.method+" "+c.path, func(t *testing.T) {
			for _, body := range []any{nil, "{"} {
				a := p.Call(t, c.method, c.at(unknownID), body)
				switch {
				case c.Security != nil:
					wantProblem(t, a, http.StatusUnauthorized, "auth.missing")
					if got := a.Header.Get("WWW-Authenticate"); got != challenge {
						t.Errorf("WWW-Authenticate %q", got)
					}
				case a.Status == http.StatusUnauthorized || a.Status == http.StatusForbidden:
					t.Errorf("status %d without a credential", a.Status)
				}
			}
		})
		if c.Security != nil {
			secured++
		}
	}
	if secured < 18 {
		t.Errorf("only %d operations are documented as secured", secured)
	}
}

// What a credential opens is what the document says: an access token where it
// names BearerAuth, an API key where it names ApiKeyAuth.
func TestDocumentedCredentialsAreTheOnesAccepted(t *testing.T) {
	p := start(t, apptest.Options{Set: roomy()})
	for _, c := range documentedAPI(t).calls() {
		if c.Security == nil {
			continue
		}
		t.Run(c.method+" "+c.path, func(t *testing.T) {
			admin := p.Admin(t) // who may go with the call
			key := p.Key(t, admin, map[string]any{"scopes": []string{
				"profile:read", "profile:write", "keys:read", "keys:write", "keys:admin", "users:read", "users:write", "audit:read",
				"config:read", "config:write", "apps:read", "apps:write", "catalog:read", "catalog:write", "alerts:read", "alerts:write", "usage:read",
			}})
			for scheme, auth := range map[string][]string{"BearerAuth": admin.Auth(), "ApiKeyAuth": key.Auth()} {
				named := slices.ContainsFunc(c.Security, func(s map[string][]string) bool { _, ok := s[scheme]; return ok })
				// An unknown id, or no body: the call does nothing, and says why.
				a := p.Call(t, c.method, c.at(unknownID), nil, auth...)
				if accepted := a.Status != http.StatusUnauthorized && a.Status != http.StatusForbidden; accepted != named {
					t.Errorf("%s: documented %t, accepted %t: %d %s", scheme, named, accepted, a.Status, a.Body)
				}
			}
		})
	}
}

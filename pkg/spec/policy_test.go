package spec_test

import (
	"strings"
	"testing"

	"github.com/keywarden/keywarden/pkg/spec"
	"github.com/keywarden/keywarden/pkg/spec/policies"
)

const layered = `
version: 1
services: [{name: a, url: "http://a"}]
defaults:
  max_body: 1MiB
  allow_ips: [10.0.0.0/8]
policy_sets:
  - {name: small, max_body: 1KiB, timeout: 5s}
  - {name: large, max_body: 1GiB}
  - {name: open, auth: {mode: none}, allow_ips: {mode: off}}
routes:
  - {name: plain, match: {path: {exact: /1}}, service: a}
  - {name: sets, match: {path: {exact: /2}}, service: a, use: [small, large]}
  - {name: own, match: {path: {exact: /3}}, service: a, use: [small, open], max_body: 2KiB, deny_ips: [10.1.0.0/16]}
`

func TestPoliciesAreInheritedFromTheNearest(t *testing.T) {
	doc := parse(t, layered)
	effective := map[string]policies.Policies{}
	for _, r := range doc.Routes {
		effective[r.Name] = doc.Effective(&r)
	}
	if p := effective["plain"]; p.MaxBody.Limit != 1<<20 || len(p.AllowIPs.Networks) != 1 || p.Timeout != nil || p.Auth.Mode != policies.AuthRequired {
		t.Errorf("a route that says nothing has %+v", p)
	}
	if p := effective["sets"]; p.MaxBody.Limit != 1<<30 || p.Timeout == nil || p.AllowIPs == nil {
		t.Errorf("the later set does not win, or what only the earlier has is lost: %+v", p)
	}
	if p := effective["own"]; p.MaxBody.Limit != 2<<10 || p.DenyIPs == nil || p.AllowIPs != nil || p.Auth.Mode != policies.AuthNone {
		t.Errorf("the route's own word does not count, or what is off is still there: %+v", p)
	}
}

func TestARouteNobodySpeaksOfHasToBeAuthenticatedFor(t *testing.T) {
	var doc spec.Document
	if p := doc.Effective(&spec.Route{}); p.Auth == nil || p.Auth.Mode != policies.AuthRequired || len(p.Auth.Methods) == 0 {
		t.Errorf("got %+v", p.Auth)
	}
}

func TestPoliciesAreListedInTheOrderTheyAreAsked(t *testing.T) {
	doc := parse(t, layered)
	p := doc.Effective(&doc.Routes[0])
	var names []string
	for _, n := range p.List() {
		names = append(names, n.Name)
		if n.Known != (n.Name == "timeout") {
			t.Errorf("%s: the caller is known: %t", n.Name, n.Known)
		}
	}
	if got := strings.Join(names, " "); got != "allow_ips max_body auth" {
		t.Errorf("got %s", got)
	}
}

func TestMistakesInPoliciesAreNamed(t *testing.T) {
	for _, c := range []struct{ policies, want string }{
		{`allow_ips: {mode: shadwo, networks: [10.0.0.0/8]}`, `routes[0].allow_ips.mode: must be one of enforce, shadow, off, did you mean shadow?`},
		{`use: [smal]`, `routes[0].use[0]: no policy set is named "smal", did you mean small?`},
		{`cors: {origins: ["https://a.test/"]}`, `routes[0].cors.origins[0]: must be an origin`},
		{`cors: {origins: ["*"], credentials: true}`, `routes[0].cors.credentials: cannot be given to every origin`},
		{`cors: {}`, `routes[0].cors.origins: is required`},
		{`fault: {percent: 5}`, `routes[0].fault: must have delay, or abort, or both`},
		{`fault: {percent: 101, abort: 200}`, `routes[0].fault.percent: must be above 0 and at most 100`},
		{`media_types: [json]`, `routes[0].media_types.types[0]: must be a media type`},
		{`allow_methods: [get]`, `routes[0].allow_methods.methods[0]: must be a request method in capital letters`},
		{`auth: {mode: optional, scopes: [a]}`, `routes[0].auth: cannot demand scopes or roles with the mode optional`},
		{`allow_ips: {networks: [10.0.0.0/8], when: "principal.role == 'admin'"}`, `routes[0].allow_ips.when: cannot ask for the principal`},
		{`timeout: {after: 5s, when: "request.methd == 'GET'"}`, `routes[0].timeout.when: is not a condition: `},
		{`timeout: {after: 5s, when: "request.path"}`, `routes[0].timeout.when: is not a condition: `},
		{`auth: {scopes: [A B]}`, `routes[0].auth.scopes[0]: must be a scope such as orders:read`},
	} {
		_, err := spec.Parse("", []byte(`
version: 1
services: [{name: a, url: "http://a"}]
policy_sets: [{name: small, max_body: 1KiB}]
routes: [{name: r, service: a, `+c.policies+`}]`))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %s", c.policies, err, c.want)
		}
	}
}

func TestAConditionMayAskForWhatIsKnownWhereThePolicyDecides(t *testing.T) {
	parse(t, `
version: 1
services: [{name: a, url: "http://a"}]
routes:
  - name: r
    service: a
    auth: {when: "request.method != 'GET'"}
    allow_ips: {networks: [10.0.0.0/8], when: "request.path.startsWith('/admin')"}
    timeout: {after: 5s, when: "principal.authenticated && principal.role == 'user'"}`)
}

func TestWhatIsOffNeedsNothingElse(t *testing.T) {
	parse(t, `
version: 1
services: [{name: a, url: "http://a"}]
routes: [{name: r, service: a, cors: {mode: off}, fault: {mode: off}, allow_ips: {mode: off}, auth: {mode: off}}]`)
}

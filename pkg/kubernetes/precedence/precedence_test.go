package precedence_test

import (
	"strings"
	"testing"

	"github.com/keywarden/keywarden/pkg/kubernetes/precedence"
	"github.com/keywarden/keywarden/pkg/spec"
	"github.com/keywarden/keywarden/pkg/spec/check"
)

func TestNamesAreThoseOfTheDocumentAndTellTheirPartsApart(t *testing.T) {
	long := strings.Repeat("x", 60)
	seen := map[string]bool{}
	for _, parts := range [][]string{{"ingress", "shop", "web", "0"}, {"ingress", "shop", long + "a"}, {"ingress", "shop", long + "b"}, {"ingress", "a b"}, {"ingress", "a/b"}} {
		name := precedence.Name(parts...)
		if !check.IsName(name) || seen[name] {
			t.Errorf("%q gives %q", parts, name)
		}
		seen[name] = true
	}
}

// A name that is cut must not be one that a stranger can find a second of.
func TestCutNamesEndInALongSum(t *testing.T) {
	name := precedence.Name("httproute", strings.Repeat("n", 63), "web", "0", "0")
	_, sum, _ := strings.Cut(name[len("httproute."):], "-")
	if len(sum) < 20 {
		t.Errorf("%s ends in %d digits", name, len(sum))
	}
}

func TestCovers(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{"a.example.com", "a.example.com", true}, {"*.example.com", "a.example.com", true}, {"*.example.com", "a.b.example.com", true},
		{"*.example.com", "*.b.example.com", true}, {"*.b.example.com", "*.example.com", false}, {"*.example.com", "example.com", false},
		{"a.example.com", "*.example.com", false}, {"*.example.com", "notexample.com", false},
	} {
		if got := precedence.Covers(c.a, c.b); got != c.want {
			t.Errorf("%s covers %s: %v", c.a, c.b, got)
		}
	}
}

// TestTheEarlierClaimHasItsRequests at one host, and leaves the other its second host.
func TestTheEarlierClaimHasItsRequests(t *testing.T) {
	route := spec.Route{Match: spec.Match{Path: spec.PathMatch{Prefix: "/a"}}}
	got := precedence.Resolve([]precedence.Claim{
		{Name: []string{"first"}, Route: route, Hosts: []string{"a.example.com"}},
		{Name: []string{"second"}, Route: route, Hosts: []string{"a.example.com", "b.example.com"}},
		{Name: []string{"third"}, Route: route, Hosts: []string{"b.example.com"}},
	})
	if len(got) != 2 || got[0].Name != "first" || got[1].Name != "second" || len(got[1].Match.Hosts) != 1 || got[1].Match.Hosts[0] != "b.example.com" {
		t.Errorf("%+v", got)
	}
}

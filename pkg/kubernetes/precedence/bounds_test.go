package precedence_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/keywarden/keywarden/pkg/kubernetes/precedence"
	"github.com/keywarden/keywarden/pkg/spec"
)

// claimOf is a claim of one match.
func claimOf(name string, host string, m spec.Match) precedence.Claim {
	return precedence.Claim{Name: []string{name}, Route: spec.Route{Match: m}, Hosts: []string{host}}
}

// Routes for some methods alone have those of less specific paths repeated behind them.
// However many there are of both, the document grows with their sum, not their product.
func TestManyObjectsDoNotMultiply(t *testing.T) {
	const n = 2000
	header := func(i int) []spec.ValueMatch { return []spec.ValueMatch{{Name: "X", Value: fmt.Sprint(i)}} }
	for what, claims := range map[string]func(i int) []precedence.Claim{
		"of one host": func(i int) []precedence.Claim {
			return []precedence.Claim{
				claimOf(fmt.Sprint("wide", i), "a.example.com", spec.Match{Path: spec.PathMatch{Prefix: "/"}, Headers: header(i)}),
				claimOf(fmt.Sprint("narrow", i), "a.example.com", spec.Match{Path: spec.PathMatch{Prefix: fmt.Sprint("/p", i)}, Methods: []string{"GET"}}),
			}
		},
		"of every host, for many hosts": func(i int) []precedence.Claim {
			return []precedence.Claim{
				claimOf(fmt.Sprint("wide", i), "", spec.Match{Path: spec.PathMatch{Prefix: fmt.Sprint("/p", i)}}),
				claimOf(fmt.Sprint("narrow", i), fmt.Sprintf("h%d.example.com", i), spec.Match{Path: spec.PathMatch{Prefix: "/"}, Methods: []string{"GET"}}),
			}
		},
	} {
		t.Run(what, func(t *testing.T) {
			var all []precedence.Claim
			for i := range n {
				all = append(all, claims(i)...)
			}
			places := 0
			for _, r := range precedence.Resolve(all) {
				places += max(1, len(r.Match.Hosts))
			}
			if places < len(all) || places > 80*len(all) {
				t.Errorf("%d claims became routes at %d places", len(all), places)
			}
		})
	}
}

// Requests for a method that cannot be made up for are refused: they do not go to
// whoever is left.
func TestWhatIsNotRepeatedIsRefused(t *testing.T) {
	all := []precedence.Claim{
		claimOf("narrow", "a.example.com", spec.Match{Path: spec.PathMatch{Prefix: "/p"}, Methods: []string{"GET"}}),
		claimOf("stranger", "", spec.Match{Path: spec.PathMatch{Prefix: "/"}}),
	}
	for i := range 500 {
		all = append(all, claimOf(fmt.Sprint("wide", i), "a.example.com", spec.Match{Path: spec.PathMatch{Prefix: "/"}, Headers: []spec.ValueMatch{{Name: "X", Value: fmt.Sprint(i)}}}))
	}
	for i := range 500 {
		all = append(all, claimOf(fmt.Sprint("more", i), "a.example.com", spec.Match{Path: spec.PathMatch{Prefix: fmt.Sprint("/p/", i)}, Methods: []string{"GET"}}))
	}
	for _, r := range precedence.Resolve(all) {
		if strings.HasPrefix(r.Match.Path.Prefix, "/p") && len(r.Match.Methods) == 0 {
			t.Fatalf("%s is repeated at %s", r.Name, r.Match.Path.Prefix)
		}
	}
}

// BenchmarkResolveOneHost is what one host costs with very many paths.
func BenchmarkResolveOneHost(b *testing.B) {
	var all []precedence.Claim
	for i := range 20_000 {
		all = append(all, claimOf(fmt.Sprint("c", i), "a.example.com", spec.Match{Path: spec.PathMatch{Prefix: fmt.Sprint("/p", i)}, Methods: []string{"GET"}}))
	}
	for b.Loop() {
		precedence.Resolve(all)
	}
}

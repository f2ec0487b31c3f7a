package match_test

import (
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/keywarden/keywarden/pkg/gateway/match"
)

func build(t testing.TB, rules ...match.Rule[string]) *match.Index[string] {
	t.Helper()
	x, err := match.New(rules)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

func TestLookupPrefersTheMostSpecific(t *testing.T) {
	x := build(t,
		match.Rule[string]{Path: "/api", Value: "api"},
		match.Rule[string]{Path: "/api/users", Value: "users"},
		match.Rule[string]{Path: "/api/users", Exact: true, Value: "exactly users"},
		match.Rule[string]{Path: "/api/users/", Exact: true, Value: "users with slash"},
		match.Rule[string]{Path: "/api/users/me", Methods: []string{"GET", "DELETE"}, Value: "me"},
		match.Rule[string]{Path: "/ro", Methods: []string{"GET", "HEAD"}, Value: "read"},
		match.Rule[string]{Path: "/ro", Value: "write"},
		match.Rule[string]{Hosts: []string{"private.test"}, Path: "/", Value: "private"},
		match.Rule[string]{Hosts: []string{"a.test", "b.test"}, Path: "/api", Methods: []string{"GET"}, Value: "ab"},
		match.Rule[string]{Path: "/café", Value: "café"},
	)
	for _, c := range []struct{ method, host, path, want string }{
		{"GET", "x.test", "/api", "api"},
		{"GET", "x.test", "/api/", "api"},
		{"GET", "x.test", "/api/orders/1", "api"},
		{"GET", "x.test", "/api/users", "exactly users"},
		{"GET", "x.test", "/api/users/", "users with slash"},
		{"GET", "x.test", "/api/users/1", "users"},
		{"GET", "x.test", "/api/users/me", "me"},
		{"GET", "x.test", "/api/users/me/keys", "me"},
		{"GET", "x.test", "/api/users/mean", "users"},
		{"PUT", "x.test", "/api/users/me", "405 DELETE, GET"},
		{"get", "x.test", "/api/users/me", "405 DELETE, GET"},
		{"GET", "x.test", "/apis", "404"},
		{"GET", "x.test", "/api../x", "404"},
		{"GET", "x.test", "/API", "404"},
		{"GET", "x.test", "/", "404"},
		{"GET", "x.test", "", "404"},
		{"HEAD", "x.test", "/ro/x", "read"},
		{"POST", "x.test", "/ro/x", "write"},
		{"GET", "", "/api", "api"},
		{"GET", "private.test", "/api/users", "private"},
		{"GET", "private.test", "/", "private"},
		{"GET", "private.test", "/anything/at/all", "private"},
		{"GET", "a.test", "/api/users", "ab"},
		{"GET", "b.test", "/api", "ab"},
		{"POST", "b.test", "/api/users", "405 GET"},
		{"POST", "b.test", "/ro", "write"},
		{"GET", "x.test", "/café/1", "café"},
		{"GET", "x.test", "/caf", "404"},
	} {
		if got := describe(x.Lookup(c.host, c.path, c.method, nil)); got != c.want {
			t.Errorf("%s %s%s: got %s, want %s", c.method, c.host, c.path, got, c.want)
		}
	}
}

func describe(r match.Result[string]) string {
	switch {
	case r.Found:
		return r.Value
	case r.Allow != "":
		return "405 " + r.Allow
	default:
		return "404"
	}
}

func TestRootPrefixMatchesEverything(t *testing.T) {
	x := build(t, match.Rule[string]{Path: "/", Value: "all"})
	for _, path := range []string{"/", "/a", "/a/b/"} {
		if got := describe(x.Lookup("h", path, "GET", nil)); got != "all" {
			t.Errorf("%s: got %s", path, got)
		}
	}
}

func TestZeroIndexFindsNothing(t *testing.T) {
	var x match.Index[string]
	if got := describe(x.Lookup("h", "/", "GET", nil)); got != "404" {
		t.Errorf("got %s", got)
	}
}

func TestNewRefusesAmbiguousRules(t *testing.T) {
	for name, rules := range map[string][]match.Rule[string]{
		"every method": {{Path: "/a"}, {Path: "/a"}},
		"one method":   {{Path: "/a", Methods: []string{"GET", "PUT"}}, {Path: "/a", Methods: []string{"PUT"}}},
		"exact":        {{Path: "/a", Exact: true}, {Path: "/a", Exact: true}},
		"host":         {{Path: "/a", Hosts: []string{"x", "y"}}, {Path: "/a", Hosts: []string{"y"}}},
		"slash":        {{Path: "/a"}, {Path: "/a/"}},
	} {
		if _, err := match.New(rules); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// TestLookupAgreesWithLinearSearch compares the index with the definition of
// "most specific", spelled out as a search over all rules.
func TestLookupAgreesWithLinearSearch(t *testing.T) {
	segment := rapid.SampledFrom([]string{"a", "b", "ab", "c"})
	path := rapid.Custom(func(t *rapid.T) string {
		p := "/" + strings.Join(rapid.SliceOfN(segment, 0, 4).Draw(t, "segments"), "/")
		if p != "/" && rapid.Bool().Draw(t, "slash") {
			p += "/"
		}
		return p
	})
	host := rapid.SampledFrom([]string{"", "h1", "h2"})
	method := rapid.SampledFrom([]string{"", "GET", "PUT"})
	rapid.Check(t, func(t *rapid.T) {
		var rules []match.Rule[string]
		taken := map[string]bool{}
		for range rapid.IntRange(0, 12).Draw(t, "rules") {
			h, m := host.Draw(t, "host"), method.Draw(t, "method")
			r := match.Rule[string]{Path: path.Draw(t, "path"), Exact: rapid.Bool().Draw(t, "exact")}
			if !r.Exact && r.Path != "/" {
				r.Path = strings.TrimSuffix(r.Path, "/")
			}
			if h != "" {
				r.Hosts = []string{h}
			}
			if m != "" {
				r.Methods = []string{m}
			}
			r.Value = fmt.Sprint(h, r.Path, r.Exact, m)
			if !taken[r.Value] {
				taken[r.Value] = true
				rules = append(rules, r)
			}
		}
		x, err := match.New(rules)
		if err != nil {
			t.Fatal(err)
		}
		for range 20 {
			h, p, m := host.Draw(t, "host"), path.Draw(t, "path"), rapid.SampledFrom([]string{"GET", "PUT", "POST"}).Draw(t, "method")
			if got, want := x.Lookup(h, p, m, nil), search(rules, h, p, m); got.Found != want.Found || got.Value != want.Value || (got.Allow != "") != (want.Allow != "") {
				t.Fatalf("%s %s%s: got %+v, want %+v", m, h, p, got, want)
			}
		}
	})
}

func search(rules []match.Rule[string], host, path, method string) match.Result[string] {
	rank := func(r match.Rule[string]) int {
		n := len(strings.Trim(r.Path, "/"))
		if r.Exact {
			n = 1000
		}
		if len(r.Hosts) > 0 {
			n += 10_000
		}
		return n
	}
	best := -1
	var result match.Result[string]
	for _, r := range rules {
		covers := r.Path == path || !r.Exact && (r.Path == "/" || strings.HasPrefix(path, r.Path+"/"))
		if !covers || len(r.Hosts) > 0 && r.Hosts[0] != host {
			continue
		}
		switch n := rank(r); {
		case n < best:
			continue
		case n > best:
			best, result = n, match.Result[string]{}
		}
		switch {
		case len(r.Methods) == 0:
			if !result.Found {
				result = match.Result[string]{Value: r.Value, Found: true}
			}
		case r.Methods[0] == method:
			result = match.Result[string]{Value: r.Value, Found: true}
		case !result.Found:
			result.Allow = "some"
		}
	}
	return result
}

func TestLookupDoesNotAllocate(t *testing.T) {
	x := routes(t, 1000)
	if n := testing.AllocsPerRun(100, func() { x.Lookup("host7.test", "/api/v7/items/42", "GET", nil) }); n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}

// routes makes an index of n rules over a few hosts.
func routes(t testing.TB, n int) *match.Index[string] {
	rules := make([]match.Rule[string], n)
	for i := range rules {
		rules[i] = match.Rule[string]{
			Hosts: []string{fmt.Sprintf("host%d.test", i%10)},
			Path:  fmt.Sprintf("/api/v%d/items", i),
			Value: fmt.Sprint(i),
		}
	}
	return build(t, rules...)
}

func BenchmarkLookup(b *testing.B) {
	for _, n := range []int{10, 10_000} {
		x := routes(b, n)
		host, path := fmt.Sprintf("host%d.test", (n-1)%10), fmt.Sprintf("/api/v%d/items/42", n-1)
		b.Run(fmt.Sprintf("routes=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if !x.Lookup(host, path, "GET", nil).Found {
					b.Fatal("not found")
				}
			}
		})
	}
}

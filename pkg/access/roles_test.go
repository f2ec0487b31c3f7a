package access_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/keywarden/keywarden/pkg/access"
)

func newRoles(t testing.TB, extra ...string) access.Roles {
	t.Helper()
	roles, err := access.NewRoles(extra)
	if err != nil {
		t.Fatal(err)
	}
	return roles
}

func TestCutNeverGivesMoreThanTheRoleAndNeverTheWildcard(t *testing.T) {
	roles := newRoles(t, "orders:read", "orders:write")
	names := append([]string{
		access.Wildcard, "", "**", "*:read", "orders", "orders:*", "users:read", access.ScopeKeysAdmin, access.ScopeAuditRead, "zzz",
		access.ScopeConfigRead, access.ScopeConfigWrite,
	}, roles.Scopes(access.RoleUser)...)
	rapid.Check(t, func(t *rapid.T) {
		role := rapid.SampledFrom([]access.Role{access.RoleUser, access.RoleViewer, access.RoleOperator, access.RoleAdmin, "", "nobody", "*"}).Draw(t, "role")
		want := rapid.SliceOf(rapid.OneOf(rapid.SampledFrom(names), rapid.String())).Draw(t, "want")
		before := slices.Clone(want)

		got := roles.Cut(role, want)

		if got == nil || !slices.IsSorted(got) || len(slices.Compact(slices.Clone(got))) != len(got) {
			t.Fatalf("%q is not a sorted set", got)
		}
		for _, s := range got {
			if s == access.Wildcard || !roles.Holds(role, s) || !slices.Contains(want, s) {
				t.Fatalf("%s was given %q, of %q", role, s, want)
			}
		}
		for _, s := range want {
			if s != access.Wildcard && roles.Holds(role, s) && !slices.Contains(got, s) {
				t.Fatalf("%s was denied %q, of %q", role, s, want)
			}
		}
		if !slices.Equal(want, before) {
			t.Fatal("the granted scopes were changed")
		}
		if again := roles.Cut(role, got); !slices.Equal(again, got) {
			t.Fatalf("cut again: %q became %q", got, again)
		}
		p := &access.Principal{Scopes: got}
		if p.Has(access.ScopeUsersWrite) && !slices.Contains(want, access.ScopeUsersWrite) {
			t.Fatalf("%q amounts to every scope", got)
		}
	})
}

func TestUnknownRolesHoldNothing(t *testing.T) {
	roles := newRoles(t)
	for _, role := range []access.Role{"", "*", "root", "Admin", "admin "} {
		if roles.Known(role) || len(roles.Scopes(role)) > 0 || roles.Holds(role, access.ScopeProfileRead) || roles.Holds(role, "") {
			t.Errorf("%q holds something", role)
		}
	}
	var none access.Roles
	if none.Holds(access.RoleAdmin, "x") || len(none.Cut(access.RoleAdmin, []string{"x"})) > 0 {
		t.Error("a table that was never made holds something")
	}
}

func TestRolesHoldWhatTheyShould(t *testing.T) {
	roles := newRoles(t, "orders:read", "orders:read")
	want := []string{"apps:read", "apps:write", "keys:read", "keys:write", "orders:read", "profile:read", "profile:write", "usage:read"}
	if diff := cmp.Diff(want, roles.Scopes(access.RoleUser)); diff != "" {
		t.Errorf("user (-want +got):\n%s", diff)
	}
	viewer := []string{"alerts:read", "catalog:read", "config:read"}
	for role, more := range map[access.Role][]string{"viewer": viewer, "operator": append(viewer, "alerts:write", "catalog:write", "config:write")} {
		if diff := cmp.Diff(slices.Sorted(slices.Values(slices.Concat(more, want))), roles.Scopes(role)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", role, diff)
		}
	}
	if diff := cmp.Diff([]access.Role{"admin", "operator", "user", "viewer"}, roles.Names()); diff != "" {
		t.Errorf("roles (-want +got):\n%s", diff)
	}
	for _, s := range []string{access.ScopeUsersWrite, access.ScopeKeysAdmin, access.ScopeAuditRead, access.ScopeConfigRead, access.ScopeConfigWrite, "anything"} {
		if roles.Holds(access.RoleUser, s) || !roles.Holds(access.RoleAdmin, s) {
			t.Errorf("%s: user %v, admin %v", s, roles.Holds(access.RoleUser, s), roles.Holds(access.RoleAdmin, s))
		}
	}
}

func TestAppendingToTheScopesOfARoleLeavesTheTable(t *testing.T) {
	roles := newRoles(t, "b:read", "b:read", "b:read") // repeated ones leave room behind the slice
	first := append(roles.Scopes(access.RoleUser), "x:first")
	_ = append(roles.Scopes(access.RoleUser), "x:second")
	if first[len(first)-1] != "x:first" {
		t.Error("two callers share the room behind the scopes")
	}
}

func TestScopeNamesAreChecked(t *testing.T) {
	for name, ok := range map[string]bool{
		"a": true, "orders:read": true, "a.b-c_d:e:f": true, "0": true, strings.Repeat("a", 64): true,
		"": false, "*": false, ":": false, "a:": false, ":a": false, "a::b": false, "A": false, "a b": false, "a:*": false,
		"-a": false, "a:-b": false, "ä": false, "a\n": false, "a\x00": false, `a"`: false, strings.Repeat("a", 65): false,
	} {
		if got := access.ValidScope(name); got != ok {
			t.Errorf("ValidScope(%q) = %v", name, got)
		}
		if _, err := access.NewRoles([]string{"fine", name}); (err == nil) != ok {
			t.Errorf("NewRoles(%q): %v", name, err)
		}
	}
}

func TestNewRolesRefusesToMakeEveryUserAnAdmin(t *testing.T) {
	for _, scope := range []string{
		access.ScopeUsersRead, access.ScopeUsersWrite, access.ScopeAuditRead, access.ScopeKeysAdmin,
		access.ScopeConfigRead, access.ScopeConfigWrite, access.Wildcard,
	} {
		if _, err := access.NewRoles([]string{"orders:read", scope}); err == nil {
			t.Errorf("%s can be given to every user", scope)
		}
	}
}

package access

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
)

// Role names a set of scopes. A user has exactly one.
type Role string

// The roles that always exist.
const (
	RoleUser     Role = "user"
	RoleViewer   Role = "viewer"   // a user who sees the gateway
	RoleOperator Role = "operator" // a user who changes the gateway
	RoleAdmin    Role = "admin"
)

// Wildcard is the scope that stands for every scope. Only the admin role holds
// it, and a key never does: a key names what it may do.
const Wildcard = "*"

// Scopes of the platform's own API. Any other name is a scope of a backend.
const (
	ScopeProfileRead  = "profile:read"
	ScopeProfileWrite = "profile:write"
	ScopeKeysRead     = "keys:read"
	ScopeKeysWrite    = "keys:write"
	ScopeUsageRead    = "usage:read" // see what the own user uses; that of its own a key always sees
	ScopeUsersRead    = "users:read"
	ScopeUsersWrite   = "users:write"
	ScopeAuditRead    = "audit:read"
	ScopeKeysAdmin    = "keys:admin"   // reach the keys of every user
	ScopeConfigRead   = "config:read"  // see the gateway: its document, state and decisions
	ScopeConfigWrite  = "config:write" // change the gateway document
	ScopeAlertsRead   = "alerts:read"  // see alerts, their rules and channels
	ScopeAlertsWrite  = "alerts:write" // change rules and channels, and silence alerts

	ScopeAppsRead     = "apps:read"     // see the own apps and their subscriptions
	ScopeAppsWrite    = "apps:write"    // make and change them
	ScopeCatalogRead  = "catalog:read"  // see all products, plans, apps and subscriptions
	ScopeCatalogWrite = "catalog:write" // change them, and decide about subscriptions
)

var scopePattern = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]*(:[a-z0-9][a-z0-9._-]*)*$`)

// maxScopeLength bounds one scope name, in bytes.
const maxScopeLength = 64

// ValidScope reports whether name can be a scope: lower-case words of letters,
// digits, dot, dash and underscore, joined by colons, at most 64 bytes.
func ValidScope(name string) bool {
	return len(name) <= maxScopeLength && scopePattern.MatchString(name)
}

// Roles is the table of roles. It is immutable after [NewRoles].
type Roles struct{ scopes map[Role][]string }

// privileged are the scopes of the platform that not every user may hold.
func privileged() []string {
	return []string{
		ScopeUsersRead, ScopeUsersWrite, ScopeAuditRead, ScopeKeysAdmin, ScopeConfigRead, ScopeConfigWrite,
		ScopeCatalogRead, ScopeCatalogWrite, ScopeAlertsRead, ScopeAlertsWrite,
	}
}

// NewRoles makes the table. extra adds backend scopes to the user role, so that
// users may put them on their keys. A viewer and an operator hold what a user
// does and the scopes of the gateway, the admin role holds everything. A
// privileged scope of the platform in extra is an error: it would make every user
// an admin or an operator.
func NewRoles(extra []string) (Roles, error) {
	user := []string{ScopeProfileRead, ScopeProfileWrite, ScopeKeysRead, ScopeKeysWrite, ScopeUsageRead, ScopeAppsRead, ScopeAppsWrite}
	for _, s := range extra {
		switch {
		case !ValidScope(s):
			return Roles{}, fmt.Errorf("scope %q is not a valid scope name", s)
		case slices.Contains(privileged(), s):
			return Roles{}, fmt.Errorf("scope %q belongs to the platform's admins and operators and cannot be given to every user", s)
		}
		user = append(user, s)
	}
	return Roles{scopes: map[Role][]string{
		RoleUser:     scopeSet(user),
		RoleViewer:   scopeSet(user, ScopeConfigRead, ScopeCatalogRead, ScopeAlertsRead),
		RoleOperator: scopeSet(user, ScopeConfigRead, ScopeConfigWrite, ScopeCatalogRead, ScopeCatalogWrite, ScopeAlertsRead, ScopeAlertsWrite),
		RoleAdmin:    {Wildcard},
	}}, nil
}

// scopeSet is base and more, sorted, each once.
func scopeSet(base []string, more ...string) []string {
	set := slices.Concat(base, more)
	slices.Sort(set)
	return slices.Clip(slices.Compact(set))
}

// Known reports whether role exists.
func (r Roles) Known(role Role) bool { _, ok := r.scopes[role]; return ok }

// Names lists the roles, sorted.
func (r Roles) Names() []Role { return slices.Sorted(maps.Keys(r.scopes)) }

// Scopes is what role holds, sorted; an unknown role holds nothing. The slice is
// shared and must not be changed.
func (r Roles) Scopes(role Role) []string { return r.scopes[role] }

// Holds reports whether role holds scope.
func (r Roles) Holds(role Role, scope string) bool { return holds(r.scopes[role], scope) }

// Cut returns the scopes of want that role holds now, sorted. It is how a key's
// scopes follow its owner's rights.
func (r Roles) Cut(role Role, want []string) []string {
	kept := make([]string, 0, len(want))
	for _, s := range want {
		if s != Wildcard && r.Holds(role, s) {
			kept = append(kept, s)
		}
	}
	slices.Sort(kept)
	return slices.Compact(kept)
}

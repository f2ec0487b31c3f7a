package privilege

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/keywarden/keywarden/pkg/access"
)

var now = time.Date(2030, 1, 1, 12, 0, 0, 0, time.UTC)

func daysAgo(n int) time.Time { return now.Add(-time.Duration(n) * 24 * time.Hour) }

func newRoles(t fataler) access.Roles {
	roles, err := access.NewRoles([]string{"orders:read", "orders:write", "people:read"})
	if err != nil {
		t.Fatal(err)
	}
	return roles
}

func TestReviewTellsUsedFromUnusedAndFromUnknown(t *testing.T) {
	for _, c := range []struct {
		name    string
		granted []string
		role    access.Role
		since   time.Time
		used    map[string]time.Time
		want    Review
	}{
		{"a new key has no unused scopes", []string{"orders:write", "orders:read"}, access.RoleUser, daysAgo(30),
			map[string]time.Time{"orders:read": daysAgo(1)}, Review{
				Scopes:      []Scope{{"orders:read", daysAgo(1), Used}, {"orders:write", time.Time{}, Unknown}},
				Ineffective: []string{}, Suggested: []string{"orders:read", "orders:write"},
			}},
		{"an old key has", []string{"orders:read", "orders:write"}, access.RoleUser, daysAgo(31),
			map[string]time.Time{"orders:read": daysAgo(1)}, Review{
				Scopes:      []Scope{{"orders:read", daysAgo(1), Used}, {"orders:write", time.Time{}, Unused}},
				Ineffective: []string{}, Suggested: []string{"orders:read"}, Narrower: true,
			}},
		{"a use counts for 90 days", []string{"orders:read", "orders:write"}, access.RoleUser, daysAgo(400),
			map[string]time.Time{"orders:read": daysAgo(90), "orders:write": daysAgo(91), "people:read": daysAgo(1)}, Review{
				Scopes:      []Scope{{"orders:read", daysAgo(90), Used}, {"orders:write", daysAgo(91), Unused}},
				Ineffective: []string{}, Suggested: []string{"orders:read"}, Narrower: true,
			}},
		{"what the owner does not hold is not held", []string{"users:read", "orders:read"}, access.RoleUser, daysAgo(400),
			map[string]time.Time{"orders:read": daysAgo(1), "users:read": daysAgo(1)}, Review{
				Scopes:      []Scope{{"orders:read", daysAgo(1), Used}},
				Ineffective: []string{"users:read"}, Suggested: []string{"orders:read"}, Narrower: true,
			}},
		{"a wildcard is as wide as what is used", []string{"*"}, access.RoleUser, daysAgo(400),
			map[string]time.Time{"orders:read": daysAgo(1), "people:read": daysAgo(300), "users:read": daysAgo(1)}, Review{
				Scopes:      []Scope{{"orders:read", daysAgo(1), Used}, {"people:read", daysAgo(300), Unused}},
				Ineffective: []string{"*"}, Suggested: []string{"orders:read"}, Narrower: true,
			}},
		{"nothing is granted", nil, access.RoleUser, daysAgo(400), map[string]time.Time{"orders:read": daysAgo(1)},
			Review{Scopes: []Scope{}, Ineffective: []string{}, Suggested: []string{}}},
	} {
		c.want.Since = c.since
		got := NewReview(c.granted, newRoles(t), Recorded{Since: c.since, OwnerRole: c.role, LastUsed: c.used}, now)
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s:\n%s", c.name, diff)
		}
	}
}

func TestSuggestionNeverTakesWhatIsUsedNorAddsAnything(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		scopes := []string{"orders:read", "orders:write", "people:read", "users:read", "keys:read"}
		granted := rapid.SliceOfN(rapid.SampledFrom(scopes), 0, 8).Draw(t, "granted")
		r := Recorded{OwnerRole: rapid.SampledFrom([]access.Role{access.RoleUser, access.RoleAdmin}).Draw(t, "role"), LastUsed: map[string]time.Time{}}
		r.Since = daysAgo(rapid.IntRange(0, 200).Draw(t, "since"))
		for _, s := range scopes {
			if rapid.Bool().Draw(t, "used") {
				r.LastUsed[s] = daysAgo(rapid.IntRange(0, 200).Draw(t, "days"))
			}
		}
		roles := newRoles(t)
		v := NewReview(granted, roles, r, now)
		for _, s := range v.Suggested {
			if !slices.Contains(granted, s) {
				t.Fatalf("%s is suggested, and was not granted", s)
			}
		}
		for _, s := range roles.Cut(r.OwnerRole, granted) {
			at, ever := r.LastUsed[s]
			if ever && now.Sub(at) <= Window && !slices.Contains(v.Suggested, s) {
				t.Fatalf("%s was used at %v, and is to be taken", s, at)
			}
			if now.Sub(r.Since) < Enough && !slices.Contains(v.Suggested, s) {
				t.Fatalf("%s is to be taken, after %v of recording", s, now.Sub(r.Since))
			}
		}
	})
}

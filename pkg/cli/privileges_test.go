package cli_test

import (
	"slices"
	"testing"

	"github.com/keywarden/keywarden/pkg/pglocal/pgtest"
	"github.com/keywarden/keywarden/pkg/seal"
)

// An owner sees what a key uses, without any right of an operator; of another's key
// nothing is said.
func TestPrivilegesOfAKeyAreShownToItsOwner(t *testing.T) {
	s := serve(t, serving(pgtest.New(t), seal.NewMasterKey()))
	owner, other := s.User(t), s.User(t)
	key := s.Key(t, owner, map[string]any{"scopes": []string{"keys:read", "usage:read"}})
	ask := func(token string, args ...string) result {
		return run(t, invocation{
			args: slices.Concat([]string{"privileges", key.ID, "--server", s.URL}, args),
			env:  []string{"KEYWARDEN_TOKEN=" + token},
		})
	}
	ask(owner.Token).want(0, "SCOPE ", "usage:read", "keys:read", "ROUTE ", "Uses are recorded since")
	if got := ask(owner.Token, "-o", "json", "--check").want(0).json(); got["key_id"] != key.ID || got["narrower"] != false {
		t.Errorf("%v", got)
	}
	ask(other.Token).want(1, "No API key has this identifier")
	ask("nonsense").want(3)
}

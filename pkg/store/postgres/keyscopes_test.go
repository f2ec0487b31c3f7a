package postgres

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/apikey"
	"github.com/keywarden/keywarden/pkg/privilege"
)

func (w *world) scopesOf(id string) privilege.Recorded {
	w.t.Helper()
	r, err := w.KeyScopes(w.t.Context(), id)
	w.must(err)
	return r
}

func TestLastUsesOfScopesNeverGoBack(t *testing.T) {
	s := newSafety(t)
	k, other := s.mint(apikey.Request{Name: "a"}).Key.ID, s.mint(apikey.Request{Name: "b"}).Key.ID
	at := time.Date(2030, 1, 1, 12, 0, 0, 0, time.UTC)
	touch := func(uses ...privilege.Use) {
		t.Helper()
		s.must(s.TouchKeyScopes(t.Context(), uses))
	}
	touch(privilege.Use{KeyID: k, Scope: "b", Minute: at}, privilege.Use{KeyID: k, Scope: "a", Minute: at})
	touch(privilege.Use{KeyID: k, Scope: "a", Minute: at.Add(-time.Hour)}, privilege.Use{KeyID: k, Scope: "b", Minute: at.Add(time.Minute)})
	// Those that nobody has do not keep the others out.
	touch(privilege.Use{KeyID: uuid.NewString(), Scope: "a", Minute: at}, privilege.Use{KeyID: "none", Scope: "a", Minute: at},
		privilege.Use{KeyID: k, Scope: "\x00", Minute: at}, privilege.Use{KeyID: k, Scope: "c", Minute: at})
	got := s.scopesOf(k)
	want := map[string]time.Time{"a": at, "b": at.Add(time.Minute), "c": at}
	if diff := cmp.Diff(want, got.LastUsed); diff != "" || got.OwnerRole != access.RoleUser {
		t.Errorf("role %s, last uses:\n%s", got.OwnerRole, diff)
	}
	if more := s.scopesOf(other); len(more.LastUsed) > 0 || time.Since(more.Since).Abs() > time.Hour {
		t.Errorf("a key that is not used has %+v", more)
	}
	for _, id := range []string{uuid.NewString(), "none"} {
		if _, err := s.KeyScopes(t.Context(), id); !errors.Is(err, apikey.ErrNotFound) {
			t.Errorf("%s: %v", id, err)
		}
	}
}

func TestUsesOfManyReplicasMeet(t *testing.T) {
	s := newSafety(t)
	var ids []string
	for i := range 8 {
		ids = append(ids, s.mint(apikey.Request{Name: fmt.Sprint(i)}).Key.ID)
	}
	at := time.Date(2030, 1, 1, 12, 0, 0, 0, time.UTC)
	var writers sync.WaitGroup
	for w := range 4 {
		writers.Go(func() {
			for i := range 20 {
				var uses []privilege.Use
				for j := range ids { // in an order of their own
					uses = append(uses, privilege.Use{KeyID: ids[(j*3+w)%len(ids)], Scope: "a", Minute: at.Add(time.Duration(i+w) * time.Minute)})
				}
				if err := s.TouchKeyScopes(t.Context(), uses); err != nil {
					t.Error(err)
				}
			}
		})
	}
	writers.Wait()
	for _, id := range ids {
		if got := s.scopesOf(id).LastUsed["a"]; !got.Equal(at.Add(22 * time.Minute)) {
			t.Errorf("a key was used last at %v", got)
		}
	}
}

func TestRecordingBeginsAnewWithANewScope(t *testing.T) {
	s := newSafety(t)
	u := s.user(access.RoleUser)
	m, err := s.keys.Create(t.Context(), u.ID, u.Role, apikey.Request{Name: "a", Scopes: []string{access.ScopeKeysRead, access.ScopeUsageRead}}, "")
	s.must(err)
	set := func(p apikey.Patch) time.Time {
		t.Helper()
		_, err := s.keys.Update(t.Context(), u.ID, m.Key.ID, u.Role, p)
		s.must(err)
		return s.scopesOf(m.Key.ID).Since
	}
	name, less, more := "b", []string{access.ScopeKeysRead}, []string{access.ScopeKeysRead, access.ScopeProfileRead}
	begin := s.scopesOf(m.Key.ID).Since
	if since := set(apikey.Patch{Name: &name}); !since.Equal(begin) {
		t.Errorf("another name moved the beginning from %v to %v", begin, since)
	}
	if since := set(apikey.Patch{Scopes: &less}); !since.Equal(begin) {
		t.Errorf("fewer scopes moved the beginning from %v to %v", begin, since)
	}
	if since := set(apikey.Patch{Scopes: &more}); since.Equal(begin) || time.Since(since).Abs() > time.Hour {
		t.Errorf("a scope that the key had not leaves the beginning at %v", since)
	}
}

func TestLastUsesEndWithTheirKey(t *testing.T) {
	s := newSafety(t)
	k := s.mint(apikey.Request{Name: "a"}).Key
	s.must(s.TouchKeyScopes(t.Context(), []privilege.Use{{KeyID: k.ID, Scope: "a", Minute: time.Unix(0, 0)}}))
	_, err := s.pool.Exec(t.Context(), `DELETE FROM api_keys WHERE id = $1`, k.ID)
	s.must(err)
	var left int
	s.must(s.pool.QueryRow(t.Context(), `SELECT count(*) FROM api_key_scopes WHERE key_id = $1`, k.ID).Scan(&left))
	if left > 0 {
		t.Errorf("%d last uses outlive their key", left)
	}
}

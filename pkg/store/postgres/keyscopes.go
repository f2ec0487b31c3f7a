package postgres

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/keywarden/keywarden/pkg/apikey"
	"github.com/keywarden/keywarden/pkg/privilege"
)

var _ privilege.Store = (*Store)(nil)

// TouchKeyScopes implements privilege.Store. Rows are written in the order of their
// keys: every replica does this at the same time, often for the same ones.
func (s *Store) TouchKeyScopes(ctx context.Context, uses []privilege.Use) error {
	uses = slices.SortedFunc(slices.Values(uses), func(a, b privilege.Use) int {
		if c := strings.Compare(a.KeyID, b.KeyID); c != 0 {
			return c
		}
		return strings.Compare(a.Scope, b.Scope)
	})
	for batch := range slices.Chunk(uses, touchBatch) {
		ids, scopes, minutes := make([]string, 0, len(batch)), make([]string, 0, len(batch)), make([]time.Time, 0, len(batch))
		for _, u := range batch {
			if IsUUID(u.KeyID) && storable(u.Scope) { // one bad name must not keep the others out
				ids, scopes, minutes = append(ids, u.KeyID), append(scopes, u.Scope), append(minutes, u.Minute)
			}
		}
		_, err := s.pool.Exec(ctx, `
			WITH live AS (
				SELECT k.id, t.scope, t.minute
				FROM unnest($1::uuid[], $2::text[], $3::timestamptz[]) AS t (id, scope, minute) JOIN api_keys k ON k.id = t.id
				ORDER BY k.id, t.scope FOR KEY SHARE OF k
			)
			INSERT INTO api_key_scopes (key_id, scope, last_used_at) SELECT id, scope, minute FROM live
			ON CONFLICT (key_id, scope) DO UPDATE SET last_used_at = excluded.last_used_at
			WHERE api_key_scopes.last_used_at < excluded.last_used_at`, ids, scopes, minutes)
		if err != nil {
			return unavailable(err)
		}
	}
	return nil
}

// KeyScopes returns what is recorded of a key; apikey.ErrNotFound when there is none.
func (s *Store) KeyScopes(ctx context.Context, keyID string) (privilege.Recorded, error) {
	r := privilege.Recorded{LastUsed: map[string]time.Time{}}
	if !IsUUID(keyID) {
		return r, apikey.ErrNotFound
	}
	rows, err := s.pool.Query(ctx, `
		SELECT k.scopes_recorded_since, u.role, coalesce(s.scope, ''), s.last_used_at
		FROM api_keys k JOIN users u ON u.id = k.user_id LEFT JOIN api_key_scopes s ON s.key_id = k.id WHERE k.id = $1`, keyID)
	if err != nil {
		return r, unavailable(err)
	}
	var scope string
	var at *time.Time
	tag, err := pgx.ForEachRow(rows, []any{&r.Since, &r.OwnerRole, &scope, &at}, func() error {
		if at != nil {
			r.LastUsed[scope] = at.UTC()
		}
		return nil
	})
	switch {
	case err != nil:
		return r, unavailable(err)
	case tag.RowsAffected() == 0:
		return r, apikey.ErrNotFound
	}
	r.Since = r.Since.UTC()
	return r, nil
}

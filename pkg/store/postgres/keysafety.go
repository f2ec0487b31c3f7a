package postgres

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/keywarden/keywarden/pkg/alert"
	"github.com/keywarden/keywarden/pkg/apikey"
	"github.com/keywarden/keywarden/pkg/audit"
	"github.com/keywarden/keywarden/pkg/changes"
	"github.com/keywarden/keywarden/pkg/keyguard"
	"github.com/keywarden/keywarden/pkg/posture"
)

var _ keyguard.Quarantines = (*Store)(nil)

// QuarantineKey implements keyguard.Quarantines. The row of the key is locked before
// its secrets are looked at, as a rotation does: whichever is second sees the first.
func (s *Store) QuarantineKey(ctx context.Context, id, secretID, note string, now time.Time, c changes.Change) error {
	if !IsUUID(id) || !IsUUID(secretID) {
		return nil
	}
	_, err := s.Change(ctx, c, func(tx pgx.Tx) error {
		k, err := oneKey(ctx, tx, `SELECT `+keyColumns+` FROM api_keys k WHERE id = $1 FOR UPDATE`, id)
		if errors.Is(err, apikey.ErrNotFound) {
			return errNoChange
		}
		if err != nil {
			return err
		}
		if k.RevokedAt != nil || k.QuarantinedAt != nil || k.Canary {
			return errNoChange
		}
		tag, err := tx.Exec(ctx, `
			UPDATE api_keys SET quarantined_at = $2, quarantine_note = $3, updated_at = $2
			WHERE id = $1 AND EXISTS (
				SELECT FROM api_key_secrets WHERE id = $4 AND key_id = $1 AND (valid_until IS NULL OR valid_until > $2))`,
			id, now, note, secretID)
		if err == nil && tag.RowsAffected() == 0 {
			return errNoChange
		}
		return err
	})
	return err
}

// ReleaseKey implements keyguard.Quarantines.
func (s *Store) ReleaseKey(ctx context.Context, id string, now time.Time, c changes.Change) (k apikey.Key, err error) {
	if !IsUUID(id) {
		return k, apikey.ErrNotFound
	}
	_, err = s.Change(ctx, c, func(tx pgx.Tx) error {
		k, err = oneKey(ctx, tx, `SELECT `+keyColumns+` FROM api_keys k WHERE id = $1 FOR UPDATE`, id)
		switch {
		case err != nil:
			return err
		case k.RevokedAt != nil:
			return apikey.ErrRevoked
		case k.QuarantinedAt == nil:
			return errNoChange
		}
		k, err = oneKey(ctx, tx, `
			UPDATE api_keys k SET quarantined_at = NULL, quarantine_note = '', updated_at = $2 WHERE id = $1 RETURNING `+keyColumns, id, now)
		return err
	})
	return k, err
}

// PostureKeys returns keys that are not revoked and may have something that posture
// looks for, the gravest first, at most limit.
func (s *Store) PostureKeys(ctx context.Context, now time.Time, limit int) ([]posture.Key, error) {
	return Many(ctx, s.pool, pgx.RowToStructByPos[posture.Key], `
		SELECT id::text, name, scopes, created_at, last_used_at, expires_at, quarantined_at, canary FROM api_keys
		WHERE revoked_at IS NULL AND NOT canary AND (expires_at IS NULL OR expires_at > $1) AND (
			quarantined_at IS NOT NULL OR '*' = ANY (scopes) OR expires_at IS NULL OR coalesce(last_used_at, created_at) <= $2)
		ORDER BY '*' = ANY (scopes) DESC, quarantined_at IS NULL, coalesce(last_used_at, created_at), id LIMIT $3`,
		now, now.Add(-posture.Idle), limit)
}

// PostureAdmins returns enabled admins older than posture.Idle who have not logged in
// since, at most limit.
func (s *Store) PostureAdmins(ctx context.Context, now time.Time, limit int) ([]posture.Admin, error) {
	return Many(ctx, s.pool, pgx.RowToStructByPos[posture.Admin], `
		SELECT u.id::text FROM users u
		WHERE u.role = 'admin' AND NOT u.disabled AND u.created_at <= $1 AND NOT EXISTS (
			SELECT FROM audit_log a WHERE a.actor_id = u.id::text AND a.action = 'session.login' AND a.at > $1)
		ORDER BY u.id LIMIT $2`, now.Add(-posture.Idle), limit)
}

// CanaryUses is the gauge of [alert.CanaryUsed]: how many uses of canary keys are in
// the audit log within the window, and which was the last.
func (s *Store) CanaryUses(ctx context.Context, r alert.Spec, at time.Time) (m alert.Reading, err error) {
	err = s.pool.QueryRow(ctx, `
		SELECT count(*)::float8, coalesce('canary key ' || (array_agg(target_id ORDER BY seq DESC))[1], '')
		FROM audit_log WHERE action = $1 AND at > $2 AND at <= $3`, audit.CanaryUsed, at.Add(-r.Window), at).Scan(&m.Value, &m.Subject)
	m.Known = err == nil
	return m, unavailable(err)
}

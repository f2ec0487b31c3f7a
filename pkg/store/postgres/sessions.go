package postgres

import (
	"context"
	"crypto/sha256"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/keywarden/keywarden/pkg/audit"
	"github.com/keywarden/keywarden/pkg/changes"
	"github.com/keywarden/keywarden/pkg/session"
)

var (
	_ session.Store      = (*Store)(nil)
	_ session.StateStore = (*Store)(nil)
	_ session.KeyStore   = (*Store)(nil)
)

const sessionColumns = `id::text, user_id::text, created_at, used_at, idle_until, expires_at, client, user_agent`

func scanSession(row pgx.CollectableRow) (v session.Session, err error) {
	err = row.Scan(&v.ID, &v.UserID, &v.CreatedAt, &v.UsedAt, &v.IdleUntil, &v.ExpiresAt, &v.Client, &v.UserAgent)
	return v, err
}

func oneSession(ctx context.Context, q Querier, sql string, args ...any) (session.Session, error) {
	return One(ctx, q, scanSession, session.ErrNotFound, sql, args...)
}

// InsertSession implements session.Store.
func (s *Store) InsertSession(ctx context.Context, v session.Session, asOf time.Time, refresh [sha256.Size]byte, c changes.Change) error {
	_, err := s.Change(ctx, c, func(tx pgx.Tx) error {
		// The lock makes a change of the user wait, and then see this session.
		tag, err := tx.Exec(ctx, `SELECT FROM users WHERE id = $1 AND updated_at = $2 AND NOT disabled FOR SHARE`, v.UserID, asOf)
		if err != nil {
			return err
		}
		if tag.RowsAffected() == 0 {
			return session.ErrOvertaken
		}
		b := &pgx.Batch{}
		b.Queue(`
			INSERT INTO sessions (id, user_id, created_at, used_at, idle_until, expires_at, client, user_agent)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`,
			v.ID, v.UserID, v.CreatedAt, v.UsedAt, v.IdleUntil, v.ExpiresAt, v.Client, v.UserAgent)
		b.Queue(`INSERT INTO refresh_tokens (digest, session_id, created_at) VALUES ($1, $2, $3)`, refresh[:], v.ID, v.CreatedAt)
		return tx.SendBatch(ctx, b).Close()
	})
	return err
}

// SpendRefresh implements session.Store.
func (s *Store) SpendRefresh(ctx context.Context, spent, next [sha256.Size]byte, now, idleUntil time.Time, client, userAgent string) (v session.Session, err error) {
	err = s.inTx(ctx, func(tx pgx.Tx) error {
		var id string
		err := tx.QueryRow(ctx, `
			UPDATE refresh_tokens SET spent_at = $2 WHERE digest = $1 AND spent_at IS NULL RETURNING session_id::text`,
			spent[:], now).Scan(&id)
		if errors.Is(err, pgx.ErrNoRows) {
			v, err = oneSession(ctx, tx, `
				SELECT `+sessionColumns+` FROM sessions
				WHERE id = (SELECT session_id FROM refresh_tokens WHERE digest = $1)`, spent[:])
			if err != nil {
				return err
			}
			return session.ErrSpent
		}
		if err != nil {
			return err
		}
		v, err = oneSession(ctx, tx, `
			UPDATE sessions SET used_at = $2, idle_until = least($3, expires_at), client = $4, user_agent = $5
			WHERE id = $1 AND ended_at IS NULL AND idle_until > $2 AND expires_at > $2
			RETURNING `+sessionColumns, id, now, idleUntil, client, userAgent)
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `INSERT INTO refresh_tokens (digest, session_id, created_at) VALUES ($1, $2, $3)`, next[:], id, now)
		return err
	})
	if errors.Is(err, session.ErrSpent) {
		return v, session.ErrSpent
	}
	return v, unavailable(err)
}

// SessionState implements session.Store.
func (s *Store) SessionState(ctx context.Context, id string) (v session.State, err error) {
	if !IsUUID(id) {
		return session.State{Ended: true}, nil
	}
	err = s.pool.QueryRow(ctx, `
		SELECT s.user_id::text, u.role, u.disabled, s.expires_at, s.ended_at IS NOT NULL
		FROM sessions s JOIN users u ON u.id = s.user_id WHERE s.id = $1`, id).
		Scan(&v.UserID, &v.Role, &v.Disabled, &v.ExpiresAt, &v.Ended)
	if errors.Is(err, pgx.ErrNoRows) {
		return session.State{Ended: true}, nil
	}
	return v, unavailable(err)
}

// ListSessions implements session.Store.
func (s *Store) ListSessions(ctx context.Context, userID string, now time.Time, limit int) ([]session.Session, error) {
	return Many(ctx, s.pool, scanSession, `
		SELECT `+sessionColumns+` FROM sessions
		WHERE user_id = $1 AND ended_at IS NULL AND idle_until > $2 AND expires_at > $2
		ORDER BY id DESC LIMIT $3`, userID, now, limit)
}

// EndSession implements session.Store.
func (s *Store) EndSession(ctx context.Context, userID, id string, now time.Time, c changes.Change) error {
	if !IsUUID(id) {
		return session.ErrNotFound
	}
	_, err := s.Change(ctx, c, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `
			UPDATE sessions SET ended_at = $3 WHERE id = $1 AND user_id = $2 AND ended_at IS NULL`, id, userID, now)
		if err == nil && tag.RowsAffected() == 0 {
			return session.ErrNotFound
		}
		return err
	})
	return err
}

// KnownClient implements session.Store.
func (s *Store) KnownClient(ctx context.Context, userEmail, client string) (known bool, err error) {
	if !storable(userEmail, client) {
		return false, nil
	}
	err = s.pool.QueryRow(ctx, `
		SELECT EXISTS (SELECT FROM sessions s JOIN users u ON u.id = s.user_id WHERE u.email = $1 AND s.client = $2)`,
		userEmail, client).Scan(&known)
	return known, unavailable(err)
}

// RecordAudit implements session.Store.
func (s *Store) RecordAudit(ctx context.Context, e audit.Entry) error {
	_, err := s.Change(ctx, changes.Change{Audit: e}, nil)
	return err
}

// SigningKeys implements session.KeyStore.
func (s *Store) SigningKeys(ctx context.Context, now time.Time) ([]session.SigningKey, error) {
	return Many(ctx, s.pool, func(row pgx.CollectableRow) (k session.SigningKey, err error) {
		err = row.Scan(&k.ID, &k.Sealed, &k.CreatedAt, &k.SignsFrom, &k.RetiresAt)
		return k, err
	}, `
		SELECT id::text, sealed, created_at, signs_from, retires_at FROM signing_keys
		WHERE retires_at > $1 ORDER BY signs_from, id`, now)
}

// InsertSigningKey implements session.KeyStore.
func (s *Store) InsertSigningKey(ctx context.Context, k session.SigningKey, notAfter time.Time, c changes.Change) (inserted bool, err error) {
	_, err = s.Change(ctx, c, func(tx pgx.Tx) error {
		// The lock makes "is there a newer one" and the insert one step.
		if _, err := tx.Exec(ctx, `LOCK TABLE signing_keys IN SHARE ROW EXCLUSIVE MODE`); err != nil {
			return err
		}
		tag, err := tx.Exec(ctx, `
			INSERT INTO signing_keys (id, sealed, created_at, signs_from, retires_at)
			SELECT $1, $2, $3, $4, $5 WHERE NOT EXISTS (SELECT FROM signing_keys WHERE signs_from > $6)`,
			k.ID, k.Sealed, k.CreatedAt, k.SignsFrom, k.RetiresAt, notAfter)
		if err == nil && tag.RowsAffected() == 0 {
			return errNoChange
		}
		inserted = err == nil
		return err
	})
	return inserted && err == nil, err
}

// ResealSigningKey implements session.KeyStore.
func (s *Store) ResealSigningKey(ctx context.Context, id string, sealed []byte) error {
	_, err := s.pool.Exec(ctx, `UPDATE signing_keys SET sealed = $2 WHERE id = $1`, id, sealed)
	return unavailable(err)
}

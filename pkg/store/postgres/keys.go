package postgres

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/keywarden/keywarden/pkg/apikey"
	"github.com/keywarden/keywarden/pkg/changes"
)

var (
	_ apikey.Store       = (*Store)(nil)
	_ apikey.VerifyStore = (*Store)(nil)
)

const keyColumns = `k.id::text, k.public_id, k.user_id::text, k.name, k.env, k.prefix, k.last_four, k.scopes, k.allowed_ips,
	k.expires_at, k.created_at, k.updated_at, k.revoked_at, k.last_used_at, coalesce(k.app_id::text, ''),
	k.quarantined_at, k.quarantine_note, k.canary`

// keyDest is where a row of keyColumns goes; allowed is to be parsed after.
func keyDest(k *apikey.Key, allowed *[]string) []any {
	return []any{
		&k.ID, &k.PublicID, &k.UserID, &k.Name, &k.Env, &k.Prefix, &k.LastFour, &k.Scopes, allowed,
		&k.ExpiresAt, &k.CreatedAt, &k.UpdatedAt, &k.RevokedAt, &k.LastUsedAt, &k.App,
		&k.QuarantinedAt, &k.QuarantineNote, &k.Canary,
	}
}

func scanKey(row pgx.CollectableRow) (k apikey.Key, err error) {
	var allowed []string
	if err := row.Scan(keyDest(&k, &allowed)...); err != nil {
		return k, err
	}
	k.AllowedIPs, err = parsePrefixes(allowed)
	return k, err
}

// parsePrefixes fails on anything malformed: a restriction that cannot be read
// must not become no restriction.
func parsePrefixes(texts []string) ([]netip.Prefix, error) {
	prefixes := make([]netip.Prefix, 0, len(texts))
	for _, t := range texts {
		p, err := netip.ParsePrefix(t)
		if err != nil {
			return nil, err
		}
		prefixes = append(prefixes, p)
	}
	return prefixes, nil
}

func prefixTexts(prefixes []netip.Prefix) []string {
	texts := make([]string, 0, len(prefixes))
	for _, p := range prefixes {
		texts = append(texts, p.String())
	}
	return texts
}

func oneKey(ctx context.Context, q Querier, sql string, args ...any) (apikey.Key, error) {
	return One(ctx, q, scanKey, apikey.ErrNotFound, sql, args...)
}

// errKept ends a transaction whose answer was kept from an earlier one.
var errKept = errors.New("answered before")

// claim stores the answer under the client's token; when there is one already it
// returns that. A concurrent transaction with the same token is waited for.
func claim(ctx context.Context, tx pgx.Tx, userID string, i apikey.Idempotent, now time.Time) (*apikey.Idempotent, error) {
	if i.Token == "" {
		return nil, nil //nolint:nilnil // no token, nothing kept
	}
	tag, err := tx.Exec(ctx, `
		INSERT INTO idempotency (user_id, token, fingerprint, answer, expires_at) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (user_id, token) DO UPDATE SET fingerprint = excluded.fingerprint, answer = excluded.answer,
			expires_at = excluded.expires_at WHERE idempotency.expires_at <= $6`,
		userID, i.Token, i.Fingerprint[:], i.Answer, i.ExpiresAt, now)
	if err != nil || tag.RowsAffected() == 1 {
		return nil, err
	}
	var (
		kept        = apikey.Idempotent{Token: i.Token}
		fingerprint []byte
	)
	err = tx.QueryRow(ctx, `SELECT fingerprint, answer FROM idempotency WHERE user_id = $1 AND token = $2`, userID, i.Token).
		Scan(&fingerprint, &kept.Answer)
	if err != nil {
		return nil, err
	}
	copy(kept.Fingerprint[:], fingerprint)
	return &kept, errKept
}

// InsertKey implements apikey.Store.
func (s *Store) InsertKey(ctx context.Context, k apikey.Key, secret apikey.Secret, limit int, i apikey.Idempotent, c changes.Change) (kept *apikey.Idempotent, err error) {
	_, err = s.Change(ctx, c, func(tx pgx.Tx) error {
		// The owner's row is locked so that two calls count one after the other.
		var live int
		err := tx.QueryRow(ctx, `SELECT 1 FROM users WHERE id = $1 AND NOT disabled FOR UPDATE`, k.UserID).Scan(&live)
		if errors.Is(err, pgx.ErrNoRows) {
			return apikey.ErrNotFound.WithDetail("The owner of the key does not exist any more.")
		}
		if err != nil {
			return err
		}
		if kept, err = claim(ctx, tx, k.UserID, i, k.CreatedAt); err != nil {
			return err
		}
		err = tx.QueryRow(ctx, `
			SELECT count(*) FROM api_keys
			WHERE user_id = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > $2)`, k.UserID, k.CreatedAt).Scan(&live)
		if err != nil {
			return err
		}
		if live >= limit {
			return apikey.ErrTooMany
		}
		if err := lockAppOfKey(ctx, tx, k); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `
			INSERT INTO api_keys (id, public_id, user_id, name, env, prefix, last_four, scopes, allowed_ips, expires_at, created_at, updated_at, app_id, canary)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $11, nullif($12, '')::uuid, $13)`,
			k.ID, k.PublicID, k.UserID, k.Name, k.Env, k.Prefix, k.LastFour, k.Scopes, prefixTexts(k.AllowedIPs), k.ExpiresAt, k.CreatedAt, k.App, k.Canary)
		if err != nil {
			return err
		}
		return insertSecret(ctx, tx, k.ID, secret)
	})
	if errors.Is(err, errKept) {
		return kept, nil
	}
	return nil, err
}

func insertSecret(ctx context.Context, tx pgx.Tx, keyID string, secret apikey.Secret) error {
	_, err := tx.Exec(ctx, `
		INSERT INTO api_key_secrets (id, key_id, bcrypt, verifier, pepper_id, created_at) VALUES ($1, $2, $3, $4, $5, $6)`,
		secret.ID, keyID, secret.Bcrypt, secret.Verifier, secret.PepperID, secret.CreatedAt)
	return err
}

// maxSecrets bounds the secrets of one key that may be valid at a time.
const maxSecrets = 5

// RotateKey implements apikey.Store.
func (s *Store) RotateKey(ctx context.Context, id string, secret apikey.Secret, lastFour string, now, graceEnd time.Time, i apikey.Idempotent, c changes.Change) (k apikey.Key, kept *apikey.Idempotent, err error) {
	if !IsUUID(id) {
		return k, nil, apikey.ErrNotFound
	}
	_, err = s.Change(ctx, c, func(tx pgx.Tx) error {
		k, err = oneKey(ctx, tx, `SELECT `+keyColumns+` FROM api_keys k WHERE id = $1 FOR UPDATE`, id)
		if err != nil {
			return err
		}
		if kept, err = claim(ctx, tx, k.UserID, i, now); err != nil {
			return err
		}
		if k.RevokedAt != nil {
			return apikey.ErrRevoked
		}
		if k.QuarantinedAt != nil {
			graceEnd = now // the old secret is the one that leaked
		}
		k, err = oneKey(ctx, tx, `
			UPDATE api_keys k SET last_four = $2, updated_at = $3, quarantined_at = NULL, quarantine_note = '' WHERE id = $1 RETURNING `+keyColumns, id, lastFour, now)
		if err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `
			UPDATE api_key_secrets SET valid_until = least(valid_until, $2) WHERE key_id = $1`, id, graceEnd); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `
			DELETE FROM api_key_secrets WHERE key_id = $1 AND (valid_until <= $2 OR id NOT IN (
				SELECT id FROM api_key_secrets WHERE key_id = $1 ORDER BY created_at DESC LIMIT $3))`, id, now, maxSecrets-1); err != nil {
			return err
		}
		return insertSecret(ctx, tx, id, secret)
	})
	if errors.Is(err, errKept) {
		return k, kept, nil
	}
	return k, nil, err
}

// Key implements apikey.Store.
func (s *Store) Key(ctx context.Context, id string) (apikey.Key, error) {
	if !IsUUID(id) {
		return apikey.Key{}, apikey.ErrNotFound
	}
	k, err := oneKey(ctx, s.pool, `SELECT `+keyColumns+` FROM api_keys k WHERE id = $1`, id)
	return k, unavailable(err)
}

// OwnsKey reports whether the user has a key of this id, whatever became of it.
func (s *Store) OwnsKey(ctx context.Context, userID, id string) (owns bool, err error) {
	if !IsUUID(userID) || !IsUUID(id) {
		return false, nil
	}
	err = s.pool.QueryRow(ctx, `SELECT EXISTS (SELECT FROM api_keys WHERE id = $1 AND user_id = $2)`, id, userID).Scan(&owns)
	return owns, unavailable(err)
}

// ListKeys implements apikey.Store.
func (s *Store) ListKeys(ctx context.Context, f apikey.Filter) ([]apikey.Key, error) {
	if f.UserID != "" && !IsUUID(f.UserID) || f.Before != "" && !IsUUID(f.Before) || f.App != "" && !IsUUID(f.App) {
		return nil, nil
	}
	var w Where
	if f.UserID != "" {
		w.Add(`k.user_id = ?`, f.UserID)
	}
	if f.App != "" {
		w.Add(`k.app_id = ?`, f.App)
	}
	if !f.IncludeRevoked {
		w.Add(`k.revoked_at IS NULL`)
	}
	if f.Before != "" {
		w.Add(`k.id < ?`, f.Before)
	}
	return Many(ctx, s.pool, scanKey, `SELECT `+keyColumns+` FROM api_keys k`+w.SQL()+` ORDER BY k.id DESC LIMIT `+w.Arg(f.Limit), w.Args...)
}

// UpdateKey implements apikey.Store.
func (s *Store) UpdateKey(ctx context.Context, id string, p apikey.Patch, now time.Time, c changes.Change) (k apikey.Key, err error) {
	if !IsUUID(id) {
		return k, apikey.ErrNotFound
	}
	var allowed []string
	if p.AllowedIPs != nil {
		allowed = prefixTexts(*p.AllowedIPs)
	}
	_, err = s.Change(ctx, c, func(tx pgx.Tx) error {
		k, err = oneKey(ctx, tx, `
			UPDATE api_keys k SET name = coalesce($2, name), scopes = coalesce($3, scopes),
				scopes_recorded_since = CASE WHEN $3 <@ scopes IS NOT FALSE THEN scopes_recorded_since ELSE $7 END,
				allowed_ips = coalesce($4, allowed_ips),
				expires_at = CASE WHEN $5 THEN NULL ELSE coalesce($6, expires_at) END, updated_at = $7
			WHERE id = $1 AND revoked_at IS NULL RETURNING `+keyColumns,
			id, p.Name, p.Scopes, allowed, p.ClearExpiry, p.ExpiresAt, now)
		if !errors.Is(err, apikey.ErrNotFound) {
			return err
		}
		if _, err := oneKey(ctx, tx, `SELECT `+keyColumns+` FROM api_keys k WHERE id = $1`, id); err != nil {
			return err
		}
		return apikey.ErrRevoked
	})
	return k, err
}

// RevokeKey implements apikey.Store.
func (s *Store) RevokeKey(ctx context.Context, id string, now time.Time, c changes.Change) (epoch int64, err error) {
	if !IsUUID(id) {
		return 0, apikey.ErrNotFound
	}
	return s.Change(ctx, c, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `UPDATE api_keys SET revoked_at = $2, updated_at = $2 WHERE id = $1 AND revoked_at IS NULL`, id, now)
		if err != nil || tag.RowsAffected() == 1 {
			return err
		}
		if _, err := oneKey(ctx, tx, `SELECT `+keyColumns+` FROM api_keys k WHERE id = $1`, id); err != nil {
			return err
		}
		return errNoChange
	})
}

// KeyByPublicID implements apikey.VerifyStore.
func (s *Store) KeyByPublicID(ctx context.Context, publicID string) (apikey.Stored, error) {
	// One row per secret; the key's columns repeat, and what its app is entitled to.
	rows, err := s.pool.Query(ctx, `
		SELECT `+keyColumns+`, u.role, u.disabled, s.id::text, s.bcrypt, s.verifier, s.pepper_id, s.created_at, s.valid_until, `+grantColumns+`
		FROM api_keys k JOIN users u ON u.id = k.user_id JOIN api_key_secrets s ON s.key_id = k.id LEFT JOIN apps a ON a.id = k.app_id
		WHERE k.public_id = $1 ORDER BY s.created_at DESC LIMIT $2`, publicID, maxSecrets)
	if err != nil {
		return apikey.Stored{}, unavailable(err)
	}
	var (
		stored  apikey.Stored
		secret  apikey.Secret
		allowed []string
		active  []entitled
	)
	dest := append(keyDest(&stored.Key, &allowed), &stored.OwnerRole, &stored.OwnerDisabled,
		&secret.ID, &secret.Bcrypt, &secret.Verifier, &secret.PepperID, &secret.CreatedAt, &secret.ValidUntil, &stored.AppSuspended, &active)
	_, err = pgx.ForEachRow(rows, dest, func() error {
		stored.Secrets = append(stored.Secrets, secret)
		return nil
	})
	if err != nil {
		return apikey.Stored{}, unavailable(err)
	}
	if len(stored.Secrets) == 0 {
		return apikey.Stored{}, apikey.ErrNotFound
	}
	stored.Entitled = entitlements(active)
	stored.Key.AllowedIPs, err = parsePrefixes(allowed)
	return stored, err
}

// StoreVerifier implements apikey.VerifyStore.
func (s *Store) StoreVerifier(ctx context.Context, secretID string, old, verifier []byte, pepperID string) error {
	_, err := s.pool.Exec(ctx, `
		UPDATE api_key_secrets s SET verifier = $3, pepper_id = $4
		FROM api_keys k WHERE s.id = $1 AND s.verifier IS NOT DISTINCT FROM $2 AND k.id = s.key_id AND k.revoked_at IS NULL`,
		secretID, old, verifier, pepperID)
	return unavailable(err)
}

// touchBatch is how many keys one statement of TouchKeys updates.
const touchBatch = 5000

// TouchKeys implements apikey.VerifyStore. Rows are locked in the order of their
// ids: every replica does this at the same time, often for the same keys.
func (s *Store) TouchKeys(ctx context.Context, used map[string]time.Time) error {
	for ids := range slices.Chunk(slices.Sorted(maps.Keys(used)), touchBatch) {
		minutes := make([]time.Time, 0, len(ids))
		for _, id := range ids {
			minutes = append(minutes, used[id])
		}
		_, err := s.pool.Exec(ctx, `
			WITH touched AS (
				SELECT k.id, t.minute
				FROM api_keys k JOIN unnest($1::uuid[], $2::timestamptz[]) AS t (id, minute) ON k.id = t.id
				WHERE k.revoked_at IS NULL AND (k.last_used_at IS NULL OR k.last_used_at < t.minute)
				ORDER BY k.id FOR NO KEY UPDATE OF k
			)
			UPDATE api_keys k SET last_used_at = touched.minute FROM touched WHERE k.id = touched.id`, ids, minutes)
		if err != nil {
			return unavailable(err)
		}
	}
	return nil
}

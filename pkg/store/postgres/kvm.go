package postgres

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"

	"github.com/keywarden/keywarden/pkg/changes"
	"github.com/keywarden/keywarden/pkg/kvm"
)

var _ kvm.Store = (*Store)(nil)

// Environments and names are compared byte by byte, whatever the locale of the
// database: pages go on where the one before has ended.
const (
	secretColumns = `environment, name, version, key_id, created_at, updated_at`
	kvmOrder      = ` ORDER BY environment COLLATE "C", name COLLATE "C" LIMIT `
)

func secretDest(e *kvm.Entry) []any {
	return []any{&e.Environment, &e.Name, &e.Version, &e.KeyID, &e.CreatedAt, &e.UpdatedAt}
}

// secretsWhere is the condition of a filter.
func secretsWhere(f kvm.Filter) (w Where) {
	if f.Environment != "" {
		w.Add(`environment = ?`, f.Environment)
	}
	if f.AfterEnvironment != "" {
		w.Add(`(environment COLLATE "C", name COLLATE "C") > (?, ?)`, f.AfterEnvironment, f.AfterName)
	}
	return w
}

// ListSecrets implements kvm.Store.
func (s *Store) ListSecrets(ctx context.Context, f kvm.Filter) ([]kvm.Entry, error) {
	if !storable(f.Environment, f.AfterEnvironment, f.AfterName) {
		return nil, nil
	}
	w := secretsWhere(f)
	return Many(ctx, s.pool, func(row pgx.CollectableRow) (e kvm.Entry, err error) {
		err = row.Scan(secretDest(&e)...)
		return e, err
	}, `SELECT `+secretColumns+` FROM secrets`+w.SQL()+kvmOrder+w.Arg(f.Limit), w.Args...)
}

// Secret implements kvm.Store.
func (s *Store) Secret(ctx context.Context, environment, name string) (r kvm.Row, err error) {
	if !storable(environment, name) {
		return r, kvm.ErrNotFound
	}
	err = s.pool.QueryRow(ctx, `SELECT `+secretColumns+`, sealed FROM secrets WHERE environment = $1 AND name = $2`, environment, name).
		Scan(append(secretDest(&r.Entry), &r.Sealed)...)
	if errors.Is(err, pgx.ErrNoRows) {
		return r, kvm.ErrNotFound
	}
	return r, unavailable(err)
}

// PutSecret implements kvm.Store. Writers take turns, readers do not wait: the
// version has to be known before the value is sealed, and there are few writers.
func (s *Store) PutSecret(ctx context.Context, environment, name string, prepare func(int64) (kvm.Value, changes.Change)) (e kvm.Entry, err error) {
	_, err = s.changeAs(ctx, func(tx pgx.Tx) (c changes.Change, err error) {
		if _, err := tx.Exec(ctx, `LOCK TABLE secrets IN SHARE ROW EXCLUSIVE MODE`); err != nil {
			return c, err
		}
		var version, count int64
		err = tx.QueryRow(ctx, `
			SELECT coalesce((SELECT version FROM secrets WHERE environment = $1 AND name = $2), 0), (SELECT count(*) FROM secrets)`,
			environment, name).Scan(&version, &count)
		if err != nil {
			return c, err
		}
		if version == 0 && count >= kvm.MaxSecrets {
			return c, kvm.ErrFull
		}
		value, c := prepare(version + 1)
		err = tx.QueryRow(ctx, `
			INSERT INTO secrets (environment, name, version, key_id, sealed) VALUES ($1, $2, $3, $4, $5)
			ON CONFLICT (environment, name) DO UPDATE
			SET version = excluded.version, key_id = excluded.key_id, sealed = excluded.sealed, updated_at = now()
			RETURNING `+secretColumns, environment, name, version+1, value.KeyID, value.Sealed).Scan(secretDest(&e)...)
		return c, err
	})
	return e, err
}

// DeleteSecret implements kvm.Store.
func (s *Store) DeleteSecret(ctx context.Context, environment, name string, c changes.Change) error {
	_, err := s.Change(ctx, c, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `DELETE FROM secrets WHERE environment = $1 AND name = $2`, environment, name)
		if err == nil && tag.RowsAffected() == 0 {
			return kvm.ErrNotFound
		}
		return err
	})
	return err
}

// SecretsNotUnder implements kvm.Store.
func (s *Store) SecretsNotUnder(ctx context.Context, keyID string, f kvm.Filter) ([]kvm.Row, error) {
	w := secretsWhere(f)
	w.Add(`key_id <> ?`, keyID)
	return Many(ctx, s.pool, func(row pgx.CollectableRow) (r kvm.Row, err error) {
		err = row.Scan(append(secretDest(&r.Entry), &r.Sealed)...)
		return r, err
	}, `SELECT `+secretColumns+`, sealed FROM secrets`+w.SQL()+kvmOrder+w.Arg(f.Limit), w.Args...)
}

// ResealSecret implements kvm.Store. The sealed value is the condition: a secret that
// was deleted and made anew meanwhile may have the same version.
func (s *Store) ResealSecret(ctx context.Context, before kvm.Row, v kvm.Value) (bool, error) {
	tag, err := s.pool.Exec(ctx, `
		UPDATE secrets SET sealed = $5, key_id = $6
		WHERE environment = $1 AND name = $2 AND version = $3 AND sealed = $4`,
		before.Environment, before.Name, before.Version, before.Sealed, v.Sealed, v.KeyID)
	return tag.RowsAffected() == 1, unavailable(err)
}

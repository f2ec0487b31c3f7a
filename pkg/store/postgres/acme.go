package postgres

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/keywarden/keywarden/pkg/acme"
)

var _ acme.Store = (*Store)(nil)

// ACMEItem implements acme.Store.
func (s *Store) ACMEItem(ctx context.Context, directory, name string) (sealed []byte, err error) {
	err = s.pool.QueryRow(ctx, `SELECT sealed FROM acme_items WHERE directory = $1 AND name = $2`, directory, name).Scan(&sealed)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, acme.ErrNotFound
	}
	return sealed, unavailable(err)
}

// PutACMEItem implements acme.Store.
func (s *Store) PutACMEItem(ctx context.Context, directory, name string, sealed []byte) error {
	_, err := s.pool.Exec(ctx, `
		INSERT INTO acme_items (directory, name, sealed) VALUES ($1, $2, $3)
		ON CONFLICT (directory, name) DO UPDATE SET sealed = excluded.sealed, updated_at = now()`, directory, name, sealed)
	return unavailable(err)
}

// AddACMEItem implements acme.Store.
func (s *Store) AddACMEItem(ctx context.Context, directory, name string, sealed []byte) error {
	_, err := s.pool.Exec(ctx, `INSERT INTO acme_items (directory, name, sealed) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING`,
		directory, name, sealed)
	return unavailable(err)
}

// DeleteACMEItem implements acme.Store.
func (s *Store) DeleteACMEItem(ctx context.Context, directory, name string) error {
	_, err := s.pool.Exec(ctx, `DELETE FROM acme_items WHERE directory = $1 AND name = $2`, directory, name)
	return unavailable(err)
}

// LeaseACME implements acme.Store. The clock is the database's.
func (s *Store) LeaseACME(ctx context.Context, directory, name, holder string, ttl time.Duration) (bool, error) {
	tag, err := s.pool.Exec(ctx, `
		INSERT INTO acme_leases AS l (directory, name, holder, until) VALUES ($1, $2, $3, now() + make_interval(secs => $4))
		ON CONFLICT (directory, name) DO UPDATE SET holder = excluded.holder, until = excluded.until
		WHERE l.until < now() OR l.holder = excluded.holder`, directory, name, holder, ttl.Seconds())
	return tag.RowsAffected() == 1, unavailable(err)
}

// ReleaseACME implements acme.Store.
func (s *Store) ReleaseACME(ctx context.Context, directory, name, holder string) error {
	_, err := s.pool.Exec(ctx, `DELETE FROM acme_leases WHERE directory = $1 AND name = $2 AND holder = $3`, directory, name, holder)
	return unavailable(err)
}

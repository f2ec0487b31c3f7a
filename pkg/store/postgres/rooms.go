package postgres

import (
	"context"

	"github.com/jackc/pgx/v5"
)

// What rooms below this one reach the database by, beside [Store.Change], which is for
// what is audited, and [Store.Transact].

// Query asks in no transaction. Its errors are the driver's: [One] and [Many] take a
// Store and map them.
func (s *Store) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	return s.pool.Query(ctx, sql, args...)
}

// Exec runs one statement that is not audited, and returns how many rows it has
// changed. An outage is [ErrUnavailable].
func (s *Store) Exec(ctx context.Context, sql string, args ...any) (rows int64, err error) {
	tag, err := s.pool.Exec(ctx, sql, args...)
	return tag.RowsAffected(), unavailable(err)
}

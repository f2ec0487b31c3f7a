// Package alertstore keeps alerts in PostgreSQL: the rules, channels, silences and the
// history that operators see and change, the leases of rules, and the outbox, which
// package alert declares.
//
// It owns the tables alert_rules, alert_channels, alert_rule_channels, alerts,
// alert_silences and alert_deliveries. Figures of other tables are read by the packages
// that own these. Changes are committed with their audit entries by package postgres,
// the connections of which it shares.
package alertstore

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/keywarden/keywarden/pkg/alert"
	"github.com/keywarden/keywarden/pkg/changes"
	"github.com/keywarden/keywarden/pkg/store/postgres"
)

var (
	_ alert.Store           = (*Store)(nil)
	_ alert.EvaluationStore = (*Store)(nil)
	_ alert.Outbox          = (*Store)(nil)
)

// Store keeps alerts. It is safe for concurrent use. What means that the database
// cannot be asked is postgres.ErrUnavailable.
type Store struct {
	db *postgres.Store
}

// New is a store of alerts in the database db, which must stay open.
func New(db *postgres.Store) *Store { return &Store{db: db} }

// RecordChange implements alert.Store.
func (s *Store) RecordChange(ctx context.Context, c changes.Change) (epoch int64, err error) {
	return s.db.RecordChange(ctx, c)
}

// foreignKeyViolation is the SQLSTATE of a row that names one that there is not, or
// that is named by one.
const foreignKeyViolation = "23503"

// refers reports whether err is the violation of the named foreign key.
func refers(err error, constraint string) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && pg.Code == foreignKeyViolation && pg.ConstraintName == constraint
}

// countAlertThings returns ErrFull unless there is room for another row in a table.
// Writers take turns until they commit, others do not wait for them.
func countAlertThings(ctx context.Context, tx pgx.Tx, table, condition string, most int) error {
	if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock(hashtext($1))`, table); err != nil {
		return err
	}
	var n int
	if err := tx.QueryRow(ctx, `SELECT count(*) FROM `+table+condition).Scan(&n); err != nil {
		return err
	}
	if n >= most {
		return alert.ErrFull
	}
	return nil
}

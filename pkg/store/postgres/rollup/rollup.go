// Package rollup keeps the sums of hours, days and months in PostgreSQL, which package
// analytics declares, and answers questions from them and from the minutes since.
//
// It owns the tables analytics_*. The minutes, and the marks of those that came late, are
// written by package postgres, the connections of which it shares.
package rollup

import (
	"github.com/keywarden/keywarden/pkg/analytics"
	"github.com/keywarden/keywarden/pkg/store/postgres"
)

var _ analytics.Store = (*Store)(nil)

// Store makes sums and reads them. It is safe for concurrent use. What means that the
// database cannot be asked is postgres.ErrUnavailable.
type Store struct {
	db *postgres.Store
}

// New is a store of sums in the database db, which must stay open.
func New(db *postgres.Store) *Store { return &Store{db: db} }

package alertstore

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/keywarden/keywarden/pkg/alert"
	"github.com/keywarden/keywarden/pkg/changes"
	"github.com/keywarden/keywarden/pkg/store/postgres"
)

// ListAlerts implements alert.Store.
func (s *Store) ListAlerts(ctx context.Context, f alert.AlertFilter) ([]alert.Alert, error) {
	var w postgres.Where
	if f.State != "" {
		w.Add(`state = ?`, f.State)
	}
	if f.RuleID != "" {
		if !postgres.IsUUID(f.RuleID) {
			return nil, nil
		}
		w.Add(`rule_id = ?`, f.RuleID)
	}
	if f.Before != "" {
		w.Add(`id < ?::uuid`, f.Before)
	}
	return postgres.Many(ctx, s.db, pgx.RowTo[alert.Alert], `SELECT alert FROM alerts`+w.SQL()+` ORDER BY id DESC LIMIT `+w.Arg(f.Limit), w.Args...)
}

// Alert implements alert.Store.
func (s *Store) Alert(ctx context.Context, id string) (alert.Alert, error) {
	if !postgres.IsUUID(id) {
		return alert.Alert{}, alert.ErrAlertNotFound
	}
	return postgres.One(ctx, s.db, pgx.RowTo[alert.Alert], alert.ErrAlertNotFound, `SELECT alert FROM alerts WHERE id = $1`, id)
}

// ListAlertSilences implements alert.Store.
func (s *Store) ListAlertSilences(ctx context.Context, f alert.SilenceFilter) ([]alert.Silence, error) {
	var w postgres.Where
	if !f.Ended {
		w.Add(`ends > now()`)
	}
	if f.Before != "" {
		w.Add(`id < ?::uuid`, f.Before)
	}
	return postgres.Many(ctx, s.db, func(row pgx.CollectableRow) (v alert.Silence, err error) {
		err = row.Scan(&v.ID, &v.RuleID, &v.Begins, &v.Ends, &v.Comment, &v.CreatedBy, &v.CreatedAt)
		return v, err
	}, `SELECT id::text, coalesce(rule_id::text, ''), begins, ends, comment, created_by, created_at FROM alert_silences`+
		w.SQL()+` ORDER BY id DESC LIMIT `+w.Arg(f.Limit), w.Args...)
}

// InsertAlertSilence implements alert.Store.
func (s *Store) InsertAlertSilence(ctx context.Context, v alert.Silence, c changes.Change) (alert.Silence, error) {
	_, err := s.db.Change(ctx, c, func(tx pgx.Tx) error {
		if err := countAlertThings(ctx, tx, "alert_silences", ` WHERE ends > now()`, alert.MaxSilences); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `
			INSERT INTO alert_silences (id, rule_id, begins, ends, comment, created_by, created_at)
			VALUES ($1, nullif($2, '')::uuid, $3, $4, $5, $6, $7)`, v.ID, v.RuleID, v.Begins, v.Ends, v.Comment, v.CreatedBy, v.CreatedAt)
		if refers(err, "alert_silences_rule_id_fkey") {
			return alert.ErrRuleNotFound
		}
		return err
	})
	return v, err
}

// EndAlertSilence implements alert.Store.
func (s *Store) EndAlertSilence(ctx context.Context, id string, c changes.Change) error {
	if !postgres.IsUUID(id) {
		return alert.ErrSilenceNotFound
	}
	_, err := s.db.Change(ctx, c, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `UPDATE alert_silences SET begins = least(begins, now()), ends = now() WHERE id = $1 AND ends > now()`, id)
		if err == nil && tag.RowsAffected() == 0 {
			return alert.ErrSilenceNotFound
		}
		return err
	})
	return err
}

package alertstore

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/keywarden/keywarden/pkg/alert"
	"github.com/keywarden/keywarden/pkg/store/postgres"
)

// ClaimAlertRules implements alert.EvaluationStore. All times are those of the
// database: replicas need not agree on theirs.
func (s *Store) ClaimAlertRules(ctx context.Context, replica string, lease, interval time.Duration, limit int) ([]alert.Claim, error) {
	const sql = `
		WITH due AS (
			SELECT id FROM alert_rules
			WHERE enabled AND next_at <= now() AND (holder = $1 OR leased_until <= now())
			ORDER BY next_at LIMIT $4 FOR UPDATE SKIP LOCKED
		)
		UPDATE alert_rules r SET holder = $1, turn = turn + 1, leased_until = now() + make_interval(secs => $2),
			next_at = now() + make_interval(secs => $3)
		FROM due WHERE r.id = due.id
		RETURNING r.id::text, name, spec, status, turn, now(), EXISTS (
			SELECT FROM alert_silences s WHERE s.begins <= now() AND s.ends > now() AND (s.rule_id IS NULL OR s.rule_id = r.id))`
	return postgres.Many(ctx, s.db, func(row pgx.CollectableRow) (c alert.Claim, err error) {
		var spec, status []byte
		var name string
		if err := row.Scan(&c.Rule.ID, &name, &spec, &status, &c.Turn, &c.At, &c.Silenced); err != nil {
			return c, err
		}
		err = errors.Join(json.Unmarshal(spec, &c.Rule.Spec), json.Unmarshal(status, &c.Rule.Status))
		c.Rule.Name, c.Rule.Enabled = name, true
		return c, err
	}, sql, replica, lease.Seconds(), interval.Seconds(), limit)
}

// CommitAlertRule implements alert.EvaluationStore. Whoever has lost the rule changes
// nothing: the first statement is the condition of the rest.
func (s *Store) CommitAlertRule(ctx context.Context, c alert.Claim, o alert.Outcome) (mine bool, err error) {
	err = s.db.Transact(ctx, pgx.TxOptions{}, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `UPDATE alert_rules SET status = $3 WHERE id = $1 AND turn = $2 AND enabled`, c.Rule.ID, c.Turn, o.Status)
		if mine = tag.RowsAffected() == 1; err != nil || !mine || o.Alert == nil {
			return err
		}
		if err := putAlert(ctx, tx, *o.Alert); err != nil || o.Tell == nil {
			return err
		}
		return enqueueAlert(ctx, tx, *o.Tell)
	})
	return mine && err == nil, err
}

// putAlert stores an alert in its present state.
func putAlert(ctx context.Context, tx pgx.Tx, a alert.Alert) error {
	var resolved *time.Time
	if a.State == alert.Resolved {
		resolved = &a.ResolvedAt
	}
	_, err := tx.Exec(ctx, `
		INSERT INTO alerts (id, rule_id, state, alert, fired_at, resolved_at) VALUES ($1, $2, $3, $4, $5, $6)
		ON CONFLICT (id) DO UPDATE SET state = excluded.state, alert = excluded.alert, resolved_at = excluded.resolved_at`,
		a.ID, a.RuleID, a.State, a, a.FiredAt, resolved)
	return err
}

// enqueueAlert puts a notification on its way: that of a beginning to the channels of
// the rule that are enabled, that of an end to those that were told of the beginning.
func enqueueAlert(ctx context.Context, tx pgx.Tx, n alert.Notification) error {
	sql := `SELECT c.id::text FROM alert_rule_channels rc JOIN alert_channels c ON c.id = rc.channel_id AND c.enabled WHERE rc.rule_id = $1 ORDER BY place`
	about := n.Alert.RuleID
	if n.Event == alert.EventResolved {
		sql = `SELECT channel_id::text FROM alert_deliveries WHERE alert_id = $1 AND event = 'alert.firing'`
		about = n.Alert.ID
	}
	rows, err := tx.Query(ctx, sql, about)
	if err != nil {
		return err
	}
	channels, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	for _, channel := range channels {
		id, err := uuid.NewV7()
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `INSERT INTO alert_deliveries (id, alert_id, channel_id, event, notification) VALUES ($1, $2, $3, $4, $5)`,
			id, n.Alert.ID, channel, n.Event, n)
		if err != nil {
			return err
		}
	}
	return nil
}

// ReleaseAlertRules implements alert.EvaluationStore.
func (s *Store) ReleaseAlertRules(ctx context.Context, replica string) error {
	_, err := s.db.Exec(ctx, `UPDATE alert_rules SET holder = '', leased_until = '-infinity' WHERE holder = $1`, replica)
	return err
}

// pruneBatch is how many rows of a table one sweep deletes at most.
const pruneBatch = 5000

// PruneAlerts implements alert.EvaluationStore. Deliveries go with their alerts.
func (s *Store) PruneAlerts(ctx context.Context, before time.Time) error {
	var failed []error
	for _, table := range []struct{ name, column string }{{"alerts", "resolved_at"}, {"alert_silences", "ends"}} {
		_, err := s.db.Exec(ctx, `DELETE FROM `+table.name+` WHERE id IN (
			SELECT id FROM `+table.name+` WHERE `+table.column+` < $1 LIMIT $2 FOR UPDATE SKIP LOCKED)`, before, pruneBatch)
		failed = append(failed, err)
	}
	return errors.Join(failed...)
}

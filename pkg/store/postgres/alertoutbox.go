package postgres

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/keywarden/keywarden/pkg/alert"
	"github.com/keywarden/keywarden/pkg/changes"
	"github.com/keywarden/keywarden/pkg/usage"
)

var (
	_ alert.EvaluationStore = (*Store)(nil)
	_ alert.Outbox          = (*Store)(nil)
	_ alert.Refusals        = (*Store)(nil)
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
	return many(ctx, s.pool, func(row pgx.CollectableRow) (c alert.Claim, err error) {
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
	err = s.inTx(ctx, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `UPDATE alert_rules SET status = $3 WHERE id = $1 AND turn = $2 AND enabled`, c.Rule.ID, c.Turn, o.Status)
		if mine = tag.RowsAffected() == 1; err != nil || !mine || o.Alert == nil {
			return err
		}
		if err := putAlert(ctx, tx, *o.Alert); err != nil || o.Tell == nil {
			return err
		}
		return enqueueAlert(ctx, tx, *o.Tell)
	})
	return mine && err == nil, unavailable(err)
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
	_, err := s.pool.Exec(ctx, `UPDATE alert_rules SET holder = '', leased_until = '-infinity' WHERE holder = $1`, replica)
	return unavailable(err)
}

// PruneAlerts implements alert.EvaluationStore. Deliveries go with their alerts.
func (s *Store) PruneAlerts(ctx context.Context, before time.Time) error {
	var failed []error
	for _, table := range []struct{ name, column string }{{"alerts", "resolved_at"}, {"alert_silences", "ends"}} {
		_, err := s.pool.Exec(ctx, `DELETE FROM `+table.name+` WHERE id IN (
			SELECT id FROM `+table.name+` WHERE `+table.column+` < $1 LIMIT $2 FOR UPDATE SKIP LOCKED)`, before, sweepBatch)
		failed = append(failed, unavailable(err))
	}
	return errors.Join(failed...)
}

// ---- deliveries

const alertDeliveryColumns = `d.id::text, d.alert_id::text, d.channel_id::text, c.name, d.event, d.state, d.attempts, d.error, d.next_at, d.created_at, d.finished_at`

// alertDeliveryDest is where the columns go; finished is NULL while it is pending.
func alertDeliveryDest(d *alert.Delivery, finished **time.Time) []any {
	return []any{&d.ID, &d.AlertID, &d.ChannelID, &d.Channel, &d.Event, &d.State, &d.Attempts, &d.Error, &d.NextAt, &d.CreatedAt, finished}
}

func scanAlertDelivery(row pgx.CollectableRow) (d alert.Delivery, err error) {
	var finished *time.Time
	if err := row.Scan(alertDeliveryDest(&d, &finished)...); err != nil {
		return d, err
	}
	if finished != nil {
		d.FinishedAt = *finished
	}
	return d, nil
}

// ListAlertDeliveries implements alert.Store.
func (s *Store) ListAlertDeliveries(ctx context.Context, f alert.DeliveryFilter) ([]alert.Delivery, error) {
	var w where
	if f.State != "" {
		w.add(`d.state = ?`, f.State)
	}
	for _, only := range []struct{ condition, id string }{{`d.alert_id = ?`, f.AlertID}, {`d.channel_id = ?`, f.ChannelID}} {
		if only.id == "" {
			continue
		}
		if !isUUID(only.id) {
			return nil, nil
		}
		w.add(only.condition, only.id)
	}
	if f.Before != "" {
		w.add(`d.id < ?::uuid`, f.Before)
	}
	return many(ctx, s.pool, scanAlertDelivery, `SELECT `+alertDeliveryColumns+` FROM alert_deliveries d JOIN alert_channels c ON c.id = d.channel_id`+
		w.sql()+` ORDER BY d.id DESC LIMIT `+w.arg(f.Limit), w.args...)
}

// RetryAlertDelivery implements alert.Store.
func (s *Store) RetryAlertDelivery(ctx context.Context, id string, c changes.Change) (d alert.Delivery, err error) {
	if !isUUID(id) {
		return d, alert.ErrDeliveryNotFound
	}
	_, err = s.change(ctx, c, func(tx pgx.Tx) error {
		var finished *time.Time
		err := tx.QueryRow(ctx, `
			UPDATE alert_deliveries d SET state = 'pending', attempts = 0, next_at = now(), leased_until = '-infinity', finished_at = NULL
			FROM alert_channels c WHERE c.id = d.channel_id AND d.id = $1 AND d.state = 'dead'
			RETURNING `+alertDeliveryColumns, id).Scan(alertDeliveryDest(&d, &finished)...)
		if errors.Is(err, pgx.ErrNoRows) {
			return alert.ErrDeliveryNotFound
		}
		return err
	})
	return d, err
}

// ClaimAlertDeliveries implements alert.Outbox.
func (s *Store) ClaimAlertDeliveries(ctx context.Context, replica string, lease time.Duration, limit int) ([]alert.Sending, error) {
	const sql = `
		WITH due AS (
			SELECT id FROM alert_deliveries d
			WHERE state = 'pending' AND next_at <= now() AND leased_until <= now() AND (event = 'alert.firing' OR NOT EXISTS (
				SELECT FROM alert_deliveries e
				WHERE e.alert_id = d.alert_id AND e.channel_id = d.channel_id AND e.event = 'alert.firing' AND e.state = 'pending'))
			ORDER BY next_at LIMIT $3 FOR UPDATE SKIP LOCKED
		)
		UPDATE alert_deliveries d SET attempts = attempts + 1, holder = $1, leased_until = now() + make_interval(secs => $2)
		FROM due, alert_channels c WHERE d.id = due.id AND c.id = d.channel_id
		RETURNING ` + alertDeliveryColumns + `, d.notification, c.version, c.kind, c.enabled, c.recipients, c.host, c.key_id, c.sealed`
	return many(ctx, s.pool, func(row pgx.CollectableRow) (v alert.Sending, err error) {
		var finished *time.Time
		dest := append(alertDeliveryDest(&v.Delivery, &finished),
			&v.Notification, &v.To.Version, &v.To.Kind, &v.To.Enabled, &v.To.Recipients, &v.To.Host, &v.To.KeyID, &v.To.Sealed)
		err = row.Scan(dest...)
		v.Notification.ID, v.To.ID, v.To.Name = v.ID, v.ChannelID, v.Channel
		return v, err
	}, sql, replica, lease.Seconds(), limit)
}

// FinishAlertDelivery implements alert.Outbox. The attempt is part of the condition:
// whoever took too long does not overrule the one who went on.
func (s *Store) FinishAlertDelivery(ctx context.Context, d alert.Delivery, replica string, r alert.Result) (bool, error) {
	tag, err := s.pool.Exec(ctx, `
		UPDATE alert_deliveries SET state = $4::text, error = $5, next_at = now() + make_interval(secs => $6), leased_until = '-infinity',
			finished_at = CASE WHEN $4::text = 'pending' THEN NULL ELSE now() END
		WHERE id = $1 AND holder = $2 AND attempts = $3 AND state = 'pending'`,
		d.ID, replica, d.Attempts, string(r.State), r.Error, r.Wait.Seconds())
	return tag.RowsAffected() == 1, unavailable(err)
}

// ---- figures

// RefusedRequests implements alert.Refusals.
func (s *Store) RefusedRequests(ctx context.Context, from, to time.Time, filter map[usage.Dimension]string) (n int64, err error) {
	var w where
	w.add("minute >= ? AND minute < ?", from, to)
	w.conditions = append(w.conditions, "refusal <> ''")
	for _, d := range usage.Dimensions() {
		if v, given := filter[d]; given {
			w.add(usageDimension(d)+" = ?", v)
		}
	}
	err = s.pool.QueryRow(ctx, `SELECT coalesce(sum(requests), 0)::bigint FROM usage_minutes`+w.sql(), w.args...).Scan(&n)
	return n, unavailable(err)
}

// QuotasReached is the gauge of [alert.QuotaReached]: how many accounts were used up
// within the window, and which was the last.
func (s *Store) QuotasReached(ctx context.Context, r alert.Spec, at time.Time) (m alert.Reading, err error) {
	err = s.pool.QueryRow(ctx, `
		SELECT count(*)::float8, coalesce((array_agg(quota || ' of ' || kind || ' ' || subject ORDER BY number DESC))[1], '')
		FROM quota_events WHERE level = 100 AND at > $1 AND at <= $2`, at.Add(-r.Window), at).Scan(&m.Value, &m.Subject)
	m.Known = err == nil
	return m, unavailable(err)
}

// FirstKeyExpiry is the gauge of [alert.KeyExpiry]: how many days are left to the key
// in force that expires first, and which that is. A key that was made to live for no
// longer than the threshold is near its end all its life, and does not count.
func (s *Store) FirstKeyExpiry(ctx context.Context, r alert.Spec, at time.Time) (m alert.Reading, err error) {
	err = s.pool.QueryRow(ctx, `
		SELECT extract(epoch FROM expires_at - $1)::float8 / 86400, 'API key ' || public_id FROM api_keys
		WHERE revoked_at IS NULL AND expires_at > $1 AND expires_at - created_at > make_interval(secs => $2)
		ORDER BY expires_at LIMIT 1`, at, r.ResolveThreshold*24*60*60).Scan(&m.Value, &m.Subject)
	if errors.Is(err, pgx.ErrNoRows) {
		return alert.Reading{Known: true, Value: alert.Never, Subject: "no API key"}, nil
	}
	m.Known = err == nil
	return m, unavailable(err)
}

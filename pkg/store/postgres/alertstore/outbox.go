package alertstore

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/keywarden/keywarden/pkg/alert"
	"github.com/keywarden/keywarden/pkg/changes"
	"github.com/keywarden/keywarden/pkg/store/postgres"
)

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
	var w postgres.Where
	if f.State != "" {
		w.Add(`d.state = ?`, f.State)
	}
	for _, only := range []struct{ condition, id string }{{`d.alert_id = ?`, f.AlertID}, {`d.channel_id = ?`, f.ChannelID}} {
		if only.id == "" {
			continue
		}
		if !postgres.IsUUID(only.id) {
			return nil, nil
		}
		w.Add(only.condition, only.id)
	}
	if f.Before != "" {
		w.Add(`d.id < ?::uuid`, f.Before)
	}
	return postgres.Many(ctx, s.db, scanAlertDelivery, `SELECT `+alertDeliveryColumns+` FROM alert_deliveries d JOIN alert_channels c ON c.id = d.channel_id`+
		w.SQL()+` ORDER BY d.id DESC LIMIT `+w.Arg(f.Limit), w.Args...)
}

// RetryAlertDelivery implements alert.Store.
func (s *Store) RetryAlertDelivery(ctx context.Context, id string, c changes.Change) (d alert.Delivery, err error) {
	if !postgres.IsUUID(id) {
		return d, alert.ErrDeliveryNotFound
	}
	_, err = s.db.Change(ctx, c, func(tx pgx.Tx) error {
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
	return postgres.Many(ctx, s.db, func(row pgx.CollectableRow) (v alert.Sending, err error) {
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
	n, err := s.db.Exec(ctx, `
		UPDATE alert_deliveries SET state = $4::text, error = $5, next_at = now() + make_interval(secs => $6), leased_until = '-infinity',
			finished_at = CASE WHEN $4::text = 'pending' THEN NULL ELSE now() END
		WHERE id = $1 AND holder = $2 AND attempts = $3 AND state = 'pending'`,
		d.ID, replica, d.Attempts, string(r.State), r.Error, r.Wait.Seconds())
	return n == 1, err
}

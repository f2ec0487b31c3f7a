package alertstore

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"

	"github.com/keywarden/keywarden/pkg/alert"
	"github.com/keywarden/keywarden/pkg/changes"
	"github.com/keywarden/keywarden/pkg/store/postgres"
)

const alertChannelColumns = `id::text, version, name, kind, enabled, recipients, host, key_id, sealed, created_at, updated_at`

func alertChannelDest(c *alert.Channel) []any {
	return []any{&c.ID, &c.Version, &c.Name, &c.Kind, &c.Enabled, &c.Recipients, &c.Host, &c.KeyID, &c.Sealed, &c.CreatedAt, &c.UpdatedAt}
}

func scanAlertChannel(row pgx.CollectableRow) (c alert.Channel, err error) {
	return c, row.Scan(alertChannelDest(&c)...)
}

// ListAlertChannels implements alert.Store.
func (s *Store) ListAlertChannels(ctx context.Context, f alert.RuleFilter) ([]alert.Channel, error) {
	var w postgres.Where
	if f.After != "" {
		w.Add(`id > ?::uuid`, f.After)
	}
	return postgres.Many(ctx, s.db, scanAlertChannel, `SELECT `+alertChannelColumns+` FROM alert_channels`+w.SQL()+` ORDER BY id LIMIT `+w.Arg(f.Limit), w.Args...)
}

// AlertChannelsNotUnder implements alert.Store.
func (s *Store) AlertChannelsNotUnder(ctx context.Context, keyID string, f alert.RuleFilter) ([]alert.Channel, error) {
	return postgres.Many(ctx, s.db, scanAlertChannel, `SELECT `+alertChannelColumns+` FROM alert_channels
		WHERE sealed IS NOT NULL AND key_id <> $1 ORDER BY id LIMIT $2`, keyID, f.Limit)
}

// AlertChannel implements alert.Store.
func (s *Store) AlertChannel(ctx context.Context, id string) (alert.Channel, error) {
	if !postgres.IsUUID(id) {
		return alert.Channel{}, alert.ErrChannelNotFound
	}
	return postgres.One(ctx, s.db, scanAlertChannel, alert.ErrChannelNotFound, `SELECT `+alertChannelColumns+` FROM alert_channels WHERE id = $1`, id)
}

// InsertAlertChannel implements alert.Store.
func (s *Store) InsertAlertChannel(ctx context.Context, ch alert.Channel, c changes.Change) (out alert.Channel, err error) {
	_, err = s.db.Change(ctx, c, func(tx pgx.Tx) error {
		if err := countAlertThings(ctx, tx, "alert_channels", "", alert.MaxChannels); err != nil {
			return err
		}
		return tx.QueryRow(ctx, `
			INSERT INTO alert_channels (id, version, name, kind, enabled, recipients, host, key_id, sealed)
			VALUES ($1, $2, $3, $4, $5, coalesce($6, '{}'::text[]), $7, $8, $9) RETURNING `+alertChannelColumns,
			ch.ID, ch.Version, ch.Name, ch.Kind, ch.Enabled, ch.Recipients, ch.Host, ch.KeyID, ch.Sealed).Scan(alertChannelDest(&out)...)
	})
	return out, alertRuleError(err)
}

// UpdateAlertChannel implements alert.Store.
func (s *Store) UpdateAlertChannel(ctx context.Context, ch alert.Channel, c changes.Change) (out alert.Channel, err error) {
	_, err = s.db.Change(ctx, c, func(tx pgx.Tx) error {
		err := tx.QueryRow(ctx, `
			UPDATE alert_channels SET version = $2, name = $3, enabled = $4, recipients = coalesce($5, '{}'::text[]), host = $6, key_id = $7,
				sealed = $8, updated_at = now()
			WHERE id = $1 AND version = $2 - 1 RETURNING `+alertChannelColumns,
			ch.ID, ch.Version, ch.Name, ch.Enabled, ch.Recipients, ch.Host, ch.KeyID, ch.Sealed).Scan(alertChannelDest(&out)...)
		if errors.Is(err, pgx.ErrNoRows) {
			return alert.ErrChannelNotFound
		}
		return err
	})
	return out, alertRuleError(err)
}

// DeleteAlertChannel implements alert.Store.
func (s *Store) DeleteAlertChannel(ctx context.Context, id string, c changes.Change) error {
	if !postgres.IsUUID(id) {
		return alert.ErrChannelNotFound
	}
	_, err := s.db.Change(ctx, c, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `DELETE FROM alert_channels WHERE id = $1`, id)
		switch {
		case refers(err, "alert_rule_channels_channel"):
			return alert.ErrInUse
		case err == nil && tag.RowsAffected() == 0:
			return alert.ErrChannelNotFound
		}
		return err
	})
	return err
}

// ResealAlertChannel implements alert.Store.
func (s *Store) ResealAlertChannel(ctx context.Context, ch alert.Channel, before []byte) (bool, error) {
	n, err := s.db.Exec(ctx, `UPDATE alert_channels SET sealed = $4, key_id = $5 WHERE id = $1 AND version = $2 AND sealed = $3`,
		ch.ID, ch.Version, before, ch.Sealed, ch.KeyID)
	return n == 1, err
}

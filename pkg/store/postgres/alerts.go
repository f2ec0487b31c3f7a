package postgres

import (
	"context"
	"encoding/json"
	"errors"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/keywarden/keywarden/pkg/alert"
	"github.com/keywarden/keywarden/pkg/changes"
)

var _ alert.Store = (*Store)(nil)

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

// ---- rules

const alertRuleSelect = `SELECT id::text, version, name, enabled, spec, status, created_at, updated_at,
	ARRAY(SELECT channel_id::text FROM alert_rule_channels c WHERE c.rule_id = r.id ORDER BY place) FROM alert_rules r`

func scanAlertRule(row pgx.CollectableRow) (r alert.Rule, err error) {
	var spec, status []byte
	var name string
	var enabled bool
	var channels []string
	if err := row.Scan(&r.ID, &r.Version, &name, &enabled, &spec, &status, &r.CreatedAt, &r.UpdatedAt, &channels); err != nil {
		return r, err
	}
	err = errors.Join(json.Unmarshal(spec, &r.Spec), json.Unmarshal(status, &r.Status))
	r.Name, r.Enabled, r.Channels = name, enabled, channels
	return r, err
}

// oneAlertRule is the rule with the id.
func oneAlertRule(ctx context.Context, q querier, id, more string) (alert.Rule, error) {
	if !isUUID(id) {
		return alert.Rule{}, alert.ErrRuleNotFound
	}
	return one(ctx, q, scanAlertRule, alert.ErrRuleNotFound, alertRuleSelect+` WHERE id = $1`+more, id)
}

// ListAlertRules implements alert.Store.
func (s *Store) ListAlertRules(ctx context.Context, f alert.RuleFilter) ([]alert.Rule, error) {
	var w where
	if f.After != "" {
		w.add(`id > ?::uuid`, f.After)
	}
	return many(ctx, s.pool, scanAlertRule, alertRuleSelect+w.sql()+` ORDER BY id LIMIT `+w.arg(f.Limit), w.args...)
}

// AlertRule implements alert.Store.
func (s *Store) AlertRule(ctx context.Context, id string) (alert.Rule, error) {
	r, err := oneAlertRule(ctx, s.pool, id, "")
	return r, unavailable(err)
}

// InsertAlertRule implements alert.Store.
func (s *Store) InsertAlertRule(ctx context.Context, r alert.Rule, c changes.Change) (out alert.Rule, err error) {
	_, err = s.change(ctx, c, func(tx pgx.Tx) error {
		if err := countAlertThings(ctx, tx, "alert_rules", "", alert.MaxRules); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `INSERT INTO alert_rules (id, version, name, enabled, spec) VALUES ($1, 1, $2, $3, $4)`,
			r.ID, r.Name, r.Enabled, r.Spec)
		if err != nil {
			return err
		}
		if err := setAlertChannels(ctx, tx, r); err != nil {
			return err
		}
		out, err = oneAlertRule(ctx, tx, r.ID, "")
		return err
	})
	return out, alertRuleError(err)
}

// alertRuleError maps violations of constraints.
func alertRuleError(err error) error {
	switch {
	case violates(err, "alert_rules_name_unique"), violates(err, "alert_channels_name_unique"):
		return alert.ErrNameTaken
	case refers(err, "alert_rule_channels_channel"):
		return alert.ErrChannelNotFound
	}
	return err
}

func setAlertChannels(ctx context.Context, tx pgx.Tx, r alert.Rule) error {
	if _, err := tx.Exec(ctx, `DELETE FROM alert_rule_channels WHERE rule_id = $1`, r.ID); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, `
		INSERT INTO alert_rule_channels (rule_id, channel_id, place)
		SELECT $1, c, n FROM unnest($2::uuid[]) WITH ORDINALITY AS t (c, n)`, r.ID, r.Channels)
	return err
}

// UpdateAlertRule implements alert.Store.
func (s *Store) UpdateAlertRule(ctx context.Context, r alert.Rule, closing func(alert.Alert) alert.Notification, c changes.Change) (out alert.Rule, err error) {
	_, err = s.change(ctx, c, func(tx pgx.Tx) error {
		before, err := oneAlertRule(ctx, tx, r.ID, ` FOR UPDATE OF r`)
		if err != nil {
			return err
		}
		status := before.Status
		if !r.Enabled && before.Enabled {
			if err := closeAlert(ctx, tx, r.ID, closing); err != nil {
				return err
			}
			status = alert.Status{State: alert.OK, Reading: alert.Reading{Why: "the rule is disabled"}}
		}
		_, err = tx.Exec(ctx, `
			UPDATE alert_rules SET version = version + 1, name = $2, enabled = $3, spec = $4, status = $5,
				updated_at = now(), next_at = now(), turn = turn + 1
			WHERE id = $1`, r.ID, r.Name, r.Enabled, r.Spec, status)
		if err != nil {
			return err
		}
		if err := setAlertChannels(ctx, tx, r); err != nil {
			return err
		}
		out, err = oneAlertRule(ctx, tx, r.ID, "")
		return err
	})
	return out, alertRuleError(err)
}

// DeleteAlertRule implements alert.Store.
func (s *Store) DeleteAlertRule(ctx context.Context, id string, closing func(alert.Alert) alert.Notification, c changes.Change) error {
	_, err := s.change(ctx, c, func(tx pgx.Tx) error {
		if _, err := oneAlertRule(ctx, tx, id, ` FOR UPDATE OF r`); err != nil {
			return err
		}
		if err := closeAlert(ctx, tx, id, closing); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `DELETE FROM alert_rules WHERE id = $1`, id)
		return err
	})
	return err
}

// closeAlert ends what a rule fires, if anything, and tells those who were told of it.
func closeAlert(ctx context.Context, tx pgx.Tx, rule string, closing func(alert.Alert) alert.Notification) error {
	var a alert.Alert
	err := tx.QueryRow(ctx, `SELECT alert FROM alerts WHERE rule_id = $1 AND state = 'firing' FOR UPDATE`, rule).Scan(&a)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	if err != nil {
		return err
	}
	n := closing(a)
	if err := putAlert(ctx, tx, n.Alert); err != nil {
		return err
	}
	return enqueueAlert(ctx, tx, n)
}

// ---- channels

const alertChannelColumns = `id::text, version, name, kind, enabled, recipients, host, key_id, sealed, created_at, updated_at`

func alertChannelDest(c *alert.Channel) []any {
	return []any{&c.ID, &c.Version, &c.Name, &c.Kind, &c.Enabled, &c.Recipients, &c.Host, &c.KeyID, &c.Sealed, &c.CreatedAt, &c.UpdatedAt}
}

func scanAlertChannel(row pgx.CollectableRow) (c alert.Channel, err error) {
	return c, row.Scan(alertChannelDest(&c)...)
}

// ListAlertChannels implements alert.Store.
func (s *Store) ListAlertChannels(ctx context.Context, f alert.RuleFilter) ([]alert.Channel, error) {
	var w where
	if f.After != "" {
		w.add(`id > ?::uuid`, f.After)
	}
	return many(ctx, s.pool, scanAlertChannel, `SELECT `+alertChannelColumns+` FROM alert_channels`+w.sql()+` ORDER BY id LIMIT `+w.arg(f.Limit), w.args...)
}

// AlertChannelsNotUnder implements alert.Store.
func (s *Store) AlertChannelsNotUnder(ctx context.Context, keyID string, f alert.RuleFilter) ([]alert.Channel, error) {
	return many(ctx, s.pool, scanAlertChannel, `SELECT `+alertChannelColumns+` FROM alert_channels
		WHERE sealed IS NOT NULL AND key_id <> $1 ORDER BY id LIMIT $2`, keyID, f.Limit)
}

// AlertChannel implements alert.Store.
func (s *Store) AlertChannel(ctx context.Context, id string) (c alert.Channel, err error) {
	if !isUUID(id) {
		return c, alert.ErrChannelNotFound
	}
	err = s.pool.QueryRow(ctx, `SELECT `+alertChannelColumns+` FROM alert_channels WHERE id = $1`, id).Scan(alertChannelDest(&c)...)
	if errors.Is(err, pgx.ErrNoRows) {
		return c, alert.ErrChannelNotFound
	}
	return c, unavailable(err)
}

// InsertAlertChannel implements alert.Store.
func (s *Store) InsertAlertChannel(ctx context.Context, ch alert.Channel, c changes.Change) (out alert.Channel, err error) {
	_, err = s.change(ctx, c, func(tx pgx.Tx) error {
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
	_, err = s.change(ctx, c, func(tx pgx.Tx) error {
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
	if !isUUID(id) {
		return alert.ErrChannelNotFound
	}
	_, err := s.change(ctx, c, func(tx pgx.Tx) error {
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
	tag, err := s.pool.Exec(ctx, `UPDATE alert_channels SET sealed = $4, key_id = $5 WHERE id = $1 AND version = $2 AND sealed = $3`,
		ch.ID, ch.Version, before, ch.Sealed, ch.KeyID)
	return tag.RowsAffected() == 1, unavailable(err)
}

// ---- alerts and silences

// ListAlerts implements alert.Store.
func (s *Store) ListAlerts(ctx context.Context, f alert.AlertFilter) ([]alert.Alert, error) {
	var w where
	if f.State != "" {
		w.add(`state = ?`, f.State)
	}
	if f.RuleID != "" {
		if !isUUID(f.RuleID) {
			return nil, nil
		}
		w.add(`rule_id = ?`, f.RuleID)
	}
	if f.Before != "" {
		w.add(`id < ?::uuid`, f.Before)
	}
	return many(ctx, s.pool, pgx.RowTo[alert.Alert], `SELECT alert FROM alerts`+w.sql()+` ORDER BY id DESC LIMIT `+w.arg(f.Limit), w.args...)
}

// Alert implements alert.Store.
func (s *Store) Alert(ctx context.Context, id string) (a alert.Alert, err error) {
	if !isUUID(id) {
		return a, alert.ErrAlertNotFound
	}
	err = s.pool.QueryRow(ctx, `SELECT alert FROM alerts WHERE id = $1`, id).Scan(&a)
	if errors.Is(err, pgx.ErrNoRows) {
		return a, alert.ErrAlertNotFound
	}
	return a, unavailable(err)
}

// ListAlertSilences implements alert.Store.
func (s *Store) ListAlertSilences(ctx context.Context, f alert.SilenceFilter) ([]alert.Silence, error) {
	var w where
	if !f.Ended {
		w.conditions = append(w.conditions, `ends > now()`)
	}
	if f.Before != "" {
		w.add(`id < ?::uuid`, f.Before)
	}
	return many(ctx, s.pool, func(row pgx.CollectableRow) (v alert.Silence, err error) {
		err = row.Scan(&v.ID, &v.RuleID, &v.Begins, &v.Ends, &v.Comment, &v.CreatedBy, &v.CreatedAt)
		return v, err
	}, `SELECT id::text, coalesce(rule_id::text, ''), begins, ends, comment, created_by, created_at FROM alert_silences`+
		w.sql()+` ORDER BY id DESC LIMIT `+w.arg(f.Limit), w.args...)
}

// InsertAlertSilence implements alert.Store.
func (s *Store) InsertAlertSilence(ctx context.Context, v alert.Silence, c changes.Change) (alert.Silence, error) {
	_, err := s.change(ctx, c, func(tx pgx.Tx) error {
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
	if !isUUID(id) {
		return alert.ErrSilenceNotFound
	}
	_, err := s.change(ctx, c, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `UPDATE alert_silences SET begins = least(begins, now()), ends = now() WHERE id = $1 AND ends > now()`, id)
		if err == nil && tag.RowsAffected() == 0 {
			return alert.ErrSilenceNotFound
		}
		return err
	})
	return err
}

package alertstore

import (
	"context"
	"encoding/json"
	"errors"

	"github.com/jackc/pgx/v5"

	"github.com/keywarden/keywarden/pkg/alert"
	"github.com/keywarden/keywarden/pkg/changes"
	"github.com/keywarden/keywarden/pkg/store/postgres"
)

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
func oneAlertRule(ctx context.Context, q postgres.Querier, id, more string) (alert.Rule, error) {
	if !postgres.IsUUID(id) {
		return alert.Rule{}, alert.ErrRuleNotFound
	}
	return postgres.One(ctx, q, scanAlertRule, alert.ErrRuleNotFound, alertRuleSelect+` WHERE id = $1`+more, id)
}

// ListAlertRules implements alert.Store.
func (s *Store) ListAlertRules(ctx context.Context, f alert.RuleFilter) ([]alert.Rule, error) {
	var w postgres.Where
	if f.After != "" {
		w.Add(`id > ?::uuid`, f.After)
	}
	return postgres.Many(ctx, s.db, scanAlertRule, alertRuleSelect+w.SQL()+` ORDER BY id LIMIT `+w.Arg(f.Limit), w.Args...)
}

// AlertRule implements alert.Store.
func (s *Store) AlertRule(ctx context.Context, id string) (alert.Rule, error) {
	return oneAlertRule(ctx, s.db, id, "")
}

// InsertAlertRule implements alert.Store.
func (s *Store) InsertAlertRule(ctx context.Context, r alert.Rule, c changes.Change) (out alert.Rule, err error) {
	_, err = s.db.Change(ctx, c, func(tx pgx.Tx) error {
		if err := countAlertThings(ctx, tx, "alert_rules", "", alert.MaxRules); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `INSERT INTO alert_rules (id, version, name, enabled, spec) VALUES ($1, 1, $2, $3, $4)`,
			r.ID, r.Name, r.Enabled, r.Spec)
		if err != nil {
			return err
		}
		out, err = setAlertChannels(ctx, tx, r)
		return err
	})
	return out, alertRuleError(err)
}

// alertRuleError maps violations of constraints.
func alertRuleError(err error) error {
	switch {
	case postgres.Violates(err, "alert_rules_name_unique"), postgres.Violates(err, "alert_channels_name_unique"):
		return alert.ErrNameTaken
	case refers(err, "alert_rule_channels_channel"):
		return alert.ErrChannelNotFound
	}
	return err
}

// setAlertChannels writes the channels of a rule, which is the end of writing it, and
// returns it as it is then.
func setAlertChannels(ctx context.Context, tx pgx.Tx, r alert.Rule) (alert.Rule, error) {
	if _, err := tx.Exec(ctx, `DELETE FROM alert_rule_channels WHERE rule_id = $1`, r.ID); err != nil {
		return alert.Rule{}, err
	}
	_, err := tx.Exec(ctx, `
		INSERT INTO alert_rule_channels (rule_id, channel_id, place)
		SELECT $1, c, n FROM unnest($2::uuid[]) WITH ORDINALITY AS t (c, n)`, r.ID, r.Channels)
	if err != nil {
		return alert.Rule{}, err
	}
	return oneAlertRule(ctx, tx, r.ID, "")
}

// UpdateAlertRule implements alert.Store.
func (s *Store) UpdateAlertRule(ctx context.Context, r alert.Rule, closing func(alert.Alert) alert.Notification, c changes.Change) (out alert.Rule, err error) {
	_, err = s.db.Change(ctx, c, func(tx pgx.Tx) error {
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
		out, err = setAlertChannels(ctx, tx, r)
		return err
	})
	return out, alertRuleError(err)
}

// DeleteAlertRule implements alert.Store.
func (s *Store) DeleteAlertRule(ctx context.Context, id string, closing func(alert.Alert) alert.Notification, c changes.Change) error {
	_, err := s.db.Change(ctx, c, func(tx pgx.Tx) error {
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

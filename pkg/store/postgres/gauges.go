package postgres

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/keywarden/keywarden/pkg/alert"
	"github.com/keywarden/keywarden/pkg/usage"
)

var _ alert.Refusals = (*Store)(nil)

// RefusedRequests implements alert.Refusals.
func (s *Store) RefusedRequests(ctx context.Context, from, to time.Time, filter map[usage.Dimension]string) (n int64, err error) {
	var w Where
	w.Add("minute >= ? AND minute < ?", from, to)
	w.Add("refusal <> ''")
	for _, d := range usage.Dimensions() {
		if v, given := filter[d]; given {
			w.Add(usageDimension(d)+" = ?", v)
		}
	}
	err = s.pool.QueryRow(ctx, `SELECT coalesce(sum(requests), 0)::bigint FROM usage_minutes`+w.SQL(), w.Args...).Scan(&n)
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

package postgres

import (
	"context"
	"crypto/sha256"
	"fmt"
	"time"

	"github.com/keywarden/keywarden/pkg/ratelimit"
)

// RateLimits are the counters of rate limits in the database.
type RateLimits struct{ store *Store }

var _ ratelimit.Store = RateLimits{}

// RateLimits are those of this database.
func (s *Store) RateLimits() RateLimits { return RateLimits{s} }

// Reserve implements ratelimit.Store, in one statement and by the clock of the
// database. The row of a key is locked for as long as the statement takes, and no
// commit waits for a disk: a crash of the server empties the counters.
func (r RateLimits) Reserve(ctx context.Context, key string, l ratelimit.Limit, least, want int64) (ratelimit.Grant, error) {
	g := ratelimit.Grant{Decision: ratelimit.Decision{Limit: l.Most()}}
	// Subjects are as long, and hold what bytes, as callers choose.
	digest := sha256.Sum256([]byte(key))
	err := r.store.pool.QueryRow(ctx, `SELECT allowed, units, remaining, retry, reset FROM rate_limit_reserve($1, $2, $3, $4, $5, $6, $7)`,
		digest[:], l.Algorithm == ratelimit.SlidingWindow, int64(l.Window), l.Quota, l.Burst, least, want,
	).Scan(&g.Decision.Allowed, &g.Units, &g.Decision.Remaining, &g.Decision.RetryAfter, &g.Decision.ResetAfter)
	if err != nil {
		return ratelimit.Grant{}, fmt.Errorf("reserving in PostgreSQL: %w", unavailable(err))
	}
	return g, nil
}

// sweepRateLimits deletes the counters that decide nothing any more, by both
// clocks: a batch after the other, for there is one for each address that was ever
// seen.
func (s *Store) sweepRateLimits(ctx context.Context, now time.Time) error {
	for {
		tag, err := s.pool.Exec(ctx, `DELETE FROM rate_limits WHERE key IN (SELECT key FROM rate_limits
			WHERE ends_at < least($1, now()) LIMIT $2 FOR UPDATE SKIP LOCKED)`, now, sweepBatch)
		if err != nil || tag.RowsAffected() < sweepBatch {
			return unavailable(err)
		}
	}
}

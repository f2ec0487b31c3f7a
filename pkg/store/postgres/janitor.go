package postgres

import (
	"context"
	"errors"
	"log/slog"
	"time"
)

const (
	sweepInterval = 10 * time.Minute
	sweepTimeout  = time.Minute
	sweepBatch    = 5000

	changesKept  = time.Hour           // a replica that was away for longer starts afresh
	sessionsKept = 30 * 24 * time.Hour // ended sessions, for knowing where an account was used from
	replicasKept = time.Hour

	quotasKept      = 7 * 24 * time.Hour // accounts whose period has ended
	quotaEventsKept = 90 * 24 * time.Hour
)

// RunJanitor deletes what has expired until ctx ends. Every replica runs it;
// rows that another one is deleting are skipped.
func (s *Store) RunJanitor(ctx context.Context, now func() time.Time, logger *slog.Logger) error {
	tick := time.NewTicker(sweepInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if err := s.Sweep(ctx, now().UTC()); err != nil && ctx.Err() == nil {
				logger.WarnContext(ctx, "expired rows could not be deleted; the next sweep will", "error", err)
			}
		}
	}
}

// Sweep deletes at most a batch of each kind of expired row, and all the counters
// of rate limits that have. A kind that fails
// does not keep the others.
func (s *Store) Sweep(ctx context.Context, now time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, sweepTimeout)
	defer cancel()
	var failed []error
	for _, sweep := range []struct {
		table, key, condition string
		before                time.Time
	}{
		{"sessions", "id", "least(expires_at, idle_until, ended_at) < $1", now.Add(-sessionsKept)},
		{"refresh_tokens", "digest", "spent_at < $1", now.Add(-sessionsKept)},
		{"idempotency", "(user_id, token)", "expires_at < $1", now},
		{"api_key_secrets", "id", "valid_until < $1", now},
		{"signing_keys", "id", "retires_at < $1", now.Add(-sessionsKept)},
		{"replicas", "id", "seen < $1", now.Add(-replicasKept)},
		{"quota_accounts", "id", "ends < $1", now.Add(-quotasKept)},
		{"quota_events", "number", "at < $1", now.Add(-quotaEventsKept)},
	} {
		_, err := s.pool.Exec(ctx, `DELETE FROM `+sweep.table+` WHERE `+sweep.key+` IN (SELECT `+rowKey(sweep.key)+
			` FROM `+sweep.table+` WHERE `+sweep.condition+` LIMIT $2 FOR UPDATE SKIP LOCKED)`, sweep.before, sweepBatch)
		failed = append(failed, unavailable(err))
	}
	failed = append(failed, s.sweepRateLimits(ctx, now))
	return errors.Join(append(failed, s.pruneChanges(ctx, now.Add(-changesKept)), s.pruneRevisions(ctx))...)
}

// rowKey is the key in a select list, where a row of columns has no parentheses.
func rowKey(key string) string {
	if key[0] == '(' {
		return key[1 : len(key)-1]
	}
	return key
}

// pruneChanges deletes the oldest events and says so in the ledger, in one
// statement, so that a replica that was away notices what it missed.
func (s *Store) pruneChanges(ctx context.Context, before time.Time) error {
	_, err := s.pool.Exec(ctx, `
		WITH gone AS (
			DELETE FROM change_log WHERE epoch <= (
				SELECT max(epoch) FROM (SELECT epoch FROM change_log WHERE at < $1 ORDER BY epoch LIMIT $2) oldest
			) RETURNING epoch
		)
		UPDATE ledger SET pruned = greatest(pruned, (SELECT max(epoch) FROM gone))
		WHERE EXISTS (SELECT FROM gone)`, before, sweepBatch)
	return unavailable(err)
}

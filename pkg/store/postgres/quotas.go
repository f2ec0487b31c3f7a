package postgres

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/keywarden/keywarden/pkg/changes"
	"github.com/keywarden/keywarden/pkg/quota"
)

var (
	_ quota.Ledger = (*Store)(nil)
	_ quota.Store  = (*Store)(nil)
)

// reserveUnits books units in one conditional update: a row that another replica
// is changing is waited for, and its newest version is what the condition is about.
// The row itself says what was granted and crossed, since RETURNING does not know
// what was there before. The event goes with it, in the same statement.
//
// $1 id, $2-$6 identity, $7 and $8 the period that is proposed, $9 limit, $10 least,
// $11 want, $12 when the proposal is too old, $13 the levels. Nothing is done unless
// the proposal is right on the clock of the database.
const reserveUnits = `
WITH took AS (
	INSERT INTO quota_accounts AS a
		(id, quota, scope, period, kind, subject, begins, ends, allowed, used, capacity, epoch, granted, warned, crossed)
	SELECT $1::uuid, $2, $3, $4, $5, $6, $7::timestamptz, $8::timestamptz, $9::bigint, g.units, $9, (extract(epoch FROM statement_timestamp()) * 1000000)::bigint, g.units, l.level, l.level
	FROM (SELECT CASE WHEN $9 >= $10::bigint THEN least($11::bigint, $9) ELSE 0 END AS units) g,
		LATERAL (SELECT g.units AS used, $9 AS capacity) c, ` + level + `
	WHERE statement_timestamp() >= $7 AND statement_timestamp() < $12
	ON CONFLICT (id) DO UPDATE SET (begins, ends, allowed, topup, used, capacity, epoch, granted, warned, crossed) = (
		SELECT p.begins, p.ends, EXCLUDED.allowed, p.topup, c.used, greatest(c.used, c.capacity), p.epoch, g.units, greatest(p.warned, l.level),
			CASE WHEN l.level > p.warned THEN l.level ELSE 0 END
		FROM (
			SELECT a.begins, a.ends, a.topup, a.used, a.epoch, a.warned WHERE a.ends > statement_timestamp()
			UNION ALL
			SELECT EXCLUDED.begins, EXCLUDED.ends, 0, 0, greatest(a.epoch + 1, EXCLUDED.epoch), 0 WHERE a.ends <= statement_timestamp()
		) p, LATERAL (
			SELECT CASE WHEN EXCLUDED.allowed + p.topup - p.used >= $10 THEN least($11, EXCLUDED.allowed + p.topup - p.used) ELSE 0 END AS units
		) g, LATERAL (SELECT p.used + g.units AS used, EXCLUDED.allowed + p.topup AS capacity) c, ` + level + `
	)
	WHERE EXCLUDED.allowed + a.topup - a.used >= $10 OR a.ends <= statement_timestamp() OR a.allowed <> EXCLUDED.allowed
	RETURNING *
), told AS (
	INSERT INTO quota_events (account, quota, scope, period, kind, subject, begins, ends, level, used, capacity)
	SELECT id, quota, scope, period, kind, subject, begins, ends, l, used, allowed + topup
	FROM took, unnest($13::smallint[]) l WHERE l <= crossed ORDER BY l
	ON CONFLICT ON CONSTRAINT quota_events_once DO NOTHING
	RETURNING number, at, level
)
SELECT statement_timestamp() >= $7 AND statement_timestamp() < $12, statement_timestamp(),
	coalesce(took.granted, 0), coalesce(took.epoch, a.epoch, 0), coalesce(took.used, a.used, 0),
	coalesce(took.allowed + took.topup, a.allowed + a.topup, $9), coalesce(took.begins, a.begins, $7), coalesce(took.ends, a.ends, $8),
	(SELECT array_agg(number ORDER BY level) FROM told), (SELECT array_agg(at ORDER BY level) FROM told),
	(SELECT array_agg(level ORDER BY level) FROM told)
FROM (SELECT) nothing
LEFT JOIN took ON true
LEFT JOIN quota_accounts a ON a.id = $1 AND took.id IS NULL`

// level is the highest level, in percent, that is used of what there is; nothing is
// told where no unit was granted.
const level = `LATERAL (SELECT coalesce(max(level), 0)::smallint AS level FROM unnest($13::smallint[]) level
			WHERE g.units > 0 AND c.used * 100 >= level * c.capacity) l`

// clockAttempts bounds how often a period is proposed: the first proposal goes by
// what is known of the database's clock, and the second by what it has just said.
const clockAttempts = 3

// rollingFresh is how old the proposal of a rolling period may be.
const rollingFresh = 5 * time.Second

// errClock is a database whose clock does not stand still long enough.
var errClock = errors.New("the clock of the database could not be followed")

// Reserve implements quota.Ledger.
func (s *Store) Reserve(ctx context.Context, ask quota.Ask) (quota.Grant, error) {
	if !storable(ask.Quota, ask.Scope, ask.Period.String(), ask.Kind, ask.Subject) {
		return quota.Grant{}, errors.New("a quota account with text that cannot be stored")
	}
	for range clockAttempts {
		now := time.Now().Add(time.Duration(s.clockAhead.Load())).UTC().Truncate(time.Microsecond)
		g, timely, err := s.reserve(ctx, ask, ask.Period.At(now))
		if err != nil {
			return quota.Grant{}, unavailable(err)
		}
		s.clockAhead.Store(int64(time.Until(g.Now)))
		if timely {
			return g, nil
		}
	}
	return quota.Grant{}, ErrUnavailable.With(errClock)
}

// reserve proposes a period. It reports whether that holds the time of the database.
func (s *Store) reserve(ctx context.Context, ask quota.Ask, span quota.Span) (g quota.Grant, timely bool, err error) {
	fresh := span.Ends
	if ask.Period.Rolling {
		fresh = span.Begins.Add(rollingFresh)
	}
	levels := quota.Levels()
	var (
		begins  time.Time
		numbers []int64
		times   []time.Time
		crossed []int
	)
	err = s.pool.QueryRow(ctx, reserveUnits,
		ask.ID, ask.Quota, ask.Scope, ask.Identity.Period, ask.Kind, ask.Subject, span.Begins, span.Ends,
		ask.Limit, ask.Least, ask.Want, fresh, levels).
		Scan(&timely, &g.Now, &g.Units, &g.Epoch, &g.Used, &g.Capacity, &begins, &g.Ends, &numbers, &times, &crossed)
	for i, number := range numbers {
		g.Crossed = append(g.Crossed, quota.Event{
			Number: number, At: times[i], ID: ask.ID, Identity: ask.Identity, Level: crossed[i], Used: g.Used, Capacity: g.Capacity,
			Span: quota.Span{Begins: begins, Ends: g.Ends},
		})
	}
	return g, timely, err
}

// Return implements quota.Ledger. A deadlock with another replica that returns units
// of the same accounts has changed nothing, and is tried again; nothing else is.
func (s *Store) Return(ctx context.Context, unused []quota.Unused) error {
	ids, epochs, units := make([]string, len(unused)), make([]int64, len(unused)), make([]int64, len(unused))
	for i, u := range unused {
		ids[i], epochs[i], units[i] = u.ID, u.Epoch, u.Units
	}
	return unavailable(s.inTx(ctx, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `
			UPDATE quota_accounts a SET used = a.used - g.units
			FROM (
				SELECT id, epoch, sum(units)::bigint AS units
				FROM unnest($1::uuid[], $2::bigint[], $3::bigint[]) u (id, epoch, units) GROUP BY id, epoch ORDER BY id
			) g
			WHERE a.id = g.id AND a.epoch = g.epoch AND a.used >= g.units`, ids, epochs, units)
		return err
	}))
}

const quotaColumns = `id, quota, scope, period, kind, subject, begins, ends, allowed, topup, used, capacity, epoch`

func quotaDest(a *quota.Account) []any {
	return []any{
		&a.ID, &a.Quota, &a.Scope, &a.Period, &a.Kind, &a.Subject, &a.Begins, &a.Ends, &a.Limit, &a.TopUp, &a.Used, &a.Capacity, &a.Epoch,
	}
}

// ListQuotaAccounts implements quota.Store.
func (s *Store) ListQuotaAccounts(ctx context.Context, f quota.Filter) ([]quota.Account, error) {
	if !storable(f.Quota, f.Kind, f.Subject, f.OwnerKey) || f.Owner != "" && !IsUUID(f.Owner) || f.After != "" && !IsUUID(f.After) {
		return nil, nil
	}
	var w Where
	w.Add(`ends > now()`)
	if f.Quota != "" {
		w.Add(`quota = ?`, f.Quota)
	}
	if f.Kind != "" {
		w.Add(`kind = ?`, f.Kind)
	}
	if f.Subject != "" {
		w.Add(`subject = ?`, f.Subject)
	}
	switch {
	case f.Owner != "" && f.OwnerKey != "":
		w.Add(`(kind = 'user' AND subject = ? OR kind = 'key' AND subject = ?)`, f.Owner, f.OwnerKey)
	case f.Owner != "":
		w.Add(`(kind = 'user' AND subject = ? OR kind = 'key' AND subject IN (SELECT k.id::text FROM api_keys k WHERE k.user_id = ?::uuid)
			OR kind = 'subscription' AND subject IN (SELECT s.id::text FROM subscriptions s JOIN apps a ON a.id = s.app_id WHERE a.user_id = ?::uuid))`,
			f.Owner, f.Owner, f.Owner)
	}
	if f.After != "" {
		w.Add(`id > ?`, f.After)
	}
	return Many(ctx, s.pool, func(row pgx.CollectableRow) (a quota.Account, err error) {
		err = row.Scan(quotaDest(&a)...)
		return a, err
	}, `SELECT `+quotaColumns+` FROM quota_accounts`+w.SQL()+` ORDER BY id LIMIT `+w.Arg(f.Limit), w.Args...)
}

// QuotaAccount implements quota.Store.
func (s *Store) QuotaAccount(ctx context.Context, id string) (a quota.Account, err error) {
	if !IsUUID(id) {
		return a, quota.ErrNotFound
	}
	err = s.pool.QueryRow(ctx, `SELECT `+quotaColumns+` FROM quota_accounts WHERE id = $1`, id).Scan(quotaDest(&a)...)
	if errors.Is(err, pgx.ErrNoRows) {
		return a, quota.ErrNotFound
	}
	return a, unavailable(err)
}

// ChangeQuotaAccount implements quota.Store. Replicas that reserve wait meanwhile.
func (s *Store) ChangeQuotaAccount(ctx context.Context, id string, change quota.Change) (changed quota.Account, err error) {
	if !IsUUID(id) {
		return changed, quota.ErrNotFound
	}
	_, err = s.changeAs(ctx, func(tx pgx.Tx) (c changes.Change, err error) {
		var (
			a   quota.Account
			now time.Time
		)
		err = tx.QueryRow(ctx, `SELECT `+quotaColumns+`, clock_timestamp() FROM quota_accounts WHERE id = $1 FOR UPDATE`, id).
			Scan(append(quotaDest(&a), &now)...)
		if errors.Is(err, pgx.ErrNoRows) {
			return c, quota.ErrNotFound
		}
		if err != nil {
			return c, err
		}
		if changed, c, err = change(a, now); err != nil {
			return c, err
		}
		// An event is told once in a period, whatever was changed in it.
		_, err = tx.Exec(ctx, `
			UPDATE quota_accounts SET begins = $2, ends = $3, topup = $4, used = $5, capacity = $6, epoch = $7,
				warned = CASE WHEN begins = $2 THEN warned ELSE 0 END
			WHERE id = $1`, id, changed.Begins, changed.Ends, changed.TopUp, changed.Used, changed.Capacity, changed.Epoch)
		return c, err
	})
	return changed, err
}

// ListQuotaEvents implements quota.Store.
func (s *Store) ListQuotaEvents(ctx context.Context, before int64, limit int) ([]quota.Event, error) {
	var w Where
	if before > 0 {
		w.Add(`number < ?`, before)
	}
	return Many(ctx, s.pool, func(row pgx.CollectableRow) (e quota.Event, err error) {
		err = row.Scan(&e.Number, &e.At, &e.ID, &e.Quota, &e.Scope, &e.Period, &e.Kind, &e.Subject, &e.Begins, &e.Ends, &e.Level,
			&e.Used, &e.Capacity)
		return e, err
	}, `
		SELECT number, at, account, quota, scope, period, kind, subject, begins, ends, level, used, capacity
		FROM quota_events`+w.SQL()+` ORDER BY number DESC LIMIT `+w.Arg(limit), w.Args...)
}

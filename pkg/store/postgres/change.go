package postgres

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/keywarden/keywarden/pkg/audit"
	"github.com/keywarden/keywarden/pkg/changes"
)

// channel is where commits of events are announced.
const channel = "keywarden_changes"

// Change runs mutate and appends the audit entry and the event of c, all in one
// transaction. It returns the epoch of the event, 0 when there is none.
//
// The ledger row is locked last and until the commit: entries and events are
// numbered in the order of commits, and the lock is held as briefly as can be.
func (s *Store) Change(ctx context.Context, c changes.Change, mutate func(pgx.Tx) error) (epoch int64, err error) {
	return s.changeAs(ctx, func(tx pgx.Tx) (changes.Change, error) {
		if mutate == nil {
			return c, nil
		}
		return c, mutate(tx)
	})
}

// RecordChange records a change of something that is not in the database.
func (s *Store) RecordChange(ctx context.Context, c changes.Change) (epoch int64, err error) {
	return s.Change(ctx, c, nil)
}

// changeAs is Change where the entry and the event depend on what mutate finds.
func (s *Store) changeAs(ctx context.Context, mutate func(pgx.Tx) (changes.Change, error)) (epoch int64, err error) {
	err = s.inTx(ctx, func(tx pgx.Tx) error {
		c, err := mutate(tx)
		if err != nil {
			return err
		}
		epoch, err = s.append(ctx, tx, c)
		return err
	})
	if errors.Is(err, errNoChange) {
		return 0, nil
	}
	return epoch, unavailable(err)
}

// attempts bounds how often a transaction is begun.
const attempts = 3

// inTx runs work in a transaction, and again when the database ended it to
// resolve a deadlock: deleting a user, for one, locks rows of several tables in
// the reverse order of those who use them. work leaves nothing behind that a
// second run would not replace.
func (s *Store) inTx(ctx context.Context, work func(pgx.Tx) error) error {
	for i := 1; ; i++ {
		err := pgx.BeginFunc(ctx, s.pool, work)
		if i == attempts || !deadlocked(err) {
			return err
		}
	}
}

// Transact runs work in one transaction, once: nothing is audited and nobody is told. It
// is how a room below this one reaches the database: only outages come back mapped, to
// [ErrUnavailable], and work maps what else it expects.
func (s *Store) Transact(ctx context.Context, o pgx.TxOptions, work func(pgx.Tx) error) error {
	return unavailable(pgx.BeginTxFunc(ctx, s.pool, o, work))
}

// errNoChange lets a mutation say that there is nothing to do: the transaction
// is rolled back, nothing is recorded, and the call succeeds.
var errNoChange = errors.New("nothing to change")

// errNoChain is a change before the key of the audit chain was loaded: a program
// that started without its database is about to.
var errNoChain = errors.New("the key of the audit chain is not loaded yet")

func (s *Store) append(ctx context.Context, tx pgx.Tx, c changes.Change) (int64, error) {
	chain := s.chain.Load()
	if chain == nil {
		return 0, ErrUnavailable.With(errNoChain)
	}
	r := audit.Record{Entry: c.Audit}
	var epoch int64
	err := tx.QueryRow(ctx, `
		UPDATE ledger SET seq = seq + 1, epoch = epoch + $1
		RETURNING seq, hash, epoch, date_trunc('microseconds', clock_timestamp())`,
		boolInt(c.Event.Kind != "")).Scan(&r.Seq, &r.Prev, &epoch, &r.At)
	if err != nil {
		return 0, fmt.Errorf("lock the ledger: %w", err)
	}
	if r.Detail == nil {
		r.Detail = map[string]string{}
	}
	r.Hash = chain.Hash(r)
	detail, err := json.Marshal(r.Detail)
	if err != nil {
		return 0, err
	}
	b := &pgx.Batch{}
	b.Queue(`UPDATE ledger SET hash = $1`, r.Hash)
	b.Queue(`
		INSERT INTO audit_log (seq, at, action, actor_kind, actor_id, actor_key_id, target_kind, target_id,
			result, client, request_id, detail, prev, hash)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)`,
		r.Seq, r.At, r.Action, r.ActorKind, r.ActorID, r.ActorKeyID, r.TargetKind, r.TargetID,
		r.Result, r.Client, r.RequestID, detail, r.Prev, r.Hash)
	if c.Event.Kind == "" {
		epoch = 0
	} else {
		b.Queue(`INSERT INTO change_log (epoch, kind, subject, at) VALUES ($1, $2, $3, $4)`,
			epoch, c.Event.Kind, c.Event.Subject, r.At)
		b.Queue(`SELECT pg_notify($1, '')`, channel)
	}
	if err := tx.SendBatch(ctx, b).Close(); err != nil {
		return 0, fmt.Errorf("append to the ledger: %w", err)
	}
	return epoch, nil
}

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

var (
	_ changes.Log      = (*Store)(nil)
	_ changes.Registry = (*Store)(nil)
)

// ChangesSince implements changes.Log.
func (s *Store) ChangesSince(ctx context.Context, epoch int64, limit int) (events []changes.Event, gap bool, err error) {
	// One statement, one snapshot: what was pruned and what is there agree.
	rows, err := s.pool.Query(ctx, `
		SELECT l.pruned > $1 OR l.epoch < $1, coalesce(c.epoch, 0), coalesce(c.kind, ''), coalesce(c.subject, ''),
			greatest(coalesce(clock_timestamp() - c.at, '0'), '0')
		FROM ledger l LEFT JOIN (
			SELECT epoch, kind, subject, at FROM change_log WHERE epoch > $1 ORDER BY epoch LIMIT $2
		) c ON true
		ORDER BY c.epoch`, epoch, limit)
	if err != nil {
		return nil, false, unavailable(err)
	}
	var e changes.Event
	_, err = pgx.ForEachRow(rows, []any{&gap, &e.Epoch, &e.Kind, &e.Subject, &e.Age}, func() error {
		if e.Epoch > 0 {
			events = append(events, e)
		}
		return nil
	})
	return events, gap, unavailable(err)
}

// ChangeHead implements changes.Log.
func (s *Store) ChangeHead(ctx context.Context) (epoch int64, err error) {
	err = s.pool.QueryRow(ctx, `SELECT epoch FROM ledger`).Scan(&epoch)
	return epoch, unavailable(err)
}

// keepalive is how long a notification connection may be silent before it is
// checked: a connection that a firewall forgot never says so.
const keepalive = 15 * time.Second

// ListenChanges implements changes.Log on a connection of its own.
func (s *Store) ListenChanges(ctx context.Context, wake func()) error {
	conn, err := pgx.ConnectConfig(ctx, s.pool.Config().ConnConfig)
	if err != nil {
		return unavailable(err)
	}
	defer func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = conn.Close(closing)
	}()
	if err := ask(ctx, conn, "LISTEN "+channel); err != nil {
		return unavailable(err)
	}
	wake() // what came before LISTEN was not announced to us
	for {
		waiting, cancel := context.WithTimeout(ctx, keepalive)
		_, err := conn.WaitForNotification(waiting)
		quiet := waiting.Err() != nil && ctx.Err() == nil
		cancel()
		switch {
		case err == nil:
			wake()
		case quiet && !conn.IsClosed():
			if err := ask(ctx, conn, "SELECT"); err != nil {
				return unavailable(err)
			}
		default:
			return unavailable(err)
		}
	}
}

// ask runs a statement whose answer does not matter, only that there is one.
func ask(ctx context.Context, conn *pgx.Conn, sql string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	_, err := conn.Exec(ctx, sql)
	return err
}

// Beat implements changes.Registry.
func (s *Store) Beat(ctx context.Context, id string, acked int64) error {
	_, err := s.pool.Exec(ctx, `
		INSERT INTO replicas (id, acked, seen) VALUES ($1, $2, now())
		ON CONFLICT (id) DO UPDATE SET acked = excluded.acked, seen = excluded.seen`, id, acked)
	return unavailable(err)
}

// Leave implements changes.Registry.
func (s *Store) Leave(ctx context.Context, id string) error {
	_, err := s.pool.Exec(ctx, `DELETE FROM replicas WHERE id = $1`, id)
	return unavailable(err)
}

// Replicas implements changes.Registry. Seen is on the caller's clock.
func (s *Store) Replicas(ctx context.Context, within time.Duration) ([]changes.Replica, error) {
	rows, err := s.pool.Query(ctx, `
		SELECT id, acked, extract(epoch FROM now() - seen)::float8 FROM replicas
		WHERE seen > now() - make_interval(secs => $1) ORDER BY id`, within.Seconds())
	if err != nil {
		return nil, unavailable(err)
	}
	now := time.Now()
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (r changes.Replica, err error) {
		var silent float64
		err = row.Scan(&r.ID, &r.Acked, &silent)
		r.Seen = now.Add(-time.Duration(silent * float64(time.Second)))
		return r, err
	})
	return list, unavailable(err)
}

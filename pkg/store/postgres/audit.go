package postgres

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/keywarden/keywarden/pkg/audit"
	"github.com/keywarden/keywarden/pkg/seal"
)

var _ audit.Reader = (*Store)(nil)

const auditColumns = `seq, at, action, actor_kind, actor_id, actor_key_id, target_kind, target_id,
	result, client, request_id, detail, prev, hash`

func auditDest(r *audit.Record) []any {
	return []any{
		&r.Seq, &r.At, &r.Action, &r.ActorKind, &r.ActorID, &r.ActorKeyID, &r.TargetKind, &r.TargetID,
		&r.Result, &r.Client, &r.RequestID, &r.Detail, &r.Prev, &r.Hash,
	}
}

// ListAudit implements audit.Reader.
func (s *Store) ListAudit(ctx context.Context, f audit.Filter) ([]audit.Record, error) {
	if !storable(string(f.Action), f.ActorID, f.TargetID) {
		return nil, nil
	}
	var w Where
	if f.Action != "" {
		w.Add(`action = ?`, f.Action)
	}
	if f.ActorID != "" {
		w.Add(`actor_id = ?`, f.ActorID)
	}
	if f.TargetID != "" {
		w.Add(`target_id = ?`, f.TargetID)
	}
	if f.Before > 0 {
		w.Add(`seq < ?`, f.Before)
	}
	return Many(ctx, s.pool, func(row pgx.CollectableRow) (r audit.Record, err error) {
		err = row.Scan(auditDest(&r)...)
		return r, err
	}, `SELECT `+auditColumns+` FROM audit_log`+w.SQL()+` ORDER BY seq DESC LIMIT `+w.Arg(f.Limit), w.Args...)
}

// scanBatch is how many records a scan holds at a time.
const scanBatch = 1000

// ScanAudit implements audit.Reader, page by page, so that a long chain holds no
// statement open.
func (s *Store) ScanAudit(ctx context.Context, from int64, yield func(audit.Record) error) error {
	for {
		rows, err := s.pool.Query(ctx, `SELECT `+auditColumns+` FROM audit_log WHERE seq >= $1 ORDER BY seq LIMIT $2`, from, scanBatch)
		if err != nil {
			return unavailable(err)
		}
		page, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (r audit.Record, err error) {
			err = row.Scan(auditDest(&r)...)
			return r, err
		})
		if err != nil {
			return unavailable(err)
		}
		for _, r := range page {
			if err := yield(r); err != nil {
				return err
			}
			from = r.Seq + 1
		}
		if len(page) < scanBatch {
			return nil
		}
	}
}

// AuditHead implements audit.Reader.
func (s *Store) AuditHead(ctx context.Context) (seq int64, hash []byte, err error) {
	err = s.pool.QueryRow(ctx, `SELECT seq, hash FROM ledger`).Scan(&seq, &hash)
	return seq, hash, unavailable(err)
}

// chainSecret is the name of the sealed key of the audit chain. It is random and
// not derived, so that a rotation of the master key leaves the chain verifiable.
const chainSecret = "audit-chain"

// LoadChain reads the key of the audit chain, making it at the first start. It
// must be called once, before the first change, which fails without it; the
// result verifies the chain.
func (s *Store) LoadChain(ctx context.Context, ring *seal.Keyring) (audit.Chain, error) {
	const place = "sealed_secrets/" + chainSecret
	sealed, err := s.sealedChain(ctx)
	if errors.Is(err, errNoChainKey) {
		var key [audit.HashSize]byte
		_, _ = rand.Read(key[:]) // never fails (crypto/rand, Go 1.24)
		if _, err = s.pool.Exec(ctx, `INSERT INTO sealed_secrets (name, sealed) VALUES ($1, $2) ON CONFLICT DO NOTHING`,
			chainSecret, ring.Seal(key[:], place)); err != nil {
			return audit.Chain{}, unavailable(err)
		}
		sealed, err = s.sealedChain(ctx) // that of another replica, if it was faster
	}
	if err != nil {
		return audit.Chain{}, err
	}
	plain, stale, err := ring.Open(sealed, place)
	if errors.Is(err, seal.ErrUnknownKey) {
		return audit.Chain{}, fmt.Errorf("this database was used with another master key: set KEYWARDEN_MASTER_KEY to that one, "+
			"or, to rotate it, list the old one in KEYWARDEN_SECURITY_MASTER_KEYS_RETIRED: %w", err)
	}
	if err != nil {
		return audit.Chain{}, fmt.Errorf("the key of the audit chain: %w", err)
	}
	if stale {
		if _, err := s.pool.Exec(ctx, `UPDATE sealed_secrets SET sealed = $2 WHERE name = $1`, chainSecret, ring.Seal(plain, place)); err != nil {
			return audit.Chain{}, unavailable(err)
		}
	}
	chain := audit.NewChain(plain)
	s.chain.Store(&chain)
	return chain, nil
}

// errNoChainKey says that no key of the audit chain was made yet.
var errNoChainKey = errors.New("the audit chain has no key yet")

// sealedChain is the sealed key of the audit chain. It is read once in the life of a
// process, so nothing is prepared for the next time.
func (s *Store) sealedChain(ctx context.Context) ([]byte, error) {
	return One(ctx, s.pool, pgx.RowTo[[]byte], errNoChainKey, `SELECT sealed FROM sealed_secrets WHERE name = $1`, pgx.QueryExecModeExec, chainSecret)
}

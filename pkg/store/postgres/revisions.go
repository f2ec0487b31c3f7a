package postgres

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/keywarden/keywarden/pkg/changes"
	"github.com/keywarden/keywarden/pkg/revision"
)

var _ revision.Store = (*Store)(nil)

const revisionColumns = `r.number, r.digest, r.at, r.author, r.message, r.base`

func revisionDest(r *revision.Revision) []any {
	return []any{&r.Number, &r.Digest, &r.At, &r.AuthorID, &r.Message, &r.Base}
}

// ChangeRevision implements revision.Store. The row that says which revision is
// current is locked first, so that of two changes the second sees the first.
func (s *Store) ChangeRevision(ctx context.Context, decide revision.Decide) error {
	_, err := s.changeAs(ctx, func(tx pgx.Tx) (changes.Change, error) {
		current, err := lockCurrent(ctx, tx)
		if err != nil {
			return changes.Change{}, err
		}
		next, c, err := decide(current)
		switch {
		case err != nil:
			return c, err
		case next == nil:
			return c, errNoChange
		case !storable(next.Message, next.AuthorID):
			return c, errors.New("a revision with text that cannot be stored")
		}
		if _, err := tx.Exec(ctx, `
			INSERT INTO gateway_revisions (number, digest, at, author, message, base, document)
			VALUES ($1, $2, $3, $4, $5, $6, $7)`,
			next.Number, next.Digest, next.At, next.AuthorID, next.Message, next.Base, string(next.Document)); err != nil {
			return c, err
		}
		_, err = tx.Exec(ctx, `UPDATE gateway_current SET number = $1, digest = $2`, next.Number, next.Digest)
		return c, err
	})
	return err
}

// lockCurrent is the current revision without its document, the zero one when
// there is none. Nobody else changes it before the transaction ends.
func lockCurrent(ctx context.Context, tx pgx.Tx) (r revision.Revision, err error) {
	var number int64
	if err := tx.QueryRow(ctx, `SELECT number FROM gateway_current FOR UPDATE`).Scan(&number); err != nil || number == 0 {
		return r, err
	}
	err = tx.QueryRow(ctx, `SELECT `+revisionColumns+` FROM gateway_revisions r WHERE number = $1`, number).Scan(revisionDest(&r)...)
	return r, err
}

// CurrentRevision implements revision.Store.
func (s *Store) CurrentRevision(ctx context.Context) (revision.Revision, error) {
	return s.revision(ctx, revision.ErrNone, `JOIN gateway_current c ON c.number = r.number`)
}

// CurrentRevisionUnless implements revision.Store.
func (s *Store) CurrentRevisionUnless(ctx context.Context, number int64, digest string) (revision.Revision, bool, error) {
	// One statement, one snapshot. The document is read only where it is wanted.
	r, err := s.revision(ctx, errNoChange, `JOIN gateway_current c ON c.number = r.number WHERE c.number <> $1 OR c.digest <> $2`, number, digest)
	if !errors.Is(err, errNoChange) {
		return r, err == nil, err
	}
	if number > 0 {
		return r, false, nil // the current one is known; a table that was emptied is no news to follow
	}
	return r, false, revision.ErrNone
}

// Revision implements revision.Store.
func (s *Store) Revision(ctx context.Context, number int64) (revision.Revision, error) {
	return s.revision(ctx, revision.ErrUnknown, `WHERE r.number = $1`, number)
}

// revision reads one revision with its document; none is the error where there
// is no row.
func (s *Store) revision(ctx context.Context, none error, condition string, args ...any) (r revision.Revision, err error) {
	var document string
	err = s.pool.QueryRow(ctx, `SELECT `+revisionColumns+`, r.document FROM gateway_revisions r `+condition, args...).
		Scan(append(revisionDest(&r), &document)...)
	if errors.Is(err, pgx.ErrNoRows) {
		return r, none
	}
	r.Document = []byte(document)
	return r, unavailable(err)
}

// ListRevisions implements revision.Store.
func (s *Store) ListRevisions(ctx context.Context, before int64, limit int) ([]revision.Revision, error) {
	var w Where
	if before > 0 {
		w.Add(`r.number < ?`, before)
	}
	return Many(ctx, s.pool, func(row pgx.CollectableRow) (r revision.Revision, err error) {
		err = row.Scan(revisionDest(&r)...)
		return r, err
	}, `SELECT `+revisionColumns+` FROM gateway_revisions r`+w.SQL()+
		` ORDER BY r.number DESC LIMIT `+w.Arg(limit), w.Args...)
}

// maxServingError bounds what is stored of why a document is not served, in
// characters: the whole of it is in the replica's log.
const maxServingError = 4000

// ReportServing implements revision.Store. A replica that is not in the registry
// yet, or not any more, is passed over: it reports again.
func (s *Store) ReportServing(ctx context.Context, v revision.Serving) error {
	_, err := s.pool.Exec(ctx, `
		UPDATE replicas SET version = $2, gateway_number = $3, gateway_digest = $4, gateway_applied_at = $5,
			gateway_error = left($6, $7), gateway_failed_at = $8
		WHERE id = $1`,
		v.Replica, v.Version, v.Number, v.Digest, timeOrNull(v.AppliedAt), strings.ReplaceAll(strings.ToValidUTF8(v.Error, "\uFFFD"), "\x00", ""), maxServingError, timeOrNull(v.FailedAt))
	return unavailable(err)
}

// timeOrNull is NULL for the zero time.
func timeOrNull(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// ListServing implements revision.Store. Seen is on the caller's clock.
func (s *Store) ListServing(ctx context.Context, within time.Duration) ([]revision.Serving, error) {
	rows, err := s.pool.Query(ctx, `
		SELECT id, version, gateway_number, gateway_digest, gateway_applied_at, gateway_error, gateway_failed_at,
			extract(epoch FROM now() - seen)::float8
		FROM replicas WHERE seen > now() - make_interval(secs => $1) ORDER BY id`, within.Seconds())
	if err != nil {
		return nil, unavailable(err)
	}
	now := time.Now()
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (v revision.Serving, err error) {
		var (
			silent          float64
			applied, failed *time.Time
		)
		err = row.Scan(&v.Replica, &v.Version, &v.Number, &v.Digest, &applied, &v.Error, &failed, &silent)
		if applied != nil {
			v.AppliedAt = *applied
		}
		if failed != nil {
			v.FailedAt = *failed
		}
		v.Seen = now.Add(-time.Duration(silent * float64(time.Second)))
		return v, err
	})
	return list, unavailable(err)
}

// pruneRevisions deletes the oldest revisions beyond those that are kept. The
// table itself refuses to lose any other.
func (s *Store) pruneRevisions(ctx context.Context) error {
	_, err := s.pool.Exec(ctx, `
		DELETE FROM gateway_revisions WHERE number IN (
			SELECT r.number FROM gateway_revisions r, gateway_current c
			WHERE r.number <= c.number - $1 ORDER BY r.number LIMIT $2 FOR UPDATE OF r SKIP LOCKED)`,
		revision.Kept, sweepBatch)
	return unavailable(err)
}

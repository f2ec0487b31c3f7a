// Package postgres is the only room that speaks SQL, with those below it. It implements
// the stores that the domains declare, one file each, and knows nothing of HTTP.
//
// Every change runs in one transaction with its audit entry and its event; see
// [Store.Change]. Driver errors are told apart by SQLSTATE and constraint name
// and never leave this package unmapped.
package postgres

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/exaring/otelpgx"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/puddle/v2"
	"go.opentelemetry.io/otel/trace"

	"github.com/keywarden/keywarden/pkg/audit"
	"github.com/keywarden/keywarden/pkg/problem"
	"github.com/keywarden/keywarden/pkg/seal"
)

// ErrUnavailable says that the database cannot be asked right now.
var ErrUnavailable = problem.Define(problem.Unavailable, "store.unavailable",
	"The platform cannot reach its database right now. Try again shortly.").WithRetryAfter(2 * time.Second)

// Options configure a [Store].
type Options struct {
	URL            seal.Secret
	MaxConnections int32
	ConnectTimeout time.Duration
	QueryTimeout   time.Duration        // bound of one statement
	Tracer         trace.TracerProvider // optional
}

// errURL stands for the parser's error, which may quote the URL with its password.
var errURL = errors.New("the database URL is not valid: expected postgres://user:password@host:port/name")

// Store is the database. It is safe for concurrent use.
type Store struct {
	pool  *pgxpool.Pool
	chain atomic.Pointer[audit.Chain] // nil before LoadChain

	clockAhead atomic.Int64 // by how many nanoseconds the clock of the database is ahead of ours; about
}

// Open prepares a pool of connections; it does not wait for the server, so that
// a process can start, and say what is missing, while the server is away.
func Open(ctx context.Context, o Options) (*Store, error) {
	config, err := pgxpool.ParseConfig(o.URL.Reveal())
	if err != nil {
		return nil, errURL
	}
	config.MaxConns = o.MaxConnections
	config.ConnConfig.ConnectTimeout = o.ConnectTimeout
	config.MaxConnIdleTime = 5 * time.Minute
	config.MaxConnLifetime = 30 * time.Minute
	config.MaxConnLifetimeJitter = 5 * time.Minute
	params := config.ConnConfig.RuntimeParams
	params["application_name"] = "keywarden"
	params["timezone"] = "UTC"
	params["statement_timeout"] = milliseconds(o.QueryTimeout)
	params["lock_timeout"] = milliseconds(o.QueryTimeout)
	params["idle_in_transaction_session_timeout"] = milliseconds(4 * o.QueryTimeout)
	config.AfterConnect = readTimesInUTC
	if o.Tracer != nil {
		// Statements are fixed texts; parameters are never recorded.
		config.ConnConfig.Tracer = otelpgx.NewTracer(otelpgx.WithTracerProvider(o.Tracer))
	}
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("prepare the connection pool: %w", err)
	}
	return &Store{pool: pool}, nil
}

// readTimesInUTC makes times that are read equal to those that were written; by
// itself the driver puts them into the zone of the machine.
func readTimesInUTC(_ context.Context, conn *pgx.Conn) error {
	conn.TypeMap().RegisterType(&pgtype.Type{
		Name: "timestamptz", OID: pgtype.TimestamptzOID, Codec: &pgtype.TimestamptzCodec{ScanLocation: time.UTC},
	})
	return nil
}

func milliseconds(d time.Duration) string { return fmt.Sprint(d.Milliseconds()) }

// Close ends all connections.
func (s *Store) Close() { s.pool.Close() }

// Ping reports whether the database answers.
func (s *Store) Ping(ctx context.Context) error { return unavailable(s.pool.Ping(ctx)) }

// Stats are the numbers of the pool, for metrics.
func (s *Store) Stats() *pgxpool.Stat { return s.pool.Stat() }

// SQLSTATE codes that this package tells apart.
const (
	uniqueViolation      = "23505"
	serializationFailure = "40001"
	deadlockDetected     = "40P01"
	undefinedTable       = "42P01"
)

// outages are the beginnings of SQLSTATE codes that mean that the database
// cannot be asked right now.
var outages = []string{
	"08",                      // connection
	"53",                      // resources, such as too many clients
	"57P0",                    // shut down or starting
	"25006",                   // read-only standby
	"25P03", "57014", "55P03", // time-outs: idle transaction, statement, lock
	serializationFailure, deadlockDetected, // lost against others, more than once
}

// Violates reports whether err is the violation of the named constraint.
func Violates(err error, constraint string) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && pg.Code == uniqueViolation && pg.ConstraintName == constraint
}

// deadlocked reports whether the database ended a transaction for the sake of
// another one, so that it may be tried again.
func deadlocked(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && (pg.Code == deadlockDetected || pg.Code == serializationFailure)
}

// unavailable maps what means that the database cannot be asked to
// ErrUnavailable; other errors stay.
func unavailable(err error) error {
	var known *problem.Error
	if err == nil || errors.As(err, &known) || !outage(err) {
		return err
	}
	return ErrUnavailable.With(err)
}

func outage(err error) bool {
	if errors.Is(err, context.Canceled) {
		return false // the caller left
	}
	var (
		connect *pgconn.ConnectError
		pg      *pgconn.PgError
		network net.Error
	)
	switch {
	case errors.As(err, &connect): // before the next, since it may hold the server's reason
		return true
	case errors.As(err, &pg):
		return slices.ContainsFunc(outages, func(class string) bool { return strings.HasPrefix(pg.Code, class) })
	}
	return errors.As(err, &network) || errors.Is(err, context.DeadlineExceeded) || pgconn.Timeout(err) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) ||
		errors.Is(err, puddle.ErrClosedPool) || pgconn.SafeToRetry(err)
}

// Querier is a pool, a transaction, or a [Store].
type Querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// One collects the one row of a query; none is missing. An outage is [ErrUnavailable].
func One[T any](ctx context.Context, q Querier, scan pgx.RowToFunc[T], missing error, sql string, args ...any) (T, error) {
	var none T
	rows, err := q.Query(ctx, sql, args...)
	if err != nil {
		return none, unavailable(err)
	}
	found, err := pgx.CollectExactlyOneRow(rows, scan)
	if errors.Is(err, pgx.ErrNoRows) {
		return none, missing
	}
	return found, unavailable(err)
}

// Many collects the rows of a query. An outage is [ErrUnavailable].
func Many[T any](ctx context.Context, q Querier, scan pgx.RowToFunc[T], sql string, args ...any) ([]T, error) {
	rows, err := q.Query(ctx, sql, args...)
	if err != nil {
		return nil, unavailable(err)
	}
	list, err := pgx.CollectRows(rows, scan)
	return list, unavailable(err)
}

// IsUUID guards queries by id: a malformed id is an unknown one. Only the
// canonical spelling is well-formed. PostgreSQL would find a row by others too,
// but the caller's event would then name it by a spelling that no cache knows.
func IsUUID(id string) bool {
	u, err := uuid.Parse(id)
	return err == nil && u.String() == id
}

// storable reports whether the texts can be in the database at all: PostgreSQL
// refuses a query with NUL or broken UTF-8 in a value.
func storable(texts ...string) bool {
	return !slices.ContainsFunc(texts, func(t string) bool {
		return strings.IndexByte(t, 0) >= 0 || !utf8.ValidString(t)
	})
}

package postgres

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"strings"
	"time"

	"github.com/golang-migrate/migrate/v4"
	"github.com/golang-migrate/migrate/v4/source/iofs"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/keywarden/keywarden/migrations"
	"github.com/keywarden/keywarden/pkg/seal"
	"github.com/keywarden/keywarden/pkg/store/postgres/schema"
)

// SchemaStatus says where a database stands.
type SchemaStatus struct {
	Version uint `json:"version"` // 0 when there is no schema
	Latest  uint `json:"latest"`  // what this binary brings
	Dirty   bool `json:"dirty"`   // a migration was cut short by an older tool
	Floor   uint `json:"floor"`   // programs that know less than this version must not run on it; 0 for none
}

// Current reports whether the schema is what this binary needs.
func (s SchemaStatus) Current() bool { return s.Version == s.Latest && !s.Dirty }

// Serves reports whether this binary may run on the schema: it is the one that it needs,
// or a later one that has only added to it.
func (s SchemaStatus) Serves() bool {
	return !s.Dirty && s.Version >= s.Latest && s.Floor <= s.Latest
}

// ErrDirtySchema says that a migration was cut short and somebody must look.
var ErrDirtySchema = errors.New("the schema is marked dirty: a migration was cut short; " +
	"see docs/guides/operations.md, section \"A dirty schema\"")

// ErrNewerSchema says that a newer binary has migrated the database, and taken away
// what this one needs.
var ErrNewerSchema = errors.New("the schema is newer than this binary, and lacks what it needs; run the newer version")

// ErrSchemaLocked says that a migration did not get a lock for a long time.
var ErrSchemaLocked = errors.New("the schema could not be migrated, since a long transaction holds a lock; nothing was changed: " +
	"see docs/runbooks/upgrade-and-rollback.md for how to find it, and start again")

// Migrate brings the schema up to date. Each migration runs in one transaction;
// an advisory lock lets one process migrate while others wait, and the version
// is read inside the lock. A later schema that has only added to what this binary needs
// stays as it is.
func Migrate(ctx context.Context, url seal.Secret, logger *slog.Logger) (SchemaStatus, error) {
	m, err := newMigrator(ctx, url, logger)
	if err != nil {
		return SchemaStatus{}, err
	}
	defer m.close()
	if s, err := m.status(ctx); err == nil && s.Version > s.Latest { // the library would call that an error
		return m.finish(ctx, nil)
	}
	return m.finish(ctx, m.up(ctx))
}

// finish says where the database stands after upErr, and what is wrong with that.
func (m *migrator) finish(ctx context.Context, upErr error) (SchemaStatus, error) {
	var dirty migrate.ErrDirty
	if errors.As(upErr, &dirty) {
		return SchemaStatus{}, ErrDirtySchema
	}
	status, err := m.status(context.WithoutCancel(ctx))
	switch {
	case err != nil:
		return status, err
	case status.Dirty:
		return status, ErrDirtySchema
	case status.Version > status.Latest && !status.Serves():
		return status, ErrNewerSchema
	case status.Version > status.Latest:
		m.logger.WarnContext(ctx, "the schema is newer than this binary", "version", status.Version, "known", status.Latest)
		return status, nil
	case errors.Is(upErr, schema.ErrLocked):
		return status, fmt.Errorf("%w: %w", ErrSchemaLocked, upErr)
	case upErr != nil:
		return status, fmt.Errorf("migrate: %w", upErr)
	case !status.Current() && ctx.Err() == nil:
		return status, fmt.Errorf("migrate: the schema stays at version %d of %d", status.Version, status.Latest)
	case !status.Current(): // told to stop before it was done
		return status, context.Cause(ctx)
	}
	return status, nil
}

// ReadSchemaStatus says where the database stands; it changes nothing.
func ReadSchemaStatus(ctx context.Context, url seal.Secret) (SchemaStatus, error) {
	latest, err := latestMigration()
	if err != nil {
		return SchemaStatus{}, err
	}
	status := SchemaStatus{Latest: latest}
	config, err := pgx.ParseConfig(url.Reveal())
	if err != nil {
		return status, errURL
	}
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return status, unavailable(err)
	}
	defer func() { _ = conn.Close(ctx) }()
	return readStatus(ctx, conn, latest)
}

// SchemaStatus says where the database stands, as [ReadSchemaStatus] does, on a
// connection that the next question can use.
func (s *Store) SchemaStatus(ctx context.Context) (SchemaStatus, error) {
	latest, err := latestMigration()
	if err != nil {
		return SchemaStatus{}, err
	}
	return readStatus(ctx, s.pool, latest)
}

// readStatus asks once: a start waits for it. A schema that is not there has no version.
func readStatus(ctx context.Context, q Querier, latest uint) (SchemaStatus, error) {
	status, err := One(ctx, q, func(row pgx.CollectableRow) (SchemaStatus, error) {
		found := SchemaStatus{Latest: latest}
		var version int64
		var comment string
		err := row.Scan(&version, &found.Dirty, &comment)
		found.Version, found.Floor = uint(max(version, 0)), schema.FloorOf(comment)
		return found, err
	}, nil, `
		SELECT coalesce(m.version, 0), coalesce(m.dirty, false), coalesce(obj_description('schema_migrations'::regclass, 'pg_class'), '')
		FROM (VALUES (1)) one LEFT JOIN (SELECT version, dirty FROM schema_migrations LIMIT 1) m ON true`, pgx.QueryExecModeExec)
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Code == undefinedTable {
		return SchemaStatus{Latest: latest}, nil
	}
	if err != nil {
		return SchemaStatus{Latest: latest}, err
	}
	return status, nil
}

const floorQuery = `SELECT coalesce(obj_description(to_regclass('schema_migrations'), 'pg_class'), '')`

// latestMigration is the number of the newest migration in the binary.
func latestMigration() (uint, error) {
	names, err := fs.Glob(migrations.FS, "*.up.sql")
	if err != nil || len(names) == 0 {
		return 0, errors.New("the binary holds no migrations")
	}
	var latest uint
	_, err = fmt.Sscanf(names[len(names)-1], "%06d_", &latest)
	return latest, err
}

// Waiting for others.
const (
	// lockPatience is how long a process waits for another one that migrates.
	lockPatience = time.Hour
	// tablePatience is how long a migration is tried again that does not get the lock of a
	// table, and tablePause the time between two attempts, in which others get theirs.
	tablePatience = 2 * time.Minute
	tablePause    = time.Second
)

// migrator is golang-migrate with what it needs closed.
type migrator struct {
	*migrate.Migrate
	db       *sql.DB
	logger   *slog.Logger
	patience time.Duration
}

func newMigrator(ctx context.Context, url seal.Secret, logger *slog.Logger) (*migrator, error) {
	config, err := pgx.ParseConfig(url.Reveal())
	if err != nil {
		return nil, errURL
	}
	source, err := iofs.New(migrations.FS, ".")
	if err != nil {
		return nil, err
	}
	db := stdlib.OpenDB(*config)
	if err := db.PingContext(ctx); err != nil { // the library waits without end
		return nil, errors.Join(fmt.Errorf("connect for migrating: %w", unavailable(err)), db.Close())
	}
	driver, err := schema.NewDriver(db)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("connect for migrating: %w", unavailable(err)), db.Close())
	}
	m, err := migrate.NewWithInstance("iofs", source, "pgx5", driver)
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	m.Log, m.LockTimeout = migrateLog{logger}, lockPatience
	return &migrator{Migrate: m, db: db, logger: logger, patience: tablePatience}, nil
}

func (m *migrator) close() { _, _ = m.Close() }

// up applies what is missing, one migration at a time, until ctx ends: the
// library's own way to be stopped is a data race. Each step takes the lock and only
// then reads the version: while another process migrates, it looks dirty from
// outside. A step that does not get a lock is tried again for a while.
func (m *migrator) up(ctx context.Context) error {
	began := time.Now()
	for ctx.Err() == nil {
		err := m.Steps(1)
		if errors.Is(err, schema.ErrLocked) && time.Since(began) < m.patience {
			m.logger.WarnContext(ctx, "a long transaction is in the way of a migration; trying again", "error", err)
			select {
			case <-ctx.Done():
			case <-time.After(tablePause):
			}
			continue
		}
		if errors.Is(err, fs.ErrNotExist) { // none is left, or the schema is newer than them all
			return nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (m *migrator) status(ctx context.Context) (SchemaStatus, error) {
	latest, err := latestMigration()
	if err != nil {
		return SchemaStatus{}, err
	}
	version, dirty, err := m.Version()
	if errors.Is(err, migrate.ErrNilVersion) {
		return SchemaStatus{Latest: latest}, nil
	}
	if err != nil {
		return SchemaStatus{Latest: latest}, err
	}
	var comment string
	err = m.db.QueryRowContext(ctx, floorQuery).Scan(&comment)
	return SchemaStatus{Version: version, Latest: latest, Dirty: dirty, Floor: schema.FloorOf(comment)}, err
}

// migrateLog passes the library's lines on.
type migrateLog struct{ *slog.Logger }

func (l migrateLog) Printf(format string, v ...any) {
	l.Info("migration", "step", strings.TrimSpace(fmt.Sprintf(format, v...)))
}

func (migrateLog) Verbose() bool { return false }

package pgtest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"slices"
	"strings"

	"github.com/golang-migrate/migrate/v4"
	"github.com/golang-migrate/migrate/v4/database"
	migratepgx "github.com/golang-migrate/migrate/v4/database/pgx/v5"
	"github.com/golang-migrate/migrate/v4/source/iofs"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/keywarden/keywarden/migrations"
)

const (
	databasePrefix = "kwtest_"
	// emptyTemplate is pristine on every server, unlike template1.
	emptyTemplate = "template0"
	// templateLock is the advisory lock of those who make templates; the number
	// means nothing.
	templateLock = 7_246_041_990
)

// host is a server on which databases can be created.
type host struct {
	admin string // URL of who creates databases
	user  string // URL of who owns and uses them; its database is replaced
	// cluster is the private server behind it, nil for any other.
	cluster *cluster
}

// url addresses a database of the host.
func (h host) url(database string) string { return withDatabase(h.user, database) }

func withDatabase(address, database string) string {
	u, err := url.Parse(address)
	if err != nil {
		return address // Not so: openHost has parsed it.
	}
	u.Path = "/" + database
	return u.String()
}

// owner is the role that owns the databases.
func (h host) owner() string {
	config, err := pgx.ParseConfig(h.user)
	if err != nil {
		return "" // Not so: openHost has parsed it.
	}
	return config.User
}

// create makes a database of the same encoding and collation on every server.
func (h host) create(ctx context.Context, name, template string) error {
	// Copying files leaves no write-ahead log to recover from.
	sql := fmt.Sprintf("CREATE DATABASE %s TEMPLATE %s OWNER %s STRATEGY file_copy", quote(name), quote(template), quote(h.owner()))
	if template == emptyTemplate {
		sql += " ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C'"
	}
	return h.exec(ctx, sql)
}

// drop removes a database also while connections are open.
func (h host) drop(ctx context.Context, name string) error {
	return h.exec(ctx, fmt.Sprintf("DROP DATABASE IF EXISTS %s WITH (FORCE)", quote(name)))
}

func quote(name string) string { return pgx.Identifier{name}.Sanitize() }

func (h host) exec(ctx context.Context, sql string) error {
	return h.connected(ctx, func(conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, sql)
		return err
	})
}

func (h host) connected(ctx context.Context, do func(*pgx.Conn) error) error {
	conn, err := pgx.Connect(ctx, h.admin)
	if err != nil {
		return err
	}
	return errors.Join(do(conn), conn.Close(ctx))
}

// dropLeftovers drops the databases of tests that were killed, and the templates
// of other migrations. Only the one who has the server to itself may call it.
func (h host) dropLeftovers(ctx context.Context) error {
	template, err := templateName(migrations.FS)
	if err != nil {
		return err
	}
	var left []string
	err = h.connected(ctx, func(conn *pgx.Conn) error {
		rows, err := conn.Query(ctx, "SELECT datname::text FROM pg_database WHERE starts_with(datname, $1) AND datname <> $2",
			databasePrefix, template)
		if err != nil {
			return err
		}
		left, err = pgx.CollectRows(rows, pgx.RowTo[string])
		return err
	})
	for _, name := range left {
		err = errors.Join(err, h.drop(ctx, name))
	}
	return err
}

// ensureTemplate is the name of a database with the migrations applied. One of
// all the processes that ask for it makes it.
func (h host) ensureTemplate(ctx context.Context, schema fs.FS) (string, error) {
	name, err := templateName(schema)
	if err != nil {
		return "", err
	}
	return name, h.connected(ctx, func(conn *pgx.Conn) error {
		if found, err := exists(ctx, conn, name); err != nil || found {
			return err
		}
		// It ends with the connection.
		if _, err := conn.Exec(ctx, "SELECT pg_advisory_lock($1)", int64(templateLock)); err != nil {
			return err
		}
		if found, err := exists(ctx, conn, name); err != nil || found {
			return err
		}
		return h.makeTemplate(ctx, conn, name, schema)
	})
}

func exists(ctx context.Context, conn *pgx.Conn, database string) (found bool, err error) {
	err = conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)", database).Scan(&found)
	return found, err
}

// makeTemplate migrates a database under another name and renames it when it is
// complete. From then on nobody can connect to it: a database with connections
// cannot be a template.
func (h host) makeTemplate(ctx context.Context, conn *pgx.Conn, name string, schema fs.FS) error {
	unfinished := name + "_new"
	if err := h.drop(ctx, unfinished); err != nil {
		return err
	}
	if err := h.create(ctx, unfinished, emptyTemplate); err != nil {
		return err
	}
	if err := applyMigrations(ctx, h.url(unfinished), schema); err != nil {
		return err
	}
	for _, sql := range []string{
		fmt.Sprintf("ALTER DATABASE %s ALLOW_CONNECTIONS false", quote(unfinished)),
		fmt.Sprintf("ALTER DATABASE %s RENAME TO %s", quote(unfinished), quote(name)),
	} {
		if _, err := conn.Exec(ctx, sql); err != nil {
			return err
		}
	}
	return nil
}

// applyMigrations brings the database at the URL to the newest version.
func applyMigrations(ctx context.Context, address string, schema fs.FS) (err error) {
	config, err := pgx.ParseConfig(address)
	if err != nil {
		return err
	}
	db := stdlib.OpenDB(*config)
	defer func() { err = errors.Join(err, db.Close()) }()
	if err := db.PingContext(ctx); err != nil {
		return err
	}
	source, err := iofs.New(schema, ".")
	if err != nil {
		return err
	}
	driver, err := migratepgx.WithInstance(db, &migratepgx.Config{})
	if err != nil {
		return errors.Join(err, source.Close())
	}
	m, err := migrate.NewWithInstance("iofs", source, "pgx5", driver)
	if err != nil {
		return errors.Join(err, source.Close(), driver.Close())
	}
	up := m.Up()
	sourceErr, driverErr := m.Close()
	return errors.Join(withoutQuery(up), sourceErr, driverErr)
}

// withoutQuery takes the whole migration's text out of the error.
func withoutQuery(err error) error {
	var failed database.Error
	if errors.As(err, &failed) && failed.OrigErr != nil {
		return fmt.Errorf("migration failed in line %d: %w", failed.Line, failed.OrigErr)
	}
	return err
}

// templateName identifies the schema that the migrations make, by their names and
// contents.
func templateName(schema fs.FS) (string, error) {
	names, err := fs.Glob(schema, "*.up.sql")
	if err != nil {
		return "", err
	}
	slices.Sort(names)
	hash := sha256.New()
	for _, name := range names {
		text, err := fs.ReadFile(schema, name)
		if err != nil {
			return "", err
		}
		// Lengths keep a change of the borders from going unseen.
		_, _ = fmt.Fprintf(hash, "%d %s %d %s", len(name), name, len(text), text)
	}
	return databasePrefix + "template_" + hex.EncodeToString(hash.Sum(nil)[:8]), nil
}

// openExternal is the host at TEST_DATABASE_URL.
func openExternal(address string) (host, error) {
	if !strings.HasPrefix(address, "postgres://") && !strings.HasPrefix(address, "postgresql://") {
		return host{}, errors.New("TEST_DATABASE_URL is not of the form postgres://user:password@host:port/database")
	}
	if _, err := pgx.ParseConfig(address); err != nil {
		return host{}, fmt.Errorf("read TEST_DATABASE_URL: %w", err)
	}
	return host{admin: address, user: address}, nil
}

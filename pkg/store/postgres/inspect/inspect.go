// Package inspect looks at a database from outside, for those who take care of it:
// what server it is, what the role may do there, whether notifications arrive, and
// under which master keys rows are sealed. It works at every version of the schema,
// also without one, and changes nothing but what its few functions with a verb in
// their name say.
//
// It does not speak for the domains: their stores are in the package above.
package inspect

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/keywarden/keywarden/pkg/seal"
)

// errURL stands for the parser's error, which may quote the URL with its password.
var errURL = errors.New("the database URL is not valid: expected postgres://user:password@host:port/name")

// Database is one connection. It is not safe for concurrent use.
type Database struct {
	conn *pgx.Conn
	url  seal.Secret
}

// Open connects; the caller closes the database.
func Open(ctx context.Context, address seal.Secret) (*Database, error) {
	conn, err := connect(ctx, address)
	if err != nil {
		return nil, err
	}
	return &Database{conn: conn, url: address}, nil
}

func connect(ctx context.Context, address seal.Secret) (*pgx.Conn, error) {
	config, err := pgx.ParseConfig(address.Reveal())
	if err != nil {
		return nil, errURL
	}
	config.RuntimeParams["application_name"] = "keywarden-inspect"
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return nil, plain(err)
	}
	return conn, nil
}

// plain is what a person can act on: the reason of the server, or that of the network.
func plain(err error) error {
	if err == nil {
		return nil
	}
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return fmt.Errorf("%s (SQLSTATE %s)", pg.Message, pg.Code)
	}
	var network *net.OpError
	if errors.As(err, &network) { // the driver lists every attempt
		return network
	}
	return err
}

// Close ends the connection.
func (d *Database) Close(ctx context.Context) { _ = d.conn.Close(ctx) }

// Server is what a server says of itself and of the database.
type Server struct {
	Version  string // such as "15.14"
	Major    int
	Database string
	Role     string
	Schema   string // the one that tables are looked up in first
	ReadOnly bool   // a standby, or a database that is set so
	Size     int64  // bytes of the database
	Ahead    time.Duration
	RoundTrip,
	LongestTransaction time.Duration // of others, as far as the role may see
	Waiting         int // sessions that wait for a lock
	Connections     int // open to the whole server
	MaxConnections  int
	TransactionPool bool // the connection is not to one session of the server
}

// Server asks the server. now is the clock of this machine.
func (d *Database) Server(ctx context.Context, now func() time.Time) (s Server, err error) {
	var number int
	var pid, later int32
	err = d.conn.QueryRow(ctx, `
		SELECT current_setting('server_version'), current_setting('server_version_num')::int, current_database()::text,
			current_user::text, coalesce(current_schema(), '')::text, pg_is_in_recovery() OR current_setting('transaction_read_only')::bool,
			pg_database_size(current_database()), current_setting('max_connections')::int, pg_backend_pid()`).Scan(
		&s.Version, &number, &s.Database, &s.Role, &s.Schema, &s.ReadOnly, &s.Size, &s.MaxConnections, &pid)
	if err != nil {
		return s, plain(err)
	}
	s.Version, _, _ = strings.Cut(s.Version, " ")
	s.Major = number / 10000
	var longest float64
	err = d.conn.QueryRow(ctx, `
		SELECT count(*) FILTER (WHERE backend_type = 'client backend' OR backend_type IS NULL),
			count(*) FILTER (WHERE wait_event_type = 'Lock'),
			coalesce(extract(epoch FROM max(clock_timestamp() - xact_start) FILTER (WHERE pid <> pg_backend_pid() AND datname = current_database())), 0)::float8
		FROM pg_stat_activity`).Scan(&s.Connections, &s.Waiting, &longest)
	if err != nil {
		return s, plain(err)
	}
	s.LongestTransaction = time.Duration(longest * float64(time.Second))
	before := now()
	var at time.Time
	if err = d.conn.QueryRow(ctx, `SELECT clock_timestamp(), pg_backend_pid()`).Scan(&at, &later); err != nil {
		return s, plain(err)
	}
	after := now()
	s.RoundTrip = after.Sub(before)
	s.Ahead = at.Sub(before.Add(s.RoundTrip / 2))
	s.TransactionPool = pid != later
	return s, nil
}

// MissingPrivileges lists what the role lacks of what the program needs, in words.
func (d *Database) MissingPrivileges(ctx context.Context) ([]string, error) {
	rows, err := d.conn.Query(ctx, `
		SELECT 'CREATE on schema ' || current_schema() WHERE NOT has_schema_privilege(current_schema(), 'CREATE')
		UNION ALL
		SELECT p || ' on table ' || relname FROM pg_class, unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) p
		WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'p') AND NOT has_table_privilege(oid, p)
		ORDER BY 1`)
	if err != nil {
		return nil, plain(err)
	}
	missing, err := pgx.CollectRows(rows, pgx.RowTo[string])
	return missing, plain(err)
}

// Notified reports whether a notification arrives at a session that listens. Behind a
// pooler that gives each transaction another session, none does.
func (d *Database) Notified(ctx context.Context) (bool, error) {
	const channel = "keywarden_doctor"
	if _, err := d.conn.Exec(ctx, "LISTEN "+channel); err != nil {
		return false, plain(err)
	}
	defer func() { _, _ = d.conn.Exec(context.WithoutCancel(ctx), "UNLISTEN "+channel) }()
	other, err := connect(ctx, d.url)
	if err != nil {
		return false, err
	}
	defer func() { _ = other.Close(context.WithoutCancel(ctx)) }()
	if _, err := other.Exec(ctx, "NOTIFY "+channel); err != nil {
		return false, plain(err)
	}
	const patience = 2 * time.Second
	waiting, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	_, err = d.conn.WaitForNotification(waiting)
	if err != nil && ctx.Err() == nil {
		return false, nil // that none came is the answer
	}
	return err == nil, err
}

// Sealed counts the rows that are sealed under one master key.
type Sealed struct {
	Table string
	KeyID string
	Rows  int64
}

// sealedTables are the columns that hold what seal.Keyring made: the id of the key is
// inside, after its length. Verifiers of API keys are no ciphertext, but made under a
// key, too.
var sealedTables = []struct{ table, query string }{
	{"signing_keys", idOf("sealed")},
	{"sealed_secrets", idOf("sealed")},
	{"acme_items", idOf("sealed")},
	{"secrets", idOf("sealed")},
	{"alert_channels", idOf("sealed")},
	{"idempotency", idOf("answer")},
	{"api_key_secrets", "CASE WHEN verifier IS NOT NULL THEN pepper_id END"},
}

func idOf(column string) string {
	return fmt.Sprintf("convert_from(substring(%[1]s FROM 3 FOR get_byte(%[1]s, 1)), 'UTF8')", column)
}

// SealedUnder counts rows by table and by the id of the master key they are under.
// Tables that this schema does not have are left out.
func (d *Database) SealedUnder(ctx context.Context) ([]Sealed, error) {
	var all []Sealed
	for _, t := range sealedTables {
		var exists bool
		if err := d.conn.QueryRow(ctx, `SELECT to_regclass($1) IS NOT NULL`, t.table).Scan(&exists); err != nil {
			return nil, plain(err)
		}
		if !exists {
			continue
		}
		rows, err := d.conn.Query(ctx, `SELECT '`+t.table+`', id, count(*) FROM (SELECT `+t.query+` AS id FROM `+t.table+`) s
			WHERE id IS NOT NULL GROUP BY id ORDER BY id`)
		if err != nil {
			return nil, plain(err)
		}
		found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Sealed])
		if err != nil {
			return nil, plain(err)
		}
		all = append(all, found...)
	}
	return all, nil
}

// ChainKey is the sealed key of the audit chain and the place it is sealed for: the one
// row that every database has which was ever used with a master key. It is nil before.
func (d *Database) ChainKey(ctx context.Context) (sealed []byte, place string, err error) {
	const name = "audit-chain"
	var exists bool
	if err := d.conn.QueryRow(ctx, `SELECT to_regclass('sealed_secrets') IS NOT NULL`).Scan(&exists); err != nil || !exists {
		return nil, "", plain(err)
	}
	err = d.conn.QueryRow(ctx, `SELECT sealed FROM sealed_secrets WHERE name = $1`, name).Scan(&sealed)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, "", nil
	}
	return sealed, "sealed_secrets/" + name, plain(err)
}

// CurrentDocument is the gateway document in force, as it is stored, with the number of
// its revision; 0 where there is none.
func (d *Database) CurrentDocument(ctx context.Context) (number int64, document []byte, err error) {
	var exists bool
	if err := d.conn.QueryRow(ctx, `SELECT to_regclass('gateway_current') IS NOT NULL`).Scan(&exists); err != nil || !exists {
		return 0, nil, plain(err)
	}
	var text string
	err = d.conn.QueryRow(ctx, `SELECT r.number, r.document FROM gateway_revisions r JOIN gateway_current c ON c.number = r.number`).Scan(&number, &text)
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, nil, nil
	}
	return number, []byte(text), plain(err)
}

// Relations counts what the schema holds, without what belongs to extensions.
func (d *Database) Relations(ctx context.Context) (n int, err error) {
	err = d.conn.QueryRow(ctx, `
		SELECT count(*) FROM pg_class c WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'p', 'v', 'm', 'S', 'f')
			AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.classid = 'pg_class'::regclass AND d.deptype = 'e')`).Scan(&n)
	return n, plain(err)
}

// Programs counts the sessions of running instances of the program in the database.
func (d *Database) Programs(ctx context.Context) (n int, err error) {
	err = d.conn.QueryRow(ctx, `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'keywarden'`).Scan(&n)
	return n, plain(err)
}

// ErrExists says that there is a database of that name.
var ErrExists = errors.New("there is a database of that name already")

// CreateDatabase makes an empty database on the same server and returns its URL.
func (d *Database) CreateDatabase(ctx context.Context, name string) (seal.Secret, error) {
	u, err := url.Parse(d.url.Reveal())
	if err != nil {
		return seal.Secret{}, errURL
	}
	const duplicateDatabase = "42P04"
	_, err = d.conn.Exec(ctx, "CREATE DATABASE "+pgx.Identifier{name}.Sanitize())
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Code == duplicateDatabase {
		return seal.Secret{}, ErrExists
	}
	if err != nil {
		return seal.Secret{}, plain(err)
	}
	u.Path, u.RawPath = "/"+name, ""
	q := u.Query()
	q.Del("dbname") // would come before the path
	q.Del("database")
	u.RawQuery = q.Encode()
	return seal.NewSecret(u.String()), nil
}

// DropDatabase removes a database that [Database.CreateDatabase] has made.
func (d *Database) DropDatabase(ctx context.Context, name string) error {
	_, err := d.conn.Exec(ctx, "DROP DATABASE IF EXISTS "+pgx.Identifier{name}.Sanitize()+" WITH (FORCE)")
	return plain(err)
}

package postgres

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/keywarden/keywarden/pkg/faulttest"
	"github.com/keywarden/keywarden/pkg/loadtest"
	"github.com/keywarden/keywarden/pkg/pglocal/pgtest"
	"github.com/keywarden/keywarden/pkg/seal"
)

// migrateTo brings a database to a version of the schema, up or down.
func migrateTo(t *testing.T, url string, version uint) {
	t.Helper()
	m, err := newMigrator(t.Context(), seal.NewSecret(url), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer m.close()
	if err := m.Migrate.Migrate(version); err != nil {
		t.Fatalf("to version %d: %v", version, err)
	}
}

func open(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.WithoutCancel(t.Context())) })
	return conn
}

func texts(t *testing.T, conn *pgx.Conn, sql string, args ...any) []string {
	t.Helper()
	rows, err := conn.Query(t.Context(), sql, args...)
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return list
}

// tablesOf are the tables of a schema, those first that others refer to.
func tablesOf(t *testing.T, conn *pgx.Conn) []string {
	return texts(t, conn, `
		WITH RECURSIVE tables AS (SELECT oid FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition AND relname <> 'schema_migrations'),
		deep(oid, depth) AS (
			SELECT oid, 0 FROM tables
			UNION SELECT c.conrelid, d.depth + 1 FROM pg_constraint c JOIN deep d ON d.oid = c.confrelid WHERE c.contype = 'f' AND c.conrelid <> c.confrelid AND d.depth < 20)
		SELECT oid::regclass::text FROM deep GROUP BY oid ORDER BY max(depth), 1`)
}

// values are what columns get whose constraints ask for something of their own; all others
// get something by their type.
var values = map[string]string{
	"users.email":                   `'somebody@example.com'`,
	"users.role":                    `'admin'`,
	"sessions.expires_at":           `now() + interval '1 hour'`,
	"refresh_tokens.digest":         `sha256('token')`,
	"api_keys.env":                  `'live'`,
	"api_keys.scopes":               `ARRAY['orders:read']`,
	"api_keys.canary":               `false`,
	"audit_log.result":              `'success'`,
	"gateway_revisions.number":      `1`,
	"gateway_revisions.base":        `0`,
	"gateway_revisions.document":    `'{"version":1}'`,
	"gateway_revisions.digest":      `encode(sha256('{"version":1}'), 'hex')`,
	"quota_accounts.ends":           `now() + interval '1 hour'`,
	"quota_accounts.capacity":       `1000`,
	"quota_events.level":            `80`,
	"usage_minutes.status_class":    `2`,
	"plans.approval":                `'automatic'`,
	"subscriptions.state":           `'active'`,
	"analytics_pending.step":        `'hour'`,
	"analytics_hours.at":            `'2001-01-15'`,
	"analytics_days.at":             `'2001-01-15'`,
	"analytics_months.at":           `'2001-01-15'`,
	"alert_channels.kind":           `'webhook'`,
	"alerts.state":                  `'firing'`,
	"alerts.resolved_at":            `NULL`,
	"alert_silences.ends":           `now() + interval '1 hour'`,
	"alert_deliveries.state":        `'pending'`,
	"alert_deliveries.finished_at":  `NULL`,
	"alert_rule_channels.place":     `0`,
	"rate_limits.ends_at":           `now() + interval '1 hour'`,
	"api_keys.expires_at":           `now() + interval '1 year'`,
	"api_key_secrets.valid_until":   `NULL`,
	"refresh_tokens.spent_at":       `NULL`,
	"quota_accounts.used":           `7`,
	"quota_accounts.allowed":        `100`,
	"quota_accounts.topup":          `5`,
	"alert_rules.leased_until":      `now()`,
	"alert_deliveries.leased_until": `now()`,
}

// ofType is a value of a type, distinct from its default.
func ofType(t *testing.T, kind string) string {
	for _, k := range []struct{ prefix, value string }{
		{"uuid", `gen_random_uuid()`},
		{"text[]", `ARRAY['a', 'b']`},
		{"text", `'some text'`},
		{"timestamp with time zone", `now()`},
		{"boolean", `true`},
		{"bytea", `'\x0102'`},
		{"jsonb", `'{"a": 1}'`},
		{"smallint[]", `ARRAY[1, 2]`},
		{"bigint[]", `ARRAY[3, 4]`},
		{"smallint", `3`},
		{"integer", `3`},
		{"bigint", `3`},
	} {
		if kind == k.prefix {
			return k.value
		}
	}
	t.Fatalf("no value for a column of type %s: add one", kind)
	return ""
}

// column is a column to fill.
type column struct {
	Name, Type string
	Refers     *string // table and column that it refers to
}

// fill puts a row into every table that has none, whatever tables there are.
func fill(t *testing.T, conn *pgx.Conn) {
	t.Helper()
	for _, table := range tablesOf(t, conn) {
		if got := texts(t, conn, `SELECT 'x' FROM `+table+` LIMIT 1`); len(got) > 0 {
			continue // the one row that there always is
		}
		if part := texts(t, conn, `SELECT 'x' FROM pg_class WHERE oid = $1::regclass AND relkind = 'p'`, table); len(part) > 0 {
			if _, err := conn.Exec(t.Context(), `CREATE TABLE `+table+`_200101 PARTITION OF `+table+` FOR VALUES FROM ('2001-01-01') TO ('2001-02-01')`); err != nil {
				t.Fatal(err)
			}
		}
		rows, err := conn.Query(t.Context(), `
			SELECT a.attname::text, format_type(a.atttypid, NULL),
				(SELECT format('(SELECT %I FROM %s LIMIT 1)', f.attname, c.confrelid::regclass) FROM pg_constraint c
					JOIN pg_attribute f ON f.attrelid = c.confrelid AND f.attnum = c.confkey[array_position(c.conkey, a.attnum)]
					WHERE c.conrelid = a.attrelid AND c.contype = 'f' AND a.attnum = ANY (c.conkey) ORDER BY c.oid LIMIT 1)
			FROM pg_attribute a WHERE attrelid = $1::regclass AND attnum > 0 AND NOT attisdropped AND attidentity = '' AND attgenerated = '' ORDER BY attnum`, table)
		if err != nil {
			t.Fatal(err)
		}
		columns, err := pgx.CollectRows(rows, pgx.RowToStructByPos[column])
		if err != nil {
			t.Fatal(err)
		}
		var names, exprs []string
		for _, c := range columns {
			value, special := values[table+"."+c.Name]
			switch {
			case special:
			case c.Refers != nil:
				value = *c.Refers
			default:
				value = ofType(t, c.Type)
			}
			names, exprs = append(names, pgx.Identifier{c.Name}.Sanitize()), append(exprs, value)
		}
		sql := `INSERT INTO ` + table + ` (` + strings.Join(names, ", ") + `) VALUES (` + strings.Join(exprs, ", ") + `)`
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%s: %v\nA constraint asks for another value: add it to values.", sql, err)
		}
	}
}

// snapshot is what was in the columns of every table.
type snapshot map[string]struct {
	columns string
	rows    []string
}

func take(t *testing.T, conn *pgx.Conn) snapshot {
	t.Helper()
	s := snapshot{}
	for _, table := range tablesOf(t, conn) {
		columns := strings.Join(texts(t, conn, `SELECT quote_ident(attname) FROM pg_attribute WHERE attrelid = $1::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum`, table), ", ")
		s[table] = struct {
			columns string
			rows    []string
		}{columns, texts(t, conn, `SELECT row(`+columns+`)::text FROM `+table+` ORDER BY 1`)}
	}
	return s
}

// same reports what is not in the database any more.
func (s snapshot) same(t *testing.T, conn *pgx.Conn) {
	t.Helper()
	for table, was := range s {
		if diff := cmp.Diff(was.rows, texts(t, conn, `SELECT row(`+was.columns+`)::text FROM `+table+` ORDER BY 1`)); diff != "" {
			t.Errorf("table %s: %s", table, diff)
		}
	}
}

// From whatever version, with rows in all tables that there are, nothing is lost.
func TestUpgradeFromEveryVersionKeepsTheData(t *testing.T) {
	latest, err := latestMigration()
	if err != nil {
		t.Fatal(err)
	}
	for version := uint(1); version < latest; version++ {
		t.Run(fmt.Sprint(version), func(t *testing.T) {
			url := pgtest.Empty(t)
			migrateTo(t, url, version)
			conn := open(t, url)
			fill(t, conn)
			before := take(t, conn)
			for table, was := range before {
				if len(was.rows) == 0 {
					t.Errorf("table %s has no row to lose", table)
				}
			}
			status, err := migrateAt(t, url)
			if err != nil || !status.Current() {
				t.Fatalf("%+v, %v", status, err)
			}
			before.same(t, open(t, url))
		})
	}
}

// The newest step can be taken back and taken again; only what it has added is lost.
func TestNewestStepGoesDownAndUpAgainWithData(t *testing.T) {
	latest, err := latestMigration()
	if err != nil {
		t.Fatal(err)
	}
	url := pgtest.Empty(t)
	migrateTo(t, url, latest-1)
	fill(t, open(t, url))
	before := take(t, open(t, url))
	migrateTo(t, url, latest)
	made := relations(t, url)
	fill(t, open(t, url))
	migrateTo(t, url, latest-1)
	before.same(t, open(t, url))
	migrateTo(t, url, latest)
	before.same(t, open(t, url))
	if again := relations(t, url); !slices.Equal(made, again) {
		t.Errorf("the second way up makes %v, the first made %v", again, made)
	}
}

// blocked is the version before the first migration that changes a table that was there
// with rows, and the table.
const (
	blockedAt    = 8
	blockedTable = "api_keys"
)

// holdLock keeps a lock on the table that migrations wait for, as a long report does.
func holdLock(t *testing.T, url string) (release func()) {
	t.Helper()
	conn := open(t, url)
	tx, err := conn.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), `LOCK TABLE `+blockedTable+` IN ACCESS SHARE MODE`); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := tx.Rollback(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

// awaitWaiter waits until a migration waits for the lock of the table.
func awaitWaiter(t *testing.T, url string) {
	t.Helper()
	conn := open(t, url)
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); {
		if len(texts(t, conn, `SELECT 'x' FROM pg_locks WHERE NOT granted AND relation = $1::regclass`, blockedTable)) > 0 {
			return
		}
	}
	t.Fatal("no migration waits for the lock")
}

func TestMigrationKilledHalfWayNeedsNoRepair(t *testing.T) {
	url := pgtest.Empty(t)
	migrateTo(t, url, blockedAt)
	fill(t, open(t, url))
	before := take(t, open(t, url))
	release := holdLock(t, url)
	child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestMigratingChild$")
	child.Env = append(os.Environ(), migratingChild+"="+url)
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	awaitWaiter(t, url)
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = child.Wait()
	status, err := ReadSchemaStatus(t.Context(), seal.NewSecret(url))
	if err != nil || status.Version != blockedAt || status.Dirty {
		t.Errorf("after the kill: %+v, %v", status, err)
	}
	release()
	if status, err = migrateAt(t, url); err != nil || !status.Current() {
		t.Errorf("the next start: %+v, %v", status, err)
	}
	before.same(t, open(t, url))
}

func TestMigrationGivesWayToALongTransaction(t *testing.T) {
	url := pgtest.Empty(t)
	migrateTo(t, url, blockedAt)
	fill(t, open(t, url))
	readers := newReaders(t, url)
	before := readers.run(t, nil)
	release := holdLock(t, url)

	// Requests that read the table go on: none of them waits for more than a moment behind
	// the migration, which by itself would wait for the end of the transaction.
	stop, meanwhile := make(chan struct{}), make(chan *loadtest.Result, 1)
	go func() { meanwhile <- readers.run(t, stop) }()

	m, err := newMigrator(t.Context(), seal.NewSecret(url), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer m.close()
	m.patience = 3 * time.Second
	_, err = m.finish(t.Context(), m.up(t.Context()))
	if !errors.Is(err, ErrSchemaLocked) {
		t.Errorf("error %v", err)
	}
	close(stop)
	blocked := <-meanwhile
	status, err := ReadSchemaStatus(t.Context(), seal.NewSecret(url))
	if err != nil || status.Version != blockedAt || status.Dirty {
		t.Errorf("after it gave up: %+v, %v", status, err)
	}
	release()

	stop = make(chan struct{})
	go func() { meanwhile <- readers.run(t, stop) }()
	if status, err = migrateAt(t, url); err != nil || !status.Current() {
		t.Errorf("without the transaction: %+v, %v", status, err)
	}
	close(stop)
	through := <-meanwhile

	for _, r := range []*loadtest.Result{before, blocked, through} {
		if r.Sent == 0 || r.Failed > 0 {
			t.Errorf("%d of %d reads failed: %v", r.Failed, r.Sent, r.Failures)
		}
	}
	at := func(r *loadtest.Result, q float64) float64 { return r.Latency.Quantile(q).Seconds() * 1e3 }
	faulttest.Measured(t, "REL-07", "%.0f reads a second of the table, 0 failed; 99th percentile %.1f ms before; while a transaction keeps the migration waiting: median %.1f ms, 99th percentile %.1f ms, longest %.1f ms of %d; while all migrations go through: longest %.1f ms of %d",
		readsASecond, at(before, 0.99), at(blocked, 0.5), at(blocked, 0.99), at(blocked, 1), blocked.Sent, at(through, 1), through.Sent)
}

// readsASecond is small: what waits is to be seen, not what the machine can do.
const readsASecond = 100.0

// readers are connections that read the table. A read that waits for as long as the
// transaction takes, in place of the moment that the migration tries, fails.
type readers []*pgx.Conn

func newReaders(t *testing.T, url string) (r readers) {
	t.Helper()
	for range 40 { // those that come while one attempt of the migration waits, and more
		conn := open(t, url)
		if _, err := conn.Exec(t.Context(), `SET lock_timeout = '2s'`); err != nil {
			t.Fatal(err)
		}
		r = append(r, conn)
	}
	return r
}

// run reads at a constant rate until it is told to stop, or for two seconds.
func (r readers) run(t *testing.T, stop <-chan struct{}) *loadtest.Result {
	plan := loadtest.Plan{
		Rate: readsASecond, Duration: 2 * time.Second, Workers: len(r), Stop: stop,
		Do: func(ctx context.Context, worker, _ int) error {
			_, err := r[worker].Exec(ctx, `SELECT count(*) FROM `+blockedTable)
			return err
		},
	}
	if stop != nil {
		plan.Duration = patience
	}
	return loadtest.Run(t.Context(), plan)
}

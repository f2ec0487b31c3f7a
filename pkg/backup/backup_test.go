package backup

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5" //nolint:depguard // the test looks at the database itself

	"github.com/keywarden/keywarden/pkg/pglocal/pgtest"
	"github.com/keywarden/keywarden/pkg/seal"
	"github.com/keywarden/keywarden/pkg/store/postgres"
)

func newRing(t *testing.T, retired ...seal.Secret) (*seal.Keyring, seal.Secret) {
	t.Helper()
	key := seal.NewMasterKey()
	ring, err := seal.ParseKeyring(key, retired...)
	if err != nil {
		t.Fatal(err)
	}
	return ring, key
}

func options(address string, ring *seal.Keyring) Options {
	return Options{URL: seal.NewSecret(address), Ring: ring, Program: "v1.2.3", Now: time.Now}
}

func execute(t *testing.T, address string, statements ...string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(t.Context())) }()
	for _, sql := range statements {
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
}

// contents are the rows of every table as text, and what else the schema holds.
func contents(t *testing.T, address string) map[string][]string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(t.Context())) }()
	list := func(sql string) []string {
		rows, err := conn.Query(t.Context(), sql)
		if err != nil {
			t.Fatal(err)
		}
		texts, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			t.Fatal(err)
		}
		return texts
	}
	all := map[string][]string{
		"objects": list(`SELECT relkind::text || ' ' || relname || ' ' || coalesce(obj_description(oid, 'pg_class'), '') FROM pg_class WHERE relnamespace = 'public'::regnamespace
			UNION ALL SELECT 'f ' || proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace
			UNION ALL SELECT 'c ' || conname FROM pg_constraint WHERE connamespace = 'public'::regnamespace
			UNION ALL SELECT 't ' || tgname FROM pg_trigger WHERE NOT tgisinternal ORDER BY 1`),
	}
	for _, table := range list(`SELECT relname::text FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND relpersistence = 'p'`) {
		all[table] = list(`SELECT t::text FROM ` + pgx.Identifier{table}.Sanitize() + ` t ORDER BY 1`)
	}
	return all
}

// used is a database that a program has worked with.
func used(t *testing.T, ring *seal.Keyring, users int) string {
	t.Helper()
	address := pgtest.New(t)
	store, err := postgres.Open(t.Context(), postgres.Options{URL: seal.NewSecret(address), MaxConnections: 2, ConnectTimeout: 10 * time.Second, QueryTimeout: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	if _, err := store.LoadChain(t.Context(), ring); err != nil {
		t.Fatal(err)
	}
	execute(t, address, fmt.Sprintf(`INSERT INTO users (id, email, role, password_hash, created_at, updated_at)
		SELECT gen_random_uuid(), n || '@example.com', 'user', md5(random()::text) || E'\t\\N\n', now(), now() FROM generate_series(1, %d) n`, users))
	return address
}

// written is a backup of the database.
func written(t *testing.T, o Options) (string, Manifest) {
	t.Helper()
	name := filepath.Join(t.TempDir(), "a.backup")
	m, err := Write(t.Context(), o, name)
	if err != nil {
		t.Fatal(err)
	}
	return name, m
}

func TestRestoredDatabaseIsTheOneThatWasBackedUp(t *testing.T) {
	ring, _ := newRing(t)
	from, to := used(t, ring, 100), pgtest.Empty(t)
	execute(t, from, `COMMENT ON TABLE schema_migrations IS 'floor 3'`)
	name, m := written(t, options(from, ring))
	if info, err := os.Stat(name); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	if m.Program != "v1.2.3" || m.Schema == 0 || m.KeyID != ring.ID() || !slices.Equal(m.SealedUnder, []string{ring.ID()}) || m.DatabaseBytes == 0 {
		t.Errorf("the manifest is %+v", m)
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(name), ".*")); len(left) > 0 {
		t.Errorf("temporary files are left: %v", left)
	}
	if _, err := Restore(t.Context(), options(to, ring), name, false); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(contents(t, from), contents(t, to)); diff != "" {
		t.Error(diff)
	}
}

func TestRestoreReplacesOnlyWhenAsked(t *testing.T) {
	ring, _ := newRing(t)
	from := used(t, ring, 10)
	name, _ := written(t, options(from, ring))
	want := contents(t, from)
	// A schema of a later version, with tables that refer to those of the backup.
	execute(t, from, `CREATE TABLE later (user_id uuid REFERENCES users, n bigint GENERATED ALWAYS AS IDENTITY, o serial)`,
		`CREATE VIEW later_view AS SELECT id FROM users`, `CREATE FUNCTION later_function() RETURNS int LANGUAGE sql RETURN 1`, `DELETE FROM users`)
	before := contents(t, from)
	if _, err := Restore(t.Context(), options(from, ring), name, false); !errors.Is(err, ErrNotEmpty) {
		t.Errorf("error %v", err)
	}
	if diff := cmp.Diff(before, contents(t, from)); diff != "" {
		t.Error(diff)
	}
	if _, err := Restore(t.Context(), options(from, ring), name, true); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, contents(t, from)); diff != "" {
		t.Error(diff)
	}
}

// Whatever is refused is refused before anything is changed.
func TestRestoreRefusesWithoutDamage(t *testing.T) {
	ring, key := newRing(t)
	name, m := written(t, options(used(t, ring, 10), ring))
	whole, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	stranger, _ := newRing(t)
	successor, _ := newRing(t, key)
	spoiled := func(change func(b []byte) []byte) string {
		path := filepath.Join(t.TempDir(), "spoiled.backup")
		if err := os.WriteFile(path, change(slices.Clone(whole)), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	flip := func(at int) string { return spoiled(func(b []byte) []byte { b[at] ^= 1; return b }) }
	forged := func(field, with string) string {
		return spoiled(func(b []byte) []byte { return []byte(strings.Replace(string(b), field, with, 1)) })
	}
	cases := []struct {
		what string
		ring *seal.Keyring
		file string
		want error
	}{
		{"another master key", stranger, name, ErrWrongKey},
		{"cut short", ring, spoiled(func(b []byte) []byte { return b[:len(b)/2] }), ErrDamaged},
		{"without its last byte", ring, spoiled(func(b []byte) []byte { return b[:len(b)-1] }), ErrDamaged},
		{"empty", ring, spoiled(func([]byte) []byte { return nil }), ErrDamaged},
		{"something else", ring, spoiled(func([]byte) []byte { return []byte("-- a dump of somebody else\n") }), ErrDamaged},
		{"a bit of the dump flipped", ring, flip(len(whole) / 2), ErrDamaged},
		{"a bit of the first bytes flipped", ring, flip(60), ErrDamaged},
		{"a manifest that says another thing", ring, forged(`"program": "v1.2.3"`, `"program": "v1.2.4"`), ErrDamaged},
	}
	for _, c := range cases {
		t.Run(c.what, func(t *testing.T) {
			to := pgtest.Empty(t)
			execute(t, to, `CREATE TABLE kept AS SELECT 1 AS n`)
			before := contents(t, to)
			if _, err := Restore(t.Context(), options(to, c.ring), c.file, true); !errors.Is(err, c.want) {
				t.Errorf("error %v, want %v", err, c.want)
			}
			if diff := cmp.Diff(before, contents(t, to)); diff != "" {
				t.Error(diff)
			}
		})
	}
	t.Run("a retired key will do", func(t *testing.T) {
		if _, err := Restore(t.Context(), options(pgtest.Empty(t), successor), name, false); err != nil {
			t.Error(err)
		}
	})
	t.Run("newer schema", func(t *testing.T) {
		from := used(t, ring, 1)
		execute(t, from, fmt.Sprintf(`UPDATE schema_migrations SET version = %d`, m.Schema+1))
		newer, _ := written(t, options(from, ring))
		to := pgtest.Empty(t)
		if _, err := Restore(t.Context(), options(to, ring), newer, false); !errors.Is(err, ErrNewer) {
			t.Errorf("error %v", err)
		}
		if left := contents(t, to)["objects"]; len(left) > 0 {
			t.Errorf("it left %v", left)
		}
	})
	t.Run("a program uses the database", func(t *testing.T) {
		to := pgtest.Empty(t)
		u, err := url.Parse(to)
		if err != nil {
			t.Fatal(err)
		}
		q := u.Query()
		q.Set("application_name", "keywarden")
		u.RawQuery = q.Encode()
		conn, err := pgx.Connect(t.Context(), u.String())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close(context.WithoutCancel(t.Context())) }()
		if _, err := Restore(t.Context(), options(to, ring), name, true); !errors.Is(err, ErrInUse) {
			t.Errorf("error %v", err)
		}
	})
}

// A restore that ends half way, at whatever byte, leaves nothing of itself.
func TestInterruptedRestoreLeavesNothing(t *testing.T) {
	ring, _ := newRing(t)
	name, m := written(t, options(used(t, ring, 20_000), ring))
	for _, part := range []int64{0, 1, 2, 3} {
		to := pgtest.Empty(t)
		execute(t, to, `CREATE TABLE users (kept int)`, `INSERT INTO users VALUES (1)`)
		before := contents(t, to)
		o := options(to, ring)
		ctx, cancel := context.WithCancel(t.Context())
		restoring := false
		o.Stage = func(name string) { restoring = name == "restoring" }
		o.Progress = func(done, total int64) {
			if restoring && done >= total*part/4 {
				cancel()
			}
		}
		if _, err := Restore(ctx, o, name, true); !errors.Is(err, context.Canceled) {
			t.Errorf("after %d of 4 parts of %d bytes: error %v", part, m.DumpBytes, err)
		}
		if !restoring {
			t.Error("it was never begun")
		}
		if diff := cmp.Diff(before, contents(t, to)); diff != "" {
			t.Errorf("after %d of 4 parts: %s", part, diff)
		}
		cancel()
	}
}

// A statement that fails in the middle takes back those before it.
func TestRestoreThatFailsLeavesNothing(t *testing.T) {
	ring, _ := newRing(t)
	name, _ := written(t, options(used(t, ring, 10), ring))
	to := pgtest.Empty(t)
	execute(t, to, `CREATE FUNCTION gateway_revisions_are_append_only() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN END'`)
	before := contents(t, to)
	if _, err := Restore(t.Context(), options(to, ring), name, false); err == nil || !strings.Contains(err.Error(), "nothing was changed") || !strings.Contains(err.Error(), "already exists") {
		t.Errorf("error %v", err)
	}
	if diff := cmp.Diff(before, contents(t, to)); diff != "" {
		t.Error(diff)
	}
}

func TestBackupRefusesWhatNobodyCouldUse(t *testing.T) {
	ring, _ := newRing(t)
	stranger, _ := newRing(t)
	address := used(t, ring, 1)
	dir := t.TempDir()
	there := filepath.Join(dir, "there")
	if err := os.WriteFile(there, []byte("kept"), 0o600); err != nil {
		t.Fatal(err)
	}
	missing := options(address, ring)
	missing.BinDir = dir
	gone := options(address, ring)
	ctx, cancel := context.WithCancel(t.Context())
	gone.Progress = func(int64, int64) { cancel() }
	for what, c := range map[string]struct {
		ctx  context.Context
		o    Options
		file string
		want string
	}{
		"another master key":   {t.Context(), options(address, stranger), "a", "another master key"},
		"no schema":            {t.Context(), options(pgtest.Empty(t), ring), "a", "no schema"},
		"a file that is there": {t.Context(), options(address, ring), "there", "is there already"},
		"no programs":          {t.Context(), missing, "a", "postgresql-client-"},
		"an interruption":      {ctx, gone, "a", "canceled"},
		"no folder":            {t.Context(), options(address, ring), "no/a", "no such file"},
	} {
		if _, err := Write(c.ctx, c.o, filepath.Join(dir, c.file)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v", what, err)
		}
	}
	left, err := os.ReadDir(dir)
	if text, _ := os.ReadFile(there); err != nil || len(left) != 1 || string(text) != "kept" {
		t.Errorf("the folder holds %v: %v", left, err)
	}
}

func TestConnectionGoesByTheEnvironment(t *testing.T) {
	got, err := connection(seal.NewSecret("postgres://me:p%40ss@[::1]:6432/kw?sslmode=verify-full&sslrootcert=/ca.pem&pool_max_conns=4"))
	slices.Sort(got)
	want := []string{
		"PGAPPNAME=keywarden-backup", "PGDATABASE=kw", "PGHOST=::1", "PGPASSWORD=p@ss", "PGPORT=6432",
		"PGSSLMODE=verify-full", "PGSSLROOTCERT=/ca.pem", "PGUSER=me",
	}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v %s", err, diff)
	}
	if got, err = connection(seal.NewSecret("postgres://kw@/kw?host=/run/pg&port=5432")); err != nil || !slices.Contains(got, "PGHOST=/run/pg") {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []string{"host=x user=y", "mysql://x/y", "postgres://u:p@h:port/x"} {
		if _, err := connection(seal.NewSecret(bad)); !errors.Is(err, errURL) {
			t.Errorf("%s: error %v", bad, err)
		}
	}
}

func FuzzOpenNeverBelievesBytes(f *testing.F) {
	f.Add([]byte("PK\x05\x06"))
	f.Fuzz(func(t *testing.T, text []byte) {
		name := filepath.Join(t.TempDir(), "x")
		if err := os.WriteFile(name, text, 0o600); err != nil {
			t.Fatal(err)
		}
		file, err := Open(name)
		if err != nil {
			return
		}
		defer func() { _ = file.Close() }()
		ring, err := seal.ParseKeyring(seal.NewMasterKey())
		if err != nil {
			t.Fatal(err)
		}
		if file.Verify(t.Context(), ring, nil) == nil {
			t.Error("a file that nobody wrote is believed")
		}
	})
}

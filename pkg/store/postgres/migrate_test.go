package postgres

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/keywarden/keywarden/pkg/pglocal/pgtest"
	"github.com/keywarden/keywarden/pkg/seal"
)

func migrateAt(t *testing.T, url string) (SchemaStatus, error) {
	t.Helper()
	return Migrate(t.Context(), seal.NewSecret(url), slog.New(slog.DiscardHandler))
}

// execAt runs statements on a database that has no store.
func execAt(t *testing.T, url string, statements ...string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(t.Context()) }()
	for _, sql := range statements {
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
}

// relations lists everything a schema holds, functions too.
func relations(t *testing.T, url string) []string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(t.Context()) }()
	rows, err := conn.Query(t.Context(), `
		SELECT relname::text FROM pg_class WHERE relnamespace = 'public'::regnamespace
		UNION ALL SELECT proname::text FROM pg_proc WHERE pronamespace = 'public'::regnamespace ORDER BY 1`)
	if err != nil {
		t.Fatal(err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func TestMigrationsGoUpAndDownAndUpAgain(t *testing.T) {
	url := pgtest.Empty(t)
	if _, err := migrateAt(t, url); err != nil {
		t.Fatal(err)
	}
	made := relations(t, url)
	for _, table := range tables {
		if !slices.Contains(made, table) {
			t.Errorf("no table %s", table)
		}
	}
	m, err := newMigrator(t.Context(), seal.NewSecret(url), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer m.close()
	if err := m.Down(); err != nil {
		t.Fatal(err)
	}
	left := slices.DeleteFunc(relations(t, url), func(name string) bool { return strings.HasPrefix(name, "schema_migrations") })
	if len(left) > 0 {
		t.Errorf("the way down leaves %v", left)
	}
	if _, err := migrateAt(t, url); err != nil {
		t.Fatal(err)
	}
	if again := relations(t, url); !slices.Equal(made, again) {
		t.Errorf("the second way up makes %v, the first made %v", again, made)
	}
}

// migratingChild holds the URL for a process of TestConcurrentMigrationsApplyOnce.
const migratingChild = "POSTGRES_TEST_MIGRATE"

func TestMigratingChild(t *testing.T) {
	url := os.Getenv(migratingChild)
	if url == "" {
		t.Skip("runs as a child of another test only")
	}
	status, err := Migrate(t.Context(), seal.NewSecret(url), slog.New(slog.NewTextHandler(os.Stderr, nil)))
	if err != nil || !status.Current() {
		t.Fatal(status, err)
	}
}

func TestConcurrentMigrationsApplyOnce(t *testing.T) {
	url := pgtest.Empty(t)
	const processes = 5
	outputs := make([]string, processes)
	errs := together(times(processes, func(i int) error {
		child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestMigratingChild$")
		child.Env = append(os.Environ(), migratingChild+"="+url)
		out, err := child.CombinedOutput()
		outputs[i] = string(out)
		return err
	})...)
	applied := 0
	for i, err := range errs {
		if err != nil {
			t.Errorf("process %d: %v\n%s", i, err, outputs[i])
		}
		applied += len(regexp.MustCompile(`1/u platform`).FindAllString(outputs[i], -1))
	}
	if applied != 1 {
		t.Errorf("the migration was applied %d times:\n%s", applied, strings.Join(outputs, "\n"))
	}
}

func TestConcurrentMigrationsOfOneProcess(t *testing.T) {
	url := pgtest.Empty(t)
	for _, err := range together(times(5, func(int) error {
		_, err := Migrate(t.Context(), seal.NewSecret(url), slog.New(slog.DiscardHandler))
		return err
	})...) {
		if err != nil {
			t.Error(err)
		}
	}
}

func TestMigrateOfACurrentSchemaChangesNothing(t *testing.T) {
	url := pgtest.New(t)
	status, err := migrateAt(t, url)
	if err != nil || !status.Current() || status.Version == 0 {
		t.Errorf("%+v, %v", status, err)
	}
}

func TestMigrateRefusesADirtySchema(t *testing.T) {
	url := pgtest.New(t)
	execAt(t, url, `UPDATE schema_migrations SET dirty = true`)
	if _, err := migrateAt(t, url); !errors.Is(err, ErrDirtySchema) {
		t.Errorf("error %v", err)
	}
	status, err := ReadSchemaStatus(t.Context(), seal.NewSecret(url))
	if err != nil || !status.Dirty || status.Current() {
		t.Errorf("%+v, %v", status, err)
	}
}

func TestNewerSchemaIsServedUnlessItTookSomethingAway(t *testing.T) {
	url := pgtest.New(t)
	execAt(t, url, `UPDATE schema_migrations SET version = 999999`)
	status, err := migrateAt(t, url)
	if err != nil || status.Version != 999999 || !status.Serves() || status.Current() {
		t.Errorf("one that only added: %+v, %v", status, err)
	}
	execAt(t, url, `COMMENT ON TABLE schema_migrations IS 'floor 999998'`)
	status, err = migrateAt(t, url)
	if !errors.Is(err, ErrNewerSchema) || status.Floor != 999998 || status.Serves() {
		t.Errorf("one that took something away: %+v, %v", status, err)
	}
}

func TestMigrateThatWasToldToStopSaysSo(t *testing.T) {
	for wait := time.Duration(0); wait <= 50*time.Millisecond; wait += 5 * time.Millisecond {
		url := seal.NewSecret(pgtest.Empty(t))
		ctx, cancel := context.WithTimeout(t.Context(), wait)
		_, err := Migrate(ctx, url, slog.New(slog.DiscardHandler))
		cancel()
		status, statusErr := ReadSchemaStatus(t.Context(), url)
		if statusErr != nil {
			t.Fatal(statusErr)
		}
		if status.Dirty || status.Current() != (err == nil) {
			t.Errorf("stopped after %v: error %v, but the schema is %+v", wait, err, status)
		}
	}
}

func TestSchemaStatusChangesNothing(t *testing.T) {
	url := pgtest.Empty(t)
	status, err := ReadSchemaStatus(t.Context(), seal.NewSecret(url))
	if err != nil || status.Version != 0 || status.Latest == 0 || status.Current() {
		t.Errorf("%+v, %v", status, err)
	}
	if left := relations(t, url); len(left) > 0 {
		t.Errorf("asking has made %v", left)
	}
}

func TestSchemaStatusOfEverySchema(t *testing.T) {
	none, made := pgtest.Empty(t), pgtest.New(t)
	latest, err := latestMigration()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		what, url, sql string
		want           SchemaStatus
	}{
		{"none", none, ``, SchemaStatus{Latest: latest}},
		{"current", made, ``, SchemaStatus{Version: latest, Latest: latest}},
		{"dirty", made, `UPDATE schema_migrations SET dirty = true`, SchemaStatus{Version: latest, Latest: latest, Dirty: true}},
		{"with a floor", made, `COMMENT ON TABLE schema_migrations IS 'floor 7'`, SchemaStatus{Version: latest, Latest: latest, Dirty: true, Floor: 7}},
		{"without a version", made, `DELETE FROM schema_migrations`, SchemaStatus{Latest: latest, Floor: 7}},
	} {
		if c.sql != "" {
			execAt(t, c.url, c.sql)
		}
		first, err1 := ReadSchemaStatus(t.Context(), seal.NewSecret(c.url))
		second, err2 := openStore(t, c.url).SchemaStatus(t.Context())
		if err1 != nil || err2 != nil || first != c.want || second != c.want {
			t.Errorf("%s: %+v, %v and %+v, %v, want %+v", c.what, first, err1, second, err2, c.want)
		}
	}
}

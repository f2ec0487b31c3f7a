package pgtest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"github.com/keywarden/keywarden/pkg/pglocal"
	"github.com/keywarden/keywarden/pkg/pglocal/internal/filelock"
)

// childEnv makes a re-executed test binary start its shared server, say where it
// is, and wait to be killed.
const childEnv = "PGTEST_TEST_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) != "" {
		h, err := sharedHost()
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println(h.cluster.home)
		select {}
	}
	goleak.VerifyTestMain(m, IgnoreServer())
}

func connect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// tables lists the tables of the product's schema.
func tables(t *testing.T, conn *pgx.Conn) []string {
	t.Helper()
	rows, err := conn.Query(t.Context(), "SELECT tablename::text FROM pg_tables WHERE schemaname = 'public' ORDER BY 1")
	if err != nil {
		t.Fatal(err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func TestNewIsMigratedAndEmptyIsNot(t *testing.T) {
	migrated := tables(t, connect(t, New(t)))
	if !slices.Contains(migrated, "schema_migrations") || len(migrated) < 2 {
		t.Errorf("tables of a migrated database: %v", migrated)
	}
	if empty := tables(t, connect(t, Empty(t))); len(empty) != 0 {
		t.Errorf("tables of an empty database: %v", empty)
	}
}

func TestDatabasesOfConcurrentTestsAreSeparate(t *testing.T) {
	const count = 8
	urls := make([]string, count)
	var group sync.WaitGroup
	for i := range urls {
		group.Go(func() { urls[i] = New(t) })
	}
	group.Wait()
	if distinct := slices.Compact(slices.Sorted(slices.Values(urls))); len(distinct) != count {
		t.Fatalf("%d databases for %d tests", len(distinct), count)
	}
	if _, err := connect(t, urls[0]).Exec(t.Context(), "CREATE TABLE mine ()"); err != nil {
		t.Fatal(err)
	}
	if others := tables(t, connect(t, urls[1])); slices.Contains(others, "mine") {
		t.Error("one test's table is in the other's database")
	}
}

func TestEndOfATestDropsItsDatabaseDespiteOpenConnections(t *testing.T) {
	var address string
	t.Run("test", func(t *testing.T) {
		address = Empty(t)
		// Never closed: the drop has to end it.
		if _, err := pgx.Connect(t.Context(), address); err != nil {
			t.Fatal(err)
		}
	})
	conn, err := pgx.Connect(t.Context(), address)
	if err == nil {
		_ = conn.Close(t.Context())
		t.Fatal("the database is still there")
	}
	if !strings.Contains(err.Error(), "3D000") {
		t.Errorf("not because it is gone: %v", err)
	}
}

func TestTemplatesFollowTheMigrations(t *testing.T) {
	h := mustHost(t)
	one := fstest.MapFS{"000001_a.up.sql": {Data: []byte("CREATE TABLE a ()")}}
	two := maps.Clone(one)
	two["000002_b.up.sql"] = &fstest.MapFile{Data: []byte("CREATE TABLE b ()")}
	for _, c := range []struct {
		name       string
		migrations fs.FS
		want       []string
	}{
		{"one", one, []string{"a", "schema_migrations"}},
		{"two", two, []string{"a", "b", "schema_migrations"}},
		{"one again", one, []string{"a", "schema_migrations"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			url := h.newDatabase(t, func(ctx context.Context) (string, error) { return h.ensureTemplate(ctx, c.migrations) })
			if diff := cmp.Diff(c.want, tables(t, connect(t, url))); diff != "" {
				t.Error(diff)
			}
		})
	}
	dropTemplates(t, h, one, two)
}

func TestNobodyCanOccupyATemplate(t *testing.T) {
	h := mustHost(t)
	schema := fstest.MapFS{"000001_a.up.sql": {Data: []byte("CREATE TABLE a ()")}}
	template, err := h.ensureTemplate(t.Context(), schema)
	if err != nil {
		t.Fatal(err)
	}
	defer dropTemplates(t, h, schema)
	conn, err := pgx.Connect(t.Context(), h.url(template))
	if err == nil {
		_ = conn.Close(t.Context())
		t.Fatal("a template takes connections, which keep it from being copied")
	}
}

func TestFailedMigrationMakesNoTemplate(t *testing.T) {
	h := mustHost(t)
	broken := fstest.MapFS{"000001_a.up.sql": {Data: []byte("CREATE TABLE a (); SELECT no_such_column")}}
	for range 2 { // What the first attempt leaves must not hinder the second.
		if _, err := h.ensureTemplate(t.Context(), broken); err == nil || !strings.Contains(err.Error(), "no_such_column") {
			t.Errorf("got %v", err)
		}
	}
	dropTemplates(t, h, broken)
}

// dropTemplates removes what a test made beside its databases.
func dropTemplates(t *testing.T, h host, all ...fs.FS) {
	t.Helper()
	for _, schema := range all {
		name, err := templateName(schema)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{name, name + "_new"} {
			if err := h.drop(t.Context(), name); err != nil {
				t.Error(err)
			}
		}
	}
}

func TestTemplateNameSeesEveryChangeOfTheMigrations(t *testing.T) {
	file := func(text string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(text)} }
	names := map[string]string{}
	for name, migrations := range map[string]fstest.MapFS{
		"base":    {"1_a.up.sql": file("x"), "2_b.up.sql": file("y")},
		"text":    {"1_a.up.sql": file("x"), "2_b.up.sql": file("z")},
		"name":    {"1_a.up.sql": file("x"), "2_c.up.sql": file("y")},
		"removed": {"1_a.up.sql": file("x")},
		"moved":   {"1_a.up.sql": file("xy"), "2_b.up.sql": file("")},
	} {
		template, err := templateName(migrations)
		if err != nil {
			t.Fatal(err)
		}
		if other, taken := names[template]; taken {
			t.Errorf("%s and %s have one template", name, other)
		}
		names[template] = name
	}
	base, err := templateName(fstest.MapFS{"1_a.up.sql": file("x"), "2_b.up.sql": file("y"), "1_a.down.sql": file("w"), "embed.go": file("v")})
	if err != nil {
		t.Fatal(err)
	}
	if names[base] != "base" {
		t.Error("files that do not make the schema change the template")
	}
}

func TestExternalServerNeedsAURL(t *testing.T) {
	for _, address := range []string{"host=localhost user=me", "postgres://host:port/", "localhost"} {
		if _, err := openExternal(address); err == nil || !strings.Contains(err.Error(), "TEST_DATABASE_URL") {
			t.Errorf("%s: %v", address, err)
		}
	}
	h, err := openExternal("postgres://me:secret@db.example:6432/postgres?sslmode=require")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := h.url("x"), "postgres://me:secret@db.example:6432/x?sslmode=require"; got != want {
		t.Errorf("got %s", got)
	}
	if h.owner() != "me" {
		t.Errorf("owner is %s", h.owner())
	}
}

func TestExternalServerHoldsDatabases(t *testing.T) {
	s := NewServer(t)
	h, err := openExternal(s.cluster.server.AdminURL())
	if err != nil {
		t.Fatal(err)
	}
	url := h.newDatabase(t, func(ctx context.Context) (string, error) {
		return h.ensureTemplate(ctx, fstest.MapFS{"000001_a.up.sql": {Data: []byte("CREATE TABLE a ()")}})
	})
	if diff := cmp.Diff([]string{"a", "schema_migrations"}, tables(t, connect(t, url))); diff != "" {
		t.Error(diff)
	}
}

func TestServerOutageKeepsAddressAndData(t *testing.T) {
	s := NewServer(t)
	address := s.URL()
	conn := connect(t, address)
	if _, err := conn.Exec(t.Context(), "CREATE TABLE kept ()"); err != nil {
		t.Fatal(err)
	}
	s.Stop()
	if err := conn.Ping(t.Context()); err == nil {
		t.Error("the old connection outlived the server")
	}
	if _, err := pgx.Connect(t.Context(), address); err == nil {
		t.Error("a stopped server takes connections")
	}
	s.Start()
	if s.URL() != address {
		t.Errorf("the URL changed from %s to %s", address, s.URL())
	}
	if names := tables(t, connect(t, address)); !slices.Contains(names, "kept") || !slices.Contains(names, "schema_migrations") {
		t.Errorf("tables after the outage: %v", names)
	}
}

func TestServersOfOneTestAreSeparate(t *testing.T) {
	one, two := NewServer(t), NewServer(t)
	one.Stop()
	// A stopped server's cluster is still its test's.
	if third := NewServer(t); third.cluster.home == one.cluster.home {
		t.Error("a stopped server's cluster was taken by another")
	}
	if names := tables(t, connect(t, two.URL())); len(names) < 2 {
		t.Errorf("tables of the second: %v", names)
	}
}

// startChild is another test process with a shared server in the returned place.
func startChild(t *testing.T) (child *exec.Cmd, home string) {
	t.Helper()
	child = exec.Command(os.Args[0])
	child.Env = append(os.Environ(), childEnv+"=1", "TEST_DATABASE_URL=")
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = child.Process.Kill()
		_ = child.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return child, strings.TrimSpace(line)
}

func TestKilledProcessLeavesAClusterWithoutItsDatabases(t *testing.T) {
	t.Setenv("TMPDIR", tempDir(t))
	child, home := startChild(t)
	if other, otherHome := startChild(t); otherHome == home {
		t.Fatal("two processes have one cluster")
	} else if err := other.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	address, err := pglocal.Running((&cluster{home: home}).dataDir())
	if err != nil {
		t.Fatal(err)
	}
	h := host{admin: strings.Replace(address, "keywarden@/keywarden", "postgres@/postgres", 1), user: address}
	if err := h.create(t.Context(), databasePrefix+"left", emptyTemplate); err != nil {
		t.Fatal(err)
	}
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = child.Wait()

	c, err := takeCluster(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.give(context.Background()) }()
	if c.home != home {
		t.Errorf("took %s, not the free %s", c.home, home)
	}
	if _, err := pgx.Connect(t.Context(), c.host().url(databasePrefix+"left")); err == nil || !strings.Contains(err.Error(), "3D000") {
		t.Errorf("the killed test's database: %v", err)
	}
}

func TestIdleClustersAreBounded(t *testing.T) {
	base := t.TempDir()
	const used = maxIdle + 1
	for i := range maxIdle + 3 {
		c := cluster{home: homeOf(base, i)}
		if err := os.MkdirAll(c.dataDir(), 0o700); err != nil {
			t.Fatal(err)
		}
		owner, err := filelock.TryLock(c.ownerFile())
		if err != nil {
			t.Fatal(err)
		}
		if i == used {
			defer func() { _ = owner.Close() }()
		} else if err := owner.Close(); err != nil {
			t.Fatal(err)
		}
	}
	trim(t.Context(), base)
	for i := range maxIdle + 3 {
		_, err := os.Stat((&cluster{home: homeOf(base, i)}).dataDir())
		if got, want := err == nil, i < maxIdle || i == used; got != want {
			t.Errorf("cluster %d is there: %t, want %t", i, got, want)
		}
	}
}

func TestClusterThatCannotBeTrustedIsMadeAnew(t *testing.T) {
	for name, spoil := range map[string]func(home string) error{
		"made before a restart of the machine": func(home string) error {
			return os.WriteFile(filepath.Join(home, "origin"), []byte("15.0\nanother boot\n"), 0o600)
		},
		"broken": func(home string) error {
			return os.Remove(filepath.Join(home, "p", "data", "global", "pg_control"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("TMPDIR", tempDir(t))
			c, err := takeCluster(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			marked := host{admin: c.server.URL()}
			if err := errors.Join(marked.exec(t.Context(), "CREATE TABLE marked ()"), c.give(t.Context()), spoil(c.home)); err != nil {
				t.Fatal(err)
			}
			if c, err = takeCluster(t.Context()); err != nil {
				t.Fatal(err)
			}
			defer func() { _ = c.give(context.Background()) }()
			conn, err := pgx.Connect(t.Context(), c.server.URL())
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = conn.Close(context.Background()) }()
			if names := tables(t, conn); len(names) != 0 {
				t.Errorf("tables of the new cluster: %v", names)
			}
		})
	}
}

// tempDir is a temporary directory that the user PostgreSQL runs as may enter.
// The clusters of killed processes in it are removed with all they left elsewhere.
func tempDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(filepath.Dir(dir), 0o711); err != nil { // Another user has to pass.
		t.Fatal(err)
	}
	t.Cleanup(func() {
		homes, err := filepath.Glob(filepath.Join(dir, "*", "*", "owner"))
		if err != nil {
			t.Error(err)
		}
		for _, owner := range homes {
			if err := pglocal.Remove(context.Background(), (&cluster{home: filepath.Dir(owner)}).dataDir()); err != nil {
				t.Error(err)
			}
		}
	})
	return dir
}

func TestForeignBaseDirectoryIsRefused(t *testing.T) {
	for name, plant := range map[string]func(base string) error{
		"writable by others": func(base string) error { return errors.Join(os.Mkdir(base, 0o700), os.Chmod(base, 0o777)) },
		"a link":             func(base string) error { return os.Symlink(t.TempDir(), base) },
		"a file":             func(base string) error { return os.WriteFile(base, nil, 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("TMPDIR", t.TempDir())
			base, err := baseDir()
			if err != nil {
				t.Fatal("an absent directory is made: ", err)
			}
			if err := errors.Join(os.Remove(base), plant(base)); err != nil {
				t.Fatal(err)
			}
			if _, err := baseDir(); err == nil {
				t.Error("accepted")
			}
		})
	}
}

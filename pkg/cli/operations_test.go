package cli_test

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	neturl "net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/golang-migrate/migrate/v4"
	migratepgx "github.com/golang-migrate/migrate/v4/database/pgx/v5"
	"github.com/golang-migrate/migrate/v4/source/iofs"

	"github.com/keywarden/keywarden/migrations"
	"github.com/keywarden/keywarden/pkg/app/apptest"
	"github.com/keywarden/keywarden/pkg/pglocal"
	"github.com/keywarden/keywarden/pkg/pglocal/pgtest"
	"github.com/keywarden/keywarden/pkg/seal"
)

// reader is a key that may see whose it is.
var reader = map[string]any{"scopes": []string{"profile:read"}}

// psqlDir is the folder of PostgreSQL's programs.
func psqlDir(tb testing.TB) string {
	tb.Helper()
	found, err := pglocal.Find(tb.Context(), os.Getenv("KEYWARDEN_POSTGRES_BIN"))
	if err != nil {
		tb.Fatal(err)
	}
	return found.Dir
}

// sql runs a statement and returns what it answers, a line for each row.
func sql(tb testing.TB, url, statement string) string {
	tb.Helper()
	cmd := exec.CommandContext(tb.Context(), filepath.Join(psqlDir(tb), "psql"), "-XAtq", "-v", "ON_ERROR_STOP=1", "-c", statement, url)
	out, err := cmd.CombinedOutput()
	if err != nil {
		tb.Fatalf("%s: %v\n%s", statement, err, out)
	}
	return strings.TrimSpace(string(out))
}

// latestSchema is the number of the newest migration.
func latestSchema(tb testing.TB) uint {
	tb.Helper()
	names, err := fs.Glob(migrations.FS, "*.up.sql")
	if err != nil || len(names) == 0 {
		tb.Fatal(names, err)
	}
	return uint(len(names)) // numbers have no gaps
}

// migrateDown brings a database back to an earlier version of the schema.
func migrateDown(tb testing.TB, url string, version uint) {
	tb.Helper()
	source, err := iofs.New(migrations.FS, ".")
	if err != nil {
		tb.Fatal(err)
	}
	driver, err := new(migratepgx.Postgres).Open("pgx5" + strings.TrimPrefix(url, "postgres"))
	if err != nil {
		tb.Fatal(err)
	}
	m, err := migrate.NewWithInstance("iofs", source, "pgx5", driver)
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _, _ = m.Close() }()
	if err := m.Migrate(version); err != nil {
		tb.Fatal(err)
	}
}

// A key that was made before an upgrade works after it, from whatever version.
func TestKeysOutliveUpgrades(t *testing.T) {
	url, in := newDatabase(t)
	s := serve(t, in)
	u := s.User(t)
	key := s.Key(t, u, reader)
	s.Want(t, http.StatusOK, http.MethodGet, "/users/me", nil, key.Auth()...)
	s.stop()
	latest := latestSchema(t)
	for _, version := range []uint{latest - 1, latest / 2, 1} {
		migrateDown(t, url, version)
		again := serve(t, in)
		again.Want(t, http.StatusOK, http.MethodGet, "/users/me", nil, key.Auth()...)
		again.SignIn(t, u)
		again.stop()
		run(t, with(in, "migrate", "status")).want(0, fmt.Sprintf("version %d, latest %d, dirty false", latest, latest))
		run(t, with(in, "audit", "verify")).want(0, "The audit chain holds")
	}
}

// newDatabase is a database with how to serve on it.
func newDatabase(tb testing.TB) (string, invocation) {
	tb.Helper()
	url := pgtest.New(tb)
	return url, serving(url, seal.NewMasterKey())
}

// with is another command in the environment of in.
func with(in invocation, args ...string) invocation {
	in.args = args
	return in
}

// A program works on a later schema that only added to what it knows, and refuses one
// that took something away, and one that was left half done.
func TestOlderProgramOnANewerSchema(t *testing.T) {
	url, in := newDatabase(t)
	serve(t, in).stop()
	later := latestSchema(t) + 1
	sql(t, url, fmt.Sprintf(`ALTER TABLE api_keys ADD COLUMN later text NOT NULL DEFAULT ''; ALTER TABLE users ADD COLUMN later int;
		CREATE TABLE later (id int); UPDATE schema_migrations SET version = %d`, later))
	for _, migrate := range []string{"true", "false"} {
		set := in
		set.args = append(slices.Clone(in.args), "--set", "database.migrate_on_start="+migrate)
		s := serve(t, set)
		s.logged("the schema is newer than this binary", nil)
		u := s.User(t)
		key := s.Key(t, u, reader)
		s.Want(t, http.StatusOK, http.MethodGet, "/users/me", nil, key.Auth()...)
		s.stop()
	}
	for _, migrate := range []string{"true", "false"} {
		set := in
		set.args = append(slices.Clone(in.args), "--set", "database.migrate_on_start="+migrate)
		sql(t, url, fmt.Sprintf(`COMMENT ON TABLE schema_migrations IS 'floor %d'`, later))
		run(t, set).want(1, "the schema is newer than this binary, and lacks what it needs")
		sql(t, url, `UPDATE schema_migrations SET dirty = true`)
		run(t, set).want(1, "marked dirty", "docs/guides/operations.md")
		sql(t, url, `UPDATE schema_migrations SET dirty = false`)
	}
}

// What was backed up while it was used works in another database, under the same secret
// and no other.
func TestRestoredDatabaseServesUnderTheSameSecret(t *testing.T) {
	_, in := newDatabase(t)
	s := serve(t, in)
	u := s.User(t)
	key := s.Key(t, u, reader)
	file := filepath.Join(openDir(t), "kw.backup")
	made := run(t, with(in, "backup", file, "-o", "json")).want(0).json()
	if made["file"] != file {
		t.Errorf("it says %v", made)
	}
	later := s.Key(t, u, reader) // is not in it
	s.stop()

	to := pgtest.Empty(t)
	wrong := serving(to, seal.NewMasterKey())
	run(t, with(wrong, "restore", "--check", file)).want(1, "made under another master key")
	run(t, with(wrong, "restore", file)).want(1, "made under another master key", "nothing was changed")
	if left := sql(t, to, `SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace`); left != "0" {
		t.Errorf("a refused restore left %s relations", left)
	}
	right := in
	right.env = slices.Clone(in.env)
	for i, v := range right.env {
		if strings.HasPrefix(v, "DATABASE_URL=") {
			right.env[i] = "DATABASE_URL=" + to
		}
	}
	run(t, with(right, "restore", "--check", file)).want(0, "is whole")
	run(t, with(right, "restore", file)).want(0, "Restored the backup", "The audit chain holds")
	run(t, with(right, "restore", file)).want(1, "is not empty", "--into-new", "--force")

	again := serve(t, right)
	again.Want(t, http.StatusOK, http.MethodGet, "/users/me", nil, key.Auth()...)
	again.Want(t, http.StatusUnauthorized, http.MethodGet, "/users/me", nil, later.Auth()...)
	again.SignIn(t, u)
	run(t, with(right, "restore", file, "--force")).want(1, "stop every replica first")
	again.stop()
	run(t, wrong).want(1, "another master key")
	serve(t, right).stop()
}

// A restore into a new database leaves the configured one alone, makes nothing where the
// name is taken or missing, and takes the new one away again when it fails.
func TestRestoreIntoANewDatabaseTouchesNoOther(t *testing.T) {
	private, err := pglocal.Start(t.Context(), pglocal.Options{DataDir: filepath.Join(openDir(t), "pg"), BinDir: os.Getenv("KEYWARDEN_POSTGRES_BIN"), Disposable: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = private.Stop(context.WithoutCancel(t.Context())) })
	url := private.URL()
	in := serving(url, seal.NewMasterKey())
	s := serve(t, in)
	u := s.User(t)
	key := s.Key(t, u, reader)
	file := filepath.Join(openDir(t), "kw.backup")
	run(t, with(in, "backup", file)).want(0)
	s.stop()
	const name = "kw into/new?"
	exists := func() string { return sql(t, url, "SELECT count(*) FROM pg_database WHERE datname = '"+name+"'") }
	run(t, with(in, "restore", file, "--into-new", name)).want(1, "permission denied to create database", "CREATEDB")
	sql(t, private.AdminURL(), "ALTER ROLE "+pglocal.Role+" CREATEDB")
	before := sql(t, url, `SELECT count(*) FROM users`)

	run(t, with(in, "restore", file, "--into-new", "")).want(2, "--into-new needs the name of a database")
	run(t, with(in, "restore", file, "--into-new", name, "--force")).want(2, "exclude each other")
	spoiled := filepath.Join(openDir(t), "spoiled.backup")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	text[len(text)/2] ^= 1
	if err := os.WriteFile(spoiled, text, 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, with(in, "restore", spoiled, "--into-new", name)).want(1, "damaged")
	if n := exists(); n != "0" {
		t.Error("a restore that failed has left its database")
	}

	named := in // the database by a parameter, which comes before the path
	named.env = slices.Clone(in.env)
	for i, v := range named.env {
		if strings.HasPrefix(v, "DATABASE_URL=") {
			named.env[i] = v + "&dbname=" + sql(t, url, "SELECT current_database()")
		}
	}
	run(t, with(named, "restore", file, "--into-new", name)).want(0, "It is in the new database "+name, "The audit chain holds")
	run(t, with(in, "restore", file, "--into-new", name)).want(1, "there is a database of that name already")
	if n, after := exists(), sql(t, url, `SELECT count(*) FROM users`); n != "1" || after != before {
		t.Errorf("%s databases of the name, %s users of %s", n, after, before)
	}
	made := in
	made.env = slices.Clone(in.env)
	address, err := neturl.Parse(url)
	if err != nil {
		t.Fatal(err)
	}
	address.Path, address.RawPath = "/"+name, ""
	for i, v := range made.env {
		if strings.HasPrefix(v, "DATABASE_URL=") {
			made.env[i] = "DATABASE_URL=" + address.String()
		}
	}
	again := serve(t, made)
	again.Want(t, http.StatusOK, http.MethodGet, "/users/me", nil, key.Auth()...)
	again.stop()
}

// A restore that is killed in the middle of its transaction leaves the database as it was.
func TestKilledRestoreLeavesTheDatabaseAsItWas(t *testing.T) {
	url, in := newDatabase(t)
	s := serve(t, in)
	key := s.Key(t, s.User(t), reader)
	s.stop()
	file := filepath.Join(t.TempDir(), "kw.backup")
	run(t, with(in, "backup", file)).want(0)
	users := sql(t, url, `SELECT count(*) FROM users`)

	// Somebody reads a table that the restore wants to replace.
	report := exec.CommandContext(t.Context(), filepath.Join(psqlDir(t), "psql"), "-XAtq", "-c",
		`BEGIN; LOCK TABLE users IN ACCESS SHARE MODE; SELECT pg_sleep(300)`, url)
	report.Stdout, report.Stderr = io.Discard, io.Discard
	if err := report.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = report.Wait() })
	release := func() string {
		return sql(t, url, `SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(300)' AND datname = current_database()`)
	}
	defer release()
	waiting := `SELECT count(*) FROM pg_locks WHERE relation = 'users'::regclass AND mode = 'AccessExclusiveLock' AND NOT granted`
	held := `SELECT count(*) FROM pg_locks WHERE relation = 'users'::regclass AND mode = 'AccessShareLock' AND granted`
	apptest.Eventually(t, "the reader", func() bool { return sql(t, url, held) != "0" })
	p := start(t, with(in, "restore", file, "--force"))
	apptest.Eventually(t, "the restore in the middle of its transaction", func() bool { return sql(t, url, waiting) == "1" })
	p.kill()
	release()
	apptest.Eventually(t, "the end of what the killed one has begun", func() bool {
		return sql(t, url, `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'keywarden-backup'`) == "0"
	})
	if got := sql(t, url, `SELECT count(*) FROM users`); got != users {
		t.Errorf("%s users, there were %s", got, users)
	}
	again := serve(t, in)
	again.Want(t, http.StatusOK, http.MethodGet, "/users/me", nil, key.Auth()...)
}

func TestDoctorEndsWithHowBadItIs(t *testing.T) {
	url, in := newDatabase(t)
	args := []string{"doctor", "--set", "server.addr=127.0.0.1:0", "--set", "server.max_connections=10", "--set", "data.dir=" + filepath.Join(t.TempDir(), "none")}
	well := run(t, with(in, args...))
	if well.code != 0 && !strings.Contains(well.stdout, "locks") && !strings.Contains(well.stdout, "connections:") { // of other tests on the same server
		t.Errorf("a healthy installation:\n%s", well.stdout)
	}
	sql(t, url, `UPDATE schema_migrations SET version = version - 1`)
	run(t, with(in, args...)).want(1, "WARNING", "1 migration pending", "keywarden migrate up")
	sql(t, url, `UPDATE schema_migrations SET dirty = true`)
	run(t, with(in, args...)).want(2, "FAILED", "A dirty schema")
	run(t, with(in, "doctor", "--set", "server.adr=:1")).want(2, "FAILED", "did you mean server.addr?")

	cluster := run(t, with(in, append(args, "--set", "gateway.source=kubernetes")...))
	if !strings.Contains(cluster.stdout, "made of the objects of the cluster") || strings.Contains(cluster.stdout, "runs without a gateway") {
		t.Errorf("with routes of a cluster:\n%s", cluster.stdout)
	}

	// What the client of Redis says by itself is a finding already.
	if r := run(t, with(in, append(slices.Clone(args), "--set", "redis.url=redis://127.0.0.1:1")...)).want(2, "FAILED", "redis"); r.stderr != "" {
		t.Errorf("stderr has %q", r.stderr)
	}

	// The document in the database is looked at as one in a file is.
	stored := append(slices.Clone(args), "--set", "gateway.source=database")
	if r := run(t, with(in, stored...)); !strings.Contains(r.stdout, "the database has none yet") {
		t.Errorf("without a document:\n%s", r.stdout)
	}
	sql(t, url, `INSERT INTO gateway_revisions (number, digest, at, base, document) SELECT 1, encode(sha256(convert_to(d, 'UTF8')), 'hex'), now(), 0, d
		FROM (SELECT '{"version":1,"services":[{"name":"gone","url":"http://127.0.0.1:1"}],"routes":[]}' AS d) AS given`)
	sql(t, url, `UPDATE gateway_current SET number = 1`)
	run(t, with(in, stored...)).want(2, "revision 1", "targets: gone 127.0.0.1:1")

	const canary = "canary-of-a-password"
	away := in
	away.env = []string{"DATABASE_URL=postgres://u:" + canary + "@127.0.0.1:1/x", "KEYWARDEN_MASTER_KEY=" + canary, "REDIS_URL=redis://u:" + canary + "@127.0.0.1:1"}
	for _, form := range []string{"text", "json"} {
		if r := run(t, with(away, "doctor", "-o", form)).want(2); strings.Contains(r.stdout+r.stderr, canary) {
			t.Errorf("a secret is shown:\n%s%s", r.stdout, r.stderr)
		}
	}
	found, ok := run(t, with(in, append(args, "-o", "json")...)).want(2).json()["findings"].([]any)
	if !ok || len(found) < 10 {
		t.Errorf("the findings are %v", found)
	}
}

// runbookBlocks are the commands of a page that can be run as they are.
var runbookBlocks = regexp.MustCompile("(?ms)^```sh runbook\n(.*?)^```$")

func TestRunbooksDoWhatTheySay(t *testing.T) {
	for _, tool := range []string{"bash", "curl", "jq", "openssl", "unzip", "base64"} {
		if _, err := exec.LookPath(tool); err != nil {
			if os.Getenv("CI") != "" {
				t.Fatalf("%s is missing: apt-get install curl jq openssl unzip", tool)
			}
			t.Skipf("%s is missing: apt-get install curl jq openssl unzip", tool)
		}
	}
	pages, err := filepath.Glob(filepath.Join(root, "docs/runbooks/*.md"))
	if err != nil || len(pages) < 10 {
		t.Fatal(pages, err)
	}
	backend := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	t.Cleanup(backend.Close)
	dir := openDir(t)
	document := writeFile(t, filepath.Join(dir, "gateway.yaml"), "version: 1\nservices: [{name: users, url: "+strconv.Quote(backend.URL)+"}]\nroutes: [{name: users, match: {path: {prefix: /shop}}, auth: {mode: none}, service: users}]\n")
	url, in := newDatabase(t)
	in.args = append(in.args, "--set", "gateway.file="+document, "--set", "alerts.allow_networks=127.0.0.0/8")
	s := serve(t, in)
	if status, _, err := get(t.Context(), s.URL+"/shop/x"); err != nil || status != http.StatusOK {
		t.Fatalf("the backend: %d, %v", status, err)
	}
	admin := makeAdmin(t, in, s)
	operator := s.Key(t, admin, map[string]any{"scopes": []string{"config:read", "config:write", "audit:read", "keys:read", "keys:write", "keys:admin", "users:read", "usage:read", "alerts:read", "alerts:write"}})
	leaked := s.Key(t, s.User(t), reader)
	giveUpDelivery(t, s.Program, url, admin, backend.URL)

	// The program as a command, for those who run the pages.
	bin := filepath.Join(dir, "bin")
	if err := os.Mkdir(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	program := writeFile(t, filepath.Join(bin, "keywarden"), "#!/bin/sh\nexport "+asProgram+"=1\nexec "+binary(t, false)+" \"$@\"\n")
	if err := os.Chmod(program, 0o755); err != nil {
		t.Fatal(err)
	}
	env := append(slices.Clone(in.env), "PATH="+bin+":"+psqlDir(t)+":"+os.Getenv("PATH"), "HOME="+dir,
		"BASE="+s.URL, "ADMIN="+s.URL+"/admin/v1", "KEY="+operator.Secret, "KEYWARDEN_SERVER="+s.URL, "KEYWARDEN_API_KEY="+operator.Secret)
	for _, page := range pages {
		t.Run(filepath.Base(page), func(t *testing.T) {
			blocks := runbookBlocks.FindAllStringSubmatch(readFile(t, page), -1)
			if len(blocks) == 0 && filepath.Base(page) != "README.md" {
				t.Error("it has no commands that a test can run")
			}
			work := openDir(t)
			writeFile(t, filepath.Join(work, "leaked.key"), leaked.Secret+"\n")
			for i, block := range blocks {
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				cmd := exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-c", block[1])
				cmd.Dir, cmd.Env, cmd.WaitDelay = work, env, time.Second
				out, err := cmd.CombinedOutput()
				cancel()
				if err != nil {
					t.Errorf("block %d: %v\n%s\n%s", i+1, err, block[1], out)
				}
				if text := string(out); strings.Contains(text, "unknown flag") || strings.Contains(text, operator.Secret) {
					t.Errorf("block %d:\n%s", i+1, text)
				}
			}
		})
	}
}

// giveUpDelivery makes a channel that works by now, and a notification that was given up.
func giveUpDelivery(t *testing.T, p *apptest.Program, url string, admin *apptest.User, receiver string) {
	t.Helper()
	channel := p.Want(t, http.StatusCreated, "POST", "/admin/v1/alert-channels", map[string]any{"name": "chat", "kind": "slack", "url": receiver}, admin.Auth()...).Text(t, "id")
	rule := p.Want(t, http.StatusCreated, "POST", "/admin/v1/alert-rules", map[string]any{
		"name": "keys", "signal": "key_expiry", "threshold": 7, "channels": []string{channel},
	}, admin.Auth()...).Text(t, "id")
	db := apptest.Connect(t, url)
	for _, statement := range []string{
		`INSERT INTO alerts (id, rule_id, state, alert, fired_at, resolved_at) VALUES (gen_random_uuid(), '` + rule + `', 'resolved', '{}', now(), now())`,
		`INSERT INTO alert_deliveries (id, alert_id, channel_id, event, notification, state, finished_at)
			SELECT gen_random_uuid(), id, '` + channel + `', 'alert.resolved', '{}', 'dead', now() FROM alerts`,
	} {
		if _, err := db.Exec(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
}

// The headings that alerts lead to are there.
func TestAlertsLeadToRunbooks(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(root, "configs/prometheus/rules/*.yml"))
	if err != nil {
		t.Fatal(err)
	}
	links := regexp.MustCompile(`docs/runbooks/([a-z-]+\.md)#([a-z0-9-]+)`)
	seen := 0
	for _, file := range files {
		for _, link := range links.FindAllStringSubmatch(readFile(t, file), -1) {
			seen++
			if !slices.Contains(anchors(readFile(t, filepath.Join(root, "docs/runbooks", link[1]))), link[2]) {
				t.Errorf("%s leads to %s, and the page has no such heading", filepath.Base(file), link[0])
			}
		}
	}
	if len(files) > 0 && seen == 0 {
		t.Error("no alert leads to a runbook")
	}
}

// anchors are what headings of a page are linked by.
func anchors(page string) (list []string) {
	for _, heading := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(page, -1) {
		text := regexp.MustCompile(`[^a-z0-9 -]`).ReplaceAllString(strings.ToLower(heading[1]), "")
		list = append(list, strings.ReplaceAll(text, " ", "-"))
	}
	return list
}

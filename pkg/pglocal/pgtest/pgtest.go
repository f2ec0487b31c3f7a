// Package pgtest gives tests a real PostgreSQL: each test its own database,
// made in tens of milliseconds from a migrated template.
//
// It owns test databases and the throw-away server that holds them. It owns no
// schema (package migrations does) and no queries. Only tests import it.
//
// With TEST_DATABASE_URL, the URL of a role that may create databases, they are
// created there. Without it, the first test of a process starts a private
// server that all of its tests share, and that ends with the process however
// that ends. A machine with neither fails the tests, since skipping them would
// hide that nothing was tested.
//
// The private servers' clusters are kept below the temporary directory, since
// making one costs a second. A process, or a [Server], takes one that nobody else
// has, and drops the databases that killed tests left in it. Roles and settings
// that a test changes outside its database stay, as they would on any server.
// The directory, kw-pgtest-<uid>, may be deleted whenever no test runs.
// KEYWARDEN_POSTGRES_BIN names the directory of PostgreSQL's programs if they
// are not found by themselves.
package pgtest

import (
	"context"
	"crypto/rand"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/keywarden/keywarden/migrations"
)

// timeout bounds each step of a test's set-up and clean-up, on a loaded machine.
const timeout = 2 * time.Minute

// sharedHost is the process's one place for databases. A test process has no
// earlier owner that could hold it.
var sharedHost = sync.OnceValues(openHost)

// New is the URL of a fresh database with all migrations applied, for this test
// alone. It is dropped at the end of the test, open connections or not.
func New(tb testing.TB) string {
	tb.Helper()
	h := mustHost(tb)
	return h.newDatabase(tb, func(ctx context.Context) (string, error) { return h.ensureTemplate(ctx, migrations.FS) })
}

// Empty is [New] without any migration.
func Empty(tb testing.TB) string {
	tb.Helper()
	return mustHost(tb).newDatabase(tb, func(context.Context) (string, error) { return emptyTemplate, nil })
}

func mustHost(tb testing.TB) host {
	tb.Helper()
	h, err := sharedHost()
	if err != nil {
		tb.Fatalf("%v\n(for tests: or set TEST_DATABASE_URL to a server on which databases can be created)", err)
	}
	return h
}

// newDatabase creates a database from the template for the length of the test.
func (h host) newDatabase(tb testing.TB, template func(context.Context) (string, error)) string {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), timeout)
	defer cancel()
	from, err := template(ctx)
	if err != nil {
		tb.Fatalf("prepare the template database: %v", err)
	}
	name := databasePrefix + strings.ToLower(rand.Text()[:16])
	if err := h.create(ctx, name, from); err != nil {
		tb.Fatalf("create a test database: %v", err)
	}
	tb.Cleanup(func() {
		// The test's own context has ended by now.
		ctx, cancel := context.WithTimeout(context.Background(), timeout)
		defer cancel()
		if err := h.drop(ctx, name); err != nil {
			tb.Errorf("drop the test database: %v", err)
		}
	})
	return h.url(name)
}

// IgnoreServer lets [goleak] pass over the goroutine that waits for the shared
// server, which lives as long as the process.
func IgnoreServer() goleak.Option {
	return goleak.IgnoreAnyFunction("github.com/keywarden/keywarden/pkg/pglocal.(*process).supervise")
}

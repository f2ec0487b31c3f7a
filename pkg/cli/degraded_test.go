package cli_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/keywarden/keywarden/pkg/app/apptest"
	"github.com/keywarden/keywarden/pkg/changes"
	"github.com/keywarden/keywarden/pkg/pglocal/pgtest"
	"github.com/keywarden/keywarden/pkg/revision"
	"github.com/keywarden/keywarden/pkg/seal"
	"github.com/keywarden/keywarden/pkg/spec"
	"github.com/keywarden/keywarden/pkg/store/postgres"
)

// openAndKeyed is a document with a route for everybody and one for keys.
func openAndKeyed(t *testing.T) string {
	t.Helper()
	backend := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	t.Cleanup(backend.Close)
	return fmt.Sprintf(`version: 1
services: [{name: s, url: %q}]
routes:
  - {name: open, match: {path: {prefix: /open}}, service: s, auth: {mode: none}}
  - {name: keyed, match: {path: {prefix: /keyed}}, service: s}
`, backend.URL)
}

// revisionsAt is the desired state in a database, to change it beside the program.
func revisionsAt(t *testing.T, url string, master seal.Secret) *revision.Service {
	t.Helper()
	ring, err := seal.ParseKeyring(master)
	if err != nil {
		t.Fatal(err)
	}
	store, err := postgres.Open(t.Context(), postgres.Options{
		URL: seal.NewSecret(url), MaxConnections: 2, ConnectTimeout: time.Minute, QueryTimeout: time.Minute,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(store.Close)
	if _, err := store.LoadChain(t.Context(), ring); err != nil {
		t.Fatal(err)
	}
	return revision.NewService(revision.Options{Store: store, Now: time.Now, Notify: func(changes.Event) {}})
}

func (s *server) ready() bool {
	status, _, err := get(context.Background(), s.URL+"/readyz?plane=control")
	return err == nil && status == http.StatusOK
}

// A machine is lost together with the database: the program that comes up first
// serves what it served, and all the rest when the database is there.
func TestKilledProgramStartsWithoutTheDatabase(t *testing.T) {
	database, master, dir := pgtest.NewServer(t), seal.NewMasterKey(), t.TempDir()
	in := serving(database.URL(), master, "gateway.source=database", "data.dir="+dir, "database.connect_timeout=1s")
	first := serve(t, in)
	doc, err := spec.Parse("", []byte(openAndKeyed(t)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := revisionsAt(t, database.URL(), master).Put(t.Context(), doc, revision.Put{Create: true}); err != nil {
		t.Fatal(err)
	}
	apptest.Eventually(t, "the revision is served", func() bool { return first.Call(t, "GET", "/open", nil).Status == http.StatusOK })
	u := first.User(t)
	key := first.Key(t, u, nil)
	apptest.Eventually(t, "the document is on the disk", func() bool {
		found, err := filepath.Glob(filepath.Join(dir, "gateway-last-good.json"))
		return err == nil && len(found) == 1
	})
	first.kill()
	database.Stop()

	second := serve(t, in)
	second.Want(t, http.StatusOK, "GET", "/open", nil)
	second.Want(t, http.StatusServiceUnavailable, "GET", "/keyed", nil, key.Auth()...)
	second.Want(t, http.StatusOK, "GET", "/healthz", nil)
	if second.ready() {
		t.Error("it says that it is ready")
	}
	database.Start()
	apptest.Eventually(t, "it is ready", second.ready)
	second.Want(t, http.StatusOK, "GET", "/keyed", nil, key.Auth()...)
	second.signal(syscall.SIGHUP)
	second.logged("reloading the gateway document", nil)
	second.Want(t, http.StatusOK, "GET", "/open", nil)
	second.stop()
}

// However the database is away, the program starts, and stops in order.
func TestStartIsBoundedHoweverTheDatabaseIsAway(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0") // connections open, and nobody answers
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = silent.Close() })
	for name, addr := range map[string]string{"refused": "127.0.0.1:1", "silent": silent.Addr().String()} {
		t.Run(name, func(t *testing.T) {
			document := writeFile(t, filepath.Join(t.TempDir(), "gateway.yaml"), openAndKeyed(t))
			s := serve(t, serving("postgres://nobody@"+addr+"/none", seal.NewMasterKey(), "gateway.file="+document, "database.connect_timeout=100ms"))
			s.Want(t, http.StatusOK, "GET", "/open", nil)
			s.stop()
		})
	}
}

// What a start refuses is refused as soon as it can be known.
func TestDatabaseThatCannotBeUsedEndsAProgramThatStartedWithoutIt(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(t *testing.T, url string)
		set   string
		says  string
	}{
		"another master key": {
			spoil: func(t *testing.T, url string) { revisionsAt(t, url, seal.NewMasterKey()) },
			says:  "this database was used with another master key",
		},
		"an old schema": {
			spoil: func(t *testing.T, url string) {
				t.Helper()
				if _, err := apptest.Connect(t, url).Exec(t.Context(), `UPDATE schema_migrations SET version = 1`); err != nil {
					t.Fatal(err)
				}
			},
			set:  "database.migrate_on_start=false",
			says: "run: keywarden migrate up",
		},
	} {
		t.Run(name, func(t *testing.T) {
			database := pgtest.NewServer(t)
			c.spoil(t, database.URL())
			database.Stop()
			document := writeFile(t, filepath.Join(t.TempDir(), "gateway.yaml"), openAndKeyed(t))
			set := []string{"gateway.file=" + document, "database.connect_timeout=100ms"}
			if c.set != "" {
				set = append(set, c.set)
			}
			s := serve(t, serving(database.URL(), seal.NewMasterKey(), set...))
			s.Want(t, http.StatusOK, "GET", "/open", nil)
			database.Start()
			code := s.wait()
			result{t, code, s.stdout.String(), s.stderr.String()}.want(1, c.says)
		})
	}
}

func TestDocumentIsInOnePlace(t *testing.T) {
	in := serving("postgres://nobody@127.0.0.1:1/none", seal.NewMasterKey(), "gateway.source=database", "gateway.file=gateway.yaml")
	run(t, in).want(2, "gateway.file", "must be empty when gateway.source is database")
}

package app_test

import (
	"context"
	"database/sql"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	migratepgx "github.com/golang-migrate/migrate/v4/database/pgx/v5"
	_ "github.com/jackc/pgx/v5/stdlib" // for database/sql

	"github.com/keywarden/keywarden/pkg/app"
	"github.com/keywarden/keywarden/pkg/app/apptest"
	"github.com/keywarden/keywarden/pkg/config"
	"github.com/keywarden/keywarden/pkg/loadtest"
	"github.com/keywarden/keywarden/pkg/pglocal/pgtest"
	"github.com/keywarden/keywarden/pkg/seal"
	"github.com/keywarden/keywarden/pkg/store/postgres"
)

// startWith runs the program with these options until it ends by itself.
func startWith(t *testing.T, set map[string]string) error {
	t.Helper()
	set["security.master_key"] = seal.NewMasterKey().Reveal()
	cfg, err := config.Load(config.Source{Flags: set, Serving: true})
	if err != nil {
		t.Fatal(err)
	}
	return app.Run(t.Context(), app.Options{
		Config: cfg, Env: app.Env{Lookup: func(string) (string, bool) { return "", false }}, Logger: slog.New(slog.DiscardHandler),
	})
}

// The schema is looked at while the rest is made; it is not migrated before the rest is
// known to be well.
func TestStartThatIsRefusedChangesNoDatabase(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("version: 1\nroutes: [{name: x, service: missing}]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		set  map[string]string
		want string
	}{
		"gateway document": {map[string]string{"gateway.file": file}, "missing"},
		"certificate":      {map[string]string{"server.tls.cert_file": file, "server.tls.key_file": file}, "TLS of the main listener"},
	} {
		t.Run(name, func(t *testing.T) {
			c.set["server.addr"], c.set["database.url"] = "127.0.0.1:0", pgtest.Empty(t)
			if err := startWith(t, c.set); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one about %q", err, c.want)
			}
			status, err := postgres.ReadSchemaStatus(t.Context(), seal.NewSecret(c.set["database.url"]))
			if err != nil || status.Version != 0 {
				t.Errorf("the schema is at version %d, %v", status.Version, err)
			}
		})
	}
}

// Who migrates to a later schema may take long. A replica whose own is there starts.
func TestStartOnACurrentSchemaWaitsForNobodyWhoMigrates(t *testing.T) {
	url := pgtest.New(t)
	db, err := sql.Open("pgx", url)
	if err != nil {
		t.Fatal(err)
	}
	driver, err := migratepgx.WithInstance(db, &migratepgx.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = driver.Close() }()
	if err := driver.Lock(); err != nil {
		t.Fatal(err)
	}
	start(t, apptest.Options{DatabaseURL: url})
}

// Nobody can connect to a replica that waits for its database: a load balancer would
// take it for one that works, only slowly.
func TestNobodyIsListenedToBeforeTheDatabaseIsFound(t *testing.T) {
	free, err := loadtest.FreeAddresses(3)
	if err != nil {
		t.Fatal(err)
	}
	asked := make(chan struct{})
	database, err := new(net.ListenConfig).Listen(t.Context(), "tcp", free[0])
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = database.Close() }()
	go func() { // accepts and says nothing
		defer close(asked)
		if conn, err := database.Accept(); err == nil {
			defer func() { _ = conn.Close() }()
			for range free[1:] { // it was asked twice: everything else is made by then
				if _, err := database.Accept(); err != nil {
					return
				}
			}
		}
	}()
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		cfg, err := config.Load(config.Source{Serving: true, Flags: map[string]string{
			"server.addr": free[1], "server.metrics_addr": free[2], "database.url": "postgres://a:b@" + free[0] + "/c?sslmode=disable",
			"database.connect_timeout": "100ms", "security.master_key": seal.NewMasterKey().Reveal(),
		}})
		if err == nil {
			err = app.Run(ctx, app.Options{
				Config: cfg, Env: app.Env{Lookup: func(string) (string, bool) { return "", false }}, Logger: slog.New(slog.DiscardHandler),
			})
		}
		ended <- err
	}()
	select {
	case <-asked:
	case err := <-ended:
		t.Fatalf("it has ended: %v", err)
	}
	for _, addr := range free[1:] {
		dialer := net.Dialer{Timeout: time.Second}
		if conn, err := dialer.DialContext(ctx, "tcp", addr); err == nil {
			_ = conn.Close()
			t.Errorf("%s is listened on", addr)
		}
	}
	stop()
	if err := <-ended; err == nil {
		t.Error("a start that was told to stop has succeeded")
	}
}

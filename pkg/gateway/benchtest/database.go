package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/keywarden/keywarden/pkg/pglocal"
)

// databases are those of one server, which is a private one unless the environment
// names another in DATABASE_URL.
type databases struct {
	admin, owner string // URLs; the name of the database is replaced
	psql         string
	made         []string
	private      *pglocal.Server // nil for another
}

// maxConnections is enough for all gateways that run at once.
const maxConnections = 400

func openDatabases(ctx context.Context, dir string) (*databases, error) {
	found, err := pglocal.Find(ctx, "")
	if err != nil {
		return nil, err
	}
	d := &databases{psql: filepath.Join(found.Dir, "psql")}
	if address := os.Getenv("DATABASE_URL"); address != "" {
		d.admin, d.owner = address, address
		return d, nil
	}
	d.private, err = pglocal.Start(ctx, pglocal.Options{DataDir: filepath.Join(dir, "postgres"), MaxConnections: maxConnections, Disposable: true})
	if err != nil {
		return nil, err
	}
	d.admin, d.owner = d.private.AdminURL(), d.private.URL()
	return d, nil
}

// fill executes a script that fills a database that was made. On the private server
// it is exempt from looking every foreign key up, which takes longer than the rest.
func (d *databases) fill(ctx context.Context, address string, script io.Reader) error {
	if d.private == nil {
		return d.run(ctx, address, script)
	}
	admin, err := url.Parse(d.admin)
	if err != nil {
		return err
	}
	database, err := url.Parse(address)
	if err != nil {
		return err
	}
	admin.Path = database.Path
	return d.run(ctx, admin.String(), io.MultiReader(strings.NewReader("SET session_replication_role = replica;\n"), script))
}

// make makes an empty database and returns its URL.
func (d *databases) make(ctx context.Context) (string, error) {
	owner, err := url.Parse(d.owner)
	if err != nil {
		return "", err
	}
	name := fmt.Sprintf("keywarden_bench_%d_%d", os.Getpid(), len(d.made))
	if err := d.run(ctx, d.admin, strings.NewReader(fmt.Sprintf("CREATE DATABASE %q OWNER %q;", name, owner.User.Username()))); err != nil {
		return "", err
	}
	d.made = append(d.made, name)
	owner.Path = "/" + name
	return owner.String(), nil
}

// run has psql execute a script.
func (d *databases) run(ctx context.Context, address string, script io.Reader) error {
	cmd := exec.CommandContext(ctx, d.psql, "--no-psqlrc", "--quiet", "--set", "ON_ERROR_STOP=1", "--dbname", address)
	cmd.Stdin = script
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("psql: %w: %.500s", err, out)
	}
	return nil
}

// close drops what was made and ends a private server.
func (d *databases) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if d.private != nil {
		return d.private.Stop(ctx)
	}
	var all []error
	for _, name := range d.made {
		all = append(all, d.run(ctx, d.admin, strings.NewReader(fmt.Sprintf("DROP DATABASE IF EXISTS %q WITH (FORCE);", name))))
	}
	return errors.Join(all...)
}

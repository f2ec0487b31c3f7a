//go:build unix && !aix && !solaris

package pglocal

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"syscall"

	"github.com/jackc/pgx/v5"
)

// createCluster makes the cluster beside its place and moves it there when it is
// complete, so that a first start that is killed leaves no half of one.
func (s *Server) createCluster(ctx context.Context) error {
	if err := s.layout.removeUnfinished(); err != nil {
		return fmt.Errorf("remove an unfinished cluster: %w", err)
	}
	dir, err := os.MkdirTemp(s.layout.dir, unfinishedPrefix)
	if err != nil {
		return err
	}
	if err := s.initdb(ctx, dir); err != nil {
		_ = os.RemoveAll(dir)
		return err
	}
	if err := os.Rename(dir, s.layout.cluster()); err != nil {
		return err
	}
	return syncDir(s.layout.dir)
}

func (s *Server) initdb(ctx context.Context, dir string) error {
	if err := s.account.own(dir); err != nil {
		return fmt.Errorf("give %s to user %s: %w", dir, s.account.name, err)
	}
	program := s.binaries.program("initdb")
	cmd := s.account.command(s.layout.dir, syscall.SIGKILL, program, initdbArgs(dir, s.options.Disposable)...)
	cmd.Stdout, cmd.Stderr = s.log.file, s.log.file
	cmd.ExtraFiles = []*os.File{s.lock.server}
	if err := run(ctx, cmd); err != nil {
		return fmt.Errorf("create the PostgreSQL cluster: %w%s", s.account.explain(err, program, s.layout.dir), s.log.tail())
	}
	return nil
}

// initdbArgs trusts whoever reaches the socket, which the mode of its directory
// decides, and refuses TCP should anybody switch it on.
func initdbArgs(dir string, disposable bool) []string {
	args := []string{
		"--pgdata=" + dir, "--username=" + superuser,
		"--auth-local=trust", "--auth-host=reject",
		"--encoding=UTF8", "--no-locale",
		"--no-instructions",
	}
	if disposable {
		return append(args, "--no-sync", "--wal-segsize=1")
	}
	return append(args, "--data-checksums")
}

// serverArgs are settings on the command line, so that they hold whatever the
// cluster's configuration files say.
func serverArgs(cluster, socketDir string, o Options) []string {
	settings := []string{
		"listen_addresses=",
		"unix_socket_directories=" + socketDir,
		"unix_socket_permissions=0700",
		"port=" + port,
		"timezone=UTC", "log_timezone=UTC",
		"log_destination=stderr", "logging_collector=off",
		// A statement's error is the client's to report. In this log it would only
		// add users' data, and lines without bound.
		"log_min_messages=log", "log_checkpoints=off",
	}
	if o.MaxConnections > 0 {
		settings = append(settings, "max_connections="+strconv.Itoa(o.MaxConnections))
	}
	if o.Disposable {
		settings = append(settings,
			"fsync=off", "synchronous_commit=off", "full_page_writes=off",
			"wal_level=minimal", "max_wal_senders=0",
			"autovacuum=off", "shared_buffers=32MB", "max_wal_size=64MB")
	}
	args := []string{"-D", cluster}
	for _, setting := range settings {
		args = append(args, "-c", setting)
	}
	return args
}

func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = dir.Close() }()
	return dir.Sync()
}

// ensureDatabase makes the product's role and database when absent. It runs at
// every start, so a first start may be killed between the two.
func ensureDatabase(ctx context.Context, conn *pgx.Conn) error {
	for _, step := range []struct{ exists, create string }{
		{"SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = '" + Role + "')", "CREATE ROLE " + Role + " LOGIN"},
		{"SELECT EXISTS (SELECT FROM pg_database WHERE datname = '" + Database + "')", "CREATE DATABASE " + Database + " OWNER " + Role},
	} {
		var exists bool
		if err := conn.QueryRow(ctx, step.exists).Scan(&exists); err != nil {
			return fmt.Errorf("look at the cluster: %w", err)
		}
		if exists {
			continue
		}
		if _, err := conn.Exec(ctx, step.create); err != nil {
			return fmt.Errorf("prepare the cluster: %w", err)
		}
	}
	return nil
}

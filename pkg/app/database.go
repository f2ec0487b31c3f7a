package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"

	"github.com/keywarden/keywarden/pkg/app/masterkey"
	"github.com/keywarden/keywarden/pkg/config"
	"github.com/keywarden/keywarden/pkg/pglocal"
	"github.com/keywarden/keywarden/pkg/seal"
	"github.com/keywarden/keywarden/pkg/store/postgres"
)

// Files below the data directory.
const (
	postgresFolder = "postgres"
	masterKeyFile  = "master.key"
)

// Env is what the process gets from outside: the program never reads its
// environment elsewhere, so that a test can start the whole of it.
type Env struct {
	Lookup func(name string) (string, bool)
	IsRoot bool
}

// DataDir is the folder for local files.
func (e Env) DataDir(cfg *config.Config) (string, error) {
	return config.DataDir(cfg, e.Lookup, e.IsRoot)
}

// Database is where the records are: an external server, or a private one that
// this process started or found running.
type Database struct {
	URL     seal.Secret
	Private bool            // one of pglocal
	server  *pglocal.Server // nil unless this process started it
}

// OpenDatabase finds the database of the configuration for a program that
// serves. With no URL set it starts the private server of the data directory; a
// second program on the same directory is refused. The caller closes it.
func OpenDatabase(ctx context.Context, cfg *config.Config, env Env, logger *slog.Logger) (*Database, error) {
	if !cfg.Database.URL.Empty() {
		return &Database{URL: cfg.Database.URL}, nil
	}
	dir, err := PostgresDir(cfg, env)
	if err != nil {
		return nil, err
	}
	server, err := pglocal.Start(ctx, pglocal.Options{DataDir: dir, BinDir: cfg.Database.PostgresBin, Logger: logger})
	if err != nil {
		return nil, fmt.Errorf("the private PostgreSQL does not start: %w", err)
	}
	return &Database{URL: seal.NewSecret(server.URL()), Private: true, server: server}, nil
}

// JoinDatabase is OpenDatabase for a short command: it works beside a program
// that serves on the same data directory, and starts the server only when there
// is none.
func JoinDatabase(ctx context.Context, cfg *config.Config, env Env, logger *slog.Logger) (*Database, error) {
	if cfg.Database.URL.Empty() {
		dir, err := PostgresDir(cfg, env)
		if err != nil {
			return nil, err
		}
		if url, err := pglocal.Running(dir); err == nil {
			return &Database{URL: seal.NewSecret(url), Private: true}, nil
		}
	}
	return OpenDatabase(ctx, cfg, env, logger)
}

// PostgresDir is where the private server lives.
func PostgresDir(cfg *config.Config, env Env) (string, error) {
	dir, err := env.DataDir(cfg)
	return filepath.Join(dir, postgresFolder), err
}

// Died is closed when a server that this process started is gone; it is nil, and
// so never ready, when there is none.
func (d *Database) Died() <-chan struct{} {
	if d.server == nil {
		return nil
	}
	return d.server.Done()
}

// Close stops the server, if this process started it.
func (d *Database) Close(ctx context.Context) error {
	if d.server == nil {
		return nil
	}
	return d.server.Stop(ctx)
}

// migrate brings the schema up to date.
func migrate(ctx context.Context, url seal.Secret, logger *slog.Logger) error {
	status, err := postgres.Migrate(ctx, url, logger)
	if err != nil {
		return err
	}
	logger.InfoContext(ctx, "the schema is current", "version", status.Version)
	return nil
}

// Keyring makes the ring of master keys. Where the configuration names none and
// the data directory may hold it, the key is read from there, or made.
func Keyring(cfg *config.Config, env Env, keyInDataDir bool) (*seal.Keyring, error) {
	key := cfg.Security.MasterKey
	if key.Empty() {
		if !keyInDataDir {
			return nil, errors.New("no master key: set KEYWARDEN_MASTER_KEY to the output of: keywarden keygen")
		}
		path, err := MasterKeyPath(cfg, env)
		if err != nil {
			return nil, err
		}
		if key, err = masterkey.ReadOrMake(path); err != nil {
			return nil, err
		}
	}
	return seal.ParseKeyring(key, cfg.Security.MasterKeysRetired...)
}

// MasterKeyPath is where the key is kept that was made at the first start.
func MasterKeyPath(cfg *config.Config, env Env) (string, error) {
	dir, err := env.DataDir(cfg)
	return filepath.Join(dir, masterKeyFile), err
}

// checkSchema refuses a schema that is not the one this binary was made for,
// where migrating at the start is switched off. A newer one is accepted as long as it has
// only added to what this binary needs.
func checkSchema(ctx context.Context, status postgres.SchemaStatus, logger *slog.Logger) error {
	switch {
	case status.Dirty:
		return postgres.ErrDirtySchema
	case status.Version < status.Latest:
		return fmt.Errorf("the schema is at version %d and this binary needs %d; run: keywarden migrate up", status.Version, status.Latest)
	case !status.Serves():
		return postgres.ErrNewerSchema
	case status.Version > status.Latest:
		logger.WarnContext(ctx, "the schema is newer than this binary", "version", status.Version, "known", status.Latest)
	}
	return nil
}

package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/keywarden/keywarden/pkg/app"
	"github.com/keywarden/keywarden/pkg/audit"
	"github.com/keywarden/keywarden/pkg/backup"
	"github.com/keywarden/keywarden/pkg/cli/shell"
	"github.com/keywarden/keywarden/pkg/config"
	"github.com/keywarden/keywarden/pkg/seal"
	"github.com/keywarden/keywarden/pkg/store/postgres"
	"github.com/keywarden/keywarden/pkg/store/postgres/inspect"
)

// fileTime is how a time is written in the name of a file.
const fileTime = "20060102T150405Z"

func (c *command) backup() *cobra.Command {
	return shell.WithArguments(c.WithOutput(&cobra.Command{
		Use:   "backup [FILE]",
		Short: "Write the database into one file, while the program runs",
		Long: `Write everything that the database holds into one file, in one snapshot, while
instances go on. It needs pg_dump, pg_restore and psql in the version of the server or
newer. The file gets its name when it is complete and was read back.

Not in it: the master key, without which the backup cannot be restored (keep it, and
not beside the file), and the gateway document where that is a file (keep it in git).

Exit codes: 0 the backup is written; 1 it is not; 2 the command line or the
configuration is wrong.`,
		Example: `  keywarden backup                                  # keywarden-<database>-<time>.backup, here
  keywarden backup /var/backups/keywarden.backup
  keywarden restore --check /var/backups/keywarden.backup`,
		RunE: func(cmd *cobra.Command, args []string) error {
			o, done, err := c.backupOptions(cmd.Context())
			if err != nil {
				return err
			}
			defer done()
			name := "keywarden-" + time.Now().UTC().Format(fileTime) + ".backup"
			if len(args) > 0 {
				name = args[0]
			}
			m, err := backup.Write(cmd.Context(), o, name)
			if err != nil {
				return err
			}
			if path, err := filepath.Abs(name); err == nil {
				name = path
			}
			return c.Print(written{File: name, Manifest: m}, func(w io.Writer) {
				_, _ = fmt.Fprintf(w, "Wrote %s: %d bytes, schema %d, PostgreSQL %s, verified.\nTo restore it you need the master key with id %s, which is not in it. A gateway document in a file is not in it either.\n",
					name, m.DumpBytes, m.Schema, m.Server, m.KeyID)
			})
		},
	}), 0, 1)
}

// written is the answer of backup, restored that of restore.
type written struct {
	File     string          `json:"file"`
	Manifest backup.Manifest `json:"manifest"`
}

type restored struct {
	File     string          `json:"file"`
	Manifest backup.Manifest `json:"manifest"`
	Database string          `json:"database,omitempty"` // that was made for it
	Records  int64           `json:"audit_records"`
	Head     string          `json:"audit_head"`
}

// backupOptions finds the database and its master key, which is never made here: with a
// new one, nothing could be opened.
func (c *command) backupOptions(ctx context.Context) (backup.Options, func(), error) {
	cfg, err := c.Load(false, nil)
	if err != nil {
		return backup.Options{}, nil, err
	}
	ring, err := c.existingRing(cfg, cfg.Database.URL.Empty())
	if err != nil {
		return backup.Options{}, nil, err
	}
	db, err := app.JoinDatabase(ctx, cfg, c.Env(), c.quiet())
	if err != nil {
		return backup.Options{}, nil, err
	}
	report := &progress{w: c.Sys.Stderr, terminal: terminal(c.Sys.Stderr), now: time.Now}
	return backup.Options{
		URL: db.URL, Ring: ring, BinDir: cfg.Database.PostgresBin, Program: app.Version().Version, Now: time.Now,
		Progress: report.show, Stage: report.begin,
	}, func() { report.end(); _ = db.Close(context.WithoutCancel(ctx)) }, nil
}

// progress tells a person how far long work is: on a terminal one line that is written
// over, elsewhere a line for each stage.
type progress struct {
	w        io.Writer
	terminal bool
	now      func() time.Time
	stage    string
	shown    time.Time
	open     bool // a line that is not ended yet
}

func (p *progress) begin(stage string) {
	p.end()
	p.stage, p.shown = stage, time.Time{}
	if !p.terminal {
		_, _ = fmt.Fprintf(p.w, "keywarden: %s\n", stage)
	}
}

func (p *progress) show(done, total int64) {
	const often = 200 * time.Millisecond
	if !p.terminal || p.now().Sub(p.shown) < often {
		return
	}
	p.shown, p.open = p.now(), true
	const mib = 1 << 20
	_, _ = fmt.Fprintf(p.w, "\r\x1b[K%s %.1f of %.1f MiB", p.stage, float64(done)/mib, float64(total)/mib)
}

func (p *progress) end() {
	if p.open {
		_, _ = fmt.Fprint(p.w, "\r\x1b[K")
		p.open = false
	}
}

func (c *command) restore() *cobra.Command {
	var force, check bool
	var intoNew string
	cmd := shell.WithArguments(c.WithOutput(&cobra.Command{
		Use:   "restore FILE",
		Short: "Bring a backup back, wholly or not at all",
		Long: `Bring a backup back into the configured database, which must be empty, in one
transaction: a restore that fails, or is killed, leaves the database as it was. The file
is checked first, and refused when it is damaged, needs another master key, or is of a
newer version of the program. Stop every replica before, and start them after.

Exit codes: 0 the backup is restored and checked; 1 it is refused or failed; 2 the
command line or the configuration is wrong.`,
		Example: `  keywarden restore --check keywarden.backup               # look at the file; touch no database
  keywarden restore keywarden.backup                       # into an empty database
  keywarden restore keywarden.backup --into-new keywarden2 # into a new one on the same server
  keywarden restore keywarden.backup --force               # in place of what the database holds`,
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case force && cmd.Flags().Changed("into-new"):
				return shell.Usage(errors.New("--force and --into-new exclude each other"))
			case intoNew == "" && cmd.Flags().Changed("into-new"): // a variable that is not set
				return shell.Usage(errors.New("--into-new needs the name of a database"))
			case check:
				return c.checkBackup(cmd.Context(), args[0])
			}
			o, done, err := c.backupOptions(cmd.Context())
			if err != nil {
				return err
			}
			defer done()
			answer := restored{File: args[0], Database: intoNew}
			if intoNew == "" {
				answer.Manifest, err = backup.Restore(cmd.Context(), o, args[0], force)
			} else {
				answer.Manifest, o.URL, err = restoreIntoNew(cmd.Context(), o, args[0], intoNew)
			}
			if errors.Is(err, backup.ErrNotEmpty) {
				return fmt.Errorf("%w\nRestore into a new database with --into-new NAME, or replace what is there with --force", err)
			}
			if err != nil {
				return err
			}
			v, err := verifyChain(cmd.Context(), o)
			if err != nil {
				return fmt.Errorf("the backup is restored, but its audit trail does not hold: %w", err)
			}
			answer.Records, answer.Head = v.Records, v.Head
			return c.Print(answer, func(w io.Writer) { writeRestored(w, answer) })
		},
	}), 1, 1)
	cmd.Flags().BoolVar(&check, "check", false, "check the file alone")
	cmd.Flags().BoolVar(&force, "force", false, "remove what the database holds, in the same transaction")
	cmd.Flags().StringVar(&intoNew, "into-new", "", "name of a database to make on the same server, and restore into")
	return cmd
}

func writeRestored(w io.Writer, r restored) {
	_, _ = fmt.Fprintf(w, "Restored the backup of %s: schema %d. The audit chain holds: %d records, head %s.\n", r.Manifest.At.Format(time.RFC3339), r.Manifest.Schema, r.Records, r.Head)
	if r.Database != "" {
		_, _ = fmt.Fprintf(w, "It is in the new database %s: put that name into DATABASE_URL.\n", r.Database)
	}
	_, _ = fmt.Fprintln(w, "What was revoked after the backup was made is valid again: compare the audit head with the one you kept, and revoke anew.")
}

// checkBackup looks at a file alone.
func (c *command) checkBackup(ctx context.Context, name string) error {
	cfg, err := c.Load(false, nil)
	if err != nil {
		return err
	}
	ring, err := c.existingRing(cfg, cfg.Database.URL.Empty())
	if err != nil {
		return err
	}
	f, err := backup.Open(name)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // it is only read
	if err := f.Verify(ctx, ring, nil); err != nil {
		return err
	}
	return c.Print(written{File: name, Manifest: f.Manifest}, func(w io.Writer) {
		_, _ = fmt.Fprintf(w, "The backup is whole, and this master key opens it: made %s by version %s, schema %d, PostgreSQL %s.\n",
			f.Manifest.At.Format(time.RFC3339), f.Manifest.Program, f.Manifest.Schema, f.Manifest.Server)
	})
}

// restoreIntoNew restores into a database that it makes, and removes again on failure.
func restoreIntoNew(ctx context.Context, o backup.Options, file, name string) (m backup.Manifest, url seal.Secret, err error) {
	db, err := inspect.Open(ctx, o.URL)
	if err != nil {
		return m, url, err
	}
	defer db.Close(context.WithoutCancel(ctx))
	url, err = db.CreateDatabase(ctx, name)
	switch {
	case errors.Is(err, inspect.ErrExists):
		return m, url, fmt.Errorf("make the database %s: %w", name, err)
	case err != nil:
		return m, url, fmt.Errorf("make the database %s: %w\nIts role needs the right CREATEDB for that; or make it yourself, empty, and put its name into DATABASE_URL", name, err)
	}
	o.URL = url
	if m, err = backup.Restore(ctx, o, file, false); err == nil {
		return m, url, nil
	}
	const patience = 30 * time.Second
	cleaning, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	return m, url, errors.Join(err, db.DropDatabase(cleaning, name))
}

// verifyChain walks the audit trail of a restored database.
func verifyChain(ctx context.Context, o backup.Options) (v audit.Verification, err error) {
	defaults := config.Default().Database
	store, err := postgres.Open(ctx, postgres.Options{URL: o.URL, MaxConnections: 2, ConnectTimeout: defaults.ConnectTimeout, QueryTimeout: defaults.QueryTimeout})
	if err != nil {
		return v, err
	}
	defer store.Close()
	chain, err := store.LoadChain(ctx, o.Ring)
	if err != nil {
		return v, err
	}
	return chain.Verify(ctx, store)
}

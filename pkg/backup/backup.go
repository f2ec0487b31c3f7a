package backup

import (
	"archive/zip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/keywarden/keywarden/pkg/seal"
	"github.com/keywarden/keywarden/pkg/store/postgres"
	"github.com/keywarden/keywarden/pkg/store/postgres/inspect"
)

// Options say what is backed up or restored. URL, Ring and Now are required.
type Options struct {
	URL      seal.Secret   // of the database
	Ring     *seal.Keyring // opens what the database has sealed
	BinDir   string        // folder of PostgreSQL's programs; empty to search
	Program  string        // version of this program, for the manifest
	Now      func() time.Time
	Progress Progress          // optional; called from one goroutine at a time
	Stage    func(name string) // optional; told what begins
}

func (o Options) stage(name string) {
	if o.Stage != nil {
		o.Stage(name)
	}
}

// Write makes a backup of the database, in the file name, which must not exist. The file
// has mode 0600 and is complete and verified when it has its name; a failure leaves
// nothing. The database is read in one snapshot, and changes go on meanwhile.
func Write(ctx context.Context, o Options, name string) (m Manifest, err error) {
	if _, err := os.Lstat(name); !errors.Is(err, fs.ErrNotExist) {
		return m, fmt.Errorf("%s is there already: name another file", name)
	}
	m, programs, err := o.describe(ctx)
	if err != nil {
		return m, err
	}
	temporary, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".*") // mode 0600
	if err != nil {
		return m, fmt.Errorf("write the backup: %w", err)
	}
	defer func() { _ = os.Remove(temporary.Name()) }()
	err = o.write(ctx, temporary, programs, &m)
	if err = errors.Join(err, temporary.Close()); err != nil {
		return m, err
	}
	o.stage("verifying")
	if err := o.verify(ctx, temporary.Name(), programs); err != nil {
		return m, fmt.Errorf("the backup that was written is not good: %w", err)
	}
	return m, publish(temporary.Name(), name)
}

// publish gives a finished file its name, unless somebody else took it meanwhile.
func publish(temporary, name string) error {
	if err := os.Link(temporary, name); errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s is there already: name another file", name)
	} else if err != nil { // a file system without links
		return os.Rename(temporary, name)
	}
	dir, err := os.Open(filepath.Dir(name))
	if err != nil {
		return nil //nolint:nilerr // the file is there; only a crash of the machine could still lose its name
	}
	_ = dir.Sync() // not every file system can
	return dir.Close()
}

// describe looks at the database and finds the programs for it. A database that the ring
// does not open is refused: nobody could use its backup.
func (o Options) describe(ctx context.Context) (m Manifest, p programs, err error) {
	status, err := postgres.ReadSchemaStatus(ctx, o.URL)
	switch {
	case err != nil:
		return m, p, err
	case status.Dirty:
		return m, p, postgres.ErrDirtySchema
	case status.Version == 0:
		return m, p, errors.New("there is nothing to back up: the database has no schema")
	}
	db, err := inspect.Open(ctx, o.URL)
	if err != nil {
		return m, p, err
	}
	defer db.Close(context.WithoutCancel(ctx))
	server, err := db.Server(ctx, o.Now)
	if err != nil {
		return m, p, err
	}
	if err := opens(ctx, db, o.Ring); err != nil {
		return m, p, err
	}
	under, err := sealedUnder(ctx, db)
	if err != nil {
		return m, p, err
	}
	if p, err = findPrograms(ctx, o.BinDir, server.Major); err != nil {
		return m, p, err
	}
	return Manifest{
		Format: format, Program: o.Program, Schema: status.Version, At: o.Now().UTC().Truncate(time.Second),
		Server: server.Version, Dumper: p.version, Database: server.Database, DatabaseBytes: server.Size, SealedUnder: under,
	}, p, nil
}

// opens reports whether the ring opens what the database has sealed.
func opens(ctx context.Context, db *inspect.Database, ring *seal.Keyring) error {
	sealed, place, err := db.ChainKey(ctx)
	if err != nil || sealed == nil {
		return err
	}
	if _, _, err = ring.Open(sealed, place); errors.Is(err, seal.ErrUnknownKey) {
		return fmt.Errorf("this database was used with another master key than the one with id %s: set KEYWARDEN_MASTER_KEY to that one: %w", ring.ID(), ErrWrongKey)
	}
	return err
}

// sealedUnder lists the master keys that a restored database needs. It can do without
// that of verifiers, which bcrypt stands in for, and of answers that are kept for a day.
func sealedUnder(ctx context.Context, db *inspect.Database) ([]string, error) {
	rows, err := db.SealedUnder(ctx)
	if err != nil {
		return nil, err
	}
	ids := []string{}
	for _, r := range rows {
		if r.Table != "api_key_secrets" && r.Table != "idempotency" && !slices.Contains(ids, r.KeyID) {
			ids = append(ids, r.KeyID)
		}
	}
	slices.Sort(ids)
	return ids, nil
}

// write fills the archive and the rest of the manifest.
func (o Options) write(ctx context.Context, file *os.File, p programs, m *Manifest) error {
	archive := zip.NewWriter(file)
	dump, err := archive.CreateHeader(&zip.FileHeader{Name: dumpMember, Method: zip.Store, Modified: m.At}) // pg_dump has compressed it
	if err != nil {
		return err
	}
	o.stage("dumping")
	digest := sha256.New()
	if m.DumpBytes, err = o.dump(ctx, p, io.MultiWriter(dump, digest), m.DatabaseBytes); err != nil {
		return err
	}
	m.Digest = hex.EncodeToString(digest.Sum(nil))
	after, err := postgres.ReadSchemaStatus(ctx, o.URL)
	if err != nil {
		return err
	}
	if after.Version != m.Schema {
		return fmt.Errorf("the schema was migrated from version %d to %d meanwhile: make the backup again", m.Schema, after.Version)
	}
	if err := m.sign(o.Ring); err != nil {
		return err
	}
	text, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	manifest, err := archive.CreateHeader(&zip.FileHeader{Name: manifestMember, Method: zip.Store, Modified: m.At})
	if err != nil {
		return err
	}
	if _, err := manifest.Write(append(text, '\n')); err != nil {
		return err
	}
	return errors.Join(archive.Close(), file.Sync())
}

// dump writes the dump to w. Counters of rate limits are left out: they are not logged,
// and worth nothing a minute later.
func (o Options) dump(ctx context.Context, p programs, w io.Writer, size int64) (int64, error) {
	env, err := connection(o.URL)
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd, said := p.command(ctx, "pg_dump", env, "--format=custom", "--no-owner", "--no-privileges", "--no-unlogged-table-data",
		"--no-password", "--lock-wait-timeout=60s")
	out, err := cmd.StdoutPipe()
	if err != nil {
		return 0, err
	}
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("start pg_dump: %w", err)
	}
	n, copyErr := io.Copy(w, &meter{ctx: ctx, r: out, total: size, progress: o.Progress})
	if copyErr != nil {
		cancel() // nobody reads what it writes
	}
	if err := cmd.Wait(); err != nil && copyErr == nil {
		return 0, explain(ctx, "pg_dump", err, said)
	}
	if copyErr != nil {
		return 0, fmt.Errorf("write the backup: %w", copyErr)
	}
	return n, nil
}

// verify reads a backup back, and has pg_restore read its table of contents.
func (o Options) verify(ctx context.Context, name string, p programs) error {
	f, err := Open(name)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // it is only read
	if err := f.Verify(ctx, o.Ring, o.Progress); err != nil {
		return err
	}
	return f.list(ctx, p)
}

// list has pg_restore read the table of contents.
func (f *File) list(ctx context.Context, p programs) error {
	r, err := f.dump.Open()
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }() // it is only read
	cmd, said := p.command(ctx, "pg_restore", nil, "--list")
	cmd.Stdin = r
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, explain(ctx, "pg_restore", err, said))
	}
	return nil
}

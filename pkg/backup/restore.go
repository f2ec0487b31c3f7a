package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/keywarden/keywarden/pkg/store/postgres"
	"github.com/keywarden/keywarden/pkg/store/postgres/inspect"
)

// Restore brings a backup back into the database of the options, in one transaction:
// whatever fails, and whenever the program is killed, the database is as it was. It
// refuses a database that is not empty, unless replace is set, which removes what the
// program's schema holds; one that instances of the program use; a file that is damaged,
// or that needs another master key; and a schema that is newer than this program.
func Restore(ctx context.Context, o Options, name string, replace bool) (Manifest, error) {
	f, err := Open(name)
	if err != nil {
		return Manifest{}, err
	}
	defer func() { _ = f.Close() }() // it is only read
	m := f.Manifest
	db, err := inspect.Open(ctx, o.URL)
	if err != nil {
		return m, err
	}
	defer db.Close(context.WithoutCancel(ctx))
	p, err := o.admit(ctx, f, db, replace)
	if err != nil {
		return m, err
	}
	o.stage("restoring")
	if committing, err := o.load(ctx, f, p, replace); err != nil && committing {
		return m, fmt.Errorf("the restore broke off at its very end: either all of it was done, or nothing was changed; look before you start again: %w", err)
	} else if err != nil {
		return m, fmt.Errorf("the restore failed, and nothing was changed: %w", err)
	}
	o.stage("checking")
	return m, o.checkRestored(ctx, m, db)
}

// admit refuses what cannot or should not be restored. Nothing is changed.
func (o Options) admit(ctx context.Context, f *File, db *inspect.Database, replace bool) (p programs, err error) {
	status, err := postgres.ReadSchemaStatus(ctx, o.URL)
	if err != nil {
		return p, err
	}
	if f.Manifest.Schema > status.Latest {
		return p, fmt.Errorf("%w: it has version %d, and the newest known is %d; use the version %q of the program, or a later one", ErrNewer, f.Manifest.Schema, status.Latest, f.Manifest.Program)
	}
	o.stage("verifying")
	if err := f.Verify(ctx, o.Ring, o.Progress); err != nil {
		return p, err
	}
	relations, err := db.Relations(ctx)
	if err != nil {
		return p, err
	}
	if relations > 0 && !replace {
		return p, fmt.Errorf("%w: it holds %d tables, views and sequences; nothing was changed", ErrNotEmpty, relations)
	}
	running, err := db.Programs(ctx)
	if err != nil {
		return p, err
	}
	if running > 0 {
		return p, fmt.Errorf("%w (%d connections): stop every replica first; nothing was changed", ErrInUse, running)
	}
	server, err := db.Server(ctx, o.Now)
	if err != nil {
		return p, err
	}
	if p, err = findPrograms(ctx, o.BinDir, max(server.Major, majorOf(f.Manifest.Dumper))); err != nil {
		return p, err
	}
	return p, f.list(ctx, p)
}

// majorOf is the number that a version begins with, 0 without one.
func majorOf(version string) int {
	digits := len(version) - len(strings.TrimLeft(version, "0123456789"))
	major, err := strconv.Atoi(version[:digits])
	if err != nil {
		return 0
	}
	return major
}

// removeAll empties the schema that tables are looked up in, but for what belongs to
// extensions. It is part of the transaction that restores.
const removeAll = `
DO $$
DECLARE r record;
BEGIN
    FOR r IN SELECT c.oid::regclass::text AS name, c.relkind FROM pg_class c
        WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f') AND NOT c.relispartition
            AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.classid = 'pg_class'::regclass
                AND (d.deptype = 'e' OR c.relkind = 'S' AND d.deptype IN ('i', 'a'))) -- a column's sequence goes with it
        ORDER BY 1 -- so that all names are read before the first is gone
    LOOP
        EXECUTE format('DROP %s IF EXISTS %s CASCADE', CASE r.relkind WHEN 'v' THEN 'VIEW' WHEN 'm' THEN 'MATERIALIZED VIEW'
            WHEN 'S' THEN 'SEQUENCE' WHEN 'f' THEN 'FOREIGN TABLE' ELSE 'TABLE' END, r.name);
    END LOOP;
    FOR r IN SELECT p.oid::regprocedure::text AS name FROM pg_proc p
        WHERE p.pronamespace = current_schema()::regnamespace AND p.prokind IN ('f', 'p')
            AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = p.oid AND d.classid = 'pg_proc'::regclass AND d.deptype = 'e')
        ORDER BY 1
    LOOP
        EXECUTE format('DROP ROUTINE IF EXISTS %s CASCADE', r.name);
    END LOOP;
END $$;
`

// load runs pg_restore into psql. The last line that psql gets, COMMIT, comes from here
// when everything before it went well: who is cut off before it leaves nothing.
// committing is whether it was sent.
func (o Options) load(ctx context.Context, f *File, p programs, replace bool) (committing bool, err error) {
	env, err := connection(o.URL)
	if err != nil {
		return false, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	psql, refused := p.command(ctx, "psql", env, "--no-psqlrc", "--quiet", "--no-password", "--set=ON_ERROR_STOP=1", "--output=/dev/null", "--file=-")
	in, err := psql.StdinPipe()
	if err != nil {
		return false, err
	}
	if err := psql.Start(); err != nil {
		return false, fmt.Errorf("start psql: %w", err)
	}
	if err = o.feed(ctx, f, p, replace, in); err == nil {
		committing = true
		_, err = io.WriteString(in, "COMMIT;\n")
	}
	// Without COMMIT, the end of its input ends its transaction.
	closeErr := in.Close()
	if waitErr := psql.Wait(); waitErr != nil && !errors.Is(err, ErrDamaged) {
		return committing, explain(ctx, "psql", waitErr, refused)
	}
	return committing, errors.Join(err, closeErr)
}

// feed writes the whole transaction to in, but for its end.
func (o Options) feed(ctx context.Context, f *File, p programs, replace bool, in io.Writer) error {
	head := "BEGIN;\nSET lock_timeout = '30s';\nSET client_min_messages = warning;\n"
	if replace {
		head += removeAll
	}
	if _, err := io.WriteString(in, head); err != nil {
		return err
	}
	dump, err := f.dump.Open()
	if err != nil {
		return err
	}
	defer func() { _ = dump.Close() }() // it is only read
	cmd, said := p.command(ctx, "pg_restore", nil, "--file=-", "--no-owner", "--no-privileges", "--no-publications", "--no-subscriptions",
		"--no-security-labels", "--no-tablespaces", "--exit-on-error")
	source := newVerified(&meter{ctx: ctx, r: dump, total: f.Manifest.DumpBytes, progress: o.Progress}, f.blocks)
	cmd.Stdin, cmd.Stdout = source, in
	err = cmd.Run()
	switch {
	case ctx.Err() == nil && source.err != nil && !errors.Is(source.err, io.EOF):
		return fmt.Errorf("%w: %w", ErrDamaged, source.err)
	case err != nil:
		return explain(ctx, "pg_restore", err, said)
	}
	return nil
}

// checkRestored looks whether the database is what the manifest says.
func (o Options) checkRestored(ctx context.Context, m Manifest, db *inspect.Database) error {
	status, err := postgres.ReadSchemaStatus(ctx, o.URL)
	if err != nil {
		return err
	}
	if status.Version != m.Schema || status.Dirty {
		return fmt.Errorf("after the restore the schema is at version %d, and the backup has %d", status.Version, m.Schema)
	}
	return opens(ctx, db, o.Ring)
}

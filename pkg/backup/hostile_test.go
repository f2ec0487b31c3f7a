package backup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keywarden/keywarden/pkg/pglocal/pgtest"
	"github.com/keywarden/keywarden/pkg/seal"
)

// What is in the file is executed by psql, which can run programs. Whoever changes the
// file between its check and its use must get nothing of it there.
func TestRestoreUsesOnlyTheBytesThatWereVerified(t *testing.T) {
	ring, _ := newRing(t)
	name, _ := written(t, options(used(t, ring, 100), ring))
	whole, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	to := pgtest.Empty(t)
	o := options(to, ring)
	dir := t.TempDir()
	o.BinDir = wrapped(t, map[string]string{"pg_restore": `case "$1" in --list|--version) ;; *) tee ` + dir + `/seen | "$real" "$@"; exit;; esac`})
	spoiled := slices.Clone(whole)
	copy(spoiled[len(whole)/2:], "\n\\! touch pwned\n")
	o.Stage = func(stage string) {
		if stage == "restoring" {
			if err := os.WriteFile(name, spoiled, 0o600); err != nil { // in place, as it is open
				t.Error(err)
			}
		}
	}
	if _, err := Restore(t.Context(), o, name, false); !errors.Is(err, ErrDamaged) {
		t.Errorf("error %v", err)
	}
	seen, err := os.ReadFile(filepath.Join(dir, "seen"))
	if err != nil && !errors.Is(err, os.ErrNotExist) || strings.Contains(string(seen), "pwned") {
		t.Errorf("pg_restore was given %d bytes that were never verified: %v", len(seen), err)
	}
	if left := contents(t, to)["objects"]; len(left) > 0 {
		t.Errorf("it left %v", left)
	}
}

// A dump that is larger than the manifest says is not read to its end.
func TestBombIsRefusedBeforeItIsRead(t *testing.T) {
	ring, _ := newRing(t)
	name, _ := written(t, options(used(t, ring, 10), ring))
	f, err := Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	f.dump.UncompressedSize64 = 1 << 50
	read := false
	if err := f.Verify(t.Context(), ring, func(int64, int64) { read = true }); !errors.Is(err, ErrDamaged) || read {
		t.Errorf("error %v, read %v", err, read)
	}
}

// What a file says of itself is not believed before it was verified, also not by the
// terminal that shows it.
func TestMessagesAboutForgedFilesCannotSteerTheTerminal(t *testing.T) {
	ring, _ := newRing(t)
	forged := Manifest{Format: 2, Program: "\x1b[2Jok", KeyID: "\x1b[2Jid"}
	for what, m := range map[string]Manifest{"format": forged, "key": {Format: format, KeyID: forged.KeyID}} {
		if err := m.check(ring); err == nil || strings.Contains(err.Error(), "\x1b") {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := forged.known(); err == nil || strings.Contains(err.Error(), "\x1b") {
		t.Errorf("%v", err)
	}
}

// wrapped is a folder with PostgreSQL's programs, of which some do something else first:
// shell commands, with the program itself in $real.
func wrapped(t *testing.T, before map[string]string) string {
	t.Helper()
	p, err := findPrograms(t.Context(), "", 1)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, name := range []string{"pg_dump", "pg_restore", "psql"} {
		script := fmt.Sprintf("#!/bin/sh\nreal='%s'\n%s\nexec \"$real\" \"$@\"\n", filepath.Join(p.dir, name), before[name])
		if err := os.WriteFile(filepath.Join(dir, name), []byte(script), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// The driver takes from the environment what the URL does not say; so must PostgreSQL's
// programs, or they would work on another database than the one that was looked at.
func TestProgramsGetWhatTheDriverTakesFromTheEnvironment(t *testing.T) {
	t.Setenv("PGHOST", "db.example.com")
	t.Setenv("PGPASSWORD", "from the environment")
	t.Setenv("PGSSLMODE", "verify-full")
	t.Setenv("PGOPTIONS", "-c search_path=elsewhere") // the driver does not know it
	got, err := connection(seal.NewSecret("postgres://me:p@/kw?sslmode=require"))
	slices.Sort(got)
	want := []string{"PGAPPNAME=keywarden-backup", "PGDATABASE=kw", "PGHOST=db.example.com", "PGPASSWORD=p", "PGSSLMODE=require", "PGUSER=me"}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v %s", err, diff)
	}
}

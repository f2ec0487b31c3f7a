//go:build unix && !aix && !solaris

package pglocal

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestFindWithoutPostgreSQLSaysWhatToDo(t *testing.T) {
	_, err := search{probe: failingProbe(t)}.find(t.Context(), 0)
	wantError(t, err, ErrNotInstalled, "apt-get install postgresql", "brew install postgresql@17", "set DATABASE_URL")
}

func failingProbe(t *testing.T) func(context.Context, string) (Binaries, error) {
	return func(_ context.Context, dir string) (Binaries, error) {
		t.Errorf("probed %s", dir)
		return Binaries{}, errors.New("unexpected")
	}
}

func TestExplicitDirectoryWithoutPostgreSQLIsNamed(t *testing.T) {
	dir := t.TempDir()
	_, err := Find(t.Context(), dir)
	wantError(t, err, ErrNotInstalled, "in "+dir, filepath.Join(dir, "initdb"))
	_, err = Start(t.Context(), Options{DataDir: dataDir(t), BinDir: dir})
	wantError(t, err, ErrNotInstalled, "in "+dir)
}

func TestFindChoosesByVersion(t *testing.T) {
	installed := map[string]Binaries{
		"/path": {Dir: "/path", Version: "14.9", Major: 14},
		"/17":   {Dir: "/17", Version: "17.2", Major: 17},
		"/16":   {Dir: "/16", Version: "16.1", Major: 16},
	}
	probe := func(_ context.Context, dir string) (Binaries, error) {
		found, ok := installed[dir]
		if !ok {
			return Binaries{}, fmt.Errorf("run %s/initdb: broken", dir)
		}
		return found, nil
	}
	all := []string{"/path", "/broken", "/17", "/16"}
	cases := []struct {
		name       string
		candidates []string
		explicit   string
		major      int
		want       string
		wantErr    []string
	}{
		{name: "first that is new enough", candidates: all, want: "/17"},
		{name: "the one that made the data", candidates: all, major: 16, want: "/16"},
		{name: "too old", candidates: all[:2], wantErr: []string{"version 15 or newer", "/path is version 14.9", "/broken/initdb: broken", "apt-get"}},
		{
			name: "data of another version", candidates: all, major: 18,
			wantErr: []string{"/17 is version 17.2", "made by PostgreSQL 18", "pg_upgrade"},
		},
		{
			name: "explicit one of another version", candidates: all[2:3], explicit: "/17", major: 16,
			wantErr: []string{"in /17", "version 16 needed", "/17 is version 17.2"},
		},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			got, err := search{explicit: c.explicit, candidates: c.candidates, probe: probe}.find(t.Context(), c.major)
			if c.wantErr != nil {
				wantError(t, err, ErrNotInstalled, c.wantErr...)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(installed[c.want], got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestClusterOfAnotherVersionIsRefused(t *testing.T) {
	l := layout{dir: usedDir(t)}
	writeFile(t, filepath.Join(l.cluster(), "PG_VERSION"), "9\n")
	_, err := Start(t.Context(), Options{DataDir: l.dir, Disposable: true})
	wantError(t, err, ErrNotInstalled, "made by PostgreSQL 9", "pg_upgrade")
}

func TestInstallDirectoriesAreSearchedHighestVersionFirst(t *testing.T) {
	root := t.TempDir()
	for _, dir := range []string{"postgresql/9/bin", "postgresql/17/bin", "postgresql/15/bin", "pgsql/bin"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	var got []string
	for _, dir := range expand([]string{filepath.Join(root, "postgresql/*/bin"), filepath.Join(root, "absent/*"), filepath.Join(root, "pgsql/bin")}) {
		rel, err := filepath.Rel(root, dir)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, rel)
	}
	want := []string{"postgresql/17/bin", "postgresql/15/bin", "postgresql/9/bin", "pgsql/bin"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for _, pattern := range installDirs {
		if _, err := filepath.Match(pattern, "/"); err != nil {
			t.Errorf("%s: %v", pattern, err)
		}
	}
}

func TestParseVersion(t *testing.T) {
	cases := []struct {
		printed string
		version string
		major   int
	}{
		{"postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)\n", "15.14", 15},
		{"initdb (PostgreSQL) 18beta1\n", "18beta1", 18},
		{"postgres (PostgreSQL) 9.6.24\n", "9.6.24", 9},
		{"postgres (PostgreSQL) devel\n", "", 0},
		{"postgres (PostgreSQL) \n", "", 0},
		{"psql 15\n", "", 0},
		{"", "", 0},
	}
	for _, c := range cases {
		version, major, err := parseVersion(c.printed)
		if version != c.version || major != c.major || (err == nil) != (c.major != 0) {
			t.Errorf("parseVersion(%q) = %q, %d, %v", c.printed, version, major, err)
		}
	}
}

func FuzzParseVersion(f *testing.F) {
	f.Add("postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)\n")
	f.Add("postgres (PostgreSQL) -1")
	f.Add("(PostgreSQL) 99999999999999999999")
	f.Fuzz(func(t *testing.T, printed string) {
		version, major, err := parseVersion(printed)
		if err == nil && (major < 0 || version == "") || err != nil && (major != 0 || version != "") {
			t.Errorf("parseVersion(%q) = %q, %d, %v", printed, version, major, err)
		}
	})
}

//go:build unix && !aix && !solaris

package pglocal

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestLayoutNeedsADirectory(t *testing.T) {
	_, err := Start(t.Context(), Options{})
	wantError(t, err, nil, "no data directory")
}

func TestDamagedClusterIsRefusedAndKept(t *testing.T) {
	l := layout{dir: dataDir(t)}
	kept := filepath.Join(l.cluster(), "base")
	if err := os.MkdirAll(kept, 0o700); err != nil {
		t.Fatal(err)
	}
	_, err := Start(t.Context(), Options{DataDir: l.dir})
	wantError(t, err, nil, "not a PostgreSQL cluster", l.cluster())
	if _, err := os.Stat(kept); err != nil {
		t.Error("the damaged cluster was touched:", err)
	}
}

func TestRemoveUnfinishedTouchesNothingElse(t *testing.T) {
	l := layout{dir: filepath.Join(t.TempDir(), "with[*]?")}
	for _, dir := range []string{"new-1", "new-2", "data", "newer"} {
		if err := os.MkdirAll(filepath.Join(l.dir, dir, "base"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.removeUnfinished(); err != nil {
		t.Fatal(err)
	}
	for dir, want := range map[string]bool{"new-1": false, "new-2": false, "data": true, "newer": true} {
		_, err := os.Stat(filepath.Join(l.dir, dir))
		if got := err == nil; got != want {
			t.Errorf("%s is there: %t, want %t", dir, got, want)
		}
	}
}

func TestRemoveSocketDirFollowsOnlyItsOwnLinks(t *testing.T) {
	l := layout{dir: t.TempDir()}
	foreign := t.TempDir()
	if err := os.Symlink(foreign, l.socket()); err != nil {
		t.Fatal(err)
	}
	if err := l.removeSocketDir(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(foreign); err != nil {
		t.Error("a foreign directory was removed:", err)
	}
	if _, err := os.Lstat(l.socket()); !errors.Is(err, os.ErrNotExist) {
		t.Error("the link is left:", err)
	}
}

func TestFilesOfAnotherUserAreNotFollowed(t *testing.T) {
	dir := t.TempDir()
	link, pipe := filepath.Join(dir, "link"), filepath.Join(dir, "pipe")
	if err := os.Symlink("/dev/zero", link); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{link, pipe, dir} {
		if _, err := readSmall(path); err == nil {
			t.Errorf("read %s", path)
		}
	}
}

func TestBigLogIsPutAside(t *testing.T) {
	path := filepath.Join(t.TempDir(), "postgres.log")
	writeFile(t, path, strings.Repeat("x", maxLog+1))
	log, err := openLog(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = log.file.Close() }()
	if log.start != 0 || len(readFile(t, path)) != 0 || len(readFile(t, path+".1")) != maxLog+1 {
		t.Error("the log was not put aside")
	}
}

func TestLogTailShowsOnlyThisRun(t *testing.T) {
	path := filepath.Join(t.TempDir(), "postgres.log")
	cases := []struct{ name, before, written, want string }{
		{"nothing", "old\n", "", ""},
		{"short", "old\n", "one\ntwo\n", "\n\tone\n\ttwo"},
		{"long", "old\n", "cut" + strings.Repeat("x", maxTail) + "\nlast\n", "\n\tlast"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			writeFile(t, path, c.before)
			log, err := openLog(path)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = log.file.Close() }()
			if _, err := log.file.WriteString(c.written); err != nil {
				t.Fatal(err)
			}
			if got := log.tail(); got != c.want {
				t.Errorf("tail is %q, want %q", got, c.want)
			}
		})
	}
}

func TestParsePostmaster(t *testing.T) {
	whole := "4711\n/data\n1700000000\n5432\n/run\n\n  1234 5\n"
	cases := []struct {
		name, text string
		want       postmaster
	}{
		{"ready", whole + "ready   \n", postmaster{pid: 4711, ready: true}},
		{"starting", whole + "starting\n", postmaster{pid: 4711}},
		{"cut short", "4711\n/data\n", postmaster{pid: 4711}},
		{"empty", "", postmaster{}},
		{"not a number", "x\n", postmaster{}},
		{"init", "1\n", postmaster{}},
		{"single-user mode", "-4711\n", postmaster{}},
	}
	for _, c := range cases {
		if got := parsePostmaster(c.text); got != c.want {
			t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
		}
	}
}

func FuzzParsePostmaster(f *testing.F) {
	f.Add("4711\n/data\n1700000000\n5432\n/run\n\n  1234 5\nready\n")
	f.Add("")
	f.Fuzz(func(t *testing.T, text string) {
		// Signals go to this process: 0, 1 and negative numbers would reach others.
		if pm := parsePostmaster(text); pm.pid < 0 || pm.pid == 1 || pm.pid == 0 && pm.ready {
			t.Errorf("parsePostmaster(%q) = %+v", text, pm)
		}
	})
}

//go:build unix && !aix && !solaris

package pglocal

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Binaries are the programs of one PostgreSQL installation.
type Binaries struct {
	// Dir holds postgres and initdb.
	Dir string
	// Version is PostgreSQL's own, such as "17.2" or "18beta1".
	Version string
	// Major is its major version.
	Major int
}

func (b Binaries) program(name string) string { return filepath.Join(b.Dir, name) }

// installHint is the one remedy for every way of not finding PostgreSQL.
const installHint = "install PostgreSQL 15 or newer (Debian, Ubuntu: apt-get install postgresql; macOS: brew install postgresql@17), " +
	"or set DATABASE_URL to an existing server"

// installDirs are the usual places of PostgreSQL's programs beside PATH. The star
// stands for the version.
var installDirs = []string{
	"/usr/lib/postgresql/*/bin", // Debian, Ubuntu
	"/usr/pgsql-*/bin",          // Red Hat, from postgresql.org
	"/usr/lib/postgresql*/bin",  // SUSE
	"/usr/libexec/postgresql*",  // Alpine
	"/opt/homebrew/opt/postgresql@*/bin",
	"/usr/local/opt/postgresql@*/bin",
	"/home/linuxbrew/.linuxbrew/opt/postgresql@*/bin",
	"/usr/local/pgsql/bin",
	"/Applications/Postgres.app/Contents/Versions/*/bin",
}

// Find is the PostgreSQL that [Start] would use for a new cluster: the one in
// binDir when that is not empty, else the first of at least version [MinMajor]
// in PATH or in the usual install directories, the highest version of each. The
// error wraps [ErrNotInstalled] and says what to install or set.
func Find(ctx context.Context, binDir string) (Binaries, error) {
	return newSearch(account{}, binDir).find(ctx, 0)
}

// newSearch looks for programs that the account can run.
func newSearch(a account, binDir string) search {
	return search{
		explicit:   binDir,
		candidates: candidates(binDir),
		probe:      func(ctx context.Context, dir string) (Binaries, error) { return probe(ctx, a, dir) },
	}
}

// candidates lists directories to look into, best first.
func candidates(binDir string) []string {
	if binDir != "" {
		return []string{binDir}
	}
	var dirs []string
	if path, err := exec.LookPath("postgres"); err == nil {
		dirs = append(dirs, realDir(path))
	}
	return append(dirs, expand(installDirs)...)
}

// realDir is the directory of the program that a link in PATH stands for, where
// initdb is too.
func realDir(path string) string {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	return filepath.Dir(path)
}

// expand lists the existing directories of each pattern, highest version first.
func expand(patterns []string) []string {
	var dirs []string
	for _, pattern := range patterns {
		found, err := filepath.Glob(pattern)
		if err != nil {
			continue // A constant pattern; the tests parse all of them.
		}
		slices.SortStableFunc(found, func(a, b string) int { return cmp.Compare(pathVersion(b), pathVersion(a)) })
		dirs = append(dirs, found...)
	}
	return dirs
}

// pathVersion is the last number in a path of installDirs, 0 without one.
func pathVersion(path string) int {
	numbers := regexp.MustCompile(`\d+`).FindAllString(path, -1)
	if len(numbers) == 0 {
		return 0
	}
	version, err := strconv.Atoi(numbers[len(numbers)-1])
	if err != nil {
		return 0
	}
	return version
}

// search looks through candidate directories. Its errors name what was wrong
// with each that held something.
type search struct {
	explicit   string
	candidates []string
	probe      func(ctx context.Context, dir string) (Binaries, error)
}

// find is the first candidate of the given major version, or of at least
// MinMajor when major is 0.
func (s search) find(ctx context.Context, major int) (Binaries, error) {
	var unfit []string
	for _, dir := range s.candidates {
		found, err := s.probe(ctx, dir)
		switch {
		case err != nil && (ctx.Err() != nil || errors.Is(err, syscall.EPERM)):
			// No fault of this candidate; the next would fail likewise.
			return Binaries{}, fmt.Errorf("look for PostgreSQL: %w", err)
		case err != nil:
			unfit = append(unfit, err.Error())
		case found.Major < MinMajor || major != 0 && found.Major != major:
			unfit = append(unfit, fmt.Sprintf("%s is version %s", dir, found.Version))
		default:
			return found, nil
		}
	}
	return Binaries{}, s.failure(major, unfit)
}

func (s search) failure(major int, unfit []string) error {
	needed, hint := fmt.Sprintf("version %d or newer", MinMajor), installHint
	if major != 0 {
		needed = fmt.Sprintf("version %d", major)
		hint = fmt.Sprintf("the data directory was made by PostgreSQL %d: install that version, "+
			"or bring the data to the new one with pg_upgrade or pg_dump", major)
	}
	if s.explicit != "" {
		return fmt.Errorf("%w in %s, %s needed (%s): correct the directory, or leave it empty to search; otherwise %s",
			ErrNotInstalled, s.explicit, needed, strings.Join(unfit, "; "), hint)
	}
	if len(unfit) > 0 {
		return fmt.Errorf("%w in %s (%s): %s", ErrNotInstalled, needed, strings.Join(unfit, "; "), hint)
	}
	return fmt.Errorf("%w: %s", ErrNotInstalled, hint)
}

// probe asks the programs in dir for their version, as the account that will run
// them.
func probe(ctx context.Context, a account, dir string) (Binaries, error) {
	found := Binaries{Dir: dir}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for _, name := range []string{"initdb", "postgres"} {
		printed, err := a.output(ctx, found.program(name), "--version")
		if err != nil {
			return Binaries{}, err
		}
		if found.Version, found.Major, err = parseVersion(printed); err != nil {
			return Binaries{}, fmt.Errorf("run %s --version: %w", found.program(name), err)
		}
	}
	return found, nil
}

// parseVersion reads what "postgres --version" prints, such as
// "postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)".
func parseVersion(printed string) (version string, major int, err error) {
	_, rest, ok := strings.Cut(printed, "(PostgreSQL) ")
	fields := strings.Fields(rest)
	if !ok || len(fields) == 0 {
		return "", 0, errors.New("no PostgreSQL version in its output")
	}
	version = fields[0]
	digits := len(version) - len(strings.TrimLeft(version, "0123456789"))
	major, err = strconv.Atoi(version[:digits])
	if err != nil {
		return "", 0, fmt.Errorf("read PostgreSQL version %q: %w", version, err)
	}
	return version, major, nil
}

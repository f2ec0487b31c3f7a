//go:build unix && !aix && !solaris

package pglocal

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// layout names the files of one data directory; see the package comment.
type layout struct{ dir string }

func (l layout) lock() string       { return filepath.Join(l.dir, "lock") }
func (l layout) serverLock() string { return filepath.Join(l.dir, "server.lock") }
func (l layout) cluster() string    { return filepath.Join(l.dir, "data") }
func (l layout) socket() string     { return filepath.Join(l.dir, "run") }
func (l layout) log() string        { return filepath.Join(l.dir, "postgres.log") }

func (l layout) postmasterPID() string { return filepath.Join(l.cluster(), "postmaster.pid") }

const (
	unfinishedPrefix = "new-"
	shortSocketBase  = "/tmp"
	shortSocketName  = "keywarden-pg-"
	// maxSocketPath is what the smallest sun_path, macOS's with 104 bytes, holds
	// beside its final NUL.
	maxSocketPath = 103
)

// newLayout is the layout of dir, as an absolute path.
func newLayout(dir string) (layout, error) {
	if dir == "" {
		return layout{}, errors.New("no data directory given")
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return layout{}, fmt.Errorf("resolve the data directory: %w", err)
	}
	return layout{dir: abs}, nil
}

// make creates the data directory. Root's must let another user pass to the
// cluster, which has mode 0700 itself.
func (l layout) make() error {
	mode := fs.FileMode(0o700)
	if os.Geteuid() == 0 {
		mode = 0o711
	}
	return os.MkdirAll(l.dir, mode)
}

// removeUnfinished deletes what killed first starts left. Only the holder of the
// lock may call it.
func (l layout) removeUnfinished() error {
	left, err := filepath.Glob(filepath.Join(escapeGlob(l.dir), unfinishedPrefix+"*"))
	if err != nil {
		return err
	}
	for _, dir := range left {
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	return nil
}

func escapeGlob(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}

// makeSocketDir makes a directory for the socket that only the account can
// enter, elsewhere when the path in the data directory is too long for a socket.
func (l layout) makeSocketDir(a account) (string, error) {
	if err := l.removeSocketDir(); err != nil {
		return "", err
	}
	dir := l.socket()
	if len(socketFile(dir)) <= maxSocketPath {
		if err := os.Mkdir(dir, 0o700); err != nil {
			return "", err
		}
		return dir, a.own(dir)
	}
	// TMPDIR may be just as long, and another user may be unable to enter it.
	dir, err := os.MkdirTemp(shortSocketBase, shortSocketName)
	if err != nil {
		return "", err
	}
	return dir, errors.Join(os.Symlink(dir, l.socket()), a.own(dir))
}

func socketFile(dir string) string { return filepath.Join(dir, ".s.PGSQL."+port) }

// socketDir is the directory that the running server's socket is in.
func (l layout) socketDir() string {
	if target, err := os.Readlink(l.socket()); err == nil {
		return target
	}
	return l.socket()
}

// removeSocketDir deletes the socket's directory, wherever it is.
func (l layout) removeSocketDir() error {
	target, err := os.Readlink(l.socket())
	if err == nil && strings.HasPrefix(target, filepath.Join(shortSocketBase, shortSocketName)) {
		if err := os.RemoveAll(target); err != nil {
			return err
		}
	}
	return os.RemoveAll(l.socket())
}

// clusterMajor is the major version that made the cluster, or 0 when there is
// no cluster yet.
func (l layout) clusterMajor() (int, error) {
	if _, err := os.Stat(l.cluster()); errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	text, err := readSmall(filepath.Join(l.cluster(), "PG_VERSION"))
	if err != nil {
		return 0, fmt.Errorf("%s is not a PostgreSQL cluster, or not a whole one; restore it, or move it away to begin anew: %w",
			l.cluster(), err)
	}
	major, err := strconv.Atoi(strings.TrimSpace(text))
	if err != nil {
		return 0, fmt.Errorf("read the version of the cluster %s: %w", l.cluster(), err)
	}
	return major, nil
}

// readSmall reads a file of a few lines that another user may write.
func readSmall(path string) (string, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return "", err
	}
	if !info.Mode().IsRegular() {
		return "", fmt.Errorf("%s is not a regular file", path)
	}
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer func() { _ = file.Close() }()
	text, err := io.ReadAll(io.LimitReader(file, 8<<10))
	return string(text), err
}

// postmaster is what PostgreSQL writes about itself into postmaster.pid.
type postmaster struct {
	pid   int
	ready bool
}

// readPostmaster reads postmaster.pid; the zero value means there is none.
func (l layout) readPostmaster() (postmaster, error) {
	text, err := readSmall(l.postmasterPID())
	if errors.Is(err, fs.ErrNotExist) {
		return postmaster{}, nil
	}
	if err != nil {
		return postmaster{}, err
	}
	return parsePostmaster(text), nil
}

// parsePostmaster reads the process id in the first line and the status in the
// eighth. A file cut short, as by a full disk, gives the zero value.
func parsePostmaster(text string) postmaster {
	const pidLine, statusLine = 0, 7
	lines := strings.Split(text, "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(lines[pidLine]))
	if err != nil || pid <= 1 {
		return postmaster{}
	}
	return postmaster{pid: pid, ready: len(lines) > statusLine && strings.TrimSpace(lines[statusLine]) == "ready"}
}

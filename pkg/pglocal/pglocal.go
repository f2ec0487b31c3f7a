// Package pglocal runs a private PostgreSQL for development and single-machine
// use: it finds PostgreSQL's own programs on the machine, keeps one cluster in
// one data directory, starts it with the program and stops it with the program,
// also when that is killed.
//
// It owns the data directory, the server process and its socket, the role and
// the empty database. It does not own what is in that database: migrations and
// queries belong to the stores. It is no database server for others: it listens
// on a Unix socket that only its own user (and root) can reach.
//
// # Data directory
//
//	lock            held by the program that uses the directory
//	server.lock     held by that program and its PostgreSQL
//	data/           the cluster (PGDATA), complete or absent
//	new-*/          a first start that has not finished; removed by the next one
//	run             directory of the Unix socket, or a link to one with a shorter path
//	postgres.log    PostgreSQL's log, and postgres.log.1 before it
//
// PostgreSQL refuses to run as root. Started by root, it runs as the owner of
// the existing cluster, else as user postgres, else as nobody; the directory
// and all its parents must let that user pass. All files but data/ and run stay
// with the caller.
//
// # One server for one directory
//
// Both locks are flocks, which end with their holders however those end.
// PostgreSQL's processes inherit the second: who has both knows that neither
// another program nor a process left behind by a killed one touches the cluster.
// Where the system tells a process that its parent died (Linux), PostgreSQL
// shuts down at once when the program is killed; elsewhere the next start stops
// what was left behind.
package pglocal

import (
	"errors"
	"log/slog"
	"net/url"
	"time"
)

// MinMajor is the oldest major version of PostgreSQL that the product supports.
const MinMajor = 15

// Role and Database name what the product uses inside the cluster. The role owns
// the database and is no superuser.
const (
	Role     = "keywarden"
	Database = "keywarden"
)

const (
	superuser = "postgres"
	// port only names the socket file; nothing listens on TCP.
	port = "5432"
	// startTimeout and stopTimeout hold where the caller's context has no deadline.
	// Starting includes crash recovery, which can take long.
	startTimeout = 2 * time.Minute
	stopTimeout  = 15 * time.Second
)

// Errors that a caller may want to tell apart.
var (
	// ErrNotInstalled: this machine has no usable PostgreSQL programs.
	ErrNotInstalled = errors.New("PostgreSQL is not installed")
	// ErrInUse: another program runs, or is starting, on the data directory.
	ErrInUse = errors.New("the data directory is in use")
	// ErrNotRunning: no server is ready on the data directory.
	ErrNotRunning = errors.New("no private PostgreSQL runs on the data directory")
)

// Options say where and how to run. Only DataDir is required.
type Options struct {
	// DataDir holds everything of this server. It is made when absent.
	DataDir string
	// BinDir is the directory of PostgreSQL's programs. When empty, [Find]
	// says where they are looked for.
	BinDir string
	// Logger gets the few events of the server's life; nil discards them.
	Logger *slog.Logger
	// MaxConnections limits concurrent connections; 0 leaves PostgreSQL's default, 100.
	MaxConnections int
	// Disposable trades durability for speed, for tests: a crash of the machine
	// may destroy the cluster.
	Disposable bool
}

func (o Options) logger() *slog.Logger {
	if o.Logger == nil {
		return slog.New(slog.DiscardHandler)
	}
	return o.Logger
}

// socketURL addresses a database through the socket in dir. It names port and
// sslmode so that PGPORT and PGSSLMODE of the environment have no say.
func socketURL(dir, role, database string) string {
	u := url.URL{
		Scheme:   "postgres",
		User:     url.User(role),
		Path:     "/" + database,
		RawQuery: url.Values{"host": {dir}, "port": {port}, "sslmode": {"disable"}}.Encode(),
	}
	return u.String()
}

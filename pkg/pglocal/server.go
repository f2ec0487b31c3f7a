//go:build unix && !aix && !solaris

package pglocal

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Server is a running private PostgreSQL. It is safe for concurrent use. Stop
// has to be called in any case: it also gives the data directory back.
type Server struct {
	options   Options
	logger    *slog.Logger
	layout    layout
	lock      dirLock
	account   account
	binaries  Binaries
	log       *serverLog
	socketDir string
	process   *process

	exitError func() error // why the process ended; read it after exited

	stopping atomic.Bool
	stopOnce sync.Once
	stopErr  error
}

// Start starts the private PostgreSQL of a data directory and returns when it
// takes connections; the first start creates the cluster. ctx bounds the start
// only, by two minutes when it has no deadline. The errors are [ErrInUse] when
// another program uses the directory and [ErrNotInstalled] when there is no
// PostgreSQL to start; those of PostgreSQL itself end with its log.
func Start(ctx context.Context, opts Options) (*Server, error) {
	ctx, cancel := withDefaultTimeout(ctx, startTimeout)
	defer cancel()
	began := time.Now()
	l, err := newLayout(opts.DataDir)
	if err != nil {
		return nil, err
	}
	s := &Server{options: opts, logger: opts.logger(), layout: l}
	if err := s.start(ctx); err != nil {
		s.abandon()
		return nil, fmt.Errorf("start the private PostgreSQL in %s: %w", l.dir, err)
	}
	s.logger.InfoContext(ctx, "private PostgreSQL started", "data_dir", l.dir, "version", s.binaries.Version,
		"pid", s.process.cmd.Process.Pid, "duration", time.Since(began))
	return s, nil
}

// start runs the steps of a start. After an error, abandon undoes those taken.
func (s *Server) start(ctx context.Context) error {
	if err := s.layout.make(); err != nil {
		return err
	}
	var err error
	if s.lock, err = acquire(ctx, s.layout); err != nil {
		return err
	}
	if s.log, err = openLog(s.layout.log()); err != nil {
		return err
	}
	if err := s.prepareCluster(ctx); err != nil {
		return err
	}
	if s.socketDir, err = s.layout.makeSocketDir(s.account); err != nil {
		return fmt.Errorf("make the socket directory: %w", err)
	}
	if err := s.launch(); err != nil {
		return err
	}
	conn, err := s.awaitReady(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	return ensureDatabase(ctx, conn)
}

// prepareCluster chooses account and programs, and creates the cluster at a
// first start.
func (s *Server) prepareCluster(ctx context.Context) error {
	major, err := s.layout.clusterMajor()
	if err != nil {
		return err
	}
	if s.account, err = chooseAccount(s.layout.cluster()); err != nil {
		return err
	}
	if s.binaries, err = newSearch(s.account, s.options.BinDir).find(ctx, major); err != nil {
		return err
	}
	if major != 0 {
		return nil
	}
	s.logger.InfoContext(ctx, "creating a private PostgreSQL cluster", "data_dir", s.layout.dir, "version", s.binaries.Version)
	return s.createCluster(ctx)
}

// launch starts the server process. It shuts down in order when the program is
// killed.
func (s *Server) launch() error {
	program := s.binaries.program("postgres")
	cmd := s.account.command(s.layout.dir, syscall.SIGINT, program, serverArgs(s.layout.cluster(), s.socketDir, s.options)...)
	cmd.Stdout, cmd.Stderr = s.log.file, s.log.file
	cmd.ExtraFiles = []*os.File{s.lock.server}
	p, err := startProcess(cmd)
	if err != nil {
		return s.account.explain(err, program, s.layout.dir)
	}
	s.process = p
	// Once, since the log is closed by Stop.
	s.exitError = sync.OnceValue(func() error { return exitError(p, s.log) })
	return nil
}

func exitError(p *process, log *serverLog) error {
	how := "exit status 0"
	if p.err != nil {
		how = p.err.Error()
	}
	return fmt.Errorf("PostgreSQL ended by itself (%s)%s", how, log.tail())
}

// awaitReady connects as soon as the server lets it.
func (s *Server) awaitReady(ctx context.Context) (*pgx.Conn, error) {
	const longestDelay = 100 * time.Millisecond
	for delay := 2 * time.Millisecond; ; delay = min(2*delay, longestDelay) {
		conn, err := pgx.Connect(ctx, s.AdminURL())
		if err == nil {
			return conn, nil
		}
		select {
		case <-s.process.exited:
			return nil, s.exitError()
		default:
		}
		if refused(err) || !pause(ctx, delay) {
			return nil, fmt.Errorf("connect to PostgreSQL: %w%s", err, s.log.tail())
		}
	}
}

// refused tells whether a running server answered with an error that waiting does
// not change.
func refused(err error) bool {
	var answer *pgconn.PgError
	return errors.As(err, &answer) && answer.Code != pgerrcode.CannotConnectNow
}

// abandon undoes what start did before it failed.
func (s *Server) abandon() {
	if s.process != nil {
		s.kill()
	}
	s.free()
}

// kill ends the server at once. The cluster recovers at its next start.
func (s *Server) kill() {
	s.process.signal(syscall.SIGQUIT)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if s.process.ended(ctx) {
		return
	}
	s.process.signal(syscall.SIGKILL)
	<-s.process.exited
}

// free gives back everything but the process.
func (s *Server) free() {
	if s.lock.program == nil {
		return // Nothing here is ours.
	}
	if err := s.layout.removeSocketDir(); err != nil {
		s.logger.Warn("the socket directory of PostgreSQL is left behind", "error", err)
	}
	if s.log != nil {
		_ = s.log.file.Close()
	}
	s.lock.release()
}

// URL addresses the product's database as its owner, for pgx and libpq.
func (s *Server) URL() string { return socketURL(s.socketDir, Role, Database) }

// AdminURL addresses the cluster's maintenance database as its superuser.
func (s *Server) AdminURL() string { return socketURL(s.socketDir, superuser, superuser) }

// Done is closed when the server has ended, whether by Stop or by itself.
func (s *Server) Done() <-chan struct{} { return s.process.exited }

// Err says why the server ended by itself. It is nil while it runs and when Stop
// ended it.
func (s *Server) Err() error {
	select {
	case <-s.process.exited:
	default:
		return nil
	}
	if s.stopping.Load() {
		return nil
	}
	return s.exitError()
}

// Stop ends the server: open transactions are rolled back and connections
// closed. When it has not ended by ctx's deadline, or within 15 seconds without
// one, it is aborted, which is an error although nothing committed is lost. After
// Stop the data directory is free. Later calls return the first one's result.
func (s *Server) Stop(ctx context.Context) error {
	s.stopOnce.Do(func() { s.stopErr = s.stop(ctx) })
	return s.stopErr
}

func (s *Server) stop(ctx context.Context) error {
	defer s.free()
	select {
	case <-s.process.exited:
		_ = s.exitError() // Keep it for Err while the log is open.
		return nil
	default:
	}
	ctx, cancel := withDefaultTimeout(ctx, stopTimeout)
	defer cancel()
	s.stopping.Store(true)
	s.process.signal(syscall.SIGINT)
	if !s.process.ended(ctx) {
		s.kill()
		return fmt.Errorf("PostgreSQL did not stop in time and was aborted; its next start recovers: %w", context.Cause(ctx))
	}
	if s.process.err != nil {
		return fmt.Errorf("stop PostgreSQL: %w%s", s.process.err, s.log.tail())
	}
	s.logger.InfoContext(ctx, "private PostgreSQL stopped", "data_dir", s.layout.dir)
	return nil
}

func withDefaultTimeout(ctx context.Context, timeout time.Duration) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, timeout)
}

// Running is the URL of the server that another program runs on a data
// directory, for commands that work beside it. The error is [ErrNotRunning] when
// there is none, or none that is ready.
func Running(dataDir string) (string, error) {
	l, err := newLayout(dataDir)
	if err != nil {
		return "", err
	}
	pm, err := l.readPostmaster()
	if err != nil {
		return "", fmt.Errorf("look at %s: %w", l.dir, err)
	}
	if !pm.ready || !isPostgres(pm.pid, l.cluster()) {
		return "", fmt.Errorf("%w %s", ErrNotRunning, l.dir)
	}
	return socketURL(l.socketDir(), Role, Database), nil
}

// Remove deletes a data directory with everything in it. The error is [ErrInUse]
// when a program uses it; what a killed program left running is stopped first.
func Remove(ctx context.Context, dataDir string) error {
	l, err := newLayout(dataDir)
	if err != nil {
		return err
	}
	if _, err := os.Stat(l.dir); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	lock, err := acquire(ctx, l)
	if err != nil {
		return err
	}
	defer lock.release()
	if err := errors.Join(l.removeSocketDir(), os.RemoveAll(l.dir)); err != nil {
		return fmt.Errorf("remove the data directory: %w", err)
	}
	return nil
}

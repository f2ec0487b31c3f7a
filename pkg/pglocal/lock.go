//go:build unix && !aix && !solaris

package pglocal

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/keywarden/keywarden/pkg/pglocal/internal/filelock"
)

const (
	// orphanTimeout is how long a server whose program was killed may take to stop.
	orphanTimeout = 20 * time.Second
	// orphanPatience is the part of it after which it is aborted.
	orphanPatience = 10 * time.Second
)

// dirLock is the right to use a data directory. It has two halves, because a
// program can die without its PostgreSQL.
type dirLock struct {
	// program is this program's alone: who cannot get it has a living rival.
	program *os.File
	// server is inherited by PostgreSQL's processes: who has program and cannot get
	// server is faced with the PostgreSQL of a dead program.
	server *os.File
}

// acquire takes the lock of a data directory. When a living program has it, the
// error is [ErrInUse] at once; a PostgreSQL that a dead one left is stopped.
func acquire(ctx context.Context, l layout) (dirLock, error) {
	program, err := lockProgram(l)
	if err != nil {
		return dirLock{}, err
	}
	server, err := lockServer(ctx, l)
	if err != nil {
		return dirLock{}, errors.Join(err, filelock.Unlock(program))
	}
	k := dirLock{program: program, server: server}
	if err := l.refuseStranger(); err != nil {
		k.release()
		return dirLock{}, err
	}
	return k, nil
}

func lockProgram(l layout) (*os.File, error) {
	file, err := filelock.TryLock(l.lock())
	if errors.Is(err, filelock.ErrHeld) {
		// It may be unreadable or not written yet; the error is right without it.
		pid, _ := readSmall(l.lock())
		return nil, fmt.Errorf("%w: process %s uses %s; stop it, or give this one another data directory",
			ErrInUse, strings.TrimSpace(pid), l.dir)
	}
	if err != nil {
		return nil, fmt.Errorf("lock the data directory: %w", err)
	}
	if err := rewrite(file, strconv.Itoa(os.Getpid())+"\n"); err != nil {
		return nil, errors.Join(fmt.Errorf("lock the data directory: %w", err), filelock.Unlock(file))
	}
	return file, nil
}

func rewrite(file *os.File, text string) error {
	if err := file.Truncate(0); err != nil {
		return err
	}
	_, err := file.WriteAt([]byte(text), 0)
	return err
}

func lockServer(ctx context.Context, l layout) (*os.File, error) {
	ctx, cancel := context.WithTimeout(ctx, orphanTimeout)
	defer cancel()
	abort := time.Now().Add(orphanPatience)
	for {
		file, err := filelock.TryLock(l.serverLock())
		if err == nil {
			return file, nil
		}
		if !errors.Is(err, filelock.ErrHeld) {
			return nil, fmt.Errorf("lock the cluster: %w", err)
		}
		l.stopOrphan(time.Now().After(abort))
		if !pause(ctx, 20*time.Millisecond) {
			return nil, fmt.Errorf("%w: a PostgreSQL whose program has ended still uses %s: %w", ErrInUse, l.cluster(), ctx.Err())
		}
	}
}

// release gives the right back; PostgreSQL's processes keep their half until
// the last one has ended.
func (k dirLock) release() {
	_ = k.server.Close()
	_ = filelock.Unlock(k.program)
}

// stopOrphan tells the PostgreSQL of a dead program to stop, gently or not.
func (l layout) stopOrphan(abort bool) {
	pm, err := l.readPostmaster()
	if err != nil || pm.pid == 0 || !isPostgres(pm.pid, l.cluster()) {
		return
	}
	sig := syscall.SIGINT
	if abort {
		sig = syscall.SIGQUIT
	}
	_ = syscall.Kill(pm.pid, sig)
}

// refuseStranger fails when a PostgreSQL that was started by other means, which
// therefore has no lock, runs on the cluster. Otherwise a postmaster.pid is a
// leftover; it is removed, because PostgreSQL would refuse to start when its
// process id meanwhile belongs to another program, which is common in containers.
func (l layout) refuseStranger() error {
	pm, err := l.readPostmaster()
	if err != nil {
		return err
	}
	if pm.pid != 0 && isPostgres(pm.pid, l.cluster()) {
		return fmt.Errorf("%w: PostgreSQL process %d, not started by this program, runs on %s; stop it first",
			ErrInUse, pm.pid, l.cluster())
	}
	if err := os.Remove(l.postmasterPID()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove a stale postmaster.pid: %w", err)
	}
	return nil
}

// pause waits for d and tells whether ctx lets the caller go on.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

//go:build unix && !aix && !solaris

package filelock

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// TryLock takes the exclusive lock on the file at path, which it makes with mode
// 0600 when absent, or returns [ErrHeld] at once. The lock belongs to the open
// file: it ends when the returned file, and every copy of it that a child
// process inherited, is closed, so also when those processes are killed.
func TryLock(path string) (*os.File, error) {
	for {
		file, err := tryLock(path)
		if err != nil {
			return nil, err
		}
		current, err := isAt(path, file)
		if err == nil && current {
			return file, nil
		}
		_ = file.Close()
		if err != nil {
			return nil, err
		}
	}
}

// Unlock ends the lock at once, also for copies of the file that processes hold,
// such as a child of ours that is just about to execute its program.
func Unlock(file *os.File) error {
	return errors.Join(syscall.Flock(int(file.Fd()), syscall.LOCK_UN), file.Close())
}

func tryLock(path string) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	err = syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if err == nil {
		return file, nil
	}
	_ = file.Close()
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, ErrHeld
	}
	return nil, fmt.Errorf("lock %s: %w", path, err)
}

// isAt tells whether file is still the one at path: its last holder may have
// deleted it between our opening and locking it, and a lock on a deleted file
// excludes nobody.
func isAt(path string, file *os.File) (bool, error) {
	at, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	ours, err := file.Stat()
	if err != nil {
		return false, err
	}
	return os.SameFile(at, ours), nil
}

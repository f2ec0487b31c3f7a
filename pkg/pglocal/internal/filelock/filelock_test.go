//go:build unix && !aix && !solaris

package filelock

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

func TestLockExcludesUntilClosed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	first := mustLock(t, path)
	if _, err := TryLock(path); !errors.Is(err, ErrHeld) {
		t.Errorf("second lock: %v", err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	mustLock(t, path)
}

func TestCopiesKeepTheLockUntilUnlock(t *testing.T) {
	for name, c := range map[string]struct {
		end  func(*os.File) error
		held bool
	}{
		"close":  {(*os.File).Close, true},
		"unlock": {Unlock, false},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "lock")
			file := mustLock(t, path)
			inherited, err := syscall.Dup(int(file.Fd()))
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = syscall.Close(inherited) }()
			if err := c.end(file); err != nil {
				t.Fatal(err)
			}
			again, err := TryLock(path)
			if held := errors.Is(err, ErrHeld); held != c.held {
				t.Errorf("held is %t, want %t (%v)", held, c.held, err)
			}
			if err == nil {
				_ = again.Close()
			}
		})
	}
}

func mustLock(t *testing.T, path string) *os.File {
	t.Helper()
	file, err := TryLock(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = file.Close() })
	return file
}

func TestLockIsOnTheFileAtThePath(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	first := mustLock(t, path)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if current, err := isAt(path, first); current || err != nil {
		t.Errorf("a deleted file counts as the one at the path: %t, %v", current, err)
	}
	mustLock(t, path)
	if current, err := isAt(path, first); current || err != nil {
		t.Errorf("a replaced file counts as the one at the path: %t, %v", current, err)
	}
}

func TestLockInAMissingDirectoryFails(t *testing.T) {
	if _, err := TryLock(filepath.Join(t.TempDir(), "absent", "lock")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

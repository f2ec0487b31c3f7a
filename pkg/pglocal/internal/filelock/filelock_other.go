//go:build !unix || aix || solaris

package filelock

import (
	"errors"
	"os"
)

// TryLock is not available on this system.
func TryLock(string) (*os.File, error) { return nil, errors.ErrUnsupported }

// Unlock is never called: there is no lock.
func Unlock(*os.File) error { return errors.ErrUnsupported }

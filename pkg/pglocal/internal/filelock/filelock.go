// Package filelock takes advisory locks on files (flock). It owns nothing else:
// what a lock protects, and what its file contains, is for the caller to say.
package filelock

import "errors"

// ErrHeld says that somebody else holds the lock.
var ErrHeld = errors.New("the lock is held")

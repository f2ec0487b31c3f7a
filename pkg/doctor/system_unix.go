//go:build unix

package doctor

import "syscall"

// descriptorLimit is the soft limit of open files, which the Go runtime has raised to
// the hard one at the start, as it does for the program itself.
func descriptorLimit() (uint64, bool) {
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		return 0, false
	}
	return uint64(l.Cur), true //nolint:unconvert // int64 on some systems
}

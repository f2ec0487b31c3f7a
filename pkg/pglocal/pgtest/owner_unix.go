//go:build unix

package pgtest

import (
	"io/fs"
	"os"
	"syscall"
)

// ownedByCaller tells whether the file is the current user's own.
func ownedByCaller(info fs.FileInfo) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(stat.Uid) == os.Geteuid()
}

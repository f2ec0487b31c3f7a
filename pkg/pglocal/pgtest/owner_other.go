//go:build !unix

package pgtest

import "io/fs"

func ownedByCaller(fs.FileInfo) bool { return true }

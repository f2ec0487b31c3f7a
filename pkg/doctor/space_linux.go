package doctor

import (
	"fmt"
	"syscall"
)

// space says how much room there is on the file system of dir.
func space(dir string) []Finding {
	var fs syscall.Statfs_t
	if err := syscall.Statfs(dir, &fs); err != nil || fs.Blocks == 0 {
		return nil
	}
	const (
		fewBytes   = 1 << 30
		fewPercent = 5
	)
	free := int64(fs.Bavail) * int64(fs.Bsize) //nolint:unconvert // other types on other processors
	percent := 100 * fs.Bavail / fs.Blocks
	detail := fmt.Sprintf("%s free on the file system of %s (%d %%)", size(free), dir, percent)
	if free < fewBytes || percent < fewPercent {
		return []Finding{warning("space", detail, "Make room: PostgreSQL stops when the disk is full.")}
	}
	return []Finding{ok("space", detail)}
}

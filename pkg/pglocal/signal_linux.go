package pglocal

import (
	"fmt"
	"os"
	"syscall"
)

// signalOnParentDeath makes the kernel send sig to the new process when the
// thread that started it ends; see [process.supervise].
func signalOnParentDeath(attr *syscall.SysProcAttr, sig syscall.Signal) { attr.Pdeathsig = sig }

// isPostgres tells whether the process is the PostgreSQL of the cluster, which
// has the cluster as its working directory, and not another program that got
// the same process id.
func isPostgres(pid int, cluster string) bool {
	cwd, err := os.Stat(fmt.Sprintf("/proc/%d/cwd", pid))
	if err != nil {
		return false
	}
	dir, err := os.Stat(cluster)
	return err == nil && os.SameFile(cwd, dir)
}

//go:build unix && !linux && !aix && !solaris

package pglocal

import (
	"os/exec"
	"strconv"
	"strings"
	"syscall"
)

// signalOnParentDeath does nothing: this system has no such signal. The next
// start stops what a killed program left behind.
func signalOnParentDeath(*syscall.SysProcAttr, syscall.Signal) {}

// isPostgres tells whether the process is the PostgreSQL of the cluster, whose
// path is in its command line, and not another program that got the same
// process id.
func isPostgres(pid int, cluster string) bool {
	out, err := exec.Command("ps", "-ww", "-o", "args=", "-p", strconv.Itoa(pid)).Output()
	return err == nil && strings.Contains(string(out), "postgres") && strings.Contains(string(out), cluster)
}

//go:build unix && !aix && !solaris

package pglocal

import (
	"context"
	"os/exec"
	"runtime"
	"syscall"
)

// process is a started program with the goroutine that waits for its end.
type process struct {
	cmd    *exec.Cmd
	exited chan struct{} // closed when the program has ended
	err    error         // how it ended; read it after exited
}

// startProcess starts cmd. The program outlives every context; end it by signal.
func startProcess(cmd *exec.Cmd) (*process, error) {
	p := &process{cmd: cmd, exited: make(chan struct{})}
	started := make(chan error, 1)
	go p.supervise(started)
	return p, <-started
}

// supervise starts the program and waits for its end on one operating-system
// thread: Linux sends the parent-death signal when the starting thread ends, not
// the process, and Go ends idle threads and those of locked goroutines.
func (p *process) supervise(started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer close(p.exited)
	p.err = p.cmd.Start()
	started <- p.err
	if p.err == nil {
		p.err = p.cmd.Wait()
	}
}

// signal sends sig to the program unless it has ended.
func (p *process) signal(sig syscall.Signal) {
	// The only failure is that it ended, which the caller sees by exited.
	_ = p.cmd.Process.Signal(sig)
}

// ended waits until the program has ended or ctx is done, and tells which.
func (p *process) ended(ctx context.Context) bool {
	select {
	case <-p.exited:
		return true
	case <-ctx.Done():
		return false
	}
}

// run starts cmd and waits for its end. When ctx ends first, cmd and all of its
// process group are killed.
func run(ctx context.Context, cmd *exec.Cmd) error {
	p, err := startProcess(cmd)
	if err != nil {
		return err
	}
	if !p.ended(ctx) {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		<-p.exited
		return context.Cause(ctx)
	}
	return p.err
}

package splice

import (
	"errors"
	"io"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// Pipe is a buffer in the kernel. It is used by one goroutine at a time.
type Pipe struct {
	fds     *[2]int // to read from and to write to
	cleanup runtime.Cleanup
	size    int
	held    int  // bytes
	broken  bool // a system call has failed in a way that may have left something

	// The system call at hand. The functions are made once: closures would be
	// allocated for each call.
	fill, drain func(fd uintptr) bool
	most, moved int
	err         error
}

// open returns a new pipe, nil where there can be none.
func open() *Pipe {
	fds := new([2]int)
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return nil
	}
	p := &Pipe{fds: fds}
	p.cleanup = runtime.AddCleanup(p, closeBoth, fds) // for those that the pool drops
	if size, err := unix.FcntlInt(uintptr(fds[1]), unix.F_SETPIPE_SZ, Size); err == nil {
		p.size = size
	} else if size, err := unix.FcntlInt(uintptr(fds[1]), unix.F_GETPIPE_SZ, 0); err == nil {
		p.size = size // the user has large pipes enough
	} else {
		p.close()
		return nil
	}
	p.fill, p.drain = p.fillOnce, p.drainOnce
	return p
}

func closeBoth(fds *[2]int) {
	_ = unix.Close(fds[0])
	_ = unix.Close(fds[1])
}

func (p *Pipe) close() {
	p.cleanup.Stop()
	closeBoth(p.fds)
}

// Size is how many bytes the pipe holds at most.
func (p *Pipe) Size() int { return p.size }

// Fill takes at most so many bytes from a socket, waiting for the first of them. The end of
// what is sent there is [io.EOF]. A deadline of the socket counts: when it is
// reached, nothing was taken.
func (p *Pipe) Fill(src syscall.RawConn, most int64) (int, error) {
	p.most = int(min(most, int64(p.size-p.held)))
	if err := src.Read(p.fill); err != nil {
		return 0, err
	}
	switch {
	case p.err == nil && p.moved == 0:
		return 0, io.EOF
	case p.err == nil:
		p.held += p.moved
		return p.moved, nil
	case p.held == 0 && (errors.Is(p.err, unix.EINVAL) || errors.Is(p.err, unix.ENOSYS)):
		return 0, ErrUnavailable
	}
	return 0, os.NewSyscallError("splice", p.err)
}

// fillOnce reports whether it need not be tried again.
func (p *Pipe) fillOnce(fd uintptr) bool {
	p.moved, p.err = move(int(fd), p.fds[1], p.most)
	return !errors.Is(p.err, unix.EAGAIN)
}

// Drain gives a socket all that is held, and returns how much it has taken, which is
// less only with an error.
func (p *Pipe) Drain(dst syscall.RawConn) (int, error) {
	before := p.held
	err := dst.Write(p.drain)
	if err == nil && p.err != nil {
		err = os.NewSyscallError("splice", p.err)
	}
	p.broken = p.broken || err != nil
	return before - p.held, err
}

// drainOnce goes on for as long as the socket takes something.
func (p *Pipe) drainOnce(fd uintptr) bool {
	for p.held > 0 {
		if p.moved, p.err = move(p.fds[0], int(fd), p.held); p.err != nil {
			return !errors.Is(p.err, unix.EAGAIN)
		}
		if p.moved == 0 { // not while something is held
			p.err = io.ErrNoProgress
			return true
		}
		p.held -= p.moved
	}
	p.err = nil
	return true
}

// move is splice(2). Without SPLICE_F_MORE: what has come goes on at once.
func move(from, to, most int) (int, error) {
	for {
		n, err := unix.Splice(from, nil, to, nil, most, unix.SPLICE_F_NONBLOCK)
		if !errors.Is(err, unix.EINTR) {
			return int(max(n, 0)), err
		}
	}
}

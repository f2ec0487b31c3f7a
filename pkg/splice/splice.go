// Package splice moves bytes from one socket to another without bringing them into the
// program: by a [Pipe], a buffer in the kernel that takes pages over instead of copying
// them (splice(2)). For an answer of 100 KB that is less than half of the work.
//
// It owns the pipes and how they are filled and drained. Where a body begins and ends is
// the business of its [Source], and what is said before it that of its [Sink].
package splice

import (
	"errors"
	"sync"
	"sync/atomic"
)

const (
	// Size is what a pipe holds at most, in bytes. The system may allow less.
	Size = 256 << 10

	// Worth is the number of bytes from which on a pipe is cheaper than a buffer.
	Worth = 16 << 10

	// maxPipes bounds the pipes that are in use at a time: each is two descriptors, and
	// keeps up to Size bytes that no limit of the program's memory counts.
	maxPipes = 64
)

// ErrUnavailable says that the system does not move bytes in this way. Nothing was
// taken from the source.
var ErrUnavailable = errors.New("splice: the system does not support it")

// Source is the body of a message whose bytes are still in a socket. It is an
// [io.Reader] as well, for the same bytes.
type Source interface {
	// CanFill reports whether FillPipe may be called now.
	CanFill() bool

	// FillPipe is Read with p, which is empty, in place of a slice.
	FillPipe(p *Pipe) (int, error)
}

// Sink is an [http.ResponseWriter] that may write to a socket.
type Sink interface {
	// CanDrain reports whether DrainPipe may be called now. It may not before the
	// header was written.
	CanDrain() bool

	// DrainPipe is Write of all that p holds.
	DrainPipe(p *Pipe) (int, error)
}

// Pool has pipes for use one after the other. It is safe for concurrent use; its zero
// value is ready.
type Pool struct {
	idle        sync.Pool // of *Pipe
	out         atomic.Int64
	unavailable atomic.Bool
}

// Get returns an empty pipe, or nil: there are enough in use, or the system has none.
func (p *Pool) Get() *Pipe {
	if p.unavailable.Load() {
		return nil
	}
	if p.out.Add(1) > maxPipes {
		p.out.Add(-1)
		return nil
	}
	pipe, ok := p.idle.Get().(*Pipe)
	if !ok {
		if pipe = open(); pipe == nil {
			p.out.Add(-1)
			return nil
		}
	}
	return pipe
}

// Put takes a pipe back. One that still holds something is closed: it would come out in
// somebody else's answer.
func (p *Pool) Put(pipe *Pipe) {
	p.out.Add(-1)
	if pipe.held > 0 || pipe.broken {
		pipe.close()
		return
	}
	p.idle.Put(pipe)
}

// Held is how many bytes are in the pipe.
func (p *Pipe) Held() int { return p.held }

// Refuse makes Get return nil from now on, after an [ErrUnavailable].
func (p *Pool) Refuse() { p.unavailable.Store(true) }

// Package bodycopy passes the body of an answer on to a client: by buffers, or by the kernel
// alone where both ends are plain sockets. It holds no more of a body than fits into one
// buffer or pipe, and goes at the pace of the slower side.
//
// What a body is, and what its failures mean, is the caller's business.
package bodycopy

import (
	"errors"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/keywarden/keywarden/pkg/splice"
)

// bufferSize is what one read from a service takes at most, in bytes.
const bufferSize = 32 << 10

// Copier has the buffers and pipes for it. It is safe for concurrent use, and implements
// [httputil.BufferPool].
type Copier struct {
	buffers sync.Pool // of *[bufferSize]byte: a slice would be allocated anew on its way in
	pipes   splice.Pool
}

// New makes a copier.
func New() *Copier {
	return &Copier{buffers: sync.Pool{New: func() any { return new([bufferSize]byte) }}}
}

// Get returns a buffer.
func (c *Copier) Get() []byte { return c.buffers.Get().(*[bufferSize]byte)[:] }

// Put takes back a buffer that Get has returned.
func (c *Copier) Put(buffer []byte) { c.buffers.Put((*[bufferSize]byte)(buffer)) }

// Ready reports whether a read would not wait, as far as that can be known.
func Ready(body io.Reader) bool {
	b, ok := body.(interface{ Ready() bool })
	return ok && b.Ready()
}

// Copy copies body to w. With live it is passed on as it comes: whenever the next read
// would wait, what there is goes to the client, the header at least.
func (c *Copier) Copy(w http.ResponseWriter, body io.Reader, live bool) error {
	flush := func() {}
	if live {
		control := http.NewResponseController(w)
		flush = func() { _ = control.Flush() }
	}
	if !Ready(body) {
		flush()
	}
	space := c.Get()
	defer c.Put(space)
	for {
		n, err := body.Read(space)
		if n > 0 {
			if _, err := w.Write(space[:n]); err != nil {
				return err
			}
			if err == nil && !Ready(body) {
				flush()
			}
		}
		if err == nil {
			err = c.splice(w, body)
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// slowPiece is how long a client may take for a piece of an answer that is spliced. A
// slower one would keep a pipe from others, and is none the better for it.
const slowPiece = 100 * time.Millisecond

// splice has the kernel move an answer on, where it can: between two sockets, with
// nobody between who looks at it. It returns io.EOF at its end, and nil when the
// rest has to be copied.
func (c *Copier) splice(w http.ResponseWriter, body io.Reader) error {
	source, ok := body.(splice.Source)
	if !ok || !source.CanFill() {
		return nil
	}
	sink, ok := w.(splice.Sink)
	if !ok || !sink.CanDrain() {
		return nil
	}
	pipe := c.pipes.Get()
	if pipe == nil {
		return nil
	}
	defer c.pipes.Put(pipe)
	for {
		n, err := source.FillPipe(pipe)
		if errors.Is(err, splice.ErrUnavailable) {
			c.pipes.Refuse()
			return nil
		}
		if n > 0 {
			begun := time.Now()
			if _, err := sink.DrainPipe(pipe); err != nil {
				return err
			}
			if err == nil && time.Since(begun) > slowPiece {
				return nil
			}
		}
		if err != nil || !source.CanFill() {
			return err
		}
	}
}

package mirror

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"

	"github.com/keywarden/keywarden/pkg/reqctx"
)

// Bounds of copies, those whose body is still being read included. One mirror may
// take a part of the whole: a shadow that hangs leaves room for the others.
const (
	MaxCopies         = 128
	maxCopiesOfMirror = 32
)

// Copies owns the copies of all mirrors that are under way. It is safe for
// concurrent use.
type Copies struct {
	ctx    context.Context
	cancel context.CancelFunc
	logger *slog.Logger
	room   room

	mu      sync.Mutex
	closed  bool
	running sync.WaitGroup
}

// NewCopies makes an owner of at most limit copies at a time.
func NewCopies(limit int, logger *slog.Logger) *Copies {
	ctx, cancel := context.WithCancel(context.Background())
	return &Copies{ctx: ctx, cancel: cancel, logger: logger, room: newRoom(limit)}
}

// Close ends the copies that are under way and waits for them. From then on there
// are no others.
func (cs *Copies) Close() {
	cs.mu.Lock()
	cs.closed = true
	cs.mu.Unlock()
	cs.cancel()
	cs.running.Wait()
}

// run runs f on a goroutine, unless the owner is closed.
func (cs *Copies) run(f func()) bool {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if cs.closed {
		return false
	}
	cs.running.Go(f)
	return true
}

// room is how many copies there may be.
type room struct {
	limit int64
	taken *atomic.Int64
}

func newRoom(limit int) room { return room{int64(limit), new(atomic.Int64)} }

func (r room) enter() bool {
	if r.taken.Add(1) > r.limit {
		r.taken.Add(-1)
		return false
	}
	return true
}

func (r room) leave() { r.taken.Add(-1) }

// copied is one copy, from its begin to its end. The body is taken on whatever
// goroutine reads it, also after the request's own has ended.
type copied struct {
	mirror   *Mirror
	request  *http.Request
	info     *reqctx.Info // of the copy
	expected int64        // length of the body in bytes, -1 when it is not known

	mu   sync.Mutex
	body []byte
	over bool // it is on its way, or given up
}

// take adds a piece of the body; the copy is sent when that was the last.
func (c *copied) take(piece []byte, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over {
		return
	}
	if int64(len(c.body)+len(piece)) > c.mirror.MaxBody {
		c.end(TooLarge)
		return
	}
	if c.body == nil && c.expected > 0 {
		c.body = make([]byte, 0, c.expected)
	}
	c.body = append(c.body, piece...)
	switch {
	case errors.Is(err, io.EOF), c.expected > 0 && int64(len(c.body)) == c.expected:
		c.start()
	case err != nil:
		c.end(Incomplete)
	}
}

// send sends a copy that has no body.
func (c *copied) send() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.start()
}

// giveUp ends a copy that was not sent.
func (c *copied) giveUp(why Outcome) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.over {
		c.end(why)
	}
}

// start begins the exchange. The caller holds the lock.
func (c *copied) start() {
	c.over = true
	if len(c.body) > 0 {
		c.request.Body = io.NopCloser(bytes.NewReader(c.body))
		c.request.ContentLength = int64(len(c.body))
	}
	if !c.mirror.Copies.run(func() { c.count(c.mirror.exchange(c)) }) {
		c.count(Dropped)
	}
}

// end gives the copy up. The caller holds the lock.
func (c *copied) end(why Outcome) {
	c.over, c.body = true, nil
	c.count(why)
}

// count counts the outcome and gives the place back, once for each copy.
func (c *copied) count(outcome Outcome) {
	c.mirror.Copies.room.leave()
	c.mirror.room.leave()
	c.mirror.Count(outcome)
}

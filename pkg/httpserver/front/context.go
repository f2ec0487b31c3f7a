package front

import (
	"context"
	"sync"
	"time"
)

// requestContext is the context of a request. Like net/http's it ends with that of the
// connection and when the handler returns; but most handlers never wait for that, and
// nothing is made for it until somebody does. It is safe for concurrent use.
type requestContext struct {
	connection context.Context

	mu     sync.Mutex
	ended  bool
	own    context.Context // nil until somebody has to be told of the end
	cancel context.CancelFunc
}

var _ context.Context = (*requestContext)(nil)

// Deadline implements [context.Context].
func (c *requestContext) Deadline() (deadline time.Time, ok bool) { return c.connection.Deadline() }

// Done implements [context.Context].
func (c *requestContext) Done() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.own == nil {
		c.own, c.cancel = context.WithCancel(c.connection)
		if c.ended {
			c.cancel()
		}
	}
	return c.own.Done()
}

// Err implements [context.Context].
func (c *requestContext) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.own != nil:
		return c.own.Err()
	case c.ended:
		return context.Canceled
	default:
		return c.connection.Err()
	}
}

// Value implements [context.Context]. It asks the own context, once there is one, so that
// package context finds where to register contexts that are derived from this one.
func (c *requestContext) Value(key any) any {
	c.mu.Lock()
	from := c.connection
	if c.own != nil {
		from = c.own
	}
	c.mu.Unlock()
	return from.Value(key)
}

// end is called when the handler has returned.
func (c *requestContext) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
	if c.cancel != nil {
		c.cancel()
	}
}

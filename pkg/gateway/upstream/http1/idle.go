package http1

import (
	"sync"
	"time"
)

// idle keeps connections between requests. The one that was used last is taken
// first, so that those that are not needed grow old and are closed.
type idle struct {
	max     int
	timeout time.Duration

	mu    sync.Mutex
	conns []*connection // as they came: the oldest first, or nearly
	sweep *time.Timer   // runs while there are any
}

// take returns a connection that the service has neither closed nor written to, or nil.
//
// To look costs a system call. Without it a request might be sent on a connection that
// was closed long ago, and could not be sent again if its method forbids that; and what
// a service said unasked, a second answer to the request before, would be taken for the
// answer to this one, which is another client's.
func (i *idle) take(now time.Time) *connection {
	for {
		conn := i.pop()
		if conn == nil {
			return nil
		}
		if now.Sub(conn.since) < i.timeout && conn.silent() {
			return conn
		}
		conn.close()
	}
}

func (i *idle) pop() *connection {
	i.mu.Lock()
	defer i.mu.Unlock()
	last := len(i.conns) - 1
	if last < 0 {
		return nil
	}
	conn := i.conns[last]
	i.conns[last] = nil
	i.conns = i.conns[:last]
	return conn
}

// put keeps a connection that is idle since about then, or closes it when there are
// enough.
func (i *idle) put(conn *connection, since time.Time) {
	conn.since = since
	if !i.add(conn) {
		conn.close()
	}
}

func (i *idle) add(conn *connection) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	if len(i.conns) >= i.max {
		return false
	}
	i.conns = append(i.conns, conn)
	if i.sweep == nil {
		i.sweep = time.AfterFunc(i.timeout, i.expire)
	}
	return true
}

// expire closes what is too old, or closed by the service already, and comes
// again as long as anything is left.
func (i *idle) expire() {
	for _, conn := range i.stale() {
		conn.close()
	}
}

func (i *idle) stale() (list []*connection) {
	i.mu.Lock()
	defer i.mu.Unlock()
	kept := i.conns[:0]
	for _, conn := range i.conns {
		if time.Since(conn.since) < i.timeout && conn.silent() {
			kept = append(kept, conn)
		} else {
			list = append(list, conn)
		}
	}
	clear(i.conns[len(kept):])
	i.conns = kept
	if len(kept) > 0 {
		i.sweep.Reset(max(i.timeout-time.Since(kept[0].since), i.timeout/4))
	} else {
		i.sweep = nil
	}
	return list
}

func (i *idle) closeAll() {
	i.mu.Lock()
	list := i.conns
	i.conns = nil
	if i.sweep != nil {
		i.sweep.Stop()
		i.sweep = nil
	}
	i.mu.Unlock()
	for _, conn := range list {
		conn.close()
	}
}

// Package faulttest is for tests of what happens when something between two
// programs goes wrong: a wire that delays, throttles, cuts short, swallows and
// resets what passes, and a place for what such a test has measured.
//
// It owns no servers: [pgtest] and [redistest] start those. It stands where a
// proxy such as toxiproxy could: that one links eighteen modules into the tests
// and is spoken to over HTTP, where these faults are a few lines each and change
// at a moment that the test chooses. Only tests import it.
//
// [pgtest]: https://pkg.go.dev/github.com/keywarden/keywarden/pkg/pglocal/pgtest
// [redistest]: https://pkg.go.dev/github.com/keywarden/keywarden/pkg/store/redis/redistest
package faulttest

import (
	"bytes"
	"net"
	"net/url"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// Fault is what a wire does to the bytes that pass. The zero value lets them pass.
type Fault struct {
	// Delay is the time by which each piece of an answer comes later. Pieces that
	// follow one another closely are not delayed one after the other: it is
	// latency, not bandwidth.
	Delay time.Duration
	// Rate is the most bytes of an answer in a second; 0 means unlimited.
	Rate int
	// Swallow lets connections open and nothing pass, in either direction.
	Swallow bool
	// After, when positive, ends each connection once so many bytes of answers have
	// passed on it: in order, or by a reset.
	After int64
	Reset bool
	// Refuse resets the connections that there are, and closes new ones at once.
	Refuse bool
}

// Wire stands between clients and a server. It is safe for concurrent use.
type Wire struct {
	network, address string // of the server
	listener         net.Listener
	serving          sync.WaitGroup

	mu      sync.Mutex
	fault   Fault
	changed chan struct{} // closed by the next change of fault
	closed  bool
	open    map[net.Conn]bool
	dialled int
	most    int // connections to the server at once
	held    int
	watched map[string]int
}

// pieceBytes is how much is read at once.
const pieceBytes = 32 << 10

// New makes a wire to the server at an address of the network, "tcp" or "unix".
// It lives until the test ends.
func New(tb testing.TB, network, address string) *Wire {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	w := &Wire{
		network: network, address: address, listener: l,
		changed: make(chan struct{}), open: map[net.Conn]bool{}, watched: map[string]int{},
	}
	w.serving.Go(w.accept)
	tb.Cleanup(w.close)
	return w
}

// ToURL makes a wire to the server of a URL of the form that PostgreSQL and Redis
// use, over TCP or a Unix socket, and returns the URL of its near end.
func ToURL(tb testing.TB, address string) (*Wire, string) {
	tb.Helper()
	u, err := url.Parse(address)
	if err != nil {
		tb.Fatal(err)
	}
	query := u.Query()
	network, server := "tcp", u.Host
	switch folder := query.Get("host"); {
	case u.Scheme == "unix": // Redis: the socket is the path
		network, server = "unix", u.Path
		u.Scheme, u.Path = "redis", "/"+query.Get("db")
		query.Del("db")
	case folder != "": // PostgreSQL: the folder of the socket
		port := query.Get("port")
		if port == "" {
			port = "5432"
		}
		network, server = "unix", filepath.Join(folder, ".s.PGSQL."+port)
		query.Del("host")
		query.Del("port")
		query.Set("sslmode", "disable")
	}
	w := New(tb, network, server)
	u.Host, u.RawQuery = w.Addr(), query.Encode()
	return w, u.String()
}

// Addr is the address of the near end, "127.0.0.1:port".
func (w *Wire) Addr() string { return w.listener.Addr().String() }

// Set changes what happens from now on, to connections that there are too.
func (w *Wire) Set(f Fault) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fault = f
	close(w.changed)
	w.changed = make(chan struct{})
	if f.Refuse {
		w.resetAll()
	}
}

// Watch counts from now on how often clients send the text. See Seen.
func (w *Wire) Watch(text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.watched[text] = 0
}

// Seen is how often clients have sent a watched text.
func (w *Wire) Seen(text string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.watched[text]
}

// Dialled is how many connections clients have opened.
func (w *Wire) Dialled() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.dialled
}

// Most is the most connections that were open at once since the last call.
func (w *Wire) Most() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	most := w.most
	w.most = w.held
	return most
}

func (w *Wire) close() {
	_ = w.listener.Close()
	w.mu.Lock()
	w.closed = true
	close(w.changed)
	w.changed = make(chan struct{})
	w.resetAll()
	w.mu.Unlock()
	w.serving.Wait()
}

// resetAll ends all connections. w.mu is held.
func (w *Wire) resetAll() {
	for conn := range w.open {
		reset(conn)
	}
	clear(w.open)
}

func reset(conn net.Conn) {
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = conn.Close()
}

func (w *Wire) accept() {
	for {
		near, err := w.listener.Accept()
		if err != nil {
			return
		}
		far, err := net.Dial(w.network, w.address)
		if err != nil || !w.hold(near, far) {
			reset(near)
			if far != nil {
				_ = far.Close()
			}
			continue
		}
		l := &link{wire: w, near: near, far: far}
		w.serving.Go(l.forth)
		w.serving.Go(l.back)
	}
}

func (w *Wire) hold(near, far net.Conn) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.dialled++
	if w.closed || w.fault.Refuse {
		return false
	}
	w.open[near], w.open[far] = true, true
	w.held++
	w.most = max(w.most, w.held)
	return true
}

func (w *Wire) state() (f Fault, changed <-chan struct{}, closed bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.fault, w.changed, w.closed
}

// pass waits while everything is swallowed and returns the fault of now; ok is
// false when the wire has ended.
func (w *Wire) pass() (f Fault, ok bool) {
	for {
		f, changed, closed := w.state()
		if closed {
			return f, false
		}
		if !f.Swallow {
			return f, true
		}
		<-changed
	}
}

// count looks for the watched texts in what a client sends. tail is the end of
// what came before: a text may be cut in two.
func (w *Wire) count(tail, piece []byte) []byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	longest := 0
	for text := range w.watched {
		end := tail[max(0, len(tail)-len(text)+1):]
		w.watched[text] += bytes.Count(append(bytes.Clone(end), piece...), []byte(text))
		longest = max(longest, len(text))
	}
	all := append(tail, piece...)
	return bytes.Clone(all[max(0, len(all)-longest):])
}

// link is one connection through a wire.
type link struct {
	wire      *Wire
	near, far net.Conn
	once      sync.Once
}

// end closes both sides, by a reset if the client is to see one.
func (l *link) end(byReset bool) {
	l.once.Do(func() {
		if byReset {
			reset(l.near)
		}
		_ = l.near.Close()
		_ = l.far.Close()
		l.wire.mu.Lock()
		defer l.wire.mu.Unlock()
		delete(l.wire.open, l.near)
		delete(l.wire.open, l.far)
		l.wire.held--
	})
}

// forth carries what the client sends.
func (l *link) forth() {
	defer l.end(false)
	buffer := make([]byte, pieceBytes)
	var tail []byte
	for {
		n, err := l.near.Read(buffer)
		if _, ok := l.wire.pass(); !ok {
			return
		}
		if n > 0 {
			tail = l.wire.count(tail, buffer[:n])
			if _, err := l.far.Write(buffer[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// late is a piece of an answer and when it is due.
type late struct {
	piece []byte
	due   time.Time
}

// back carries what the server answers, late, slowly, or not to its end. What is
// under way is bounded by the channel: a server can be held up by a slow wire.
func (l *link) back() {
	underWay := make(chan late, 64)
	l.wire.serving.Go(func() {
		defer close(underWay)
		for {
			buffer := make([]byte, pieceBytes)
			n, err := l.far.Read(buffer)
			f, ok := l.wire.pass()
			if !ok {
				return
			}
			if n > 0 {
				underWay <- late{buffer[:n], time.Now().Add(f.Delay)}
			}
			if err != nil {
				return
			}
		}
	})
	defer func() {
		l.end(false)
		for range underWay { // the other goroutine may wait for room
		}
	}()
	passed := int64(0)
	for p := range underWay {
		if !l.await(p.due) || !l.write(p.piece, &passed) {
			return
		}
	}
}

// await waits until the time, or not at all once the fault has changed.
func (l *link) await(due time.Time) bool {
	_, changed, closed := l.wire.state()
	if wait := time.Until(due); wait > 0 && !closed {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-changed:
		}
	}
	_, ok := l.wire.pass()
	return ok
}

// rateSlice is the time for which a throttled wire lets bytes through at once.
const rateSlice = 20 * time.Millisecond

func (l *link) write(piece []byte, passed *int64) bool {
	for len(piece) > 0 {
		f, ok := l.wire.pass()
		if !ok {
			return false
		}
		n := int64(len(piece))
		if f.After > 0 {
			n = min(n, f.After-*passed)
		}
		if n <= 0 {
			l.end(f.Reset)
			return false
		}
		if f.Rate > 0 {
			n = min(n, max(1, int64(f.Rate)*int64(rateSlice)/int64(time.Second)))
		}
		written, err := l.near.Write(piece[:n])
		*passed += int64(written)
		if err != nil {
			return false
		}
		piece = piece[n:]
		if f.Rate > 0 && !l.await(time.Now().Add(time.Duration(n)*time.Second/time.Duration(f.Rate))) {
			return false
		}
	}
	return true
}

// Blackhole is the address of a server that accepts connections, reads nothing and
// answers nothing until the test ends.
func Blackhole(tb testing.TB) string {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	var serving sync.WaitGroup
	ended := make(chan struct{})
	serving.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer func() { _ = conn.Close() }()
				<-ended
			})
		}
	})
	tb.Cleanup(func() {
		_ = l.Close()
		close(ended)
		serving.Wait()
	})
	return l.Addr().String()
}

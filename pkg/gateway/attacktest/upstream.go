package attacktest

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// DefaultUpstreamAddr is where the fixture document expects the backend.
const DefaultUpstreamAddr = "127.0.0.1:18999"

const (
	portWait     = 60 * time.Second // for another test process that holds the fixed port
	idleTimeout  = 2 * time.Minute  // longer than a gateway keeps an idle connection
	readTimeout  = 30 * time.Second // for the rest of a request that has begun
	writeTimeout = 30 * time.Second
	maxDelay     = 20 * time.Second
	maxConns     = 1024
	maxRequests  = 20_000 // requests remembered; the oldest half is forgotten beyond
)

// quiet is how long the backend must have seen nothing before a step is judged,
// settleLimit how long that is waited for.
const (
	quiet       = 15 * time.Millisecond
	settleLimit = 500 * time.Millisecond
)

// Upstream is the backend: it records each request it has read completely and
// echoes it as JSON. The request target's query changes the answer:
//
//	status=N            answer with status N
//	delay=S             wait S seconds first, 20 at most
//	reset=1             reset the connection instead of answering
//	fail=N&id=X         answer 503 to the first N requests that carry this id
//	hdr=Name:%20value   add a response header; may be repeated
//	raw=BASE64URL       answer with these bytes and nothing else
//	close=1             with raw: close the connection afterwards
//
// Answers are otherwise HTTP/1.1 with a Content-Length on a connection that
// stays open.
type Upstream struct {
	listener net.Listener
	done     chan struct{} // closed when the test ends
	wg       sync.WaitGroup

	oneCase sync.Mutex // held while a case runs: its requests are told by time

	mu       sync.Mutex
	conns    map[net.Conn]struct{}
	requests []Request
	dropped  int            // forgotten requests, so that a mark stays valid
	failed   map[string]int // by id: requests with fail= so far
	answered int
	busy     int       // connections with a request begun and not answered
	changed  time.Time // when anything above last changed
}

// Start serves on addr until the test ends; an empty addr means
// [DefaultUpstreamAddr]. Test processes that use the same port take turns.
func Start(tb testing.TB, addr string) *Upstream {
	tb.Helper()
	if addr == "" {
		addr = DefaultUpstreamAddr
	}
	l, err := listen(addr, portWait)
	if err != nil {
		tb.Fatalf("start the recording backend: %v", err)
	}
	u := &Upstream{
		listener: l,
		done:     make(chan struct{}),
		conns:    map[net.Conn]struct{}{},
		failed:   map[string]int{},
		changed:  time.Now(),
	}
	u.wg.Go(u.accept)
	tb.Cleanup(func() {
		u.close()
		u.wg.Wait()
	})
	return u
}

// listen binds addr, waiting while another process has it.
func listen(addr string, patience time.Duration) (net.Listener, error) {
	deadline := time.Now().Add(patience)
	for {
		l, err := net.Listen("tcp", addr)
		if err == nil || !errors.Is(err, syscall.EADDRINUSE) || time.Now().After(deadline) {
			return l, err
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// Addr is the address served, "127.0.0.1:18999".
func (u *Upstream) Addr() string { return u.listener.Addr().String() }

// Mark is a point in time for [Upstream.Since].
func (u *Upstream) Mark() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.dropped + len(u.requests)
}

// Since returns what has been recorded after mark, oldest first.
func (u *Upstream) Since(mark int) []Request {
	u.mu.Lock()
	defer u.mu.Unlock()
	return append([]Request(nil), u.requests[max(0, mark-u.dropped):]...)
}

// Settle waits until no request is under way and nothing has happened for a
// moment, so that a request the gateway sends late still counts for the step
// that caused it. It gives up after half a second: a backend that was told to
// delay its answer has recorded its request long before.
func (u *Upstream) Settle(ctx context.Context) {
	deadline := time.Now().Add(settleLimit)
	poll := time.NewTicker(quiet / 5)
	defer poll.Stop()
	start := time.Now()
	for !u.quietSince(start) && time.Now().Before(deadline) {
		select {
		case <-poll.C:
		case <-ctx.Done():
			return
		}
	}
}

// quietSince reports whether nothing has happened for as long as quiet, counted
// from start at the earliest.
func (u *Upstream) quietSince(start time.Time) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	last := start
	if u.changed.After(start) {
		last = u.changed
	}
	return u.busy == 0 && time.Since(last) >= quiet
}

// close ends the listener, every connection and every delay.
func (u *Upstream) close() {
	u.mu.Lock()
	defer u.mu.Unlock()
	close(u.done)
	_ = u.listener.Close()
	for c := range u.conns {
		_ = c.Close()
	}
}

// accept serves connections until the listener is closed.
func (u *Upstream) accept() {
	for {
		conn, err := u.listener.Accept()
		if err != nil {
			if !u.wait(time.Millisecond) { // else out of file descriptors, perhaps
				return
			}
			continue
		}
		if !u.admit(conn) {
			_ = conn.Close()
			continue
		}
		u.wg.Go(func() {
			defer u.release(conn)
			u.serve(conn)
		})
	}
}

// admit registers conn, unless there are too many or the test is over.
func (u *Upstream) admit(conn net.Conn) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.ended() || len(u.conns) >= maxConns {
		return false
	}
	u.conns[conn] = struct{}{}
	u.changed = time.Now()
	return true
}

// release closes conn and forgets it.
func (u *Upstream) release(conn net.Conn) {
	_ = conn.Close()
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.conns, conn)
}

// serve answers conn's requests in turn until it ends or breaks.
func (u *Upstream) serve(conn net.Conn) {
	br := bufio.NewReader(conn)
	for seq := 0; ; seq++ {
		_ = conn.SetReadDeadline(time.Now().Add(idleTimeout))
		if _, err := br.Peek(1); err != nil {
			return
		}
		if !u.serveOne(conn, br, seq) {
			return
		}
	}
}

// serveOne reads, records and answers one request; false ends the connection.
func (u *Upstream) serveOne(conn net.Conn, br *bufio.Reader, seq int) bool {
	u.note(1)
	defer u.note(-1)
	_ = conn.SetReadDeadline(time.Now().Add(readTimeout))
	req, err := readRequest(br)
	var malformed *malformedError
	if err != nil && !errors.As(err, &malformed) {
		return false
	}
	req.Seq, req.At = seq, time.Now()
	u.record(*req)
	return malformed == nil && u.answer(conn, req)
}

// note counts a request that begins (1) or ends (-1).
func (u *Upstream) note(delta int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.busy += delta
	u.changed = time.Now()
}

// record remembers req.
func (u *Upstream) record(req Request) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.requests) >= maxRequests {
		half := len(u.requests) / 2
		u.dropped += half
		u.requests = append([]Request(nil), u.requests[half:]...)
	}
	u.requests = append(u.requests, req)
}

// answer does what the request's target asks for; false ends the connection.
func (u *Upstream) answer(conn net.Conn, req *Request) bool {
	ask := parseControls(req.Target)
	_ = conn.SetWriteDeadline(time.Now().Add(writeTimeout + ask.delay))
	switch {
	case ask.malformed:
		return false
	case ask.raw != nil:
		_, err := conn.Write(ask.raw)
		return err == nil && !ask.close
	case ask.reset:
		if tcp, ok := conn.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0) // close with RST
		}
		return false
	}
	if !u.wait(ask.delay) {
		return false
	}
	status := ask.status
	if u.mustFail(ask) {
		status = 503
	}
	_, err := conn.Write(u.echo(req, status, ask.header))
	return err == nil
}

// ended reports whether the test is over.
func (u *Upstream) ended() bool {
	select {
	case <-u.done:
		return true
	default:
		return false
	}
}

// wait returns false when the test ended first.
func (u *Upstream) wait(d time.Duration) bool {
	if d <= 0 {
		return !u.ended()
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-u.done:
		return false
	}
}

// mustFail counts a request with fail= and reports whether it is among the first.
func (u *Upstream) mustFail(ask controls) bool {
	if ask.fail == 0 {
		return false
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.failed[ask.id]++
	return u.failed[ask.id] <= ask.fail
}

// echo renders the answer. Cases look for `"body_len": 3`, so the members are
// written with a blank after the colon.
func (u *Upstream) echo(req *Request, status int, header string) []byte {
	u.mu.Lock()
	u.answered++
	n := u.answered
	u.mu.Unlock()

	fields := make([][2]string, len(req.Header))
	for i, f := range req.Header {
		fields[i] = [2]string{f.Name, f.Value}
	}
	body := fmt.Sprintf(`{"upstream": true, "n": %d, "method": %s, "target": %s, "headers": %s, "body_len": %d}`,
		n, jsonText(req.Method), jsonText(req.Target), jsonText(fields), req.BodyLen)
	head := fmt.Sprintf("HTTP/1.1 %d X\r\nContent-Type: application/json\r\n%sContent-Length: %d\r\n\r\n", status, header, len(body))
	if req.Method == "HEAD" {
		return []byte(head)
	}
	return []byte(head + body)
}

// jsonText is v as JSON; v is text, which always has one.
func jsonText(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		return []byte("null")
	}
	return b
}

var (
	controlPair  = regexp.MustCompile(`[?&]([a-z_]+)=([^&]*)`)
	headerEscape = strings.NewReplacer("%3A", ":", "%20", " ", "%3D", "=")
)

// controls is what a request target asks of the backend.
type controls struct {
	status    int
	delay     time.Duration
	reset     bool
	fail      int
	id        string
	header    string // complete lines
	raw       []byte
	close     bool
	malformed bool // a number or a base64 text that is none
}

// parseControls reads the query of target. The last of several equal names
// counts, except for hdr, of which all do.
func parseControls(target string) controls {
	c := controls{status: 200, id: "x"}
	for _, m := range controlPair.FindAllStringSubmatch(target, -1) {
		if err := c.set(m[1], m[2]); err != nil {
			c.malformed = true
		}
	}
	return c
}

// set applies one name and value; names it does not know are the case's own.
func (c *controls) set(name, value string) (err error) {
	switch name {
	case "status":
		c.status, err = strconv.Atoi(value)
	case "delay":
		var s float64
		s, err = strconv.ParseFloat(value, 64)
		c.delay = min(seconds(s), maxDelay)
	case "reset":
		c.reset = true
	case "fail":
		c.fail, err = strconv.Atoi(value)
	case "id":
		c.id = value
	case "hdr":
		c.header += headerEscape.Replace(value) + "\r\n"
	case "raw":
		c.raw, err = base64.RawURLEncoding.DecodeString(strings.TrimRight(value, "="))
	case "close":
		c.close = true
	}
	return err
}

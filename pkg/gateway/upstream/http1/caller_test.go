package http1_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/keywarden/keywarden/pkg/gateway/upstream/http1"
)

// asker is a caller with bounds.
type asker struct {
	deadline time.Time
	idle     time.Duration
	interim  []int
}

func (a *asker) Interim(status int, _ http.Header) { a.interim = append(a.interim, status) }

func (a *asker) Bounds() (time.Time, time.Duration) { return a.deadline, a.idle }

func asking(t *testing.T, a http1.Interim) context.Context {
	return context.WithValue(t.Context(), http1.InterimKey{}, a)
}

// plainInterim bounds nothing.
type plainInterim struct{ to *asker }

func (p plainInterim) Interim(status int, header http.Header) { p.to.Interim(status, header) }

// silentAfter is a service that says text and then nothing, until the client is gone.
func silentAfter(t *testing.T, text string) (addr string, gone chan struct{}) {
	gone = make(chan struct{}, 8)
	addr, _ = raw(t, func(conn net.Conn, _ int, _ *http.Request) bool {
		_, _ = io.WriteString(conn, text)
		_, _ = conn.Read(make([]byte, 1))
		gone <- struct{}{}
		return false
	})
	return addr, gone
}

const half = "HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhello"

func TestBoundsOfTheCallerEndTheExchange(t *testing.T) {
	const short, long = 30 * time.Millisecond, slow
	for name, c := range map[string]struct {
		text           string
		deadline, idle time.Duration
		want           error
	}{
		"deadline at once":              {"", -time.Second, 0, http1.ErrDeadline},
		"deadline before the answer":    {"", short, 0, http1.ErrDeadline},
		"deadline in the header":        {"HTTP/1.1 200 OK\r\nConte", short, 0, http1.ErrDeadline},
		"deadline in the body":          {half, short, 0, http1.ErrDeadline},
		"silence in the body":           {half, 0, short, http1.ErrIdle},
		"silence before the deadline":   {half, time.Hour, short, http1.ErrIdle},
		"deadline before the silence":   {half, short, time.Hour, http1.ErrDeadline},
		"silence longer than one slice": {half, time.Hour, long, http1.ErrIdle},
		"deadline that is not so near":  {half, long, 0, http1.ErrDeadline},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			addr, gone := silentAfter(t, c.text)
			a := &asker{idle: c.idle}
			if c.deadline != 0 {
				a.deadline = time.Now().Add(c.deadline)
			}
			resp, err := newClient(t, addr, nil).RoundTrip(request(t, asking(t, a), addr, "/"))
			if err == nil {
				_, err = io.ReadAll(resp.Body)
				_ = resp.Body.Close()
			}
			if !errors.Is(err, c.want) || errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("got %v, want %v", err, c.want)
			}
			if c.deadline >= 0 {
				<-gone // the service is told
			}
		})
	}
}

// slow is longer than what a connection's deadline is set ahead.
const slow = 700 * time.Millisecond

// An answer that turns out to be a stream may be silent for as long as it likes, and last.
func TestBoundsAreLiftedWhileTheBodyIsRead(t *testing.T) {
	read := make(chan struct{})
	addr, _ := raw(t, func(conn net.Conn, _ int, _ *http.Request) bool {
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
		<-read
		time.Sleep(200 * time.Millisecond) // longer than both bounds
		_, _ = io.WriteString(conn, "world")
		return true
	})
	a := &asker{deadline: time.Now().Add(100 * time.Millisecond), idle: 50 * time.Millisecond}
	resp, err := newClient(t, addr, nil).RoundTrip(request(t, asking(t, a), addr, "/"))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	resp.Body.(http1.Bounded).SetBounds(time.Time{}, 0)
	close(read)
	if text, err := io.ReadAll(resp.Body); err != nil || string(text) != "helloworld" {
		t.Errorf("got %q, %v", text, err)
	}
}

func TestBoundsAreSetWhileTheBodyIsRead(t *testing.T) {
	for want, set := range map[error]func(http1.Bounded){
		http1.ErrDeadline: func(b http1.Bounded) { b.SetBounds(time.Now().Add(20*time.Millisecond), 0) },
		http1.ErrIdle:     func(b http1.Bounded) { b.SetBounds(time.Time{}, 20*time.Millisecond) },
	} {
		addr, _ := silentAfter(t, half)
		resp, err := newClient(t, addr, nil).RoundTrip(request(t, t.Context(), addr, "/"))
		if err != nil {
			t.Fatal(err)
		}
		set(resp.Body.(http1.Bounded))
		if _, err := io.ReadAll(resp.Body); !errors.Is(err, want) {
			t.Errorf("got %v, want %v", err, want)
		}
		_ = resp.Body.Close()
	}
}

// A service that keeps sending is not silent, however long it takes.
func TestServiceThatIsSlowIsNotSilent(t *testing.T) {
	addr, _ := raw(t, func(conn net.Conn, _ int, _ *http.Request) bool {
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n")
		for range 12 {
			time.Sleep(100 * time.Millisecond)
			_, _ = io.WriteString(conn, "x")
		}
		return true
	})
	resp, err := newClient(t, addr, nil).RoundTrip(request(t, asking(t, &asker{idle: slow}), addr, "/"))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if text, err := io.ReadAll(resp.Body); err != nil || len(text) != 12 {
		t.Errorf("got %q, %v", text, err)
	}
}

// The deadlines of an exchange must not reach into the next one on its connection.
func TestBoundsEndWithTheirExchange(t *testing.T) {
	addr, connections := raw(t, func(conn net.Conn, n int, _ *http.Request) bool {
		if n > 0 {
			time.Sleep(100 * time.Millisecond)
		}
		_, _ = io.WriteString(conn, hello)
		return true
	})
	c := newClient(t, addr, nil)
	for i := range 3 {
		ctx := t.Context()
		if i == 0 {
			ctx = asking(t, &asker{deadline: time.Now().Add(80 * time.Millisecond), idle: 80 * time.Millisecond})
		}
		resp, err := c.RoundTrip(request(t, ctx, addr, "/"))
		if err != nil {
			t.Fatal(err)
		}
		if text, err := io.ReadAll(resp.Body); err != nil || string(text) != "hello" {
			t.Errorf("got %q, %v", text, err)
		}
		_ = resp.Body.Close()
	}
	if n := connections.Load(); n != 1 {
		t.Errorf("%d connections", n)
	}
}

func TestInterimAnswersReachTheCaller(t *testing.T) {
	addr, _ := raw(t, func(conn net.Conn, _ int, _ *http.Request) bool {
		_, _ = io.WriteString(conn, "HTTP/1.1 103 Early Hints\r\nLink: <a>\r\n\r\n"+hello)
		return true
	})
	a := &asker{}
	only := plainInterim{a}
	for _, to := range []http1.Interim{a, only} {
		resp, err := newClient(t, addr, nil).RoundTrip(request(t, asking(t, to), addr, "/"))
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
	}
	if len(a.interim) != 2 || a.interim[0] != http.StatusEarlyHints {
		t.Errorf("told of %v", a.interim)
	}
}

// stuck is a connection whose other side takes nothing: its buffers are as small as the
// system makes them.
func stuck(t *testing.T, c *http1.Config) {
	dial := c.Dial
	c.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		if err == nil {
			_ = conn.(*net.TCPConn).SetWriteBuffer(1)
		}
		return conn, err
	}
}

// deaf listens and never reads.
func deaf(t *testing.T) string {
	t.Helper()
	config := net.ListenConfig{}
	l, err := config.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l.Addr().String()
}

func TestWriteThatBlocksEnds(t *testing.T) {
	cause := errors.New("the client is gone")
	// More than the system takes on behalf of a service that reads nothing.
	fill := strings.Repeat("x", 8<<20)
	for name, c := range map[string]struct {
		response, deadline time.Duration
		canceled           bool
		want               func(error) bool
	}{
		"for the time of an answer": {50 * time.Millisecond, 0, false, func(err error) bool {
			var timeout net.Error
			return errors.As(err, &timeout) && timeout.Timeout()
		}},
		"for the deadline": {time.Hour, 50 * time.Millisecond, false, func(err error) bool { return errors.Is(err, http1.ErrDeadline) }},
		"for its context":  {time.Hour, 0, true, func(err error) bool { return errors.Is(err, cause) }},
	} {
		t.Run(name, func(t *testing.T) {
			addr := deaf(t)
			client := newClient(t, addr, func(config *http1.Config) {
				config.ResponseTimeout = c.response
				stuck(t, config)
			})
			a := &asker{}
			if c.deadline > 0 {
				a.deadline = time.Now().Add(c.deadline)
			}
			ctx, cancel := context.WithCancelCause(asking(t, a))
			defer cancel(nil)
			r := request(t, ctx, addr, "/")
			r.Header.Set("X-Fill", fill)
			if c.canceled {
				defer time.AfterFunc(50*time.Millisecond, func() { cancel(cause) }).Stop()
			}
			if _, err := client.RoundTrip(r); !c.want(err) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// Who waits for long watches the context, which must leave nothing behind: neither when it
// ends the wait, nor when the answer comes first.
func TestLongWaitsWatchTheContext(t *testing.T) {
	cause := errors.New("the client is gone")
	addr, connections := raw(t, func(conn net.Conn, _ int, r *http.Request) bool {
		if r.URL.Path == "/never" {
			_, _ = conn.Read(make([]byte, 1))
			return false
		}
		time.Sleep(slow)
		_, _ = io.WriteString(conn, hello[:len(hello)-2])
		time.Sleep(slow)
		_, _ = io.WriteString(conn, hello[len(hello)-2:])
		return true
	})
	c := newClient(t, addr, nil)
	for range 2 {
		ctx, cancel := context.WithCancelCause(t.Context())
		resp, err := c.RoundTrip(request(t, ctx, addr, "/"))
		if err != nil {
			t.Fatal(err)
		}
		if text, err := io.ReadAll(resp.Body); err != nil || string(text) != "hello" {
			t.Errorf("got %q, %v", text, err)
		}
		_ = resp.Body.Close()
		cancel(cause)
	}
	if n := connections.Load(); n != 1 {
		t.Errorf("%d connections", n)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	defer time.AfterFunc(slow, func() { cancel(cause) }).Stop()
	if _, err := c.RoundTrip(request(t, ctx, addr, "/never")); !errors.Is(err, cause) {
		t.Errorf("got %v", err)
	}
}

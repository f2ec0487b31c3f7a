package http1_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"syscall"
	"testing"
	"time"

	"github.com/keywarden/keywarden/pkg/gateway/upstream/http1"
	"github.com/keywarden/keywarden/pkg/header"
	"github.com/keywarden/keywarden/pkg/splice"
)

// readSpliced reads a body by Read until it can be spliced, and by pipes from then on.
// piped is how much of it came so.
func readSpliced(t *testing.T, body io.Reader) (all []byte, piped int, err error) {
	t.Helper()
	source := body.(splice.Source)
	for !source.CanFill() {
		space := make([]byte, 1<<10)
		n, err := body.Read(space)
		all = append(all, space[:n]...)
		if err != nil {
			return all, 0, err
		}
	}
	before := len(all)
	out, sink := socketPair(t)
	received := make(chan []byte)
	go func() {
		rest, _ := io.ReadAll(sink)
		received <- rest
	}()
	err = pump(source, out)
	_ = out.(*net.TCPConn).CloseWrite()
	all = append(all, <-received...)
	return all, len(all) - before, err
}

func pump(source splice.Source, out net.Conn) error {
	var pool splice.Pool
	pipe := pool.Get()
	defer pool.Put(pipe)
	to, err := out.(syscall.Conn).SyscallConn()
	if err != nil {
		return err
	}
	for {
		n, err := source.FillPipe(pipe)
		if n > 0 {
			if _, err := pipe.Drain(to); err != nil {
				return err
			}
		}
		if err != nil {
			return err
		}
	}
}

func socketPair(t *testing.T) (a, b net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if a, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if b, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

const longBody = 1 << 20

var longText = bytes.Repeat([]byte("0123456789abcdef"), longBody/16)

// longAnswer sends so much of it.
func longAnswer(n int, then func(net.Conn)) func(net.Conn, int, *http.Request) bool {
	return func(conn net.Conn, _ int, _ *http.Request) bool {
		_, _ = fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", longBody)
		_, _ = conn.Write(longText[:n])
		if then != nil {
			then(conn)
		}
		return then == nil
	}
}

func TestSplicedBodyIsWholeAndItsConnectionIsUsedAgain(t *testing.T) {
	addr, connections := raw(t, longAnswer(longBody, nil))
	c := newClient(t, addr, nil)
	for range 3 {
		resp, err := c.RoundTrip(request(t, t.Context(), addr, "/"))
		if err != nil {
			t.Fatal(err)
		}
		got, piped, err := readSpliced(t, resp.Body)
		if !errors.Is(err, io.EOF) || !bytes.Equal(got, longText) {
			t.Fatalf("%d bytes, or others than were sent: %v", len(got), err)
		}
		if piped < longBody/2 {
			t.Errorf("only %d bytes were spliced", piped)
		}
		_ = resp.Body.Close()
	}
	if n := connections.Load(); n != 1 {
		t.Errorf("%d connections", n)
	}
}

func TestSplicedBodyThatEndsBadlyIsAnError(t *testing.T) {
	wait := func(conn net.Conn) { _, _ = conn.Read(make([]byte, 1)) }
	for name, c := range map[string]struct {
		then           func(net.Conn)
		deadline, idle time.Duration
		cancel         bool
		want           error
	}{
		"the service ends it":    {func(net.Conn) {}, 0, 0, false, io.ErrUnexpectedEOF},
		"the service is silent":  {wait, 0, 30 * time.Millisecond, false, http1.ErrIdle},
		"the time is over":       {wait, 200 * time.Millisecond, 0, false, http1.ErrDeadline},
		"nobody wants it longer": {wait, 0, 0, true, errNobody},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			addr, _ := raw(t, longAnswer(longBody/2, c.then))
			a := &asker{idle: c.idle}
			if c.deadline > 0 {
				a.deadline = time.Now().Add(c.deadline)
			}
			ctx, cancel := context.WithCancelCause(asking(t, a))
			defer cancel(nil)
			resp, err := newClient(t, addr, nil).RoundTrip(request(t, ctx, addr, "/"))
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if c.cancel {
				time.AfterFunc(10*time.Millisecond, func() { cancel(errNobody) })
			}
			if got, _, err := readSpliced(t, resp.Body); !errors.Is(err, c.want) || !bytes.Equal(got, longText[:len(got)]) {
				t.Errorf("after %d bytes %v, want %v", len(got), err, c.want)
			}
			if n, err := resp.Body.Read(make([]byte, 1)); n != 0 || err == nil {
				t.Error("it can be read after its end")
			}
		})
	}
}

var errNobody = errors.New("nobody wants it")

// What is not of known length, or is here already, is not the kernel's to move.
func TestBodiesThatAreNotSpliced(t *testing.T) {
	for name, text := range map[string]string{
		"short":         "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n",
		"in chunks":     "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n100000\r\n",
		"without end":   "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n",
		"not yet taken": "HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\nx",
	} {
		addr, _ := silentAfter(t, text)
		resp, err := newClient(t, addr, nil).RoundTrip(request(t, t.Context(), addr, "/"))
		if err != nil {
			t.Fatal(err)
		}
		if resp.Body.(splice.Source).CanFill() {
			t.Errorf("%s: it is spliced", name)
		}
		_ = resp.Body.Close()
	}
}

// taker has the header of the answer as a list.
type taker struct {
	asker
	want   bool
	fields header.List
}

func (k *taker) Take(fields header.List) bool { k.fields = fields; return k.want }
func (k *taker) Taken() header.List           { return k.fields }

func TestHeaderIsAListForThoseWhoTakeIt(t *testing.T) {
	const text = "HTTP/1.1 200 OK\r\nX-A: 1\r\nContent-Length: 0\r\nx-a: 2\r\nContent-Length: 0\r\n\r\n"
	for _, want := range []bool{true, false} {
		addr, _ := raw(t, func(conn net.Conn, _ int, _ *http.Request) bool {
			_, err := io.WriteString(conn, text)
			return err == nil
		})
		k := &taker{want: want}
		resp, err := newClient(t, addr, nil).RoundTrip(request(t, asking(t, k), addr, "/"))
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if (resp.Header == nil) != want || http1.FieldOf(resp, "X-A") != "1" || http1.FieldOf(resp, "X-B") != "" {
			t.Errorf("taken %t: header %v", want, resp.Header)
		}
		if got := fmt.Sprint(k.fields); got != "[{X-A 1} {Content-Length 0} {X-A 2}]" {
			t.Errorf("the list is %s", got)
		}
	}
}

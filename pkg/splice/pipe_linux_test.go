package splice

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"syscall"
	"testing"
	"time"
)

// pair is a TCP connection from both of its ends.
func pair(t *testing.T) (near, far *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	a, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	b, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	for _, c := range []net.Conn{a, b} {
		if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	return a.(*net.TCPConn), b.(*net.TCPConn)
}

func raw(t *testing.T, c *net.TCPConn) syscall.RawConn {
	t.Helper()
	r, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func take(t *testing.T, p *Pool) *Pipe {
	t.Helper()
	pipe := p.Get()
	if pipe == nil {
		t.Fatal("there is no pipe")
	}
	return pipe
}

func TestPipeMovesAllBytesInTheirOrder(t *testing.T) {
	var pool Pool
	from, service := pair(t)
	to, client := pair(t)
	sent := make([]byte, 3<<20+17)
	for i := range sent {
		sent[i] = byte(rand.Uint32())
	}
	go func() {
		for rest := sent; len(rest) > 0; {
			n := min(len(rest), 1+rand.IntN(200<<10))
			_, _ = service.Write(rest[:n])
			rest = rest[n:]
		}
		_ = service.CloseWrite()
	}()
	received := make(chan []byte)
	go func() {
		all, _ := io.ReadAll(client)
		received <- all
	}()
	pipe := take(t, &pool)
	total := 0
	for {
		n, err := pipe.Fill(raw(t, from), int64(1+rand.IntN(2*Size)))
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil || n == 0 || n != pipe.Held() || n > pipe.Size() {
			t.Fatalf("filled with %d of %d, %d held: %v", n, pipe.Size(), pipe.Held(), err)
		}
		if m, err := pipe.Drain(raw(t, to)); m != n || err != nil || pipe.Held() != 0 {
			t.Fatalf("drained %d of %d, %d left: %v", m, n, pipe.Held(), err)
		}
		total += n
	}
	pool.Put(pipe)
	_ = to.CloseWrite()
	if got := <-received; total != len(sent) || !bytes.Equal(got, sent) {
		t.Fatalf("%d bytes moved and %d received of %d, or others", total, len(got), len(sent))
	}
}

func TestFillTakesNoMoreThanItMay(t *testing.T) {
	var pool Pool
	from, service := pair(t)
	if _, err := service.Write([]byte("answer, next")); err != nil {
		t.Fatal(err)
	}
	pipe := take(t, &pool)
	if n, err := pipe.Fill(raw(t, from), 6); n != 6 || err != nil {
		t.Fatalf("%d, %v", n, err)
	}
	rest := make([]byte, 6)
	if _, err := io.ReadFull(from, rest); err != nil || string(rest) != ", next" {
		t.Fatalf("%q, %v", rest, err)
	}
	pool.Put(pipe)
}

func TestFillEndsAtTheDeadlineWithNothingTaken(t *testing.T) {
	var pool Pool
	from, service := pair(t)
	pipe := take(t, &pool)
	_ = from.SetReadDeadline(time.Now().Add(time.Millisecond))
	if n, err := pipe.Fill(raw(t, from), 10); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("%d, %v", n, err)
	}
	_ = from.SetReadDeadline(time.Now().Add(20 * time.Second))
	if _, err := service.Write([]byte("later")); err != nil {
		t.Fatal(err)
	}
	if n, err := pipe.Fill(raw(t, from), 10); n != 5 || err != nil {
		t.Fatalf("%d, %v", n, err)
	}
	pool.Put(pipe)
}

// What is left in a pipe would be a part of one answer in another.
func TestPipeThatHoldsSomethingIsNotUsedAgain(t *testing.T) {
	var pool Pool
	from, service := pair(t)
	to, client := pair(t)
	_ = to.SetLinger(0)
	for _, what := range []string{"held", "broken"} {
		if _, err := service.Write([]byte("secret")); err != nil {
			t.Fatal(err)
		}
		pipe := take(t, &pool)
		if _, err := pipe.Fill(raw(t, from), 6); err != nil {
			t.Fatal(err)
		}
		if what == "broken" {
			client.Close()
			to.Close()
			if _, err := pipe.Drain(raw(t, to)); err == nil {
				t.Fatal("a closed connection has taken it")
			}
		}
		pool.Put(pipe)
		if next := take(t, &pool); next == pipe || next.Held() != 0 {
			t.Errorf("%s: it was given out again", what)
		}
	}
}

func TestPipesInUseAreBounded(t *testing.T) {
	var pool Pool
	var out []*Pipe
	for range maxPipes {
		out = append(out, take(t, &pool))
	}
	if pool.Get() != nil {
		t.Fatal("one more than there may be")
	}
	pool.Put(out[0])
	take(t, &pool)
}

func TestRefusedPoolHasNoPipes(t *testing.T) {
	var pool Pool
	pool.Refuse()
	if pool.Get() != nil {
		t.Fatal("there is one")
	}
}

func TestClosedPipesLeaveNoDescriptor(t *testing.T) {
	var pool Pool
	from, service := pair(t)
	before := descriptors(t)
	for range 100 {
		if _, err := service.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		pipe := take(t, &pool)
		if _, err := pipe.Fill(raw(t, from), 1); err != nil {
			t.Fatal(err)
		}
		pool.Put(pipe) // with something in it
	}
	if after := descriptors(t); after > before {
		t.Fatalf("%d descriptors, %d before", after, before)
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func BenchmarkPipe(b *testing.B) {
	var pool Pool
	pipe := pool.Get()
	left, right := make(chan *net.TCPConn, 2), make(chan *net.TCPConn, 2)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	for range 2 {
		a, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			b.Fatal(err)
		}
		c, err := l.Accept()
		if err != nil {
			b.Fatal(err)
		}
		left <- a.(*net.TCPConn)
		right <- c.(*net.TCPConn)
	}
	from, to, service, client := <-left, <-left, <-right, <-right
	go func() {
		space := make([]byte, 64<<10)
		for {
			if _, err := service.Write(space); err != nil {
				return
			}
		}
	}()
	go func() { _, _ = io.Copy(io.Discard, client) }()
	defer func() { service.Close(); client.Close(); from.Close(); to.Close() }()
	in, _ := from.SyscallConn()
	out, _ := to.SyscallConn()
	b.SetBytes(64 << 10)
	for b.Loop() {
		for left := int64(64 << 10); left > 0; {
			n, err := pipe.Fill(in, left)
			if err != nil {
				b.Fatal(err)
			}
			if _, err := pipe.Drain(out); err != nil {
				b.Fatal(err)
			}
			left -= int64(n)
		}
	}
}

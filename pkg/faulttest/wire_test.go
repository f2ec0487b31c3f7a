package faulttest_test

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/keywarden/keywarden/pkg/faulttest"
)

// patience bounds what must happen.
const patience = 20 * time.Second

// echo is a server that sends back what it gets, at an address of the network.
func echo(t *testing.T, network, address string) string {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer func() { _ = conn.Close() }()
				_, _ = io.Copy(conn, conn)
			})
		}
	})
	t.Cleanup(func() { _ = l.Close(); serving.Wait() })
	return l.Addr().String()
}

func wired(t *testing.T) *faulttest.Wire {
	t.Helper()
	return faulttest.New(t, "tcp", echo(t, "tcp", "127.0.0.1:0"))
}

func dial(t *testing.T, w *faulttest.Wire) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", w.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	return conn
}

func say(t *testing.T, conn net.Conn, word string) {
	t.Helper()
	if _, err := io.WriteString(conn, word); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(word))
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != word {
		t.Fatalf("said %q, got %q, %v", word, got, err)
	}
}

func TestAWireWithoutAFaultChangesNothing(t *testing.T) {
	w := wired(t)
	all := bytes.Repeat([]byte("0123456789abcdef"), 100_000)
	conn := dial(t, w)
	var sending sync.WaitGroup
	sending.Go(func() { _, _ = conn.Write(all) })
	got := make([]byte, len(all))
	if _, err := io.ReadFull(conn, got); err != nil || !bytes.Equal(got, all) {
		t.Errorf("%v, the same: %t", err, bytes.Equal(got, all))
	}
	sending.Wait()
	dial(t, w)
	if w.Dialled() < 1 || w.Most() < 1 {
		t.Errorf("%d dialled, at most %d at once", w.Dialled(), w.Most())
	}
}

// Latency is not bandwidth: pieces that follow one another come late together.
func TestDelayedAnswersComeLateAndWhole(t *testing.T) {
	const delay = 150 * time.Millisecond
	w := wired(t)
	w.Set(faulttest.Fault{Delay: delay})
	conn := dial(t, w)
	began := time.Now()
	say(t, conn, strings.Repeat("x", 200_000))
	if took := time.Since(began); took < delay {
		t.Errorf("an answer after %v", took)
	}
	w.Set(faulttest.Fault{Delay: time.Hour})
	if _, err := io.WriteString(conn, "word"); err != nil {
		t.Fatal(err)
	}
	w.Set(faulttest.Fault{}) // what is under way comes at once
	if _, err := io.ReadFull(conn, make([]byte, 4)); err != nil {
		t.Error(err)
	}
}

func TestThrottledAnswersComeSlowly(t *testing.T) {
	w := wired(t)
	w.Set(faulttest.Fault{Rate: 10_000})
	began := time.Now()
	say(t, dial(t, w), strings.Repeat("x", 2_000))
	if took := time.Since(began); took < 150*time.Millisecond {
		t.Errorf("2,000 bytes at 10,000 a second took %v", took)
	}
}

func TestAnswersAreCutShort(t *testing.T) {
	for name, c := range map[string]struct {
		reset bool
		err   error
	}{"in order": {false, io.EOF}, "by a reset": {true, syscall.ECONNRESET}} {
		t.Run(name, func(t *testing.T) {
			w := wired(t)
			w.Set(faulttest.Fault{After: 5, Reset: c.reset})
			conn := dial(t, w)
			say(t, conn, "12345")
			_, _ = io.WriteString(conn, "6")
			if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, c.err) {
				t.Errorf("the end is %v, want %v", err, c.err)
			}
		})
	}
}

func TestSwallowedBytesComeWhenTheFaultEnds(t *testing.T) {
	w := wired(t)
	conn := dial(t, w)
	say(t, conn, "before")
	w.Set(faulttest.Fault{Swallow: true})
	if _, err := io.WriteString(conn, "meanwhile"); err != nil {
		t.Fatal(err)
	}
	_ = conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if n, err := conn.Read(make([]byte, 1)); err == nil {
		t.Fatalf("%d bytes came", n)
	}
	_ = conn.SetDeadline(time.Now().Add(patience))
	w.Set(faulttest.Fault{})
	if got, err := bufio.NewReader(conn).Peek(9); err != nil || string(got) != "meanwhile" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestARefusingWireEndsWhatThereIs(t *testing.T) {
	w := wired(t)
	conn := dial(t, w)
	say(t, conn, "before")
	w.Set(faulttest.Fault{Refuse: true})
	if _, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the connection goes on: %v", err)
	}
	if other, err := net.Dial("tcp", w.Addr()); err == nil { // it may be reset before it is there
		defer func() { _ = other.Close() }()
		_ = other.SetDeadline(time.Now().Add(patience))
		if _, err := other.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("there is a new connection: %v", err)
		}
	}
	w.Set(faulttest.Fault{})
	say(t, dial(t, w), "after")
}

// A text is found also where it is cut in two.
func TestWatchedTextsAreCounted(t *testing.T) {
	w := wired(t)
	w.Watch("needle")
	conn := dial(t, w)
	for _, piece := range []string{"a needle, a nee", "dle, and no nee", "d for more; nn", "needle", "needle"} {
		say(t, conn, piece)
	}
	if n := w.Seen("needle"); n != 4 {
		t.Errorf("seen %d times, want 4", n)
	}
}

func TestURLsOfSocketsAndPortsAreUnderstood(t *testing.T) {
	folder := t.TempDir()
	echo(t, "unix", filepath.Join(folder, ".s.PGSQL.5432"))
	echo(t, "unix", filepath.Join(folder, "redis"))
	port := echo(t, "tcp", "127.0.0.1:0")
	for address, want := range map[string]string{
		"postgres://role@/name?host=" + folder + "&port=5432&sslmode=disable": "postgres://role@ADDR/name?sslmode=disable",
		"postgres://role:word@" + port + "/name":                              "postgres://role:word@ADDR/name",
		"unix://" + folder + "/redis?db=0":                                    "redis://ADDR/0",
		"redis://" + port + "/3":                                              "redis://ADDR/3",
	} {
		w, near := faulttest.ToURL(t, address)
		if want = strings.ReplaceAll(want, "ADDR", w.Addr()); near != want {
			t.Errorf("%s becomes %s, want %s", address, near, want)
		}
		say(t, dial(t, w), "hello")
	}
}

package front_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"testing"

	"github.com/keywarden/keywarden/pkg/httpserver"
	"github.com/keywarden/keywarden/pkg/splice"
)

// piped answers with text that is moved by the kernel, a part of it apart, and notes whether
// it could be.
type piped struct {
	t        *testing.T
	text     []byte
	declared int
	can      chan bool
	err      chan error
}

func (h *piped) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	sink := w.(splice.Sink)
	if sink.CanDrain() {
		h.t.Error("it may be spliced before the header")
	}
	w.Header().Set("Content-Type", "a/b")
	if h.declared > 0 {
		w.Header().Set("Content-Length", strconv.Itoa(h.declared))
	}
	const first = 100
	_, _ = w.Write(h.text[:first])
	h.can <- sink.CanDrain()
	if !sink.CanDrain() {
		_, _ = w.Write(h.text[first:])
		return
	}
	h.err <- h.drain(sink, h.text[first:])
}

// drain gives text to sink by way of a socket and a pipe.
func (h *piped) drain(sink splice.Sink, text []byte) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer l.Close()
	out, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		return err
	}
	defer out.Close()
	in, err := l.Accept()
	if err != nil {
		return err
	}
	defer in.Close()
	go func() {
		_, _ = out.Write(text)
		_ = out.(*net.TCPConn).CloseWrite()
	}()
	from, err := in.(*net.TCPConn).SyscallConn()
	if err != nil {
		return err
	}
	var pool splice.Pool
	pipe := pool.Get()
	defer func() { pool.Put(pipe) }()
	for {
		if _, err := pipe.Fill(from, int64(len(text))); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if _, err := sink.DrainPipe(pipe); err != nil {
			return err
		}
	}
}

func TestSplicedAnswerIsWhole(t *testing.T) {
	server, client := certificate(t)
	for name, c := range map[string]struct {
		tls, sized, can bool
	}{
		"with a length":    {false, true, true},
		"without a length": {false, false, false},
		"over TLS":         {true, true, false},
	} {
		h := &piped{t: t, text: content(300_000), can: make(chan bool, 1), err: make(chan error, 1)}
		if c.sized {
			h.declared = len(h.text)
		}
		config := client
		addr := serve(t, true, h, func(o *httpserver.Options) {
			if c.tls {
				o.TLS = server
			}
		})
		if !c.tls {
			config = nil
		}
		got := answers(talkTLS(t, addr, config, []byte("GET / HTTP/1.1\r\nHost: a\r\n\r\n")))
		if len(got) != 1 || !bytes.Equal([]byte(got[0].body), h.text) {
			t.Errorf("%s: another answer, or none", name)
		}
		if can := <-h.can; can != c.can {
			t.Errorf("%s: it can be spliced: %t", name, can)
		} else if can {
			if err := <-h.err; err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

func TestSpliceKeepsToTheDeclaredLength(t *testing.T) {
	h := &piped{t: t, text: content(300_000), declared: 1000, can: make(chan bool, 1), err: make(chan error, 1)}
	got := answers(talk(t, serve(t, true, h), []byte("GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n")))
	if err := <-h.err; !errors.Is(err, http.ErrContentLength) {
		t.Errorf("the handler was told %v", err)
	}
	if len(got) != 1 || len(got[0].body) != 100 {
		t.Errorf("%d answers, the first with %d bytes", len(got), len(got[0].body))
	}
}

package front_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/textproto"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/keywarden/keywarden/pkg/httpserver"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience ends a test that would hang; nothing is measured against it.
const patience = 30 * time.Second

// serve starts a server and returns its address.
func serve(t *testing.T, front bool, h http.Handler, change ...func(*httpserver.Options)) string {
	t.Helper()
	o := httpserver.Options{Addr: "127.0.0.1:0", Handler: h, Logger: slog.New(slog.DiscardHandler), Front: front}
	for _, c := range change {
		c(&o)
	}
	srv, err := httpserver.New(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := srv.Listen(); err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve() }()
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_ = srv.Shutdown(ctx)
		if err := <-served; err != nil && err != http.ErrServerClosed { //nolint:errorlint // it comes unwrapped
			t.Error(err)
		}
	})
	return srv.Addr().String()
}

// servedByFront reports whether the front itself answers.
func servedByFront(w http.ResponseWriter) bool {
	return strings.Contains(fmt.Sprintf("%T", w), "front.")
}

// counted counts which requests were answered by the front.
type counted struct {
	http.Handler
	front, other atomic.Int64
}

func (c *counted) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if servedByFront(w) {
		c.front.Add(1)
	} else {
		c.other.Add(1)
	}
	c.Handler.ServeHTTP(w, r)
}

func dial(t *testing.T, addr string) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	return c.(*net.TCPConn)
}

// talk sends the pieces, says that there is no more, and returns all that comes back.
func talk(t *testing.T, addr string, pieces ...[]byte) []byte {
	t.Helper()
	return talkTLS(t, addr, nil, pieces...)
}

// talkTLS is talk over TLS, if config is not nil.
func talkTLS(t *testing.T, addr string, config *tls.Config, pieces ...[]byte) []byte {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	if config != nil {
		c = tls.Client(c, config)
	}
	for _, p := range pieces {
		if _, err := c.Write(p); err != nil {
			break // it was closed
		}
	}
	_ = c.(interface{ CloseWrite() error }).CloseWrite()
	got, err := io.ReadAll(c)
	if err, ok := err.(net.Error); ok && err.Timeout() { //nolint:errorlint // it comes from the connection itself
		t.Errorf("the connection stays open after %q", pieces)
	}
	return got
}

// answer is one answer as it was on the connection.
type answer struct {
	line     string
	fields   []string // sorted; Date says that it is now
	body     string
	trailers []string // sorted
	whole    bool
}

func (a answer) String() string {
	return fmt.Sprintf("%s\n%s\n%d bytes %.200q\n%s\nwhole: %t", a.line, strings.Join(a.fields, "\n"), len(a.body), a.body, strings.Join(a.trailers, "\n"), a.whole)
}

// answers reads the answers to requests with these methods; there may be fewer. What is
// no answer is the body of a last one.
func answers(b []byte, methods ...string) []answer {
	in := bufio.NewReader(bytes.NewReader(b))
	var out []answer
	for i := 0; ; {
		line, ok := lineOf(in)
		if !ok && line == "" {
			return out
		}
		a := answer{line: line, whole: true}
		a.fields = block(in)
		method := ""
		if i < len(methods) {
			method = methods[i]
		}
		status, _ := strconv.Atoi(strings.SplitN(a.line+"  ", " ", 3)[1])
		if status >= 200 {
			i++
		}
		a.readBody(in, method, status)
		for i, f := range a.fields {
			if value, ok := strings.CutPrefix(f, "Date: "); ok {
				if at, err := http.ParseTime(value); err == nil && time.Since(at).Abs() < time.Hour {
					a.fields[i] = "Date: now"
				}
			}
		}
		out = append(out, a)
	}
}

func (a *answer) readBody(in *bufio.Reader, method string, status int) {
	get := func(name string) string {
		for _, f := range a.fields {
			if n, v, _ := strings.Cut(f, ": "); n == name {
				return v
			}
		}
		return ""
	}
	length, err := strconv.Atoi(get("Content-Length"))
	switch {
	case status < 200 || status == 204 || status == 304 || method == http.MethodHead:
	case strings.HasSuffix(get("Transfer-Encoding"), "chunked"):
		a.whole = false
		for {
			line, ok := lineOf(in)
			n, err := strconv.ParseInt(line, 16, 32)
			if !ok || err != nil {
				return
			}
			if n == 0 {
				a.trailers, a.whole = block(in), true
				return
			}
			piece := make([]byte, n)
			m, err := io.ReadFull(in, piece)
			a.body += string(piece[:m])
			if err != nil {
				return
			}
			_, _ = in.Discard(2)
		}
	case err == nil:
		piece := make([]byte, length)
		n, err := io.ReadFull(in, piece)
		a.body, a.whole = string(piece[:n]), err == nil
	default:
		rest, _ := io.ReadAll(in)
		a.body = string(rest)
	}
}

func lineOf(in *bufio.Reader) (string, bool) {
	line, err := in.ReadString('\n')
	return textproto.TrimString(line), err == nil
}

func block(in *bufio.Reader) []string {
	var out []string
	for {
		line, ok := lineOf(in)
		if line == "" || !ok {
			slices.Sort(out)
			return out
		}
		out = append(out, line)
	}
}

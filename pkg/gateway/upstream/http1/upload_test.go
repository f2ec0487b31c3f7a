package http1_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/keywarden/keywarden/pkg/gateway/upstream/http1"
)

// digest answers with the digest of the body.
func digest(conn net.Conn, r *http.Request) bool {
	sum := sha256.New()
	if _, err := io.Copy(sum, r.Body); err != nil {
		return false
	}
	_, err := fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: 64\r\n\r\n%x", sum.Sum(nil))
	return err == nil
}

// long is a request with a body of size bytes that comes from body.
func long(t *testing.T, ctx context.Context, addr string, body io.Reader, size int) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+addr+"/", io.NopCloser(body))
	if err != nil {
		t.Fatal(err)
	}
	r.ContentLength = int64(size)
	return r
}

func TestLongBodiesArrive(t *testing.T) {
	plain, plainConnections := raw(t, func(conn net.Conn, _ int, r *http.Request) bool { return digest(conn, r) })
	secure, roots, secureConnections := tlsService(t, tls.VersionTLS13, digest)
	for _, c := range []struct {
		addr        string
		client      *http1.Client
		connections func() int64
	}{
		{plain, newClient(t, plain, nil), plainConnections.Load},
		{secure, tlsClient(t, secure, roots, nil), secureConnections.Load},
	} {
		for _, size := range []int{http1.MaxBody + 1, 32 << 10, 100_000, 4 << 20} {
			body := make([]byte, size)
			_, _ = rand.Read(body)
			resp, err := c.client.RoundTrip(long(t, t.Context(), c.addr, bytes.NewReader(body), size))
			if err != nil {
				t.Fatal(err)
			}
			sum := sha256.Sum256(body)
			if text, err := io.ReadAll(resp.Body); err != nil || string(text) != hex.EncodeToString(sum[:]) {
				t.Errorf("%d bytes: %s, %v", size, text, err)
			}
			_ = resp.Body.Close()
		}
		if n := c.connections(); n != 1 {
			t.Errorf("%d connections, want 1", n)
		}
	}
}

// A service may answer while the client is silent, and the client then hears of it. What
// is left of the body is nobody's, and the connection neither.
func TestAnswerBeforeTheBodyIsThere(t *testing.T) {
	addr, connections := raw(t, func(conn net.Conn, _ int, r *http.Request) bool {
		_, _ = io.ReadFull(r.Body, make([]byte, 10))
		_, _ = io.WriteString(conn, "HTTP/1.1 413 Content Too Large\r\nContent-Length: 5\r\n\r\nhello")
		_, _ = io.Copy(io.Discard, r.Body)
		return true
	})
	c := newClient(t, addr, nil)
	for range 2 {
		body, client := io.Pipe()
		wrote := make(chan struct{})
		go func() {
			defer close(wrote)
			_, _ = client.Write(make([]byte, 20_000)) // of more, which never comes
		}()
		resp, err := c.RoundTrip(long(t, t.Context(), addr, body, 1<<20))
		if err != nil {
			t.Fatal(err)
		}
		if text, err := io.ReadAll(resp.Body); err != nil || string(text) != "hello" || resp.StatusCode != http.StatusRequestEntityTooLarge {
			t.Errorf("got %d %q, %v", resp.StatusCode, text, err)
		}
		_ = resp.Body.Close()
		_ = client.Close() // the end of the client
		<-wrote
	}
	if n := connections.Load(); n != 2 {
		t.Errorf("%d connections for two half requests", n)
	}
}

// A service that answers as it reads does not stop the client, nor the client the service.
func TestBothDirectionsAtATime(t *testing.T) {
	const size = 8 << 20
	addr, connections := raw(t, func(conn net.Conn, _ int, r *http.Request) bool {
		_, _ = fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", size)
		_, err := io.Copy(conn, r.Body)
		return err == nil
	})
	c := newClient(t, addr, nil)
	for range 2 {
		body := make([]byte, size)
		_, _ = rand.Read(body)
		resp, err := c.RoundTrip(long(t, t.Context(), addr, bytes.NewReader(body), size))
		if err != nil {
			t.Fatal(err)
		}
		if back, err := io.ReadAll(resp.Body); err != nil || !bytes.Equal(back, body) {
			t.Errorf("%d bytes came back, %v", len(back), err)
		}
		_ = resp.Body.Close()
	}
	if n := connections.Load(); n != 1 {
		t.Errorf("%d connections, want 1", n)
	}
}

var errClient = errors.New("the client broke off")

// broken ends with an error.
type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errClient }

func TestLongBodyThatFailsEndsTheExchange(t *testing.T) {
	for name, c := range map[string]struct {
		body io.Reader
		want error
	}{
		"at once":      {broken{}, errClient},
		"later":        {io.MultiReader(strings.NewReader(strings.Repeat("x", 100_000)), broken{}), errClient},
		"it is short":  {strings.NewReader(strings.Repeat("x", 100_000)), io.ErrUnexpectedEOF},
		"it is long":   {strings.NewReader(strings.Repeat("x", 200_001)), nil},
		"with nothing": {strings.NewReader(""), io.ErrUnexpectedEOF},
	} {
		t.Run(name, func(t *testing.T) {
			whole := make(chan bool, 1)
			addr, _ := raw(t, func(_ net.Conn, _ int, r *http.Request) bool {
				n, err := io.Copy(io.Discard, r.Body)
				whole <- err == nil && n == 200_000
				return false
			})
			_, err := newClient(t, addr, nil).RoundTrip(long(t, t.Context(), addr, c.body, 200_000))
			if err == nil || c.want != nil && !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
			select {
			case all := <-whole:
				if all {
					t.Error("the service took it for the whole")
				}
			default: // it was not asked
			}
		})
	}
}

func TestServiceThatTakesNothingOfALongBody(t *testing.T) {
	cause := errors.New("the client is gone")
	const size = 32 << 20 // more than the system takes on its behalf
	for name, c := range map[string]struct {
		response time.Duration
		asker    asker
		canceled bool
		want     func(error) bool
	}{
		"for the time of an answer": {50 * time.Millisecond, asker{}, false, func(err error) bool {
			var timeout net.Error
			return errors.As(err, &timeout) && timeout.Timeout()
		}},
		"for its silence":  {time.Hour, asker{idle: 50 * time.Millisecond}, false, func(err error) bool { return errors.Is(err, http1.ErrIdle) }},
		"for the deadline": {time.Hour, asker{deadline: time.Now().Add(200 * time.Millisecond)}, false, func(err error) bool { return errors.Is(err, http1.ErrDeadline) }},
		"for its context":  {time.Hour, asker{}, true, func(err error) bool { return errors.Is(err, cause) }},
	} {
		t.Run(name, func(t *testing.T) {
			addr := deaf(t)
			client := newClient(t, addr, func(config *http1.Config) { config.ResponseTimeout = c.response })
			ctx, cancel := context.WithCancelCause(asking(t, &c.asker))
			defer cancel(nil)
			if c.canceled {
				defer time.AfterFunc(50*time.Millisecond, func() { cancel(cause) }).Stop()
			}
			_, err := client.RoundTrip(long(t, ctx, addr, bytes.NewReader(make([]byte, size)), size))
			if !c.want(err) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// A client may take longer for its body than the service may for its answer.
func TestTimeOfTheAnswerBeginsAfterTheBody(t *testing.T) {
	for silent, want := range map[bool]bool{false: false, true: true} {
		addr, _ := raw(t, func(conn net.Conn, _ int, r *http.Request) bool {
			_, _ = io.Copy(io.Discard, r.Body)
			if silent {
				_, _ = conn.Read(make([]byte, 1))
				return false
			}
			_, _ = io.WriteString(conn, hello)
			return true
		})
		c := newClient(t, addr, func(c *http1.Config) { c.ResponseTimeout = slow / 2 })
		body := io.MultiReader(strings.NewReader(strings.Repeat("x", 50_000)), pause(slow), strings.NewReader(strings.Repeat("x", 50_000)))
		resp, err := c.RoundTrip(long(t, t.Context(), addr, body, 100_000))
		if err == nil {
			_ = resp.Body.Close()
		}
		var timeout net.Error
		late := errors.As(err, &timeout) && timeout.Timeout()
		if (err != nil) != want || late != want {
			t.Errorf("silent %t: %v", silent, err)
		}
	}
}

// pause is a part of a body that takes its time.
type pause time.Duration

func (p pause) Read([]byte) (int, error) { time.Sleep(time.Duration(p)); return 0, io.EOF }

// The connection may end while the client takes its time for the first piece, and there
// may be no other: then the body is there for another address.
func TestLongBodyIsThereWhenThereIsNoConnection(t *testing.T) {
	var first, ours net.Conn
	gone := make(chan struct{})
	addr, _ := raw(t, func(conn net.Conn, _ int, _ *http.Request) bool {
		first = conn
		_, _ = io.WriteString(conn, hello)
		return true
	})
	c := newClient(t, addr, func(c *http1.Config) {
		dial := c.Dial
		c.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
			select {
			case <-gone:
				return nil, errors.New("no connection any more")
			default:
			}
			conn, err := dial(ctx, network, addr)
			ours = conn
			return conn, err
		}
	})
	if _, err := fetch(t, c, addr, "/"); err != nil {
		t.Fatal(err)
	}
	text := strings.Repeat("x", 50_000) + strings.Repeat("y", 50_000)
	r := long(t, t.Context(), addr, io.MultiReader(after{func() {
		close(gone)
		_ = first.Close()
		_, _ = ours.Read(make([]byte, 1))
	}}, strings.NewReader(text)), len(text))
	if _, err := c.RoundTrip(r); err == nil {
		t.Fatal("an answer without a connection")
	}
	if body, err := io.ReadAll(r.Body); err != nil || string(body) != text {
		t.Errorf("%d bytes are left of the body, %v", len(body), err)
	}
}

package loadtest

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

// Conn is a client of HTTP/1.1 on a connection that is kept. Unlike net/http's it
// never sends anything twice. It is for one goroutine at a time.
type Conn struct {
	addr    string
	timeout time.Duration // of one exchange
	conn    net.Conn
	in      *bufio.Reader
}

// NewConn is a client of the address; it connects with the first request.
func NewConn(addr string, timeout time.Duration) *Conn { return &Conn{addr: addr, timeout: timeout} }

// Exchange sends the bytes of one request and reads the whole answer. After an
// error, and where the server says so, the next request has a new connection.
func (c *Conn) Exchange(ctx context.Context, request []byte) (status int, body []byte, err error) {
	defer func() {
		if err != nil {
			c.Close()
		}
	}()
	if c.conn == nil {
		dialer := net.Dialer{Timeout: c.timeout}
		if c.conn, err = dialer.DialContext(ctx, "tcp", c.addr); err != nil {
			c.conn = nil
			return 0, nil, err
		}
		c.in = bufio.NewReaderSize(c.conn, 4<<10)
	}
	if err := c.conn.SetDeadline(time.Now().Add(c.timeout)); err != nil {
		return 0, nil, err
	}
	if _, err := c.conn.Write(request); err != nil {
		return 0, nil, fmt.Errorf("send: %w", err)
	}
	resp, err := http.ReadResponse(c.in, nil)
	if err != nil {
		return 0, nil, fmt.Errorf("no answer: %w", err)
	}
	body, err = io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if err != nil {
		return resp.StatusCode, body, fmt.Errorf("after %d bytes of the body: %w", len(body), err)
	}
	if resp.Close {
		c.Close()
	}
	return resp.StatusCode, body, nil
}

// Close ends the connection, if there is one.
func (c *Conn) Close() {
	if c.conn != nil {
		_ = c.conn.Close()
		c.conn = nil
	}
}

// Request is the text of a request to addr with header lines ("Name: value") and a
// body.
func Request(method, path, addr, body string, lines ...string) []byte {
	text := fmt.Appendf(nil, "%s %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: loadtest\r\n", method, path, addr)
	for _, line := range lines {
		text = fmt.Appendf(text, "%s\r\n", line)
	}
	if body != "" {
		text = fmt.Appendf(text, "Content-Type: application/json\r\nContent-Length: %d\r\n", len(body))
	}
	return append(append(text, "\r\n"...), body...)
}

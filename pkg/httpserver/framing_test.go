package httpserver_test

import (
	"io"
	"net/http"
	"testing"
)

// What comes behind a request that another server may have read to another end
// is not taken for a request.
func TestConnectionEndsWithADisputableRequest(t *testing.T) {
	const behind = "GET /behind HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
	for _, c := range []struct {
		name, request string
		answers       int
	}{
		{"length", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", 2},
		{"no body", "GET / HTTP/1.1\r\nHost: a\r\n\r\n", 2},
		{"chunks", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 1},
		{"chunks and length", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 1},
		{"behind an upgrade", "POST / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 1},
		{"chunks of HTTP/1.0", "POST / HTTP/1.0\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			client := dial(t, start(t, http.HandlerFunc(echo), nil).addr)
			client.send(t, "%s", c.request+behind)
			answers := 0
			for {
				resp, err := http.ReadResponse(client.in, nil)
				if err != nil {
					break
				}
				answers++
				_, _ = io.Copy(io.Discard, resp.Body)
			}
			if answers != c.answers {
				t.Errorf("%d answers, want %d", answers, c.answers)
			}
		})
	}
}

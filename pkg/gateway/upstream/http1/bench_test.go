package http1_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
)

// answered is what a service says in the benchmark: eight fields and 1,024 bytes.
var answered = "HTTP/1.1 200 OK\r\nServer: nginx\r\nDate: Sat, 21 Nov 2026 18:00:00 GMT\r\nContent-Type: application/json\r\n" +
	"Content-Length: 1024\r\nLast-Modified: Sat, 21 Nov 2026 17:00:00 GMT\r\nConnection: keep-alive\r\nEtag: \"655ce5a0-400\"\r\n" +
	"Accept-Ranges: bytes\r\n\r\n" + strings.Repeat("x", 1024)

// parrot answers every read with the same bytes, without allocating.
func parrot(b *testing.B, config *tls.Config) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	if config != nil {
		l = tls.NewListener(l, config)
	}
	b.Cleanup(func() { _ = l.Close() })
	answer := []byte(answered)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				space := make([]byte, 64<<10)
				for {
					if _, err := conn.Read(space); err != nil {
						return
					}
					if _, err := conn.Write(answer); err != nil {
						return
					}
				}
			}()
		}
	}()
	return l.Addr().String()
}

// BenchmarkExchange is a request as the gateway sends it, and its answer of 1,024 bytes
// read to the end, over loopback, by the own client and by the standard library's; the
// other side's time is in it.
func BenchmarkExchange(b *testing.B) {
	b.Run("plain", func(b *testing.B) {
		addr := parrot(b, nil)
		exchange(b, "http", addr, newClient(b, addr, nil))
	})
	b.Run("plain/transport", func(b *testing.B) {
		exchange(b, "http", parrot(b, nil), transport(b, nil))
	})
	cert, roots := certificate(b)
	config := &tls.Config{Certificates: []tls.Certificate{cert}}
	b.Run("TLS", func(b *testing.B) {
		addr := parrot(b, config)
		exchange(b, "https", addr, tlsClient(b, addr, roots, nil))
	})
	b.Run("TLS/transport", func(b *testing.B) {
		exchange(b, "https", parrot(b, config), transport(b, &tls.Config{RootCAs: roots}))
	})
}

// transport is the ordinary one, as the gateway sets it up.
func transport(b *testing.B, config *tls.Config) http.RoundTripper {
	t := &http.Transport{DisableCompression: true, TLSClientConfig: config, WriteBufferSize: 16 << 10, ReadBufferSize: 16 << 10}
	b.Cleanup(t.CloseIdleConnections)
	return t
}

func exchange(b *testing.B, scheme, addr string, client http.RoundTripper) {
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme+"://"+addr+"/api/items?page=2", nil)
	if err != nil {
		b.Fatal(err)
	}
	r.Header = http.Header{
		"Accept": {"application/json"}, "Accept-Encoding": {"gzip"}, "User-Agent": {"curl/8.5.0"}, "X-Forwarded-For": {"10.1.2.3"},
		"X-Forwarded-Proto": {"https"}, "X-Forwarded-Host": {"api.example.com"}, "X-Request-Id": {"0197f3a2-7d2c-7c1e-9f1a-3d5b2a6c8e90"},
		"Forwarded":   {"for=10.1.2.3;host=api.example.com;proto=https"},
		"Traceparent": {"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"}, "X-Consumer": {"reporting"},
	}
	space := make([]byte, 32<<10)
	b.ReportAllocs()
	for b.Loop() {
		resp, err := client.RoundTrip(r)
		if err != nil {
			b.Fatal(err)
		}
		for err == nil {
			_, err = resp.Body.Read(space)
		}
		if !errors.Is(err, io.EOF) {
			b.Fatal(err)
		}
		_ = resp.Body.Close()
	}
}

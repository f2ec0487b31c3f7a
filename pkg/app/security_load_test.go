package app_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/keywarden/keywarden/pkg/app/apptest"
)

// others makes calls of all kinds that have nothing to do with the attack, each
// on a connection of its own.
func others(t *testing.T, p *apptest.Program, key string, token string) {
	t.Helper()
	for _, text := range []string{
		rawRequest("GET /healthz HTTP/1.1"),
		rawRequest("GET /open/x HTTP/1.1"),
		rawRequest("POST /open/x HTTP/1.1", "Content-Length: 5") + "hello",
		rawRequest("GET /keyed/x HTTP/1.1", "X-API-Key: "+key),
		rawRequest("GET /users/me HTTP/1.1", "Authorization: Bearer "+token),
	} {
		if a := ask(t, p.Addr, text); a.Status != http.StatusOK {
			t.Errorf("%.40q meanwhile: status %d: %s", text, a.Status, a.Body)
		}
	}
}

// DOS-05: bodies that never end, and answers that nobody reads, hold up only
// themselves.
func TestSlowBodiesAndReadersDoNotHoldUpOthers(t *testing.T) {
	body := pattern(8 << 20)
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/open/large" {
			_, _ = w.Write(body)
			return
		}
		_, _ = io.Copy(io.Discard, r.Body)
	}))
	defer backend.Close()
	p := apptest.Start(t, apptest.Options{Gateway: fixtureDocument(t, strings.TrimPrefix(backend.URL, "http://")), Set: roomy()})
	u := p.User(t)
	key := p.Key(t, u, nil).Secret
	var slow []net.Conn
	begin := func(text string) {
		t.Helper()
		conn := dialRaw(t, p.Addr)
		if _, err := io.WriteString(conn, text); err != nil {
			t.Fatal(err)
		}
		slow = append(slow, conn)
	}
	for range 60 {
		begin("POST /open/x HTTP/1.1\r\nHost: client.test\r\nContent-Length: 1000000\r\n\r\na")
		begin("POST /keyed/x HTTP/1.1\r\nHost: client.test\r\nX-API-Key: " + key + "\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
		begin("POST /auth/login HTTP/1.1\r\nHost: client.test\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{")
		begin("GET /open/large HTTP/1.1\r\nHost: client.test\r\n\r\n") // and never read
	}
	for range 20 {
		for _, conn := range slow[:40] { // a byte now and then
			_, _ = io.WriteString(conn, "a")
		}
		others(t, p, key, u.Token)
	}
	for _, conn := range slow {
		_ = conn.Close()
	}
	others(t, p, key, u.Token)
}

// keepAlive makes a request and keeps the connection.
func keepAlive(t *testing.T, addr string) (net.Conn, error) {
	t.Helper()
	conn, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(conn, "GET /healthz HTTP/1.1\r\nHost: client.test\r\n\r\n"); err != nil {
		return nil, err
	}
	a, err := readAnswer(bufio.NewReader(conn), "GET")
	if err == nil && a.Status != http.StatusOK {
		err = fmt.Errorf("status %d", a.Status)
	}
	return conn, err
}

// DOS-06: idle connections cost others nothing, and end at their time.
func TestIdleConnectionsDoNotKeepOthersOut(t *testing.T) {
	p, _ := startBehind(t, apptest.Options{Set: roomyWith(map[string]string{"server.idle_timeout": "3s"})})
	u := p.User(t)
	key := p.Key(t, u, nil).Secret
	var idle []net.Conn
	for range 400 {
		conn, err := keepAlive(t, p.Addr)
		if err != nil {
			t.Fatalf("connection %d: %v", len(idle)+1, err)
		}
		idle = append(idle, conn)
	}
	others(t, p, key, u.Token)
	for _, conn := range idle {
		if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Fatalf("an idle connection ends with %v", err)
		}
	}
}

// DOS-06: one address holds as many connections as it may; one more is refused
// and one less makes room.
func TestConnectionsOfOneAddressAreCapped(t *testing.T) {
	const limit = 20
	p := apptest.Start(t, apptest.Options{Set: map[string]string{"server.max_connections_per_ip": fmt.Sprint(limit)}})
	var open []net.Conn
	for range limit {
		conn, err := keepAlive(t, p.Addr)
		if err != nil {
			t.Fatalf("connection %d: %v", len(open)+1, err)
		}
		open = append(open, conn)
	}
	for range 5 {
		if conn, err := keepAlive(t, p.Addr); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("one more connection: %v, %v", conn, err)
		}
	}
	for _, conn := range open { // those that were there go on
		if _, err := io.WriteString(conn, "GET /healthz HTTP/1.1\r\nHost: client.test\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		if a, err := readAnswer(bufio.NewReader(conn), "GET"); err != nil || a.Status != http.StatusOK {
			t.Fatalf("an open connection: %+v, %v", a, err)
		}
	}
	_ = open[0].Close()
	apptest.Eventually(t, "there is room again", func() bool {
		_, err := keepAlive(t, p.Addr)
		return err == nil
	})
}

// DOS-10, DOS-11: fields that take much work to understand are not understood, or
// not beyond their size; the answer is never much larger than without them.
func TestCostlyHeadersCostNothing(t *testing.T) {
	p, up := startBehind(t, apptest.Options{Set: roomy()})
	u := p.User(t)
	const room = 60_000 // below the limit of the header
	var ranges, spread []string
	for i := range 1000 {
		ranges = append(ranges, "0-")
		spread = append(spread, fmt.Sprintf("%d-%d", 2*i, 2*i))
	}
	costly := []string{
		"Range: bytes=" + strings.Join(ranges, ","),
		"Range: bytes=" + strings.Join(spread, ","),
		"Range: bytes=" + strings.Repeat("-1,", room/3),
		"If-None-Match: " + strings.Repeat(`"a",`, room/4),
		"If-None-Match: " + strings.Repeat("a", room),
		"If-Match: " + strings.Repeat(`"a",`, room/4),
		"If-Modified-Since: " + strings.Repeat("Mon, ", room/5),
		"Accept-Language: " + strings.Repeat("a-", room/2),
		"Accept-Language: " + strings.Repeat("en;q=0.1,", room/9),
		"Accept: " + strings.Repeat("*/*;q=0.1,", room/10),
		"Accept: " + strings.Repeat(";", room),
		"Accept-Encoding: " + strings.Repeat("gzip;q=0.1,", room/11),
		"Cookie: " + strings.Repeat("a=b; ", room/5),
		"Connection: close" + strings.Repeat(",a", room/2),
		"Content-Type: " + strings.Repeat("a;", room/2),
		"User-Agent: " + strings.Repeat("(", room),
		"Forwarded: " + strings.Repeat("for=1,", room/6),
		"X-Forwarded-For: " + strings.Repeat("1,", room/2),
		"Authorization: " + strings.Repeat("Bearer ", room/7),
		"Authorization: Bearer " + strings.Repeat(".", room),
		"X-API-Key: " + strings.Repeat("_live_", room/6),
	}
	for _, path := range []string{
		"/open/x", "/swagger/index.html", "/swagger/swagger-ui-bundle.js", "/swagger/doc.json", "/metrics", "/healthz", "/users/me", "/api/test", "/nowhere",
	} {
		plain := ask(t, p.Addr, rawRequest("GET "+path+" HTTP/1.1", "Authorization: Bearer "+u.Token))
		for _, line := range costly {
			a := ask(t, p.Addr, rawRequest("GET "+path+" HTTP/1.1", line))
			if a.Status >= 500 {
				t.Errorf("%s with %.40q: status %d: %.200s", path, line, a.Status, a.Body)
			}
			// /open/x echoes the header, /metrics grows with what was counted.
			if path != "/open/x" && path != "/metrics" && len(a.Body) > len(plain.Body)+4096 {
				t.Errorf("%s with %.40q: %d bytes, without it %d", path, line, len(a.Body), len(plain.Body))
			}
		}
	}
	for _, line := range []string{"If-None-Match: " + strings.Repeat("a", 1<<20), "Range: bytes=" + strings.Repeat("0-,", 1<<19)} {
		if a := ask(t, p.Addr, rawRequest("GET /swagger/index.html HTTP/1.1", line)); a.Status != http.StatusRequestHeaderFieldsTooLarge {
			t.Errorf("a megabyte of %.20q: status %d", line, a.Status)
		}
	}
	forwarded(t, p, up, rawRequest("GET /open/x HTTP/1.1"))
}

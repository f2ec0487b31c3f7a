package http1_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keywarden/keywarden/pkg/gateway/upstream/http1"
)

// script is a connection on which the service has said text, and then ends.
type script struct{ text strings.Reader }

func (s *script) Read(p []byte) (int, error)       { return s.text.Read(p) }
func (s *script) Write(p []byte) (int, error)      { return len(p), nil }
func (s *script) Close() error                     { return nil }
func (s *script) LocalAddr() net.Addr              { return nil }
func (s *script) RemoteAddr() net.Addr             { return nil }
func (s *script) SetDeadline(time.Time) error      { return nil }
func (s *script) SetReadDeadline(time.Time) error  { return nil }
func (s *script) SetWriteDeadline(time.Time) error { return nil }

// ask is what the client makes of an answer, its body read, with a buffer of so many bytes:
// a header that is in it as a whole is read in another way than one that is not.
func ask(t testing.TB, method, text string, buffer int) (*http.Response, string, error) {
	t.Helper()
	c := http1.New(http1.Config{
		Dial: func(context.Context, string, string) (net.Conn, error) { return &script{*strings.NewReader(text)}, nil },
		Addr: "service:80", MaxHeader: 16 << 10, ReadBuffer: buffer, MaxIdle: 1, IdleTimeout: time.Minute,
	})
	r, err := http.NewRequestWithContext(t.Context(), method, "http://service/", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.RoundTrip(r)
	if err != nil {
		return nil, "", err
	}
	body, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	return resp, string(body), err
}

// FuzzAnswerIsReadAsNetHTTPReadsIt holds the parser against that of net/http: what it
// takes, net/http takes, and understands in the same way. It may refuse more.
func FuzzAnswerIsReadAsNetHTTPReadsIt(f *testing.F) {
	for _, text := range []string{
		hello, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n3;a=b\r\nhel\r\n2 \r\nlo\r\n0\r\nX-Sum: 1\r\n\r\n",
		"HTTP/1.0 404 Not Found\r\nConnection: close\r\n\r\nuntil the end", "HTTP/1.1 304\r\nContent-Length: 5\r\n\r\n",
		"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + hello, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
		"HTTP/1.1 200 OK\nContent-Length: 5\n\nhello", "HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n", "HTTP/1.1 200 OK\r\nA : b\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "HTTP/1.1 200 OK\r\nx:\ty \r\nX: z\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 204 No Content\r\nContent-Length: 3\r\n\r\nabc", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
	} {
		f.Add(text, false)
		f.Add(text, true)
	}
	f.Fuzz(func(t *testing.T, text string, head bool) {
		method := http.MethodGet
		if head {
			method = http.MethodHead
		}
		for _, buffer := range []int{64, 4 << 10} {
			compareAnswers(t, method, text, buffer)
		}
	})
}

func compareAnswers(t *testing.T, method, text string, buffer int) {
	resp, body, err := ask(t, method, text, buffer)
	if resp == nil {
		return
	}
	in := bufio.NewReader(strings.NewReader(text))
	r := &http.Request{Method: method}
	theirs, theirErr := http.ReadResponse(in, r)
	for theirErr == nil && theirs.StatusCode < 200 && theirs.StatusCode != http.StatusSwitchingProtocols {
		theirs, theirErr = http.ReadResponse(in, r)
	}
	if theirErr != nil {
		t.Fatalf("net/http refuses it: %v\n%q", theirErr, text)
	}
	defer theirs.Body.Close()
	if resp.StatusCode != theirs.StatusCode || resp.ContentLength != theirs.ContentLength {
		t.Fatalf("%d of %d bytes, for net/http %d of %d\n%q", resp.StatusCode, resp.ContentLength, theirs.StatusCode, theirs.ContentLength, text)
	}
	// Fields about the connection are nobody's but the client's.
	for _, h := range []http.Header{resp.Header, theirs.Header} {
		for _, name := range []string{"Connection", "Transfer-Encoding", "Trailer", "Content-Length"} {
			h.Del(name)
		}
	}
	if diff := cmp.Diff(theirs.Header, resp.Header); diff != "" {
		t.Fatalf("%s\n%q", diff, text)
	}
	if resp.StatusCode == http.StatusSwitchingProtocols {
		return // its body is the connection there, and none here
	}
	all, theirErr := io.ReadAll(theirs.Body)
	switch {
	case err == nil && theirErr != nil:
		t.Fatalf("net/http refuses the body: %v\n%q", theirErr, text)
	case err == nil && body != string(all), !strings.HasPrefix(string(all), body) && !strings.HasPrefix(body, string(all)):
		t.Fatalf("body %q, for net/http %q\n%q", body, all, text)
	case err == nil && len(resp.Trailer)+len(theirs.Trailer) > 0:
		if diff := cmp.Diff(theirs.Trailer, resp.Trailer); diff != "" {
			t.Fatalf("trailers %s\n%q", diff, text)
		}
	}
}

// What two readers could understand in two ways is refused, and so is what no server
// means to say.
func TestAmbiguousAnswersAreRefused(t *testing.T) {
	for name, text := range map[string]string{
		"LF alone in the header":      "HTTP/1.1 200 OK\r\nA: b\nC: d\r\nContent-Length: 0\r\n\r\n",
		"LF alone at the end":         "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\nhello",
		"CR in a value":               "HTTP/1.1 200 OK\r\nA: b\rC: d\r\nContent-Length: 0\r\n\r\n",
		"NUL in a value":              "HTTP/1.1 200 OK\r\nA: b\x00\r\nContent-Length: 0\r\n\r\n",
		"a line that is continued":    "HTTP/1.1 200 OK\r\nA: b\r\n c\r\nContent-Length: 0\r\n\r\n",
		"a space before the colon":    "HTTP/1.1 200 OK\r\nContent-Length : 5\r\n\r\nhello",
		"no name":                     "HTTP/1.1 200 OK\r\n: b\r\nContent-Length: 0\r\n\r\n",
		"length and coding":           "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"two lengths":                 "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 4\r\n\r\nhello",
		"two lengths in one field":    "HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\nhello",
		"a signed length":             "HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nhello",
		"a length with a space":       "HTTP/1.1 200 OK\r\nContent-Length: 5 5\r\n\r\nhello",
		"an empty length":             "HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\nhello",
		"an unknown coding":           "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
		"a coding that is disguised":  "HTTP/1.1 200 OK\r\nTransfer-Encoding: \vchunked\r\n\r\n0\r\n\r\n",
		"two codings":                 "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"a coding in HTTP/1.0":        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"another version":             "HTTP/1.2 200 OK\r\nContent-Length: 0\r\n\r\n",
		"another protocol":            "ICY 200 OK\r\nContent-Length: 0\r\n\r\n",
		"a status of two digits":      "HTTP/1.1 20 OK\r\nContent-Length: 0\r\n\r\n",
		"a status with a sign":        "HTTP/1.1 +20 OK\r\nContent-Length: 0\r\n\r\n",
		"an empty line before":        "\r\n" + hello,
		"a chunk that is too long":    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n0\r\n\r\n",
		"a chunk of minus one":        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\na\r\n0\r\n\r\n",
		"a chunk in hexadecimal form": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0x1\r\na\r\n0\r\n\r\n",
		"a chunk without end":         "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
		"a chunk line with LF alone":  "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\na\r\n0\r\n\r\n",
		"chunks that end too soon":    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n",
		"trailers that end too soon":  "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nA: b\r\n",
		"a bad trailer":               "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nA b\r\n\r\n",
		"a body that ends too soon":   "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell",
		"an endless extension":        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;" + strings.Repeat("a", 64<<10) + "\r\na\r\n0\r\n\r\n",
		"chunks of next to nothing":   "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + strings.Repeat("1;"+strings.Repeat("a", 50)+"\r\na\r\n", 1000) + "0\r\n\r\n",
	} {
		for _, buffer := range []int{64, 4 << 10} {
			if resp, body, err := ask(t, http.MethodGet, text, buffer); err == nil {
				t.Errorf("%s: taken as %d %v %q", name, resp.StatusCode, resp.Header, body)
			} else if errors.Is(err, io.EOF) {
				t.Errorf("%s: looks like the end of an answer", name)
			}
		}
	}
}

package front

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// generator makes requests, most of them nearly as they should be. The bytes that next
// returns are good until its next call.
type generator struct {
	rand *rand.Rand
	b    []byte
	old  []byte // an input from before, to mix with
}

func newGenerator(seed, worker uint64) *generator {
	return &generator{rand: rand.New(rand.NewPCG(seed, worker))}
}

func (g *generator) next() []byte {
	g.b = g.b[:0]
	for range 1 + g.rand.IntN(2) {
		g.request()
	}
	if g.rand.IntN(3) > 0 {
		for range 1 + g.rand.IntN(3) {
			g.mutate()
		}
	}
	if g.rand.IntN(16) == 0 {
		g.old = append(g.old[:0], g.b...)
	}
	return g.b
}

func pick(g *generator, list []string) string { return list[g.rand.IntN(len(list))] }

// rarely is true once in n.
func (g *generator) rarely(n int) bool { return g.rand.IntN(n) == 0 }

func (g *generator) add(parts ...string) {
	for _, p := range parts {
		g.b = append(g.b, p...)
	}
}

var (
	methods = []string{"GET", "GET", "GET", "POST", "PUT", "HEAD", "DELETE", "PATCH", "OPTIONS"}
	strange = []string{"get", "TRACE", "CONNECT", "PRI", "G ET", "", "GET\t", "FOO", "POST\x00", "M-SEARCH"}
	targets = []string{
		"/", "/a", "/a/b/c?d=e&f=g", "/%41%2f%2e", "/a?", "/a??b", "/?a?b", "//a/b", "/a//b/../c", "/a;b=c/d", "/~a/$b&c+d,e:f;g=h@i",
		"/a!b'(c)*d", "/a|b", "/<a>\"", "/[a]", "/a\\b", "/{a}", "/^`", "/a%20b?c%20d", "/.well-known/x", "/a?b#c", "/a:b/c", "/:80", "/?%zz",
	}
	oddTargets = []string{"*", "a", "http://a/b", "/a b", "/a#b", "/%", "/%zz", "/%4", "/\x7f", "/\xc3\xa9", "", "?a", "a:80", "/a\tb", "https://u:p@a:1/%2f", "///", "http:/a"}
	versions   = []string{"HTTP/1.0", "HTTP/1.2", "HTTP/2.0", "HTTP/1.1 ", "http/1.1", "HTTP/01.1", "HTTP/1.10", "HTTP/1,1", "", "HTTP/1.1\t", "HTTP/3.0"}
	hosts      = []string{"a", "a.test", "a.test:8080", "127.0.0.1:80", "[::1]:80", "A_b-c.D"}
	oddHosts   = []string{"", "a b", "a,b", "a/b", "u@a", "a?b", "\"a\"", "a%41", "\x80", "a:b:c", "<a>"}
	names      = []string{
		"Accept", "accept", "User-Agent", "user-agent", "USER-AGENT", "X-Api-Key", "x-api-key", "Cookie", "Authorization", "X_under_score",
		"Content-Type", "X", "x-a-b-c", "ETag", "If-None-Match", "traceparent", "X-1-2", "Sec-Fetch-Site", "Accept-Encoding", "Dnt", "a!#$%&'*+-.^_`|~9",
		"Cache-Control", "Forwarded", "forwarded", "baggage", "tracestate", "priority", "idempotency-key", "sec-fetch-dest", "sec-fetch-mode", "sec-fetch-site", "x-forwarded-host", "x-forwarded-proto", "x-real-ip", "x-request-id", "X-REQUEST-ID", "X-Forwarded-For", "Content_Length", "Transfer_Encoding", "Hosts", "Content-Lengths", "Origin", "WWW-Authenticate", "Content-Md5",
	}
	oddNames = []string{
		"Transfer-Encoding", "Upgrade", "Expect", "TE", "Trailer", "HTTP2-Settings", "Proxy-Connection", "Keep-Alive", "Pragma", "Host", "Content-Length", "Connection",
		"", " A", "A ", "A\t", "A B", "A(b)", "\x80", "A\x00", "Transfer-Encoding ", "Content-Length\t", "\vHost", "pragma", "te", "HOST", "content-LENGTH",
	}
	values = []string{
		"", "b", "*/*", "a, b;q=0.5", "text/html", "Mozilla/5.0 (X11; Linux x86_64)", "a  b", "x=y; z", "\"q\"", "caf\xc3\xa9", "\xff\xfe", "Bearer abc.def", "0",
		"no-cache", "chunked", "close", "keep-alive", "100-continue", "h2c", "trailers", "5", "gzip, br", "a:b:c",
	}
	oddValues   = []string{"a\tb", "\t", "a\x00b", "a\rb", "a\nb", "\x7f", "a\r", "\x01", "a\r\n b", "a\r\n\tb", "a\v", "\x1f"}
	lengths     = []string{"0", "1", "3", "5", "5", "5", "10", "17"}
	oddLengths  = []string{"-1", "+5", "05", "5,5", "5, 5", " 5", "5 ", "0x5", "5a", "", "16385", "99999999999999999999", "1e1", "5;", "٥", "00", "5\t", "\t5", "16384"}
	connections = []string{"keep-alive", "Keep-Alive", "close", "Close"}
	oddTokens   = []string{"keep-alive, close", "upgrade", "close, x", "", "keep-alive,", "x", "Upgrade, HTTP2-Settings", "keep_alive", "te"}
	ends        = []string{"\n", "\r", "\r\r\n", "\n\r", "", " \r\n", "\r\n\r\n", "\n\n", "\x00\r\n", "\r\n ", "\r\n\t"}
	splices     = []string{"\r\n", "\n", "\r", " ", "\t", "\x00", ":", "Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n", "Host: b\r\n", "0\r\n\r\n", "GET / HTTP/1.1\r\n", "\r\n\r\n", "\x0b", "\x0c", "\xc2\xa0", "\x85", "#", "?", "%", "/", ",", "Connection: close\r\n"}
)

// sometimes takes from the odd ones once in n.
func (g *generator) sometimes(n int, usual, odd []string) string {
	if g.rarely(n) {
		return pick(g, odd)
	}
	return pick(g, usual)
}

func (g *generator) end() {
	if g.rarely(400) {
		g.add(pick(g, ends))
		return
	}
	g.add("\r\n")
}

func (g *generator) request() {
	if g.rarely(60) {
		g.end() // an empty line in front
	}
	g.add(g.sometimes(60, methods, strange), " ", g.sometimes(40, targets, oddTargets), " ", g.sometimes(60, []string{"HTTP/1.1"}, versions))
	g.end()
	body := 0
	hostAt := g.rand.IntN(3)
	n := g.rand.IntN(7)
	if g.rarely(200) {
		n = maxFields - 3 + g.rand.IntN(8)
	}
	for i := range n + 3 {
		switch {
		case i == hostAt && !g.rarely(60):
			g.field(pick(g, []string{"Host", "Host", "host", "HOST"}), g.sometimes(40, hosts, oddHosts))
		case i == hostAt+1 && g.rarely(2):
			length := g.sometimes(25, lengths, oddLengths)
			body, _ = strconv.Atoi(strings.TrimSpace(length))
			g.field(pick(g, []string{"Content-Length", "Content-Length", "content-length"}), length)
		case i == hostAt+2 && g.rarely(3):
			g.field(pick(g, []string{"Connection", "connection"}), g.sometimes(30, connections, oddTokens))
		default:
			g.field(g.sometimes(80, names, oddNames), g.sometimes(120, values, oddValues))
		}
	}
	g.end()
	for range min(max(body, 0), 64) {
		g.b = append(g.b, "GET / HTTP/1.1\r\n:\x00"[g.rand.IntN(18)])
	}
	if body > 64 && body <= maxBody+1 && g.rarely(2) {
		g.b = append(g.b, bytes.Repeat([]byte("x"), body-64)...)
	}
}

func (g *generator) field(name, value string) {
	g.add(name)
	if g.rarely(300) {
		g.add(pick(g, []string{" ", "\t", "\x00", "", ";"}))
	}
	if !g.rarely(500) {
		g.add(":")
	}
	g.add([]string{" ", " ", " ", "", "  ", "\t"}[min(g.rand.IntN(7), g.rand.IntN(7)%6)])
	g.add(value)
	if g.rarely(40) {
		g.add(pick(g, []string{" ", "  ", "\t", " \t"}))
	}
	g.end()
}

// mutate spoils the input at one place.
func (g *generator) mutate() {
	n := len(g.b)
	if n == 0 {
		return
	}
	at := g.rand.IntN(n)
	switch g.rand.IntN(12) {
	case 0: // another byte
		g.b[at] = byte(g.rand.IntN(256))
	case 1: // a bit
		g.b[at] ^= 1 << g.rand.IntN(8)
	case 2: // a byte more
		g.insert(at, string([]byte{byte(g.rand.IntN(256))}))
	case 3: // a byte less
		g.b = append(g.b[:at], g.b[at+1:]...)
	case 4:
		g.insert(at, pick(g, splices))
	case 5: // something at the end of a line
		if i := bytes.IndexByte(g.b[at:], '\r'); i >= 0 {
			g.insert(at+i, pick(g, splices))
		}
	case 6: // a line twice
		from, to := g.lineAt(at)
		g.insert(to, string(g.b[from:to]))
	case 7: // a line less
		from, to := g.lineAt(at)
		g.b = append(g.b[:from], g.b[to:]...)
	case 8: // the end is missing
		if g.rarely(3) {
			g.b = g.b[:at]
		}
	case 9: // another input behind, from anywhere in it
		if len(g.old) > 0 {
			g.b = append(g.b, g.old[g.rand.IntN(len(g.old)):]...)
		}
	case 10: // the case of a letter
		if c := g.b[at] | 0x20; c >= 'a' && c <= 'z' {
			g.b[at] ^= 0x20
		}
	case 11: // a digit
		if i := bytes.IndexAny(g.b[at:], "0123456789"); i >= 0 {
			g.b[at+i] = "0123456789-+ ,"[g.rand.IntN(14)]
		}
	}
}

func (g *generator) insert(at int, s string) {
	g.b = append(g.b, s...)
	copy(g.b[at+len(s):], g.b[at:])
	copy(g.b[at:], s)
}

// lineAt is the line around at, with its end.
func (g *generator) lineAt(at int) (from, to int) {
	from = bytes.LastIndexByte(g.b[:at], '\n') + 1
	to = len(g.b)
	if i := bytes.IndexByte(g.b[at:], '\n'); i >= 0 {
		to = at + i + 1
	}
	return from, to
}

var placeholder = regexp.MustCompile(`\{\{[A-Z_0-9]+\}\}`)

// seeds are the requests of the attack cases, and others that have been used to make two
// servers disagree.
func seeds(t testing.TB) []string {
	t.Helper()
	text, err := os.ReadFile("../../gateway/testdata/attack/cases.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for line := range strings.Lines(string(text)) {
		var c struct{ Steps []struct{ Raw string } }
		if err := json.Unmarshal([]byte(line), &c); err != nil {
			t.Fatal(err)
		}
		for _, s := range c.Steps {
			if s.Raw == "" {
				continue
			}
			raw := placeholder.ReplaceAllString(s.Raw, "a.test")
			if unquoted, err := strconv.Unquote(`"` + strings.ReplaceAll(raw, `"`, `\"`) + `"`); err == nil {
				raw = unquoted
			}
			out = append(out, raw, strings.ReplaceAll(raw, "Connection: close\r\n", ""))
		}
	}
	if len(out) < 100 {
		t.Fatalf("only %d attack cases", len(out))
	}
	return append(out,
		"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhelloGET / HTTP/1.1\r\nHost: a\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "GET / HTTP/1.1\nHost: a\n\n",
		"POST / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "GET / HTTP/1.1\r\n Host: a\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n", "GET / HTTP/1.1\r\nHost : a\r\n\r\n", "GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\ncontent-length: 5\r\n\r\nhello", "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n\r\nhello",
		"GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\nX: a\x00b\r\n\r\n", "GET /\x85 HTTP/1.1\r\nHost: a\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\nhello", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x5\r\n\r\nhello",
		"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\nTransfer\xe2\x80\x91Encoding: chunked\r\n\r\n",
		"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\nPragma: no-cache\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, close\r\n\r\n",
	)
}

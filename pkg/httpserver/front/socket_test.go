package front_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keywarden/keywarden/pkg/httpserver/front"
)

// describe answers with all that it can see of a request.
func describe(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	var names []string
	for name := range r.Header {
		names = append(names, name)
	}
	slices.Sort(names)
	fmt.Fprintf(w, "%s|%s|%v %q %q %q %t|%s %d %d|%s|%d %v %t\n", r.Method, r.RequestURI, r.URL, r.URL.Path, r.URL.RawPath, r.URL.RawQuery, r.URL.ForceQuery, r.Proto, r.ProtoMajor, r.ProtoMinor, r.Host,
		r.ContentLength, r.TransferEncoding, r.Close)
	for _, name := range names {
		fmt.Fprintf(w, "%s: %q\n", name, r.Header[name])
	}
	_, hasServer := r.Context().Value(http.ServerContextKey).(*http.Server)
	_, hasAddr := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr)
	host, _, addrErr := net.SplitHostPort(r.RemoteAddr)
	fmt.Fprintf(w, "body %q %v, no body %t, trailer %v, TLS %t, server %t, address %t, from %s %v\n",
		body, err, r.Body == http.NoBody, r.Trailer, r.TLS != nil, hasServer, hasAddr, host, addrErr)
}

// pieces cuts b at up to three places.
func pieces(g front.Generator, b []byte) [][]byte {
	var out [][]byte
	for range g.IntN(4) {
		if len(b) == 0 {
			break
		}
		n := g.IntN(len(b))
		out = append(out, b[:n])
		b = b[n:]
	}
	return append(out, b)
}

// TestServersAgreeOnTheSameBytes: with the front and without it, the same bytes in the
// same pieces get the same answers, from a handler that saw the same requests.
func TestServersAgreeOnTheSameBytes(t *testing.T) {
	if !front.Available {
		t.Skip("no front here")
	}
	with, without := &counted{Handler: http.HandlerFunc(describe)}, &counted{Handler: http.HandlerFunc(describe)}
	ours, theirs := serve(t, true, with), serve(t, false, without)
	g := front.NewGenerator(1)
	check := func(b []byte) {
		t.Helper()
		cut := pieces(g, b)
		got, want := answers(talk(t, ours, cut...)), answers(talk(t, theirs, cut...))
		if !slices.EqualFunc(got, want, func(a, b answer) bool { return a.String() == b.String() }) {
			t.Errorf("%q:\n%v\nwithout the front:\n%v", cut, got, want)
		}
	}
	for _, s := range front.Seeds(t) {
		check([]byte(s))
		check([]byte(s + s))
	}
	inputs := 2000
	if testing.Short() {
		inputs = 200
	}
	for range inputs {
		check(g.Next())
	}
	n, other := with.front.Load(), with.other.Load()
	t.Logf("the front answered %d requests and handed %d over", n, other)
	if n < other/2 || other == 0 || without.front.Load() != 0 {
		t.Errorf("%d and %d, without the front %d: that says little", n, other, without.front.Load())
	}
	if got, want := n+other, without.other.Load(); got != want {
		t.Errorf("the handler saw %d requests, and %d without the front", got, want)
	}
}

// A body of which a part has come goes to net/http with that part, whenever it came.
func TestPartOfABodyIsHandedOver(t *testing.T) {
	if !front.Available {
		t.Skip("no front here")
	}
	with := &counted{Handler: http.HandlerFunc(describe)}
	addr := serve(t, true, with)
	for _, first := range []string{"", "a"} {
		conn := dial(t, addr)
		_, _ = io.WriteString(conn, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n"+first)
		<-time.After(50 * time.Millisecond) // so that the rest is read for itself
		_, _ = io.WriteString(conn, "bcd")
		_ = conn.CloseWrite()
		got, _ := io.ReadAll(conn)
		if want := fmt.Sprintf("body %q unexpected EOF", first+"bcd"); !strings.Contains(string(got), want) {
			t.Errorf("got %q, want %s", got, want)
		}
	}
	if with.other.Load() != 2 {
		t.Errorf("net/http answered %d", with.other.Load())
	}
}

// What follows a POST may begin with the ends of lines that its client sent too many.
func TestLineEndsAfterAPostArePassedOver(t *testing.T) {
	const post, get = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab", "GET / HTTP/1.1\r\nHost: a\r\n\r\n"
	ours, theirs := serve(t, true, http.HandlerFunc(describe)), serve(t, false, http.HandlerFunc(describe))
	for _, between := range []string{"", "\r\n", "\r\n\r\n", "\n\n", "\r\n\r\n\r\n", "\r", "\n\r\n\r\n"} {
		for _, first := range []string{post, get, strings.Replace(post, "POST", "PUT", 1)} {
			for _, last := range []string{get, "BREW / HTTP/1.1\r\nHost: a\r\n\r\n"} {
				for _, cut := range [][][]byte{{[]byte(first + between + last)}, {[]byte(first + between), []byte(last)}, {[]byte(first), []byte(between), []byte(last)}} {
					if diff := cmp.Diff(fmt.Sprint(answers(talk(t, theirs, cut...))), fmt.Sprint(answers(talk(t, ours, cut...)))); diff != "" {
						t.Errorf("%q: %s", cut, diff)
					}
				}
			}
		}
	}
}

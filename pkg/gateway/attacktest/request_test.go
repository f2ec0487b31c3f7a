package attacktest

import (
	"bufio"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// read reads one request from text and gives back what followed it.
func read(t *testing.T, text string) (*Request, string, error) {
	t.Helper()
	br := bufio.NewReader(strings.NewReader(text))
	req, err := readRequest(br)
	rest, restErr := io.ReadAll(br)
	if restErr != nil {
		t.Fatal(restErr)
	}
	return req, string(rest), err
}

func TestReadRequestKeepsWhatWasSent(t *testing.T) {
	req, rest, err := read(t, "POST /a%20b?x=\xe9 HTTP/1.1\r\nHost:  gw \r\nX-A:\xff\r\ntransfer-encoding: chunked\r\n\r\n"+
		"3\r\nabc\r\nA\r\n0123456789\r\n0\r\nX-T: 1\r\nX-U: 2\r\n\r\nGET /next")
	if err != nil {
		t.Fatal(err)
	}
	want := &Request{
		Method: "POST", Target: "/a%20b?x=\u00e9",
		Header:  []Field{{"Host", "gw"}, {"X-A", "\u00ff"}, {"transfer-encoding", "chunked"}},
		BodyLen: 13, Body: "abc0123456789",
		Trailers: []string{"X-T: 1", "X-U: 2"},
	}
	if diff := cmp.Diff(want, req); diff != "" {
		t.Errorf("request (-want +got):\n%s", diff)
	}
	if rest != "GET /next" {
		t.Errorf("left %q on the connection, want the next request", rest)
	}
}

func TestReadRequestKeepsTheFirstPartOfALargeBody(t *testing.T) {
	payload := strings.Repeat("0123456789", 1000)
	for name, text := range map[string]string{
		"length": "POST / HTTP/1.1\r\nContent-Length: 10000\r\n\r\n" + payload,
		"chunks": "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nbb8\r\n" + payload[:3000] + "\r\n1b58\r\n" + payload[3000:] + "\r\n0\r\n\r\n",
	} {
		req, rest, err := read(t, text)
		if err != nil || rest != "" {
			t.Fatalf("%s: rest %q, error %v", name, rest, err)
		}
		if req.BodyLen != 10000 || req.Body != payload[:keptBody] {
			t.Errorf("%s: got %d bytes and kept %d of them, want 10000 and the first %d", name, req.BodyLen, len(req.Body), keptBody)
		}
	}
}

func TestReadRequestNotesAnomalies(t *testing.T) {
	for _, c := range []struct {
		text string
		want []string
	}{
		{"GET / HTTP/1.1\r\nHost: a\r\n\r\n", nil},
		{"POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", nil},
		{"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", nil},
		{"GET / HTTP/1.1\r\nX-A: a\nX-B: b\r\n\r\n", []string{"bare-cr-or-lf"}},
		{"GET / HTTP/1.1\r\nX-A: a\rX-B: b\r\n\r\n", []string{"bare-cr-or-lf"}},
		{"GET / HTTP/2.0\r\n\r\n", []string{`bad-request-line:"GET / HTTP/2.0"`}},
		{"GET /a b HTTP/1.1\r\n\r\n", []string{`bad-request-line:"GET /a b HTTP/1.1"`}},
		{"GET /\r\n\r\n", []string{`bad-request-line:"GET /"`}},
		{"GET / HTTP/1.1\r\nX-A: a\r\n b: c\r\n\r\n", []string{"obs-fold", `bad-header-name:" b"`}},
		{"GET / HTTP/1.1\r\nX-A : a\r\n\r\n", []string{`bad-header-name:"X-A "`}},
		{"GET / HTTP/1.1\r\nnothing\r\n\r\n", []string{`bad-header-name:"nothing"`}},
		{"POST / HTTP/1.1\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", []string{"cl-and-te"}},
		{"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx", []string{"dup-cl"}},
		{"POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", []string{`te:["gzip, chunked"]`}},
		{"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", []string{`te:["chunked" "chunked"]`}},
		{"POST / HTTP/1.1\r\nContent-Length: +1\r\n\r\n", []string{"cl:+1"}},
		{"POST / HTTP/1.1\r\nContent-Length: \r\n\r\n", []string{"cl:"}},
		{"POST / HTTP/1.1\r\nContent-Length: 1234567890123456789\r\n\r\n", []string{"cl:1234567890123456789"}},
		{"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1;a=b\r\nx\r\n1;c\r\nx\r\n0\r\n\r\n", []string{"chunk-ext"}},
	} {
		req, rest, err := read(t, c.text)
		if err != nil || rest != "" {
			t.Errorf("%q: rest %q, error %v", c.text, rest, err)
			continue
		}
		if !slices.Equal(req.Anomalies, c.want) {
			t.Errorf("%q: anomalies %q, want %q", c.text, req.Anomalies, c.want)
		}
	}
}

func TestReadRequestReturnsWhatItReadOfABrokenChunkedBody(t *testing.T) {
	for text, want := range map[string]string{
		"0x3\r\nabc\r\n0\r\n\r\n":     `bad-chunk-size:"0x3"`,
		"+3\r\nabc\r\n0\r\n\r\n":      `bad-chunk-size:"+3"`,
		"\r\nabc":                     `bad-chunk-size:""`,
		"3\nabc\r\n":                  `bad-chunk-size:"3\nabc"`,
		"FFFFFFFFF\r\n":               `bad-chunk-size:"FFFFFFFFF"`,
		"3\r\nabcde0\r\n\r\n":         `bad-chunk-end:"de"`,
		"3\r\nabc\r\n-1\r\n0\r\n\r\n": `bad-chunk-size:"-1"`,
	} {
		req, _, err := read(t, "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"+text)
		var malformed *malformedError
		if !errors.As(err, &malformed) {
			t.Errorf("%q: error %v, want a malformedError", text, err)
			continue
		}
		if !slices.Equal(req.Anomalies, []string{want}) {
			t.Errorf("%q: anomalies %q, want %q", text, req.Anomalies, want)
		}
	}
}

func TestReadRequestRefusesPartOfARequest(t *testing.T) {
	for _, text := range []string{
		"",
		"GET / HTTP/1.1\r\nHost: a\r\n",
		"GET / HTTP/1.1\nHost: a\n\n",
		"POST / HTTP/1.1\r\nContent-Length: 4\r\n\r\nabc",
		"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nab",
		"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
		"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-T: 1\r\n",
		strings.Repeat("a", maxHead+8192),
	} {
		_, _, err := read(t, text)
		var malformed *malformedError
		if err == nil || errors.As(err, &malformed) {
			t.Errorf("%.60q: error %v, want a plain one", text, err)
		}
	}
}

// FuzzReadRequest holds that a request without an anomaly means the same to the
// strict reader however its bytes are cut, and that nothing makes it panic.
func FuzzReadRequest(f *testing.F) {
	f.Add([]byte("GET / HTTP/1.1\r\nHost: a\r\n\r\n"))
	f.Add([]byte("POST /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3;a\r\nabc\r\n0\r\nT: 1\r\n\r\n"))
	f.Add([]byte("POST /x HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc"))
	f.Fuzz(func(t *testing.T, wire []byte) {
		whole, err := readRequest(bufio.NewReader(strings.NewReader(string(wire))))
		sliced, slicedErr := readRequest(bufio.NewReader(&trickle{rest: wire}))
		if (err == nil) != (slicedErr == nil) {
			t.Fatalf("read at once: %v; byte by byte: %v", err, slicedErr)
		}
		if err == nil && !cmp.Equal(whole, sliced) {
			t.Fatalf("read at once and byte by byte differ:\n%s", cmp.Diff(whole, sliced))
		}
	})
}

// trickle gives one byte at a time.
type trickle struct{ rest []byte }

func (r *trickle) Read(p []byte) (int, error) {
	if len(r.rest) == 0 {
		return 0, io.EOF
	}
	p[0] = r.rest[0]
	r.rest = r.rest[1:]
	return 1, nil
}

package front_test

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/keywarden/keywarden/pkg/header"
	"github.com/keywarden/keywarden/pkg/httpserver"
	"github.com/keywarden/keywarden/pkg/httpserver/front"
)

// script is what a handler does, step by step.
type script []step

type step struct {
	what   string // header, add, delete, listed, status, write, drip, string, flush, copy, file, abort, panic
	name   string
	value  string
	status int
	n      int
}

func (s step) String() string {
	return strings.TrimSpace(fmt.Sprintf("%s %s %q %d %d", s.what, s.name, s.value, s.status, s.n))
}

// player is a handler that plays a script, and notes what it was told.
type player struct {
	file string // of fileSize bytes

	mu     sync.Mutex
	script script
	told   []string
}

const fileSize = 100_000

func content(n int) []byte { return bytes.Repeat([]byte("0123456789abcdef"), n/16+1)[:n] }

func (p *player) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/last" {
		_, _ = io.WriteString(w, "the connection was kept")
		return
	}
	p.mu.Lock()
	script := p.script
	p.mu.Unlock()
	for _, s := range script {
		p.play(w, s)
	}
}

// learn gives the player another script.
func (p *player) learn(s script) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.script, p.told = s, nil
}

// wasTold is what the handler was told since.
func (p *player) wasTold() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Join(p.told, "\n")
}

func (p *player) tell(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.told = append(p.told, fmt.Sprintf(format, args...))
}

func (p *player) play(w http.ResponseWriter, s step) {
	switch s.what {
	case "header":
		w.Header()[s.name] = []string{s.value}
	case "none":
		w.Header()[s.name] = nil
	case "add":
		w.Header().Add(s.name, s.value)
	case "delete":
		w.Header().Del(s.name)
	case "listed": // a list, and the status: it is for the header that is written next
		l := header.List{{Name: "X-L", Value: "1"}, {Name: s.name, Value: s.value}, {Name: "X-L", Value: "2"}}
		if sink, ok := w.(header.Sink); !ok || !sink.AddFields(l) {
			l.AddTo(w.Header())
		}
		w.WriteHeader(s.status)
	case "status":
		w.WriteHeader(s.status)
	case "write":
		n, err := w.Write(content(s.n))
		p.tell("write %d %v", n, err)
	case "drip":
		for range s.n {
			if _, err := w.Write(content(1)); err != nil {
				p.tell("drip %v", err)
			}
		}
	case "string":
		n, err := w.(io.StringWriter).WriteString(string(content(s.n)))
		p.tell("string %d %v", n, err)
	case "flush":
		p.tell("flush %v", http.NewResponseController(w).Flush())
	case "copy":
		n, err := io.Copy(w, onlyReader{bytes.NewReader(content(s.n))})
		p.tell("copy %d %v", n, err)
	case "file":
		f, err := os.Open(p.file)
		if err != nil {
			panic(err)
		}
		defer f.Close()
		n, err := io.Copy(w, io.LimitReader(f, int64(s.n)))
		p.tell("file %d %v", n, err)
	case "abort":
		panic(http.ErrAbortHandler)
	case "panic":
		panic("boom")
	default:
		panic(s.what)
	}
}

type onlyReader struct{ io.Reader }

// stage is a server with the front and one without, for the same scripts.
type stage struct {
	players [2]*player
	addrs   [2]string
	tls     *tls.Config // of the client; nil without
}

func newStage(t *testing.T, overTLS bool) *stage {
	t.Helper()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, content(fileSize), 0o600); err != nil {
		t.Fatal(err)
	}
	s := &stage{}
	var server *tls.Config
	if overTLS {
		server, s.tls = certificate(t)
	}
	for i := range s.players {
		s.players[i] = &player{file: file}
		s.addrs[i] = serve(t, i == 0, s.players[i], func(o *httpserver.Options) { o.TLS = server })
	}
	return s
}

// compare plays a script on both, and returns how the answers, and what the handlers were
// told, differ.
func (s *stage) compare(t *testing.T, method string, script script) string {
	t.Helper()
	var got, told [2]string
	for i, p := range s.players {
		p.learn(script)
		b := talkTLS(t, s.addrs[i], s.tls, []byte(method+" / HTTP/1.1\r\nHost: a\r\n\r\nGET /last HTTP/1.1\r\nHost: a\r\n\r\n"))
		all := answers(b, method)
		for _, a := range all {
			got[i] += a.String() + "\n"
		}
		told[i] = p.wasTold()
	}
	return cmp.Diff(got[1], got[0]) + cmp.Diff(told[1], told[0])
}

func TestAnswersAreThoseOfNetHTTP(t *testing.T) {
	if !front.Available {
		t.Skip("no front here")
	}
	s, secure := newStage(t, false), newStage(t, true)
	header := func(name, value string) step { return step{what: "header", name: name, value: value} }
	listed := func(status int, name, value string) step {
		return step{what: "listed", status: status, name: name, value: value}
	}
	status := func(n int) step { return step{what: "status", status: n} }
	write := func(n int) step { return step{what: "write", n: n} }
	flush := step{what: "flush"}
	for name, script := range map[string]script{
		"nothing":                      {},
		"small":                        {write(5)},
		"no content":                   {status(204)},
		"no content with body":         {status(204), write(5)},
		"no content with length":       {header("Content-Length", "5"), status(204)},
		"not modified":                 {header("Content-Type", "a/b"), header("Etag", "x"), header("Content-Length", "5"), status(304)},
		"not modified with body":       {status(304), write(3)},
		"unknown status":               {status(599), write(1)},
		"two statuses":                 {status(404), status(200), write(2)},
		"as much as is held":           {write(2048)},
		"one more than is held":        {write(2049)},
		"in pieces":                    {write(1000), write(1000), write(1000), write(5000), write(1)},
		"strings":                      {{what: "string", n: 10}, {what: "string", n: 5000}, {what: "string", n: 1}},
		"length":                       {header("Content-Length", "5"), write(5)},
		"length in pieces":             {header("Content-Length", "6000"), write(1000), write(5000)},
		"length and large":             {header("Content-Length", "100000"), header("Content-Type", "a/b"), write(50000), write(50000)},
		"length and no type":           {header("Content-Length", "100000"), write(10), write(99990)},
		"fewer than the length":        {header("Content-Length", "10"), write(5)},
		"none of the length":           {header("Content-Length", "10")},
		"more than the length":         {header("Content-Length", "5"), write(3), write(10)},
		"bad length":                   {header("Content-Length", "five"), write(5)},
		"negative length":              {header("Content-Length", "-5"), write(5)},
		"no length, said":              {{what: "none", name: "Content-Length"}, write(5)},
		"flush first":                  {flush, write(5)},
		"flush between":                {write(5), flush, write(5), flush, flush},
		"flush with length":            {header("Content-Length", "10"), write(5), flush, write(5)},
		"flush alone":                  {flush},
		"type":                         {header("Content-Type", "a/b"), write(5)},
		"type, none":                   {{what: "none", name: "Content-Type"}, write(5)},
		"encoding":                     {header("Content-Encoding", "gzip"), write(5)},
		"own date":                     {header("Date", "x"), write(5)},
		"no date":                      {{what: "none", name: "Date"}, write(5)},
		"close":                        {header("Connection", "close"), write(5)},
		"keep":                         {header("Connection", "keep-alive"), write(5)},
		"close later":                  {write(5), header("Connection", "close")},
		"changed after the status":     {header("X", "1"), status(200), header("X", "2"), header("Y", "1"), write(1)},
		"values":                       {{what: "add", name: "X", value: "1"}, {what: "add", name: "X", value: "2"}, header("Y", "")},
		"split answer":                 {header("X", "a\r\nContent-Length: 0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"), write(3)},
		"bad name":                     {header("X Y", "a"), header("X\r\nY", "a"), header("", "a"), header("é", "a"), header("X:", "a")},
		"space around":                 {header("X", " \t a \t"), header("Y", "\n")},
		"trailers":                     {header("Trailer", "X-A, x-b"), write(5), header("X-A", "1"), header("X-B", "2")},
		"trailers, not sent":           {header("Trailer", "X-A"), write(5)},
		"trailers without body":        {header("Trailer", "X-A"), header("X-A", "1")},
		"trailers with length":         {header("Trailer", "X-A"), header("Content-Length", "5"), write(5), header("X-A", "1")},
		"bad trailers":                 {header("Trailer", "Content-Length, Host, X-A"), write(5), header("X-A", "1"), header("Content-Length", "7")},
		"trailers by prefix":           {write(5), flush, header(http.TrailerPrefix+"X-A", "1")},
		"trailers by prefix, early":    {header(http.TrailerPrefix+"X-A", "1"), write(5)},
		"trailers by prefix, too late": {write(5), header(http.TrailerPrefix+"X-A", "1")},
		"trailers both":                {header("Trailer", "X-A"), write(5), header("X-A", "1"), header(http.TrailerPrefix+"X-B", "2")},
		"coding chunked":               {header("Transfer-Encoding", "chunked"), write(5)},
		"coding identity":              {header("Transfer-Encoding", "identity"), write(5)},
		"coding identity, no type":     {header("Transfer-Encoding", "identity"), header("Connection", "keep-alive"), write(5)},
		"coding and length":            {header("Transfer-Encoding", "chunked"), header("Content-Length", "5"), write(5)},
		"coding identity and length":   {header("Transfer-Encoding", "identity"), header("Content-Length", "5"), write(5)},
		"coding of another kind":       {header("Transfer-Encoding", "gzip"), write(5)},
		"interim":                      {header("Link", "a"), status(103), header("Link", "b"), status(103), status(200), write(5)},
		"interim with length":          {header("Content-Length", "5"), status(102), write(5)},
		"interim late":                 {status(200), status(103), write(5)},
		"interim alone":                {status(100)},
		"copy":                         {{what: "copy", n: 10}},
		"copy much":                    {{what: "copy", n: 100000}},
		"copy with length":             {header("Content-Length", "100000"), {what: "copy", n: 100000}},
		"file":                         {{what: "file", n: 90000}},
		"file with length":             {header("Content-Length", "90000"), {what: "file", n: 90000}},
		"file with length and type":    {header("Content-Length", "90000"), header("Content-Type", "a/b"), {what: "file", n: 90000}},
		"file behind a piece":          {header("Content-Length", "90010"), header("Content-Type", "a/b"), write(10), {what: "file", n: 90000}},
		"file too short":               {header("Content-Length", "90000"), header("Content-Type", "a/b"), {what: "file", n: 100}},
		"list":                         {header("X-L", "0"), listed(200, "X-A", "a"), write(5)},
		"list with length":             {listed(200, "Content-Length", "5"), write(5)},
		"list with another length":     {header("Content-Length", "5"), listed(200, "Content-Type", "a/b"), write(5)},
		"list with type":               {listed(200, "Content-Type", "a/b"), write(5)},
		"list with type, not modified": {listed(304, "Content-Type", "a/b")},
		"list with encoding":           {listed(200, "Content-Encoding", "gzip"), write(5)},
		"list with date":               {listed(200, "Date", "x"), write(5)},
		"list, too late":               {status(200), listed(200, "X-A", "a"), write(5)},
		"byte by byte":                 {header("Content-Length", "5000"), header("Content-Type", "a/b"), write(3000), {what: "drip", n: 2000}},
		"byte by byte, flushed":        {{what: "drip", n: 10}, flush, {what: "drip", n: 5000}},
		"abort":                        {write(5), {what: "abort"}},
		"abort after flush":            {write(5), flush, write(5), {what: "abort"}},
		"abort within":                 {header("Content-Length", "5000"), header("Content-Type", "a/b"), write(3000), {what: "abort"}},
		"panic":                        {write(5), {what: "panic"}},
	} {
		t.Run(name, func(t *testing.T) {
			for _, method := range []string{"GET", "HEAD"} {
				if name == "bad length" && method == "HEAD" || name == "negative length" && method == "HEAD" {
					continue // stricter: a length that is none is never sent
				}
				for _, s := range []*stage{s, secure} {
					if diff := s.compare(t, method, script); diff != "" {
						t.Errorf("%s, TLS %t: (-net/http +front)\n%s", method, s.tls != nil, diff)
					}
				}
			}
		})
	}
}

// A handler cannot say more than it declared, not by a copy either, which net/http lets
// pass.
func TestCopyKeepsToTheDeclaredLength(t *testing.T) {
	s := newStage(t, false)
	s.players[0].learn(script{
		{what: "header", name: "Content-Length", value: "1000"}, {what: "header", name: "Content-Type", value: "a/b"}, {what: "file", n: 90000},
	})
	got := answers(talk(t, s.addrs[0], []byte("GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /last HTTP/1.1\r\nHost: a\r\n\r\n")))
	if len(got) != 1 || got[0].body != string(content(1000)) {
		t.Errorf("got %v", got)
	}
	if told := s.players[0].wasTold(); !strings.Contains(told, http.ErrContentLength.Error()) {
		t.Errorf("the handler was told %q", told)
	}
}

func genStep(t *rapid.T) step {
	names := []string{"X-A", "X-B", "Trailer", "Content-Type", "Content-Encoding", "Content-Length", "Transfer-Encoding", "Connection", "Date", http.TrailerPrefix + "X-C", "Bad Name", "Set-Cookie"}
	values := map[string][]string{
		"Trailer": {"X-A", "X-A, X-B", "Content-Length", ""}, "Content-Length": {"0", "10", "3000", "5000"},
		"Transfer-Encoding": {"chunked", "identity"}, "Connection": {"close", "keep-alive"},
	}
	s := step{what: rapid.SampledFrom([]string{"header", "header", "add", "delete", "listed", "status", "write", "write", "write", "string", "flush", "copy", "file", "none", "abort"}).Draw(t, "what")}
	switch s.what {
	case "header", "add":
		s.name = rapid.SampledFrom(names).Draw(t, "name")
		of := values[s.name]
		if of == nil {
			of = []string{"", "a", "b c", "a\r\nb", " a "}
		}
		s.value = rapid.SampledFrom(of).Draw(t, "value")
		if s.what == "add" && s.name == "Content-Length" {
			s.what = "header" // stricter: a second one is not sent
		}
	case "listed": // names and values as whoever makes lists has made sure of
		s.name = rapid.SampledFrom([]string{"X-A", "Content-Type", "Content-Encoding", "Content-Length", "Date", "Set-Cookie"}).Draw(t, "name")
		s.value, s.status = "a", rapid.SampledFrom([]int{200, 204, 304, 404}).Draw(t, "status")
		if s.name == "Content-Length" {
			s.value = rapid.SampledFrom(values[s.name]).Draw(t, "value")
		}
	case "delete", "none":
		s.name = rapid.SampledFrom(names).Draw(t, "name")
	case "status":
		s.status = rapid.SampledFrom([]int{200, 200, 201, 204, 304, 404, 500, 102, 103}).Draw(t, "status")
	case "write", "string", "copy", "file":
		s.n = rapid.SampledFrom([]int{0, 1, 10, 511, 512, 513, 2047, 2048, 2049, 2990, 4096, 10000}).Draw(t, "n")
	}
	return s
}

// copies reports whether a script copies more than is declared: see
// TestCopyKeepsToTheDeclaredLength.
func (s script) copies() bool {
	declared, copied := false, false
	for _, st := range s {
		declared = declared || st.name == "Content-Length" && st.what != "delete"
		copied = copied || st.what == "file" || st.what == "copy"
	}
	return declared && copied
}

func TestAnswersAreThoseOfNetHTTPWhateverTheHandlerDoes(t *testing.T) {
	if !front.Available {
		t.Skip("no front here")
	}
	s, secure := newStage(t, false), newStage(t, true)
	rapid.Check(t, func(rt *rapid.T) {
		script := script(rapid.SliceOfN(rapid.Custom(genStep), 0, 8).Draw(rt, "script"))
		if script.copies() {
			rt.Skip("net/http does not count here")
		}
		method := rapid.SampledFrom([]string{"GET", "HEAD"}).Draw(rt, "method")
		s := rapid.SampledFrom([]*stage{s, s, s, secure}).Draw(rt, "stage")
		if diff := s.compare(t, method, script); diff != "" {
			rt.Fatalf("(-net/http +front)\n%s", diff)
		}
	})
}

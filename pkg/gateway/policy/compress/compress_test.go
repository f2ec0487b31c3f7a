package compress_test

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/keywarden/keywarden/pkg/gateway/policy"
	"github.com/keywarden/keywarden/pkg/gateway/policy/compress"
)

var text = strings.Repeat("all work and no play makes jack a dull boy\n", 200)

func step(t testing.TB) policy.Step {
	t.Helper()
	s, err := compress.New(compress.Config{Types: []string{"application/json", "text/*"}, MinSize: 1024}, compress.NewWriters(8))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestAnswers(t *testing.T) {
	announced := strconv.Itoa(len(text))
	for _, c := range []struct {
		name       string
		method     string
		accept     string
		answer     http.Header
		status     int
		compressed bool
		varies     bool
	}{
		{"text", "GET", "gzip, br", http.Header{"Content-Type": {"text/plain; charset=utf-8"}}, 200, true, true},
		{"JSON of known size", "GET", "gzip", http.Header{"Content-Type": {"application/json"}, "Content-Length": {announced}}, 200, true, true},
		{"refusal", "GET", "gzip", http.Header{"Content-Type": {"text/plain"}}, 404, true, true},
		{"client does not ask", "GET", "", http.Header{"Content-Type": {"text/plain"}}, 200, false, true},
		{"empty answer", "GET", "gzip", http.Header{"Content-Type": {"text/plain"}, "Content-Length": {"0"}}, 200, false, false},
		{"digest", "GET", "gzip", http.Header{"Content-Type": {"text/plain"}, "Content-Digest": {"sha-256=:x:"}}, 200, false, false},
		{"two types", "GET", "gzip", http.Header{"Content-Type": {"text/plain", "image/png"}}, 200, false, false},
		{"type in other letters", "GET", "gzip", http.Header{"Content-Type": {"Text/Plain; Charset=UTF-8"}}, 200, true, true},
		{"client refuses", "GET", "gzip;q=0, *", http.Header{"Content-Type": {"text/plain"}}, 200, false, true},
		{"too small", "GET", "gzip", http.Header{"Content-Type": {"text/plain"}, "Content-Length": {"100"}}, 200, false, false},
		{"other type", "GET", "gzip", http.Header{"Content-Type": {"image/png"}}, 200, false, false},
		{"no type", "GET", "gzip", http.Header{"Content-Type": {""}}, 200, false, false},
		{"already compressed", "GET", "gzip", http.Header{"Content-Type": {"text/plain"}, "Content-Encoding": {"br"}}, 200, false, false},
		{"not to be changed", "GET", "gzip", http.Header{"Content-Type": {"text/plain"}, "Cache-Control": {"public, No-Transform"}}, 200, false, false},
		{"part", "GET", "gzip", http.Header{"Content-Type": {"text/plain"}, "Content-Range": {"bytes 0-10/100"}}, 206, false, false},
		{"events", "GET", "gzip", http.Header{"Content-Type": {"text/event-stream"}}, 200, false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			service := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				for name, values := range c.answer {
					w.Header()[name] = values
				}
				w.Header().Set("Etag", `"1"`)
				w.WriteHeader(c.status)
				_, _ = io.WriteString(w, text)
			})
			r := httptest.NewRequest(c.method, "/", nil)
			if c.accept != "" {
				r.Header.Set("Accept-Encoding", c.accept)
			}
			w := httptest.NewRecorder()
			step(t).Apply(service).ServeHTTP(w, r)
			resp := w.Result()
			if got := resp.Header.Get("Content-Encoding") == "gzip"; got != c.compressed {
				t.Fatalf("compressed %t, want %t", got, c.compressed)
			}
			if got := resp.Header.Get("Vary") == "Accept-Encoding"; got != c.varies {
				t.Errorf("varies %t, want %t", got, c.varies)
			}
			body := io.Reader(resp.Body)
			if c.compressed {
				if resp.Header.Get("Content-Length") != "" || resp.Header.Get("Etag") != `W/"1"` {
					t.Errorf("the header describes the answer as it was: %v", resp.Header)
				}
				unzip, err := gzip.NewReader(body)
				if err != nil {
					t.Fatal(err)
				}
				body = unzip
			}
			got, err := io.ReadAll(body)
			if err != nil || string(got) != text || resp.StatusCode != c.status {
				t.Errorf("status %d, %d bytes, %v", resp.StatusCode, len(got), err)
			}
		})
	}
}

// ask asks the handler through the step, over a connection, and returns the answer
// as it is on it.
func ask(t *testing.T, h http.Handler, method string, header ...string) (*http.Response, []byte) {
	t.Helper()
	server := httptest.NewServer(h)
	defer server.Close()
	r, err := http.NewRequestWithContext(t.Context(), method, server.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	resp, err := server.Client().Transport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, body
}

func words(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain")
	w.Header().Set("Content-Length", strconv.Itoa(len(text)))
	w.Header().Set("Etag", `"1"`)
	w.Header().Set("Accept-Ranges", "bytes")
	_, _ = io.WriteString(w, text)
}

func TestTheHeaderOfHEADIsThatOfGET(t *testing.T) {
	h := step(t).Apply(http.HandlerFunc(words))
	get, _ := ask(t, h, "GET", "Accept-Encoding", "gzip")
	head, body := ask(t, h, "HEAD", "Accept-Encoding", "gzip")
	for _, name := range []string{"Date", "Content-Length"} { // nobody knows the length but who compresses
		get.Header.Del(name)
		head.Header.Del(name)
	}
	if diff := cmp.Diff(get.Header, head.Header); diff != "" || head.ContentLength != -1 || len(body) != 0 {
		t.Errorf("length %d, header (-GET +HEAD):\n%s", head.ContentLength, diff)
	}
	if head, _ := ask(t, h, "HEAD"); head.ContentLength != int64(len(text)) {
		t.Errorf("without compression the length is %d", head.ContentLength)
	}
}

func TestAClientThatAsksForAPartGetsItOfTheWhole(t *testing.T) {
	resp, body := ask(t, step(t).Apply(http.HandlerFunc(words)), "GET", "Accept-Encoding", "gzip", "Range", "bytes=0-99")
	if resp.Header.Get("Content-Encoding") != "" || string(body) != text || resp.Header.Get("Vary") != "Accept-Encoding" {
		t.Errorf("%v", resp.Header)
	}
}

func TestAnAnswerWithoutBodyStaysSo(t *testing.T) {
	for status, varies := range map[int]string{204: "", 304: "Accept-Encoding"} {
		resp, body := ask(t, step(t).Apply(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/plain")
			w.WriteHeader(status)
		})), "GET", "Accept-Encoding", "gzip")
		if resp.StatusCode != status || len(body) != 0 || resp.Header.Get("Content-Encoding") != "" || resp.Header.Get("Vary") != varies {
			t.Errorf("%d: %d %q %v", status, resp.StatusCode, body, resp.Header)
		}
	}
}

func TestMessagesOfGRPCAreLeftAlone(t *testing.T) {
	s, err := compress.New(compress.Config{Types: []string{"application/*"}, MinSize: 1}, compress.NewWriters(1))
	if err != nil {
		t.Fatal(err)
	}
	for kind, want := range map[string]string{"application/grpc": "", "application/grpc+proto": "", "application/grpc-web-text": "", "application/json": "gzip"} {
		resp, _ := ask(t, s.Apply(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", kind)
			_, _ = io.WriteString(w, text)
		})), "POST", "Accept-Encoding", "gzip")
		if got := resp.Header.Get("Content-Encoding"); got != want {
			t.Errorf("%s: %q", kind, got)
		}
	}
}

// TestCompressorsAreBounded holds one answer open and asks for another, which goes
// out as it is; also when the first was broken off, its compressor comes back.
func TestCompressorsAreBounded(t *testing.T) {
	s, err := compress.New(compress.Config{Types: []string{"text/*"}, MinSize: 1}, compress.NewWriters(1))
	if err != nil {
		t.Fatal(err)
	}
	encoding := func(inside func()) (got string) {
		w, r := httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil)
		r.Header.Set("Accept-Encoding", "gzip")
		s.Apply(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			words(w, r)
			inside()
		})).ServeHTTP(w, r)
		if w.Header().Get("Content-Encoding") == "" && w.Body.String() != text {
			t.Error("what is not compressed is not as it was")
		}
		return w.Header().Get("Content-Encoding")
	}
	for range 3 {
		var within string
		if got := encoding(func() { within = encoding(func() {}) }); got != "gzip" || within != "" {
			t.Errorf("the first is coded %q, the second %q", got, within)
		}
		func() {
			defer func() { _ = recover() }()
			encoding(func() { panic(http.ErrAbortHandler) })
		}()
	}
}

func TestTheConnectionCanStillBeTakenOver(t *testing.T) {
	var full, hijacked error
	server := httptest.NewServer(step(t).Apply(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		c := http.NewResponseController(w)
		full = c.EnableFullDuplex()
		var conn net.Conn
		if conn, _, hijacked = c.Hijack(); hijacked == nil {
			_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
			_ = conn.Close()
		}
	})))
	defer server.Close()
	r, err := http.NewRequestWithContext(t.Context(), "GET", server.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Accept-Encoding", "gzip")
	resp, err := server.Client().Transport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusSwitchingProtocols || resp.Header.Get("Vary") != "" || full != nil || hijacked != nil {
		t.Errorf("%d %v, %v, %v", resp.StatusCode, resp.Header, full, hijacked)
	}
}

func TestWhatIsFlushedArrives(t *testing.T) {
	more := make(chan struct{})
	server := httptest.NewServer(step(t).Apply(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		_, _ = io.WriteString(w, "first")
		_ = http.NewResponseController(w).Flush()
		<-more
		_, _ = io.WriteString(w, " second")
	})))
	defer server.Close()
	req, err := http.NewRequestWithContext(t.Context(), "GET", server.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept-Encoding", "gzip")
	resp, err := server.Client().Transport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	unzip, err := gzip.NewReader(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	part := make([]byte, 5)
	if _, err := io.ReadFull(unzip, part); err != nil || string(part) != "first" {
		t.Fatalf("got %q, %v before the rest was written", part, err)
	}
	close(more)
	rest, err := io.ReadAll(unzip)
	if err != nil || string(rest) != " second" {
		t.Errorf("got %q, %v", rest, err)
	}
}

func TestAnAnswerThatBreaksOffDoesNotLookWhole(t *testing.T) {
	server := httptest.NewServer(step(t).Apply(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		_, _ = io.WriteString(w, text)
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	})))
	defer server.Close()
	resp, err := http.Get(server.URL) // asks for gzip and unzips by itself
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if _, err := io.ReadAll(resp.Body); err == nil {
		t.Error("half an answer was read to its end")
	}
}

func TestAccepts(t *testing.T) {
	for value, want := range map[string]bool{
		"gzip": true, "GZIP": true, "x-gzip": true, "br, gzip;q=0.5": true, "*": true, "gzip;q=1.0": true, " gzip ; q=0.1 ": true,
		"identity;q=0": false, "identity;q=0, *": true, "gzip;q=0.": false, "gzip;Q=0.001": true, ", gzip,": true, "gzip, deflate, br, zstd": true,
		"": false, "br": false, "gzip;q=0": false, "gzip;q=0.000": false, "*;q=0": false, "gzip;q=0, *": false,
		"identity, gzip;q=0.5": false, "identity;q=0.1, gzip": true, "gzip;q=0.5, *": false, "br;q=1.0, gzip;q=0.8, *;q=0.1": true,
		"gzip;q=2": false, "gzip;q=1.001": false, "gzip;q=x": false, "gzip;level=9": false, "gzip;q=0.0001": false, "gzip;q=1e0": false,
		"gzip;q=0x1": false, "gzip;q=-1": false, "gzip;q": false, "gzip;": false, "gzip;q=1;a=b": false, "gzipp": false,
	} {
		if got := compress.Accepts([]string{value}); got != want {
			t.Errorf("%q: %t, want %t", value, got, want)
		}
	}
	if !compress.Accepts([]string{"br", "gzip"}) || compress.Accepts(nil) {
		t.Error("lines are not read as one list")
	}
}

// TestAcceptsIsTheOrderOfWeights compares with a look at the weights alone.
func TestAcceptsIsTheOrderOfWeights(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		weights := rapid.MapOf(rapid.SampledFrom([]string{"gzip", "identity", "*", "br"}), rapid.IntRange(0, 1000)).Draw(t, "weights")
		var list []string
		for name, q := range weights {
			list = append(list, fmt.Sprintf("%s;q=%d.%03d", name, q/1000, q%1000))
		}
		value := strings.Join(list, rapid.SampledFrom([]string{",", ", ", " ,\t"}).Draw(t, "separator"))
		weight := func(name string) int {
			for _, n := range []string{name, "*"} {
				if q, ok := weights[n]; ok {
					return q
				}
			}
			return -1
		}
		if got, want := compress.Accepts([]string{value}), weight("gzip") > 0 && weight("gzip") >= weight("identity"); got != want {
			t.Fatalf("%q: %t, want %t", value, got, want)
		}
	})
}

func FuzzAccepts(f *testing.F) {
	for _, value := range []string{"gzip", "gzip;q=0.5, *", ";;,,q=", "x-gzip;q=1.000,identity;q=0"} {
		f.Add(value)
	}
	f.Fuzz(func(t *testing.T, value string) {
		accepted := compress.Accepts([]string{value})
		if accepted && !strings.Contains(strings.ToLower(value), "gzip") && !strings.Contains(value, "*") {
			t.Fatalf("%q asks for gzip", value)
		}
		if accepted != compress.Accepts([]string{"", value, " , "}) {
			t.Fatalf("%q means something else beside empty lines", value)
		}
	})
}

// FuzzBody has a body come out as it went in, however it is cut into pieces.
func FuzzBody(f *testing.F) {
	f.Add([]byte(text), 7, true)
	f.Add([]byte{}, 1, false)
	h := func(body []byte, size int, flush bool) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/plain")
			for piece := range slices.Chunk(body, size) {
				_, _ = w.Write(piece)
				if flush {
					w.(http.Flusher).Flush()
				}
			}
		}
	}
	s := step(f)
	f.Fuzz(func(t *testing.T, body []byte, size int, flush bool) {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header.Set("Accept-Encoding", "gzip")
		w := httptest.NewRecorder()
		s.Apply(h(body, 1+int(uint(size)%1000), flush)).ServeHTTP(w, r)
		unzip, err := gzip.NewReader(w.Body)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(unzip); err != nil || !bytes.Equal(got, body) {
			t.Fatalf("%q, %v", got, err)
		}
	})
}

// BenchmarkServe is the step alone.
func BenchmarkServe(b *testing.B) {
	kind, length, body := []string{"text/plain"}, []string{strconv.Itoa(len(text))}, []byte(text)
	h := step(b).Apply(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header()["Content-Type"], w.Header()["Content-Length"] = kind, length
		_, _ = w.Write(body)
	}))
	for name, accept := range map[string]string{"gzip": "gzip, deflate, br, zstd", "identity": "identity"} {
		b.Run(name, func(b *testing.B) {
			r := httptest.NewRequest("GET", "/", nil)
			r.Header.Set("Accept-Encoding", accept)
			w := &discard{header: http.Header{}}
			b.ReportAllocs()
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				clear(w.header)
				h.ServeHTTP(w, r)
			}
		})
	}
}

type discard struct{ header http.Header }

func (d *discard) Header() http.Header       { return d.header }
func (*discard) WriteHeader(int)             {}
func (*discard) Write(p []byte) (int, error) { return len(p), nil }

// BenchmarkLevels is what the level is chosen by.
func BenchmarkLevels(b *testing.B) {
	var body bytes.Buffer
	random := rand.New(rand.NewPCG(1, 2))
	for body.Len() < 16<<10 {
		fmt.Fprintf(&body, `{"id":"%x","name":"user %d","email":"u%d@example.com","active":%t,"created_at":"2026-01-01T00:00:00Z"},`,
			random.Uint64(), random.IntN(9999), random.IntN(99999), random.IntN(2) == 0)
	}
	for level := gzip.BestSpeed; level <= 6; level++ {
		b.Run(strconv.Itoa(level), func(b *testing.B) {
			var out bytes.Buffer
			w, err := gzip.NewWriterLevel(&out, level)
			if err != nil {
				b.Fatal(err)
			}
			b.SetBytes(int64(body.Len()))
			for b.Loop() {
				out.Reset()
				w.Reset(&out)
				_, _ = w.Write(body.Bytes())
				_ = w.Close()
			}
			b.ReportMetric(float64(out.Len())/float64(body.Len()), "ratio")
		})
	}
}

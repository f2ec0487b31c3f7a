package compress_test

import (
	"compress/gzip"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"

	"github.com/keywarden/keywarden/pkg/gateway/policy"
	"github.com/keywarden/keywarden/pkg/gateway/policy/compress"
)

var text = strings.Repeat("all work and no play makes jack a dull boy\n", 200)

func step(t testing.TB) policy.Step {
	t.Helper()
	s, err := compress.New(compress.Config{Types: []string{"application/json", "text/*"}, MinSize: 1024})
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
		"": false, "br": false, "gzip;q=0": false, "gzip;q=0.000": false, "*;q=0": false, "gzip;q=0, *": false,
		"identity, gzip;q=0.5": false, "identity;q=0.1, gzip": true, "gzip;q=2": false, "gzip;q=x": false, "gzip;level=9": false,
	} {
		if got := compress.Accepts([]string{value}); got != want {
			t.Errorf("%q: %t, want %t", value, got, want)
		}
	}
}

func FuzzAccepts(f *testing.F) {
	for _, value := range []string{"gzip", "gzip;q=0.5, *", ";;,,q="} {
		f.Add(value)
	}
	f.Fuzz(func(t *testing.T, value string) {
		if compress.Accepts([]string{value}) && !strings.Contains(strings.ToLower(value), "gzip") && !strings.Contains(value, "*") {
			t.Fatalf("%q asks for gzip", value)
		}
	})
}

package proxy_test

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
)

// TestHTTP2Clients covers what differs in HTTP/2: requests without a length,
// answers by frames, cancellation of one stream.
func TestHTTP2Clients(t *testing.T) {
	f := newFront(t, backend(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/events":
			w.Header().Set("Content-Type", "text/event-stream")
			fmt.Fprint(w, "data: 1\n\n")
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		default:
			body, err := io.ReadAll(r.Body)
			if err != nil {
				return
			}
			w.Header().Set("Trailer", "X-Sum")
			fmt.Fprintf(w, "%s %s %d", r.Method, r.RequestURI, len(body))
			w.Header().Set("X-Sum", "1")
		}
	}), setup{http2: true, bodyLimit: 1024})

	resp, body := f.do("POST", "/x?y=1", io.MultiReader(strings.NewReader("body")), nil)
	if resp.ProtoMajor != 2 || resp.StatusCode != 200 || body != "POST /x?y=1 4" || resp.Trailer.Get("X-Sum") != "1" {
		t.Errorf("got %s %d %q, trailers %v", resp.Proto, resp.StatusCode, body, resp.Trailer)
	}
	resp, body = f.do("POST", "/x", io.MultiReader(strings.NewReader(strings.Repeat("a", 100_000))), nil)
	f.wantProblem(resp, body, 413, "request.body_too_large")

	r, err := http.NewRequestWithContext(t.Context(), "GET", f.URL+"/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	events, err := f.client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(events.Body).ReadString('\n'); err != nil || line != "data: 1\n" {
		t.Errorf("event %q, %v", line, err)
	}
	events.Body.Close() // the service sees its request end, or the test does not
	eventually(t, "reason in the access log", func() bool { return f.info().Err != nil })
}

package httpedge_test

import (
	"crypto/tls"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/keywarden/keywarden/pkg/httpedge"
	"github.com/keywarden/keywarden/pkg/reqctx"
)

var trustTen = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}

// pass sends r through RequestInfo and returns what the handler saw and the
// client got.
func pass(r *http.Request) (reqctx.Info, http.Header) {
	var seen reqctx.Info
	rec := httptest.NewRecorder()
	httpedge.RequestInfo(trustTen)(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		seen = *reqctx.From(r.Context())
	})).ServeHTTP(rec, r)
	return seen, rec.Header()
}

func TestRequestIDIsMadeAndAnswered(t *testing.T) {
	seen := map[string]bool{}
	for range 1000 {
		info, answer := pass(httptest.NewRequest(http.MethodGet, "/", nil))
		id, err := uuid.Parse(info.ID)
		if err != nil || id.Version() != 7 {
			t.Fatalf("%q is no UUIDv7: %v", info.ID, err)
		}
		if got := answer.Values("X-Request-Id"); len(got) != 1 || got[0] != info.ID {
			t.Fatalf("answered %q, want %q", got, info.ID)
		}
		if seen[info.ID] {
			t.Fatal("the same id twice")
		}
		seen[info.ID] = true
	}
}

func TestIncomingRequestIDIsTakenOnlyWhenItMayBe(t *testing.T) {
	for name, c := range map[string]struct {
		peer string
		ids  []string
		want bool
	}{
		"trusted":          {"10.0.0.1:1", []string{"aZ09._-"}, true},
		"longest":          {"10.0.0.1:1", []string{strings.Repeat("a", 64)}, true},
		"untrusted":        {"192.0.2.1:1", []string{"abc"}, false},
		"too long":         {"10.0.0.1:1", []string{strings.Repeat("a", 65)}, false},
		"empty":            {"10.0.0.1:1", []string{""}, false},
		"twice":            {"10.0.0.1:1", []string{"abc", "abc"}, false},
		"line feed":        {"10.0.0.1:1", []string{"abc\n"}, false},
		"space":            {"10.0.0.1:1", []string{"a b"}, false},
		"not ASCII":        {"10.0.0.1:1", []string{"é"}, false},
		"terminal escapes": {"10.0.0.1:1", []string{"\x1b[31m"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			r := httptest.NewRequest(http.MethodGet, "/", nil)
			r.RemoteAddr = c.peer
			r.Header["X-Request-Id"] = c.ids
			info, answer := pass(r)
			if got := info.ID == c.ids[0]; got != c.want {
				t.Errorf("id is %q", info.ID)
			}
			if info.ID == "" || answer.Get("X-Request-Id") != info.ID {
				t.Errorf("answered %q, id is %q", answer.Get("X-Request-Id"), info.ID)
			}
		})
	}
}

func TestSchemeIsWhatTheClientUsed(t *testing.T) {
	for name, c := range map[string]struct {
		peer  string
		tls   bool
		proto []string
		want  string
	}{
		"plain":                       {"192.0.2.1:1", false, nil, "http"},
		"tls":                         {"192.0.2.1:1", true, nil, "https"},
		"untrusted claims https":      {"192.0.2.1:1", false, []string{"https"}, "http"},
		"untrusted claims http":       {"192.0.2.1:1", true, []string{"http"}, "https"},
		"proxy says https":            {"10.0.0.1:1", false, []string{"HTTPS"}, "https"},
		"proxy says http over tls":    {"10.0.0.1:1", true, []string{"http"}, "http"},
		"proxy says nothing over tls": {"10.0.0.1:1", true, nil, "https"},
		"list":                        {"10.0.0.1:1", false, []string{"https, http"}, "http"},
		"two lines":                   {"10.0.0.1:1", false, []string{"https", "https"}, "http"},
		"nonsense":                    {"10.0.0.1:1", false, []string{"javascript"}, "http"},
	} {
		t.Run(name, func(t *testing.T) {
			r := httptest.NewRequest(http.MethodGet, "/", nil)
			r.RemoteAddr = c.peer
			r.Header["X-Forwarded-Proto"] = c.proto
			if c.tls {
				r.TLS = &tls.ConnectionState{}
			}
			if info, _ := pass(r); info.Scheme != c.want {
				t.Errorf("got %s, want %s", info.Scheme, c.want)
			}
		})
	}
}

// A server may know the address of a connection beforehand; what a trusted proxy says of
// the client counts all the same.
func TestAServerMayKnowThePeer(t *testing.T) {
	for peer, want := range map[string]string{"192.0.2.7": "192.0.2.7", "10.0.0.1": "203.0.113.9"} {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.RemoteAddr = "198.51.100.1:1234"
		r.Header.Set("X-Forwarded-For", "203.0.113.9")
		ctx := new(reqctx.Carrier).Blank(r.Context())
		reqctx.From(ctx).SetClient(netip.MustParseAddr(peer), peer)
		var client, text string
		httpedge.RequestInfo(trustTen)(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			info := reqctx.From(r.Context())
			client, text = info.Client.String(), info.ClientText()
		})).ServeHTTP(httptest.NewRecorder(), r.WithContext(ctx))
		if client != want || text != want {
			t.Errorf("peer %s: the client is %s, as text %s, want %s", peer, client, text, want)
		}
	}
}

func BenchmarkRequestInfo(b *testing.B) {
	h := httpedge.RequestInfo(trustTen)(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	w := nullWriter{header: http.Header{}}
	b.ReportAllocs()
	for b.Loop() {
		h.ServeHTTP(w, r)
	}
}

// nullWriter is the cheapest ResponseWriter, so that benchmarks show the middleware.
type nullWriter struct{ header http.Header }

func (w nullWriter) Header() http.Header         { return w.header }
func (w nullWriter) Write(p []byte) (int, error) { return len(p), nil }
func (w nullWriter) WriteHeader(int)             {}

package front

import (
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
)

const usual = "GET /v1/things/42?fields=name HTTP/1.1\r\nHost: api.example.com\r\nUser-Agent: curl/8.5.0\r\nAccept: */*\r\n" +
	"X-Api-Key: kw_live_0123456789abcdefghijklmnopqrstuvwxyz\r\nAccept-Encoding: gzip\r\ntraceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n\r\n"

func TestParsingAllocatesNothing(t *testing.T) {
	var h head
	b := []byte(usual)
	if n := testing.AllocsPerRun(100, func() {
		if h.parse(b) != plain {
			t.Fatal("not plain")
		}
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

// The exchange, the request, the text, the map and its group of fields.
func TestARequestTakesFewAllocations(t *testing.T) {
	var h head
	var kept *http.Request
	b := []byte(usual)
	if n := testing.AllocsPerRun(100, func() {
		x, r := new(exchange), http.Request{}
		if h.parse(b) != plain || !x.fill(&r, &h, b) {
			t.Fatal("not plain")
		}
		kept = r.WithContext(&x.context)
	}); n > 5 {
		t.Errorf("%v allocations, the last of %s", n, kept.URL)
	}
}

// Places in a longer head do not fit into a span.
func TestLongerHeadsAreUnusual(t *testing.T) {
	var h head
	for n, want := range map[int]verdict{maxHead: plain, maxHead + 1: unusual, 80_000: unusual} {
		const start, end = "GET / HTTP/1.1\r\nHost: a\r\nX: ", "\r\nY: b\r\n\r\n"
		if got := h.parse([]byte(start + strings.Repeat("a", n-len(start)-len(end)) + end)); got != want {
			t.Errorf("%d bytes: %d, want %d", n, got, want)
		}
	}
}

// Each handler that runs is looked at within a second, however long it has been running.
func TestLongHandlersAreLookedAtOftenEnough(t *testing.T) {
	s := New(Options{MaxHeaderBytes: maxHead})
	c := &connection{server: s}
	s.add(c)
	c.turn.Add(1)
	since := 0
	for range 100 {
		since++
		if len(s.slow()) > 0 {
			since = 0
		}
		if since >= 4 {
			t.Fatalf("not looked at for %d ticks", since)
		}
	}
	c.turn.Add(1)
	for range 3 {
		if len(s.slow()) > 0 {
			t.Error("looked at between requests")
		}
	}
	s.remove(c)
}

// The buffer goes to another client when a connection is handed over.
func TestWhatIsHandedOverIsACopy(t *testing.T) {
	c := &connection{buf: []byte("..GET / HT.."), start: 2, end: 10}
	for _, rest := range []string{"", "TP"} {
		c.rest = []byte(rest)
		got := c.unread()
		copy(c.buf, "of somebody else")
		if string(got) != "GET / HT"+rest {
			t.Errorf("handed over %q", got)
		}
		copy(c.buf, "..GET / HT..")
	}
}

func TestBodyIsSafeForLateReaders(t *testing.T) {
	b := &body{rest: []byte("hello")}
	if err := iotest.TestReader(&body{rest: []byte("hello")}, []byte("hello")); err != nil {
		t.Error(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() { _, _ = io.Copy(io.Discard, b) })
	_ = b.Close()
	wg.Wait()
	if n, err := b.Read(make([]byte, 1)); n != 0 || err != http.ErrBodyReadAfterClose { //nolint:errorlint // as net/http gives it
		t.Errorf("read %d, %v", n, err)
	}
}

func BenchmarkParse(b *testing.B) {
	var h head
	text := []byte(usual)
	b.ReportAllocs()
	for b.Loop() {
		if h.parse(text) != plain {
			b.Fatal("not plain")
		}
	}
}

func BenchmarkRequest(b *testing.B) {
	var h head
	text := []byte(usual)
	b.ReportAllocs()
	for b.Loop() {
		x, r := new(exchange), http.Request{}
		if h.parse(text) != plain || !x.fill(&r, &h, text) {
			b.Fatal("not plain")
		}
	}
}

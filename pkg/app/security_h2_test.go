package app_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/keywarden/keywarden/pkg/app/apptest"
	"github.com/keywarden/keywarden/pkg/gateway/attacktest"
)

// Limits of the program that the floods are measured by.
const (
	h2Streams     = 100
	h2HeaderBytes = 64 << 10
)

// h2Outcome is what came of a stream.
type h2Outcome struct {
	Status string
	Body   string
	Reset  http2.ErrCode
	Ended  bool // by the server, or with the connection
	Lost   bool // with the connection
}

// rejected reports whether the request was not carried out.
func (o h2Outcome) rejected() bool {
	return o.Lost || o.Reset != http2.ErrCodeNo || o.Status != "" && o.Status >= "400"
}

// h2Conn is a client that sends whatever frames a test wants. One goroutine reads.
type h2Conn struct {
	*http2.Framer
	conn  *tls.Conn
	block bytes.Buffer
	enc   *hpack.Encoder
	pause chan struct{} // reading waits for it
	done  chan struct{} // closed when the connection has ended

	mu       sync.Mutex
	streams  map[uint32]*h2Outcome
	goAway   *http2.ErrCode
	pongs    int
	settings map[http2.SettingID]uint32
}

// h2Options change a connection before its first frame.
type h2Options struct {
	settings []http2.Setting
	deaf     bool // reads nothing until listen is called
}

func dialH2(t *testing.T, p *apptest.Program, a *authority, o h2Options) *h2Conn {
	t.Helper()
	config := a.config()
	config.NextProtos = []string{"h2"}
	dialer := &tls.Dialer{NetDialer: &net.Dialer{Timeout: patience}, Config: config}
	raw, err := dialer.DialContext(t.Context(), "tcp", p.Addr)
	if err != nil {
		t.Fatal(err)
	}
	c := &h2Conn{
		conn: raw.(*tls.Conn), pause: make(chan struct{}), done: make(chan struct{}),
		streams: map[uint32]*h2Outcome{}, settings: map[http2.SettingID]uint32{},
	}
	_ = c.conn.SetDeadline(time.Now().Add(2 * patience))
	if c.conn.ConnectionState().NegotiatedProtocol != "h2" {
		t.Fatal("the listener does not speak HTTP/2")
	}
	c.Framer, c.enc = http2.NewFramer(c.conn, c.conn), hpack.NewEncoder(&c.block)
	c.AllowIllegalWrites = true
	c.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	if _, err := io.WriteString(c.conn, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	if err := c.WriteSettings(o.settings...); err != nil {
		t.Fatal(err)
	}
	if !o.deaf {
		close(c.pause)
	}
	go c.read()
	t.Cleanup(func() {
		_ = c.conn.NetConn().Close()
		if o.deaf {
			c.listen()
		}
		<-c.done
	})
	return c
}

// listen lets a deaf connection read.
func (c *h2Conn) listen() {
	select {
	case <-c.pause:
	default:
		close(c.pause)
	}
}

func (c *h2Conn) read() {
	defer close(c.done)
	<-c.pause
	for {
		frame, err := c.ReadFrame()
		var stream http2.StreamError
		if errors.As(err, &stream) {
			continue
		}
		c.mu.Lock()
		if err != nil {
			for _, s := range c.streams {
				if !s.Ended {
					s.Ended, s.Lost = true, true
				}
			}
			c.mu.Unlock()
			return
		}
		c.note(frame)
		c.mu.Unlock()
	}
}

// note records a frame; mu is held.
func (c *h2Conn) note(frame http2.Frame) {
	s := c.streams[frame.Header().StreamID]
	switch f := frame.(type) {
	case *http2.MetaHeadersFrame:
		if s != nil && f.PseudoValue("status") >= "200" {
			s.Status, s.Ended = f.PseudoValue("status"), f.StreamEnded()
		}
	case *http2.DataFrame:
		if s != nil {
			s.Body += string(f.Data())
			s.Ended = s.Ended || f.StreamEnded()
		}
	case *http2.RSTStreamFrame:
		if s != nil && !s.Ended {
			s.Reset, s.Ended = f.ErrCode, true
		}
	case *http2.GoAwayFrame:
		code := f.ErrCode
		c.goAway = &code
	case *http2.PingFrame:
		if f.IsAck() {
			c.pongs++
		}
	case *http2.SettingsFrame:
		_ = f.ForeachSetting(func(s http2.Setting) error { c.settings[s.ID] = s.Val; return nil })
	}
}

// field is a header field as it is sent.
type field struct{ name, value string }

// request are the pseudo-header fields of a request, and more.
func request(method, path string, more ...field) []field {
	return append([]field{{":method", method}, {":scheme", "https"}, {":authority", "gateway.test"}, {":path", path}}, more...)
}

// encode makes a header block; it belongs to the next frame.
func (c *h2Conn) encode(fields []field) []byte {
	c.block.Reset()
	for _, f := range fields {
		_ = c.enc.WriteField(hpack.HeaderField{Name: f.name, Value: f.value})
	}
	return c.block.Bytes()
}

// open sends the header of a request.
func (c *h2Conn) open(stream uint32, end bool, fields []field) error {
	c.mu.Lock()
	c.streams[stream] = &h2Outcome{}
	c.mu.Unlock()
	return c.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: c.encode(fields), EndStream: end, EndHeaders: true})
}

// outcome waits for the end of the stream.
func (c *h2Conn) outcome(t *testing.T, stream uint32) h2Outcome {
	t.Helper()
	var got h2Outcome
	apptest.Eventually(t, fmt.Sprintf("stream %d ends", stream), func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		got = *c.streams[stream]
		return got.Ended
	})
	return got
}

// closed reports whether the server has ended the connection.
func (c *h2Conn) closed() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

func (c *h2Conn) count(of func(h2Outcome) bool) (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.streams {
		if of(*s) {
			n++
		}
	}
	return n
}

// startH2 is the program with TLS in front of the recording backend.
func startH2(t *testing.T) (*apptest.Program, *attacktest.Upstream, *authority) {
	t.Helper()
	servers := newAuthority(t, "servers")
	p, up := startBehind(t, apptest.Options{Set: newKeyPair(t, servers).options(nil)})
	return p, up, servers
}

// served fails unless others are served at this moment.
func served(t *testing.T, p *apptest.Program, a *authority) {
	t.Helper()
	for _, h2 := range []bool{false, true} {
		answer, err := getHTTPS(t, httpsClient(t, a.config(), h2), p, "/open/others")
		if err != nil || answer.Status != http.StatusOK {
			t.Errorf("others are not served: status %d, %v", answer.Status, err)
		}
	}
}

// The cases of area H2 that are described by their frames. Each is sent on a
// connection of its own.
func TestH2RequestsThatCannotBeTrusted(t *testing.T) {
	p, up, servers := startH2(t)
	for _, test := range []struct {
		id, what string
		fields   []field
		body     string
		dropped  string // may be served if the backend does not get this field
		open     bool   // both serving and refusing are right, if the backend gets a clean request
	}{
		{id: "CTRL", what: "a plain request", fields: request("GET", "/open/x"), open: true},
		{id: "H2-01", what: "connection", fields: request("GET", "/open/x", field{"connection", "x-consumer"}), dropped: "Connection"},
		{id: "H2-01", what: "transfer-encoding", fields: request("POST", "/open/x", field{"transfer-encoding", "chunked"}), body: "abc", dropped: "Transfer-Encoding"},
		{id: "H2-01", what: "te", fields: request("GET", "/open/x", field{"te", "gzip"}), dropped: "Te"},
		{id: "H2-01", what: "upgrade", fields: request("GET", "/open/x", field{"upgrade", "websocket"}), dropped: "Upgrade"},
		{id: "H2-01", what: "keep-alive", fields: request("GET", "/open/x", field{"keep-alive", "5"}), dropped: "Keep-Alive"},
		{id: "H2-01", what: "proxy-connection", fields: request("GET", "/open/x", field{"proxy-connection", "close"}), dropped: "Proxy-Connection"},
		{id: "H2-03", what: "CRLF in a value", fields: request("GET", "/open/x", field{"x-a", "1\r\nx-consumer: admin"})},
		{id: "H2-03", what: "LF in a value", fields: request("GET", "/open/x", field{"x-a", "1\nx-consumer: admin"})},
		{id: "H2-03", what: "NUL in a value", fields: request("GET", "/open/x", field{"x-a", "1\x00"})},
		{id: "H2-03", what: "CRLF in the path", fields: request("GET", "/open/x HTTP/1.1\r\nx-consumer: admin\r\n\r\n")},
		{id: "H2-03", what: "CRLF in the authority", fields: []field{{":method", "GET"}, {":scheme", "https"}, {":authority", "a\r\nx: y"}, {":path", "/open/x"}}},
		{id: "H2-03", what: "CRLF in the method", fields: []field{{":method", "GET /open/y HTTP/1.1\r\nx: y\r\n\r\nGET"}, {":scheme", "https"}, {":authority", "a"}, {":path", "/open/x"}}},
		{id: "H2-06", what: "content-length shorter than DATA", fields: request("POST", "/open/x", field{"content-length", "1"}), body: "abcdef"},
		{id: "H2-06", what: "content-length longer than DATA", fields: request("POST", "/open/x", field{"content-length", "9"}), body: "abcdef"},
		{id: "H2-06", what: "two lengths", fields: request("POST", "/open/x", field{"content-length", "6"}, field{"content-length", "1"}), body: "abcdef", open: true},
		{id: "H2-06", what: "a length that is no number", fields: request("POST", "/open/x", field{"content-length", "+6"}), body: "abcdef", open: true},
		{id: "H2-08", what: "colon in a name", fields: request("GET", "/open/x", field{"x-a: 1\r\nx-consumer", "admin"})},
		{id: "H2-08", what: "space in a name", fields: request("GET", "/open/x", field{"x a", "1"})},
		{id: "H2-08", what: "a name in upper case", fields: request("GET", "/open/x", field{"X-Consumer", "admin"})},
		{id: "H2-08", what: "no name", fields: request("GET", "/open/x", field{"", "1"})},
		{id: "H2-08", what: "an unknown pseudo-header field", fields: request("GET", "/open/x", field{":consumer", "admin"})},
		{id: "H2-08", what: "a pseudo-header field at the end", fields: append(request("GET", "/open/x", field{"x-a", "1"}), field{":path", "/keyed/x"})},
		{id: "H2-08", what: "two paths", fields: request("GET", "/open/x", field{":path", "/keyed/x"})},
		{id: "H2-08", what: "no path", fields: []field{{":method", "GET"}, {":scheme", "https"}, {":authority", "a"}}},
	} {
		t.Run(test.id+" "+test.what, func(t *testing.T) {
			mark := up.Mark()
			c := dialH2(t, p, servers, h2Options{})
			if err := c.open(1, test.body == "", test.fields); err != nil {
				t.Fatal(err)
			}
			if test.body != "" {
				_ = c.WriteData(1, true, []byte(test.body)) // the server may have closed
			}
			got := c.outcome(t, 1)
			up.Settle(t.Context())
			seen := up.Since(mark)
			for _, r := range seen {
				if len(r.Anomalies) > 0 {
					t.Errorf("the backend got a request that is wrong: %v\n%s", r.Anomalies, everything(r))
				}
				if v := fieldValues(r, "X-Consumer"); len(v) != 0 {
					t.Errorf("the backend got X-Consumer %q", v)
				}
				if test.dropped != "" && len(fieldValues(r, test.dropped)) != 0 && test.dropped != "Connection" && test.dropped != "Transfer-Encoding" {
					t.Errorf("the backend got %s", test.dropped)
				}
			}
			switch {
			case test.id == "CTRL" && got.Status != "200":
				t.Errorf("outcome %+v", got)
			case len(seen) > 1:
				t.Errorf("the backend got %d requests", len(seen))
			case test.open || test.dropped != "":
			case !got.rejected():
				t.Errorf("served: %+v", got)
			case test.id != "H2-06" && len(seen) != 0:
				t.Errorf("rejected with %+v, but the backend got it", got)
			}
		})
	}
	served(t, p, servers)
}

// H2-05: the host that routes is the host that the backend is told.
func TestH2AuthorityDecides(t *testing.T) {
	p, up, servers := startH2(t)
	for authority, host := range map[string]string{"public.test": "private.test", "private.test": "public.test", "": "private.test"} {
		fields := []field{{":method", "GET"}, {":scheme", "https"}}
		if authority != "" {
			fields = append(fields, field{":authority", authority})
		}
		fields = append(fields, field{":path", "/open/x"}, field{"host", host})
		c, mark := dialH2(t, p, servers, h2Options{}), up.Mark()
		if err := c.open(1, true, fields); err != nil {
			t.Fatal(err)
		}
		got := c.outcome(t, 1)
		up.Settle(t.Context())
		seen := up.Since(mark)
		// Every path of private.test wants a key, and so must not get through.
		private := authority == "private.test" || authority == ""
		switch {
		case private && (got.Status != "401" && !got.rejected() || len(seen) != 0):
			t.Errorf("%q and %q: %+v, %d requests", authority, host, got, len(seen))
		case !private && !got.rejected() && len(seen) != 1:
			t.Errorf("%q and %q: %+v, %d requests", authority, host, got, len(seen))
		}
		for _, r := range seen {
			if v := fieldValues(r, "X-Forwarded-Host"); len(v) != 1 || v[0] != authority {
				t.Errorf("%q and %q: the backend is told %q", authority, host, v)
			}
		}
	}
}

// H2-10 (CVE-2023-45288): a header that never ends is cut off once it is longer
// than any header may be.
func TestH2ContinuationFloodEndsTheConnection(t *testing.T) {
	p, up, servers := startH2(t)
	for name, piece := range map[string]func(*h2Conn) []byte{
		"fields": func(c *h2Conn) []byte { return bytes.Clone(c.encode([]field{{"x-filler", randomText(4000)}})) },
		"one name, again and again": func(c *h2Conn) []byte {
			return bytes.Clone(c.encode([]field{{"cookie", strings.Repeat("a=b; ", 800)}}))
		},
		"a value without end": func(*h2Conn) []byte { return bytes.Repeat([]byte{'a'}, 4000) },
		"nothing":             func(*h2Conn) []byte { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			mark := up.Mark()
			c := dialH2(t, p, servers, h2Options{})
			block := bytes.Clone(c.encode(request("GET", "/open/x")))
			if name == "a value without end" {
				// A literal without indexing, with a new name "x" and a value of 1 GiB.
				block = append(block, 0x00, 0x01, 'x', 0x7f, 0x81, 0xff, 0xff, 0xff, 0x03)
			}
			err := c.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block})
			const most = 16 << 20
			sent, frames := 0, 0
			for ; err == nil && !c.closed() && sent < most && frames < 100_000; frames++ {
				text := piece(c)
				sent += len(text)
				err = c.WriteContinuation(1, false, text)
			}
			if name == "nothing" && err == nil && !c.closed() {
				// Empty frames cost their sender as much as us; what they must not do is end
				// in a request, or keep others waiting.
				t.Logf("%d empty frames are taken", frames)
				served(t, p, servers)
				return
			}
			apptest.Eventually(t, "the connection is closed", c.closed)
			if sent >= most {
				t.Errorf("%d MiB of one header were taken", sent>>20)
			}
			up.Settle(t.Context())
			if n := len(up.Since(mark)); n != 0 {
				t.Errorf("%d requests reached the backend", n)
			}
			t.Logf("closed after %d KiB in %d frames", sent>>10, frames)
		})
	}
	served(t, p, servers)
}

// heap is the memory in use, with what is garbage taken out.
func heap() int64 {
	var m runtime.MemStats
	for range 3 { // finalizers and pools
		runtime.GC()
	}
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// H2-11: a header of a few bytes that stands for a long one, on as many streams as
// there may be, none of whose answers is taken.
func TestH2HeaderBombIsBounded(t *testing.T) {
	p, _, servers := startH2(t)
	filler := field{"x-filler", randomText(3800)} // fits into the table of the other side
	const uses = 15                               // 57 KiB, just below the limit
	before := heap()
	const conns = 4
	var all []*h2Conn
	for range conns {
		c := dialH2(t, p, servers, h2Options{settings: []http2.Setting{{ID: http2.SettingInitialWindowSize, Val: 0}}})
		fields := request("GET", "/keyed/x")
		for range uses {
			fields = append(fields, filler)
		}
		wire := 0
		for i := range 3 * h2Streams {
			if err := c.open(uint32(2*i+1), true, fields); err != nil {
				break // too many
			}
			wire += c.block.Len()
		}
		if wire > 64<<10 {
			t.Fatalf("the bomb is no bomb: %d bytes on the wire", wire)
		}
		all = append(all, c)
	}
	for _, c := range all {
		apptest.Eventually(t, "the streams are answered or refused", func() bool {
			answered := c.count(func(s h2Outcome) bool { return s.Status != "" })
			refused := c.count(func(s h2Outcome) bool { return s.Reset != http2.ErrCodeNo || s.Lost })
			return answered+refused >= 3*h2Streams || c.closed()
		})
		if n := c.count(func(s h2Outcome) bool { return s.Status != "" && !s.Ended }); n > h2Streams {
			t.Errorf("%d streams are open, want %d at most", n, h2Streams)
		}
		c.mu.Lock()
		streams, list := c.settings[http2.SettingMaxConcurrentStreams], c.settings[http2.SettingMaxHeaderListSize]
		c.mu.Unlock()
		if streams != h2Streams || list == 0 || list > h2HeaderBytes+4096 {
			t.Errorf("announced: %d streams, headers of %d bytes", streams, list)
		}
	}
	grown := heap() - before
	t.Logf("%d KiB for %d connections of %d streams", grown>>10, conns, h2Streams)
	if most := int64(conns * h2Streams * h2HeaderBytes); grown > most {
		t.Errorf("%d KiB of memory, want %d at most: streams x limit", grown>>10, most>>10)
	}
	served(t, p, servers)
	for _, c := range all {
		_ = c.conn.NetConn().Close()
	}
	apptest.Eventually(t, "the memory is given back", func() bool { return heap()-before < 16<<20 })

	// More than the limit is refused, however short it is on the wire.
	c := dialH2(t, p, servers, h2Options{})
	fields := request("GET", "/open/x")
	for range 10 * uses {
		fields = append(fields, filler)
	}
	if err := c.open(1, true, fields); err != nil {
		t.Fatal(err)
	}
	if got := c.outcome(t, 1); !got.rejected() {
		t.Errorf("a header of %d KiB is served: %+v", 10*uses*len(filler.value)>>10, got)
	}
}

// H2-13 (CVE-2019-9512, 9515, 9518) and CVE-2023-44487: floods of frames that are
// cheap to send. Whoever does not read the answers loses the connection; nobody
// else waits.
func TestH2FloodsAreBounded(t *testing.T) {
	p, _, servers := startH2(t)
	goroutines := runtime.NumGoroutine()
	before := heap()
	// deaf sends frames for as long as they are taken, and reads nothing. Where every
	// frame has an answer of its own, somebody must put an end to it; where one answer
	// is for all of them, it is enough that they cost nothing but their reading.
	deaf := func(t *testing.T, mustEnd bool, frame func(*h2Conn) error) {
		t.Helper()
		const most = 1_000_000
		c := dialH2(t, p, servers, h2Options{deaf: true})
		_ = c.conn.SetWriteDeadline(time.Now().Add(patience))
		var err error
		n := 0
		for ; err == nil && n < most && (mustEnd || n < most/4); n++ {
			err = frame(c)
			if n%20_000 == 0 {
				served(t, p, servers)
				if grown := heap() - before; grown > 32<<20 {
					t.Fatalf("%d MiB of memory after %d frames", grown>>20, n)
				}
			}
		}
		if err == nil && mustEnd || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("%d frames were taken from a client that reads nothing: %v", n, err)
		}
		t.Logf("after %d frames: %v", n, err)
	}
	t.Run("PING", func(t *testing.T) {
		deaf(t, true, func(c *h2Conn) error { return c.WritePing(false, [8]byte{1}) })
	})
	t.Run("SETTINGS", func(t *testing.T) {
		deaf(t, false, func(c *h2Conn) error {
			return c.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1})
		})
	})
	t.Run("PING of one that reads", func(t *testing.T) {
		c := dialH2(t, p, servers, h2Options{})
		const n = 50_000
		for range n {
			if err := c.WritePing(false, [8]byte{1}); err != nil {
				return // closed is right too
			}
		}
		apptest.Eventually(t, "each is answered once, or the connection closed", func() bool {
			c.mu.Lock()
			defer c.mu.Unlock()
			return c.pongs == n || c.closed()
		})
		served(t, p, servers)
	})
	t.Run("empty DATA", func(t *testing.T) {
		c := dialH2(t, p, servers, h2Options{})
		if err := c.open(1, false, request("POST", "/open/x")); err != nil {
			t.Fatal(err)
		}
		for n := range 200_000 {
			if err := c.WriteData(1, false, nil); err != nil {
				return // closed is right too
			}
			if n%50_000 == 0 {
				served(t, p, servers)
			}
		}
		if err := c.WriteData(1, true, []byte("abc")); err != nil {
			return
		}
		if got := c.outcome(t, 1); got.Status != "200" && !got.rejected() {
			t.Errorf("outcome %+v", got)
		}
	})
	t.Run("rapid reset", func(t *testing.T) {
		c := dialH2(t, p, servers, h2Options{})
		var most, n int
		for ; n < 20_000; n++ {
			stream := uint32(2*n + 1)
			if err := c.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: c.encode(request("GET", "/open/x?delay=1")), EndStream: true, EndHeaders: true}); err != nil {
				break
			}
			if err := c.WriteRSTStream(stream, http2.ErrCodeCancel); err != nil {
				break
			}
			if n%100 == 0 {
				most = max(most, runtime.NumGoroutine()-goroutines)
			}
			if n%2000 == 0 {
				served(t, p, servers)
			}
		}
		t.Logf("at most %d goroutines more; after %d requests the connection is closed: %t", most, n, n < 20_000)
		if most > 10*h2Streams {
			t.Errorf("%d goroutines for the requests of one connection", most)
		}
		served(t, p, servers)
	})
	apptest.Eventually(t, "the memory is given back", func() bool { return heap()-before < 16<<20 })
}

// The case file names exactly the cases of HTTP/2 that these tests are.
func TestEveryCaseOfH2HasATest(t *testing.T) {
	text, err := os.ReadFile("security_h2_test.go")
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, c := range attacktest.Load(t, filepath.Join(attackDir, "cases.jsonl")) {
		if c.Area != "H2" {
			continue
		}
		ids = append(ids, c.ID)
		if !bytes.Contains(text, []byte(c.ID)) {
			t.Errorf("%s has no test: %s", c.ID, c.Title)
		}
	}
	if want := []string{"H2-01", "H2-03", "H2-05", "H2-06", "H2-08", "H2-10", "H2-11", "H2-13"}; !slices.Equal(ids, want) {
		t.Errorf("cases %v, want %v", ids, want)
	}
}

package upstream_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keywarden/keywarden/pkg/gateway/upstream"
	"github.com/keywarden/keywarden/pkg/gateway/upstream/http1"
)

// secureBackend says by which protocol and with which offers it was asked.
func secureBackend(t *testing.T, a *authority, http2 bool, handler http.HandlerFunc) (*httptest.Server, upstream.Identity) {
	t.Helper()
	a.issue(t, "backend.internal", a)
	pair, err := tls.LoadX509KeyPair(a.file("backend.internal.pem"), a.file("backend.internal.key"))
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(handler)
	s.EnableHTTP2 = http2
	s.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
	s.StartTLS()
	t.Cleanup(s.Close)
	files, err := upstream.TLS{CAFile: a.file("authority.pem"), ServerName: "backend.internal"}.Read()
	if err != nil {
		t.Fatal(err)
	}
	return s, upstream.Identity{
		Scheme: "https", Host: s.Listener.Addr().String(), ConnectTimeout: 5 * time.Second, ResponseTimeout: 5 * time.Second, TLS: files,
	}
}

func newPool(t *testing.T, id upstream.Identity) *upstream.Pool {
	t.Helper()
	var pools upstream.Pools
	t.Cleanup(func() { pools.Keep(nil) })
	return mustGet(t, &pools, id)
}

func text(t *testing.T, resp *http.Response) string {
	t.Helper()
	defer resp.Body.Close()
	all, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(all)
}

// A service with TLS is asked in the short way when it speaks HTTP/1.1: by the document,
// or because it has shown so.
func TestPoolLearnsWhatAServiceWithTLSSpeaks(t *testing.T) {
	for name, c := range map[string]struct {
		protocol      upstream.Protocol
		http2         bool
		before, after bool
		proto         string
	}{
		"told HTTP/1.1":       {upstream.HTTP1, false, true, true, "HTTP/1.1"},
		"told, though it can": {upstream.HTTP1, true, true, true, "HTTP/1.1"},
		"shown HTTP/1.1":      {upstream.Auto, false, false, true, "HTTP/1.1"},
		"shown HTTP/2":        {upstream.Auto, true, false, false, "HTTP/2.0"},
	} {
		t.Run(name, func(t *testing.T) {
			s, id := secureBackend(t, newAuthority(t), c.http2, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.Proto) })
			id.Protocol = c.protocol
			p := newPool(t, id)
			if p.Plain() != c.before {
				t.Errorf("plain at first: %t", p.Plain())
			}
			for range 3 {
				if got := text(t, get(t, p, s.URL)); got != c.proto {
					t.Errorf("spoken was %s", got)
				}
				if p.Plain() != c.after {
					t.Errorf("plain after an answer: %t", p.Plain())
				}
			}
		})
	}
}

// A service that spoke HTTP/1.1 and now takes no handshake for that alone is asked in the
// ordinary way, by the same request.
func TestPoolFallsBackWhenTheShortHandshakeFails(t *testing.T) {
	var strict atomic.Bool
	var refused atomic.Int64
	s, id := secureBackend(t, newAuthority(t), true, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("Connection", "close")
		fmt.Fprint(w, r.Proto, string(body))
	})
	s.TLS.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		if strict.Load() && len(hello.SupportedProtos) == 1 {
			refused.Add(1)
			return nil, fmt.Errorf("HTTP/2 only")
		}
		config := s.TLS.Clone()
		if config.GetConfigForClient = nil; !strict.Load() {
			config.NextProtos = []string{"http/1.1"}
		}
		return config, nil
	}
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	p := newPool(t, id)
	for i := range 6 {
		strict.Store(i > 2)
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL, io.NopCloser(&once{text: "body"}))
		if err != nil {
			t.Fatal(err)
		}
		r.ContentLength = 4
		resp, err := p.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := text(t, resp), map[bool]string{false: "HTTP/1.1body", true: "HTTP/2.0body"}[strict.Load()]; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		if p.Plain() == strict.Load() {
			t.Errorf("after %d requests: plain is %t", i+1, p.Plain())
		}
	}
	if n := refused.Load(); n != 1 {
		t.Errorf("%d handshakes were refused, want 1", n)
	}
}

// A service that says HTTP/1.1 to others and nothing to the own client is not asked in two
// ways for ever.
func TestPoolGivesUpTheShortWayThatNeverWorks(t *testing.T) {
	var refused atomic.Int64
	s, id := secureBackend(t, newAuthority(t), false, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Connection", "close")
		fmt.Fprint(w, r.Proto)
	})
	s.TLS.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		if len(hello.SupportedProtos) == 1 {
			refused.Add(1)
			return nil, fmt.Errorf("not alone")
		}
		return nil, nil
	}
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	p := newPool(t, id)
	for range 10 {
		if got := text(t, get(t, p, s.URL)); got != "HTTP/1.1" {
			t.Errorf("got %s", got)
		}
	}
	if n := refused.Load(); n != 3 || p.Plain() {
		t.Errorf("%d handshakes were refused, want 3; plain is %t", n, p.Plain())
	}
}

type once struct {
	text string
	at   int
}

func (o *once) Read(p []byte) (int, error) {
	if o.at == len(o.text) {
		return 0, io.EOF
	}
	n := copy(p, o.text[o.at:])
	o.at += n
	return n, nil
}

// caller has bounds, and hears of interim answers.
type caller struct {
	deadline time.Time
	idle     time.Duration
	interim  atomic.Int64
}

func (c *caller) Interim(int, http.Header) { c.interim.Add(1) }

func (c *caller) Bounds() (time.Time, time.Duration) { return c.deadline, c.idle }

// What the ordinary transport takes over keeps what its caller was promised.
func TestBoundsHoldInTheOrdinaryWayToo(t *testing.T) {
	release := make(chan struct{})
	b := newBackend(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusEarlyHints)
		if r.URL.Path == "/header" {
			<-release
		}
		_, _ = io.WriteString(w, "begin,")
		_ = http.NewResponseController(w).Flush()
		if r.URL.Path == "/body" {
			<-release
		}
		_, _ = io.WriteString(w, "end")
	}))
	defer close(release)
	p := newPool(t, b.identity())
	for name, c := range map[string]struct {
		path           string
		deadline, idle time.Duration
		want           error
	}{
		"in time":                  {"/", time.Hour, time.Hour, nil},
		"deadline for the header":  {"/header", 50 * time.Millisecond, 0, http1.ErrDeadline},
		"deadline for the body":    {"/body", 200 * time.Millisecond, 0, http1.ErrDeadline},
		"silence in the body":      {"/body", time.Hour, 50 * time.Millisecond, http1.ErrIdle},
		"bounds that do not count": {"/", 0, 0, nil},
	} {
		t.Run(name, func(t *testing.T) {
			to := &caller{idle: c.idle}
			if c.deadline > 0 {
				to.deadline = time.Now().Add(c.deadline)
			}
			r, err := http.NewRequestWithContext(context.WithValue(t.Context(), http1.InterimKey{}, to), "PROPFIND", b.URL+c.path, nil)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := p.RoundTrip(r)
			if err == nil {
				_, err = io.ReadAll(resp.Body)
				_ = resp.Body.Close()
			}
			if !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
			if to.interim.Load() != 1 {
				t.Errorf("told of %d interim answers", to.interim.Load())
			}
		})
	}
}

func TestBoundsAreLiftedInTheOrdinaryWayToo(t *testing.T) {
	read := make(chan struct{})
	b := newBackend(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_ = http.NewResponseController(w).Flush()
		<-read
		time.Sleep(200 * time.Millisecond) // longer than both bounds
		_, _ = io.WriteString(w, "end")
	}))
	p := newPool(t, b.identity())
	to := &caller{deadline: time.Now().Add(150 * time.Millisecond), idle: 50 * time.Millisecond}
	r, err := http.NewRequestWithContext(context.WithValue(t.Context(), http1.InterimKey{}, to), "PROPFIND", b.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := p.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.(http1.Bounded).SetBounds(time.Time{}, 0)
	close(read)
	if got := text(t, resp); got != "end" {
		t.Errorf("got %q", got)
	}
}

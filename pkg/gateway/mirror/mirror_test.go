package mirror_test

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/gateway/mirror"
	"github.com/keywarden/keywarden/pkg/reqctx"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// stage is a mirror with what it leads to.
type stage struct {
	*mirror.Mirror
	copies   *mirror.Copies
	outcomes [5]atomic.Int64
	mu       sync.Mutex
	bodies   []string // of the copies
	log      bytes.Buffer
}

func newStage(t *testing.T, limit int, change func(*stage, *mirror.Config)) *stage {
	t.Helper()
	s := &stage{}
	s.copies = mirror.NewCopies(limit, slog.New(slog.NewTextHandler(&s.log, nil)))
	t.Cleanup(s.copies.Close)
	c := mirror.Config{
		Copies: s.copies, Percent: 100, MaxBody: 16, Timeout: 20 * time.Second,
		Next: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			if err != nil {
				w.WriteHeader(http.StatusBadRequest)
			}
			_, _ = w.Write(body)
		}),
		Shadow: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.keep(r) }),
		Count:  func(o mirror.Outcome) { s.outcomes[o].Add(1) },
	}
	if change != nil {
		change(s, &c)
	}
	m, err := mirror.New(c)
	if err != nil {
		t.Fatal(err)
	}
	s.Mirror = m
	return s
}

func (s *stage) keep(r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bodies = append(s.bodies, string(body))
}

// wants waits until the outcomes are these, and nothing else.
func (s *stage) wants(t *testing.T, want map[mirror.Outcome]int64) {
	t.Helper()
	var got map[mirror.Outcome]int64
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		got = map[mirror.Outcome]int64{}
		same := true
		for i := range s.outcomes {
			n := s.outcomes[i].Load()
			if n != 0 {
				got[mirror.Outcome(i)] = n
			}
			same = same && n == want[mirror.Outcome(i)]
		}
		if same {
			return
		}
	}
	t.Fatalf("outcomes %v, want %v", got, want)
}

func (s *stage) serve(r *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	return w
}

// stream is a body whose length nobody knows.
type stream struct{ io.Reader }

func TestRequestsAreCopiedAsTheyWere(t *testing.T) {
	for _, c := range []struct {
		name string
		body io.Reader
		want string
	}{
		{"no body", nil, ""},
		{"body", strings.NewReader("order"), "order"},
		{"body of unknown length", stream{strings.NewReader("order")}, "order"},
		{"body of unknown length without content", stream{strings.NewReader("")}, ""},
		{"body as long as it may be", strings.NewReader("0123456789abcdef"), "0123456789abcdef"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got *http.Request
			s := newStage(t, 8, func(s *stage, c *mirror.Config) {
				c.Shadow = http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
					s.keep(r)
					got = r
				})
			})
			r := httptest.NewRequest("POST", "/a%2Cb?c=d", c.body)
			r.Host = "api.example.com"
			r.Header["X-Own"] = []string{"1", "2"}
			r.Header.Set("Expect", "100-continue")
			info := &reqctx.Info{ID: "7", Route: "r", Timeout: time.Second, Code: "x"}
			ctx := access.WithPrincipal(reqctx.With(r.Context(), info), &access.Principal{UserID: "u"})
			if w := s.serve(r.WithContext(ctx)); w.Body.String() != c.want {
				t.Fatalf("the client got %q", w.Body)
			}
			s.wants(t, map[mirror.Outcome]int64{mirror.Answered: 1})
			s.copies.Close()
			if s.bodies[0] != c.want || got.ContentLength != int64(len(c.want)) {
				t.Errorf("the copy has %q of length %d, want %q", s.bodies[0], got.ContentLength, c.want)
			}
			if got.Method != "POST" || got.URL.String() != "/a%2Cb?c=d" || got.Host != "api.example.com" || len(got.Header["X-Own"]) != 2 || got.Header.Get("Expect") != "" {
				t.Errorf("the copy is %s %s of %s with %v", got.Method, got.URL, got.Host, got.Header)
			}
			copied := reqctx.From(got.Context())
			if copied == info || copied.ID != "7" || copied.Timeout != 0 || copied.Code != "" || access.PrincipalFrom(got.Context()).UserID != "u" {
				t.Errorf("the copy knows %+v", copied)
			}
		})
	}
}

func TestWhatCannotBeCopiedIsCounted(t *testing.T) {
	broken := errors.New("broken")
	for _, c := range []struct {
		name string
		body io.Reader
		next http.HandlerFunc
		want mirror.Outcome
	}{
		{"length over the limit", strings.NewReader("0123456789abcdefg"), nil, mirror.TooLarge},
		{"stream over the limit", stream{strings.NewReader("0123456789abcdefg")}, nil, mirror.TooLarge},
		{"body that breaks off", stream{io.MultiReader(strings.NewReader("a"), failing{broken})}, nil, mirror.Incomplete},
		{"body that nobody reads", strings.NewReader("order"), func(http.ResponseWriter, *http.Request) {}, mirror.Incomplete},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newStage(t, 8, func(_ *stage, m *mirror.Config) {
				if c.next != nil {
					m.Next = c.next
				}
			})
			s.serve(httptest.NewRequest("POST", "/", c.body))
			s.wants(t, map[mirror.Outcome]int64{c.want: 1})
			s.copies.Close()
			if len(s.bodies) > 0 {
				t.Errorf("it was copied: %q", s.bodies)
			}
		})
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// TestBodiesAreNotHeldBack reads a body that goes on only after its first half has
// arrived at the service.
func TestBodiesAreNotHeldBack(t *testing.T) {
	arrived := make(chan string)
	s := newStage(t, 8, func(_ *stage, c *mirror.Config) {
		c.Next = http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			for buffer := make([]byte, 8); ; {
				n, err := r.Body.Read(buffer)
				if n > 0 {
					arrived <- string(buffer[:n])
				}
				if err != nil {
					return
				}
			}
		})
	})
	body, client := io.Pipe()
	done := make(chan struct{})
	go func() { defer close(done); s.serve(httptest.NewRequest("POST", "/", body)) }()
	for _, piece := range []string{"one", "two"} {
		_, _ = io.WriteString(client, piece)
		if got := <-arrived; got != piece {
			t.Errorf("%q arrived, want %q", got, piece)
		}
	}
	if n := s.outcomes[mirror.Answered].Load(); n != 0 {
		t.Error("it was sent before its body had ended")
	}
	client.Close()
	<-done
	s.wants(t, map[mirror.Outcome]int64{mirror.Answered: 1})
}

// TestAHungShadowCostsRequestsNothing fills all places: requests go on, copies do
// not pile up, and the owner ends those that there are.
func TestAHungShadowCostsRequestsNothing(t *testing.T) {
	const limit = 5
	var under atomic.Int64
	s := newStage(t, limit, func(_ *stage, c *mirror.Config) {
		c.Shadow = http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			under.Add(1)
			defer under.Add(-1)
			<-r.Context().Done()
			reqctx.From(r.Context()).Code = "gateway.upstream_timeout"
		})
	})
	for range 100 {
		if w := s.serve(httptest.NewRequest("POST", "/", strings.NewReader("order"))); w.Body.String() != "order" {
			t.Fatalf("the client got %q", w.Body)
		}
	}
	s.wants(t, map[mirror.Outcome]int64{mirror.Dropped: 100 - limit})
	s.copies.Close()
	s.wants(t, map[mirror.Outcome]int64{mirror.Dropped: 100 - limit, mirror.Failed: limit})
	if under.Load() != 0 {
		t.Errorf("%d copies outlive their owner", under.Load())
	}
	s.serve(httptest.NewRequest("GET", "/", nil))
	s.wants(t, map[mirror.Outcome]int64{mirror.Dropped: 101 - limit, mirror.Failed: limit})
}

// TestOneMirrorLeavesRoomForOthers hangs one of two mirrors with the same owner.
func TestOneMirrorLeavesRoomForOthers(t *testing.T) {
	s := newStage(t, mirror.MaxCopies, func(_ *stage, c *mirror.Config) {
		c.Shadow = http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	})
	for range mirror.MaxCopies {
		s.serve(httptest.NewRequest("GET", "/", nil))
	}
	if n := s.outcomes[mirror.Dropped].Load(); n == 0 || n == mirror.MaxCopies {
		t.Errorf("%d of %d were dropped", n, mirror.MaxCopies)
	}
	other := newStage(t, 1, func(_ *stage, c *mirror.Config) { c.Copies = s.copies })
	other.serve(httptest.NewRequest("GET", "/", nil))
	other.wants(t, map[mirror.Outcome]int64{mirror.Answered: 1})
}

func TestPlacesAreGivenBack(t *testing.T) {
	s := newStage(t, 1, nil)
	bodies := []func() io.Reader{
		func() io.Reader { return nil },
		func() io.Reader { return strings.NewReader("order") },
		func() io.Reader { return stream{strings.NewReader("0123456789abcdefg")} },
		func() io.Reader { return stream{failing{io.ErrUnexpectedEOF}} },
	}
	want := map[mirror.Outcome]int64{}
	outcome := []mirror.Outcome{mirror.Answered, mirror.Answered, mirror.TooLarge, mirror.Incomplete}
	for range 50 {
		for i, body := range bodies {
			s.serve(httptest.NewRequest("POST", "/", body()))
			want[outcome[i]]++
			s.wants(t, want)
		}
	}
}

func TestTheShadowIsGivenUpInTime(t *testing.T) {
	s := newStage(t, 1, func(_ *stage, c *mirror.Config) {
		c.Timeout = time.Millisecond
		c.Shadow = http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			<-r.Context().Done()
			reqctx.From(r.Context()).Code = "gateway.upstream_timeout"
		})
	})
	s.serve(httptest.NewRequest("GET", "/", nil))
	s.wants(t, map[mirror.Outcome]int64{mirror.Failed: 1})
}

func TestAnswersAreReadUpToABound(t *testing.T) {
	var read atomic.Int64
	s := newStage(t, 1, func(_ *stage, c *mirror.Config) {
		c.Shadow = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-Own", "1")
			w.WriteHeader(500)
			for piece := make([]byte, 64<<10); ; {
				n, err := w.Write(piece)
				if read.Add(int64(n)); err != nil {
					return
				}
			}
		})
	})
	w := s.serve(httptest.NewRequest("GET", "/", nil))
	s.wants(t, map[mirror.Outcome]int64{mirror.Answered: 1})
	if n := read.Load(); n != 1<<20 {
		t.Errorf("%d bytes were read", n)
	}
	if w.Code != 200 || w.Header().Get("X-Own") != "" {
		t.Errorf("the client saw the shadow's answer: %d %v", w.Code, w.Header())
	}
}

func TestAPanicOfTheShadowIsLoggedAndNothingElse(t *testing.T) {
	for fault, logged := range map[any]bool{"oh": true, http.ErrAbortHandler: false} {
		s := newStage(t, 1, func(_ *stage, c *mirror.Config) {
			c.Shadow = http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(fault) })
		})
		s.serve(httptest.NewRequest("GET", "/", nil))
		s.wants(t, map[mirror.Outcome]int64{mirror.Failed: 1})
		s.copies.Close()
		if got := strings.Contains(s.log.String(), "panic=oh"); got != logged {
			t.Errorf("%v: logged %t, want %t: %s", fault, got, logged, &s.log)
		}
	}
}

func TestAPanicOfTheRequestGivesTheCopyUp(t *testing.T) {
	s := newStage(t, 1, func(_ *stage, c *mirror.Config) {
		c.Next = http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	})
	func() {
		defer func() { _ = recover() }()
		s.serve(httptest.NewRequest("POST", "/", strings.NewReader("order")))
	}()
	s.wants(t, map[mirror.Outcome]int64{mirror.Incomplete: 1})
}

func TestCopiesAndUpgradesAreNotCopied(t *testing.T) {
	s := newStage(t, 1, nil)
	for _, name := range []string{"X-Mirrored", "Upgrade"} {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header.Set(name, "1")
		s.serve(r)
	}
	s.copies.Close()
	s.wants(t, nil)
}

func TestThePercentageIsKept(t *testing.T) {
	next := 0
	s := newStage(t, 1, func(_ *stage, c *mirror.Config) {
		c.Percent = 12.5
		c.Random = func() float64 { next++; return float64(next%1000) / 1000 }
	})
	s.copies.Close() // each chosen one is dropped, and counted
	for range 10_000 {
		s.serve(httptest.NewRequest("GET", "/", nil))
	}
	s.wants(t, map[mirror.Outcome]int64{mirror.Dropped: 1250})
}

// BenchmarkNotChosen is what a mirror costs the requests that it lets pass.
func BenchmarkNotChosen(b *testing.B) {
	copies := mirror.NewCopies(mirror.MaxCopies, slog.New(slog.DiscardHandler))
	defer copies.Close()
	nothing := http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
	m, err := mirror.New(mirror.Config{
		Copies: copies, Next: nothing, Shadow: nothing, Percent: 1e-9, MaxBody: 1 << 10, Timeout: time.Second,
		Count: func(mirror.Outcome) {},
	})
	if err != nil {
		b.Fatal(err)
	}
	r := httptest.NewRequest("GET", "/", nil)
	b.ReportAllocs()
	for b.Loop() {
		m.ServeHTTP(nil, r)
	}
}

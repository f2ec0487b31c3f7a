package dns_test

import (
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/net/dns/dnsmessage"

	"github.com/keywarden/keywarden/pkg/gateway/discovery"
	"github.com/keywarden/keywarden/pkg/gateway/discovery/discoverytest"
	"github.com/keywarden/keywarden/pkg/gateway/discovery/dns"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// server is a name server with a few records.
type server struct {
	t       *testing.T
	conn    net.PacketConn
	asked   atomic.Int64
	mu      sync.Mutex
	records map[string][]dnsmessage.ResourceBody // by name with the dot at its end
	code    dnsmessage.RCode                     // for all questions, unless it is success
}

func newServer(t *testing.T) *server {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &server{t: t, conn: conn, records: map[string][]dnsmessage.ResourceBody{}}
	done := make(chan struct{})
	go func() { defer close(done); s.serve() }()
	t.Cleanup(func() { _ = conn.Close(); <-done })
	return s
}

func (s *server) serve() {
	buffer := make([]byte, 4096)
	for {
		n, from, err := s.conn.ReadFrom(buffer)
		if err != nil {
			return
		}
		s.asked.Add(1)
		var m dnsmessage.Message
		if err := m.Unpack(buffer[:n]); err != nil {
			continue
		}
		answer, err := s.answer(m)
		if err == nil {
			_, err = s.conn.WriteTo(answer, from)
		}
		if err != nil && !errors.Is(err, net.ErrClosed) {
			s.t.Errorf("the name server: %v", err)
		}
	}
}

func (s *server) answer(m dnsmessage.Message) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	q := m.Questions[0]
	m.Response, m.Authoritative, m.RCode, m.Additionals = true, true, s.code, nil
	bodies, known := s.records[q.Name.String()]
	if !known && m.RCode == dnsmessage.RCodeSuccess {
		m.RCode = dnsmessage.RCodeNameError
	}
	for _, body := range bodies {
		kind := dnsmessage.TypeA
		switch body.(type) {
		case *dnsmessage.AAAAResource:
			kind = dnsmessage.TypeAAAA
		case *dnsmessage.SRVResource:
			kind = dnsmessage.TypeSRV
		}
		if kind == q.Type && s.code == dnsmessage.RCodeSuccess {
			m.Answers = append(m.Answers, dnsmessage.Resource{
				Header: dnsmessage.ResourceHeader{Name: q.Name, Type: kind, Class: dnsmessage.ClassINET, TTL: 1}, Body: body,
			})
		}
	}
	return m.Pack()
}

func (s *server) has(name string, bodies ...dnsmessage.ResourceBody) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.records[name] = bodies
}

func (s *server) answers(code dnsmessage.RCode) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.code = code
}

func a(addr string) dnsmessage.ResourceBody {
	return &dnsmessage.AResource{A: netip.MustParseAddr(addr).As4()}
}

func aaaa(addr string) dnsmessage.ResourceBody {
	return &dnsmessage.AAAAResource{AAAA: netip.MustParseAddr(addr).As16()}
}

func srv(target string, port, priority, weight uint16) dnsmessage.ResourceBody {
	return &dnsmessage.SRVResource{Target: dnsmessage.MustNewName(target), Port: port, Priority: priority, Weight: weight}
}

func (s *server) start(kind string, port uint16, name string) *discoverytest.Run {
	s.t.Helper()
	return discoverytest.Start(s.t, dns.New(dns.Config{
		Name: name, Type: kind, Port: port, Interval: 5 * time.Millisecond, Server: s.conn.LocalAddr().String(),
	}))
}

func TestAddressesAreFollowed(t *testing.T) {
	s := newServer(t)
	s.has("users.internal.", a("10.0.0.2"), a("10.0.0.1"), aaaa("fd00::1"))
	for kind, want := range map[string][]discovery.Found{
		"A":    {{Host: "10.0.0.1:8081"}, {Host: "10.0.0.2:8081"}},
		"AAAA": {{Host: "[fd00::1]:8081"}},
		"":     {{Host: "10.0.0.1:8081"}, {Host: "10.0.0.2:8081"}, {Host: "[fd00::1]:8081"}},
	} {
		t.Run("type "+kind, func(t *testing.T) {
			s.t = t
			s.start(kind, 8081, "users.internal").Wait(want...)
		})
	}
	s.t = t
	run := s.start("A", 80, "users.internal.")
	run.Wait(discovery.Found{Host: "10.0.0.1:80"}, discovery.Found{Host: "10.0.0.2:80"})
	s.has("users.internal.", a("10.0.0.3"))
	run.Wait(discovery.Found{Host: "10.0.0.3:80"})
}

func TestSRVRecordsHavePortsTiersAndWeights(t *testing.T) {
	s := newServer(t)
	const name = "_http._tcp.users.internal."
	s.has(name, srv("a.internal.", 8081, 10, 60), srv("b.internal.", 8082, 10, 0), srv("c.internal.", 8083, 65535, 5))
	s.has("a.internal.", a("10.0.0.1"))
	s.has("b.internal.", a("10.0.0.2"), aaaa("fd00::2"))
	s.has("c.internal.", a("10.0.0.3"))
	run := s.start("SRV", 0, "_http._tcp.users.internal")
	run.Wait(
		discovery.Found{Host: "10.0.0.1:8081", Weight: 60},
		discovery.Found{Host: "10.0.0.2:8082", Weight: 1},
		discovery.Found{Host: "10.0.0.3:8083", Weight: 5, Priority: 1},
		discovery.Found{Host: "[fd00::2]:8082", Weight: 1},
	)
	s.has(name, srv("a.internal.", 1, 0, 65535), srv("b.internal.", 2, 0, 655))
	s.has("b.internal.", a("10.0.0.2"))
	run.Wait(discovery.Found{Host: "10.0.0.1:1", Weight: 1000}, discovery.Found{Host: "10.0.0.2:2", Weight: 9})
}

// The DNS cannot say "none" in a way that is no mistake in a zone.
func TestANameWithoutAddressesIsAFailure(t *testing.T) {
	for name, prepare := range map[string]func(*server){
		"unknown name":   func(*server) {},
		"no records":     func(s *server) { s.has("users.internal.") },
		"server failure": func(s *server) { s.answers(dnsmessage.RCodeServerFailure) },
		"refused":        func(s *server) { s.answers(dnsmessage.RCodeRefused) },
	} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t)
			prepare(s)
			for _, kind := range []string{"A", "AAAA", "", "SRV"} {
				if err := s.start(kind, 1, "users.internal").Err(); err == nil {
					t.Errorf("type %q: no error", kind)
				}
			}
		})
	}
	t.Run("later", func(t *testing.T) {
		s := newServer(t)
		s.has("users.internal.", a("10.0.0.1"))
		run := s.start("A", 1, "users.internal")
		run.Wait(discovery.Found{Host: "10.0.0.1:1"})
		s.answers(dnsmessage.RCodeNameError)
		if run.Err() == nil {
			t.Error("no error")
		}
		if last := run.Last(); len(last) != 1 {
			t.Errorf("published %v", last)
		}
	})
}

func TestAHostWithoutAddressesIsLeftOut(t *testing.T) {
	s := newServer(t)
	s.has("s.internal.", srv("gone.internal.", 1, 0, 1), srv("a.internal.", 2, 0, 1))
	s.has("a.internal.", a("10.0.0.1"))
	run := s.start("SRV", 0, "s.internal")
	discoverytest.Eventually(t, "an answer", func() bool { return run.Answers() > 0 })
	last := run.Last()
	if len(last) != 2 || last[0].Err == nil || last[1].Host != "10.0.0.1:2" {
		t.Errorf("published %+v", last)
	}
}

func TestTheIntervalIsKept(t *testing.T) {
	s := newServer(t)
	s.has("users.internal.", a("10.0.0.1"))
	run := discoverytest.Start(t, dns.New(dns.Config{
		Name: "users.internal", Type: "A", Port: 1, Interval: time.Hour, Server: s.conn.LocalAddr().String(),
	}))
	run.Wait(discovery.Found{Host: "10.0.0.1:1"})
	if n := s.asked.Load(); n != 1 || run.Answers() != 1 {
		t.Errorf("it was asked %d times", n)
	}
}

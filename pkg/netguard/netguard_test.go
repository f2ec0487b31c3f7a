package netguard_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/keywarden/keywarden/pkg/netguard"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newGuard(t testing.TB, allow ...string) *netguard.Guard {
	t.Helper()
	var prefixes []netip.Prefix
	for _, text := range allow {
		prefixes = append(prefixes, netip.MustParsePrefix(text))
	}
	g, err := netguard.New(prefixes, nil)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// inside are addresses that must never be reached unless somebody allowed them.
var inside = []string{
	"127.0.0.1", "127.255.255.254", "0.0.0.0", "0.1.2.3", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1",
	"169.254.169.254", "169.254.170.2", "100.64.0.1", "100.100.100.200", "192.0.0.192", "192.0.2.1", "198.18.0.1", "198.51.100.7",
	"203.0.113.9", "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255", "168.63.129.16", "192.88.99.1",
	"::", "::1", "::7f00:1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "fe80::1", "fec0::1", "fc00::1",
	"fd00:ec2::254", "ff02::1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::a00:1", "2002:7f00:1::", "2001:0:7f00:1::1",
	"2001:db8::1", "100::1", "3fff::1", "5f00::1",
}

func TestNoAddressInsideIsReached(t *testing.T) {
	g := newGuard(t)
	for _, text := range inside {
		addr := netip.MustParseAddr(text)
		if err := g.Check(netip.AddrPortFrom(addr, 443)); !errors.Is(err, netguard.ErrAddress) {
			t.Errorf("%s: %v", text, err)
		}
		if netguard.Public(addr.Unmap()) {
			t.Errorf("%s is public", text)
		}
	}
	for _, text := range []string{"1.1.1.1", "93.184.215.14", "172.15.0.1", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "2a00:1450:4001::1", "::ffff:1.1.1.1"} {
		if err := g.Check(netip.AddrPortFrom(netip.MustParseAddr(text), 443)); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestPortsOfPublicAddressesAreLimited(t *testing.T) {
	g := newGuard(t, "10.1.0.0/16", "fd00:1::/32")
	for text, want := range map[string]error{
		"1.1.1.1:80": nil, "1.1.1.1:443": nil, "1.1.1.1:22": netguard.ErrPort, "1.1.1.1:6379": netguard.ErrPort, "[2606:4700::1]:25": netguard.ErrPort,
		"10.1.2.3:22": nil, "[::ffff:10.1.2.3]:9000": nil, "10.2.0.1:443": netguard.ErrAddress, "[fd00:1::5]:8125": nil, "[fd00:2::5]:443": netguard.ErrAddress,
	} {
		if err := g.Check(netip.MustParseAddrPort(text)); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", text, err, want)
		}
	}
	if _, err := netguard.New([]netip.Prefix{{}}, nil); err == nil {
		t.Error("an invalid prefix is accepted")
	}
	if _, err := netguard.New([]netip.Prefix{netip.MustParsePrefix("::ffff:10.0.0.0/104")}, nil); err == nil {
		t.Error("a prefix that would never match is accepted")
	}
}

func TestURLsOfOtherKindsAreRefused(t *testing.T) {
	g := newGuard(t)
	for _, text := range []string{
		"", "/path", "example.com", "file:///etc/passwd", "gopher://example.com/", "unix:/var/run/docker.sock", "data:text/plain,x",
		"ftp://example.com/", "jar:http://example.com!/", "javascript:alert(1)", "HTTP+unix://x/", "http://", "http:///x", "http:example.com",
		"http://user:password@example.com/", "https://example.com/#fragment", "https://example.com/#", "http://exa mple.com/", "http://example.com\r\nX: y/",
		"http://example.com:99999/", "http://example.com\\@127.0.0.1/", "http://[::1", "http://\t127.0.0.1/",
		"http://127.0.0.1/", "http://127.1/", "http://0/", "http://0.0.0.0/", "http://0x7f000001/", "http://0x7F.1/", "http://2130706433/", "http://017700000001/",
		"http://127.0.0.1./", "http://0x7f.0.0.0x1/", "http://169.254.169.254/latest/meta-data/", "http://[::1]/", "http://[::ffff:127.0.0.1]/",
		"http://[fe80::1%25eth0]/", "http://[fd00:ec2::254]/", "http://1.1.1.1:22/", "http://[64:ff9b::7f00:1]/", "http://0x/", "http://999.999.999.999/",
	} {
		u, err := g.ParseURL(text)
		if err == nil {
			t.Errorf("%q is accepted as %v", text, u)
		} else if strings.Contains(err.Error(), "password") && !errors.Is(err, netguard.ErrURL) {
			t.Errorf("%q: the error repeats it: %v", text, err)
		}
	}
	for _, text := range []string{"http://example.com", "https://hooks.example.com/a?b=c", "https://EXAMPLE.com:8443/", "https://1.1.1.1/x", "https://[2606:4700::1111]/", "https://localhost.example.com/", "https://x1/"} {
		if _, err := g.ParseURL(text); err != nil {
			t.Errorf("%q: %v", text, err)
		}
	}
	if _, err := newGuard(t, "127.0.0.0/8").ParseURL("http://127.0.0.1:9000/"); err != nil {
		t.Errorf("an address that is allowed: %v", err)
	}
}

// get asks for a URL with a client of g, and returns the status and at most n bytes.
func get(t *testing.T, client *http.Client, target string) (int, error) {
	t.Helper()
	defer client.CloseIdleConnections()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, target, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, err
	}
	defer func() { _ = resp.Body.Close() }()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<10))
	return resp.StatusCode, nil
}

// server counts the connections to it.
func server(t *testing.T, h http.HandlerFunc) (*httptest.Server, *atomic.Int64) {
	t.Helper()
	var connections atomic.Int64
	s := httptest.NewUnstartedServer(h)
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			connections.Add(1)
		}
	}
	s.Start()
	t.Cleanup(s.Close)
	return s, &connections
}

// TestNoConnectionIsBegunToWhatIsRefused: names and spellings that lead to this machine
// do not even open a connection, whatever they were when they were checked.
func TestNoConnectionIsBegunToWhatIsRefused(t *testing.T) {
	s, connections := server(t, func(http.ResponseWriter, *http.Request) {})
	_, port, _ := net.SplitHostPort(s.Listener.Addr().String())
	for _, host := range []string{"127.0.0.1", "localhost", "127.1", "0", "0.0.0.0", "2130706433", "[::ffff:127.0.0.1]", "[::]"} {
		if status, err := get(t, newGuard(t).Client(5*time.Second), "http://"+host+":"+port); err == nil {
			t.Errorf("%s: status %d", host, status)
		} else if host == "127.0.0.1" && !errors.Is(err, netguard.ErrAddress) {
			t.Errorf("%s: %v", host, err)
		}
	}
	if n := connections.Load(); n != 0 {
		t.Errorf("%d connections", n)
	}
	if status, err := get(t, newGuard(t, "127.0.0.0/8", "::1/128").Client(5*time.Second), s.URL); err != nil || status != http.StatusOK {
		t.Errorf("allowed: %d, %v", status, err)
	}
}

// TestRebindingDoesNotHelp: the name was public when it was looked up for the check and
// leads inside when it is connected to.
func TestRebindingDoesNotHelp(t *testing.T) {
	s, connections := server(t, func(http.ResponseWriter, *http.Request) {})
	_, port, _ := net.SplitHostPort(s.Listener.Addr().String())
	g := newGuard(t)
	if _, err := g.ParseURL("http://rebinding.example:8080/"); err != nil {
		t.Fatal(err)
	}
	dialer := g.Dialer(5 * time.Second)
	dialer.Resolver = loopbackResolver(t)
	conn, err := dialer.DialContext(t.Context(), "tcp", "rebinding.example:"+port)
	if err == nil {
		_ = conn.Close()
	}
	if !errors.Is(err, netguard.ErrAddress) || connections.Load() != 0 {
		t.Errorf("%v, %d connections", err, connections.Load())
	}
}

// loopbackResolver asks a name server of this test, which says 127.0.0.1 to everything.
func loopbackResolver(t *testing.T) *net.Resolver {
	t.Helper()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 1500)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = pc.WriteTo(answer(buf[:n]), from)
		}
	}()
	t.Cleanup(func() { _ = pc.Close(); <-done })
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "udp", pc.LocalAddr().String())
	}}
}

// answer is the question of a DNS message with 127.0.0.1 as its only answer if it is
// for IPv4 (RFC 1035 section 4.1).
func answer(question []byte) []byte {
	end := 12
	for question[end] != 0 {
		end += int(question[end]) + 1
	}
	kind := question[end+2]
	out := append([]byte{question[0], question[1], 0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0}, question[12:end+5]...)
	if kind == 1 {
		out[7] = 1
		out = append(out, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4, 127, 0, 0, 1)
	}
	return out
}

func TestRedirectsAreNotFollowed(t *testing.T) {
	inner, reached := server(t, func(http.ResponseWriter, *http.Request) {})
	for _, target := range []string{inner.URL, "file:///etc/passwd", "http://169.254.169.254/"} {
		s, _ := server(t, func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, target, http.StatusTemporaryRedirect)
		})
		status, err := get(t, newGuard(t, "127.0.0.0/8").Client(5*time.Second), s.URL)
		if err != nil || status != http.StatusTemporaryRedirect || reached.Load() != 0 {
			t.Errorf("to %s: %d, %v, %d connections", target, status, err, reached.Load())
		}
	}
}

func TestNoProxyIsAsked(t *testing.T) {
	proxy, asked := server(t, func(http.ResponseWriter, *http.Request) {})
	for _, name := range []string{"HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY"} {
		t.Setenv(name, proxy.URL)
	}
	if _, err := get(t, newGuard(t, "127.0.0.0/8").Client(time.Second), "http://name.invalid/"); err == nil || asked.Load() != 0 {
		t.Errorf("%v, %d connections to the proxy", err, asked.Load())
	}
}

// TestAnswersAreBounded: neither a header without end, nor one that never comes, nor a
// small body that becomes large is taken.
func TestAnswersAreBounded(t *testing.T) {
	large, _ := server(t, func(w http.ResponseWriter, _ *http.Request) {
		for i := range 200 {
			w.Header().Set(fmt.Sprint("X-", i), strings.Repeat("x", 1<<10))
		}
	})
	if status, err := get(t, newGuard(t, "127.0.0.0/8").Client(5*time.Second), large.URL); err == nil {
		t.Errorf("a header of 200 KiB: %d", status)
	}
	hang := make(chan struct{})
	silent, _ := server(t, func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-hang:
		case <-r.Context().Done():
		}
	})
	defer close(hang)
	var timeout interface{ Timeout() bool }
	if _, err := get(t, newGuard(t, "127.0.0.0/8").Client(50*time.Millisecond), silent.URL); !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("silence: %v", err)
	}
	var encoding atomic.Value
	plain, _ := server(t, func(_ http.ResponseWriter, r *http.Request) { encoding.Store(r.Header.Get("Accept-Encoding")) })
	if _, err := get(t, newGuard(t, "127.0.0.0/8").Client(5*time.Second), plain.URL); err != nil || encoding.Load() != "" {
		t.Errorf("compression is asked for: %v, %v", encoding.Load(), err)
	}
}

func FuzzParseURL(f *testing.F) {
	for _, s := range []string{"http://example.com", "http://127.1", "http://[::1]:80/", "https://1.1.1.1", "file:///x", "http://0x7f.1", "http://a@b"} {
		f.Add(s)
	}
	g := newGuard(f)
	f.Fuzz(func(t *testing.T, text string) {
		u, err := g.ParseURL(text)
		if err != nil {
			return
		}
		if u.Scheme != "http" && u.Scheme != "https" || u.User != nil || u.Hostname() == "" {
			t.Fatalf("%q is accepted", text)
		}
		if addr, err := netip.ParseAddr(u.Hostname()); err == nil && !netguard.Public(addr.Unmap()) {
			t.Fatalf("%q leads to %v", text, addr)
		}
		if again, err := url.Parse(u.String()); err != nil || again.Host != u.Host {
			t.Fatalf("%q is read as %v and as %v", text, u, again)
		}
	})
}

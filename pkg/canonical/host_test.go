package canonical_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/keywarden/keywarden/pkg/canonical"
)

func TestHostNormalises(t *testing.T) {
	for _, c := range []struct{ authority, host, port string }{
		{"api.example.com", "api.example.com", ""},
		{"API.Example.COM", "api.example.com", ""},
		{"api.example.com.", "api.example.com", ""},
		{"api.example.com:8443", "api.example.com", "8443"},
		{"api.example.com.:8443", "api.example.com", "8443"},
		{"api.example.com:", "api.example.com", ""},
		{"localhost", "localhost", ""},
		{"user_service", "user_service", ""},
		{"127.0.0.1:18080", "127.0.0.1", "18080"},
		{"[::1]", "[::1]", ""},
		{"[0:0:0:0:0:0:0:1]:80", "[::1]", "80"},
		{"[2001:DB8::A]:1", "[2001:db8::a]", "1"},
		{"xn--caf-dma.example", "xn--caf-dma.example", ""},
		{strings.Repeat("a", 63) + ".example", strings.Repeat("a", 63) + ".example", ""},
	} {
		host, port, err := canonical.Host(c.authority)
		if err != nil || host != c.host || port != c.port {
			t.Errorf("Host(%q) = %q, %q, %v; want %q, %q", c.authority, host, port, err, c.host, c.port)
		}
	}
}

func TestHostRefusesWhatIsNoHost(t *testing.T) {
	for _, authority := range []string{
		"", ".", "..", ":80", "a..b", ".a", "a..", "a.b..",
		"public.test@private.test", "user:pass@host", "public.test, private.test", "a,b",
		"a b", "a/b", `a\b`, "a%2eb", "a;b", "a?b", "a#b", "a\x00b", "a\r\nb", "*", "*.example.com", "a'b", "(a)",
		"host:0", "host:08", "host:65536", "host:-1", "host:+80", "host:80:80", "host:http", "host: 80",
		"[::1", "::1", "[]", "[::1]x", "[::1]:x", "[127.0.0.1]", "[fe80::1%25eth0]", "[fe80::1%eth0]", "[[::1]]",
		"bücher.example", strings.Repeat("a", 64) + ".example", strings.Repeat("a.", 130) + "example",
	} {
		if host, port, err := canonical.Host(authority); !errors.Is(err, canonical.ErrHost) {
			t.Errorf("Host(%q) = %q, %q, %v; want a refusal", authority, host, port, err)
		}
	}
}

func FuzzHost(f *testing.F) {
	for _, seed := range []string{"a", "A.b.:80", "[::1]:1", "a@b", "a,b", "[::ffff:1.2.3.4]", "a..b"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, authority string) {
		host, port, err := canonical.Host(authority)
		if err != nil {
			return
		}
		if again, p, err := canonical.Host(host); err != nil || again != host || p != "" {
			t.Fatalf("Host is not idempotent: %q gives %q, which gives %q, %q, %v", authority, host, again, p, err)
		}
		if host == "" || strings.ToLower(host) != host || strings.ContainsAny(host, "@,/\\ %#?\x00\r\n") {
			t.Fatalf("Host(%q) lets %q through", authority, host)
		}
		if port != "" {
			if h, p, err := canonical.Host(host + ":" + port); err != nil || h != host || p != port {
				t.Fatalf("%q with port %q reads as %q, %q, %v", host, port, h, p, err)
			}
		}
	})
}

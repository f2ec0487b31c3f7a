package canonical_test

import (
	"errors"
	"net/url"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/keywarden/keywarden/pkg/canonical"
)

func TestPathNormalises(t *testing.T) {
	for _, c := range []struct{ received, decoded, escaped string }{
		{"/", "/", "/"},
		{"/api/users", "/api/users", "/api/users"},
		{"/api/users/", "/api/users/", "/api/users/"},
		{"/svc/%70rivate/x", "/svc/private/x", "/svc/private/x"},
		{"/%7Euser/a%2Db%2ec%5f", "/~user/a-b.c_", "/~user/a-b.c_"},
		{"/caf%c3%a9", "/café", "/caf%C3%A9"},
		{"/café", "/café", "/caf%C3%A9"},
		{"/a%20b", "/a b", "/a%20b"},
		{"/a%2Cb", "/a,b", "/a%2Cb"},
		{"/a,b", "/a,b", "/a,b"},
		{"/a%2bb+c", "/a+b+c", "/a%2Bb+c"},
		{"/100%25", "/100%", "/100%25"},
		{"/%252e%252e/x", "/%2e%2e/x", "/%252e%252e/x"},
		{"/secret%23/x", "/secret#/x", "/secret%23/x"},
		{"/a%3Fb", "/a?b", "/a%3Fb"},
		{"/list[0]", "/list[0]", "/list%5B0%5D"},
		{"/a|b^c`{d}\"<e>", "/a|b^c`{d}\"<e>", "/a%7Cb%5Ec%60%7Bd%7D%22%3Ce%3E"},
		{"/...", "/...", "/..."},
		{"/.well-known/jwks.json", "/.well-known/jwks.json", "/.well-known/jwks.json"},
		{"/api../x", "/api../x", "/api../x"},
		{"/a:b@c!$&'()*=", "/a:b@c!$&'()*=", "/a:b@c!$&'()*="},
	} {
		decoded, escaped, err := canonical.Path(c.received)
		if err != nil || decoded != c.decoded || escaped != c.escaped {
			t.Errorf("Path(%q) = %q, %q, %v; want %q, %q", c.received, decoded, escaped, err, c.decoded, c.escaped)
		}
	}
}

func TestPathRefusesAmbiguousForms(t *testing.T) {
	for _, received := range []string{
		"", "x", "*", "http://host/x",
		"//", "//keyed", "/open//x", "/open//../keyed", "/x//",
		"/.", "/..", "/../x", "/x/.", "/x/./y", "/x/../y", "/x/..", "/./",
		"/%2e", "/%2E%2e/x", "/.%2e/x", "/x/%2e./y", "/x/%2e",
		"/open/..%2fkeyed", "/a%2Fb", "/%2f", "/x%2f..%2f",
		`/a\b`, "/a%5Cb", "/a%5cb", `/..\x`,
		"/a;b", "/a;", "/..;/x", "/a%3Bb", "/a%3b",
		"/a%00", "/a%0d%0ab", "/a%1fb", "/a%7f", "/a\x00", "/a\nb", "/a\x7f",
		"/a%C2%85b", "/a%C2%80",
		"/a b", "/a#b", "/a?b",
		"/%", "/%2", "/%zz", "/a%2", "/%%41",
		"/%c0%ae%c0%ae/x", "/%c0%af", "/%ff", "/\xff", "/%e0%80%af", "/%ed%a0%80",
	} {
		decoded, escaped, err := canonical.Path(received)
		if !errors.Is(err, canonical.ErrPath) {
			t.Errorf("Path(%q) = %q, %q, %v; want a refusal", received, decoded, escaped, err)
		}
	}
}

func TestPathKeepsPlainPathsWithoutAllocating(t *testing.T) {
	if n := testing.AllocsPerRun(100, func() {
		if _, _, err := canonical.Path("/api/users/0192-abc/orders"); err != nil {
			t.Error(err)
		}
	}); n != 0 {
		t.Errorf("Path allocates %v times for a plain path, want 0", n)
	}
}

// checkInvariants holds every accepted path to what the package promises.
func checkInvariants(t interface{ Fatalf(string, ...any) }, received string) {
	decoded, escaped, err := canonical.Path(received)
	if err != nil {
		if decoded != "" || escaped != "" {
			t.Fatalf("Path(%q) returns %q, %q beside its error", received, decoded, escaped)
		}
		return
	}
	if d, e, err := canonical.Path(escaped); err != nil || d != decoded || e != escaped {
		t.Fatalf("Path is not idempotent: %q gives %q, which gives %q, %q, %v", received, escaped, d, e, err)
	}
	u, err := url.ParseRequestURI(escaped)
	if err != nil || u.Path != decoded || u.EscapedPath() != escaped || u.RawQuery != "" {
		t.Fatalf("net/url reads %q as %+v, %v; want path %q", escaped, u, err, decoded)
	}
	if sent := (&url.URL{Path: decoded, RawPath: escaped}).EscapedPath(); sent != escaped {
		t.Fatalf("a request to %q is sent as %q", escaped, sent)
	}
	if decoded[0] != '/' || strings.Contains(decoded, "//") || strings.ContainsAny(decoded, "\\;\x00\r\n") {
		t.Fatalf("Path(%q) lets %q through", received, decoded)
	}
	if strings.Count(decoded, "/") != strings.Count(escaped, "/") {
		t.Fatalf("%q and %q differ in their number of segments", decoded, escaped)
	}
	for segment := range strings.SplitSeq(decoded, "/") {
		if segment == "." || segment == ".." {
			t.Fatalf("Path(%q) lets the dot segment in %q through", received, decoded)
		}
	}
	for i := range len(escaped) {
		if escaped[i] <= ' ' || escaped[i] >= 0x7f || escaped[i] == '#' || escaped[i] == '?' {
			t.Fatalf("the escaped form %q is not fit for a request line", escaped)
		}
	}
}

func FuzzPath(f *testing.F) {
	for _, seed := range []string{
		"/", "/a/b", "/%70rivate", "/a%2Fb", "/%2e%2e/", "//", "/a;b", "/caf%C3%A9", "/café",
		"/%c0%ae", "/a%00", "/%252e", "/a%2Cb", "/\\", "/[x]", "/%", "/a/./b", "/...",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, received string) { checkInvariants(t, received) })
}

// TestPathInvariants draws paths from pieces that matter, which random bytes
// seldom hit.
func TestPathInvariants(t *testing.T) {
	piece := rapid.SampledFrom([]string{
		"/", "/", "a", "B", ".", "..", "%2e", "%2E", "%2f", "%5c", "\\", ";", "%3b", "%00", "%25", "%41",
		"%7e", "%2c", ",", "é", "%c3%a9", "%c3", "[", "]", "{", "|", "^", "\"", "%20", " ", "+", "%2B", "@", "%40",
	})
	rapid.Check(t, func(t *rapid.T) {
		checkInvariants(t, "/"+strings.Join(rapid.SliceOfN(piece, 0, 12).Draw(t, "pieces"), ""))
	})
}

func BenchmarkPath(b *testing.B) {
	for name, path := range map[string]string{
		"plain":   "/api/users/01890a5d-ac96-774b-bcce-b302099a8057/orders",
		"escaped": "/api/caf%C3%A9/%70rivate/a%20b",
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, _, err := canonical.Path(path); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

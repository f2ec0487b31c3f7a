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

func TestPathWithSlashesKeepsThemInTheirSegment(t *testing.T) {
	for _, c := range []struct{ received, decoded, escaped string }{
		{"/request/foo%2Fbar", "/request/foo%2Fbar", "/request/foo%2Fbar"},
		{"/request/foo%2fbar", "/request/foo%2Fbar", "/request/foo%2fbar"},
		{"/@acme%2fui%2F%41", "/@acme%2Fui%2FA", "/@acme%2fui%2FA"},
		{"/a%2F", "/a%2F", "/a%2F"},
		{"/a%2F...", "/a%2F...", "/a%2F..."},
		{"/caf%c3%a9%2f%20", "/café%2F ", "/caf%C3%A9%2f%20"},
		{"/100%25%2F2F", "/100%%2F2F", "/100%25%2F2F"},
		{"/a%2F%25", "/a%2F%", "/a%2F%25"},
		{"/plain/x", "/plain/x", "/plain/x"},
		{"/a%252Fb", "/a%2Fb", "/a%252Fb"}, // no encoded slash: as Path has it
	} {
		decoded, escaped, err := canonical.PathWithSlashes(c.received)
		if err != nil || decoded != c.decoded || escaped != c.escaped {
			t.Errorf("PathWithSlashes(%q) = %q, %q, %v; want %q, %q", c.received, decoded, escaped, err, c.decoded, c.escaped)
		}
	}
}

// TestPathWithSlashesRefusesWhatTheyHide is about services that decode the slash
// after all, or decode twice.
func TestPathWithSlashesRefusesWhatTheyHide(t *testing.T) {
	for _, received := range []string{
		"/a%2F..%2Fb", "/a%2f..", "/a/..%2fb", "/..%2F", "/a%2F../b", "/a%2F.", "/.%2Fa", "/a%2F%2e%2E%2Fb", "/a/.%2e%2Fb",
		"/%2F", "/%2Fa", "/a%2F%2Fb", "/a/%2Fb", "/a%2F/b", "/a%2F/", "//%2F", "%2F", "%2Fa",
		"/a%2Fb%252Fc", "/a%252fb%2Fc", "/a%2F%252e%252e%2Fb", "/a%2Fb%25%32%46", "/a%2F%2541", "/a%2F%255C", "/%2541%2Fx",
		"/a%2Fb%5Cc", "/a%2F%5c", `/a%2F\b`, "/a%2Fb%00", "/a%2F\x00", "/a%2F%0d%0a", "/a%2F;b", "/a%2F%3b", "/..;%2Fa",
		"/a%2F#b", "/a%2F?b", "/a%2F b", "/a%2F%", "/a%2F%2", "/a%2", "/a%2G", "/a%2F%c0%af", "/a%c3%2F%a9", "/a%C2%2F%85", "/a%2F%C2%85",
		"/a%c0%af", "/a%e0%80%af",
	} {
		decoded, escaped, err := canonical.PathWithSlashes(received)
		if !errors.Is(err, canonical.ErrPath) {
			t.Errorf("PathWithSlashes(%q) = %q, %q, %v; want a refusal", received, decoded, escaped, err)
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

// checkSlashes holds PathWithSlashes to the same, and to what it promises beyond.
func checkSlashes(t interface{ Fatalf(string, ...any) }, received string) {
	strictDecoded, strictEscaped, strictErr := canonical.Path(received)
	decoded, escaped, err := canonical.PathWithSlashes(received)
	if err != nil {
		if decoded != "" || escaped != "" || strictErr == nil {
			t.Fatalf("PathWithSlashes(%q) = %q, %q, %v, and Path says %v", received, decoded, escaped, err, strictErr)
		}
		return
	}
	slashes := canonical.CountSlashes(escaped)
	if (strictErr == nil) != (slashes == 0) || strictErr == nil && (strictDecoded != decoded || strictEscaped != escaped) {
		t.Fatalf("%q is %q, %q with slashes, and %q, %q, %v without", received, decoded, escaped, strictDecoded, strictEscaped, strictErr)
	}
	if slashes == 0 {
		return
	}
	if d, e, err := canonical.PathWithSlashes(escaped); err != nil || d != decoded || e != escaped {
		t.Fatalf("PathWithSlashes is not idempotent: %q gives %q, which gives %q, %q, %v", received, escaped, d, e, err)
	}
	if strings.Count(decoded, canonical.EncodedSlash) != slashes || strings.Count(decoded, "/") != strings.Count(received, "/") {
		t.Fatalf("%q is decoded to %q, which has other slashes", received, decoded)
	}
	// What a service makes of it that decodes everything has to be canonical, too, and
	// nothing is left in it that could be decoded once more.
	u, err := url.ParseRequestURI(escaped)
	if err != nil || u.Path != canonical.DecodeSlashes(decoded) || u.EscapedPath() != escaped {
		t.Fatalf("net/url reads %q as %+v, %v; want path %q", escaped, u, err, canonical.DecodeSlashes(decoded))
	}
	inPlace := strings.NewReplacer("%2F", "/", "%2f", "/").Replace(escaped)
	if d, e, err := canonical.Path(inPlace); err != nil || d != u.Path || e != inPlace {
		t.Fatalf("with slashes in their place, %q reads as %q, %q, %v", escaped, d, e, err)
	}
	if twice, err := url.PathUnescape(u.Path); err == nil && twice != u.Path {
		t.Fatalf("%q can be decoded twice: to %q, then to %q", escaped, u.Path, twice)
	}
}

func FuzzPath(f *testing.F) {
	for _, seed := range []string{
		"/", "/a/b", "/%70rivate", "/a%2Fb", "/%2e%2e/", "//", "/a;b", "/caf%C3%A9", "/café",
		"/foo%2fbar", "/a%2F..%2Fb", "/a%252Fb%2F", "/%2F", "/a%2F%25%32f", "/a%2F%C3%A9", "/@a%2Fb{",
		"/%c0%ae", "/a%00", "/%252e", "/a%2Cb", "/\\", "/[x]", "/%", "/a/./b", "/...",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, received string) {
		checkInvariants(t, received)
		checkSlashes(t, received)
	})
}

// TestPathInvariants draws paths from pieces that matter, which random bytes
// seldom hit.
func TestPathInvariants(t *testing.T) {
	piece := rapid.SampledFrom([]string{
		"/", "/", "a", "B", ".", "..", "%2e", "%2E", "%2f", "%2F", "2F", "%32", "%46", "%5c", "\\", ";", "%3b", "%00", "%25", "%41",
		"%7e", "%2c", ",", "é", "%c3%a9", "%c3", "[", "]", "{", "|", "^", "\"", "%20", " ", "+", "%2B", "@", "%40",
	})
	rapid.Check(t, func(t *rapid.T) {
		received := "/" + strings.Join(rapid.SliceOfN(piece, 0, 12).Draw(t, "pieces"), "")
		checkInvariants(t, received)
		checkSlashes(t, received)
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

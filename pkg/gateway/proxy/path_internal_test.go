package proxy

import (
	"errors"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/keywarden/keywarden/pkg/canonical"
	"github.com/keywarden/keywarden/pkg/gateway/proxy/pathrewrite"
)

// rewriteOf makes a rewrite; each %n of path is a group.
func rewriteOf(t testing.TB, expression, path string) *pathrewrite.Rewrite {
	t.Helper()
	var pieces []pathrewrite.Piece
	for i, part := range strings.Split(path, "%") {
		if i > 0 {
			pieces = append(pieces, pathrewrite.Piece{Group: int(part[0] - '0')})
			part = part[1:]
		}
		if part != "" {
			pieces = append(pieces, pathrewrite.Piece{Text: part})
		}
	}
	w, err := pathrewrite.New(regexp.MustCompile("^(?:"+expression+")$"), pieces)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// received is the URL of a request that came with this path, or nil.
func received(path string) *url.URL {
	decoded, escaped, err := canonical.PathWithSlashes(path)
	if err != nil {
		return nil
	}
	u := &url.URL{Path: decoded}
	if u.EscapedPath() != escaped {
		u.RawPath = escaped
	}
	return u
}

func TestRewriteTakesGroupsAsTheyWereSent(t *testing.T) {
	for _, c := range []struct{ expression, path, from, want string }{
		{"/api/v([0-9]+)/(.*)", "/%2/v%1", "/api/v12/users/7", "/users/7/v12"},
		{"/a/(.*)", "/b/%1", "/a/x%2Cy,z", "/b/x%2Cy,z"},
		{"/a/(.*)", "/b/%1", "/a/%C3%A9t%C3%A9/%41%2c", "/b/%C3%A9t%C3%A9/A%2C"},
		{"/a/(.)(.*)", "/b/%2/%1", "/a/%C3%A9t", "/b/t/%C3%A9"},
		{"/(.*)", "/q/%1", "/a%20b%25%3F", "/q/a%20b%25%3F"},
		{".*", "/all%0", "/a%2Cb", "/all/a%2Cb"},
		{"/a(/b)?(/c)?", "/x%1%2", "/a/c", "/x/c"},
		{"/a/(.*)", "/b/%1", "/a/", "/b/"},
		{"/a/(.*)", "/b/%1", "/a/x/", "/b/x/"},
		{"/a/(.*)", "/%1%1", "/a/xy", "/xyxy"},
		{"/a/([^/]+)/(.*)", "/%2/%1", "/a/x%2fy/%C3%A9%2Fz", "/%C3%A9%2Fz/x%2fy"},
		{"/a/x(%2F)y", "/b%1c%1d", "/a/x%2fy", "/b%2fc%2fd"},
		{"/(.)/x%2F(.)", "/%1/%2", "/a/x%2fy", "/a/y"},
	} {
		rt := &Route{service: &Service{base: "/base"}, rewrite: rewriteOf(t, c.expression, c.path)}
		got, err := rt.outboundPath(received(c.from))
		if err != nil || got != "/base"+c.want {
			t.Errorf("%s by %s to %s: %q, %v, want %q", c.from, c.expression, c.path, got, err, c.want)
		}
	}
}

func TestRewriteRefusesWhatIsNoPath(t *testing.T) {
	for _, c := range []struct {
		expression, path, from string
		want                   error
	}{
		{"/a/(.*)", "/b/%1", "/other", pathrewrite.ErrNoMatch},
		{"/a/(.*)/c", "/b/%1/c", "/a//c", nil}, // refused before any route
		{"/a(.*)", "/b/%1", "/a/c", pathrewrite.ErrRefused},
		{"/a/(.*?)/?c", "/b/%1/d", "/a/c", pathrewrite.ErrRefused},
		{"/a/(\\.?)(.*)", "/%1/%2", "/a/.x", pathrewrite.ErrRefused},
		{"/a/(.*)", "/x/.%1", "/a/.", nil}, // refused before any route
		{"/a/(.)x(.)y", "/%1%2", "/a/.x.y", pathrewrite.ErrRefused},
		{"/a/(.*)", "/%1" + strings.Repeat("%1", 20), "/a/" + strings.Repeat("x", 1000), pathrewrite.ErrRefused},
	} {
		u := received(c.from)
		if (u == nil) != (c.want == nil) {
			t.Fatalf("%s: it is not as the case says", c.from)
		}
		if u == nil {
			continue
		}
		got, err := (&Route{service: &Service{base: "/base"}, rewrite: rewriteOf(t, c.expression, c.path)}).outboundPath(u)
		if !errors.Is(err, c.want) || got != "" {
			t.Errorf("%s by %s to %s: %q, %v, want %v", c.from, c.expression, c.path, got, err, c.want)
		}
	}
}

func TestAddedPrefixTakesThePlaceOfTheStrippedOne(t *testing.T) {
	rt := (&Service{base: "/base"}).Route(RouteConfig{StripPrefix: "/api/a,b/v1", AddPrefix: "/api/a%2Cb"})
	for from, want := range map[string]string{
		"/api/a%2Cb/v1/x%2Cy": "/base/api/a%2Cb/x%2Cy",
		"/api/a%2Cb/v1":       "/base/api/a%2Cb",
		"/api/a%2Cb/v1/":      "/base/api/a%2Cb/",
	} {
		if got, err := rt.outboundPath(received(from)); err != nil || got != want {
			t.Errorf("%s: %q, %v, want %q", from, got, err, want)
		}
	}
}

// FuzzRewrite holds, for any expression, new path and request: what the service
// sees stands below its base, is canonical, and reads as what was worked out.
func FuzzRewrite(f *testing.F) {
	f.Add("/api/v([0-9]+)/(.*)", "/", 2, "/x", 1, "/api/v1/users/%2C7")
	f.Add("/a/(.)x(.)y", "/", 1, "", 2, "/a/.x.y")
	f.Add("(.*)", "/..", 1, "/..", 0, "/a/b")
	f.Add("/(?P<rest>.*)", "/%2", 1, "%2e", 1, "/f%C3%A9")
	f.Add("/a(b)?(/.*)", "/", 1, "/", 2, "/a/x/")
	f.Add(".*(%|;|\\x00)?.*", "/a;", 0, "?x#", 1, "/a%3Fb%23")
	f.Add("/a/(.*)/(.*)", "/", 2, "/", 1, "/a/x%2fy%2Fz/%C3%A9")
	f.Add("/(.*%)(2.*)", "/%25", 2, "/%2", 1, "/a%2fb")
	f.Add("/(.*)", "/%2", 1, "", 1, "/F")
	const base = "/base/v1"
	f.Fuzz(func(t *testing.T, expression, first string, group int, second string, group2 int, path string) {
		u := received(path)
		compiled, err := regexp.Compile("^(?:" + expression + ")$")
		if u == nil || err != nil || len(expression) > 100 {
			t.Skip("no request, or no expression")
		}
		w, err := pathrewrite.New(compiled, []pathrewrite.Piece{{Text: first}, {Group: group}, {Text: second}, {Group: group2}})
		if err != nil {
			t.Skip("no rewrite")
		}
		x := &exchange{route: &Route{service: &Service{base: base}, rewrite: w}}
		if err := x.setPath(u); err != nil {
			if !errors.Is(err, pathrewrite.ErrRefused) && !errors.Is(err, pathrewrite.ErrNoMatch) {
				t.Fatalf("refused with %v", err)
			}
			return
		}
		sent := (&url.URL{Path: x.path, RawPath: x.rawPath}).EscapedPath()
		decoded, escaped, err := canonical.PathWithSlashes(sent)
		slashes := canonical.CountSlashes(escaped)
		if slashes > 0 {
			decoded = canonical.DecodeSlashes(decoded)
		}
		if err != nil || escaped != sent || decoded != x.path {
			t.Fatalf("%s is sent as %q, which reads as %q, %q, %v", path, sent, decoded, escaped, err)
		}
		if slashes > 0 && canonical.CountSlashes(canonical.Escaped(u)) == 0 {
			t.Fatalf("%s is sent as %q: the encoded slash is not the client's", path, sent)
		}
		if rest, ok := strings.CutPrefix(sent, base); !ok || rest == "" || rest[0] != '/' {
			t.Fatalf("%s is sent as %q, which is not below %s", path, sent, base)
		}
	})
}

func BenchmarkRewrite(b *testing.B) {
	rt := &Route{service: &Service{base: "/v1"}, rewrite: rewriteOf(b, "/api/v([0-9]+)/(.*)", "/%2/v%1")}
	u := received("/api/v12/users/7")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := rt.outboundPath(u); err != nil {
			b.Fatal(err)
		}
	}
}

package proxy

import (
	"net/url"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/keywarden/keywarden/pkg/canonical"
	"github.com/keywarden/keywarden/pkg/header"
)

// TestOutboundPathIsCanonical holds for every canonical path, whatever is
// stripped from it and put before it.
func TestOutboundPathIsCanonical(t *testing.T) {
	piece := rapid.SampledFrom([]string{"/", "/", "a", "b", ".", "%2C", ",", "é", "%C3%A9", "%20", "%25", "%2e", "%41", "[", "@", "%40", "%2F", "%2f"})
	rapid.Check(t, func(t *rapid.T) {
		received := "/" + strings.Join(rapid.SliceOfN(piece, 0, 10).Draw(t, "path"), "")
		decoded, escaped, err := canonical.PathWithSlashes(received)
		if err != nil {
			t.Skip("no canonical path")
		}
		segments := strings.Split(strings.TrimSuffix(decoded, "/"), "/")
		strip := strings.Join(segments[:rapid.IntRange(1, len(segments)).Draw(t, "segments")], "/")
		base := rapid.SampledFrom([]string{"", "/v1", "/a%2Cb/c"}).Draw(t, "base")

		rt := (&Service{base: base}).Route(RouteConfig{StripPrefix: strip})
		x := &exchange{route: rt}
		in := &url.URL{Path: decoded, RawPath: escaped}
		if err := x.setPath(in); err != nil {
			t.Fatalf("%s without %s: %v", escaped, strip, err)
		}
		sent := (&url.URL{Path: x.path, RawPath: x.rawPath}).EscapedPath()
		d, e, err := canonical.PathWithSlashes(sent)
		if canonical.CountSlashes(sent) > 0 {
			d, decoded, strip = canonical.DecodeSlashes(d), canonical.DecodeSlashes(decoded), canonical.DecodeSlashes(strip)
		}
		if err != nil || e != sent || d != x.path {
			t.Fatalf("%s without %s after %q is sent as %q, which reads as %q, %q, %v", escaped, strip, base, sent, d, e, err)
		}
		baseDecoded, err := url.PathUnescape(base)
		if err != nil {
			t.Fatal(err)
		}
		if want := baseDecoded + strings.TrimPrefix(decoded, strip); x.path != want && want != "" {
			t.Fatalf("%s without %s after %q gives %q, want %q", decoded, strip, base, x.path, want)
		}
	})
}

func TestPathThatDoesNotBeginWithThePrefixIsRefused(t *testing.T) {
	rt := (&Service{}).Route(RouteConfig{StripPrefix: "/api"})
	for _, path := range []string{"/", "/ap", "/apis", "/api../x", "/x/api"} {
		if err := (&exchange{route: rt}).setPath(&url.URL{Path: path}); err == nil {
			t.Errorf("%s: accepted", path)
		}
	}
	// What cannot come from a canonical path is refused, not forwarded.
	for _, path := range []string{"/api//x", "/api/../x", "/api/a;b"} {
		if err := (&exchange{route: rt}).setPath(&url.URL{Path: path}); err == nil {
			t.Errorf("%s: accepted", path)
		}
	}
}

// TestEverySpellingIsReserved replaces the hyphens of a name by any character of
// a token and its letters by either case: servers that turn names into variables
// may see the same one.
func TestEverySpellingIsReserved(t *testing.T) {
	name := rapid.SampledFrom([]string{
		headerConsumer, headerConsumerKind, headerConsumerRole, headerConsumerScopes, headerConsumerKey,
		headerForwardedFor, headerForwardedProto, headerForwardedHost, headerForwardedPrefix, headerRequestID,
		"Forwarded", "X-Real-Ip", "X-Api-Key", "Proxy", "X-Consumer-Anything", "X-Forwarded-Anything",
	})
	separator := rapid.SampledFrom([]rune("-_.!#$%&'*+^`|~"))
	rapid.Check(t, func(t *rapid.T) {
		spelling := strings.Map(func(c rune) rune {
			switch {
			case c == '-':
				return separator.Draw(t, "separator")
			case rapid.Bool().Draw(t, "upper"):
				return []rune(strings.ToUpper(string(c)))[0]
			default:
				return []rune(strings.ToLower(string(c)))[0]
			}
		}, name.Draw(t, "name"))
		if !header.Reserved(spelling) {
			t.Fatalf("%s passes", spelling)
		}
	})
	for _, other := range []string{"Accept", "X-Custom", "X-Consum", "Xconsumer", "Forwarder", "Proxy-Authenticate", "Traceparent", "Host", "If-Match"} {
		if header.Reserved(other) {
			t.Errorf("%s is removed", other)
		}
	}
}

func BenchmarkRemoveReserved(b *testing.B) {
	s := &Service{proxy: &Proxy{traceFields: []string{"Traceparent", "Tracestate"}}}
	h := map[string][]string{
		"Accept": nil, "Accept-Encoding": nil, "Accept-Language": nil, "Content-Type": nil, "User-Agent": nil, "X-Custom": nil, "Cookie": nil,
	}
	b.ReportAllocs()
	for b.Loop() {
		for name := range h {
			if s.hides(name, false) {
				b.Fatal(name)
			}
		}
	}
}

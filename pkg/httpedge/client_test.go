package httpedge

import (
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/keywarden/keywarden/pkg/reqctx"
)

func prefixes(list ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range list {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}

func TestClientAddress(t *testing.T) {
	const proxy = "10.0.0.1:5000"
	for name, c := range map[string]struct {
		trusted []netip.Prefix
		peer    string
		lines   []string
		want    string
	}{
		"no proxies configured":         {nil, "192.0.2.9:1", []string{"198.51.100.1"}, "192.0.2.9"},
		"peer is no proxy":              {prefixes("10.0.0.0/8"), "192.0.2.9:1", []string{"198.51.100.1"}, "192.0.2.9"},
		"no header":                     {prefixes("10.0.0.0/8"), proxy, nil, "10.0.0.1"},
		"one entry":                     {prefixes("10.0.0.0/8"), proxy, []string{"198.51.100.1"}, "198.51.100.1"},
		"spoofed entry on the left":     {prefixes("10.0.0.0/8"), proxy, []string{"127.0.0.1, 198.51.100.1"}, "198.51.100.1"},
		"spoofed proxy on the left":     {prefixes("10.0.0.0/8"), proxy, []string{"10.9.9.9, 198.51.100.1"}, "198.51.100.1"},
		"two proxies":                   {prefixes("10.0.0.0/8"), proxy, []string{"198.51.100.1, 10.0.0.2"}, "198.51.100.1"},
		"several lines":                 {prefixes("10.0.0.0/8"), proxy, []string{"127.0.0.1", "198.51.100.1", "10.0.0.2,10.0.0.3"}, "198.51.100.1"},
		"proxies all the way":           {prefixes("10.0.0.0/8"), proxy, []string{"10.0.0.3, 10.0.0.2"}, "10.0.0.3"},
		"garbage at once":               {prefixes("10.0.0.0/8"), proxy, []string{"198.51.100.1, unknown"}, "10.0.0.1"},
		"garbage behind a proxy":        {prefixes("10.0.0.0/8"), proxy, []string{"198.51.100.1, _hidden, 10.0.0.2"}, "10.0.0.2"},
		"garbage left of the client":    {prefixes("10.0.0.0/8"), proxy, []string{"<script>, 198.51.100.1"}, "198.51.100.1"},
		"empty entry stops":             {prefixes("10.0.0.0/8"), proxy, []string{"198.51.100.1,,10.0.0.2"}, "10.0.0.2"},
		"empty line stops":              {prefixes("10.0.0.0/8"), proxy, []string{"198.51.100.1", ""}, "10.0.0.1"},
		"with port":                     {prefixes("10.0.0.0/8"), proxy, []string{"198.51.100.1:4711"}, "198.51.100.1"},
		"spaces and tabs":               {prefixes("10.0.0.0/8"), proxy, []string{" \t198.51.100.1\t "}, "198.51.100.1"},
		"IPv6":                          {prefixes("10.0.0.0/8"), proxy, []string{"2001:db8::1"}, "2001:db8::1"},
		"IPv6 in brackets":              {prefixes("10.0.0.0/8"), proxy, []string{"[2001:db8::1]"}, "2001:db8::1"},
		"IPv6 in brackets with port":    {prefixes("10.0.0.0/8"), proxy, []string{"[2001:db8::1]:443"}, "2001:db8::1"},
		"IPv6 with zone":                {prefixes("10.0.0.0/8"), proxy, []string{"fe80::1%eth0"}, "10.0.0.1"},
		"IPv4 as IPv6 entry":            {prefixes("10.0.0.0/8"), proxy, []string{"198.51.100.1, ::ffff:10.0.0.2"}, "198.51.100.1"},
		"IPv4 as IPv6 peer":             {prefixes("10.0.0.0/8"), "[::ffff:10.0.0.1]:1", []string{"198.51.100.1"}, "198.51.100.1"},
		"IPv4 as IPv6 network":          {prefixes("::ffff:10.0.0.0/104"), proxy, []string{"198.51.100.1"}, "198.51.100.1"},
		"IPv6 network does not hold v4": {prefixes("::/0"), proxy, []string{"198.51.100.1"}, "10.0.0.1"},
		"link-local proxy":              {prefixes("fe80::/10"), "[fe80::1%eth0]:1", []string{"198.51.100.1"}, "198.51.100.1"},
		"octal is no address":           {prefixes("10.0.0.0/8"), proxy, []string{"010.0.0.2"}, "10.0.0.1"},
		"unix socket":                   {prefixes("0.0.0.0/0", "::/0"), "@", []string{"198.51.100.1"}, "invalid IP"},
	} {
		t.Run(name, func(t *testing.T) {
			r := &http.Request{RemoteAddr: c.peer, Header: http.Header{"X-Forwarded-For": c.lines}}
			if got := described(newProxies(c.trusted), r).Client.String(); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}

// drawEntry draws what may stand in X-Forwarded-For: addresses in all
// spellings, and anything else without a comma.
func drawEntry(t *rapid.T, label string) string {
	return rapid.OneOf(
		rapid.Map(rapid.SliceOfN(rapid.Byte(), 4, 4), func(b []byte) string { return netip.AddrFrom4([4]byte(b)).String() }),
		rapid.Map(rapid.SliceOfN(rapid.Byte(), 16, 16), func(b []byte) string { return netip.AddrFrom16([16]byte(b)).String() }),
		rapid.Map(rapid.SliceOfN(rapid.Byte(), 4, 4), func(b []byte) string { return netip.AddrFrom4([4]byte(b)).String() + ":80" }),
		rapid.SampledFrom([]string{"10.0.0.7", "127.0.0.1", "unknown", "", "[::1]:9", "fe80::1%x", "::ffff:10.0.0.1"}),
		rapid.StringMatching(`[^,]*`),
	).Draw(t, label)
}

// spread writes entries as header lines, split at drawn places.
func spread(t *rapid.T, entries []string) []string {
	var lines []string
	for i, e := range entries {
		if i > 0 && rapid.Bool().Draw(t, "same line") {
			lines[len(lines)-1] += "," + e
			continue
		}
		lines = append(lines, e)
	}
	return lines
}

func TestNobodyForgesAClientAddress(t *testing.T) {
	trusted := newProxies(prefixes("10.0.0.0/8", "fd00::/8"))
	rapid.Check(t, func(t *rapid.T) {
		forged := rapid.SliceOf(rapid.Custom(func(t *rapid.T) string { return drawEntry(t, "entry") })).Draw(t, "forged")
		octet := rapid.IntRange(1, 254).Draw(t, "client")
		client := fmt.Sprintf("203.0.113.%d", octet)
		hops := rapid.SliceOfN(rapid.SampledFrom([]string{"10.1.2.3", "fd00::2", "[fd00::3]:80", "10.4.5.6:8080"}), 0, 4).Draw(t, "hops")

		// The client wrote what it liked; each of our proxies appended its peer.
		entries := append(append(append([]string(nil), forged...), client), hops...)
		r := &http.Request{RemoteAddr: "10.0.0.1:80", Header: http.Header{"X-Forwarded-For": spread(t, entries)}}
		if got := described(trusted, r).Client.String(); got != client {
			t.Fatalf("got %s, want %s from %q", got, client, entries)
		}
	})
}

func TestUntrustedPeerIsTheClient(t *testing.T) {
	trusted := newProxies(prefixes("10.0.0.0/8"))
	rapid.Check(t, func(t *rapid.T) {
		forged := rapid.SliceOf(rapid.Custom(func(t *rapid.T) string { return drawEntry(t, "entry") })).Draw(t, "forged")
		r := &http.Request{RemoteAddr: "203.0.113.5:80", Header: http.Header{
			"X-Forwarded-For": spread(t, forged), "X-Forwarded-Proto": {"https"}, "X-Request-Id": {"forged"},
		}}
		info := described(trusted, r)
		if info.Client.String() != "203.0.113.5" || info.Scheme != "http" || info.ID == "forged" {
			t.Fatalf("got %+v", info)
		}
	})
}

func TestLinesOfForwardedForAreOneList(t *testing.T) {
	trusted := newProxies(prefixes("10.0.0.0/8"))
	rapid.Check(t, func(t *rapid.T) {
		entries := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) string { return drawEntry(t, "entry") }), 1, 6).Draw(t, "entries")
		peer := netip.MustParseAddr("10.0.0.1")
		split, joined := trusted.client(peer, spread(t, entries)), trusted.client(peer, []string{strings.Join(entries, ",")})
		if split != joined {
			t.Fatalf("split %s, joined %s from %q", split, joined, entries)
		}
	})
}

func FuzzClientAddress(f *testing.F) {
	f.Add("10.0.0.1:80", "198.51.100.1, 10.0.0.2", "unknown")
	f.Add("[::1]:80", "[2001:db8::1]:443", "fe80::1%eth0,")
	f.Add("@", "", ",,,")
	f.Add("198.51.100.7:1", "", "")
	trusted := newProxies(prefixes("10.0.0.0/8", "::1/128", "fe80::/10"))
	f.Fuzz(func(t *testing.T, remote, first, second string) {
		r := &http.Request{RemoteAddr: remote, Header: http.Header{"X-Forwarded-For": {first, second}}}
		got := described(trusted, r).Client
		if got.Zone() != "" || got.Is4In6() {
			t.Fatalf("%s is not canonical", got)
		}
		peer, text := reqctx.PeerAddress(remote)
		if text != "" && text != peer.String() {
			t.Fatalf("the text of %s is %q", peer, text)
		}
		if info := described(trusted, r); info.Client.IsValid() && info.ClientText() != info.Client.String() {
			t.Fatalf("the text of the client %s is %q", info.Client, info.ClientText())
		}
		if !trusted.contain(peer) && got != peer {
			t.Fatalf("untrusted peer %s became %s", peer, got)
		}
		// Whatever stands right of the client must be proxies: nothing that the
		// address was read past may be a stranger.
		if got != peer && !strings.Contains(first+second, ":") && !strings.Contains(first+","+second, got.String()) {
			t.Fatalf("%s stands nowhere in %q %q", got, first, second)
		}
	})
}

func BenchmarkClientAddress(b *testing.B) {
	trusted := newProxies(prefixes("10.0.0.0/8", "fd00::/8"))
	lines := []string{"198.51.100.7, 203.0.113.9, 10.0.0.2"}
	peer := netip.MustParseAddr("10.0.0.1")
	b.ReportAllocs()
	for b.Loop() {
		trusted.client(peer, lines)
	}
}

func described(p proxies, r *http.Request) *reqctx.Info {
	info := new(reqctx.Info)
	p.describe(info, r)
	return info
}

package header_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/keywarden/keywarden/pkg/header"
)

func TestNamesAreTokens(t *testing.T) {
	for name, want := range map[string]bool{
		"X-Tenant": true, "x": true, "a!#$%&'*+-.^_`|~9": true, strings.Repeat("a", header.MaxName): true,
		"": false, "X Tenant": false, "X:": false, "X\r\nY": false, "é": false, "a(b)": false, "a\x00": false, "a\x7f": false,
		strings.Repeat("a", header.MaxName+1): false,
	} {
		if got := header.IsName(name); got != want {
			t.Errorf("IsName(%q) = %v", name, got)
		}
	}
}

func TestValuesHoldNoControlCharacters(t *testing.T) {
	for value, want := range map[string]bool{
		"": true, "a b": true, "é": true, strings.Repeat("a", header.MaxValue): true,
		" a": false, "a ": false, "a\nb": false, "a\rb": false, "a\tb": false, "a\x00": false, "\x7f": false,
		strings.Repeat("a", header.MaxValue+1): false,
	} {
		if got := header.IsValue(value); got != want {
			t.Errorf("IsValue(%.20q) = %v", value, got)
		}
	}
}

func TestCredentialsAreNotVisible(t *testing.T) {
	for _, name := range []string{
		"Authorization", "Proxy-Authorization", "X-Authorization", "authorization", "AUTHORIZATION", "Cookie", "Cookie2", "Set-Cookie",
		"X-Api-Key", "X-API-KEY", "Api-Key", "ApiKey", "X-Auth-Token", "X-Access-Token", "X-Amz-Security-Token", "X-Csrf-Token",
		"X-Goog-Api-Key", "Ocp-Apim-Subscription-Key-Secret", "Private-Token", "X-Vault-Token", "X-Hub-Signature-256", "X-Session-Id",
		"access_token", "api_key", "client_secret", "password", "refresh.token", "key", "sig", "jwt", "X-Forwarded-Client-Cert",
		strings.Repeat("a", header.MaxName+1),
	} {
		if header.Visible(name) {
			t.Errorf("%s is visible", name)
		}
		if !header.Credential(name) {
			t.Errorf("%s carries no credential", name)
		}
	}
	for _, name := range []string{"X-Consumer", "x-consumer-role", "X.Consumer", "X_Tenant", "X-Forwarded-For", "Forwarded", "X-Request-Id",
		"Client-Cert", "client.cert", "Client-Cert-Chain", "X-Client-Cert", "X-Client-Certificate", "X-SSL-Client-Verify", "Ssl-Client-S-Dn", "X-Arr-Clientcert",
	} {
		if header.Visible(name) {
			t.Errorf("%s is visible, although the service never sees the client's", name)
		}
	}
	for _, name := range []string{"X-Tenant", "Accept", "User-Agent", "Content-Type", "X-Version", "Origin", "Accept-Language", "X-Key-Id", "Monkey"} {
		if !header.Visible(name) {
			t.Errorf("%s is not visible", name)
		}
	}
}

func TestFieldsOfTheConnectionAreKnown(t *testing.T) {
	for _, name := range []string{"Connection", "host", "Content-Length", "TRANSFER-ENCODING", "Upgrade", "Keep_Alive", "TE", "Trailer"} {
		if !header.HopByHop(name) {
			t.Errorf("%s is not", name)
		}
	}
	for _, name := range []string{"", "Content-Type", "Hostess", "X-Host"} {
		if header.HopByHop(name) {
			t.Errorf("%s is", name)
		}
	}
}

func TestSpellingsOfOneName(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.StringMatching(`[A-Za-z][A-Za-z0-9-]{0,20}`).Draw(t, "name")
		other := strings.Map(func(c rune) rune {
			if c == '-' {
				return rapid.SampledFrom([]rune("-_.~!")).Draw(t, "separator")
			}
			return c
		}, strings.ToUpper(name))
		if !header.Same(name, other) || header.Same(name, other+"a") || !header.Plain(name) {
			t.Fatalf("%s and %s", name, other)
		}
		if header.Plain(other) && http.CanonicalHeaderKey(name) != http.CanonicalHeaderKey(other) {
			t.Fatalf("%s is plain, but another field than %s", other, name)
		}
	})
}

func TestNamesCostNoAllocation(t *testing.T) {
	if n := testing.AllocsPerRun(100, func() {
		if header.Visible("X-Amz-Security-Token") || !header.Visible("X-Tenant") {
			t.Error("wrong")
		}
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestQueriesReadAsNetURLDoes(t *testing.T) {
	for _, query := range []string{
		"a+b=1", "a%20b=1&a+b=2", "x=1;a+b=2&a+b=3", "%zz=1&a+b=%zz&a+b=4", "a+b", "", "&&a+b=1&", "a+b=c=d", "A+b=1", "=1", "a+b=%00%0a",
	} {
		read, _ := url.ParseQuery(query)
		if got, ok := header.Query(query, "a b"); got != read.Get("a b") || ok != read.Has("a b") {
			t.Errorf("%s: %q, %v", query, got, ok)
		}
	}
}

func FuzzQuery(f *testing.F) {
	f.Add("a=1&b=2;c&a=%zz", "a")
	f.Fuzz(func(t *testing.T, query, name string) {
		read, _ := url.ParseQuery(query)
		if got, ok := header.Query(query, name); got != read.Get(name) || ok != read.Has(name) {
			t.Fatalf("%q in %q: %q, %v, want %q", name, query, got, ok, read.Get(name))
		}
	})
}

func TestOnlySomeFieldsMayBeChanged(t *testing.T) {
	for _, name := range []string{
		"", "a b", "Host", "Connection", "content-length", "Transfer-Encoding", "Upgrade", "TE", "X-Consumer", "x-consumer-role", "X_Tenant",
		"X.Forwarded.For", "X-Forwarded-For", "Forwarded", "X-Real-Ip", "X-Api-Key", "X-Request-Id", "Authorization", "Proxy-Authorization",
		"Traceparent", "tracestate", "Baggage", "X-Http-Method-Override", "X-Original-Url", "Proxy", "X-Mirrored",
	} {
		if header.CheckRequest(name) == nil {
			t.Errorf("%q of a request may be changed", name)
		}
	}
	for _, name := range []string{"", "a:b", "Connection", "Content-Length", "Transfer-Encoding", "X-Request-Id", "Www-Authenticate", "Content-Encoding", "Trailer"} {
		if header.CheckResponse(name) == nil {
			t.Errorf("%q of an answer may be changed", name)
		}
	}
	for _, name := range []string{"X-Tenant", "Accept", "User-Agent", "Cookie", "X-Forward", "Content-Type", "Cache-Control"} {
		if err := header.CheckRequest(name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := header.CheckResponse(name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

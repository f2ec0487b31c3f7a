package ipfilter_test

import (
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"

	"github.com/keywarden/keywarden/pkg/gateway/policy"
	"github.com/keywarden/keywarden/pkg/gateway/policy/ipfilter"
	"github.com/keywarden/keywarden/pkg/reqctx"
)

func TestOnlyNamedNetworksPass(t *testing.T) {
	step, err := ipfilter.Allow([]netip.Prefix{
		netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("192.0.2.1/32"), netip.MustParsePrefix("2001:db8::/32"),
	})
	if err != nil {
		t.Fatal(err)
	}
	passed := false
	h := policy.Chain(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { passed = true }), nil, policy.Rule{Step: step})
	for client, want := range map[string]bool{
		"10.1.2.3": true, "192.0.2.1": true, "2001:db8::1": true, "::ffff:10.1.2.3": true,
		"11.0.0.1": false, "192.0.2.2": false, "2001:db9::1": false, "127.0.0.1": false, "": false,
	} {
		info := &reqctx.Info{}
		if client != "" {
			info.Client = netip.MustParseAddr(client)
		}
		r := httptest.NewRequest("GET", "/", nil)
		r.Header.Set("X-Forwarded-For", "10.0.0.1") // no business of this step
		r.RemoteAddr = "10.0.0.1:1"
		passed = false
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r.WithContext(reqctx.With(r.Context(), info)))
		if passed != want || !want && (w.Code != http.StatusForbidden || info.Code != "gateway.address_not_allowed") {
			t.Errorf("client %q: passed %t, status %d, code %q", client, passed, w.Code, info.Code)
		}
	}
}

func TestDeniedNetworksDoNotPassNorThoseWithoutAnAddress(t *testing.T) {
	step, err := ipfilter.Deny([]netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8::/32")})
	if err != nil {
		t.Fatal(err)
	}
	for client, want := range map[string]bool{
		"11.0.0.1": true, "2001:db9::1": true, "10.1.2.3": false, "::ffff:10.1.2.3": false, "2001:db8::1": false, "": false,
	} {
		info := &reqctx.Info{}
		if client != "" {
			info.Client = netip.MustParseAddr(client)
		}
		r := httptest.NewRequest("GET", "/", nil)
		if got := step.Check(r.WithContext(reqctx.With(r.Context(), info))) == nil; got != want {
			t.Errorf("client %q: passed %t, want %t", client, got, want)
		}
	}
}

func TestNewRefusesUselessConfigurations(t *testing.T) {
	for name, networks := range map[string][]netip.Prefix{"none": nil, "invalid": {{}}} {
		if _, err := ipfilter.Allow(networks); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

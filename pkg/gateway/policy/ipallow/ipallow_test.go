package ipallow_test

import (
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"

	"github.com/keywarden/keywarden/pkg/gateway/policy/ipallow"
	"github.com/keywarden/keywarden/pkg/reqctx"
)

func TestOnlyNamedNetworksPass(t *testing.T) {
	step, err := ipallow.New([]netip.Prefix{
		netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("192.0.2.1/32"), netip.MustParsePrefix("2001:db8::/32"),
	})
	if err != nil {
		t.Fatal(err)
	}
	passed := false
	h := step(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { passed = true }))
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

func TestNewRefusesUselessConfigurations(t *testing.T) {
	for name, networks := range map[string][]netip.Prefix{"none": nil, "invalid": {{}}} {
		if _, err := ipallow.New(networks); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

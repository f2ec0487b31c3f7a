package upstream

import (
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

// TestPoolUsesNoProxy looks inside: [net/http] never sends requests to the local
// machine through a proxy, so a server here would not notice.
func TestPoolUsesNoProxy(t *testing.T) {
	p, err := NewPool(Identity{})
	if err != nil {
		t.Fatal(err)
	}
	if p.transport.Proxy != nil {
		t.Error("the environment of the process can redirect requests")
	}
}

// TestPoolSpeaksHTTP2OverTLS trusts the certificate of the test's server, which
// no document can.
func TestPoolSpeaksHTTP2OverTLS(t *testing.T) {
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.Proto)
	}))
	s.EnableHTTP2 = true
	s.StartTLS()
	defer s.Close()
	p, err := NewPool(Identity{Scheme: "https", Host: s.Listener.Addr().String(), ConnectTimeout: 10 * time.Second, ResponseTimeout: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer p.retire()
	p.transport.TLSClientConfig.RootCAs = x509.NewCertPool()
	p.transport.TLSClientConfig.RootCAs.AddCert(s.Certificate())

	r, err := http.NewRequestWithContext(t.Context(), "GET", s.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := p.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || string(body) != "HTTP/2.0" {
		t.Errorf("the service saw %q, %v", body, err)
	}
}

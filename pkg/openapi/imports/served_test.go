package imports_test

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/canonical"
	"github.com/keywarden/keywarden/pkg/gateway"
	"github.com/keywarden/keywarden/pkg/gateway/policy/cache"
	"github.com/keywarden/keywarden/pkg/httpcache"
	"github.com/keywarden/keywarden/pkg/quota"
	"github.com/keywarden/keywarden/pkg/quota/quotatest"
	"github.com/keywarden/keywarden/pkg/reqctx"
	"github.com/keywarden/keywarden/pkg/spec"
)

// nobody knows no credential.
type nobody struct{}

func (nobody) Authenticate(*http.Request, access.Methods) (*access.Principal, error) {
	return nil, access.ErrMissing
}

// door is a gateway behind a server, with one caller at a time.
type door struct {
	*httptest.Server
	t       testing.TB
	gateway *gateway.Gateway
	last    atomic.Pointer[reqctx.Info]
}

// newDoor serves a document.
func newDoor(t testing.TB, doc spec.Document) *door {
	t.Helper()
	d := &door{t: t}
	answers, err := httpcache.NewMemory(httpcache.MemoryOptions{Bytes: 1 << 20, Entries: 100})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(answers.Close)
	o := gateway.Options{Authenticator: nobody{}, Logger: slog.New(slog.DiscardHandler)}
	if o.Cache, err = cache.Open(cache.Options{Store: answers, Now: time.Now, MaxBackground: 4}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(o.Cache.Close)
	o.Quotas, err = quota.NewMeters(quota.Options{
		Ledger: quotatest.NewMemory(time.Now), Subjects: 100, Timeout: time.Second, Replicas: func() int { return 1 }, Logger: o.Logger, Now: time.Now,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { o.Quotas.Close(context.Background()) })
	if d.gateway, err = gateway.New(o); err != nil {
		t.Fatal(err)
	}
	h := canonical.MiddlewareWithSlashes(d.gateway, d.gateway)
	d.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		info := &reqctx.Info{ID: "r", Client: netip.MustParseAddr("127.0.0.1"), Scheme: "http"}
		d.last.Store(info)
		h.ServeHTTP(w, r.WithContext(reqctx.With(r.Context(), info)))
	}))
	t.Cleanup(func() {
		d.Close()
		d.gateway.Close()
	})
	d.apply(doc)
	return d
}

func (d *door) apply(doc spec.Document) {
	d.t.Helper()
	if err := d.gateway.Apply(doc); err != nil {
		d.t.Fatal(err)
	}
	if s := d.gateway.State(); len(s.Unusable) > 0 {
		d.t.Fatalf("routes that nobody can use: %v", s.Unusable)
	}
}

// call sends a request and returns the answer with its body, and the name of the
// route that it took.
func (d *door) call(method, path, contentType, body string) (resp *http.Response, answer, route string) {
	d.t.Helper()
	r, err := http.NewRequestWithContext(d.t.Context(), method, d.URL+path, strings.NewReader(body))
	if err != nil {
		d.t.Fatal(err)
	}
	if contentType != "" {
		r.Header.Set("Content-Type", contentType)
	}
	resp, err = d.Client().Do(r)
	if err != nil {
		d.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		d.t.Fatalf("%s %s: %v", method, path, err)
	}
	return resp, string(text), d.last.Load().Route
}

package interoptest_test

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"

	"go.uber.org/goleak"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/canonical"
	"github.com/keywarden/keywarden/pkg/gateway"
	"github.com/keywarden/keywarden/pkg/gateway/files"
	"github.com/keywarden/keywarden/pkg/reqctx"
	"github.com/keywarden/keywarden/pkg/spec"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// nobody is an authenticator that knows no caller.
type nobody struct{}

func (nobody) Authenticate(*http.Request, access.Methods) (*access.Principal, error) {
	return nil, access.ErrMissing
}

// front is a gateway with a document, behind TLS and HTTP/2 when asked for.
func front(t *testing.T, document string, encrypted bool) *httptest.Server {
	t.Helper()
	g, err := gateway.New(gateway.Options{Authenticator: nobody{}, Logger: slog.New(slog.DiscardHandler), Files: files.Allowed{Anywhere: true}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.Close)
	doc, err := spec.Parse("gateway.yaml", []byte(document))
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Apply(doc); err != nil {
		t.Fatal(err)
	}
	h := canonical.MiddlewareWithSlashes(g, g)
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		info := &reqctx.Info{ID: "1", Client: netip.MustParseAddr("127.0.0.1"), Scheme: "https"}
		h.ServeHTTP(w, r.WithContext(reqctx.With(r.Context(), info)))
	}))
	if encrypted {
		srv.EnableHTTP2 = true
		srv.StartTLS()
	} else {
		srv.Start()
	}
	t.Cleanup(srv.Close)
	return srv
}

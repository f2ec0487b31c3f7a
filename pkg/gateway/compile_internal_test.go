package gateway

import (
	"log/slog"
	"net/http"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/gateway/upstream"
	"github.com/keywarden/keywarden/pkg/spec"
)

type nobody struct{}

func (nobody) Authenticate(*http.Request, access.Methods) (*access.Principal, error) {
	return nil, access.ErrMissing
}

// TestCompileMakesOnePoolForEachIdentity looks inside: which connections exist is
// not visible from outside before there are some.
func TestCompileMakesOnePoolForEachIdentity(t *testing.T) {
	g, err := New(Options{Authenticator: nobody{}, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	doc, err := spec.Parse("", []byte(`
version: 1
services:
  - {name: a, url: "http://127.0.0.1:1/x", connect_timeout: 1s, response_timeout: 5s}
  - {name: b, url: "http://127.0.0.1:1/y", connect_timeout: 1s, response_timeout: 5s}
  - {name: c, url: "https://127.0.0.1:1"}
`))
	if err != nil {
		t.Fatal(err)
	}
	s, err := g.compile(doc)
	if err != nil {
		t.Fatal(err)
	}
	want := map[upstream.Identity]bool{
		{Scheme: "http", Host: "127.0.0.1:1", ConnectTimeout: time.Second, ResponseTimeout: 5 * time.Second}:       true,
		{Scheme: "https", Host: "127.0.0.1:1", ConnectTimeout: 2 * time.Second, ResponseTimeout: 30 * time.Second}: true,
	}
	if diff := cmp.Diff(want, s.pools()); diff != "" {
		t.Error(diff)
	}
}

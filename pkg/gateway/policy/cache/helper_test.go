package cache_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/keywarden/keywarden/pkg/gateway/policy/cache"
	"github.com/keywarden/keywarden/pkg/httpcache"
	"github.com/keywarden/keywarden/pkg/reqctx"
)

// memory is a store for one test.
func memory(t testing.TB) *httpcache.Memory {
	t.Helper()
	m, err := httpcache.NewMemory(httpcache.MemoryOptions{Bytes: 64 << 20, Entries: 10_000})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	return m
}

// chain puts the policy before a handler.
func chain(t testing.TB, c cache.Config, store httpcache.Store, next http.Handler) http.Handler {
	t.Helper()
	shared, err := cache.Open(cache.Options{Store: store, Now: time.Now, MaxBackground: 16})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(shared.Close)
	step, err := cache.New(c, shared)
	if err != nil {
		t.Fatal(err)
	}
	return step.Apply(next)
}

// reqInfo stands in for the outermost handlers of the gateway.
func reqInfo(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, _ := strings.Cut(r.Host, ":")
		w.Header().Set("X-Request-Id", "1")
		next.ServeHTTP(w, r.WithContext(reqctx.With(r.Context(), &reqctx.Info{ID: "1", Host: strings.ToLower(host), Scheme: "http"})))
	})
}

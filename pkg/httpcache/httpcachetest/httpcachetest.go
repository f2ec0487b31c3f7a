// Package httpcachetest holds stores of answers to what httpcache.Store promises.
// Only tests import it.
package httpcachetest

import (
	"net/http"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keywarden/keywarden/pkg/httpcache"
)

// Object is an answer for tests.
func Object(body string) *httpcache.Object {
	return &httpcache.Object{
		Status: 200, Header: http.Header{"Content-Type": {"text/plain"}, "X-A": {"1", "2"}}, Body: []byte(body),
		Received: time.Now().UTC().Truncate(time.Millisecond), Lifetime: time.Minute, Vary: []string{"Accept"},
		Route: "orders", Host: "api.example.com", Path: "/orders/42", Tags: []string{"order-42", "orders"},
	}
}

// Key is the key of an answer of [Object] for tests.
func Key(n byte) httpcache.Key {
	return httpcache.Key{Entry: [32]byte{n}, Resource: httpcache.ResourceOf("api.example.com", "/orders/42")}
}

// Conformance holds s, which is empty, to the contract.
func Conformance(t *testing.T, s httpcache.Store) {
	t.Helper()
	ctx := t.Context()
	var number byte
	put := func(t *testing.T, o *httpcache.Object, since httpcache.Mark) httpcache.Key {
		t.Helper()
		number++
		s.Put(ctx, Key(number), o, time.Minute, since)
		return Key(number)
	}
	mark := func(t *testing.T) httpcache.Mark {
		t.Helper()
		for range 2 { // a store that begins may need a first look
			if _, m := s.Get(ctx, Key(0)); m.Known {
				return m
			}
		}
		t.Fatal("the store does not answer")
		return httpcache.Mark{}
	}
	has := func(key httpcache.Key) bool {
		o, _ := s.Get(ctx, key)
		return o != nil
	}

	t.Run("what is put is given", func(t *testing.T) {
		want := Object("body")
		key := put(t, want, mark(t))
		got, m := s.Get(ctx, key)
		if diff := cmp.Diff(want, got); diff != "" || !m.Known {
			t.Errorf("(-put +got):\n%s", diff)
		}
		if has(Key(200)) {
			t.Error("there is something under a key that nothing was put under")
		}
	})
	t.Run("an empty body is none", func(t *testing.T) {
		if got, _ := s.Get(ctx, put(t, Object(""), mark(t))); got == nil || len(got.Body) != 0 {
			t.Errorf("got %+v", got)
		}
	})
	t.Run("without a mark nothing is kept", func(t *testing.T) {
		if has(put(t, Object("x"), httpcache.Mark{})) {
			t.Error("it is there")
		}
	})
	t.Run("what is over is gone", func(t *testing.T) {
		number++
		s.Put(ctx, Key(number), Object("x"), 0, mark(t))
		if has(Key(number)) {
			t.Error("it is there")
		}
	})
	t.Run("delete", func(t *testing.T) {
		key, other := put(t, Object("x"), mark(t)), put(t, Object("x"), mark(t))
		s.Delete(ctx, key)
		if has(key) || !has(other) {
			t.Errorf("deleted: %t, another one: %t", has(key), has(other))
		}
	})
	t.Run("forget", func(t *testing.T) {
		before := mark(t)
		key := put(t, Object("x"), before)
		other := Key(number + 100)
		other.Resource++
		_, m := s.Get(ctx, other)
		s.Put(ctx, other, Object("x"), time.Minute, m)
		s.Forget(ctx, key.Resource)
		if has(key) || !has(other) {
			t.Errorf("forgotten: %t, another resource: %t", has(key), has(other))
		}
		if has(put(t, Object("x"), before)) {
			t.Error("what was asked for before is given after")
		}
		if !has(put(t, Object("x"), mark(t))) {
			t.Error("what was asked for after is not given")
		}
	})
	for name, c := range map[string]struct {
		purge httpcache.Purge
		gone  bool
	}{
		"route":                {httpcache.Purge{Kind: httpcache.PurgeRoute, Value: "orders"}, true},
		"other route":          {httpcache.Purge{Kind: httpcache.PurgeRoute, Value: "order"}, false},
		"surrogate key":        {httpcache.Purge{Kind: httpcache.PurgeTag, Value: "order-42"}, true},
		"other surrogate key":  {httpcache.Purge{Kind: httpcache.PurgeTag, Value: "order-4"}, false},
		"the path":             {httpcache.Purge{Kind: httpcache.PurgePath, Value: "/orders/42"}, true},
		"a path above":         {httpcache.Purge{Kind: httpcache.PurgePath, Value: "/orders"}, true},
		"a path with a slash":  {httpcache.Purge{Kind: httpcache.PurgePath, Value: "/orders/"}, true},
		"everything":           {httpcache.Purge{Kind: httpcache.PurgePath, Value: "/"}, true},
		"a text, and no path":  {httpcache.Purge{Kind: httpcache.PurgePath, Value: "/orders/4"}, false},
		"a path of the host":   {httpcache.Purge{Kind: httpcache.PurgePath, Value: "/orders", Host: "api.example.com"}, true},
		"a path of other host": {httpcache.Purge{Kind: httpcache.PurgePath, Value: "/orders", Host: "example.com"}, false},
	} {
		t.Run("purge by "+name, func(t *testing.T) {
			before := mark(t)
			key := put(t, Object("x"), before)
			if err := s.Purge(ctx, c.purge); err != nil {
				t.Fatal(err)
			}
			for range 2 { // also once the purge was looked at
				if has(key) == c.gone {
					t.Fatalf("it is there: %t", !c.gone)
				}
			}
			if has(put(t, Object("x"), before)) == c.gone {
				t.Errorf("what was asked for before is given after: %t", c.gone)
			}
			if !has(put(t, Object("x"), mark(t))) {
				t.Error("what was asked for after is not given")
			}
		})
	}
	t.Run("a purge that is none", func(t *testing.T) {
		key := put(t, Object("x"), mark(t))
		if err := s.Purge(ctx, httpcache.Purge{Kind: "all"}); err == nil {
			t.Error("it was taken")
		}
		if !has(key) {
			t.Error("it took something away")
		}
	})
	t.Run("more purges than are remembered", func(t *testing.T) {
		old := put(t, Object("x"), mark(t))
		for range httpcache.PurgesKept + 1 {
			if err := s.Purge(ctx, httpcache.Purge{Kind: httpcache.PurgeTag, Value: "none"}); err != nil {
				t.Fatal(err)
			}
		}
		if has(old) {
			t.Error("it is given, though nobody can know whether it was purged")
		}
		if !has(put(t, Object("x"), mark(t))) {
			t.Error("nothing can be kept any more")
		}
	})
}

package apikey

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"testing"

	"golang.org/x/crypto/bcrypt"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/slowhash"
)

// The price of a request with a key that was seen before. The target is at most
// 2 microseconds and no allocation.
func BenchmarkVerifyWarm(b *testing.B) {
	v := newBench(b, 100_000)
	key, _ := v.mint(b)
	v.wantGood(b, key)
	ctx := b.Context()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := v.VerifyKey(ctx, key, client); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkVerifyWarmParallel(b *testing.B) {
	v := newBench(b, 100_000)
	key, _ := v.mint(b)
	v.wantGood(b, key)
	ctx := b.Context()
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := v.VerifyKey(ctx, key, client); err != nil {
				b.Fail()
			}
		}
	})
}

// A wrong secret of a known key must cost no more than the right one.
func BenchmarkVerifyWrongSecret(b *testing.B) {
	v := newBench(b, 100_000)
	key, _ := v.mint(b)
	v.wantGood(b, key)
	guess, ctx := wrong(key), b.Context()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := v.VerifyKey(ctx, guess, client); err == nil {
			b.Fatal("accepted")
		}
	}
	v.wantCost(b, 1, 0, 0)
}

// Junk costs a checksum.
func BenchmarkVerifyBadChecksum(b *testing.B) {
	v := newBench(b, 100_000)
	key, _ := v.mint(b)
	junk, mistyped, ctx := key[:len(key)-1]+"~", mistype(key), b.Context()
	for name, k := range map[string]string{"mistyped": mistyped, "junk": junk} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := v.VerifyKey(ctx, k, client); err == nil {
					b.Fatal("accepted")
				}
			}
		})
	}
	v.wantCost(b, 0, 0, 0)
}

// An id that nobody has, asked for again.
func BenchmarkVerifyUnknownAgain(b *testing.B) {
	v := newBench(b, 100_000)
	key, ctx := newKey("kw", Live, newID()).Reveal(), b.Context()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := v.VerifyKey(ctx, key, client); err == nil {
			b.Fatal("accepted")
		}
	}
	v.wantCost(b, 1, 0, 0)
}

// million is a database of 10^6 keys that takes no room: it makes each record
// when it is asked for, all with the secret of one key.
type million struct {
	records
	model Stored
}

func (m *million) KeyByPublicID(_ context.Context, publicID string) (Stored, error) {
	stored := m.model
	stored.Key.ID, stored.Key.PublicID = "key-"+publicID, publicID
	stored.Secrets = []Secret{m.model.Secrets[0]} // of its own, as from a row
	return stored, nil
}

// 10^6 keys in use and room for 10^5: resident memory is bounded by the cache,
// and a key that is warm is as fast as if it were alone.
func BenchmarkVerifyMillionKeys(b *testing.B) {
	const keys, entries = 1_000_000, 100_000
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)

	v := newBench(b, entries)
	key, publicID := v.mint(b)
	model := v.store.stored[publicID]
	v.opts.Store = &million{model: model}
	ctx := b.Context()
	// Every key once, with a wrong secret, which costs the same to find out.
	for i := range keys {
		guess := encode("kw", Live, fmt.Sprintf("%0*d%0*d", idLength, i, secretLength, 0))
		if _, err := v.VerifyKey(ctx, guess, client); !errors.Is(err, access.ErrKey) {
			b.Fatal(err)
		}
	}
	v.wantGood(b, key)
	runtime.GC()
	runtime.ReadMemStats(&after)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := v.VerifyKey(ctx, key, client); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/1e6, "MB-heap")
	b.ReportMetric(float64(v.Cached()), "cached-keys")
}

// For comparison: what a request would cost without the verifier.
func BenchmarkBcryptCost10(b *testing.B) {
	pool, err := slowhash.New(bcrypt.DefaultCost, 1)
	if err != nil {
		b.Fatal(err)
	}
	digest := bcryptInput(newKey("kw", Live, newID()).Reveal())
	hash, err := pool.Hash(b.Context(), digest)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if ok, _, err := pool.Compare(b.Context(), hash, digest); !ok || err != nil {
			b.Fatal(ok, err)
		}
	}
}

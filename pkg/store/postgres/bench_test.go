package postgres

import (
	"testing"

	"github.com/keywarden/keywarden/pkg/access"
)

// BenchmarkChange is what every change costs beyond its own statements: the
// audit record, the event and the commit, by many callers at once.
func BenchmarkChange(b *testing.B) {
	w := newWorld(b)
	c := noted("test", "subject")
	b.SetParallelism(8)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := w.Change(b.Context(), c, nil); err != nil {
				b.Error(err)
			}
		}
	})
}

// BenchmarkKeyLookup is a key that is not in any cache.
func BenchmarkKeyLookup(b *testing.B) {
	w := newWorld(b)
	k, _ := w.key(w.user(access.RoleUser))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := w.KeyByPublicID(b.Context(), k.PublicID); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkSessionState is a session that is not in any cache.
func BenchmarkSessionState(b *testing.B) {
	w := newWorld(b)
	s, _ := w.session(w.user(access.RoleUser))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := w.SessionState(b.Context(), s.ID); err != nil {
			b.Fatal(err)
		}
	}
}

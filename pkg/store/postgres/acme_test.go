package postgres

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/keywarden/keywarden/pkg/acme"
)

func TestACMEItemsBelongToOneDirectory(t *testing.T) {
	w, ctx := newWorld(t), t.Context()
	if _, err := w.ACMEItem(ctx, "https://one", "a.test"); !errors.Is(err, acme.ErrNotFound) {
		t.Fatalf("of none: %v", err)
	}
	w.must(w.AddACMEItem(ctx, "https://one", "a.test", []byte("first")))
	w.must(w.AddACMEItem(ctx, "https://one", "a.test", []byte("second")))
	w.must(w.PutACMEItem(ctx, "https://two", "a.test", []byte("other")))
	want := func(directory, text string) {
		t.Helper()
		if got, err := w.ACMEItem(ctx, directory, "a.test"); err != nil || !bytes.Equal(got, []byte(text)) {
			t.Errorf("%s: %q, %v, want %q", directory, got, err, text)
		}
	}
	want("https://one", "first")
	want("https://two", "other")
	w.must(w.PutACMEItem(ctx, "https://one", "a.test", []byte("third")))
	want("https://one", "third")
	w.must(w.DeleteACMEItem(ctx, "https://one", "a.test"))
	w.must(w.DeleteACMEItem(ctx, "https://one", "a.test"))
	if _, err := w.ACMEItem(ctx, "https://one", "a.test"); !errors.Is(err, acme.ErrNotFound) {
		t.Errorf("after the deletion: %v", err)
	}
	want("https://two", "other")
}

func TestOneReplicaHasTheLeaseOfAnOrder(t *testing.T) {
	w, ctx := newWorld(t), t.Context()
	lease := func(name, holder string, ttl time.Duration) bool {
		t.Helper()
		leased, err := w.LeaseACME(ctx, "https://one", name, holder, ttl)
		w.must(err)
		return leased
	}
	leased := make([]bool, 8)
	errs := together(times(len(leased), func(i int) (err error) {
		leased[i], err = w.LeaseACME(ctx, "https://one", "a.test", string(rune('a'+i)), time.Hour)
		return err
	})...)
	w.must(errors.Join(errs...))
	holder, n := "", 0
	for i, got := range leased {
		if got {
			holder, n = string(rune('a'+i)), n+1
		}
	}
	if n != 1 {
		t.Fatalf("%d replicas have it", n)
	}
	if !lease("a.test", holder, time.Hour) || lease("a.test", "x", time.Hour) || !lease("b.test", "x", time.Hour) {
		t.Error("a lease is of one name and one holder")
	}
	w.must(w.ReleaseACME(ctx, "https://one", "a.test", "x")) // not its own
	if lease("a.test", "x", time.Hour) {
		t.Error("a lease was ended by another replica")
	}
	w.must(w.ReleaseACME(ctx, "https://one", "a.test", holder))
	if !lease("a.test", "x", -time.Second) || !lease("a.test", "y", time.Hour) || lease("a.test", "x", time.Hour) {
		t.Error("a lease that ran out is anybody's")
	}
}

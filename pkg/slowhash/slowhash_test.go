package slowhash

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/crypto/bcrypt"

	"github.com/keywarden/keywarden/pkg/problem"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newPool(t testing.TB, concurrency int) *Pool {
	t.Helper()
	p, err := New(bcrypt.MinCost, concurrency)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestHashIsOfItsDigestAlone(t *testing.T) {
	p := newPool(t, 1)
	hash, err := p.Hash(t.Context(), []byte("digest"))
	if err != nil {
		t.Fatal(err)
	}
	for digest, want := range map[string]bool{"digest": true, "Digest": false, "digest ": false, "digest\x00": false, "": false} {
		ok, stale, err := p.Compare(t.Context(), hash, []byte(digest))
		if err != nil || ok != want || stale {
			t.Errorf("%q: %v, stale %v, %v", digest, ok, stale, err)
		}
	}
	again, err := p.Hash(t.Context(), []byte("digest"))
	if err != nil || again == hash {
		t.Error("two hashes of one digest are the same")
	}
}

// bcrypt looks at 72 bytes only: with more, the tail would not count.
func TestNothingBeyond72BytesIsEverIgnored(t *testing.T) {
	p := newPool(t, 1)
	longest := strings.Repeat("a", 72)
	hash, err := p.Hash(t.Context(), []byte(longest))
	if err != nil {
		t.Fatal(err)
	}
	if ok, _, err := p.Compare(t.Context(), hash, []byte(longest)); err != nil || !ok {
		t.Errorf("72 bytes: %v, %v", ok, err)
	}
	if ok, _, err := p.Compare(t.Context(), hash, []byte(longest+"tail")); err == nil || ok {
		t.Errorf("with a tail: %v, %v", ok, err)
	}
	if hash, err := p.Hash(t.Context(), []byte(longest+"t")); err == nil {
		t.Errorf("73 bytes were hashed: %s", hash)
	}
}

func TestHashesOfAnotherCostAreStale(t *testing.T) {
	p := newPool(t, 1)
	dearer, err := New(bcrypt.MinCost+1, 1)
	if err != nil {
		t.Fatal(err)
	}
	hash, err := dearer.Hash(t.Context(), []byte("digest"))
	if err != nil {
		t.Fatal(err)
	}
	if ok, stale, err := p.Compare(t.Context(), hash, []byte("digest")); err != nil || !ok || !stale {
		t.Errorf("%v, stale %v, %v", ok, stale, err)
	}
}

func TestBrokenHashesMatchNothing(t *testing.T) {
	p := newPool(t, 1)
	for _, hash := range []string{"", "x", "$2a$04$", strings.Repeat("x", 60), "$9a$04$" + strings.Repeat("x", 53)} {
		if ok, _, err := p.Compare(t.Context(), hash, []byte("digest")); ok || err == nil {
			t.Errorf("%q: %v, %v", hash, ok, err)
		}
	}
}

func TestPoolsThatCannotWorkAreRefused(t *testing.T) {
	for _, c := range []struct{ cost, concurrency int }{
		{bcrypt.MinCost - 1, 1}, {bcrypt.MaxCost + 1, 1}, {0, 1}, {bcrypt.MinCost, 0}, {bcrypt.MinCost, -1},
	} {
		if p, err := New(c.cost, c.concurrency); err == nil || p != nil {
			t.Errorf("%+v was accepted", c)
		}
	}
}

// job is work of the pool that lasts until it is let go.
type job struct{ done chan error }

func start(ctx context.Context, p *Pool, work func()) *job {
	j := &job{done: make(chan error, 1)}
	go func() { j.done <- p.run(ctx, func() error { work(); return nil }) }()
	return j
}

func TestOnlyAFewRunAMoreAwaitTheirTurnAndTheRestIsTurnedAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const concurrency = 2
		p := newPool(t, concurrency)
		var running, most, ran atomic.Int32
		release := make(chan struct{})
		work := func() {
			most.Store(max(most.Load(), running.Add(1)))
			<-release
			running.Add(-1)
			ran.Add(1)
		}
		var admitted []*job
		for range concurrency * (1 + waitersEach) {
			admitted = append(admitted, start(t.Context(), p, work))
		}
		synctest.Wait()
		if n := running.Load(); n != concurrency {
			t.Errorf("%d run", n)
		}
		if err := p.run(t.Context(), func() error { t.Error("one too many ran"); return nil }); !errors.Is(err, ErrBusy) {
			t.Errorf("one too many: %v", err)
		}
		close(release)
		for _, j := range admitted {
			if err := <-j.done; err != nil {
				t.Errorf("one that was admitted: %v", err)
			}
		}
		if most.Load() > concurrency || ran.Load() != int32(len(admitted)) {
			t.Errorf("%d ran, %d at a time", ran.Load(), most.Load())
		}
		if err := p.run(t.Context(), func() error { return nil }); err != nil {
			t.Errorf("afterwards: %v", err)
		}
	})
}

func TestWaitingEndsWithThePatienceOrTheCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, 1)
		release := make(chan struct{})
		first := start(t.Context(), p, func() { <-release })
		synctest.Wait()
		never := func() { t.Error("ran") }

		began := time.Now() // of the bubble
		if err := <-start(t.Context(), p, never).done; !errors.Is(err, ErrBusy) || time.Since(began) != patience {
			t.Errorf("got %v after %v", err, time.Since(began))
		}
		ctx, leave := context.WithCancel(t.Context())
		left := start(ctx, p, never)
		synctest.Wait()
		leave()
		if err := <-left.done; !errors.Is(err, context.Canceled) || errors.Is(err, ErrBusy) {
			t.Errorf("the caller left: %v", err)
		}
		if err := p.run(ctx, func() error { t.Error("ran"); return nil }); !errors.Is(err, context.Canceled) {
			t.Errorf("the caller had left before: %v", err)
		}
		close(release)
		if err := <-first.done; err != nil {
			t.Error(err)
		}
	})
}

func TestBusyTellsWhenToComeBack(t *testing.T) {
	p := newPool(t, 1)
	if !p.waiting.TryAcquire(1 + waitersEach) {
		t.Fatal("the queue is not empty")
	}
	for name, err := range map[string]error{
		"Hash":    func() error { _, err := p.Hash(t.Context(), nil); return err }(),
		"Compare": func() error { _, _, err := p.Compare(t.Context(), "", nil); return err }(),
	} {
		busy := problem.From(err)
		if !errors.Is(err, ErrBusy) || busy.Kind != problem.Unavailable || busy.RetryAfter <= 0 {
			t.Errorf("%s: %v, again after %v", name, err, busy.RetryAfter)
		}
	}
}

func TestPoolIsSafeForConcurrentUse(t *testing.T) {
	p := newPool(t, 4)
	hash, err := p.Hash(t.Context(), []byte("digest"))
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for range 4 * (1 + waitersEach) {
		all.Go(func() {
			if ok, _, err := p.Compare(t.Context(), hash, []byte("digest")); err != nil || !ok {
				t.Errorf("%v, %v", ok, err)
			}
		})
	}
	all.Wait()
}

func TestTheDecoyIsComparedLikeAnyHashAndNeverRight(t *testing.T) {
	p := newPool(t, 1)
	seen := map[string]bool{}
	for range 200 {
		decoy := p.Decoy()
		if cost, err := bcrypt.Cost([]byte(decoy)); err != nil || cost != bcrypt.MinCost || len(decoy) != 60 || seen[decoy] {
			t.Fatalf("%q: cost %d, %v", decoy, cost, err)
		}
		seen[decoy] = true
		// No error: bcrypt has read the salt and hashed with it.
		if ok, stale, err := p.Compare(t.Context(), decoy, []byte("digest")); ok || stale || err != nil {
			t.Fatalf("%q: %v, stale %v, %v", decoy, ok, stale, err)
		}
	}
	hash, err := bcrypt.GenerateFromPassword([]byte("digest"), 10)
	if err != nil {
		t.Fatal(err)
	}
	dear, err := New(10, 1)
	if err != nil {
		t.Fatal(err)
	}
	if decoy := dear.Decoy(); len(decoy) != len(hash) || decoy[:7] != string(hash[:7]) {
		t.Errorf("%q has another form than %q", decoy, hash)
	}
}

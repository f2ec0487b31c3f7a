package httpcache_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/keywarden/keywarden/pkg/httpcache"
	"github.com/keywarden/keywarden/pkg/httpcache/httpcachetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func memory(t testing.TB, bytes int64, entries int) *httpcache.Memory {
	t.Helper()
	m, err := httpcache.NewMemory(httpcache.MemoryOptions{Bytes: bytes, Entries: entries})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	return m
}

func TestMemoryKeepsThePromisesOfStores(t *testing.T) {
	httpcachetest.Conformance(t, memory(t, 1<<24, 10_000))
}

func TestMemoryIsBoundedInBytesAndEntries(t *testing.T) {
	for name, c := range map[string]struct {
		bytes   int64
		entries int
		size    int
		most    int
	}{
		"bytes":   {1 << 20, 1_000_000, 10_000, 110},
		"entries": {1 << 24, 50, 10, 60},
	} {
		t.Run(name, func(t *testing.T) {
			m := memory(t, c.bytes, c.entries)
			_, mark := m.Get(t.Context(), httpcachetest.Key(0))
			for i := range 5000 {
				key := httpcachetest.Key(0)
				key.Entry[1], key.Entry[2] = byte(i), byte(i>>8)
				m.Put(t.Context(), key, httpcachetest.Object(string(make([]byte, c.size))), time.Minute, mark)
			}
			for deadline := time.Now().Add(10 * time.Second); m.Len() > c.most || m.Bytes() > uint64(c.bytes); time.Sleep(time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatalf("%d entries of %d bytes", m.Len(), m.Bytes())
				}
			}
			if m.Len() == 0 {
				t.Error("nothing is kept")
			}
		})
	}
}

func TestMemoryRefusesWhatWouldPushAllElseOut(t *testing.T) {
	m := memory(t, 1<<20, 100)
	_, mark := m.Get(t.Context(), httpcachetest.Key(1))
	m.Put(t.Context(), httpcachetest.Key(1), httpcachetest.Object(string(make([]byte, 1<<18))), time.Minute, mark)
	if o, _ := m.Get(t.Context(), httpcachetest.Key(1)); o != nil {
		t.Error("a quarter of the memory is kept as one")
	}
}

func TestMemoryWithoutBoundsIsRefused(t *testing.T) {
	for _, o := range []httpcache.MemoryOptions{{}, {Bytes: 1 << 20}, {Entries: 1}, {Bytes: 1000, Entries: 10}} {
		if _, err := httpcache.NewMemory(o); err == nil {
			t.Errorf("%+v was taken", o)
		}
	}
}

// TestNoAnswerSurvivesAPurgeThatCameAfterItWasAskedFor races writers that hold old
// marks against purges.
func TestNoAnswerSurvivesAPurgeThatCameAfterItWasAskedFor(t *testing.T) {
	m := memory(t, 1<<24, 10_000)
	var version atomic.Int64 // of what the service answers
	var group sync.WaitGroup
	stop := make(chan struct{})
	for range 4 {
		group.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				_, mark := m.Get(t.Context(), httpcachetest.Key(1))
				asked := version.Load()
				m.Put(t.Context(), httpcachetest.Key(1), httpcachetest.Object(fmt.Sprint(asked)), time.Minute, mark)
			}
		})
	}
	for i := int64(1); i <= 500; i++ {
		version.Store(i)
		if rand.IntN(2) == 0 {
			m.Forget(t.Context(), httpcachetest.Key(1).Resource)
		} else if err := m.Purge(t.Context(), httpcache.Purge{Kind: httpcache.PurgeTag, Value: "orders"}); err != nil {
			t.Fatal(err)
		}
		if o, _ := m.Get(t.Context(), httpcachetest.Key(1)); o != nil && string(o.Body) != fmt.Sprint(i) {
			t.Fatalf("answer %s is given after it was purged for %d", o.Body, i)
		}
	}
	close(stop)
	group.Wait()
}

func TestEncodedObjectsAreReadBack(t *testing.T) {
	want := httpcachetest.Object("body\x00\xff")
	mark := httpcache.Mark{Epoch: "e", Purges: 3, Resource: 4, Known: true}
	b, err := httpcache.Encode(want, mark)
	if err != nil {
		t.Fatal(err)
	}
	got, since, err := httpcache.Decode(b)
	if diff := cmp.Diff(want, got); err != nil || diff != "" || since != mark {
		t.Errorf("%v, %+v, (-want +got):\n%s", err, since, diff)
	}
	want.Header["X"] = []string{"\xff"}
	if _, err := httpcache.Encode(want, mark); err == nil {
		t.Error("a field that would come back changed was taken")
	}
}

func FuzzDecode(f *testing.F) {
	b, err := httpcache.Encode(httpcachetest.Object("body"), httpcache.Mark{Epoch: "e", Known: true})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte{1, 0, 0, 0, 2, '{', '}'})
	f.Add([]byte{1, 255, 255, 255, 255})
	f.Fuzz(func(t *testing.T, b []byte) {
		o, _, err := httpcache.Decode(b)
		if err == nil && !bytes.HasSuffix(b, o.Body) {
			t.Error("the body is not from the bytes")
		}
	})
}

func BenchmarkMemoryGet(b *testing.B) {
	m := memory(b, 1<<26, 100_000)
	_, mark := m.Get(b.Context(), httpcachetest.Key(1))
	m.Put(b.Context(), httpcachetest.Key(1), httpcachetest.Object("x"), time.Hour, mark)
	b.ReportAllocs()
	for b.Loop() {
		if o, _ := m.Get(b.Context(), httpcachetest.Key(1)); o == nil {
			b.Fatal("gone")
		}
	}
}

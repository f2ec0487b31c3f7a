package purge_test

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keywarden/keywarden/pkg/changes"
	"github.com/keywarden/keywarden/pkg/httpcache"
	"github.com/keywarden/keywarden/pkg/httpcache/httpcachetest"
	"github.com/keywarden/keywarden/pkg/httpcache/purge"
)

type recorder struct {
	changes []changes.Change
	err     error
}

func (r *recorder) RecordChange(_ context.Context, c changes.Change) (int64, error) {
	if r.err != nil {
		return 0, r.err
	}
	r.changes = append(r.changes, c)
	return int64(len(r.changes)), nil
}

// replica is a store with an answer, and the service over it.
func replica(t *testing.T, r purge.Recorder, notify func(changes.Event)) (*purge.Service, func() bool) {
	t.Helper()
	m, err := httpcache.NewMemory(httpcache.MemoryOptions{Bytes: 1 << 20, Entries: 100})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	_, mark := m.Get(t.Context(), httpcachetest.Key(1))
	m.Put(t.Context(), httpcachetest.Key(1), httpcachetest.Object("x"), time.Minute, mark)
	return &purge.Service{Recorder: r, Notify: notify, Store: m, Logger: slog.New(slog.DiscardHandler)}, func() bool {
		o, _ := m.Get(t.Context(), httpcachetest.Key(1))
		return o != nil
	}
}

func TestPurgesAreRecordedAndReachEveryReplica(t *testing.T) {
	for _, p := range []httpcache.Purge{
		{Kind: httpcache.PurgeRoute, Value: "orders"},
		{Kind: httpcache.PurgePath, Value: "/orders", Host: "api.example.com"},
		{Kind: httpcache.PurgePath, Value: "/"},
		{Kind: httpcache.PurgeTag, Value: "order-42"},
	} {
		log := &recorder{}
		other, otherHas := replica(t, log, nil)
		var one *purge.Service
		one, has := replica(t, log, func(e changes.Event) { one.Apply(e); other.Apply(e) })
		if epoch, err := one.Purge(t.Context(), p); err != nil || epoch != 1 {
			t.Fatal(epoch, err)
		}
		if has() || otherHas() {
			t.Errorf("%s: it is there: here %t, on the other replica %t", p, has(), otherHas())
		}
		got := log.changes[0]
		if got.Audit.Action != "cache.purged" || got.Audit.TargetID != p.String() || got.Event.Kind != "cache" {
			t.Errorf("recorded: %+v", got)
		}
		if back, err := httpcache.ParsePurge(got.Event.Subject); err != nil || back != p {
			t.Errorf("%+v is read back as %+v, %v", p, back, err)
		}
	}
}

func TestWhatIsNotRecordedIsNotPurged(t *testing.T) {
	s, has := replica(t, &recorder{err: errors.New("away")}, func(changes.Event) { t.Error("somebody was told") })
	if _, err := s.Purge(t.Context(), httpcache.Purge{Kind: httpcache.PurgeRoute, Value: "orders"}); err == nil || !has() {
		t.Errorf("error %v, it is there: %t", err, has())
	}
	if _, err := s.Purge(t.Context(), httpcache.Purge{Kind: httpcache.PurgeRoute}); !errors.Is(err, httpcache.ErrPurge) {
		t.Errorf("a purge of nothing: %v", err)
	}
}

func TestEventsOfOthersAndUnreadableOnes(t *testing.T) {
	gone := map[changes.Event]bool{
		{Kind: "key", Subject: "route:orders"}: false, {Kind: "cache", Subject: "route:users"}: false,
		{Kind: "cache", Subject: "newer:thing"}: true, {Kind: "cache"}: true,
	}
	got := map[changes.Event]bool{}
	for e := range gone {
		s, has := replica(t, nil, nil)
		s.Apply(e)
		got[e] = !has()
	}
	if diff := cmp.Diff(gone, got); diff != "" {
		t.Errorf("what takes the answer away (-want +got):\n%s", diff)
	}
	s, has := replica(t, nil, nil)
	if s.Reset(); has() {
		t.Error("after missed events it is given")
	}
}

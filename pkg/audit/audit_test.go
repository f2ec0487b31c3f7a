package audit_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/audit"
	"github.com/keywarden/keywarden/pkg/reqctx"
)

var (
	chain = audit.NewChain(bytes.Repeat([]byte("k"), audit.HashSize))
	start = time.Date(2026, 3, 4, 5, 6, 7, 8000, time.UTC)
)

// log is a stored chain that an intruder can write to.
type log struct {
	records []audit.Record
	seq     int64
	head    []byte
	err     error
}

func (l *log) ListAudit(context.Context, audit.Filter) ([]audit.Record, error) { return l.records, nil }

func (l *log) ScanAudit(_ context.Context, from int64, yield func(audit.Record) error) error {
	for _, r := range l.records {
		if r.Seq < from {
			continue
		}
		if err := yield(r); err != nil {
			return err
		}
	}
	return l.err
}

func (l *log) AuditHead(context.Context) (int64, []byte, error) { return l.seq, l.head, l.err }

// add appends a record under c, as a store does.
func (l *log) add(c audit.Chain, e audit.Entry) {
	if l.head == nil {
		l.head = make([]byte, audit.HashSize)
	}
	l.seq++
	r := audit.Record{Entry: e, Seq: l.seq, At: start.Add(time.Duration(l.seq) * time.Second), Prev: l.head}
	r.Hash = c.Hash(r)
	l.records, l.head = append(l.records, r), r.Hash
}

func entry() audit.Entry {
	return audit.Entry{
		Action: audit.KeyCreated, ActorKind: "user", ActorID: "actor", ActorKeyID: "key", TargetKind: "apikey", TargetID: "target",
		Result: audit.Success, Client: "203.0.113.7", RequestID: "request", Detail: map[string]string{"a": "1", "b": "2"},
	}
}

func newLog(n int) *log {
	l := &log{}
	for range n {
		l.add(chain, entry())
	}
	return l
}

func TestVerifyAcceptsAnUntouchedChain(t *testing.T) {
	for _, n := range []int{1, 2, 10} {
		l := newLog(n)
		got, err := chain.Verify(t.Context(), l)
		want := audit.Verification{Records: int64(n), Head: hex.EncodeToString(l.head)}
		if err != nil || got != want {
			t.Errorf("%d records: %+v, %v", n, got, err)
		}
	}
	empty := &log{head: make([]byte, audit.HashSize)}
	if got, err := chain.Verify(t.Context(), empty); err != nil || got.Records != 0 {
		t.Errorf("no records: %+v, %v", got, err)
	}
}

// Records that are written while the chain is read lie beyond the head.
func TestVerifyAcceptsRecordsWrittenMeanwhile(t *testing.T) {
	l := newLog(5)
	seq, head := l.seq, l.head
	l.add(chain, entry())
	l.seq, l.head = seq, head
	if got, err := chain.Verify(t.Context(), l); err != nil || got.Records != 6 {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestVerifyFindsWhatAnIntruderDid(t *testing.T) {
	forger := audit.NewChain(bytes.Repeat([]byte("f"), audit.HashSize))
	rehash := func(c audit.Chain, l *log, from int) {
		for i := from; i < len(l.records); i++ {
			if i > 0 {
				l.records[i].Prev = l.records[i-1].Hash
			}
			l.records[i].Hash = c.Hash(l.records[i])
		}
		l.head = l.records[len(l.records)-1].Hash
	}
	for _, c := range []struct {
		name string
		do   func(l *log)
		seq  int64 // where the chain is said to be broken
	}{
		{"deleted the first", func(l *log) { l.records = l.records[1:] }, 1},
		{"deleted one in the middle", func(l *log) { l.records = slices.Delete(l.records, 4, 5) }, 5},
		{"deleted one and closed the gap", func(l *log) {
			l.records = slices.Delete(l.records, 4, 5)
			for i := 4; i < len(l.records); i++ {
				l.records[i].Seq--
			}
		}, 5},
		{"cut off the end", func(l *log) { l.records = l.records[:7] }, 8},
		{"deleted everything", func(l *log) { l.records = nil }, 1},
		{"replaced the last by an older one", func(l *log) { l.records[9] = l.records[8] }, 10},
		{"swapped two", func(l *log) { l.records[3], l.records[4] = l.records[4], l.records[3] }, 4},
		{"swapped the contents of two", func(l *log) {
			l.records[3].Entry, l.records[4].Entry = l.records[4].Entry, l.records[3].Entry
			l.records[3].TargetID = "one that differs"
		}, 4},
		{"repeated one", func(l *log) { l.records = slices.Insert(l.records, 4, l.records[4]) }, 6},
		{"replaced a hash", func(l *log) { l.records[4].Hash = bytes.Repeat([]byte{1}, audit.HashSize) }, 5},
		{"emptied a hash", func(l *log) { l.records[4].Hash = nil }, 5},
		{"joined two histories", func(l *log) {
			// Both are of the platform itself: one from a backup that was restored.
			other := newLog(4)
			for range 6 {
				e := entry()
				e.TargetID = "in another history"
				other.add(chain, e)
			}
			l.records, l.head = append(l.records[:5], other.records[5:]...), other.head
		}, 6},
		{"replaced a link", func(l *log) { l.records[4].Prev = bytes.Repeat([]byte{1}, audit.HashSize) }, 5},
		{"emptied the first link", func(l *log) { l.records[0].Prev = nil }, 1},
		{"changed the head", func(l *log) { l.head = bytes.Repeat([]byte{1}, audit.HashSize) }, 11},
		{"made the whole chain anew under another key", func(l *log) { rehash(forger, l, 0) }, 1},
		{"changed one and made the rest anew under another key", func(l *log) {
			l.records[4].TargetID = "forged"
			rehash(forger, l, 4)
		}, 5},
		{"added one under another key", func(l *log) { l.add(forger, entry()) }, 11},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newLog(10)
			c.do(l)
			_, err := chain.Verify(t.Context(), l)
			broken, ok := errors.AsType[*audit.BrokenError](err)
			if !ok || broken.Seq != c.seq || broken.Reason == "" {
				t.Fatalf("got %v, want a break at %d", err, c.seq)
			}
			gone := []string{"deleted the first", "deleted one in the middle", "cut off the end"}
			if slices.Contains(gone, c.name) && !strings.Contains(broken.Reason, "missing") {
				t.Errorf("the reason is %q", broken.Reason)
			}
		})
	}
}

// changes are all the ways to change one field of a record.
func changes() map[string]func(*audit.Record) {
	return map[string]func(*audit.Record){
		"seq":            func(r *audit.Record) { r.Seq++ },
		"time":           func(r *audit.Record) { r.At = r.At.Add(time.Microsecond) },
		"action":         func(r *audit.Record) { r.Action = audit.KeyRevoked },
		"actor kind":     func(r *audit.Record) { r.ActorKind = "key" },
		"actor id":       func(r *audit.Record) { r.ActorID = "" },
		"actor key id":   func(r *audit.Record) { r.ActorKeyID += "x" },
		"target kind":    func(r *audit.Record) { r.TargetKind = "user" },
		"target id":      func(r *audit.Record) { r.TargetID = "other" },
		"result":         func(r *audit.Record) { r.Result = audit.Failure },
		"client":         func(r *audit.Record) { r.Client = "203.0.113.8" },
		"request id":     func(r *audit.Record) { r.RequestID = "other" },
		"detail value":   func(r *audit.Record) { r.Detail = map[string]string{"a": "1", "b": "3"} },
		"detail name":    func(r *audit.Record) { r.Detail = map[string]string{"a": "1", "c": "2"} },
		"detail swapped": func(r *audit.Record) { r.Detail = map[string]string{"a": "2", "b": "1"} },
		"detail added":   func(r *audit.Record) { r.Detail = map[string]string{"a": "1", "b": "2", "": ""} },
		"detail removed": func(r *audit.Record) { r.Detail = map[string]string{"a": "1"} },
		"details gone":   func(r *audit.Record) { r.Detail = nil },
		"link":           func(r *audit.Record) { r.Prev = bytes.Repeat([]byte{9}, audit.HashSize) },
	}
}

func TestVerifyFindsEveryChangedField(t *testing.T) {
	for name, change := range changes() {
		t.Run(name, func(t *testing.T) {
			l := newLog(3)
			change(&l.records[1])
			if _, err := chain.Verify(t.Context(), l); err == nil {
				t.Error("not noticed")
			}
		})
	}
}

func TestHashDependsOnEveryFieldAndOnTheKey(t *testing.T) {
	r := newLog(1).records[0]
	seen := map[string]string{string(chain.Hash(r)): "nothing"}
	for name, change := range changes() {
		changed := r
		changed.Detail = maps.Clone(r.Detail)
		change(&changed)
		hash := string(chain.Hash(changed))
		if other, taken := seen[hash]; taken {
			t.Errorf("a changed %s gives the hash of a changed %s", name, other)
		}
		seen[hash] = name
	}
	if bytes.Equal(audit.NewChain([]byte("other")).Hash(r), chain.Hash(r)) {
		t.Error("the key does not matter")
	}
}

func TestHashIgnoresWhatADatabaseLoses(t *testing.T) {
	r := newLog(1).records[0]
	stored := r
	stored.At = r.At.Add(999 * time.Nanosecond).In(time.FixedZone("", 7200)) // microseconds, another zone
	if !bytes.Equal(chain.Hash(stored), chain.Hash(r)) {
		t.Error("a record read back has another hash")
	}
	r.Detail, stored.Detail = nil, map[string]string{}
	if !bytes.Equal(chain.Hash(stored), chain.Hash(r)) {
		t.Error("no details and empty details differ")
	}
}

// texts are the neighbouring texts of a record in the order in which they are
// hashed.
func texts(r *audit.Record) []*string {
	return []*string{
		(*string)(&r.Action), &r.ActorKind, &r.ActorID, &r.ActorKeyID, &r.TargetKind, &r.TargetID,
		(*string)(&r.Result), &r.Client, &r.RequestID,
	}
}

func TestMovingACharacterBetweenNeighboursChangesTheHash(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := audit.Record{Seq: 1, At: start, Prev: make([]byte, audit.HashSize)}
		for _, s := range texts(&r) {
			*s = rapid.StringMatching(`[a\x00\x01]{1,3}`).Draw(t, "text")
		}
		before := chain.Hash(r)
		fields := texts(&r)
		i := rapid.IntRange(0, len(fields)-2).Draw(t, "field")
		left, right := fields[i], fields[i+1]
		if rapid.Bool().Draw(t, "to the left") {
			*left, *right = *left+(*right)[:1], (*right)[1:]
		} else {
			*left, *right = (*left)[:len(*left)-1], (*left)[len(*left)-1:]+*right
		}
		if bytes.Equal(before, chain.Hash(r)) {
			t.Fatalf("%+v has the hash of its neighbour", r)
		}
	})
}

// Details end where the link begins, and names where their values do.
func TestDifferentRecordsHaveDifferentHashes(t *testing.T) {
	text := rapid.OneOf(rapid.StringMatching(`[ab\x00]{0,3}`), rapid.SampledFrom([]string{
		"\x00\x00\x00\x00\x00\x00\x00\x01a", "\x00\x00\x00\x00\x00\x00\x00\x00", "\x00\x00\x00\x00\x00\x00\x00\x02",
	}))
	draw := rapid.Custom(func(t *rapid.T) audit.Record {
		r := audit.Record{
			Seq: rapid.Int64Range(0, 2).Draw(t, "seq"), At: start.Add(time.Duration(rapid.IntRange(0, 2).Draw(t, "at")) * time.Microsecond),
			Prev: []byte(text.Draw(t, "prev")),
		}
		for _, s := range texts(&r) {
			*s = text.Draw(t, "text")
		}
		r.Detail = rapid.MapOfN(text, text, 0, 3).Draw(t, "detail")
		return r
	})
	seen := map[string]string{}
	rapid.Check(t, func(t *rapid.T) {
		r := draw.Draw(t, "record")
		hash, shown := string(chain.Hash(r)), fmt.Sprintf("%#v", r)
		if other, taken := seen[hash]; taken && other != shown {
			t.Fatalf("the same hash:\n%s\n%s", shown, other)
		}
		seen[hash] = shown
	})
}

func TestVerifyReportsTheStoresErrorsAsTheyAre(t *testing.T) {
	l := newLog(3)
	l.err = errors.New("no database")
	if _, err := chain.Verify(t.Context(), l); !errors.Is(err, l.err) {
		t.Errorf("got %v", err)
	}
}

func TestChainKeyIsNeverPrinted(t *testing.T) {
	for _, v := range []any{chain, &chain, struct{ c audit.Chain }{chain}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d"} {
			got := fmt.Sprintf(verb, v)
			for _, spelling := range []string{"kkkk", "6b6b6b", "107 107", "0x6b, 0x6b"} {
				if bytes.Contains([]byte(got), []byte(spelling)) {
					t.Errorf("%s of %T shows the key: %s", verb, v, got)
				}
			}
		}
	}
}

func TestEntriesSayWhoActed(t *testing.T) {
	request := reqctx.With(t.Context(), &reqctx.Info{ID: "r", Client: netip.MustParseAddr("2001:db8::1")})
	user := access.WithPrincipal(request, &access.Principal{Kind: access.KindUser, UserID: "u"})
	key := access.WithPrincipal(request, &access.Principal{Kind: access.KindKey, UserID: "u", KeyID: "k"})
	base := audit.Entry{Action: audit.UserUpdated, TargetKind: "user", TargetID: "t", Result: audit.Success}
	inRequest := func(e audit.Entry) audit.Entry {
		e.RequestID, e.Client = "r", "2001:db8::1"
		return e
	}
	for name, c := range map[string]struct {
		ctx   context.Context
		actor audit.Entry
	}{
		"the platform": {t.Context(), base},
		"anybody":      {request, inRequest(base)},
		"a user":       {user, inRequest(base)},
		"a key":        {key, inRequest(base)},
	} {
		want := c.actor
		switch name {
		case "the platform":
			want.ActorKind = "system"
		case "anybody":
			want.ActorKind = "anonymous"
		case "a user":
			want.ActorKind, want.ActorID = "user", "u"
		case "a key":
			want.ActorKind, want.ActorID, want.ActorKeyID = "key", "u", "k"
		}
		if diff := cmp.Diff(want, audit.New(c.ctx, audit.UserUpdated, "user", "t")); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestEntriesAreChangedByCopy(t *testing.T) {
	e := audit.New(t.Context(), audit.LoginFailed, "user", "t").With("a", "1")
	f := e.With("b", "2").With("a", "3").Failed().By("u")
	if diff := cmp.Diff(map[string]string{"a": "1"}, e.Detail); diff != "" || e.Result != audit.Success || e.ActorKind != "system" {
		t.Errorf("the original changed: %+v", e)
	}
	if diff := cmp.Diff(map[string]string{"a": "3", "b": "2"}, f.Detail); diff != "" || f.Result != audit.Failure || f.ActorID != "u" {
		t.Errorf("the copy is %+v", f)
	}
}

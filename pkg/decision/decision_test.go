package decision_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/keywarden/keywarden/pkg/decision"
	"github.com/keywarden/keywarden/pkg/seal"
)

func ring(t testing.TB, current seal.Secret, retired ...seal.Secret) *seal.Keyring {
	t.Helper()
	r, err := seal.ParseKeyring(current, retired...)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func sealer(t testing.TB, r *seal.Keyring, now func() time.Time) *decision.Sealer {
	t.Helper()
	s, err := decision.NewSealer(r, now)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

var example = decision.Decision{
	RequestID: "01890a5d-ac96-774b-bcce-b302099a8057", Route: "orders", Policy: "auth", Code: "access.scope_missing",
	Detail: `This call needs the scope "orders:write".`, UserID: "u", KeyID: "k", Client: "192.0.2.1", Document: "abcdef012345",
}

func TestAnyReplicaOpensWhatAnotherSealed(t *testing.T) {
	key := seal.NewMasterKey()
	id := sealer(t, ring(t, key), time.Now).Seal(example)
	got, err := sealer(t, ring(t, key), time.Now).Open(id)
	if err != nil {
		t.Fatal(err)
	}
	got.At = 0
	if diff := cmp.Diff(example, got); diff != "" {
		t.Error(diff)
	}
	if len(id) > 500 {
		t.Errorf("an ordinary id has %d bytes", len(id))
	}
}

func TestIdsOutliveTheRotationOfTheMasterKey(t *testing.T) {
	before, after := seal.NewMasterKey(), seal.NewMasterKey()
	id := sealer(t, ring(t, before), time.Now).Seal(example)
	if _, err := sealer(t, ring(t, after, before), time.Now).Open(id); err != nil {
		t.Error(err)
	}
	if _, err := sealer(t, ring(t, after), time.Now).Open(id); !errors.Is(err, decision.ErrUnknown) {
		t.Errorf("without the retired key: %v", err)
	}
}

func TestIdsEnd(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	s := sealer(t, ring(t, seal.NewMasterKey()), func() time.Time { return now })
	id := s.Seal(example)
	now = now.Add(decision.Lifetime)
	if _, err := s.Open(id); err != nil {
		t.Error(err)
	}
	now = now.Add(time.Second)
	if _, err := s.Open(id); !errors.Is(err, decision.ErrUnknown) {
		t.Errorf("got %v", err)
	}
}

func TestNobodyMakesUpAnID(t *testing.T) {
	s := sealer(t, ring(t, seal.NewMasterKey()), time.Now)
	good := s.Seal(example)
	if strings.Contains(good, "orders") || good == s.Seal(example) {
		t.Error("an id shows what it holds")
	}
	rapid.Check(t, func(t *rapid.T) {
		id := []byte(good)
		at := rapid.IntRange(0, len(id)-1).Draw(t, "at")
		c := rapid.Byte().Draw(t, "byte")
		if id[at] == c {
			t.Skip("the same")
		}
		id[at] = c
		if _, err := s.Open(string(id)); !errors.Is(err, decision.ErrUnknown) {
			t.Fatalf("%q opened: %v", id, err)
		}
	})
	for _, id := range []string{"", "x", strings.Repeat("A", decision.MaxID+1), good + "AAAA", good[:len(good)-4]} {
		if _, err := s.Open(id); !errors.Is(err, decision.ErrUnknown) {
			t.Errorf("%.20q opened: %v", id, err)
		}
	}
}

func TestLongDetailsAreCut(t *testing.T) {
	s := sealer(t, ring(t, seal.NewMasterKey()), time.Now)
	long := example
	long.Detail = strings.Repeat("é", 5000)
	if id := s.Seal(long); id == "" || len(id) > decision.MaxID {
		t.Errorf("id of %d bytes", len(id))
	}
}

func BenchmarkSeal(b *testing.B) {
	s := sealer(b, ring(b, seal.NewMasterKey()), time.Now)
	b.ReportAllocs()
	for b.Loop() {
		s.Seal(example)
	}
}

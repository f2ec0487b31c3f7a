package session

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keywarden/keywarden/pkg/seal"
)

// published is the ids of the keys of a signer, sorted.
func published(s *Signer) (ids []string) {
	for _, k := range s.JWKS().Keys {
		ids = append(ids, k.KeyID)
	}
	slices.Sort(ids)
	return ids
}

// kid is the id of the key that signed a token.
func kid(t *testing.T, token string) string {
	t.Helper()
	head, _, _ := strings.Cut(token, ".")
	raw, err := base64.RawURLEncoding.DecodeString(head)
	if err != nil {
		t.Fatal(err)
	}
	var header struct {
		Kid string `json:"kid"`
	}
	if err := json.Unmarshal(raw, &header); err != nil {
		t.Fatal(err)
	}
	return header.Kid
}

func refresh(t *testing.T, signers ...*Signer) {
	t.Helper()
	for _, s := range signers {
		if err := s.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

func TestPublishedKeyVerifiesAndIsPublic(t *testing.T) {
	s := readySigner(t, newClock())
	token := issue(t, s)
	keys := s.JWKS().Keys
	if len(keys) != 1 || keys[0].KeyID != kid(t, token) {
		t.Fatalf("%+v", keys)
	}
	public, err := base64.RawURLEncoding.DecodeString(keys[0].X)
	if err != nil {
		t.Fatal(err)
	}
	input, sig := token[:strings.LastIndex(token, ".")], token[strings.LastIndex(token, ".")+1:]
	signature, _ := base64.RawURLEncoding.DecodeString(sig)
	if !ed25519.Verify(public, []byte(input), signature) {
		t.Error("the published key does not verify")
	}
	text, err := json.Marshal(s.JWKS())
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf(`{"keys":[{"kty":"OKP","crv":"Ed25519","x":%q,"kid":%q,"use":"sig","alg":"EdDSA"}]}`, keys[0].X, keys[0].KeyID)
	if string(text) != want {
		t.Errorf("\n got %s\nwant %s", text, want)
	}
}

func TestRotationOverlaps(t *testing.T) {
	c, keys := newClock(), &fakeKeys{}
	ring := newRing(t, seal.NewMasterKey())
	one, two := newTestSigner(t, keys, ring, c.now), newTestSigner(t, keys, ring, c.now)
	refresh(t, one, two)
	first := issue(t, one)
	if diff := cmp.Diff([]string{kid(t, first)}, published(two)); diff != "" {
		t.Fatal(diff)
	}

	c.advance(testRotation - time.Second)
	refresh(t, one, two)
	if n := keys.count(); n != 1 {
		t.Fatalf("%d keys before it is time", n)
	}
	c.advance(time.Second)
	refresh(t, one, two)
	if n := keys.count(); n != 2 || len(published(one)) != 2 || len(published(two)) != 2 {
		t.Fatalf("%d keys, published %v and %v", n, published(one), published(two))
	}
	last := issue(t, one)
	if kid(t, last) != kid(t, first) || kid(t, issue(t, two)) != kid(t, first) {
		t.Error("the new key signs before everybody can know it")
	}

	c.advance(signingDelay)
	refresh(t, one) // the other one is late, and must know what this one signs with
	next := issue(t, one)
	if kid(t, next) == kid(t, first) || !slices.Contains(published(two), kid(t, next)) {
		t.Error("the new key does not sign, or is not known to everybody")
	}
	refresh(t, two)
	for _, s := range []*Signer{one, two} {
		for _, token := range []string{last, next} {
			if _, err := s.parse(token); err != nil {
				t.Error(err)
			}
		}
	}

	c.advance(testTTL - signingDelay) // the last second of the last token of the old key
	refresh(t, one, two)
	if _, err := two.parse(last); err != nil {
		t.Errorf("a token of the old key: %v", err)
	}
	c.advance(2 * time.Hour)
	refresh(t, one, two)
	if diff := cmp.Diff([]string{kid(t, next)}, published(two)); diff != "" {
		t.Error("the old key does not retire: ", diff)
	}
	if n := keys.count(); n != 2 {
		t.Errorf("%d keys", n)
	}
}

func TestReplicasMakeOneKeyAtATime(t *testing.T) {
	c, keys := newClock(), &fakeKeys{}
	ring := newRing(t, seal.NewMasterKey())
	signers := make([]*Signer, 8)
	for i := range signers {
		signers[i] = newTestSigner(t, keys, ring, c.now)
	}
	for want := 1; want <= 3; want++ {
		var group sync.WaitGroup
		for _, s := range signers {
			group.Go(func() {
				if err := s.Refresh(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		group.Wait()
		if n := keys.count(); n != want {
			t.Errorf("%d keys, want %d", n, want)
		}
		token := issue(t, signers[0])
		for _, s := range signers {
			if _, err := s.parse(token); err != nil {
				t.Error(err)
			}
		}
		c.advance(testRotation + signingDelay)
	}
}

func TestReplicaWhoseClockIsBehindStarts(t *testing.T) {
	c, keys := newClock(), &fakeKeys{}
	ring := newRing(t, seal.NewMasterKey())
	behind := func() time.Time { return c.now().Add(-3 * time.Second) }
	one, two := newTestSigner(t, keys, ring, c.now), newTestSigner(t, keys, ring, behind)
	refresh(t, one, two)
	if n := keys.count(); n != 1 {
		t.Errorf("%d keys", n)
	}
	if _, err := two.parse(issue(t, one)); err != nil {
		t.Error(err)
	}
	if _, err := one.parse(issue(t, two)); err != nil {
		t.Error(err)
	}
}

func TestAllKeysRetiredMeansAFirstOne(t *testing.T) {
	c, keys := newClock(), &fakeKeys{}
	s := newTestSigner(t, keys, newRing(t, seal.NewMasterKey()), c.now)
	refresh(t, s)
	c.advance(100 * testRotation) // the platform was switched off
	refresh(t, s)
	if _, err := s.parse(issue(t, s)); err != nil || len(published(s)) != 1 {
		t.Errorf("%v, published %v", err, published(s))
	}
}

func TestKeyUnderRetiredMasterKeyIsSealedAnew(t *testing.T) {
	c, keys := newClock(), &fakeKeys{}
	old, next := seal.NewMasterKey(), seal.NewMasterKey()
	before := newTestSigner(t, keys, newRing(t, old), c.now)
	refresh(t, before)
	token := issue(t, before)

	during := newTestSigner(t, keys, newRing(t, next, old), c.now)
	refresh(t, during)
	after := newTestSigner(t, keys, newRing(t, next), c.now)
	refresh(t, after)
	for _, s := range []*Signer{during, after} {
		if _, err := s.parse(token); err != nil {
			t.Error(err)
		}
	}
	if n := keys.count(); n != 1 {
		t.Errorf("%d keys", n)
	}

	keys.reseal = errStore
	if err := newTestSigner(t, keys, newRing(t, old, next), c.now).Refresh(t.Context()); !errors.Is(err, errStore) {
		t.Errorf("error %v", err)
	}
}

func TestUnknownMasterKeyIsRefusedWithAdvice(t *testing.T) {
	c, keys := newClock(), &fakeKeys{}
	refresh(t, newTestSigner(t, keys, newRing(t, seal.NewMasterKey()), c.now))
	err := newTestSigner(t, keys, newRing(t, seal.NewMasterKey()), c.now).Refresh(t.Context())
	if !errors.Is(err, seal.ErrUnknownKey) {
		t.Fatalf("error %v", err)
	}
	for _, advice := range []string{keys.keys[0].ID, "KEYWARDEN_MASTER_KEY", "KEYWARDEN_SECURITY_MASTER_KEYS_RETIRED"} {
		if !strings.Contains(err.Error(), advice) {
			t.Errorf("%v does not say %s", err, advice)
		}
	}
	if n := keys.count(); n != 1 {
		t.Error("a key was made over those that cannot be read")
	}
}

func TestSealedKeyIsBoundToItsRow(t *testing.T) {
	c, keys := newClock(), &fakeKeys{}
	ring := newRing(t, seal.NewMasterKey())
	refresh(t, newTestSigner(t, keys, ring, c.now))
	keys.keys[0].ID = "another"
	if err := newTestSigner(t, keys, ring, c.now).Refresh(t.Context()); !errors.Is(err, seal.ErrTampered) {
		t.Errorf("error %v", err)
	}
}

func TestOutageKeepsTheKnownKeys(t *testing.T) {
	c, keys := newClock(), &fakeKeys{}
	s := newTestSigner(t, keys, newRing(t, seal.NewMasterKey()), c.now)
	keys.fail(errStore)
	if err := s.Refresh(t.Context()); !errors.Is(err, errStore) {
		t.Errorf("without any key: %v", err)
	}
	keys.fail(nil)
	refresh(t, s)
	token := issue(t, s)
	keys.fail(errStore)
	c.advance(time.Minute)
	if err := s.Refresh(t.Context()); !errors.Is(err, errStore) {
		t.Errorf("error %v", err)
	}
	if _, err := s.parse(token); err != nil {
		t.Error(err)
	}
	if _, err := s.parse(issue(t, s)); err != nil {
		t.Error(err)
	}
}

func TestRunFollowsNudgesAndTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		keys, ring := &fakeKeys{}, newRing(t, seal.NewMasterKey())
		one, two := newTestSigner(t, keys, ring, time.Now), newTestSigner(t, keys, ring, time.Now)
		refresh(t, one, two)
		first := issue(t, two)
		nudge := make(chan struct{}, 1)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- two.Run(ctx, nudge) }()

		time.Sleep(testRotation - 30*time.Second)
		keys.fail(errStore) // an outage that Run survives
		time.Sleep(2 * time.Minute)
		keys.fail(nil)
		refresh(t, one)
		synctest.Wait()
		if len(published(two)) != 1 {
			t.Fatal("known without a nudge and before its time")
		}
		nudge <- struct{}{}
		synctest.Wait()
		if diff := cmp.Diff(published(one), published(two)); diff != "" {
			t.Error("nudged: ", diff)
		}
		time.Sleep(signingDelay + time.Minute)
		synctest.Wait()
		if next := issue(t, two); kid(t, next) == kid(t, first) {
			t.Error("the new key does not sign with time alone")
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

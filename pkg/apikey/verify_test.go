package apikey

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/changes"
	"github.com/keywarden/keywarden/pkg/seal"
	"github.com/keywarden/keywarden/pkg/slowhash"
)

func at(d time.Duration) *time.Time {
	t := begin.Add(d)
	return &t
}

func TestVerifyAcceptsAGoodKeyAndReadsItOnce(t *testing.T) {
	b := newBench(t, 100)
	key, _ := b.mint(t)
	p := b.wantGood(t, key)
	want := &access.Principal{
		Kind: access.KindKey, UserID: "user-1", Role: access.RoleUser,
		Scopes: []string{"orders:read", "profile:read"}, KeyID: "key-1", KeyName: "ci",
	}
	if diff := cmp.Diff(want, p); diff != "" {
		t.Errorf("principal (-want +got):\n%s", diff)
	}
	for range 100 {
		b.wantGood(t, key)
	}
	b.wantCost(t, 1, 0, 0)
}

func TestVerifyRefusesWhatIsNotAGoodKey(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*Stored)
		key    func(key string) string
	}{
		{"unknown", nil, func(string) string { return newKey("kw", Live, newID()).Reveal() }},
		{"wrong secret", nil, wrong},
		{"wrong environment", nil, func(key string) string { return encode("kw", Test, key[len("kw_live_"):len(key)-checkLength]) }},
		{"revoked", func(s *Stored) { s.Key.RevokedAt = at(-time.Second) }, nil},
		{"revoked in the future, by another clock", func(s *Stored) { s.Key.RevokedAt = at(time.Hour) }, nil},
		{"expired", func(s *Stored) { s.Key.ExpiresAt = at(-time.Second) }, nil},
		{"expiring now", func(s *Stored) { s.Key.ExpiresAt = at(0) }, nil},
		{"owner disabled", func(s *Stored) { s.OwnerDisabled = true }, nil},
		{"without secrets", func(s *Stored) { s.Secrets = nil }, nil},
		{"secret has ended", func(s *Stored) { s.Secrets[0].ValidUntil = at(0) }, nil},
		{"empty verifier under the current pepper and another hash", func(s *Stored) {
			s.Secrets[0].Verifier, s.Secrets[0].Bcrypt = []byte{}, "$2a$04$N9qo8uLOickgx2ZMRZoMyeIjZAgcfl7p92ldGxad68LJZdL17lhWy"
		}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t, 100)
			var key string
			if c.change == nil {
				key, _ = b.mint(t)
			} else {
				key, _ = b.mint(t, c.change)
			}
			if c.key != nil {
				key = c.key(key)
			}
			for range 2 { // from the database and from the cache
				if got := b.wantRefused(t, key, access.ErrKey); got.Detail != access.ErrKey.Detail || got.RetryAfter != 0 {
					t.Errorf("the answer tells more: %+v", got)
				}
			}
		})
	}
}

func TestJunkIsRefusedWithoutAskingAnybody(t *testing.T) {
	b := newBench(t, 100)
	key, _ := b.mint(t)
	for _, junk := range []string{"", "kw_", key[1:], mistype(key), key + "0", strings.Repeat(key, 1000), "eyJ.a.b", strings.ToUpper(key)} {
		b.wantRefused(t, junk, access.ErrKey)
	}
	b.wantCost(t, 0, 0, 0)
}

func TestVerifyRefusesAKeyFromTheMomentItExpires(t *testing.T) {
	b := newBench(t, 100)
	key, _ := b.mint(t, func(s *Stored) { s.Key.ExpiresAt = at(time.Hour) })
	b.advance(time.Hour - 1)
	b.wantGood(t, key)
	b.advance(1)
	b.wantRefused(t, key, access.ErrKey) // though it is cached
	b.wantCost(t, 1, 0, 0)
}

func TestVerifyRefusesAddressesOutsideTheAllowList(t *testing.T) {
	b := newBench(t, 100)
	key, _ := b.mint(t, func(s *Stored) {
		s.Key.AllowedIPs = []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24"), netip.MustParsePrefix("2001:db8::/32")}
	})
	open, _ := b.mint(t)
	for range 2 { // from the database and from the cache
		for text, ok := range map[string]bool{
			"203.0.113.7": true, "::ffff:203.0.113.7": true, "2001:db8::1": true, "2001:db8:ffff::1": true,
			"203.0.114.7": false, "::ffff:203.0.114.7": false, "2001:db9::1": false, "::1": false, "127.0.0.1": false,
			"203.0.113.7.": false, // no address at all: the zero one
		} {
			from, _ := netip.ParseAddr(text)
			_, err := b.VerifyKey(t.Context(), key, from)
			if ok && err != nil || !ok && !errors.Is(err, access.ErrAddress) {
				t.Errorf("from %s: %v", text, err)
			}
			if _, err := b.VerifyKey(t.Context(), open, from); err != nil {
				t.Errorf("without an allow-list, from %s: %v", text, err)
			}
			// Who does not hold the secret does not learn of the list.
			if _, err := b.VerifyKey(t.Context(), wrong(key), from); !errors.Is(err, access.ErrKey) {
				t.Errorf("with a wrong secret, from %s: %v", text, err)
			}
		}
	}
}

func TestRotatedKeyWorksUntilItsGraceEndsAndNotAfter(t *testing.T) {
	b := newBench(t, 100)
	old, id := b.mint(t)
	b.wantGood(t, old)
	var next string
	b.store.change(id, func(s *Stored) { next = b.addSecret(t, s, at(time.Hour)) })
	b.Apply(changes.Event{Kind: changes.KeyChanged, Subject: id})

	b.wantGood(t, next)
	b.wantGood(t, old)
	b.wantRefused(t, wrong(old), access.ErrKey)
	b.advance(time.Hour - 1)
	b.wantGood(t, old)
	b.advance(1)
	b.wantRefused(t, old, access.ErrKey)
	b.wantGood(t, next)
	b.wantCost(t, 2, 0, 0)
}

func TestScopesAreCutToTheOwnersRole(t *testing.T) {
	granted := []string{"users:write", "orders:read", "*", "keys:admin", "orders:read"}
	for role, want := range map[access.Role][]string{
		access.RoleUser:  {"orders:read"},
		access.RoleAdmin: {"keys:admin", "orders:read", "users:write"},
		"gone":           {},
	} {
		b := newBench(t, 100)
		key, id := b.mint(t, func(s *Stored) { s.OwnerRole, s.Key.Scopes = role, granted })
		p := b.wantGood(t, key)
		if diff := cmp.Diff(want, p.Scopes); diff != "" || p.Role != role {
			t.Errorf("%s (-want +got):\n%s", role, diff)
		}
		b.store.change(id, func(s *Stored) { s.OwnerRole = access.RoleUser })
		b.Apply(changes.Event{Kind: changes.UserChanged, Subject: p.UserID})
		if p := b.wantGood(t, key); p.Has("users:write") || p.Has("keys:admin") {
			t.Errorf("after the demotion of a %s the key holds %q", role, p.Scopes)
		}
	}
}

// Events say that the database knows better; the next call asks it.
func TestEventsEndWhatTheyConcernAndNothingElse(t *testing.T) {
	for _, c := range []struct {
		name  string
		event func(id string) changes.Event
		drops bool
	}{
		{"this key", func(id string) changes.Event { return changes.Event{Kind: changes.KeyChanged, Subject: id} }, true},
		{"its owner", func(string) changes.Event { return changes.Event{Kind: changes.UserChanged, Subject: "user-1"} }, true},
		{"another owner", func(string) changes.Event { return changes.Event{Kind: changes.UserChanged, Subject: "user-3"} }, false},
		{"sessions of its owner", func(string) changes.Event {
			return changes.Event{Kind: changes.UserSessionsEnded, Subject: "user-1"}
		}, false},
		{"a session", func(string) changes.Event { return changes.Event{Kind: changes.SessionEnded, Subject: "user-1"} }, false},
		{"signing keys", func(string) changes.Event { return changes.Event{Kind: changes.SigningKeysChanged} }, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t, 100)
			key, id := b.mint(t)
			other, _ := b.mint(t)
			b.wantGood(t, key)
			b.wantGood(t, other)
			b.store.change(id, func(s *Stored) { s.Key.RevokedAt = at(0) })
			b.wantGood(t, key) // nobody has said so yet

			b.Apply(c.event(id))

			if c.drops {
				b.wantRefused(t, key, access.ErrKey)
				b.wantGood(t, other)
				b.wantCost(t, 3, 0, 0)
			} else {
				b.wantGood(t, key)
				b.wantCost(t, 2, 0, 0)
			}
		})
	}
}

func TestResetDropsEverything(t *testing.T) {
	b := newBench(t, 100)
	key, id := b.mint(t)
	b.wantGood(t, key)
	unknown := newKey("kw", Live, newID()).Reveal()
	b.wantRefused(t, unknown, access.ErrKey)
	b.store.change(id, func(s *Stored) { s.Key.RevokedAt = at(0) })
	b.Reset()
	b.wantRefused(t, key, access.ErrKey)
	b.wantRefused(t, unknown, access.ErrKey)
	b.wantCost(t, 4, 0, 0)
}

func TestNewKeyIsFoundThoughItWasAskedForBefore(t *testing.T) {
	b := newBench(t, 100)
	key, id := b.mint(t)
	stored := b.store.stored[id]
	delete(b.store.stored, id)
	b.wantRefused(t, key, access.ErrKey)
	b.store.stored[id] = stored
	b.Apply(changes.Event{Kind: changes.KeyChanged, Subject: id})
	b.wantGood(t, key)
}

// The key is made after the look-up saw that there is none, and before that is
// cached.
func TestNewKeyIsFoundThoughItIsBeingAskedFor(t *testing.T) {
	b := newBench(t, 100)
	key, id := b.mint(t)
	stored := b.store.stored[id]
	delete(b.store.stored, id)
	b.store.read = func(string) {
		b.store.read = nil
		b.store.change(id, func(s *Stored) { *s = stored })
		b.Apply(changes.Event{Kind: changes.KeyChanged, Subject: id})
	}
	b.wantRefused(t, key, access.ErrKey)
	b.wantGood(t, key)
}

func TestRevocationDuringALookUpWins(t *testing.T) {
	b := newBench(t, 100)
	key, id := b.mint(t)
	b.store.read = func(string) {
		b.store.read = nil
		b.store.change(id, func(s *Stored) { s.Key.RevokedAt = at(0) })
		b.Apply(changes.Event{Kind: changes.KeyChanged, Subject: id})
	}
	b.wantGood(t, key) // it was asked before
	b.wantRefused(t, key, access.ErrKey)
}

// Whatever the moment of the revocation, a verifier that is made meanwhile does
// not bring the revoked record back.
func TestRenewedVerifierNeverRevivesARevokedKey(t *testing.T) {
	revoke := func(b *bench, id string) {
		b.store.change(id, func(s *Stored) { s.Key.RevokedAt = at(0) })
		b.Apply(changes.Event{Kind: changes.KeyChanged, Subject: id})
	}
	t.Run("during the comparison", func(t *testing.T) {
		b := newBench(t, 100)
		key, id := b.mint(t, without)
		b.pool.comparing = func() { revoke(b, id) }
		b.wantGood(t, key)
		b.wantRefused(t, key, access.ErrKey)
	})
	t.Run("between look-up and comparison", func(t *testing.T) {
		b := newBench(t, 100)
		key, id := b.mint(t, without)
		r, err := b.record(t.Context(), id, client, b.now())
		if err != nil {
			t.Fatal(err)
		}
		revoke(b, id)
		if _, err := b.decide(t.Context(), r, id, key, client, b.now()); err != nil {
			t.Fatal(err)
		}
		b.wantRefused(t, key, access.ErrKey)
	})
	t.Run("of its owner", func(t *testing.T) {
		b := newBench(t, 100)
		key, id := b.mint(t, without)
		r, err := b.record(t.Context(), id, client, b.now())
		if err != nil {
			t.Fatal(err)
		}
		b.store.change(id, func(s *Stored) { s.OwnerDisabled = true })
		b.Apply(changes.Event{Kind: changes.UserChanged, Subject: "user-1"})
		if _, err := b.decide(t.Context(), r, id, key, client, b.now()); err != nil {
			t.Fatal(err)
		}
		b.wantRefused(t, key, access.ErrKey)
	})
}

func TestStaleFeedMakesEveryCallAskTheDatabase(t *testing.T) {
	b := newBench(t, 100)
	key, id := b.mint(t)
	unknown := newKey("kw", Live, newID()).Reveal()
	b.wantGood(t, key)
	b.wantRefused(t, unknown, access.ErrKey)
	b.stale.Store(true)
	b.wantGood(t, key)
	b.wantRefused(t, unknown, access.ErrKey)
	b.store.change(id, func(s *Stored) { s.Key.RevokedAt = at(0) }) // and no event arrives
	b.wantRefused(t, key, access.ErrKey)
	b.wantCost(t, 5, 0, 0)
}

func TestWithoutADatabaseKnownKeysGoOnAndUnknownOnesAreUndecided(t *testing.T) {
	b := newBench(t, 100)
	known, _ := b.mint(t)
	cold, _ := b.mint(t)
	b.wantGood(t, known)
	down := errors.New("connection refused")
	b.store.fail(down)

	b.wantGood(t, known)
	b.wantRefused(t, wrong(known), access.ErrKey)
	for range 3 * missBurst { // and our trouble is not charged to the caller
		for _, key := range []string{cold, newKey("kw", Live, newID()).Reveal()} {
			got := b.wantRefused(t, key, access.ErrUndecided)
			if got.RetryAfter <= 0 || !errors.Is(got, down) {
				t.Fatalf("%v, again after %v", got, got.RetryAfter)
			}
		}
	}
	b.stale.Store(true)
	b.wantRefused(t, known, access.ErrUndecided)

	b.store.fail(nil)
	b.wantGood(t, cold)
	b.wantGood(t, known)
}

// Nobody's attempts fail while the database is away. More look-ups than an address may
// have on their way are refused unasked, and not as too many failures.
func TestWithoutADatabaseTooManyUnknownKeysAreUndecidedAndNotLookedUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 100)
		cold, _ := b.mint(t)
		unknown := func() string { return newKey("kw", Live, newID()).Reveal() }
		for range missBurst { // the first ones: nobody knows yet that it is away
			b.wantRefused(t, unknown(), access.ErrKey)
		}
		if got := b.wantRefused(t, unknown(), access.ErrThrottled); !strings.Contains(got.Detail, "failed or are still being checked") {
			t.Errorf("refused with %q", got.Detail)
		}
		b.advance(missBurst * time.Minute)

		b.opts.Store = frozen{b.store}
		b.wantRefused(t, unknown(), access.ErrUndecided) // after its time
		var callers sync.WaitGroup
		for range missBurst {
			callers.Go(func() { b.wantRefused(t, unknown(), access.ErrUndecided) })
		}
		synctest.Wait() // all of them wait for the database
		began := time.Now()
		for range 10 * missBurst {
			if got := b.wantRefused(t, unknown(), access.ErrUndecided); got.RetryAfter < retryAfter || !errors.Is(got, errAway) {
				t.Fatalf("%v, again after %v", got, got.RetryAfter)
			}
		}
		if waited := time.Since(began); waited != 0 {
			t.Errorf("asked the database: waited %v", waited)
		}
		callers.Wait()

		// Back, with all attempts: who was refused is not kept waiting.
		b.opts.Store = b.store
		b.wantGood(t, cold)
		for range missBurst {
			b.wantRefused(t, unknown(), access.ErrKey)
		}
		b.wantRefused(t, unknown(), access.ErrThrottled)
	})
}

// Who has guessed before the database went away learns from the answer what any
// unknown key does, and causes no look-up.
func TestAGuesserGetsNoLookUpsFromAnOutage(t *testing.T) {
	b := newBench(t, 100)
	for range missBurst {
		b.wantRefused(t, newKey("kw", Live, newID()).Reveal(), access.ErrKey)
	}
	b.store.fail(errors.New("connection refused"))
	other := netip.MustParseAddr("203.0.113.8")
	if _, err := b.VerifyKey(t.Context(), newKey("kw", Live, newID()).Reveal(), other); !errors.Is(err, access.ErrUndecided) {
		t.Fatalf("got %v", err)
	}
	for range 100 {
		b.wantRefused(t, newKey("kw", Live, newID()).Reveal(), access.ErrUndecided)
	}
	b.wantCost(t, missBurst+1, 0, 0)

	b.store.fail(nil)
	if _, err := b.VerifyKey(t.Context(), newKey("kw", Live, newID()).Reveal(), other); !errors.Is(err, access.ErrKey) {
		t.Fatalf("got %v", err)
	}
	b.wantRefused(t, newKey("kw", Live, newID()).Reveal(), access.ErrThrottled) // still spent
}

func TestSlowDatabaseIsGivenUpInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 100)
		key, _ := b.mint(t)
		b.opts.Store = frozen{b.store}
		began := time.Now() // of the bubble
		b.wantRefused(t, key, access.ErrUndecided)
		if waited := time.Since(began); waited != testTimeout {
			t.Errorf("waited %v", waited)
		}
	})
}

// frozen is a store that does not answer.
type frozen struct{ *records }

func (frozen) KeyByPublicID(ctx context.Context, _ string) (Stored, error) {
	<-ctx.Done()
	return Stored{}, ctx.Err()
}

func TestCallerWhoLeavesIsToldSo(t *testing.T) {
	b := newBench(t, 100)
	key, _ := b.mint(t)
	ctx, leave := context.WithCancel(t.Context())
	release := make(chan struct{})
	b.store.read = func(string) { leave(); <-release }
	if _, err := b.VerifyKey(ctx, key, client); !errors.Is(err, context.Canceled) || errors.Is(err, access.ErrKey) {
		t.Errorf("got %v", err)
	}
	close(release)
}

func TestWrongKeyFloodRunsNoBcryptAndReadsOnce(t *testing.T) {
	b := newBench(t, 100)
	key, _ := b.mint(t)
	for range 10_000 {
		b.wantRefused(t, wrong(key), access.ErrKey)
	}
	b.wantGood(t, key)
	b.wantCost(t, 1, 0, 0)
	if n := b.used.take(); len(n) != 1 {
		t.Errorf("uses %v", n)
	}
}

func TestUnknownIDFloodIsOneReadEachAndThenThrottled(t *testing.T) {
	b := newBench(t, 100)
	known, _ := b.mint(t)
	b.wantGood(t, known)
	var asked []string
	for range missBurst {
		key := newKey("kw", Live, newID()).Reveal()
		asked = append(asked, key)
		for range 10 {
			b.wantRefused(t, key, access.ErrKey)
		}
	}
	b.wantCost(t, 1+missBurst, 0, 0)
	for range 1000 {
		got := b.wantRefused(t, newKey("kw", Live, newID()).Reveal(), access.ErrThrottled)
		if got.RetryAfter <= 0 || got.RetryAfter > time.Minute {
			t.Fatalf("again after %v", got.RetryAfter)
		}
	}
	b.wantCost(t, 1+missBurst, 0, 0)

	b.wantGood(t, known) // nobody suffers who is known
	b.wantRefused(t, asked[0], access.ErrKey)
	if _, err := b.VerifyKey(t.Context(), newKey("kw", Live, newID()).Reveal(), netip.MustParseAddr("203.0.113.8")); !errors.Is(err, access.ErrKey) {
		t.Errorf("from another address: %v", err)
	}
	b.advance(time.Minute)
	b.wantRefused(t, newKey("kw", Live, newID()).Reveal(), access.ErrKey)
	b.wantRefused(t, newKey("kw", Live, newID()).Reveal(), access.ErrThrottled)
}

func TestUnknownIDsDoNotPushKnownKeysOut(t *testing.T) {
	b := newBench(t, 10)
	b.store.stored = map[string]Stored{}
	key, _ := b.mint(t)
	b.wantGood(t, key)
	for i := range 1000 {
		from := netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
		if _, err := b.VerifyKey(t.Context(), newKey("kw", Live, newID()).Reveal(), from); !errors.Is(err, access.ErrKey) {
			t.Fatal(err)
		}
	}
	b.wantGood(t, key)
	b.wantCost(t, 1001, 0, 0)
}

func TestGoodKeysAreNotChargedForTheirFirstUse(t *testing.T) {
	b := newBench(t, 1000)
	for range 3 * missBurst {
		key, _ := b.mint(t)
		b.wantGood(t, key)
		slow, _ := b.mint(t, without)
		b.wantGood(t, slow)
	}
}

func TestMissingVerifierIsMadeByOneComparison(t *testing.T) {
	b := newBench(t, 100)
	key, id := b.mint(t, without)
	for range 10 {
		b.wantGood(t, key)
	}
	b.wantCost(t, 1, 1, 1)
	mac := b.peppers.current.sum(key)
	want := written{secretID: "key-1/0", pepperID: b.peppers.current.id, verifier: mac[:]}
	if diff := cmp.Diff([]written{want}, b.store.written, cmp.AllowUnexported(written{})); diff != "" {
		t.Errorf("written (-want +got):\n%s", diff)
	}
	b.wantRefused(t, wrong(key), access.ErrKey) // without another comparison
	b.Apply(changes.Event{Kind: changes.KeyChanged, Subject: id})
	b.wantGood(t, key) // from what was stored
	b.wantCost(t, 2, 1, 1)
}

func TestMissingVerifierOfARotatedKeyIsMadeForTheSecretThatMatches(t *testing.T) {
	b := newBench(t, 100)
	old, id := b.mint(t)
	var next string
	b.store.change(id, func(s *Stored) {
		next = b.addSecret(t, s, at(time.Hour))
		without(s)
	})
	b.wantGood(t, old) // after the newer one was tried
	b.wantCost(t, 1, 2, 1)
	b.wantGood(t, next)
	b.wantCost(t, 1, 3, 2)
	b.wantGood(t, old)
	b.wantGood(t, next)
	b.wantCost(t, 1, 3, 2)
	if got := []string{b.store.written[0].secretID, b.store.written[1].secretID}; !slices.Equal(got, []string{"key-1/0", "key-1/1"}) {
		t.Errorf("written for %q", got)
	}
	b.advance(time.Hour)
	b.wantRefused(t, old, access.ErrKey)
	b.wantGood(t, next)
}

func TestVerifierThatCannotBeStoredServesFromMemory(t *testing.T) {
	b := newBench(t, 100)
	key, id := b.mint(t, without)
	if _, err := b.record(t.Context(), id, client, b.now()); err != nil {
		t.Fatal(err)
	}
	b.store.fail(errors.New("connection refused"))
	for range 10 {
		b.wantGood(t, key)
	}
	b.wantCost(t, 1, 1, 1)
	if log := b.log.String(); strings.Count(log, "\n") != 1 || !strings.Contains(log, "key-1") || strings.Contains(log, key) {
		t.Errorf("logged %q", log)
	}
}

func TestWrongSecretsForAKeyWithoutAVerifierAreThrottledBeforeBcryptRuns(t *testing.T) {
	b := newBench(t, 100)
	key, _ := b.mint(t, without)
	for range missBurst {
		b.wantRefused(t, wrong(key), access.ErrKey)
	}
	for range 100 {
		if got := b.wantRefused(t, wrong(key), access.ErrThrottled); got.RetryAfter <= 0 {
			t.Fatalf("again after %v", got.RetryAfter)
		}
	}
	b.wantCost(t, 1, missBurst, 0)
	if p, err := b.VerifyKey(t.Context(), key, netip.MustParseAddr("203.0.113.8")); err != nil || p == nil {
		t.Errorf("the owner, from elsewhere: %v", err)
	}
	b.wantGood(t, key) // and then from anywhere
}

func TestBusyPoolLeavesAKeyUndecidedAndUncharged(t *testing.T) {
	b := newBench(t, 100)
	key, _ := b.mint(t, without)
	b.pool.Comparer = busy{}
	for range 3 * missBurst {
		if got := b.wantRefused(t, key, access.ErrUndecided); got.RetryAfter <= 0 || !errors.Is(got, slowhash.ErrBusy) {
			t.Fatalf("%v, again after %v", got, got.RetryAfter)
		}
	}
	b.pool.Comparer = b.hasher
	b.wantGood(t, key)
}

type busy struct{}

func (busy) Compare(context.Context, string, []byte) (ok, stale bool, err error) {
	return false, false, slowhash.ErrBusy
}

// Of a busy key without a verifier many copies arrive at once.
func TestCopiesOfOneKeyShareOneComparison(t *testing.T) {
	for name, right := range map[string]bool{"right": true, "wrong": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, 100)
				key, _ := b.mint(t, without)
				if !right {
					key = wrong(key)
				}
				release := make(chan struct{})
				b.pool.comparing = func() { <-release }
				var callers sync.WaitGroup
				for i := range 100 {
					callers.Go(func() {
						p, err := b.VerifyKey(t.Context(), key, netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}))
						if right && (err != nil || p == nil) || !right && !errors.Is(err, access.ErrKey) {
							t.Errorf("got %v, %v", p, err)
						}
					})
				}
				synctest.Wait() // all of them wait for it
				close(release)
				callers.Wait()
				writes := 0
				if right {
					writes = 1
				}
				// A copy that found nothing just before the record was there reads it once more.
				if reads, w := b.store.counts(); reads > 2 || w != writes || b.pool.comparisons.Load() != 1 {
					t.Errorf("%d reads, %d comparisons, %d writes; want at most 2, 1, %d", reads, b.pool.comparisons.Load(), w, writes)
				}
			})
		})
	}
}

// Otherwise hanging up would make bcrypt free.
func TestCallerWhoLeavesDuringAComparisonIsCharged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 100)
		key, _ := b.mint(t, without)
		release := make(chan struct{})
		b.pool.comparing = func() { <-release }
		for range missBurst {
			ctx, leave := context.WithCancel(t.Context())
			go func() { synctest.Wait(); leave() }()
			if _, err := b.VerifyKey(ctx, wrong(key), client); !errors.Is(err, context.Canceled) {
				t.Errorf("got %v", err)
			}
		}
		b.wantRefused(t, wrong(key), access.ErrThrottled)
		close(release)
		synctest.Wait()
	})
}

func TestVerifierUnderARetiredPepperIsRewrittenWithoutBcrypt(t *testing.T) {
	retired, current := seal.NewMasterKey(), seal.NewMasterKey()
	before := newBench(t, 100, retired)
	key, id := before.mint(t)

	b := newBench(t, 100, current, seal.NewMasterKey(), retired)
	b.store.stored = before.store.stored
	b.wantRefused(t, wrong(key), access.ErrKey)
	b.wantCost(t, 1, 0, 0)
	old := bytes.Clone(b.store.stored[id].Secrets[0].Verifier)
	for range 10 {
		b.wantGood(t, key)
	}
	b.wantCost(t, 1, 0, 1)
	mac := b.peppers.current.sum(key)
	want := written{secretID: "key-1/0", pepperID: b.peppers.current.id, old: old, verifier: mac[:]}
	if diff := cmp.Diff([]written{want}, b.store.written, cmp.AllowUnexported(written{})); diff != "" {
		t.Errorf("written (-want +got):\n%s", diff)
	}
	b.wantRefused(t, wrong(key), access.ErrKey)

	after := newBench(t, 100, current) // the retired key is taken out of the configuration
	after.store.stored = b.store.stored
	after.wantGood(t, key)
	after.wantCost(t, 1, 0, 0)
}

func TestVerifierUnderALostPepperIsReplacedByBcrypt(t *testing.T) {
	before := newBench(t, 100)
	key, _ := before.mint(t)
	b := newBench(t, 100)
	b.store.stored = before.store.stored
	b.wantRefused(t, wrong(key), access.ErrKey)
	for range 10 {
		b.wantGood(t, key)
	}
	b.wantCost(t, 1, 2, 1)
}

func TestLastUseIsNotedOncePerMinute(t *testing.T) {
	b := newBench(t, 100)
	key, _ := b.mint(t)
	other, _ := b.mint(t)
	minute := begin.Truncate(time.Minute)
	want := func(want map[string]time.Time) {
		t.Helper()
		if diff := cmp.Diff(want, b.used.take()); diff != "" {
			t.Errorf("used (-want +got):\n%s", diff)
		}
	}
	for range 100 {
		b.wantGood(t, key)
	}
	want(map[string]time.Time{"key-1": minute})
	b.wantGood(t, key)
	want(map[string]time.Time{})
	b.advance(time.Minute)
	b.wantGood(t, key)
	b.wantGood(t, other)
	want(map[string]time.Time{"key-1": minute.Add(time.Minute), "key-2": minute.Add(time.Minute)})
	b.advance(time.Minute)
	b.wantRefused(t, wrong(key), access.ErrKey)
	want(map[string]time.Time{})
}

func TestRefusedUseIsNoUse(t *testing.T) {
	b := newBench(t, 100)
	key, _ := b.mint(t, func(s *Stored) { s.Key.AllowedIPs = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")} })
	b.wantRefused(t, key, access.ErrAddress)
	revoked, _ := b.mint(t, func(s *Stored) { s.Key.RevokedAt = at(0) })
	b.wantRefused(t, revoked, access.ErrKey)
	if used := b.used.take(); len(used) != 0 {
		t.Errorf("used %v", used)
	}
}

func TestUsesThatCannotBeWrittenAreWrittenLater(t *testing.T) {
	b := newBench(t, 100)
	key, _ := b.mint(t)
	other, _ := b.mint(t)
	b.wantGood(t, key)
	b.store.fail(errors.New("connection refused"))
	b.FlushUsage(t.Context())
	b.advance(time.Minute)
	b.store.fail(nil)
	b.wantGood(t, other)
	b.FlushUsage(t.Context())
	b.FlushUsage(t.Context()) // nothing to write
	minute := begin.Truncate(time.Minute)
	want := []map[string]time.Time{{"key-1": minute, "key-2": minute.Add(time.Minute)}}
	if diff := cmp.Diff(want, b.store.touched); diff != "" {
		t.Errorf("written (-want +got):\n%s", diff)
	}
}

func TestUsesNeverGoBackwardsAndAreBounded(t *testing.T) {
	u := newUsage()
	u.note("a", begin.Add(time.Minute))
	u.note("a", begin)
	for i := range maxUsage + 1000 {
		u.note(fmt.Sprint(i), begin)
	}
	u.note("a", begin.Add(2*time.Minute)) // who is known stays precise
	taken := u.take()
	if !taken["a"].Equal(begin.Add(2*time.Minute)) || len(taken) != maxUsage {
		t.Errorf("%d uses, a at %v", len(taken), taken["a"])
	}
}

func TestUsesAreWrittenInIntervalsAndAtTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 100)
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- b.Run(ctx) }()
		b.used.note("a", begin)
		time.Sleep(usageInterval + time.Second) // of the bubble
		b.used.note("b", begin)
		synctest.Wait()
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		want := []map[string]time.Time{{"a": begin}, {"b": begin}}
		if diff := cmp.Diff(want, b.store.touched); diff != "" {
			t.Errorf("written (-want +got):\n%s", diff)
		}
	})
}

func TestWarmVerifyDoesNotAllocate(t *testing.T) {
	if raceEnabled {
		t.Skip("under the race detector pools forget on purpose")
	}
	b := newBench(t, 100)
	key, _ := b.mint(t)
	b.wantGood(t, key)
	unknown := newKey("kw", Live, newID()).Reveal()
	b.wantRefused(t, unknown, access.ErrKey)
	for name, key := range map[string]string{"good": key, "wrong": wrong(key), "unknown": unknown, "mistyped": mistype(key)} {
		ctx := t.Context()
		if n := testing.AllocsPerRun(1000, func() { _, _ = b.VerifyKey(ctx, key, client) }); n != 0 {
			t.Errorf("a %s key makes %v allocations", name, n)
		}
	}
}

func TestLogsHoldNoKey(t *testing.T) {
	b := newBench(t, 100)
	key, _ := b.mint(t, without)
	b.store.fail(errors.New("connection refused"))
	_, err := b.verify(t, key)
	b.FlushUsage(t.Context())
	if text := fmt.Sprintf("%v %+v %s", err, err, b.log.String()); strings.Contains(text, key) || strings.Contains(text, key[20:]) {
		t.Errorf("the key is in %s", text)
	}
}

// Readers and revocations at the same time: once a revocation was applied the
// key is refused, whatever was going on.
func TestRevokedKeyIsRefusedUnderConcurrentUse(t *testing.T) {
	for name, change := range map[string]func(*Stored){"with a verifier": func(*Stored) {}, "without a verifier": without} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, 1000)
			for i := range 20 {
				key, id := b.mint(t, change)
				stop := make(chan struct{})
				var callers sync.WaitGroup
				for c := range 4 {
					callers.Go(func() {
						from := netip.AddrFrom4([4]byte{10, byte(c), byte(i >> 8), byte(i)})
						for {
							select {
							case <-stop:
								return
							default:
							}
							if _, err := b.VerifyKey(t.Context(), key, from); err != nil && !errors.Is(err, access.ErrKey) && !errors.Is(err, access.ErrThrottled) {
								t.Errorf("got %v", err)
								return
							}
						}
					})
				}
				if _, err := b.VerifyKey(t.Context(), key, netip.AddrFrom4([4]byte{10, 9, 9, byte(i)})); err != nil {
					t.Error(err)
				}
				b.store.change(id, func(s *Stored) { s.Key.RevokedAt = at(0) })
				b.Apply(changes.Event{Kind: changes.KeyChanged, Subject: id})
				for range 100 {
					b.wantRefused(t, key, access.ErrKey)
				}
				close(stop)
				callers.Wait()
				b.wantRefused(t, key, access.ErrKey)
			}
		})
	}
}

func TestPeppersDifferByMasterKeyAndKnowTheRetired(t *testing.T) {
	a, b := seal.NewMasterKey(), seal.NewMasterKey()
	one, two := newPeppers(t, a), newPeppers(t, b, a)
	key := newKey("kw", Live, newID()).Reveal()
	if one.current.sum(key) == two.current.sum(key) || one.current.id == two.current.id {
		t.Error("two master keys have one pepper")
	}
	if ids := slices.Collect(maps.Keys(two.retired)); !slices.Equal(ids, []string{one.current.id}) {
		t.Fatalf("retired %q", ids)
	}
	if two.retired[one.current.id].sum(key) != one.current.sum(key) {
		t.Error("a retired pepper gives other verifiers")
	}
	if n := len(bcryptInput(strings.Repeat(key, 3))); n != 44 {
		t.Errorf("bcrypt is given %d bytes", n)
	}
}

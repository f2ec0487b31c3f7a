package postgres

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/account"
	"github.com/keywarden/keywarden/pkg/apikey"
	"github.com/keywarden/keywarden/pkg/changes"
	"github.com/keywarden/keywarden/pkg/slowhash"
)

// lowestCost is bcrypt's; tests need no strength.
const lowestCost = 4

// keyService is the service over the store, as the program runs it.
func (w *world) keyService(maxPerUser int) *apikey.Service {
	w.t.Helper()
	pool, err := slowhash.New(lowestCost, 4)
	w.must(err)
	peppers, err := apikey.NewPeppers(w.ring)
	w.must(err)
	roles, err := access.NewRoles(nil)
	w.must(err)
	return apikey.NewService(apikey.Options{
		Store: w.Store, Hasher: pool, Peppers: peppers, Ring: w.ring, Roles: roles, Notify: func(changes.Event) {},
		Prefix: "kw", MaxPerUser: maxPerUser, IdempotencyTTL: time.Hour, Now: time.Now,
	})
}

func TestMaximumOfKeysHoldsUnderConcurrency(t *testing.T) {
	w := newWorld(t)
	u := w.user(access.RoleUser)
	const limit, attempts = 7, 20
	errs := together(times(attempts, func(int) error {
		k, secret := newKey(u)
		_, err := w.InsertKey(t.Context(), k, secret, limit, apikey.Idempotent{}, noted("test", ""))
		return err
	})...)
	if count(errs, nil) != limit || count(errs, apikey.ErrTooMany) != attempts-limit {
		t.Errorf("%v", errs)
	}
	if n := w.number(`SELECT count(*) FROM api_keys`); n != limit {
		t.Errorf("%d keys", n)
	}
}

func TestOnlyLiveKeysCountAgainstTheMaximum(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	u := w.user(access.RoleUser)
	insert := func(change func(*apikey.Key)) (apikey.Key, error) {
		k, secret := newKey(u)
		change(&k)
		_, err := w.InsertKey(ctx, k, secret, 1, apikey.Idempotent{}, noted("test", ""))
		return k, err
	}
	past := now().Add(-time.Second)
	_, err := insert(func(k *apikey.Key) { k.ExpiresAt = &past })
	w.must(err)
	live, err := insert(func(*apikey.Key) {})
	w.must(err)
	if _, err := insert(func(*apikey.Key) {}); !errors.Is(err, apikey.ErrTooMany) {
		t.Errorf("a second live key: %v", err)
	}
	_, err = w.RevokeKey(ctx, live.ID, now(), noted("test", ""))
	w.must(err)
	_, err = insert(func(*apikey.Key) {})
	w.must(err)
}

func TestKeyNeedsAnActiveOwner(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	disabled, gone := w.user(access.RoleUser), newUser(access.RoleUser)
	yes := true
	_, err := w.UpdateUser(ctx, disabled.ID, account.Patch{Disabled: &yes}, now(), noted("test", ""))
	w.must(err)
	for _, u := range []account.User{disabled, gone} {
		k, secret := newKey(u)
		if _, err := w.InsertKey(ctx, k, secret, noLimit, apikey.Idempotent{}, noted("test", "")); !errors.Is(err, apikey.ErrNotFound) {
			t.Errorf("error %v", err)
		}
	}
}

func TestOneTokenMakesOneKey(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	u, other := w.user(access.RoleUser), w.user(access.RoleUser)
	service := w.keyService(noLimit)
	request := apikey.Request{Name: "ci"}
	var minted [20]apikey.Minted
	errs := together(times(len(minted), func(i int) (err error) {
		minted[i], err = service.Create(ctx, u.ID, u.Role, request, "token")
		return err
	})...)
	if count(errs, nil) != len(minted) {
		t.Fatal(errs)
	}
	for _, m := range minted {
		if m.Secret.Reveal() != minted[0].Secret.Reveal() || m.Key.ID != minted[0].Key.ID {
			t.Errorf("two answers to one token: keys %s and %s", m.Key.ID, minted[0].Key.ID)
		}
	}
	if n := w.number(`SELECT count(*) FROM api_keys`); n != 1 {
		t.Errorf("%d keys", n)
	}
	if n := w.number(`SELECT count(*) FROM audit_log WHERE action = 'apikey.created'`); n != 1 {
		t.Errorf("%d audit records of one creation", n)
	}

	if _, err := service.Create(ctx, u.ID, u.Role, apikey.Request{Name: "another"}, "token"); !errors.Is(err, apikey.ErrIdempotency) {
		t.Errorf("the token with another body: %v", err)
	}
	if _, err := service.Rotate(ctx, u.ID, minted[0].Key.ID, 0, "token"); !errors.Is(err, apikey.ErrIdempotency) {
		t.Errorf("the token for another operation: %v", err)
	}
	theirs, err := service.Create(ctx, other.ID, other.Role, request, "token")
	if err != nil || theirs.Key.ID == minted[0].Key.ID {
		t.Errorf("another user's token of the same text: %v, key %s", err, theirs.Key.ID)
	}
}

func TestOneTokenRotatesOnce(t *testing.T) {
	w := newWorld(t)
	u := w.user(access.RoleUser)
	service := w.keyService(noLimit)
	m, err := service.Create(t.Context(), u.ID, u.Role, apikey.Request{Name: "ci"}, "")
	w.must(err)
	var minted [20]apikey.Minted
	errs := together(times(len(minted), func(i int) (err error) {
		minted[i], err = service.Rotate(t.Context(), u.ID, m.Key.ID, time.Hour, "token")
		return err
	})...)
	if count(errs, nil) != len(minted) {
		t.Fatal(errs)
	}
	for _, r := range minted {
		if r.Secret.Reveal() != minted[0].Secret.Reveal() {
			t.Error("two answers to one token")
		}
	}
	if n := w.number(`SELECT count(*) FROM api_key_secrets`); n != 2 {
		t.Errorf("%d secrets after one rotation", n)
	}
}

func TestExpiredTokenIsForgotten(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	u := w.user(access.RoleUser)
	insert := func(at time.Time, answer string) *apikey.Idempotent {
		k, secret := newKey(u)
		k.CreatedAt = at
		i := apikey.Idempotent{Token: "t", Fingerprint: [32]byte{1}, Answer: []byte(answer), ExpiresAt: at.Add(time.Hour)}
		kept, err := w.InsertKey(ctx, k, secret, noLimit, i, noted("test", ""))
		w.must(err)
		return kept
	}
	at := now()
	if kept := insert(at, "first"); kept != nil {
		t.Errorf("the first use found %s", kept.Answer)
	}
	if kept := insert(at.Add(time.Hour-time.Second), "second"); kept == nil || string(kept.Answer) != "first" || kept.Fingerprint != [32]byte{1} {
		t.Errorf("before it expires: %+v", kept)
	}
	if kept := insert(at.Add(time.Hour), "third"); kept != nil {
		t.Errorf("after it expired: %s", kept.Answer)
	}
	if kept := insert(at.Add(time.Hour), "fourth"); kept == nil || string(kept.Answer) != "third" {
		t.Errorf("the new answer is not the one that is kept: %+v", kept)
	}
}

func TestFailedCreationKeepsNoAnswer(t *testing.T) {
	w := newWorld(t)
	u := w.user(access.RoleUser)
	k, secret := newKey(u)
	i := apikey.Idempotent{Token: "t", Answer: []byte("sealed"), ExpiresAt: now().Add(time.Hour)}
	if _, err := w.InsertKey(t.Context(), k, secret, 0, i, noted("test", "")); !errors.Is(err, apikey.ErrTooMany) {
		t.Fatal(err)
	}
	if n := w.number(`SELECT count(*) FROM idempotency`); n != 0 {
		t.Error("the answer of a creation that failed is kept")
	}
}

// validity is the end of each secret of a key by its id; zero for none.
func (w *world) validity(publicID string) map[string]time.Time {
	w.t.Helper()
	stored, err := w.KeyByPublicID(w.t.Context(), publicID)
	w.must(err)
	ends := map[string]time.Time{}
	for i, s := range stored.Secrets {
		ends[s.ID] = time.Time{}
		if s.ValidUntil != nil {
			ends[s.ID] = *s.ValidUntil
		}
		if i > 0 && s.CreatedAt.After(stored.Secrets[i-1].CreatedAt) {
			w.t.Error("secrets are not newest first")
		}
	}
	return ends
}

func TestRotationLetsOldSecretsEnd(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	u := w.user(access.RoleUser)
	k, first := w.key(u)
	at := k.CreatedAt
	rotate := func(after, grace time.Duration) apikey.Secret {
		t.Helper()
		moment := at.Add(after)
		secret := newSecret(moment)
		rotated, kept, err := w.RotateKey(ctx, k.ID, secret, "next", moment, moment.Add(grace), apikey.Idempotent{}, noted("test", ""))
		if err != nil || kept != nil || rotated.LastFour != "next" || rotated.ID != k.ID || rotated.PublicID != k.PublicID ||
			!rotated.UpdatedAt.Equal(moment) || !rotated.CreatedAt.Equal(at) {
			t.Fatalf("%+v, %v, %v", rotated, kept, err)
		}
		return secret
	}
	second := rotate(time.Minute, time.Hour)
	want := map[string]time.Time{first.ID: at.Add(61 * time.Minute), second.ID: {}}
	if diff := cmp.Diff(want, w.validity(k.PublicID)); diff != "" {
		t.Error("after the first rotation: ", diff)
	}
	third := rotate(2*time.Minute, 2*time.Hour)
	want = map[string]time.Time{first.ID: at.Add(61 * time.Minute), second.ID: at.Add(122 * time.Minute), third.ID: {}}
	if diff := cmp.Diff(want, w.validity(k.PublicID)); diff != "" {
		t.Error("a later rotation does not prolong an older grace: ", diff)
	}
	fourth := rotate(3*time.Minute, time.Second)
	end := at.Add(3*time.Minute + time.Second)
	want = map[string]time.Time{first.ID: end, second.ID: end, third.ID: end, fourth.ID: {}}
	if diff := cmp.Diff(want, w.validity(k.PublicID)); diff != "" {
		t.Error("a shorter grace is for all older secrets: ", diff)
	}
	fifth := rotate(4*time.Minute, 0)
	if diff := cmp.Diff(map[string]time.Time{fifth.ID: {}}, w.validity(k.PublicID)); diff != "" {
		t.Error("no grace leaves nothing older: ", diff)
	}
}

func TestRotationsNeverLeaveTooManySecrets(t *testing.T) {
	w := newWorld(t)
	k, _ := w.key(w.user(access.RoleUser))
	var made []string
	for i := range 3 * maxSecrets {
		at := k.CreatedAt.Add(time.Duration(i+1) * time.Second)
		secret := newSecret(at)
		made = append(made, secret.ID)
		_, _, err := w.RotateKey(t.Context(), k.ID, secret, "next", at, at.Add(time.Hour), apikey.Idempotent{}, noted("test", ""))
		w.must(err)
		if n := w.number(`SELECT count(*) FROM api_key_secrets`); n > maxSecrets {
			t.Fatalf("%d secrets", n)
		}
	}
	ends := w.validity(k.PublicID)
	for _, id := range made[len(made)-maxSecrets:] {
		if _, ok := ends[id]; !ok {
			t.Error("one of the newest secrets is gone")
		}
	}
}

func TestConcurrentRotationsLeaveOneCurrentSecret(t *testing.T) {
	w := newWorld(t)
	k, _ := w.key(w.user(access.RoleUser))
	errs := together(times(20, func(int) error {
		at := now()
		_, _, err := w.RotateKey(t.Context(), k.ID, newSecret(at), "next", at, at.Add(time.Hour), apikey.Idempotent{}, noted("test", ""))
		return err
	})...)
	if count(errs, nil) != len(errs) {
		t.Fatal(errs)
	}
	if n := w.number(`SELECT count(*) FROM api_key_secrets WHERE valid_until IS NULL`); n != 1 {
		t.Errorf("%d current secrets", n)
	}
}

func TestRevokedKeyStaysAsItIs(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	k, secret := w.key(w.user(access.RoleUser))
	at := now()
	epoch, err := w.RevokeKey(ctx, k.ID, at, noted("test.revoke", k.PublicID))
	if err != nil || epoch == 0 {
		t.Fatal(epoch, err)
	}
	before := w.contents()

	if epoch, err := w.RevokeKey(ctx, k.ID, at.Add(time.Hour), noted("test.revoke", k.PublicID)); err != nil || epoch != 0 {
		t.Errorf("revoked again: epoch %d, %v", epoch, err)
	}
	name := "new name"
	if _, err := w.UpdateKey(ctx, k.ID, apikey.Patch{Name: &name}, at, noted("test", "")); !errors.Is(err, apikey.ErrRevoked) {
		t.Errorf("update: %v", err)
	}
	i := apikey.Idempotent{Token: "t", Answer: []byte("sealed"), ExpiresAt: at.Add(time.Hour)}
	if _, _, err := w.RotateKey(ctx, k.ID, newSecret(at), "next", at, at, i, noted("test", "")); !errors.Is(err, apikey.ErrRevoked) {
		t.Errorf("rotate: %v", err)
	}
	w.must(w.TouchKeys(ctx, map[string]time.Time{k.ID: at.Add(time.Hour)}))
	w.must(w.StoreVerifier(ctx, secret.ID, secret.Verifier, []byte("another"), "another"))
	if diff := cmp.Diff(before, w.contents()); diff != "" {
		t.Error(diff)
	}
}

func TestConcurrentRevocationsAreOne(t *testing.T) {
	w := newWorld(t)
	k, _ := w.key(w.user(access.RoleUser))
	var epochs [10]int64
	errs := together(times(len(epochs), func(i int) (err error) {
		epochs[i], err = w.RevokeKey(t.Context(), k.ID, now(), noted("test.revoke", k.PublicID))
		return err
	})...)
	told := slices.DeleteFunc(epochs[:], func(e int64) bool { return e == 0 })
	if count(errs, nil) != len(errs) || len(told) != 1 {
		t.Errorf("epochs %v, errors %v", told, errs)
	}
	if n := w.number(`SELECT count(*) FROM audit_log WHERE action = 'test.revoke'`); n != 1 {
		t.Errorf("%d audit records of one revocation", n)
	}
}

func TestUpdateKeyChangesWhatIsGiven(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	k, _ := w.key(w.user(access.RoleUser))
	prefixes, _ := apikey.ParseAllowedIPs([]string{"203.0.113.0/24"})
	name, scopes, at := "new", []string{"x", "y"}, k.CreatedAt.Add(time.Minute)
	expires := at.Add(time.Hour)
	none := prefixes[:0]
	noScopes := []string{}
	for _, step := range []struct {
		patch apikey.Patch
		want  func(*apikey.Key)
	}{
		{apikey.Patch{}, func(*apikey.Key) {}},
		{apikey.Patch{Name: &name}, func(k *apikey.Key) { k.Name = name }},
		{apikey.Patch{Scopes: &scopes}, func(k *apikey.Key) { k.Scopes = scopes }},
		{apikey.Patch{AllowedIPs: &prefixes}, func(k *apikey.Key) { k.AllowedIPs = prefixes }},
		{apikey.Patch{ExpiresAt: &expires}, func(k *apikey.Key) { k.ExpiresAt = &expires }},
		{apikey.Patch{Scopes: &noScopes}, func(k *apikey.Key) { k.Scopes = noScopes }},
		{apikey.Patch{AllowedIPs: &none}, func(k *apikey.Key) { k.AllowedIPs = nil }},
		{apikey.Patch{ClearExpiry: true}, func(k *apikey.Key) { k.ExpiresAt = nil }},
	} {
		k.UpdatedAt = at
		step.want(&k)
		got, err := w.UpdateKey(ctx, k.ID, step.patch, at, noted("test", ""))
		if err != nil || fmt.Sprint(describe(got)) != fmt.Sprint(describe(k)) {
			t.Errorf("%+v: %v\n got %v\nwant %v", step.patch, err, describe(got), describe(k))
		}
	}
}

// describe is a key without pointers.
func describe(k apikey.Key) []any {
	expires := "never"
	if k.ExpiresAt != nil {
		expires = k.ExpiresAt.UTC().String()
	}
	return []any{k.ID, k.Name, k.Env, k.Scopes, k.AllowedIPs, expires, k.CreatedAt.UTC(), k.UpdatedAt.UTC(), k.RevokedAt}
}

func TestMalformedRestrictionIsNoFreedom(t *testing.T) {
	w := newWorld(t)
	k, _ := w.key(w.user(access.RoleUser))
	w.exec(`UPDATE api_keys SET allowed_ips = '{everywhere}'`)
	if stored, err := w.KeyByPublicID(t.Context(), k.PublicID); err == nil {
		t.Errorf("a restriction that cannot be read became %v", stored.Key.AllowedIPs)
	}
	if _, err := w.Key(t.Context(), k.ID); err == nil || errors.Is(err, ErrUnavailable) {
		t.Errorf("a damaged row is no outage: %v", err)
	}
}

func TestLastUseNeverGoesBack(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	u := w.user(access.RoleUser)
	k, _ := w.key(u)
	other, _ := w.key(u)
	minute := now().Truncate(time.Minute)
	for _, step := range []struct{ touch, want time.Time }{
		{minute, minute},
		{minute.Add(-time.Minute), minute},
		{minute.Add(time.Minute), minute.Add(time.Minute)},
		{minute, minute.Add(time.Minute)},
	} {
		w.must(w.TouchKeys(ctx, map[string]time.Time{k.ID: step.touch, newID(): step.touch}))
		got, err := w.Key(ctx, k.ID)
		w.must(err)
		if got.LastUsedAt == nil || !got.LastUsedAt.Equal(step.want) {
			t.Errorf("last use %v, want %v", got.LastUsedAt, step.want)
		}
		if !got.UpdatedAt.Equal(k.UpdatedAt) {
			t.Error("a use is no change of the key")
		}
	}
	if got, err := w.Key(ctx, other.ID); err != nil || got.LastUsedAt != nil {
		t.Errorf("a key that nobody used: %v, %v", got.LastUsedAt, err)
	}
	w.must(w.TouchKeys(ctx, nil))
}

func TestReplicasTouchTheSameKeysAtOnce(t *testing.T) {
	w := newWorld(t)
	u := w.user(access.RoleUser)
	const keys = touchBatch + 10
	w.exec(`INSERT INTO api_keys (id, public_id, user_id, name, env, prefix, last_four, created_at, updated_at)
		SELECT gen_random_uuid(), 'key' || n, $1, 'n', 'live', 'p', 'last', now(), now() FROM generate_series(1, $2) n`, u.ID, keys)
	var ids []string
	w.must(w.pool.QueryRow(t.Context(), `SELECT array_agg(id::text) FROM api_keys`).Scan(&ids))
	minute := now().Truncate(time.Minute)
	const replicas = 4
	errs := together(times(replicas, func(i int) error {
		used := map[string]time.Time{}
		for j, id := range ids {
			used[id] = minute.Add(time.Duration((i+j)%replicas) * time.Minute)
		}
		return w.TouchKeys(t.Context(), used)
	})...)
	if count(errs, nil) != replicas {
		t.Error(errs)
	}
	if n := w.number(`SELECT count(*) FROM api_keys WHERE last_used_at = $1`, minute.Add((replicas-1)*time.Minute)); n != keys {
		t.Errorf("%d of %d keys have the latest minute", n, keys)
	}
}

func TestVerifierIsStoredOnlyInPlaceOfTheOld(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	k, secret := w.key(w.user(access.RoleUser))
	verifier := func() ([]byte, string) {
		stored, err := w.KeyByPublicID(ctx, k.PublicID)
		w.must(err)
		return stored.Secrets[0].Verifier, stored.Secrets[0].PepperID
	}
	w.must(w.StoreVerifier(ctx, secret.ID, []byte("not the old one"), []byte("x"), "p2"))
	w.must(w.StoreVerifier(ctx, secret.ID, nil, []byte("x"), "p2"))
	if v, p := verifier(); !bytes.Equal(v, secret.Verifier) || p != "pepper" {
		t.Errorf("replaced by one that did not know it: %s, %s", v, p)
	}
	w.must(w.StoreVerifier(ctx, secret.ID, secret.Verifier, []byte("new"), "p2"))
	if v, p := verifier(); string(v) != "new" || p != "p2" {
		t.Errorf("not replaced: %s, %s", v, p)
	}
	w.exec(`UPDATE api_key_secrets SET verifier = NULL, pepper_id = ''`)
	w.must(w.StoreVerifier(ctx, secret.ID, nil, []byte("first"), "p3"))
	if v, p := verifier(); string(v) != "first" || p != "p3" {
		t.Errorf("a missing one is not replaced: %s, %s", v, p)
	}
}

func TestListKeysLeavesOutRevokedOnes(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	u, other := w.user(access.RoleUser), w.user(access.RoleUser)
	live, _ := w.key(u)
	dead, _ := w.key(u)
	theirs, _ := w.key(other)
	_, err := w.RevokeKey(ctx, dead.ID, now(), noted("test", ""))
	w.must(err)
	for _, c := range []struct {
		filter apikey.Filter
		want   []string
	}{
		{apikey.Filter{UserID: u.ID, Limit: 10}, []string{live.ID}},
		{apikey.Filter{UserID: u.ID, IncludeRevoked: true, Limit: 10}, []string{dead.ID, live.ID}},
		{apikey.Filter{UserID: u.ID, IncludeRevoked: true, Limit: 1}, []string{dead.ID}},
		{apikey.Filter{UserID: newID(), Limit: 10}, nil},
		{apikey.Filter{Limit: 10}, []string{theirs.ID, live.ID}},
	} {
		found, err := w.ListKeys(ctx, c.filter)
		w.must(err)
		var ids []string
		for _, k := range found {
			ids = append(ids, k.ID)
		}
		if !slices.Equal(ids, c.want) {
			t.Errorf("%+v: %v, want %v", c.filter, ids, c.want)
		}
	}
}

func TestKeyIsOwnedByItsUserAlone(t *testing.T) {
	w := newWorld(t)
	u, other := w.user("user"), w.user("user")
	k, _ := w.key(u)
	for _, c := range []struct {
		user, key string
		want      bool
	}{{u.ID, k.ID, true}, {other.ID, k.ID, false}, {u.ID, "nothing", false}, {u.ID, "\x00", false}, {"", k.ID, false}} {
		if got, err := w.OwnsKey(t.Context(), c.user, c.key); got != c.want || err != nil {
			t.Errorf("%q of %q: %v %v", c.key, c.user, got, err)
		}
	}
}

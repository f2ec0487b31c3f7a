package session

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/account"
	"github.com/keywarden/keywarden/pkg/changes"
	"github.com/keywarden/keywarden/pkg/pglocal/pgtest"
	"github.com/keywarden/keywarden/pkg/seal"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, pgtest.IgnoreServer()) }

const (
	testIssuer   = "https://keywarden.example.com"
	testAudience = "keywarden"
	testTTL      = 15 * time.Minute
	testLeeway   = 30 * time.Second
	testRotation = 24 * time.Hour
)

// clock is a time that stands still until it is moved.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func newClock() *clock { return &clock{at: time.Date(2030, 1, 31, 12, 0, 0, 0, time.UTC)} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

// fakeKeys keeps signing keys in memory.
type fakeKeys struct {
	mu     sync.Mutex
	keys   []SigningKey
	err    error
	reseal error
}

func (f *fakeKeys) SigningKeys(_ context.Context, now time.Time) (found []SigningKey, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, k := range f.keys {
		if k.RetiresAt.After(now) {
			found = append(found, k)
		}
	}
	slices.SortFunc(found, func(a, b SigningKey) int { return a.SignsFrom.Compare(b.SignsFrom) })
	return found, f.err
}

func (f *fakeKeys) InsertSigningKey(_ context.Context, k SigningKey, notAfter time.Time, _ changes.Change) (bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil {
		return false, f.err
	}
	if slices.ContainsFunc(f.keys, func(have SigningKey) bool { return have.SignsFrom.After(notAfter) }) {
		return false, nil
	}
	f.keys = append(f.keys, k)
	return true, nil
}

func (f *fakeKeys) ResealSigningKey(_ context.Context, id string, sealed []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range f.keys {
		if f.keys[i].ID == id && f.reseal == nil {
			f.keys[i].Sealed = sealed
		}
	}
	return f.reseal
}

func (f *fakeKeys) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.keys)
}

func (f *fakeKeys) fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = err
}

func newRing(t testing.TB, current seal.Secret, retired ...seal.Secret) *seal.Keyring {
	t.Helper()
	ring, err := seal.ParseKeyring(current, retired...)
	if err != nil {
		t.Fatal(err)
	}
	return ring
}

func testRoles(t testing.TB) access.Roles {
	t.Helper()
	roles, err := access.NewRoles([]string{"orders:read"})
	if err != nil {
		t.Fatal(err)
	}
	return roles
}

// newTestSigner makes a signer that is not refreshed yet.
func newTestSigner(t testing.TB, keys KeyStore, ring *seal.Keyring, now func() time.Time) *Signer {
	t.Helper()
	return NewSigner(TokenOptions{
		Issuer: testIssuer, Audience: testAudience, TTL: testTTL, Leeway: testLeeway, Rotation: testRotation,
		Roles: testRoles(t), Ring: ring, Keys: keys, Now: now, Logger: slog.New(slog.DiscardHandler),
	})
}

func readySigner(t testing.TB, c *clock) *Signer {
	t.Helper()
	s := newTestSigner(t, &fakeKeys{}, newRing(t, seal.NewMasterKey()), c.now)
	if err := s.Refresh(context.Background()); err != nil {
		t.Fatal(err)
	}
	return s
}

// fixedSigner signs with the same key in every process, as a fuzzer needs it.
func fixedSigner(t testing.TB, c *clock) *Signer {
	t.Helper()
	ring := newRing(t, seal.NewMasterKey())
	const id = "01890a5d-ac96-774b-bcce-b302099a8059"
	keys := &fakeKeys{keys: []SigningKey{{
		ID: id, Sealed: ring.Seal(make([]byte, ed25519.SeedSize), sealPlace(id)), SignsFrom: c.now(), RetiresAt: c.now().Add(testRotation),
	}}}
	s := newTestSigner(t, keys, ring, c.now)
	if err := s.Refresh(context.Background()); err != nil {
		t.Fatal(err)
	}
	return s
}

var (
	testUser    = account.User{ID: "01890a5d-ac96-774b-bcce-b302099a8057", Role: access.RoleUser}
	testSession = "01890a5d-ac96-774b-bcce-b302099a8058"
)

func sessionAt(now time.Time) Session {
	return Session{ID: testSession, UserID: testUser.ID, ExpiresAt: now.Add(24 * time.Hour)}
}

// issue makes a token as a login does.
func issue(t testing.TB, s *Signer) string {
	t.Helper()
	token, _, err := s.Sign(testUser, sessionAt(s.opts.Now()))
	if err != nil {
		t.Fatal(err)
	}
	return token.Reveal()
}

// object is a JSON object to be damaged.
type object map[string]any

func (o object) with(name string, value any) object {
	changed := object{}
	for k, v := range o {
		changed[k] = v
	}
	changed[name] = value
	return changed
}

func (o object) without(name string) object {
	changed := o.with(name, nil)
	delete(changed, name)
	return changed
}

// forger signs anything with the signer's own key, so that a token is refused
// for the one thing that is wrong with it.
type forger struct {
	t      testing.TB
	signer *Signer
}

func (f forger) header() object {
	return object{"alg": "EdDSA", "typ": "at+jwt", "kid": f.signer.keys.Load().signing}
}

func (f forger) claims() object {
	now := f.signer.opts.Now().Unix()
	return object{
		"iss": testIssuer, "sub": testUser.ID, "aud": testAudience, "exp": now + 600, "nbf": now, "iat": now,
		"jti": "id", "sid": testSession, "role": "user", "scope": "orders:read",
	}
}

func (f forger) json(v any) string {
	f.t.Helper()
	if raw, ok := v.(string); ok {
		return raw
	}
	b, err := json.Marshal(v)
	if err != nil {
		f.t.Fatal(err)
	}
	return string(b)
}

func b64(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }

// token signs header and claims, each an object or raw JSON.
func (f forger) token(header, claims any) string {
	f.t.Helper()
	return f.sign(b64(f.json(header)) + "." + b64(f.json(claims)))
}

func (f forger) sign(input string) string {
	return input + "." + b64(string(ed25519.Sign(f.signer.keys.Load().private, []byte(input))))
}

// fakeStates is sessions in memory.
type fakeStates struct {
	mu     sync.Mutex
	states map[string]State
	err    error
	asked  int
}

var errStore = errors.New("the store is away")

func (f *fakeStates) SessionState(_ context.Context, id string) (State, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked++
	if f.err != nil {
		return State{}, f.err
	}
	v, ok := f.states[id]
	if !ok {
		v.Ended = true
	}
	return v, nil
}

func (f *fakeStates) set(change func(*State)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	v := f.states[testSession]
	change(&v)
	f.states[testSession] = v
}

func (f *fakeStates) fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = err
}

func (f *fakeStates) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.asked
}

package apikey

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/crypto/bcrypt"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/problem"
	"github.com/keywarden/keywarden/pkg/seal"
	"github.com/keywarden/keywarden/pkg/slowhash"
	"github.com/keywarden/keywarden/pkg/throttle"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// records is a VerifyStore in memory that counts.
type records struct {
	mu      sync.Mutex
	stored  map[string]Stored // by public id
	err     error             // of every call
	reads   int
	written []written
	touched []map[string]time.Time
	read    func(publicID string) // called by each read, after it looked
}

type written struct {
	secretID, pepperID string
	old, verifier      []byte
}

func (s *records) KeyByPublicID(_ context.Context, publicID string) (Stored, error) {
	s.mu.Lock()
	s.reads++
	stored, ok := s.stored[publicID]
	stored.Secrets = slices.Clone(stored.Secrets)
	read, err := s.read, s.err
	s.mu.Unlock()
	if read != nil {
		read(publicID)
	}
	switch {
	case err != nil:
		return Stored{}, err
	case !ok:
		return Stored{}, fmt.Errorf("reading: %w", ErrNotFound)
	}
	return stored, nil
}

func (s *records) StoreVerifier(_ context.Context, secretID string, old, verifier []byte, pepperID string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.written = append(s.written, written{secretID, pepperID, bytes.Clone(old), bytes.Clone(verifier)})
	if s.err != nil {
		return s.err
	}
	for _, stored := range s.stored {
		for i := range stored.Secrets {
			if v := &stored.Secrets[i]; v.ID == secretID && bytes.Equal(v.Verifier, old) {
				v.Verifier, v.PepperID = bytes.Clone(verifier), pepperID
			}
		}
	}
	return nil
}

func (s *records) TouchKeys(_ context.Context, used map[string]time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return s.err
	}
	s.touched = append(s.touched, used)
	return nil
}

func (s *records) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
}

func (s *records) change(publicID string, change func(*Stored)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	stored := s.stored[publicID]
	change(&stored)
	s.stored[publicID] = stored
}

func (s *records) counts() (reads, writes int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reads, len(s.written)
}

// comparer is a pool that counts.
type comparer struct {
	Comparer
	comparisons atomic.Int32
	comparing   func() // called by each comparison
}

func (c *comparer) Compare(ctx context.Context, hash string, digest []byte) (ok, stale bool, err error) {
	c.comparisons.Add(1)
	if c.comparing != nil {
		c.comparing()
	}
	return c.Comparer.Compare(ctx, hash, digest)
}

// bench is a verifier over counting fakes and a clock that tests set.
type bench struct {
	*Verifier
	store   *records
	pool    *comparer
	hasher  *slowhash.Pool
	peppers *Peppers
	clock   atomic.Int64
	stale   atomic.Bool
	log     bytes.Buffer
	made    int
}

const (
	missBurst   = 5
	testTimeout = 5 * time.Second
)

var (
	begin  = time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	client = netip.MustParseAddr("203.0.113.7")
)

func newPeppers(t testing.TB, keys ...seal.Secret) *Peppers {
	t.Helper()
	ring, err := seal.ParseKeyring(keys[0], keys[1:]...)
	if err != nil {
		t.Fatal(err)
	}
	p, err := NewPeppers(ring)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// newBench makes a verifier with a cache of the given size under the master keys.
func newBench(t testing.TB, entries int, keys ...seal.Secret) *bench {
	t.Helper()
	if len(keys) == 0 {
		keys = []seal.Secret{seal.NewMasterKey()}
	}
	hasher, err := slowhash.New(bcrypt.MinCost, 4)
	if err != nil {
		t.Fatal(err)
	}
	roles, err := access.NewRoles([]string{"orders:read"})
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{
		store: &records{stored: map[string]Stored{}}, pool: &comparer{Comparer: hasher}, hasher: hasher, peppers: newPeppers(t, keys...),
	}
	b.clock.Store(begin.UnixNano())
	misses, err := throttle.New(missBurst, time.Minute, b.now)
	if err != nil {
		t.Fatal(err)
	}
	b.Verifier, err = NewVerifier(VerifierOptions{
		Store: b.store, Hasher: b.pool, Peppers: b.peppers, Roles: roles, Prefix: "kw",
		Fresh: func(time.Time) bool { return !b.stale.Load() }, Misses: misses, Entries: entries, Timeout: testTimeout,
		Now: b.now, Logger: slog.New(slog.NewTextHandler(&b.log, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (b *bench) now() time.Time          { return time.Unix(0, b.clock.Load()).UTC() }
func (b *bench) advance(d time.Duration) { b.clock.Add(int64(d)) }

// mint stores a key of a live user and returns it with its public id.
func (b *bench) mint(t testing.TB, changes ...func(*Stored)) (key, publicID string) {
	t.Helper()
	b.made++
	publicID = newID()
	stored := Stored{
		Key: Key{
			ID: "key-" + strconv.Itoa(b.made), PublicID: publicID, UserID: "user-" + strconv.Itoa(b.made), Name: "ci", Env: Live,
			Scopes: []string{"orders:read", access.ScopeProfileRead},
		},
		OwnerRole: access.RoleUser,
	}
	key = b.addSecret(t, &stored, nil)
	for _, change := range changes {
		change(&stored)
	}
	b.store.mu.Lock()
	defer b.store.mu.Unlock()
	b.store.stored[publicID] = stored
	return key, publicID
}

// addSecret gives the key a new current secret; the older ones end at the given
// time.
func (b *bench) addSecret(t testing.TB, stored *Stored, olderEnd *time.Time) (key string) {
	t.Helper()
	for i := range stored.Secrets {
		stored.Secrets[i].ValidUntil = olderEnd
	}
	key = newKey("kw", stored.Key.Env, stored.Key.PublicID).Reveal()
	hash, err := b.hasher.Hash(t.Context(), bcryptInput(key))
	if err != nil {
		t.Fatal(err)
	}
	mac := b.peppers.current.sum(key)
	secret := Secret{
		ID: stored.Key.ID + "/" + strconv.Itoa(len(stored.Secrets)), Bcrypt: hash, Verifier: mac[:], PepperID: b.peppers.current.id,
	}
	stored.Secrets = append([]Secret{secret}, stored.Secrets...)
	return key
}

// without takes the verifiers away, as a database that was restored under another
// master key has none of use.
func without(stored *Stored) {
	for i := range stored.Secrets {
		stored.Secrets[i].Verifier, stored.Secrets[i].PepperID = nil, ""
	}
}

// wrong is a well-formed key with the id of the given one and another secret.
func wrong(key string) string {
	id, _ := parse("kw", key)
	return newKey("kw", Live, id).Reveal()
}

// mistype changes one character of the secret.
func mistype(key string) string {
	const at = 30
	c := "0"
	if key[at] == '0' {
		c = "1"
	}
	return key[:at] + c + key[at+1:]
}

func (b *bench) verify(t testing.TB, key string) (*access.Principal, error) {
	t.Helper()
	return b.VerifyKey(t.Context(), key, client)
}

func (b *bench) wantGood(t testing.TB, key string) *access.Principal {
	t.Helper()
	p, err := b.verify(t, key)
	if err != nil || p == nil {
		t.Fatalf("a good key is refused: %v", err)
	}
	return p
}

func (b *bench) wantRefused(t testing.TB, key string, want *problem.Error) *problem.Error {
	t.Helper()
	p, err := b.verify(t, key)
	got := problem.From(err)
	if p != nil || got == nil || got.Code != want.Code {
		t.Fatalf("got %v, %v; want %v", p, err, want)
	}
	return got
}

// wantCost checks what was spent so far on reads, comparisons and writes.
func (b *bench) wantCost(t testing.TB, reads, comparisons, writes int) {
	t.Helper()
	r, w := b.store.counts()
	if c := int(b.pool.comparisons.Load()); r != reads || c != comparisons || w != writes {
		t.Errorf("%d reads, %d comparisons, %d writes; want %d, %d, %d", r, c, w, reads, comparisons, writes)
	}
}

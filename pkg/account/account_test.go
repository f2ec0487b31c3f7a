package account

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/bcrypt"
	"golang.org/x/text/unicode/norm"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/audit"
	"github.com/keywarden/keywarden/pkg/changes"
	"github.com/keywarden/keywarden/pkg/problem"
	"github.com/keywarden/keywarden/pkg/slowhash"
)

// counter is a pool that counts.
type counter struct {
	pool
	hashes, comparisons atomic.Int32
	compared            string // the last digest
}

func (c *counter) Hash(ctx context.Context, digest []byte) (string, error) {
	c.hashes.Add(1)
	return c.pool.Hash(ctx, digest)
}

func (c *counter) Compare(ctx context.Context, hash string, digest []byte) (ok, stale bool, err error) {
	c.comparisons.Add(1)
	c.compared = string(digest)
	return c.pool.Compare(ctx, hash, digest)
}

// fake is a store of users in memory.
type fake struct {
	mu     sync.Mutex
	users  map[string]User
	hashes map[string]string
	calls  []changes.Change
	kept   string // session that the last change of a password kept
	err    error  // of every call
}

func (f *fake) InsertUser(_ context.Context, u User, hash string, c changes.Change) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil {
		return f.err
	}
	for _, other := range f.users {
		if other.Email == u.Email {
			return ErrEmailTaken
		}
	}
	f.users[u.ID], f.hashes[u.ID] = u, hash
	f.calls = append(f.calls, c)
	return nil
}

func (f *fake) User(_ context.Context, id string) (User, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	u, ok := f.users[id]
	if !ok {
		return User{}, errors.Join(f.err, ErrNotFound)
	}
	return u, f.err
}

func (f *fake) UserByEmail(_ context.Context, email string) (User, string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil {
		return User{}, "", f.err
	}
	for id, u := range f.users {
		if u.Email == email {
			return u, f.hashes[id], nil
		}
	}
	return User{}, "", fmt.Errorf("reading: %w", ErrNotFound)
}

func (f *fake) PasswordHash(_ context.Context, id string) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.hashes[id], f.err
}

func (f *fake) ListUsers(context.Context, Filter) ([]User, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Collect(maps.Values(f.users)), f.err
}

func (f *fake) UpdateUser(_ context.Context, id string, p Patch, at time.Time, c changes.Change) (User, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	u, ok := f.users[id]
	if !ok || f.err != nil {
		return User{}, errors.Join(f.err, ErrNotFound)
	}
	if p.Name != nil {
		u.Name = *p.Name
	}
	if p.Role != nil {
		u.Role = *p.Role
	}
	if p.Disabled != nil {
		u.Disabled = *p.Disabled
	}
	u.UpdatedAt = at
	f.users[id] = u
	f.calls = append(f.calls, c)
	return u, nil
}

func (f *fake) DeleteUser(_ context.Context, id string, c changes.Change) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil {
		return f.err
	}
	delete(f.users, id)
	f.calls = append(f.calls, c)
	return nil
}

func (f *fake) SetPassword(_ context.Context, id, hash, keep string, _ time.Time, c changes.Change) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hashes[id], f.kept = hash, keep
	f.calls = append(f.calls, c)
	return f.err
}

func (f *fake) Rehash(_ context.Context, id, old, hash string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.hashes[id] == old {
		f.hashes[id] = hash
	}
	return f.err
}

var now = time.Date(2026, 3, 4, 5, 6, 7, 123_456_789, time.FixedZone("", 3600))

// platform is a service over a fake store.
type platform struct {
	*Service
	store    *fake
	pool     *counter
	notified []changes.Event
}

func newHasher(t testing.TB, cost int) (*Hasher, *counter) {
	t.Helper()
	inner, err := slowhash.New(cost, 2)
	if err != nil {
		t.Fatal(err)
	}
	h := NewHasher(inner)
	c := &counter{pool: inner}
	h.pool = c
	return h, c
}

func newPlatform(t testing.TB) *platform {
	t.Helper()
	roles, err := access.NewRoles(nil)
	if err != nil {
		t.Fatal(err)
	}
	p := &platform{store: &fake{users: map[string]User{}, hashes: map[string]string{}}}
	hasher, pool := newHasher(t, bcrypt.MinCost)
	p.pool = pool
	p.Service = NewService(Options{
		Store: p.store, Hasher: hasher, Roles: roles, PasswordMinLength: 12, Now: func() time.Time { return now },
		Notify: func(e changes.Event) { p.notified = append(p.notified, e) },
	})
	return p
}

const (
	email    = "ada@example.com"
	password = "correct horse battery staple"
)

func (p *platform) register(t testing.TB) User {
	t.Helper()
	u, err := p.Register(t.Context(), Registration{Email: email, Password: password, Name: "Ada"}, access.RoleUser)
	if err != nil {
		t.Fatal(err)
	}
	p.pool.hashes.Store(0)
	return u
}

func TestRegisterStoresTheCanonicalUserAndNoPassword(t *testing.T) {
	p := newPlatform(t)
	u, err := p.Register(t.Context(), Registration{Email: " ADA@Example.com ", Password: password, Name: " Ada "}, access.RoleUser)
	if err != nil {
		t.Fatal(err)
	}
	at := now.UTC().Truncate(time.Microsecond)
	want := User{ID: u.ID, Email: email, Name: "Ada", Role: access.RoleUser, CreatedAt: at, UpdatedAt: at}
	if diff := cmp.Diff(want, p.store.users[u.ID]); diff != "" || u != want {
		t.Errorf("stored (-want +got):\n%s", diff)
	}
	if hash := p.store.hashes[u.ID]; !strings.HasPrefix(hash, "$2a$04$") || strings.Contains(hash, password) {
		t.Errorf("stored hash %q", hash)
	}
	entry := p.store.calls[0].Audit
	if entry.Action != audit.UserRegistered || entry.TargetID != u.ID || strings.Contains(fmt.Sprint(entry), password) {
		t.Errorf("audited %+v", entry)
	}
	if _, err := p.Register(t.Context(), Registration{Email: "ada@EXAMPLE.com", Password: password}, access.RoleUser); !errors.Is(err, ErrEmailTaken) {
		t.Errorf("the same address again: %v", err)
	}
}

func TestRegisterNamesEveryWrongFieldAndHashesNothing(t *testing.T) {
	p := newPlatform(t)
	_, err := p.Register(t.Context(), Registration{Email: "nobody", Password: "short", Name: "a\nb"}, access.RoleUser)
	var named []string
	for _, f := range problem.From(err).Fields {
		named = append(named, f.Field)
	}
	if diff := cmp.Diff([]string{"email", "name", "password"}, named); diff != "" || !errors.Is(err, problem.ErrInvalid) {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	if p.pool.hashes.Load() != 0 || len(p.store.users) != 0 {
		t.Error("something was hashed or stored")
	}
}

// What a guesser could tell apart by time costs the same: one comparison, no more.
func TestEveryRefusedSignInCostsExactlyOneComparison(t *testing.T) {
	for _, c := range []struct {
		name, email, password string
	}{
		{"wrong password", email, "not the password"},
		{"unknown address", "eve@example.com", password},
		{"malformed address", "@@\x00", password},
		{"empty address", "", password},
		{"huge address", "x" + strings.Repeat("\u00E9", 100_000), password},
		{"empty password", email, ""},
		{"empty password of nobody", "eve@example.com", ""},
		{"disabled account", "disabled@example.com", password},
		{"account without a password", "sso@example.com", password},
		{"account without a password, empty one", "sso@example.com", ""},
		{"the password with a tail", email, password + strings.Repeat("x", 72)},
		{"huge password", email, strings.Repeat("x", 1<<20)},
		{"huge password of nobody", "eve@example.com", strings.Repeat("x", 1<<20)},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newPlatform(t)
			u := p.register(t)
			p.store.users["d"] = User{ID: "d", Email: "disabled@example.com", Disabled: true}
			p.store.hashes["d"] = p.store.hashes[u.ID]
			p.store.users["s"] = User{ID: "s", Email: "sso@example.com"}

			_, err := p.Authenticate(t.Context(), c.email, c.password)
			if err != ErrCredentials { //nolint:errorlint // the very same answer, whatever the reason
				t.Errorf("got %v", err)
			}
			if n, h := p.pool.comparisons.Load(), p.pool.hashes.Load(); n != 1 || h != 0 {
				t.Errorf("%d comparisons and %d hashes", n, h)
			}
			if huge := len(c.password) > MaxPasswordBytes; huge && p.pool.compared != string(digest("")) {
				t.Error("a password beyond every bound was normalised")
			}
		})
	}
}

func TestOwnersSignInInEverySpelling(t *testing.T) {
	p := newPlatform(t)
	const composed = "p\u00E2ssw\u00F6rd of \u01F0os\u00E9 \uFB01n"
	u, err := p.Register(t.Context(), Registration{Email: "jos\u00E9@b\u00FCcher.example", Password: composed}, access.RoleUser)
	if err != nil {
		t.Fatal(err)
	}
	for _, email := range []string{"jos\u00E9@b\u00FCcher.example", "Jose\u0301@BU\u0308CHER.example", "jos\u00E9@xn--bcher-kva.example "} {
		for _, form := range []norm.Form{norm.NFC, norm.NFD, norm.NFKC, norm.NFKD} {
			got, err := p.Authenticate(t.Context(), email, form.String(composed))
			if err != nil || got.ID != u.ID {
				t.Errorf("%+q, form %d: %v", email, form, err)
			}
		}
	}
	for _, wrong := range []string{strings.ToUpper(composed), composed + " ", " " + composed, composed[:len(composed)-1]} {
		if _, err := p.Authenticate(t.Context(), u.Email, wrong); !errors.Is(err, ErrCredentials) {
			t.Errorf("%+q: %v", wrong, err)
		}
	}
}

func TestTheWholePasswordCounts(t *testing.T) {
	p := newPlatform(t)
	h := p.Hasher
	long := strings.Repeat("0123456789-pear ", 16) // 256 bytes
	hash, err := h.Hash(t.Context(), long)
	if err != nil {
		t.Fatal(err)
	}
	for i := 7; i < len(long); i += 8 { // 71 is the last that bcrypt would see, 255 the last of all
		changed := []byte(long)
		changed[i] ^= 1
		if ok, _, err := h.Compare(t.Context(), hash, string(changed)); ok || err != nil {
			t.Fatalf("with character %d changed: %v, %v", i, ok, err)
		}
	}
	for _, n := range []int{71, 72, 73, 255} {
		if ok, _, err := h.Compare(t.Context(), hash, long[:n]); ok || err != nil {
			t.Errorf("the first %d characters: %v, %v", n, ok, err)
		}
	}
	if ok, _, err := h.Compare(t.Context(), hash, long); !ok || err != nil {
		t.Errorf("itself: %v, %v", ok, err)
	}
	for _, p := range []string{"", "a", long, strings.Repeat("\U0001F600", 256), "a\x00b"} {
		if d := digest(p); len(d) != 44 || strings.Contains(string(d), "\x00") {
			t.Errorf("bcrypt is given %d bytes for a password of %d", len(d), len(p))
		}
	}
}

func TestEveryPasswordThatCanBeSetSignsIn(t *testing.T) {
	p := newPlatform(t)
	// As long as can be, in the form that takes the most bytes.
	longest := norm.NFD.String(strings.Repeat("\uAC01\uB098\uB2E4\uB77C\uB9C8\uBC14\uC0AC\uC544", 32))
	u, err := p.Register(t.Context(), Registration{Email: email, Password: longest}, access.RoleUser)
	if err != nil {
		t.Fatal(err)
	}
	for _, form := range []norm.Form{norm.NFC, norm.NFD} {
		if _, err := p.Authenticate(t.Context(), u.Email, form.String(longest)); err != nil {
			t.Errorf("form %d: %v", form, err)
		}
	}
}

func TestBusyIsToldAndNotTakenForAWrongPassword(t *testing.T) {
	p := newPlatform(t)
	u := p.register(t)
	p.pool.pool = busy{}
	if _, err := p.Authenticate(t.Context(), email, password); !errors.Is(err, slowhash.ErrBusy) || errors.Is(err, ErrCredentials) {
		t.Errorf("sign-in: %v", err)
	}
	if _, err := p.Authenticate(t.Context(), "eve@example.com", password); !errors.Is(err, slowhash.ErrBusy) {
		t.Errorf("sign-in of nobody: %v", err)
	}
	if _, err := p.Register(t.Context(), Registration{Email: "b@example.com", Password: password}, access.RoleUser); !errors.Is(err, slowhash.ErrBusy) {
		t.Errorf("registration: %v", err)
	}
	if err := p.ChangePassword(t.Context(), u.ID, "", password, "another fine passphrase"); !errors.Is(err, slowhash.ErrBusy) {
		t.Errorf("change: %v", err)
	}
	if len(p.store.users) != 1 || len(p.store.calls) != 1 {
		t.Error("something was stored")
	}
}

// busy is a pool with a full queue.
type busy struct{}

func (busy) Hash(context.Context, []byte) (string, error) { return "", slowhash.ErrBusy }
func (busy) Compare(context.Context, string, []byte) (ok, stale bool, err error) {
	return false, false, slowhash.ErrBusy
}

func TestAStoreThatFailsIsNotAWrongPassword(t *testing.T) {
	p := newPlatform(t)
	p.register(t)
	p.store.err = errors.New("no database")
	if _, err := p.Authenticate(t.Context(), email, password); !errors.Is(err, p.store.err) || errors.Is(err, ErrCredentials) {
		t.Errorf("got %v", err)
	}
}

func TestSignInRenewsAHashOfAnotherCost(t *testing.T) {
	p := newPlatform(t)
	u := p.register(t)
	dearer, _ := newHasher(t, bcrypt.MinCost+1)
	old := p.store.hashes[u.ID]
	p.Hasher = dearer
	if _, err := p.Authenticate(t.Context(), email, "wrong password"); !errors.Is(err, ErrCredentials) || p.store.hashes[u.ID] != old {
		t.Errorf("a wrong password: %v, hash %q", err, p.store.hashes[u.ID])
	}
	if _, err := p.Authenticate(t.Context(), email, password); err != nil {
		t.Fatal(err)
	}
	if hash := p.store.hashes[u.ID]; !strings.HasPrefix(hash, "$2a$05$") {
		t.Errorf("the hash is %q", hash)
	}
	if _, err := p.Authenticate(t.Context(), email, password); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

func TestChangePasswordAsksForTheCurrentOne(t *testing.T) {
	const next = "another fine passphrase"
	p := newPlatform(t)
	u := p.register(t)
	old := p.store.hashes[u.ID]
	if err := p.ChangePassword(t.Context(), u.ID, "s", "wrong password", next); !errors.Is(err, ErrPassword) {
		t.Errorf("wrong current password: %v", err)
	}
	err := p.ChangePassword(t.Context(), u.ID, "s", password, "password1234567")
	if fields := problem.From(err).Fields; len(fields) != 1 || fields[0].Field != "new_password" {
		t.Errorf("a weak password: %v", err)
	}
	if err := p.ChangePassword(t.Context(), "nobody", "s", password, next); !errors.Is(err, ErrNotFound) {
		t.Errorf("of nobody: %v", err)
	}
	if p.store.hashes[u.ID] != old || len(p.notified) != 0 {
		t.Fatal("a refused change changed something")
	}

	if err := p.ChangePassword(t.Context(), u.ID, "s", password, next); err != nil {
		t.Fatal(err)
	}
	event := changes.Event{Kind: changes.UserSessionsEnded, Subject: u.ID}
	if diff := cmp.Diff([]changes.Event{event}, p.notified); diff != "" || p.store.kept != "s" {
		t.Errorf("kept %q, notified (-want +got):\n%s", p.store.kept, diff)
	}
	if stored := p.store.calls[1]; stored.Event != event || stored.Audit.Action != audit.PasswordChanged || strings.Contains(fmt.Sprint(stored), next) {
		t.Errorf("recorded %+v", stored)
	}
	if _, err := p.Authenticate(t.Context(), email, next); err != nil {
		t.Errorf("the new password: %v", err)
	}
	if _, err := p.Authenticate(t.Context(), email, password); !errors.Is(err, ErrCredentials) {
		t.Errorf("the old password: %v", err)
	}
}

func TestChangesOfRoleAndStandingAreAnnouncedAndOthersAreNot(t *testing.T) {
	admin, disabled, name := access.RoleAdmin, true, " Augusta "
	for _, c := range []struct {
		name   string
		patch  Patch
		event  bool
		detail map[string]string
	}{
		{"role", Patch{Role: &admin}, true, map[string]string{"role": "admin"}},
		{"disabled", Patch{Disabled: &disabled}, true, map[string]string{"disabled": "true"}},
		{"everything", Patch{Name: &name, Role: &admin, Disabled: &disabled}, true, map[string]string{"name": "changed", "role": "admin", "disabled": "true"}},
		{"name", Patch{Name: &name}, false, map[string]string{"name": "changed"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newPlatform(t)
			u := p.register(t)
			after, err := p.Update(t.Context(), u.ID, c.patch)
			if err != nil {
				t.Fatal(err)
			}
			if c.patch.Name != nil && after.Name != "Augusta" {
				t.Errorf("the name is %q", after.Name)
			}
			if name != " Augusta " {
				t.Error("the caller's patch was changed")
			}
			var want []changes.Event
			if c.event {
				want = []changes.Event{{Kind: changes.UserChanged, Subject: u.ID}}
			}
			if diff := cmp.Diff(want, p.notified); diff != "" {
				t.Errorf("notified (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(c.detail, p.store.calls[1].Audit.Detail); diff != "" {
				t.Errorf("audited (-want +got):\n%s", diff)
			}
		})
	}
}

func TestInvalidChangesReachNeitherStoreNorReplicas(t *testing.T) {
	p := newPlatform(t)
	u := p.register(t)
	role, name := access.Role("root"), "a\nb"
	for field, patch := range map[string]Patch{"role": {Role: &role}, "name": {Name: &name}} {
		_, err := p.Update(t.Context(), u.ID, patch)
		if fields := problem.From(err).Fields; len(fields) != 1 || fields[0].Field != field {
			t.Errorf("%s: %v", field, err)
		}
	}
	if len(p.store.calls) != 1 || len(p.notified) != 0 {
		t.Error("something happened")
	}
}

func TestDeletedUsersAreAnnounced(t *testing.T) {
	p := newPlatform(t)
	u := p.register(t)
	if err := p.Delete(t.Context(), u.ID); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]changes.Event{{Kind: changes.UserChanged, Subject: u.ID}}, p.notified); diff != "" {
		t.Errorf("notified (-want +got):\n%s", diff)
	}
	if _, err := p.Authenticate(t.Context(), email, password); !errors.Is(err, ErrCredentials) {
		t.Errorf("the deleted user signs in: %v", err)
	}
}

func TestChangesThatFailAreNotAnnounced(t *testing.T) {
	p := newPlatform(t)
	u := p.register(t)
	p.store.err = ErrLastAdmin
	disabled := true
	if _, err := p.Update(t.Context(), u.ID, Patch{Disabled: &disabled}); !errors.Is(err, ErrLastAdmin) {
		t.Errorf("update: %v", err)
	}
	if err := p.Delete(t.Context(), u.ID); !errors.Is(err, ErrLastAdmin) {
		t.Errorf("delete: %v", err)
	}
	if len(p.notified) != 0 {
		t.Errorf("notified %v", p.notified)
	}
}

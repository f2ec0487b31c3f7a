package apikey

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/crypto/bcrypt"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/audit"
	"github.com/keywarden/keywarden/pkg/changes"
	"github.com/keywarden/keywarden/pkg/problem"
	"github.com/keywarden/keywarden/pkg/seal"
	"github.com/keywarden/keywarden/pkg/slowhash"
)

// keys is a Store in memory. What needs a database (locks, limits, the end of old
// secrets) is tested with one, in its own package.
type keys struct {
	stored  map[string]Key
	secrets map[string][]Secret
	kept    map[string]Idempotent // by user and token
	changes []changes.Change
	err     error
}

func (s *keys) claim(user string, i Idempotent) *Idempotent {
	if i.Token == "" {
		return nil
	}
	if kept, ok := s.kept[user+" "+i.Token]; ok {
		return &kept
	}
	s.kept[user+" "+i.Token] = i
	return nil
}

func (s *keys) InsertKey(_ context.Context, k Key, secret Secret, _ int, i Idempotent, c changes.Change) (*Idempotent, error) {
	if s.err != nil {
		return nil, s.err
	}
	if kept := s.claim(k.UserID, i); kept != nil {
		return kept, nil
	}
	s.stored[k.ID], s.secrets[k.ID] = k, []Secret{secret}
	s.changes = append(s.changes, c)
	return nil, nil
}

func (s *keys) RotateKey(_ context.Context, id string, secret Secret, lastFour string, now, graceEnd time.Time, i Idempotent, c changes.Change) (Key, *Idempotent, error) {
	k, ok := s.stored[id]
	if !ok || s.err != nil {
		return Key{}, nil, errors.Join(s.err, ErrNotFound)
	}
	if kept := s.claim(k.UserID, i); kept != nil {
		return k, kept, nil
	}
	k.LastFour, k.UpdatedAt = lastFour, now
	s.secrets[id][0].ValidUntil = &graceEnd
	s.stored[id], s.secrets[id] = k, append([]Secret{secret}, s.secrets[id]...)
	s.changes = append(s.changes, c)
	return k, nil, nil
}

func (s *keys) Key(_ context.Context, id string) (Key, error) {
	k, ok := s.stored[id]
	if !ok {
		return Key{}, ErrNotFound
	}
	return k, nil
}

func (s *keys) ListKeys(context.Context, Filter) ([]Key, error) { return nil, nil }

func (s *keys) UpdateKey(_ context.Context, id string, p Patch, now time.Time, c changes.Change) (Key, error) {
	if s.err != nil {
		return Key{}, s.err
	}
	k := s.stored[id]
	if p.Name != nil {
		k.Name = *p.Name
	}
	if p.Scopes != nil {
		k.Scopes = *p.Scopes
	}
	k.UpdatedAt = now
	s.stored[id] = k
	s.changes = append(s.changes, c)
	return k, nil
}

func (s *keys) RevokeKey(_ context.Context, id string, now time.Time, c changes.Change) (int64, error) {
	if s.err != nil {
		return 0, s.err
	}
	k := s.stored[id]
	if k.RevokedAt != nil {
		return 0, nil
	}
	k.RevokedAt = &now
	s.stored[id] = k
	s.changes = append(s.changes, c)
	return 7, nil
}

// desk is a service over a store in memory.
type desk struct {
	*Service
	store    *keys
	notified []changes.Event
	at       time.Time
}

func newDesk(t testing.TB) *desk {
	t.Helper()
	ring, err := seal.ParseKeyring(seal.NewMasterKey())
	if err != nil {
		t.Fatal(err)
	}
	peppers, err := NewPeppers(ring)
	if err != nil {
		t.Fatal(err)
	}
	pool, err := slowhash.New(bcrypt.MinCost, 2)
	if err != nil {
		t.Fatal(err)
	}
	roles, err := access.NewRoles([]string{"orders:read"})
	if err != nil {
		t.Fatal(err)
	}
	d := &desk{
		store: &keys{stored: map[string]Key{}, secrets: map[string][]Secret{}, kept: map[string]Idempotent{}},
		at:    begin.Add(123_456_789).In(time.FixedZone("", 3600)),
	}
	d.Service = NewService(Options{
		Store: d.store, Hasher: pool, Peppers: peppers, Ring: ring, Roles: roles, Prefix: "kw", MaxPerUser: 10,
		IdempotencyTTL: time.Hour, Now: func() time.Time { return d.at },
		Notify: func(e changes.Event) { d.notified = append(d.notified, e) },
	})
	return d
}

func (d *desk) create(t testing.TB, r Request, token string) Minted {
	t.Helper()
	m, err := d.Create(t.Context(), "owner", access.RoleUser, r, token)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestCreateStoresEverythingButTheKey(t *testing.T) {
	d := newDesk(t)
	m := d.create(t, Request{
		Name: " ci ", Scopes: []string{"profile:read", "orders:read", "orders:read"}, ExpiresIn: time.Hour,
		AllowedIPs: []string{"203.0.113.9/24", "::ffff:192.0.2.1", "2001:db8::1"},
	}, "")
	key := m.Secret.Reveal()
	publicID, ok := parse("kw", key)
	if !ok {
		t.Fatalf("%s does not parse", key)
	}
	now := d.at.UTC().Truncate(time.Microsecond)
	expires := now.Add(time.Hour)
	want := Key{
		ID: m.Key.ID, PublicID: publicID, UserID: "owner", Name: "ci", Env: Live, Prefix: "kw_live_" + publicID, LastFour: key[len(key)-4:],
		Scopes: []string{"orders:read", "profile:read"}, ExpiresAt: &expires, CreatedAt: now, UpdatedAt: now,
		AllowedIPs: []netip.Prefix{
			netip.MustParsePrefix("203.0.113.0/24"), netip.MustParsePrefix("192.0.2.1/32"), netip.MustParsePrefix("2001:db8::1/128"),
		},
	}
	for name, got := range map[string]Key{"returned": m.Key, "stored": d.store.stored[m.Key.ID]} {
		if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Prefix{})); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	secret := d.store.secrets[m.Key.ID][0]
	mac := d.Peppers.current.sum(key)
	if string(secret.Verifier) != string(mac[:]) || secret.PepperID != d.Ring.ID() || secret.ValidUntil != nil {
		t.Errorf("stored %+v", secret)
	}
	if err := bcrypt.CompareHashAndPassword([]byte(secret.Bcrypt), bcryptInput(key)); err != nil {
		t.Error(err)
	}
	event := changes.Event{Kind: changes.KeyChanged, Subject: publicID}
	if diff := cmp.Diff([]changes.Event{event}, d.notified); diff != "" || d.store.changes[0].Event != event {
		t.Errorf("notified (-want +got):\n%s", diff)
	}
	hidden := key[len("kw_live_")+idLength:]
	for name, v := range map[string]any{"minted": m, "store": d.store} {
		if text := fmt.Sprintf("%+v", v); strings.Contains(text, hidden) {
			t.Errorf("%s holds the secret: %s", name, text)
		}
	}
}

func TestCreatedKeysVerify(t *testing.T) {
	d := newDesk(t)
	m := d.create(t, Request{Name: "ci", Env: Test}, "")
	b := newBench(t, 10)
	b.opts.Peppers = d.Peppers
	b.store.stored[m.Key.PublicID] = Stored{Key: m.Key, OwnerRole: access.RoleUser, Secrets: d.store.secrets[m.Key.ID]}
	b.wantGood(t, m.Secret.Reveal())
	b.wantCost(t, 1, 0, 0)
}

func TestCreateNamesEveryWrongField(t *testing.T) {
	past := begin.Add(-time.Second)
	many := func(n int, s string) []string { return slices.Repeat([]string{s}, n) }
	for _, c := range []struct {
		name   string
		change func(*Request)
		fields []string
	}{
		{"no name", func(r *Request) { r.Name = " \t" }, []string{"name"}},
		{"long name", func(r *Request) { r.Name = strings.Repeat("a", 101) }, []string{"name"}},
		{"control character", func(r *Request) { r.Name = "a\x1bb" }, []string{"name"}},
		{"invisible character", func(r *Request) { r.Name = "a\u200bb" }, []string{"name"}},
		{"not UTF-8", func(r *Request) { r.Name = "a\xff" }, []string{"name"}},
		{"environment", func(r *Request) { r.Env = "prod" }, []string{"env"}},
		{"wildcard", func(r *Request) { r.Scopes = []string{"orders:read", "*"} }, []string{"scopes[1]"}},
		{"malformed scope", func(r *Request) { r.Scopes = []string{"Orders"} }, []string{"scopes[0]"}},
		{"more than the owner holds", func(r *Request) { r.Scopes = []string{"users:write", "orders:read", "keys:admin"} }, []string{"scopes[0]", "scopes[2]"}},
		{"many scopes", func(r *Request) { r.Scopes = many(51, "orders:read") }, []string{"scopes"}},
		{"expired", func(r *Request) { r.ExpiresAt = &past }, []string{"expires_at"}},
		{"negative time", func(r *Request) { r.ExpiresIn = -time.Second }, []string{"expires_in"}},
		{"eleven years", func(r *Request) { r.ExpiresIn = 11 * 366 * 24 * time.Hour }, []string{"expires_in"}},
		{"addresses", func(r *Request) {
			r.AllowedIPs = []string{"203.0.113.7", "x", "203.0.113.7/33", "::ffff:203.0.113.0/120", "fe80::1%eth0", "", "0.0.0.0/0"}
		}, []string{"allowed_ips[1]", "allowed_ips[2]", "allowed_ips[3]", "allowed_ips[4]", "allowed_ips[5]"}},
		{"many addresses", func(r *Request) { r.AllowedIPs = many(51, "203.0.113.7") }, []string{"allowed_ips"}},
		{"everything", func(r *Request) {
			*r = Request{Env: "x", Scopes: []string{"*"}, ExpiresAt: &past, AllowedIPs: []string{"x"}}
		}, []string{"name", "env", "scopes[0]", "expires_at", "allowed_ips[0]"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := newDesk(t)
			r := Request{Name: "ci", Scopes: []string{"orders:read"}}
			c.change(&r)
			_, err := d.Create(t.Context(), "owner", access.RoleUser, r, "")
			var named []string
			for _, f := range problem.From(err).Fields {
				named = append(named, f.Field)
			}
			if diff := cmp.Diff(c.fields, named); diff != "" || !errors.Is(err, problem.ErrInvalid) {
				t.Errorf("%v (-want +got):\n%s", err, diff)
			}
			if len(d.store.stored) != 0 || len(d.notified) != 0 {
				t.Error("something happened")
			}
		})
	}
}

func TestRepeatedCreateGivesTheSameAnswerAndOneKey(t *testing.T) {
	d := newDesk(t)
	r := Request{Name: "ci", Scopes: []string{"orders:read"}, ExpiresIn: time.Hour, AllowedIPs: []string{"203.0.113.0/24"}}
	first := d.create(t, r, "token-1")
	d.at = d.at.Add(90 * time.Second) // a client waits before it tries again
	again := d.create(t, r, "token-1")
	if again.Secret.Reveal() != first.Secret.Reveal() || !cmp.Equal(first.Key, again.Key, cmpopts.EquateComparable(netip.Prefix{})) {
		t.Errorf("another answer: %+v, %+v", first.Key, again.Key)
	}
	if len(d.store.stored) != 1 || len(d.notified) != 1 {
		t.Errorf("%d keys, %d events", len(d.store.stored), len(d.notified))
	}
	if other := d.create(t, r, "token-2"); other.Key.ID == first.Key.ID {
		t.Error("another token gives the same key")
	}
	for name, change := range map[string]func(*Request){
		"name":     func(r *Request) { r.Name = "other" },
		"scopes":   func(r *Request) { r.Scopes = nil },
		"expiry":   func(r *Request) { r.ExpiresIn = 2 * time.Hour },
		"networks": func(r *Request) { r.AllowedIPs = nil },
		"env":      func(r *Request) { r.Env = Test },
	} {
		changed := r
		change(&changed)
		if _, err := d.Create(t.Context(), "owner", access.RoleUser, changed, "token-1"); !errors.Is(err, ErrIdempotency) {
			t.Errorf("with another %s: %v", name, err)
		}
	}
}

func TestIdempotencyTokensAreChecked(t *testing.T) {
	d := newDesk(t)
	for token, ok := range map[string]bool{
		"a": true, strings.Repeat("x", 255): true, strings.Repeat("x", 256): false, "a b": false, "a\n": false, "ä": false, "\x00": false, "\x7f": false,
	} {
		_, err := d.Create(t.Context(), "owner", access.RoleUser, Request{Name: "ci"}, token)
		if (err == nil) != ok {
			t.Errorf("%.10q: %v", token, err)
		}
	}
}

// The kept answer holds a key: it is sealed, and for its owner and token alone.
func TestKeptAnswersAreSealed(t *testing.T) {
	d := newDesk(t)
	m := d.create(t, Request{Name: "ci"}, "token")
	kept := d.store.kept["owner token"]
	if strings.Contains(string(kept.Answer), m.Secret.Reveal()) || !kept.ExpiresAt.Equal(d.now().Add(time.Hour)) {
		t.Errorf("kept %+v", kept)
	}
	d.store.kept["thief token"] = kept
	if _, err := d.Create(t.Context(), "thief", access.RoleUser, Request{Name: "ci"}, "token"); !errors.Is(err, seal.ErrTampered) {
		t.Errorf("moved to another user: %v", err)
	}
}

func TestRotateGivesANewSecretAndKeepsTheRest(t *testing.T) {
	d := newDesk(t)
	first := d.create(t, Request{Name: "ci", Env: Test}, "")
	d.at = d.at.Add(time.Hour)
	m, err := d.Rotate(t.Context(), "owner", first.Key.ID, time.Minute, "")
	if err != nil {
		t.Fatal(err)
	}
	key := m.Secret.Reveal()
	if id, ok := parse("kw", key); !ok || id != first.Key.PublicID || m.Secret.Equal(first.Secret.Reveal()) || !strings.HasPrefix(key, "kw_test_") {
		t.Errorf("the new key is %s", key)
	}
	want := first.Key
	want.LastFour, want.UpdatedAt = key[len(key)-4:], d.now()
	if diff := cmp.Diff(want, m.Key, cmpopts.EquateComparable(netip.Prefix{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	secrets := d.store.secrets[m.Key.ID]
	if len(secrets) != 2 || secrets[0].ValidUntil != nil || !secrets[1].ValidUntil.Equal(d.now().Add(time.Minute)) {
		t.Errorf("secrets %+v", secrets)
	}
	last := d.store.changes[len(d.store.changes)-1]
	if last.Audit.Action != audit.KeyRotated || last.Event.Subject != m.Key.PublicID || len(d.notified) != 2 {
		t.Errorf("recorded %+v", last)
	}
}

func TestRepeatedRotateGivesTheSameAnswer(t *testing.T) {
	d := newDesk(t)
	first := d.create(t, Request{Name: "ci"}, "")
	second := d.create(t, Request{Name: "cd"}, "")
	a, err := d.Rotate(t.Context(), "owner", first.Key.ID, time.Minute, "token")
	if err != nil {
		t.Fatal(err)
	}
	d.at = d.at.Add(time.Minute)
	b, err := d.Rotate(t.Context(), "owner", first.Key.ID, time.Minute, "token")
	if err != nil || !a.Secret.Equal(b.Secret.Reveal()) || len(d.store.secrets[first.Key.ID]) != 2 {
		t.Errorf("repeated: %v", err)
	}
	if _, err := d.Rotate(t.Context(), "owner", first.Key.ID, time.Hour, "token"); !errors.Is(err, ErrIdempotency) {
		t.Errorf("with another grace: %v", err)
	}
	if _, err := d.Rotate(t.Context(), "owner", second.Key.ID, time.Minute, "token"); !errors.Is(err, ErrIdempotency) {
		t.Errorf("of another key: %v", err)
	}
	if _, err := d.Create(t.Context(), "owner", access.RoleUser, Request{Name: "ci"}, "token"); !errors.Is(err, ErrIdempotency) {
		t.Errorf("as a create: %v", err)
	}
}

// Only the configured prefix verifies, so a key that begins otherwise would be
// useless from the start.
func TestRotatedKeysHaveTheConfiguredPrefix(t *testing.T) {
	d := newDesk(t)
	first := d.create(t, Request{Name: "ci"}, "")
	d.Prefix = "acme"
	m, err := d.Rotate(t.Context(), "owner", first.Key.ID, 0, "")
	if err != nil {
		t.Fatal(err)
	}
	if id, ok := parse("acme", m.Secret.Reveal()); !ok || id != first.Key.PublicID {
		t.Errorf("the new key is %s", m.Secret.Reveal())
	}
}

func TestGraceIsBounded(t *testing.T) {
	d := newDesk(t)
	m := d.create(t, Request{Name: "ci"}, "")
	for grace, ok := range map[time.Duration]bool{
		0: true, 30 * 24 * time.Hour: true, -1: false, 30*24*time.Hour + 1: false,
	} {
		if _, err := d.Rotate(t.Context(), "owner", m.Key.ID, grace, ""); (err == nil) != ok {
			t.Errorf("%v: %v", grace, err)
		}
	}
}

func TestKeysOfOthersDoNotExist(t *testing.T) {
	d := newDesk(t)
	m := d.create(t, Request{Name: "ci"}, "")
	ctx, name := t.Context(), "mine"
	for _, id := range []string{m.Key.ID, "unknown"} {
		_, get := d.Get(ctx, "other", id)
		_, update := d.Update(ctx, "other", id, access.RoleAdmin, Patch{Name: &name})
		_, rotate := d.Rotate(ctx, "other", id, 0, "")
		_, revoke := d.Revoke(ctx, "other", id)
		for call, err := range map[string]error{"get": get, "update": update, "rotate": rotate, "revoke": revoke} {
			if err != ErrNotFound { //nolint:errorlint // the very same answer for both
				t.Errorf("%s: %v", call, err)
			}
		}
	}
	if len(d.store.changes) != 1 {
		t.Error("something was changed")
	}
	if _, err := d.Get(ctx, "", m.Key.ID); err != nil {
		t.Errorf("who may see every key: %v", err)
	}
}

func TestUpdateGivesNoMoreThanTheCallerHolds(t *testing.T) {
	d := newDesk(t)
	m := d.create(t, Request{Name: "ci", Scopes: []string{"orders:read"}}, "")
	for _, scopes := range [][]string{{"users:write"}, {"*"}, {"orders:read", "keys:admin"}} {
		if _, err := d.Update(t.Context(), "owner", m.Key.ID, access.RoleUser, Patch{Scopes: &scopes}); !errors.Is(err, problem.ErrInvalid) {
			t.Errorf("%q: %v", scopes, err)
		}
	}
	past, name, none := begin.Add(-time.Hour), " ", make([]netip.Prefix, 51)
	for field, p := range map[string]Patch{"name": {Name: &name}, "expires_at": {ExpiresAt: &past}, "allowed_ips": {AllowedIPs: &none}} {
		_, err := d.Update(t.Context(), "owner", m.Key.ID, access.RoleUser, p)
		if fields := problem.From(err).Fields; len(fields) != 1 || fields[0].Field != field {
			t.Errorf("%s: %v", field, err)
		}
	}
	if len(d.notified) != 1 {
		t.Errorf("refused changes were announced: %v", d.notified)
	}
	scopes := []string{"profile:read", "orders:read"}
	k, err := d.Update(t.Context(), "owner", m.Key.ID, access.RoleUser, Patch{Scopes: &scopes})
	if err != nil || !slices.Equal(k.Scopes, []string{"orders:read", "profile:read"}) || len(d.notified) != 2 {
		t.Errorf("%q, %v", k.Scopes, err)
	}
	if !slices.Equal(scopes, []string{"profile:read", "orders:read"}) {
		t.Error("the caller's scopes were sorted")
	}
}

func TestRevokeIsAnnouncedAlsoWhenItIsRepeated(t *testing.T) {
	d := newDesk(t)
	m := d.create(t, Request{Name: "ci"}, "")
	for i, want := range []int64{7, 0} {
		epoch, err := d.Revoke(t.Context(), "owner", m.Key.ID)
		if err != nil || epoch != want || len(d.notified) != 2+i {
			t.Errorf("epoch %d, %d events, %v", epoch, len(d.notified), err)
		}
	}
	if d.notified[1] != (changes.Event{Kind: changes.KeyChanged, Subject: m.Key.PublicID}) {
		t.Errorf("announced %v", d.notified[1])
	}
}

func TestFailedChangesAreNotAnnounced(t *testing.T) {
	d := newDesk(t)
	m := d.create(t, Request{Name: "ci"}, "")
	d.store.err = errors.New("no database")
	ctx, name := t.Context(), "other"
	_, create := d.Create(ctx, "owner", access.RoleUser, Request{Name: "ci"}, "")
	_, update := d.Update(ctx, "owner", m.Key.ID, access.RoleUser, Patch{Name: &name})
	_, rotate := d.Rotate(ctx, "owner", m.Key.ID, 0, "")
	_, revoke := d.Revoke(ctx, "owner", m.Key.ID)
	for call, err := range map[string]error{"create": create, "update": update, "rotate": rotate, "revoke": revoke} {
		if !errors.Is(err, d.store.err) {
			t.Errorf("%s: %v", call, err)
		}
	}
	if len(d.notified) != 1 {
		t.Errorf("announced %v", d.notified)
	}
}

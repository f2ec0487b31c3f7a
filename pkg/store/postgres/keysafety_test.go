package postgres

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/apikey"
	"github.com/keywarden/keywarden/pkg/audit"
	"github.com/keywarden/keywarden/pkg/changes"
	"github.com/keywarden/keywarden/pkg/keyguard"
	"github.com/keywarden/keywarden/pkg/reqctx"
	"github.com/keywarden/keywarden/pkg/seal"
	"github.com/keywarden/keywarden/pkg/slowhash"
	"github.com/keywarden/keywarden/pkg/throttle"
)

// safety is what takes reports and verifies keys over a store, as the program has it.
type safety struct {
	*world
	keys   *apikey.Service
	check  *apikey.Verifier
	guard  *keyguard.Service
	alarms []string // ids of canary keys that were used
}

var finder = netip.MustParseAddr("192.0.2.7")

func newSafety(t *testing.T) *safety {
	s := &safety{world: newWorld(t)}
	pool, err := slowhash.New(lowestCost, 4)
	s.must(err)
	peppers, err := apikey.NewPeppers(s.ring)
	s.must(err)
	roles, err := access.NewRoles(nil)
	s.must(err)
	misses, err := throttle.New(100, time.Second, time.Now)
	s.must(err)
	reports, err := throttle.New(100, time.Second, time.Now)
	s.must(err)
	s.check, err = apikey.NewVerifier(apikey.VerifierOptions{
		Store: s.Store, Hasher: pool, Peppers: peppers, Roles: roles, Prefix: "kw", Fresh: func(time.Time) bool { return true },
		Misses: misses, Entries: 100, Timeout: patience, Now: time.Now, Logger: slog.New(slog.DiscardHandler),
		Canary: func(_ context.Context, id string, _ netip.Addr) { s.alarms = append(s.alarms, id) },
	})
	s.must(err)
	s.keys = apikey.NewService(apikey.Options{
		Store: s.Store, Hasher: pool, Peppers: peppers, Ring: s.ring, Roles: roles, Notify: s.check.Apply,
		Prefix: "kw", MaxPerUser: 10, IdempotencyTTL: time.Hour, Now: time.Now,
	})
	s.guard = keyguard.New(keyguard.Options{Prover: s.check, Keys: s.Store, Reports: reports, Notify: s.check.Apply, Now: time.Now})
	return s
}

func (s *safety) mint(r apikey.Request) apikey.Minted {
	s.t.Helper()
	u := s.user(access.RoleUser)
	m, err := s.keys.Create(s.t.Context(), u.ID, u.Role, r, "")
	s.must(err)
	return m
}

func (s *safety) report(key seal.Secret) {
	s.t.Helper()
	s.must(s.guard.Report(s.t.Context(), key, " found in a gist ", finder))
}

func (s *safety) opens(key seal.Secret) bool {
	s.t.Helper()
	_, err := s.check.VerifyKey(s.t.Context(), key.Reveal(), finder)
	if err != nil && !errors.Is(err, access.ErrKey) {
		s.t.Fatal(err)
	}
	return err == nil
}

func (s *safety) key(id string) apikey.Key {
	s.t.Helper()
	k, err := s.Key(s.t.Context(), id)
	s.must(err)
	return k
}

func TestReportedKeyIsRefusedUntilItIsRotated(t *testing.T) {
	s := newSafety(t)
	m := s.mint(apikey.Request{Name: "ci", AllowedIPs: []string{"203.0.113.1"}}) // its finder is elsewhere
	before, err := s.ChangeHead(t.Context())
	s.must(err)
	s.report(m.Secret)
	k := s.key(m.Key.ID)
	if s.opens(m.Secret) || k.QuarantinedAt == nil || k.QuarantineNote != "found in a gist" {
		t.Fatalf("after the report: %+v", k)
	}
	events, _, err := s.ChangesSince(t.Context(), before, 10)
	s.must(err)
	if len(events) != 1 || events[0].Kind != changes.KeyChanged || events[0].Subject != k.PublicID {
		t.Errorf("other replicas hear %+v", events)
	}
	s.report(m.Secret)
	if n := s.number(`SELECT count(*) FROM audit_log WHERE action = $1 AND target_id = $2`, audit.KeyQuarantined, k.ID); n != 1 {
		t.Errorf("%d audit records", n)
	}
	rotated, err := s.keys.Rotate(t.Context(), k.UserID, k.ID, time.Hour, "")
	s.must(err)
	everywhere := []netip.Prefix{}
	_, err = s.keys.Update(t.Context(), k.UserID, k.ID, access.RoleUser, apikey.Patch{AllowedIPs: &everywhere})
	s.must(err)
	if s.opens(m.Secret) {
		t.Error("the leaked secret works again, for the grace of the rotation")
	}
	if k := s.key(k.ID); !s.opens(rotated.Secret) || k.QuarantinedAt != nil || k.QuarantineNote != "" {
		t.Errorf("after the rotation: %+v", k)
	}
	s.report(m.Secret)
	if !s.opens(rotated.Secret) {
		t.Error("a secret that has ended took the key out of use")
	}
}

func TestReportThatARotationOvertookChangesNothing(t *testing.T) {
	s := newSafety(t)
	m := s.mint(apikey.Request{Name: "ci"})
	proof, err := s.check.Prove(t.Context(), m.Secret.Reveal(), finder)
	s.must(err)
	rotated, err := s.keys.Rotate(t.Context(), m.Key.UserID, m.Key.ID, 0, "")
	s.must(err)
	s.must(s.QuarantineKey(t.Context(), proof.KeyID, proof.SecretID, "", now(), noted("test", "")))
	if !s.opens(rotated.Secret) || s.key(m.Key.ID).QuarantinedAt != nil {
		t.Error("the key is in quarantine for a secret that had ended")
	}
}

func TestAdminReleasesAKey(t *testing.T) {
	s := newSafety(t)
	m := s.mint(apikey.Request{Name: "ci"})
	s.report(m.Secret)
	for range 2 {
		k, err := s.guard.Release(t.Context(), m.Key.ID)
		s.must(err)
		if k.QuarantinedAt != nil || !s.opens(m.Secret) {
			t.Errorf("released: %+v", k)
		}
	}
	if n := s.number(`SELECT count(*) FROM audit_log WHERE action = $1`, audit.KeyReleased); n != 1 {
		t.Errorf("%d audit records of one release", n)
	}
	if _, err := s.guard.Release(t.Context(), "no-such-key"); !errors.Is(err, apikey.ErrNotFound) {
		t.Errorf("an unknown key: %v", err)
	}
	s.report(m.Secret)
	_, err := s.keys.Revoke(t.Context(), m.Key.UserID, m.Key.ID)
	s.must(err)
	if _, err := s.guard.Release(t.Context(), m.Key.ID); !errors.Is(err, apikey.ErrRevoked) {
		t.Errorf("a revoked key: %v", err)
	}
}

func TestCanaryOpensNothingAndRaisesAnAlarm(t *testing.T) {
	s := newSafety(t)
	m := s.mint(apikey.Request{Name: "trap", Canary: true})
	secret := m.Secret.Reveal()
	_, used := s.check.VerifyKey(t.Context(), secret, finder)
	if !errors.Is(used, access.ErrKey) || len(s.alarms) != 1 || s.alarms[0] != m.Key.ID {
		t.Fatalf("error %v, alarms %v", used, s.alarms)
	}
	other := s.mint(apikey.Request{Name: "other"})
	_, err := s.keys.Revoke(t.Context(), other.Key.UserID, other.Key.ID)
	s.must(err)
	if _, wrong := s.check.VerifyKey(t.Context(), other.Secret.Reveal(), finder); wrong.Error() != used.Error() {
		t.Errorf("a canary is told %v, another %v", used, wrong)
	}
	s.report(m.Secret)
	if k := s.key(m.Key.ID); len(s.alarms) != 2 || k.QuarantinedAt != nil {
		t.Errorf("a report shut the trap, or raised no alarm: %+v, %v", k, s.alarms)
	}
}

func TestAlarmIsAuditedWithAddressAndPath(t *testing.T) {
	s := newSafety(t)
	rate, err := throttle.New(2, time.Hour, time.Now)
	s.must(err)
	var raised []keyguard.Alarm
	alarms := keyguard.NewAlarms(keyguard.AlarmOptions{
		Record: func(ctx context.Context, e audit.Entry) error {
			_, err := s.RecordChange(ctx, changes.Change{Audit: e})
			return err
		},
		Raise: func(a keyguard.Alarm) { raised = append(raised, a) }, Rate: rate, Now: time.Now, Logger: slog.New(slog.DiscardHandler),
	})
	ctx := reqctx.With(t.Context(), &reqctx.Info{ID: "r", Client: finder, Path: "/orders/\x00\xff7"})
	for range 1000 { // more than can wait, which no caller waits for
		alarms.Used(ctx, "a-key", finder)
	}
	ended, end := context.WithCancel(t.Context())
	end()
	s.must(alarms.Run(ended))
	if len(raised) != 2 || raised[0].Path != "/orders/7" || raised[0].Client != finder || alarms.Uses() != 1000 || alarms.Dropped() != 998 {
		t.Errorf("raised %+v, %d uses, %d dropped", raised, alarms.Uses(), alarms.Dropped())
	}
	if n := s.number(`SELECT count(*) FROM audit_log WHERE action = $1 AND client = $2 AND detail->>'path' = '/orders/7'`,
		audit.CanaryUsed, finder.String()); n != 2 {
		t.Errorf("%d audit records", n)
	}
}

func TestPostureLooksAtWhatMayBeWrong(t *testing.T) {
	s := newSafety(t)
	soon := time.Now().Add(time.Hour)
	leaked := s.mint(apikey.Request{Name: "leaked", ExpiresAt: &soon})
	s.report(leaked.Secret)
	endless, idle := s.mint(apikey.Request{Name: "endless"}), s.mint(apikey.Request{Name: "idle", ExpiresAt: &soon})
	wild, gone := s.mint(apikey.Request{Name: "wild", ExpiresAt: &soon}), s.mint(apikey.Request{Name: "gone"})
	s.mint(apikey.Request{Name: "good", ExpiresAt: &soon})
	s.mint(apikey.Request{Name: "trap", Canary: true})
	s.exec(`UPDATE api_keys SET created_at = now() - interval '91 days' WHERE id = $1`, idle.Key.ID)
	s.exec(`UPDATE api_keys SET scopes = '{*}' WHERE id = $1`, wild.Key.ID)
	_, err := s.keys.Revoke(t.Context(), gone.Key.UserID, gone.Key.ID)
	s.must(err)
	found, err := s.PostureKeys(t.Context(), now(), 10)
	s.must(err)
	var ids []string
	for _, k := range found {
		ids = append(ids, k.ID)
	}
	want := []string{wild.Key.ID, leaked.Key.ID, idle.Key.ID, endless.Key.ID}
	if !slices.Equal(ids, want) {
		t.Errorf("keys %v, want %v", ids, want)
	}
	if found, err := s.PostureKeys(t.Context(), now(), 2); err != nil || len(found) != 2 {
		t.Errorf("%d keys, %v", len(found), err)
	}

	away, here, young := s.user(access.RoleAdmin), s.user(access.RoleAdmin), s.user(access.RoleAdmin)
	s.exec(`UPDATE users SET created_at = now() - interval '91 days' WHERE id <> $1`, young.ID)
	_, err = s.RecordChange(t.Context(), changes.Change{Audit: audit.New(t.Context(), audit.LoginSucceeded, "session", "s").By(here.ID)})
	s.must(err)
	admins, err := s.PostureAdmins(t.Context(), now(), 10)
	s.must(err)
	if len(admins) != 1 || admins[0].ID != away.ID {
		t.Errorf("admins %v, want %s", admins, away.ID)
	}
}

package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/account"
	"github.com/keywarden/keywarden/pkg/apikey"
	"github.com/keywarden/keywarden/pkg/audit"
	"github.com/keywarden/keywarden/pkg/changes"
	"github.com/keywarden/keywarden/pkg/pglocal/pgtest"
	"github.com/keywarden/keywarden/pkg/revision"
	"github.com/keywarden/keywarden/pkg/seal"
)

// scene is what mutations change.
type scene struct {
	*world
	ctx     context.Context
	user    account.User
	session string
	key     apikey.Key
}

func newScene(t *testing.T) *scene {
	t.Helper()
	s := &scene{world: newWorld(t), ctx: t.Context()}
	s.world.user(access.RoleAdmin)
	s.user = s.world.user(access.RoleUser)
	made, _ := s.world.session(s.user)
	s.session = made.ID
	s.key, _ = s.world.key(s.user)
	return s
}

// mutations is every call that changes something, by name.
var mutations = map[string]func(s *scene, c changes.Change) error{
	"InsertUser": func(s *scene, c changes.Change) error {
		return s.InsertUser(s.ctx, newUser(access.RoleUser), "hash", c)
	},
	"UpdateUser": func(s *scene, c changes.Change) error {
		role, disabled := access.RoleAdmin, true
		_, err := s.UpdateUser(s.ctx, s.user.ID, account.Patch{Role: &role, Disabled: &disabled}, now(), c)
		return err
	},
	"DeleteUser":  func(s *scene, c changes.Change) error { return s.DeleteUser(s.ctx, s.user.ID, c) },
	"SetPassword": func(s *scene, c changes.Change) error { return s.SetPassword(s.ctx, s.user.ID, "new", "", now(), c) },
	"InsertSession": func(s *scene, c changes.Change) error {
		v, refresh := newSession(s.user)
		return s.InsertSession(s.ctx, v, s.user.UpdatedAt, refresh, c)
	},
	"EndSession":  func(s *scene, c changes.Change) error { return s.EndSession(s.ctx, s.user.ID, s.session, now(), c) },
	"RecordAudit": func(s *scene, c changes.Change) error { return s.RecordAudit(s.ctx, c.Audit) },
	"InsertSigningKey": func(s *scene, c changes.Change) error {
		_, err := s.InsertSigningKey(s.ctx, newSigningKey(now()), now(), c)
		return err
	},
	"InsertKey": func(s *scene, c changes.Change) error {
		k, secret := newKey(s.user)
		_, err := s.InsertKey(s.ctx, k, secret, noLimit, apikey.Idempotent{Token: "t", Answer: []byte("x"), ExpiresAt: now()}, c)
		return err
	},
	"RotateKey": func(s *scene, c changes.Change) error {
		i := apikey.Idempotent{Token: "t", Answer: []byte("x"), ExpiresAt: now()}
		_, _, err := s.RotateKey(s.ctx, s.key.ID, newSecret(now()), "next", now(), now(), i, c)
		return err
	},
	"UpdateKey": func(s *scene, c changes.Change) error {
		name := "new"
		_, err := s.UpdateKey(s.ctx, s.key.ID, apikey.Patch{Name: &name}, now(), c)
		return err
	},
	"RevokeKey": func(s *scene, c changes.Change) error {
		_, err := s.RevokeKey(s.ctx, s.key.ID, now(), c)
		return err
	},
	"ChangeRevision": func(s *scene, c changes.Change) error {
		return s.ChangeRevision(s.ctx, func(current revision.Revision) (*revision.Revision, changes.Change, error) {
			r := newRevision(current, "mutated")
			return &r, c, nil
		})
	},
}

// recorded is an audit entry with everything in it.
func recorded() changes.Change {
	return changes.Change{
		Audit: audit.Entry{
			Action: "test.recorded", ActorKind: "key", ActorID: "actor", ActorKeyID: "actor's key", TargetKind: "thing",
			TargetID: "target", Result: audit.Failure, Client: "203.0.113.7", RequestID: "request",
			Detail: map[string]string{"b": `"quoted" 名`, "a": ""},
		},
		Event: changes.Event{Kind: changes.UserChanged, Subject: "subject"},
	}
}

func TestEveryMutationIsRecordedOnce(t *testing.T) {
	for name, mutate := range mutations {
		t.Run(name, func(t *testing.T) {
			s := newScene(t)
			seq, epoch := s.number(`SELECT seq FROM ledger`), s.number(`SELECT epoch FROM ledger`)
			c := recorded()
			s.must(mutate(s, c))
			records, err := s.ListAudit(s.ctx, audit.Filter{Limit: 100})
			s.must(err)
			if int64(len(records)) != seq+1 {
				t.Errorf("%d new records", int64(len(records))-seq)
			}
			if diff := cmp.Diff(c.Audit, records[0].Entry); diff != "" {
				t.Error(diff)
			}
			events, gap, err := s.ChangesSince(s.ctx, epoch, 10)
			s.must(err)
			c.Event.Epoch = epoch + 1
			want := []changes.Event{c.Event}
			if name == "RecordAudit" {
				want = nil
			}
			if head := s.number(`SELECT epoch FROM ledger`); head != epoch+int64(len(want)) {
				t.Errorf("epoch %d after %d", head, epoch)
			}
			if diff := cmp.Diff(want, events, cmpopts.IgnoreFields(changes.Event{}, "Age")); diff != "" || gap {
				t.Errorf("gap %v, %s", gap, diff)
			}
			s.verify()
		})
	}
}

func TestFailingMutationLeavesNothing(t *testing.T) {
	refusals := map[string]string{
		"the audit record is refused": `ALTER TABLE audit_log ADD CONSTRAINT refused CHECK (action <> 'test.recorded')`,
		"the event is refused":        `ALTER TABLE change_log ADD CONSTRAINT refused CHECK (subject <> 'subject')`,
		"the commit is refused": `
			CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'refused'; END $$;
			CREATE CONSTRAINT TRIGGER refused AFTER INSERT ON audit_log DEFERRABLE INITIALLY DEFERRED
			FOR EACH ROW WHEN (NEW.action = 'test.recorded') EXECUTE FUNCTION refuse()`,
	}
	for refusal, sql := range refusals {
		t.Run(refusal, func(t *testing.T) {
			s := newScene(t)
			s.exec(sql)
			for name, mutate := range mutations {
				if name == "RecordAudit" && refusal == "the event is refused" {
					continue // it has none
				}
				before := s.contents()
				if err := mutate(s, recorded()); err == nil || errors.Is(err, ErrUnavailable) {
					t.Errorf("%s: error %v", name, err)
				}
				if diff := cmp.Diff(before, s.contents()); diff != "" {
					t.Errorf("%s: %s", name, diff)
				}
			}
			s.verify()
		})
	}
}

func TestRefusedMutationIsNotRecorded(t *testing.T) {
	s := newScene(t)
	none := newID()
	taken := newUser(access.RoleUser)
	taken.Email = s.user.Email
	before := s.contents()
	for name, refused := range map[string]func() error{
		"InsertUser":  func() error { return s.InsertUser(s.ctx, taken, "hash", recorded()) },
		"DeleteUser":  func() error { return s.DeleteUser(s.ctx, none, recorded()) },
		"SetPassword": func() error { return s.SetPassword(s.ctx, none, "new", "", now(), recorded()) },
		"EndSession":  func() error { return s.EndSession(s.ctx, s.user.ID, none, now(), recorded()) },
		"UpdateUser": func() error {
			_, err := s.UpdateUser(s.ctx, none, account.Patch{}, now(), recorded())
			return err
		},
		"InsertKey": func() error {
			k, secret := newKey(s.user)
			_, err := s.InsertKey(s.ctx, k, secret, 0, apikey.Idempotent{}, recorded())
			return err
		},
		"RevokeKey": func() error {
			_, err := s.RevokeKey(s.ctx, none, now(), recorded())
			return err
		},
	} {
		if refused() == nil {
			t.Errorf("%s is not refused", name)
		}
	}
	if diff := cmp.Diff(before, s.contents()); diff != "" {
		t.Error(diff)
	}
}

func TestNothingChangesWithoutTheAuditKey(t *testing.T) {
	s := openStore(t, pgtest.New(t))
	if err := s.InsertUser(t.Context(), newUser(access.RoleUser), "hash", noted("test", "")); err == nil {
		t.Error("a change was recorded under no key")
	}
}

func (w *world) verify() audit.Verification {
	w.t.Helper()
	v, err := w.chain.Verify(w.t.Context(), w.Store)
	w.must(err)
	return v
}

// storm makes n changes of many kinds at the same time.
func (w *world) storm(n int) {
	w.t.Helper()
	u := w.user(access.RoleUser)
	const writers = 8
	for i, err := range together(times(writers, func(int) error {
		for range n / writers {
			k, secret := newKey(u)
			if _, err := w.InsertKey(w.t.Context(), k, secret, noLimit, apikey.Idempotent{}, noted("test.key", k.PublicID)); err != nil {
				return err
			}
			if _, err := w.RevokeKey(w.t.Context(), k.ID, now(), noted("test.revoke", k.PublicID)); err != nil {
				return err
			}
			if err := w.RecordAudit(w.t.Context(), noted("test.note", k.PublicID).Audit.With("k", k.ID)); err != nil {
				return err
			}
		}
		return nil
	})...) {
		if err != nil {
			w.t.Fatalf("writer %d: %v", i, err)
		}
	}
}

func TestChainHoldsAfterAStorm(t *testing.T) {
	w := newWorld(t)
	w.storm(400)
	v := w.verify()
	if n := w.number(`SELECT count(*) FROM audit_log`); v.Records != n || n != 1+3*400 {
		t.Errorf("%d records verified of %d", v.Records, n)
	}
	// More records than a scan holds at a time, verified by a store that did not write them.
	again := worldAt(t, w.url, w.ring)
	if v2 := again.verify(); v2 != v {
		t.Errorf("%+v and %+v", v, v2)
	}
}

func TestChainVerifiesWhileItGrows(t *testing.T) {
	w := newWorld(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.storm(160)
	}()
	for running := true; running; {
		select {
		case <-done:
			running = false
		default:
		}
		w.verify()
	}
}

func TestAuditLogCannotBeChanged(t *testing.T) {
	w := newWorld(t)
	w.storm(16)
	for _, sql := range []string{
		`UPDATE audit_log SET action = action`, `UPDATE audit_log SET action = 'x' WHERE seq = 3`,
		`DELETE FROM audit_log WHERE seq = 3`, `DELETE FROM audit_log WHERE false`,
		`TRUNCATE audit_log`, `TRUNCATE audit_log, users CASCADE`,
		`INSERT INTO audit_log SELECT * FROM audit_log ON CONFLICT (seq) DO UPDATE SET action = 'x'`,
	} {
		if _, err := w.pool.Exec(t.Context(), sql); err == nil || !strings.Contains(err.Error(), "append-only") {
			t.Errorf("%s: %v", sql, err)
		}
	}
	w.verify()
}

func TestTamperingIsDetected(t *testing.T) {
	w := newWorld(t)
	w.storm(16)
	w.exec(`CREATE TABLE untampered AS SELECT * FROM audit_log`)
	w.exec(`ALTER TABLE audit_log DISABLE TRIGGER ALL`) // as the owner of the table can
	const victim = 5
	for name, sql := range map[string]string{
		"time":       `UPDATE audit_log SET at = at + interval '1 microsecond' WHERE seq = 5`,
		"action":     `UPDATE audit_log SET action = 'harmless' WHERE seq = 5`,
		"actor kind": `UPDATE audit_log SET actor_kind = 'user' WHERE seq = 5`,
		"actor":      `UPDATE audit_log SET actor_id = 'somebody else' WHERE seq = 5`,
		"actor key":  `UPDATE audit_log SET actor_key_id = 'x' WHERE seq = 5`,
		"kind":       `UPDATE audit_log SET target_kind = 'x' WHERE seq = 5`,
		"target":     `UPDATE audit_log SET target_id = 'x' WHERE seq = 5`,
		"result":     `UPDATE audit_log SET result = 'failure' WHERE seq = 5`,
		"client":     `UPDATE audit_log SET client = 'x' WHERE seq = 5`,
		"request":    `UPDATE audit_log SET request_id = 'x' WHERE seq = 5`,
		"detail":     `UPDATE audit_log SET detail = '{"a":"b"}' WHERE seq = 5`,
		"hash":       `UPDATE audit_log SET hash = decode(repeat('00', 32), 'hex') WHERE seq = 5`,
		"previous":   `UPDATE audit_log SET prev = decode(repeat('00', 32), 'hex') WHERE seq = 5`,
		"deleted":    `DELETE FROM audit_log WHERE seq = 5`,
		"renumbered": `DELETE FROM audit_log WHERE seq = 5; UPDATE audit_log SET seq = 1 - seq WHERE seq > 5; UPDATE audit_log SET seq = -seq WHERE seq < 0`,
		"swapped":    `UPDATE audit_log SET seq = -seq WHERE seq IN (5, 6); UPDATE audit_log SET seq = 11 + seq WHERE seq < 0`,
		"copied":     `UPDATE audit_log SET seq = seq + 100 WHERE seq > 5; INSERT INTO audit_log SELECT 6, at, action, actor_kind, actor_id, actor_key_id, target_kind, target_id, result, client, request_id, detail, prev, hash FROM audit_log WHERE seq = 5`,
	} {
		t.Run(name, func(t *testing.T) {
			w.exec(`TRUNCATE audit_log`)
			w.exec(`INSERT INTO audit_log SELECT * FROM untampered`)
			w.verify()
			for statement := range strings.SplitSeq(sql, ";") {
				if w.exec(statement) == 0 {
					t.Fatalf("%s changed nothing", statement)
				}
			}
			_, err := w.chain.Verify(t.Context(), w.Store)
			var broken *audit.BrokenError
			if !errors.As(err, &broken) || broken.Seq < victim || broken.Seq > victim+1 {
				t.Errorf("error %v", err)
			}
		})
	}
}

func TestMissingEndIsDetected(t *testing.T) {
	w := newWorld(t)
	w.storm(16)
	w.exec(`ALTER TABLE audit_log DISABLE TRIGGER ALL`)
	w.exec(`DELETE FROM audit_log WHERE seq > 10`)
	_, err := w.chain.Verify(t.Context(), w.Store)
	var broken *audit.BrokenError
	if !errors.As(err, &broken) || broken.Seq != 11 {
		t.Errorf("error %v", err)
	}
}

func TestForeignChainDoesNotVerify(t *testing.T) {
	w := newWorld(t)
	w.storm(16)
	var broken *audit.BrokenError
	if _, err := audit.NewChain(make([]byte, 32)).Verify(t.Context(), w.Store); !errors.As(err, &broken) || broken.Seq != 1 {
		t.Errorf("error %v", err)
	}
}

func TestAnotherMasterKeyIsRefusedWithAdvice(t *testing.T) {
	w := newWorld(t)
	w.storm(16)
	before := w.contents()
	_, err := openStore(t, w.url).LoadChain(t.Context(), newRing(t))
	if !errors.Is(err, seal.ErrUnknownKey) {
		t.Fatalf("error %v", err)
	}
	for _, advice := range []string{"KEYWARDEN_MASTER_KEY", "KEYWARDEN_SECURITY_MASTER_KEYS_RETIRED"} {
		if !strings.Contains(err.Error(), advice) {
			t.Errorf("%v does not say %s", err, advice)
		}
	}
	if diff := cmp.Diff(before, w.contents()); diff != "" {
		t.Error(diff)
	}
}

func TestRetiredMasterKeyIsReplaced(t *testing.T) {
	url := pgtest.New(t)
	old, next := seal.NewMasterKey(), seal.NewMasterKey()
	ring := func(current seal.Secret, retired ...seal.Secret) *seal.Keyring {
		r, err := seal.ParseKeyring(current, retired...)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	w := worldAt(t, url, ring(old))
	w.storm(16)
	worldAt(t, url, ring(next, old)).verify()
	worldAt(t, url, ring(next)).verify() // sealed anew under the next one
	if _, err := openStore(t, url).LoadChain(t.Context(), ring(old)); !errors.Is(err, seal.ErrUnknownKey) {
		t.Errorf("the old one alone: %v", err)
	}
}

func TestTamperedChainKeyIsRefused(t *testing.T) {
	w := newWorld(t)
	w.exec(`UPDATE sealed_secrets SET sealed = set_byte(sealed, length(sealed) - 1, get_byte(sealed, length(sealed) - 1) # 1)`)
	if _, err := openStore(t, w.url).LoadChain(t.Context(), w.ring); !errors.Is(err, seal.ErrTampered) {
		t.Errorf("error %v", err)
	}
}

func TestReplicasAgreeOnTheChainKey(t *testing.T) {
	url, ring := pgtest.New(t), newRing(t)
	var chains [8]audit.Chain
	stores := make([]*Store, len(chains))
	for i := range stores {
		stores[i] = openStore(t, url)
	}
	if errs := together(times(len(chains), func(i int) (err error) {
		chains[i], err = stores[i].LoadChain(t.Context(), ring)
		return err
	})...); count(errs, nil) != len(errs) {
		t.Fatal(errs)
	}
	r := audit.Record{Entry: recorded().Audit}
	for _, c := range chains {
		if diff := cmp.Diff(chains[0].Hash(r), c.Hash(r)); diff != "" {
			t.Error(diff)
		}
	}
}

func TestAuditListSelects(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	for i := range 6 {
		e := audit.New(ctx, audit.Action(fmt.Sprint("action", i%2)), "thing", fmt.Sprint("target", i%3)).By(fmt.Sprint("actor", i))
		w.must(w.RecordAudit(ctx, e))
	}
	for _, c := range []struct {
		filter audit.Filter
		want   []int64
	}{
		{audit.Filter{}, []int64{6, 5, 4, 3, 2, 1}},
		{audit.Filter{Action: "action0"}, []int64{5, 3, 1}},
		{audit.Filter{TargetID: "target0"}, []int64{4, 1}},
		{audit.Filter{ActorID: "actor3"}, []int64{4}},
		{audit.Filter{Action: "action0", TargetID: "target0"}, []int64{1}},
		{audit.Filter{Action: "action0", Before: 5}, []int64{3, 1}},
		{audit.Filter{Action: "action_"}, nil},
	} {
		c.filter.Limit = 10
		found, err := w.ListAudit(ctx, c.filter)
		w.must(err)
		var seqs []int64
		for _, r := range found {
			seqs = append(seqs, r.Seq)
		}
		if diff := cmp.Diff(c.want, seqs); diff != "" {
			t.Errorf("%+v: %s", c.filter, diff)
		}
	}
}

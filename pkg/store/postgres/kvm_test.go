package postgres

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keywarden/keywarden/pkg/changes"
	"github.com/keywarden/keywarden/pkg/kvm"
	"github.com/keywarden/keywarden/pkg/seal"
)

// secrets are those of the database, under a ring.
func (w *world) secrets(ring *seal.Keyring) *kvm.Service {
	return kvm.NewService(kvm.Options{Store: w.Store, Ring: ring, Notify: func(changes.Event) {}, Logger: slog.New(slog.DiscardHandler)})
}

func (w *world) secretReader(ring *seal.Keyring) *kvm.Reader {
	w.t.Helper()
	r, err := kvm.NewReader(kvm.ReaderOptions{
		Source: w.Store, Ring: ring, Environment: "default", Entries: 100, Timeout: patience, MaxStale: time.Hour, Now: time.Now,
	})
	w.must(err)
	return r
}

func (w *world) putSecret(s *kvm.Service, environment, name, value string) kvm.Entry {
	w.t.Helper()
	e, err := s.Put(w.t.Context(), environment, name, seal.NewSecret(value))
	w.must(err)
	return e
}

func TestSecretsAreNowhereInPlain(t *testing.T) {
	w := newWorld(t)
	s := w.secrets(w.ring)
	const canary = "canary-of-a-secret-7Gf3kQ"
	w.putSecret(s, "default", "db", canary)
	w.putSecret(s, "default", "db", canary+"-next")
	w.putSecret(s, "staging", "db", canary)
	w.must(s.Delete(t.Context(), "staging", "db"))
	for _, table := range tables {
		for _, spelling := range []string{canary, fmt.Sprintf("%x", canary), "Y2FuYXJ5LW9mLWEtc2VjcmV0"} {
			if n := w.number(fmt.Sprintf(`SELECT count(*) FROM %s r WHERE position($1 IN r::text) > 0`, table), spelling); n > 0 {
				t.Errorf("%d rows of %s hold the value", n, table)
			}
		}
	}
	if n := w.number(`SELECT count(*) FROM audit_log WHERE action IN ('secret.put', 'secret.deleted') AND target_kind = 'secret'`); n != 4 {
		t.Errorf("%d audit entries, want 4", n)
	}
	if n := w.number(`SELECT count(*) FROM change_log WHERE kind = 'secret' AND subject IN ('default/db', 'staging/db')`); n != 4 {
		t.Errorf("%d events, want 4", n)
	}
	if got, err := w.secretReader(w.ring).Secret(t.Context(), "db"); err != nil || got.Reveal() != canary+"-next" {
		t.Errorf("the value is %q, %v", got.Reveal(), err)
	}
}

func TestSwappedSecretsDoNotOpen(t *testing.T) {
	w := newWorld(t)
	s := w.secrets(w.ring)
	w.putSecret(s, "default", "mine", "1")
	w.putSecret(s, "default", "theirs", "2")
	w.putSecret(s, "staging", "mine", "3")
	for what, sql := range map[string]string{
		"another secret":      `UPDATE secrets SET sealed = (SELECT sealed FROM secrets WHERE name = 'theirs') WHERE name = 'mine' AND environment = 'default'`,
		"another environment": `UPDATE secrets SET sealed = (SELECT sealed FROM secrets WHERE environment = 'staging') WHERE name = 'mine' AND environment = 'default'`,
		"another version":     `UPDATE secrets SET version = 2 WHERE name = 'mine' AND environment = 'default'`,
		"another table":       `UPDATE secrets SET sealed = (SELECT sealed FROM sealed_secrets LIMIT 1) WHERE name = 'mine' AND environment = 'default'`,
	} {
		e := w.putSecret(s, "default", "mine", "1")
		if e.Version == 2 { // the next would be that of "another version"
			w.putSecret(s, "default", "mine", "1")
		}
		if w.exec(sql) != 1 {
			t.Fatal("nothing was changed")
		}
		if got, err := w.secretReader(w.ring).Secret(t.Context(), "mine"); !errors.Is(err, seal.ErrTampered) {
			t.Errorf("%s: %q, %v", what, got.Reveal(), err)
		}
	}
}

func TestSecretsAreSealedAnewUnderANewMasterKey(t *testing.T) {
	w := newWorld(t)
	old, current := seal.NewMasterKey(), seal.NewMasterKey()
	ringOf := func(current seal.Secret, retired ...seal.Secret) *seal.Keyring {
		t.Helper()
		ring, err := seal.ParseKeyring(current, retired...)
		w.must(err)
		return ring
	}
	before := w.secrets(ringOf(old))
	const count = 120 // more than a batch
	for i := range count {
		w.putSecret(before, "default", fmt.Sprintf("s%03d", i), fmt.Sprint("value ", i))
	}
	both := ringOf(current, old)
	if got, err := w.secretReader(both).Secret(t.Context(), "s000"); err != nil || got.Reveal() != "value 0" {
		t.Errorf("before: %q, %v", got.Reveal(), err)
	}
	errs := together(times(4, func(int) error {
		_, err := w.secrets(both).Reseal(t.Context())
		return err
	})...)
	w.must(errors.Join(errs...))
	if n := w.number(`SELECT count(*) FROM secrets WHERE key_id = $1 AND version = 1`, both.ID()); n != count {
		t.Errorf("%d are under the current key, want %d", n, count)
	}
	r := w.secretReader(ringOf(current))
	for i := range count {
		if got, err := r.Secret(t.Context(), fmt.Sprintf("s%03d", i)); err != nil || got.Reveal() != fmt.Sprint("value ", i) {
			t.Errorf("%d: %q, %v", i, got.Reveal(), err)
		}
	}
}

func TestSealingAnewDoesNotUndoAChange(t *testing.T) {
	w := newWorld(t)
	s := w.secrets(w.ring)
	w.putSecret(s, "default", "a", "1")
	before, err := w.Secret(t.Context(), "default", "a")
	w.must(err)
	w.must(s.Delete(t.Context(), "default", "a"))
	w.putSecret(s, "default", "a", "2") // version 1 again
	if ok, err := w.ResealSecret(t.Context(), before, kvm.Value{Sealed: []byte("old"), KeyID: "k"}); ok || err != nil {
		t.Fatalf("%v, %v", ok, err)
	}
	if got, err := w.secretReader(w.ring).Secret(t.Context(), "a"); err != nil || got.Reveal() != "2" {
		t.Errorf("%q, %v", got.Reveal(), err)
	}
}

func TestSecretsAreListedInPages(t *testing.T) {
	w := newWorld(t)
	s := w.secrets(w.ring)
	all := []string{"default/B", "default/a", "default/a-b", "default/a.b", "default/a_b", "staging/a", "x/a"}
	for i := range all {
		environment, name, _ := strings.Cut(all[len(all)-1-i], "/")
		w.putSecret(s, environment, name, "1")
	}
	for _, c := range []struct {
		environment string
		want        []string
	}{{"", all}, {"default", all[:5]}, {"staging", all[5:6]}, {"none", nil}} {
		var got []string
		f := kvm.Filter{Environment: c.environment, Limit: 2}
		for {
			page, err := s.List(t.Context(), f)
			w.must(err)
			for _, e := range page {
				got = append(got, e.Environment+"/"+e.Name)
				f.AfterEnvironment, f.AfterName = e.Environment, e.Name
				if e.Version != 1 || e.KeyID != w.ring.ID() || e.CreatedAt.IsZero() || e.UpdatedAt.IsZero() {
					t.Errorf("%+v", e)
				}
			}
			if len(page) < f.Limit {
				break
			}
		}
		// Bytes decide on the order: "-" is before "." and "_", and capitals are first.
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("of %q: %s", c.environment, diff)
		}
	}
}

func TestVersionsCountEveryWriter(t *testing.T) {
	w := newWorld(t)
	s := w.secrets(w.ring)
	const writers = 16
	versions := make([]int64, writers)
	w.must(errors.Join(together(times(writers, func(i int) error {
		e, err := s.Put(t.Context(), "default", "a", seal.NewSecret(fmt.Sprint("value ", i)))
		versions[i] = e.Version
		return err
	})...)...))
	seen := map[int64]bool{}
	last := -1
	for i, v := range versions {
		if seen[v] || v < 1 || v > writers {
			t.Errorf("version %d of %v", v, versions)
		}
		if seen[v] = true; v == writers {
			last = i
		}
	}
	if got, err := w.secretReader(w.ring).Secret(t.Context(), "a"); err != nil || got.Reveal() != fmt.Sprint("value ", last) {
		t.Errorf("%q, %v, want that of %d", got.Reveal(), err, last)
	}
}

func TestSecretsAreBounded(t *testing.T) {
	w := newWorld(t)
	s := w.secrets(w.ring)
	w.exec(`INSERT INTO secrets (environment, name, version, key_id, sealed) SELECT 'full', 'n' || i, 1, 'k', '' FROM generate_series(1, $1) i`, kvm.MaxSecrets-1)
	w.putSecret(s, "default", "last", "1")
	contents := w.contents()
	if _, err := s.Put(t.Context(), "default", "more", seal.NewSecret("1")); !errors.Is(err, kvm.ErrFull) {
		t.Errorf("one too many: %v", err)
	}
	if err := s.Delete(t.Context(), "default", "none"); !errors.Is(err, kvm.ErrNotFound) {
		t.Errorf("deleting none: %v", err)
	}
	if diff := cmp.Diff(contents, w.contents()); diff != "" {
		t.Errorf("a refusal has changed something: %s", diff)
	}
	w.putSecret(s, "default", "last", "2")
	if _, err := w.Secret(t.Context(), "a\x00", "b"); !errors.Is(err, kvm.ErrNotFound) {
		t.Errorf("a name that cannot be stored: %v", err)
	}
	if row, err := w.Secret(t.Context(), "default", "last"); err != nil || row.Version != 2 {
		t.Errorf("%+v, %v", row.Entry, err)
	}
}

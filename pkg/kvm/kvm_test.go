package kvm_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keywarden/keywarden/pkg/audit"
	"github.com/keywarden/keywarden/pkg/changes"
	"github.com/keywarden/keywarden/pkg/kvm"
	"github.com/keywarden/keywarden/pkg/kvm/kvmname"
	"github.com/keywarden/keywarden/pkg/problem"
	"github.com/keywarden/keywarden/pkg/seal"
)

// canary is a value that must be nowhere but with those who ask for it.
const canary = "canary-7Gf3kQ-value"

// memory is a store in memory.
type memory struct {
	mu     sync.Mutex
	rows   map[string]kvm.Row
	trail  []audit.Entry
	events []changes.Event
	down   error
	asked  int
	before func() // is called in Secret after the row was read
}

func newMemory() *memory { return &memory{rows: map[string]kvm.Row{}} }

func (m *memory) Secret(_ context.Context, environment, name string) (kvm.Row, error) {
	m.mu.Lock()
	m.asked++
	row, ok := m.rows[environment+"/"+name]
	down, before := m.down, m.before
	m.mu.Unlock()
	if before != nil {
		before()
	}
	switch {
	case down != nil:
		return kvm.Row{}, down
	case !ok:
		return kvm.Row{}, kvm.ErrNotFound
	}
	return row, nil
}

func (m *memory) PutSecret(_ context.Context, environment, name string, prepare func(int64) (kvm.Value, changes.Change)) (kvm.Entry, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	id := environment + "/" + name
	row := m.rows[id]
	row.Environment, row.Name, row.Version = environment, name, row.Version+1
	v, c := prepare(row.Version)
	row.KeyID, row.Sealed = v.KeyID, v.Sealed
	m.rows[id] = row
	m.note(c)
	return row.Entry, nil
}

func (m *memory) DeleteSecret(_ context.Context, environment, name string, c changes.Change) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	id := environment + "/" + name
	if _, ok := m.rows[id]; !ok {
		return kvm.ErrNotFound
	}
	delete(m.rows, id)
	m.note(c)
	return nil
}

func (m *memory) note(c changes.Change) {
	m.trail, m.events = append(m.trail, c.Audit), append(m.events, c.Event)
}

func (m *memory) list(f kvm.Filter, match func(kvm.Row) bool) (found []kvm.Row) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, id := range slices.Sorted(maps.Keys(m.rows)) {
		if row := m.rows[id]; len(found) < f.Limit && id > f.AfterEnvironment+"/"+f.AfterName && match(row) {
			found = append(found, row)
		}
	}
	return found
}

func (m *memory) ListSecrets(_ context.Context, f kvm.Filter) (all []kvm.Entry, err error) {
	for _, row := range m.list(f, func(kvm.Row) bool { return true }) {
		all = append(all, row.Entry)
	}
	return all, nil
}

func (m *memory) SecretsNotUnder(_ context.Context, id string, f kvm.Filter) ([]kvm.Row, error) {
	return m.list(f, func(r kvm.Row) bool { return r.KeyID != id }), nil
}

func (m *memory) ResealSecret(_ context.Context, before kvm.Row, v kvm.Value) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	id := before.Environment + "/" + before.Name
	row, ok := m.rows[id]
	if !ok || !bytes.Equal(row.Sealed, before.Sealed) {
		return false, nil
	}
	row.Sealed, row.KeyID = v.Sealed, v.KeyID
	m.rows[id] = row
	return true, nil
}

func (m *memory) RecordChange(_ context.Context, c changes.Change) (int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.note(c)
	return 0, nil
}

func newRing(t testing.TB, current seal.Secret, retired ...seal.Secret) *seal.Keyring {
	t.Helper()
	ring, err := seal.ParseKeyring(current, retired...)
	if err != nil {
		t.Fatal(err)
	}
	return ring
}

func newService(m *memory, ring *seal.Keyring, notify func(changes.Event), log *bytes.Buffer) *kvm.Service {
	return kvm.NewService(kvm.Options{Store: m, Ring: ring, Notify: notify, Logger: slog.New(slog.NewTextHandler(log, nil))})
}

func put(t testing.TB, s *kvm.Service, environment, name, value string) kvm.Entry {
	t.Helper()
	e, err := s.Put(t.Context(), environment, name, seal.NewSecret(value))
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestChangesAreAuditedAndToldWithoutTheValue(t *testing.T) {
	m, log := newMemory(), &bytes.Buffer{}
	var told []changes.Event
	s := newService(m, newRing(t, seal.NewMasterKey()), func(e changes.Event) { told = append(told, e) }, log)
	if e := put(t, s, "default", "db", canary); e.Version != 1 {
		t.Errorf("version %d", e.Version)
	}
	if e := put(t, s, "default", "db", canary+"2"); e.Version != 2 {
		t.Errorf("version %d", e.Version)
	}
	if err := s.Delete(t.Context(), "default", "db"); err != nil {
		t.Fatal(err)
	}
	if err := s.Delete(t.Context(), "default", "db"); !errors.Is(err, kvm.ErrNotFound) {
		t.Errorf("deleting twice: %v", err)
	}
	event := changes.Event{Kind: changes.SecretChanged, Subject: "default/db"}
	if diff := cmp.Diff([]changes.Event{event, event, event}, told); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(told, m.events); diff != "" {
		t.Errorf("what is stored is not what is told: %s", diff)
	}
	var actions []audit.Action
	for _, e := range m.trail {
		actions = append(actions, e.Action)
	}
	if diff := cmp.Diff([]audit.Action{audit.SecretPut, audit.SecretPut, audit.SecretDeleted}, actions); diff != "" {
		t.Error(diff)
	}
	for _, where := range []string{fmt.Sprintf("%+v", m.trail), fmt.Sprintf("%+v", told), log.String(), fmt.Sprintf("%+v", m.rows)} {
		if strings.Contains(where, "canary") {
			t.Errorf("the value is in %s", where)
		}
	}
}

func TestBadNamesAndValuesAreRefused(t *testing.T) {
	m := newMemory()
	s := newService(m, newRing(t, seal.NewMasterKey()), func(changes.Event) {}, &bytes.Buffer{})
	for _, c := range []struct{ environment, name, value, field string }{
		{"default", "", canary, "name"},
		{"default", "a/b", canary, "name"},
		{"default", "..", canary, "name"},
		{"default", "-a", canary, "name"},
		{"default", "a b", canary, "name"},
		{"default", "ä", canary, "name"},
		{"default", "a\x00", canary, "name"},
		{"default", strings.Repeat("a", 65), canary, "name"},
		{"", "a", canary, "environment"},
		{"a/b", "a", canary, "environment"},
		{strings.Repeat("a", 33), "a", canary, "environment"},
		{"default", "a", "", "value"},
		{"default", "a", strings.Repeat("canary", kvm.MaxValue/6+1), "value"},
	} {
		_, err := s.Put(t.Context(), c.environment, c.name, seal.NewSecret(c.value))
		var p *problem.Error
		if !errors.As(err, &p) || len(p.Fields) != 1 || p.Fields[0].Field != c.field {
			t.Errorf("%.40q/%.70q: %+v", c.environment, c.name, err)
		} else if strings.Contains(fmt.Sprintf("%+v", p), "canary") {
			t.Errorf("the refusal holds the value: %+v", p)
		}
		if c.field != "value" {
			if err := s.Delete(t.Context(), c.environment, c.name); !errors.Is(err, problem.ErrInvalid) {
				t.Errorf("deleting %q/%q: %v", c.environment, c.name, err)
			}
		}
	}
	put(t, s, "default", strings.Repeat("a", 64), strings.Repeat("v", kvm.MaxValue))
	if len(m.rows) != 1 {
		t.Errorf("%d are stored, want 1", len(m.rows))
	}
	if _, err := s.List(t.Context(), kvm.Filter{Environment: "a b", Limit: 1}); !errors.Is(err, problem.ErrInvalid) {
		t.Errorf("listing: %v", err)
	}
}

func TestResealMovesEverythingToTheCurrentKey(t *testing.T) {
	old, current := seal.NewMasterKey(), seal.NewMasterKey()
	m, log := newMemory(), &bytes.Buffer{}
	before := newService(m, newRing(t, old), func(changes.Event) {}, log)
	const count = 250 // more than two batches
	for i := range count {
		put(t, before, "default", fmt.Sprintf("s%03d", i), fmt.Sprint(canary, i))
	}
	broken := m.rows["default/s007"]
	broken.Sealed = bytes.Clone(broken.Sealed)
	broken.Sealed[len(broken.Sealed)-1] ^= 1
	m.rows["default/s007"] = broken

	after := newService(m, newRing(t, current, old), func(changes.Event) {}, log)
	if n, err := after.Reseal(t.Context()); n != count-1 || err != nil {
		t.Fatalf("%d, %v", n, err)
	}
	if n, err := after.Reseal(t.Context()); n != 0 || err != nil {
		t.Errorf("again: %d, %v", n, err)
	}
	if !strings.Contains(log.String(), "s007") || strings.Contains(log.String(), "canary") {
		t.Errorf("the log is %s", log)
	}
	// The old key is not needed any more.
	r := newReader(t, m, newRing(t, current), newClock())
	for i := range count {
		got, err := r.Secret(t.Context(), fmt.Sprintf("s%03d", i))
		if i == 7 {
			if err == nil {
				t.Error("what was changed opens")
			}
		} else if want := fmt.Sprint(canary, i); err != nil || got.Reveal() != want {
			t.Errorf("%d: %q, %v", i, got.Reveal(), err)
		}
	}
	if m.rows["default/s000"].Version != 1 {
		t.Error("sealing anew has made another version")
	}
}

func TestResealLeavesAloneWhatChangesMeanwhile(t *testing.T) {
	old, current := seal.NewMasterKey(), seal.NewMasterKey()
	m := newMemory()
	s := newService(m, newRing(t, old), func(changes.Event) {}, &bytes.Buffer{})
	put(t, s, "default", "a", "1")
	rows, err := m.SecretsNotUnder(t.Context(), "other", kvm.Filter{Limit: 1})
	if err != nil {
		t.Fatal(err)
	}
	ring := newRing(t, current, old)
	after := newService(m, ring, func(changes.Event) {}, &bytes.Buffer{})
	put(t, after, "default", "a", "2")
	if ok, err := m.ResealSecret(t.Context(), rows[0], kvm.Value{}); ok || err != nil {
		t.Fatal(ok, err)
	}
	got, err := newReader(t, m, ring, newClock()).Secret(t.Context(), "a")
	if err != nil || got.Reveal() != "2" {
		t.Errorf("%q, %v", got.Reveal(), err)
	}
}

func FuzzNames(f *testing.F) {
	for _, s := range []string{"a", "a.b_c-D9", "", ".", "..", "a/b", "a%2Fb", "-a", "a\x00", "ä", strings.Repeat("a", 65)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if kvmname.IsEnvironment(s) && !kvmname.IsName(s) {
			t.Fatalf("%q is an environment and no name", s)
		}
		if !kvmname.IsName(s) {
			return
		}
		if len(s) > kvmname.MaxName || strings.ContainsAny(s, "/\\%?#\"'{} \r\n\x00") || strings.Trim(s, ".") == "" {
			t.Fatalf("%q is a name", s)
		}
	})
}

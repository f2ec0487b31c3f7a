package postgres

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keywarden/keywarden/pkg/changes"
	"github.com/keywarden/keywarden/pkg/revision"
)

// newRevision is a revision that follows current. For the store, a document is
// just text.
func newRevision(current revision.Revision, content string) revision.Revision {
	document := []byte(fmt.Sprintf(`{"content":%q}`, content))
	digest := sha256.Sum256(document)
	return revision.Revision{
		Number: current.Number + 1, Base: current.Number, Digest: hex.EncodeToString(digest[:]), Document: document,
		At: now(), AuthorID: "somebody", Message: "why",
	}
}

func (w *world) revise(content string) (made revision.Revision) {
	w.t.Helper()
	w.must(w.ChangeRevision(w.t.Context(), func(current revision.Revision) (*revision.Revision, changes.Change, error) {
		made = newRevision(current, content)
		return &made, noted("test.revision", made.Digest), nil
	}))
	return made
}

func TestRevisionIsReadAsItWasWritten(t *testing.T) {
	w := newWorld(t)
	if _, err := w.CurrentRevision(t.Context()); !errors.Is(err, revision.ErrNone) {
		t.Errorf("before the first: %v", err)
	}
	if _, changed, err := w.CurrentRevisionUnless(t.Context(), 0, ""); !errors.Is(err, revision.ErrNone) || changed {
		t.Errorf("before the first: %v, %v", changed, err)
	}
	if list, err := w.ListRevisions(t.Context(), 0, 10); err != nil || len(list) != 0 {
		t.Errorf("before the first: %v, %v", list, err)
	}
	first := w.revise("a <b> \u00fc \u2028 \\u0000 " + strings.Repeat("long ", 100_000))
	second := w.revise("b")

	current, err := w.CurrentRevision(t.Context())
	w.must(err)
	if diff := cmp.Diff(second, current); diff != "" {
		t.Error("current: ", diff)
	}
	old, err := w.Revision(t.Context(), 1)
	w.must(err)
	if diff := cmp.Diff(first, old); diff != "" {
		t.Error("by number: ", diff)
	}
	for _, number := range []int64{-1, 0, 3, 1 << 62} {
		if _, err := w.Revision(t.Context(), number); !errors.Is(err, revision.ErrUnknown) {
			t.Errorf("revision %d: %v", number, err)
		}
	}
	for _, c := range []struct {
		number  int64
		digest  string
		changed bool
	}{{2, second.Digest, false}, {1, first.Digest, true}, {2, first.Digest, true}, {3, second.Digest, true}, {0, "", true}} {
		r, changed, err := w.CurrentRevisionUnless(t.Context(), c.number, c.digest)
		if err != nil || changed != c.changed || changed && r.Number != 2 {
			t.Errorf("unless %d %.8s: %v, %d, %v", c.number, c.digest, changed, r.Number, err)
		}
	}
	first.Document, second.Document = nil, nil
	for before, want := range map[int64][]revision.Revision{0: {second, first}, 3: {second, first}, 2: {first}, 1: {}} {
		list, err := w.ListRevisions(t.Context(), before, 10)
		w.must(err)
		if diff := cmp.Diff(want, list); diff != "" {
			t.Errorf("before %d: %s", before, diff)
		}
	}
	if list, _ := w.ListRevisions(t.Context(), 0, 1); len(list) != 1 || list[0].Number != 2 {
		t.Errorf("the newest one: %v", list)
	}
}

func TestRevisionsAreAppendOnly(t *testing.T) {
	w := newWorld(t)
	w.revise("a")
	w.revise("b")
	before := w.contents()
	digest := `encode(sha256('x'), 'hex')`
	for what, sql := range map[string]string{
		"change":         `UPDATE gateway_revisions SET message = 'another'`,
		"delete":         `DELETE FROM gateway_revisions WHERE number = 1`,
		"delete all":     `DELETE FROM gateway_revisions`,
		"truncate":       `TRUNCATE gateway_revisions`,
		"another digest": `INSERT INTO gateway_revisions VALUES (3, 'x', now(), '', '', 2, 'x')`,
		"a gap":          `INSERT INTO gateway_revisions VALUES (4, ` + digest + `, now(), '', '', 2, 'x')`,
		"the same again": `INSERT INTO gateway_revisions VALUES (2, ` + digest + `, now(), '', '', 1, 'x')`,
		"a second head":  `INSERT INTO gateway_current VALUES (false)`,
	} {
		if _, err := w.pool.Exec(t.Context(), sql); err == nil {
			t.Errorf("%s is let through", what)
		}
	}
	if diff := cmp.Diff(before, w.contents()); diff != "" {
		t.Error(diff)
	}
}

func TestSweepKeepsTheNewestRevisions(t *testing.T) {
	w := newWorld(t)
	const made = revision.Kept + 7
	w.exec(`INSERT INTO gateway_revisions (number, digest, at, base, document)
		SELECT n, encode(sha256(convert_to(n::text, 'UTF8')), 'hex'), now(), n - 1, n::text FROM generate_series(1, $1::bigint) n`, made)
	w.exec(`UPDATE gateway_current SET number = r.number, digest = r.digest FROM gateway_revisions r WHERE r.number = $1`, made)
	for range 2 {
		w.must(w.Sweep(t.Context(), now()))
		if oldest, n := w.number(`SELECT min(number) FROM gateway_revisions`), w.number(`SELECT count(*) FROM gateway_revisions`); oldest != 8 || n != revision.Kept {
			t.Errorf("%d are left, the oldest is %d", n, oldest)
		}
	}
	if r, err := w.CurrentRevision(t.Context()); err != nil || r.Number != made {
		t.Errorf("current is %d, %v", r.Number, err)
	}
	if r := w.revise("next"); r.Number != made+1 {
		t.Errorf("the next is %d", r.Number)
	}
}

func TestServingIsWhatTheReplicaReportedLast(t *testing.T) {
	w := newWorld(t)
	v := revision.Serving{
		Replica: "a", Version: "v1", Number: 3, Digest: "d", AppliedAt: now(), Error: "bad \x00 \xff", FailedAt: now(),
	}
	w.must(w.ReportServing(t.Context(), v)) // not in the registry yet
	if list, err := w.ListServing(t.Context(), time.Minute); err != nil || len(list) != 0 {
		t.Errorf("unknown replicas: %v, %v", list, err)
	}
	w.must(w.Beat(t.Context(), "a", 1))
	w.must(w.Beat(t.Context(), "b", 1))
	w.must(w.ReportServing(t.Context(), v))
	w.must(w.Beat(t.Context(), "a", 2)) // a sign of life takes nothing back
	list, err := w.ListServing(t.Context(), time.Minute)
	w.must(err)
	v.Error = "bad  \uFFFD"
	for i := range list {
		if time.Since(list[i].Seen).Abs() > patience {
			t.Errorf("%s was seen at %s", list[i].Replica, list[i].Seen)
		}
		list[i].Seen = time.Time{}
	}
	if diff := cmp.Diff([]revision.Serving{v, {Replica: "b"}}, list); diff != "" {
		t.Error(diff)
	}
	v.Error, v.FailedAt = "", time.Time{}
	w.must(w.ReportServing(t.Context(), v))
	w.exec(`UPDATE replicas SET seen = now() - interval '1 hour' WHERE id = 'b'`)
	list, err = w.ListServing(t.Context(), time.Minute)
	w.must(err)
	if len(list) != 1 || list[0].Error != "" || !list[0].FailedAt.IsZero() {
		t.Errorf("after it was mended: %+v", list)
	}
	w.must(w.Leave(t.Context(), "a"))
	if list, _ := w.ListServing(t.Context(), time.Minute); len(list) != 0 {
		t.Errorf("after it left: %v", list)
	}
}

func TestChangeBeforeTheChainIsLoadedIsAnOutage(t *testing.T) {
	w := newWorld(t)
	s := openStore(t, w.url)
	_, err := s.Change(t.Context(), noted("test", ""), nil)
	isOutage(t, "change", err)
}

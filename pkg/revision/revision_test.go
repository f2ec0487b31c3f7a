package revision_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/audit"
	"github.com/keywarden/keywarden/pkg/changes"
	"github.com/keywarden/keywarden/pkg/pglocal/pgtest"
	"github.com/keywarden/keywarden/pkg/problem"
	"github.com/keywarden/keywarden/pkg/revision"
	"github.com/keywarden/keywarden/pkg/seal"
	"github.com/keywarden/keywarden/pkg/spec"
	"github.com/keywarden/keywarden/pkg/store/postgres"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, pgtest.IgnoreServer()) }

// bench is a service on a database of its own, with what it announced.
type bench struct {
	*revision.Service
	store *postgres.Store
	chain audit.Chain

	mu     sync.Mutex
	events []changes.Event
}

func newBench(t *testing.T) *bench {
	t.Helper()
	store, err := postgres.Open(t.Context(), postgres.Options{
		URL: seal.NewSecret(pgtest.New(t)), MaxConnections: 16, ConnectTimeout: time.Minute, QueryTimeout: time.Minute,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(store.Close)
	ring, err := seal.ParseKeyring(seal.NewMasterKey())
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{store: store}
	if b.chain, err = store.LoadChain(t.Context(), ring); err != nil {
		t.Fatal(err)
	}
	b.Service = revision.NewService(revision.Options{Store: store, Now: time.Now, Notify: func(e changes.Event) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.events = append(b.events, e)
	}})
	return b
}

// document is valid, and differs by name.
func document(t *testing.T, name string) spec.Document {
	t.Helper()
	doc, err := spec.Parse("", []byte(fmt.Sprintf(`version: 1
services: [{name: %q, targets: [{url: "http://127.0.0.1:1"}]}]
routes: [{name: r, service: %[1]q, match: {path: {prefix: /}}}]
`, name)))
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

// as is the context of a call by a user.
func as(t *testing.T, user string) context.Context {
	t.Helper()
	return access.WithPrincipal(t.Context(), &access.Principal{Kind: access.KindUser, UserID: user})
}

func (b *bench) put(t *testing.T, name string, p revision.Put) revision.Revision {
	t.Helper()
	r, err := b.Put(as(t, "ada"), document(t, name), p)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestPutMakesTheNextRevision(t *testing.T) {
	b := newBench(t)
	if _, err := b.Current(t.Context()); !errors.Is(err, revision.ErrNone) {
		t.Errorf("before the first: %v", err)
	}
	first := b.put(t, "a", revision.Put{Message: "the first"})
	second := b.put(t, "b", revision.Put{IfMatch: first.Digest, Message: "the second"})
	if second.Number != 2 || second.Base != 1 || second.AuthorID != "ada" || second.Message != "the second" || second.At.IsZero() {
		t.Errorf("%+v", second)
	}
	current, err := b.Current(t.Context())
	if diff := cmp.Diff(second, current); diff != "" || err != nil {
		t.Error(err, diff)
	}
	if sum := sha256.Sum256(current.Document); hex.EncodeToString(sum[:]) != current.Digest {
		t.Error("the digest is not that of the document")
	}
	doc, err := current.Parse()
	if !reflect.DeepEqual(document(t, "b"), doc) || err != nil {
		t.Errorf("%+v, %v", doc, err)
	}
	if diff := cmp.Diff([]changes.Event{{Kind: changes.GatewayChanged, Subject: "1"}, {Kind: changes.GatewayChanged, Subject: "2"}}, b.events); diff != "" {
		t.Error("announced: ", diff)
	}
	records, err := b.store.ListAudit(t.Context(), audit.Filter{Action: audit.ConfigApplied, Limit: 10})
	if err != nil || len(records) != 2 {
		t.Fatal(len(records), err)
	}
	want := map[string]string{"digest": second.Digest, "number": "2", "message": "the second"}
	if r := records[0]; r.ActorID != "ada" || r.TargetKind != "config" || r.TargetID != "2" || cmp.Diff(want, r.Detail) != "" {
		t.Errorf("recorded: %+v", r.Entry)
	}
	if _, err := b.chain.Verify(t.Context(), b.store); err != nil {
		t.Error(err)
	}
}

func TestPutHoldsItsConditions(t *testing.T) {
	b := newBench(t)
	for _, c := range []struct {
		name string
		put  revision.Put
		want error
	}{
		{"a", revision.Put{IfMatch: "*"}, revision.ErrChanged}, // there is none
		{"a", revision.Put{IfMatch: strings.Repeat("0", 64)}, revision.ErrChanged},
		{"a", revision.Put{Create: true}, nil},
		{"b", revision.Put{Create: true}, revision.ErrExists},
		{"a", revision.Put{Create: true}, revision.ErrExists}, // even the same content
		{"b", revision.Put{IfMatch: strings.Repeat("0", 64)}, revision.ErrChanged},
		{"b", revision.Put{IfMatch: "*"}, nil},
		{"c", revision.Put{IfMatch: digestOf(t, "a")}, revision.ErrChanged},
		{"c", revision.Put{IfMatch: digestOf(t, "b")}, nil},
		{"d", revision.Put{}, nil},
	} {
		before, _ := b.List(t.Context(), 0, 100)
		_, err := b.Put(t.Context(), document(t, c.name), c.put)
		if !errors.Is(err, c.want) {
			t.Errorf("%s %+v: %v, want %v", c.name, c.put, err, c.want)
		}
		after, _ := b.List(t.Context(), 0, 100)
		if made := len(after) > len(before); made != (c.want == nil) {
			t.Errorf("%s %+v: %d revisions after %d", c.name, c.put, len(after), len(before))
		}
	}
	if status := problem.From(revision.ErrChanged).Kind.Status(); status != 412 {
		t.Errorf("a broken condition is status %d", status)
	}
}

func digestOf(t *testing.T, name string) string {
	t.Helper()
	digest, err := document(t, name).Digest()
	if err != nil {
		t.Fatal(err)
	}
	return digest.String()
}

func TestPutOfTheCurrentContentChangesNothing(t *testing.T) {
	b := newBench(t)
	first := b.put(t, "a", revision.Put{Message: "first"})
	again := b.put(t, "a", revision.Put{Message: "again", IfMatch: first.Digest})
	if diff := cmp.Diff(first, again); diff != "" {
		t.Error(diff)
	}
	if list, err := b.List(t.Context(), 0, 10); err != nil || len(list) != 1 || len(b.events) != 1 {
		t.Errorf("%d revisions, %d events, %v", len(list), len(b.events), err)
	}
}

func TestOfPutsOnTheSameBaseOneWins(t *testing.T) {
	b := newBench(t)
	base := b.put(t, "base", revision.Put{})
	for round := range 5 {
		const writers = 8
		errs := make([]error, writers)
		docs := make([]spec.Document, writers)
		for i := range docs {
			docs[i] = document(t, fmt.Sprintf("r%d-w%d", round, i))
		}
		var group sync.WaitGroup
		for i := range writers {
			group.Go(func() { _, errs[i] = b.Put(t.Context(), docs[i], revision.Put{IfMatch: base.Digest}) })
		}
		group.Wait()
		won := -1
		for i, err := range errs {
			switch {
			case err == nil && won < 0:
				won = i
			case err == nil:
				t.Fatalf("round %d: both %d and %d won", round, won, i)
			case !errors.Is(err, revision.ErrChanged):
				t.Fatal(err)
			}
		}
		current, err := b.Current(t.Context())
		if err != nil || won < 0 || current.Number != base.Number+1 || current.Digest != digestOf(t, fmt.Sprintf("r%d-w%d", round, won)) {
			t.Fatalf("round %d: %d won, current is %d, %v", round, won, current.Number, err)
		}
		base = current
	}
}

func TestUnconditionalPutsAllHappenInSomeOrder(t *testing.T) {
	b := newBench(t)
	const writers = 8
	var group sync.WaitGroup
	for i := range writers {
		doc := document(t, fmt.Sprint("w", i))
		group.Go(func() {
			if _, err := b.Put(t.Context(), doc, revision.Put{}); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	list, err := b.List(t.Context(), 0, 100)
	if err != nil || len(list) != writers {
		t.Fatal(len(list), err)
	}
	for i, r := range list {
		if want := int64(writers - i); r.Number != want || r.Base != want-1 || r.Document != nil {
			t.Errorf("%+v in place %d", r, i)
		}
	}
}

func TestRollbackIsANewRevisionWithTheOldContent(t *testing.T) {
	b := newBench(t)
	first := b.put(t, "a", revision.Put{})
	second := b.put(t, "b", revision.Put{})
	if _, err := b.Rollback(t.Context(), 1, revision.Put{IfMatch: first.Digest}); !errors.Is(err, revision.ErrChanged) {
		t.Errorf("with an old base: %v", err)
	}
	if _, err := b.Rollback(t.Context(), 9, revision.Put{}); !errors.Is(err, revision.ErrUnknown) {
		t.Errorf("to one that never was: %v", err)
	}
	third, err := b.Rollback(as(t, "bob"), 1, revision.Put{IfMatch: second.Digest, Message: "b was bad"})
	if err != nil || third.Number != 3 || third.Base != 2 || third.Digest != first.Digest || third.AuthorID != "bob" || third.Message != "b was bad" {
		t.Fatalf("%+v, %v", third, err)
	}
	got, err := b.Get(t.Context(), 3)
	if err != nil || string(got.Document) != string(first.Document) {
		t.Errorf("%s, %v", got.Document, err)
	}
	records, err := b.store.ListAudit(t.Context(), audit.Filter{Action: audit.ConfigRolledBack, Limit: 10})
	if err != nil || len(records) != 1 || records[0].Detail["content_of"] != "1" || records[0].Detail["number"] != "3" || records[0].Detail["digest"] != first.Digest {
		t.Errorf("%+v, %v", records, err)
	}
	if same, err := b.Rollback(t.Context(), 3, revision.Put{}); err != nil || same.Number != 3 {
		t.Errorf("to the current one: %d, %v", same.Number, err)
	}
}

func TestMessageIsOneBoundedLine(t *testing.T) {
	b := newBench(t)
	for name, message := range map[string]string{
		"too long": strings.Repeat("x", 501), "two lines": "a\nb", "an escape": "a\x1b[31m", "no UTF-8": "\xff", "NUL": "a\x00",
	} {
		_, err := b.Put(t.Context(), document(t, "a"), revision.Put{Message: message})
		if !errors.Is(err, problem.ErrInvalid) || problem.From(err).Fields[0].Field != "message" {
			t.Errorf("%s: %v", name, err)
		}
	}
	b.put(t, "a", revision.Put{Message: strings.Repeat("ü", 500)})
}

// What is stored is read by every replica, with the bounds that a written document
// has.
func TestDocumentThatCouldNotBeReadBackIsRefused(t *testing.T) {
	b := newBench(t)
	doc := document(t, "a")
	route := doc.Routes[0]
	doc.Routes = nil
	for i := range 100_000 { // each a few items, once every default is spelled out
		route.Name = fmt.Sprint("r", i)
		doc.Routes = append(doc.Routes, route)
	}
	if _, err := b.Put(t.Context(), doc, revision.Put{}); !errors.Is(err, revision.ErrUnreadable) {
		t.Errorf("%v", err)
	}
	invalid := document(t, "a")
	invalid.Routes[0].Service = "nobody"
	if _, err := b.Put(t.Context(), invalid, revision.Put{}); !errors.Is(err, revision.ErrUnreadable) {
		t.Errorf("a dangling name: %v", err)
	}
}

// Every default that is left out of the canonical form comes back when it is read.
func TestCanonicalFormIsReadBackAsTheSameDocument(t *testing.T) {
	files, err := filepath.Glob("../spec/testdata/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	read := 0
	for _, file := range append(files, "../../configs/gateway.yaml") {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		doc, err := spec.Parse(file, text)
		if err != nil {
			continue // some are there to be refused
		}
		canonical, err := json.Marshal(doc)
		if err != nil {
			t.Fatal(err)
		}
		again, err := revision.Revision{Document: canonical}.Parse()
		if !reflect.DeepEqual(doc, again) || err != nil {
			t.Errorf("%s: %v\n%+v\nis read back as\n%+v", file, err, doc, again)
		}
		read++
	}
	if read == 0 {
		t.Error("no document was read")
	}
}

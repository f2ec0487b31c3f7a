package app_test

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keywarden/keywarden/pkg/app/apptest"
	"github.com/keywarden/keywarden/pkg/pglocal/pgtest"
	"github.com/keywarden/keywarden/pkg/revision"
	"github.com/keywarden/keywarden/pkg/spec"
)

// quickly lets a start give the database up soon.
func quickly(set map[string]string) map[string]string {
	all := roomyWith(map[string]string{"database.connect_timeout": "1s"})
	maps.Copy(all, set)
	return all
}

// With a gateway document a start does without the database: who needs no
// credential is served, who has one is told to come again, and all of it works
// when the database is back, without another start.
func TestStartWithoutTheDatabase(t *testing.T) {
	o := startOutage(t, nil)
	if err := o.Stop(); err != nil {
		t.Fatal(err)
	}
	o.database.Stop()
	o.Program, _ = startBehind(t, apptest.Options{DatabaseURL: o.database.URL(), MasterKey: o.MasterKey, Set: quickly(nil)})

	o.Want(t, http.StatusOK, "GET", "/open/x", nil)
	o.Want(t, http.StatusOK, "GET", "/health", nil)
	for _, c := range append(o.knownCalls(), o.unknownCalls()...) {
		if c.credential != nil {
			undecided(t, c.path, o.Call(t, "GET", c.path, nil, c.credential...))
		}
	}
	wantProblem(t, o.Call(t, "GET", "/keyed/x", nil, o.known.Auth()...), http.StatusServiceUnavailable, "auth.unavailable")
	wantProblem(t, o.Call(t, "GET", "/jwt/x", nil, o.user.Auth()...), http.StatusServiceUnavailable, "auth.unavailable")
	for name, credential := range map[string][]string{"junk": {"X-API-Key", "junk"}, "no token": {"Authorization", "Bearer x"}, "nothing": nil} {
		if a := o.Call(t, "GET", "/keyed/x", nil, credential...); a.Status != http.StatusUnauthorized {
			t.Errorf("%s: status %d", name, a.Status)
		}
	}
	keys := o.Call(t, "GET", "/.well-known/jwks.json", nil)
	if keys.Status != http.StatusServiceUnavailable || keys.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("the signing keys: %d, %v: %s", keys.Status, keys.Header, keys.Body)
	}
	checkDocumented(t, documentedAPI(t), "GET", "/.well-known/jwks.json", keys)
	o.controlPlaneIsAway(t)
	o.readiness(t, "", http.StatusServiceUnavailable, "not_ready", "database", "revocations")

	o.database.Start()
	apptest.Eventually(t, "the platform is ready", func() bool {
		return o.Call(t, "GET", "/readyz?plane=control", nil).Status == http.StatusOK
	})
	o.comesBack(t)
	if v, err := o.Platform.Chain.Verify(context.WithoutCancel(t.Context()), o.Platform.Store); err != nil || v.Records == 0 {
		t.Errorf("the audit chain: %+v, %v", v, err)
	}
}

// What a credential was allowed before its replica heard of changes is not kept.
func TestRevocationJustBeforeAReplicaFollowsIsFound(t *testing.T) {
	databaseURL := pgtest.New(t)
	wire, url := wireTo(t, databaseURL)
	first, up := startBehind(t, apptest.Options{DatabaseURL: databaseURL, Set: roomy()})
	u := first.User(t)
	key := first.Key(t, u, nil)
	wire.Cut()
	late := apptest.Start(t, apptest.Options{
		DatabaseURL: url, MasterKey: first.MasterKey, Gateway: fixtureDocument(t, up.Addr()), Set: quickly(nil),
	})
	undecided(t, "cut off", late.Call(t, "GET", "/keyed/x", nil, key.Auth()...))
	wire.Mend()
	first.Want(t, http.StatusNoContent, "DELETE", "/api-keys/"+key.ID, nil, u.Auth()...)
	for range 100 {
		if a := late.Call(t, "GET", "/keyed/x", nil, key.Auth()...); a.Status == http.StatusOK {
			t.Fatal("a revoked key is let in")
		}
	}
	apptest.Eventually(t, "the replica decides", func() bool {
		return late.Call(t, "GET", "/keyed/x", nil, key.Auth()...).Status == http.StatusUnauthorized
	})
}

// answering is a backend that says its name.
func answering(t *testing.T, name string) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprint(w, name) }))
	t.Cleanup(s.Close)
	return s.URL
}

func routesTo(t *testing.T, backend string) spec.Document {
	t.Helper()
	doc, err := spec.Parse("", []byte(fmt.Sprintf(`version: 1
services: [{name: s, url: %q}]
routes:
  - {name: open, match: {path: {prefix: /open}}, service: s, auth: {mode: none}}
  - {name: keyed, match: {path: {prefix: /keyed}}, service: s}
`, backend)))
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

func putDocument(t *testing.T, p *apptest.Program, doc spec.Document, put revision.Put) revision.Revision {
	t.Helper()
	r, err := p.Platform.Revisions.Put(context.WithoutCancel(t.Context()), doc, put)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// serves waits until the program forwards to the backend of that name.
func serves(t *testing.T, p *apptest.Program, name string) {
	t.Helper()
	apptest.Eventually(t, "it serves "+name, func() bool { return string(p.Call(t, "GET", "/open", nil).Body) == name })
}

func TestRevisionsReachEveryReplica(t *testing.T) {
	url := pgtest.New(t)
	dirs := []string{t.TempDir(), t.TempDir()}
	one := apptest.Start(t, apptest.Options{DatabaseURL: url, Set: quickly(map[string]string{"gateway.source": "database", "data.dir": dirs[0]})})
	one.Want(t, http.StatusNotFound, "GET", "/open", nil)
	one.Want(t, http.StatusOK, "GET", "/readyz", nil) // there is nothing to serve yet, and that is known
	a, b := answering(t, "a"), answering(t, "b")
	putDocument(t, one, routesTo(t, a), revision.Put{Create: true})
	serves(t, one, "a")
	two := apptest.Start(t, apptest.Options{
		DatabaseURL: url, MasterKey: one.MasterKey, Set: quickly(map[string]string{"gateway.source": "database", "data.dir": dirs[1]}),
	})
	if got := two.Want(t, http.StatusOK, "GET", "/open", nil); string(got.Body) != "a" { // at the first request
		t.Errorf("it begins with %q", got.Body)
	}
	const rounds = 20
	took := make([]time.Duration, 0, rounds)
	for i := range rounds {
		name, backend := "b", b
		if i%2 == 1 {
			name, backend = "a", a
		}
		begun := time.Now()
		putDocument(t, one, routesTo(t, backend), revision.Put{IfMatch: "*"})
		serves(t, one, name)
		serves(t, two, name)
		took = append(took, time.Since(begun))
	}
	slices.Sort(took)
	t.Logf("both replicas serve a new revision after %s, at most %s", took[rounds/2], took[rounds-1])
	if took[rounds/2] > time.Second {
		t.Errorf("both replicas serve a new revision after %s in the middle, the promise is a second", took[rounds/2])
	}
	apptest.Eventually(t, "both say what they serve", func() bool {
		list, err := one.Platform.Revisions.Serving(t.Context(), time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		return len(list) == 2 && list[0].Number == rounds+1 && list[1].Number == rounds+1 && list[0].Digest == list[1].Digest &&
			list[0].Version != "" && !list[0].AppliedAt.IsZero()
	})
	putDocument(t, two, routesTo(t, b), revision.Put{})
	rolled, err := two.Platform.Revisions.Rollback(t.Context(), rounds+1, revision.Put{})
	if err != nil || rolled.Number != rounds+3 {
		t.Fatal(rolled.Number, err)
	}
	serves(t, one, "a")
}

func TestLastGoodRevisionIsServedWithoutTheDatabase(t *testing.T) {
	database, dir := pgtest.NewServer(t), t.TempDir()
	set := quickly(map[string]string{"gateway.source": "database", "data.dir": dir})
	p := apptest.Start(t, apptest.Options{DatabaseURL: database.URL(), Set: set})
	putDocument(t, p, routesTo(t, answering(t, "a")), revision.Put{})
	serves(t, p, "a")
	u := p.User(t)
	key := p.Key(t, u, nil)
	apptest.Eventually(t, "the document is on the disk", func() bool {
		_, err := os.Stat(filepath.Join(dir, "gateway-last-good.json"))
		return err == nil
	})
	if err := p.Stop(); err != nil {
		t.Fatal(err)
	}
	database.Stop()

	again := apptest.Start(t, apptest.Options{DatabaseURL: database.URL(), MasterKey: p.MasterKey, Set: set})
	if got := again.Want(t, http.StatusOK, "GET", "/open", nil); string(got.Body) != "a" {
		t.Errorf("it serves %q", got.Body)
	}
	undecided(t, "/keyed", again.Call(t, "GET", "/keyed", nil, key.Auth()...))
	if !strings.Contains(again.Log.String(), "the last good gateway document is served") {
		t.Error("the log does not say what is served")
	}
	a := again.Call(t, "GET", "/readyz", nil)
	if checks := a.JSON(t)["checks"].(map[string]any); a.Status != http.StatusServiceUnavailable || checks["gateway_document"] != "ok" || checks["database"] != "missing" { //nolint:forcetypeassert // a test
		t.Errorf("/readyz: %d %s", a.Status, a.Body)
	}

	database.Start()
	apptest.Eventually(t, "the platform is ready", func() bool {
		return again.Call(t, "GET", "/readyz?plane=control", nil).Status == http.StatusOK
	})
	again.Want(t, http.StatusOK, "GET", "/keyed", nil, key.Auth()...)
	putDocument(t, again, routesTo(t, answering(t, "b")), revision.Put{IfMatch: "*"})
	serves(t, again, "b")
}

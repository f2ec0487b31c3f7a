package app_test

import (
	"net/http"
	"slices"
	"testing"

	"github.com/keywarden/keywarden/pkg/app/apptest"
	"github.com/keywarden/keywarden/pkg/pglocal/pgtest"
)

// outage is a program whose database can be stopped, with credentials that it
// knows and others that it has to ask for.
type outage struct {
	*apptest.Program
	database      *pgtest.Server
	user, admin   *apptest.User
	known         apptest.Key   // used before the outage
	unknown       apptest.Key   // never used
	unknownTokens *apptest.User // a session that was never used
}

func startOutage(t *testing.T, set map[string]string) outage {
	t.Helper()
	o := outage{database: pgtest.NewServer(t)}
	o.Program, _ = startBehind(t, apptest.Options{DatabaseURL: o.database.URL(), Set: roomyWith(set)})
	o.user, o.admin, o.unknownTokens = o.User(t), o.Admin(t), o.User(t)
	o.known, o.unknown = o.Key(t, o.user, object{"scopes": []string{"profile:read"}}), o.Key(t, o.user, nil)
	for _, c := range o.knownCalls() {
		o.Want(t, http.StatusOK, "GET", c.path, nil, c.credential...)
	}
	o.Want(t, http.StatusOK, "GET", "/users", nil, o.admin.Auth()...)
	return o
}

type credentialCall struct {
	path       string
	credential []string
}

func (o outage) knownCalls() []credentialCall {
	return []credentialCall{
		{"/keyed/x", o.known.Auth()}, {"/keyed/x", []string{"Authorization", "Bearer " + o.known.Secret}}, {"/jwt/x", o.user.Auth()},
		{"/api/test", o.known.Auth()}, {"/api/test", o.user.Auth()}, {"/open/x", nil}, {"/svc/private/x", o.known.Auth()},
	}
}

func (o outage) unknownCalls() []credentialCall {
	return []credentialCall{
		{"/keyed/x", o.unknown.Auth()}, {"/api/test", o.unknown.Auth()}, {"/jwt/x", o.unknownTokens.Auth()}, {"/api/test", o.unknownTokens.Auth()},
		{"/keyed/x", []string{"X-API-Key", unknownKey()}}, {"/api/test", []string{"X-API-Key", unknownKey()}},
	}
}

// undecided fails unless the answer says to come again, and does not say that the
// credential is bad: clients throw bad ones away.
func undecided(t *testing.T, what string, a apptest.Answer) {
	t.Helper()
	if a.Status != http.StatusServiceUnavailable || a.Header.Get("Retry-After") == "" || a.Header.Get("WWW-Authenticate") != "" ||
		a.Header.Get("Content-Type") != "application/problem+json" {
		t.Errorf("%s: status %d, Retry-After %q, WWW-Authenticate %q: %s", what, a.Status, a.Header.Get("Retry-After"), a.Header.Get("WWW-Authenticate"), a.Body)
	}
}

// readiness fails unless /readyz answers so and names what is missing.
func (o outage) readiness(t *testing.T, query string, status int, word string, missing ...string) {
	t.Helper()
	a := o.Call(t, "GET", "/readyz"+query, nil)
	var got []string
	list, _ := a.JSON(t)["missing"].([]any)
	for _, name := range list {
		got = append(got, name.(string)) //nolint:forcetypeassert // a test
	}
	if a.Status != status || a.Text(t, "status") != word || !slices.Equal(got, missing) {
		t.Errorf("/readyz%s: %d %s, want %d %s missing %q", query, a.Status, a.Body, status, word, missing)
	}
}

func (o outage) live(t *testing.T) {
	t.Helper()
	for _, path := range []string{"/health", "/healthz", "/.well-known/jwks.json", "/swagger/index.html", "/metrics"} {
		o.Want(t, http.StatusOK, "GET", path, nil)
	}
}

// What was known goes on without the database, what was not is neither let in nor
// turned away, and all comes back by itself.
func TestKnownCredentialsOutliveTheDatabase(t *testing.T) {
	o := startOutage(t, nil)
	o.readiness(t, "", http.StatusOK, "ready")
	o.database.Stop()

	for range 3 {
		for _, c := range o.knownCalls() {
			o.Want(t, http.StatusOK, "GET", c.path, nil, c.credential...)
		}
		for _, c := range o.unknownCalls() {
			undecided(t, c.path, o.Call(t, "GET", c.path, nil, c.credential...))
		}
	}
	for name, credential := range map[string][]string{
		"junk": {"X-API-Key", "junk"}, "a wrong secret of a known key": {"X-API-Key", guessOf(o.known.Secret)},
		"a cut token": {"Authorization", "Bearer " + o.user.Token[:len(o.user.Token)-1]}, "nothing": nil,
	} {
		if a := o.Call(t, "GET", "/keyed/x", nil, credential...); a.Status != http.StatusUnauthorized {
			t.Errorf("%s: status %d", name, a.Status)
		}
	}
	// Rights are known too.
	wantProblem(t, o.Call(t, "GET", "/users", nil, o.user.Auth()...), http.StatusForbidden, "access.scope_missing")

	o.live(t)
	o.readiness(t, "", http.StatusOK, "degraded", "database")
	o.readiness(t, "?plane=control", http.StatusServiceUnavailable, "not_ready", "database")
	o.controlPlaneIsAway(t)

	o.database.Start()
	apptest.Eventually(t, "the platform is ready again", func() bool {
		return o.Call(t, "GET", "/readyz?plane=control", nil).Status == http.StatusOK
	})
	o.comesBack(t)
}

// controlPlaneIsAway makes every call that needs the database.
func (o outage) controlPlaneIsAway(t *testing.T) {
	t.Helper()
	fresh := object{"email": apptest.NewEmail(), "password": apptest.Password}
	for _, c := range []struct {
		method, path string
		body         any
		credential   []string
	}{
		{"POST", "/auth/register", fresh, nil},
		{"POST", "/auth/login", object{"email": o.user.Email, "password": o.user.Password}, nil},
		{"POST", "/auth/login", object{"email": o.user.Email, "password": anotherPassword}, nil}, // not 401: nobody knows
		{"POST", "/auth/refresh", object{"refresh_token": o.user.Refresh}, nil},
		{"POST", "/auth/logout", nil, o.user.Auth()},
		{"POST", "/auth/password", object{"current_password": o.user.Password, "new_password": anotherPassword}, o.user.Auth()},
		{"GET", "/auth/sessions", nil, o.user.Auth()},
		{"DELETE", "/auth/sessions/" + unknownID, nil, o.user.Auth()},
		{"GET", "/users/me", nil, o.user.Auth()},
		{"GET", "/users/me", nil, o.known.Auth()},
		{"PATCH", "/users/me", object{"name": "x"}, o.user.Auth()},
		{"GET", "/users", nil, o.admin.Auth()},
		{"GET", "/users/" + o.user.ID, nil, o.admin.Auth()},
		{"PATCH", "/users/" + o.user.ID, object{"disabled": true}, o.admin.Auth()},
		{"DELETE", "/users/" + o.user.ID, nil, o.admin.Auth()},
		{"GET", "/api-keys", nil, o.user.Auth()},
		{"POST", "/api-keys", object{"name": "k"}, o.user.Auth()},
		{"GET", "/api-keys/self", nil, o.known.Auth()},
		{"GET", "/api-keys/" + o.known.ID, nil, o.user.Auth()},
		{"PATCH", "/api-keys/" + o.known.ID, object{"name": "x"}, o.user.Auth()},
		{"POST", "/api-keys/" + o.known.ID + "/rotate", object{"grace_seconds": 0}, o.user.Auth()},
		{"DELETE", "/api-keys/" + o.known.ID, nil, o.user.Auth()},
		{"DELETE", "/api-keys/" + o.known.ID + "?wait=true", nil, o.user.Auth()},
		{"GET", "/audit", nil, o.admin.Auth()},
	} {
		undecided(t, c.method+" "+c.path, o.Call(t, c.method, c.path, c.body, c.credential...))
	}
}

// comesBack checks that nothing happened to anybody, and that changes hold again.
func (o outage) comesBack(t *testing.T) {
	t.Helper()
	for _, c := range append(o.knownCalls(), o.unknownCalls()[:4]...) {
		apptest.Eventually(t, c.path+" works again", func() bool {
			a := o.Call(t, "GET", c.path, nil, c.credential...)
			if a.Status == http.StatusUnauthorized || a.Status == http.StatusForbidden {
				t.Fatalf("%s: status %d after the outage: %s", c.path, a.Status, a.Body)
			}
			return a.Status == http.StatusOK
		})
	}
	o.Want(t, http.StatusUnauthorized, "GET", "/keyed/x", nil, "X-API-Key", unknownKey())
	o.readiness(t, "", http.StatusOK, "ready")
	o.readiness(t, "?plane=control", http.StatusOK, "ready")
	o.Want(t, http.StatusOK, "POST", "/auth/login", object{"email": o.user.Email, "password": o.user.Password})
	o.Want(t, http.StatusOK, "POST", "/auth/refresh", object{"refresh_token": o.user.Refresh})
	if u := o.User(t); u.Token == "" {
		t.Error("a new user got no token")
	}
	receipt := o.Want(t, http.StatusOK, "DELETE", "/api-keys/"+o.known.ID+"?wait=true", nil, o.user.Auth()...)
	if complete, _ := receipt.JSON(t)["complete"].(bool); !complete {
		t.Errorf("the receipt of a revocation: %s", receipt.Body)
	}
	o.Want(t, http.StatusUnauthorized, "GET", "/keyed/x", nil, o.known.Auth()...)
}

// Beyond the bound what was known is not trusted any more: a revocation may have
// been missed. It is not called bad either.
func TestKnownCredentialsAreTrustedForABoundedTime(t *testing.T) {
	o := startOutage(t, map[string]string{"revocation.max_staleness": "1s", "revocation.poll_interval": "100ms"})
	o.database.Stop()
	for _, c := range o.knownCalls() {
		if c.credential == nil {
			continue
		}
		apptest.Eventually(t, c.path+" is not decided on any more", func() bool {
			a := o.Call(t, "GET", c.path, nil, c.credential...)
			if a.Status != http.StatusOK && a.Status != http.StatusServiceUnavailable {
				t.Fatalf("%s: status %d: %s", c.path, a.Status, a.Body)
			}
			return a.Status == http.StatusServiceUnavailable
		})
		undecided(t, c.path, o.Call(t, "GET", c.path, nil, c.credential...))
	}
	o.Want(t, http.StatusOK, "GET", "/open/x", nil)
	if a := o.Call(t, "GET", "/keyed/x", nil, "X-API-Key", "junk"); a.Status != http.StatusUnauthorized {
		t.Errorf("junk: status %d", a.Status)
	}
	o.live(t)
	o.readiness(t, "", http.StatusServiceUnavailable, "not_ready", "database", "revocations")
	o.readiness(t, "?plane=control", http.StatusServiceUnavailable, "not_ready", "database", "revocations")

	o.database.Start()
	apptest.Eventually(t, "the platform is ready again", func() bool { return o.Call(t, "GET", "/readyz", nil).Status == http.StatusOK })
	o.comesBack(t)
}

// A short outage under load: who is known notices nothing.
func TestCallsGoOnThroughARestartOfTheDatabase(t *testing.T) {
	o := startOutage(t, nil)
	stop, done := make(chan struct{}), make(chan struct{})
	calls := 0
	go func() {
		defer close(done)
		for {
			for _, c := range o.knownCalls() {
				select {
				case <-stop:
					return
				default:
				}
				if a, err := o.Try("GET", c.path, nil, c.credential...); err != nil || a.Status != http.StatusOK {
					t.Errorf("%s: %d, %v: %s", c.path, a.Status, err, a.Body)
					return
				}
				calls++
			}
		}
	}()
	for range 2 {
		o.database.Stop()
		o.database.Start()
		apptest.Eventually(t, "the platform is ready again", func() bool {
			return o.Call(t, "GET", "/readyz?plane=control", nil).Status == http.StatusOK
		})
	}
	close(stop)
	<-done
	if calls == 0 {
		t.Error("no call was made")
	}
	o.comesBack(t)
}

// A replica that is cut off from the database hears of a revocation as soon as it
// is back, also of what was announced while it could not hear.
func TestRevocationDuringAPartitionIsFoundAfterIt(t *testing.T) {
	databaseURL := pgtest.New(t)
	wire, url := wireTo(t, databaseURL)
	cutOff, up := startBehind(t, apptest.Options{DatabaseURL: url, Set: roomy()})
	replica := apptest.Start(t, apptest.Options{
		DatabaseURL: databaseURL, MasterKey: cutOff.MasterKey, Set: roomy(), Gateway: fixtureDocument(t, up.Addr()),
	})
	u := replica.User(t)
	revoked, kept := replica.Key(t, u, nil), replica.Key(t, u, nil)
	for _, k := range []apptest.Key{revoked, kept} {
		cutOff.Want(t, http.StatusOK, "GET", "/keyed/x", nil, k.Auth()...)
	}
	cutOff.Want(t, http.StatusOK, "GET", "/jwt/x", nil, u.Auth()...)
	wire.Cut()
	replica.Want(t, http.StatusNoContent, "DELETE", "/api-keys/"+revoked.ID, nil, u.Auth()...)
	replica.Want(t, http.StatusNoContent, "POST", "/auth/logout", nil, u.Auth()...)
	replica.Want(t, http.StatusUnauthorized, "GET", "/keyed/x", nil, revoked.Auth()...)
	cutOff.Want(t, http.StatusOK, "GET", "/keyed/x", nil, revoked.Auth()...) // within the bound: it cannot know
	wire.Mend()
	apptest.Eventually(t, "the revocation is found", func() bool {
		return cutOff.Call(t, "GET", "/keyed/x", nil, revoked.Auth()...).Status == http.StatusUnauthorized &&
			cutOff.Call(t, "GET", "/jwt/x", nil, u.Auth()...).Status == http.StatusUnauthorized
	})
	cutOff.Want(t, http.StatusOK, "GET", "/keyed/x", nil, kept.Auth()...)
}

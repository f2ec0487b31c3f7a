package session

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/changes"
	"github.com/keywarden/keywarden/pkg/problem"
)

// isRefusal reports whether an error is the 401 of a bad token.
func isRefusal(err error) bool {
	return errors.Is(err, access.ErrToken) && problem.From(err).Kind.Status() == http.StatusUnauthorized
}

func newTestVerifier(t testing.TB, s *Signer, c *clock) (*Verifier, *fakeStates) {
	t.Helper()
	states := &fakeStates{states: map[string]State{
		testSession: {UserID: testUser.ID, Role: access.RoleUser, ExpiresAt: c.now().Add(24 * time.Hour)},
	}}
	return verifierOver(t, s, c, states, func(time.Time) bool { return true }), states
}

func verifierOver(t testing.TB, s *Signer, c *clock, states StateStore, fresh func(time.Time) bool) *Verifier {
	t.Helper()
	v, err := NewVerifier(VerifierOptions{
		Signer: s, Store: states, Fresh: fresh, Roles: testRoles(t), Entries: 1000, Timeout: time.Minute,
		Now: c.now, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestPrincipalIsTheUserOfTheSession(t *testing.T) {
	c := newClock()
	s := readySigner(t, c)
	v, _ := newTestVerifier(t, s, c)
	got, err := v.VerifyToken(t.Context(), issue(t, s))
	want := &access.Principal{
		Kind: access.KindUser, UserID: testUser.ID, Role: access.RoleUser, SessionID: testSession,
		Scopes: []string{"apps:read", "apps:write", "keys:read", "keys:write", "orders:read", "profile:read", "profile:write", "usage:read"},
	}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("%v %s", err, diff)
	}
}

func TestWarmTokenAsksNobody(t *testing.T) {
	c := newClock()
	s := readySigner(t, c)
	v, states := newTestVerifier(t, s, c)
	token, another := issue(t, s), issue(t, s)
	for range 10 {
		for _, token := range []string{token, another} {
			if _, err := v.VerifyToken(t.Context(), token); err != nil {
				t.Fatal(err)
			}
		}
	}
	if n := states.count(); n != 1 {
		t.Errorf("%d questions about one session", n)
	}
	allocations := testing.AllocsPerRun(100, func() { _, _ = v.VerifyToken(t.Context(), token) })
	if allocations > 0 {
		t.Errorf("%v allocations for a warm token", allocations)
	}
}

func TestRoleIsTheUsersNowAndNotTheTokens(t *testing.T) {
	c := newClock()
	s := readySigner(t, c)
	v, states := newTestVerifier(t, s, c)
	states.set(func(v *State) { v.Role = access.RoleAdmin })
	f := forger{t, s}
	token := f.token(f.header(), f.claims().with("role", "admin").with("scope", "*"))
	scope := func() bool {
		t.Helper()
		p, err := v.VerifyToken(t.Context(), token)
		if err != nil {
			t.Fatal(err)
		}
		return p.Has(access.ScopeUsersWrite)
	}
	if !scope() {
		t.Error("an admin may not")
	}
	states.set(func(v *State) { v.Role = access.RoleUser })
	v.Apply(changes.Event{Kind: changes.UserChanged, Subject: testUser.ID})
	if scope() {
		t.Error("a demoted admin still may, by a warm token that says so")
	}
}

func TestEventsEndTokens(t *testing.T) {
	end := func(s *State) { s.Ended = true }
	for name, c := range map[string]struct {
		change func(*State)
		tell   func(*Verifier)
		want   bool // whether the token is still good
	}{
		"session ended": {end, func(v *Verifier) { v.Apply(changes.Event{Kind: changes.SessionEnded, Subject: testSession}) }, false},
		"sessions ended": {end, func(v *Verifier) {
			v.Apply(changes.Event{Kind: changes.UserSessionsEnded, Subject: testUser.ID})
		}, false},
		"user disabled": {func(s *State) { s.Disabled = true }, func(v *Verifier) {
			v.Apply(changes.Event{Kind: changes.UserChanged, Subject: testUser.ID})
		}, false},
		"user deleted": {func(s *State) { *s = State{Ended: true} }, func(v *Verifier) {
			v.Apply(changes.Event{Kind: changes.UserChanged, Subject: testUser.ID})
		}, false},
		"everything missed": {end, func(v *Verifier) { v.Reset() }, false},
		// Nothing else drops it, or a busy platform would have no cache.
		"another session": {end, func(v *Verifier) { v.Apply(changes.Event{Kind: changes.SessionEnded, Subject: "another"}) }, true},
		"another user":    {end, func(v *Verifier) { v.Apply(changes.Event{Kind: changes.UserChanged, Subject: "another"}) }, true},
		"a key":           {end, func(v *Verifier) { v.Apply(changes.Event{Kind: changes.KeyChanged, Subject: testUser.ID}) }, true},
		"signing keys":    {end, func(v *Verifier) { v.Apply(changes.Event{Kind: changes.SigningKeysChanged}) }, true},
	} {
		t.Run(name, func(t *testing.T) {
			clock := newClock()
			s := readySigner(t, clock)
			v, states := newTestVerifier(t, s, clock)
			token := issue(t, s)
			if _, err := v.VerifyToken(t.Context(), token); err != nil {
				t.Fatal(err)
			}
			states.set(c.change)
			c.tell(v)
			_, err := v.VerifyToken(t.Context(), token)
			if (err == nil) != c.want || err != nil && !isRefusal(err) {
				t.Errorf("error %v", err)
			}
		})
	}
}

func TestTokenIsAsGoodAsItsSession(t *testing.T) {
	for name, change := range map[string]func(*State){
		"ended":        func(s *State) { s.Ended = true },
		"disabled":     func(s *State) { s.Disabled = true },
		"expired":      func(s *State) { s.ExpiresAt = newClock().now() },
		"another user": func(s *State) { s.UserID = "another" },
	} {
		t.Run(name, func(t *testing.T) {
			c := newClock()
			s := readySigner(t, c)
			v, states := newTestVerifier(t, s, c)
			states.set(change)
			if p, err := v.VerifyToken(t.Context(), issue(t, s)); !isRefusal(err) || p != nil {
				t.Errorf("%v, %v", p, err)
			}
		})
	}
	c := newClock()
	s := readySigner(t, c)
	v, _ := newTestVerifier(t, s, c)
	f := forger{t, s}
	if _, err := v.VerifyToken(t.Context(), f.token(f.header(), f.claims().with("sid", "unknown"))); !isRefusal(err) {
		t.Errorf("unknown session: %v", err)
	}
}

func TestWarmTokenDiesWithItsSession(t *testing.T) {
	c := newClock()
	s := readySigner(t, c)
	v, states := newTestVerifier(t, s, c)
	states.set(func(v *State) { v.ExpiresAt = c.now().Add(time.Minute) })
	token := issue(t, s)
	for _, step := range []struct {
		wait time.Duration
		want bool
	}{{0, true}, {time.Minute - 1, true}, {1, false}} {
		c.advance(step.wait)
		if _, err := v.VerifyToken(t.Context(), token); (err == nil) != step.want {
			t.Errorf("error %v", err)
		}
	}
}

func TestOutageIsNoVerdict(t *testing.T) {
	c := newClock()
	s := readySigner(t, c)
	v, states := newTestVerifier(t, s, c)
	token := issue(t, s)
	states.fail(errStore)
	for range 2 { // an error is not kept
		_, err := v.VerifyToken(t.Context(), token)
		if p := problem.From(err); !errors.Is(err, access.ErrUndecided) || p.Kind.Status() != http.StatusServiceUnavailable ||
			p.RetryAfter <= 0 || !errors.Is(err, errStore) {
			t.Errorf("error %v", err)
		}
	}
	if p, err := v.VerifyToken(t.Context(), token[:len(token)-1]); !isRefusal(err) || p != nil {
		t.Errorf("a bad token needs no store: %v", err)
	}
	states.fail(nil)
	if _, err := v.VerifyToken(t.Context(), token); err != nil {
		t.Error(err)
	}
	states.fail(errStore)
	if _, err := v.VerifyToken(t.Context(), token); err != nil {
		t.Errorf("a known token during an outage: %v", err)
	}
}

func TestStaleStandingIsAskedAgain(t *testing.T) {
	c := newClock()
	s := readySigner(t, c)
	_, states := newTestVerifier(t, s, c)
	var fresh atomic.Bool
	fresh.Store(true)
	v := verifierOver(t, s, c, states, func(at time.Time) bool {
		if !at.Equal(c.now()) {
			t.Errorf("freshness at %v is asked for at %v", at, c.now())
		}
		return fresh.Load()
	})
	token := issue(t, s)
	if _, err := v.VerifyToken(t.Context(), token); err != nil {
		t.Fatal(err)
	}
	fresh.Store(false)
	before := states.count()
	if _, err := v.VerifyToken(t.Context(), token); err != nil || states.count() != before+1 {
		t.Errorf("%v after %d questions", err, states.count()-before)
	}
	states.fail(errStore)
	if _, err := v.VerifyToken(t.Context(), token); !errors.Is(err, access.ErrUndecided) {
		t.Errorf("beyond the bound and without the store: %v", err)
	}
	states.fail(nil)
	states.set(func(s *State) { s.Ended = true })
	if _, err := v.VerifyToken(t.Context(), token); !isRefusal(err) {
		t.Errorf("ended unheard: %v", err)
	}
}

func TestVerdictIsForTheWholeToken(t *testing.T) {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	c := newClock()
	s := readySigner(t, c)
	v, _ := newTestVerifier(t, s, c)
	token := issue(t, s)
	for at := range len(token) {
		if _, err := v.VerifyToken(t.Context(), token); err != nil {
			t.Fatal(err)
		}
		for _, b := range alphabet {
			if twin := token[:at] + string(b) + token[at+1:]; twin != token {
				if p, err := v.VerifyToken(t.Context(), twin); !isRefusal(err) || p != nil {
					t.Fatalf("%q at %d: %v, %v", b, at, p, err)
				}
				if at < len(token)-1 {
					break // one other character is enough but for the last
				}
			}
		}
	}
}

func TestCallerWhoLeavesIsNotRefused(t *testing.T) {
	c := newClock()
	s := readySigner(t, c)
	asked, answer := make(chan struct{}), make(chan struct{})
	v := verifierOver(t, s, c, slowStates{asked, answer, State{UserID: testUser.ID, Role: access.RoleUser, ExpiresAt: c.now().Add(time.Hour)}},
		func(time.Time) bool { return true })
	token := issue(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	left := make(chan error)
	go func() {
		_, err := v.VerifyToken(ctx, token)
		left <- err
	}()
	<-asked
	cancel()
	if err := <-left; !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	close(answer)
	if _, err := v.VerifyToken(t.Context(), token); err != nil {
		t.Errorf("those who stay: %v", err)
	}
}

// slowStates answers when it is told to.
type slowStates struct {
	asked, answer chan struct{}
	state         State
}

func (s slowStates) SessionState(context.Context, string) (State, error) {
	select {
	case s.asked <- struct{}{}:
	case <-s.answer:
	}
	<-s.answer
	return s.state, nil
}

func TestEventDuringALookupIsNotOvertaken(t *testing.T) {
	c := newClock()
	s := readySigner(t, c)
	asked, answer := make(chan struct{}), make(chan struct{})
	slow := slowStates{asked, answer, State{UserID: testUser.ID, Role: access.RoleUser, ExpiresAt: c.now().Add(time.Hour)}}
	_, states := newTestVerifier(t, s, c)
	states.set(func(s *State) { s.Ended = true })
	var first sync.Once
	v := verifierOver(t, s, c, stateFunc(func(ctx context.Context, id string) (State, error) {
		store := StateStore(states)
		first.Do(func() { store = slow })
		return store.SessionState(ctx, id)
	}), func(time.Time) bool { return true })
	token := issue(t, s)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = v.VerifyToken(t.Context(), token) // its answer was true when it was asked for
	}()
	<-asked
	v.Apply(changes.Event{Kind: changes.SessionEnded, Subject: testSession})
	close(answer)
	<-done
	if _, err := v.VerifyToken(t.Context(), token); !isRefusal(err) {
		t.Errorf("a finding from before the event is kept: %v", err)
	}
}

type stateFunc func(ctx context.Context, id string) (State, error)

func (f stateFunc) SessionState(ctx context.Context, id string) (State, error) { return f(ctx, id) }

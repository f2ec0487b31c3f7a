package cli_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/keywarden/keywarden/pkg/app/apptest"
	"github.com/keywarden/keywarden/pkg/pglocal"
	"github.com/keywarden/keywarden/pkg/pglocal/pgtest"
	"github.com/keywarden/keywarden/pkg/seal"
)

// acknowledged is what the program said it had done, by the answers that were
// received whole.
type acknowledged struct {
	mu       sync.Mutex
	users    []*apptest.User
	live     []apptest.Key // keys that nobody has tried to change since
	revoked  []apptest.Key
	loggedIn []*apptest.User // sessions that nobody has tried to end
	ended    []*apptest.User
}

func (a *acknowledged) note(change func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	change()
}

func (a *acknowledged) count() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.users) + len(a.live) + len(a.revoked) + len(a.loggedIn) + len(a.ended)
}

// mutate changes things at s until it is gone.
func (a *acknowledged) mutate(s *server) {
	call := func(want int, method, path string, body any, auth ...string) (apptest.Answer, bool) {
		answer, err := s.Try(method, path, body, auth...)
		if err == nil && answer.Status != want {
			s.tb.Errorf("%s %s: status %d, want %d: %s", method, path, answer.Status, want, answer.Body)
		}
		return answer, err == nil && answer.Status == want
	}
	text := func(answer apptest.Answer, member string) string { return answer.Text(s.tb, member) }
	login := func(u apptest.User) (*apptest.User, bool) {
		answer, ok := call(http.StatusOK, http.MethodPost, "/auth/login", map[string]string{"email": u.Email, "password": u.Password})
		if ok {
			u.Token, u.Refresh = text(answer, "access_token"), text(answer, "refresh_token")
		}
		return &u, ok
	}
	mint := func(u *apptest.User) (apptest.Key, bool) {
		answer, ok := call(http.StatusCreated, http.MethodPost, "/api-keys", map[string]string{"name": "k"}, u.Auth()...)
		if !ok {
			return apptest.Key{}, false
		}
		return apptest.Key{ID: text(answer, "id"), Secret: text(answer, "key")}, true
	}
	for {
		u := &apptest.User{Email: apptest.NewEmail(), Password: apptest.Password}
		if _, ok := call(http.StatusCreated, http.MethodPost, "/auth/register", map[string]string{"email": u.Email, "password": u.Password}); !ok {
			return
		}
		a.note(func() { a.users = append(a.users, u) })
		session, ok := login(*u)
		if !ok {
			return
		}
		a.note(func() { a.loggedIn = append(a.loggedIn, session) })
		for range 25 {
			key, ok := mint(session)
			if !ok {
				return
			}
			a.note(func() { a.live = append(a.live, key) })
			doomed, ok := mint(session)
			if !ok {
				return
			}
			if _, ok := call(http.StatusNoContent, http.MethodDelete, "/api-keys/"+doomed.ID, nil, session.Auth()...); !ok {
				return
			}
			a.note(func() { a.revoked = append(a.revoked, doomed) })
		}
		over, ok := login(*u)
		if !ok {
			return
		}
		if _, ok := call(http.StatusNoContent, http.MethodPost, "/auth/logout", nil, over.Auth()...); !ok {
			return
		}
		a.note(func() { a.ended = append(a.ended, over) })
	}
}

// holds checks all of it at s.
func (a *acknowledged) holds(t *testing.T, s *server) {
	t.Helper()
	for _, u := range a.users {
		again := *u
		s.SignIn(t, &again)
	}
	for _, u := range a.loggedIn {
		s.Want(t, http.StatusOK, http.MethodGet, "/api/test", nil, u.Auth()...)
	}
	for _, k := range a.live {
		s.Want(t, http.StatusOK, http.MethodGet, "/api-keys/self", nil, k.Auth()...)
	}
	for _, k := range a.revoked {
		s.Want(t, http.StatusUnauthorized, http.MethodGet, "/api/test", nil, k.Auth()...)
	}
	for _, u := range a.ended {
		s.Want(t, http.StatusUnauthorized, http.MethodGet, "/api/test", nil, u.Auth()...)
		s.Want(t, http.StatusUnauthorized, http.MethodPost, "/auth/refresh", map[string]string{"refresh_token": u.Refresh})
	}
}

// halves are what a change that was done by half leaves: each query counts it.
var halves = map[string]string{
	"keys without a current secret":      `SELECT count(*) FROM api_keys k WHERE NOT EXISTS (SELECT FROM api_key_secrets s WHERE s.key_id = k.id AND s.valid_until IS NULL)`,
	"keys without an audit record":       `SELECT count(*) FROM api_keys k WHERE NOT EXISTS (SELECT FROM audit_log a WHERE a.target_id = k.id::text AND a.action = 'apikey.created')`,
	"audit records without their key":    `SELECT count(*) FROM audit_log a WHERE a.action = 'apikey.created' AND NOT EXISTS (SELECT FROM api_keys k WHERE k.id::text = a.target_id)`,
	"users without an audit record":      `SELECT count(*) FROM users u WHERE NOT EXISTS (SELECT FROM audit_log a WHERE a.target_id = u.id::text AND a.action = 'user.registered')`,
	"audit records without their user":   `SELECT count(*) FROM audit_log a WHERE a.action = 'user.registered' AND NOT EXISTS (SELECT FROM users u WHERE u.id::text = a.target_id)`,
	"revocations without a record":       `SELECT count(*) FROM api_keys k WHERE k.revoked_at IS NOT NULL AND NOT EXISTS (SELECT FROM audit_log a WHERE a.target_id = k.id::text AND a.action = 'apikey.revoked')`,
	"records without their revocation":   `SELECT count(*) FROM audit_log a JOIN api_keys k ON k.id::text = a.target_id WHERE a.action = 'apikey.revoked' AND k.revoked_at IS NULL`,
	"revocations without an event":       `SELECT count(*) FROM api_keys k WHERE k.revoked_at IS NOT NULL AND NOT EXISTS (SELECT FROM change_log c WHERE c.kind = 'key' AND c.subject = k.public_id)`,
	"ended sessions without an event":    `SELECT count(*) FROM sessions s WHERE s.ended_at IS NOT NULL AND NOT EXISTS (SELECT FROM change_log c WHERE c.kind = 'session' AND c.subject = s.id::text)`,
	"sessions without a refresh token":   `SELECT count(*) FROM sessions s WHERE s.ended_at IS NULL AND NOT EXISTS (SELECT FROM refresh_tokens r WHERE r.session_id = s.id)`,
	"sessions without an audit record":   `SELECT count(*) FROM sessions s WHERE NOT EXISTS (SELECT FROM audit_log a WHERE a.action = 'session.login' AND a.target_id IN (s.id::text, s.user_id::text))`,
	"audit records beyond the ledger":    `SELECT count(*) FROM ledger WHERE seq <> (SELECT coalesce(max(seq), 0) FROM audit_log)`,
	"missing numbers of the audit trail": `SELECT max(seq) - count(*) FROM audit_log`,
	"events beyond the ledger":           `SELECT count(*) FROM ledger WHERE epoch <> (SELECT coalesce(max(epoch), 0) FROM change_log)`,
}

func nothingIsHalfDone(t *testing.T, url string) {
	t.Helper()
	db := apptest.Connect(t, url)
	for what, sql := range halves {
		var n int
		if err := db.QueryRow(t.Context(), sql).Scan(&n); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if n != 0 {
			t.Errorf("%d %s", n, what)
		}
	}
	var audits int
	if err := db.QueryRow(t.Context(), `SELECT count(*) FROM audit_log`).Scan(&audits); err != nil || audits < 10 {
		t.Fatalf("%d audit records (%v): there was no load", audits, err)
	}
	_ = db.Close(context.Background())
}

func TestKilledUnderLoadLosesNothingAcknowledged(t *testing.T) {
	rounds := 2
	if long() {
		rounds = 6
	}
	t.Run("external database", func(t *testing.T) {
		url := pgtest.New(t)
		killRepeatedly(t, rounds, serving(url, seal.NewMasterKey()), func() string { return url })
	})
	// Its PostgreSQL goes down with the program.
	t.Run("private database", func(t *testing.T) {
		dir := dirWithCluster(t)
		in := serving("", seal.NewMasterKey(), "data.dir="+dir)
		killRepeatedly(t, rounds, in, func() string {
			url, err := pglocal.Running(filepath.Join(dir, "postgres"))
			if err != nil {
				t.Fatal(err)
			}
			return url
		})
		gone(t, dir)
	})
}

// killRepeatedly kills the program under load, again and again, and looks at what
// the next start finds.
func killRepeatedly(t *testing.T, rounds int, in invocation, url func() string) {
	t.Helper()
	const clients, shortest, longest = 4, 200 * time.Millisecond, 1500 * time.Millisecond
	everything := 0
	var last *server
	for round := range rounds {
		if last != nil {
			last.stop()
		}
		s, acked := serve(t, in), &acknowledged{}
		var load sync.WaitGroup
		for range clients {
			load.Go(func() { acked.mutate(s) })
		}
		apptest.Eventually(t, "the load has begun", func() bool { return acked.count() > 2*clients })
		time.Sleep(shortest + rand.N(longest-shortest)) // the moment of the crash is what is random here
		s.kill()
		load.Wait()

		last = serve(t, in)
		acked.holds(t, last)
		nothingIsHalfDone(t, url())
		verify := in
		verify.args = append([]string{"audit", "verify"}, in.args[1:]...)
		run(t, verify).want(0, "The audit chain holds")
		everything += acked.count()
		t.Logf("round %d: %s acknowledged, all found", round+1, acked)
	}
	last.stop()
	if everything < 10*rounds {
		t.Errorf("only %d changes were acknowledged: that was no load", everything)
	}
}

// String counts what was acknowledged.
func (a *acknowledged) String() string {
	return fmt.Sprintf("%d users, %d keys, %d revocations, %d sessions, %d logouts", len(a.users), len(a.live), len(a.revoked), len(a.loggedIn), len(a.ended))
}

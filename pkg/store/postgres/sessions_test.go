package postgres

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/account"
	"github.com/keywarden/keywarden/pkg/changes"
	"github.com/keywarden/keywarden/pkg/session"
	"github.com/keywarden/keywarden/pkg/throttle"
)

func refreshDigest(i int) [sha256.Size]byte { return sha256.Sum256(fmt.Append(nil, "refresh", i)) }

func TestRefreshTokenHasOneWinner(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	s, refresh := w.session(w.user(access.RoleUser))
	const uses = 20
	var found [uses]session.Session
	at := s.CreatedAt.Add(time.Minute)
	errs := together(times(uses, func(i int) (err error) {
		found[i], err = w.SpendRefresh(ctx, refresh, refreshDigest(i), at, at.Add(time.Hour), "198.51.100.1", "browser")
		return err
	})...)
	if count(errs, nil) != 1 || count(errs, session.ErrSpent) != uses-1 {
		t.Fatal(errs)
	}
	winner := 0
	for i, err := range errs {
		if found[i].ID != s.ID || found[i].UserID != s.UserID {
			t.Errorf("%v came with session %+v", err, found[i])
		}
		if err == nil {
			winner = i
		}
	}
	if v := found[winner]; v.Client != "198.51.100.1" || v.UserAgent != "browser" || !v.UsedAt.Equal(at) || !v.IdleUntil.Equal(at.Add(time.Hour)) {
		t.Errorf("%+v", v)
	}
	for i := range uses {
		_, err := w.SpendRefresh(ctx, refreshDigest(i), refreshDigest(uses+i), at, at.Add(time.Hour), "", "")
		if i == winner && err != nil || i != winner && !errors.Is(err, session.ErrNotFound) {
			t.Errorf("the next token of call %d: %v", i, err)
		}
	}
}

func TestEndedSessionCannotBeRefreshed(t *testing.T) {
	for name, end := range map[string]func(w *world, s session.Session) (at time.Time){
		"ended": func(w *world, s session.Session) time.Time {
			w.must(w.EndSession(w.t.Context(), s.UserID, s.ID, s.CreatedAt, noted("test", "")))
			return s.CreatedAt
		},
		"idle": func(_ *world, s session.Session) time.Time { return s.IdleUntil },
		"expired": func(w *world, s session.Session) time.Time {
			w.exec(`UPDATE sessions SET idle_until = expires_at`)
			return s.ExpiresAt
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			s, refresh := w.session(w.user(access.RoleUser))
			at := end(w, s)
			for range 2 { // a refused token is not spent
				_, err := w.SpendRefresh(t.Context(), refresh, refreshDigest(0), at, at.Add(time.Hour), "", "")
				if !errors.Is(err, session.ErrNotFound) {
					t.Errorf("error %v", err)
				}
			}
		})
	}
}

func TestRefreshNeverOutlivesTheSession(t *testing.T) {
	w := newWorld(t)
	s, refresh := w.session(w.user(access.RoleUser))
	at := s.CreatedAt
	v, err := w.SpendRefresh(t.Context(), refresh, refreshDigest(0), at, s.ExpiresAt.Add(time.Hour), "", "")
	if err != nil || !v.IdleUntil.Equal(s.ExpiresAt) || !v.ExpiresAt.Equal(s.ExpiresAt) {
		t.Errorf("%+v, %v", v, err)
	}
}

// deadlockWith makes call, which must wait for the row that first locks while it
// holds the row that second then asks for. It returns what call returns. The
// database ends the one that has waited for longer, which is call.
func (w *world) deadlockWith(first, second string, args []any, call func() error) error {
	w.t.Helper()
	ctx := w.t.Context()
	conn, err := pgx.Connect(ctx, w.url)
	w.must(err)
	defer func() { _ = conn.Close(context.Background()) }()
	tx, err := conn.Begin(ctx)
	w.must(err)
	_, err = tx.Exec(ctx, first, args...)
	w.must(err)
	done := make(chan error, 1)
	go func() { done <- call() }()
	eventually(w.t, "the call waits for a lock", func() bool {
		return w.number(`SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`) > 0
	})
	if _, err = tx.Exec(ctx, second, args...); deadlocked(err) {
		w.t.Log("the machine was too slow to make call the one that has waited for longer")
	} else {
		w.must(err)
	}
	w.must(tx.Rollback(ctx))
	return <-done
}

func TestDeadlockIsTriedAgain(t *testing.T) {
	w := newWorld(t)
	s, refresh := w.session(w.user(access.RoleUser))
	err := w.deadlockWith(`SELECT FROM sessions WHERE id = $1 FOR UPDATE`, `SELECT FROM refresh_tokens WHERE session_id = $1 FOR UPDATE`,
		[]any{s.ID}, func() error {
			_, err := w.SpendRefresh(t.Context(), refresh, refreshDigest(0), s.CreatedAt, s.IdleUntil, "", "")
			return err
		})
	if err != nil {
		t.Errorf("refresh: %v", err)
	}
	k, _ := w.key(w.user(access.RoleUser))
	err = w.deadlockWith(`SELECT FROM ledger WHERE $1 <> '' FOR UPDATE`, `SELECT FROM api_keys WHERE id::text = $1 FOR UPDATE`,
		[]any{k.ID}, func() error {
			_, err := w.RevokeKey(t.Context(), k.ID, now(), noted("test.revoke", ""))
			return err
		})
	if err != nil {
		t.Errorf("revoke: %v", err)
	}
	if n := w.number(`SELECT count(*) FROM audit_log WHERE action = 'test.revoke'`); n != 1 {
		t.Errorf("%d audit records of one revocation", n)
	}
}

func TestSignInDoesNotOutliveAChangeOfTheUser(t *testing.T) {
	yes := true
	for name, change := range map[string]func(w *world, u account.User){
		"password": func(w *world, u account.User) {
			w.must(w.SetPassword(w.t.Context(), u.ID, "new", "", u.UpdatedAt.Add(time.Microsecond), noted("test", "")))
		},
		"disabled": func(w *world, u account.User) {
			_, err := w.UpdateUser(w.t.Context(), u.ID, account.Patch{Disabled: &yes}, u.UpdatedAt, noted("test", ""))
			w.must(err)
		},
		"deleted": func(w *world, u account.User) { w.must(w.DeleteUser(w.t.Context(), u.ID, noted("test", ""))) },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			u := w.user(access.RoleUser)
			change(w, u)
			before := w.number(`SELECT seq FROM ledger`)
			s, refresh := newSession(u)
			if err := w.InsertSession(t.Context(), s, u.UpdatedAt, refresh, noted("test", "")); !errors.Is(err, session.ErrOvertaken) {
				t.Errorf("error %v", err)
			}
			if n := w.number(`SELECT count(*) FROM sessions`); n != 0 {
				t.Errorf("%d sessions", n)
			}
			if seq := w.number(`SELECT seq FROM ledger`); seq != before {
				t.Error("a login that failed is recorded as one that did not")
			}
		})
	}
}

func TestPasswordChangeEndsSessionsBegunAtTheSameMoment(t *testing.T) {
	w := newWorld(t)
	for range 30 {
		u := w.user(access.RoleUser)
		s, refresh := newSession(u)
		errs := together(
			func() error { return w.InsertSession(t.Context(), s, u.UpdatedAt, refresh, noted("test", "")) },
			func() error {
				return w.SetPassword(t.Context(), u.ID, "new", "", u.UpdatedAt.Add(time.Second), noted("test", ""))
			},
		)
		if errs[0] != nil && !errors.Is(errs[0], session.ErrOvertaken) || errs[1] != nil {
			t.Fatal(errs)
		}
		if n := w.number(`SELECT count(*) FROM sessions WHERE ended_at IS NULL`); n != 0 {
			t.Fatal("a session that began with the old password is alive")
		}
	}
}

func TestListSessionsShowsLiveOnesNewestFirst(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	u := w.user(access.RoleUser)
	one, _ := w.session(u)
	two, _ := w.session(u)
	ended, _ := w.session(u)
	w.session(w.user(access.RoleUser))
	w.must(w.EndSession(ctx, u.ID, ended.ID, now(), noted("test", "")))
	ids := func(at time.Time, limit int) (ids []string) {
		found, err := w.ListSessions(ctx, u.ID, at, limit)
		w.must(err)
		for _, s := range found {
			ids = append(ids, s.ID)
		}
		return ids
	}
	if got := fmt.Sprint(ids(now(), 10)); got != fmt.Sprint([]string{two.ID, one.ID}) {
		t.Error(got)
	}
	if got := fmt.Sprint(ids(now(), 1)); got != fmt.Sprint([]string{two.ID}) {
		t.Error(got)
	}
	if got := ids(two.IdleUntil, 10); len(got) > 0 {
		t.Errorf("idle sessions are listed: %v", got)
	}
}

func TestEndSessionIsForItsUserAndOnce(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	u, thief := w.user(access.RoleUser), w.user(access.RoleUser)
	s, _ := w.session(u)
	if err := w.EndSession(ctx, thief.ID, s.ID, now(), noted("test", "")); !errors.Is(err, session.ErrNotFound) {
		t.Errorf("another user's session: %v", err)
	}
	if state, err := w.SessionState(ctx, s.ID); state.Ended || err != nil {
		t.Errorf("%+v, %v", state, err)
	}
	errs := together(times(5, func(int) error { return w.EndSession(ctx, u.ID, s.ID, now(), noted("test.end", "")) })...)
	if count(errs, nil) != 1 || count(errs, session.ErrNotFound) != 4 {
		t.Error(errs)
	}
	if state, err := w.SessionState(ctx, s.ID); !state.Ended || err != nil {
		t.Errorf("%+v, %v", state, err)
	}
}

func TestSessionStateIsTheUsersNow(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	u := w.user(access.RoleUser)
	s, _ := w.session(u)
	role := access.RoleAdmin
	for _, want := range []access.Role{access.RoleUser, access.RoleAdmin} {
		state, err := w.SessionState(ctx, s.ID)
		if err != nil || state.Role != want || state.UserID != u.ID || state.Ended || state.Disabled || !state.ExpiresAt.Equal(s.ExpiresAt) {
			t.Errorf("%+v, %v", state, err)
		}
		_, err = w.UpdateUser(ctx, u.ID, account.Patch{Role: &role}, now(), noted("test", ""))
		w.must(err)
	}
}

func TestKnownClientIsOneThatSignedIn(t *testing.T) {
	w := newWorld(t)
	u, other := w.user(access.RoleUser), w.user(access.RoleUser)
	s, _ := w.session(u)
	w.must(w.EndSession(t.Context(), u.ID, s.ID, now(), noted("test", "")))
	for _, c := range []struct {
		email, client string
		want          bool
	}{
		{u.Email, s.Client, true}, // an ended session counts too
		{u.Email, "203.0.113.8", false},
		{other.Email, s.Client, false},
		{"nobody@example.com", s.Client, false},
		{"", "", false},
	} {
		if known, err := w.KnownClient(t.Context(), c.email, c.client); known != c.want || err != nil {
			t.Errorf("%s from %s: %v, %v", c.email, c.client, known, err)
		}
	}
}

func newSigningKey(from time.Time) session.SigningKey {
	return session.SigningKey{ID: newID(), Sealed: []byte("sealed"), CreatedAt: now(), SignsFrom: from, RetiresAt: from.Add(time.Hour)}
}

func TestReplicasMakeOneSigningKey(t *testing.T) {
	w := newWorld(t)
	at := now()
	var inserted [10]bool
	errs := together(times(len(inserted), func(i int) (err error) {
		inserted[i], err = w.InsertSigningKey(t.Context(), newSigningKey(at), at.Add(-time.Minute), noted("test.signing", ""))
		return err
	})...)
	made := 0
	for _, yes := range inserted {
		if yes {
			made++
		}
	}
	if count(errs, nil) != len(errs) || made != 1 {
		t.Errorf("%d made, %v", made, errs)
	}
	if keys, records := w.number(`SELECT count(*) FROM signing_keys`), w.number(`SELECT count(*) FROM audit_log`); keys != 1 || records != 1 {
		t.Errorf("%d keys, %d audit records", keys, records)
	}
}

func TestSigningKeysAreThoseThatVerifyOldestFirst(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	at := now()
	retired, old, next := newSigningKey(at.Add(-2*time.Hour)), newSigningKey(at.Add(-30*time.Minute)), newSigningKey(at.Add(time.Second))
	for _, k := range []session.SigningKey{retired, old, next} {
		if made, err := w.InsertSigningKey(ctx, k, k.SignsFrom.Add(-time.Second), noted("test", "")); !made || err != nil {
			t.Fatal(made, err)
		}
	}
	w.must(w.ResealSigningKey(ctx, old.ID, []byte("sealed anew")))
	keys, err := w.SigningKeys(ctx, at)
	if err != nil || len(keys) != 2 || keys[0].ID != old.ID || keys[1].ID != next.ID || string(keys[0].Sealed) != "sealed anew" {
		t.Errorf("%v, %v", keys, err)
	}
}

// onlyUser is accounts with one user and any password.
type onlyUser struct{ u account.User }

func (a onlyUser) Authenticate(context.Context, string, string) (account.User, error) {
	return a.u, nil
}

func (a onlyUser) Get(context.Context, string) (account.User, error) { return a.u, nil }

func TestDatabaseHoldsNoToken(t *testing.T) {
	w := newWorld(t)
	roles, err := access.NewRoles(nil)
	w.must(err)
	ignore, logger := func(changes.Event) {}, slog.New(slog.DiscardHandler)
	signer := session.NewSigner(session.TokenOptions{
		Issuer: "issuer", Audience: "audience", TTL: time.Minute, Rotation: time.Hour, Roles: roles, Ring: w.ring, Keys: w.Store,
		Now: time.Now, Logger: logger,
	})
	w.must(signer.Refresh(t.Context()))
	limiter, err := throttle.New(1, time.Second, time.Now)
	w.must(err)
	service := session.NewService(session.Options{
		Store: w.Store, Accounts: onlyUser{w.user(access.RoleUser)}, Signer: signer, Notify: ignore, IdleTTL: time.Hour, TTL: time.Hour,
		Now: time.Now, Logger: logger, Throttles: session.Throttles{Account: limiter, Address: limiter, Known: limiter},
	})
	first, err := service.Login(t.Context(), "ada@example.com", canary, "")
	w.must(err)
	second, err := service.Refresh(t.Context(), first.Refresh.Reveal(), "")
	w.must(err)
	for _, table := range tables {
		var text string
		w.must(w.pool.QueryRow(t.Context(), `SELECT coalesce(string_agg(r::text, ' '), '') FROM `+table+` r`).Scan(&text))
		for _, secret := range []string{
			canary, first.Access.Reveal(), first.Refresh.Reveal(), second.Refresh.Reveal(), strings.TrimPrefix(second.Refresh.Reveal(), "kwr_"),
		} {
			if strings.Contains(text, secret) || strings.Contains(text, fmt.Sprintf("%x", secret)) {
				t.Errorf("table %s holds a secret", table)
			}
		}
	}
}

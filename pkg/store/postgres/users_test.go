package postgres

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/account"
	"github.com/keywarden/keywarden/pkg/apikey"
	"github.com/keywarden/keywarden/pkg/audit"
	"github.com/keywarden/keywarden/pkg/session"
)

// malformed are spellings of an identifier that must find nothing, and must not
// be passed to PostgreSQL, which would refuse some and accept others.
func malformed(id string) []string {
	return []string{
		"", " ", "x", strings.ToUpper(id), "{" + id + "}", "urn:uuid:" + id, strings.ReplaceAll(id, "-", ""), id + " ",
		id[:35], id + "0", "' OR 1=1 --", id[:35] + "\x00", id[:35] + "\xff", strings.Repeat("0", 10_000),
	}
}

func TestReadIsWhatWasWritten(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()

	u := w.user(access.RoleUser)
	u.Name = `Ada "Á" \ %_ 名`
	read, err := w.UpdateUser(ctx, u.ID, account.Patch{Name: &u.Name}, u.UpdatedAt, noted("test", ""))
	w.must(err)
	for _, find := range []func() (account.User, error){
		func() (account.User, error) { return read, nil },
		func() (account.User, error) { return w.User(ctx, u.ID) },
		func() (account.User, error) { v, _, err := w.UserByEmail(ctx, u.Email); return v, err },
	} {
		found, err := find()
		if diff := cmp.Diff(u, found); diff != "" || err != nil {
			t.Errorf("%v %s", err, diff)
		}
		if found.CreatedAt.Location() != time.UTC {
			t.Errorf("times are in %v", found.CreatedAt.Location())
		}
	}

	s, _ := w.session(u)
	sessions, err := w.ListSessions(ctx, u.ID, s.CreatedAt, 10)
	if diff := cmp.Diff([]session.Session{s}, sessions); diff != "" || err != nil {
		t.Errorf("%v %s", err, diff)
	}
	if at := sessions[0].ExpiresAt; at.Location() != time.UTC {
		t.Errorf("times are in %v", at.Location())
	}

	prefixes, bad := apikey.ParseAllowedIPs([]string{"203.0.113.0/24", "2001:db8::1"})
	if len(bad) > 0 {
		t.Fatal(bad)
	}
	k, secret := newKey(u)
	expires := k.CreatedAt.Add(time.Hour)
	k.AllowedIPs, k.ExpiresAt, k.Scopes = prefixes, &expires, []string{"a", "b"}
	_, err = w.InsertKey(ctx, k, secret, noLimit, apikey.Idempotent{}, noted("test", ""))
	w.must(err)
	stored, err := w.KeyByPublicID(ctx, k.PublicID)
	want := apikey.Stored{Key: k, OwnerRole: access.RoleUser, Secrets: []apikey.Secret{secret}}
	sameTime := cmp.Comparer(func(a, b time.Time) bool { return a.Equal(b) && a.Location() == b.Location() })
	samePrefix := cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })
	if diff := cmp.Diff(want, stored, sameTime, samePrefix); diff != "" || err != nil {
		t.Errorf("%v %s", err, diff)
	}
}

func TestTakenAddressIsRefused(t *testing.T) {
	w := newWorld(t)
	u := w.user(access.RoleUser)
	before := w.contents()
	twin := newUser(access.RoleUser)
	twin.Email = u.Email
	if err := w.InsertUser(t.Context(), twin, "hash", noted("test", "")); !errors.Is(err, account.ErrEmailTaken) {
		t.Errorf("error %v", err)
	}
	if diff := cmp.Diff(before, w.contents()); diff != "" {
		t.Error(diff)
	}

	fresh := newUser(access.RoleUser)
	errs := together(times(10, func(int) error {
		twin := newUser(access.RoleUser)
		twin.Email = fresh.Email
		return w.InsertUser(t.Context(), twin, "hash", noted("test", ""))
	})...)
	if count(errs, nil) != 1 || count(errs, account.ErrEmailTaken) != len(errs)-1 {
		t.Errorf("of ten at the same moment: %v", errs)
	}
}

func TestMalformedIdentifiersAreUnknown(t *testing.T) {
	w := newWorld(t)
	u := w.user(access.RoleUser)
	s, _ := w.session(u)
	k, _ := w.key(u)
	ctx, c := t.Context(), noted("test", "")
	before := w.contents()
	for _, id := range malformed(u.ID) {
		_, err := w.User(ctx, id)
		check(t, "User", id, err, account.ErrNotFound)
		_, err = w.PasswordHash(ctx, id)
		check(t, "PasswordHash", id, err, account.ErrNotFound)
		_, err = w.UpdateUser(ctx, id, account.Patch{}, now(), c)
		check(t, "UpdateUser", id, err, account.ErrNotFound)
		check(t, "DeleteUser", id, w.DeleteUser(ctx, id, c), account.ErrNotFound)
		check(t, "SetPassword", id, w.SetPassword(ctx, id, "hash", "", now(), c), account.ErrNotFound)
		if id != "" {
			keys, err := w.ListKeys(ctx, apikey.Filter{UserID: id, Limit: 10})
			if len(keys) > 0 || err != nil {
				t.Errorf("ListKeys(%q): %v, %v", id, keys, err)
			}
			users, err := w.ListUsers(ctx, account.Filter{Before: id, Limit: 10})
			if len(users) > 0 || err != nil {
				t.Errorf("ListUsers(before %q): %v, %v", id, users, err)
			}
		}
	}
	for _, id := range malformed(s.ID) {
		check(t, "EndSession", id, w.EndSession(ctx, u.ID, id, now(), c), session.ErrNotFound)
		if state, err := w.SessionState(ctx, id); !state.Ended || err != nil {
			t.Errorf("SessionState(%q): %+v, %v", id, state, err)
		}
	}
	for _, id := range malformed(k.ID) {
		_, err := w.Key(ctx, id)
		check(t, "Key", id, err, apikey.ErrNotFound)
		_, err = w.UpdateKey(ctx, id, apikey.Patch{}, now(), c)
		check(t, "UpdateKey", id, err, apikey.ErrNotFound)
		_, _, err = w.RotateKey(ctx, id, newSecret(now()), "abcd", now(), now(), apikey.Idempotent{}, c)
		check(t, "RotateKey", id, err, apikey.ErrNotFound)
		_, err = w.RevokeKey(ctx, id, now(), c)
		check(t, "RevokeKey", id, err, apikey.ErrNotFound)
	}
	if diff := cmp.Diff(before, w.contents()); diff != "" {
		t.Error(diff)
	}
}

func TestUnknownIdentifiersAreUnknown(t *testing.T) {
	w := newWorld(t)
	u := w.user(access.RoleUser)
	ctx, c, id := t.Context(), noted("test", ""), newID()
	_, err := w.User(ctx, id)
	check(t, "User", id, err, account.ErrNotFound)
	_, err = w.PasswordHash(ctx, id)
	check(t, "PasswordHash", id, err, account.ErrNotFound)
	_, _, err = w.UserByEmail(ctx, "nobody@example.com")
	check(t, "UserByEmail", "", err, account.ErrNotFound)
	_, err = w.KeyByPublicID(ctx, "000000000000")
	check(t, "KeyByPublicID", "", err, apikey.ErrNotFound)
	check(t, "EndSession", id, w.EndSession(ctx, u.ID, id, now(), c), session.ErrNotFound)
	_, err = w.SpendRefresh(ctx, [32]byte{1}, [32]byte{2}, now(), now(), "", "")
	check(t, "SpendRefresh", id, err, session.ErrNotFound)
	if state, err := w.SessionState(ctx, id); !state.Ended || err != nil {
		t.Errorf("SessionState: %+v, %v", state, err)
	}
}

func check(t *testing.T, call, id string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s(%.60q): error %v, want %v", call, id, err, want)
	}
}

// unstorable are texts that PostgreSQL refuses as values.
var unstorable = []string{"\x00", "a\x00b", "\xff", "a\xc3", "\xed\xa0\x80", strings.Repeat("é", 600)[:1017]}

func TestTextThatCannotBeStoredFindsNothing(t *testing.T) {
	w := newWorld(t)
	u := w.user(access.RoleUser)
	w.session(u)
	ctx := t.Context()
	for _, text := range unstorable {
		_, _, err := w.UserByEmail(ctx, text)
		check(t, "UserByEmail", text, err, account.ErrNotFound)
		if known, err := w.KnownClient(ctx, text, "203.0.113.7"); known || err != nil {
			t.Errorf("KnownClient(%q): %v, %v", text, known, err)
		}
		if known, err := w.KnownClient(ctx, u.Email, text); known || err != nil {
			t.Errorf("KnownClient(client %q): %v, %v", text, known, err)
		}
		for _, f := range []account.Filter{{Query: text, Limit: 9}, {Role: access.Role(text), Limit: 9}} {
			if users, err := w.ListUsers(ctx, f); len(users) > 0 || err != nil {
				t.Errorf("ListUsers(%+v): %v, %v", f, users, err)
			}
		}
		for _, f := range []audit.Filter{{Action: audit.Action(text), Limit: 9}, {ActorID: text, Limit: 9}, {TargetID: text, Limit: 9}} {
			if records, err := w.ListAudit(ctx, f); len(records) > 0 || err != nil {
				t.Errorf("ListAudit(%+v): %v, %v", f, records, err)
			}
		}
	}
}

func TestSearchFindsPartsLiterally(t *testing.T) {
	w := newWorld(t)
	for _, name := range []string{"100% sure", "under_score", `back\slash`, "Plain", "Émile"} {
		u := newUser(access.RoleUser)
		u.Name = name
		w.must(w.InsertUser(t.Context(), u, "hash", noted("test", "")))
	}
	for query, want := range map[string][]string{
		"%":           {"100% sure"},
		"0% s":        {"100% sure"},
		"_":           {"under_score"},
		"r_s":         {"under_score"},
		"r%s":         nil,
		"unde__score": nil,
		`\`:           {`back\slash`},
		`\%`:          nil,
		`k\s`:         {`back\slash`},
		"pLAIN":       {"Plain"},
		"Émile":       {"Émile"},
		"ÉMILE":       {"Émile"}, // É itself has a small form only in some locales
		"'":           nil,
		"?":           nil,
		"$1":          nil,
		"@EXAMPLE.":   {"100% sure", "Plain", `back\slash`, "under_score", "Émile"},
	} {
		found, err := w.ListUsers(t.Context(), account.Filter{Query: query, Limit: 100})
		w.must(err)
		var names []string
		for _, u := range found {
			names = append(names, u.Name)
		}
		slices.Sort(names)
		if !slices.Equal(names, want) {
			t.Errorf("%q finds %q, want %q", query, names, want)
		}
	}
}

func TestListUsersByRole(t *testing.T) {
	w := newWorld(t)
	admin, user := w.user(access.RoleAdmin), w.user(access.RoleUser)
	for role, want := range map[access.Role][]account.User{
		access.RoleAdmin: {admin}, access.RoleUser: {user}, "": {user, admin}, "owner": nil,
	} {
		found, err := w.ListUsers(t.Context(), account.Filter{Role: role, Limit: 10})
		if diff := cmp.Diff(want, found); diff != "" && len(want)+len(found) > 0 || err != nil {
			t.Errorf("%q: %v %s", role, err, diff)
		}
	}
}

// pages walks a list page by page, doing something between the pages.
func pages(t *testing.T, next func(before string) (ids []string, err error), between func()) (all []string) {
	t.Helper()
	before := ""
	for {
		ids, err := next(before)
		if err != nil {
			t.Fatal(err)
		}
		if len(ids) == 0 {
			return all
		}
		all = append(all, ids...)
		before = ids[len(ids)-1]
		between()
	}
}

func TestPagesCoverEverythingOnceWhileRowsAreAdded(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	owner := w.user(access.RoleUser)
	for range 23 {
		w.user(access.RoleUser)
		w.key(owner)
	}
	column := func(sql string, args ...any) (ids []string) {
		w.must(w.pool.QueryRow(ctx, sql, args...).Scan(&ids))
		return ids
	}
	for _, list := range []struct {
		name string
		want []string
		next func(before string) ([]string, error)
	}{
		{"users", column(`SELECT array_agg(id::text ORDER BY id DESC) FROM users`), func(before string) (ids []string, err error) {
			found, err := w.ListUsers(ctx, account.Filter{Before: before, Limit: 5})
			for _, u := range found {
				ids = append(ids, u.ID)
			}
			return ids, err
		}},
		{"keys", column(`SELECT array_agg(id::text ORDER BY id DESC) FROM api_keys`), func(before string) (ids []string, err error) {
			found, err := w.ListKeys(ctx, apikey.Filter{UserID: owner.ID, Before: before, Limit: 5})
			for _, k := range found {
				ids = append(ids, k.ID)
			}
			return ids, err
		}},
		{"audit", column(`SELECT array_agg(seq::text ORDER BY seq DESC) FROM audit_log`), func(before string) (ids []string, err error) {
			var seq int64
			_, _ = fmt.Sscan(before, &seq)
			found, err := w.ListAudit(ctx, audit.Filter{Before: seq, Limit: 5})
			for _, r := range found {
				ids = append(ids, fmt.Sprint(r.Seq))
			}
			return ids, err
		}},
	} {
		stop, stopped := make(chan struct{}), make(chan struct{})
		go func() { // writers do not wait for readers
			defer close(stopped)
			for {
				select {
				case <-stop:
					return
				default:
					k, secret := newKey(owner)
					if _, err := w.InsertKey(ctx, k, secret, noLimit, apikey.Idempotent{}, noted("test", "")); err != nil {
						t.Error(err)
						return
					}
				}
			}
		}()
		got := pages(t, list.next, func() { w.user(access.RoleUser) })
		close(stop)
		<-stopped
		seen := map[string]int{}
		for _, id := range got {
			seen[id]++
		}
		for _, id := range list.want {
			if seen[id] != 1 {
				t.Errorf("%s: %s was listed %d times", list.name, id, seen[id])
			}
		}
		for id, n := range seen {
			if n > 1 {
				t.Errorf("%s: %s was listed %d times", list.name, id, n)
			}
		}
	}
}

func TestOneAdminAlwaysRemains(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	user, yes := access.RoleUser, true
	ways := map[string]func(id string) error{
		"delete": func(id string) error { return w.DeleteUser(ctx, id, noted("test", id)) },
		"demote": func(id string) error {
			_, err := w.UpdateUser(ctx, id, account.Patch{Role: &user}, now(), noted("test", id))
			return err
		},
		"disable": func(id string) error {
			_, err := w.UpdateUser(ctx, id, account.Patch{Disabled: &yes}, now(), noted("test", id))
			return err
		},
	}
	const rounds = 10
	for one, first := range ways {
		for other, second := range ways {
			for range rounds {
				w.exec(`DELETE FROM users`)
				a, b := w.user(access.RoleAdmin), w.user(access.RoleAdmin)
				errs := together(func() error { return first(a.ID) }, func() error { return second(b.ID) })
				if count(errs, nil) != 1 || count(errs, account.ErrLastAdmin) != 1 {
					t.Fatalf("%s one, %s the other: %v", one, other, errs)
				}
				if n := w.number(`SELECT count(*) FROM users WHERE role = 'admin' AND NOT disabled`); n != 1 {
					t.Fatalf("%s one, %s the other: %d active admins", one, other, n)
				}
			}
		}
	}
}

func TestManyAdminsAtOnceLeaveOne(t *testing.T) {
	w := newWorld(t)
	for range 5 {
		w.exec(`DELETE FROM users`)
		const n = 8
		var ids [n]string
		for i := range ids {
			ids[i] = w.user(access.RoleAdmin).ID
		}
		errs := together(times(n, func(i int) error { return w.DeleteUser(t.Context(), ids[i], noted("test", ids[i])) })...)
		if count(errs, nil) != n-1 || count(errs, account.ErrLastAdmin) != 1 {
			t.Fatalf("%v", errs)
		}
	}
}

func TestLastAdminMayBeRenamedAndDisabledAdminsDoNotCount(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	admin, other := w.user(access.RoleAdmin), w.user(access.RoleAdmin)
	yes, no, name, role := true, false, "New", access.RoleAdmin
	_, err := w.UpdateUser(ctx, other.ID, account.Patch{Disabled: &yes}, now(), noted("test", ""))
	w.must(err)
	if err := w.DeleteUser(ctx, admin.ID, noted("test", "")); !errors.Is(err, account.ErrLastAdmin) {
		t.Errorf("the only active admin is deleted: %v", err)
	}
	_, err = w.UpdateUser(ctx, admin.ID, account.Patch{Name: &name, Role: &role, Disabled: &no}, now(), noted("test", ""))
	w.must(err)
	w.must(w.DeleteUser(ctx, other.ID, noted("test", ""))) // is disabled and leaves an active one
}

func TestDeletedUserLeavesNothing(t *testing.T) {
	w := newWorld(t)
	u, bystander := w.user(access.RoleUser), w.user(access.RoleUser)
	for _, who := range []account.User{u, bystander} {
		w.session(who)
		k, secret := newKey(who)
		i := apikey.Idempotent{Token: "t", Answer: []byte("sealed"), ExpiresAt: now().Add(time.Hour)}
		_, err := w.InsertKey(t.Context(), k, secret, noLimit, i, noted("test", ""))
		w.must(err)
	}
	w.must(w.DeleteUser(t.Context(), u.ID, noted("test", u.ID)))
	for _, table := range []string{"users", "sessions", "refresh_tokens", "api_keys", "api_key_secrets", "idempotency"} {
		if n := w.number(`SELECT count(*) FROM ` + table); n != 1 {
			t.Errorf("%s has %d rows, only the bystander's should be left", table, n)
		}
	}
	if err := w.DeleteUser(t.Context(), u.ID, noted("test", u.ID)); !errors.Is(err, account.ErrNotFound) {
		t.Errorf("deleted again: %v", err)
	}
}

func TestDisablingEndsSessionsForGood(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	u := w.user(access.RoleUser)
	s, refresh := w.session(u)
	for _, disabled := range []bool{true, false} {
		_, err := w.UpdateUser(ctx, u.ID, account.Patch{Disabled: &disabled}, now(), noted("test", ""))
		w.must(err)
		if state, err := w.SessionState(ctx, s.ID); !state.Ended || state.Disabled != disabled || err != nil {
			t.Errorf("%+v, %v", state, err)
		}
		if _, err := w.SpendRefresh(ctx, refresh, [32]byte{}, now(), now().Add(time.Hour), "", ""); !errors.Is(err, session.ErrNotFound) {
			t.Errorf("refresh: %v", err)
		}
	}
}

func TestSetPasswordEndsOtherSessionsOnly(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	u, bystander := w.user(access.RoleUser), w.user(access.RoleUser)
	keep, _ := w.session(u)
	drop, _ := w.session(u)
	other, _ := w.session(bystander)
	w.must(w.SetPassword(ctx, u.ID, "new hash", keep.ID, now(), noted("test", "")))
	for id, ended := range map[string]bool{keep.ID: false, drop.ID: true, other.ID: false} {
		if state, err := w.SessionState(ctx, id); state.Ended != ended || err != nil {
			t.Errorf("ended %v, want %v; %v", state.Ended, ended, err)
		}
	}
	if hash, err := w.PasswordHash(ctx, u.ID); hash != "new hash" || err != nil {
		t.Errorf("%q, %v", hash, err)
	}
}

func TestRehashReplacesOnlyTheHashItKnows(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	u := w.user(access.RoleUser)
	w.must(w.Rehash(ctx, u.ID, "not the hash", "x"))
	if hash, _ := w.PasswordHash(ctx, u.ID); hash != "hash of "+u.Email {
		t.Errorf("the hash is %q", hash)
	}
	w.must(w.Rehash(ctx, u.ID, "hash of "+u.Email, "better"))
	if hash, _ := w.PasswordHash(ctx, u.ID); hash != "better" {
		t.Errorf("the hash is %q", hash)
	}
	if after, err := w.User(ctx, u.ID); !after.UpdatedAt.Equal(u.UpdatedAt) || err != nil {
		t.Errorf("a new hash of the old password is no change of the user: %v, %v", after.UpdatedAt, err)
	}
}

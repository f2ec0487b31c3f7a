package app_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/keywarden/keywarden/pkg/app/apptest"
	"github.com/keywarden/keywarden/pkg/cli"
	"github.com/keywarden/keywarden/pkg/config"
	"github.com/keywarden/keywarden/pkg/seal"
)

// roomyWith is roomy with more options.
func roomyWith(more map[string]string) map[string]string {
	set := roomy()
	for name, value := range more {
		set[name] = value
	}
	return set
}

// decisionID is the sealed reason of a refusal, which differs each time.
var decisionID = regexp.MustCompile(`"decision_id":"[^"]+"`)

func hidden(id []byte) []byte { return bytes.Repeat([]byte("x"), len(id)) }

// sameAnswer fails unless two refusals cannot be told apart: status, body and
// header, but for what differs between any two answers.
func sameAnswer(t *testing.T, what string, a, b apptest.Answer) {
	t.Helper()
	header := func(a apptest.Answer) string {
		h := a.Header.Clone()
		for _, name := range []string{"X-Request-Id", "Date"} {
			h.Del(name)
		}
		return fmt.Sprint(h)
	}
	// What a decision is about cannot be read from its id, but how long that is can.
	a.Body, b.Body = decisionID.ReplaceAllFunc(a.Body, hidden), decisionID.ReplaceAllFunc(b.Body, hidden)
	if a.Status != b.Status || anonymous(a) != anonymous(b) || header(a) != header(b) {
		t.Errorf("%s can be told apart:\n%d %s %s\n%d %s %s", what, a.Status, header(a), anonymous(a), b.Status, header(b), anonymous(b))
	}
}

// ACC-18: nobody learns from a refused login or refresh whether an account
// exists, is disabled, or was deleted.
func TestRefusedLoginDoesNotTellWhy(t *testing.T) {
	p := start(t, apptest.Options{Set: roomy()})
	admin, known, disabled, deleted := p.Admin(t), p.User(t), p.User(t), p.User(t)
	p.Want(t, http.StatusOK, "PATCH", "/users/"+disabled.ID, object{"disabled": true}, admin.Auth()...)
	p.Want(t, http.StatusNoContent, "DELETE", "/users/"+deleted.ID, nil, admin.Auth()...)
	login := func(email, password string) apptest.Answer {
		return p.Call(t, "POST", "/auth/login", object{"email": email, "password": password})
	}
	unknown := login(apptest.NewEmail(), apptest.Password)
	wantProblem(t, unknown, http.StatusUnauthorized, "auth.credentials_invalid")
	for name, a := range map[string]apptest.Answer{
		"a wrong password":                   login(known.Email, anotherPassword),
		"a disabled account":                 login(disabled.Email, disabled.Password),
		"a wrong password of a disabled":     login(disabled.Email, anotherPassword),
		"a deleted account":                  login(deleted.Email, deleted.Password),
		"an address that is none":            login("not an address", apptest.Password),
		"an address with a NUL":              login("a\x00b@example.com", apptest.Password),
		"a password of a megabyte, nearly":   login(known.Email, strings.Repeat("p", 900_000)),
		"an address of a megabyte, nearly":   login(strings.Repeat("a", 900_000)+"@example.com", apptest.Password),
		"an admin's account":                 login(admin.Email, anotherPassword),
		"a password that is another's":       login(known.Email, admin.Password+" "),
		"a password with a NUL in its midst": login(known.Email, known.Password+"\x00"),
	} {
		sameAnswer(t, name+" and an unknown account", a, unknown)
	}
	refresh := func(token string) apptest.Answer {
		return p.Call(t, "POST", "/auth/refresh", object{"refresh_token": token})
	}
	none := refresh("kwr_" + strings.Repeat("A", 43))
	sameAnswer(t, "a disabled account's refresh token and an unknown one", refresh(disabled.Refresh), none)
	sameAnswer(t, "a deleted account's refresh token and an unknown one", refresh(deleted.Refresh), none)
}

// ACC-18: registering tells that an address is taken, as the contract says, but
// only to who brings a password that would be taken, and only so many times.
func TestRegistrationIsNoDirectoryOfAddresses(t *testing.T) {
	p := start(t, apptest.Options{Set: map[string]string{"throttle.registrations": "5", "throttle.registration_refill": "24h"}})
	u := p.User(t)
	register := func(email, password string) apptest.Answer {
		return p.Call(t, "POST", "/auth/register", object{"email": email, "password": password})
	}
	sameAnswer(t, "a taken and a free address with a bad password", register(u.Email, "short"), register(apptest.NewEmail(), "short"))
	wantProblem(t, register(u.Email, apptest.Password), http.StatusConflict, "user.email_taken")
	taken := 0
	for range 10 {
		a := register(u.Email, apptest.Password)
		if a.Status == http.StatusConflict {
			taken++
			continue
		}
		wantProblem(t, a, http.StatusTooManyRequests, "auth.throttled")
	}
	if taken > 4 {
		t.Errorf("%d more attempts were answered, of 5 in all", taken)
	}
}

// ACC-20: guessing at an account from everywhere neither ends its sessions nor
// keeps its owner out, who comes from where he was before, or waits.
func TestAttackerCannotLockTheOwnerOut(t *testing.T) {
	p := start(t, apptest.Options{Set: roomyWith(map[string]string{
		"server.trusted_proxies": "127.0.0.0/8", "throttle.account_failures": "3", "throttle.account_refill": "1s",
	})})
	u := p.User(t)
	from := func(address string, headers ...string) []string { return append(headers, "X-Forwarded-For", address) }
	login := func(address, password string) apptest.Answer {
		return p.Call(t, "POST", "/auth/login", object{"email": u.Email, "password": password}, from(address)...)
	}
	const home = "198.51.100.7"
	if a := login(home, u.Password); a.Status != http.StatusOK {
		t.Fatalf("the owner at home: %d", a.Status)
	}
	refused := 0
	for i := range 40 { // a new address each time, so that only the account's limit counts
		a := login(fmt.Sprintf("203.0.113.%d", i+1), anotherPassword)
		if a.Status == http.StatusTooManyRequests {
			refused++
		}
		if i%10 == 9 {
			if a := login(home, u.Password); a.Status != http.StatusOK {
				t.Errorf("the owner at home, after %d guesses: %d %s", i+1, a.Status, a.Body)
			}
			p.Want(t, http.StatusOK, "GET", "/users/me", nil, u.With("X-Forwarded-For", "203.0.113.1")...)
		}
	}
	if refused == 0 {
		t.Error("guessing was never slowed down")
	}
	apptest.Eventually(t, "the owner gets in from a new address with the right password", func() bool {
		a := login("192.0.2.99", u.Password)
		if a.Status == http.StatusTooManyRequests && a.Header.Get("Retry-After") == "" {
			t.Error("429 without Retry-After")
		}
		return a.Status == http.StatusOK
	})
}

// ACC-21: the second use of a refresh token ends the session for both who hold
// one, behind the gateway too.
func TestStolenRefreshTokenEndsTheSessionEverywhere(t *testing.T) {
	p, _ := startBehind(t, apptest.Options{Set: roomy()})
	u := p.User(t)
	stolen := u.Refresh
	owner := p.Want(t, http.StatusOK, "POST", "/auth/refresh", object{"refresh_token": u.Refresh})
	tokens := []string{u.Token, owner.Text(t, "access_token")}
	for _, token := range tokens {
		p.Want(t, http.StatusOK, "GET", "/jwt/x", nil, "Authorization", "Bearer "+token)
	}
	p.Want(t, http.StatusUnauthorized, "POST", "/auth/refresh", object{"refresh_token": stolen})
	p.Want(t, http.StatusUnauthorized, "POST", "/auth/refresh", object{"refresh_token": owner.Text(t, "refresh_token")})
	for _, token := range tokens {
		p.Want(t, http.StatusUnauthorized, "GET", "/jwt/x", nil, "Authorization", "Bearer "+token)
		p.Want(t, http.StatusUnauthorized, "GET", "/api/test", nil, "Authorization", "Bearer "+token)
	}
}

// ACC-23: a changed password ends every other session, on the platform and
// behind the gateway, and the session that changed it goes on.
func TestPasswordChangeEndsOtherSessions(t *testing.T) {
	p, _ := startBehind(t, apptest.Options{Set: roomy()})
	u := p.User(t)
	key := p.Key(t, u, nil)
	others := []*apptest.User{{Email: u.Email, Password: u.Password}, {Email: u.Email, Password: u.Password}}
	for _, o := range others {
		p.SignIn(t, o)
		p.Want(t, http.StatusOK, "GET", "/jwt/x", nil, o.Auth()...)
	}
	p.Want(t, http.StatusNoContent, "POST", "/auth/password",
		object{"current_password": u.Password, "new_password": anotherPassword}, u.Auth()...)
	for _, o := range others {
		p.Want(t, http.StatusUnauthorized, "GET", "/jwt/x", nil, o.Auth()...)
		p.Want(t, http.StatusUnauthorized, "GET", "/users/me", nil, o.Auth()...)
		p.Want(t, http.StatusUnauthorized, "POST", "/auth/refresh", object{"refresh_token": o.Refresh})
	}
	p.Want(t, http.StatusOK, "GET", "/jwt/x", nil, u.Auth()...)
	p.Want(t, http.StatusOK, "POST", "/auth/refresh", object{"refresh_token": u.Refresh})
	p.Want(t, http.StatusUnauthorized, "POST", "/auth/login", object{"email": u.Email, "password": u.Password})
	p.Want(t, http.StatusOK, "POST", "/auth/login", object{"email": u.Email, "password": anotherPassword})
	p.Want(t, http.StatusOK, "GET", "/keyed/x", nil, key.Auth()...) // keys have secrets of their own
}

// ACC-25: two admins who remove each other at the same moment never both
// succeed.
func TestAdminsWhoRemoveEachOtherLeaveOne(t *testing.T) {
	p := start(t, apptest.Options{Set: roomy()})
	one, two := p.Admin(t), p.Admin(t)
	for round := range 3 * len(removals) {
		ways := []int{round % len(removals), round / 2 % len(removals)}
		both := []*apptest.User{one, two}
		got := atOnce(t, 2, func(i int) (apptest.Answer, error) {
			r := removals[ways[i]]
			return p.Try(r.method, "/users/"+both[1-i].ID, r.body, both[i].Auth()...)
		})
		done := []bool{got[0].Status < 300, got[1].Status < 300}
		if done[0] == done[1] {
			t.Fatalf("round %d: %s and %s each other: status %d and %d", round,
				removals[ways[0]].name, removals[ways[1]].name, got[0].Status, got[1].Status)
		}
		if done[1] {
			one = two
		}
		active := 0
		for _, u := range items(t, p.Want(t, http.StatusOK, "GET", "/users?role=admin&limit=200", nil, one.Auth()...)) {
			if u["disabled"] == false {
				active++
			}
		}
		if active != 1 {
			t.Fatalf("round %d: %d active admins are left", round, active)
		}
		two = p.Admin(t)
	}
}

// ACC-26: who is no admin cannot act on an admin, nor on anybody else, nor make
// himself one, by a token or by a key.
func TestUsersCannotActOnAdmins(t *testing.T) {
	p := start(t, apptest.Options{Set: roomy()})
	admin, u, victim := p.Admin(t), p.User(t), p.User(t)
	adminKey := p.Key(t, admin, object{"scopes": []string{"users:read", "users:write"}})
	weak := p.Key(t, u, object{"scopes": []string{"profile:read", "profile:write", "keys:read", "keys:write"}})
	for _, credential := range [][]string{u.Auth(), weak.Auth()} {
		for _, target := range []string{admin.ID, victim.ID, u.ID, unknownID} {
			for _, c := range []struct {
				method, path string
				body         any
			}{
				{"GET", "/users/" + target, nil},
				{"PATCH", "/users/" + target, object{"role": "user"}},
				{"PATCH", "/users/" + target, object{"role": "admin"}},
				{"PATCH", "/users/" + target, object{"disabled": true}},
				{"DELETE", "/users/" + target, nil},
			} {
				a := p.Call(t, c.method, c.path, c.body, credential...)
				wantProblem(t, a, http.StatusForbidden, "access.scope_missing")
			}
		}
		for _, path := range []string{"/users", "/users?q=a", "/audit"} {
			wantProblem(t, p.Call(t, "GET", path, nil, credential...), http.StatusForbidden, "access.scope_missing")
		}
		a := p.Call(t, "GET", "/api-keys/"+adminKey.ID, nil, credential...)
		wantProblem(t, a, http.StatusNotFound, "apikey.not_found")
		a = p.Call(t, "GET", "/api-keys?user_id="+admin.ID, nil, credential...)
		wantProblem(t, a, http.StatusForbidden, "access.scope_missing")
		a = p.Call(t, "POST", "/api-keys/"+adminKey.ID+"/rotate", object{"grace_seconds": 0}, credential...)
		wantProblem(t, a, http.StatusNotFound, "apikey.not_found")
		a = p.Call(t, "PATCH", "/users/me", object{"name": "x", "role": "admin"}, credential...)
		wantProblem(t, a, http.StatusBadRequest, "request.invalid", "role")
	}
	a := p.Call(t, "POST", "/api-keys", object{"name": "k", "scopes": []string{"users:write"}}, u.Auth()...)
	wantProblem(t, a, http.StatusBadRequest, "request.invalid", "scopes[0]")
	// Nor does the admin's own key do what its scopes leave out.
	wantProblem(t, p.Call(t, "GET", "/audit", nil, adminKey.Auth()...), http.StatusForbidden, "access.scope_missing")
	if got := p.Want(t, http.StatusOK, "GET", "/users/"+u.ID, nil, admin.Auth()...).Text(t, "role"); got != "user" {
		t.Errorf("the user has the role %s", got)
	}
}

// ACC-28: two addresses that look the same are one address.
func TestLookAlikeAddressesAreOneAccount(t *testing.T) {
	p := start(t, apptest.Options{Set: roomy()})
	register := func(email string) apptest.Answer {
		return p.Call(t, "POST", "/auth/register", object{"email": email, "password": apptest.Password})
	}
	for _, c := range []struct {
		first string
		same  []string
	}{
		{"kate@example.com", []string{
			"KATE@EXAMPLE.COM", "Kate@Example.Com", " kate@example.com ", "ｋａｔｅ@example.com", "\u212aate@example.com", // full width, Kelvin sign
			"kate@ｅｘａｍｐｌｅ.com", "kate@example。com", "𝐤𝐚𝐭𝐞@example.com",
		}},
		{"zo\u00e9@example.com", []string{"zoe\u0301@example.com", "ZO\u00c9@example.com"}},
		{"ﬁn@example.com", []string{"fin@example.com"}},
		{"post@b\u00fccher.example", []string{"post@xn--bcher-kva.example", "post@BU\u0308CHER.example"}},
	} {
		if a := register(c.first); a.Status != http.StatusCreated {
			t.Fatalf("%q: status %d: %s", c.first, a.Status, a.Body)
		}
		for _, email := range c.same {
			wantProblem(t, register(email), http.StatusConflict, "user.email_taken")
		}
	}
	for _, email := range []string{
		"kate\u200b@example.com", "ka\u200dte@example.com", "\ufeffkate@example.com", "kate@exam\u00adple.com\u202e", "kate\u2060@example.com",
		"ka\u3164te@example.com", "kate@example.com\x00", "k\u0000ate@example.com", "kate@example.com\r\nBcc: x@y.z", "kate@exa mple.com",
	} {
		if a := register(email); a.Status != http.StatusBadRequest && a.Status != http.StatusConflict {
			t.Errorf("%q: status %d: %s", email, a.Status, a.Body)
		}
	}
	// Every spelling signs into the one account.
	for _, email := range []string{"kate@example.com", "KATE@example.com", "ｋａｔｅ@example.com"} {
		p.Want(t, http.StatusOK, "POST", "/auth/login", object{"email": email, "password": apptest.Password})
	}
}

// ACC-30: a burst of logins keeps a bounded number of hashes busy, tells the rest
// when to come again, and leaves those who hold a key alone.
func TestLoginBurstLeavesTheDataPlaneAlone(t *testing.T) {
	p, _ := startBehind(t, apptest.Options{
		Set: roomyWith(map[string]string{"accounts.hash_concurrency": "1"}),
		// The work of the cheapest hash that the configuration allows; the harness makes it cheaper.
		Change: func(c *config.Config) { c.Accounts.BcryptCost = 10 },
	})
	u := p.User(t)
	key := p.Key(t, u, nil)
	p.Want(t, http.StatusOK, "GET", "/keyed/warm", nil, key.Auth()...)

	var over atomic.Bool
	var calls atomic.Int64
	var callers sync.WaitGroup
	for range 4 {
		callers.Go(func() {
			for !over.Load() {
				a, err := p.Try("GET", "/keyed/x", nil, key.Auth()...)
				if err != nil || a.Status != http.StatusOK {
					t.Errorf("a call with a key during the burst: %d, %v", a.Status, err)
					return
				}
				calls.Add(1)
			}
		})
	}
	got := atOnce(t, 64, func(int) (apptest.Answer, error) {
		return p.Try("POST", "/auth/login", object{"email": u.Email, "password": u.Password})
	})
	over.Store(true)
	callers.Wait()

	count := byStatus(got)
	if count[http.StatusOK] == 0 || count[http.StatusServiceUnavailable]+count[http.StatusTooManyRequests] == 0 {
		t.Errorf("answers by status: %v, want some 200 and some 503 or 429", count)
	}
	for _, a := range got {
		if a.Status != http.StatusOK && (a.Status != http.StatusServiceUnavailable && a.Status != http.StatusTooManyRequests || a.Header.Get("Retry-After") == "") {
			t.Errorf("a login got %d with Retry-After %q: %s", a.Status, a.Header.Get("Retry-After"), a.Body)
		}
	}
	if calls.Load() == 0 {
		t.Error("no call with a key was made during the burst")
	}
	p.Want(t, http.StatusOK, "POST", "/auth/login", object{"email": u.Email, "password": u.Password})
}

// runCommand runs the command line with an environment, and returns its exit code and
// what it wrote.
func runCommand(t *testing.T, env map[string]string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	var environ []string
	for name, value := range env {
		environ = append(environ, name+"="+value)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience) // what starts against expectation ends, with code 0
	defer cancel()
	code = cli.Main(ctx, cli.System{
		Args:    args,
		Lookup:  func(name string) (string, bool) { v, ok := env[name]; return v, ok },
		Environ: environ, Stdin: strings.NewReader(""), Stdout: &out, Stderr: &errs,
	})
	return code, out.String(), errs.String()
}

// weakMasterKeys are keys that somebody made up.
func weakMasterKeys() map[string]string {
	encode := base64.StdEncoding.EncodeToString
	return map[string]string{
		"short":           encode([]byte("\x01\x92\xf3\x84\x15\xa6\x37\xc8\x59\xea\x0b\x1c\x2d\x3e\x4f\x50")),
		"too long":        encode(bytes.Repeat([]byte("\x01\x92\xf3\x84\x15\xa6\x37\xc8"), 5)),
		"no base64":       "not base64 at all, but long enough to be a key!",
		"a phrase":        "change-me-change-me-change-me-change-me-cha=",
		"encoded phrase":  encode([]byte("this-is-an-example-master-key-32")),
		"zeros":           encode(make([]byte, 32)),
		"one byte":        encode(bytes.Repeat([]byte{0xa5}, 32)),
		"a short pattern": encode(bytes.Repeat([]byte("\xde\xad\xbe\xef"), 8)),
	}
}

// ACC-31: without a good master key nothing starts, and the reason says how to
// make one without repeating what was given.
func TestServeRefusesToStartWithoutAGoodMasterKey(t *testing.T) {
	const unreachable = "postgres://kw@127.0.0.1:1/kw" // the key is looked at before the database
	t.Run("missing", func(t *testing.T) {
		code, _, stderr := runCommand(t, map[string]string{"DATABASE_URL": unreachable}, "serve")
		if code != 2 && code != 1 || !strings.Contains(stderr, "KEYWARDEN_MASTER_KEY") || !strings.Contains(stderr, "keywarden keygen") {
			t.Errorf("exit code %d: %s", code, stderr)
		}
	})
	for name, key := range weakMasterKeys() {
		for _, variable := range []string{"KEYWARDEN_MASTER_KEY", "KEYWARDEN_SECURITY_MASTER_KEY"} {
			t.Run(name+" in "+variable, func(t *testing.T) {
				code, _, stderr := runCommand(t, map[string]string{"DATABASE_URL": unreachable, variable: key}, "serve")
				if code != 2 && code != 1 || !strings.Contains(stderr, "master key") || !strings.Contains(stderr, "keywarden keygen") {
					t.Errorf("exit code %d: %s", code, stderr)
				}
				if strings.Contains(stderr, key) {
					t.Errorf("the message repeats the key: %s", stderr)
				}
			})
		}
	}
	t.Run("retired", func(t *testing.T) {
		code, _, stderr := runCommand(t, map[string]string{
			"DATABASE_URL": unreachable, "KEYWARDEN_MASTER_KEY": seal.NewMasterKey().Reveal(),
			"KEYWARDEN_SECURITY_MASTER_KEYS_RETIRED": weakMasterKeys()["zeros"],
		}, "serve")
		if code != 2 && code != 1 || !strings.Contains(stderr, "master key") {
			t.Errorf("exit code %d: %s", code, stderr)
		}
	})
	t.Run("as an option", func(t *testing.T) {
		code, _, stderr := runCommand(t, map[string]string{"DATABASE_URL": unreachable}, "serve", "--set", "security.master_key="+weakMasterKeys()["zeros"])
		if code != 2 || !strings.Contains(stderr, "master key") {
			t.Errorf("exit code %d: %s", code, stderr)
		}
	})
	t.Run("in a file that others can read", func(t *testing.T) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "master.key"), []byte(seal.NewMasterKey().Reveal()+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(filepath.Join(dir, "master.key"), 0o644); err != nil { // whatever the umask
			t.Fatal(err)
		}
		code, _, stderr := runCommand(t, map[string]string{"DATABASE_URL": unreachable}, "dev", "--addr", "127.0.0.1:0", "--data-dir", dir)
		if code != 1 || !strings.Contains(stderr, "master.key") {
			t.Errorf("exit code %d: %s", code, stderr)
		}
	})
}

// The examples that come with the product are no keys.
func TestExampleMasterKeysAreRefused(t *testing.T) {
	for _, file := range []string{".env.example", "docker-compose.yml", "configs/keywarden.yaml"} {
		text, err := os.ReadFile(filepath.Join(root, file))
		if err != nil {
			t.Fatal(err)
		}
		for _, word := range strings.FieldsFunc(string(text), func(r rune) bool { return strings.ContainsRune(" \t\n\"'{}:=-", r) }) {
			if _, err := seal.ParseKeyring(seal.NewSecret(word)); err == nil {
				t.Errorf("%s holds a master key that would be accepted", file)
			}
		}
	}
}

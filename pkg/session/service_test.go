package session_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/account"
	"github.com/keywarden/keywarden/pkg/audit"
	"github.com/keywarden/keywarden/pkg/changes"
	"github.com/keywarden/keywarden/pkg/pglocal/pgtest"
	"github.com/keywarden/keywarden/pkg/problem"
	"github.com/keywarden/keywarden/pkg/reqctx"
	"github.com/keywarden/keywarden/pkg/seal"
	"github.com/keywarden/keywarden/pkg/session"
	"github.com/keywarden/keywarden/pkg/slowhash"
	"github.com/keywarden/keywarden/pkg/store/postgres"
	"github.com/keywarden/keywarden/pkg/throttle"
)

const (
	password = "correct horse battery staple"
	wrong    = "incorrect horse battery staple"
	home     = "203.0.113.7"

	idleTTL    = 24 * time.Hour
	sessionTTL = 72 * time.Hour
)

// platform is the sessions over a real database, with a clock to be moved.
type platform struct {
	*session.Service
	t        *testing.T
	store    *postgres.Store
	accounts *account.Service
	tokens   *session.Verifier

	mu sync.Mutex
	at time.Time
}

func (p *platform) now() time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.at
}

func (p *platform) advance(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.at = p.at.Add(d)
}

// limits are the bursts of the buckets; one attempt comes back per minute.
type limits struct{ account, address, known int }

var roomy = limits{account: 1000, address: 1000, known: 1000}

func newPlatform(t *testing.T, l limits) *platform {
	t.Helper()
	p := &platform{t: t, at: time.Now().UTC().Truncate(time.Microsecond)}
	store, err := postgres.Open(t.Context(), postgres.Options{
		URL: seal.NewSecret(pgtest.New(t)), MaxConnections: 20, ConnectTimeout: time.Minute, QueryTimeout: time.Minute,
	})
	p.must(err)
	t.Cleanup(store.Close)
	p.store = store
	ring, err := seal.ParseKeyring(seal.NewMasterKey())
	p.must(err)
	_, err = store.LoadChain(t.Context(), ring)
	p.must(err)
	roles, err := access.NewRoles(nil)
	p.must(err)
	pool, err := slowhash.New(4, 4)
	p.must(err)
	var verifier *session.Verifier
	notify := func(e changes.Event) { verifier.Apply(e) }
	p.accounts = account.NewService(account.Options{
		Store: store, Hasher: account.NewHasher(pool), Roles: roles, Notify: notify, PasswordMinLength: 12, Now: p.now,
	})
	signer := session.NewSigner(session.TokenOptions{
		Issuer: "issuer", Audience: "audience", TTL: 15 * time.Minute, Leeway: time.Second, Rotation: 1000 * time.Hour, Roles: roles,
		Ring: ring, Keys: store, Now: p.now, Logger: slog.New(slog.DiscardHandler),
	})
	p.must(signer.Refresh(t.Context()))
	limiter := func(burst int) *throttle.Limiter {
		limiter, err := throttle.New(burst, time.Minute, p.now)
		p.must(err)
		return limiter
	}
	p.Service = session.NewService(session.Options{
		Store: store, Accounts: p.accounts, Signer: signer, Notify: notify, IdleTTL: idleTTL, TTL: sessionTTL, Now: p.now,
		Throttles: session.Throttles{Account: limiter(l.account), Address: limiter(l.address), Known: limiter(l.known)},
		Logger:    slog.New(slog.DiscardHandler),
	})
	verifier, err = session.NewVerifier(session.VerifierOptions{
		Signer: signer, Store: store, Fresh: func(time.Time) bool { return true }, Roles: roles, Entries: 100, Timeout: time.Minute,
		Now: p.now, Logger: slog.New(slog.DiscardHandler),
	})
	p.must(err)
	p.tokens = verifier
	return p
}

func (p *platform) must(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

// from is the context of a request from the address.
func (p *platform) from(address string) context.Context {
	return reqctx.With(p.t.Context(), &reqctx.Info{ID: "request", Client: netip.MustParseAddr(address)})
}

func (p *platform) register(email string, role access.Role) account.User {
	p.t.Helper()
	u, err := p.accounts.Register(p.from(home), account.Registration{Email: email, Password: password, Name: "Ada"}, role)
	p.must(err)
	return u
}

func (p *platform) login(email string) session.Tokens {
	p.t.Helper()
	t, err := p.Login(p.from(home), email, password, "curl/8")
	p.must(err)
	return t
}

// accepted is the caller by an access token, nil when it is refused.
func (p *platform) accepted(t session.Tokens) *access.Principal {
	p.t.Helper()
	caller, err := p.tokens.VerifyToken(p.t.Context(), t.Access.Reveal())
	if err != nil && !errors.Is(err, access.ErrToken) {
		p.t.Fatal(err)
	}
	return caller
}

func (p *platform) refresh(t session.Tokens) (session.Tokens, error) {
	return p.Refresh(p.from(home), t.Refresh.Reveal(), "curl/8")
}

// recorded counts the audit records of an action.
func (p *platform) recorded(action audit.Action) []audit.Record {
	p.t.Helper()
	records, err := p.store.ListAudit(p.t.Context(), audit.Filter{Action: action, Limit: 1000})
	p.must(err)
	return records
}

func TestLoginGivesTokensOfTheUser(t *testing.T) {
	p := newPlatform(t, roomy)
	u := p.register("Ada@Example.com", access.RoleUser)
	for _, email := range []string{"ada@example.com", " ADA@EXAMPLE.COM ", "Ada@Example.com"} {
		tokens, err := p.Login(p.from(home), email, password, "curl/8\r\n\x00"+strings.Repeat("é", 500))
		p.must(err)
		caller := p.accepted(tokens)
		if caller == nil || caller.UserID != u.ID || caller.Role != access.RoleUser || tokens.ExpiresIn != 15*time.Minute {
			t.Errorf("%+v, %+v", caller, tokens)
		}
	}
	list, err := p.List(t.Context(), u.ID)
	if err != nil || len(list) != 3 || list[0].Client != home || !strings.HasPrefix(list[0].UserAgent, "curl/8é") || len(list[0].UserAgent) > 256 {
		t.Errorf("%+v, %v", list, err)
	}
	records := p.recorded(audit.LoginSucceeded)
	if len(records) != 3 || records[0].ActorID != u.ID || records[0].TargetID != list[0].ID || records[0].Client != home {
		t.Errorf("%+v", records)
	}
}

// A key in the wrong variable of a script ends up in the User-Agent: a list of sessions
// must not be where somebody finds it.
func TestSessionsAreStoredWithoutCredentials(t *testing.T) {
	p := newPlatform(t, roomy)
	u := p.register("ada@example.com", access.RoleUser)
	const public, secret = "kw_live_4fGh2kLmN0pQ", "s3cretS3cretS3cretS3cretS3cretS3cret12"
	pad := strings.Repeat("a", 256-len(public)-len(secret)/2) // where the text is cut, a part of the secret is left
	for said, want := range map[string]string{
		"deploy/" + public + secret + " (linux)":          "deploy/" + public + "[redacted] (linux)",
		"deploy/" + public + "\t" + secret:                "deploy/" + public + "[redacted]", // together again without the tab
		"deploy/" + public + secret[:4] + "\xff" + secret: "deploy/" + public + "[redacted]",
		"eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiIxIn0." + secret:  "eyJ[redacted]",
		"kwr_" + secret:       "kwr_[redacted]",
		pad + public + secret: pad + public + "[redacted]",
		strings.Repeat("a", 256-len(public)-4) + public + secret: strings.Repeat("a", 256-len(public)-4) + public + "[red",
		"curl/8": "curl/8",
	} {
		tokens, err := p.Login(p.from(home), "ada@example.com", password, said)
		p.must(err)
		list, err := p.List(t.Context(), u.ID)
		p.must(err)
		if list[0].UserAgent != want {
			t.Errorf("a login by %q is stored as %q, want %q", said, list[0].UserAgent, want)
		}
		_, err = p.Refresh(p.from(home), tokens.Refresh.Reveal(), "again "+said)
		p.must(err)
		list, err = p.List(t.Context(), u.ID)
		p.must(err)
		if again := ("again " + want); list[0].UserAgent != again[:min(len(again), 256)] {
			t.Errorf("a refresh by %q is stored as %q, want %q", said, list[0].UserAgent, again)
		}
	}
}

func TestRefusedLoginsLookTheSame(t *testing.T) {
	p := newPlatform(t, roomy)
	u := p.register("ada@example.com", access.RoleUser)
	disabled := p.register("disabled@example.com", access.RoleUser)
	yes := true
	_, err := p.accounts.Update(p.from(home), disabled.ID, account.Patch{Disabled: &yes})
	p.must(err)
	for _, c := range []struct{ email, password, target string }{
		{"ada@example.com", wrong, u.ID}, {"nobody@example.com", password, ""}, {"disabled@example.com", password, disabled.ID},
		{"", "", ""}, {"ada@example.com", "", u.ID}, {"ada@example.com", strings.Repeat("a", 1<<20), u.ID}, {"\x00", "\x00", ""},
		{strings.Repeat("é", 600)[1:], password, ""}, {"ada@example.com\x00", password, ""}, {"' OR 1=1 --", password, ""},
	} {
		tokens, err := p.Login(p.from(home), c.email, c.password, "")
		if !errors.Is(err, account.ErrCredentials) || !tokens.Access.Empty() || problem.From(err).Detail != account.ErrCredentials.Detail {
			t.Errorf("%.40q: %v", c.email, err)
		}
		last := p.recorded(audit.LoginFailed)[0]
		if last.TargetID != c.target || last.Result != audit.Failure || last.ActorID != "" || last.Client != home {
			t.Errorf("%.40q is recorded as %+v", c.email, last.Entry)
		}
		if text := fmt.Sprintf("%+v", last); c.email != "" && strings.Contains(text, c.email) {
			t.Errorf("what was typed is recorded: %s", text)
		}
	}
}

func TestFailureIsRecordedWhenTheGuesserHangsUp(t *testing.T) {
	p := newPlatform(t, roomy)
	u := p.register("ada@example.com", access.RoleUser)
	ctx, cancel := context.WithCancel(p.from(home))
	options := p.Options
	options.Accounts = accountsFunc(func(context.Context) (account.User, error) {
		cancel() // while the password is compared
		return u, account.ErrCredentials
	})
	if _, err := session.NewService(options).Login(ctx, u.Email, wrong, ""); !errors.Is(err, account.ErrCredentials) {
		t.Error(err)
	}
	if n := len(p.recorded(audit.LoginFailed)); n != 1 {
		t.Errorf("%d records", n)
	}
}

// accountsFunc decides about every login.
type accountsFunc func(ctx context.Context) (account.User, error)

func (f accountsFunc) Authenticate(ctx context.Context, _, _ string) (account.User, error) {
	return f(ctx)
}

func (f accountsFunc) Get(ctx context.Context, _ string) (account.User, error) { return f(ctx) }

func TestOldPasswordDoesNotSignInAfterItsChange(t *testing.T) {
	p := newPlatform(t, roomy)
	u := p.register("ada@example.com", access.RoleUser)
	options := p.Options
	options.Accounts = accountsFunc(func(ctx context.Context) (account.User, error) {
		found, err := p.accounts.Authenticate(ctx, u.Email, password)
		p.advance(time.Second)
		p.must(p.accounts.ChangePassword(p.from(home), u.ID, "", password, "another horse battery staple")) // meanwhile
		return found, err
	})
	_, err := session.NewService(options).Login(p.from(home), u.Email, password, "")
	if !errors.Is(err, access.ErrUndecided) || problem.From(err).RetryAfter <= 0 {
		t.Errorf("error %v", err)
	}
	if list, err := p.List(t.Context(), u.ID); len(list) > 0 || err != nil {
		t.Errorf("%v, %v", list, err)
	}
}

func TestRefreshReplacesBothTokens(t *testing.T) {
	p := newPlatform(t, roomy)
	u := p.register("ada@example.com", access.RoleUser)
	first := p.login("ada@example.com")
	p.advance(time.Minute)
	second, err := p.refresh(first)
	p.must(err)
	if second.Access.Reveal() == first.Access.Reveal() || second.Refresh.Reveal() == first.Refresh.Reveal() || p.accepted(second) == nil {
		t.Error("not replaced")
	}
	if p.accepted(first) == nil {
		t.Error("a refresh ends the access token before")
	}
	list, err := p.List(t.Context(), u.ID)
	if err != nil || len(list) != 1 || !list[0].UsedAt.Equal(p.now()) || !list[0].IdleUntil.Equal(p.now().Add(idleTTL)) {
		t.Errorf("%+v, %v", list, err)
	}
}

func TestReuseOfARefreshTokenEndsTheSession(t *testing.T) {
	p := newPlatform(t, roomy)
	u := p.register("ada@example.com", access.RoleUser)
	other := p.login("ada@example.com")
	first := p.login("ada@example.com")
	second, err := p.refresh(first)
	p.must(err)
	for range 2 {
		if _, err := p.refresh(first); !errors.Is(err, session.ErrRefresh) {
			t.Errorf("a spent token: %v", err)
		}
	}
	if _, err := p.refresh(second); !errors.Is(err, session.ErrRefresh) {
		t.Errorf("the newest token of an ended session: %v", err)
	}
	if p.accepted(first) != nil || p.accepted(second) != nil {
		t.Error("the access tokens of the session live on")
	}
	if p.accepted(other) == nil {
		t.Error("another session ends too")
	}
	records := p.recorded(audit.RefreshReused)
	if len(records) != 1 || records[0].ActorID != u.ID || records[0].Result != audit.Failure {
		t.Errorf("%+v", records)
	}
}

func TestConcurrentUsesOfARefreshTokenEndTheSession(t *testing.T) {
	p := newPlatform(t, roomy)
	p.register("ada@example.com", access.RoleUser)
	first := p.login("ada@example.com")
	var (
		group sync.WaitGroup
		mu    sync.Mutex
		won   []session.Tokens
	)
	for range 20 {
		group.Go(func() {
			next, err := p.refresh(first)
			if err != nil && !errors.Is(err, session.ErrRefresh) {
				t.Error(err)
			}
			if err == nil {
				mu.Lock()
				defer mu.Unlock()
				won = append(won, next)
			}
		})
	}
	group.Wait()
	if len(won) != 1 || p.accepted(won[0]) != nil {
		t.Errorf("%d winners, and the session must have ended", len(won))
	}
}

func TestWrongRefreshTokenIsRefused(t *testing.T) {
	p := newPlatform(t, roomy)
	p.register("ada@example.com", access.RoleUser)
	good := p.login("ada@example.com").Refresh.Reveal()
	for _, token := range []string{
		"", "kwr_", good[:len(good)-1], good + "A", strings.ToUpper(good), good[4:], " " + good, "kwr_" + strings.Repeat("A", 43),
		strings.Repeat("A", 1<<20), "\x00", good[:len(good)-1] + "\x00", p.login("ada@example.com").Access.Reveal(),
	} {
		if _, err := p.Refresh(p.from(home), token, ""); !errors.Is(err, session.ErrRefresh) || problem.From(err).Challenge == "" {
			t.Errorf("%.60q: %v", token, err)
		}
	}
	if _, err := p.Refresh(p.from(home), good, ""); err != nil {
		t.Errorf("the good one after the wrong ones: %v", err)
	}
}

func TestRefreshEndsWithTheSession(t *testing.T) {
	t.Run("idle", func(t *testing.T) {
		p := newPlatform(t, roomy)
		p.register("ada@example.com", access.RoleUser)
		tokens := p.login("ada@example.com")
		p.advance(idleTTL - time.Second)
		tokens, err := p.refresh(tokens)
		p.must(err)
		p.advance(idleTTL)
		if _, err := p.refresh(tokens); !errors.Is(err, session.ErrRefresh) {
			t.Errorf("error %v", err)
		}
	})
	t.Run("expired", func(t *testing.T) {
		p := newPlatform(t, roomy)
		p.register("ada@example.com", access.RoleUser)
		tokens := p.login("ada@example.com")
		var err error
		for p.advance(idleTTL - time.Hour); err == nil; p.advance(idleTTL - time.Hour) {
			tokens, err = p.refresh(tokens)
		}
		if !errors.Is(err, session.ErrRefresh) || p.accepted(tokens) != nil {
			t.Errorf("error %v", err)
		}
	})
}

func TestLogoutEndsEverythingOfTheSessionAtOnce(t *testing.T) {
	p := newPlatform(t, roomy)
	u := p.register("ada@example.com", access.RoleUser)
	tokens, other := p.login("ada@example.com"), p.login("ada@example.com")
	caller := p.accepted(tokens)
	p.must(p.End(p.from(home), u.ID, caller.SessionID))
	if p.accepted(tokens) != nil {
		t.Error("the access token lives on")
	}
	if _, err := p.refresh(tokens); !errors.Is(err, session.ErrRefresh) {
		t.Errorf("refresh: %v", err)
	}
	if p.accepted(other) == nil {
		t.Error("another session ends too")
	}
	for name, id := range map[string]string{"again": caller.SessionID, "unknown": "01890a5d-ac96-774b-bcce-b302099a8057", "malformed": "x"} {
		if err := p.End(p.from(home), u.ID, id); !errors.Is(err, session.ErrNotFound) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSessionIsEndedByItsOnlySpelling(t *testing.T) {
	p := newPlatform(t, roomy)
	u := p.register("ada@example.com", access.RoleUser)
	tokens := p.login("ada@example.com")
	caller := p.accepted(tokens)
	err := p.End(p.from(home), u.ID, strings.ToUpper(caller.SessionID))
	if refused := errors.Is(err, session.ErrNotFound); refused == (p.accepted(tokens) == nil) {
		t.Errorf("the answer is %v, and that the token is refused is %v", err, p.accepted(tokens) == nil)
	}
	_, err = p.accounts.Update(p.from(home), strings.ToUpper(u.ID), account.Patch{Disabled: new(bool)})
	if !errors.Is(err, account.ErrNotFound) {
		t.Errorf("error %v", err)
	}
}

func TestUserWithoutStandingIsRefused(t *testing.T) {
	yes := true
	for name, fall := range map[string]func(p *platform, id string) error{
		"disabled": func(p *platform, id string) error {
			_, err := p.accounts.Update(p.from(home), id, account.Patch{Disabled: &yes})
			return err
		},
		"deleted": func(p *platform, id string) error { return p.accounts.Delete(p.from(home), id) },
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlatform(t, roomy)
			u := p.register("ada@example.com", access.RoleUser)
			tokens := p.login("ada@example.com")
			if p.accepted(tokens) == nil {
				t.Fatal("refused before")
			}
			p.must(fall(p, u.ID))
			if p.accepted(tokens) != nil {
				t.Error("the access token lives on")
			}
			if _, err := p.refresh(tokens); !errors.Is(err, session.ErrRefresh) {
				t.Errorf("refresh: %v", err)
			}
			if _, err := p.Login(p.from(home), u.Email, password, ""); !errors.Is(err, account.ErrCredentials) {
				t.Errorf("login: %v", err)
			}
		})
	}
}

func TestRefreshAsksForTheUsersStanding(t *testing.T) {
	p := newPlatform(t, roomy)
	u := p.register("ada@example.com", access.RoleUser)
	for name, get := range map[string]accountsFunc{
		"disabled": func(context.Context) (account.User, error) { u.Disabled = true; return u, nil },
		"deleted":  func(context.Context) (account.User, error) { return account.User{}, account.ErrNotFound },
	} {
		tokens := p.login("ada@example.com")
		options := p.Options
		options.Accounts = get
		if _, err := session.NewService(options).Refresh(p.from(home), tokens.Refresh.Reveal(), ""); !errors.Is(err, session.ErrRefresh) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRoleChangeIsSeenByLiveTokens(t *testing.T) {
	p := newPlatform(t, roomy)
	p.register("root@example.com", access.RoleAdmin)
	u := p.register("ada@example.com", access.RoleAdmin)
	tokens := p.login("ada@example.com")
	if !p.accepted(tokens).Has(access.ScopeUsersWrite) {
		t.Fatal("an admin may not")
	}
	role := access.RoleUser
	_, err := p.accounts.Update(p.from(home), u.ID, account.Patch{Role: &role})
	p.must(err)
	if caller := p.accepted(tokens); caller.Has(access.ScopeUsersWrite) || caller.Role != access.RoleUser {
		t.Errorf("%+v", caller)
	}
}

// throttled checks that an error is the 429 of throttling, and returns its wait.
func throttled(t *testing.T, err error) time.Duration {
	t.Helper()
	found := problem.From(err)
	if !errors.Is(err, access.ErrThrottled) || found.Kind.Status() != http.StatusTooManyRequests || found.RetryAfter <= 0 {
		t.Fatalf("error %v", err)
	}
	return found.RetryAfter
}

// stranger is the n-th of many addresses that no account was used from.
func stranger(n int) string { return fmt.Sprintf("198.51.%d.%d", n/250, n%250+1) }

func TestGuessingFromManyAddressesIsThrottledAndTheOwnerIsNotLockedOut(t *testing.T) {
	p := newPlatform(t, limits{account: 5, address: 50, known: 3})
	p.register("ada@example.com", access.RoleUser)
	p.register("bob@example.com", access.RoleUser)
	p.login("ada@example.com") // from home, before anything happens
	p.login("bob@example.com") // who lives there, too
	for n := range 5 {
		if _, err := p.Login(p.from(stranger(n)), "ada@example.com", wrong, ""); !errors.Is(err, account.ErrCredentials) {
			t.Fatalf("guess %d: %v", n, err)
		}
	}
	for n := range 20 {
		_, err := p.Login(p.from(stranger(100+n)), " ADA@example.com", password, "")
		if wait := throttled(t, err); wait > time.Minute {
			t.Errorf("an attempt comes back every minute, not after %v", wait)
		}
	}
	for range 10 {
		p.login("ada@example.com") // the owner, from home, as often as she likes
	}
	if _, err := p.Login(p.from(stranger(200)), "bob@example.com", password, ""); err != nil {
		t.Errorf("another account: %v", err)
	}

	// A guesser who shares the owner's address has a bucket, too.
	for range 3 {
		if _, err := p.Login(p.from(home), "ada@example.com", wrong, ""); !errors.Is(err, account.ErrCredentials) {
			t.Fatal(err)
		}
	}
	_, err := p.Login(p.from(home), "ada@example.com", password, "")
	wait := throttled(t, err)

	for n := range 5 {
		if _, err := p.Login(p.from(stranger(n)), "bob@example.com", wrong, ""); !errors.Is(err, account.ErrCredentials) {
			t.Fatal(err)
		}
	}
	p.login("bob@example.com") // by a bucket of his own

	p.advance(wait)
	p.login("ada@example.com")
	if _, err := p.Login(p.from(stranger(300)), "ada@example.com", password, ""); err != nil {
		t.Errorf("from anywhere, when an attempt has come back: %v", err)
	}
}

func TestGuessingFromOneAddressIsThrottled(t *testing.T) {
	p := newPlatform(t, limits{account: 100, address: 5, known: 100})
	p.register("ada@example.com", access.RoleUser)
	for n := range 5 { // another account each time
		if _, err := p.Login(p.from("2001:db8::1"), fmt.Sprintf("user%d@example.com", n), wrong, ""); !errors.Is(err, account.ErrCredentials) {
			t.Fatal(err)
		}
	}
	for _, address := range []string{"2001:db8::1", "2001:db8::2", "2001:db8:0:0:ffff::1"} {
		_, err := p.Login(p.from(address), "ada@example.com", password, "")
		throttled(t, err)
		_, err = p.Refresh(p.from(address), "kwr_"+strings.Repeat("A", 43), "")
		throttled(t, err)
	}
	if _, err := p.Login(p.from("2001:db8:0:1::1"), "ada@example.com", password, ""); err != nil {
		t.Errorf("another network: %v", err)
	}
	if n := len(p.recorded(audit.LoginFailed)); n != 5 {
		t.Errorf("%d failures are recorded of 5 that were checked", n)
	}
}

func TestSuccessAndOutageCostNothing(t *testing.T) {
	p := newPlatform(t, limits{account: 2, address: 2, known: 2})
	u := p.register("ada@example.com", access.RoleUser)
	tokens := p.login("ada@example.com")
	for range 5 {
		p.login("ada@example.com")
		var err error
		tokens, err = p.refresh(tokens)
		p.must(err)
	}
	away := errors.New("the database is away")
	options := p.Options
	options.Accounts = accountsFunc(func(context.Context) (account.User, error) { return u, away })
	options.Store = awayStore{p.store, away}
	service := session.NewService(options)
	for range 5 {
		if _, err := service.Login(p.from(home), u.Email, password, ""); !errors.Is(err, away) {
			t.Fatal(err)
		}
		if _, err := service.Refresh(p.from(home), tokens.Refresh.Reveal(), ""); !errors.Is(err, away) {
			t.Fatal(err)
		}
	}
	p.login("ada@example.com")

	for range 2 { // exhausts the account
		if _, err := p.Login(p.from(stranger(1)), u.Email, wrong, ""); !errors.Is(err, account.ErrCredentials) {
			t.Fatal(err)
		}
	}
	for range 5 {
		if _, err := service.Login(p.from(home), u.Email, password, ""); !errors.Is(err, away) {
			t.Fatal(err) // whether the address is known cannot be told
		}
	}
	p.login("ada@example.com")
}

// awayStore fails where a login begins and a refresh asks.
type awayStore struct {
	*postgres.Store
	err error
}

func (s awayStore) KnownClient(context.Context, string, string) (bool, error) { return false, s.err }

func (s awayStore) SpendRefresh(context.Context, [32]byte, [32]byte, time.Time, time.Time, string, string) (session.Session, error) {
	return session.Session{}, s.err
}

func TestParallelGuessesStayWithinTheBurst(t *testing.T) {
	for name, c := range map[string]struct {
		limits limits
		from   func(n int) string
	}{
		"one account, many addresses":  {limits{account: 5, address: 1000, known: 1000}, stranger},
		"one address":                  {limits{account: 1000, address: 5, known: 1000}, func(int) string { return stranger(1) }},
		"one account, a known address": {limits{account: 1, address: 1000, known: 4}, func(int) string { return home }},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlatform(t, c.limits)
			p.register("ada@example.com", access.RoleUser)
			p.login("ada@example.com")
			var (
				group            sync.WaitGroup
				mu               sync.Mutex
				checked, refused int
			)
			start := make(chan struct{})
			for n := range 40 {
				group.Go(func() {
					<-start
					_, err := p.Login(p.from(c.from(n)), "ada@example.com", wrong, "")
					mu.Lock()
					defer mu.Unlock()
					switch {
					case errors.Is(err, account.ErrCredentials):
						checked++
					case errors.Is(err, access.ErrThrottled):
						refused++
					default:
						t.Error(err)
					}
				})
			}
			close(start)
			group.Wait()
			if checked != 5 || refused != 35 {
				t.Errorf("%d guesses were checked, %d refused", checked, refused)
			}
			if n := len(p.recorded(audit.LoginFailed)); n != checked {
				t.Errorf("%d failures are recorded of %d", n, checked)
			}
		})
	}
}

// Package app is the composition root: from configuration to an object graph,
// to a running program, to its end. It may import anything; nothing but the
// command line imports it.
package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"go.opentelemetry.io/otel/trace"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/account"
	"github.com/keywarden/keywarden/pkg/apikey"
	"github.com/keywarden/keywarden/pkg/audit"
	"github.com/keywarden/keywarden/pkg/changes"
	"github.com/keywarden/keywarden/pkg/config"
	"github.com/keywarden/keywarden/pkg/kvm"
	"github.com/keywarden/keywarden/pkg/revision"
	"github.com/keywarden/keywarden/pkg/seal"
	"github.com/keywarden/keywarden/pkg/session"
	"github.com/keywarden/keywarden/pkg/slowhash"
	"github.com/keywarden/keywarden/pkg/store/postgres"
	"github.com/keywarden/keywarden/pkg/throttle"
)

// Env is what the process gets from outside: the program never reads its
// environment elsewhere, so that a test can start the whole of it.
type Env struct {
	Lookup func(name string) (string, bool)
	IsRoot bool
}

// DataDir is the folder for local files.
func (e Env) DataDir(cfg *config.Config) (string, error) {
	return config.DataDir(cfg, e.Lookup, e.IsRoot)
}

// Platform is the domains over one database, without any listener. Commands such
// as "admin create" use it as it is; the server runs on top of it.
type Platform struct {
	Store     *postgres.Store
	Ring      *seal.Keyring
	Chain     audit.Chain // set by Connect
	Roles     access.Roles
	ReplicaID string
	Follower  *changes.Follower
	Accounts  *account.Service
	Sessions  *session.Service
	Signer    *session.Signer
	Tokens    *session.Verifier
	Keys      *apikey.Service
	KeyCheck  *apikey.Verifier
	Revisions *revision.Service
	Limiters  Limiters
	Secrets   *kvm.Service

	nudgeSigner chan struct{}
	connected   atomic.Bool
}

// PlatformOptions is what a platform is made of. All fields but Tracer and Limiters
// are required.
type PlatformOptions struct {
	Config *config.Config
	URL    seal.Secret // of the database
	Ring   *seal.Keyring
	Tracer trace.TracerProvider
	Logger *slog.Logger

	// Limiters makes what throttles guesses, once there are store and follower; without
	// it, attempts are counted in memory.
	Limiters func(p *Platform) (Limiters, error)
}

// Limiters makes what throttles guesses.
type Limiters interface {
	// Limiter allows burst attempts at once and one more per refill. name is that of
	// no other.
	Limiter(name string, burst int, refill time.Duration) (*throttle.Limiter, error)
}

// inMemory are limiters that count in the memory of this process.
type inMemory struct{}

// Limiter implements Limiters.
func (inMemory) Limiter(_ string, burst int, refill time.Duration) (*throttle.Limiter, error) {
	return throttle.New(burst, refill, time.Now)
}

// OpenPlatform is [NewPlatform] and [Platform.Connect].
func OpenPlatform(ctx context.Context, o PlatformOptions) (*Platform, error) {
	p, err := NewPlatform(ctx, o)
	if err != nil {
		return nil, err
	}
	if err := p.Connect(ctx); err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

// NewPlatform builds the domains without asking the database for anything. Until
// [Platform.Connect] has succeeded no credential can be checked and nothing can be
// changed: who tries is told to come again. The caller closes the platform.
func NewPlatform(ctx context.Context, o PlatformOptions) (_ *Platform, err error) {
	cfg, logger := o.Config, o.Logger
	store, err := postgres.Open(ctx, postgres.Options{
		URL: o.URL, MaxConnections: int32(cfg.Database.MaxConnections),
		ConnectTimeout: cfg.Database.ConnectTimeout, QueryTimeout: cfg.Database.QueryTimeout, Tracer: o.Tracer,
	})
	if err != nil {
		return nil, err
	}
	replica, err := uuid.NewV7()
	if err != nil {
		store.Close()
		return nil, err
	}
	p := &Platform{Store: store, Ring: o.Ring, ReplicaID: replica.String(), nudgeSigner: make(chan struct{}, 1)}
	defer func() {
		if err != nil {
			store.Close()
		}
	}()
	if p.Roles, err = access.NewRoles(cfg.Accounts.UserScopes); err != nil {
		return nil, err
	}
	p.Follower = changes.NewFollower(changes.Options{
		Log: store, Registry: store, ReplicaID: p.ReplicaID,
		PollInterval: cfg.Revocation.PollInterval, MaxStaleness: cfg.Revocation.MaxStaleness,
		Logger: logger, Now: time.Now,
	})
	p.Limiters = inMemory{}
	if o.Limiters != nil {
		if p.Limiters, err = o.Limiters(p); err != nil {
			return nil, err
		}
	}
	if err := p.buildAccounts(ctx, cfg); err != nil {
		return nil, err
	}
	if err := p.buildSessions(cfg, logger); err != nil {
		return nil, err
	}
	if err := p.buildKeys(cfg, logger); err != nil {
		return nil, err
	}
	p.Revisions = revision.NewService(revision.Options{Store: store, Notify: p.Follower.Apply, Now: time.Now})
	p.Secrets = kvm.NewService(kvm.Options{Store: p.Store, Ring: p.Ring, Notify: p.Follower.Apply, Logger: logger})
	p.subscribe()
	return p, nil
}

// Connect reads what the domains need before they can work: the key of the audit
// chain, and the signing keys. The schema must be current. It may be called again
// after it has failed.
func (p *Platform) Connect(ctx context.Context) (err error) {
	if p.Chain, err = p.Store.LoadChain(ctx, p.Ring); err != nil {
		return err
	}
	if err := p.Signer.Refresh(ctx); err != nil {
		return err
	}
	p.connected.Store(true)
	return nil
}

// errNotConnected is a look-up in a database of which nobody knows yet whether it
// has this schema and was used with this master key.
var errNotConnected = errors.New("the platform is not connected to its database yet")

// keyStore is the store for the verification of keys, which begins when the
// platform is connected. Tokens wait for the signing keys, and changes for the key
// of the audit chain.
type keyStore struct {
	*postgres.Store
	connected *atomic.Bool
}

// KeyByPublicID implements apikey.VerifyStore.
func (s keyStore) KeyByPublicID(ctx context.Context, publicID string) (apikey.Stored, error) {
	if !s.connected.Load() {
		return apikey.Stored{}, postgres.ErrUnavailable.With(errNotConnected)
	}
	return s.Store.KeyByPublicID(ctx, publicID)
}

func (p *Platform) buildAccounts(ctx context.Context, cfg *config.Config) error {
	concurrency := cfg.Accounts.HashConcurrency
	if concurrency == 0 {
		concurrency = max(1, runtime.NumCPU()/2)
	}
	pool, err := slowhash.New(cfg.Accounts.BcryptCost, concurrency)
	if err != nil {
		return err
	}
	hasher, err := account.NewHasher(ctx, pool)
	if err != nil {
		return err
	}
	p.Accounts = account.NewService(account.Options{
		Store: p.Store, Hasher: hasher, Roles: p.Roles, Notify: p.Follower.Apply,
		PasswordMinLength: cfg.Accounts.PasswordMinLength, Now: time.Now,
	})
	return nil
}

func (p *Platform) buildSessions(cfg *config.Config, logger *slog.Logger) (err error) {
	p.Signer = session.NewSigner(session.TokenOptions{
		Issuer: cfg.Tokens.Issuer, Audience: cfg.Tokens.Audience, TTL: cfg.Tokens.AccessTTL,
		Leeway: cfg.Tokens.Leeway, Rotation: cfg.Tokens.SigningKeyRotation, Roles: p.Roles, Ring: p.Ring,
		Keys: p.Store, Now: time.Now, Logger: logger,
	})
	var throttles session.Throttles
	t := cfg.Throttle
	for _, make := range []struct {
		limiter **throttle.Limiter
		name    string
		burst   int
		refill  time.Duration
	}{
		{&throttles.Account, "account", t.AccountFailures, t.AccountRefill},
		{&throttles.Known, "known", t.AccountFailures, t.AccountRefill},
		{&throttles.Address, "address", t.AddressFailures, t.AddressRefill},
	} {
		if *make.limiter, err = p.Limiters.Limiter(make.name, make.burst, make.refill); err != nil {
			return err
		}
	}
	p.Sessions = session.NewService(session.Options{
		Store: p.Store, Accounts: p.Accounts, Signer: p.Signer, Throttles: throttles, Notify: p.Follower.Apply,
		IdleTTL: cfg.Tokens.RefreshIdleTTL, TTL: cfg.Tokens.SessionTTL, Now: time.Now, Logger: logger,
	})
	p.Tokens, err = session.NewVerifier(session.VerifierOptions{
		Signer: p.Signer, Store: p.Store, Fresh: p.Follower.Fresh, Roles: p.Roles,
		Entries: cfg.Keys.CacheEntries, Timeout: cfg.Database.VerifyTimeout, Now: time.Now, Logger: logger,
	})
	return err
}

// keyMissBurst is how many unknown keys one address may try at once, and
// keyMissRefill how soon it may try another. They only bound the load on the
// database: a guess at 190 random bits needs no other limit.
const (
	keyMissBurst  = 200
	keyMissRefill = 20 * time.Millisecond
)

func (p *Platform) buildKeys(cfg *config.Config, logger *slog.Logger) error {
	peppers, err := apikey.NewPeppers(p.Ring)
	if err != nil {
		return err
	}
	pool, err := slowhash.New(cfg.Keys.BcryptCost, max(1, runtime.NumCPU()/2))
	if err != nil {
		return err
	}
	misses, err := throttle.New(keyMissBurst, keyMissRefill, time.Now)
	if err != nil {
		return err
	}
	p.Keys = apikey.NewService(apikey.Options{
		Store: p.Store, Hasher: pool, Peppers: peppers, Ring: p.Ring, Roles: p.Roles, Notify: p.Follower.Apply,
		Prefix: cfg.Keys.Prefix, MaxPerUser: cfg.Keys.MaxPerUser, IdempotencyTTL: cfg.Keys.IdempotencyTTL, Now: time.Now,
	})
	p.KeyCheck, err = apikey.NewVerifier(apikey.VerifierOptions{
		Store: keyStore{p.Store, &p.connected}, Hasher: pool, Peppers: peppers, Roles: p.Roles, Prefix: cfg.Keys.Prefix,
		Fresh: p.Follower.Fresh, Misses: misses, Entries: cfg.Keys.CacheEntries,
		Timeout: cfg.Database.VerifyTimeout, Now: time.Now, Logger: logger,
	})
	return err
}

// subscribe lets everything that caches hear of changes.
func (p *Platform) subscribe() {
	p.Follower.Subscribe(p.KeyCheck.Apply, p.KeyCheck.Reset)
	p.Follower.Subscribe(p.Tokens.Apply, p.Tokens.Reset)
	nudge := func() {
		select {
		case p.nudgeSigner <- struct{}{}:
		default:
		}
	}
	p.Follower.Subscribe(func(e changes.Event) {
		if e.Kind == changes.SigningKeysChanged {
			nudge()
		}
	}, nudge)
}

// Start begins following changes, on a connected platform.
func (p *Platform) Start(ctx context.Context) error {
	if err := p.Follower.Start(ctx); err != nil {
		return fmt.Errorf("follow changes: %w", err)
	}
	return nil
}

// Tasks are what must run from the start until the end.
func (p *Platform) Tasks(logger *slog.Logger) []func(context.Context) error {
	return []func(context.Context) error{
		p.Follower.Run,
		func(ctx context.Context) error { return p.Signer.Run(ctx, p.nudgeSigner) },
		p.KeyCheck.Run,
		func(ctx context.Context) error { return p.Store.RunJanitor(ctx, time.Now, logger) },
	}
}

// Close ends the connections.
func (p *Platform) Close() { p.Store.Close() }

// Package platform connects the domains of the platform's own side with their store
// and with each other: accounts, sessions, keys, the catalog, secrets, revisions, and
// what tells replicas of changes.
package platform

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/trace"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/account"
	"github.com/keywarden/keywarden/pkg/apikey"
	"github.com/keywarden/keywarden/pkg/app/keysafety"
	"github.com/keywarden/keywarden/pkg/audit"
	"github.com/keywarden/keywarden/pkg/catalog"
	"github.com/keywarden/keywarden/pkg/changes"
	"github.com/keywarden/keywarden/pkg/config"
	"github.com/keywarden/keywarden/pkg/keyguard"
	"github.com/keywarden/keywarden/pkg/kvm"
	"github.com/keywarden/keywarden/pkg/privilege"
	"github.com/keywarden/keywarden/pkg/revision"
	"github.com/keywarden/keywarden/pkg/seal"
	"github.com/keywarden/keywarden/pkg/session"
	"github.com/keywarden/keywarden/pkg/slowhash"
	"github.com/keywarden/keywarden/pkg/store/postgres"
	"github.com/keywarden/keywarden/pkg/throttle"
)

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
	Catalog   *catalog.Service
	Products  *catalog.Directory
	Reports   *keyguard.Service
	Alarms    *keyguard.Alarms
	ScopeUses *privilege.Recorder

	nudgeSigner chan struct{}
	connected   atomic.Bool
}

// Options is what a platform is made of. All fields but Tracer and Limiters
// are required.
type Options struct {
	Config *config.Config
	URL    seal.Secret // of the database
	Ring   *seal.Keyring
	Tracer trace.TracerProvider
	Meter  metric.Meter // nil for none
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

// Open is [New] and [Platform.Connect].
func Open(ctx context.Context, o Options) (*Platform, error) {
	p, err := New(ctx, o)
	if err != nil {
		return nil, err
	}
	if err := p.Connect(ctx); err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

// New builds the domains without asking the database for anything. Until
// [Platform.Connect] has succeeded no credential can be checked and nothing can be
// changed: who tries is told to come again. The caller closes the platform.
func New(ctx context.Context, o Options) (_ *Platform, err error) {
	cfg, logger, meter := o.Config, o.Logger, o.Meter
	if meter == nil {
		meter = noop.Meter{}
	}
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
	applied, err := observeChanges(meter)
	if err != nil {
		return nil, err
	}
	p.Follower = changes.NewFollower(changes.Options{
		Log: store, Registry: store, ReplicaID: p.ReplicaID,
		PollInterval: cfg.Revocation.PollInterval, MaxStaleness: cfg.Revocation.MaxStaleness,
		Logger: logger, Now: time.Now, Applied: applied,
	})
	p.Limiters = inMemory{}
	if o.Limiters != nil {
		if p.Limiters, err = o.Limiters(p); err != nil {
			return nil, err
		}
	}
	if err := p.buildAccounts(cfg); err != nil {
		return nil, err
	}
	if err := p.buildSessions(cfg, logger); err != nil {
		return nil, err
	}
	if err := p.buildKeys(cfg, meter, logger); err != nil {
		return nil, err
	}
	p.Revisions = revision.NewService(revision.Options{Store: store, Notify: p.Follower.Apply, Now: time.Now})
	p.Catalog = catalog.NewService(catalog.Options{Store: p.Store, Notify: p.Follower.Apply, AppsPerUser: appsPerUser, Now: time.Now})
	p.Products = catalog.NewDirectory(p.Store, cfg.Database.QueryTimeout, logger)
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

func (p *Platform) buildAccounts(cfg *config.Config) error {
	concurrency := cfg.Accounts.HashConcurrency
	if concurrency == 0 {
		concurrency = max(1, runtime.NumCPU()/2)
	}
	pool, err := slowhash.New(cfg.Accounts.BcryptCost, concurrency)
	if err != nil {
		return err
	}
	p.Accounts = account.NewService(account.Options{
		Store: p.Store, Hasher: account.NewHasher(pool), Roles: p.Roles, Notify: p.Follower.Apply,
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

// appsPerUser bounds the apps of one developer.
const appsPerUser = 20

// keyMissBurst is how many unknown keys one address may try at once, and
// keyMissRefill how soon it may try another. They only bound the load on the
// database: a guess at 190 random bits needs no other limit.
const (
	keyMissBurst  = 200
	keyMissRefill = 20 * time.Millisecond

	reportBurst  = 20 // reports of leaked keys by one address
	reportRefill = 10 * time.Second
)

// scopeUses bounds the scopes of keys whose last use is remembered between two writes.
const scopeUses = 100_000

func (p *Platform) buildKeys(cfg *config.Config, meter metric.Meter, logger *slog.Logger) error {
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
	if p.Alarms, err = keysafety.OpenAlarms(p.Store, meter, logger); err != nil {
		return err
	}
	p.ScopeUses, err = privilege.NewRecorder(privilege.Options{Store: p.Store, Entries: scopeUses, Now: time.Now, Logger: logger})
	if err != nil {
		return err
	}
	reports, err := p.Limiters.Limiter("key-reports", reportBurst, reportRefill)
	if err != nil {
		return err
	}
	p.KeyCheck, err = apikey.NewVerifier(apikey.VerifierOptions{
		Store: keyStore{p.Store, &p.connected}, Hasher: pool, Peppers: peppers, Roles: p.Roles, Prefix: cfg.Keys.Prefix,
		Fresh: p.Follower.Fresh, Misses: misses, Entries: cfg.Keys.CacheEntries,
		Timeout: cfg.Database.VerifyTimeout, Now: time.Now, Logger: logger, Canary: p.Alarms.Used,
	})
	p.Reports = keyguard.New(keyguard.Options{Prover: p.KeyCheck, Keys: p.Store, Reports: reports, Notify: p.Follower.Apply, Now: time.Now})
	return err
}

// subscribe lets everything that caches hear of changes.
func (p *Platform) subscribe() {
	p.Follower.Subscribe(p.KeyCheck.Apply, p.KeyCheck.Reset)
	p.Follower.Subscribe(p.Tokens.Apply, p.Tokens.Reset)
	p.Follower.Subscribe(p.Products.Apply, p.Products.Reset)
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
	if err := p.Products.Load(ctx); err != nil {
		return fmt.Errorf("read the products: %w", err)
	}
	return nil
}

// Followers take in what has changed, from the start until the end: as soon as the
// program serves, what is changed takes effect.
func (p *Platform) Followers() []func(context.Context) error {
	return []func(context.Context) error{
		p.Follower.Run,
		func(ctx context.Context) error { p.Products.Run(ctx); return nil },
	}
}

// Chores are what else must run, from soon after the start until the end.
func (p *Platform) Chores(logger *slog.Logger) []func(context.Context) error {
	return []func(context.Context) error{
		func(ctx context.Context) error { return p.Signer.Run(ctx, p.nudgeSigner) },
		p.KeyCheck.Run,
		p.Alarms.Run,
		p.ScopeUses.Run,
		func(ctx context.Context) error { return p.Store.RunJanitor(ctx, time.Now, logger) },
	}
}

// Close ends the connections.
func (p *Platform) Close() { p.Store.Close() }

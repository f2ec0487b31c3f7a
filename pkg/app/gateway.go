package app

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/keywarden/keywarden/pkg/app/alerting"
	"github.com/keywarden/keywarden/pkg/app/lifecycle"
	"github.com/keywarden/keywarden/pkg/app/platform"
	"github.com/keywarden/keywarden/pkg/app/shared"
	"github.com/keywarden/keywarden/pkg/changes"
	"github.com/keywarden/keywarden/pkg/config"
	"github.com/keywarden/keywarden/pkg/decision"
	"github.com/keywarden/keywarden/pkg/gateway"
	"github.com/keywarden/keywarden/pkg/gateway/admission"
	"github.com/keywarden/keywarden/pkg/gateway/feed"
	"github.com/keywarden/keywarden/pkg/gateway/policy/plan"
	"github.com/keywarden/keywarden/pkg/kvm"
)

// scopeName names what the gateway measures and traces.
const scopeName = "github.com/keywarden/keywarden/pkg/gateway"

// openCounters makes the counters of rate limits, which are those of guesses, too.
func (a *application) openCounters(p *platform.Platform) (_ platform.Limiters, err error) {
	a.counters, err = shared.OpenCounters(shared.CounterOptions{
		Config: a.Config, Private: a.database.Private, Store: p.Store.RateLimits(), Replicas: p.Follower.Live,
		Meter: a.telemetry.MeterProvider().Meter(sharedScope), Logger: a.Logger,
	})
	return a.counters, err
}

// sharedScope names what package shared measures.
const sharedScope = "github.com/keywarden/keywarden/pkg/app/shared"

// openShared makes what the requests of all replicas use up and leave behind.
func (a *application) openShared(closing *lifecycle.Cleanups) (err error) {
	a.shared, err = shared.New(shared.Options{
		Config: a.Config, Counters: a.counters, Store: a.platform.Store, ReplicaID: a.platform.ReplicaID,
		Replicas: a.platform.Follower.Live, Notify: a.platform.Follower.Apply,
		Meter: a.telemetry.MeterProvider().Meter(sharedScope), Logger: a.Logger,
	})
	if err != nil {
		return err
	}
	closing.Add("shared state", a.shared.Close)
	a.platform.Follower.Subscribe(a.shared.Apply, a.shared.Reset)
	a.chores = append(a.chores, a.shared.Tasks()...)
	return nil
}

// heldSecrets bounds the secrets that are kept in memory, each of at most
// [kvm.MaxValue] bytes.
const heldSecrets = 1000

// openSecrets makes what reads the secrets that the gateway document names.
func (a *application) openSecrets() (*kvm.Reader, error) {
	p := a.platform
	reader, err := kvm.NewReader(kvm.ReaderOptions{
		Source: p.Store, Ring: p.Ring, Environment: a.Config.Gateway.Environment, Entries: heldSecrets,
		Timeout: a.Config.Database.VerifyTimeout, MaxStale: max(kvm.Refresh, a.Config.Revocation.MaxStaleness), Now: time.Now,
	})
	if err != nil {
		return nil, err
	}
	p.Follower.Subscribe(reader.Apply, reader.Reset)
	a.followers = append(a.followers, func(ctx context.Context) error { p.Secrets.Run(ctx); return nil })
	return reader, nil
}

// openGateway makes the data plane and gives it its document. A document that is
// not valid at the start is an error; later ones are refused and the last good
// one goes on.
func (a *application) openGateway(closing *lifecycle.Cleanups) (err error) {
	g := a.Config.Gateway
	if a.decisions, err = decision.NewSealer(a.platform.Ring, time.Now); err != nil {
		return err
	}
	secrets, err := a.openSecrets()
	if err != nil {
		return err
	}
	a.gateway, err = gateway.New(gateway.Options{
		Secrets: secrets,
		Signer:  a.platform.Signer,
		Plans: plan.New(plan.Options{
			Products: a.platform.Products, Counters: a.counters, Meters: a.shared.Quotas, Now: time.Now,
		}),
		ScopeUsed:     a.platform.ScopeUses.Used,
		Decisions:     a.decisions,
		Files:         a.files(),
		Authenticator: a.authenticator(), Logger: a.Logger, BodyLimit: int64(g.BodyLimit), Zone: g.Zone,
		Issuer: a.Config.Tokens.Issuer, Counters: a.counters, Quotas: a.shared.Quotas, Cache: a.shared.Cache,
		Meter:  a.telemetry.MeterProvider().Meter(scopeName),
		Tracer: a.telemetry.TracerProvider().Tracer(scopeName), Propagator: a.telemetry.Propagator(),
	})
	if err != nil {
		return err
	}
	gate, err := admission.New(g.MaxInFlight, a.telemetry.MeterProvider().Meter(scopeName))
	if err != nil {
		return err
	}
	a.data = gate.Middleware(a.gateway)
	closing.Add("gateway", func(context.Context) error { a.gateway.Close(); return nil })
	a.document = &keeper{Target: a.gateway}
	a.reporter = feed.NewReporter(a.document, a.platform.Revisions, a.platform.ReplicaID, Version().Version, a.Logger)
	a.followers = append(a.followers, func(ctx context.Context) error { a.reporter.Run(ctx); return nil })
	switch {
	case g.Source == "database":
		a.openRevisions()
	case g.Source == config.SourceKubernetes:
		a.openCluster()
	case g.File != "":
		file := feed.NewFile(g.File, g.Watch, a.reporter, a.Logger)
		if err := file.Load(); err != nil {
			return fmt.Errorf("the gateway document: %w", err)
		}
		a.source = file
		a.tasks = append(a.tasks, func(ctx context.Context) error { file.Run(ctx); return nil })
	}
	return nil
}

// alertingScope names what package alerting measures.
const alertingScope = "github.com/keywarden/keywarden/pkg/app/alerting"

// openAlerting makes what watches over the installation.
func (a *application) openAlerting(closing *lifecycle.Cleanups) (err error) {
	a.alerting, err = alerting.New(alerting.Options{
		Config: a.Config.Alerts, Store: a.platform.Store, Ring: a.platform.Ring, ReplicaID: a.platform.ReplicaID,
		Backends:     func() []gateway.BackendState { return a.gateway.State().Backends },
		Certificates: a.certificates, Meter: a.telemetry.MeterProvider().Meter(alertingScope), Logger: a.Logger,
	})
	if err != nil {
		return err
	}
	a.chores = append(a.chores, a.alerting.Tasks()...)
	closing.Add("alerting", func(context.Context) error { a.alerting.Close(); return nil })
	return nil
}

// lastGoodFile is the document, below the data directory, that a start without the
// database serves.
const lastGoodFile = "gateway-last-good.json"

// openRevisions prepares to follow the revisions in the database.
func (a *application) openRevisions() {
	lastGood := ""
	if dir, err := a.Env.DataDir(a.Config); err == nil {
		lastGood = filepath.Join(dir, lastGoodFile)
	} else {
		a.Logger.Warn("the gateway document is not kept on disk: without the database, nothing is served after a start", "error", err)
	}
	a.revisions = feed.NewDatabase(feed.DatabaseOptions{
		Revisions: a.platform.Revisions, Reporter: a.reporter, Ring: a.platform.Ring, Logger: a.Logger, LastGood: lastGood,
	})
	a.platform.Follower.Subscribe(func(e changes.Event) {
		if e.Kind == changes.GatewayChanged {
			a.revisions.Wake()
		}
	}, a.revisions.Wake)
	a.source = a.revisions
	a.followers = append(a.followers, func(ctx context.Context) error { a.revisions.Run(ctx); return nil })
}

// loadRevision gives the gateway its document before the first request, where the
// database or a cluster is the source.
func (a *application) loadRevision(ctx context.Context) error {
	switch {
	case a.cluster != nil:
		a.cluster.Load(ctx)
		return nil
	case a.revisions == nil:
		return nil
	case a.connected:
		a.revisions.Load(ctx)
		return nil
	}
	if err := a.revisions.Restore(); err != nil {
		return fmt.Errorf("the database is away, and the last good gateway document cannot be served: %w", err)
	}
	return nil
}

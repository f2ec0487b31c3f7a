// Package app is the composition root: from configuration to an object graph,
// to a running program, to its end. It may import anything; nothing but the
// command line imports it.
package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/app/alerting"
	"github.com/keywarden/keywarden/pkg/app/lifecycle"
	"github.com/keywarden/keywarden/pkg/app/platform"
	"github.com/keywarden/keywarden/pkg/app/shared"
	"github.com/keywarden/keywarden/pkg/canonical"
	"github.com/keywarden/keywarden/pkg/certstore"
	"github.com/keywarden/keywarden/pkg/config"
	"github.com/keywarden/keywarden/pkg/decision"
	"github.com/keywarden/keywarden/pkg/gateway"
	"github.com/keywarden/keywarden/pkg/gateway/feed"
	"github.com/keywarden/keywarden/pkg/heap"
	"github.com/keywarden/keywarden/pkg/httpedge"
	"github.com/keywarden/keywarden/pkg/httpserver"
	"github.com/keywarden/keywarden/pkg/kubernetes"
	"github.com/keywarden/keywarden/pkg/telemetry"
)

// Options say what to run. Config, Env and Logger are required.
type Options struct {
	Config *config.Config
	Env    Env
	Logger *slog.Logger
	Reload <-chan os.Signal // each value reads the gateway document again

	KeyInDataDir bool                          // make a master key when none is configured, also for an external database
	Prepare      func() error                  // called when the data directory is held, before the gateway document is read
	Tasks        []func(context.Context) error // run beside the server
	Abandon      func()                        // called when Tasks will not be run after all

	LostLines func() int64 // of the log so far; nil where none are lost

	// Ready is called once, when requests are served; an error ends the program.
	Ready func(ctx context.Context, p *platform.Platform, addr net.Addr) error
}

// Run is the program: it opens everything, serves until ctx ends, drains, and
// closes everything in the opposite order. What was opened is closed on every
// way out.
func Run(ctx context.Context, o Options) (err error) {
	var closing lifecycle.Cleanups
	defer func() { err = errors.Join(err, closing.Run(context.WithoutCancel(ctx))) }()
	abandon := closing.Add("tasks", func(context.Context) error {
		if o.Abandon != nil {
			o.Abandon()
		}
		return nil
	})

	a := &application{Options: o, began: time.Now()}
	a.tuneHeap(ctx, &closing)
	if err := a.open(ctx, &closing); err != nil {
		return err
	}
	abandon()
	return a.serve(ctx)
}

// tuneHeap gives the heap its headroom until the end, unless the environment says how
// much it may have. It comes first: what the start leaves behind needs no collection.
func (a *application) tuneHeap(ctx context.Context, closing *lifecycle.Cleanups) {
	if set, _ := a.Env.Lookup("GOGC"); set == "" {
		closing.Go(context.WithoutCancel(ctx), "heap", heap.Tune)
	}
}

// application is everything that runs.
type application struct {
	Options
	began     time.Time
	database  *Database
	telemetry *telemetry.Telemetry
	platform  *platform.Platform
	gateway   *gateway.Gateway
	counters  *shared.Counters
	shared    *shared.State
	alerting  *alerting.Alerting
	decisions *decision.Sealer
	data      http.Handler          // the gateway behind its admission
	source    interface{ Reload() } // nil without a gateway document
	revisions *feed.Database        // nil unless the database is the source
	cluster   *kubernetes.Source    // nil unless a cluster is the source
	reporter  *feed.Reporter
	document  *keeper
	certs     *certstore.Store // nil without TLS
	server    *httpserver.Server
	metrics   *httpserver.Server // of operators; nil unless it has an address
	api       apiParts
	paths     []string // first segments of the platform's own paths; set before anything is served
	tasks     []func(context.Context) error
	followers []func(context.Context) error // tasks that need a connected platform and take changes in
	chores    []func(context.Context) error // others that need one
	ahead     <-chan schemaAnswer           // of lookAhead; nil when it was taken
	optional  bool                          // the database: there is something to serve without
	connected bool                          // the platform, when the start ended; nobody asks later
	draining  atomic.Bool
}

// open builds the object graph, then looks for the database, then listens; nothing is
// served yet. What is wrong with the configuration is known before the database is
// changed.
func (a *application) open(ctx context.Context, closing *lifecycle.Cleanups) (err error) {
	if err := a.openTelemetry(ctx, closing); err != nil {
		return err
	}
	if a.database, err = OpenDatabase(ctx, a.Config, a.Env, a.Logger); err != nil {
		return err
	}
	closing.Add("database", a.database.Close)
	if a.Prepare != nil {
		if err := a.Prepare(); err != nil {
			return err
		}
	}
	ring, err := Keyring(a.Config, a.Env, a.database.Private || a.KeyInDataDir)
	if err != nil {
		return err
	}
	a.platform, err = platform.New(ctx, platform.Options{
		Config: a.Config, URL: a.database.URL, Ring: ring, Tracer: a.telemetry.TracerProvider(),
		Meter: a.telemetry.MeterProvider().Meter(scopeName), Logger: a.Logger, Limiters: a.openCounters,
	})
	if err != nil {
		return errors.Join(err, a.counters.Close())
	}
	closing.Add("platform", func(context.Context) error { a.platform.Close(); return nil })
	closing.Add("counters", func(context.Context) error { return a.counters.Close() })
	a.lookAhead(ctx, closing)
	if err := a.openShared(closing); err != nil {
		return err
	}
	if err := a.openGateway(closing); err != nil {
		return err
	}
	if err := a.openAlerting(closing); err != nil {
		return err
	}
	if err := a.observe(); err != nil {
		return err
	}
	if err := a.openServers(closing); err != nil {
		return err
	}
	if err := a.findDatabase(ctx); err != nil {
		return err
	}
	if err := a.loadRevision(ctx); err != nil {
		return err
	}
	return a.listen()
}

func (a *application) openTelemetry(ctx context.Context, closing *lifecycle.Cleanups) (err error) {
	t := a.Config.Telemetry
	a.telemetry, err = telemetry.Setup(ctx, telemetry.Options{
		ServiceName: t.ServiceName, Version: Version().Version, SampleRatio: t.TraceSampleRatio,
		TrustIncomingTrace: t.TrustIncomingTrace, Logger: a.Logger,
		Environ: func(name string) string { v, _ := a.Env.Lookup(name); return v },
	})
	if err != nil {
		return fmt.Errorf("telemetry: %w", err)
	}
	closing.Add("telemetry", func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, flushTimeout)
		defer cancel()
		if err := a.telemetry.Shutdown(ctx); err != nil {
			// A collector that is away is no failure of this program.
			a.Logger.WarnContext(ctx, "the last traces could not be sent", "error", err)
		}
		return nil
	})
	return nil
}

// flushTimeout is how long the end waits for a collector to take the last traces.
const flushTimeout = 5 * time.Second

// serve runs until ctx ends or something that must run ends.
func (a *application) serve(ctx context.Context) error {
	// The background outlives ctx until the listeners have drained: requests in
	// flight must still hear of revocations.
	background, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	group, failed := errgroup.WithContext(background)
	if err := a.follow(ctx); err != nil {
		a.abandonTasks()
		return err
	}
	group.Go(func() error { return a.runPlatform(failed) })
	for _, task := range append(a.tasks, a.Tasks...) {
		group.Go(func() error { return task(failed) })
	}
	for _, server := range a.servers() {
		group.Go(func() error { return serveUntilShutdown(server) })
	}
	group.Go(func() error { return a.watchDatabase(failed) })
	group.Go(func() error { return a.reloads(failed) })
	err := a.announce(ctx)
	if err == nil {
		select {
		case <-ctx.Done():
		case <-failed.Done():
		}
	}
	a.drain(context.WithoutCancel(ctx))
	stop()
	return errors.Join(err, group.Wait())
}

// serveUntilShutdown ends well, too, when the shutdown was faster.
func serveUntilShutdown(server *httpserver.Server) error {
	if err := server.Serve(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// abandonTasks is for a start that fails after the tasks were taken over.
func (a *application) abandonTasks() {
	if a.Abandon != nil {
		a.Abandon()
	}
}

// announce says that requests are served.
func (a *application) announce(ctx context.Context) error {
	a.Logger.InfoContext(ctx, "serving", "addr", a.server.Addr().String(), "profiles", a.Config.Profiles,
		"version", Version().Version, "start_ms", time.Since(a.began).Milliseconds())
	if a.Ready == nil {
		return nil
	}
	return a.Ready(ctx, a.platform, a.server.Addr())
}

// drain stops the listeners: not ready first, then, after the time that a load
// balancer needs to look away, no new connections, then what is in flight gets
// its time. The main listener goes first: how that ends is still measured.
func (a *application) drain(ctx context.Context) {
	a.draining.Store(true)
	s := a.Config.Server
	a.Logger.InfoContext(ctx, "stopping", "shutdown_delay", s.ShutdownDelay.String(), "drain_timeout", s.DrainTimeout.String())
	for _, server := range a.servers() {
		ctx, cancel := context.WithTimeout(ctx, s.ShutdownDelay+s.DrainTimeout)
		if err := server.Shutdown(ctx); err != nil {
			a.Logger.WarnContext(ctx, "not everything in flight ended in time", "error", err)
		}
		cancel()
	}
}

// watchDatabase ends the program when its private server is gone.
func (a *application) watchDatabase(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-a.database.Died():
		return errors.New("the private PostgreSQL ended; see its log below the data directory")
	}
}

// reloads reads the gateway document again at each signal.
func (a *application) reloads(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-a.Reload:
			if a.source == nil {
				a.Logger.WarnContext(ctx, "there is no gateway document to read again")
				continue
			}
			a.source.Reload()
		}
	}
}

// openServers makes the servers; nobody can connect to them before they listen.
func (a *application) openServers(closing *lifecycle.Cleanups) (err error) {
	handler, err := a.handler()
	if err != nil {
		return err
	}
	s := a.Config.Server
	main := a.listenerOptions("main", s.Addr, handler)
	if main.TLS, err = a.openCertificates(closing); err != nil {
		return err
	}
	main.MaxConnectionsPerIP, main.Uncapped = s.MaxConnectionsPerIP, s.TrustedProxies
	main.DrainDelay = s.ShutdownDelay
	if main.TLS != nil {
		main.DrainGrace = drainGrace
	}
	if a.server, err = openServer(main, closing); err != nil {
		return err
	}
	if s.MetricsAddr == "" {
		return nil
	}
	operators, err := a.operatorsHandler()
	if err != nil {
		return err
	}
	a.metrics, err = openServer(a.listenerOptions("metrics", s.MetricsAddr, operators), closing)
	return err
}

// listen opens the listeners; requests wait until they are served.
func (a *application) listen() error {
	for _, server := range a.servers() {
		if err := server.Listen(); err != nil {
			return err
		}
	}
	return nil
}

// servers are those that there are, the main one first.
func (a *application) servers() []*httpserver.Server {
	if a.metrics == nil {
		return []*httpserver.Server{a.server}
	}
	return []*httpserver.Server{a.server, a.metrics}
}

// drainGrace lets clients with HTTP/2 connections find another one: a request that
// meets GOAWAY on its way has to be sent again somewhere.
const drainGrace = time.Second

// listenerOptions are what all listeners have in common.
func (a *application) listenerOptions(name, addr string, handler http.Handler) httpserver.Options {
	s := a.Config.Server
	return httpserver.Options{
		Name: name, Addr: addr, Handler: handler, Logger: a.Logger,
		ReadHeaderTimeout: s.ReadHeaderTimeout, IdleTimeout: s.IdleTimeout,
		MaxHeaderBytes: int(s.MaxHeaderBytes), MaxConnections: s.MaxConnections, Front: s.Front,
		MeterProvider: a.telemetry.MeterProvider(),
	}
}

// openServer makes a server that closing ends.
func openServer(o httpserver.Options, closing *lifecycle.Cleanups) (*httpserver.Server, error) {
	server, err := httpserver.New(o)
	if err != nil {
		return nil, err
	}
	closing.Add(o.Name+" listener", server.Shutdown)
	return server, nil
}

func (a *application) authenticator() *access.Authenticator {
	return access.NewAuthenticator(a.platform.KeyCheck, a.platform.Tokens, a.Config.Keys.Prefix, "keywarden")
}

// onlyErrors passes on what went wrong: without an access log, too, the causes of
// answers with status 500 and more must be found somewhere.
type onlyErrors struct{ slog.Handler }

// Enabled implements slog.Handler.
func (h onlyErrors) Enabled(ctx context.Context, level slog.Level) bool {
	return level >= slog.LevelError && h.Handler.Enabled(ctx, level)
}

// WithAttrs implements slog.Handler.
func (h onlyErrors) WithAttrs(attrs []slog.Attr) slog.Handler {
	return onlyErrors{h.Handler.WithAttrs(attrs)}
}

// WithGroup implements slog.Handler.
func (h onlyErrors) WithGroup(name string) slog.Handler { return onlyErrors{h.Handler.WithGroup(name)} }

// edge puts what every request passes around h, outermost first. Paths with encoded
// slashes come to slashed; nil refuses them all.
func (a *application) edge(h, slashed http.Handler) (http.Handler, error) {
	logger := a.Logger
	if !a.Config.Log.Access {
		logger = slog.New(onlyErrors{a.Logger.Handler()})
	}
	observe, err := httpedge.Observe(httpedge.ObserveOptions{
		Logger: logger, MeterProvider: a.telemetry.MeterProvider(), TracerProvider: a.telemetry.TracerProvider(),
		Draw: a.telemetry.Draw(), TrustIncomingTrace: a.Config.Telemetry.TrustIncomingTrace, Ended: a.shared.Ended,
	})
	if err != nil {
		return nil, err
	}
	h = canonical.MiddlewareWithSlashes(h, slashed)
	h = httpedge.Recover(a.Logger)(h)
	h = observe(h)
	return httpedge.RequestInfo(a.Config.Server.TrustedProxies)(h), nil
}

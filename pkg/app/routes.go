package app

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/gin-gonic/gin"

	_ "github.com/keywarden/keywarden/docs" // the API description, for Swagger UI
	"github.com/keywarden/keywarden/pkg/analytics"
	"github.com/keywarden/keywarden/pkg/canonical"
	"github.com/keywarden/keywarden/pkg/catalog"
	"github.com/keywarden/keywarden/pkg/httpapi"
	"github.com/keywarden/keywarden/pkg/httpapi/analyticsapi"
	"github.com/keywarden/keywarden/pkg/httpapi/auditapi"
	"github.com/keywarden/keywarden/pkg/httpapi/authapi"
	"github.com/keywarden/keywarden/pkg/httpapi/catalogapi"
	"github.com/keywarden/keywarden/pkg/httpapi/decisionsapi"
	"github.com/keywarden/keywarden/pkg/httpapi/figures"
	"github.com/keywarden/keywarden/pkg/httpapi/keysapi"
	"github.com/keywarden/keywarden/pkg/httpapi/quotaapi"
	"github.com/keywarden/keywarden/pkg/httpapi/systemapi"
	"github.com/keywarden/keywarden/pkg/httpapi/usageapi"
	"github.com/keywarden/keywarden/pkg/httpapi/usersapi"
	"github.com/keywarden/keywarden/pkg/keyguard"
	"github.com/keywarden/keywarden/pkg/reqctx"
	"github.com/keywarden/keywarden/pkg/store/postgres/rollup"
	"github.com/keywarden/keywarden/pkg/throttle"
)

// handler is everything the main listener serves: the platform's own paths by
// Gin, all others by the gateway, both behind the same edge.
func (a *application) handler() (http.Handler, error) {
	engine, err := a.engine()
	if err != nil {
		return nil, err
	}
	a.paths = firstSegments(engine.Routes())
	return a.edge(a.byHost(a.byPath(httpapi.Shielded(engine))), a.slashed())
}

// byPath has the gateway serve what begins like none of the platform's own paths. The
// engine would come to the same end, by a longer way.
func (a *application) byPath(platform http.Handler) http.Handler {
	own := make(map[string]bool, len(a.paths))
	for _, segment := range a.paths {
		own[segment] = true
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if own[firstSegment(r.URL.Path)] {
			platform.ServeHTTP(w, r)
			return
		}
		a.data.ServeHTTP(w, r)
	})
}

// slashed serves what has an encoded slash in its path, which only routes of the
// gateway can take. The platform takes none, and nobody who meant one of its paths
// may speak to a service, so what begins like one of them is refused, with a slash
// in the place of the encoded one, too.
func (a *application) slashed() http.Handler {
	hosts := a.Config.Server.Hosts
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		info := reqctx.From(r.Context())
		here := len(hosts) == 0 || slices.Contains(hosts, info.Host)
		if here && slices.Contains(a.paths, firstSegment(canonical.DecodeSlashes(r.URL.Path))) {
			info.Code, info.Err = info.EncodedSlash.Code, info.EncodedSlash
			info.EncodedSlash.Write(w, info.ID)
			return
		}
		a.data.ServeHTTP(w, r)
	})
}

// firstSegments are those of the platform's own paths, wherever it is mounted.
func firstSegments(platform gin.RoutesInfo) []string {
	paths := []string{firstSegment(adminRoot)}
	for _, route := range platform {
		paths = append(paths, firstSegment(route.Path))
	}
	slices.Sort(paths)
	return slices.Compact(paths)
}

// firstSegment is that of a path, which begins with a slash.
func firstSegment(path string) string {
	segment, _, _ := strings.Cut(path[1:], "/")
	return segment
}

// byHost keeps the platform's own paths to the configured hosts; every other
// host belongs to the gateway alone.
func (a *application) byHost(platform http.Handler) http.Handler {
	hosts := a.Config.Server.Hosts
	if len(hosts) == 0 {
		return platform
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if slices.Contains(hosts, reqctx.From(r.Context()).Host) {
			platform.ServeHTTP(w, r)
			return
		}
		a.data.ServeHTTP(w, r)
	})
}

// Bounds of what one user or address may do that are not worth an option.
const (
	deniedBurst    = 20 // audited refusals per user
	deniedRefill   = 10 * time.Second
	passwordBurst  = 10 // wrong current passwords per user
	passwordRefill = time.Minute

	appChangeBurst  = 60 // changes of apps and subscriptions per user
	appChangeRefill = 2 * time.Second
)

// resource is a part of the platform's own API.
type resource interface{ Mount(r gin.IRouter) }

// apiParts are what the resources of both listeners share.
type apiParts struct {
	guard   *httpapi.Guard
	cursors httpapi.Cursors
	system  *systemapi.Handler
}

// openAPI makes the parts, once.
func (a *application) openAPI() error {
	if a.api.guard != nil {
		return nil
	}
	denials, err := throttle.New(deniedBurst, deniedRefill, time.Now)
	if err != nil {
		return err
	}
	a.api.guard = &httpapi.Guard{Auth: a.authenticator(), Record: a.platform.Store.RecordAudit, Denials: denials, Logger: a.Logger, Used: a.platform.ScopeUses.Used}
	a.api.cursors = httpapi.NewCursors(a.platform.Ring.Derive("cursor"))
	a.api.system = &systemapi.Handler{
		Guard: a.api.guard, Checks: a.checks(), Draining: a.draining.Load, JWKS: a.platform.Signer.JWKS, Metrics: a.mainMetrics(),
	}
	return nil
}

// ownsSubject reports whether a key or an app is the user's; it is a [figures.Owns].
func (a *application) ownsSubject(ctx context.Context, userID, kind, value string) (bool, error) {
	if kind != figures.KindApp {
		return a.platform.Store.OwnsKey(ctx, userID, value)
	}
	_, err := a.platform.Catalog.App(ctx, userID, value)
	if errors.Is(err, catalog.ErrApp) {
		return false, nil
	}
	return err == nil, err
}

// engine is the platform's own API on the main listener: the one list of what is
// mounted there.
func (a *application) engine() (*gin.Engine, error) {
	p, t := a.platform, a.Config.Throttle
	passwords, err1 := p.Limiters.Limiter("password", passwordBurst, passwordRefill)
	registrations, err2 := p.Limiters.Limiter("registration", t.Registrations, t.RegistrationRefill)
	changesOfApps, err3 := p.Limiters.Limiter("app-changes", appChangeBurst, appChangeRefill)
	rules, err4 := keyguard.NewRules(a.Config.Keys.Prefix)
	if err := errors.Join(err1, err2, err3, err4, a.openAPI()); err != nil {
		return nil, err
	}
	guard, cursors := a.api.guard, a.api.cursors
	resources := []resource{
		&authapi.Handler{
			Accounts: p.Accounts, Sessions: p.Sessions, Guard: guard,
			RegistrationOpen: a.Config.Accounts.Registration, Registrations: registrations, Passwords: passwords,
		},
		&usersapi.Handler{Accounts: p.Accounts, Guard: guard, Cursors: cursors, Roles: p.Roles},
		&keysapi.Handler{Keys: p.Keys, Receipts: p.Follower, Guard: guard, Cursors: cursors},
		&keysapi.Safety{Reports: p.Reports, Rules: rules, Guard: guard},
		&keysapi.Privileges{Keys: p.Keys, Scopes: p.Store, Usage: p.Store, Roles: p.Roles, Guard: guard, Now: time.Now},
		&analyticsapi.Handler{
			Analytics: rollup.New(p.Store), Owns: a.ownsSubject, Retention: analytics.DefaultRetention(), Guard: guard, Now: time.Now,
		},
		&catalogapi.Handler{Catalog: p.Catalog, Guard: guard, Cursors: cursors, Changes: changesOfApps},
		&decisionsapi.Handler{Decisions: a.decisions, Guard: guard, PolicyOrder: a.gateway.PolicyOrder},
		&quotaapi.Handler{Accounts: a.shared.Accounts, Guard: guard, Cursors: cursors},
		&usageapi.Handler{Usage: p.Store, Owns: a.ownsSubject, Guard: guard, Now: time.Now},
		&auditapi.Handler{Log: p.Store, Guard: guard, Cursors: cursors},
		a.api.system,
	}
	elsewhere := httpapi.Serve(a.data)
	if a.Config.Server.MetricsAddr == "" {
		resources = append(resources, a.adminAPI()...)
	} else {
		elsewhere = httpapi.Except(adminRoot, elsewhere)
	}
	engine := httpapi.NewEngine(int64(a.Config.Server.BodyLimit), elsewhere)
	for _, resource := range resources {
		resource.Mount(engine)
	}
	return engine, nil
}

// mainMetrics serves /metrics on the main listener unless it has its own.
func (a *application) mainMetrics() http.Handler {
	if !a.Config.Telemetry.Metrics || a.Config.Server.MetricsAddr != "" {
		return nil
	}
	return a.telemetry.MetricsHandler()
}

// errStale says that cached verdicts have outlived their bound.
var errStale = errors.New("the change log has not been read for longer than the staleness bound")

// checks are the questions of readiness.
func (a *application) checks() []systemapi.Check {
	checks := []systemapi.Check{
		{Name: "database", Ask: a.platform.Store.Ping},
		{Name: "revocations", DataPlane: true, Ask: func(context.Context) error {
			if !a.platform.Follower.Fresh(time.Now()) {
				return errStale
			}
			return nil
		}},
	}
	if a.cluster != nil {
		return append(checks, a.clusterCheck())
	}
	if a.revisions == nil {
		return checks
	}
	return append(checks, systemapi.Check{Name: "gateway_document", DataPlane: true, Ask: func(context.Context) error {
		if !a.revisions.Filled() {
			return errNoDocument
		}
		return nil
	}})
}

// errNoDocument says that the gateway has no routes for want of a document that
// can be read and served.
var errNoDocument = errors.New("the current revision of the gateway document could not be served, and no earlier one is known")

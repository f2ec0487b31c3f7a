package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/analytics"
	"github.com/keywarden/keywarden/pkg/app/keysafety"
	"github.com/keywarden/keywarden/pkg/gateway"
	"github.com/keywarden/keywarden/pkg/gateway/chain"
	"github.com/keywarden/keywarden/pkg/gateway/feed"
	"github.com/keywarden/keywarden/pkg/gateway/files"
	"github.com/keywarden/keywarden/pkg/gateway/policy"
	"github.com/keywarden/keywarden/pkg/gateway/policy/plan"
	"github.com/keywarden/keywarden/pkg/httpapi"
	"github.com/keywarden/keywarden/pkg/httpapi/adminapi"
	"github.com/keywarden/keywarden/pkg/httpapi/alertsapi"
	"github.com/keywarden/keywarden/pkg/httpapi/analyticsapi"
	"github.com/keywarden/keywarden/pkg/httpapi/apisapi"
	"github.com/keywarden/keywarden/pkg/httpapi/cacheapi"
	"github.com/keywarden/keywarden/pkg/httpapi/catalogapi"
	"github.com/keywarden/keywarden/pkg/httpapi/kvmapi"
	"github.com/keywarden/keywarden/pkg/httpapi/postureapi"
	"github.com/keywarden/keywarden/pkg/httpapi/quotaapi"
	"github.com/keywarden/keywarden/pkg/httpapi/usageapi"
	"github.com/keywarden/keywarden/pkg/problem"
	"github.com/keywarden/keywarden/pkg/reqctx"
	"github.com/keywarden/keywarden/pkg/spec"
	"github.com/keywarden/keywarden/pkg/spec/policies"
	"github.com/keywarden/keywarden/pkg/spec/services"
	"github.com/keywarden/keywarden/pkg/store/postgres/rollup"
)

// adminAPI is /admin/v1.
func (a *application) adminAPI() []resource {
	guard, cursors := a.api.guard, a.api.cursors
	document := a.documentAPI(guard, cursors)
	return []resource{
		document,
		&apisapi.Handler{Document: document, Guard: guard, Cursors: cursors},
		&cacheapi.Handler{Purger: a.shared.Purges, Receipts: a.platform.Follower, Guard: guard},
		&quotaapi.Admin{Accounts: a.shared.Accounts, Guard: guard, Cursors: cursors},
		&catalogapi.Admin{Catalog: a.platform.Catalog, Guard: guard, Cursors: cursors, Routes: a.document.routes},
		&kvmapi.Handler{Secrets: a.platform.Secrets, Guard: guard, Cursors: cursors},
		&alertsapi.Handler{Alerts: a.alerting.Service, Guard: guard, Cursors: cursors},
		&postureapi.Handler{Facts: keysafety.Facts(a.Config, a.platform.Store, a.document.current, func() []string { return a.paths }), Guard: guard, Now: time.Now},
		&analyticsapi.Admin{Analytics: rollup.New(a.platform.Store), Retention: analytics.DefaultRetention(), Guard: guard, Now: time.Now},
		&usageapi.Admin{Usage: a.platform.Store, Guard: guard, Now: time.Now},
	}
}

// documentAPI is the gateway document, what is served of it, and why.
func (a *application) documentAPI(guard *httpapi.Guard, cursors httpapi.Cursors) *adminapi.Handler {
	h := &adminapi.Handler{
		Revisions: a.platform.Revisions, State: stateReader{a}, Explain: explainer{a.gateway, a.platform.Roles},
		Guard: guard, Cursors: cursors, Reload: a.reloadDocument, Check: a.files().Check,
	}
	if a.revisions == nil {
		h.File = a.document.current
	}
	return h
}

// files are those of this machine that documents may name.
func (a *application) files() files.Allowed {
	g := a.Config.Gateway
	return files.Allowed{Dir: g.FilesDir, Anywhere: g.FilesDir == "" && g.Source != "database"}
}

// reloadDocument reads the gateway document again, if there is one.
func (a *application) reloadDocument() {
	if a.source != nil {
		a.source.Reload()
	}
}

// keeper stands before the gateway and keeps the document that it serves.
type keeper struct {
	feed.Target
	served atomic.Pointer[spec.Document]
}

// Apply implements feed.Target. Only one document is applied at a time.
func (k *keeper) Apply(doc spec.Document) error {
	if err := k.Target.Apply(doc); err != nil {
		return err
	}
	k.served.Store(&doc)
	return nil
}

// current is the document in force, false before the first.
func (k *keeper) current() (spec.Document, bool) {
	doc := k.served.Load()
	if doc == nil {
		return spec.Document{}, false
	}
	return *doc, true
}

// routes are the names of the routes of the document in force, known after the first.
func (k *keeper) routes() (names []string, known bool) {
	doc, known := k.current()
	for i := range doc.Routes {
		names = append(names, doc.Routes[i].Name)
	}
	return names, known
}

// ---- what is served

// stateReader tells the state of the program in the words of the admin API.
type stateReader struct{ a *application }

// replicasSeen is how long a replica that is silent still counts.
const replicasSeen = time.Minute

// State implements adminapi.StateReader. Without the database it tells of this
// replica alone.
func (r stateReader) State(ctx context.Context) (adminapi.State, error) {
	served, serving := r.a.gateway.State(), r.a.reporter.Serving()
	s := adminapi.State{
		Source: r.a.Config.Gateway.Source, Revision: serving.Number, Digest: served.Digest,
		AppliedAt: adminapi.Moment(served.AppliedAt), Routes: served.Routes, FailedAt: adminapi.Moment(served.FailedAt),
		Services: []adminapi.ServiceState{}, Errors: []adminapi.ObjectError{}, Certificates: []adminapi.Certificate{},
	}
	if served.LastError != nil {
		s.LastError = served.LastError.Error()
	}
	for _, b := range served.Backends {
		s.Services = append(s.Services, showBackend(b))
		if b.Error != nil {
			s.Errors = append(s.Errors, adminapi.ObjectError{Object: "service", Name: b.Name, Detail: b.Error.Error()})
		}
	}
	for _, name := range slices.Sorted(maps.Keys(served.Unusable)) {
		s.Errors = append(s.Errors, adminapi.ObjectError{Object: "route", Name: name, Detail: served.Unusable[name].Error()})
	}
	s.Errors = append(s.Errors, r.a.refusedObjects()...)
	if r.a.certs != nil {
		for _, c := range r.a.certs.Certificates() {
			s.Certificates = append(s.Certificates, adminapi.Certificate{Names: c.Names, Source: c.File, NotAfter: c.NotAfter, Error: c.Error})
		}
	}
	replicas, err := r.a.platform.Revisions.Serving(ctx, replicasSeen)
	if err != nil {
		r.a.Logger.WarnContext(ctx, "the other replicas are not known", "error", err)
		return s, nil
	}
	s.Replicas = make([]adminapi.Replica, 0, len(replicas))
	for _, v := range replicas {
		s.Replicas = append(s.Replicas, adminapi.Replica{
			ID: v.Replica, Self: v.Replica == r.a.platform.ReplicaID, Version: v.Version, Revision: v.Number, Digest: v.Digest,
			AppliedAt: adminapi.Moment(v.AppliedAt), LastError: v.Error, FailedAt: adminapi.Moment(v.FailedAt), SeenAt: v.Seen.UTC(),
		})
	}
	return s, nil
}

func showBackend(b gateway.BackendState) adminapi.ServiceState {
	s := adminapi.ServiceState{Name: b.Name, Breaker: b.Breaker, Targets: []adminapi.TargetState{}}
	if src := b.Source; src != nil {
		s.Discovery = &adminapi.DiscoveryState{
			Known: src.Known, UpdatedAt: adminapi.Moment(src.UpdatedAt), FailedAt: adminapi.Moment(src.FailedAt), Failures: src.Failures,
		}
		if src.Error != nil {
			s.Discovery.Error = src.Error.Error()
		}
	}
	for _, t := range b.Targets {
		s.Targets = append(s.Targets, adminapi.TargetState{
			URL: t.URL, Available: t.Available, Down: t.Down, Ejected: t.Ejected, InFlight: t.InFlight,
			LatencyMS: float64(t.Latency.Microseconds()) / 1000,
		})
	}
	return s
}

// ---- what would become of a request

// explainer asks a gateway in the words of the admin API.
type explainer struct {
	gateway *gateway.Gateway
	roles   access.Roles
}

// Explain implements adminapi.Explainer. Mistakes in the description are a
// problem that names their fields.
func (e explainer) Explain(ctx context.Context, in adminapi.ExplainRequest) (adminapi.ExplainResult, error) {
	d, err := e.describe(ctx, in)
	if err != nil {
		return adminapi.ExplainResult{}, err
	}
	ctx = access.WithPrincipal(ctx, nil) // who asks is not who would call
	x := e.gateway.Explain(ctx, d)
	out := adminapi.ExplainResult{
		Allowed: x.Refusal == nil, Route: x.Route, Service: x.Service, Why: x.Why, Ordinary: x.Ordinary,
		Refusal: showRefusal(x.Refusal), Policies: make([]adminapi.ExplainVerdict, 0, len(x.Policies)),
	}
	for _, v := range x.Policies {
		mode := policies.Enforce
		if v.Shadow {
			mode = policies.Shadow
		}
		out.Policies = append(out.Policies, adminapi.ExplainVerdict{
			Policy: v.Policy, Mode: string(mode), When: v.When, Verdict: verdictWord(v.Verdict), Refusal: showRefusal(v.Refusal),
		})
	}
	return out, nil
}

func verdictWord(v policy.Verdict) string {
	switch v {
	case policy.Passes:
		return "passes"
	case policy.Refuses:
		return "refuses"
	case policy.Skipped:
		return "skipped"
	case policy.Changes:
		return "changes"
	}
	return strconv.Itoa(int(v))
}

func showRefusal(p *problem.Error) *adminapi.ExplainRefusal {
	if p == nil {
		return nil
	}
	return &adminapi.ExplainRefusal{Status: p.Kind.Status(), Code: p.Code, Detail: p.Detail}
}

// anyHost is the host of a description that names none: only routes for every host
// match it (RFC 2606).
const anyHost = "any-host.invalid"

// maxExplainHeaders bounds the fields of a described request.
const maxExplainHeaders = 200

// describe reads a description.
func (e explainer) describe(ctx context.Context, in adminapi.ExplainRequest) (d gateway.Description, err error) {
	var fields []problem.Field
	wrong := func(field, format string, args ...any) {
		fields = append(fields, problem.Field{Field: field, Detail: fmt.Sprintf(format, args...)})
	}
	d = gateway.Description{Method: in.Method, Header: http.Header{}, Client: reqctx.From(ctx).Client}
	if !isMethod(in.Method) {
		wrong("method", "must be a request method in capital letters, such as GET")
	}
	if d.URL, err = url.Parse(in.URL); err != nil || !isTarget(d.URL) {
		wrong("url", "must be a path, or an http or https URL without user information and fragment")
	} else if d.URL.Host == "" {
		d.URL.Host = anyHost
	}
	if in.Client != "" {
		if d.Client, err = netip.ParseAddr(in.Client); err != nil {
			wrong("client", "must be an IP address")
		}
	}
	if in.BodyBytes != nil {
		if d.ContentLength = *in.BodyBytes; d.ContentLength < -1 {
			wrong("body_bytes", "must be a number of bytes, or -1 for a body of unknown size")
		}
	}
	if len(in.Headers) > maxExplainHeaders {
		wrong("headers", "must not be more than %d", maxExplainHeaders)
	}
	for name, values := range in.Headers {
		for _, value := range values {
			d.Header.Add(name, value)
		}
	}
	if in.Principal != nil {
		var detail problem.Field
		if d.Principal, detail = e.principal(*in.Principal); detail.Field != "" {
			fields = append(fields, detail)
		}
	}
	if len(fields) > 0 {
		return d, problem.ErrInvalid.WithFields(fields)
	}
	return d, nil
}

// isMethod reports whether s is a request method as the registered ones are.
func isMethod(s string) bool {
	return s != "" && len(s) <= 32 && strings.Trim(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZ-") == ""
}

func isTarget(u *url.URL) bool {
	switch {
	case u.User != nil, u.Opaque != "", u.Fragment != "":
		return false
	case u.Scheme == "":
		return u.Host == "" && strings.HasPrefix(u.Path, "/")
	}
	return (u.Scheme == "http" || u.Scheme == "https") && u.Host != ""
}

// principal is the described caller: a user with what its role holds, or a key
// with the scopes that it has in effect.
func (e explainer) principal(in adminapi.ExplainPrincipal) (*access.Principal, problem.Field) {
	role := access.Role(in.Role)
	if in.Role == "" {
		role = access.RoleUser
	}
	p := &access.Principal{Kind: access.Kind(in.Kind), UserID: in.UserID, Role: role}
	if p.UserID == "" {
		p.UserID = "somebody"
	}
	switch {
	case !e.roles.Known(role):
		return nil, problem.Field{Field: "principal.role", Detail: fmt.Sprintf("must be one of %v", e.roles.Names())}
	case p.Kind == access.KindUser && in.Scopes != nil:
		return nil, problem.Field{Field: "principal.scopes", Detail: "belongs to keys: a user holds what the role does"}
	case p.Kind == access.KindUser:
		p.Scopes = e.roles.Scopes(role)
	case p.Kind == access.KindKey:
		p.KeyID, p.KeyName = "a key", "a key"
		for i, s := range in.Scopes {
			if !access.ValidScope(s) {
				return nil, problem.Field{Field: fmt.Sprintf("principal.scopes[%d]", i), Detail: "must be a scope such as orders:read"}
			}
		}
		p.Scopes = slices.Sorted(slices.Values(in.Scopes))
	default:
		return nil, problem.Field{Field: "principal.kind", Detail: "must be user or key"}
	}
	return p, problem.Field{}
}

// Offline explains requests by a document that nobody serves. No service is
// spoken to, and what belongs to services alone is not looked at. The caller
// closes the gateway that it is returned with.
func Offline(doc spec.Document) (adminapi.Explainer, func(), error) {
	roles, err := access.NewRoles(nil)
	if err != nil {
		return nil, nil, err
	}
	g, err := gateway.New(gateway.Options{
		Authenticator: nobody{}, Logger: slog.New(slog.DiscardHandler), Files: files.Allowed{Anywhere: true},
		Plans: plan.New(plan.Options{Products: noProducts{}, Counters: chain.InMemory{Subjects: 1}, Now: time.Now}),
	})
	if err != nil {
		return nil, nil, err
	}
	if doc.Services, err = stubs(doc.Services); err == nil {
		err = g.Apply(doc)
	}
	if err != nil {
		g.Close()
		return nil, nil, err
	}
	return explainer{g, roles}, g.Close, nil
}

// noProducts is a catalog without products: they are no part of a document.
type noProducts struct{}

func (noProducts) AppsOnly(string) (only, known bool) { return false, true }
func (noProducts) Opening(string) []string            { return nil }

// stubs are services with these names that no health check and no discovery
// belongs to.
func stubs(services []services.Service) ([]services.Service, error) {
	list := make([]map[string]string, len(services))
	for i, s := range services {
		list[i] = map[string]string{"name": s.Name, "url": "http://service.invalid"}
	}
	text, err := json.MarshalIndent(map[string]any{"version": spec.Version, "services": list}, "", " ")
	if err != nil {
		return nil, err
	}
	doc, err := spec.Parse("", text)
	return doc.Services, err
}

// nobody accepts no credential: who calls is part of a description.
type nobody struct{}

// Authenticate refuses.
func (nobody) Authenticate(*http.Request, access.Methods) (*access.Principal, error) {
	return nil, errors.New("nobody is authenticated offline")
}

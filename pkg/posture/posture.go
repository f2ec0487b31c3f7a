// Package posture looks for what weakens an installation: open routes, keys that are
// good for too much or too long, connections that anybody can read. Its checks are
// functions of plain facts; gathering those is not its business.
package posture

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/spec"
	"github.com/keywarden/keywarden/pkg/spec/policies"
)

// Severity says how bad a finding is.
type Severity string

// The severities, least first.
const (
	Low      Severity = "low"
	Medium   Severity = "medium"
	High     Severity = "high"
	Critical Severity = "critical"
)

// Severities are all of them, least first.
func Severities() []Severity { return []Severity{Low, Medium, High, Critical} }

// AtLeast reports whether s is as bad as other, or worse.
func (s Severity) AtLeast(other Severity) bool {
	return slices.Index(Severities(), s) >= slices.Index(Severities(), other)
}

// Finding is one weakness of one object.
type Finding struct {
	ID       string // the same as long as the weakness is there: "<check>:<object>"
	Severity Severity
	Kind     string // of the object: "route", "service", "key", "user" or "listener"
	Object   string // its name or id
	Why      string
	Fix      string
}

// Idle is how long a key may be unused, and an admin away, before that is a finding.
const Idle = 90 * 24 * time.Hour

// Key is what is looked at of a key that is not revoked.
type Key struct {
	ID            string
	Name          string
	Scopes        []string
	CreatedAt     time.Time
	LastUsedAt    *time.Time
	ExpiresAt     *time.Time
	QuarantinedAt *time.Time
	Canary        bool
}

// Admin is an enabled user with the admin role who has not logged in for [Idle].
type Admin struct{ ID string }

// Listeners is how the program listens.
type Listeners struct {
	Addr      string // of the main listener, host:port
	TLS       bool   // of the main listener
	Operators string // address of the listener for operators; empty when there is none
}

// Facts are what is looked at. Document may be nil.
type Facts struct {
	Document  *spec.Document
	Platform  []string // first segments of the platform's own paths, where those come first on every host
	Keys      []Key
	Admins    []Admin
	Listeners Listeners
	Partial   bool // there are more keys or admins than these
}

// Find returns the weaknesses, worst first and then by id.
func Find(f Facts, now time.Time) []Finding {
	found := listeners(f.Listeners)
	if f.Document != nil {
		found = append(found, routes(f.Document)...)
		found = append(found, backends(f.Document)...)
		found = append(found, hidden(f.Document, f.Platform)...)
	}
	for _, k := range f.Keys {
		found = append(found, key(k, now)...)
	}
	for _, a := range f.Admins {
		found = append(found, finding("admin.idle", Medium, "user", a.ID,
			"An admin has not logged in for 90 days: nobody would notice if somebody else did.",
			"Take the admin role from the user, or disable the account."))
	}
	slices.SortFunc(found, func(a, b Finding) int {
		order := Severities()
		return cmp.Or(slices.Index(order, b.Severity)-slices.Index(order, a.Severity), strings.Compare(a.ID, b.ID))
	})
	return slices.CompactFunc(found, func(a, b Finding) bool { return a.ID == b.ID })
}

func finding(check string, s Severity, kind, object, why, fix string) Finding {
	return Finding{ID: check + ":" + object, Severity: s, Kind: kind, Object: object, Why: why, Fix: fix}
}

// safe are the methods that change nothing (RFC 9110 section 9.2.1).
func safe(method string) bool { return method == "GET" || method == "HEAD" || method == "OPTIONS" }

// methodsOf are those that a route lets through; none means all.
func methodsOf(r *spec.Route, p *policies.Policies) []string {
	if len(r.Match.Methods) > 0 || p.AllowMethods == nil {
		return r.Match.Methods
	}
	return p.AllowMethods.Methods
}

func routes(doc *spec.Document) (found []Finding) {
	for i := range doc.Routes {
		r := &doc.Routes[i]
		if r.Redirect != nil || r.Respond != nil {
			continue // no service is behind it
		}
		p := doc.Effective(r)
		mode := policies.AuthNone
		switch {
		case p.Auth == nil:
		case p.Auth.When != "":
			found = append(found, finding("route.conditional-auth", Low, "route", r.Name,
				"Whether the route asks for a credential depends on a condition; who does not meet it is not asked.",
				"Remove auth.when, or see that it cannot be avoided."))
			continue
		default:
			mode = p.Auth.Mode
		}
		if mode == policies.AuthRequired {
			continue
		}
		methods := methodsOf(r, &p)
		if len(methods) == 0 || slices.ContainsFunc(methods, func(m string) bool { return !safe(m) }) {
			found = append(found, finding("route.open-writes", High, "route", r.Name,
				"Callers without a credential pass ("+open(mode)+"), with methods other than GET.",
				"Set auth.mode to required, or name only GET in match.methods."))
			continue
		}
		found = append(found, finding("route.open", Medium, "route", r.Name,
			"Callers without a credential pass ("+open(mode)+").", "Set auth.mode to required, unless everybody may read this."))
	}
	return found
}

func open(mode policies.AuthMode) string { return "auth.mode is " + string(mode) }

func backends(doc *spec.Document) (found []Finding) {
	for _, s := range doc.Services {
		urls := []string{s.URL}
		for _, t := range s.Targets {
			urls = append(urls, t.URL)
		}
		if d := s.Discovery; d != nil {
			scheme := ""
			switch {
			case d.DNS != nil:
				scheme = d.DNS.Scheme
			case d.Etcd != nil:
				scheme = d.Etcd.Scheme
			case d.Consul != nil:
				scheme = d.Consul.Scheme
			case d.Kubernetes != nil:
				scheme = d.Kubernetes.Scheme
			}
			urls = append(urls, scheme+"://discovered.invalid")
		}
		if slices.ContainsFunc(urls, plaintext) {
			found = append(found, finding("service.plaintext", Medium, "service", s.Name,
				"Requests reach the service by plain HTTP over a network, with what callers sent and the service's own credential.",
				"Use https, or put the service on the loopback interface."))
		}
	}
	return found
}

// hidden finds routes at paths of the platform's own. That is no hole, but whoever adds
// a policy to such a route protects nothing by it.
func hidden(doc *spec.Document, platform []string) (found []Finding) {
	for i := range doc.Routes {
		path := doc.Routes[i].Match.Path
		segment, _, _ := strings.Cut(strings.TrimPrefix(path.Exact+path.Prefix, "/"), "/")
		if slices.Contains(platform, segment) {
			found = append(found, finding("route.hidden", Low, "route", doc.Routes[i].Name,
				"The platform answers requests below /"+segment+" itself, as far as it knows their paths; they do not reach the route.",
				"Keep the platform to hosts of its own with server.hosts, or give the route another path."))
		}
	}
	return found
}

// plaintext reports whether a URL is spoken to by HTTP beyond this machine.
func plaintext(text string) bool {
	u, err := url.Parse(text)
	return err == nil && u.Scheme == "http" && !loopback(u.Hostname())
}

// loopback reports whether a host is this machine, by its name or address alone.
func loopback(host string) bool {
	if a, err := netip.ParseAddr(host); err == nil {
		return a.Unmap().IsLoopback()
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	return host == "localhost" || strings.HasSuffix(host, ".localhost")
}

// public reports whether a listener can be reached from another machine.
func public(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	return err != nil || !loopback(host)
}

func listeners(l Listeners) (found []Finding) {
	if !l.TLS && public(l.Addr) {
		found = append(found, finding("listener.plaintext", High, "listener", "main",
			"Keys and passwords reach the main listener by plain HTTP.",
			"Set server.tls, or listen on the loopback interface behind a proxy that has TLS."))
	}
	switch {
	case l.Operators == "":
		if public(l.Addr) {
			found = append(found, finding("listener.admin-shared", Low, "listener", "main",
				"/admin/v1 and /metrics are on the main listener.", "Set server.metrics_addr to an address that only operators reach."))
		}
	case public(l.Operators):
		found = append(found, finding("listener.operators-public", High, "listener", "operators",
			"The listener for operators, with /debug/pprof and by plain HTTP, can be reached from other machines.",
			"Set server.metrics_addr to a loopback address, or see that a firewall is before it."))
	}
	return found
}

func key(k Key, now time.Time) (found []Finding) {
	if k.Canary || k.ExpiresAt != nil && !now.Before(*k.ExpiresAt) {
		return nil
	}
	add := func(check string, s Severity, why, fix string) {
		found = append(found, finding(check, s, "key", k.ID, why, fix))
	}
	if k.QuarantinedAt != nil {
		add("key.quarantined", High, fmt.Sprintf("The key was reported as leaked at %s and is still there.", k.QuarantinedAt.UTC().Format(time.RFC3339)),
			"Rotate the key, or revoke it; see in the audit log what it was used for.")
	}
	if slices.Contains(k.Scopes, access.Wildcard) {
		add("key.wildcard", Critical, "The key holds the scope that stands for every other.", "Give the key only the scopes that it uses.")
	}
	if k.ExpiresAt == nil {
		add("key.no-expiry", Low, "The key never expires.", "Set expires_at, and rotate the key before then.")
	}
	used := k.CreatedAt
	if k.LastUsedAt != nil {
		used = *k.LastUsedAt
	}
	if now.Sub(used) >= Idle {
		add("key.unused", Medium, "The key was not used for 90 days.", "Revoke the key if nobody needs it.")
	}
	return found
}

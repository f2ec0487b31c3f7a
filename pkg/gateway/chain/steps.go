package chain

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/gateway/policy"
	"github.com/keywarden/keywarden/pkg/gateway/policy/allowmethods"
	"github.com/keywarden/keywarden/pkg/gateway/policy/auth"
	"github.com/keywarden/keywarden/pkg/gateway/policy/basicauth"
	"github.com/keywarden/keywarden/pkg/gateway/policy/bodylimit"
	"github.com/keywarden/keywarden/pkg/gateway/policy/cache"
	"github.com/keywarden/keywarden/pkg/gateway/policy/compress"
	"github.com/keywarden/keywarden/pkg/gateway/policy/concurrency"
	"github.com/keywarden/keywarden/pkg/gateway/policy/cors"
	"github.com/keywarden/keywarden/pkg/gateway/policy/fault"
	"github.com/keywarden/keywarden/pkg/gateway/policy/faultrules"
	"github.com/keywarden/keywarden/pkg/gateway/policy/headers"
	"github.com/keywarden/keywarden/pkg/gateway/policy/ipfilter"
	"github.com/keywarden/keywarden/pkg/gateway/policy/logfields"
	"github.com/keywarden/keywarden/pkg/gateway/policy/mediatypes"
	"github.com/keywarden/keywarden/pkg/gateway/policy/mock"
	policyquota "github.com/keywarden/keywarden/pkg/gateway/policy/quota"
	policylimit "github.com/keywarden/keywarden/pkg/gateway/policy/ratelimit"
	"github.com/keywarden/keywarden/pkg/gateway/policy/securityheaders"
	"github.com/keywarden/keywarden/pkg/gateway/policy/timeout"
	"github.com/keywarden/keywarden/pkg/gateway/policy/validate"
	"github.com/keywarden/keywarden/pkg/spec/policies"
	"github.com/keywarden/keywarden/pkg/spec/quantity"
)

// step makes the step of one policy. The zero step is that of a policy which the
// end of the route carries out.
func (d *Document) step(route Route, name string, p *policies.Policies) (policy.Step, error) {
	switch name {
	case faultrules.Name:
		return faultrules.New(faultRules(p.FaultRules))
	case "allow_ips":
		return ipfilter.Allow(prefixes(p.AllowIPs.Networks))
	case "deny_ips":
		return ipfilter.Deny(prefixes(p.DenyIPs.Networks))
	case "cors":
		return cors.New(cors.Config{
			Origins: p.CORS.Origins, Methods: p.CORS.Methods, Headers: p.CORS.Headers, Expose: p.CORS.Expose,
			Credentials: p.CORS.Credentials, MaxAge: time.Duration(p.CORS.MaxAge),
		})
	case "allow_methods":
		return allowmethods.New(p.AllowMethods.Methods)
	case "media_types":
		return mediatypes.New(p.MediaTypes.Types)
	case bodylimit.Name:
		return bodylimit.New(int64(p.MaxBody.Limit))
	case auth.Name:
		return auth.New(d.Authenticator, d.authConfig(p.Auth))
	case "log_fields":
		return logfields.New(p.LogFields.Fields)
	case "request_headers":
		h := p.RequestHeaders
		return headers.Request(headers.Config{Set: h.Set, Add: h.Add, Remove: h.Remove, Secrets: d.Secrets})
	case "response_headers":
		h := p.ResponseHeaders
		return headers.Response(headers.Config{Set: h.Set, Add: h.Add, Remove: h.Remove})
	case "basic_auth":
		return basicauth.New(p.BasicAuth.Username, p.BasicAuth.PasswordFile)
	case "security_headers":
		return securityheaders.New(securityConfig(p.SecurityHeaders))
	case validate.Name:
		config := validate.Config{Operation: route.Operation, MaxBody: int64(p.Validation.MaxBody)}
		if p.Validation.Answers {
			config.Drift = d.Drift
		}
		return validate.New(config)
	case mock.Name:
		return mock.New(route.Operation)
	case cache.Name:
		return d.cache(route, p.Cache)
	case concurrency.Name:
		return d.concurrency(route.Name, p.Concurrency)
	case policylimit.Name:
		return d.rateLimit(route.Name, p.RateLimit)
	case policyquota.Name:
		return d.quota(route.Name, p.Quota)
	case "fault":
		return fault.New(fault.Config{Percent: p.Fault.Percent, Delay: time.Duration(p.Fault.Delay), Abort: p.Fault.Abort})
	case "compress":
		return compress.New(compress.Config{Types: p.Compress.Types, MinSize: int64(p.Compress.MinSize)}, d.writers)
	case timeout.Name:
		return timeout.New(time.Duration(p.Timeout.After))
	}
	return policy.Step{}, fmt.Errorf("there is no such policy")
}

// Standing tells, for as long as a stream lasts, whether the credential that opened
// it would still do.
func (b *Builder) Standing(route string, a *policies.Auth) policy.Check {
	var more []auth.Rule
	if b.Plans != nil {
		more = append(more, func(p *access.Principal) error { return b.Plans.Reach(route, p) })
	}
	return auth.Standing(b.Authenticator, b.authConfig(a), more...)
}

// authConfig lets the keys of apps in only where the step of plans looks at them.
func (b *Builder) authConfig(a *policies.Auth) auth.Config {
	accept := methods(a.Methods)
	if b.Plans != nil && accept&access.MethodKey != 0 {
		accept |= access.MethodAppKey
	}
	return auth.Config{
		Accept: accept, Optional: a.Mode == policies.AuthOptional, Scopes: a.Scopes, Roles: roles(a.Roles),
		Used: b.ScopeUsed,
	}
}

func securityConfig(s *policies.SecurityHeaders) securityheaders.Config {
	return securityheaders.Config{
		StrictTransportSecurity: s.StrictTransportSecurity, ContentTypeOptions: s.ContentTypeOptions,
		FrameOptions: s.FrameOptions, ContentSecurityPolicy: s.ContentSecurityPolicy, ReferrerPolicy: s.ReferrerPolicy,
		PermissionsPolicy: s.PermissionsPolicy, CrossOriginOpenerPolicy: s.CrossOriginOpenerPolicy,
		CrossOriginResourcePolicy: s.CrossOriginResourcePolicy, CrossOriginEmbedderPolicy: s.CrossOriginEmbedderPolicy,
		Remove: s.Remove,
	}
}

func faultRules(r *policies.FaultRules) []faultrules.Rule {
	list := make([]faultrules.Rule, len(r.Rules))
	for i, of := range r.Rules {
		list[i] = faultrules.Rule{
			Codes: of.If.Codes, Policies: of.If.Policies,
			Gateway: of.If.From != policies.FaultFromService, Service: of.If.From != policies.FaultFromGateway,
			Status: of.Status, Headers: of.Headers, Body: of.Body, ContentType: of.ContentType,
		}
		for _, s := range of.If.Statuses {
			list[i].Statuses = append(list[i].Statuses, faultrules.Statuses(s))
		}
	}
	return list
}

func prefixes(networks []quantity.Network) []netip.Prefix {
	list := make([]netip.Prefix, len(networks))
	for i, n := range networks {
		list[i] = n.Prefix()
	}
	return list
}

func roles(names []string) []access.Role {
	list := make([]access.Role, len(names))
	for i, n := range names {
		list[i] = access.Role(n)
	}
	return list
}

func methods(list []policies.AuthMethod) access.Methods {
	var set access.Methods
	for _, m := range list {
		switch m {
		case policies.AuthJWT:
			set |= access.MethodToken
		case policies.AuthKey:
			set |= access.MethodKey
		case policies.AuthCertificate:
			set |= access.MethodCertificate
		}
	}
	return set
}

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
	"github.com/keywarden/keywarden/pkg/gateway/policy/headers"
	"github.com/keywarden/keywarden/pkg/gateway/policy/ipfilter"
	"github.com/keywarden/keywarden/pkg/gateway/policy/logfields"
	"github.com/keywarden/keywarden/pkg/gateway/policy/mediatypes"
	policyquota "github.com/keywarden/keywarden/pkg/gateway/policy/quota"
	policylimit "github.com/keywarden/keywarden/pkg/gateway/policy/ratelimit"
	"github.com/keywarden/keywarden/pkg/gateway/policy/securityheaders"
	"github.com/keywarden/keywarden/pkg/gateway/policy/timeout"
	"github.com/keywarden/keywarden/pkg/spec/policies"
	"github.com/keywarden/keywarden/pkg/spec/quantity"
)

// step makes the step of one policy. The zero step is that of a policy which the
// end of the route carries out.
func (d *Document) step(route Route, name string, p *policies.Policies) (policy.Step, error) {
	switch name {
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
		return auth.New(d.Authenticator, authConfig(p.Auth))
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
func (b *Builder) Standing(a *policies.Auth) policy.Check {
	return auth.Standing(b.Authenticator, authConfig(a))
}

func authConfig(a *policies.Auth) auth.Config {
	return auth.Config{
		Accept: methods(a.Methods), Optional: a.Mode == policies.AuthOptional, Scopes: a.Scopes, Roles: roles(a.Roles),
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

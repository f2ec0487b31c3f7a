package gateway

import (
	"fmt"
	"net/http"
	"net/netip"
	"time"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/expression"
	"github.com/keywarden/keywarden/pkg/gateway/policy"
	"github.com/keywarden/keywarden/pkg/gateway/policy/allowmethods"
	"github.com/keywarden/keywarden/pkg/gateway/policy/auth"
	"github.com/keywarden/keywarden/pkg/gateway/policy/basicauth"
	"github.com/keywarden/keywarden/pkg/gateway/policy/bodylimit"
	"github.com/keywarden/keywarden/pkg/gateway/policy/compress"
	"github.com/keywarden/keywarden/pkg/gateway/policy/cors"
	"github.com/keywarden/keywarden/pkg/gateway/policy/fault"
	"github.com/keywarden/keywarden/pkg/gateway/policy/headers"
	"github.com/keywarden/keywarden/pkg/gateway/policy/ipfilter"
	"github.com/keywarden/keywarden/pkg/gateway/policy/logfields"
	"github.com/keywarden/keywarden/pkg/gateway/policy/mediatypes"
	policylimit "github.com/keywarden/keywarden/pkg/gateway/policy/ratelimit"
	"github.com/keywarden/keywarden/pkg/gateway/policy/securityheaders"
	"github.com/keywarden/keywarden/pkg/gateway/policy/timeout"
	"github.com/keywarden/keywarden/pkg/spec"
)

// steps builds the chain of a route, in the fixed order of [spec.Policies]. A
// policy that is not there has no step.
func (c *compiler) steps(route string, p *spec.Policies) ([]policy.Rule, error) {
	if limit := c.gateway.bodyLimit; p.MaxBody == nil && limit > 0 {
		p.MaxBody = &spec.MaxBody{Gate: spec.Gate{Mode: spec.Enforce}, Limit: spec.Size(limit)}
	}
	var rules []policy.Rule
	for _, named := range p.List() {
		if named.Gate.Mode == spec.Off {
			continue
		}
		step, err := c.step(route, named.Name, p)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", named.Name, err)
		}
		rule := policy.Rule{Step: step, Name: named.Name, Text: named.Gate.When}
		if named.Gate.Mode == spec.Shadow {
			rule.Mode = policy.Shadow
		}
		if rule.When, err = c.condition(named.Gate.When); err != nil {
			return nil, fmt.Errorf("%s: when: %w", named.Name, err)
		}
		rules = append(rules, rule)
		if named.Name == bodylimit.Name && (rule.Mode == policy.Shadow || rule.When != nil) && c.gateway.bodyLimit > 0 {
			if rule, err = instead(rule, c.gateway.bodyLimit); err != nil {
				return nil, fmt.Errorf("max_body: %w", err)
			}
			rules = append(rules, rule)
		}
	}
	return rules, nil
}

// instead is the bound of the process for the requests for which that of the route
// does not count: all in shadow mode, else those for which its condition is false.
func instead(own policy.Rule, limit int64) (policy.Rule, error) {
	step, err := bodylimit.New(limit)
	rule := policy.Rule{Step: step, Name: own.Name}
	if own.Mode == policy.Enforce {
		rule.Text = "!(" + own.Text + ")"
		rule.When = func(r *http.Request) (bool, error) {
			counts, err := own.When(r)
			return !counts, err
		}
	}
	return rule, err
}

// step makes the step of one policy. The zero step is that of a policy which the
// end of the route carries out.
func (c *compiler) step(route, name string, p *spec.Policies) (policy.Step, error) {
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
		return auth.New(c.gateway.authenticator, c.authConfig(p.Auth))
	case "log_fields":
		return logfields.New(p.LogFields.Fields)
	case "request_headers":
		h := p.RequestHeaders
		return headers.Request(headers.Config{Set: h.Set, Add: h.Add, Remove: h.Remove})
	case "response_headers":
		h := p.ResponseHeaders
		return headers.Response(headers.Config{Set: h.Set, Add: h.Add, Remove: h.Remove})
	case "basic_auth":
		return basicauth.New(p.BasicAuth.Username, p.BasicAuth.PasswordFile)
	case "security_headers":
		return securityheaders.New(securityConfig(p.SecurityHeaders))
	case policylimit.Name:
		return c.rateLimit(route, p.RateLimit)
	case "fault":
		return fault.New(fault.Config{Percent: p.Fault.Percent, Delay: time.Duration(p.Fault.Delay), Abort: p.Fault.Abort})
	case "compress":
		return compress.New(compress.Config{Types: p.Compress.Types, MinSize: int64(p.Compress.MinSize)}, c.gateway.writers)
	case timeout.Name:
		return timeout.New(time.Duration(p.Timeout.After))
	}
	return policy.Step{}, fmt.Errorf("there is no such policy")
}

func (c *compiler) authConfig(a *spec.Auth) auth.Config {
	return auth.Config{
		Accept: methods(a.Methods), Optional: a.Mode == spec.AuthOptional, Scopes: a.Scopes, Roles: roles(a.Roles),
	}
}

func securityConfig(s *spec.SecurityHeaders) securityheaders.Config {
	return securityheaders.Config{
		StrictTransportSecurity: s.StrictTransportSecurity, ContentTypeOptions: s.ContentTypeOptions,
		FrameOptions: s.FrameOptions, ContentSecurityPolicy: s.ContentSecurityPolicy, ReferrerPolicy: s.ReferrerPolicy,
		PermissionsPolicy: s.PermissionsPolicy, CrossOriginOpenerPolicy: s.CrossOriginOpenerPolicy,
		CrossOriginResourcePolicy: s.CrossOriginResourcePolicy, CrossOriginEmbedderPolicy: s.CrossOriginEmbedderPolicy,
		Remove: s.Remove,
	}
}

// condition compiles the condition of a policy; nil for none. Routes that inherit
// a policy share its condition.
func (c *compiler) condition(text string) (policy.Condition, error) {
	if text == "" {
		return nil, nil
	}
	if known := c.conditions[text]; known != nil {
		return known, nil
	}
	e, err := expression.Compile(text, expression.Bool)
	if err != nil {
		return nil, err
	}
	c.conditions[text] = e.Bool
	return e.Bool, nil
}

func prefixes(networks []spec.Network) []netip.Prefix {
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

func methods(list []spec.AuthMethod) access.Methods {
	var set access.Methods
	for _, m := range list {
		switch m {
		case spec.AuthJWT:
			set |= access.MethodToken
		case spec.AuthKey:
			set |= access.MethodKey
		case spec.AuthCertificate:
			set |= access.MethodCertificate
		}
	}
	return set
}

// Package services is what the gateway document says of services: their addresses,
// how one is chosen, how it is found out which are well, and how they are spoken to.
package services

import (
	"net/url"
	"strings"
	"time"

	"github.com/keywarden/keywarden/pkg/canonical"
	"github.com/keywarden/keywarden/pkg/spec/check"
	"github.com/keywarden/keywarden/pkg/spec/quantity"
)

// Service is a backend: one address, or several among which each request is
// given to one.
type Service struct {
	Name string `json:"name"`

	// URL is http or https, host, optional port and optional base path, which is
	// put before the path of every request. It stands for a single target.
	URL string `json:"url,omitempty"`

	// Targets are the addresses of a service that has several; Path is its base
	// path then.
	Targets []Target `json:"targets,omitempty"`
	Path    string   `json:"path,omitempty"`

	// Discovery looks the targets up instead, while the service runs.
	Discovery *Discovery `json:"discovery,omitempty"`

	Balance Balance `json:"balance"`

	// ConnectTimeout bounds the connection to the backend: its TCP handshake and,
	// again, its TLS handshake.
	ConnectTimeout quantity.Duration `json:"connect_timeout"`

	// ResponseTimeout bounds the time from the end of the request to the header of
	// the response, of each attempt. The body may take any time.
	ResponseTimeout quantity.Duration `json:"response_timeout"`

	// IdleTimeout bounds the pauses of a body: when no byte of the request's or of
	// the response's has passed for so long, the exchange is cut. Opened WebSockets,
	// server-sent events (text/event-stream) and gRPC may be silent. Without it there
	// is no bound.
	IdleTimeout quantity.Duration `json:"idle_timeout,omitempty"`

	// Timeout bounds the whole exchange, all attempts together, where the route does
	// not say otherwise. It means what the timeout of a route does.
	Timeout quantity.Duration `json:"timeout,omitempty"`

	Health   *Health   `json:"health,omitempty"`
	Retry    *Retry    `json:"retry,omitempty"`
	Breaker  *Breaker  `json:"breaker,omitempty"`
	Bulkhead *Bulkhead `json:"bulkhead,omitempty"`

	Protocol string      `json:"protocol"`
	TLS      *BackendTLS `json:"tls,omitempty"`

	// Credential is what the gateway presents to the service, in place of the caller's.
	Credential *Credential `json:"credential,omitempty"`
}

// Defaults of a service.
const (
	DefaultConnectTimeout  = quantity.Duration(2 * time.Second)
	DefaultResponseTimeout = quantity.Duration(30 * time.Second)
)

// SetDefaults fills in what a document need not say.
func (s *Service) SetDefaults() {
	s.Balance.SetDefaults()
	s.ConnectTimeout = DefaultConnectTimeout
	s.ResponseTimeout = DefaultResponseTimeout
	s.Protocol = ProtocolAuto
}

// normalise brings addresses into their normal form; those without one are left
// for the validation to refuse.
func (s *Service) Normalise() {
	if u, err := parseServiceURL(s.URL); err == nil {
		s.URL = u.String()
	}
	for i := range s.Targets {
		s.Targets[i].Normalise()
	}
	s.Path = check.NormalPrefix(s.Path)
	if s.Discovery != nil {
		s.Discovery.Normalise()
	}
	if s.Retry != nil {
		s.Retry.Normalise()
	}
	if s.Credential != nil {
		s.Credential.Normalise()
	}
}

func (s *Service) Validate(path string, v *check.Checker) {
	v.Name(path, s.Name)
	if s.URL != "" {
		switch u, err := parseServiceURL(s.URL); {
		case err != nil:
			v.Fail(path+".url", "%s", err.Error())
		case u.String() != s.URL:
			v.Fail(path+".url", "is not in its normal form, %s", u)
		}
	}
	s.validateTargets(path, v)
	s.Balance.Validate(path+".balance", v)
	v.Timeout(path+".connect_timeout", s.ConnectTimeout)
	v.Timeout(path+".response_timeout", s.ResponseTimeout)
	v.OptionalTimeout(path+".idle_timeout", s.IdleTimeout)
	v.OptionalTimeout(path+".timeout", s.Timeout)
	if s.Health != nil {
		s.Health.Validate(path+".health", v)
		s.validateGRPC(path, v)
	}
	if s.Retry != nil {
		s.Retry.Validate(path+".retry", v)
	}
	if s.Breaker != nil {
		s.Breaker.Validate(path+".breaker", v)
	}
	if s.Bulkhead != nil {
		s.Bulkhead.Validate(path+".bulkhead", v)
	}
	if v.OneOf(path+".protocol", s.Protocol, ProtocolAuto, ProtocolHTTP1, ProtocolH2C) && s.Protocol == ProtocolH2C && s.https() {
		v.Fail(path+".protocol", "h2c belongs to http services")
	}
	if s.TLS != nil {
		s.TLS.Validate(path+".tls", s.https(), v)
	}
	if s.Credential != nil {
		s.Credential.Validate(path+".credential", v)
	}
}

// validateGRPC refuses gRPC checks where HTTP/2 is not spoken.
func (s *Service) validateGRPC(path string, v *check.Checker) {
	if s.Health.Active == nil || s.Health.Active.Type != CheckGRPC {
		return
	}
	switch {
	case s.https() && s.Protocol == ProtocolHTTP1:
		v.Fail(path+".health.active.type", "grpc needs HTTP/2, and protocol is http1")
	case !s.https() && s.Protocol != ProtocolH2C:
		v.Fail(path+".health.active.type", "grpc needs HTTP/2; say protocol: h2c")
	}
}

// https reports whether the service is spoken to over TLS; all of its targets
// have the same scheme.
func (s *Service) https() bool {
	if s.Discovery != nil {
		return s.Discovery.Scheme() == schemeHTTPS
	}
	text := s.URL
	if text == "" && len(s.Targets) > 0 {
		text = s.Targets[0].URL
	}
	return strings.HasPrefix(text, "https:")
}

func parseServiceURL(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil {
		return nil, check.ErrText("must be a URL such as http://users.internal:8081")
	}
	switch {
	case u.Scheme != "http" && u.Scheme != "https" || u.Opaque != "" || u.Host == "":
		return nil, check.ErrText("must be an http or https URL with a host, such as http://users.internal:8081")
	case u.User != nil:
		return nil, check.ErrText("must not hold a user name or password")
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || strings.HasSuffix(text, "#"):
		return nil, check.ErrText("must not have a query or a fragment")
	}
	host, port, err := canonical.Host(u.Host)
	if err != nil {
		return nil, check.ErrText("must have a valid host, and a port from 1 to 65535 if any")
	}
	if port != "" {
		host += ":" + port
	}
	target := &url.URL{Scheme: u.Scheme, Host: host}
	if base := strings.TrimSuffix(u.EscapedPath(), "/"); base != "" {
		decoded, escaped, err := check.CanonicalPath(base)
		if err != nil {
			return nil, err
		}
		target.Path, target.RawPath = decoded, escaped
	}
	return target, nil
}

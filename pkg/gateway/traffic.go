package gateway

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/keywarden/keywarden/pkg/gateway/mirror"
	"github.com/keywarden/keywarden/pkg/gateway/proxy"
	"github.com/keywarden/keywarden/pkg/gateway/proxy/pathrewrite"
	"github.com/keywarden/keywarden/pkg/gateway/traffic"
	"github.com/keywarden/keywarden/pkg/spec"
	"github.com/keywarden/keywarden/pkg/spec/policies"
	"github.com/keywarden/keywarden/pkg/spec/services"
)

// forwarding is the end of a route that leads to a service.
type forwarding struct {
	http.Handler
	service string
	chooser chooser      // nil: there is one service only
	path    *proxy.Route // a way to one of the services, for its rules of the path
}

// Choose implements chooser.
func (f *forwarding) Choose(r *http.Request) (service, why string) {
	if f.chooser == nil {
		return f.service, ""
	}
	return f.chooser.Choose(r)
}

// Check tells why the end would refuse the request by itself, without asking a
// service; nil when it would not.
func (f *forwarding) Check(r *http.Request) error {
	if versions, ok := f.chooser.(*traffic.Versions); ok {
		if err := versions.Check(r); err != nil {
			return err
		}
	}
	return f.path.Check(r)
}

// forwarding compiles the end of a route that leads to a service.
func (c *compiler) forwarding(r *spec.Route, p *policies.Policies) (*forwarding, error) {
	config, err := c.routeConfig(r, p)
	if err != nil {
		return nil, err
	}
	var f *forwarding
	switch {
	case r.Split != nil:
		f, err = c.split(r.Split, config)
	case r.Versions != nil:
		f, err = c.versions(r, config)
	default:
		f = &forwarding{service: r.Service}
		f.path, err = c.to(r.Service, config)
		f.Handler = f.path
	}
	if err != nil || r.Mirror == nil {
		return f, err
	}
	f.Handler, err = c.mirror(r, config, f.Handler)
	return f, err
}

// routeConfig is what all services of a route have in common.
func (c *compiler) routeConfig(r *spec.Route, p *policies.Policies) (proxy.RouteConfig, error) {
	config := proxy.RouteConfig{
		Host: r.UpstreamHost, PreserveHost: r.PreserveHost,
		Authenticated: p.Auth.Mode == policies.AuthRequired && p.Auth.When == "",
		Optional:      p.Auth.Mode != policies.AuthNone,
	}
	if p.Auth.Mode == policies.AuthRequired || p.Auth.Mode == policies.AuthOptional {
		config.Standing = c.gateway.chains.Standing(r.Name, p.Auth)
	}
	var err error
	if config.StripPrefix, err = decodedPath(r.StripPrefix); err != nil || r.Rewrite == nil {
		return config, err
	}
	expression, parts, err := r.Rewrite.Compile(r.Match.Path.Regex)
	if err != nil {
		return config, fmt.Errorf("rewrite: %w", err)
	}
	pieces := make([]pathrewrite.Piece, len(parts))
	for i, part := range parts {
		pieces[i] = pathrewrite.Piece(part)
	}
	config.Rewrite, err = pathrewrite.New(expression, pieces)
	return config, err
}

// to is the way to a service.
func (c *compiler) to(service string, config proxy.RouteConfig) (*proxy.Route, error) {
	s := c.services[service]
	if s == nil {
		return nil, fmt.Errorf("there is no service %q", service)
	}
	return s.Route(config), nil
}

func (c *compiler) split(s *spec.Split, config proxy.RouteConfig) (*forwarding, error) {
	f, sc := &forwarding{}, traffic.SplitConfig{}
	if s.Sticky != nil {
		sc.Identity, sc.By = identityOf(s.Sticky), s.Sticky.By
	}
	for _, of := range s.Services {
		route, err := c.to(of.Service, config)
		if err != nil {
			return nil, err
		}
		f.path = route
		pins := make([]traffic.Pin, len(of.Pin))
		for i, p := range of.Pin {
			pins[i] = traffic.Pin(p)
		}
		sc.Services = append(sc.Services, traffic.Share{
			Service: traffic.Service{Name: of.Service, Handler: route}, Weight: of.Weight, Pins: pins,
		})
	}
	split, err := traffic.NewSplit(sc)
	f.Handler, f.chooser = split, split
	return f, err
}

// identityOf is what makes a split sticky.
func identityOf(h *services.Hash) traffic.Identity {
	switch h.By {
	case services.HashHeader:
		return traffic.ByHeader(h.Name)
	case services.HashCookie:
		return traffic.ByCookie(h.Name)
	case services.HashUser:
		return traffic.ByUser()
	default:
		return traffic.ByClient()
	}
}

func (c *compiler) versions(r *spec.Route, config proxy.RouteConfig) (*forwarding, error) {
	from := r.Versions.From
	vc := traffic.VersionsConfig{Header: from.Header, Path: from.Path, Default: r.Versions.Default}
	vc.MediaType[0], vc.MediaType[1], _ = strings.Cut(from.MediaType, spec.MediaTypeVersion)
	prefix, err := decodedPath(r.Match.Path.Prefix)
	if err != nil {
		return nil, err
	}
	vc.Prefix = strings.TrimSuffix(prefix, "/")
	f := &forwarding{}
	for _, of := range r.Versions.Services {
		own := config
		if from.Strip {
			own.StripPrefix = vc.Prefix + "/" + of.Version
			if config.StripPrefix == "" {
				own.AddPrefix = strings.TrimSuffix(r.Match.Path.Prefix, "/")
			}
		}
		route, err := c.to(of.Service, own)
		if err != nil {
			return nil, err
		}
		if f.path, err = c.to(of.Service, config); err != nil {
			return nil, err
		}
		if from.Strip && of.Version == vc.Default {
			vc.Unnamed = f.path // where the path has no version, there is none to strip
		}
		vc.Services = append(vc.Services, traffic.Version{
			Service: traffic.Service{Name: of.Service, Handler: route}, Version: of.Version, Deprecated: deprecated(of.Deprecated),
		})
	}
	versions, err := traffic.NewVersions(vc)
	f.Handler, f.chooser = versions, versions
	return f, err
}

func deprecated(d *spec.Deprecated) *traffic.Deprecated {
	if d == nil {
		return nil
	}
	return &traffic.Deprecated{Since: d.Since.Time(), Sunset: d.Sunset.Time(), Link: d.Link}
}

// mirror puts a mirror before next. A copy takes the same way as the request, but
// for what is only in the path of a version, which it keeps.
func (c *compiler) mirror(r *spec.Route, config proxy.RouteConfig, next http.Handler) (http.Handler, error) {
	config.Mirrored = true
	shadow, err := c.to(r.Mirror.Service, config)
	if err != nil {
		return nil, err
	}
	return mirror.New(mirror.Config{
		Copies: c.gateway.copies, Next: next, Shadow: shadow,
		Percent: r.Mirror.Percent, MaxBody: int64(r.Mirror.MaxBody), Timeout: time.Duration(r.Mirror.Timeout),
		Count: c.gateway.countCopies(r.Name),
	})
}

// newCopied makes the metric of mirrors.
func newCopied(meter metric.Meter) (metric.Int64Counter, error) {
	copied, err := meter.Int64Counter("keywarden.mirror.requests",
		metric.WithDescription("Requests that were chosen to be mirrored, by what became of their copies."))
	if err != nil {
		return nil, fmt.Errorf("making the metric keywarden.mirror.requests: %w", err)
	}
	return copied, nil
}

// attrOutcome is what became of a copy.
const attrOutcome = attribute.Key("keywarden.outcome")

// countCopies counts for a route; its attributes are made once.
func (g *Gateway) countCopies(route string) func(mirror.Outcome) {
	names := mirror.Outcomes()
	options := make([][]metric.AddOption, len(names))
	for i, outcome := range names {
		options[i] = []metric.AddOption{metric.WithAttributeSet(attribute.NewSet(attrRoute.String(route), attrOutcome.String(outcome)))}
	}
	return func(o mirror.Outcome) { g.copied.Add(context.Background(), 1, options[o]...) }
}

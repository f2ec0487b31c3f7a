package gateway

import (
	"context"
	"fmt"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/keywarden/keywarden/pkg/gateway/discovery"
	"github.com/keywarden/keywarden/pkg/gateway/discovery/consul"
	"github.com/keywarden/keywarden/pkg/gateway/discovery/dns"
	"github.com/keywarden/keywarden/pkg/gateway/discovery/etcd"
	"github.com/keywarden/keywarden/pkg/gateway/discovery/kubernetes"
	"github.com/keywarden/keywarden/pkg/gateway/upstream"
	"github.com/keywarden/keywarden/pkg/spec/services"
)

// attrService names a service in metrics.
const attrService = attribute.Key("keywarden.service")

// lookups counts what becomes of looking up targets.
type lookups struct{ updated, failed metric.Int64Counter }

func newLookups(meter metric.Meter) (*lookups, error) {
	updated, err := meter.Int64Counter("keywarden.discovery.updates",
		metric.WithDescription("Changes of the targets of a service that are looked up."))
	if err != nil {
		return nil, fmt.Errorf("making the metric keywarden.discovery.updates: %w", err)
	}
	failed, err := meter.Int64Counter("keywarden.discovery.failures",
		metric.WithDescription("Failures to look up the targets of a service; the last known ones are used."))
	if err != nil {
		return nil, fmt.Errorf("making the metric keywarden.discovery.failures: %w", err)
	}
	return &lookups{updated, failed}, nil
}

// discover begins to look up the targets of a backend.
func (g *Gateway) discover(b *backend) *discovery.Follower {
	of := metric.WithAttributeSet(attribute.NewSet(attrService.String(b.name)))
	return discovery.Start(source(b.spec.Discovery), discovery.Options{
		Logger: g.logger.With("service", b.name), Now: time.Now,
		Changed: func() { g.rediscover(b.name) },
		Updated: func() { g.lookups.updated.Add(context.Background(), 1, of) },
		Failed:  func() { g.lookups.failed.Add(context.Background(), 1, of) },
	})
}

// source makes the one that a valid document asks for.
func source(d *services.Discovery) discovery.Source {
	switch {
	case d.DNS != nil:
		c := d.DNS
		return dns.New(dns.Config{
			Name: c.Name, Type: c.Type, Port: uint16(c.Port), Interval: time.Duration(c.Interval), Server: c.Server,
		})
	case d.Etcd != nil:
		c := d.Etcd
		return etcd.New(etcd.Config{
			Endpoints: c.Endpoints, Prefix: c.Prefix, Scheme: c.Scheme,
			Username: c.Username, PasswordFile: c.PasswordFile, TLS: registryTLS(c.TLS),
		})
	case d.Consul != nil:
		c := d.Consul
		return consul.New(consul.Config{
			URL: c.URL, Service: c.Service, Tag: c.Tag, Datacenter: c.Datacenter, PassingOnly: c.PassingOnly,
			TokenFile: c.TokenFile, TLS: registryTLS(c.TLS),
		})
	default:
		c := d.Kubernetes
		k := kubernetes.Config{
			Namespace: c.Namespace, Service: c.Service, PortNumber: c.Port.Number(),
			APIURL: c.APIURL, TokenFile: c.TokenFile, CAFile: c.CAFile,
		}
		if k.PortNumber == 0 {
			k.PortName = string(c.Port)
		}
		return kubernetes.New(k)
	}
}

func registryTLS(t *services.BackendTLS) upstream.TLS {
	if t == nil {
		return upstream.TLS{}
	}
	return upstream.TLS{CAFile: t.CAFile, CertFile: t.CertFile, KeyFile: t.KeyFile, ServerName: t.ServerName}
}

// subject is what is looked up, without how: where it is the same, targets that
// are known stay good while the way to look them up changes.
func subject(d *services.Discovery) string {
	switch {
	case d.DNS != nil:
		return encoded([]any{"dns", d.DNS.Scheme, d.DNS.Name, d.DNS.Type, d.DNS.Port})
	case d.Etcd != nil:
		return encoded([]any{"etcd", d.Etcd.Scheme, d.Etcd.Prefix})
	case d.Consul != nil:
		return encoded([]any{"consul", d.Consul.Scheme, d.Consul.Service, d.Consul.Tag, d.Consul.Datacenter})
	default:
		return encoded([]any{"kubernetes", d.Kubernetes.Scheme, d.Kubernetes.Namespace, d.Kubernetes.Service, d.Kubernetes.Port})
	}
}

// serverName is the name that the certificates of targets have when the document
// does not give one: that of the service, where it has one. Targets are mostly
// addresses, and certificates are rarely for those.
func serverName(d *services.Discovery) string {
	switch {
	case d.DNS != nil:
		labels := strings.Split(strings.TrimSuffix(d.DNS.Name, "."), ".")
		for len(labels) > 1 && strings.HasPrefix(labels[0], "_") {
			labels = labels[1:]
		}
		return strings.Join(labels, ".")
	case d.Kubernetes != nil:
		return d.Kubernetes.Service + "." + d.Kubernetes.Namespace + ".svc"
	}
	return ""
}

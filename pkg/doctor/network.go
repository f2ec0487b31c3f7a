package doctor

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode"

	"github.com/keywarden/keywarden/pkg/gateway/upstream"
	"github.com/keywarden/keywarden/pkg/spec/quantity"
	"github.com/keywarden/keywarden/pkg/spec/services"
)

// targetTimeout bounds what is done with one target.
const targetTimeout = 5 * time.Second

// Targets asks the targets of the services of a document: name, connection, certificate,
// and the path of the health check where there is one. Each target is a check.
func Targets(list []services.Service) (checks []Check) {
	for i := range list {
		s := &list[i]
		if s.Discovery != nil {
			checks = append(checks, Known("targets", skipped(s.Name, "its targets are those that "+registryOf(s.Discovery)+" knows, and are looked up by the instance that serves it", "See them, and the last error, in services of GET /admin/v1/state.")))
			continue
		}
		addresses, _, err := s.Addresses()
		if err != nil {
			checks = append(checks, Known("targets", failed(s.Name, err.Error(), "Correct its URL.")))
			continue
		}
		for _, a := range addresses {
			checks = append(checks, Check{Area: "targets", Timeout: 2 * targetTimeout, Run: func(ctx context.Context) []Finding {
				return []Finding{target(ctx, s, a.URL)}
			}})
		}
	}
	if len(checks) == 0 {
		return []Check{Absent("targets", "the document has no services")}
	}
	return checks
}

// registryOf is where the targets of a service are looked up.
func registryOf(d *services.Discovery) string {
	switch {
	case d.DNS != nil:
		return "DNS"
	case d.Consul != nil:
		return "Consul"
	case d.Etcd != nil:
		return "etcd"
	case d.Kubernetes != nil:
		return "Kubernetes"
	}
	return "a registry"
}

const targetAdvice = "Look at the backend itself, then at docs/runbooks/backend-failures.md."

func target(ctx context.Context, s *services.Service, u *url.URL) Finding {
	name := s.Name + " " + u.Host
	if addresses, err := net.DefaultResolver.LookupHost(ctx, u.Hostname()); err != nil || len(addresses) == 0 {
		return failed(name, "its name is not found: "+u.Hostname(), "Correct the URL in the gateway document, or the DNS of this machine.")
	}
	ctx, cancel := context.WithTimeout(ctx, targetTimeout)
	defer cancel()
	secure, err := clientTLS(s.TLS)
	if err != nil {
		return failed(name, err.Error(), "Put the files of tls of the service there.")
	}
	if f := connectTo(ctx, name, u, secure); f.Status != OK || s.Health == nil || s.Health.Active == nil || s.Health.Active.Type != services.CheckHTTP {
		return f
	}
	return healthy(ctx, name, u, s.Health.Active, secure)
}

// clientTLS is how the gateway looks at certificates of a service.
func clientTLS(t *services.BackendTLS) (*tls.Config, error) {
	if t == nil {
		return upstream.TLS{}.Config()
	}
	return upstream.TLS{CAFile: t.CAFile, CertFile: t.CertFile, KeyFile: t.KeyFile, ServerName: t.ServerName}.Config()
}

func connectTo(ctx context.Context, name string, u *url.URL, secure *tls.Config) Finding {
	address := withPort(u)
	if u.Scheme != "https" {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
		if err != nil {
			return failed(name, "no connection: "+err.Error(), targetAdvice)
		}
		_ = conn.Close()
		return ok(name, "it takes connections")
	}
	conn, err := (&tls.Dialer{Config: secure}).DialContext(ctx, "tcp", address)
	if err != nil {
		return failed(name, "no connection by TLS: "+err.Error(), "Check the certificate of the backend and tls of the service (ca_file, server_name); "+targetAdvice)
	}
	defer func() { _ = conn.Close() }()
	if c, is := conn.(*tls.Conn); is {
		leaf := c.ConnectionState().PeerCertificates[0]
		if f := expiry(name, "its certificate", leaf, time.Now()); f.Status != OK {
			return f
		}
	}
	return ok(name, "it takes connections by TLS")
}

func withPort(u *url.URL) string {
	if u.Port() != "" {
		return u.Host
	}
	port := "80"
	if u.Scheme == "https" {
		port = "443"
	}
	return net.JoinHostPort(u.Hostname(), port)
}

// healthy asks the path that active checks ask.
func healthy(ctx context.Context, name string, u *url.URL, check *services.ActiveHealth, secure *tls.Config) Finding {
	status, err := ask(ctx, u.Scheme+"://"+u.Host+check.Path, secure)
	if err != nil {
		return failed(name, "its health path "+check.Path+" does not answer: "+err.Error(), targetAdvice)
	}
	if !accepted(check.Status, status) {
		return failed(name, fmt.Sprintf("its health path %s answers %d", check.Path, status), targetAdvice)
	}
	return ok(name, fmt.Sprintf("its health path %s answers %d", check.Path, status))
}

func accepted(ranges []quantity.StatusRange, status int) bool {
	if len(ranges) == 0 {
		return status/100 == 2
	}
	for _, r := range ranges {
		if r.From <= status && status <= r.To {
			return true
		}
	}
	return false
}

// ask asks once, follows nothing, and reads nothing but the status.
func ask(ctx context.Context, address string, secure *tls.Config) (int, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return 0, err
	}
	transport := &http.Transport{DisableKeepAlives: true, TLSClientConfig: secure}
	defer transport.CloseIdleConnections()
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return 0, err
	}
	return resp.StatusCode, resp.Body.Close()
}

// OTLP asks whether something takes connections where traces go. endpoint is empty when
// none is set.
func OTLP(endpoint string) Check {
	const area = "traces"
	if endpoint == "" {
		return Absent(area, "none are exported (OTEL_EXPORTER_OTLP_ENDPOINT is not set)")
	}
	u, err := url.Parse(endpoint)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return Broken(area, "OTEL_EXPORTER_OTLP_ENDPOINT is not a URL with http or https", "Set it to one such as http://collector:4318.")
	}
	return Check{Area: area, Timeout: targetTimeout, Run: func(ctx context.Context) []Finding {
		f := connectTo(ctx, u.Host, u, &tls.Config{MinVersion: tls.VersionTLS12})
		if f.Status != OK {
			f.Status, f.Advice = Warning, "Traces are lost until the collector is there; nothing else is."
		}
		return []Finding{f}
	}}
}

// Probe is where a running instance answers for its readiness.
type Probe struct {
	URL string // of /readyz
	TLS *tls.Config
}

// Instance says how a running instance is, from what [Probe.Ask] got.
func Instance(probe Probe, answer Answer) Check {
	const area = "instance"
	switch {
	case !answer.Running:
		return Absent(area, "none answers at "+probe.URL)
	case answer.Status == http.StatusOK && answer.Degraded:
		return Known(area, warning("", "it serves, degraded: "+answer.Body, "See \"Probes\" in docs/guides/operations.md for what is missing."))
	case answer.Status == http.StatusOK:
		return Known(area, ok("", "it is ready"))
	}
	return Known(area, failed("", fmt.Sprintf("%s answers %d: %s", probe.URL, answer.Status, answer.Body), "See \"Probes\" in docs/guides/operations.md for what is missing."))
}

// Answer is what came from a probe.
type Answer struct {
	Running  bool // something answered by HTTP
	Status   int
	Degraded bool
	Body     string // printable, short
}

// Ask asks the instance, if there is one.
func (p Probe) Ask(ctx context.Context) Answer {
	ctx, cancel := context.WithTimeout(ctx, targetTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.URL, nil)
	if err != nil {
		return Answer{}
	}
	transport := &http.Transport{DisableKeepAlives: true, TLSClientConfig: p.TLS}
	defer transport.CloseIdleConnections()
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return Answer{}
	}
	defer func() { _ = resp.Body.Close() }()
	const most = 512
	text, _ := io.ReadAll(io.LimitReader(resp.Body, most)) // what came is shown
	return Answer{Running: true, Status: resp.StatusCode, Degraded: degraded(text), Body: oneLine(text)}
}

func degraded(body []byte) bool { return bytes.Contains(body, []byte(`"degraded"`)) }

// oneLine keeps what others sent from steering the terminal.
func oneLine(text []byte) string {
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, string(text)))
}

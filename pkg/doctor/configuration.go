package doctor

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/keywarden/keywarden/pkg/config"
	"github.com/keywarden/keywarden/pkg/posture"
	"github.com/keywarden/keywarden/pkg/spec"
)

// Configuration looks for options that are valid and seldom meant.
func Configuration(cfg *config.Config) Check {
	return Check{Area: "configuration", Run: func(context.Context) []Finding {
		found := risks(cfg)
		if len(found) == 0 {
			return []Finding{ok("", "loaded; nothing in it is risky")}
		}
		return found
	}}
}

func risks(cfg *config.Config) (found []Finding) {
	add := func(option, detail, advice string) { found = append(found, warning(option, detail, advice)) }
	for _, p := range cfg.Server.TrustedProxies {
		if p.Bits() == 0 {
			add("server.trusted_proxies", p.String()+" believes everybody's forwarding headers", "List the networks of the load balancers alone.")
		}
	}
	if addr := cfg.Server.MetricsAddr; addr != "" && !loopback(addr) && !private(addr) {
		add("server.metrics_addr", addr+" is reached from other machines, without TLS and with /debug/pprof", "Bind it to loopback, or to a network that only operators and the scraper reach.")
	}
	if t := cfg.Server.TLS; t.CertFile+t.Dir == "" && len(t.ACME.Domains) == 0 && !loopback(cfg.Server.Addr) && len(cfg.Server.TrustedProxies) == 0 {
		add("server.tls", "the main listener speaks plain HTTP, and no proxy in front of it is named", "Set server.tls, or list the proxy that ends TLS in server.trusted_proxies.")
	}
	if remotePlain(cfg.Database.URL.Reveal(), func(u *url.URL) bool {
		mode := u.Query().Get("sslmode")
		return mode == "disable" || mode == "allow" || mode == "prefer" || mode == ""
	}) {
		add("database.url", "the connection to another machine may go unencrypted", "Add sslmode=verify-full to the URL.")
	}
	if remotePlain(cfg.Redis.URL.Reveal(), func(u *url.URL) bool { return u.Scheme == "redis" }) {
		add("redis.url", "the connection to another machine is not encrypted", "Use rediss://.")
	}
	if cfg.Redis.URL.Empty() && cfg.Counters.Store == "memory" && !cfg.Database.URL.Empty() {
		add("counters.store", "each replica counts rate limits alone", "Use auto, so that replicas share the counters.")
	}
	if !cfg.Telemetry.Metrics {
		add("telemetry.metrics", "there are no metrics", "Switch it on, and bind server.metrics_addr to where only the scraper is.")
	}
	return found
}

// remotePlain reports whether the URL leads to another machine in a way that plain says
// is not encrypted.
func remotePlain(text string, plain func(*url.URL) bool) bool {
	u, err := url.Parse(text)
	if err != nil {
		return false
	}
	host := u.Host
	if host == "" { // PostgreSQL's may be a parameter, and that a folder with a socket
		host = u.Query().Get("host")
	}
	return host != "" && host[0] != '/' && !loopback(host) && plain(u)
}

// loopback reports whether nobody but this machine reaches the address.
func loopback(address string) bool {
	host := hostOf(address)
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback()
}

func private(address string) bool {
	ip, err := netip.ParseAddr(hostOf(address))
	return err == nil && ip.IsPrivate()
}

func hostOf(address string) string {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		host = address
	}
	return strings.Trim(host, "[]")
}

// Document says what is in a gateway document that was read, and what in it weakens the
// installation, as far as the document alone tells.
func Document(source string, doc spec.Document) Check {
	return Check{Area: "gateway document", Run: func(context.Context) []Finding {
		found := []Finding{ok(source, fmt.Sprintf("%s, %s", count(len(doc.Services), "service"), count(len(doc.Routes), "route")))}
		if len(doc.Routes) == 0 {
			found = []Finding{warning(source, "it has no routes", "Every request to the gateway is answered 404 until it has some.")}
		}
		const most = 20
		// The time only matters for keys, of which there are none here.
		for i, f := range posture.Make(posture.Facts{Document: &doc}, posture.Query{Severity: posture.Medium, Limit: most + 1}, time.Time{}).Findings {
			if f.Kind == "listener" {
				continue // a matter of the configuration
			}
			if i == most {
				found = append(found, warning("", "there is more of this kind", "See all of it with: keywarden posture"))
				break
			}
			found = append(found, warning(f.Kind+" "+f.Object, f.Why, f.Fix))
		}
		return found
	}}
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

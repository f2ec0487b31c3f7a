package config

import (
	"slices"
	"strings"
)

// rule is what several options must keep together. It is reported at the first
// of them, with the place of the one that was set last.
type rule struct {
	paths  []string
	broken bool
	detail string
}

// rules are the relations between options; bounds are in their tags.
func rules(c *Config, serving bool) []rule {
	return []rule{
		{
			[]string{"server.tls.cert_file", "server.tls.key_file"},
			(c.Server.TLS.CertFile == "") != (c.Server.TLS.KeyFile == ""),
			"must be set together with server.tls.key_file, or neither",
		},
		{
			[]string{"server.tls.client_ca_file"},
			c.Server.TLS.ClientCAFile != "" && c.Server.TLS.CertFile == "" && c.Server.TLS.Dir == "" && len(c.Server.TLS.ACME.Domains) == 0,
			"means nothing without a certificate of the listener: set server.tls.cert_file, dir or acme.domains, too",
		},
		{
			[]string{"server.metrics_addr", "server.addr"},
			c.Server.MetricsAddr == c.Server.Addr && !strings.HasSuffix(c.Server.Addr, ":0"),
			"must differ from server.addr; leave it empty to serve /metrics there",
		},
		{
			[]string{"database.verify_timeout", "database.query_timeout"},
			c.Database.VerifyTimeout > c.Database.QueryTimeout,
			"must not be longer than database.query_timeout",
		},
		{
			[]string{"tokens.refresh_idle_ttl", "tokens.session_ttl"},
			c.Tokens.RefreshIdleTTL > c.Tokens.SessionTTL,
			"must not be longer than tokens.session_ttl",
		},
		{
			[]string{"revocation.max_staleness", "revocation.poll_interval"},
			c.Revocation.MaxStaleness < 2*c.Revocation.PollInterval,
			"must be at least twice revocation.poll_interval, or one late poll refuses every key",
		},
		{
			[]string{"security.master_keys_retired", "security.master_key"},
			len(c.Security.MasterKeysRetired) > 0 && c.Security.MasterKey.Empty(),
			"must not be set without security.master_key",
		},
		{
			[]string{"security.master_key", "database.url"},
			serving && c.Security.MasterKey.Empty() && !c.Database.URL.Empty(),
			"is required with an external database: make one with keywarden keygen and set KEYWARDEN_MASTER_KEY",
		},
		{
			[]string{"counters.store", "redis.url"},
			c.Counters.Store == "redis" && c.Redis.URL.Empty(),
			"cannot be redis without redis.url (REDIS_URL)",
		},
		{
			[]string{"counters.strict", "redis.url", "counters.store"},
			c.Counters.Strict && (c.Redis.URL.Empty() || c.Counters.Store == "memory" || c.Counters.Store == "postgres"),
			"needs the counters to be in Redis: set redis.url (REDIS_URL), and counters.store to redis or auto",
		},
		{
			[]string{"cache.store", "redis.url"},
			c.Cache.Store == "redis" && c.Redis.URL.Empty(),
			"cannot be redis without redis.url (REDIS_URL)",
		},
		{
			[]string{"gateway.file", "gateway.source"},
			c.Gateway.File != "" && c.Gateway.Source == "database",
			"must be empty when gateway.source is database: the document is in one place; put the file there with keywarden config apply",
		},
		{
			[]string{"gateway.file", "gateway.source"},
			c.Gateway.File != "" && c.Gateway.Source == SourceKubernetes,
			"must be empty when gateway.source is kubernetes: the document is made of the objects of the cluster, and never merged with another",
		},
		c.Gateway.Kubernetes.unused(c.Gateway.Source),
		c.Gateway.Kubernetes.address(),
	}
}

// checkRules is the last step: what is true of all layers together.
func (l *loader) checkRules(src Source) {
	for _, r := range rules(l.cfg, src.Serving) {
		refused := slices.ContainsFunc(r.paths, func(path string) bool { return l.failed[path] })
		if r.broken && !refused { // a refused value makes the comparison meaningless
			l.fail(l.lastSet(r.paths), r.paths[0], r.detail, nil)
		}
	}
	if name := orphanedPart(src.Lookup); name != "" && l.cfg.Database.URL.Empty() && !l.failed["database.url"] {
		at := Origin{Layer: LayerEnvironment, Name: name}
		l.fail(at, "database.url", "describes a database, but neither DB_HOST nor DATABASE_URL says where it is", nil)
	}
}

// lastSet is the place of the value among paths that comes from the highest
// layer; within one layer, of the first that is named.
func (l *loader) lastSet(paths []string) Origin {
	var last Origin
	for _, path := range paths {
		if at := l.origins[path]; at.Layer > last.Layer {
			last = at
		}
	}
	return last
}

// Package config is the process configuration: how one replica listens, logs,
// connects and protects itself. It owns the options with their defaults and
// bounds, the layers they are read from, and the errors that name the place of
// every mistake.
//
// It does not own the gateway document (services, routes, policies), which is
// desired state and lives in package spec; it opens no connection and reads no
// process environment by itself: the caller passes the environment in.
//
// The layers, each overriding the one before: [Default], the YAML file, the
// environment, the flags. The environment has a second tier of names that other
// software uses for the same thing, such as DATABASE_URL; the KEYWARDEN_ name of
// an option overrides them.
package config

import (
	"net/netip"
	"time"

	"github.com/keywarden/keywarden/pkg/seal"
)

// Config holds every option of the process. [Load] makes it, and nothing
// changes it afterwards.
//
// The field tags are the reference of the options: yaml is the name, doc the
// description, min and max the bounds, enum the accepted words, format the
// syntax (see [checkFormat]), alias the further names in the environment, lowest
// last. The name in the environment follows from the path.
type Config struct {
	Profiles   []string   `yaml:"profiles" enum:"dev,prod" alias:"ACTIVE_PROFILES" doc:"Names of the deployment, for information only: they are logged at start and change nothing."`
	Server     Server     `yaml:"server" doc:"The listeners and their limits."`
	Log        Log        `yaml:"log" doc:"What is written to standard error."`
	Database   Database   `yaml:"database" doc:"PostgreSQL, the place of every record."`
	Redis      Redis      `yaml:"redis" doc:"Redis or Valkey, optional: counters and response cache shared by several replicas."`
	Counters   Counters   `yaml:"counters" doc:"The counters of rate limits."`
	Cache      Cache      `yaml:"cache" doc:"The answers that routes with a cache policy keep."`
	Usage      Usage      `yaml:"usage" doc:"Who uses what."`
	Alerts     Alerts     `yaml:"alerts" doc:"What tells operators of trouble."`
	Data       Data       `yaml:"data" doc:"Files that a replica keeps on its own machine."`
	Security   Security   `yaml:"security" doc:"The master key, from which every other secret of the platform is derived."`
	Accounts   Accounts   `yaml:"accounts" doc:"Users and their passwords."`
	Tokens     Tokens     `yaml:"tokens" doc:"Sessions, access tokens and refresh tokens."`
	Keys       Keys       `yaml:"keys" doc:"API keys."`
	Revocation Revocation `yaml:"revocation" doc:"How fast a revocation reaches this replica."`
	Throttle   Throttle   `yaml:"throttle" doc:"Brute force protection: each is a bucket that holds a number of attempts and regains one per interval."`
	Gateway    Gateway    `yaml:"gateway" doc:"The data plane, which forwards requests to the services of the gateway document."`
	Telemetry  Telemetry  `yaml:"telemetry" doc:"Metrics and traces. Traces leave the process when OTEL_EXPORTER_OTLP_ENDPOINT is set; the standard OTEL_ variables are read by the OpenTelemetry SDK itself."`
}

// Server is the section of the listeners.
type Server struct {
	Addr                string         `yaml:"addr" format:"address" alias:"PORT" doc:"Address of the main listener as host:port; without a host every interface listens. The variable PORT gives the port alone."`
	Hosts               []string       `yaml:"hosts" format:"host" doc:"Host names, lower case and without port, on which the platform's own paths exist; every other host belongs to the gateway. Empty means every host."`
	TrustedProxies      []netip.Prefix `yaml:"trusted_proxies" doc:"Networks whose forwarding headers are believed; empty means that the client is always the TCP peer."`
	ReadHeaderTimeout   time.Duration  `yaml:"read_header_timeout" min:"100ms" max:"1m" doc:"Longest time a client may take to send the header of a request."`
	IdleTimeout         time.Duration  `yaml:"idle_timeout" min:"1s" max:"1h" doc:"Longest time a connection without a request is kept open."`
	MaxHeaderBytes      Size           `yaml:"max_header_bytes" min:"4KiB" max:"1MiB" doc:"Largest header of a request."`
	MaxConnections      int            `yaml:"max_connections" min:"1" max:"1000000" doc:"Most connections open at once on the main listener."`
	MaxConnectionsPerIP int            `yaml:"max_connections_per_ip" min:"0" max:"1000000" doc:"Most connections open at once from one address; 0 means unlimited, for a listener behind a load balancer."`
	ShutdownDelay       time.Duration  `yaml:"shutdown_delay" min:"0s" max:"5m" doc:"Time between reporting not ready and closing the listeners; 5s is advised behind a load balancer, which needs it to look away."`
	DrainTimeout        time.Duration  `yaml:"drain_timeout" min:"0s" max:"1h" doc:"Longest time that requests in flight may take to end after the listeners were closed."`
	Front               bool           `yaml:"front" doc:"Serve plain HTTP/1.1 requests without net/http's server, which then gets what is not plain. Linux only; elsewhere it has no effect."`
	TLS                 TLS            `yaml:"tls" doc:"The certificates of the main listener; without one it speaks plain HTTP."`
	MetricsAddr         string         `yaml:"metrics_addr" format:"address" doc:"Address of a listener of its own for operators: /admin/v1, the probes, /metrics and /debug/pprof, by plain HTTP; the main listener then has neither /admin/v1 nor /metrics. Empty means /admin/v1 and /metrics on the main listener, without pprof."`
	BodyLimit           Size           `yaml:"body_limit" min:"1KiB" max:"64MiB" doc:"Largest body of a request to the platform's own API."`
}

// TLS is the section of the certificates of the main listener.
type TLS struct {
	CertFile     string `yaml:"cert_file" doc:"PEM file with the certificate chain for clients that name no host, or one that no other certificate is for; it is read again when it changes."`
	KeyFile      string `yaml:"key_file" doc:"PEM file with the private key of the certificate."`
	Dir          string `yaml:"dir" doc:"Folder of further certificates, chosen by the host that a client asks for (SNI): name.crt beside name.key, or folders with tls.crt and tls.key. It is read again when something in it changes."`
	ClientCAFile string `yaml:"client_ca_file" doc:"PEM file with the authorities whose clients may show a certificate, for routes with auth.methods certificate. Empty means that none is asked for."`
	ClientAuth   string `yaml:"client_auth" enum:"request,require" doc:"Whether a client may show a certificate, or has to."`
	ACME         ACME   `yaml:"acme" doc:"Certificates that are got and renewed by themselves (RFC 8555), kept in PostgreSQL for all replicas."`
}

// ACME is the section of certificates that are got by themselves.
type ACME struct {
	Domains      []string `yaml:"domains" format:"host" doc:"Host names to get certificates for, by tls-alpn-01: the authority must reach the main listener at port 443 of each. Empty means none. Using it accepts the terms of the authority."`
	Email        string   `yaml:"email" doc:"Address that the authority may write to about expiry."`
	DirectoryURL string   `yaml:"directory_url" doc:"Directory of the authority."`
	CAFile       string   `yaml:"ca_file" doc:"PEM file with the authorities that the server of the directory is trusted by, instead of those of the system."`
}

// Log is the section of the log.
type Log struct {
	Level  string `yaml:"level" enum:"debug,info,warn,error" doc:"Least severity that is written."`
	Format string `yaml:"format" enum:"json,text" doc:"Form of a line."`
	Access bool   `yaml:"access" doc:"Whether each request is one line."`
}

// Database is the section of PostgreSQL.
type Database struct {
	URL            seal.Secret   `yaml:"url" format:"postgres" alias:"DATABASE_URL" doc:"URL of the server, postgres://user:password@host:port/database. Where no variable gives it, DB_HOST with DB_PORT, DB_SSLMODE, POSTGRES_USER, POSTGRES_PASSWORD and POSTGRES_DB does. Empty means a private server that the program starts itself."`
	MaxConnections int           `yaml:"max_connections" min:"2" max:"1000" doc:"Most connections that one replica opens."`
	ConnectTimeout time.Duration `yaml:"connect_timeout" min:"100ms" max:"5m" doc:"Longest time to open a connection."`
	QueryTimeout   time.Duration `yaml:"query_timeout" min:"100ms" max:"5m" doc:"Longest time of one query of the platform's own API."`
	VerifyTimeout  time.Duration `yaml:"verify_timeout" min:"10ms" max:"30s" doc:"Longest time of one look-up on the path of a request, such as that of a key that is not in the cache."`
	MigrateOnStart bool          `yaml:"migrate_on_start" doc:"Whether serve applies missing migrations before it listens."`
	PostgresBin    string        `yaml:"postgres_bin" alias:"KEYWARDEN_POSTGRES_BIN" doc:"Folder of PostgreSQL's own programs, for the private server; empty means that they are searched for."`
}

// Redis is the section of Redis.
type Redis struct {
	URL     seal.Secret   `yaml:"url" format:"redis" alias:"REDIS_URL" doc:"URL of the server, redis://user:password@host:port/0, or rediss:// with TLS, or unix://; empty means none."`
	Cluster bool          `yaml:"cluster" doc:"Whether the server is a node of a Redis Cluster."`
	Timeout time.Duration `yaml:"timeout" min:"1ms" max:"10s" doc:"Longest time of one call. What takes longer counts as a failure, after which Redis is left alone for a second."`
}

// Counters is the section of rate limits.
type Counters struct {
	Store   string        `yaml:"store" enum:"auto,memory,redis,postgres" doc:"Where the counters of rate limits are: in the memory of each replica, which then counts alone, or in a store that all replicas lease units from. auto is redis with redis.url, postgres with an external database, and memory otherwise."`
	Strict  bool          `yaml:"strict" doc:"Whether each decision asks Redis, in place of leases: exact over all replicas, for one round trip per request and limit."`
	Timeout time.Duration `yaml:"timeout" min:"1ms" max:"10s" doc:"Longest time that a request waits for the store. A store that takes longer is left alone for a second, and each replica enforces its share of the limit."`
}

// Cache is the section of the response cache.
type Cache struct {
	Store    string `yaml:"store" enum:"auto,memory,redis" doc:"Where answers are kept: in the memory of each replica, or in Redis, for all. auto is redis with redis.url, and memory otherwise."`
	MaxBytes Size   `yaml:"max_bytes" min:"1MiB" max:"1TiB" doc:"Memory of one replica for answers, with the store memory."`
	Entries  int    `yaml:"entries" min:"100" max:"100000000" doc:"Most answers in the memory of one replica, with the store memory."`
}

// Usage is the section of usage metering.
type Usage struct {
	FlushInterval time.Duration `yaml:"flush_interval" min:"100ms" max:"1m" doc:"Interval at which a replica hands what it has counted to the database; a crash loses no more than that."`
	Retention     time.Duration `yaml:"retention" min:"24h" max:"87600h" doc:"Time for which usage is kept."`
}

// Alerts is the section of alerts and of the ways to tell of them.
type Alerts struct {
	Interval      time.Duration  `yaml:"interval" min:"1s" max:"1h" doc:"Interval between two evaluations of a rule."`
	AllowNetworks []netip.Prefix `yaml:"allow_networks" doc:"Networks that are not public and that webhooks may lead to."`
	Ports         []int          `yaml:"ports" min:"1" max:"65535" doc:"Ports of public addresses that webhooks may lead to; empty means 80, 443, 8080 and 8443."`
	SMTP          SMTP           `yaml:"smtp" doc:"The mail server; without a host, there is no mail."`
}

// SMTP is the section of the mail server.
type SMTP struct {
	Host     string      `yaml:"host" doc:"Host of the mail server; empty means none."`
	Port     int         `yaml:"port" min:"0" max:"65535" doc:"Port; 0 means 587, with security tls 465 and with none 25."`
	Security string      `yaml:"security" enum:"starttls,tls,none" doc:"How the connection is encrypted: starttls, tls or none."`
	Username string      `yaml:"username" doc:"User name; empty means that none is given."`
	Password seal.Secret `yaml:"password" doc:"Password of the user."`
	From     string      `yaml:"from" doc:"Address of the sender."`
}

// Data is the section of the local files.
type Data struct {
	Dir string `yaml:"dir" doc:"Folder of the private PostgreSQL and its master key; empty means /var/lib/keywarden for root, otherwise keywarden below $XDG_DATA_HOME or ~/.local/share."`
}

// Security is the section of the master key.
type Security struct {
	MasterKey         seal.Secret   `yaml:"master_key" format:"master-key" alias:"KEYWARDEN_MASTER_KEY" doc:"Master key, 32 random bytes in base64, as keywarden keygen makes it; required with an external database."`
	MasterKeysRetired []seal.Secret `yaml:"master_keys_retired" format:"master-key" alias:"KEYWARDEN_MASTER_KEYS_RETIRED" doc:"Earlier master keys, which still open what was sealed under them."`
}

// Accounts is the section of users and passwords.
type Accounts struct {
	Registration      bool     `yaml:"registration" doc:"Whether anyone may register; without it an administrator creates the users."`
	PasswordMinLength int      `yaml:"password_min_length" min:"8" max:"64" doc:"Least number of characters of a new password."`
	BcryptCost        int      `yaml:"bcrypt_cost" min:"10" max:"16" doc:"bcrypt cost of a password; each step doubles the time of a login."`
	HashConcurrency   int      `yaml:"hash_concurrency" min:"0" max:"1024" doc:"Most passwords hashed at the same moment; 0 means half of the processor's cores, at least 1."`
	UserScopes        []string `yaml:"user_scopes" format:"scope" doc:"Scopes of the backends that every user may put on a key."`
}

// Tokens is the section of sessions and tokens.
type Tokens struct {
	Issuer             string        `yaml:"issuer" format:"word" doc:"The iss claim of an access token, a name or a URL."`
	Audience           string        `yaml:"audience" format:"word" doc:"The aud claim of an access token, a name or a URL."`
	AccessTTL          time.Duration `yaml:"access_ttl" min:"1m" max:"1h" doc:"Lifetime of an access token."`
	RefreshIdleTTL     time.Duration `yaml:"refresh_idle_ttl" min:"1h" max:"8760h" doc:"Time after which a session that was not refreshed ends."`
	SessionTTL         time.Duration `yaml:"session_ttl" min:"1h" max:"8760h" doc:"Time after which a session ends however often it was refreshed."`
	SigningKeyRotation time.Duration `yaml:"signing_key_rotation" min:"24h" max:"8760h" doc:"Age at which the key that signs access tokens is replaced; the old one verifies until its tokens have expired."`
	Leeway             time.Duration `yaml:"leeway" min:"0s" max:"1m" doc:"Difference between clocks that is forgiven when a token's times are checked."`
}

// Keys is the section of API keys.
type Keys struct {
	Prefix         string        `yaml:"prefix" format:"key-prefix" doc:"First part of every key, 2 to 8 lower-case letters and digits, a letter first."`
	BcryptCost     int           `yaml:"bcrypt_cost" min:"4" max:"14" doc:"bcrypt cost of a stored key; a key is random, so a higher cost adds time and little protection."`
	CacheEntries   int           `yaml:"cache_entries" min:"1000" max:"10000000" doc:"Most verified keys that are kept in memory."`
	MaxPerUser     int           `yaml:"max_per_user" min:"1" max:"100000" doc:"Most keys of one user that are neither revoked nor expired."`
	IdempotencyTTL time.Duration `yaml:"idempotency_ttl" min:"1m" max:"168h" doc:"Time for which an Idempotency-Key is remembered."`
}

// Revocation is the section of revocation.
type Revocation struct {
	PollInterval time.Duration `yaml:"poll_interval" min:"100ms" max:"5s" doc:"Interval at which the revocations are polled, beside the notifications of the database."`
	MaxStaleness time.Duration `yaml:"max_staleness" min:"1s" max:"1h" doc:"Longest time for which known keys and tokens are accepted while the database does not answer."`
}

// Throttle is the section of brute force protection.
type Throttle struct {
	AccountFailures    int           `yaml:"account_failures" min:"1" max:"10000" doc:"Failed logins to one account that are possible at once."`
	AccountRefill      time.Duration `yaml:"account_refill" min:"1ms" max:"24h" doc:"Interval at which one of them is regained."`
	AddressFailures    int           `yaml:"address_failures" min:"1" max:"10000" doc:"Failed authentications of any kind from one address that are possible at once."`
	AddressRefill      time.Duration `yaml:"address_refill" min:"1ms" max:"24h" doc:"Interval at which one of them is regained."`
	Registrations      int           `yaml:"registrations" min:"1" max:"10000" doc:"Registrations from one address that are possible at once."`
	RegistrationRefill time.Duration `yaml:"registration_refill" min:"1ms" max:"24h" doc:"Interval at which one of them is regained."`
}

// Gateway is the section of the data plane.
type Gateway struct {
	Source      string     `yaml:"source" enum:"file,database,kubernetes" doc:"Where the gateway document is: in a file; as revisions in the database, which the admin API and keywarden config apply write; or made of the Ingresses and HTTPRoutes of a cluster. It is one of them; they are never merged."`
	File        string     `yaml:"file" alias:"GATEWAY_CONFIG" doc:"File of the gateway document; empty means none, and the gateway answers 404. With another source it must be empty."`
	Watch       bool       `yaml:"watch" doc:"Whether the file is applied again when it changes; SIGHUP does so in any case."`
	FilesDir    string     `yaml:"files_dir" doc:"Folder of the files (certificates, passwords) that the gateway document may name. Empty means every file for a document in a file, and none for one in the database: who may write documents must not get at other files of the machine."`
	Kubernetes  Kubernetes `yaml:"kubernetes" doc:"The cluster whose Ingresses and HTTPRoutes are the gateway document, with the source kubernetes."`
	Environment string     `yaml:"environment" format:"word" doc:"Environment whose secrets the gateway document can name."`
	Zone        string     `yaml:"zone" doc:"Zone of this replica; targets in the same zone are asked first. Empty means none."`
	MaxInFlight int        `yaml:"max_in_flight" min:"0" max:"10000000" doc:"Most forwarded requests that one replica works on at once, streams and WebSockets included; one more is answered with 503 at once. 0 means unlimited."`
	BodyLimit   Size       `yaml:"body_limit" min:"0" max:"1TiB" doc:"Largest body of a forwarded request where the route sets no max_body of its own; 0 means unlimited, which is safe because bodies are streamed at the pace of the service and never buffered."`
}

// Telemetry is the section of metrics and traces.
type Telemetry struct {
	ServiceName        string  `yaml:"service_name" format:"word" doc:"The service.name of metrics and traces; OTEL_SERVICE_NAME overrides it."`
	TraceSampleRatio   float64 `yaml:"trace_sample_ratio" min:"0" max:"1" doc:"Share of the requests that are traced, of use only with an OTLP endpoint; OTEL_TRACES_SAMPLER overrides it."`
	Metrics            bool    `yaml:"metrics" doc:"Whether /metrics is served."`
	TrustIncomingTrace bool    `yaml:"trust_incoming_trace" doc:"Whether the sampled flag that a client sends is honoured."`
}

// Default is the configuration that nothing overrides.
func Default() *Config {
	return &Config{
		Server: Server{
			Addr:                ":8080",
			ReadHeaderTimeout:   10 * time.Second,
			IdleTimeout:         2 * time.Minute,
			MaxHeaderBytes:      64 * KiB,
			MaxConnections:      10_000,
			MaxConnectionsPerIP: 1_000,
			DrainTimeout:        30 * time.Second,
			Front:               true,
			BodyLimit:           MiB,
			TLS:                 TLS{ClientAuth: "request", ACME: ACME{DirectoryURL: "https://acme-v02.api.letsencrypt.org/directory"}},
		},
		Log: Log{Level: "info", Format: "json", Access: true},
		Database: Database{
			MaxConnections: 20,
			ConnectTimeout: 5 * time.Second,
			QueryTimeout:   5 * time.Second,
			VerifyTimeout:  500 * time.Millisecond,
			MigrateOnStart: true,
		},
		Redis:    Redis{Timeout: 50 * time.Millisecond},
		Counters: Counters{Store: "auto", Timeout: 50 * time.Millisecond},
		Cache:    Cache{Store: "auto", MaxBytes: 64 * MiB, Entries: 100_000},
		Usage:    Usage{FlushInterval: time.Second, Retention: 90 * 24 * time.Hour},
		Alerts:   Alerts{Interval: 30 * time.Second, SMTP: SMTP{Security: "starttls"}},
		Accounts: Accounts{Registration: true, PasswordMinLength: 12, BcryptCost: 12},
		Tokens: Tokens{
			Issuer:             "keywarden",
			Audience:           "keywarden",
			AccessTTL:          15 * time.Minute,
			RefreshIdleTTL:     7 * 24 * time.Hour,
			SessionTTL:         30 * 24 * time.Hour,
			SigningKeyRotation: 30 * 24 * time.Hour,
			Leeway:             30 * time.Second,
		},
		Keys: Keys{
			Prefix:         "kw",
			BcryptCost:     10,
			CacheEntries:   100_000,
			MaxPerUser:     100,
			IdempotencyTTL: 24 * time.Hour,
		},
		Revocation: Revocation{PollInterval: 500 * time.Millisecond, MaxStaleness: 5 * time.Minute},
		Throttle: Throttle{
			AccountFailures:    10,
			AccountRefill:      30 * time.Second,
			AddressFailures:    50,
			AddressRefill:      2 * time.Second,
			Registrations:      20,
			RegistrationRefill: 30 * time.Second,
		},
		Gateway: Gateway{
			Source: "file", Watch: true, Environment: "default", MaxInFlight: 10_000,
			Kubernetes: Kubernetes{Controller: "keywarden.io/gateway-controller", Status: true},
		},
		Telemetry: Telemetry{ServiceName: "keywarden", TraceSampleRatio: 0.01, Metrics: true},
	}
}

package config

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/keywarden/keywarden/pkg/seal"
)

// brokenFiles are files that are no YAML, or none that can be read as options.
func brokenFiles() []string {
	return []string{
		"a: [1\nb: 2", "redis:\n  url: *canary\n", "a: &x 1\nb: *x\n", "a: \"\\q\"\n", "\ta: 1\n", "a: 1\n---\nb: 2\n", "a: 1\n---\n\t",
		"a: \x00\n", "a: \xff\n", "- a\n", "text", "? [a]\n: 1\n", "a: !x!y 1\n", "<<: {a: 1}\n", "...\n", "---\n---\n", "%YAML 9.9\n---\n",
	}
}

func TestMistakesInTheFileNameTheirPlace(t *testing.T) {
	tests := []struct {
		name, file string
		want       string
	}{
		{"unknown option", "server:\n  adr: \":1\"\n", "2:3: server.adr: unknown option, did you mean server.addr?"},
		{"unknown section", "sever:\n  addr: \":1\"\n", "1:1: sever: unknown option, did you mean server?"},
		{"nothing like it", "server:\n  colour: red\n", "2:3: server.colour: unknown option"},
		{"wrong section", "log:\n  access_ttl: 15m\n", "2:3: log.access_ttl: unknown option, did you mean tokens.access_ttl?"},
		{"joined by a dot", "server.addr: \":1\"\n", "1:1: server.addr: must be written as a section with the option below it, not joined by a dot"},
		{"merge key", "<<: {}\n", "1:1: has a key here that cannot be the name of an option"},
		{"secret in place of a name", "redis: {\"redis://u:p@h\"}\n", "1:9: redis: has a key here that cannot be the name of an option"},
		{"line end in a name", "\"a\\nb\": 1\n", "1:1: has a key here that cannot be the name of an option"},
		{"given twice", "log:\n  level: info\n  level: warn\n", "3:3: log.level: is given twice, first in line 2"},
		{"section given twice", "log: {}\n\nlog: {}\n", "3:1: log: is given twice, first in line 1"},

		{"section is a text", "server: x\n", "1:9: server: must be a section with options below it"},
		{"root is a list", "- a\n", "1:1: must be a section with options below it"},
		{"key is a list", "? [a]\n: 1\n", "1:3: must have names of options as its keys"},
		{"option is a section", "server:\n  addr: {a: 1}\n", "2:9: server.addr: must be one text, not a list or a section"},
		{"list is a text", "server:\n  hosts: a\n", "2:10: server.hosts: must be a list, such as [] or [a, b]"},
		{"no value", "server:\n  addr:\n", `2:8: server.addr: has no value; write "" for an empty text, or remove the line for the default`},
		{"number for text", "tokens: {issuer: 12}\n", "1:18: tokens.issuer: must be text; put it in quotes"},
		{"text for integer", "keys: {max_per_user: \"5\"}\n", "1:22: keys.max_per_user: must be a whole number, without quotes"},
		{"fraction for integer", "keys: {max_per_user: 1.5}\n", "1:22: keys.max_per_user: must be a whole number, without quotes"},
		{"other notation", "keys: {max_per_user: 0x10}\n", `1:22: keys.max_per_user: must be a whole number, not "0x10"`},
		{"text for boolean", "log: {access: yes}\n", "1:15: log.access: must be true or false, without quotes"},
		{"text for number", "telemetry: {trace_sample_ratio: half}\n", "1:33: telemetry.trace_sample_ratio: must be a number, without quotes"},
		{"not a number", "telemetry: {trace_sample_ratio: .nan}\n", `1:33: telemetry.trace_sample_ratio: must be a number, such as 0.01, not ".nan"`},
		{"duration without unit", "server: {idle_timeout: 30}\n",
			`1:24: server.idle_timeout: must be a duration with its unit, such as 500ms, 30s, 15m or 168h, not "30"`},
		{"boolean for duration", "server: {idle_timeout: true}\n", "1:24: server.idle_timeout: must be a duration with its unit"},
		{"negative duration", "tokens: {leeway: -1s}\n",
			`1:18: tokens.leeway: must be a duration with its unit, such as 500ms, 30s, 15m or 168h, not "-1s"`},
		{"decimal unit", "server: {body_limit: 1MB}\n",
			`1:22: server.body_limit: must be a size with its unit (B, KiB, MiB, GiB or TiB), such as 64KiB or 1MiB, not "1MB"`},
		{"alias", "server: {addr: &a \":1\", metrics_addr: *a}\n", "1:39: server.metrics_addr: must be a value of its own, aliases are not supported"},

		{"below bound", "tokens: {access_ttl: 59s}\n", `1:22: tokens.access_ttl: must be 1m to 1h, not "59s"`},
		{"above bound", "keys: {bcrypt_cost: 15}\n", `1:21: keys.bcrypt_cost: must be 4 to 14, not "15"`},
		{"size above bound", "server: {body_limit: 65MiB}\n", `1:22: server.body_limit: must be 1KiB to 64MiB, not "65MiB"`},
		{"ratio above bound", "telemetry: {trace_sample_ratio: 1.01}\n", `1:33: telemetry.trace_sample_ratio: must be 0 to 1, not "1.01"`},
		{"not one of", "log: {level: loud}\n", `1:14: log.level: must be one of debug, info, warn, error, not "loud"`},
		{"address without port", "server: {addr: localhost}\n",
			`1:16: server.addr: must be host:port, such as :8080 or 127.0.0.1:8080, not "localhost"`},
		{"port too large", "server: {addr: \":65536\"}\n",
			`1:16: server.addr: must be host:port, such as :8080 or 127.0.0.1:8080, not ":65536"`},
		{"empty where something is needed", "server: {addr: \"\"}\n", "1:16: server.addr: must not be empty"},
		{"host with port", "server:\n  hosts:\n    - a.example\n    - b.example:80\n",
			`4:7: server.hosts: item 2 must be a host name in lower case, without port, not "b.example:80"`},
		{"empty item", "server: {hosts: [\"\"]}\n", "1:18: server.hosts: item 1 must not be empty"},
		{"network with host bits", "server: {trusted_proxies: [10.0.0.1/8]}\n",
			`1:28: server.trusted_proxies: item 1 has bits beyond its length; the network is 10.0.0.0/8, not "10.0.0.1/8"`},
		{"not a network", "server: {trusted_proxies: [all]}\n",
			`1:28: server.trusted_proxies: item 1 must be a network such as 10.0.0.0/8 or 2001:db8::/32, or one address, not "all"`},
		{"mapped network", "server: {trusted_proxies: [\"::ffff:10.0.0.0/104\"]}\n",
			`1:28: server.trusted_proxies: item 1 must be written as an IPv4 network, not "::ffff:10.0.0.0/104"`},
		{"wildcard scope", "accounts: {user_scopes: [\"*\"]}\n",
			`1:26: accounts.user_scopes: item 1 must be a scope: lower-case words joined by colons, such as orders:read, not "*"`},
		{"key prefix", "keys: {prefix: K_}\n", `1:16: keys.prefix: must be 2 to 8 lower-case letters and digits, a letter first, not "K_"`},
		{"space in issuer", "tokens: {issuer: a b}\n",
			`1:18: tokens.issuer: must be at most 256 printable ASCII characters without spaces, not "a b"`},
		{"control character", "data: {dir: \"a\\tb\"}\n", `1:13: data.dir: must be text without control characters, not "a\tb"`},

		{"certificate without key", "server:\n  tls:\n    cert_file: a.pem\n",
			"3:16: server.tls.cert_file: must be set together with server.tls.key_file, or neither"},
		{"key without certificate", "server:\n  tls:\n    key_file: a.pem\n",
			"3:15: server.tls.cert_file: must be set together with server.tls.key_file, or neither"},
		{"metrics on the main address", "server: {metrics_addr: \":8080\"}\n",
			"1:24: server.metrics_addr: must differ from server.addr; leave it empty to serve /metrics there"},
		{"idle longer than session", "tokens: {session_ttl: 24h}\n",
			"1:23: tokens.refresh_idle_ttl: must not be longer than tokens.session_ttl"},
		{"look-up longer than query", "database: {verify_timeout: 6s}\n",
			"1:28: database.verify_timeout: must not be longer than database.query_timeout"},
		{"counters in no Redis", "counters: {store: redis}\n", "1:19: counters.store: cannot be redis without redis.url (REDIS_URL)"},
		{"strict counters in no Redis", "counters: {strict: true}\n",
			"1:20: counters.strict: needs the counters to be in Redis: set redis.url (REDIS_URL), and counters.store to redis or auto"},
		{"strict counters elsewhere", "redis: {url: \"redis://a\"}\ncounters: {strict: true, store: postgres}\n",
			"2:20: counters.strict: needs the counters to be in Redis: set redis.url (REDIS_URL), and counters.store to redis or auto"},
		{"answers in no Redis", "cache: {store: redis}\n", "1:16: cache.store: cannot be redis without redis.url (REDIS_URL)"},
		{"stale before polled", "revocation: {poll_interval: 1s, max_staleness: 1s}\n",
			"1:48: revocation.max_staleness: must be at least twice revocation.poll_interval, or one late poll refuses every key"},

		{"not YAML", "log:\n  level: [a\n", "3:1: is not valid YAML: did not find expected ',' or ']'"},
		{"two documents", "log: {}\n---\nlog: {}\n", "2:1: only one document is allowed in the file"},
		{"broken second document", "log: {}\n---\n[a", "4:1: is not valid YAML: did not find expected ',' or ']'"},
		{"not UTF-8", "log: \xff\n", " is not valid YAML: not UTF-8, or with control characters"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := loadYAML(Source{}, tt.file)
			wantErrors(t, err, "keywarden.yaml:"+tt.want)
		})
	}
}

func TestMistakesInTheEnvironmentNameTheVariable(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "missing")
	empty, good := writeTemp(t, "\n"), writeTemp(t, "redis://h\n")
	tests := []struct {
		name string
		env  map[string]string
		want []string
	}{
		{"mistyped", map[string]string{"KEYWARDEN_SERVER_ADRR": "x"},
			[]string{"KEYWARDEN_SERVER_ADRR: unknown variable, did you mean KEYWARDEN_SERVER_ADDR?"}},
		{"nothing like it", map[string]string{"KEYWARDEN_X": "x"}, []string{"KEYWARDEN_X: unknown variable"}},
		{"mistyped and empty", map[string]string{"KEYWARDEN_LOG_LEVL": ""},
			[]string{"KEYWARDEN_LOG_LEVL: unknown variable, did you mean KEYWARDEN_LOG_LEVEL?"}},
		{"file variant of what is no secret", map[string]string{"KEYWARDEN_LOG_LEVEL_FILE": "x"},
			[]string{"KEYWARDEN_LOG_LEVEL_FILE: unknown variable, did you mean KEYWARDEN_LOG_LEVEL?"}},
		{"wrong type", map[string]string{"KEYWARDEN_LOG_ACCESS": "maybe"},
			[]string{`KEYWARDEN_LOG_ACCESS: log.access: must be true or false, not "maybe"`}},
		{"out of bounds", map[string]string{"KEYWARDEN_KEYS_MAX_PER_USER": "0"},
			[]string{`KEYWARDEN_KEYS_MAX_PER_USER: keys.max_per_user: must be 1 to 100000, not "0"`}},
		{"port", map[string]string{"PORT": "http"}, []string{`PORT: server.addr: must be a port number, 0 to 65535, not "http"`}},
		{"profile", map[string]string{"ACTIVE_PROFILES": "dev,test"},
			[]string{`ACTIVE_PROFILES: profiles: item 2 must be one of dev, prod, not "test"`}},
		{"secret and file", map[string]string{"REDIS_URL": "redis://h", "REDIS_URL_FILE": good},
			[]string{"REDIS_URL_FILE: redis.url: is set together with REDIS_URL; keep one of them"}},
		{"missing file", map[string]string{"KEYWARDEN_REDIS_URL_FILE": missing},
			[]string{"KEYWARDEN_REDIS_URL_FILE: redis.url: the file it names cannot be read: no such file or directory"}},
		{"empty file", map[string]string{"KEYWARDEN_REDIS_URL_FILE": empty},
			[]string{"KEYWARDEN_REDIS_URL_FILE: redis.url: the file it names is empty"}},
		{"parts without a host", map[string]string{"POSTGRES_PASSWORD": "x"},
			[]string{"POSTGRES_PASSWORD: database.url: describes a database, but neither DB_HOST nor DATABASE_URL says where it is"}},
		{"host with port", map[string]string{"DB_HOST": "db:5432"},
			[]string{"DB_HOST: database.url: must be a host name, an address or the folder of a socket, without port"}},
		{"port of the database", map[string]string{"DB_HOST": "db", "DB_PORT": "x"},
			[]string{"DB_PORT: database.url: must be a port number, 0 to 65535"}},
		{"sslmode", map[string]string{"DB_HOST": "db", "DB_SSLMODE": "on"},
			[]string{"DB_SSLMODE: database.url: must be one of disable, allow, prefer, require, verify-ca, verify-full"}},
		{"password file of the database", map[string]string{"DB_HOST": "db", "POSTGRES_PASSWORD_FILE": missing},
			[]string{"POSTGRES_PASSWORD_FILE: database.url: the file it names cannot be read: no such file or directory"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Load(fromEnv(tt.env))
			for i := range tt.want {
				tt.want[i] = "environment variable " + tt.want[i]
			}
			wantErrors(t, err, tt.want...)
		})
	}
}

func TestMistakesInFlagsNameTheOption(t *testing.T) {
	_, err := Load(Source{Flags: map[string]string{"server.adr": "x", "log.level": "loud", "server": "x"}})
	wantErrors(t, err,
		`flag log.level: must be one of debug, info, warn, error, not "loud"`,
		"flag server: unknown option",
		"flag server.adr: unknown option, did you mean server.addr?",
	)
}

// TestAllMistakesAreReportedAtOnce also fixes their order: the file from top to
// bottom, the environment by name, the flags by path.
func TestAllMistakesAreReportedAtOnce(t *testing.T) {
	src := fromEnv(map[string]string{"KEYWARDEN_TOKENS_LEEWAY": "2m", "KEYWARDEN_ADDR": "x", "PORT": "-1"})
	src.Flags = map[string]string{"keys.prefix": "", "gateway.body_limit": "x"}
	_, err := loadYAML(src, strings.Join([]string{
		"tokens:",
		"  session_ttl: 1h",
		"  access_tll: 15m",
		"log: {level: loud, format: xml}",
		"server:",
		"  tls: {key_file: k.pem}",
		"  idle_timeout: 1",
		"unknown: {a: {b: c}}",
	}, "\n"))
	wantErrors(t, err,
		"keywarden.yaml:2:16: tokens.refresh_idle_ttl: must not be longer than tokens.session_ttl",
		"keywarden.yaml:3:3: tokens.access_tll: unknown option, did you mean tokens.access_ttl?",
		`keywarden.yaml:4:14: log.level: must be one of debug, info, warn, error, not "loud"`,
		`keywarden.yaml:4:28: log.format: must be one of json, text, not "xml"`,
		"keywarden.yaml:6:19: server.tls.cert_file: must be set together with server.tls.key_file, or neither",
		`keywarden.yaml:7:17: server.idle_timeout: must be a duration with its unit, such as 500ms, 30s, 15m or 168h, not "1"`,
		"keywarden.yaml:8:1: unknown: unknown option",
		"environment variable KEYWARDEN_ADDR: unknown variable",
		`environment variable KEYWARDEN_TOKENS_LEEWAY: tokens.leeway: must be 0s to 1m, not "2m"`,
		`environment variable PORT: server.addr: must be a port number, 0 to 65535, not "-1"`,
		`flag gateway.body_limit: must be a size with its unit (B, KiB, MiB, GiB or TiB), such as 64KiB or 1MiB, not "x"`,
		"flag keys.prefix: must not be empty",
	)
}

// TestRefusedValueCausesNoSecondMistake: what a rule would compare is not what
// was meant.
func TestRefusedValueCausesNoSecondMistake(t *testing.T) {
	_, err := loadYAML(Source{}, "tokens: {session_ttl: 2h, refresh_idle_ttl: 1}\nserver: {tls: {cert_file: c, key_file: 1}}\n")
	if errs, _ := errors.AsType[Errors](err); len(errs) != 2 {
		t.Errorf("want 2 mistakes, got:\n%v", err)
	}
}

func TestRuleIsReportedWhereTheLastValueWasSet(t *testing.T) {
	_, err := loadYAML(fromEnv(map[string]string{"KEYWARDEN_TOKENS_SESSION_TTL": "2h"}), "tokens: {refresh_idle_ttl: 3h}\n")
	wantErrors(t, err, "environment variable KEYWARDEN_TOKENS_SESSION_TTL: tokens.refresh_idle_ttl: must not be longer than tokens.session_ttl")
}

func TestReportIsBounded(t *testing.T) {
	var file strings.Builder
	for i := range 5000 {
		fmt.Fprintf(&file, "x%d: 1\n", i)
	}
	_, err := loadYAML(Source{}, file.String())
	errs, _ := errors.AsType[Errors](err)
	if len(errs) != maxErrors+1 || errs[maxErrors].Error() != "more than 100 mistakes, the rest is not shown" {
		t.Errorf("%d mistakes, the last is %v", len(errs), errs[len(errs)-1])
	}

	_, err = loadYAML(Source{}, "server: {hosts: ["+strings.Repeat("a, ", maxItems)+"a]}\n")
	wantErrors(t, err, "keywarden.yaml:1:17: server.hosts: must have at most 1000 items")

	_, err = loadYAML(Source{}, "log: {level: "+strings.Repeat("x", 5000)+"}\n"+strings.Repeat("y", 5000)+": 1\n")
	for line := range strings.SplitSeq(err.Error(), "\n") {
		if len(line) > 500 {
			t.Errorf("a line of %d bytes", len(line))
		}
	}
}

func TestUnreadableFileKeepsItsCause(t *testing.T) {
	path := filepath.Join(t.TempDir(), "none.yaml")
	_, err := Load(Source{File: path})
	wantErrors(t, err, path+": cannot be read: no such file or directory")
	if !errors.Is(err, fs.ErrNotExist) {
		t.Error("the cause is lost")
	}

	large := writeTemp(t, strings.Repeat("#", maxFileSize+1))
	_, err = Load(Source{File: large})
	wantErrors(t, err, large+": cannot be read: larger than 1MiB")
}

func TestErrorsCanBeExamined(t *testing.T) {
	_, err := loadYAML(Source{}, "\nlog:\n  level: loud\n")
	e, ok := errors.AsType[*Error](err)
	if !ok {
		t.Fatalf("no *Error in %T", err)
	}
	if want := (Origin{LayerFile, "keywarden.yaml", 3, 10}); e.Origin != want || e.Path != "log.level" {
		t.Errorf("at %+v, path %s, want %+v", e.Origin, e.Path, want)
	}
}

func TestVariablesOfOthersAreLeftAlone(t *testing.T) {
	env := map[string]string{
		"KEYWARDEN_CONFIG": "/etc/keywarden.yaml", // reserved by the caller
		"KEYWARDENX":       "x",                   // another prefix
		// What Kubernetes sets beside the services keywarden, keywarden-admin and db.
		"KEYWARDEN_SERVICE_HOST":                 "10.0.0.1",
		"KEYWARDEN_SERVICE_PORT":                 "80",
		"KEYWARDEN_SERVICE_PORT_HTTP":            "80",
		"KEYWARDEN_PORT":                         "tcp://10.0.0.1:80",
		"KEYWARDEN_PORT_80_TCP":                  "tcp://10.0.0.1:80",
		"KEYWARDEN_PORT_80_TCP_ADDR":             "10.0.0.1",
		"KEYWARDEN_ADMIN_SERVICE_HOST":           "10.0.0.2",
		"KEYWARDEN_ADMIN_PORT_9000_TCP_PROTO":    "tcp",
		"KEYWARDEN_TELEMETRY_SERVICE_NAME":       "mine", // an option, however it looks
		"DB_PORT":                                "tcp://10.0.0.3:5432",
		"DB_SERVICE_HOST":                        "10.0.0.3",
		"OTEL_EXPORTER_OTLP_ENDPOINT":            "http://127.0.0.1:4318",
		"KEYWARDEN_SECURITY_MASTER_KEY_FILE":     "", // known, and empty
		"KEYWARDEN_SERVER_TLS_CERT_FILE":         "",
		"KEYWARDEN_SECURITY_MASTER_KEYS_RETIRED": "",
	}
	src := fromEnv(env)
	src.Reserved = []string{"KEYWARDEN_CONFIG"}
	for i, name := range src.Environ { // both forms of the list
		if i%2 == 0 {
			src.Environ[i] = name + "=" + env[name]
		}
	}
	want := Default()
	want.Telemetry.ServiceName = "mine"
	cfg, err := Load(src)
	wantConfig(t, want, mustLoad(t, cfg, err))

	// Without the service itself, the same names are mistakes.
	_, err = Load(fromEnv(map[string]string{"KEYWARDEN_PORT": "80", "KEYWARDEN_SERVER_PORT": "80"}))
	if errs, _ := errors.AsType[Errors](err); len(errs) != 2 {
		t.Errorf("want 2 mistakes, got:\n%v", err)
	}
}

func TestDatabaseURLIsComposedOfItsParts(t *testing.T) {
	const password = "p@ss/w:rd?#%é "
	tests := []struct {
		name string
		env  map[string]string
		want string
	}{
		{"all", map[string]string{
			"DB_HOST": "db", "DB_PORT": "5433", "DB_SSLMODE": "require",
			"POSTGRES_USER": "app@x", "POSTGRES_PASSWORD": password, "POSTGRES_DB": "main/1",
		}, "postgres://app%40x:p%40ss%2Fw%3Ard%3F%23%25%C3%A9%20@db:5433/main/1?sslmode=require"},
		{"host alone", map[string]string{"DB_HOST": "db"}, "postgres://postgres@db:5432/postgres"},
		{"database named for its user", map[string]string{"DB_HOST": "db", "POSTGRES_USER": "app"}, "postgres://app@db:5432/app"},
		{"IPv6", map[string]string{"DB_HOST": "::1"}, "postgres://postgres@[::1]:5432/postgres"},
		{"socket", map[string]string{"DB_HOST": "/run/pg", "DB_PORT": "1"}, "postgres://postgres@/postgres?host=%2Frun%2Fpg&port=1"},
		{"port of a Kubernetes service", map[string]string{"DB_HOST": "db", "DB_PORT": "tcp://10.0.0.3:6543"}, "postgres://postgres@db:6543/postgres"},
		{"password from a file", map[string]string{"DB_HOST": "db", "POSTGRES_PASSWORD_FILE": writeTemp(t, "s3\n")},
			"postgres://postgres:s3@db:5432/postgres"},
		{"DATABASE_URL wins", map[string]string{"DB_HOST": "db", "DATABASE_URL": "postgres://other/x"}, "postgres://other/x"},
		{"own variable wins", map[string]string{"DATABASE_URL": "postgres://other/x", "KEYWARDEN_DATABASE_URL": "postgres://own/x"}, "postgres://own/x"},
		{"user of a DATABASE_URL is no orphan", map[string]string{"POSTGRES_USER": "u", "DATABASE_URL": "postgresql://other/x"}, "postgresql://other/x"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg, err := loadYAML(fromEnv(tt.env), "database: {url: \"postgres://file/x\"}\n")
			if got := mustLoad(t, cfg, err).Database.URL.Reveal(); got != tt.want {
				t.Errorf("url = %s\nwant  %s", got, tt.want)
			}
		})
	}
	t.Run("replace a bad one of the file", func(t *testing.T) {
		_, err := loadYAML(fromEnv(map[string]string{"DB_HOST": "db"}), "database: {url: x}\n")
		if errs, _ := errors.AsType[Errors](err); len(errs) != 1 || errs[0].Origin.Layer != LayerFile {
			t.Errorf("want the mistake of the file alone, got %v", err)
		}
	})
}

func TestFileOfASecretLosesOneLineEnd(t *testing.T) {
	for content, want := range map[string]string{
		"redis://h": "redis://h", "redis://h\n": "redis://h", "redis://h\r\n": "redis://h",
	} {
		cfg := mustLoadEnv(t, map[string]string{"REDIS_URL_FILE": writeTemp(t, content)})
		if got := cfg.Redis.URL.Reveal(); got != want {
			t.Errorf("%q gives %q", content, got)
		}
	}
	if _, err := Load(fromEnv(map[string]string{"REDIS_URL_FILE": writeTemp(t, "redis://h\n\n")})); err == nil {
		t.Error("a second line end was dropped too")
	}
}

func TestRetiredMasterKeysMayBeLinesOfAFile(t *testing.T) {
	a, b, c := seal.NewMasterKey(), seal.NewMasterKey(), seal.NewMasterKey()
	cfg := mustLoadEnv(t, map[string]string{
		"KEYWARDEN_MASTER_KEY":               a.Reveal(),
		"KEYWARDEN_MASTER_KEYS_RETIRED_FILE": writeTemp(t, b.Reveal()+"\n"+c.Reveal()+"\n"),
	})
	want := Default()
	want.Security.MasterKey, want.Security.MasterKeysRetired = a, []seal.Secret{b, c}
	wantConfig(t, want, cfg)
}

func TestServingWithAnExternalDatabaseNeedsAMasterKey(t *testing.T) {
	src := fromEnv(map[string]string{"DATABASE_URL": "postgres://h/d"})
	if _, err := Load(src); err != nil {
		t.Errorf("without serving: %v", err)
	}
	src.Serving = true
	_, err := Load(src)
	wantErrors(t, err, "environment variable DATABASE_URL: security.master_key: "+
		"is required with an external database: make one with keywarden keygen and set KEYWARDEN_MASTER_KEY")

	src = fromEnv(map[string]string{"DATABASE_URL": "postgres://h/d", "KEYWARDEN_MASTER_KEY": seal.NewMasterKey().Reveal()})
	src.Serving = true
	if _, err := Load(src); err != nil {
		t.Errorf("with a master key: %v", err)
	}
	if _, err := Load(Source{Serving: true}); err != nil {
		t.Errorf("with the private database: %v", err)
	}
}

func TestRetiredMasterKeysNeedACurrentOne(t *testing.T) {
	_, err := Load(fromEnv(map[string]string{"KEYWARDEN_MASTER_KEYS_RETIRED": seal.NewMasterKey().Reveal()}))
	wantErrors(t, err, "environment variable KEYWARDEN_MASTER_KEYS_RETIRED: security.master_keys_retired: must not be set without security.master_key")
}

// TestMistakesNeverHoldASecret puts a mark at every place where a secret can be
// mistyped, in every layer.
func TestMistakesNeverHoldASecret(t *testing.T) {
	const mark = "canary9f3c"
	texts := []string{
		mark, "*" + mark, "&" + mark, "!" + mark, "@" + mark, "%" + mark, "{" + mark + ": 1}", "[" + mark + "]", "'" + mark, `"` + mark, "|" + mark,
		"!!int " + mark, "a: " + mark, "postgres://u:" + mark + "%zz@h/d", "mysql://u:" + mark + "@h", "redis:" + mark, "postgres://u:" + mark + "\x01@h/d",
		"1" + mark, mark + ": x", "? " + mark, "`" + mark, "!<" + mark + "> x", "{? " + mark,
	}
	var report strings.Builder
	for _, o := range schema().leaves() {
		if !o.secret() {
			continue
		}
		for _, text := range texts {
			for _, file := range []string{nest(o.path, text), nest(o.path, "["+text+"]"), nest(o.path, `"`+text+`"`)} {
				_, err := loadYAML(Source{}, file)
				fmt.Fprintln(&report, err)
			}
			for _, name := range append(o.variables(), "KEYWARDEN_DATABSE_URL") {
				_, err := Load(fromEnv(map[string]string{name: text}))
				fmt.Fprintln(&report, err)
				_, err = Load(fromEnv(map[string]string{name + "_FILE": text}))
				fmt.Fprintln(&report, err)
				_, err = Load(fromEnv(map[string]string{name + "_FILE": writeTemp(t, text)}))
				fmt.Fprintln(&report, err)
			}
			_, err := Load(Source{Flags: map[string]string{o.path: text}})
			fmt.Fprintln(&report, err)
			_, err = Load(fromEnv(map[string]string{"DB_HOST": "a b", "POSTGRES_PASSWORD": text}))
			fmt.Fprintln(&report, err)
			_, err = Load(fromEnv(map[string]string{"POSTGRES_PASSWORD": text}))
			fmt.Fprintln(&report, err)
		}
	}
	for line := range strings.SplitSeq(report.String(), "\n") {
		if strings.Contains(line, mark) {
			t.Errorf("a secret was printed: %s", line)
		}
	}
	if n := strings.Count(report.String(), "must be a URL that begins with postgres://"); n == 0 {
		t.Error("this test reached no check of a secret")
	}
}

func TestErrorsAreStableAcrossRuns(t *testing.T) {
	env := map[string]string{}
	for i := range 300 {
		env[fmt.Sprintf("KEYWARDEN_X%d", i)] = "x"
	}
	_, first := Load(fromEnv(env))
	for range 5 {
		src := fromEnv(env)
		src.Environ = slices.Sorted(maps.Keys(env))
		if _, again := Load(src); again.Error() != first.Error() {
			t.Fatal("the report depends on the order of the environment")
		}
	}
}

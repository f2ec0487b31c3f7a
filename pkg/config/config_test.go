package config

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/seal"
)

var update = flag.Bool("update", false, "write configs/keywarden.yaml anew")

// shippedFile is what a person copies to begin with.
var shippedFile = filepath.Join("..", "..", "configs", "keywarden.yaml")

func TestShippedFileIsTheDefaultsWithComments(t *testing.T) {
	var want bytes.Buffer
	if err := WriteYAML(&want, Default(), true); err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(shippedFile, want.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(shippedFile)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want.Bytes()) {
		t.Errorf("%s is not current; run: go test ./pkg/config -update", shippedFile)
	}
}

func TestShippedFileLoadsToTheDefaults(t *testing.T) {
	cfg, err := Load(Source{File: shippedFile, Serving: true})
	wantConfig(t, Default(), mustLoad(t, cfg, err))
}

func TestEmptySourceGivesTheDefaults(t *testing.T) {
	cfg, err := Load(Source{})
	wantConfig(t, Default(), mustLoad(t, cfg, err))
	for _, content := range []string{"", "# nothing\n", "---\n", "server:\n  # addr: x\nlog:\n"} {
		cfg, err := loadYAML(Source{}, content)
		wantConfig(t, Default(), mustLoad(t, cfg, err))
	}
}

// TestEveryOptionIsDescribed keeps the reference whole: the tags of a field are
// all that a person ever reads about it.
func TestEveryOptionIsDescribed(t *testing.T) {
	variables := map[string]string{}
	for _, o := range schema().leaves() {
		if o.name == "" || strings.ToLower(o.name) != o.name {
			t.Errorf("%s: no name in lower case", o.path)
		}
		if !strings.HasSuffix(o.doc, ".") || strings.Contains(strings.TrimSuffix(o.doc, "."), ". ") && len(o.doc) < 40 {
			t.Errorf("%s: the description %q is no sentence", o.path, o.doc)
		}
		if (o.min == "") != (o.max == "") {
			t.Errorf("%s: one bound without the other", o.path)
		}
		switch o.typeName() {
		case "integer", "number", "duration", "size":
			if o.min == "" {
				t.Errorf("%s: a number without bounds", o.path)
			}
		}
		for _, name := range o.variables() {
			if other, taken := variables[name]; taken {
				t.Errorf("%s is a variable of both %s and %s", name, o.path, other)
			}
			variables[name] = o.path
		}
	}
}

func TestDescribeMatchesTheNamesAndDefaults(t *testing.T) {
	rows := map[string]Row{}
	for _, row := range Describe() {
		rows[row.Path] = row
	}
	want := []Row{
		{Path: "server.tls.cert_file", Env: "KEYWARDEN_SERVER_TLS_CERT_FILE", Type: "text", Default: `""`},
		{Path: "server.addr", Env: "KEYWARDEN_SERVER_ADDR", Aliases: []string{"PORT"}, Type: "text", Default: `":8080"`},
		{Path: "tokens.access_ttl", Env: "KEYWARDEN_TOKENS_ACCESS_TTL", Type: "duration", Default: "15m", Bounds: "1m to 1h"},
		{Path: "log.format", Env: "KEYWARDEN_LOG_FORMAT", Type: "text", Default: "json", Bounds: "one of json, text"},
		{Path: "server.trusted_proxies", Env: "KEYWARDEN_SERVER_TRUSTED_PROXIES", Type: "list of network", Default: "[]"},
		{
			Path: "security.master_key", Env: "KEYWARDEN_SECURITY_MASTER_KEY", Aliases: []string{"KEYWARDEN_MASTER_KEY"},
			Type: "secret", Default: `""`, Secret: true,
		},
	}
	for _, w := range want {
		got := rows[w.Path]
		if got.Doc == "" {
			t.Errorf("%s: no description", w.Path)
		}
		got.Doc = ""
		if !reflect.DeepEqual(got, w) {
			t.Errorf("row = %+v, want %+v", got, w)
		}
	}
}

// sample is a good value of o that differs from the default, as a text for the
// environment and as one for YAML.
func sample(t *testing.T, o *option, masterKey string) (env, yaml string) {
	t.Helper()
	switch {
	case o.format == "master-key":
		env = masterKey
	case o.format == "postgres":
		env = "postgres://u:p@db/x"
	case o.format == "redis":
		env = "rediss://r:6379/1"
	case o.format == "address":
		env = "127.0.0.1:9999"
	case o.format == "key-prefix":
		env = "acme"
	case o.format != "":
		env = "orders"
	case o.enum != nil:
		env = o.enum[len(o.enum)-1]
	}
	if env == "" {
		switch o.typeName() {
		case "boolean":
			env = fmt.Sprint(!o.field(Default()).Bool())
			return env, env
		case "integer", "number", "duration", "size":
			env = o.max
			return env, env
		case "list of integer":
			return o.max, "[" + o.max + "]"
		case "list of network":
			env = "10.0.0.0/8"
		case "text", "secret":
			env = "/some/path"
			if o.path == "gateway.kubernetes.api_url" {
				env = "https://k.example.com"
			}
		default:
			t.Fatalf("%s: no sample for a %s", o.path, o.typeName())
		}
	}
	yaml = `"` + env + `"`
	if o.list {
		yaml = "[" + yaml + "]"
	}
	return env, yaml
}

// nest writes "a.b.c: v" as YAML sections.
func nest(path, value string) string {
	var b strings.Builder
	parts := strings.Split(path, ".")
	for i, part := range parts {
		b.WriteString(strings.Repeat("  ", i) + part + ":")
		if i < len(parts)-1 {
			b.WriteString("\n")
		}
	}
	return b.String() + " " + value + "\n"
}

// TestEveryOptionIsReadFromEveryLayer also shows that an option touches its own
// field alone: the three results are equal, and differ from the defaults there.
func TestEveryOptionIsReadFromEveryLayer(t *testing.T) {
	masterKey := seal.NewMasterKey().Reveal()
	for _, o := range schema().leaves() {
		text, yaml := sample(t, o, masterKey)
		extra := map[string]string{}
		if o.path == "security.master_keys_retired" {
			extra["KEYWARDEN_MASTER_KEY"] = masterKey
		}
		if strings.HasPrefix(o.path, "server.tls.") {
			extra["KEYWARDEN_SERVER_TLS_CERT_FILE"], extra["KEYWARDEN_SERVER_TLS_KEY_FILE"] = "/c", "/k"
		}
		if strings.HasPrefix(o.path, "gateway.kubernetes.") {
			extra["KEYWARDEN_GATEWAY_SOURCE"] = "kubernetes"
		}
		if strings.HasPrefix(o.path, "counters.") || strings.HasPrefix(o.path, "cache.") {
			extra["KEYWARDEN_REDIS_URL"] = "redis://localhost"
		}
		// Long lifetimes and short ones only go together.
		extra["KEYWARDEN_TOKENS_SESSION_TTL"] = "8760h"
		extra["KEYWARDEN_DATABASE_QUERY_TIMEOUT"] = "5m"

		want := mustLoadEnv(t, extra)
		delete(extra, o.env)
		target := reflect.New(o.elem).Elem()
		if err := o.parse(text, target); err != nil {
			t.Fatalf("%s: sample %q: %v", o.path, text, err)
		}
		if o.list {
			target = reflect.Append(o.field(want), target)
		}
		o.field(want).Set(target)

		t.Run("file/"+o.path, func(t *testing.T) {
			cfg, err := loadYAML(fromEnv(extra), nest(o.path, yaml))
			wantConfig(t, want, mustLoad(t, cfg, err))
		})
		t.Run("flag/"+o.path, func(t *testing.T) {
			src := fromEnv(extra)
			src.Flags = map[string]string{o.path: text}
			cfg, err := Load(src)
			wantConfig(t, want, mustLoad(t, cfg, err))
		})
		for _, name := range o.variables() {
			if name == "PORT" {
				continue // not the whole address
			}
			t.Run("environment/"+name, func(t *testing.T) {
				env := map[string]string{name: text}
				for k, v := range extra {
					env[k] = v
				}
				wantConfig(t, want, mustLoadEnv(t, env))
			})
			if o.secret() {
				t.Run("environment/"+name+"_FILE", func(t *testing.T) {
					env := map[string]string{name + "_FILE": writeTemp(t, text+"\n")}
					for k, v := range extra {
						env[k] = v
					}
					wantConfig(t, want, mustLoadEnv(t, env))
				})
			}
		}
	}
}

func mustLoadEnv(t *testing.T, env map[string]string) *Config {
	t.Helper()
	cfg, err := Load(fromEnv(env))
	return mustLoad(t, cfg, err)
}

func TestHigherLayerOverridesLowerOne(t *testing.T) {
	const file = "server: {addr: \":1\"}\ngateway: {file: a.yaml}\nlog: {level: debug}\n"
	tests := []struct {
		name  string
		env   map[string]string
		flags map[string]string
		want  string
	}{
		{"file over default", nil, nil, ":1"},
		{"alias over file", map[string]string{"PORT": "2"}, nil, ":2"},
		{"own variable over alias", map[string]string{"PORT": "2", "KEYWARDEN_SERVER_ADDR": ":3"}, nil, ":3"},
		{"overridden alias is not even checked", map[string]string{"PORT": "x", "KEYWARDEN_SERVER_ADDR": ":3"}, nil, ":3"},
		{"flag over variable", map[string]string{"KEYWARDEN_SERVER_ADDR": ":3"}, map[string]string{"server.addr": ":4"}, ":4"},
		{"empty variable is not set", map[string]string{"KEYWARDEN_SERVER_ADDR": "", "PORT": ""}, nil, ":1"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			src := fromEnv(tt.env)
			src.Flags = tt.flags
			cfg, err := loadYAML(src, file)
			cfg = mustLoad(t, cfg, err)
			if cfg.Server.Addr != tt.want {
				t.Errorf("server.addr = %q, want %q", cfg.Server.Addr, tt.want)
			}
			if cfg.Gateway.File != "a.yaml" || cfg.Log.Level != "debug" {
				t.Error("an override touched an option beside it")
			}
		})
	}
}

func TestEmptyFlagEmptiesTextAndList(t *testing.T) {
	src := Source{Flags: map[string]string{"gateway.file": "", "server.hosts": ""}}
	cfg, err := loadYAML(src, "gateway: {file: a.yaml}\nserver: {hosts: [a.example]}\n")
	wantConfig(t, Default(), mustLoad(t, cfg, err))
}

func TestListsAreSplitAtCommas(t *testing.T) {
	cfg := mustLoadEnv(t, map[string]string{
		"KEYWARDEN_SERVER_HOSTS":           "a.example, b.example,",
		"KEYWARDEN_SERVER_TRUSTED_PROXIES": "10.0.0.0/8,192.0.2.1,2001:db8::/32",
		"ACTIVE_PROFILES":                  "prod",
	})
	want := Default()
	want.Profiles = []string{"prod"}
	want.Server.Hosts = []string{"a.example", "b.example"}
	want.Server.TrustedProxies = []netip.Prefix{
		netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("192.0.2.1/32"), netip.MustParsePrefix("2001:db8::/32"),
	}
	wantConfig(t, want, cfg)
}

// everySecret is a configuration in which each secret holds a mark.
func everySecret() (cfg *Config, mark string) {
	mark = "canary-9f3c"
	cfg = Default()
	cfg.Database.URL = seal.NewSecret("postgres://u:" + mark + "@h/d")
	cfg.Redis.URL = seal.NewSecret("redis://u:" + mark + "@h")
	cfg.Security.MasterKey = seal.NewSecret(mark)
	cfg.Alerts.SMTP.Password = seal.NewSecret(mark)
	cfg.Security.MasterKeysRetired = []seal.Secret{seal.NewSecret(mark), seal.NewSecret(mark)}
	return cfg, mark
}

func TestPrintedConfigurationHoldsNoSecret(t *testing.T) {
	cfg, mark := everySecret()
	for _, o := range schema().leaves() {
		if o.secret() && o.field(cfg).IsZero() {
			t.Errorf("%s has no mark in this test", o.path)
		}
	}
	var text strings.Builder
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		fmt.Fprintf(&text, verb, cfg)
		fmt.Fprintf(&text, verb, *cfg)
		fmt.Fprintf(&text, verb, cfg.Security)
	}
	data, err := json.Marshal(cfg)
	if err != nil {
		t.Fatal(err)
	}
	text.Write(data)
	for _, comments := range []bool{false, true} {
		if err := WriteYAML(&text, cfg, comments); err != nil {
			t.Fatal(err)
		}
	}
	for _, form := range []string{mark, fmt.Sprintf("%x", mark), fmt.Sprintf("%d", []byte(mark))} {
		if strings.Contains(text.String(), form) {
			t.Errorf("a secret was printed as %s", form)
		}
	}
}

func TestPrintedConfigurationIsNotTakenForAWorkingOne(t *testing.T) {
	cfg, _ := everySecret()
	var text strings.Builder
	if err := WriteYAML(&text, cfg, false); err != nil {
		t.Fatal(err)
	}
	_, err := loadYAML(Source{}, text.String())
	if n := strings.Count(fmt.Sprint(err), "placeholder of a printed configuration"); n != 6 {
		t.Errorf("%d of 6 placeholders were refused:\n%v", n, err)
	}
}

// TestWrittenConfigurationReadsBackEqual holds for every valid configuration
// without secrets, with and without comments.
func TestWrittenConfigurationReadsBackEqual(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cfg := Default()
		path := rapid.StringMatching(`[ -~\x{a0}-\x{2fff}]{0,20}`)
		cfg.Data.Dir = path.Draw(t, "dir")
		cfg.Gateway.File = path.Draw(t, "file")
		cfg.Gateway.BodyLimit = Size(rapid.Int64Range(0, int64(TiB)).Draw(t, "size"))
		cfg.Tokens.AccessTTL = time.Duration(rapid.Int64Range(int64(time.Minute), int64(time.Hour)).Draw(t, "ttl"))
		cfg.Telemetry.TraceSampleRatio = rapid.Float64Range(0, 1).Draw(t, "ratio")
		cfg.Server.Hosts = rapid.SliceOfN(rapid.StringMatching(`[a-z]{1,9}(\.[a-z]{2,5})?`), 0, 4).Draw(t, "hosts")
		cfg.Log.Access = rapid.Bool().Draw(t, "access")
		if len(cfg.Server.Hosts) == 0 {
			cfg.Server.Hosts = nil
		}
		var text strings.Builder
		if err := WriteYAML(&text, cfg, rapid.Bool().Draw(t, "comments")); err != nil {
			t.Fatal(err)
		}
		got, err := loadYAML(Source{}, text.String())
		if err != nil {
			t.Fatalf("%v in:\n%s", err, text.String())
		}
		if !reflect.DeepEqual(got, cfg) {
			t.Fatalf("got %+v, want %+v", got, cfg)
		}
	})
}

func TestWriteYAMLReportsAFailingWriter(t *testing.T) {
	if err := WriteYAML(failingWriter{}, Default(), true); err == nil {
		t.Error("no error")
	}
}

type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, os.ErrClosed }

// TestScopeSyntaxIsThatOfAccess: the syntax is repeated here, because a
// foundation package does not import a domain package.
func TestScopeSyntaxIsThatOfAccess(t *testing.T) {
	alphabet := []rune("ab9:._-*A ü")
	rapid.Check(t, func(t *rapid.T) {
		scope := rapid.StringOfN(rapid.SampledFrom(alphabet), 1, 70, -1).Draw(t, "scope")
		if got, want := checkFormat("scope", scope) == nil, access.ValidScope(scope); got != want {
			t.Errorf("%q: accepted %v, want %v", scope, got, want)
		}
	})
	long := strings.Repeat("a", 64)
	if checkFormat("scope", long) != nil || checkFormat("scope", long+"a") == nil {
		t.Error("the bound of the length is not 64")
	}
}

func TestDataDirIsChosenByPlatform(t *testing.T) {
	work, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name, dir string
		env       map[string]string
		root      bool
		want      string // empty: an error
	}{
		{"option", "/srv/kw", map[string]string{"HOME": "/home/a"}, true, "/srv/kw"},
		{"relative option", "kw", nil, false, filepath.Join(work, "kw")},
		{"root", "", map[string]string{"HOME": "/root", "XDG_DATA_HOME": "/root/x"}, true, "/var/lib/keywarden"},
		{"XDG", "", map[string]string{"HOME": "/home/a", "XDG_DATA_HOME": "/data"}, false, "/data/keywarden"},
		{"relative XDG is ignored", "", map[string]string{"HOME": "/home/a", "XDG_DATA_HOME": "x"}, false, "/home/a/.local/share/keywarden"},
		{"home", "", map[string]string{"HOME": "/home/a"}, false, "/home/a/.local/share/keywarden"},
		{"nothing", "", nil, false, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg := Default()
			cfg.Data.Dir = tt.dir
			got, err := DataDir(cfg, fromEnv(tt.env).Lookup, tt.root)
			if got != tt.want || (err == nil) != (tt.want != "") {
				t.Errorf("= %q, %v, want %q", got, err, tt.want)
			}
		})
	}
}

func TestNearestFindsWhatWasMeant(t *testing.T) {
	paths := schema().paths()
	tests := []struct{ name, want string }{
		{"server.adr", "server.addr"},
		{"sever", "server"},
		{"server.tls_cert_file", "server.tls.cert_file"},
		{"tokens.acess_ttl", "tokens.access_ttl"},
		{"log.lvel", "log.level"},
		{"metrics_addr", "server.metrics_addr"},
		{"server.access_ttl", "tokens.access_ttl"},
		{"bcrypt_cost", ""}, // two sections have one
		{"upstreams", ""},
		{strings.Repeat("server.addr", 100), ""},
	}
	for _, tt := range tests {
		if got := nearest(tt.name, paths); got != tt.want {
			t.Errorf("nearest(%q) = %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestDurationsAreWrittenShort(t *testing.T) {
	forms := map[time.Duration]string{
		0: "0s", 500 * time.Millisecond: "500ms", 10 * time.Second: "10s", 2 * time.Minute: "2m",
		90 * time.Second: "1m30s", 168 * time.Hour: "168h", time.Hour + time.Second: "1h0m1s", 10 * time.Minute: "10m", 20 * time.Hour: "20h",
	}
	for d, want := range forms {
		if got := formatDuration(d); got != want {
			t.Errorf("formatDuration(%v) = %q, want %q", d, got, want)
		}
	}
}

func FuzzParseDuration(f *testing.F) {
	for _, text := range []string{"0", "10s", "1h30m", "1.5h", "-1s", "500ms", "µs", "1h0m"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		d, err := parseDuration(text)
		if err != nil {
			return
		}
		if d < 0 {
			t.Fatalf("parseDuration(%q) = %v", text, d)
		}
		if again, err := parseDuration(formatDuration(d)); err != nil || again != d {
			t.Fatalf("%q is %v, written %q, read %v, %v", text, d, formatDuration(d), again, err)
		}
	})
}

// FuzzLoad: no file makes Load panic; a mistake is one line with the file's name;
// and what loads is written and read back unchanged.
func FuzzLoad(f *testing.F) {
	shipped, err := os.ReadFile(shippedFile)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(shipped)
	for _, o := range schema().leaves() {
		f.Add([]byte(nest(o.path, "[1, a]")))
		f.Add([]byte(nest(o.path, o.yaml(Default()))))
	}
	for _, content := range brokenFiles() {
		f.Add([]byte(content))
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		cfg, err := loadYAML(Source{}, string(content))
		if err != nil {
			for line := range strings.SplitSeq(err.Error(), "\n") {
				if !strings.HasPrefix(line, "keywarden.yaml") && !strings.HasPrefix(line, "more than") || len(line) > 1000 {
					t.Fatalf("the error line %q does not name its place", line)
				}
			}
			return
		}
		if slices.ContainsFunc(schema().leaves(), func(o *option) bool { return o.secret() && !o.field(cfg).IsZero() }) {
			return // is not written
		}
		var text strings.Builder
		if err := WriteYAML(&text, cfg, false); err != nil {
			t.Fatal(err)
		}
		again, err := loadYAML(Source{}, text.String())
		if err != nil || !reflect.DeepEqual(cfg, again) {
			t.Fatalf("%v\nread  %+v\nagain %+v\nfrom:\n%s", err, cfg, again, text.String())
		}
	})
}

package cli_test

import (
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/keywarden/keywarden/pkg/app/apptest"
	"github.com/keywarden/keywarden/pkg/pglocal/pgtest"
	"github.com/keywarden/keywarden/pkg/seal"
)

// root is the top of the repository, seen from this package.
const root = "../.."

func TestEveryCommandHasHelp(t *testing.T) {
	var visit func(t *testing.T, path []string)
	visit = func(t *testing.T, path []string) {
		r := keywarden(t, append(path, "--help")...).want(0, "Usage:")
		if r.stderr != "" {
			t.Errorf("help writes to standard error: %s", r.stderr)
		}
		if first, _, _ := strings.Cut(r.stdout, "\n"); first == "" || first == "Usage:" {
			t.Errorf("%q: the help does not begin with what the command is for", path)
		}
		if len(path) > 0 && path[0] == "completion" {
			return // not ours
		}
		for _, name := range subcommands(r.stdout) {
			visit(t, append(path[:len(path):len(path)], name))
		}
	}
	visit(t, nil)
	if !strings.Contains(keywarden(t).want(0).stdout, "keywarden dev") {
		t.Error("the program without arguments does not name the command to try it")
	}
}

// subcommands reads the list of commands in a help text.
func subcommands(help string) (names []string) {
	_, list, found := strings.Cut(help, "Available Commands:\n")
	if !found {
		return nil
	}
	for line := range strings.Lines(list) {
		fields := strings.Fields(line)
		if len(fields) == 0 {
			return names
		}
		names = append(names, fields[0])
	}
	return names
}

func TestMistakesOfTheCommandLineExitWith2(t *testing.T) {
	cases := []struct {
		name string
		args []string
		env  []string
		want []string
	}{
		{"command", []string{"serv"}, nil, []string{`unknown command "serv"`, "serve", "See: keywarden --help"}},
		{"command of a group", []string{"config", "chek"}, nil, []string{`unknown command "chek"`, "did you mean check?", "See: keywarden config --help"}},
		{"shell", []string{"completion", "basj"}, nil, []string{"did you mean bash"}},
		{"help of nothing", []string{"help", "migate"}, nil, []string{"did you mean migrate?"}},
		{"argument", []string{"serve", "now"}, nil, []string{`unexpected argument "now"`, "See: keywarden serve --help"}},
		{"argument of completion", []string{"completion", "bash", "now"}, nil, []string{`unexpected argument "now"`}},
		{"flag", []string{"serve", "--adr", ":1"}, nil, []string{"--adr", "See: keywarden serve --help"}},
		{"form of output", []string{"version", "-o", "xml"}, nil, []string{"--output", "text or json"}},
		{"option", []string{"serve", "--set", "server.adr=:1"}, nil, []string{"server.adr", "did you mean server.addr?"}},
		{"option without value", []string{"serve", "--set", "server.addr"}, nil, []string{"--set server.addr", "option=value"}},
		{"variable", []string{"serve"}, []string{"KEYWARDEN_SERVER_ADR=:1"}, []string{"KEYWARDEN_SERVER_ADR", "did you mean KEYWARDEN_SERVER_ADDR?"}},
		{"value", []string{"serve", "--set", "tokens.access_ttl=1y"}, nil, []string{"tokens.access_ttl", `"1y"`}},
		{"configuration file", []string{"serve", "--config", "/nonexistent.yaml"}, nil, []string{"/nonexistent.yaml"}},
		{"admin without e-mail", []string{"admin", "create"}, nil, []string{"--email is required"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			r := run(t, invocation{args: c.args, env: c.env}).want(2, c.want...)
			if r.stdout != "" || !strings.HasPrefix(r.stderr, "keywarden: ") {
				t.Errorf("standard output %q, standard error %q", r.stdout, r.stderr)
			}
		})
	}
}

func TestMistakesOfTheConfigurationAreReportedAtOnce(t *testing.T) {
	file := writeFile(t, filepath.Join(t.TempDir(), "keywarden.yaml"), "server:\n  adr: \":1\"\nlog:\n  level: loud\n")
	run(t, invocation{args: []string{"serve", "--config", file, "--set", "keys.prefix=!"}, env: []string{"KEYWARDEN_TOKENS_LEWAY=1s"}}).
		want(2, file+":2:3: server.adr", "did you mean server.addr?", file+":4:10: log.level", "KEYWARDEN_TOKENS_LEWAY", "flag keys.prefix")
}

func TestPrintedDefaultsAreTheShippedFile(t *testing.T) {
	printed := keywarden(t, "config", "print", "--defaults").want(0).stdout
	if printed != readFile(t, filepath.Join(root, "configs/keywarden.yaml")) {
		t.Error("configs/keywarden.yaml is not what config print --defaults prints: run make generate")
	}
	keywarden(t, "config", "check", "--config", filepath.Join(root, "configs/keywarden.yaml")).want(0, "valid")
}

func TestPrintedConfigurationHidesSecrets(t *testing.T) {
	master := seal.NewMasterKey().Reveal()
	env := []string{
		"DATABASE_URL=postgres://someone:canary-one@db.example.com/keywarden", "KEYWARDEN_MASTER_KEY=" + master,
		"REDIS_URL=redis://:canary-two@cache.example.com", "KEYWARDEN_SERVER_ADDR=:9999",
	}
	for _, form := range []string{"text", "json"} {
		r := run(t, invocation{args: []string{"config", "print", "-o", form}, env: env}).want(0, ":9999")
		for _, secret := range []string{"canary", master} {
			if strings.Contains(r.stdout+r.stderr, secret) {
				t.Errorf("%s: the output has the secret %q:\n%s", form, secret, r.stdout)
			}
		}
	}
	options := run(t, invocation{args: []string{"config", "print", "-o", "json"}, env: env}).json()
	if got := options["server"].(map[string]any)["addr"]; got != ":9999" {
		t.Errorf("server.addr is %v in the JSON form", got)
	}
}

func TestConfigCheckNamesFileAndLine(t *testing.T) {
	dir := t.TempDir()
	broken := writeFile(t, filepath.Join(dir, "broken.yaml"), `version: 1
services:
  - name: users
    url: http://127.0.0.1:1
routes:
  - name: a
    match: {path: {prefix: /a}}
    service: usres
    timeut: 1s
`)
	check := func(document string) result {
		return run(t, invocation{args: []string{"config", "check"}, env: []string{"GATEWAY_CONFIG=" + document}})
	}
	check(broken).want(2, broken+":8:", "usres", broken+":9:", "timeut", "timeout")
	check(filepath.Join(dir, "missing.yaml")).want(2, "missing.yaml")
	check(filepath.Join(root, "configs/gateway.yaml")).want(0, "valid")
}

func TestConfigEnvListsEveryVariable(t *testing.T) {
	keywarden(t, "config", "env").want(0, "KEYWARDEN_SERVER_ADDR", "KEYWARDEN_SECURITY_MASTER_KEY", "revocation.poll_interval")
}

func TestVersionNamesTheToolchain(t *testing.T) {
	keywarden(t, "version").want(0, "keywarden ", "go1.")
	if v := keywarden(t, "version", "-o", "json").want(0).json(); v["version"] == "" || v["go"] == "" {
		t.Errorf("got %v", v)
	}
}

func TestShellsGetCompletion(t *testing.T) {
	for shell, mark := range map[string]string{"bash": "__start_keywarden", "zsh": "#compdef keywarden", "fish": "complete -c keywarden"} {
		keywarden(t, "completion", shell).want(0, mark)
	}
	keywarden(t, "__complete", "migrate", "").want(0, "up\t", "status\t", "version\t")
	keywarden(t, "__complete", "version", "--output", "").want(0, "json")
}

func TestGeneratedKeyServes(t *testing.T) {
	key := strings.TrimSpace(keywarden(t, "keygen").want(0).stdout)
	if other := strings.TrimSpace(keywarden(t, "keygen").want(0).stdout); other == key {
		t.Error("two keys are the same")
	}
	if _, err := seal.ParseKeyring(seal.NewSecret(key)); err != nil {
		t.Error(err)
	}
	serve(t, serving(pgtest.New(t), seal.NewSecret(key))).stop()
}

func TestServeRefusesToStartWithoutAGoodMasterKey(t *testing.T) {
	url := pgtest.New(t)
	cases := []struct{ name, key string }{
		{"missing", ""},
		{"an example", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="},
		{"short", "c2hvcnQ="},
		{"words", "change-me-change-me-change-me-change-me"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			r := run(t, serving(url, seal.NewSecret(c.key))).want(2, "KEYWARDEN_MASTER_KEY", "keywarden keygen")
			if c.key != "" && strings.Contains(r.stderr, c.key) {
				t.Errorf("the refused key is repeated: %s", r.stderr)
			}
		})
	}
}

func TestServeRefusesAnotherMasterKey(t *testing.T) {
	url := pgtest.New(t)
	serve(t, serving(url, seal.NewMasterKey())).stop()
	run(t, serving(url, seal.NewMasterKey())).want(1, "another master key", "KEYWARDEN_SECURITY_MASTER_KEYS_RETIRED")
}

func TestServeRefusesATakenAddress(t *testing.T) {
	taken := httptest.NewServer(http.NotFoundHandler())
	defer taken.Close()
	addr := taken.Listener.Addr().String()
	run(t, serving(pgtest.New(t), seal.NewMasterKey(), "server.addr="+addr)).want(1, addr, "address already in use")
}

func TestMigrateBringsAnEmptyDatabaseUpToDate(t *testing.T) {
	url := pgtest.Empty(t)
	migrate := func(args ...string) result {
		return run(t, invocation{args: append([]string{"migrate"}, args...), env: []string{"DATABASE_URL=" + url}})
	}
	migrate("status").want(1, "version 0", "keywarden migrate up")
	if got := migrate("status", "-o", "json").want(1).json(); got["version"] != 0.0 || got["dirty"] != false {
		t.Errorf("status of an empty database: %v", got)
	}
	if got := strings.TrimSpace(migrate("version").want(0).stdout); got != "0" {
		t.Errorf("version of an empty database: %q", got)
	}
	in := serving(url, seal.NewMasterKey(), "database.migrate_on_start=false")
	run(t, in).want(1, "keywarden migrate up")

	up := migrate("up", "-o", "json").want(0).json()
	if up["version"] == 0.0 || up["version"] != up["latest"] {
		t.Errorf("after up: %v", up)
	}
	migrate("up").want(0, "version")
	migrate("status").want(0, "dirty false")
	if got := migrate("version", "-o", "json").want(0).json(); got["version"] != up["version"] {
		t.Errorf("version after up: %v", got)
	}
	serve(t, in).stop()
}

func TestMigrateSaysThatTheDatabaseIsAway(t *testing.T) {
	r := run(t, invocation{args: []string{"migrate", "status"}, env: []string{"DATABASE_URL=postgres://nobody:canary@127.0.0.1:1/none"}}).
		want(1, "cannot reach its database")
	if strings.Contains(r.stderr, "canary") {
		t.Errorf("the password is printed: %s", r.stderr)
	}
}

func TestAdminCreate(t *testing.T) {
	in := serving(pgtest.New(t), seal.NewMasterKey())
	s := serve(t, in)
	create := func(stdin string, args ...string) result {
		cmd := in
		cmd.stdin, cmd.args = stdin, append(append([]string{"admin", "create"}, args...), in.args[1:]...)
		return run(t, cmd)
	}
	isAdmin := func(email, password string) {
		t.Helper()
		u := &apptest.User{Email: email, Password: password}
		s.SignIn(t, u)
		s.Want(t, http.StatusOK, http.MethodGet, "/users", nil, u.Auth()...)
	}

	made := create("", "--email", "Ops@Example.com", "-o", "json").want(0).json()
	if made["email"] != "ops@example.com" || made["id"] == "" {
		t.Errorf("made %v", made)
	}
	isAdmin("ops@example.com", made["password"].(string))

	text := create("", "--email", "text@example.com").want(0, "text@example.com", "It is not shown again").stdout
	password := regexp.MustCompile(`password is (\S+)`).FindStringSubmatch(text)
	isAdmin("text@example.com", password[1])

	r := create(apptest.Password+"\n", "--email", "stdin@example.com", "--password-stdin").want(0, "stdin@example.com")
	if strings.Contains(r.stdout+r.stderr, apptest.Password) {
		t.Error("the given password is printed")
	}
	isAdmin("stdin@example.com", apptest.Password)

	create("", "--email", "ops@example.com").want(1, "exists already")
	create("short\n", "--email", "weak@example.com", "--password-stdin").want(1, "password", "12 characters")
	create("password1234\n", "--email", "weak@example.com", "--password-stdin").want(1, "password")
	create("", "--email", "weak@example.com", "--password-stdin").want(1, "password")
	create("", "--email", "nobody").want(1, "email")
	s.Want(t, http.StatusUnauthorized, http.MethodPost, "/auth/login", map[string]string{"email": "weak@example.com", "password": "password1234"})
}

func TestHealthcheckExitCodes(t *testing.T) {
	s := serve(t, serving(pgtest.New(t), seal.NewMasterKey()))
	_, port, err := net.SplitHostPort(s.Addr)
	if err != nil {
		t.Fatal(err)
	}
	keywarden(t, "healthcheck", "--url", s.URL+"/healthz").want(0)
	run(t, invocation{args: []string{"healthcheck"}, env: []string{"PORT=" + port}}).want(0)
	keywarden(t, "healthcheck", "--url", s.URL+"/nothing").want(1, "404")
	s.stop()
	run(t, invocation{args: []string{"healthcheck"}, env: []string{"PORT=" + port}}).want(1, "not healthy")
	keywarden(t, "healthcheck", "--url", "://").want(2)
}

func TestAuditVerifyFindsTampering(t *testing.T) {
	url := pgtest.New(t)
	in := serving(url, seal.NewMasterKey())
	s := serve(t, in)
	for range 3 {
		s.User(t)
	}
	verify := func(args ...string) result {
		cmd := in
		cmd.args = append(append([]string{"audit", "verify"}, args...), in.args[1:]...)
		return run(t, cmd)
	}
	whole := verify("-o", "json").want(0).json()
	verify().want(0, "The audit chain holds")

	db := apptest.Connect(t, url)
	if _, err := db.Exec(t.Context(), `UPDATE audit_log SET actor_id = 'nobody' WHERE seq = 2`); err == nil {
		t.Error("the table can be changed while its trigger is on")
	}
	cases := []struct{ name, break_, mend string }{
		{"changed", `UPDATE audit_log SET actor_id = actor_id || 'x' WHERE seq = 2`, `UPDATE audit_log SET actor_id = left(actor_id, -1) WHERE seq = 2`},
		{"removed", `CREATE TABLE kept AS SELECT * FROM audit_log WHERE seq = 3; DELETE FROM audit_log WHERE seq = 3`, `INSERT INTO audit_log SELECT * FROM kept; DROP TABLE kept`},
		{"cut", `CREATE TABLE kept AS SELECT * FROM audit_log WHERE seq = (SELECT max(seq) FROM audit_log); DELETE FROM audit_log WHERE seq = (SELECT max(seq) FROM audit_log)`, `INSERT INTO audit_log SELECT * FROM kept; DROP TABLE kept`},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			tamper := func(sql string) {
				t.Helper()
				if _, err := db.Exec(t.Context(), `ALTER TABLE audit_log DISABLE TRIGGER audit_log_append_only; `+sql+
					`; ALTER TABLE audit_log ENABLE TRIGGER audit_log_append_only`); err != nil {
					t.Fatal(err)
				}
			}
			tamper(c.break_)
			verify().want(1, "audit")
			tamper(c.mend)
			if got := verify("-o", "json").want(0).json(); got["head"] != whole["head"] {
				t.Errorf("mended, the head is %v, want %v", got["head"], whole["head"])
			}
		})
	}
}

// A program that is interrupted while it starts says so and ends.
func TestInterruptedStartEnds(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = silent.Close() }()
	p := start(t, serving("postgres://u:p@"+silent.Addr().String()+"/db?sslmode=disable", seal.NewMasterKey()))
	if _, err := silent.Accept(); err != nil { // it waits for an answer now
		t.Fatal(err)
	}
	p.signal(syscall.SIGINT)
	if code := p.wait(); code == 0 {
		t.Error("an interrupted start ends with 0")
	}
}

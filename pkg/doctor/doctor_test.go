package doctor

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5" //nolint:depguard // the test looks at the database itself

	"github.com/keywarden/keywarden/pkg/config"
	"github.com/keywarden/keywarden/pkg/pglocal/pgtest"
	"github.com/keywarden/keywarden/pkg/seal"
	"github.com/keywarden/keywarden/pkg/spec"
	"github.com/keywarden/keywarden/pkg/spec/services"
	"github.com/keywarden/keywarden/pkg/store/postgres"
	"github.com/keywarden/keywarden/pkg/store/redis/redistest"
)

// find runs the checks and returns what they found of the object.
func find(t *testing.T, object string, checks ...Check) Finding {
	t.Helper()
	r := Run(t.Context(), checks, time.Now)
	for _, f := range r.Findings {
		if f.Object == object {
			return f
		}
	}
	t.Fatalf("nothing of %q in %+v", object, r.Findings)
	return Finding{}
}

func want(t *testing.T, f Finding, status Status, detail string) {
	t.Helper()
	if f.Status != status || !strings.Contains(f.Detail, detail) {
		t.Errorf("%+v, want %s with %q", f, status, detail)
	}
	if (status == Warning || status == Failed) && f.Advice == "" {
		t.Errorf("%+v does not say what to do", f)
	}
}

func TestOneCheckHidesNoOther(t *testing.T) {
	r := Run(t.Context(), []Check{
		{Area: "panics", Run: func(context.Context) []Finding { panic("oh") }},
		{Area: "hangs", Timeout: time.Millisecond, Run: func(ctx context.Context) []Finding {
			<-ctx.Done()
			<-time.After(300 * time.Millisecond) // longer than the grace
			return nil
		}},
		{Area: "ends at its deadline", Timeout: time.Millisecond, Run: func(ctx context.Context) []Finding {
			<-ctx.Done()
			return []Finding{failed("", "it said why", "do")}
		}},
		Known("good", ok("", "fine")),
	}, time.Now)
	var got []string
	for _, f := range r.Findings {
		got = append(got, f.Area+" "+string(f.Status)+" "+f.Detail)
	}
	expected := []string{"panics failed the check itself is broken: oh", "hangs failed no answer within 1ms", "ends at its deadline failed it said why", "good ok fine"}
	if !slices.Equal(got, expected) || r.Counts[Failed] != 3 || r.Worst() != Failed {
		t.Errorf("%q, %+v", got, r.Counts)
	}
}

func TestDatabaseThatIsWell(t *testing.T) {
	d := Database{URL: seal.NewSecret(pgtest.New(t)), Needed: 1, Now: time.Now}
	for _, f := range Run(t.Context(), d.Checks(), time.Now).Findings {
		if f.Status != OK && f.Object != "locks" { // of other tests on the same server
			t.Errorf("%+v", f)
		}
	}
}

func execute(t *testing.T, address string, statements ...string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(t.Context())) }()
	for _, sql := range statements {
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
}

func TestSchemaOfTheDatabase(t *testing.T) {
	for what, c := range map[string]struct {
		sql    string
		status Status
		detail string
	}{
		"pending":            {`UPDATE schema_migrations SET version = version - 1`, Warning, "1 migration pending"},
		"none":               {`DROP TABLE schema_migrations`, Warning, "none yet"},
		"dirty":              {`UPDATE schema_migrations SET dirty = true`, Failed, "dirty"},
		"newer by additions": {`UPDATE schema_migrations SET version = 900`, Warning, "may serve on it"},
		"newer":              {`UPDATE schema_migrations SET version = 900; COMMENT ON TABLE schema_migrations IS 'floor 800'`, Failed, "needs one that knows version 800"},
	} {
		t.Run(what, func(t *testing.T) {
			address := pgtest.New(t)
			execute(t, address, c.sql)
			want(t, find(t, "schema", Database{URL: seal.NewSecret(address), Now: time.Now}.Checks()...), c.status, c.detail)
		})
	}
}

func TestDatabaseThatIsAway(t *testing.T) {
	const password = "canary-of-a-password"
	d := Database{URL: seal.NewSecret("postgres://me:" + password + "@127.0.0.1:1/x?sslmode=disable"), Now: time.Now}
	ring, err := seal.ParseKeyring(seal.NewMasterKey())
	if err != nil {
		t.Fatal(err)
	}
	r := Run(t.Context(), append(d.Checks(), d.MasterKey(ring, nil)), time.Now)
	text, err := json.Marshal(r)
	if err != nil || strings.Contains(string(text), password) {
		t.Errorf("the password is shown: %s, %v", text, err)
	}
	if r.Counts[Failed] != 1 || r.Findings[0].Object != "connection" || !strings.Contains(r.Findings[0].Detail, "refused") {
		t.Errorf("%+v", r.Findings)
	}
}

// A database whose clock, as seen from here, is an hour off.
func TestClocksThatDiffer(t *testing.T) {
	for ahead, status := range map[time.Duration]Status{0: OK, 5 * time.Second: Warning, -time.Hour: Failed} {
		d := Database{URL: seal.NewSecret(pgtest.New(t)), Now: func() time.Time { return time.Now().Add(ahead) }}
		for _, f := range Run(t.Context(), d.Checks(), time.Now).Findings {
			if f.Area == "clock" {
				want(t, f, status, "apart")
			}
		}
	}
}

func TestPrivilegesThatLack(t *testing.T) {
	address := pgtest.New(t)
	execute(t, address, `REVOKE UPDATE ON users FROM CURRENT_USER`)
	f := find(t, "privileges", Database{URL: seal.NewSecret(address), Now: time.Now}.Checks()...)
	want(t, f, Failed, "UPDATE on table users")
}

func TestMasterKeyOfTheDatabase(t *testing.T) {
	address := seal.NewSecret(pgtest.New(t))
	d := Database{URL: address, Now: time.Now}
	old := seal.NewMasterKey()
	first, err := seal.ParseKeyring(old)
	if err != nil {
		t.Fatal(err)
	}
	want(t, find(t, "", d.MasterKey(first, nil)), OK, "not used with any key yet")
	store, err := postgres.Open(t.Context(), postgres.Options{URL: address, MaxConnections: 2, ConnectTimeout: 10 * time.Second, QueryTimeout: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	if _, err := store.LoadChain(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	want(t, find(t, "", d.MasterKey(first, nil)), OK, "opens what this database has sealed")

	stranger, err := seal.ParseKeyring(seal.NewMasterKey())
	if err != nil {
		t.Fatal(err)
	}
	want(t, find(t, "", d.MasterKey(stranger, nil)), Failed, "wrong key for this database")

	rotated, err := seal.ParseKeyring(seal.NewMasterKey(), old)
	if err != nil {
		t.Fatal(err)
	}
	want(t, find(t, "sealed_secrets", d.MasterKey(rotated, nil)), Warning, "1 row of sealed_secrets under key "+first.ID()+", which is retired")
	if _, err := store.LoadChain(t.Context(), rotated); err != nil { // as a start does
		t.Fatal(err)
	}
	if found := Run(t.Context(), []Check{d.MasterKey(rotated, nil)}, time.Now).Findings; len(found) != 1 || found[0].Status != OK {
		t.Errorf("after the rotation: %+v", found)
	}
	execute(t, address.Reveal(), `INSERT INTO signing_keys SELECT gen_random_uuid(), '\x0110'::bytea || convert_to('0123456789abcdef', 'UTF8'), now(), now(), now()`)
	want(t, find(t, "signing_keys", d.MasterKey(rotated, nil)), Failed, "under key 0123456789abcdef, which is not in the configuration")
}

func TestRiskyOptions(t *testing.T) {
	cfg := config.Default()
	cfg.Server.Addr = "127.0.0.1:8080"
	if f := find(t, "", Configuration(cfg)); f.Status != OK {
		t.Errorf("%+v", f)
	}
	cfg.Server.Addr = ":8080"
	cfg.Server.MetricsAddr = ":9090"
	cfg.Database.URL = seal.NewSecret("postgres://u:p@db.example/x")
	cfg.Redis.URL = seal.NewSecret("redis://:p@redis.example:6379")
	for _, option := range []string{"server.tls", "server.metrics_addr", "database.url", "redis.url"} {
		want(t, find(t, option, Configuration(cfg)), Warning, "")
	}
	for address, status := range map[string]Status{
		"postgres://u:p@/x?host=db.example": Warning, "postgres://u:p@/x?host=db.example&sslmode=verify-full": "",
		"postgres://u@/x?host=/run/postgresql": "", "postgres://u:p@127.0.0.1:5432/x": "", "postgres://u:p@[::1]/x": "",
	} {
		cfg.Database.URL = seal.NewSecret(address)
		var got Status
		for _, f := range risks(cfg) {
			if f.Object == "database.url" {
				got = f.Status
			}
		}
		if got != status {
			t.Errorf("%s: %q, want %q", address, got, status)
		}
	}
	cfg.Server.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}
	want(t, find(t, "server.trusted_proxies", Configuration(cfg)), Warning, "0.0.0.0/0")
}

// certificate writes a pair that is good until then.
func certificate(t *testing.T, until time.Time) Pair {
	t.Helper()
	dir := t.TempDir()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "x"}, DNSNames: []string{"shop.example"},
		NotBefore: until.Add(-365 * 24 * time.Hour), NotAfter: until,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	p := Pair{filepath.Join(dir, "a.crt"), filepath.Join(dir, "a.key")}
	for file, block := range map[string]*pem.Block{p.CertFile: {Type: "CERTIFICATE", Bytes: der}, p.KeyFile: {Type: "PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

func TestCertificates(t *testing.T) {
	const day = 24 * time.Hour
	good, soon, gone := certificate(t, time.Now().Add(90*day)), certificate(t, time.Now().Add(5*day+time.Hour)), certificate(t, time.Now().Add(-day))
	open := certificate(t, time.Now().Add(90*day))
	if err := os.Chmod(open.KeyFile, 0o644); err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct {
		files  CertificateFiles
		status Status
		detail string
	}{
		"good":              {CertificateFiles{Pairs: []Pair{good}}, OK, "(shop.example): 89 days left"},
		"soon":              {CertificateFiles{Pairs: []Pair{soon}}, Warning, "5 days left"},
		"expired":           {CertificateFiles{Pairs: []Pair{gone}}, Failed, "has expired"},
		"of another key":    {CertificateFiles{Pairs: []Pair{{good.CertFile, soon.KeyFile}}}, Failed, "private key does not match"},
		"missing":           {CertificateFiles{Pairs: []Pair{{"/nonexistent", soon.KeyFile}}}, Failed, "/nonexistent"},
		"folder":            {CertificateFiles{Dir: filepath.Dir(soon.CertFile)}, Warning, "5 days left"},
		"empty folder":      {CertificateFiles{Dir: t.TempDir()}, Warning, "holds no certificates"},
		"authority":         {CertificateFiles{CAs: []string{good.CertFile}}, OK, "days left"},
		"expired authority": {CertificateFiles{CAs: []string{gone.CertFile}}, Failed, "has expired"},
		"no authority":      {CertificateFiles{CAs: []string{good.KeyFile}}, Failed, "no certificate"},
	} {
		want(t, find(t, what, Certificates([]CertificateFiles{{Name: what, Pairs: c.files.Pairs, CAs: c.files.CAs, Dir: c.files.Dir}}, time.Now)), c.status, c.detail)
	}
	if r := Run(t.Context(), []Check{Certificates([]CertificateFiles{{Name: "x", Pairs: []Pair{open}}}, time.Now)}, time.Now); r.Counts[Warning] != 1 {
		t.Errorf("a key that everybody can read: %+v", r.Findings)
	}
	want(t, find(t, "", Certificates(nil, time.Now)), Skipped, "none")
}

func TestTargets(t *testing.T) {
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/healthz" {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	plain := httptest.NewServer(handler)
	defer plain.Close()
	secure := httptest.NewUnstartedServer(handler)
	secure.Config.ErrorLog = nil
	secure.StartTLS()
	defer secure.Close()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: secure.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	closed, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = closed.Close()
	health := func(path string) *services.Health {
		return &services.Health{Active: &services.ActiveHealth{Type: services.CheckHTTP, Path: path}}
	}
	for what, c := range map[string]struct {
		s      services.Service
		status Status
		detail string
	}{
		"takes connections": {services.Service{URL: plain.URL}, OK, "takes connections"},
		"healthy":           {services.Service{URL: plain.URL, Health: health("/healthz")}, OK, "answers 200"},
		"not healthy":       {services.Service{URL: plain.URL, Health: health("/other")}, Failed, "answers 503"},
		"closed":            {services.Service{URL: "http://" + closed.Addr().String()}, Failed, "refused"},
		"without a name":    {services.Service{URL: "http://nowhere.invalid"}, Failed, "name is not found"},
		"TLS trusted":       {services.Service{URL: secure.URL, TLS: &services.BackendTLS{CAFile: ca}, Health: health("/healthz")}, OK, "answers 200"},
		"TLS not trusted":   {services.Service{URL: secure.URL}, Failed, "certificate"},
		"TLS another name":  {services.Service{URL: secure.URL, TLS: &services.BackendTLS{CAFile: ca, ServerName: "other.test"}}, Failed, "other.test"},
		"no file":           {services.Service{URL: secure.URL, TLS: &services.BackendTLS{CAFile: "/nonexistent"}}, Failed, "/nonexistent"},
	} {
		c.s.Name = "x"
		u, err := url.Parse(c.s.URL)
		if err != nil {
			t.Fatal(err)
		}
		t.Run(what, func(t *testing.T) {
			want(t, find(t, "x "+u.Host, Targets([]services.Service{c.s})...), c.status, c.detail)
		})
	}
	want(t, find(t, "y", Targets([]services.Service{{Name: "y", Discovery: &services.Discovery{}}})...), Skipped, "looked up")
}

func TestInstance(t *testing.T) {
	var answer string
	var status int
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = io.WriteString(w, answer)
	}))
	defer s.Close()
	p := Probe{URL: s.URL + "/readyz", TLS: &tls.Config{}}
	for _, c := range []struct {
		status int
		body   string
		want   Status
	}{{200, `{"status":"ready"}`, OK}, {200, `{"status":"degraded","missing":["database"]}`, Warning}, {503, "{\"status\":\"not_ready\"}\x1b[2J", Failed}} {
		status, answer = c.status, c.body
		f := find(t, "", Instance(p, p.Ask(t.Context())))
		if want(t, f, c.want, ""); strings.Contains(f.Detail, "\x1b") {
			t.Errorf("it steers the terminal: %q", f.Detail)
		}
	}
	away := Probe{URL: "http://127.0.0.1:1/readyz"}
	want(t, find(t, "", Instance(away, away.Ask(t.Context()))), Skipped, "none answers")
}

func TestListeners(t *testing.T) {
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	want(t, find(t, "a", Listener("a", address, true)), OK, "by the running instance")
	want(t, find(t, "a", Listener("a", address, false)), Warning, "does not answer as an instance")
	_ = l.Close()
	want(t, find(t, "a", Listener("a", address, false)), OK, "is free")
	want(t, find(t, "a", Listener("a", "192.0.2.1:80", false)), Failed, "")
}

func TestDataDirectory(t *testing.T) {
	dir := t.TempDir()
	want(t, find(t, "", DataDir(dir, true)), OK, "can be written to")
	want(t, find(t, "", DataDir(filepath.Join(dir, "no"), true)), OK, "the first start makes it")
	want(t, find(t, "", DataDir(filepath.Join(dir, "no"), false)), Skipped, "")
	file := filepath.Join(dir, "master.key")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	want(t, find(t, "master.key", DataDir(dir, true)), Failed, "read by others")
	want(t, find(t, "", DataDir(file, true)), Failed, "is not a folder")
	if left, err := filepath.Glob(filepath.Join(dir, ".doctor-*")); err != nil || len(left) > 0 {
		t.Errorf("it leaves %v", left)
	}
}

func TestWhereTracesGo(t *testing.T) {
	want(t, find(t, "", OTLP("")), Skipped, "not set")
	want(t, find(t, "127.0.0.1:1", OTLP("http://127.0.0.1:1")), Warning, "refused")
	want(t, find(t, "", OTLP("collector:4318")), Failed, "not a URL")
}

func TestRedisThatIsAway(t *testing.T) {
	want(t, find(t, "", Redis(seal.Secret{}, false, time.Second, time.Now)), Skipped, "none")
	want(t, find(t, "", Redis(seal.NewSecret("redis://:canary@127.0.0.1:1"), false, time.Second, time.Now)), Failed, "does not answer")
}

func TestRedisThatIsWell(t *testing.T) {
	s := redistest.Start(t)
	found := Run(t.Context(), []Check{Redis(s.URL, false, 5*time.Second, time.Now)}, time.Now).Findings
	if len(found) != 2 {
		t.Fatalf("%+v", found)
	}
	want(t, found[0], OK, "it answers")
	want(t, found[1], OK, "Redis and this machine are")
	early := func() time.Time { return time.Now().Add(-time.Hour) }
	want(t, Run(t.Context(), []Check{Redis(s.URL, false, 5*time.Second, early)}, time.Now).Findings[1], Failed, "apart")
}

func TestDocument(t *testing.T) {
	doc, err := spec.Parse("x", []byte("version: 1\nservices: [{name: a, url: 'http://10.0.0.1'}]\nroutes: [{name: r, match: {path: {prefix: /r}}, service: a}]\n"))
	if err != nil {
		t.Fatal(err)
	}
	want(t, find(t, "gateway.yaml", Document("gateway.yaml", doc)), OK, "1 service, 1 route")
	want(t, find(t, "x", Document("x", spec.Document{})), Warning, "no routes")
}

package cli_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/keywarden/keywarden/pkg/app/apptest"
	"github.com/keywarden/keywarden/pkg/pglocal/pgtest"
	"github.com/keywarden/keywarden/pkg/seal"
)

// trial is "keywarden dev", ready, with what it printed.
type trial struct {
	*program
	*apptest.Program // its client
	admin            *apptest.User
	key              apptest.Key
}

// dev starts "keywarden dev" on a data directory and reads its line.
func dev(tb testing.TB, in invocation, dir string, args ...string) *trial {
	tb.Helper()
	in.args = append([]string{"dev", "--addr", "127.0.0.1:0", "--data-dir", dir, "--output", "json"}, args...)
	p := start(tb, in)
	line := oneLine(tb, p.line(p.stdout, "line of dev", func(string) bool { return true }))
	field := func(name string) string {
		text, ok := line[name].(string)
		if !ok || text == "" {
			tb.Fatalf("the line has no %s: %v", name, line)
		}
		return text
	}
	if len(line) != 4 {
		tb.Errorf("the line has other members too: %v", line)
	}
	return &trial{
		program: p, Program: &apptest.Program{URL: field("base_url")},
		admin: &apptest.User{Email: field("admin_email"), Password: field("admin_password")},
		key:   apptest.Key{Secret: field("api_key")},
	}
}

// externalDatabase spares a test the private server where that is not what it is
// about.
func externalDatabase(tb testing.TB) invocation {
	tb.Helper()
	return invocation{env: []string{"DATABASE_URL=" + pgtest.New(tb)}}
}

// works uses everything that dev printed.
func (d *trial) works(tb testing.TB) {
	tb.Helper()
	d.SignIn(tb, d.admin)
	d.Want(tb, http.StatusOK, http.MethodGet, "/users", nil, d.admin.Auth()...)
	d.Want(tb, http.StatusOK, http.MethodGet, "/api-keys/self", nil, d.key.Auth()...)
	for _, path := range []string{"/api/users", "/api/products/1", "/api/whoami"} {
		d.Want(tb, http.StatusOK, http.MethodGet, path, nil, d.key.Auth()...)
		d.Want(tb, http.StatusUnauthorized, http.MethodGet, path, nil)
	}
	d.Want(tb, http.StatusOK, http.MethodGet, "/swagger/index.html", nil)
}

// dirWithCluster is a data directory whose PostgreSQL has been started before,
// but nothing else: making a cluster is the costly part of a first start.
func dirWithCluster(tb testing.TB) string {
	tb.Helper()
	whole := filepath.Join(sharedDir(tb), "cluster")
	if _, err := os.Stat(whole); err != nil {
		keywarden(tb, "migrate", "version", "--set", "data.dir="+whole).want(0)
	}
	dir := openDir(tb)
	if out, err := exec.Command("cp", "-a", whole+"/.", dir).CombinedOutput(); err != nil {
		tb.Fatalf("%v: %s", err, out)
	}
	return dir
}

// gone fails the test while any process still works on dir.
func gone(tb testing.TB, dir string) {
	tb.Helper()
	apptest.Eventually(tb, "every process on "+dir+" ended", func() bool { return len(processesOf(tb, dir)) == 0 })
}

// interrupt is Ctrl-C at a terminal, which signals the whole process group.
func (p *program) interrupt() int {
	p.tb.Helper()
	if err := syscall.Kill(-p.cmd.Process.Pid, syscall.SIGINT); err != nil {
		p.tb.Fatal(err)
	}
	return p.wait()
}

func TestDevTextLeadsANewcomerToABackend(t *testing.T) {
	dir := openDir(t)
	p := start(t, invocation{args: []string{"dev", "--addr", "127.0.0.1:0", "--data-dir", dir}})
	last := p.line(p.stdout, "last of the printed lines", func(line string) bool { return strings.Contains(line, "/api/users -H") })
	text, _, _ := strings.Cut(p.stdout.String(), last)
	text += last
	for _, want := range []string{
		"Press Ctrl-C", `API +http://127\.0\.0\.1:\d+\n`, `Swagger UI +http://\S+/swagger/index.html\n`, `Backends +http://\S+ \(users\), http://\S+ \(products\)\n`,
		"Data +" + regexp.QuoteMeta(dir), `Admin +\S+@\S+\n`, `Password +\S{20,}\n`, `API key +kw_live_[0-9A-Za-z]{50}\n`, "generated just now",
	} {
		if !regexp.MustCompile(want).MatchString(text) {
			t.Errorf("the text lacks %q:\n%s", want, text)
		}
	}
	var pasted []string
	for line := range strings.Lines(text) {
		if strings.Contains(line, "curl ") {
			pasted = append(pasted, strings.TrimSpace(line))
		}
	}
	if len(pasted) != 4 {
		t.Fatalf("%d lines to paste, want 4:\n%s", len(pasted), text)
	}
	curl, err := exec.LookPath("curl")
	if err != nil {
		t.Skip("no curl to paste the lines for")
	}
	// Pasted into one shell: each line goes on with what the one before kept.
	script := strings.Join(pasted, "\necho\n") + "\necho \"TOKEN=$TOKEN\"\necho \"KEY=$KEY\"\n"
	shell := exec.Command("bash", "-c", script)
	shell.Env = []string{"PATH=" + filepath.Dir(curl) + ":" + os.Getenv("PATH")}
	out, err := shell.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{`"email":"ada@example.com"`, `TOKEN=eyJ\S+\n`, `KEY=kw_live_[0-9A-Za-z]{50}\n`, `"name":"Katherine Johnson"`} {
		if !regexp.MustCompile(want).Match(out) {
			t.Errorf("the pasted lines do not give %q:\n%s", want, out)
		}
	}
	if code := p.interrupt(); code != 0 {
		t.Errorf("after Ctrl-C dev ends with %d, want 0", code)
	}
	gone(t, dir)
}

func TestDevFindsItsDataAgain(t *testing.T) {
	dir := openDir(t)
	first := dev(t, invocation{}, dir)
	first.works(t)
	user := first.User(t)
	key := first.Key(t, user, nil)
	if text := first.stdout.String(); strings.Count(text, "\n") != 1 {
		t.Errorf("more than one line: %q", text)
	}
	first.interrupt()
	gone(t, dir)

	second := dev(t, invocation{}, dir)
	if *second.admin != (apptest.User{Email: first.admin.Email, Password: first.admin.Password}) || second.key != first.key {
		t.Errorf("the second start prints %v %v, the first %v %v", second.admin, second.key, first.admin, first.key)
	}
	second.works(t)
	second.SignIn(t, user)
	second.Want(t, http.StatusOK, http.MethodGet, "/api-keys/self", nil, key.Auth()...)
	for _, file := range []string{"master.key", "dev-credentials.sealed", "gateway.yaml"} {
		info, err := os.Stat(filepath.Join(dir, file))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v, want mode 0600", file, info, err)
		}
	}
	second.stop()
}

func TestDevRunsForAnOrdinaryUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can be somebody else; as an ordinary user the other tests show it")
	}
	u, err := user.Lookup("nobody")
	if err != nil {
		t.Skip(err)
	}
	uid, err1 := strconv.Atoi(u.Uid)
	gid, err2 := strconv.Atoi(u.Gid)
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	dir := openDir(t)
	binary, home := filepath.Join(dir, "keywarden"), filepath.Join(dir, "home")
	copyProgram(t, binary)
	if err := os.Mkdir(home, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(home, uid, gid); err != nil {
		t.Fatal(err)
	}
	in := invocation{path: binary, dir: "/", user: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, env: []string{"HOME=" + home}}
	d := dev(t, in, "") // the default directory
	d.works(t)
	d.interrupt()
	if _, err := os.Stat(filepath.Join(home, ".local/share/keywarden/master.key")); err != nil {
		t.Error(err)
	}
	gone(t, home)
}

// copyProgram copies the test binary to where others may run it.
func copyProgram(t *testing.T, path string) {
	t.Helper()
	from, err := os.Open(binary(t, false))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = from.Close() }()
	to, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(to, from); err != nil {
		t.Fatal(err)
	}
	if err := to.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestKilledDevLeavesNoProcessAndNoDamage(t *testing.T) {
	dir := dirWithCluster(t)
	first := dev(t, invocation{}, dir)
	user := first.User(t)
	first.kill()
	gone(t, dir)
	second := dev(t, invocation{}, dir)
	second.works(t)
	second.SignIn(t, user)
	second.stop()
}

// The moments of a first start are many; a few of them stand for all.
func TestDevGoesOnAfterAFirstStartThatWasKilled(t *testing.T) {
	dir := openDir(t)
	moments := []string{"postgres/data/PG_VERSION", "gateway.yaml", "master.key", "dev-credentials.sealed"}
	for _, file := range moments {
		p := start(t, invocation{args: []string{"dev", "--addr", "127.0.0.1:0", "--data-dir", dir}})
		apptest.Eventually(t, file+" is there", func() bool {
			_, err := os.Stat(filepath.Join(dir, file))
			return err == nil
		})
		p.kill()
	}
	d := dev(t, invocation{}, dir)
	d.works(t)
	d.stop()
}

func TestDevThatIsInterruptedInItsFirstStartLeavesNoProcess(t *testing.T) {
	dir := openDir(t)
	p := start(t, invocation{args: []string{"dev", "--addr", "127.0.0.1:0", "--data-dir", dir}})
	apptest.Eventually(t, "PostgreSQL works on the directory", func() bool { return len(processesOf(t, dir)) > 1 })
	if code := p.interrupt(); code == 0 || strings.Count(p.stderr.String(), "\n") != 1 {
		t.Errorf("exit code %d, standard error %q, want a failure and one line", code, p.stderr)
	}
	gone(t, dir)
}

func TestDevTakesOtherPortsForItsBackends(t *testing.T) {
	for _, port := range []string{"8081", "8082"} {
		l, err := net.Listen("tcp", "127.0.0.1:"+port)
		if err == nil { // otherwise somebody else has it
			defer func() { _ = l.Close() }()
		}
	}
	dev(t, externalDatabase(t), openDir(t)).works(t)
}

func TestDevTakesTheDocumentOfGatewayConfig(t *testing.T) {
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("mine")) }))
	defer backend.Close()
	dir := openDir(t)
	document := writeFile(t, filepath.Join(dir, "mine.yaml"), fmt.Sprintf(`version: 1
services: [{name: mine, url: %q}]
routes: [{name: mine, match: {path: {prefix: /mine}}, service: mine}]
`, backend.URL))
	in := externalDatabase(t)
	in.env = append(in.env, "GATEWAY_CONFIG="+document)
	d := dev(t, in, dir)
	if got := d.Want(t, http.StatusOK, http.MethodGet, "/mine", nil, d.key.Auth()...); string(got.Body) != "mine" {
		t.Errorf("got %q", got.Body)
	}
	d.Want(t, http.StatusNotFound, http.MethodGet, "/api/users", nil, d.key.Auth()...)
	d.stop()
	in.args, in.env[1] = []string{"dev", "--addr", "127.0.0.1:0", "--data-dir", dir}, "GATEWAY_CONFIG="+dir+"/none.yaml"
	run(t, in).want(1, "gateway document", "none.yaml")
}

func TestDevListensWhereItIsTold(t *testing.T) {
	free := func() string {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = l.Close() }()
		return l.Addr().String()
	}
	url := pgtest.New(t)
	addr := free()
	p := start(t, invocation{
		args: []string{"dev", "--data-dir", openDir(t), "-o", "json"}, env: []string{"DATABASE_URL=" + url, "KEYWARDEN_SERVER_ADDR=" + addr},
	})
	line := oneLine(t, p.line(p.stdout, "line of dev", func(string) bool { return true }))
	if line["base_url"] != "http://"+addr {
		t.Errorf("base_url is %v, want the address of the environment, %s", line["base_url"], addr)
	}
	run(t, invocation{
		args: []string{"dev", "--addr", addr, "--data-dir", openDir(t)}, env: []string{"DATABASE_URL=" + pgtest.New(t)},
	}).want(1, addr, "address already in use", "--addr")
}

func TestDevUsesAnExternalDatabase(t *testing.T) {
	dir := openDir(t)
	in := externalDatabase(t)
	first := dev(t, in, dir)
	first.works(t)
	first.stop()
	dev(t, in, dir).works(t)
	if _, err := os.Stat(filepath.Join(dir, "postgres")); err == nil {
		t.Error("a private PostgreSQL was made all the same")
	}
	// Another database, the same directory: the admin is made there too.
	dev(t, externalDatabase(t), dir).works(t)
}

func TestDevWithoutPostgreSQLSaysWhatToDo(t *testing.T) {
	empty, dir := t.TempDir(), openDir(t)
	p := start(t, invocation{
		args: []string{"dev", "--addr", "127.0.0.1:0", "--data-dir", dir}, noPath: true,
		env: []string{"PATH=" + empty, "KEYWARDEN_POSTGRES_BIN=" + empty},
	})
	code := p.wait()
	result{t, code, p.stdout.String(), p.stderr.String()}.want(1, "apt-get install postgresql", "brew install postgresql", "DATABASE_URL", empty)
	if text := p.stderr.String(); strings.Count(text, "\n") != 1 || !strings.HasPrefix(text, "keywarden: ") {
		t.Errorf("not one clear error:\n%s", text)
	}
	if p.stdout.String() != "" {
		t.Errorf("standard output: %s", p.stdout)
	}
}

// A data directory belongs to one program. The second one says so, and the first
// one does not notice.
func TestSecondDevOnADataDirectoryIsRefused(t *testing.T) {
	dir := dirWithCluster(t)
	first := dev(t, invocation{}, dir)
	for _, command := range []string{"dev", "serve"} {
		r := run(t, invocation{args: []string{command, "--set", "server.addr=127.0.0.1:0", "--set", "data.dir=" + dir, "--set", "log.level=error"}})
		r.want(1, strconv.Itoa(first.cmd.Process.Pid), dir, "another data directory")
		if strings.Count(r.stderr, "\n") != 1 {
			t.Errorf("not one clear error:\n%s", r.stderr)
		}
	}
	// Longer than the document takes to be reloaded.
	deadline := time.Now().Add(time.Second)
	for time.Now().Before(deadline) {
		first.works(t)
	}
}

func TestShortCommandsWorkBesideDev(t *testing.T) {
	dir := dirWithCluster(t)
	beside := func(args ...string) result {
		return run(t, invocation{args: append(args, "--set", "data.dir="+dir)})
	}
	beside("admin", "create", "--email", "before@example.com").want(0) // starts the server for itself
	gone(t, dir)
	d := dev(t, invocation{}, dir)
	made := beside("admin", "create", "--email", "beside@example.com", "-o", "json").want(0).json()
	d.SignIn(t, &apptest.User{Email: "beside@example.com", Password: made["password"].(string)})
	beside("audit", "verify").want(0)
	beside("migrate", "status").want(0)
	d.works(t) // its server was not stopped
	d.stop()
}

func TestSecondSignalEndsAtOnce(t *testing.T) {
	slow := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	defer slow.Close()
	dir := dirWithCluster(t)
	document := writeFile(t, filepath.Join(dir, "slow.yaml"), fmt.Sprintf(`version: 1
services: [{name: slow, url: %q}]
routes: [{name: slow, match: {path: {prefix: /slow}}, service: slow}]
`, slow.URL))
	d := dev(t, invocation{env: []string{"GATEWAY_CONFIG=" + document}}, dir, "--verbose")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() { _, _, _ = get(ctx, d.URL+"/slow", d.key.Auth()...) }()
	apptest.Eventually(t, "the request is in flight", func() bool {
		_, body, err := get(t.Context(), d.URL+"/metrics")
		return err == nil && regexp.MustCompile(`(?m)^http_server_active_requests\S* 2$`).MatchString(body)
	})
	d.signal(syscall.SIGINT)
	d.line(d.stderr, "record of stopping", func(line string) bool { return strings.Contains(line, "msg=stopping") })
	// Who means it repeats it: one that follows at once is the same one.
	apptest.Eventually(t, "the program ended", func() bool {
		d.signal(syscall.SIGINT)
		select {
		case <-d.ended:
			return true
		case <-time.After(50 * time.Millisecond):
			return false
		}
	})
	if code := d.wait(); code != 130 {
		t.Errorf("exit code %d, want 130", code)
	}
	if strings.Contains(d.stderr.String(), "msg=stopped") {
		t.Error("the request in flight was waited for")
	}
	gone(t, dir)
}

func TestTheSameSignalTwiceIsOne(t *testing.T) {
	b := backend(t)
	s := serve(t, serving(pgtest.New(t), seal.NewMasterKey(), "gateway.file="+behind(t, b.URL)))
	key := s.Key(t, s.User(t), nil)
	answer := make(chan string, 1)
	go func() {
		_, body, err := get(t.Context(), s.URL+"/b/slow", key.Auth()...)
		answer <- fmt.Sprint(body, err)
	}()
	apptest.Eventually(t, "the request is in flight", func() bool {
		_, body, err := get(t.Context(), s.URL+"/metrics")
		return err == nil && regexp.MustCompile(`(?m)^http_server_active_requests\S* 2$`).MatchString(body)
	})
	for range 3 {
		s.signal(syscall.SIGTERM)
	}
	if got := <-answer; !strings.HasSuffix(got, "end\n<nil>") {
		t.Errorf("the request in flight got %q", got)
	}
	if code := s.wait(); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
}

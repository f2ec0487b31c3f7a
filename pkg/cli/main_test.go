package cli_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/keywarden/keywarden/pkg/app/apptest"
	"github.com/keywarden/keywarden/pkg/cli"
	"github.com/keywarden/keywarden/pkg/pglocal/pgtest"
	"github.com/keywarden/keywarden/pkg/seal"
)

// asProgram makes the test binary be the program. Its name does not begin with
// KEYWARDEN_, since the program refuses variables of that kind that it does not
// know.
const asProgram = "CLI_TEST_RUN_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		os.Exit(cli.Execute(cli.System{
			Args: os.Args[1:], Lookup: os.LookupEnv, Environ: os.Environ(), IsRoot: os.Geteuid() == 0,
			Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
		}))
	}
	goleak.VerifyTestMain(tests{m}, pgtest.IgnoreServer())
}

// tests ends what the tests share before leaks are looked for.
type tests struct{ *testing.M }

func (t tests) Run() int {
	code := t.M.Run()
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	if shared != "" {
		_ = os.RemoveAll(shared)
	}
	return code
}

// Times of the harness; none of them is a promise of the program.
const (
	startLimit = 90 * time.Second // on a loaded machine, with the race detector
	stopLimit  = 60 * time.Second
	pause      = 2 * time.Millisecond
)

// invocation says how to start the program.
type invocation struct {
	args   []string
	env    []string // "NAME=value", on top of PATH
	stdin  string
	path   string              // of the program; the test binary or a build of it when empty
	race   bool                // with the race detector, when the test has it
	user   *syscall.Credential // as whom; as the test when nil
	dir    string
	noPath bool // without PATH
}

// program is the program in a process of its own.
type program struct {
	tb     testing.TB
	cmd    *exec.Cmd
	stdout *output
	stderr *output
	ended  chan struct{}
}

// start starts the program; the end of the test kills what still runs then.
func start(tb testing.TB, in invocation) *program {
	tb.Helper()
	if in.path == "" {
		in.path = binary(tb, in.race)
	}
	p := &program{tb: tb, cmd: exec.Command(in.path, in.args...), stdout: newOutput(), stderr: newOutput(), ended: make(chan struct{})}
	p.cmd.Env = append([]string{asProgram + "=1"}, in.env...)
	if !in.noPath {
		p.cmd.Env = append(p.cmd.Env, "PATH="+os.Getenv("PATH"))
	}
	p.cmd.Dir = in.dir
	p.cmd.Stdin = strings.NewReader(in.stdin)
	p.cmd.Stdout, p.cmd.Stderr = p.stdout, p.stderr
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Credential: in.user, Setpgid: true}
	p.cmd.WaitDelay = 10 * time.Second
	if err := p.cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	go func() {
		_ = p.cmd.Wait()
		p.stdout.close()
		p.stderr.close()
		close(p.ended)
	}()
	tb.Cleanup(p.cleanUp)
	return p
}

// built is the program without the race detector, once it was built.
var built string

// binary is what runs as the program: the test binary, which becomes it in
// TestMain. The race detector makes each password hash take ten times as long
// and each start several times, so under it most tests use a build without.
func binary(tb testing.TB, race bool) string {
	tb.Helper()
	if !raceEnabled || race {
		path, err := os.Executable()
		if err != nil {
			tb.Fatal(err)
		}
		return path
	}
	if built == "" {
		path := filepath.Join(sharedDir(tb), "keywarden")
		if out, err := exec.Command("go", "build", "-o", path, "../../cmd/keywarden").CombinedOutput(); err != nil {
			tb.Fatalf("build the program: %v\n%s", err, out)
		}
		built = path
	}
	return built
}

// shared is a directory for what tests share. The end of all tests deletes it.
var shared string

func sharedDir(tb testing.TB) string {
	tb.Helper()
	if shared == "" {
		dir, err := os.MkdirTemp("", "keywarden-cli-")
		if err != nil {
			tb.Fatal(err)
		}
		shared = dir
		if err := os.Chmod(dir, 0o755); err != nil {
			tb.Fatal(err)
		}
	}
	return shared
}

func (p *program) cleanUp() {
	select {
	case <-p.ended:
	default:
		p.kill()
	}
	if strings.Contains(p.stderr.String(), "DATA RACE") {
		p.tb.Errorf("a data race in the program:\n%s", p.stderr)
	}
	if p.tb.Failed() && p.stdout.String()+p.stderr.String() != "" {
		p.tb.Logf("%s ended with %d\nstdout:\n%s\nstderr:\n%s", strings.Join(p.cmd.Args[1:], " "), p.cmd.ProcessState.ExitCode(),
			p.stdout.tail(), p.stderr.tail())
	}
}

func (p *program) signal(s syscall.Signal) {
	p.tb.Helper()
	if err := p.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		p.tb.Fatal(err)
	}
}

// wait returns the exit code; -1 when a signal ended the program.
func (p *program) wait() int {
	p.tb.Helper()
	select {
	case <-p.ended:
	case <-time.After(stopLimit):
		p.signal(syscall.SIGQUIT) // shows what every goroutine does
		<-p.ended
		p.tb.Fatalf("the program does not end: %v", p.cmd.Args[1:])
	}
	return p.cmd.ProcessState.ExitCode()
}

// stop ends the program in order, which must succeed.
func (p *program) stop() {
	p.tb.Helper()
	p.signal(syscall.SIGTERM)
	if code := p.wait(); code != 0 {
		p.tb.Errorf("after SIGTERM the program ends with %d, want 0", code)
	}
}

// kill ends the program as a crash does.
func (p *program) kill() {
	p.tb.Helper()
	p.signal(syscall.SIGKILL)
	p.wait()
}

// run starts the program and waits for its end.
func run(tb testing.TB, in invocation) result {
	tb.Helper()
	p := start(tb, in)
	code := p.wait()
	return result{tb, code, p.stdout.String(), p.stderr.String()}
}

// keywarden runs a command that needs nothing from the environment.
func keywarden(tb testing.TB, args ...string) result {
	tb.Helper()
	return run(tb, invocation{args: args})
}

// result is how a command ended.
type result struct {
	tb     testing.TB
	code   int
	stdout string
	stderr string
}

// want fails the test unless the command ended with code and wrote every text.
func (r result) want(code int, texts ...string) result {
	r.tb.Helper()
	all := r.stdout + r.stderr
	if r.code != code {
		r.tb.Fatalf("exit code %d, want %d:\n%s", r.code, code, all)
	}
	for _, text := range texts {
		if !strings.Contains(all, text) {
			r.tb.Errorf("the output lacks %q:\n%s", text, all)
		}
	}
	if strings.Contains(all, "goroutine ") {
		r.tb.Errorf("the program panicked:\n%s", all)
	}
	return r
}

// json decodes standard output, which must be one line.
func (r result) json() map[string]any {
	r.tb.Helper()
	return oneLine(r.tb, r.stdout)
}

func oneLine(tb testing.TB, text string) map[string]any {
	tb.Helper()
	if strings.Count(text, "\n") != 1 || !strings.HasSuffix(text, "\n") {
		tb.Fatalf("not exactly one line: %q", text)
	}
	var m map[string]any
	if err := json.Unmarshal([]byte(text), &m); err != nil {
		tb.Fatalf("%v in %q", err, text)
	}
	return m
}

// output is what a process wrote so far. It is safe for concurrent use.
type output struct {
	mu      sync.Mutex
	buf     bytes.Buffer
	closed  bool
	changed chan struct{} // closed at the next change
}

func newOutput() *output { return &output{changed: make(chan struct{})} }

// Write implements io.Writer.
func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.announce()
	return o.buf.Write(b)
}

func (o *output) announce() {
	close(o.changed)
	o.changed = make(chan struct{})
}

func (o *output) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closed = true
	o.announce()
}

func (o *output) snapshot() (text string, closed bool, changed <-chan struct{}) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String(), o.closed, o.changed
}

// String is everything that was written.
func (o *output) String() string {
	text, _, _ := o.snapshot()
	return text
}

// tail is the end of it, for a failed test.
func (o *output) tail() string {
	const most = 8 << 10
	text := o.String()
	return text[max(0, len(text)-most):]
}

// line waits for a whole line that accept takes.
func (p *program) line(o *output, what string, accept func(line string) bool) string {
	p.tb.Helper()
	limit := time.After(startLimit)
	for {
		text, closed, changed := o.snapshot()
		for line := range strings.Lines(text) {
			if strings.HasSuffix(line, "\n") && accept(line) {
				return line
			}
		}
		if closed {
			p.tb.Fatalf("the program ended before %s", what)
		}
		select {
		case <-changed:
		case <-limit:
			p.tb.Fatalf("no %s", what)
		}
	}
}

// logged waits for the first record of the JSON log with the message for which
// ok, if given, is true.
func (p *program) logged(message string, ok func(record map[string]any) bool) map[string]any {
	p.tb.Helper()
	var found map[string]any
	p.line(p.stderr, "record "+message, func(line string) bool {
		var record map[string]any
		if json.Unmarshal([]byte(line), &record) != nil || record["msg"] != message || ok != nil && !ok(record) {
			return false
		}
		found = record
		return true
	})
	return found
}

// server is "keywarden serve", ready.
type server struct {
	*program
	*apptest.Program // its client
}

// serving are the arguments and variables of a server whose costs fit a test.
func serving(databaseURL string, master seal.Secret, set ...string) invocation {
	in := invocation{args: []string{"serve"}, env: []string{"DATABASE_URL=" + databaseURL, "KEYWARDEN_MASTER_KEY=" + master.Reveal()}}
	set = append([]string{
		"server.addr=127.0.0.1:0", "accounts.bcrypt_cost=10", "keys.bcrypt_cost=4",
		"throttle.registrations=10000", "throttle.address_failures=10000", "log.access=false",
		"database.verify_timeout=5s", // a machine that tests keep busy is no outage
	}, set...)
	for _, option := range set {
		in.args = append(in.args, "--set", option)
	}
	return in
}

// serve starts a server and waits until it serves.
func serve(tb testing.TB, in invocation) *server {
	tb.Helper()
	p := start(tb, in)
	addr, _ := p.logged("serving", nil)["addr"].(string)
	return &server{program: p, Program: &apptest.Program{Addr: addr, URL: "http://" + addr}}
}

// makeAdmin makes an admin account by the command, and signs it in at s.
func makeAdmin(tb testing.TB, in invocation, s *server) *apptest.User {
	tb.Helper()
	u := &apptest.User{Email: apptest.NewEmail(), Password: apptest.Password}
	in.args = slices.Concat([]string{"admin", "create", "--email", u.Email, "--password-stdin", "-o", "json"}, in.args[1:])
	in.stdin = u.Password + "\n"
	u.ID, _ = run(tb, in).want(0).json()["id"].(string)
	s.SignIn(tb, u)
	return u
}

// openDir is a directory that other users may enter, as PostgreSQL's must when
// the program runs as root.
func openDir(tb testing.TB) string {
	tb.Helper()
	dir, err := os.MkdirTemp("", "keywarden-cli-")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		tb.Fatal(err)
	}
	return dir
}

func writeFile(tb testing.TB, name, text string) string {
	tb.Helper()
	// Renamed into place, so that a program that watches it never reads a half.
	tmp := name + ".tmp"
	if err := os.WriteFile(tmp, []byte(text), 0o600); err != nil {
		tb.Fatal(err)
	}
	if err := os.Rename(tmp, name); err != nil {
		tb.Fatal(err)
	}
	return name
}

func readFile(tb testing.TB, name string) string {
	tb.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		tb.Fatal(err)
	}
	return string(text)
}

// long reports whether the long runs were asked for.
func long() bool { return os.Getenv("KEYWARDEN_TEST_LONG") != "" || os.Getenv("CI") != "" }

// processesOf are the processes of this machine with the text on their command
// line.
func processesOf(tb testing.TB, text string) (found []string) {
	tb.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil || len(files) == 0 {
		tb.Skip("no /proc to find processes in")
	}
	for _, file := range files {
		line, err := os.ReadFile(file)
		if err == nil && bytes.Contains(line, []byte(text)) {
			found = append(found, filepath.Base(filepath.Dir(file))+" "+string(bytes.ReplaceAll(line, []byte{0}, []byte(" "))))
		}
	}
	return found
}

// get asks once, and closes the connection.
func get(ctx context.Context, url string, headers ...string) (status int, body string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, "", err
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	req.Close = true
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		return 0, "", err
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(text), err
}

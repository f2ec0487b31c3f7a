package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/keywarden/keywarden/pkg/loadtest"
	"github.com/keywarden/keywarden/pkg/seal"
)

// site is everything that takes part.
type site struct {
	dir       string
	processes []*exec.Cmd
	subjects  []*subject
}

// subject is one of those that are compared.
type subject struct {
	name    string
	addr    string
	path    string
	key     string // API key, if one is needed
	process int    // whose CPU time counts
	log     string // file that it writes its log into, emptied before each window
	metrics string // address with pprof, if any

	cost []float64 // of each round: CPU microseconds per request
	rate []float64 // of each round: requests per second
}

// Paths of the routes.
const (
	path        = "/bench/item"
	pathLimited = "/limited/item"
	pathCached  = "/cached/item"
)

// Names of the subjects.
const (
	nameBackend = "backend alone"
	nameBare    = "bare net/http + ReverseProxy"
	nameGateway = "keywarden, everything on"
	nameNoLog   = "keywarden, without access log"
	nameLimited = "keywarden, everything, rate limit and quota"
	nameCached  = "keywarden, everything, answered from the cache"
)

func newSite(ctx context.Context, s settings) (_ *site, err error) {
	dir, err := os.MkdirTemp("", "keywarden-bench-")
	if err != nil {
		return nil, err
	}
	t := &site{dir: dir}
	defer func() {
		if err != nil {
			err = errors.Join(err, t.close())
		}
	}()
	if err := os.Chmod(dir, 0o755); err != nil {
		return nil, err
	}
	if s.program == "" {
		if s.program, err = loadtest.Build(ctx, dir, "./cmd/keywarden"); err != nil {
			return nil, err
		}
	}
	behind, err := t.role(nameBackend, roleBackend)
	if err != nil {
		return nil, err
	}
	if _, err := t.role(nameBare, roleProxy, "http://"+behind.addr); err != nil {
		return nil, err
	}
	for _, access := range []bool{true, false} {
		if s.only == "" || s.only == gatewayName(access) || access && (s.only == nameLimited || s.only == nameCached) {
			if err := t.gateway(ctx, s.program, "http://"+behind.addr, access); err != nil {
				return nil, err
			}
		}
	}
	if s.only != "" {
		t.subjects = t.named(s.only)
	}
	if len(t.subjects) == 0 {
		return nil, fmt.Errorf("there is no subject %q", s.only)
	}
	return t, nil
}

func (t *site) named(name string) (found []*subject) {
	for _, s := range t.subjects {
		if s.name == name {
			found = append(found, s)
		}
	}
	return found
}

func gatewayName(access bool) string {
	if access {
		return nameGateway
	}
	return nameNoLog
}

// role starts this program in a role.
func (t *site) role(name string, args ...string) (*subject, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self, append([]string{roleArgument}, args...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := t.start(cmd); err != nil {
		return nil, err
	}
	addr, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	s := &subject{name: name, path: path, addr: strings.TrimSpace(addr), process: cmd.Process.Pid}
	t.subjects = append(t.subjects, s)
	return s, nil
}

func (t *site) start(cmd *exec.Cmd) error {
	if err := cmd.Start(); err != nil {
		return err
	}
	t.processes = append(t.processes, cmd)
	return nil
}

// document is the gateway document: one service behind a key, as it is, with limits
// that nobody reaches, and with answers that are kept.
const document = `version: 1
services: [{name: bench, url: %q}]
defaults: {auth: {mode: required, methods: [key]}}
routes:
  - {name: bench, match: {path: {prefix: /bench}}, service: bench}
  - name: limited
    match: {path: {prefix: /limited}}
    service: bench
    rate_limit: [{name: second, by: key, rate: 1000000/1s}]
    quota: [{name: month, by: key, limit: 1000000000000, period: month}]
  - {name: cached, match: {path: {prefix: /cached}}, service: bench, cache: {default_ttl: 1h}}
`

// gateway starts the program itself, with its defaults: key authentication,
// metrics, and the access log if wanted. Its database is the one of DATABASE_URL,
// or a private one.
func (t *site) gateway(ctx context.Context, program, backend string, access bool) error {
	s := &subject{name: gatewayName(access), path: path, log: filepath.Join(t.dir, fmt.Sprintf("access-%t.log", access))}
	file := filepath.Join(t.dir, "gateway.yaml")
	if err := os.WriteFile(file, fmt.Appendf(nil, document, backend), 0o600); err != nil {
		return err
	}
	addresses, err := loadtest.FreeAddresses(2)
	if err != nil {
		return err
	}
	s.addr, s.metrics = addresses[0], addresses[1]
	log, err := os.OpenFile(s.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	cmd := exec.Command(program, "serve",
		"--set", "server.addr="+s.addr, "--set", "server.metrics_addr="+s.metrics, "--set", "gateway.file="+file,
		"--set", fmt.Sprintf("log.access=%t", access), "--set", "accounts.bcrypt_cost=10")
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "KEYWARDEN_MASTER_KEY=" + seal.NewMasterKey().Reveal(),
		"KEYWARDEN_DATA_DIR=" + filepath.Join(t.dir, fmt.Sprintf("data-%t", access)), "GOGC=" + os.Getenv("GOGC"),
	}
	if url := os.Getenv("DATABASE_URL"); url != "" {
		cmd.Env = append(cmd.Env, "DATABASE_URL="+url)
	}
	cmd.Stderr = log
	if err := t.start(cmd); err != nil {
		return err
	}
	s.process = cmd.Process.Pid
	if err := loadtest.AwaitReady(ctx, "http://"+s.addr+"/readyz"); err != nil {
		text, _ := os.ReadFile(s.log)
		return fmt.Errorf("%w; its log: %s", err, text)
	}
	if s.key, err = mintKey(ctx, s.addr); err != nil {
		return err
	}
	t.subjects = append(t.subjects, s)
	if access {
		limited, cached := *s, *s
		limited.name, limited.path = nameLimited, pathLimited
		cached.name, cached.path = nameCached, pathCached
		t.subjects = append(t.subjects, &limited, &cached)
	}
	return nil
}

// mintKey makes a user with a key, as any user would.
func mintKey(ctx context.Context, addr string) (string, error) {
	base := "http://" + addr
	person := map[string]string{"email": fmt.Sprintf("bench%d@example.com", time.Now().UnixNano()), "password": "correct horse battery staple"}
	if _, err := loadtest.Call(ctx, http.MethodPost, base+"/auth/register", "", person); err != nil {
		return "", err
	}
	session, err := loadtest.Call(ctx, http.MethodPost, base+"/auth/login", "", person)
	if err != nil {
		return "", err
	}
	token, _ := session["access_token"].(string)
	key, err := loadtest.Call(ctx, http.MethodPost, base+"/api-keys", token, map[string]string{"name": "bench"})
	if err != nil {
		return "", err
	}
	secret, _ := key["key"].(string)
	return secret, nil
}

// close ends all processes and deletes what they wrote.
func (t *site) close() error {
	var all []error
	for i := len(t.processes) - 1; i >= 0; i-- {
		p := t.processes[i]
		_ = p.Process.Signal(syscall.SIGTERM) // the others end by it, the gateway drains
		_ = p.Wait()
	}
	if err := os.RemoveAll(t.dir); err != nil {
		all = append(all, err)
	}
	return errors.Join(all...)
}

// settle is how long the load runs before it counts.
const settle = 500 * time.Millisecond

// measure runs the load on s for one window.
func (s *subject) measure(ctx context.Context, o settings, profile string) error {
	if s.log != "" {
		if err := os.Truncate(s.log, 0); err != nil {
			return err
		}
	}
	header := ""
	if s.key != "" {
		header = "X-API-Key: " + s.key + "\r\n"
	}
	l := &load{addr: s.addr, connections: o.connections, request: fmt.Appendf(nil,
		"GET %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: bench\r\nAccept: */*\r\n%s\r\n", s.path, s.addr, header)}
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- l.run(ctx) }()
	stop := func() error { cancel(); return <-ended }

	if err := pause(ctx, ended, settle); err != nil {
		cancel()
		return err
	}
	if profile != "" {
		go saveProfile(ctx, "http://"+s.metrics, o.window, profile)
	}
	cpu, begun, done := cpuTime(s.process), time.Now(), l.done.Load()
	if err := pause(ctx, ended, o.window); err != nil {
		cancel()
		return err
	}
	cpu, took, done := cpuTime(s.process)-cpu, time.Since(begun), l.done.Load()-done
	if err := stop(); err != nil {
		return err
	}
	if done == 0 || cpu <= 0 {
		return errors.New("nothing was measured")
	}
	s.cost = append(s.cost, float64(cpu.Nanoseconds())/1e3/float64(done))
	s.rate = append(s.rate, float64(done)/took.Seconds())
	return nil
}

// pause waits for d, or for the load to end, which it must not.
func pause(ctx context.Context, ended <-chan error, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case err := <-ended:
		return fmt.Errorf("the load ended early: %w", err)
	}
}

// cpuTime is the user and system time that a process has used, by its clock of
// clock_getcpuclockid(3), which counts nanoseconds where /proc counts ticks.
func cpuTime(pid int) time.Duration {
	const schedulerClock = 2 // CPUCLOCK_SCHED of the kernel: all threads, user and system
	var t unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|schedulerClock), &t); err != nil {
		return 0
	}
	return time.Duration(t.Nano())
}

// saveProfile writes a CPU profile; without one the measurement goes on.
func saveProfile(ctx context.Context, base string, d time.Duration, file string) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("%s/debug/pprof/profile?seconds=%d", base, max(1, int(d.Seconds())-1)), nil)
	if err != nil {
		return
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return
	}
	defer func() { _ = resp.Body.Close() }()
	if text, err := io.ReadAll(resp.Body); err == nil {
		_ = os.WriteFile(file, text, 0o600)
	}
}

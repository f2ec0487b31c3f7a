package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/keywarden/keywarden/pkg/loadtest"
)

// netHTTPSetting has net/http serve everything.
const netHTTPSetting = "server.front=false"

// gateway says how to start the program.
type gateway struct {
	document string   // gateway document; the one of all cases when empty
	set      []string // name=value
	database string   // URL; a new one when empty
	log      bool     // the access log
	traces   bool     // one in a hundred, to the collector
	netHTTP  bool     // without the own HTTP/1.1 front
}

// document has one service behind a key, behind an access token, behind a key with a
// limit and a quota that nobody reaches, and with answers that are kept.
const document = `version: 1
services: [{name: bench, url: %q}]
defaults: {auth: {mode: required, methods: [key]}}
routes:
  - {name: bench, match: {path: {prefix: /bench}}, service: bench}
  - {name: token, match: {path: {prefix: /token}}, service: bench, auth: {mode: required, methods: [jwt]}}
  - name: limited
    match: {path: {prefix: /limited}}
    service: bench
    rate_limit: [{name: second, by: key, rate: %d/1s}]
    quota: [{name: month, by: key, limit: %d, period: month}]
  - {name: cached, match: {path: {prefix: /cached}}, service: bench, cache: {default_ttl: 1h}}
`

// What nobody reaches.
const (
	highLimit = 1_000_000
	highQuota = 1_000_000_000_000
)

// routesDocument is a document with n routes, /r0 to /r(n-1).
func routesDocument(service string, n int) string {
	var b strings.Builder
	_, _ = fmt.Fprintf(&b, "version: 1\nservices: [{name: bench, url: %q}]\ndefaults: {auth: {mode: required, methods: [key]}}\nroutes:\n", service)
	for i := range n {
		_, _ = fmt.Fprintf(&b, "  - {name: r%d, match: {path: {prefix: /r%d}}, service: bench}\n", i, i)
	}
	return b.String()
}

// command is the call of the program, and the process that will come of it.
func (t *site) command(ctx context.Context, g gateway) (*exec.Cmd, *process, error) {
	n := t.files.Add(1)
	if g.database == "" {
		var err error
		if g.database, err = t.databases.make(ctx); err != nil {
			return nil, nil, err
		}
	}
	if g.document == "" {
		g.document = fmt.Sprintf(document, t.service(), highLimit, int64(highQuota))
	}
	file := filepath.Join(t.dir, fmt.Sprintf("gateway-%d.yaml", n))
	if err := os.WriteFile(file, []byte(g.document), 0o600); err != nil {
		return nil, nil, err
	}
	free, err := loadtest.FreeAddresses(2)
	if err != nil {
		return nil, nil, err
	}
	p := &process{addr: free[0], metrics: free[1], log: filepath.Join(t.dir, fmt.Sprintf("gateway-%d.log", n))}
	settings := []string{
		"server.addr=" + p.addr, "server.metrics_addr=" + p.metrics, "gateway.file=" + file, "server.max_connections_per_ip=0",
		fmt.Sprintf("log.access=%t", g.log), "accounts.bcrypt_cost=10", "tokens.access_ttl=1h",
	}
	if g.netHTTP {
		settings = append(settings, netHTTPSetting)
	}
	cmd := exec.Command(t.program, "serve")
	for _, s := range append(append(settings, g.set...), t.set...) {
		cmd.Args = append(cmd.Args, "--set", s)
	}
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "KEYWARDEN_MASTER_KEY=" + t.master.Reveal(), "DATABASE_URL=" + g.database,
		"KEYWARDEN_DATA_DIR=" + filepath.Join(t.dir, "data"), "GOGC=" + os.Getenv("GOGC"),
	}
	if g.traces {
		cmd.Env = append(cmd.Env, "OTEL_EXPORTER_OTLP_ENDPOINT=http://"+t.collector.addr)
		cmd.Args = append(cmd.Args, "--set", "telemetry.trace_sample_ratio=0.01")
	}
	return cmd, p, nil
}

// launch starts the program and returns at once.
func (t *site) launch(cmd *exec.Cmd, p *process) error {
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	cmd.Stderr = log
	started, err := start(cmd)
	if err != nil {
		return err
	}
	p.cmd, p.ended = started.cmd, started.ended
	t.add(p)
	return nil
}

// gateway starts the program, waits until it is ready, and makes itself a key and an
// access token.
func (t *site) gateway(ctx context.Context, g gateway) (*process, error) {
	cmd, p, err := t.command(ctx, g)
	if err != nil {
		return nil, err
	}
	if err := t.launch(cmd, p); err != nil {
		return nil, err
	}
	waiting, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-p.ended:
			cancel(errors.New("it has ended"))
		case <-waiting.Done():
		}
	}()
	if err := loadtest.AwaitReady(waiting, "http://"+p.addr+"/readyz"); err != nil {
		text, _ := os.ReadFile(p.log)
		return nil, fmt.Errorf("starting %s: %w; its log: %s", strings.Join(cmd.Args, " "), err, text)
	}
	p.key, p.token, err = newCaller(ctx, p.addr)
	return p, err
}

// newCaller makes a user with a key and an access token, as any user would.
func newCaller(ctx context.Context, addr string) (key, token string, err error) {
	base := "http://" + addr
	person := map[string]string{"email": fmt.Sprintf("bench%d@example.com", time.Now().UnixNano()), "password": "correct horse battery staple"}
	if _, err := loadtest.Call(ctx, http.MethodPost, base+"/auth/register", "", person); err != nil {
		return "", "", err
	}
	session, err := loadtest.Call(ctx, http.MethodPost, base+"/auth/login", "", person)
	if err != nil {
		return "", "", err
	}
	token, _ = session["access_token"].(string)
	made, err := loadtest.Call(ctx, http.MethodPost, base+"/api-keys", token, map[string]string{"name": "bench"})
	if err != nil {
		return "", "", err
	}
	key, _ = made["key"].(string)
	return key, token, nil
}

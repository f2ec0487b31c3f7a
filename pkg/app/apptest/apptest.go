// Package apptest starts the whole program inside a test, on a database of its
// own, and talks to it over HTTP. Only tests import it.
package apptest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/account"
	"github.com/keywarden/keywarden/pkg/app"
	"github.com/keywarden/keywarden/pkg/app/platform"
	"github.com/keywarden/keywarden/pkg/config"
	"github.com/keywarden/keywarden/pkg/pglocal/pgtest"
	"github.com/keywarden/keywarden/pkg/seal"
	"github.com/keywarden/keywarden/pkg/telemetry"
)

// Password is good enough for every rule.
const Password = "correct horse battery staple"

// Options change what Start starts. The zero value is the program with its
// defaults, on a fresh database, without a gateway document.
type Options struct {
	DatabaseURL string            // default: a fresh migrated database
	MasterKey   seal.Secret       // default: a new one
	Gateway     string            // text of the gateway document
	Set         map[string]string // options by path
	Env         map[string]string // environment variables
	Change      func(*config.Config)
	Reload      chan os.Signal
}

// Program is a running program.
type Program struct {
	URL         string
	Addr        string
	DatabaseURL string
	MasterKey   seal.Secret
	Platform    *platform.Platform
	Log         *Log
	GatewayFile string

	// OnAnswer sees every answer that Call and Try receive, in the goroutine that
	// called; a test sets it before its first call. path is as it was given.
	OnAnswer func(method, path string, a Answer)

	stop   context.CancelFunc
	done   chan struct{}
	result error
}

// Start runs the program until the test ends. Password hashing is made cheap,
// everything else is as in production.
func Start(tb testing.TB, o Options) *Program {
	tb.Helper()
	p := &Program{DatabaseURL: o.DatabaseURL, MasterKey: o.MasterKey, Log: &Log{}, done: make(chan struct{})}
	if p.DatabaseURL == "" {
		p.DatabaseURL = pgtest.New(tb)
	}
	if p.MasterKey.Empty() {
		p.MasterKey = seal.NewMasterKey()
	}
	cfg := p.configure(tb, o)
	ctx, stop := context.WithCancel(context.Background())
	p.stop = stop
	ready := make(chan struct{})
	go func() {
		defer close(p.done)
		p.result = app.Run(ctx, app.Options{
			Config: cfg, Reload: o.Reload,
			Env:    app.Env{Lookup: func(name string) (string, bool) { v, ok := o.Env[name]; return v, ok }},
			Logger: telemetry.NewLogger(p.Log, slog.LevelDebug, "json"),
			Ready: func(_ context.Context, platform *platform.Platform, addr net.Addr) error {
				p.Platform, p.Addr, p.URL = platform, addr.String(), "http://"+addr.String()
				close(ready)
				return nil
			},
		})
	}()
	select {
	case <-ready:
	case <-p.done:
		tb.Fatalf("the program does not start: %v\n%s", p.result, p.Log)
	}
	tb.Cleanup(func() {
		if err := p.Stop(); err != nil {
			tb.Errorf("the program ends with an error: %v", err)
		}
	})
	return p
}

func (p *Program) configure(tb testing.TB, o Options) *config.Config {
	tb.Helper()
	flags := map[string]string{
		"server.addr":         "127.0.0.1:0",
		"database.url":        p.DatabaseURL,
		"security.master_key": p.MasterKey.Reveal(),
	}
	if o.Gateway != "" {
		p.GatewayFile = filepath.Join(tb.TempDir(), "gateway.yaml")
		if err := os.WriteFile(p.GatewayFile, []byte(o.Gateway), 0o600); err != nil {
			tb.Fatal(err)
		}
		flags["gateway.file"] = p.GatewayFile
	}
	maps.Copy(flags, o.Set)
	cfg, err := config.Load(config.Source{Flags: flags, Serving: true})
	if err != nil {
		tb.Fatal(err)
	}
	cfg.Accounts.BcryptCost, cfg.Keys.BcryptCost = 4, 4
	if o.Change != nil {
		o.Change(cfg)
	}
	return cfg
}

// Stop ends the program and returns how it ended. It may be called again.
func (p *Program) Stop() error {
	p.stop()
	<-p.done
	return p.result
}

// Log collects what the program logs. It is safe for concurrent use.
type Log struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

// Write implements io.Writer.
func (l *Log) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

// String is everything that was logged.
func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// Lines are the logged lines, decoded.
func (l *Log) Lines(tb testing.TB) []map[string]any {
	tb.Helper()
	var lines []map[string]any
	for line := range strings.Lines(l.String()) {
		var m map[string]any
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			tb.Fatalf("a log line is not JSON: %v: %s", err, line)
		}
		lines = append(lines, m)
	}
	return lines
}

// client never follows redirects: a test wants to see them.
var client = &http.Client{
	Timeout:       30 * time.Second,
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

// Answer is a received answer.
type Answer struct {
	Status int
	Header http.Header
	Body   []byte
}

// JSON decodes the body into a map.
func (a Answer) JSON(tb testing.TB) map[string]any {
	tb.Helper()
	var m map[string]any
	if err := json.Unmarshal(a.Body, &m); err != nil {
		tb.Fatalf("answer %d is no JSON object: %v: %.200s", a.Status, err, a.Body)
	}
	return m
}

// Text is a member of the body that is a string.
func (a Answer) Text(tb testing.TB, member string) string {
	tb.Helper()
	s, ok := a.JSON(tb)[member].(string)
	if !ok {
		tb.Fatalf("answer %d has no text %q: %.200s", a.Status, member, a.Body)
	}
	return s
}

// Call sends a request. body is text to send as it is, nil for none, or anything
// else to send as JSON. headers are pairs of name and value; a name that is given
// twice is sent twice, and "Host" is the host of the request.
func (p *Program) Call(tb testing.TB, method, path string, body any, headers ...string) Answer {
	tb.Helper()
	a, err := p.Try(method, path, body, headers...)
	if err != nil {
		tb.Fatalf("%s %s: %v", method, path, err)
	}
	return a
}

// Try is Call for goroutines other than the test's: it returns the error.
func (p *Program) Try(method, path string, body any, headers ...string) (Answer, error) {
	var reader io.Reader
	switch b := body.(type) {
	case nil:
	case string:
		reader = strings.NewReader(b)
	default:
		text, err := json.Marshal(b)
		if err != nil {
			return Answer{}, err
		}
		reader = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(context.Background(), method, p.URL+path, reader)
	if err != nil {
		return Answer{}, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	setHeaders(req, headers)
	resp, err := client.Do(req)
	if err != nil {
		return Answer{}, err
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	a := Answer{Status: resp.StatusCode, Header: resp.Header, Body: text}
	if err == nil && p.OnAnswer != nil {
		p.OnAnswer(method, path, a)
	}
	return a, err
}

// setHeaders puts the pairs in place of what the request has by their names.
func setHeaders(req *http.Request, pairs []string) {
	given := http.Header{}
	for i := 0; i+1 < len(pairs); i += 2 {
		given.Add(pairs[i], pairs[i+1])
	}
	if host := given.Get("Host"); host != "" {
		req.Host = host
		given.Del("Host")
	}
	maps.Copy(req.Header, given)
}

// Want is Call that fails unless the answer has the status.
func (p *Program) Want(tb testing.TB, status int, method, path string, body any, headers ...string) Answer {
	tb.Helper()
	a := p.Call(tb, method, path, body, headers...)
	if a.Status != status {
		tb.Fatalf("%s %s: status %d, want %d: %s", method, path, a.Status, status, a.Body)
	}
	return a
}

// User is an account with a live session.
type User struct {
	ID, Email, Password string
	Token, Refresh      string
}

// Auth is the header of the user's access token, as a pair for Call.
func (u *User) Auth() []string { return []string{"Authorization", "Bearer " + u.Token} }

// With is Auth with more headers.
func (u *User) With(headers ...string) []string { return append(u.Auth(), headers...) }

var users struct {
	sync.Mutex
	n int
}

// NewEmail is an address that was not used before.
func NewEmail() string {
	users.Lock()
	defer users.Unlock()
	users.n++
	return fmt.Sprintf("person%d@example.com", users.n)
}

// User registers and signs in a new user, over HTTP.
func (p *Program) User(tb testing.TB) *User {
	tb.Helper()
	u := &User{Email: NewEmail(), Password: Password}
	a := p.Want(tb, http.StatusCreated, http.MethodPost, "/auth/register", map[string]string{"email": u.Email, "password": u.Password})
	u.ID = a.Text(tb, "id")
	p.SignIn(tb, u)
	return u
}

// Admin makes an admin as "keywarden admin create" does, and signs it in.
func (p *Program) Admin(tb testing.TB) *User {
	tb.Helper()
	u := &User{Email: NewEmail(), Password: Password}
	made, err := p.Platform.Accounts.Register(context.Background(), account.Registration{Email: u.Email, Password: u.Password}, access.RoleAdmin)
	if err != nil {
		tb.Fatal(err)
	}
	u.ID = made.ID
	p.SignIn(tb, u)
	return u
}

// SignIn begins a new session of the user.
func (p *Program) SignIn(tb testing.TB, u *User) {
	tb.Helper()
	a := p.Want(tb, http.StatusOK, http.MethodPost, "/auth/login", map[string]string{"email": u.Email, "password": u.Password})
	u.Token, u.Refresh = a.Text(tb, "access_token"), a.Text(tb, "refresh_token")
}

// Key is a minted API key.
type Key struct{ ID, Secret string }

// Auth is the header of the key, as a pair for Call.
func (k Key) Auth() []string { return []string{"X-API-Key", k.Secret} }

// Key mints a key of the user. more are members of the request.
func (p *Program) Key(tb testing.TB, u *User, more map[string]any) Key {
	tb.Helper()
	body := map[string]any{"name": "a key"}
	maps.Copy(body, more)
	a := p.Want(tb, http.StatusCreated, http.MethodPost, "/api-keys", body, u.Auth()...)
	p.settle()
	return Key{ID: a.Text(tb, "id"), Secret: a.Text(tb, "key")}
}

// settle waits until the program has read the log to its end: the event of a
// change that it made itself comes back to it, and drops what it has cached of the
// key once more. A test that has just warmed the cache does not want that. Where
// the log cannot be read it is not waited for, nor in another process.
func (p *Program) settle() {
	if p.Platform == nil {
		return
	}
	_, _ = p.Platform.Follower.Await(context.Background(), 0, 2*time.Second)
}

// Eventually polls until ok, or fails the test after a generous deadline.
func Eventually(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			tb.Fatalf("never: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

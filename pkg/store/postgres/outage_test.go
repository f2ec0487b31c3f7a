package postgres

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/account"
	"github.com/keywarden/keywarden/pkg/apikey"
	"github.com/keywarden/keywarden/pkg/audit"
	"github.com/keywarden/keywarden/pkg/pglocal/pgtest"
	"github.com/keywarden/keywarden/pkg/problem"
	"github.com/keywarden/keywarden/pkg/revision"
	"github.com/keywarden/keywarden/pkg/seal"
	"github.com/keywarden/keywarden/pkg/usage"
)

// canary is a password that must appear nowhere.
const canary = "c4n4ry-p4ssw0rd"

// withPassword is the URL with the canary as its password.
func withPassword(t *testing.T, address string) string {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword(u.User.Username(), canary)
	return u.String()
}

// reads is every call that only asks, by name.
var reads = map[string]func(s *scene) error{
	"Ping":         func(s *scene) error { return s.Ping(s.ctx) },
	"User":         func(s *scene) error { _, err := s.User(s.ctx, s.user.ID); return err },
	"UserByEmail":  func(s *scene) error { _, _, err := s.UserByEmail(s.ctx, s.user.Email); return err },
	"PasswordHash": func(s *scene) error { _, err := s.PasswordHash(s.ctx, s.user.ID); return err },
	"ListUsers":    func(s *scene) error { _, err := s.ListUsers(s.ctx, account.Filter{Limit: 1}); return err },
	"Rehash":       func(s *scene) error { return s.Rehash(s.ctx, s.user.ID, "a", "b") },
	"SpendRefresh": func(s *scene) error {
		_, err := s.SpendRefresh(s.ctx, refreshDigest(0), refreshDigest(1), now(), now(), "", "")
		if errors.Is(err, problem.Define(problem.NotFound, "session.not_found", "")) {
			return nil
		}
		return err
	},
	"SessionState":     func(s *scene) error { _, err := s.SessionState(s.ctx, s.session); return err },
	"ListSessions":     func(s *scene) error { _, err := s.ListSessions(s.ctx, s.user.ID, now(), 1); return err },
	"KnownClient":      func(s *scene) error { _, err := s.KnownClient(s.ctx, s.user.Email, "c"); return err },
	"SigningKeys":      func(s *scene) error { _, err := s.SigningKeys(s.ctx, now()); return err },
	"ResealSigningKey": func(s *scene) error { return s.ResealSigningKey(s.ctx, newID(), nil) },
	"Key":              func(s *scene) error { _, err := s.Key(s.ctx, s.key.ID); return err },
	"ListKeys":         func(s *scene) error { _, err := s.ListKeys(s.ctx, apikey.Filter{Limit: 1}); return err },
	"KeyByPublicID":    func(s *scene) error { _, err := s.KeyByPublicID(s.ctx, s.key.PublicID); return err },
	"StoreVerifier":    func(s *scene) error { return s.StoreVerifier(s.ctx, newID(), nil, nil, "") },
	"TouchKeys":        func(s *scene) error { return s.TouchKeys(s.ctx, map[string]time.Time{s.key.ID: now()}) },
	"ListAudit":        func(s *scene) error { _, err := s.ListAudit(s.ctx, audit.Filter{Limit: 1}); return err },
	"ScanAudit":        func(s *scene) error { return s.ScanAudit(s.ctx, 1, func(audit.Record) error { return nil }) },
	"AuditHead":        func(s *scene) error { _, _, err := s.AuditHead(s.ctx); return err },
	"SchemaStatus":     func(s *scene) error { _, err := s.SchemaStatus(s.ctx); return err },
	"LoadChain":        func(s *scene) error { _, err := s.LoadChain(s.ctx, s.ring); return err },
	"ChangesSince":     func(s *scene) error { _, _, err := s.ChangesSince(s.ctx, 1, 1); return err },
	"ChangeHead":       func(s *scene) error { _, err := s.ChangeHead(s.ctx); return err },
	"Beat":             func(s *scene) error { return s.Beat(s.ctx, "id", 1) },
	"Leave":            func(s *scene) error { return s.Leave(s.ctx, "id") },
	"Replicas":         func(s *scene) error { _, err := s.Replicas(s.ctx, time.Minute); return err },
	"Sweep":            func(s *scene) error { return s.Sweep(s.ctx, now()) },
	"CurrentRevision": func(s *scene) error {
		_, err := s.CurrentRevision(s.ctx)
		return unlessNone(err)
	},
	"CurrentRevisionUnless": func(s *scene) error {
		_, _, err := s.CurrentRevisionUnless(s.ctx, 0, "")
		return unlessNone(err)
	},
	"Revision":      func(s *scene) error { _, err := s.Revision(s.ctx, 1); return unlessNone(err) },
	"ListRevisions": func(s *scene) error { _, err := s.ListRevisions(s.ctx, 0, 1); return err },
	"ReportServing": func(s *scene) error { return s.ReportServing(s.ctx, revision.Serving{Replica: "id"}) },
	"WriteUsage": func(s *scene) error {
		return s.WriteUsage(s.ctx, usage.Flush{Replica: newID(), Number: 1, Cells: oneCell(1)})
	},
	"ReadUsage": func(s *scene) error {
		_, err := s.ReadUsage(s.ctx, usage.Query{From: noon(), To: noon().Add(time.Hour), By: usage.Dimensions(), Top: 1})
		return err
	},
	"SweepUsage":  func(s *scene) error { return s.SweepUsage(s.ctx, time.Hour, now()) },
	"ListServing": func(s *scene) error { _, err := s.ListServing(s.ctx, time.Minute); return err },
}

// unlessNone takes the answer that there is no revision for the answer it is.
func unlessNone(err error) error {
	if errors.Is(err, revision.ErrNone) || errors.Is(err, revision.ErrUnknown) {
		return nil
	}
	return err
}

// isOutage checks that an error is the 503 of an outage and keeps the password.
func isOutage(t *testing.T, call string, err error) {
	t.Helper()
	if !errors.Is(err, ErrUnavailable) || problem.From(err).Kind.Status() != http.StatusServiceUnavailable || problem.From(err).RetryAfter <= 0 {
		t.Errorf("%s: error %v", call, err)
	}
	if text := fmt.Sprintf("%v %+v %#v", err, err, err); strings.Contains(text, canary) {
		t.Errorf("%s tells the password: %s", call, text)
	}
}

func TestStoppedServerIsAnOutageAndEndsWithIt(t *testing.T) {
	server := pgtest.NewServer(t)
	w := worldAt(t, withPassword(t, server.URL()), newRing(t))
	s := &scene{world: w, ctx: t.Context()}
	w.user(access.RoleAdmin)
	s.user = w.user(access.RoleUser)
	made, _ := w.session(s.user)
	s.session = made.ID
	s.key, _ = w.key(s.user)

	// Every kind of call is under way when the server stops.
	var stop atomic.Bool
	calls := make(chan error)
	go func() {
		defer close(calls)
		for _, err := range together(times(8, func(int) error {
			for !stop.Load() {
				for name, read := range reads {
					if err := read(s); err != nil {
						return fmt.Errorf("%s: %w", name, err)
					}
				}
				if err := mutations["InsertKey"](s, noted("test", "")); err != nil {
					return fmt.Errorf("InsertKey: %w", err)
				}
			}
			return nil
		})...) {
			calls <- err
		}
	}()
	eventually(t, "calls are under way", func() bool { return w.Stats().AcquireCount() > 200 })
	server.Stop()
	stop.Store(true)
	for err := range calls {
		if err != nil {
			isOutage(t, "under way", err)
		}
	}

	for name, read := range reads {
		isOutage(t, name, read(s))
	}
	for name, mutate := range mutations {
		isOutage(t, name, mutate(s, noted("test", "")))
	}
	isOutage(t, "ListenChanges", w.ListenChanges(t.Context(), func() {}))
	_, err := ReadSchemaStatus(t.Context(), seal.NewSecret(w.url))
	isOutage(t, "ReadSchemaStatus", err)
	_, err = Migrate(t.Context(), seal.NewSecret(w.url), slog.New(slog.DiscardHandler))
	isOutage(t, "Migrate", err)

	server.Start()
	for name, read := range reads {
		if err := read(s); err != nil {
			t.Errorf("after the outage: %s: %v", name, err)
		}
	}
	w.verify()
}

func TestRefusedConnectionIsAnOutage(t *testing.T) {
	address, err := url.Parse(withPassword(t, pgtest.New(t)))
	if err != nil {
		t.Fatal(err)
	}
	address.Path = "/no_such_database"
	s := openStore(t, address.String())
	isOutage(t, "no such database", s.Ping(t.Context()))
	address.User = url.UserPassword("no_such_user", canary)
	s = openStore(t, address.String())
	isOutage(t, "no such user", s.Ping(t.Context()))
}

func TestFrozenServerIsAnOutageAtTheCallersDeadline(t *testing.T) {
	w := newWorld(t)
	f := newFreezer(t, w.url)
	s := openStore(t, f.url)
	w.must(s.Ping(t.Context()))
	f.freeze()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := s.ChangeHead(ctx)
	isOutage(t, "ChangeHead", err)
	f.close() // before the store, which would wait for an answer
}

// freezer passes connections on to a server until it is frozen.
type freezer struct {
	url      string
	listener net.Listener
	frozen   atomic.Bool
	served   sync.WaitGroup
	mu       sync.Mutex
	conns    []net.Conn
}

func newFreezer(t *testing.T, target string) *freezer {
	t.Helper()
	config, err := pgx.ParseConfig(target)
	if err != nil {
		t.Fatal(err)
	}
	f := &freezer{}
	if f.listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	f.url = fmt.Sprintf("postgres://%s@%s/%s?sslmode=disable", config.User, f.listener.Addr(), config.Database)
	network, address := pgconn.NetworkAddress(config.Host, config.Port)
	f.served.Go(func() {
		for {
			client, err := f.listener.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial(network, address)
			if err != nil {
				t.Error(err)
				return
			}
			f.mu.Lock()
			f.conns = append(f.conns, client, server)
			f.mu.Unlock()
			f.served.Go(func() { _, _ = io.Copy(server, client) })
			f.served.Go(func() { _, _ = io.Copy(freezing{client, f}, server) })
		}
	})
	return f
}

func (f *freezer) freeze() { f.frozen.Store(true) }

func (f *freezer) close() {
	_ = f.listener.Close()
	f.mu.Lock()
	for _, c := range f.conns {
		_ = c.Close()
	}
	f.mu.Unlock()
	f.served.Wait()
}

// freezing swallows what it is given once the freezer is frozen.
type freezing struct {
	io.Writer
	f *freezer
}

func (w freezing) Write(p []byte) (int, error) {
	if w.f.frozen.Load() {
		return len(p), nil
	}
	return w.Writer.Write(p)
}

func TestInvalidURLKeepsItsPassword(t *testing.T) {
	for _, address := range []string{
		"postgres://user:" + canary + "@host:port/db", "user=x password=" + canary + " host", "postgres://user:" + canary + "@[::1/db",
		"postgres://u:" + canary + "%zz@h/db", "postgres://u:" + canary + "@h/db?sslmode=nonsense", "postgres://u:" + canary + "@h/db?connect_timeout=x",
	} {
		secret := seal.NewSecret(address)
		_, openErr := Open(t.Context(), Options{URL: secret, MaxConnections: 1})
		_, statusErr := ReadSchemaStatus(t.Context(), secret)
		_, migrateErr := Migrate(t.Context(), secret, slog.New(slog.DiscardHandler))
		for _, err := range []error{openErr, statusErr, migrateErr} {
			if err == nil || strings.Contains(fmt.Sprintf("%v %+v %#v", err, err, err), canary) {
				t.Errorf("error %v", err)
			}
		}
	}
}

func TestOutageIsToldFromMistake(t *testing.T) {
	known := account.ErrNotFound
	for _, c := range []struct {
		err    error
		outage bool
	}{
		{&pgconn.PgError{Code: "08006"}, true},
		{&pgconn.PgError{Code: "53300"}, true},
		{&pgconn.PgError{Code: "57P01"}, true},
		{&pgconn.PgError{Code: "57P03"}, true},
		{&pgconn.PgError{Code: "25006"}, true},
		{&pgconn.PgError{Code: "57014"}, true},
		{&pgconn.PgError{Code: "55P03"}, true},
		{&pgconn.PgError{Code: "40P01"}, true},
		{fmt.Errorf("wrapped: %w", &pgconn.PgError{Code: "57P01"}), true},
		{&net.OpError{Op: "read", Err: errors.New("reset")}, true},
		{io.ErrUnexpectedEOF, true},
		{context.DeadlineExceeded, true},
		{context.Canceled, false},
		{pgx.ErrNoRows, false},
		{&pgconn.PgError{}, false},
		{&pgconn.PgError{Code: "5"}, false},
		{&pgconn.PgError{Code: "23505"}, false},
		{&pgconn.PgError{Code: "42P01"}, false},
		{&pgconn.PgError{Code: "57000"}, false},
		{pgx.ScanArgError{Err: errors.New("cannot scan")}, false},
		{errors.New("anything"), false},
		{known, false},
	} {
		if got := errors.Is(unavailable(c.err), ErrUnavailable); got != c.outage {
			t.Errorf("%v: outage %v", c.err, got)
		}
		if !errors.Is(unavailable(c.err), c.err) {
			t.Errorf("%v is lost", c.err)
		}
	}
	if unavailable(nil) != nil {
		t.Error("nil")
	}
}

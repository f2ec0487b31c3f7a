// Package demo is what "keywarden dev" adds to the program, so that there is
// something to try: two sample backends, a gateway document with routes to them, a
// first admin and an API key. The program knows nothing of it.
package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/account"
	"github.com/keywarden/keywarden/pkg/apikey"
	"github.com/keywarden/keywarden/pkg/app/platform"
	"github.com/keywarden/keywarden/pkg/sample"
	"github.com/keywarden/keywarden/pkg/seal"
)

// Demo is what "keywarden dev" adds to the application: two sample backends, a
// gateway document with routes to them, a first admin and an API key.
type Demo struct {
	UsersAddr    string
	ProductsAddr string

	dir      string
	backends []backend
}

type backend struct {
	listener net.Listener
	serve    func(context.Context) error
}

// Ports where the sample backends are expected; when one is taken the backend
// gets a free port.
const (
	usersPort    = "8081"
	productsPort = "8082"
)

// New opens the listeners of the sample backends. The caller runs it with
// [Demo.Tasks], or closes it.
func New(ctx context.Context, dir string, logger *slog.Logger) (_ *Demo, err error) {
	d := &Demo{dir: dir}
	defer func() {
		if err != nil {
			d.Close()
		}
	}()
	for _, b := range []struct {
		port    string
		addr    *string
		handler http.Handler
	}{
		{usersPort, &d.UsersAddr, sample.Users(logger)},
		{productsPort, &d.ProductsAddr, sample.Products(logger)},
	} {
		l, err := listenOrElsewhere(ctx, b.port)
		if err != nil {
			return nil, err
		}
		*b.addr = l.Addr().String()
		d.backends = append(d.backends, backend{l, func(ctx context.Context) error { return sample.Serve(ctx, l, b.handler, logger) }})
	}
	return d, nil
}

func listenOrElsewhere(ctx context.Context, port string) (net.Listener, error) {
	var listen net.ListenConfig
	l, err := listen.Listen(ctx, "tcp", net.JoinHostPort("127.0.0.1", port))
	if err == nil {
		return l, nil
	}
	return listen.Listen(ctx, "tcp", "127.0.0.1:0")
}

// Tasks serve the backends until their context ends.
func (d *Demo) Tasks() []func(context.Context) error {
	tasks := make([]func(context.Context) error, 0, len(d.backends))
	for _, b := range d.backends {
		tasks = append(tasks, b.serve)
	}
	return tasks
}

// Close closes the listeners of a demo whose tasks were never run.
func (d *Demo) Close() {
	for _, b := range d.backends {
		_ = b.listener.Close()
	}
}

// Document is the path of the demo's gateway document.
func (d *Demo) Document() string { return filepath.Join(d.dir, "gateway.yaml") }

// WriteDocument writes the gateway document of the demo. The data directory must
// be this process's by then: another one may be serving what is there.
func (d *Demo) WriteDocument() error {
	text := fmt.Sprintf(demoDocument, d.UsersAddr, d.ProductsAddr)
	if err := replaceFile(d.Document(), []byte(text)); err != nil {
		return fmt.Errorf("write the gateway document: %w", err)
	}
	return nil
}

// replaceFile writes a private file so that it is there wholly or not at all.
func replaceFile(path string, content []byte) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // PostgreSQL's user must pass; the files in it are private
		return err
	}
	tmp, err := os.CreateTemp(dir, filepath.Base(path)+".*") // mode 0600
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(tmp.Name()) }()
	_, err = tmp.Write(content)
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}

const demoDocument = `# Written by "keywarden dev" at each start, for the ports that were free.
# Copy it and set GATEWAY_CONFIG to the copy to make it your own.
version: 1
services:
  - name: users
    url: http://%s
  - name: products
    url: http://%s
routes:
  - name: users-api
    match: {path: {prefix: /api/users}}
    service: users
    strip_prefix: /api
  - name: products-api
    match: {path: {prefix: /api/products}}
    service: products
    strip_prefix: /api
  - name: whoami
    match: {path: {exact: /api/whoami}}
    service: users
    strip_prefix: /api
`

// Credentials are what a newcomer needs to begin.
type Credentials struct {
	AdminEmail    string
	AdminPassword seal.Secret // empty when it was changed since
	APIKey        seal.Secret // empty when it was revoked since
	First         bool        // made just now
}

const (
	demoAdmin     = "admin@keywarden.local"
	demoFile      = "dev-credentials.sealed"
	demoFilePlace = "file/" + demoFile
	demoKeyName   = "keywarden dev"
	demoKeyOnce   = "keywarden-dev" // idempotency key
)

// demoSecrets is the content of the sealed file.
type demoSecrets struct{ Password, Key string }

// Seed makes the first admin and its API key, or finds them again. They are kept
// sealed under the master key, in a private file of the data directory, so that
// each start can show them; what does not work any more is not shown. A start
// that is cut short is taken up by the next one: the password is kept before the
// account is made, and the key is made with an idempotency token. An external
// database that is new gets the admin with the password that is kept.
func (d *Demo) Seed(ctx context.Context, p *platform.Platform, generate func() seal.Secret) (Credentials, error) {
	kept, err := d.read(p.Ring)
	if err != nil {
		return Credentials{}, err
	}
	if kept.Password == "" {
		kept.Password = generate().Reveal()
		if err := d.write(p.Ring, kept); err != nil {
			return Credentials{}, err
		}
	}
	_, _, err = p.Store.UserByEmail(ctx, demoAdmin)
	made := err == nil
	if err != nil && !errors.Is(err, account.ErrNotFound) {
		return Credentials{}, err
	}
	if made && kept.Key != "" {
		return d.verify(ctx, p, kept), nil
	}
	kept.Key, err = d.makeAdmin(ctx, p, kept.Password)
	if errors.Is(err, account.ErrEmailTaken) {
		return Credentials{AdminEmail: demoAdmin}, nil // made elsewhere, for an external database
	}
	if err != nil {
		return Credentials{}, err
	}
	return Credentials{
		AdminEmail: demoAdmin, AdminPassword: seal.NewSecret(kept.Password), APIKey: seal.NewSecret(kept.Key), First: true,
	}, d.write(p.Ring, kept)
}

// makeAdmin makes what is missing of the admin and its key, and returns the key.
func (d *Demo) makeAdmin(ctx context.Context, p *platform.Platform, password string) (key string, err error) {
	u, err := p.Accounts.Register(ctx, account.Registration{
		Email: demoAdmin, Password: password, Name: "Administrator",
	}, access.RoleAdmin)
	if errors.Is(err, account.ErrEmailTaken) {
		ours, failed := p.Accounts.Authenticate(ctx, demoAdmin, password)
		if failed != nil {
			return "", err
		}
		u = ours
	} else if err != nil {
		return "", err
	}
	minted, err := p.Keys.Create(ctx, u.ID, u.Role, apikey.Request{Name: demoKeyName}, demoKeyOnce)
	if err != nil {
		return "", err
	}
	return minted.Secret.Reveal(), nil
}

// verify keeps of the secrets what still works.
func (d *Demo) verify(ctx context.Context, p *platform.Platform, kept demoSecrets) Credentials {
	c := Credentials{AdminEmail: demoAdmin}
	if _, err := p.Accounts.Authenticate(ctx, demoAdmin, kept.Password); err == nil {
		c.AdminPassword = seal.NewSecret(kept.Password)
	}
	if _, err := p.KeyCheck.VerifyKey(ctx, kept.Key, netip.IPv6Loopback()); err == nil {
		c.APIKey = seal.NewSecret(kept.Key)
	}
	return c
}

// read returns what is kept, nothing at a first start.
func (d *Demo) read(ring *seal.Keyring) (s demoSecrets, err error) {
	sealed, err := os.ReadFile(filepath.Join(d.dir, demoFile))
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return s, err
	}
	plain, _, err := ring.Open(sealed, demoFilePlace)
	if err != nil {
		return s, fmt.Errorf("%s: %w", demoFile, err)
	}
	return s, json.Unmarshal(plain, &s)
}

func (d *Demo) write(ring *seal.Keyring, s demoSecrets) error {
	plain, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return replaceFile(filepath.Join(d.dir, demoFile), ring.Seal(plain, demoFilePlace))
}

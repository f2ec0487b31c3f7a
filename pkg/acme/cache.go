package acme

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/acme/autocert"
)

// ErrNotFound says that the store has no such item.
var ErrNotFound = errors.New("acme: no such item")

// errUnreadable says that an item is there but does not open.
var errUnreadable = errors.New("acme: the item does not open")

// Store keeps what outlives the process and is shared by all replicas: sealed
// private keys and certificates. Items belong to the directory of one authority.
// Implementations are safe for concurrent use.
type Store interface {
	// ACMEItem returns ErrNotFound when there is none.
	ACMEItem(ctx context.Context, directory, name string) ([]byte, error)

	// PutACMEItem stores an item in place of another one.
	PutACMEItem(ctx context.Context, directory, name string, sealed []byte) error

	// AddACMEItem stores an item unless there is one.
	AddACMEItem(ctx context.Context, directory, name string, sealed []byte) error

	DeleteACMEItem(ctx context.Context, directory, name string) error

	// LeaseACME gives the right to order a certificate for name to one holder at a
	// time, for ttl at most. False means that another one has it.
	LeaseACME(ctx context.Context, directory, name, holder string, ttl time.Duration) (bool, error)

	// ReleaseACME ends the lease of the holder, if it still has it.
	ReleaseACME(ctx context.Context, directory, name, holder string) error
}

// storeTimeout bounds one use of the store. autocert would wait for minutes, with
// a lock held.
const storeTimeout = 5 * time.Second

// accountItem is the name under which autocert looks for the key of the account.
const accountItem = "acme_account+key"

// cache is the autocert.Cache over a Store. What it stores is sealed.
type cache struct {
	*Options

	// away is set while the store fails. No order is begun then: its certificate
	// could not be kept, and authorities allow only a few a week.
	away atomic.Bool
}

var _ autocert.Cache = (*cache)(nil)

// place is where an item is, for sealing it there.
func (c *cache) place(name string) string { return "acme_items/" + c.DirectoryURL + "/" + name }

// Get implements autocert.Cache.
func (c *cache) Get(ctx context.Context, name string) ([]byte, error) {
	if name == accountItem {
		return c.account(ctx)
	}
	text, err := c.read(ctx, name)
	if errors.Is(err, ErrNotFound) || errors.Is(err, errUnreadable) {
		return nil, autocert.ErrCacheMiss
	}
	return text, err
}

// Put implements autocert.Cache.
func (c *cache) Put(ctx context.Context, name string, text []byte) error {
	return c.use(ctx, func(ctx context.Context) error {
		return c.Store.PutACMEItem(ctx, c.DirectoryURL, name, c.Ring.Seal(text, c.place(name)))
	})
}

// Delete implements autocert.Cache.
func (c *cache) Delete(ctx context.Context, name string) error {
	return c.use(ctx, func(ctx context.Context) error { return c.Store.DeleteACMEItem(ctx, c.DirectoryURL, name) })
}

// use calls the store within its time, and notes how that went.
func (c *cache) use(ctx context.Context, call func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	err := call(ctx)
	c.away.Store(err != nil && !errors.Is(err, ErrNotFound))
	return err
}

// read opens an item. One under a retired master key is sealed anew.
func (c *cache) read(ctx context.Context, name string) (text []byte, err error) {
	var sealed []byte
	err = c.use(ctx, func(ctx context.Context) error {
		sealed, err = c.Store.ACMEItem(ctx, c.DirectoryURL, name)
		return err
	})
	if err != nil {
		return nil, err
	}
	text, stale, err := c.Ring.Open(sealed, c.place(name))
	if err != nil {
		c.Logger.ErrorContext(ctx, "a stored item of ACME does not open, and is got anew", "item", name, "error", err)
		return nil, errUnreadable
	}
	if stale {
		if err := c.Put(ctx, name, text); err != nil {
			c.Logger.WarnContext(ctx, "an item of ACME stays under a retired master key", "item", name, "error", err)
		}
	}
	return text, nil
}

// account is the key of the account at the authority, one for all replicas. It is
// made here and not by autocert, which would make one in each of them.
func (c *cache) account(ctx context.Context) ([]byte, error) {
	text, err := c.read(ctx, accountItem)
	if err == nil || !errors.Is(err, ErrNotFound) && !errors.Is(err, errUnreadable) {
		return text, err
	}
	key, keyErr := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if keyErr != nil {
		return nil, keyErr
	}
	der, keyErr := x509.MarshalPKCS8PrivateKey(key)
	if keyErr != nil {
		return nil, keyErr
	}
	made := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	store := c.Store.AddACMEItem
	if errors.Is(err, errUnreadable) {
		store = c.Store.PutACMEItem
	}
	err = c.use(ctx, func(ctx context.Context) error {
		return store(ctx, c.DirectoryURL, accountItem, c.Ring.Seal(made, c.place(accountItem)))
	})
	if err != nil {
		return nil, err
	}
	return c.read(ctx, accountItem) // that of the replica that was first
}

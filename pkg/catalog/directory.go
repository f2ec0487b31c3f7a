package catalog

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/changes"
)

// Lister lists products; [ProductStore] is one.
type Lister interface {
	ListProducts(ctx context.Context, f ProductFilter) ([]Product, error)
}

// Directory is what a replica knows of products, in memory: which of them open a
// route. It is safe for concurrent use; [Directory.Run] keeps it up to date. While the
// database is away, what was known holds.
type Directory struct {
	store   Lister
	timeout time.Duration
	logger  *slog.Logger
	wake    chan struct{}
	loading sync.Mutex // so that no older view takes the place of a newer one
	view    atomic.Pointer[view]
}

// view is all products at one moment. It is immutable.
type view struct {
	appsOnly map[string]bool     // by the name of a route or an API
	visible  map[string][]string // names of the visible products that open it
}

// NewDirectory makes a directory that knows nothing yet. timeout bounds one look at
// the store.
func NewDirectory(store Lister, timeout time.Duration, logger *slog.Logger) *Directory {
	return &Directory{store: store, timeout: timeout, logger: logger, wake: make(chan struct{}, 1)}
}

// AppsOnly reports whether a product keeps the route to the keys of apps. known is
// false when that cannot be said, since products were never read.
func (d *Directory) AppsOnly(route string) (only, known bool) {
	v := d.view.Load()
	if v == nil {
		return false, false
	}
	if len(v.appsOnly) == 0 {
		return false, true
	}
	for name := range access.Names(route) {
		if v.appsOnly[name] {
			return true, true
		}
	}
	return false, true
}

// Opening is the names of the visible products that open the route, sorted.
func (d *Directory) Opening(route string) (products []string) {
	v := d.view.Load()
	if v == nil {
		return nil
	}
	for name := range access.Names(route) {
		products = append(products, v.visible[name]...)
	}
	slices.Sort(products)
	return slices.Compact(products)
}

// Load reads the products.
func (d *Directory) Load(ctx context.Context) error {
	d.loading.Lock()
	defer d.loading.Unlock()
	ctx, cancel := context.WithTimeout(ctx, d.timeout)
	defer cancel()
	next := &view{appsOnly: map[string]bool{}, visible: map[string][]string{}}
	all, err := d.store.ListProducts(ctx, ProductFilter{Limit: MaxProducts})
	if err != nil {
		return err
	}
	for _, p := range all {
		for _, r := range p.Routes {
			if p.AppsOnly {
				next.appsOnly[r] = true
			}
			if p.Visible {
				next.visible[r] = append(next.visible[r], p.Name)
			}
		}
	}
	d.view.Store(next)
	return nil
}

// How long until products are read again: without an event, and after a failure.
const (
	directoryInterval = 30 * time.Second
	directoryRetry    = time.Second
)

// Run reads the products at once, at each change and as a safety net from time to
// time, until ctx ends.
func (d *Directory) Run(ctx context.Context) {
	failing := false
	for {
		next := directoryInterval
		if err := d.Load(ctx); err != nil && ctx.Err() == nil {
			if !failing {
				d.logger.WarnContext(ctx, "the products cannot be read; what was known of them holds", "error", err)
			}
			failing, next = true, directoryRetry
		} else {
			failing = false
		}
		timer := time.NewTimer(next)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		case <-d.wake:
			timer.Stop()
		}
	}
}

// Apply is told of changes by the follower.
func (d *Directory) Apply(e changes.Event) {
	if e.Kind == changes.ProductChanged {
		d.Reset()
	}
}

// Reset is told by the follower that changes may have been missed.
func (d *Directory) Reset() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

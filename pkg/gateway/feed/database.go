package feed

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/keywarden/keywarden/pkg/revision"
	"github.com/keywarden/keywarden/pkg/seal"
	"github.com/keywarden/keywarden/pkg/spec"
)

// Revisions is where the document is when the database keeps it.
type Revisions interface {
	// CurrentUnless returns the current revision, or false when that has this number
	// and digest. The error is revision.ErrNone before the first.
	CurrentUnless(ctx context.Context, number int64, digest string) (revision.Revision, bool, error)
}

// Times of following revisions.
const (
	// revisionPoll is the safety net where a wake-up is lost.
	revisionPoll = 5 * time.Second

	// revisionTimeout bounds one question, with a document of some megabytes as its
	// answer.
	revisionTimeout = 5 * time.Second
)

// DatabaseOptions configure a [Database]. All fields but LastGood are required.
type DatabaseOptions struct {
	Revisions Revisions
	Reporter  *Reporter // who the documents are for
	Ring      *seal.Keyring
	Logger    *slog.Logger

	// LastGood is the file for the last document that was applied; empty, none is
	// kept.
	LastGood string
}

// Database feeds the current revision. Wake and Reload are for any goroutine, the
// other methods for one.
type Database struct {
	opts   DatabaseOptions
	kept   lastGood
	wake   chan struct{}
	reload chan struct{}
	poll   time.Duration

	number   int64  // of the revision that was tried last, good or not
	digest   string // of it
	failure  string // of the last question; empty after a success
	orphaned bool   // the database has none, and what is served is from the disk

	mu     sync.Mutex
	filled bool // there was an answer, or a document from the disk
}

// NewDatabase makes a feed that has not asked for anything yet.
func NewDatabase(o DatabaseOptions) *Database {
	return &Database{
		opts:   o,
		kept:   lastGood{path: o.LastGood, ring: o.Ring},
		wake:   make(chan struct{}, 1),
		reload: make(chan struct{}, 1),
		poll:   revisionPoll,
	}
}

// Load asks for the current revision and applies it. Where it cannot be asked
// for, or is no good, the last good document is served instead, if there is one;
// the reason is logged. Before the first revision there is nothing to serve: then
// a document on disk is of another database.
func (d *Database) Load(ctx context.Context) {
	d.update(ctx)
	if d.opts.Reporter.serves() || d.failure == "" && d.number == 0 {
		return
	}
	if err := d.Restore(); err != nil {
		d.opts.Logger.Error("there is no last good gateway document to serve meanwhile", "error", err)
	}
}

// Restore applies the last good document from the disk.
func (d *Database) Restore() error {
	number, doc, err := d.kept.read()
	if err != nil {
		return err
	}
	if err := d.opts.Reporter.apply(number, doc); err != nil {
		return fmt.Errorf("%s: %w", d.opts.LastGood, err)
	}
	d.fill()
	d.opts.Logger.Warn("the last good gateway document is served", "path", d.opts.LastGood, "revision", number)
	return nil
}

// Kept reports why there is no last good document on the disk that could be
// served; nil when there is one.
func (d *Database) Kept() error {
	_, _, err := d.kept.read()
	return err
}

// Filled reports whether what is served is what should be, as far as that was
// ever known: before, there is no telling whether the gateway has routes.
func (d *Database) Filled() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.filled
}

func (d *Database) fill() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.filled = true
}

// Wake makes Run look for a new revision now. It returns at once.
func (d *Database) Wake() { nudge(d.wake) }

// Reload makes Run apply the current revision again, whether it has changed or
// not. It returns at once.
func (d *Database) Reload() { nudge(d.reload) }

func nudge(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // one is waiting already
	}
}

// Run applies new revisions, until ctx ends.
func (d *Database) Run(ctx context.Context) {
	ticker := time.NewTicker(d.poll)
	defer ticker.Stop()
	for {
		d.update(ctx)
		select {
		case <-ctx.Done():
			return
		case <-d.reload:
			d.opts.Logger.Info("reloading the gateway document")
			d.number, d.digest, d.failure = 0, "", ""
		case <-d.wake:
		case <-ticker.C:
		}
	}
}

// update applies the current revision when it is new, and logs why it cannot be.
func (d *Database) update(ctx context.Context) {
	asking, cancel := context.WithTimeout(ctx, revisionTimeout)
	defer cancel()
	r, changed, err := d.opts.Revisions.CurrentUnless(asking, d.number, d.digest)
	switch {
	case errors.Is(err, revision.ErrNone):
		d.fill() // nothing is what there should be
		d.none()
	case err != nil && ctx.Err() == nil:
		d.missed(err)
	case err == nil:
		d.failure = ""
		if changed {
			d.take(r)
		}
	}
}

// missed notes that the current revision could not be asked for. What is served
// stays in force, and is not known to be outdated. An outage is one log line.
func (d *Database) missed(err error) {
	if d.failure == "" {
		d.opts.Logger.Error("the current revision of the gateway document cannot be read, the previous one goes on", "error", err)
	}
	d.failure = err.Error()
}

// none notes that the database has no revision. A document from the disk stays in
// force: taking away what is served needs somebody to say so.
func (d *Database) none() {
	served := d.opts.Reporter.serves()
	if served && !d.orphaned {
		d.opts.Logger.Warn("the database has no revision of the gateway document; the one from the disk goes on until the next start")
	}
	d.failure, d.orphaned = "", served
}

// take applies r, and keeps it on the disk when it is good.
func (d *Database) take(r revision.Revision) {
	d.number, d.digest = r.Number, r.Digest
	logger := d.opts.Logger.With("revision", r.Number)
	doc, err := r.Parse()
	if err == nil {
		err = d.opts.Reporter.apply(r.Number, doc)
	}
	var invalid *spec.Violations
	switch {
	case errors.As(err, &invalid):
		d.opts.Reporter.Refused(err)
		logger.Error("gateway document refused, the previous one goes on", "problems", invalid.Lines())
		return
	case err != nil:
		d.opts.Reporter.Refused(fmt.Errorf("revision %d: %w", r.Number, err))
		logger.Error("gateway document refused, the previous one goes on", "error", err)
		return
	}
	d.fill()
	if err := d.kept.write(r.Number, r.Document); err != nil {
		logger.Warn("the gateway document could not be kept on disk; without the database, a start would find an older one or none", "error", err)
	}
}

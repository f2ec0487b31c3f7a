// Package feed brings gateway documents from where they are kept to the gateway.
// It owns noticing a change, reading it, and what happens when it is no good: the
// reason is logged, and the gateway goes on with what it has.
//
// It does not compile or serve documents, and it knows one source at a time:
// sources are never merged.
package feed

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/keywarden/keywarden/pkg/spec"
)

// Target is who the documents are for.
type Target interface {
	// Apply serves doc from now on, or returns an error and changes nothing.
	Apply(doc spec.Document) error

	// Refused is told why there is a newer document that could not be applied.
	Refused(err error)
}

// Times of watching a file.
const (
	// quietTime is how long a file has to be left alone before it is read, so that
	// one that is still being written is not.
	quietTime = 200 * time.Millisecond

	// maxQuiet bounds the wait in a folder where something is written all the time.
	maxQuiet = 2 * time.Second

	// pollInterval is the safety net where changes are not notified, as on network
	// file systems.
	pollInterval = 30 * time.Second
)

// File feeds the document of one file. Load and Run are for one goroutine, Reload
// is for any.
type File struct {
	path   string
	watch  bool
	target Target
	logger *slog.Logger
	reload chan struct{}
	poll   time.Duration

	loading sync.Mutex // guards what follows
	read    [sha256.Size]byte
	failure string // the last failure that was logged, until a success
}

// NewFile makes a feed that has not read its file yet. With watch, [File.Run]
// notices changes by itself; without, it waits for [File.Reload].
func NewFile(path string, watch bool, target Target, logger *slog.Logger) *File {
	return &File{
		path:   path,
		watch:  watch,
		target: target,
		logger: logger.With("path", path),
		reload: make(chan struct{}, 1),
		poll:   pollInterval,
	}
}

// Load reads and applies the document now. At start, its error is the caller's to
// act on; later failures are logged by Run.
func (f *File) Load() error {
	data, err := f.bytes()
	if err != nil {
		return err
	}
	return f.apply(data)
}

// Reload makes Run read the file again, whether it has changed or not. It returns
// at once.
func (f *File) Reload() {
	select {
	case f.reload <- struct{}{}:
	default: // one is waiting already
	}
}

// Run applies what changes, until ctx ends.
func (f *File) Run(ctx context.Context) {
	var w *watcher
	var ticks <-chan time.Time
	if f.watch {
		ticker := time.NewTicker(f.poll)
		defer ticker.Stop()
		ticks = ticker.C
		w = f.startWatcher()
		defer w.close()
		f.update() // what changed between Load and now
	}
	d := newDebounce()
	defer d.timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-f.reload:
			f.logger.Info("reloading the gateway document")
			f.forget()
			f.update()
		case <-w.events():
			d.event()
		case err := <-w.errors():
			f.logger.Warn("watching the gateway document", "error", err)
			d.event()
		case <-d.timer.C:
			d.done()
			w.follow(f.path)
			f.update()
		case <-ticks:
			w.follow(f.path)
			f.update()
		}
	}
}

// bytes reads the file, at most one byte more than a document may have.
func (f *File) bytes() ([]byte, error) {
	file, err := os.Open(f.path)
	if err != nil {
		return nil, fmt.Errorf("reading the gateway document: %w", err)
	}
	defer func() { _ = file.Close() }() // it was only read
	data, err := io.ReadAll(io.LimitReader(file, spec.MaxBytes+1))
	if err != nil {
		return nil, fmt.Errorf("reading the gateway document: %w", err)
	}
	return data, nil
}

// apply parses and applies data, and remembers having done so.
func (f *File) apply(data []byte) error {
	f.loading.Lock()
	defer f.loading.Unlock()
	f.read = sha256.Sum256(data)
	doc, err := spec.Parse(f.path, data)
	if err != nil {
		return err
	}
	if err := f.target.Apply(doc); err != nil {
		return fmt.Errorf("%s: %w", f.path, err)
	}
	return nil
}

// update applies the file when its content is new, and logs why it cannot be.
func (f *File) update() {
	data, err := f.bytes()
	if err == nil {
		if f.isKnown(data) {
			return
		}
		err = f.apply(data)
	}
	f.settle(err)
}

// isKnown reports whether data is what was tried last. After a failure to read
// it is not: that failure is still what the target knows.
func (f *File) isKnown(data []byte) bool {
	f.loading.Lock()
	defer f.loading.Unlock()
	return f.read == sha256.Sum256(data)
}

func (f *File) forget() {
	f.loading.Lock()
	defer f.loading.Unlock()
	f.read, f.failure = [sha256.Size]byte{}, ""
}

// settle tells target and log about the outcome of an update. The same failure to
// read is logged once, not at each poll.
func (f *File) settle(err error) {
	f.loading.Lock()
	defer f.loading.Unlock()
	if err == nil {
		f.failure = ""
		return
	}
	f.target.Refused(err)
	if f.failure == err.Error() {
		return
	}
	f.failure = err.Error()
	var invalid *spec.Violations
	var path *os.PathError
	switch {
	case errors.As(err, &invalid):
		f.logger.Error("gateway document refused, the previous one goes on", "problems", invalid.Lines())
	case errors.As(err, &path):
		f.read = [sha256.Size]byte{} // when the file is back, it counts as new
		f.logger.Error("gateway document cannot be read, the previous one goes on", "error", path.Err)
	default:
		f.logger.Error("gateway document refused, the previous one goes on", "error", err)
	}
}

// startWatcher watches, or explains why it cannot; polling remains.
func (f *File) startWatcher() *watcher {
	fs, err := fsnotify.NewWatcher()
	if err != nil {
		f.logger.Warn("changes of the gateway document are found by polling only", "error", err, "interval", f.poll)
		return nil
	}
	w := &watcher{fs: fs, logger: f.logger, folders: map[string]bool{}}
	w.follow(f.path)
	return w
}

// watcher watches the folders that decide what a path leads to: the one it stands
// in, where editors and Kubernetes swap names, and the one of the file itself. Its
// methods do nothing on nil.
type watcher struct {
	fs      *fsnotify.Watcher
	logger  *slog.Logger
	folders map[string]bool
}

func (w *watcher) follow(path string) {
	if w == nil {
		return
	}
	wanted := map[string]bool{filepath.Dir(path): true}
	if target, err := filepath.EvalSymlinks(path); err == nil {
		wanted[filepath.Dir(target)] = true
	}
	for folder := range w.folders {
		if !wanted[folder] {
			_ = w.fs.Remove(folder) // it may be gone
			delete(w.folders, folder)
		}
	}
	for folder := range wanted {
		// A folder that was replaced has to be added again; adding twice is harmless.
		if err := w.fs.Add(folder); err != nil && !w.folders[folder] {
			w.logger.Warn("changes in the folder of the gateway document are found by polling only", "folder", folder, "error", err)
		}
		w.folders[folder] = true
	}
}

func (w *watcher) events() <-chan fsnotify.Event {
	if w == nil {
		return nil
	}
	return w.fs.Events
}

func (w *watcher) errors() <-chan error {
	if w == nil {
		return nil
	}
	return w.fs.Errors
}

func (w *watcher) close() {
	if w != nil {
		_ = w.fs.Close()
	}
}

// debounce fires once events have stopped for a while.
type debounce struct {
	timer *time.Timer
	since time.Time // the first event that has not led to anything yet
}

func newDebounce() *debounce {
	timer := time.NewTimer(time.Hour)
	timer.Stop()
	return &debounce{timer: timer}
}

func (d *debounce) event() {
	if d.since.IsZero() {
		d.since = time.Now()
	}
	d.timer.Reset(min(quietTime, max(0, maxQuiet-time.Since(d.since))))
}

func (d *debounce) done() { d.since = time.Time{} }

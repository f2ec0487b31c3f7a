package main

import (
	"context"
	"errors"
	"os"
	"sync"
	"sync/atomic"

	"github.com/keywarden/keywarden/pkg/loadtest"
	"github.com/keywarden/keywarden/pkg/seal"
)

// site is everything that takes part.
type site struct {
	dir       string
	program   string   // keywarden
	set       []string // name=value for each start of it
	master    seal.Secret
	databases *databases
	backend   *process
	collector *process
	files     atomic.Int64 // numbers what is written

	mu      sync.Mutex
	running []*process // what the present part has started
}

// newSite starts what all parts need.
func newSite(ctx context.Context, s settings) (_ *site, err error) {
	dir, err := os.MkdirTemp("", "keywarden-bench-")
	if err != nil {
		return nil, err
	}
	t := &site{dir: dir, program: s.program, set: s.set, master: seal.NewMasterKey()}
	defer func() {
		if err != nil {
			err = errors.Join(err, t.close())
		}
	}()
	if err := os.Chmod(dir, 0o755); err != nil { // PostgreSQL may run as another user
		return nil, err
	}
	if t.program == "" {
		if t.program, err = loadtest.Build(ctx, dir, "./cmd/keywarden"); err != nil {
			return nil, err
		}
	}
	if t.databases, err = openDatabases(ctx, dir); err != nil {
		return nil, err
	}
	if t.backend, err = startRole(roleBackend); err != nil {
		return nil, err
	}
	t.collector, err = startRole(roleCollector)
	return t, err
}

// service is the URL of the backend.
func (t *site) service() string { return "http://" + t.backend.addr }

// add notes what is to end with the present part.
func (t *site) add(p *process) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.running = append(t.running, p)
}

// clear ends what the present part has started, all at once.
func (t *site) clear() {
	t.mu.Lock()
	list := t.running
	t.running = nil
	t.mu.Unlock()
	var all sync.WaitGroup
	for _, p := range list {
		all.Go(p.stop)
	}
	all.Wait()
}

// close ends all processes and deletes what they wrote.
func (t *site) close() error {
	t.clear()
	for _, p := range []*process{t.collector, t.backend} {
		if p != nil {
			p.stop()
		}
	}
	var all []error
	if t.databases != nil {
		all = append(all, t.databases.close())
	}
	return errors.Join(append(all, os.RemoveAll(t.dir))...)
}

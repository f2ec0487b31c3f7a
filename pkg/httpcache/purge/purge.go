// Package purge takes stored answers away on every replica: a purge is recorded
// with its audit entry, told through the log of changes, and applied to the store
// of each replica, which is all that this package owns.
package purge

import (
	"context"
	"log/slog"
	"time"

	"github.com/keywarden/keywarden/pkg/audit"
	"github.com/keywarden/keywarden/pkg/changes"
	"github.com/keywarden/keywarden/pkg/httpcache"
)

// targetKind is the kind of what the audit entry of a purge is about.
const targetKind = "cache"

// Recorder writes audit entry and event in one transaction.
type Recorder interface {
	// RecordChange returns the epoch of the event.
	RecordChange(ctx context.Context, c changes.Change) (epoch int64, err error)
}

// Service purges. All fields are required. It is safe for concurrent use.
type Service struct {
	Recorder Recorder
	Notify   func(changes.Event) // told of a purge after its commit
	Store    httpcache.Store     // of this replica
	Logger   *slog.Logger
}

// applyTimeout bounds a purge of the store of this replica.
const applyTimeout = time.Second

// Purge has every replica forget what p matches. It returns the epoch that replicas
// acknowledge, or [httpcache.ErrPurge].
func (s *Service) Purge(ctx context.Context, p httpcache.Purge) (epoch int64, err error) {
	if err := p.Validate(); err != nil {
		return 0, err
	}
	event := changes.Event{Kind: changes.CachePurged, Subject: p.String()}
	epoch, err = s.Recorder.RecordChange(ctx, changes.Change{Audit: audit.New(ctx, audit.CachePurged, targetKind, event.Subject), Event: event})
	if err != nil {
		return 0, err
	}
	s.Notify(event)
	return epoch, nil
}

// Apply purges the store of this replica when e is the event of a purge. It may see
// an event twice. One that cannot be read was written by a newer version: everything
// goes.
func (s *Service) Apply(e changes.Event) {
	if e.Kind != changes.CachePurged {
		return
	}
	p, err := httpcache.ParsePurge(e.Subject)
	if err != nil {
		s.Reset()
		return
	}
	s.purge(p)
}

// Reset purges everything from the store of this replica: events may have been
// missed.
func (s *Service) Reset() { s.purge(httpcache.Purge{Kind: httpcache.PurgePath, Value: "/"}) }

func (s *Service) purge(p httpcache.Purge) {
	ctx, cancel := context.WithTimeout(context.Background(), applyTimeout)
	defer cancel()
	if err := s.Store.Purge(ctx, p); err != nil {
		s.Logger.Warn("a purge of the cache waits until its store answers; nothing is given from it until then", "err", err)
	}
}

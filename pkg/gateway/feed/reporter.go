package feed

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/keywarden/keywarden/pkg/revision"
	"github.com/keywarden/keywarden/pkg/spec"
)

// Reports is who is told what this replica serves.
type Reports interface {
	Report(ctx context.Context, s revision.Serving) error
}

// Times of reporting.
const (
	// reportInterval is how often the same is said again: the record of a replica
	// can be lost, and is not there before its first sign of life.
	reportInterval = 5 * time.Second

	reportTimeout = 2 * time.Second
)

// Reporter stands between a feed and its target. It keeps what the target serves,
// and tells the other replicas through the store. It is a [Target]; all methods
// are safe for concurrent use.
type Reporter struct {
	target  Target
	reports Reports
	logger  *slog.Logger
	changed chan struct{}

	applying sync.Mutex // one document at a time, so that what is kept is what is served

	mu      sync.Mutex // guards what follows
	serving revision.Serving
}

// NewReporter makes a reporter for the replica of that name, running that version
// of the program.
func NewReporter(target Target, reports Reports, replica, version string, logger *slog.Logger) *Reporter {
	return &Reporter{
		target: target, reports: reports, logger: logger, changed: make(chan struct{}, 1),
		serving: revision.Serving{Replica: replica, Version: version},
	}
}

// Apply implements [Target] for a document that is no revision.
func (r *Reporter) Apply(doc spec.Document) error { return r.apply(0, doc) }

// apply has the target serve the document of the revision of that number.
func (r *Reporter) apply(number int64, doc spec.Document) error {
	r.applying.Lock()
	defer r.applying.Unlock()
	digest, err := doc.Digest()
	if err != nil {
		return err
	}
	if err := r.target.Apply(doc); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	s := &r.serving
	if s.Digest != digest.String() || s.Number != number {
		s.AppliedAt = time.Now().UTC()
	}
	s.Number, s.Digest, s.Error, s.FailedAt = number, digest.String(), "", time.Time{}
	nudge(r.changed)
	return nil
}

// Refused implements [Target].
func (r *Reporter) Refused(err error) {
	r.target.Refused(err)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.serving.Error, r.serving.FailedAt = err.Error(), time.Now().UTC()
	nudge(r.changed)
}

// Serving is what this replica serves.
func (r *Reporter) Serving() revision.Serving {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.serving
}

// serves reports whether there is a document in force.
func (r *Reporter) serves() bool { return r.Serving().Digest != "" }

// Run reports until ctx ends. What cannot be reported is reported again.
func (r *Reporter) Run(ctx context.Context) {
	ticker := time.NewTicker(reportInterval)
	defer ticker.Stop()
	for {
		r.report(ctx)
		select {
		case <-ctx.Done():
			return
		case <-r.changed:
		case <-ticker.C:
		}
	}
}

func (r *Reporter) report(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, reportTimeout)
	defer cancel()
	if err := r.reports.Report(ctx, r.Serving()); err != nil {
		r.logger.DebugContext(ctx, "what this replica serves could not be recorded", "error", err)
	}
}

// Package revision owns the desired state of the gateway where it is kept in the
// database: a sequence of documents that only grows, of which the newest is in
// force. It decides when a new one may replace it, and what every replica says of
// the one it serves.
//
// It does not know what is in a document (package spec does), how replicas hear of
// a new one (packages changes and gateway/feed do), or where rows are.
package revision

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/audit"
	"github.com/keywarden/keywarden/pkg/changes"
	"github.com/keywarden/keywarden/pkg/problem"
	"github.com/keywarden/keywarden/pkg/spec"
)

// Errors of this package.
var (
	ErrNone = problem.Define(problem.NotFound, "config.none",
		"There is no gateway document yet; put the first one.")
	ErrUnknown = problem.Define(problem.NotFound, "config.unknown_revision",
		"No revision has this number; only the newest 1000 are kept.")
	ErrChanged = problem.Define(problem.PreconditionFailed, "config.changed",
		"The gateway document is not the one your change is based on. Read it again.")
	ErrExists = problem.Define(problem.PreconditionFailed, "config.exists",
		"There is a gateway document already.")
	ErrUnreadable = problem.Define(problem.Unprocessable, "config.unreadable",
		"The gateway document is too large, or holds text that a replica could not read back.")
)

// Kept is how many revisions are kept, the current one among them.
const Kept = 1000

// maxMessage bounds the message of a revision, in characters.
const maxMessage = 500

// Revision is one document that was, or is, in force.
type Revision struct {
	Number   int64 // 1, 2, 3, ... without gaps
	Digest   string
	At       time.Time
	AuthorID string // the user; empty for the system
	Message  string
	Base     int64  // number of the one it replaced; 0 for the first
	Document []byte // canonical JSON of [spec.Document], the text of Digest; nil in lists
}

// Parse reads the document of r.
func (r Revision) Parse() (spec.Document, error) {
	// The reader bounds the length of a line, and the canonical form is one line.
	var lines bytes.Buffer
	if err := json.Indent(&lines, r.Document, "", " "); err != nil {
		return spec.Document{}, fmt.Errorf("revision %d: %w", r.Number, err)
	}
	return spec.Parse(fmt.Sprintf("revision %d", r.Number), lines.Bytes())
}

// Put says under which conditions a document becomes the current one.
type Put struct {
	// IfMatch is the digest that the current document must have. Empty, any will do,
	// and none; "*", any but none (RFC 9110 section 13.1.1).
	IfMatch string
	Create  bool   // only when there is none yet: If-None-Match with "*"
	Message string // why, for people
}

// Serving is what one replica serves.
type Serving struct {
	Replica   string
	Version   string    // of the program
	Number    int64     // 0 when the document is from a file, or there is none
	Digest    string    // empty before the first document
	AppliedAt time.Time // zero before the first document
	Error     string    // why a newer document is not served; empty when there is none
	FailedAt  time.Time
	Seen      time.Time // when the replica was last heard of
}

// Decide looks at the current revision, the zero one when there is none, and
// returns the next one with its change, or an error, or nil to leave all as it
// is. It may be called more than once.
type Decide func(current Revision) (*Revision, changes.Change, error)

// Store keeps revisions. Implementations are safe for concurrent use.
type Store interface {
	// ChangeRevision calls decide while the current revision, which it gets without
	// its document, cannot change, and commits what it returns with its audit entry
	// and event.
	ChangeRevision(ctx context.Context, decide Decide) error

	// CurrentRevision returns ErrNone before the first one.
	CurrentRevision(ctx context.Context) (Revision, error)

	// CurrentRevisionUnless is CurrentRevision, or false when that has this number and
	// digest.
	CurrentRevisionUnless(ctx context.Context, number int64, digest string) (Revision, bool, error)

	// Revision returns ErrUnknown for numbers that are not kept.
	Revision(ctx context.Context, number int64) (Revision, error)

	// ListRevisions returns at most limit revisions with a smaller number than before,
	// or the newest when before is 0, newest first, without documents.
	ListRevisions(ctx context.Context, before int64, limit int) ([]Revision, error)

	// ReportServing records what the replica serves, if the registry knows it.
	ReportServing(ctx context.Context, s Serving) error

	// ListServing returns what the replicas that were seen within the given time serve.
	ListServing(ctx context.Context, within time.Duration) ([]Serving, error)
}

// Options configure a [Service]. All fields are required.
type Options struct {
	Store  Store
	Notify func(changes.Event) // told of a change after its commit
	Now    func() time.Time
}

// Service is the desired state of the gateway. It is safe for concurrent use.
type Service struct{ opts Options }

// NewService makes a service.
func NewService(o Options) *Service { return &Service{opts: o} }

// Current returns the revision in force, or [ErrNone].
func (s *Service) Current(ctx context.Context) (Revision, error) {
	return s.opts.Store.CurrentRevision(ctx)
}

// CurrentUnless is Current, or false when that has this number and digest: a cheap
// question for those who know the current one already.
func (s *Service) CurrentUnless(ctx context.Context, number int64, digest string) (Revision, bool, error) {
	return s.opts.Store.CurrentRevisionUnless(ctx, number, digest)
}

// Get returns one revision, or [ErrUnknown].
func (s *Service) Get(ctx context.Context, number int64) (Revision, error) {
	return s.opts.Store.Revision(ctx, number)
}

// List returns at most limit revisions with a smaller number than before, or the
// newest when before is 0, newest first and without their documents.
func (s *Service) List(ctx context.Context, before int64, limit int) ([]Revision, error) {
	return s.opts.Store.ListRevisions(ctx, before, limit)
}

// Report records what a replica serves.
func (s *Service) Report(ctx context.Context, serving Serving) error {
	return s.opts.Store.ReportServing(ctx, serving)
}

// Serving returns what the replicas that were seen within the given time serve.
func (s *Service) Serving(ctx context.Context, within time.Duration) ([]Serving, error) {
	return s.opts.Store.ListServing(ctx, within)
}

// Put makes doc, which must be valid, the current document. It returns
// [ErrChanged] or [ErrExists] when the conditions do not hold. When doc is the
// current document already, nothing changes and the current revision is returned.
func (s *Service) Put(ctx context.Context, doc spec.Document, p Put) (Revision, error) {
	document, err := json.Marshal(doc)
	if err != nil {
		return Revision{}, fmt.Errorf("encoding the gateway document: %w", err)
	}
	digest, err := doc.Digest()
	if err != nil {
		return Revision{}, err
	}
	next := Revision{Digest: digest.String(), Document: document}
	if err := readable(next); err != nil {
		return Revision{}, err
	}
	return s.put(ctx, next, p, audit.New(ctx, audit.ConfigApplied, targetKind, ""))
}

// Rollback makes the content of an older revision current again, as a new
// revision.
func (s *Service) Rollback(ctx context.Context, number int64, p Put) (Revision, error) {
	old, err := s.opts.Store.Revision(ctx, number)
	if err != nil {
		return Revision{}, err
	}
	// What was valid for an older version of the program need not be for this one.
	if _, err := old.Parse(); err != nil {
		return Revision{}, ErrUnreadable.With(err)
	}
	entry := audit.New(ctx, audit.ConfigRolledBack, targetKind, "").With("content_of", strconv.FormatInt(number, 10))
	return s.put(ctx, Revision{Digest: old.Digest, Document: old.Document}, p, entry)
}

// targetKind is what audit entries of this package are about.
const targetKind = "config"

func (s *Service) put(ctx context.Context, next Revision, p Put, entry audit.Entry) (Revision, error) {
	if err := checkMessage(p.Message); err != nil {
		return Revision{}, err
	}
	next.Message = p.Message
	if caller := access.PrincipalFrom(ctx); caller != nil {
		next.AuthorID = caller.UserID
	}
	var stands int64 // the current revision, where it has the content already
	event := changes.Event{Kind: changes.GatewayChanged}
	err := s.opts.Store.ChangeRevision(ctx, func(current Revision) (*Revision, changes.Change, error) {
		stands = 0
		if err := p.check(current); err != nil {
			return nil, changes.Change{}, err
		}
		if current.Digest == next.Digest {
			stands = current.Number
			return nil, changes.Change{}, nil
		}
		next.Number, next.Base = current.Number+1, current.Number
		next.At = s.opts.Now().UTC().Truncate(time.Microsecond)
		number := strconv.FormatInt(next.Number, 10)
		event.Subject = number
		about := entry.With("digest", next.Digest).With("number", number).With("message", p.Message)
		about.TargetID = number
		return &next, changes.Change{Audit: about, Event: event}, nil
	})
	if err != nil {
		return Revision{}, err
	}
	if stands > 0 {
		return s.opts.Store.Revision(ctx, stands)
	}
	s.opts.Notify(event)
	return next, nil
}

// check reports why the conditions do not hold for current.
func (p Put) check(current Revision) error {
	switch {
	case p.Create && current.Number > 0:
		return ErrExists
	case p.IfMatch == "":
		return nil
	case current.Number == 0, p.IfMatch != "*" && p.IfMatch != current.Digest:
		return ErrChanged
	}
	return nil
}

// readable refuses a document that a replica could not read back: its canonical
// form, with every default spelled out, can be larger than what was written.
func readable(r Revision) error {
	doc, err := r.Parse()
	if err != nil {
		return ErrUnreadable.With(err)
	}
	digest, err := doc.Digest()
	if err != nil {
		return err
	}
	if digest.String() != r.Digest {
		return ErrUnreadable.With(fmt.Errorf("read back, it has the digest %s instead of %s", digest, r.Digest))
	}
	return nil
}

// checkMessage refuses what would not be one line in a log or a terminal.
func checkMessage(message string) error {
	switch {
	case !utf8.ValidString(message):
		return problem.ErrInvalid.WithField("message", "must be UTF-8")
	case utf8.RuneCountInString(message) > maxMessage:
		return problem.ErrInvalid.WithField("message", "must have at most %d characters", maxMessage)
	}
	for _, r := range message {
		if !unicode.IsPrint(r) {
			return problem.ErrInvalid.WithField("message", "must be one line of printable characters")
		}
	}
	return nil
}

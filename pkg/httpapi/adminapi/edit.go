package adminapi

import (
	"context"
	"errors"
	"net/http"

	"github.com/keywarden/keywarden/pkg/problem"
	"github.com/keywarden/keywarden/pkg/revision"
	"github.com/keywarden/keywarden/pkg/spec"
)

// Edit is a change of the document that a resource of another package makes, under
// the conditions that all changes keep.
type Edit struct {
	DryRun  bool
	Message string // of the revision

	// First allows the change to make the first document, with If-None-Match: *.
	First bool

	// Read is called once the header fields are good, and before the change waits for
	// its turn: the place to read a body. Nil reads nothing.
	Read func() error

	// Make returns the document after the change. before is the one in force, or an
	// empty one. An error like that of spec.Parse is what the outcome tells.
	Make func(ctx context.Context, before spec.Document) (spec.Document, error)
}

// Edit makes the change, or with DryRun says what it would do. It writes no answer.
func (h *Handler) Edit(ctx context.Context, header http.Header, e Edit) (Outcome, error) {
	in, err := h.changeOn(header, e.DryRun, e.Message)
	if err == nil && in.put.Create && !e.First {
		err = problem.ErrInvalid.WithField("If-None-Match", "is for the first document; send If-Match")
	}
	if err == nil && e.Read != nil {
		err = e.Read()
	}
	if err != nil {
		return Outcome{}, err
	}
	end, err := h.begin(ctx)
	if err != nil {
		return Outcome{}, err
	}
	defer end()
	base, err := h.current(ctx)
	if err != nil && (!e.First || !errors.Is(err, revision.ErrNone)) {
		return Outcome{}, err
	}
	if err := in.check(base); err != nil {
		return Outcome{}, err
	}
	// What is made of the document is good for that one alone.
	in.put.IfMatch, in.put.Create = base.digest, base.digest == ""
	return h.replace(ctx, in, base, func() (spec.Document, error) {
		doc, err := base.parse()
		if err == nil {
			doc, err = e.Make(ctx, doc)
		}
		return doc, withoutPlaces(err)
	})
}

// Document is the desired state with its digest. It is not read where it has the
// digest known. The error is revision.ErrNone when there is none.
func (h *Handler) Document(ctx context.Context, known string) (doc spec.Document, digest string, err error) {
	current, err := h.current(ctx)
	if err != nil || current.digest == known {
		return doc, current.digest, err
	}
	end, err := h.begin(ctx)
	if err != nil {
		return doc, "", err
	}
	defer end()
	doc, err = current.parse()
	return doc, current.digest, err
}

// parse reads the document, which is an empty one before the first.
func (d document) parse() (spec.Document, error) {
	if d.digest == "" {
		return spec.Document{Version: spec.Version}, nil
	}
	return parse(typeJSON, d.text)
}

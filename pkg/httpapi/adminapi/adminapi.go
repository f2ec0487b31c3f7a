// Package adminapi serves /admin/v1: the gateway document as a whole and object by
// object, its revisions, what is served, and what would become of a request.
//
// It owns the conditions under which a change is made (RFC 9110 section 13), the
// forms of documents on the wire, and how violations are told. What a document may
// say is package spec's, when one replaces another package revision's, and what
// comes of it the gateway's, which this package does not know.
package adminapi

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/gin-gonic/gin"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/httpapi"
	"github.com/keywarden/keywarden/pkg/problem"
	"github.com/keywarden/keywarden/pkg/revision"
	"github.com/keywarden/keywarden/pkg/spec"
	"github.com/keywarden/keywarden/pkg/spec/diff"
)

// Errors of this package.
var (
	ErrInvalid = problem.Define(problem.Unprocessable, "config.invalid",
		"The gateway document would not be valid; nothing was changed.")
	ErrSourceIsFile = problem.Define(problem.Conflict, "config.source_is_file",
		"The gateway document is not kept by this API: change the file, or the objects of Kubernetes, that it comes from, or set gateway.source to database.")
	ErrPrecondition = problem.Define(problem.PreconditionRequired, "config.precondition_required",
		"Say which document the change is based on: send If-Match with the ETag of GET /admin/v1/config, or If-None-Match with * for the first one.")
	ErrUnknownObject = problem.Define(problem.NotFound, "config.unknown_object",
		"The gateway document has no object of this name.")
	ErrInUse = problem.Define(problem.Conflict, "config.in_use",
		"Other objects of the gateway document use this one; change them first.")
)

// Revisions is the desired state that the database keeps; revision.Service is one.
type Revisions interface {
	Current(ctx context.Context) (revision.Revision, error)
	Put(ctx context.Context, doc spec.Document, p revision.Put) (revision.Revision, error)
	List(ctx context.Context, before int64, limit int) ([]revision.Revision, error)
	Get(ctx context.Context, number int64) (revision.Revision, error)
	Rollback(ctx context.Context, number int64, p revision.Put) (revision.Revision, error)
}

// StateReader tells what is served.
type StateReader interface {
	State(ctx context.Context) (State, error)
}

// Explainer tells what would become of a request, without making it.
type Explainer interface {
	Explain(ctx context.Context, r ExplainRequest) (ExplainResult, error)
}

// Handler serves /admin/v1. All fields but File are required.
type Handler struct {
	Revisions Revisions

	// File returns the document in force, or false before the first. It is there
	// when documents come from a file, which this API does not write; nil when they
	// are revisions.
	File func() (spec.Document, bool)

	// Check refuses a valid document that no replica would serve, with an error like
	// that of spec.Parse; nil refuses none.
	Check func(doc *spec.Document) error

	Reload  func() // reads the document again, soon
	State   StateReader
	Explain Explainer
	Guard   *httpapi.Guard
	Cursors httpapi.Cursors

	parsing chan struct{} // holds one token for each document that is worked on
}

// maxParsing bounds how many documents are worked on at the same time: one of the
// largest takes about a hundred megabytes meanwhile. Others wait.
const maxParsing = 2

// Mount adds the routes.
func (h *Handler) Mount(r gin.IRouter) {
	h.parsing = make(chan struct{}, maxParsing)
	read, write := h.Guard.Require(access.ScopeConfigRead), h.Guard.Require(access.ScopeConfigWrite)
	r = r.Group("/admin/v1")
	r.GET("/config", read, httpapi.Handle(h.get))
	r.PUT("/config", write, httpapi.BodyLimit(spec.MaxBytes), httpapi.Handle(h.put))
	r.POST("/config/reload", write, httpapi.Handle(h.reload))
	r.GET("/config/revisions", read, httpapi.Handle(h.revisions))
	r.GET("/config/revisions/:number", read, httpapi.Handle(h.revision))
	r.POST("/config/revisions/:number/rollback", write, httpapi.Handle(h.rollback))
	r.GET("/services", read, httpapi.Handle(h.listServices))
	r.GET("/services/:name", read, httpapi.Handle(h.getService))
	r.PUT("/services/:name", write, httpapi.Handle(h.putService))
	r.PATCH("/services/:name", write, httpapi.Handle(h.patchService))
	r.DELETE("/services/:name", write, httpapi.Handle(h.deleteService))
	r.GET("/routes", read, httpapi.Handle(h.listRoutes))
	r.GET("/routes/:name", read, httpapi.Handle(h.getRoute))
	r.PUT("/routes/:name", write, httpapi.Handle(h.putRoute))
	r.PATCH("/routes/:name", write, httpapi.Handle(h.patchRoute))
	r.DELETE("/routes/:name", write, httpapi.Handle(h.deleteRoute))
	r.GET("/state", read, httpapi.Handle(h.state))
	r.POST("/explain", read, httpapi.Handle(h.explain))
}

// begin waits until a document may be worked on; end must be called then. The
// error is that of ctx.
func (h *Handler) begin(ctx context.Context) (end func(), err error) {
	select {
	case h.parsing <- struct{}{}:
		return func() { <-h.parsing }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// document is a gateway document with what it is known by.
type document struct {
	number int64 // of the revision; 0 from a file, or when there is none
	digest string
	text   []byte // canonical JSON
}

// current is the desired state; the error is revision.ErrNone when there is none.
func (h *Handler) current(ctx context.Context) (document, error) {
	if h.File == nil {
		r, err := h.Revisions.Current(ctx)
		return document{number: r.Number, digest: r.Digest, text: r.Document}, err
	}
	doc, ok := h.File()
	if !ok {
		return document{}, revision.ErrNone.WithDetail("No gateway document is served: set gateway.file, and look at the state for what is wrong with it.")
	}
	return encode(doc)
}

func encode(doc spec.Document) (document, error) {
	digest, err := doc.Digest()
	if err != nil {
		return document{}, err
	}
	text, err := json.Marshal(doc)
	return document{digest: digest.String(), text: text}, err
}

// change is how the caller wants a change to be made.
type change struct {
	put    revision.Put
	dryRun bool
}

// change reads the parameters and conditions of a call that changes something. A
// dry run needs no condition, and is possible with a file, too.
func (h *Handler) change(c *gin.Context) (in change, err error) {
	given, err := Query(c, "dry_run", "message")
	if err != nil {
		return in, err
	}
	switch given["dry_run"] {
	case "true":
		in.dryRun = true
	case "", "false":
	default:
		return in, problem.ErrInvalid.WithField("dry_run", "must be true or false")
	}
	return h.changeOn(c.Request.Header, in.dryRun, given["message"])
}

// changeOn reads the conditions of a change.
func (h *Handler) changeOn(header http.Header, dryRun bool, message string) (change, error) {
	in := change{dryRun: dryRun}
	if h.File != nil && !in.dryRun {
		return in, ErrSourceIsFile
	}
	var err error
	in.put, err = conditions(header)
	if in.dryRun && errors.Is(err, ErrPrecondition) {
		err = nil
	}
	in.put.Message = message
	return in, err
}

// Query reads the query string of a call that knows these parameters.
func Query(c *gin.Context, names ...string) (map[string]string, error) {
	given, err := url.ParseQuery(c.Request.URL.RawQuery)
	if err != nil {
		return nil, problem.ErrInvalid.WithDetail("The query string is malformed.").With(err)
	}
	values := map[string]string{}
	for name, list := range given {
		switch {
		case !slices.Contains(names, name):
			return nil, problem.ErrInvalid.WithDetail("The query string has a parameter that this call does not know; it knows %s.", strings.Join(names, " and "))
		case len(list) > 1:
			return nil, problem.ErrInvalid.WithField(name, "is given twice")
		}
		values[name] = list[0]
	}
	return values, nil
}

// conditions reads If-Match and If-None-Match (RFC 9110 sections 13.1.1 and
// 13.1.2), of which one is needed.
func conditions(h http.Header) (p revision.Put, err error) {
	match, none := h.Values("If-Match"), h.Values("If-None-Match")
	switch {
	case len(match)+len(none) == 0:
		return p, ErrPrecondition
	case len(match)+len(none) > 1:
		return p, problem.ErrInvalid.WithField("If-Match", "must be the one condition")
	case len(none) == 1 && none[0] != "*":
		return p, problem.ErrInvalid.WithField("If-None-Match", "must be *, for the first document")
	case len(none) == 1:
		p.Create = true
		return p, nil
	case match[0] == "*":
		p.IfMatch = "*"
		return p, nil
	case strings.HasPrefix(match[0], `W/"`):
		return p, revision.ErrChanged // a weak tag matches nothing here
	}
	tag, opened := strings.CutPrefix(match[0], `"`)
	tag, closed := strings.CutSuffix(tag, `"`)
	if !opened || !closed || tag == "" || strings.ContainsAny(tag, `", `) {
		return p, problem.ErrInvalid.WithField("If-Match", `must be one entity tag in quotes, as the ETag of GET /admin/v1/config is, or *`)
	}
	p.IfMatch = tag
	return p, nil
}

// check reports why the conditions do not hold for the base of a change.
func (in change) check(base document) error {
	switch match := in.put.IfMatch; {
	case in.put.Create && base.digest != "":
		return revision.ErrExists
	case match != "" && (base.digest == "" || match != "*" && match != base.digest):
		return revision.ErrChanged
	}
	return nil
}

// maxChanges bounds the changes that one answer lists.
const maxChanges = 1000

// Difference is what a change changes.
type Difference struct {
	Diff []diff.Change `json:"diff"`           // null where the document before is not kept any more
	More int           `json:"more,omitempty"` // changes that were left out
}

func difference(before, after []byte) (Difference, error) {
	changes, err := diff.Canonical(before, after)
	if err != nil {
		return Difference{}, err
	}
	shown := min(len(changes), maxChanges)
	return Difference{Diff: append([]diff.Change{}, changes[:shown]...), More: len(changes) - shown}, nil
}

// Outcome is the answer of a change: what became of it, or with dry_run=true what
// would.
type Outcome struct {
	DryRun     bool            `json:"dry_run"`
	Valid      bool            `json:"valid"`
	Violations []problem.Field `json:"violations"`                      // of a dry run; without, they are an error
	Changed    bool            `json:"changed"`                         // false when the document is the one that was in force
	Revision   int64           `json:"revision,omitempty" example:"12"` // in force now; absent in a dry run
	Base       string          `json:"base,omitempty"`                  // digest of the document before; absent for the first
	Digest     string          `json:"digest,omitempty"`                // of the document after the change; absent when it is not valid
	Difference
}

// apply makes doc the desired state, where base was read before, or only says what
// that would do.
func (h *Handler) apply(ctx context.Context, in change, base document, doc spec.Document) (Outcome, error) {
	if h.Check != nil {
		err := h.Check(&doc)
		if fields, invalid := violations(withoutPlaces(err)); invalid {
			return refuse(in, base, fields)
		}
		if err != nil {
			return Outcome{}, err
		}
	}
	if in.dryRun {
		return wouldApply(in, base, doc)
	}
	r, err := h.Revisions.Put(ctx, doc, in.put)
	if err != nil {
		return Outcome{}, err
	}
	return h.applied(ctx, base, r)
}

// applied is what became of a change.
func (h *Handler) applied(ctx context.Context, base document, r revision.Revision) (Outcome, error) {
	out := Outcome{
		Valid: true, Violations: []problem.Field{}, Changed: r.Digest != base.digest, Revision: r.Number, Base: base.digest, Digest: r.Digest,
	}
	known := true
	if out.Changed && r.Base != base.number { // with If-Match: *, somebody may have been faster
		before, err := h.Revisions.Get(ctx, r.Base)
		known = err == nil // if not, what was done is done, and has to be said
		out.Base, base.text = before.Digest, before.Document
	}
	if known {
		var err error
		if out.Difference, err = difference(base.text, r.Document); err != nil {
			return Outcome{}, err
		}
	}
	return out, nil
}

// answer tells the outcome; status is that of a change that was made.
func answer(c *gin.Context, out Outcome, status int) error {
	if out.DryRun {
		status = http.StatusOK
	} else {
		c.Header("ETag", etag(out.Digest))
	}
	c.JSON(status, out)
	return nil
}

func wouldApply(in change, base document, doc spec.Document) (Outcome, error) {
	if err := in.check(base); err != nil {
		return Outcome{}, err
	}
	next, err := encode(doc)
	if err != nil {
		return Outcome{}, err
	}
	d, err := difference(base.text, next.text)
	if err != nil {
		return Outcome{}, err
	}
	return Outcome{
		DryRun: true, Valid: true, Violations: []problem.Field{}, Changed: next.digest != base.digest, Base: base.digest, Digest: next.digest,
		Difference: d,
	}, nil
}

// refuse is the outcome of a change that would make the document invalid.
func refuse(in change, base document, fields []problem.Field) (Outcome, error) {
	if !in.dryRun {
		return Outcome{}, ErrInvalid.WithFields(fields)
	}
	if err := in.check(base); err != nil {
		return Outcome{}, err
	}
	return Outcome{DryRun: true, Base: base.digest, Violations: fields, Difference: Difference{Diff: []diff.Change{}}}, nil
}

func etag(digest string) string { return `"` + digest + `"` }

// violations are the fields of an error of spec.Parse; false for any other error.
func violations(err error) ([]problem.Field, bool) {
	var invalid *spec.Violations
	if !errors.As(err, &invalid) {
		return nil, false
	}
	fields := make([]problem.Field, 0, len(invalid.List)+1)
	for _, v := range invalid.List {
		detail := v.Detail
		if v.Related.Path != "" {
			detail += " (" + v.Related.Path + ")"
		}
		fields = append(fields, problem.Field{Field: v.Path, Detail: detail, Line: v.Line, Column: v.Column})
	}
	if invalid.More > 0 {
		fields = append(fields, problem.Field{Detail: "There are more; these are the first."})
	}
	return fields, true
}

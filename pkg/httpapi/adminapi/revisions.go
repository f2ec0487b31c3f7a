package adminapi

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/keywarden/keywarden/pkg/httpapi"
	"github.com/keywarden/keywarden/pkg/revision"
)

// Revision is a document that was, or is, in force.
type Revision struct {
	Number   int64     `json:"number" example:"12"`
	Digest   string    `json:"digest"`
	At       time.Time `json:"at"`
	AuthorID string    `json:"author_id,omitempty"` // the user; absent for the system
	Message  string    `json:"message,omitempty" example:"more room for orders"`
	Base     int64     `json:"base" example:"11"` // the one it replaced; 0 for the first
}

func show(r revision.Revision) Revision {
	return Revision{Number: r.Number, Digest: r.Digest, At: r.At, AuthorID: r.AuthorID, Message: r.Message, Base: r.Base}
}

// RevisionDetail is a revision with its document, and what it changed.
type RevisionDetail struct {
	Revision
	Document json.RawMessage `json:"document" swaggertype:"object"`
	Difference
}

// revisions lists revisions.
//
//	@Summary		List revisions of the gateway document
//	@Description	Newest first, without their documents. The newest 1000 are kept.
//	@Tags			config
//	@Produce		json
//	@Security		BearerAuth
//	@Security		ApiKeyAuth
//	@Param			limit	query		int		false	"items per page"	minimum(1)	maximum(200)	default(50)
//	@Param			cursor	query		string	false	"next_cursor of the page before"
//	@Success		200		{object}	httpapi.Page[Revision]
//	@Failure		400		{object}	problem.Document
//	@Failure		401		{object}	problem.Document
//	@Failure		403		{object}	problem.Document	"needs config:read"
//	@Failure		503		{object}	problem.Document
//	@Router			/admin/v1/config/revisions [get]
func (h *Handler) revisions(c *gin.Context) error {
	q, err := h.Cursors.ListQuery(c, "revisions")
	if err != nil {
		return err
	}
	before, _ := strconv.ParseInt(q.After, 10, 64) // empty, or of a cursor that we made
	found, err := h.Revisions.List(c.Request.Context(), before, q.Limit+1)
	if err != nil {
		return err
	}
	c.JSON(http.StatusOK, httpapi.NewPage(q, found, func(r revision.Revision) string { return strconv.FormatInt(r.Number, 10) }, show))
	return nil
}

// number reads the number of a revision from the path, in its one spelling.
func number(c *gin.Context) (int64, error) {
	text := c.Param("number")
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 1 || strconv.FormatInt(n, 10) != text {
		return 0, revision.ErrUnknown
	}
	return n, nil
}

// revision shows one revision.
//
//	@Summary	Get a revision of the gateway document
//	@Tags		config
//	@Produce	json
//	@Security	BearerAuth
//	@Security	ApiKeyAuth
//	@Param		number	path		int	true	"number of the revision"
//	@Success	200		{object}	RevisionDetail
//	@Failure	401		{object}	problem.Document
//	@Failure	403		{object}	problem.Document	"needs config:read"
//	@Failure	404		{object}	problem.Document
//	@Failure	503		{object}	problem.Document
//	@Router		/admin/v1/config/revisions/{number} [get]
func (h *Handler) revision(c *gin.Context) error {
	n, err := number(c)
	if err != nil {
		return err
	}
	ctx := c.Request.Context()
	r, err := h.Revisions.Get(ctx, n)
	if err != nil {
		return err
	}
	d, err := h.changedBy(ctx, r)
	if err != nil {
		return err
	}
	c.JSON(http.StatusOK, RevisionDetail{Revision: show(r), Document: r.Document, Difference: d})
	return nil
}

// changedBy compares r with the one it replaced.
func (h *Handler) changedBy(ctx context.Context, r revision.Revision) (Difference, error) {
	end, err := h.begin(ctx)
	if err != nil {
		return Difference{}, err
	}
	defer end()
	var base revision.Revision
	if r.Base > 0 {
		base, err = h.Revisions.Get(ctx, r.Base)
		if errors.Is(err, revision.ErrUnknown) {
			return Difference{}, nil
		}
		if err != nil {
			return Difference{}, err
		}
	}
	return difference(base.Document, r.Document)
}

// rollback makes an older document current again.
//
//	@Summary		Roll back to a revision
//	@Description	The content of the revision becomes a new revision. With dry_run=true nothing is changed: the answer says what would be.
//	@Tags			config
//	@Produce		json
//	@Security		BearerAuth
//	@Security		ApiKeyAuth
//	@Param			number		path		int		true	"number of the revision"
//	@Param			If-Match	header		string	true	"ETag of the document in force"
//	@Param			dry_run		query		string	false	"only say what would change"	Enums(true, false)
//	@Param			message		query		string	false	"why, for people; one line of at most 500 characters"
//	@Success		200			{object}	Outcome
//	@Header			200			{string}	ETag	"of the document in force now"
//	@Failure		400			{object}	problem.Document
//	@Failure		401			{object}	problem.Document
//	@Failure		403			{object}	problem.Document	"needs config:write"
//	@Failure		404			{object}	problem.Document
//	@Failure		409			{object}	problem.Document	"the document is a file"
//	@Failure		412			{object}	problem.Document	"the document in force is another one"
//	@Failure		428			{object}	problem.Document	"without If-Match"
//	@Failure		503			{object}	problem.Document
//	@Router			/admin/v1/config/revisions/{number}/rollback [post]
func (h *Handler) rollback(c *gin.Context) error {
	in, err := h.change(c)
	if err != nil {
		return err
	}
	n, err := number(c)
	if err != nil {
		return err
	}
	ctx := c.Request.Context()
	end, err := h.begin(ctx)
	if err != nil {
		return err
	}
	defer end()
	base, err := h.current(ctx)
	if err != nil {
		return err
	}
	out, err := h.rolledBack(ctx, in, base, n)
	if err != nil {
		return err
	}
	return answer(c, out, http.StatusOK)
}

func (h *Handler) rolledBack(ctx context.Context, in change, base document, n int64) (Outcome, error) {
	if !in.dryRun {
		r, err := h.Revisions.Rollback(ctx, n, in.put)
		if err != nil {
			return Outcome{}, err
		}
		return h.applied(ctx, base, r)
	}
	r, err := h.Revisions.Get(ctx, n)
	if err != nil {
		return Outcome{}, err
	}
	doc, err := r.Parse()
	if fields, invalid := violations(withoutPlaces(err)); invalid {
		return refuse(in, base, fields)
	}
	if err != nil {
		return Outcome{}, err
	}
	return wouldApply(in, base, doc)
}

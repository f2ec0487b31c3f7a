// Package auditapi serves /audit.
package auditapi

import (
	"net/http"
	"regexp"
	"strconv"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/audit"
	"github.com/keywarden/keywarden/pkg/httpapi"
	"github.com/keywarden/keywarden/pkg/problem"
)

// Handler serves /audit. All fields are required.
type Handler struct {
	Log     audit.Reader
	Guard   *httpapi.Guard
	Cursors httpapi.Cursors
}

// Mount adds the routes.
func (h *Handler) Mount(r gin.IRouter) {
	r.GET("/audit", h.Guard.Require(access.ScopeAuditRead), httpapi.Handle(h.list))
}

// Record is an audit record as the API shows it.
type Record struct {
	Seq        int64             `json:"seq"`
	At         time.Time         `json:"at"`
	Action     string            `json:"action" example:"apikey.revoked"`
	ActorKind  string            `json:"actor_kind" enums:"user,key,anonymous,system"`
	ActorID    string            `json:"actor_id,omitempty"`
	ActorKeyID string            `json:"actor_key_id,omitempty"`
	TargetKind string            `json:"target_kind" example:"apikey"`
	TargetID   string            `json:"target_id,omitempty"`
	Result     string            `json:"result" enums:"success,failure"`
	Client     string            `json:"client,omitempty" example:"203.0.113.7"`
	RequestID  string            `json:"request_id,omitempty"`
	Detail     map[string]string `json:"detail,omitempty"`
}

func show(r audit.Record) Record {
	return Record{
		Seq: r.Seq, At: r.At, Action: string(r.Action), ActorKind: r.ActorKind, ActorID: r.ActorID,
		ActorKeyID: r.ActorKeyID, TargetKind: r.TargetKind, TargetID: r.TargetID, Result: string(r.Result),
		Client: r.Client, RequestID: r.RequestID, Detail: r.Detail,
	}
}

// maxFilter bounds a filter, in bytes. As part of the expression it would take longer to
// compile than all other expressions of the start.
const maxFilter = 64

// filterPattern is what actions and identifiers look like.
var filterPattern = regexp.MustCompile(`^[A-Za-z0-9._:-]+$`)

// list shows the audit trail, newest first.
//
//	@Summary		Audit trail
//	@Description	Who did what to whom, when, from where, with which result; newest first. Verify the hash chain with: keywarden audit verify
//	@Tags			audit
//	@Produce		json
//	@Security		BearerAuth
//	@Security		ApiKeyAuth
//	@Param			action		query		string	false	"only this action"
//	@Param			actor_id	query		string	false	"only what this user did"
//	@Param			target_id	query		string	false	"only what was done to this"
//	@Param			limit		query		int		false	"items per page"	minimum(1)	maximum(200)	default(50)
//	@Param			cursor		query		string	false	"next_cursor of the page before"
//	@Success		200			{object}	httpapi.Page[Record]
//	@Failure		400			{object}	problem.Document
//	@Failure		401			{object}	problem.Document
//	@Failure		403			{object}	problem.Document	"needs audit:read"
//	@Failure		503			{object}	problem.Document
//	@Router			/audit [get]
func (h *Handler) list(c *gin.Context) error {
	filters := []string{"action", "actor_id", "target_id"}
	q, err := h.Cursors.ListQuery(c, "audit", filters...)
	if err != nil {
		return err
	}
	for _, name := range filters {
		if v := q.Get(name); v != "" && (len(v) > maxFilter || !filterPattern.MatchString(v)) {
			return problem.ErrInvalid.WithField(name, "is not an action or identifier")
		}
	}
	var before int64
	if q.After != "" {
		if before, err = strconv.ParseInt(q.After, 10, 64); err != nil {
			return err // a cursor of ours holds a number
		}
	}
	found, err := h.Log.ListAudit(c.Request.Context(), audit.Filter{
		Action: audit.Action(q.Get("action")), ActorID: q.Get("actor_id"), TargetID: q.Get("target_id"),
		Before: before, Limit: q.Limit + 1,
	})
	if err != nil {
		return err
	}
	c.JSON(http.StatusOK, httpapi.NewPage(q, found, func(r audit.Record) string { return strconv.FormatInt(r.Seq, 10) }, show))
	return nil
}

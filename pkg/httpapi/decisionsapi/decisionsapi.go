// Package decisionsapi serves /decisions: why the gateway refused a request.
package decisionsapi

import (
	"net/http"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/decision"
	"github.com/keywarden/keywarden/pkg/httpapi"
)

// Handler serves /decisions. All fields are required.
type Handler struct {
	Decisions *decision.Sealer
	Guard     *httpapi.Guard

	// PolicyOrder returns the names of a route's policies in the order in which they
	// are asked; ok is false when the gateway document, of whose digest the first
	// digits are given, is not served any more.
	PolicyOrder func(route, document string) (names []string, ok bool)
}

// Mount adds the routes.
func (h *Handler) Mount(r gin.IRouter) {
	r.GET("/decisions/:id", h.Guard.Authenticated(), httpapi.Handle(h.get))
}

// Decision is a refusal as the API shows it.
type Decision struct {
	At        time.Time  `json:"at"`
	RequestID string     `json:"request_id,omitempty"`
	Route     string     `json:"route,omitempty" example:"orders-api"`
	Policy    string     `json:"policy,omitempty" example:"auth"`
	Code      string     `json:"code" example:"access.scope_missing"`
	Detail    string     `json:"detail" example:"This call needs the scope \"orders:write\", which the caller does not hold."`
	RetryAt   *time.Time `json:"retry_at,omitempty"`
	UserID    string     `json:"user_id,omitempty"`
	KeyID     string     `json:"key_id,omitempty"`
	Client    string     `json:"client,omitempty" example:"203.0.113.7"`

	// Document is the begin of the digest of the gateway document that was served;
	// Current says whether it still is.
	Document string `json:"document,omitempty" example:"9f86d081884c"`
	Current  bool   `json:"current"`

	// Policies are those of the route, in the order in which they are asked; absent
	// when the document is not the current one.
	Policies []string `json:"policies,omitempty" example:"allow_ips,auth"`
}

// get explains a refusal.
//
//	@Summary		Why a request was refused
//	@Description	The decision_id of a problem answer of the gateway names the refusal. Its caller can see it, and whoever holds audit:read; nobody else. A decision can be seen for 24 hours.
//	@Tags			decisions
//	@Produce		json
//	@Security		BearerAuth
//	@Security		ApiKeyAuth
//	@Param			id	path		string	true	"decision_id of the answer"
//	@Success		200	{object}	Decision
//	@Failure		401	{object}	problem.Document
//	@Failure		403	{object}	problem.Document	"called with the key of an app"
//	@Failure		404	{object}	problem.Document	"unknown, older than 24 hours, or of somebody else"
//	@Router			/decisions/{id} [get]
func (h *Handler) get(c *gin.Context) error {
	d, err := h.Decisions.Open(c.Param("id"))
	if err != nil {
		return err
	}
	caller := httpapi.Principal(c)
	if (d.UserID == "" || d.UserID != caller.UserID) && !h.Guard.Holds(caller, access.ScopeAuditRead) {
		return decision.ErrUnknown // of somebody else: that it exists is none of the caller's business
	}
	at := time.Unix(d.At, 0).UTC()
	answer := Decision{
		At: at, RequestID: d.RequestID, Route: d.Route, Policy: d.Policy, Code: d.Code, Detail: d.Detail,
		UserID: d.UserID, KeyID: d.KeyID, Client: d.Client, Document: d.Document,
	}
	if d.RetryAfter > 0 {
		retry := at.Add(time.Duration(d.RetryAfter) * time.Second)
		answer.RetryAt = &retry
	}
	if d.Route != "" {
		answer.Policies, answer.Current = h.PolicyOrder(d.Route, d.Document)
	}
	c.JSON(http.StatusOK, answer)
	return nil
}

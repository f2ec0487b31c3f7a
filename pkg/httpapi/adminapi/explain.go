package adminapi

import (
	"net/http"

	"github.com/gin-gonic/gin"

	"github.com/keywarden/keywarden/pkg/httpapi"
)

// ExplainRequest describes a request that is not made.
type ExplainRequest struct {
	Method    string              `json:"method" example:"GET" binding:"required"`
	URL       string              `json:"url" example:"https://api.example.com/users/42" binding:"required"` // or a path, for routes of every host
	Headers   map[string][]string `json:"headers"`
	BodyBytes *int64              `json:"body_bytes" example:"0"`       // size of the body; absent, none
	Client    string              `json:"client" example:"203.0.113.7"` // the caller's address; absent, yours
	Principal *ExplainPrincipal   `json:"principal"`                    // who calls; absent, nobody
}

// ExplainPrincipal is a caller whose credential was found good.
type ExplainPrincipal struct {
	Kind   string   `json:"kind" enums:"user,key" binding:"required"`
	UserID string   `json:"user_id"`
	Role   string   `json:"role" enums:"user,viewer,operator,admin" default:"user"`
	Scopes []string `json:"scopes"` // of a key; a user holds what the role does
}

// ExplainResult is what would become of the request.
type ExplainResult struct {
	Allowed  bool             `json:"allowed"`                                                   // it would reach the end of its route
	Route    string           `json:"route,omitempty"`                                           // absent when none matches
	Service  string           `json:"service,omitempty"`                                         // absent when the route answers itself
	Why      string           `json:"why,omitempty"`                                             // how the service was chosen, when there is a choice
	Ordinary string           `json:"ordinary,omitempty" example:"it asks for another protocol"` // why the service would be asked by the ordinary transport and not by the short way
	Refusal  *ExplainRefusal  `json:"refusal,omitempty"`
	Policies []ExplainVerdict `json:"policies"` // in the order in which they are asked
}

// ExplainRefusal is what the caller would be told.
type ExplainRefusal struct {
	Status int    `json:"status" example:"403"`
	Code   string `json:"code" example:"access.scope_missing"`
	Detail string `json:"detail"`
}

// ExplainVerdict is what one policy of the route says. All are asked, also those
// after one that refuses.
type ExplainVerdict struct {
	Policy  string          `json:"policy" example:"auth"`
	Mode    string          `json:"mode" enums:"enforce,shadow"`
	When    string          `json:"when,omitempty"` // the condition, if there is one
	Verdict string          `json:"verdict" example:"refuses"`
	Refusal *ExplainRefusal `json:"refusal,omitempty"`
}

// explain tells what would become of a request.
//
//	@Summary		Explain what would become of a request
//	@Description	Which route it would match, and what each policy says of it and why. No backend is called, nothing is counted, and no credential is needed: who would call is part of the description.
//	@Tags			config
//	@Accept			json
//	@Produce		json
//	@Security		BearerAuth
//	@Security		ApiKeyAuth
//	@Param			body	body		ExplainRequest	true	"the request"
//	@Success		200		{object}	ExplainResult
//	@Failure		400		{object}	problem.Document
//	@Failure		401		{object}	problem.Document
//	@Failure		403		{object}	problem.Document	"needs config:read"
//	@Failure		413		{object}	problem.Document
//	@Failure		415		{object}	problem.Document
//	@Failure		503		{object}	problem.Document
//	@Router			/admin/v1/explain [post]
func (h *Handler) explain(c *gin.Context) error {
	var in ExplainRequest
	if err := httpapi.Bind(c, &in); err != nil {
		return err
	}
	answer, err := h.Explain.Explain(c.Request.Context(), in)
	if err != nil {
		return err
	}
	c.JSON(http.StatusOK, answer)
	return nil
}

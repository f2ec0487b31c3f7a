package keysapi

import (
	"context"
	"net/http"
	"net/netip"

	"github.com/gin-gonic/gin"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/apikey"
	"github.com/keywarden/keywarden/pkg/httpapi"
	"github.com/keywarden/keywarden/pkg/keyguard"
	"github.com/keywarden/keywarden/pkg/problem"
	"github.com/keywarden/keywarden/pkg/reqctx"
	"github.com/keywarden/keywarden/pkg/seal"
)

type reports interface {
	Report(ctx context.Context, key seal.Secret, note string, client netip.Addr) error
	Release(ctx context.Context, id string) (apikey.Key, error)
}

// Safety serves what protects keys that were handed out: reports of leaked ones,
// their release, and the rules for scanners. All fields are required.
type Safety struct {
	Reports reports
	Rules   keyguard.Rules
	Guard   *httpapi.Guard
}

// Mount adds the routes.
func (h *Safety) Mount(r gin.IRouter) {
	r.POST("/keys/report", httpapi.Handle(h.report))
	r.POST("/api-keys/:id/release", h.Guard.Require(access.ScopeKeysAdmin), httpapi.Handle(h.release))
	r.GET("/.well-known/keywarden-key-format.json", rules("application/json", h.Rules.Format))
	r.GET("/.well-known/keywarden-github.json", rules("application/json", h.Rules.GitHub))
	r.GET("/.well-known/keywarden-gitleaks.toml", rules("application/toml", h.Rules.Gitleaks))
	r.GET("/.well-known/keywarden-trufflehog.yaml", rules("application/yaml", h.Rules.TruffleHog))
}

// rules gives what scanners find keys of this installation by.
//
//	@Summary		Rules for secret scanners
//	@Description	The format of the API keys of this installation: in words for programs, and as rules for the scanners of GitHub, gitleaks and TruffleHog.
//	@Tags			api-keys
//	@Produce		json,plain
//	@Success		200	{string}	string
//	@Router			/.well-known/keywarden-key-format.json [get]
//	@Router			/.well-known/keywarden-github.json [get]
//	@Router			/.well-known/keywarden-gitleaks.toml [get]
//	@Router			/.well-known/keywarden-trufflehog.yaml [get]
func rules(media string, body []byte) gin.HandlerFunc {
	return func(c *gin.Context) { c.Data(http.StatusOK, media+"; charset=utf-8", body) }
}

// ReportRequest is the body of POST /keys/report.
type ReportRequest struct {
	Key  string `json:"key" example:"kw_live_…" binding:"required"` // the whole key
	Note string `json:"note" example:"found in a public gist"`      // for the owner, at most 200 characters
}

// Reported is the answer to every report.
type Reported struct {
	Detail string `json:"detail"`
}

// report takes a leaked key out of use.
//
//	@Summary		Report a leaked API key
//	@Description	Whoever holds a key may put it in quarantine: it is refused at once, until its owner rotates it or an admin releases it. Needs no credential but the key itself. The answer is the same for every key, known or not.
//	@Tags			api-keys
//	@Accept			json
//	@Produce		json
//	@Param			body	body		ReportRequest	true	"the key"
//	@Success		202		{object}	Reported
//	@Failure		400		{object}	problem.Document
//	@Failure		413		{object}	problem.Document
//	@Failure		415		{object}	problem.Document
//	@Failure		429		{object}	problem.Document	"too many reports from this address"
//	@Failure		503		{object}	problem.Document
//	@Router			/keys/report [post]
func (h *Safety) report(c *gin.Context) error {
	var in ReportRequest
	if err := httpapi.Bind(c, &in); err != nil {
		return err
	}
	if in.Key == "" {
		return problem.ErrInvalid.WithField("key", "is required")
	}
	info := reqctx.From(c.Request.Context())
	info.Path = c.Request.URL.Path
	if err := h.Reports.Report(c.Request.Context(), seal.NewSecret(in.Key), in.Note, info.Client); err != nil {
		return err
	}
	c.JSON(http.StatusAccepted, Reported{Detail: "Thank you. If this is a working key, it is refused from now on."})
	return nil
}

// release lifts a quarantine.
//
//	@Summary		Lift the quarantine of an API key
//	@Description	The key works again as it was. That is for a report that was a mistake; a key that did leak is to be rotated, which ends the quarantine too.
//	@Tags			api-keys
//	@Produce		json
//	@Security		BearerAuth
//	@Security		ApiKeyAuth
//	@Param			id	path		string	true	"key id"
//	@Success		200	{object}	Key
//	@Failure		401	{object}	problem.Document
//	@Failure		403	{object}	problem.Document	"needs keys:admin"
//	@Failure		404	{object}	problem.Document
//	@Failure		409	{object}	problem.Document	"the key is revoked"
//	@Failure		503	{object}	problem.Document
//	@Router			/api-keys/{id}/release [post]
func (h *Safety) release(c *gin.Context) error {
	k, err := h.Reports.Release(c.Request.Context(), c.Param("id"))
	if err != nil {
		return err
	}
	c.JSON(http.StatusOK, show(k))
	return nil
}

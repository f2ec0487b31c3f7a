// Package cacheapi serves /admin/v1/cache: it has stored answers forgotten.
package cacheapi

import (
	"context"
	"net/http"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/canonical"
	"github.com/keywarden/keywarden/pkg/changes"
	"github.com/keywarden/keywarden/pkg/httpapi"
	"github.com/keywarden/keywarden/pkg/httpcache"
	"github.com/keywarden/keywarden/pkg/problem"
)

// Purger has every replica forget answers; purge.Service is one.
type Purger interface {
	Purge(ctx context.Context, p httpcache.Purge) (epoch int64, err error)
}

// Receipts tells which replicas have applied a change; changes.Follower is one.
type Receipts interface {
	Await(ctx context.Context, epoch int64, timeout time.Duration) (changes.Receipt, error)
}

// Handler serves /admin/v1/cache. All fields are required.
type Handler struct {
	Purger   Purger
	Receipts Receipts
	Guard    *httpapi.Guard
}

// Mount adds the routes.
func (h *Handler) Mount(r gin.IRouter) {
	r.POST("/admin/v1/cache/purge", h.Guard.Require(access.ScopeConfigWrite), httpapi.Handle(h.purge))
}

// PurgeRequest names what is to be forgotten: one of route, path and key.
type PurgeRequest struct {
	Route string `json:"route,omitempty" example:"orders-api"`
	Path  string `json:"path,omitempty" example:"/orders"`         // this path and what is below it
	Host  string `json:"host,omitempty" example:"api.example.com"` // with path: of this host only
	Key   string `json:"key,omitempty" example:"order-42"`         // surrogate key, as the service has sent it
}

// receiptTimeout is how long a purge waits for the replicas.
const receiptTimeout = 5 * time.Second

// purge has answers forgotten.
//
//	@Summary		Forget stored answers
//	@Description	Forgets what the response cache holds of a route, of a path and what is below it, or of a surrogate key, on every replica. What is being fetched meanwhile is not stored either. Needs the role operator.
//	@Tags			cache
//	@Accept			json
//	@Produce		json
//	@Security		BearerAuth
//	@Security		ApiKeyAuth
//	@Param			purge	body		PurgeRequest	true	"one of route, path and key"
//	@Param			wait	query		string			false	"wait for every replica"	Enums(true, false)
//	@Success		200		{object}	changes.Receipt	"with wait=true"
//	@Success		204
//	@Failure		400	{object}	problem.Document
//	@Failure		401	{object}	problem.Document
//	@Failure		403	{object}	problem.Document	"needs config:write"
//	@Failure		415	{object}	problem.Document
//	@Failure		503	{object}	problem.Document
//	@Router			/admin/v1/cache/purge [post]
func (h *Handler) purge(c *gin.Context) error {
	wait := c.Query("wait")
	if wait != "" && wait != "true" && wait != "false" {
		return problem.ErrInvalid.WithField("wait", "must be true or false")
	}
	var in PurgeRequest
	if err := httpapi.Bind(c, &in); err != nil {
		return err
	}
	p, err := in.purge()
	if err != nil {
		return err
	}
	ctx := c.Request.Context()
	epoch, err := h.Purger.Purge(ctx, p)
	if err != nil {
		return err
	}
	if wait != "true" {
		c.Status(http.StatusNoContent)
		return nil
	}
	receipt, err := h.Receipts.Await(ctx, epoch, receiptTimeout)
	if err != nil {
		return err
	}
	c.JSON(http.StatusOK, receipt)
	return nil
}

// purge is what the request asks for, in canonical form.
func (in PurgeRequest) purge() (p httpcache.Purge, err error) {
	named := 0
	for kind, value := range map[httpcache.PurgeKind]string{
		httpcache.PurgeRoute: in.Route, httpcache.PurgePath: in.Path, httpcache.PurgeTag: in.Key,
	} {
		if value != "" {
			named++
			p = httpcache.Purge{Kind: kind, Value: value}
		}
	}
	if named != 1 {
		return p, httpcache.ErrPurge
	}
	if p.Kind == httpcache.PurgePath {
		if p.Value, _, err = canonical.Path(in.Path); err != nil {
			return p, httpcache.ErrPurge.WithField("path", "must be a path as requests have it, without query").With(err)
		}
	}
	if in.Host != "" {
		if p.Host, _, err = canonical.Host(in.Host); err != nil {
			return p, httpcache.ErrPurge.WithField("host", "must be a host name").With(err)
		}
	}
	return p, p.Validate()
}

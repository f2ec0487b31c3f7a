// Package kvmapi serves /admin/v1/secrets: secrets are set, listed and deleted there,
// and never read.
package kvmapi

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/httpapi"
	"github.com/keywarden/keywarden/pkg/kvm"
	"github.com/keywarden/keywarden/pkg/kvm/kvmname"
	"github.com/keywarden/keywarden/pkg/seal"
)

// Secrets are those of all environments; kvm.Service is one.
type Secrets interface {
	List(ctx context.Context, f kvm.Filter) ([]kvm.Entry, error)
	Put(ctx context.Context, environment, name string, value seal.Secret) (kvm.Entry, error)
	Delete(ctx context.Context, environment, name string) error
}

// Handler serves /admin/v1/secrets. All fields are required.
type Handler struct {
	Secrets Secrets
	Guard   *httpapi.Guard
	Cursors httpapi.Cursors
}

// Mount adds the routes.
func (h *Handler) Mount(r gin.IRouter) {
	read, write := h.Guard.Require(access.ScopeConfigRead), h.Guard.Require(access.ScopeConfigWrite)
	r = r.Group("/admin/v1")
	r.GET("/secrets", read, httpapi.Handle(h.list))
	r.PUT("/secrets/:name", write, httpapi.Handle(h.put))
	r.DELETE("/secrets/:name", write, httpapi.Handle(h.remove))
}

// Secret is what is told of a secret. There is no value in it.
type Secret struct {
	Environment string    `json:"environment" example:"default"`
	Name        string    `json:"name" example:"warehouse-password"`
	Version     int64     `json:"version" example:"3"`               // 1 for a new secret, and one more with every value
	KeyID       string    `json:"key_id" example:"5f0c3a527c1e8b1d"` // of the master key that the value is sealed under
	CreatedAt   time.Time `json:"created_at"`
	UpdatedAt   time.Time `json:"updated_at"` // when the value was set
}

func show(e kvm.Entry) Secret {
	return Secret{
		Environment: e.Environment, Name: e.Name, Version: e.Version, KeyID: e.KeyID, CreatedAt: e.CreatedAt, UpdatedAt: e.UpdatedAt,
	}
}

// list shows which secrets there are.
//
//	@Summary		Secrets
//	@Description	Names, versions and times of secrets, by environment and name. Values are never shown. Needs the role viewer.
//	@Tags			secrets
//	@Produce		json
//	@Security		BearerAuth
//	@Security		ApiKeyAuth
//	@Param			environment	query		string	false	"only of this environment"
//	@Param			limit		query		int		false	"items per page"	minimum(1)	maximum(200)	default(50)
//	@Param			cursor		query		string	false	"next_cursor of the page before"
//	@Success		200			{object}	httpapi.Page[Secret]
//	@Failure		400			{object}	problem.Document
//	@Failure		401			{object}	problem.Document
//	@Failure		403			{object}	problem.Document	"needs config:read"
//	@Failure		503			{object}	problem.Document
//	@Router			/admin/v1/secrets [get]
func (h *Handler) list(c *gin.Context) error {
	q, err := h.Cursors.ListQuery(c, "secrets", "environment")
	if err != nil {
		return err
	}
	f := kvm.Filter{Environment: q.Get("environment"), Limit: q.Limit + 1}
	f.AfterEnvironment, f.AfterName, _ = strings.Cut(q.After, "/")
	found, err := h.Secrets.List(c.Request.Context(), f)
	if err != nil {
		return err
	}
	position := func(e kvm.Entry) string { return e.Environment + "/" + e.Name }
	c.JSON(http.StatusOK, httpapi.NewPage(q, found, position, show))
	return nil
}

// PutRequest is a value, and where it belongs.
type PutRequest struct {
	// Value has from 1 to 65536 bytes.
	Value seal.Secret `json:"value" swaggertype:"string" format:"password"`

	Environment string `json:"environment,omitempty" example:"default" default:"default"`
}

// put sets the value of a secret.
//
//	@Summary		Set a secret
//	@Description	Makes the secret, or gives it a new value. Every replica uses the new value within about a second. The value is stored sealed under the master key and can never be read again. Needs the role operator. Audited as secret.put, without the value.
//	@Tags			secrets
//	@Accept			json
//	@Produce		json
//	@Security		BearerAuth
//	@Security		ApiKeyAuth
//	@Param			name	path		string		true	"up to 64 letters, digits, '.', '_' and '-'"
//	@Param			body	body		PutRequest	true	"value and environment"
//	@Success		200		{object}	Secret
//	@Failure		400		{object}	problem.Document
//	@Failure		401		{object}	problem.Document
//	@Failure		403		{object}	problem.Document	"needs config:write"
//	@Failure		409		{object}	problem.Document	"there are too many"
//	@Failure		413		{object}	problem.Document
//	@Failure		415		{object}	problem.Document
//	@Failure		503		{object}	problem.Document
//	@Router			/admin/v1/secrets/{name} [put]
func (h *Handler) put(c *gin.Context) error {
	in := PutRequest{Environment: kvmname.DefaultEnvironment}
	if err := httpapi.Bind(c, &in); err != nil {
		return err
	}
	e, err := h.Secrets.Put(c.Request.Context(), in.Environment, c.Param("name"), in.Value)
	if err != nil {
		return err
	}
	c.JSON(http.StatusOK, show(e))
	return nil
}

// remove deletes a secret.
//
//	@Summary		Delete a secret
//	@Description	Routes that use the secret answer with 503 from then on, on every replica within about a second. Needs the role operator. Audited as secret.deleted.
//	@Tags			secrets
//	@Produce		json
//	@Security		BearerAuth
//	@Security		ApiKeyAuth
//	@Param			name		path	string	true	"name of the secret"
//	@Param			environment	query	string	false	"where it is"	default(default)
//	@Success		204
//	@Failure		400	{object}	problem.Document
//	@Failure		401	{object}	problem.Document
//	@Failure		403	{object}	problem.Document	"needs config:write"
//	@Failure		404	{object}	problem.Document
//	@Failure		503	{object}	problem.Document
//	@Router			/admin/v1/secrets/{name} [delete]
func (h *Handler) remove(c *gin.Context) error {
	environment, given := c.GetQuery("environment")
	if !given {
		environment = kvmname.DefaultEnvironment
	}
	if err := h.Secrets.Delete(c.Request.Context(), environment, c.Param("name")); err != nil {
		return err
	}
	c.Status(http.StatusNoContent)
	return nil
}

// Package usersapi serves /users: one's own profile, and the accounts for those
// who manage them.
package usersapi

import (
	"context"
	"net/http"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/account"
	"github.com/keywarden/keywarden/pkg/httpapi"
	"github.com/keywarden/keywarden/pkg/problem"
)

type accounts interface {
	Get(ctx context.Context, id string) (account.User, error)
	List(ctx context.Context, f account.Filter) ([]account.User, error)
	Rename(ctx context.Context, id, name string) (account.User, error)
	Update(ctx context.Context, id string, p account.Patch) (account.User, error)
	Delete(ctx context.Context, id string) error
}

// Handler serves /users. All fields are required.
type Handler struct {
	Accounts accounts
	Guard    *httpapi.Guard
	Cursors  httpapi.Cursors
	Roles    access.Roles
}

// Mount adds the routes.
func (h *Handler) Mount(r gin.IRouter) {
	r.GET("/users/me", h.Guard.Require(access.ScopeProfileRead), httpapi.Handle(h.me))
	r.PATCH("/users/me", h.Guard.Require(access.ScopeProfileWrite), httpapi.Handle(h.rename))
	r.GET("/users", h.Guard.Require(access.ScopeUsersRead), httpapi.Handle(h.list))
	r.GET("/users/:id", h.Guard.Require(access.ScopeUsersRead), httpapi.Handle(h.get))
	r.PATCH("/users/:id", h.Guard.Require(access.ScopeUsersWrite), httpapi.Handle(h.update))
	r.DELETE("/users/:id", h.Guard.Require(access.ScopeUsersWrite), httpapi.Handle(h.delete))
}

// User is an account as the API shows it.
type User struct {
	ID        string    `json:"id" example:"01890a5d-ac96-774b-bcce-b302099a8057"`
	Email     string    `json:"email" example:"ada@example.com"`
	Name      string    `json:"name" example:"Ada Lovelace"`
	Role      string    `json:"role" example:"user"`
	Disabled  bool      `json:"disabled"`
	CreatedAt time.Time `json:"created_at"`
	UpdatedAt time.Time `json:"updated_at"`
}

// Show maps an account to what the API shows of it.
func Show(u account.User) User {
	return User{
		ID: u.ID, Email: u.Email, Name: u.Name, Role: string(u.Role), Disabled: u.Disabled,
		CreatedAt: u.CreatedAt, UpdatedAt: u.UpdatedAt,
	}
}

// me shows the caller's profile.
//
//	@Summary	Own profile
//	@Tags		users
//	@Produce	json
//	@Security	BearerAuth
//	@Security	ApiKeyAuth
//	@Success	200	{object}	User
//	@Failure	401	{object}	problem.Document
//	@Failure	403	{object}	problem.Document	"an API key without profile:read"
//	@Failure	503	{object}	problem.Document
//	@Router		/users/me [get]
func (h *Handler) me(c *gin.Context) error {
	u, err := h.Accounts.Get(c.Request.Context(), httpapi.Principal(c).UserID)
	if err != nil {
		return err
	}
	c.JSON(http.StatusOK, Show(u))
	return nil
}

// ProfileRequest is the body of PATCH /users/me.
type ProfileRequest struct {
	Name *string `json:"name" example:"Ada King"`
}

// rename changes the caller's profile.
//
//	@Summary	Change the own profile
//	@Tags		users
//	@Accept		json
//	@Produce	json
//	@Security	BearerAuth
//	@Security	ApiKeyAuth
//	@Param		body	body		ProfileRequest	true	"what to change"
//	@Success	200		{object}	User
//	@Failure	400		{object}	problem.Document
//	@Failure	401		{object}	problem.Document
//	@Failure	403		{object}	problem.Document	"an API key without profile:write"
//	@Failure	413		{object}	problem.Document
//	@Failure	415		{object}	problem.Document
//	@Failure	503		{object}	problem.Document
//	@Router		/users/me [patch]
func (h *Handler) rename(c *gin.Context) error {
	var in ProfileRequest
	if err := httpapi.Bind(c, &in); err != nil {
		return err
	}
	if in.Name == nil {
		return h.me(c)
	}
	u, err := h.Accounts.Rename(c.Request.Context(), httpapi.Principal(c).UserID, *in.Name)
	if err != nil {
		return err
	}
	c.JSON(http.StatusOK, Show(u))
	return nil
}

// list shows accounts.
//
//	@Summary	List users
//	@Tags		users
//	@Produce	json
//	@Security	BearerAuth
//	@Security	ApiKeyAuth
//	@Param		q		query		string	false	"part of the e-mail address or the name"
//	@Param		role	query		string	false	"only this role"	Enums(user, viewer, operator, admin)
//	@Param		limit	query		int		false	"items per page"	minimum(1)	maximum(200)	default(50)
//	@Param		cursor	query		string	false	"next_cursor of the page before"
//	@Success	200		{object}	httpapi.Page[User]
//	@Failure	400		{object}	problem.Document
//	@Failure	401		{object}	problem.Document
//	@Failure	403		{object}	problem.Document	"needs users:read"
//	@Failure	503		{object}	problem.Document
//	@Router		/users [get]
func (h *Handler) list(c *gin.Context) error {
	q, err := h.Cursors.ListQuery(c, "users", "q", "role")
	if err != nil {
		return err
	}
	role := access.Role(q.Get("role"))
	if role != "" && !h.Roles.Known(role) {
		return problem.ErrInvalid.WithField("role", "must be one of %v", h.Roles.Names())
	}
	found, err := h.Accounts.List(c.Request.Context(), account.Filter{
		Query: q.Get("q"), Role: role, Before: q.After, Limit: q.Limit + 1,
	})
	if err != nil {
		return err
	}
	c.JSON(http.StatusOK, httpapi.NewPage(q, found, func(u account.User) string { return u.ID }, Show))
	return nil
}

// get shows one account.
//
//	@Summary	Get a user
//	@Tags		users
//	@Produce	json
//	@Security	BearerAuth
//	@Security	ApiKeyAuth
//	@Param		id	path		string	true	"user id"
//	@Success	200	{object}	User
//	@Failure	401	{object}	problem.Document
//	@Failure	403	{object}	problem.Document	"needs users:read"
//	@Failure	404	{object}	problem.Document
//	@Failure	503	{object}	problem.Document
//	@Router		/users/{id} [get]
func (h *Handler) get(c *gin.Context) error {
	u, err := h.Accounts.Get(c.Request.Context(), c.Param("id"))
	if err != nil {
		return err
	}
	c.JSON(http.StatusOK, Show(u))
	return nil
}

// UpdateRequest is the body of PATCH /users/{id}.
type UpdateRequest struct {
	Role     *string `json:"role" enums:"user,viewer,operator,admin"`
	Disabled *bool   `json:"disabled"`
}

// update changes the role or standing of an account.
//
//	@Summary		Change a user's role or standing
//	@Description	Takes effect on live tokens and keys at once, on every replica. The last active admin can be neither demoted nor disabled.
//	@Tags			users
//	@Accept			json
//	@Produce		json
//	@Security		BearerAuth
//	@Security		ApiKeyAuth
//	@Param			id		path		string			true	"user id"
//	@Param			body	body		UpdateRequest	true	"what to change"
//	@Success		200		{object}	User
//	@Failure		400		{object}	problem.Document
//	@Failure		401		{object}	problem.Document
//	@Failure		403		{object}	problem.Document	"needs users:write"
//	@Failure		404		{object}	problem.Document
//	@Failure		409		{object}	problem.Document	"the last active admin"
//	@Failure		413		{object}	problem.Document
//	@Failure		415		{object}	problem.Document
//	@Failure		503		{object}	problem.Document
//	@Router			/users/{id} [patch]
func (h *Handler) update(c *gin.Context) error {
	var in UpdateRequest
	if err := httpapi.Bind(c, &in); err != nil {
		return err
	}
	if in.Role == nil && in.Disabled == nil {
		return h.get(c)
	}
	u, err := h.Accounts.Update(c.Request.Context(), c.Param("id"), account.Patch{Role: (*access.Role)(in.Role), Disabled: in.Disabled})
	if err != nil {
		return err
	}
	c.JSON(http.StatusOK, Show(u))
	return nil
}

// delete removes an account.
//
//	@Summary		Delete a user
//	@Description	Sessions and keys of the user die at once, on every replica. The last active admin cannot be deleted.
//	@Tags			users
//	@Produce		json
//	@Security		BearerAuth
//	@Security		ApiKeyAuth
//	@Param			id	path	string	true	"user id"
//	@Success		204
//	@Failure		401	{object}	problem.Document
//	@Failure		403	{object}	problem.Document	"needs users:write"
//	@Failure		404	{object}	problem.Document
//	@Failure		409	{object}	problem.Document	"the last active admin"
//	@Failure		503	{object}	problem.Document
//	@Router			/users/{id} [delete]
func (h *Handler) delete(c *gin.Context) error {
	if err := h.Accounts.Delete(c.Request.Context(), c.Param("id")); err != nil {
		return err
	}
	c.Status(http.StatusNoContent)
	return nil
}

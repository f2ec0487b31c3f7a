// Package authapi serves /auth: registering, signing in and out, passwords and
// sessions.
package authapi

import (
	"context"
	"net/http"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/account"
	"github.com/keywarden/keywarden/pkg/httpapi"
	"github.com/keywarden/keywarden/pkg/httpapi/usersapi"
	"github.com/keywarden/keywarden/pkg/problem"
	"github.com/keywarden/keywarden/pkg/reqctx"
	"github.com/keywarden/keywarden/pkg/seal"
	"github.com/keywarden/keywarden/pkg/session"
	"github.com/keywarden/keywarden/pkg/throttle"
)

// errRegistrationOff is the answer when people cannot register themselves.
var errRegistrationOff = problem.Define(problem.Forbidden, "auth.registration_off",
	"Registration is switched off here; ask an operator for an account.")

type accounts interface {
	Register(ctx context.Context, in account.Registration, role access.Role) (account.User, error)
	ChangePassword(ctx context.Context, id, keepSession, current, next string) error
}

type sessions interface {
	Login(ctx context.Context, email, password, userAgent string) (session.Tokens, error)
	Refresh(ctx context.Context, token, userAgent string) (session.Tokens, error)
	End(ctx context.Context, userID, id string) error
	List(ctx context.Context, userID string) ([]session.Session, error)
}

// Handler serves /auth. All fields are required.
type Handler struct {
	Accounts         accounts
	Sessions         sessions
	Guard            *httpapi.Guard
	RegistrationOpen bool
	Registrations    *throttle.Limiter // per address
	Passwords        *throttle.Limiter // wrong current passwords per user
}

// Mount adds the routes.
func (h *Handler) Mount(r gin.IRouter) {
	r.POST("/auth/register", httpapi.Handle(h.register))
	r.POST("/auth/login", httpapi.Handle(h.login))
	r.POST("/auth/refresh", httpapi.Handle(h.refresh))
	r.POST("/auth/logout", h.Guard.User(), httpapi.Handle(h.logout))
	r.POST("/auth/password", h.Guard.User(), httpapi.Handle(h.password))
	r.GET("/auth/sessions", h.Guard.User(), httpapi.Handle(h.list))
	r.DELETE("/auth/sessions/:id", h.Guard.User(), httpapi.Handle(h.end))
}

// RegisterRequest is the body of POST /auth/register.
type RegisterRequest struct {
	Email    string      `json:"email" example:"ada@example.com" binding:"required"`
	Password seal.Secret `json:"password" swaggertype:"string" example:"correct horse battery staple" binding:"required"`
	Name     string      `json:"name" example:"Ada Lovelace"`
}

// register makes an account.
//
//	@Summary		Register
//	@Description	Makes an account with the role "user". Passwords have a minimum length and must not be easy to guess; there are no other rules.
//	@Tags			auth
//	@Accept			json
//	@Produce		json
//	@Param			body	body		RegisterRequest	true	"who"
//	@Success		201		{object}	usersapi.User
//	@Failure		400		{object}	problem.Document	"a field is wrong"
//	@Failure		403		{object}	problem.Document	"registration is switched off"
//	@Failure		409		{object}	problem.Document	"the address is taken"
//	@Failure		413		{object}	problem.Document
//	@Failure		415		{object}	problem.Document
//	@Failure		429		{object}	problem.Document	"too many registrations from this address"
//	@Failure		503		{object}	problem.Document
//	@Router			/auth/register [post]
func (h *Handler) register(c *gin.Context) error {
	if !h.RegistrationOpen {
		return errRegistrationOff
	}
	var in RegisterRequest
	if err := httpapi.Bind(c, &in); err != nil {
		return err
	}
	ctx := c.Request.Context()
	if wait := h.Registrations.Take(throttle.Address(reqctx.From(ctx).Client)); wait > 0 {
		return access.ErrThrottled.WithDetail("Too many registrations from this address; try again later.").WithRetryAfter(wait)
	}
	u, err := h.Accounts.Register(ctx, account.Registration{Email: in.Email, Password: in.Password.Reveal(), Name: in.Name}, access.RoleUser)
	if err != nil {
		return err
	}
	c.Header("Location", "/users/me")
	c.JSON(http.StatusCreated, usersapi.Show(u))
	return nil
}

// LoginRequest is the body of POST /auth/login.
type LoginRequest struct {
	Email    string      `json:"email" example:"ada@example.com" binding:"required"`
	Password seal.Secret `json:"password" swaggertype:"string" example:"correct horse battery staple" binding:"required"`
}

// TokenResponse is the answer to a login or a refresh (RFC 6749 section 5.1).
type TokenResponse struct {
	AccessToken  string `json:"access_token"`
	TokenType    string `json:"token_type" example:"Bearer"`
	ExpiresIn    int    `json:"expires_in" example:"900"` // seconds
	RefreshToken string `json:"refresh_token"`
}

func showTokens(t session.Tokens) TokenResponse {
	return TokenResponse{
		AccessToken: t.Access.Reveal(), TokenType: "Bearer",
		ExpiresIn: int(t.ExpiresIn / time.Second), RefreshToken: t.Refresh.Reveal(),
	}
}

// login begins a session.
//
//	@Summary		Sign in
//	@Description	An unknown address, a wrong password and a disabled account get the same answer. Failures are limited per account and per address.
//	@Tags			auth
//	@Accept			json
//	@Produce		json
//	@Param			body	body		LoginRequest	true	"credentials"
//	@Success		200		{object}	TokenResponse
//	@Failure		400		{object}	problem.Document
//	@Failure		401		{object}	problem.Document
//	@Failure		413		{object}	problem.Document
//	@Failure		415		{object}	problem.Document
//	@Failure		429		{object}	problem.Document	"too many failures; see Retry-After"
//	@Failure		503		{object}	problem.Document
//	@Router			/auth/login [post]
func (h *Handler) login(c *gin.Context) error {
	var in LoginRequest
	if err := httpapi.Bind(c, &in); err != nil {
		return err
	}
	if err := required(map[string]bool{"email": in.Email == "", "password": in.Password.Empty()}); err != nil {
		return err
	}
	t, err := h.Sessions.Login(c.Request.Context(), in.Email, in.Password.Reveal(), c.Request.UserAgent())
	if err != nil {
		return err
	}
	c.JSON(http.StatusOK, showTokens(t))
	return nil
}

// RefreshRequest is the body of POST /auth/refresh.
type RefreshRequest struct {
	RefreshToken seal.Secret `json:"refresh_token" swaggertype:"string" binding:"required"`
}

// refresh replaces a refresh token.
//
//	@Summary		Refresh
//	@Description	Replaces a refresh token by a new pair of tokens. Using a refresh token a second time ends its session.
//	@Tags			auth
//	@Accept			json
//	@Produce		json
//	@Param			body	body		RefreshRequest	true	"refresh token"
//	@Success		200		{object}	TokenResponse
//	@Failure		400		{object}	problem.Document
//	@Failure		401		{object}	problem.Document
//	@Failure		413		{object}	problem.Document
//	@Failure		415		{object}	problem.Document
//	@Failure		429		{object}	problem.Document
//	@Failure		503		{object}	problem.Document
//	@Router			/auth/refresh [post]
func (h *Handler) refresh(c *gin.Context) error {
	var in RefreshRequest
	if err := httpapi.Bind(c, &in); err != nil {
		return err
	}
	if err := required(map[string]bool{"refresh_token": in.RefreshToken.Empty()}); err != nil {
		return err
	}
	t, err := h.Sessions.Refresh(c.Request.Context(), in.RefreshToken.Reveal(), c.Request.UserAgent())
	if err != nil {
		return err
	}
	c.JSON(http.StatusOK, showTokens(t))
	return nil
}

// logout ends the session of the token.
//
//	@Summary		Sign out
//	@Description	Ends the session: its access and refresh tokens are refused from now on, on every replica.
//	@Tags			auth
//	@Produce		json
//	@Security		BearerAuth
//	@Success		204
//	@Failure		401	{object}	problem.Document
//	@Failure		403	{object}	problem.Document	"called with an API key"
//	@Failure		503	{object}	problem.Document
//	@Router			/auth/logout [post]
func (h *Handler) logout(c *gin.Context) error {
	p := httpapi.Principal(c)
	if err := h.Sessions.End(c.Request.Context(), p.UserID, p.SessionID); err != nil {
		return err
	}
	c.Status(http.StatusNoContent)
	return nil
}

// PasswordRequest is the body of POST /auth/password.
type PasswordRequest struct {
	CurrentPassword seal.Secret `json:"current_password" swaggertype:"string" binding:"required"`
	NewPassword     seal.Secret `json:"new_password" swaggertype:"string" binding:"required"`
}

// password changes the caller's password.
//
//	@Summary		Change the password
//	@Description	All other sessions of the user end.
//	@Tags			auth
//	@Accept			json
//	@Produce		json
//	@Security		BearerAuth
//	@Param			body	body	PasswordRequest	true	"passwords"
//	@Success		204
//	@Failure		400	{object}	problem.Document	"the current password is wrong, or the new one is not acceptable"
//	@Failure		401	{object}	problem.Document
//	@Failure		403	{object}	problem.Document	"called with an API key"
//	@Failure		413	{object}	problem.Document
//	@Failure		415	{object}	problem.Document
//	@Failure		429	{object}	problem.Document	"too many wrong passwords"
//	@Failure		503	{object}	problem.Document
//	@Router			/auth/password [post]
func (h *Handler) password(c *gin.Context) error {
	var in PasswordRequest
	if err := httpapi.Bind(c, &in); err != nil {
		return err
	}
	p := httpapi.Principal(c)
	if wait := h.Passwords.Take(p.UserID); wait > 0 {
		return access.ErrThrottled.WithRetryAfter(wait)
	}
	err := h.Accounts.ChangePassword(c.Request.Context(), p.UserID, p.SessionID, in.CurrentPassword.Reveal(), in.NewPassword.Reveal())
	if err != nil {
		return err
	}
	h.Passwords.Forget(p.UserID)
	c.Status(http.StatusNoContent)
	return nil
}

// Session is one sign-in, as its user sees it.
type Session struct {
	ID        string    `json:"id"`
	CreatedAt time.Time `json:"created_at"`
	UsedAt    time.Time `json:"used_at"` // last login or refresh
	ExpiresAt time.Time `json:"expires_at"`
	Client    string    `json:"client" example:"203.0.113.7"`
	UserAgent string    `json:"user_agent"`
	Current   bool      `json:"current"` // the session of this very call
}

// list shows the caller's sessions.
//
//	@Summary	List own sessions
//	@Tags		auth
//	@Produce	json
//	@Security	BearerAuth
//	@Success	200	{object}	httpapi.Page[Session]
//	@Failure	401	{object}	problem.Document
//	@Failure	403	{object}	problem.Document	"called with an API key"
//	@Failure	503	{object}	problem.Document
//	@Router		/auth/sessions [get]
func (h *Handler) list(c *gin.Context) error {
	p := httpapi.Principal(c)
	found, err := h.Sessions.List(c.Request.Context(), p.UserID)
	if err != nil {
		return err
	}
	page := httpapi.Page[Session]{Items: make([]Session, 0, len(found))}
	for _, s := range found {
		page.Items = append(page.Items, Session{
			ID: s.ID, CreatedAt: s.CreatedAt, UsedAt: s.UsedAt, ExpiresAt: s.ExpiresAt,
			Client: s.Client, UserAgent: s.UserAgent, Current: s.ID == p.SessionID,
		})
	}
	c.JSON(http.StatusOK, page)
	return nil
}

// end ends one of the caller's sessions.
//
//	@Summary	End an own session
//	@Tags		auth
//	@Produce	json
//	@Security	BearerAuth
//	@Param		id	path	string	true	"session id"
//	@Success	204
//	@Failure	401	{object}	problem.Document
//	@Failure	403	{object}	problem.Document	"called with an API key"
//	@Failure	404	{object}	problem.Document
//	@Failure	503	{object}	problem.Document
//	@Router		/auth/sessions/{id} [delete]
func (h *Handler) end(c *gin.Context) error {
	if err := h.Sessions.End(c.Request.Context(), httpapi.Principal(c).UserID, c.Param("id")); err != nil {
		return err
	}
	c.Status(http.StatusNoContent)
	return nil
}

// required names every field that is missing.
func required(missing map[string]bool) error {
	var fields []problem.Field
	for _, name := range []string{"email", "password", "refresh_token"} {
		if missing[name] {
			fields = append(fields, problem.Field{Field: name, Detail: "is required"})
		}
	}
	if fields == nil {
		return nil
	}
	return problem.ErrInvalid.WithFields(fields)
}

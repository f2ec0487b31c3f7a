// Package keysapi serves /api-keys.
package keysapi

import (
	"cmp"
	"context"
	"net/http"
	"net/netip"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/apikey"
	"github.com/keywarden/keywarden/pkg/changes"
	"github.com/keywarden/keywarden/pkg/httpapi"
	"github.com/keywarden/keywarden/pkg/problem"
)

type keys interface {
	Create(ctx context.Context, owner string, role access.Role, r apikey.Request, idempotency string) (apikey.Minted, error)
	Get(ctx context.Context, owner, id string) (apikey.Key, error)
	List(ctx context.Context, f apikey.Filter) ([]apikey.Key, error)
	Update(ctx context.Context, owner, id string, role access.Role, p apikey.Patch) (apikey.Key, error)
	Rotate(ctx context.Context, owner, id string, grace time.Duration, idempotency string) (apikey.Minted, error)
	Revoke(ctx context.Context, owner, id string) (epoch int64, err error)
}

type receipts interface {
	Await(ctx context.Context, epoch int64, timeout time.Duration) (changes.Receipt, error)
}

// Handler serves /api-keys. All fields are required.
type Handler struct {
	Keys     keys
	Receipts receipts
	Guard    *httpapi.Guard
	Cursors  httpapi.Cursors
}

// Mount adds the routes.
func (h *Handler) Mount(r gin.IRouter) {
	read, write := h.Guard.Require(access.ScopeKeysRead), h.Guard.Require(access.ScopeKeysWrite)
	r.POST("/api-keys", write, httpapi.Handle(h.create))
	r.GET("/api-keys", read, httpapi.Handle(h.list))
	r.GET("/api-keys/self", h.Guard.Key(), httpapi.Handle(h.self))
	r.GET("/api-keys/:id", read, httpapi.Handle(h.get))
	r.PATCH("/api-keys/:id", write, httpapi.Handle(h.update))
	r.POST("/api-keys/:id/rotate", write, httpapi.Handle(h.rotate))
	r.DELETE("/api-keys/:id", write, httpapi.Handle(h.revoke))
}

// Key is an API key as the API shows it: everything but the secret.
type Key struct {
	ID         string     `json:"id" example:"01890a5d-ac96-774b-bcce-b302099a8057"`
	UserID     string     `json:"user_id"`
	App        string     `json:"app,omitempty"` // id of the app that the key belongs to; absent for none
	Name       string     `json:"name" example:"ci"`
	Env        string     `json:"env" enums:"live,test"`
	Prefix     string     `json:"prefix" example:"kw_live_4fGh2kLmN0pQ"` // how the key begins
	LastFour   string     `json:"last_four" example:"x7Qz"`
	Scopes     []string   `json:"scopes"`
	AllowedIPs []string   `json:"allowed_ips"`
	ExpiresAt  *time.Time `json:"expires_at"`
	CreatedAt  time.Time  `json:"created_at"`
	UpdatedAt  time.Time  `json:"updated_at"`
	LastUsedAt *time.Time `json:"last_used_at"` // to the minute
	RevokedAt  *time.Time `json:"revoked_at,omitempty"`

	QuarantinedAt  *time.Time `json:"quarantined_at,omitempty"`  // somebody who held the key reported it as leaked: it is refused until it is rotated
	QuarantineNote string     `json:"quarantine_note,omitempty"` // what they said
	Canary         bool       `json:"canary,omitempty"`          // a trap that opens nothing and raises an alarm
}

// MintedKey is a key with its secret, shown this once.
type MintedKey struct {
	Key
	Secret string `json:"key" example:"kw_live_…"` // the key itself; it cannot be shown again
}

func show(k apikey.Key) Key {
	allowed := make([]string, 0, len(k.AllowedIPs))
	for _, p := range k.AllowedIPs {
		allowed = append(allowed, p.String())
	}
	return Key{
		ID: k.ID, UserID: k.UserID, App: k.App, Name: k.Name, Env: string(k.Env), Prefix: k.Prefix, LastFour: k.LastFour,
		Scopes: k.Scopes, AllowedIPs: allowed, ExpiresAt: k.ExpiresAt, CreatedAt: k.CreatedAt,
		UpdatedAt: k.UpdatedAt, LastUsedAt: k.LastUsedAt, RevokedAt: k.RevokedAt,
		QuarantinedAt: k.QuarantinedAt, QuarantineNote: k.QuarantineNote, Canary: k.Canary,
	}
}

func showMinted(m apikey.Minted) MintedKey {
	return MintedKey{Key: show(m.Key), Secret: m.Secret.Reveal()}
}

// CreateRequest is the body of POST /api-keys.
type CreateRequest struct {
	Name       string   `json:"name" example:"ci" binding:"required"`
	Env        string   `json:"env" enums:"live,test" default:"live"`
	Scopes     []string `json:"scopes" example:"profile:read"`                                // at most what you hold; none lets the key call backends and nothing of the platform
	ExpiresAt  *string  `json:"expires_at" format:"date-time" example:"2030-01-31T12:00:00Z"` // or expires_in
	ExpiresIn  *int64   `json:"expires_in" example:"2592000"`                                 // seconds
	AllowedIPs []string `json:"allowed_ips" example:"203.0.113.0/24"`                         // addresses or networks; none for everywhere
	App        string   `json:"app" example:"01890a5d-ac96-774b-bcce-b302099a8057"`           // id of an app of yours: the key reaches what that is subscribed to, and nothing else
	Canary     bool     `json:"canary"`                                                       // a trap: the key opens nothing, and every use raises an alarm (needs config:write)
}

// maxExpiresIn keeps the sum of a time and a number of seconds representable.
const maxExpiresIn = 100 * 366 * 24 * 3600

// create mints a key.
//
//	@Summary		Create an API key
//	@Description	The key is shown in this answer and never again. With an Idempotency-Key the call is safe to repeat: the same answer comes again, and there is one key.
//	@Tags			api-keys
//	@Accept			json
//	@Produce		json
//	@Security		BearerAuth
//	@Security		ApiKeyAuth
//	@Param			Idempotency-Key	header		string			false	"makes the call safe to repeat"
//	@Param			body			body		CreateRequest	true	"what key"
//	@Success		201				{object}	MintedKey
//	@Failure		400				{object}	problem.Document
//	@Failure		401				{object}	problem.Document
//	@Failure		403				{object}	problem.Document	"needs keys:write, and config:write for a canary"
//	@Failure		409				{object}	problem.Document	"the user has too many keys"
//	@Failure		413				{object}	problem.Document
//	@Failure		415				{object}	problem.Document
//	@Failure		422				{object}	problem.Document	"the Idempotency-Key was used for another request"
//	@Failure		503				{object}	problem.Document
//	@Router			/api-keys [post]
func (h *Handler) create(c *gin.Context) error {
	var in CreateRequest
	if err := httpapi.Bind(c, &in); err != nil {
		return err
	}
	at, lifetime, err := expiry(in.ExpiresAt, in.ExpiresIn)
	if err != nil {
		return err
	}
	p := httpapi.Principal(c)
	if err := h.mayCreate(c, in, at, lifetime); err != nil {
		return err
	}
	if in.Canary {
		if err := h.Guard.Check(p, access.ScopeConfigWrite); err != nil {
			return err
		}
	}
	m, err := h.Keys.Create(c.Request.Context(), p.UserID, p.Role, apikey.Request{
		Name: in.Name, Env: apikey.Environment(in.Env), Scopes: in.Scopes, ExpiresAt: at, ExpiresIn: lifetime, AllowedIPs: in.AllowedIPs,
		App: in.App, Canary: in.Canary,
	}, c.GetHeader("Idempotency-Key"))
	if err != nil {
		return err
	}
	c.Header("Location", "/api-keys/"+m.Key.ID)
	c.JSON(http.StatusCreated, showMinted(m))
	return nil
}

// mayCreate keeps the key that is asked for within the one that calls.
func (h *Handler) mayCreate(c *gin.Context, in CreateRequest, at *time.Time, lifetime time.Duration) error {
	within, err := h.boundsOf(c)
	if err != nil {
		return err
	}
	if at == nil && lifetime > 0 {
		end := time.Now().Add(lifetime)
		at = &end
	}
	allowed, wrong := apikey.ParseAllowedIPs(in.AllowedIPs)
	if len(wrong) > 0 { // which is told together with whatever else is wrong
		return nil
	}
	return cmp.Or(within.scopes(in.Scopes), within.expiry(at), within.networks(allowed))
}

// expiry reads the two ways to say when a key ends.
func expiry(at *string, in *int64) (*time.Time, time.Duration, error) {
	switch {
	case at != nil && in != nil:
		return nil, 0, problem.ErrInvalid.WithField("expires_in", "cannot be given together with expires_at")
	case at != nil:
		t, err := httpapi.ParseTime("expires_at", *at)
		return &t, 0, err
	case in != nil:
		if *in < 1 || *in > maxExpiresIn {
			return nil, 0, problem.ErrInvalid.WithField("expires_in", "must be a positive number of seconds, at most ten years")
		}
		return nil, time.Duration(*in) * time.Second, nil
	}
	return nil, 0, nil
}

// owner is whose keys the caller may reach: its own, or, for those who manage
// users, everybody's (empty).
func owner(p *access.Principal) string {
	if p.Has(access.ScopeKeysAdmin) {
		return ""
	}
	return p.UserID
}

// reached notes that the caller has needed keys:admin, when the key is another user's.
func reached(g *httpapi.Guard, c *gin.Context, k apikey.Key) {
	if p := httpapi.Principal(c); p.UserID != k.UserID {
		g.Needed(p, access.ScopeKeysAdmin)
	}
}

// list shows the caller's keys.
//
//	@Summary		List API keys
//	@Description	Own keys; with the scope keys:admin, those of another user with user_id.
//	@Tags			api-keys
//	@Produce		json
//	@Security		BearerAuth
//	@Security		ApiKeyAuth
//	@Param			user_id	query		string	false	"whose keys (needs keys:admin)"
//	@Param			app		query		string	false	"only keys of this app"
//	@Param			revoked	query		string	false	"whether revoked keys are listed too"	Enums(true, false)
//	@Param			limit	query		int		false	"items per page"						minimum(1)	maximum(200)	default(50)
//	@Param			cursor	query		string	false	"next_cursor of the page before"
//	@Success		200		{object}	httpapi.Page[Key]
//	@Failure		400		{object}	problem.Document
//	@Failure		401		{object}	problem.Document
//	@Failure		403		{object}	problem.Document	"needs keys:read"
//	@Failure		503		{object}	problem.Document
//	@Router			/api-keys [get]
func (h *Handler) list(c *gin.Context) error {
	q, err := h.Cursors.ListQuery(c, "api-keys", "user_id", "app", "revoked")
	if err != nil {
		return err
	}
	revoked := q.Get("revoked")
	if revoked != "" && revoked != "true" && revoked != "false" {
		return problem.ErrInvalid.WithField("revoked", "must be true or false")
	}
	p := httpapi.Principal(c)
	user := p.UserID
	if asked := q.Get("user_id"); asked != "" && asked != user {
		if err := h.Guard.Check(p, access.ScopeKeysAdmin); err != nil {
			return err
		}
		user = asked
	}
	found, err := h.Keys.List(c.Request.Context(), apikey.Filter{
		UserID: user, App: q.Get("app"), IncludeRevoked: revoked == "true", Before: q.After, Limit: q.Limit + 1,
	})
	if err != nil {
		return err
	}
	c.JSON(http.StatusOK, httpapi.NewPage(q, found, func(k apikey.Key) string { return k.ID }, show))
	return nil
}

// self shows the key that calls.
//
//	@Summary		The calling API key
//	@Description	What this key is and may do now. Needs no scope.
//	@Tags			api-keys
//	@Produce		json
//	@Security		ApiKeyAuth
//	@Success		200	{object}	SelfResponse
//	@Failure		401	{object}	problem.Document
//	@Failure		403	{object}	problem.Document	"called with an access token"
//	@Failure		503	{object}	problem.Document
//	@Router			/api-keys/self [get]
func (h *Handler) self(c *gin.Context) error {
	p := httpapi.Principal(c)
	k, err := h.Keys.Get(c.Request.Context(), p.UserID, p.KeyID)
	if err != nil {
		return err
	}
	c.JSON(http.StatusOK, SelfResponse{Key: show(k), EffectiveScopes: p.Scopes})
	return nil
}

// SelfResponse is the answer of GET /api-keys/self.
type SelfResponse struct {
	Key
	EffectiveScopes []string `json:"effective_scopes"` // its scopes, cut to what its owner holds now
}

// get shows one key.
//
//	@Summary	Get an API key
//	@Tags		api-keys
//	@Produce	json
//	@Security	BearerAuth
//	@Security	ApiKeyAuth
//	@Param		id	path		string	true	"key id"
//	@Success	200	{object}	Key
//	@Failure	401	{object}	problem.Document
//	@Failure	403	{object}	problem.Document	"needs keys:read"
//	@Failure	404	{object}	problem.Document	"unknown, or another user's"
//	@Failure	503	{object}	problem.Document
//	@Router		/api-keys/{id} [get]
func (h *Handler) get(c *gin.Context) error {
	k, err := h.Keys.Get(c.Request.Context(), owner(httpapi.Principal(c)), c.Param("id"))
	if err != nil {
		return err
	}
	reached(h.Guard, c, k)
	c.JSON(http.StatusOK, show(k))
	return nil
}

// UpdateRequest is the body of PATCH /api-keys/{id}; absent members stay.
type UpdateRequest struct {
	Name       *string                  `json:"name" example:"ci"`
	Scopes     *[]string                `json:"scopes"`
	ExpiresAt  httpapi.Optional[string] `json:"expires_at" swaggertype:"string" format:"date-time"` // null removes it
	AllowedIPs *[]string                `json:"allowed_ips"`
}

// update changes a key.
//
//	@Summary	Change an API key
//	@Tags		api-keys
//	@Accept		json
//	@Produce	json
//	@Security	BearerAuth
//	@Security	ApiKeyAuth
//	@Param		id		path		string			true	"key id"
//	@Param		body	body		UpdateRequest	true	"what to change"
//	@Success	200		{object}	Key
//	@Failure	400		{object}	problem.Document
//	@Failure	401		{object}	problem.Document
//	@Failure	403		{object}	problem.Document	"needs keys:write"
//	@Failure	404		{object}	problem.Document
//	@Failure	409		{object}	problem.Document	"the key is revoked"
//	@Failure	413		{object}	problem.Document
//	@Failure	415		{object}	problem.Document
//	@Failure	503		{object}	problem.Document
//	@Router		/api-keys/{id} [patch]
func (h *Handler) update(c *gin.Context) error {
	var in UpdateRequest
	if err := httpapi.Bind(c, &in); err != nil {
		return err
	}
	patch := apikey.Patch{Name: in.Name, Scopes: in.Scopes}
	if in.ExpiresAt.Given {
		if patch.ClearExpiry = in.ExpiresAt.Value == nil; !patch.ClearExpiry {
			t, err := httpapi.ParseTime("expires_at", *in.ExpiresAt.Value)
			if err != nil {
				return err
			}
			patch.ExpiresAt = &t
		}
	}
	if in.AllowedIPs != nil {
		var fields []problem.Field
		var allowed []netip.Prefix
		if allowed, fields = apikey.ParseAllowedIPs(*in.AllowedIPs); len(fields) > 0 {
			return problem.ErrInvalid.WithFields(fields)
		}
		patch.AllowedIPs = &allowed
	}
	if err := h.mayUpdate(c, patch); err != nil {
		return err
	}
	p := httpapi.Principal(c)
	k, err := h.Keys.Update(c.Request.Context(), owner(p), c.Param("id"), p.Role, patch)
	if err != nil {
		return err
	}
	reached(h.Guard, c, k)
	c.JSON(http.StatusOK, show(k))
	return nil
}

// mayUpdate keeps what is changed within the key that calls.
func (h *Handler) mayUpdate(c *gin.Context, patch apikey.Patch) error {
	within, err := h.boundsOf(c)
	if err == nil && patch.Scopes != nil {
		err = within.scopes(*patch.Scopes)
	}
	if err == nil && (patch.ClearExpiry || patch.ExpiresAt != nil) {
		err = within.expiry(patch.ExpiresAt)
	}
	if err == nil && patch.AllowedIPs != nil {
		err = within.networks(*patch.AllowedIPs)
	}
	return err
}

// RotateRequest is the body of POST /api-keys/{id}/rotate.
type RotateRequest struct {
	GraceSeconds int64 `json:"grace_seconds" example:"3600" minimum:"0"` // how long the old secret keeps working
}

// rotate gives a key a new secret.
//
//	@Summary		Rotate an API key
//	@Description	The key keeps its id, name, scopes and history; the new secret is shown in this answer and never again. The old one keeps working for the grace, which may be 0. A key in quarantine leaves it; its old secret ends at once.
//	@Tags			api-keys
//	@Accept			json
//	@Produce		json
//	@Security		BearerAuth
//	@Security		ApiKeyAuth
//	@Param			id				path		string			true	"key id"
//	@Param			Idempotency-Key	header		string			false	"makes the call safe to repeat"
//	@Param			body			body		RotateRequest	true	"grace"
//	@Success		200				{object}	MintedKey
//	@Failure		400				{object}	problem.Document
//	@Failure		401				{object}	problem.Document
//	@Failure		403				{object}	problem.Document	"needs keys:write"
//	@Failure		404				{object}	problem.Document
//	@Failure		409				{object}	problem.Document	"the key is revoked"
//	@Failure		413				{object}	problem.Document
//	@Failure		415				{object}	problem.Document
//	@Failure		422				{object}	problem.Document	"the Idempotency-Key was used for another request"
//	@Failure		503				{object}	problem.Document
//	@Router			/api-keys/{id}/rotate [post]
func (h *Handler) rotate(c *gin.Context) error {
	var in RotateRequest
	if err := httpapi.Bind(c, &in); err != nil {
		return err
	}
	if in.GraceSeconds < 0 || in.GraceSeconds > maxExpiresIn {
		return problem.ErrInvalid.WithField("grace_seconds", "must be between 0 and 30 days")
	}
	if err := h.mayHold(c, c.Param("id")); err != nil {
		return err
	}
	m, err := h.Keys.Rotate(c.Request.Context(), owner(httpapi.Principal(c)), c.Param("id"),
		time.Duration(in.GraceSeconds)*time.Second, c.GetHeader("Idempotency-Key"))
	if err != nil {
		return err
	}
	reached(h.Guard, c, m.Key)
	c.JSON(http.StatusOK, showMinted(m))
	return nil
}

// mayHold keeps a key from getting the secret of a key that may do more than
// itself. It may always get a new one of its own.
func (h *Handler) mayHold(c *gin.Context, id string) error {
	p := httpapi.Principal(c)
	if p.Kind != access.KindKey || p.KeyID == id {
		return nil
	}
	within, err := h.boundsOf(c)
	if err != nil {
		return err
	}
	k, err := h.Keys.Get(c.Request.Context(), owner(p), id)
	if err != nil {
		return err
	}
	return cmp.Or(within.scopes(k.Scopes), within.expiry(k.ExpiresAt), within.networks(k.AllowedIPs))
}

// receiptTimeout is how long a revocation waits for the replicas.
const receiptTimeout = 5 * time.Second

// revoke ends a key.
//
//	@Summary		Revoke an API key
//	@Description	The key is refused at once on this replica and within a second on every other. With wait=true the call returns when every live replica has acknowledged, with a receipt.
//	@Tags			api-keys
//	@Produce		json
//	@Security		BearerAuth
//	@Security		ApiKeyAuth
//	@Param			id		path		string	true	"key id"
//	@Param			wait	query		string	false	"wait for every replica"	Enums(true, false)
//	@Success		200		{object}	changes.Receipt	"with wait=true"
//	@Success		204
//	@Failure		400	{object}	problem.Document
//	@Failure		401	{object}	problem.Document
//	@Failure		403	{object}	problem.Document	"needs keys:write"
//	@Failure		404	{object}	problem.Document
//	@Failure		503	{object}	problem.Document
//	@Router			/api-keys/{id} [delete]
func (h *Handler) revoke(c *gin.Context) error {
	wait := c.Query("wait")
	if wait != "" && wait != "true" && wait != "false" {
		return problem.ErrInvalid.WithField("wait", "must be true or false")
	}
	ctx := c.Request.Context()
	whose := owner(httpapi.Principal(c))
	epoch, err := h.Keys.Revoke(ctx, whose, c.Param("id"))
	if err != nil {
		return err
	}
	if whose == "" { // whose key it was is not known here, and to count the scope is to leave it
		h.Guard.Needed(httpapi.Principal(c), access.ScopeKeysAdmin)
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

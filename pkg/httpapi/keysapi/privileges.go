package keysapi

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/apikey"
	"github.com/keywarden/keywarden/pkg/httpapi"
	"github.com/keywarden/keywarden/pkg/privilege"
	"github.com/keywarden/keywarden/pkg/usage"
)

type getter interface {
	Get(ctx context.Context, owner, id string) (apikey.Key, error)
}

type recorded interface {
	KeyScopes(ctx context.Context, keyID string) (privilege.Recorded, error)
}

type usageReader interface {
	ReadUsage(ctx context.Context, q usage.Query) (usage.Report, error)
}

// Privileges serves what keys use of what they hold. All fields are required.
type Privileges struct {
	Keys   getter
	Scopes recorded
	Usage  usageReader
	Roles  access.Roles
	Guard  *httpapi.Guard
	Now    func() time.Time

	reads chan struct{} // a token for each review that adds usage up
}

// maxReviews bounds how many reviews add usage up at the same time; others wait.
const maxReviews = 2

// Mount adds the route.
func (h *Privileges) Mount(r gin.IRouter) {
	h.reads = make(chan struct{}, maxReviews)
	r.GET("/api-keys/:id/privileges", h.Guard.Require(access.ScopeKeysRead), httpapi.Handle(h.review))
}

// KeyPrivileges is what an API key uses of what it holds.
type KeyPrivileges struct {
	KeyID         string    `json:"key_id" example:"01890a5d-ac96-774b-bcce-b302099a8057"`
	RecordedSince time.Time `json:"recorded_since"` // what was used before is not known

	Scopes            []ScopeUse `json:"scopes"`             // what the key holds now: its scopes, cut to what its owner holds
	IneffectiveScopes []string   `json:"ineffective_scopes"` // what it was given and its owner does not hold now
	SuggestedScopes   []string   `json:"suggested_scopes"`   // what it should hold: scopes but the unused ones
	Narrower          bool       `json:"narrower"`           // suggested_scopes is less than what the key was given

	Routes        []RouteUse `json:"routes"`                                                  // most requests first, at most 200; null with routes_omitted
	MoreRoutes    bool       `json:"more_routes"`                                             // there are routes that are not shown
	RoutesOmitted string     `json:"routes_omitted,omitempty" enums:"scope_missing,too_much"` // why there are none: usage:read or config:read is needed, or adding them up takes too long
}

// ScopeUse is a scope that a key holds.
type ScopeUse struct {
	Scope      string     `json:"scope" example:"orders:read"`
	LastUsedAt *time.Time `json:"last_used_at"`                        // to the minute; null for never since recorded_since
	Verdict    string     `json:"verdict" enums:"used,unused,unknown"` // used within 90 days, not used, or not recorded for long enough to tell
}

// RouteUse is a route that a key was used for. An empty route stands for requests that
// no route matched.
type RouteUse struct {
	Route      string `json:"route" example:"orders-api"`
	Requests30 int64  `json:"requests_30d" example:"12"`
	Requests90 int64  `json:"requests_90d" example:"340"`
}

// review compares what a key holds with what it uses.
//
//	@Summary		What an API key uses of what it holds
//	@Description	Which scopes the key could do without: those that no call of it has needed for 90 days, as far as that is recorded. Scopes that backends look at themselves, or that conditions of the gateway document name, are not seen to be used. Routes are shown to callers that may see the usage: with usage:read, or config:read for another user's key.
//	@Tags			api-keys
//	@Produce		json
//	@Security		BearerAuth
//	@Security		ApiKeyAuth
//	@Param			id	path		string	true	"key id"
//	@Success		200	{object}	KeyPrivileges
//	@Failure		401	{object}	problem.Document
//	@Failure		403	{object}	problem.Document	"needs keys:read"
//	@Failure		404	{object}	problem.Document	"unknown, or another user's"
//	@Failure		503	{object}	problem.Document
//	@Router			/api-keys/{id}/privileges [get]
func (h *Privileges) review(c *gin.Context) error {
	ctx, p := c.Request.Context(), httpapi.Principal(c)
	k, err := h.Keys.Get(ctx, owner(p), c.Param("id"))
	if err != nil {
		return err
	}
	reached(h.Guard, c, k)
	known, err := h.Scopes.KeyScopes(ctx, k.ID)
	if err != nil {
		return err
	}
	now := h.Now().UTC()
	v := privilege.NewReview(k.Scopes, h.Roles, known, now)
	out := KeyPrivileges{
		KeyID: k.ID, RecordedSince: v.Since, Scopes: make([]ScopeUse, 0, len(v.Scopes)),
		IneffectiveScopes: v.Ineffective, SuggestedScopes: v.Suggested, Narrower: v.Narrower,
	}
	for _, s := range v.Scopes {
		use := ScopeUse{Scope: s.Name, Verdict: string(s.Verdict)}
		if !s.LastUsed.IsZero() {
			use.LastUsedAt = &s.LastUsed
		}
		out.Scopes = append(out.Scopes, use)
	}
	if !h.maySeeUsage(p, k) {
		out.RoutesOmitted = "scope_missing"
	} else if err := h.addRoutes(ctx, &out, now); errors.Is(err, usage.ErrTooMuch) {
		out.Routes, out.RoutesOmitted = nil, "too_much" // the rest is worth an answer
	} else if err != nil {
		return err
	}
	c.JSON(http.StatusOK, out)
	return nil
}

// maySeeUsage reports whether the caller could ask for the usage of the key, too.
func (h *Privileges) maySeeUsage(p *access.Principal, k apikey.Key) bool {
	switch {
	case p.KeyID == k.ID:
		return true
	case p.UserID == k.UserID:
		return h.Guard.Holds(p, access.ScopeUsageRead)
	}
	return h.Guard.Holds(p, access.ScopeConfigRead)
}

// addRoutes adds up what the key was used for.
func (h *Privileges) addRoutes(ctx context.Context, out *KeyPrivileges, now time.Time) error {
	select {
	case h.reads <- struct{}{}:
		defer func() { <-h.reads }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	short, err := h.routes(ctx, out.KeyID, now, 30)
	if err != nil {
		return err
	}
	long, err := h.routes(ctx, out.KeyID, now, 90)
	if err != nil {
		return err
	}
	out.Routes, out.MoreRoutes = make([]RouteUse, 0, len(long.Groups)), long.More || short.More
	recent := map[string]int64{}
	for _, g := range short.Groups {
		recent[g.Values[usage.ByRoute]] = g.Requests
	}
	for _, g := range long.Groups {
		route := g.Values[usage.ByRoute]
		out.Routes = append(out.Routes, RouteUse{Route: route, Requests30: recent[route], Requests90: g.Requests})
	}
	return nil
}

// routes are those of the last days, by whole hours: what is older than half a day is
// known by the hour.
func (h *Privileges) routes(ctx context.Context, keyID string, now time.Time, days int) (usage.Report, error) {
	return h.Usage.ReadUsage(ctx, usage.Query{
		From: now.AddDate(0, 0, -days).Truncate(time.Hour), To: now.Truncate(time.Minute).Add(time.Minute),
		By: []usage.Dimension{usage.ByRoute}, Filter: map[usage.Dimension]string{usage.ByKey: keyID}, Top: usage.MaxTop,
	})
}

package alertsapi

import (
	"context"
	"net/http"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/keywarden/keywarden/pkg/alert"
	"github.com/keywarden/keywarden/pkg/httpapi"
	"github.com/keywarden/keywarden/pkg/seal"
)

type channels interface {
	Channels(ctx context.Context, f alert.RuleFilter) ([]alert.Channel, error)
	Channel(ctx context.Context, id string) (alert.Channel, error)
	CreateChannel(ctx context.Context, s alert.ChannelSpec) (alert.Channel, error)
	UpdateChannel(ctx context.Context, id string, s alert.ChannelSpec) (alert.Channel, error)
	DeleteChannel(ctx context.Context, id string) error
	TestChannel(ctx context.Context, id string) (delivery string, err error)
}

// ChannelRequest is what an operator says of a channel.
type ChannelRequest struct {
	Name    string `json:"name" example:"ops" maxLength:"100"`
	Kind    string `json:"kind" enums:"webhook,slack,email"` // cannot be changed
	Enabled *bool  `json:"enabled,omitempty" default:"true"`

	// URL is where webhook and slack post to. It is never shown again.
	URL seal.Secret `json:"url,omitzero" swaggertype:"string" format:"password"`
	// Secret signs webhooks: whsec_ and 24 to 64 random bytes in base64. It is never shown again.
	Secret seal.Secret `json:"secret,omitzero" swaggertype:"string" format:"password"`

	Recipients []string `json:"recipients,omitempty" example:"ops@example.com"` // of email, up to 20
}

func (in ChannelRequest) spec() alert.ChannelSpec {
	return alert.ChannelSpec{
		Name: in.Name, Kind: alert.Kind(in.Kind), Enabled: in.Enabled == nil || *in.Enabled, URL: in.URL, Secret: in.Secret, Recipients: in.Recipients,
	}
}

// Channel is what may be told of a channel.
type Channel struct {
	ID         string    `json:"id" example:"0198c1f4-5b2e-7c3a-8f11-2d6f0f6a7b92"`
	Version    int64     `json:"version" example:"1"` // one more with every change
	Name       string    `json:"name" example:"ops"`
	Kind       string    `json:"kind" enums:"webhook,slack,email"`
	Enabled    bool      `json:"enabled"`
	Host       string    `json:"host,omitempty" example:"hooks.example.com"` // of the URL
	Recipients []string  `json:"recipients,omitempty"`
	KeyID      string    `json:"key_id,omitempty" example:"5f0c3a527c1e8b1d"` // of the master key that URL and secret are sealed under
	CreatedAt  time.Time `json:"created_at"`
	UpdatedAt  time.Time `json:"updated_at"`
}

func showChannel(c alert.Channel) Channel {
	return Channel{
		ID: c.ID, Version: c.Version, Name: c.Name, Kind: string(c.Kind), Enabled: c.Enabled, Host: c.Host, Recipients: c.Recipients,
		KeyID: c.KeyID, CreatedAt: c.CreatedAt, UpdatedAt: c.UpdatedAt,
	}
}

// listChannels shows the channels.
//
//	@Summary		Alert channels
//	@Description	All channels in the order in which they were made. URLs and secrets are never shown. Needs the role viewer.
//	@Tags			alerts
//	@Produce		json
//	@Security		BearerAuth
//	@Security		ApiKeyAuth
//	@Param			limit	query		int		false	"items per page"	minimum(1)	maximum(200)	default(50)
//	@Param			cursor	query		string	false	"next_cursor of the page before"
//	@Success		200		{object}	httpapi.Page[Channel]
//	@Failure		400		{object}	problem.Document
//	@Failure		401		{object}	problem.Document
//	@Failure		403		{object}	problem.Document	"needs alerts:read"
//	@Failure		503		{object}	problem.Document
//	@Router			/admin/v1/alert-channels [get]
func (h *Handler) listChannels(c *gin.Context) error {
	q, err := h.Cursors.ListQuery(c, "alert-channels")
	if err != nil {
		return err
	}
	found, err := h.Alerts.Channels(c.Request.Context(), alert.RuleFilter{After: q.After, Limit: q.Limit + 1})
	if err != nil {
		return err
	}
	c.JSON(http.StatusOK, httpapi.NewPage(q, found, func(ch alert.Channel) string { return ch.ID }, showChannel))
	return nil
}

// getChannel shows one channel.
//
//	@Summary	An alert channel
//	@Tags		alerts
//	@Produce	json
//	@Security	BearerAuth
//	@Security	ApiKeyAuth
//	@Param		id	path		string	true	"id of the channel"
//	@Success	200	{object}	Channel
//	@Failure	401	{object}	problem.Document
//	@Failure	403	{object}	problem.Document	"needs alerts:read"
//	@Failure	404	{object}	problem.Document
//	@Failure	503	{object}	problem.Document
//	@Router		/admin/v1/alert-channels/{id} [get]
func (h *Handler) getChannel(c *gin.Context) error {
	ch, err := h.Alerts.Channel(c.Request.Context(), c.Param("id"))
	if err != nil {
		return err
	}
	c.JSON(http.StatusOK, showChannel(ch))
	return nil
}

// createChannel makes a channel.
//
//	@Summary		Make an alert channel
//	@Description	URL and secret are stored sealed under the master key and can never be read again. A URL must lead to a public address, or to one that the configuration allows. Needs the role operator. Audited as alert_channel.created, without them.
//	@Tags			alerts
//	@Accept			json
//	@Produce		json
//	@Security		BearerAuth
//	@Security		ApiKeyAuth
//	@Param			body	body		ChannelRequest	true	"the channel"
//	@Success		201		{object}	Channel
//	@Failure		400		{object}	problem.Document
//	@Failure		401		{object}	problem.Document
//	@Failure		403		{object}	problem.Document	"needs alerts:write"
//	@Failure		409		{object}	problem.Document	"the name is taken, there are too many, or no mail server is configured"
//	@Failure		415		{object}	problem.Document
//	@Failure		503		{object}	problem.Document
//	@Router			/admin/v1/alert-channels [post]
func (h *Handler) createChannel(c *gin.Context) error {
	var in ChannelRequest
	if err := httpapi.Bind(c, &in); err != nil {
		return err
	}
	ch, err := h.Alerts.CreateChannel(c.Request.Context(), in.spec())
	if err != nil {
		return err
	}
	c.Header("Location", "/admin/v1/alert-channels/"+ch.ID)
	c.JSON(http.StatusCreated, showChannel(ch))
	return nil
}

// updateChannel replaces a channel.
//
//	@Summary		Change an alert channel
//	@Description	Replaces all of it but URL and secret, which stay where they are not given; another URL of a webhook needs a secret. The kind cannot be changed. Needs the role operator. Audited as alert_channel.updated.
//	@Tags			alerts
//	@Accept			json
//	@Produce		json
//	@Security		BearerAuth
//	@Security		ApiKeyAuth
//	@Param			id		path		string			true	"id of the channel"
//	@Param			body	body		ChannelRequest	true	"the channel"
//	@Success		200		{object}	Channel
//	@Failure		400		{object}	problem.Document
//	@Failure		401		{object}	problem.Document
//	@Failure		403		{object}	problem.Document	"needs alerts:write"
//	@Failure		404		{object}	problem.Document
//	@Failure		409		{object}	problem.Document	"the name is taken"
//	@Failure		415		{object}	problem.Document
//	@Failure		503		{object}	problem.Document
//	@Router			/admin/v1/alert-channels/{id} [put]
func (h *Handler) updateChannel(c *gin.Context) error {
	var in ChannelRequest
	if err := httpapi.Bind(c, &in); err != nil {
		return err
	}
	ch, err := h.Alerts.UpdateChannel(c.Request.Context(), c.Param("id"), in.spec())
	if err != nil {
		return err
	}
	c.JSON(http.StatusOK, showChannel(ch))
	return nil
}

// deleteChannel removes a channel.
//
//	@Summary		Delete an alert channel
//	@Description	With the record of what was sent to it. Needs the role operator. Audited as alert_channel.deleted.
//	@Tags			alerts
//	@Produce		json
//	@Security		BearerAuth
//	@Security		ApiKeyAuth
//	@Param			id	path	string	true	"id of the channel"
//	@Success		204
//	@Failure		401	{object}	problem.Document
//	@Failure		403	{object}	problem.Document	"needs alerts:write"
//	@Failure		404	{object}	problem.Document
//	@Failure		409	{object}	problem.Document	"rules notify it"
//	@Failure		503	{object}	problem.Document
//	@Router			/admin/v1/alert-channels/{id} [delete]
func (h *Handler) deleteChannel(c *gin.Context) error {
	return gone(c, h.Alerts.DeleteChannel(c.Request.Context(), c.Param("id")))
}

// TestResult says what was sent.
type TestResult struct {
	DeliveryID string `json:"delivery_id"` // what the receiver was shown as its id
}

// testChannel sends a notification through a channel.
//
//	@Summary		Test an alert channel
//	@Description	Sends one notification of the type alert.test at once, also when the channel is disabled, and does not try again. What went wrong is in the detail of a 502. Needs the role operator. Audited as alert_channel.tested.
//	@Tags			alerts
//	@Produce		json
//	@Security		BearerAuth
//	@Security		ApiKeyAuth
//	@Param			id	path		string	true	"id of the channel"
//	@Success		200	{object}	TestResult
//	@Failure		401	{object}	problem.Document
//	@Failure		403	{object}	problem.Document	"needs alerts:write"
//	@Failure		404	{object}	problem.Document
//	@Failure		502	{object}	problem.Document	"the channel did not take it"
//	@Failure		503	{object}	problem.Document
//	@Router			/admin/v1/alert-channels/{id}/test [post]
func (h *Handler) testChannel(c *gin.Context) error {
	id, err := h.Alerts.TestChannel(c.Request.Context(), c.Param("id"))
	if err != nil {
		return err
	}
	c.JSON(http.StatusOK, TestResult{DeliveryID: id})
	return nil
}

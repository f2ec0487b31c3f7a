// Package alertsapi serves the alerts of /admin/v1: rules, channels, what fires, and
// silences. It is JSON to and from package alert, which knows what any of it means.
package alertsapi

import (
	"context"
	"net/http"
	"slices"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/alert"
	"github.com/keywarden/keywarden/pkg/httpapi"
	"github.com/keywarden/keywarden/pkg/problem"
)

// Service is what this API needs of alerts; alert.Service is one.
type Service interface {
	rules
	channels
	Alerts(ctx context.Context, f alert.AlertFilter) ([]alert.Alert, error)
	Alert(ctx context.Context, id string) (alert.Alert, error)
	Silences(ctx context.Context, f alert.SilenceFilter) ([]alert.Silence, error)
	Silence(ctx context.Context, in alert.Silence) (alert.Silence, error)
	EndSilence(ctx context.Context, id string) error
	Deliveries(ctx context.Context, f alert.DeliveryFilter) ([]alert.Delivery, error)
	RetryDelivery(ctx context.Context, id string) (alert.Delivery, error)
}

// Handler serves the alerts of /admin/v1. All fields are required.
type Handler struct {
	Alerts  Service
	Guard   *httpapi.Guard
	Cursors httpapi.Cursors
}

// Mount adds the routes.
func (h *Handler) Mount(r gin.IRouter) {
	read, write := h.Guard.Require(access.ScopeAlertsRead), h.Guard.Require(access.ScopeAlertsWrite)
	r = r.Group("/admin/v1")
	r.GET("/alert-rules", read, httpapi.Handle(h.listRules))
	r.POST("/alert-rules", write, httpapi.Handle(h.createRule))
	r.GET("/alert-rules/:id", read, httpapi.Handle(h.getRule))
	r.PUT("/alert-rules/:id", write, httpapi.Handle(h.updateRule))
	r.DELETE("/alert-rules/:id", write, httpapi.Handle(h.deleteRule))

	r.GET("/alert-channels", read, httpapi.Handle(h.listChannels))
	r.POST("/alert-channels", write, httpapi.Handle(h.createChannel))
	r.GET("/alert-channels/:id", read, httpapi.Handle(h.getChannel))
	r.PUT("/alert-channels/:id", write, httpapi.Handle(h.updateChannel))
	r.DELETE("/alert-channels/:id", write, httpapi.Handle(h.deleteChannel))
	r.POST("/alert-channels/:id/test", write, httpapi.Handle(h.testChannel))

	r.GET("/alerts", read, httpapi.Handle(h.listAlerts))
	r.GET("/alerts/:id", read, httpapi.Handle(h.getAlert))
	r.GET("/alert-silences", read, httpapi.Handle(h.listSilences))
	r.POST("/alert-silences", write, httpapi.Handle(h.createSilence))
	r.DELETE("/alert-silences/:id", write, httpapi.Handle(h.endSilence))
	r.GET("/alert-deliveries", read, httpapi.Handle(h.listDeliveries))
	r.POST("/alert-deliveries/:id/retry", write, httpapi.Handle(h.retryDelivery))
}

// Alert is one time that a rule fired.
type Alert struct {
	ID       string `json:"id" example:"0198c1f4-5b2e-7c3a-8f11-2d6f0f6a7b90"`
	RuleID   string `json:"rule_id" example:"0198c1f4-5b2e-7c3a-8f11-2d6f0f6a7b91"`
	Rule     string `json:"rule" example:"errors of orders"`
	Signal   string `json:"signal" example:"server_error_rate"`
	Severity string `json:"severity" enums:"info,warning,critical"`
	Summary  string `json:"summary,omitempty"`
	State    string `json:"state" enums:"firing,resolved"`

	Value     float64           `json:"value" example:"12.5"` // when it fired, and at the end when it is over
	Unit      string            `json:"unit,omitempty" example:"%"`
	Threshold float64           `json:"threshold" example:"5"`
	Volume    int64             `json:"volume,omitempty" example:"800"` // requests that the value is about
	Subject   string            `json:"subject,omitempty"`              // what the value belongs to, such as a certificate
	Filter    map[string]string `json:"filter,omitempty"`

	FiredAt    time.Time  `json:"fired_at"`
	ResolvedAt *time.Time `json:"resolved_at,omitempty"`
	Reason     string     `json:"reason,omitempty"` // why it is over, where that is not the value
}

func showAlert(a alert.Alert) Alert {
	return Alert{
		ID: a.ID, RuleID: a.RuleID, Rule: a.Rule, Signal: string(a.Signal), Severity: string(a.Severity), Summary: a.Summary,
		State: string(a.State), Value: a.Value, Unit: a.Unit, Threshold: a.Threshold, Volume: a.Volume, Subject: a.Subject,
		Filter: a.Filter, FiredAt: a.FiredAt, ResolvedAt: moment(a.ResolvedAt), Reason: a.Reason,
	}
}

// moment is nil for a time that is none.
func moment(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// oneOf checks a filter; empty is all.
func oneOf[S ~string](field, text string, known []S) (S, error) {
	if text != "" && !slices.Contains(known, S(text)) {
		return "", problem.ErrInvalid.WithField(field, "must be one of %v", known)
	}
	return S(text), nil
}

// listAlerts shows what fires and has fired.
//
//	@Summary		Alerts
//	@Description	What fires, and what has fired in the last 90 days; newest first. Needs the role viewer.
//	@Tags			alerts
//	@Produce		json
//	@Security		BearerAuth
//	@Security		ApiKeyAuth
//	@Param			state	query		string	false	"only these"	Enums(firing, resolved)
//	@Param			rule_id	query		string	false	"only of this rule, which may be gone"
//	@Param			limit	query		int		false	"items per page"	minimum(1)	maximum(200)	default(50)
//	@Param			cursor	query		string	false	"next_cursor of the page before"
//	@Success		200		{object}	httpapi.Page[Alert]
//	@Failure		400		{object}	problem.Document
//	@Failure		401		{object}	problem.Document
//	@Failure		403		{object}	problem.Document	"needs alerts:read"
//	@Failure		503		{object}	problem.Document
//	@Router			/admin/v1/alerts [get]
func (h *Handler) listAlerts(c *gin.Context) error {
	q, err := h.Cursors.ListQuery(c, "alerts", "state", "rule_id")
	if err != nil {
		return err
	}
	state, err := oneOf("state", q.Get("state"), []alert.State{alert.Firing, alert.Resolved})
	if err != nil {
		return err
	}
	found, err := h.Alerts.Alerts(c.Request.Context(), alert.AlertFilter{State: state, RuleID: q.Get("rule_id"), Before: q.After, Limit: q.Limit + 1})
	if err != nil {
		return err
	}
	c.JSON(http.StatusOK, httpapi.NewPage(q, found, func(a alert.Alert) string { return a.ID }, showAlert))
	return nil
}

// getAlert shows one alert.
//
//	@Summary	An alert
//	@Tags		alerts
//	@Produce	json
//	@Security	BearerAuth
//	@Security	ApiKeyAuth
//	@Param		id	path		string	true	"id of the alert"
//	@Success	200	{object}	Alert
//	@Failure	401	{object}	problem.Document
//	@Failure	403	{object}	problem.Document	"needs alerts:read"
//	@Failure	404	{object}	problem.Document
//	@Failure	503	{object}	problem.Document
//	@Router		/admin/v1/alerts/{id} [get]
func (h *Handler) getAlert(c *gin.Context) error {
	a, err := h.Alerts.Alert(c.Request.Context(), c.Param("id"))
	if err != nil {
		return err
	}
	c.JSON(http.StatusOK, showAlert(a))
	return nil
}

// Silence keeps notifications back.
type Silence struct {
	ID        string    `json:"id"`
	RuleID    string    `json:"rule_id,omitempty"` // absent for all rules
	Begins    time.Time `json:"begins"`
	Ends      time.Time `json:"ends"`
	Comment   string    `json:"comment,omitempty" example:"deployment"`
	CreatedBy string    `json:"created_by,omitempty"` // id of the user
	CreatedAt time.Time `json:"created_at"`
}

func showSilence(s alert.Silence) Silence {
	return Silence{ID: s.ID, RuleID: s.RuleID, Begins: s.Begins, Ends: s.Ends, Comment: s.Comment, CreatedBy: s.CreatedBy, CreatedAt: s.CreatedAt}
}

// listSilences shows silences.
//
//	@Summary		Silences
//	@Description	Silences that have not ended, with ended=true also those of the last 90 days; newest first. Needs the role viewer.
//	@Tags			alerts
//	@Produce		json
//	@Security		BearerAuth
//	@Security		ApiKeyAuth
//	@Param			ended	query		bool	false	"also those that have ended"
//	@Param			limit	query		int		false	"items per page"	minimum(1)	maximum(200)	default(50)
//	@Param			cursor	query		string	false	"next_cursor of the page before"
//	@Success		200		{object}	httpapi.Page[Silence]
//	@Failure		400		{object}	problem.Document
//	@Failure		401		{object}	problem.Document
//	@Failure		403		{object}	problem.Document	"needs alerts:read"
//	@Failure		503		{object}	problem.Document
//	@Router			/admin/v1/alert-silences [get]
func (h *Handler) listSilences(c *gin.Context) error {
	q, err := h.Cursors.ListQuery(c, "alert-silences", "ended")
	if err != nil {
		return err
	}
	ended, err := oneOf("ended", q.Get("ended"), []string{"true", "false"})
	if err != nil {
		return err
	}
	found, err := h.Alerts.Silences(c.Request.Context(), alert.SilenceFilter{Ended: ended == "true", Before: q.After, Limit: q.Limit + 1})
	if err != nil {
		return err
	}
	c.JSON(http.StatusOK, httpapi.NewPage(q, found, func(s alert.Silence) string { return s.ID }, showSilence))
	return nil
}

// SilenceRequest is a new silence.
type SilenceRequest struct {
	RuleID  string `json:"rule_id,omitempty"`                   // absent for all rules
	Begins  string `json:"begins,omitempty" format:"date-time"` // absent for now
	Ends    string `json:"ends" format:"date-time"`             // at most 30 days after begins
	Comment string `json:"comment,omitempty" example:"deployment" maxLength:"500"`
}

// createSilence makes a silence.
//
//	@Summary		Silence alerts
//	@Description	Keeps notifications of one rule, or of all, from being sent. Alerts begin and end all the same; one that still fires at the end of the silence is told then. Needs the role operator. Audited as alert_silence.created.
//	@Tags			alerts
//	@Accept			json
//	@Produce		json
//	@Security		BearerAuth
//	@Security		ApiKeyAuth
//	@Param			body	body		SilenceRequest	true	"what, and until when"
//	@Success		201		{object}	Silence
//	@Failure		400		{object}	problem.Document
//	@Failure		401		{object}	problem.Document
//	@Failure		403		{object}	problem.Document	"needs alerts:write"
//	@Failure		404		{object}	problem.Document	"no such rule"
//	@Failure		409		{object}	problem.Document	"there are too many"
//	@Failure		415		{object}	problem.Document
//	@Failure		503		{object}	problem.Document
//	@Router			/admin/v1/alert-silences [post]
func (h *Handler) createSilence(c *gin.Context) error {
	var in SilenceRequest
	if err := httpapi.Bind(c, &in); err != nil {
		return err
	}
	s := alert.Silence{RuleID: in.RuleID, Comment: in.Comment}
	var err error
	if s.Ends, err = httpapi.ParseTime("ends", in.Ends); err != nil {
		return err
	}
	if in.Begins != "" {
		if s.Begins, err = httpapi.ParseTime("begins", in.Begins); err != nil {
			return err
		}
	}
	s, err = h.Alerts.Silence(c.Request.Context(), s)
	if err != nil {
		return err
	}
	c.JSON(http.StatusCreated, showSilence(s))
	return nil
}

// endSilence ends a silence.
//
//	@Summary		End a silence
//	@Description	Ends it now; it stays in the history. Needs the role operator. Audited as alert_silence.ended.
//	@Tags			alerts
//	@Produce		json
//	@Security		BearerAuth
//	@Security		ApiKeyAuth
//	@Param			id	path	string	true	"id of the silence"
//	@Success		204
//	@Failure		401	{object}	problem.Document
//	@Failure		403	{object}	problem.Document	"needs alerts:write"
//	@Failure		404	{object}	problem.Document
//	@Failure		503	{object}	problem.Document
//	@Router			/admin/v1/alert-silences/{id} [delete]
func (h *Handler) endSilence(c *gin.Context) error {
	return gone(c, h.Alerts.EndSilence(c.Request.Context(), c.Param("id")))
}

// gone answers that something is not there any more.
func gone(c *gin.Context, err error) error {
	if err == nil {
		c.Status(http.StatusNoContent)
	}
	return err
}

// Delivery is a notification on its way to a channel.
type Delivery struct {
	ID         string     `json:"id"` // what receivers tell repetitions by
	AlertID    string     `json:"alert_id"`
	ChannelID  string     `json:"channel_id"`
	Channel    string     `json:"channel" example:"ops"`
	Event      string     `json:"event" enums:"alert.firing,alert.resolved"`
	State      string     `json:"state" enums:"pending,delivered,dead"` // dead is what was given up
	Attempts   int        `json:"attempts" example:"1"`
	Error      string     `json:"error,omitempty"` // of the last attempt
	NextAt     *time.Time `json:"next_at,omitempty"`
	CreatedAt  time.Time  `json:"created_at"`
	FinishedAt *time.Time `json:"finished_at,omitempty"`
}

func showDelivery(d alert.Delivery) Delivery {
	out := Delivery{
		ID: d.ID, AlertID: d.AlertID, ChannelID: d.ChannelID, Channel: d.Channel, Event: string(d.Event), State: string(d.State),
		Attempts: d.Attempts, Error: d.Error, CreatedAt: d.CreatedAt, FinishedAt: moment(d.FinishedAt),
	}
	if d.State == alert.DeliveryPending {
		out.NextAt = moment(d.NextAt)
	}
	return out
}

// listDeliveries shows notifications and what became of them.
//
//	@Summary		Notifications
//	@Description	Notifications of alerts, newest first: on their way, delivered, or dead, which is given up after 14 attempts in several hours. Needs the role viewer.
//	@Tags			alerts
//	@Produce		json
//	@Security		BearerAuth
//	@Security		ApiKeyAuth
//	@Param			state		query		string	false	"only these"	Enums(pending, delivered, dead)
//	@Param			alert_id	query		string	false	"only of this alert"
//	@Param			channel_id	query		string	false	"only to this channel"
//	@Param			limit		query		int		false	"items per page"	minimum(1)	maximum(200)	default(50)
//	@Param			cursor		query		string	false	"next_cursor of the page before"
//	@Success		200			{object}	httpapi.Page[Delivery]
//	@Failure		400			{object}	problem.Document
//	@Failure		401			{object}	problem.Document
//	@Failure		403			{object}	problem.Document	"needs alerts:read"
//	@Failure		503			{object}	problem.Document
//	@Router			/admin/v1/alert-deliveries [get]
func (h *Handler) listDeliveries(c *gin.Context) error {
	q, err := h.Cursors.ListQuery(c, "alert-deliveries", "state", "alert_id", "channel_id")
	if err != nil {
		return err
	}
	state, err := oneOf("state", q.Get("state"), alert.DeliveryStates())
	if err != nil {
		return err
	}
	found, err := h.Alerts.Deliveries(c.Request.Context(), alert.DeliveryFilter{
		State: state, AlertID: q.Get("alert_id"), ChannelID: q.Get("channel_id"), Before: q.After, Limit: q.Limit + 1,
	})
	if err != nil {
		return err
	}
	c.JSON(http.StatusOK, httpapi.NewPage(q, found, func(d alert.Delivery) string { return d.ID }, showDelivery))
	return nil
}

// retryDelivery sends again what was given up.
//
//	@Summary		Send a dead notification again
//	@Description	With the same id, and as many attempts as a new one. Needs the role operator. Audited as alert_delivery.retried.
//	@Tags			alerts
//	@Produce		json
//	@Security		BearerAuth
//	@Security		ApiKeyAuth
//	@Param			id	path		string	true	"id of the delivery"
//	@Success		200	{object}	Delivery
//	@Failure		401	{object}	problem.Document
//	@Failure		403	{object}	problem.Document	"needs alerts:write"
//	@Failure		404	{object}	problem.Document
//	@Failure		503	{object}	problem.Document
//	@Router			/admin/v1/alert-deliveries/{id}/retry [post]
func (h *Handler) retryDelivery(c *gin.Context) error {
	d, err := h.Alerts.RetryDelivery(c.Request.Context(), c.Param("id"))
	if err != nil {
		return err
	}
	c.JSON(http.StatusOK, showDelivery(d))
	return nil
}

package alertsapi

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/keywarden/keywarden/pkg/alert"
	"github.com/keywarden/keywarden/pkg/httpapi"
	"github.com/keywarden/keywarden/pkg/problem"
)

type rules interface {
	Rules(ctx context.Context, f alert.RuleFilter) ([]alert.Rule, error)
	Rule(ctx context.Context, id string) (alert.Rule, error)
	CreateRule(ctx context.Context, s alert.Spec) (alert.Rule, error)
	UpdateRule(ctx context.Context, id string, s alert.Spec) (alert.Rule, error)
	DeleteRule(ctx context.Context, id string) error
}

// RuleRequest is what an operator says of a rule.
type RuleRequest struct {
	Name             string            `json:"name" example:"errors of orders" maxLength:"100"`
	Summary          string            `json:"summary,omitempty" maxLength:"500"`                                                                                                                                                                  // is part of notifications
	Enabled          *bool             `json:"enabled,omitempty" default:"true"`                                                                                                                                                                   // a rule that is not goes back to its beginning
	Signal           string            `json:"signal" enums:"client_error_rate,server_error_rate,latency,traffic_drop,refusal_rate,refusal_rise,quota_reached,canary_used,targets_down,certificate_expiry,key_expiry" example:"server_error_rate"` // which figure
	Filter           map[string]string `json:"filter,omitempty" example:"route:orders-api"`                                                                                                                                                        // route, user, key or app; of signals about requests
	Percentile       int               `json:"percentile,omitempty" enums:"50,95,99"`                                                                                                                                                              // of latency; 95 unless given
	Window           string            `json:"window,omitempty" default:"5m" example:"5m"`                                                                                                                                                         // whole minutes, up to 6h
	CompareTo        string            `json:"compare_to,omitempty" example:"24h"`                                                                                                                                                                 // of traffic_drop and refusal_rise: how long before; the window before unless given
	Threshold        float64           `json:"threshold" example:"5"`                                                                                                                                                                              // bad from here on
	ResolveThreshold *float64          `json:"resolve_threshold,omitempty" example:"2"`                                                                                                                                                            // good on the other side of it; the threshold unless given
	For              string            `json:"for,omitempty" default:"0s" example:"2m"`                                                                                                                                                            // how long it is bad before the rule fires
	ResolveAfter     string            `json:"resolve_after,omitempty" default:"0s" example:"5m"`                                                                                                                                                  // how long it is good before that is over
	MinRequests      int64             `json:"min_requests,omitempty" default:"20"`                                                                                                                                                                // with fewer there is no figure
	Severity         string            `json:"severity,omitempty" enums:"info,warning,critical" default:"warning"`
	Channels         []string          `json:"channels,omitempty"` // ids of those who are told
}

// spec reads the request. The durations are text such as 90s, 5m or 2h.
func (in RuleRequest) spec() (alert.Spec, error) {
	s := alert.Spec{
		Name: in.Name, Summary: in.Summary, Enabled: in.Enabled == nil || *in.Enabled, Signal: alert.Signal(in.Signal), Filter: in.Filter,
		Percentile: in.Percentile, Threshold: in.Threshold, ResolveThreshold: in.Threshold, MinRequests: in.MinRequests,
		Severity: alert.Severity(in.Severity), Channels: in.Channels,
	}
	if in.ResolveThreshold != nil {
		s.ResolveThreshold = *in.ResolveThreshold
	}
	var fields []problem.Field
	for _, d := range []struct {
		field, text string
		into        *time.Duration
	}{
		{"window", in.Window, &s.Window}, {"compare_to", in.CompareTo, &s.CompareTo}, {"for", in.For, &s.For},
		{"resolve_after", in.ResolveAfter, &s.ResolveAfter},
	} {
		if d.text == "" {
			continue
		}
		v, err := time.ParseDuration(d.text)
		if err != nil {
			fields = append(fields, problem.Field{Field: d.field, Detail: "must be a duration such as 90s, 5m or 2h"})
		}
		*d.into = v
	}
	if len(fields) > 0 {
		return s, problem.ErrInvalid.WithFields(fields)
	}
	return s, nil
}

// Rule is a rule, and where it stands.
type Rule struct {
	ID               string            `json:"id" example:"0198c1f4-5b2e-7c3a-8f11-2d6f0f6a7b91"`
	Version          int64             `json:"version" example:"1"` // one more with every change
	Name             string            `json:"name" example:"errors of orders"`
	Summary          string            `json:"summary,omitempty"`
	Enabled          bool              `json:"enabled"`
	Signal           string            `json:"signal" example:"server_error_rate"`
	Filter           map[string]string `json:"filter,omitempty"`
	Percentile       int               `json:"percentile,omitempty"`
	Window           string            `json:"window,omitempty" example:"5m"`
	CompareTo        string            `json:"compare_to,omitempty"`
	Threshold        float64           `json:"threshold" example:"5"`
	ResolveThreshold float64           `json:"resolve_threshold" example:"2"`
	Unit             string            `json:"unit,omitempty" example:"%"` // of the thresholds
	For              string            `json:"for" example:"2m"`
	ResolveAfter     string            `json:"resolve_after" example:"5m"`
	MinRequests      int64             `json:"min_requests,omitempty" example:"20"`
	Severity         string            `json:"severity" enums:"info,warning,critical"`
	Channels         []string          `json:"channels"`
	CreatedAt        time.Time         `json:"created_at"`
	UpdatedAt        time.Time         `json:"updated_at"`
	Status           Status            `json:"status"`
}

// Status is where a rule stands.
type Status struct {
	State       string     `json:"state" enums:"ok,pending,firing,no_data"`
	Since       *time.Time `json:"since,omitempty"`
	EvaluatedAt *time.Time `json:"evaluated_at,omitempty"` // absent before the first time
	Value       *float64   `json:"value,omitempty"`        // absent without a figure
	Volume      int64      `json:"volume,omitempty"`
	Subject     string     `json:"subject,omitempty"`
	Reason      string     `json:"reason,omitempty"` // why there is no figure
	AlertID     string     `json:"alert_id,omitempty"`
}

func showRule(r alert.Rule) Rule {
	out := Rule{
		ID: r.ID, Version: r.Version, Name: r.Name, Summary: r.Summary, Enabled: r.Enabled, Signal: string(r.Signal), Filter: r.Filter,
		Percentile: r.Percentile, Threshold: r.Threshold, ResolveThreshold: r.ResolveThreshold, Unit: r.Signal.Unit(),
		For: duration(r.For), ResolveAfter: duration(r.ResolveAfter), MinRequests: r.MinRequests, Severity: string(r.Severity),
		Channels: r.Channels, CreatedAt: r.CreatedAt, UpdatedAt: r.UpdatedAt,
		Status: Status{
			State: string(r.Status.State), Since: moment(r.Status.Since), EvaluatedAt: moment(r.Status.EvaluatedAt),
			Volume: r.Status.Reading.Volume, Subject: r.Status.Reading.Subject, Reason: r.Status.Reading.Why, AlertID: r.Status.AlertID,
		},
	}
	if out.Channels == nil {
		out.Channels = []string{}
	}
	if r.Window > 0 {
		out.Window = duration(r.Window)
	}
	if r.CompareTo > 0 {
		out.CompareTo = duration(r.CompareTo)
	}
	if r.Status.Reading.Known {
		out.Status.Value = &r.Status.Reading.Value
	}
	return out
}

// duration is a duration without the units that are 0: 5m, not 5m0s.
func duration(d time.Duration) string {
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

// listRules shows the rules.
//
//	@Summary		Alert rules
//	@Description	All rules in the order in which they were made, with where they stand. Needs the role viewer.
//	@Tags			alerts
//	@Produce		json
//	@Security		BearerAuth
//	@Security		ApiKeyAuth
//	@Param			limit	query		int		false	"items per page"	minimum(1)	maximum(200)	default(50)
//	@Param			cursor	query		string	false	"next_cursor of the page before"
//	@Success		200		{object}	httpapi.Page[Rule]
//	@Failure		400		{object}	problem.Document
//	@Failure		401		{object}	problem.Document
//	@Failure		403		{object}	problem.Document	"needs alerts:read"
//	@Failure		503		{object}	problem.Document
//	@Router			/admin/v1/alert-rules [get]
func (h *Handler) listRules(c *gin.Context) error {
	q, err := h.Cursors.ListQuery(c, "alert-rules")
	if err != nil {
		return err
	}
	found, err := h.Alerts.Rules(c.Request.Context(), alert.RuleFilter{After: q.After, Limit: q.Limit + 1})
	if err != nil {
		return err
	}
	c.JSON(http.StatusOK, httpapi.NewPage(q, found, func(r alert.Rule) string { return r.ID }, showRule))
	return nil
}

// getRule shows one rule.
//
//	@Summary	An alert rule
//	@Tags		alerts
//	@Produce	json
//	@Security	BearerAuth
//	@Security	ApiKeyAuth
//	@Param		id	path		string	true	"id of the rule"
//	@Success	200	{object}	Rule
//	@Failure	401	{object}	problem.Document
//	@Failure	403	{object}	problem.Document	"needs alerts:read"
//	@Failure	404	{object}	problem.Document
//	@Failure	503	{object}	problem.Document
//	@Router		/admin/v1/alert-rules/{id} [get]
func (h *Handler) getRule(c *gin.Context) error {
	r, err := h.Alerts.Rule(c.Request.Context(), c.Param("id"))
	if err != nil {
		return err
	}
	c.JSON(http.StatusOK, showRule(r))
	return nil
}

// createRule makes a rule.
//
//	@Summary		Make an alert rule
//	@Description	It is evaluated within about half a minute, by one replica at a time. Needs the role operator. Audited as alert_rule.created.
//	@Tags			alerts
//	@Accept			json
//	@Produce		json
//	@Security		BearerAuth
//	@Security		ApiKeyAuth
//	@Param			body	body		RuleRequest	true	"the rule"
//	@Success		201		{object}	Rule
//	@Failure		400		{object}	problem.Document
//	@Failure		401		{object}	problem.Document
//	@Failure		403		{object}	problem.Document	"needs alerts:write"
//	@Failure		404		{object}	problem.Document	"no such channel"
//	@Failure		409		{object}	problem.Document	"the name is taken, or there are too many"
//	@Failure		415		{object}	problem.Document
//	@Failure		503		{object}	problem.Document
//	@Router			/admin/v1/alert-rules [post]
func (h *Handler) createRule(c *gin.Context) error {
	spec, err := bindRule(c)
	if err != nil {
		return err
	}
	r, err := h.Alerts.CreateRule(c.Request.Context(), spec)
	if err != nil {
		return err
	}
	c.Header("Location", "/admin/v1/alert-rules/"+r.ID)
	c.JSON(http.StatusCreated, showRule(r))
	return nil
}

func bindRule(c *gin.Context) (alert.Spec, error) {
	var in RuleRequest
	if err := httpapi.Bind(c, &in); err != nil {
		return alert.Spec{}, err
	}
	return in.spec()
}

// updateRule replaces a rule.
//
//	@Summary		Change an alert rule
//	@Description	Replaces all of it: what is not given has its default. Where the rule stands does not change; one that is disabled goes back to its beginning, and who was told of its alert is told of the end. Needs the role operator. Audited as alert_rule.updated.
//	@Tags			alerts
//	@Accept			json
//	@Produce		json
//	@Security		BearerAuth
//	@Security		ApiKeyAuth
//	@Param			id		path		string		true	"id of the rule"
//	@Param			body	body		RuleRequest	true	"the rule"
//	@Success		200		{object}	Rule
//	@Failure		400		{object}	problem.Document
//	@Failure		401		{object}	problem.Document
//	@Failure		403		{object}	problem.Document	"needs alerts:write"
//	@Failure		404		{object}	problem.Document	"no such rule, or no such channel"
//	@Failure		409		{object}	problem.Document	"the name is taken"
//	@Failure		415		{object}	problem.Document
//	@Failure		503		{object}	problem.Document
//	@Router			/admin/v1/alert-rules/{id} [put]
func (h *Handler) updateRule(c *gin.Context) error {
	spec, err := bindRule(c)
	if err != nil {
		return err
	}
	r, err := h.Alerts.UpdateRule(c.Request.Context(), c.Param("id"), spec)
	if err != nil {
		return err
	}
	c.JSON(http.StatusOK, showRule(r))
	return nil
}

// deleteRule removes a rule.
//
//	@Summary		Delete an alert rule
//	@Description	Who was told of its alert is told of the end. The history stays. Needs the role operator. Audited as alert_rule.deleted.
//	@Tags			alerts
//	@Produce		json
//	@Security		BearerAuth
//	@Security		ApiKeyAuth
//	@Param			id	path	string	true	"id of the rule"
//	@Success		204
//	@Failure		401	{object}	problem.Document
//	@Failure		403	{object}	problem.Document	"needs alerts:write"
//	@Failure		404	{object}	problem.Document
//	@Failure		503	{object}	problem.Document
//	@Router			/admin/v1/alert-rules/{id} [delete]
func (h *Handler) deleteRule(c *gin.Context) error {
	return gone(c, h.Alerts.DeleteRule(c.Request.Context(), c.Param("id")))
}

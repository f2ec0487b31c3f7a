// Package postureapi serves /admin/v1/posture: what weakens this installation.
package postureapi

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/httpapi"
	"github.com/keywarden/keywarden/pkg/posture"
	"github.com/keywarden/keywarden/pkg/problem"
)

// Handler serves the report. All fields are required.
type Handler struct {
	Facts func(ctx context.Context, now time.Time) (posture.Facts, error) // gathers what is looked at
	Guard *httpapi.Guard
	Now   func() time.Time
}

// Mount adds the route. It tells of everybody's keys, so it is for those who reach them.
func (h *Handler) Mount(r gin.IRouter) {
	r.GET("/admin/v1/posture", h.Guard.Require(access.ScopeKeysAdmin), httpapi.Handle(h.report))
}

// Report is what weakens the installation.
type Report struct {
	At         time.Time      `json:"at"`
	Findings   []Finding      `json:"findings"`                  // worst first
	Counts     map[string]int `json:"counts" example:"high:1"`   // by severity, of all findings that are not suppressed
	Suppressed int            `json:"suppressed" example:"0"`    // findings that were left out
	Truncated  bool           `json:"truncated" example:"false"` // there are more findings, or keys that were not looked at
}

// Finding is one weakness of one object.
type Finding struct {
	ID       string `json:"id" example:"route.open:orders"` // the same as long as the weakness is there
	Severity string `json:"severity" enums:"low,medium,high,critical"`
	Kind     string `json:"kind" enums:"route,service,key,user,listener"`
	Object   string `json:"object" example:"orders"` // its name or id
	Why      string `json:"why"`
	Fix      string `json:"fix"`
}

// Bounds of a question.
const (
	defaultLimit = 200
	maxLimit     = 1000
	maxSuppress  = 200
	maxID        = 200 // bytes
)

// report looks for weaknesses.
//
//	@Summary		What weakens this installation
//	@Description	Open routes, keys that are good for too much or too long, services that are spoken to in plaintext, and so on; each with a reason and what to do.
//	@Tags			posture
//	@Produce		json
//	@Security		BearerAuth
//	@Security		ApiKeyAuth
//	@Param			severity	query		string		false	"only findings as bad as this, or worse"	Enums(low, medium, high, critical)
//	@Param			suppress	query		[]string	false	"ids of findings to leave out"				collectionFormat(multi)
//	@Param			limit		query		int			false	"findings in the answer"					minimum(1)	maximum(1000)	default(200)
//	@Success		200			{object}	Report
//	@Failure		400			{object}	problem.Document
//	@Failure		401			{object}	problem.Document
//	@Failure		403			{object}	problem.Document	"needs keys:admin"
//	@Failure		503			{object}	problem.Document
//	@Router			/admin/v1/posture [get]
func (h *Handler) report(c *gin.Context) error {
	q, err := query(c)
	if err != nil {
		return err
	}
	now := h.Now()
	facts, err := h.Facts(c.Request.Context(), now)
	if err != nil {
		return err
	}
	c.JSON(http.StatusOK, show(posture.Make(facts, q, now)))
	return nil
}

func query(c *gin.Context) (posture.Query, error) {
	values := c.Request.URL.Query()
	q := posture.Query{Limit: defaultLimit}
	var fields []problem.Field
	wrong := func(field, format string, args ...any) {
		fields = append(fields, problem.Field{Field: field, Detail: fmt.Sprintf(format, args...)})
	}
	for name, given := range values {
		switch name {
		case "severity", "limit":
			if len(given) > 1 {
				wrong(name, "must be given once")
			}
		case "suppress":
			q.Suppress = given
		default:
			return q, problem.ErrInvalid.WithDetail("The parameters are severity, suppress and limit.")
		}
	}
	if text := values.Get("severity"); text != "" {
		if q.Severity = posture.Severity(text); !slices.Contains(posture.Severities(), q.Severity) {
			wrong("severity", "must be low, medium, high or critical")
		}
	}
	if text := values.Get("limit"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > maxLimit {
			wrong("limit", "must be a number from 1 to %d", maxLimit)
		}
		q.Limit = n
	}
	if len(q.Suppress) > maxSuppress || slices.ContainsFunc(q.Suppress, func(id string) bool { return len(id) > maxID }) {
		wrong("suppress", "must be at most %d ids of at most %d bytes", maxSuppress, maxID)
	}
	if len(fields) > 0 {
		return q, problem.ErrInvalid.WithFields(fields)
	}
	return q, nil
}

func show(r posture.Report) Report {
	out := Report{At: r.At, Findings: make([]Finding, 0, len(r.Findings)), Counts: map[string]int{}, Suppressed: r.Suppressed, Truncated: r.Truncated}
	for s, n := range r.Counts {
		out.Counts[string(s)] = n
	}
	for _, f := range r.Findings {
		out.Findings = append(out.Findings, Finding{ID: f.ID, Severity: string(f.Severity), Kind: f.Kind, Object: f.Object, Why: f.Why, Fix: f.Fix})
	}
	return out
}

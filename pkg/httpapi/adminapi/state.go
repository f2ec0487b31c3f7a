package adminapi

import (
	"net/http"
	"time"

	"github.com/gin-gonic/gin"
)

// State is what this replica serves, and what the others say that they do.
type State struct {
	Source    string     `json:"source" enums:"file,database,kubernetes"`
	Revision  int64      `json:"revision,omitempty" example:"12"` // served here; absent from a file
	Digest    string     `json:"digest,omitempty"`                // of the document that is served here
	AppliedAt *time.Time `json:"applied_at,omitempty"`
	Routes    int        `json:"routes"`

	// LastError is why a newer document is not served here; absent when there is none.
	LastError string     `json:"last_error,omitempty"`
	FailedAt  *time.Time `json:"failed_at,omitempty"`

	Services     []ServiceState `json:"services"`
	Errors       []ObjectError  `json:"errors"` // objects that are not here as the document says
	Certificates []Certificate  `json:"certificates"`

	// Replicas is null while the database, which knows them, is away.
	Replicas []Replica `json:"replicas"`
}

// ServiceState is what this replica knows of a service.
type ServiceState struct {
	Name      string          `json:"name" example:"users"`
	Breaker   string          `json:"breaker,omitempty" enums:"closed,open,half_open"` // absent without a breaker
	Discovery *DiscoveryState `json:"discovery,omitempty"`                             // absent when the targets are in the document
	Targets   []TargetState   `json:"targets"`
}

// DiscoveryState is what this replica knows of where targets are looked up.
type DiscoveryState struct {
	Known     bool       `json:"known"` // it has answered once
	UpdatedAt *time.Time `json:"updated_at,omitempty"`
	Error     string     `json:"error,omitempty"` // why its answers are not, or not wholly, in force
	FailedAt  *time.Time `json:"failed_at,omitempty"`
	Failures  int        `json:"failures"` // in a row
}

// TargetState is what this replica knows of one address of a service.
type TargetState struct {
	URL       string  `json:"url" example:"http://10.0.0.7:8080"`
	Available bool    `json:"available"` // takes requests
	Down      bool    `json:"down"`      // says the active health check
	Ejected   bool    `json:"ejected"`   // says the passive one
	InFlight  int64   `json:"in_flight"`
	LatencyMS float64 `json:"latency_ms"` // average until the header of an answer
}

// ObjectError is an object of the document that is left out, or goes on as it was.
type ObjectError struct {
	Object string `json:"object" enums:"service,route,listener"`
	Name   string `json:"name"`
	Detail string `json:"detail"`
}

// Certificate is one that this replica shows to clients.
type Certificate struct {
	Names    []string  `json:"names"`
	Source   string    `json:"source" example:"file"`
	NotAfter time.Time `json:"not_after"`
	Error    string    `json:"error,omitempty"` // why a newer one is not served
}

// Replica is what one replica says that it serves.
type Replica struct {
	ID        string     `json:"id"`
	Self      bool       `json:"self"` // the one that answers
	Version   string     `json:"version,omitempty"`
	Revision  int64      `json:"revision,omitempty"`
	Digest    string     `json:"digest,omitempty"`
	AppliedAt *time.Time `json:"applied_at,omitempty"`
	LastError string     `json:"last_error,omitempty"`
	FailedAt  *time.Time `json:"failed_at,omitempty"`
	SeenAt    time.Time  `json:"seen_at"`
}

// Moment is t for an answer, nil for the zero time.
func Moment(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

// state shows what is served.
//
//	@Summary		What is served
//	@Description	Which document every replica serves, and what this one knows: targets with their health, breakers, objects that had to be left out, certificates.
//	@Tags			config
//	@Produce		json
//	@Security		BearerAuth
//	@Security		ApiKeyAuth
//	@Success		200	{object}	State
//	@Failure		401	{object}	problem.Document
//	@Failure		403	{object}	problem.Document	"needs config:read"
//	@Failure		503	{object}	problem.Document
//	@Router			/admin/v1/state [get]
func (h *Handler) state(c *gin.Context) error {
	s, err := h.State.State(c.Request.Context())
	if err != nil {
		return err
	}
	c.JSON(http.StatusOK, s)
	return nil
}

// Package systemapi serves what belongs to the running program and no resource:
// health, metrics, signing keys, the API's own documentation, and /api/test.
package systemapi

import (
	"context"
	"net/http"
	"slices"
	"time"

	"github.com/gin-gonic/gin"
	ginswagger "github.com/swaggo/gin-swagger"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/httpapi"
	"github.com/keywarden/keywarden/pkg/problem"
	"github.com/keywarden/keywarden/pkg/session"
)

// Check asks one dependency whether it is there.
type Check struct {
	Name string
	// DataPlane says that without it nothing can be served at all. Without the
	// others only the platform's own API is missing something.
	DataPlane bool
	Ask       func(ctx context.Context) error
}

// Handler serves the system's paths. All fields but Metrics are required.
type Handler struct {
	Guard    *httpapi.Guard
	Checks   []Check
	Draining func() bool         // whether the process is about to stop
	JWKS     func() session.JWKS // public signing keys
	Metrics  http.Handler        // nil when metrics have a listener of their own
}

// Mount adds the routes.
func (h *Handler) Mount(r gin.IRouter) {
	h.MountProbes(r)
	r.GET("/.well-known/jwks.json", h.jwks)
	r.GET("/api/test", h.Guard.Authenticated(), h.test)
	if h.Metrics != nil {
		r.GET("/metrics", h.metrics)
	}
	r.GET("/swagger/*any", h.swagger(ginswagger.WrapHandler(swaggerUI(),
		ginswagger.DeepLinking(true), ginswagger.PersistAuthorization(false), ginswagger.DefaultModelsExpandDepth(-1))))
}

// MountProbes adds the routes of the probes alone.
func (h *Handler) MountProbes(r gin.IRouter) {
	r.GET("/health", h.live)
	r.GET("/healthz", h.live)
	r.GET("/readyz", h.ready)
}

// Health is the answer of the liveness probes.
type Health struct {
	Status string `json:"status" example:"ok"`
}

// live says that the process runs. It never asks a dependency: a database that
// is away is no reason to restart.
//
//	@Summary	Liveness
//	@Tags		system
//	@Produce	json
//	@Success	200	{object}	Health
//	@Router		/health [get]
//	@Router		/healthz [get]
func (h *Handler) live(c *gin.Context) { c.JSON(http.StatusOK, Health{Status: "ok"}) }

// Readiness is the answer of the readiness probe.
type Readiness struct {
	Status  string            `json:"status" enums:"ready,degraded,not_ready"`
	Missing []string          `json:"missing"` // dependencies that do not answer
	Checks  map[string]string `json:"checks"`  // "ok" or "missing" per dependency
}

// checkTimeout bounds one question to a dependency.
const checkTimeout = time.Second

// ready says whether traffic should come here, and which dependency is missing.
//
//	@Summary		Readiness
//	@Description	200 "ready", or "degraded" while known credentials can still be served from memory; 503 "not_ready" otherwise and while draining. With plane=control any missing dependency is 503.
//	@Tags			system
//	@Produce		json
//	@Param			plane	query		string	false	"which plane must be ready"	Enums(data, control)	default(data)
//	@Success		200		{object}	Readiness
//	@Failure		503		{object}	Readiness
//	@Router			/readyz [get]
func (h *Handler) ready(c *gin.Context) {
	answer := Readiness{Status: "ready", Missing: []string{}, Checks: map[string]string{}}
	status := http.StatusOK
	for _, check := range h.Checks {
		if h.ask(c.Request.Context(), check) {
			answer.Checks[check.Name] = "ok"
			continue
		}
		answer.Checks[check.Name] = "missing"
		answer.Missing = append(answer.Missing, check.Name)
		if answer.Status == "ready" {
			answer.Status = "degraded"
		}
		if check.DataPlane || c.Query("plane") == "control" {
			answer.Status, status = "not_ready", http.StatusServiceUnavailable
		}
	}
	if h.Draining() {
		answer.Status, status = "not_ready", http.StatusServiceUnavailable
	}
	c.JSON(status, answer)
}

func (h *Handler) ask(ctx context.Context, check Check) bool {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	return check.Ask(ctx) == nil
}

// jwks publishes the keys that verify access tokens.
//
//	@Summary	Public signing keys
//	@Tags		system
//	@Produce	json
//	@Success	200	{object}	session.JWKS
//	@Failure	503	{object}	problem.Document	"the keys have not been read yet"
//	@Router		/.well-known/jwks.json [get]
func (h *Handler) jwks(c *gin.Context) {
	keys := h.JWKS()
	if len(keys.Keys) == 0 { // an empty set would be kept, and every token called bad
		httpapi.Fail(c, access.ErrUndecided.WithRetryAfter(jwksRetryAfter))
		return
	}
	c.Header("Cache-Control", "public, max-age=300")
	c.JSON(http.StatusOK, keys)
}

// jwksRetryAfter is when a program that started without its database should have
// read its keys.
const jwksRetryAfter = 2 * time.Second

// TestResponse is the answer of GET /api/test.
type TestResponse struct {
	Kind    string   `json:"kind" enums:"user,key"`
	UserID  string   `json:"user_id"`
	Role    string   `json:"role" example:"user"`
	Scopes  []string `json:"scopes"`
	KeyID   string   `json:"key_id,omitempty"`
	KeyName string   `json:"key_name,omitempty"`
}

// test shows who is calling.
//
//	@Summary		Who am I
//	@Description	Checks the credential by the very authenticator that guards proxied calls, and shows the principal.
//	@Tags			system
//	@Produce		json
//	@Security		BearerAuth
//	@Security		ApiKeyAuth
//	@Success		200	{object}	TestResponse
//	@Failure		400	{object}	problem.Document	"more than one credential"
//	@Failure		401	{object}	problem.Document
//	@Failure		403	{object}	problem.Document	"the key is not allowed from this address"
//	@Failure		429	{object}	problem.Document
//	@Failure		503	{object}	problem.Document	"the credential cannot be checked right now"
//	@Router			/api/test [get]
func (h *Handler) test(c *gin.Context) {
	p := httpapi.Principal(c)
	c.JSON(http.StatusOK, TestResponse{
		Kind: string(p.Kind), UserID: p.UserID, Role: string(p.Role), Scopes: p.Scopes, KeyID: p.KeyID, KeyName: p.KeyName,
	})
}

// metrics serves the metrics in Prometheus' text format.
//
//	@Summary	Metrics
//	@Tags		system
//	@Produce	plain
//	@Success	200	{string}	string
//	@Router		/metrics [get]
func (h *Handler) metrics(c *gin.Context) { h.Metrics.ServeHTTP(c.Writer, c.Request) }

// swaggerPolicy lets the documentation's own scripts and styles run, and talk to
// this origin only.
const swaggerPolicy = "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; " +
	"script-src 'self' 'unsafe-inline'; connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"

// errNoFile is the answer below /swagger/ to anything that Swagger UI is not
// made of.
var errNoFile = problem.Define(problem.NotFound, "swagger.no_file", "Swagger UI has no such file; it begins at /swagger/index.html.")

// swaggerFiles are what Swagger UI is made of.
var swaggerFiles = []string{
	"/index.html", "/index.css", "/swagger-initializer.js", "/doc.json", "/favicon-16x16.png", "/favicon-32x32.png",
	"/swagger-ui.css", "/swagger-ui-bundle.js", "/swagger-ui-standalone-preset.js",
}

// swagger serves Swagger UI, whose files are part of the binary, and the
// document as /swagger/doc.json.
func (h *Handler) swagger(ui gin.HandlerFunc) gin.HandlerFunc {
	return httpapi.Handle(func(c *gin.Context) error {
		file := c.Param("any")
		if file == "/" {
			c.Redirect(http.StatusFound, "/swagger/index.html")
			return nil
		}
		if !slices.Contains(swaggerFiles, file) {
			return errNoFile
		}
		c.Header("Content-Security-Policy", swaggerPolicy)
		c.Header("Cache-Control", "no-cache")
		c.Request.Header.Del("Range") // thousands of small ranges would be larger than any of the files
		// ui looks for the name anywhere in the target, query included, and takes
		// what stands before it at the first request as its prefix for good.
		c.Request.RequestURI = "/swagger" + file
		ui(c)
		return nil
	})
}

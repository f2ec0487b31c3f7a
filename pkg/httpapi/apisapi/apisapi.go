// Package apisapi serves /admin/v1/apis: descriptions of APIs come in, and become
// routes of the gateway document.
//
// What an import does to a document is package imports', and under which conditions a
// document is changed package adminapi's; this one brings them together, and bounds
// what one import can cost.
package apisapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/gin-gonic/gin"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/httpapi"
	"github.com/keywarden/keywarden/pkg/httpapi/adminapi"
	"github.com/keywarden/keywarden/pkg/openapi"
	"github.com/keywarden/keywarden/pkg/openapi/compile"
	"github.com/keywarden/keywarden/pkg/openapi/imports"
	"github.com/keywarden/keywarden/pkg/problem"
	"github.com/keywarden/keywarden/pkg/spec"
)

// Errors of this package.
var (
	ErrInvalid = problem.Define(problem.Unprocessable, "apis.invalid",
		"The description cannot be imported; nothing was changed.")
	ErrService = problem.Define(problem.Conflict, "apis.service_differs",
		"The gateway document has another service of the name that the API would add.")
	ErrUnknown = problem.Define(problem.NotFound, "apis.unknown",
		"The gateway document has no API of this name.")
)

// Handler serves /admin/v1/apis. All fields are required.
type Handler struct {
	// Document makes the changes. It must be mounted, too.
	Document *adminapi.Handler
	Guard    *httpapi.Guard
	Cursors  httpapi.Cursors

	working chan struct{} // holds a token while a description is worked on
	listing chan struct{} // holds a token while listed is looked at
	listed  list
}

// Mount adds the routes.
func (h *Handler) Mount(r gin.IRouter) {
	// One description of the largest takes some hundred megabytes meanwhile.
	h.working, h.listing = make(chan struct{}, 1), make(chan struct{}, 1)
	read, write := h.Guard.Require(access.ScopeConfigRead), h.Guard.Require(access.ScopeConfigWrite)
	r = r.Group("/admin/v1")
	r.GET("/apis", read, httpapi.Handle(h.list))
	r.POST("/apis", write, httpapi.BodyLimit(openapi.MaxBytes), httpapi.Handle(h.post))
	r.GET("/apis/:name", read, httpapi.Handle(h.get))
	r.DELETE("/apis/:name", write, httpapi.Handle(h.remove))
}

// maxListed bounds each list of an answer.
const maxListed = 1000

// Routes are names of routes that an import adds, removes and changes, of each the
// first 1000.
type Routes struct {
	Added   []string `json:"added" example:"people.listUsers"`
	Removed []string `json:"removed"`
	Changed []string `json:"changed"`
	More    int      `json:"more,omitempty"` // names that were left out
}

// Change is something that clients of the API notice.
type Change struct {
	Kind      string `json:"kind" enums:"added,removed,changed"`
	Operation string `json:"operation" example:"GET /users/{id}"`             // method and path; by routes alone, as they match it
	Detail    string `json:"detail,omitempty" example:"security is stricter"` // absent for a whole operation
	Breaking  bool   `json:"breaking"`
}

// Note is something that the import loses, or takes otherwise than it is meant.
type Note struct {
	Field  string `json:"field"`
	Line   int    `json:"line,omitempty"`
	Column int    `json:"column,omitempty"`
	Detail string `json:"detail"`
}

// Imported is the answer to an import: what became of the gateway document, or
// without apply=true what would, and what clients of the API notice.
type Imported struct {
	adminapi.Outcome
	API      API      `json:"api"`
	Routes   Routes   `json:"routes"`
	Services []string `json:"services_added"`

	// ComparedWith says how much is known of the API before: its description, where the
	// document holds it; its routes alone; or nothing, when it is new. It is absent when
	// the document would not be valid.
	ComparedWith string `json:"compared_with,omitempty" enums:"description,routes,nothing"`

	Breaking   bool     `json:"breaking"` // one of the changes breaks clients
	Operations []Change `json:"operations"`
	MoreOps    int      `json:"operations_more,omitempty"` // changes that were left out
	Notes      []Note   `json:"notes"`
}

// post imports a description.
//
//	@Summary		Import an API
//	@Description	Makes routes of an OpenAPI document (2.0, 3.0 or 3.1) in JSON or YAML, up to 16 MiB: one for each operation, in the place of those that the API has in the gateway document. Without apply=true nothing is changed: the answer says what would be, what of it breaks clients, and what is lost. With apply=true the change is a new revision of the gateway document, under the conditions of PUT /admin/v1/config. References to other documents are refused and never fetched.
//	@Tags			config
//	@Accept			json
//	@Accept			application/yaml
//	@Accept			application/openapi+json
//	@Accept			application/openapi+yaml
//	@Produce		json
//	@Security		BearerAuth
//	@Security		ApiKeyAuth
//	@Param			name			query		string	true	"name of the API, with which the names of its routes begin: at most 24 letters, digits, '-' and '_'"
//	@Param			service			query		string	false	"URL of the service, or the name of one of the gateway document; default is what the description says"
//	@Param			hosts			query		string	false	"hosts of the gateway at which the API is, with commas; default is every host"
//	@Param			base_path		query		string	false	"what becomes of the base path before the service"	Enums(auto, keep, strip)	default(auto)
//	@Param			validate		query		string	false	"put the description into the gateway document, and hold requests to it"	Enums(true, false)
//	@Param			apply			query		string	false	"make the change"	Enums(true, false)
//	@Param			message			query		string	false	"why, for people; one line of at most 500 characters"
//	@Param			If-Match		header		string	false	"ETag of the gateway document in force; needed with apply=true"
//	@Param			If-None-Match	header		string	false	"* when there is none yet"
//	@Param			body			body		object	true	"the OpenAPI document"
//	@Success		200				{object}	Imported
//	@Header			200				{string}	ETag	"of the gateway document in force now, with apply=true"
//	@Failure		400				{object}	problem.Document
//	@Failure		401				{object}	problem.Document
//	@Failure		403				{object}	problem.Document	"needs config:write"
//	@Failure		409				{object}	problem.Document	"the gateway document is a file, or has another service of the name"
//	@Failure		412				{object}	problem.Document	"the gateway document in force is another one"
//	@Failure		413				{object}	problem.Document
//	@Failure		415				{object}	problem.Document
//	@Failure		422				{object}	problem.Document	"the description cannot be imported, or the gateway document would not be valid"
//	@Failure		428				{object}	problem.Document	"without If-Match and If-None-Match"
//	@Failure		503				{object}	problem.Document	"the database is away, or the description takes too long"
//	@Router			/admin/v1/apis [post]
func (h *Handler) post(c *gin.Context) error {
	in, err := readRequest(c)
	if err != nil {
		return err
	}
	var text []byte
	var done result
	ctx := c.Request.Context()
	out, err := h.Document.Edit(ctx, c.Request.Header, adminapi.Edit{
		DryRun: !in.apply, Message: in.message, First: true,
		Read: func() (err error) {
			text, err = readBody(c)
			return err
		},
		Make: func(ctx context.Context, before spec.Document) (spec.Document, error) {
			var err error
			done, err = h.work(ctx, func() result { return importInto(before, text, in.options) })
			if err != nil {
				return spec.Document{}, err
			}
			return done.document()
		},
	})
	if err != nil {
		return err
	}
	if in.apply {
		c.Header("ETag", `"`+out.Digest+`"`)
	}
	c.JSON(http.StatusOK, showImported(out, done))
	return nil
}

// request is the query string of an import.
type request struct {
	options imports.Options
	message string
	apply   bool
}

func readRequest(c *gin.Context) (in request, err error) {
	given, err := adminapi.Query(c, "name", "service", "hosts", "base_path", "validate", "apply", "message")
	if err != nil {
		return in, err
	}
	var fields []problem.Field
	wrong := func(field, detail string) { fields = append(fields, problem.Field{Field: field, Detail: detail}) }
	flag := func(name string) bool {
		if v := given[name]; v != "" && v != "true" && v != "false" {
			wrong(name, "must be true or false")
		}
		return given[name] == "true"
	}
	in.apply, in.options.Hold, in.message = flag("apply"), flag("validate"), given["message"]
	in.options.API, in.options.Service = given["name"], given["service"]
	if !compile.ValidName(in.options.API) {
		wrong("name", "must consist of at most 24 letters, digits, hyphens and underscores, and begin with a letter or digit")
	}
	if hosts := given["hosts"]; hosts != "" {
		in.options.Hosts = strings.Split(hosts, ",")
	}
	in.options.Base = compile.BasePath(given["base_path"])
	if !slices.Contains([]compile.BasePath{"", compile.BaseAuto, compile.BaseKeep, compile.BaseStrip}, in.options.Base) {
		wrong("base_path", "must be auto, keep or strip")
	}
	if media, _, err := mime.ParseMediaType(c.GetHeader("Content-Type")); err != nil || !slices.Contains(mediaTypes(), media) {
		return in, httpapi.ErrMediaType.WithDetail("The body must be an OpenAPI document as application/json or application/yaml.")
	}
	if len(fields) > 0 {
		return in, problem.ErrInvalid.WithFields(fields)
	}
	return in, nil
}

// mediaTypes are those of descriptions: the registered ones of JSON, YAML (RFC 9512)
// and OpenAPI, and what was used before there were any.
func mediaTypes() []string {
	return []string{
		"application/json", "application/yaml", "application/openapi+json", "application/openapi+yaml",
		"application/x-yaml", "text/yaml", "text/x-yaml",
		"application/vnd.oai.openapi", "application/vnd.oai.openapi+json", "application/vnd.oai.openapi+yaml",
	}
}

func readBody(c *gin.Context) ([]byte, error) {
	text, err := io.ReadAll(c.Request.Body)
	var tooLarge *http.MaxBytesError
	if err != nil && !errors.As(err, &tooLarge) {
		err = problem.ErrInvalid.WithDetail("The body could not be read.").With(err)
	}
	return text, err
}

// result is what came of an import, as far as it went.
type result struct {
	description *imports.Description
	plan        *imports.Plan
	err         error
}

func importInto(before spec.Document, text []byte, o imports.Options) (r result) {
	if r.description, r.err = imports.Read(text, o); r.err != nil {
		r.err = refused(r.err)
		return r
	}
	r.plan, r.err = r.description.Into(before)
	if errors.Is(r.err, compile.ErrService) {
		r.err = ErrService.WithField("service", "is another one in the gateway document: give the API another name, or say the name of the service to use, or change its url").With(r.err)
	}
	return r
}

func (r result) document() (spec.Document, error) {
	if r.err != nil {
		return spec.Document{}, r.err
	}
	return r.plan.Document, nil
}

// refused tells what is wrong with a description.
func refused(err error) error {
	var invalid *openapi.Violations
	if !errors.As(err, &invalid) {
		return ErrInvalid.With(err)
	}
	fields := make([]problem.Field, 0, len(invalid.List)+1)
	for _, v := range invalid.List {
		fields = append(fields, problem.Field{Field: v.Path, Detail: v.Detail, Line: v.Line, Column: v.Column})
	}
	if invalid.More > 0 {
		fields = append(fields, problem.Field{Detail: "There are more; these are the first."})
	}
	return ErrInvalid.WithFields(fields)
}

// work waits for its turn and does something that does not look at ctx. When the time
// of the call is over, it is left to its end, which limits of size bound, and holds
// its turn until then: what nobody waits for any more does not pile up.
func (h *Handler) work(ctx context.Context, do func() result) (result, error) {
	select {
	case h.working <- struct{}{}:
	case <-ctx.Done():
		return result{}, ctx.Err()
	}
	done := make(chan result, 1)
	go func() {
		defer func() { <-h.working }()
		defer func() {
			// No handler is below us that would turn it into an answer.
			if p := recover(); p != nil {
				done <- result{err: fmt.Errorf("importing a description: panic: %v\n%s", p, debug.Stack())}
			}
		}()
		done <- do()
	}()
	select {
	case r := <-done:
		return r, nil
	case <-ctx.Done():
		return result{}, ctx.Err()
	}
}

func showImported(out adminapi.Outcome, r result) Imported {
	answer := Imported{
		Outcome: out, API: showDescription(r.description), Services: []string{}, Operations: []Change{}, Notes: []Note{},
		Routes: Routes{Added: []string{}, Removed: []string{}, Changed: []string{}},
	}
	for _, n := range r.description.Notes {
		answer.Notes = append(answer.Notes, Note{Field: n.Path, Line: n.Line, Column: n.Column, Detail: n.Detail})
	}
	p := r.plan
	if p == nil {
		return answer
	}
	answer.Services = append(answer.Services, p.Services...)
	answer.Routes = Routes{Added: first(p.Added), Removed: first(p.Removed), Changed: first(p.Changed)}
	answer.Routes.More = len(p.Added) + len(p.Removed) + len(p.Changed) - len(answer.Routes.Added) - len(answer.Routes.Removed) - len(answer.Routes.Changed)
	answer.ComparedWith, answer.Breaking = string(p.Basis), openapi.Breaking(p.Operations)
	for _, o := range first(p.Operations) {
		answer.Operations = append(answer.Operations, Change{Kind: string(o.Kind), Operation: o.Operation, Detail: o.Detail, Breaking: o.Breaking})
	}
	answer.MoreOps = len(p.Operations) - len(answer.Operations)
	return answer
}

// first are as many of a list as an answer has.
func first[T any](list []T) []T { return append([]T{}, list[:min(len(list), maxListed)]...) }

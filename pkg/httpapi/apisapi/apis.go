package apisapi

import (
	"context"
	"errors"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/gin-gonic/gin"

	"github.com/keywarden/keywarden/pkg/httpapi"
	"github.com/keywarden/keywarden/pkg/httpapi/adminapi"
	"github.com/keywarden/keywarden/pkg/openapi/imports"
	"github.com/keywarden/keywarden/pkg/problem"
	"github.com/keywarden/keywarden/pkg/spec"
)

// API is an API of the gateway document.
type API struct {
	Name     string   `json:"name" example:"people"`
	Title    string   `json:"title,omitempty" example:"People"`             // absent where the document has no description
	Version  string   `json:"version,omitempty" example:"1.0.0"`            // of the API
	Dialect  string   `json:"openapi,omitempty" enums:"2.0,3.0,3.1"`        // version of OpenAPI
	Held     bool     `json:"described"`                                    // the document has the description, or names its file
	Routes   int      `json:"routes" example:"12"`                          // how many
	Services []string `json:"services" example:"people"`                    // names of those that the routes lead to
	File     string   `json:"openapi_file,omitempty" example:"people.yaml"` // with the description
}

// Route is a route of an API, in short; GET /admin/v1/routes/{name} has all of it.
type Route struct {
	Name      string   `json:"name" example:"people.getUser"`
	Methods   []string `json:"methods,omitempty" example:"GET"` // absent for all
	Hosts     []string `json:"hosts,omitempty"`                 // absent for all
	Exact     string   `json:"exact,omitempty"`
	Prefix    string   `json:"prefix,omitempty"`
	Regex     string   `json:"regex,omitempty" example:"/people/users/[^/]+"`
	Service   string   `json:"service,omitempty" example:"people"`
	Operation string   `json:"operation,omitempty" example:"getUser"` // of the description that requests are held to
}

// APIDetail is an API with its routes, in the order of the document.
type APIDetail struct {
	API
	Items []Route `json:"items"`

	// Text is the description as it was imported, where the gateway document holds it.
	Text string `json:"description,omitempty"`
}

// list are the APIs of the document that was read last: descriptions take long to
// read.
type list struct {
	digest string
	apis   []imports.API
}

// apis are those of the document in force, by name.
func (h *Handler) apis(ctx context.Context) (list, error) {
	select {
	case h.listing <- struct{}{}:
	case <-ctx.Done():
		return list{}, ctx.Err()
	}
	defer func() { <-h.listing }()
	doc, digest, err := h.Document.Document(ctx, h.listed.digest)
	if err != nil {
		return list{}, err
	}
	if digest != h.listed.digest {
		h.listed = list{digest, imports.List(&doc)}
	}
	return h.listed, nil
}

func (l list) etag() string { return `"` + l.digest + `"` }

func show(a imports.API) API {
	return API{
		Name: a.Name, Title: a.Title, Version: a.Version, Dialect: string(a.Dialect), Held: a.Text+a.File != "", File: a.File,
		Routes: len(a.Routes), Services: append([]string{}, a.Services...),
	}
}

// showDescription is what an API will be.
func showDescription(d *imports.Description) API {
	return show(d.Summary())
}

// list shows the APIs.
//
//	@Summary		List APIs
//	@Description	Those of which the gateway document has routes, named after the API with a dot (people.listUsers), or a description, by name. A cursor is good for the document that the page before is of.
//	@Tags			config
//	@Produce		json
//	@Security		BearerAuth
//	@Security		ApiKeyAuth
//	@Param			limit	query		int		false	"items per page"	minimum(1)	maximum(200)	default(50)
//	@Param			cursor	query		string	false	"next_cursor of the page before"
//	@Success		200		{object}	httpapi.Page[API]
//	@Header			200		{string}	ETag	"of the gateway document"
//	@Failure		400		{object}	problem.Document
//	@Failure		401		{object}	problem.Document
//	@Failure		403		{object}	problem.Document	"needs config:read"
//	@Failure		404		{object}	problem.Document	"there is no gateway document yet"
//	@Failure		503		{object}	problem.Document
//	@Router			/admin/v1/apis [get]
func (h *Handler) list(c *gin.Context) error {
	known, err := h.apis(c.Request.Context())
	if err != nil {
		return err
	}
	q, err := h.Cursors.ListQuery(c, "apis@"+known.digest)
	if err != nil {
		return err
	}
	from, found := slices.BinarySearchFunc(known.apis, q.After, func(a imports.API, name string) int { return strings.Compare(a.Name, name) })
	if found {
		from++
	}
	rest := known.apis[from:]
	c.Header("ETag", known.etag())
	c.JSON(http.StatusOK, httpapi.NewPage(q, rest[:min(len(rest), q.Limit+1)], func(a imports.API) string { return a.Name }, show))
	return nil
}

// get shows one API.
//
//	@Summary	Get an API
//	@Tags		config
//	@Produce	json
//	@Security	BearerAuth
//	@Security	ApiKeyAuth
//	@Param		name	path		string	true	"name of the API"
//	@Success	200		{object}	APIDetail
//	@Header		200		{string}	ETag	"of the gateway document"
//	@Failure	401		{object}	problem.Document
//	@Failure	403		{object}	problem.Document	"needs config:read"
//	@Failure	404		{object}	problem.Document
//	@Failure	503		{object}	problem.Document
//	@Router		/admin/v1/apis/{name} [get]
func (h *Handler) get(c *gin.Context) error {
	known, err := h.apis(c.Request.Context())
	if err != nil {
		return err
	}
	i := slices.IndexFunc(known.apis, func(a imports.API) bool { return a.Name == c.Param("name") })
	if i < 0 {
		return ErrUnknown
	}
	a := known.apis[i]
	out := APIDetail{API: show(a), Items: make([]Route, 0, len(a.Routes)), Text: a.Text}
	for _, r := range a.Routes {
		out.Items = append(out.Items, showRoute(r))
	}
	c.Header("ETag", known.etag())
	c.JSON(http.StatusOK, out)
	return nil
}

func showRoute(r *spec.Route) Route {
	m := r.Match
	shown := Route{Name: r.Name, Methods: m.Methods, Hosts: m.Hosts, Exact: m.Path.Exact, Prefix: m.Path.Prefix, Regex: m.Path.Regex, Service: r.Service}
	if r.Operation != nil {
		shown.Operation = r.Operation.ID
	}
	return shown
}

// remove removes an API.
//
//	@Summary		Delete an API
//	@Description	Removes its routes and its description in a new revision of the gateway document. Its services stay. With dry_run=true nothing is changed.
//	@Tags			config
//	@Produce		json
//	@Security		BearerAuth
//	@Security		ApiKeyAuth
//	@Param			name		path		string	true	"name of the API"
//	@Param			If-Match	header		string	true	"ETag of the gateway document in force"
//	@Param			dry_run		query		string	false	"only say what would change"	Enums(true, false)
//	@Param			message		query		string	false	"why, for people"
//	@Success		200			{object}	adminapi.Outcome
//	@Header			200			{string}	ETag	"of the gateway document in force now"
//	@Failure		400			{object}	problem.Document
//	@Failure		401			{object}	problem.Document
//	@Failure		403			{object}	problem.Document	"needs config:write"
//	@Failure		404			{object}	problem.Document
//	@Failure		409			{object}	problem.Document	"routes of others use its description, errors names them; or the gateway document is a file"
//	@Failure		412			{object}	problem.Document	"the gateway document in force is another one"
//	@Failure		428			{object}	problem.Document	"without If-Match"
//	@Failure		503			{object}	problem.Document
//	@Router			/admin/v1/apis/{name} [delete]
func (h *Handler) remove(c *gin.Context) error {
	given, err := adminapi.Query(c, "dry_run", "message")
	if err != nil {
		return err
	}
	if v := given["dry_run"]; v != "" && v != "true" && v != "false" {
		return problem.ErrInvalid.WithField("dry_run", "must be true or false")
	}
	out, err := h.Document.Edit(c.Request.Context(), c.Request.Header, adminapi.Edit{
		DryRun: given["dry_run"] == "true", Message: given["message"],
		Make: func(_ context.Context, before spec.Document) (spec.Document, error) {
			return without(before, c.Param("name"))
		},
	})
	if err != nil {
		return err
	}
	if !out.DryRun {
		c.Header("ETag", `"`+out.Digest+`"`)
	}
	c.JSON(http.StatusOK, out)
	return nil
}

// without is the document without the API.
func without(before spec.Document, api string) (spec.Document, error) {
	after, found, err := imports.Remove(before, api)
	var invalid *spec.Violations
	switch {
	case !found:
		return before, ErrUnknown
	case errors.As(err, &invalid):
		return before, inUse(after, invalid)
	}
	return after, err
}

// user is the place of a route that a violation is about.
var user = regexp.MustCompile(`^routes\[([0-9]+)\]\.?`)

// inUse names the routes that are not valid any more, now that the API is gone.
func inUse(after spec.Document, invalid *spec.Violations) error {
	const most = 20
	var fields []problem.Field
	for _, v := range invalid.List {
		field := problem.Field{Field: v.Path, Detail: v.Detail}
		if m := user.FindStringSubmatch(v.Path); m != nil {
			if i, err := strconv.Atoi(m[1]); err == nil && i < len(after.Routes) {
				field = problem.Field{Field: "routes/" + after.Routes[i].Name, Detail: "names it in " + v.Path[len(m[0]):]}
			}
		}
		if len(fields) < most && !slices.Contains(fields, field) {
			fields = append(fields, field)
		}
	}
	return adminapi.ErrInUse.WithFields(fields)
}

package adminapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/gin-gonic/gin"

	"github.com/keywarden/keywarden/pkg/httpapi"
	"github.com/keywarden/keywarden/pkg/problem"
	"github.com/keywarden/keywarden/pkg/spec"
)

// The lists of named objects, by their members of the document.
const (
	services = "services"
	routes   = "routes"
)

// typeMergePatch is RFC 7396's.
const typeMergePatch = "application/merge-patch+json"

// ObjectPage is one page of a list of services or routes, in the order of the
// document.
type ObjectPage struct {
	Items      []json.RawMessage `json:"items" swaggertype:"array,object"`
	NextCursor string            `json:"next_cursor,omitempty"` // absent on the last page
}

// parts is a document in parts: its members, and one of its lists.
type parts struct {
	members map[string]json.RawMessage
	list    string
	objects []json.RawMessage
}

func split(doc document, list string) (p parts, err error) {
	p.list = list
	if err := json.Unmarshal(doc.text, &p.members); err != nil {
		return p, fmt.Errorf("decoding the gateway document: %w", err)
	}
	if err := json.Unmarshal(p.members[list], &p.objects); err != nil {
		return p, fmt.Errorf("decoding the gateway document: %w", err)
	}
	return p, nil
}

// nameOf is the name of an object of a document.
func nameOf(object json.RawMessage) string {
	var head struct{ Name string }
	_ = json.Unmarshal(object, &head) // it comes from a valid document
	return head.Name
}

// index is the place of the object of that name, or -1.
func (p *parts) index(name string) int {
	return slices.IndexFunc(p.objects, func(o json.RawMessage) bool { return nameOf(o) == name })
}

// join reads the document that the parts make.
func (p *parts) join() (spec.Document, error) {
	list, err := json.Marshal(p.objects)
	if err != nil {
		return spec.Document{}, err
	}
	p.members[p.list] = list
	text, err := json.Marshal(p.members)
	if err != nil {
		return spec.Document{}, err
	}
	return parse(typeJSON, text)
}

// at is the path of an object in messages about the document.
func (p *parts) at(i int) string { return p.list + "[" + strconv.Itoa(i) + "]" }

// ---- reading

func (h *Handler) listObjects(c *gin.Context, list string) error {
	doc, err := h.current(c.Request.Context())
	if err != nil {
		return err
	}
	// The digest makes a cursor good for the pages of one document only.
	q, err := h.Cursors.ListQuery(c, list+"@"+doc.digest)
	if err != nil {
		return err
	}
	p, err := split(doc, list)
	if err != nil {
		return err
	}
	from, _ := strconv.Atoi(q.After) // empty, or of a cursor that we made
	found := make([]int, 0, q.Limit+1)
	for i := from; i < len(p.objects) && len(found) <= q.Limit; i++ {
		found = append(found, i)
	}
	c.Header("ETag", etag(doc.digest))
	c.JSON(http.StatusOK, httpapi.NewPage(q, found, func(i int) string { return strconv.Itoa(i + 1) },
		func(i int) json.RawMessage { return p.objects[i] }))
	return nil
}

func (h *Handler) getObject(c *gin.Context, list string) error {
	doc, err := h.current(c.Request.Context())
	if err != nil {
		return err
	}
	p, err := split(doc, list)
	if err != nil {
		return err
	}
	i := p.index(c.Param("name"))
	if i < 0 {
		return ErrUnknownObject
	}
	c.Header("ETag", etag(doc.digest))
	c.Data(http.StatusOK, typeJSON, p.objects[i])
	return nil
}

// ---- changing

// objectChange is change for one object, which the first document cannot be.
func (h *Handler) objectChange(c *gin.Context) (change, error) {
	in, err := h.change(c)
	if err == nil && in.put.Create {
		err = problem.ErrInvalid.WithField("If-None-Match", "is for the first document; send If-Match")
	}
	return in, err
}

// edit changes one object of the list: it gets the parts and the place of the
// object, -1 for none, and returns the place after the change, -1 when it is gone.
type edit func(p *parts, i int) (int, error)

// editObject reads the document, changes one of its objects, and applies the
// whole on the condition that nobody else has changed it meanwhile.
func (h *Handler) editObject(c *gin.Context, in change, list string, e edit) error {
	ctx := c.Request.Context()
	end, err := h.begin(ctx)
	if err != nil {
		return err
	}
	defer end()
	base, p, err := h.base(ctx, in, list)
	if err != nil {
		return err
	}
	before := p.index(c.Param("name"))
	i, err := e(&p, before)
	if err != nil {
		return err
	}
	doc, err := p.join()
	if fields, invalid := violations(err); invalid {
		if i < 0 {
			return p.inUse(fields)
		}
		out, err := refuse(in, base, within(fields, p.at(i)))
		if err != nil {
			return err
		}
		return answer(c, out, http.StatusOK)
	}
	if err != nil {
		return err
	}
	status := http.StatusOK
	if before < 0 {
		status = http.StatusCreated
	}
	in.put.IfMatch = base.digest
	out, err := h.apply(ctx, in, base, doc)
	if err != nil {
		return err
	}
	return answer(c, out, status)
}

// base is the document that a change is made to, in parts. The conditions are
// looked at first: what would be wrong with another document is of no interest.
func (h *Handler) base(ctx context.Context, in change, list string) (document, parts, error) {
	doc, err := h.current(ctx)
	if err != nil {
		return doc, parts{}, err
	}
	if err := in.check(doc); err != nil {
		return doc, parts{}, err
	}
	p, err := split(doc, list)
	return doc, p, err
}

// within makes paths relative to the object that is changed.
func within(fields []problem.Field, object string) []problem.Field {
	for i, f := range fields {
		if path, ok := strings.CutPrefix(f.Field, object+"."); ok {
			fields[i].Field = path
		}
	}
	return fields
}

// user is the place of the object that a violation is about.
var user = regexp.MustCompile(`^([a-z_]+)\[([0-9]+)\]`)

// inUse names the objects that are not valid any more, now that one is gone.
func (p *parts) inUse(violations []problem.Field) error {
	const most = 20
	var fields []problem.Field
	for _, v := range violations {
		field, where := v.Field, ""
		if m := user.FindStringSubmatch(v.Field); m != nil {
			var objects []json.RawMessage
			i, err := strconv.Atoi(m[2])
			if json.Unmarshal(p.members[m[1]], &objects) == nil && err == nil && i < len(objects) {
				field, where = m[1]+"/"+nameOf(objects[i]), " in "+strings.TrimPrefix(v.Field[len(m[0]):], ".")
			}
		}
		seen := slices.ContainsFunc(fields, func(f problem.Field) bool { return f.Field == field })
		if !seen && len(fields) < most {
			fields = append(fields, problem.Field{Field: field, Detail: "names it" + where})
		}
	}
	return ErrInUse.WithFields(fields)
}

// object reads the JSON object of the body, which gets the name of the path.
func object(c *gin.Context, types ...string) (map[string]any, error) {
	media, _, err := mime.ParseMediaType(c.GetHeader("Content-Type"))
	if err != nil || !slices.Contains(types, media) {
		return nil, httpapi.ErrMediaType.WithDetail("The body must be %s.", strings.Join(types, " or "))
	}
	body, err := io.ReadAll(c.Request.Body)
	if err != nil {
		var tooLarge *http.MaxBytesError
		if errors.As(err, &tooLarge) {
			return nil, err
		}
		return nil, problem.ErrInvalid.WithDetail("The body could not be read.").With(err)
	}
	var members map[string]any
	if err := httpapi.DecodeStrict(body, &members); err != nil {
		return nil, err
	}
	if members, err = decode(body); err != nil {
		return nil, err
	}
	return members, named(c, members)
}

// decode reads an object, with numbers as they are written.
func decode(text []byte) (members map[string]any, err error) {
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	err = dec.Decode(&members)
	return members, err
}

// named gives the object the name of the path, which it may not contradict.
func named(c *gin.Context, members map[string]any) error {
	name := c.Param("name")
	if given, ok := members["name"]; ok && given != name {
		return problem.ErrInvalid.WithField("name", "must be the one of the path; an object gets another name by being put under it and deleted under the old one")
	}
	members["name"] = name
	return nil
}

// set puts the object at its place, or at the end of the list.
func (p *parts) set(i int, members map[string]any) (int, error) {
	text, err := json.Marshal(members)
	if err != nil {
		return i, err
	}
	if i < 0 {
		p.objects = append(p.objects, text)
		return len(p.objects) - 1, nil
	}
	p.objects[i] = text
	return i, nil
}

func (h *Handler) putObject(c *gin.Context, list string) error {
	in, err := h.objectChange(c)
	if err != nil {
		return err
	}
	members, err := object(c, typeJSON)
	if err != nil {
		return err
	}
	return h.editObject(c, in, list, func(p *parts, i int) (int, error) { return p.set(i, members) })
}

func (h *Handler) patchObject(c *gin.Context, list string) error {
	in, err := h.objectChange(c)
	if err != nil {
		return err
	}
	patch, err := object(c, typeMergePatch, typeJSON)
	if err != nil {
		return err
	}
	return h.editObject(c, in, list, func(p *parts, i int) (int, error) {
		if i < 0 {
			return i, ErrUnknownObject
		}
		members, err := decode(p.objects[i])
		if err != nil {
			return i, err
		}
		return p.set(i, merge(members, patch))
	})
}

// merge applies a merge patch (RFC 7396) to an object, which it may change.
func merge(target, patch map[string]any) map[string]any {
	if target == nil {
		target = map[string]any{}
	}
	for name, value := range patch {
		switch value := value.(type) {
		case nil:
			delete(target, name)
		case map[string]any:
			inner, _ := target[name].(map[string]any)
			target[name] = merge(inner, value)
		default:
			target[name] = value
		}
	}
	return target
}

func (h *Handler) deleteObject(c *gin.Context, list string) error {
	in, err := h.objectChange(c)
	if err != nil {
		return err
	}
	return h.editObject(c, in, list, func(p *parts, i int) (int, error) {
		if i < 0 {
			return i, ErrUnknownObject
		}
		p.objects = slices.Delete(p.objects, i, i+1)
		return -1, nil
	})
}

// ---- services

// listServices shows the services.
//
//	@Summary		List services
//	@Description	In the order of the document. A cursor is good for the document that the page before is of.
//	@Tags			config
//	@Produce		json
//	@Security		BearerAuth
//	@Security		ApiKeyAuth
//	@Param			limit	query		int		false	"items per page"	minimum(1)	maximum(200)	default(50)
//	@Param			cursor	query		string	false	"next_cursor of the page before"
//	@Success		200		{object}	ObjectPage
//	@Header			200		{string}	ETag	"of the document"
//	@Failure		400		{object}	problem.Document
//	@Failure		401		{object}	problem.Document
//	@Failure		403		{object}	problem.Document	"needs config:read"
//	@Failure		404		{object}	problem.Document	"there is no document yet"
//	@Failure		503		{object}	problem.Document
//	@Router			/admin/v1/services [get]
func (h *Handler) listServices(c *gin.Context) error { return h.listObjects(c, services) }

// getService shows one service.
//
//	@Summary	Get a service
//	@Tags		config
//	@Produce	json
//	@Security	BearerAuth
//	@Security	ApiKeyAuth
//	@Param		name	path		string	true	"name of the service"
//	@Success	200		{object}	object
//	@Header		200		{string}	ETag	"of the document"
//	@Failure	401		{object}	problem.Document
//	@Failure	403		{object}	problem.Document	"needs config:read"
//	@Failure	404		{object}	problem.Document
//	@Failure	503		{object}	problem.Document
//	@Router		/admin/v1/services/{name} [get]
func (h *Handler) getService(c *gin.Context) error { return h.getObject(c, services) }

// putService makes or replaces one service.
//
//	@Summary		Make or replace a service
//	@Description	The document with the change is validated as a whole. With dry_run=true nothing is changed.
//	@Tags			config
//	@Accept			json
//	@Produce		json
//	@Security		BearerAuth
//	@Security		ApiKeyAuth
//	@Param			name		path		string	true	"name of the service"
//	@Param			If-Match	header		string	true	"ETag of the document in force"
//	@Param			dry_run		query		string	false	"only say what would change"	Enums(true, false)
//	@Param			message		query		string	false	"why, for people"
//	@Param			body		body		object	true	"the service"
//	@Success		200			{object}	Outcome	"replaced"
//	@Success		201			{object}	Outcome	"made"
//	@Failure		400			{object}	problem.Document
//	@Failure		401			{object}	problem.Document
//	@Failure		403			{object}	problem.Document	"needs config:write"
//	@Failure		404			{object}	problem.Document	"there is no document yet"
//	@Failure		409			{object}	problem.Document	"the document is a file"
//	@Failure		412			{object}	problem.Document	"the document in force is another one"
//	@Failure		413			{object}	problem.Document
//	@Failure		415			{object}	problem.Document
//	@Failure		422			{object}	problem.Document	"not valid"
//	@Failure		428			{object}	problem.Document	"without If-Match"
//	@Failure		503			{object}	problem.Document
//	@Router			/admin/v1/services/{name} [put]
func (h *Handler) putService(c *gin.Context) error { return h.putObject(c, services) }

// patchService changes one service.
//
//	@Summary		Change a service
//	@Description	The body is a merge patch (RFC 7396): members replace, null removes, and what is removed has its default again.
//	@Tags			config
//	@Accept			application/merge-patch+json
//	@Accept			json
//	@Produce		json
//	@Security		BearerAuth
//	@Security		ApiKeyAuth
//	@Param			name		path		string	true	"name of the service"
//	@Param			If-Match	header		string	true	"ETag of the document in force"
//	@Param			dry_run		query		string	false	"only say what would change"	Enums(true, false)
//	@Param			message		query		string	false	"why, for people"
//	@Param			body		body		object	true	"the merge patch"
//	@Success		200			{object}	Outcome
//	@Failure		400			{object}	problem.Document
//	@Failure		401			{object}	problem.Document
//	@Failure		403			{object}	problem.Document	"needs config:write"
//	@Failure		404			{object}	problem.Document
//	@Failure		409			{object}	problem.Document	"the document is a file"
//	@Failure		412			{object}	problem.Document	"the document in force is another one"
//	@Failure		413			{object}	problem.Document
//	@Failure		415			{object}	problem.Document
//	@Failure		422			{object}	problem.Document	"not valid"
//	@Failure		428			{object}	problem.Document	"without If-Match"
//	@Failure		503			{object}	problem.Document
//	@Router			/admin/v1/services/{name} [patch]
func (h *Handler) patchService(c *gin.Context) error { return h.patchObject(c, services) }

// deleteService removes one service.
//
//	@Summary	Delete a service
//	@Tags		config
//	@Produce	json
//	@Security	BearerAuth
//	@Security	ApiKeyAuth
//	@Param		name		path		string	true	"name of the service"
//	@Param		If-Match	header		string	true	"ETag of the document in force"
//	@Param		dry_run		query		string	false	"only say what would change"	Enums(true, false)
//	@Param		message		query		string	false	"why, for people"
//	@Success	200			{object}	Outcome
//	@Failure	400			{object}	problem.Document
//	@Failure	401			{object}	problem.Document
//	@Failure	403			{object}	problem.Document	"needs config:write"
//	@Failure	404			{object}	problem.Document
//	@Failure	409			{object}	problem.Document	"routes use it, errors names them; or the document is a file"
//	@Failure	412			{object}	problem.Document	"the document in force is another one"
//	@Failure	428			{object}	problem.Document	"without If-Match"
//	@Failure	503			{object}	problem.Document
//	@Router		/admin/v1/services/{name} [delete]
func (h *Handler) deleteService(c *gin.Context) error { return h.deleteObject(c, services) }

// ---- routes

// listRoutes shows the routes.
//
//	@Summary		List routes
//	@Description	In the order of the document. A cursor is good for the document that the page before is of.
//	@Tags			config
//	@Produce		json
//	@Security		BearerAuth
//	@Security		ApiKeyAuth
//	@Param			limit	query		int		false	"items per page"	minimum(1)	maximum(200)	default(50)
//	@Param			cursor	query		string	false	"next_cursor of the page before"
//	@Success		200		{object}	ObjectPage
//	@Header			200		{string}	ETag	"of the document"
//	@Failure		400		{object}	problem.Document
//	@Failure		401		{object}	problem.Document
//	@Failure		403		{object}	problem.Document	"needs config:read"
//	@Failure		404		{object}	problem.Document	"there is no document yet"
//	@Failure		503		{object}	problem.Document
//	@Router			/admin/v1/routes [get]
func (h *Handler) listRoutes(c *gin.Context) error { return h.listObjects(c, routes) }

// getRoute shows one route.
//
//	@Summary	Get a route
//	@Tags		config
//	@Produce	json
//	@Security	BearerAuth
//	@Security	ApiKeyAuth
//	@Param		name	path		string	true	"name of the route"
//	@Success	200		{object}	object
//	@Header		200		{string}	ETag	"of the document"
//	@Failure	401		{object}	problem.Document
//	@Failure	403		{object}	problem.Document	"needs config:read"
//	@Failure	404		{object}	problem.Document
//	@Failure	503		{object}	problem.Document
//	@Router		/admin/v1/routes/{name} [get]
func (h *Handler) getRoute(c *gin.Context) error { return h.getObject(c, routes) }

// putRoute makes or replaces one route.
//
//	@Summary		Make or replace a route
//	@Description	The document with the change is validated as a whole. With dry_run=true nothing is changed.
//	@Tags			config
//	@Accept			json
//	@Produce		json
//	@Security		BearerAuth
//	@Security		ApiKeyAuth
//	@Param			name		path		string	true	"name of the route"
//	@Param			If-Match	header		string	true	"ETag of the document in force"
//	@Param			dry_run		query		string	false	"only say what would change"	Enums(true, false)
//	@Param			message		query		string	false	"why, for people"
//	@Param			body		body		object	true	"the route"
//	@Success		200			{object}	Outcome	"replaced"
//	@Success		201			{object}	Outcome	"made"
//	@Failure		400			{object}	problem.Document
//	@Failure		401			{object}	problem.Document
//	@Failure		403			{object}	problem.Document	"needs config:write"
//	@Failure		404			{object}	problem.Document	"there is no document yet"
//	@Failure		409			{object}	problem.Document	"the document is a file"
//	@Failure		412			{object}	problem.Document	"the document in force is another one"
//	@Failure		413			{object}	problem.Document
//	@Failure		415			{object}	problem.Document
//	@Failure		422			{object}	problem.Document	"not valid"
//	@Failure		428			{object}	problem.Document	"without If-Match"
//	@Failure		503			{object}	problem.Document
//	@Router			/admin/v1/routes/{name} [put]
func (h *Handler) putRoute(c *gin.Context) error { return h.putObject(c, routes) }

// patchRoute changes one route.
//
//	@Summary		Change a route
//	@Description	The body is a merge patch (RFC 7396): members replace, null removes, and what is removed has its default again.
//	@Tags			config
//	@Accept			application/merge-patch+json
//	@Accept			json
//	@Produce		json
//	@Security		BearerAuth
//	@Security		ApiKeyAuth
//	@Param			name		path		string	true	"name of the route"
//	@Param			If-Match	header		string	true	"ETag of the document in force"
//	@Param			dry_run		query		string	false	"only say what would change"	Enums(true, false)
//	@Param			message		query		string	false	"why, for people"
//	@Param			body		body		object	true	"the merge patch"
//	@Success		200			{object}	Outcome
//	@Failure		400			{object}	problem.Document
//	@Failure		401			{object}	problem.Document
//	@Failure		403			{object}	problem.Document	"needs config:write"
//	@Failure		404			{object}	problem.Document
//	@Failure		409			{object}	problem.Document	"the document is a file"
//	@Failure		412			{object}	problem.Document	"the document in force is another one"
//	@Failure		413			{object}	problem.Document
//	@Failure		415			{object}	problem.Document
//	@Failure		422			{object}	problem.Document	"not valid"
//	@Failure		428			{object}	problem.Document	"without If-Match"
//	@Failure		503			{object}	problem.Document
//	@Router			/admin/v1/routes/{name} [patch]
func (h *Handler) patchRoute(c *gin.Context) error { return h.patchObject(c, routes) }

// deleteRoute removes one route.
//
//	@Summary	Delete a route
//	@Tags		config
//	@Produce	json
//	@Security	BearerAuth
//	@Security	ApiKeyAuth
//	@Param		name		path		string	true	"name of the route"
//	@Param		If-Match	header		string	true	"ETag of the document in force"
//	@Param		dry_run		query		string	false	"only say what would change"	Enums(true, false)
//	@Param		message		query		string	false	"why, for people"
//	@Success	200			{object}	Outcome
//	@Failure	400			{object}	problem.Document
//	@Failure	401			{object}	problem.Document
//	@Failure	403			{object}	problem.Document	"needs config:write"
//	@Failure	404			{object}	problem.Document
//	@Failure	409			{object}	problem.Document	"the document is a file"
//	@Failure	412			{object}	problem.Document	"the document in force is another one"
//	@Failure	428			{object}	problem.Document	"without If-Match"
//	@Failure	503			{object}	problem.Document
//	@Router		/admin/v1/routes/{name} [delete]
func (h *Handler) deleteRoute(c *gin.Context) error { return h.deleteObject(c, routes) }

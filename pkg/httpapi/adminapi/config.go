package adminapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/gin-gonic/gin"

	"github.com/keywarden/keywarden/pkg/httpapi"
	"github.com/keywarden/keywarden/pkg/problem"
	"github.com/keywarden/keywarden/pkg/revision"
	"github.com/keywarden/keywarden/pkg/spec"
)

// Media types of documents.
const (
	typeJSON = "application/json"
	typeYAML = "application/yaml" // RFC 9512
)

// get shows the document.
//
//	@Summary		Get the gateway document
//	@Description	In its canonical form, with every default spelled out; docs/gateway.schema.json describes it. The ETag is its digest, the same in JSON and YAML.
//	@Tags			config
//	@Produce		json
//	@Produce		application/yaml
//	@Security		BearerAuth
//	@Security		ApiKeyAuth
//	@Success		200	{object}	object
//	@Header			200	{string}	ETag	"for If-Match"
//	@Failure		401	{object}	problem.Document
//	@Failure		403	{object}	problem.Document	"needs config:read"
//	@Failure		404	{object}	problem.Document	"there is none yet"
//	@Failure		503	{object}	problem.Document
//	@Router			/admin/v1/config [get]
func (h *Handler) get(c *gin.Context) error {
	doc, err := h.current(c.Request.Context())
	if err != nil {
		return err
	}
	c.Header("ETag", etag(doc.digest))
	c.Header("Vary", "Accept")
	if !wantsYAML(c.Request.Header.Values("Accept")) {
		c.Data(http.StatusOK, typeJSON, doc.text)
		return nil
	}
	end, err := h.begin(c.Request.Context())
	if err != nil {
		return err
	}
	defer end()
	text, err := toYAML(doc.text)
	if err != nil {
		return err
	}
	c.Data(http.StatusOK, typeYAML, text)
	return nil
}

// wantsYAML reports whether YAML is more welcome than JSON. What is acceptable in
// neither form gets JSON, as RFC 9110 section 12.5.1 allows.
func wantsYAML(accept []string) bool {
	yaml, json := 0.0, 0.0
	for part := range strings.SplitSeq(strings.Join(accept, ","), ",") {
		media, params, err := mime.ParseMediaType(part)
		if err != nil {
			continue
		}
		quality := 1.0
		if q, given := params["q"]; given {
			if quality, err = strconv.ParseFloat(q, 64); err != nil {
				continue
			}
		}
		switch {
		case isYAML(media):
			yaml = max(yaml, quality)
		case media == typeJSON, media == "application/*", media == "*/*":
			json = max(json, quality)
		}
	}
	return yaml > 0 && yaml >= json
}

// isYAML also knows the names from before there was a registered one.
func isYAML(media string) bool {
	return media == typeYAML || media == "application/x-yaml" || media == "text/yaml" || media == "text/x-yaml"
}

// put replaces the document.
//
//	@Summary		Replace the gateway document
//	@Description	The whole document, JSON or YAML, up to 8 MiB. It takes effect on every replica within seconds; it is refused as a whole when anything in it is not valid. If-Match names the document that it replaces, If-None-Match: * says that it is the first. With dry_run=true nothing is changed: the answer says what would be, and which violations there are.
//	@Tags			config
//	@Accept			json
//	@Accept			application/yaml
//	@Produce		json
//	@Security		BearerAuth
//	@Security		ApiKeyAuth
//	@Param			If-Match		header		string	false	"ETag of the document in force"
//	@Param			If-None-Match	header		string	false	"* when there is none yet"
//	@Param			dry_run			query		string	false	"only say what would change"	Enums(true, false)
//	@Param			message			query		string	false	"why, for people; one line of at most 500 characters"
//	@Param			body			body		object	true	"the document"
//	@Success		200				{object}	Outcome
//	@Header			200				{string}	ETag	"of the document in force now"
//	@Failure		400				{object}	problem.Document
//	@Failure		401				{object}	problem.Document
//	@Failure		403				{object}	problem.Document	"needs config:write"
//	@Failure		409				{object}	problem.Document	"the document is a file"
//	@Failure		412				{object}	problem.Document	"the document in force is another one"
//	@Failure		413				{object}	problem.Document
//	@Failure		415				{object}	problem.Document
//	@Failure		422				{object}	problem.Document	"not valid; errors has field, line, column and detail of each violation"
//	@Failure		428				{object}	problem.Document	"without If-Match and If-None-Match"
//	@Failure		503				{object}	problem.Document
//	@Router			/admin/v1/config [put]
func (h *Handler) put(c *gin.Context) error {
	in, err := h.change(c)
	if err != nil {
		return err
	}
	media, body, err := readBody(c)
	if err != nil {
		return err
	}
	ctx := c.Request.Context()
	end, err := h.begin(ctx)
	if err != nil {
		return err
	}
	defer end()
	base, err := h.current(ctx)
	if err != nil && !errors.Is(err, revision.ErrNone) {
		return err
	}
	out, err := h.replace(ctx, in, base, func() (spec.Document, error) { return parse(media, body) })
	if err != nil {
		return err
	}
	return answer(c, out, http.StatusOK)
}

// replace puts the document that make returns in the place of base. Where it is not
// valid, the outcome says so.
func (h *Handler) replace(ctx context.Context, in change, base document, make func() (spec.Document, error)) (Outcome, error) {
	doc, err := make()
	if fields, invalid := violations(err); invalid {
		return refuse(in, base, fields)
	}
	if err != nil {
		return Outcome{}, err
	}
	return h.apply(ctx, in, base, doc)
}

// readBody reads a document as text.
func readBody(c *gin.Context) (media string, body []byte, err error) {
	media, _, err = mime.ParseMediaType(c.GetHeader("Content-Type"))
	if err != nil || media != typeJSON && !isYAML(media) {
		return "", nil, httpapi.ErrMediaType.WithDetail("The body must be application/json or application/yaml.")
	}
	body, err = io.ReadAll(c.Request.Body)
	var tooLarge *http.MaxBytesError
	if err != nil && !errors.As(err, &tooLarge) {
		err = problem.ErrInvalid.WithDetail("The body could not be read.").With(err)
	}
	return media, body, err
}

// parse reads a document. Programs write JSON as one line, which may be longer than
// those that spec.Parse reads: then there are no positions to tell.
func parse(media string, body []byte) (spec.Document, error) {
	if media != typeJSON {
		return spec.Parse("", body)
	}
	if violation := syntaxError(body); violation != nil {
		return spec.Document{}, &spec.Violations{List: []spec.Violation{*violation}}
	}
	body = withoutSurrogates(body)
	if bytes.Count(body, []byte("\n")) > 1 {
		return spec.Parse("", body)
	}
	var lines bytes.Buffer
	if err := json.Indent(&lines, body, "", " "); err != nil {
		return spec.Document{}, err
	}
	doc, err := spec.Parse("", lines.Bytes())
	return doc, withoutPlaces(err)
}

// withoutSurrogates writes characters that JSON escapes as two surrogates (RFC 8259
// section 7), which YAML does not know, as themselves.
func withoutSurrogates(body []byte) []byte {
	if !bytes.Contains(body, []byte(`\ud`)) && !bytes.Contains(body, []byte(`\uD`)) {
		return body
	}
	out := make([]byte, 0, len(body))
	for i := 0; i < len(body); i++ {
		if body[i] != '\\' || i+1 == len(body) {
			out = append(out, body[i])
			continue
		}
		if r := utf16.DecodeRune(escaped(body[i:]), escaped(body[min(i+6, len(body)):])); r != utf8.RuneError {
			out = utf8.AppendRune(out, r)
			i += 11
			continue
		}
		out = append(out, body[i], body[i+1])
		i++
	}
	return out
}

// escaped is the character of an escape \uXXXX that text begins with, or
// utf8.RuneError.
func escaped(text []byte) rune {
	if len(text) < 6 || text[0] != '\\' || text[1] != 'u' {
		return utf8.RuneError
	}
	n, err := strconv.ParseUint(string(text[2:6]), 16, 16)
	if err != nil {
		return utf8.RuneError
	}
	return rune(n)
}

// syntaxError says where a text is no JSON; nil when it is.
func syntaxError(body []byte) *spec.Violation {
	if !utf8.Valid(body) {
		return &spec.Violation{Detail: "is not valid UTF-8"}
	}
	var syntax *json.SyntaxError
	var anything json.RawMessage
	if err := json.Unmarshal(body, &anything); !errors.As(err, &syntax) {
		return nil
	}
	before := body[:min(max(syntax.Offset-1, 0), int64(len(body)))]
	return &spec.Violation{
		Place: spec.Place{
			Line:   1 + bytes.Count(before, []byte("\n")),
			Column: len(before) - bytes.LastIndexByte(before, '\n'),
		},
		Detail: "is not valid JSON: " + syntax.Error(),
	}
}

// withoutPlaces removes positions in a text that the caller has not written.
func withoutPlaces(err error) error {
	var invalid *spec.Violations
	if !errors.As(err, &invalid) {
		return err
	}
	for i := range invalid.List {
		v := &invalid.List[i]
		v.Line, v.Column, v.Related.Line, v.Related.Column = 0, 0, 0, 0
	}
	return invalid
}

// reload reads the document again.
//
//	@Summary		Read the gateway document again
//	@Description	From its file, or the current revision from the database, on this replica. It is done soon after the answer; GET /admin/v1/state says what came of it.
//	@Tags			config
//	@Produce		json
//	@Security		BearerAuth
//	@Security		ApiKeyAuth
//	@Success		202
//	@Failure		401	{object}	problem.Document
//	@Failure		403	{object}	problem.Document	"needs config:write"
//	@Failure		503	{object}	problem.Document
//	@Router			/admin/v1/config/reload [post]
func (h *Handler) reload(c *gin.Context) error {
	h.Reload()
	c.Status(http.StatusAccepted)
	return nil
}

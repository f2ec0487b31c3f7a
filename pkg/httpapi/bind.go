package httpapi

import (
	"bytes"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/gin-gonic/gin"

	"github.com/keywarden/keywarden/pkg/nearest"
	"github.com/keywarden/keywarden/pkg/problem"
)

// ErrMediaType is the answer to a body that is not JSON.
var ErrMediaType = problem.Define(problem.UnsupportedMedia, "request.media_type", "The body must be application/json.")

// maxDepth bounds the nesting of a body; the platform's own need two.
const maxDepth = 16

// Bind reads the JSON body into dst, a pointer to a struct, strictly: unknown
// members, repeated members, wrong types and anything after the document are
// errors that name the member. Names match exactly, case included.
func Bind(c *gin.Context, dst any) error {
	media, _, err := mime.ParseMediaType(c.GetHeader("Content-Type"))
	if err != nil || media != "application/json" {
		return ErrMediaType
	}
	body, err := io.ReadAll(c.Request.Body)
	if err != nil {
		var tooLarge *http.MaxBytesError
		if errors.As(err, &tooLarge) {
			return err
		}
		return problem.ErrInvalid.WithDetail("The body could not be read.").With(err)
	}
	return DecodeStrict(body, dst)
}

// DecodeStrict is Bind for a body that is in memory.
func DecodeStrict(body []byte, dst any) error {
	if !utf8.Valid(body) {
		return problem.ErrInvalid.WithDetail("The body is not valid UTF-8.")
	}
	w := walker{dec: json.NewDecoder(bytes.NewReader(body))}
	w.dec.UseNumber()
	if err := w.document(reflect.TypeOf(dst).Elem()); err != nil {
		return err
	}
	if len(w.fields) > 0 {
		return problem.ErrInvalid.WithFields(w.fields)
	}
	if err := json.Unmarshal(body, dst); err != nil {
		return typeProblem(err, reflect.TypeOf(dst).Elem())
	}
	return nil
}

// walker reads a document token by token, to find what encoding/json forgives.
type walker struct {
	dec    *json.Decoder
	fields []problem.Field
}

func (w *walker) document(t reflect.Type) error {
	first, err := w.dec.Token()
	if err != nil {
		return syntaxProblem(err)
	}
	if first != json.Delim('{') {
		return problem.ErrInvalid.WithDetail("The body must be a JSON object.")
	}
	if err := w.object(t, "", 1); err != nil {
		return err
	}
	if _, err := w.dec.Token(); !errors.Is(err, io.EOF) {
		return problem.ErrInvalid.WithDetail("There is something after the JSON object in the body.")
	}
	return nil
}

// object reads the members of an object whose brace has been read. t is the
// struct it is for, or nil when its members are not ours to know.
func (w *walker) object(t reflect.Type, path string, depth int) error {
	if depth > maxDepth {
		return problem.ErrInvalid.WithDetail("The body is nested deeper than %d levels.", maxDepth)
	}
	known := membersOf(t)
	seen := map[string]bool{}
	for w.dec.More() {
		if len(w.fields) == maxNotes {
			return problem.ErrInvalid.WithFields(w.fields) // enough to begin with
		}
		token, err := w.dec.Token()
		if err != nil {
			return syntaxProblem(err)
		}
		name, _ := token.(string)
		member := clipName(path + name) // a long name must not be copied for everything in it
		field, isKnown := known[name]
		switch {
		case seen[name]:
			w.note(member, "is given twice")
		case known != nil && !isKnown:
			w.note(member, "is not a known field"+nearest.Question(name, slices.Sorted(maps.Keys(known))))
		}
		seen[name] = true
		if err := w.value(field, member, depth); err != nil {
			return err
		}
	}
	_, err := w.dec.Token()
	return syntaxProblem(err)
}

func (w *walker) value(t reflect.Type, path string, depth int) error {
	token, err := w.dec.Token()
	if err != nil {
		return syntaxProblem(err)
	}
	switch token {
	case json.Delim('{'):
		return w.object(t, path+".", depth+1)
	case json.Delim('['):
		if depth+1 > maxDepth {
			return problem.ErrInvalid.WithDetail("The body is nested deeper than %d levels.", maxDepth)
		}
		element := elementOf(t)
		for i := 0; w.dec.More(); i++ {
			if err := w.value(element, fmt.Sprintf("%s[%d]", path, i), depth+1); err != nil {
				return err
			}
		}
		_, err := w.dec.Token()
		return syntaxProblem(err)
	}
	return nil
}

// maxNotes bounds how many wrong fields one answer lists.
const maxNotes = 20

func (w *walker) note(field, detail string) {
	w.fields = append(w.fields, problem.Field{Field: clipName(field), Detail: detail})
}

// clipName keeps a hostile member name from filling the answer.
func clipName(name string) string {
	const limit = 100
	if len(name) > limit {
		return strings.ToValidUTF8(name[:limit], "") + "…"
	}
	return name
}

// membersOf maps the JSON names of a struct to the types of its fields; nil for
// anything else, whose members are not checked.
func membersOf(t reflect.Type) map[string]reflect.Type {
	t = pointed(t)
	if t == nil || t.Kind() != reflect.Struct || readsText(t) || reflect.PointerTo(t).Implements(reflect.TypeFor[json.Unmarshaler]()) {
		return nil
	}
	members := map[string]reflect.Type{}
	for field := range t.Fields() {
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		if name != "" && name != "-" {
			members[name] = field.Type
		}
	}
	return members
}

// elementOf is the type of the elements of a list; nil for anything else.
func elementOf(t reflect.Type) reflect.Type {
	t = pointed(t)
	if t == nil || t.Kind() != reflect.Slice && t.Kind() != reflect.Array {
		return nil
	}
	return t.Elem()
}

// pointed is what t points to, t itself when it is no pointer.
func pointed(t reflect.Type) reflect.Type {
	for t != nil && t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return t
}

// readsText reports whether t is a string in JSON whatever it is in Go.
func readsText(t reflect.Type) bool {
	return reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]())
}

func syntaxProblem(err error) error {
	if err == nil {
		return nil
	}
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) {
		return problem.ErrInvalid.WithDetail("The body is not valid JSON near byte %d.", syntax.Offset).With(err)
	}
	return problem.ErrInvalid.WithDetail("The body is not valid JSON: it ends too early.").With(err)
}

// typeProblem names the field of t whose value has the wrong type. The library
// tells the list but not the place of a wrong element.
func typeProblem(err error, t reflect.Type) error {
	var wrong *json.UnmarshalTypeError
	if !errors.As(err, &wrong) || wrong.Field == "" {
		return problem.ErrInvalid.WithDetail("The body could not be read: a value has the wrong form.").With(err)
	}
	subject := ""
	if field := pointed(typeAt(t, wrong.Field)); elementOf(field) != nil && field != wrong.Type {
		subject = "each element "
	}
	return problem.ErrInvalid.WithField(wrong.Field, "%smust be %s, not %s", subject, jsonKind(wrong.Type), clipName(wrong.Value)).With(err)
}

// typeAt is the type of the field at a path such as "a.b", through lists; nil
// when it is not ours to know.
func typeAt(t reflect.Type, path string) reflect.Type {
	for name := range strings.SplitSeq(path, ".") {
		if element := elementOf(t); element != nil {
			t = element
		}
		t = membersOf(t)[name]
	}
	return t
}

// jsonKind names a Go type in the words of JSON.
func jsonKind(t reflect.Type) string {
	if readsText(t) {
		return "a string"
	}
	switch t.Kind() {
	case reflect.String:
		return "a string"
	case reflect.Bool:
		return "true or false"
	case reflect.Slice, reflect.Array:
		return "an array"
	case reflect.Struct, reflect.Map:
		return "an object"
	default:
		return "a whole number in range"
	}
}

// Optional tells a member that is null from one that is absent.
type Optional[T any] struct {
	Given bool
	Value *T // nil for null
}

// UnmarshalJSON implements json.Unmarshaler; it is called for null too.
func (o *Optional[T]) UnmarshalJSON(b []byte) error {
	o.Given = true
	return json.Unmarshal(b, &o.Value)
}

// ParseTime reads a time of a request body, RFC 3339; the error names the field.
func ParseTime(field, text string) (time.Time, error) {
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		// Without the cause, which repeats what was typed: that is not for the log.
		return time.Time{}, problem.ErrInvalid.WithField(field, "must be a time such as 2030-01-31T12:00:00Z")
	}
	return t, nil
}

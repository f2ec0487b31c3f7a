package contract

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"

	"github.com/keywarden/keywarden/pkg/openapi/jsonvalue"
)

// Failure is one thing in which a request or an answer is not as described.
type Failure struct {
	// In is path, query, header, cookie or body.
	In string

	// Pointer is a JSON Pointer (RFC 6901): within the body, or with the name of the
	// parameter as its first step.
	Pointer string

	// Message is the end of a sentence that begins with the place. It holds no value
	// that was sent.
	Message string
}

// Path is the place as one JSON Pointer, such as /body/items/0.
func (f Failure) Path() string { return "/" + f.In + f.Pointer }

// MaxFailures bounds what is told of one request or answer.
const MaxFailures = 20

// failures collects what is wrong.
type failures struct {
	in   string
	list []Failure
}

func (f *failures) add(pointer, format string, args ...any) {
	if len(f.list) < MaxFailures {
		f.list = append(f.list, Failure{f.in, short(pointer), fmt.Sprintf(format, args...)})
	}
}

// short bounds a pointer: names of properties are chosen by who sends them.
func short(pointer string) string {
	const most = 256
	if len(pointer) > most {
		return strings.ToValidUTF8(pointer[:most], "") + "…"
	}
	return pointer
}

// check holds a value against a schema. It never panics: what the library cannot
// work with is refused.
func (f *failures) check(s *jsonschema.Schema, at string, v any) {
	if s == nil {
		return
	}
	err := s.Validate(v)
	var invalid *jsonschema.ValidationError
	switch {
	case err == nil:
	case errors.As(err, &invalid):
		f.flatten(at, invalid)
	default:
		f.add(at, "cannot be checked")
	}
}

// flatten lists the rules that were broken, each at its place.
func (f *failures) flatten(at string, e *jsonschema.ValidationError) {
	if len(f.list) >= MaxFailures {
		return
	}
	switch e.ErrorKind.(type) {
	case *kind.AnyOf, *kind.OneOf, *kind.Not, *kind.Contains, *kind.PropertyNames: // below are alternatives
	default:
		if len(e.Causes) > 0 {
			for _, cause := range e.Causes {
				f.flatten(at, cause)
			}
			return
		}
	}
	for _, step := range e.InstanceLocation {
		at += "/" + jsonvalue.Escape(step)
	}
	switch k := e.ErrorKind.(type) {
	case *kind.Required:
		for _, name := range k.Missing {
			f.add(at+"/"+jsonvalue.Escape(name), "is required")
		}
	case *kind.AdditionalProperties:
		for _, name := range k.Properties {
			f.add(at+"/"+jsonvalue.Escape(name), "is not described")
		}
	default:
		f.add(at, "%s", message(e.ErrorKind))
	}
}

// message says which rule was broken. What it shows comes from the schema.
func message(k jsonschema.ErrorKind) string {
	switch k := k.(type) {
	case *kind.Type:
		return "must be " + strings.Join(k.Want, " or ")
	case *kind.Enum:
		return "must be one of the values that are described"
	case *kind.Const:
		return "must be the value that is described"
	case *kind.Format:
		return "must have the format " + clean(k.Want)
	case *kind.Pattern:
		return "must match the pattern " + clean(k.Want)
	case *kind.MinLength:
		return "must have at least " + strconv.Itoa(k.Want) + " characters"
	case *kind.MaxLength:
		return "must have at most " + strconv.Itoa(k.Want) + " characters"
	case *kind.MinItems:
		return "must have at least " + strconv.Itoa(k.Want) + " items"
	case *kind.MaxItems:
		return "must have at most " + strconv.Itoa(k.Want) + " items"
	case *kind.UniqueItems:
		return "must not have two equal items"
	case *kind.MinProperties:
		return "must have at least " + strconv.Itoa(k.Want) + " properties"
	case *kind.MaxProperties:
		return "must have at most " + strconv.Itoa(k.Want) + " properties"
	case *kind.Minimum:
		return "must be at least " + clean(k.Want.RatString())
	case *kind.Maximum:
		return "must be at most " + clean(k.Want.RatString())
	case *kind.ExclusiveMinimum:
		return "must be greater than " + clean(k.Want.RatString())
	case *kind.ExclusiveMaximum:
		return "must be less than " + clean(k.Want.RatString())
	case *kind.MultipleOf:
		return "must be a multiple of " + clean(k.Want.RatString())
	case *kind.OneOf:
		if len(k.Subschemas) > 0 {
			return "matches more than one of the alternatives"
		}
		return "matches none of the alternatives"
	case *kind.AnyOf:
		return "matches none of the alternatives"
	case *kind.FalseSchema:
		return "must not be there"
	case *kind.Dependency, *kind.DependentRequired:
		return "needs other properties that are missing"
	case *kind.PropertyNames:
		return "has a name that is not allowed"
	}
	keyword := "the schema"
	if path := k.KeywordPath(); len(path) > 0 {
		keyword = path[0]
	}
	return "breaks the rule " + clean(keyword)
}

// clean bounds a text of the description for a message.
func clean(text string) string {
	const most = 100
	text = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, text)
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "…"
	}
	return text
}

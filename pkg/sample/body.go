package sample

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"reflect"
	"slices"
	"unicode/utf8"

	"github.com/keywarden/keywarden/pkg/problem"
)

// maxBody bounds a request body, in bytes.
const maxBody = 64 << 10

var (
	errMediaType = problem.Define(problem.UnsupportedMedia, "sample.media_type", "Send the body as application/json, without content coding.")
	errTooLarge  = problem.Define(problem.TooLarge, "sample.too_large", "The body is larger than 64 KiB.")
	errBody      = problem.Define(problem.Invalid, "sample.body", "The body is not a JSON object with the members of a record.")
	errRecord    = problem.Define(problem.Unprocessable, "sample.record", "The record is not valid.")
)

// readBody returns the body when its media type is among types.
func readBody(w http.ResponseWriter, r *http.Request, types ...string) ([]byte, error) {
	media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || !slices.Contains(types, media) || r.Header.Get("Content-Encoding") != "" {
		return nil, errMediaType
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return nil, errTooLarge
	case err != nil:
		return nil, errBody.WithDetail("The body ended early.").With(err)
	}
	return body, nil
}

// decode puts the members of a JSON object into the record that into points to
// and returns their names. It refuses what a lenient decoder would let pass:
// unknown members, another letter case, duplicates, null, a second value.
func decode[R record[R]](body []byte, into *R) (present []string, err error) {
	present, err = memberNames(body, append((*into).members(), "id"))
	if err != nil {
		return nil, err
	}
	var mismatch *json.UnmarshalTypeError
	switch err := json.Unmarshal(body, into); {
	case errors.As(err, &mismatch):
		return nil, errBody.WithDetail("A member has the wrong type.").WithField(mismatch.Field, "must be %s", typeName(mismatch.Type)).With(err)
	case err != nil:
		return nil, errBody.With(err)
	}
	return present, nil
}

// memberNames reads one JSON object and returns its members' names, each of
// which must be among known.
func memberNames(body []byte, known []string) ([]string, error) {
	if !utf8.Valid(body) {
		return nil, errBody.WithDetail("The body is not UTF-8.")
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	if open, err := dec.Token(); err != nil || open != json.Delim('{') {
		return nil, errBody.With(err)
	}
	var names []string
	for dec.More() {
		name, err := memberName(dec)
		if err != nil {
			return nil, err
		}
		if !slices.Contains(known, name) {
			return nil, errBody.WithDetail("The body has a member that a record does not have.").WithField(name, "is unknown")
		}
		if slices.Contains(names, name) {
			return nil, errBody.WithDetail("A member appears twice.").WithField(name, "appears twice")
		}
		names = append(names, name)
	}
	if _, err := dec.Token(); err != nil {
		return nil, errBody.With(err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, errBody.WithDetail("The body has something after the JSON object.").With(err)
	}
	return names, nil
}

// memberName reads one member and returns its name.
func memberName(dec *json.Decoder) (string, error) {
	token, err := dec.Token()
	if err != nil {
		return "", errBody.With(err)
	}
	name, ok := token.(string)
	if !ok { // cannot happen: the decoder allows only a string here
		return "", errBody.With(fmt.Errorf("member name is %T", token))
	}
	var value json.RawMessage
	if err := dec.Decode(&value); err != nil {
		return "", errBody.With(err)
	}
	if string(value) == "null" {
		return "", errBody.WithDetail("A member is null.").WithField(name, "must not be null")
	}
	return name, nil
}

// typeName says what a member must be.
func typeName(t reflect.Type) string {
	if t.Kind() == reflect.Int {
		return "a whole number"
	}
	return "a string"
}

// checkRecord refuses a record whose values are not valid, or of which members
// are missing. A member that is missing is reported as that and nothing else.
func checkRecord[R record[R]](r R, present []string) error {
	var wrong []problem.Field
	for _, name := range r.members() {
		if !slices.Contains(present, name) {
			wrong = append(wrong, problem.Field{Field: name, Detail: "is required"})
		}
	}
	for _, f := range r.check() {
		if slices.Contains(present, f.Field) {
			wrong = append(wrong, f)
		}
	}
	if wrong != nil {
		return errRecord.WithFields(wrong)
	}
	return nil
}

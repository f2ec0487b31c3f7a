// Package jsonvalue reads values of JSON that strangers have sent: within bounds of
// depth, number and size, and without names that are given twice. Numbers stay as
// they were written.
package jsonvalue

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Bounds of a value.
const (
	maxDepth  = 64
	maxCount  = 100_000 // values and names
	maxDigits = 400     // of a number, and the size of its exponent: beyond what a double can be
)

// IsNumber reports whether text is a number of JSON whose size is bounded: checking
// one with an exponent of a million would cost more than sending it.
func IsNumber(text string) bool {
	if text == "" || len(text) > maxDigits || text[0] != '-' && (text[0] < '0' || text[0] > '9') || !json.Valid([]byte(text)) {
		return false
	}
	if _, exponent, ok := strings.Cut(strings.ToLower(text), "e"); ok {
		n, err := strconv.Atoi(exponent)
		return err == nil && n <= maxDigits && n >= -maxDigits
	}
	return true
}

// reader reads one value of JSON within bounds. Names that are given twice are
// refused: each reader would take another of them.
type reader struct {
	*json.Decoder
	left int
	at   []string // steps of the pointer
	why  string
}

// Parse reads the only value of data. Where that fails, at is the pointer and why
// the message.
func Parse(data []byte) (v any, at, why string) {
	if !utf8.Valid(data) {
		return nil, "", "is not valid UTF-8"
	}
	r := &reader{Decoder: json.NewDecoder(bytes.NewReader(data)), left: maxCount}
	r.UseNumber()
	v = r.value()
	if r.why == "" {
		if _, err := r.Token(); !errors.Is(err, io.EOF) {
			return nil, "", "has something after the value of JSON"
		}
		return v, "", ""
	}
	for _, step := range r.at {
		at += "/" + Escape(step)
	}
	return nil, at, r.why
}

// fail notes what is wrong first; the value does not count then.
func (r *reader) fail(why string) any {
	if r.why == "" {
		r.why = why
	}
	return nil
}

func (r *reader) value() any {
	if r.left--; r.left < 0 {
		return r.fail("has too many values")
	}
	if len(r.at) > maxDepth {
		return r.fail("is nested too deeply")
	}
	token, err := r.Token()
	if err != nil {
		return r.fail("is not valid JSON")
	}
	switch v := token.(type) {
	case json.Delim:
		if v == '{' {
			return r.object()
		}
		return r.array()
	case json.Number:
		if !IsNumber(v.String()) {
			return r.fail("is a number that is too long")
		}
	}
	return token
}

func (r *reader) object() any {
	m := map[string]any{}
	for r.More() {
		token, err := r.Token()
		name, ok := token.(string)
		if err != nil || !ok {
			return r.fail("is not valid JSON")
		}
		r.at = append(r.at, name)
		if _, taken := m[name]; taken {
			return r.fail("is given twice")
		}
		m[name] = r.value()
		if r.why != "" {
			return nil
		}
		r.at = r.at[:len(r.at)-1]
	}
	if _, err := r.Token(); err != nil {
		return r.fail("is not valid JSON")
	}
	return m
}

func (r *reader) array() any {
	list := []any{}
	for r.More() {
		r.at = append(r.at, strconv.Itoa(len(list)))
		list = append(list, r.value())
		if r.why != "" {
			return nil
		}
		r.at = r.at[:len(r.at)-1]
	}
	if _, err := r.Token(); err != nil {
		return r.fail("is not valid JSON")
	}
	return list
}

// Escape is a name as a step of a JSON Pointer (RFC 6901).
func Escape(name string) string {
	return strings.ReplaceAll(strings.ReplaceAll(name, "~", "~0"), "/", "~1")
}

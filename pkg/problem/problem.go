// Package problem is the error type of the product and its RFC 9457 document.
//
// An [Error] has three audiences: its Kind decides the HTTP status, its Code is
// the stable name a program may branch on, its Detail is the sentence a person
// reads. The cause is for the log and never leaves the process. Each domain
// package defines its own errors with [Define]; this package knows no feature.
package problem

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"
)

// Kind classifies an error; it alone decides the HTTP status.
type Kind uint8

// The kinds, each with the status it maps to.
const (
	Internal             Kind = iota // 500
	Invalid                          // 400
	Unauthenticated                  // 401
	Forbidden                        // 403
	NotFound                         // 404
	MethodNotAllowed                 // 405
	NotAcceptable                    // 406
	Timeout                          // 408
	Conflict                         // 409
	PreconditionFailed               // 412
	TooLarge                         // 413
	URITooLong                       // 414
	UnsupportedMedia                 // 415
	Misdirected                      // 421
	Unprocessable                    // 422
	PreconditionRequired             // 428
	TooManyRequests                  // 429
	HeadersTooLarge                  // 431
	NotImplemented                   // 501
	BadGateway                       // 502
	Unavailable                      // 503
	GatewayTimeout                   // 504
	LoopDetected                     // 508
)

var statuses = [...]int{
	Internal:             http.StatusInternalServerError,
	Invalid:              http.StatusBadRequest,
	Unauthenticated:      http.StatusUnauthorized,
	Forbidden:            http.StatusForbidden,
	NotFound:             http.StatusNotFound,
	MethodNotAllowed:     http.StatusMethodNotAllowed,
	NotAcceptable:        http.StatusNotAcceptable,
	Timeout:              http.StatusRequestTimeout,
	Conflict:             http.StatusConflict,
	PreconditionFailed:   http.StatusPreconditionFailed,
	TooLarge:             http.StatusRequestEntityTooLarge,
	URITooLong:           http.StatusRequestURITooLong,
	UnsupportedMedia:     http.StatusUnsupportedMediaType,
	Misdirected:          http.StatusMisdirectedRequest,
	Unprocessable:        http.StatusUnprocessableEntity,
	PreconditionRequired: http.StatusPreconditionRequired,
	TooManyRequests:      http.StatusTooManyRequests,
	HeadersTooLarge:      http.StatusRequestHeaderFieldsTooLarge,
	NotImplemented:       http.StatusNotImplemented,
	BadGateway:           http.StatusBadGateway,
	Unavailable:          http.StatusServiceUnavailable,
	GatewayTimeout:       http.StatusGatewayTimeout,
	LoopDetected:         http.StatusLoopDetected,
}

// Status is the HTTP status code of k; an unknown kind is 500.
func (k Kind) Status() int {
	if int(k) >= len(statuses) {
		return http.StatusInternalServerError
	}
	return statuses[k]
}

// Field is one thing that is wrong with the input. Field is a JSON path
// ("scopes[2]"), a query parameter or a header name; Detail is one sentence. Line
// and Column, counted from 1, are there where the input is a text of many lines.
type Field struct {
	Field  string `json:"field"`
	Detail string `json:"detail"`
	Line   int    `json:"line,omitempty"`
	Column int    `json:"column,omitempty"`
}

// Error is an error with a public face. Values are immutable: the With methods
// return changed copies, so a defined error can be shared between goroutines.
type Error struct {
	Kind   Kind
	Code   string // stable, "area.reason"
	Detail string // public sentence

	Fields     []Field       // what is wrong with the input, if that is the reason
	RetryAfter time.Duration // sent as Retry-After, rounded up to seconds, when positive
	Challenge  string        // sent as WWW-Authenticate when not empty; see [Error.Write] for 401
	Allow      string        // sent as Allow when not empty
	Accept     string        // sent as Accept when not empty: what a 415 would have taken (RFC 9110 section 15.5.16)
	Violated   []string      // names of the limits that are used up
	DecisionID string        // what the caller can ask for an explanation with, if there is one

	status int // in place of that of the kind; 0: none
	cause  error
}

// Define makes an error of a domain, to be kept in a package variable and
// compared with [errors.Is].
func Define(kind Kind, code, detail string) *Error {
	return &Error{Kind: kind, Code: code, Detail: detail}
}

// Error is the text for logs; it includes the cause.
func (e *Error) Error() string {
	if e.cause != nil {
		return fmt.Sprintf("%s: %v", e.Code, e.cause)
	}
	return e.Code
}

// Unwrap is the cause.
func (e *Error) Unwrap() error { return e.cause }

// Is reports whether target is the same defined error: codes are unique.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code
}

// With attaches the cause, which is logged and never shown.
func (e *Error) With(cause error) *Error {
	c := *e
	c.cause = cause
	return &c
}

// WithDetail replaces the public sentence.
func (e *Error) WithDetail(format string, args ...any) *Error {
	c := *e
	c.Detail = fmt.Sprintf(format, args...)
	return &c
}

// WithField adds one wrong field.
func (e *Error) WithField(field, format string, args ...any) *Error {
	c := *e
	c.Fields = append(slices.Clone(e.Fields), Field{Field: field, Detail: fmt.Sprintf(format, args...)})
	return &c
}

// WithFields replaces the wrong fields.
func (e *Error) WithFields(fields []Field) *Error {
	c := *e
	c.Fields = slices.Clone(fields)
	return &c
}

// WithRetryAfter says when trying again makes sense.
func (e *Error) WithRetryAfter(d time.Duration) *Error {
	c := *e
	c.RetryAfter = d
	return &c
}

// WithChallenge sets the WWW-Authenticate value (RFC 9110 section 11.6.1).
func (e *Error) WithChallenge(challenge string) *Error {
	c := *e
	c.Challenge = challenge
	return &c
}

// WithAllow lists the methods a 405 answer offers.
func (e *Error) WithAllow(methods string) *Error {
	c := *e
	c.Allow = methods
	return &c
}

// WithAccept lists the media types that a 415 answer offers.
func (e *Error) WithAccept(types string) *Error {
	c := *e
	c.Accept = types
	return &c
}

// WithViolated names the limits that are used up.
func (e *Error) WithViolated(names ...string) *Error {
	c := *e
	c.Violated = names
	return &c
}

// WithStatus replaces the status that the kind maps to; 0 keeps it.
func (e *Error) WithStatus(status int) *Error {
	c := *e
	c.status = status
	return &c
}

// Status is the HTTP status of the answer.
func (e *Error) Status() int {
	if e.status != 0 {
		return e.status
	}
	return e.Kind.Status()
}

// WithDecision names the record of why the request was refused.
func (e *Error) WithDecision(id string) *Error {
	c := *e
	c.DecisionID = id
	return &c
}

// ErrInternal is what everything unknown becomes: its public face says nothing.
var ErrInternal = Define(Internal, "internal", "Something went wrong on our side. Quote the request id when you report it.")

// ErrInvalid is the plain refusal of malformed input; Fields say what is wrong.
var ErrInvalid = Define(Invalid, "request.invalid", "The request is not valid.")

// ErrBodyTooLarge is the refusal of a body over the limit of its path.
var ErrBodyTooLarge = Define(TooLarge, "request.body_too_large", "The body of the request is too large.")

// From finds the [Error] in err's chain; anything else is [ErrInternal] with
// err as its cause. From(nil) is nil.
func From(err error) *Error {
	if err == nil {
		return nil
	}
	var e *Error
	if errors.As(err, &e) {
		if e != err { //nolint:errorlint // identity: keep the outer text as the cause
			return e.With(err)
		}
		return e
	}
	return ErrInternal.With(err)
}

package header

import (
	"errors"
	"strings"
)

// Why a document may not change a field.
var (
	errName       = errors.New("must be the name of a header field")
	errConnection = errors.New("belongs to the connection or the framing, and cannot be changed")
	errGateway    = errors.New("is set by the gateway alone")
	errUnderscore = errors.New("has an underscore; fields of such names are never forwarded")
	errBasicAuth  = errors.New("is set by the policy basic_auth alone")
	errChallenge  = errors.New("is between client and service, and cannot be changed")
	errCoding     = errors.New("says how the body is coded, and cannot be changed without it")
)

// CheckRequest says why a document may not change a field of requests; nil when
// it may.
func CheckRequest(name string) error {
	switch {
	case !IsName(name):
		return errName
	case HopByHop(name):
		return errConnection
	case strings.Contains(name, "_"):
		return errUnderscore
	case is(name, "authorization") || is(name, "proxy-authorization"):
		return errBasicAuth
	case Reserved(name), is(name, "traceparent"), is(name, "tracestate"), is(name, "baggage"), is(name, "cdn-loop"):
		return errGateway
	}
	return nil
}

// CheckResponse says why a document may not change a field of answers; nil when
// it may.
func CheckResponse(name string) error {
	switch {
	case !IsName(name):
		return errName
	case HopByHop(name):
		return errConnection
	case is(name, "x-request-id"):
		return errGateway
	case is(name, "www-authenticate") || is(name, "proxy-authenticate"): // RFC 9110 section 11.6.1
		return errChallenge
	case is(name, "content-encoding"):
		return errCoding
	}
	return nil
}

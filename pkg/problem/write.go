package problem

import (
	"bytes"
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"time"
)

// ContentType is the media type of RFC 9457.
const ContentType = "application/problem+json"

// typePrefix makes the "type" member: a URN, since the product has no public site.
const typePrefix = "urn:keywarden:problem:"

// Document is the RFC 9457 answer body, with this product's extension members.
type Document struct {
	Type      string  `json:"type" example:"urn:keywarden:problem:apikey.not_found"`
	Title     string  `json:"title" example:"Not Found"`
	Status    int     `json:"status" example:"404"`
	Detail    string  `json:"detail" example:"No API key has this identifier."`
	Code      string  `json:"code" example:"apikey.not_found"`
	RequestID string  `json:"request_id,omitempty" example:"01890a5d-ac96-774b-bcce-b302099a8057"`
	Errors    []Field `json:"errors,omitempty"`

	// ViolatedPolicies are the names of the limits that are used up, as in the field
	// RateLimit-Policy.
	ViolatedPolicies []string `json:"violated-policies,omitempty"`

	// DecisionID is there when the gateway refused the request: GET /decisions/{id}
	// tells its caller why.
	DecisionID string `json:"decision_id,omitempty"`
}

// Document is the public face of e; the cause stays out.
func (e *Error) Document(requestID string) Document {
	status := e.Status()
	return Document{
		Type:      typePrefix + e.Code,
		Title:     http.StatusText(status),
		Status:    status,
		Detail:    e.Detail,
		Code:      e.Code,
		RequestID: requestID,
		Errors:    slices.Clone(e.Fields),

		ViolatedPolicies: e.Violated,
		DecisionID:       e.DecisionID,
	}
}

// encode leaves < and > as they are: the answer is no HTML, and is marked as such.
func (d Document) encode() []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(d); err != nil { // cannot happen: strings and an int
		return []byte(`{"type":"about:blank","title":"Internal Server Error","status":500}`)
	}
	return b.Bytes()
}

// anyChallenge is the WWW-Authenticate value of a 401 that brings none: there
// must be one (RFC 9110 section 15.5.2), and bearers are what the product takes.
const anyChallenge = `Bearer realm="keywarden"`

// Write answers with e: its status, its headers (Retry-After in whole seconds,
// WWW-Authenticate, Allow, Accept) and its document. The answer is never cached, and
// nothing that was set for another body describes it.
func (e *Error) Write(w http.ResponseWriter, requestID string) {
	h := w.Header()
	for _, name := range [...]string{"Content-Length", "Content-Encoding", "Etag", "Last-Modified"} {
		h.Del(name)
	}
	h.Set("Content-Type", ContentType)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	if e.RetryAfter > 0 {
		h.Set("Retry-After", RetryAfterSeconds(e.RetryAfter))
	}
	switch {
	case e.Challenge != "":
		h.Set("WWW-Authenticate", e.Challenge)
	case e.Kind == Unauthenticated:
		h.Set("WWW-Authenticate", anyChallenge)
	}
	if e.Allow != "" {
		h.Set("Allow", e.Allow)
	}
	if e.Accept != "" {
		h.Set("Accept", e.Accept)
	}
	body := e.Document(requestID).encode()
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(e.Status())
	_, _ = w.Write(body)
}

// RetryAfterSeconds formats d as delta seconds (RFC 9110 section 10.2.3); see [Seconds].
func RetryAfterSeconds(d time.Duration) string { return strconv.FormatInt(Seconds(d), 10) }

// Seconds is d in whole seconds, rounded up so that a client that waits exactly that
// long is never early. A negative d is no wait.
func Seconds(d time.Duration) int64 {
	seconds := int64(d / time.Second)
	if d%time.Second > 0 {
		seconds++
	}
	return max(0, seconds)
}

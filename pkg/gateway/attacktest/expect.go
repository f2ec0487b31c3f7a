package attacktest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
)

// observation is what one step brought about.
type observation struct {
	responses []Response // as the client read them, interim ones included
	closed    bool       // the gateway closed the connection
	upstream  []Request  // what reached the backend since the step began
	elapsed   time.Duration
}

// final are the responses that end an exchange: 1xx answers do not, except for
// a switch of protocols.
func (o *observation) final() []Response {
	var out []Response
	for _, r := range o.responses {
		if r.Status >= 200 || r.Status == 101 {
			out = append(out, r)
		}
	}
	return out
}

// expectation is the "expect" object of a step. A nil member asks for nothing.
// Everything that is set must hold; of AnyOf, one alternative must hold wholly.
type expectation struct {
	AnyOf []expectation `json:"any_of"`

	StatusIn             []int `json:"status_in"`                // of the first final response
	StatusNotIn          []int `json:"status_not_in"`            // no response is fine
	LastStatusIn         []int `json:"last_status_in"`           // of the last final response
	NoResponseOrStatusIn []int `json:"no_response_or_status_in"` // silence or one of these
	MaxResponses         *int  `json:"max_responses"`
	MinResponses         *int  `json:"min_responses"`
	Closed               *bool `json:"closed"`

	BodyContains    []string `json:"body_contains"`     // any of these in any response
	BodyNotContains []string `json:"body_not_contains"` // none of these in any response

	RespHeaderAbsent  []string          `json:"resp_header_absent"`  // in the first final response
	RespHeaderPresent []string          `json:"resp_header_present"` // all of these
	RespHeaderNot     map[string]string `json:"resp_header_not"`     // name -> text no value contains, whatever its case

	UpstreamNone           bool              `json:"upstream_none"`             // nothing reached the backend
	UpstreamMax            *int              `json:"upstream_max"`              // requests at most
	UpstreamMin            *int              `json:"upstream_min"`              // requests at least
	UpstreamClean          bool              `json:"upstream_clean"`            // no anomaly in any of them
	UpstreamTrailersNone   bool              `json:"upstream_trailers_none"`    // no trailer in any of them
	UpstreamTargetMatch    *pattern          `json:"upstream_target_match"`     // of the first request
	UpstreamTargetNotMatch *pattern          `json:"upstream_target_not_match"` // of every request
	UpstreamHeaderAbsent   []string          `json:"upstream_header_absent"`    // in every request
	UpstreamHeaderOnce     []string          `json:"upstream_header_once"`      // exactly once in each, "_" read as "-"
	UpstreamHeaderEquals   map[string]string `json:"upstream_header_equals"`    // the one value, in each request
	UpstreamHeaderNot      map[string]string `json:"upstream_header_not"`       // text no value contains, "_" read as "-"

	H2Rejected bool     `json:"h2_rejected"` // stream or connection error, or an error status
	ElapsedMax *float64 `json:"elapsed_max"` // seconds
}

// UnmarshalJSON refuses members it does not know, and null, which would switch
// a check off without a trace.
func (e *expectation) UnmarshalJSON(data []byte) error {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(data, &members); err != nil {
		return fmt.Errorf("expect: %w", err)
	}
	for name, value := range members {
		if bytes.Equal(value, []byte("null")) {
			return fmt.Errorf("expect: %s is null", name)
		}
	}
	type plain expectation
	if err := decodeStrict(data, (*plain)(e)); err != nil {
		return fmt.Errorf("expect: %w", err)
	}
	return nil
}

// pattern is a regular expression in the case file.
type pattern struct{ *regexp.Regexp }

// UnmarshalText compiles the expression.
func (p *pattern) UnmarshalText(text []byte) (err error) {
	p.Regexp, err = regexp.Compile(string(text))
	return err
}

// checkExpectation reports whether the loader can read data as an expectation.
// A step without one is allowed: earlier steps may only prepare the ground.
func checkExpectation(data json.RawMessage) error {
	_, err := parseExpectation(data, nil)
	return err
}

// parseExpectation reads data with the variables' values put in; nil variables
// leave the references as they are.
func parseExpectation(data json.RawMessage, vars variables) (expectation, error) {
	var e expectation
	if data == nil {
		return e, nil
	}
	text := string(data)
	if vars != nil {
		var err error
		if text, err = vars.substitute(text, quoteJSON); err != nil {
			return e, fmt.Errorf("expect: %w", err)
		}
	}
	err := json.Unmarshal([]byte(text), &e)
	return e, err
}

// quoteJSON makes a value fit inside a JSON string.
func quoteJSON(s string) string {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(s); err != nil { // cannot happen for a string
		return ""
	}
	quoted := strings.TrimSuffix(b.String(), "\n")
	return quoted[1 : len(quoted)-1]
}

// failures collects what did not hold.
type failures []string

// add notes one failure.
func (f *failures) add(format string, args ...any) { *f = append(*f, fmt.Sprintf(format, args...)) }

// check returns every way in which o falls short of e.
func (e *expectation) check(o *observation) failures {
	var f failures
	e.checkAlternatives(o, &f)
	e.checkStatus(o, &f)
	e.checkResponse(o, &f)
	e.checkTraffic(o, &f)
	e.checkUpstreamHeaders(o, &f)
	if e.H2Rejected {
		f.add("h2_rejected: the runner has no HTTP/2 client")
	}
	if e.ElapsedMax != nil && o.elapsed > seconds(*e.ElapsedMax) {
		f.add("took %.1f s, more than %g s", o.elapsed.Seconds(), *e.ElapsedMax)
	}
	return f
}

// checkAlternatives judges any_of.
func (e *expectation) checkAlternatives(o *observation, f *failures) {
	if e.AnyOf == nil {
		return
	}
	var reasons []string
	for i := range e.AnyOf {
		sub := e.AnyOf[i].check(o)
		if len(sub) == 0 {
			return
		}
		reasons = append(reasons, strings.Join(sub, "; "))
	}
	f.add("no alternative holds: %s", strings.Join(reasons, " | "))
}

// checkStatus judges status codes, the number of responses and the connection.
func (e *expectation) checkStatus(o *observation, f *failures) {
	final := o.final()
	first, last := "none", "none" // in words, for the message
	var firstStatus, lastStatus int
	if len(final) > 0 {
		firstStatus, lastStatus = final[0].Status, final[len(final)-1].Status
		first, last = fmt.Sprint(firstStatus), fmt.Sprint(lastStatus)
	}
	if e.StatusIn != nil && !slices.Contains(e.StatusIn, firstStatus) {
		f.add("status %s, want one of %v", first, e.StatusIn)
	}
	if e.LastStatusIn != nil && !slices.Contains(e.LastStatusIn, lastStatus) {
		f.add("last status %s, want one of %v", last, e.LastStatusIn)
	}
	if slices.Contains(e.StatusNotIn, firstStatus) {
		f.add("status %s, want none of %v", first, e.StatusNotIn)
	}
	if e.NoResponseOrStatusIn != nil && len(final) > 0 && !slices.Contains(e.NoResponseOrStatusIn, firstStatus) {
		f.add("status %s, want no response or one of %v", first, e.NoResponseOrStatusIn)
	}
	if e.MaxResponses != nil && len(final) > *e.MaxResponses {
		f.add("%d responses, want at most %d", len(final), *e.MaxResponses)
	}
	if e.MinResponses != nil && len(final) < *e.MinResponses {
		f.add("%d responses, want at least %d", len(final), *e.MinResponses)
	}
	if e.Closed != nil && o.closed != *e.Closed {
		f.add("connection closed: %t, want %t", o.closed, *e.Closed)
	}
}

// checkResponse judges bodies, and the header of the first final response.
func (e *expectation) checkResponse(o *observation, f *failures) {
	final := o.final()
	contains := func(needle string) bool {
		return slices.ContainsFunc(final, func(r Response) bool { return strings.Contains(r.Body, needle) })
	}
	if slices.ContainsFunc(e.BodyNotContains, contains) {
		f.add("a body contains one of %q", e.BodyNotContains)
	}
	if e.BodyContains != nil && !slices.ContainsFunc(e.BodyContains, contains) {
		f.add("no body contains one of %q", e.BodyContains)
	}
	if len(final) == 0 {
		if e.RespHeaderPresent != nil {
			f.add("no response that could have %v", e.RespHeaderPresent)
		}
		return
	}
	for _, name := range e.RespHeaderAbsent {
		if got := values(final[0].Header, name, strings.ToLower); got != nil {
			f.add("response has %s: %q", name, got)
		}
	}
	for _, name := range e.RespHeaderPresent {
		if values(final[0].Header, name, strings.ToLower) == nil {
			f.add("response lacks %s", name)
		}
	}
	for name, text := range e.RespHeaderNot {
		for _, v := range values(final[0].Header, name, strings.ToLower) {
			if strings.Contains(strings.ToLower(v), strings.ToLower(text)) {
				f.add("response has %s: %q, which contains %q", name, v, text)
			}
		}
	}
}

// checkTraffic judges how many requests reached the backend, where they went and how
// well they were framed.
func (e *expectation) checkTraffic(o *observation, f *failures) {
	n := len(o.upstream)
	if e.UpstreamNone && n > 0 {
		f.add("the backend was reached: %s", targets(o.upstream))
	}
	if e.UpstreamMax != nil && n > *e.UpstreamMax {
		f.add("the backend got %d requests, want at most %d: %s", n, *e.UpstreamMax, targets(o.upstream))
	}
	if e.UpstreamMin != nil && n < *e.UpstreamMin {
		f.add("the backend got %d requests, want at least %d", n, *e.UpstreamMin)
	}
	if re := e.UpstreamTargetMatch; re != nil && (n == 0 || !re.MatchString(o.upstream[0].Target)) {
		f.add("the backend's first request does not match %s: %s", re, targets(o.upstream))
	}
	for _, r := range o.upstream {
		if e.UpstreamClean && len(r.Anomalies) > 0 {
			f.add("anomalies in %s: %v", targets([]Request{r}), r.Anomalies)
		}
		if e.UpstreamTrailersNone && len(r.Trailers) > 0 {
			f.add("trailers were forwarded: %q", r.Trailers)
		}
		if re := e.UpstreamTargetNotMatch; re != nil && re.MatchString(r.Target) {
			f.add("the backend got a request that matches %s: %s", re, targets([]Request{r}))
		}
	}
}

// checkUpstreamHeaders judges the header fields the backend saw. The two checks
// that ask for a field are not satisfied by silence: without a request there is
// no field.
func (e *expectation) checkUpstreamHeaders(o *observation, f *failures) {
	if len(o.upstream) == 0 && (e.UpstreamHeaderOnce != nil || e.UpstreamHeaderEquals != nil) {
		f.add("the backend was not reached, so it saw no header")
	}
	for _, r := range o.upstream {
		for _, name := range e.UpstreamHeaderAbsent {
			if values(r.Header, name, strings.ToLower) != nil {
				f.add("the backend saw %s", name)
			}
		}
		for _, name := range e.UpstreamHeaderOnce {
			if got := values(r.Header, name, foldUnderscore); len(got) != 1 {
				f.add("the backend saw %s %d times: %q", name, len(got), got)
			}
		}
		for name, want := range e.UpstreamHeaderEquals {
			if got := values(r.Header, name, strings.ToLower); len(got) != 1 || got[0] != want {
				f.add("the backend saw %s: %q, want %q once", name, got, want)
			}
		}
		for name, text := range e.UpstreamHeaderNot {
			for _, v := range values(r.Header, name, foldUnderscore) {
				if strings.Contains(v, text) {
					f.add("the backend saw %s: %q, which contains %q", name, v, text)
				}
			}
		}
	}
}

// values are those of the fields whose folded name equals name's, in order; nil
// when there is none.
func values(header []Field, name string, fold func(string) string) []string {
	var out []string
	for _, h := range header {
		if fold(h.Name) == fold(name) {
			out = append(out, h.Value)
		}
	}
	return out
}

// foldUnderscore folds names as CGI-like backends do, for which X_Consumer and
// X-Consumer are one variable.
func foldUnderscore(name string) string {
	return strings.ReplaceAll(strings.ToLower(name), "_", "-")
}

// targets lists requests for a message, shortened.
func targets(requests []Request) string {
	if len(requests) == 0 {
		return "no request"
	}
	var out []string
	for _, r := range requests {
		out = append(out, fmt.Sprintf("%.20s %.100s", r.Method, r.Target))
	}
	return strings.Join(out, ", ")
}

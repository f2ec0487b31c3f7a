// Package faultrules answers errors in the words of the gateway document: those of
// the gateway, and, where a rule asks for it, those of the service. What clients have
// to know of an error whatever its body says, such as when to come back, stays.
//
// It changes what the client sees and nothing else: logs, metrics and decisions have
// the error as it was. An answer that has begun is left alone, and so is one that is
// meant to last.
package faultrules

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/keywarden/keywarden/pkg/gateway/policy"
	"github.com/keywarden/keywarden/pkg/gateway/respwriter"
	"github.com/keywarden/keywarden/pkg/reqctx"
	"github.com/keywarden/keywarden/pkg/template"
)

// Name is the name of the policy.
const Name = "fault_rules"

// Rule is what becomes of some errors. What is empty fits all.
type Rule struct {
	Codes            []string // of problems; area.* is for all of an area
	Policies         []string // that refuse
	Statuses         []Statuses
	Gateway, Service bool // whose errors

	Status      int // of the answer; 0: that of the error
	Headers     map[string]string
	Body        string // a template.Answer
	ContentType string
}

// Statuses is a range of statuses, both ends included.
type Statuses struct{ From, To int }

// rule is a rule that is ready. It is immutable.
type rule struct {
	Rule
	headers []field
	body    *template.Answer
}

type field struct {
	name   string // in canonical form
	values []string
}

// New makes the step. The first rule that fits makes the answer.
func New(of []Rule) (policy.Step, error) {
	if len(of) == 0 {
		return policy.Step{}, errors.New("there is no rule")
	}
	rules := make(hook, len(of))
	for i, r := range of {
		body, err := template.ParseAnswer(r.ContentType, r.Body)
		if err != nil {
			return policy.Step{}, fmt.Errorf("the body of rule %d %w", i, err)
		}
		rules[i] = rule{Rule: r, body: body, headers: []field{{"Content-Type", []string{r.ContentType}}}}
		for name, value := range r.Headers {
			rules[i].headers = append(rules[i].headers, field{http.CanonicalHeaderKey(name), []string{value}})
		}
	}
	return policy.Step{
		Apply: func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { respwriter.Serve(next, w, r, rules) })
		},
		Watch: func(next http.Handler, report policy.Report) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				respwriter.Serve(next, w, r, watcher{rules, report})
			})
		},
	}, nil
}

// hook answers.
type hook []rule

// Header implements [respwriter.Hook].
func (h hook) Header(w *respwriter.Writer, r *http.Request, status int) respwriter.Body {
	info := reqctx.From(r.Context())
	if found := h.find(info, status); found != nil {
		found.answer(w, info, status)
	}
	return nil
}

// watcher only looks.
type watcher struct {
	rules  hook
	report policy.Report
}

// Header implements [respwriter.Hook].
func (x watcher) Header(_ *respwriter.Writer, r *http.Request, status int) respwriter.Body {
	if x.rules.find(reqctx.From(r.Context()), status) != nil {
		x.report(r, nil)
	}
	return nil
}

// find returns the rule that fits an answer, nil for none.
func (h hook) find(info *reqctx.Info, status int) *rule {
	if status < http.StatusBadRequest || status > 599 || !info.Stream.IsZero() {
		return nil
	}
	for i := range h {
		if h[i].fits(info, status) {
			return &h[i]
		}
	}
	return nil
}

func (r *rule) fits(info *reqctx.Info, status int) bool {
	from := r.Gateway
	if info.Code == "" {
		from = r.Service && r.Codes == nil && r.Policies == nil
	}
	return from &&
		(r.Codes == nil || slices.ContainsFunc(r.Codes, func(c string) bool { return codeFits(c, info.Code) })) &&
		(r.Policies == nil || slices.Contains(r.Policies, info.Policy)) &&
		(r.Statuses == nil || slices.ContainsFunc(r.Statuses, func(s Statuses) bool { return s.From <= status && status <= s.To }))
}

func codeFits(pattern, code string) bool {
	if area, ok := strings.CutSuffix(pattern, "*"); ok {
		return strings.HasPrefix(code, area)
	}
	return pattern == code
}

// ofBody are the fields that describe the body that is not sent.
func ofBody() [13]string {
	return [...]string{
		"Content-Encoding", "Content-Language", "Content-Location", "Content-Range", "Content-Disposition", "Content-Md5",
		"Content-Digest", "Repr-Digest", "Digest", "Etag", "Last-Modified", "Accept-Ranges", "Trailer",
	}
}

func (r *rule) answer(w *respwriter.Writer, info *reqctx.Info, status int) {
	if r.Status != 0 {
		status = r.Status
	}
	body := r.body.Append(nil, template.Facts{
		RequestID: info.ID, Code: info.Code, Status: strconv.Itoa(status), Title: http.StatusText(status), Route: info.Route,
	})
	h := w.Header()
	for _, name := range ofBody() {
		delete(h, name)
	}
	h["X-Content-Type-Options"] = []string{"nosniff"}
	h["Cache-Control"] = []string{"no-store"}
	for _, f := range r.headers {
		h[f.name] = f.values
	}
	h["Content-Length"] = []string{strconv.Itoa(len(body))}
	w.Replace(status, body)
}

// Package mock answers in place of a service with what the description of its API
// says: an example, or a value that is made of the schema. The caller chooses among
// the answers with the field Prefer (RFC 7240): code=404, example=gone.
//
// What a description says is the business of package contract.
package mock

import (
	"errors"
	"net/http"
	"strconv"
	"strings"

	"github.com/keywarden/keywarden/pkg/gateway/policy"
	"github.com/keywarden/keywarden/pkg/openapi/contract"
	"github.com/keywarden/keywarden/pkg/problem"
)

// Name is the name of the policy in the document.
const Name = "mock"

// Refusals.
var (
	ErrPreference = problem.Define(problem.Invalid, "gateway.mock_not_described",
		"The description of the API has no answer with the code and example that Prefer asks for.")
	ErrNothing = problem.Define(problem.NotImplemented, "gateway.mock_without_answer",
		"The description of the API has no answer for this operation that could be given.")
)

// New makes the step. It is the end of its route: nothing goes to the service.
func New(op *contract.Operation) (policy.Step, error) {
	if op == nil {
		return policy.Step{}, errors.New("no operation is named")
	}
	return policy.Step{Apply: func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { answer(w, r, op) })
	}}, nil
}

func answer(w http.ResponseWriter, r *http.Request, op *contract.Operation) {
	want := preference(r.Header.Values("Prefer"))
	if want.malformed {
		policy.Refuse(w, r, Name, ErrPreference)
		return
	}
	a, ok := op.Mock(want.code, want.example)
	switch {
	case !ok && want.applied() != "":
		policy.Refuse(w, r, Name, ErrPreference)
		return
	case !ok:
		policy.Refuse(w, r, Name, ErrNothing)
		return
	}
	h := w.Header()
	h.Add("Vary", "Prefer")
	if applied := want.applied(); applied != "" {
		h.Set("Preference-Applied", applied)
	}
	if a.ContentType != "" {
		h.Set("Content-Type", a.ContentType)
		// What a description holds is shown to callers as data, never as a page.
		h.Set("X-Content-Type-Options", "nosniff")
	}
	bare := a.Status == http.StatusNoContent || a.Status == http.StatusNotModified
	if !bare {
		h.Set("Content-Length", strconv.Itoa(len(a.Body)))
	}
	w.WriteHeader(a.Status)
	if !bare && r.Method != http.MethodHead {
		_, _ = w.Write(a.Body)
	}
}

// preferences are what is asked for; the zero value is nothing.
type preferences struct {
	code      int
	example   string
	malformed bool
}

// applied is the value of Preference-Applied (RFC 7240 section 3).
func (p preferences) applied() string {
	var list []string
	if p.code != 0 {
		list = append(list, "code="+strconv.Itoa(p.code))
	}
	if p.example != "" {
		list = append(list, "example="+p.example)
	}
	return strings.Join(list, ", ")
}

// maxExample bounds the name of an example.
const maxExample = 100

// preference reads Prefer. Of a preference that is given twice the first counts
// (RFC 7240 section 2), and those that are not known are left alone.
func preference(fields []string) (p preferences) {
	coded := false
	for _, field := range fields {
		for part := range strings.SplitSeq(field, ",") {
			part, _, _ = strings.Cut(part, ";")
			name, value, _ := strings.Cut(part, "=")
			value = strings.Trim(strings.TrimSpace(value), `"`)
			switch strings.ToLower(strings.TrimSpace(name)) {
			case "code":
				if coded {
					continue
				}
				coded = true
				code, err := strconv.Atoi(value)
				if err != nil || code < 200 || code > 599 {
					p.malformed = true
				}
				p.code = code
			case "example":
				if p.example != "" {
					continue
				}
				if !isToken(value) {
					p.malformed = true
				}
				p.example = value
			}
		}
	}
	return p
}

// isToken reports whether a name can stand in Preference-Applied as it is.
func isToken(s string) bool {
	if s == "" || len(s) > maxExample {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && !strings.ContainsRune("-_.~!#$&'*+^`|%", rune(c)) {
			return false
		}
	}
	return true
}

package problem_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keywarden/keywarden/pkg/problem"
)

// full is a problem with every public part set.
func full() *problem.Error {
	return problem.Define(problem.TooManyRequests, "area.reason", "A sentence.").
		WithField("first", "is wrong").
		WithRetryAfter(time.Minute).
		WithChallenge("Bearer").
		WithAllow("GET").
		With(errors.New("cause"))
}

// public is what a problem shows, and its text for the log.
func public(e *problem.Error) []any {
	return []any{e.Kind, e.Code, e.Detail, e.Fields, e.RetryAfter, e.Challenge, e.Allow, e.Accept, e.Error()}
}

func TestWithMethodsLeaveTheOriginalUnchanged(t *testing.T) {
	for name, change := range map[string]func(*problem.Error) *problem.Error{
		"With":           func(e *problem.Error) *problem.Error { return e.With(errors.New("other")) },
		"WithDetail":     func(e *problem.Error) *problem.Error { return e.WithDetail("Another %s.", "sentence") },
		"WithField":      func(e *problem.Error) *problem.Error { return e.WithField("second", "too") },
		"WithFields":     func(e *problem.Error) *problem.Error { return e.WithFields([]problem.Field{{Field: "x"}}) },
		"WithRetryAfter": func(e *problem.Error) *problem.Error { return e.WithRetryAfter(time.Hour) },
		"WithChallenge":  func(e *problem.Error) *problem.Error { return e.WithChallenge("Other") },
		"WithAllow":      func(e *problem.Error) *problem.Error { return e.WithAllow("POST") },
		"WithAccept":     func(e *problem.Error) *problem.Error { return e.WithAccept("text/plain") },
	} {
		t.Run(name, func(t *testing.T) {
			original := full()
			changed := change(original)
			if diff := cmp.Diff(public(full()), public(original)); diff != "" {
				t.Errorf("the original changed (-want +got):\n%s", diff)
			}
			if cmp.Equal(public(original), public(changed)) {
				t.Error("the copy is not changed")
			}
			if !errors.Is(changed, original) {
				t.Error("the copy is another error")
			}
		})
	}
}

func TestFieldsAreNotSharedWithTheirGiver(t *testing.T) {
	given := []problem.Field{{Field: "name", Detail: "is required"}}
	e := problem.ErrInvalid.WithFields(given)
	three := e.WithField("x", "1").WithField("y", "2") // a slice with room behind it
	a, b := three.WithField("a", "3"), three.WithField("b", "3")
	given[0].Field = "changed"
	e.Document("").Errors[0].Field = "changed too"

	first := []problem.Field{{Field: "name", Detail: "is required"}, {Field: "x", Detail: "1"}, {Field: "y", Detail: "2"}}
	for _, got := range []struct {
		e    *problem.Error
		want []problem.Field
	}{
		{e, first[:1]},
		{three, first},
		{a, append(first[:3:3], problem.Field{Field: "a", Detail: "3"})},
		{b, append(first[:3:3], problem.Field{Field: "b", Detail: "3"})},
	} {
		if diff := cmp.Diff(got.want, got.e.Fields); diff != "" {
			t.Errorf("fields (-want +got):\n%s", diff)
		}
	}
	if problem.ErrInvalid.Fields != nil {
		t.Error("the defined error has fields now")
	}
}

func TestCauseReachesTheLogAndNeverTheAnswer(t *testing.T) {
	cause := errors.New("password=hunter2")
	e := full().With(fmt.Errorf("outer: %w", cause))
	if !strings.Contains(e.Error(), "hunter2") || !errors.Is(e, cause) {
		t.Errorf("the log reads %q and does not hold the cause", e)
	}
	rec := httptest.NewRecorder()
	e.Write(rec, "request-1")
	answer := fmt.Sprint(rec.Result().Header, rec.Body)
	if strings.Contains(answer, "hunter2") || strings.Contains(answer, "outer") {
		t.Errorf("the answer holds the cause: %s", answer)
	}
}

func TestWriteAnswersWithTheDocumentOfRFC9457(t *testing.T) {
	rec := httptest.NewRecorder()
	h := rec.Header()
	for _, stale := range []string{"Content-Encoding", "ETag", "Last-Modified", "Content-Length"} {
		h.Set(stale, "of another body")
	}
	h.Set("Cache-Control", "public, max-age=60")
	full().Write(rec, "request-1")

	res := rec.Result()
	if res.StatusCode != http.StatusTooManyRequests {
		t.Errorf("status %d", res.StatusCode)
	}
	want := http.Header{
		"Content-Type":           {"application/problem+json"},
		"X-Content-Type-Options": {"nosniff"},
		"Cache-Control":          {"no-store"},
		"Retry-After":            {"60"},
		"Www-Authenticate":       {"Bearer"},
		"Allow":                  {"GET"},
		"Content-Length":         {fmt.Sprint(rec.Body.Len())},
	}
	if diff := cmp.Diff(want, res.Header); diff != "" {
		t.Errorf("header (-want +got):\n%s", diff)
	}
	var got map[string]any
	if err := json.Unmarshal(rec.Body.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	document := map[string]any{
		"type": "urn:keywarden:problem:area.reason", "title": "Too Many Requests", "status": 429.0,
		"detail": "A sentence.", "code": "area.reason", "request_id": "request-1",
		"errors": []any{map[string]any{"field": "first", "detail": "is wrong"}},
	}
	if diff := cmp.Diff(document, got); diff != "" {
		t.Errorf("document (-want +got):\n%s", diff)
	}
}

func TestWriteSetsNoHeaderThatTheProblemDoesNotAskFor(t *testing.T) {
	rec := httptest.NewRecorder()
	problem.ErrInvalid.Write(rec, "")
	for _, name := range []string{"Retry-After", "WWW-Authenticate", "Allow", "Accept"} {
		if v := rec.Header().Values(name); v != nil {
			t.Errorf("%s is %q", name, v)
		}
	}
	if body := rec.Body.String(); strings.Contains(body, "request_id") || strings.Contains(body, "errors") {
		t.Errorf("empty members in %s", body)
	}
}

func TestEvery401CarriesAChallenge(t *testing.T) {
	refused := problem.Define(problem.Unauthenticated, "a.b", "No.")
	for _, c := range []struct {
		e    *problem.Error
		want string
	}{
		{refused, `Bearer realm="keywarden"`},
		{refused.WithChallenge("Basic"), "Basic"},
	} {
		rec := httptest.NewRecorder()
		c.e.Write(rec, "")
		if got := rec.Header().Get("WWW-Authenticate"); got != c.want {
			t.Errorf("WWW-Authenticate is %q, want %q", got, c.want)
		}
	}
}

func TestRetryAfterIsRoundedUpToWholeSeconds(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Hour:                   "0",
		-1:                           "0",
		0:                            "0",
		1:                            "1",
		time.Second - 1:              "1",
		time.Second:                  "1",
		time.Second + 1:              "2",
		90 * time.Second:             "90",
		1<<62 + time.Nanosecond:      "4611686019", // beyond what a float64 tells apart
		time.Duration(1<<63 - 1):     "9223372037",
		24*time.Hour + 1*time.Minute: "86460",
	} {
		if got := problem.RetryAfterSeconds(d); got != want {
			t.Errorf("RetryAfterSeconds(%d) = %s, want %s", d, got, want)
		}
	}
	rec := httptest.NewRecorder()
	problem.ErrInvalid.WithRetryAfter(1500*time.Millisecond).Write(rec, "")
	if got := rec.Header().Get("Retry-After"); got != "2" {
		t.Errorf("Retry-After is %q, want 2", got)
	}
}

func TestFromFindsTheProblemWhereverItIsAndKeepsTheWholeText(t *testing.T) {
	known := problem.Define(problem.NotFound, "thing.not_found", "No such thing.")
	plain := errors.New("plain")
	for _, c := range []struct {
		name string
		err  error
		want *problem.Error
	}{
		{"itself", known, known},
		{"with a cause", known.With(plain), known},
		{"wrapped", fmt.Errorf("reading: %w", known), known},
		{"wrapped twice", fmt.Errorf("a: %w", fmt.Errorf("b: %w", known)), known},
		{"joined last", errors.Join(plain, known), known},
		{"joined first", errors.Join(known, plain), known},
		{"of several", fmt.Errorf("%w and %w", plain, known), known},
		{"unknown", plain, problem.ErrInternal},
		{"unknown joined", errors.Join(plain, plain), problem.ErrInternal},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := problem.From(c.err)
			if !errors.Is(got, c.want) || got.Kind != c.want.Kind || got.Detail != c.want.Detail {
				t.Errorf("From(%v) is %v, want %v", c.err, got, c.want)
			}
			if !strings.Contains(got.Error(), c.err.Error()) {
				t.Errorf("the log reads %q and lost %q", got, c.err)
			}
			if again := problem.From(got); again != got {
				t.Error("From of a problem is another one")
			}
		})
	}
	if problem.From(nil) != nil {
		t.Error("From(nil) is not nil")
	}
	if !errors.Is(problem.From(fmt.Errorf("x: %w", plain)), plain) {
		t.Error("the cause of an unknown error is lost")
	}
}

func TestProblemsAreToldApartByCode(t *testing.T) {
	a := problem.Define(problem.NotFound, "a.x", "A.")
	b := problem.Define(problem.NotFound, "b.x", "A.")
	if errors.Is(a, b) {
		t.Error("two codes are one error")
	}
	if !errors.Is(fmt.Errorf("w: %w", a.WithDetail("else").With(errors.New("c"))), a) {
		t.Error("a changed copy is not the defined error")
	}
}

func TestEveryKindHasAStatusWithAName(t *testing.T) {
	seen := map[int]problem.Kind{}
	for k := problem.Internal; k <= problem.LoopDetected; k++ {
		status := k.Status()
		if status < 400 || http.StatusText(status) == "" {
			t.Errorf("kind %d has status %d", k, status)
		}
		if other, taken := seen[status]; taken {
			t.Errorf("kinds %d and %d have status %d", other, k, status)
		}
		seen[status] = k
	}
	if got := (problem.LoopDetected + 1).Status(); got != http.StatusInternalServerError {
		t.Errorf("an unknown kind has status %d", got)
	}
}

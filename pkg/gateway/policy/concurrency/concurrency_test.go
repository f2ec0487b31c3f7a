package concurrency_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"time"

	"github.com/keywarden/keywarden/pkg/gateway/policy"
	"github.com/keywarden/keywarden/pkg/gateway/policy/concurrency"
	"github.com/keywarden/keywarden/pkg/ratelimit"
	"github.com/keywarden/keywarden/pkg/reqctx"
)

func limit(t *testing.T, name, header string, n int64) concurrency.Limit {
	t.Helper()
	places, err := ratelimit.NewInFlight(n)
	if err != nil {
		t.Fatal(err)
	}
	return concurrency.Limit{Name: name, Places: places, Subject: func(r *http.Request) (string, error) {
		if r.Header.Get(header) == "broken" {
			return "", errors.New("cannot be worked out")
		}
		return r.Header.Get(header), nil
	}}
}

func ask(h http.Handler, user, all string) *httptest.ResponseRecorder {
	r := httptest.NewRequest("GET", "/", nil)
	r.Header.Set("User", user)
	r.Header.Set("All", all)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r.WithContext(reqctx.With(r.Context(), &reqctx.Info{})))
	return w
}

func TestNobodyHasMoreOnTheirWayThanTheLimit(t *testing.T) {
	limits := []concurrency.Limit{limit(t, "user", "User", 1), limit(t, "all", "All", 2)}
	step, err := concurrency.New(limits, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	begun, end := make(chan struct{}), make(chan struct{})
	h := step.Apply(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("User") != "quick" {
			begun <- struct{}{}
			<-end
		}
	}))
	done := make(chan *httptest.ResponseRecorder)
	hold := func(user string) {
		go func() { done <- ask(h, user, "x") }()
		<-begun
	}
	hold("a")
	refused := ask(h, "a", "x")
	var p struct {
		Code     string   `json:"code"`
		Violated []string `json:"violated-policies"`
	}
	if err := json.Unmarshal(refused.Body.Bytes(), &p); err != nil || refused.Code != 429 || p.Code != concurrency.ErrLimited.Code || !slices.Equal(p.Violated, []string{"user"}) {
		t.Errorf("the second of a user: %d %+v, %v", refused.Code, p, err)
	}
	if h := refused.Header(); h.Get("Retry-After") != "1" || h.Get("X-RateLimit-Remaining") != "0" || h.Get("RateLimit") != `"user";r=0` ||
		h.Get("RateLimit-Policy") != `"user";q=1;qu="concurrent-requests", "all";q=2;qu="concurrent-requests"` {
		t.Errorf("the refusal says %v", h)
	}
	hold("b")
	if w := ask(h, "c", "x"); w.Code != 429 {
		t.Errorf("the third of all: %d", w.Code)
	}
	if w := ask(h, "quick", ""); w.Code != 200 {
		t.Errorf("one that only the first limit counts: %d", w.Code)
	}
	close(end)
	for range 2 {
		if w := <-done; w.Code != 200 || w.Header().Get("RateLimit") == "" || w.Header().Get("X-RateLimit-Remaining") != "" {
			t.Errorf("one that was let in: %d %v", w.Code, w.Header())
		}
	}
	if w := ask(h, "quick", "x"); w.Code != 200 {
		t.Errorf("after the others have ended: %d", w.Code)
	}
	if w := ask(h, "quick", "broken"); w.Code != 500 {
		t.Errorf("of a subject that cannot be worked out: %d", w.Code)
	}
	for _, l := range limits {
		if n := l.Places.Len(); n != 0 {
			t.Errorf("%s: %d places were never given back", l.Name, n)
		}
	}
}

func TestThePlaceIsGivenBackWhenTheServicePanics(t *testing.T) {
	l := limit(t, "user", "User", 1)
	step, err := concurrency.New([]concurrency.Limit{l}, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	h := step.Apply(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }))
	func() {
		defer func() { _ = recover() }()
		ask(h, "a", "")
	}()
	if l.Places.Len() != 0 {
		t.Error("the place is lost")
	}
}

func TestInShadowModeItOnlyCounts(t *testing.T) {
	l := limit(t, "user", "User", 1)
	step, err := concurrency.New([]concurrency.Limit{l}, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	reports := 0
	var h http.Handler
	h = step.Watch(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.Header.Get("All") == "" {
			ask(h, "a", "again")
		}
	}), policy.Report(func(*http.Request, error) { reports++ }))
	if w := ask(h, "a", ""); w.Code != 200 || reports != 1 || w.Header().Get("RateLimit") != "" {
		t.Errorf("status %d, %d reports, fields %v", w.Code, reports, w.Header())
	}
}

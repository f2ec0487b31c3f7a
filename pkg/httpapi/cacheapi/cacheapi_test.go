package cacheapi_test

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/audit"
	"github.com/keywarden/keywarden/pkg/changes"
	"github.com/keywarden/keywarden/pkg/httpapi"
	"github.com/keywarden/keywarden/pkg/httpapi/cacheapi"
	"github.com/keywarden/keywarden/pkg/httpcache"
	"github.com/keywarden/keywarden/pkg/problem"
	"github.com/keywarden/keywarden/pkg/throttle"
)

type callers map[string]*access.Principal

func (c callers) Authenticate(r *http.Request, _ access.Methods) (*access.Principal, error) {
	if p := c[r.Header.Get("X-Api-Key")]; p != nil {
		return p, nil
	}
	return nil, problem.Define(problem.Unauthenticated, "auth.missing", "x")
}

type purger struct {
	got []httpcache.Purge
	err error
}

func (p *purger) Purge(_ context.Context, v httpcache.Purge) (int64, error) {
	p.got = append(p.got, v)
	return 7, p.err
}

func (p *purger) Await(_ context.Context, epoch int64, _ time.Duration) (changes.Receipt, error) {
	return changes.Receipt{Complete: epoch == 7}, nil
}

// engine serves the API for an operator ("op") and a viewer ("view").
func engine(t *testing.T, p *purger) http.Handler {
	t.Helper()
	denials, err := throttle.New(10, time.Hour, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	e := httpapi.NewEngine(1<<20, httpapi.Nothing)
	(&cacheapi.Handler{Purger: p, Receipts: p, Guard: &httpapi.Guard{
		Auth: callers{
			"op":   {Kind: access.KindKey, UserID: "1", Scopes: []string{access.ScopeConfigWrite}},
			"view": {Kind: access.KindKey, UserID: "2", Scopes: []string{access.ScopeConfigRead}},
		},
		Record:  func(context.Context, audit.Entry) error { return nil },
		Denials: denials, Logger: slog.New(slog.DiscardHandler),
	}}).Mount(gin.IRouter(e))
	return e
}

func TestPurge(t *testing.T) {
	for name, c := range map[string]struct {
		caller, query, body string
		status              int
		answer              string
		want                httpcache.Purge // the zero one: none is asked for
	}{
		"route":            {"op", "", `{"route": "orders"}`, 204, "", httpcache.Purge{Kind: "route", Value: "orders"}},
		"path":             {"op", "", `{"path": "/a%20b/"}`, 204, "", httpcache.Purge{Kind: "path", Value: "/a b/"}},
		"path of a host":   {"op", "", `{"path": "/", "host": "API.example.com:8443"}`, 204, "", httpcache.Purge{Kind: "path", Value: "/", Host: "api.example.com"}},
		"key":              {"op", "", `{"key": "order-42"}`, 204, "", httpcache.Purge{Kind: "key", Value: "order-42"}},
		"and wait":         {"op", "?wait=true", `{"key": "order-42"}`, 200, `"complete":true`, httpcache.Purge{Kind: "key", Value: "order-42"}},
		"wait as it likes": {"op", "?wait=1", `{"key": "order-42"}`, 400, "wait", httpcache.Purge{}},
		"nothing":          {"op", "", `{}`, 400, "cache.purge_invalid", httpcache.Purge{}},
		"two things":       {"op", "", `{"route": "a", "key": "b"}`, 400, "cache.purge_invalid", httpcache.Purge{}},
		"host alone":       {"op", "", `{"host": "a"}`, 400, "cache.purge_invalid", httpcache.Purge{}},
		"host and key":     {"op", "", `{"host": "a", "key": "b"}`, 400, "cache.purge_invalid", httpcache.Purge{}},
		"two readings":     {"op", "", `{"path": "/a/../b"}`, 400, "path", httpcache.Purge{}},
		"no path":          {"op", "", `{"path": "a"}`, 400, "path", httpcache.Purge{}},
		"a long key":       {"op", "", `{"key": "` + strings.Repeat("x", 300) + `"}`, 400, "key", httpcache.Purge{}},
		"unknown member":   {"op", "", `{"all": true}`, 400, "all", httpcache.Purge{}},
		"viewer":           {"view", "", `{"route": "orders"}`, 403, "access.scope_missing", httpcache.Purge{}},
		"nobody":           {"", "", `{"route": "orders"}`, 401, "auth.missing", httpcache.Purge{}},
	} {
		t.Run(name, func(t *testing.T) {
			p := &purger{}
			r := httptest.NewRequest("POST", "/admin/v1/cache/purge"+c.query, strings.NewReader(c.body))
			r.Header.Set("Content-Type", "application/json")
			r.Header.Set("X-Api-Key", c.caller)
			w := httptest.NewRecorder()
			engine(t, p).ServeHTTP(w, r)
			if w.Code != c.status || !strings.Contains(w.Body.String(), c.answer) {
				t.Errorf("%d %s", w.Code, w.Body)
			}
			var got httpcache.Purge
			if len(p.got) > 0 {
				got = p.got[0]
			}
			if got != c.want {
				t.Errorf("asked for %+v, want %+v", got, c.want)
			}
		})
	}
}

func TestAPurgeThatWasNotRecordedIsNoSuccess(t *testing.T) {
	r := httptest.NewRequest("POST", "/admin/v1/cache/purge", strings.NewReader(`{"route": "orders"}`))
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("X-Api-Key", "op")
	w := httptest.NewRecorder()
	engine(t, &purger{err: errors.New("away")}).ServeHTTP(w, r)
	if w.Code != 500 || strings.Contains(w.Body.String(), "away") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

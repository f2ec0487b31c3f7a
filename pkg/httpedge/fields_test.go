package httpedge_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"

	"github.com/keywarden/keywarden/pkg/reqctx"
)

func TestAccessLogHasTheFieldsOfPolicies(t *testing.T) {
	e := newEdge(t)
	e.do(httptest.NewRequest("GET", "/", nil), func(_ http.ResponseWriter, r *http.Request) {
		reqctx.From(r.Context()).Fields = []reqctx.Field{
			{Name: "tenant", Value: "acme"}, {Name: "empty"}, {Name: "leaked", Value: "kw_live_0123456789abABCDEFGHIJKLMNOPQRSTUVWXYZ012345678901"},
		}
	})
	line := e.lines(t, 1)[0]
	if line["tenant"] != "acme" || line["leaked"] != "kw_live_0123456789ab[redacted]" {
		t.Errorf("got %v", line)
	}
	if _, there := line["empty"]; there {
		t.Error("an empty field was logged")
	}
}

// TestPoliciesCannotShadowTheLogsOwnFields makes the log say everything it can.
func TestPoliciesCannotShadowTheLogsOwnFields(t *testing.T) {
	e := newEdge(t)
	defer func() { _ = recover() }() // nobody but a server catches what breaks an answer off
	defer checkNames(t, e)
	e.do(httptest.NewRequest("GET", "/", nil), func(_ http.ResponseWriter, r *http.Request) {
		info := reqctx.From(r.Context())
		info.Client, info.Host, info.Route, info.Service = netip.MustParseAddr("10.0.0.1"), "host", "route", "service"
		info.Subject, info.KeyID, info.Code, info.Policy, info.Err = "subject", "key", "code", "policy", errors.New("cause")
		panic(http.ErrAbortHandler)
	})
}

func checkNames(t *testing.T, e *edge) {
	t.Helper()
	line := e.lines(t, 1)[0]
	if len(line) < 15 {
		t.Errorf("the log does not say everything: %v", line)
	}
	for name := range line {
		if reqctx.IsFieldName(name) {
			t.Errorf("a policy could add a second %s", name)
		}
	}
}

package analyticsapi

import (
	"context"
	"encoding/csv"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/google/go-cmp/cmp"

	"github.com/keywarden/keywarden/pkg/access"
	"github.com/keywarden/keywarden/pkg/analytics"
	"github.com/keywarden/keywarden/pkg/audit"
	"github.com/keywarden/keywarden/pkg/httpapi"
	"github.com/keywarden/keywarden/pkg/httpapi/figures"
	"github.com/keywarden/keywarden/pkg/problem"
	"github.com/keywarden/keywarden/pkg/throttle"
	"github.com/keywarden/keywarden/pkg/usage"
)

func testNow() time.Time { return time.Date(2030, 1, 31, 12, 30, 30, 0, time.UTC) }

// database notes what it is asked and answers what it is told.
type database struct {
	asked  []analytics.Query
	report analytics.Report
	err    error
}

// ReadAnalytics implements Reader.
func (d *database) ReadAnalytics(_ context.Context, q analytics.Query) (analytics.Report, error) {
	d.asked = append(d.asked, q)
	return d.report, d.err
}

// callers are known by their bearer.
type callers map[string]*access.Principal

// Authenticate implements httpapi.Authenticator.
func (c callers) Authenticate(r *http.Request, _ access.Methods) (*access.Principal, error) {
	if p := c[r.Header.Get("Authorization")]; p != nil {
		return p, nil
	}
	return nil, access.ErrMissing
}

func newAPI(t *testing.T, from Reader) http.Handler {
	t.Helper()
	roles, err := access.NewRoles(nil)
	if err != nil {
		t.Fatal(err)
	}
	denials, err := throttle.New(1, time.Hour, testNow)
	if err != nil {
		t.Fatal(err)
	}
	person := func(id string, role access.Role) *access.Principal {
		return &access.Principal{Kind: access.KindUser, UserID: id, Role: role, Scopes: roles.Scopes(role)}
	}
	key := func(scopes ...string) *access.Principal {
		return &access.Principal{Kind: access.KindKey, UserID: "u", Role: access.RoleUser, Scopes: scopes, KeyID: "k"}
	}
	guard := &httpapi.Guard{
		Auth: callers{
			"user": person("u", access.RoleUser), "viewer": person("v", access.RoleViewer), "admin": person("a", access.RoleAdmin),
			"bare key": key(), "reading key": key(access.ScopeUsageRead), "config key": key(access.ScopeConfigRead),
		},
		Record: func(context.Context, audit.Entry) error { return nil }, Denials: denials, Logger: slog.New(slog.DiscardHandler),
	}
	owns := func(_ context.Context, user, kind, value string) (bool, error) {
		if value == "broken" {
			return false, errors.New("bug")
		}
		return user == "u" && (kind == figures.KindKey && value == "k2" || kind == figures.KindApp && value == "app"), nil
	}
	engine := httpapi.NewEngine(1<<20, httpapi.Nothing)
	for _, h := range []interface{ Mount(r gin.IRouter) }{
		&Handler{Analytics: from, Owns: owns, Retention: analytics.DefaultRetention(), Guard: guard, Now: testNow},
		&Admin{Analytics: from, Retention: analytics.DefaultRetention(), Guard: guard, Now: testNow},
	} {
		h.Mount(engine)
	}
	return engine
}

func get(t *testing.T, h http.Handler, caller, target, accept string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, target, nil)
	if caller != "" {
		r.Header.Set("Authorization", caller)
	}
	if accept != "" {
		r.Header.Set("Accept", accept)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func TestEverybodySeesTheOwnFiguresAndNoOthers(t *testing.T) {
	type filter = map[analytics.Dimension]string
	for _, c := range []struct {
		caller, target string
		status         int
		filter         filter // nil: nothing is asked for
	}{
		{"", "/analytics", 401, nil},
		{"user", "/analytics", 200, filter{"user": "u"}},
		{"user", "/analytics?key_id=k2&app=app&route=r&refusal=x", 200, filter{"user": "u", "key": "k2", "app": "app", "route": "r", "refusal": "x"}},
		{"user", "/analytics?key_id=", 200, filter{"user": "u", "key": ""}},
		{"user", "/analytics?key_id=of-another", 404, filter{"user": "u", "key": "of-another"}},
		{"user", "/analytics?app=of-another", 404, filter{"user": "u", "app": "of-another"}},
		{"admin", "/analytics?key_id=k2", 404, filter{"user": "a", "key": "k2"}},
		{"user", "/analytics?app=broken", 500, filter{"user": "u", "app": "broken"}},
		{"user", "/analytics?user_id=a", 400, nil},
		{"user", "/analytics?client=192.0.2.0/24", 400, nil},
		{"user", "/analytics?by=user", 400, nil},
		{"user", "/analytics?by=client", 400, nil},
		{"reading key", "/analytics?key_id=k2", 200, filter{"user": "u", "key": "k2"}},
		{"bare key", "/analytics?by=route,key", 200, filter{"user": "u", "key": "k"}},
		{"bare key", "/analytics?key_id=k2", 403, nil},
		{"bare key", "/analytics?key_id=", 403, nil},

		{"", "/admin/v1/analytics", 401, nil},
		{"user", "/admin/v1/analytics", 403, nil},
		{"reading key", "/admin/v1/analytics", 403, nil},
		{"viewer", "/admin/v1/analytics?user_id=&client=", 200, filter{"user": "", "client": ""}},
		{"config key", "/admin/v1/analytics?key_id=of-another", 200, filter{"key": "of-another"}},
		{"", "/admin/v1/analytics/refusals", 401, nil},
		{"user", "/admin/v1/analytics/refusals", 403, nil},
		{"admin", "/admin/v1/analytics/refusals?api=shop", 200, filter{"api": "shop"}},
	} {
		d := &database{}
		w := get(t, newAPI(t, d), c.caller, c.target, "")
		if w.Code != c.status || (c.filter != nil) != (len(d.asked) == 1) {
			t.Errorf("%s %s: %d after %d questions: %s", c.caller, c.target, w.Code, len(d.asked), w.Body)
			continue
		}
		if len(d.asked) == 1 {
			if diff := cmp.Diff(c.filter, d.asked[0].Filter); diff != "" {
				t.Errorf("%s %s: %s", c.caller, c.target, diff)
			}
		}
	}
}

func TestQuestionIsReadAsItIsMeant(t *testing.T) {
	at := func(text string) time.Time {
		v, err := time.Parse(time.RFC3339, text)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	for query, want := range map[string]analytics.Query{
		"": {From: at("2030-01-30T12:00:00Z"), To: at("2030-01-31T13:00:00Z"), Top: 20, Sort: analytics.Requests},
		"step=day&by=route,key&top=5&sort=errors&from=2030-01-01T10:00:00%2B02:00": {
			From: at("2030-01-01T00:00:00Z"), To: at("2030-02-01T00:00:00Z"), Step: analytics.Day, By: []analytics.Dimension{"route", "key"}, Top: 5, Sort: analytics.Errors,
		},
		"step=month&from=2027-05-05T00:00:00Z&to=2030-01-01T00:00:00Z&sort=bytes": {
			From: at("2027-05-01T00:00:00Z"), To: at("2030-01-01T00:00:00Z"), Step: analytics.Month, Top: 20, Sort: analytics.Bytes,
		},
		"from=2029-11-05T10:10:10Z&to=2029-11-06T10:00:00Z": { // only days are known
			From: at("2029-11-05T00:00:00Z"), To: at("2029-11-07T00:00:00Z"), Top: 20, Sort: analytics.Requests,
		},
		"from=2027-11-05T10:10:10Z&to=2027-11-06T10:00:00Z": { // only months are
			From: at("2027-11-01T00:00:00Z"), To: at("2027-12-01T00:00:00Z"), Top: 20, Sort: analytics.Requests,
		},
	} {
		want.Filter = map[analytics.Dimension]string{}
		got, err := parser{now: testNow(), keep: analytics.DefaultRetention()}.parse(query, analytics.Dimensions())
		if diff := cmp.Diff(want, got.Query); err != nil || diff != "" {
			t.Errorf("%s: %v %s", query, err, diff)
		}
	}
}

func TestWrongParametersAreNamed(t *testing.T) {
	for query, field := range map[string]string{
		"x=y": "x", "From=2030-01-01T00:00:00Z": "From", "user=x": "user",
		"step=minute": "step", "by=route,route": "by", "by=route,": "by", "by=status": "by", "by=route&by=key": "by", "by=key_id": "by",
		"top=0": "top", "top=201": "top", "top=x": "top", "sort=p99": "sort", "sort=": "sort", "format=xml": "format", "format=": "format",
		"from=yesterday": "from", "to=": "to", "from=2030-01-31T12:00:00Z&to=2030-01-31T12:00:00Z": "from", "from=0001-01-01T00:00:00Z": "from",
		"step=hour&from=2029-11-01T00:00:00Z": "step", "step=day&from=2028-01-01T00:00:00Z": "step",
		"step=hour&by=key&top=200&from=2030-01-10T00:00:00Z": "top",
		"route=%00": "route", "route=%ff": "route", "user_id=" + strings.Repeat("x", 513): "user_id",
	} {
		_, err := parser{now: testNow(), keep: analytics.DefaultRetention()}.parse(query, analytics.Dimensions())
		fields := problem.From(err).Fields
		if !errors.Is(err, problem.ErrInvalid) || len(fields) != 1 || fields[0].Field != field {
			t.Errorf("%q: %v, fields %v, want %s", query, err, fields, field)
		}
	}
}

// Whatever is asked, the answer is bounded.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{"", "by=route,key&step=hour&top=3", "from=2030-01-01T00:00:00Z&to=2030-02-01T00:00:00Z", "from=9999-12-31T23:59:59Z&step=day", "from=2026-01-01T00:00:00Z&to=9999-12-31T23:59:59Z&step=month"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, query string) {
		q, err := parser{now: testNow(), keep: analytics.DefaultRetention()}.parse(query, analytics.Dimensions())
		if err != nil {
			if !errors.Is(err, problem.ErrInvalid) {
				t.Fatal(err)
			}
			return
		}
		if !q.From.Before(q.To) || q.Points() > analytics.MaxPoints || q.Top < 1 || q.Top > analytics.MaxTop ||
			!analytics.Hour.Floor(q.From).Equal(q.From) || !analytics.Hour.Floor(q.To).Equal(q.To) || q.To.Sub(q.From) > 10*366*24*time.Hour {
			t.Fatalf("%q: %+v", query, q)
		}
	})
}

func someReport() analytics.Report {
	totals := analytics.Totals{Refused: 3, Totals: usage.Totals{
		Requests: 5, ClientErrors: 1, ServerErrors: 2, RequestBytes: 10, ResponseBytes: 20,
		P50: 1500 * time.Microsecond, P95: 2 * time.Second, P99: 3 * time.Second,
	}}
	series := []analytics.Point{{At: testNow().Truncate(time.Hour), Totals: totals}}
	return analytics.Report{Total: totals, More: true, Series: series, Groups: []analytics.Group{
		{Values: map[analytics.Dimension]string{"user": "", "route": `=HYPERLINK("http://x")`}, Totals: totals, Series: series},
	}}
}

func TestAnswerShowsWhatWasFound(t *testing.T) {
	w := get(t, newAPI(t, &database{report: someReport()}), "admin", "/admin/v1/analytics?by=user,route&step=hour", "")
	numbers := `"requests":5,"refused":3,"client_errors":1,"server_errors":2,"request_bytes":10,"response_bytes":20,"p50_ms":1.5,"p95_ms":2000,"p99_ms":3000`
	series := `"series":[{"at":"2030-01-31T12:00:00Z",` + numbers + `}]`
	want := `{"from":"2030-01-30T12:00:00Z","to":"2030-01-31T13:00:00Z","step":"hour","total":{` + numbers + `},` + series +
		`,"items":[{"user_id":"","route":"=HYPERLINK(\"http://x\")",` + numbers + `,` + series + `}],"more":true}`
	if w.Code != http.StatusOK || w.Body.String() != want {
		t.Errorf("%d\n got %s\nwant %s", w.Code, w.Body, want)
	}
}

func TestAnswerIsCSVWhereThatIsAskedFor(t *testing.T) {
	api := newAPI(t, &database{report: someReport()})
	const numbers = "5,3,1,2,10,20,1.5,2000,3000\r\n"
	for _, c := range []struct{ target, accept, want string }{
		{"?format=csv&by=user,route", "", "user_id,route,requests,refused,client_errors,server_errors,request_bytes,response_bytes,p50_ms,p95_ms,p99_ms\r\n" +
			`,"'=HYPERLINK(""http://x"")",` + numbers},
		{"?by=user&step=hour", "text/csv", "user_id,at,requests,refused,client_errors,server_errors,request_bytes,response_bytes,p50_ms,p95_ms,p99_ms\r\n,2030-01-31T12:00:00Z," + numbers},
		{"", "text/csv;q=0.9", "requests,refused,client_errors,server_errors,request_bytes,response_bytes,p50_ms,p95_ms,p99_ms\r\n" + numbers},
		{"", "application/json, text/csv", ""}, {"", "*/*", ""}, {"?format=json", "text/csv", ""},
	} {
		w := get(t, api, "admin", "/admin/v1/analytics"+c.target, c.accept)
		if c.want == "" {
			if got := w.Header().Get("Content-Type"); w.Code != http.StatusOK || !strings.HasPrefix(got, "application/json") {
				t.Errorf("%s as %q: %d %s", c.target, c.accept, w.Code, got)
			}
			continue
		}
		h := w.Header()
		if w.Body.String() != c.want || !strings.HasPrefix(h.Get("Content-Type"), "text/csv;") || h.Get("X-Content-Type-Options") != "nosniff" ||
			!strings.HasPrefix(h.Get("Content-Disposition"), "attachment") || h.Get("Vary") != "Accept" {
			t.Errorf("%s as %q: %v\n got %q\nwant %q", c.target, c.accept, h, w.Body, c.want)
		}
	}
}

// Nobody who opens the file runs what others have written into their names.
func FuzzCell(f *testing.F) {
	for _, seed := range []string{"", "orders", "=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "＝1", `a"b,c`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got := cell(text)
		if got != "" && strings.ContainsRune("=+-@\t\r\n", rune(got[0])) || strings.TrimPrefix(got, "'") != strings.TrimPrefix(text, "'") {
			t.Fatalf("%q became %q", text, got)
		}
		var b strings.Builder
		w := csv.NewWriter(&b)
		_ = w.Write([]string{got, "1"})
		w.Flush()
		r := csv.NewReader(strings.NewReader(b.String()))
		if line, err := r.Read(); err != nil || len(line) != 2 {
			t.Fatalf("%q: %q %v", text, line, err)
		}
	})
}

func TestRefusalsLeaveOutWhatWasLetThrough(t *testing.T) {
	for target, want := range map[string]struct{ by, named string }{
		"":                            {"refusal", "refusal"},
		"?by=route,user":              {"route,user", "refusal"},
		"?by=client":                  {"client", "client"},
		"?client=192.0.2.0/24":        {"refusal", "client"},
		"?by=route&refusal=a.b":       {"route", "refusal"},
		"?by=refusal,client&user_id=": {"refusal,client", "client"},
	} {
		d := &database{}
		get(t, newAPI(t, d), "admin", "/admin/v1/analytics/refusals"+target, "")
		join := func(list []analytics.Dimension) string {
			names := make([]string, len(list))
			for i, d := range list {
				names[i] = string(d)
			}
			return strings.Join(names, ",")
		}
		if len(d.asked) != 1 || join(d.asked[0].By) != want.by || join(d.asked[0].Named) != want.named {
			t.Errorf("%s: %+v", target, d.asked)
		}
	}
}

func TestFailureIsAnsweredAsSuch(t *testing.T) {
	for _, err := range []error{analytics.ErrTooMuch, errors.New("bug")} {
		for _, path := range []string{"/analytics", "/admin/v1/analytics", "/admin/v1/analytics/refusals?format=csv"} {
			w := get(t, newAPI(t, &database{err: err}), "admin", path, "")
			if want := problem.From(err).Kind.Status(); w.Code != want || strings.Contains(w.Body.String(), "bug") {
				t.Errorf("%v: %d %s", err, w.Code, w.Body)
			}
		}
	}
}

func TestEveryDimensionHasAParameterAndAField(t *testing.T) {
	var g Group
	var seen []**string
	for _, d := range analytics.Dimensions() {
		if field := g.field(d); slices.Contains(seen, field) || figures.Parameter(d) == "" {
			t.Errorf("%s shares its field", d)
		} else {
			seen = append(seen, field)
		}
	}
}

package usageapi

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/google/go-cmp/cmp"

	"github.com/keywarden/keywarden/pkg/access"
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
	asked  []usage.Query
	report usage.Report
	err    error
}

// ReadUsage implements Reader.
func (d *database) ReadUsage(_ context.Context, q usage.Query) (usage.Report, error) {
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
			"user": person("u", access.RoleUser), "viewer": person("v", access.RoleViewer), "operator": person("o", access.RoleOperator),
			"admin": person("a", access.RoleAdmin), "bare key": key(), "reading key": key(access.ScopeUsageRead), "config key": key(access.ScopeConfigRead),
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
		&Handler{Usage: from, Owns: owns, Guard: guard, Now: testNow}, &Admin{Usage: from, Guard: guard, Now: testNow},
	} {
		h.Mount(engine)
	}
	return engine
}

func get(t *testing.T, h http.Handler, caller, target string) (int, []byte) {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, target, nil)
	if caller != "" {
		r.Header.Set("Authorization", caller)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Code, w.Body.Bytes()
}

func TestEverybodySeesTheOwnUsageAndNoOthers(t *testing.T) {
	for _, c := range []struct {
		caller, target string
		status         int
		filter         map[usage.Dimension]string // nil: nothing is asked for
	}{
		{"", "/usage", 401, nil},
		{"user", "/usage", 200, map[usage.Dimension]string{"user": "u"}},
		{"user", "/usage?key_id=k2&route=r&status=none", 200, map[usage.Dimension]string{"user": "u", "key": "k2", "route": "r", "status": "0"}},
		{"user", "/usage?key_id=", 200, map[usage.Dimension]string{"user": "u", "key": ""}},
		{"user", "/usage?app=app&key_id=(other)", 200, map[usage.Dimension]string{"user": "u", "app": "app", "key": usage.Folded}},
		{"user", "/usage?key_id=of-another", 404, map[usage.Dimension]string{"user": "u", "key": "of-another"}},
		{"user", "/usage?app=of-another", 404, map[usage.Dimension]string{"user": "u", "app": "of-another"}},
		{"user", "/usage?key_id=k2&app=of-another", 404, map[usage.Dimension]string{"user": "u", "key": "k2", "app": "of-another"}},
		{"reading key", "/usage?key_id=of-another", 404, map[usage.Dimension]string{"user": "u", "key": "of-another"}},
		{"bare key", "/usage?app=of-another", 404, map[usage.Dimension]string{"user": "u", "key": "k", "app": "of-another"}},
		{"admin", "/usage?key_id=k2", 404, map[usage.Dimension]string{"user": "a", "key": "k2"}},
		{"user", "/usage?app=broken", 500, map[usage.Dimension]string{"user": "u", "app": "broken"}},
		{"admin", "/usage", 200, map[usage.Dimension]string{"user": "a"}},
		{"user", "/usage?user_id=a", 400, nil},
		{"user", "/usage?by=user", 400, nil},
		{"reading key", "/usage", 200, map[usage.Dimension]string{"user": "u"}},
		{"reading key", "/usage?key_id=k2", 200, map[usage.Dimension]string{"user": "u", "key": "k2"}},
		{"bare key", "/usage", 200, map[usage.Dimension]string{"user": "u", "key": "k"}},
		{"bare key", "/usage?key_id=k&by=route,key", 200, map[usage.Dimension]string{"user": "u", "key": "k"}},
		{"bare key", "/usage?key_id=k2", 403, nil},
		{"bare key", "/usage?key_id=", 403, nil},
		{"config key", "/usage", 200, map[usage.Dimension]string{"user": "u", "key": "k"}},

		{"", "/admin/v1/usage", 401, nil},
		{"user", "/admin/v1/usage", 403, nil},
		{"bare key", "/admin/v1/usage", 403, nil},
		{"reading key", "/admin/v1/usage", 403, nil},
		{"viewer", "/admin/v1/usage?key_id=of-another", 200, map[usage.Dimension]string{"key": "of-another"}},
		{"viewer", "/admin/v1/usage", 200, map[usage.Dimension]string{}},
		{"operator", "/admin/v1/usage?user_id=&app=x", 200, map[usage.Dimension]string{"user": "", "app": "x"}},
		{"admin", "/admin/v1/usage?by=user&status=4xx", 200, map[usage.Dimension]string{"status": "4"}},
		{"config key", "/admin/v1/usage", 200, map[usage.Dimension]string{}},
	} {
		d := &database{}
		status, body := get(t, newAPI(t, d), c.caller, c.target)
		if status != c.status || (c.filter != nil) != (len(d.asked) == 1) {
			t.Errorf("%s %s: %d after %d questions: %s", c.caller, c.target, status, len(d.asked), body)
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
	for query, want := range map[string]usage.Query{
		"": {From: at("2030-01-30T12:00:00Z"), To: at("2030-01-31T12:31:00Z"), Top: 20},
		"step=minute&by=route&top=5": {
			From: at("2030-01-31T11:30:00Z"), To: at("2030-01-31T12:31:00Z"), Step: usage.Minute, By: []usage.Dimension{"route"}, Top: 5,
		},
		"step=hour&by=status,user,key,app,route": {
			From: at("2030-01-30T12:00:00Z"), To: at("2030-01-31T13:00:00Z"), Step: usage.Hour, Top: 20,
			By: []usage.Dimension{"status", "user", "key", "app", "route"},
		},
		"step=day&from=2030-01-01T10:00:00%2B02:00&to=2030-01-31T00:00:00Z": {
			From: at("2030-01-01T00:00:00Z"), To: at("2030-01-31T00:00:00Z"), Step: usage.Day, Top: 20,
		},
		"from=2030-01-31T10:10:10Z&to=2030-01-31T10:20:20Z": { // minutes are known
			From: at("2030-01-31T10:10:00Z"), To: at("2030-01-31T10:21:00Z"), Top: 20,
		},
		"from=2030-01-30T10:10:10Z&to=2030-01-30T10:20:20Z": { // only hours are
			From: at("2030-01-30T10:00:00Z"), To: at("2030-01-30T11:00:00Z"), Top: 20,
		},
	} {
		want.Filter = map[usage.Dimension]string{}
		got, err := parse(query, testNow(), usage.Dimensions()...)
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%s: %v %s", query, err, diff)
		}
	}
}

func TestWrongParametersAreNamed(t *testing.T) {
	for query, field := range map[string]string{
		"sort=x": "sort", "From=2030-01-01T00:00:00Z": "From", "user=x": "user", "": "",
		"step=week": "step", "step=MINUTE": "step", "by=route,route": "by", "by=route,": "by", "by=,": "by", "by=host": "by", "by=route&by=key": "by",
		"by=route,user,key,app,status,route": "by", "by=user_id": "by",
		"top=0": "top", "top=201": "top", "top=": "top", "top=x": "top", "top=1e2": "top",
		"from=yesterday": "from", "to=": "to", "from=2030-01-31": "from", "from=2030-01-31T12:00:00Z&to=2030-01-31T12:00:00Z": "from",
		"from=2030-01-31T14:00:00Z": "from", "from=2028-01-01T00:00:00Z": "from", "from=0001-01-01T00:00:00Z": "from",
		"step=hour&from=2029-11-01T00:00:00Z": "step", "step=minute&from=2030-01-30T00:00:00Z": "from",
		"step=hour&by=key&top=200&from=2030-01-10T00:00:00Z": "top",
		"status=404": "status", "status=": "status", "status=6xx": "status", "status=0xx": "status", "status=4XX": "status",
		"route=%00": "route", "route=%ff": "route", "user_id=" + strings.Repeat("x", 513): "user_id",
	} {
		_, err := parse(query, testNow(), usage.Dimensions()...)
		if field == "" {
			if err != nil {
				t.Errorf("%q: %v", query, err)
			}
			continue
		}
		fields := problem.From(err).Fields
		if !errors.Is(err, problem.ErrInvalid) || len(fields) != 1 || fields[0].Field != field {
			t.Errorf("%q: %v, fields %v, want %s", query, err, fields, field)
		}
	}
	if _, err := parse("a;b=%zz", testNow(), usage.Dimensions()...); !errors.Is(err, problem.ErrInvalid) {
		t.Error(err)
	}
}

// Whatever is asked, the answer is bounded.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{"", "by=route,key&step=hour&top=3", "from=2030-01-01T00:00:00Z&to=2030-02-01T00:00:00Z", "status=none&route=%F0%9F%98%80", "from=9999-12-31T23:59:59Z&step=day"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, query string) {
		q, err := parse(query, testNow(), usage.Dimensions()...)
		if err != nil {
			if !errors.Is(err, problem.ErrInvalid) {
				t.Fatal(err)
			}
			return
		}
		length := q.Step.Duration()
		if !q.From.Before(q.To) || q.Points() > usage.MaxPoints || q.Top < 1 || q.Top > usage.MaxTop ||
			q.From.Truncate(length) != q.From || q.To.Truncate(length) != q.To {
			t.Fatalf("%q: %+v", query, q)
		}
	})
}

func TestAnswerShowsWhatWasFound(t *testing.T) {
	totals := usage.Totals{
		Requests: 5, ClientErrors: 1, ServerErrors: 2, RequestBytes: 10, ResponseBytes: 20,
		P50: 1500 * time.Microsecond, P95: 2 * time.Second, P99: 3 * time.Second,
	}
	at := testNow().Truncate(time.Hour)
	d := &database{report: usage.Report{
		Total: totals, More: true, Series: []usage.Point{{At: at, Totals: totals}},
		Groups: []usage.Group{{Values: map[usage.Dimension]string{"user": "", "status": "0"}, Totals: totals, Series: []usage.Point{{At: at, Totals: totals}}}},
	}}
	status, body := get(t, newAPI(t, d), "admin", "/admin/v1/usage?by=user,status&step=hour")
	numbers := `"requests":5,"client_errors":1,"server_errors":2,"request_bytes":10,"response_bytes":20,"p50_ms":1.5,"p95_ms":2000,"p99_ms":3000`
	series := `"series":[{"at":"2030-01-31T12:00:00Z",` + numbers + `}]`
	want := `{"from":"2030-01-30T12:00:00Z","to":"2030-01-31T13:00:00Z","step":"hour","total":{` + numbers + `},` + series +
		`,"items":[{"user_id":"","status":"none",` + numbers + `,` + series + `}],"more":true}`
	if status != http.StatusOK || string(body) != want {
		t.Errorf("%d\n got %s\nwant %s", status, body, want)
	}

	status, body = get(t, newAPI(t, &database{}), "admin", "/admin/v1/usage")
	var empty Usage
	if err := json.Unmarshal(body, &empty); err != nil || status != http.StatusOK || !strings.Contains(string(body), `"items":[]`) {
		t.Errorf("%d %s %v", status, body, err)
	}
}

func TestFailureIsAnsweredAsSuch(t *testing.T) {
	for _, err := range []error{usage.ErrTooMuch, errors.New("bug")} {
		status, body := get(t, newAPI(t, &database{err: err}), "admin", "/admin/v1/usage")
		if want := problem.From(err).Kind.Status(); status != want || strings.Contains(string(body), "bug") {
			t.Errorf("%v: %d %s", err, status, body)
		}
	}
}

// busy is a database with questions that take their time.
type busy struct {
	now, most atomic.Int64
	entered   chan struct{}
	leave     chan struct{}
}

// ReadUsage implements Reader.
func (b *busy) ReadUsage(context.Context, usage.Query) (usage.Report, error) {
	n := b.now.Add(1)
	defer b.now.Add(-1)
	for most := b.most.Load(); n > most && !b.most.CompareAndSwap(most, n); most = b.most.Load() {
	}
	b.entered <- struct{}{}
	<-b.leave
	return usage.Report{}, nil
}

func TestQuestionsAreNotAskedAllAtOnce(t *testing.T) {
	b := &busy{entered: make(chan struct{}), leave: make(chan struct{})}
	api := newAPI(t, b)
	const callers = 3 * maxReads
	done := make(chan int)
	for range callers {
		go func() {
			status, _ := get(t, api, "user", "/usage")
			done <- status
		}()
	}
	for range maxReads {
		<-b.entered
	}
	// Whoever waits may leave.
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	w := httptest.NewRecorder()
	r := httptest.NewRequestWithContext(gone, http.MethodGet, "/usage", nil)
	r.Header.Set("Authorization", "user")
	api.ServeHTTP(w, r)
	if w.Code == http.StatusOK {
		t.Error("who has left was answered")
	}
	for range callers - maxReads {
		b.leave <- struct{}{}
		<-b.entered
	}
	for range maxReads {
		b.leave <- struct{}{}
	}
	for range callers {
		if status := <-done; status != http.StatusOK {
			t.Errorf("answered %d", status)
		}
	}
	if most := b.most.Load(); most != maxReads {
		t.Errorf("%d at once", most)
	}
}

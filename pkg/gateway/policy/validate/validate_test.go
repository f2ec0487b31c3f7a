package validate_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/keywarden/keywarden/pkg/gateway/policy"
	"github.com/keywarden/keywarden/pkg/gateway/policy/validate"
	"github.com/keywarden/keywarden/pkg/openapi/contract"
)

const description = `
openapi: 3.1.0
info: {title: t, version: "1"}
paths:
  /a:
    post:
      operationId: post
      parameters: [{name: n, in: query, schema: {type: integer}}]
      requestBody:
        required: true
        content:
          application/json: {schema: {type: object, required: [name], properties: {name: {type: string}}}}
          image/*: {}
      responses: {"200": {description: x, content: {application/json: {schema: {type: object, required: [id]}}}}}
    get: {operationId: get, responses: {"200": {description: x}}}
`

// door is a server with the policy before a service.
type door struct {
	*httptest.Server
	mu       sync.Mutex
	arrived  []string // bodies at the service
	reported []error
	drifted  [][]contract.Failure
	answer   func(w http.ResponseWriter)
}

// Shadowed implements policy.Observer.
func (d *door) Shadowed(_ *http.Request, _ string, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.reported = append(d.reported, err)
}

// ConditionFailed implements policy.Observer.
func (d *door) ConditionFailed(*http.Request, string, error) {}

func newDoor(t *testing.T, id string, mode policy.Mode) *door {
	t.Helper()
	api, err := contract.Load("", []byte(description))
	if err != nil {
		t.Fatal(err)
	}
	op, err := api.Operation(id)
	if err != nil {
		t.Fatal(err)
	}
	d := &door{answer: func(w http.ResponseWriter) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"id":1}`)
	}}
	step, err := validate.New(validate.Config{Operation: op, MaxBody: 64, Drift: func(_ *http.Request, _ int, f []contract.Failure) {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.drifted = append(d.drifted, f)
	}})
	if err != nil {
		t.Fatal(err)
	}
	service := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		d.mu.Lock()
		d.arrived = append(d.arrived, string(body))
		d.mu.Unlock()
		if err != nil {
			w.WriteHeader(http.StatusRequestTimeout)
			return
		}
		d.answer(w)
	})
	d.Server = httptest.NewServer(policy.Chain(service, d, policy.Rule{Step: step, Name: validate.Name, Mode: mode}))
	t.Cleanup(d.Close)
	return d
}

// send sends a request and returns status, body and header of the answer.
func (d *door) send(t *testing.T, method, target, kind, body string, chunked bool, fields ...string) (int, string, http.Header) {
	t.Helper()
	var from io.Reader = strings.NewReader(body)
	if chunked {
		from = io.MultiReader(from)
	}
	r, err := http.NewRequestWithContext(t.Context(), method, d.URL+target, from)
	if err != nil {
		t.Fatal(err)
	}
	if kind != "" {
		r.Header.Set("Content-Type", kind)
	}
	for i := 0; i+1 < len(fields); i += 2 {
		r.Header.Set(fields[i], fields[i+1])
	}
	resp, err := d.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(text), resp.Header
}

func TestWhatIsNotDescribedDoesNotReachTheService(t *testing.T) {
	for _, c := range []struct {
		name, target, kind, body string
		status                   int
		says                     string
		fields                   []string
	}{
		{"well", "/a?n=1", "application/json", `{"name":"a"}`, 200, `"id"`, nil},
		{"media type that is not read", "/a", "image/png", strings.Repeat("x", 100), 200, `"id"`, nil},
		{"parameter", "/a?n=x", "application/json", `{"name":"a"}`, 400, `"field":"/query/n"`, nil},
		{"body", "/a", "application/json", `{"name":1}`, 400, `"field":"/body/name"`, nil},
		{"malformed", "/a", "application/json", `{`, 400, `"field":"/body"`, nil},
		{"media type", "/a", "text/plain", `x`, 415, "gateway.body_not_described", nil},
		{"no media type", "/a", "", `x`, 415, "gateway.body_not_described", nil},
		{"too large", "/a", "application/json", `"` + strings.Repeat("x", 100) + `"`, 413, "request.body_too_large", nil},
		{"encoded", "/a", "application/json", `{"name":"a"}`, 415, "gateway.body_encoded", []string{"Content-Encoding", "gzip"}},
	} {
		for _, chunked := range []bool{false, true} {
			t.Run(c.name, func(t *testing.T) {
				d := newDoor(t, "post", policy.Enforce)
				status, body, h := d.send(t, "POST", c.target, c.kind, c.body, chunked, c.fields...)
				if status != c.status || !strings.Contains(body, c.says) {
					t.Errorf("%d %s", status, body)
				}
				if (status == 415 && c.kind != "application/json") != (h.Get("Accept") == "application/json, image/*") {
					t.Errorf("Accept is %q", h.Get("Accept"))
				}
				want := 0
				if c.status == 200 {
					want = 1
				}
				if len(d.arrived) != want || want == 1 && d.arrived[0] != c.body {
					t.Errorf("at the service arrived %q", d.arrived)
				}
			})
		}
	}
	d := newDoor(t, "post", policy.Enforce)
	if status, body, _ := d.send(t, "POST", "/a", "application/json", "", false); status != 400 || !strings.Contains(body, `"/body"`) {
		t.Errorf("without the body: %d %s", status, body)
	}
	d = newDoor(t, "get", policy.Enforce)
	for _, chunked := range []bool{false, true} {
		if status, _, _ := d.send(t, "GET", "/a", "text/plain", "x", chunked); status != 400 {
			t.Errorf("a body that is not described: %d", status)
		}
	}
	if status, _, _ := d.send(t, "GET", "/a", "", "", true); status != 200 {
		t.Errorf("an empty body of unknown length: %d", status)
	}
}

func TestShadowRefusesNothingAndTellsTheSame(t *testing.T) {
	for _, c := range []struct{ target, kind, body string }{
		{"/a?n=x", "application/json", `{"name":"a"}`},
		{"/a", "application/json", `{"name":1}`},
		{"/a", "text/plain", "x"},
		{"/a", "application/json", `"` + strings.Repeat("x", 100) + `"`},
	} {
		for _, chunked := range []bool{false, true} {
			d := newDoor(t, "post", policy.Shadow)
			status, body, _ := d.send(t, "POST", c.target, c.kind, c.body, chunked)
			if status != 200 || body != `{"id":1}` || len(d.arrived) != 1 || d.arrived[0] != c.body {
				t.Errorf("%+v: %d %s, arrived %q", c, status, body, d.arrived)
			}
			d.Close() // ends what is under way
			if len(d.reported) != 1 {
				t.Errorf("%+v: reported %v", c, d.reported)
			}
		}
	}
	d := newDoor(t, "post", policy.Shadow)
	d.send(t, "POST", "/a", "application/json", `{"name":"a"}`, true)
	d.Close()
	if len(d.reported) != 0 {
		t.Errorf("reported %v", d.reported)
	}
}

func TestDriftIsToldAndNeverChangesTheAnswer(t *testing.T) {
	long := `{"x":"` + strings.Repeat("x", 100) + `"}`
	for _, c := range []struct {
		name, kind, body string
		status           int
		want             string // empty: nothing
	}{
		{"as described", "application/json", `{"id":1}`, 200, ""},
		{"body", "application/json", `{"no":1}`, 200, "/body/id"},
		{"empty", "application/json", ``, 200, "/body"},
		{"type", "text/html", `x`, 200, "/header/content-type"},
		{"status", "application/json", `{"id":1}`, 418, "/status"},
		{"too large to look at", "application/json", long, 200, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := newDoor(t, "post", policy.Enforce)
			d.answer = func(w http.ResponseWriter) {
				w.Header().Set("Content-Type", c.kind)
				w.WriteHeader(c.status)
				half := len(c.body) / 2
				_, _ = io.WriteString(w, c.body[:half])
				_ = http.NewResponseController(w).Flush()
				_, _ = io.WriteString(w, c.body[half:])
			}
			status, body, _ := d.send(t, "POST", "/a", "application/json", `{"name":"a"}`, false)
			if status != c.status || body != c.body {
				t.Errorf("%d %s", status, body)
			}
			d.Close()
			if (len(d.drifted) > 0) != (c.want != "") || c.want != "" && d.drifted[0][0].Path() != c.want {
				t.Errorf("told %v", d.drifted)
			}
		})
	}
}

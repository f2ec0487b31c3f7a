package attacktest

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"
)

// Observations for the table of checks.
var (
	silence   = observation{closed: true}
	requestAB = Request{
		Method: "GET", Target: "/a?b=1",
		Header: []Field{{"Host", "gw"}, {"X-Consumer", "alice"}, {"X_Consumer", "admin"}, {"X-One", "1"}, {"X-Two", "1"}, {"x-two", "2"}},
	}
	dirty = Request{Method: "POST", Target: "/dirty", Anomalies: []string{"dup-cl"}, Trailers: []string{"X-Consumer: admin"}}
)

// answered is an observation with these responses and nothing at the backend.
func answered(responses ...Response) observation { return observation{responses: responses} }

// arrived is an observation with these requests at the backend.
func arrived(requests ...Request) observation {
	return observation{responses: []Response{{Status: 200}}, upstream: requests}
}

// status is a response with nothing but a code.
func status(code int) Response { return Response{Status: code} }

// header is a response with one field.
func header(name, value string) Response {
	return Response{Status: 200, Header: []Field{{name, value}}}
}

// body is a response with a body.
func body(text string) Response { return Response{Status: 200, Body: text} }

// checkTable shows each check accept what it should and refuse what it should.
var checkTable = []struct {
	expect string
	holds  []observation
	fails  []observation
}{
	{
		expect: `{"status_in":[400,401]}`,
		holds:  []observation{answered(status(401)), answered(status(100), status(400)), answered(status(400), status(200))},
		fails:  []observation{silence, answered(status(200)), answered(status(100)), answered(status(200), status(400))},
	},
	{
		expect: `{"status_in":[101]}`,
		holds:  []observation{answered(status(101))},
		fails:  []observation{answered(status(103), status(200))},
	},
	{
		expect: `{"status_in":[]}`,
		fails:  []observation{silence, answered(status(200))},
	},
	{
		expect: `{"status_not_in":[101]}`,
		holds:  []observation{silence, answered(status(426))},
		fails:  []observation{answered(status(101)), answered(status(100), status(101))},
	},
	{
		expect: `{"last_status_in":[401]}`,
		holds:  []observation{answered(status(200), status(401))},
		fails:  []observation{silence, answered(status(401), status(200))},
	},
	{
		expect: `{"no_response_or_status_in":[400]}`,
		holds:  []observation{silence, answered(status(400)), answered(status(100))},
		fails:  []observation{answered(status(200)), answered(status(200), status(400))},
	},
	{
		expect: `{"max_responses":1}`,
		holds:  []observation{silence, answered(status(200)), answered(status(100), status(200))},
		fails:  []observation{answered(status(200), status(200))},
	},
	{
		expect: `{"min_responses":2}`,
		holds:  []observation{answered(status(200), status(200))},
		fails:  []observation{silence, answered(status(100), status(200))},
	},
	{
		expect: `{"closed":true}`,
		holds:  []observation{silence},
		fails:  []observation{answered(status(200))},
	},
	{
		expect: `{"closed":false}`,
		holds:  []observation{answered(status(200))},
		fails:  []observation{silence},
	},
	{
		expect: `{"body_contains":["one","two"]}`,
		holds:  []observation{answered(body("xtwox")), answered(body(""), body("one"))},
		fails:  []observation{silence, answered(body("three"))},
	},
	{
		expect: `{"body_not_contains":["one","two"]}`,
		holds:  []observation{silence, answered(body("three"))},
		fails:  []observation{answered(body("xtwox")), answered(body(""), body("one"))},
	},
	{
		expect: `{"resp_header_absent":["X-A"]}`,
		holds:  []observation{silence, answered(header("X-B", "1"))},
		fails:  []observation{answered(header("x-a", ""))},
	},
	{
		expect: `{"resp_header_present":["X-A"]}`,
		holds:  []observation{answered(header("x-a", ""))},
		fails:  []observation{silence, answered(header("X-B", "1"))},
	},
	{
		expect: `{"resp_header_not":{"X-A":"Evil"}}`,
		holds:  []observation{silence, answered(header("X-A", "good")), answered(header("X-B", "evil"))},
		fails:  []observation{answered(header("x-a", "https://EVIL.test"))},
	},
	{
		expect: `{"upstream_none":true}`,
		holds:  []observation{silence},
		fails:  []observation{arrived(requestAB)},
	},
	{
		expect: `{"upstream_none":false}`,
		holds:  []observation{arrived(requestAB)},
	},
	{
		expect: `{"upstream_max":1}`,
		holds:  []observation{silence, arrived(requestAB)},
		fails:  []observation{arrived(requestAB, dirty)},
	},
	{
		expect: `{"upstream_max":0}`,
		holds:  []observation{silence},
		fails:  []observation{arrived(requestAB)},
	},
	{
		expect: `{"upstream_min":1}`,
		holds:  []observation{arrived(requestAB)},
		fails:  []observation{silence},
	},
	{
		expect: `{"upstream_clean":true}`,
		holds:  []observation{silence, arrived(requestAB)},
		fails:  []observation{arrived(requestAB, dirty)},
	},
	{
		expect: `{"upstream_trailers_none":true}`,
		holds:  []observation{silence, arrived(requestAB)},
		fails:  []observation{arrived(requestAB, dirty)},
	},
	{
		expect: `{"upstream_target_match":"^/a\\?b=1$"}`,
		holds:  []observation{arrived(requestAB), arrived(requestAB, dirty)},
		fails:  []observation{silence, arrived(dirty, requestAB)},
	},
	{
		expect: `{"upstream_target_not_match":"dirty"}`,
		holds:  []observation{silence, arrived(requestAB)},
		fails:  []observation{arrived(requestAB, dirty)},
	},
	{
		expect: `{"upstream_header_absent":["x-one"]}`,
		holds:  []observation{silence, arrived(dirty)},
		fails:  []observation{arrived(dirty, requestAB)},
	},
	{
		expect: `{"upstream_header_once":["X-One"]}`,
		holds:  []observation{arrived(requestAB), arrived(requestAB, requestAB)},
		fails:  []observation{silence, arrived(dirty), arrived(requestAB, dirty)},
	},
	{
		expect: `{"upstream_header_once":["X-Two"]}`,
		fails:  []observation{arrived(requestAB)},
	},
	{
		expect: `{"upstream_header_once":["X-Consumer"]}`,
		fails:  []observation{arrived(requestAB)},
	},
	{
		expect: `{"upstream_header_equals":{"x-consumer":"alice"}}`,
		holds:  []observation{arrived(requestAB)},
		fails:  []observation{silence, arrived(requestAB, dirty)},
	},
	{
		expect: `{"upstream_header_equals":{"X-Two":"1"}}`,
		fails:  []observation{arrived(requestAB)},
	},
	{
		expect: `{"upstream_header_not":{"x-consumer":"adm"}}`,
		holds:  []observation{silence, arrived(dirty)},
		fails:  []observation{arrived(requestAB)},
	},
	{
		expect: `{"upstream_header_not":{"X-One":"2"}}`,
		holds:  []observation{arrived(requestAB)},
	},
	{
		expect: `{"h2_rejected":true}`,
		fails:  []observation{silence, answered(status(400))},
	},
	{
		expect: `{"elapsed_max":0.5}`,
		holds:  []observation{{elapsed: 500 * time.Millisecond}},
		fails:  []observation{{elapsed: 501 * time.Millisecond}},
	},
	{
		expect: `{"any_of":[{"status_in":[400],"upstream_none":true},{"upstream_max":1,"upstream_clean":true}]}`,
		holds:  []observation{answered(status(400)), arrived(requestAB)},
		fails:  []observation{arrived(dirty), arrived(requestAB, requestAB)},
	},
	{
		expect: `{"any_of":[{"status_in":[200]},{"status_in":[404]}],"upstream_target_not_match":"dirty"}`,
		holds:  []observation{arrived(requestAB), answered(status(404))},
		fails:  []observation{arrived(dirty), answered(status(500))},
	},
	{
		expect: `{"any_of":[]}`,
		fails:  []observation{answered(status(200))},
	},
	{
		expect: `{}`,
		holds:  []observation{silence, arrived(dirty)},
	},
}

func TestEachCheckAcceptsAndRefuses(t *testing.T) {
	for _, c := range checkTable {
		e, err := parseExpectation(json.RawMessage(c.expect), nil)
		if err != nil {
			t.Fatalf("%s: %v", c.expect, err)
		}
		for _, o := range c.holds {
			if f := e.check(&o); len(f) > 0 {
				t.Errorf("%s refuses %+v: %v", c.expect, o, f)
			}
		}
		for _, o := range c.fails {
			if f := e.check(&o); len(f) == 0 {
				t.Errorf("%s accepts %+v", c.expect, o)
			}
		}
	}
}

// TestEveryCheckIsShownToFail keeps a check from being declared, and therefore
// accepted in the file, without doing anything.
func TestEveryCheckIsShownToFail(t *testing.T) {
	typ := reflect.TypeFor[expectation]()
	for i := range typ.NumField() {
		name := typ.Field(i).Tag.Get("json")
		shown := false
		for _, c := range checkTable {
			shown = shown || len(c.fails) > 0 && strings.HasPrefix(c.expect, `{"`+name+`":`)
		}
		if !shown {
			t.Errorf("no line of the table shows %s fail", name)
		}
	}
}

func TestParseExpectationPutsVariablesIn(t *testing.T) {
	e, err := parseExpectation(json.RawMessage(`{"body_not_contains":["{{KSEC}}"]}`), variables{"KSEC": `kw_"x`})
	if err != nil {
		t.Fatal(err)
	}
	leak := answered(body(`{"key":kw_"x}`))
	if f := e.check(&leak); len(f) == 0 {
		t.Error("a body with the variable's value was accepted")
	}
	if _, err := parseExpectation(json.RawMessage(`{"body_not_contains":["{{KSEC}}"]}`), variables{}); err == nil {
		t.Error("a variable without a value was accepted")
	}
}

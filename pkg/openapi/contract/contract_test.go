package contract_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keywarden/keywarden/pkg/openapi/contract"
)

// operation compiles one operation of a description.
func operation(t testing.TB, text, id string) *contract.Operation {
	t.Helper()
	api, err := contract.Load("", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	op, err := api.Operation(id)
	if err != nil {
		t.Fatal(err)
	}
	return op
}

// paths are the places of failures.
func paths(list []contract.Failure) []string {
	var texts []string
	for _, f := range list {
		texts = append(texts, f.Path()+" "+f.Message)
	}
	return texts
}

const parameters = `
openapi: 3.1.0
info: {title: t, version: "1"}
servers: [{url: /v1}]
paths:
  /things/{id}/{list}:
    parameters: [{name: id, in: path, required: true, schema: {type: integer, minimum: 1}}]
    get:
      operationId: get
      parameters:
        - {name: list, in: path, required: true, style: matrix, schema: {type: array, items: {type: integer}}}
        - {name: limit, in: query, schema: {type: integer, maximum: 100}}
        - {name: must, in: query, required: true, schema: {type: boolean}}
        - {name: many, in: query, schema: {type: array, items: {type: integer}, maxItems: 3}}
        - {name: csv, in: query, explode: false, schema: {type: array, items: {type: integer}}}
        - {name: pipes, in: query, style: pipeDelimited, schema: {type: array, items: {type: integer}}}
        - {name: spaces, in: query, style: spaceDelimited, schema: {type: array, items: {type: integer}}}
        - {name: deep, in: query, style: deepObject, schema: {type: object, required: [a], additionalProperties: false, properties: {a: {type: integer}, b: {type: string}}}}
        - {name: either, in: query, schema: {oneOf: [{type: integer, maximum: 5}, {type: string, pattern: "^[0-9a-f]{8}$"}]}}
        - {name: json, in: query, content: {application/json: {schema: {type: object, properties: {n: {type: integer}}}}}}
        - {name: X-Ids, in: header, schema: {type: array, items: {type: string, maxLength: 2}}}
        - {name: color, in: cookie, schema: {enum: [red, blue]}}
        - {name: Authorization, in: header, required: true, schema: {type: integer}}
      responses: {"200": {description: x}}
`

func TestParametersAreHeldAgainstTheDescription(t *testing.T) {
	op := operation(t, parameters, "get")
	const good = "/v1/things/7/;list=1,2"
	for _, c := range []struct {
		name, target string
		header       http.Header
		want         []string
	}{
		{"all well", good + "?must=true&limit=3&many=1&many=2&csv=1,2&pipes=1|2&spaces=1%202&deep[a]=1&deep[b]=x&either=00000000&json=%7B%22n%22:1%7D", http.Header{"X-Ids": {"ab, c"}, "Cookie": {"color=red"}}, nil},
		{"encoded delimiters", good + "?must=true&csv=1%2C2&pipes=1%7C2", nil, nil},
		{"unknown parameters pass", good + "?must=true&other=1", nil, nil},
		{"missing", good, nil, []string{"/query/must is required"}},
		{"wrong path", "/v1/things/0/;list=1?must=true", nil, []string{"/path/id must be at least 1"}},
		{"not a number in the path", "/v1/things/secret/;list=1?must=true", nil, []string{"/path/id must be integer"}},
		{"wrong style", "/v1/things/1/1,2?must=true", nil, []string{"/path/list does not have the style matrix"}},
		{"number", good + "?must=true&limit=1e9", nil, []string{"/query/limit must be at most 100"}},
		{"hexadecimal is no number", good + "?must=true&limit=0x1", nil, []string{"/query/limit must be integer"}},
		{"endless exponent", good + "?must=true&limit=1e999999999", nil, []string{"/query/limit must be integer"}},
		{"twice", good + "?must=true&must=false", nil, []string{"/query/must is given more than once"}},
		{"items", good + "?must=true&many=1&many=x", nil, []string{"/query/many/1 must be integer"}},
		{"too many items", good + "?must=true&many=1&many=2&many=3&many=4", nil, []string{"/query/many must have at most 3 items"}},
		{"deep", good + "?must=true&deep[b]=1&deep[c]=1", nil, []string{"/query/deep/a is required", "/query/deep/c is not described"}},
		{"neither", good + "?must=true&either=9", nil, []string{"/query/either matches none of the alternatives"}},
		{"json", good + "?must=true&json=%7B%22n%22:%22x%22%7D", nil, []string{"/query/json/n must be integer"}},
		{"malformed json", good + "?must=true&json=%7B", nil, []string{"/query/json is not valid JSON"}},
		{"header", good + "?must=true", http.Header{"X-Ids": {"abc"}}, []string{"/header/x-ids/0 must have at most 2 characters"}},
		{"cookie", good + "?must=true", http.Header{"Cookie": {"color=green"}}, []string{"/cookie/color must be one of the values that are described"}},
		{"malformed query", good + "?must=%zz", nil, []string{"/query is malformed"}},
		{"another path", "/v1/other?must=true", nil, []string{"/path is not that of the operation"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := httptest.NewRequest("GET", "/", nil)
			u, err := r.URL.Parse(c.target)
			if err != nil {
				t.Fatal(err)
			}
			r.URL = u
			if c.header != nil {
				r.Header = c.header
			}
			got := paths(op.CheckParameters(r))
			for i := range got {
				got[i] = strings.Replace(got[i], "/header/X-Ids", "/header/x-ids", 1)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestEncodedSlashIsAPartOfItsSegment(t *testing.T) {
	op := operation(t, `{"openapi":"3.1.0","info":{"title":"t","version":"1"},"paths":{"/a/{x}":{"get":{"operationId":"g",
		"parameters":[{"name":"x","in":"path","required":true,"schema":{"const":"b/c"}}],"responses":{}}}}}`, "g")
	r := httptest.NewRequest("GET", "/a/b%2Fc", nil)
	if got := op.CheckParameters(r); got != nil {
		t.Error(paths(got))
	}
}

const pets = `
openapi: %s
info: {title: t, version: "1"}
paths:
  /pets:
    post:
      operationId: add
      requestBody:
        required: true
        content:
          application/json: {schema: {$ref: "#/components/schemas/Pet"}}
          application/x-www-form-urlencoded: {schema: {$ref: "#/components/schemas/Pet"}}
          image/*: {}
      responses:
        "200":
          description: x
          headers: {X-Count: {required: true, schema: {type: integer}}}
          content: {application/json: {schema: {$ref: "#/components/schemas/Pet"}}}
        4XX: {description: x, content: {application/problem+json: {schema: {type: object}}}}
components:
  schemas:
    Pet:
      type: object
      required: [id, name, secret]
      properties:
        id: {type: integer, readOnly: true}
        name: {type: string, maxLength: 5}
        secret: {type: string, writeOnly: true}
        %s
        tags: {type: array, items: {type: string}}
        friend: {$ref: "#/components/schemas/Pet"}
`

func TestBodiesAreHeldAgainstTheirSchema(t *testing.T) {
	const age30 = `age: {type: number, nullable: true, minimum: 0, exclusiveMinimum: true, format: int32}`
	const age31 = `age: {type: [number, "null"], exclusiveMinimum: 0}`
	for dialect, text := range map[string]string{"3.0": fmt.Sprintf(pets, "3.0.3", age30), "3.1": fmt.Sprintf(pets, "3.1.0", age31)} {
		op := operation(t, text, "add")
		for _, c := range []struct {
			name, kind, body string
			want             []string
		}{
			{"well", "application/json", `{"name":"a","secret":"s"}`, nil},
			{"null where it may be", "application/json", `{"name":"a","secret":"s","age":null}`, nil},
			{"null where it may not", "application/json; charset=utf-8", `{"name":null,"secret":"s"}`, []string{"/body/name must be string"}},
			{"exclusive", "application/json", `{"name":"a","secret":"s","age":0}`, []string{"/body/age must be greater than 0"}},
			{"required", "application/json", `{"secret":"s"}`, []string{"/body/name is required"}},
			{"nested", "application/json", `{"name":"a","secret":"s","friend":{"name":"toolong","secret":"x"}}`, []string{"/body/friend/name must have at most 5 characters"}},
			{"duplicate", "application/json", `{"name":"a","name":"b","secret":"s"}`, []string{"/body/name is given twice"}},
			{"two values", "application/json", `{"name":"a","secret":"s"}{}`, []string{"/body has something after the value of JSON"}},
			{"cut", "application/json", `{"name":"a"`, []string{"/body is not valid JSON"}},
			{"empty", "application/json", ``, []string{"/body is not valid JSON"}},
			{"not UTF-8", "application/json", "\"\xff\"", []string{"/body is not valid UTF-8"}},
			{"form", "application/x-www-form-urlencoded", `name=a&secret=s&age=3&tags=x&tags=y`, nil},
			{"wrong form", "application/x-www-form-urlencoded", `name=toolong&age=0`, []string{"/body/secret is required", "/body/name must have at most 5 characters", "/body/age must be greater than 0"}},
		} {
			t.Run(dialect+" "+c.name, func(t *testing.T) {
				if op.Body(c.kind) != contract.Read {
					t.Fatal("the body is not read")
				}
				less := func(a, b string) bool { return a < b }
				got := paths(op.CheckBody(c.kind, []byte(c.body)))
				sortStrings(got, less)
				want := append([]string(nil), c.want...)
				sortStrings(want, less)
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
			})
		}
		if op.Body("text/plain") != contract.Unknown || op.Body("image/png") != contract.Unread || op.Body("") != contract.Unknown || !op.Required() {
			t.Error("media types are taken for others")
		}
	}
}

func sortStrings(list []string, less func(a, b string) bool) {
	for i := range list {
		for j := i; j > 0 && less(list[j], list[j-1]); j-- {
			list[j], list[j-1] = list[j-1], list[j]
		}
	}
}

func TestAnswersAreHeldAgainstTheDescription(t *testing.T) {
	op := operation(t, fmt.Sprintf(pets, "3.1.0", `age: {}`), "add")
	well := http.Header{"Content-Type": {"application/json"}, "X-Count": {"1"}}
	for _, c := range []struct {
		name   string
		status int
		header http.Header
		body   string
		want   []string
	}{
		{"well", 200, well, `{"id":1,"name":"a"}`, nil},
		{"read-only is required", 200, well, `{"name":"a"}`, []string{"/body/id is required"}},
		{"header", 200, http.Header{"Content-Type": {"application/json"}}, `{"id":1,"name":"a"}`, []string{"/header/X-Count is required"}},
		{"type", 200, http.Header{"Content-Type": {"text/html"}, "X-Count": {"1"}}, `x`, []string{"/header/content-type is not described for this status"}},
		{"range", 404, http.Header{"Content-Type": {"application/problem+json"}}, `{}`, nil},
		{"status", 500, well, `{}`, []string{"/status 500 is not described"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, paths(op.CheckAnswer(c.status, c.header, []byte(c.body)))); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestFailuresNeverEchoWhatWasSent(t *testing.T) {
	op := operation(t, `{"openapi":"3.0.0","info":{"title":"t","version":"1"},"paths":{"/a":{"post":{"operationId":"g","responses":{},
		"requestBody":{"content":{"application/json":{"schema":{"type":"object","properties":{
		"a":{"type":"string","pattern":"^x$"},"b":{"type":"string","format":"uuid"},"c":{"type":"string","enum":["x"]},"d":{"type":"integer"},
		"e":{"type":"string","maxLength":1},"f":{"type":"array","uniqueItems":true,"items":{}},"g":{"oneOf":[{"type":"integer"},{"type":"string","maxLength":2}]},"h":{"not":{"type":"string"}}}}}}}}}}}`, "g")
	const canary = "hunter2-canary"
	got := op.CheckBody("application/json", []byte(strings.ReplaceAll(`{"a":"C","b":"C","c":"C","d":"C","e":"C","f":["C","C"],"g":"C","h":"C"}`, "C", canary)))
	if len(got) != 8 {
		t.Errorf("%d failures: %v", len(got), paths(got))
	}
	if strings.Contains(fmt.Sprint(got), canary) {
		t.Error(paths(got))
	}
}

func TestWhatARequestCostsIsBounded(t *testing.T) {
	op := operation(t, `{"openapi":"3.1.0","info":{"title":"t","version":"1"},"paths":{"/a":{"post":{"operationId":"g","responses":{},
		"requestBody":{"content":{"application/json":{"schema":{"items":{"type":"integer","multipleOf":0.01}}}}}}}}}`, "g")
	for name, c := range map[string]struct{ body, want string }{
		"depth":    {strings.Repeat("[", 100000), "is nested too deeply"},
		"values":   {"[" + strings.Repeat("1,", 200000) + "1]", "has too many values"},
		"exponent": {"[1e999999999]", "is a number that is too long"},
		"digits":   {"[" + strings.Repeat("1", 100000) + "]", "is a number that is too long"},
	} {
		got := op.CheckBody("application/json", []byte(c.body))
		if len(got) != 1 || got[0].Message != c.want || len(got[0].Pointer) > 300 {
			t.Errorf("%s: %v", name, got)
		}
	}
	got := op.CheckBody("application/json", []byte("["+strings.Repeat(`"x",`, 50000)+"1]"))
	if len(got) != contract.MaxFailures {
		t.Errorf("%d failures", len(got))
	}
}

func TestNothingElsewhereIsFetched(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("something was fetched") }))
	defer server.Close()
	for _, schema := range []string{
		`{"$ref":"` + server.URL + `/x.json"}`, `{"$ref":"other.json"}`, `{"$ref":"file:///etc/passwd"}`,
		`{"$schema":"` + server.URL + `/meta"}`, `{"$dynamicRef":"` + server.URL + `/x"}`, `{"$id":"` + server.URL + `/a/","$ref":"b"}`,
	} {
		api, err := contract.Load("", []byte(`{"openapi":"3.1.0","info":{"title":"t","version":"1"},"paths":{"/a":{"post":{"operationId":"g","responses":{},
			"requestBody":{"content":{"application/json":{"schema":`+schema+`}}}}}}}`))
		if err != nil {
			continue
		}
		if _, err := api.Operation("g"); err == nil {
			t.Errorf("%s is accepted", schema)
		}
	}
}

// Schemas are compiled one by one; what their references lead to stays the same.
func TestReferencesLeadToTheirPlaceInEveryForm(t *testing.T) {
	const list = `{"prefixItems":[{"type":"integer"},{"$ref":"#/components/schemas/b%20c~1d"}]}`
	for ref, body := range map[string]struct{ good, bad string }{
		"#/components/schemas/L":                                          {`[1,"x"]`, `[1,2]`},
		"#/components/schemas/L/prefixItems/0":                            {`1`, `"x"`},
		"#/components/schemas/b%20c~1d":                                   {`"x"`, `1`},
		"#/components/schemas/Odd":                                        {`{"$ref":1,"const":"x","data":{"$ref":"#/nowhere"}}`, `{"const":1}`},
		"#/components/schemas/Odd/properties/$ref":                        {`1`, `"x"`},
		"#/paths/~1b/post/requestBody/content/application~1json/schema":   {`{"again":{}}`, `{"again":1}`},
		"#/paths/%2Fb/post/requestBody/content/application%2Fjson/schema": {`{"again":{}}`, `{"again":1}`},
		"#/x-ours/S": {`"x"`, `1`},
	} {
		for mode, extra := range map[string]string{"alone": ``, "as a whole": `,"Named":{"$anchor":"n"}`} {
			if extra != "" && strings.Contains(ref, "%2F") {
				continue // a slash, to JSON Schema: only where schemas have no names it can be part of one
			}
			op := operation(t, `{"openapi":"3.1.0","info":{"title":"t","version":"1"},"x-ours":{"S":{"$ref":"#/components/schemas/b%20c~1d"}},"paths":{
				"/b":{"post":{"responses":{},"requestBody":{"content":{"application/json":{"schema":{"type":"object","properties":{"again":{"$ref":"#/paths/~1b/post/requestBody/content/application~1json/schema"}}}}}}}},
				"/a":{"post":{"operationId":"g","responses":{},"requestBody":{"content":{"application/json":{"schema":{"$ref":"`+ref+`"}}}}}}},
				"components":{"schemas":{"L":`+list+`,"b c/d":{"type":"string"},"Odd":{"properties":{"$ref":{"type":"integer"},"const":{"$ref":"#/components/schemas/b%20c~1d"},"data":{"const":{"$ref":"#/nowhere"}}}}`+extra+`}}}`, "g")
			if got := op.CheckBody("application/json", []byte(body.good)); got != nil {
				t.Errorf("%s, %s: %v", ref, mode, paths(got))
			}
			if op.CheckBody("application/json", []byte(body.bad)) == nil {
				t.Errorf("%s, %s: %s is accepted", ref, mode, body.bad)
			}
		}
	}
}

func TestSwagger20IsUnderstood(t *testing.T) {
	op := operation(t, `
swagger: "2.0"
info: {title: t, version: "1"}
consumes: [application/x-www-form-urlencoded]
paths:
  /a/{id}:
    post:
      operationId: g
      parameters:
        - {name: id, in: path, required: true, type: string, pattern: "^[a-z]+$"}
        - {name: ids, in: query, type: array, collectionFormat: ssv, items: {type: integer, minimum: 1, exclusiveMinimum: true}}
        - {name: n, in: formData, required: true, type: integer, format: int32}
      responses: {"200": {description: x, schema: {$ref: "#/definitions/A"}}}
definitions: {A: {type: object, required: [x], properties: {x: {type: string}}}}
`, "g")
	r := httptest.NewRequest("POST", "/a/9?ids=1+2", nil)
	if diff := cmp.Diff([]string{"/path/id must match the pattern ^[a-z]+$", "/query/ids/0 must be greater than 1"}, paths(op.CheckParameters(r))); diff != "" {
		t.Error(diff)
	}
	const form = "application/x-www-form-urlencoded"
	if diff := cmp.Diff([]string{"/body/n must have the format int32"}, paths(op.CheckBody(form, []byte("n=3000000000")))); diff != "" {
		t.Error(diff)
	}
	h := http.Header{"Content-Type": {"application/json"}}
	if diff := cmp.Diff([]string{"/body/x is required"}, paths(op.CheckAnswer(200, h, []byte("{}")))); diff != "" {
		t.Error(diff)
	}
}

func TestMockAnswersKeepTheirSchema(t *testing.T) {
	op := operation(t, `
openapi: 3.0.0
info: {title: t, version: "1"}
paths:
  /a:
    get:
      operationId: g
      responses:
        "200":
          description: x
          content:
            application/json:
              schema:
                type: object
                required: [id, when, list, self]
                properties:
                  id: {type: integer, minimum: 4}
                  when: {type: string, format: date-time}
                  name: {type: string, minLength: 9}
                  list: {type: array, minItems: 2, items: {type: string, format: uuid}}
                  self: {allOf: [{type: object, properties: {a: {type: boolean}}}, {type: object, required: [b], properties: {b: {enum: [x, z]}}}]}
                  hidden: {type: string, writeOnly: true}
              examples: {}
        "404":
          description: x
          content:
            application/json:
              examples: {gone: {value: {why: gone}}, never: {value: {why: never}}}
        "204": {description: nothing}
`, "g")
	a, ok := op.Mock(0, "")
	if !ok || a.Status != 200 || strings.Contains(string(a.Body), "hidden") {
		t.Fatalf("%v %+v %s", ok, a, a.Body)
	}
	h := http.Header{"Content-Type": {a.ContentType}}
	if got := op.CheckAnswer(a.Status, h, a.Body); got != nil {
		t.Errorf("%s: %v", a.Body, paths(got))
	}
	if a, ok := op.Mock(404, "never"); !ok || string(a.Body) != "{\"why\":\"never\"}\n" || a.Example != "never" {
		t.Errorf("%+v", a)
	}
	if a, ok := op.Mock(404, ""); !ok || a.Example != "gone" {
		t.Errorf("%+v", a)
	}
	if a, ok := op.Mock(204, ""); !ok || a.Body != nil || a.ContentType != "" {
		t.Errorf("%+v", a)
	}
	if _, ok := op.Mock(404, "other"); ok {
		t.Error("an example that is not there is answered")
	}
	if _, ok := op.Mock(500, ""); ok {
		t.Error("a status that is not described is answered")
	}
}

func TestUnknownOperationsAreNamedWithTheNearest(t *testing.T) {
	api, err := contract.Load("", []byte(fmt.Sprintf(pets, "3.1.0", "age: {}")))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := api.Operation("ad"); err == nil || !strings.Contains(err.Error(), "add") {
		t.Error(err)
	}
	if _, err := api.Operation("POST /pets"); err != nil {
		t.Error(err)
	}
}

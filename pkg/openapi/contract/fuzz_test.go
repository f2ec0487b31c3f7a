package contract_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"net/url"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/keywarden/keywarden/pkg/openapi"
	"github.com/keywarden/keywarden/pkg/openapi/contract"
	"github.com/keywarden/keywarden/pkg/openapi/jsonvalue"
)

// bodies are schemas of bodies in a dialect, with the components that they refer to,
// and what they mean to somebody who asks as schemas of JSON Schema 2020-12.
func bodies() []struct{ dialect, schema, components, means string } {
	return []struct{ dialect, schema, components, means string }{
		{
			"3.1.0",
			`{"$ref":"#/components/schemas/Tree"}`,
			`{"Tree":{"type":"object","required":["name"],"additionalProperties":false,"properties":{"name":{"type":"string","pattern":"^[a-z]+$","maxLength":8},"left":{"$ref":"#/components/schemas/Tree"},"right":{"anyOf":[{"type":"null"},{"$ref":"#/components/schemas/Tree"}]}}}}`,
			`{"type":"object","required":["name"],"additionalProperties":false,"properties":{"name":{"type":"string","pattern":"^[a-z]+$","maxLength":8},"left":{"$ref":"#"},"right":{"anyOf":[{"type":"null"},{"$ref":"#"}]}}}`,
		},
		{
			"3.1.0",
			`{"type":["array","null"],"prefixItems":[{"const":1},{"enum":["a",null]}],"items":{"type":"number","multipleOf":0.5,"exclusiveMinimum":-3},"uniqueItems":true,"maxItems":6}`,
			`{}`,
			`{"type":["array","null"],"prefixItems":[{"const":1},{"enum":["a",null]}],"items":{"type":"number","multipleOf":0.5,"exclusiveMinimum":-3},"uniqueItems":true,"maxItems":6}`,
		},
		{
			"3.1.0",
			`{"oneOf":[{"required":["a"]},{"required":["b"],"unevaluatedProperties":false,"properties":{"b":true}}],"dependentRequired":{"c":["d"]},"propertyNames":{"maxLength":2}}`,
			`{}`,
			`{"oneOf":[{"required":["a"]},{"required":["b"],"unevaluatedProperties":false,"properties":{"b":true}}],"dependentRequired":{"c":["d"]},"propertyNames":{"maxLength":2}}`,
		},
		{ // what 3.0 says in its own way; beside $ref nothing counts
			"3.0.3",
			`{"type":"object","required":["n","seen"],"properties":{"n":{"type":"number","nullable":true,"minimum":0,"exclusiveMinimum":true},"seen":{"type":"boolean","readOnly":true},"s":{"$ref":"#/components/schemas/S","maxLength":1}}}`,
			`{"S":{"type":"string","maxLength":3}}`,
			`{"type":"object","required":["n"],"properties":{"n":{"type":["number","null"],"exclusiveMinimum":0},"seen":{"type":"boolean"},"s":{"type":"string","maxLength":3}}}`,
		},
	}
}

// FuzzContract holds that no request makes the process fail, and that a body is refused
// when and only when its schema, compiled without a description around it, refuses it,
// or it is more than what is read of strangers.
func FuzzContract(f *testing.F) {
	type checked struct {
		op    *contract.Operation
		means *jsonschema.Schema
	}
	var list []checked
	for i, b := range bodies() {
		text := fmt.Sprintf(`{"openapi":%q,"info":{"title":"t","version":"1"},"paths":{"/a":{"post":{"operationId":"g","responses":{},
			"requestBody":{"content":{"application/json":{"schema":%s},"application/x-www-form-urlencoded":{"schema":%[2]s}}}}}},"components":{"schemas":%s}}`, b.dialect, b.schema, b.components)
		means, err := jsonschema.UnmarshalJSON(bytes.NewReader([]byte(b.means)))
		if err != nil {
			f.Fatal(err)
		}
		c, address := jsonschema.NewCompiler(), fmt.Sprintf("test:///%d.json", i)
		if err := c.AddResource(address, means); err != nil {
			f.Fatal(err)
		}
		list = append(list, checked{operation(f, text, "g"), c.MustCompile(address)})
	}
	query := operation(f, parameters, "get")
	for _, body := range []string{
		`{"name":"a","left":{"name":"b","right":null}}`, `{"name":"A"}`, `[1,"a",0.5,1e0]`, `null`, `[1,null,-3]`, `{"a":1,"b":2}`, `{"b":[]}`, `{"c":0}`,
		`{"n":0,"s":"abcd"}`, `{"n":null}`, `{"n":1e-400}`, `{"a":1,"a":2}`, `[[[[`, "\"\xff\"", `1e999999`, `-0`, `[1.0,"a",1,1.0]`, ``,
	} {
		f.Add(body, "must=true&deep[a]=1&many=1&either=00000000")
	}
	f.Fuzz(func(t *testing.T, body, text string) {
		_, _, why := jsonvalue.Parse([]byte(body))
		for i, c := range list {
			refused := len(c.op.CheckBody("application/json", []byte(body)))
			if refused > contract.MaxFailures {
				t.Errorf("%d failures", refused)
			}
			if want := why != "" || refuses(t, c.means, body); want != (refused > 0) {
				t.Errorf("body %d: refused is %v, and should be %v: %q (%s)", i, refused > 0, want, body, why)
			}
			c.op.CheckBody("application/x-www-form-urlencoded", []byte(text))
		}
		r := httptest.NewRequest("GET", "/", nil)
		r.URL = &url.URL{Path: "/v1/things/" + body, RawQuery: text}
		r.Header.Set("Cookie", text)
		r.Header.Set("X-Ids", body)
		if n := len(query.CheckParameters(r)); n > contract.MaxFailures {
			t.Errorf("%d failures", n)
		}
	})
}

// refuses is what the schema itself says of a body, read by the standard library.
func refuses(t *testing.T, s *jsonschema.Schema, body string) bool {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader([]byte(body)))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		t.Fatalf("%q is taken for JSON: %v", body, err)
	}
	return s.Validate(v) != nil
}

// FuzzDescription holds that no description makes the process fail. Those with a few
// operations are compiled and mocked as well.
func FuzzDescription(f *testing.F) {
	for _, text := range descriptions(f) {
		f.Add(text)
	}
	f.Fuzz(func(_ *testing.T, text []byte) {
		doc, err := openapi.Parse("", text)
		if err != nil || len(doc.Operations) > 5 {
			return
		}
		api, err := contract.New(doc)
		if err != nil {
			return
		}
		for _, id := range api.Names() {
			if op, err := api.Operation(id); err == nil {
				a, _ := op.Mock(0, "")
				op.CheckAnswer(a.Status, nil, a.Body)
			}
		}
	})
}

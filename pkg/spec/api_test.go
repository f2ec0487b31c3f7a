package spec_test

import (
	"strings"
	"testing"

	"github.com/keywarden/keywarden/pkg/spec"
)

const describedAPI = `
version: 1
apis:
  - name: d
    openapi: '{"openapi":"3.1.0","info":{"title":"d","version":"1"},"paths":{"/x":{"get":{"operationId":"get","responses":{}}}}}'
  - {name: f, openapi_file: /etc/api.yaml}
services: [{name: a, url: "http://a.invalid"}]
routes: [{name: r, service: a, `

func TestOperationsOfRoutesExist(t *testing.T) {
	for _, c := range []struct{ route, want string }{
		{`operation: {api: d, id: get}, validate: {}`, ""},
		{`operation: {api: d, id: "GET /x"}, mock: {}`, ""},
		{`operation: {api: f, id: anything}, validate: {max_body: 2MiB}`, ""},
		{`validate: {mode: "off"}`, ""},
		{`validate: {}`, "operation: is required"},
		{`mock: {}`, "operation: is required"},
		{`operation: {api: d, id: got}`, `no operation "got"`},
		{`operation: {api: e, id: get}`, "no api is named"},
		{`operation: {api: d}`, "id: is required"},
		{`operation: {api: d, id: get}, validate: {max_body: 17MiB}`, "max_body"},
	} {
		_, err := spec.Parse("", []byte(describedAPI+c.route+"}]"))
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v", c.route, err)
		}
	}
	for api, want := range map[string]string{
		`{name: d}`: "must have one of", `{name: d, openapi: x, openapi_file: y}`: "must have one of",
		`{name: d, openapi: "{}"}`: "neither openapi nor swagger", `{name: "a b", openapi_file: x}`: "name",
	} {
		_, err := spec.Parse("", []byte("version: 1\nservices: []\nroutes: []\napis: ["+api+"]"))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", api, err)
		}
	}
}

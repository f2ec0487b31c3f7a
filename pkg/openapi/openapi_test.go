package openapi_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keywarden/keywarden/pkg/openapi"
)

func load(t testing.TB, name string) *openapi.Document {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return parse(t, string(text))
}

func parse(t testing.TB, text string) *openapi.Document {
	t.Helper()
	doc, err := openapi.Parse("", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

func TestParseFindsEveryOperation(t *testing.T) {
	for _, c := range []struct {
		file, title, base, origin string
		dialect                   openapi.Dialect
		operations                []string
	}{
		{"bookshelf20.yaml", "Bookshelf", "/v1", "https://books.example.com", openapi.Dialect20, []string{
			"GET /shelves listShelves", "POST /shelves createShelf", "GET /shelves/popular popularShelves",
			"GET /shelves/{shelf}/books/{book} ", "DELETE /shelves/{shelf}/books/{book} delete book",
		}},
		{"animals30.yaml", "Animals", "/api", "https://eu.animals.example.com", openapi.Dialect30, []string{
			"GET /animals/{id} getAnimal", "PUT /animals/{id} putAnimal", "GET /animals/mine myAnimals", "GET /animals listAnimals",
			"GET /animals/{id}/photo.{format} getPhoto",
		}},
		{"orders31.json", "Orders", "/orders", "", openapi.Dialect31, []string{
			"GET / list", "POST / create", "GET /{id} read", "PATCH /{id} change", "GET /health health",
		}},
	} {
		t.Run(c.file, func(t *testing.T) {
			doc := load(t, c.file)
			if doc.Title != c.title || doc.Server.Base != c.base || doc.Server.Origin != c.origin || doc.Dialect != c.dialect {
				t.Errorf("got %s at %s%s in %s", doc.Title, doc.Server.Origin, doc.Server.Base, doc.Dialect)
			}
			var got []string
			for _, op := range doc.Operations {
				got = append(got, fmt.Sprintf("%s %s %s", op.Method, op.Path, op.ID))
			}
			if diff := cmp.Diff(c.operations, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestParseFollowsLocalReferences(t *testing.T) {
	book := load(t, "bookshelf20.yaml").Operations[3]
	if len(book.Parameters) != 2 || book.Parameters[1].Name != "book" || book.Parameters[1].Type != "integer" || !book.Parameters[1].Required {
		t.Errorf("parameters %+v", book.Parameters)
	}
	put := load(t, "animals30.yaml").Operations[1]
	if put.Body == nil || !put.Body.Required || !cmp.Equal(put.Body.MediaTypes, []string{"application/json"}) {
		t.Errorf("body %+v", put.Body)
	}
	if read := load(t, "orders31.json").Operations[2]; len(read.Parameters) != 1 || read.Parameters[0].Type != "integer|string" {
		t.Errorf("parameters %+v", read.Parameters)
	}
}

// TestPlacesOfJSONAreThoseOfTheText compares with YAML, whose places come from the
// library: JSON is a part of it.
func TestPlacesOfJSONAreThoseOfTheText(t *testing.T) {
	text, err := os.ReadFile("testdata/orders31.json")
	if err != nil {
		t.Fatal(err)
	}
	asJSON, asYAML := parse(t, string(text)), parse(t, "# no JSON\n"+string(text))
	for i, op := range asJSON.Operations {
		if other := asYAML.Operations[i].Place; op.Line+1 != other.Line || op.Column != other.Column || op.Line == 0 {
			t.Errorf("%s %s: JSON %d:%d, YAML %d:%d", op.Method, op.Path, op.Line, op.Column, other.Line, other.Column)
		}
	}
}

const head = "openapi: 3.0.0\ninfo: {title: a, version: b}\n"

func TestParseRefuses(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"nothing", " \n", "the document is empty"},
		{"no YAML", "a: [", "2:1: is not valid YAML: did not find expected node content"},
		{"something else", "a: b\n", "1:1: is no OpenAPI document: it has neither openapi nor swagger at its top"},
		{"a list", "[a]", "1:1: must be a mapping\n1:1: is no OpenAPI document: it has neither openapi nor swagger at its top"},
		{"another version", "openapi: 3.2.0\ninfo: {}\npaths: {}", `1:10: openapi: is "3.2.0"; 3.0, 3.1 and (as swagger) 2.0 can be read`},
		{"an old version", "swagger: '1.2'", "1:10: swagger: must be 2.0"},
		{"two documents", head + "paths: {}\n---\na: b", "4:1: there must be only one YAML document"},
		{"no paths", head, "1:1: paths is required"},
		{"an unknown method", head + "paths: {/a: {gte: {}}}", "3:14: paths./a.gte: is no method of HTTP that OpenAPI knows, did you mean get?"},
		{"a path without slash", head + "paths: {a: {}}", "3:9: paths.a: the path must begin with a slash"},
		{"dot segments", head + "paths: {/a/../b: {}}", "3:9: paths./a/../b: the path is not an acceptable path: it holds a dot segment"},
		{"an encoded slash", head + "paths: {/a%2Fb: {}}", "3:9: paths./a%2Fb: the path is not an acceptable path: it holds an encoded slash"},
		{"half a brace", head + "paths: {'/a/{b': {}}", "3:9: paths./a/{b: the path has a brace without its other half"},
		{"several segments", head + "paths: {'/a/{b=**}': {}}", "3:9: paths./a/{b=**}: the path has a parameter that stands for several segments, such as {name=**}; OpenAPI has none: write one path for each number of segments"},
		{"a query", head + "paths: {'/a?b={c}': {}}", "3:9: paths./a?b={c}: the path has a query or a fragment; parameters of the query belong to parameters"},
		{"a parameter twice", head + "paths: {'/{a}/{a}': {}}", "3:9: paths./{a}/{a}: the path names a parameter twice"},
		{"one path twice", head + "paths: {'/{a}': {get: {}}, '/{b}': {get: {}}}", "3:28: paths./{b}: matches the same requests as another path: names of parameters tell nothing apart (paths./{a} in line 3)"},
		{"an id twice", head + "paths: {/a: {get: {operationId: x}}, /b: {get: {operationId: x}}}", "3:62: paths./b.get.operationId: is taken: each operation has an id of its own (paths./a.get.operationId in line 3)"},
		{"a field twice", head + "paths: {/a: {get: {security: [], security: [{a: []}]}}}", "3:34: paths./a.get.security: is given twice"},
		{"a merge key", head + "x: &x {security: []}\npaths: {/a: {get: {<<: *x}}}", "4:20: paths./a.get.<<: merge keys (<<) are not supported; write the fields out"},
		{"another document", head + "paths: {/a: {$ref: 'other.yaml#/a'}}", `3:20: paths./a.$ref: refers to another document, "other.yaml#/a", and none is ever fetched; put it into this one, as #/components/… (2.0: #/definitions/…), with a bundler for example`},
		{"another document in a schema", head + "paths: {}\ncomponents: {schemas: {default: {$ref: 'http://169.254.169.254/'}}}", `4:40: components.schemas.default.$ref: refers to another document, "http://169.254.169.254/", and none is ever fetched; put it into this one, as #/components/… (2.0: #/definitions/…), with a bundler for example`},
		{"nothing there", head + "paths: {/a: {get: {parameters: [{$ref: '#/components/parameters/b'}]}}}", `3:40: paths./a.get.parameters[0].$ref: refers to nothing: there is no "#/components/parameters/b"`},
		{"a circle", head + "paths: {/a: {$ref: '#/paths/~1b'}, /b: {$ref: '#/paths/~1a'}}", `3:13: paths./a: refers to itself, through "#/paths/~1b"` + "\n" + `3:40: paths./b: refers to itself, through "#/paths/~1a"`},
		{"fields beside a reference", head + "paths: {/a: {$ref: '#/x-a', get: {}}}\nx-a: {}", "3:29: paths./a.get: cannot stand beside $ref: which of the two counts is not defined"},
		{"an unknown scheme", head + "paths: {/a: {get: {security: [{kye: []}]}}}\ncomponents: {securitySchemes: {key: {type: apiKey, in: header, name: k}}}", `3:32: paths./a.get.security[0].kye: no security scheme is named "kye", did you mean key?`},
		{"an unknown kind of scheme", head + "paths: {}\ncomponents: {securitySchemes: {key: {type: apikey}}}", `4:32: components.securitySchemes.key: type is "apikey", must be one of apiKey, http, oauth2, openIdConnect, did you mean apiKey?`},
		{"mutual TLS before 3.1", head + "paths: {}\ncomponents: {securitySchemes: {key: {type: mutualTLS}}}", `4:32: components.securitySchemes.key: type is "mutualTLS", must be one of apiKey, http, oauth2, openIdConnect`},
		{"a mistyped extension", head + "paths: {/a: {get: {x-keywarden-ratelimit: []}}}", "3:20: paths./a.get.x-keywarden-ratelimit: is no extension that belongs here, did you mean x-keywarden-rate-limit?"},
		{"an extension in the wrong place", head + "paths: {/a: {x-keywarden-timeout: 1s}}", "3:14: paths./a.x-keywarden-timeout: belongs to an operation or to the top of the document"},
		{"a variable without default", head + "servers: [{url: 'https://{a}/'}]\npaths: {}", `3:17: servers[0].url: is no URL, or has a variable without a default: "https://{a}/"`},
		{"a password in the server", head + "servers: [{url: 'https://a:b@c/'}]\npaths: {}", "3:17: servers[0].url: must have no user, query or fragment"},
		{"a file as server", head + "servers: [{url: 'file:///etc/passwd'}]\npaths: {}", "3:17: servers[0].url: must be an http or https URL, or a path"},
		{"a parameter elsewhere", head + "paths: {/a: {get: {parameters: [{name: a, in: quer}]}}}", `3:33: paths./a.get.parameters[0]: in is "quer", must be one of path, query, header, cookie, did you mean query?`},
		{"another translation of paths", head + "paths: {/a: {get: {x-google-backend: {address: 'https://a', path_translation: OTHER}}}}", "3:79: paths./a.get.x-google-backend.path_translation: must be APPEND_PATH_TO_ADDRESS or CONSTANT_ADDRESS"},
	} {
		t.Run(c.name, func(t *testing.T) {
			doc, err := openapi.Parse("", []byte(c.text))
			if err == nil {
				t.Fatalf("accepted: %+v", doc)
			}
			if diff := cmp.Diff(c.want, err.Error()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestParseTakesWhatOnlyLooksLikeAReference(t *testing.T) {
	parse(t, head+`paths:
  /a:
    get:
      parameters: [{name: a, in: query, example: {$ref: "other.yaml"}, schema: {default: {$ref: "x.yaml"}}}]
      responses: {default: {description: a}}
components: {schemas: {a: {properties: {$ref: {type: string}}}}}
x-other: {$ref: "other.yaml"}
`)
}

func TestParseBoundsWhatItReads(t *testing.T) {
	item := "[{name: a, in: query}" + strings.Repeat(", {name: a, in: query}", 300) + "]"
	paths := strings.Builder{}
	for i := range 10_002 {
		fmt.Fprintf(&paths, "  /a%d: {get: {}}\n", i)
	}
	for _, c := range []struct{ name, text, want string }{
		{"bytes", strings.Repeat(" ", openapi.MaxBytes+1), "larger than 16 MiB"},
		{"a line of YAML", head + "a: " + strings.Repeat("x", 70_000), "longer than 64 KiB"},
		{"depth", head + strings.Repeat("[", 200) + strings.Repeat("]", 200), "depth"},
		{"depth of JSON", `{"a":` + strings.Repeat("[", 200) + strings.Repeat("]", 200) + "}", "nested too deeply"},
		{"items of JSON", "[" + strings.Repeat("1,", 2_000_001) + "1]", "too many items"},
		{"parameters", head + "paths: {/a: {get: {parameters: " + item + "}}}", "must not name more than 256 parameters"},
		{"operations", head + "paths:\n" + paths.String(), "more than 10000 operations"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := openapi.Parse("", []byte(c.text)); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %.300v, want %q", err, c.want)
			}
		})
	}
}

func TestCompareTellsWhatBreaksClients(t *testing.T) {
	const tail = "\ncomponents: {securitySchemes: {key: {type: apiKey, in: header, name: X-API-Key}, other: {type: apiKey, in: header, name: x}, token: {type: oauth2, flows: {}}}}"
	get := func(body string) string { return head + "paths: {'/a/{x}': {get: {" + body + "}}}" + tail }
	for _, c := range []struct{ name, a, b, want string }{
		{"nothing", get("security: [{key: []}]"), get("security: [{key: []}]"), ""},
		{"the name of a path parameter", get("parameters: [{name: x, in: path, required: true}]"),
			strings.ReplaceAll(get("parameters: [{name: y, in: path, required: true}]"), "{x}", "{y}"), ""},
		{"removed", get(""), head + "paths: {}", "removed GET /a/{x} breaking"},
		{"added", head + "paths: {}", get(""), "added GET /a/{x}"},
		{"another base", get(""), get("") + "\nservers: [{url: /v2}]", "removed GET /a/{x} breaking\nadded GET /v2/a/{x}"},
		{"a new parameter", get(""), get("parameters: [{name: q, in: query}]"), `changed GET /a/{x} the parameter "q" in query is new`},
		{"a required parameter", get(""), get("parameters: [{name: q, in: query, required: true}]"), `changed GET /a/{x} the parameter "q" in query is new and required breaking`},
		{"it becomes required", get("parameters: [{name: q, in: query}]"), get("parameters: [{name: q, in: query, required: true}]"), `changed GET /a/{x} the parameter "q" in query has become required breaking`},
		{"another type", get("parameters: [{name: q, in: query, schema: {type: string}}]"), get("parameters: [{name: q, in: query, schema: {type: integer}}]"), `changed GET /a/{x} the parameter "q" in query was string, is integer breaking`},
		{"a wider type", get("parameters: [{name: q, in: query, schema: {type: integer}}]"), get("parameters: [{name: q, in: query, schema: {type: number}}]"), `changed GET /a/{x} the parameter "q" in query was integer, is number`},
		{"locked", get("security: []"), get("security: [{key: []}]"), "changed GET /a/{x} security is stricter breaking"},
		{"opened", get("security: [{key: []}]"), get("security: []"), "changed GET /a/{x} security is looser"},
		{"no word of it any more", get("security: []"), get(""), "changed GET /a/{x} security is stricter breaking"},
		{"another key", get("security: [{key: []}]"), get("security: [{other: []}]"), "changed GET /a/{x} security is stricter breaking"},
		{"one more way in", get("security: [{key: []}]"), get("security: [{key: []}, {other: []}]"), "changed GET /a/{x} security is looser"},
		{"one more scope", get("security: [{token: [a]}]"), get("security: [{token: [a, b]}]"), "changed GET /a/{x} security is stricter breaking"},
		{"a media type is gone", get("responses: {'200': {content: {a/b: {}, c/d: {}}}}"), get("responses: {'200': {content: {c/d: {}}}}"), `changed GET /a/{x} the response 200 has no "a/b" any more breaking`},
		{"a media type is not taken", get("requestBody: {content: {a/b: {}, c/d: {}}}"), get("requestBody: {content: {c/d: {}}}"), `changed GET /a/{x} the request has no "a/b" any more breaking`},
		{"a body becomes required", get("requestBody: {content: {}}"), get("requestBody: {required: true, content: {}}"), "changed GET /a/{x} the body has become required breaking"},
		{"an answer is gone", get("responses: {'200': {}, '404': {}}"), get("responses: {'404': {}}"), "changed GET /a/{x} the response 200 is gone breaking"},
		{"an extension", get("x-keywarden-timeout: 1s"), get("x-keywarden-timeout: 2s"), "changed GET /a/{x} x-keywarden-timeout is another"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var lines []string
			for _, change := range openapi.Compare(parse(t, c.a), parse(t, c.b)) {
				line := fmt.Sprintf("%s %s %s", change.Kind, change.Operation, change.Detail)
				if change.Breaking {
					line = strings.TrimSpace(line) + " breaking"
				}
				lines = append(lines, strings.TrimSpace(line))
			}
			if diff := cmp.Diff(c.want, strings.Join(lines, "\n")); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// FuzzParse looks for panics, endless work and documents with operations that a
// gateway could not route.
func FuzzParse(f *testing.F) {
	files, err := filepath.Glob("testdata/*.*")
	if err != nil || len(files) == 0 {
		f.Fatal(files, err)
	}
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Add([]byte(head + "paths: &p {/a: &a {get: &g {parameters: [*g]}, put: *g}, /b: *a, /c: *p}"))
	f.Fuzz(func(t *testing.T, text []byte) {
		doc, err := openapi.Parse("f", text)
		if (doc == nil) != (err != nil) {
			t.Fatalf("document %v and error %v", doc, err)
		}
		if err != nil {
			if bytes.ContainsAny([]byte(err.Error()), "\x00\x1b") {
				t.Fatalf("the error holds control characters: %q", err)
			}
			return
		}
		for _, op := range doc.Operations {
			if op.Path.String()[0] != '/' || op.Method == "" || op.Line == 0 {
				t.Fatalf("%+v", op)
			}
		}
	})
}

// BenchmarkParse reads a generated document of about 10 MB in one line.
func BenchmarkParse(b *testing.B) {
	var text strings.Builder
	text.WriteString(`{"openapi":"3.1.0","info":{"title":"a","version":"1"},"paths":{`)
	for i := range 5000 {
		if i > 0 {
			text.WriteByte(',')
		}
		fmt.Fprintf(&text, `"/things/%d/{id}":{"get":{"operationId":"get%d","parameters":[{"name":"id","in":"path","required":true,"schema":{"type":"string"}}],"responses":{"200":{"description":%q,"content":{"application/json":{"schema":{"type":"object","properties":{"a":{"type":"string"},"b":{"$ref":"#/paths/~1things~1%d~1{id}/get/responses/200/content/application~1json/schema"}}}}}}}}}`, i, i, strings.Repeat("x", 1500), i)
	}
	text.WriteString("}}")
	b.SetBytes(int64(text.Len()))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := openapi.Parse("", []byte(text.String())); err != nil {
			b.Fatal(err)
		}
	}
}

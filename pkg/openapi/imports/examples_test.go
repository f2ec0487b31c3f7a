package imports_test

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/keywarden/keywarden/pkg/openapi"
	"github.com/keywarden/keywarden/pkg/openapi/compile"
	"github.com/keywarden/keywarden/pkg/openapi/contract"
	"github.com/keywarden/keywarden/pkg/openapi/imports"
	"github.com/keywarden/keywarden/pkg/spec"
	"github.com/keywarden/keywarden/pkg/spec/policies"
)

// collection is descriptions of others, in a module that the Go module proxy carries.
type collection struct {
	module, sum string
	files       []string // patterns below the module
	least       int      // descriptions that are served
}

// collections have the OpenAPI project's own examples (in gnostic and kin-openapi),
// and large descriptions of APIs that are in use, in all three dialects.
func collections() []collection {
	return []collection{
		{"github.com/google/gnostic@v0.7.0", "h1:d7EpuFp8vVdML+y0JJJYiKeOLjKTdH/GvVkLOBWqJpw=", []string{
			"examples/v2.0/json/*.json", "examples/v2.0/json/*/*/*.json", "examples/v2.0/yaml/[ap-u]*.yaml", "examples/v2.0/yaml/*/*/*.yaml", "examples/v3.0/*/petstore.*",
		}, 16},
		{"github.com/getkin/kin-openapi@v0.152.0", "h1:XRVo77lMRyOGMHf1paMu9lxX3wzuQDZeprssZJnz/x8=", []string{"openapi3/testdata/link-example.yaml", "openapi3/testdata/oai_v3_stoplight.json", "openapi3/testdata/lxkns.yaml"}, 3},
		{"github.com/pb33f/libopenapi@v0.42.3", "h1:0VXnFgz04LtWjIsmCqGYA5E2Mx0DOZcOTjy5KHYw88k=", []string{
			"test_specs/k8s.json", "test_specs/docusignv3.1.json", "test_specs/stripe.yaml", "test_specs/asana.yaml", "test_specs/petstorev[23].json", "test_specs/burgershop.openapi.yaml",
		}, 7},
	}
}

// download is the folder of a module. Without the network it has to be in the
// module cache already; a continuous integration fetches it.
func (c *collection) download(t *testing.T) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "mod", "download", "-json", c.module)
	cmd.Dir = t.TempDir()
	cmd.Env = append(os.Environ(), "GOFLAGS=", "GOWORK=off")
	integration := os.Getenv("CI") == "true"
	if !integration {
		cmd.Env = append(cmd.Env, "GOPROXY=off")
	}
	out, err := cmd.Output()
	var found struct{ Dir, Sum, Error string }
	if wrong := json.Unmarshal(out, &found); err == nil {
		err = wrong
	}
	switch {
	case err != nil && integration:
		t.Fatalf("%s: %v %s", c.module, err, found.Error)
	case err != nil:
		t.Skipf("%s is not in the module cache: run go mod download %s", c.module, c.module)
	case found.Sum != c.sum:
		t.Fatalf("%s has the sum %s", c.module, found.Sum)
	}
	return found.Dir
}

// skips reports whether a large description is left to longer runs: all are in short
// ones, and under the race detector all but two.
func (c *collection) skips(name string) bool {
	return testing.Short() || raceEnabled && !strings.HasSuffix(name, "/k8s.json") && !strings.HasSuffix(name, "/stripe.yaml")
}

// refusal is why a file of the collections must be refused; empty for one that is
// served. Parts of a description that is in several files are none by themselves.
func refusal(file string) string {
	switch {
	case strings.Contains(file, "petstore-separate/spec/swagger."):
		return "refers to another document"
	case strings.Contains(file, "petstore-separate/"):
		return "is no OpenAPI document"
	case strings.Contains(file, "/v3.2/"):
		return "3.0, 3.1 and (as swagger) 2.0 can be read"
	}
	return ""
}

// Every operation of the descriptions of others can be reached, and nothing else.
func TestDescriptionsOfOthersAreServed(t *testing.T) {
	for _, c := range collections() {
		t.Run(strings.NewReplacer("/", " ", "@", " ").Replace(c.module), func(t *testing.T) {
			dir, served := c.download(t), 0
			for _, pattern := range c.files {
				names, err := filepath.Glob(filepath.Join(dir, pattern))
				if err != nil || len(names) == 0 {
					t.Fatalf("%s: %v", pattern, err)
				}
				for _, name := range names {
					if refusal(name) == "" {
						served++
					}
					if info, err := os.Stat(name); err == nil && info.Size() > 1<<20 && c.skips(name) {
						continue
					}
					t.Run(filepath.Base(name), func(t *testing.T) { descriptionOfOthers(t, name) })
				}
			}
			if served < c.least {
				t.Errorf("only %d descriptions", served)
			}
		})
	}
}

// TestFolderOfDescriptionsIsServed goes over every description below the folder that
// KEYWARDEN_OPENAPI_DIR names, when it does.
func TestFolderOfDescriptionsIsServed(t *testing.T) {
	dir := os.Getenv("KEYWARDEN_OPENAPI_DIR")
	if dir == "" {
		t.Skip("KEYWARDEN_OPENAPI_DIR is not set")
	}
	err := filepath.WalkDir(dir, func(name string, e fs.DirEntry, err error) error {
		if err == nil && slices.Contains([]string{".json", ".yaml", ".yml"}, filepath.Ext(name)) {
			t.Run(strings.TrimPrefix(name, dir), func(t *testing.T) { descriptionOfOthers(t, name) })
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Those of this repository are served as well.
func TestOwnDescriptionsAreServed(t *testing.T) {
	names, err := filepath.Glob("../testdata/*.*")
	if err != nil || len(names) < 3 {
		t.Fatal(names, err)
	}
	for _, name := range names {
		t.Run(filepath.Base(name), func(t *testing.T) { descriptionOfOthers(t, name) })
	}
}

func descriptionOfOthers(t *testing.T, file string) {
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if want := refusal(file); want != "" {
		_, err := imports.Read(text, imports.Options{Options: compile.Options{API: "api", Service: "http://127.0.0.1:1"}})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
		return
	}
	everyOperationIsServed(t, bearers(text))
}

// bearers lets those who would show a password show a token: basic authentication is
// refused, which is not what these tests are about.
func bearers(text []byte) []byte {
	basic := regexp.MustCompile(`("?scheme"?:\s*"?)basic\b|("?type"?:\s*"?)basic\b`)
	return basic.ReplaceAllFunc(text, func(found []byte) []byte {
		if strings.Contains(string(found), "scheme") {
			return []byte(strings.Replace(string(found), "basic", "bearer", 1))
		}
		return []byte(strings.Replace(string(found), "basic", "oauth2", 1))
	})
}

// everyOperationIsServed imports a description three times: with routes alone, then
// held to its schemas, then mocked, and sends a request for every operation.
func everyOperationIsServed(t *testing.T, text []byte) {
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Seen", r.Method+" "+r.URL.EscapedPath())
	}))
	t.Cleanup(backend.Close)
	doc, err := openapi.Parse("", text)
	if err != nil {
		t.Fatal(err)
	}
	o := imports.Options{Options: compile.Options{API: "api", Service: backend.URL, Base: compile.BaseKeep}}
	plain := open(into(t, read(t, string(text), o), spec.Document{Version: spec.Version}).Document)
	if len(plain.Routes) != len(doc.Operations) {
		t.Errorf("%d routes for %d operations", len(plain.Routes), len(doc.Operations))
	}
	s := &sweep{door: newDoor(t, plain), doc: doc, routes: routesOf(t, plain)}
	s.reached(t)
	s.closed(t)

	o.Hold = true
	held := open(into(t, read(t, string(text), o), spec.Document{Version: spec.Version}).Document)
	s.apply(held)
	s.held(t)
	for i := range held.Routes {
		held.Routes[i].Mock = &policies.Mock{Gate: policies.Gate{Mode: policies.Enforce}}
		held.Routes[i].Validation = nil
	}
	s.apply(held)
	s.mocked(t, text)
	t.Logf("%d operations", len(plain.Routes))
}

// open lets everybody pass.
func open(doc spec.Document) spec.Document {
	doc.Routes = slices.Clone(doc.Routes)
	for i := range doc.Routes {
		doc.Routes[i].Auth = &policies.Auth{Mode: policies.AuthNone}
	}
	return doc
}

// sweep is one request for each operation of a description.
type sweep struct {
	*door
	doc    *openapi.Document
	routes []matcher
}

// matcher is what a route takes.
type matcher struct {
	name, method string
	path         *regexp.Regexp
}

func routesOf(t *testing.T, doc spec.Document) []matcher {
	t.Helper()
	var list []matcher
	for i := range doc.Routes {
		r := &doc.Routes[i]
		text := r.Match.Path.Regex
		if text == "" {
			text = regexp.QuoteMeta(r.Match.Path.Exact)
		}
		list = append(list, matcher{r.Name, r.Match.Methods[0], regexp.MustCompile("^(?:" + text + ")$")})
	}
	return list
}

// path is that of an operation with its parameters filled in.
func (s *sweep) path(op *openapi.Operation) string {
	server := s.doc.Server
	if op.Server != nil {
		server = *op.Server
	}
	path := op.Path.String()
	for i, name := range op.Path.Parameters() {
		value := fmt.Sprintf("value%d", i)
		for _, p := range op.Parameters {
			if p.Name == name && (p.Type == "integer" || p.Type == "number") {
				value = fmt.Sprint(7 + i)
			}
		}
		path = strings.Replace(path, "{"+name+"}", value, 1)
	}
	return server.Base + path
}

// takes are the methods of the routes for a path.
func (s *sweep) takes(path string) (methods []string) {
	for _, m := range s.routes {
		if m.path.MatchString(path) {
			methods = append(methods, m.method)
		}
	}
	return methods
}

// reached holds that a request for each operation takes a route of its method and
// path, and gets to the service as it is.
func (s *sweep) reached(t *testing.T) {
	t.Helper()
	for i := range s.doc.Operations {
		op := &s.doc.Operations[i]
		path := s.path(op)
		resp, body, route := s.call(op.Method, path, "", "")
		want := slices.IndexFunc(s.routes, func(m matcher) bool { return m.method == op.Method && m.path.MatchString(path) })
		if want < 0 || route != s.routes[want].name {
			t.Errorf("%s %s took the route %q", op.Method, path, route)
			continue
		}
		if op.Service != nil || op.Backend != nil {
			continue // it has a service of its own, which is not there
		}
		if seen := resp.Header.Get("X-Seen"); resp.StatusCode != http.StatusOK || seen != op.Method+" "+path {
			t.Errorf("%s %s: %d, the service saw %q: %s", op.Method, path, resp.StatusCode, seen, body)
		}
	}
}

// closed holds that what is not described is not open: other paths, and other methods
// of those that are.
func (s *sweep) closed(t *testing.T) {
	t.Helper()
	for _, path := range []string{"/", strings.Repeat("/not-described", 30), s.doc.Server.Base + strings.Repeat("/x", 30)} {
		if len(s.takes(path)) > 0 {
			continue
		}
		if resp, _, route := s.call("GET", path, "", ""); resp.StatusCode != http.StatusNotFound || route != "" {
			t.Errorf("%s: %d by the route %q", path, resp.StatusCode, route)
		}
	}
	for i := range s.doc.Operations {
		path := s.path(&s.doc.Operations[i])
		taken := s.takes(path)
		for _, method := range []string{"DELETE", "PATCH", "PUT", "POST", "HEAD", "GET", "LINK"} {
			if slices.Contains(taken, method) {
				continue
			}
			resp, _, route := s.call(method, path, "", "")
			if resp.StatusCode != http.StatusMethodNotAllowed || route != "" || resp.Header.Get("Allow") == "" {
				t.Errorf("%s %s: %d by the route %q", method, path, resp.StatusCode, route)
			}
			break
		}
	}
}

// held sends an empty request to each operation: what is refused says where.
func (s *sweep) held(t *testing.T) {
	t.Helper()
	for i := range s.doc.Operations {
		op := &s.doc.Operations[i]
		path := s.path(op)
		resp, body, route := s.call(op.Method, path, "", "")
		switch {
		case route == "":
			t.Errorf("%s %s took no route", op.Method, path)
		case resp.StatusCode == http.StatusBadGateway && (op.Service != nil || op.Backend != nil):
		case resp.StatusCode == http.StatusOK && resp.Header.Get("X-Seen") == op.Method+" "+path:
		case resp.StatusCode == http.StatusBadRequest && (op.Method == http.MethodHead || strings.Contains(body, `"field":"/`)):
		default:
			t.Errorf("%s %s: %d %s", op.Method, path, resp.StatusCode, body)
		}
	}
}

// mocked holds that each operation with an answer that can be given gives one that
// is described.
func (s *sweep) mocked(t *testing.T, text []byte) {
	t.Helper()
	api, err := contract.Load("", text)
	if err != nil {
		t.Fatal(err)
	}
	for i := range s.doc.Operations {
		op := &s.doc.Operations[i]
		id := op.Method + " " + op.Path.String()
		o, err := api.Operation(id)
		if err != nil {
			t.Error(err)
			continue
		}
		resp, body, _ := s.call(op.Method, s.path(op), "", "")
		want, ok := o.Mock(0, "")
		if !ok {
			want.Status = http.StatusNotImplemented
		}
		if resp.StatusCode != want.Status {
			t.Errorf("%s: mocked with %d, not %d: %s", id, resp.StatusCode, want.Status, body)
		}
	}
}

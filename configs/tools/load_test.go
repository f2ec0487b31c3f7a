package tools

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/dop251/goja"
	"github.com/evanw/esbuild/pkg/api"
)

var (
	loadDir  = filepath.Join(root, "configs", "load")
	mixNames = []string{"key", "limits", "login", "proxy"}
)

// sent is one request of a script or a target file.
type sent struct {
	method, url, body string
	header            map[string]string
}

// answers is what the scripts get: the status by path, or 200.
type answers struct {
	status map[string]int
	header map[string]string
	sent   []sent
	failed []string // checks
}

func (a *answers) take(s sent) map[string]any {
	a.sent = append(a.sent, s)
	u, err := url.Parse(s.url)
	if err != nil {
		panic(err)
	}
	status := 200
	if set, ok := a.status[u.Path]; ok {
		status = set
	}
	return map[string]any{
		"status": status, "body": "{}", "headers": a.header,
		"json": func() map[string]any {
			return map[string]any{"access_token": "token-of-" + s.body, "key": "key-of-" + s.header["Authorization"], "id": "1"}
		},
	}
}

// script is a k6 script that was compiled: its imports of k6's own modules lead to
// stand-ins which note what is asked.
type script struct {
	vm      *goja.Runtime
	exports *goja.Object
	*answers
}

// compile runs a script to its end, as k6 does before it begins.
func compile(t *testing.T, file string, env map[string]string, a *answers) *script {
	t.Helper()
	built := api.Build(api.BuildOptions{
		EntryPoints: []string{file}, Bundle: true, External: []string{"k6", "k6/*"}, Format: api.FormatCommonJS, Target: api.ES2017, LogLevel: api.LogLevelSilent,
	})
	for _, e := range append(built.Errors, built.Warnings...) {
		t.Fatalf("%s: %s at %+v", file, e.Text, e.Location)
	}
	s := &script{vm: goja.New(), answers: a}
	s.exports = s.vm.NewObject()
	module := s.vm.NewObject()
	set := func(o *goja.Object, name string, value any) {
		t.Helper()
		if err := o.Set(name, value); err != nil {
			t.Fatal(err)
		}
	}
	set(module, "exports", s.exports)
	for name, value := range map[string]any{"module": module, "exports": s.exports, "__ENV": env, "__VU": 1, "__ITER": 0, "require": s.require} {
		set(s.vm.GlobalObject(), name, value)
	}
	if _, err := s.vm.RunScript(file, string(built.OutputFiles[0].Contents)); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	s.exports, _ = module.Get("exports").(*goja.Object)
	return s
}

// require is a module of k6, as far as the scripts use it. Anything else is
// undefined, and its use an error.
func (s *script) require(name string) map[string]any {
	switch name {
	case "k6":
		return map[string]any{
			"check": func(of goja.Value, checks map[string]goja.Callable) (bool, error) {
				ok := true
				for what, test := range checks {
					passed, err := test(goja.Undefined(), of)
					if err != nil {
						return false, err
					}
					if !passed.ToBoolean() {
						ok = false
						s.answers.failed = append(s.answers.failed, what)
					}
				}
				return ok, nil
			},
			"fail": func(what string) error { return errors.New(what) },
		}
	case "k6/http":
		request := func(method, url string, body *string, params map[string]any) map[string]any {
			r := sent{method: method, url: url, header: map[string]string{}}
			if body != nil {
				r.body = *body
			}
			for name := range params {
				if name != "headers" {
					panic("a parameter of requests that this test does not know: " + name)
				}
			}
			if header, ok := params["headers"].(map[string]any); ok {
				for name, value := range header {
					r.header[name] = fmt.Sprint(value)
				}
			}
			return s.take(r)
		}
		withBody := func(method string) any {
			return func(url string, body *string, params map[string]any) map[string]any {
				return request(method, url, body, params)
			}
		}
		return map[string]any{
			"get":                 func(url string, params map[string]any) map[string]any { return request("GET", url, nil, params) },
			"post":                withBody("POST"),
			"patch":               withBody("PATCH"),
			"setResponseCallback": func(goja.Value) {},
			"expectedStatuses":    func(...int) int { return 0 },
		}
	}
	panic("k6 has no module " + name)
}

// call calls what the script exports.
func (s *script) call(t *testing.T, name string, args ...goja.Value) goja.Value {
	t.Helper()
	f, ok := goja.AssertFunction(s.exports.Get(name))
	if !ok {
		t.Fatalf("the script exports no function %s", name)
	}
	value, err := f(goja.Undefined(), args...)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return value
}

// iterate runs the script's setup, and its function as two workers would.
func (s *script) iterate(t *testing.T) {
	t.Helper()
	data := s.call(t, "setup")
	s.sent, s.failed = nil, nil
	for worker := 1; worker <= 2; worker++ {
		for i := range 25 {
			if err := errors.Join(s.vm.GlobalObject().Set("__VU", worker), s.vm.GlobalObject().Set("__ITER", i)); err != nil {
				t.Fatal(err)
			}
			s.call(t, "default", data)
		}
	}
}

// registered are the statuses of what setup does.
func registered(more map[string]int) *answers {
	a := &answers{status: map[string]int{"/auth/register": 201, "/api-keys": 201}, header: map[string]string{"Ratelimit": "x", "Retry-After": "1"}}
	for path, status := range more {
		a.status[path] = status
	}
	return a
}

func k6Script(name string) string { return filepath.Join(loadDir, "k6", name+".js") }

// Every mix has its script and its targets.
func TestLoadHasAllMixes(t *testing.T) {
	for folder, pattern := range map[string]string{"k6": "*.js", "vegeta": "*.txt"} {
		found, err := filepath.Glob(filepath.Join(loadDir, folder, pattern))
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, file := range found {
			name := strings.TrimSuffix(filepath.Base(file), filepath.Ext(file))
			if name != "lib" {
				names = append(names, name)
			}
		}
		if slices.Sort(names); !slices.Equal(names, mixNames) {
			t.Errorf("%s has %v, want %v", folder, names, mixNames)
		}
	}
}

// Every request of every script is an operation of the platform with a body that it
// takes, or goes to a route of the document that the scripts are for.
func TestK6ScriptsAskForWhatThereIs(t *testing.T) {
	api := readOperations(t)
	for _, name := range mixNames {
		t.Run(name, func(t *testing.T) {
			s := compile(t, k6Script(name), map[string]string{"BASE_URL": "https://gateway.test:8443/"}, registered(nil))
			data := s.call(t, "setup")
			setup := s.sent
			if len(setup) != 3*8 {
				t.Errorf("setup makes %d requests, want three for each of eight people", len(setup))
			}
			_ = data
			s.iterate(t)
			if len(s.sent) != 50 || len(s.failed) != 0 {
				t.Errorf("%d requests in 50 iterations, failed checks %q", len(s.sent), s.failed)
			}
			for _, r := range append(setup, s.sent...) {
				api.check(t, r, "https://gateway.test:8443")
			}
			if !slices.ContainsFunc(s.sent, func(r sent) bool { return r.header["X-API-Key"] != "" || name == "login" }) {
				t.Error("no request has a key")
			}
		})
	}
}

func TestK6ScriptsTakeAKey(t *testing.T) {
	s := compile(t, k6Script("key"), map[string]string{"API_KEY": "mine", "TOKEN": "its"}, registered(nil))
	s.iterate(t)
	for _, r := range s.sent {
		if r.header["X-API-Key"] != "mine" && r.header["Authorization"] != "Bearer its" {
			t.Errorf("%+v", r)
		}
	}
	if s.call(t, "setup"); len(s.sent) != 50 {
		t.Errorf("%d requests: somebody was registered", len(s.sent))
	}
}

// A wrong answer fails a check, in every script.
func TestK6ScriptsNoticeWrongAnswers(t *testing.T) {
	for name, path := range map[string]string{"key": "/api/test", "limits": "/api/limited/products", "proxy": "/api/users"} {
		for status, right := range map[int]bool{200: true, 429: name == "limits", 401: false, 500: false, 502: false} {
			s := compile(t, k6Script(name), nil, registered(map[string]int{path: status}))
			if s.iterate(t); (len(s.failed) == 0) != right {
				t.Errorf("%s: status %d fails %d checks", name, status, len(s.failed))
			}
		}
	}
	a := registered(map[string]int{"/api/limited/products": 429})
	delete(a.header, "Retry-After")
	s := compile(t, k6Script("limits"), nil, a)
	if s.iterate(t); len(s.failed) == 0 {
		t.Error("a refusal without Retry-After is not noticed")
	}
	s = compile(t, k6Script("login"), nil, registered(nil))
	data := s.call(t, "setup")
	s.status["/auth/login"] = 503
	if s.call(t, "default", data); len(s.failed) == 0 {
		t.Error("login: status 503 is not noticed")
	}
}

// options are k6's, as far as they are used here.
type options struct {
	Scenarios map[string]struct {
		Executor, TimeUnit, Duration string
		Rate                         float64
		PreAllocatedVUs, MaxVUs      int
	}
	Thresholds map[string][]string
}

// Requests come at a constant rate, and the bounds are those of the product.
func TestK6ScriptsHaveTheBounds(t *testing.T) {
	for name, c := range map[string]struct {
		env    map[string]string
		rate   float64
		bounds []string
	}{
		"key": {nil, 500, []string{"p(95)<50", "p(99)<100"}}, "proxy": {nil, 500, []string{"p(95)<50", "p(99)<100"}},
		"limits": {map[string]string{"RATE": "1000", "P95": "20"}, 1000, []string{"p(95)<20", "p(99)<100"}},
		"login":  {map[string]string{"HASH_MS": "300"}, 1, []string{"p(95)<350", "p(99)<400"}},
	} {
		s := compile(t, k6Script(name), c.env, registered(nil))
		text, err := json.Marshal(s.exports.Get("options"))
		if err != nil {
			t.Fatal(err)
		}
		var o options
		if err := json.Unmarshal(text, &o); err != nil {
			t.Fatal(err)
		}
		load := o.Scenarios["load"]
		if load.Executor != "constant-arrival-rate" || load.Rate != c.rate || load.TimeUnit != "1s" || load.Duration != "1m" || load.PreAllocatedVUs < 1 || load.MaxVUs < load.PreAllocatedVUs {
			t.Errorf("%s: %+v", name, load)
		}
		if !slices.Equal(o.Thresholds["http_req_duration{scenario:load}"], c.bounds) ||
			!slices.Equal(o.Thresholds["checks{scenario:load}"], []string{"rate==1"}) || !slices.Equal(o.Thresholds["dropped_iterations"], []string{"count==0"}) {
			t.Errorf("%s: %v", name, o.Thresholds)
		}
	}
}

// vegetaTarget reads one target of Vegeta's HTTP format: a line with method and URL,
// header fields, and @ with the file of the body.
func vegetaTarget(block string) (sent, error) {
	lines := strings.Split(block, "\n")
	method, target, ok := strings.Cut(lines[0], " ")
	if !ok || method == "" || strings.ToUpper(method) != method || strings.ContainsAny(target, " \t") {
		return sent{}, fmt.Errorf("%q is no method and URL", lines[0])
	}
	s := sent{method: method, url: target, header: map[string]string{}}
	for i, line := range lines[1:] {
		if file, isBody := strings.CutPrefix(line, "@"); isBody && i == len(lines)-2 {
			body, err := os.ReadFile(file)
			s.body = string(body)
			return s, err
		}
		name, value, ok := strings.Cut(line, ": ")
		if !ok || name == "" || strings.ContainsAny(name, " \t@#") || strings.TrimSpace(value) == "" {
			return sent{}, fmt.Errorf("%q is no header field", line)
		}
		s.header[http.CanonicalHeaderKey(name)] = value
	}
	return s, nil
}

func TestTargetsAreReadStrictly(t *testing.T) {
	for _, block := range []string{"", "GET", "get http://x/", "GET http://x/ y", "GET http://x/\nno field", "GET http://x/\n@body\nA: b", "GET http://x/\nA:", "GET http://x/\n@absent"} {
		if s, err := vegetaTarget(block); err == nil {
			t.Errorf("%q was read as %+v", block, s)
		}
	}
}

func TestVegetaTargetsAskForWhatThereIs(t *testing.T) {
	api := readOperations(t)
	folder := filepath.Join(loadDir, "vegeta")
	t.Chdir(folder) // bodies are named from where Vegeta runs
	values := map[string]string{"BASE_URL": "https://gateway.test:8443", "API_KEY": "a-key", "TOKEN": "a-token"}
	for _, name := range mixNames {
		text, err := os.ReadFile(name + ".txt")
		if err != nil {
			t.Fatal(err)
		}
		filled := os.Expand(string(text), func(variable string) string {
			if values[variable] == "" {
				t.Errorf("%s: the README names no variable %s", name, variable)
			}
			return values[variable]
		})
		count := 0
		for block := range strings.SplitSeq(strings.TrimSpace(filled), "\n\n") {
			target, err := vegetaTarget(block)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			count++
			api.check(t, target, values["BASE_URL"])
		}
		if want := strings.Count(filled, "https://"); count != want || count == 0 {
			t.Errorf("%s: %d targets of %d", name, count, want)
		}
	}
}

// operations are what the installation under load understands.
type operations struct {
	Paths map[string]map[string]struct {
		Parameters []struct {
			In     string
			Schema struct {
				Ref string `json:"$ref"`
			}
		}
	}
	Definitions map[string]struct {
		Properties map[string]any
		Required   []string
	}
	prefixes []string // of the routes of configs/load/gateway.yaml
}

func readOperations(t *testing.T) *operations {
	t.Helper()
	o := &operations{}
	text, err := os.ReadFile(filepath.Join(root, "docs", "swagger.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, o); err != nil {
		t.Fatal(err)
	}
	if text, err = os.ReadFile(filepath.Join(loadDir, "gateway.yaml")); err != nil {
		t.Fatal(err)
	}
	for _, found := range regexp.MustCompile(`path: \{prefix: ([^}\s]+)\}`).FindAllSubmatch(text, -1) {
		o.prefixes = append(o.prefixes, string(found[1]))
	}
	if len(o.prefixes) != 3 {
		t.Fatalf("routes of the document: %v", o.prefixes)
	}
	return o
}

// check fails unless the request is one that is understood.
func (o *operations) check(t *testing.T, r sent, base string) {
	t.Helper()
	path, ok := strings.CutPrefix(r.url, base)
	if !ok || !strings.HasPrefix(path, "/") {
		t.Errorf("%s does not lead to %s", r.url, base)
		return
	}
	if r.body != "" && r.header["Content-Type"] != "application/json" {
		t.Errorf("%s %s has a body of type %q", r.method, path, r.header["Content-Type"])
	}
	if slices.ContainsFunc(o.prefixes, func(p string) bool { return path == p || strings.HasPrefix(path, p+"/") }) {
		if r.body != "" && !json.Valid([]byte(r.body)) {
			t.Errorf("%s %s has a body that is no JSON: %s", r.method, path, r.body)
		}
		return
	}
	operation, ok := o.Paths[path][strings.ToLower(r.method)]
	if !ok {
		t.Errorf("there is no operation %s %s", r.method, path)
		return
	}
	schema := ""
	for _, p := range operation.Parameters {
		if p.In == "body" {
			schema = strings.TrimPrefix(p.Schema.Ref, "#/definitions/")
		}
	}
	if (schema != "") != (r.body != "") {
		t.Errorf("%s %s: body %q, schema %q", r.method, path, r.body, schema)
		return
	}
	if schema == "" {
		return
	}
	var members map[string]any
	decoder := json.NewDecoder(bytes.NewReader([]byte(r.body)))
	if err := decoder.Decode(&members); err != nil {
		t.Errorf("%s %s: %v in %s", r.method, path, err, r.body)
		return
	}
	definition := o.Definitions[schema]
	for name := range members {
		if _, ok := definition.Properties[name]; !ok {
			t.Errorf("%s %s: %s has no member %q", r.method, path, schema, name)
		}
	}
	for _, name := range definition.Required {
		if _, ok := members[name]; !ok {
			t.Errorf("%s %s: the body lacks %q", r.method, path, name)
		}
	}
}

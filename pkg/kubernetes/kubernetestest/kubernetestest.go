// Package kubernetestest is an API server of Kubernetes for tests: over TLS, with lists
// in pages, watches from a version on, bookmarks, versions that are gone, merge patches
// of objects and of their statuses, and conflicts. It knows no schema: an object is what
// was put. Only tests import it.
package kubernetestest

import (
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.yaml.in/yaml/v4"
)

// Object is an object as JSON has it.
type Object = map[string]any

// Token is what callers have to show.
const Token = "a-service-account"

// page is how many objects a page of a list has.
const page = 2

// kinds are the places of the kinds that the server has from the beginning.
func kinds() map[string]string {
	const gateway, networking = "/apis/gateway.networking.k8s.io/", "/apis/networking.k8s.io/v1/"
	return map[string]string{
		"Service": "/api/v1/services", "Namespace": "/api/v1/namespaces", "Event": "/api/v1/events",
		"Ingress": networking + "ingresses", "IngressClass": networking + "ingressclasses",
		"GatewayClass": gateway + "v1/gatewayclasses", "Gateway": gateway + "v1/gateways", "HTTPRoute": gateway + "v1/httproutes",
		"ReferenceGrant": gateway + "v1beta1/referencegrants",
		"EndpointSlice":  "/apis/discovery.k8s.io/v1/endpointslices", "Lease": "/apis/coordination.k8s.io/v1/leases",
	}
}

// Server is the API server. Its methods are safe for concurrent use.
type Server struct {
	*httptest.Server
	t testing.TB

	// TokenFile and CAFile are for those who call.
	TokenFile, CAFile string

	mu      sync.Mutex // guards what follows
	changed chan struct{}
	version int
	oldest  int               // versions before are gone
	kinds   map[string]string // by kind: the path of the list of all namespaces
	objects map[string]Object // by the path of the kind and the key
	log     []change
	writes  []string // method and path of each
	lists   int
	watches map[*watch]bool // that are open
	down    int             // the status of all answers, when it is not 0
	odd     map[string]bool // names of the objects whose statuses are not acceptable
}

// watch is an open watch.
type watch struct {
	ends  bool          // it is to end when it has told everything
	ended chan struct{} // closed then
}

type change struct {
	version int
	path    string // of the kind
	event   Object
}

// New starts a server that ends with the test.
func New(t testing.TB) *Server {
	t.Helper()
	s := &Server{t: t, changed: make(chan struct{}), version: 1000, kinds: kinds(), objects: map[string]Object{}, watches: map[*watch]bool{}}
	s.Server = httptest.NewTLSServer(s)
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	dir := t.TempDir()
	s.TokenFile, s.CAFile = filepath.Join(dir, "token"), filepath.Join(dir, "ca.crt")
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	for file, content := range map[string][]byte{s.TokenFile: []byte(Token + "\n"), s.CAFile: text} {
		if err := os.WriteFile(file, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	down := s.down
	s.mu.Unlock()
	kind, namespace, name, sub := s.place(r.URL.Path)
	switch {
	case down != 0:
		fail(w, down, "down")
	case r.Header.Get("Authorization") != "Bearer "+Token:
		fail(w, 401, "Unauthorized")
	case kind == "":
		fail(w, 404, "NotFound")
	case r.Method == http.MethodGet && name == "" && r.URL.Query().Get("watch") == "1":
		s.watch(w, r, kind, namespace)
	case r.Method == http.MethodGet && name == "":
		s.list(w, r, kind, namespace)
	case r.Method == http.MethodGet:
		s.get(w, kind, namespace, name)
	case r.Method == http.MethodPost && name == "":
		s.create(w, r, kind, namespace)
	case r.Method == http.MethodPatch && name != "":
		s.patch(w, r, kind, namespace, name, sub)
	default:
		fail(w, 405, "MethodNotAllowed")
	}
}

func fail(w http.ResponseWriter, code int, reason string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(Object{"kind": "Status", "status": "Failure", "code": code, "reason": reason})
}

// place takes a path apart. The kind is the path of the list of all namespaces.
func (s *Server) place(path string) (kind, namespace, name, sub string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	prefix, rest, found := strings.Cut(path, "/namespaces/")
	if found && prefix != "" && strings.Contains(rest, "/") {
		var plural string
		namespace, rest, _ = strings.Cut(rest, "/")
		plural, rest, _ = strings.Cut(rest, "/")
		kind = prefix + "/" + plural
	} else {
		for _, known := range s.kinds {
			if after, ok := strings.CutPrefix(path, known); ok && (after == "" || after[0] == '/') {
				kind, rest = known, strings.TrimPrefix(after, "/")
			}
		}
		if kind == "" {
			return "", "", "", ""
		}
	}
	name, sub, _ = strings.Cut(rest, "/")
	for _, known := range s.kinds {
		if known == kind {
			return kind, namespace, name, sub
		}
	}
	return "", "", "", ""
}

// selected are the objects of a kind that a request asks for, in the order of their
// keys.
func (s *Server) selected(r *http.Request, kind, namespace string) []Object {
	var list []Object
	for _, key := range slices.Sorted(maps.Keys(s.objects)) {
		if strings.HasPrefix(key, kind+" ") && wanted(r, namespace, s.objects[key]) {
			list = append(list, s.objects[key])
		}
	}
	return list
}

// wanted reports whether an object is of the namespace and the labels that a request
// asks for.
func wanted(r *http.Request, namespace string, o Object) bool {
	meta, _ := o["metadata"].(Object)
	if namespace != "" && meta["namespace"] != namespace {
		return false
	}
	name, value, selects := strings.Cut(r.URL.Query().Get("labelSelector"), "=")
	labels, _ := meta["labels"].(Object)
	return !selects || labels[name] == value
}

func (s *Server) list(w http.ResponseWriter, r *http.Request, kind, namespace string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lists++
	all := s.selected(r, kind, namespace)
	at, _ := strconv.Atoi(r.URL.Query().Get("continue"))
	meta := Object{"resourceVersion": strconv.Itoa(s.version)}
	end := min(at+page, len(all))
	items := all[min(at, len(all)):end]
	if end < len(all) {
		meta["continue"] = strconv.Itoa(end)
	}
	if items == nil {
		items = []Object{}
	}
	_ = json.NewEncoder(w).Encode(Object{"kind": "List", "metadata": meta, "items": items})
}

func (s *Server) watch(w http.ResponseWriter, r *http.Request, kind, namespace string) {
	from, err := strconv.Atoi(r.URL.Query().Get("resourceVersion"))
	if err != nil || r.URL.Query().Get("timeoutSeconds") == "" {
		fail(w, 400, "BadRequest")
		return
	}
	_ = http.NewResponseController(w).Flush()
	mine := &watch{ended: make(chan struct{})}
	s.mu.Lock()
	s.watches[mine] = true
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.watches, mine)
		s.mu.Unlock()
		close(mine.ended)
	}()
	enc := json.NewEncoder(w)
	for {
		s.mu.Lock()
		changed, gone, down, ended := s.changed, from < s.oldest, s.down, mine.ends
		var events []Object
		for _, c := range s.log {
			if o, _ := c.event["object"].(Object); c.version > from && (c.path == kind || c.path == "") && (c.path == "" || wanted(r, namespace, o)) {
				events, from = append(events, c.event), c.version
			}
		}
		s.mu.Unlock()
		if gone {
			_ = enc.Encode(Object{"type": "ERROR", "object": Object{"kind": "Status", "code": 410, "reason": "Expired"}})
		}
		if gone || down != 0 {
			return
		}
		for _, e := range events {
			_ = enc.Encode(e)
		}
		_ = http.NewResponseController(w).Flush()
		if ended {
			return
		}
		select {
		case <-changed:
		case <-r.Context().Done():
			return
		}
	}
}

// Watches is how many watches are open.
func (s *Server) Watches() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.watches)
}

func (s *Server) get(w http.ResponseWriter, kind, namespace, name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s.objects[keyOf(kind, namespace, name)]
	if o == nil {
		fail(w, 404, "NotFound")
		return
	}
	_ = json.NewEncoder(w).Encode(o)
}

func keyOf(kind, namespace, name string) string { return kind + " " + namespace + "/" + name }

func (s *Server) create(w http.ResponseWriter, r *http.Request, kind, namespace string) {
	var o Object
	if err := json.NewDecoder(r.Body).Decode(&o); err != nil {
		fail(w, 400, "BadRequest")
		return
	}
	meta, _ := o["metadata"].(Object)
	s.mu.Lock()
	defer s.mu.Unlock()
	if prefix, ok := meta["generateName"].(string); ok && meta["name"] == nil {
		meta["name"] = prefix + strconv.Itoa(s.version)
	}
	name, _ := meta["name"].(string)
	s.writes = append(s.writes, r.Method+" "+r.URL.Path)
	if s.objects[keyOf(kind, namespace, name)] != nil {
		fail(w, 409, "AlreadyExists")
		return
	}
	s.store(kind, o, false)
	w.WriteHeader(http.StatusCreated)
	_ = json.NewEncoder(w).Encode(o)
}

// patch is a merge patch (RFC 7386) of an object without its status, or of its status.
func (s *Server) patch(w http.ResponseWriter, r *http.Request, kind, namespace, name, sub string) {
	var p Object
	if err := json.NewDecoder(r.Body).Decode(&p); err != nil || r.Header.Get("Content-Type") != "application/merge-patch+json" {
		fail(w, 415, "UnsupportedMediaType")
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writes = append(s.writes, r.Method+" "+r.URL.Path)
	o := s.objects[keyOf(kind, namespace, name)]
	if o == nil {
		fail(w, 404, "NotFound")
		return
	}
	meta, _ := o["metadata"].(Object)
	asked, _ := p["metadata"].(Object)
	if v := asked["resourceVersion"]; v != nil && v != meta["resourceVersion"] {
		fail(w, 409, "Conflict")
		return
	}
	next, _ := clone(o).(Object)
	if sub == "status" && s.odd[name] {
		fail(w, 422, "Invalid")
		return
	}
	if sub == "status" {
		next["status"] = merge(next["status"], p["status"])
	} else {
		status := next["status"]
		next, _ = merge(next, p).(Object)
		delete(next, "status")
		if status != nil {
			next["status"] = status
		}
	}
	if before, after := text(o), text(next); before != after {
		s.store(kind, next, sub == "status")
	}
	_ = json.NewEncoder(w).Encode(next)
}

func text(v any) string {
	out, _ := json.Marshal(v)
	return string(out)
}

func merge(target, patch any) any {
	p, ok := patch.(Object)
	if !ok {
		return patch
	}
	t, ok := target.(Object)
	if !ok {
		t = Object{}
	}
	for name, v := range p {
		if v == nil {
			delete(t, name)
		} else {
			t[name] = merge(t[name], v)
		}
	}
	return t
}

func clone(v any) any {
	var out any
	_ = json.Unmarshal([]byte(text(v)), &out)
	return out
}

// store keeps an object under the next version and tells those who watch. The mutex is
// held.
func (s *Server) store(kind string, o Object, status bool) {
	meta, _ := o["metadata"].(Object)
	namespace, _ := meta["namespace"].(string)
	name, _ := meta["name"].(string)
	key := keyOf(kind, namespace, name)
	s.version++
	event := "ADDED"
	generation := 1.0
	if before := s.objects[key]; before != nil {
		event = "MODIFIED"
		last, _ := before["metadata"].(Object)
		generation, _ = last["generation"].(float64)
		if !status && text(before["spec"]) != text(o["spec"]) {
			generation++
		}
		meta["uid"], meta["creationTimestamp"] = last["uid"], last["creationTimestamp"]
	} else {
		meta["uid"] = fmt.Sprintf("uid-%d", s.version)
		if meta["creationTimestamp"] == nil {
			meta["creationTimestamp"] = time.Now().UTC().Format(time.RFC3339)
		}
	}
	meta["generation"], meta["resourceVersion"] = generation, strconv.Itoa(s.version)
	s.objects[key] = o
	s.tell(change{s.version, kind, Object{"type": event, "object": clone(o)}})
}

func (s *Server) tell(c change) {
	s.log = append(s.log, c)
	close(s.changed)
	s.changed = make(chan struct{})
}

// Apply creates or replaces the objects of a YAML text, of which the statuses stay.
func (s *Server) Apply(objects string) {
	s.t.Helper()
	for doc := range strings.SplitSeq(objects, "\n---") {
		var o Object
		if err := yaml.Unmarshal([]byte(doc), &o); err != nil {
			s.t.Fatal(err)
		}
		if o == nil {
			continue
		}
		o, _ = clone(o).(Object)
		kind, _ := o["kind"].(string)
		s.mu.Lock()
		path := s.kinds[kind]
		if path == "" {
			s.mu.Unlock()
			s.t.Fatalf("no kind %q", kind)
		}
		meta, _ := o["metadata"].(Object)
		namespace, _ := meta["namespace"].(string)
		if before := s.objects[keyOf(path, namespace, fmt.Sprint(meta["name"]))]; before != nil && before["status"] != nil {
			o["status"] = before["status"]
		}
		s.store(path, o, false)
		s.mu.Unlock()
	}
}

// Delete removes an object.
func (s *Server) Delete(kind, namespace, name string) {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	key := keyOf(s.kinds[kind], namespace, name)
	o, _ := clone(s.objects[key]).(Object)
	if o == nil {
		s.t.Fatalf("there is no %s %s/%s", kind, namespace, name)
	}
	s.version++
	meta, _ := o["metadata"].(Object)
	meta["resourceVersion"] = strconv.Itoa(s.version)
	delete(s.objects, key)
	s.tell(change{s.version, s.kinds[kind], Object{"type": "DELETED", "object": o}})
}

// Get is an object as it is; nil when there is none.
func (s *Server) Get(kind, namespace, name string) Object {
	s.mu.Lock()
	defer s.mu.Unlock()
	o, _ := clone(s.objects[keyOf(s.kinds[kind], namespace, name)]).(Object)
	return o
}

// Bookmark tells all watches of the current version.
func (s *Server) Bookmark() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.version++
	s.tell(change{s.version, "", Object{"type": "BOOKMARK", "object": Object{"metadata": Object{"resourceVersion": strconv.Itoa(s.version), "creationTimestamp": nil}}}})
}

// Compact makes all versions until now too old. quietly are changes of which nobody is
// told.
func (s *Server) Compact(quietly func()) {
	if quietly != nil {
		quietly()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.version += 100
	s.oldest, s.log = s.version, nil
	close(s.changed)
	s.changed = make(chan struct{})
}

// Forget makes all versions before this one too old. Nobody is told.
func (s *Server) Forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.oldest, s.log = s.version, nil
}

// HangUp ends all watches, as the server does in its own time, and returns when they
// have told of everything until now.
func (s *Server) HangUp() {
	s.mu.Lock()
	open := slices.Collect(maps.Keys(s.watches))
	for _, w := range open {
		w.ends = true
	}
	close(s.changed)
	s.changed = make(chan struct{})
	s.mu.Unlock()
	for _, w := range open {
		<-w.ended
	}
}

// Down makes all answers an error of that status, and ends all watches; 0 ends it.
func (s *Server) Down(status int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down = status
	close(s.changed)
	s.changed = make(chan struct{})
}

// RefuseStatus makes the statuses of objects of these names invalid, whatever they are.
func (s *Server) RefuseStatus(names ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.odd = map[string]bool{}
	for _, name := range names {
		s.odd[name] = true
	}
}

// Without takes kinds away, as if they had never been installed.
func (s *Server) Without(names ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, name := range names {
		delete(s.kinds, name)
	}
}

// Writes lists what was written: method and path of each, but for leases.
func (s *Server) Writes() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []string
	for _, w := range s.writes {
		if !strings.Contains(w, "/leases") {
			list = append(list, w)
		}
	}
	return list
}

// Lists is how many pages of lists were asked for.
func (s *Server) Lists() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lists
}

// Condition is "True reason" of a condition of a status or of a parent of a route;
// empty when there is none.
func Condition(o Object, kind string) string {
	status, _ := o["status"].(Object)
	list, _ := status["conditions"].([]any)
	if parents, _ := status["parents"].([]any); len(parents) > 0 {
		parent, _ := parents[0].(Object)
		list, _ = parent["conditions"].([]any)
	}
	for _, c := range list {
		if c, _ := c.(Object); c["type"] == kind {
			return fmt.Sprint(c["status"], " ", c["reason"])
		}
	}
	return ""
}

package charts_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/keywarden/keywarden/pkg/cli"
	"github.com/keywarden/keywarden/pkg/config"
)

// external starts the names in testdata/values of objects that others make.
const external = "external-"

// dig follows keys through maps; what is missing is nil.
func dig(node any, keys ...string) any {
	for _, key := range keys {
		switch m := node.(type) {
		case object:
			node = m[key]
		case map[string]any:
			node = m[key]
		default:
			return nil
		}
	}
	return node
}

// list is dig for a sequence of maps.
func list(node any, keys ...string) []map[string]any {
	var maps []map[string]any
	items, _ := dig(node, keys...).([]any)
	for _, item := range items {
		if m, ok := item.(map[string]any); ok {
			maps = append(maps, m)
		}
	}
	return maps
}

// text is dig for a string; what is missing is "".
func text(node any, keys ...string) string {
	s, _ := dig(node, keys...).(string)
	return s
}

// labels is dig for a map of strings.
func labels(node any, keys ...string) map[string]string {
	found := map[string]string{}
	m, _ := dig(node, keys...).(map[string]any)
	for key, value := range m {
		found[key] = fmt.Sprint(value)
	}
	return found
}

func (o object) name() string { return text(o, "metadata", "name") }
func (o object) kind() string { return text(o, "kind") }

// weight is the weight of a hook before install and upgrade.
func (o object) weight() (weight int, isHook bool) {
	annotations := labels(o, "metadata", "annotations")
	if !strings.HasPrefix(annotations["helm.sh/hook"], "pre-") {
		return 0, false
	}
	weight, _ = strconv.Atoi(annotations["helm.sh/hook-weight"])
	return weight, true
}

// find is the object of a kind and name, or nil.
func (r rendering) find(kind, name string) object {
	for _, o := range r.objects {
		if o.kind() == kind && o.name() == name {
			return o
		}
	}
	return nil
}

// pod is the template of a pod, or a pod itself.
type pod struct {
	owner  object
	labels map[string]string
	spec   map[string]any
}

func (r rendering) pods() []pod {
	var pods []pod
	for _, o := range r.objects {
		switch o.kind() {
		case "Deployment", "Job":
			spec, _ := dig(o, "spec", "template", "spec").(map[string]any)
			pods = append(pods, pod{o, labels(o, "spec", "template", "metadata", "labels"), spec})
		case "Pod":
			spec, _ := dig(o, "spec").(map[string]any)
			pods = append(pods, pod{o, labels(o, "metadata", "labels"), spec})
		}
	}
	return pods
}

// containers are all of a pod, those of its start included.
func (p pod) containers() []map[string]any {
	return append(list(p.spec, "initContainers"), list(p.spec, "containers")...)
}

// own is the container that runs the program.
func (p pod) own() map[string]any { return list(p.spec, "containers")[0] }

// podsAreRestricted holds every container to the profile "restricted" of Kubernetes'
// Pod Security Standards, and to a root file system that is read only.
func podsAreRestricted(t *testing.T, r rendering) {
	if len(r.pods()) == 0 {
		t.Fatal("there are no pods")
	}
	for _, p := range r.pods() {
		at := p.owner.kind() + " " + p.owner.name()
		for _, key := range []string{"hostNetwork", "hostPID", "hostIPC"} {
			if dig(p.spec, key) != nil {
				t.Errorf("%s: %s", at, key)
			}
		}
		if dig(p.spec, "securityContext", "runAsNonRoot") != true {
			t.Errorf("%s: may run as root", at)
		}
		if user := dig(p.spec, "securityContext", "runAsUser"); user == 0 {
			t.Errorf("%s: runs as root", at)
		}
		if text(p.spec, "securityContext", "seccompProfile", "type") != "RuntimeDefault" {
			t.Errorf("%s: no seccomp profile", at)
		}
		for _, c := range p.containers() {
			security, _ := c["securityContext"].(map[string]any)
			if security["allowPrivilegeEscalation"] != false || security["readOnlyRootFilesystem"] != true || security["privileged"] == true ||
				fmt.Sprint(dig(security, "capabilities")) != "map[drop:[ALL]]" {
				t.Errorf("%s, container %s: %v", at, c["name"], security)
			}
		}
		for _, v := range list(p.spec, "volumes") {
			if v["hostPath"] != nil {
				t.Errorf("%s: volume %s is of the node", at, v["name"])
			}
		}
	}
}

// tokensAreWhereTheyAreNeeded keeps the token of the API server out of pods that have
// no business with it.
func tokensAreWhereTheyAreNeeded(t *testing.T, r rendering) {
	asks := strings.HasPrefix(r.name, "discovery") || strings.HasPrefix(r.name, "routes")
	for _, p := range r.pods() {
		want := asks && p.owner.kind() == "Deployment"
		if got := dig(p.spec, "automountServiceAccountToken"); got != want {
			t.Errorf("%s %s: automountServiceAccountToken is %v, want %v", p.owner.kind(), p.owner.name(), got, want)
		}
		if dig(p.spec, "enableServiceLinks") != false {
			t.Errorf("%s %s: variables of Services are set, where KEYWARDEN_ is refused", p.owner.kind(), p.owner.name())
		}
	}
}

// referencesResolve finds names that lead nowhere. What a hook needs has to be a hook
// of less weight, or it would not be there yet.
func referencesResolve(t *testing.T, r rendering) {
	for _, p := range r.pods() {
		account := text(p.spec, "serviceAccountName")
		if p.owner.kind() != "Pod" {
			r.checkReference(t, p.owner, "ServiceAccount", account, nil)
		}
		for _, ref := range podReferences(p.spec) {
			r.checkReference(t, p.owner, ref.kind, ref.name, ref.keys)
		}
		mounted := map[any]bool{}
		for _, v := range list(p.spec, "volumes") {
			if len(v) != 2 { // its name, and one source
				t.Errorf("%s: the volume %v has %d sources", p.owner.name(), v["name"], len(v)-1)
			}
			if mounted[v["name"]] {
				t.Errorf("%s: two volumes %v", p.owner.name(), v["name"])
			}
			mounted[v["name"]] = true
		}
		for _, c := range p.containers() {
			for _, m := range list(c, "volumeMounts") {
				if !mounted[m["name"]] {
					t.Errorf("%s mounts %v, which is no volume", p.owner.name(), m["name"])
				}
			}
		}
	}
}

// reference is a name in a pod of an object beside it.
type reference struct {
	kind, name string
	keys       []string // that must be in it
}

// podReferences collects what the volumes and variables of a pod refer to.
func podReferences(spec map[string]any) []reference {
	var refs []reference
	add := func(kind, name string, items []map[string]any) {
		ref := reference{kind: kind, name: name}
		for _, item := range items {
			ref.keys = append(ref.keys, text(item, "key"))
		}
		refs = append(refs, ref)
	}
	for _, v := range list(spec, "volumes") {
		for _, source := range append(list(v, "projected", "sources"), v) {
			if m := dig(source, "configMap"); m != nil {
				add("ConfigMap", text(m, "name"), list(m, "items"))
			}
			if m := dig(source, "secret"); m != nil {
				add("Secret", text(m, "name")+text(m, "secretName"), list(m, "items"))
			}
		}
	}
	for _, c := range append(list(spec, "initContainers"), list(spec, "containers")...) {
		for _, e := range list(c, "env") {
			if name := text(e, "valueFrom", "secretKeyRef", "name"); name != "" {
				add("Secret", name, []map[string]any{{"key": text(e, "valueFrom", "secretKeyRef", "key")}})
			}
		}
		for _, e := range list(c, "envFrom") {
			if name := text(e, "configMapRef", "name"); name != "" {
				add("ConfigMap", name, nil)
			}
			if name := text(e, "secretRef", "name"); name != "" {
				add("Secret", name, nil)
			}
		}
	}
	return refs
}

func (r rendering) checkReference(t *testing.T, from object, kind, name string, keys []string) {
	t.Helper()
	if strings.HasPrefix(name, external) {
		return
	}
	target := r.find(kind, name)
	if target == nil {
		t.Errorf("%s %s refers to the %s %q, which does not exist", from.kind(), from.name(), kind, name)
		return
	}
	data := labels(target, "data")
	for _, key := range keys {
		if _, ok := data[key]; !ok {
			t.Errorf("%s %s refers to the key %q, which %s %s does not have", from.kind(), from.name(), key, kind, name)
		}
	}
	fromWeight, fromHook := from.weight()
	weight, hook := target.weight()
	switch {
	case fromHook && (!hook || weight >= fromWeight):
		t.Errorf("the hook %s refers to the %s %s, which is not there before it", from.name(), kind, name)
	case !fromHook && hook:
		t.Errorf("%s refers to the %s %s, which is gone after its hook", from.name(), kind, name)
	}
}

// selectorsMatch looks whom Services, policies and budgets select: pods of the server
// that serve, and no others.
func selectorsMatch(t *testing.T, r rendering) {
	for _, o := range r.objects {
		var selector map[string]string
		switch o.kind() {
		case "Service":
			selector = labels(o, "spec", "selector")
		case "PodDisruptionBudget", "Deployment":
			selector = labels(o, "spec", "selector", "matchLabels")
		case "NetworkPolicy":
			selector = labels(o, "spec", "podSelector", "matchLabels")
		default:
			continue
		}
		selected := r.selected(selector)
		if len(selected) == 0 || len(selector) < 3 {
			t.Errorf("%s %s selects %v: no pod, or too many", o.kind(), o.name(), selector)
		}
		for _, p := range selected {
			if p.owner.kind() != "Deployment" {
				t.Errorf("%s %s selects the pod of %s %s", o.kind(), o.name(), p.owner.kind(), p.owner.name())
			}
			if o.kind() == "Deployment" && p.owner.name() != o.name() {
				t.Errorf("%s selects the pods of %s", o.name(), p.owner.name())
			}
			if o.kind() == "Service" {
				checkTargetPorts(t, o, p)
			}
		}
	}
	for _, p := range r.pods() {
		for _, c := range list(p.spec, "topologySpreadConstraints") {
			for key, value := range labels(c, "labelSelector", "matchLabels") {
				if p.labels[key] != value {
					t.Errorf("%s spreads others than its own pods: %s=%s", p.owner.name(), key, value)
				}
			}
		}
	}
}

// selected are the pods that have all of the labels.
func (r rendering) selected(selector map[string]string) []pod {
	return slices.DeleteFunc(r.pods(), func(p pod) bool {
		for key, value := range selector {
			if p.labels[key] != value {
				return true
			}
		}
		return false
	})
}

// checkTargetPorts looks for the ports of a Service in the pods that it leads to.
func checkTargetPorts(t *testing.T, service object, p pod) {
	t.Helper()
	for _, port := range list(service, "spec", "ports") {
		named := slices.ContainsFunc(list(p.own(), "ports"), func(have map[string]any) bool { return have["name"] == port["targetPort"] })
		if !named {
			t.Errorf("service %s leads to the port %v, which %s does not have", service.name(), port["targetPort"], p.owner.name())
		}
	}
}

// portsOfOthersExist follows what names a port of a Service or of the pods: Ingress,
// HTTPRoute, ServiceMonitor, NetworkPolicy, probes and the test.
func portsOfOthersExist(t *testing.T, r rendering) {
	for _, o := range r.objects {
		switch o.kind() {
		case "Ingress":
			for _, rule := range list(o, "spec", "rules") {
				for _, path := range list(rule, "http", "paths") {
					r.checkServicePort(t, o, text(path, "backend", "service", "name"), dig(path, "backend", "service", "port", "name"))
				}
			}
		case "HTTPRoute":
			for _, rule := range list(o, "spec", "rules") {
				for _, b := range list(rule, "backendRefs") {
					r.checkServicePort(t, o, text(b, "name"), b["port"])
				}
			}
		case "ServiceMonitor":
			r.checkMonitor(t, o)
		case "NetworkPolicy":
			for _, rule := range list(o, "spec", "ingress") {
				for _, port := range list(rule, "ports") {
					for _, p := range r.selected(labels(o, "spec", "podSelector", "matchLabels")) {
						checkTargetPorts(t, object{"metadata": o["metadata"], "spec": map[string]any{"ports": []any{map[string]any{"targetPort": port["port"]}}}}, p)
					}
				}
			}
		case "Pod":
			r.checkTest(t, o)
		}
	}
}

// checkServicePort looks for a port of a Service by name or number.
func (r rendering) checkServicePort(t *testing.T, from object, service string, port any) {
	t.Helper()
	target := r.find("Service", service)
	for _, p := range list(target, "spec", "ports") {
		if p["name"] == port || fmt.Sprint(p["port"]) == fmt.Sprint(port) {
			return
		}
	}
	t.Errorf("%s %s leads to %s:%v, which does not exist", from.kind(), from.name(), service, port)
}

// checkMonitor looks for the one Service that a ServiceMonitor selects.
func (r rendering) checkMonitor(t *testing.T, monitor object) {
	t.Helper()
	found := 0
	for _, o := range r.objects {
		have := labels(o, "metadata", "labels")
		matches := o.kind() == "Service"
		for key, value := range labels(monitor, "spec", "selector", "matchLabels") {
			matches = matches && have[key] == value
		}
		if matches {
			found++
			for _, e := range list(monitor, "spec", "endpoints") {
				r.checkServicePort(t, monitor, o.name(), e["port"])
			}
		}
	}
	if found != 1 {
		t.Errorf("the ServiceMonitor selects %d Services: every target would be scraped as often", found)
	}
}

// testURL is what the test pod asks.
var testURL = regexp.MustCompile(`^(https?)://([a-z0-9-]+)\.` + namespace + `\.svc:(\d+)(/.*)$`)

func (r rendering) checkTest(t *testing.T, o object) {
	t.Helper()
	args, _ := dig(list(o, "spec", "containers")[0], "args").([]any)
	parts := testURL.FindStringSubmatch(fmt.Sprint(args[len(args)-1]))
	if parts == nil {
		t.Fatalf("the test asks %v", args)
	}
	port, _ := strconv.Atoi(parts[3])
	r.checkServicePort(t, o, parts[2], port)
	checkRoute(t, parts[4])
}

// probesAskRealPaths looks the paths of probes and scrapes up among the documented
// routes of the program, and their ports among those of the container.
func probesAskRealPaths(t *testing.T, r rendering) {
	for _, p := range r.pods() {
		if p.owner.kind() != "Deployment" {
			continue
		}
		for _, probe := range []string{"startupProbe", "livenessProbe", "readinessProbe"} {
			get := dig(p.own(), probe, "httpGet")
			checkRoute(t, text(get, "path"))
			checkTargetPorts(t, object{"metadata": map[string]any{"name": probe}, "spec": map[string]any{"ports": []any{map[string]any{"targetPort": dig(get, "port")}}}}, p)
			if dig(get, "port") == "https" && text(get, "scheme") != "HTTPS" {
				t.Errorf("%s speaks plain HTTP to TLS", probe)
			}
		}
		if text(p.own(), "livenessProbe", "httpGet", "path") == text(p.own(), "readinessProbe", "httpGet", "path") {
			t.Error("liveness asks what readiness asks: a dependency that is away would restart every pod")
		}
	}
}

// checkRoute looks a path up in the OpenAPI description, which is made from the handlers.
func checkRoute(t *testing.T, path string) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("..", "docs", "swagger.json"))
	if err != nil {
		t.Fatal(err)
	}
	var api struct {
		Paths map[string]any `json:"paths"`
	}
	if err := json.Unmarshal(data, &api); err != nil {
		t.Fatal(err)
	}
	if api.Paths[path] == nil {
		t.Errorf("the program has no path %s", path)
	}
}

// podsEndInTime compares the grace period with the times that the program takes.
func podsEndInTime(t *testing.T, r rendering) {
	for _, p := range r.pods() {
		if p.owner.kind() != "Deployment" {
			continue
		}
		cfg := r.load(t, p)
		grace, _ := dig(p.spec, "terminationGracePeriodSeconds").(int)
		if need := cfg.Server.ShutdownDelay.Seconds() + cfg.Server.DrainTimeout.Seconds(); float64(grace) < need+10 {
			t.Errorf("%s is killed after %d s, but may take %v s", p.owner.name(), grace, need)
		}
	}
}

// programTakesTheConfiguration loads what a container gets, file and variables, as
// the program does. A misspelt variable or option, or a path that leads nowhere, is an
// error there.
func programTakesTheConfiguration(t *testing.T, r rendering) {
	loaded := 0
	for _, p := range r.pods() {
		if p.owner.kind() == "Pod" {
			continue
		}
		cfg := r.load(t, p)
		loaded++
		if cfg.Database.URL.Empty() {
			t.Errorf("%s has no database, and would start one of its own", p.owner.name())
		}
		if p.owner.kind() == "Deployment" && cfg.Security.MasterKey.Empty() {
			t.Errorf("%s has no master key", p.owner.name())
		}
		if p.owner.kind() == "Job" && (!cfg.Security.MasterKey.Empty() || !cfg.Redis.URL.Empty()) {
			t.Error("the migration gets secrets that it does not need")
		}
	}
	if loaded == 0 {
		t.Error("there was nothing to load")
	}
}

// foreignVariables are read by the Go runtime, by the driver of PostgreSQL and by the SDK
// of OpenTelemetry, and not listed by package config.
func foreignVariables() []string {
	return []string{
		"GOMEMLIMIT", "GOMAXPROCS", "PGSSLROOTCERT", "OTEL_EXPORTER_OTLP_ENDPOINT",
		"DB_HOST", "DB_PORT", "DB_SSLMODE", "POSTGRES_USER", "POSTGRES_DB", "POSTGRES_PASSWORD_FILE",
		"KEYWARDEN_CONFIG",
	}
}

// knownVariables are the names that the program reads.
func knownVariables() []string {
	names := foreignVariables()
	for _, row := range config.Describe() {
		for _, name := range append([]string{row.Env}, row.Aliases...) {
			names = append(names, name)
			if row.Secret {
				names = append(names, name+"_FILE")
			}
		}
	}
	return names
}

// load reads the configuration of a pod with its files in a folder of the test.
func (r rendering) load(t *testing.T, p pod) *config.Config {
	t.Helper()
	root := t.TempDir()
	r.writeFiles(t, p, root)
	env := map[string]string{}
	for _, e := range list(p.own(), "env") {
		name := text(e, "name")
		if !slices.Contains(knownVariables(), name) {
			t.Errorf("%s sets %s, which nobody reads", p.owner.name(), name)
		}
		value := text(e, "value")
		if strings.HasSuffix(name, "_FILE") || name == "KEYWARDEN_CONFIG" {
			value = filepath.Join(root, value)
		}
		env[name] = value
	}
	cfg, err := config.Load(config.Source{
		File:     env["KEYWARDEN_CONFIG"],
		Lookup:   func(name string) (string, bool) { value, ok := env[name]; return value, ok },
		Environ:  slices.Collect(maps.Keys(env)),
		Reserved: []string{"KEYWARDEN_CONFIG"},
		Serving:  p.owner.kind() == "Deployment",
	})
	if err != nil {
		t.Fatalf("%s %s: the program refuses its configuration: %v", p.owner.kind(), p.owner.name(), err)
	}
	for option, path := range map[string]string{
		"gateway.file": cfg.Gateway.File, "server.tls.cert_file": cfg.Server.TLS.CertFile, "server.tls.key_file": cfg.Server.TLS.KeyFile,
		"server.tls.client_ca_file": cfg.Server.TLS.ClientCAFile, "server.tls.dir": cfg.Server.TLS.Dir, "data.dir": cfg.Data.Dir,
	} {
		if _, err := os.Stat(filepath.Join(root, path)); path != "" && err != nil {
			t.Errorf("%s %s: %s leads to %s, which is not mounted", p.owner.kind(), p.owner.name(), option, path)
		}
	}
	if cfg.Gateway.File != "" {
		checkDocument(t, filepath.Join(root, cfg.Gateway.File))
	}
	return cfg
}

// checkDocument has the program read a gateway document that the chart has written.
func checkDocument(t *testing.T, path string) {
	t.Helper()
	if content, err := os.ReadFile(path); err != nil || string(content) == exampleOf("gateway.yaml") {
		return // a document of somebody else, or none, which load reports
	}
	var stdout, stderr bytes.Buffer
	code := cli.Main(t.Context(), cli.System{
		Args: []string{"config", "check", path}, Stdin: strings.NewReader(""), Stdout: &stdout, Stderr: &stderr,
		Lookup: func(string) (string, bool) { return "", false },
	})
	if code != 0 {
		t.Errorf("the program refuses the gateway document: %s", stderr.String())
	}
}

// writeFiles lays out what the kubelet would mount.
func (r rendering) writeFiles(t *testing.T, p pod, root string) {
	t.Helper()
	volumes := map[string]map[string]any{}
	for _, v := range list(p.spec, "volumes") {
		volumes[text(v, "name")] = v
	}
	for _, m := range list(p.own(), "volumeMounts") {
		folder := filepath.Join(root, text(m, "mountPath"))
		if err := os.MkdirAll(folder, 0o755); err != nil {
			t.Fatal(err)
		}
		v := volumes[text(m, "name")]
		for _, source := range append(list(v, "projected", "sources"), v) {
			for file, content := range r.filesOf(t, source) {
				if err := os.WriteFile(filepath.Join(folder, file), []byte(content), 0o600); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
}

// filesOf are the files of a volume of a ConfigMap or Secret. Those of others have what
// such a file has to have.
func (r rendering) filesOf(t *testing.T, source map[string]any) map[string]string {
	t.Helper()
	kind, name, items := "ConfigMap", text(source, "configMap", "name"), list(source, "configMap", "items")
	if s := dig(source, "secret"); s != nil {
		kind, name, items = "Secret", text(s, "name")+text(s, "secretName"), list(s, "items")
	}
	data := map[string]string{}
	if strings.HasPrefix(name, external) {
		for _, item := range items {
			data[text(item, "key")] = exampleOf(text(item, "path"))
		}
		if items == nil {
			data = map[string]string{"tls.crt": "certificate", "tls.key": "key", "ca.crt": "authority"}
		}
	} else if o := r.find(kind, name); o != nil {
		data = labels(o, "data")
		for key, value := range data {
			if plain, err := base64.StdEncoding.DecodeString(value); kind == "Secret" && err == nil {
				data[key] = string(plain)
			}
		}
	}
	if items == nil {
		return data
	}
	files := map[string]string{}
	for _, item := range items {
		files[text(item, "path")] = data[text(item, "key")]
	}
	return files
}

// exampleOf is what the file of a secret may hold.
func exampleOf(path string) string {
	key := func(of string) string {
		sum := sha256.Sum256([]byte(of))
		return base64.StdEncoding.EncodeToString(sum[:])
	}
	switch path {
	case "database-url":
		return "postgres://keywarden:password@postgres:5432/keywarden"
	case "redis-url":
		return "redis://redis:6379/0"
	case "master-key":
		return key("current")
	case "master-keys-retired":
		return key("old") + "\n" + key("older") + "\n"
	default:
		return "content"
	}
}

// TestSecretsAreInSecretsAlone looks for the secrets of the values everywhere.
func TestSecretsAreInSecretsAlone(t *testing.T) {
	secrets := []string{"canary-database", "canary-redis", "canary-smtp", "dzpPopuI4/KNx+qnj3WN", "pV8vuDCiwSkuOsBtaY1o"}
	path := valuesFiles(t)["inline-secrets"]
	rendered, err := render(t, path, kubeVersions()[0])
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, o := range decode(t, rendered) {
		content, err := json.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		for _, secret := range secrets {
			if o.kind() != "Secret" && strings.Contains(string(content), secret) {
				t.Errorf("%s %s holds a secret", o.kind(), o.name())
			}
		}
		for key, value := range labels(o, "data") {
			plain, _ := base64.StdEncoding.DecodeString(value)
			for _, secret := range secrets {
				seen[secret] = seen[secret] || o.kind() == "Secret" && strings.Contains(string(plain), secret)
				if o.kind() == "ConfigMap" && strings.Contains(value+string(plain), secret) {
					t.Errorf("ConfigMap %s has a secret in %s", o.name(), key)
				}
			}
		}
	}
	if len(seen) != len(secrets) || slices.Contains(slices.Collect(maps.Values(seen)), false) {
		t.Errorf("not every secret is in a Secret: %v", seen)
	}
}

// Names and labels, as the API server wants them and OpenAPI does not say.
var (
	nameForm  = regexp.MustCompile(`^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$`) // the strictest, that of Services
	labelForm = regexp.MustCompile(`^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$`)
	portForm  = regexp.MustCompile(`^[a-z0-9-]{1,15}$`)
)

// namesAreAllowed checks names, labels and ports, and that no object is there twice.
func namesAreAllowed(t *testing.T, r rendering) {
	t.Helper()
	seen := map[string]bool{}
	for _, o := range r.objects {
		id := fmt.Sprintf("%s %s/%s", o.kind(), text(o, "metadata", "namespace"), o.name())
		if seen[id] {
			t.Errorf("%s is there twice", id)
		}
		seen[id] = true
		name := o.name()
		if strings.HasPrefix(o.kind(), "ClusterRole") { // may have dots, and keeps namespaces apart by one
			name = strings.TrimPrefix(name, namespace+".")
		}
		if !nameForm.MatchString(name) {
			t.Errorf("%s has a name that is not allowed everywhere", id)
		}
		for key, value := range labels(o, "metadata", "labels") {
			if !labelForm.MatchString(value) {
				t.Errorf("%s has the label %s=%q", id, key, value)
			}
		}
	}
	for _, p := range r.pods() {
		for key, value := range p.labels {
			if !labelForm.MatchString(value) {
				t.Errorf("the pods of %s have the label %s=%q", p.owner.name(), key, value)
			}
		}
		for _, port := range list(p.own(), "ports") {
			if !portForm.MatchString(text(port, "name")) {
				t.Errorf("%s has the port %v", p.owner.name(), port["name"])
			}
		}
	}
}

// TestLongNamesStayAllowed renders the longest release that Helm takes, with everything.
func TestLongNamesStayAllowed(t *testing.T) {
	long := "r" + strings.Repeat("elease-", 7) + "abc" // 53
	for _, values := range []string{"full", "bluegreen", "routes"} {
		stdout, stderr, err := run(t, "template", long, chart, "--kube-version", kubeVersions()[0]+".0", "--namespace", namespace,
			"--values", valuesFiles(t)[values], "--set", "fullnameOverride=", "--set", "monitoring.dashboards.enabled=true")
		if err != nil {
			t.Fatal(stderr)
		}
		namesAreAllowed(t, rendering{values, decode(t, stdout)})
	}
}

// TestChangedOptionsReplaceThePods looks for the sums that make a Deployment roll.
func TestChangedOptionsReplaceThePods(t *testing.T) {
	path := valuesFiles(t)["inline-secrets"]
	template := func(args ...string) string {
		out, err := render(t, path, kubeVersions()[0], args...)
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range decode(t, out) {
			if o.kind() == "Deployment" {
				return fmt.Sprint(dig(o, "spec", "template"))
			}
		}
		return ""
	}
	document := `gateway.document=version: 1`
	before := template()
	for _, c := range []struct {
		name    string
		args    []string
		against string
		rolls   bool
	}{
		{"an option", []string{"--set", "config.log.level=debug"}, before, true},
		{"a secret", []string{"--set", "redis.url=redis://elsewhere:6379"}, before, true},
		{"the number of replicas", []string{"--set", "replicaCount=5"}, before, false},
		{"the gateway document, which is applied as it runs", []string{"--set-string", document + "\n"}, template("--set-string", document), false},
		{"the gateway document, when that is wanted", []string{"--set-string", document + "\n", "--set", "gateway.restartOnChange=true"}, template("--set-string", document, "--set", "gateway.restartOnChange=true"), true},
	} {
		if rolls := template(c.args...) != c.against; rolls != c.rolls {
			t.Errorf("%s: replaces the pods: %v, want %v", c.name, rolls, c.rolls)
		}
	}
}

// TestSwitchMovesTheServiceAlone compares blue/green before and after the switch: nothing
// but what the Service and the budget select may change, or a rollback would not be one.
func TestSwitchMovesTheServiceAlone(t *testing.T) {
	path := valuesFiles(t)["bluegreen"]
	before, err := render(t, path, kubeVersions()[0])
	if err != nil {
		t.Fatal(err)
	}
	after, err := render(t, path, kubeVersions()[0], "--set", "blueGreen.active=green")
	if err != nil {
		t.Fatal(err)
	}
	olds, news := decode(t, before), decode(t, after)
	if len(olds) != len(news) {
		t.Fatalf("%d objects before, %d after", len(olds), len(news))
	}
	var changed []string
	for i, o := range olds {
		if fmt.Sprint(o) != fmt.Sprint(news[i]) {
			changed = append(changed, o.kind()+" "+o.name())
		}
	}
	slices.Sort(changed)
	if want := "[PodDisruptionBudget kw-keywarden Service kw-keywarden Service kw-keywarden-preview]"; fmt.Sprint(changed) != want {
		t.Errorf("the switch changes %v, want %s", changed, want)
	}
	for _, o := range news {
		if o.kind() == "Service" && o.name() == "kw-keywarden" && labels(o, "spec", "selector")["keywarden/color"] != "green" {
			t.Error("the Service does not lead to green")
		}
	}
}

// TestMemoryLimitIsKnownToTheRuntime computes GOMEMLIMIT for each way to write a quantity.
func TestMemoryLimitIsKnownToTheRuntime(t *testing.T) {
	for limit, want := range map[string]string{
		"512Mi": "483183820", "1.5Gi": "1449551462", "1G": "900000000", "1073741824": "966367641", "2Ti": "1979120929996",
	} {
		out, err := render(t, valuesFiles(t)["minimal"], kubeVersions()[0], "--set-json", fmt.Sprintf("resources={\"limits\":{\"memory\":%q}}", limit))
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(out, "value: \""+want+"\"") {
			t.Errorf("GOMEMLIMIT of %s is not %s", limit, want)
		}
	}
}

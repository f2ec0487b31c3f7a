package charts_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v4"
)

var updateSchemas = flag.Bool("update-schemas", false, "write testdata/schemas from the modules of Kubernetes")

// kubernetesModule is where the schemas of a version come from. Like those below it is a Go
// module, whose content the database of Go's checksums vouches for; make chart-schemas
// downloads them.
func kubernetesModule(version string) string {
	return map[string]string{"1.29": "k8s.io/kubernetes@v1.29.6", "1.36": "k8s.io/kubernetes@v1.36.3"}[version]
}

const (
	gatewayModule    = "sigs.k8s.io/gateway-api@v1.6.3"
	prometheusModule = "github.com/prometheus-operator/prometheus-operator@v0.85.0"
	objectMeta       = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
)

// usedKinds are the kinds that the chart renders, by apiVersion/kind.
func usedKinds() []string {
	return []string{
		"v1/ConfigMap", "v1/Pod", "v1/Secret", "v1/Service", "v1/ServiceAccount",
		"apps/v1/Deployment", "autoscaling/v2/HorizontalPodAutoscaler", "batch/v1/Job",
		"networking.k8s.io/v1/Ingress", "networking.k8s.io/v1/IngressClass", "networking.k8s.io/v1/NetworkPolicy", "policy/v1/PodDisruptionBudget",
		"rbac.authorization.k8s.io/v1/ClusterRole", "rbac.authorization.k8s.io/v1/ClusterRoleBinding",
		"rbac.authorization.k8s.io/v1/Role", "rbac.authorization.k8s.io/v1/RoleBinding",
	}
}

// bundle is one file of testdata/schemas.
type bundle struct {
	Sources     []string                  `json:"sources"`
	Kinds       map[string]string         `json:"kinds"` // apiVersion/kind to the name of its definition
	Definitions map[string]map[string]any `json:"definitions"`
}

// schemaFile is the bundle of a version of Kubernetes.
func schemaFile(version string) string {
	return filepath.Join("testdata", "schemas", "kubernetes-"+version+".json.gz")
}

// TestObjectsAreOnesOfTheNewestKubernetes validates as TestRenderings does for the oldest;
// a field that the schemas do not know is refused.
func TestObjectsAreOnesOfTheNewestKubernetes(t *testing.T) {
	newest := compileSchemas(t, kubeVersions()[1])
	for name, path := range valuesFiles(t) {
		t.Run(name, func(t *testing.T) {
			rendered, err := render(t, path, kubeVersions()[1])
			if err != nil {
				t.Fatal(err)
			}
			validateAll(t, newest, rendering{name, decode(t, rendered)})
		})
	}
}

// TestSchemasRefuseUnknownFields makes sure that the trimmed schemas still can say no.
func TestSchemasRefuseUnknownFields(t *testing.T) {
	good := `{apiVersion: apps/v1, kind: Deployment, metadata: {name: a}, spec: {selector: {matchLabels: {a: b}}, template: {spec: {containers: [{name: a, resources: {limits: {memory: 1Gi, cpu: 1}}, ports: [{containerPort: 80}]}]}}}}`
	monitor := `{apiVersion: monitoring.coreos.com/v1, kind: ServiceMonitor, metadata: {name: a}, spec: {selector: {}, endpoints: [{port: a}]}}`
	route := `{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: a}, spec: {parentRefs: [{name: a}], rules: [{backendRefs: [{name: a, port: 80}]}]}}`
	class := `{apiVersion: gateway.networking.k8s.io/v1, kind: GatewayClass, metadata: {name: a}, spec: {controllerName: a.example/b}}`
	ingressClass := `{apiVersion: networking.k8s.io/v1, kind: IngressClass, metadata: {name: a}, spec: {controller: a.example/b}}`
	role := `{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: a}, rules: [{apiGroups: [""], resources: [services], verbs: [list]}]}`
	cases := []struct{ name, object, old, wrong string }{
		{"a field of the spec", good, "spec: {selector", "spec: {replicaz: 1, selector"},
		{"a field of a container", good, "name: a, resources", "name: a, image_pull_policy: Always, resources"},
		{"a field of the metadata", good, "metadata: {name: a}", "metadata: {name: a, label: {}}"},
		{"the type of a port", good, "containerPort: 80", "containerPort: http"},
		{"a missing field", good, "selector: {matchLabels: {a: b}}, ", ""},
		{"a field of a ServiceMonitor", monitor, "port: a", "prot: a"},
		{"a word of HTTPRoute", route, "port: 80", "port: 80, weigth: 1"},
		{"a missing field of HTTPRoute", route, "{name: a, port", "{port"},
		{"a field of GatewayClass", class, "controllerName", "controller"},
		{"a controller without a domain", class, "a.example/b", "keywarden"},
		{"a field of IngressClass", ingressClass, "controller", "controllerName"},
		{"a field of ClusterRole", role, "resources", "resource"},
		{"a rule without verbs", role, ", verbs: [list]", ""},
	}
	for _, version := range kubeVersions() {
		schemas := compileSchemas(t, version)
		for _, c := range cases {
			t.Run(version+"/"+c.name, func(t *testing.T) {
				wrong := strings.Replace(c.object, c.old, c.wrong, 1)
				if wrong == c.object {
					t.Fatal("the case changes nothing")
				}
				if err := problemOf(t, schemas, decode(t, c.object)[0]); err != nil {
					t.Errorf("the right one is refused: %v", err)
				}
				if err := problemOf(t, schemas, decode(t, wrong)[0]); err == nil {
					t.Error("the wrong one is taken")
				}
			})
		}
	}
}

func validateAll(t *testing.T, schemas map[string]*jsonschema.Schema, r rendering) {
	t.Helper()
	if len(r.objects) < 5 {
		t.Errorf("there are only %d objects", len(r.objects))
	}
	for _, o := range r.objects {
		if err := problemOf(t, schemas, o); err != nil {
			t.Errorf("%s %s: %v", o["kind"], o.name(), err)
		}
	}
}

func problemOf(t *testing.T, schemas map[string]*jsonschema.Schema, o object) error {
	t.Helper()
	kind := fmt.Sprintf("%v/%v", o["apiVersion"], o["kind"])
	schema := schemas[kind]
	if schema == nil {
		return fmt.Errorf("there is no schema of %s: add it to usedKinds, and run make chart-schemas", kind)
	}
	text, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return schema.Validate(value)
}

// compileSchemas reads a bundle; the schemas are by apiVersion/kind.
func compileSchemas(t *testing.T, version string) map[string]*jsonschema.Schema {
	t.Helper()
	file, err := os.Open(schemaFile(version))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	unpacked, err := gzip.NewReader(file)
	if err != nil {
		t.Fatal(err)
	}
	document, err := jsonschema.UnmarshalJSON(unpacked)
	if err != nil {
		t.Fatal(err)
	}
	compiler := jsonschema.NewCompiler()
	if err := compiler.AddResource("bundle.json", document); err != nil {
		t.Fatal(err)
	}
	schemas := map[string]*jsonschema.Schema{}
	for kind, definition := range document.(map[string]any)["kinds"].(map[string]any) {
		schema, err := compiler.Compile("bundle.json#/definitions/" + definition.(string))
		if err != nil {
			t.Fatal(err)
		}
		schemas[kind] = schema
	}
	return schemas
}

// writeSchemas makes the bundles anew.
func writeSchemas(t *testing.T) {
	t.Helper()
	for _, version := range kubeVersions() {
		b := &bundle{Kinds: map[string]string{}, Definitions: map[string]map[string]any{}}
		b.addKubernetes(t, kubernetesModule(version))
		for _, plural := range []string{"gatewayclasses", "httproutes"} {
			b.addResource(t, gatewayModule, "config/crd/standard/gateway.networking.k8s.io_"+plural+".yaml")
		}
		for _, plural := range []string{"servicemonitors", "prometheusrules"} {
			b.addResource(t, prometheusModule, "example/prometheus-operator-crd/monitoring.coreos.com_"+plural+".yaml")
		}
		text, err := json.Marshal(b)
		if err != nil {
			t.Fatal(err)
		}
		var packed bytes.Buffer
		w, _ := gzip.NewWriterLevel(&packed, gzip.BestCompression)
		if _, err := w.Write(text); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(schemaFile(version), packed.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
		t.Logf("Kubernetes %s: %d definitions, %d bytes, packed %d", version, len(b.Definitions), len(text), packed.Len())
	}
}

// moduleFile reads a file of a module at a version, through the Go command.
func moduleFile(t *testing.T, module, path string) []byte {
	t.Helper()
	cmd := exec.Command("go", "mod", "download", "-json", module)
	cmd.Dir = t.TempDir() // not of this module
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go mod download %s: %v\n%s", module, err, out)
	}
	var answer struct{ Dir string }
	if err := json.Unmarshal(out, &answer); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(answer.Dir, filepath.FromSlash(path)))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// addKubernetes takes over the kinds of usedKinds, and what they are made of.
func (b *bundle) addKubernetes(t *testing.T, module string) {
	t.Helper()
	b.Sources = append(b.Sources, module)
	var api struct {
		Definitions map[string]map[string]any `json:"definitions"`
	}
	if err := json.Unmarshal(moduleFile(t, module, "api/openapi-spec/swagger.json"), &api); err != nil {
		t.Fatal(err)
	}
	byKind := map[string]string{}
	for name, definition := range api.Definitions {
		kinds, _ := definition["x-kubernetes-group-version-kind"].([]any)
		if len(kinds) != 1 { // DeleteOptions and the like belong to every group
			continue
		}
		k := kinds[0].(map[string]any)
		apiVersion := strings.TrimPrefix(fmt.Sprintf("%s/%s", k["group"], k["version"]), "/")
		byKind[apiVersion+"/"+k["kind"].(string)] = name
	}
	for _, kind := range usedKinds() {
		if byKind[kind] == "" {
			t.Fatalf("%s has no %s", module, kind)
		}
		b.Kinds[kind] = byKind[kind]
		b.take(api.Definitions, byKind[kind])
	}
}

// take copies a definition and those that it refers to.
func (b *bundle) take(all map[string]map[string]any, name string) {
	if b.Definitions[name] != nil {
		return
	}
	definition := all[name]
	b.Definitions[name] = definition
	for _, other := range references(definition) {
		b.take(all, other)
	}
	tighten(definition)
	if strings.HasSuffix(name, ".resource.Quantity") { // written as a number, too
		definition["type"] = []any{"string", "number"}
	}
}

// references are the names of the definitions that a schema refers to.
func references(node any) []string {
	var names []string
	switch x := node.(type) {
	case map[string]any:
		for key, value := range x {
			if text, ok := value.(string); ok && key == "$ref" {
				names = append(names, strings.TrimPrefix(text, "#/definitions/"))
				continue
			}
			names = append(names, references(value)...)
		}
	case []any:
		for _, item := range x {
			names = append(names, references(item)...)
		}
	}
	return names
}

// addResource takes over the version v1 of a custom resource.
func (b *bundle) addResource(t *testing.T, module, path string) {
	t.Helper()
	b.Sources = append(b.Sources, module+"/"+path)
	var crd struct {
		Spec struct {
			Group string
			Names struct{ Kind string }

			Versions []struct {
				Name   string
				Schema struct {
					OpenAPI map[string]any `yaml:"openAPIV3Schema"`
				}
			}
		}
	}
	if err := yaml.Unmarshal(moduleFile(t, module, path), &crd); err != nil {
		t.Fatal(err)
	}
	for _, v := range crd.Spec.Versions {
		if v.Name != "v1" {
			continue
		}
		schema := v.Schema.OpenAPI
		tighten(schema)
		schema["properties"].(map[string]any)["metadata"] = map[string]any{"$ref": "#/definitions/" + objectMeta}
		kind := crd.Spec.Group + "/v1/" + crd.Spec.Names.Kind
		b.Kinds[kind] = definitionName(kind)
		b.Definitions[definitionName(kind)] = schema
		return
	}
	t.Fatalf("%s has no version v1", path)
}

// definitionName is a name without the slashes that a JSON pointer would have to escape.
func definitionName(kind string) string { return strings.ReplaceAll(kind, "/", ".") }

// tighten makes JSON Schema of a schema of OpenAPI: without prose, and, as the API server
// does with strict field validation, without further members where the members are known.
func tighten(schema map[string]any) {
	mixed := schema["format"] == "int-or-string" || schema["x-kubernetes-int-or-string"] == true
	open := schema["x-kubernetes-preserve-unknown-fields"] == true
	for key := range schema {
		if strings.HasPrefix(key, "x-") {
			delete(schema, key)
		}
	}
	for _, key := range []string{"description", "format", "default", "example"} {
		delete(schema, key)
	}
	if mixed {
		schema["type"] = []any{"integer", "string"}
	}
	if text, ok := schema["type"].(string); ok && schema["nullable"] == true {
		schema["type"] = []any{text, "null"}
	}
	delete(schema, "nullable")
	if properties, ok := schema["properties"].(map[string]any); ok {
		for _, p := range properties {
			tighten(p.(map[string]any))
		}
		if _, set := schema["additionalProperties"]; !set && !open {
			schema["additionalProperties"] = false
		}
	}
	for _, key := range []string{"items", "additionalProperties"} {
		if inner, ok := schema[key].(map[string]any); ok {
			tighten(inner)
		}
	}
}

// archiveNames lists the files of a .tgz.
func archiveNames(t *testing.T, path string) []string {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	unpacked, err := gzip.NewReader(file)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for archive := tar.NewReader(unpacked); ; {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return names
		}
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, header.Name)
	}
}

package translate

import (
	"encoding/json"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/keywarden/keywarden/pkg/kubernetes/object"
	"github.com/keywarden/keywarden/pkg/kubernetes/precedence"
	"github.com/keywarden/keywarden/pkg/spec/services"
)

// backend is a service of the document.
type backend struct {
	name    string
	service fields
}

// unresolved is an error of a reference, with the reason of the condition
// ResolvedRefs.
type unresolved struct{ reason, message string }

func (e *unresolved) Error() string { return e.message }

// Reasons of the condition ResolvedRefs of routes.
const (
	reasonResolved        = "ResolvedRefs"
	reasonNotPermitted    = "RefNotPermitted"
	reasonInvalidKind     = "InvalidKind"
	reasonBackendNotFound = "BackendNotFound"
)

// missing is the service that stands for backends that do not exist, where others of
// the same rule do: its name resolves to nothing (RFC 6761 section 6.4).
func missing() backend {
	const name = "kubernetes.unresolved"
	return backend{name, fields{"name": name, "url": "http://unresolved.invalid"}}
}

// servicePort finds the port of a service by name or number.
func servicePort(s *object.Service, name string, number int) (object.ServicePort, bool) {
	for _, p := range s.Spec.Ports {
		if (name != "" && p.Name == name || name == "" && p.Port == number) && (p.Protocol == "" || p.Protocol == "TCP") {
			return p, true
		}
	}
	return object.ServicePort{}, false
}

// backendOf makes a service of the document of a port of a service of the cluster.
// patience is how long the header of an answer may take; 0 is as by default.
func (j *job) backendOf(namespace, name, portName string, portNumber int, patience time.Duration) (backend, error) {
	s := j.services[namespace+"/"+name]
	if s == nil {
		return backend{}, &unresolved{reasonBackendNotFound, fmt.Sprintf("there is no Service %s/%s", namespace, name)}
	}
	if s.Spec.Type == "ExternalName" {
		return backend{}, &unresolved{reasonBackendNotFound, fmt.Sprintf("the Service %s/%s is an ExternalName, which is not supported: it would lead out of the cluster", namespace, name)}
	}
	port, found := servicePort(s, portName, portNumber)
	if !found {
		wanted := portName
		if wanted == "" {
			wanted = strconv.Itoa(portNumber)
		}
		return backend{}, &unresolved{reasonBackendNotFound, fmt.Sprintf("the Service %s/%s has no TCP port %s", namespace, name, wanted)}
	}
	endpoint, err := endpointPort(&port)
	if err != nil {
		return backend{}, &unresolved{reasonBackendNotFound, fmt.Sprintf("the port %d of the Service %s/%s %s", port.Port, namespace, name, err)}
	}
	discovery := fields{"namespace": namespace, "service": name, "port": endpoint}
	for field, value := range map[string]string{"api_url": j.APIURL, "token_file": j.TokenFile, "ca_file": j.CAFile} {
		if value != "" {
			discovery[field] = value
		}
	}
	parts := []string{namespace, name, strconv.Itoa(port.Port)}
	service := fields{"discovery": fields{"kubernetes": discovery}}
	switch strings.ToLower(port.AppProtocol) {
	case "kubernetes.io/h2c", "grpc":
		service["protocol"] = services.ProtocolH2C
	case "https", "kubernetes.io/wss":
		discovery["scheme"] = "https"
	}
	if patience > time.Duration(services.DefaultResponseTimeout) {
		service["response_timeout"] = patience.String()
		parts = append(parts, patience.String())
	}
	b := backend{precedence.Name(parts...), service}
	service["name"] = b.name
	return b, nil
}

// endpointPort is how the port is found in EndpointSlices: by its name, or, when it has
// none, by the number that the pods listen on.
func endpointPort(p *object.ServicePort) (string, error) {
	if p.Name != "" {
		return p.Name, nil
	}
	if len(p.TargetPort) == 0 {
		return strconv.Itoa(p.Port), nil
	}
	var number int
	if err := json.Unmarshal(p.TargetPort, &number); err != nil || number < 1 {
		return "", fmt.Errorf("has no name, and its targetPort is one: give the port a name")
	}
	return strconv.Itoa(number), nil
}

// granted reports whether objects of from's kind and namespace may refer to a service.
func (j *job) granted(kind, from, to, name string) bool {
	if from == to {
		return true
	}
	for _, g := range j.grants[to] {
		fits := false
		for _, f := range g.Spec.From {
			fits = fits || f.Group == gatewayGroup && f.Kind == kind && f.Namespace == from
		}
		if !fits {
			continue
		}
		for _, t := range g.Spec.To {
			if t.Group == "" && t.Kind == "Service" && (t.Name == nil || *t.Name == name) {
				return true
			}
		}
	}
	return false
}

// reference makes a backend of a reference of an HTTPRoute.
func (j *job) reference(namespace string, ref *object.Reference, patience time.Duration) (backend, error) {
	if value(ref.Group, "") != "" || value(ref.Kind, "Service") != "Service" {
		return backend{}, &unresolved{reasonInvalidKind, fmt.Sprintf("the backend %s is a %s, and only Services are supported", ref.Name, value(ref.Kind, "Service"))}
	}
	to := value(ref.Namespace, namespace)
	if !j.granted(KindHTTPRoute, namespace, to, ref.Name) {
		return backend{}, &unresolved{reasonNotPermitted, fmt.Sprintf("no ReferenceGrant of the namespace %s allows HTTPRoutes of %s to refer to the Service %s", to, namespace, ref.Name)}
	}
	if ref.Port == nil {
		return backend{}, &unresolved{reasonBackendNotFound, fmt.Sprintf("the backend %s/%s has no port", to, ref.Name)}
	}
	return j.backendOf(to, ref.Name, "", *ref.Port, patience)
}

// value is what p points to, or what counts without it.
func value[T any](p *T, otherwise T) T {
	if p == nil {
		return otherwise
	}
	return *p
}

// isIP tells addresses from names.
func isIP(text string) bool { return net.ParseIP(text) != nil }

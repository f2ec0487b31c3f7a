// Package object holds the objects of Kubernetes that routes are made of, each with
// the few fields that are read or written. It has no behaviour beyond names.
//
// What is not listed here is not seen: a field that would change what an object means
// has to be here, so that its translation can refuse it.
package object

import (
	"encoding/json"
	"time"
)

// Meta is the metadata of an object.
type Meta struct {
	Name              string            `json:"name"`
	Namespace         string            `json:"namespace,omitempty"`
	UID               string            `json:"uid,omitempty"`
	ResourceVersion   string            `json:"resourceVersion,omitempty"`
	Generation        int64             `json:"generation,omitempty"`
	CreationTimestamp time.Time         `json:"creationTimestamp,omitzero"`
	Labels            map[string]string `json:"labels,omitempty"`
	Annotations       map[string]string `json:"annotations,omitempty"`
}

// Key tells objects of one kind apart: namespace/name, or the name alone.
func (m *Meta) Key() string {
	if m.Namespace == "" {
		return m.Name
	}
	return m.Namespace + "/" + m.Name
}

// Object is what all of them have.
type Object struct {
	Metadata Meta `json:"metadata"`
}

// Meta returns the metadata.
func (o *Object) Meta() *Meta { return &o.Metadata }

// Condition is one of the conditions of a status.
type Condition struct {
	Type               string    `json:"type"`
	Status             string    `json:"status"`
	Reason             string    `json:"reason"`
	Message            string    `json:"message"`
	ObservedGeneration int64     `json:"observedGeneration,omitempty"`
	LastTransitionTime time.Time `json:"lastTransitionTime"`
}

// ---- core/v1

// Service is a service of the cluster.
type Service struct {
	Object
	Spec struct {
		Type         string        `json:"type"`
		ExternalName string        `json:"externalName,omitempty"`
		Ports        []ServicePort `json:"ports"`
	} `json:"spec"`
}

// ServicePort is a port of a service.
type ServicePort struct {
	Name        string          `json:"name,omitempty"`
	Protocol    string          `json:"protocol,omitempty"` // TCP when empty
	AppProtocol string          `json:"appProtocol,omitempty"`
	Port        int             `json:"port"`
	TargetPort  json.RawMessage `json:"targetPort,omitempty"` // a number, or the name of a port of the pods
}

// Namespace is a namespace, of which the labels count.
type Namespace struct{ Object }

// ---- networking.k8s.io/v1

// IngressClass names the controller of Ingresses.
type IngressClass struct {
	Object
	Spec struct {
		Controller string          `json:"controller"`
		Parameters json.RawMessage `json:"parameters,omitempty"`
	} `json:"spec"`
}

// Ingress is routes to services of its namespace.
type Ingress struct {
	Object
	Spec struct {
		IngressClassName *string         `json:"ingressClassName,omitempty"`
		DefaultBackend   *IngressBackend `json:"defaultBackend,omitempty"`
		Rules            []IngressRule   `json:"rules,omitempty"`
	} `json:"spec"`
	Status IngressStatus `json:"status,omitzero"`
}

// IngressRule is the paths of a host.
type IngressRule struct {
	Host string `json:"host,omitempty"`
	HTTP *struct {
		Paths []IngressPath `json:"paths"`
	} `json:"http,omitempty"`
}

// IngressPath leads to a backend.
type IngressPath struct {
	Path     string         `json:"path,omitempty"`
	PathType string         `json:"pathType"`
	Backend  IngressBackend `json:"backend"`
}

// IngressBackend is a port of a service.
type IngressBackend struct {
	Service *struct {
		Name string `json:"name"`
		Port struct {
			Name   string `json:"name,omitempty"`
			Number int    `json:"number,omitempty"`
		} `json:"port"`
	} `json:"service,omitempty"`
	Resource json.RawMessage `json:"resource,omitempty"`
}

// IngressStatus is where the Ingress is reached.
type IngressStatus struct {
	LoadBalancer struct {
		Ingress []IngressAddress `json:"ingress,omitempty"`
	} `json:"loadBalancer,omitzero"`
}

// IngressAddress is an address or a name.
type IngressAddress struct {
	IP       string `json:"ip,omitempty"`
	Hostname string `json:"hostname,omitempty"`
}

// ---- gateway.networking.k8s.io/v1

// GatewayClass names the controller of Gateways.
type GatewayClass struct {
	Object
	Spec struct {
		ControllerName string          `json:"controllerName"`
		ParametersRef  json.RawMessage `json:"parametersRef,omitempty"`
	} `json:"spec"`
	Status ConditionsStatus `json:"status,omitzero"`
}

// ConditionsStatus is a status of conditions alone.
type ConditionsStatus struct {
	Conditions []Condition `json:"conditions,omitempty"`
}

// Gateway is a set of listeners that routes attach to.
type Gateway struct {
	Object
	Spec struct {
		GatewayClassName string          `json:"gatewayClassName"`
		Listeners        []Listener      `json:"listeners"`
		Addresses        json.RawMessage `json:"addresses,omitempty"`
	} `json:"spec"`
	Status GatewayStatus `json:"status,omitzero"`
}

// Listener is where a Gateway takes requests.
type Listener struct {
	Name     string `json:"name"`
	Hostname string `json:"hostname,omitempty"`
	Port     int    `json:"port"`
	Protocol string `json:"protocol"`
	TLS      *struct {
		Mode            string      `json:"mode,omitempty"` // Terminate when empty
		CertificateRefs []Reference `json:"certificateRefs,omitempty"`
	} `json:"tls,omitempty"`
	AllowedRoutes *AllowedRoutes `json:"allowedRoutes,omitempty"`
}

// AllowedRoutes says which routes may attach to a listener.
type AllowedRoutes struct {
	Namespaces *struct {
		From     string    `json:"from,omitempty"` // Same when empty
		Selector *Selector `json:"selector,omitempty"`
	} `json:"namespaces,omitempty"`
	Kinds []RouteKind `json:"kinds,omitempty"`
}

// Selector selects objects by their labels.
type Selector struct {
	MatchLabels      map[string]string `json:"matchLabels,omitempty"`
	MatchExpressions []struct {
		Key      string   `json:"key"`
		Operator string   `json:"operator"`
		Values   []string `json:"values,omitempty"`
	} `json:"matchExpressions,omitempty"`
}

// RouteKind is a kind of route.
type RouteKind struct {
	Group *string `json:"group,omitempty"`
	Kind  string  `json:"kind"`
}

// GatewayStatus is what became of a Gateway.
type GatewayStatus struct {
	Addresses  []GatewayAddress `json:"addresses,omitempty"`
	Conditions []Condition      `json:"conditions,omitempty"`
	Listeners  []ListenerStatus `json:"listeners,omitempty"`
}

// GatewayAddress is where a Gateway is reached.
type GatewayAddress struct {
	Type  string `json:"type"`
	Value string `json:"value"`
}

// ListenerStatus is what became of a listener.
type ListenerStatus struct {
	Name           string      `json:"name"`
	SupportedKinds []RouteKind `json:"supportedKinds"`
	AttachedRoutes int         `json:"attachedRoutes"`
	Conditions     []Condition `json:"conditions"`
}

// HTTPRoute is routes that attach to listeners.
type HTTPRoute struct {
	Object
	Spec struct {
		ParentRefs []ParentRef     `json:"parentRefs,omitempty"`
		Hostnames  []string        `json:"hostnames,omitempty"`
		Rules      []HTTPRouteRule `json:"rules,omitempty"`
	} `json:"spec"`
	Status RouteStatus `json:"status,omitzero"`
}

// ParentRef names a Gateway, or one of its listeners.
type ParentRef struct {
	Group       *string `json:"group,omitempty"`
	Kind        *string `json:"kind,omitempty"`
	Namespace   *string `json:"namespace,omitempty"`
	Name        string  `json:"name"`
	SectionName *string `json:"sectionName,omitempty"`
	Port        *int    `json:"port,omitempty"`
}

// HTTPRouteRule is matches with what becomes of a request.
type HTTPRouteRule struct {
	Matches            []HTTPRouteMatch `json:"matches,omitempty"`
	Filters            []HTTPFilter     `json:"filters,omitempty"`
	BackendRefs        []BackendRef     `json:"backendRefs,omitempty"`
	Timeouts           *RouteTimeouts   `json:"timeouts,omitempty"`
	Retry              json.RawMessage  `json:"retry,omitempty"`
	SessionPersistence json.RawMessage  `json:"sessionPersistence,omitempty"`
}

// HTTPRouteMatch selects requests.
type HTTPRouteMatch struct {
	Path *struct {
		Type  *string `json:"type,omitempty"`
		Value *string `json:"value,omitempty"`
	} `json:"path,omitempty"`
	Headers     []ValueMatch `json:"headers,omitempty"`
	QueryParams []ValueMatch `json:"queryParams,omitempty"`
	Method      *string      `json:"method,omitempty"`
}

// ValueMatch is a demand on a header field or a query parameter.
type ValueMatch struct {
	Type  *string `json:"type,omitempty"`
	Name  string  `json:"name"`
	Value string  `json:"value"`
}

// RouteTimeouts are durations as in "10s".
type RouteTimeouts struct {
	Request        *string `json:"request,omitempty"`
	BackendRequest *string `json:"backendRequest,omitempty"`
}

// HTTPFilter is one of the filters, by its type.
type HTTPFilter struct {
	Type                   string          `json:"type"`
	RequestHeaderModifier  *HeaderFilter   `json:"requestHeaderModifier,omitempty"`
	ResponseHeaderModifier *HeaderFilter   `json:"responseHeaderModifier,omitempty"`
	RequestMirror          *MirrorFilter   `json:"requestMirror,omitempty"`
	RequestRedirect        *RedirectFilter `json:"requestRedirect,omitempty"`
	URLRewrite             *RewriteFilter  `json:"urlRewrite,omitempty"`
}

// HeaderFilter changes header fields.
type HeaderFilter struct {
	Set    []NamedValue `json:"set,omitempty"`
	Add    []NamedValue `json:"add,omitempty"`
	Remove []string     `json:"remove,omitempty"`
}

// NamedValue is a header field.
type NamedValue struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// MirrorFilter copies requests.
type MirrorFilter struct {
	BackendRef Reference `json:"backendRef"`
	Percent    *int      `json:"percent,omitempty"`
	Fraction   *struct {
		Numerator   int  `json:"numerator"`
		Denominator *int `json:"denominator,omitempty"`
	} `json:"fraction,omitempty"`
}

// RedirectFilter sends the client elsewhere.
type RedirectFilter struct {
	Scheme     *string       `json:"scheme,omitempty"`
	Hostname   *string       `json:"hostname,omitempty"`
	Path       *PathModifier `json:"path,omitempty"`
	Port       *int          `json:"port,omitempty"`
	StatusCode *int          `json:"statusCode,omitempty"`
}

// RewriteFilter changes what the backend sees.
type RewriteFilter struct {
	Hostname *string       `json:"hostname,omitempty"`
	Path     *PathModifier `json:"path,omitempty"`
}

// PathModifier replaces the path or the prefix that was matched.
type PathModifier struct {
	Type               string  `json:"type"`
	ReplaceFullPath    *string `json:"replaceFullPath,omitempty"`
	ReplacePrefixMatch *string `json:"replacePrefixMatch,omitempty"`
}

// Reference names an object, of the own namespace unless it says otherwise.
type Reference struct {
	Group     *string `json:"group,omitempty"`
	Kind      *string `json:"kind,omitempty"`
	Namespace *string `json:"namespace,omitempty"`
	Name      string  `json:"name"`
	Port      *int    `json:"port,omitempty"`
}

// BackendRef is a reference with its share of the requests.
type BackendRef struct {
	Reference
	Weight  *int              `json:"weight,omitempty"` // 1 when absent
	Filters []json.RawMessage `json:"filters,omitempty"`
}

// RouteStatus is what became of a route at each of its parents, those of other
// controllers included.
type RouteStatus struct {
	Parents []ParentStatus `json:"parents"`
}

// ParentStatus is what became of a route at one parent.
type ParentStatus struct {
	ParentRef      ParentRef   `json:"parentRef"`
	ControllerName string      `json:"controllerName"`
	Conditions     []Condition `json:"conditions"`
}

// ReferenceGrant allows references from other namespaces.
type ReferenceGrant struct {
	Object
	Spec struct {
		From []struct {
			Group     string `json:"group"`
			Kind      string `json:"kind"`
			Namespace string `json:"namespace"`
		} `json:"from"`
		To []struct {
			Group string  `json:"group"`
			Kind  string  `json:"kind"`
			Name  *string `json:"name,omitempty"`
		} `json:"to"`
	} `json:"spec"`
}
